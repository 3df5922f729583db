//! What peers say: from bytes to requests.
//!
//! Owns the way of a message through its session to the home of its VNI. Must never act on a
//! message that the session did not deliver.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::time::Duration;

use super::events::{QUIET, detail_of};
use super::groups::SubIndex;
use super::mail::{Lane, Request};
use super::peer::{Admission, Ending, Heard, Pause};
use super::refused::Refused;
use super::{Pressure, Shard, Wake};
use crate::rib::UpdateGroup;
use crate::session::{CloseReason, Session, State, Verdict};
use crate::types::{Action, PeerId, ShardId, Time, Vni};
use crate::wire::{Fault, Message, Reaction, Update};

/// A peer that is lost so soon after it was fed may have failed at that.
const FAILS_WITHIN: Duration = Duration::from_secs(10);
/// Subscriptions of peers that have gone which a turn drops.
const LEAVING_PER_TURN: usize = 512;
/// Input of peers that waited for the same which a turn takes up, in bytes; that of one at least.
const RESUMED_BYTES_PER_TURN: usize = 16 << 10;

impl Shard {
    /// Bytes that the socket read. What cannot be processed yet is kept: `wants_read` is false then.
    pub fn receive(&mut self, now: Time, id: PeerId, bytes: &[u8]) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if peer.ending == Ending::Closed {
            return;
        }
        self.counters.bytes_received += bytes.len() as u64;
        peer.outbound.heard();
        if peer.inbound.is_paused() {
            return peer.inbound.keep(bytes);
        }
        let mut rest = bytes;
        self.consume(now, id, &mut rest);
        if !rest.is_empty()
            && let Some(peer) = self.peers.find_mut(id)
            && peer.ending != Ending::Closed
        {
            peer.inbound.keep(rest);
        }
    }

    /// Whether the reader may go on. If not, a [`Wake::Read`] will come.
    pub fn wants_read(&self, id: PeerId) -> bool {
        self.peers.find(id).is_some_and(|peer| !peer.inbound.is_paused())
    }

    /// The socket's read side ended: end of stream, or an error.
    pub fn read_ended(&mut self, now: Time, id: PeerId, result: io::Result<()>) {
        if let Err(error) = &result
            && let Some(peer) = self.peers.find_mut(id)
        {
            peer.record.explain(|| detail_of(error));
        }
        self.tell_session(now, id, Session::on_eof);
    }

    /// Resumes peers whose homes have room again, or of whose changes enough is known, as many as a turn may. Called
    /// each turn; looks at nobody else. True if some are left.
    pub(super) fn resume_paused(&mut self, now: Time) -> bool {
        let mut left = false;
        let homes = (0..self.config.shards).map(ShardId);
        for (home, lane) in homes.flat_map(|home| Lane::ALL.map(|lane| (home, lane))) {
            // Those that pause again have had their turn.
            let mut bytes = 0;
            for _ in 0..self.paused[home.index()][lane as usize].len() {
                if self.outboxes.is_home_full(home, lane) {
                    break;
                }
                if bytes >= RESUMED_BYTES_PER_TURN {
                    left = true;
                    break;
                }
                if let Some(id) = self.paused[home.index()][lane as usize].pop_front() {
                    bytes += self.resume(now, id, |pause| *pause == Pause::Home(home, lane));
                }
            }
        }
        let mut bytes = 0;
        while bytes < RESUMED_BYTES_PER_TURN
            && let Some(id) = self.settled.pop_front()
        {
            bytes +=
                self.resume(now, id, |pause| matches!(pause, Pause::Quota(_) | Pause::Changes));
        }
        let mut bytes = 0;
        while bytes < RESUMED_BYTES_PER_TURN
            && let Some(&Reverse((at, id))) = self.rated.peek()
            && at <= now
        {
            self.rated.pop();
            bytes += self.resume(now, id, |pause| *pause == Pause::Rate(at));
        }
        // Those of the last kind bring a turn by themselves.
        left || !self.settled.is_empty()
    }

    /// Returns how much of its input the peer was heard with, in bytes.
    pub(super) fn resume(
        &mut self,
        now: Time,
        id: PeerId,
        over: impl FnOnce(&Pause) -> bool,
    ) -> usize {
        let Some(peer) = self.peers.find_mut(id) else { return 0 };
        let read_at = peer.inbound.read_at();
        let Some((change, backlog)) = peer.inbound.resume(over) else { return 0 };
        self.read_at = Some(read_at);
        if let Some(update) = change {
            self.on_update(now, id, &update);
        }
        // It may have sent too much before it was paused for something else.
        let owing_until = self.peers.find_mut(id).and_then(|peer| peer.inbound.is_owing(now));
        if let Some(until) = owing_until {
            self.pause(now, id, Pause::Rate(until));
        }
        let mut rest = &backlog[..];
        self.consume(now, id, &mut rest);
        self.read_at = None;
        let used = backlog.len() - rest.len();
        let Some(peer) = self.peers.find_mut(id) else { return used };
        if peer.inbound.is_paused() {
            peer.inbound.keep_rest(backlog, used);
        } else if peer.ending != Ending::Closed {
            peer.link.tell(|session| session.resume(now));
            self.woken.push_back((id, Wake::Read));
        }
        used
    }

    /// Processes messages until the input is used up or the peer is paused or closed.
    fn consume(&mut self, now: Time, id: PeerId, input: &mut &[u8]) {
        while let Some(peer) = self.peers.find_mut(id)
            && peer.ending != Ending::Closed
            && let Some(session) = peer.link.session_mut()
            && let Some(heard) = peer.inbound.next(input)
        {
            match heard {
                Ok(Heard { message: Message::Update(update), .. }) => {
                    let verdict = session.on_update(now);
                    if verdict == Verdict::Deliver {
                        let owing_until = peer.inbound.spend(now);
                        self.on_update(now, id, &update);
                        self.pause_for_rate(now, id, owing_until);
                    } else {
                        self.obey(now, id, verdict);
                    }
                }
                Ok(heard) => {
                    let verdict = session.on_message(now, &heard.message);
                    self.on_message(now, id, &heard, verdict);
                }
                Err(fault) => self.on_fault(now, id, &fault),
            }
        }
    }

    fn on_message(&mut self, now: Time, id: PeerId, heard: &Heard, verdict: Verdict) {
        match (verdict, &heard.message) {
            (Verdict::Deliver, Message::Subscribe(vni)) => self.subscribe(now, id, *vni),
            (Verdict::Deliver, Message::Unsubscribe(vni)) => self.unsubscribe(id, *vni),
            _ => self.obey(now, id, verdict),
        }
        if heard.message == Message::Keepalive {
            self.look_for_silence(now, id);
        }
        // Ours say KEEPALIVE unasked with a payload, which others ignore.
        if heard.message == Message::Keepalive && heard.is_bare {
            self.server_answered(now, id);
        }
        self.note_deadline(id);
    }

    fn on_fault(&mut self, now: Time, id: PeerId, fault: &Fault) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        let Some(session) = peer.link.session_mut() else { return };
        match fault.reaction() {
            Reaction::Close => {
                let verdict = session.on_fault();
                peer.record.explain(|| fault.to_string());
                self.obey(now, id, verdict);
            }
            Reaction::DropMessage => {
                // In a state where no UPDATE is allowed, a bad one is not either.
                let verdict = session.on_update(now);
                if verdict != Verdict::Deliver {
                    return self.obey(now, id, verdict);
                }
                self.counters.refused[Refused::Invalid.kind()] += 1;
                self.refused(now, id, Refused::Invalid, 1, fault);
                let peer = self.peers.find_mut(id);
                let owing_until = peer.and_then(|peer| peer.inbound.spend(now));
                self.pause_for_rate(now, id, owing_until);
            }
        }
    }

    /// A change of the peer's routes, on its way to the home of its VNI.
    pub(super) fn on_update(&mut self, now: Time, id: PeerId, update: &Update) {
        let home = ShardId::home_of(update.vni, self.config.shards);
        let Some(peer) = self.peers.find_mut(id) else { return };
        let is_dialled = peer.link.is_dialled();
        if is_dialled && !self.node.wants(id, update) {
            return;
        }
        if update.action == Action::Add {
            peer.origin.announces(now);
        }
        match peer.inbound.admit(update.action) {
            Admission::Passes => {}
            Admission::Waits => return self.pause(now, id, Pause::Quota(*update)),
            Admission::Refused => {
                self.counters.refused[Refused::RoutesPerPeer.kind()] += 1;
                let what = format_args!("{} of VNI {}", update.route, update.vni);
                return self.refused(now, id, Refused::RoutesPerPeer, 1, &what);
            }
        }
        let introduction = peer.introduce(home, self.config.id);
        let is_ahead = peer.inbound.is_ahead();
        let change = Request::Change {
            source: peer.origin.source(),
            class: peer.link.class(),
            action: update.action,
            vni: update.vni,
            route: update.route,
            read_at: Some(self.read_at.unwrap_or(now).into()),
        };
        self.counters.updates_received += 1;
        if let Some(introduction) = introduction {
            self.outboxes.request(home, introduction);
        }
        self.outboxes.request(home, change);
        if is_dialled {
            self.server_told(now, id, update);
        }
        if self.outboxes.is_home_full(home, Lane::Changes) {
            self.pause(now, id, Pause::Home(home, Lane::Changes));
        } else if is_ahead {
            self.pause(now, id, Pause::Changes);
        }
    }

    pub(super) fn subscribe(&mut self, now: Time, id: PeerId, vni: Vni) {
        let Some(peer) = self.peers.find(id) else { return };
        if peer.subscriptions.contains_key(&vni) {
            // Clients in the field do send it twice.
            return tracing::debug!(%id, %vni, "SUBSCRIBE again");
        }
        let group = UpdateGroup::new(vni, peer.group_class());
        let ledger = &self.config.ledger;
        let refused = if peer.subscriptions.len() >= peer.vnis_max {
            Refused::VnisPerPeer
        } else if ledger.pressure() >= Pressure::Joins {
            Refused::SubscriptionsMemory
        } else if !ledger.take_subscription(self.config.limits.subscriptions_max) {
            Refused::Subscriptions
        } else {
            return self.subscribe_in(now, id, group);
        };
        self.counters.refused[refused.kind()] += 1;
        self.refused(now, id, refused, 1, &format_args!("the subscription of VNI {vni}"));
        let peer = self.peers.find_mut(id);
        let owing_until = peer.and_then(|peer| peer.inbound.ask_in_vain(now));
        self.pause_for_rate(now, id, owing_until);
    }

    /// Subscribes a peer, which is not yet subscribed to the VNI, in a group. The subscription is counted already.
    pub(super) fn subscribe_in(&mut self, now: Time, id: PeerId, group: UpdateGroup) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        let who = (id, peer.reader());
        let Entry::Vacant(place) = peer.subscriptions.entry(group.vni) else { return };
        self.epoch += 1;
        place.insert(self.groups.subscribe(group, who, self.epoch));
        let home = ShardId::home_of(group.vni, self.config.shards);
        self.outboxes.request(home, Request::Join { group, peer: id, epoch: self.epoch });
        if self.outboxes.is_home_full(home, Lane::Joins) {
            self.pause(now, id, Pause::Home(home, Lane::Joins));
        }
    }

    pub(super) fn unsubscribe(&mut self, id: PeerId, vni: Vni) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        match peer.subscriptions.remove(&vni) {
            Some(sub) => {
                self.drop_subscription(sub);
                self.forget_queued(id);
            }
            None => tracing::debug!(%id, %vni, "UNSUBSCRIBE without a subscription"),
        }
    }

    /// Where most of what is queued was removed meanwhile, all of that at once: one costs a search.
    fn forget_queued(&mut self, id: PeerId) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if peer.outbound.queued() > 2 * peer.subscriptions.len() {
            peer.outbound.retain(|sub, epoch| self.groups.find(sub, epoch).is_some());
        }
    }

    fn drop_subscription(&mut self, sub: SubIndex) {
        self.config.ledger.discount_subscription();
        if let Some(group) = self.groups.unsubscribe(sub) {
            let home = ShardId::home_of(group.vni, self.config.shards);
            self.outboxes.request(home, Request::Leave(group));
        }
    }

    /// Drops subscriptions of peers that have gone, a share each turn: thousands of peers may go at once, with thousands
    /// of them each. True if some are left.
    pub(super) fn drop_leaving(&mut self) -> bool {
        for _ in 0..LEAVING_PER_TURN {
            let Some(subscriptions) = self.leaving.front_mut() else { return false };
            match subscriptions.pop_first() {
                Some((_, sub)) => self.drop_subscription(sub),
                None => drop(self.leaving.pop_front()),
            }
        }
        !self.leaving.is_empty()
    }

    pub(super) fn pause(&mut self, now: Time, id: PeerId, pause: Pause) {
        if let Some(peer) = self.peers.find_mut(id)
            && peer.pause(now, self.read_at.unwrap_or(now), pause)
        {
            match pause {
                Pause::Home(home, lane) => self.paused[home.index()][lane as usize].push_back(id),
                Pause::Rate(until) => self.rated.push(Reverse((until, id))),
                // Whoever answers looks for the peer.
                Pause::Quota(_) | Pause::Changes | Pause::Origin | Pause::Handover => {}
            }
            self.note_deadline(id);
        }
    }

    /// A peer that sends more than it may is not heard until then.
    #[inline]
    fn pause_for_rate(&mut self, now: Time, id: PeerId, owing_until: Option<Time>) {
        if let Some(until) = owing_until {
            self.counters.rate_pauses += 1;
            self.pause(now, id, Pause::Rate(until));
        }
    }

    /// Counts refusals of a peer, and says so if they are the first for a while.
    pub(super) fn refused(
        &mut self,
        now: Time,
        id: PeerId,
        refused: Refused,
        count: u64,
        what: &dyn fmt::Display,
    ) {
        if let Some(peer) = self.peers.find_mut(id)
            && peer.record.refuse(now, refused, count, what)
        {
            self.refused.push(id);
            self.next_summary = self.next_summary.min(now.after(QUIET));
        }
    }

    /// Tells a peer's session something, and does what it says.
    pub(super) fn tell_session(
        &mut self,
        now: Time,
        id: PeerId,
        something: impl FnOnce(&mut Session) -> Verdict,
    ) {
        if let Some(session) = self.peers.find_mut(id).and_then(|peer| peer.link.session_mut()) {
            let verdict = something(session);
            self.obey(now, id, verdict);
        }
    }

    /// Does what a session says.
    pub(super) fn obey(&mut self, now: Time, id: PeerId, verdict: Verdict) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        let Some(session) = peer.link.session() else { return };
        let is_dialled = peer.link.is_dialled();
        if is_dialled || matches!(verdict, Verdict::Established { .. }) {
            self.woken.push_back((id, Wake::State));
        }
        match verdict {
            Verdict::Ignore => {}
            Verdict::Deliver => unreachable!("handled where the message is known"),
            Verdict::SendHello(hello) => peer.outbound.owe_hello(hello),
            Verdict::SendKeepalive => peer.owe_keepalive(),
            Verdict::Established { send_keepalive } => {
                peer.record.established(now, id, session);
                if send_keepalive {
                    peer.outbound.owe_keepalive();
                }
                match is_dialled {
                    true => self.server_established(now, id),
                    false => {
                        self.note_connected(id, true);
                        self.ask_for_origin(now, id);
                    }
                }
            }
            Verdict::Close(reason) => return self.close(now, id, reason),
        }
        self.peers.wake_writer(id);
        self.note_deadline(id);
    }

    /// The connection is over: forget what it wanted, withdraw what it announced.
    pub(super) fn close(&mut self, now: Time, id: PeerId, reason: CloseReason) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if peer.ending == Ending::Closed {
            return;
        }
        peer.record.sum_up(&self.config.limits);
        let is_established = peer.record.established_at().is_some();
        peer.record.end(now, id, reason, self.draining);
        if is_established {
            self.counters.sessions_ended[reason.kind()] += 1;
            self.ends.note(now, peer.record.remote().ip());
        } else {
            self.counters.handshakes_failed[reason.kind()] += 1;
        }
        // CLOSED is what we ended ourselves; what is lost is in RETRY.
        let may_return =
            peer.link.session().is_some_and(|session| session.state() != State::Closed);
        let is_dialled = peer.link.is_dialled();
        if !is_dialled && !peer.link.reassembles() && !self.draining {
            let was_fed = peer.outbound.was_fed(now, FAILS_WITHIN);
            let is_lost = was_fed && reason == CloseReason::RemoteClosed;
            self.counters.pacing.resets += u64::from(is_lost);
            let address = peer.record.remote().ip();
            if (is_lost || reason == CloseReason::Unread) && self.failed.note(now, address) {
                self.outboxes.tell_failed(now, address);
            }
        }
        if is_established {
            self.note_connected(id, false);
        }
        let stays = !is_dialled && is_established && !self.config.stale_time.is_zero();
        // Once draining nothing is withdrawn any more.
        if stays && !self.draining {
            self.depart(now, id, reason);
        }
        let Some(peer) = self.peers.find_mut(id) else { return };
        let (source, homes) = (peer.origin.source(), peer.origin.homes().clone());
        let subscriptions = peer.end();
        if !subscriptions.is_empty() {
            self.leaving.push_back(subscriptions);
        }
        if is_dialled {
            self.server_lost(now, id, may_return);
        } else if !stays && !self.draining {
            self.lose(source, &homes);
        }
        self.woken.push_back((id, Wake::Close));
    }
}
