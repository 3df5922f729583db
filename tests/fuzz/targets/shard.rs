//! Shards between hostile peers, that say anything in any order, and a bystander that subscribes to what an
//! honest peer announces: nothing panics, what peers are sent can be read, the bystander is told each change
//! once and knows at the end exactly what a newcomer is told, and when all have gone, nothing of them is left.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use metalbond_uring::internals::policy::{AnnouncePolicy, NextHopPolicy, Policy};
use metalbond_uring::internals::shard::{
    Budgets, Ledger, Limits, Mail, Piece, Shard, ShardConfig, TcpSample, Transmit, Wake,
};
use metalbond_uring::internals::wire::{Deframer, Hello, Message, Update, decode};
use metalbond_uring::types::{
    Action, Destination, NextHop, NextHopType, Pace, PeerId, ReflectOwn, Route, ShardId, Time, Vni,
};

use crate::input::Input;

/// Hostile peers at a time.
const HOSTILE: usize = 4;
/// Where the honest peer announces and the bystander subscribes, and the hostile ones too.
const VNIS: [Vni; 2] = [Vni(1), Vni(2)];
/// The honest ones may say anything (those of 127.0.0.9), the others (of 127.0.0.1) not always.
const POLICIES: [&str; 3] = [
    "permit peer 127.0.0.9\npermit vni 1",
    "permit peer 127.0.0.9\npermit destination 10.0.0.0/30 next-hop 192.0.2.0/31",
    "permit peer 127.0.0.9",
];
/// An honest peer says that it lives each time that this has passed.
const BEAT_US: u64 = 2_000_000;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut world = World::new(input.byte(), input.byte());
    world.begin();
    while !input.0.is_empty() {
        world.step(&mut input);
    }
    world.end();
}

impl Input<'_> {
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
    /// What an honest peer has been told, all that counts.
    view: Option<BTreeSet<(Vni, Destination, NextHop)>>,
}

struct World {
    now: Time,
    /// When the honest ones said last that they live.
    beat_at: Time,
    nodes: Vec<Node>,
    peers: Vec<Peer>,
    /// The honest peer, the bystander, and at the end the newcomer.
    honest: Vec<PeerId>,
    /// What the honest peer announces.
    announced: BTreeSet<(Vni, Destination, NextHop)>,
    /// The bystander reads after each turn.
    is_prompt: bool,
    /// So little is kept for laggards that a single turn may bring the bystander beyond it.
    is_short: bool,
    draining: bool,
}

impl World {
    fn new(kind: u8, more: u8) -> World {
        let small = kind & 1 == 1;
        let shards = if more & 2 == 0 { 2 } else { 3 };
        let short = more & 4 == 4;
        let ledger = Arc::<Ledger>::default();
        let config = |id| ShardConfig {
            id: ShardId(id),
            shards,
            hash_seed: [1, 2, 3, 4],
            keepalive_interval_s: 5,
            reflect_own: [ReflectOwn::None, ReflectOwn::LoadBalancer, ReflectOwn::AllButNat]
                [usize::from(kind >> 1) % 3],
            pace: if kind & 64 == 0 { Pace::Off } else { Pace::RoutesPerS(100) },
            limits: Limits {
                routes_per_peer_max: if small { 3 } else { 1_000 },
                routes_per_vni_max: if small { 4 } else { 1_000 },
                routes_max: if small { 6 } else { 1_000 },
                vnis_per_peer_max: if small { 2 } else { 1_000 },
                subscriptions_max: if small { 2 * 7 } else { 1_000 },
                updates_per_s_max: if small { 10 } else { 100_000 },
                queue_bytes_per_peer_max: if short { 256 } else { 1 << 20 },
                queue_bytes_max: if short { 512 } else { 1 << 20 },
                lag_bytes_max: if short { 128 } else { 1 << 16 },
                log_bytes_max: if short { 2_048 } else { 1 << 20 },
            },
            budgets: Budgets {
                requests_per_turn: if small { 2 } else { 1_000 },
                job_routes_per_turn: if small { 2 } else { 1_000 },
                requests_under_way_max: if small { 3 } else { 1_000 },
                joins_under_way_max: if small { 3 } else { 1_000 },
                changes_per_peer_max: if small { 3 } else { 1_000 },
                record_bytes_under_way_max: if small { 100 } else { 1 << 16 },
                compacted_bytes_per_turn: if small { 2 } else { 1_000 },
                tail_bytes_min: 0,
            },
            stale_time: Duration::from_secs(if kind & 128 == 0 { 0 } else { 1 }),
            policy: None,
            ledger: Arc::clone(&ledger),
            fabric: None,
        };
        let node = |id| Node { shard: Shard::new(config(id), Time(1)), mail: VecDeque::new() };
        let nodes = (0..shards).map(node).collect();
        World {
            now: Time(1),
            beat_at: Time(1),
            nodes,
            peers: Vec::new(),
            honest: Vec::new(),
            announced: BTreeSet::new(),
            is_prompt: more & 1 == 0,
            is_short: short,
            draining: false,
        }
    }

