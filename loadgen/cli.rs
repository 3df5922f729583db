//! The command line of loadgen: from words to [`Options`], or to a text and an exit code.
//!
//! Owns the flags, and what is said about wrong ones. Must never print,
//! exit or connect.

use std::num::NonZero;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use metalbond_uring::internals::cli::{Exit, Grammar, Takes, parse_flags, usage_of, version_of};

use crate::hostile::Hostility;
use crate::options::Options;
use crate::pipeline::{Habits, Stall};
use crate::shared::{Reading, Sabotage};
use crate::sizes::{Given, Scenario};
use crate::values::{
    Addresses, addresses, at_least_one, each_address, hostility, keep_loopback, keepalive,
    number_up_to_u32, one_to_1024, pace, per_second, sabotage, scenario_named, seconds, stall,
};

/// The program's name in its texts.
pub const PROGRAM: &str = "loadgen";

/// Reads the words after the program's name.
///
/// # Errors
/// An [`Exit`], also for `--help` and `--version`.
pub fn parse(args: &[&str]) -> Result<Options, Exit> {
    let flags: Flags = parse_flags(&GRAMMAR, args)?;
    if flags.version {
        return Err(version_of(PROGRAM));
    }
    let given = Given {
        peers: flags.peers,
        vnis: flags.vnis,
        vnis_per_peer: flags.vnis_per_peer,
        announcers: flags.announcers,
        routes: flags.routes,
        subscribers: flags.subscribers,
        joiners: flags.joiners,
        rate: flags.rate,
        duration_s: flags.duration_s,
        stall_s: flags.stall_s,
        rounds: flags.rounds,
        hostile: flags.hostile,
    };
    let sizes = given.sizes(flags.scenario).map_err(|words| usage_of(PROGRAM, &words))?;
    let reading = match (flags.legacy, flags.aligned) {
        (false, false) => Reading::Reassembling,
        (false, true) => Reading::Aligned,
        (true, false) => Reading::Legacy,
        (true, true) => {
            let words = "--legacy and --aligned exclude each other: --legacy is the stricter one\n";
            return Err(usage_of(PROGRAM, words));
        }
    };
    let mut targets = targets(&flags)?;
    let is_fabric = !flags.targets.is_empty();
    let has_own_address = is_fabric && keep_loopback(&mut targets);
    let options = Options {
        scenario: flags.scenario,
        sizes,
        targets,
        dual: flags.dual,
        has_own_address,
        server_pid: flags.server_pid,
        cores: flags.cores,
        pace: flags.pace,
        threads: flags.threads,
        vni_base: flags.vni_base,
        keepalive_s: flags.keepalive,
        reading,
        habits: Habits {
            cost_ns: u64::from(flags.reader_cost_us) * 1000,
            stall: flags.reader_stall,
        },
        inflight: flags.inflight,
        patience_s: flags.patience_s,
        json: flags.json,
        report: flags.report.map(PathBuf::from),
        sabotage: flags.sabotage,
    };
    options.judge().map_err(|words| usage_of(PROGRAM, &words))?;
    Ok(options)
}

