//! At which servers each peer is, and from which address it comes.
//!
//! Owns how peers are spread over `--targets`. Must never know what they announce.

use std::net::Ipv4Addr;

/// Servers that one run can load.
pub const TARGETS_MAX: usize = 16;

/// The address before that of peer 0. No other peers come from there: hostile ones have 127.66.0.0/16.
const BEFORE_FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);

/// How many servers there are, and how many peers are at two of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fleet {
    /// Servers.
    pub targets: u16,
    /// Peers that are connected to two servers at once: dual-homed hypervisors.
    pub dual: u32,
}

/// Where a peer may have its first connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// At any server.
    Any,
    /// At the first.
    First,
    /// At any but the first.
    Others,
}

/// The servers of one peer, by their place in `--targets`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Homes {
    /// The first one.
    pub first: u16,
    /// The other one of a dual-homed peer.
    pub second: Option<u16>,
}

impl Homes {
    /// All of them.
    pub fn all(self) -> impl Iterator<Item = u16> {
        std::iter::once(self.first).chain(self.second)
    }

    /// Whether this server is one of them.
    pub fn has(self, home: u16) -> bool {
        self.all().any(|it| it == home)
    }

    /// How many.
    pub fn count(self) -> u32 {
        1 + u32::from(self.second.is_some())
    }
}

impl Fleet {
    /// One server, which has all peers.
    #[cfg(test)]
    pub const ONE: Fleet = Fleet { targets: 1, dual: 0 };

    /// The homes of all peers: each kind goes round its servers. Dual-homed ones lie evenly among the others,
    /// and go round the pairs of servers by themselves.
    pub fn homes(self, sides: &[Side]) -> Vec<Homes> {
        let dual = self.dual_peers(sides.len());
        let (mut turns, mut pairs) = ([0; 3], 0);
        let homes = |(peer, &side): (usize, &Side)| {
            let turn = if dual[peer] { &mut pairs } else { &mut turns[side as usize] };
            *turn += 1;
            let first = self.first(side, *turn - 1);
            Homes { first, second: dual[peer].then(|| self.second(first, *turn - 1)) }
        };
        sides.iter().enumerate().map(homes).collect()
    }

    /// Which peers are dual-homed: one in each of so many parts of the same length.
    fn dual_peers(self, peers: usize) -> Vec<bool> {
        let mut dual = vec![false; peers];
        let parts = if self.targets > 1 { (self.dual as usize).min(peers) } else { 0 };
        for part in 0..parts {
            let (from, to) = (part * peers / parts, (part + 1) * peers / parts);
            dual[from + scrambled(part) % (to - from)] = true;
        }
        dual
    }

    fn first(self, side: Side, turn: usize) -> u16 {
        let targets = usize::from(self.targets.max(1));
        // Each round begins elsewhere: peers that are in the same VNIs often have the same place in it.
        let round = |targets: usize| (turn + scrambled(turn / targets)) % targets;
        let first = match side {
            Side::Any => round(targets),
            Side::First => 0,
            Side::Others if targets == 1 => 0,
            Side::Others => 1 + round(targets - 1),
        };
        first as u16
    }

    fn second(self, first: u16, turn: usize) -> u16 {
        let targets = usize::from(self.targets);
        let away = 1 + turn / targets % (targets - 1);
        ((usize::from(first) + away) % targets) as u16
    }
}

/// A number that has nothing to do with `n`, and is the same in each run.
fn scrambled(n: usize) -> usize {
    ((n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize
}

/// The address of a peer that has one for itself, on the loopback interface.
pub fn source_of(peer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(BEFORE_FIRST.to_bits() + 1 + peer)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn count(homes: &[Homes]) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        homes.iter().flat_map(|it| it.all()).for_each(|home| *counts.entry(home).or_default() += 1);
        counts
    }

    #[test]
    fn peers_go_round_the_servers() {
        let homes = Fleet { targets: 3, dual: 0 }.homes(&[Side::Any; 9]);
        assert_eq!(count(&homes), BTreeMap::from([(0, 3), (1, 3), (2, 3)]));
        assert!(homes.iter().all(|it| it.second.is_none()));
        let homes = Fleet::ONE.homes(&[Side::Any, Side::First, Side::Others]);
        assert_eq!(homes, [Homes::default(); 3]);
    }

    /// Also where the number of servers and the distance of dual-homed peers have a divisor in common.
    #[test]
    fn dual_homed_peers_are_at_all_pairs() {
        for (targets, dual, peers) in [(2, 50, 50), (3, 30, 90), (4, 24, 96), (5, 20, 20)] {
            let homes = Fleet { targets, dual }.homes(&vec![Side::Any; peers]);
            let pairs: Vec<_> =
                homes.iter().filter_map(|it| Some((it.first, it.second?))).collect();
            assert_eq!(pairs.len() as u32, dual);
            assert!(pairs.iter().all(|(first, second)| first != second));
            let unordered: BTreeSet<_> = pairs.iter().map(|&(a, b)| (a.min(b), a.max(b))).collect();
            assert_eq!(unordered.len(), usize::from(targets * (targets - 1) / 2), "{pairs:?}");
            let counts = count(&homes);
            let spread = counts.values().max().unwrap() - counts.values().min().unwrap();
            assert!(counts.len() == usize::from(targets) && spread <= 2, "{counts:?}");
        }
    }

    #[test]
    fn announcers_and_subscribers_may_be_apart() {
        let sides = [[Side::First; 4], [Side::Others; 4]].concat();
        let homes = Fleet { targets: 3, dual: 0 }.homes(&sides);
        assert_eq!(count(&homes[..4]), BTreeMap::from([(0, 4)]));
        assert_eq!(count(&homes[4..]), BTreeMap::from([(1, 2), (2, 2)]));
        let homes = Fleet { targets: 3, dual: 4 }.homes(&sides);
        let dual = |homes: &[Homes]| homes.iter().filter(|it| it.second.is_some()).count();
        assert_eq!((dual(&homes[..4]), dual(&homes[4..])), (2, 2));
    }

    #[test]
    fn no_two_peers_have_one_address() {
        assert_eq!(source_of(0), Ipv4Addr::new(127, 1, 0, 1));
        // As many as a run may have stay clear of the hostile ones.
        assert!(source_of(1_000_000) < Ipv4Addr::new(127, 66, 0, 0));
    }
}
