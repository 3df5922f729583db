//! Random rules, peers and routes, for the property tests of this room.
//!
//! Owns proptest strategies only. All draw from a small world, so that they often meet. Must never be part of a build
//! that is not a test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::types::{Destination, NextHop, NextHopType, Route, Vni};

/// The text of a file: rules that are written well, with comments and empty lines.
pub(super) fn file() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        12 => rule(),
        1 => Just(String::new()),
        1 => Just("  # permit".to_owned()),
        1 => rule().prop_map(|rule| format!("\t{rule}  # deny\r")),
    ];
    vec(line, 0..30).prop_map(|lines| lines.join("\n"))
}

/// A few bits differ: such addresses often lie in each other's networks.
pub(super) fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..4, 0u32..4).prop_map(|(high, low)| Ipv4Addr::from(high << 30 | low).into()),
        (0u128..4, 0u128..4).prop_map(|(high, low)| Ipv6Addr::from(high << 126 | low).into()),
        (0u32..4).prop_map(|low| Ipv4Addr::from(low).to_ipv6_mapped().into()),
    ]
}

pub(super) fn route() -> impl Strategy<Value = Route> {
    (address(), 0u8..=128, address(), vni(), -1i32..4).prop_map(
        |(prefix, length, address, target, kind)| Route {
            destination: Destination { prefix, length: length.min(bits(prefix)) },
            next_hop: NextHop {
                address,
                vni: Vni(target),
                kind: NextHopType(kind),
                nat_port_from: 0,
                nat_port_to: 0,
            },
        },
    )
}

pub(super) fn vni() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0u32..6, 1 => Just(u32::MAX)]
}

fn rule() -> impl Strategy<Value = String> {
    let lists = (
        list("peer", network().prop_map(|net| net.to_string()).boxed()),
        list("vni", range().boxed()),
        list("target-vni", prop_oneof![Just("own".to_owned()), range()].boxed()),
        list("destination", destinations().boxed()),
        list(
            "next-hop",
            prop_oneof![Just("own".to_owned()), network().prop_map(|net| net.to_string())].boxed(),
        ),
        list(
            "type",
            select(vec!["standard", "std", "nat", "lb", "-1", "3", "0"])
                .prop_map(str::to_owned)
                .boxed(),
        ),
    );
    (select(vec!["permit", "deny"]), lists).prop_flat_map(|(action, (a, b, c, d, e, f))| {
        Just(vec![a, b, c, d, e, f])
            .prop_shuffle()
            .prop_map(move |lists| format!("{action}{}", lists.concat()))
    })
}

/// Often not given at all.
fn list(word: &'static str, value: BoxedStrategy<String>) -> impl Strategy<Value = String> {
    let given = (vec(value, 1..4), select(vec![",", ", "]))
        .prop_map(move |(values, comma)| format!(" {word} {}", values.join(comma)));
    prop_oneof![2 => Just(String::new()), 1 => given]
}

fn range() -> impl Strategy<Value = String> {
    (vni(), vni()).prop_map(|(a, b)| match a == b {
        true => a.to_string(),
        false => format!("{}-{}", a.min(b), a.max(b)),
    })
}

fn network() -> impl Strategy<Value = IpNet> {
    let length = prop_oneof![0u8..4, 28u8..=34, 92u8..=98, 124u8..=128];
    (address(), length).prop_map(|(address, length)| {
        IpNet::new(address, length.min(bits(address))).unwrap().trunc()
    })
}

fn destinations() -> impl Strategy<Value = String> {
    (network(), any::<bool>(), 0u8..128, 0u8..128).prop_map(|(net, all, a, b)| {
        let (min, max) = (net.prefix_len(), net.max_prefix_len());
        let (a, b) = (a.clamp(min, max), b.clamp(min, max));
        match (all, a == b) {
            (true, _) => net.to_string(),
            (false, true) => format!("{net}{{{a}}}"),
            (false, false) => format!("{net}{{{}-{}}}", a.min(b), a.max(b)),
        }
    })
}

fn bits(address: IpAddr) -> u8 {
    IpNet::from(address).max_prefix_len()
}
