//! `metalbond-uring show`, run as people and scripts run it: what it says of a real server, and of whatever else answers.
//!
//! Owns what is claimed of its output and exit codes. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "common/asking.rs"]
mod asking;
mod common;
#[path = "common/fake_http.rs"]
mod fake_http;

use std::io::Read;
use std::process::{Command, Stdio};

use asking::{Asked, BINARY, assert_harmless, command, run};
use common::{add, route, subscribe};
use fake_http::{FakeHttp, Reply};
use serde_json::Value;

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn tables_of_a_server() {
    let asked = Asked::start();
    let said = [add(&route(100, 1, 7)), add(&route(20, 2, 1)), subscribe(20), subscribe(7)];
    let peer = asked.peer(&said.concat());
    asked.wait_for_routes(2);
    let address = peer.writer().local_addr().unwrap().to_string();
    let show = |what: &str| {
        let arguments: Vec<&str> = what.split_whitespace().collect();
        let said = run(&[&["show"], &arguments[..], &["--http", &asked.http]].concat());
        let is_empty = ["10.0.0.9", "--vni 8"].iter().any(|it| what.contains(it));
        assert_eq!((said.code, said.err.is_empty()), (Some(0), !is_empty), "{what}: {}", said.err);
        assert!(!is_empty || said.err.contains(" matches"), "{what}: {}", said.err);
        assert_harmless(&said.out);
        said.out
    };
    let routes = show("routes");
    assert_eq!(
        routes,
        "VNI  DESTINATION  NEXT-HOP     TYPE  NAT-PORTS  TARGET-VNI\n\
         100  10.0.0.1/32  2001:db8::7  STD   -                   -\n \
         20  10.0.0.2/32  2001:db8::1  STD   -                   -\n"
    );
    assert_eq!(show("routes --vni 20").lines().count(), 2);
    assert_eq!(show("routes --prefix 10.0.0.1").lines().count(), 2);
    assert_eq!(show("routes --prefix 10.0.0.9").lines().count(), 1);
    assert_eq!(show(&format!("routes --peer {address}")), routes);
    let vnis = show("vnis");
    let rows = words(&vnis);
    assert_eq!(rows[0], ["VNI", "ROUTES", "SOURCES", "SUBSCRIBERS", "SLOW", "DIGEST"]);
    assert_eq!(rows[1], ["7", "0", "0", "1", "0", "0000000000000000"]);
    assert_eq!((rows.len(), &rows[2][..5]), (4, &["20", "1", "1", "1", "0"][..]));
    let peers = show("peers");
    let rows = words(&peers);
    assert_eq!((rows.len(), rows[0].len(), rows[1].len()), (2, 14, 14), "{peers}");
    assert_eq!(&rows[1][..2], [&*address, "established"]);
    let column = |name| rows[1][rows[0].iter().position(|it| *it == name).unwrap()];
    assert_eq!(["ROUTES", "VNIS", "DIRECTION"].map(column), ["2", "2", "incoming"]);
    assert_eq!(["UPDATES-IN", "SLOW-FOR"].map(column), ["2", "-"]);
    assert_eq!(show("peers --vni 8").lines().count(), 1);
    for one in ["::1", &address] {
        let peer = show(&format!("peer {one}"));
        assert!(words(&peer).contains(&vec!["address", &address]), "{peer}");
        assert!(words(&peer).contains(&vec!["vnis", "7,", "20"]), "{peer}");
    }
    let summary = show("summary");
    for line in [&["routes", "2"][..], &["shards", "2"], &["peers", "established", "1"]] {
        assert!(words(&summary).contains(&line.to_vec()), "{summary}");
    }
    // What an operator looks at first stands first; what a reflector has not is left out.
    let labels: Vec<&str> = summary.lines().filter_map(|line| line.split("  ").next()).collect();
    assert_eq!(labels[..5], ["version", "uptime", "peers established", "peers slow", "routes"]);
    assert!(!labels.iter().any(|it| it.starts_with("pacing") || it.starts_with("servers")));
    // An address that nobody is at.
    let said = run(&["show", "peer", "192.0.2.9", "--http", &asked.http]);
    assert_eq!((said.code, &*said.out), (Some(1), ""));
    assert_eq!(said.err, "metalbond-uring show: there is no peer at 192.0.2.9\n");
}

