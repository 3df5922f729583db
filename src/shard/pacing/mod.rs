//! How fast a peer may be fed that does not reassemble: a pure function of samples and time.
//!
//! Owns the allowance of one peer: what the gate lets pass (`gate`), the rate or the proof that all was read
//! (`rate`, `prover`), and whether many segments may go out at once (`slices`). Must never look at a socket
//! or a clock.

mod ack;
mod credit;
mod gate;
mod limits;
#[cfg(test)]
mod model_tests;
mod prover;
mod rate;
mod sample;
mod slices;
mod steps;
mod trouble;

use std::time::Duration;

use crate::types::{Pace, Time};
use gate::Gate;
use prover::Prover;
use rate::Rate;
use slices::Quiet;
use steps::Ask;

pub use sample::TcpSample;
pub(crate) use slices::Packer;

/// Bytes of a batch: the protocol's floor, and what fits a segment at an MTU of 1280.
pub const BATCH_BYTES_MAX: usize = 1188;
/// What the first IPv4-mapped or IPv6 segments may lose to SACK blocks, in bytes.
pub(crate) const SACK_BYTES: usize = 28;
/// How long a sample of the segment's size holds: one costs a tenth of a SEND. An MTU that shrinks below a batch
/// is noticed so much later at most; what was under way when it shrank the kernel cuts anew in any case.
const SEGMENT_HOLDS: Duration = Duration::from_millis(100);
/// Bytes of a small segment at most: it costs the receiver's quick-ACK credit and renews none.
pub(crate) const SMALL_BYTES_MAX: usize = 127;

/// What may be sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Permit {
    /// One batch of at most this many bytes (whole frames, one at least).
    Batch {
        /// Bytes.
        bytes_max: usize,
    },
    /// Whole frames in segments of this size, all but the last one filled up by pads.
    Slices {
        /// Bytes of a segment.
        slice_bytes: usize,
        /// Bytes of all segments at most: two segments at least.
        bytes_max: usize,
    },
    /// One frame: the next route alone, or a KEEPALIVE if there is none.
    Small,
    /// One KEEPALIVE.
    Keepalive,
    /// Nothing before this time.
    Wait(Time),
    /// Nothing any more: the peer has left unread what it could take.
    Close,
}

/// What there is to send.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wants {
    /// Bytes of control frames at most; 0 if there are none.
    pub control_bytes: usize,
    /// Whether UPDATEs are pending.
    pub updates: bool,
}

/// What was counted about peers that do not reassemble.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PaceCounters {
    /// Times at which a peer was shown to have read all that it was sent.
    pub proofs: u64,
    /// Probes that were acknowledged too late to show that.
    pub late: u64,
    /// Probes of which nothing can be told.
    pub void: u64,
    /// Frames sent alone so that the peer's kernel stops acknowledging at once.
    pub burn_frames: u64,
    /// Times at which the peer's window had no room for what was to be sent.
    pub gate_waits: u64,
    /// KEEPALIVEs that fill up segments.
    pub pads: u64,
    /// Peers closed since they read nothing any more.
    pub unread_closes: u64,
    /// Connections that were reset within 10 s of a dump.
    pub resets: u64,
}

impl PaceCounters {
    /// Adds what another one counted.
    pub(crate) fn add(&mut self, other: &PaceCounters) {
        self.proofs += other.proofs;
        self.late += other.late;
        self.void += other.void;
        self.burn_frames += other.burn_frames;
        self.gate_waits += other.gate_waits;
        self.pads += other.pads;
        self.unread_closes += other.unread_closes;
        self.resets += other.resets;
    }
}

/// What decides when a peer gets more, besides the gate.
enum Rule {
    Off,
    Rate(Rate),
    Proof(Box<Prover>),
}

/// The allowance of one peer.
pub(crate) struct Pacer {
    rule: Rule,
    pads: bool,
    gate: Gate,
    quiet: Quiet,
    /// Bytes that a batch may have, and until when that holds.
    batch_bytes: usize,
    sampled_until: Time,
    counters: PaceCounters,
}

impl Pacer {
    /// A full allowance; that of a peer that failed before is the smallest one, if `is_cautious`. `pads` says
    /// whether the peer may be sent KEEPALIVEs that mean nothing.
    pub(crate) fn new(pace: Pace, pads: bool, is_cautious: bool) -> Pacer {
        Pacer {
            rule: match pace {
                Pace::Off => Rule::Off,
                Pace::Auto => Rule::Proof(Box::new(Prover::new(is_cautious))),
                Pace::RoutesPerS(routes_per_s) => Rule::Rate(Rate::new(routes_per_s)),
            },
            pads,
            gate: Gate::default(),
            quiet: Quiet::default(),
            batch_bytes: BATCH_BYTES_MAX,
            sampled_until: Time::default(),
            counters: PaceCounters::default(),
        }
    }

