//! The command line: from words to a [`ServerOptions`], or to a text and an exit code.
//!
//! Owns the flags, their defaults and what is said about wrong ones. Must never print, exit or
//! start anything: the program does.
//!
//! The first word is a command: `server`, which may be left out, `client`, `show`, `diff`, `fabric` or `help`. Flags
//! follow.

mod client;
mod completions;
mod diff;
mod fabric;
mod flags;
mod man;
mod manual;
mod program;
mod show;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use crate::io::{
    FabricName, HANDOVER_S_DEFAULT, HandoverOptions, Md5Key, MemoryMax, PolicyConfig, ServerConfig,
};
use crate::policy::NextHopPolicy;
use crate::shard::{Identity, Limits};
use crate::types::{HostPort, Pace, ReflectOwn, nearest};
use values::{
    at_least_one, connections, cores, drain_seconds, handover_seconds, host_port, keepalive,
    listen, listen_default, log_format, memory, mss, network, network_and_file, next_hop_policy,
    pace, policy_file, queue_mib_default, queue_mib_per_peer_default, reflect_own,
    routes_max_default, seconds, subscriptions_max_default,
};

pub use client::ClientOptions;
pub use diff::{DiffOptions, Side, SideAt};
pub use fabric::ForgetOptions;
pub use flags::{Grammar, Takes, VERSION, parse_flags, usage_of, version_of};
pub use program::{Command, Program};
pub use show::{ShowOptions, Subject};
pub use values::LogFormat;

/// The program's name in its texts.
pub const PROGRAM: &str = "metalbond-uring";

/// What the program was asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invocation {
    /// To be a route reflector.
    Server(ServerOptions),
    /// To be a hypervisor's client.
    Client(ClientOptions),
    /// To show what a running one knows.
    Show(ShowOptions),
    /// To compare what several have in their tables.
    Diff(DiffOptions),
    /// To remove what a reflector has left in a fabric.
    Forget(ForgetOptions),
}

/// Where a text goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// What was asked for.
    Stdout,
    /// What is wrong.
    Stderr,
}

/// Nothing is to be run: say this and exit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exit {
    /// 0 after `--help` and `--version`, 2 if the command line is wrong.
    pub code: i32,
    /// What to say; ends with a line feed.
    pub text: String,
    /// Where to say it.
    pub stream: Stream,
}

/// What a server is started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerOptions {
    /// The server: at least one address, more only if a name has several.
    pub server: ServerConfig,
    /// Where another one takes over, or is taken over from, if anywhere.
    pub handover: Option<HandoverOptions>,
    /// Whether it is to be in the background.
    pub detach: bool,
    /// Where to show what is known, if anywhere.
    pub http: Option<HostPort>,
    /// Whether its metrics have series for each peer.
    pub metrics_per_peer: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether to log what happens to single peers, routes and messages.
    pub verbose: bool,
}

/// Reads the words after the program's name.
///
/// A name given to `--listen` is resolved, so this may wait for the network.
///
/// # Errors
/// An [`Exit`], also for `--help` and `--version`.
pub fn parse(args: &[&str]) -> Result<Invocation, Exit> {
    match args {
        ["client", rest @ ..] => client::parse(rest).map(Invocation::Client),
        ["fabric", rest @ ..] => fabric::parse(rest),
        ["help"] | ["help", "server" | "help"] => server(&["--help"]),
        ["help", "client"] => client::parse(&["--help"]).map(Invocation::Client),
        ["help", "show", ..] => show::parse(&["--help"]).map(Invocation::Show),
        ["help", "fabric", ..] => fabric::parse(&["--help"]),
        ["help", "diff"] => diff::parse(&["--help"]).map(Invocation::Diff),
        ["help", command @ ("completions" | "man")] => {
            Err(manual::MANUAL.text(&[command, "--help"]))
        }
        ["help", command, ..] => Err(no_command(command)),
        ["server", rest @ ..] => server(rest),
        ["show", rest @ ..] => show::parse(rest).map(Invocation::Show),
        ["diff", rest @ ..] => diff::parse(rest).map(Invocation::Diff),
        ["completions" | "man", ..] => Err(manual::MANUAL.text(args)),
        [word, ..] if !word.starts_with('-') => Err(no_command(word)),
        all => server(all),
    }
}

