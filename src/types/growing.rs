//! Collections of any size that grow and shrink in small steps: no push, insertion or removal takes long.
//!
//! Owns how they are cut into parts. Must never copy, rehash or free more than one part at a time.

use std::hash::Hash;
use std::ops::{Index, IndexMut};

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, VacantEntry};
use smallvec::SmallVec;

/// Elements of a page.
const PAGE_LEN: usize = 1 << 12;
/// Elements of a segment on average, when a table has several: one that is not split yet has up to
/// twice as many, which fit 4,096 buckets.
const SEGMENT_LEN: usize = 1_600;
/// Bits of a hash by which a segment is chosen begin here: the lowest choose a bucket in it.
const SEGMENT_BITS_FROM: u32 = 13;

/// A list, in pages. The first one grows as a `Vec` does, for most lists are short.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    first: Vec<T>,
    /// Full but for the last one, as the first one is if there are others.
    more: Vec<Vec<T>>,
}

impl<T> Default for Pages<T> {
    fn default() -> Pages<T> {
        Pages { first: Vec::new(), more: Vec::new() }
    }
}

impl<T> Pages<T> {
    /// How many elements.
    pub(crate) fn len(&self) -> usize {
        match self.more.last() {
            Some(last) => self.more.len() * PAGE_LEN + last.len(),
            None => self.first.len(),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Appends an element.
    pub(crate) fn push(&mut self, element: T) {
        if self.first.len() < PAGE_LEN {
            if self.first.len() == self.first.capacity() {
                // A short list takes no more than it needs: there may be many.
                self.first.reserve_exact(self.first.len().max(1));
            }
            self.first.push(element);
            return;
        }
        if self.more.last().is_none_or(|last| last.len() == PAGE_LEN) {
            self.more.push(Vec::with_capacity(PAGE_LEN));
        }
        if let Some(last) = self.more.last_mut() {
            last.push(element);
        }
    }

    /// Takes the last element away.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if let Some(last) = self.more.last_mut() {
            let element = last.pop();
            if last.is_empty() {
                self.more.pop();
            }
            return element;
        }
        let element = self.first.pop();
        if self.first.len() <= self.first.capacity() / 4 {
            self.first.shrink_to(2 * self.first.len());
        }
        element
    }

    /// All elements, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(self.more.iter().flatten())
    }

    /// All elements, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.first.iter_mut().chain(self.more.iter_mut().flatten())
    }
}

impl<T> Index<usize> for Pages<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        match self.first.get(at) {
            Some(element) => element,
            None => &self.more[at / PAGE_LEN - 1][at % PAGE_LEN],
        }
    }
}

impl<T> IndexMut<usize> for Pages<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        match self.first.get_mut(at) {
            Some(element) => element,
            None => &mut self.more[at / PAGE_LEN - 1][at % PAGE_LEN],
        }
    }
}

/// A hash table, in segments. It grows by splitting one of them, in turn, and shrinks by joining two
/// (linear hashing).
#[derive(Debug)]
pub(crate) struct SplitTable<T> {
    segments: SmallVec<[HashTable<T>; 1]>,
    len: usize,
}

