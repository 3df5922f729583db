//! The routes of one VNI, and for each the set of its sources.
//!
//! Owns entries and the index from a source to its entries (its Adj-RIB-In). Must never decide
//! whom a route is shown to.

use ahash::RandomState;
use smallvec::SmallVec;

use super::FORESIGHT;
use super::speakers::{Announcer, Role, Speakers};
use crate::types::{Pages, Place, Route, SourceId, SplitMap, SplitTable, wide};

/// One source of a route.
#[derive(Clone, Copy, Debug)]
struct Member {
    source: SourceId,
    /// As what it announced the route last.
    role: Role,
    /// Where the route stands in the source's list.
    position: u32,
}

/// Whether `life` is this one or one before: they are counted round and round.
pub(super) fn is_up_to(life: u8, last: u8) -> bool {
    last.wrapping_sub(life) < 1 << 7
}

/// A route and its sources, ascending by id. Vacant if it has none.
#[derive(Debug)]
pub(super) struct Entry {
    /// The route.
    pub route: Route,
    members: SmallVec<[Member; 1]>,
    /// Where a vacant place stands in the list of those.
    position: u32,
}

impl Entry {
    /// Who announces the route, and as what.
    pub(super) fn sources(&self) -> impl Iterator<Item = (SourceId, Role)> {
        self.members.iter().map(|member| (member.source, member.role))
    }

    /// The same, as the visibility rule looks at it.
    pub(super) fn announcers(&self, speakers: &Speakers) -> impl Iterator<Item = Announcer> {
        self.members.iter().map(|member| speakers.announcer(member.source, member.role))
    }

    /// Whether this source announces it.
    pub(super) fn has(&self, source: SourceId) -> bool {
        self.member(source).is_some()
    }

    /// Whether what this source says of it replaces what the same reflector said in another reading.
    pub(super) fn has_former(&self, source: SourceId) -> bool {
        let Some(now) = source.remote() else { return false };
        let mut remotes = self.sources().filter_map(|(source, _)| source.remote());
        remotes.any(|former| former.reflector == now.reflector)
    }

    /// As what this source announced the route, if it announces it.
    pub(super) fn announced(&self, source: SourceId) -> Option<Role> {
        self.member(source).map(|member| member.role)
    }