#[test]
fn json_is_what_the_node_tells() {
    let body = "{\n  \"vnis\": [ ],\n  \"new\": \"ü\"\n}\n";
    let fake = FakeHttp::start(move |_| Reply::json(body));
    let said = run(&["show", "vnis", "--json", "--vni", "7,9", "--http", &fake.name()]);
    assert_eq!((said.code, &*said.out, &*said.err), (Some(0), body, ""));
    let said = run(&["show", "peers", "--json", "--peer", "[::1]:9", "--http", &fake.name()]);
    assert_eq!((said.code, &*said.out), (Some(0), body));
    assert_eq!(fake.asked(), ["/vnis.json?vni=7&vni=9", "/peers.json?peer=%5B%3A%3A1%5D%3A9"]);
    let asked = Asked::start();
    let _peer = asked.peer(&[]);
    let said = run(&["show", "peer", "::1", "--json", "--http", &asked.http]);
    let told: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, told["peers"].as_array().unwrap().len()), (Some(0), 1));
    let said = run(&["show", "peer", "::2", "--json", "--http", &asked.http]);
    let told: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, told["peers"].as_array().unwrap().len()), (Some(1), 0));
    assert!(said.err.contains("no peer at ::2"), "{}", said.err);
}

/// What a node says that this program has never heard of is shown; what it does not say is a dash.
#[test]
fn nodes_of_other_versions() {
    let fake = FakeHttp::start(|path| match path.split('?').next().unwrap() {
        "/summary.json" => Reply::json(
            r#"{"routes": 7, "uptime_s": 3661, "propagation_us": {"samples": 5, "p99": 1500},
                "disconnects": {"hold time": 3}, "pending_bytes": 2048, "brand_new": [1, 2]}"#,
        ),
        "/peers.json" => Reply::json(
            r#"{"peers": [{"address": "[2001:db8::1]:4711", "state": "established",
                "reconnections_last_hour": 4, "updates_sent": 12, "zeal": "high"}]}"#,
        ),
        _ => Reply::json(r#"{"vnis": [{"vni": 4294967295, "routes": 1}]}"#),
    });
    let show = |what: &[&str]| {
        let said = run(&[&["show"], what, &["--http", &fake.name()]].concat());
        assert_eq!((said.code, &*said.err), (Some(0), ""), "{what:?}");
        said.out
    };
    assert_eq!(
        show(&["summary"]),
        "uptime                  1h01m\n\
         routes                      7\n\
         pending bytes          2.0KiB\n\
         propagation p99         1.5ms\n\
         propagation samples         5\n\
         brand new              1, 2\n\
         disconnects hold time       3\n"
    );
    let peers = show(&["peers"]);
    let expected = "[2001:db8::1]:4711 established - 4 - - - 12 - - - - - -";
    assert_eq!(words(&peers)[1], expected.split(' ').collect::<Vec<_>>());
    assert!(show(&["peer", "2001:db8::1"]).contains("\nzeal "));
    assert_eq!(words(&show(&["vnis"]))[1], ["4294967295", "1", "-", "-", "-", "-"]);
}

