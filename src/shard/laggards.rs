//! Slow readers: who is too far behind in a log becomes a laggard, and the log is compacted behind it.
//!
//! Owns when that is done, and how much of it in a turn. Must never do for each laggard what can be done
//! once for all of them: what a record costs does not depend on how many lag.

use super::groups::{
    Groups, LAGGING, LocalGroup, Named, READING, Stand, SubIndex, Subscription, index,
};
use crate::log::{Compaction, Laggard};
use crate::types::{PeerId, SeededMap, Slots, SpeakerId, Vni};

/// Laggards that are looked at in a turn to forget what none of them has to be told.
const RECLAIM_PER_TURN: usize = 16_384;

impl Groups {
    /// Passes on over logs behind laggards; and makes laggards of those who are too far behind, in groups
    /// whose logs grew enough for a look. If all logs together take more than `log_bytes_max`, everybody
    /// behind is too far behind. True if work is left.
    pub(super) fn compact(
        &mut self,
        log_bytes_max: usize,
        named: impl Fn(SpeakerId, Vni) -> Named,
    ) -> bool {
        self.press(log_bytes_max);
        let appended = std::mem::take(&mut self.appended);
        let mut budget = self.compacted_bytes_per_turn.max(appended + appended / 4);
        for _ in 0..self.compacting.len() {
            let Some(at) = self.compacting.pop_front() else { break };
            if !self.groups.contains(at as usize) {
                continue;
            }
            let is_left = self.compact_group(at, &mut budget, &named);
            let group = &mut self.groups[at as usize];
            group.listed = is_left;
            if is_left {
                self.compacting.push_back(at);
                break;
            }
            group.pressed = false;
            group.check_at = group.log.end() + self.lag_bytes_max / 4;
            self.reclaim(at);
        }
        budget == 0
    }

    /// Passes on over all that laggards have still to hear of. Who reads before that becomes one of them.
    pub(super) fn pass_all(&mut self, named: impl Fn(SpeakerId, Vni) -> Named) {
        let lagging = self.groups.iter().filter(|(_, group)| group.compaction.is_some());
        for at in lagging.map(|(at, _)| index(at)).collect::<Vec<_>>() {
            self.groups[at as usize].pressed = true;
            let is_left = self.compact_group(at, &mut { usize::MAX }, &named);
            assert!(!is_left, "there is budget for all");
            self.groups[at as usize].pressed = false;
        }
    }

    /// Bytes of all compactions and what laggards were told.
    pub(super) fn laggard_bytes(&self) -> usize {
        self.laggard_bytes.get()
    }

    /// The peers that lag, and what each of them takes alone, the largest first.
    pub(super) fn hungriest(&self) -> Vec<(PeerId, usize)> {
        let mut of_peer: SeededMap<PeerId, usize> = SeededMap::with_hasher(self.hasher.clone());
        for subscription in self.subscriptions.iter() {
            let group = &self.groups[subscription.group as usize];
            if let (Stand::Lagging(laggard), Some(compaction)) =
                (&subscription.stand, &group.compaction)
            {
                *of_peer.entry(subscription.peer).or_default() += compaction.bytes_beside(laggard);
            }
        }
        let mut hungriest: Vec<_> = of_peer.into_iter().collect();
        hungriest.sort_unstable_by_key(|&(peer, bytes)| (std::cmp::Reverse(bytes), peer));
        hungriest
    }

    /// Lists all groups that somebody is behind in, if logs take too much. Looking again is worth it only
    /// when there is more to find.
    fn press(&mut self, log_bytes_max: usize) {
        let live_bytes = self.live_bytes();
        if live_bytes <= log_bytes_max {
            self.live_bytes_seen = 0;
            return;
        }
        if live_bytes <= self.live_bytes_seen + log_bytes_max / 8 {
            return;
        }
        self.live_bytes_seen = live_bytes;
        for (at, group) in &mut self.groups {
            if group.members[READING].is_empty() {
                continue;
            }
            group.pressed = true;
            if !std::mem::replace(&mut group.listed, true) {
                self.compacting.push_back(index(at));
            }
        }
    }

