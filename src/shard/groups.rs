//! The subscriptions of this shard's peers, and the log of each group that they follow.
//!
//! Owns logs, cursors and private queues. Must never send anything, nor filter or copy a frame for
//! each subscriber: a record is appended once.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use ahash::RandomState;
use slab::Slab;

use super::piece::DIRECT_BYTES_MIN;
use crate::log::{
    Blocks, Chunk, ChunkBytes, ChunkPool, Conflation, Cursor, Frames, FramesCursor, Scope,
    TaggedQueue, VniLog, frames_within,
};
use crate::rib::{Group, Joined};
use crate::types::{PeerId, SeededMap, SourceId};
use crate::wire::{frame_len, frames};

/// Index of a subscription; used again after its removal.
pub(super) type SubIndex = u32;

/// The subscribers of one group at this shard. Those in `members[..idle]` have read the whole log.
struct LocalGroup {
    key: Group,
    log: VniLog,
    members: Vec<SubIndex>,
    idle: usize,
    /// When the log ends beyond this, slow readers are looked for.
    check_at: u64,
    /// About how long a dump of the table would be.
    table_bytes: u64,
}

/// One peer's subscription of one VNI.
pub(super) struct Subscription {
    /// Who subscribed.
    pub peer: PeerId,
    /// Tells this subscription from earlier ones of the same peer and VNI.
    pub epoch: u64,
    /// Whether it stands among the ready ones, or in its peer's list of pending subscriptions.
    pub queued: bool,
    /// Whether it stands among the slow ones.
    slow: bool,
    group: u32,
    /// Position in the group's `members`.
    at: usize,
    /// Whether its join was answered.
    pub joined: bool,
    /// Where it is in the base or in what followed it, and what is to be read behind that block.
    block: Option<FramesCursor>,
    blocks: Blocks,
    cursor: Cursor,
    /// Ranges of the log that are not for it (its own routes).
    skips: VecDeque<Range<u64>>,
    /// What is left of a backlog that was too long; comes before everything in the log.
    conflation: Option<Box<Conflation>>,
    /// What is for it alone, between the frames of the log.
    alone: TaggedQueue,
}

/// What a subscription has to send next.
pub(super) enum Part {
    /// From a base or what followed it.
    Shared(Arc<Frames>, Range<usize>),
    /// From the log.
    Chunk(Rc<ChunkBytes>, Range<usize>),
    /// Was copied from the private queue.
    Copied,
    /// The next frame does not fit any more.
    Full,
    /// Nothing.
    Nothing,
}

/// All groups and subscriptions of a shard.
pub(super) struct Groups {
    hasher: RandomState,
    by_key: SeededMap<Group, u32>,
    groups: Slab<LocalGroup>,
    subscriptions: Slab<Subscription>,
    chunks: Rc<ChunkPool>,
    private_bytes: usize,
    lag_bytes_max: u64,
    /// Groups whose logs grew enough to look for slow readers.
    grown: Vec<u32>,
    /// Readers that are to be conflated, by subscription and epoch.
    slow: VecDeque<(SubIndex, u64)>,
    /// Subscriptions that have something to send and are not queued with their peer yet: with their
    /// epoch, by which one that was removed meanwhile is known, and whether they are urgent.
    ready: VecDeque<(SubIndex, u64, bool)>,
}

