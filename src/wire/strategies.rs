//! Random messages and random bytes, for the property tests of this module.
//!
//! Owns proptest strategies only. Must never be part of a build that is not a test.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::message::{Hello, Message};
use super::update::Update;
use crate::types::{Action, Destination, NextHop, NextHopType, Route, Vni};

/// An UPDATE that is valid as it is: its own decoding equals it.
pub(crate) fn valid_update() -> impl Strategy<Value = Update> {
    let action = select(vec![Action::Add, Action::Remove]);
    (action, number(), destination(), next_hop()).prop_map(
        |(action, vni, destination, next_hop)| Update {
            action,
            vni: Vni(vni),
            route: Route { destination, next_hop },
        },
    )
}

/// Any valid message.
pub(super) fn valid_message() -> impl Strategy<Value = Message> {
    let hello = (1u32.., any::<bool>(), any::<bool>()).prop_map(
        |(keepalive_interval_s, is_server, reassembles)| {
            Message::Hello(Hello { keepalive_interval_s, is_server, reassembles })
        },
    );
    prop_oneof![
        hello,
        Just(Message::Keepalive),
        number().prop_map(|vni| Message::Subscribe(Vni(vni))),
        number().prop_map(|vni| Message::Unsubscribe(Vni(vni))),
        valid_update().prop_map(Message::Update),
    ]
}

/// Cuts `bytes` into chunks at random places.
pub(super) fn chunks<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Bytes that look much like an UPDATE: its fields in any order, repeated, left out, of the wrong
/// type, in overlong varints, among unknown fields and groups. About 70 % can be read, though few name
/// a route.
pub(super) fn update_like() -> impl Strategy<Value = Vec<u8>> {
    let destination = prop_oneof![
        6 => field(1, 0, varint(select(vec![0, 1, 1, 2, u64::MAX]))),
        12 => field(2, 2, bytes_field()),
        12 => field(3, 0, varint(select(vec![0, 24, 32, 33, 64, 128, 129, 1 << 32 | 8]))),
        1 => noise(),
    ];
    let next_hop = prop_oneof![
        12 => field(1, 2, bytes_field()),
        4 => field(2, 0, varint(any::<u64>())),
        4 => field(3, 0, varint(select(vec![0, 1, 1, 2, 3, u64::MAX, 1 << 32 | 1]))),
        4 => field(4, 0, varint(select(vec![0, 1, 65535, 65536, 1 << 32]))),
        4 => field(5, 0, varint(select(vec![0, 1, 65535, 65536, 1 << 32]))),
        1 => noise(),
    ];
    let update = prop_oneof![
        4 => field(1, 0, varint(select(vec![0, 1, 1, 2, u64::MAX, 1 << 32 | 1]))),
        4 => field(2, 0, varint(any::<u64>())),
        8 => field(3, 2, vec(destination, 0..5).prop_map(delimited)),
        8 => field(4, 2, vec(next_hop, 0..5).prop_map(delimited)),
        1 => noise(),
    ];
    vec(update, 0..7).prop_map(|fields| fields.concat())
}

/// Bytes that look much like a HELLO or a subscription, in the same way.
pub(super) fn hello_like() -> impl Strategy<Value = Vec<u8>> {
    let known = |number| field(number, 0, varint(select(vec![0, 1, 5, 1 << 32, u64::MAX])));
    let part = prop_oneof![3 => known(1), 1 => known(2), 1 => known(15), 1 => noise()];
    vec(part, 0..6).prop_map(|fields| fields.concat())
}

/// Valid UPDATE payloads with a few bytes changed, put in, taken out, or the end cut off.
pub(super) fn damaged_update() -> impl Strategy<Value = Vec<u8>> {
    let damage = vec((0..4u8, any::<Index>(), any::<u8>()), 1..4);
    (valid_update(), damage).prop_map(|(update, damage)| {
        let mut frame = Vec::new();
        Message::Update(update).encode(&mut frame);
        let mut payload = frame.split_off(4);
        for (kind, place, byte) in damage {
            if payload.is_empty() {
                break;
            }
            let place = place.index(payload.len());
            match kind {
                0 => payload[place] = byte,
                1 => payload.insert(place, byte),
                2 => drop(payload.remove(place)),
                _ => payload.truncate(place),
            }
        }
        payload
    })
}

