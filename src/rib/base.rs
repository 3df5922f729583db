//! What joiners of a group get: a shared encoding of the table, and what changed since.
//!
//! Owns a group's followers, its bases and the joins that wait for one. Must never have more than
//! two bases of a group alive, nor keep one that nobody used for a while.

use std::cmp::Reverse;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::RandomState;
use smallvec::SmallVec;

use super::table::VniTable;
use super::visibility::Visibility;
use super::{Group, Joined, RecordSink};
use crate::log::{Frames, FramesList, Scope, merged};
use crate::types::{
    Action, GroupClass, PeerId, ReflectOwn, SeededMap, ShardId, SourceId, Time, Vni,
};
use crate::wire::encode_update;

/// How long an unused base is kept for the next joiner.
pub const BASE_KEPT: Duration = Duration::from_secs(1);

/// What one route costs when a base is built, about.
const ROUTE_BUILD_TIME: Duration = Duration::from_nanos(100);
/// The shortest time for which a base serves all joiners.
const BUILD_TIME_MIN: Duration = Duration::from_millis(10);

/// Joins that wait are looked through for outdated ones from this number on.
const WAITING_MIN: usize = 64;

/// One group (the subscribers of a VNI that belong to one class) at its home shard.
#[derive(Debug, Default)]
pub struct GroupHome {
    followers: SmallVec<[ShardId; 8]>,
    base: Option<Base>,
    /// The base before, which somebody may still be reading.
    older: Weak<Frames>,
    build: Option<Box<Build>>,
    waiting: Vec<Join>,
    /// How long `waiting` may get before it is looked through.
    waiting_max: usize,
    /// Whether somebody will call `expire`.
    pub watched: bool,
    /// Records since the base that are worth keeping however small the base is, in bytes.
    tail_bytes_min: usize,
}

/// What a change of a route's sources is worth telling.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
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
    tail: FramesList,
    tail_bytes: usize,
    /// When the tail was last made as short as it can be, its length then.
    merged_bytes: usize,
    /// What was not handed to anybody yet.
    open: Frames,
    built_at: Time,
    last_used: Time,
}

/// A base under construction. Places below `next` have been visited, those from `end` on never
/// will be; the table uses no place again meanwhile. So a record is in the base already, or is
/// still to come, exactly if its place lies between them; all others go behind the base.
#[derive(Debug)]
struct Build {
    next: u32,
    end: u32,
    head: Frames,
    shared: Vec<u8>,
    by_source: SeededMap<SourceId, Vec<u8>>,
    since: Frames,
    /// Set when all places were visited: the buckets, still to be put together.
    assembly: Option<Assembly>,
}

#[derive(Debug)]
struct Assembly {
    frames: Frames,
    buckets: std::vec::IntoIter<(SourceId, Vec<u8>)>,
}

impl GroupHome {
    /// A group that nobody follows yet.
    pub fn new(tail_bytes_min: usize) -> GroupHome {
        GroupHome { tail_bytes_min, ..GroupHome::default() }
    }

    /// Whether records have to be made for this group at all.
    pub fn is_listening(&self) -> bool {
        !self.followers.is_empty() || self.base.is_some() || self.build.is_some()
    }

    /// Whether nothing is left to remember.
    pub fn is_idle(&self) -> bool {
        !self.is_listening() && self.waiting.is_empty()
    }

    /// Bases alive, for accounting: at most 2.
    pub fn bases_alive(&self) -> usize {
        usize::from(self.base.is_some())
            + usize::from(self.older.strong_count() > 0)
            + usize::from(self.build.is_some())
    }

    /// A record: to the followers, and behind the base.
    pub fn record(
        &mut self,
        group: Group,
        record: &Record<'_>,
        sink: &mut impl RecordSink,
        hasher: &RandomState,
    ) {
        let Record { place, frame, scope, routes_now } = *record;
        for &shard in &self.followers {
            sink.record(shard, group, scope, frame, routes_now);
        }
        if let Some(build) = &mut self.build {
            if place < build.next || place >= build.end {
                build.since.push(frame, scope);
            }
        } else if let Some(base) = &mut self.base {
            base.open.push(frame, scope);
            base.tail_bytes += frame.len();
            let worth = self.tail_bytes_min.max(base.frames.bytes().len() / 2) + base.merged_bytes;
            if base.tail_bytes > worth {
                self.trim(hasher);
            }
        }
    }

    /// A subscriber joins. Answered at once if there is a base, else when one is ready: then true
    /// is returned and a build must be run.
    pub fn join(
        &mut self,
        group: Group,
        join: Join,
        table: &mut VniTable,
        sink: &mut impl RecordSink,
        hasher: &RandomState,
        now: Time,
    ) -> bool {
        self.wait(join);
        if self.build.is_some() {
            return false;
        }
        self.refresh(table, now);
        if self.base.is_some() {
            self.answer(group, sink, now);
            return false;
        }
        table.freeze();
        self.build = Some(Box::new(Build {
            next: 0,
            end: u32::try_from(table.places()).expect("a VNI has below 2^32 routes"),
            head: Frames::default(),
            shared: Vec::new(),
            by_source: SeededMap::with_hasher(hasher.clone()),
            since: Frames::default(),
            assembly: None,
        }));
        true
    }

    /// A shard has no subscriber of the group any more.
    pub fn leave(&mut self, shard: ShardId) {
        self.followers.retain(|follower| *follower != shard);
        self.waiting.retain(|join| join.peer.shard() != shard);
    }

