//! Alert rules and dashboard: they ask for what the programs show, and Prometheus understands them.
//!
//! Owns the comparison of names. Must never know what a metric means.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
#[allow(dead_code)]
#[path = "common/netns.rs"]
mod netns;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Peer;
use common::http::{ask, ask_with};
use common::process::Process;
use serde_json::Value;

const RULES: &str = "packaging/prometheus/metalbond.rules.yml";
const TESTS: &str = "packaging/prometheus/metalbond.tests.yml";
const DASHBOARD: &str = "packaging/grafana/metalbond.json";

#[test]
fn what_is_asked_for_is_shown() {
    // For a client that installs routes.
    netns::in_namespace("what_is_asked_for_is_shown", all_is_shown);
}

fn all_is_shown() {
    netns::ip("link set lo up");
    let server = Process::serve(&["--http", "[::1]:0"]);
    let to = server.address().to_string();
    let installing = ["--server", &to, "--install-routes", "7#100", "--tun", netns::TUNNEL];
    let client = Process::client(&installing);
    // Whether there is an engine makes no difference to what is shown.
    let joined = Process::serve(&[
        "--http",
        "[::1]:0",
        "--fabric",
        "nats://[::1]:9/F",
        "--fabric-name",
        "a",
    ]);
    let (mut shown, mut samples) = (BTreeSet::new(), String::new());
    for address in [&server, &joined, &client].map(Process::http_address) {
        let (head, scraped) = ask(address, "GET", "/metrics");
        assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
        shown.extend(names_shown(&scraped));
        samples += &scraped;
    }
    let mut asked = names_in(&read(RULES));
    let expressions = expressions();
    assert!(expressions.len() > 30, "{} expressions", expressions.len());
    asked.extend(expressions.iter().flat_map(|expression| names_in(expression)));
    assert!(asked.len() > 25, "{asked:?}");
    let missing: Vec<_> = asked.difference(&shown).collect();
    assert!(missing.is_empty(), "nobody shows {missing:?}, but {shown:?}");
    // And what the alerts are tested with.
    let missing: Vec<_> = names_in(&read(TESTS)).difference(&shown).cloned().collect();
    assert!(missing.is_empty(), "nobody shows {missing:?}");
    // An alert for a value that no label ever has would never fire.
    let texts = [read(RULES), read(TESTS), expressions.join("\n")].concat();
    let wanted = label_values(&texts);
    assert!(wanted.len() > 10, "{wanted:?}");
    for (name, label, value) in wanted {
        let is_meant =
            |line: &str| line.starts_with(&name) && line.contains(&format!("{label}=\"{value}\""));
        assert!(samples.lines().any(is_meant), "nobody shows {name} with {label}=\"{value}\"");
    }
}

#[test]
fn prometheus_understands_the_rules_and_the_dashboard() {
    let Some(promtool) = promtool() else {
        // Not eprintln!, which is captured when a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: prometheus_understands_the_rules_and_the_dashboard: no promtool (Debian: prometheus)"
        );
        return;
    };
    let run = |arguments: &[&str], file: &Path| {
        let output = Command::new(&promtool).args(arguments).arg(file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    };
    run(&["check", "rules"], &root().join(RULES));
    run(&["test", "rules"], &root().join(TESTS));
    // A dashboard's expressions are checked as rules would be, with its variables filled in.
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (at, expression) in expressions().iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m");
        rules += &format!("  - {{record: 'r{at}', expr: '{expression}'}}\n");
    }
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard.rules.yml");
    std::fs::write(&file, rules).unwrap();
    run(&["check", "rules"], &file);
    let server = Process::serve(&["--http", "[::1]:0", "--metrics-per-peer"]);
    let _peer = Peer::established(server.address(), 60, true);
    let accept = "Accept: text/plain\r\n";
    let (_, scraped) = ask_with(server.http_address(), "GET", "/metrics", accept);
    assert!(scraped.contains("metalbond_peer_routes{"), "{scraped}");
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("scrape.txt");
    std::fs::write(&file, scraped).unwrap();
    // Also what it only advises, but for two names that dashboards in the field know.
    let input = std::fs::File::open(&file).unwrap();
    let output = Command::new(&promtool).args(["check", "metrics"]).stdin(input).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let known = ["metalbond_route_count ", "metalbond_subscription_count "];
    let others = said.lines().filter(|line| !known.iter().any(|name| line.starts_with(name)));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn panels_of_the_dashboard_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for (x, y) in (0..side("w")).flat_map(|x| (0..side("h")).map(move |y| (x, y))) {
            let place = (side("x") + x, side("y") + y);
            assert!(place.0 < 24 && taken.insert(place), "{}: {place:?}", panel["title"]);
        }
    }
}

/// All that the dashboard asks Prometheus for.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let (mut found, mut values) = (Vec::new(), vec![dashboard]);
    while let Some(value) = values.pop() {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
                values.extend(fields.into_iter().map(|(_, value)| value));
            }
            Value::Array(items) => values.extend(items),
            _ => {}
        }
    }
    found
}

/// The names of metrics, without what a histogram's parts add.
fn names_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c));
    words
        .filter(|word| word.starts_with("metalbond_"))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned())
        .collect()
}

/// What metrics' labels are compared with: name, label, value. Not those that Prometheus adds, or that stand for any.
fn label_values(text: &str) -> BTreeSet<(String, String, String)> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("metalbond_") {
        let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
        let (name, rest) = text[at..].split_at(end);
        let Some((labels, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            continue;
        };
        // label="value", label=~"one|another"
        let mut words = labels.split('"');
        while let (Some(label), Some(values)) = (words.next(), words.next()) {
            let label = label.trim_matches(|c: char| !c.is_ascii_lowercase());
            let ours = !["job", "instance", "version", "le", "shard"].contains(&label);
            for value in values.split('|').filter(|_| ours) {
                found.insert((name.to_owned(), label.to_owned(), value.to_owned()));
            }
        }
    }
    found
}

/// The names in a scrape. OpenMetrics names a counter without its `_total` in TYPE, and with it in each sample.
fn names_shown(scrape: &str) -> BTreeSet<String> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| match line.split_once(' ') {
            Some((name, "counter")) if !name.ends_with("_total") => format!("{name}_total"),
            // A label alone makes it what it is.
            Some((name, "info")) if !name.ends_with("_info") => format!("{name}_info"),
            Some((name, _)) => name.to_owned(),
            None => panic!("{line}"),
        })
        .collect()
}

fn promtool() -> Option<PathBuf> {
    let places = std::env::split_paths(&std::env::var_os("PATH")?).collect::<Vec<_>>();
    let ours = root().join("target/tools/bin");
    places.into_iter().chain([ours]).map(|place| place.join("promtool")).find(|file| file.exists())
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
