//! Kernel routes in, changed and out: ours, `ip -batch`, and a request with its ack for each route,
//! in one run, in a network namespace of its own.
//!
//! Owns the measurement. Must never touch the namespace that it was started in.
//!
//! `METALBOND_BENCH_ROUTES` (default 5000) is the number of routes of each family,
//! `METALBOND_BENCH_ROUNDS` (default 1) how often all is measured: the best round counts.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../tests/common/netns.rs"]
#[allow(dead_code)]
mod netns;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use metalbond_uring::internals::kernel::{KernelConfig, KernelRoutes, NexthopObjects};
use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};
use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteIp6Tunnel, RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage,
    RouteProtocol, RouteType,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use netns::{TUNNEL, in_namespace, ip};

const TABLE: u32 = 100;
const VNI: Vni = Vni(7);
/// Distinct tunnel endpoints: thousands of routes share a few hundred hypervisors.
const HOPS: u32 = 300;
const PATIENCE: Duration = Duration::from_secs(600);
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

fn main() {
    let number = |name: &str, default: u32| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let routes = number("METALBOND_BENCH_ROUTES", 5000);
    let rounds = number("METALBOND_BENCH_ROUNDS", 1);
    in_namespace("kernel_routes", || {
        for family in ["IPv4", "IPv6"] {
            compare(family, routes, rounds);
        }
    });
}

/// Time of the three steps, and the kernel memory that the routes take.
#[derive(Clone, Copy)]
struct Measured {
    add: Duration,
    change: Duration,
    delete: Duration,
    slab_kib: u64,
}

type Method = fn(&str, u32) -> Measured;

fn compare(family: &str, routes: u32, rounds: u32) {
    let methods: [(&str, Method); 5] = [
        ("request and ack", request_ack),
        ("ip -batch", ip_batch),
        ("ip -batch, nhid", ip_batch_nhid),
        ("ours, own encap", |family, routes| ours(family, routes, NexthopObjects::Never)),
        ("ours, shared objects", |family, routes| ours(family, routes, NexthopObjects::Shared)),
    ];
    let mut best: Vec<Option<Measured>> = vec![None; methods.len()];
    for _ in 0..rounds {
        for (best, (_, method)) in best.iter_mut().zip(methods) {
            let new = method(family, routes);
            let old = best.unwrap_or(new);
            *best = Some(Measured {
                add: new.add.min(old.add),
                change: new.change.min(old.change),
                delete: new.delete.min(old.delete),
                slab_kib: new.slab_kib.min(old.slab_kib),
            });
        }
    }
    println!(
        "\n{routes} {family} routes, {HOPS} hops, best of {rounds}: us a route (x request and ack)"
    );
    println!("{:<22} {:>16} {:>16} {:>16} {:>12}", "", "add", "change", "delete", "slab B/route");
    let base = best[0].unwrap();
    for ((name, _), one) in methods.iter().zip(best.iter().flatten()) {
        let cell = |time: Duration, base: Duration| {
            let us = time.as_secs_f64() * 1e6 / f64::from(routes);
            format!("{us:.2} ({:.2}x)", base.as_secs_f64() / time.as_secs_f64())
        };
        println!(
            "{name:<22} {:>16} {:>16} {:>16} {:>12}",
            cell(one.add, base.add),
            cell(one.change, base.change),
            cell(one.delete, base.delete),
            one.slab_kib * 1024 / u64::from(routes),
        );
    }
    one_message(family, routes);
}

fn ours(family: &str, routes: u32, objects: NexthopObjects) -> Measured {
    let map = BTreeMap::from([(VNI, TABLE)]);
    let config = KernelConfig {
        resync: Duration::ZERO,
        nexthop_objects: objects,
        ..KernelConfig::new(TUNNEL, map)
    };
    let kernel = KernelRoutes::start(config).unwrap();
    assert!(kernel.settle(PATIENCE));
    let step = |work: &dyn Fn(u32)| {
        timed(|| {
            (0..routes).for_each(work);
            assert!(kernel.settle(PATIENCE));
        })
    };
    let route = |index, shift| route(family, index, shift);
    let before = slab_kib();
    let add = step(&|index| kernel.add(VNI, route(index, 0)));
    let slab_kib = slab_kib().saturating_sub(before);
    expect_routes(family, routes);
    // As a hypervisor that moves: the new hop comes, the old one goes.
    let change = step(&|index| {
        kernel.add(VNI, route(index, 1));
        kernel.remove(VNI, route(index, 0));
    });
    expect_routes(family, routes);
    let delete = step(&|index| kernel.remove(VNI, route(index, 1)));
    expect_routes(family, 0);
    let counters = kernel.counters();
    assert_eq!((counters.failed_refused, counters.failed_unknown), (0, 0), "{counters:?}");
    kernel.shutdown(PATIENCE);
    Measured { add, change, delete, slab_kib }
}

fn ip_batch(family: &str, routes: u32) -> Measured {
    let hop = |index, shift| format!("encap ip6 dst {} dev {TUNNEL}", hop(index, shift));
    batches(family, routes, hop)
}

fn ip_batch_nhid(family: &str, routes: u32) -> Measured {
    let option = if family == "IPv4" { "-4" } else { "-6" };
    for index in 0..HOPS {
        let address = hop(index, 0);
        ip(&format!("{option} nexthop add id {} encap ip6 dst {address} dev {TUNNEL}", index + 1));
    }
    let measured =
        batches(family, routes, |index, shift| format!("nhid {}", (index + shift) % HOPS + 1));
    ip("nexthop flush");
    measured
}

