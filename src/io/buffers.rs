//! Read buffers: small ones for idle peers, large ones from a pool for busy peers.
//!
//! Owns the memory that waits for bytes. Must never grow beyond the pool for idle peers.

use std::cell::RefCell;

/// What an idle connection keeps ready: several dozen frames.
const SMALL: usize = 2 * 1024;

/// What a busy connection reads into: about a thousand frames for one system call.
const LARGE: usize = 64 * 1024;

/// Large buffers kept for later (4 MiB a shard).
const POOLED_MAX: usize = 64;

/// A buffer to read into; its capacity is what a read may take.
pub(super) struct ReadBuffer(Vec<u8>);

impl ReadBuffer {
    /// The buffer of a connection that has been quiet.
    pub(super) fn small() -> ReadBuffer {
        ReadBuffer(Vec::with_capacity(SMALL))
    }

    /// The bytes themselves, for the ring.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The large buffers of a shard that nobody reads into at the moment.
#[derive(Default)]
pub(super) struct BufferPool {
    large: RefCell<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// The buffer for the next read, after one that put `length` bytes into `bytes`: a large one after
    /// a full one, a small one when less than a quarter was used.
    pub(super) fn next(&self, bytes: Vec<u8>, length: usize) -> ReadBuffer {
        let capacity = bytes.capacity();
        if capacity < LARGE && length == capacity {
            let pooled = self.large.borrow_mut().pop();
            return ReadBuffer(pooled.unwrap_or_else(|| Vec::with_capacity(LARGE)));
        }
        if capacity >= LARGE && length < capacity / 4 {
            self.give_back(bytes);
            return ReadBuffer::small();
        }
        ReadBuffer(bytes)
    }

    /// Takes the buffer of a connection that ended.
    pub(super) fn give_back(&self, bytes: Vec<u8>) {
        let mut large = self.large.borrow_mut();
        if bytes.capacity() >= LARGE && large.len() < POOLED_MAX {
            large.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_when_full_and_shrinks_when_little_comes() {
        let pool = BufferPool::default();
        let small = ReadBuffer::small().into_bytes();
        let capacity = small.capacity();
        let small = pool.next(small, capacity - 1).into_bytes();
        assert_eq!(small.capacity(), capacity);
        let large = pool.next(small, capacity).into_bytes();
        assert!(large.capacity() >= LARGE);
        let large = pool.next(large, LARGE / 4).into_bytes();
        assert!(large.capacity() >= LARGE);
        assert_eq!(pool.next(large, 1).into_bytes().capacity(), capacity);
        assert_eq!(pool.large.borrow().len(), 1);
        // The pooled one is used again.
        let _ = pool.next(ReadBuffer::small().into_bytes(), capacity);
        assert_eq!(pool.large.borrow().len(), 0);
    }

    #[test]
    fn the_pool_is_bounded() {
        let pool = BufferPool::default();
        for _ in 0..POOLED_MAX + 5 {
            pool.give_back(Vec::with_capacity(LARGE));
        }
        pool.give_back(Vec::with_capacity(SMALL));
        assert_eq!(pool.large.borrow().len(), POOLED_MAX);
    }
}
