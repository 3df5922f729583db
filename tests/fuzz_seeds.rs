//! What the fuzz targets have found worth keeping, and the frames of the corpus, run through the targets
//! without libFuzzer.
//!
//! Owns the replay. Must never pass over a target, nor over an input that cannot be read.
//!
//! `tests/fuzz/run` fuzzes, and keeps new inputs.

#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::Value;

#[path = "../benches/common/config.rs"]
mod config;
#[path = "fuzz/targets/decode.rs"]
mod decode;
#[path = "fuzz/targets/fabric.rs"]
mod fabric;
#[path = "fuzz/input.rs"]
mod input;
#[path = "fuzz/targets/netlink.rs"]
mod netlink;
#[path = "fuzz/targets/policy.rs"]
mod policy;
#[path = "fuzz/targets/session.rs"]
mod session;
#[path = "fuzz/targets/shard.rs"]
mod shard;
#[path = "fuzz/targets/update.rs"]
mod update;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 7] = [
    ("decode", decode::run),
    ("fabric", fabric::run),
    ("netlink", netlink::run),
    ("policy", policy::run),
    ("session", session::run),
    ("shard", shard::run),
    ("update", update::run),
];

/// All seeds together, so that the repository stays small.
const SEED_BYTES_MAX: u64 = 600_000;

#[test]
fn decode_seeds() {
    replay("decode");
}

#[test]
fn fabric_seeds() {
    replay("fabric");
}

#[test]
fn netlink_seeds() {
    replay("netlink");
}

#[test]
fn policy_seeds() {
    replay("policy");
}

#[test]
fn session_seeds() {
    replay("session");
}

#[test]
fn shard_seeds() {
    replay("shard");
}

#[test]
fn update_seeds() {
    replay("update");
}

/// Frames that were written down for other tests: whole, and cut, and twice.
#[test]
fn frames_of_the_corpus() {
    let streams = streams();
    assert!(streams.len() > 60, "{} streams", streams.len());
    for stream in &streams {
        for chunk_bytes in [0, 1, 7, 255] {
            check("decode", &[&[chunk_bytes], &stream[..]].concat());
        }
        if stream.len() > 4 {
            check("update", &stream[4..]);
        }
        for config in [0, 1, 17] {
            check("session", &session_of(config, stream));
        }
        check("shard", &shard_of(stream));
    }
}

/// Each target has its seeds, and its place in the list.
#[test]
fn no_target_is_left_out() {
    let names = |folder: &str, extension: &str| {
        let files = std::fs::read_dir(fuzz().join(folder)).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    };
    let listed: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names("targets", "rs"), listed);
    assert_eq!(names("bins", "rs"), listed);
    assert_eq!(names("seeds", "hex"), listed);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let checks =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).unwrap();
    let of_loop = checks.lines().find_map(|line| line.strip_prefix("for target in ")).unwrap();
    for name in &listed {
        assert!(manifest.contains(&format!("path = \"bins/{name}.rs\"")), "{name}: Cargo.toml");
        assert!(of_loop.split([' ', ';']).any(|word| word == *name), "{name}: .ci/run");
    }
    let bytes: u64 = names("seeds", "hex").iter().map(|name| seed_file(name).len() as u64).sum();
    assert!(
        bytes < SEED_BYTES_MAX,
        "{bytes} bytes of seeds: minimise them (tests/fuzz/run --keep)"
    );
}

/// A replay that cannot fail would be worth nothing.
#[test]
fn a_target_that_fails_is_told_with_its_input() {
    let fails: Target = |input| assert_ne!(input, [7, 8], "planted");
    assert_eq!(outcome("planted", fails, &[7]), Ok(()));
    let told = outcome("planted", fails, &[7, 8]).unwrap_err();
    assert!(told.contains("planted: input 0708: ") && told.contains("assertion"), "{told}");
}

fn replay(name: &str) {
    let file = seed_file(name);
    let seeds: Vec<Vec<u8>> = file.lines().map(|line| hex::decode(line).unwrap()).collect();
    assert!(seeds.len() > 10, "{name}: {} seeds", seeds.len());
    for seed in &seeds {
        check(name, seed);
    }
}

#[track_caller]
fn check(name: &str, input: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(found, _)| *found == name).unwrap();
    if let Err(told) = outcome(name, *target, input) {
        panic!("{told}");
    }
}

/// Says of an input that makes a target panic which one it is: `tests/fuzz/run` takes it as a file.
fn outcome(name: &str, target: Target, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| target(input))).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
        format!("{name}: input {}: {words}", hex::encode(input))
    })
}

fn seed_file(name: &str) -> String {
    std::fs::read_to_string(fuzz().join(format!("seeds/{name}.hex"))).unwrap()
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// The bytes of all vectors, bad frames and streams, and what each connection of a transcript sends.
fn streams() -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let load = |path: &Path| -> Value {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let bytes = |one: &Value| one["hex"].as_str().map(|text| hex::decode(text).unwrap());
    let mut streams = Vec::new();
    for name in ["vectors.json", "bad-frames.json", "bad-streams.json"] {
        streams.extend(load(&corpus.join(name)).as_array().unwrap().iter().filter_map(bytes));
    }
    for file in std::fs::read_dir(corpus.join("transcripts")).unwrap() {
        let transcript = load(&file.unwrap().path());
        let events = transcript["events"].as_array().unwrap();
        for connection in 1..10 {
            for direction in ["c2s", "s2c"] {
                let said = events
                    .iter()
                    .filter(|event| event["conn"] == connection && event["dir"] == direction);
                let stream: Vec<u8> = said.filter_map(bytes).flatten().collect();
                if !stream.is_empty() {
                    streams.push(stream);
                }
            }
        }
    }
    streams
}

/// As the target takes it: a connection that is up, and chunks of at most 255 bytes.
fn session_of(config: u8, stream: &[u8]) -> Vec<u8> {
    let chunks = stream.chunks(255).flat_map(|chunk| [&[14, chunk.len() as u8], chunk].concat());
    [config, 0].into_iter().chain(chunks).collect()
}

/// As the target takes it: a peer says it to a shard, while turns pass.
fn shard_of(stream: &[u8]) -> Vec<u8> {
    let chunks = stream
        .chunks(39)
        .flat_map(|chunk| [&[9, 0, chunk.len() as u8], chunk, &[1, 0, 2, 1, 1, 1, 2, 0]].concat());
    [0, 0, 0, 0, 0].into_iter().chain(chunks).collect()
}
