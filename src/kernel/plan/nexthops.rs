//! Nexthop objects: ids, who names them, and who waits for them.
//!
//! Owns which objects are ours. An object's content never changes; a route moves from one object
//! to another. Must never delete an object that a route may name: the kernel would drop the route
//! with it.

use std::net::Ipv6Addr;

use super::ours::BLOCK_IDS;
use super::{Family, Hops, Op};
use crate::types::SeededMap;

/// The id of a kernel nexthop object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NexthopId(pub u32);

impl NexthopId {
    /// The first id that we use.
    pub(crate) const FIRST: u32 = 0x4d00_0000;
    /// How many ids from there on are ours.
    pub(crate) const COUNT: u32 = 0x0100_0000;

    /// Whether we may have made the object with this id.
    pub(crate) fn is_in_our_range(self) -> bool {
        self.block().is_some()
    }

    /// The block that the id lies in; none if it is not in our range.
    pub(crate) fn block(self) -> Option<u32> {
        let offset = self.0.checked_sub(Self::FIRST)?;
        (offset < Self::COUNT).then_some(offset / BLOCK_IDS)
    }
}

/// What an object is: one hop, or a group if there are several.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct NexthopKey {
    pub family: Family,
    pub hops: Hops,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Adding,
    Present,
    Deleting,
    /// Could not be made; tried again later.
    Failed,
    /// Of a former run, in a block that we do not own: only named by routes that it left.
    NotOurs,
}

#[derive(Debug)]
struct Nexthop {
    /// None if it is not as we would make it.
    key: Option<NexthopKey>,
    state: State,
    /// Routes and groups that name it or are about to.
    refs: usize,
    members: Vec<NexthopId>,
    /// Of another device than the tunnel device.
    is_elsewhere: bool,
}

#[derive(Debug)]
pub(super) struct NexthopTable {
    by_id: SeededMap<NexthopId, Nexthop>,
    by_key: SeededMap<NexthopKey, NexthopId>,
    /// Ids in our range that somebody else uses.
    taken: SeededMap<NexthopId, ()>,
    /// May have no references left.
    idle: Vec<NexthopId>,
    /// Whether destinations that wait for an object should be planned again.
    changed: bool,
    /// The block that ids come from, and the offset in it to try next.
    home: u32,
    next: u32,
    /// No id was left.
    exhausted: bool,
    /// How many are of a former run, in blocks that we do not own.
    not_ours: usize,
}

impl NexthopTable {
    pub(super) fn new(hasher: ahash::RandomState, seed: u64) -> NexthopTable {
        NexthopTable {
            by_id: SeededMap::with_hasher(hasher.clone()),
            by_key: SeededMap::with_hasher(hasher.clone()),
            taken: SeededMap::with_hasher(hasher),
            idle: Vec::new(),
            changed: false,
            home: 0,
            next: (seed >> 32) as u32 % BLOCK_IDS,
            exhausted: false,
            not_ours: 0,
        }
    }

    /// How many of them are ours.
    pub(super) fn len(&self) -> usize {
        self.by_id.len() - self.not_ours
    }

