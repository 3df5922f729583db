//! Kernel routes against a real kernel, in network namespaces of their own.
//!
//! Owns scenes with a veth device as the tunnel device. `ip` is the judge: what it shows is what
//! there is.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "common/netns.rs"]
mod netns;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use metalbond_uring::internals::kernel::{
    Counters, KernelConfig, KernelError, KernelRoutes, NexthopObjects,
};
use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};
use netns::{Monitor, TUNNEL, in_namespace, ip, make_tunnel, try_ip};

const PATIENCE: Duration = Duration::from_secs(20);
const V: Vni = Vni(7);

fn config(map: &[(u32, u32)]) -> KernelConfig {
    let map: BTreeMap<Vni, u32> = map.iter().map(|(vni, table)| (Vni(*vni), *table)).collect();
    KernelConfig { resync: Duration::ZERO, ..KernelConfig::new(TUNNEL, map) }
}

fn start(config: KernelConfig) -> KernelRoutes {
    KernelRoutes::start(config).unwrap()
}

/// `prefix/length` through `hop`.
fn route(destination: &str, hop: &str) -> Route {
    let (prefix, length) = destination.split_once('/').unwrap();
    Route {
        destination: Destination {
            prefix: prefix.parse().unwrap(),
            length: length.parse().unwrap(),
        },
        next_hop: NextHop {
            address: hop.parse().unwrap(),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        },
    }
}

#[track_caller]
fn settle(routes: &KernelRoutes) -> Counters {
    assert!(routes.settle(PATIENCE), "not settled: {:?}", routes.counters());
    routes.counters()
}

#[track_caller]
#[allow(clippy::disallowed_methods)] // a test's patience
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Destination to tunnel endpoints of all routes of our protocol in a table, as `ip` shows them.
/// (Its JSON names both "dst", twice in one object, so the text is read.)
#[track_caller]
fn shown(family: &str, table: &str) -> BTreeMap<String, Vec<String>> {
    let Ok(text) = try_ip(&format!("{family} -o route show table {table}")) else {
        return BTreeMap::new(); // no such table yet
    };
    let mut routes = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains("proto 254")) {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "\\").collect();
        let value_of = |key: &str| -> Vec<String> {
            let pairs = words.windows(2).filter(|pair| pair[0] == key);
            pairs.map(|pair| pair[1].to_owned()).collect()
        };
        let endpoints = value_of("dst");
        let count = endpoints.len();
        assert_eq!(value_of("encap"), vec!["ip6"; count], "{line}");
        assert_eq!(value_of("dev"), vec![TUNNEL; count], "{line}");
        assert_eq!(value_of("id"), vec!["0"; count], "{line}");
        assert!(value_of("weight").iter().all(|weight| weight == "1"), "{line}");
        assert!(routes.insert(words[0].to_owned(), endpoints).is_none(), "twice: {text}");
    }
    routes
}

fn expected<const N: usize>(routes: [(&str, &[&str]); N]) -> BTreeMap<String, Vec<String>> {
    let owned = |hops: &[&str]| hops.iter().map(|hop| (*hop).to_owned()).collect();
    routes.iter().map(|(destination, hops)| ((*destination).to_owned(), owned(hops))).collect()
}

/// All ways to write routes.
const FORMS: [NexthopObjects; 2] = [NexthopObjects::Shared, NexthopObjects::Never];

