//! What a probe has shown, and what follows from that.
//!
//! Owns the window, which a proof sets, and the pauses after probes that failed. Must never take a probe for more than
//! it has shown.

use super::*;

impl Prover {
    /// What a probe has shown.
    pub(super) fn judge(
        &mut self,
        now: Time,
        delay: Delay,
        is_void: bool,
        counters: &mut PaceCounters,
    ) -> bool {
        match delay {
            _ if is_void => self.void(now, counters),
            Delay::Unknown => self.void(now, counters),
            Delay::Late | Delay::Timer => {
                counters.late += 1;
                self.lates += 1;
                self.failed(now, NAP)
            }
            Delay::Prompt => {
                let sample = self.acked;
                let is_shrinking = sample.snd_wnd != u32::MAX
                    && sample.snd_wnd.saturating_add(SHRINKS) < self.window_at_proof
                    && self.shrinks < SHRINKS_IN_A_ROW;
                if is_shrinking {
                    self.shrinks += 1;
                    return self.void(now, counters);
                }
                counters.proofs += 1;
                self.prove(now);
                true
            }
        }
    }

    fn void(&mut self, now: Time, counters: &mut PaceCounters) -> bool {
        counters.void += 1;
        self.voids += 1;
        self.failed(now, NAP / 4)
    }

    /// The next probe comes at once, or the later the longer they have failed: at a reader that stands they are
    /// work for nothing, and use up what may be unread.
    fn failed(&mut self, now: Time, nap_least: Duration) -> bool {
        if self.fails() == 1 {
            self.fails_since = now;
        }
        match self.fails() {
            ..FAILS_MANY => self.settled_again(now),
            _ => self.try_again(now, (now.since(self.fails_since) / 16).clamp(nap_least, NAP_LONG)),
        }
    }

    /// All that was sent has been read.
    fn prove(&mut self, now: Time) {
        let bytes = self.unread();
        let drained_at = self.drained_at.take().unwrap_or(now);
        let elapsed = drained_at.since(self.unread_since).saturating_sub(min_rtt(&self.acked));
        let elapsed_us = elapsed.as_micros().max(1) as f64;
        self.read = self.sent;
        self.step = Step::Feed;
        let has_talked = self.voids > 0;
        (self.lates, self.voids, self.spoils, self.shrinks) = (0, 0, 0, 0);
        self.window_at_proof = if self.acked.snd_wnd == u32::MAX { 0 } else { self.acked.snd_wnd };
        if std::mem::take(&mut self.is_limited) {
            let rate = bytes as f64 / elapsed_us;
            self.rate = match self.rate {
                0.0 => rate,
                before if self.drained > 0 => before.max(rate),
                before => (before + rate) / 2.0,
            };
            let round = (self.rate * self.round().as_micros() as f64) as u64;
            let backlog = (rate * BACKLOG.as_micros() as f64) as u64;
            self.window = backlog.min(2 * self.window);
            if round >= ROUND_WINDOW_MIN {
                self.window = self.window.min(round);
            }
        }
        self.window = self.window.clamp(WINDOW_MIN, WINDOW_MAX);
        if has_talked || self.trouble.doubles(now, TROUBLE) {
            // Should this proof be wrong, what comes next is still taken.
            let bearable = UNREAD_MAX.saturating_sub(bytes).max(WINDOW_MIN);
            self.window = self.window.min(WINDOW_TROUBLED).min(bearable);
        }
    }

    /// The next probe, at once.
    fn settled_again(&mut self, now: Time) -> bool {
        let sample = self.acked;
        self.settled(now, &sample)
    }

    /// The next probe, after a while.
    pub(super) fn try_again(&mut self, now: Time, nap: Duration) -> bool {
        // Nobody waits for it.
        let nap = if self.is_limited { nap } else { (nap * 10).max(NAP_LONG) };
        let until = now.after(nap);
        self.step = Step::Nap(until);
        self.poll_at = until;
        false
    }
}
