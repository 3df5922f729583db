//! How much of the heap a thread holds, to the byte.
//!
//! Owns the allocator of this program. Must never change what is allocated: it counts and passes on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes that this thread has asked for and not given back. What another thread gave back counts there: so this
/// is exact for what stays on one thread, as a shard does.
pub fn live_bytes() -> i64 {
    LIVE_BYTES.get()
}

struct Counting;

thread_local! {
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn grow(bytes: i64) {
    LIVE_BYTES.set(LIVE_BYTES.get() + bytes);
}

// SAFETY: everything is passed on to the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        grow(-(layout.size() as i64));
        // SAFETY: `bytes` came from one of the others here.
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size as i64 - layout.size() as i64);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(bytes, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_held() {
        let before = live_bytes();
        let mut held: Vec<u8> = Vec::with_capacity(1000);
        assert_eq!(live_bytes() - before, 1000);
        held.resize(1000, 0);
        held.reserve_exact(2000);
        assert_eq!(live_bytes() - before, 3000);
        let zeroed = vec![0u8; 500];
        assert_eq!(live_bytes() - before, 3500);
        drop((held, zeroed));
        assert_eq!(live_bytes() - before, 0);
    }
}