/// The Go program has routes, in two shapes, and nothing else.
#[test]
fn routes_of_the_go_program() {
    let head = r#"{"date": "", "vnet": {"100": {"{\"IPVersion\":4,\"Prefix\":\"1.2.3.4/32\"}": [
        {"TargetAddress": "2001:db8::5", "TargetVNI": 7, "Type": 1, "NATPortRangeFrom": 10, "NATPortRangeTo": 20},
        {"TargetAddress": "2001:db8::6", "TargetVNI": 0, "Type": 2, "NATPortRangeFrom": 0, "NATPortRangeTo": 0},
        {"TargetAddress": "no address", "TargetVNI": 0, "Type": 9, "NATPortRangeFrom": 0, "NATPortRangeTo": 0}
        ]}}, "metalbondVersion": "development"}"#;
    let fake = FakeHttp::start(move |_| Reply::json(head));
    let said = run(&["show", "routes", "--http", &fake.name()]);
    assert_eq!(
        said.out,
        "VNI  DESTINATION  NEXT-HOP     TYPE  NAT-PORTS  TARGET-VNI\n\
         100  1.2.3.4/32   2001:db8::5  NAT   10-20               7\n\
         100  1.2.3.4/32   2001:db8::6  LB    -                   -\n"
    );
    let note = "metalbond-uring show: left out, for they are no routes: 1 entries\n";
    assert_eq!((said.code, &*said.err), (Some(0), note));
    let old = r#"{"vnet": {"100": {"10.0.23.0/24": ["2001:db8::1"]}}, "metalbondVersion": ""}"#;
    let fake = FakeHttp::start(move |_| Reply::json(old));
    let said = run(&["show", "routes", "--http", &fake.name()]);
    assert_eq!(words(&said.out)[1], ["100", "10.0.23.0/24", "2001:db8::1", "-", "-", "-"]);
}

#[test]
fn what_does_not_answer_as_it_should_is_told_of() {
    // The last says whether it is JSON at all, and passed on as such.
    type Case = (fn() -> Reply, &'static str, bool);
    const HALF: &str =
        "HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    let taken = std::net::TcpListener::bind("[::1]:0").unwrap();
    let nobody = taken.local_addr().unwrap().to_string();
    drop(taken);
    let cases: [Case; 12] = [
        (|| Reply::page(), "answers with text/html, not JSON: is it a metalbond-uring?", false),
        (
            || Reply::json("garbage"),
            "not an answer that makes sense: expected value at line 1",
            false,
        ),
        (|| Reply::json(""), "cut short", false),
        (|| Reply::json("[]"), "not an answer that makes sense", true),
        (|| Reply::json("{}"), "missing field `vnis`", true),
        (|| Reply::json("{\"vnis\": [{\"vni\": -1}]}"), "invalid value: integer `-1`", true),
        (|| Reply::Cut("application/json", "{\"vnis\": []}".into()), "was cut short", false),
        (|| Reply::Raw(b"SSH-2.0-OpenSSH\r\n".into()), "gives no HTTP answer", false),
        (|| Reply::Raw(Vec::new()), "gives no HTTP answer", false),
        (|| Reply::Hang(""), "nothing came for 0.3 s", false),
        (|| Reply::Hang(HALF), "nothing came for 0.3 s", false),
        (|| Reply::Whole(500, "text/plain", "no\nmore".into()), "status 500: no\n", false),
    ];
    for (reply, words, is_json) in cases {
        let name = FakeHttp::start(move |_| reply()).name();
        let timeout = if words.starts_with("nothing came") { "300ms" } else { "30s" };
        let arguments = ["show", "vnis", "--timeout", timeout, "--http", &name, "--json"];
        for arguments in [&arguments[..6], &arguments] {
            let said = run(arguments);
            assert!(!said.err.contains("panicked"), "{}", said.err);
            assert_harmless(&said.err);
            if is_json && arguments.len() == 7 {
                assert_eq!((said.code, &*said.err), (Some(0), ""), "{words}");
                continue;
            }
            assert_eq!(said.code, Some(1), "{words}: {}", said.err);
            assert!(said.err.contains(words) && said.err.contains(&name), "{words}: {}", said.err);
            assert_eq!(said.err.lines().count(), 1, "{}", said.err);
        }
    }
    let said = run(&["show", "peers", "--http", &format!("http://{nobody}/")]);
    let expected = format!(
        "metalbond-uring show: cannot ask http://{nobody}: connection refused; is it running with --http?\n"
    );
    assert_eq!((said.code, said.err), (Some(1), expected));
    let said = run(&["show", "peers", "--http", "no-such-host.invalid:1"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("cannot ask http://no-such-host.invalid:1: "), "{}", said.err);
    // The protocol's own port is a likely mistake.
    let asked = Asked::start();
    let said = run(&["show", "peers", "--http", &asked.address().to_string()]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("gives no HTTP answer"), "{}", said.err);
    assert!(said.err.contains("is it the address of --http?"), "{}", said.err);
}

#[test]
fn who_is_busy_is_asked_again() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let fake =
        FakeHttp::start(move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Reply::Busy,
            _ => Reply::json("{\"vnis\": []}"),
        });
    assert_eq!(run(&["show", "vnis", "--http", &fake.name()]).code, Some(0));
    assert_eq!(fake.asked().len(), 2);
    let fake = FakeHttp::start(|_| Reply::Busy);
    let said = run(&["show", "vnis", "--timeout", "3s", "--http", &fake.name()]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("status 503: try again"), "{}", said.err);
}