/// A hash of 32 bits, as wide as a [`SplitTable`] wants it: that uses the lowest bits and the highest.
pub(crate) fn wide(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// Where an element is, or would be.
pub(crate) enum Place<'a, T> {
    /// It is there.
    Occupied(&'a mut T),
    /// It is not.
    Vacant(Vacancy<'a, T>),
}

/// The place of an element that is not there.
pub(crate) struct Vacancy<'a, T> {
    entry: VacantEntry<'a, T>,
    len: &'a mut usize,
}

impl<T> Default for SplitTable<T> {
    fn default() -> SplitTable<T> {
        SplitTable { segments: SmallVec::from_buf([HashTable::new()]), len: 0 }
    }
}

impl<T> SplitTable<T> {
    /// How many elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element with this hash that is such a one.
    pub(crate) fn find(&self, hash: u64, is_such: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments[self.segment_of(hash)].find(hash, is_such)
    }

    /// The same, to be changed.
    pub(crate) fn find_mut(
        &mut self,
        hash: u64,
        is_such: impl FnMut(&T) -> bool,
    ) -> Option<&mut T> {
        let at = self.segment_of(hash);
        self.segments[at].find_mut(hash, is_such)
    }

    /// Where the element with this hash is, or would be. `hash_of` gives the hash of others.
    pub(crate) fn place(
        &mut self,
        hash: u64,
        is_such: impl FnMut(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Place<'_, T> {
        if self.len >= self.segments.len() * SEGMENT_LEN {
            self.split(&hash_of);
        }
        let at = self.segment_of(hash);
        match self.segments[at].entry(hash, is_such, hash_of) {
            Entry::Occupied(entry) => Place::Occupied(entry.into_mut()),
            Entry::Vacant(entry) => Place::Vacant(Vacancy { entry, len: &mut self.len }),
        }
    }

    /// Takes an element out.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        is_such: impl FnMut(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let at = self.segment_of(hash);
        let (element, _) = self.segments[at].find_entry(hash, is_such).ok()?.remove();
        self.len -= 1;
        self.shrink(at, hash_of);
        Some(element)
    }

    /// Some element.
    pub(crate) fn any(&self) -> Option<&T> {
        self.segments.iter().rev().find_map(|segment| segment.iter().next())
    }

    /// All elements.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flatten()
    }

    /// In how many parts they lie. Who looks at one after the other, between changes, sees each that stays, perhaps
    /// twice, unless there are fewer parts than there were.
    pub(crate) fn parts(&self) -> usize {
        self.segments.len()
    }

    /// The elements of a part; none if there is no such part.
    pub(crate) fn part(&self, at: usize) -> impl Iterator<Item = &T> {
        self.segments.get(at).into_iter().flatten()
    }

    fn segment_of(&self, hash: u64) -> usize {
        match self.segments.len() {
            1 => 0,
            count => {
                let mask = count.next_power_of_two() - 1;
                let at = (hash >> SEGMENT_BITS_FROM) as usize & mask;
                // Those that are not there yet are still part of their lower halves.
                if at < count { at } else { at & (mask >> 1) }
            }
        }
    }

    fn split(&mut self, hash_of: impl Fn(&T) -> u64) {
        let count = self.segments.len();
        let lower = count - (count + 1).next_power_of_two() / 2;
        let whole = std::mem::take(&mut self.segments[lower]);
        let room = whole.len() * 9 / 16;
        self.segments[lower] = HashTable::with_capacity(room);
        self.segments.push(HashTable::with_capacity(room));
        for element in whole {
            let hash = hash_of(&element);
            let at = self.segment_of(hash);
            self.segments[at].insert_unique(hash, element, &hash_of);
        }
    }

    fn shrink(&mut self, at: usize, hash_of: impl Fn(&T) -> u64) {
        let count = self.segments.len();
        if count > 1 && self.len < (count - 1) * (SEGMENT_LEN / 4) {
            for element in self.segments.pop().into_iter().flatten() {
                let hash = hash_of(&element);
                let at = self.segment_of(hash);
                self.segments[at].insert_unique(hash, element, &hash_of);
            }
        } else if self.segments[at].len() < self.segments[at].num_buckets() / 16 {
            let room = 2 * self.segments[at].len();
            self.segments[at].shrink_to(room, hash_of);
        }
    }
}

impl<'a, T> Vacancy<'a, T> {
    /// Puts the element there.
    pub(crate) fn insert(self, element: T) -> &'a mut T {
        *self.len += 1;
        self.entry.insert(element).into_mut()
    }
}

/// A [`SplitTable`] of keys with values. Its owner passes in the hasher, always the same one.
#[derive(Debug)]
pub(crate) struct SplitMap<K, V>(SplitTable<(K, V)>);

impl<K, V> Default for SplitMap<K, V> {
    fn default() -> SplitMap<K, V> {
        SplitMap(SplitTable::default())
    }
}

