//! Telling what a shard has, in pieces.
//!
//! Owns where that stands. Must never change what it tells.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::groups::{Numbering, Standing};
use crate::handover::item::What;
use crate::handover::{self, Item, address_bytes, speaker};
use crate::log::{Cursor, Frames};
use crate::rib::{AnnouncedPart, Announcements, Introduction};
use crate::shard::peer::Ending;
use crate::shard::{Shard, SubIndex};
use crate::types::{PeerId, ShardId, SourceId, Speaker, Time, Vni};

/// About how long a piece is, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// What one item has of long things, in bytes, and in numbers.
const PART_BYTES: usize = 32 << 10;
const PART_NUMBERS: usize = 4_096;

/// What is told one after the other, each of all shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Peers,
    Absent,
    Sources,
    Routes,
    Subscriptions,
    Done,
}

/// Where the export of all shards stands: it goes from one to the next.
#[derive(Debug)]
pub struct Export {
    shards: u16,
    phase: Phase,
    shard: ShardId,
    /// Blocks that were told: several shards may read one.
    blocks: BTreeSet<u64>,
    items: u64,
}

/// Where the export of one shard stands, within a phase.
pub(in crate::shard) enum Exporting {
    /// The next slot.
    Peers(usize),
    /// The rest of all.
    Listed(VecDeque<Item>),
    Routes(Announcements),
    Subscriptions(Subscriptions),
}

/// The next slot and VNI, and what has to be told before.
#[derive(Default)]
pub(in crate::shard) struct Subscriptions {
    slot: usize,
    behind: Option<Vni>,
    jobs: VecDeque<Job>,
    told: BTreeSet<(Numbering, u64)>,
    logs: BTreeMap<u32, u64>,
}

/// A part of what subscriptions refer to, or one of them.
pub(super) enum Job {
    Block { id: u64, frames: Arc<Frames>, at: usize },
    Log { id: u64, cursor: Cursor },
    Changed { id: u64, group: u32, next: u32 },
    Numbers { id: u64, of: Numbering, sub: SubIndex, next: u32 },
    Subscription(handover::Subscription),
}

impl Export {
    /// Of so many shards; nothing is told yet.
    pub fn new(shards: u16) -> Export {
        Export { shards, phase: Phase::Peers, shard: ShardId(0), blocks: BTreeSet::new(), items: 0 }
    }

    /// Whom to ask next; None when all is told.
    pub fn shard(&self) -> Option<ShardId> {
        (self.phase != Phase::Done).then_some(self.shard)
    }

    /// Items told so far.
    pub fn items(&self) -> u64 {
        self.items
    }

    fn next_shard(&mut self) {
        self.shard.0 += 1;
        if self.shard.0 < self.shards {
            return;
        }
        self.shard = ShardId(0);
        self.phase = match self.phase {
            Phase::Peers => Phase::Absent,
            Phase::Absent => Phase::Sources,
            Phase::Sources => Phase::Routes,
            Phase::Routes => Phase::Subscriptions,
            Phase::Subscriptions | Phase::Done => Phase::Done,
        };
    }
}

impl Shard {
    /// The next piece of what goes over, if it is this shard's turn ([`Export::shard`]): items of about 64 KiB, in the order
    /// in which the successor has to get them. To be called while all shards are still.
    ///
    /// # Panics
    /// If the shard is not frozen.
    pub fn export(&mut self, now: Time, export: &mut Export, items: &mut Vec<Item>) {
        assert!(self.handover.is_frozen, "it could change meanwhile");
        let told = items.len();
        let mut exporting = match self.handover.exporting.take() {
            Some(exporting) => exporting,
            None => Box::new(self.begin_phase(now, export.phase)),
        };
        let mut bytes = 0;
        while bytes < PIECE_BYTES {
            let next = match &mut *exporting {
                Exporting::Peers(slot) => self.next_peer(now, slot),
                Exporting::Listed(list) => list.pop_front(),
                Exporting::Routes(announcements) => self.next_routes(announcements),
                Exporting::Subscriptions(at) => self.next_of_subscriptions(at, export),
            };
            let Some(item) = next else {
                export.next_shard();
                export.items += (items.len() - told) as u64;
                return;
            };
            bytes += item.bytes();
            items.push(item);
        }
        export.items += (items.len() - told) as u64;
        self.handover.exporting = Some(exporting);
    }

    fn begin_phase(&mut self, now: Time, phase: Phase) -> Exporting {
        match phase {
            Phase::Peers => Exporting::Peers(0),
            Phase::Absent => Exporting::Listed(self.absent_items(now)),
            Phase::Sources => Exporting::Listed(self.source_items()),
            Phase::Routes => Exporting::Routes(Announcements::new(&self.rib)),
            Phase::Subscriptions => {
                let peers = &self.peers;
                self.groups.pass_all(|speaker, vni| peers.named(speaker, vni));
                Exporting::Subscriptions(Subscriptions::default())
            }
            Phase::Done => Exporting::Listed(VecDeque::new()),
        }
    }

    fn next_peer(&self, now: Time, slot: &mut usize) -> Option<Item> {
        while *slot < self.peers.slots() {
            let at = self.peers.at(*slot);
            *slot += 1;
            if let Some((id, peer)) = at
                && peer.ending != Ending::Closed
                && let Some(told) = peer.hand_over(now, id)
            {
                return Some(What::Peer(told).into());
            }
        }
        None
    }