/// Any number, and often one where the length of its varint changes.
fn number() -> impl Strategy<Value = u32> {
    let edges = vec![0, 1, 127, 128, 16383, 16384, 1 << 21, 1 << 28, u32::MAX];
    prop_oneof![select(edges), any::<u32>()]
}

fn destination() -> impl Strategy<Value = Destination> {
    (any::<IpAddr>(), 0..=128u8).prop_map(|(prefix, length)| Destination {
        prefix,
        length: if prefix.is_ipv4() { length % 33 } else { length },
    })
}

fn next_hop() -> impl Strategy<Value = NextHop> {
    let kind = prop_oneof![0..4, any::<i32>()].prop_map(NextHopType);
    (any::<IpAddr>(), number(), kind, any::<[u16; 2]>()).prop_map(|(address, vni, kind, ports)| {
        let ports = if kind == NextHopType::NAT { ports } else { [0; 2] };
        NextHop { address, vni: Vni(vni), kind, nat_port_from: ports[0], nat_port_to: ports[1] }
    })
}

/// A field: its key and its value. Rarely the wire type is another one, with a value of it or without.
fn field(
    number: u32,
    wire_type: u32,
    value: impl Strategy<Value = Vec<u8>> + 'static,
) -> BoxedStrategy<Vec<u8>> {
    let keyed = move |(wire_type, value): (u32, Vec<u8>)| {
        [varint_bytes(u64::from(number << 3 | wire_type), 0), value].concat()
    };
    let wire_types = prop_oneof![60 => Just(wire_type), 1 => 0..8u32];
    let other = prop_oneof![
        (Just(0), varint(any::<u64>())),
        (Just(1), vec(any::<u8>(), 8)),
        (Just(2), vec(any::<u8>(), 0..9).prop_map(|bytes| delimited(vec![bytes]))),
        (Just(3), Just(varint_bytes(u64::from(number << 3 | 4), 0))),
        (Just(5), vec(any::<u8>(), 4)),
    ];
    prop_oneof![30 => (wire_types, value).prop_map(keyed), 1 => other.prop_map(keyed)].boxed()
}

/// Unknown fields, groups, and what is not protobuf.
fn noise() -> BoxedStrategy<Vec<u8>> {
    let unknown = prop_oneof![
        field(6, 0, varint(any::<u64>())),
        field(100, 2, vec(any::<u8>(), 0..9).prop_map(|bytes| delimited(vec![bytes]))),
        field(7, 5, vec(any::<u8>(), 4)),
        field(7, 1, vec(any::<u8>(), 8)),
    ];
    let group = unknown.prop_recursive(4, 16, 4, |inner| {
        (6..9u64, vec(inner, 0..4)).prop_map(|(number, inner)| {
            let start = varint_bytes(number << 3 | 3, 0);
            let end = varint_bytes(number << 3 | 4, 0);
            [start, inner.concat(), end].concat()
        })
    });
    prop_oneof![10 => group, 1 => vec(any::<u8>(), 0..6)].boxed()
}

fn bytes_field() -> impl Strategy<Value = Vec<u8>> {
    select(vec![4usize, 4, 4, 16, 16, 16, 0, 5, 17])
        .prop_flat_map(|length| vec(any::<u8>(), length))
        .prop_map(|bytes| delimited(vec![bytes]))
}

fn delimited(parts: Vec<Vec<u8>>) -> Vec<u8> {
    let bytes = parts.concat();
    [varint_bytes(bytes.len() as u64, 0), bytes].concat()
}

/// A varint, now and then longer than it has to be, up to more than is allowed.
fn varint(value: impl Strategy<Value = u64> + 'static) -> impl Strategy<Value = Vec<u8>> {
    let padding = prop_oneof![12 => Just(0usize), 3 => 1..4usize, 1 => 4..11usize];
    (value, padding).prop_map(|(value, padding)| varint_bytes(value, padding))
}

fn varint_bytes(value: u64, padding: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = value;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    for _ in 0..padding {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push(0);
    }
    bytes
}