impl Groups {
    /// No groups. A reader whose backlog passes `lag_bytes_max` is conflated.
    pub fn new(hasher: RandomState, lag_bytes_max: u64) -> Groups {
        Groups {
            by_key: SeededMap::with_hasher(hasher.clone()),
            hasher,
            groups: Slab::new(),
            subscriptions: Slab::new(),
            chunks: Rc::default(),
            private_bytes: 0,
            lag_bytes_max,
            grown: Vec::new(),
            slow: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    /// Adds a subscription that waits for its join to be answered.
    pub fn subscribe(&mut self, key: Group, peer: PeerId, epoch: u64) -> SubIndex {
        let group = *self.by_key.entry(key).or_insert_with(|| {
            let log = VniLog::new(self.chunks.clone());
            let members = Vec::new();
            let group = LocalGroup {
                key,
                log,
                members,
                idle: 0,
                check_at: self.lag_bytes_max,
                table_bytes: 0,
            };
            index(self.groups.insert(group))
        });
        let at = &mut self.groups[group as usize];
        let sub = index(self.subscriptions.insert(Subscription {
            peer,
            epoch,
            queued: false,
            slow: false,
            group,
            at: at.members.len(),
            joined: false,
            block: None,
            blocks: Blocks::default(),
            cursor: Cursor::default(),
            skips: VecDeque::new(),
            conflation: None,
            alone: TaggedQueue::default(),
        }));
        at.members.push(sub);
        sub
    }

    /// Removes a subscription. Some if it was the group's last one here.
    pub fn unsubscribe(&mut self, sub: SubIndex) -> Option<Group> {
        self.make_active(sub);
        let removed = self.subscriptions.remove(sub as usize);
        self.private_bytes -= removed.private_bytes();
        let group = &mut self.groups[removed.group as usize];
        group.members.swap_remove(removed.at);
        if let Some(&moved) = group.members.get(removed.at) {
            self.subscriptions[moved as usize].at = removed.at;
        }
        if group.members.is_empty() {
            let key = group.key;
            self.by_key.remove(&key);
            self.groups.remove(removed.group as usize);
            return Some(key);
        }
        if group.idle == group.members.len() {
            group.log.let_go();
        }
        None
    }

    /// The subscription at an index.
    pub fn subscription(&mut self, sub: SubIndex) -> &mut Subscription {
        &mut self.subscriptions[sub as usize]
    }

    /// A join was answered. `sub` is the peer's subscription of the VNI, if it still has one; an
    /// answer to an earlier one is dropped.
    pub fn joined(&mut self, sub: Option<SubIndex>, joined: Joined) {
        let Some(sub) = sub else { return };
        let Some(subscription) = self.subscriptions.get_mut(sub as usize) else {
            return;
        };
        if subscription.epoch != joined.epoch {
            return;
        }
        assert!(!subscription.joined, "a join is answered once");
        subscription.joined = true;
        subscription.blocks = joined.blocks;
        let first = subscription.blocks.find(|block| !block.is_empty());
        let urgent = first.as_ref().is_some_and(|block| block.head_bytes() > 0);
        let pending = first.is_some();
        subscription.block = first.map(FramesCursor::new);
        self.make_idle(sub);
        if pending {
            self.make_ready(sub, urgent);
        }
    }

    /// Records for a group. `named` finds the subscription of a peer of this shard in the group's
    /// VNI. Records for a group that nobody here follows any more are dropped; those whose join
    /// was not answered yet will find in the answer what comes before it.
    pub fn append(
        &mut self,
        key: Group,
        scope: Scope,
        bytes: &[u8],
        routes: usize,
        named: impl Fn(SourceId) -> Option<SubIndex>,
    ) {
        let Some(&group) = self.by_key.get(&key) else {
            return;
        };
        self.groups[group as usize].table_bytes = (routes * frame_len(bytes)) as u64;
        let of_group = |sub: &SubIndex| {
            let subscription = &self.subscriptions[*sub as usize];
            subscription.group == group && subscription.joined
        };
        match scope {
            Scope::All => self.append_to_log(group, bytes, None),
            Scope::AllBut(source) => {
                let excluded = named(source).filter(of_group);
                self.append_to_log(group, bytes, excluded);
            }
            Scope::Only(source) => {
                if let Some(sub) = named(source).filter(of_group) {
                    let tag = self.groups[group as usize].log.end();
                    let subscription = &mut self.subscriptions[sub as usize];
                    let before = subscription.private_bytes();
                    subscription.alone.push(bytes, tag);
                    self.private_bytes += subscription.private_bytes() - before;
                    let is_long = subscription.alone.pending_bytes() as u64 > self.lag_bytes_max;
                    self.make_ready(sub, false);
                    if is_long {
                        self.conflate(sub);
                    }
                }
            }
        }
    }

    /// What the subscription is to send next, at most `bytes_max` (one frame at least, if `copied`
    /// is empty). A private part is copied to `copied` at once.
    pub fn next_part(&mut self, sub: SubIndex, copied: &mut Vec<u8>, bytes_max: usize) -> Part {
        let subscription = &mut self.subscriptions[sub as usize];
        let reader = SourceId(subscription.peer);
        while let Some(block) = &mut subscription.block {
            if let Some(range) = block.readable(reader, bytes_max) {
                if range.len() > bytes_max && !copied.is_empty() {
                    return Part::Full;
                }
                block.advance_to(range.end);
                return Part::Shared(block.frames().clone(), range);
            }
            subscription.block = subscription.blocks.next().map(FramesCursor::new);
        }
        if subscription.has_private_due() {
            let before = subscription.private_bytes();
            let taken = subscription.take_private(copied, bytes_max, &self.hasher);
            self.private_bytes -= before - subscription.private_bytes();
            return if taken > 0 { Part::Copied } else { Part::Full };
        }
        loop {
            let position = subscription.cursor.position();
            match subscription.next_in_log() {
                Some((chunk, range)) => {
                    // Not to top up what was copied with a part of what can go as it lies: then the
                    // rest would be small, and copied with a part of the next chunk, and so on.
                    let piece_bytes_max = copied.len() + bytes_max;
                    if !copied.is_empty()
                        && range.len() > bytes_max
                        && range.len().min(piece_bytes_max) >= DIRECT_BYTES_MIN
                    {
                        return Part::Full;
                    }
                    let fitting = frames_within(chunk.slice(range.clone()), bytes_max);
                    if fitting > bytes_max && !copied.is_empty() {
                        return Part::Full;
                    }
                    subscription.cursor.advance_to(position_of(&chunk, range.start + fitting));
                    return Part::Chunk(chunk.bytes().clone(), range.start..range.start + fitting);
                }
                None if subscription.cursor.position() == position => break,
                // It stepped over something.
                None if subscription.has_private_due() => {
                    return self.next_part(sub, copied, bytes_max);
                }
                None => {}
            }
        }
        self.make_idle(sub);
        Part::Nothing
    }

    /// Whether nothing is left to send: a look ahead.
    pub fn is_exhausted(&mut self, sub: SubIndex) -> bool {
        let subscription = &mut self.subscriptions[sub as usize];
        let end = self.groups[subscription.group as usize].log.end();
        subscription.block.is_none()
            && subscription.private_bytes() == 0
            && (!subscription.joined || subscription.cursor.position() == end)
    }

    /// Takes a subscription that got something to send: to be queued with its peer, at the front
    /// if it is urgent.
    pub fn take_ready(&mut self) -> Option<(SubIndex, bool)> {
        while let Some((sub, epoch, urgent)) = self.ready.pop_front() {
            if self.find(sub, epoch).is_some() {
                return Some((sub, urgent));
            }
        }
        None
    }

    /// The subscription at an index, if it is still the same one.
    pub fn find(&mut self, sub: SubIndex, epoch: u64) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(sub as usize).filter(|found| found.epoch == epoch)
    }

    /// Conflates readers of groups whose logs grew a good deal since the last look, where they are
    /// too far behind; with `pressed`, all that are behind at all. Does about `bytes_max` of it:
    /// true if some is left.
    pub fn conflate_slow(&mut self, pressed: bool, mut bytes_max: u64) -> bool {
        self.look_for_slow(pressed);
        while let Some((sub, epoch)) = self.slow.pop_front() {
            let Some(subscription) = self.find(sub, epoch) else { continue };
            subscription.slow = false;
            let (group, position) = (subscription.group, subscription.cursor.position());
            let lag = self.groups[group as usize].log.end() - position;
            self.conflate(sub);
            bytes_max = bytes_max.saturating_sub(lag);
            if bytes_max == 0 {
                break;
            }
        }
        !self.slow.is_empty()
    }

    fn look_for_slow(&mut self, pressed: bool) {
        let grown = std::mem::take(&mut self.grown);
        let looked_at: Vec<u32> = match pressed {
            true => self.groups.iter().map(|(at, _)| index(at)).collect(),
            false => grown,
        };
        for at in looked_at {
            let Some(group) = self.groups.get_mut(at as usize) else { continue };
            let end = group.log.end();
            group.check_at = end + self.lag_bytes_max / 4;
            // A log is shared, a difference is not: below twice the table it is the cheaper one.
            let lag_max = match pressed {
                true => 0,
                false => self.lag_bytes_max.max(2 * group.table_bytes),
            };
            for &sub in &group.members[group.idle..] {
                let subscription = &mut self.subscriptions[sub as usize];
                let lag = end - subscription.cursor.position();
                if subscription.joined && !subscription.slow && lag > lag_max {
                    subscription.slow = true;
                    self.slow.push_back((sub, subscription.epoch));
                }
            }
        }
    }

    /// Readers that are to be conflated, stale entries included.
    #[cfg(test)]
    pub fn slow_len(&self) -> usize {
        self.slow.len()
    }

    /// Bytes of log chunks alive.
    pub fn live_bytes(&self) -> usize {
        self.chunks.live_bytes()
    }

    /// Bytes of all private queues.
    pub fn private_bytes(&self) -> usize {
        self.private_bytes
    }

    /// The peers with private queues, and what those take, the largest first.
    pub fn hungriest(&self) -> Vec<(PeerId, usize)> {
        let mut of_peer: SeededMap<PeerId, usize> = SeededMap::with_hasher(self.hasher.clone());
        for (_, sub) in &self.subscriptions {
            let bytes = sub.private_bytes();
            if bytes > 0 {
                *of_peer.entry(sub.peer).or_default() += bytes;
            }
        }
        let mut hungriest: Vec<_> = of_peer.into_iter().collect();
        hungriest.sort_unstable_by_key(|&(peer, bytes)| (std::cmp::Reverse(bytes), peer));
        hungriest
    }

    /// The longest backlog of any reader in its log, in bytes.
    pub fn lag_bytes_longest(&self) -> u64 {
        let lag =
            |sub: &Subscription| self.groups[sub.group as usize].log.end() - sub.cursor.position();
        self.subscriptions
            .iter()
            .filter(|(_, sub)| sub.joined)
            .map(|(_, sub)| lag(sub))
            .max()
            .unwrap_or(0)
    }

    /// Replaces a reader's backlog by the difference that it makes, and moves it to the log's end.
    fn conflate(&mut self, sub: SubIndex) {
        self.make_ready(sub, false);
        let subscription = &mut self.subscriptions[sub as usize];
        let end = self.groups[subscription.group as usize].log.end();
        let before = subscription.private_bytes();
        let mut difference = subscription.conflation.take().unwrap_or_default();
        // What came between the base and its join is of the same kind.
        let reader = SourceId(subscription.peer);
        for block in std::mem::take(&mut subscription.blocks) {
            let mut block = FramesCursor::new(block);
            while let Some(range) = block.readable(reader, usize::MAX) {
                for frame in frames(&block.frames().bytes()[range.clone()]) {
                    difference.push(frame, &self.hasher);
                }
                block.advance_to(range.end);
            }
        }
        let mut alone = Vec::new();
        loop {
            let position = subscription.cursor.position();
            alone.clear();
            // What is for it alone has its place between the frames of the log.
            subscription.alone.take(position, &mut alone, usize::MAX);
            for frame in frames(&alone) {
                difference.push(frame, &self.hasher);
            }
            match subscription.next_in_log() {
                Some((chunk, range)) => {
                    for frame in frames(chunk.slice(range.clone())) {
                        difference.push(frame, &self.hasher);
                    }
                    subscription.cursor.advance_to(position_of(&chunk, range.end));
                }
                None if subscription.cursor.position() == position => break,
                None => {}
            }
        }
        assert!(subscription.alone.pending_bytes() == 0, "all was conflated");
        assert_eq!(subscription.cursor.position(), end, "all was conflated");
        if difference.pending_bytes() > 0 {
            subscription.conflation = Some(difference);
        }
        self.private_bytes = self.private_bytes + subscription.private_bytes() - before;
        self.make_idle(sub);
    }

    fn append_to_log(&mut self, group: u32, bytes: &[u8], excluded: Option<SubIndex>) {
        let at = &mut self.groups[group as usize];
        let spared = excluded.filter(|&sub| self.subscriptions[sub as usize].at < at.idle);
        if spared.is_some() && at.members.len() == 1 {
            return;
        }
        let anchor = at.log.anchor(bytes);
        for &sub in &at.members[..at.idle] {
            if Some(sub) != spared {
                let subscription = &mut self.subscriptions[sub as usize];
                subscription.cursor.wake(&anchor);
                if !std::mem::replace(&mut subscription.queued, true) {
                    self.ready.push_back((sub, subscription.epoch, false));
                }
            }
        }
        at.idle = 0;
        let range = at.log.append(bytes);
        if range.end >= at.check_at {
            at.check_at = u64::MAX;
            self.grown.push(group);
        }
        if let Some(sub) = spared {
            // It stays where it was: at the end.
            let end = range.end;
            self.subscriptions[sub as usize].cursor.rest_at(end);
            self.swap(group, self.subscriptions[sub as usize].at, 0);
            self.groups[group as usize].idle = 1;
        } else if let Some(sub) = excluded {
            let skips = &mut self.subscriptions[sub as usize].skips;
            match skips.back_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => skips.push_back(range),
            }
        }
    }

