//! The fabric on the command line: the server's flags for it, and the command `metalbond-uring fabric`.
//!
//! Owns how those flags belong together. Must never repeat what may be a secret, nor ask anybody but the system for the
//! host's name.

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::show::{TIMEOUT_DEFAULT, TIMEOUT_TAKES, http_default, timeout};
use super::values::{http_address, number};
use super::{
    CA_TAKES, CREDS_TAKES, Exit, FABRIC_TAKES, Grammar, Invocation, PROGRAM, ServerFlags,
    ShowOptions, Subject, Takes, parse_flags, usage_of, version_of,
};
use crate::io::{
    FabricAddress, FabricName, FabricOptions, HEARTBEAT_S, HOLD_S, LEASE_S, REPLICAS, RESTART_S,
    STALE_S, host_name,
};
use crate::shard::Identity;
use crate::types::{HostPort, nearest};

/// What a reflector has left, and how to reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForgetOptions {
    /// The fabric; its own name is of no account.
    pub fabric: FabricOptions,
    /// The reflector.
    pub reflector: FabricName,
    /// Whether also one that lives.
    pub force: bool,
}

pub(super) fn name(value: &str) -> Result<FabricName, String> {
    value.parse().map_err(|_| "not a valid name".to_owned())
}

/// It is read whenever a connection is made.
pub(super) fn file(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("no file is named".into()) } else { Ok(value.into()) }
}

pub(super) fn identity(value: &str) -> Result<Identity, String> {
    match value {
        "address" => Ok(Identity::Address),
        "none" => Ok(Identity::Connection),
        _ => Err("neither address nor none".into()),
    }
}

pub(super) fn replicas(value: &str) -> Result<u32, String> {
    number(value, *REPLICAS.start(), *REPLICAS.end())
}

pub(super) fn heartbeat(value: &str) -> Result<u32, String> {
    number(value, *HEARTBEAT_S.start(), *HEARTBEAT_S.end())
}

pub(super) fn lease(value: &str) -> Result<u32, String> {
    number(value, *LEASE_S.start(), *LEASE_S.end())
}

pub(super) fn stale(value: &str) -> Result<u32, String> {
    number(value, *STALE_S.start(), *STALE_S.end())
}

pub(super) fn restart(value: &str) -> Result<u32, String> {
    number(value, *RESTART_S.start(), *RESTART_S.end())
}

pub(super) fn hold(value: &str) -> Result<u32, String> {
    number(value, *HOLD_S.start(), *HOLD_S.end())
}

/// What the server's flags say of a fabric.
pub(super) fn options(
    grammar: &Grammar,
    flags: &ServerFlags,
) -> Result<Option<FabricOptions>, Exit> {
    let Some(url) = &flags.fabric else {
        return match alone(flags) {
            None => Ok(None),
            Some(flag) => {
                Err(grammar.wrong("--fabric", "", &format!("{flag} is of use with it only")))
            }
        };
    };
    let name = match flags.fabric_name.clone().or_else(|| FabricName::of_host(&host_name())) {
        Some(name) => name,
        None => {
            let why = format!(
                "the host's name, {:?}, cannot be the reflector's: give it one",
                host_name()
            );
            return Err(grammar.wrong("--fabric-name", "", &why));
        }
    };
    let default = FabricOptions::new(address(grammar, url)?, name);
    let seconds = |given: Option<u32>, default: Duration| {
        given.map_or(default, |given| Duration::from_secs(given.into()))
    };
    let options = FabricOptions {
        credentials_file: flags.fabric_creds.clone(),
        ca_file: flags.fabric_ca.clone(),
        identity: flags.fabric_identity.unwrap_or(default.identity),
        routes_max: flags.fabric_routes_max.map_or(default.routes_max, u64::from),
        replicas: flags.fabric_replicas.unwrap_or(default.replicas),
        heartbeat: seconds(flags.fabric_heartbeat, default.heartbeat),
        lease: seconds(flags.fabric_lease, default.lease),
        stale_time: seconds(flags.fabric_stale_time, default.stale_time),
        restart_time: seconds(flags.fabric_restart_time, default.restart_time),
        hold_time: seconds(flags.fabric_hold_time, default.hold_time),
        ..default
    };
    match options.judge() {
        Ok(()) => Ok(Some(options)),
        Err(error) => Err(usage_of(grammar.program, &format!("{error}\n"))),
    }
}

