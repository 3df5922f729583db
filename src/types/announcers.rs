//! Who announces a route at one reflector, as reflectors tell each other.
//!
//! Owns plain values. Must never say which connection that is: another reflector has no use for it.

use std::net::IpAddr;

/// Who is behind the sources of one class.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Behind {
    /// There is no such source.
    #[default]
    Nobody,
    /// All of them speak for the host with this address. A v4-mapped one stands as IPv4.
    One(IpAddr),
    /// More than one host, or one that cannot be told from others.
    Many,
}

/// Who announces a route at one reflector, by class.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Announcers {
    /// Clients, and the node itself.
    pub clients: Behind,
    /// Declared servers.
    pub servers: Behind,
}

impl Announcers {
    /// Whether the route is not there.
    pub fn is_nobody(&self) -> bool {
        *self == Announcers::default()
    }
}

impl Behind {
    /// All of these and one more.
    #[must_use]
    pub fn and(self, other: Behind) -> Behind {
        match (self, other) {
            (Behind::Nobody, one) | (one, Behind::Nobody) => one,
            (Behind::One(one), Behind::One(other)) if one == other => self,
            _ => Behind::Many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_one_is_one_only_if_it_is_the_same() {
        let [a, b] = [1, 2].map(|last| Behind::One([10, 0, 0, last].into()));
        for one in [Behind::Nobody, a, b, Behind::Many] {
            assert_eq!(one.and(Behind::Nobody), one);
            assert_eq!(Behind::Nobody.and(one), one);
            assert_eq!(one.and(one), one);
        }
        assert_eq!(a.and(b), Behind::Many);
        assert_eq!(a.and(Behind::Many), Behind::Many);
    }
}
