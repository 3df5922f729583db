//! Two shards and some peers that say anything, in any order: nothing panics, what peers are sent can be
//! read, and when all have gone, nothing of them is left.
#![no_main]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use metalbond_uring::internals::shard::{
    Budgets, Ledger, Limits, Mail, Piece, Shard, ShardConfig, TcpSample, Transmit, Wake,
};
use metalbond_uring::internals::wire::{Deframer, Hello, Message, Update, decode};
use metalbond_uring::types::{
    Action, Destination, NextHop, NextHopType, Pace, PeerId, ReflectOwn, Route, ShardId, Time, Vni,
};

const SHARDS: u16 = 2;
const PEERS: usize = 4;

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let mut world = World::new(input.byte());
    while !input.0.is_empty() {
        world.step(&mut input);
    }
    world.end();
});

/// The fuzzer's bytes as choices; zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(count.min(self.0.len()));
        self.0 = left;
        taken
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }
}

struct Node {
    shard: Shard,
    mail: VecDeque<Mail>,
}

struct Peer {
    node: usize,
    id: PeerId,
    in_flight: Option<Piece>,
    received: Deframer,
    hung_up: bool,
}

struct World {
    now: Time,
    nodes: Vec<Node>,
    peers: Vec<Peer>,
    draining: bool,
}

impl World {
    fn new(kind: u8) -> World {
        let small = kind & 1 == 1;
        let ledger = Arc::<Ledger>::default();
        let config = |id| ShardConfig {
            id: ShardId(id),
            shards: SHARDS,
            hash_seed: [1, 2, 3, 4],
            keepalive_interval_s: 5,
            reflect_own: [ReflectOwn::None, ReflectOwn::LoadBalancer, ReflectOwn::AllButNat]
                [usize::from(kind >> 1) % 3],
            pace: if kind & 64 == 0 { Pace::Off } else { Pace::RoutesPerS(100) },
            limits: Limits {
                routes_per_peer_max: if small { 3 } else { 1_000 },
                vnis_per_peer_max: if small { 2 } else { 1_000 },
                queue_bytes_max: if small { 512 } else { 1 << 20 },
                lag_bytes_max: if small { 128 } else { 1 << 16 },
                log_bytes_max: if small { 2_048 } else { 1 << 20 },
            },
            budgets: Budgets {
                requests_per_turn: if small { 2 } else { 1_000 },
                job_routes_per_turn: if small { 2 } else { 1_000 },
                requests_under_way_max: if small { 3 } else { 1_000 },
                record_bytes_under_way_max: if small { 100 } else { 1 << 16 },
                compacted_bytes_per_turn: if small { 2 } else { 1_000 },
                tail_bytes_min: 0,
            },
            stale_time: Duration::from_secs(if kind & 128 == 0 { 0 } else { 1 }),
            policy: None,
            ledger: Arc::clone(&ledger),
        };
        let node = |id| Node { shard: Shard::new(config(id), Time(1)), mail: VecDeque::new() };
        let nodes = (0..SHARDS).map(node).collect();
        World { now: Time(1), nodes, peers: Vec::new(), draining: false }
    }

    fn step(&mut self, input: &mut Input) {
        let (what, at) = (input.byte(), input.below(PEERS));
        match what % 16 {
            0 => return self.connect(input.byte()),
            1 => {
                self.turn(at % usize::from(SHARDS));
                return;
            }
            2 => return self.deliver(at % usize::from(SHARDS)),
            3 => return self.pass_time(input.byte()),
            4 if what == 0xf4 => return self.drain(),
            _ => {}
        }
        if at >= self.peers.len() {
            return;
        }
        match what % 16 {
            5 => self.hang_up(at, input.byte()),
            6..=8 => self.write(at, input.byte()),
            9 => {
                let count = input.below(40);
                self.receive(at, input.bytes(count));
            }
            10 => {
                let chosen = input.byte();
                self.say(at, Message::Hello(hello(chosen)));
                self.say(at, Message::Keepalive);
            }
            11 => self.say(at, Message::Keepalive),
            12 => self.say(at, Message::Subscribe(Vni(u32::from(input.byte() & 3)))),
            13 => self.say(at, Message::Unsubscribe(Vni(u32::from(input.byte() & 3)))),
            _ => {
                let update = update(input);
                let repeat = if what & 0x80 == 0 { 1 } else { 1 + input.below(20) };
                for number in 0..repeat {
                    let mut update = update;
                    update.route.destination.length = (number % 32) as u8;
                    self.say(at, Message::Update(update));
                }
            }
        }
    }

    /// Most peers dial us, some are servers that we dialled; those live on the first shard.
    fn connect(&mut self, how: u8) {
        if self.peers.len() < PEERS {
            let is_dialled = how >= 192;
            let node = if is_dialled { 0 } else { usize::from(how & 1) };
            let shard = &mut self.nodes[node].shard;
            let remote = ([127, 0, 0, 1], 1).into();
            let id = match is_dialled {
                true => shard.dialled(self.now, remote, 1),
                false => shard.accept(self.now, remote),
            };
            let received = Deframer::new();
            self.peers.push(Peer { node, id, in_flight: None, received, hung_up: false });
        }
    }

    fn say(&mut self, at: usize, message: Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.receive(at, &bytes);
    }

