//! Proof by acknowledgement that a peer has read all it was sent.
//!
//! Owns what may be unread, and the state of a proof. Must never take for prompt what was not seen to be.
//!
//! A reader in the field fails when 65,535 bytes wait for one read, and tells nothing of what it has read. But
//! when all is acknowledged, its kernel acknowledges a lone segment of less than 128 bytes at once only if
//!
//! 1. a read emptied its queue: a read takes all, so all that was sent has been read; or
//! 2. it has quick-ACK credit: 16 or 17 at most, from the connection's first bytes, from a gap longer than its
//!    RTO, from duplicates, or from ECN marks. Each acknowledgement costs one, and small segments renew none; or
//! 3. the peer sent something itself, be it once more: what it sends acknowledges all that has come.
//!
//! Else its delayed-ACK timer answers, after some 40 ms. So: up to a window of bytes is sent; then, all being
//! acknowledged, the credit is burned by frames sent alone, and one more is the probe. How long its
//! acknowledgement took is told by the kernel's smoothed RTT, to which that one is added: so a shard that
//! comes late to look neither misses a prompt acknowledgement nor takes a late one for prompt.

mod verdict;

use std::time::Duration;

use super::ack::{Delay, Took, min_rtt, prompt};
use super::credit::Credit;
use super::limits::*;
use super::steps::{Ask, BURN, Flight, PROBE, Small, Step};
use super::trouble::Trouble;
use super::{PaceCounters, SMALL_BYTES_MAX, TcpSample, Wants};
use crate::types::Time;

/// What was unread, and the proof under way.
#[derive(Clone, Debug)]
pub(super) struct Prover {
    sent: u64,
    read: u64,
    window: u64,
    /// Whether TCP can be asked at all.
    is_known: bool,
    /// When the first byte was sent that may be unread.
    unread_since: Time,
    /// When the last SEND began, at the earliest, and was done, at the latest.
    began_at: Time,
    done_at: Time,
    /// When the one before it began.
    before_at: Time,
    /// When it seems to have read what was sent before the frames that go alone.
    drained_at: Option<Time>,
    /// Proofs in a row at which it may have been so for long.
    drained: u32,
    /// Whether it was in the way of updates that the window was full.
    is_limited: bool,
    step: Step,
    poll_at: Time,
    credit: Credit,
    /// How TCP stood when all was acknowledged last.
    acked: TcpSample,
    /// The least round trip that was ever told of.
    least_rtt_us: u32,
    trouble: Trouble,
    /// Bytes a microsecond that it reads.
    rate: f64,
    window_at_proof: u32,
    shrinks: u8,
    /// Probes in a row that were late, or void; and when the first of them was judged.
    lates: u32,
    voids: u32,
    fails_since: Time,
    /// Segments of the peer's that had come when a frame was last seen not to be acknowledged.
    heard_before: u32,
    burns_spoiled: u8,
    /// How often that was given up since the last proof.
    spoils: u32,
}

impl Prover {
    /// Nothing was sent yet.
    pub(super) fn new(is_cautious: bool) -> Prover {
        Prover {
            sent: 0,
            read: 0,
            window: if is_cautious { WINDOW_MIN } else { WINDOW_FIRST },
            is_known: true,
            unread_since: Time::default(),
            began_at: Time::default(),
            done_at: Time::default(),
            before_at: Time::default(),
            drained_at: None,
            drained: 0,
            is_limited: false,
            step: Step::Feed,
            poll_at: Time::NEVER,
            credit: Credit::default(),
            acked: TcpSample::default(),
            least_rtt_us: 0,
            trouble: Trouble::default(),
            rate: 0.0,
            window_at_proof: 0,
            shrinks: 0,
            lates: 0,
            voids: 0,
            fails_since: Time::default(),
            heard_before: 0,
            burns_spoiled: 0,
            spoils: 0,
        }
    }

    /// So many bytes were sent before, of which nothing is known but that they may be unread.
    pub(super) fn restore(&mut self, now: Time, bytes_unread: u64) {
        (self.sent, self.unread_since) = (bytes_unread, now);
        self.credit.renew();
    }

    /// Bytes that may be unread.
    pub(super) fn bytes_unread(&self) -> u64 {
        self.unread()
    }

    /// Whether `ask` may answer with something to send.
    pub(super) fn may_send(&self, now: Time) -> bool {
        match self.step {
            Step::Feed | Step::Small(_) | Step::Settle(_) | Step::Nap(_) => true,
            Step::Flight(flight) => now > self.prompt_until(&flight),
        }
    }

