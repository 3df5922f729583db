//! What a peer's next hops have to do with its own address.
//!
//! Owns the words of `--nexthop-policy` and what they mean. Must never know of rules.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

/// Which next hops a peer may announce (`--nexthop-policy`).
///
/// A next hop of the other IP version is never a peer's own, nor is an IPv4-mapped IPv6 next hop that of an IPv4 peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NextHopPolicy {
    /// Any.
    #[default]
    Any,
    /// Its own address: the one that it connects from.
    OwnAddress,
    /// What has this many leading bits in common with its own address: 1..=128. In IPv4 more than 32 are as good as 32.
    OwnPrefix(u8),
}

/// A text that is no [`NextHopPolicy`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum NextHopPolicyError {
    /// No word of those.
    #[error("none of its words")]
    Word,
    /// Bits that no prefix has.
    #[error("a prefix has from 1 to 128 bits")]
    Length,
}

impl NextHopPolicy {
    /// Whether a peer with this address may announce this next hop.
    pub(super) fn permits(self, peer: IpAddr, next_hop: IpAddr) -> bool {
        match self {
            NextHopPolicy::Any => true,
            NextHopPolicy::OwnAddress => peer == next_hop,
            NextHopPolicy::OwnPrefix(bits) => {
                let bits = bits.min(IpNet::from(peer).max_prefix_len());
                // Of another IP version it contains nothing.
                IpNet::new(peer, bits).is_ok_and(|own| own.contains(&next_hop))
            }
        }
    }
}

impl FromStr for NextHopPolicy {
    type Err = NextHopPolicyError;

    /// `any`, `own-address` or `own-prefix/LEN`.
    fn from_str(text: &str) -> Result<NextHopPolicy, NextHopPolicyError> {
        match text {
            "any" => return Ok(NextHopPolicy::Any),
            "own-address" => return Ok(NextHopPolicy::OwnAddress),
            _ => {}
        }
        let bits = text.strip_prefix("own-prefix/").ok_or(NextHopPolicyError::Word)?;
        let is_number = bits.bytes().all(|byte| byte.is_ascii_digit());
        match bits.parse() {
            Ok(bits @ 1..=128) if is_number => Ok(NextHopPolicy::OwnPrefix(bits)),
            _ => Err(NextHopPolicyError::Length),
        }
    }
}

impl fmt::Display for NextHopPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHopPolicy::Any => f.write_str("any"),
            NextHopPolicy::OwnAddress => f.write_str("own-address"),
            NextHopPolicy::OwnPrefix(bits) => write!(f, "own-prefix/{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_is_of_the_same_ip_version() {
        for (policy, peer, next_hop, permits) in [
            ("any", "10.0.0.1", "2001:db8::1", true),
            ("own-address", "10.0.0.1", "10.0.0.1", true),
            ("own-address", "10.0.0.1", "10.0.0.2", false),
            ("own-address", "10.0.0.1", "::ffff:10.0.0.1", false),
            ("own-address", "2001:db8::1", "2001:db8::1", true),
            ("own-prefix/64", "2001:db8::1", "2001:db8::ffff:0:0:7", true),
            ("own-prefix/64", "2001:db8::1", "2001:db8:0:1::1", false),
            ("own-prefix/128", "2001:db8::1", "2001:db8::1", true),
            ("own-prefix/127", "2001:db8::1", "2001:db8::", true),
            ("own-prefix/127", "2001:db8::1", "2001:db8::2", false),
            // As good as 32 in IPv4.
            ("own-prefix/64", "10.0.0.1", "10.0.0.1", true),
            ("own-prefix/64", "10.0.0.1", "10.0.0.0", false),
            ("own-prefix/24", "10.0.0.1", "10.0.0.255", true),
            ("own-prefix/24", "10.0.0.1", "10.0.1.1", false),
            ("own-prefix/1", "10.0.0.1", "::", false),
            ("own-prefix/1", "::1", "0.0.0.0", false),
        ] {
            let policy: NextHopPolicy = policy.parse().unwrap();
            let permitted = policy.permits(peer.parse().unwrap(), next_hop.parse().unwrap());
            assert_eq!(permitted, permits, "{policy}: {peer} says {next_hop}");
        }
    }

    #[test]
    fn words() {
        for text in ["any", "own-address", "own-prefix/1", "own-prefix/64", "own-prefix/128"] {
            assert_eq!(text.parse::<NextHopPolicy>().unwrap().to_string(), text);
        }
        for text in ["own-prefix/0", "own-prefix/129", "own-prefix/+8", "own-prefix/"] {
            assert_eq!(text.parse::<NextHopPolicy>(), Err(NextHopPolicyError::Length), "{text}");
        }
        for text in ["", "own", "Any", "own-prefix", "own-prefix64", "own-prefix/8/8 "] {
            assert!(text.parse::<NextHopPolicy>().is_err(), "{text}");
        }
    }
}