    fn receive(&mut self, at: usize, bytes: &[u8]) {
        let peer = &self.peers[at];
        let shard = &mut self.nodes[peer.node].shard;
        if !bytes.is_empty() && !peer.hung_up && shard.wants_read(peer.id) {
            shard.receive(self.now, peer.id, bytes);
        }
    }

    fn hang_up(&mut self, at: usize, how: u8) {
        let peer = &mut self.peers[at];
        let shard = &mut self.nodes[peer.node].shard;
        if !peer.hung_up && shard.wants_read(peer.id) {
            peer.hung_up = true;
            let reset = || std::io::Error::from_raw_os_error(104);
            shard.read_ended(self.now, peer.id, if how & 1 == 0 { Ok(()) } else { Err(reset()) });
        }
    }

    /// The peer's writer: what is in flight goes out, wholly or in part, or something new is sent.
    fn write(&mut self, at: usize, how: u8) {
        let peer = &mut self.peers[at];
        let shard = &mut self.nodes[peer.node].shard;
        let Some(piece) = peer.in_flight.take() else {
            if let Transmit::Send(piece) = shard.transmit(self.now, peer.id, TcpSample::default()) {
                assert!(!piece.as_slice().is_empty());
                peer.in_flight = Some(piece);
            }
            return;
        };
        if how == 255 {
            let error = std::io::Error::from_raw_os_error(32);
            return shard.transmit_failed(self.now, peer.id, &error);
        }
        let bytes = piece.as_slice();
        let sent = if how & 1 == 0 { bytes.len() } else { bytes.len().min(usize::from(how)) };
        let mut input = &bytes[..sent];
        while let Some(frame) = peer.received.next(&mut input).expect("whole frames") {
            decode(frame).expect("what we send can be read");
        }
        drop(piece);
        shard.transmitted(self.now, peer.id, sent);
    }

    fn pass_time(&mut self, amount: u8) {
        self.now = Time(self.now.0 + (1_u64 << (amount % 26)));
    }

    fn drain(&mut self) {
        self.draining = true;
        for node in &mut self.nodes {
            node.shard.drain(self.now, usize::MAX);
        }
    }

    fn deliver(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(mail) = node.mail.pop_front() {
            node.shard.deliver(mail);
        }
    }

    /// True if work is left.
    fn turn(&mut self, at: usize) -> bool {
        let left = self.nodes[at].shard.turn(self.now);
        while let Some((to, mail)) = self.nodes[at].shard.take_mail() {
            assert_ne!(to.index(), at, "no mail to oneself");
            self.nodes[to.index()].mail.push_back(mail);
        }
        while let Some((id, wake)) = self.nodes[at].shard.take_woken() {
            match wake {
                Wake::Close => self.close(at, id),
                Wake::Sample => {
                    self.nodes[at].shard.sampled(self.now, id, TcpSample::default());
                }
                Wake::Read | Wake::Poll | Wake::State => {}
            }
        }
        left
    }

    fn close(&mut self, node: usize, id: PeerId) {
        let at = self.peers.iter().position(|peer| peer.id == id).expect("closed once");
        let peer = self.peers.swap_remove(at);
        let shard = &mut self.nodes[node].shard;
        if peer.in_flight.is_some() {
            let error = std::io::Error::from_raw_os_error(32);
            shard.transmit_failed(self.now, id, &error);
        }
        shard.release(self.now, id);
    }

    /// All leave: nothing may be left.
    fn end(&mut self) {
        self.rest();
        // Bases are kept for a while, and the routes of lost servers.
        self.pass_time(25);
        self.rest();
        for node in &self.nodes {
            let held = node.shard.usage();
            assert_eq!(node.shard.peer_count(), 0);
            assert_eq!((held.log_bytes, held.laggard_bytes), (0, 0), "{held:?}");
            assert!(self.draining || (held.routes, held.vnis) == (0, 0), "{held:?}");
        }
    }

    /// Everybody hangs up, all mail arrives.
    fn rest(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it does not come to rest");
            for at in 0..self.peers.len() {
                self.hang_up(at, 0);
            }
            let mut busy = !self.peers.is_empty();
            for at in 0..self.nodes.len() {
                busy |= self.turn(at);
                busy |= !self.nodes[at].mail.is_empty();
                self.deliver(at);
            }
            // The first may have got mail from the last.
            if !busy && self.nodes.iter().all(|node| node.mail.is_empty()) {
                break;
            }
            // Some wait for the clock.
            self.pass_time(10);
        }
    }
}

fn hello(chosen: u8) -> Hello {
    Hello {
        keepalive_interval_s: u32::from(chosen >> 2) + 1,
        is_server: chosen & 1 == 1,
        reassembles: chosen & 2 == 2,
    }
}

/// Few routes, so that peers meet.
fn update(input: &mut Input) -> Update {
    let (first, second) = (input.byte(), input.byte());
    let action = if first & 1 == 0 { Action::Add } else { Action::Remove };
    let destination = Destination { prefix: [10, 0, 0, second & 3].into(), length: 0 };
    let kind = NextHopType(i32::from(second >> 6));
    let port = if kind == NextHopType::NAT { 80 } else { 0 };
    let next_hop = NextHop {
        address: [192, 0, 2, second >> 2 & 3].into(),
        vni: Vni(0),
        kind,
        nat_port_from: port,
        nat_port_to: port,
    };
    Update { action, vni: Vni(u32::from(first >> 1 & 3)), route: Route { destination, next_hop } }
}