#[derive(ArgsInfo, FromArgs)]
#[argh(
    description = "Loads a MetalBond server with simulated peers, verifies every update that they\n\
                   receive, and says what the server took and cost.\n\n\
                   Without --target it loads a reflector that it starts itself, on a free port,\n\
                   and ends afterwards: nothing else notices. Its VNIs start at 15728640, far\n\
                   from those in use.",
    usage = "[flags]",
    help_triggers("-h", "--help"),
    note = "Scenarios and their sizes (defaults):\n\
     \x20 mix      --peers 1000 --vnis P/50 --vnis-per-peer 2 --routes 5\n\
     \x20          --rate 500 --duration-s 10\n\
     \x20 fanout   --announcers 1 --routes 5000 --subscribers 100 [--rate]\n\
     \x20 mesh     --peers 500 --vnis 100 --vnis-per-peer 4 --routes 10 [--rate]\n\
     \x20 join     --announcers 1 --routes 50000 --joiners 20 [--rate]\n\
     \x20 herd     --peers 1000 --vnis 50 --vnis-per-peer 2 --routes 10\n\
     \x20 latency  --announcers 10 --subscribers 100 --rate 1000 --duration-s 10\n\
     \x20 fairness --hostile flood --announcers 10 --subscribers 20 --rate 1000\n\
     \x20          --duration-s 3 --rounds 5\n\
     \x20 churn    --announcers 10 --routes 200 --subscribers 50 --rounds 5 [--rate]\n\
     \x20 slow     --announcers 10 --subscribers 20 --rate 8000 --duration-s 5\n\
     \x20          --stall-s 30\n\
     \x20 loss     --announcers 3 --routes 100000 --subscribers 400\n\
     \x20 upgrade  --peers 1000 --vnis 20 --vnis-per-peer 2 --routes 20\n\
     \x20          --rate 500 --duration-s 3 --rounds 3\n\
     \x20 restart  --peers 300 --vnis 30 --vnis-per-peer 2 --routes 10\n\
     \x20          --rate 500 --duration-s 30\n\
     \x20 idle     --peers 5000 --duration-s 10\n\
     \x20 --routes counts for each announcer in each of its VNIs. Of few peers 10\n\
     \x20 share a VNI, unless --vnis says otherwise.",
    note = "What loadgen itself takes, in CPU for each update received and verified:\n\
     \x20 about 0.02 us in large pieces and in the announcers' order, 0.07 us in large\n\
     \x20 pieces otherwise, 4 us for one that comes alone. It needs CPUs beside the\n\
     \x20 server's: the table shows both.",
    error_code(0, "Every peer had exactly the routes that it should have."),
    error_code(1, "Something was wrong, or the server could not be loaded."),
    error_code(2, "The command line is wrong."),
    example = "{command_name} --peers 5000",
    example = "{command_name} --scenario latency --report report.html",
    example = "{command_name} --scenario fanout --target \"[2001:db8::1]:4711\" --json",
    example = "{command_name} --scenario mesh --targets 127.0.0.1:4711,127.0.0.1:4712 --dual 50"
)]
struct Flags {
    /// what to run, default mix: see below
    #[argh(option, arg_name = "name", from_str_fn(scenario_named), default = "Scenario::Mix")]
    scenario: Scenario,
    /// peers that announce and subscribe
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    peers: Option<u32>,
    /// VNIs in all
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    vnis: Option<u32>,
    /// VNIs of each peer
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    vnis_per_peer: Option<u32>,
    /// peers that only announce
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    announcers: Option<u32>,
    /// routes of each announcer in each of its VNIs
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    routes: Option<u32>,
    /// peers that only subscribe
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    subscribers: Option<u32>,
    /// peers that subscribe when all is announced
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    joiners: Option<u32>,
    /// updates a second that all announcers send together
    #[argh(option, arg_name = "n", from_str_fn(per_second))]
    rate: Option<f64>,
    /// how long updates flow, or nothing happens, in seconds
    #[argh(option, arg_name = "s", from_str_fn(seconds))]
    duration_s: Option<f64>,
    /// how long one subscriber does not read, in seconds
    #[argh(option, arg_name = "s", from_str_fn(seconds))]
    stall_s: Option<f64>,
    /// how often all routes are withdrawn and announced again, or measured with
    /// and without hostile peers, or the reflector upgraded
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    rounds: Option<u32>,
    /// what hostile peers do: flood, resubscribe, subscriptions or garbage
    #[argh(option, arg_name = "how", from_str_fn(hostility))]
    hostile: Option<Hostility>,
    /// running server to load, address and port, instead of a reflector of
    /// loadgen's own
    #[argh(option, arg_name = "address", from_str_fn(addresses))]
    target: Option<Addresses>,
    /// running servers that are one fabric, up to 16: peers go round them, and
    /// every view is compared with what is announced at all of them; in latency announcers are at the first.
    /// On loopback (127.0.0.1:4711,127.0.0.1:4712) each peer has an address of its own
    #[argh(option, arg_name = "addresses")]
    targets: Vec<String>,
    /// peers that are connected to two of the --targets at once, as dual-homed hypervisors are; default 0
    #[argh(option, arg_name = "n", from_str_fn(number_up_to_u32), default = "0")]
    dual: u32,
    /// process of the --target, to tell what it costs
    #[argh(option, arg_name = "pid", from_str_fn(at_least_one))]
    server_pid: Option<u32>,
    /// shards of a reflector that loadgen starts, default one for each CPU
    #[argh(option, arg_name = "n", from_str_fn(one_to_1024))]
    cores: Option<u32>,
    /// speed of a reflector that loadgen starts towards --legacy and --aligned peers: auto (default), off or
    /// routes/s
    #[argh(option, arg_name = "pace", from_str_fn(pace))]
    pace: Option<String>,
    /// threads of loadgen, default one for each CPU, up to 8
    #[argh(option, arg_name = "n", from_str_fn(one_to_1024), default = "threads_default()")]
    threads: u32,
    /// first VNI to use, default 15728640
    #[argh(option, arg_name = "vni", from_str_fn(number_up_to_u32), default = "0x00F0_0000")]
    vni_base: u32,
    /// keepalive interval to offer, in seconds, default 5
    #[argh(option, arg_name = "s", from_str_fn(keepalive), default = "5")]
    keepalive: u32,
    /// behave as the Go client: reads of 65,535 bytes, no reassembly, a hold timer that only KEEPALIVEs restart;
    /// whoever fails comes back after 5 to 9 s, and the run fails
    #[argh(switch)]
    legacy: bool,
    /// read without reassembly, but whatever is unread: for a server with --pace off
    #[argh(switch)]
    aligned: bool,
    /// time that a receiver takes for each update, in microseconds, default 0; it reads up to 100 updates ahead
    #[argh(option, arg_name = "us", from_str_fn(number_up_to_u32), default = "0")]
    reader_cost_us: u32,
    /// when receivers stand still: none (default), gc (at random, up to 80 ms), 2s (once, at the 1,000th update),
    /// or 50ms/20000 (each 20,000 updates)
    #[argh(option, arg_name = "stall", from_str_fn(stall), default = "Stall::None")]
    reader_stall: Stall,
    /// updates that an announcer sends before it waits for an answer; default 0: no limit
    #[argh(option, arg_name = "n", from_str_fn(number_up_to_u32), default = "0")]
    inflight: u32,
    /// how long nothing may move before loadgen gives up, in seconds, default 15
    #[argh(option, arg_name = "s", from_str_fn(seconds), default = "15.0")]
    patience_s: f64,
    /// print one JSON object a line for each stage instead of a table
    #[argh(switch)]
    json: bool,
    /// write a page with the table and charts to this file (HTML)
    #[argh(option, arg_name = "file")]
    report: Option<String>,
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
    /// damage one received update: corrupt, skip or duplicate
    #[argh(option, arg_name = "how", from_str_fn(sabotage), hidden_help)]
    sabotage: Option<Sabotage>,
}

