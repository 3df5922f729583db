//! Memory that this thread has allocated, to the byte, and the most that it had.
//!
//! Owns the allocator of the bench that includes it. Must never allocate itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Bytes now, and at most.
    static BYTES: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// From here on the most is counted.
pub fn restart() {
    BYTES.with(|bytes| bytes.set((0, 0)));
}

/// The most bytes since the restart, beyond those of then.
pub fn most() -> usize {
    BYTES.with(|bytes| bytes.get().1)
}

fn count(more: usize, less: usize) {
    BYTES.with(|bytes| {
        let (now, most) = bytes.get();
        let now = (now + more).saturating_sub(less);
        bytes.set((now, most.max(now)));
    });
}

// SAFETY: everything is passed on to the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: `bytes` came from one of these functions.
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(bytes, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
