//! Shards, announcers and readers of all habits, driven by one random sequence, a read at a time.
//!
//! Owns the order of events. Must never look into a shard but through what it says of itself.

mod model;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use metalbond_uring::internals::shard::{
    Budgets, Limits, Mail, Shard, ShardConfig, TcpSample, Transmit, Wake,
};
use metalbond_uring::types::{
    Destination, NextHop, NextHopType, Pace, PeerId, ReflectOwn, Route, Time, Vni,
};

use crate::client::{Connection, check_piece};
use crate::config::shard_config;
use crate::rng::Rng;

use model::Due;

/// Bytes of one read of an announcer's socket, and of a piece or a chunk, at most.
const READ_BYTES: usize = 64 << 10;
/// The shortest frame of a route here but the default one, and the longest.
const FRAME_BYTES_MIN: usize = 34;
const FRAME_BYTES_MAX: usize = 58;
/// A slow reader takes one piece in this time.
const PIECE_EVERY: Duration = Duration::from_secs(1);

/// How a peer reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habit {
    /// Whatever there is.
    Fast,
    /// One piece in [`PIECE_EVERY`].
    Slow,
    /// Nothing.
    Stalled,
}

struct Node {
    shard: Shard,
    /// Mail on its way to it, by sender.
    mail: Vec<VecDeque<Mail>>,
    dirty: bool,
}

struct Peer {
    is_server: bool,
    reassembles: bool,
    announces: bool,
    habit: Habit,
    /// When a slow one takes its next piece.
    next_piece: Time,
    connection: Option<Connection>,
    /// Whether it has read all that there was, some time after its last SUBSCRIBE.
    is_current: bool,
}

/// Everything.
pub struct Field {
    rng: Rng,
    now: Time,
    nodes: Vec<Node>,
    peers: Vec<Peer>,
    limits: Limits,
    budgets: Budgets,
    reflect: ReflectOwn,
    vnis: usize,
    destinations: usize,
    /// Whether readers leave and resubscribe.
    pub fickle: bool,
    /// How often a peer begins to read otherwise, in percent of the steps.
    pub restless: usize,
    /// All routes that ever were.
    ever: BTreeSet<(Vni, Route)>,
    sends: u64,
    /// Whether nobody comes back any more.
    over: bool,
}

impl Field {
    /// Shards, and peers that are about to connect.
    pub fn new(seed: u64) -> Field {
        let mut rng = Rng::new(seed);
        let shards = one_of(&mut rng, [1, 1, 1, 2, 3]);
        let limits = Limits {
            lag_bytes_max: one_of(&mut rng, [2 << 10, 16 << 10, 64 << 10]),
            log_bytes_max: one_of(&mut rng, [64 << 10, 512 << 10, 64 << 20]),
            ..Limits::default()
        };
        let budgets = Budgets {
            requests_per_turn: one_of(&mut rng, [100, 1_000, 16_384]),
            job_routes_per_turn: one_of(&mut rng, [50, 500, 8_192]),
            requests_under_way_max: one_of(&mut rng, [100, 2_000, 32_768]),
            joins_under_way_max: one_of(&mut rng, [100, 2_000, 32_768]),
            changes_per_peer_max: one_of(&mut rng, [100, 2_000, 32_768]),
            record_bytes_under_way_max: one_of(&mut rng, [4 << 10, 64 << 10, 4 << 20]),
            compacted_bytes_per_turn: one_of(&mut rng, [1 << 10, 30 << 10, 1 << 20]),
            tail_bytes_min: one_of(&mut rng, [0, 1_000, 16_384]),
        };
        let reflect = one_of(&mut rng, [ReflectOwn::None, ReflectOwn::None, ReflectOwn::AllButNat]);
        let pace = one_of(&mut rng, [Pace::Off, Pace::RoutesPerS(100_000), Pace::Auto]);
        let hash_seed = [rng.next(), rng.next(), rng.next(), rng.next()];
        let node = |at| {
            let config = ShardConfig {
                hash_seed,
                reflect_own: reflect,
                pace,
                limits,
                budgets,
                ..shard_config(at, shards)
            };
            Node {
                shard: Shard::new(config, Time(1)),
                mail: (0..shards).map(|_| VecDeque::new()).collect(),
                dirty: false,
            }
        };
        let nodes = (0..shards).map(node).collect();
        let servers = one_of(&mut rng, [0, 0, 40]);
        let both = one_of(&mut rng, [0, 30, 100]);
        let announcers = 1 + rng.below(4);
        let readers_max = one_of(&mut rng, [6, 30]);
        let readers = 2 + rng.below(readers_max);
        let vnis_max = one_of(&mut rng, [1, 4]);
        let destinations_max = one_of(&mut rng, [50, 400, 2_000]);
        let peer = |at| Peer {
            is_server: rng.chance(servers),
            reassembles: rng.chance(60),
            announces: at < announcers || rng.chance(both),
            habit: Habit::Fast,
            next_piece: Time(1),
            connection: None,
            is_current: false,
        };
        let peers = (0..announcers + readers).map(peer).collect();
        let mut field = Field {
            now: Time(1),
            nodes,
            peers,
            limits,
            budgets,
            reflect,
            vnis: 1 + rng.below(vnis_max),
            destinations: 1 + rng.below(destinations_max),
            fickle: false,
            restless: 30,
            ever: BTreeSet::new(),
            sends: 0,
            over: false,
            rng,
        };
        (0..field.peers.len()).for_each(|at| field.connect(at));
        field.rest();
        for at in announcers..field.peers.len() {
            field.subscribe_somewhere(at);
        }
        field.rest();
        field
    }

