//! The shape of the source: which room may use which, and how long files are.
//!
//! Owns the table of rooms. Reads text, not syntax: a trick could get around it, an oversight cannot.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;

const BELOW_IO: [&str; 11] = [
    "vital", "types", "wire", "session", "log", "policy", "rib", "client", "handover", "shard",
    "fabric",
];

/// Each room (a file or folder in `src`), and what it may use: what is below it, and the rooms beside it
/// not at all.
const ROOMS: [(&str, &[&str]); 24] = [
    ("vital", &[]),
    ("types", &[]),
    ("wire", &["types"]),
    ("session", &["types", "wire"]),
    ("log", &["types", "wire"]),
    ("policy", &["types"]),
    ("rib", &["types", "wire", "log", "policy"]),
    ("client", &["types", "wire", "rib"]),
    ("handover", &[]),
    ("shard", &["types", "wire", "session", "log", "policy", "rib", "client", "handover"]),
    ("fabric", &["types", "wire", "handover", "shard"]),
    ("io", &BELOW_IO),
    ("kernel", &["vital", "types"]),
    ("http", &["vital", "types", "session", "shard", "fabric", "io", "kernel"]),
    ("status", &BELOW_IO),
    (
        "api",
        &[
            "vital", "types", "wire", "session", "log", "policy", "rib", "client", "shard",
            "fabric", "io", "kernel", "status", "http",
        ],
    ),
    (
        "cli",
        &[
            "types", "wire", "session", "log", "policy", "rib", "client", "shard", "fabric", "io",
            "kernel", "status", "http", "api",
        ],
    ),
    ("detach", &[]),
    ("diagnostics", &["vital", "types", "shard", "cli"]),
    ("supervisor", &["vital", "io"]),
    ("ask", &["types"]),
    ("show", &["types", "cli", "ask"]),
    ("diff", &["types", "cli", "ask"]),
    (
        "main",
        &[
            "vital", "types", "fabric", "io", "kernel", "status", "http", "api", "cli", "ask",
            "show", "diff",
        ],
    ),
];

#[test]
fn rooms_use_only_what_is_below() {
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let room = room_of(&file);
        if !["lib", "internals"].contains(&room.as_str()) {
            let text = std::fs::read_to_string(&file).unwrap();
            faults.extend(faults_of(&room, &text).map(|fault| format!("{}: {fault}", show(&file))));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Rooms whose files use each other in one direction: what is below can be read alone.
#[test]
fn files_of_a_room_use_each_other_without_circles() {
    let rooms = [
        "api",
        "ask",
        "cli",
        "diagnostics",
        "diff",
        "fabric",
        "http",
        "io",
        "kernel",
        "kernel/plan",
        "policy",
        "show",
        "types",
        "wire",
    ];
    let rooms = rooms.iter().map(|room| format!("src/{room}")).chain(["loadgen".to_owned()]);
    for room in rooms {
        let mut uses = BTreeMap::new();
        for file in rust_files(&room) {
            let inside = file.strip_prefix(root().join(&room)).unwrap();
            let name = Path::new(inside.iter().next().unwrap()).file_stem().unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            let (text, _) = text.split_once("mod tests {").unwrap_or((&text, ""));
            let used: &mut BTreeSet<_> =
                uses.entry(name.to_string_lossy().into_owned()).or_default();
            used.extend(names_used(text, &["super::", "crate::"]));
        }
        uses.retain(|name, _| !["mod", "main", "tests"].contains(&name.as_str()));
        // What uses nothing that is left is at the bottom, and is taken away.
        while let Some(bottom) = bottom_of(&uses) {
            uses.remove(&bottom);
        }
        let circle: Vec<_> = uses.keys().collect();
        assert!(circle.is_empty(), "{room}: a circle among {circle:?}");
    }
}

/// A name that uses no other.
fn bottom_of(uses: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    let is_bottom = |(name, used): &(&String, &BTreeSet<String>)| {
        !used.iter().any(|used| used != *name && uses.contains_key(used))
    };
    uses.iter().find(is_bottom).map(|(name, _)| name.clone())
}

/// A module that is built elsewhere has errors of its own, and the one that tells why is lost among them.
#[test]
fn outside_linux_there_is_one_error() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let lines: Vec<&str> = lib.lines().collect();
    assert!(lib.contains("#[cfg(not(target_os = \"linux\"))]\ncompile_error!("));
    for pair in lines.windows(2).filter(|pair| pair[1].contains("mod ")) {
        let guarded = pair[0].starts_with("#[cfg(") && pair[0].contains("target_os = \"linux\"");
        assert!(guarded || pair[1].starts_with("//"), "{}: nothing says Linux only", pair[1]);
    }
}

#[test]
fn the_generated_types_stay_in_their_rooms() {
    for file in rust_files("src") {
        let text = std::fs::read_to_string(&file).unwrap();
        let may_see = ["wire", "handover"].contains(&room_of(&file).as_str());
        for line in code(&text) {
            let generated = ["prost", "proto::", "OUT_DIR"].iter().any(|word| line.contains(word));
            let leaves = !may_see || line.trim_start().starts_with("pub ");
            assert!(!(generated && leaves), "{}: {line}", show(&file));
        }
    }
}

#[test]
fn the_end_of_a_thread_is_never_overlooked() {
    for file in rust_files("src").into_iter().filter(|file| room_of(file) != "vital") {
        let text = std::fs::read_to_string(&file).unwrap();
        let (text, _) = text.split_once("mod tests {").unwrap_or((&text, ""));
        for line in code(text) {
            let starts = line.contains("thread::Builder") || line.contains("thread::spawn");
            assert!(!starts, "{}: use vital::spawn: {line}", show(&file));
        }
    }
}

#[test]
fn files_say_what_they_own_and_are_short() {
    let mut files: Vec<_> = ["src", "tests", "benches", "loadgen"]
        .iter()
        .flat_map(|folder| rust_files(folder))
        .collect();
    files.push(root().join("build.rs"));
    assert!(files.len() > 40, "{} files found", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} does not open with //!", show(&file));
        let lines = text.lines().count();
        assert!(lines < FILE_LINES_MAX, "{} has {lines} lines", show(&file));
    }
}

