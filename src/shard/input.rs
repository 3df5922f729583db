//! What peers say: from bytes to requests.
//!
//! Owns the way of a message through its session to the home of its VNI. Must never act on a
//! message that the session did not deliver.

use std::io;
use std::time::Duration;

use super::events::{Refused, SessionEnd, detail_of};
use super::mail::Request;
use super::node::HeldSource;
use super::peer::{Ending, Role};
use super::{Shard, Wake};
use crate::rib::Group;
use crate::session::{CloseReason, State, Verdict};
use crate::types::{Action, PeerId, ShardId, SourceId, Time, Vni};
use crate::wire::{self, Fault, Message, Reaction, Update};

impl Shard {
    /// Bytes that the socket read. What cannot be processed yet is kept: `wants_read` is false then.
    pub fn receive(&mut self, now: Time, id: PeerId, bytes: &[u8]) {
        let Some(peer) = self.peers.find_mut(id) else {
            return;
        };
        if peer.ending == Ending::Closed {
            return;
        }
        self.counters.bytes_received += bytes.len() as u64;
        if peer.paused {
            peer.backlog.extend_from_slice(bytes);
            return;
        }
        let mut rest = bytes;
        self.consume(now, id, &mut rest);
        if !rest.is_empty()
            && let Some(peer) = self.peers.find_mut(id)
        {
            peer.backlog.extend_from_slice(rest);
        }
    }

    /// Whether the reader may go on. If not, a [`Wake::Read`] will come.
    pub fn wants_read(&self, id: PeerId) -> bool {
        self.peers.find(id).is_some_and(|peer| !peer.paused)
    }

    /// The socket's read side ended: end of stream, or an error.
    pub fn read_ended(&mut self, now: Time, id: PeerId, result: io::Result<()>) {
        if let Some(peer) = self.peers.find_mut(id) {
            if let Err(error) = result {
                peer.detail.get_or_insert_with(|| detail_of(&error));
            }
            let verdict = peer.session.on_eof();
            self.obey(now, id, verdict);
        }
    }

    /// Resumes peers whose homes have room again. Called each turn.
    pub(super) fn resume_paused(&mut self, now: Time) {
        let mut waiting = Vec::new();
        for id in std::mem::take(&mut self.paused) {
            let Some(peer) = self.peers.find_mut(id) else {
                continue;
            };
            let routes_max = i64::from(self.config.limits.routes_per_peer_max);
            let must_wait = match peer.waits_for {
                Some(home) => self.outboxes.is_home_full(home),
                None => {
                    peer.changes_under_way > 0 && peer.routes + peer.adds_under_way >= routes_max
                }
            };
            if must_wait && peer.ending != Ending::Closed {
                waiting.push(id);
                continue;
            }
            peer.paused = false;
            let held = peer.held.take();
            let mut backlog = std::mem::take(&mut peer.backlog);
            let mut rest = &backlog[..];
            if held.is_none_or(|update| self.on_update(now, id, &update)) {
                self.consume(now, id, &mut rest);
            }
            let Some(peer) = self.peers.find_mut(id) else {
                continue;
            };
            if peer.paused {
                let used = backlog.len() - rest.len();
                backlog.drain(..used);
                peer.backlog = backlog;
            } else if peer.ending != Ending::Closed {
                peer.session.resume(now);
                self.woken.push_back((id, Wake::Read));
            }
        }
        // Those that had no turn come before those that had one.
        waiting.append(&mut self.paused);
        self.paused = waiting;
    }

    /// Processes messages until the input is used up or the peer is paused or closed.
    fn consume(&mut self, now: Time, id: PeerId, input: &mut &[u8]) {
        loop {
            let Some(peer) = self.peers.find_mut(id) else {
                return;
            };
            if peer.paused || peer.ending == Ending::Closed {
                return;
            }
            let mut is_bare = true;
            let message = match peer.deframer.next(input) {
                Ok(Some(frame)) => {
                    is_bare = frame.payload.is_empty();
                    wire::decode(frame).map_err(Fault::Decode)
                }
                Ok(None) => return,
                Err(error) => Err(Fault::Frame(error)),
            };
            match message {
                Ok(Message::Update(update)) => {
                    let verdict = peer.session.on_update(now);
                    if verdict == Verdict::Deliver {
                        self.on_update(now, id, &update);
                    } else {
                        self.obey(now, id, verdict);
                    }
                }
                Ok(message) => self.on_message(now, id, &message, is_bare),
                Err(fault) => self.on_fault(now, id, &fault),
            }
        }
    }

