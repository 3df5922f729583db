//! Shards, clients and everything between them, driven by one random sequence.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use metalbond_uring::internals::session::CloseReason;
use metalbond_uring::internals::shard::{
    Budgets, Limits, Mail, Shard, ShardConfig, TcpSample, Transmit, Wake,
};
use metalbond_uring::internals::wire::Message;
use metalbond_uring::types::{
    Destination, NextHop, NextHopType, Pace, PeerId, ReflectOwn, Route, Time, Vni,
};

use crate::client::{Client, Connection, Tables, check_piece};
use crate::config::shard_config;
use crate::rng::Rng;
use crate::tight;
use crate::trust::Trust;

pub struct Node {
    pub shard: Shard,
    /// Mail on its way to it, by sender.
    pub mail: Vec<VecDeque<Mail>>,
    pub dirty: bool,
}

pub struct World {
    pub rng: Rng,
    pub now: Time,
    pub nodes: Vec<Node>,
    pub clients: Vec<Client>,
    pub limits: Limits,
    pub budgets: Budgets,
    pub reflect: ReflectOwn,
    pub vnis: usize,
    pub destinations: usize,
    pub hops: usize,
    pub trace: DefaultHasher,
    pub trust: Trust,
    /// How eager this run is to disconnect, stall and resubscribe, in percent.
    pub churn: usize,
    /// What shards are made from, but for their number, limits and who they trust.
    pub seed: ([u64; 4], Pace),
    /// Whether this run hands over now and then.
    pub hands_over: bool,
    /// What was under way then.
    pub handed_over: BTreeSet<&'static str>,
    /// While draining: what each client has to know in the end.
    pub drained: Option<Vec<Tables>>,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let shards = [1, 1, 2, 3, 4][rng.below(5)];
        let mut limits = Limits {
            routes_per_peer_max: if rng.chance(30) { 1 + rng.below(8) as u32 } else { 1_000 },
            vnis_per_peer_max: if rng.chance(20) { 1 + rng.below(3) as u32 } else { 1_000 },
            queue_bytes_max: [1 << 30, 1 << 30, 20_000, 2_000][rng.below(4)],
            lag_bytes_max: [256, 1_024, 8_192, 1 << 20][rng.below(4)],
            log_bytes_max: [4 << 10, 32 << 10, 64 << 20][rng.below(3)],
            ..Limits::default()
        };
        let budgets = tight::budgets(&mut rng);
        let reflect = [ReflectOwn::None, ReflectOwn::LoadBalancer, ReflectOwn::AllButNat]
            [[0, 0, 1, 2][rng.below(4)]];
        let pace = [Pace::Off, Pace::RoutesPerS(500), Pace::Auto][rng.below(3)];
        let hash_seed = [rng.next(), rng.next(), rng.next(), rng.next()];
        let trust = Trust::new(&mut rng, &mut limits);
        let servers = [0, 0, 30, 60][rng.below(4)];
        let destinations = [3, 12, 60][rng.below(3)];
        let vnis = rng.below(2);
        let clients = (0..3 + rng.below(9)).map(|_| Client {
            is_server: rng.chance(servers),
            reassembles: rng.chance(60),
            stuck: false,
            connection: None,
            received: 0,
        });
        let clients = clients.collect();
        let mut world = World {
            now: Time(1),
            nodes: Vec::new(),
            clients,
            limits,
            budgets,
            reflect,
            vnis: 1 + [rng.below(5), rng.below(60)][vnis],
            destinations: 1 + rng.below(destinations),
            hops: 1 + rng.below(4),
            trace: DefaultHasher::new(),
            trust,
            churn: [0, 2, 10][rng.below(3)],
            seed: (hash_seed, pace),
            hands_over: rng.chance(50),
            handed_over: BTreeSet::new(),
            drained: None,
            rng,
        };
        world.nodes = world.shards(shards);
        world
    }

    /// So many shards that have nothing yet.
    pub fn shards(&self, shards: u16) -> Vec<Node> {
        let (hash_seed, pace) = self.seed;
        let node = |at| {
            let config = ShardConfig {
                hash_seed,
                reflect_own: self.reflect,
                pace,
                limits: self.limits,
                stale_time: self.trust.stale_time,
                budgets: self.budgets,
                policy: self.trust.policy.clone(),
                ledger: Arc::clone(&self.trust.ledger),
                ..shard_config(at, shards)
            };
            Node {
                shard: Shard::new(config, self.now),
                mail: (0..shards).map(|_| VecDeque::new()).collect(),
                dirty: false,
            }
        };
        (0..shards).map(node).collect()
    }

    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Some storms, each followed by a rest at which all must agree with the model.
    pub fn run(&mut self) {
        for _ in 0..4 {
            for _ in 0..1_000 + self.rng.below(4_000) {
                self.step();
                if self.hands_over && self.rng.below(1_000) == 0 {
                    self.hand_over();
                }
            }
            self.rest();
            self.check_views();
        }
        // While it drains nothing stale is withdrawn, as nothing else is; and who says too much is not waited for.
        let ends = self.rng.chance(50) || !self.trust.stale_time.is_zero() || self.trust.is_rated;
        if ends { self.end() } else { self.drain() }
    }

    fn step(&mut self) {
        let client = self.rng.below(self.clients.len());
        match self.rng.below(100) {
            0..30 => self.act(client),
            30..55 => self.bytes_to_server(client),
            55..75 => self.kernel_sends(client),
            75..90 => self.deliver_some_mail(),
            90..97 => self.pass_time(),
            _ if self.rng.chance(self.churn) => self.pass_long_time(),
            _ => {}
        }
        self.change_trust();
        let node = self.rng.below(self.nodes.len());
        if self.nodes[node].dirty && self.rng.chance(60) {
            self.turn(node);
        }
        self.run_a_writer(node);
    }

    fn route(&mut self) -> (Vni, Route) {
        let vni = Vni(self.rng.below(self.vnis) as u32);
        let (number, hop) = (self.rng.below(self.destinations), self.rng.below(self.hops));
        let (prefix, length) = match number {
            0 => ([0, 0, 0, 0].into(), 0),
            n if n % 3 == 0 => (std::net::Ipv6Addr::from(n as u128).into(), 128),
            n => ([10, 0, (n >> 8) as u8, n as u8].into(), 32),
        };
        let kind = NextHopType([0, 0, 1, 2][(number + hop) % 4]);
        let nat_port_to = if kind == NextHopType::NAT { 1000 + hop as u16 } else { 0 };
        let address = std::net::Ipv6Addr::from(0x2001_0db8 << 96 | hop as u128).into();
        let next_hop = NextHop { address, vni: Vni(0), kind, nat_port_from: 0, nat_port_to };
        (vni, Route { destination: Destination { prefix, length }, next_hop })
    }

    fn act(&mut self, at: usize) {
        let Some(connection) = &self.clients[at].connection else {
            return self.connect(at);
        };
        if !connection.is_live() || !connection.established {
            return;
        }
        let (routes_max, vnis_max) =
            (self.limits.routes_per_peer_max as usize, self.limits.vnis_per_peer_max as usize);
        let what = self.rng.below(100);
        let repeat = if self.rng.chance(20) { 1 + self.rng.below(30) } else { 1 };
        for _ in 0..repeat {
            let (vni, route) = self.route();
            let Some(connection) = &mut self.clients[at].connection else {
                return;
            };
            match what {
                0..45 => connection.announce(vni, route, routes_max),
                45..70 => connection.withdraw(vni, route),
                70..84 => connection.subscribe(vni, vnis_max),
                84..90 => connection.unsubscribe(vni),
                90..92 => {
                    connection.unsubscribe(vni);
                    connection.subscribe(vni, vnis_max);
                }
                92 => connection.say(&Message::Keepalive),
                93 => (0..100).for_each(|_| connection.say(&Message::Keepalive)),
                _ => {}
            }
        }
        let what = self.rng.below(100);
        if what < self.churn {
            self.hang_up(at);
        } else if what < 2 * self.churn {
            self.clients[at].stuck = self.rng.chance(70);
        }
    }

    fn connect(&mut self, at: usize) {
        let shard = self.rng.below(self.nodes.len());
        let remote = (self.trust.address_of(at), at as u16).into();
        let id = self.nodes[shard].shard.accept(self.now, remote);
        self.nodes[shard].dirty = true;
        let Client { is_server, reassembles, .. } = self.clients[at];
        self.clients[at].connection = Some(Connection::new(shard, id, is_server, reassembles));
    }

    fn hang_up(&mut self, at: usize) {
        if let Some(connection) = &mut self.clients[at].connection {
            connection.hung_up = true;
            // Part of what it wanted to say may be lost.
            let lost = self.rng.below(2 * connection.to_server.len() + 1);
            let kept = connection.to_server.len().saturating_sub(lost);
            connection.to_server.truncate(kept);
        }
    }

    fn bytes_to_server(&mut self, at: usize) {
        let Some(connection) = &mut self.clients[at].connection else {
            return;
        };
        let (shard, id) = (connection.shard, connection.id);
        let node = &mut self.nodes[shard];
        if connection.closed || !node.shard.wants_read(id) {
            return;
        }
        let most = [1, 7, 64, 2_000, 65_536][self.rng.below(5)];
        let count = connection.to_server.len().min(1 + self.rng.below(most));
        node.dirty |= count > 0 || connection.hung_up;
        if count > 0 {
            let bytes: Vec<u8> = connection.to_server.drain(..count).collect();
            node.shard.receive(self.now, id, &bytes);
        } else if connection.hung_up {
            node.shard.read_ended(self.now, id, Ok(()));
        }
    }

    /// The kernel gets rid of some of what the server sends to a client.
    fn kernel_sends(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else {
            return;
        };
        if client.stuck && !connection.hung_up {
            return;
        }
        let Some(piece) = connection.in_flight.take() else {
            return;
        };
        let (shard, id) = (connection.shard, connection.id);
        let node = &mut self.nodes[shard];
        node.dirty = true;
        if connection.hung_up {
            let error = std::io::Error::from_raw_os_error(32);
            return node.shard.transmit_failed(self.now, id, &error);
        }
        let bytes = piece.as_slice();
        let short = client.reassembles && self.rng.chance(10);
        let sent = if short { self.rng.below(bytes.len()) } else { bytes.len() };
        self.trace.write(&bytes[..sent]);
        self.trace.write_usize(at);
        client.received += connection.read(&bytes[..sent], client.is_server, client.reassembles);
        // As the kernel does: its buffer is used again from here on.
        drop(piece);
        node.shard.transmitted(self.now, id, sent);
    }

    pub fn deliver_some_mail(&mut self) {
        let (to, from) = (self.rng.below(self.nodes.len()), self.rng.below(self.nodes.len()));
        let node = &mut self.nodes[to];
        if let Some(mail) = node.mail[from].pop_front() {
            node.shard.deliver(mail);
            node.dirty = true;
        }
    }

    fn pass_time(&mut self) {
        self.now = Time(self.now.0 + 1 + self.rng.below(20_000) as u64);
        for node in &mut self.nodes {
            node.dirty |= node.shard.next_wakeup() <= self.now;
        }
    }

    /// Long enough for handshakes and bases to time out, and sometimes for everybody.
    fn pass_long_time(&mut self) {
        // A paused peer would get KEEPALIVEs that answer none, which no barrier can tell apart.
        let reads = |client: &Client| {
            let connection = client.connection.as_ref();
            connection.is_none_or(|c| self.nodes[c.shard].shard.wants_read(c.id))
        };
        let everybody_reads = self.clients.iter().all(reads);
        let seconds = match self.rng.chance(5) && everybody_reads {
            true => 300_000,
            false => 1 + self.rng.below(30) as u64,
        };
        self.now = Time(self.now.0 + seconds * 1_000_000);
        // After a stall, timers are believed at the second look only.
        for _ in 0..2 {
            for at in 0..self.nodes.len() {
                self.turn(at);
            }
            self.now = Time(self.now.0 + 60_000);
        }
    }

    pub fn turn(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        node.dirty = node.shard.turn(now);
        let mut mail = Vec::new();
        while let Some(block) = node.shard.take_mail() {
            mail.push(block);
        }
        let mut closed = Vec::new();
        while let Some((id, wake)) = node.shard.take_woken() {
            match wake {
                Wake::Close => closed.push(id),
                Wake::Read | Wake::Sample | Wake::Poll | Wake::State => {}
            }
        }
        self.check_memory(at);
        for (to, block) in mail {
            assert_ne!(to.index(), at, "no mail to oneself");
            self.nodes[to.index()].mail[at].push_back(block);
        }
        for id in closed {
            self.server_closed(at, id);
        }
    }

    fn server_closed(&mut self, at: usize, id: PeerId) {
        let client = self.clients.iter_mut().find(|client| {
            client.connection.as_ref().is_some_and(|connection| connection.id == id)
        });
        let client = client.expect("a connection is closed once");
        let connection = client.connection.take().expect("it has one");
        if connection.in_flight.is_some() {
            let error = std::io::Error::from_raw_os_error(32);
            self.nodes[at].shard.transmit_failed(self.now, id, &error);
        }
        let end = self.nodes[at].shard.release(self.now, id).expect("it has ended");
        // None of them breaks the protocol.
        let is_wrong = matches!(
            end.reason,
            CloseReason::Fault
                | CloseReason::Unexpected { .. }
                | CloseReason::SecondHello
                | CloseReason::HelloIntervalZero
        );
        assert!(!is_wrong, "{id}: {end:?}");
        self.nodes[at].dirty = true;
        client.stuck = false;
    }

    fn run_a_writer(&mut self, at: usize) {
        let Some(id) = self.nodes[at].shard.take_writer() else {
            return;
        };
        let mut connections = self.clients.iter_mut().filter_map(|client| {
            client.connection.as_mut().map(|connection| (client.reassembles, connection))
        });
        let Some((reassembles, connection)) =
            connections.find(|(_, connection)| connection.id == id)
        else {
            return;
        };
        if connection.in_flight.is_some() {
            return;
        }
        let shard = &mut self.nodes[at].shard;
        match shard.transmit(self.now, id, TcpSample::default()) {
            Transmit::Send(piece) => {
                check_piece(piece.as_slice(), piece.end_of_record, reassembles);
                connection.in_flight = Some(piece);
            }
            Transmit::Idle => {}
            Transmit::Finish => self.finished(id),
        }
        self.nodes[at].dirty = true;
    }

    /// Nobody wants anything new; everything that is under way arrives.
    fn rest(&mut self) {
        for client in &mut self.clients {
            client.stuck = false;
        }
        for round in 0.. {
            assert!(round < 100_000, "it does not come to rest: {}", self.unrest());
            let mut busy = false;
            for at in 0..self.clients.len() {
                let waiting = |world: &World| {
                    let connection = world.clients[at].connection.as_ref();
                    // One that is not heard may wait for a point in time.
                    let hears = |c: &Connection| world.nodes[c.shard].shard.wants_read(c.id);
                    connection.is_some_and(|c| (!c.to_server.is_empty() || c.hung_up) && hears(c))
                };
                busy |= waiting(self);
                self.bytes_to_server(at);
                let connection = self.clients[at].connection.as_ref();
                busy |= connection.is_some_and(|c| c.in_flight.is_some());
                self.kernel_sends(at);
            }
            self.deliver_some_mail();
            for at in 0..self.nodes.len() {
                if self.nodes[at].dirty {
                    busy = true;
                    self.turn(at);
                }
                busy |= self.nodes[at].shard.has_writers();
                self.run_a_writer(at);
                busy |= self.nodes[at].mail.iter().any(|queue| !queue.is_empty());
            }
            if !busy {
                let next = self.nodes.iter().map(|node| node.shard.next_wakeup()).min();
                let next = next.expect("there is a shard");
                let soon = Time(self.now.0 + 5_000_000);
                if next > soon {
                    return;
                }
                self.now = self.now.max(next);
                for node in &mut self.nodes {
                    node.dirty = true;
                }
            }
        }
    }

    pub fn unrest(&self) -> String {
        let clients = self.clients.iter().map(|client| {
            let connection = client.connection.as_ref();
            connection.map(|c| (c.id, c.to_server.len(), c.hung_up, c.in_flight.is_some()))
        });
        let nodes = self.nodes.iter().map(|node| {
            let mail: Vec<usize> = node.mail.iter().map(VecDeque::len).collect();
            (
                node.dirty,
                mail,
                node.shard.has_writers(),
                node.shard.usage(),
                node.shard.next_wakeup(),
            )
        });
        let (clients, nodes): (Vec<_>, Vec<_>) = (clients.collect(), nodes.collect());
        format!("{clients:?} {nodes:?} {:?}", self.now)
    }

    /// Everybody has said what he wanted, some are stuck amid what they have to hear: draining
    /// sends them the rest, withdraws nothing, and lets everybody go.
    fn drain(&mut self) {
        for at in 0..self.clients.len() {
            self.clients[at].stuck = self.rng.chance(40);
        }
        for _ in 0..500 {
            let client = self.rng.below(self.clients.len());
            self.act(client);
        }
        self.settle_input();
        (0..self.clients.len()).for_each(|at| self.subscribe_unanswered(at));
        let stored = self.stored();
        self.drained = Some(
            (0..self.clients.len())
                .map(|at| {
                    let views = self.clients[at].connection.iter().flat_map(|c| &c.views);
                    views
                        .map(|(vni, view)| {
                            (*vni, self.expected(at, *vni, view.subscribed, &stored))
                        })
                        .collect()
                })
                .collect(),
        );
        for node in &mut self.nodes {
            node.shard.drain(self.now, usize::MAX);
            node.dirty = true;
        }
        self.rest();
        let peers: usize = self.nodes.iter().map(|node| node.shard.peer_count()).sum();
        assert_eq!(peers, 0, "everybody was let go");
    }

    /// A client may want something more; no turn deals with it yet.
    fn subscribe_unanswered(&mut self, at: usize) {
        let (vni, _) = self.route();
        let Some(connection) = &mut self.clients[at].connection else { return };
        let (shard, id) = (connection.shard, connection.id);
        let hears = self.nodes[shard].shard.wants_read(id);
        if !hears || !connection.is_live() || !connection.established || self.rng.chance(50) {
            return;
        }
        connection.subscribe(vni, self.limits.vnis_per_peer_max as usize);
        while self.clients[at].connection.as_ref().is_some_and(|c| !c.to_server.is_empty()) {
            self.bytes_to_server(at);
        }
    }

    /// All that was said is dealt with; who is stuck stays stuck.
    fn settle_input(&mut self) {
        for round in 0..200_000 {
            // Whoever subscribed in vain is not heard for a while.
            self.now = Time(self.now.0 + 5);
            for at in 0..self.clients.len() {
                self.bytes_to_server(at);
                self.kernel_sends(at);
            }
            self.deliver_some_mail();
            for at in 0..self.nodes.len() {
                let node = &self.nodes[at];
                if node.dirty || node.shard.next_wakeup() <= self.now {
                    self.turn(at);
                }
                self.run_a_writer(at);
            }
            let mut connections =
                self.clients.iter().filter_map(|client| client.connection.as_ref());
            let heard = connections.all(|c| {
                let shard = &self.nodes[c.shard].shard;
                c.to_server.is_empty() && (shard.wants_read(c.id) || !c.is_live())
            });
            let idle = |node: &Node| !node.dirty && node.mail.iter().all(VecDeque::is_empty);
            if round > 20_000 && heard && self.nodes.iter().all(idle) {
                return;
            }
        }
        panic!("not everything was heard and dealt with: {}", self.unrest());
    }

    /// The server is done with a client: it must have been told everything.
    fn finished(&mut self, id: PeerId) {
        let of = |client: &Client| client.connection.as_ref().is_some_and(|c| c.id == id);
        let at = self.clients.iter().position(of).expect("it is connected");
        let expected = &self.drained.as_ref().expect("only when draining")[at];
        let connection = self.clients[at].connection.as_mut().expect("it is connected");
        for (vni, routes) in expected {
            assert_eq!(&connection.views[vni].routes, routes, "client {at}, VNI {vni}");
        }
        connection.hung_up = true;
    }

    /// When everybody has gone, nothing is left.
    fn end(&mut self) {
        for at in 0..self.clients.len() {
            self.hang_up(at);
        }
        self.rest();
        self.now = Time(self.now.0 + 3_000_000);
        for at in 0..self.nodes.len() {
            self.turn(at);
        }
        assert_eq!(self.trust.counts(), (0, 0), "nothing is left to be counted");
        for node in &self.nodes {
            let held = node.shard.usage();
            assert_eq!((held.routes, held.vnis, node.shard.peer_count()), (0, 0, 0), "{held:?}");
            let of_sources = (held.sources, held.routes_withheld, held.sources_absent);
            assert_eq!(of_sources, (0, 0, 0), "{held:?}");
        }
    }
}
