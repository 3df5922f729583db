//! The subscriptions of this shard's peers, and the log of each group that they follow.
//!
//! Owns logs, and where each subscriber stands. Must never send anything, nor filter or copy a frame for
//! each subscriber: a record is appended once.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use ahash::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use super::piece::{DIRECT_BYTES_MIN, Payload, Piece};
use crate::log::{
    Blocks, ChunkPool, Compaction, Cursor, FramesCursor, Laggard, LiveBytes, Reader, Scope, VniLog,
};
use crate::rib::{Joined, UpdateGroup};
use crate::types::{PeerId, SeededMap, ShortTime, Slots};
use crate::wire::{frame_len, frames};

/// What a laggard may pass over of its base at a time, in bytes: a look-up for each frame.
const PASSED_BYTES_MAX: usize = 64 << 10;

/// Index of a subscription; used again after its removal.
pub(super) type SubIndex = u32;

/// Those that a record names: of one peer, or of several of one host.
pub(super) type Named = SmallVec<[SubIndex; 1]>;

/// The subscribers of one group at this shard.
pub(super) struct LocalGroup {
    pub(super) key: UpdateGroup,
    pub(super) log: VniLog,
    /// Who stands where, by [`Stand::list`].
    pub(super) members: [Vec<SubIndex>; 4],
    /// What happened behind the laggards; None if there are none.
    pub(super) compaction: Option<Box<Compaction>>,
    /// When the log ends beyond this, slow readers are looked for.
    pub(super) check_at: u64,
    /// About how long a dump of the table would be.
    pub(super) table_bytes: u64,
    /// Whether it waits for its turn to be compacted; and whether whatever is behind counts as slow then.
    pub(super) listed: bool,
    pub(super) pressed: bool,
}

/// Where a subscriber stands in its group's log.
pub(super) enum Stand {
    /// Its join was not answered yet.
    Waiting,
    /// At the end.
    AtEnd,
    /// There is something to read from here on.
    Reading(Cursor),
    /// At the frontier of the group's compaction, when it has been told this.
    Lagging(Laggard),
}

/// Lists in [`LocalGroup::members`].
const WAITING: usize = 0;
const AT_END: usize = 1;
pub(super) const READING: usize = 2;
pub(super) const LAGGING: usize = 3;

/// One peer's subscription of one VNI.
pub(super) struct Subscription {
    /// Who subscribed, and as whom it hears.
    pub peer: PeerId,
    pub(super) reader: Reader,
    /// Tells this subscription from earlier ones of the same peer and VNI.
    pub epoch: u64,
    /// Whether it stands in its peer's list of pending subscriptions.
    pub queued: bool,
    pub(super) group: u32,
    /// Position in its list of the group's members.
    at: usize,
    pub(super) stand: Stand,
    /// It has to be told the table again, since it may see more than it was told.
    pub(super) again: Again,
    /// Where it is in the base or in what followed it, and what is to be read behind that block. Comes before
    /// all else.
    pub(super) block: Option<FramesCursor>,
    pub(super) blocks: Blocks,
}

/// How it is with a subscription that has to be told the table again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    /// It has not.
    No,
    /// As soon as it has heard all that there is to hear.
    Wanted,
    /// The subscription of this epoch has asked for that.
    Asked(u64),
    /// It is being told.
    Reading,
}

/// What a subscription has to send next.
pub(super) enum Part {
    /// As it lies: from a base or what followed it, or from the log.
    /// And when what brought it was read from a peer, as far as that is known.
    Lies(Piece, Option<ShortTime>),
    /// What a laggard has to be told: so many bytes were copied.
    Copied(usize),
    /// What lay there it is told otherwise: to be asked for once more.
    Passed,
    /// The next frame does not fit any more.
    Full,
    /// Nothing.
    Nothing,
}

/// What happens to a subscription that lags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LagChange {
    /// It lags from now on.
    Begins,
    /// It was told all that it had missed.
    Told,
    /// It is unsubscribed.
    Gone,
}

/// A subscription that got something to send: to be queued with its peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub peer: PeerId,
    pub sub: SubIndex,
    pub epoch: u64,
    /// Whether it goes before the others.
    pub is_urgent: bool,
}