    fn on_message(&mut self, now: Time, id: PeerId, message: &Message, is_bare: bool) {
        let Some(peer) = self.peers.find_mut(id) else {
            return;
        };
        let verdict = peer.session.on_message(now, message);
        match (verdict, message) {
            (Verdict::Deliver, Message::Subscribe(vni)) => self.subscribe(now, id, *vni),
            (Verdict::Deliver, Message::Unsubscribe(vni)) => self.unsubscribe(id, *vni),
            _ => self.obey(now, id, verdict),
        }
        if *message == Message::Keepalive {
            // Ours say KEEPALIVE unasked with a payload, which others ignore.
            self.uplink_heard_keepalive(now, id, is_bare);
        }
        self.note_deadline(id);
    }

    fn on_fault(&mut self, now: Time, id: PeerId, fault: &Fault) {
        let Some(peer) = self.peers.find_mut(id) else {
            return;
        };
        match fault.reaction() {
            Reaction::Close => {
                peer.detail = Some(fault.to_string());
                let verdict = peer.session.on_fault();
                self.obey(now, id, verdict);
            }
            Reaction::DropMessage => {
                // In a state where no UPDATE is allowed, a bad one is not either.
                let verdict = peer.session.on_update(now);
                if verdict != Verdict::Deliver {
                    return self.obey(now, id, verdict);
                }
                self.counters.updates_invalid += 1;
                self.refused(now, id, Refused::Invalid, fault);
            }
            Reaction::Ignore => {}
        }
    }

    /// A change of the peer's routes, on its way to the home of its VNI. False if it has to wait.
    pub(super) fn on_update(&mut self, now: Time, id: PeerId, update: &Update) -> bool {
        let home = ShardId::home_of(update.vni, self.config.shards);
        if !self.peers.find(id).is_some_and(|peer| self.wants_update(peer, update)) {
            return true;
        }
        let Some(peer) = self.peers.find_mut(id) else { return true };
        let routes_max = match peer.role {
            Role::Accepted => i64::from(self.config.limits.routes_per_peer_max),
            Role::Dialled | Role::Own => i64::MAX,
        };
        let is_add = update.action == Action::Add;
        if is_add && peer.routes + peer.adds_under_way >= routes_max {
            if peer.changes_under_way > 0 {
                // Duplicates among them do not count, withdrawals make room: wait and see.
                peer.held = Some(*update);
                self.pause(now, id, None);
                return false;
            }
            self.counters.updates_refused += 1;
            let what = format_args!("{} of VNI {}", update.route, update.vni);
            self.refused(now, id, Refused::Route, &what);
            return true;
        }
        peer.adds_under_way += i64::from(is_add);
        peer.changes_under_way += 1;
        peer.note_home(home);
        let change = Request::Change {
            source: SourceId(id),
            class: peer.class(),
            action: update.action,
            vni: update.vni,
            route: update.route,
        };
        self.counters.updates_received += 1;
        let is_dialled = peer.role == Role::Dialled;
        self.outboxes.request(home, change);
        if is_dialled {
            self.supersede(id, home, update);
            if is_add {
                self.uplink_told(now, id);
            }
        }
        if self.outboxes.is_home_full(home) {
            self.pause(now, id, Some(home));
        }
        true
    }

    pub(super) fn subscribe(&mut self, now: Time, id: PeerId, vni: Vni) {
        let Some(peer) = self.peers.find(id) else { return };
        let vnis_max = self.config.limits.vnis_per_peer_max as usize;
        if peer.subscription(vni).is_some() {
            // Clients in the field do send it twice.
            tracing::debug!(%id, %vni, "SUBSCRIBE again");
        } else if peer.role == Role::Accepted && peer.subscriptions.len() >= vnis_max {
            self.counters.subscriptions_refused += 1;
            self.refused(
                now,
                id,
                Refused::Subscription,
                &format_args!("the subscription of VNI {vni}"),
            );
        } else {
            let group = Group::new(vni, peer.group_class());
            self.subscribe_in(now, id, group);
        }
    }