pub static GRAMMAR: Grammar = Grammar {
    program: PROGRAM,
    values: VALUES,
    lists: &["--targets"],
    switches: &["--legacy", "--aligned", "--json", "--version", "-V", "--help", "-h"],
    aliases: &[("--process-us", "--reader-cost-us")],
    beside: None,
    words: None,
    args: Flags::get_args_info,
};

static VALUES: &[Takes] = &[
    Takes(
        "--scenario",
        "mix, fanout, mesh, join, herd, latency, churn, slow, loss, fairness, upgrade, restart or idle",
        "fanout",
    ),
    Takes("--peers", "a number of at least 1", "5000"),
    Takes("--vnis", "a number of at least 1", "100"),
    Takes("--vnis-per-peer", "a number of at least 1", "4"),
    Takes("--announcers", "a number of at least 1", "10"),
    Takes("--routes", "a number of at least 1", "5000"),
    Takes("--subscribers", "a number of at least 1", "100"),
    Takes("--joiners", "a number of at least 1", "20"),
    Takes("--rate", "updates a second, from 0.1 to 10000000", "1000"),
    Takes("--duration-s", "seconds from 0.1 to 86400", "10"),
    Takes("--stall-s", "seconds from 0.1 to 86400", "15"),
    Takes("--rounds", "a number of at least 1", "5"),
    Takes("--hostile", "flood, resubscribe, subscriptions or garbage", "flood"),
    Takes("--target", "an address and a port", "[::1]:4711"),
    Takes("--targets", "addresses and ports, with commas between", "127.0.0.1:4711,127.0.0.1:4712"),
    Takes("--dual", "a number of peers", "20"),
    Takes("--server-pid", "the number of a process", "1234"),
    Takes("--cores", "a number from 1 to 1024", "2"),
    Takes("--pace", "auto, off, or a number of routes a second of at least 1", "off"),
    Takes("--threads", "a number from 1 to 1024", "2"),
    Takes("--vni-base", "a number up to 4294967295", "15728640"),
    Takes("--keepalive", "seconds from 1 to 86400", "5"),
    Takes("--reader-cost-us", "microseconds", "50"),
    Takes(
        "--reader-stall",
        "none, gc, a time in ms or s, or that and a number of updates",
        "50ms/20000",
    ),
    Takes("--inflight", "a number of updates", "256"),
    Takes("--patience-s", "seconds from 0.1 to 86400", "15"),
    Takes("--report", "the name of a file", "report.html"),
    Takes("--sabotage", "corrupt, skip or duplicate", "skip"),
];

