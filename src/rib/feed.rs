//! What joiners of a group get: a shared encoding of the table, and what changed since.
//!
//! Owns a group's followers, its bases and the joins that wait for one. Must never have more than
//! two bases of a group alive, keep one that nobody used for a while, nor let what it keeps behind one
//! grow faster than the work on it goes on.

use std::sync::{Arc, Weak};
use std::time::Duration;

use smallvec::SmallVec;

use super::build::Build;
use super::table::VniTable;
use super::vni::Rules;
use super::{Joined, RecordSink, UpdateGroup};
use crate::log::{Frames, FramesList, Merge, Scope};
use crate::types::{GroupClass, PeerId, ShardId, SplitMap, Time, Vni};

/// How long an unused base is kept for the next joiner.
pub const BASE_KEPT: Duration = Duration::from_secs(1);

/// What one route costs when a base is built, about.
const ROUTE_BUILD_TIME: Duration = Duration::from_nanos(100);
/// The shortest time for which a base serves all joiners.
const BUILD_TIME_MIN: Duration = Duration::from_millis(10);

/// A record that is kept for joiners pays for it with so many steps of the work that will end this: of the
/// base being built, or of the merge that shortens what is behind one. So what is kept grows at most by an
/// eighth of that meanwhile, however fast records come.
const STEPS_PER_RECORD: usize = 8;

/// One group (the subscribers of a VNI that belong to one class) at its home shard.
#[derive(Debug, Default)]
pub(super) struct Feed {
    followers: SmallVec<[ShardId; 8]>,
    base: Option<Base>,
    /// The base before, which somebody may still be reading.
    older: Weak<Frames>,
    build: Option<Box<Build>>,
    /// Who waits for an answer, by shard, each with the subscription that asked last.
    waiting: SmallVec<[(ShardId, SplitMap<PeerId, u64>); 1]>,
    /// Whether [`Feed::go_on`] will be called.
    is_queued: bool,
    /// Whether [`Feed::expire`] will be called.
    pub is_watched: bool,
}

/// What a change of a route's sources is worth telling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// Where the route stands in the table.
    pub place: u32,
    /// The UPDATE.
    pub frame: &'a [u8],
    /// Whom it is for.
    pub scope: Scope,
    /// How many routes the VNI has now.
    pub routes_now: usize,
}

/// A subscriber that asks for the table.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    /// Who asks.
    pub peer: PeerId,
    /// Which of its subscriptions asks.
    pub epoch: u64,
}

/// A finished base and the records since.
#[derive(Debug)]
struct Base {
    frames: Arc<Frames>,
    since: FramesList,
    /// While the records since are made as short as they can be.
    merge: Option<Box<Merge>>,
    /// What that left of them the last time, in bytes.
    merged_bytes: usize,
    built_at: Time,
    last_used: Time,
}

impl Feed {
    /// Whether records have to be made for this group at all.
    pub(super) fn is_listening(&self) -> bool {
        !self.followers.is_empty() || self.base.is_some() || self.build.is_some()
    }