    /// Bytes that may be sent before a proof.
    pub(super) fn bytes_allowed(&self) -> u64 {
        if self.is_known { self.window.saturating_sub(self.unread()) } else { u64::MAX }
    }

    /// The peer has sent something.
    pub(super) fn heard(&mut self) {
        self.credit.may_be_mute = true;
    }

    /// Whether nothing but control frames can pass before `polled` says so.
    pub(super) fn waits(&self) -> bool {
        match self.step {
            Step::Feed | Step::Small(_) => false,
            Step::Flight(_) => true,
            Step::Settle(_) | Step::Nap(_) => self.is_limited,
        }
    }

    /// Whether it waits for a frame of its own, be there something to send or not.
    pub(super) fn wants_small(&self) -> bool {
        matches!(self.step, Step::Small(_))
    }

    /// When `polled` is to be called.
    pub(super) fn poll_at(&self) -> Time {
        self.poll_at
    }

    /// What may be done, where the receiver's window leaves so much room.
    pub(super) fn ask(
        &mut self,
        now: Time,
        wants: Wants,
        room: u64,
        counters: &mut PaceCounters,
    ) -> Ask {
        let would_be_unread = self.unread() + wants.control_bytes as u64;
        let is_held = self.is_known && would_be_unread > UNREAD_WITH_CONTROL_MAX;
        let has_control = wants.control_bytes > 0 && !is_held;
        if wants.updates
            && !self.is_limited
            && self.has_room()
            && !matches!(self.step, Step::Flight(_))
        {
            // The proof was sought for want of something better.
            self.step = Step::Feed;
            self.poll_at = Time::NEVER;
        }
        match self.step {
            Step::Feed if wants.control_bytes == 0 && !wants.updates => return Ask::Nothing,
            Step::Feed => {
                // Room for the probes: behind a full window none would pass.
                let room = room.saturating_sub(ROOM_FOR_PROBES.min(room / 4));
                let bytes = self.bytes_allowed().min(room);
                if has_control || (!is_held && bytes > SMALL_BYTES_MAX as u64) || self.unread() == 0
                {
                    return Ask::Feed { bytes: bytes.max(wants.control_bytes as u64) };
                }
                self.is_limited = true;
                self.begin(now);
                return Ask::Nothing;
            }
            Step::Small(_) => {}
            Step::Settle(_) | Step::Nap(_) if has_control => {}
            Step::Flight(flight) if has_control => {
                // It goes alone, as long as it may be answered for being read.
                let until = self.prompt_until(&flight);
                if now <= until {
                    return Ask::Wait(until.after(Duration::from_micros(1)));
                }
            }
            _ => {
                self.is_limited |= wants.updates || is_held;
                return Ask::Nothing;
            }
        }
        if self.unread() + SMALL_BYTES_MAX as u64 > UNREAD_MAX {
            counters.unread_closes += 1;
            return Ask::Close;
        }
        let Step::Small(small) = self.step else {
            return Ask::Feed { bytes: wants.control_bytes as u64 };
        };
        self.is_limited |= wants.updates;
        if small.burns_left == 0
            && small.nudges.is_none()
            && now.since(self.began_at) > self.gap_max()
        {
            self.credit.was_silent(now.since(self.began_at), self.gap_max());
            self.credit.count_gap(true);
            self.step = Step::Small(BURN);
        }
        // Probes shall not use up what is left to a reader.
        let is_much = self.unread() > self.window + PROBES_BYTES;
        Ask::Small { keepalive: self.fails() >= 3 || is_much || !wants.updates }
    }

    /// So many bytes are handed over.
    pub(super) fn sent(&mut self, now: Time, bytes: u64, counters: &mut PaceCounters) {
        if self.sent == self.read {
            self.unread_since = now;
        }
        self.sent += bytes;
        let (gap, gap_least) = (now.since(self.began_at), now.since(self.done_at));
        self.credit.was_silent(gap, self.gap_max());
        (self.before_at, self.began_at) = (self.began_at, now);
        match &mut self.step {
            Step::Flight(flight) => flight.is_disturbed = true,
            Step::Small(small) => {
                counters.burn_frames += u64::from(small.burns_left > 0);
                self.step = Step::Flight(Flight {
                    small: *small,
                    began_at: now,
                    done_at: None,
                    unacked_at: now,
                    gap,
                    gap_least,
                    is_disturbed: false,
                });
                self.poll_at = Time::NEVER;
            }
            Step::Feed => (self.poll_at, self.drained_at) = (Time::NEVER, None),
            Step::Settle(_) | Step::Nap(_) => {}
        }
    }

