//! Records: who announces a route at one reflector, as bytes; and why one does not count.
//!
//! Owns the format of values, and the hash of records. Must never take what it would write otherwise: two spellings
//! would be two values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;
use twox_hash::XxHash3_64;

use crate::types::{Announcers, Behind};

/// The first byte of a value: its version.
const VERSION: u8 = 1;

/// How the announcers of one class are told.
mod tags {
    pub(super) const NOBODY: u8 = 0;
    pub(super) const ONE_IPV4: u8 = 1;
    pub(super) const ONE_IPV6: u8 = 2;
    pub(super) const MANY: u8 = 3;
}

/// Bytes of the longest value.
pub(super) const VALUE_BYTES_MAX: usize = 1 + 2 * (1 + 16);

/// Why a record does not count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dropped {
    /// Its subject is neither a route's nor a lease's.
    Subject,
    /// The VNI in its subject is not 1 to 8 lower case hexadecimal digits, without zeros in front.
    Vni,
    /// The reflector in its subject has a name that none has.
    Name,
    /// The key in its subject is not base64url of a canonical ADD of this VNI.
    Key,
    /// Its value is of a version that we do not know.
    Version,
    /// Its value is none.
    Value,
    /// Its lease is none.
    Lease,
    /// There are too many reflectors.
    Reflectors,
    /// There are too many routes (`--fabric-routes-max`).
    Routes,
    /// Its reflector has no lease, so its records do not count.
    Dead,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Dropped; 10] = [
        Dropped::Subject,
        Dropped::Vni,
        Dropped::Name,
        Dropped::Key,
        Dropped::Version,
        Dropped::Value,
        Dropped::Lease,
        Dropped::Reflectors,
        Dropped::Routes,
        Dropped::Dead,
    ];
}

/// The value of a record: its version, who is behind the clients, who is behind the servers. Empty if nobody is: that is
/// a tombstone.
pub fn encode_announcers(by: &Announcers) -> SmallVec<[u8; VALUE_BYTES_MAX]> {
    let mut value = SmallVec::new();
    if by.is_nobody() {
        return value;
    }
    value.push(VERSION);
    for behind in [by.clients, by.servers] {
        match behind {
            Behind::Nobody => value.push(tags::NOBODY),
            Behind::Many => value.push(tags::MANY),
            Behind::One(IpAddr::V4(address)) => {
                value.push(tags::ONE_IPV4);
                value.extend_from_slice(&address.octets());
            }
            Behind::One(IpAddr::V6(address)) => {
                value.push(tags::ONE_IPV6);
                value.extend_from_slice(&address.octets());
            }
        }
    }
    value
}

/// Reads the value of a record; an empty one is nobody.
///
/// # Errors
/// [`Dropped::Version`] and [`Dropped::Value`].
pub fn decode_announcers(value: &[u8]) -> Result<Announcers, Dropped> {
    let Some((&version, rest)) = value.split_first() else {
        return Ok(Announcers::default());
    };
    if version != VERSION {
        return Err(Dropped::Version);
    }
    let (clients, rest) = behind(rest).ok_or(Dropped::Value)?;
    let (servers, rest) = behind(rest).ok_or(Dropped::Value)?;
    let by = Announcers { clients, servers };
    // Nobody is written without a byte.
    if rest.is_empty() && !by.is_nobody() { Ok(by) } else { Err(Dropped::Value) }
}

fn behind(bytes: &[u8]) -> Option<(Behind, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    match tag {
        tags::NOBODY => Some((Behind::Nobody, rest)),
        tags::MANY => Some((Behind::Many, rest)),
        tags::ONE_IPV4 => {
            let (octets, rest) = rest.split_first_chunk::<4>()?;
            Some((Behind::One(Ipv4Addr::from(*octets).into()), rest))
        }
        tags::ONE_IPV6 => {
            let (octets, rest) = rest.split_first_chunk::<16>()?;
            let address = Ipv6Addr::from(*octets);
            // A v4-mapped one stands as IPv4.
            address.to_ipv4_mapped().is_none().then_some((Behind::One(address.into()), rest))
        }
        _ => None,
    }
}

/// What digests are sums of: XXH3-64 with seed 0 over the subject, a zero byte, and the value.
pub fn record_hash(subject: &str, value: &[u8]) -> u64 {
    let mut bytes = SmallVec::<[u8; 320]>::new();
    bytes.extend_from_slice(subject.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(value);
    XxHash3_64::oneshot(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_behind() -> impl Strategy<Value = Behind> {
        prop_oneof![
            Just(Behind::Nobody),
            Just(Behind::Many),
            any::<Ipv4Addr>().prop_map(|address| Behind::One(address.into())),
            any::<Ipv6Addr>().prop_map(|address| Behind::One(IpAddr::V6(address).to_canonical())),
        ]
    }

    proptest! {
        #[test]
        fn announcers_come_back((clients, servers) in (any_behind(), any_behind())) {
            let by = Announcers { clients, servers };
            let value = encode_announcers(&by);
            prop_assert!(value.len() <= VALUE_BYTES_MAX);
            prop_assert_eq!(decode_announcers(&value), Ok(by));
            for cut in 1..value.len() {
                prop_assert_eq!(decode_announcers(&value[..cut]), Err(Dropped::Value));
            }
        }

        #[test]
        fn what_is_read_would_be_written_so(value in proptest::collection::vec(0..5u8, 0..40)) {
            if let Ok(by) = decode_announcers(&value) {
                prop_assert_eq!(&encode_announcers(&by)[..], &value[..]);
            }
        }
    }

    #[test]
    fn bytes_are_those_of_the_design() {
        let by = Announcers { clients: Behind::One([10, 0, 0, 7].into()), servers: Behind::Many };
        assert_eq!(&encode_announcers(&by)[..], [1, 1, 10, 0, 0, 7, 3]);
        assert!(encode_announcers(&Announcers::default()).is_empty());
    }

    #[test]
    fn other_spellings_are_refused() {
        let mapped = [&[1, 2][..], &[0; 10], &[0xff, 0xff, 10, 0, 0, 7], &[0]].concat();
        let values: [(&[u8], Dropped); 7] = [
            (&[2, 3, 3], Dropped::Version),
            (&[0, 3, 3], Dropped::Version),
            (&[1, 0, 0], Dropped::Value),
            (&[1, 3], Dropped::Value),
            (&[1, 3, 3, 0], Dropped::Value),
            (&[1, 4, 3], Dropped::Value),
            (&mapped, Dropped::Value),
        ];
        for (value, reason) in values {
            assert_eq!(decode_announcers(value), Err(reason), "{value:?}");
        }
    }

    #[test]
    fn the_hash_is_a_published_one() {
        // By the reference implementation (xxhsum -H3) of the bytes "mb.f.l.a\0" and 01 03 00.
        assert_eq!(record_hash("mb.f.l.a", &[1, 3, 0]), 0xa9bc_4e86_4a74_2147);
        assert_ne!(record_hash("mb.f.l.a", &[]), record_hash("mb.f.l.a\0", &[]));
    }
}
