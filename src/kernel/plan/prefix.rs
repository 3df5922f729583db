//! Kernel destinations: a table and a prefix without host bits.
//!
//! Owns masking. Must never know who wants the route.

use std::fmt;

use ipnet::IpNet;

use crate::types::Destination;

/// An address family of destinations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What one kernel route is found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Prefix {
    /// The routing table, 1..=2^32-1.
    pub table: u32,
    /// The destination; all host bits are 0.
    pub destination: Destination,
}

impl Prefix {
    /// The address family of the destination.
    pub(crate) fn family(&self) -> Family {
        if self.destination.prefix.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} table {}", self.destination, self.table)
    }
}

/// The destination without its host bits; none if its length does not fit its address. Prefixes
/// that differ in host bits only are one kernel route.
pub(super) fn masked(destination: Destination) -> Option<Destination> {
    let net = IpNet::new(destination.prefix, destination.length).ok()?.trunc();
    Some(Destination { prefix: net.addr(), length: net.prefix_len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_masked() {
        for (address, length, expected) in [
            ("10.0.23.7", 24, Some("10.0.23.0")),
            ("10.0.23.7", 32, Some("10.0.23.7")),
            ("10.0.23.7", 0, Some("0.0.0.0")),
            ("10.0.23.7", 33, None),
            ("2001:db8::7", 64, Some("2001:db8::")),
            ("2001:db8::7", 128, Some("2001:db8::7")),
            ("2001:db8::7", 0, Some("::")),
            ("2001:db8::7", 129, None),
        ] {
            let found = masked(Destination { prefix: address.parse().unwrap(), length });
            let prefix = expected.map(|text| text.parse().unwrap());
            assert_eq!(found, prefix.map(|prefix| Destination { prefix, length }), "{address}");
        }
    }
}
