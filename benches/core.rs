//! Cost of the whole core without sockets: taking updates in, sending them out, mail between shards.
//!
//! Owns the measurement. Must never touch a socket; `sockets` does.
#![allow(missing_docs)] // criterion_group! makes a public function without any.

mod common;

use std::time::Duration;

use common::core::Core;
use common::routes::updates;
use common::{ThreadCpu, criterion};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use metalbond_uring::types::{Action, PeerId, ShardId, Vni};

/// Updates in one pass, half of them ADDs, half REMOVEs of the same routes.
const UPDATES: u32 = 10_000;

/// Two runs of UPDATEs, the second of which undoes the first.
struct Wave {
    there: Vec<u8>,
    back: Vec<u8>,
}

impl Wave {
    /// ADDs, and then REMOVEs, of routes that no table holds.
    fn new(vni: Vni) -> Wave {
        let numbers = 5_000_000..5_000_000 + UPDATES / 2;
        Wave {
            there: updates(Action::Add, vni, numbers.clone()),
            back: updates(Action::Remove, vni, numbers),
        }
    }

    /// REMOVEs, and then ADDs, of routes here and there in a table of this length; the next wave has
    /// others, as far as the table goes.
    fn spread(vni: Vni, routes: u32) -> Vec<Wave> {
        // A prime, so every route comes once in `routes` steps, and neighbours never in a row.
        let stride = |at: u32| (u64::from(at) * 15_485_863 % u64::from(routes)) as u32;
        let of_wave = |wave: u32| {
            let numbers = (wave * UPDATES / 2..(wave + 1) * UPDATES / 2).map(stride);
            Wave {
                there: updates(Action::Remove, vni, numbers.clone()),
                back: updates(Action::Add, vni, numbers),
            }
        };
        (0..routes / (UPDATES / 2)).map(of_wave).collect()
    }

    fn pass(&self, core: &mut Core, from: PeerId) {
        core.receive(from, &self.there);
        core.receive(from, &self.back);
    }

    fn bytes(&self) -> u64 {
        (self.there.len() + self.back.len()) as u64
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
    for routes in [10_000, 100_000, 1_000_000] {
        for subscribers in [0, 1] {
            let mut core = Core::new(1);
            let announcer = core.connect(ShardId(0));
            core.receive(announcer, &updates(Action::Add, vni, 0..routes));
            for _ in 0..subscribers {
                core.subscriber(ShardId(0), vni);
            }
            core.rest(Duration::from_secs(5));
            let shapes = [("new", vec![Wave::new(vni)]), ("spread", Wave::spread(vni, routes))];
            for (shape, waves) in shapes {
                let name = format!("{shape}, {subscribers} subscribers, table");
                let mut waves = waves.iter().cycle();
                group.bench_function(BenchmarkId::new(name, routes), |bencher| {
                    bencher.iter(|| waves.next().map(|wave| wave.pass(&mut core, announcer)));
                });
                assert_eq!(core.routes(), routes as usize);
            }
        }
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