impl<K: Copy + Eq + Hash, V> SplitMap<K, V> {
    /// How many keys.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub(crate) fn find(&self, key: K, hasher: &RandomState) -> Option<&V> {
        self.0.find(hasher.hash_one(key), |(other, _)| *other == key).map(|(_, value)| value)
    }

    /// The same, to be changed.
    pub(crate) fn find_mut(&mut self, key: K, hasher: &RandomState) -> Option<&mut V> {
        self.0.find_mut(hasher.hash_one(key), |(other, _)| *other == key).map(|(_, value)| value)
    }

    /// The value of a key; this one if it has none yet.
    pub(crate) fn find_or(
        &mut self,
        key: K,
        hasher: &RandomState,
        new: impl FnOnce() -> V,
    ) -> &mut V {
        let hash_of = |(other, _): &(K, V)| hasher.hash_one(other);
        match self.0.place(hasher.hash_one(key), |(other, _)| *other == key, hash_of) {
            Place::Occupied((_, value)) => value,
            Place::Vacant(vacancy) => &mut vacancy.insert((key, new())).1,
        }
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: K, hasher: &RandomState) -> Option<V> {
        let hash_of = |(other, _): &(K, V)| hasher.hash_one(other);
        let removed = self.0.remove(hasher.hash_one(key), |(other, _)| *other == key, hash_of);
        removed.map(|(_, value)| value)
    }

    /// Some key, if there is one.
    pub(crate) fn any_key(&self) -> Option<K> {
        self.0.any().map(|&(key, _)| key)
    }

    /// In how many parts they lie: see [`SplitTable::parts`].
    pub(crate) fn parts(&self) -> usize {
        self.0.parts()
    }

    /// The keys of a part, with their values.
    pub(crate) fn part(&self, at: usize) -> impl Iterator<Item = (K, &V)> {
        self.0.part(at).map(|(key, value)| (*key, value))
    }

    /// All keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.0.iter().map(|(key, _)| *key)
    }

    /// All values.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::BTreeSet;

    #[test]
    fn pages_are_a_list() {
        let mut pages = Pages::default();
        let length = 3 * PAGE_LEN + 5;
        for number in 0..length {
            assert_eq!(pages.len(), number);
            pages.push(number);
        }
        let address = &raw const pages[0];
        pages.push(length);
        assert_eq!(&raw const pages[0], address, "a page stays where it is");
        pages[2 * PAGE_LEN] += 1;
        assert!(pages.iter().enumerate().all(|(at, &n)| n == at + usize::from(at == 2 * PAGE_LEN)));
        pages[2 * PAGE_LEN] -= 1;
        for number in (0..=length).rev() {
            assert_eq!(pages.pop(), Some(number));
            let taken =
                pages.first.capacity() + pages.more.iter().map(Vec::capacity).sum::<usize>();
            assert!(taken <= (4 * pages.len()).max(pages.len() + PAGE_LEN), "{taken}");
        }
        assert!(pages.is_empty() && pages.pop().is_none());
    }

    /// A mixer, so that the hashes of neighbours have nothing in common.
    fn hash(number: u32) -> u64 {
        let mixed = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn no_step_of_a_table_moves_more_than_a_segment() {
        let moved = Cell::new(0);
        let hash_of = |&number: &u32| (moved.set(moved.get() + 1), hash(number)).1;
        let (mut table, mut model) = (SplitTable::default(), BTreeSet::new());
        let mut most = 0;
        let numbers = (0..200_000).chain(150_000..350_000).chain(0..350_000);
        for (step, number) in numbers.enumerate() {
            moved.set(0);
            let is_such = |&other: &u32| other == number;
            if step < 400_000 {
                match table.place(hash(number), is_such, hash_of) {
                    Place::Occupied(_) => assert!(!model.insert(number)),
                    Place::Vacant(vacancy) => {
                        vacancy.insert(number);
                        assert!(model.insert(number));
                    }
                }
            } else {
                assert_eq!(table.remove(hash(number), is_such, hash_of), Some(number));
                assert!(model.remove(&number));
            }
            most = most.max(moved.get());
            assert_eq!(table.len(), model.len());
        }
        assert!(most > SEGMENT_LEN && most < 5 * SEGMENT_LEN, "{most} elements");
        assert!(table.segments.len() == 1 && table.segments[0].num_buckets() <= 16);
    }

    #[test]
    fn a_table_holds_what_was_put_there() {
        let (mut table, hash_of) = (SplitTable::default(), |&number: &u32| hash(number));
        for number in 0..20_000 {
            if let Place::Vacant(vacancy) = table.place(hash(number), |_| false, hash_of) {
                vacancy.insert(number);
            }
        }
        let buckets: usize = table.segments.iter().map(HashTable::num_buckets).sum();
        assert!(table.segments.len() > 10 && buckets < 4 * 20_000, "{buckets}");
        for number in 0..20_000 {
            assert_eq!(table.find(hash(number), |&n| n == number), Some(&number));
        }
        assert_eq!(table.find(hash(20_000), |&n| n == 20_000), None);
        assert_eq!(table.iter().collect::<BTreeSet<_>>().len(), 20_000);
        while let Some(&number) = table.any() {
            assert!(table.remove(hash(number), |&n| n == number, hash_of).is_some());
        }
        assert!(table.is_empty());
    }
}
