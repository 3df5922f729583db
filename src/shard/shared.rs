//! Addresses that several hosts share: what is announced from there each connection speaks for itself, so that each host
//! sees what the others announce.
//!
//! Owns how that is found out, and the way to it. Must never take two connections of one host for two hosts while one of
//! them may be dead; and only lets peers see more: nobody is told that a route is gone for that.
//!
//! Hosts are told apart by address where several reflectors are one. The shard that an address falls to watches its
//! connections. Two that are both alive for twice the hold time are two hosts: it says so to all shards ([`Delivery::Shared`]).
//! From then on their peers there hear as themselves *and* as the host; and each tells the homes. A home that was told by
//! all no longer takes the peers for one, and says that in the order of its records ([`Delivery::Apart`]): then they ask for
//! the tables again, and hear as themselves alone as soon as they have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Shard;
use super::mail::{Delivery, Request};
use super::peer::Hearing;
use crate::rib::UpdateGroup;
use crate::types::{PeerId, ShardId, SpeakerId, Time, Vni};

/// An address is shared if two connections stand for so many keepalive intervals: a dead one is closed after 2.5.
const SHARED_AFTER_INTERVALS: u32 = 5;

/// The connections of some addresses, and the addresses that are shared.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    connected: BTreeMap<IpAddr, Vec<(PeerId, Time)>>,
    deadlines: BTreeSet<(Time, IpAddr)>,
    /// Those of them that are shared.
    found: BTreeSet<IpAddr>,
    /// Those that are, as far as this shard was told, and how many homes tell their peers apart.
    shared: BTreeMap<IpAddr, u16>,
    /// How many shards have told this home.
    told: BTreeMap<IpAddr, u16>,
}

impl Addresses {
    /// How a new peer at this address hears, if there are so many homes.
    pub(super) fn hearing(&self, address: IpAddr, homes: u16) -> Hearing {
        match self.shared.get(&address) {
            None => Hearing::Host,
            Some(apart) if *apart < homes => Hearing::Both,
            Some(_) => Hearing::Itself,
        }
    }

    /// Shared addresses that fall to this shard.
    pub(super) fn found(&self) -> impl Iterator<Item = IpAddr> {
        self.found.iter().copied()
    }

    /// An address is shared, and all of so many homes know it. It may fall to this shard.
    pub(super) fn restore_shared(&mut self, address: IpAddr, homes: u16, is_ours: bool) {
        if is_ours {
            self.found.insert(address);
        }
        self.shared.insert(address, homes);
    }

    /// When some address is to be looked at.
    pub(super) fn next_deadline(&self) -> Time {
        self.deadlines.first().map_or(Time::NEVER, |(at, _)| *at)
    }

    /// A session stands: it counts as another host's at that time, if there is another one.
    fn connected(&mut self, address: IpAddr, peer: PeerId, now: Time, at: Time) {
        let peers = self.connected.entry(address).or_default();
        peers.push((peer, now));
        if peers.len() > 1 && !self.found.contains(&address) {
            self.deadlines.insert((at, address));
        }
    }

    fn disconnected(&mut self, address: IpAddr, peer: PeerId) {
        let Some(peers) = self.connected.get_mut(&address) else { return };
        peers.retain(|(of, _)| *of != peer);
        if peers.is_empty() {
            self.connected.remove(&address);
        }
    }

    /// An address at which two connections have stood up to now since this time.
    fn take_shared(&mut self, now: Time, since: impl Fn(Time) -> bool) -> Option<IpAddr> {
        while self.next_deadline() <= now {
            let (_, address) = self.deadlines.pop_first()?;
            let peers = self.connected.get(&address).map_or(&[][..], |peers| &peers[..]);
            let standing = peers.iter().filter(|(_, from)| since(*from)).count();
            if standing > 1 && self.found.insert(address) {
                return Some(address);
            }
        }
        None
    }
}

impl Shard {
    /// A session of an accepted peer stands: the shard that its address falls to has to know.
    pub(super) fn note_connected(&mut self, id: PeerId, stands: bool) {
        let Some(address) = self.peers.find(id).and_then(|peer| peer.host()) else { return };
        let keeper = self.keeper_of(address);
        self.outboxes.request(keeper, Request::Connected { address, peer: id, stands });
    }

    /// A session at an address of ours stands, or no longer.
    pub(super) fn count_connected(
        &mut self,
        now: Time,
        address: IpAddr,
        peer: PeerId,
        stands: bool,
    ) {
        match stands {
            true => self.addresses.connected(address, peer, now, now.after(self.shared_after())),
            false => self.addresses.disconnected(address, peer),
        }
    }

