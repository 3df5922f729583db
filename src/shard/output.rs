//! What peers are to hear: from pending subscriptions to one SEND at a time.
//!
//! Owns the way from the groups' logs to a peer's next piece. Must never split a frame over two batches.

use std::cmp::Reverse;
use std::io;
use std::rc::Rc;

use super::events::detail_of;
use super::groups::{Part, SubIndex};
use super::pacing::{BATCH_BYTES_MAX, Packer, Permit, SMALL_BYTES_MAX, TcpSample};
use super::peer::{Due, Ending, Kind};
use super::piece::{DIRECT_BYTES_MIN, Gathered, Piece};
use super::{Shard, Wake};
use crate::log::CHUNK_BYTES_MAX;
use crate::session::{CloseReason, Session};
use crate::types::{PeerId, Time};
use crate::wire::{FRAME_BYTES_MAX, frames};

/// What is kept of a peer's input, in bytes: a partial frame, and one read while it is paused.
pub(super) const INPUT_BYTES_MAX: usize = FRAME_BYTES_MAX + (64 << 10);

/// Buffers to gather in that are kept for later.
pub(super) const SPARE_MAX: usize = 128;
/// What buffers to gather in may take, in bytes. Beyond that they are small ones: a SEND of 4 KiB costs a few times
/// as much a frame as one of 64, but 10,000 peers that come back at once must not take 640 MiB.
pub(super) const GATHERED_BYTES_MAX: usize = 32 << 20;
const GATHERED_SMALL: usize = 4 << 10;
/// Parts of 64 KiB that a peer may pass over, for it is told of them otherwise, before others have their turn.
const PASSED_MAX: usize = 4;

/// What a peer's writer is to do.
#[derive(Debug)]
pub enum Transmit {
    /// Send it, and report with [`Shard::transmitted`] or [`Shard::transmit_failed`].
    Send(Piece),
    /// Nothing now: [`Shard::take_writer`] will name the peer.
    Idle,
    /// All is sent, and nothing more will be: shut the write side down.
    Finish,
}

impl Shard {
    /// What the peer's writer is to do now. `sample` counts where [`Shard::wants_sample`] says so.
    ///
    /// # Panics
    /// If a SEND of this peer is under way.
    pub fn transmit(&mut self, now: Time, id: PeerId, sample: TcpSample) -> Transmit {
        let Some(peer) = self.peers.find_mut(id) else { return Transmit::Idle };
        if peer.ending == Ending::Closed {
            return Transmit::Idle;
        }
        if self.handover.is_frozen {
            peer.outbound.idle();
            return Transmit::Idle;
        }
        // With these it goes by what TCP tells, be it control frames or UPDATEs.
        let is_held = !peer.link.reassembles() && !peer.outbound.has_rest();
        let control = match is_held {
            true => None,
            false => peer.outbound.before_updates(&peer.link, CHUNK_BYTES_MAX),
        };
        let next = control.or_else(|| self.next_permitted(now, id, &sample));
        self.set_timer(now, id);
        let Some(peer) = self.peers.find_mut(id) else { return Transmit::Idle };
        let behind = || if is_held { None } else { peer.outbound.behind_updates(&peer.link) };
        let Some(next) = next.or_else(behind) else {
            return self.nothing_to_send(now, id);
        };
        let piece = peer.outbound.send(now, &peer.link, next);
        if peer.link.session().is_some() {
            self.counters.updates_sent += u64::from(piece.updates);
        }
        peer.link.tell(|session| session.send_pending(now));
        self.note_deadline(id);
        Transmit::Send(piece)
    }

    /// Whether `transmit` at `now` needs to know how TCP stands.
    pub fn wants_sample(&self, now: Time, id: PeerId) -> bool {
        self.peers.find(id).is_some_and(|peer| peer.outbound.wants_sample(now, &peer.link))
    }

