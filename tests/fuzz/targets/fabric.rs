//! An engine that says anything in any order, between shards with honest peers: nothing panics, what the fabric publishes
//! is its own and can be read, what is read would be written so, and peers are sent what can be read.

use std::collections::VecDeque;
use std::time::Duration;

use metalbond_uring::internals::fabric::{
    Effect, Ended, Fabric, FabricConfig, Lease, Publish, PublishError, Record, Subject, Subjects,
    Timers, decode_announcers, encode_announcers,
};
use metalbond_uring::internals::shard::{Identity, Piece, Shard, ShardConfig, TcpSample, Transmit};
use metalbond_uring::internals::wire::{Deframer, Hello, Message, Update, decode};
use metalbond_uring::types::{
    Action, Announcers, Behind, Destination, NextHop, NextHopType, PeerId, Route, Time, Vni,
};

use crate::config::shard_config;
use crate::input::Input;

/// Names of reflectors: ours, others', and what is none.
const NAMES: [&str; 6] = ["me", "R1", "R2", "R3", "", "R 4"];
const VNIS: [Vni; 3] = [Vni(1), Vni(2), Vni(0xffff_ffff)];
/// Of a run; longer ones find nothing more.
const STEPS_MAX: usize = 2_000;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut world = World::new(input.byte(), input.byte());
    for _ in 0..STEPS_MAX {
        if input.0.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.settle();
}

fn below(input: &mut Input<'_>, bound: usize) -> usize {
    usize::from(input.byte()) % bound
}

struct Core {
    shard: Shard,
    peer: PeerId,
    received: Deframer,
}

struct World {
    now: Time,
    fabric: Fabric,
    subjects: Subjects,
    cores: Vec<Core>,
    tokens: VecDeque<u64>,
    sequence: u64,
}

impl World {
    fn new(kind: u8, more: u8) -> World {
        let shards = 1 + u16::from(kind & 1);
        let mut config = FabricConfig::new("f", NAMES[0]).expect("names");
        config.shards = shards;
        config.incarnation = 1_000;
        config.hash_seed = [1, 2, 3, 4];
        config.routes_max = if kind & 2 == 0 { 1_000 } else { 3 };
        config.in_flight_max = 1 + usize::from(more % 4);
        if kind & 4 == 4 {
            config.timers = Timers { restart: Duration::ZERO, ..config.timers };
        }
        let identity = if kind & 8 == 0 { Identity::Address } else { Identity::Connection };
        let cores = (0..shards).map(|at| Core::new(at, shards, identity)).collect();
        let mut world = World {
            now: Time(1_000_000_000),
            fabric: Fabric::new(Time(1_000_000_000), config),
            subjects: Subjects::new("f"),
            cores,
            tokens: VecDeque::new(),
            sequence: 0,
        };
        if kind & 16 == 0 {
            // As far as it gets with an engine that has nothing.
            world.fabric.linked(world.now);
            world.settle();
            world.fabric.opened(world.now, 0);
        }
        world.settle();
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        match below(input, 16) {
            0 => self.fabric.linked(now),
            1 => self.fabric.unlinked(now),
            2 => self.fabric.feed_broken(now),
            3 => self.fabric.opened(now, u64::from(input.byte())),
            4 => self.said(input, true),
            5 => {
                let token = self.token(input);
                let sequence = self.place(input);
                self.fabric.acked(now, token, sequence);
            }
            6 => {
                let token = self.token(input);
                let other = PublishError::Other("no".to_owned());
                let errors = [PublishError::Full, PublishError::WrongSequence, other];
                self.fabric.refused(now, token, &errors[below(input, 3)]);
            }
            7 => {
                let token = self.token(input);
                self.fabric.purged(now, token);
            }
            8 => self.now = Time(now.0 + (1 << (below(input, 34)))),
            9 => {
                let (core, action) = (below(input, self.cores.len()), below(input, 2));
                let action = [Action::Add, Action::Remove][action];
                let update = Update { action, vni: VNIS[below(input, 2)], route: route(input) };
                self.cores[core].say(now, &Message::Update(update));
            }
            10 => self.settle(),
            11 if input.byte() == 77 => self.fabric.leave(now),
            _ if self.fabric.wants_feed() => self.said(input, false),
            _ => self.settle(),
        }
    }