/// Frames for one audience of a group.
#[derive(Clone, Copy)]
pub(super) struct Records<'a> {
    pub frames: &'a [u8],
    /// Routes of the VNI now.
    pub routes: usize,
    /// When the first of them was read, if it came from a peer.
    pub read_at: Option<ShortTime>,
}

/// All groups and subscriptions of a shard.
pub(super) struct Groups {
    pub(super) hasher: RandomState,
    pub(super) by_key: SeededMap<UpdateGroup, u32>,
    pub(super) groups: Slab<LocalGroup>,
    pub(super) subscriptions: Slots<Subscription>,
    chunks: Rc<ChunkPool>,
    /// What compactions and laggards take.
    pub(super) laggard_bytes: LiveBytes,
    pub(super) lag_bytes_max: u64,
    /// Bytes of log that are compacted in a turn at least; more if more was appended.
    pub(super) compacted_bytes_per_turn: usize,
    /// Groups to be compacted.
    pub(super) compacting: VecDeque<u32>,
    /// Bytes appended since the last look at them.
    pub(super) appended: usize,
    /// Who has to ask for the table again, with the epochs of their subscriptions.
    pub(super) again: Vec<(SubIndex, u64)>,
    /// Whose subscription began to lag, or lags no more.
    lag_changes: Vec<(PeerId, LagChange)>,
    pub(super) live_bytes_seen: usize,
}

impl Groups {
    /// No groups. A reader whose backlog passes `lag_bytes_max` becomes a laggard.
    pub(super) fn new(
        hasher: RandomState,
        lag_bytes_max: u64,
        compacted_bytes_per_turn: usize,
    ) -> Groups {
        Groups {
            by_key: SeededMap::with_hasher(hasher.clone()),
            hasher,
            groups: Slab::new(),
            subscriptions: Slots::default(),
            chunks: Rc::default(),
            laggard_bytes: LiveBytes::default(),
            lag_bytes_max,
            compacted_bytes_per_turn,
            compacting: VecDeque::new(),
            appended: 0,
            again: Vec::new(),
            lag_changes: Vec::new(),
            live_bytes_seen: 0,
        }
    }

    /// Adds a subscription that waits for its join to be answered.
    pub(super) fn subscribe(
        &mut self,
        key: UpdateGroup,
        (peer, reader): (PeerId, Reader),
        epoch: u64,
    ) -> SubIndex {
        let group = *self.by_key.entry(key).or_insert_with(|| {
            index(self.groups.insert(LocalGroup {
                key,
                log: VniLog::new(self.chunks.clone()),
                members: Default::default(),
                compaction: None,
                check_at: self.lag_bytes_max,
                table_bytes: 0,
                listed: false,
                pressed: false,
            }))
        });
        let waiting = &mut self.groups[group as usize].members[WAITING];
        let sub = self.subscriptions.insert(Subscription {
            peer,
            reader,
            epoch,
            queued: false,
            group,
            at: waiting.len(),
            stand: Stand::Waiting,
            again: Again::No,
            block: None,
            blocks: Blocks::default(),
        });
        waiting.push(sub);
        sub
    }

    /// Removes a subscription. Some if it was the group's last one here.
    pub(super) fn unsubscribe(&mut self, sub: SubIndex) -> Option<UpdateGroup> {
        self.unlist(sub);
        let removed = self.subscriptions.remove(sub);
        let group = removed.group;
        if matches!(removed.stand, Stand::Lagging(_)) {
            self.lag_changes.push((removed.peer, LagChange::Gone));
        }
        // What it holds of the log goes before that is let go.
        drop(removed);
        let local = &self.groups[group as usize];
        if local.members.iter().all(Vec::is_empty) {
            let key = local.key;
            self.by_key.remove(&key);
            self.groups.remove(group as usize);
            return Some(key);
        }
        self.let_go(group);
        None
    }

    /// The subscription at an index.
    pub(super) fn subscription(&mut self, sub: SubIndex) -> &mut Subscription {
        &mut self.subscriptions[sub]
    }

