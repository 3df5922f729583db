//! What is known of a receiver's quick-ACK credit.
//!
//! Owns when it counts as spent, and how long a silence leaves it so. Must never count it as spent where something may
//! have renewed it, or where its kernel may be in a mood in which none is spent.

use std::time::Duration;

use super::limits::{GAP_LEARNED_MAX, GAP_LONG, GAP_SHORT, GAPS_MANY, SHORT_RTT_US};

/// The credit of one receiver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    is_spent: bool,
    /// Whether the peer has sent something: its kernel may then not acknowledge a frame alone for being read, nor
    /// spend credit, until its timer did so once.
    pub(super) may_be_mute: bool,
    /// The longest silence after which an acknowledgement has come late.
    harmless: Duration,
    /// Silences in a row that nobody but a busy shard made.
    gaps: u8,
}

impl Default for Credit {
    /// That of a connection that has just begun.
    fn default() -> Credit {
        Credit { is_spent: false, may_be_mute: true, harmless: Duration::ZERO, gaps: 0 }
    }
}

impl Credit {
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Enough frames have gone alone.
    pub(super) fn spend(&mut self) {
        self.is_spent = true;
    }

    /// Something may have renewed it.
    pub(super) fn renew(&mut self) {
        self.is_spent = false;
    }

    /// It was silent for so long; `gap_max` is what is harmless.
    pub(super) fn was_silent(&mut self, gap: Duration, gap_max: Duration) {
        self.is_spent &= gap <= gap_max;
    }

    /// A frame that was sent alone after such a silence was acknowledged late: it has renewed none.
    pub(super) fn learn(&mut self, gap: Duration) {
        if !self.may_be_mute {
            self.harmless = self.harmless.max(gap.min(GAP_LEARNED_MAX));
        }
    }

    /// Counts silences before probes that a busy shard made.
    pub(super) fn count_gap(&mut self, is_gap: bool) {
        self.gaps = if is_gap { self.gaps.saturating_add(1) } else { 0 };
    }

    /// The longest silence that renews none, on a way as long as that.
    pub(super) fn gap_max(&self, min_rtt_us: u32, talks: bool) -> Duration {
        let gap = if min_rtt_us < SHORT_RTT_US { GAP_SHORT } else { GAP_LONG };
        // One that talks all the time (what may be unread is little then), or a shard that comes late itself.
        if talks || self.gaps >= GAPS_MANY {
            return gap.max(GAP_LEARNED_MAX);
        }
        gap.max(self.harmless + self.harmless / 4)
    }
}
