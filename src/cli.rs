//! The command line: from words to a [`ServerOptions`], or to a text and an exit code.
//!
//! Owns the flags, their defaults and what is said about wrong ones. Must never print, exit or
//! start anything: the program does.
//!
//! argh reads the flags. What it does not know is put right before: `--flag=value`, and `server`
//! as a first word that may be left out.

mod client;

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::num::NonZero;

use argh::FromArgs;

use crate::io::{SEGMENT_BYTES_MAX_DEFAULT, ServerConfig};
use crate::session::{KEEPALIVE_INTERVAL_S_DEFAULT, KEEPALIVE_INTERVAL_S_MAX};
use crate::types::{Pace, PeerId, ReflectOwn, ShardId};

pub use client::ClientOptions;

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
    /// Whether to log what happens to single routes and messages.
    pub verbose: bool,
}

/// Reads the words after the program's name.
///
/// A name given to `--listen` is resolved, so this may wait for the network.
///
/// # Errors
/// An [`Exit`], also for `--help` and `--version`.
pub fn parse(args: &[&str]) -> Result<Invocation, Exit> {
    let args = match args {
        ["client", rest @ ..] => return client::parse(rest).map(Invocation::Client),
        ["server", rest @ ..] => rest,
        all => all,
    };
    let flags: ServerFlags = parse_flags(PROGRAM, args, &VALUES, &SWITCHES)?;
    if flags.version {
        return Err(Exit {
            code: 0,
            text: format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")),
            stream: Stream::Stdout,
        });
    }
    Ok(Invocation::Server(flags.into()))
}

/// Reads flags with argh, after putting right what it does not know: `--flag=value`.
///
/// `values` are the flags that take a value, `switches` those that do not.
///
/// # Errors
/// An [`Exit`] in the name of `program`, also for `--help`.
pub fn parse_flags<F: FromArgs>(
    program: &str,
    args: &[&str],
    values: &[Takes],
    switches: &[&str],
) -> Result<F, Exit> {
    let words = normalise(program, args, values, switches)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    F::from_args(&[program], &words).map_err(|exit| explain(program, exit, values))
}

/// What is said about a wrong command line: `text`, which ends with a line feed, and where to look.
pub fn usage_of(program: &str, text: &str) -> Exit {
    Exit {
        code: 2,
        text: format!("{program}: {text}Try: {program} --help\n"),
        stream: Stream::Stderr,
    }
}

/// A flag with a value: its name, what it takes, and an example.
pub struct Takes(pub &'static str, pub &'static str, pub &'static str);

/// What one `--listen` gives; argh would take a plain `Vec` for a flag that may be repeated.
type Addresses = Vec<SocketAddr>;

/// Reflects routes between the hypervisors that connect to it, over the MetalBond protocol.
#[derive(FromArgs)]
#[argh(
    help_triggers("-h", "--help"),
    note = "The word `server` may stand before the flags. A value may also follow a `=`.",
    example = "{command_name} --listen [::]:4711 --cores 4"
)]
struct ServerFlags {
    /// address to listen on, default [::]:4711; `:4711` is the same
    #[argh(option, arg_name = "address", from_str_fn(listen), default = "listen_default()")]
    listen: Addresses,
    /// bytes in a TCP segment, 536 to 32767, or auto for what the path takes; default 1220
    #[argh(option, arg_name = "bytes", from_str_fn(mss), default = "SEGMENT_BYTES_MAX_DEFAULT")]
    mss: u16,
    /// threads to serve peers with, 1 to 1024; default: one for each CPU it may use
    #[argh(option, arg_name = "n", from_str_fn(cores), default = "cores_default()")]
    cores: u16,
    /// keepalive interval to offer, in seconds, up to 86400; default 5, which 0 stands for too
    #[argh(
        option,
        arg_name = "s",
        from_str_fn(keepalive),
        default = "KEEPALIVE_INTERVAL_S_DEFAULT"
    )]
    keepalive: u32,
    /// own routes that a peer gets back: none (default), lb or all-but-nat
    #[argh(option, arg_name = "which", from_str_fn(reflect_own), default = "ReflectOwn::None")]
    reflect_own: ReflectOwn,
    /// speed of sending to peers that do not reassemble frames: auto (default), off, or routes/s
    #[argh(option, arg_name = "pace", from_str_fn(pace), default = "Pace::Auto")]
    pace: Pace,
    /// routes that one peer may announce, default 100000
    #[argh(option, arg_name = "n", from_str_fn(at_least_one), default = "100_000")]
    routes_per_peer_max: u32,
    /// VNIs that one peer may subscribe to, default 16384
    #[argh(option, arg_name = "n", from_str_fn(at_least_one), default = "16_384")]
    vnis_per_peer_max: u32,
    /// connections at a time, up to 1048576, default 65536
    #[argh(option, arg_name = "n", from_str_fn(peers_max), default = "65_536")]
    peers_max: u32,
    /// memory for what slow peers have not read yet, in MiB, default 1024
    #[argh(option, arg_name = "mib", from_str_fn(at_least_one), default = "1024")]
    queue_mib_max: u32,
    /// log what happens to single routes and messages
    #[argh(switch, short = 'v')]
    verbose: bool,
    /// print the version
    #[argh(switch)]
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
            routes_per_peer_max: flags.routes_per_peer_max,
            vnis_per_peer_max: flags.vnis_per_peer_max,
            peers_max: flags.peers_max,
            queue_bytes_max: u64::from(flags.queue_mib_max) << 20,
            ..ServerConfig::default()
        };
        ServerOptions { server, verbose: flags.verbose }
    }
}

