//! The command line of `metalbond-uring show`.
//!
//! Owns what can be shown, and which filter each takes. Must never ask anybody.

use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::values::{duration, http_address, vni};
use super::{Exit, Grammar, PROGRAM, Takes, parse_flags, usage_of, version_of};
use crate::http::{is_peer, is_prefix};
use crate::types::HostPort;
use crate::types::nearest;

/// How long a node may be silent while it is asked.
pub(super) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The node in figures.
    Summary,
    /// Connections, a line each.
    Peers,
    /// All about the connections of one address.
    Peer,
    /// Received routes.
    Routes,
    /// VNIs, a line each.
    Vnis,
    /// The node's part in a fabric, and the other reflectors: `fabric status`.
    Fabric,
}

/// What to show, and of whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShowOptions {
    /// What is shown.
    pub subject: Subject,
    /// Where the node answers.
    pub http: HostPort,
    /// Filters, as they stand in the query of a URL: words and values.
    pub filter: Vec<(&'static str, String)>,
    /// Whether to pass on the node's JSON as it is.
    pub json: bool,
    /// Whether to show it again and again.
    pub watch: bool,
    /// How long the node may be silent.
    pub timeout: Duration,
}

const SUBJECTS: &[&str] = &["summary", "peers", "peer", "routes", "vnis"];

#[derive(ArgsInfo, FromArgs)]
#[argh(
    description = "Shows what a running server or client knows; it must have been started with\n\
                   --http.\n\n\
                   What:\n\
                   \x20 summary           totals: peers, routes, updates, memory\n\
                   \x20 peers             who is connected, since when, and who is behind\n\
                   \x20 peer <address>    all about one peer: an address, or ADDRESS:PORT with IPv6\n\
                   \x20                   in brackets for one connection of it\n\
                   \x20 routes            the received routes\n\
                   \x20 vnis              routes, announcers, subscribers and digest of each VNI",
    usage = "<what> [flags]",
    help_triggers("-h", "--help"),
    note = "Tables are cut to the terminal's width. Into a pipe they are written whole and\n\
            without colours; an empty field is a dash. An answer may take 150 s\n\
            as a whole.",
    example = "{command_name} peers",
    example = "{command_name} peer 2001:db8::7",
    example = "{command_name} routes --vni 100 --prefix 10.0.1.7",
    example = "{command_name} summary --http \"[2001:db8::1]:4712\" --watch",
    error_code(0, "It was shown."),
    error_code(1, "The node cannot be asked, or there is no such peer."),
    error_code(2, "The command line is wrong.")
)]
#[allow(rustdoc::broken_intra_doc_links)] // argh prints the texts as they stand
struct ShowFlags {
    #[argh(positional, arg_name = "what", hidden_help)]
    words: Vec<String>,
    /// where the node answers over HTTP, default [::1]:4712
    #[argh(option, arg_name = "address", from_str_fn(http_address), default = "http_default()")]
    http: HostPort,
    /// print the node's JSON instead of a table
    #[argh(switch)]
    json: bool,
    /// only these VNIs (of routes, vnis and peers); a list
    #[argh(option, arg_name = "vni")]
    vni: Vec<String>,
    /// only routes to this prefix; of an address the longest prefix that has it
    #[argh(option, arg_name = "prefix")]
    prefix: Option<String>,
    /// only what this peer announces (routes), or its connections (peers)
    #[argh(option, arg_name = "address")]
    peer: Option<String>,
    /// show it again every 2 s, until Ctrl-C
    #[argh(switch)]
    watch: bool,
    /// how long the node may be silent, default 30s
    #[argh(option, arg_name = "time", from_str_fn(timeout), default = "TIMEOUT_DEFAULT")]
    timeout: Duration,
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
}

pub(super) static GRAMMAR: Grammar = Grammar {
    program: "metalbond-uring show",
    values: VALUES,
    lists: &["--vni"],
    switches: &["--json", "--watch", "--version", "-V", "--help", "-h"],
    aliases: &[],
    beside: None,
    words: Some(("what", SUBJECTS)),
    args: ShowFlags::get_args_info,
};

