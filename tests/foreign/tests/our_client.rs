//! Our client through rustbond's server, beside one of rustbond's own clients.
//!
//! Owns what both must see. That server does not say that it reassembles, so our client handles it with
//! the care for servers of the field.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metalbond_uring::api::{Config, MetalBond, RouteClient, RouteError};
use metalbond_uring::internals::session::State;
use metalbond_uring::types::{Destination, NextHop, NextHopType, Vni};
use metalbond_uring_foreign::Rustbond;
use rustbond::{MetalBondServer, ServerConfig};

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<BTreeSet<String>>>);

impl Recorder {
    fn expect(&self, what: &str, expected: &BTreeSet<String>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while *self.0.lock().unwrap() != *expected {
            let known = self.0.lock().unwrap().len();
            assert!(Instant::now() < deadline, "waited in vain for {what}: {known} routes known");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn text(vni: Vni, to: Destination, via: NextHop) -> String {
    format!("{vni} {to} {via} {} {}-{}", via.kind, via.nat_port_from, via.nat_port_to)
}

impl RouteClient for Recorder {
    fn add_route(&mut self, v: Vni, d: Destination, h: NextHop) -> Result<(), RouteError> {
        self.0.lock().unwrap().insert(text(v, d, h));
        Ok(())
    }
    fn remove_route(&mut self, v: Vni, d: Destination, h: NextHop) -> Result<(), RouteError> {
        self.0.lock().unwrap().remove(&text(v, d, h));
        Ok(())
    }
}

fn hops() -> [NextHop; 3] {
    let standard: NextHop = "2001:db8::1".parse().unwrap();
    let nat =
        NextHop { kind: NextHopType::NAT, nat_port_from: 1000, nat_port_to: 2000, ..standard };
    [standard, nat, NextHop { kind: NextHopType::LOAD_BALANCER_TARGET, ..standard }]
}

fn node(address: &str) -> (MetalBond, Recorder) {
    let recorder = Recorder::default();
    let node = MetalBond::new(Config::default(), recorder.clone()).unwrap();
    node.add_peer(address, None).unwrap();
    (node, recorder)
}

#[test]
fn routes_pass_through_a_foreign_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // Free for a moment only; nobody else takes ports here meanwhile.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = MetalBondServer::start(address.to_string(), ServerConfig::default());
    let server = runtime.block_on(server).unwrap();
    let (announcer, _) = node(&address.to_string());
    let (subscriber, seen) = node(&address.to_string());
    let theirs = Rustbond::connect("rustbond's client", address);
    theirs.subscribe(7);
    subscriber.subscribe(Vni(7)).unwrap();
    let mut expected = BTreeSet::new();
    // More than the 16 KiB after which our client waits for an answer.
    for number in 0..1_000u32 {
        let to = format!("10.{}.{}.0/24", number >> 8, number & 255).parse().unwrap();
        for hop in hops() {
            announcer.announce_route(Vni(7), to, hop).unwrap();
            expected.insert(text(Vni(7), to, hop));
        }
    }
    seen.expect("all routes", &expected);
    let (gone, hop) = ("10.0.0.0/24".parse().unwrap(), hops()[1]);
    announcer.withdraw_route(Vni(7), gone, hop).unwrap();
    expected.remove(&text(Vni(7), gone, hop));
    seen.expect("a withdrawal", &expected);
    // It goes on sending what we do not want any more: that is kept from the route client, and there
    // when it is wanted again.
    subscriber.unsubscribe(Vni(7)).unwrap();
    seen.expect("nothing", &BTreeSet::new());
    subscriber.subscribe(Vni(7)).unwrap();
    seen.expect("all again", &expected);
    announcer.shutdown();
    seen.expect("the announcer's end", &BTreeSet::new());
    assert_eq!(subscriber.peer_state(&address.to_string()).unwrap(), State::Established);
    theirs.shut_down();
    runtime.block_on(server.shutdown()).unwrap();
}
