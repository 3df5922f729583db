//! The control groups that limit this process's memory.
//!
//! Owns where they are and how their files read, of both versions. Must never change one, nor fail: what cannot be read
//! is no limit.

use std::fs;
use std::path::{Path, PathBuf};

/// A group whose memory may be limited: the process's own, or one above it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cgroup {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    V1,
    V2,
}

/// How much of its memory a group uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GroupMemory {
    pub(super) limit_bytes: u64,
    /// What the kernel would have to find room for: all but the files that it can drop.
    pub(super) used_bytes: u64,
}

impl Cgroup {
    /// The groups that this process is in, from its own upwards.
    pub(super) fn of_this_process() -> Vec<Cgroup> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        found(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
    }

    /// None if it has no limit now.
    pub(super) fn memory(&self) -> Option<GroupMemory> {
        let limit_bytes = self.limits().iter().filter_map(|file| self.number(file)).min()?;
        // What a group without a limit has, in version 1: the largest number of pages.
        if limit_bytes >= 1 << 60 {
            return None;
        }
        // What the kernel takes back before it ends a process: files that were read, and what it remembers of them.
        let (usage, reclaimable): (_, &[&str]) = match self.version {
            Version::V1 => ("memory.usage_in_bytes", &["total_inactive_file", "total_active_file"]),
            Version::V2 => {
                ("memory.current", &["inactive_file", "active_file", "slab_reclaimable"])
            }
        };
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let figures = stat.lines().filter_map(|line| line.split_once(' '));
        let reclaimable = figures.filter(|(name, _)| reclaimable.contains(name));
        let reclaimable: u64 = reclaimable.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum();
        let used_bytes = self.number(usage)?.saturating_sub(reclaimable);
        Some(GroupMemory { limit_bytes, used_bytes })
    }

    /// Its folder, as operators know it.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kernel ends a process beyond the first; it makes all of them wait beyond the second.
    fn limits(&self) -> &'static [&'static str] {
        match self.version {
            Version::V1 => &["memory.limit_in_bytes"],
            Version::V2 => &["memory.max", "memory.high"],
        }
    }

    /// None for `max`, and for a file that is not there.
    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }
}

/// The groups that `/proc/self/cgroup` names, where `/proc/self/mountinfo` says that they are.
fn found(cgroup: &str, mountinfo: &str) -> Vec<Cgroup> {
    let mut groups = Vec::new();
    for line in cgroup.lines() {
        // number:controllers:path
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = match controllers {
            "" => Version::V2,
            some if some.split(',').any(|it| it == "memory") => Version::V1,
            _ => continue,
        };
        let mounted = mountinfo.lines().filter_map(|line| Mount::of(line, version)).find_map(
            |Mount { root, point }| {
                // In a container the mount may show only its part of the tree.
                let inside = Path::new(path).strip_prefix(&root).ok()?.to_owned();
                Some((point, inside))
            },
        );
        let Some((point, inside)) = mounted else { continue };
        // Outside of what we see.
        if inside.components().any(|part| part == std::path::Component::ParentDir) {
            continue;
        }
        let folders = inside.ancestors().map(|part| point.join(part));
        groups.extend(folders.map(|folder| Cgroup { folder, version }));
    }
    groups
}

/// Where a tree of groups is mounted, and which part of it.
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// None if the line is about anything else.
    fn of(line: &str, version: Version) -> Option<Mount> {
        // id parent device root point options [optional...] - type source options
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (unescaped(left.next()?), unescaped(left.next()?));
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = match version {
            Version::V1 => kind == "cgroup" && options.split(',').any(|it| it == "memory"),
            Version::V2 => kind == "cgroup2",
        };
        fits.then_some(Mount { root, point })
    }
}

