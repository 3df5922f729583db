//! What the threads of a run share: the plan, what is announced at the moment, and counters.
//!
//! Owns atomics only; each counter is written by one shard. Must never be a place where shards wait for
//! each other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use metalbond_uring::types::Action;

use crate::canon::Canon;
use crate::clock::Clock;
use crate::pipeline::Habits;
use crate::plan::Plan;
use crate::restart::Restart;

/// Differences and failures kept in words; more are only counted.
const FINDINGS_MAX: usize = 10;

/// How simulated peers behave.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Where the servers are.
    pub targets: Vec<SocketAddr>,
    /// Whether each peer comes from an address of its own.
    pub has_own_address: bool,
    /// The interval offered in HELLO, in seconds.
    pub keepalive_s: u32,
    /// How they read.
    pub reading: Reading,
    /// What receivers take for each update.
    pub habits: Habits,
    /// Updates sent before an answer is awaited; 0 for no limit.
    pub inflight: u32,
    /// Damage to do to what one peer received: loadgen's own negative control.
    pub sabotage: Option<Sabotage>,
}

/// How simulated peers read. Only those that reassemble say so in HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// As much as there is, and put frames together.
    Reassembling,
    /// As much as there is; a read of less than the Go client's buffer that ends inside a frame is
    /// a failure.
    Aligned,
    /// As the Go client: a read that fills its buffer is a failure, too, and only KEEPALIVEs restart the hold
    /// timer. Whoever fails closes the connection and comes back.
    Legacy,
}

/// What to do to one received update, so that verification has something to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Change a byte.
    Corrupt,
    /// Drop it.
    Skip,
    /// Take it twice.
    Duplicate,
}

/// What all threads see.
pub struct Shared {
    /// The shape of the run.
    pub plan: Plan,
    /// The frames of its routes.
    pub canon: Canon,
    /// The common clock.
    pub clock: Clock,
    /// How peers behave.
    pub behaviour: Behaviour,
    /// One bit for each route that is announced.
    pub announced: Vec<AtomicU64>,
    /// When each route was last due to be announced and to be withdrawn, in nanoseconds.
    scheduled_ns: Vec<[AtomicU64; 2]>,
    /// The counters of each shard.
    pub stats: Vec<Stats>,
    /// The run is over: what ends now ends as it should.
    pub over: AtomicBool,
    /// One of several servers may be restarted from now on.
    pub restart: OnceLock<Restart>,
    findings: Mutex<Vec<String>>,
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one shard, or their sums.
        #[derive(Default, Debug)]
        pub struct Stats { $($(#[$doc])* pub $name: AtomicU64,)* }

        /// Values of [`Stats`] at one moment.
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl Counts {
            /// Adds the counters of a shard.
            pub fn add(&mut self, stats: &Stats) {
                $(self.$name += stats.$name.load(Ordering::Relaxed);)*
            }

            /// What was counted since `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &Counts) -> Counts {
                Counts { $($name: self.$name.wrapping_sub(earlier.$name),)* }
            }
        }
    };
}

stats! {
    /// Handshakes completed.
    established,
    /// Connections ended because they were told to.
    left,
    /// Connections that ended though nobody told them to.
    lost,
    /// Barriers answered.
    barriers,
    /// Bulk announcements handed to the kernel.
    jobs,
    /// Streams finished.
    streams,
    /// Updates sent.
    sent,
    /// Updates received that were right.
    deliveries,
    /// Routes that came back to their announcer.
    own,
    /// The same where several servers are loaded, which have to know it again.
    echoed,
    /// Updates that said what was known already.
    duplicate,
    /// Updates of VNIs not subscribed to, or of routes that do not exist.
    unexpected,
    /// Updates with a damaged field, or undecodable.
    wrong,
    /// Reads that a peer without reassembly would not survive.
    unaligned,
    /// Those of them before which as much waited as the client's buffer holds.
    overruns,
    /// Hold times that ran out: counted of legacy peers.
    hold_expiries,
    /// Connections of legacy peers that ended though nobody told them to; the peers come back.
    resets,
    /// Connections that ended because their server was restarted; the peers come back.
    dropped,
    /// Those of them that were established again.
    returned,
    /// Updates that told peers of other servers of the restart.
    disturbed,
    /// Bytes received.
    received_bytes,
    /// KEEPALIVEs received.
    keepalives,
    /// When the last update that was right came, in nanoseconds; not to be summed.
    last_delivery_ns,
}

impl Counts {
    /// What moves only when a run gets on: KEEPALIVEs come and go in a run that is stuck, too.
    #[must_use]
    pub fn advance(&self) -> Counts {
        Counts { keepalives: 0, received_bytes: 0, ..*self }
    }

