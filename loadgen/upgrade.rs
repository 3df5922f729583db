//! Upgrades amid a stream: where two reflectors meet, what their logs say of it, and what is said at the end.
//!
//! Owns the folder of their socket. Must never leave it behind, in whatever way loadgen ends.

use std::fs::{self, DirBuilder};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;

use crate::stage::Stage;

/// What the old reflector says at its end.
pub const HANDED_OVER: &str = "all connections are the successor's";

/// What spoils the figures if an upgrade takes longer than the stream around it.
pub const STREAM_TOO_SHORT: &str = "the updates had ended before the upgrade had: the pause may be longer than what \
                                    was seen; a longer --duration-s";

/// The flag whose value changes.
const CORES: &str = "--cores=";

/// A folder with the socket at which reflectors meet.
pub struct Meeting {
    path: PathBuf,
}

impl Meeting {
    /// Makes the folder.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Meeting> {
        let folder = std::env::temp_dir().join(format!("loadgen-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Meeting { path: folder.join("handover") })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        clear_away(&self.path);
    }
}

/// Removes the socket and its folder, if nothing else is in it.
pub fn clear_away(path: &Path) {
    // Whoever else is left does the same.
    let _ = fs::remove_file(path);
    let _ = path.parent().map(fs::remove_dir);
}

/// How many shards the first reflector has, and how many the second one: by turns.
pub fn cores_by_turns(given: Option<u32>) -> [u32; 2] {
    let all = || std::thread::available_parallelism().map_or(1, NonZero::get) as u32;
    let first = given.unwrap_or_else(all);
    [first, if first > 1 { first - 1 } else { 2 }]
}

/// The flags of a reflector, but with so many shards.
pub fn with_cores(flags: &[String], cores: u32) -> Vec<String> {
    let others = flags.iter().filter(|flag| !flag.starts_with(CORES)).cloned();
    others.chain([format!("{CORES}{cores}")]).collect()
}

/// How long peers had to wait, in milliseconds, as a line of the log says.
pub fn told_ms(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("took=")?;
    let word = rest.split_whitespace().next()?;
    let unit_at = word.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = word.split_at(unit_at);
    let ms = match unit {
        "s" => 1e3,
        "ms" => 1.0,
        "µs" => 1e-3,
        "ns" => 1e-6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * ms)
}

/// The upgrades in words, a line each.
pub fn summary(stages: &[Stage]) -> String {
    stages.iter().filter_map(line).collect()
}

fn line(stage: &Stage) -> Option<String> {
    let upgrade = stage.upgrade.as_ref()?;
    let ms = |value: Option<f64>| value.map_or("?".to_owned(), |ms| format!("{ms:.1} ms"));
    let bytes =
        |value: Option<u64>| value.map_or("?".to_owned(), |bytes| HumanBytes(bytes).to_string());
    let shards = if upgrade.cores == 1 { "shard" } else { "shards" };
    Some(format!(
        "{}: to {} {shards} in {:.3} s; peers heard nothing for at most {}, and the latest update was {} late; \
         the log says {}; memory {} and {}, together {}\n",
        stage.stage,
        upgrade.cores,
        upgrade.took_s,
        ms(stage.longest_pause_ms),
        ms(stage.latency.map(|latency| latency.max_ms)),
        ms(upgrade.told_pause_ms),
        bytes(upgrade.old_rss_bytes_peak),
        bytes(upgrade.new_rss_bytes_peak),
        bytes(stage.server_rss_bytes_peak),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Upgrade;

    #[test]
    fn times_are_read_from_the_log() {
        let line = |took: &str| {
            format!(
                "2026  INFO io: {HANDED_OVER}: this process ends process=7 items=Some(9) took={took}"
            )
        };
        assert_eq!(told_ms(&line("38.25ms")), Some(38.25));
        assert_eq!(told_ms(&line("1.5s")), Some(1500.0));
        assert_eq!(told_ms(&line("900µs")), Some(0.9));
        assert_eq!(told_ms(&line("0ns more=1")), Some(0.0));
        for nonsense in ["", "ms", "3", "3min", "1.2.3s"] {
            assert_eq!(told_ms(&line(nonsense)), None, "{nonsense}");
        }
        assert_eq!(told_ms("listening on [::1]:4711"), None);
    }

    #[test]
    fn each_one_has_other_cores() {
        assert_eq!(cores_by_turns(Some(1)), [1, 2]);
        assert_eq!(cores_by_turns(Some(4)), [4, 3]);
        let [first, second] = cores_by_turns(None);
        assert_ne!(first, second);
        let flags = ["--keepalive=5", "--cores=4", "--pace=off"].map(str::to_owned);
        assert_eq!(with_cores(&flags, 3), ["--keepalive=5", "--pace=off", "--cores=3"]);
    }

    #[test]
    fn upgrades_are_told_in_words() {
        let upgrade = Upgrade {
            cores: 1,
            took_s: 0.25,
            told_pause_ms: Some(38.25),
            old_rss_bytes_peak: Some(12 << 20),
            new_rss_bytes_peak: None,
        };
        let stage = Stage {
            stage: "upgrade 1".to_owned(),
            upgrade: Some(upgrade),
            longest_pause_ms: Some(45.0),
            server_rss_bytes_peak: Some(20 << 20),
            ..Stage::default()
        };
        let words = "upgrade 1: to 1 shard in 0.250 s; peers heard nothing for at most 45.0 ms, and the latest \
                     update was ? late; the log says 38.2 ms; memory 12.00 MiB and ?, together 20.00 MiB\n";
        assert_eq!(summary(&[Stage::default(), stage]), words);
    }

    #[test]
    fn nothing_is_left_of_a_meeting() {
        let meeting = Meeting::new().unwrap();
        let path = meeting.path().to_owned();
        fs::write(&path, "").unwrap();
        assert!(Meeting::new().is_err(), "it is nobody else's");
        drop(meeting);
        assert!(!path.parent().unwrap().exists());
        clear_away(&path);
    }
}
