//! Compares servers of the protocol: the same loadgen scenarios against each in turn, interleaved and
//! repeated, with a fresh process for every run.
//!
//! Owns the command line and the order of the runs. Must never judge a server by a run that failed, nor end
//! without its links and processes being gone.

mod report;
mod scenario;
mod setting;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use argh::FromArgs;
use metalbond_uring_compare::binaries::Binaries;
use metalbond_uring_compare::link::{Link, LinkKind};
use metalbond_uring_compare::run::{Candidate, Run};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::report::Report;
use crate::scenario::Scenario;
use crate::setting::{Receivers, Setting};

/// The number of this project's reflector among the candidates.
const OURS: usize = 0;
/// The word that makes this program a server of the other implementation.
const RUSTBOND_WORD: &str = "rustbond-server";

/// Runs loadgen's scenarios against this project's reflector, a rustbond server and any server given with
/// --peer, in turn, and prints medians, spread and ratios.
#[derive(FromArgs)]
struct Flags {
    /// folder with release builds of metalbond-uring and loadgen; without it they are built
    #[argh(option)]
    binaries: Option<PathBuf>,
    /// one more server, NAME=COMMAND, where {address} and {port} in the command stand for where it has to
    /// listen, as in --listen [{address}]:{port}; without {address} it has to listen at all addresses ([::])
    /// or, over loopback, at [::1]; may be repeated
    #[argh(option, from_str_fn(parse_peer))]
    peer: Vec<Candidate>,
    /// scenario to run (default: all but the tiny and the long ones); may be repeated, "list" prints them
    #[argh(option)]
    scenario: Vec<String>,
    /// what is between servers and loadgen: loopback (default), or veth: a pair with an MTU of 1500 between
    /// two network namespaces of this run's own, which needs root; may be repeated
    #[argh(option, from_str_fn(LinkKind::named))]
    link: Vec<LinkKind>,
    /// how loadgen's peers read: reassemble (default), or aligned: a read that ends inside a frame is a
    /// failure; may be repeated
    #[argh(option, from_str_fn(Receivers::named))]
    receivers: Vec<Receivers>,
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

fn main() -> anyhow::Result<ExitCode> {
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
    // From here on there is something to clean up, which the end of `main` does.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let mut report = Report::new(candidates.iter().map(|it| it.name.clone()), flags.rounds);
    compare(&flags, &loadgen, &scenarios, &candidates, &interrupted, &mut report)?;
    publish(&flags, &report)?;
    Ok(if report.has_failed(OURS) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All runs, interleaved. A run that fails goes into the report; what is wrong here is an error.
fn compare(
    flags: &Flags,
    loadgen: &Path,
    scenarios: &[Scenario],
    candidates: &[Candidate],
    interrupted: &AtomicBool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let settings = Setting::all(&flags.link, &flags.receivers);
    let mut links: Vec<Link> = Vec::new();
    for setting in &settings {
        if !links.iter().any(|link| link.kind() == setting.link) {
            links.push(Link::up(setting.link)?);
        }
    }
    for round in 1..=flags.rounds {
        for (scenario, &setting) in
            scenarios.iter().flat_map(|it| settings.iter().map(move |setting| (it, setting)))
        {
            let link = links.iter().find(|link| link.kind() == setting.link);
            let link = link.context("every link was brought up")?;
            let flag = setting.receivers.loadgen_flag().unwrap_or_default();
            let arguments = format!("{} {flag}", scenario.arguments);
            for (at, candidate) in candidates.iter().enumerate() {
                let (name, rounds) = (&candidate.name, flags.rounds);
                eprintln!("round {round}/{rounds}: {}, {setting}: {name}", scenario.name);
                let run = Run { loadgen, arguments: &arguments, candidate, link, interrupted };
                let result = run.execute();
                ensure!(!interrupted.load(Ordering::Relaxed), "interrupted: nothing is reported");
                match result {
                    Ok(stages) => report.take(scenario.name, setting, at, &stages),
                    Err(error) => {
                        eprintln!("  FAILED: {error:#}");
                        report.fail(scenario.name, setting, at, &format!("{error:#}"));
                    }
                }
            }
        }
    }
    Ok(())
}

fn publish(flags: &Flags, report: &Report) -> anyhow::Result<()> {
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
    // What sending costs is measured, so nobody is paced.
    let ours = binaries.server_command(&format!("--cores {} --pace off", flags.cores));
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
fn serve_rustbond(port: u16) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = rustbond::ServerConfig::default();
        let server = rustbond::MetalBondServer::start(&format!("[::]:{port}"), config).await;
        let Ok(_server) = server else { bail!("rustbond does not start at port {port}") };
        std::future::pending::<()>().await;
        Ok(ExitCode::SUCCESS)
    })
}