/// What nobody sees.
const HARM_UNSEEN: &str = "\u{202e}\u{200b}\u{feff}\u{ad}\u{e0041}";

/// A terminal obeys what is in these, if it gets it.
const HARM: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}2J\u{202e}\r\n\u{8}x\u{7f}";

#[test]
fn what_would_harm_a_terminal_does_not_reach_it() {
    let fake = FakeHttp::start(|path| {
        let text = serde_json::to_string(HARM).unwrap();
        match path.split('?').next().unwrap() {
            "/summary.json" => {
                Reply::json(format!("{{{text}: {{{text}: [{text}, 1]}}, \"version\": {text}}}"))
            }
            "/peers.json" => Reply::json(format!(
                "{{\"peers\": [{{\"address\": {text}, \"state\": {text}, \"pace\": {text}, {text}: {text}}}]}}"
            )),
            "/vnis.json" => Reply::json(format!(
                "{{\"vnis\": [{{\"vni\": 1, \"routes\": 1, \"digest\": {text}}}]}}"
            )),
            _ => Reply::Whole(400, "text/plain", HARM.to_owned()),
        }
    });
    for what in [&["summary"][..], &["peers"], &["peer", "::1"], &["vnis"], &["routes"]] {
        let said = run(&[&["show"], what, &["--http", &fake.name()]].concat());
        assert_harmless(&said.out);
        assert_harmless(&said.err);
        let expected = if what == ["routes"] { Some(1) } else { Some(0) };
        assert_eq!(said.code, expected, "{what:?}: {}", said.err);
        assert!(format!("{}{}", said.out, said.err).contains("owned"), "{what:?}");
    }
    // As JSON the letters that are no escapes yet become some, and mean the same.
    let told = format!("{{\"vnis\": \"a{}b\"}}", "\u{7f}\u{9b}2J");
    let fake = FakeHttp::start(move |_| Reply::json(told.clone()));
    let said = run(&["show", "vnis", "--json", "--http", &fake.name()]);
    assert_eq!(said.out, "{\"vnis\": \"a\\u007f\\u009b2Jb\"}");
    let told = format!("{{\"vnis\": \"{HARM_UNSEEN}\"}}");
    let fake = FakeHttp::start(move |_| Reply::json(told.clone()));
    let said = run(&["show", "vnis", "--json", "--http", &fake.name()]);
    assert_eq!(said.out, "{\"vnis\": \"\\u202e\\u200b\\ufeff\\u00ad\\udb40\\udc41\"}");
    // What is no UTF-8 does not get out, nor what follows.
    let head = "HTTP/1.1 200 X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    let raw = [head.as_bytes(), b"{\"vnis\": \"\x9b2J\"}"].concat();
    let fake = FakeHttp::start(move |_| Reply::Raw(raw.clone()));
    for what in [&["vnis"][..], &["peer", "::1"]] {
        let said = run(&[&["show"], what, &["--json", "--http", &fake.name()]].concat());
        assert!(said.code == Some(1) && said.err.contains("UTF-8"), "{}", said.err);
        assert!(!said.out.contains("2J"), "{}", said.out);
    }
    // Raw control characters are no JSON at all.
    let fake = FakeHttp::start(|_| Reply::json(HARM));
    let said = run(&["show", "vnis", "--json", "--http", &fake.name()]);
    assert_eq!(said.code, Some(1));
    assert_harmless(&said.out);
    // A message has a length, whatever it is about.
    let fake =
        FakeHttp::start(|_| Reply::json(format!("{{\"vnis\": \"{}\"}}", "x".repeat(100_000))));
    let said = run(&["show", "vnis", "--http", &fake.name()]);
    assert!(said.code == Some(1) && said.err.len() < 1_000, "{} bytes", said.err.len());
}