#[test]
fn the_architecture_is_read_in_an_hour() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.lines().count() <= 180, "{} lines", text.lines().count());
}

#[test]
fn faults_are_found() {
    let faults = |room: &str, text: &str| faults_of(room, text).count();
    assert_eq!(faults("log", "use crate::types::Vni;\nuse crate::wire;"), 0);
    assert_eq!(faults("log", "use crate::session::State;"), 1);
    assert_eq!(faults("io", "    let x = crate::kernel::plan();"), 1);
    assert_eq!(faults("types", "use crate::{wire, types::Vni};"), 1);
    assert_eq!(faults("wire", "use crate::{\n    types::Vni,\n    rib::{Rib, Join},\n};"), 1);
    assert_eq!(faults("shard", "use super::super::io::Server;"), 1);
    assert_eq!(faults("main", "use metalbond_uring::internals::rib::Rib;"), 1);
    assert_eq!(faults("main", "use metalbond_uring::internals::{io, rib};"), 1);
    assert_eq!(faults("io", "use crate::internals::kernel::KernelRoutes;"), 1);
    assert_eq!(faults("log", "/// See [`crate::session`].\n// use crate::session;"), 0);
    assert_eq!(faults("types", "let crates = my_crate::wire();"), 0);
    assert_eq!(faults("cellar", "use crate::types::Vni;"), 1);
    // A command's flags have the name of its room.
    assert_eq!(faults("cli", "use super::show::TIMEOUT_TAKES;"), 0);
    assert_eq!(faults("cli", "use metalbond_uring::show::run;"), 1);
    assert_eq!(faults("http", "use super::show::run;"), 1);
    let uses = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(a, b)| (a.to_string(), BTreeSet::from([b.to_string()]))).collect()
    };
    assert_eq!(bottom_of(&uses(&[("a", "b"), ("b", "elsewhere")])).as_deref(), Some("b"));
    assert_eq!(bottom_of(&uses(&[("a", "b"), ("b", "a")])), None);
}

/// The uses of other rooms that the table does not allow.
fn faults_of<'a>(room: &'a str, text: &'a str) -> impl Iterator<Item = String> + 'a {
    let may = ROOMS.iter().find(|(name, _)| *name == room).map(|(_, may)| *may);
    let used = used_rooms(room, text);
    let unknown = may.is_none().then(|| format!("{room} is not in the table of rooms"));
    let forbidden = used.into_iter().filter_map(move |used| {
        let allowed = may?.contains(&used.as_str()) || used == room;
        (!allowed).then(|| format!("{room} must not use {used}"))
    });
    unknown.into_iter().chain(forbidden)
}

/// The rooms named in paths from the crate's root, or from a parent.
fn used_rooms(room: &str, text: &str) -> BTreeSet<String> {
    let mut used = names_used(text, &["crate::"]);
    // It may be a module of the same room, or the doors to all; no room has such a name.
    let mut others = names_used(text, &["super::"]);
    others.retain(|name| !root().join("src").join(room).join(format!("{name}.rs")).exists());
    others.extend(names_used(text, &["metalbond_uring::", "metalbond_uring::internals::"]));
    used.extend(others.into_iter().filter(|name| ROOMS.iter().any(|(room, _)| room == name)));
    used
}

/// The names that follow one of these roots.
fn names_used(text: &str, roots: &[&str]) -> BTreeSet<String> {
    let text: String = code(text).collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for root in roots {
        for (at, _) in text.match_indices(root) {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            if !text[..at].ends_with(word) {
                used.extend(first_names(&text[at + root.len()..]));
            }
        }
    }
    used
}

/// `a` of `a::b`; `a` and `c` of `{a::b, c}`. Names of modules only: items are capitals or macros.
fn first_names(path: &str) -> Vec<String> {
    let first = |path: &str| -> String {
        path.trim().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![first(path)];
    };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The lines without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str();
    Path::new(first).file_stem().unwrap().to_string_lossy().into_owned()
}

fn show(file: &Path) -> String {
    file.strip_prefix(root()).unwrap().display().to_string()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All of a folder, build products aside. None if there is no such folder.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}