    /// True if the budget was used up before all was done.
    fn compact_group(
        &mut self,
        at: u32,
        budget: &mut usize,
        named: &impl Fn(SpeakerId, Vni) -> Named,
    ) -> bool {
        let group = &mut self.groups[at as usize];
        let vni = group.key.vni;
        let target = group.log.end().saturating_sub(group.lag_max(self.lag_bytes_max));
        let (mut compaction, mut standing) = match group.compaction.take() {
            Some(compaction) => (compaction, None),
            None => {
                let slow = self.standing_up_to(at, target);
                let Some(compaction) = self.begin(&slow) else { return false };
                (compaction, Some(slow))
            }
        };
        let mut turned = Vec::new();
        let is_left = loop {
            let Some(frontier) = compaction.frontier() else { break false };
            let chunk = frontier.chunk().clone();
            // The frontier holds it, and so do we.
            let has_readers = self.groups[at as usize].log.readers_in(&chunk) > 2;
            if has_readers && chunk.end() > target {
                // They are near enough, and read on.
                break false;
            }
            let next = match has_readers {
                true => standing.get_or_insert_with(|| self.standing_up_to(at, target)).last(),
                false => None,
            };
            let next = next.copied().filter(|&(position, _)| position <= chunk.end());
            let limit = next.map_or(chunk.end(), |(position, _)| position);
            let before = frontier.position();
            let subscriptions = &mut self.subscriptions;
            let mut laggards = Named::new();
            let is_named = |speaker| {
                laggards = named(speaker, vni);
                laggards.retain(|sub| {
                    let hears_as_it = subscriptions[*sub].reader.is(speaker);
                    hears_as_it && laggard(subscriptions, *sub, at).is_some()
                });
                !laggards.is_empty()
            };
            turned.clear();
            let passed = compaction.pass((limit - chunk.start()) as usize, is_named, &mut turned);
            for sub in laggards {
                if let Some(laggard) = laggard(subscriptions, sub, at) {
                    laggard.turn(&turned);
                }
            }
            let frontier = compaction.frontier().map_or(before, |frontier| frontier.position());
            *budget = budget.saturating_sub((frontier - before) as usize);
            match next {
                _ if *budget == 0 => break true,
                _ if passed => {}
                Some((_, sub)) => {
                    self.stand(sub, Stand::Lagging(compaction.laggard()));
                    standing.as_mut().and_then(Vec::pop);
                }
                None if compaction.step() => {}
                None => break false,
            }
        };
        self.groups[at as usize].compaction = Some(compaction);
        self.let_go(at);
        is_left
    }

    /// A compaction that begins where the last one of these stands, if there is any.
    fn begin(&self, slow: &[(u64, SubIndex)]) -> Option<Box<Compaction>> {
        let &(_, first) = slow.last()?;
        let Stand::Reading(cursor) = &self.subscriptions[first].stand else {
            unreachable!("only those who read stand in the log");
        };
        let (hasher, live) = (self.hasher.clone(), self.laggard_bytes.clone());
        Some(Box::new(Compaction::new(cursor.clone(), hasher, live)))
    }

    /// Those who stand in the log up to a position, the last one first.
    fn standing_up_to(&self, at: u32, target: u64) -> Vec<(u64, SubIndex)> {
        let reading = &self.groups[at as usize].members[READING];
        let mut standing: Vec<_> = reading
            .iter()
            .filter_map(|&sub| match &self.subscriptions[sub].stand {
                Stand::Reading(cursor) => Some((cursor.position(), sub)),
                _ => None,
            })
            .filter(|&(position, _)| position <= target)
            .collect();
        standing.sort_unstable_by(|one, other| other.cmp(one));
        standing
    }

    fn reclaim(&mut self, at: u32) {
        let LocalGroup { compaction: Some(compaction), members, .. } =
            &mut self.groups[at as usize]
        else {
            return;
        };
        if compaction.wants_reclaim() {
            let laggards = || {
                members[LAGGING].iter().filter_map(|&sub| match &self.subscriptions[sub].stand {
                    Stand::Lagging(laggard) => Some(laggard),
                    _ => None,
                })
            };
            compaction.reclaim(laggards, RECLAIM_PER_TURN);
        }
    }
}

impl LocalGroup {
    /// How far a reader may be behind before it lags. A log is there anyway, and is sent as it lies: below
    /// the length of a dump it is the better way to hear what changed. But once somebody lags it is read
    /// behind what laggards are told, so it should be short.
    fn lag_max(&self, lag_bytes_max: u64) -> u64 {
        match self.compaction {
            _ if self.pressed => 0,
            Some(_) => lag_bytes_max,
            None => lag_bytes_max.max(self.table_bytes),
        }
    }
}

/// The laggard of this group that this subscription is, if it is one.
fn laggard(
    subscriptions: &mut Slots<Subscription>,
    sub: SubIndex,
    group: u32,
) -> Option<&mut Laggard> {
    let subscription = subscriptions.find_mut(sub)?;
    match &mut subscription.stand {
        Stand::Lagging(laggard) if subscription.group == group => Some(laggard),
        _ => None,
    }
}