fn server(args: &[&str]) -> Result<Invocation, Exit> {
    let flags: ServerFlags = parse_flags(&GRAMMAR, args)?;
    if flags.version {
        return Err(version_of(PROGRAM));
    }
    metrics_need_http(&GRAMMAR, flags.metrics_per_peer, &flags.http)?;
    let allow = GRAMMAR.unique("--allow", &flags.allow, network)?;
    let tcp_md5 = md5_keys(&GRAMMAR, &flags.tcp_md5)?;
    let fabric = fabric::options(&GRAMMAR, &flags)?;
    let handover = handover(&GRAMMAR, &flags)?;
    let mut options = ServerOptions::from(flags);
    options.server.tcp_md5 = tcp_md5;
    options.server.fabric = fabric;
    options.handover = handover;
    options.server.allow = allow.into_iter().collect();
    Ok(Invocation::Server(options))
}

/// Where a successor takes over.
fn handover(grammar: &Grammar, flags: &ServerFlags) -> Result<Option<HandoverOptions>, Exit> {
    if flags.detach && flags.handover.is_none() {
        let why = "with --handover only, for one that takes over";
        return Err(grammar.wrong("--detach", "", why));
    }
    let time_max = Duration::from_secs(flags.handover_time.into());
    Ok(flags.handover.clone().map(|path| HandoverOptions { path, time_max }))
}

/// Series that nobody can ask for are a mistake.
fn metrics_need_http(
    grammar: &Grammar,
    metrics_per_peer: bool,
    http: &Option<HostPort>,
) -> Result<(), Exit> {
    match metrics_per_peer && http.is_none() {
        true => Err(grammar.wrong("--http", "", "--metrics-per-peer needs it: /metrics is there")),
        false => Ok(()),
    }
}

/// What `--tcp-md5` says. The files are read when the node starts.
fn md5_keys(grammar: &Grammar, given: &[String]) -> Result<Vec<Md5Key>, Exit> {
    let mut keys: Vec<Md5Key> = Vec::new();
    for (network, file) in grammar.unique("--tcp-md5", given, network_and_file)? {
        if keys.iter().any(|key| key.network() == network) {
            let why = format!("{network} has two key files: give it one");
            return Err(grammar.wrong("--tcp-md5", "", &why));
        }
        keys.push(Md5Key::from_file(network, file));
    }
    Ok(keys)
}

/// A first word that is no command.
fn no_command(word: &str) -> Exit {
    let commands = manual::MANUAL.commands().into_iter().map(|(command, _)| command);
    let meant = nearest(word, commands.clone().chain(GRAMMAR.flags()));
    let meant = meant.map(|meant| format!("Did you mean {meant}?\n")).unwrap_or_default();
    let commands = commands.collect::<Vec<_>>().join(", ");
    let text =
        format!("Unrecognized argument: {word:?} is no command; there are: {commands}\n{meant}");
    usage_of(PROGRAM, &text)
}

/// What one `--listen` gives; argh would take a plain `Vec` for a flag that may be repeated.
type Addresses = Vec<SocketAddr>;

