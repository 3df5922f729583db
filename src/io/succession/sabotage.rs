//! What goes wrong on purpose, for tests: in debug builds, where METALBOND_HANDOVER_TEST says so.
//!
//! Owns the words for it. Must never do anything in a release.

use crate::handover::VERSION_MAJOR;

/// What is to go wrong in a successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sabotage {
    /// Nothing.
    None,
    /// It claims to speak this major version.
    Version(u32),
    /// It crashes when it has taken so many items.
    CrashAfterItems(u64),
    /// It stands still when it has taken so many items, until SIGCONT.
    StopAfterItems(u64),
    /// It ends instead of saying that it has all.
    ExitBeforeTaken,
    /// It never says that it has all.
    WaitBeforeTaken,
}

impl Sabotage {
    /// What the environment asks for.
    pub(super) fn asked() -> Sabotage {
        let asked = cfg!(debug_assertions).then(|| std::env::var("METALBOND_HANDOVER_TEST").ok());
        let asked = asked.flatten().filter(|words| !words.is_empty());
        asked.map_or(Sabotage::None, |words| Sabotage::of(&words))
    }

    /// The version to tell.
    pub(super) fn version_major(self) -> u32 {
        if let Sabotage::Version(major) = self { major } else { VERSION_MAJOR }
    }

    /// So many items were taken.
    pub(super) fn note_items(&mut self, items: u64) {
        match *self {
            Sabotage::CrashAfterItems(at) if items >= at => std::process::abort(),
            Sabotage::StopAfterItems(at) if items >= at => {
                *self = Sabotage::None;
                let own = rustix::process::getpid();
                let _ = rustix::process::kill_process(own, rustix::process::Signal::STOP);
            }
            _ => {}
        }
    }

    /// All was taken.
    pub(super) fn note_all(self) {
        match self {
            Sabotage::ExitBeforeTaken => std::process::exit(1),
            Sabotage::WaitBeforeTaken => {
                tracing::info!("waiting instead of taking over");
                std::thread::sleep(std::time::Duration::MAX);
            }
            _ => {}
        }
    }

    fn of(words: &str) -> Sabotage {
        let (what, number) = words.split_once('=').unwrap_or((words, ""));
        let number = || number.parse().expect("METALBOND_HANDOVER_TEST: a number");
        match what {
            "version" => Sabotage::Version(u32::try_from(number()).expect("a small number")),
            "crash-after-items" => Sabotage::CrashAfterItems(number()),
            "stop-after-items" => Sabotage::StopAfterItems(number()),
            "exit-before-taken" => Sabotage::ExitBeforeTaken,
            "wait-before-taken" => Sabotage::WaitBeforeTaken,
            _ => panic!("METALBOND_HANDOVER_TEST: what is {words:?}?"),
        }
    }
}
