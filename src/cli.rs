//! The command line: from words to a [`ServerOptions`], or to a text and an exit code.
//!
//! Owns the flags, their defaults and what is said about wrong ones. Must never print, exit or
//! start anything: the program does.
//!
//! The first word is a command: `server`, which may be left out, `client` or `help`. Flags follow.

mod client;
mod flags;
mod values;

use std::net::SocketAddr;

use argh::FromArgs;

use crate::io::ServerConfig;
use crate::shard::Limits;
use crate::types::{HostPort, Pace, ReflectOwn};
use values::{
    at_least_one, cores, host_port, keepalive, listen, listen_default, log_format, mss, pace,
    peers_max, queue_mib_default, reflect_own,
};

pub use client::ClientOptions;
pub use flags::{Grammar, Takes, VERSION, parse_flags, usage_of, version_of};
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
    /// Where to show what is known, if anywhere.
    pub http: Option<HostPort>,
    /// Whether its metrics have series for each peer.
    pub metrics_per_peer: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether to log what happens to single peers, routes and messages.
    pub verbose: bool,
}

const COMMANDS: [&str; 3] = ["server", "client", "help"];

/// Reads the words after the program's name.
///
/// A name given to `--listen` is resolved, so this may wait for the network.
///
/// # Errors
/// An [`Exit`], also for `--help` and `--version`.
pub fn parse(args: &[&str]) -> Result<Invocation, Exit> {
    match args {
        ["client", rest @ ..] => client::parse(rest).map(Invocation::Client),
        ["help"] | ["help", "server" | "help"] => server(&["--help"]),
        ["help", "client"] => client::parse(&["--help"]).map(Invocation::Client),
        ["help", command, ..] => Err(no_command(command)),
        ["server", rest @ ..] => server(rest),
        [word, ..] if !word.starts_with('-') => Err(no_command(word)),
        all => server(all),
    }
}

fn server(args: &[&str]) -> Result<Invocation, Exit> {
    let flags: ServerFlags = parse_flags(&GRAMMAR, args)?;
    if flags.version {
        return Err(version_of(PROGRAM));
    }
    Ok(Invocation::Server(flags.into()))
}

/// A first word that is no command.
fn no_command(word: &str) -> Exit {
    let meant = flags::nearest(word, COMMANDS.into_iter().chain(GRAMMAR.flags()));
    let meant = meant.map(|meant| format!("Did you mean {meant}?\n")).unwrap_or_default();
    let text =
        format!("Unrecognized argument: {word:?} is no command: server, client or help\n{meant}");
    usage_of(PROGRAM, &text)
}

/// What one `--listen` gives; argh would take a plain `Vec` for a flag that may be repeated.
type Addresses = Vec<SocketAddr>;

#[derive(FromArgs)]
#[argh(
    description = "A route reflector for the MetalBond protocol: it passes routes between the\n\
                   hypervisors that connect to it.\n\n\
                   Commands:\n\
                   \x20 server            be the reflector; the word may be left out\n\
                   \x20 client            connect to servers: announce routes, and install those that\n\
                   \x20                   are learned; see `metalbond-uring help client`\n\
                   \x20 help [command]    say what a command does, and with which flags",
    usage = "[server] [flags]\n       \
             {command_name} client --server <address> [flags]\n       \
             {command_name} help [server|client]",
    help_triggers("-h", "--help"),
    note = "These are the flags of the server. A value may also follow a `=`.",
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
    /// VNIs that one peer may subscribe to, default 16384
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(at_least_one),
        default = "Limits::default().vnis_per_peer_max"
    )]
    vnis_per_peer_max: u32,
    /// connections at a time, up to 1048576, default 65536
    #[argh(
        option,
        arg_name = "n",
        from_str_fn(peers_max),
        default = "ServerConfig::default().peers_max"
    )]
    peers_max: u32,
    /// memory for what slow peers have not read yet, in MiB, default 1024
    #[argh(option, arg_name = "mib", from_str_fn(at_least_one), default = "queue_mib_default()")]
    queue_mib_max: u32,
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
            limits: Limits {
                routes_per_peer_max: flags.routes_per_peer_max,
                vnis_per_peer_max: flags.vnis_per_peer_max,
                queue_bytes_max: u64::from(flags.queue_mib_max) << 20,
                ..Limits::default()
            },
            ..ServerConfig::default()
        };
        ServerOptions {
            server,
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
    lists: &[],
    switches: &["--metrics-per-peer", "--verbose", "-v", "--version", "-V", "--help", "-h"],
    aliases: &[],
    beside: Some(("metalbond-uring client", &client::GRAMMAR)),
};

const MSS_TAKES: Takes =
    Takes("--mss", "bytes from 536 to 32767, or auto for what the path takes", "1220");

