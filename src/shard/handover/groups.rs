//! Subscriptions on their way to another process, with what they share.
//!
//! Owns how a place in a base, in a log or behind a compaction is told, and how it comes to be anew: a log becomes a block
//! like those of a base, since another process has other shards, and so another log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::export::Job;
use crate::handover::{self, scope};
use crate::log::{
    ChangedRoute, Compaction, Cursor, Frames, FramesCursor, FramesList, Laggard, Reader, Scope,
    SharedBytes,
};
use crate::rib::UpdateGroup;
use crate::shard::groups::{Again, Groups, READING, Ready, Stand, SubIndex};
use crate::types::{GroupClass, PeerId, ShardId, SpeakerId, Vni};

/// What numbers of changed routes are told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::shard) enum Numbering {
    /// Those of routes themselves.
    Changed,
    /// Those that a laggard has to be told of.
    Untold,
    /// Those of which it has passed over an odd number of frames.
    PassedOver,
}

/// A subscription, and what it refers to.
pub(super) struct Standing {
    pub(super) told: handover::Subscription,
    pub(super) jobs: Vec<Job>,
}

/// A route that changed, as another process tells it: its number there, its key, and who sees it.
pub(super) type ToldRoute = (u32, Box<[u8]>, Option<Scope>);

/// What a laggard is restored from: routes by ascending number, and numbers of those that it has to be told of, and has
/// passed over.
pub(super) struct ToldLag {
    pub(super) changed: Arc<Vec<ToldRoute>>,
    pub(super) untold: Arc<Vec<u32>>,
    pub(super) passed_over: Arc<Vec<u32>>,
}

/// A subscription that another process has told, with what it refers to.
pub(super) struct ToldSubscription {
    pub(super) peer: PeerId,
    pub(super) group: UpdateGroup,
    pub(super) reader: Reader,
    pub(super) again: Again,
    /// To be read in this order, each from this offset on.
    pub(super) blocks: Vec<(Arc<Frames>, usize)>,
    pub(super) lag: Option<ToldLag>,
}

impl Groups {
    /// Where a subscription stands. `logs` has where those begin that were told, by group: a log is told from where its
    /// first reader stands, and who that is is looked for once. `shard` tells what is named here from what is in others.
    pub(super) fn hand_over(
        &self,
        sub: SubIndex,
        (peer, vni): (PeerId, Vni),
        shard: ShardId,
        logs: &mut BTreeMap<u32, u64>,
    ) -> Standing {
        let subscription = &self.subscriptions[sub];
        let group = &self.groups[subscription.group as usize];
        // What each shard numbers by itself.
        let own = |number: u32| u64::from(shard.0) << 33 | u64::from(number) << 1 | 1;
        let mut told = handover::Subscription {
            peer: peer.bits(),
            vni: vni.0,
            is_server_group: group.key.class == GroupClass::Server,
            reader: Some(subscription.reader.into()),
            again: match subscription.again {
                Again::No => handover::subscription::Again::No,
                Again::Reading => handover::subscription::Again::Reading,
                Again::Wanted | Again::Asked(_) => handover::subscription::Again::Wanted,
            }
            .into(),
            blocks: Vec::new(),
            lag: None,
        };
        let mut jobs = Vec::new();
        let mut place = |block: &FramesCursor| {
            // Their address is even, and nobody else's as long as somebody holds them.
            let id = Arc::as_ptr(block.frames()) as u64;
            told.blocks.push(handover::Place { block: id, offset: block.position() as u64 });
            jobs.push(Job::Block { id, frames: block.frames().clone(), at: 0 });
        };
        subscription.block.iter().for_each(&mut place);
        subscription.blocks.cursors().for_each(|block| place(&block));
        match &subscription.stand {
            Stand::AtEnd => {}
            // It is told the table anew, since it is not known how far the home is with its answer.
            Stand::Waiting => told.set_again(handover::subscription::Again::Wanted),
            Stand::Reading(cursor) => {
                let id = own(subscription.group);
                let from = *logs.entry(subscription.group).or_insert_with(|| {
                    let first = self.first_in_log(subscription.group).unwrap_or(cursor);
                    jobs.push(Job::Log { id, cursor: first.restarted() });
                    first.position()
                });
                let offset = cursor.position() - from;
                told.blocks.push(handover::Place { block: id, offset });
            }
            Stand::Lagging(laggard) => {
                let (changed, untold) = (own(subscription.group), laggard.told_id());
                let passed_over = if laggard.has_passed_over() { own(sub) } else { 0 };
                told.lag = Some(handover::Lag { changed, untold, passed_over });
                let numbers = |of, id| Job::Numbers { id, of, sub, next: 0 };
                jobs.push(Job::Changed { id: changed, group: subscription.group, next: 0 });
                jobs.push(numbers(Numbering::Untold, untold));
                if passed_over != 0 {
                    jobs.push(numbers(Numbering::PassedOver, passed_over));
                }
            }
        }
        Standing { told, jobs }
    }

