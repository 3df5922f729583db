//! The command line of `metalbond-uring diff`.
//!
//! Owns what can be compared. Must never ask anybody, or open a file.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::show::{TIMEOUT_DEFAULT, TIMEOUT_TAKES, timeout};
use super::values::{duration, http_address, vni};
use super::{Exit, Grammar, PROGRAM, Takes, parse_flags, usage_of, version_of};
use crate::types::{HostPort, Vni};

/// Tables that are compared at a time.
const SIDES_MAX: usize = 64;
/// The path of the table that reflectors of all kinds show.
const ROUTES_PATH: &str = "/routes.json";

/// One of the tables that are compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    /// As it was given.
    pub name: String,
    /// Where it is.
    pub at: SideAt,
}

/// Where a table is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SideAt {
    /// A reflector of any kind.
    Reflector(HostPort),
    /// A reflector that is asked for /routes.json alone.
    Routes(HostPort),
    /// A saved /routes.json.
    File(PathBuf),
}

/// What to compare.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiffOptions {
    /// At least two.
    pub sides: Vec<Side>,
    /// These VNIs; all if there are none.
    pub vnis: BTreeSet<Vni>,
    /// How long to wait for them to agree.
    pub patience: Duration,
    /// Whether to tell it as JSON.
    pub json: bool,
    /// Whether to tell of each difference, however many there are.
    pub all: bool,
    /// How long a node may be silent.
    pub timeout: Duration,
}

#[derive(ArgsInfo, FromArgs)]
#[argh(
    description = "Says whether reflectors have the same routes, and which ones differ.\n\n\
                   A side is the address at which a reflector answers over HTTP (--http), of this\n\
                   program or of the Go one. http://ADDRESS/routes.json asks for the routes alone.\n\
                   What has a / in it, or .json at its end, is a file: a saved /routes.json.",
    usage = "<side> <side>... [flags]",
    help_triggers("-h", "--help"),
    note = "Digests of VNIs are compared first, then the routes of those that differ.\n\
            Equal means that each VNI agreed at some moment. Whoever chooses routes on\n\
            purpose can make digests meet; with http://ADDRESS/routes.json for a side,\n\
            routes are compared one by one.\n\n\
            A client is compared by the routes that it has received. Of next hops\n\
            v0.3.0 of the Go program tells only addresses: beside it, nothing else of\n\
            them is compared.\n\n\
            An answer may take 150 s as a whole, or 150 times --timeout where that is\n\
            less than 1 s. With --for, who has not answered --timeout after that time\n\
            is given up: status 2.",
    example = "{command_name} \"[2001:db8::1]:4712\" \"[2001:db8::2]:4712\"",
    example = "{command_name} :4712 rr2.example:4712 rr3.example:4712 --for 30s",
    example = "{command_name} :4712 ./saved/routes.json",
    error_code(0, "They have the same routes."),
    error_code(1, "They differ."),
    error_code(2, "One cannot be asked, or the command line is wrong.")
)]
struct DiffFlags {
    #[argh(positional, arg_name = "side", hidden_help)]
    sides: Vec<String>,
    /// only these VNIs; a list
    #[argh(option, arg_name = "vni")]
    vni: Vec<String>,
    /// wait until they agree, and tell only what differed all the time; default 0: one look
    #[argh(
        option,
        arg_name = "time",
        long = "for",
        from_str_fn(duration),
        default = "Duration::ZERO"
    )]
    patience: Duration,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
    /// tell of all differences, not only of the first 1000
    #[argh(switch)]
    all: bool,
    /// how long a node may be silent, default 30s
    #[argh(option, arg_name = "time", from_str_fn(timeout), default = "TIMEOUT_DEFAULT")]
    timeout: Duration,
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
}

pub(super) static GRAMMAR: Grammar = Grammar {
    program: "metalbond-uring diff",
    values: VALUES,
    lists: &["--vni"],
    switches: &["--json", "--all", "--version", "-V", "--help", "-h"],
    aliases: &[],
    beside: Some(("metalbond-uring show", &super::show::GRAMMAR)),
    words: Some(("side", &[])),
    args: DiffFlags::get_args_info,
};

static VALUES: &[Takes] = &[
    Takes("--vni", "VNIs from 0 to 4294967295", "100"),
    Takes("--for", "a time up to 24h: 500ms, 30s, 2m, or seconds alone", "30s"),
    TIMEOUT_TAKES,
];

