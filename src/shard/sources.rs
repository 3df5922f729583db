//! A source is not a connection: the routes of a lost peer stay for the stale time, and its next connection goes on
//! with them (as RFC 4724 has it for BGP).
//!
//! Owns the way from a lost connection to the next one: through the shard that its address falls to. Must never let
//! a source have two connections, nor be taken over while changes of it are under way.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Duration;

use super::Shard;
use super::absent::{Absent, Homes};
use super::mail::{Judged, Received, RefusedRoutes, Request, Settled};
use super::peer::{Ending, Origin, Pause, Quota};
use super::refused::Refused;
use crate::session::{CloseReason, Session};
use crate::types::{PeerId, ShardId, SourceId, Time};

/// So many that have been absent for too long are withdrawn in a turn.
const LOST_PER_TURN: usize = 256;

/// A source without a connection, changes of which are under way.
pub(super) struct Departing {
    address: IpAddr,
    absent: Absent,
    quota: Quota,
}

impl Shard {
    /// The session of an accepted peer is established. If lost sources stay, it is not heard before it is known
    /// which source it is.
    pub(super) fn ask_for_origin(&mut self, now: Time, id: PeerId) {
        if self.config.stale_time.is_zero() || self.draining {
            return;
        }
        let Some(peer) = self.peers.find_mut(id) else { return };
        let (address, class) = (peer.record.remote().ip(), peer.link.class());
        let asked = self.keeper_of(address);
        self.outboxes.request(asked, Request::Arrived { peer: id, class, address });
        self.pause(now, id, Pause::Origin);
    }

    /// What is known of those who arrived.
    pub(super) fn take_received(&mut self, now: Time) {
        for received in std::mem::take(&mut self.received) {
            let Received { peer: id, address, absent, is_alone } = received;
            let is_there = self.peers.find(id).is_some_and(|peer| peer.ending != Ending::Closed);
            if !is_there {
                let left = Request::Left(address, absent.map(Box::new));
                self.outboxes.request(self.keeper_of(address), left);
                continue;
            }
            if let Some(absent) = absent {
                self.take_over(now, id, absent, is_alone);
            }
            if self.is_frozen() {
                if let Some(peer) = self.peers.find_mut(id) {
                    peer.inbound.wait_instead(&Pause::Origin, Pause::Handover);
                }
                continue;
            }
            self.resume(now, id, |pause| *pause == Pause::Origin);
        }
    }

    /// A connection is over that was accepted and established. What it announced stays for now, unless we had to
    /// end it for what it said.
    pub(super) fn depart(&mut self, now: Time, id: PeerId, reason: CloseReason) {
        let stale_time = self.config.stale_time;
        let Some(peer) = self.peers.find_mut(id) else { return };
        if peer.inbound.is_waiting_for_origin() {
            // The answer will find that it has gone.
            return;
        }
        let (address, class) = (peer.record.remote().ip(), peer.link.class());
        let absent = peer.origin.leave(class, now.after(stale_time));
        let quota = peer.inbound.take_quota();
        let source = absent.source;
        self.peers.give_up(source);
        if !may_return(reason) {
            self.lose(source, &absent.homes);
            let left = Request::Left(address, None);
            self.outboxes.request(self.keeper_of(address), left);
            return;
        }
        let departing = Departing { address, absent, quota };
        match departing.quota.is_settled() {
            true => self.departed(departing),
            false => drop(self.departing.insert(source, departing)),
        }
    }

    /// A home dealt with changes of a source.
    pub(super) fn settle(&mut self, settled: &Settled) {
        let source = settled.source;
        if let Some(departing) = self.departing.get_mut(&source) {
            departing.quota.settle(settled);
            if departing.quota.is_settled()
                && let Some(departed) = self.departing.remove(&source)
            {
                self.departed(departed);
            }
        } else if let Some((id, _)) = self.peers.of_source(source)
            && let Some(peer) = self.peers.find_mut(id)
            && peer.inbound.settle(settled)
        {
            self.settled.push_back(id);
        }
    }

    /// A home withholds more or less of what a peer announces, since there is another policy.
    pub(super) fn note_judged(&mut self, judged: &Judged) {
        if let Some((id, _)) = self.peers.of_source(judged.source)
            && let Some(peer) = self.peers.find_mut(id)
            && peer.origin.life() == judged.life
        {
            peer.inbound.judged(judged.withheld);
        }
    }

    /// A home refused routes.
    pub(super) fn note_refused(&mut self, now: Time, routes: &RefusedRoutes) {
        let RefusedRoutes { source, refusal, count, vni, route } = routes;
        let refused = Refused::Route(*refusal);
        self.counters.refused[refused.kind()] += count;
        if let Some((id, _)) = self.peers.of_source(*source) {
            self.refused(now, id, refused, *count, &format_args!("{route} of VNI {vni}"));
        }
    }

