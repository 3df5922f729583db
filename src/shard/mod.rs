//! The core of one shard, sans-IO: events in, effects out, the time passed in.
//!
//! Owns some peers with all their state, and the route tables of the VNIs whose home it is. Must
//! never touch a socket, a clock, a thread or a random number, nor wait for another shard.
//!
//! A driver (`io`, or the simulator in the tests) feeds [`Shard::receive`], [`Shard::deliver`] and
//! [`Shard::transmitted`], and after a batch of them calls [`Shard::turn`]; then it passes on
//! [`Shard::take_mail`], does what [`Shard::take_woken`] says, and has the writers go on that
//! [`Shard::take_writer`] names.
//!
//! The files build upon each other: parts that know nothing of a shard (up to `peer`), then this one,
//! then the chapters of what a [`Shard`] does.

mod absent;
mod again;
mod config;
mod correspondent;
mod ends;
mod events;
mod failed;
mod figures;
mod groups;
mod handover;
mod input;
mod laggards;
mod mail;
mod node;
mod output;
#[cfg(test)]
mod output_tests;
mod pacing;
mod peer;
mod piece;
mod refused;
mod requests;
mod shared;
mod sources;
mod standings;
mod timings;
mod views;
mod window;

#[cfg(test)]
mod bounds_tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;

use crate::client::Node;
use crate::log::LiveBytes;
use crate::policy::Policy;
use crate::rib::{BASE_KEPT, Rib, Rules};
use crate::session::{CloseReason, Verdict};
use crate::types::{PeerId, SeededMap, ShardId, SourceId, Time, Vni};

use absent::Absentees;
use ends::Ends;
use events::QUIET;
use failed::Failed;
use groups::{Groups, LagChange, SubIndex};
use mail::{ByLane, Outboxes, Received, RefusedRoutes, Request};
use output::{GATHERED_BYTES_MAX, INPUT_BYTES_MAX};
use peer::{Ending, Pause, Peer, Peers, SAMPLE_INTERVAL};

pub use config::{Budgets, Identity, Limits, ShardConfig};
pub use correspondent::Correspondent;
pub use ends::EndsPiece;
pub use events::STRANGERS;
pub use events::SessionEnd;
pub use figures::{Counters, Extremes, MemoryBounds, Usage};
pub use handover::{Export, Import, Order, Stillness};
pub use mail::Mail;
pub use output::Transmit;
pub use pacing::{BATCH_BYTES_MAX, PaceCounters, TcpSample};
use piece::Gathered;
pub use piece::Piece;
pub use refused::RefusedWhat;
use shared::Addresses;
use sources::Departing;
pub use standings::{Standing, StandingView, StandingsPiece};
pub use timings::{TIMING_BOUNDS_US, Timings};
pub use views::{PeerView, PeersPiece, SubscribersPiece, SubscribersView};

pub use crate::rib::{
    Announcer, Audience, Ledger, Pressure, RoutesPiece, Sight, Sources, VniView, VnisPiece,
};

/// Timers are looked after at most this often.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// A shard that is later than this with its timers does not judge its peers by them yet: what they
/// said may still wait to be read.
const STALL_MIN: Duration = Duration::from_secs(1);
/// While memory is short, logs take no more: those who are behind by more than a little are told the difference.
const LOG_BYTES_PRESSED: usize = 4 << 20;
/// Between two looks for who takes too much memory alone.
const WEIGHING_INTERVAL: Duration = Duration::from_secs(1);
/// What the driver is to do for a peer, besides writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Wake the reader: [`Shard::wants_read`] is true again.
    Read,
    /// Close the connection, then [`Shard::release`] it.
    Close,
    /// Sample TCP_INFO, and report it with [`Shard::sampled`].
    Sample,
    /// Ask whether all is acknowledged, and how TCP stands then: report it with [`Shard::polled`].
    Poll,
    /// The session is established, or that with a server that we dialled may have another new state.
    State,
}

