//! Keys for which the engine has no room, tried in turn.
//!
//! Owns whose turn it is. Must never have one twice.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use crate::types::{Route, Vni};

/// A route, and where it belongs.
pub(super) type Key = (Vni, Route);

#[derive(Debug, Default)]
pub(super) struct Waiting {
    keys: BTreeSet<Key>,
    last: Option<Key>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn put(&mut self, key: Key) {
        self.keys.insert(key);
    }

    /// Takes one out. False if it was not there.
    pub(super) fn take(&mut self, key: &Key) -> bool {
        self.keys.remove(key)
    }

    /// Takes the next one out: that behind the last one.
    pub(super) fn next(&mut self) -> Option<Key> {
        let from = self.last.map_or(Unbounded, Excluded);
        let next = self.keys.range((from, Unbounded)).next().or_else(|| self.keys.first());
        let next = *next?;
        self.keys.remove(&next);
        self.last = Some(next);
        Some(next)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Key> {
        std::mem::take(&mut self.keys).into_iter()
    }
}
