//! What peers are to hear: from pending subscriptions to one SEND at a time.
//!
//! Owns the order: what a short SEND left, control frames, then the subscriptions in turns. Must
//! never have two SENDs of a peer under way, nor split a frame over two batches.

use std::cmp::Reverse;
use std::io;
use std::rc::Rc;

use super::events::detail_of;
use super::groups::Part;
use super::pacing::{BATCH_BYTES_MAX, Permit, TcpSample};
use super::peer::{Ending, Payload, Peer, Piece, Role};
use super::{Shard, Wake};
use crate::log::CHUNK_BYTES_MAX;
use crate::session::State;
use crate::types::{PeerId, Time};
use crate::wire::{self, KEEPALIVE_FRAME, Message};

/// From this size on, in bytes, a part is sent as it lies; smaller ones are gathered by copying: a
/// copy costs some 4 ns a frame, a SEND 4,500 ns.
pub(super) const DIRECT_BYTES_MIN: usize = 16 << 10;

/// Buffers to gather in that are kept for later (at most 8 MiB a shard).
const GATHERED_MAX: usize = 128;

/// A KEEPALIVE that answers none, for peers of our kind: all others ignore a KEEPALIVE's payload, so
/// a client that counts answers (a barrier) is not misled.
const KEEPALIVE_UNASKED: [u8; 6] = [1, 0, 2, 2, 0x08, 0x01];

/// KEEPALIVEs that go out together, in bytes: they fit into the smallest segment.
const KEEPALIVE_BYTES_MAX: usize = 400;