/// A flag that says more about a fabric.
fn alone(flags: &ServerFlags) -> Option<&'static str> {
    let given = [
        ("--fabric-name", flags.fabric_name.is_some()),
        ("--fabric-creds", flags.fabric_creds.is_some()),
        ("--fabric-ca", flags.fabric_ca.is_some()),
        ("--fabric-identity", flags.fabric_identity.is_some()),
        ("--fabric-routes-max", flags.fabric_routes_max.is_some()),
        ("--fabric-replicas", flags.fabric_replicas.is_some()),
        ("--fabric-heartbeat", flags.fabric_heartbeat.is_some()),
        ("--fabric-lease", flags.fabric_lease.is_some()),
        ("--fabric-stale-time", flags.fabric_stale_time.is_some()),
        ("--fabric-restart-time", flags.fabric_restart_time.is_some()),
        ("--fabric-hold-time", flags.fabric_hold_time.is_some()),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
}

/// The URL is not repeated: somebody may have put a password into it.
fn address(grammar: &Grammar, url: &str) -> Result<FabricAddress, Exit> {
    url.parse().map_err(|error: crate::io::FabricAddressError| {
        grammar.wrong("--fabric", "", &error.to_string())
    })
}

const WHATS: &[&str] = &["status", "forget"];

#[derive(ArgsInfo, FromArgs)]
#[argh(
    description = "Shows how the fabric is that reflectors form, or removes what one of them has\n\
                   left in it.\n\n\
                   What:\n\
                   \x20 status            how a running server's part in its fabric is, and what it\n\
                   \x20                   knows of the others; it must have been started with --http\n\
                   \x20 forget <name>     remove the routes of a reflector that will not come back:\n\
                   \x20                   the others withdraw them. Without it they stay as long as\n\
                   \x20                   --fabric-stale-time says, and are removed from NATS after\n\
                   \x20                   half an hour, if a reflector is permitted to do that",
    usage = "<what> [flags]",
    help_triggers("-h", "--help"),
    example = "{command_name} status",
    example = "{command_name} forget rr-3 --fabric nats://nats-1/main",
    error_code(0, "It was shown, or is forgotten."),
    error_code(1, "The node or NATS cannot be asked, or the reflector lives."),
    error_code(2, "The command line is wrong.")
)]
#[allow(rustdoc::broken_intra_doc_links)] // argh prints the texts as they stand
struct FabricFlags {
    #[argh(positional, arg_name = "what", hidden_help)]
    words: Vec<String>,
    /// where the node answers over HTTP (of status), default [::1]:4712
    #[argh(option, arg_name = "address", from_str_fn(http_address))]
    http: Option<HostPort>,
    /// print the node's JSON instead of tables (of status)
    #[argh(switch)]
    json: bool,
    /// show it again every 2 s, until Ctrl-C (of status)
    #[argh(switch)]
    watch: bool,
    /// how long the node may be silent (of status), default 30s
    #[argh(option, arg_name = "time", from_str_fn(timeout))]
    timeout: Option<Duration>,
    /// the fabric (of forget): nats://HOST[,HOST...]/NAME, or tls://
    #[argh(option, arg_name = "url")]
    fabric: Option<String>,
    /// file with NATS credentials (of forget)
    #[argh(option, arg_name = "file", from_str_fn(file))]
    fabric_creds: Option<PathBuf>,
    /// file with the certificates that the NATS servers' are signed with (of forget)
    #[argh(option, arg_name = "file", from_str_fn(file))]
    fabric_ca: Option<PathBuf>,
    /// forget it though it lives (of forget)
    #[argh(switch)]
    force: bool,
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
}

pub(super) static GRAMMAR: Grammar = Grammar {
    program: "metalbond-uring fabric",
    values: VALUES,
    lists: &[],
    switches: &["--json", "--watch", "--force", "--version", "-V", "--help", "-h"],
    aliases: &[],
    beside: None,
    words: Some(("what", WHATS)),
    args: FabricFlags::get_args_info,
};

static VALUES: &[Takes] = &[
    Takes("--http", "an address and a port", "[::1]:4712"),
    TIMEOUT_TAKES,
    FABRIC_TAKES,
    CREDS_TAKES,
    CA_TAKES,
];