const VALUES: [Takes; 10] = [
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
];

const MSS_TAKES: Takes =
    Takes("--mss", "bytes from 536 to 32767, or auto for what the path takes", "1220");

const SWITCHES: [&str; 5] = ["--verbose", "-v", "--version", "--help", "-h"];

/// Makes `--flag value` of `--flag=value`, and refuses what is no flag.
fn normalise(
    program: &str,
    args: &[&str],
    values: &[Takes],
    switches: &[&str],
) -> Result<Vec<String>, Exit> {
    let usage = |text: &str| usage_of(program, text);
    let mut words = Vec::new();
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        if arg == "--" {
            // Ends the flags; nothing may follow them.
            if let Some(extra) = args.next() {
                return Err(usage(&format!("Unrecognized argument: {extra:?} after `--`\n")));
            }
        } else if !arg.starts_with('-') || arg == "-" {
            return Err(usage(&format!("Unrecognized argument: {arg:?} is no flag\n")));
        } else if let Some((flag, value)) = arg.split_once('=') {
            if switches.contains(&flag) {
                return Err(usage(&format!("{flag} takes no value, but {value:?} was given\n")));
            }
            words.extend([flag.to_string(), value.to_string()]);
        } else {
            words.push(arg.to_string());
            if values.iter().any(|Takes(flag, ..)| *flag == arg) {
                words.extend(args.next().map(|value| value.to_string()));
            } else if !switches.contains(&arg) {
                // Or the value behind it would be blamed.
                return Err(usage(&format!("Unrecognized argument: {arg}\n")));
            }
        }
    }
    Ok(words)
}

/// argh's word for an early exit, and what the flag in question takes.
fn explain(program: &str, exit: argh::EarlyExit, values: &[Takes]) -> Exit {
    if exit.status.is_ok() {
        return Exit { code: 0, text: exit.output, stream: Stream::Stdout };
    }
    let mut text = exit.output;
    let blamed = values.iter().find(|Takes(flag, ..)| text.contains(&format!("option '{flag}'")));
    if let Some(Takes(flag, takes, example)) = blamed {
        text += &format!("{flag} takes {takes}, for example: {program} {flag} {example}\n");
    }
    usage_of(program, &text)
}

fn usage(text: &str) -> Exit {
    usage_of(PROGRAM, text)
}

fn listen(value: &str) -> Result<Vec<SocketAddr>, String> {
    let Some((host, port)) = value.rsplit_once(':') else {
        return Err("no port".into());
    };
    let port: u16 = match port.parse() {
        Ok(port) => port,
        // The last group of an IPv6 address.
        Err(_) if port.ends_with(']') => return Err("no port".into()),
        Err(_) => return Err(format!("{port:?} is no port")),
    };
    if host.is_empty() {
        return Ok(vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))]);
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err("an IPv6 address goes into brackets".into());
    }
    let addresses = value.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut listen: Vec<SocketAddr> = addresses.collect();
    listen.sort();
    listen.dedup();
    if listen.is_empty() { Err("the name has no address".into()) } else { Ok(listen) }
}

fn listen_default() -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 4711))]
}

fn number(value: &str, min: u32, max: u32) -> Result<u32, String> {
    let number: u64 = value.parse().map_err(|_| "not a number in its range".to_string())?;
    match u32::try_from(number) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err("out of range".into()),
    }
}

fn at_least_one(value: &str) -> Result<u32, String> {
    number(value, 1, u32::MAX)
}

const CORES_MAX: u16 = ShardId::MAX.0 + 1;

fn cores(value: &str) -> Result<u16, String> {
    number(value, 1, u32::from(CORES_MAX)).map(|cores| cores as u16)
}

fn cores_default() -> u16 {
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    u16::try_from(cpus).unwrap_or(CORES_MAX).min(CORES_MAX)
}

/// 0 is for what the path takes.
fn mss(value: &str) -> Result<u16, String> {
    match value {
        "auto" | "0" => Ok(0),
        _ => number(value, 536, 32_767).map(|bytes| bytes as u16),
    }
}

fn keepalive(value: &str) -> Result<u32, String> {
    match number(value, 0, KEEPALIVE_INTERVAL_S_MAX)? {
        0 => Ok(KEEPALIVE_INTERVAL_S_DEFAULT),
        interval_s => Ok(interval_s),
    }
}

