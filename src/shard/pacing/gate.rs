//! The gate: never more than the receiver's free window.
//!
//! Owns the window's right edge, which never moves left. Must never let a byte pass beyond it: the kernel's
//! window probe would cut a frame and send what fits.

use std::time::Duration;

use super::{BATCH_BYTES_MAX, PaceCounters, Permit, SMALL_BYTES_MAX, TcpSample};
use crate::types::Time;

/// Room that each connection has at its beginning: for a HELLO and some KEEPALIVEs.
const FIRST_BYTES: u64 = 512;
/// Room without which UPDATEs wait while something is under way.
const WORTHWHILE_BYTES: u64 = BATCH_BYTES_MAX as u64 / 2;
/// Between two looks at a window without room, at least and at most.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_millis(50);
/// How long nothing may be under way before a KEEPALIVE asks for a window update that was lost.
const LOST_UPDATE: Duration = Duration::from_millis(500);
/// Bytes of that KEEPALIVE.
const KEEPALIVE_BYTES: u64 = 4;

/// How far the receiver's window reaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    /// Bytes handed over since the connection began, and how many may be.
    sent: u64,
    edge: u64,
    /// Whether nothing was under way at the last look.
    is_acked: bool,
    asked_at: Time,
    /// When it began to wait for room.
    waits_since: Option<Time>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate {
            sent: 0,
            edge: FIRST_BYTES,
            is_acked: true,
            asked_at: Time::default(),
            waits_since: None,
        }
    }
}

impl Gate {
    /// Bytes that fit.
    pub(super) fn room(&self) -> u64 {
        self.edge.saturating_sub(self.sent)
    }

    /// Bytes without which UPDATEs wait.
    pub(super) fn least(&self) -> usize {
        if self.is_acked { SMALL_BYTES_MAX } else { WORTHWHILE_BYTES as usize }
    }

    /// Whether another look may tell something new: not while a timer for it runs.
    pub(super) fn may_ask(&self, now: Time) -> bool {
        self.waits_since
            .is_none_or(|since| now >= self.asked_at.after(wait(self.asked_at.since(since))))
    }

    /// Bytes were handed over.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        self.is_acked = false;
    }

    /// Nothing that was handed over may be missing in the sample.
    pub(super) fn take(&mut self, now: Time, sample: &TcpSample) {
        self.asked_at = now;
        self.is_acked = sample.queued_bytes == 0;
        self.edge = match sample.is_known() && sample.snd_wnd != u32::MAX {
            true => self.sent + u64::from(sample.snd_wnd.saturating_sub(sample.queued_bytes)),
            false => u64::MAX,
        };
    }

    /// None if so many bytes fit, else what is to be done meanwhile.
    pub(super) fn pass(
        &mut self,
        now: Time,
        bytes: usize,
        counters: &mut PaceCounters,
    ) -> Option<Permit> {
        let room = self.room();
        if room >= bytes as u64 {
            self.waits_since = None;
            return None;
        }
        let since = *self.waits_since.get_or_insert_with(|| {
            counters.gate_waits += 1;
            now
        });
        let waited = now.since(since);
        // Behind a closed window the kernel keeps it, and asks for a window by itself.
        if self.is_acked && waited >= LOST_UPDATE && (room == 0 || room >= KEEPALIVE_BYTES) {
            return Some(Permit::Keepalive);
        }
        let until = self.asked_at.max(since).after(wait(self.asked_at.since(since)));
        Some(Permit::Wait(until.max(now.after(Duration::from_micros(1)))))
    }
}

fn wait(waited: Duration) -> Duration {
    (waited / 4).clamp(WAIT_MIN, WAIT_MAX)
}
