//! A thread of the generator: its ring and the peers that live on it.
//!
//! Owns the tasks of its peers and obeys the engine's commands. Must never be always runnable: only a
//! thread that parks submits its operations.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use metalbond_uring::internals::io::runtime_builder;
use metalbond_uring::internals::wire::Deframer;
use metalbond_uring::types::Action;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::homes::source_of;
use crate::latency::Latency;
use crate::peer::{Arrivals, AtOnce, Part, Peer, State};
use crate::pipeline::{self, BUFFER_BYTES as LEGACY_BUFFER_BYTES, Fault};
use crate::plan::PeerSet;
use crate::restart::{self, Restart};
use crate::shared::{Reading, Shared, Stats};
use crate::socket::{self, Socket};
use crate::stream::{self, Stream};
use crate::verify::Difference;

/// What all peers of a shard receive into, but legacy ones.
const BUFFER_BYTES: usize = 256 * 1024;
/// How often KEEPALIVEs and silent servers are looked for.
const SWEEP: Duration = Duration::from_millis(20);
/// Connections that one shard opens at a time.
const CONNECTING_MAX: usize = 256;
/// Buffers to send from that are kept for the next time.
const POOLED_MAX: usize = 64;

/// Updates sent in one go before others get the thread.
const BURST: u32 = 64;
/// The shortest sleep: the alarm itself takes about as long.
const SLEEP_NS_MIN: u64 = 20_000;

/// What the engine tells a shard; each shard picks its own peers out of a set.
pub enum Command {
    /// Connect, and go on as told once established.
    Connect(PeerSet, AtOnce),
    /// Close the connections.
    Disconnect(PeerSet),
    /// Connections that end from now on do so because the server was told to.
    ExpectClose(PeerSet),
    /// Subscribe to all their VNIs.
    Subscribe(PeerSet),
    /// Announce or withdraw routes as fast as the server takes them.
    Announce(PeerSet, Action, Part),
    /// Send a KEEPALIVE and count its answer.
    Barrier(PeerSet),
    /// Stop reading until then (nanoseconds of the clock), and do not measure them before the next `Measure`.
    Pause(PeerSet, u64),
    /// Send updates to a schedule.
    Stream(Arc<Stream>),
    /// Begin to measure latencies, or end and give what was measured.
    Measure(Option<Sender<Latency>>),
    /// Count the shares of receivers from now on.
    CountShares,
    /// Compare all views of established peers.
    Check(Sender<CheckReply>),
}

/// How far the views of a shard's peers are from what they should be.
#[derive(Clone, Default, Debug)]
pub struct CheckReply {
    /// Peers whose view is not right.
    pub peers: u64,
    /// The sum of their differences.
    pub difference: Difference,
    /// The first differences in words.
    pub first: Vec<String>,
    /// What receivers took, as a share of what they can take: of those that need time.
    pub shares: Vec<f64>,
}

/// Differences that a shard puts into words.
const FIRST_MAX: usize = 3;

/// Runs a shard until the engine hangs up: the body of its thread.
///
/// # Errors
/// If there is no ring.
pub fn run(
    index: usize,
    shared: Arc<Shared>,
    commands: UnboundedReceiver<Command>,
    ready: &Sender<io::Result<()>>,
) {
    let runtime = match tokio_uring::Runtime::new(&runtime_builder()) {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok(()));
    let shards = shared.stats.len();
    let connections_of = |number: usize| {
        let homes = shared.plan.peers[number].homes.all();
        homes.map(|home| Rc::new(Peer::new(&shared.plan, number as u32, home))).collect()
    };
    let peers = (index..shared.plan.peers.len()).step_by(shards).map(connections_of).collect();
    let buffer_bytes = match shared.behaviour.reading {
        Reading::Legacy => LEGACY_BUFFER_BYTES,
        Reading::Reassembling | Reading::Aligned => BUFFER_BYTES,
    };
    let shard = Rc::new(Shard {
        index,
        shared,
        peers,
        buffer: RefCell::new(vec![0; buffer_bytes]),
        pieces: RefCell::default(),
        latency: RefCell::new(Latency::new()),
        measuring: Cell::new(false),
    });
    runtime.block_on(shard.obey(commands));
}

