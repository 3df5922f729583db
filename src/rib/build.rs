//! A base under construction: the table, encoded step by step while it changes.
//!
//! Owns what is encoded so far. Must never miss a route, nor tell one twice.

use super::UpdateGroup;
use super::table::VniTable;
use super::visibility::Visibility;
use super::vni::Rules;
use crate::log::{CHUNK_BYTES_MAX, Frames, FramesList, Scope};
use crate::types::{Action, Pages, Place, SplitTable};
use crate::wire::encode_update;

/// A copy costs about a tenth of an encoding: bytes that are copied in one step.
const COPIED_BYTES_PER_STEP: usize = 512;

/// Places below `next` have been visited, those from `end` on never will be; the table uses no place again
/// meanwhile. So a record is in the base already, or is still to come, exactly if its place lies between
/// them; all others go behind the base.
#[derive(Debug)]
pub(super) struct Build {
    next: u32,
    end: u32,
    /// Default routes, and the others.
    buckets: [Buckets; 2],
    bytes: usize,
    /// The records behind the base.
    pub since: FramesList,
    /// What was put together, when all places were visited, and of how many buckets.
    frames: Option<Frames>,
    taken: usize,
}

/// Frames by audience: a subscriber's own routes are to lie together. An audience with more than a chunk
/// of them has several buckets.
#[derive(Debug, Default)]
struct Buckets {
    all: Pages<(Scope, Vec<u8>)>,
    /// The last bucket of each audience, by its hash.
    last_of: SplitTable<u32>,
    last: usize,
}

impl Build {
    /// Of the table as it is now, which is frozen.
    pub(super) fn new(table: &mut VniTable, rules: &Rules) -> Build {
        table.freeze();
        Build {
            next: 0,
            end: u32::try_from(table.places()).expect("a VNI has below 2^32 routes"),
            buckets: Default::default(),
            bytes: 0,
            since: FramesList::new(rules.shared.clone()),
            frames: None,
            taken: 0,
        }
    }

    /// Whether what changed at this place belongs behind the base.
    pub(super) fn is_behind(&self, place: u32) -> bool {
        place < self.next || place >= self.end
    }

    /// Goes on, for about `budget` routes (reduced by what was used). True when nothing is left to do.
    pub(super) fn run(
        &mut self,
        group: UpdateGroup,
        table: &VniTable,
        rules: &Rules,
        budget: &mut usize,
    ) -> bool {
        self.scan(group, table, rules, budget) && self.assemble(budget)
    }

    /// The base, and the records behind it.
    pub(super) fn finish(self) -> (Frames, FramesList) {
        (self.frames.unwrap_or_default(), self.since)
    }

    /// Visits places. True when all have been.
    fn scan(
        &mut self,
        group: UpdateGroup,
        table: &VniTable,
        rules: &Rules,
        budget: &mut usize,
    ) -> bool {
        let mut frame = Vec::with_capacity(128);
        while self.next < self.end {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            let entry = table.entry(self.next);
            self.next += 1;
            if entry.is_vacant() {
                continue;
            }
            let reflected = rules.reflect.permits(entry.route.next_hop.kind);
            let visibility =
                Visibility::of(entry.announcers(&rules.speakers), group.class, reflected);
            let Some(scope) = visibility.scope() else {
                continue;
            };
            frame.clear();
            encode_update(&mut frame, Action::Add, group.vni, &entry.route);
            self.bytes += frame.len();
            let is_default = entry.route.destination.is_default();
            self.buckets[usize::from(!is_default)].push(&frame, scope, rules);
        }
        true
    }

    /// Puts the buckets together. True when all are.
    fn assemble(&mut self, budget: &mut usize) -> bool {
        let frames = self.frames.get_or_insert_with(|| Frames::with_capacity(self.bytes));
        let [head, rest] = &mut self.buckets;
        let count = head.all.len() + rest.all.len();
        while self.taken < count {
            if *budget == 0 {
                return false;
            }
            let (scope, bytes) = match self.taken.checked_sub(head.all.len()) {
                None => &mut head.all[self.taken],
                Some(at) => &mut rest.all[at],
            };
            *budget = budget.saturating_sub(1 + bytes.len() / COPIED_BYTES_PER_STEP);
            frames.push(&std::mem::take(bytes), *scope);
            self.taken += 1;
            if self.taken == head.all.len() {
                frames.end_head();
            }
        }
        true
    }
}

impl Buckets {
    fn push(&mut self, frame: &[u8], scope: Scope, rules: &Rules) {
        let Buckets { all, last_of, last } = self;
        if all.is_empty() || all[*last].0 != scope {
            let hash_of = |scope: &Scope| rules.hasher.hash_one(scope);
            let is_it = |&at: &u32| all[at as usize].0 == scope;
            let hash_at = |&at: &u32| hash_of(&all[at as usize].0);
            *last = match last_of.place(hash_of(&scope), is_it, hash_at) {
                Place::Occupied(&mut at) => at as usize,
                Place::Vacant(vacancy) => {
                    vacancy.insert(all.len() as u32);
                    all.push((scope, Vec::new()));
                    all.len() - 1
                }
            };
        }
        if all[*last].1.len() + frame.len() > CHUNK_BYTES_MAX {
            let is_it = |&at: &u32| at as usize == *last;
            if let Some(at) = last_of.find_mut(rules.hasher.hash_one(scope), is_it) {
                *at = all.len() as u32;
            }
            *last = all.len();
            // As much as before, or it would not have come to this.
            all.push((scope, Vec::with_capacity(CHUNK_BYTES_MAX)));
        }
        all[*last].1.extend_from_slice(frame);
    }
}