/// A table of so many routes, made as it is sent.
fn long_table(routes: u32) -> Reply {
    Reply::Stream(Box::new(move |out| {
        write!(out, "{{\"date\": \"\", \"vnet\": {{\"7\": {{")?;
        for number in 0..routes {
            let comma = if number == 0 { "" } else { "," };
            let prefix = std::net::Ipv4Addr::from(0x0a00_0000 + number);
            write!(
                out,
                "{comma}\n\"{{\\\"IPVersion\\\":4,\\\"Prefix\\\":\\\"{prefix}/32\\\"}}\": [{{\"TargetAddress\": \
                 \"2001:db8::1\", \"TargetVNI\": 0, \"Type\": 0, \"NATPortRangeFrom\": 0, \"NATPortRangeTo\": 0}}]"
            )?;
        }
        writeln!(out, "}}}}, \"metalbondVersion\": \"\"}}")
    }))
}

/// 300,000 routes are 40 MB of JSON; with more than 32 MB of memory of its own the program would fail.
#[test]
fn a_long_table_is_shown_as_it_comes() {
    let fake = FakeHttp::start(|_| long_table(300_000));
    for json in ["", "--json"] {
        let script =
            format!("ulimit -d 32768 && exec \"$0\" show routes --http '{}' {json}", fake.name());
        let output = Command::new("bash").args(["-c", &script, BINARY]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines, 300_001, "{json}");
    }
}

/// What cannot be an answer is none before it fills the memory, and one without an end comes to one.
#[test]
fn answers_have_bounds() {
    let long = |head: &'static str| {
        Reply::Stream(Box::new(move |out| {
            write!(out, "{head}")?;
            (0..64 << 10).try_for_each(|_| out.write_all(&[b'x'; 1 << 10]))
        }))
    };
    let rows = || {
        Reply::Stream(Box::new(|out| {
            write!(out, "{{\"vnis\": [], \"more\": [")?;
            (0..140 << 10).try_for_each(|_| out.write_all(" ".repeat(1 << 10).as_bytes()))
        }))
    };
    let fake = FakeHttp::start(move |path| match path {
        "/routes.json" => long("{\"vnet\": {\"7\": {\""),
        "/peers.json" => long("{\"peers\": [{\"address\": \""),
        _ => rows(),
    });
    for (what, words) in
        [("routes", "no table of routes"), ("peers", "4096 bytes"), ("vnis", "longer than any")]
    {
        let script = format!("ulimit -d 32768 && exec \"$0\" show {what} --http '{}'", fake.name());
        let output = Command::new("bash").args(["-c", &script, BINARY]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(words), "{what}: {said}");
    }
    let fake = FakeHttp::start(|_| Reply::Trickle);
    let said = run(&["show", "vnis", "--timeout", "50ms", "--http", &fake.name()]);
    let is_over = said.err.contains("was not whole after") || said.err.contains("nothing came");
    assert!(said.code == Some(1) && is_over, "{:?} {}", said.code, said.err);
}

