//! What another process had, on the way into a shard.
//!
//! Owns how each order is carried out. Must never make a record of it, nor panic at what makes no sense.

use std::net::IpAddr;

use super::groups::ToldSubscription;
use super::import::{Do, Order};
use crate::handover::{self, HandoverError};
use crate::rib::{AnnouncedPart, Introduction};
use crate::shard::Shard;
use crate::shard::absent::{Absent, Homes, Stale, life_of};
use crate::shard::mail::Request;
use crate::shard::peer::{Pause, Peer};
use crate::types::{Action, PeerClass, PeerId, ShardId, SourceId, Time};
use crate::wire::{Deframer, Message, decode};

impl Shard {
    /// Takes something that another process had. Returns the id of the peer, if it is one: its connection is to be driven
    /// from now on.
    ///
    /// # Errors
    /// If it makes no sense. Then all of the handover has to be given up.
    ///
    /// # Panics
    /// If it does not wait for that ([`Shard::begin_restoring`]).
    pub fn restore(&mut self, now: Time, order: Order) -> Result<Option<PeerId>, HandoverError> {
        assert!(self.handover.is_restoring, "it serves already");
        match order.0 {
            Do::Peer(told) => return self.restore_peer(now, *told).map(Some),
            Do::Stands(address) => {
                if !self.config.stale_time.is_zero() {
                    self.absentees.stands(address);
                }
            }
            Do::Absent(address, told) => self.restore_absent(now, address, &told)?,
            Do::Shared(address) => self.restore_shared(address),
            Do::Source(source, introduction) => self.restore_source(source, introduction),
            Do::Routes(part, frames) => self.restore_routes(&part, &frames)?,
            Do::Subscription(told) => self.restore_subscription(*told)?,
        }
        Ok(None)
    }

    fn restore_peer(&mut self, now: Time, told: handover::Peer) -> Result<PeerId, HandoverError> {
        let former = PeerId::of_bits(told.id);
        let (peer, origin, reader) = Peer::restored(now, told, &self.config)?;
        let is_established = peer.record.established_at().is_some();
        let id = self.peers.insert(peer);
        self.peers.take_over(id, origin);
        self.peers.restore_reader(id, reader);
        self.handover.peers.insert(former, id);
        if is_established {
            self.note_connected(id, true);
        }
        self.pause(now, id, Pause::Handover);
        self.peers.wake_writer(id);
        tracing::debug!(%id, %former, "taken over from another process");
        Ok(id)
    }

    fn restore_absent(
        &mut self,
        now: Time,
        address: IpAddr,
        told: &handover::Absent,
    ) -> Result<(), HandoverError> {
        let stale = Stale::restored(now, &told.former_lives)?;
        if stale.is_empty() {
            return Err(HandoverError::Nonsense("somebody is absent for ever"));
        }
        let absent = Absent {
            source: SourceId(PeerId::of_bits(told.source)),
            class: PeerClass::from(told.class()),
            life: life_of(told.life)?,
            homes: Homes::all(self.config.shards),
            routes: told.routes,
            stale,
        };
        self.absentees.restore(address, absent);
        Ok(())
    }

    /// Each shard is home and has peers there.
    fn restore_shared(&mut self, address: IpAddr) {
        let is_keeper = self.keeper_of(address) == self.config.id;
        self.addresses.restore_shared(address, self.config.shards, is_keeper);
        self.rib.share(address);
    }

    fn restore_source(&mut self, source: SourceId, introduction: Introduction) {
        self.rib.introduce(source, introduction);
        let shards = self.config.shards;
        let id = self.peers.of_source(source).map(|(id, _)| id);
        if let Some(peer) = id.and_then(|id| self.peers.find_mut(id)) {
            peer.origin.note_all_homes(shards);
        }
    }

    fn restore_routes(
        &mut self,
        part: &AnnouncedPart,
        mut frames: &[u8],
    ) -> Result<(), HandoverError> {
        let mut deframer = Deframer::new();
        while !frames.is_empty() {
            let update = match deframer.next(&mut frames).map(|frame| frame.map(decode)) {
                Ok(Some(Ok(Message::Update(update)))) => update,
                _ => return Err(HandoverError::Nonsense("what should be an UPDATE is none")),
            };
            if update.action != Action::Add || update.vni != part.vni {
                return Err(HandoverError::Nonsense("routes are of one VNI, and announced"));
            }
            self.rib.restore(part, &update.route, &mut self.outboxes);
        }
        Ok(())
    }

    fn restore_subscription(&mut self, told: ToldSubscription) -> Result<(), HandoverError> {
        let group = told.group;
        let id = self.handover.peers.get(&told.peer).copied();
        let peer = id.and_then(|id| self.peers.find_mut(id));
        let (Some(id), Some(peer)) = (id, peer) else {
            return Err(HandoverError::Nonsense("a subscription is nobody's"));
        };
        if peer.group_class() != group.class || peer.subscriptions.contains_key(&group.vni) {
            return Err(HandoverError::Nonsense("a subscription is not its peer's"));
        }
        self.epoch += 1;
        let is_first = !self.groups.by_key.contains_key(&group);
        self.config.ledger.take_subscription(u64::MAX);
        let (sub, ready) = self.groups.restore(told, id, self.epoch);
        if let Some(peer) = self.peers.find_mut(id) {
            peer.subscriptions.insert(group.vni, sub);
        }
        if let Some(ready) = ready {
            self.peers.queue(ready);
        }
        if is_first {
            let home = ShardId::home_of(group.vni, self.config.shards);
            self.outboxes.request(home, Request::Follow(group));
        }
        Ok(())
    }
}
