//! One rule: what it is about, and whether a route is that.
//!
//! Owns the conditions and their canonical text. Must never read text: `text` does.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::types::{Destination, NextHopType, Route, Vni};

/// What a rule does with a route that it is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Action {
    Permit,
    Deny,
}

/// A line of the file. A list without entries was not given: any value will do. Entries are sorted, none stands twice.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rule {
    pub(super) action: Action,
    pub(super) peers: Vec<Net>,
    pub(super) vnis: Vec<VniRange>,
    pub(super) target_vnis: Vec<TargetVnis>,
    pub(super) destinations: Vec<Destinations>,
    pub(super) next_hops: Vec<NextHops>,
    pub(super) types: Vec<NextHopType>,
}

/// A network, or a single address; without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Net(pub(super) IpNet);

/// VNIs from the first to the last. Those of a list neither overlap nor touch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct VniRange {
    pub(super) first: u32,
    pub(super) last: u32,
}

/// VNIs that packets may come out in at the next hop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum TargetVnis {
    /// The route's own.
    Own,
    Range(VniRange),
}

/// Destinations within a prefix whose lengths are in a range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Destinations {
    pub(super) within: Net,
    pub(super) length_min: u8,
    pub(super) length_max: u8,
}

/// Next hops.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum NextHops {
    /// The peer's own address.
    Own,
    Within(Net),
}

impl Rule {
    /// Whether it is about this route of this peer.
    pub(super) fn matches(&self, peer: IpAddr, vni: Vni, route: &Route) -> bool {
        self.is_about(peer) && self.matches_of(peer, vni, route)
    }

    /// Whether it is about routes of this peer.
    pub(super) fn is_about(&self, peer: IpAddr) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|net| net.0.contains(&peer))
    }

    /// The same as [`Rule::matches`], for a peer that it is about.
    pub(super) fn matches_of(&self, peer: IpAddr, vni: Vni, route: &Route) -> bool {
        let Route { destination, next_hop } = route;
        let target = if next_hop.vni == Vni(0) { vni } else { next_hop.vni };
        (self.vnis.is_empty() || contain(&self.vnis, vni))
            && any(&self.types, |kind| *kind == next_hop.kind)
            && any(&self.target_vnis, |targets| match targets {
                TargetVnis::Own => target == vni,
                TargetVnis::Range(range) => range.contains(target),
            })
            && any(&self.destinations, |destinations| destinations.contain(destination))
            && any(&self.next_hops, |hops| match hops {
                NextHops::Own => next_hop.address == peer,
                NextHops::Within(net) => net.0.contains(&next_hop.address),
            })
    }

    /// The only VNI that it is about, if there is one.
    pub(super) fn only_vni(&self) -> Option<Vni> {
        match self.vnis[..] {
            [VniRange { first, last }] if first == last => Some(Vni(first)),
            _ => None,
        }
    }
}

/// Whether an entry will do; if there is none, anything will.
fn any<T>(entries: &[T], will_do: impl FnMut(&T) -> bool) -> bool {
    entries.is_empty() || entries.iter().any(will_do)
}

/// Of ranges in order that do not overlap.
fn contain(ranges: &[VniRange], vni: Vni) -> bool {
    let behind = ranges.partition_point(|range| range.first <= vni.0);
    behind > 0 && ranges[behind - 1].contains(vni)
}

impl VniRange {
    fn contains(self, vni: Vni) -> bool {
        (self.first..=self.last).contains(&vni.0)
    }
}

impl Destinations {
    /// Host bits of the destination do not count: they do not in the kernel.
    fn contain(&self, destination: &Destination) -> bool {
        let is_long = (self.length_min..=self.length_max).contains(&destination.length);
        // No length is less than the network's own, so its first address says it all.
        is_long && self.within.0.contains(&destination.prefix)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.action {
            Action::Permit => "permit",
            Action::Deny => "deny",
        })?;
        write_list(f, "peer", &self.peers)?;
        write_list(f, "vni", &self.vnis)?;
        write_list(f, "target-vni", &self.target_vnis)?;
        write_list(f, "destination", &self.destinations)?;
        write_list(f, "next-hop", &self.next_hops)?;
        write_list(f, "type", self.types.iter().map(|kind| TypeText(*kind)))
    }
}

fn write_list(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    entries: impl IntoIterator<Item = impl fmt::Display>,
) -> fmt::Result {
    for (index, entry) in entries.into_iter().enumerate() {
        match index {
            0 => write!(f, " {word} {entry}")?,
            _ => write!(f, ",{entry}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() == self.0.max_prefix_len() {
            true => self.0.addr().fmt(f),
            false => self.0.fmt(f),
        }
    }
}

impl fmt::Display for VniRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => self.first.fmt(f),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl fmt::Display for TargetVnis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetVnis::Own => f.write_str("own"),
            TargetVnis::Range(range) => range.fmt(f),
        }
    }
}

impl fmt::Display for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Destinations { within, length_min, length_max } = self;
        let (own, longest) = (within.0.prefix_len(), within.0.max_prefix_len());
        if (*length_min, *length_max) == (own, longest) {
            return within.fmt(f);
        }
        write!(f, "{}{{{length_min}", within.0)?;
        if length_min != length_max {
            write!(f, "-{length_max}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Display for NextHops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHops::Own => f.write_str("own"),
            NextHops::Within(net) => net.fmt(f),
        }
    }
}

/// The type in the words of the file.
struct TypeText(NextHopType);

impl fmt::Display for TypeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TYPES.iter().find(|(_, kind)| *kind == self.0) {
            Some((word, _)) => f.write_str(word),
            None => self.0.0.fmt(f),
        }
    }
}

/// The types that have a word; the first word of a type is the one that is written.
pub(super) const TYPES: [(&str, NextHopType); 4] = [
    ("standard", NextHopType::STANDARD),
    ("std", NextHopType::STANDARD),
    ("nat", NextHopType::NAT),
    ("lb", NextHopType::LOAD_BALANCER_TARGET),
];