    pub(super) fn contains(&self, id: NexthopId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn has_garbage(&self) -> bool {
        self.idle.iter().any(|id| self.is_garbage(*id))
    }

    /// The object for `key` if it exists. If not, it is on its way: see
    /// [`NexthopTable::take_changed`].
    pub(super) fn ensure(&mut self, key: NexthopKey, ops: &mut Vec<Op>) -> Option<NexthopId> {
        if let Some(&id) = self.by_key.get(&key) {
            let nexthop = self.by_id.get(&id).expect("by_key names objects in by_id");
            return (nexthop.state == State::Present).then_some(id);
        }
        let (family, members) = (key.family, self.members(&key, ops)?);
        let id = self.unused_id()?;
        for member in &members {
            self.hold(*member);
        }
        ops.push(match key.hops[..] {
            [address] => Op::AddHop { id, family, address },
            _ => Op::AddGroup { id, members: members.clone() },
        });
        self.by_key.insert(key.clone(), id);
        let state = State::Adding;
        self.by_id
            .insert(id, Nexthop { key: Some(key), state, refs: 0, members, is_elsewhere: false });
        None
    }

    /// Whether an object came to be, or may be tried again, since the last call: who waits for one
    /// should be planned again.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// One more route or group names the object.
    pub(super) fn hold(&mut self, id: NexthopId) {
        self.by_id.get_mut(&id).expect("only existing objects are named").refs += 1;
    }

    /// One less does.
    pub(super) fn drop_ref(&mut self, id: NexthopId) {
        let nexthop = self.by_id.get_mut(&id).expect("an object outlives its references");
        assert!(nexthop.refs > 0, "more references dropped than held");
        nexthop.refs -= 1;
        if nexthop.refs == 0 {
            self.idle.push(id);
        }
    }

    /// The kernel has made the object.
    pub(super) fn added(&mut self, id: NexthopId) {
        if let Some(nexthop) = self.by_id.get_mut(&id) {
            nexthop.state = State::Present;
            self.idle.push(id); // nobody may want it any more
            self.changed = true;
        }
    }

    /// The id is somebody else's: another will be tried.
    pub(super) fn collided(&mut self, id: NexthopId) {
        self.taken.insert(id, ());
        self.forget(id);
        self.changed = true;
    }

    /// The kernel has not made the object; [`NexthopTable::retry`] follows.
    pub(super) fn add_failed(&mut self, id: NexthopId) {
        if let Some(nexthop) = self.by_id.get_mut(&id) {
            nexthop.state = State::Failed;
        }
    }

    /// The kernel has deleted the object, or had lost it before.
    pub(super) fn deleted(&mut self, id: NexthopId) {
        self.forget(id);
    }

    /// The kernel has not deleted the object; [`NexthopTable::retry`] follows.
    pub(super) fn delete_failed(&mut self, id: NexthopId) {
        if let Some(nexthop) = self.by_id.get_mut(&id) {
            nexthop.state = State::Present;
            if let Some(key) = nexthop.key.clone() {
                self.by_key.entry(key).or_insert(id);
            }
        }
    }

    /// The time has come to try again what failed.
    pub(super) fn retry(&mut self, id: NexthopId) {
        match self.by_id.get(&id).map(|nexthop| nexthop.state) {
            Some(State::Failed) => {
                self.forget(id);
                self.changed = true;
            }
            Some(State::Present) => self.idle.push(id),
            _ => {}
        }
    }

    /// Plans the end of objects without references.
    pub(super) fn plan_deletes(&mut self, ops: &mut Vec<Op>, ops_max: usize) {
        while ops.len() < ops_max
            && let Some(id) = self.idle.pop()
        {
            if !self.is_garbage(id) {
                continue;
            }
            let nexthop = self.by_id.get_mut(&id).expect("garbage exists");
            nexthop.state = State::Deleting;
            // Whoever wants the same from now on gets a new object.
            if let Some(key) = &nexthop.key
                && self.by_key.get(key) == Some(&id)
            {
                self.by_key.remove(key);
            }
            ops.push(Op::DeleteNexthop { id });
        }
    }

    /// Empties the table before it is filled from a dump.
    pub(super) fn restart(&mut self, home: u32) {
        self.by_id.clear();
        self.by_key.clear();
        self.idle.clear();
        self.taken.clear();
        self.not_ours = 0;
        self.home = home;
        self.changed = true;
    }

    /// An object found in the kernel that our routes may name. Members come before their groups. What
    /// is not `owned` is never deleted.
    pub(super) fn adopt(
        &mut self,
        id: NexthopId,
        key: Option<NexthopKey>,
        members: Vec<NexthopId>,
        owned: bool,
        is_elsewhere: bool,
    ) {
        if let Some(key) = &key {
            self.by_key.entry(key.clone()).or_insert(id);
        }
        for member in &members {
            self.hold(*member);
        }
        let is_elsewhere = is_elsewhere || members.iter().any(|id| self.is_elsewhere(*id));
        let state = if owned { State::Present } else { State::NotOurs };
        self.not_ours += usize::from(!owned);
        self.by_id.insert(id, Nexthop { key, state, refs: 0, members, is_elsewhere });
        self.idle.push(id);
    }

    /// An id found in the kernel: not to be used for another object, if it is not ours.
    pub(super) fn avoid(&mut self, id: NexthopId) {
        if !self.by_id.contains_key(&id) {
            self.taken.insert(id, ());
        }
    }

    /// Whether the object is what `key` asks for.
    pub(super) fn is(&self, id: NexthopId, key: &NexthopKey) -> bool {
        self.by_id.get(&id).is_some_and(|nexthop| nexthop.key.as_ref() == Some(key))
    }

    /// Whether the object leads out of another device than the tunnel device.
    pub(super) fn is_elsewhere(&self, id: NexthopId) -> bool {
        self.by_id.get(&id).is_some_and(|nexthop| nexthop.is_elsewhere)
    }

    /// The tunnel endpoint of a single hop of ours.
    pub(super) fn single(&self, id: NexthopId) -> Option<(Family, Ipv6Addr)> {
        let key = self.by_id.get(&id)?.key.as_ref()?;
        match key.hops[..] {
            [address] => Some((key.family, address)),
            _ => None,
        }
    }

    fn is_garbage(&self, id: NexthopId) -> bool {
        self.by_id
            .get(&id)
            .is_some_and(|nexthop| nexthop.refs == 0 && nexthop.state == State::Present)
    }

    /// The objects of a group's hops (none for a single hop), if they all exist.
    fn members(&mut self, key: &NexthopKey, ops: &mut Vec<Op>) -> Option<Vec<NexthopId>> {
        if key.hops.len() == 1 {
            return Some(Vec::new());
        }
        let family = key.family;
        let ids: Vec<Option<NexthopId>> = key
            .hops
            .iter()
            .map(|hop| {
                let hops = Hops::from_slice(&[*hop]);
                self.ensure(NexthopKey { family, hops }, ops)
            })
            .collect();
        ids.into_iter().collect()
    }

    fn unused_id(&mut self) -> Option<NexthopId> {
        let first = NexthopId::FIRST + self.home * BLOCK_IDS;
        for _ in 0..BLOCK_IDS {
            let id = NexthopId(first + self.next);
            self.next = (self.next + 1) % BLOCK_IDS;
            if !self.by_id.contains_key(&id) && !self.taken.contains_key(&id) {
                return Some(id);
            }
        }
        self.exhausted = true;
        None
    }

    fn forget(&mut self, id: NexthopId) {
        let Some(nexthop) = self.by_id.remove(&id) else { return };
        self.changed |= std::mem::take(&mut self.exhausted);
        if let Some(key) = &nexthop.key
            && self.by_key.get(key) == Some(&id)
        {
            self.by_key.remove(key);
        }
        for member in nexthop.members {
            self.drop_ref(member);
        }
    }
}