#[test]
fn routes_come_change_and_go() {
    in_namespace("routes_come_change_and_go", || {
        for form in FORMS {
            let routes = start(KernelConfig { nexthop_objects: form, ..config(&[(7, 100)]) });
            let both = ["10.0.0.0/24", "2001:db8::/64"];
            let add = |hop: &str| both.map(|d| routes.add(V, route(d, hop)));
            let remove = |hop: &str| both.map(|d| routes.remove(V, route(d, hop)));
            let check = |hops: &[&str]| {
                let counters = settle(&routes);
                let hops_v6 = if form == NexthopObjects::Never { &hops[..1] } else { hops };
                assert_eq!(shown("-4", "100"), expected([("10.0.0.0/24", hops)]), "{form:?}");
                assert_eq!(shown("-6", "100"), expected([("2001:db8::/64", hops_v6)]), "{form:?}");
                assert_eq!((counters.installed, counters.failed_refused), (2, 0), "{counters:?}");
            };
            add("fd00::2");
            check(&["fd00::2"]);
            let monitor = Monitor::start();
            add("fd00::1");
            check(&["fd00::1", "fd00::2"]);
            add("fd00::1"); // again: nothing changes
            add("fd00::3");
            check(&["fd00::1", "fd00::2", "fd00::3"]);
            remove("fd00::1");
            remove("fd00::3");
            check(&["fd00::2"]);
            add("fd00::4");
            remove("fd00::2"); // another hop in one step
            check(&["fd00::4"]);
            assert_eq!(monitor.fewest("10.0.0.0/24", 1), 1, "{form:?}: a gap");
            assert_eq!(monitor.fewest("2001:db8::/64", 1), 1, "{form:?}: a gap");
            remove("fd00::4");
            assert_eq!(settle(&routes).installed, 0);
            assert_eq!((shown("-4", "100"), shown("-6", "100")), (expected([]), expected([])));
            assert_eq!(ip("nexthop show"), "", "{form:?}: objects are left over");
            routes.shutdown(PATIENCE);
        }
    });
}

#[test]
fn the_text_form_is_that_of_the_go_client() {
    in_namespace("the_text_form_is_that_of_the_go_client", || {
        let form = NexthopObjects::Never;
        let routes = start(KernelConfig { nexthop_objects: form, ..config(&[(7, 100_000)]) });
        routes.add(V, route("10.0.0.0/24", "fd00::1"));
        settle(&routes);
        assert_eq!(
            ip("route show table 100000").trim(),
            "10.0.0.0/24  encap ip6 id 0 src :: dst fd00::1 hoplimit 0 tc 0 dev tun0 proto 254"
        );
    });
}

#[test]
fn default_routes_and_the_same_hop_twice() {
    in_namespace("default_routes_and_the_same_hop_twice", || {
        let routes = start(config(&[(7, 100)]));
        for destination in ["0.0.0.0/0", "::/0"] {
            for kind in [NextHopType::STANDARD, NextHopType::LOAD_BALANCER_TARGET] {
                let mut route = route(destination, "fd00::1");
                route.next_hop.kind = kind;
                routes.add(V, route);
            }
        }
        settle(&routes);
        assert_eq!(shown("-4", "100"), expected([("default", &["fd00::1"])]));
        assert_eq!(shown("-6", "100"), expected([("default", &["fd00::1"])]));
    });
}

#[test]
fn foreign_routes_stay() {
    in_namespace("foreign_routes_stay", || {
        for form in FORMS {
            ip("-4 route add 10.1.0.0/24 dev tun0 table 100 proto static");
            ip("-6 route add 2001:db8:1::/64 dev tun0 table 100 proto static");
            let routes = start(KernelConfig { nexthop_objects: form, ..config(&[(7, 100)]) });
            for destination in ["10.1.0.0/24", "2001:db8:1::/64", "10.2.0.0/24"] {
                routes.add(V, route(destination, "fd00::1"));
                routes.add(V, route(destination, "fd00::2"));
            }
            let counters = settle(&routes);
            assert_eq!((counters.conflicts, counters.installed), (2, 1), "{counters:?}");
            assert!(ip("-4 route show table 100").contains("10.1.0.0/24 dev tun0 proto static"));
            assert!(
                ip("-6 route show table 100").contains("2001:db8:1::/64 dev tun0 proto static")
            );
            // A change of ours, and its end, leave them alone as well.
            for destination in ["10.1.0.0/24", "2001:db8:1::/64"] {
                routes.remove(V, route(destination, "fd00::1"));
            }
            settle(&routes);
            assert!(ip("-4 route show table 100").contains("10.1.0.0/24 dev tun0 proto static"));
            // When they go, ours come.
            ip("-4 route del 10.1.0.0/24 table 100");
            ip("-6 route del 2001:db8:1::/64 table 100");
            eventually("ours take their places", || routes.counters().installed == 3);
            assert_eq!(routes.counters().conflicts, 0);
            assert_eq!(shown("-4", "100")["10.1.0.0/24"], ["fd00::2"]);
            assert_eq!(shown("-6", "100")["2001:db8:1::/64"], ["fd00::2"]);
            routes.clear();
            settle(&routes);
        }
    });
}