/// A shard from inside: what its tasks share.
pub struct Shard {
    index: usize,
    /// What all shards share.
    pub shared: Arc<Shared>,
    /// The connections of each peer: both of a dual-homed one live here.
    peers: Vec<Box<[Rc<Peer>]>>,
    buffer: RefCell<Vec<u8>>,
    pieces: RefCell<Vec<Vec<u8>>>,
    /// What was measured in this stage.
    pub latency: RefCell<Latency>,
    /// Whether latencies are measured.
    pub measuring: Cell<bool>,
}

impl Shard {
    /// The shard's counters.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats[self.index]
    }

    /// The connections of the peer with this number; none if it does not live here.
    pub fn connections_of(&self, number: u32) -> &[Rc<Peer>] {
        let (number, shards) = (number as usize, self.shared.stats.len());
        if number % shards == self.index { &self.peers[number / shards] } else { &[] }
    }

    /// Sees to it that what a peer has to send is sent.
    pub fn kick(self: &Rc<Self>, peer: &Rc<Peer>) {
        if !peer.sending.get()
            && let Some(socket) = peer.socket.borrow().clone()
        {
            peer.sending.set(true);
            let (shard, peer) = (Rc::clone(self), Rc::clone(peer));
            tokio_uring::spawn(async move { shard.send(&peer, &socket).await });
        }
    }

    async fn obey(self: &Rc<Self>, mut commands: UnboundedReceiver<Command>) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.execute(command),
                    None => return,
                },
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    fn execute(self: &Rc<Self>, command: Command) {
        let plan = &self.shared.plan;
        match command {
            Command::Connect(peers, at_once) => {
                let waiting: Vec<Rc<Peer>> = self.mine(&peers).cloned().collect();
                let waiting = Rc::new(RefCell::new(waiting));
                for _ in 0..CONNECTING_MAX {
                    let (shard, waiting) = (Rc::clone(self), Rc::clone(&waiting));
                    tokio_uring::spawn(async move { shard.connect_all(&waiting, at_once).await });
                }
            }
            Command::Disconnect(peers) => self.mine(&peers).for_each(|peer| {
                peer.leaving.set(true);
                if let Some(socket) = &*peer.socket.borrow() {
                    socket.close();
                }
            }),
            Command::ExpectClose(peers) => {
                self.mine(&peers).for_each(|peer| peer.leaving.set(true));
            }
            Command::Subscribe(peers) => self.each(&peers, |peer| peer.subscribe(plan)),
            Command::Announce(peers, action, part) => {
                self.each(&peers, |peer| peer.start_job(action, part));
            }
            Command::Barrier(peers) => self.each(&peers, |peer| peer.start_barrier()),
            Command::Pause(peers, until_ns) => self.mine(&peers).for_each(|peer| {
                let now_ns = self.shared.clock.now_ns();
                peer.pipeline.borrow_mut().stop(now_ns, until_ns.saturating_sub(now_ns));
                peer.paused_until_ns.set(until_ns);
                peer.measured.set(false);
            }),
            Command::Stream(stream) => {
                let shard = Rc::clone(self);
                tokio_uring::spawn(async move { run_stream(&shard, &stream).await });
            }
            Command::Measure(None) => {
                self.latency.replace(Latency::new());
                self.all().for_each(|peer| {
                    peer.measured.set(true);
                    peer.updated_ns.set(0);
                });
                self.measuring.set(true);
            }
            Command::Measure(Some(reply)) => {
                self.measuring.set(false);
                let _ = reply.send(self.latency.replace(Latency::new()));
            }
            Command::CountShares => {
                self.all().for_each(|peer| peer.pipeline.borrow_mut().count_anew());
            }
            Command::Check(reply) => {
                let _ = reply.send(self.check());
            }
        }
    }

    fn mine(&self, peers: &PeerSet) -> impl Iterator<Item = &Rc<Peer>> {
        peers.iter().flat_map(|&number| self.connections_of(number))
    }

    fn all(&self) -> impl Iterator<Item = &Rc<Peer>> {
        self.peers.iter().flatten()
    }

    fn each(self: &Rc<Self>, peers: &PeerSet, what: impl Fn(&Peer)) {
        for peer in self.mine(peers) {
            what(peer);
            self.kick(peer);
        }
    }

    fn check(&self) -> CheckReply {
        let mut reply = CheckReply::default();
        for peer in self.all() {
            if peer.returning.get() {
                reply.peers += 1;
                let name = peer.name(&self.shared);
                reply.first.push(format!("{name} was lost, and is on its way back"));
                continue;
            }
            if peer.state.get() != State::Established {
                continue;
            }
            reply.shares.extend(peer.pipeline.borrow().share());
            let plan = &self.shared.plan;
            let difference = peer.view.borrow().difference(plan, &self.shared.announced);
            if let Some(first) = &difference.first {
                reply.peers += 1;
                reply.difference.merge(&difference);
                if reply.first.len() < FIRST_MAX {
                    let (name, name_of) =
                        (peer.name(&self.shared), |peer| self.shared.name(peer, None));
                    reply.first.push(first.describe(plan, &name, name_of));
                }
            }
        }
        reply
    }

    /// KEEPALIVEs that are due, and servers that have become silent.
    fn sweep(self: &Rc<Self>) {
        let now_ns = self.shared.clock.now_ns();
        for peer in self.all() {
            if !matches!(peer.state.get(), State::Greeted | State::Established) {
                continue;
            }
            if peer.keepalive_if_due(now_ns) {
                self.kick(peer);
            }
            // 5/2 of the interval, like any client (protocol section 4). One that does not read hears nothing.
            let limit_ns = peer.interval_ns.get().saturating_mul(5) / 2;
            let silent_ns =
                now_ns.saturating_sub(peer.heard_ns.get().max(peer.paused_until_ns.get()));
            let known = peer.leaving.get() || peer.ending.borrow().is_some();
            if silent_ns > limit_ns && !known {
                let silent_s = silent_ns / 1_000_000_000;
                if self.shared.restart_of(peer.home).is_some() {
                    peer.ending.replace(Some(format!("the server was silent for {silent_s} s")));
                } else if self.shared.behaviour.reading == Reading::Legacy {
                    Stats::count(&self.stats().hold_expiries, 1);
                    let reason = format!("no KEEPALIVE for {silent_s} s (its hold time ran out)");
                    peer.ending.replace(Some(reason));
                } else {
                    self.lose(peer, &format!("the server was silent for {silent_s} s"));
                    peer.leaving.set(true);
                }
                if let Some(socket) = &*peer.socket.borrow() {
                    socket.close();
                }
            }
        }
    }

    /// The connection of a peer ended though it should not.
    pub fn lose(&self, peer: &Peer, reason: &str) {
        if !self.shared.over.load(Ordering::Relaxed) {
            self.shared.find(|| format!("{}: {reason}", peer.name(&self.shared)));
            Stats::count(&self.stats().lost, 1);
        }
    }

    /// Connects one peer after the other, beside others that do the same.
    async fn connect_all(self: &Rc<Self>, waiting: &RefCell<Vec<Rc<Peer>>>, at_once: AtOnce) {
        loop {
            let Some(peer) = waiting.borrow_mut().pop() else {
                return;
            };
            peer.open(&self.shared, at_once);
            if let Err(error) = self.connect(&peer).await {
                self.lose(&peer, &format!("cannot connect: {error}"));
            }
        }
    }

    /// Opens the connection of a peer, and lets it live.
    ///
    /// # Errors
    /// The system's; the peer is closed then.
    pub async fn connect(self: &Rc<Self>, peer: &Rc<Peer>) -> io::Result<()> {
        let behaviour = &self.shared.behaviour;
        let target = behaviour.targets[usize::from(peer.home)];
        let source = behaviour.has_own_address.then(|| source_of(peer.number));
        match Socket::connect(target, source).await {
            Ok(socket) => {
                peer.socket.replace(Some(Rc::clone(&socket)));
                peer.heard_ns.set(self.shared.clock.now_ns());
                peer.greet(&self.shared);
                self.kick(peer);
                let (shard, peer) = (Rc::clone(self), Rc::clone(peer));
                tokio_uring::spawn(async move { shard.live(&peer, &socket).await });
                Ok(())
            }
            Err(error) => {
                peer.state.set(State::Closed);
                Err(error)
            }
        }
    }

    /// Reads until the connection ends, and does away with it.
    async fn live(self: &Rc<Self>, peer: &Rc<Peer>, socket: &Rc<Socket>) {
        let reason = self.read(peer, socket).await;
        let reason = peer.ending.take().unwrap_or(reason);
        socket.close();
        peer.socket.replace(None);
        peer.state.set(State::Closed);
        let over = self.shared.over.load(Ordering::Relaxed);
        if peer.leaving.get() {
            Stats::count(&self.stats().left, 1);
        } else if self.shared.restart_of(peer.home).is_some() && !over {
            tokio_uring::spawn(Rc::clone(self).return_to_server(Rc::clone(peer)));
        } else if self.shared.behaviour.reading == Reading::Legacy && !over {
            let come_back = Rc::clone(self).come_back(Rc::clone(peer), reason);
            tokio_uring::spawn(come_back);
        } else {
            self.lose(peer, &reason);
        }
    }

    /// Reads to the end; says why it came.
    async fn read(self: &Rc<Self>, peer: &Rc<Peer>, socket: &Rc<Socket>) -> String {
        let ends = || peer.leaving.get() || peer.ending.borrow().is_some();
        let mut deframer = Deframer::new();
        loop {
            // No CPU is burned for what a receiver takes: many of them share a thread here.
            while let Some(wait_ns) = self.stands_ns(peer)
                && !ends()
            {
                socket::sleep_ns(wait_ns.clamp(SLEEP_NS_MIN, SWEEP.as_nanos() as u64)).await;
            }
            if let Err(error) = socket.readable().await {
                return format!("cannot wait for the server: {error}");
            }
            if ends() {
                return "left".to_owned();
            }
            if self.stands_ns(peer).is_some() {
                continue;
            }
            if let Err(reason) = self.take_in(peer, socket, &mut deframer) {
                return reason;
            }
        }
    }

    /// How long a peer does not read from now on, if it does not.
    fn stands_ns(&self, peer: &Peer) -> Option<u64> {
        let until_ns = peer.pipeline.borrow().next_read_ns();
        until_ns.checked_sub(self.shared.clock.now_ns()).filter(|&wait_ns| wait_ns > 0)
    }

    /// One receive, and what it means.
    fn take_in(
        self: &Rc<Self>,
        peer: &Rc<Peer>,
        socket: &Rc<Socket>,
        deframer: &mut Deframer,
    ) -> Result<(), String> {
        let mut buffer = self.buffer.borrow_mut();
        let reading = self.shared.behaviour.reading;
        let waiting = if reading == Reading::Legacy { socket.waiting_bytes() } else { 0 };
        let length = match socket.receive(&mut buffer) {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(format!("the server broke the connection: {error}")),
        };
        let now_ns = self.shared.clock.now_ns();
        peer.pipeline.borrow_mut().read(now_ns);
        if reading != Reading::Legacy {
            peer.heard_ns.set(now_ns);
        }
        let stats = self.stats();
        Stats::count(&stats.received_bytes, length as u64);
        let (measured, watched) = (self.measures(peer), self.shared.restart_elsewhere(peer.home));
        let mut arrivals = Counter { shard: self, peer, now_ns, count: 0, measured, watched };
        let result = peer.receive(&self.shared, stats, deframer, &buffer[..length], &mut arrivals);
        let count = arrivals.count;
        if count > 0 {
            Stats::count(&stats.deliveries, count);
            stats.last_delivery_ns.store(now_ns, Ordering::Relaxed);
            self.note_pause(peer, now_ns);
        }
        if result? {
            self.kick(peer);
        }
        let rest = deframer.buffered_bytes();
        let fault = match reading {
            Reading::Reassembling => None,
            // A Go client would be gone, so nothing keeps servers from letting so much pile up; and then
            // the window closes, and the kernel may probe it with a part of a segment.
            Reading::Aligned if length >= LEGACY_BUFFER_BYTES => None,
            Reading::Aligned | Reading::Legacy => pipeline::fault(waiting, length, rest),
        };
        if let Some(fault) = fault {
            Stats::count(&stats.unaligned, 1);
            Stats::count(&stats.overruns, u64::from(matches!(fault, Fault::Overrun { .. })));
            return Err(fault.to_string());
        }
        Ok(())
    }

    /// Updates have come: how long there were none.
    fn note_pause(&self, peer: &Peer, now_ns: u64) {
        if self.measures(peer) {
            let before_ns = peer.updated_ns.replace(now_ns);
            if before_ns > 0 {
                let mut latency = self.latency.borrow_mut();
                latency.pause_ns = latency.pause_ns.max(now_ns - before_ns);
            }
        }
    }

    fn measures(&self, peer: &Peer) -> bool {
        // A table that is told anew was announced long ago.
        let is_told_anew = self.shared.restart_of(peer.home).is_some();
        self.measuring.get() && peer.measured.get() && !is_told_anew
    }

    /// Sends until there is nothing more to send.
    async fn send(self: &Rc<Self>, peer: &Rc<Peer>, socket: &Rc<Socket>) {
        let mut piece = self.pieces.borrow_mut().pop().unwrap_or_default();
        loop {
            piece.clear();
            peer.fill(&self.shared, self.stats(), &mut piece);
            if piece.is_empty() {
                break;
            }
            let (result, back) = socket.send(piece).await;
            piece = back;
            if result.is_err() {
                // The reader will see why.
                break;
            }
        }
        peer.sending.set(false);
        let mut pieces = self.pieces.borrow_mut();
        if pieces.len() < POOLED_MAX {
            pieces.push(piece);
        }
    }
}

