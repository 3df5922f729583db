//! A reflector's part in a fabric as operators see it: `/fabric.json`, `/readyz`, `/metrics`, `fabric status`,
//! `fabric forget`, the page and the log; and that its peers are served whatever NATS does.
//!
//! Owns what is claimed of these. Without a NATS server that is new enough most of it is skipped, loudly.
#![cfg(feature = "fabric")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::process::{Command, Output, Stdio};

use common::browser::Browser;
use common::http::wait_until;
use common::nats::{NatsServer, denying, old_server};
use common::openmetrics::Metrics;
use common::process::Process;
use common::served::Served;
use common::{add, route, subscribe};
use serde_json::{Value, json};

/// The shortest times that there are. All peers of a test come from one address.
const QUICK: [&str; 10] = [
    "--fabric-identity",
    "none",
    "--fabric-heartbeat",
    "1",
    "--fabric-lease",
    "2",
    "--fabric-restart-time",
    "1",
    "--cores",
    "1",
];

fn join(fabric: &str, name: &str) -> Served {
    join_for(fabric, name, 3)
}

/// The same; routes of the others stay for so long when they are gone.
fn join_for(fabric: &str, name: &str, stale_s: u32) -> Served {
    let stale = format!("--fabric-stale-time={stale_s}");
    let to = ["--fabric", fabric, "--fabric-name", name, &stale];
    Served::start(&[&to, &QUICK[..]].concat())
}