    /// Looks whether addresses are shared.
    pub(super) fn look_for_shared(&mut self, now: Time) {
        let after = self.shared_after();
        while let Some(address) = self.addresses.take_shared(now, |from| from.after(after) <= now) {
            tracing::info!(
                %address,
                "several peers share this address: each is told what the others announce"
            );
            for shard in (0..self.config.shards).map(ShardId) {
                self.outboxes.block(shard).deliveries.push(Delivery::Shared(address));
            }
        }
    }

    /// An address is shared: its peers hear as themselves too.
    pub(super) fn share(&mut self, address: IpAddr) {
        self.addresses.shared.insert(address, 0);
        let speaker = SpeakerId::of_host(address, &self.groups.hasher);
        for id in self.peers.of_speaker(speaker) {
            self.peers.hear(id, Hearing::Both);
            let Some(peer) = self.peers.find(id) else { continue };
            let reader = peer.reader();
            for &sub in peer.subscriptions.values() {
                self.groups.hear_as(sub, reader);
            }
        }
        for home in (0..self.config.shards).map(ShardId) {
            self.outboxes.request(home, Request::Share(address));
        }
    }

    /// A shard's peers hear apart. Once all do, what they announce is told apart too.
    pub(super) fn share_at_home(&mut self, address: IpAddr) {
        let told = self.addresses.told.entry(address).or_default();
        *told += 1;
        if *told < self.config.shards {
            return;
        }
        self.addresses.told.remove(&address);
        self.rib.share(address);
        for shard in (0..self.config.shards).map(ShardId) {
            self.outboxes.block(shard).deliveries.push(Delivery::Apart(address));
        }
    }

    /// A home tells what is announced at an address apart: its peers may see more now.
    pub(super) fn look_again(&mut self, home: ShardId, address: IpAddr) {
        let speaker = SpeakerId::of_host(address, &self.groups.hasher);
        let shards = self.config.shards;
        let apart = self.addresses.shared.entry(address).or_default();
        *apart += 1;
        let do_all = *apart == shards;
        for id in self.peers.of_speaker(speaker) {
            if do_all {
                self.peers.hear(id, Hearing::Itself);
            }
            let Some(peer) = self.peers.find(id) else { continue };
            // Some may have subscribed since their home did.
            let of_home = |vni: &Vni| do_all || ShardId::home_of(*vni, shards) == home;
            let subs = peer.subscriptions.iter().filter(|(vni, _)| of_home(vni));
            let subs: Vec<_> = subs.map(|(_, sub)| *sub).collect();
            for sub in subs {
                self.groups.look_again(sub);
            }
        }
    }

    /// Asks for the tables that peers of shared addresses have to be told again.
    pub(super) fn ask_again(&mut self) {
        while let Some((sub, epoch)) = self.groups.take_again() {
            let Some((group, peer)) = self.groups.who(sub, epoch) else { continue };
            self.epoch += 1;
            self.groups.asked_again(sub, self.epoch);
            let UpdateGroup { vni, .. } = group;
            let home = ShardId::home_of(vni, self.config.shards);
            self.outboxes.request(home, Request::Join { group, peer, epoch: self.epoch });
        }
    }

    fn shared_after(&self) -> Duration {
        Duration::from_secs(self.config.keepalive_interval_s.into()) * SHARED_AFTER_INTERVALS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(slot: u32) -> PeerId {
        PeerId::new(ShardId(0), slot, 0)
    }

    #[test]
    fn two_that_stand_long_enough_are_two_hosts() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let mut addresses = Addresses::default();
        let stood = |now: Time| move |from: Time| from.0 + 25 <= now.0;
        let connects = |addresses: &mut Addresses, slot, now: u64| {
            addresses.connected(address, peer(slot), Time(now), Time(now + 25));
        };
        connects(&mut addresses, 1, 100);
        assert_eq!(addresses.next_deadline(), Time::NEVER, "nobody else is there");
        // The first one is dead, and closed amid.
        connects(&mut addresses, 2, 200);
        addresses.disconnected(address, peer(1));
        assert_eq!(addresses.take_shared(Time(225), stood(Time(225))), None);
        // One comes and goes, another one stays.
        connects(&mut addresses, 3, 300);
        connects(&mut addresses, 4, 310);
        addresses.disconnected(address, peer(3));
        assert_eq!(addresses.take_shared(Time(325), stood(Time(325))), None, "not for long enough");
        assert_eq!(addresses.take_shared(Time(334), stood(Time(334))), None);
        assert_eq!(addresses.take_shared(Time(335), stood(Time(335))), Some(address));
        connects(&mut addresses, 5, 400);
        assert_eq!(addresses.next_deadline(), Time::NEVER, "once and for all");
        for slot in [2, 4, 5] {
            addresses.disconnected(address, peer(slot));
        }
        assert!(addresses.connected.is_empty());
    }
}
