//! Cost of the whole core without sockets: taking updates in, sending them out, mail between shards.
//!
//! Owns the measurement. Must never touch a socket; `sockets` does.
#![allow(missing_docs)] // criterion_group! makes a public function without any.

mod common;

use common::core::Core;
use common::routes::updates;
use common::{ThreadCpu, criterion};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use metalbond_uring::types::{Action, PeerId, ShardId, Vni};

/// Updates in one pass, half of them ADDs, half REMOVEs of the same routes.
const UPDATES: u32 = 10_000;

/// ADDs and then REMOVEs of routes that no table holds, and how many bytes they are.
struct Wave {
    adds: Vec<u8>,
    removes: Vec<u8>,
}

impl Wave {
    fn new(vni: Vni) -> Wave {
        let numbers = 5_000_000..5_000_000 + UPDATES / 2;
        Wave {
            adds: updates(Action::Add, vni, numbers.clone()),
            removes: updates(Action::Remove, vni, numbers),
        }
    }

    fn pass(&self, core: &mut Core, from: PeerId) {
        core.receive(from, &self.adds);
        core.receive(from, &self.removes);
    }

    fn bytes(&self) -> u64 {
        (self.adds.len() + self.removes.len()) as u64
    }
}

/// The VNI whose home is this shard.
fn vni_at(home: ShardId, shards: u16) -> Vni {
    (1..).map(Vni).find(|&vni| ShardId::home_of(vni, shards) == home).expect("one of them is")
}

/// Updates of one peer, into tables that hold so many routes already.
fn taking_in(criterion: &mut Criterion<ThreadCpu>) {
    let mut group = criterion.benchmark_group("take in");
    group.throughput(Throughput::Elements(u64::from(UPDATES)));
    let vni = Vni(7);
    let wave = Wave::new(vni);
    for (subscribers, routes) in
        [(0, 1_000), (0, 100_000), (0, 1_000_000), (1, 1_000), (1, 1_000_000)]
    {
        let mut core = Core::new(1);
        let other = core.connect(ShardId(0));
        core.receive(other, &updates(Action::Add, vni, 0..routes));
        let announcer = core.connect(ShardId(0));
        for _ in 0..subscribers {
            core.subscriber(ShardId(0), vni);
        }
        let name = format!("{subscribers} subscribers, table");
        group.bench_function(BenchmarkId::new(name, routes), |bencher| {
            bencher.iter(|| wave.pass(&mut core, announcer));
        });
        assert_eq!(core.routes(), routes as usize);
    }
    group.finish();
}

/// The same, and each goes to many; time per delivery.
fn fan_out(criterion: &mut Criterion<ThreadCpu>) {
    let mut group = criterion.benchmark_group("fan out");
    let vni = Vni(7);
    let wave = Wave::new(vni);
    for subscribers in [10_u32, 100, 1_000, 5_000] {
        group.throughput(Throughput::Elements(u64::from(UPDATES * subscribers)));
        let mut core = Core::new(1);
        let announcer = core.connect(ShardId(0));
        for _ in 0..subscribers {
            core.subscriber(ShardId(0), vni);
        }
        group.bench_function(BenchmarkId::new("subscribers", subscribers), |bencher| {
            bencher.iter(|| {
                let before = core.bytes_sent();
                wave.pass(&mut core, announcer);
                assert_eq!(core.bytes_sent() - before, wave.bytes() * u64::from(subscribers));
            });
        });
    }
    group.finish();
}

/// One announcer, one subscriber; what it adds that the table or the subscriber lives on another shard.
fn mail(criterion: &mut Criterion<ThreadCpu>) {
    let mut group = criterion.benchmark_group("mail");
    group.throughput(Throughput::Elements(u64::from(UPDATES)));
    let [here, there] = [ShardId(0), ShardId(1)];
    for (name, home, subscriber) in [
        ("all on one shard", here, here),
        ("requests", there, there),
        ("records", here, there),
        ("requests and records", there, here),
    ] {
        let vni = vni_at(home, 2);
        let wave = Wave::new(vni);
        let mut core = Core::new(2);
        let announcer = core.connect(here);
        core.subscriber(subscriber, vni);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let before = core.bytes_sent();
                wave.pass(&mut core, announcer);
                assert_eq!(core.bytes_sent() - before, wave.bytes());
            });
        });
    }
    group.finish();
}

criterion_group!(name = benches; config = criterion(); targets = taking_in, fan_out, mail);
criterion_main!(benches);
