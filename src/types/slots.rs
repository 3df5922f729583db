//! Elements under numbers that are given out again: a slab of any size that grows in small steps.
//!
//! Owns which numbers are free. Must never move an element that stays.

use std::ops::{Index, IndexMut};

use super::growing::Pages;

/// A slab, in pages.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    all: Pages<Option<T>>,
    free: Pages<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { all: Pages::default(), free: Pages::default() }
    }
}

impl<T> Slots<T> {
    /// Puts an element under the number that became free last, or a new one.
    ///
    /// # Panics
    /// If there are 2^32 already.
    pub(crate) fn insert(&mut self, element: T) -> u32 {
        if let Some(at) = self.free.pop() {
            self.all[at as usize] = Some(element);
            return at;
        }
        self.all.push(Some(element));
        u32::try_from(self.all.len() - 1).expect("fewer than 2^32")
    }

    /// Takes an element away.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn remove(&mut self, at: u32) -> T {
        let removed = self.all[at as usize].take().expect("an element is removed once");
        self.free.push(at);
        removed
    }

    /// An element, if there is one.
    pub(crate) fn find_mut(&mut self, at: u32) -> Option<&mut T> {
        if at as usize >= self.all.len() {
            return None;
        }
        self.all[at as usize].as_mut()
    }

    /// All elements.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter().flatten()
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        self.all[at as usize].as_ref().expect("there is such an element")
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        self.all[at as usize].as_mut().expect("there is such an element")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain map.
        #[test]
        fn numbers_are_given_out_again(steps in prop::collection::vec((any::<bool>(), 0u32..20), 0..300)) {
            let (mut slots, mut model) = (Slots::default(), BTreeMap::new());
            for (value, (inserts, which)) in steps.into_iter().enumerate() {
                let known = model.keys().nth(which as usize).copied();
                match known.filter(|_| !inserts) {
                    Some(at) => prop_assert_eq!(Some(slots.remove(at)), model.remove(&at)),
                    None => {
                        let at = slots.insert(value);
                        prop_assert!((at as usize) < 300 && model.insert(at, value).is_none());
                    }
                }
                let all: Vec<usize> = slots.iter().copied().collect();
                prop_assert_eq!(all, model.values().copied().collect::<Vec<_>>());
                for at in 0..30 {
                    prop_assert_eq!(slots.find_mut(at).copied(), model.get(&at).copied());
                }
            }
        }
    }
}
