//! Whether a server has told all that it knows: the end of its dump.
//!
//! Owns the guess, for nothing on the wire marks that end (protocol section 6.4). Must never judge by a
//! clock alone: a server that answers a KEEPALIVE after a quiet time is alive, and has nothing to say.

use std::time::Duration;

use crate::types::Time;

/// The quiet time of a server of our kind, which sends a table as fast as it can.
const QUIET: Duration = Duration::from_secs(2);
/// Of others, which are known to take a second for a route.
const QUIET_OTHERS: Duration = Duration::from_secs(5);
/// Of one that has told much less than before it was lost, or nothing at all. It may have been restarted,
/// and its clients are not back yet: those in the field try again after up to 9 s.
const QUIET_RESTARTED: Duration = Duration::from_secs(10);
/// A server that adds routes without a pause is believed to have told the old ones by then.
const DUMP_TIME_MAX: Duration = Duration::from_secs(600);

/// Follows one connection to a server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DumpWatch {
    at: At,
    /// The end of it in any case.
    until: Time,
    quiet: Duration,
    /// Routes that the server has added since.
    told: u64,
    /// Routes that it had told before it was lost.
    expected: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum At {
    /// Not established.
    #[default]
    Before,
    /// The last route was added then.
    Telling(Time),
    /// It was quiet: a KEEPALIVE is to be sent.
    Asking,
    /// This KEEPALIVE was sent.
    Asked(u64),
    Complete,
}

impl DumpWatch {
    /// The session is established. Routes are held for `hold_time`, and the dump may take as long;
    /// `expected` routes were told before the server was lost.
    pub fn begin(&mut self, now: Time, reassembles: bool, hold_time: Duration, expected: u64) {
        let quiet = if reassembles { QUIET } else { QUIET_OTHERS };
        let until = now.after(hold_time.max(DUMP_TIME_MAX));
        let expected = expected.max(1);
        *self = DumpWatch { at: At::Telling(now), until, quiet, told: 0, expected };
    }

    /// The server added a route.
    pub fn told(&mut self, now: Time) {
        self.told += 1;
        self.asked(now);
    }

    /// The server was asked for the routes of one more VNI.
    pub fn asked(&mut self, now: Time) {
        if !matches!(self.at, At::Before | At::Complete) {
            self.at = At::Telling(now);
        }
    }

    /// When [`DumpWatch::on_timer`] has something to do.
    pub fn next_deadline(&self) -> Time {
        match self.at {
            At::Before | At::Complete => Time::NEVER,
            At::Telling(last) => last.after(self.quiet()).min(self.until),
            At::Asking | At::Asked(_) => self.until,
        }
    }

    /// True if a KEEPALIVE is to be sent now.
    pub fn on_timer(&mut self, now: Time) -> bool {
        let asks = matches!(self.at, At::Telling(last) if last.after(self.quiet()) <= now);
        if asks {
            self.at = At::Asking;
        }
        asks
    }

    /// The KEEPALIVE with this number went out.
    pub fn sent_keepalive(&mut self, number: u64) {
        if self.at == At::Asking {
            self.at = At::Asked(number);
        }
    }

    /// Whether the dump is complete now, and was not before: as many KEEPALIVEs were answered.
    pub fn completes(&mut self, now: Time, answered: u64) -> bool {
        let completes = match self.at {
            At::Before | At::Complete => false,
            At::Asked(number) if number <= answered => true,
            _ => now >= self.until,
        };
        if completes {
            self.at = At::Complete;
        }
        completes
    }

    fn quiet(&self) -> Duration {
        let has_its_table = self.told.saturating_mul(10) >= self.expected.saturating_mul(9);
        if has_its_table { self.quiet } else { QUIET_RESTARTED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(1).after(Duration::from_millis(ms))
    }

    fn begun(reassembles: bool) -> DumpWatch {
        let mut dump = DumpWatch::default();
        assert_eq!(dump.next_deadline(), Time::NEVER);
        dump.begin(at(0), reassembles, Duration::ZERO, 1);
        dump
    }

    #[test]
    fn quiet_and_then_an_answer() {
        for (reassembles, quiet_ms) in [(true, 2_000), (false, 5_000)] {
            let mut dump = begun(reassembles);
            dump.told(at(700));
            assert_eq!(dump.next_deadline(), at(700 + quiet_ms));
            assert!(!dump.on_timer(at(699 + quiet_ms)));
            assert!(dump.on_timer(at(700 + quiet_ms)));
            assert!(!dump.on_timer(at(701 + quiet_ms)), "asked once");
            assert!(!dump.completes(at(9_000), 100), "not sent yet");
            dump.sent_keepalive(7);
            dump.sent_keepalive(8);
            assert!(!dump.completes(at(9_000), 6));
            assert!(dump.completes(at(9_000), 7));
            assert!(!dump.completes(at(9_001), 8), "said once");
            dump.told(at(9_002));
            assert_eq!(dump.next_deadline(), Time::NEVER);
        }
    }

    #[test]
    fn a_route_behind_the_question_takes_it_back() {
        let mut dump = begun(true);
        dump.told(at(0));
        assert!(dump.on_timer(at(2_000)));
        dump.sent_keepalive(3);
        dump.told(at(2_001));
        assert!(!dump.completes(at(2_002), 3));
        assert!(dump.on_timer(at(4_001)));
    }

    #[test]
    fn a_server_that_tells_much_less_than_before_is_given_time() {
        for (told, quiet_ms) in [(0, 10_000), (17, 10_000), (18, 2_000), (30, 2_000)] {
            let mut dump = DumpWatch::default();
            dump.begin(at(0), true, Duration::ZERO, 20);
            (0..told).for_each(|_| dump.told(at(0)));
            assert_eq!(dump.next_deadline(), at(quiet_ms), "{told} of 20");
        }
    }

    #[test]
    fn a_server_that_never_rests_is_not_waited_for_for_ever() {
        let mut dump = begun(false);
        for second in 1..600 {
            dump.told(at(second * 1_000));
            assert!(!dump.on_timer(at(second * 1_000)) && !dump.completes(at(second * 1_000), 0));
        }
        assert!(dump.completes(at(600_000), 0));
        dump.begin(at(0), false, Duration::from_secs(900), 1);
        assert!(!dump.completes(at(899_999), 0) && dump.completes(at(900_000), 0));
    }
}
