//! The built program's command line: the commands, their texts and exit codes, and lines as operators of the
//! Go program have them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::PATIENCE;
use common::process::run;
use metalbond_uring::internals::cli::{self, Invocation};

const BINARY: &str = env!("CARGO_BIN_EXE_metalbond-uring");

fn output(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_version_has_the_commit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bare = concat!("metalbond-uring ", env!("CARGO_PKG_VERSION"));
    let mut expected = format!("{bare}\n");
    if root.join(".git").exists() {
        let git = Command::new("git").args(["rev-parse", "--short=7", "HEAD"]).output();
        if let Some(git) = git.ok().filter(|git| git.status.success()) {
            expected = format!("{bare} ({})\n", String::from_utf8(git.stdout).unwrap().trim());
        }
    }
    for arguments in [&["--version"][..], &["-V"], &["server", "--version"], &["client", "-V"]] {
        let output = output(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}");
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_goes_to_stdout_and_mistakes_to_stderr() {
    for arguments in [&["help"][..], &["-h"], &["help", "client"], &["client", "--help"]] {
        let output = output(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("client"), "{arguments:?}");
    }
    for (arguments, begin) in [
        (&["help", "show"][..], "Usage: metalbond-uring show <what>"),
        (&["show", "-h"], "Usage: metalbond-uring show <what>"),
        (&["help", "show", "peers"], "Usage: metalbond-uring show <what>"),
        (&["help", "diff"], "Usage: metalbond-uring diff <side> <side>..."),
        (&["help", "man"], "Usage: metalbond-uring completions"),
        (&["help", "completions"], "Usage: metalbond-uring completions"),
    ] {
        let output = output(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(begin), "{arguments:?}");
    }
    for (arguments, said) in [
        (&["sever"][..], "Did you mean server?"),
        (&["client", "--server", "[::1]"], "Try: metalbond-uring client --help"),
        (&["--http", "4712"], "the host is missing"),
        (&["shwo"], "Did you mean show?"),
        (&["show", "peesr"], "Did you mean peers?"),
        (&["diff", ":4712"], "only one to compare"),
    ] {
        let (code, stderr) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}

/// A default is stated for people in the help and in README.md, and there only.
#[test]
fn defaults_are_what_the_texts_say() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let readme = readme.unwrap();
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `--")).collect();
    let mut stated = 0;
    let client = ["client", "--server", "a:1", "--install-routes=1#2", "--tun", "t"];
    let server = ["server", "--fabric", "nats://a/F", "--fabric-name", "a"];
    for command in [&server[..], &client] {
        let parsed = |more: &[&str]| {
            let parsed = cli::parse(&[command, more].concat());
            let text = format!("{:?}", parsed.unwrap_or_else(|exit| panic!("{}", exit.text)));
            // The seed is another one each time.
            text.split("seed: ")
                .map(|part| part.trim_start_matches(char::is_numeric).to_owned())
                .collect()
        };
        let unset: String = parsed(&[]);
        let help = cli::parse(&["help", command[0]]).unwrap_err().text;
        for entry in help.split("\n  --").skip(1) {
            let words: Vec<&str> = entry.split_whitespace().collect();
            let flag = format!("--{}", words[0]);
            let default = words.windows(2).find_map(|pair| match pair {
                ["default", value] => Some(value.trim_end_matches([',', ';'])),
                [value, "(default)" | "(default),"] => Some(*value),
                _ => None,
            });
            let Some(default) = default else { continue };
            assert_eq!(parsed(&[&flag, default]), unset, "{flag}: {default} is not the default");
            let row = rows.iter().find(|row| row.starts_with(&format!("| `{flag}")));
            let row = row.unwrap_or_else(|| panic!("README.md does not tell of {flag}"));
            assert!(row.contains(default), "{flag}: the help says {default}, README.md {row}");
            stated += 1;
        }
    }
    assert!(stated >= 12, "only {stated} defaults were found");
}

/// As they stand in public units, images and documents.
#[test]
fn command_lines_of_the_go_program_are_taken() {
    for (line, is_server) in [
        ("server --listen [::1]:4711 --http [::1]:4712 --keepalive 3", true),
        ("server --listen=[::]:4711 --http=[::]:4712 --keepalive=3 --verbose", true),
        ("server --listen :4711 --http :4712 -v", true),
        ("server --listen 0.0.0.0:4711 --http localhost:4712 --keepalive 0", true),
        ("server", true),
        (
            "client --server [::1]:4711 --keepalive 5 --announce 123#2001:db8:dead:beef::/64#2001:db8::1 \
             --announce 123#10.0.23.42/32#2001:db8::1 --install-routes 123#0 --tun overlay-tun",
            false,
        ),
        (
            "client --server [::]:4711 --keepalive 3 --subscribe 100 \
             --announce 100#0.0.0.0/0#2001:db8::5",
            false,
        ),
        (
            "client --server [::1]:4711,[::1]:4712 --http [::1]:4713 --keepalive 2 --subscribe 23,24 \
             --announce 23#2001:db8:1::/48#2001:db8::cafe,23#10.0.0.1/32#2001:db8::cafe#NAT#1#32767 \
             --install-routes 23#100,24#101 --tun overlay-tun --ipv4-only --cleanup --verbose",
            false,
        ),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        match cli::parse(&words) {
            Ok(Invocation::Server(_)) => assert!(is_server, "{line}"),
            Ok(Invocation::Client(_)) => assert!(!is_server, "{line}"),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(exit) => panic!("{line}: {}", exit.text),
        }
    }
}

#[test]
fn a_client_takes_http_and_any_address_for_this_host() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    // So it stands in a public document.
    let server = format!("[::]:{}", listener.local_addr().unwrap().port());
    let mut client = Command::new(BINARY)
        .args(["client", "--server", &server, "--http", ":0", "--subscribe", "100"])
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let connected = loop {
        if listener.accept().is_ok() {
            break true;
        }
        if Instant::now() > deadline || client.try_wait().unwrap().is_some() {
            break false;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    // Not killed: the log's thread may not have had its turn.
    let pid = client.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(connected, "{said}");
    assert!(said.contains("HTTP on http://[::]:"), "{said}");
}
