//! The pacer against a model of a receiver, in virtual time: its kernel's acknowledgements, and a reader that takes
//! time and stalls.
//!
//! Owns the model. Must never let more wait than a reader survives, nor a byte go beyond the window.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Pacer, Permit, TcpSample, Wants};
use crate::types::{Pace, Time};

/// What breaks a reader.
const OVERRUN: u64 = 65_535;
const FRAME: u64 = 64;
const MSS: u64 = 1_208;
const THRESHOLD: u64 = 65_536;
const DELAYED_ACK: Duration = Duration::from_millis(40);
const RETRANSMITTED: Duration = Duration::from_millis(200);

struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

/// A reader, its kernel, the way there, and what our kernel knows.
struct Peer {
    rng: Rng,
    now: Time,
    way: Duration,
    buffer: u64,
    /// What arrives there, and when: the lengths of segments.
    coming: VecDeque<(Time, u64)>,
    queue: u64,
    received: u64,
    acked: u64,
    edge: u64,
    quick: u64,
    is_pingpong: bool,
    pushed: u8,
    is_pending: bool,
    timer: Option<Time>,
    heard_at: Option<Time>,
    rto: Duration,
    freezes: bool,
    frozen_until: Time,
    /// Of so many segments one is lost, and sent again.
    loses_one_of: u64,
    retransmits: VecDeque<Time>,
    cost: Duration,
    stalls: bool,
    reads: u32,
    busy_until: Time,
    stalled: Duration,
    talks_at: Time,
    talk: Duration,
    /// Ours: acknowledgements under way, and segments with the times at which they left.
    acks: VecDeque<(Time, u64, u64)>,
    sent: u64,
    left: VecDeque<(Time, u64)>,
    known_acked: u64,
    known_edge: u64,
    rtt_eighths: u64,
    talked: u32,
    /// Behind a closed window.
    held: u64,
    seen_talk: VecDeque<Time>,
}