/// What a peer's writer is to do.
#[derive(Debug)]
pub enum Transmit {
    /// Send it, and report with [`Shard::transmitted`] or [`Shard::transmit_failed`].
    Send(Piece),
    /// Nothing now: a [`Wake::Write`] will come.
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
        let Some(peer) = self.peers.find_mut(id) else {
            return Transmit::Idle;
        };
        assert!(peer.in_flight.is_none(), "one SEND at a time");
        if peer.ending == Ending::Closed {
            return Transmit::Idle;
        }
        let end_of_record = !peer.session.peer_reassembles();
        let rest = peer.rest.take();
        let is_new = rest.is_none();
        if is_new {
            peer.in_flight_is_control = false;
        }
        let piece = match rest {
            Some(rest) => Some(rest),
            None => match control(peer, end_of_record) {
                Some(control) => {
                    peer.in_flight_is_control = true;
                    Some(control)
                }
                None => {
                    let batch = self.next_batch(now, id, sample, end_of_record);
                    batch.or_else(|| self.sync_mark(id))
                }
            },
        };
        let Some(peer) = self.peers.find_mut(id) else {
            return Transmit::Idle;
        };
        let Some(piece) = piece else {
            if peer.ending == Ending::Gracefully && !peer.has_output() && self.has_joined(id) {
                return Transmit::Finish;
            }
            let Some(peer) = self.peers.find_mut(id) else { return Transmit::Idle };
            peer.writer_waits = true;
            if !peer.has_output() {
                peer.session.send_idle();
            }
            return Transmit::Idle;
        };
        peer.writer_waits = false;
        if is_new {
            peer.window.sent(piece.as_slice().len());
        }
        peer.in_flight = Some(piece.clone());
        peer.in_flight_since = now;
        if peer.role != Role::Own {
            peer.session.send_pending(now);
        }
        self.note_deadline(id);
        Transmit::Send(piece)
    }

    /// Whether `transmit` at `now` needs to know how TCP stands.
    pub fn wants_sample(&self, now: Time, id: PeerId) -> bool {
        self.peers.find(id).is_some_and(|peer| {
            peer.session.state() == State::Established
                && !peer.pending.is_empty()
                && now >= peer.paced_until
                && (peer.window.wants_sample(now, peer.session.keepalive_interval_s())
                    || (!peer.session.peer_reassembles() && peer.pacer.wants_sample(now)))
        })
    }

    /// `bytes` of the piece in flight went out. True if `transmit` has more: best asked after the
    /// turn, which may add to it. If not, a [`Wake::Write`] will come.
    pub fn transmitted(&mut self, now: Time, id: PeerId, bytes: usize) -> bool {
        self.counters.bytes_sent += bytes as u64;
        let Some(peer) = self.peers.find_mut(id) else {
            return false;
        };
        let piece = peer.in_flight.take().expect("reported once for each SEND");
        if peer.ending == Ending::Closed {
            return false;
        }
        let gathered;
        (peer.rest, gathered) = piece.rest(bytes);
        if let Some(bytes) = gathered
            && self.gathered.len() < GATHERED_MAX
        {
            self.gathered.push(bytes);
        }
        if peer.has_output() || peer.ending == Ending::Gracefully {
            // A KEEPALIVE that the kernel takes says nothing of the UPDATEs that wait.
            if !peer.in_flight_is_control {
                peer.session.send_progressed(now);
            }
            return true;
        }
        peer.session.send_idle();
        peer.writer_waits = true;
        false
    }

    /// The SEND failed: the connection is over.
    pub fn transmit_failed(&mut self, now: Time, id: PeerId, error: &io::Error) {
        let Some(peer) = self.peers.find_mut(id) else {
            return;
        };
        peer.in_flight = None;
        peer.detail.get_or_insert_with(|| detail_of(error));
        let verdict = peer.session.on_eof();
        self.obey(now, id, verdict);
    }

    /// What TCP_INFO says, after a [`Wake::Sample`]: bytes may be acknowledged while a SEND is
    /// still under way.
    pub fn sampled(&mut self, now: Time, id: PeerId, sample: TcpSample) {
        if let Some(peer) = self.peers.find_mut(id) {
            peer.note_acked(now, &sample);
        }
    }

    /// Has the peer's writer woken, if it waits.
    pub(super) fn wake_writer(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.find_mut(id)
            && peer.writer_waits
        {
            peer.writer_waits = false;
            self.woken.push_back((id, Wake::Write));
        }
    }

    /// Queues subscriptions that got something to send with their peers.
    pub(super) fn queue_ready(&mut self) {
        while let Some((sub, urgent)) = self.groups.take_ready() {
            let subscription = self.groups.subscription(sub);
            let (id, epoch) = (subscription.peer, subscription.epoch);
            let peer = self.peers.find_mut(id).expect("a subscription has its peer");
            if peer.pending.len() > 2 * peer.subscriptions.len() {
                // Most were removed, which costs a search for each: so all of them at once.
                peer.pending.retain(|&(sub, epoch)| self.groups.find(sub, epoch).is_some());
            }
            if urgent {
                peer.pending.push_front((sub, epoch));
            } else {
                peer.pending.push_back((sub, epoch));
            }
            self.wake_writer(id);
        }
    }

    /// Whether all joins of a peer have been answered.
    fn has_joined(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.peers.find(id) else { return true };
        let groups = &mut self.groups;
        peer.subscriptions.iter().all(|&(_, sub)| groups.subscription(sub).is_joined())
    }

    /// What tells the route client, behind all that was pending for it, that a former run is over: a
    /// KEEPALIVE, which it has no other use for.
    fn sync_mark(&mut self, id: PeerId) -> Option<Piece> {
        let uplink = self.peers.find_mut(id)?.uplink.as_mut()?;
        if !std::mem::take(&mut uplink.owes_sync) {
            return None;
        }
        let bytes = Rc::new(KEEPALIVE_FRAME.to_vec());
        Some(Piece::new(Payload::Gathered(bytes), 0..KEEPALIVE_FRAME.len(), false))
    }

    /// The next UPDATEs for a peer, as many as one SEND may carry.
    fn next_batch(
        &mut self,
        now: Time,
        id: PeerId,
        sample: TcpSample,
        end_of_record: bool,
    ) -> Option<Piece> {
        let peer = self.peers.find_mut(id)?;
        if peer.pending.is_empty() {
            return None;
        }
        if end_of_record && peer.uplink.as_ref().is_some_and(|uplink| !uplink.is_gate_open()) {
            return None;
        }
        if now < peer.paced_until {
            return None;
        }
        let bytes_max = match peer.permit(now, &sample, end_of_record) {
            Permit::Batch { bytes_max } => bytes_max,
            Permit::Wait(until) => {
                // What is held back here is no SEND under way, about which we would ask.
                peer.note_acked(now, &sample);
                peer.paced_until = until;
                self.pace_timers.push(Reverse((until, id)));
                return None;
            }
        };
        let piece = self.gather(id, bytes_max, end_of_record)?;
        if end_of_record && let Some(peer) = self.peers.find_mut(id) {
            if peer.pacer.counts_routes() {
                peer.pacer.sent(now, wire::frames(piece.as_slice()).count());
            }
            if let Some(uplink) = &mut peer.uplink
                && uplink.pass_gate(piece.as_slice().len())
            {
                peer.keepalives_owed += 1;
            }
        }
        Some(piece)
    }

    /// One contiguous part if it is large or all there is, else several copied together.
    fn gather(&mut self, id: PeerId, bytes_max: usize, end_of_record: bool) -> Option<Piece> {
        let mut gathered = self.gathered.pop().unwrap_or_default();
        let copied = Rc::get_mut(&mut gathered).expect("nobody else holds a spare one");
        copied.clear();
        loop {
            let peer = self.peers.find_mut(id)?;
            let Some(&(sub, epoch)) = peer.pending.front() else { break };
            if self.groups.find(sub, epoch).is_none() {
                peer.pending.pop_front();
                continue;
            }
            let room = bytes_max.saturating_sub(copied.len()).max(1);
            let part = self.groups.next_part(sub, copied, room);
            let (payload, range) = match part {
                Part::Nothing => {
                    peer.pending.pop_front();
                    self.groups.subscription(sub).queued = false;
                    continue;
                }
                Part::Full => break,
                Part::Copied => {
                    if copied.len() >= bytes_max {
                        break;
                    }
                    continue;
                }
                Part::Shared(frames, range) => (Payload::Shared(frames), range),
                Part::Chunk(chunk, range) => (Payload::Chunk(chunk), range),
            };
            // A subscription's turn is over after a part.
            peer.pending.rotate_left(1);
            let is_large = range.len() >= DIRECT_BYTES_MIN.min(bytes_max / 2);
            let is_all = peer.pending.len() == 1 && self.groups.is_exhausted(sub);
            let piece = Piece::new(payload, range, end_of_record);
            if copied.is_empty() && (is_large || is_all) {
                self.gathered.push(gathered);
                return Some(piece);
            }
            copied.extend_from_slice(piece.as_slice());
            if copied.len() >= bytes_max {
                break;
            }
        }
        let length = copied.len();
        if length == 0 {
            self.gathered.push(gathered);
            return None;
        }
        Some(Piece::new(Payload::Gathered(gathered), 0..length, end_of_record))
    }
}