#[derive(ArgsInfo, FromArgs)]
#[argh(
    description = "A route reflector for the MetalBond protocol: it passes routes between the\n\
                   hypervisors that connect to it. Without a command it is the server, and takes\n\
                   the flags of `server`.\n\n\
                   Commands:\n\
                   \x20 server            be the reflector; the word may be left out\n\
                   \x20 client            connect to servers: announce routes, and install those that\n\
                   \x20                   are learned; see `metalbond-uring help client`\n\
                   \x20 show <what>       show what a running server or client knows: peers,\n\
                   \x20                   routes, VNIs or a summary\n\
                   \x20 diff <addresses>  say whether reflectors have the same routes\n\
                   \x20 fabric <what>     how the fabric of reflectors is, and forget one of them\n\
                   \x20 completions <shell>\n\
                   \x20                   print completions for bash, zsh or fish\n\
                   \x20 man               print the manual page (roff)\n\
                   \x20 help [command]    say what a command does, and with which flags",
    usage = "[server] [flags]\n       \
             {command_name} client --server <address> [flags]\n       \
             {command_name} show <what> [flags]\n       \
             {command_name} diff <address> <address>... [flags]\n       \
             {command_name} fabric <what> [flags]\n       \
             {command_name} help [server|client|show|diff|fabric]",
    help_triggers("-h", "--help"),
    note = "A value may also follow a `=`.",
    example = "{command_name} --listen \"[::]:4711\" --cores 4"
)]
#[allow(rustdoc::broken_intra_doc_links)] // argh prints the texts as they stand
struct ServerFlags {
    /// address to listen on, default [::]:4711; `:4711` is the same
    #[argh(option, arg_name = "address", from_str_fn(listen), default = "listen_default()")]
    listen: Addresses,
    /// bytes in a TCP segment, 536 to 32767, or auto for what the path takes; default 1220
    #[argh(
        option,
        arg_name = "bytes",
        from_str_fn(mss),
        default = "ServerConfig::default().segment_bytes_max"
    )]
    mss: u16,
    /// threads to serve peers with, 1 to 1024; default: one for each CPU it may use
    #[argh(option, arg_name = "n", from_str_fn(cores), default = "0")]
    cores: u16,
    /// keepalive interval to offer, in seconds, up to 86400; default 5, which 0 stands for too
    #[argh(
        option,
        arg_name = "s",
        from_str_fn(keepalive),
        default = "ServerConfig::default().keepalive_interval_s"
    )]
    keepalive: u32,
    /// own routes that a peer gets back: none (default), lb or all-but-nat
    #[argh(
        option,
        arg_name = "which",
        from_str_fn(reflect_own),
        default = "ServerConfig::default().reflect_own"
    )]
    reflect_own: ReflectOwn,
    /// speed of sending to peers that do not reassemble frames: auto (as fast as each reads, default), off, or routes/s
    #[argh(option, arg_name = "pace", from_str_fn(pace), default = "ServerConfig::default().pace")]
    pace: Pace,
    /// routes that one peer may announce, default 100000
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(at_least_one),
        default = "Limits::default().routes_per_peer_max"
    )]
    routes_per_peer_max: u32,
    /// routes that one VNI may have, default 2000000
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(at_least_one),
        default = "Limits::default().routes_per_vni_max"
    )]
    routes_per_vni_max: u32,
    /// routes that all VNIs together may have, default 10000000
    #[argh(option, arg_name = "n", from_str_fn(at_least_one), default = "routes_max_default()")]
    routes_max: u32,
    /// UPDATEs a second of one peer, default 100000, or twice as many at once now and then; one that sends more is read more slowly
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(at_least_one),
        default = "Limits::default().updates_per_s_max"
    )]
    updates_per_s_max: u32,
    /// VNIs that one peer may subscribe to, default 16384
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(at_least_one),
        default = "Limits::default().vnis_per_peer_max"
    )]
    vnis_per_peer_max: u32,
    /// subscriptions that all peers together may have, default 2000000
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(at_least_one),
        default = "subscriptions_max_default()"
    )]
    subscriptions_max: u32,
    /// connections at a time, up to 1048576, default 65536
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(connections),
        default = "ServerConfig::default().peers_max"
    )]
    peers_max: u32,
    /// connections from one address at a time, default 16384
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(connections),
        default = "ServerConfig::default().peers_per_address_max"
    )]
    peers_per_address_max: u32,
    /// connections at a time that have no session yet, default 32768
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(connections),
        default = "ServerConfig::default().handshakes_max"
    )]
    handshakes_max: u32,
    /// addresses or networks that may connect, all without it; a list
    #[argh(option, arg_name = "cidr")]
    allow: Vec<String>,
    /// networks whose connections are signed (TCP MD5), each with the file that has its key:
    /// cidr=file; a list
    #[argh(option, arg_name = "key")]
    tcp_md5: Vec<String>,
    /// memory that may be used, in MiB from 32 to 16777216, or auto: 80 % of the control group's limit or
    /// of the machine's (default); near it more and more is refused
    #[argh(option, arg_name = "mib", from_str_fn(memory), default = "MemoryMax::Auto")]
    memory_max: MemoryMax,
    /// next hops that a peer may announce: any (default), own-address, or own-prefix/LEN for those in its prefix
    #[argh(
        option,
        arg_name = "which",
        from_str_fn(next_hop_policy),
        default = "NextHopPolicy::Any"
    )]
    nexthop_policy: NextHopPolicy,
    /// file that says what peers may announce, read again at SIGHUP
    #[argh(option, arg_name = "file", from_str_fn(policy_file))]
    announce_policy: Option<PathBuf>,
    /// memory for what slow peers have not read yet, in MiB, default 1024
    #[argh(option, arg_name = "mib", from_str_fn(at_least_one), default = "queue_mib_default()")]
    queue_mib_max: u32,
    /// memory for what one slow peer alone has not read yet, in MiB, default 128
    #[argh(
        option,
        arg_name = "mib",
        from_str_fn(at_least_one),
        default = "queue_mib_per_peer_default()"
    )]
    queue_mib_per_peer_max: u32,
    /// seconds for which the routes of a lost peer stay, in case it comes back, up to 86400; default 0
    #[argh(option, arg_name = "s", from_str_fn(seconds), default = "0")]
    stale_time: u32,
    /// seconds over which peers are closed when it ends, up to 3600; default 0, which is at once
    #[argh(option, arg_name = "s", from_str_fn(drain_seconds), default = "0")]
    drain_time: u32,
    /// path of a socket: the server that is started with the same one next takes over all connections, and this one ends
    #[argh(option, arg_name = "path", from_str_fn(fabric::file))]
    handover: Option<PathBuf>,
    /// seconds for which peers may wait at most while they are handed over, 1 to 60; default 5
    #[argh(option, arg_name = "s", from_str_fn(handover_seconds), default = "HANDOVER_S_DEFAULT")]
    handover_time: u32,
    /// start in the background, with --handover: the command ends when the new server serves, or fails as that one does
    #[argh(switch)]
    detach: bool,
    /// fabric of reflectors to join: nats://HOST[,HOST...]/NAME, or tls://; they see each other's routes
    #[argh(option, arg_name = "url")]
    fabric: Option<String>,
    /// what this reflector is called in the fabric, without it the host's name; each has its own
    #[argh(option, arg_name = "name", from_str_fn(fabric::name))]
    fabric_name: Option<FabricName>,
    /// file with NATS credentials (.creds), or with the seed of an nkey
    #[argh(option, arg_name = "file", from_str_fn(fabric::file))]
    fabric_creds: Option<PathBuf>,
    /// file with the certificates that the NATS servers' are signed with (PEM); only TLS is spoken then
    #[argh(option, arg_name = "file", from_str_fn(fabric::file))]
    fabric_ca: Option<PathBuf>,
    /// what peers are known by across reflectors: address (default), or none where they share addresses
    #[argh(option, arg_name = "which", from_str_fn(fabric::identity))]
    fabric_identity: Option<Identity>,
    /// routes of other reflectors that are taken, default 10000000
    #[argh(option, arg_name = "n", from_str_fn(at_least_one))]
    fabric_routes_max: Option<u32>,
    /// NATS servers that keep the routes if this reflector creates the stream, 1 to 5; without it 3 if --fabric names
    /// three hosts, else 1
    #[argh(option, arg_name = "n", from_str_fn(fabric::replicas))]
    fabric_replicas: Option<u32>,
    /// seconds between two signs of life, 1 to 60; default 3
    #[argh(option, arg_name = "s", from_str_fn(fabric::heartbeat))]
    fabric_heartbeat: Option<u32>,
    /// seconds of silence after which a reflector is taken for gone, 2 to 600; default 10
    #[argh(option, arg_name = "s", from_str_fn(fabric::lease))]
    fabric_lease: Option<u32>,
    /// seconds for which its routes stay then, 3 to 1800; default 120
    #[argh(option, arg_name = "s", from_str_fn(fabric::stale))]
    fabric_stale_time: Option<u32>,
    /// seconds after a restart in which peers may come back before their routes are withdrawn elsewhere, 1 to 86400;
    /// default 120
    #[argh(option, arg_name = "s", from_str_fn(fabric::restart))]
    fabric_restart_time: Option<u32>,
    /// seconds for which routes of others stay without NATS, 1 to 604800; default 3600
    #[argh(option, arg_name = "s", from_str_fn(fabric::hold))]
    fabric_hold_time: Option<u32>,
    /// address to show routes, peers and VNIs on, over HTTP; `:4712` is on all addresses
    #[argh(option, arg_name = "address", from_str_fn(host_port))]
    http: Option<HostPort>,
    /// series for each peer in /metrics of --http
    #[argh(switch)]
    metrics_per_peer: bool,
    /// form of the log's lines: text (default), json or logfmt
    #[argh(option, arg_name = "format", from_str_fn(log_format), default = "LogFormat::Text")]
    log_format: LogFormat,
    /// log more: what happens to single peers, routes and messages
    #[argh(switch, short = 'v')]
    verbose: bool,
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
}

