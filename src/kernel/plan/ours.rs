//! What counts as ours in the kernel.
//!
//! Owns the blocks of nexthop ids. A running client owns a block or several; what it finds in blocks
//! that nobody owns was left by a former run. Must never count as ours what another running client
//! owns.

use super::{Few, NexthopId};

/// How many blocks the ids of nexthop objects are divided into.
pub const BLOCKS: u32 = 64;
/// Ids in one block.
pub const BLOCK_IDS: u32 = NexthopId::COUNT / BLOCKS;

/// A set of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Blocks(u64);

impl Blocks {
    /// All of them.
    pub const ALL: Blocks = Blocks(u64::MAX);

    /// Whether the block is among them.
    pub fn contains(self, block: u32) -> bool {
        self.0 & 1 << block != 0
    }

    /// Adds one.
    pub fn insert(&mut self, block: u32) {
        self.0 |= 1 << block;
    }

    /// Takes one out.
    pub fn remove(&mut self, block: u32) {
        self.0 &= !(1 << block);
    }

    /// All of them, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..BLOCKS).filter(move |block| self.contains(*block))
    }
}

/// What is ours besides what the plan remembers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ours {
    /// The index of the tunnel device, if there is one.
    pub link: Option<u32>,
    /// Devices that were the tunnel device during this run, and still exist.
    pub former_links: Few<u32>,
    /// The block that new ids come from.
    pub home: u32,
    /// Blocks that we own, `home` among them: all objects in them are ours.
    pub owned: Blocks,
    /// Blocks that nobody owned at the start, nor since: routes that name their objects are those of
    /// a former run. The objects themselves stay until the blocks are owned.
    pub orphaned: Blocks,
}

impl Ours {
    /// Whether routes that name this object are ours.
    pub fn covers(&self, id: NexthopId) -> bool {
        let is_ours = |block| self.owned.contains(block) || self.orphaned.contains(block);
        id.block().is_some_and(is_ours)
    }

    /// Whether the object itself is ours.
    pub fn owns(&self, id: NexthopId) -> bool {
        id.block().is_some_and(|block| self.owned.contains(block))
    }

    /// Whether routes out of this device, of our protocol and in our tables, are ours.
    pub fn has_link(&self, link: u32) -> bool {
        self.link == Some(link) || self.former_links.contains(&link)
    }
}