impl Peer {
    /// What the next SEND of UPDATEs may carry, and when.
    fn permit(&mut self, now: Time, sample: &TcpSample, end_of_record: bool) -> Permit {
        let interval_s = self.session.keepalive_interval_s();
        match self.window.permit(now, interval_s, sample) {
            Permit::Batch { bytes_max: room } if end_of_record => {
                match self.pacer.permit(now, sample) {
                    Permit::Batch { bytes_max } => Permit::Batch { bytes_max: bytes_max.min(room) },
                    wait @ Permit::Wait(_) => wait,
                }
            }
            Permit::Batch { bytes_max } => {
                Permit::Batch { bytes_max: bytes_max.min(CHUNK_BYTES_MAX) }
            }
            wait @ Permit::Wait(_) => wait,
        }
    }
}

/// Control frames overtake UPDATEs. A HELLO goes alone: no KEEPALIVE may share its segment
/// (protocol section 9).
fn control(peer: &mut Peer, end_of_record: bool) -> Option<Piece> {
    let mut bytes = Vec::new();
    if let Some(hello) = peer.hello.take() {
        Message::Hello(hello).encode(&mut bytes);
    } else if peer.keepalives_owed + peer.keepalives_unasked > 0 {
        keepalives(peer, &mut bytes);
    } else if let Some(uplink) = &mut peer.uplink
        && uplink.is_gate_open()
    {
        let bytes_max = if end_of_record { BATCH_BYTES_MAX } else { CHUNK_BYTES_MAX };
        bytes = uplink.take_commands(bytes_max);
        if end_of_record && uplink.pass_gate(bytes.len()) {
            peer.keepalives_owed += 1;
        }
    }
    let length = bytes.len();
    (length > 0).then(|| Piece::new(Payload::Gathered(Rc::new(bytes)), 0..length, end_of_record))
}

