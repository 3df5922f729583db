//! Compares servers of the protocol: the same loadgen scenarios against each in turn, interleaved and
//! repeated, with a fresh process for every run.
//!
//! Owns the command line and the order of the runs. Must never judge a server by a run that failed.

mod report;
mod scenario;

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use argh::FromArgs;
use metalbond_uring_compare::binaries::Binaries;
use metalbond_uring_compare::run::{self, Candidate};

use crate::report::Report;

/// The word that makes this program a server of the other implementation.
const RUSTBOND_WORD: &str = "rustbond-server";

/// Runs loadgen's scenarios against this project's reflector, a rustbond server and any server given with
/// --peer, in turn, and prints medians, spread and ratios.
#[derive(FromArgs)]
struct Flags {
    /// folder with release builds of metalbond-uring and loadgen; without it they are built
    #[argh(option)]
    binaries: Option<PathBuf>,
    /// one more server, NAME=COMMAND, where {port} in the command stands for the port that it has to
    /// listen at on [::1]; may be repeated
    #[argh(option, from_str_fn(parse_peer))]
    peer: Vec<Candidate>,
    /// scenario to run (default: all but the long ones); may be repeated, "list" prints them
    #[argh(option)]
    scenario: Vec<String>,
    /// how often each is run, default 5
    #[argh(option, default = "5")]
    rounds: u32,
    /// shards of our reflector, default 1, so that cores do not differ; 0 means one for each CPU
    #[argh(option, default = "1")]
    cores: u16,
    /// leave rustbond out
    #[argh(switch)]
    no_rustbond: bool,
    /// write the table to this file too
    #[argh(option)]
    text: Option<PathBuf>,
    /// write all figures to this file
    #[argh(option)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, port] = &words[..]
        && word == RUSTBOND_WORD
    {
        return serve_rustbond(port.parse()?);
    }
    let flags: Flags = argh::from_env();
    let scenarios = scenario::chosen(&flags.scenario)?;
    ensure!(flags.rounds > 0, "--rounds must be at least 1");
    let binaries = Binaries::at(flags.binaries.as_deref())?;
    let loadgen = binaries.loadgen();
    let candidates = candidates(&flags, &binaries)?;
    let mut report = Report::new(candidates.iter().map(|it| it.name.clone()), flags.rounds);
    for round in 1..=flags.rounds {
        for scenario in &scenarios {
            for (at, candidate) in candidates.iter().enumerate() {
                eprintln!("round {round}/{}: {}: {}", flags.rounds, scenario.name, candidate.name);
                match run::run(&loadgen, scenario.arguments, candidate) {
                    Ok(stages) => report.take(scenario.name, at, &stages),
                    Err(error) => {
                        eprintln!("  FAILED: {error:#}");
                        report.fail(scenario.name, at, &format!("{error:#}"));
                    }
                }
            }
        }
    }
    let text = report.text();
    print!("{text}");
    if let Some(path) = &flags.text {
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &flags.json {
        std::fs::write(path, format!("{:#}\n", report.json()))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn candidates(flags: &Flags, binaries: &Binaries) -> anyhow::Result<Vec<Candidate>> {
    // loadgen's peers reassemble.
    let ours = binaries.server_command(&format!("--cores {}", flags.cores));
    let mut candidates = vec![Candidate { name: "metalbond-uring".to_owned(), command: ours }];
    if !flags.no_rustbond {
        let program = std::env::current_exe().context("the path of this program")?;
        let command = format!("'{}' {RUSTBOND_WORD} {{port}}", program.display());
        candidates.push(Candidate { name: "rustbond".to_owned(), command });
    }
    candidates.extend(flags.peer.iter().cloned());
    Ok(candidates)
}

fn parse_peer(text: &str) -> Result<Candidate, String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && command.contains("{port}") => {
            Ok(Candidate { name: name.to_owned(), command: command.to_owned() })
        }
        _ => Err("expected NAME=COMMAND with {port} in it".to_owned()),
    }
}

/// Serves with the other implementation until killed.
fn serve_rustbond(port: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = rustbond::ServerConfig::default();
        let server = rustbond::MetalBondServer::start(&format!("[::]:{port}"), config).await;
        let Ok(_server) = server else { bail!("rustbond does not start at port {port}") };
        std::future::pending::<()>().await;
        Ok(())
    })
}