impl From<ServerFlags> for ServerOptions {
    fn from(flags: ServerFlags) -> ServerOptions {
        let server = ServerConfig {
            listen: flags.listen,
            segment_bytes_max: flags.mss,
            cores: flags.cores,
            keepalive_interval_s: flags.keepalive,
            reflect_own: flags.reflect_own,
            pace: flags.pace,
            peers_max: flags.peers_max,
            peers_per_address_max: flags.peers_per_address_max,
            handshakes_max: flags.handshakes_max,
            memory_max: flags.memory_max,
            drain_time: Duration::from_secs(flags.drain_time.into()),
            limits: Limits {
                routes_per_peer_max: flags.routes_per_peer_max,
                routes_per_vni_max: flags.routes_per_vni_max,
                routes_max: flags.routes_max.into(),
                updates_per_s_max: flags.updates_per_s_max,
                vnis_per_peer_max: flags.vnis_per_peer_max,
                subscriptions_max: flags.subscriptions_max.into(),
                queue_bytes_max: u64::from(flags.queue_mib_max) << 20,
                queue_bytes_per_peer_max: u64::from(flags.queue_mib_per_peer_max) << 20,
                ..Limits::default()
            },
            stale_time: Duration::from_secs(flags.stale_time.into()),
            policy: PolicyConfig {
                next_hops: flags.nexthop_policy,
                announce_file: flags.announce_policy,
            },
            ..ServerConfig::default()
        };
        ServerOptions {
            server,
            handover: None,
            detach: flags.detach,
            http: flags.http,
            metrics_per_peer: flags.metrics_per_peer,
            log_format: flags.log_format,
            verbose: flags.verbose,
        }
    }
}