fn keepalives(peer: &mut Peer, bytes: &mut Vec<u8>) {
    let reassembles = peer.session.peer_reassembles();
    while peer.keepalives_unasked > 0
        && bytes.len() + KEEPALIVE_UNASKED.len() <= KEEPALIVE_BYTES_MAX
    {
        peer.keepalives_unasked -= 1;
        let frame: &[u8] = if reassembles { &KEEPALIVE_UNASKED } else { &KEEPALIVE_FRAME };
        bytes.extend_from_slice(frame);
    }
    let fitting = (KEEPALIVE_BYTES_MAX - bytes.len()) / KEEPALIVE_FRAME.len();
    let answers = peer.keepalives_owed.min(fitting as u32);
    peer.keepalives_owed -= answers;
    for _ in 0..answers {
        bytes.extend_from_slice(&KEEPALIVE_FRAME);
    }
    if let Some(uplink) = &mut peer.uplink {
        uplink.sent_keepalives(u64::from(answers));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::shard::{Limits, bounds_tests};
    use crate::types::{Action, Destination, NextHop, NextHopType, Route, Vni};
    use crate::wire::{Hello, encode_update};

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
            encode_update(&mut frame, Action::Add, VNI, &Route { destination, next_hop });
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
        while shard.take_woken().is_some() {}
        assert!(matches!(shard.transmit(NOW, id, TcpSample::default()), Transmit::Idle));
        while shard.turn(NOW) {}
        assert_eq!(shard.take_woken(), Some((id, Wake::Write)), "the join was answered");
        assert!(matches!(shard.transmit(NOW, id, TcpSample::default()), Transmit::Finish));
    }

    #[test]
    fn no_more_spare_buffers_are_kept_than_fit() {
        let mut shard = shard();
        let ids: Vec<PeerId> =
            (0..2 * GATHERED_MAX).map(|_| peer(&mut shard, &Message::Keepalive)).collect();
        let mut lengths = Vec::new();
        for &id in &ids {
            shard.receive(NOW, id, &KEEPALIVE_FRAME);
            if let Transmit::Send(piece) = shard.transmit(NOW, id, TcpSample::default()) {
                lengths.push(piece.as_slice().len());
            }
        }
        for (id, length) in ids.into_iter().zip(lengths) {
            shard.transmitted(NOW, id, length);
        }
        assert_eq!(shard.gathered.len(), GATHERED_MAX);
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
            assert_eq!(shard.take_woken(), Some((reader, Wake::Write)));
            assert_eq!(sent(&mut shard, later, sample), 0);
            sample.bytes_acked = 1_000_000;
            let later = shard.next_wakeup();
            shard.turn(later);
            assert_eq!(shard.take_woken(), Some((reader, Wake::Write)));
            let second = sent(&mut shard, later, sample);
            assert!(second > first, "{second}: the path was faster than thought");
        }
    }
}
