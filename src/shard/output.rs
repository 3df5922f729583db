//! What peers are to hear: from pending subscriptions to one SEND at a time.
//!
//! Owns the way from the groups' logs to a peer's next piece. Must never split a frame over two batches.

use std::cmp::Reverse;
use std::io;
use std::rc::Rc;

use super::events::detail_of;
use super::groups::{Part, SubIndex};
use super::pacing::{Packer, Permit, TcpSample};
use super::peer::{Due, Ending, Kind};
use super::piece::{DIRECT_BYTES_MIN, Gathered, Payload, Piece};
use super::{Shard, Wake};
use crate::session::{CloseReason, Session};
use crate::types::{PeerId, Time};

/// Buffers to gather in that are kept for later.
const SPARE_MAX: usize = 128;
/// What buffers to gather in may take, in bytes. Beyond that they are small ones: a SEND of 4 KiB costs a few times
/// as much a frame as one of 64, but 10,000 peers that come back at once must not take 640 MiB.
const GATHERED_BYTES_MAX: usize = 32 << 20;
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
        // With these it goes by what TCP tells, be it control frames or UPDATEs.
        let is_held = !peer.link.reassembles() && !peer.outbound.has_rest();
        let control = if is_held { None } else { peer.outbound.before_updates(&peer.link) };
        let next = control.or_else(|| self.next_permitted(now, id, &sample));
        self.set_timer(now, id);
        let Some(peer) = self.peers.find_mut(id) else { return Transmit::Idle };
        let behind = || if is_held { None } else { peer.outbound.behind_updates() };
        let Some(next) = next.or_else(behind) else {
            return self.nothing_to_send(id);
        };
        let piece = peer.outbound.send(now, &peer.link, next);
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

    /// After a [`Wake::Poll`]: how TCP stands, if all is acknowledged that the peer was sent. `now` is
    /// the time after that was asked.
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
        }
    }

    fn set_timer(&mut self, now: Time, id: PeerId) {
        if let Some(peer) = self.peers.find_mut(id)
            && let Some(at) = peer.outbound.take_timer(now)
        {
            self.pace_timers.push(Reverse((at, id)));
        }
    }

    fn nothing_to_send(&mut self, id: PeerId) -> Transmit {
        let Some(peer) = self.peers.find_mut(id) else { return Transmit::Idle };
        if peer.ending == Ending::Gracefully && !peer.outbound.has_output() {
            let groups = &mut self.groups;
            if peer.subscriptions.values().all(|&sub| groups.subscription(sub).is_joined()) {
                return Transmit::Finish;
            }
        }
        peer.outbound.idle();
        peer.note_idle();
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
                if end_of_record
                    && let Some(control) = peer
                        .outbound
                        .before_updates(&peer.link)
                        .or_else(|| peer.outbound.behind_updates())
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
        self.finish(packed, true)
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
        self.finish(gathered, end_of_record)
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
    fn finish(&mut self, mut buffer: Rc<Gathered>, end_of_record: bool) -> Option<Piece> {
        let gathered = Rc::get_mut(&mut buffer).expect("nobody else holds a spare one");
        gathered.count();
        if gathered.bytes.is_empty() {
            keep(&mut self.gathered, buffer);
            return None;
        }
        Some(Piece::gathered(buffer, end_of_record))
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
            let (payload, range) = match self.groups.next_part(sub, copied, bytes_max, copied_max) {
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
                Part::Copied => return Some(Taken::Copied),
                Part::Shared(frames, range) => (Payload::Shared(frames), range),
                Part::Chunk(chunk, range) => (Payload::Chunk(chunk), range),
            };
            // A subscription's turn is over after a part.
            peer.outbound.end_turn();
            return Some(Taken::Lies(Piece::new(payload, range, false)));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::CHUNK_BYTES_MAX;
    use crate::shard::{Limits, bounds_tests};
    use crate::types::{Action, Destination, NextHop, NextHopType, Route, Vni};
    use crate::wire::{Hello, KEEPALIVE_FRAME, Message, encode_update};

    const NOW: Time = Time(1);
    const VNI: Vni = Vni(7);

    fn shard() -> Shard {
        bounds_tests::shard(Limits::default())
    }

    /// An established peer that reassembles and has said this.
    fn peer(shard: &mut Shard, message: &Message) -> PeerId {
        peer_that(true, shard, message)
    }

    fn peer_that(reassembles: bool, shard: &mut Shard, message: &Message) -> PeerId {
        let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles };
        peer_of(hello, shard, message)
    }

    fn peer_of(hello: Hello, shard: &mut Shard, message: &Message) -> PeerId {
        let id = shard.accept(NOW, ([127, 0, 0, 1], 1).into());
        for message in [&Message::Hello(hello), &Message::Keepalive, message] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            shard.receive(NOW, id, &bytes);
            turns(shard);
        }
        drain(shard, id);
        id
    }

    fn turns(shard: &mut Shard) {
        while shard.turn(NOW) {}
        while shard.take_woken().is_some() {}
    }

    fn drain(shard: &mut Shard, id: PeerId) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while let Transmit::Send(piece) = shard.transmit(NOW, id, TcpSample::default()) {
            shard.transmitted(NOW, id, piece.as_slice().len());
            pieces.push(piece);
        }
        pieces
    }

    fn announce(shard: &mut Shard, id: PeerId, numbers: std::ops::Range<u32>) {
        announce_in(shard, id, VNI, numbers);
    }

    fn announce_in(shard: &mut Shard, id: PeerId, vni: Vni, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let destination = Destination { prefix: number.to_be_bytes().into(), length: 32 };
            let next_hop = NextHop {
                address: [0xfd; 16].into(),
                vni: Vni(0),
                kind: NextHopType::STANDARD,
                nat_port_from: 0,
                nat_port_to: 0,
            };
            let mut frame = Vec::new();
            encode_update(&mut frame, Action::Add, vni, &Route { destination, next_hop });
            shard.receive(NOW, id, &frame);
        }
        turns(shard);
    }

    #[test]
    fn a_peer_at_the_end_of_a_chunk_gets_the_next_ones_as_they_lie() {
        let mut shard = shard();
        let announcer = peer(&mut shard, &Message::Keepalive);
        // It reads nothing, so the log keeps its chunks and goes on in the last one.
        let _stalled = peer(&mut shard, &Message::Subscribe(VNI));
        let reader = peer(&mut shard, &Message::Subscribe(VNI));
        announce(&mut shard, announcer, 0..3_400);
        drain(&mut shard, reader);
        announce(&mut shard, announcer, 3_400..7_400);
        let pieces = drain(&mut shard, reader);
        let lengths: Vec<usize> = pieces.iter().map(|piece| piece.as_slice().len()).collect();
        // What is left of the chunk, then whole chunks.
        assert!(lengths[0] < DIRECT_BYTES_MIN, "{lengths:?}");
        let whole = CHUNK_BYTES_MAX - 100..=CHUNK_BYTES_MAX;
        assert!(lengths.len() > 3 && whole.contains(&lengths[1]) && whole.contains(&lengths[2]));
    }

    #[test]
    fn a_draining_peer_whose_join_brings_nothing_is_let_go() {
        let mut shard = shard();
        let id = peer(&mut shard, &Message::Keepalive);
        let mut bytes = Vec::new();
        Message::Subscribe(VNI).encode(&mut bytes);
        shard.receive(NOW, id, &bytes);
        shard.drain(NOW);
        assert_eq!(shard.take_writer(), Some(id));
        assert!(matches!(shard.transmit(NOW, id, TcpSample::default()), Transmit::Idle));
        while shard.turn(NOW) {}
        assert_eq!(shard.take_writer(), Some(id), "the join was answered");
        assert!(matches!(shard.transmit(NOW, id, TcpSample::default()), Transmit::Finish));
    }

    #[test]
    fn buffers_to_gather_in_are_few_or_small() {
        let mut shard = shard();
        let announcer = peer(&mut shard, &Message::Keepalive);
        let readers: Vec<PeerId> = (0..2_000)
            .map(|_| {
                let reader = peer(&mut shard, &Message::Subscribe(VNI));
                let mut bytes = Vec::new();
                Message::Subscribe(Vni(8)).encode(&mut bytes);
                shard.receive(NOW, reader, &bytes);
                turns(&mut shard);
                reader
            })
            .collect();
        // Small parts of two logs: they are copied together.
        announce(&mut shard, announcer, 0..300);
        announce_in(&mut shard, announcer, Vni(8), 0..300);
        let mut lengths = Vec::new();
        for &id in &readers {
            let Transmit::Send(piece) = shard.transmit(NOW, id, TcpSample::default()) else {
                panic!("all have something to send");
            };
            lengths.push(piece.as_slice().len());
        }
        assert!(lengths[0] > 2 * 300 * 30, "{}", lengths[0]);
        // The last ones get one part, as it lies.
        assert_eq!(2 * lengths[1_999], lengths[0]);
        let gathered_bytes = shard.usage().gathered_bytes;
        let most = GATHERED_BYTES_MAX + (64 << 10);
        assert!((GATHERED_BYTES_MAX..most).contains(&gathered_bytes), "{gathered_bytes}");
        for (&id, &length) in readers.iter().zip(&lengths) {
            shard.transmitted(NOW, id, length);
        }
        assert_eq!(shard.gathered.len(), SPARE_MAX);
        // Each gets all the same.
        let left: usize =
            drain(&mut shard, readers[1_999]).iter().map(|it| it.as_slice().len()).sum();
        assert_eq!(lengths[1_999] + left, lengths[0]);
        assert!(drain(&mut shard, readers[0]).is_empty());
    }

    #[test]
    fn a_batch_is_no_longer_than_the_segment_that_was_sampled() {
        let mut shard = shard();
        let announcer = peer(&mut shard, &Message::Keepalive);
        let reader = peer_that(false, &mut shard, &Message::Subscribe(VNI));
        announce(&mut shard, announcer, 0..500);
        let mut now = Time(1_000_000);
        for (snd_mss, bytes_max) in [(65_483, 1_188), (536, 508), (1_208, 1_180)] {
            for is_wanted in [true, false] {
                assert_eq!(shard.wants_sample(now, reader), is_wanted);
                let snd_mss = if is_wanted { snd_mss } else { 0 };
                let sample = TcpSample { snd_mss, ..TcpSample::default() };
                let Transmit::Send(piece) = shard.transmit(now, reader, sample) else {
                    panic!("there is more to send");
                };
                let length = piece.as_slice().len();
                assert!((bytes_max - 100..=bytes_max).contains(&length), "{length} {bytes_max}");
                shard.transmitted(now, reader, length);
            }
            now = now.after(Duration::from_secs(1));
        }
    }

    #[test]
    fn what_a_slow_path_has_not_delivered_is_not_added_to_but_by_keepalives() {
        for reassembles in [true, false] {
            let mut shard = shard();
            let announcer = peer(&mut shard, &Message::Keepalive);
            let hello = Hello { keepalive_interval_s: 1, is_server: false, reassembles };
            let reader = peer_of(hello, &mut shard, &Message::Subscribe(VNI));
            announce(&mut shard, announcer, 0..1_000);
            let mut sample = TcpSample { snd_mss: 1208, ..TcpSample::default() };
            let sent = |shard: &mut Shard, now, sample| {
                let mut lengths = Vec::new();
                while let Transmit::Send(piece) = shard.transmit(now, reader, sample) {
                    lengths.push(piece.as_slice().len());
                    // A short SEND: its rest is not counted again.
                    shard.transmitted(now, reader, 1);
                    if let Transmit::Send(rest) = shard.transmit(now, reader, sample) {
                        shard.transmitted(now, reader, rest.as_slice().len());
                    }
                }
                lengths.iter().sum::<usize>()
            };
            // Half an interval at 64 kbit/s.
            let first = sent(&mut shard, NOW, sample);
            assert!((2_800..=4_000).contains(&first), "{first}");
            assert!(!shard.wants_sample(NOW, reader), "not before its time");
            shard.receive(NOW, reader, &KEEPALIVE_FRAME);
            assert_eq!(sent(&mut shard, NOW, sample), KEEPALIVE_FRAME.len());

            let later = shard.next_wakeup();
            assert!(later > NOW && later <= NOW.after(Duration::from_millis(250)));
            shard.turn(later);
            assert_eq!(shard.take_writer(), Some(reader));
            assert_eq!(sent(&mut shard, later, sample), 0);
            sample.bytes_acked = 1_000_000;
            let later = shard.next_wakeup();
            shard.turn(later);
            assert_eq!(shard.take_writer(), Some(reader));
            let second = sent(&mut shard, later, sample);
            assert!(second > first, "{second}: the path was faster than thought");
        }
    }
}