    /// Updates that were not right: a view does not become right again by waiting.
    pub fn damage(&self) -> u64 {
        self.duplicate + self.unexpected + self.wrong
    }

    /// All that should not have happened.
    pub fn faults(&self) -> u64 {
        self.damage() + self.echoed + self.unaligned + self.resets + self.disturbed
    }
}

impl Stats {
    /// Adds to a counter. Only its shard writes it, so this needs no atomic addition.
    pub fn count(counter: &AtomicU64, n: u64) {
        counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }
}

impl Shared {
    /// Nothing announced, nothing counted.
    pub fn new(plan: Plan, clock: Clock, behaviour: Behaviour, shards: usize) -> Shared {
        let words = plan.words();
        Shared {
            announced: (0..words).map(|_| AtomicU64::new(0)).collect(),
            scheduled_ns: (0..words * 64).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect(),
            stats: (0..shards).map(|_| Stats::default()).collect(),
            canon: Canon::new(&plan),
            over: AtomicBool::new(false),
            restart: OnceLock::new(),
            findings: Mutex::new(Vec::new()),
            plan,
            clock,
            behaviour,
        }
    }

    /// The sum of all shards' counters.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.stats.iter().for_each(|stats| counts.add(stats));
        let last = self.stats.iter().map(|stats| stats.last_delivery_ns.load(Ordering::Relaxed));
        counts.last_delivery_ns = last.max().unwrap_or_default();
        counts
    }

    /// Notes that a route is announced from now on, or is not.
    pub fn set_announced(&self, bit: usize, announced: bool) {
        let (word, mask) = (&self.announced[bit / 64], 1 << (bit % 64));
        if announced {
            word.fetch_or(mask, Ordering::Relaxed);
        } else {
            word.fetch_and(!mask, Ordering::Relaxed);
        }
    }

    /// Whether a route is announced.
    pub fn is_announced(&self, bit: usize) -> bool {
        self.announced[bit / 64].load(Ordering::Relaxed) >> (bit % 64) & 1 == 1
    }

    /// How many of the routes from `first_bit` on are announced.
    pub fn announced_among(&self, first_bit: usize, routes: u64) -> u64 {
        (first_bit..first_bit + routes as usize).filter(|&bit| self.is_announced(bit)).count()
            as u64
    }

    /// Notes that all routes of these peers are gone with their connections.
    pub fn withdraw_all(&self, peers: &[u32]) {
        for bit in peers.iter().flat_map(|&peer| self.plan.bits_of(peer)) {
            self.set_announced(bit, false);
        }
    }

    /// The restart that connections to this server may end for.
    pub fn restart_of(&self, home: u16) -> Option<&Restart> {
        self.restart.get().filter(|restart| restart.home == home)
    }

    /// The restart of which peers of this server must not be told.
    pub fn restart_elsewhere(&self, home: u16) -> Option<&Restart> {
        self.restart.get().filter(|restart| restart.home != home)
    }

    /// Notes when a change of a route was due.
    pub fn schedule(&self, bit: usize, action: Action, time_ns: u64) {
        self.scheduled_ns[bit][action as usize].store(time_ns, Ordering::Relaxed);
    }

    /// When the last such change of a route was due.
    pub fn scheduled_ns(&self, bit: usize, action: Action) -> u64 {
        self.scheduled_ns[bit][action as usize].load(Ordering::Relaxed)
    }

    /// Who a peer is, in words: at one of its servers, or at all of them.
    pub fn name(&self, peer: u32, home: Option<u16>) -> String {
        let targets = &self.behaviour.targets;
        if targets.len() < 2 {
            return format!("peer {peer}");
        }
        let homes = self.plan.peers[peer as usize].homes;
        let homes: Vec<String> = homes
            .all()
            .filter(|at| home.is_none_or(|home| home == *at))
            .map(|at| targets[usize::from(at)].to_string())
            .collect();
        format!("peer {peer} at {}", homes.join(" and "))
    }

    /// Keeps a finding in words, unless there are many already.
    pub fn find(&self, finding: impl FnOnce() -> String) {
        if let Ok(mut findings) = self.findings.lock()
            && findings.len() < FINDINGS_MAX
        {
            findings.push(finding());
        }
    }

    /// What was found so far.
    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().map(|findings| findings.clone()).unwrap_or_default()
    }
}