static GRAMMAR: Grammar = Grammar {
    program: PROGRAM,
    values: VALUES,
    lists: &["--allow", "--tcp-md5"],
    switches: &[
        "--detach",
        "--metrics-per-peer",
        "--verbose",
        "-v",
        "--version",
        "-V",
        "--help",
        "-h",
    ],
    aliases: &[],
    beside: Some(("metalbond-uring client", &client::GRAMMAR)),
    words: None,
    args: ServerFlags::get_args_info,
};

const MSS_TAKES: Takes =
    Takes("--mss", "bytes from 536 to 32767, or auto for what the path takes", "1220");

const LOG_FORMAT_TAKES: Takes = Takes("--log-format", "text, json or logfmt", "json");

const FABRIC_TAKES: Takes =
    Takes("--fabric", "NATS servers and the fabric's name", "nats://nats-1,nats-2,nats-3/main");

const CREDS_TAKES: Takes =
    Takes("--fabric-creds", "a file of NATS credentials", "/etc/metalbond-uring/fabric.creds");

const CA_TAKES: Takes =
    Takes("--fabric-ca", "a file of certificates", "/etc/metalbond-uring/nats-ca.pem");

const MD5_TAKES: Takes = Takes(
    "--tcp-md5",
    "networks or addresses, each with the file that has its key behind a =",
    "10.0.0.0/8=/etc/metalbond-uring/key",
);

