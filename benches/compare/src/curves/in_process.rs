//! What is measured in this process, without sockets: CPU time of taking updates in, and bytes of the heap.
//!
//! Owns those two measurements. Must never measure what happens while a base is kept: that is a cost of joining.

#[path = "../../../common/core.rs"]
mod core;
#[path = "../../../common/cpu.rs"]
mod cpu;
#[path = "../../../common/routes.rs"]
mod routes;

use std::ops::Range;
use std::time::Duration;

use metalbond_uring::internals::wire::encode_update;
use metalbond_uring::types::{Action, ShardId, Vni};
use metalbond_uring_compare::summary::Summary;

use crate::heap;
use core::Core;
use cpu::thread_cpu;
use routes::{route, updates};

/// Which routes are withdrawn and announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// ADDs of routes that no table holds, then their REMOVEs.
    New,
    /// REMOVEs of random routes of the table, then their ADDs.
    Spread,
}

/// Heap bytes for each route.
#[derive(Clone, Copy, Debug)]
pub struct HeapBytes {
    /// Of the tables, with what is known of the announcers.
    pub tables: f64,
    /// The same and one base.
    pub with_base: f64,
}

/// Routes that a wave changes at most, each twice.
const WAVE_ROUTES: u32 = 5_000;
/// The first route that no table holds.
const NEW_FIRST: u32 = 5_000_000;
const VNI: Vni = Vni(7);
const SHARD: ShardId = ShardId(0);
/// A base is kept for a second, and the table is walked for it in steps.
const REST: Duration = Duration::from_secs(5);
const ANNOUNCERS: u32 = 10;

/// CPU time in nanoseconds of taking one update in, reads of 64 KiB, deframed, decoded, put into a table of this
/// many routes, and encoded for one subscriber or for none: the median of so many passes of two waves.
pub fn take_in_ns(routes: u32, has_subscriber: bool, shape: Shape, passes: u32) -> f64 {
    let mut core = Core::new(1);
    let announcer = core.connect(SHARD);
    // Few at a time: this process should not be large because of its input.
    for first in (0..routes).step_by(100_000) {
        let some = first..routes.min(first + 100_000);
        core.receive(announcer, &updates(Action::Add, VNI, some));
    }
    if has_subscriber {
        core.subscriber(SHARD, VNI);
    }
    core.rest(REST);
    assert_eq!(core.bases_alive(), 0, "joining is over");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let pass = |core: &mut Core, random: &mut Random| {
        let bytes = wave(routes, shape, random);
        let (sent, start) = (core.bytes_sent(), thread_cpu());
        core.receive(announcer, &bytes);
        let time = thread_cpu() - start;
        let expected = if has_subscriber { bytes.len() as u64 } else { 0 };
        assert_eq!(core.bytes_sent() - sent, expected, "every update was passed on");
        time.as_nanos() as f64 / f64::from(2 * WAVE_ROUTES)
    };
    // The first passes let queues and tables grow.
    for _ in 0..3 {
        pass(&mut core, &mut random);
    }
    let times: Vec<f64> = (0..passes).map(|_| pass(&mut core, &mut random)).collect();
    assert_eq!(core.routes(), routes as usize);
    Summary::of(&times).map_or(f64::NAN, |it| it.median)
}

/// ADDs of the routes with these numbers, spread evenly over so many VNIs from 1 on.
pub fn adds(numbers: Range<u32>, vnis: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        encode_update(&mut bytes, Action::Add, Vni(1 + number % vnis), &route(number));
    }
    bytes
}

/// Heap bytes for each of so many routes of ten announcers, spread evenly over so many VNIs.
pub fn heap_bytes(routes: u32, vnis: u32) -> HeapBytes {
    let before = heap::live_bytes();
    let mut core = Core::new(1);
    let each = routes.div_ceil(ANNOUNCERS);
    for first in (0..routes).step_by(each as usize) {
        let announcer = core.connect(SHARD);
        let end = routes.min(first + each);
        for from in (first..end).step_by(10_000) {
            core.receive(announcer, &adds(from..end.min(from + 10_000), vnis));
        }
    }
    core.rest(REST);
    assert_eq!(core.routes(), routes as usize);
    let per_route = |bytes: i64| (bytes - before) as f64 / f64::from(routes);
    let tables = per_route(heap::live_bytes());
    // Its time does not pass, so the base that it was sent is still kept.
    core.subscriber(SHARD, Vni(1));
    assert_eq!(core.bases_alive(), 1);
    HeapBytes { tables, with_base: per_route(heap::live_bytes()) }
}

/// The UPDATEs of one pass.
fn wave(routes: u32, shape: Shape, random: &mut Random) -> Vec<u8> {
    if shape == Shape::New {
        let numbers = || NEW_FIRST..NEW_FIRST + WAVE_ROUTES;
        let adds = updates(Action::Add, VNI, numbers());
        return [adds, updates(Action::Remove, VNI, numbers())].concat();
    }
    // A small table never becomes empty: shorter waves, one after the other.
    let length = WAVE_ROUTES.min(routes / 2).max(1);
    let mut bytes = Vec::new();
    let mut left = WAVE_ROUTES;
    while left > 0 {
        let numbers = random.distinct(length.min(left), routes);
        left -= numbers.len() as u32;
        bytes.extend(updates(Action::Remove, VNI, numbers.iter().copied()));
        bytes.extend(updates(Action::Add, VNI, numbers.into_iter()));
    }
    bytes
}

/// Numbers without a pattern that a cache could follow (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }

    /// `count` different numbers below `limit`, at least that many.
    fn distinct(&mut self, count: u32, limit: u32) -> Vec<u32> {
        let mut seen = std::collections::BTreeSet::new();
        let mut numbers = Vec::new();
        while (numbers.len() as u32) < count {
            let number = self.below(limit);
            if seen.insert(number) {
                numbers.push(number);
            }
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_leave_the_table_as_it_was() {
        for shape in [Shape::New, Shape::Spread] {
            let ns = take_in_ns(1_000, true, shape, 1);
            assert!(ns > 0.0, "{ns}");
        }
    }

    #[test]
    fn a_base_takes_what_its_frames_are_long() {
        let HeapBytes { tables, with_base } = heap_bytes(10_000, 1);
        let frame = updates(Action::Add, Vni(1), 0..1).len() as f64;
        assert!(with_base - tables >= frame, "{tables} {with_base}");
        assert!(with_base - tables < 2.0 * frame, "{tables} {with_base}");
    }

    #[test]
    fn numbers_are_distinct() {
        let mut numbers = Random(1).distinct(500, 1_000);
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 500);
        assert!(numbers[499] < 1_000);
    }
}
