//! Hosts that are told apart by address: two connections of one host see nothing of each other; two hosts behind one
//! address are found out, and see each other's routes from then on.
//!
//! Owns shards without a network, and peers that read now and then. Must never look into shards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use metalbond_uring::internals::shard::{
    Correspondent, Identity, Limits, Mail, Shard, ShardConfig, TcpSample, Transmit, Wake,
};
use metalbond_uring::internals::wire::{Deframer, Hello, Message, Update, decode};
use metalbond_uring::types::{Action, Announcers, Behind, PeerId, Route, Time, Vni};

use crate::config::shard_config;
use crate::rng::Rng;
use crate::routes::{self, number_of};
use crate::seeds;

const SHARDS: u16 = 3;
const VNIS: u32 = 4;
const NUMBERS: u32 = 12;
const KEEPALIVE_S: u32 = 5;

/// A connection.
struct Peer {
    shard: usize,
    id: PeerId,
    /// The last byte of its address.
    address: u8,
    announced: BTreeSet<u32>,
    subscribed: BTreeSet<u32>,
    seen: BTreeSet<u32>,
    deframer: Deframer,
}

struct Field {
    now: Time,
    shards: Vec<Shard>,
    fabric: Correspondent,
    published: BTreeMap<u32, Announcers>,
    /// Mail under way.
    mail: BTreeMap<(usize, usize), VecDeque<Mail>>,
    peers: Vec<Peer>,
}

fn route(number: u32) -> (Vni, Route) {
    (Vni(number % VNIS), routes::route(number))
}

impl Field {
    fn new(limits: Limits) -> Field {
        let shard = |at| {
            let config = ShardConfig {
                limits,
                keepalive_interval_s: KEEPALIVE_S,
                fabric: Some(Identity::Address),
                ..shard_config(at, SHARDS)
            };
            Shard::new(config, Time(1))
        };
        Field {
            now: Time(1),
            shards: (0..SHARDS).map(shard).collect(),
            fabric: Correspondent::new(SHARDS),
            published: BTreeMap::new(),
            mail: BTreeMap::new(),
            peers: Vec::new(),
        }
    }

    fn arrives(&mut self, shard: usize, address: u8) -> usize {
        let remote = ([10, 0, 0, address], 1).into();
        let id = self.shards[shard].accept(self.now, remote);
        let (announced, subscribed, seen) = Default::default();
        let deframer = Deframer::new();
        self.peers.push(Peer { shard, id, address, announced, subscribed, seen, deframer });
        let hello =
            Hello { keepalive_interval_s: KEEPALIVE_S, is_server: false, reassembles: true };
        let at = self.peers.len() - 1;
        self.say(at, &[Message::Hello(hello), Message::Keepalive]);
        at
    }

    fn say(&mut self, at: usize, messages: &[Message]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        let peer = &self.peers[at];
        self.shards[peer.shard].receive(self.now, peer.id, &bytes);
    }

    fn toggle(&mut self, at: usize, number: u32) {
        let (vni, route) = route(number);
        let announced = &mut self.peers[at].announced;
        let action = match announced.remove(&number) {
            true => Action::Remove,
            false => {
                announced.insert(number);
                Action::Add
            }
        };
        self.say(at, &[Message::Update(Update { action, vni, route })]);
    }

    fn subscribe(&mut self, at: usize, vni: u32) {
        if self.peers[at].subscribed.insert(vni) {
            self.say(at, &[Message::Subscribe(Vni(vni))]);
        }
    }

    /// A turn of one shard; its mail is under way then. True if that changed anything.
    fn turn(&mut self, at: usize) -> bool {
        let shard = &mut self.shards[at];
        let mut moved = shard.turn(self.now);
        while let Some((id, wake)) = shard.take_woken() {
            assert!(wake != Wake::Close, "{id} is closed");
        }
        while let Some((to, block)) = shard.take_mail() {
            moved = true;
            self.mail.entry((at, to.index())).or_default().push_back(block);
        }
        moved
    }