#[test]
fn a_foreign_route_that_replaced_ours_stays() {
    in_namespace("a_foreign_route_that_replaced_ours_stays", || {
        let routes = start(config(&[(7, 100)]));
        routes.add(V, route("10.1.0.0/24", "fd00::1"));
        settle(&routes);
        ip("route replace 10.1.0.0/24 dev tun0 table 100 proto static");
        eventually("the conflict is seen", || routes.counters().conflicts == 1);
        routes.clear();
        settle(&routes);
        assert!(ip("route show table 100").contains("10.1.0.0/24 dev tun0 proto static"));
    });
}

#[test]
fn stale_routes_go_without_touching_wanted_ones() {
    in_namespace("stale_routes_go_without_touching_wanted_ones", || {
        for form in FORMS {
            let config = || KernelConfig { nexthop_objects: form, ..config(&[(7, 100), (8, 0)]) };
            let all = ["10.0.1.0/24", "10.0.2.0/24", "2001:db8:1::/64", "2001:db8:2::/64"];
            let first = start(config());
            for destination in all {
                first.add(V, route(destination, "fd00::1"));
                first.add(V, route(destination, "fd00::2"));
            }
            settle(&first);
            first.shutdown(PATIENCE);
            assert_eq!(shown("-4", "100").len() + shown("-6", "100").len(), 4, "they stay");
            // Not ours: another table, link, protocol.
            let encap = "encap ip6 dst fd00::9";
            ip(&format!("route add 10.9.1.0/24 {encap} dev tun0 table 101 proto 254"));
            ip(&format!("route add 10.9.2.0/24 {encap} dev peer0 table 100 proto 254"));
            ip(&format!("route add 10.9.3.0/24 {encap} dev tun0 table 100 proto static"));
            // As the Go client leaves them, and in another client's words.
            ip(&format!("route add 10.9.4.0/24 {encap} dev tun0 table 100 proto 254"));
            ip("route add 10.9.5.0/24 dev tun0 proto 254");

            let monitor = Monitor::start();
            let second = start(config());
            let kept = [all[0], all[2]];
            for destination in kept {
                second.add(V, route(destination, "fd00::1"));
                second.add(V, route(destination, "fd00::2"));
            }
            let counters = settle(&second);
            assert_eq!((counters.stale, counters.installed), (6, 6), "{form:?} {counters:?}");
            second.sweep();
            let counters = settle(&second);
            assert_eq!((counters.stale, counters.installed), (0, 2), "{form:?} {counters:?}");
            assert_eq!((counters.added, counters.replaced), (0, 0), "{form:?} {counters:?}");
            let hops: &[&str] = &["fd00::1", "fd00::2"];
            let hops_v6 = if form == NexthopObjects::Never { &hops[..1] } else { hops };
            assert_eq!(shown("-6", "100"), expected([(all[2], hops_v6)]));
            for destination in kept {
                let prefix = destination.split_once('/').unwrap().0;
                assert_eq!(monitor.lines_about(prefix), Vec::<String>::new(), "{form:?}: flaps");
            }
            assert!(ip("route show table 101").contains("10.9.1.0/24"));
            let table = ip("route show table 100");
            assert!(table.contains("10.9.2.0/24") && table.contains("10.9.3.0/24"), "{table}");
            assert!(table.contains("10.0.1.0/24") && !table.contains("10.0.2.0/24"), "{table}");
            assert!(!table.contains("10.9.4.0/24"), "{table}");
            assert!(!ip("route show table main").contains("10.9.5.0"));
            second.clear();
            settle(&second);
            for rest in ["10.9.1.0/24 table 101", "10.9.2.0/24 table 100", "10.9.3.0/24 table 100"]
            {
                ip(&format!("route del {rest}"));
            }
            assert_eq!(ip("nexthop show"), "");
        }
    });
}