/// The servers that `--target` or `--targets` names.
fn targets(flags: &Flags) -> Result<Vec<Addresses>, Exit> {
    let given = match (&flags.target, &flags.targets[..]) {
        (target, []) => return Ok(target.iter().cloned().collect()),
        (None, given) => given.join(","),
        (Some(_), _) => {
            let words = "--target and --targets exclude each other: --targets has all servers\n";
            return Err(usage_of(PROGRAM, words));
        }
    };
    each_address(&given).map_err(|(text, why)| GRAMMAR.wrong("--targets", &text, &why))
}

fn threads_default() -> u32 {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(8) as u32
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use metalbond_uring::internals::cli::Stream;

    use crate::homes::{Fleet, TARGETS_MAX};
    use crate::scenario;

    use super::*;

    #[track_caller]
    fn wrong(args: &[&str]) -> String {
        let exit = parse(args).expect_err("the command line is wrong");
        assert_eq!((exit.code, exit.stream), (2, Stream::Stderr), "{args:?}");
        exit.text
    }

    #[test]
    fn five_thousand_peers_and_nothing_else() {
        let options = parse(&["--peers", "5000"]).unwrap();
        assert_eq!(options.scenario, Scenario::Mix);
        assert!(options.targets.is_empty());
        assert_eq!(options.vni_base, 15_728_640);
        let sizes = options.sizes;
        assert_eq!((sizes.peers, sizes.vnis, sizes.vnis_per_peer), (5000, 100, 2));
        assert_eq!(sizes.rate_per_s, Some(500.0));
    }

    #[test]
    fn every_scenario_has_sane_defaults() {
        for (scenario, name) in Scenario::ALL {
            let several = "--targets=127.0.0.1:1,127.0.0.1:2";
            let targets = (scenario == Scenario::Restart).then_some(several);
            let scenario_flag = format!("--scenario={name}");
            let args: Vec<&str> = [scenario_flag.as_str()].into_iter().chain(targets).collect();
            let options = parse(&args).unwrap();
            assert_eq!((options.scenario, scenario.name()), (scenario, name));
            let plan = scenario::plan(scenario, &options.sizes, options.vni_base, Fleet::ONE);
            assert!(plan.peers.len() as u32 == options.sizes.all_peers());
            assert_eq!(plan.words() == 0, scenario == Scenario::Idle, "{name}");
        }
    }

    #[test]
    fn few_peers_share_vnis() {
        for scenario in ["mix", "mesh", "herd"] {
            for peers in ["2", "5", "20"] {
                let options = parse(&["--scenario", scenario, "--peers", peers]).unwrap();
                let plan =
                    scenario::plan(options.scenario, &options.sizes, options.vni_base, Fleet::ONE);
                assert!(plan.deliveries() > 0, "{scenario} --peers {peers}");
            }
        }
        let vnis = |args: &[&str]| parse(args).unwrap().sizes.vnis;
        assert_eq!(vnis(&["--scenario=mesh", "--peers=20", "--vnis=70"]), 70);
        assert_eq!(vnis(&["--scenario=mesh", "--peers=5000"]), 100);
    }

    #[test]
    fn sizes_that_a_scenario_does_not_have() {
        let text = wrong(&["--scenario", "fanout", "--peers", "3"]);
        assert!(text.contains("--peers means nothing to --scenario fanout"), "{text}");
        assert!(text.contains("--announcers --routes --subscribers --rate"), "{text}");
    }

    #[test]
    fn stalls_and_their_words() {
        let stall = |word: &str| parse(&["--legacy", "--reader-stall", word]).unwrap().habits.stall;
        assert_eq!(stall("none"), Stall::None);
        assert_eq!(stall("gc"), Stall::Collector);
        assert_eq!(stall("2s"), Stall::Once { at: 1_000, ns: 2_000_000_000 });
        assert_eq!(stall("50ms/20000"), Stall::Each { updates: 20_000, ns: 50_000_000 });
        // Longer than the hold time: nothing to those who take any frame for a sign of life.
        assert!(parse(&["--reader-stall=30s"]).is_ok());
        assert!(parse(&["--legacy", "--reader-stall=30s", "--keepalive=20"]).is_ok());
        assert_eq!(parse(&["--process-us=7"]).unwrap().habits.cost_ns, 7_000);
    }

    #[test]
    fn absurd_sizes() {
        for (args, words) in [
            (&["--peers=4000000000"][..], "peers are too many"),
            (&["--peers=1000000", "--vnis-per-peer=20000"], "routes in"),
            (&["--scenario=fanout", "--routes=4294967295"], "routes in"),
            (&["--scenario=fanout", "--routes=20000000"], "in one VNI are too many"),
            (&["--scenario=fanout", "--routes=10000000", "--subscribers=90000"], "MiB"),
            (&["--scenario=mesh", "--vnis=3", "--vnis-per-peer=4"], "cannot be in 4 of 3 VNIs"),
            (&["--vni-base=4294967295"], "do not exist"),
            (&["--peers=0"], "a number of at least 1"),
            (&["--peers=-3"], "a number of at least 1"),
            (&["--rate=0"], "updates a second"),
            (&["--rate=NaN"], "updates a second"),
            (&["--duration-s=1e9"], "seconds from"),
            (&["--scenario=all"], "mix, fanout"),
            (&["--target=4711"], "an address and a port"),
            (&["--target=[::1]"], "the port is missing"),
            (&["--target=::1:4711"], "brackets"),
            (&["--target=[::1]:0"], "port 0"),
            (&["--target=[::1]:frob"], "\"frob\" is no port"),
            (&["--server-pid=1"], "name that with --target"),
            (&["--keepalive=0"], "seconds from 1"),
            (&["--scenario=upgrade", "--target=[::1]:1"], "leave out --target"),
            (&["--scenario=restart"], "last the one that is to be restarted"),
            (
                &["--scenario=restart", "--targets=127.0.0.1:1"],
                "last the one that is to be restarted",
            ),
            (
                &[
                    "--scenario=restart",
                    "--targets=127.0.0.1:1,127.0.0.1:2",
                    "--peers=9",
                    "--dual=9",
                ],
                "nobody settled",
            ),
            (&["--cores=2", "--target=[::1]:1"], "not for --target"),
            (&["--legacy", "--aligned"], "exclude each other"),
            (&["--reader-stall=2"], "none, gc, a time in ms or s"),
            (&["--reader-stall=2s/0"], "none, gc, a time in ms or s"),
            (&["--reader-stall=50ms/many"], "none, gc, a time in ms or s"),
            (&["--legacy", "--reader-stall=13s"], "its hold time of 12.5 s runs out"),
            (&["--targets=127.0.0.1:1,127.0.0.1:2", "--target=[::1]:1"], "exclude each other"),
            (&["--targets=127.0.0.1:1,127.0.0.1:2,127.0.0.1:1"], "it was given twice"),
            // Two names of one server.
            (&["--targets=localhost:1,127.0.0.1:1"], "it was given twice"),
            (&["--targets=127.0.0.1:1,"], "nothing stands before, behind or between the commas"),
            (
                &["--targets=127.0.0.1:1", "--targets=127.0.0.1"],
                "\"127.0.0.1\": the port is missing",
            ),
            (
                &["--targets=127.0.0.1:1,127.0.0.1:2", "--scenario=fairness"],
                "give it with --target",
            ),
            (&["--targets=127.0.0.1:1,127.0.0.1:2", "--server-pid=1"], "leave it out"),
            (&["--targets=127.0.0.1:1,127.0.0.1:2", "--cores=1"], "not for --target"),
            (&["--dual=1"], "name them with --targets"),
            (&["--dual=1", "--target=127.0.0.1:1"], "name them with --targets"),
            (&["--dual=1", "--targets=127.0.0.1:1"], "name them with --targets"),
            (&["--dual=1", "--targets=[::1]:1,[::1]:2"], "--targets 127.0.0.1:4711,127.0.0.1:4712"),
            (&["--dual=1", "--targets=127.0.0.1:1,192.0.2.1:1"], "loopback interface only"),
            (
                &["--dual=6", "--peers=5", "--targets=127.0.0.1:1,127.0.0.1:2"],
                "more than all 5 peers",
            ),
            (&["--dual=-1"], "a number of peers"),
            (&["--frob"], "--frob"),
            (&["now"], "\"now\""),
        ] {
            let text = wrong(args);
            assert!(text.contains(words), "{args:?}: {text}");
            assert!(text.ends_with("Try: loadgen --help\n"), "{text}");
        }
    }

    #[test]
    fn several_servers() {
        let parse = |list: &str| parse(&["--targets", list]).unwrap();
        let options = parse("127.0.0.1:1,127.0.0.1:2");
        let target = |port: u16| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        assert_eq!(options.targets, [target(1), target(2)]);
        assert!(options.has_own_address);
        assert_eq!(options.fleet(), Fleet { targets: 2, dual: 0 });
        // In the order in which they were given; of a name only what has an address for each peer.
        assert_eq!(parse("localhost:3,127.0.0.1:1").targets, [target(3), target(1)]);
        assert!(!parse("[::1]:1,[::1]:2").has_own_address);
        assert!(!parse("127.0.0.1:1,[::1]:2").has_own_address);
        // One of a fabric alone.
        let one = parse("127.0.0.1:1");
        assert_eq!((one.targets.len(), one.has_own_address), (1, true));
        assert_eq!(one.fleet(), Fleet::ONE);
        let list: Vec<String> = (1..=17).map(|port| format!("127.0.0.1:{port}")).collect();
        assert_eq!(parse(&list[..16].join(",")).targets.len(), TARGETS_MAX);
        let text = wrong(&["--targets", &list.join(",")]);
        assert!(text.contains("17 --targets are too many: at most 16"), "{text}");
    }

    #[test]
    fn help_names_every_flag_but_the_hidden_one() {
        let exit = parse(&["--help"]).unwrap_err();
        assert_eq!((exit.code, exit.stream), (0, Stream::Stdout));
        for line in exit.text.lines() {
            assert!(line.chars().count() <= 80, "wider than a terminal: {line}");
        }
        for Takes(flag, _, example) in VALUES {
            assert_eq!(exit.text.contains(flag), *flag != "--sabotage", "{flag}");
            // Some need a scenario or a flag beside them.
            if let Err(exit) = parse(&[flag, example]) {
                let beside = ["means nothing", "name that with", "name them with"];
                assert!(beside.iter().any(|words| exit.text.contains(words)), "{}", exit.text);
            }
        }
        assert_eq!(parse(&["--version"]).unwrap_err().code, 0);
    }
}
