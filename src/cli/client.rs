//! The command line of `metalbond-uring client`.
//!
//! Owns the grammar of announcements and of tables to install into (protocol section 8). Must never
//! look a device up or connect to anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::values::{LogFormat, host_port, keepalive, log_format, mss, number, seconds, vni};
use super::{
    Exit, Grammar, LOG_FORMAT_TAKES, MD5_TAKES, MSS_TAKES, PROGRAM, Takes, md5_keys,
    metrics_need_http, parse_flags, version_of,
};
use crate::io::ServerConfig;
use crate::kernel::{HOPS_DEFAULT, HOPS_MAX, KernelConfig, RESYNC_DEFAULT};
use crate::types::{Destination, HostPort, NextHop, NextHopType, Route, Vni};

/// The largest VNI that an announcement or a table may name: 24 bits.
const VNI_MAX: u32 = (1 << 24) - 1;

/// What a client is started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientOptions {
    /// Servers: name or address, and port. At least one.
    pub servers: Vec<String>,
    /// VNIs to subscribe to.
    pub subscribe: BTreeSet<Vni>,
    /// Routes to announce.
    pub announce: BTreeSet<(Vni, Route)>,
    /// What is installed where, if anything is.
    pub kernel: Option<KernelConfig>,
    /// Whether installed routes are removed at the end.
    pub cleanup: bool,
    /// Everything else that the node is told.
    pub node: ServerConfig,
    /// Where to show what is known, if anywhere.
    pub http: Option<HostPort>,
    /// Whether its metrics have series for each peer.
    pub metrics_per_peer: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether to log what happens to single peers, routes and messages.
    pub verbose: bool,
}

#[derive(ArgsInfo, FromArgs)]
#[argh(
    description = "Connects to MetalBond servers, announces routes, and installs those that it\nlearns.",
    usage = "--server <address> [flags]",
    help_triggers("-h", "--help"),
    note = "Flags with a list may be repeated, and take several values with commas between\n\
            and no spaces. A value may also follow a `=`.",
    example = "{command_name} --server \"[::1]:4711\" --subscribe 100 \\\n\
               \x20   --announce \"100#10.0.1.0/24#2001:db8::1\" \\\n\
               \x20   --install-routes \"100#1100\" --tun overlay-tun"
)]
struct ClientFlags {
    /// server to connect to, name or address and port; a list
    #[argh(option, arg_name = "address")]
    server: Vec<String>,
    /// VNI to subscribe to; a list
    #[argh(option, arg_name = "vni")]
    subscribe: Vec<String>,
    /// route to announce: vni#prefix#hop[#type[#from#to]], type STD, LB or NAT; a list
    #[argh(option, arg_name = "route")]
    announce: Vec<String>,
    /// kernel table to install a VNI's routes into: vni#table, 0 is the main table; a list
    #[argh(option, arg_name = "vni#table")]
    install_routes: Vec<String>,
    /// tunnel device that installed routes go through
    #[argh(option, arg_name = "device")]
    tun: Option<String>,
    /// install only routes to IPv4 destinations
    #[argh(switch)]
    ipv4_only: bool,
    /// keepalive interval to offer, in seconds, up to 86400; default 5, which 0 stands for too
    #[argh(
        option,
        arg_name = "s",
        from_str_fn(keepalive),
        default = "ServerConfig::default().keepalive_interval_s"
    )]
    keepalive: u32,
    /// bytes in a TCP segment, 536 to 32767, or auto for what the path takes; default 1220
    #[argh(
        option,
        arg_name = "bytes",
        from_str_fn(mss),
        default = "ServerConfig::default().segment_bytes_max"
    )]
    mss: u16,
    /// networks of servers whose connections are signed (TCP MD5), each with the file that has its
    /// key: cidr=file; a list
    #[argh(option, arg_name = "key")]
    tcp_md5: Vec<String>,
    /// remove what was installed when the client ends
    #[argh(switch)]
    cleanup: bool,
    /// seconds for which the stale routes of a lost server stay, up to 86400; default 0; --hold-time is
    /// the same
    #[argh(option, arg_name = "s", from_str_fn(seconds), default = "0")]
    stale_time: u32,
    /// next hops of one kernel route at most, up to 320; default 32, and `ip route` and routing
    /// daemons do not see the table any more with 39
    #[argh(option, arg_name = "n", from_str_fn(hops), default = "HOPS_DEFAULT as u32")]
    hops_max: u32,
    /// seconds between verifications of the kernel's tables, up to 86400; default 60, 0 is never
    #[argh(
        option,
        arg_name = "s",
        from_str_fn(seconds),
        default = "RESYNC_DEFAULT.as_secs() as u32"
    )]
    resync: u32,
    /// address to show routes, peers and VNIs on, over HTTP; `:4713` is on all addresses
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

