//! One VNI at its home: its routes, and the groups that are told of their changes.
//!
//! Owns the order of things when a source comes or goes: table, visibility, record. Must never know
//! another VNI.

use std::sync::Arc;

use ahash::RandomState;

use super::feed::{Feed, Record};
use super::ledger::{Ledger, Pressure};
use super::speakers::{Role, SpeakerRef, Speakers};
use super::table::Entry;
use super::table::{RouteHash, VniTable};
use super::visibility::Visibility;
use super::{RecordSink, UpdateGroup};
use crate::log::SharedBytes;
use crate::policy::Denial;
use crate::types::{Announcers, Digest, GroupClass, ReflectOwn, Route, SourceId, Vni};
use crate::wire::encode_update;

const CLASSES: usize = GroupClass::ALL.len();

/// What holds for all VNIs of a home shard.
pub struct Rules {
    /// The seed of all tables.
    pub hasher: RandomState,
    /// Which routes are shown to their own source.
    pub reflect: ReflectOwn,
    /// Records behind a base that are worth keeping however small the base is, in bytes: they are kept as long as
    /// they are shorter than that or half the base.
    pub tail_bytes_min: usize,
    /// Routes that a VNI may have, and all tables of the node.
    pub routes_per_vni_max: u32,
    /// See `routes_per_vni_max`.
    pub routes_max: u64,
    /// What the node's shards have in common.
    pub ledger: Arc<Ledger>,
    /// Counts the bytes of bases, and of what is behind them.
    pub shared: SharedBytes,
    /// Whom sources speak for.
    pub speakers: Speakers,
    /// Whether other reflectors are told who announces what.
    pub publishes: bool,
    /// Whether routes come from a process that has taken them already: then no limit counts.
    pub is_restoring: bool,
}

impl Rules {
    /// Without limits, and without reflected routes.
    pub fn new(hasher: RandomState) -> Rules {
        Rules {
            hasher,
            reflect: ReflectOwn::None,
            tail_bytes_min: 0,
            routes_per_vni_max: u32::MAX,
            routes_max: u64::MAX,
            ledger: Arc::default(),
            shared: SharedBytes::default(),
            speakers: Speakers::default(),
            publishes: false,
            is_restoring: false,
        }
    }
}

/// What all VNIs of a home shard have in common.
pub(super) struct Common {
    pub rules: Rules,
    /// Routes of all VNIs.
    pub routes: usize,
    /// What changes cost beyond themselves since somebody asked, in steps.
    pub steps: usize,
    /// The record being made.
    frame: Vec<u8>,
}

impl Common {
    /// Of no VNIs yet.
    pub(super) fn new(rules: Rules) -> Common {
        Common { rules, routes: 0, steps: 0, frame: Vec::with_capacity(128) }
    }
}

/// A VNI.
#[derive(Debug)]
pub(super) struct VniRib {
    vni: Vni,
    /// Its routes.
    pub table: VniTable,
    /// Of these.
    pub digest: Digest,
    /// Its subscribers, by class.
    pub feeds: Feeds,
    /// Whether its table waits to be compacted.
    pub is_compacting: bool,
    /// Whether its table is gone through, since there is another policy.
    pub is_judged: bool,
}

/// How a route looks.
#[derive(Clone, Copy)]
struct Views {
    visible: [Visibility; CLASSES],
    published: Announcers,
}

/// Why a home refuses a route.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// The VNI has as many as it may.
    VniFull,
    /// All tables together have as many as they may.
    TablesFull,
    /// Memory is short.
    Memory,
    /// Policy does not permit it. It is kept for when it does.
    Policy(Denial),
}

/// The groups of a VNI: one word where nobody subscribes, for there may be 100,000 such VNIs.
#[derive(Debug, Default)]
pub(super) struct Feeds(Option<Box<[Option<Box<Feed>>; CLASSES]>>);

impl Feeds {
    /// The group of a class, if there is one.
    pub(super) fn of(&self, class: GroupClass) -> Option<&Feed> {
        self.0.as_ref()?[class.index()].as_deref()
    }

    /// The same, to be changed.
    pub(super) fn of_mut(&mut self, class: GroupClass) -> Option<&mut Feed> {
        self.0.as_mut()?[class.index()].as_deref_mut()
    }

