//! The documents: their links lead somewhere, and what they name is there.
//!
//! Owns the comparison of names. README.md has tests of its own (`readme.rs`).
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags of other programs.
const FOREIGN_FLAGS: [&str; 13] = [
    "--bench",
    "--bin",
    "--build",
    "--config",
    "--from",
    "--last-per-subject",
    "--locked",
    "--manifest-path",
    "--max-bytes",
    "--now",
    "--release",
    "--security-opt",
    "--strip-unneeded",
];

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for file in documents() {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match path {
                "" => root().join(&file),
                _ => root().join(&file).parent().unwrap().join(path),
            };
            assert!(path.exists(), "{}: there is no {target}", file.display());
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&path).unwrap();
                let found = text
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| slug(line.trim_start_matches('#').trim()) == anchor);
                assert!(found, "{}: there is no heading for {target}", file.display());
            }
        }
    }
    assert!(links > 30, "{links} links");
}

#[test]
fn every_alert_is_explained() {
    let rules = read("packaging/prometheus/metalbond.rules.yml");
    let operations = read("docs/OPERATIONS.md");
    let (_, table) = operations.split_once("| alert |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let explained: BTreeSet<&str> = table
        .lines()
        .skip(2)
        .flat_map(|row| row.trim_start_matches("| ").split(" |").next().unwrap().split(", "))
        .collect();
    let alerts: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: Metalbond"))
        .filter(|alert| *alert != "VersionsDiffer")
        .collect();
    assert_eq!(explained, alerts);
}

/// What the documents call flags, the programs know.
#[test]
fn flags_are_known() {
    let mut known: BTreeSet<String> = FOREIGN_FLAGS.map(str::to_owned).into();
    let help = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for command in ["server", "client", "show", "diff", "fabric"] {
        known.extend(flags_in(&help(env!("CARGO_BIN_EXE_metalbond-uring"), &["help", command])));
    }
    known.extend(flags_in(&help(env!("CARGO_BIN_EXE_loadgen"), &["--help"])));
    assert!(known.len() > FOREIGN_FLAGS.len() + 30, "{known:?}");
    let for_operators = |file: &PathBuf| {
        file.starts_with("docs") || file.starts_with("packaging") || file.ends_with("SECURITY.md")
    };
    let files = documents().into_iter().filter(for_operators).chain([
        "packaging/default/metalbond-uring".into(),
        "packaging/default/metalbond-uring-client".into(),
        "packaging/kubernetes/client.yaml".into(),
        "packaging/kubernetes/reflector-a.yaml".into(),
        "packaging/kubernetes-fabric/reflectors.yaml".into(),
        "packaging/compose/fabric.yaml".into(),
        "packaging/systemd/fabric.conf".into(),
        "packaging/Containerfile".into(),
        "packaging/prometheus/metalbond.rules.yml".into(),
    ]);
    let mut unknown = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let flags = flags_in(&text).into_iter().filter(|flag| !known.contains(flag));
        unknown.extend(flags.map(|flag| format!("{flag} in {}", file.display())));
    }
    assert!(unknown.is_empty(), "nobody knows {unknown:#?}");
}

/// `--flag`, where a word begins.
fn flags_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    let is_flag = |word: &&str| {
        word.strip_prefix("--")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    words.filter(is_flag).map(str::to_owned).collect()
}

/// As GitHub makes an anchor of a heading.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    heading
        .chars()
        .filter(kept)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect::<String>()
        .to_lowercase()
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [
        "",
        "docs",
        "docs/curves",
        "loadgen",
        "packaging",
        "packaging/kubernetes",
        "packaging/kubernetes-fabric",
        "benches/compare",
    ] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    assert!(found.len() > 8, "{found:?}");
    found
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