    /// A record, or a lease that was found.
    fn said(&mut self, input: &mut Input<'_>, is_found: bool) {
        let subject = self.subject(input);
        let value = value(input);
        self.check(&subject, &value);
        let ended = [None, Some(Ended::Lifetime), Some(Ended::Removed), Some(Ended::Purged)];
        let record = Record {
            sequence: self.place(input),
            age: Duration::from_millis(1 << below(input, 64)),
            subject: &subject,
            value: &value,
            ended: ended[below(input, 4)].filter(|_| value.is_empty()),
            pending: u64::from(input.byte() % 4),
        };
        match is_found {
            true => self.fabric.found(self.now, &record),
            false => self.fabric.record(self.now, &record),
        }
        self.settle();
    }

    fn subject(&self, input: &mut Input<'_>) -> String {
        let name = NAMES[below(input, NAMES.len())];
        let mut subject = match below(input, 4) {
            0 => self.subjects.lease(name),
            1 => {
                let length = below(input, 64);
                format!("mb.f.r.1.R1.{}", String::from_utf8_lossy(input.bytes(length)))
            }
            _ => self.subjects.route(name, VNIS[below(input, VNIS.len())], &route(input)),
        };
        let at = usize::from(input.byte());
        if at < subject.len() && subject.is_char_boundary(at) {
            subject.insert(at, char::from(input.byte()));
        }
        subject
    }

    /// Its place in the stream: mostly the next one.
    fn place(&mut self, input: &mut Input<'_>) -> u64 {
        match input.byte() {
            0..250 => self.sequence = self.sequence.wrapping_add(1),
            250 => self.sequence = 0,
            251 => self.sequence = u64::MAX,
            _ => self.sequence = self.sequence.wrapping_sub(1),
        }
        self.sequence
    }

    /// Mostly the next one that waits for an answer.
    fn token(&mut self, input: &mut Input<'_>) -> u64 {
        match input.byte() {
            255 => 1 << below(input, 64),
            254 => self.tokens.front().copied().unwrap_or(1),
            _ => self.tokens.pop_front().unwrap_or(0),
        }
    }

    /// What is read would be written so.
    fn check(&self, subject: &str, value: &[u8]) {
        match self.subjects.parse(subject) {
            Ok(Subject::Lease(name)) => assert_eq!(self.subjects.lease(name), subject),
            Ok(Subject::Route { name, vni, route }) => {
                assert_eq!(self.subjects.route(name, vni, &route), subject);
            }
            Err(_) => {}
        }
        if let Ok(by) = decode_announcers(value) {
            assert_eq!(&encode_announcers(&by)[..], value);
        }
        if let Ok(lease) = Lease::decode(value) {
            assert!(value.starts_with(lease.to_string().as_bytes()));
            let name = Lease::doubted(value).filter(|name| name.len() <= 32);
            assert_eq!(Lease::decode(&lease.encode(name)), Ok(lease));
        }
    }

    /// Everybody does what there is to be done.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "there is no end");
            self.fabric.turn(self.now);
            while let Some(effect) = self.fabric.take_effect() {
                self.carry_out(effect);
            }
            let mut is_idle = true;
            while let Some((to, mail)) = self.fabric.take_mail() {
                self.cores[to.index()].shard.deliver(mail);
                is_idle = false;
            }
            for at in 0..self.cores.len() {
                is_idle &= !self.cores[at].turn(self.now);
                while let Some((to, mail)) = self.cores[at].shard.take_mail() {
                    is_idle = false;
                    match self.cores.get_mut(to.index()) {
                        Some(core) => core.shard.deliver(mail),
                        None => self.fabric.deliver(self.now, mail),
                    }
                }
            }
            // What is due is done, perhaps in more than one turn.
            if is_idle && self.fabric.next_wakeup() > self.now {
                break;
            }
        }
        let status = self.fabric.status(self.now);
        let held: u64 = status.reflectors.iter().map(|it| it.records).sum();
        assert_eq!(held, status.remote_records);
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Open | Effect::Leave => self.tokens.clear(),
            Effect::Publish(what) => {
                self.check_publish(&what);
                self.tokens.push_back(what.token);
            }
            Effect::Purge { token, filter, .. } => {
                assert!(filter.starts_with("mb.f.r.*.R"), "{filter}");
                self.tokens.push_back(token);
            }
        }
    }

    fn check_publish(&self, what: &Publish) {
        match self.subjects.parse(&what.subject) {
            Ok(Subject::Lease(_)) => {
                assert!(Lease::decode(&what.value).is_ok());
            }
            Ok(Subject::Route { name, .. }) => {
                assert_eq!(name, NAMES[0]);
                let by = decode_announcers(&what.value).expect("announcers");
                assert!(by.is_nobody() || what.lifetime.is_none() && !what.is_tombstone);
            }
            Err(reason) => panic!("{}: {reason:?}", what.subject),
        }
    }
}

