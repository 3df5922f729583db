//! A control group of the test's own, whose memory is limited.
//!
//! Owns the group, and removes it. Must never touch a group that was there before.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Removed when dropped; what is in it must have ended by then.
pub struct Cgroup {
    folder: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// None, and a word about it, where there is no right to make one.
    pub fn new(name: &str, limit_bytes: u64, test: &str) -> Option<Cgroup> {
        let name = format!("metalbond-test-{}-{name}", std::process::id());
        let made = [("/sys/fs/cgroup/memory", false), ("/sys/fs/cgroup", true)]
            .into_iter()
            .filter(|(tree, is_v2)| {
                let file = if *is_v2 { "cgroup.controllers" } else { "memory.limit_in_bytes" };
                Path::new(tree).join(file).exists()
            })
            .find_map(|(tree, is_v2)| {
                if is_v2 {
                    let _ = fs::write(Path::new(tree).join("cgroup.subtree_control"), "+memory");
                }
                let group = Cgroup { folder: Path::new(tree).join(&name), is_v2 };
                fs::create_dir(&group.folder).ok()?;
                let (limit, swap) = match is_v2 {
                    true => ("memory.max", "memory.swap.max"),
                    false => ("memory.limit_in_bytes", "memory.swappiness"),
                };
                fs::write(group.folder.join(limit), limit_bytes.to_string()).ok()?;
                let _ = fs::write(group.folder.join(swap), "0");
                Some(group)
            });
        if made.is_none() {
            // Not eprintln!, which is captured when a test passes.
            let why = "no control group can be made (expected: root, cgroup v1 or v2 with memory)";
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
        }
        made
    }

    /// What a process writes its id to, to be in it.
    pub fn procs(&self) -> String {
        self.folder.join("cgroup.procs").to_str().unwrap().to_owned()
    }

    /// Processes that the kernel has killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = self.read(file);
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
    }

    /// The most that was used.
    pub fn peak_mib(&self) -> u64 {
        let file = if self.is_v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        self.read(file).trim().parse::<u64>().unwrap() >> 20
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A moment after its last process has ended.
        for _ in 0..200 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
