//! What the core allocates once it runs: nothing by the delivery, the update or the turn.
//!
//! Owns the counting allocator. A file of its own, since it counts all that its process allocates.
#![allow(clippy::unwrap_used)]

#[path = "../benches/common/core.rs"]
mod core;
#[path = "../benches/common/routes.rs"]
mod routes;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use core::Core;
use metalbond_uring::types::{Action, ShardId, Vni};
use routes::updates;

/// Counts allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        // SAFETY: `bytes` came from `alloc` or `realloc` above.
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(bytes, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Updates in a wave: ADDs, then REMOVEs of the same routes.
const UPDATES: u32 = 20_000;

/// Allocations while a wave passes that was there before: tables and queues have their size.
fn allocations(shards: u16, subscribers: u32, home: ShardId, read_updates: usize) -> u64 {
    let vni = (1..).map(Vni).find(|&vni| ShardId::home_of(vni, shards) == home).unwrap();
    let mut core = Core::new(shards);
    // Routes that stay: an emptied table would be given back, and grow anew.
    let other = core.connect(ShardId(0));
    core.receive(other, &updates(Action::Add, vni, UPDATES..2 * UPDATES));
    let announcer = core.connect(ShardId(0));
    for at in 0..subscribers {
        core.subscriber(ShardId((at % u32::from(shards)) as u16), vni);
    }
    let adds = updates(Action::Add, vni, 0..UPDATES / 2);
    let removes = updates(Action::Remove, vni, 0..UPDATES / 2);
    let reads: Vec<&[u8]> = [&adds, &removes]
        .into_iter()
        .flat_map(|wave| wave.chunks(wave.len() / (UPDATES as usize / 2) * read_updates))
        .collect();
    let mut counts = [0; 3];
    for count in &mut counts {
        let (sent, before) = (core.bytes_sent(), ALLOCATIONS.get());
        for read in &reads {
            core.receive(announcer, read);
        }
        *count = ALLOCATIONS.get() - before;
        let bytes = (adds.len() + removes.len()) as u64 * u64::from(subscribers);
        assert_eq!(core.bytes_sent() - sent, bytes, "everything was delivered");
    }
    counts[2]
}

fn check(what: &str, allocations: u64, units: u64, most: f64) {
    let each = allocations as f64 / units as f64;
    println!("{what}: {allocations} allocations, {each:.5} each");
    assert!(each < most, "{what}: {allocations} allocations for {units}: {each:.4} each");
}

/// What remains: the tables of the homes, which clean themselves up now and then.
#[test]
fn taking_in_allocates_nothing_by_the_update() {
    let counted = allocations(1, 0, ShardId(0), 1_000);
    check("updates taken in", counted, u64::from(UPDATES), 0.001);
}

/// What remains besides: the larger chunks of the log, whatever the number of receivers.
#[test]
fn delivering_allocates_nothing_by_the_delivery() {
    for subscribers in [1, 10, 100] {
        let counted = allocations(1, subscribers, ShardId(0), 1_000);
        let deliveries = u64::from(UPDATES * subscribers);
        check(&format!("deliveries to {subscribers}"), counted, deliveries, 0.005);
    }
}

/// Each update alone, in a turn of its own, to 100. Nothing by the turn: the blocks of mail, and the small
/// chunk of a log that holds none while everybody has read it, are used again.
#[test]
fn a_lone_update_allocates_nothing() {
    let counted = allocations(1, 100, ShardId(0), 1);
    check("turns with a lone update", counted, u64::from(UPDATES), 0.001);
}

/// The same by two shards: blocks of mail come back to where they are needed.
#[test]
fn mail_allocates_nothing() {
    for home in [ShardId(0), ShardId(1)] {
        let counted = allocations(2, 100, home, 1_000);
        check("deliveries by two shards", counted, u64::from(UPDATES * 100), 0.0001);
        let counted = allocations(2, 100, home, 1);
        check("turns with a lone update", counted, u64::from(UPDATES), 0.001);
    }
}