pub(super) static GRAMMAR: Grammar = Grammar {
    program: "metalbond-uring client",
    values: VALUES,
    lists: &["--server", "--subscribe", "--announce", "--install-routes", "--tcp-md5"],
    switches: &[
        "--ipv4-only",
        "--cleanup",
        "--metrics-per-peer",
        "--verbose",
        "-v",
        "--version",
        "-V",
        "--help",
        "-h",
    ],
    aliases: &[("--hold-time", "--stale-time")],
    beside: Some(("metalbond-uring server", &super::GRAMMAR)),
    words: None,
    args: ClientFlags::get_args_info,
};

static VALUES: &[Takes] = &[
    Takes("--server", "addresses with ports", "[::1]:4711"),
    Takes("--subscribe", "VNIs from 0 to 4294967295", "100"),
    Takes("--announce", "vni#prefix#hop[#type[#from#to]]", "100#10.0.1.0/24#2001:db8::1"),
    Takes("--install-routes", "vni#table", "100#1100"),
    Takes("--tun", "the name of a device", "overlay-tun"),
    Takes("--keepalive", "seconds from 0 to 86400, where 0 means 5", "5"),
    MSS_TAKES,
    MD5_TAKES,
    Takes("--hops-max", "next hops from 1 to 320", "32"),
    Takes("--stale-time", "seconds from 0 to 86400", "30"),
    Takes("--resync", "seconds from 0 to 86400", "60"),
    Takes("--http", "an address and a port", "[::]:4713"),
    LOG_FORMAT_TAKES,
];

/// Reads the words after `client`.
pub(super) fn parse(args: &[&str]) -> Result<ClientOptions, Exit> {
    let flags: ClientFlags = parse_flags(&GRAMMAR, args)?;
    if flags.version {
        return Err(version_of(PROGRAM));
    }
    metrics_need_http(&GRAMMAR, flags.metrics_per_peer, &flags.http)?;
    let servers = GRAMMAR.unique("--server", &flags.server, server)?;
    if servers.is_empty() {
        return Err(GRAMMAR.wrong("--server", "", "none was given"));
    }
    let tables = GRAMMAR.unique("--install-routes", &flags.install_routes, vni_table)?;
    let mut vni_table_map = BTreeMap::new();
    for (vni, table) in tables {
        if let Some(other) = vni_table_map.insert(vni, table) {
            let why = format!("VNI {vni} cannot go into two tables, {other} and {table}");
            return Err(GRAMMAR.wrong("--install-routes", "", &why));
        }
    }
    let kernel = match (flags.tun, vni_table_map) {
        (_, map) if map.is_empty() => None,
        (None, _) => {
            let why = "--install-routes needs the device to install through";
            return Err(GRAMMAR.wrong("--tun", "", why));
        }
        (Some(link_name), map) => Some(KernelConfig {
            ipv4_only: flags.ipv4_only,
            hops_max: flags.hops_max as usize,
            resync: Duration::from_secs(flags.resync.into()),
            ..KernelConfig::new(link_name, map)
        }),
    };
    Ok(ClientOptions {
        servers: servers.into_iter().collect(),
        subscribe: GRAMMAR.unique("--subscribe", &flags.subscribe, |text| vni(text, u32::MAX))?,
        announce: GRAMMAR.unique("--announce", &flags.announce, announcement)?,
        kernel,
        cleanup: flags.cleanup,
        node: ServerConfig {
            keepalive_interval_s: flags.keepalive,
            segment_bytes_max: flags.mss,
            tcp_md5: md5_keys(&GRAMMAR, &flags.tcp_md5)?,
            stale_time: Duration::from_secs(flags.stale_time.into()),
            ..ServerConfig::default()
        },
        http: flags.http,
        metrics_per_peer: flags.metrics_per_peer,
        log_format: flags.log_format,
        verbose: flags.verbose,
    })
}

fn server(text: &str) -> Result<String, String> {
    let server = HostPort::of_server(text).map_err(|error| error.to_string())?;
    Ok(server.to_string())
}

fn hops(value: &str) -> Result<u32, String> {
    number(value, 1, HOPS_MAX as u32)
}

fn vni_table(text: &str) -> Result<(Vni, u32), String> {
    let (of, table) = text.split_once('#').ok_or("no # between VNI and table")?;
    let table = number(table, 0, u32::MAX)
        .map_err(|_| format!("the table {table:?} is not from 0 to {}", u32::MAX))?;
    Ok((vni(of, VNI_MAX)?, table))
}