    /// The group of a class; a new one if there is none yet.
    pub(super) fn of_or_new(&mut self, class: GroupClass) -> &mut Feed {
        let groups = self.0.get_or_insert_with(Box::default);
        groups[class.index()].get_or_insert_default()
    }

    /// All that there are.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Feed> {
        self.0.iter().flat_map(|groups| groups.iter().flatten()).map(|at| &**at)
    }

    /// Forgets those that are over. True if none is left.
    fn tidy(&mut self) -> bool {
        let Some(groups) = &mut self.0 else { return true };
        for group in groups.iter_mut() {
            if group.as_ref().is_some_and(|at| at.is_idle()) {
                *group = None;
            }
        }
        if groups.iter().all(Option::is_none) {
            self.0 = None;
        }
        self.0.is_none()
    }
}

impl VniRib {
    /// Nothing yet.
    pub(super) fn new(vni: Vni) -> VniRib {
        VniRib {
            vni,
            table: VniTable::default(),
            digest: Digest::default(),
            feeds: Feeds::default(),
            is_compacting: false,
            is_judged: false,
        }
    }

    /// A source announces a route. Says how many it announces here now; or, if it did so already, as what.
    ///
    /// # Errors
    /// Why the route is refused.
    pub(super) fn add(
        &mut self,
        source: SourceId,
        role: Role,
        (route, hash): (&Route, RouteHash),
        common: &mut Common,
        sink: &mut impl RecordSink,
    ) -> Result<Result<usize, Role>, Refusal> {
        let rules = &common.rules;
        if let Some(refusal) = self.shortage(rules) {
            let place = self.table.find(route, hash);
            let entry = place.map(|place| self.table.entry(place));
            let is_known = entry.is_some_and(|entry| entry.has(source) || entry.has_former(source));
            // What is announced already costs nothing, and by somebody else it costs little.
            if !is_known && (place.is_none() || refusal == Refusal::Memory) {
                return Err(refusal);
            }
        }
        let place = self.table.find_or_insert(route, hash, &rules.hasher);
        let before = self.views(place, rules);
        if self.table.entry(place).is_vacant() {
            let routes_max = if rules.is_restoring { u64::MAX } else { rules.routes_max };
            if !rules.ledger.take_route(routes_max) {
                self.table.give_back(place, &rules.hasher);
                return Err(Refusal::TablesFull);
            }
            common.routes += 1;
            self.digest.add(route);
        }
        let routes = self.table.add_source(place, source, role, &common.rules.hasher);
        match routes {
            Ok(_) => self.tell(place, route, before, common, sink),
            Err(known) if known.speaker() != role.speaker() => {
                // Others than before may not see it now: two records, so two steps.
                self.table.set_role(place, source, role.speaking_for(SpeakerRef::MANY));
                self.tell(place, route, before, common, sink);
                let before = self.views(place, &common.rules);
                self.table.set_role(place, source, role);
                self.tell(place, route, before, common, sink);
            }
            Err(_) => {}
        }
        Ok(routes)
    }

    /// The entry of a route.
    pub(super) fn entry_of(&self, route: &Route, hasher: &RandomState) -> Option<&Entry> {
        let place = self.table.find(route, RouteHash::of(route, hasher))?;
        Some(self.table.entry(place))
    }

    /// A source withdraws the route at `place`. Says how many it has left here; none if it does not
    /// announce it.
    pub(super) fn remove(
        &mut self,
        source: SourceId,
        place: u32,
        common: &mut Common,
        sink: &mut impl RecordSink,
    ) -> Option<usize> {
        let entry = self.table.entry(place);
        let (route, speaker) = (entry.route, entry.announced(source)?.speaker());
        let before = self.views(place, &common.rules);
        let left = self.table.remove_source(place, source, &common.rules.hasher)?;
        if self.table.entry(place).is_vacant() {
            common.routes -= 1;
            common.rules.ledger.give_route_back();
            self.digest.remove(&route);
        }
        self.tell(place, &route, before, common, sink);
        common.rules.speakers.give_back(speaker, &common.rules.hasher);
        Some(left)
    }