    /// So many bytes were sent by another process, and may be unread.
    pub(crate) fn restore(&mut self, now: Time, bytes_unread: u64) {
        if let Rule::Proof(prover) = &mut self.rule {
            prover.restore(now, bytes_unread);
        }
    }

    /// Bytes that may be unread; None if nobody counts.
    pub(crate) fn bytes_unread(&self) -> Option<u64> {
        match &self.rule {
            Rule::Proof(prover) => Some(prover.bytes_unread()),
            Rule::Off | Rule::Rate(_) => None,
        }
    }

    /// Whether `permit` needs to know how TCP stands.
    pub(crate) fn wants_sample(&self, now: Time, wants: Wants) -> bool {
        if let Rule::Proof(prover) = &self.rule
            && !prover.may_send(now)
        {
            return false;
        }
        let is_gate_near = match wants {
            Wants { updates: true, .. } => {
                self.gate.room() < BATCH_BYTES_MAX as u64
                    || now >= self.sampled_until
                    || (self.allows_slices() && self.quiet.lacks_room(now, self.bytes_allowed()))
            }
            Wants { control_bytes, .. } => {
                let is_small = control_bytes == 0 || self.wants_small();
                let least = if is_small { SMALL_BYTES_MAX } else { 0 };
                self.gate.room() < control_bytes.max(least) as u64
            }
        };
        is_gate_near && self.gate.may_ask(now)
    }

    /// Whether `sent` needs to know how many routes it was.
    pub(crate) fn counts_routes(&self) -> bool {
        matches!(self.rule, Rule::Rate(_))
    }

    /// What may be sent at `now`; None if there is nothing to do. `sample` counts where
    /// [`Pacer::wants_sample`] says so.
    pub(crate) fn permit(&mut self, now: Time, sample: &TcpSample, wants: Wants) -> Option<Permit> {
        if self.wants_sample(now, wants) {
            self.take(now, sample);
        }
        let has_control = wants.control_bytes > 0;
        let mut bytes_max = u64::MAX;
        match &mut self.rule {
            Rule::Off => {}
            Rule::Rate(rate) => {
                if let Some(until) = rate.spent_until(now)
                    && !has_control
                {
                    return wants.updates.then_some(Permit::Wait(until));
                }
            }
            Rule::Proof(prover) => {
                match prover.ask(now, wants, self.gate.room(), &mut self.counters) {
                    Ask::Nothing => return None,
                    Ask::Wait(until) => return Some(Permit::Wait(until)),
                    Ask::Close => return Some(Permit::Close),
                    Ask::Feed { bytes } => bytes_max = bytes,
                    Ask::Small { keepalive } => {
                        return Some(
                            match self.gate.pass(now, SMALL_BYTES_MAX, &mut self.counters) {
                                Some(permit) => permit,
                                None if keepalive => Permit::Keepalive,
                                None => Permit::Small,
                            },
                        );
                    }
                }
            }
        }
        if !has_control && !wants.updates {
            return None;
        }
        let least = if has_control { wants.control_bytes } else { self.gate.least() };
        if let Some(wait) = self.gate.pass(now, least, &mut self.counters) {
            return Some(wait);
        }
        let bytes_max = bytes_max.min(self.gate.room());
        if has_control || !self.allows_slices() {
            return Some(self.batch(bytes_max));
        }
        let slices = self.quiet.slices(now, bytes_max);
        Some(slices.unwrap_or_else(|| self.batch(bytes_max)))
    }

    /// Something was handed over: so many bytes, and of UPDATEs so many frames if that counts.
    pub(crate) fn sent(&mut self, now: Time, bytes: usize, routes: usize) {
        self.gate.sent(bytes);
        self.quiet.sent(bytes);
        match &mut self.rule {
            Rule::Off => {}
            Rule::Rate(rate) => rate.sent(now, routes),
            Rule::Proof(prover) => prover.sent(now, bytes as u64, &mut self.counters),
        }
    }

    /// The peer has sent something.
    pub(crate) fn heard(&mut self) {
        if let Rule::Proof(prover) = &mut self.rule {
            prover.heard();
        }
    }

    /// The SEND was completed, and UPDATEs are pending or not.
    pub(crate) fn completed(&mut self, now: Time, has_updates: bool) {
        if let Rule::Proof(prover) = &mut self.rule {
            prover.completed(now, has_updates);
        }
    }

    /// Whether no UPDATE can pass before [`Pacer::polled`] says so.
    pub(crate) fn waits(&self) -> bool {
        matches!(&self.rule, Rule::Proof(prover) if prover.waits())
    }