/// One shard. Neither `Send` nor `Sync`: it is made, used and dropped on its own thread.
pub struct Shard {
    config: ShardConfig,
    peers: Peers,
    groups: Groups,
    rib: Rib,
    /// Requests by asking shard, not served yet.
    inbox: Vec<ByLane<VecDeque<Request>>>,
    served_first: usize,
    outboxes: Outboxes,
    mail_to: u16,
    woken: VecDeque<(PeerId, Wake)>,
    /// Paused peers, by the home that they wait for.
    paused: Vec<ByLane<VecDeque<PeerId>>>,
    /// Paused peers of whose own changes enough is known now.
    settled: VecDeque<PeerId>,
    pace_timers: BinaryHeap<Reverse<(Time, PeerId)>>,
    next_sweep: Time,
    next_expiry: Time,
    /// Who has arrived, and what is known of it; sources whose last changes are under way; what homes refused.
    received: Vec<Received>,
    departing: SeededMap<SourceId, Departing>,
    refused_routes: Vec<RefusedRoutes>,
    /// Sources whose addresses fall to this shard, and that are absent.
    absentees: Absentees,
    /// Addresses that fall to this shard, and those that several hosts share.
    addresses: Addresses,
    /// When something of peers that are back may have been stale for too long.
    stale_timers: BinaryHeap<Reverse<(Time, PeerId)>>,
    /// Who sends more than it may, and until when it is not heard.
    rated: BinaryHeap<Reverse<(Time, PeerId)>>,
    /// When to look again for who takes too much memory alone.
    next_weighing: Time,
    /// Subscriptions of peers that have gone.
    leaving: VecDeque<BTreeMap<Vni, SubIndex>>,
    /// Peers of whose something was refused, and when to sum that up.
    refused: Vec<PeerId>,
    next_summary: Time,
    epoch: u64,
    draining: bool,
    node: Node,
    /// Buffers to gather in, for use again.
    gathered: Vec<Rc<Gathered>>,
    /// What a laggard is told, before it is laid out in slices.
    told: Vec<u8>,
    /// What these and the ones in use take.
    gathered_bytes: LiveBytes,
    /// Who failed though it was paced.
    failed: Failed,
    /// When the input that is dealt with now was read, if that was not just now.
    read_at: Option<Time>,
    ends: Ends,
    handover: handover::Handover,
    counters: Counters,
    propagation: Timings,
    turns: Timings,
}

impl Shard {
    /// A shard without peers and routes.
    pub fn new(config: ShardConfig, now: Time) -> Shard {
        let [a, b, c, d] = config.hash_seed;
        let hasher = RandomState::with_seeds(a, b, c, d);
        let shards = config.shards;
        // The one that speaks with other reflectors is behind the shards.
        let correspondents = shards + u16::from(config.fabric.is_some());
        let mut rib = Rib::new(Rules {
            reflect: config.reflect_own,
            tail_bytes_min: config.budgets.tail_bytes_min,
            routes_per_vni_max: config.limits.routes_per_vni_max,
            routes_max: config.limits.routes_max,
            ledger: config.ledger.clone(),
            publishes: config.fabric.is_some(),
            ..Rules::new(hasher.clone())
        });
        if config.policy.is_some() {
            rib.set_policy(config.policy.clone());
        }
        Shard {
            peers: Peers::new(config.id, hasher.clone()),
            groups: Groups::new(
                hasher.clone(),
                config.limits.lag_bytes_max,
                config.budgets.compacted_bytes_per_turn,
            ),
            rib,
            inbox: (0..correspondents).map(|_| ByLane::default()).collect(),
            served_first: 0,
            outboxes: Outboxes::new(
                config.id,
                correspondents,
                [config.budgets.requests_under_way_max, config.budgets.joins_under_way_max],
                config.budgets.record_bytes_under_way_max,
            ),
            mail_to: 0,
            woken: VecDeque::new(),
            paused: (0..shards).map(|_| ByLane::default()).collect(),
            settled: VecDeque::new(),
            pace_timers: BinaryHeap::new(),
            next_sweep: Time::NEVER,
            next_expiry: now,
            received: Vec::new(),
            departing: SeededMap::with_hasher(hasher.clone()),
            refused_routes: Vec::new(),
            absentees: Absentees::default(),
            addresses: Addresses::default(),
            stale_timers: BinaryHeap::new(),
            rated: BinaryHeap::new(),
            next_weighing: now,
            leaving: VecDeque::new(),
            refused: Vec::new(),
            next_summary: Time::NEVER,
            epoch: 0,
            draining: false,
            node: Node::new(config.stale_time),
            gathered: Vec::new(),
            told: Vec::new(),
            gathered_bytes: LiveBytes::default(),
            failed: Failed::default(),
            read_at: None,
            ends: Ends::default(),
            handover: handover::Handover::default(),
            counters: Counters::default(),
            propagation: Timings::default(),
            turns: Timings::default(),
            config,
        }
    }

