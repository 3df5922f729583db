//! Whose routes are whose: foreign routes of the same prefix, other clients on the same host, what a
//! former run has left, and devices whose names change.
//!
//! Owns scenes in network namespaces of their own. `ip` is the judge.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "common/netns.rs"]
#[allow(dead_code)]
mod netns;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use metalbond_uring::internals::kernel::{KernelConfig, KernelRoutes, NexthopObjects};
use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};
use netns::{Monitor, TUNNEL, in_namespace, ip, try_ip};

const PATIENCE: Duration = Duration::from_secs(20);
const V: Vni = Vni(7);
const V4: &str = "10.0.1.0/24";
const V6: &str = "2001:db8:1::/64";
const FORMS: [NexthopObjects; 2] = [NexthopObjects::Shared, NexthopObjects::Never];

/// Nothing is verified but for a reason, and nothing swept but when asked for.
fn config(link: &str, table: u32) -> KernelConfig {
    let map = BTreeMap::from([(V, table)]);
    KernelConfig { resync: Duration::ZERO, ..KernelConfig::new(link, map) }
}

fn start(link: &str, table: u32) -> KernelRoutes {
    KernelRoutes::start(config(link, table)).unwrap()
}

fn route(destination: &str, hop: &str) -> Route {
    let (prefix, length) = destination.split_once('/').unwrap();
    let destination =
        Destination { prefix: prefix.parse().unwrap(), length: length.parse().unwrap() };
    let next_hop = NextHop {
        address: hop.parse().unwrap(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    Route { destination, next_hop }
}

#[track_caller]
fn settle(routes: &KernelRoutes) {
    assert!(routes.settle(PATIENCE), "not settled: {:?}", routes.counters());
}

#[track_caller]
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "{what}: {:?}", lines("", "proto 254"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The lines with `what` among the routes of both families and all tables but `local`; or of one
/// table.
fn lines(table: &str, what: &str) -> Vec<String> {
    let table = if table.is_empty() { "all" } else { table };
    let show =
        |family| try_ip(&format!("{family} -o route show table {table}")).unwrap_or_default();
    let text = show("-4") + &show("-6");
    text.lines().filter(|line| line.contains(what)).map(|line| line.trim().to_owned()).collect()
}

fn ours(table: &str) -> Vec<String> {
    lines(table, "proto 254")
}

fn second_tunnel() {
    ip("link add tun1 type veth peer name peer1");
    ip("link set peer1 up");
    ip("link set tun1 up");
}

#[test]
fn foreign_routes_of_our_prefixes_survive_all_that_we_do() {
    in_namespace("foreign_routes_of_our_prefixes_survive_all_that_we_do", || {
        for form in FORMS {
            for prefix in [V4, V6] {
                let family = if prefix == V4 { "-4" } else { "-6" };
                for put in ["prepend", "append", "replace", "prepend blackhole", "append blackhole"]
                {
                    let case = format!("{form:?} {prefix} {put}");
                    let config = KernelConfig { nexthop_objects: form, ..config(TUNNEL, 100) };
                    let routes = KernelRoutes::start(config).unwrap();
                    routes.add(V, route(prefix, "fd00::1"));
                    settle(&routes);
                    let (verb, kind) = put.split_once(' ').unwrap_or((put, ""));
                    let through = if kind.is_empty() { "dev peer0" } else { "" };
                    ip(&format!(
                        "{family} route {verb} {kind} {prefix} {through} table 100 proto 77"
                    ));
                    let foreign = lines("100", "proto 77");
                    assert_eq!(foreign.len(), 1, "{case}");
                    // At once, before anybody can have heard of it; and when it is known.
                    for hop in ["fd00::2", "fd00::3", "fd00::4"] {
                        routes.add(V, route(prefix, hop));
                        settle(&routes);
                        assert_eq!(lines("100", "proto 77"), foreign, "{case} {hop}");
                        assert!(ours("100").len() <= 1, "{case}: {:?}", ours("100"));
                        std::thread::sleep(Duration::from_millis(70));
                    }
                    for hop in ["fd00::1", "fd00::2", "fd00::3", "fd00::4"] {
                        routes.remove(V, route(prefix, hop));
                        settle(&routes);
                        assert_eq!(lines("100", "proto 77"), foreign, "{case} {hop}");
                    }
                    assert_eq!(ours("100"), [""; 0], "{case}");
                    ip(&format!("{family} route del {prefix} table 100 proto 77"));
                    eventually("no objects are left", || ip("nexthop show").is_empty());
                }
            }
        }
    });
}

#[test]
fn what_counts_goes_on_counting_in_ipv4() {
    in_namespace("what_counts_goes_on_counting_in_ipv4", || {
        let routes = start(TUNNEL, 100);
        for (put, is_ours_first) in [("append", true), ("prepend", false)] {
            routes.add(V, route(V4, "fd00::1"));
            settle(&routes);
            ip(&format!("route {put} {V4} dev peer0 table 100 proto 77"));
            eventually("it is noticed", || routes.counters().shared == 1);
            routes.add(V, route(V4, "fd00::2"));
            settle(&routes);
            let first = ip("-o route show table 100").lines().next().unwrap().to_owned();
            assert_eq!(first.contains("proto 254"), is_ours_first, "{first}");
            ip(&format!("route del {V4} table 100 proto 77"));
            eventually("it is noticed", || routes.counters().shared == 0);
            routes.clear();
            settle(&routes);
        }
    });
}

#[test]
fn ours_come_in_when_a_foreign_route_goes_and_go_on_when_it_takes_their_place() {
    let name = "ours_come_in_when_a_foreign_route_goes_and_go_on_when_it_takes_their_place";
    in_namespace(name, || {
        let routes = start(TUNNEL, 100);
        for (family, prefix) in [("-4", V4), ("-6", V6)] {
            routes.add(V, route(prefix, "fd00::1"));
            settle(&routes);
            ip(&format!("{family} route replace {prefix} dev peer0 table 100 proto 77"));
            eventually("the conflict is seen", || routes.counters().conflicts == 1);
            ip(&format!("{family} route del {prefix} table 100 proto 77"));
            eventually("ours is back", || routes.counters().conflicts == 0);
            assert_eq!(ours("100").iter().filter(|line| line.contains(prefix)).count(), 1);
        }
    });
}

#[test]
fn our_own_changes_and_those_of_others_elsewhere_cost_no_verification() {
    let name = "our_own_changes_and_those_of_others_elsewhere_cost_no_verification";
    in_namespace(name, || {
        let routes = start(TUNNEL, 100);
        let destination = |n: u32| format!("10.1.{}.{}/32", n / 256, n % 256);
        for hop in ["fd00::1", "fd00::2"] {
            (0..2000).for_each(|n| routes.add(V, route(&destination(n), hop)));
            settle(&routes);
        }
        for n in 0..50 {
            ip(&format!("route add 10.9.0.{n} dev peer0 table 100 proto 77"));
            ip(&format!("route add 10.1.0.{n} dev peer0 table 101 proto 77"));
        }
        (0..2000).for_each(|n| routes.remove(V, route(&destination(n), "fd00::1")));
        settle(&routes);
        std::thread::sleep(Duration::from_millis(300));
        settle(&routes);
        let counters = routes.counters();
        assert_eq!((counters.installed, counters.verified), (2000, 1), "{counters:?}");
        // A change that matters is heard of through the same socket.
        ip("route del 10.1.0.1 table 100");
        eventually("it is repaired", || routes.counters().repaired == 1);
    });
}

#[test]
fn another_client_on_the_same_host_is_left_alone() {
    in_namespace("another_client_on_the_same_host_is_left_alone", || {
        second_tunnel();
        // Other device and tables; the same device; the same table.
        for (link, table) in [("tun1", 200), (TUNNEL, 200), ("tun1", 100)] {
            let theirs = |prefix: &str| prefix.replace(".1.", ".2.").replace(":1:", ":2:");
            let both = [V4, V6];
            let first = start(TUNNEL, 100);
            both.iter().for_each(|prefix| first.add(V, route(prefix, "fd00::1")));
            settle(&first);
            let second = start(link, table);
            both.iter().for_each(|prefix| second.add(V, route(&theirs(prefix), "fd00::1")));
            settle(&second);
            let all = ours("");
            assert_eq!(all.len(), 4, "{all:?}");
            assert_eq!(second.counters().stale, 0, "the first one's are no former run's");
            let monitor = Monitor::start();
            second.sweep();
            first.sweep();
            settle(&second);
            settle(&first);
            assert_eq!(ours(""), all, "{link} {table}");
            // One of them ends and leaves its routes; the other one starts again, and cleans up.
            second.shutdown(PATIENCE);
            first.sweep();
            settle(&first);
            assert_eq!(ours(""), all, "{link} {table}: they stay");
            let second = start(link, table);
            both.iter().for_each(|prefix| second.add(V, route(&theirs(prefix), "fd00::1")));
            second.sweep();
            settle(&second);
            assert_eq!(second.counters().added, 0, "taken over");
            assert_eq!(ours(""), all);
            assert_eq!(monitor.lines_about("10.0."), [""; 0], "nothing flapped");
            assert_eq!(monitor.lines_about("2001:db8:"), [""; 0], "nothing flapped");
            first.clear();
            settle(&first);
            assert_eq!(ours("").len(), 2, "{link} {table}");
            first.shutdown(PATIENCE);
            second.clear();
            settle(&second);
            assert_eq!((ours(""), ip("nexthop show")), (Vec::new(), String::new()));
        }
    });
}

#[test]
fn a_prefix_that_another_client_has_is_waited_for() {
    in_namespace("a_prefix_that_another_client_has_is_waited_for", || {
        second_tunnel();
        let first = start(TUNNEL, 100);
        let second = start("tun1", 100);
        for routes in [&first, &second] {
            [V4, V6].iter().for_each(|prefix| routes.add(V, route(prefix, "fd00::1")));
            settle(routes);
        }
        assert_eq!(second.counters().conflicts, 2);
        assert!(ours("").iter().all(|line| line.contains("dev tun0 ")), "{:?}", ours(""));
        first.clear();
        settle(&first);
        eventually("the second one's come in", || second.counters().installed == 2);
        assert!(ours("").iter().all(|line| line.contains("dev tun1 ")), "{:?}", ours(""));
    });
}

#[test]
fn objects_that_others_delete_are_made_again() {
    in_namespace("objects_that_others_delete_are_made_again", || {
        let routes = start(TUNNEL, 100);
        routes.add(V, route(V4, "fd00::1")); // the kernel drops IPv4 routes without a word
        settle(&routes);
        for times in 1..=3 {
            ip("nexthop flush");
            // That it was gone is seen by the repair: it may be back at once.
            eventually("it is back", || routes.counters().repaired == times && ours("").len() == 1);
        }
        let counters = routes.counters();
        assert_eq!((counters.repaired, counters.failed_refused), (3, 0), "{counters:?}");
    });
}

#[test]
fn a_run_that_starts_before_the_former_one_ends_takes_over() {
    in_namespace("a_run_that_starts_before_the_former_one_ends_takes_over", || {
        let first = start(TUNNEL, 100);
        for prefix in [V4, V6, "10.0.3.0/24"] {
            first.add(V, route(prefix, "fd00::1"));
        }
        settle(&first);
        let second = start(TUNNEL, 100);
        second.add(V, route(V4, "fd00::1"));
        second.add(V, route(V6, "fd00::2"));
        second.sweep();
        settle(&second);
        assert_eq!(second.counters().conflicts, 2);
        assert_eq!(ours("").len(), 3, "the former one is still there");
        first.shutdown(PATIENCE);
        eventually("taken over", || second.counters().installed == 2 && ours("").len() == 2);
        second.clear();
        settle(&second);
        assert_eq!((ours(""), ip("nexthop show")), (Vec::new(), String::new()));
    });
}

#[test]
fn another_device_or_table_after_a_restart() {
    in_namespace("another_device_or_table_after_a_restart", || {
        second_tunnel();
        for (link, table) in [(TUNNEL, 200), ("tun1", 100), ("tun1", 200)] {
            for with_cleanup in [false, true] {
                let first = start(TUNNEL, 100);
                for prefix in [V4, V6, "10.0.3.0/24"] {
                    first.add(V, route(prefix, "fd00::1"));
                    first.add(V, route(prefix, "fd00::2"));
                }
                settle(&first);
                first.shutdown(PATIENCE);
                let second = start(link, table);
                second.add(V, route(V4, "fd00::1"));
                settle(&second);
                // The wanted one is where it should be, before the sweep already.
                let here = |line: &String| line.contains(V4) && line.contains(link);
                assert!(ours(&table.to_string()).iter().any(here), "{:?}", ours(""));
                if with_cleanup {
                    second.clear();
                    settle(&second);
                    assert_eq!((ours(""), ip("nexthop show")), (Vec::new(), String::new()));
                    continue;
                }
                second.sweep();
                settle(&second);
                assert_eq!(ours("").len(), 1, "{link} {table}: {:?}", ours(""));
                assert_eq!(ip("nexthop show").lines().count(), 1, "{}", ip("nexthop show"));
                second.clear();
                settle(&second);
            }
        }
    });
}

#[test]
fn routes_follow_the_name_of_the_device() {
    in_namespace("routes_follow_the_name_of_the_device", || {
        second_tunnel();
        for form in FORMS {
            let config = KernelConfig { nexthop_objects: form, ..config(TUNNEL, 100) };
            let routes = KernelRoutes::start(config).unwrap();
            for prefix in [V4, V6] {
                routes.add(V, route(prefix, "fd00::1"));
                routes.add(V, route(prefix, "fd00::2"));
            }
            settle(&routes);
            let index =
                || ip(&format!("-o link show {TUNNEL}")).split(':').next().unwrap().to_owned();
            let is_right = || {
                let all = ours("");
                all.len() == 2 && all.iter().all(|line| line.contains("dev tun0 "))
            };
            assert!(is_right(), "{:?}", ours(""));
            let before = index();
            ip("link set tun0 name tmp0");
            ip("link set tun1 name tun0");
            ip("link set tmp0 name tun1");
            assert_ne!(index(), before);
            eventually("names swapped", is_right);
            ip("link set tun0 name away0");
            eventually("the name is gone", || ours("").is_empty());
            ip("link set away0 name tun0");
            eventually("the name is back", is_right);
            ip("link del tun0");
            ip("link set tun1 name tun0");
            eventually("another takes the name of one that is gone", is_right);
            second_tunnel();
            routes.clear();
            settle(&routes);
            assert_eq!((ours(""), ip("nexthop show")), (Vec::new(), String::new()), "{form:?}");
        }
    });
}

#[test]
fn a_device_may_be_named_by_an_alternative_name() {
    in_namespace("a_device_may_be_named_by_an_alternative_name", || {
        let name = "the-overlay-network-s-tunnel";
        ip(&format!("link property add dev {TUNNEL} altname {name}"));
        let routes = start(name, 100);
        routes.add(V, route(V4, "fd00::1"));
        settle(&routes);
        assert_eq!(ours("").len(), 1);
        ip("link del tun0");
        eventually("it is gone", || ours("").is_empty());
        netns::make_tunnel();
        ip(&format!("link property add dev {TUNNEL} altname {name}"));
        eventually("it is back", || ours("").len() == 1);
    });
}

#[test]
fn cleaning_up_needs_no_device() {
    in_namespace("cleaning_up_needs_no_device", || {
        for harm in ["link set tun0 down", "link set peer0 down", "link del tun0"] {
            for form in FORMS {
                let config = KernelConfig { nexthop_objects: form, ..config(TUNNEL, 100) };
                let routes = KernelRoutes::start(config).unwrap();
                for prefix in [V4, V6] {
                    routes.add(V, route(prefix, "fd00::1"));
                    routes.add(V, route(prefix, "fd00::2"));
                }
                settle(&routes);
                ip(harm);
                routes.clear();
                settle(&routes);
                let left = (ours(""), ip("nexthop show"));
                assert_eq!(left, (Vec::new(), String::new()), "{harm} {form:?}");
                assert_eq!(routes.counters().installed, 0);
                let _ = try_ip("link del tun0");
                netns::make_tunnel();
            }
        }
    });
}
