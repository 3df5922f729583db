//! The core of one shard, sans-IO: events in, effects out, the time passed in.
//!
//! Owns some peers with all their state, and the route tables of the VNIs whose home it is. Must
//! never touch a socket, a clock, a thread or a random number, nor wait for another shard.
//!
//! A driver (`io`, or the simulator in the tests) feeds [`Shard::receive`], [`Shard::deliver`] and
//! [`Shard::transmitted`], and after a batch of them calls [`Shard::turn`]; then it passes on
//! [`Shard::take_mail`] and wakes whom [`Shard::take_woken`] names.

mod dump;
mod events;
mod groups;
mod home;
mod input;
mod mail;
mod node;
mod output;
mod pacing;
mod peer;
mod window;

#[cfg(test)]
mod bounds_tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ahash::RandomState;

use crate::rib::{BASE_KEPT, Rib};
use crate::session::{CloseReason, Direction, Session, SessionConfig, Verdict};
use crate::types::{Pace, PeerId, ReflectOwn, ShardId, Time};

use groups::Groups;
use mail::{Outboxes, Request};
use node::{HeldSource, Node};
use peer::{Ending, Peer, Peers, Role};

pub use events::{STRANGERS, SessionEnd};
pub use mail::Mail;
pub use output::Transmit;
pub use pacing::{BATCH_BYTES_MAX, Pacer, Permit, TcpSample};
pub use peer::Piece;

/// Timers are looked after at most this often.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Backlog that is conflated in one turn, in bytes: some 30 ms of work at most.
const CONFLATED_BYTES_PER_TURN: u64 = 8 << 20;
/// A shard that is later than this with its timers does not judge its peers by them yet: what they
/// said may still wait to be read.
const STALL_MIN: Duration = Duration::from_secs(1);
/// How often a SEND that does not end is asked about.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);

/// Limits that keep one peer from filling the machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Routes that one peer may announce; further ADDs are refused.
    pub routes_per_peer_max: u32,
    /// VNIs that one peer may subscribe to; further SUBSCRIBEs are refused.
    pub vnis_per_peer_max: u32,
    /// Bytes of all private queues of this shard; beyond, the peer with the longest is closed.
    pub queue_bytes_max: u64,
    /// Bytes of a log that a reader may be behind before its backlog is conflated.
    pub lag_bytes_max: u64,
    /// Bytes of all logs of this shard; beyond, all readers that are behind are conflated.
    pub log_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            routes_per_peer_max: 100_000,
            vnis_per_peer_max: 16_384,
            queue_bytes_max: 1 << 30,
            lag_bytes_max: 4 << 20,
            log_bytes_max: 256 << 20,
        }
    }
}

/// How much is done at a time, and how much may be under way between shards.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Requests that a turn serves at most.
    pub requests_per_turn: usize,
    /// Routes that the jobs of a turn (withdrawing a lost peer's, building a base) deal with.
    pub job_routes_per_turn: usize,
    /// Requests under way to one home beyond which its askers pause.
    pub requests_under_way_max: usize,
    /// Record bytes under way to one shard beyond which homes stop serving.
    pub record_bytes_under_way_max: usize,
    /// Bytes of records that are kept behind a base however small it is.
    pub tail_bytes_min: usize,
}

impl Default for Budgets {
    fn default() -> Budgets {
        Budgets {
            requests_per_turn: 16_384,
            job_routes_per_turn: 8_192,
            requests_under_way_max: 32_768,
            record_bytes_under_way_max: 4 << 20,
            tail_bytes_min: 16 << 10,
        }
    }
}

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard it is.
    pub id: ShardId,
    /// How many there are, 1..=1024.
    pub shards: u16,
    /// The seed of its hash tables.
    pub hash_seed: [u64; 4],
    /// The keepalive interval to offer, in seconds.
    pub keepalive_interval_s: u32,
    /// Which of its own routes a peer gets back.
    pub reflect_own: ReflectOwn,
    /// How fast peers are fed that do not reassemble.
    pub pace: Pace,
    /// Limits on peers and memory.
    pub limits: Limits,
    /// How long routes of a lost server that we dialled stay, in case it comes back.
    pub hold_time: Duration,
    /// How much is done at a time.
    pub budgets: Budgets,
}

/// Whom the driver is to wake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// The writer: [`Shard::transmit`] has something for it.
    Write,
    /// The reader: [`Shard::wants_read`] is true again.
    Read,
    /// Close the connection, then [`Shard::release`] it.
    Close,
    /// Sample TCP_INFO, and report it with [`Shard::sampled`].
    Sample,
    /// Nobody: the session with a server that we dialled may have a new state.
    State,
}

