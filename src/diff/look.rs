//! One look at all sides: which routes differ.
//!
//! Owns the order of questions: digests first, then the routes of as few VNIs as may be. Must never hold more routes of
//! a side than [`ROUTES_MAX`], or one VNI.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use metalbond_uring::internals::cli::DiffOptions;
use metalbond_uring::types::{Route, Vni};

use super::side::{Identity, Index, Source};
use crate::ask::AskError;

/// Routes of one side that are compared at a time, unless one VNI has more.
const ROUTES_MAX: u64 = 1_000_000;

/// The sides that have a route, by their place; at most 64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holders(pub(super) u64);

/// A route that some have and some do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Difference {
    pub(super) vni: Vni,
    pub(super) route: Route,
    pub(super) holders: Holders,
}

/// What was seen.
pub(super) struct Look {
    pub(super) identity: Identity,
    /// VNIs with a route on some side.
    pub(super) vnis: usize,
    /// Those with routes that differ.
    pub(super) vnis_that_differ: usize,
    /// Routes that differ.
    pub(super) differences: u64,
    /// Routes of the first side.
    pub(super) routes: u64,
    /// The places of sides that are clients, and were asked for received routes.
    pub(super) clients: Vec<usize>,
    /// The places of sides that tell addresses only, and what each told that is no route.
    pub(super) bare: Vec<usize>,
    pub(super) unreadable: Vec<u64>,
}

impl Holders {
    pub(super) fn has(self, side: usize) -> bool {
        self.0 >> side & 1 == 1
    }
}

/// Looks at all sides, and calls `each` with what differs, by VNI and route. Nobody is asked after `until`.
pub(super) fn look(
    options: &DiffOptions,
    until: Option<Instant>,
    each: &mut dyn FnMut(&Difference, Identity),
) -> Result<Look, AskError> {
    let mut indices =
        at_once(&options.sides, |side| Index::of(side, &options.vnis, options.timeout, until))?;
    let clients: Vec<usize> = (0..indices.len()).filter(|at| indices[*at].is_client).collect();
    let bare: Vec<usize> =
        (0..indices.len()).filter(|at| indices[*at].has_bare_addresses).collect();
    let identity = if bare.is_empty() { Identity::Full } else { Identity::Addresses };
    if !indices.iter().all(|index| index.knows(identity)) {
        indices = at_once(&indices, |index| match index.knows(identity) {
            true => Ok(None),
            false => Index::by_reading(index.source.clone(), &options.vnis).map(Some),
        })?
        .into_iter()
        .zip(indices)
        .map(|(read, known)| read.unwrap_or(known))
        .collect();
    }
    let vnis: BTreeSet<Vni> = indices.iter().flat_map(|index| index.vnis.keys().copied()).collect();
    let differing = vnis.iter().copied().filter(|vni| {
        let digest = |index: &Index| index.digest(*vni, identity);
        indices.iter().any(|index| digest(index) != digest(&indices[0]))
    });
    let routes_of = |vni| {
        let routes = indices.iter().filter_map(|index| index.vnis.get(&vni)).map(|it| it.routes);
        routes.max().unwrap_or(0)
    };
    let sources: Vec<&Source> = indices.iter().map(|index| &index.source).collect();
    let (mut differences, mut vnis_that_differ) = (0, 0);
    for batch in batches(differing, routes_of) {
        let tables = at_once(&sources, |source| source.tables(&batch, identity))?;
        for vni in batch {
            let tables: Vec<&[Route]> = tables
                .iter()
                .map(|tables| tables.get(&vni).map_or(&[][..], Vec::as_slice))
                .collect();
            let before = differences;
            compare(&tables, &mut |route, holders| {
                differences += 1;
                each(&Difference { vni, route: *route, holders }, identity);
            });
            vnis_that_differ += usize::from(differences > before);
        }
    }
    Ok(Look {
        identity,
        vnis: vnis.len(),
        vnis_that_differ,
        differences,
        // A node may claim any number.
        routes: (indices[0].vnis.values())
            .fold(0, |sum, summary| sum.saturating_add(summary.routes)),
        clients,
        bare,
        unreadable: indices.iter().map(|index| index.unreadable).collect(),
    })
}

