//! The routes of one VNI, and for each the set of its sources.
//!
//! Owns entries and the index from a source to its entries (its Adj-RIB-In). Must never decide
//! whom a route is shown to.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;
use smallvec::SmallVec;

use crate::types::{PeerClass, Route, SourceId};

/// One source of a route.
#[derive(Clone, Copy, Debug)]
struct Member {
    source: SourceId,
    class: PeerClass,
    /// Where the route stands in the source's list.
    position: u32,
}

/// A route and its sources, ascending by id. Vacant if it has none.
#[derive(Debug)]
pub struct Entry {
    /// The route.
    pub route: Route,
    members: SmallVec<[Member; 1]>,
}

impl Entry {
    /// Who announces the route.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, PeerClass)> {
        self.members.iter().map(|member| (member.source, member.class))
    }

    /// Whether nobody announces it: a free place in the table.
    pub fn is_vacant(&self) -> bool {
        self.members.is_empty()
    }
}

/// Where a route stands, and its hash: so that neither a table that grows nor a chance meeting of two
/// routes has to look at entries, which lie scattered over memory.
#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: RouteHash,
    place: u32,
}

/// A route's hash in the tables of one home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteHash(u32);

impl RouteHash {
    /// The hash of a route.
    pub fn of(route: &Route, hasher: &RandomState) -> RouteHash {
        RouteHash(hasher.hash_one(route) as u32)
    }

    /// As wide as the index wants it: it uses the lowest bits and the highest.
    fn wide(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}

/// The routes of a VNI. An entry keeps its place for as long as it has a source.
#[derive(Debug, Default)]
pub struct VniTable {
    entries: Vec<Entry>,
    free: Vec<u32>,
    index: HashTable<Slot>,
    /// Entries by source.
    adj_in: HashTable<(SourceId, Vec<u32>)>,
    /// While bases are under construction, places are not used again: see `base`.
    frozen: u32,
}

impl VniTable {
    /// Number of places, vacant ones included.
    pub fn places(&self) -> usize {
        self.entries.len()
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The entry at `place`.
    pub fn entry(&self, place: u32) -> &Entry {
        &self.entries[place as usize]
    }

    /// The place of a route.
    pub fn find(&self, route: &Route, hash: RouteHash) -> Option<u32> {
        let entries = &self.entries;
        let found = |slot: &Slot| slot.hash == hash && entries[slot.place as usize].route == *route;
        self.index.find(hash.wide(), found).map(|slot| slot.place)
    }

    /// The place at which a route with this hash stands, if any does: most likely the only one.
    pub fn find_likely(&self, hash: RouteHash) -> Option<u32> {
        self.index.find(hash.wide(), |slot| slot.hash == hash).map(|slot| slot.place)
    }

    /// The place of a route; a vacant one if it has none yet.
    pub fn find_or_insert(&mut self, route: &Route, hash: RouteHash) -> u32 {
        let VniTable { entries, free, index, frozen, .. } = self;
        let slot = index.entry(
            hash.wide(),
            |slot| slot.hash == hash && entries[slot.place as usize].route == *route,
            |slot| slot.hash.wide(),
        );
        match slot {
            TableEntry::Occupied(occupied) => occupied.get().place,
            TableEntry::Vacant(vacant) => {
                let reused = if *frozen == 0 { free.pop() } else { None };
                let place = reused.unwrap_or_else(|| {
                    u32::try_from(entries.len()).expect("a VNI has below 2^32 routes")
                });
                vacant.insert(Slot { hash, place });
                let entry = Entry { route: *route, members: SmallVec::new() };
                match entries.get_mut(place as usize) {
                    Some(vacant) => *vacant = entry,
                    None => entries.push(entry),
                }
                place
            }
        }
    }

    /// Adds a source. Says how many routes it has here now; none if it was one already.
    pub fn add_source(
        &mut self,
        place: u32,
        source: SourceId,
        class: PeerClass,
        hasher: &RandomState,
    ) -> Option<usize> {
        let members = &mut self.entries[place as usize].members;
        let Err(at) = members.binary_search_by_key(&source, |member| member.source) else {
            return None;
        };
        let (_, list) = self
            .adj_in
            .entry(hasher.hash_one(source), |(id, _)| *id == source, |(id, _)| hasher.hash_one(id))
            .or_insert_with(|| (source, Vec::new()))
            .into_mut();
        members.insert(at, Member { source, class, position: list.len() as u32 });
        list.push(place);
        Some(list.len())
    }

    /// Removes a source, and frees the place with the last one. Says how many routes the source has
    /// left here; none if it was no source.
    pub fn remove_source(
        &mut self,
        place: u32,
        source: SourceId,
        hasher: &RandomState,
    ) -> Option<usize> {
        let entry = &mut self.entries[place as usize];
        let Ok(at) = entry.members.binary_search_by_key(&source, |member| member.source) else {
            return None;
        };
        let position = entry.members.remove(at).position as usize;
        if entry.members.is_empty() {
            entry.members.shrink_to_fit();
            let hash = RouteHash::of(&entry.route, hasher);
            match self.index.find_entry(hash.wide(), |slot| slot.place == place) {
                Ok(indexed) => drop(indexed.remove()),
                Err(_) => unreachable!("every route is in the index"),
            }
            self.free.push(place);
        }
        Some(self.unlist(source, position, hasher))
    }

    /// Some route of `source`, if it has one left here.
    pub fn last_of(&self, source: SourceId, hasher: &RandomState) -> Option<u32> {
        let found = self.adj_in.find(hasher.hash_one(source), |(id, _)| *id == source);
        found.and_then(|(_, list)| list.last().copied())
    }

    /// Whether `source` announces anything here.
    pub fn has_source(&self, source: SourceId, hasher: &RandomState) -> bool {
        self.last_of(source, hasher).is_some()
    }

    /// From now until [`VniTable::thaw`] new routes get new places only.
    pub fn freeze(&mut self) {
        self.frozen += 1;
    }

    /// Ends a [`VniTable::freeze`].
    pub fn thaw(&mut self) {
        self.frozen -= 1;
    }

    /// Gives memory back where a large table has become a small one.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.frozen == 0 {
            *self = VniTable::default();
        } else if self.index.capacity() > 64 && self.index.len() < self.index.capacity() / 8 {
            self.index.shrink_to(0, |slot| slot.hash.wide());
        }
    }

