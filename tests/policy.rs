//! What peers may announce: `--nexthop-policy`, `--announce-policy`, and SIGHUP, on the real program.
//!
//! Owns what is claimed of them in docs/POLICY.md. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use common::http::wait_until;
use common::process::{Process, run};
use common::{Peer, QUIET, add, hello, remove, route, subscribe};
use metalbond_uring::internals::wire::encode_update;
use metalbond_uring::types::{Action, Route, Vni};

const KEEPALIVE_S: u32 = 60;

/// A policy's file, replaced as an operator should: written beside, then renamed. Gone with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let name = format!("metalbond-policy-{}-{name}", std::process::id());
        let file = File(std::env::temp_dir().join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        let beside = self.0.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &self.0).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A server with this policy.
fn serve(file: &File) -> Process {
    Process::serve(&["--cores", "2", "--keepalive", "60", "--announce-policy", file.path()])
}

fn established(server: &Process) -> Peer {
    Peer::established(server.address(), KEEPALIVE_S, true)
}

/// A new policy counts from now on.
#[track_caller]
fn reload(server: &Process, file: &File, text: &str) {
    file.write(text);
    hang_up(server, "SIGHUP: the policy ");
}

/// SIGHUP, until a line more says these words.
#[track_caller]
fn hang_up(server: &Process, words: &str) {
    let before = server.logged(words);
    server.signal("HUP");
    wait_until(words, || (server.logged(words) > before).then_some(()));
}

fn routes(vni: u32, numbers: std::ops::Range<u32>) -> BTreeSet<Vec<u8>> {
    numbers.map(|number| route(vni, number, 1)).collect()
}

fn announced(routes: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    routes.iter().flat_map(|route| add(route)).collect()
}

/// Waits for a view, and that nothing else comes.
#[track_caller]
fn sees(peer: &mut Peer, view: &BTreeSet<Vec<u8>>) {
    peer.read_until("the view", |peer| peer.view == *view);
    peer.barrier();
    peer.settle(QUIET);
    assert!(peer.view == *view && !peer.closed);
    assert_eq!(peer.redundant, 0);
}

#[test]
fn refused_routes_are_seen_by_nobody() {
    let file = File::new("refused", "permit vni 7,9 destination 10.0.0.0/28\ndeny vni 9");
    let server = serve(&file);
    let mut early = established(&server);
    early.send(&[subscribe(7), subscribe(8), subscribe(9)].concat());
    early.barrier();
    let mut announcer = established(&server);
    for vni in [7, 8, 9] {
        announcer.send(&announced(&routes(vni, 0..32)));
    }
    announcer.barrier();
    let permitted: BTreeSet<_> = routes(7, 0..16).union(&routes(9, 0..16)).cloned().collect();
    sees(&mut early, &permitted);
    assert_eq!(early.updates, 32);
    // Who comes later is told the same.
    let mut late = established(&server);
    late.send(&[subscribe(7), subscribe(8), subscribe(9)].concat());
    sees(&mut late, &permitted);
    // What is refused is said, with the flag that says so.
    server.wait_for("since no rule permits it (--announce-policy)");
    server.wait_for("since a rule denies it (--announce-policy)");
    // The peer may withdraw what was refused, and go on.
    announcer.send(&remove(&route(8, 1, 1)));
    announcer.send(&remove(&route(7, 1, 1)));
    announcer.barrier();
    let permitted = permitted.into_iter().filter(|seen| *seen != route(7, 1, 1)).collect();
    sees(&mut early, &permitted);
    sees(&mut late, &permitted);
}