const LOG_FORMAT_TAKES: Takes = Takes("--log-format", "text, json or logfmt", "json");

static VALUES: &[Takes] = &[
    Takes("--listen", "an address and a port", "[::]:4711"),
    MSS_TAKES,
    Takes("--cores", "a number from 1 to 1024", "4"),
    Takes("--keepalive", "seconds from 0 to 86400, where 0 means 5", "5"),
    Takes("--reflect-own", "none, lb or all-but-nat", "lb"),
    Takes("--pace", "auto, off, or a number of routes a second of at least 1", "10000"),
    Takes("--routes-per-peer-max", "a number from 1 to 4294967295", "100000"),
    Takes("--vnis-per-peer-max", "a number from 1 to 4294967295", "16384"),
    Takes("--peers-max", "a number from 1 to 1048576", "65536"),
    Takes("--queue-mib-max", "a number of MiB from 1 to 4294967295", "1024"),
    Takes("--http", "an address and a port", "[::]:4712"),
    LOG_FORMAT_TAKES,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn server(args: &[&str]) -> ServerOptions {
        match parse(args) {
            Ok(Invocation::Server(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn wrong(args: &[&str]) -> String {
        let exit = parse(args).expect_err("the command line is wrong");
        assert_eq!((exit.code, exit.stream), (2, Stream::Stderr), "{args:?}");
        assert!(exit.text.starts_with("metalbond-uring: "), "{}", exit.text);
        assert!(exit.text.ends_with("\nTry: metalbond-uring --help\n"), "{}", exit.text);
        exit.text
    }

    #[test]
    fn defaults() {
        let options = server(&[]);
        assert_eq!(
            options,
            ServerOptions {
                server: ServerConfig {
                    listen: vec!["[::]:4711".parse().unwrap()],
                    segment_bytes_max: 1220,
                    cores: 0,
                    keepalive_interval_s: 5,
                    reflect_own: ReflectOwn::None,
                    pace: Pace::Auto,
                    peers_max: 65_536,
                    limits: Limits {
                        routes_per_peer_max: 100_000,
                        vnis_per_peer_max: 16_384,
                        queue_bytes_max: 1 << 30,
                        ..Limits::default()
                    },
                    stale_time: std::time::Duration::ZERO,
                },
                http: None,
                metrics_per_peer: false,
                log_format: LogFormat::Text,
                verbose: false,
            }
        );
        assert_eq!(server(&["server"]), options);
        assert_eq!(server(&["server", "--"]), options);
    }

    #[test]
    fn every_flag_in_both_spellings() {
        let values = [
            ("--listen", "127.0.0.1:0"),
            ("--mss", "1440"),
            ("--cores", "3"),
            ("--keepalive", "7"),
            ("--reflect-own", "lb"),
            ("--pace", "12"),
            ("--routes-per-peer-max", "4294967295"),
            ("--vnis-per-peer-max", "2"),
            ("--peers-max", "1048576"),
            ("--queue-mib-max", "4294967295"),
            ("--http", ":4712"),
            ("--log-format", "logfmt"),
        ];
        let expected = ServerOptions {
            server: ServerConfig {
                listen: vec!["127.0.0.1:0".parse().unwrap()],
                segment_bytes_max: 1440,
                cores: 3,
                keepalive_interval_s: 7,
                reflect_own: ReflectOwn::LoadBalancer,
                pace: Pace::RoutesPerS(12),
                peers_max: 1_048_576,
                limits: Limits {
                    routes_per_peer_max: u32::MAX,
                    vnis_per_peer_max: 2,
                    queue_bytes_max: 4_294_967_295 * 1_048_576,
                    ..Limits::default()
                },
                stale_time: std::time::Duration::ZERO,
            },
            http: Some(HostPort { host: String::new(), port: 4712 }),
            metrics_per_peer: true,
            log_format: LogFormat::Logfmt,
            verbose: true,
        };
        let mut apart: Vec<&str> = vec!["server", "--verbose", "--metrics-per-peer"];
        apart.extend(values.iter().flat_map(|(flag, value)| [*flag, *value]));
        assert_eq!(server(&apart), expected);
        let joined: Vec<String> =
            values.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        let mut joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        joined.extend(["-v", "-v", "--metrics-per-peer"]);
        assert_eq!(server(&joined), expected);
    }

    #[test]
    fn words() {
        assert_eq!(server(&["--reflect-own", "none"]).server.reflect_own, ReflectOwn::None);
        assert_eq!(
            server(&["--reflect-own", "all-but-nat"]).server.reflect_own,
            ReflectOwn::AllButNat
        );
        assert_eq!(server(&["--pace", "off"]).server.pace, Pace::Off);
        assert_eq!(server(&["--pace", "auto"]).server.pace, Pace::Auto);
        assert_eq!(server(&["--keepalive", "0"]).server.keepalive_interval_s, 0);
        assert_eq!(server(&["--keepalive", "86400"]).server.keepalive_interval_s, 86_400);
        assert_eq!(server(&["--cores", "1024"]).server.cores, 1024);
    }

    #[test]
    fn addresses() {
        let listen = |value: &str| server(&["--listen", value]).server.listen;
        let parsed = |text: &str| vec![text.parse::<SocketAddr>().unwrap()];
        assert_eq!(listen("[::]:4711"), parsed("[::]:4711"));
        assert_eq!(listen(":4711"), parsed("[::]:4711"));
        assert_eq!(listen("0.0.0.0:1"), parsed("0.0.0.0:1"));
        assert_eq!(listen("[2001:db8::1]:65535"), parsed("[2001:db8::1]:65535"));
        let zoned = listen("[fe80::1%lo]:4711");
        assert!(matches!(&zoned[..], [SocketAddr::V6(one)] if one.scope_id() > 0), "{zoned:?}");
        let named = listen("localhost:4711");
        assert!(!named.is_empty());
        assert!(named.iter().all(|address| address.ip().is_loopback() && address.port() == 4711));
    }

    #[test]
    fn wrong_values_name_the_flag_the_value_and_what_it_takes() {
        for (flag, value, takes) in [
            ("--listen", "4711", "host is missing"),
            ("--listen", "localhost", "port is missing"),
            ("--listen", "[::1]", "port is missing"),
            ("--listen", "::1:4711", "brackets"),
            ("--listen", "[fe80::1]:4711", "needs its device"),
            ("--listen", "[::]:65536", "is no port"),
            ("--listen", "[::]:", "is no port"),
            ("--listen", "[::]:http", "is no port"),
            ("--listen", "no such name:4711", "[::]:4711"),
            ("--listen", "", "[::]:4711"),
            ("--listen", "http://[::1]:4711", "without"),
            ("--http", "4712", "host is missing"),
            ("--http", "[::1]", "port is missing"),
            ("--http", "::1:4712", "brackets"),
            ("--log-format", "xml", "text, json or logfmt"),
            ("--cores", "0", "1 to 1024"),
            ("--cores", "1025", "1 to 1024"),
            ("--cores", "-1", "1 to 1024"),
            ("--cores", "many", "1 to 1024"),
            ("--cores", "99999999999999999999", "1 to 1024"),
            ("--keepalive", "86401", "0 to 86400"),
            ("--keepalive", "5s", "0 to 86400"),
            ("--keepalive", "4294967296", "0 to 86400"),
            ("--reflect-own", "all", "none, lb or all-but-nat"),
            ("--reflect-own", "LB", "none, lb or all-but-nat"),
            ("--pace", "0", "auto, off, or"),
            ("--pace", "fast", "auto, off, or"),
            ("--routes-per-peer-max", "0", "1 to 4294967295"),
            ("--routes-per-peer-max", "4294967296", "1 to 4294967295"),
            ("--vnis-per-peer-max", "0", "1 to 4294967295"),
            ("--peers-max", "0", "1 to 1048576"),
            ("--peers-max", "1048577", "1 to 1048576"),
            ("--queue-mib-max", "0", "1 to 4294967295"),
            ("--queue-mib-max", "1.5", "1 to 4294967295"),
        ] {
            for text in [wrong(&[flag, value]), wrong(&[&format!("{flag}={value}")])] {
                assert!(text.contains(&format!("option '{flag}'")), "{flag} {value}: {text}");
                assert!(text.contains(&format!("value '{value}'")), "{flag} {value}: {text}");
                assert!(text.contains(takes), "{flag} {value}: {text}");
                let example = format!("for example: metalbond-uring {flag} ");
                assert!(text.contains(&example), "{flag} {value}: {text}");
            }
        }
    }

    #[test]
    fn examples_and_missing_or_doubled_values() {
        for Takes(flag, takes, example) in VALUES {
            server(&[flag, example]);
            let text = wrong(&["server", flag]);
            assert!(text.contains(&format!("'{flag}'")) && text.contains(takes), "{text}");
            let text = wrong(&[flag, example, flag, example]);
            assert!(text.contains(&format!("'{flag}'")) && text.contains("duplicate"), "{text}");
            // The next flag is not taken for a value.
            let text = wrong(&[flag, "--verbose"]);
            assert!(text.contains(&format!("'{flag}': --verbose follows")), "{text}");
            assert!(text.contains(takes), "{text}");
        }
    }

    #[test]
    fn wrong_words() {
        assert!(wrong(&["--frob"]).contains("--frob"));
        assert!(wrong(&["--frob=3"]).contains("Unrecognized argument: --frob\n"));
        assert!(wrong(&["--=3"]).contains("Unrecognized argument"));
        assert!(wrong(&["-x"]).contains("-x\nTry"), "no short flag is like another");
        assert!(wrong(&["-"]).contains("\"-\""));
        assert!(wrong(&[""]).contains("\"\""));
        assert!(wrong(&["server", "server"]).contains("\"server\""));
        assert!(wrong(&["-v", "client"]).contains("command comes first"));
        assert!(wrong(&["--", "--cores"]).contains("\"--cores\" after `--`"));
        assert!(wrong(&["--verbose=maybe"]).contains("--verbose takes no value but true or false"));
        assert!(wrong(&["--server", "[::1]:1"]).contains("a flag of `metalbond-uring client`"));
    }

    #[test]
    fn mistyped_words_and_what_is_meant() {
        for (word, meant) in [
            ("sever", "server"),
            ("serve", "server"),
            ("cleint", "client"),
            ("Client", "client"),
            ("clients", "client"),
            ("hlep", "help"),
            ("version", "--version"),
            ("listen", "--listen"),
            ("--lsten", "--listen"),
            ("-listen", "--listen"),
            ("--Listen=[::1]:4711", "--listen"),
            ("--core", "--cores"),
            ("--peers", "--peers-max"),
            ("--keep-alive=5", "--keepalive"),
            ("--keep_alive", "--keepalive"),
            ("--routes_per_peer_max", "--routes-per-peer-max"),
            ("--vebrose", "--verbose"),
        ] {
            let text = wrong(&[word, "5"]);
            assert!(text.contains(&format!("\nDid you mean {meant}?\n")), "{word}: {text}");
        }
        for word in ["--frob", "frob", "--f", "xyz", "--127.0.0.1", "-"] {
            assert!(!wrong(&[word]).contains("Did you mean"), "{word}");
        }
        assert!(wrong(&["help", "cleint"]).contains("Did you mean client?"));
        assert!(wrong(&["server", "lsten"]).contains("Did you mean --listen?"));
    }

    #[test]
    fn switches_of_the_go_program_may_have_true_or_false_behind() {
        assert!(server(&["--verbose=true"]).verbose && server(&["-v=1"]).verbose);
        assert!(!server(&["--verbose=false"]).verbose && !server(&["--verbose=no"]).verbose);
    }

    /// Every way to ask for a text, and the text of the command itself.
    #[track_caller]
    fn said(args: &[&str]) -> String {
        let exit = parse(args).expect_err("it only prints");
        assert_eq!((exit.code, exit.stream), (0, Stream::Stdout), "{args:?}");
        exit.text
    }

    #[test]
    fn help_and_version() {
        let of_server = said(&["--help"]);
        for args in [
            &["-h"][..],
            &["help"],
            &["help", "server"],
            &["help", "help"],
            &["server", "--help"],
            &["server", "-h"],
            &["--cores", "2", "--help"],
        ] {
            assert_eq!(said(args), of_server, "{args:?}");
        }
        assert!(of_server.contains("\n  client            connect to servers"), "{of_server}");
        let of_client = said(&["client", "--help"]);
        for args in [&["client", "-h"][..], &["help", "client"], &["client", "-v", "--help"]] {
            assert_eq!(said(args), of_client, "{args:?}");
        }
        for (text, grammar) in [(&of_server, &GRAMMAR), (&of_client, &client::GRAMMAR)] {
            for flag in grammar.flags() {
                assert!(text.contains(&format!(" {flag}")), "{flag}: {text}");
            }
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        let version = format!("metalbond-uring {VERSION}\n");
        for command in [&[][..], &["server"], &["client"]] {
            for flag in ["-V", "--version"] {
                assert_eq!(said(&[command, &[flag]].concat()), version);
            }
        }
    }

    #[test]
    fn the_readme_has_each_flag_and_says_the_same_of_v() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let (_, of_client) = readme.split_once("\n## Be a client\n").unwrap();
        for (text, grammar) in [(readme.as_str(), &GRAMMAR), (of_client, &client::GRAMMAR)] {
            // Up to the end of the first table.
            let rows = text.lines().skip_while(|line| !line.starts_with("| flag "));
            let table: String = rows.take_while(|line| line.starts_with('|')).collect();
            for flag in grammar.flags() {
                let asks = ["--help", "-h", "--version", "-V", "--verbose"].contains(&flag);
                assert!(asks || table.contains(&format!("`{flag}")), "{flag}: {table}");
            }
        }
        let verbose = "log more: what happens to single peers, routes and messages";
        for text in [&said(&["--help"]), &said(&["client", "--help"]), &readme] {
            assert!(text.contains(verbose), "{text}");
        }
    }
}
