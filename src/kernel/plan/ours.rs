//! What counts as ours in the kernel.
//!
//! Owns the blocks of nexthop ids. A running client owns a block or several; what it finds in blocks
//! that nobody owns was left by a former run. Must never count as ours what another running client
//! owns.

use super::{Few, NexthopId};

/// How many blocks the ids of nexthop objects are divided into.
pub(crate) const BLOCKS: u32 = 64;
/// Ids in one block.
pub(super) const BLOCK_IDS: u32 = NexthopId::COUNT / BLOCKS;

/// A set of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Blocks(u64);

impl Blocks {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: Blocks = Blocks(u64::MAX);

    /// Whether the block is among them.
    pub(crate) fn contains(self, block: u32) -> bool {
        self.0 & 1 << block != 0
    }

    /// Adds one.
    pub(crate) fn insert(&mut self, block: u32) {
        self.0 |= 1 << block;
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, block: u32) {
        self.0 &= !(1 << block);
    }

    /// All of them, ascending.
    pub(crate) fn iter(self) -> impl Iterator<Item = u32> {
        (0..BLOCKS).filter(move |block| self.contains(*block))
    }
}

/// What is ours besides what the plan remembers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ours {
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
    pub(crate) fn covers(&self, id: NexthopId) -> bool {
        let is_ours = |block| self.owned.contains(block) || self.orphaned.contains(block);
        id.block().is_some_and(is_ours)
    }

    /// Whether the object itself is ours.
    pub(crate) fn owns(&self, id: NexthopId) -> bool {
        id.block().is_some_and(|block| self.owned.contains(block))
    }

    /// Whether routes out of this device, of our protocol and in our tables, are ours.
    pub(crate) fn has_link(&self, link: u32) -> bool {
        self.link == Some(link) || self.former_links.contains(&link)
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::types::{Destination, Vni};

    const LINK: u32 = 9;

    fn id(block: u32) -> NexthopId {
        NexthopId(NexthopId::FIRST + block * BLOCK_IDS + 5)
    }

    fn prefix(table: u32, block: u32) -> Prefix {
        let prefix = std::net::Ipv4Addr::from_bits(10 << 24 | block << 8).into();
        Prefix { table, destination: Destination { prefix, length: 24 } }
    }

    /// Blocks 1 to 3 have an object each, on the link or elsewhere; each has a route in the mapped
    /// table 100 and in table 200. Block 1 is owned, 2 is orphaned, 3 another client's.
    fn snapshot(link: u32, owned: &[u32], orphaned: &[u32]) -> Snapshot {
        let blocks = |list: &[u32]| {
            let mut blocks = Blocks::default();
            list.iter().for_each(|block| blocks.insert(*block));
            blocks
        };
        let hop = SeenNexthopKind::Hop { family: Family::V4, address: "fd00::1".parse().unwrap() };
        let nexthop = |block| SeenNexthop { id: id(block), link: Some(link), kind: hop.clone() };
        let route = |table, block| SeenRoute {
            prefix: prefix(table, block),
            is_of_our_protocol: true,
            link: 0,
            form: Some(Form::Object(id(block))),
        };
        Snapshot {
            ours: Ours {
                link: Some(LINK),
                home: 1,
                owned: blocks(owned),
                orphaned: blocks(orphaned),
                ..Ours::default()
            },
            nexthops: (1..=3).map(nexthop).collect(),
            routes: [100, 200].iter().flat_map(|t| (1..=3).map(|b| route(*t, b))).collect(),
            has_others: true,
        }
    }

    /// What is deleted until there is nothing left to do: tables and blocks of routes, then blocks
    /// of objects.
    fn deleted(plan: &mut Plan) -> (Vec<(u32, u32)>, Vec<u32>) {
        let (mut routes, mut objects, mut ops) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            plan.next_batch(&mut ops, 100, Time(0));
            if ops.is_empty() {
                routes.sort_unstable();
                return (routes, objects);
            }
            for op in ops.drain(..) {
                match &op {
                    Op::Delete { prefix, form: Form::Object(id) } => {
                        routes.push((prefix.table, id.block().unwrap()));
                    }
                    Op::DeleteNexthop { id } => objects.push(id.block().unwrap()),
                    _ => panic!("{op:?}"),
                }
                plan.finished(&op, Outcome::Done, Time(0));
            }
        }
    }

    fn plan() -> Plan {
        let mut plan =
            Plan::new(KernelConfig { seed: 7, ..KernelConfig::new("", [(Vni(7), 100)].into()) });
        plan.set_usable(true);
        plan
    }

    #[test]
    fn what_a_former_run_has_left_goes_with_the_sweep_wherever_it_is() {
        for link in [LINK, LINK + 1] {
            let mut plan = plan();
            plan.reconcile(snapshot(link, &[1], &[2]));
            assert_eq!(deleted(&mut plan), (vec![], vec![]), "nothing before the sweep");
            assert_eq!(plan.counters().stale, 4);
            plan.sweep();
            let routes = vec![(100, 1), (100, 2), (200, 1), (200, 2)];
            assert_eq!(deleted(&mut plan), (routes, vec![1]), "objects of an owned block only");
            plan.reconcile(snapshot(link, &[1, 2], &[]));
            let routes = vec![(100, 1), (100, 2), (200, 1), (200, 2)];
            let (found, mut objects) = deleted(&mut plan);
            objects.sort_unstable();
            assert_eq!((found, objects), (routes, vec![1, 2]), "now the block is owned");
        }
    }

    #[test]
    fn a_block_that_its_client_has_taken_again_is_left_alone() {
        let mut plan = plan();
        plan.reconcile(snapshot(LINK, &[1], &[2]));
        plan.reconcile(snapshot(LINK, &[1], &[]));
        plan.clear();
        assert_eq!(deleted(&mut plan), (vec![(100, 1), (200, 1)], vec![1]));
    }

    #[test]
    fn ids_lie_in_blocks() {
        assert_eq!(NexthopId(NexthopId::FIRST - 1).block(), None);
        assert_eq!(NexthopId(NexthopId::FIRST).block(), Some(0));
        assert_eq!(NexthopId(NexthopId::FIRST + NexthopId::COUNT - 1).block(), Some(BLOCKS - 1));
        assert_eq!(NexthopId(NexthopId::FIRST + NexthopId::COUNT).block(), None);
        assert_eq!(Blocks::ALL.iter().count() as u32, BLOCKS);
    }
}
