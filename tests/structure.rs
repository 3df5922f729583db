//! The shape of the source: which room may use which, and how long files are.
//!
//! Owns the table of rooms. Reads text, not syntax: a trick could get around it, an oversight cannot.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;

const BELOW_IO: [&str; 8] = ["vital", "types", "wire", "session", "log", "rib", "client", "shard"];

/// Each room (a file or folder in `src`), and what it may use: what is below it, and the rooms beside it
/// not at all.
const ROOMS: [(&str, &[&str]); 15] = [
    ("vital", &[]),
    ("types", &[]),
    ("wire", &["types"]),
    ("session", &["types", "wire"]),
    ("log", &["types", "wire"]),
    ("rib", &["types", "wire", "log"]),
    ("client", &["types", "wire", "rib"]),
    ("shard", &["types", "wire", "session", "log", "rib", "client"]),
    ("io", &BELOW_IO),
    ("kernel", &["vital", "types"]),
    ("status", &BELOW_IO),
    (
        "api",
        &[
            "vital", "types", "wire", "session", "log", "rib", "client", "shard", "io", "kernel",
            "status",
        ],
    ),
    (
        "cli",
        &[
            "types", "wire", "session", "log", "rib", "client", "shard", "io", "kernel", "status",
            "api",
        ],
    ),
    ("diagnostics", &["vital", "types", "shard", "cli"]),
    ("main", &["vital", "types", "io", "kernel", "status", "api", "cli"]),
];

#[test]
fn rooms_use_only_what_is_below() {
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let room = room_of(&file);
        if room != "lib" {
            let text = std::fs::read_to_string(&file).unwrap();
            faults.extend(faults_of(&room, &text).map(|fault| format!("{}: {fault}", show(&file))));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
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
fn the_generated_types_stay_in_wire() {
    for file in rust_files("src") {
        let text = std::fs::read_to_string(&file).unwrap();
        let in_wire = room_of(&file) == "wire";
        for line in code(&text) {
            let generated = ["prost", "proto::", "OUT_DIR"].iter().any(|word| line.contains(word));
            let leaves = !in_wire || line.trim_start().starts_with("pub ");
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

/// Files that use each other cannot be read one after the other.
#[test]
fn the_files_of_a_room_do_not_go_round_in_circles() {
    for folder in ["src/client", "src/shard", "src/shard/peer"] {
        let uses = uses_within(folder);
        assert!(uses.len() > 4 && uses.values().any(|used| !used.is_empty()), "{uses:?}");
        assert_eq!(circle(uses), None, "{folder}");
    }
    let uses = |pairs: &[(&str, &[&str])]| {
        let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        pairs.iter().map(|&(file, used)| (file.to_string(), owned(used))).collect()
    };
    assert_eq!(circle(uses(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
    let round = circle(uses(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])]));
    assert_eq!(round, Some(["b", "c"].map(str::to_string).into()));
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
    assert_eq!(faults("main", "use metalbond_uring::rib::Rib;"), 1);
    assert_eq!(faults("log", "/// See [`crate::session`].\n// use crate::session;"), 0);
    assert_eq!(faults("types", "let crates = my_crate::wire();"), 0);
    assert_eq!(faults("cellar", "use crate::types::Vni;"), 1);
}

/// The uses of other rooms that the table does not allow.
fn faults_of<'a>(room: &'a str, text: &'a str) -> impl Iterator<Item = String> + 'a {
    let may = ROOMS.iter().find(|(name, _)| *name == room).map(|(_, may)| *may);
    let used = used_rooms(text);
    let unknown = may.is_none().then(|| format!("{room} is not in the table of rooms"));
    let forbidden = used.into_iter().filter_map(move |used| {
        let allowed = may?.contains(&used.as_str()) || used == room;
        (!allowed).then(|| format!("{room} must not use {used}"))
    });
    unknown.into_iter().chain(forbidden)
}

/// The rooms named in paths from the crate's root, or from a parent.
fn used_rooms(text: &str) -> BTreeSet<String> {
    let mut used: BTreeSet<String> = names_behind("crate::", text).into_iter().collect();
    used.extend(names_behind("metalbond_uring::", text));
    // What a parent has may be a module of the same room, but then it has no room's name.
    let is_room = |name: &String| ROOMS.iter().any(|(room, _)| room == name);
    used.extend(names_behind("super::", text).into_iter().filter(is_room));
    used
}

/// The modules named in paths that begin like this, comments left out.
fn names_behind(root: &str, text: &str) -> Vec<String> {
    let text: String = code(text).collect::<Vec<_>>().join("\n");
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let places = text.match_indices(root).filter(|&(at, _)| !text[..at].ends_with(word));
    places.flat_map(|(at, _)| first_names(&text[at + root.len()..])).collect()
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

/// The files and folders in a folder, and which of each other they use; `mod.rs`, which holds them
/// together, and tests left out.
fn uses_within(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let folder = root().join(folder);
    let mut uses = BTreeMap::<String, BTreeSet<String>>::new();
    for file in rust_files(folder.strip_prefix(root()).unwrap().to_str().unwrap()) {
        let inside = file.strip_prefix(&folder).unwrap();
        let unit = Path::new(inside.iter().next().unwrap()).with_extension("");
        let unit = unit.to_str().unwrap().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let (text, _) = text.split_once("mod tests {").unwrap_or((&text, ""));
        if unit == "mod" || unit.ends_with("tests") {
            continue;
        }
        let room = folder.strip_prefix(root().join("src")).unwrap().to_str().unwrap();
        let used = uses.entry(unit).or_default();
        used.extend(names_behind(&format!("crate::{}::", room.replace('/', "::")), text));
        // From a folder within the folder, `super` is that one's.
        if inside.iter().count() == 1 || inside.ends_with("mod.rs") {
            used.extend(names_behind("super::", text));
        }
    }
    let units: BTreeSet<String> = uses.keys().cloned().collect();
    for (unit, used) in &mut uses {
        used.retain(|name| name != unit && units.contains(name));
    }
    uses
}

/// Those that are left when all are taken away that use nothing that is left, or are used by nothing.
fn circle(mut uses: BTreeMap<String, BTreeSet<String>>) -> Option<BTreeSet<String>> {
    loop {
        let used: BTreeSet<String> = uses.values().flatten().cloned().collect();
        let before = uses.len();
        uses.retain(|name, uses| !uses.is_empty() && used.contains(name));
        if uses.len() == before {
            return (before > 0).then(|| uses.into_keys().collect());
        }
        let left: BTreeSet<String> = uses.keys().cloned().collect();
        uses.values_mut().for_each(|used| used.retain(|name| left.contains(name)));
    }
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