    /// A join was answered. `sub` is the peer's subscription of the VNI, if it still has one; an
    /// answer to an earlier one is dropped. Returns it if it is ready.
    pub(super) fn joined(&mut self, sub: Option<SubIndex>, joined: Joined) -> Option<Ready> {
        let sub = sub?;
        let subscription = self.subscriptions.find_mut(sub)?;
        if subscription.again == Again::Asked(joined.epoch) {
            return self.joined_again(sub, joined);
        }
        let subscription = self.find(sub, joined.epoch)?;
        assert!(!subscription.is_joined(), "a join is answered once");
        subscription.blocks = joined.blocks;
        let first = subscription.blocks.find(|block| !block.is_empty());
        let head_bytes = first.as_ref().map(|block| block.head_bytes());
        subscription.block = first.map(FramesCursor::new);
        self.stand(sub, Stand::AtEnd);
        self.subscription(sub).ready(sub, head_bytes? > 0)
    }

    /// Records for a group. `named` are the subscriptions, of the group's VNI, of the
    /// peers that `scope` names, as far as this shard has them. Records for a group that nobody here follows any more are
    /// dropped; those whose join was not answered yet will find in the answer what comes before it. `ready` is
    /// told who has something to send now.
    pub(super) fn append(
        &mut self,
        key: UpdateGroup,
        scope: Scope,
        records: Records,
        mut named: Named,
        ready: impl FnMut(Ready),
    ) {
        let Some(&group) = self.by_key.get(&key) else {
            return;
        };
        named.retain(|sub| {
            let it = &self.subscriptions[*sub];
            // Where hosts share an address, they are not that one any more.
            let is_named = scope.named().is_some_and(|speaker| it.reader.is(speaker));
            it.group == group && it.is_joined() && is_named
        });
        let scope = match scope {
            Scope::Only(_) if named.is_empty() => return,
            Scope::AllBut(_) if named.is_empty() => Scope::All,
            _ => scope,
        };
        let local = &mut self.groups[group as usize];
        let Records { frames, routes, read_at } = records;
        local.table_bytes = (routes * frame_len(frames)) as u64;
        let anchor = Cursor::at_end_of(&local.log.anchor(frames), read_at);
        self.wake(group, scope, &named, &anchor, ready);
        let local = &mut self.groups[group as usize];
        if let Some(compaction) = &mut local.compaction {
            if compaction.frontier().is_none() {
                compaction.go_on_at(anchor);
            }
        } else if local.members[READING].is_empty() {
            drop(anchor);
            return self.let_go(group);
        }
        local.log.append(frames, scope, read_at);
        self.appended += frames.len();
        if !local.listed && (local.compaction.is_some() || local.log.end() >= local.check_at) {
            local.listed = true;
            self.compacting.push_back(group);
        }
    }

    /// What the subscription is to send next, at most `bytes_max` (one frame at least, if `copied`
    /// is empty). What a laggard is told, at most `copied_max`, is copied to `copied` at once.
    pub(super) fn next_part(
        &mut self,
        sub: SubIndex,
        copied: &mut Vec<u8>,
        bytes_max: usize,
        copied_max: usize,
    ) -> Part {
        let subscription = &mut self.subscriptions[sub];
        let reader = subscription.reader;
        let lags = matches!(subscription.stand, Stand::Lagging(_));
        if lags && subscription.again == Again::Reading {
            // What a laggard is told is told from what it has heard once.
            (subscription.block, subscription.blocks) = (None, Blocks::default());
            subscription.again = Again::Wanted;
        }
        while let Some(block) = &mut subscription.block {
            let looked_at_max = if lags { PASSED_BYTES_MAX.max(bytes_max) } else { bytes_max };
            if let Some(mut range) = block.readable(reader, looked_at_max) {
                if let Stand::Lagging(laggard) = &mut subscription.stand {
                    let group = &self.groups[subscription.group as usize];
                    range = still_so(block, range, bytes_max, laggard, group.compaction());
                    block.advance_to(range.start);
                    if range.is_empty() {
                        return Part::Passed;
                    }
                }
                if range.len() > bytes_max && !copied.is_empty() {
                    return Part::Full;
                }
                block.advance_to(range.end);
                let updates = block.count(range.clone());
                let payload = Payload::Shared(block.frames().clone());
                return Part::Lies(Piece::of_updates(payload, range, updates), None);
            }
            subscription.block = subscription.blocks.next_cursor();
        }
        if subscription.again == Again::Reading {
            subscription.again = Again::No;
        }
        if let Stand::Lagging(laggard) = &mut subscription.stand {
            let group = &self.groups[subscription.group as usize];
            laggard.has_read_base();
            match group.compaction().tell(laggard, reader, copied, copied_max) {
                Some(0) => return Part::Full,
                Some(bytes) => return Part::Copied(bytes),
                None => self.catch_up(sub),
            }
        }
        let subscription = &mut self.subscriptions[sub];
        let Stand::Reading(cursor) = &mut subscription.stand else {
            self.note_told(sub);
            return Part::Nothing;
        };
        let piece_bytes_max = copied.len() + bytes_max;
        let Some(range) = cursor.readable(reader, piece_bytes_max) else {
            self.stand(sub, Stand::AtEnd);
            self.note_told(sub);
            return Part::Nothing;
        };
        // Not to top up what was copied with a part of what can go as it lies: then the rest would be small,
        // and copied with a part of the next chunk, and so on.
        if !copied.is_empty()
            && range.len() > bytes_max
            && range.len().min(piece_bytes_max) >= DIRECT_BYTES_MIN
        {
            return Part::Full;
        }
        let (end, updates) = cursor.cut(range.clone(), bytes_max);
        let range = range.start..end;
        if range.len() > bytes_max && !copied.is_empty() {
            return Part::Full;
        }
        cursor.advance_to(end);
        let payload = Payload::Chunk(cursor.chunk().bytes().clone());
        Part::Lies(Piece::of_updates(payload, range, updates), cursor.take_read_at())
    }

