//! Cost of what lies between the table and the sockets: logs with cursors, bases, compaction.
//!
//! Owns the measurement. Must never copy what cursors read: the kernel does that elsewhere.
#![allow(missing_docs)] // criterion_group! makes a public function without any.

mod common;

use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use ahash::RandomState;
use common::routes::{route, updates};
use common::{ThreadCpu, criterion};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use metalbond_uring::internals::log::{
    Compaction, Cursor, FramesList, Laggard, LiveBytes, Merge, Reader, Scope, VniLog,
};
use metalbond_uring::internals::policy::Denial;
use metalbond_uring::internals::rib::{
    BASE_KEPT, Introduction, Join, Joined, RecordSink, Rib, Rules, UpdateGroup,
};
use metalbond_uring::internals::wire::frames;
use metalbond_uring::types::{
    Action, Announcers, GroupClass, PeerClass, PeerId, Route, ShardId, SourceId, SpeakerId, Time,
    Vni,
};

const VNI: Vni = Vni(7);

fn speaker(number: u32) -> SpeakerId {
    SpeakerId::of_source(source(number))
}

fn source(number: u32) -> SourceId {
    SourceId(PeerId::new(ShardId(0), number, 0))
}

fn hasher() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

/// A block of frames goes into the log, and every cursor reads it to the end.
fn cursors(criterion: &mut Criterion<ThreadCpu>) {
    for block_frames in [20, 1_000] {
        let mut group = criterion.benchmark_group(format!("log, blocks of {block_frames}"));
        let block = updates(Action::Add, VNI, 0..block_frames);
        for count in [10_u32, 100, 1_000, 5_000] {
            group.throughput(Throughput::Elements(u64::from(count * block_frames)));
            let mut log = VniLog::new(Rc::default());
            let mut cursors = Vec::with_capacity(count as usize);
            group.bench_function(BenchmarkId::new("cursors", count), |bencher| {
                bencher.iter(|| {
                    let read = fan_out(&mut log, &mut cursors, count, &block);
                    assert_eq!(read, block.len() * count as usize);
                });
            });
        }
        group.finish();
    }
}

/// Returns how many bytes were read.
fn fan_out(log: &mut VniLog, cursors: &mut Vec<Cursor>, count: u32, block: &[u8]) -> usize {
    let anchor = Cursor::at_end_of(&log.anchor(block), None);
    cursors.extend((0..count).map(|_| anchor.clone()));
    log.append(block, Scope::All, None);
    let mut read = 0;
    for cursor in cursors.iter_mut() {
        while let Some(range) = cursor.readable(Reader::new(speaker(1)), 1 << 16) {
            read += black_box(cursor.chunk().slice(range.clone())).len();
            cursor.advance_to(range.end);
        }
    }
    cursors.clear();
    drop(anchor);
    log.let_go();
    read
}

#[derive(Default)]
struct Answers(Vec<Joined>);

impl RecordSink for Answers {
    fn record(&mut self, _: ShardId, _: UpdateGroup, _: Scope, _: &[u8], _: usize) {}

    fn joined(&mut self, _: ShardId, joined: Joined) {
        self.0.push(joined);
    }
    fn publish(&mut self, _: Vni, _: &Route, _: Announcers) {}
    fn swept(&mut self, _: ShardId, _: SourceId, _: u32, _: u32) {}
    fn judged(&mut self, _: SourceId, _: Introduction, _: (Vni, &Route), _: Option<Denial>) {}
}

