//! `loadgen --targets`: views across servers that are one, and across some that are none.
//!
//! Owns what is claimed of several servers. Two that know nothing of each other show that a run can fail; one
//! that listens at several addresses is the simplest that cannot.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "common/load.rs"]
mod load;

use std::net::{Ipv4Addr, SocketAddr};

use load::{Run, run};
use metalbond_uring::internals::io::{Server, ServerConfig};
use serde_json::Value;

/// Of each scenario that peers of several servers are made for: small sizes, and its peers.
const SCENARIOS: [(&str, u32); 6] = [
    ("--scenario mix --peers 30 --duration-s 1 --rate 100", 30),
    ("--scenario mesh --peers 30 --vnis 6", 30),
    ("--scenario join --announcers 4 --routes 100 --joiners 12", 16),
    ("--scenario churn --announcers 4 --subscribers 8 --routes 50 --rounds 3", 12),
    ("--scenario latency --announcers 4 --subscribers 8 --rate 200 --duration-s 1", 12),
    ("--scenario herd --peers 20 --vnis 4", 20),
];

/// A server at each of so many ports, at which peers have an address each: one connection, and a former one
/// that it has yet to close.
fn server(ports: usize) -> (Server, String) {
    let listen: Vec<SocketAddr> = (0..ports).map(|_| (Ipv4Addr::LOCALHOST, 0).into()).collect();
    let config =
        ServerConfig { listen, cores: 1, peers_per_address_max: 2, ..ServerConfig::default() };
    let server = Server::start(config).unwrap();
    let addresses: Vec<String> = server.local_addresses().iter().map(ToString::to_string).collect();
    (server, addresses.join(","))
}

/// A run that must find everything right. But without a fabric a peer that comes back is another peer: it may be
/// told of the routes of its former connection, and that they are gone.
#[track_caller]
fn right(arguments: &str) -> Run {
    let run = run(&format!("{arguments} --json"));
    let stages = run.stages();
    let comes_back = |stage: &Value| ["return", "herd"].contains(&stage["stage"].as_str().unwrap());
    for stage in &stages {
        for fault in load::FAULTS {
            let may_be = fault == "echoed" && comes_back(stage);
            assert!(may_be || stage[fault] == 0, "{fault} {}", run.all());
        }
        assert_eq!(stage["failure"], Value::Null, "{}", run.all());
    }
    assert_eq!(stages.last().unwrap()["stage"], "settle", "{}", run.all());
    let echoed = stages.iter().any(|stage| stage["echoed"] != 0);
    assert_eq!(run.code, Some(i32::from(echoed)), "{}", run.all());
    run
}

/// They do not tell each other anything: whoever is at one of them sees nothing of the other.
#[test]
fn views_are_compared_across_servers() {
    for (scenario, _) in SCENARIOS {
        let ((_a, a), (_b, b)) = (server(1), server(1));
        let run = run(&format!("{scenario} --targets {a},{b} --patience-s 2 --json"));
        run.failed_with("have not what they should: ");
        run.failed_with(" missing, 0 that should be gone");
        // Who lacks what, who announces it, and where both are.
        let first = run.stderr.split("First: ").nth(1).and_then(|said| said.split(';').next());
        let (lacks, announces) = first.unwrap().split_once(" (announced by ").unwrap();
        let is_at =
            |server: &str| [lacks, announces].map(|it| it.contains(&format!(" at {server}")));
        assert_eq!(is_at(&a), is_at(&b).map(|it| !it), "{first:?}");
        assert_ne!(is_at(&a)[0], is_at(&a)[1], "{first:?}");
    }
}