    /// Whether nothing is left to send: a look ahead.
    pub(super) fn is_exhausted(&mut self, sub: SubIndex) -> bool {
        let subscription = &self.subscriptions[sub];
        let end = self.groups[subscription.group as usize].log.end();
        subscription.block.is_none()
            && subscription.again != Again::Wanted
            && match &subscription.stand {
                Stand::Waiting | Stand::AtEnd => true,
                Stand::Reading(cursor) => cursor.position() == end,
                Stand::Lagging(_) => false,
            }
    }

    /// Whose subscriptions began to lag, or lag no more, since this was last asked.
    pub(super) fn take_lag_changes(&mut self) -> impl Iterator<Item = (PeerId, LagChange)> {
        self.lag_changes.drain(..)
    }

    /// The subscription at an index, if it is still the same one.
    pub(super) fn find(&mut self, sub: SubIndex, epoch: u64) -> Option<&mut Subscription> {
        self.subscriptions.find_mut(sub).filter(|found| found.epoch == epoch)
    }

    /// Bytes of log chunks alive.
    pub(super) fn live_bytes(&self) -> usize {
        self.chunks.live_bytes()
    }

    /// The longest backlog of any reader in its log, in bytes.
    pub(super) fn lag_bytes_longest(&self) -> u64 {
        let readers = self.subscriptions.iter().filter_map(|sub| match &sub.stand {
            Stand::Reading(cursor) => {
                Some(self.groups[sub.group as usize].log.end() - cursor.position())
            }
            _ => None,
        });
        readers.max().unwrap_or(0)
    }

    /// Has a subscriber stand somewhere else.
    pub(super) fn stand(&mut self, sub: SubIndex, stand: Stand) {
        self.unlist(sub);
        let subscription = &mut self.subscriptions[sub];
        let group = subscription.group;
        let list = &mut self.groups[group as usize].members[stand.list()];
        subscription.at = list.len();
        let lags = matches!(stand, Stand::Lagging(_));
        let lagged = matches!(subscription.stand, Stand::Lagging(_));
        subscription.stand = stand;
        list.push(sub);
        if lags != lagged {
            let change = if lags { LagChange::Begins } else { LagChange::Told };
            self.lag_changes.push((subscription.peer, change));
        }
        // Its group is being compacted: whether that goes on is not known here.
        if !lags {
            self.let_go(group);
        }
    }

    /// A laggard knows all up to the frontier, and goes on reading the log there.
    fn catch_up(&mut self, sub: SubIndex) {
        let group = self.subscriptions[sub].group;
        let compaction = &self.groups[group as usize].compaction;
        let frontier = compaction.as_ref().and_then(|compaction| compaction.frontier());
        let stand = frontier.map_or(Stand::AtEnd, |frontier| Stand::Reading(frontier.restarted()));
        self.stand(sub, stand);
    }

