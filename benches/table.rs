//! Cost of the route table: a route's first source, its last, and a second one, in small and large tables.
//!
//! Owns the measurement. Must never encode a record: nobody listens here.
#![allow(missing_docs)] // criterion_group! makes a public function without any.

mod common;

use std::time::Duration;

use ahash::RandomState;
use common::routes::route;
use common::{ThreadCpu, criterion, thread_cpu};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use metalbond_uring::internals::log::Scope;
use metalbond_uring::internals::policy::Denial;
use metalbond_uring::internals::rib::{Introduction, Joined, RecordSink, Rib, Rules, UpdateGroup};
use metalbond_uring::types::{Announcers, PeerClass, PeerId, Route, ShardId, SourceId, Vni};

const VNI: Vni = Vni(7);

/// Takes what nobody should say.
struct Silence;

impl RecordSink for Silence {
    fn record(&mut self, _: ShardId, _: UpdateGroup, _: Scope, _: &[u8], _: usize) {
        panic!("nobody listens");
    }

    fn joined(&mut self, _: ShardId, _: Joined) {
        panic!("nobody joins");
    }
    fn publish(&mut self, _: Vni, _: &Route, _: Announcers) {}
    fn swept(&mut self, _: ShardId, _: SourceId, _: u32, _: u32) {}
    fn judged(&mut self, _: SourceId, _: Introduction, _: (Vni, &Route), _: Option<Denial>) {}
}

/// A table, its routes in the order of adding, and in another order.
struct Table {
    rib: Rib,
    routes: Vec<Route>,
    shuffled: Vec<Route>,
}

impl Table {
    fn new(length: u32) -> Table {
        // A prime, so every route comes once; far apart, so no cache line is met twice in a row.
        let stride = |at: u32| (u64::from(at) * 15_485_863 % u64::from(length)) as u32;
        Table {
            rib: Rib::new(Rules {
                tail_bytes_min: 16 << 10,
                ..Rules::new(RandomState::with_seeds(1, 2, 3, 4))
            }),
            routes: (0..length).map(route).collect(),
            shuffled: (0..length).map(stride).map(route).collect(),
        }
    }

    fn add(&mut self, from: u32) -> Duration {
        let start = thread_cpu();
        for route in &self.routes {
            let added = self.rib.add(source(from), PeerClass::Client, VNI, route, &mut Silence);
            assert!(added.is_change());
        }
        thread_cpu() - start
    }

    fn remove(&mut self, from: u32) -> Duration {
        let start = thread_cpu();
        for route in &self.shuffled {
            assert!(self.rib.remove(source(from), VNI, route, &mut Silence).is_change());
        }
        thread_cpu() - start
    }
}

fn source(number: u32) -> SourceId {
    SourceId(PeerId::new(ShardId(0), number, 0))
}

fn table(criterion: &mut Criterion<ThreadCpu>) {
    let mut group = criterion.benchmark_group("table");
    group.sampling_mode(SamplingMode::Flat);
    for length in [1_000, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(u64::from(length)));
        let mut table = Table::new(length);
        group.bench_function(BenchmarkId::new("add from empty", length), |bencher| {
            bencher.iter_custom(|times| {
                (0..times).map(|_| (table.add(1), table.remove(1)).0).sum::<Duration>()
            });
        });
        table.add(1);
        group.bench_function(BenchmarkId::new("second source", length), |bencher| {
            bencher.iter_custom(|times| {
                (0..times).map(|_| (table.add(2), table.remove(2)).0).sum::<Duration>()
            });
        });
        group.bench_function(BenchmarkId::new("remove, shuffled", length), |bencher| {
            bencher.iter_custom(|times| {
                (0..times).map(|_| (table.remove(1), table.add(1)).0).sum::<Duration>()
            });
        });
    }
    group.finish();
}

criterion_group!(name = benches; config = criterion(); targets = table);
criterion_main!(benches);