#[test]
fn a_hangup_changes_what_is_seen_and_no_session() {
    let file = File::new("hangup", "permit destination 10.0.0.0/28");
    let server = serve(&file);
    let (mut announcer, mut seeing) = (established(&server), established(&server));
    seeing.send(&subscribe(7));
    seeing.barrier();
    announcer.send(&announced(&routes(7, 0..32)));
    announcer.barrier();
    sees(&mut seeing, &routes(7, 0..16));
    let updates = seeing.updates;
    // 8 stay as they are, 8 go, 8 come.
    reload(&server, &file, "permit vni 7 destination 10.0.0.8/29{32}, 10.0.0.16/29");
    server.wait_for("SIGHUP: the policy has changed: 1 are new, 1 are gone");
    sees(&mut seeing, &routes(7, 8..24));
    assert_eq!(seeing.updates, updates + 16, "what is permitted by both is not touched");
    // The new one counts for what is announced now.
    announcer.send(&announced(&routes(7, 32..40)));
    announcer.barrier();
    sees(&mut seeing, &routes(7, 8..24));
    // The same again is nothing at all.
    reload(&server, &file, "# the same\npermit destination 10.0.0.16/29,10.0.0.8/29{32} vni 7\n");
    server.wait_for("SIGHUP: the policy is what it was");
    // All, then nothing: a file without rules says so.
    reload(&server, &file, "permit\n");
    sees(&mut seeing, &routes(7, 0..40));
    reload(&server, &file, "# permit\n");
    server.wait_for("has no rules: all that peers announce is refused");
    sees(&mut seeing, &BTreeSet::new());
    reload(&server, &file, "permit\n");
    sees(&mut seeing, &routes(7, 0..40));
    // The same sessions all the time.
    announcer.barrier();
    assert_eq!(server.logged(": established "), 2, "{}", server.log());
}