    fn member(&self, source: SourceId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&source, |member| member.source).ok()?;
        Some(&self.members[at])
    }

    /// Whether nobody announces it: a free place in the table.
    pub(super) fn is_vacant(&self) -> bool {
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
pub(super) struct RouteHash(u32);

impl RouteHash {
    /// The hash of a route.
    pub(super) fn of(route: &Route, hasher: &RandomState) -> RouteHash {
        RouteHash(hasher.hash_one(route) as u32)
    }

    /// As the index wants it.
    fn wide(self) -> u64 {
        wide(self.0)
    }
}

/// The routes of a VNI. An entry keeps its place for as long as it has a source.
#[derive(Debug, Default)]
pub(super) struct VniTable {
    entries: Pages<Entry>,
    /// None in a small table: it is looked through as fast, and there may be 100,000 such VNIs.
    indexes: Option<Box<Indexes>>,
    /// While bases are under construction, places are not used again: see `base`.
    frozen: u32,
    /// How many routes were moved to another place.
    moved: u32,
    /// How often indexes were made: lists of sources are in another order then.
    indexed: u32,
}

/// Ways to an entry.
#[derive(Debug, Default)]
struct Indexes {
    by_route: SplitTable<Slot>,
    by_source: SplitMap<SourceId, Vec<u32>>,
    /// Vacant places.
    free: Vec<u32>,
}

/// Places of a table without indexes.
const SMALL_PLACES_MAX: usize = 8;

impl VniTable {
    /// Number of places, vacant ones included.
    pub(super) fn places(&self) -> usize {
        self.entries.len()
    }

    /// Number of routes.
    pub(super) fn len(&self) -> usize {
        match &self.indexes {
            Some(indexes) => indexes.by_route.len(),
            None => self.entries.iter().filter(|entry| !entry.is_vacant()).count(),
        }
    }

    /// Whether there is no route.
    pub(super) fn is_empty(&self) -> bool {
        match &self.indexes {
            Some(indexes) => indexes.by_route.is_empty(),
            None => self.entries.iter().all(Entry::is_vacant),
        }
    }

    /// Changes when routes that stay get other places.
    pub(super) fn moved(&self) -> u32 {
        self.moved
    }

    /// Changes when what [`VniTable::announced_up_to`] goes through is in another order.
    pub(super) fn indexed(&self) -> u32 {
        self.indexed
    }

    /// Number of sources.
    pub(super) fn sources(&self) -> usize {
        let Some(indexes) = &self.indexes else {
            let members = self.entries.iter().flat_map(|entry| &entry.members);
            let mut sources: SmallVec<[SourceId; SMALL_PLACES_MAX]> =
                members.map(|member| member.source).collect();
            sources.sort_unstable();
            sources.dedup();
            return sources.len();
        };
        indexes.by_source.len()
    }

    /// The entry at `place`.
    pub(super) fn entry(&self, place: u32) -> &Entry {
        &self.entries[place as usize]
    }

    /// The place of a route.
    pub(super) fn find(&self, route: &Route, hash: RouteHash) -> Option<u32> {
        let Some(indexes) = &self.indexes else { return self.find_small(route) };
        let found =
            |slot: &Slot| slot.hash == hash && self.entries[slot.place as usize].route == *route;
        indexes.by_route.find(hash.wide(), found).map(|slot| slot.place)
    }

    /// The place of a route; a vacant one, that a source must be added to, if it has none yet.
    pub(super) fn find_or_insert(
        &mut self,
        route: &Route,
        hash: RouteHash,
        hasher: &RandomState,
    ) -> u32 {
        if self.indexes.is_none() {
            if let Some(place) = self.find_or_insert_small(route) {
                return place;
            }
            self.indexes = Some(Indexes::of(&mut self.entries, hasher));
            self.indexed = self.indexed.wrapping_add(1);
        }
        let VniTable { entries, indexes: Some(indexes), frozen, .. } = self else {
            unreachable!("just made");
        };
        let slot = indexes.by_route.place(
            hash.wide(),
            |slot| slot.hash == hash && entries[slot.place as usize].route == *route,
            |slot| slot.hash.wide(),
        );
        match slot {
            Place::Occupied(slot) => slot.place,
            Place::Vacant(vacancy) => {
                let reused = if *frozen == 0 { indexes.free.pop() } else { None };
                let place = place_in(entries, reused, route);
                vacancy.insert(Slot { hash, place });
                place
            }
        }
    }

    /// None if there is no room for one more without indexes.
    fn find_or_insert_small(&mut self, route: &Route) -> Option<u32> {
        if let Some(place) = self.find_small(route) {
            return Some(place);
        }
        let reused =
            if self.frozen == 0 { position(&self.entries, Entry::is_vacant) } else { None };
        if reused.is_none() && self.entries.len() >= SMALL_PLACES_MAX {
            return None;
        }
        Some(place_in(&mut self.entries, reused, route))
    }

    /// Adds a source. Says how many routes it has here now.
    ///
    /// # Errors
    /// If it was one already: as what it had announced the route last. Now the life is this one; see also
    /// [`VniTable::set_role`].
    pub(super) fn add_source(
        &mut self,
        place: u32,
        source: SourceId,
        role: Role,
        hasher: &RandomState,
    ) -> Result<usize, Role> {
        let members = &mut self.entries[place as usize].members;
        let at = match members.binary_search_by_key(&source, |member| member.source) {
            Ok(at) => {
                let before = members[at].role;
                members[at].role = before.in_life(role.life());
                return Err(before);
            }
            Err(at) => at,
        };
        let position = match &mut self.indexes {
            Some(indexes) => indexes.list(place, source, hasher),
            None => 0,
        };
        members.insert(at, Member { source, role, position });
        Ok(match &self.indexes {
            Some(_) => position as usize + 1,
            None => self.count(source),
        })
    }

    /// From now on a source announces the route at a place as this.
    pub(super) fn set_role(&mut self, place: u32, source: SourceId, role: Role) {
        let members = &mut self.entries[place as usize].members;
        if let Ok(at) = members.binary_search_by_key(&source, |member| member.source) {
            members[at].role = role;
        }
    }

    /// Removes a source, and frees the place with the last one. Says how many routes the source has
    /// left here; none if it was no source.
    pub(super) fn remove_source(
        &mut self,
        place: u32,
        source: SourceId,
        hasher: &RandomState,
    ) -> Option<usize> {
        let entry = &mut self.entries[place as usize];
        let at = entry.members.binary_search_by_key(&source, |member| member.source).ok()?;
        let position = entry.members.remove(at).position as usize;
        let is_vacant = entry.members.is_empty();
        if is_vacant {
            entry.members.shrink_to_fit();
        }
        let Some(indexes) = &mut self.indexes else {
            return Some(self.count(source));
        };
        if is_vacant {
            indexes.vacate(place, entry, hasher);
        }
        Some(indexes.unlist(&mut self.entries, source, position, hasher))
    }

    /// Gives back a place that [`VniTable::find_or_insert`] found for a route and that got no source.
    pub(super) fn give_back(&mut self, place: u32, hasher: &RandomState) {
        if let Some(indexes) = &mut self.indexes {
            indexes.vacate(place, &mut self.entries[place as usize], hasher);
        }
    }

    /// The next route that `source` announced no later than in `life`. Looks at those below `at` in its list, the
    /// last one first, as far as `budget` goes: whatever changes meanwhile, none is missed. None if there is none, or
    /// if the budget is used up: then `at` is not 0.
    pub(super) fn announced_up_to(
        &self,
        source: SourceId,
        life: u8,
        at: &mut u32,
        budget: &mut usize,
        hasher: &RandomState,
    ) -> Option<u32> {
        let is_such =
            |entry: &Entry| entry.announced(source).is_some_and(|of| is_up_to(of.life(), life));
        let Some(indexes) = &self.indexes else {
            let found = position(&self.entries, is_such);
            if found.is_none() {
                *at = 0;
            }
            return found;
        };
        let list = indexes.by_source.find(source, hasher).map_or(&[][..], |list| &list[..]);
        *at = (*at).min(list.len() as u32);
        while *at > 0 && *budget > 0 {
            *at -= 1;
            *budget -= 1;
            let place = list[*at as usize];
            if is_such(self.entry(place)) {
                return Some(place);
            }
        }
        None
    }

    /// All routes of `source`.
    pub(super) fn places_of(&self, source: SourceId, hasher: &RandomState) -> Vec<u32> {
        match &self.indexes {
            Some(indexes) => indexes.by_source.find(source, hasher).cloned().unwrap_or_default(),
            None => {
                let places = (0..).zip(self.entries.iter());
                places.filter(|(_, entry)| entry.has(source)).map(|(place, _)| place).collect()
            }
        }
    }

    /// Some route of `source`, if it has one left here.
    pub(super) fn last_of(&self, source: SourceId, hasher: &RandomState) -> Option<u32> {
        match &self.indexes {
            Some(indexes) => {
                indexes.by_source.find(source, hasher).and_then(|list| list.last().copied())
            }
            None => position(&self.entries, |entry| entry.has(source)),
        }
    }

    /// From now until [`VniTable::thaw`] new routes get new places only.
    pub(super) fn freeze(&mut self) {
        self.frozen += 1;
    }

    /// Ends a [`VniTable::freeze`].
    pub(super) fn thaw(&mut self) {
        self.frozen -= 1;
    }

    /// Whether most places are vacant, so that [`VniTable::compact`] gives memory back.
    pub(super) fn is_sparse(&self) -> bool {
        let is_large = self.places() > SMALL_PLACES_MAX;
        self.frozen == 0 && is_large && self.len() < self.places() / 8
    }

    /// Moves routes from the end to vacant places, as far as `budget` goes: 1 for each place, and for
    /// each source of a route that moves (one route may overdraw it). True when there is nothing to do,
    /// or not now.
    pub(super) fn compact(&mut self, budget: &mut usize, hasher: &RandomState) -> bool {
        if self.frozen > 0 {
            return true;
        }
        let VniTable { entries, indexes: Some(indexes), moved, .. } = self else { return true };
        while !indexes.free.is_empty() {
            if *budget == 0 {
                return false;
            }
            let Some(last) = entries.pop() else { unreachable!("a vacant place is a place") };
            *budget = budget.saturating_sub(1 + last.members.len());
            if last.is_vacant() {
                indexes.unfree(last.position, entries);
            } else {
                indexes.move_down(last, entries, hasher);
                *moved = moved.wrapping_add(1);
            }
        }
        indexes.free = Vec::new();
        if entries.len() <= SMALL_PLACES_MAX {
            self.indexes = None;
        }
        true
    }

    /// Reads what a change of the route with each of these hashes is going to need, step by step for
    /// all: no step waits for another's memory.
    pub(super) fn foresee(changes: &[(&VniTable, RouteHash)], hasher: &RandomState) {
        let mut seen = 0;
        let mut found: SmallVec<[_; FORESIGHT]> = SmallVec::new();
        let mut next: SmallVec<[_; FORESIGHT]> = SmallVec::new();
        for (at, (table, hash)) in changes.iter().enumerate() {
            let Some(indexes) = &table.indexes else { continue };
            match indexes.by_route.find(hash.wide(), |slot| slot.hash == *hash) {
                Some(slot) => found.push((table, indexes, slot.place)),
                // It will get the place that was vacated last.
                None => next.extend(indexes.free.iter().nth_back(at).map(|&place| (table, place))),
            }
        }
        let mut listed: SmallVec<[_; FORESIGHT]> = SmallVec::new();
        for (table, indexes, place) in found {
            let entry = table.entry(place);
            seen ^= u32::from(entry.route.destination.length);
            listed.extend(entry.members.first().map(|member| (table, indexes, *member)));
        }
        for (at, (table, indexes, Member { source, position, .. })) in
            listed.into_iter().enumerate()
        {
            let Some(list) = indexes.by_source.find(source, hasher) else { continue };
            seen ^= list.get(position as usize).copied().unwrap_or_default();
            // The last of the list takes the place of the one that is withdrawn.
            next.extend(list.iter().nth_back(at).map(|&place| (table, place)));
        }
        for (table, place) in next {
            seen ^= table.entry(place).members.len() as u32;
        }
        std::hint::black_box(seen);
    }

    fn find_small(&self, route: &Route) -> Option<u32> {
        position(&self.entries, |entry| !entry.is_vacant() && entry.route == *route)
    }

    fn count(&self, source: SourceId) -> usize {
        self.entries.iter().filter(|entry| entry.has(source)).count()
    }
}

impl Indexes {
    /// Of the entries of a small table.
    fn of(entries: &mut Pages<Entry>, hasher: &RandomState) -> Box<Indexes> {
        let mut indexes = Box::new(Indexes::default());
        for (place, entry) in (0..).zip(entries.iter_mut()) {
            if entry.is_vacant() {
                entry.position = indexes.free.len() as u32;
                indexes.free.push(place);
                continue;
            }
            let hash = RouteHash::of(&entry.route, hasher);
            match indexes.by_route.place(hash.wide(), |_| false, |slot| slot.hash.wide()) {
                Place::Vacant(vacancy) => drop(vacancy.insert(Slot { hash, place })),
                Place::Occupied(_) => unreachable!("nothing is looked for"),
            }
            for member in &mut entry.members {
                member.position = indexes.list(place, member.source, hasher);
            }
        }
        indexes
    }

    /// Forgets the route at a place that has no source any more, or got none.
    fn vacate(&mut self, place: u32, entry: &mut Entry, hasher: &RandomState) {
        let hash = RouteHash::of(&entry.route, hasher);
        let is_it = |slot: &Slot| slot.place == place;
        let slot = self.by_route.remove(hash.wide(), is_it, |slot| slot.hash.wide());
        assert!(slot.is_some(), "every route is in the index");
        entry.position = self.free.len() as u32;
        self.free.push(place);
    }

    /// Takes the place at `position` off the list of vacant ones.
    fn unfree(&mut self, position: u32, entries: &mut Pages<Entry>) {
        self.free.swap_remove(position as usize);
        if let Some(&moved) = self.free.get(position as usize) {
            entries[moved as usize].position = position;
        }
    }

    /// Puts what stood at the end at a vacant place: the lower one of two, for each may be near the end
    /// as well.
    fn move_down(&mut self, last: Entry, entries: &mut Pages<Entry>, hasher: &RandomState) {
        let from = entries.len() as u32;
        let (last_freed, some) = (self.free.len() - 1, from.wrapping_mul(0x9e37_79b1) >> 8);
        let some = some as usize % self.free.len();
        let at = if self.free[some] < self.free[last_freed] { some } else { last_freed };
        let to = self.free[at];
        self.unfree(at as u32, entries);
        let hash = RouteHash::of(&last.route, hasher);
        match self.by_route.find_mut(hash.wide(), |slot| slot.place == from) {
            Some(slot) => slot.place = to,
            None => unreachable!("every route is in the index"),
        }
        for &Member { source, position, .. } in &last.members {
            match self.by_source.find_mut(source, hasher) {
                Some(list) => list[position as usize] = to,
                None => unreachable!("whoever announces a route has a list"),
            }
        }
        entries[to as usize] = last;
    }

    /// Notes that a source announces what stands at `place`. Returns the position in its list.
    fn list(&mut self, place: u32, source: SourceId, hasher: &RandomState) -> u32 {
        let list = self.by_source.find_or(source, hasher, Vec::new);
        list.push(place);
        list.len() as u32 - 1
    }

    /// Takes what stands at `position` off a source's list. Returns how many routes it has left.
    fn unlist(
        &mut self,
        entries: &mut Pages<Entry>,
        source: SourceId,
        position: usize,
        hasher: &RandomState,
    ) -> usize {
        let Some(list) = self.by_source.find_mut(source, hasher) else {
            unreachable!("whoever announces a route has a list");
        };
        list.swap_remove(position);
        let left = list.len();
        if left < list.capacity() / 8 {
            list.shrink_to(2 * left);
        }
        match list.get(position) {
            Some(&moved) => {
                let members = &mut entries[moved as usize].members;
                let at = members
                    .binary_search_by_key(&source, |member| member.source)
                    .expect("a listed route has the source among its members");
                members[at].position = position as u32;
            }
            None if left == 0 => drop(self.by_source.remove(source, hasher)),
            None => {}
        }
        left
    }
}

/// The first place whose entry is such a one.
fn position(entries: &Pages<Entry>, is_such: impl Fn(&Entry) -> bool) -> Option<u32> {
    entries.iter().position(is_such).map(|place| place as u32)
}

/// Puts a route at a place that is used again, or else at a new one.
fn place_in(entries: &mut Pages<Entry>, reused: Option<u32>, route: &Route) -> u32 {
    let entry = Entry { route: *route, members: SmallVec::new(), position: 0 };
    if let Some(place) = reused {
        entries[place as usize] = entry;
        return place;
    }
    entries.push(entry);
    u32::try_from(entries.len() - 1).expect("a VNI has below 2^32 routes")
}

#[cfg(test)]
mod tests;