    /// `bytes` of the piece in flight went out. If `transmit` has more, [`Shard::take_writer`] will name
    /// the peer: best after the turn, which may add to it.
    pub fn transmitted(&mut self, now: Time, id: PeerId, bytes: usize) {
        self.counters.bytes_sent += bytes as u64;
        let Some(peer) = self.peers.find_mut(id) else { return };
        if let Some(buffer) = peer.outbound.sent(now, bytes) {
            keep(&mut self.gathered, buffer);
        }
        if peer.ending == Ending::Closed {
            return;
        }
        if !peer.outbound.has_output() {
            peer.record.takes_all(now, id);
        }
        let goes_on = peer.outbound.may_go_on();
        if peer.outbound.has_output() || peer.ending == Ending::Gracefully {
            if !peer.outbound.was_control() {
                peer.link.tell(|session| session.send_progressed(now));
            }
            if goes_on || peer.ending == Ending::Gracefully {
                self.peers.wake_writer(id);
            }
        } else {
            peer.note_idle();
            if peer.outbound.wants_small() {
                self.peers.wake_writer(id);
            }
        }
        self.set_timer(now, id);
    }

    /// The SEND failed: the connection is over.
    pub fn transmit_failed(&mut self, now: Time, id: PeerId, error: &io::Error) {
        if let Some(peer) = self.peers.find_mut(id) {
            peer.outbound.failed();
            peer.record.explain(|| detail_of(error));
        }
        self.tell_session(now, id, Session::on_eof);
    }

    /// What TCP_INFO says, after a [`Wake::Sample`]: bytes may be acknowledged while a SEND is
    /// still under way.
    pub fn sampled(&mut self, now: Time, id: PeerId, sample: TcpSample) {
        if let Some(peer) = self.peers.find_mut(id) {
            peer.note_acked(now, &sample);
        }
    }

    /// Whether [`Shard::polled`] wants a sample whatever is acknowledged.
    pub fn wants_look(&self, id: PeerId) -> bool {
        self.peers.find(id).is_some_and(|peer| peer.outbound.wants_look())
    }