    /// A connection was accepted. Its id stays valid until it is released.
    pub fn accept(&mut self, now: Time, remote: SocketAddr) -> PeerId {
        self.counters.connections += 1;
        let is_cautious = self.failed.is_known(now, remote.ip());
        let mut peer = Peer::accepted(now, remote, &self.config, is_cautious);
        if self.draining {
            peer.ending = Ending::Gracefully;
        }
        let hearing = self.addresses.hearing(remote.ip().to_canonical(), self.config.shards);
        let id = self.peers.insert(peer);
        self.peers.hear(id, hearing);
        if self.draining {
            self.peers.wake_writer(id);
        }
        if self.handover.is_frozen {
            self.pause(now, id, Pause::Handover);
        }
        tracing::debug!(%id, %remote, "accepted");
        self.note_deadline(id);
        id
    }

    /// The driver closed the connection: its slot may be used again. Returns how the session ended;
    /// None if there is no such peer any more.
    pub fn release(&mut self, now: Time, id: PeerId) -> Option<SessionEnd> {
        if self.peers.find(id).is_some_and(|peer| peer.ending != Ending::Closed) {
            self.close(now, id, CloseReason::RemoteClosed);
        }
        let end = self.peers.find_mut(id).and_then(|peer| peer.record.take_end());
        if let Some(peer) = self.peers.find(id) {
            let counters = peer.outbound.pace_counters();
            if *counters != PaceCounters::default() {
                tracing::debug!(%id, ?counters, "was paced");
            }
            self.counters.pacing.add(counters);
        }
        self.peers.remove(id);
        end
    }

    /// Does what is due. True if work is left: call again soon, after I/O had its chance.
    pub fn turn(&mut self, now: Time) -> bool {
        let mut left = self.drop_leaving();
        left |= self.work_as_home(now);
        let peers = &self.peers;
        let slow_left =
            self.groups.compact(self.log_bytes_max(), |source, vni| peers.named(source, vni));
        self.note_laggards(now);
        self.ask_again();
        self.take_received(now);
        for routes in std::mem::take(&mut self.refused_routes) {
            self.note_refused(now, &routes);
        }
        if !self.handover.is_frozen {
            self.hold_budgets(now);
            left |= self.resume_paused(now);
            self.fire_timers(now);
        }
        // What the resumed have asked of this very shard is work too.
        left || slow_left || !self.outboxes.block(self.config.id).requests.is_empty()
    }

    /// Mail that the turn collected, a block for each destination. To be called until None.
    pub fn take_mail(&mut self) -> Option<(ShardId, Mail)> {
        while usize::from(self.mail_to) < self.inbox.len() {
            let to = ShardId(self.mail_to);
            self.mail_to += 1;
            if to != self.config.id
                && let Some(mail) = self.outboxes.take(to)
            {
                self.handover.mails_sent += u64::from(self.is_of_another_shard(to));
                return Some((to, mail));
            }
        }
        self.mail_to = 0;
        None
    }

    /// What is to be done for peers after the turn. To be called until None.
    pub fn take_woken(&mut self) -> Option<(PeerId, Wake)> {
        self.woken.pop_front()
    }

    /// The next peer whose writer is to go on: [`Shard::transmit`] has something for it. How many go on
    /// before the next turn the driver decides.
    pub fn take_writer(&mut self) -> Option<PeerId> {
        if self.handover.is_frozen { None } else { self.peers.take_writer() }
    }

    /// Whether writers are left to go on.
    pub fn has_writers(&self) -> bool {
        !self.handover.is_frozen && self.peers.has_writers()
    }

    /// When [`Shard::turn`] is to be called at the latest.
    pub fn next_wakeup(&self) -> Time {
        if self.handover.is_frozen {
            return Time::NEVER;
        }
        let paced = self.pace_timers.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
        let expiry = if self.rib.has_bases() { self.next_expiry } else { Time::NEVER };
        let rated = self.rated.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
        let own = self.node.next_deadline().min(self.next_stale_deadline());
        let own = own.min(self.addresses.next_deadline());
        // Who reads may have come to the end since the turn.
        let own = if self.groups.has_again() { Time::default() } else { own };
        self.next_sweep.min(paced).min(expiry).min(rated).min(own).min(self.next_summary)
    }