    /// All shards learn of it by and by, as they learn of all else.
    fn change_policy(&mut self, which: usize) {
        let rules = |text: &&str| {
            let rules = AnnouncePolicy::parse(text.as_bytes()).expect("rules");
            Policy::new(NextHopPolicy::Any, Some(Arc::new(rules)))
        };
        let policy = POLICIES.get(which).and_then(rules);
        let nodes = &mut self.nodes;
        nodes.iter_mut().for_each(|node| node.shard.set_policy(self.now, policy.clone()));
    }

    /// The honest ones come first.
    fn begin(&mut self) {
        for node in [0, 1] {
            let id = self.greet(node);
            self.honest.push(id);
        }
        for vni in VNIS {
            let next_hop = NextHop {
                address: [192, 0, 2, 1].into(),
                vni: Vni(0),
                kind: NextHopType::STANDARD,
                nat_port_from: 0,
                nat_port_to: 0,
            };
            let destination = Destination { prefix: [10, 0, 0, 1].into(), length: 0 };
            let route = Route { destination, next_hop };
            let update = Message::Update(Update { action: Action::Add, vni, route });
            self.say_honestly(self.honest[0], &update);
            self.say_honestly(self.honest[1], &Message::Subscribe(vni));
            self.announced.insert((vni, destination, next_hop));
        }
        self.settle();
        self.check_views();
    }

    /// An honest client, established.
    fn greet(&mut self, node: usize) -> PeerId {
        let id = self.nodes[node].shard.accept(self.now, ([127, 0, 0, 9], 1).into());
        let received = Deframer::new();
        let view = Some(BTreeSet::new());
        self.peers.push(Peer { node, id, in_flight: None, received, hung_up: false, view });
        let hello = Hello { keepalive_interval_s: 5, is_server: false, reassembles: true };
        self.say_honestly(id, &Message::Hello(hello));
        self.say_honestly(id, &Message::Keepalive);
        self.settle();
        id
    }

    /// Waits until it is read.
    fn say_honestly(&mut self, id: PeerId, message: &Message) {
        for round in 0.. {
            assert!(round < 10_000, "an honest peer is not read any more");
            let at = self.at(id).expect("an honest peer is not closed");
            if self.nodes[self.peers[at].node].shard.wants_read(id) {
                return self.say(at, *message);
            }
            self.settle();
            self.tick(1 << 10);
        }
    }

