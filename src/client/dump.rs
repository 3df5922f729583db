//! Whether a server has told all that it knows: the end of its dump.
//!
//! Owns the guess, for nothing on the wire marks that end (protocol section 6.4). Must never judge by a
//! clock alone: a server that answers a KEEPALIVE after a quiet time is alive, and has nothing to say.

use std::time::Duration;

use super::Question;
use crate::types::Time;

/// No dump is complete before: the server may have been restarted, and its own clients are not back yet.
/// Those in the field try again after up to 9 s.
const DUMP_TIME_MIN: Duration = Duration::from_secs(10);
/// For so long a server of our kind adds no route before it is asked whether it is still there.
const QUIET: Duration = Duration::from_secs(2);
/// Of others, which are known to take a second for a route.
const QUIET_OTHERS: Duration = Duration::from_secs(5);
/// A server that adds routes without a pause is believed to have told the old ones by then.
pub(super) const DUMP_TIME_MAX: Duration = Duration::from_secs(600);

/// Follows one connection to a server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DumpWatch {
    at: At,
    /// Not complete before, and in any case then.
    from: Time,
    until: Time,
    quiet: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum At {
    /// Not established.
    #[default]
    Before,
    /// The last route was added then.
    Telling(Time),
    /// It was quiet, and was asked this question.
    Asked(Question),
    Complete,
}

impl DumpWatch {
    /// The session is established. Routes are held for `stale_time`, and the dump may take as long.
    pub(super) fn begin(&mut self, now: Time, reassembles: bool, stale_time: Duration) {
        *self = DumpWatch {
            at: At::Telling(now),
            from: now.after(DUMP_TIME_MIN),
            until: now.after(stale_time.max(DUMP_TIME_MAX)),
            quiet: if reassembles { QUIET } else { QUIET_OTHERS },
        };
    }

    /// The server added a route, or was asked for those of one more VNI.
    pub(super) fn goes_on(&mut self, now: Time) {
        if !matches!(self.at, At::Before | At::Complete) {
            self.at = At::Telling(now);
        }
    }

    /// Whether the server has told all that it knows.
    pub(super) fn is_complete(&self) -> bool {
        self.at == At::Complete
    }

    /// When it is quiet, or believed to be complete.
    pub(super) fn next_deadline(&self) -> Time {
        match self.at {
            At::Before | At::Complete => Time::NEVER,
            At::Telling(last) => self.quiet_at(last).min(self.until),
            At::Asked(_) => self.until,
        }
    }

    /// Whether the server is to be asked now whether that was all.
    pub(super) fn is_quiet(&self, now: Time) -> bool {
        matches!(self.at, At::Telling(last) if self.quiet_at(last) <= now)
    }

    /// The server is asked this question.
    pub(super) fn asks(&mut self, question: Question) {
        self.at = At::Asked(question);
    }

    /// Whether the dump is complete now, and was not before: as many questions were answered.
    pub(super) fn completes(&mut self, now: Time, answered: Question) -> bool {
        let completes = match self.at {
            At::Before | At::Complete => false,
            At::Asked(question) if question <= answered => true,
            _ => now >= self.until,
        };
        if completes {
            self.at = At::Complete;
        }
        completes
    }

    fn quiet_at(&self, last: Time) -> Time {
        last.after(self.quiet).max(self.from)
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
        dump.begin(at(0), reassembles, Duration::ZERO);
        dump
    }

    #[test]
    fn quiet_and_then_an_answer() {
        for (reassembles, last_ms, quiet_ms) in [
            (true, 700, 10_000),
            (false, 4_900, 10_000),
            (true, 8_700, 10_700),
            (false, 9_000, 14_000),
        ] {
            let mut dump = begun(reassembles);
            dump.goes_on(at(last_ms));
            assert_eq!(dump.next_deadline(), at(quiet_ms));
            assert!(!dump.is_quiet(at(quiet_ms - 1)));
            assert!(dump.is_quiet(at(quiet_ms)));
            assert!(!dump.completes(at(20_000), 100), "not asked yet");
            dump.asks(7);
            assert!(!dump.is_quiet(at(quiet_ms + 1)), "asked once");
            assert!(!dump.completes(at(20_000), 6));
            assert!(dump.completes(at(20_000), 7));
            assert!(!dump.completes(at(20_001), 8), "said once");
            dump.goes_on(at(20_002));
            assert_eq!(dump.next_deadline(), Time::NEVER);
        }
    }

    #[test]
    fn a_route_behind_the_question_takes_it_back() {
        let mut dump = begun(true);
        assert!(dump.is_quiet(at(10_000)));
        dump.asks(3);
        dump.goes_on(at(10_001));
        assert!(!dump.completes(at(10_002), 3));
        assert!(dump.is_quiet(at(12_001)));
    }

    #[test]
    fn a_server_that_never_rests_is_not_waited_for_for_ever() {
        let mut dump = begun(false);
        for second in 1..600 {
            dump.goes_on(at(second * 1_000));
            assert!(!dump.is_quiet(at(second * 1_000)) && !dump.completes(at(second * 1_000), 0));
        }
        assert!(dump.completes(at(600_000), 0));
        dump.begin(at(0), false, Duration::from_secs(900));
        assert!(!dump.completes(at(899_999), 0) && dump.completes(at(900_000), 0));
    }
}
