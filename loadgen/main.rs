//! The program `loadgen`: thousands of simulated peers against a MetalBond server.
//!
//! Owns the process: its arguments, its output, its exit code, and the reflector that it may start. Must
//! never leave that one running.

mod canon;
mod chart;
mod child;
mod cli;
mod clock;
mod cost;
mod engine;
mod facts;
mod fairness;
mod homes;
mod hostile;
mod latency;
mod manual;
mod options;
mod output;
mod peer;
mod pipeline;
mod plan;
mod progress;
mod report;
mod restart;
mod returning;
mod route;
mod scenario;
mod shard;
mod shared;
mod sizes;
mod socket;
mod stage;
mod stream;
mod target;
mod upgrade;
mod values;
mod verify;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::child::Reflector;
use crate::cli::PROGRAM;
use crate::engine::{Engine, Server};
use crate::facts::Facts;
use crate::options::Options;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::Report;
use crate::shared::Behaviour;
use crate::sizes::Scenario;
use crate::upgrade::Meeting;
use crate::values::Addresses;

/// Descriptors that loadgen needs beside those of its peers.
const DESCRIPTORS_BESIDE: u64 = 100;

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let [child::WORD, flags @ ..] = &args[..] {
        return child::serve(flags);
    }
    let options = match manual::asked(&args).map_or_else(|| cli::parse(&args), Err) {
        Ok(options) => options,
        Err(exit) => {
            let to_stdout = exit.stream == metalbond_uring::internals::cli::Stream::Stdout;
            say(to_stdout, &exit.text);
            return ExitCode::from(u8::try_from(exit.code).unwrap_or(1));
        }
    };
    exit_on_panic();
    let facts = facts::facts(&options, &args);
    match run(&options, &facts) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(false, &format!("{PROGRAM}: {error:#}\n"));
            if let Some(path) = &options.report {
                // If it is the report that cannot be written, this fails again.
                let _ = write(path, &never_begun(&options, &facts, &format!("FAILED: {error:#}")));
            }
            ExitCode::FAILURE
        }
    }
}

/// The report of a run that did not come to its first stage: an old one must not be taken for it.
fn never_begun(options: &Options, facts: &Facts, verdict: &str) -> String {
    let scenario = options.scenario.name();
    Report { scenario, line: "", facts, stages: &[], samples: &[], verdict }.page()
}

/// Runs and reports. False if something was wrong with the server.
fn run(options: &Options, facts: &Facts) -> anyhow::Result<bool> {
    enough_descriptors(options)?;
    if let Some(report) = &options.report {
        // Now, not after a minute of work; what is there stays until the run ends.
        let opened = OpenOptions::new().create(true).append(true).open(report);
        opened.with_context(|| format!("cannot write {}", report.display()))?;
    }
    if let Some(pid) = options.server_pid {
        cost::cpu_ns(pid).with_context(|| format!("cannot watch process {pid} (--server-pid)"))?;
    }
    metalbond_uring::internals::io::probe()?;
    let plan = scenario::plan(options.scenario, &options.sizes, options.vni_base, options.fleet());
    let (server, first_line) = server(options, &plan)?;
    say(!options.json, &first_line);
    let behaviour = Behaviour {
        targets: server.targets.clone(),
        has_own_address: options.has_own_address,
        keepalive_s: options.keepalive_s,
        reading: options.reading,
        habits: options.habits,
        inflight: options.inflight,
        sabotage: options.sabotage,
    };
    let shards = (options.threads as usize).min(plan.peers.len());
    let mut engine =
        Engine::start(plan, behaviour, server, shards, options.patience_s, Progress::new())?;
    let failure =
        scenario::run(&mut engine, (options.scenario, &options.sizes), options.cores).err();
    let failure = failure.map(|error| format!("{error:#}"));
    if let Some(failure) = &failure {
        engine.fail(failure);
    }
    let (recorder, findings) = engine.finish();
    let stages = recorder.stages();
    if options.json {
        say(true, &output::json(stages));
        if failure.is_some() || stages.iter().any(|stage| !stage.ok) {
            say(false, &output::verdict(stages, &findings, failure.as_deref()));
        }
    } else {
        say(true, &output::table(stages, &findings, failure.as_deref()));
    }
    if let Some(summary) = fairness::summary(stages, options.sizes.hostility) {
        say(!options.json, &summary);
    }
    if let Some(path) = &options.report {
        let verdict = output::verdict(stages, &findings, failure.as_deref());
        let report = Report {
            scenario: options.scenario.name(),
            line: &first_line,
            facts,
            stages,
            samples: recorder.samples(),
            verdict: &verdict,
        };
        write(path, &report.page())?;
    }
    Ok(failure.is_none() && stages.iter().all(|stage| stage.ok))
}