    /// The SEND is done.
    pub(super) fn completed(&mut self, now: Time, has_updates: bool) {
        self.done_at = now;
        // It went out later than it began.
        let gap_at_most = now.since(self.before_at);
        self.credit.was_silent(gap_at_most, self.gap_max());
        if now.since(self.began_at) > BLOCKED {
            self.credit.renew();
        }
        match self.step {
            Step::Flight(flight) => {
                if flight.done_at.is_none() {
                    let (done_at, unacked_at, gap) = (Some(now), now, gap_at_most);
                    self.step = Step::Flight(Flight { done_at, unacked_at, gap, ..flight });
                }
                let min_rtt = min_rtt(&self.acked).max(POLL_MIN);
                self.poll_at = now.after(match self.nudge_after() {
                    Some(after) if flight.small.nudges.is_none() => after,
                    Some(_) => min_rtt,
                    None => self.remaining(now).min(POLL_MAX).max(self.patience(now)).max(min_rtt),
                });
            }
            Step::Feed if has_updates && !self.has_room() => {
                self.is_limited = true;
                self.begin(now);
                self.poll_at =
                    now.after(self.until_nearly_read(now).min(self.round()).max(POLL_FIRST));
            }
            Step::Feed if self.is_lazily_due() => self.poll_at = now.after(LAZY_AFTER),
            Step::Feed | Step::Settle(_) | Step::Small(_) | Step::Nap(_) => {}
        }
    }

    /// A sample, whether all is acknowledged or not.
    pub(super) fn take(&mut self, now: Time, sample: &TcpSample) {
        self.is_known = sample.is_known();
        if !self.is_known {
            // Nothing is known, so nothing is held back.
            self.read = self.sent;
            self.step = Step::Feed;
            self.poll_at = Time::NEVER;
            self.is_limited = false;
        }
        self.trouble.take(now, sample);
    }

    /// Whether all is acknowledged: how TCP stands then. True if something may be sent now.
    pub(super) fn polled(
        &mut self,
        now: Time,
        sample: Option<&TcpSample>,
        counters: &mut PaceCounters,
    ) -> bool {
        self.poll_at = Time::NEVER;
        match (self.step, sample) {
            (Step::Feed, _) => {
                if !self.is_lazily_due() {
                    return !self.is_known;
                }
                let due = self.done_at.after(LAZY_AFTER);
                if now < due {
                    self.poll_at = due;
                    return false;
                }
                self.begin(now);
                self.settle(now, now, sample)
            }
            (Step::Settle(since), _) => self.settle(now, since, sample),
            (Step::Flight(flight), None) => {
                if let Step::Flight(flight) = &mut self.step {
                    flight.unacked_at = now;
                }
                let is_alone = flight.small.nudges.is_none() && !flight.is_disturbed;
                let since = flight.done_at.unwrap_or(now);
                if is_alone && self.nudge_after().is_some_and(|after| now.since(since) >= after) {
                    let nudges = Some(flight.began_at);
                    self.step = Step::Small(Small { nudges, ..flight.small });
                    return true;
                }
                self.poll_again(now, flight.began_at)
            }
            (Step::Flight(flight), Some(sample)) => self.landed(now, &flight, sample, counters),
            (Step::Nap(until), _) => {
                if now < until {
                    self.poll_at = until;
                    return false;
                }
                self.step = Step::Settle(now);
                self.settle(now, now, sample)
            }
            (Step::Small(_), _) => true,
        }
    }

    /// Whether `looked` is to be told how TCP stands while something is not acknowledged.
    pub(super) fn wants_look(&self) -> bool {
        self.voids > 0 && matches!(self.step, Step::Flight(_))
    }

    /// This is how it stood then.
    pub(super) fn looked(&mut self, sample: &TcpSample) {
        if sample.unacked_segments > 0 {
            self.heard_before = sample.data_segments_received;
        }
    }

    fn note(&mut self, sample: &TcpSample) {
        self.acked = *sample;
        // The kernel forgets the least after a while: then a timer's answer may be the first one that counts.
        if self.least_rtt_us == 0 || sample.min_rtt_us < self.least_rtt_us {
            self.least_rtt_us = sample.min_rtt_us;
        }
        self.acked.min_rtt_us =
            sample.min_rtt_us.min(self.least_rtt_us.saturating_add(RTT_GROWS_MAX_US));
        self.heard_before = sample.data_segments_received;
    }