    /// Withdraws what a peer announced before it was lost, and has not announced again, as far as it went unsaid up
    /// to this life.
    pub(super) fn sweep_stale(&mut self, id: PeerId, life: u8) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        let source = peer.origin.source();
        for home in peer.origin.homes().iter() {
            peer.inbound.asks();
            self.outboxes.request(home, Request::Sweep(source, life));
        }
    }

    /// A KEEPALIVE: if the peer was quiet for an interval, it has announced again all that it wanted to.
    pub(super) fn look_for_silence(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if !peer.origin.is_stale() {
            return;
        }
        let interval_s = peer.link.session().map_or(0, Session::keepalive_interval_s);
        if peer.origin.has_said_all(now, Duration::from_secs(interval_s.into()))
            && let Some(life) = peer.origin.stale().take_all()
        {
            self.sweep_stale(id, life);
        }
    }

    /// Does what is due for sources that are stale, or absent.
    pub(super) fn on_stale_timer(&mut self, now: Time) {
        while let Some(&Reverse((at, id))) = self.stale_timers.peek()
            && at <= now
        {
            self.stale_timers.pop();
            self.sweep_due(now, id);
        }
        for _ in 0..LOST_PER_TURN {
            let due = if self.draining { None } else { self.absentees.take_due(now) };
            let Some(Absent { source, homes, .. }) = due else { break };
            self.lose(source, &homes);
        }
    }

    /// When [`Shard::on_stale_timer`] has something to do.
    pub(super) fn next_stale_deadline(&self) -> Time {
        let absent = if self.draining { Time::NEVER } else { self.absentees.next_deadline() };
        self.stale_timers.peek().map_or(absent, |Reverse((at, _))| absent.min(*at))
    }

    /// All that a source announced goes.
    pub(super) fn lose(&mut self, source: SourceId, homes: &Homes) {
        for home in homes.iter() {
            self.outboxes.request(home, Request::Lost(source));
        }
    }

    fn take_over(&mut self, now: Time, id: PeerId, absent: Absent, is_alone: bool) {
        tracing::debug!(%id, source = %absent.source.0, routes = absent.routes, "takes over");
        self.counters.sources_taken_over += 1;
        let homes = absent.homes.clone();
        let Some(peer) = self.peers.find_mut(id) else { return };
        peer.inbound.inherit(absent.routes);
        self.peers.take_over(id, Origin::taken_over(absent, is_alone));
        if let Some(host) = self.peers.find(id).and_then(|peer| peer.host()) {
            self.peers.hear(id, self.addresses.hearing(host, self.config.shards));
        }
        let Some(peer) = self.peers.find_mut(id) else { return };
        for home in homes.iter() {
            self.outboxes.request(home, peer.introduce_again(self.config.id));
        }
        self.sweep_due(now, id);
    }

    /// Sweeps what has been stale for too long, or too many lives ago, and sets the timer for the rest.
    pub(super) fn sweep_due(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        let stale = peer.origin.stale();
        let (surplus, due) = (stale.take_surplus(), stale.take_due(now));
        let next = stale.next_deadline();
        if next != Time::NEVER {
            self.stale_timers.push(Reverse((next, id)));
            if self.stale_timers.len() > 2 * self.peers.len() + 64 {
                // Those of peers that have gone.
                let peers = &self.peers;
                self.stale_timers.retain(|Reverse((_, id))| peers.find(*id).is_some());
            }
        }
        if let Some(life) = due.or(surplus) {
            self.sweep_stale(id, life);
        }
    }

    /// All homes have dealt with all that a source said while it was connected.
    fn departed(&mut self, departing: Departing) {
        let Departing { address, mut absent, mut quota } = departing;
        if quota.is_beyond_limit()
            && let Some(life) = absent.stale.take_former()
        {
            // Or each of its lives could leave as much behind as it may announce.
            for home in absent.homes.iter() {
                quota.asks();
                self.outboxes.request(home, Request::Sweep(absent.source, life));
            }
            self.departing.insert(absent.source, Departing { address, absent, quota });
            return;
        }
        absent.routes = quota.routes();
        let absent = match absent.routes {
            0 => {
                self.lose(absent.source, &absent.homes);
                None
            }
            _ => Some(Box::new(absent)),
        };
        self.outboxes.request(self.keeper_of(address), Request::Left(address, absent));
    }

    /// The shard that keeps the absent sources of an address.
    pub(super) fn keeper_of(&self, address: IpAddr) -> ShardId {
        keeper_of(address, self.config.shards)
    }
}

/// The shard that keeps what is known of an address, if there are so many.
pub(super) fn keeper_of(address: IpAddr, shards: u16) -> ShardId {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    // Any spreading that all shards agree on.
    let mixed = (bits ^ bits >> 64) as u64;
    let mixed = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    ShardId(((mixed * u64::from(shards)) >> 32) as u16)
}

/// Whether a peer may come back and go on as before. Who breaks the protocol is gone at once, with all that it said.
fn may_return(reason: CloseReason) -> bool {
    match reason {
        CloseReason::HoldTimeout
        | CloseReason::SendHoldTimeout
        | CloseReason::RemoteClosed
        | CloseReason::OverBudget
        | CloseReason::Unread
        | CloseReason::Shutdown => true,
        CloseReason::Unexpected { .. }
        | CloseReason::SecondHello
        | CloseReason::HelloIntervalZero
        | CloseReason::HandshakeTimeout
        | CloseReason::Fault => false,
    }
}