    /// Each step, somebody announces or withdraws some hundred routes, and somebody changes its habit.
    pub fn storm(&mut self, steps: usize) {
        for _ in 0..steps {
            let at = self.rng.below(self.peers.len());
            if self.peers[at].announces {
                self.change_routes(at);
                if self.rng.chance(3)
                    && self.peers[at].connection.as_ref().is_some_and(|it| it.views.is_empty())
                {
                    self.hang_up(at);
                }
            }
            let at = self.rng.below(self.peers.len());
            if self.rng.chance(3) {
                self.subscribe_somewhere(at);
            }
            // A handshake has its own time limit.
            let established = self.peers[at].connection.as_ref().is_some_and(|it| it.established);
            if self.rng.chance(self.restless) && established {
                self.peers[at].habit = one_of(
                    &mut self.rng,
                    [Habit::Fast, Habit::Slow, Habit::Stalled, Habit::Stalled],
                );
            }
            if self.fickle && self.rng.chance(30) {
                self.be_fickle();
            }
            let micros = one_of(&mut self.rng, [100, 10_000, 300_000]);
            self.pass(Duration::from_micros(micros));
            self.step();
        }
    }

    /// All peers read like that from now on.
    pub fn set_habits(&mut self, habit: Habit) {
        self.peers.iter_mut().for_each(|peer| peer.habit = habit);
    }