    fn unread(&self) -> u64 {
        self.sent - self.read
    }

    fn is_lazily_due(&self) -> bool {
        self.is_known && self.unread() > self.window / LAZY_SHARE
    }

    /// Whether a frame may be sent without a proof.
    fn has_room(&self) -> bool {
        self.bytes_allowed() > SMALL_BYTES_MAX as u64
    }

    /// A proof begins: when all is acknowledged.
    fn begin(&mut self, now: Time) {
        self.step = Step::Settle(now);
        self.poll_at = now;
    }

    /// It is not acknowledged yet. Each look costs a wake-up, so they wait for when it should have read all. How long
    /// it took is measured whenever one looks, but not that of a frame that followed another.
    fn poll_again(&mut self, now: Time, since: Time) -> bool {
        let passed = now.since(since);
        let is_nudge = matches!(self.step, Step::Flight(flight) if flight.small.nudges.is_some());
        self.poll_at = now.after(match self.fails() >= FAILS_MANY {
            true if is_nudge => {
                passed.saturating_sub(min_rtt(&self.acked)).clamp(NUDGE, POLL_STALLED_MAX)
            }
            _ => (passed / 8).max(self.remaining(now)).min(POLL_MAX).max(self.patience(now)),
        });
        false
    }

    /// How long to wait between two looks, at least: a reader that stands is looked at the less often the longer it
    /// has stood.
    fn patience(&self, now: Time) -> Duration {
        match self.fails() {
            ..3 => POLL_MIN,
            _ => (now.since(self.fails_since) / 16).clamp(POLL_MIN, POLL_STALLED_MAX),
        }
    }

    fn fails(&self) -> u32 {
        self.lates + self.voids
    }

    /// How long reading a window may take without a frame in between, with some time for the proof.
    fn round(&self) -> Duration {
        self.gap_max() * 2 / 3
    }

    /// How long it should take to read all that is unread, as it has read so far.
    fn remaining(&self, now: Time) -> Duration {
        self.reading().saturating_sub(now.since(self.unread_since))
    }

    /// A probe tells best when it has read all if it is sent a little before.
    fn until_nearly_read(&self, now: Time) -> Duration {
        self.remaining(now).saturating_sub((self.reading() / 10).min(AHEAD_MAX))
    }

    fn reading(&self) -> Duration {
        if self.rate == 0.0 || self.drained_at.is_some() {
            return Duration::ZERO;
        }
        // It is looked at the earlier the longer it was ready for that.
        Duration::from_micros((self.unread() as f64 / self.rate) as u64 >> self.drained.min(16))
    }

    /// Goes on if all is acknowledged, which is waited for since then.
    fn settle(&mut self, now: Time, since: Time, sample: Option<&TcpSample>) -> bool {
        match sample {
            Some(sample) => self.settled(now, sample),
            None => self.poll_again(now, since),
        }
    }

    /// All is acknowledged, and nothing under way: what comes now goes alone.
    fn settled(&mut self, now: Time, sample: &TcpSample) -> bool {
        // What a duplicate brought may be unseen: its report may be lost.
        if self.is_dirty(sample) || self.trouble.doubles(now, TROUBLE) {
            self.credit.renew();
        }
        self.note(sample);
        self.credit.was_silent(now.since(self.began_at), self.gap_max());
        if now.since(self.before_at) > GAP_RENEWS + min_rtt(sample) {
            self.credit.renew();
        }
        let small = if self.credit.is_spent() { PROBE } else { BURN };
        self.burns_spoiled = 0;
        self.step = Step::Small(small);
        true
    }