/// Asks all at the same time, so that what they say is of one moment, nearly.
fn at_once<T: Sync, R: Send>(
    all: &[T],
    ask: impl Fn(&T) -> Result<R, AskError> + Sync,
) -> Result<Vec<R>, AskError> {
    std::thread::scope(|scope| {
        let ask = &ask;
        let asked: Vec<_> = all.iter().map(|one| scope.spawn(move || ask(one))).collect();
        let told = asked.into_iter().map(|thread| match thread.join() {
            Ok(told) => told,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        told.collect()
    })
}

/// VNIs that are compared together.
fn batches(vnis: impl Iterator<Item = Vni>, routes_of: impl Fn(Vni) -> u64) -> Vec<BTreeSet<Vni>> {
    let mut batches: Vec<BTreeSet<Vni>> = Vec::new();
    let mut room = 0;
    for vni in vnis {
        let routes = routes_of(vni);
        match batches.last_mut().filter(|_| routes <= room) {
            Some(batch) => {
                batch.insert(vni);
                room -= routes;
            }
            None => {
                batches.push([vni].into());
                room = ROUTES_MAX.saturating_sub(routes);
            }
        }
    }
    batches
}

/// Calls `each` with the routes that some of these sorted tables have, and some have not.
fn compare(tables: &[&[Route]], each: &mut dyn FnMut(&Route, Holders)) {
    let mut rest: Vec<&[Route]> = tables.to_vec();
    while let Some(&least) = rest.iter().filter_map(|table| table.first()).min() {
        let mut holders = 0;
        for (side, table) in rest.iter_mut().enumerate() {
            if table.first() == Some(&least) {
                *table = &table[1..];
                holders |= 1 << side;
            }
        }
        if holders != u64::MAX >> (64 - tables.len()) {
            each(&least, Holders(holders));
        }
    }
}

/// What differed in each of several looks, in the same way.
#[derive(Default)]
pub(super) struct Lasting {
    kept: Option<BTreeMap<(Vni, Route), Holders>>,
    now: BTreeMap<(Vni, Route), Holders>,
}

impl Lasting {
    /// In this look a route differs.
    pub(super) fn note(&mut self, difference: &Difference) {
        let key = (difference.vni, difference.route);
        let lasts =
            self.kept.as_ref().is_none_or(|kept| kept.get(&key) == Some(&difference.holders));
        if lasts {
            self.now.insert(key, difference.holders);
        }
    }

    /// The look is over.
    pub(super) fn end_look(&mut self) {
        self.kept = Some(std::mem::take(&mut self.now));
    }

    /// The look came to nothing.
    pub(super) fn forget_look(&mut self) {
        self.now.clear();
    }

    /// What has differed all the time.
    pub(super) fn differences(&self) -> impl Iterator<Item = Difference> {
        let kept = self.kept.iter().flatten();
        kept.map(|((vni, route), holders)| Difference {
            vni: *vni,
            route: *route,
            holders: *holders,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(number: u8) -> Route {
        Route {
            destination: format!("10.0.0.{number}/32").parse().unwrap(),
            next_hop: "2001:db8::1".parse().unwrap(),
        }
    }

    fn differences(tables: &[&[u8]]) -> Vec<(u8, u64)> {
        let tables: Vec<Vec<Route>> = tables
            .iter()
            .map(|table| table.iter().map(|number| route(*number)).collect())
            .collect();
        let tables: Vec<&[Route]> = tables.iter().map(Vec::as_slice).collect();
        let mut found = Vec::new();
        compare(&tables, &mut |route, Holders(holders)| {
            let std::net::IpAddr::V4(prefix) = route.destination.prefix else { unreachable!() };
            found.push((prefix.octets()[3], holders));
        });
        found
    }

    #[test]
    fn sorted_tables_are_compared() {
        assert_eq!(differences(&[&[1, 2], &[1, 2]]), []);
        assert_eq!(differences(&[&[1, 2, 5], &[2, 3]]), [(1, 1), (3, 2), (5, 1)]);
        assert_eq!(differences(&[&[], &[7]]), [(7, 2)]);
        assert_eq!(differences(&[&[1, 2], &[1], &[2, 9]]), [(1, 3), (2, 5), (9, 4)]);
        let many: Vec<&[u8]> = std::iter::repeat_n(&[1_u8][..], 64).collect();
        assert_eq!(differences(&many), []);
        let mut but_one = many.clone();
        but_one[63] = &[];
        assert_eq!(differences(&but_one), [(1, u64::MAX >> 1)]);
    }

    #[test]
    fn many_small_vnis_are_asked_for_together_and_large_ones_alone() {
        let routes = |vni: Vni| [10, ROUTES_MAX * 2, 20, ROUTES_MAX - 20, 1][vni.0 as usize];
        let batches = batches((0..5).map(Vni), routes);
        let expected: Vec<BTreeSet<Vni>> =
            vec![[Vni(0)].into(), [Vni(1)].into(), [Vni(2), Vni(3)].into(), [Vni(4)].into()];
        assert_eq!(batches, expected);
    }

    #[test]
    fn what_lasts_differed_each_time_in_the_same_way() {
        let difference = |number, holders| Difference {
            vni: Vni(7),
            route: route(number),
            holders: Holders(holders),
        };
        let mut lasting = Lasting::default();
        for look in [[(1, 1), (2, 1), (3, 1)], [(1, 1), (2, 2), (4, 1)]] {
            look.iter().for_each(|(number, holders)| lasting.note(&difference(*number, *holders)));
            lasting.end_look();
        }
        lasting.note(&difference(2, 2));
        lasting.forget_look();
        assert_eq!(lasting.differences().collect::<Vec<_>>(), [difference(1, 1)]);
    }
}