    fn make_ready(&mut self, sub: SubIndex, urgent: bool) {
        let subscription = &mut self.subscriptions[sub as usize];
        if !std::mem::replace(&mut subscription.queued, true) {
            self.ready.push_back((sub, subscription.epoch, urgent));
        }
    }

    /// It has read the whole log, and lets go of it.
    fn make_idle(&mut self, sub: SubIndex) {
        let Subscription { group, at, joined, .. } = self.subscriptions[sub as usize];
        let local = &mut self.groups[group as usize];
        if !joined {
            return;
        }
        self.subscriptions[sub as usize].cursor.rest_at(local.log.end());
        self.subscriptions[sub as usize].skips.clear();
        if at >= local.idle {
            let boundary = local.idle;
            local.idle += 1;
            if local.idle == local.members.len() {
                local.log.let_go();
            }
            self.swap(group, at, boundary);
        }
    }

    fn make_active(&mut self, sub: SubIndex) {
        let Subscription { group, at, .. } = self.subscriptions[sub as usize];
        let local = &mut self.groups[group as usize];
        if at < local.idle {
            local.idle -= 1;
            let boundary = local.idle;
            self.swap(group, at, boundary);
        }
    }

    fn swap(&mut self, group: u32, one: usize, other: usize) {
        let members = &mut self.groups[group as usize].members;
        members.swap(one, other);
        self.subscriptions[members[one] as usize].at = one;
        self.subscriptions[members[other] as usize].at = other;
    }
}