/// The server to load, and the line that says which.
fn server(options: &Options, plan: &Plan) -> anyhow::Result<(Server, String)> {
    let scenario = options.scenario.name();
    if !options.targets.is_empty() {
        let find = |target: &Addresses| target::find(target, options.keepalive_s);
        let targets = options.targets.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let line = loading(options, &targets, scenario);
        let pid = options.server_pid;
        let server =
            Server { child: None, other: None, flags: Vec::new(), targets, pid, _meeting: None };
        return Ok((server, line));
    }
    let sizes = &options.sizes;
    let peers = 0..plan.peers.len() as u32;
    let routes = peers.map(|peer| plan.routes_of(peer)).max().unwrap_or_default();
    let peers_max = sizes.all_peers().saturating_add(8).clamp(65_536, 1 << 20);
    let mut flags = vec![
        format!("--keepalive={}", options.keepalive_s),
        format!("--peers-max={peers_max}"),
        format!("--peers-per-address-max={peers_max}"),
        format!("--handshakes-max={peers_max}"),
        format!("--routes-per-peer-max={}", routes.clamp(100_000, u64::from(u32::MAX))),
        format!("--vnis-per-peer-max={}", sizes.vnis_per_peer.max(16_384)),
    ];
    let is_fairness = options.scenario == Scenario::Fairness;
    if !is_fairness {
        // What it can do is to be seen.
        flags.push(format!("--updates-per-s-max={}", u32::MAX));
    }
    let mut cores = options.cores.or(is_fairness.then_some(1));
    let mut meeting = None;
    if options.scenario == Scenario::Upgrade {
        let meeting = meeting.insert(Meeting::new().context("a folder for a socket")?);
        flags.push(format!("--handover={}", meeting.path().display()));
        cores = Some(upgrade::cores_by_turns(cores)[0]);
    }
    flags.extend(cores.map(|cores| format!("--cores={cores}")));
    flags.extend(options.pace.iter().map(|pace| format!("--pace={pace}")));
    let (child, other) = match is_fairness {
        false => (Reflector::start(child::free_port(), &flags)?, None),
        // Hostile peers come from other addresses, of which the loopback interface has more than one in IPv4.
        true => fairness::on_first_cpu(|| -> anyhow::Result<_> {
            let start = || Reflector::start((Ipv4Addr::LOCALHOST, 0).into(), &flags);
            Ok((start()?, Some(start()?)))
        })?,
    };
    let (target, pid) = (child.address(), child.pid());
    let line = format!(
        "loading a reflector of its own at {target} (process {pid}): {scenario}; \
         --target \"[::1]:4711\" aims at a running one\n"
    );
    let targets = vec![target];
    Ok((
        Server { child: Some(child), other, flags, targets, pid: Some(pid), _meeting: meeting },
        line,
    ))
}

/// The line that says which running servers are loaded.
fn loading(options: &Options, targets: &[SocketAddr], scenario: &str) -> String {
    if let [target] = targets {
        return format!("loading the server at {target}: {scenario}\n");
    }
    let (names, dual) = (targets.iter().map(ToString::to_string), options.dual);
    let mut line = format!("loading the servers at {}", names.collect::<Vec<_>>().join(", "));
    if dual > 0 {
        line += &format!(", with {dual} peers at two of them");
    }
    line += &format!(": {scenario}\n");
    if !options.has_own_address {
        line += "all peers come from one address, so they are told apart by their connections only: the \
                 servers need --fabric-identity none\n";
    }
    line
}

/// Whether this process may open a socket for each peer, and the system has a port for each.
fn enough_descriptors(options: &Options) -> anyhow::Result<()> {
    let peers = u64::from(options.sizes.all_peers()) + u64::from(options.dual);
    let needed = peers + DESCRIPTORS_BESIDE;
    let allowed = metalbond_uring::internals::io::raise_descriptor_limit()
        .context("cannot read the limit of descriptors")?;
    if allowed < needed {
        bail!(
            "{peers} peers need {needed} open descriptors, but {allowed} are allowed: raise the limit \
             (ulimit -n {needed}, systemd: LimitNOFILE), or take fewer peers"
        );
    }
    let range =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ports: Vec<u64> = range.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    if !options.has_own_address
        && let [first, last] = ports[..]
        && last.saturating_sub(first) < peers
    {
        bail!(
            "{peers} peers need a local port each, but there are only those from {first} to {last}: \
             sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\", or take fewer peers"
        );
    }
    Ok(())
}

/// A panic in any thread ends the process: tasks of a runtime would end in silence otherwise, and the
/// run would wait for them.
fn exit_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(1);
    }));
}

fn write(path: &Path, page: &str) -> anyhow::Result<()> {
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn say(to_stdout: bool, text: &str) {
    // Nobody may be listening any more.
    let _ = if to_stdout {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::io::stderr().write_all(text.as_bytes())
    };
}