/// Reads the words after `diff`.
pub(super) fn parse(args: &[&str]) -> Result<DiffOptions, Exit> {
    let flags: DiffFlags = parse_flags(&GRAMMAR, args)?;
    if flags.version {
        return Err(version_of(PROGRAM));
    }
    let usage = |text: &str| Err(usage_of(GRAMMAR.program, text));
    let mut sides: Vec<Side> = Vec::new();
    for name in flags.sides {
        let at = side_at(&name).map_err(|why| {
            let text = format!(
                "{name:?}: {why}\nA side is an address and a port, for example: \
                                {} \"[2001:db8::1]:4712\" \"[2001:db8::2]:4712\"\n",
                GRAMMAR.program
            );
            usage_of(GRAMMAR.program, &text)
        })?;
        if sides.iter().any(|side| side.at == at) {
            return usage(&format!("{name:?} was given twice: it would agree with itself\n"));
        }
        sides.push(Side { name, at });
    }
    if sides.len() < 2 {
        return usage(&format!(
            "{} to compare: give at least two, for example: {} \"[2001:db8::1]:4712\" \"[2001:db8::2]:4712\"\n",
            if sides.is_empty() { "nothing" } else { "only one" },
            GRAMMAR.program
        ));
    }
    if sides.len() > SIDES_MAX {
        return usage(&format!("{} are too many: up to {SIDES_MAX}\n", sides.len()));
    }
    let vnis = GRAMMAR.unique("--vni", &flags.vni, |text| vni(text, u32::MAX))?;
    let DiffFlags { patience, json, all, timeout, .. } = flags;
    Ok(DiffOptions { sides, vnis, patience, json, all, timeout })
}

fn side_at(text: &str) -> Result<SideAt, String> {
    if text.contains("://") {
        return match text.strip_suffix(ROUTES_PATH) {
            Some(address) => http_address(address).map(SideAt::Routes),
            None => http_address(text).map(SideAt::Reflector),
        };
    }
    if let Some((address, _)) = text.split_once('/')
        && http_address(address).is_ok()
    {
        return Err(format!("for what a node shows write http://{text}, for a file ./{text}"));
    }
    if text.contains('/') || text.ends_with(".json") {
        return Ok(SideAt::File(PathBuf::from(text)));
    }
    http_address(text).map(SideAt::Reflector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn diff(line: &str) -> DiffOptions {
        let args: Vec<&str> = line.split_whitespace().collect();
        parse(&args).unwrap_or_else(|exit| panic!("{line}: {}", exit.text))
    }

    #[test]
    fn what_is_compared() {
        let options = diff(
            "[::1]:1 --vni 7,8 http://[::1]:2/ --for 500ms http://[::1]:1/routes.json ./a.json b.json --json --all",
        );
        let at: Vec<String> = options.sides.iter().map(|side| format!("{:?}", side.at)).collect();
        let begin = ["Reflector", "Reflector", "Routes", "File", "File"];
        assert!(at.iter().zip(begin).all(|(at, begin)| at.starts_with(begin)), "{at:?}");
        assert_eq!(options.vnis, [Vni(7), Vni(8)].into());
        assert_eq!(options.patience, Duration::from_millis(500));
        assert!(options.json && options.all);
        assert_eq!(diff(":1 :2").patience, Duration::ZERO);
        assert_eq!(diff(":1 :2 --for=2m").patience, Duration::from_secs(120));
    }

    #[test]
    fn what_is_wrong_says_what_to_do() {
        let many: String = (1..66).map(|port| format!(":{port} ")).collect();
        for (line, words) in [
            ("", "nothing to compare: give at least two"),
            (":1", "only one to compare"),
            (":1 :1", "twice"),
            (":1 http://:1/", "twice"),
            (":1 localhost", "the port is missing"),
            (":1 https://rr:1", "no TLS"),
            (":1 http://rr:1/metrics", "is no port"),
            (&many, "65 are too many"),
            (":1 [::1]:2/routes.json", "write http://[::1]:2/routes.json"),
            (":1 :2/routes.json", "write http://:2/routes.json"),
            (":1 :2 --for soon", "--for takes a time"),
            (":1 :2 --for 25h", "--for takes a time"),
            (":1 :2 --vni -1", "--vni"),
            (":1 :2 --http :3", "a flag of `metalbond-uring show`"),
            (":1 :2 --jsno", "Did you mean --json?"),
        ] {
            let args: Vec<&str> = line.split_whitespace().collect();
            let exit = parse(&args).expect_err(line);
            assert_eq!(exit.code, 2, "{line}");
            assert!(exit.text.contains(words), "{line}: {}", exit.text);
            assert!(exit.text.starts_with("metalbond-uring diff: "), "{line}: {}", exit.text);
            assert!(exit.text.ends_with("\nTry: metalbond-uring diff --help\n"), "{}", exit.text);
        }
    }
}