    /// Those at the end for whom the next record is have something to read from here on.
    fn wake(
        &mut self,
        group: u32,
        scope: Scope,
        named: &[SubIndex],
        anchor: &Cursor,
        mut ready: impl FnMut(Ready),
    ) {
        let at_end = |&sub: &SubIndex| matches!(self.subscriptions[sub].stand, Stand::AtEnd);
        let named_at_end: Named = named.iter().copied().filter(at_end).collect();
        if matches!(scope, Scope::Only(_)) {
            for named in named_at_end {
                self.stand(named, Stand::Reading(anchor.clone()));
                if let Some(is_ready) = self.subscription(named).ready(named, false) {
                    ready(is_ready);
                }
            }
            return;
        }
        let Groups { groups, subscriptions, .. } = self;
        let [_, at_end, reading, _] = &mut groups[group as usize].members;
        for sub in at_end.drain(..).filter(|sub| !named_at_end.contains(sub)) {
            let subscription = &mut subscriptions[sub];
            subscription.stand = Stand::Reading(anchor.clone());
            subscription.at = reading.len();
            reading.push(sub);
            if let Some(is_ready) = subscription.ready(sub, false) {
                ready(is_ready);
            }
        }
        for spared in named_at_end {
            subscriptions[spared].at = at_end.len();
            at_end.push(spared);
        }
    }

    fn unlist(&mut self, sub: SubIndex) {
        let Subscription { group, at, ref stand, .. } = self.subscriptions[sub];
        let list = &mut self.groups[group as usize].members[stand.list()];
        list.swap_remove(at);
        if let Some(&moved) = list.get(at) {
            self.subscriptions[moved].at = at;
        }
    }

    /// Lets go of what nobody needs any more.
    pub(super) fn let_go(&mut self, group: u32) {
        let group = &mut self.groups[group as usize];
        if group.members[LAGGING].is_empty() {
            group.compaction = None;
        }
        let compaction = group.compaction.as_ref();
        if group.members[READING].is_empty() && compaction.is_none_or(|it| it.frontier().is_none())
        {
            group.log.let_go();
        }
    }
}

impl LocalGroup {
    /// How many lag.
    pub(super) fn lagging(&self) -> usize {
        self.members[LAGGING].len()
    }

    fn compaction(&self) -> &Compaction {
        self.compaction.as_deref().expect("it is there while somebody lags")
    }
}

impl Stand {
    fn list(&self) -> usize {
        match self {
            Stand::Waiting => WAITING,
            Stand::AtEnd => AT_END,
            Stand::Reading(_) => READING,
            Stand::Lagging(_) => LAGGING,
        }
    }
}

impl Subscription {
    /// Whether its join was answered.
    pub(super) fn is_joined(&self) -> bool {
        !matches!(self.stand, Stand::Waiting)
    }

    /// Bytes before it of the block that it reads, and of those behind that.
    pub(super) fn block_bytes_left(&self) -> usize {
        self.block.as_ref().map_or(0, FramesCursor::bytes_left)
            + self.blocks.cursors().map(|block| block.bytes_left()).sum::<usize>()
    }

    /// It has something to send: Some if it was not queued with its peer yet.
    pub(super) fn ready(&mut self, sub: SubIndex, is_urgent: bool) -> Option<Ready> {
        let Subscription { peer, epoch, .. } = *self;
        let was_queued = std::mem::replace(&mut self.queued, true);
        (!was_queued).then_some(Ready { peer, sub, epoch, is_urgent })
    }
}

/// The first frames of a block's range that a laggard is not told of behind it, at most `bytes_max` but one at
/// least: who is in a base when all of it is replaced shall not have to read what is so no more. What lies before
/// them it passes over.
fn still_so(
    block: &FramesCursor,
    range: Range<usize>,
    bytes_max: usize,
    laggard: &mut Laggard,
    compaction: &Compaction,
) -> Range<usize> {
    let (mut start, mut end) = (range.start, range.start);
    for frame in frames(&block.frames().bytes()[range]) {
        match compaction.covered(laggard, frame) {
            None if start < end && end + frame.len() - start > bytes_max => break,
            None => end += frame.len(),
            Some(covered) if start == end => {
                laggard.pass_over(covered);
                end += frame.len();
                start = end;
            }
            Some(_) => break,
        }
    }
    start..end
}

pub(super) fn index(key: usize) -> u32 {
    u32::try_from(key).expect("a shard has below 2^32 subscriptions")
}
