//! What tables are compared by: 64 bits that do not depend on the order in which routes came.
//!
//! Owns the bytes that are hashed, and how. Must never change either: reflectors of other versions, and other
//! programs, compare theirs with ours.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use twox_hash::XxHash3_64;

use super::{ParseError, Route, Vni};

/// Bytes that stand for a route.
const CANONICAL_BYTES: usize = 48;

/// The sum (modulo 2^64) of a hash of each route in a table: XXH3-64 with seed 0, over 48 bytes, integers big endian.
///
/// | bytes | what |
/// |---|---|
/// | 0..16 | the destination's prefix with its host bits; IPv4 in the last 4 bytes, behind zeros |
/// | 16 | its length in bits |
/// | 17, 18 | 4 or 6 for IPv4 or IPv6: of the prefix, of the next hop |
/// | 19 | 0 |
/// | 20..36 | the next hop's address, as the prefix |
/// | 36..40 | the next hop's VNI |
/// | 40..44 | the next hop's type (two's complement) |
/// | 44..46, 46..48 | the first and the last NAT port |
///
/// The VNI itself is not among them: a digest is of one VNI's table. That of no routes is 0. Tables with the same
/// routes have the same digest; those that differ have different ones but for a chance of 2^-64. It shows what differs
/// by accident: who may choose routes can make two tables meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Digest(pub u64);

impl Digest {
    /// The route is there from now on.
    pub fn add(&mut self, route: &Route) {
        self.0 = self.0.wrapping_add(hash(route));
    }

    /// The route is there no more.
    pub fn remove(&mut self, route: &Route) {
        self.0 = self.0.wrapping_sub(hash(route));
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    /// # Errors
    /// If it is not 16 hexadecimal digits.
    fn from_str(text: &str) -> Result<Digest, ParseError> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        value.map(Digest).ok_or_else(|| ParseError::Digest(text.to_owned()))
    }
}

fn hash(route: &Route) -> u64 {
    XxHash3_64::oneshot(&canonical(route))
}

fn canonical(route: &Route) -> [u8; CANONICAL_BYTES] {
    let Route { destination, next_hop } = route;
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 4),
        IpAddr::V6(address) => (address.to_bits(), 6),
    };
    let (prefix, prefix_family) = bits(destination.prefix);
    let (hop, hop_family) = bits(next_hop.address);
    let Vni(hop_vni) = next_hop.vni;
    let mut bytes = [0; CANONICAL_BYTES];
    bytes[..16].copy_from_slice(&prefix.to_be_bytes());
    bytes[16..20].copy_from_slice(&[destination.length, prefix_family, hop_family, 0]);
    bytes[20..36].copy_from_slice(&hop.to_be_bytes());
    bytes[36..40].copy_from_slice(&hop_vni.to_be_bytes());
    bytes[40..44].copy_from_slice(&next_hop.kind.0.to_be_bytes());
    bytes[44..46].copy_from_slice(&next_hop.nat_port_from.to_be_bytes());
    bytes[46..].copy_from_slice(&next_hop.nat_port_to.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NextHop, NextHopType};

    fn route(prefix: &str, hop: &str) -> Route {
        let next_hop = NextHop {
            address: hop.parse().unwrap(),
            vni: Vni(0x0102_0304),
            kind: NextHopType(-2),
            nat_port_from: 0x0506,
            nat_port_to: 0x0708,
        };
        Route { destination: prefix.parse().unwrap(), next_hop }
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let bytes = canonical(&route("10.0.23.0/24", "2001:db8::1"));
        let expected = [
            "0000000000000000000000000a001700",
            "18040600",
            "20010db8000000000000000000000001",
            "01020304fffffffe05060708",
        ];
        assert_eq!(hex::encode(bytes), expected.concat());
    }

    #[test]
    fn the_hash_is_a_published_one() {
        // By the reference implementation (xxhsum -H3) of the bytes above.
        let mut digest = Digest::default();
        digest.add(&route("10.0.23.0/24", "2001:db8::1"));
        assert_eq!(digest.to_string(), "3f768837de166340");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for text in ["", "+123456789abcdef", "123", "0123456789abcdefg", "0123456789abcdeg"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn order_does_not_count_and_what_went_leaves_nothing() {
        let routes = ["10.0.0.0/8", "10.0.0.0/9", "::a00:0/8", "2001:db8::/32"]
            .map(|prefix| route(prefix, "2001:db8::1"));
        let (mut forth, mut back) = (Digest::default(), Digest::default());
        routes.iter().for_each(|route| forth.add(route));
        routes.iter().rev().for_each(|route| back.add(route));
        assert_eq!(forth, back);
        back.remove(&routes[1]);
        assert_ne!(forth, back);
        routes.iter().for_each(|route| forth.remove(route));
        assert_eq!(forth, Digest(0));
    }
}