    /// Returns how many routes the source has left.
    fn unlist(&mut self, source: SourceId, position: usize, hasher: &RandomState) -> usize {
        let hash = hasher.hash_one(source);
        let Ok(mut listed) = self.adj_in.find_entry(hash, |(id, _)| *id == source) else {
            unreachable!("whoever announces a route has a list");
        };
        let (_, list) = listed.get_mut();
        list.swap_remove(position);
        let left = list.len();
        match list.get(position) {
            Some(&moved) => {
                let members = &mut self.entries[moved as usize].members;
                let at = members
                    .binary_search_by_key(&source, |member| member.source)
                    .expect("a listed route has the source among its members");
                members[at].position = position as u32;
            }
            None if list.is_empty() => drop(listed.remove()),
            None => {}
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Destination, NextHop, NextHopType, Vni};

    fn route(number: u8) -> Route {
        let next_hop = NextHop {
            address: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        };
        let destination = Destination { prefix: [10, 0, 0, number].into(), length: 32 };
        Route { destination, next_hop }
    }

    #[test]
    fn routes_of_one_hash_are_told_apart() {
        let mut table = VniTable::default();
        let hash = RouteHash(7);
        let places: Vec<u32> =
            (0..100).map(|number| table.find_or_insert(&route(number), hash)).collect();
        assert_eq!(table.len(), 100);
        for (number, &place) in (0..100).zip(&places) {
            assert_eq!(table.find(&route(number), hash), Some(place));
            assert_eq!(table.find_or_insert(&route(number), hash), place);
        }
        assert_eq!(table.find(&route(100), hash), None);
    }
}