    /// A frame that was sent alone is acknowledged.
    fn landed(
        &mut self,
        now: Time,
        flight: &Flight,
        sample: &TcpSample,
        counters: &mut PaceCounters,
    ) -> bool {
        let is_dirty = self.is_dirty(sample);
        let (delay, took) = self.delay_of(now, flight, sample);
        let has_heard = sample.data_segments_received != self.acked.data_segments_received;
        // Whatever the peer sends acknowledges all that has come; but not what had come before.
        let is_confounded = sample.data_segments_received != self.heard_before;
        let small = flight.small;
        if delay == Delay::Prompt {
            // Probably so, if there was no credit.
            if self.drained_at.is_none() {
                self.drained_at = Some(flight.began_at.after(took).min(now));
                let was_drained = took < DRAINED + min_rtt(sample) * 17 / 16;
                self.drained = if was_drained { self.drained + 1 } else { 0 };
            }
        }
        let is_telling = !is_dirty && !has_heard && small.nudges.is_none() && !flight.is_disturbed;
        match delay {
            // A read that opens the window is told of in any case.
            _ if !is_telling || sample.snd_wnd > self.acked.snd_wnd => {}
            Delay::Late | Delay::Timer => self.credit.learn(flight.gap_least),
            Delay::Prompt | Delay::Unknown => {}
        }
        match delay {
            // Acknowledged though it was alone, or by the timer, which ends it.
            Delay::Prompt | Delay::Timer if is_telling => self.credit.may_be_mute = false,
            _ => self.credit.may_be_mute |= has_heard,
        }
        self.note(sample);
        // It may have been as late in coming as it was in being acknowledged.
        let was_late = flight.gap + took > GAP_RENEWS + min_rtt(sample);
        if is_dirty || was_late {
            self.credit.renew();
        }
        if small.burns_left == 0 {
            self.credit.count_gap(flight.gap > GAP_SHORT && !self.credit.is_spent());
            return self.judge(now, delay, !self.credit.is_spent() || is_confounded, counters);
        }
        let is_spoiled = is_dirty || was_late || flight.gap > self.gap_max().max(GAP_LEARNED_MAX);
        self.burns_spoiled += u8::from(is_spoiled);
        if self.burns_spoiled > BURNS_SPOILED_MAX {
            counters.void += 1;
            // Each costs some of what may be unread; but a longer pause would spoil the next one.
            self.spoils += 1;
            return self.try_again(now, if self.spoils > SPOILS_MANY { NAP_LONG } else { NAP });
        }
        // Two are acknowledged for being read in any case: that says nothing of credit.
        let is_timer = delay == Delay::Timer && !has_heard && small.nudges.is_none();
        let lates = if is_timer { small.lates + 1 } else { 0 };
        if is_spoiled {
            self.credit.renew();
        } else if small.burns_left == 1 || lates >= 2 {
            self.credit.spend();
        }
        self.step = Step::Small(match self.credit.is_spent() {
            true => PROBE,
            false if is_spoiled => BURN,
            false => Small { burns_left: small.burns_left - 1, lates, nudges: None },
        });
        true
    }

    fn is_dirty(&self, sample: &TcpSample) -> bool {
        self.acked.is_known()
            && (self.acked.total_retrans, self.acked.dsack_dups, self.acked.delivered_ce)
                != (sample.total_retrans, sample.dsack_dups, sample.delivered_ce)
    }

    /// Until then the acknowledgement would be prompt.
    fn prompt_until(&self, flight: &Flight) -> Time {
        flight.done_at.unwrap_or(Time::NEVER).after(prompt(&self.acked))
    }

    /// When a second frame follows one alone: the kernel of a peer that has sent something may acknowledge none but
    /// two when they are read.
    fn nudge_after(&self) -> Option<Duration> {
        let min_rtt = min_rtt(&self.acked);
        match self.credit.may_be_mute {
            true if min_rtt < NUDGE_RTT_MAX => Some(NUDGE + min_rtt),
            // Its timer ends that as soon, but not if it goes on.
            true if self.voids > 0 => Some(NUDGE),
            _ => None,
        }
    }

    fn gap_max(&self) -> Duration {
        self.credit.gap_max(self.acked.min_rtt_us, self.voids >= FAILS_MANY)
    }

    /// How long the acknowledgement took that was seen just now.
    fn delay_of(&self, now: Time, flight: &Flight, sample: &TcpSample) -> (Delay, Duration) {
        let at_least = flight.unacked_at.since(flight.done_at.unwrap_or(flight.unacked_at));
        // The timer of a frame runs from its arrival, whatever follows it.
        let at_most = now.since(flight.small.nudges.unwrap_or(flight.began_at));
        let is_alone = flight.small.nudges.is_none() && !flight.is_disturbed;
        let seen = Took { at_least, at_most };
        let took = if is_alone { seen.measured(&self.acked, sample) } else { seen };
        let delay = match took.judge(&self.acked) {
            // Something else was acknowledged with it.
            Delay::Prompt if flight.is_disturbed => Delay::Unknown,
            Delay::Timer if flight.is_disturbed => Delay::Late,
            delay => delay,
        };
        (delay, took.at_most)
    }
}