#[test]
fn a_wrong_file_changes_nothing() {
    let file = File::new("wrong", "permit vni 7");
    let server = serve(&file);
    let (mut announcer, mut seeing) = (established(&server), established(&server));
    seeing.send(&[subscribe(7), subscribe(8)].concat());
    announcer.send(&announced(&routes(7, 0..4)));
    announcer.barrier();
    sees(&mut seeing, &routes(7, 0..4));
    let stays = "SIGHUP: the former policy stays: ";
    file.write("permit vni 8\npermitt vni 9\n\ndeny type nta\n");
    hang_up(&server, stays);
    let said = server.log();
    // One line with all of it.
    let line = said.lines().find(|line| line.contains(stays)).unwrap();
    assert!(line.contains(r#"line 2: "permitt" is no rule"#), "{line}");
    assert!(line.contains(r#"line 4: type "nta""#), "{line}");
    std::fs::remove_file(&file.0).unwrap();
    hang_up(&server, stays);
    server.wait_for("No such file");
    std::fs::create_dir(&file.0).unwrap();
    hang_up(&server, stays);
    server.wait_for("it is no regular file");
    std::fs::remove_dir(&file.0).unwrap();
    // The former one counts, for what was said and for what is.
    announcer.send(&announced(&routes(7, 4..8)));
    announcer.send(&announced(&routes(8, 0..4)));
    announcer.barrier();
    sees(&mut seeing, &routes(7, 0..8));
    reload(&server, &file, "permit vni 8");
    sees(&mut seeing, &routes(8, 0..4));
}

/// However many there are and however fast they come, the last file counts.
#[test]
fn after_many_hangups_the_last_file_counts() {
    let file = File::new("many", "deny");
    let server = serve(&file);
    let (mut announcer, mut seeing) = (established(&server), established(&server));
    seeing.send(&[subscribe(7), subscribe(8)].concat());
    announcer.send(&announced(&routes(7, 0..2_000)));
    announcer.send(&announced(&routes(8, 0..2_000)));
    announcer.barrier();
    // It takes a while to read so many.
    let many: String = (0..20_000).map(|vni| format!("deny vni {}\n", 1_000 + vni)).collect();
    for round in 0..20 {
        let vni = 7 + round % 2;
        file.write(&format!("{many}permit vni {}", 15 - vni));
        server.signal("HUP");
        // Before that is read, amid it, or behind it.
        std::thread::sleep(Duration::from_millis(4 * u64::from(round)));
        file.write(&format!("permit vni {vni}"));
        server.signal("HUP");
        let view = routes(vni, 0..2_000);
        seeing.read_until("the view", |peer| peer.view == view);
        sees(&mut seeing, &view);
    }
    announcer.barrier();
}

#[test]
fn what_was_withdrawn_does_not_come_back() {
    let file = File::new("withdrawn", "deny");
    let server = serve(&file);
    let (mut announcer, mut seeing) = (established(&server), established(&server));
    let mut leaving = established(&server);
    seeing.send(&subscribe(7));
    seeing.barrier();
    let said = |numbers| announced(&routes(7, numbers));
    announcer.send(&said(0..8));
    leaving.send(&said(4..16));
    leaving.barrier();
    // Withdrawn; withdrawn and announced again; and withdrawn twice.
    for number in [0, 1, 2, 2] {
        announcer.send(&remove(&route(7, number, 1)));
    }
    announcer.send(&add(&route(7, 1, 1)));
    announcer.barrier();
    // Its end is in the log when it is over.
    drop(leaving);
    server.wait_for("reason=the peer closed the connection");
    seeing.barrier();
    reload(&server, &file, "permit");
    let left = [1, 3, 4, 5, 6, 7].map(|number| route(7, number, 1)).into();
    sees(&mut seeing, &left);
    // The other way round: withdrawn by policy, then by the peer, then permitted.
    reload(&server, &file, "deny");
    sees(&mut seeing, &BTreeSet::new());
    announcer.send(&remove(&route(7, 1, 1)));
    announcer.barrier();
    reload(&server, &file, "permit");
    let left = left.into_iter().filter(|seen| *seen != route(7, 1, 1)).collect();
    sees(&mut seeing, &left);
}

/// An UPDATE with the server's own encoder: this is not about frames.
fn update(vni: u32, destination: &str, hop: &str) -> Vec<u8> {
    let route = Route { destination: destination.parse().unwrap(), next_hop: hop.parse().unwrap() };
    let mut frame = Vec::new();
    encode_update(&mut frame, Action::Add, Vni(vni), &route);
    frame
}

fn established_from(from: &str, server: SocketAddr) -> Peer {
    let from: IpAddr = from.parse().unwrap();
    let mut peer = Peer::connect_from(from, server);
    peer.handshake(&hello(KEEPALIVE_S, false, true));
    peer
}

#[test]
fn next_hops_are_the_peers_own() {
    let hops = [
        "::1",
        "::2",
        "2001:db8::1",
        "127.0.0.1",
        "127.0.0.2",
        "127.9.9.9",
        "128.0.0.1",
        "::ffff:127.0.0.2",
    ];
    // The last one listens on IPv6, where the peer comes in IPv6 dress.
    for (policy, listen, from, permitted) in [
        ("any", "[::1]:0", "::1", &hops[..]),
        ("own-address", "[::1]:0", "::1", &["::1"]),
        ("own-prefix/64", "[::1]:0", "::1", &["::1", "::2", "::ffff:127.0.0.2"]),
        ("own-prefix/127", "[::1]:0", "::1", &["::1"]),
        ("own-address", "127.0.0.1:0", "127.0.0.2", &["127.0.0.2"]),
        ("own-prefix/8", "127.0.0.1:0", "127.0.0.2", &["127.0.0.1", "127.0.0.2", "127.9.9.9"]),
        ("own-prefix/64", "127.0.0.1:0", "127.0.0.2", &["127.0.0.2"]),
        ("own-address", "[::]:0", "127.0.0.2", &["127.0.0.2"]),
    ] {
        let server = Process::serve_at(
            listen,
            &["--cores", "1", "--keepalive", "60", "--nexthop-policy", policy],
        );
        let port = server.address().port();
        let to = if from == "::1" { "[::1]" } else { "127.0.0.1" };
        let address: SocketAddr = format!("{to}:{port}").parse().unwrap();
        let mut announcer = established_from(from, address);
        let mut seeing = Peer::established(address, KEEPALIVE_S, true);
        for hop in hops {
            announcer.send(&update(7, "10.0.0.0/8", hop));
        }
        announcer.barrier();
        seeing.send(&subscribe(7));
        // An UPDATE's payload is what a view has.
        let view = permitted.iter().map(|hop| update(7, "10.0.0.0/8", hop)[4..].to_vec());
        sees(&mut seeing, &view.collect());
        if permitted.len() < hops.len() {
            server.wait_for("the next hop is not the peer's own (--nexthop-policy)");
        }
    }
}

/// Who may announce a route is asked of each peer: it is visible as long as one may.
#[test]
fn peers_are_told_apart_by_their_addresses() {
    let file = File::new("peers", "permit peer 127.0.0.2 next-hop own,10.9.0.0/16");
    let arguments = ["--cores", "2", "--keepalive", "60", "--announce-policy", file.path()];
    let server = Process::serve_at("127.0.0.1:0", &arguments);
    let mut peers = ["127.0.0.2", "127.0.0.3"].map(|from| established_from(from, server.address()));
    let mut seeing = established(&server);
    for peer in &mut peers {
        peer.send(&update(7, "10.1.0.0/16", "10.9.0.1"));
        peer.send(&update(7, "10.1.0.0/16", "127.0.0.2"));
        peer.send(&subscribe(7));
        peer.barrier();
    }
    seeing.send(&subscribe(7));
    let view = |hops: &[&str]| -> BTreeSet<_> {
        hops.iter().map(|hop| update(7, "10.1.0.0/16", hop)[4..].to_vec()).collect()
    };
    // The first one is the only source of both, and does not see them.
    sees(&mut peers[0], &view(&[]));
    sees(&mut peers[1], &view(&["10.9.0.1", "127.0.0.2"]));
    sees(&mut seeing, &view(&["10.9.0.1", "127.0.0.2"]));
    // `own` is of each its own: 127.0.0.2 is not that of the second.
    reload(&server, &file, "permit peer 127.0.0.0/8 next-hop own\npermit peer 127.0.0.3");
    sees(&mut peers[0], &view(&["10.9.0.1", "127.0.0.2"]));
    sees(&mut peers[1], &view(&["127.0.0.2"]));
    sees(&mut seeing, &view(&["10.9.0.1", "127.0.0.2"]));
    let updates = seeing.updates;
    // Now the second one alone: who is neither hears of nothing.
    reload(&server, &file, "permit peer 127.0.0.3");
    sees(&mut peers[1], &view(&[]));
    sees(&mut seeing, &view(&["10.9.0.1", "127.0.0.2"]));
    assert_eq!(seeing.updates, updates);
}

#[test]
fn a_wrong_file_at_the_start_starts_nothing() {
    let file = File::new("start", "permit vni 1-\ndeny peers ::1\n");
    let start = |path: &str| {
        let (code, said) = run(&["--listen", "[::1]:0", "--announce-policy", path]);
        assert_eq!(code, Some(1), "{said}");
        said
    };
    let said = start(file.path());
    assert!(said.contains("line 1: vni \"1-\""), "{said}");
    assert!(said.contains("line 2: \"peers\" is no condition"), "{said}");
    assert!(said.contains("did you mean peer?"), "{said}");
    assert!(!said.contains("listening"), "{said}");
    let missing = start("/nonexistent/policy");
    assert!(missing.contains("cannot read the policy /nonexistent/policy"), "{missing}");
    assert_eq!(missing.matches("No such file").count(), 1, "told once: {missing}");
    for (flag, value) in [("--announce-policy", ""), ("--nexthop-policy", "own-prefix/0")] {
        let (code, said) = run(&["--listen", "[::1]:0", flag, value]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(&format!("{flag} takes ")), "{said}");
    }
}