fn tool(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_metalbond-uring");
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn wait_for_state(served: &Served, state: &str) -> Value {
    wait_until(state, || {
        let told = served.json("/fabric.json");
        (told["state"] == state).then_some(told)
    })
}

/// The other reflector of that name, once it is in that state.
fn wait_for_other(served: &Served, name: &str, state: &str) -> Value {
    wait_until(state, || {
        let told = served.json("/fabric.json");
        let others = told["reflectors"].as_array().unwrap();
        others.iter().find(|it| it["name"] == name && it["state"] == state).cloned()
    })
}

fn metrics(served: &Served) -> Metrics {
    let (head, body) = served.ask("GET", "/metrics");
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    Metrics::read(&body)
}

/// What a peer announces reaches another peer of the same reflector.
fn assert_serves(served: &Served, number: u32) {
    let mut subscriber = served.peer(&subscribe(7));
    let route = route(7, number, number);
    let _announcer = served.peer(&add(&route));
    subscriber.read_until("an UPDATE", |peer| !peer.update_frames().is_empty());
}

#[test]
fn a_node_without_a_fabric_says_so() {
    let served = Served::start(&["--cores", "1"]);
    let (status, body) = served.refusal("/fabric.json");
    assert_eq!(
        (status.as_str(), body.as_str()),
        ("404", "this node belongs to no fabric (--fabric)\n")
    );
    assert_eq!(served.json("/summary.json")["fabric"], Value::Null);
    assert!(!metrics(&served).types.keys().any(|name| name.contains("fabric")));
    let output = tool(&["fabric", "status", "--http", &served.http.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("this node belongs to no fabric"), "{}", words(&output));
    assert_eq!(served.ask("GET", "/readyz").1, "ready\n");
}

/// Peers are served from the start; the fabric comes when NATS does, and goes with it.
#[test]
fn nats_may_come_later_and_go() {
    let Some(mut nats) = NatsServer::start() else { return };
    nats.kill();
    let served = join(&nats.fabric("main"), "rr-1");
    served.process.wait_for("cannot connect to nats://127.0.0.1:");
    assert_serves(&served, 1);
    let (status, body) = served.refusal("/readyz");
    assert_eq!(status, "503");
    assert!(
        body.starts_with("the fabric main is out of reach: cannot connect to nats://"),
        "{body}"
    );
    let told = served.json("/fabric.json");
    assert_eq!((&told["state"], &told["name"]), (&json!("unlinked"), &json!("rr-1")));
    assert_eq!(metrics(&served).samples["metalbond_fabric_linked"], 0.0);

    nats.run();
    let told = wait_for_state(&served, "synced");
    assert_eq!(told["trouble"], Value::Null);
    assert_eq!(told["stream"]["name"], "MB_main");
    assert_eq!(served.ask("GET", "/readyz").1, "ready\n");
    let seen = metrics(&served).samples;
    assert_eq!(seen["metalbond_fabric_linked"], 1.0);
    assert_eq!(seen["metalbond_fabric_synced"], 1.0);
    assert_eq!(served.json("/summary.json")["fabric"]["state"], "synced");

    nats.freeze(true);
    wait_for_state(&served, "unlinked");
    assert_serves(&served, 2);
    assert_eq!(served.refusal("/readyz").0, "503");
    nats.freeze(false);
    wait_for_state(&served, "synced");
}

#[test]
fn a_frozen_nats_keeps_nobody_from_ending() {
    let Some(nats) = NatsServer::start() else { return };
    let mut served = join(&nats.fabric("main"), "rr-1");
    wait_for_state(&served, "synced");
    nats.freeze(true);
    served.process.signal("TERM");
    assert!(served.process.exit_status().success());
    nats.freeze(false);
}

#[test]
fn a_server_that_is_too_old_is_refused_at_the_start() {
    let fabric = format!("nats://{}/main", old_server());
    let mut process = Process::serve(&["--cores", "1", "--fabric", &fabric, "--fabric-name", "a"]);
    assert_eq!(process.exit_status().code(), Some(1));
    let said = "metalbond-uring: fabric: the NATS server old is of version 2.9.10, which cannot carry a fabric: install nats-server 2.11";
    process.wait_for(said);
}

/// All of them are too old, whichever is tried first.
#[test]
fn servers_that_are_all_too_old_are_refused_at_the_start() {
    let fabric = format!("nats://{},{}/main", old_server(), old_server());
    let mut process = Process::serve(&["--cores", "1", "--fabric", &fabric, "--fabric-name", "a"]);
    assert_eq!(process.exit_status().code(), Some(1));
    process.wait_for("metalbond-uring: fabric: the NATS server old is of version 2.9.10");
}

/// Of the servers of a cluster some may be old: another one is tried, again and again.
#[test]
fn an_old_server_among_others_is_passed_over() {
    let Some(nats) = NatsServer::start() else { return };
    for _ in 0..3 {
        let served = join(&format!("nats://{},{}/main", old_server(), nats.host()), "rr-1");
        wait_for_state(&served, "synced");
    }
}

/// Whatever it is about to do at the engine.
#[test]
fn a_reflector_that_is_connecting_ends() {
    let denied = "publish: { deny: \"$JS.API.STREAM.INFO.>\" }";
    let Some(nats) = NatsServer::with(&denying(denied)) else { return };
    for wait_ms in [0, 100, 500, 1_000] {
        let mut served = join(&nats.fabric("main"), "rr-1");
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        served.process.signal("TERM");
        let status = served.process.exit_status();
        assert!(status.success(), "after {wait_ms} ms: {status} {}", served.process.log());
    }
}

/// What is not permitted is told in words, once for all routes; and no more when it is permitted.
#[test]
fn what_nats_forbids_is_said() {
    let denied = denying("publish: { deny: \"mb.main.r.>\" }");
    let Some(mut nats) = NatsServer::with(&denied) else { return };
    let served = join(&nats.fabric("main"), "rr-1");
    let routes: Vec<u8> = (0..50).flat_map(|number| add(&route(7, number, 1))).collect();
    let _announcer = served.peer(&routes);
    let trouble = wait_until("trouble", || {
        served.json("/fabric.json")["trouble"].as_str().map(ToOwned::to_owned)
    });
    let words = "does not permit these credentials to publish to mb.main.r.*.rr-1.>: ";
    assert!(trouble.contains(words), "{trouble}");
    served.process.wait_for(words);
    // It is tried again meanwhile.
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!(served.process.logged(words), 1, "{}", served.process.log());
    nats.reload(&denying("publish: { deny: \"mb.other.>\" }"));
    wait_for_state(&served, "synced");
    wait_until("no trouble any more", || {
        let told = served.json("/fabric.json");
        (told["trouble"].is_null() && told["dirty_keys"] == 0).then_some(())
    });
}

/// It is linked as long as it says so: nobody is to be alarmed by a restart.
#[test]
fn a_reflector_that_drains_is_linked() {
    let Some(nats) = NatsServer::start() else { return };
    let fabric = nats.fabric("main");
    let to = ["--fabric", &fabric, "--fabric-name", "a", "--drain-time", "60"];
    let served = Served::start(&[&to, &QUICK[..]].concat());
    wait_for_state(&served, "synced");
    let _peers: Vec<_> = (0..4).map(|_| served.peer(&subscribe(7))).collect();
    served.process.signal("TERM");
    wait_for_state(&served, "leaving");
    assert_eq!(metrics(&served).samples["metalbond_fabric_linked"], 1.0);
}

#[test]
fn what_is_no_credential_is_said_without_repeating_it() {
    let Some(nats) = NatsServer::start() else { return };
    let file = nats.folder().join("creds");
    std::fs::write(&file, "hunter2\n").unwrap();
    let file = file.display().to_string();
    let fabric = nats.fabric("main");
    let to = ["--fabric", &fabric, "--fabric-name", "a", "--fabric-creds", &file];
    let served = Served::start(&[&to, &QUICK[..]].concat());
    served.process.wait_for("it has neither NATS credentials");
    assert!(!served.process.log().contains("hunter2"), "{}", served.process.log());
    assert!(!served.json("/fabric.json").to_string().contains("hunter2"));
    assert_serves(&served, 1);
}

#[test]
fn others_are_seen_as_they_come_and_go_and_are_forgotten() {
    let Some(nats) = NatsServer::start() else { return };
    let fabric = nats.fabric("main");
    let (a, b) = (join_for(&fabric, "a", 60), join_for(&fabric, "b", 60));
    wait_for_other(&a, "b", "synced");
    wait_for_other(&b, "a", "synced");
    let forget = |name: &str, more: &[&str]| {
        let output = tool(&[&["fabric", "forget", name, "--fabric", &fabric], more].concat());
        (output.status.code(), words(&output))
    };
    let (code, said) = forget("b", &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("b lives (synced): end it first"), "{said}");
    let (code, said) = forget("nobody", &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("nothing is known of nobody"), "{said}");
    let output = tool(&["fabric", "forget", "a", "--fabric", &nats.fabric("other")]);
    assert!(words(&output).contains("there is no stream MB_other"), "{}", words(&output));
    wait_for_other(&a, "b", "synced");

    drop(b); // kill -9
    let stale = wait_for_other(&a, "b", "stale");
    assert!(stale["stale_for_s"].as_u64().unwrap() <= 60, "{stale}");
    let told = metrics(&a).samples;
    assert_eq!(told["metalbond_fabric_reflectors{state=\"synced\"}"], 0.0);
    assert_eq!(told["metalbond_fabric_records{reflector=\"b\"}"], 0.0);
    assert_eq!(forget("b", &[]), (Some(0), "forgot b: 0 routes removed\n".to_owned()));
    // It was removed: nobody has to look after it.
    wait_for_other(&a, "b", "gone");
    let told = metrics(&a).samples;
    let of = |state| told[&format!("metalbond_fabric_reflectors{{state=\"{state}\"}}")];
    assert_eq!((of("gone"), of("lost"), of("stale")), (1.0, 0.0, 0.0));

    let output = tool(&["fabric", "status", "--http", &a.http.to_string()]);
    let said = words(&output);
    assert!(output.status.success(), "{said}");
    for line in ["fabric ", "state ", "REFLECTOR", "b          gone"] {
        assert!(said.lines().any(|it| it.starts_with(line)), "{line}: {said}");
    }
}

/// Of two of one name the later one stays. The other one serves its peers all the same.
#[test]
fn the_elder_of_two_of_one_name_leaves() {
    let Some(nats) = NatsServer::start() else { return };
    let elder = join(&nats.fabric("main"), "rr-1");
    wait_for_state(&elder, "synced");
    let younger = join(&nats.fabric("main"), "rr-1");
    wait_for_state(&elder, "fenced");
    elder.process.wait_for("was started later, and this one has left the fabric");
    let trouble = elder.json("/fabric.json")["trouble"].clone();
    assert!(trouble.as_str().unwrap().contains("its own --fabric-name"), "{trouble}");
    let (status, body) = elder.refusal("/readyz");
    assert_eq!(status, "503");
    assert!(body.contains("with the same --fabric-name"), "{body}");
    assert_serves(&elder, 1);
    wait_for_state(&younger, "synced");
}

#[test]
fn the_page_has_a_panel_where_there_is_a_fabric() {
    let Some(browser) = Browser::start() else { return };
    let alone = Served::start(&["--cores", "1"]);
    browser.open(&format!("http://{}/", alone.http));
    browser.wait_for("document.querySelector('#tiles .value').textContent !== '–'");
    assert_eq!(browser.eval("getComputedStyle(document.querySelector('#fabric')).display"), "none");
    let Some(nats) = NatsServer::start() else { return };
    // The page asks every 5 s: what it is to show has to be so for longer.
    let join = |name| join_for(&nats.fabric("main"), name, 600);
    let (a, b) = (join("rr-a"), join("rr-b"));
    wait_for_other(&a, "rr-b", "synced");
    // It may be behind the other one.
    wait_for_state(&a, "synced");
    browser.open(&format!("http://{}/", a.http));
    browser.wait_for("document.querySelector('#fabric-reflectors tbody tr') !== null");
    let said = browser.eval("document.querySelector('#fabric-said').textContent");
    assert!(said.as_str().unwrap().contains("main: synced as rr-a"), "{said}");
    let cells = "[...document.querySelector('#fabric-reflectors tbody tr').cells].slice(0, 3).map(it => it.textContent)";
    assert_eq!(browser.eval(cells), json!(["rr-b", "synced", "0"]));
    let engine = "document.querySelector('#fabric-engine').textContent";
    let said = browser.eval(engine);
    let said = said.as_str().unwrap();
    assert!(said.starts_with("NATS ") && said.contains("own sign of life back"), "{said}");
    drop(b);
    browser.wait_for(
        "document.querySelector('#fabric-reflectors tbody').textContent.includes('stale')",
    );
    drop(nats);
    browser.wait_for(&format!("{engine}.includes('routes of others stay for')"));
    assert!(browser.eval(engine).as_str().unwrap().starts_with("no NATS server"));
    assert_eq!(browser.console(), Vec::<String>::new());
}