fn peers_max(value: &str) -> Result<u32, String> {
    number(value, 1, PeerId::SLOTS)
}

fn reflect_own(value: &str) -> Result<ReflectOwn, String> {
    match value {
        "none" => Ok(ReflectOwn::None),
        "lb" => Ok(ReflectOwn::LoadBalancer),
        "all-but-nat" => Ok(ReflectOwn::AllButNat),
        _ => Err("none of its words".into()),
    }
}

fn pace(value: &str) -> Result<Pace, String> {
    match value {
        "auto" => Ok(Pace::Auto),
        "off" => Ok(Pace::Off),
        _ => at_least_one(value).map(Pace::RoutesPerS),
    }
}

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
        let cores = options.server.cores;
        assert!((1..=1024).contains(&cores));
        assert_eq!(
            options,
            ServerOptions {
                server: ServerConfig {
                    listen: vec!["[::]:4711".parse().unwrap()],
                    segment_bytes_max: 1220,
                    cores,
                    keepalive_interval_s: 5,
                    reflect_own: ReflectOwn::None,
                    pace: Pace::Auto,
                    routes_per_peer_max: 100_000,
                    vnis_per_peer_max: 16_384,
                    peers_max: 65_536,
                    queue_bytes_max: 1 << 30,
                    hold_time: std::time::Duration::ZERO,
                },
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
        ];
        let expected = ServerOptions {
            server: ServerConfig {
                listen: vec!["127.0.0.1:0".parse().unwrap()],
                segment_bytes_max: 1440,
                cores: 3,
                keepalive_interval_s: 7,
                reflect_own: ReflectOwn::LoadBalancer,
                pace: Pace::RoutesPerS(12),
                routes_per_peer_max: u32::MAX,
                vnis_per_peer_max: 2,
                peers_max: 1_048_576,
                queue_bytes_max: 4_294_967_295 * 1_048_576,
                hold_time: std::time::Duration::ZERO,
            },
            verbose: true,
        };
        let mut apart: Vec<&str> = vec!["server", "--verbose"];
        apart.extend(values.iter().flat_map(|(flag, value)| [*flag, *value]));
        assert_eq!(server(&apart), expected);
        let joined: Vec<String> =
            values.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        let mut joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        joined.extend(["-v", "-v"]);
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
        assert_eq!(server(&["--keepalive", "0"]).server.keepalive_interval_s, 5);
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
        let named = listen("localhost:4711");
        assert!(!named.is_empty());
        assert!(named.iter().all(|address| address.ip().is_loopback() && address.port() == 4711));
    }

    #[test]
    fn wrong_values_name_the_flag_the_value_and_what_it_takes() {
        for (flag, value, takes) in [
            ("--listen", "4711", "no port"),
            ("--listen", "localhost", "no port"),
            ("--listen", "[::1]", "no port"),
            ("--listen", "::1:4711", "brackets"),
            ("--listen", "[::]:65536", "is no port"),
            ("--listen", "[::]:", "is no port"),
            ("--listen", "[::]:http", "is no port"),
            ("--listen", "no such name:4711", "[::]:4711"),
            ("--listen", "", "[::]:4711"),
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
            // The next flag is not taken for a value in silence.
            let text = wrong(&[flag, "--verbose"]);
            assert!(text.contains(&format!("'{flag}' with value '--verbose'")), "{text}");
        }
    }

    #[test]
    fn wrong_words() {
        assert!(wrong(&["--frob"]).contains("--frob"));
        assert!(wrong(&["--frob=3"]).contains("--frob"));
        assert!(wrong(&["--=3"]).contains("Unrecognized argument"));
        assert!(wrong(&["--core", "2"]).contains("Unrecognized argument: --core\n"));
        assert!(wrong(&["-x"]).contains("-x"));
        assert!(wrong(&["-"]).contains("\"-\""));
        assert!(wrong(&[""]).contains("\"\""));
        assert!(wrong(&["serve"]).contains("\"serve\""));
        assert!(wrong(&["server", "server"]).contains("\"server\""));
        assert!(wrong(&["--", "--cores"]).contains("\"--cores\" after `--`"));
        assert!(wrong(&["--verbose=true"]).contains("--verbose takes no value"));
        assert!(wrong(&["-v=1"]).contains("-v takes no value"));
    }

    #[test]
    fn help_and_version() {
        for args in [&["--help"][..], &["-h"], &["server", "--help"], &["--cores", "2", "--help"]] {
            let exit = parse(args).unwrap_err();
            assert_eq!((exit.code, exit.stream), (0, Stream::Stdout));
            for Takes(flag, ..) in VALUES {
                assert!(exit.text.contains(flag), "{flag}: {}", exit.text);
            }
            assert!(SWITCHES.iter().all(|switch| exit.text.contains(switch)), "{}", exit.text);
        }
        let exit = parse(&["--version"]).unwrap_err();
        assert_eq!((exit.code, exit.stream), (0, Stream::Stdout));
        assert_eq!(exit.text, "metalbond-uring 0.1.0\n");
    }
}