/// Where each peer is at both, they need no fabric: the peers announce and subscribe twice, from one address.
#[test]
fn dual_homed_peers_announce_and_subscribe_twice() {
    for (scenario, peers) in SCENARIOS {
        let ((_a, a), (_b, b)) = (server(1), server(1));
        let run = right(&format!("{scenario} --targets {a},{b} --dual {peers}"));
        assert!(
            run.stderr.starts_with(&format!(
                "loading the servers at {a}, {b}, with {peers} peers at two of them: "
            )),
            "{}",
            run.stderr
        );
        assert_eq!(run.stages()[0]["peers"], 2 * peers, "{}", run.all());
    }
    let ((_a, a), (_b, b)) = (server(1), server(1));
    // 30 peers in 4 of 6 VNIs each, 10 routes: to the 19 others of a VNI, twice.
    let all = right(&format!("--scenario mesh --peers 30 --vnis 6 --dual 30 --targets {a},{b}"));
    assert_eq!(all.stage("announce")["deliveries"], 30 * 4 * 10 * 19 * 2);
    // One that is not at both sees a half.
    let most = "--scenario mesh --peers 30 --vnis 6 --dual 29 --vni-base 7 --patience-s 2";
    run(&format!("{most} --targets {a},{b}")).failed_with(" missing, 0 that should be gone");
}

/// By its address servers know a peer again: it is the same at both.
#[test]
fn a_dual_homed_peer_has_one_address() {
    let allow = ["127.0.0.1/32", "127.1.0.1/32", "127.1.0.2/32"].map(|net| net.parse().unwrap());
    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let config = ServerConfig { listen, allow: allow.into(), ..ServerConfig::default() };
    let (a, b) = (Server::start(config.clone()).unwrap(), Server::start(config).unwrap());
    let (a, b) = (a.local_addr(), b.local_addr());
    right(&format!("--scenario mesh --peers 2 --dual 2 --targets {a},{b}"));
    run(&format!("--scenario mesh --peers 3 --dual 2 --vni-base 7 --targets {a},{b}"))
        .failed_with(" lost; first: peer 2 at ");
}

/// A server at three addresses is taken for three that tell each other all.
#[test]
fn servers_that_are_one() {
    for (scenario, _) in SCENARIOS {
        let (_server, list) = server(3);
        right(&format!("{scenario} --targets {list}"));
    }
}

/// It takes a peer's second connection for another peer, and so it sends each what the other one announces.
#[test]
fn own_routes_must_not_come_back_by_the_other_server() {
    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into(); 2];
    let server =
        Server::start(ServerConfig { listen, cores: 1, ..ServerConfig::default() }).unwrap();
    let addresses: Vec<String> = server.local_addresses().iter().map(ToString::to_string).collect();
    let list = addresses.join(",");
    let mesh = "--scenario mesh --peers 20 --vnis 4 --routes 3";
    let run = run(&format!("{mesh} --dual 2 --targets {list}"));
    // Two peers, 4 VNIs, 3 routes, two connections; and again for those that vanish.
    run.failed_with(" own routes that came back\n");
    run.failed_with(", which it announces itself");
    let json = load::run(&format!("{mesh} --vni-base 7 --dual 2 --targets {list} --json"));
    assert_eq!(json.stage("announce")["echoed"], 2 * 4 * 3 * 2, "{}", json.all());
    assert_eq!(json.stage("announce")["ok"], false);
    assert_eq!(json.stage("announce")["missing"], 0);
    // With one server it is allowed.
    right(&format!("{mesh} --vni-base 77 --targets {}", addresses[0]));
}

#[test]
fn servers_that_are_not_there() {
    let (_server, there) = server(1);
    let kept = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    kept.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let free = kept.local_addr().unwrap().as_socket().unwrap();
    let run = run(&format!("--peers 5 --targets {there},{free}"));
    run.failed_with(&format!("loadgen: nothing answers at {free}"));
}

/// Elsewhere than on IPv4's loopback no peer has an address of its own, and the servers must not go by it.
#[test]
fn servers_of_one_address_for_all_peers() {
    let listen = vec!["[::1]:0".parse().unwrap(); 2];
    let server =
        Server::start(ServerConfig { listen, cores: 1, ..ServerConfig::default() }).unwrap();
    let addresses: Vec<String> = server.local_addresses().iter().map(ToString::to_string).collect();
    let mesh = "--scenario mesh --peers 20 --vnis 4";
    let run = right(&format!("{mesh} --targets {}", addresses.join(",")));
    assert!(run.stderr.contains("the servers need --fabric-identity none\n"), "{}", run.stderr);
}
