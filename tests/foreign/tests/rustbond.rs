//! rustbond's clients talk to each other through our server.
//!
//! Owns what they must see. Their library decodes and encodes on its own, so what both libraries get
//! wrong alike is all that this cannot find.

use std::time::Duration;

use metalbond_uring::internals::io::Server;
use metalbond_uring::types::Pace;
use metalbond_uring_foreign::*;
use rustbond::{NextHop, Route};

const KEEPALIVE_S: u32 = 60;
const NOTHING: [&Route; 0] = [];

/// One route of each kind, to IPv4 and IPv6 destinations.
fn every_kind() -> Vec<Route> {
    let hops = [
        NextHop::standard(underlay(1)),
        NextHop::standard_with_vni(underlay(1), 0xffff_ffff),
        NextHop::nat(underlay(2), 1024, 2047),
        // The same hop, but for its ports: another route.
        NextHop::nat(underlay(2), 2048, 65535),
        NextHop::load_balancer(underlay(3)),
    ];
    let prefixes =
        ["0.0.0.0/0", "10.1.2.3/32", "10.0.23.7/24", "::/0", "2001:db8:1::/64", "fd00::17/128"];
    let routes = |prefix| hops.clone().map(|hop| route(prefix, hop));
    prefixes.into_iter().flat_map(routes).collect()
}

/// Runs a test with one shard and with two, over IPv4 and IPv6, and with one peer on each.
fn everywhere(test: impl Fn(&Server, [std::net::SocketAddr; 2])) {
    for shards in [1, 2] {
        let server = serve(shards, Pace::RoutesPerS(10_000), KEEPALIVE_S);
        let [v4, v6] = [server.local_addresses()[0], server.local_addresses()[1]];
        assert!(v4.is_ipv4() && v6.is_ipv6());
        for addresses in [[v4, v4], [v6, v6], [v4, v6]] {
            test(&server, addresses);
        }
    }
}

#[test]
fn every_kind_of_route_arrives_and_goes() {
    everywhere(|_, [one, other]| {
        let announcer = Rustbond::connect("the announcer", one);
        let subscriber = Rustbond::connect("the subscriber", other);
        announcer.subscribe(100);
        subscriber.subscribe(100);
        let routes = every_kind();
        for route in &routes {
            announcer.announce(100, route);
        }
        // The same in another VNI, to which nobody subscribed.
        announcer.announce(101, &routes[0]);
        subscriber.expect("all routes", 100, &routes);
        let (gone, left) = routes.split_at(routes.len() / 2);
        for route in gone {
            announcer.withdraw(100, route);
        }
        subscriber.expect("half of them withdrawn", 100, left);
        for route in left {
            announcer.withdraw(100, route);
        }
        subscriber.expect("all of them withdrawn", 100, NOTHING);
        announcer.expect("none of its own", 100, NOTHING);
        subscriber.expect("nothing of the other VNI", 101, NOTHING);
        announcer.shut_down();
        subscriber.shut_down();
    });
}

#[test]
fn a_late_joiner_gets_the_table() {
    everywhere(|_, [one, other]| {
        let announcer = Rustbond::connect("the announcer", one);
        let routes = every_kind();
        let (first, later) = routes.split_at(routes.len() / 2);
        for route in first {
            announcer.announce(7, route);
        }
        let early = Rustbond::connect("the early one", one);
        early.subscribe(7);
        early.expect("the first half", 7, first);
        for route in later {
            announcer.announce(7, route);
        }
        announcer.withdraw(7, &routes[0]);
        let late = Rustbond::connect("the late one", other);
        late.subscribe(7);
        late.expect("the table", 7, &routes[1..]);
        early.expect("the same", 7, &routes[1..]);
        announcer.announce(7, &routes[0]);
        late.expect("one more", 7, &routes);
        announcer.vanish();
        late.expect("the end of it", 7, NOTHING);
    });
}

#[test]
fn who_vanishes_takes_its_routes_along() {
    everywhere(|_, [one, other]| {
        let first = Rustbond::connect("the first", one);
        let second = Rustbond::connect("the second", other);
        let watcher = Rustbond::connect("the watcher", other);
        for peer in [&first, &second, &watcher] {
            peer.subscribe(9);
        }
        let routes = every_kind();
        let (of_first, shared) = (&routes[..20], &routes[10..20]);
        for route in of_first {
            first.announce(9, route);
        }
        for route in &routes[10..] {
            second.announce(9, route);
        }
        watcher.expect("the routes of both", 9, &routes);
        first.expect("those of the second", 9, &routes[10..]);
        second.expect("those of the first", 9, of_first);
        first.vanish();
        watcher.expect("what the second still announces", 9, &routes[10..]);
        // Its own are not sent back to it, also where it was not the only one.
        second.expect("nothing of the first", 9, NOTHING);
        let first = Rustbond::connect("the first again", one);
        first.announce(9, &shared[0]);
        second.expect("what the first announces again", 9, [&shared[0]]);
        second.shut_down();
        watcher.expect("what the first announces again", 9, [&shared[0]]);
        first.shut_down();
        watcher.expect("nobody's routes", 9, NOTHING);
    });
}

