//! The shard as the home of VNIs: other shards' requests, and the records that answer them.
//!
//! Owns the order in which requests are served. Must never wait for another shard: when one is
//! full, requests stay where they are, and their senders pause.

use std::collections::VecDeque;

use super::absent::Absent;
use super::groups::Records;
use super::mail::{Announced, Delivery, Lane, Mail, Received, Request, Settled};
use super::peer::Ending;
use super::{STRANGERS, Shard};
use crate::rib::{FORESIGHT, Join, Outcome};
use crate::types::{Action, PeerClass, Route, ShardId, Time, Vni};

/// A join costs so much more than a change: its group may be new, and its peer's memory is far away.
const JOIN_COST: usize = 32;

impl Shard {
    /// Mail from another shard.
    pub fn deliver(&mut self, mut mail: Mail) {
        let from = mail.from;
        self.handover.mails_taken += u64::from(self.is_of_another_shard(from));
        self.outboxes.requests_done(from, mail.requests_done);
        self.outboxes.records_taken(from, mail.record_bytes_taken);
        for settled in mail.settled.drain(..) {
            self.settle(&settled);
        }
        for judged in mail.judged.drain(..) {
            self.note_judged(&judged);
        }
        self.refused_routes.append(&mut mail.refused);
        for (at, address) in mail.failed.drain(..) {
            self.failed.note(at, address);
        }
        self.take_deliveries(from, &mut mail.deliveries, &mail.bytes);
        for request in mail.requests.drain(..) {
            self.inbox[from.index()][request.lane() as usize].push_back(request);
        }
        for empty in mail.returned.drain(..) {
            self.outboxes.keep(empty);
        }
        self.outboxes.keep(mail);
    }

    /// Serves requests and goes on with jobs, within a turn's budget. True if some are left.
    pub(super) fn work_as_home(&mut self, now: Time) -> bool {
        self.deliver_own();
        let mut budget = self.config.budgets.requests_per_turn;
        if self.rib.is_losing() {
            // Or routes of lost peers, which no limit counts any more, would pile up.
            budget = budget.min(self.config.budgets.job_routes_per_turn / 4).max(1);
        }
        for lane in Lane::ALL {
            self.serve_lane(lane, budget, now);
        }
        self.served_first = (self.served_first + 1) % self.inbox.len();
        if !self.outboxes.is_any_full() {
            let budget = self.config.budgets.job_routes_per_turn;
            self.rib.run_jobs(budget, &mut self.outboxes, now);
        }
        self.deliver_own();
        let left = self.rib.has_jobs() || self.inbox.iter().flatten().any(|it| !it.is_empty());
        // Work that waits for a full shard is not due before that shard's next mail.
        left && !self.outboxes.is_any_full()
    }

    /// Serves requests of all shards, within a budget.
    fn serve_lane(&mut self, lane: Lane, mut budget: usize, now: Time) {
        let fair_share = (budget / 4).max(1);
        let shards = self.inbox.len();
        for turn in 0..shards {
            let from = (self.served_first + turn) % shards;
            // A quarter at most for each; the last one gets all that is left, and another one is the last
            // one next time.
            let share = if turn + 1 == shards { budget } else { budget.min(fair_share) };
            budget -= self.serve(ShardId(from as u16), lane, share, now);
        }
    }

    /// What the shard wrote to itself, the receipts for it included.
    fn deliver_own(&mut self) {
        while let Some(own) = self.outboxes.take(self.config.id) {
            self.deliver(own);
        }
    }

    /// Serves requests of one shard, as far as `share` goes: 1 for each change, and for each route that
    /// is withdrawn; more for others. Returns how much was used.
    fn serve(&mut self, from: ShardId, lane: Lane, share: usize, now: Time) -> usize {
        let at = lane as usize;
        let cost = if lane == Lane::Joins { JOIN_COST } else { 1 };
        let mut served = 0;
        let mut left = share;
        while left > 0 && !self.outboxes.is_any_full() {
            if lane == Lane::Changes && served % FORESIGHT == 0 {
                self.rib.foresee(upcoming(&self.inbox[from.index()][at]));
            }
            if let Some(&Request::LostIn(source, vni)) = self.inbox[from.index()][at].front()
                && !self.rib.lose_in(source, vni, &mut left, &mut self.outboxes)
            {
                // The source may announce there again: what follows waits.
                break;
            }
            let Some(request) = self.inbox[from.index()][at].pop_front() else {
                break;
            };
            served += 1;
            self.serve_one(from, request, now);
            left = left.saturating_sub(cost + self.rib.take_steps());
        }
        if served > 0 {
            self.outboxes.block(from).requests_done[at] += served;
        }
        share - left
    }