static VALUES: &[Takes] = &[
    Takes("--listen", "an address and a port", "[::]:4711"),
    MSS_TAKES,
    Takes("--cores", "a number from 1 to 1024", "4"),
    Takes("--keepalive", "seconds from 0 to 86400, where 0 means 5", "5"),
    Takes("--reflect-own", "none, lb or all-but-nat", "lb"),
    Takes("--pace", "auto, off, or a number of routes a second of at least 1", "10000"),
    Takes("--routes-per-peer-max", "a number from 1 to 4294967295", "100000"),
    Takes("--routes-per-vni-max", "a number from 1 to 4294967295", "2000000"),
    Takes("--routes-max", "a number from 1 to 4294967295", "10000000"),
    Takes("--updates-per-s-max", "a number from 1 to 4294967295", "100000"),
    Takes("--subscriptions-max", "a number from 1 to 4294967295", "2000000"),
    Takes("--queue-mib-per-peer-max", "a number of MiB from 1 to 4294967295", "128"),
    Takes("--stale-time", "seconds from 0 to 86400", "120"),
    Takes("--vnis-per-peer-max", "a number from 1 to 4294967295", "16384"),
    Takes("--peers-max", "a number from 1 to 1048576", "65536"),
    Takes("--peers-per-address-max", "a number from 1 to 1048576", "16384"),
    Takes("--handshakes-max", "a number from 1 to 1048576", "32768"),
    Takes("--allow", "networks or addresses", "10.0.0.0/8,2001:db8::/32"),
    MD5_TAKES,
    Takes("--memory-max", "MiB from 32 to 16777216, or auto", "2048"),
    Takes(
        "--nexthop-policy",
        "any, own-address or own-prefix/LEN, with LEN from 1 to 128",
        "own-prefix/64",
    ),
    Takes("--announce-policy", "a file of rules", "/etc/metalbond-uring/policy"),
    Takes("--drain-time", "seconds from 0 to 3600", "30"),
    Takes("--queue-mib-max", "a number of MiB from 1 to 4294967295", "1024"),
    Takes("--handover", "a path", "/run/metalbond-uring/handover"),
    Takes("--handover-time", "seconds from 1 to 60", "5"),
    FABRIC_TAKES,
    Takes("--fabric-name", "1 to 32 letters, digits, - and _", "rr-1"),
    CREDS_TAKES,
    CA_TAKES,
    Takes("--fabric-identity", "address or none", "none"),
    Takes("--fabric-routes-max", "a number from 1 to 4294967295", "10000000"),
    Takes("--fabric-replicas", "a number from 1 to 5", "3"),
    Takes("--fabric-heartbeat", "seconds from 1 to 60", "3"),
    Takes("--fabric-lease", "seconds from 2 to 600", "10"),
    Takes("--fabric-stale-time", "seconds from 3 to 1800", "120"),
    Takes("--fabric-restart-time", "seconds from 1 to 86400", "120"),
    Takes("--fabric-hold-time", "seconds from 1 to 604800", "3600"),
    Takes("--http", "an address and a port", "[::]:4712"),
    LOG_FORMAT_TAKES,
];

#[cfg(test)]
mod tests;