/// `vni#prefix#hop[#type[#from#to]]`
fn announcement(text: &str) -> Result<(Vni, Route), String> {
    let parts: Vec<&str> = text.split('#').collect();
    let (of, prefix, hop, kind, ports) = match parts[..] {
        [vni, prefix, hop] => (vni, prefix, hop, "STD", None),
        [vni, prefix, hop, kind] => (vni, prefix, hop, kind, None),
        [vni, prefix, hop, kind, from, to] => (vni, prefix, hop, kind, Some((from, to))),
        _ => return Err(format!("it has {} parts, not 3, 4 or 6", parts.len())),
    };
    let destination: Destination = prefix.parse().map_err(|error| format!("{error}"))?;
    let mut next_hop: NextHop = hop.parse().map_err(|error| format!("{error}"))?;
    next_hop.kind = match kind.to_ascii_uppercase().as_str() {
        "STD" | "STANDARD" => NextHopType::STANDARD,
        "LB" => NextHopType::LOAD_BALANCER_TARGET,
        "NAT" => NextHopType::NAT,
        _ => return Err(format!("the type {kind:?} is not STD, STANDARD, LB or NAT")),
    };
    if next_hop.kind == NextHopType::NAT {
        let (from, to) = ports.ok_or("NAT needs its ports, #from#to")?;
        (next_hop.nat_port_from, next_hop.nat_port_to) = (port(from)?, port(to)?);
        if next_hop.nat_port_from > next_hop.nat_port_to {
            return Err(format!("the first port, {from}, is above the last one, {to}"));
        }
    }
    Ok((vni(of, VNI_MAX)?, Route { destination, next_hop }))
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("the port {text:?} is not from 0 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn client(line: &str) -> ClientOptions {
        let args: Vec<&str> = line.split_whitespace().collect();
        parse(&args).unwrap_or_else(|exit| panic!("{}", exit.text))
    }

    #[test]
    fn lists_are_repeated_or_have_commas() {
        let options = client(
            "--server [::1]:4711,rr.example:4711 --server=10.0.0.1:1 --subscribe 1,2 --subscribe 3 \
             --announce 1#10.0.0.0/8#::1,2#::/0#::2#lb --install-routes=1#100,2#0 --tun t0 -v",
        );
        assert_eq!(options.servers, ["10.0.0.1:1", "[::1]:4711", "rr.example:4711"]);
        assert_eq!(options.subscribe, [1, 2, 3].map(Vni).into());
        assert_eq!(options.announce.len(), 2);
        let kernel = options.kernel.as_ref().unwrap();
        assert_eq!(kernel.vni_table_map, [(Vni(1), 100), (Vni(2), 0)].into());
        assert_eq!(kernel.link_name, "t0");
        assert_eq!(options.node.segment_bytes_max, 1220);
        assert_eq!(client("--server a:1 --mss auto").node.segment_bytes_max, 0);
        assert!(options.verbose && !options.cleanup && options.node.stale_time.is_zero());
    }

    #[test]
    fn the_hold_time_of_routes_is_their_stale_time() {
        for flag in ["--stale-time 7", "--stale-time=7", "--hold-time 7", "--hold-time=7"] {
            let options = client(&format!("--server a:1 {flag}"));
            assert_eq!(options.node.stale_time, Duration::from_secs(7), "{flag}");
        }
    }

    #[test]
    fn announcements() {
        let (vni, route) =
            announcement("16777215#10.0.23.7/24#2001:db8::1%eth0#nat#0#65535").unwrap();
        assert_eq!(
            (vni, route.to_string().as_str()),
            (Vni(VNI_MAX), "10.0.23.7/24 via 2001:db8::1")
        );
        assert_eq!((route.next_hop.nat_port_from, route.next_hop.nat_port_to), (0, 65_535));
        let (_, route) = announcement("0#::/0#9.9.9.9#Standard#1#2").unwrap();
        assert_eq!(route.next_hop.nat_port_to, 0, "ports are for NAT only");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, named) in [
            ("", "--server"),
            ("--server ::1:4711", "brackets"),
            ("--server [::1]", "the port is missing, as in \"[::1]:4711\""),
            ("--server rr.example", "the port is missing, as in \"rr.example:4711\""),
            ("--server a:1, b:1", "--server a:1,b:1\n"),
            ("--server a:1,", "comma"),
            ("--server ,a:1", "comma"),
            ("--server http://a:1", "without \"http://\""),
            ("--server a:0", "port 0"),
            ("--server [::1]:1,[0::1]:1", "twice"),
            ("--server --cleanup", "--cleanup follows"),
            ("--server a:1 --tun --cleanup", "--cleanup follows"),
            ("--server a:1 --subscribe 1 2", "no spaces: --subscribe 1,2\n"),
            ("--server a:1 --announce 1#::/0#::2 2#::/0#::2", "\"1#::/0#::2,2#::/0#::2\"\n"),
            ("--server a:1 --tun t0 t1", "\"t1\" is no flag\nTry"),
            ("--sever a:1", "Did you mean --server?"),
            ("--server a:1 --subcribe=1", "Did you mean --subscribe?"),
            ("--server a:1 --listen [::]:1", "a flag of `metalbond-uring server`"),
            ("help", "Did you mean --help?"),
            ("--server a:1 --http 4713", "the host is missing"),
            ("--server [fe80::1]:4711", "needs its device"),
            ("--server a:1 --server a:1", "twice"),
            ("--server a:1 --subscribe -1", "--subscribe"),
            ("--server a:1 --subscribe 1,1", "twice"),
            ("--server a:1 --announce 1#10.0.0.0/8", "2 parts"),
            ("--server a:1 --announce 1#10.0.0.0/8#::1#NAT#5", "5 parts"),
            ("--server a:1 --announce 1#10.0.0.0/8#::1#foo", "\"foo\""),
            ("--server a:1 --announce 1#10.0.0.0/8#::1#NAT", "ports"),
            ("--server a:1 --announce 1#10.0.0.0/8#::1#NAT#-1#5", "\"-1\""),
            ("--server a:1 --announce 1#10.0.0.0/8#::1#NAT#6#5", "above"),
            ("--server a:1 --announce 1#10.0.0.0/33#::1", "10.0.0.0/33"),
            ("--server a:1 --announce 1#10.0.0.0#::1", "ADDRESS/LENGTH"),
            ("--server a:1 --announce 16777216#10.0.0.0/8#::1", "16777216"),
            ("--server a:1 --install-routes 5", "--install-routes"),
            ("--server a:1 --install-routes 5#x", "\"x\""),
            ("--server a:1 --install-routes 5#1,5#2 --tun t", "two tables, 1 and 2"),
            ("--server a:1 --install-routes 5#1", "--tun"),
            ("--server a:1 --mss 535", "--mss"),
            ("--server a:1 --tcp-md5 10.0.0.0/8", "no ="),
            ("--server a:1 --tcp-md5 ::/0=a,::/0=b", "two key files"),
            ("--server a:1 --stale-time x", "--stale-time"),
            ("--server a:1 --hold-time x", "--stale-time takes seconds"),
            ("--server a:1 --hold-time", "--stale-time takes seconds"),
            ("--server a:1 --hold-time --cleanup", "--cleanup follows"),
            ("--server a:1 --tun --hold-time", "--hold-time follows"),
            ("--server a:1 --hold-time 1 --stale-time=2", "--stale-time"),
            ("--server a:1 --hops-max 0", "--hops-max"),
            ("--server a:1 --hops-max 321", "--hops-max"),
            ("--server a:1 --cleanup=maybe", "--cleanup"),
            ("--server a:1 nonsense", "nonsense"),
        ] {
            let args: Vec<&str> = line.split_whitespace().collect();
            let exit = parse(&args).expect_err(line);
            assert_eq!(exit.code, 2, "{line}");
            assert!(exit.text.contains(named), "{line}: {}", exit.text);
            assert!(exit.text.starts_with("metalbond-uring client: "), "{line}: {}", exit.text);
            let try_this = "\nTry: metalbond-uring client --help\n";
            assert!(exit.text.ends_with(try_this), "{line}: {}", exit.text);
        }
    }

    #[test]
    fn examples_are_right_and_can_be_pasted_into_a_shell() {
        for Takes(flag, takes, example) in VALUES {
            let line = format!("--server=a:1 --tun=t0 {flag}={example}");
            if !["--server", "--tun"].contains(flag) {
                client(&line);
            }
            let exit = parse(&[flag]).unwrap_err();
            let plain = !example.contains(['[', '#']);
            let shown = if plain { (*example).to_owned() } else { format!("\"{example}\"") };
            let hint = format!("{takes}, for example: metalbond-uring client {flag} {shown}\n");
            assert!(exit.text.contains(&hint), "{}", exit.text);
        }
    }

    #[test]
    fn as_the_go_program_takes_them() {
        let options = client(
            "--server [::]:4711 --keepalive 0 --http [::1]:4713 --ipv4-only=true --install-routes 1#0 --tun t0",
        );
        assert_eq!(options.servers, ["[::]:4711"]);
        assert_eq!(options.node.keepalive_interval_s, 0);
        assert_eq!(options.http.unwrap().to_string(), "[::1]:4713");
        assert!(
            options.kernel.unwrap().ipv4_only && !client("--server a:1 --cleanup=false").cleanup
        );
        assert_eq!(client("--server :4711").servers, ["localhost:4711"]);
        let words = ["--server", "a:1, b:1", "--subscribe", "1, 2"];
        assert_eq!(parse(&words).unwrap().subscribe.len(), 2, "quoted, spaces do no harm");
    }
}
