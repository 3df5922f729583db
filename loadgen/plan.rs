//! Who is in which VNI, and which routes everybody announces: the shape of a run.
//!
//! Owns the sizes, and gives each route a number of its own: that of its bit. Must never know what is
//! announced at the moment.

use std::ops::Range;
use std::sync::Arc;

use metalbond_uring::types::{Route, Vni};

use crate::homes::{Fleet, Homes, Side};
use crate::route;

/// Some peers.
pub type PeerSet = Arc<[u32]>;

/// The shape of a run. Peers, VNIs and routes are numbers from 0.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The VNI on the wire of VNI 0.
    pub vni_base: u32,
    /// All VNIs.
    pub vnis: Vec<VniPlan>,
    /// All peers.
    pub peers: Vec<PeerPlan>,
}

/// One VNI.
#[derive(Clone, Debug, Default)]
pub struct VniPlan {
    /// The bit of its first route; a multiple of 64.
    pub first_bit: usize,
    /// How many routes each of its announcers has.
    pub routes_each: u32,
    /// Its announcers, in the order of their routes.
    pub announcers: Vec<u32>,
    /// How many connections subscribe to it: a dual-homed peer has two.
    pub subscribers: u32,
    /// How many of them are announcers' own.
    pub announcing_subscribers: u32,
}

/// One peer.
#[derive(Clone, Debug, Default)]
pub struct PeerPlan {
    /// Where it announces: the VNI, and its place among the announcers there.
    pub announces: Vec<(u32, u32)>,
    /// The VNIs that it subscribes to, ascending.
    pub subscribes: Vec<u32>,
    /// The servers that it is connected to. At each it announces and subscribes to all it has.
    pub homes: Homes,
}

impl VniPlan {
    /// Routes of all announcers.
    pub fn routes(&self) -> u32 {
        self.routes_each * self.announcers.len() as u32
    }

    /// Words of a bitmap of its routes.
    pub fn words(&self) -> usize {
        (self.routes() as usize).div_ceil(64)
    }

    /// The numbers of an announcer's routes.
    pub fn routes_at(&self, place: u32) -> Range<u32> {
        place * self.routes_each..(place + 1) * self.routes_each
    }

    /// Who announces a route.
    pub fn announcer_of(&self, number: u32) -> u32 {
        self.announcers[(number / self.routes_each) as usize]
    }

    /// A route.
    pub fn route(&self, number: u32) -> Route {
        route::route(self.announcer_of(number), number)
    }
}

impl Plan {
    /// Peers without VNIs.
    pub fn new(vni_base: u32, peers: u32, vnis: u32, routes_each: u32) -> Plan {
        let vni = VniPlan { routes_each, ..VniPlan::default() };
        Plan {
            vni_base,
            vnis: vec![vni; vnis as usize],
            peers: vec![PeerPlan::default(); peers as usize],
        }
    }

    /// Lets a peer announce routes in a VNI.
    pub fn announce(&mut self, peer: u32, vni: u32) {
        let announcers = &mut self.vnis[vni as usize].announcers;
        self.peers[peer as usize].announces.push((vni, announcers.len() as u32));
        announcers.push(peer);
    }

    /// Lets a peer subscribe to a VNI.
    pub fn subscribe(&mut self, peer: u32, vni: u32) {
        self.peers[peer as usize].subscribes.push(vni);
    }

    /// Spreads the peers over servers; `side` says where a peer may begin.
    #[must_use]
    pub fn spread(mut self, fleet: Fleet, side: impl Fn(&PeerPlan) -> Side) -> Plan {
        let sides: Vec<Side> = self.peers.iter().map(side).collect();
        for (peer, homes) in self.peers.iter_mut().zip(fleet.homes(&sides)) {
            peer.homes = homes;
        }
        self
    }

    /// To be called after the last change: numbers the bits and counts.
    #[must_use]
    pub fn finish(mut self) -> Plan {
        let mut first_bit = 0;
        for vni in &mut self.vnis {
            vni.first_bit = first_bit;
            first_bit += vni.words() * 64;
        }
        for (peer, plan) in self.peers.iter_mut().enumerate() {
            plan.subscribes.sort_unstable();
            for &vni in &plan.subscribes {
                let vni = &mut self.vnis[vni as usize];
                let connections = plan.homes.count();
                vni.subscribers += connections;
                if vni.announcers.contains(&(peer as u32)) {
                    vni.announcing_subscribers += connections;
                }
            }
        }
        self
    }

    /// The VNI on the wire.
    pub fn vni(&self, vni: u32) -> Vni {
        Vni(self.vni_base + vni)
    }

    /// Words of a bitmap of all routes.
    pub fn words(&self) -> usize {
        self.vnis.last().map_or(0, |vni| vni.first_bit / 64 + vni.words())
    }

    /// How many routes a peer announces.
    pub fn routes_of(&self, peer: u32) -> u64 {
        let announces = &self.peers[peer as usize].announces;
        announces.iter().map(|&(vni, _)| u64::from(self.vnis[vni as usize].routes_each)).sum()
    }

    /// The bits of all routes that a peer announces.
    pub fn bits_of(&self, peer: u32) -> impl Iterator<Item = usize> {
        self.peers[peer as usize].announces.iter().flat_map(|&(vni, place)| {
            let vni = &self.vnis[vni as usize];
            vni.routes_at(place).map(|number| vni.first_bit + number as usize)
        })
    }

    /// How many connections some peers have.
    pub fn connections(&self, peers: &[u32]) -> u64 {
        let count = |&peer: &u32| u64::from(self.peers[peer as usize].homes.count());
        peers.iter().map(count).sum()
    }

