//! Makes the prost types from `proto`, which needs no installed protoc, and the version that the programs print.

use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors =
        protox::compile(["proto/metalbond.proto", "proto/handover.proto"], ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;

    let version = std::env::var("CARGO_PKG_VERSION")?;
    let version = match commit() {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    };
    println!("cargo::rustc-env=METALBOND_VERSION={version}");
    Ok(())
}

/// The commit that is built, if this is a clone (a work tree's `.git` is a file). An archive within another
/// project's clone is not its commit.
fn commit() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // What changes with the commit: HEAD names another branch, or that branch moves on. A file that is
    // missing would have the build run anew each time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    let files = ["HEAD", "logs/HEAD", "packed-refs"].map(str::to_owned);
    for file in files.into_iter().chain(branch) {
        let path = git(&["rev-parse", "--git-path", &file]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=7", "HEAD"])
}

/// What git says; nothing if there is no git, or if it refuses.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