static VALUES: &[Takes] = &[
    Takes("--http", "an address and a port", "[::1]:4712"),
    Takes("--vni", "VNIs from 0 to 4294967295", "100"),
    Takes("--prefix", "ADDRESS/LENGTH, or an ADDRESS", "10.0.1.0/24"),
    Takes("--peer", "an ADDRESS, or ADDRESS:PORT with IPv6 in brackets", "2001:db8::7"),
    TIMEOUT_TAKES,
];

pub(super) const TIMEOUT_TAKES: Takes =
    Takes("--timeout", "a time from 1ms to 24h: 500ms, 30s, 2m, or seconds alone", "5s");

/// Reads the words after `show`.
pub(super) fn parse(args: &[&str]) -> Result<ShowOptions, Exit> {
    let flags: ShowFlags = parse_flags(&GRAMMAR, args)?;
    if flags.version {
        return Err(version_of(PROGRAM));
    }
    let words: Vec<&str> = flags.words.iter().map(String::as_str).collect();
    let (subject, address) = subject(&words)?;
    let mut filter = Vec::new();
    for vni in GRAMMAR.unique("--vni", &flags.vni, |text| vni(text, u32::MAX))? {
        filter.push(("vni", vni.to_string()));
    }
    if let Some(prefix) = flags.prefix {
        if !is_prefix(&prefix) {
            return Err(GRAMMAR.wrong("--prefix", &prefix, "it is no prefix"));
        }
        filter.push(("prefix", prefix));
    }
    if let Some(peer) = flags.peer {
        if !is_peer(&peer) {
            return Err(GRAMMAR.wrong("--peer", &peer, "it is no address of a peer"));
        }
        filter.push(("peer", peer));
    }
    let takes: &[&str] = match subject {
        Subject::Summary | Subject::Peer | Subject::Fabric => &[],
        Subject::Peers => &["vni", "peer"],
        Subject::Routes => &["vni", "prefix", "peer"],
        Subject::Vnis => &["vni"],
    };
    if let Some((word, _)) = filter.iter().find(|(word, _)| !takes.contains(word)) {
        let takes = if takes.is_empty() {
            "no filter".to_owned()
        } else {
            format!("--{}", takes.join(", --"))
        };
        let why = format!("--{word} is of no use here: `show {}` takes {takes}\n", words[0]);
        return Err(usage_of(GRAMMAR.program, &why));
    }
    filter.extend(address.map(|address| ("peer", address)));
    Ok(ShowOptions {
        subject,
        http: flags.http,
        filter,
        json: flags.json,
        watch: flags.watch,
        timeout: flags.timeout,
    })
}

/// What is meant by the words that are no flags; of one peer its address too.
fn subject(words: &[&str]) -> Result<(Subject, Option<String>), Exit> {
    let usage = |text: &str| Err(usage_of(GRAMMAR.program, text));
    let (subject, rest) = match words {
        [] => return usage("what? There are: summary, peers, peer ADDRESS, routes and vnis\n"),
        ["summary", rest @ ..] => (Subject::Summary, rest),
        ["peers", rest @ ..] => (Subject::Peers, rest),
        ["routes", rest @ ..] => (Subject::Routes, rest),
        ["vnis", rest @ ..] => (Subject::Vnis, rest),
        ["peer"] => {
            return usage("which peer? For example: metalbond-uring show peer 2001:db8::7\n");
        }
        ["peer", address, rest @ ..] if is_peer(address) => {
            return match rest {
                [] => Ok((Subject::Peer, Some((*address).to_owned()))),
                [extra, ..] => usage(&format!("Unrecognized argument: {extra:?}: one peer\n")),
            };
        }
        ["peer", address, ..] => {
            return usage(&format!(
                "{address:?} is no address of a peer: it takes an ADDRESS, or ADDRESS:PORT with IPv6 in brackets\n"
            ));
        }
        ["fabric", ..] => return usage("the fabric is shown by: metalbond-uring fabric status\n"),
        [word, ..] => {
            let meant = nearest(word, SUBJECTS.iter().copied());
            let meant = meant.map(|meant| format!("Did you mean {meant}?\n")).unwrap_or_default();
            return usage(&format!(
                "{word:?} cannot be shown: summary, peers, peer ADDRESS, routes and vnis can\n{meant}"
            ));
        }
    };
    match rest {
        [] => Ok((subject, None)),
        // An address is a filter here.
        [address, ..] if subject == Subject::Peers && is_peer(address) => {
            usage(&format!("one peer is shown by: {} peer {address}\n", GRAMMAR.program))
        }
        [extra, ..] => usage(&format!("Unrecognized argument: {extra:?} after {:?}\n", words[0])),
    }
}