/// What a shard has counted since its start.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    /// Connections taken over.
    pub connections: u64,
    /// Bytes read from peers.
    pub bytes_received: u64,
    /// Bytes sent to peers.
    pub bytes_sent: u64,
    /// UPDATEs passed on to the homes of their VNIs.
    pub updates_received: u64,
    /// UPDATEs dropped because they make no sense.
    pub updates_invalid: u64,
    /// ADDs refused because of the limit on routes.
    pub updates_refused: u64,
    /// At home: ADDs of what was there, REMOVEs of what was not.
    pub updates_without_effect: u64,
    /// SUBSCRIBEs refused because of the limit on VNIs.
    pub subscriptions_refused: u64,
    /// Peers closed because private queues took too much memory.
    pub peers_over_budget: u64,
}

/// What a shard holds in memory, in bytes but for the counts; see [`Limits`] for the bounds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Held {
    /// Routes in the tables of its VNIs.
    pub routes: usize,
    /// VNIs of which it is the home and that anything is known of.
    pub vnis: usize,
    /// Log chunks that somebody has still to read.
    pub log_bytes: usize,
    /// Private queues.
    pub private_bytes: usize,
    /// The longest way that a reader is behind in a log.
    pub lag_bytes_longest: u64,
    /// The most bases that any group has alive.
    pub bases_alive_max: usize,
    /// Bases and what followed them, of the VNIs whose home it is: as far as they are to be read by
    /// peers of any shard, or are kept for the next joiner.
    pub base_bytes: usize,
    /// Lost connections to servers whose routes stay for now: a few for each server.
    pub lost_connections: usize,
}

/// One shard. Neither `Send` nor `Sync`: it is made, used and dropped on its own thread.
pub struct Shard {
    config: ShardConfig,
    peers: Peers,
    groups: Groups,
    rib: Rib,
    /// Requests by asking shard, not served yet.
    inbox: Vec<VecDeque<Request>>,
    served_first: usize,
    outboxes: Outboxes,
    mail_to: u16,
    woken: VecDeque<(PeerId, Wake)>,
    paused: Vec<PeerId>,
    pace_timers: BinaryHeap<Reverse<(Time, PeerId)>>,
    next_sweep: Time,
    next_expiry: Time,
    /// Peers of whose something was refused, and when to sum that up.
    refused: Vec<PeerId>,
    next_summary: Time,
    epoch: u64,
    draining: bool,
    node: Node,
    /// Lost servers whose routes stay until then, and the homes that know them.
    held_sources: VecDeque<HeldSource>,
    log_bytes_seen: usize,
    /// Buffers to gather in, for use again.
    gathered: Vec<Rc<Vec<u8>>>,
    counters: Counters,
}

impl Shard {
    /// A shard without peers and routes.
    pub fn new(config: ShardConfig, now: Time) -> Shard {
        let [a, b, c, d] = config.hash_seed;
        let hasher = RandomState::with_seeds(a, b, c, d);
        let shards = config.shards;
        Shard {
            peers: Peers::new(config.id),
            groups: Groups::new(hasher.clone(), config.limits.lag_bytes_max),
            rib: Rib::new(hasher, config.reflect_own, config.budgets.tail_bytes_min),
            inbox: (0..shards).map(|_| VecDeque::new()).collect(),
            served_first: 0,
            outboxes: Outboxes::new(
                config.id,
                shards,
                config.budgets.requests_under_way_max,
                config.budgets.record_bytes_under_way_max,
            ),
            mail_to: 0,
            woken: VecDeque::new(),
            paused: Vec::new(),
            pace_timers: BinaryHeap::new(),
            next_sweep: Time::NEVER,
            next_expiry: now,
            refused: Vec::new(),
            next_summary: Time::NEVER,
            epoch: 0,
            draining: false,
            node: Node::default(),
            held_sources: VecDeque::new(),
            log_bytes_seen: 0,
            gathered: Vec::new(),
            counters: Counters::default(),
            config,
        }
    }

    /// A connection was accepted. Its id stays valid until it is released.
    pub fn accept(&mut self, now: Time, remote: SocketAddr) -> PeerId {
        let session = Session::new(
            &SessionConfig {
                direction: Direction::Incoming,
                keepalive_interval_s: self.config.keepalive_interval_s,
                is_server: true,
                reassembles: true,
                reflector: true,
            },
            now,
        );
        self.counters.connections += 1;
        let mut peer = Peer::new(remote, session, Role::Accepted, self.config.pace, now);
        if self.draining {
            peer.ending = Ending::Gracefully;
        }
        let id = self.peers.insert(peer);
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
        let end = self.peers.find_mut(id).and_then(|peer| peer.end.take());
        self.peers.remove(id);
        end
    }

    /// Does what is due. True if work is left: call again soon, after I/O had its chance.
    pub fn turn(&mut self, now: Time) -> bool {
        let left = self.work_as_home(now);
        let slow_left = self.groups.conflate_slow(false, CONFLATED_BYTES_PER_TURN);
        self.hold_budgets(now);
        self.queue_ready();
        self.resume_paused(now);
        self.fire_timers(now);
        // What the resumed have asked of this very shard is work too.
        left || slow_left || !self.outboxes.block(self.config.id).requests.is_empty()
    }

