//! Routes that a source announces and that are in no table: policy does not permit them, for now.
//!
//! Owns them, since a peer does not say twice what it announces (they are of its Adj-RIB-In). Must never judge.

use ahash::RandomState;

use crate::types::{Pages, PeerClass, Place, Route, SplitTable, Vni};

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WithheldRoute {
    pub vni: Vni,
    pub route: Route,
    /// What the source was when it announced it.
    pub class: PeerClass,
    /// In which of its lives the source announced it last.
    pub life: u8,
}

/// Those of one source.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    routes: Pages<WithheldRoute>,
    /// Where each of them stands.
    places: SplitTable<u32>,
}

impl Withheld {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// The one at a place below [`Withheld::len`].
    pub(super) fn at(&self, place: usize) -> &WithheldRoute {
        &self.routes[place]
    }

    /// Whether it is there, announced in whichever life.
    pub(super) fn has(&self, withheld: &WithheldRoute, hasher: &RandomState) -> bool {
        let is_it = |&at: &u32| is_of(&self.routes[at as usize], withheld.vni, &withheld.route);
        self.places.find(hash_of(withheld, hasher), is_it).is_some()
    }

    /// Adds one. If it was there: says in which life it was announced before.
    pub(super) fn insert(&mut self, withheld: WithheldRoute, hasher: &RandomState) -> Option<u8> {
        let Withheld { routes, places } = self;
        let is_it = |&at: &u32| is_of(&routes[at as usize], withheld.vni, &withheld.route);
        let hash_at = |&at: &u32| hash_of(&routes[at as usize], hasher);
        match places.place(hash_of(&withheld, hasher), is_it, hash_at) {
            Place::Occupied(&mut at) => {
                Some(std::mem::replace(&mut routes[at as usize], withheld).life)
            }
            Place::Vacant(vacancy) => {
                vacancy.insert(u32::try_from(routes.len()).expect("a peer has below 2^32 routes"));
                routes.push(withheld);
                None
            }
        }
    }

    /// Takes one out, if it is there.
    pub(super) fn take(
        &mut self,
        vni: Vni,
        route: &Route,
        hasher: &RandomState,
    ) -> Option<WithheldRoute> {
        let hash = hasher.hash_one((vni, route));
        let is_it = |&at: &u32| is_of(&self.routes[at as usize], vni, route);
        let place = *self.places.find(hash, is_it)?;
        Some(self.take_at(place as usize, hasher))
    }

    /// Takes the one at a place out; the last one stands there then.
    pub(super) fn take_at(&mut self, place: usize, hasher: &RandomState) -> WithheldRoute {
        let Withheld { routes, places } = self;
        let last = routes.len() - 1;
        let hash_at = |&at: &u32| hash_of(&routes[at as usize], hasher);
        let taken = routes[place];
        let was = places.remove(hash_of(&taken, hasher), |&at| at as usize == place, hash_at);
        assert!(was.is_some(), "each has its place");
        if place < last {
            let moved = routes[last];
            match places.find_mut(hash_of(&moved, hasher), |&at| at as usize == last) {
                Some(at) => *at = place as u32,
                None => unreachable!("each has its place"),
            }
            routes[place] = moved;
        }
        let _ = routes.pop();
        taken
    }
}

fn is_of(withheld: &WithheldRoute, vni: Vni, route: &Route) -> bool {
    withheld.vni == vni && withheld.route == *route
}

fn hash_of(withheld: &WithheldRoute, hasher: &RandomState) -> u64 {
    hasher.hash_one((withheld.vni, withheld.route))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rib::tests::route;

    proptest! {
        /// As a plain map does it, whatever is taken out where.
        #[test]
        fn what_is_put_in_is_there(steps in proptest::collection::vec((0u8..4, 0u32..40), 0..400)) {
            let hasher = RandomState::with_seeds(1, 2, 3, 4);
            let (mut withheld, mut model) = (Withheld::default(), BTreeMap::new());
            for (what, number) in steps {
                let (vni, route) = (Vni(number % 3), route(number));
                let life = what;
                let one = WithheldRoute { vni, route, class: PeerClass::Client, life };
                match what {
                    0 | 1 => {
                        let before = model.insert((vni, route), life);
                        prop_assert_eq!(withheld.insert(one, &hasher), before);
                    }
                    2 => {
                        let taken = withheld.take(vni, &route, &hasher).map(|it| it.life);
                        prop_assert_eq!(taken, model.remove(&(vni, route)));
                    }
                    _ if withheld.len() > 0 => {
                        let taken = withheld.take_at(number as usize % withheld.len(), &hasher);
                        let life = model.remove(&(taken.vni, taken.route));
                        prop_assert_eq!(life, Some(taken.life));
                    }
                    _ => {}
                }
                prop_assert_eq!(withheld.len(), model.len());
                let all = (0..withheld.len()).map(|at| withheld.at(at));
                let all: BTreeMap<_, _> = all.map(|it| ((it.vni, it.route), it.life)).collect();
                prop_assert_eq!(&all, &model);
            }
        }
    }
}
