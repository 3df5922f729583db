//! Kernel destinations: a table and a prefix without host bits.
//!
//! Owns what one kernel route is found by. Must never know who wants the route.

use std::fmt;

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