/// Reads the words after `fabric`.
pub(super) fn parse(args: &[&str]) -> Result<Invocation, Exit> {
    let flags: FabricFlags = parse_flags(&GRAMMAR, args)?;
    if flags.version {
        return Err(version_of(PROGRAM));
    }
    let usage = |text: &str| Err(usage_of(GRAMMAR.program, text));
    let words: Vec<&str> = flags.words.iter().map(String::as_str).collect();
    match words[..] {
        [] => usage("what? There are: status and forget NAME\n"),
        ["status"] => status(&flags).map(Invocation::Show),
        ["forget"] => usage(
            "which reflector? For example: metalbond-uring fabric forget rr-3 --fabric nats://nats-1/main\n",
        ),
        ["forget", name] => forget(&flags, name).map(Invocation::Forget),
        ["status", extra, ..] => {
            usage(&format!("Unrecognized argument: {extra:?} after \"status\"\n"))
        }
        ["forget", _, extra, ..] => {
            usage(&format!("Unrecognized argument: {extra:?}: one reflector\n"))
        }
        [word, ..] => {
            let meant = nearest(word, WHATS.iter().copied());
            let meant = meant.map(|meant| format!("Did you mean {meant}?\n")).unwrap_or_default();
            usage(&format!("{word:?} is not one of status and forget\n{meant}"))
        }
    }
}

fn status(flags: &FabricFlags) -> Result<ShowOptions, Exit> {
    let of_forget = [
        ("--fabric", flags.fabric.is_some()),
        ("--fabric-creds", flags.fabric_creds.is_some()),
        ("--fabric-ca", flags.fabric_ca.is_some()),
        ("--force", flags.force),
    ];
    only_for("forget", &of_forget)?;
    Ok(ShowOptions {
        subject: Subject::Fabric,
        http: flags.http.clone().unwrap_or_else(http_default),
        filter: Vec::new(),
        json: flags.json,
        watch: flags.watch,
        timeout: flags.timeout.unwrap_or(TIMEOUT_DEFAULT),
    })
}

fn forget(flags: &FabricFlags, reflector: &str) -> Result<ForgetOptions, Exit> {
    let of_status = [
        ("--http", flags.http.is_some()),
        ("--json", flags.json),
        ("--watch", flags.watch),
        ("--timeout", flags.timeout.is_some()),
    ];
    only_for("status", &of_status)?;
    let Ok(reflector) = reflector.parse::<FabricName>() else {
        let text = format!("{reflector:?} is no name of a reflector: `fabric status` shows them\n");
        return Err(usage_of(GRAMMAR.program, &text));
    };
    let Some(url) = &flags.fabric else {
        let text = format!(
            "--fabric: forget needs it, as the servers have it. For example: \
             metalbond-uring fabric forget {reflector} --fabric nats://nats-1/main\n"
        );
        return Err(usage_of(GRAMMAR.program, &text));
    };
    let fabric = FabricOptions {
        credentials_file: flags.fabric_creds.clone(),
        ca_file: flags.fabric_ca.clone(),
        ..FabricOptions::new(address(&GRAMMAR, url)?, reflector.clone())
    };
    Ok(ForgetOptions { fabric, reflector, force: flags.force })
}