impl Subscription {
    /// Memory of what is for it alone, in bytes.
    fn private_bytes(&self) -> usize {
        self.alone.heap_bytes() + self.conflation.as_ref().map_or(0, |queue| queue.heap_bytes())
    }

    fn has_private_due(&self) -> bool {
        self.conflation.is_some()
            || self.alone.first_tag().is_some_and(|tag| tag <= self.cursor.position())
    }

    fn take_private(&mut self, out: &mut Vec<u8>, bytes_max: usize, hasher: &RandomState) -> usize {
        let Some(queue) = &mut self.conflation else {
            return self.alone.take(self.cursor.position(), out, bytes_max);
        };
        let taken = queue.take(out, bytes_max, hasher);
        if queue.pending_bytes() == 0 {
            self.conflation = None;
        }
        taken
    }

    /// The next frames of the log that are for it, up to the place of its next private frame. None
    /// if it stepped over frames that are not for it, or if there are none.
    fn next_in_log(&mut self) -> Option<(Rc<Chunk>, Range<usize>)> {
        let limit = self.alone.first_tag().unwrap_or(u64::MAX);
        let position = self.cursor.position();
        match self.skips.front() {
            Some(skip) if skip.start <= position => {
                // A private frame may have its place amid what is skipped.
                let to = skip.end.min(limit);
                if to == skip.end {
                    self.skips.pop_front();
                }
                self.cursor.advance_to(to);
                None
            }
            Some(skip) => self.cursor.readable(skip.start.min(limit)),
            None => self.cursor.readable(limit),
        }
    }
}

fn position_of(chunk: &Chunk, offset: usize) -> u64 {
    chunk.start() + offset as u64
}

fn index(key: usize) -> u32 {
    u32::try_from(key).expect("a shard has below 2^32 subscriptions")
}