#[test]
fn forms_change_without_a_gap() {
    in_namespace("forms_change_without_a_gap", || {
        let mut monitor = None;
        for form in [FORMS[1], FORMS[0], FORMS[1], FORMS[0], FORMS[1]] {
            let routes = start(KernelConfig { nexthop_objects: form, ..config(&[(7, 100)]) });
            for destination in ["10.0.1.0/24", "2001:db8:1::/64"] {
                routes.add(V, route(destination, "fd00::1"));
                routes.add(V, route(destination, "fd00::2"));
            }
            routes.sweep();
            let counters = settle(&routes);
            assert_eq!((counters.installed, counters.conflicts), (2, 0), "{form:?} {counters:?}");
            assert_eq!(shown("-4", "100")["10.0.1.0/24"], ["fd00::1", "fd00::2"], "{form:?}");
            routes.shutdown(PATIENCE);
            let monitor = monitor.get_or_insert_with(Monitor::start);
            assert_eq!(monitor.fewest("10.0.1.0/24", 1), 1, "a gap before {form:?}");
            assert_eq!(monitor.fewest("2001:db8:1::/64", 1), 1, "a gap before {form:?}");
        }
    });
}

#[test]
fn the_link_goes_and_comes_back() {
    in_namespace("the_link_goes_and_comes_back", || {
        for form in FORMS {
            let routes = start(KernelConfig { nexthop_objects: form, ..config(&[(7, 100)]) });
            for destination in ["10.0.1.0/24", "2001:db8:1::/64"] {
                routes.add(V, route(destination, "fd00::1"));
                routes.add(V, route(destination, "fd00::2"));
            }
            settle(&routes);
            let both = || (shown("-4", "100"), shown("-6", "100"));
            let before = both();
            assert_eq!((before.0.len(), before.1.len()), (1, 1));
            for round in 0..3 {
                ip("link del tun0");
                assert_eq!(both(), (expected([]), expected([])));
                routes.add(V, route("10.0.2.0/24", "fd00::3")); // meanwhile
                routes.remove(V, route("10.0.2.0/24", "fd00::3"));
                make_tunnel();
                eventually("routes are back on the new link", || both() == before);
                ip("link set tun0 down");
                if round == 1 {
                    eventually("it is noticed", || routes.counters().installed == 0);
                }
                ip("link set tun0 up");
                eventually("routes are back after down and up", || both() == before);
            }
            routes.clear();
            settle(&routes);
        }
    });
}

#[test]
fn host_bits_are_masked_and_spellings_share_a_route() {
    in_namespace("host_bits_are_masked_and_spellings_share_a_route", || {
        let routes = start(config(&[(7, 100), (8, 100)]));
        let spellings = ["10.0.23.7/24", "10.0.23.0/24", "2001:db8::7/64", "2001:db8::/64"];
        spellings.iter().for_each(|one| routes.add(V, route(one, "fd00::1")));
        routes.add(Vni(8), route("10.0.23.9/24", "fd00::1"));
        let both = || (shown("-4", "100"), shown("-6", "100"));
        let one = (
            expected([("10.0.23.0/24", &["fd00::1"])]),
            expected([("2001:db8::/64", &["fd00::1"])]),
        );
        settle(&routes);
        assert_eq!(both(), one);
        routes.remove(V, route(spellings[1], "fd00::1"));
        routes.remove(V, route(spellings[3], "fd00::1"));
        routes.remove(V, route(spellings[0], "fd00::1"));
        settle(&routes);
        assert_eq!(both(), one, "another spelling and another VNI want them");
        routes.remove(V, route(spellings[2], "fd00::1"));
        routes.remove(Vni(8), route("10.0.23.9/24", "fd00::1"));
        settle(&routes);
        assert_eq!(both(), (expected([]), expected([])));
    });
}