    fn serve_one(&mut self, from: ShardId, request: Request, now: Time) {
        match request {
            Request::Change { source, class, action, vni, route, read_at } => {
                self.outboxes.read_at = read_at;
                let sink = &mut self.outboxes;
                let outcome = match action {
                    Action::Add => self.rib.add(source, class, vni, &route, sink),
                    Action::Remove => self.rib.remove(source, vni, &route, sink),
                };
                self.outboxes.read_at = None;
                let Outcome { stored, stale, withheld, refusal } = outcome;
                let is_without_effect = !outcome.is_change() && refusal.is_none();
                self.counters.updates_without_effect += u64::from(is_without_effect);
                if let Some(refusal) = refusal {
                    self.outboxes.refuse(from, source, refusal, vni, &route);
                }
                let adds = u32::from(action == Action::Add);
                let settled = Settled { source, changes: 1, adds, stored, stale, withheld };
                self.outboxes.settle(from, settled);
            }
            Request::Introduce(source, introduction) => {
                // What policy did while it was absent nobody was told.
                let withheld = self.rib.introduce(source, introduction) as i32;
                let (stored, stale) = (0, 0);
                let settled = Settled { source, changes: 1, adds: 0, stored, stale, withheld };
                self.outboxes.settle(from, settled);
            }
            Request::Announced(announced) => {
                let Announced { remote, vni, route, by } = *announced;
                let sink = &mut self.outboxes;
                if let Some(refusal) = self.rib.announce_remote(remote, vni, &route, by, sink) {
                    let source = remote.source(PeerClass::Client);
                    self.outboxes.refuse(from, source, refusal, vni, &route);
                }
            }
            Request::Sweep(source, life) => self.rib.begin_sweep(source, life, from),
            Request::Arrived { peer, class, address } => {
                let (absent, is_alone) = self.absentees.arrived(address, class);
                let received = Received { peer, address, absent, is_alone };
                let delivery = Delivery::Received(Box::new(received));
                self.outboxes.block(from).deliveries.push(delivery);
            }
            Request::Left(address, absent) => {
                let crowded_out = self.absentees.left(address, absent.map(|absent| *absent));
                if let Some(Absent { source, homes, .. }) = crowded_out {
                    tracing::info!(target: STRANGERS, %address, "too many lost peers: one is withdrawn early");
                    self.counters.sources_crowded_out += 1;
                    self.lose(source, &homes);
                }
            }
            Request::Connected { address, peer, stands } => {
                self.count_connected(now, address, peer, stands);
            }
            Request::Share(address) => self.share_at_home(address),
            Request::Lost(source) => self.rib.lose(source),
            // Done before it was taken.
            Request::LostIn(..) => {}
            Request::Join { group, peer, epoch } => {
                self.rib.join(group, Join { peer, epoch }, &mut self.outboxes, now);
            }
            Request::Follow(group) => self.rib.follow(group, from),
            Request::Leave(group) => self.rib.leave(group, from),
        }
    }

    fn take_deliveries(&mut self, from: ShardId, deliveries: &mut Vec<Delivery>, mut bytes: &[u8]) {
        self.outboxes.block(from).record_bytes_taken += bytes.len();
        for delivery in deliveries.drain(..) {
            match delivery {
                Delivery::Records { group, scope, length, routes, read_at } => {
                    let (records, rest) = bytes.split_at(length);
                    bytes = rest;
                    let named = scope.named().map(|speaker| self.peers.named(speaker, group.vni));
                    let peers = &mut self.peers;
                    let ready = |it| peers.queue(it);
                    let records = Records { frames: records, routes, read_at };
                    self.groups.append(group, scope, records, named.unwrap_or_default(), ready);
                }
                Delivery::Joined(joined) => {
                    let id = joined.peer;
                    let Some(peer) = self.peers.find(id) else { continue };
                    let sub = peer.subscriptions.get(&joined.group.vni).copied();
                    let is_ending = peer.ending == Ending::Gracefully;
                    if let Some(ready) = self.groups.joined(sub, *joined) {
                        self.peers.queue(ready);
                    }
                    if is_ending {
                        // It may have waited for this alone, and bring nothing to send.
                        self.peers.wake_writer(id);
                    }
                }
                Delivery::Received(received) => self.received.push(*received),
                Delivery::Shared(address) => self.share(address),
                Delivery::Apart(address) => self.look_again(from, address),
            }
        }
        assert!(bytes.is_empty(), "every byte of a block belongs to a delivery");
    }
}

/// The routes that the next requests change. Of those alone: a search for more would look through the
/// whole inbox where peers with many subscriptions come or go, and that again and again.
fn upcoming(requests: &VecDeque<Request>) -> impl Iterator<Item = (Vni, &Route)> {
    requests.iter().take(FORESIGHT).filter_map(Request::route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::UpdateGroup;
    use crate::types::{
        Destination, GroupClass, NextHop, NextHopType, PeerClass, PeerId, SourceId,
    };

    #[test]
    fn only_the_next_requests_are_looked_at() {
        let next_hop = NextHop {
            address: [0xfd; 16].into(),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        };
        let change = |number: u8| Request::Change {
            source: SourceId(PeerId::new(ShardId(0), 0, 0)),
            class: PeerClass::Client,
            action: Action::Add,
            vni: Vni(7),
            route: Route {
                destination: Destination { prefix: [10, 0, 0, number].into(), length: 32 },
                next_hop,
            },
            read_at: None,
        };
        let leave = || Request::Leave(UpdateGroup::new(Vni(7), GroupClass::Client));
        let mut requests: VecDeque<Request> = (1..FORESIGHT).map(|_| leave()).collect();
        requests.extend([change(1), change(2)]);
        assert_eq!(upcoming(&requests).count(), 1, "the next but one is too far away");
        requests.push_front(leave());
        assert_eq!(upcoming(&requests).count(), 0);
    }
}