    /// All that was said is dealt with; who does not read, still does not.
    pub fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "what was said is dealt with");
            let connections = self.peers.iter().filter_map(|peer| peer.connection.as_ref());
            let unheard = connections.filter(|it| !it.to_server.is_empty() || it.hung_up).count();
            let idle = |node: &Node| !node.dirty && node.mail.iter().all(VecDeque::is_empty);
            if unheard == 0 && self.nodes.iter().all(idle) {
                return;
            }
            self.step();
        }
    }

    /// Everybody reads, in one order or another, and gets no more than the difference between what it
    /// was told and what it should see now.
    pub fn come_back(&mut self) {
        let mut slow: Vec<usize> =
            (0..self.peers.len()).filter(|&at| self.peers[at].habit != Habit::Fast).collect();
        // What is in flight is nobody's to change any more.
        slow.iter().for_each(|&at| self.end_send(at));
        let before: Vec<_> = slow.iter().map(|&at| (at, self.messages_due(at))).collect();
        let at_once = self.rng.chance(60);
        if !at_once {
            // At a piece a second it would take so long that the others are closed for stalling.
            slow.iter().for_each(|&at| self.peers[at].habit = Habit::Stalled);
        }
        while !slow.is_empty() {
            let at = slow.swap_remove(self.rng.below(slow.len()));
            self.peers[at].habit = Habit::Fast;
            if !at_once {
                self.rest();
            }
        }
        self.rest();
        for (at, due) in before {
            let connection = self.peers[at].connection.as_ref().unwrap();
            for Due { vni, difference, most, updates } in due {
                let got = connection.views[&vni].updates - updates;
                assert!(
                    got <= most as u64,
                    "peer {at}, VNI {vni}: {got} messages instead of {most} for a difference of {difference}"
                );
            }
        }
    }

    /// Whatever can happen happens, until nothing is left but what does not read.
    pub fn rest(&mut self) {
        let (mut sends, mut since) = (self.sends, self.now);
        for round in 0.. {
            assert!(round < 1_000_000, "it comes to rest");
            if self.step() {
                continue;
            }
            if sends != self.sends {
                (sends, since) = (self.sends, self.now);
            }
            // Paced peers, slow ones and bases wait for the clock.
            let next = self.nodes.iter().map(|node| node.shard.next_wakeup()).min().unwrap();
            let pieces = self.peers.iter().filter(|peer| {
                let in_flight = peer.connection.as_ref().is_some_and(|it| it.in_flight.is_some());
                peer.habit == Habit::Slow && in_flight
            });
            let next = pieces.map(|peer| peer.next_piece).min().map_or(next, |it| next.min(it));
            // A base that is still read is looked after for ever.
            let quiet = self.now.since(since) > Duration::from_secs(10);
            if quiet || next > self.now.after(Duration::from_secs(5)) {
                let current = |peer: &Peer| peer.habit != Habit::Stalled;
                self.peers.iter_mut().for_each(|peer| peer.is_current |= current(peer));
                return;
            }
            self.now = self.now.max(next);
            self.nodes.iter_mut().for_each(|node| node.dirty = true);
        }
    }

    /// When everybody has gone, nothing is left.
    pub fn end(&mut self) {
        self.over = true;
        (0..self.peers.len()).for_each(|at| self.hang_up(at));
        self.settle();
        self.now = self.now.after(Duration::from_secs(3));
        self.nodes.iter_mut().for_each(|node| node.dirty = true);
        self.settle();
        for node in &self.nodes {
            let held = node.shard.usage();
            let left = (held.routes, held.vnis, held.log_bytes, held.laggard_bytes);
            assert_eq!((left, node.shard.peer_count()), ((0, 0, 0, 0), 0), "{held:?}");
        }
    }

    fn connect(&mut self, at: usize) {
        let shard = self.rng.below(self.nodes.len());
        let id = self.nodes[shard].shard.accept(self.now, ([127, 0, 0, 1], at as u16).into());
        let Peer { is_server, reassembles, .. } = self.peers[at];
        self.peers[at].connection = Some(Connection::new(shard, id, is_server, reassembles));
        self.peers[at].habit = Habit::Fast;
        self.peers[at].is_current = false;
        self.nodes[shard].dirty = true;
    }

    fn hang_up(&mut self, at: usize) {
        if let Some(connection) = &mut self.peers[at].connection {
            connection.hung_up = true;
            connection.to_server.clear();
        }
    }

    fn subscribe_somewhere(&mut self, at: usize) {
        let all = self.rng.chance(50);
        for vni in 0..self.vnis as u32 {
            if all || self.rng.chance(50) || self.vnis == 1 {
                let Some(connection) = &mut self.peers[at].connection else { return };
                if connection.established && connection.is_live() {
                    connection.subscribe(Vni(vni), usize::MAX);
                    self.peers[at].is_current = false;
                }
            }
        }
    }

    /// Somebody leaves and comes again, or resubscribes.
    fn be_fickle(&mut self) {
        let at = self.rng.below(self.peers.len());
        let leaves = self.rng.chance(30);
        let Some(connection) = &mut self.peers[at].connection else { return };
        if leaves {
            self.hang_up(at);
        } else if connection.established && connection.is_live() {
            let subscribed: Vec<Vni> = connection.views.keys().copied().collect();
            let mut resubscribed = false;
            for vni in subscribed {
                if connection.views[&vni].subscribed {
                    connection.unsubscribe(vni);
                }
                if self.rng.chance(70) {
                    connection.subscribe(vni, usize::MAX);
                    resubscribed = true;
                }
            }
            self.peers[at].is_current &= !resubscribed;
            if self.rng.chance(30) {
                self.subscribe_somewhere(at);
            }
        }
    }

    /// Some of a peer's routes come, go, or get another hop.
    fn change_routes(&mut self, at: usize) {
        let vni = Vni(self.rng.below(self.vnis) as u32);
        let first = self.rng.below(self.destinations);
        let count = 1 + self.rng.below(self.destinations.min(500));
        // Hop 0 is everybody's; of the others each has two.
        let hop = if self.rng.chance(30) { 0 } else { 1 + 2 * at };
        let what = self.rng.below(100);
        let reannounces = what < 10;
        let replaces = (10..30).contains(&what);
        let Some(connection) = &mut self.peers[at].connection else { return };
        if !connection.established || !connection.is_live() {
            return;
        }
        for number in first..first + count {
            let number = number % self.destinations;
            let (one, other) =
                (route(number, hop), route(number, if hop == 0 { 0 } else { hop + 1 }));
            let there = connection.announced.contains(&(vni, one));
            match () {
                () if reannounces || !there => connection.announce(vni, one, usize::MAX),
                () if replaces && one != other => {
                    connection.announce(vni, other, usize::MAX);
                    connection.withdraw(vni, one);
                }
                () => connection.withdraw(vni, one),
            }
        }
        self.ever.extend(&connection.announced);
        if what == 99 {
            for (vni, route) in connection.announced.clone() {
                connection.withdraw(vni, route);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        for node in &mut self.nodes {
            node.dirty |= node.shard.next_wakeup() <= self.now;
        }
    }

    /// A read of each peer's socket, the turns, some mail, and what readers take. False if nothing
    /// happened.
    fn step(&mut self) -> bool {
        let mut busy = false;
        for at in 0..self.peers.len() {
            busy |= self.bytes_to_server(at);
        }
        for at in 0..self.nodes.len() {
            if std::mem::take(&mut self.nodes[at].dirty) {
                busy = true;
                self.turn(at);
            }
            for from in 0..self.nodes.len() {
                // Mail may take a while, but stays in its order.
                let node = &mut self.nodes[at];
                busy |= !node.mail[from].is_empty();
                if self.rng.chance(70)
                    && let Some(mail) = node.mail[from].pop_front()
                {
                    node.shard.deliver(mail);
                    node.dirty = true;
                }
            }
        }
        for at in 0..self.peers.len() {
            busy |= self.read(at);
        }
        busy
    }

    fn bytes_to_server(&mut self, at: usize) -> bool {
        let Some(connection) = &mut self.peers[at].connection else { return false };
        let (shard, id) = (connection.shard, connection.id);
        let node = &mut self.nodes[shard];
        if !node.shard.wants_read(id) {
            return false;
        }
        let count = connection.to_server.len().min(1 + self.rng.below(READ_BYTES));
        if count > 0 {
            let bytes: Vec<u8> = connection.to_server.drain(..count).collect();
            node.shard.receive(self.now, id, &bytes);
        } else if connection.hung_up {
            node.shard.read_ended(self.now, id, Ok(()));
        }
        node.dirty |= count > 0 || connection.hung_up;
        count > 0 || connection.hung_up
    }

    fn turn(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.dirty |= node.shard.turn(self.now);
        let mut mail = Vec::new();
        while let Some(block) = node.shard.take_mail() {
            mail.push(block);
        }
        let mut closed = Vec::new();
        while let Some((id, wake)) = node.shard.take_woken() {
            // Writers are asked in each step, woken or not: the shard says when there is nothing.
            if wake == Wake::Close {
                closed.push(id);
            }
        }
        for (to, block) in mail {
            self.nodes[to.index()].mail[at].push_back(block);
        }
        for id in closed {
            self.closed(at, id);
        }
        self.check_memory(at);
    }

    fn closed(&mut self, at: usize, id: PeerId) {
        let of = |peer: &Peer| peer.connection.as_ref().is_some_and(|it| it.id == id);
        let number = self.peers.iter().position(of).expect("a connection is closed once");
        let connection = self.peers[number].connection.take().unwrap();
        let node = &mut self.nodes[at];
        if connection.in_flight.is_some() {
            let error = std::io::Error::from_raw_os_error(32);
            node.shard.transmit_failed(self.now, id, &error);
        }
        let end = node.shard.release(self.now, id);
        assert!(connection.hung_up, "peer {number} was closed: {end:?} {:?}", self.now);
        node.dirty = true;
        if !self.over {
            self.connect(number);
        }
    }

    /// What a peer takes in a step. False if it takes nothing.
    fn read(&mut self, at: usize) -> bool {
        let peer = &self.peers[at];
        let Some(connection) = &peer.connection else { return false };
        if connection.hung_up {
            return false;
        }
        let due = match peer.habit {
            Habit::Fast => true,
            Habit::Slow => peer.next_piece <= self.now,
            Habit::Stalled => false,
        };
        if due && connection.in_flight.is_some() {
            self.end_send(at);
            self.peers[at].next_piece = self.now.after(PIECE_EVERY);
            self.begin_send(at);
            return true;
        }
        connection.in_flight.is_none() && self.begin_send(at)
    }

    fn begin_send(&mut self, at: usize) -> bool {
        let Peer { reassembles, connection, .. } = &mut self.peers[at];
        let connection = connection.as_mut().unwrap();
        let shard = &mut self.nodes[connection.shard].shard;
        match shard.transmit(self.now, connection.id, TcpSample::default()) {
            Transmit::Send(piece) => {
                check_piece(piece.as_slice(), piece.end_of_record, *reassembles);
                connection.in_flight = Some(piece);
                self.sends += 1;
                true
            }
            Transmit::Idle => false,
            Transmit::Finish => panic!("nothing drains"),
        }
    }

    /// The SEND in flight ends, sometimes before its end; and the peer reads what was sent.
    fn end_send(&mut self, at: usize) {
        let Peer { reassembles, is_server, connection, .. } = &mut self.peers[at];
        let Some(connection) = connection else { return };
        let Some(piece) = connection.in_flight.take() else { return };
        let bytes = piece.as_slice();
        let short = *reassembles && self.rng.chance(5);
        let sent = if short { self.rng.below(bytes.len()) } else { bytes.len() };
        connection.read(&bytes[..sent], *is_server, *reassembles);
        drop(piece);
        let node = &mut self.nodes[connection.shard];
        node.shard.transmitted(self.now, connection.id, sent);
        node.dirty = true;
    }
}

fn one_of<T: Copy, const N: usize>(rng: &mut Rng, values: [T; N]) -> T {
    values[rng.below(N)]
}

fn route(number: usize, hop: usize) -> Route {
    let (prefix, length) = match number {
        0 => ([0, 0, 0, 0].into(), 0),
        n if n % 7 == 0 => (std::net::Ipv6Addr::from(n as u128).into(), 128),
        n => ([10, 0, (n >> 8) as u8, n as u8].into(), 32),
    };
    let kind = if number % 5 == 1 { NextHopType::NAT } else { NextHopType::STANDARD };
    let nat_port_to = if kind == NextHopType::NAT { 1_000 } else { 0 };
    let address = std::net::Ipv6Addr::from(0x2001_0db8 << 96 | hop as u128).into();
    let next_hop = NextHop { address, vni: Vni(0), kind, nat_port_from: 0, nat_port_to };
    Route { destination: Destination { prefix, length }, next_hop }
}