    /// Whether a frame is to be sent though there may be none.
    pub(crate) fn wants_small(&self) -> bool {
        matches!(&self.rule, Rule::Proof(prover) if prover.wants_small())
    }

    /// When somebody is to ask whether all is acknowledged ([`Pacer::polled`]).
    pub(crate) fn poll_at(&self) -> Time {
        match &self.rule {
            Rule::Proof(prover) => prover.poll_at(),
            Rule::Off | Rule::Rate(_) => Time::NEVER,
        }
    }

    /// Whether [`Pacer::polled`] wants a sample whatever is acknowledged.
    pub(crate) fn wants_look(&self) -> bool {
        matches!(&self.rule, Rule::Proof(prover) if prover.wants_look())
    }

    /// At `now` all was acknowledged, and this is how TCP stood; or not yet. True if something may be sent.
    pub(crate) fn polled(&mut self, now: Time, sample: Option<&TcpSample>) -> bool {
        let acked = sample.filter(|sample| sample.queued_bytes == 0);
        if let Some(sample) = acked {
            self.take(now, sample);
        }
        match &mut self.rule {
            Rule::Proof(prover) => {
                if let (Some(sample), None) = (sample, acked) {
                    prover.looked(sample);
                }
                prover.polled(now, acked, &mut self.counters)
            }
            Rule::Off | Rule::Rate(_) => false,
        }
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> &PaceCounters {
        &self.counters
    }

    /// Bytes that a segment was filled up with, in so many KEEPALIVEs.
    pub(crate) fn padded(&mut self, pads: usize) {
        self.counters.pads += pads as u64;
    }

    fn take(&mut self, now: Time, sample: &TcpSample) {
        let segment = match sample.snd_mss {
            0 => BATCH_BYTES_MAX,
            mss => (mss as usize).saturating_sub(SACK_BYTES),
        };
        self.batch_bytes = segment.min(BATCH_BYTES_MAX);
        self.sampled_until = now.after(SEGMENT_HOLDS);
        self.gate.take(now, sample);
        self.quiet.take(now, sample);
        if let Rule::Proof(prover) = &mut self.rule {
            prover.take(now, sample);
        }
    }

    /// A rate is counted in batches.
    fn allows_slices(&self) -> bool {
        self.pads && !matches!(self.rule, Rule::Rate(_))
    }

    fn bytes_allowed(&self) -> u64 {
        match &self.rule {
            Rule::Proof(prover) => prover.bytes_allowed().min(self.gate.room()),
            Rule::Off | Rule::Rate(_) => self.gate.room(),
        }
    }

    fn batch(&self, bytes_max: u64) -> Permit {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Permit::Batch { bytes_max: self.batch_bytes.min(bytes_max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATES: Wants = Wants { control_bytes: 0, updates: true };

    fn routes_in(pacer: &mut Pacer, batch: usize, until: Time) -> usize {
        let (mut now, mut routes) = (Time(5_000_000), 0);
        while now < until {
            match pacer.permit(now, &TcpSample::default(), UPDATES) {
                Some(Permit::Batch { .. }) => {
                    pacer.sent(now, 64 * batch, batch);
                    routes += batch;
                }
                Some(Permit::Wait(next)) => {
                    assert!(next > now, "or it would spin");
                    now = next;
                }
                other => panic!("{other:?}"),
            }
        }
        routes
    }

    #[test]
    fn the_rate_holds_however_batches_are_cut() {
        for batch in [1, 25, 33] {
            let mut pacer = Pacer::new(Pace::RoutesPerS(1_000), true, false);
            let routes = routes_in(&mut pacer, batch, Time(15_000_000));
            assert!((10_000..10_100).contains(&routes), "{routes} routes in 10 s");
        }
    }

    #[test]
    fn no_batch_is_larger_than_a_segment() {
        let mut pacer = Pacer::new(Pace::Off, true, false);
        let sample = |snd_mss| TcpSample { snd_mss, min_rtt_us: 5_000, ..TcpSample::default() };
        let mut now = Time(0);
        for (snd_mss, bytes_max) in [(0, 1188), (65_483, 1188), (1_208, 1180), (536, 508)] {
            pacer.sent(now, 1_000_000, 10_000);
            assert!(pacer.wants_sample(now, UPDATES));
            let batch = Some(Permit::Batch { bytes_max });
            assert_eq!(pacer.permit(now, &sample(snd_mss), UPDATES), batch);
            // It holds for a while, whatever the caller says then.
            assert!(!pacer.wants_sample(now, UPDATES));
            assert_eq!(pacer.permit(now, &TcpSample::default(), UPDATES), batch);
            now = now.after(SEGMENT_HOLDS);
        }
    }
}