    /// After a [`Wake::Poll`]: how TCP stands, if all is acknowledged that the peer was sent, or
    /// [`Shard::wants_look`] says so. `now` is the time after that was asked.
    pub fn polled(&mut self, now: Time, id: PeerId, sample: Option<TcpSample>) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if peer.ending == Ending::Closed {
            return;
        }
        if let Some(sample) = &sample {
            peer.note_acked(now, sample);
        }
        if peer.outbound.polled(now, &peer.link, sample.as_ref()) {
            self.peers.wake_writer(id);
        }
        self.set_timer(now, id);
    }

    /// A timer of the peer's that was set for `at` goes off.
    pub(super) fn on_peer_timer(&mut self, now: Time, at: Time, id: PeerId) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if peer.ending == Ending::Closed {
            return;
        }
        match peer.outbound.on_timer(now, at) {
            Due::Nothing => self.set_timer(now, id),
            Due::Poll => self.woken.push_back((id, Wake::Poll)),
            Due::Write => self.peers.wake_writer(id),
            Due::PollAndWrite => {
                self.woken.push_back((id, Wake::Poll));
                self.peers.wake_writer(id);
            }
        }
    }

    fn set_timer(&mut self, now: Time, id: PeerId) {
        if let Some(peer) = self.peers.find_mut(id)
            && let Some(at) = peer.outbound.take_timer(now)
        {
            self.pace_timers.push(Reverse((at, id)));
        }
    }

    fn nothing_to_send(&mut self, now: Time, id: PeerId) -> Transmit {
        // It may have been told all that it had missed just now.
        self.note_laggards(now);
        let Some(peer) = self.peers.find_mut(id) else { return Transmit::Idle };
        if peer.ending == Ending::Gracefully && !peer.outbound.has_output() {
            let groups = &mut self.groups;
            if peer.subscriptions.values().all(|&sub| groups.subscription(sub).is_joined()) {
                return Transmit::Finish;
            }
        }
        peer.outbound.idle();
        peer.note_idle();
        if !peer.outbound.has_output() {
            peer.record.takes_all(now, id);
        }
        Transmit::Idle
    }

    /// What the peer may be sent next: UPDATEs, as many as one SEND may carry. If it does not reassemble,
    /// control frames come before them.
    fn next_permitted(
        &mut self,
        now: Time,
        id: PeerId,
        sample: &TcpSample,
    ) -> Option<(Piece, Kind)> {
        let peer = self.peers.find_mut(id)?;
        if peer.ending == Ending::Gracefully && !peer.outbound.has_output() {
            return None;
        }
        let permit = peer.outbound.permit(now, &peer.link, sample)?;
        let end_of_record = !peer.link.reassembles();
        match permit {
            // What is held back here is no SEND under way, about which we would ask.
            Permit::Wait(_) => peer.note_acked(now, sample),
            Permit::Close => self.close(now, id, CloseReason::Unread),
            Permit::Keepalive => return Some(peer.outbound.one_keepalive()),
            Permit::Batch { .. } | Permit::Slices { .. } | Permit::Small => {
                let control_max = match permit {
                    Permit::Small => SMALL_BYTES_MAX,
                    _ => BATCH_BYTES_MAX,
                };
                if end_of_record
                    && let Some(control) = peer
                        .outbound
                        .before_updates(&peer.link, control_max)
                        .or_else(|| peer.outbound.behind_updates(&peer.link))
                {
                    return Some(control);
                }
                let updates = match permit {
                    Permit::Batch { bytes_max } => self.gather(now, id, bytes_max, end_of_record),
                    Permit::Slices { slice_bytes, bytes_max } => {
                        self.pack(now, id, slice_bytes, bytes_max)
                    }
                    _ => self.gather(now, id, 1, end_of_record),
                };
                if let Some(piece) = updates {
                    return Some((piece, Kind::Updates));
                }
                let peer = self.peers.find_mut(id)?;
                if permit == Permit::Small {
                    return Some(peer.outbound.one_keepalive());
                }
            }
        }
        None
    }

    /// Slices of whole frames: copied in any case.
    fn pack(
        &mut self,
        now: Time,
        id: PeerId,
        slice_bytes: usize,
        bytes_max: usize,
    ) -> Option<Piece> {
        let (mut packed, bytes_max) = self.buffer(bytes_max);
        let buffer = Rc::get_mut(&mut packed).expect("nobody else holds a spare one");
        let mut packer = Packer::new(slice_bytes, bytes_max);
        let mut told = std::mem::take(&mut self.told);
        let mut turn = Turn::default();
        while packer.free() > 0 {
            told.clear();
            let free = packer.free();
            match self.next_part(now, id, &mut turn, &mut told, (free, free)) {
                Some(Taken::Copied) => packer.add(&told, &mut buffer.bytes),
                Some(Taken::Lies(piece)) => packer.add(piece.as_slice(), &mut buffer.bytes),
                None => break,
            }
        }
        self.told = told;
        self.peers.find_mut(id)?.outbound.padded(packer.pads());
        self.finish(packed, turn.updates, true)
    }

    /// One contiguous part if it is large or all there is, else several copied together.
    fn gather(
        &mut self,
        now: Time,
        id: PeerId,
        bytes_max: usize,
        end_of_record: bool,
    ) -> Option<Piece> {
        let (mut gathered, copied_max) = self.buffer(bytes_max);
        let buffer = Rc::get_mut(&mut gathered).expect("nobody else holds a spare one");
        let copied = &mut buffer.bytes;
        let mut turn = Turn::default();
        while copied.is_empty() || copied.len() < copied_max {
            let left = match copied.len() {
                0 => (bytes_max, copied_max),
                length => (copied_max - length, copied_max - length),
            };
            match self.next_part(now, id, &mut turn, copied, left) {
                None => break,
                Some(Taken::Copied) => {}
                Some(Taken::Lies(mut piece)) => {
                    let is_large = piece.as_slice().len() >= DIRECT_BYTES_MIN.min(copied_max / 2);
                    if copied.is_empty() && (is_large || self.is_all(id, turn.sub)) {
                        keep(&mut self.gathered, gathered);
                        piece.end_of_record = end_of_record;
                        return Some(piece);
                    }
                    copied.extend_from_slice(piece.as_slice());
                }
            }
        }
        self.finish(gathered, turn.updates, end_of_record)
    }

    /// An empty buffer to copy to, and how much of `bytes_max` may be.
    fn buffer(&mut self, bytes_max: usize) -> (Rc<Gathered>, usize) {
        let is_tight = self.gathered_bytes.get() > GATHERED_BYTES_MAX;
        let copied_max = if is_tight { bytes_max.min(GATHERED_SMALL) } else { bytes_max };
        let spare = if is_tight { None } else { self.gathered.pop() };
        let mut buffer = spare.unwrap_or_else(|| Gathered::new(&self.gathered_bytes));
        Rc::get_mut(&mut buffer).expect("nobody else holds a spare one").bytes.clear();
        (buffer, copied_max)
    }

    /// What was copied, if it was something.
    fn finish(
        &mut self,
        mut buffer: Rc<Gathered>,
        updates: usize,
        end_of_record: bool,
    ) -> Option<Piece> {
        let gathered = Rc::get_mut(&mut buffer).expect("nobody else holds a spare one");
        gathered.count();
        if gathered.bytes.is_empty() {
            keep(&mut self.gathered, buffer);
            return None;
        }
        Some(Piece::gathered(buffer, updates, end_of_record))
    }

    /// The next part of at most so many bytes as it lies, or copied behind what was; None if there is nothing
    /// that fits, or others have their turn first.
    fn next_part(
        &mut self,
        now: Time,
        id: PeerId,
        turn: &mut Turn,
        copied: &mut Vec<u8>,
        (bytes_max, copied_max): (usize, usize),
    ) -> Option<Taken> {
        loop {
            let peer = self.peers.find_mut(id)?;
            let (sub, epoch) = peer.outbound.first()?;
            if self.groups.find(sub, epoch).is_none() {
                peer.outbound.drop_first();
                continue;
            }
            turn.sub = sub;
            let piece = match self.groups.next_part(sub, copied, bytes_max, copied_max) {
                Part::Nothing => {
                    peer.outbound.drop_first();
                    self.groups.subscription(sub).queued = false;
                    continue;
                }
                Part::Full => return None,
                Part::Passed if turn.passed == PASSED_MAX => {
                    peer.outbound.go_on_later(now);
                    return None;
                }
                Part::Passed => {
                    turn.passed += 1;
                    continue;
                }
                Part::Copied(bytes) => {
                    turn.updates += frames(&copied[copied.len() - bytes..]).count();
                    return Some(Taken::Copied);
                }
                Part::Lies(piece, read_at) => {
                    if let Some(age) = read_at.and_then(|read_at| read_at.age(now)) {
                        self.propagation.note(age);
                    }
                    piece
                }
            };
            // A subscription's turn is over after a part.
            peer.outbound.end_turn();
            turn.updates += piece.updates as usize;
            return Some(Taken::Lies(piece));
        }
    }

    /// Whether nothing is left to send, the subscription that was read last included.
    fn is_all(&mut self, id: PeerId, sub: SubIndex) -> bool {
        self.peers.find(id).is_some_and(|peer| peer.outbound.queued() == 1)
            && self.groups.is_exhausted(sub)
    }
}

/// What a part was.
enum Taken {
    /// It was copied behind what was copied before.
    Copied,
    /// As it lies.
    Lies(Piece),
}

/// One look for something to send.
#[derive(Default)]
struct Turn {
    /// UPDATEs in what was found so far.
    updates: usize,
    /// The subscription that was read last.
    sub: SubIndex,
    /// Parts that were passed over.
    passed: usize,
}

/// Keeps a buffer for later.
fn keep(spare: &mut Vec<Rc<Gathered>>, buffer: Rc<Gathered>) {
    if spare.len() < SPARE_MAX {
        spare.push(buffer);
    }
}