/// A subscriber joins a table that has no base yet.
fn base(criterion: &mut Criterion<ThreadCpu>) {
    const ROUTES: u32 = 100_000;
    let mut rib = Rib::new(Rules { tail_bytes_min: 16 << 10, ..Rules::new(hasher()) });
    let mut answers = Answers::default();
    for number in 0..ROUTES {
        rib.add(source(number % 10), PeerClass::Client, VNI, &route(number), &mut answers);
    }
    let group = UpdateGroup::new(VNI, GroupClass::Client);
    let peer = PeerId::new(ShardId(0), 99, 0);
    let mut now = Time(1);
    let mut benches = criterion.benchmark_group("base");
    benches.throughput(Throughput::Elements(u64::from(ROUTES)));
    benches.bench_function(BenchmarkId::new("encode", ROUTES), |bencher| {
        bencher.iter(|| {
            rib.join(group, Join { peer, epoch: 1 }, &mut answers, now);
            while rib.run_jobs(8_192, &mut answers, now) {}
            let mut joined = answers.0.pop().expect("the join is answered");
            let base = joined.blocks.next().expect("it begins with a base");
            assert_eq!(frames(base.bytes()).count(), ROUTES as usize);
            drop((joined, base));
            rib.leave(group, peer.shard());
            now = now.after(BASE_KEPT + Duration::from_secs(1));
            rib.expire_bases(now);
        });
    });
    benches.finish();
}

/// A log is compacted behind laggards, and one of them is told what they all missed.
fn compaction(criterion: &mut Criterion<ThreadCpu>) {
    const ROUTES: u32 = 50_000;
    let adds = updates(Action::Add, VNI, 0..ROUTES);
    let removes = updates(Action::Remove, VNI, 0..ROUTES);
    let mut group = criterion.benchmark_group("compaction");
    for (name, parts) in [("pass", vec![&adds]), ("pass and annihilate", vec![&adds, &removes])] {
        group.throughput(Throughput::Elements(u64::from(ROUTES) * parts.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| compacted(&parts));
        });
    }
    group.throughput(Throughput::Elements(u64::from(ROUTES)));
    group.bench_function("tell", |bencher| {
        let (compaction, before) = compacted(&[&adds]);
        let mut out = Vec::with_capacity(1 << 17);
        bencher.iter(|| {
            let (mut laggard, mut told) = (before.clone(), 0);
            while let Some(bytes) =
                compaction.tell(&mut laggard, Reader::new(speaker(1)), &mut out, 1 << 16)
            {
                told += bytes;
                out.clear();
            }
            assert_eq!(told, adds.len());
        });
    });
    group.finish();
}

/// The compaction of these frames, and a laggard from before.
fn compacted(parts: &[&Vec<u8>]) -> (Compaction, Laggard) {
    let mut log = VniLog::new(Rc::default());
    let begin = Cursor::at_end_of(&log.anchor(parts[0]), None);
    parts.iter().for_each(|part| log.append(part, Scope::All, None));
    let mut compaction = Compaction::new(begin, hasher(), LiveBytes::default());
    let laggard = compaction.laggard();
    loop {
        while compaction.pass(usize::MAX, |_| false, &mut Vec::new()) {}
        if !compaction.step() {
            return (compaction, laggard);
        }
    }
}

/// What happened behind a base is shortened to what differs.
fn merging(criterion: &mut Criterion<ThreadCpu>) {
    const ROUTES: u32 = 50_000;
    let list = |parts: &[u32]| {
        let mut list = FramesList::default();
        for &part in parts {
            let action = if part % 2 == 0 { Action::Add } else { Action::Remove };
            let numbers = (0..ROUTES / 5).map(|number| number + ROUTES / 5 * (part / 2));
            let bytes = updates(action, VNI, numbers);
            frames(&bytes).for_each(|frame| list.push(frame, Scope::AllBut(speaker(part / 2))));
        }
        list
    };
    let hasher = hasher();
    let mut group = criterion.benchmark_group("merge");
    for (name, parts) in
        [("all different", vec![0, 2, 4, 6, 8]), ("come and gone", (0..10).collect())]
    {
        group.throughput(Throughput::Elements(u64::from(ROUTES / 5 * parts.len() as u32)));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || list(&parts),
                |list| Merge::new(list).run(list, &mut usize::MAX.clone(), &hasher),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(
    name = benches;
    config = criterion();
    targets = cursors, base, compaction, merging
);
criterion_main!(benches);