/// Flags of the other one are a mistake.
fn only_for(what: &str, given: &[(&str, bool)]) -> Result<(), Exit> {
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => {
            let text = format!("{flag} is of use with `fabric {what}` only\n");
            Err(usage_of(GRAMMAR.program, &text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ServerOptions, parse as parse_all};
    use super::*;

    fn options(line: &str) -> Result<Option<FabricOptions>, String> {
        let args: Vec<&str> = line.split_whitespace().collect();
        match parse_all(&args) {
            Ok(Invocation::Server(ServerOptions { server, .. })) => Ok(server.fabric),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(exit) => Err(exit.text),
        }
    }

    #[test]
    fn a_server_joins() {
        assert_eq!(options("server"), Ok(None));
        let joined = options("--fabric nats://a,b/F --fabric-name rr-1").unwrap().unwrap();
        let address: FabricAddress = "nats://a:4222,b:4222/F".parse().unwrap();
        assert_eq!(joined, FabricOptions::new(address, "rr-1".parse().unwrap()));
        let joined = options("--fabric tls://a/F").map(|joined| joined.unwrap().name);
        match FabricName::of_host(&host_name()) {
            Some(name) => assert_eq!(joined, Ok(name)),
            None => assert!(joined.unwrap_err().contains("--fabric-name")),
        }
    }

    #[test]
    fn what_is_wrong_says_what_to_do() {
        for (line, words) in [
            ("--fabric-name a", "--fabric: --fabric-name is of use with it only"),
            ("--fabric-lease 5", "--fabric-lease is of use with it only"),
            ("--fabric", "--fabric takes NATS servers"),
            ("--fabric a", "begins with nats://"),
            ("--fabric nats://a", "name is missing"),
            ("--fabric nats://a/F --fabric-name a.b", "1 to 32 letters"),
            ("--fabric nats://a/F --fabric-identity mac", "address or none"),
            ("--fabric nats://a/F --fabric-replicas 6", "from 1 to 5"),
            ("--fabric nats://a/F --fabric-replicas 0", "from 1 to 5"),
            ("--fabric nats://a/F --fabric-heartbeat 0", "seconds from 1 to 60"),
            ("--fabric nats://a/F --fabric-heartbeat 6", "two heartbeats at least"),
            ("--fabric nats://a/F --fabric-lease 601", "seconds from 2 to 600"),
            ("--fabric nats://a/F --fabric-lease 120", "more than --fabric-lease"),
            ("--fabric nats://a/F --fabric-stale-time 1801", "seconds from 3 to 1800"),
            ("--fabric nats://a/F --fabric-restart-time 0", "seconds from 1 to 86400"),
            ("--fabric nats://a/F --fabric-hold-time 604801", "seconds from 1 to 604800"),
            ("--fabric nats://a/F --fabric-routes-max 0", "from 1 to 4294967295"),
            ("--fabric nats://a/F --fabric-creds=", "no file is named"),
        ] {
            let text = options(line).expect_err(line);
            assert!(text.contains(words), "{line}: {text}");
        }
        let text = options("--fabric nats://me:hunter2@a/F").unwrap_err();
        assert!(text.contains("--fabric-creds") && !text.contains("hunter2"), "{text}");
    }

    #[track_caller]
    fn fabric(line: &str) -> Invocation {
        let args: Vec<&str> = line.split_whitespace().collect();
        parse(&args).unwrap_or_else(|exit| panic!("{line}: {}", exit.text))
    }

    #[test]
    fn commands() {
        let Invocation::Show(shown) = fabric("status --http :1 --json --watch --timeout 5") else {
            panic!("it is shown")
        };
        assert_eq!((shown.subject, shown.json, shown.watch), (Subject::Fabric, true, true));
        assert_eq!((shown.http.port, shown.timeout), (1, Duration::from_secs(5)));
        let line = "forget rr-3 --fabric tls://a/F --fabric-creds c --fabric-ca ca --force";
        let Invocation::Forget(forget) = fabric(line) else { panic!("it is forgotten") };
        assert_eq!((forget.reflector.as_str(), forget.force), ("rr-3", true));
        assert_eq!(forget.fabric.address.to_string(), "tls://a:4222/F");
        assert_eq!(forget.fabric.ca_file, Some("ca".into()));
        for (line, words) in [
            ("", "status and forget NAME"),
            ("stauts", "Did you mean status?"),
            ("status now", "\"now\" after \"status\""),
            ("status --force", "--force is of use with `fabric forget` only"),
            ("forget", "which reflector?"),
            ("forget a.b --fabric nats://a/F", "no name of a reflector"),
            ("forget a b", "\"b\": one reflector"),
            ("forget a", "--fabric: forget needs it"),
            ("forget a --fabric nats://u:hunter2@h/F", "--fabric-creds"),
            ("forget a --json --fabric nats://h/F", "--json is of use with `fabric status` only"),
        ] {
            let args: Vec<&str> = line.split_whitespace().collect();
            let exit = parse(&args).expect_err(line);
            assert_eq!(exit.code, 2, "{line}");
            assert!(exit.text.contains(words) && !exit.text.contains("hunter2"), "{}", exit.text);
            assert!(exit.text.ends_with("\nTry: metalbond-uring fabric --help\n"), "{}", exit.text);
        }
    }
}