    fn absent_items(&self, now: Time) -> VecDeque<Item> {
        let shared = self.addresses.found().map(|address| {
            What::SharedAddress(handover::SharedAddress { address: address_bytes(address) })
        });
        let absent = self.absentees.iter().map(|(address, absent)| {
            What::Absent(handover::Absent {
                address: address_bytes(address),
                source: absent.source.0.bits(),
                class: handover::PeerClass::from(absent.class).into(),
                life: absent.life.into(),
                routes: absent.routes,
                former_lives: absent.stale.hand_over(now),
            })
        });
        shared.chain(absent).map(Item::from).collect()
    }

    fn source_items(&self) -> VecDeque<Item> {
        let sources = self.rib.introductions().map(|(SourceId(id), introduction)| {
            let Introduction { address, life, speaker, .. } = introduction;
            Item::from(What::Source(handover::Source {
                id: id.bits(),
                address: address.map(address_bytes).unwrap_or_default(),
                life: life.into(),
                speaker: told_speaker(speaker),
            }))
        });
        sources.collect()
    }

    fn next_routes(&self, announcements: &mut Announcements) -> Option<Item> {
        let mut frames = Vec::new();
        let part = announcements.next(&self.rib, &mut frames, PART_BYTES)?;
        let AnnouncedPart { source, class, life, speaker, vni, is_withheld } = part;
        Some(Item::from(What::Routes(handover::Routes {
            source: source.0.bits(),
            class: handover::PeerClass::from(class).into(),
            life: life.into(),
            speaker: told_speaker(speaker),
            is_withheld,
            vni: vni.0,
            frames,
        })))
    }

    fn next_of_subscriptions(&self, at: &mut Subscriptions, export: &mut Export) -> Option<Item> {
        loop {
            while let Some(job) = at.jobs.front_mut() {
                match self.go_on_with(job) {
                    Some(what) => {
                        if matches!(what, What::Subscription(_)) {
                            at.jobs.pop_front();
                        }
                        return Some(what.into());
                    }
                    None => drop(at.jobs.pop_front()),
                }
            }
            let (peer, vni, sub) = self.next_subscription(at)?;
            let (shard, logs) = (self.config.id, &mut at.logs);
            let Standing { told, jobs } = self.groups.hand_over(sub, (peer, vni), shard, logs);
            for job in jobs {
                let is_new = match &job {
                    Job::Block { id, .. } => export.blocks.insert(*id),
                    Job::Changed { id, .. } => at.told.insert((Numbering::Changed, *id)),
                    Job::Numbers { id, of, .. } => at.told.insert((*of, *id)),
                    Job::Log { .. } | Job::Subscription(_) => true,
                };
                if is_new {
                    at.jobs.push_back(job);
                }
            }
            at.jobs.push_back(Job::Subscription(told));
        }
    }

    fn next_subscription(&self, at: &mut Subscriptions) -> Option<(PeerId, Vni, SubIndex)> {
        while at.slot < self.peers.slots() {
            if let Some((id, peer)) = self.peers.at(at.slot)
                && peer.ending != Ending::Closed
            {
                let from = at.behind.map_or(Some(0), |Vni(behind)| behind.checked_add(1));
                let next = from.and_then(|from| peer.subscriptions.range(Vni(from)..).next());
                if let Some((vni, sub)) = next {
                    at.behind = Some(*vni);
                    return Some((id, *vni, *sub));
                }
            }
            at.slot += 1;
            at.behind = None;
        }
        None
    }

    /// The next part of a job; None when it is done.
    fn go_on_with(&self, job: &mut Job) -> Option<What> {
        match job {
            Job::Block { id, frames, at } => {
                let (scope, range) = frames.part(*at, PART_BYTES)?;
                *at = range.end;
                Some(What::Frames(handover::Frames {
                    block: *id,
                    scope: Some(scope.into()),
                    frames: frames.bytes()[range].to_vec(),
                    head_bytes: frames.head_bytes() as u64,
                }))
            }
            Job::Log { id, cursor } => {
                // A run lies within one chunk, of 64 KiB at most.
                let mut frames = Vec::new();
                let scope = Some(cursor.pass(&mut frames)?.into());
                Some(What::Frames(handover::Frames { block: *id, scope, frames, head_bytes: 0 }))
            }
            Job::Changed { id, group, next } => {
                let routes = self.groups.changed_from(*group, next, PART_BYTES);
                (!routes.is_empty()).then_some(What::Changed(handover::Changed { id: *id, routes }))
            }
            Job::Numbers { id, of, sub, next } => {
                let numbers = self.groups.numbers_from(*sub, *of, next, PART_NUMBERS);
                (!numbers.is_empty())
                    .then_some(What::Numbers(handover::Numbers { id: *id, numbers }))
            }
            Job::Subscription(told) => Some(What::Subscription(std::mem::take(told))),
        }
    }
}

fn told_speaker(speaker: Speaker) -> Option<handover::Speaker> {
    let whom = match speaker {
        Speaker::Itself => return None,
        Speaker::Host(address) => speaker::Whom::Host(address_bytes(address)),
        Speaker::Many => speaker::Whom::Many(true),
    };
    Some(handover::Speaker { whom: Some(whom) })
}
