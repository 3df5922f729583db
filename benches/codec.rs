//! Speed of the codec: UPDATEs from a stream to values, and from values to a stream.
//!
//! Owns the measurement. Must never measure input or output, or the route table.

#![allow(missing_docs)] // criterion_group! makes a public function without any.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metalbond_uring::internals::wire::{self, Deframer, Message, Update};
use metalbond_uring::types::{Action, Destination, NextHop, NextHopType, Route, Vni};

/// UPDATEs in one pass: about what one large read holds.
const UPDATES: u32 = 1000;

/// A mix of IPv4, IPv6 and NAT routes.
fn updates() -> Vec<Update> {
    let update = |index: u32| {
        let low = u128::from(index);
        let v6 = Ipv6Addr::from_bits(0x2001_0db8_0004_u128 << 80 | low << 64);
        let is_v6 = index % 2 == 1;
        let is_nat = index.is_multiple_of(8);
        Update {
            action: if index % 4 == 3 { Action::Remove } else { Action::Add },
            vni: Vni(100 + index % 500),
            route: Route {
                destination: Destination {
                    prefix: if is_v6 { v6.into() } else { Ipv4Addr::from_bits(index << 8).into() },
                    length: if is_v6 { 64 } else { 24 },
                },
                next_hop: NextHop {
                    address: Ipv6Addr::from_bits(0x2001_0db8_0077_u128 << 80 | low).into(),
                    vni: Vni(0),
                    kind: if is_nat { NextHopType::NAT } else { NextHopType::STANDARD },
                    nat_port_from: if is_nat { 1024 } else { 0 },
                    nat_port_to: if is_nat { 2047 } else { 0 },
                },
            },
        }
    };
    (0..UPDATES).map(update).collect()
}

fn stream(updates: &[Update]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for update in updates {
        Message::Update(*update).encode(&mut bytes);
    }
    bytes
}

/// Decodes the stream in chunks of this size; returns the number of messages.
fn decode_all(bytes: &[u8], chunk_bytes: usize) -> u32 {
    let mut deframer = Deframer::new();
    let mut decoded = 0;
    for chunk in bytes.chunks(chunk_bytes) {
        let mut input = chunk;
        while let Some(frame) = deframer.next(&mut input).expect("our own frames") {
            black_box(wire::decode(frame).expect("our own messages"));
            decoded += 1;
        }
    }
    decoded
}

fn codec(criterion: &mut Criterion) {
    let updates = updates();
    let bytes = stream(&updates);
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(u64::from(UPDATES)));

    group.bench_function("deframe and decode", |bencher| {
        bencher.iter(|| assert_eq!(decode_all(black_box(&bytes), bytes.len()), UPDATES));
    });
    group.bench_function("deframe and decode, 100-byte reads", |bencher| {
        bencher.iter(|| assert_eq!(decode_all(black_box(&bytes), 100), UPDATES));
    });
    group.bench_function("encode", |bencher| {
        let mut out = Vec::with_capacity(bytes.len());
        bencher.iter(|| {
            out.clear();
            for update in black_box(&updates) {
                wire::encode_update(&mut out, update.action, update.vni, &update.route);
            }
            assert_eq!(out.len(), bytes.len());
        });
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