impl Peer {
    fn new(seed: u64) -> Peer {
        let mut rng = Rng((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..8 {
            rng.below(2);
        }
        let cost_us = [0, 10, 50, 200, 300][rng.below(5) as usize];
        let buffer = [20_000, 65_536, 400_000, 400_000][rng.below(4) as usize];
        let way = Duration::from_micros([5, 50, 400, 4_000][rng.below(4) as usize]);
        let talk = Duration::from_millis([0, 0, 0, 23][rng.below(4) as usize]);
        let stalls = rng.below(3) == 0;
        let now = Time(1_000_000);
        Peer {
            rng,
            now,
            way,
            buffer,
            coming: VecDeque::new(),
            queue: 0,
            received: 0,
            acked: 0,
            edge: buffer.min(THRESHOLD),
            quick: 0,
            is_pingpong: seed.is_multiple_of(2),
            pushed: 0,
            is_pending: false,
            timer: None,
            heard_at: None,
            rto: Duration::from_millis(200),
            freezes: false,
            frozen_until: now,
            loses_one_of: u64::MAX,
            retransmits: VecDeque::new(),
            cost: Duration::from_micros(cost_us),
            stalls,
            reads: 0,
            busy_until: now,
            stalled: Duration::ZERO,
            talks_at: if talk.is_zero() { Time::NEVER } else { now },
            talk,
            acks: VecDeque::new(),
            sent: 0,
            left: VecDeque::new(),
            known_acked: 0,
            known_edge: buffer.min(THRESHOLD),
            rtt_eighths: 8 * 2 * way.as_micros() as u64 + 80,
            talked: 0,
            held: 0,
            seen_talk: VecDeque::new(),
        }
    }

    fn send(&mut self, segments: &[u64]) {
        for &bytes in segments {
            self.sent += bytes;
            if self.sent > self.known_edge {
                assert!(bytes == 4, "beyond the window");
                self.held += bytes;
                continue;
            }
            // A busy machine's kernel takes some in much later.
            if self.freezes && self.rng.below(30) == 0 {
                self.frozen_until = self.now.after(Duration::from_millis(self.rng.below(400)));
            }
            if self.rng.below(self.loses_one_of) == 7 {
                let again_at = self.now.after(RETRANSMITTED);
                self.retransmits.push_back(again_at);
                // What follows waits for it, as a reader does.
                self.frozen_until = self.frozen_until.max(again_at.after(self.way));
            }
            let arrival = self.now.after(self.way).max(self.frozen_until);
            self.coming.push_back((arrival, bytes));
            self.left.push_back((self.now, self.sent));
        }
    }

    fn acknowledge(&mut self, now: Time) {
        if std::mem::take(&mut self.is_pending) {
            self.quick = self.quick.saturating_sub(1);
        }
        (self.pushed, self.timer, self.acked) = (0, None, self.received);
        // What is unread does not show while the threshold (rcv_ssthresh) is below what is free.
        let free = self.buffer.saturating_sub(self.queue).min(THRESHOLD);
        self.edge = self.edge.max(self.received + free);
        self.acks.push_back((now.after(self.way), self.received, self.edge));
    }

    fn arrive(&mut self, now: Time, bytes: u64) {
        let credit = 16;
        match self.heard_at.replace(now) {
            None => self.quick = credit,
            Some(before) if now.since(before) > self.rto => self.quick = self.quick.max(credit),
            Some(_) => {}
        }
        if bytes >= 128 {
            self.quick |= 1;
        }
        (self.received, self.queue) = (self.received + bytes, self.queue + bytes);
        self.pushed = self.pushed.saturating_add(1);
        self.is_pending = true;
        let is_much = self.received - self.acked > MSS && self.rng.below(2) == 0;
        if (self.quick > 0 && !self.is_pingpong) || is_much {
            self.acknowledge(now);
        } else if self.timer.is_none() {
            self.timer = Some(now.after(DELAYED_ACK));
        }
    }

    fn read(&mut self, now: Time) {
        assert!(self.queue < OVERRUN, "{} bytes wait for one read", self.queue);
        let bytes = std::mem::take(&mut self.queue);
        let is_much = self.received - self.acked > MSS;
        let is_update = 2 * (self.edge - self.received) <= self.buffer.min(THRESHOLD);
        if self.pushed >= 2 || (self.pushed == 1 && !self.is_pingpong) || is_much || is_update {
            self.acknowledge(now);
        }
        let wake = Duration::from_micros(5 + self.rng.below(40));
        // The first ones hold most credit.
        self.reads += 1;
        let is_first = self.reads <= 3 && self.rng.below(2) == 0;
        let stall = match self.stalls && (is_first || self.rng.below(60) == 0) {
            true => Duration::from_millis([3, 50, 2_000][self.rng.below(3) as usize]),
            false => Duration::ZERO,
        };
        self.stalled += stall;
        self.busy_until = now.after(wake + stall + self.cost * (bytes / FRAME) as u32);
    }

    /// What happens until `then`.
    fn until(&mut self, then: Time) {
        loop {
            let arrival = self.coming.front().map_or(Time::NEVER, |it| it.0);
            let timer = self.timer.unwrap_or(Time::NEVER);
            // A window that was closed is told again by the window probe's answer.
            if self.held > 0 && self.queue == 0 && self.acks.is_empty() {
                let now = self.now;
                self.acknowledge(now);
            }
            let read = if self.queue > 0 { self.busy_until.max(self.now) } else { Time::NEVER };
            let ack = self.acks.front().map_or(Time::NEVER, |it| it.0);
            let at = arrival.min(timer).min(read).min(ack).min(self.talks_at);
            if at > then {
                self.now = then;
                return;
            }
            self.now = at;
            if at == ack {
                let (_, acked, edge) = self.acks.pop_front().unwrap();
                self.known_edge = self.known_edge.max(edge);
                let mut rtt = None;
                while self.left.front().is_some_and(|(_, end)| *end <= acked) {
                    let (left_at, _) = self.left.pop_front().unwrap();
                    rtt = rtt.or(Some(at.since(left_at).as_micros() as u64));
                }
                if let Some(rtt) = rtt {
                    self.rtt_eighths = (self.rtt_eighths + rtt - self.rtt_eighths / 8).max(1);
                }
                self.known_acked = self.known_acked.max(acked);
                if self.held > 0 && self.known_edge >= self.sent {
                    let held = std::mem::take(&mut self.held);
                    self.coming.push_back((at.after(self.way), held));
                    self.left.push_back((at, self.sent));
                }
            } else if at == arrival {
                let (_, bytes) = self.coming.pop_front().unwrap();
                self.arrive(at, bytes);
            } else if at == self.talks_at {
                self.acknowledge(at);
                self.is_pingpong = true;
                self.seen_talk.push_back(at.after(self.way));
                self.talks_at =
                    at.after(self.talk / 2 + self.talk * self.rng.below(64) as u32 / 64);
            } else if at == timer {
                self.acknowledge(at);
                self.is_pingpong = false;
            } else {
                self.read(at);
            }
        }
    }

    fn sample(&mut self) -> TcpSample {
        while self.seen_talk.front().is_some_and(|at| *at <= self.now) {
            self.seen_talk.pop_front();
            self.talked += 1;
        }
        TcpSample {
            snd_mss: MSS as u32,
            queued_bytes: (self.sent - self.known_acked) as u32,
            snd_cwnd: 60,
            unacked_segments: self.left.len() as u32,
            data_segments_received: self.talked,
            total_retrans: self.retransmits.iter().filter(|at| **at <= self.now).count() as u32,
            min_rtt_us: 2 * self.way.as_micros() as u32,
            rtt_us: (self.rtt_eighths / 8) as u32,
            snd_wnd: (self.known_edge - self.known_acked) as u32,
            ..TcpSample::default()
        }
    }
}

/// Frames of UPDATEs that a permit lets pass, as segments.
fn segments(permit: Permit, frames_left: u64) -> Vec<u64> {
    let in_segment = |bytes: usize| (bytes as u64 / FRAME).max(1);
    let (each, segments) = match permit {
        Permit::Batch { bytes_max } => (in_segment(bytes_max), 1),
        Permit::Slices { slice_bytes, bytes_max } => {
            (in_segment(slice_bytes), (bytes_max / slice_bytes) as u64)
        }
        Permit::Small if frames_left > 0 => (1, 1),
        _ => return vec![4],
    };
    let frames = (each * segments).min(frames_left);
    (0..frames.div_ceil(each)).map(|at| FRAME * each.min(frames - at * each)).collect()
}

/// Feeds a peer so many frames: how long that took.
fn feed(peer: &mut Peer, frames: u64, busy: bool) -> (Duration, Pacer) {
    let mut pacer = Pacer::new(Pace::Auto, true, false);
    let (start, mut left, mut woken) = (peer.now, frames, true);
    while left > 0 {
        assert!(peer.now.since(start) < Duration::from_secs(3_000), "{left} frames are left");
        // A busy shard comes when it can.
        if busy {
            let late = Duration::from_micros(peer.rng.below(9_000));
            peer.until(peer.now.after(late));
        }
        let wants = Wants { control_bytes: 0, updates: true };
        let sample = peer.sample();
        match pacer.permit(peer.now, &sample, wants) {
            Some(Permit::Wait(until)) => peer.until(until),
            Some(Permit::Close) => panic!("closed with {left} frames left: {:?}", pacer.counters()),
            Some(permit) => {
                let segments = segments(permit, left);
                let bytes: u64 = segments.iter().sum();
                left -= if bytes == 4 { 0 } else { bytes / FRAME };
                pacer.sent(peer.now, bytes as usize, 0);
                // As one, where nothing cuts them: then there is one acknowledgement.
                let is_one = peer.way < Duration::from_micros(100);
                let segments = if is_one { vec![bytes] } else { segments };
                let submits = Duration::from_micros(1 + peer.rng.below(20));
                peer.until(peer.now.after(submits));
                peer.send(&segments);
                peer.until(peer.now.after(submits));
                pacer.completed(peer.now, left > 0);
            }
            None => {
                let poll_at = pacer.poll_at();
                assert!(poll_at != Time::NEVER || woken, "nothing would wake it");
                peer.until(poll_at.max(peer.now));
                let sample = peer.sample();
                let is_told = sample.queued_bytes == 0 || pacer.wants_look();
                woken = pacer.polled(peer.now, is_told.then_some(&sample));
            }
        }
    }
    (peer.now.since(start), pacer)
}

#[test]
fn no_reader_is_overrun_and_each_gets_nearly_what_it_can_take() {
    for seed in 0..1_000 {
        let mut peer = Peer::new(seed);
        let frames = 20_000;
        let case = format!(
            "seed {seed}: {:?} a frame, stalls {}, buffer {}, way {:?}, talk {:?}",
            peer.cost, peer.stalls, peer.buffer, peer.way, peer.talk
        );
        let (took, pacer) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            feed(&mut peer, frames, false)
        }))
        .unwrap_or_else(|_| panic!("{case}"));
        let counters = pacer.counters();
        // On a long way a window is sent in a round trip, and a proof takes one each frame.
        let rounds =
            (counters.proofs + counters.burn_frames + counters.late + counters.void) as u32;
        let reads = peer.cost * frames as u32 + peer.stalled + 2 * peer.way * rounds;
        let share = reads.as_secs_f64() / took.as_secs_f64();
        let is_quick = peer.cost < Duration::from_micros(50) || !peer.talk.is_zero();
        // A small window is one or two round trips of it, with a proof for each.
        let least = if peer.buffer < 65_536 { 0.4 } else { 0.8 };
        assert!(is_quick || share > least, "{case}: {share:.2} of what it takes, {counters:?}");
    }
}

#[test]
fn what_a_busy_receiver_takes_in_late_may_have_renewed_its_credit() {
    let mut proofs = 0;
    for seed in 0..600 {
        let mut peer = Peer::new(seed);
        (peer.freezes, peer.stalls) = (true, true);
        let (_, pacer) = feed(&mut peer, 5_000, false);
        proofs += pacer.counters().proofs;
    }
    assert!(proofs > 600, "{proofs} proofs");
}

#[test]
fn a_busy_shard_takes_its_own_lateness_for_nothing() {
    let mut proofs = 0;
    for seed in 0..60 {
        let mut peer = Peer::new(seed);
        let (_, pacer) = feed(&mut peer, 5_000, true);
        proofs += pacer.counters().proofs;
    }
    assert!(proofs > 60, "{proofs} proofs");
}

#[test]
fn a_path_that_loses_is_slow_and_no_more() {
    for seed in 0..300 {
        let mut peer = Peer::new(seed);
        peer.loses_one_of = [20, 50, 100][seed as usize % 3];
        let _ = feed(&mut peer, 2_000, seed % 2 == 0);
    }
}
