//! Which rules may be about a peer's routes, without looking at all of them.
//!
//! Owns the order in which rules are looked at. Must find exactly what a walk over all rules finds: the first that is
//! about the route.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::rule::Rule;
use crate::types::{Route, Vni};

/// The rules in their order, and where to find those of a peer and a VNI.
#[derive(Debug, Default)]
pub(super) struct Index {
    rules: Vec<Rule>,
    /// The bucket of each network that a rule names as peers.
    by_net: BTreeMap<IpNet, u32>,
    /// The lengths of those networks, of IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
    /// The first one is for rules that are about all peers.
    buckets: Vec<Bucket>,
}

/// Rules that are about the same peers: their places among all, in order.
#[derive(Debug, Default)]
struct Bucket {
    /// Those that are about one VNI only: there may be one for each of thousands.
    by_vni: BTreeMap<Vni, Vec<u32>>,
    others: Vec<u32>,
}

/// The buckets of a peer: few, as its address lies in few networks that the rules name.
pub(super) type Buckets = SmallVec<[u32; 4]>;

impl Index {
    pub(super) fn new(rules: Vec<Rule>) -> Index {
        let mut index = Index { buckets: vec![Bucket::default()], ..Index::default() };
        for (place, rule) in (0..).zip(&rules) {
            let only_vni = rule.only_vni();
            if rule.peers.is_empty() {
                index.buckets[0].add(only_vni, place);
            }
            for net in &rule.peers {
                let bucket = index.bucket_of(net.0);
                index.buckets[bucket].add(only_vni, place);
            }
        }
        for lengths in &mut index.lengths {
            lengths.sort_unstable();
            lengths.dedup();
        }
        index.rules = rules;
        index
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The buckets whose rules are about routes of this peer.
    pub(super) fn buckets_of(&self, peer: IpAddr) -> Buckets {
        let lengths = &self.lengths[usize::from(peer.is_ipv6())];
        let nets =
            lengths.iter().filter_map(|length| Some(IpNet::new(peer, *length).ok()?.trunc()));
        let buckets = nets.filter_map(|net| self.by_net.get(&net).copied());
        std::iter::once(0).chain(buckets).collect()
    }

    /// The place of the first rule that is about this route of this peer, whose buckets these are.
    pub(super) fn first(
        &self,
        buckets: &Buckets,
        peer: IpAddr,
        vni: Vni,
        route: &Route,
    ) -> Option<usize> {
        let mut first = u32::MAX;
        for bucket in buckets {
            let bucket = &self.buckets[*bucket as usize];
            let of_vni = bucket.by_vni.get(&vni).map_or(&[][..], Vec::as_slice);
            for places in [of_vni, &bucket.others] {
                // What comes behind the first of another list need not be looked at.
                let before = places.iter().take_while(|place| **place < first);
                let is_it =
                    |place: &&u32| self.rules[**place as usize].matches_of(peer, vni, route);
                first = before.copied().find(|place| is_it(&place)).unwrap_or(first);
            }
        }
        (first != u32::MAX).then_some(first as usize)
    }

    /// How many rules one question may take.
    #[cfg(test)]
    pub(super) fn looked_at(&self, buckets: &Buckets, vni: Vni) -> usize {
        let count = |bucket: &u32| {
            let Bucket { by_vni, others } = &self.buckets[*bucket as usize];
            by_vni.get(&vni).map_or(0, Vec::len) + others.len()
        };
        buckets.iter().map(count).sum()
    }

    fn bucket_of(&mut self, net: IpNet) -> usize {
        let next = u32::try_from(self.buckets.len()).expect("a file is too short for so many");
        let bucket = *self.by_net.entry(net).or_insert(next);
        if bucket == next {
            self.buckets.push(Bucket::default());
            self.lengths[usize::from(net.addr().is_ipv6())].push(net.prefix_len());
        }
        bucket as usize
    }
}

impl Bucket {
    fn add(&mut self, only_vni: Option<Vni>, place: u32) {
        let places = match only_vni {
            Some(vni) => self.by_vni.entry(vni).or_default(),
            None => &mut self.others,
        };
        places.push(place);
    }
}