pub(super) fn http_default() -> HostPort {
    HostPort { host: "::1".to_owned(), port: 4712 }
}

pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("no time at all".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn show(line: &str) -> ShowOptions {
        let args: Vec<&str> = line.split_whitespace().collect();
        parse(&args).unwrap_or_else(|exit| panic!("{line}: {}", exit.text))
    }

    #[test]
    fn what_is_shown_and_of_whom() {
        let options = show("peers");
        assert_eq!(options.subject, Subject::Peers);
        assert_eq!(options.http.to_string(), "[::1]:4712");
        assert!(options.filter.is_empty() && !options.json && !options.watch);
        let options = show(
            "--json routes --vni 7,8 --vni=9 --http http://rr:1/ --prefix 10.0.0.0/8 --peer [::1]:4711 --watch",
        );
        assert_eq!((options.subject, options.json, options.watch), (Subject::Routes, true, true));
        let filter: Vec<String> =
            options.filter.iter().map(|(word, value)| format!("{word}={value}")).collect();
        assert_eq!(filter.join(" "), "vni=7 vni=8 vni=9 prefix=10.0.0.0/8 peer=[::1]:4711");
        assert_eq!(options.http.to_string(), "rr:1");
        for address in ["::1", "[::1]:4711", "10.0.0.1", "10.0.0.1:4711"] {
            let options = show(&format!("--timeout 5 peer {address} --http :1"));
            assert_eq!(options.subject, Subject::Peer);
            assert_eq!(options.filter, [("peer", address.to_owned())]);
            assert_eq!(options.timeout, Duration::from_secs(5));
        }
    }

    #[test]
    fn what_is_wrong_says_what_to_do() {
        for (line, words) in [
            ("", "There are: summary, peers,"),
            ("peesr", "Did you mean peers?"),
            ("vni", "Did you mean vnis?"),
            ("fabric", "metalbond-uring fabric status"),
            ("peer", "For example: metalbond-uring show peer"),
            ("peer nobody", "\"nobody\" is no address"),
            ("peer ::1 ::2", "\"::2\": one peer"),
            ("peers ::1", "show peer ::1"),
            ("routes 7", "\"7\" after \"routes\""),
            ("summary --vni 7", "`show summary` takes no filter"),
            ("vnis --prefix 10.0.0.1", "`show vnis` takes --vni\n"),
            ("peers --prefix 10.0.0.1", "takes --vni, --peer"),
            ("peer ::1 --peer ::2", "takes no filter"),
            ("routes --prefix 10.0.0.0/33", "--prefix takes ADDRESS/LENGTH"),
            ("routes --peer nobody", "--peer takes an ADDRESS"),
            ("routes --vni x", "is not from 0"),
            ("routes --vni 7,7", "twice"),
            ("peers --http [::1]", "port is missing"),
            ("peers --http https://rr:4712", "no TLS"),
            ("peers --timeout 0", "--timeout takes a time"),
            ("peers --timeout soon", "--timeout takes a time"),
            ("peers --wacth", "Did you mean --watch?"),
            ("peers -", "\"-\""),
        ] {
            let args: Vec<&str> = line.split_whitespace().collect();
            let exit = parse(&args).expect_err(line);
            assert_eq!(exit.code, 2, "{line}");
            assert!(exit.text.contains(words), "{line}: {}", exit.text);
            assert!(exit.text.starts_with("metalbond-uring show: "), "{line}: {}", exit.text);
            assert!(exit.text.ends_with("\nTry: metalbond-uring show --help\n"), "{}", exit.text);
        }
    }

    #[test]
    fn examples_are_right() {
        for Takes(flag, takes, example) in VALUES {
            show(&format!("routes {flag}={example}"));
            let exit = parse(&["routes", flag]).unwrap_err();
            assert!(exit.text.contains(takes), "{}", exit.text);
        }
    }
}