#[test]
fn unsubscribing_ends_it_and_subscribing_begins_anew() {
    everywhere(|_, [one, other]| {
        let announcer = Rustbond::connect("the announcer", one);
        let subscriber = Rustbond::connect("the subscriber", other);
        let routes = every_kind();
        announcer.announce(0, &routes[0]);
        subscriber.announce(0, &routes[2]);
        subscriber.subscribe(0);
        announcer.subscribe(0);
        subscriber.expect("a route", 0, [&routes[0]]);
        subscriber.unsubscribe(0);
        subscriber.expect("none", 0, NOTHING);
        announcer.announce(0, &routes[1]);
        subscriber.expect("still none", 0, NOTHING);
        announcer.expect("that the unsubscribed one's announcement stays", 0, [&routes[2]]);
        subscriber.subscribe(0);
        subscriber.expect("the table", 0, &routes[..2]);
    });
}

#[test]
fn several_clients_see_each_other() {
    const CLIENTS: u16 = 12;
    let names: [&str; CLIENTS as usize] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"];
    for shards in [1, 2] {
        let server = serve(shards, Pace::RoutesPerS(10_000), KEEPALIVE_S);
        let own = |n: u16| {
            let hop = NextHop::standard(underlay(n));
            [route(&format!("10.0.{n}.0/24"), hop.clone()), route("0.0.0.0/0", hop)]
        };
        let vnis = |n: u16| [u32::from(n % 3), u32::from((n + 1) % 3)];
        let address = |n: u16| server.local_addresses()[usize::from(n % 2)];
        let mut clients: Vec<(u16, Rustbond)> = (0..CLIENTS)
            .map(|n| (n, Rustbond::connect(names[usize::from(n)], address(n))))
            .collect();
        for (n, client) in &clients {
            for vni in vnis(*n) {
                client.subscribe(vni);
                for route in own(*n) {
                    client.announce(vni, &route);
                }
            }
        }
        let check = |clients: &[(u16, Rustbond)]| {
            for (n, client) in clients {
                for vni in vnis(*n) {
                    let others = clients.iter().filter(|(m, _)| m != n && vnis(*m).contains(&vni));
                    let routes: Vec<Route> = others.flat_map(|(m, _)| own(*m)).collect();
                    client.expect("the routes of the others", vni, &routes);
                }
            }
        };
        check(&clients);
        clients.retain(|(n, _)| n % 4 != 1);
        check(&clients);
    }
}

#[test]
fn a_large_table_at_full_speed() {
    let routes: Vec<Route> = (0..5_000_u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            route(&format!("10.7.{high}.{low}/32"), NextHop::nat(underlay(n), n, n + 1))
        })
        .collect();
    for shards in [1, 2] {
        let server = serve(shards, Pace::Off, KEEPALIVE_S);
        let announcer = Rustbond::connect("the announcer", server.local_addresses()[0]);
        for route in &routes {
            announcer.announce(1, route);
        }
        let late = Rustbond::connect("the late one", server.local_addresses()[1]);
        late.subscribe(1);
        late.expect("the table", 1, &routes);
        announcer.vanish();
        late.expect("its end", 1, NOTHING);
    }
}

#[test]
fn keepalives_hold_the_session() {
    let server = serve(1, Pace::Off, 1);
    let announcer = Rustbond::connect("the announcer", server.local_addresses()[0]);
    let subscriber = Rustbond::connect("the subscriber", server.local_addresses()[1]);
    subscriber.subscribe(3);
    let routes = every_kind();
    announcer.announce(3, &routes[0]);
    // The hold time is 2.5 s at this interval.
    std::thread::sleep(Duration::from_secs(4));
    assert!(announcer.is_established() && subscriber.is_established());
    subscriber.expect("the route still", 3, [&routes[0]]);
}

#[test]
fn clients_come_back_after_a_restart() {
    let server = serve(2, Pace::Off, KEEPALIVE_S);
    let listen = server.local_addresses().iter().map(ToString::to_string).collect::<Vec<_>>();
    let announcer = Rustbond::connect("the announcer", server.local_addresses()[0]);
    let subscriber = Rustbond::connect("the subscriber", server.local_addresses()[1]);
    let routes = every_kind();
    for route in &routes {
        announcer.announce(5, route);
    }
    subscriber.subscribe(5);
    subscriber.expect("all routes", 5, &routes);
    server.join();
    subscriber.expect("that a lost connection's routes are gone", 5, NOTHING);
    let addresses = listen.iter().map(String::as_str).collect::<Vec<_>>();
    let _again = serve_at(&addresses, 2, Pace::Off, KEEPALIVE_S);
    announcer.wait_established();
    subscriber.wait_established();
    subscriber.expect("all routes again", 5, &routes);
}

#[test]
fn one_socket_for_both_families() {
    let server = serve_at(&["[::]:0"], 1, Pace::Off, KEEPALIVE_S);
    let port = server.local_addr().port();
    let address = |host: &str| format!("{host}:{port}").parse().expect("an address");
    let announcer = Rustbond::connect("the announcer", address("127.0.0.1"));
    let subscriber = Rustbond::connect("the subscriber", address("[::1]"));
    let routes = every_kind();
    announcer.announce(2, &routes[0]);
    subscriber.subscribe(2);
    subscriber.expect("a route", 2, [&routes[0]]);
}