/// Counts what is right, and measures how long it took.
struct Counter<'a> {
    shard: &'a Shard,
    peer: &'a Peer,
    now_ns: u64,
    count: u64,
    measured: bool,
    /// A restart of which the peer must not be told.
    watched: Option<&'a Restart>,
}

impl Arrivals for Counter<'_> {
    #[inline]
    fn arrived(&mut self, bit: usize, action: Action) {
        self.count += 1;
        if self.measured {
            let scheduled_ns = self.shard.shared.scheduled_ns(bit, action);
            let delivery_ns = self.now_ns.saturating_sub(scheduled_ns);
            self.shard.latency.borrow_mut().delivery_ns.saturating_record(delivery_ns);
        }
        if self.watched.is_some_and(|restart| restart.stands_still(bit)) {
            let shared = &self.shard.shared;
            Stats::count(&self.shard.stats().disturbed, 1);
            let (name, name_of) = (self.peer.name(shared), |peer| shared.name(peer, None));
            shared.find(|| restart::complaint(&shared.plan, &name, (bit, action), name_of));
        }
    }
}

/// Sends this shard's part of a stream.
async fn run_stream(shard: &Rc<Shard>, stream: &Stream) {
    let announcers = stream.announcers.len() as u64;
    let mine: Vec<u64> = (0..announcers)
        .filter(|&at| !shard.connections_of(stream.announcers[at as usize]).is_empty())
        .collect();
    let mut since_yield = 0;
    'rounds: for round in (0..).take_while(|_| !mine.is_empty()) {
        for &at in &mine {
            let update = round * announcers + at;
            if update >= stream.updates {
                break 'rounds;
            }
            let due_ns = stream.due_ns(update);
            let now_ns = shard.shared.clock.now_ns();
            since_yield += 1;
            if due_ns > now_ns {
                socket::sleep_ns((due_ns - now_ns).max(SLEEP_NS_MIN)).await;
                since_yield = 0;
            } else if since_yield == BURST {
                // A no-op completes after the thread has submitted what waits.
                let _ = tokio_uring::no_op().await;
                since_yield = 0;
            }
            send_scheduled(shard, stream, at, round, due_ns);
        }
    }
    Stats::count(&shard.stats().streams, 1);
}

fn send_scheduled(shard: &Rc<Shard>, stream: &Stream, at: u64, round: u64, due_ns: u64) {
    let shared = &shard.shared;
    let number = stream.announcers[at as usize];
    let Some((vni, route)) = stream::pick(shared, number, stream.routes_each, round) else {
        return;
    };
    let bit = shared.plan.vnis[vni as usize].first_bit + route as usize;
    let action = if shared.is_announced(bit) { Action::Remove } else { Action::Add };
    shared.set_announced(bit, action == Action::Add);
    shared.schedule(bit, action, due_ns);
    for peer in shard.connections_of(number) {
        peer.queue_update(&shared.plan, vni, route, action);
        shard.kick(peer);
        Stats::count(&shard.stats().sent, 1);
    }
    if shard.measuring.get() {
        let lag_ns = shared.clock.now_ns().saturating_sub(due_ns);
        shard.latency.borrow_mut().lag_ns.saturating_record(lag_ns);
    }
}