fn batches(family: &str, routes: u32, hop: impl Fn(u32, u32) -> String) -> Measured {
    let lines = |verb: &str, shift: Option<u32>| -> String {
        let line = |index: u32| {
            let hop = shift.map(|shift| hop(index, shift)).unwrap_or_default();
            format!("route {verb} {} {hop} table {TABLE} proto 254\n", destination(family, index))
        };
        (0..routes).map(line).collect()
    };
    let run = |lines: String| {
        let path = std::env::temp_dir().join(format!("kernel-routes-{}", std::process::id()));
        std::fs::write(&path, lines).unwrap();
        let time = timed(|| drop(ip(&format!("-batch {}", path.display()))));
        std::fs::remove_file(path).unwrap();
        time
    };
    let before = slab_kib();
    let add = run(lines("add", Some(0)));
    let slab_kib = slab_kib().saturating_sub(before);
    expect_routes(family, routes);
    let change = run(lines("replace", Some(1)));
    let delete = run(lines("del", None));
    expect_routes(family, 0);
    Measured { add, change, delete, slab_kib }
}

fn request_ack(family: &str, routes: u32) -> Measured {
    let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let link = link_index();
    let mut run = |kind: u16, flags: u16, shift: Option<u32>| {
        timed(|| {
            for index in 0..routes {
                request(&mut socket, kind, flags, &message(family, index, shift, link));
            }
        })
    };
    let before = slab_kib();
    let add = run(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, Some(0));
    let slab_kib = slab_kib().saturating_sub(before);
    expect_routes(family, routes);
    let change = run(RTM_NEWROUTE, NLM_F_REPLACE, Some(1));
    let delete = run(RTM_DELROUTE, 0, None);
    expect_routes(family, 0);
    Measured { add, change, delete, slab_kib }
}

/// What a change of one hop costs when all routes name one object.
fn one_message(family: &str, routes: u32) {
    let option = if family == "IPv4" { "-4" } else { "-6" };
    ip(&format!("{option} nexthop add id 1 encap ip6 dst fd00::1 dev {TUNNEL}"));
    let lines: String = (0..routes)
        .map(|index| {
            format!("route add {} nhid 1 table {TABLE} proto 254\n", destination(family, index))
        })
        .collect();
    let path = std::env::temp_dir().join(format!("kernel-routes-{}", std::process::id()));
    std::fs::write(&path, lines).unwrap();
    ip(&format!("-batch {}", path.display()));
    std::fs::remove_file(path).unwrap();
    let idle = timed(|| drop(ip("nexthop show id 1")));
    let replace = format!("{option} nexthop replace id 1 encap ip6 dst fd00::2 dev {TUNNEL}");
    let change = timed(|| drop(ip(&replace)));
    let delete = timed(|| drop(ip("nexthop del id 1")));
    expect_routes(family, 0);
    println!(
        "one object, all routes name it: its hop changed in {change:.1?}, it and all routes deleted \
         in {delete:.1?} (an `ip` that only shows it: {idle:.1?})"
    );
}

fn hop(index: u32, shift: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfd00 << 112 | u128::from((index + shift) % HOPS + 1))
}

fn destination(family: &str, index: u32) -> Destination {
    let (prefix, length): (IpAddr, u8) = if family == "IPv4" {
        (Ipv4Addr::from_bits(10 << 24 | index).into(), 32)
    } else {
        (Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(index) << 64).into(), 64)
    };
    Destination { prefix, length }
}

fn route(family: &str, index: u32, shift: u32) -> Route {
    let next_hop = NextHop {
        address: hop(index, shift).into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    Route { destination: destination(family, index), next_hop }
}

fn message(family: &str, index: u32, shift: Option<u32>, link: u32) -> RouteMessage {
    let destination = destination(family, index);
    let mut message = RouteMessage::default();
    message.header.address_family =
        if family == "IPv4" { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = destination.length;
    message.header.table = TABLE as u8;
    message.header.protocol = RouteProtocol::from(254);
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Destination(destination.prefix.into()), RouteAttribute::Oif(link)];
    if let Some(shift) = shift {
        message.attributes.push(RouteAttribute::EncapType(RouteLwEnCapType::Ip6));
        message.attributes.push(RouteAttribute::Encap(vec![
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Id(0)),
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination(hop(index, shift))),
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Source(Ipv6Addr::UNSPECIFIED)),
        ]));
    }
    message
}

fn request(socket: &mut Socket, kind: u16, flags: u16, message: &RouteMessage) {
    let mut header = NetlinkHeader::default();
    header.length = (16 + message.buffer_len()) as u32;
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut bytes = vec![0; 16 + message.buffer_len()];
    header.emit(&mut bytes[..16]);
    message.emit(&mut bytes[16..]);
    socket.send(&bytes, 0).unwrap();
    let mut answer = [0; 4096];
    let mut buffer = &mut answer[..];
    socket.recv(&mut buffer, 0).unwrap();
    let errno = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    assert_eq!(errno, 0, "{message:?}");
}

fn link_index() -> u32 {
    let shown = ip(&format!("-o link show {TUNNEL}"));
    shown.split(':').next().unwrap().parse().unwrap()
}

fn expect_routes(family: &str, expected: u32) {
    let option = if family == "IPv4" { "-4" } else { "-6" };
    let shown = netns::try_ip(&format!("{option} -o route show table {TABLE}")).unwrap_or_default();
    assert_eq!(shown.lines().count() as u32, expected);
}

fn slab_kib() -> u64 {
    std::thread::sleep(Duration::from_millis(300)); // what was freed is given back later
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let field = |name: &str| -> u64 {
        let line = meminfo.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    field("Slab:") + field("Percpu:")
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