    /// How many connections get an update of a peer's route in a VNI.
    pub fn receivers(&self, peer: u32, vni: u32) -> u64 {
        let subscribes = self.peers[peer as usize].subscribes.binary_search(&vni).is_ok();
        let own = if subscribes { self.connections(&[peer]) } else { 0 };
        u64::from(self.vnis[vni as usize].subscribers) - own
    }

    /// How many deliveries it takes until all have all routes.
    pub fn deliveries(&self) -> u64 {
        self.vnis
            .iter()
            .map(|vni| {
                u64::from(vni.routes()) * u64::from(vni.subscribers)
                    - u64::from(vni.routes_each) * u64::from(vni.announcing_subscribers)
            })
            .sum()
    }

    /// How many deliveries it takes until these peers' routes are with all others but `without`, or gone
    /// from them. Both ascend. `count` says how many routes a peer has in one of its VNIs, given the
    /// first of them and how many it may have.
    pub fn deliveries_of(
        &self,
        peers: &[u32],
        without: &[u32],
        count: impl Fn(usize, u64) -> u64,
    ) -> u64 {
        let mut absent = vec![0u64; self.vnis.len()];
        for &peer in without {
            for &vni in &self.peers[peer as usize].subscribes {
                absent[vni as usize] += self.connections(&[peer]);
            }
        }
        let mut sum = 0;
        for &peer in peers {
            let plan = &self.peers[peer as usize];
            for &(vni, place) in &plan.announces {
                let routes = &self.vnis[vni as usize];
                // It is not among its own receivers, so it cannot be absent from them.
                let absent_itself =
                    plan.subscribes.contains(&vni) && without.binary_search(&peer).is_ok();
                let own = if absent_itself { self.connections(&[peer]) } else { 0 };
                let receivers = self.receivers(peer, vni) + own - absent[vni as usize];
                let first = routes.first_bit + routes.routes_at(place).start as usize;
                sum += receivers * count(first, u64::from(routes.routes_each));
            }
        }
        sum
    }

    /// Bytes that the bitmaps of all peers' views take.
    pub fn view_bytes(&self) -> u64 {
        self.vnis.iter().map(|vni| u64::from(vni.subscribers) * vni.words() as u64 * 8).sum()
    }
}

/// The VNIs of a peer where each peer is in `each` of `vnis` of them, spread evenly.
pub fn spread(peer: u32, vnis: u32, each: u32) -> impl Iterator<Item = u32> {
    let step = (vnis / each).max(1);
    (0..each.min(vnis)).map(move |n| (peer + n * step) % vnis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> Plan {
        let mut plan = Plan::new(100, 12, 4, 70);
        for peer in 0..12 {
            for vni in spread(peer, 4, 2) {
                plan.announce(peer, vni);
                plan.subscribe(peer, vni);
            }
        }
        plan.finish()
    }

    #[test]
    fn every_route_has_a_bit_and_an_announcer() {
        let plan = mesh();
        assert_eq!(plan.vnis[1].first_bit, 448);
        assert_eq!(plan.words(), 4 * 7);
        for (peer, it) in plan.peers.iter().enumerate() {
            assert_eq!(plan.routes_of(peer as u32), 140);
            for &(vni, place) in &it.announces {
                let vni = &plan.vnis[vni as usize];
                assert!(vni.routes_at(place).all(|route| vni.announcer_of(route) == peer as u32));
            }
        }
    }

    #[test]
    fn deliveries_are_counted_both_ways() {
        let plan = mesh();
        // 6 members a VNI, 70 routes each, to the 5 others.
        assert_eq!(plan.deliveries(), 4 * 6 * 70 * 5);
        let all: Vec<u32> = (0..12).collect();
        let each = |_, routes_each| routes_each;
        assert_eq!(plan.deliveries_of(&all, &[], each), plan.deliveries());
        // Peer 0 is gone: its routes go from five others in each of its two VNIs.
        assert_eq!(plan.deliveries_of(&[0], &[0], each), 2 * 70 * 5);
        // Peer 4 shares both VNIs with it.
        assert_eq!(plan.deliveries_of(&[0, 4], &[0, 4], each), 2 * 2 * 70 * 4);
    }

    /// What a dual-homed peer is to be told, it is told twice; its own routes not at all.
    #[test]
    fn connections_are_counted_not_peers() {
        let mut plan = Plan::new(100, 12, 4, 70);
        for peer in 0..12 {
            for vni in spread(peer, 4, 2) {
                plan.announce(peer, vni);
                plan.subscribe(peer, vni);
            }
        }
        let fleet = Fleet { targets: 3, dual: 12 };
        let plan = plan.spread(fleet, |_| Side::Any).finish();
        let all: Vec<u32> = (0..12).collect();
        assert_eq!(plan.connections(&all), 24);
        assert_eq!(plan.deliveries(), 2 * mesh().deliveries());
        let each = |_, routes_each| routes_each;
        assert_eq!(plan.deliveries_of(&all, &[], each), plan.deliveries());
        assert_eq!(plan.deliveries_of(&[0, 4], &[0, 4], each), 2 * 2 * 2 * 70 * 4);
        assert_eq!(plan.receivers(0, 0), 10);
    }

    #[test]
    fn vnis_of_a_peer_differ() {
        for (vnis, each) in [(1, 1), (4, 4), (100, 4), (7, 3), (2, 5)] {
            for peer in 0..200 {
                let mut chosen: Vec<u32> = spread(peer, vnis, each).collect();
                chosen.sort_unstable();
                chosen.dedup();
                assert_eq!(chosen.len() as u32, each.min(vnis));
            }
        }
    }
}