#[test]
fn a_reader_that_has_enough_is_no_fault() {
    let fake = FakeHttp::start(|_| long_table(100_000));
    for json in [&[][..], &["--json"]] {
        let name = fake.name();
        let arguments = [&["show", "routes", "--http", &name], json].concat();
        let mut child =
            command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 10]).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&["show", "routes", "--http", &fake.name()])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot write: no space left on device"), "{said}");
}

/// What a command writes to a terminal of so many columns and lines; None if there is no `script`.
fn on_terminal(columns: u16, lines: u16, environment: &str, command: &str) -> Option<String> {
    let script = format!("stty cols {columns} rows {lines} && {environment} {BINARY} {command}");
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &script, "/dev/null"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")),
        Err(error) => {
            eprintln!("SKIPPED: there is no `script` to be a terminal (util-linux): {error}");
            None
        }
    }
}

#[test]
fn on_a_terminal_lines_fit_and_have_colours() {
    let peer = |number: u32| {
        format!(
            r#"{{"address": "[2001:db8::{number}]:4711", "state": "established", "established_for_s": 7,
                "routes": 100000, "vnis": [1, 2], "pending_bytes": 5000, "slow_vnis": 1}}"#
        )
    };
    let peers: Vec<String> = (1..=100).map(peer).collect();
    let body = format!("{{\"peers\": [{}]}}", peers.join(","));
    let fake = FakeHttp::start(move |_| Reply::json(body.clone()));
    let show = format!("show peers --http '{}'", fake.name());
    for columns in [200, 80, 60, 40, 20, 5] {
        let Some(said) = on_terminal(columns, 24, "NO_COLOR=1", &show) else { return };
        assert_eq!(said.lines().count(), 101, "{columns}: {said}");
        assert_harmless(&said);
        for line in said.lines() {
            assert!(line.chars().count() <= usize::from(columns), "{columns}: {line}");
        }
    }
    let coloured = on_terminal(80, 24, "", &show).unwrap();
    assert!(coloured.contains("\u{1b}[32mestablished\u{1b}[0m"), "{coloured}");
    let dumb = on_terminal(80, 24, "TERM=dumb", &show).unwrap();
    assert_harmless(&dumb);
    // Watched, it stays on the screen: no line is one too many.
    let watched = on_terminal(80, 10, "timeout -s INT 7", &format!("{show} --watch")).unwrap();
    let screens: Vec<&str> = watched.split("\u{1b}[H").skip(1).collect();
    assert!(screens.len() >= 2, "{watched:?}");
    for screen in screens {
        assert_eq!(screen.lines().count(), 10, "{screen:?}");
        assert!(screen.contains("every 2 s until Ctrl-C") && screen.contains('…'), "{screen:?}");
    }
}

#[test]
fn watched_through_a_pipe_it_is_written_anew_also_when_the_node_was_away() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let fake =
        FakeHttp::start(move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            1 => Reply::Raw(Vec::new()),
            _ => Reply::json("{\"vnis\": []}"),
        });
    let mut child = command(&["show", "vnis", "--watch", "--http", &fake.name()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let heading = "VNI  ROUTES  SOURCES  SUBSCRIBERS  SLOW  DIGEST\n";
    let expected = format!("{heading}\n\n{heading}");
    let mut said = vec![0; expected.len()];
    child.stdout.take().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8_lossy(&said), expected);
    let mut lost = vec![0; 200];
    let length = child.stderr.take().unwrap().read(&mut lost).unwrap();
    let lost = String::from_utf8_lossy(&lost[..length]).into_owned();
    assert!(lost.starts_with("metalbond-uring show: http://"), "{lost}");
    assert!(lost.contains("gives no HTTP answer: connection closed"), "{lost}");
    let _ = child.kill();
    let _ = child.wait();
    // Who is not there at first is not waited for.
    let fake = FakeHttp::start(|_| Reply::Raw(Vec::new()));
    assert_eq!(run(&["show", "vnis", "--watch", "--http", &fake.name()]).code, Some(1));
}