#[test]
fn what_cannot_be_installed_is_left_out_and_counted() {
    in_namespace("what_cannot_be_installed_is_left_out_and_counted", || {
        let routes = start(KernelConfig { ipv4_only: true, ..config(&[(7, 100)]) });
        for hop in ["9.9.9.9", "::", "ff02::1", "fd00::1"] {
            routes.add(V, route("10.0.1.0/24", hop));
        }
        routes.add(V, route("2001:db8::/64", "fd00::1"));
        routes.add(Vni(9), route("10.0.2.0/24", "fd00::1"));
        let mut odd = route("0.0.0.0/0", "fd00::1");
        odd.destination.length = 200;
        routes.add(V, odd);
        let counters = settle(&routes);
        assert_eq!(shown("-4", "100"), expected([("10.0.1.0/24", &["fd00::1"])]));
        assert_eq!(shown("-6", "100"), expected([]));
        let skipped = [
            counters.skipped_hop_ipv4,
            counters.skipped_hop_unspecified,
            counters.skipped_hop_multicast,
            counters.skipped_ipv6_destination,
            counters.skipped_no_table,
            counters.skipped_prefix_length,
        ];
        assert_eq!(skipped, [1; 6], "{counters:?}");
    });
}

#[test]
fn table_0_is_main_and_nothing_else() {
    in_namespace("table_0_is_main_and_nothing_else", || {
        ip("route add 10.9.1.0/24 encap ip6 dst fd00::9 dev tun0 table 100 proto 254");
        ip("route add 10.9.2.0/24 encap ip6 dst fd00::9 dev tun0 table main proto 254");
        let routes = start(config(&[(7, 0)]));
        routes.add(V, route("10.0.1.0/24", "fd00::1"));
        routes.sweep();
        settle(&routes);
        assert_eq!(shown("-4", "main"), expected([("10.0.1.0/24", &["fd00::1"])]));
        assert_eq!(shown("-4", "100"), expected([("10.9.1.0/24", &["fd00::9"])]));
        routes.clear();
        settle(&routes);
        assert_eq!(shown("-4", "main"), expected([]));
        assert_eq!(shown("-4", "100").len(), 1);
    });
}

#[test]
fn what_others_break_is_repaired() {
    in_namespace("what_others_break_is_repaired", || {
        let routes = start(config(&[(7, 100)])); // not verified but for a reason
        routes.add(V, route("10.0.1.0/24", "fd00::1"));
        routes.add(V, route("10.0.2.0/24", "fd00::1"));
        routes.add(V, route("10.0.2.0/24", "fd00::2"));
        routes.add(V, route("2001:db8::/64", "fd00::2"));
        settle(&routes);
        let both = || (shown("-4", "100"), shown("-6", "100"));
        let before = both();
        ip("route del 10.0.1.0/24 table 100");
        eventually("a deleted route is back", || both() == before);
        ip("route replace 10.0.1.0/24 encap ip6 dst fd00::66 dev tun0 table 100 proto 254");
        eventually("a changed route is as it was", || both() == before);
        ip("route add 10.0.3.0/24 encap ip6 dst fd00::1 dev tun0 table 100 proto 254");
        routes.sweep();
        eventually("a route that nobody wants is gone", || both() == before);
        // The kernel drops the routes with the objects.
        let repaired = routes.counters().repaired;
        ip("nexthop flush");
        eventually("new objects, and the routes are back", || {
            routes.counters().repaired > repaired && both() == before
        });
        assert!(routes.counters().repaired >= 5, "{:?}", routes.counters());
    });
}