    /// Mail that the turn collected, a block for each destination. To be called until None.
    pub fn take_mail(&mut self) -> Option<(ShardId, Mail)> {
        while self.mail_to < self.config.shards {
            let to = ShardId(self.mail_to);
            self.mail_to += 1;
            if to != self.config.id
                && let Some(mail) = self.outboxes.take(to)
            {
                return Some((to, mail));
            }
        }
        self.mail_to = 0;
        None
    }

    /// Whom the turn wants to be woken. To be called until None.
    pub fn take_woken(&mut self) -> Option<(PeerId, Wake)> {
        self.woken.pop_front()
    }

    /// When [`Shard::turn`] is to be called at the latest.
    pub fn next_wakeup(&self) -> Time {
        let paced = self.pace_timers.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
        let expiry = if self.rib.has_bases() { self.next_expiry } else { Time::NEVER };
        self.next_sweep.min(paced).min(expiry).min(self.node_deadline()).min(self.next_summary)
    }

    /// From now on what closes withdraws nothing. All shards have to know it before one of them
    /// begins to drain: who has connections to two of them may end both when one ends.
    pub fn stop_withdrawing(&mut self) {
        self.draining = true;
        self.held_sources.clear();
    }

    /// From now on what closes withdraws nothing, and every peer ends when it was sent what is
    /// pending for it: those that stay elsewhere see no withdrawal of a reflector that comes back.
    pub fn drain(&mut self, _now: Time) {
        self.stop_withdrawing();
        for id in self.peers.ids() {
            if let Some(peer) = self.peers.find_mut(id)
                && peer.ending == Ending::No
            {
                peer.ending = Ending::Gracefully;
                self.wake_writer(id);
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

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What is held. Walks all subscriptions: not for each turn.
    pub fn held(&self) -> Held {
        Held {
            routes: self.rib.routes(),
            vnis: self.rib.vnis(),
            log_bytes: self.groups.live_bytes(),
            private_bytes: self.groups.private_bytes(),
            lag_bytes_longest: self.groups.lag_bytes_longest(),
            bases_alive_max: self.rib.bases_alive_max(),
            base_bytes: self.rib.base_bytes(),
            lost_connections: self.held_sources.len(),
        }
    }

    /// A peer's session may have got an earlier deadline.
    fn note_deadline(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.find(id)
            && peer.role != Role::Own
        {
            self.next_sweep = self.next_sweep.min(peer.session.next_deadline());
        }
    }

    fn fire_timers(&mut self, now: Time) {
        while let Some(&Reverse((at, id))) = self.pace_timers.peek()
            && at <= now
        {
            self.pace_timers.pop();
            self.wake_writer(id);
        }
        self.on_node_timer(now);
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

    /// Looks after all timers. Deadlines mostly move away meanwhile, so this is rare.
    fn sweep(&mut self, now: Time) {
        self.next_sweep = Time::NEVER;
        for id in self.peers.ids() {
            while let Some(peer) = self.peers.find_mut(id)
                && peer.role != Role::Own
            {
                match peer.session.on_timer(now) {
                    Verdict::Ignore => break,
                    verdict => self.obey(now, id, verdict),
                }
            }
            self.note_deadline(id);
            if let Some(peer) = self.peers.find_mut(id)
                && peer.in_flight.is_some()
            {
                let ask_at = peer.in_flight_since.after(SAMPLE_INTERVAL);
                if ask_at <= now {
                    peer.in_flight_since = now;
                    self.woken.push_back((id, Wake::Sample));
                }
                self.next_sweep = self.next_sweep.min(ask_at.max(now.after(SAMPLE_INTERVAL)));
            }
        }
        self.next_sweep = self.next_sweep.max(now.after(SWEEP_INTERVAL_MIN));
    }

    /// Keeps logs and private queues within their budgets.
    fn hold_budgets(&mut self, now: Time) {
        let log_bytes = self.groups.live_bytes();
        let log_bytes_max = self.config.limits.log_bytes_max;
        if log_bytes <= log_bytes_max {
            self.log_bytes_seen = 0;
        } else if log_bytes > self.log_bytes_seen + log_bytes_max / 8 {
            // Looking again is worth it only when there is more to find.
            self.groups.conflate_slow(true, CONFLATED_BYTES_PER_TURN);
            self.log_bytes_seen = self.groups.live_bytes();
        }
        let queue_bytes_max = self.config.limits.queue_bytes_max;
        if self.groups.private_bytes() as u64 <= queue_bytes_max {
            return;
        }
        for (id, bytes) in self.groups.hungriest() {
            if self.groups.private_bytes() as u64 <= queue_bytes_max {
                break;
            }
            if self.peers.find(id).is_some_and(|peer| peer.role == Role::Own) {
                // With it the node's announcements would go, and it cannot connect again.
                continue;
            }
            self.counters.peers_over_budget += 1;
            if let Some(peer) = self.peers.find_mut(id) {
                peer.detail = Some(format!("{bytes} bytes were queued for it"));
            }
            self.close(now, id, CloseReason::OverBudget);
        }
    }
}