impl Core {
    /// With a peer that subscribes.
    fn new(at: u16, shards: u16, identity: Identity) -> Core {
        let config = ShardConfig { fabric: Some(identity), ..shard_config(at, shards) };
        let now = Time(1_000_000_000);
        let mut shard = Shard::new(config, now);
        let peer = shard.accept(now, ([127, 0, 0, 9 + at as u8], 1).into());
        let mut core = Core { shard, peer, received: Deframer::new() };
        let hello = Hello { keepalive_interval_s: 86_400, is_server: at == 1, reassembles: true };
        core.say(now, &Message::Hello(hello));
        core.say(now, &Message::Keepalive);
        VNIS.iter().for_each(|vni| core.say(now, &Message::Subscribe(*vni)));
        core
    }

    fn say(&mut self, now: Time, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        if self.shard.wants_read(self.peer) {
            self.shard.receive(now, self.peer, &bytes);
        }
    }

    /// Whether there was something to be done.
    fn turn(&mut self, now: Time) -> bool {
        let mut is_busy = self.shard.turn(now);
        while self.shard.take_woken().is_some() {}
        while let Some(id) = self.shard.take_writer() {
            is_busy = true;
            if let Transmit::Send(piece) = self.shard.transmit(now, id, TcpSample::default()) {
                self.sent(now, &piece);
            }
        }
        is_busy
    }

    fn sent(&mut self, now: Time, piece: &Piece) {
        let mut bytes = piece.as_slice();
        let sent = bytes.len();
        while let Some(frame) = self.received.next(&mut bytes).expect("frames") {
            decode(frame).expect("a message");
        }
        self.shard.transmitted(now, self.peer, sent);
    }
}

fn route(input: &mut Input<'_>) -> Route {
    let which = below(input, 8) as u8;
    let next_hop = NextHop {
        address: [192, 0, 2, which % 2].into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    Route { destination: Destination { prefix: [10, 0, 0, which].into(), length: 32 }, next_hop }
}

fn value(input: &mut Input<'_>) -> Vec<u8> {
    match below(input, 6) {
        0 => Vec::new(),
        1 | 2 => {
            let by = Announcers { clients: behind(input), servers: behind(input) };
            encode_announcers(&by).to_vec()
        }
        3 | 4 => {
            let states = ["syncing", "synced", "leaving", "gone", "other"];
            let state = states[below(input, states.len())];
            let incarnation = 998 + below(input, 5);
            let (records, word) = (below(input, 4), input.byte());
            let digest = match word & 3 {
                0 => "- -".to_owned(),
                1 => format!("{records} {:016x}", u64::from(word)),
                _ => format!(
                    "{records} {:016x}",
                    u64::from(word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
                ),
            };
            let doubt = ["", " ?me", " ?R1", " ?", "       "][below(input, 5)];
            format!("1 {state} {incarnation} {digest}{doubt}").into_bytes()
        }
        _ => {
            let length = below(input, 80);
            input.bytes(length).to_vec()
        }
    }
}

fn behind(input: &mut Input<'_>) -> Behind {
    match below(input, 5) {
        0 => Behind::Nobody,
        1 => Behind::Many,
        2 => Behind::One([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()),
        other => Behind::One([127, 0, 0, 6 + other as u8].into()),
    }
}