    /// Routes that changed behind the laggards of a group, from a number on: keys of about `bytes_max`.
    pub(super) fn changed_from(
        &self,
        group: u32,
        next: &mut u32,
        bytes_max: usize,
    ) -> Vec<handover::ChangedRoute> {
        let (mut routes, mut bytes) = (Vec::new(), 0);
        let Some(compaction) = &self.groups[group as usize].compaction else { return routes };
        while bytes < bytes_max
            && let Some(ChangedRoute { number, key, seen_by }) = compaction.changed_from(*next)
        {
            bytes += key.len();
            *next = number + 1;
            let seen_by = seen_by.map(handover::Scope::from);
            routes.push(handover::ChangedRoute { number, key: key.to_vec(), seen_by });
        }
        routes
    }

    /// Numbers of changed routes that say how far a laggard is, from one on.
    pub(super) fn numbers_from(
        &self,
        sub: SubIndex,
        of: Numbering,
        next: &mut u32,
        count_max: usize,
    ) -> Vec<u32> {
        let subscription = &self.subscriptions[sub];
        let Stand::Lagging(laggard) = &subscription.stand else { return Vec::new() };
        let group = &self.groups[subscription.group as usize];
        let Some(compaction) = &group.compaction else { return Vec::new() };
        let mut numbers = Vec::new();
        while numbers.len() < count_max
            && let Some(number) = match of {
                Numbering::PassedOver => laggard.passed_over_from(*next),
                Numbering::Untold | Numbering::Changed => compaction.untold_from(laggard, *next),
            }
        {
            *next = number + 1;
            numbers.push(number);
        }
        numbers
    }

    /// A subscription that another process had, of a peer that is here now. Some if it has something to be sent.
    pub(super) fn restore(
        &mut self,
        told: ToldSubscription,
        peer: PeerId,
        epoch: u64,
    ) -> (SubIndex, Option<Ready>) {
        let ToldSubscription { group, reader, again, blocks, lag, .. } = told;
        let sub = self.subscribe(group, (peer, reader), epoch);
        self.stand(sub, Stand::AtEnd);
        // They are counted where they came from, or not at all.
        let mut list = FramesList::new(SharedBytes::default());
        blocks.into_iter().for_each(|(frames, from)| list.push_rest(frames, from));
        let mut blocks = list.behind(None);
        let first = std::iter::from_fn(|| blocks.next_cursor()).find(|it| it.bytes_left() > 0);
        let is_urgent =
            first.as_ref().is_some_and(|block| block.position() < block.frames().head_bytes());
        let lags = lag.is_some();
        if let Some(lag) = lag {
            let laggard = self.restore_laggard(sub, &lag);
            self.stand(sub, Stand::Lagging(laggard));
        }
        let subscription = self.subscription(sub);
        (subscription.block, subscription.blocks) = (first, blocks);
        subscription.again = again;
        let has_more = subscription.block.is_some() || lags;
        let ready = if has_more { subscription.ready(sub, is_urgent) } else { None };
        if !has_more {
            self.note_told(sub);
        }
        (sub, ready)
    }

    fn restore_laggard(&mut self, sub: SubIndex, lag: &ToldLag) -> Laggard {
        let (group, reader) = (self.subscriptions[sub].group, self.subscriptions[sub].reader);
        let compaction = self.groups[group as usize].compaction.get_or_insert_with(|| {
            Box::new(Compaction::restored(self.hasher.clone(), self.laggard_bytes.clone()))
        });
        let mut restored = |number: &u32| {
            let at = lag.changed.binary_search_by_key(number, |(number, ..)| *number).ok()?;
            let (_, key, seen_by) = &lag.changed[at];
            let seen_by = match seen_by {
                // Whom it names may be elsewhere, and may have heard of more.
                Some(Scope::AllBut(speaker)) if !reader.is(*speaker) => Some(Scope::All),
                seen_by => *seen_by,
            };
            Some(compaction.restore_route(key, seen_by))
        };
        let untold: Vec<u32> = lag.untold.iter().filter_map(&mut restored).collect();
        let passed_over: Vec<u32> = lag.passed_over.iter().filter_map(&mut restored).collect();
        compaction.restore_laggard(untold.into_iter(), passed_over.into_iter())
    }

    /// Where the first one stands who reads a group's log.
    fn first_in_log(&self, group: u32) -> Option<&Cursor> {
        let readers = self.groups[group as usize].members[READING].iter();
        let cursors = readers.filter_map(|&sub| match &self.subscriptions[sub].stand {
            Stand::Reading(cursor) => Some(cursor),
            _ => None,
        });
        cursors.min_by_key(|cursor| cursor.position())
    }
}

impl From<Scope> for handover::Scope {
    fn from(scope: Scope) -> handover::Scope {
        let whom = match scope {
            Scope::All => scope::Whom::All,
            Scope::AllBut(_) => scope::Whom::AllBut,
            Scope::Only(_) => scope::Whom::Only,
        };
        let speaker = scope.named().map_or(0, SpeakerId::bits);
        handover::Scope { whom: whom.into(), speaker }
    }
}

impl From<&handover::Scope> for Scope {
    fn from(told: &handover::Scope) -> Scope {
        let speaker = SpeakerId::of_bits(told.speaker);
        match told.whom() {
            scope::Whom::All => Scope::All,
            scope::Whom::AllBut => Scope::AllBut(speaker),
            scope::Whom::Only => Scope::Only(speaker),
        }
    }
}