    /// Subscribes a peer in a group, unless it is subscribed to the VNI.
    pub(super) fn subscribe_in(&mut self, now: Time, id: PeerId, group: Group) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        let vni = group.vni;
        let Err(at) = peer.subscriptions.binary_search_by_key(&vni, |&(vni, _)| vni) else {
            return;
        };
        self.epoch += 1;
        let sub = self.groups.subscribe(group, id, self.epoch);
        peer.subscriptions.insert(at, (vni, sub));
        let home = ShardId::home_of(vni, self.config.shards);
        self.outboxes.request(home, Request::Join { group, peer: id, epoch: self.epoch });
        if self.outboxes.is_home_full(home) {
            self.pause(now, id, Some(home));
        }
    }

    pub(super) fn unsubscribe(&mut self, id: PeerId, vni: Vni) {
        let Some(peer) = self.peers.find_mut(id) else {
            return;
        };
        match peer.subscriptions.binary_search_by_key(&vni, |&(vni, _)| vni) {
            Ok(at) => {
                let (_, sub) = peer.subscriptions.remove(at);
                self.drop_subscription(sub);
            }
            Err(_) => tracing::debug!(%id, %vni, "UNSUBSCRIBE without a subscription"),
        }
    }

    pub(super) fn drop_subscription(&mut self, sub: super::groups::SubIndex) {
        if let Some(group) = self.groups.unsubscribe(sub) {
            let home = ShardId::home_of(group.vni, self.config.shards);
            self.outboxes.request(home, Request::Leave(group));
        }
    }

    fn pause(&mut self, now: Time, id: PeerId, waits_for: Option<ShardId>) {
        if let Some(peer) = self.peers.find_mut(id)
            && !peer.paused
        {
            peer.paused = true;
            peer.waits_for = waits_for;
            peer.session.pause(now);
            self.paused.push(id);
            self.note_deadline(id);
        }
    }

    /// Does what a session says.
    pub(super) fn obey(&mut self, now: Time, id: PeerId, verdict: Verdict) {
        let Some(peer) = self.peers.find_mut(id) else {
            return;
        };
        if peer.role == Role::Dialled {
            self.woken.push_back((id, Wake::State));
        }
        match verdict {
            Verdict::Ignore => {}
            Verdict::Deliver => unreachable!("handled where the message is known"),
            Verdict::SendHello(hello) => peer.hello = Some(hello),
            Verdict::SendKeepalive if peer.paused && peer.role == Role::Accepted => {
                peer.keepalives_unasked += 1;
            }
            Verdict::SendKeepalive => {
                peer.keepalives_owed = peer.keepalives_owed.saturating_add(1);
            }
            Verdict::Established { send_keepalive } => {
                peer.keepalives_owed += u32::from(send_keepalive);
                peer.established_at = Some(now);
                let is_dialled = peer.role == Role::Dialled;
                self.log_established(id);
                if is_dialled {
                    self.uplink_established(now, id);
                }
            }
            Verdict::Close(reason) => return self.close(now, id, reason),
        }
        self.wake_writer(id);
        self.note_deadline(id);
    }

    /// The connection is over: forget what it wanted, withdraw what it announced.
    pub(super) fn close(&mut self, now: Time, id: PeerId, reason: CloseReason) {
        let Some(peer) = self.peers.find_mut(id) else {
            return;
        };
        if peer.ending == Ending::Closed {
            return;
        }
        peer.ending = Ending::Closed;
        let stood_for = peer.established_at.map(|established_at| now.since(established_at));
        peer.end = Some(SessionEnd { reason, stood_for, detail: peer.detail.take() });
        self.sum_up(id);
        self.log_end(id);
        let Some(peer) = self.peers.find_mut(id) else { return };
        let subscriptions = std::mem::take(&mut peer.subscriptions);
        peer.pending = Default::default();
        peer.backlog = Vec::new();
        peer.held = None;
        peer.hello = None;
        peer.keepalives_owed = 0;
        peer.keepalives_unasked = 0;
        let (server, is_provisional) =
            peer.uplink.take().map_or((0, false), |uplink| (uplink.server, uplink.is_provisional));
        peer.rest = None;
        let homes: Vec<ShardId> = peer.homes().collect();
        // CLOSED is what we ended ourselves; what is lost is in RETRY.
        let may_return =
            peer.role == Role::Dialled && peer.session.state() != State::Closed && !is_provisional;
        self.uplink_lost(now, id, server);
        for (_, sub) in subscriptions {
            self.drop_subscription(sub);
        }
        let hold = if may_return { self.config.hold_time } else { Duration::ZERO };
        if self.draining {
            // Nothing is withdrawn any more.
        } else if hold > Duration::ZERO && !homes.is_empty() {
            self.hold(HeldSource { lost_at: now, until: now.after(hold), id, homes, server });
        } else {
            for home in homes {
                self.outboxes.request(home, Request::Lost(SourceId(id)));
            }
        }
        self.woken.push_back((id, Wake::Close));
    }
}