#[test]
fn what_is_announced_again_changes_nothing() {
    in_namespace("what_is_announced_again_changes_nothing", || {
        let routes = start(config(&[(7, 100)]));
        for last in 0..50 {
            routes.add(V, route(&format!("10.0.{last}.0/24"), "fd00::1"));
        }
        settle(&routes);
        let monitor = Monitor::start();
        for last in 0..50 {
            routes.add(V, route(&format!("10.0.{last}.0/24"), "fd00::1"));
        }
        routes.remove(V, route("10.0.49.0/24", "fd00::1"));
        assert_eq!(settle(&routes).installed, 49);
        let seen = monitor.lines_about("10.0.");
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0].starts_with("Deleted 10.0.49.0/24"), "{seen:?}");
    });
}

#[test]
fn thousands_of_conflicts_and_refusals_lose_no_answer() {
    in_namespace("thousands_of_conflicts_and_refusals_lose_no_answer", || {
        for third in 0..3000 {
            let (high, low) = (third / 256, third % 256);
            if third % 2 == 0 {
                continue;
            }
            ip(&format!("route add 10.1.{high}.{low} dev tun0 table 100 proto static"));
        }
        let routes = start(config(&[(7, 100)]));
        for third in 0..3000 {
            let destination = format!("10.1.{}.{}/32", third / 256, third % 256);
            routes.add(V, route(&destination, &format!("fd00::{:x}", third % 100 + 1)));
        }
        let counters = settle(&routes);
        assert_eq!((counters.installed, counters.conflicts), (1500, 1500), "{counters:?}");
        assert_eq!((counters.failed_unknown, counters.verified), (0, 1), "{counters:?}");
        assert_eq!(counters.nexthops, 50, "of conflicting routes none is left over: {counters:?}");
    });
}

#[test]
fn too_many_hops_are_left_out() {
    in_namespace("too_many_hops_are_left_out", || {
        for (form, hops_max) in [
            (FORMS[0], 32),
            (FORMS[1], 32),
            (FORMS[0], 10_000), // 320: can be verified, though `ip` cannot show it
            (FORMS[1], 10_000),
        ] {
            let config = KernelConfig {
                nexthop_objects: form,
                resync: Duration::from_secs(1),
                hops_max,
                ..config(&[(7, 100)])
            };
            let routes = start(config);
            for hop in 1..=400 {
                routes.add(V, route("10.0.1.0/24", &format!("fd00::{hop:x}")));
                routes.add(V, route("2001:db8::/64", &format!("fd00::{hop:x}")));
            }
            settle(&routes);
            eventually("it is verified", || routes.counters().verified > 2);
            let counters = routes.counters();
            assert_eq!((counters.installed, counters.repaired), (2, 0), "{form:?} {counters:?}");
            assert!(counters.hops_left_out >= 400 - 320);
            if hops_max == 32 {
                assert_eq!(shown("-4", "100")["10.0.1.0/24"].len(), 32);
            }
            routes.clear();
            settle(&routes);
        }
    });
}

#[test]
fn bad_configurations_are_explained() {
    in_namespace("bad_configurations_are_explained", || {
        let named = |name: &str| KernelConfig { link_name: name.to_owned(), ..config(&[(7, 100)]) };
        let error = KernelRoutes::start(named("nosuch0")).unwrap_err();
        assert!(matches!(&error, KernelError::NoLink(name) if name == "nosuch0"), "{error}");
        assert!(error.to_string().contains("expected an existing tunnel device"), "{error}");
        for name in ["", &"a".repeat(128), "a/b", "a b"] {
            let error = KernelRoutes::start(named(name)).unwrap_err();
            assert!(matches!(error, KernelError::LinkName(_)), "{error}");
        }
        // SAFETY: the call takes no pointers. It changes the effective user of this thread alone,
        // which ends soon, and takes its capabilities away.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) }, 0);
        let error = KernelRoutes::start(config(&[(7, 100)])).unwrap_err();
        assert!(matches!(error, KernelError::NotPermitted), "{error}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}