    fn at(&self, id: PeerId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    fn step(&mut self, input: &mut Input) {
        let (what, at) = (input.byte(), input.below(12));
        match what % 16 {
            0 => return self.connect(input.byte()),
            1 => {
                self.turn(at % self.nodes.len());
                return self.prompt();
            }
            2 => return self.deliver(at % self.nodes.len()),
            3 => return self.pass_time(input.byte()),
            4 if what == 0xf4 => return self.drain(),
            4 if what == 0xe4 => return self.change_policy(at),
            4 => return self.read_some(input.byte()),
            _ => {}
        }
        let hostile = |peer: &Peer| peer.view.is_none();
        let count = self.peers.iter().filter(|peer| hostile(peer)).count();
        let Some(number) = at.checked_rem(count) else { return };
        let mut found = (0..self.peers.len()).filter(|&at| hostile(&self.peers[at]));
        let at = found.nth(number).expect("below their number");
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
        let count = self.peers.iter().filter(|peer| peer.view.is_none()).count();
        if count < HOSTILE {
            let is_dialled = how >= 192;
            let node = if is_dialled { 0 } else { usize::from(how) % self.nodes.len() };
            let shard = &mut self.nodes[node].shard;
            let remote = ([127, 0, 0, 1], 1).into();
            let id = match is_dialled {
                true => shard.dialled(self.now, remote, 1),
                false => shard.accept(self.now, remote),
            };
            let received = Deframer::new();
            let view = None;
            self.peers.push(Peer { node, id, in_flight: None, received, hung_up: false, view });
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
            let message = decode(frame).expect("what we send can be read");
            let (Some(view), Message::Update(update)) = (&mut peer.view, message) else { continue };
            let Update { action, vni, route } = update;
            let told = (vni, route.destination, route.next_hop);
            let is_news = match action {
                Action::Add => view.insert(told),
                Action::Remove => view.remove(&told),
            };
            assert!(is_news, "{action:?} {told:?} again");
        }
        drop(piece);
        shard.transmitted(self.now, peer.id, sent);
    }

    fn pass_time(&mut self, amount: u8) {
        let mut left_us = 1_u64 << (amount % 26);
        while left_us > 0 {
            let step_us = left_us.min(BEAT_US);
            self.tick(step_us);
            left_us -= step_us;
        }
    }

    /// The honest ones go on with what they do.
    fn tick(&mut self, micros: u64) {
        self.now = Time(self.now.0 + micros);
        if self.now.0 - self.beat_at.0 >= BEAT_US {
            self.beat_at = self.now;
            for at in 0..self.nodes.len() {
                self.turn(at);
            }
            for id in self.honest.clone() {
                if let Some(at) = self.at(id) {
                    self.say(at, Message::Keepalive);
                    self.read_all(id);
                }
            }
        }
    }

    /// The bystander reads something, or a bit of it.
    fn read_some(&mut self, how: u8) {
        if let Some(at) = self.honest.get(1).and_then(|id| self.at(*id)) {
            self.write(at, how.min(254));
        }
    }

    fn prompt(&mut self) {
        if self.is_prompt && self.honest.len() > 1 {
            self.read_all(self.honest[1]);
        }
    }

    fn read_all(&mut self, id: PeerId) {
        let mut was_idle = false;
        while let Some(at) = self.at(id) {
            self.write(at, 0);
            // What was sent may be followed by more.
            if self.peers[at].in_flight.is_none() && std::mem::replace(&mut was_idle, true) {
                return;
            }
            was_idle &= self.peers[at].in_flight.is_none();
        }
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

    /// A newcomer is told what the bystander knows; then all leave, the honest ones last, and nothing may
    /// be left.
    fn end(&mut self) {
        self.settle();
        if !self.draining {
            let newcomer = self.greet(0);
            self.honest.push(newcomer);
            for vni in VNIS {
                self.say_honestly(newcomer, &Message::Subscribe(vni));
            }
            self.settle();
            self.check_views();
        }
        self.leave(false);
        // Bases are kept for a while, and the routes of lost servers.
        self.pass_time(25);
        self.leave(false);
        if !self.draining {
            self.check_views();
            let newcomer = self.at(self.honest[2]).map(|at| self.peers[at].view.as_ref());
            let is_right = newcomer.map_or(self.is_short, |view| view == Some(&self.announced));
            assert!(is_right, "what the hostile ones left: {newcomer:?}");
        }
        self.leave(true);
        self.pass_time(25);
        self.leave(true);
        for node in &self.nodes {
            let held = node.shard.usage();
            assert_eq!(node.shard.peer_count(), 0);
            assert_eq!((held.log_bytes, held.laggard_bytes), (0, 0), "{held:?}");
            assert!(self.draining || (held.routes, held.vnis) == (0, 0), "{held:?}");
        }
    }

    /// All who subscribe and are honest know the same, what the honest peer announces among it.
    fn check_views(&self) {
        let may_be_closed = self.draining || self.is_short;
        let mut views = Vec::new();
        for (number, id) in self.honest.iter().enumerate() {
            match self.at(*id) {
                Some(at) if number > 0 => views.push(self.peers[at].view.as_ref()),
                Some(_) => {}
                // In a small world, with what it takes of the memory for slow peers.
                None => assert!(number >= 1 && may_be_closed, "honest peer {number} was closed"),
            }
        }
        assert!(views.windows(2).all(|pair| pair[0] == pair[1]), "{views:#?}");
        let all = |view: &BTreeSet<_>| self.announced.is_subset(view);
        assert!(views.iter().flatten().all(|view| all(view)), "{views:#?}");
    }

    /// All mail arrives, all work is done, the honest ones have read what there is.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it does not come to rest");
            let is_busy = self.work();
            for id in self.honest.clone() {
                self.read_all(id);
            }
            if !is_busy && self.nodes.iter().all(|node| node.mail.is_empty()) {
                break;
            }
        }
    }

    /// Everybody hangs up, or all but the honest ones; all mail arrives.
    fn leave(&mut self, with_honest: bool) {
        for round in 0.. {
            assert!(round < 10_000, "it does not come to rest");
            let leaves = |peer: &Peer| with_honest || peer.view.is_none();
            for at in 0..self.peers.len() {
                if leaves(&self.peers[at]) {
                    self.hang_up(at, 0);
                }
            }
            let is_waiting = self.peers.iter().any(leaves);
            let is_busy = self.work();
            if !with_honest {
                for id in self.honest.clone() {
                    self.read_all(id);
                }
            }
            // The first may have got mail from the last.
            if !is_busy && !is_waiting && self.nodes.iter().all(|node| node.mail.is_empty()) {
                break;
            }
            // Some wait for the clock.
            self.tick(if round % 16 == 15 { BEAT_US } else { 1 << 10 });
        }
    }

    /// A turn of each, and a letter for each. True if there was something to do.
    fn work(&mut self) -> bool {
        let mut is_busy = false;
        for at in 0..self.nodes.len() {
            is_busy |= self.turn(at);
            is_busy |= !self.nodes[at].mail.is_empty();
            self.deliver(at);
        }
        is_busy
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