    /// Withdraws what a source announces here, as far as `budget` goes. True when nothing is left.
    pub(super) fn withdraw(
        &mut self,
        source: SourceId,
        budget: &mut usize,
        common: &mut Common,
        sink: &mut impl RecordSink,
    ) -> bool {
        while let Some(place) = self.table.last_of(source, &common.rules.hasher) {
            if *budget == 0 {
                return false;
            }
            let removed = self.remove(source, place, common, sink);
            assert!(removed.is_some(), "a listed route has the source");
            *budget = budget.saturating_sub(1 + std::mem::take(&mut common.steps));
        }
        true
    }

    /// Withdraws what a source announced here no later than in `life`, as far as `budget` goes, from `at` on: see
    /// [`VniTable::announced_up_to`]. Says how many routes those were.
    pub(super) fn sweep(
        &mut self,
        (source, life): (SourceId, u8),
        at: &mut u32,
        budget: &mut usize,
        common: &mut Common,
        sink: &mut impl RecordSink,
    ) -> u32 {
        let mut swept = 0;
        while *budget > 0 {
            let hasher = &common.rules.hasher;
            let found = self.table.announced_up_to(source, life, at, budget, hasher);
            let Some(place) = found else { break };
            let removed = self.remove(source, place, common, sink);
            assert!(removed.is_some(), "a listed route has the source");
            *budget = budget.saturating_sub(1 + std::mem::take(&mut common.steps));
            swept += 1;
        }
        swept
    }

    /// Forgets groups that are over. True if nothing is left of the VNI: a large table is compacted
    /// before, since to drop it would take long.
    pub(super) fn tidy(&mut self) -> bool {
        self.feeds.tidy() && self.table.is_empty() && !self.table.is_sparse() && !self.is_judged
    }

    /// Why no more routes are taken, if so.
    fn shortage(&self, rules: &Rules) -> Option<Refusal> {
        if rules.is_restoring {
            return None;
        }
        let routes_max = rules.routes_per_vni_max as usize;
        // The places are counted already, the routes of a small table are not.
        let is_full = self.table.places() >= routes_max && self.table.len() >= routes_max;
        match rules.ledger.pressure() {
            Pressure::Routes | Pressure::Joins | Pressure::Connections => Some(Refusal::Memory),
            _ if is_full => Some(Refusal::VniFull),
            _ if rules.ledger.routes() >= rules.routes_max => Some(Refusal::TablesFull),
            _ => None,
        }
    }

    /// How the route at `place` looks: to the classes in which somebody listens, and to other reflectors.
    fn views(&self, place: u32, rules: &Rules) -> Views {
        let mut visible = [Visibility::Nobody; CLASSES];
        for class in GroupClass::ALL {
            if self.feeds.of(class).is_some_and(Feed::is_listening) {
                let entry = self.table.entry(place);
                let reflected = rules.reflect.permits(entry.route.next_hop.kind);
                let announcers = entry.announcers(&rules.speakers);
                visible[class.index()] = Visibility::of(announcers, class, reflected);
            }
        }
        let published = match rules.publishes {
            true => self.published(place, &rules.speakers),
            false => Announcers::default(),
        };
        Views { visible, published }
    }

    /// Tells of the route at `place` what is otherwise than before.
    fn tell(
        &mut self,
        place: u32,
        route: &Route,
        before: Views,
        common: &mut Common,
        sink: &mut impl RecordSink,
    ) {
        let after = self.views(place, &common.rules);
        if before.published != after.published {
            sink.publish(self.vni, route, after.published);
        }
        let Common { rules, steps, frame, .. } = common;
        frame.clear();
        for class in GroupClass::ALL {
            // Where nobody listens, nobody saw it before and nobody sees it now.
            let Some((action, scope)) =
                Visibility::change(before.visible[class.index()], after.visible[class.index()])
            else {
                continue;
            };
            let Some(at) = self.feeds.of_mut(class) else {
                unreachable!("a group that listens is there");
            };
            if frame.is_empty() {
                // One source came or went: what classes are told differs in scope only.
                encode_update(frame, action, self.vni, route);
            }
            let record = Record { place, frame, scope, routes_now: self.table.len() };
            *steps +=
                at.record(UpdateGroup::new(self.vni, class), &record, &self.table, rules, sink);
        }
    }
}