    /// Goes on building, for about `budget` routes (reduced by what was used). True when done.
    pub fn run_build(
        &mut self,
        group: Group,
        table: &mut VniTable,
        reflect: ReflectOwn,
        budget: &mut usize,
        sink: &mut impl RecordSink,
        now: Time,
    ) -> bool {
        let Some(build) = &mut self.build else {
            return true;
        };
        if build.assembly.is_none() && !build.scan(group, table, reflect, budget) {
            return false;
        }
        let Some(frames) = build.assemble(budget) else {
            return false;
        };
        table.thaw();
        let since = std::mem::take(&mut build.since);
        self.build = None;
        let tail_bytes = since.bytes().len();
        self.base = Some(Base {
            frames: Arc::new(frames),
            tail: FramesList::default(),
            tail_bytes,
            merged_bytes: 0,
            open: since,
            built_at: now,
            last_used: now,
        });
        self.answer(group, sink, now);
        true
    }

    /// Drops a base that nobody reads or asked for lately. True if there is none (any more).
    pub fn expire(&mut self, now: Time) -> bool {
        if let Some(base) = &self.base
            && Arc::strong_count(&base.frames) == 1
            && now >= base.last_used.after(BASE_KEPT)
        {
            self.base = None;
        }
        self.base.is_none()
    }

    /// Of a peer that subscribes again and again only the last subscription is worth an answer.
    fn wait(&mut self, join: Join) {
        self.waiting.push(join);
        if self.waiting.len() > self.waiting_max {
            self.waiting.sort_unstable_by_key(|join| (join.peer, Reverse(join.epoch)));
            self.waiting.dedup_by_key(|join| join.peer);
            self.waiting_max = (2 * self.waiting.len()).max(WAITING_MIN);
        }
    }

    fn answer(&mut self, group: Group, sink: &mut impl RecordSink, now: Time) {
        let Some(base) = &mut self.base else { return };
        base.last_used = now;
        if !base.open.is_empty() {
            base.tail.push(std::mem::take(&mut base.open));
        }
        for Join { peer, epoch } in self.waiting.drain(..) {
            let shard = peer.shard();
            if !self.followers.contains(&shard) {
                self.followers.push(shard);
            }
            let blocks = base.tail.behind(Some(base.frames.clone()));
            sink.joined(shard, Joined { group, peer, epoch, blocks });
        }
    }

    /// A joiner should not be told history. A base that has some behind it serves for about ten times
    /// as long as a new one takes to build, then it is let go, if no third one can come of it.
    fn refresh(&mut self, table: &VniTable, now: Time) {
        let Some(base) = &self.base else { return };
        let serves = BUILD_TIME_MIN.max(ROUTE_BUILD_TIME * 10 * table.len() as u32);
        if base.tail_bytes == 0 || now < base.built_at.after(serves) {
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

    /// The tail has grown too long. Let the base go if no third one can come of it; else shorten
    /// the tail to what differs.
    fn trim(&mut self, hasher: &RandomState) {
        let Some(base) = &mut self.base else { return };
        if Arc::strong_count(&base.frames) == 1 {
            self.base = None;
        } else if self.older.strong_count() == 0 {
            self.older = Arc::downgrade(&base.frames);
            self.base = None;
        } else {
            let open = std::mem::take(&mut base.open);
            let parts: Vec<Arc<Frames>> = base.tail.behind(None).collect();
            let short = merged(parts.iter().map(|part| &**part).chain([&open]), hasher);
            base.tail_bytes = short.bytes().len();
            base.merged_bytes = base.tail_bytes;
            // Who joined before reads the old list to its end.
            base.tail = FramesList::default();
            base.open = short;
        }
    }
}

impl Build {
    /// Visits places. True when all have been.
    fn scan(
        &mut self,
        group: Group,
        table: &VniTable,
        reflect: ReflectOwn,
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
            let reflected = reflect.permits(entry.route.next_hop.kind);
            let visibility = Visibility::of(entry.sources(), group.class, reflected);
            let Some(scope) = visibility.scope() else {
                continue;
            };
            frame.clear();
            encode_update(&mut frame, Action::Add, group.vni, &entry.route);
            match scope {
                _ if entry.route.destination.is_default() => self.head.push(&frame, scope),
                Scope::AllBut(source) => {
                    self.by_source.entry(source).or_default().extend_from_slice(&frame);
                }
                _ => self.shared.extend_from_slice(&frame),
            }
        }
        let mut buckets: Vec<_> = self.by_source.drain().collect();
        buckets.sort_unstable_by_key(|&(source, _)| source);
        let bytes: usize = buckets.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut frames = Frames::with_capacity(self.head.bytes().len() + self.shared.len() + bytes);
        for (run, scope) in std::mem::take(&mut self.head).runs() {
            frames.push(run, scope);
        }
        frames.end_head();
        frames.push(&std::mem::take(&mut self.shared), Scope::All);
        self.assembly = Some(Assembly { frames, buckets: buckets.into_iter() });
        true
    }

    /// Puts the buckets together. Some when done.
    fn assemble(&mut self, budget: &mut usize) -> Option<Frames> {
        let assembly = self.assembly.as_mut()?;
        for (source, bytes) in assembly.buckets.by_ref() {
            assembly.frames.push(&bytes, Scope::AllBut(source));
            // A copy costs about a tenth of an encoding.
            *budget = budget.saturating_sub(1 + bytes.len() / 512);
            if *budget == 0 {
                return None;
            }
        }
        self.assembly.take().map(|assembly| assembly.frames)
    }
}

impl Group {
    /// The group of `class` in `vni`.
    pub fn new(vni: Vni, class: GroupClass) -> Group {
        Group { vni, class }
    }
}