    /// Whether nothing is left to remember.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_listening() && self.waiting.is_empty()
    }

    /// Bases alive, for accounting: at most 2.
    pub(super) fn bases_alive(&self) -> usize {
        usize::from(self.base.is_some())
            + usize::from(self.older.strong_count() > 0)
            + usize::from(self.build.is_some())
    }

    /// A record: to the followers, and behind the base. Returns how much it cost beyond that, in steps.
    pub(super) fn record(
        &mut self,
        group: UpdateGroup,
        record: &Record<'_>,
        table: &VniTable,
        rules: &Rules,
        sink: &mut impl RecordSink,
    ) -> usize {
        let Record { place, frame, scope, routes_now } = *record;
        for &shard in &self.followers {
            sink.record(shard, group, scope, frame, routes_now);
        }
        let mut steps = STEPS_PER_RECORD;
        if let Some(build) = &mut self.build {
            if build.is_behind(place) {
                build.since.push(frame, scope);
                build.run(group, table, rules, &mut steps);
                return STEPS_PER_RECORD - steps;
            }
        } else if let Some(base) = &mut self.base {
            base.since.push(frame, scope);
            if let Some(merge) = &mut base.merge {
                if let Some(bytes) = merge.run(&mut base.since, &mut steps, &rules.hasher) {
                    base.merged_bytes = bytes;
                    base.merge = None;
                }
                return STEPS_PER_RECORD - steps;
            }
            let worth = rules.tail_bytes_min.max(base.frames.bytes().len() / 2) + base.merged_bytes;
            if base.since.bytes() > worth {
                self.trim();
            }
        }
        0
    }

    /// A subscriber joins. Answered at once if there is a base, else when one is ready: then true
    /// is returned and [`Feed::go_on`] must be called, until it is done.
    pub(super) fn join(
        &mut self,
        group: UpdateGroup,
        join: Join,
        table: &VniTable,
        rules: &Rules,
        sink: &mut impl RecordSink,
        now: Time,
    ) -> bool {
        self.refresh(table, now);
        if !self.is_queued && self.base.is_some() {
            self.answer(group, join, sink, now);
            return false;
        }
        let shard = join.peer.shard();
        let at = self.waiting.iter().position(|(of, _)| *of == shard).unwrap_or_else(|| {
            self.waiting.push((shard, SplitMap::default()));
            self.waiting.len() - 1
        });
        // Of a peer that subscribes again and again only the last subscription is worth an answer.
        *self.waiting[at].1.find_or(join.peer, &rules.hasher, || 0) = join.epoch;
        !std::mem::replace(&mut self.is_queued, true)
    }

    /// A shard has subscribers that know the table already.
    pub(super) fn follow(&mut self, shard: ShardId) {
        if !self.followers.contains(&shard) {
            self.followers.push(shard);
        }
    }

    /// A shard has no subscriber of the group any more.
    pub(super) fn leave(&mut self, shard: ShardId) {
        self.followers.retain(|follower| *follower != shard);
        self.waiting.retain(|(of, _)| *of != shard);
    }

    /// Whether a base was begun, and is not finished.
    #[cfg(test)]
    pub(super) fn is_building(&self) -> bool {
        self.build.is_some()
    }

    /// Whether [`Feed::go_on`] would begin a base.
    pub(super) fn would_begin(&self) -> bool {
        self.base.is_none() && self.build.is_none()
    }

    /// Goes on with what was asked for, for about `budget` routes or answers (reduced by what was used).
    /// True when done. A base is begun only now: while one is being built its table cannot be tidied up.
    pub(super) fn go_on(
        &mut self,
        group: UpdateGroup,
        table: &mut VniTable,
        rules: &Rules,
        budget: &mut usize,
        sink: &mut impl RecordSink,
        now: Time,
    ) -> bool {
        while self.build.is_some() || !self.waiting.is_empty() {
            let is_new = self.base.is_none();
            if is_new {
                let build = self.build.get_or_insert_with(|| Box::new(Build::new(table, rules)));
                if !build.run(group, table, rules, budget) {
                    return false;
                }
                self.finish_build(table, rules, now);
            }
            let Some((_, joins)) = self.waiting.last_mut() else { break };
            // A base that nobody reads may be let go before the next slice: then all was in vain.
            if *budget == 0 && !is_new {
                return false;
            }
            *budget = budget.saturating_sub(1);
            match joins.any_key() {
                Some(peer) => {
                    let epoch = joins.remove(peer, &rules.hasher).unwrap_or_default();
                    self.answer(group, Join { peer, epoch }, sink, now);
                }
                None => drop(self.waiting.pop()),
            }
        }
        self.is_queued = false;
        true
    }

    /// Drops a base that nobody reads or asked for lately. True if there is none (any more).
    pub(super) fn expire(&mut self, now: Time) -> bool {
        if let Some(base) = &self.base
            && Arc::strong_count(&base.frames) == 1
            && now >= base.last_used.after(BASE_KEPT)
        {
            self.base = None;
        }
        self.base.is_none()
    }

    /// The table is looked at with other eyes from now on: no joiner gets what was encoded before.
    pub(super) fn forget_base(&mut self, table: &mut VniTable) {
        if self.build.take().is_some() {
            table.thaw();
        }
        if let Some(base) = self.base.take() {
            self.older = Arc::downgrade(&base.frames);
        }
    }

    fn finish_build(&mut self, table: &mut VniTable, rules: &Rules, now: Time) {
        let Some(build) = self.build.take() else { return };
        table.thaw();
        let (frames, since) = build.finish();
        self.base = Some(Base {
            frames: frames.share(&rules.shared),
            since,
            merge: None,
            merged_bytes: 0,
            built_at: now,
            last_used: now,
        });
    }

    fn answer(&mut self, group: UpdateGroup, join: Join, sink: &mut impl RecordSink, now: Time) {
        self.follow(join.peer.shard());
        let Some(base) = &mut self.base else { unreachable!("it was looked for") };
        base.last_used = now;
        let Join { peer, epoch } = join;
        let shard = peer.shard();
        let blocks = base.since.behind(Some(base.frames.clone()));
        sink.joined(shard, Joined { group, peer, epoch, blocks });
    }

    /// A joiner should not be told history. A base that has some behind it serves for about ten times
    /// as long as a new one takes to build, then it is let go, if no third one can come of it.
    fn refresh(&mut self, table: &VniTable, now: Time) {
        let Some(base) = &self.base else { return };
        let serves = BUILD_TIME_MIN.max(ROUTE_BUILD_TIME * 10 * table.len() as u32);
        if base.since.bytes() == 0 || now < base.built_at.after(serves) {
            return;
        }
        let is_read = Arc::strong_count(&base.frames) > 1;
        if is_read && self.older.strong_count() > 0 {
            return;
        }
        if is_read {
            self.older = Arc::downgrade(&base.frames);
        }
        self.base = None;
    }

    /// What is behind the base has grown too long. Let the base go if no third one can come of it; else
    /// begin to shorten that.
    fn trim(&mut self) {
        let Some(base) = &mut self.base else { return };
        if Arc::strong_count(&base.frames) == 1 {
            self.base = None;
        } else if self.older.strong_count() == 0 {
            self.older = Arc::downgrade(&base.frames);
            self.base = None;
        } else {
            base.merge = Some(Box::new(Merge::new(&mut base.since)));
        }
    }
}

impl UpdateGroup {
    /// The group of `class` in `vni`.
    pub fn new(vni: Vni, class: GroupClass) -> UpdateGroup {
        UpdateGroup { vni, class }
    }
}