/// The kernel writes spaces and the like as `\040`.
fn unescaped(path: &str) -> PathBuf {
    let mut plain = String::new();
    let mut rest = path;
    while let Some((before, escaped)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = escaped.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        plain.push(code.map_or('\\', char::from));
        rest = if code.is_some() { &escaped[3..] } else { escaped };
    }
    plain.push_str(rest);
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(cgroup: &str, mountinfo: &str) -> Vec<(String, Version)> {
        let groups = found(cgroup, mountinfo).into_iter();
        groups.map(|it| (it.folder.to_str().unwrap().to_owned(), it.version)).collect()
    }

    const UNIFIED: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw";

    #[test]
    fn groups_are_found_where_they_are_mounted() {
        let v2 = |folders: &[&str]| -> Vec<(String, Version)> {
            folders.iter().map(|folder| ((*folder).to_owned(), Version::V2)).collect()
        };
        assert_eq!(
            folders("0::/system.slice/metalbond-uring.service\n", UNIFIED),
            v2(&[
                "/sys/fs/cgroup/system.slice/metalbond-uring.service",
                "/sys/fs/cgroup/system.slice",
                "/sys/fs/cgroup/",
            ])
        );
        // In a namespace of its own, and in a container that sees its part only.
        assert_eq!(folders("0::/", UNIFIED), v2(&["/sys/fs/cgroup/"]));
        let part = UNIFIED.replace(" / /sys", " /kube\\040pods/a /sys");
        assert_eq!(
            folders("0::/kube pods/a/b", &part),
            v2(&["/sys/fs/cgroup/b", "/sys/fs/cgroup/"])
        );
        // Elsewhere: nothing that we could see.
        assert_eq!(folders("0::/kube/b", &part), v2(&[]));
        assert_eq!(folders("0::/../b", UNIFIED), v2(&[]));
        for nonsense in ["", "0", "0::", ":::::", "\n\n", "1:memory:/a"] {
            assert!(folders(nonsense, UNIFIED).len() <= 1, "{nonsense}");
            assert_eq!(folders(nonsense, ""), v2(&[]));
        }
    }

    #[test]
    fn both_versions_can_be_there() {
        let mountinfo = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let cgroup = "5:cpu:/c\n4:memory:/a\n0::/";
        assert_eq!(
            folders(cgroup, mountinfo),
            [
                ("/sys/fs/cgroup/memory/a".to_owned(), Version::V1),
                ("/sys/fs/cgroup/memory/".to_owned(), Version::V1),
                ("/sys/fs/cgroup/unified/".to_owned(), Version::V2),
            ]
        );
    }

    #[test]
    fn limits_and_what_counts_against_them() {
        let folder = std::env::temp_dir().join(format!("cgroup-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let write = |file: &str, text: &str| fs::write(folder.join(file), text).unwrap();
        let of = |version| Cgroup { folder: folder.clone(), version }.memory();
        assert_eq!(of(Version::V2), None, "no file at all");
        write("memory.max", "max\n");
        write("memory.current", "1000\n");
        assert_eq!(of(Version::V2), None);
        write("memory.max", "5000\n");
        let memory = |limit_bytes, used_bytes| Some(GroupMemory { limit_bytes, used_bytes });
        assert_eq!(of(Version::V2), memory(5000, 1000));
        write("memory.stat", "anon 700\nfile 200\nkernel 100\ninactive_file 150\nsock 5\n");
        assert_eq!(of(Version::V2), memory(5000, 850));
        write("memory.high", "4000\n");
        assert_eq!(of(Version::V2), memory(4000, 850));
        write("memory.high", "max\n");
        assert_eq!(of(Version::V2), memory(5000, 850));
        write("memory.limit_in_bytes", "9223372036854771712\n");
        write("memory.usage_in_bytes", "3000\n");
        assert_eq!(of(Version::V1), None);
        write("memory.limit_in_bytes", "6000\n");
        write("memory.stat", "inactive_file 1\ntotal_inactive_file 500\n");
        assert_eq!(of(Version::V1), memory(6000, 2500));
        fs::remove_dir_all(&folder).unwrap();
    }
}