    /// From now on this policy says what peers that connected to us may announce; what they have announced before is
    /// judged anew.
    pub fn set_policy(&mut self, _now: Time, policy: Option<Arc<Policy>>) {
        if self.handover.is_frozen {
            return self.defer_policy(policy);
        }
        self.rib.set_policy(policy);
    }

    /// From now on what closes withdraws nothing. All shards have to know it before one of them
    /// begins to drain: who has connections to two of them may end both when one ends.
    pub fn stop_withdrawing(&mut self) {
        self.draining = true;
        self.node.drain();
    }

    /// From now on what closes withdraws nothing, and so many peers of those that are left end, each when it was sent
    /// what is pending for it: those that stay elsewhere see no withdrawal of a reflector that comes back.
    pub fn drain(&mut self, _now: Time, peers_max: usize) {
        self.stop_withdrawing();
        let mut peers_left = peers_max;
        for id in self.peers.ids() {
            if peers_left == 0 {
                return;
            }
            if let Some(peer) = self.peers.find_mut(id)
                && peer.ending == Ending::No
            {
                peer.ending = Ending::Gracefully;
                peers_left -= 1;
                self.peers.wake_writer(id);
            }
        }
    }

    /// Whether it withdraws nothing any more, since it is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Connections not released yet.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// What it may hold at most.
    pub fn memory_bounds(&self) -> MemoryBounds {
        let Budgets { requests_under_way_max, joins_under_way_max, .. } = self.config.budgets;
        let requests_max = requests_under_way_max + joins_under_way_max;
        MemoryBounds {
            log_bytes: self.config.limits.log_bytes_max,
            laggard_bytes: self.config.limits.queue_bytes_max,
            gathered_bytes: GATHERED_BYTES_MAX,
            request_bytes: usize::from(self.config.shards) * requests_max * size_of::<Request>(),
            input_bytes_per_peer: INPUT_BYTES_MAX,
        }
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// What was counted; of pacing what ended connections took.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long records took from the reading of a peer's bytes (input that waits while the peer is paused counts
    /// from the pause on) to the SEND that carries them: a sample, taken for each subscriber at the first record that
    /// finds it idle, and at the first one of each chunk otherwise. Those that a slow peer is told otherwise are not
    /// in it.
    pub fn propagation(&self) -> &Timings {
        &self.propagation
    }

    /// How long turns took, as far as [`Shard::note_turn`] was told.
    pub fn turns(&self) -> &Timings {
        &self.turns
    }

    /// A turn, with the letters and questions before it and what the driver did for it, took so long.
    pub fn note_turn(&mut self, took: Duration) {
        self.turns.note(took);
    }

    /// How far it goes. Walks all subscriptions: for tests.
    pub fn extremes(&self) -> Extremes {
        Extremes {
            lag_bytes_longest: self.groups.lag_bytes_longest(),
            bases_alive_max: self.rib.bases_alive_max(),
        }
    }

    /// What is held.
    pub fn usage(&self) -> Usage {
        let (sources_absent, routes_absent) = self.absentees.count();
        Usage {
            routes: self.rib.routes(),
            vnis: self.rib.vnis(),
            log_bytes: self.groups.live_bytes(),
            laggard_bytes: self.groups.laggard_bytes(),
            gathered_bytes: self.gathered_bytes.get(),
            base_bytes: self.rib.base_bytes(),
            request_bytes: self
                .inbox
                .iter()
                .flatten()
                .map(|it| it.len() * size_of::<Request>())
                .sum(),
            lost_connections: self.node.lost_connections(),
            sources: self.rib.sources(),
            routes_withheld: self.rib.withheld(),
            sources_absent,
            routes_absent,
        }
    }

    /// A peer's session may have got an earlier deadline.
    fn note_deadline(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.find(id) {
            self.next_sweep = self.next_sweep.min(peer.link.next_deadline());
        }
    }

    fn fire_timers(&mut self, now: Time) {
        while let Some(&Reverse((at, id))) = self.pace_timers.peek()
            && at <= now
        {
            self.pace_timers.pop();
            self.on_peer_timer(now, at, id);
        }
        self.on_node_timer(now);
        self.on_stale_timer(now);
        self.look_for_shared(now);
        self.sum_up_refusals(now);
        if now >= self.next_expiry {
            let all = self.rib.expire_bases(now);
            self.next_expiry = now.after(if all { BASE_KEPT } else { BASE_KEPT / 64 });
        }
        if now >= self.next_sweep.after(STALL_MIN) && self.next_sweep != Time::NEVER {
            self.next_sweep = now.after(SWEEP_INTERVAL_MIN);
        } else if now >= self.next_sweep {
            self.sweep(now);
        }
    }

    /// Sums up the refusals of peers that have quieted down.
    fn sum_up_refusals(&mut self, now: Time) {
        if now < self.next_summary {
            return;
        }
        self.next_summary = Time::NEVER;
        for id in std::mem::take(&mut self.refused) {
            let Some(peer) = self.peers.find_mut(id) else { continue };
            let quiet_at = peer.record.quiet_at();
            if quiet_at > now {
                self.next_summary = self.next_summary.min(quiet_at);
                self.refused.push(id);
            } else {
                peer.record.sum_up(&self.config.limits);
            }
        }
        // Many may quiet down one after the other.
        self.next_summary = self.next_summary.max(now.after(QUIET / 4));
    }

    /// Looks after all timers. Deadlines mostly move away meanwhile, so this is rare.
    fn sweep(&mut self, now: Time) {
        self.next_sweep = Time::NEVER;
        for id in self.peers.ids() {
            while let Some(peer) = self.peers.find_mut(id)
                && let Some(session) = peer.link.session_mut()
            {
                match session.on_timer(now) {
                    Verdict::Ignore => break,
                    verdict => self.obey(now, id, verdict),
                }
            }
            self.note_deadline(id);
            let in_flight = self.peers.find_mut(id).and_then(|peer| peer.outbound.in_flight(now));
            if let Some(asks) = in_flight {
                if asks {
                    self.woken.push_back((id, Wake::Sample));
                    if let Some(peer) = self.peers.find_mut(id) {
                        peer.record.stalls(now, id);
                    }
                }
                self.next_sweep = self.next_sweep.min(now.after(SAMPLE_INTERVAL));
            }
        }
        self.next_sweep = self.next_sweep.max(now.after(SWEEP_INTERVAL_MIN));
    }

    /// Who began to lag, or lags no more.
    fn note_laggards(&mut self, now: Time) {
        for (id, change) in self.groups.take_lag_changes() {
            self.counters.conflations += u64::from(change == LagChange::Begins);
            if let Some(peer) = self.peers.find_mut(id) {
                peer.record.lag_changes(now, id, change);
            }
        }
    }

    /// Bytes that logs may take for now.
    fn log_bytes_max(&self) -> usize {
        let log_bytes_max = self.config.limits.log_bytes_max;
        match self.config.ledger.pressure() {
            Pressure::None => log_bytes_max,
            _ => log_bytes_max.min(LOG_BYTES_PRESSED),
        }
    }

    /// Keeps what laggards take within its budgets.
    fn hold_budgets(&mut self, now: Time) {
        let Limits { queue_bytes_max, queue_bytes_per_peer_max, .. } = self.config.limits;
        let taken = |groups: &Groups| groups.laggard_bytes() as u64;
        let is_over = taken(&self.groups) > queue_bytes_max;
        // Who takes too much alone is looked for now and then: that walks all subscriptions.
        let weighs = taken(&self.groups) > queue_bytes_per_peer_max && now >= self.next_weighing;
        if !is_over && !weighs {
            return;
        }
        self.next_weighing = now.after(WEIGHING_INTERVAL);
        for (id, bytes) in self.groups.hungriest() {
            let is_too_much = bytes as u64 > queue_bytes_per_peer_max;
            if taken(&self.groups) <= queue_bytes_max && !is_too_much {
                break;
            }
            let Some(peer) = self.peers.find_mut(id) else { continue };
            if peer.link.session().is_none() {
                // With it what it announces would go, and it cannot connect again.
                continue;
            }
            let flag = if is_too_much { "--queue-mib-per-peer-max" } else { "--queue-mib-max" };
            peer.record.explain(|| format!("{bytes} bytes were kept for it alone ({flag})"));
            self.counters.peers_over_budget += 1;
            self.close(now, id, CloseReason::OverBudget);
        }
    }
}