    /// The next block from one shard to another arrives.
    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let block = self.mail.get_mut(&(from, to)).and_then(VecDeque::pop_front);
        let Some(block) = block else { return false };
        match self.shards.get_mut(to) {
            Some(shard) => shard.deliver(block),
            None => {
                let published = &mut self.published;
                self.fabric.deliver(block, |_, route, by| {
                    published.insert(number_of(route), by);
                });
            }
        }
        true
    }

    fn rest(&mut self) {
        loop {
            let mut moved = (0..self.shards.len()).fold(false, |moved, at| moved | self.turn(at));
            for from in 0..self.shards.len() {
                for to in 0..=self.shards.len() {
                    while self.deliver(from, to) {
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// A peer reads: at most so many pieces. What it was told it did not need is only excused where an address is
    /// becoming a shared one.
    fn read(&mut self, at: usize, pieces: usize, excused: bool) {
        let peer = &mut self.peers[at];
        let shard = &mut self.shards[peer.shard];
        for _ in 0..pieces {
            let Transmit::Send(piece) = shard.transmit(self.now, peer.id, TcpSample::default())
            else {
                return;
            };
            let mut input = piece.as_slice();
            let length = input.len();
            while let Some(frame) = peer.deframer.next(&mut input).expect("whole frames") {
                let Message::Update(update) = decode(frame).expect("a message") else { continue };
                let number = number_of(&update.route);
                let is_news = match update.action {
                    Action::Add => peer.seen.insert(number),
                    Action::Remove => peer.seen.remove(&number),
                };
                assert!(is_news || excused, "{:?} of {number} again", update.action);
            }
            shard.transmitted(self.now, peer.id, length);
        }
    }

    /// Time goes on, and everybody says KEEPALIVE.
    fn pass(&mut self, seconds: u32, excused: bool) {
        for _ in 0..seconds.div_ceil(KEEPALIVE_S) {
            self.now = self.now.after(Duration::from_secs(KEEPALIVE_S.into()));
            for at in 0..self.peers.len() {
                self.say(at, &[Message::Keepalive]);
            }
            self.settle(excused);
        }
    }

    fn settle(&mut self, excused: bool) {
        self.rest();
        for _ in 0..20 {
            for at in 0..self.peers.len() {
                self.read(at, 1_000, excused);
            }
            self.rest();
        }
    }

    /// Everybody sees what it should, if these addresses are shared; and so do other reflectors.
    fn check(&self, shared: &[u8]) {
        let is_one = |a: &Peer, b: &Peer| {
            a.id == b.id || a.address == b.address && !shared.contains(&a.address)
        };
        for peer in &self.peers {
            let others = self.peers.iter().filter(|other| !is_one(other, peer));
            let numbers = others.flat_map(|other| &other.announced).copied();
            let wanted = numbers.filter(|number| peer.subscribed.contains(&(number % VNIS)));
            assert_eq!(peer.seen, wanted.collect(), "at address {} {}", peer.address, peer.id);
        }
        for number in 0..NUMBERS {
            let by = self.peers.iter().filter(|peer| peer.announced.contains(&number));
            let clients = by.fold(Behind::Nobody, |all, peer| {
                all.and(match shared.contains(&peer.address) {
                    true => Behind::Many,
                    false => Behind::One([10, 0, 0, peer.address].into()),
                })
            });
            let published = self.published.get(&number).copied().unwrap_or_default();
            assert_eq!(published, Announcers { clients, servers: Behind::Nobody }, "{number}");
        }
    }
}

#[test]
fn two_connections_of_one_host_are_one_until_they_have_stood_for_long() {
    let mut field = Field::new(Limits::default());
    let peers = [(0, 1), (1, 1), (2, 2)].map(|(shard, address)| field.arrives(shard, address));
    for at in peers {
        (0..VNIS).for_each(|vni| field.subscribe(at, vni));
        (0..NUMBERS).filter(|it| *it as usize % 3 == at).for_each(|it| field.toggle(at, it));
    }
    // Both of the first two announce this one.
    field.toggle(0, 1);
    field.settle(false);
    field.check(&[]);
    field.pass(20, false);
    field.check(&[]);
    let before: Vec<_> = field.peers.iter().map(|peer| peer.seen.clone()).collect();
    // The table is told again.
    field.pass(10, true);
    field.check(&[1]);
    for (peer, before) in field.peers.iter().zip(before) {
        assert!(peer.seen.is_superset(&before), "views only grow");
    }
    let fourth = field.arrives(2, 1);
    (0..VNIS).for_each(|vni| field.subscribe(fourth, vni));
    field.settle(false);
    field.check(&[1]);
}

/// Whatever changes, and however slowly they read, when an address becomes a shared one.
#[test]
fn who_shares_an_address_sees_the_others_whatever_happens_meanwhile() {
    seeds::run(300, |seed| {
        let mut rng = Rng::new(seed);
        let limits = match rng.chance(50) {
            true => Limits { lag_bytes_max: 100, ..Limits::default() },
            false => Limits::default(),
        };
        let mut field = Field::new(limits);
        for (address, count) in [(1, 2), (2, 3), (3, 1)] {
            for _ in 0..count {
                let shard = rng.below(usize::from(SHARDS));
                field.arrives(shard, address);
            }
        }
        let steps = 100 + rng.below(200);
        for step in 0..steps {
            let at = rng.below(field.peers.len());
            match rng.below(10) {
                0..=3 => field.toggle(at, rng.below(NUMBERS as usize) as u32),
                4 => field.subscribe(at, rng.below(VNIS as usize) as u32),
                5 | 6 => field.read(at, 1, true),
                7 => drop(field.turn(rng.below(usize::from(SHARDS)))),
                _ => {
                    let (from, to) = (rng.below(SHARDS.into()), rng.below(usize::from(SHARDS) + 1));
                    field.deliver(from, to);
                }
            }
            if step % 10 == 0 {
                // Keepalives, but nobody reads for that.
                field.now = field.now.after(Duration::from_secs(2));
                (0..field.peers.len()).for_each(|at| field.say(at, &[Message::Keepalive]));
            }
        }
        field.pass(60, true);
        field.check(&[1, 2]);
        for _ in 0..30 {
            let at = rng.below(field.peers.len());
            field.toggle(at, rng.below(NUMBERS as usize) as u32);
        }
        field.settle(false);
        field.check(&[1, 2]);
    });
}
