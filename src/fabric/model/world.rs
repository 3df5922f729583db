//! Reflectors, hosts, an engine, and all that may go wrong between them, in virtual time.
//!
//! Owns the order in which things happen, which one seed decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::super::config::{FabricConfig, Rule, Timers};
use super::super::engine::{Effect, PublishError};
use super::super::own::Key;
use super::super::protocol::{self, Protocol};
use super::super::status::State;
use super::engine::{Engine, Publication};
use super::homes::Homes;
use super::rng::Rng;
use crate::types::{Destination, NextHop, NextHopType, Route, Time, Vni};

/// Routes that there may be.
const VNIS: usize = 2;
const DESTINATIONS: usize = 3;
/// How long a publication waits for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Something that is on its way.
#[derive(Debug)]
enum Event {
    /// The engine gets this from a reflector's connection.
    Arrives {
        from: usize,
        link: u64,
        token: u64,
        what: Publication,
    },
    Purges {
        from: usize,
        link: u64,
        token: u64,
        filter: String,
        below: u64,
    },
    /// A reflector gets an answer.
    Answered {
        to: usize,
        link: u64,
        token: u64,
        answer: Result<Option<u64>, PublishError>,
    },
    /// The engine opens the feed that a reflector asked for.
    Opens {
        to: usize,
        link: u64,
    },
    /// The feed brings what is next.
    Feeds {
        to: usize,
        feed: u64,
    },
    /// A reflector's tables do something.
    Homes(usize),
    /// A reflector is due.
    Turn(usize),
    /// A reflector's connection is made.
    Links(usize),
}

/// A reflector and what is near it.
pub(super) struct Node {
    /// None: it is not running.
    pub protocol: Option<Protocol>,
    pub homes: Homes,
    incarnation: u64,
    /// It can reach the engine.
    pub is_reachable: bool,
    link: Option<u64>,
    feed: Option<(u64, u64)>,
    /// The feed is there, and brings nothing.
    pub is_stalled: bool,
    /// What the connection carries comes out in order.
    last_arrival: Time,
    turn_at: Time,
    /// Publications that were not answered.
    waiting: BTreeSet<u64>,
}

pub(super) struct Host {
    pub keys: BTreeSet<Key>,
    /// Reflectors that it is connected to.
    pub at: BTreeSet<usize>,
}

pub(super) struct World {
    pub rng: Rng,
    pub now: Time,
    pub engine: Engine,
    pub is_engine_up: bool,
    pub nodes: Vec<Node>,
    pub hosts: Vec<Host>,
    events: BTreeMap<(Time, u64), Event>,
    next_event: u64,
    next_link: u64,
    next_incarnation: u64,
    without: Option<Rule>,
    pub is_slow: bool,
}

impl World {
    pub(super) fn new(seed: u64, without: Option<Rule>) -> World {
        let mut rng = Rng::new(seed);
        let (reflectors, hosts) = (2 + rng.below(3), 2 + rng.below(4));
        let is_slow = rng.chance(30);
        let mut world = World {
            rng,
            now: Time(1_000_000_000),
            engine: Engine::new(Timers::default().gone),
            is_engine_up: true,
            nodes: Vec::new(),
            hosts: Vec::new(),
            events: BTreeMap::new(),
            next_event: 0,
            next_link: 0,
            next_incarnation: 1,
            without,
            is_slow,
        };
        for _ in 0..reflectors {
            world.nodes.push(Node {
                protocol: None,
                homes: Homes::default(),
                incarnation: 0,
                is_reachable: true,
                link: None,
                feed: None,
                is_stalled: false,
                last_arrival: Time(0),
                turn_at: Time::NEVER,
                waiting: BTreeSet::new(),
            });
        }
        for _ in 0..hosts {
            world.hosts.push(Host { keys: BTreeSet::new(), at: BTreeSet::new() });
        }
        for node in 0..reflectors {
            world.start(node);
        }
        world
    }

    /// A process starts.
    pub(super) fn start(&mut self, at: usize) {
        self.start_as(at, &format!("r{at}"));
    }

    /// The same, with another name.
    pub(super) fn start_as(&mut self, at: usize, name: &str) {
        let mut config = FabricConfig::new("f", name).unwrap();
        config.incarnation = self.next_incarnation;
        config.hash_seed = [0; 4].map(|_: u64| self.rng.next());
        config.in_flight_max = 1 + self.rng.below(5);
        config.without = self.without;
        self.next_incarnation += 1;
        let node = &mut self.nodes[at];
        node.incarnation = config.incarnation;
        node.homes = Homes::default();
        node.protocol = Some(Protocol::new(self.now, config));
        self.links(at);
    }

    /// A process ends, without a word.
    pub(super) fn crash(&mut self, at: usize) {
        self.unlink(at);
        let node = &mut self.nodes[at];
        node.protocol = None;
        node.homes = Homes::default();
        for host in &mut self.hosts {
            host.at.remove(&at);
        }
    }

    /// The connection to the engine is cut. What was on its way may arrive much later, or never.
    pub(super) fn unlink(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(link) = node.link.take() else { return };
        node.feed = None;
        node.is_stalled = false;
        node.waiting.clear();
        if let Some(protocol) = &mut node.protocol {
            protocol.unlinked(self.now);
        }
        let is_of = |event: &Event| match event {
            Event::Arrives { from, link: it, .. } | Event::Purges { from, link: it, .. } => {
                *from == at && *it == link
            }
            _ => false,
        };
        let late: Vec<_> =
            self.events.iter().filter(|(_, it)| is_of(it)).map(|(key, _)| *key).collect();
        for key in late {
            let event = self.events.remove(&key).expect("it is there");
            if self.rng.chance(50) {
                let wait = [10, 1_000, 15_000_000][self.rng.below(3)];
                let at = Time(self.now.0 + self.rng.below(wait) as u64);
                self.push(at, event);
            }
        }
        self.turn_soon(at);
    }

    /// It tries to connect.
    pub(super) fn links(&mut self, at: usize) {
        let wait = 1_000 + self.rng.below(2_000_000) as u64;
        self.push(Time(self.now.0 + wait), Event::Links(at));
    }

    pub(super) fn engine_goes(&mut self) {
        self.is_engine_up = false;
        for at in 0..self.nodes.len() {
            self.unlink(at);
        }
    }

    pub(super) fn engine_comes(&mut self) {
        self.is_engine_up = true;
        (0..self.nodes.len()).for_each(|at| self.links(at));
    }

    pub(super) fn cut_off(&mut self, at: usize) {
        self.nodes[at].is_reachable = false;
        self.unlink(at);
    }

    pub(super) fn heal(&mut self, at: usize) {
        self.nodes[at].is_reachable = true;
        self.links(at);
    }

    /// Hosts come to a reflector, with all that they have.
    pub(super) fn connect(&mut self, host: usize, at: usize) {
        if self.nodes[at].protocol.is_some() && self.hosts[host].at.insert(at) {
            for key in self.hosts[host].keys.clone() {
                self.change_at(host, at, key, true);
            }
        }
    }

    pub(super) fn disconnect(&mut self, host: usize, at: usize) {
        if self.hosts[host].at.remove(&at) {
            for key in self.hosts[host].keys.clone() {
                self.change_at(host, at, key, false);
            }
        }
    }

    /// A host announces or withdraws a route, wherever it is connected.
    pub(super) fn change(&mut self, host: usize, key: Key) {
        let adds = self.hosts[host].keys.insert(key) || !self.hosts[host].keys.remove(&key);
        for at in self.hosts[host].at.clone() {
            self.change_at(host, at, key, adds);
        }
    }

    fn change_at(&mut self, host: usize, at: usize, key: Key, adds: bool) {
        let address = [10, 9, 0, host as u8].into();
        let node = &mut self.nodes[at];
        let by = node.homes.change(host, address, key, adds);
        if let Some(protocol) = &mut node.protocol {
            protocol.published(key.0, &key.1, by);
            self.turn_soon(at);
        }
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now.after(time);
        loop {
            let expiry = if self.is_engine_up { self.engine.next_expiry() } else { Time::NEVER };
            let next = self.events.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
            let at = next.min(expiry);
            if at > until {
                break;
            }
            self.now = self.now.max(at);
            if expiry <= next {
                self.engine.expire(self.now);
                self.feed_all();
            } else {
                let (_, event) = self.events.pop_first().expect("there is one");
                self.happens(event);
            }
        }
        self.now = until;
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives { from, link, token, what } => {
                if !self.is_engine_up {
                    return;
                }
                let answer = self.engine.publish(self.now, &what).map(Some);
                self.answer(from, link, token, answer);
                self.feed_all();
            }
            Event::Purges { from, link, token, filter, below } => {
                if self.is_engine_up {
                    self.engine.purge(&filter, below);
                    self.answer(from, link, token, Ok(None));
                }
            }
            Event::Answered { to, link, token, answer } => {
                let node = &mut self.nodes[to];
                let is_ours = node.link == Some(link) && node.waiting.remove(&token);
                if let Some(protocol) = node.protocol.as_mut().filter(|_| is_ours) {
                    match answer {
                        Ok(Some(sequence)) => protocol.acked(self.now, token, sequence),
                        Ok(None) => protocol.purged(token),
                        Err(error) => protocol.refused(self.now, token, &error),
                    }
                    self.turn_soon(to);
                }
            }
            Event::Opens { to, link } => self.opens(to, link),
            Event::Feeds { to, feed } => self.feeds(to, feed),
            Event::Homes(at) => self.homes_work(at),
            Event::Turn(at) => {
                if self.nodes[at].turn_at <= self.now {
                    self.turn(at);
                }
            }
            Event::Links(at) => {
                let can = self.is_engine_up && self.nodes[at].is_reachable;
                let node = &mut self.nodes[at];
                if can
                    && node.link.is_none()
                    && let Some(protocol) = &mut node.protocol
                {
                    self.next_link += 1;
                    node.link = Some(self.next_link);
                    node.last_arrival = self.now;
                    protocol.linked(self.now);
                    self.turn_soon(at);
                }
            }
        }
    }

    fn answer(
        &mut self,
        to: usize,
        link: u64,
        token: u64,
        answer: Result<Option<u64>, PublishError>,
    ) {
        let at = self.soon();
        self.push(at, Event::Answered { to, link, token, answer });
    }

    fn opens(&mut self, to: usize, link: u64) {
        let node = &mut self.nodes[to];
        let Some(protocol) = node.protocol.as_mut().filter(|_| node.link == Some(link)) else {
            return;
        };
        self.engine.expire(self.now);
        for (sequence, kept) in self.engine.list(&protocol.subjects.leases()) {
            protocol.found(self.now, &kept.as_record(self.now, sequence, 0));
        }
        // Between the leases and the feed something may happen.
        protocol.opened(self.now, self.engine.pending(0));
        self.next_link += 1;
        node.feed = Some((self.next_link, 0));
        node.is_stalled = false;
        self.feed_all();
        self.turn_soon(to);
    }

    /// Whoever has a feed that waits for something.
    fn feed_all(&mut self) {
        for to in 0..self.nodes.len() {
            if let Some((feed, _)) = self.nodes[to].feed {
                let at = self.soon();
                self.push(at, Event::Feeds { to, feed });
            }
        }
    }

    fn feeds(&mut self, to: usize, feed: u64) {
        let is_full = self.nodes[to].homes.calls.len() > 3;
        let node = &mut self.nodes[to];
        let Some((of, place)) = node.feed.filter(|(it, _)| *it == feed) else { return };
        let Some(protocol) = &mut node.protocol else { return };
        if node.is_stalled || !self.is_engine_up {
            return;
        }
        let Some((sequence, kept)) = self.engine.after(place) else { return };
        if protocol.needs_settled() || is_full {
            let at = Time(self.now.0 + 1_000);
            self.push(at, Event::Feeds { to, feed });
            return;
        }
        let pending = self.engine.pending(sequence);
        protocol.record(self.now, &kept.as_record(self.now, sequence, pending));
        node.feed = Some((of, sequence));
        if pending > 0 {
            let at = Time(self.now.0 + 1 + self.rng.below(100) as u64);
            self.push(at, Event::Feeds { to, feed });
        }
        self.take_home_calls(to);
        self.turn_soon(to);
    }

    fn take_home_calls(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(protocol) = &mut node.protocol else { return };
        let calls: VecDeque<_> = std::iter::from_fn(|| protocol.take_home_call()).collect();
        if !calls.is_empty() {
            node.homes.calls.extend(calls);
            let soon = self.soon();
            self.push(soon, Event::Homes(at));
        }
    }

    fn homes_work(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let changes = node.homes.obey();
        if let Some(protocol) = &mut node.protocol {
            for (key, by) in changes {
                protocol.published(key.0, &key.1, by);
            }
        }
        if !node.homes.calls.is_empty() {
            let wait = if self.is_slow { 200_000 } else { 100 };
            let soon = Time(self.now.0 + 1 + self.rng.below(wait) as u64);
            self.push(soon, Event::Homes(at));
        }
        self.turn_soon(at);
    }

    fn turn(&mut self, at: usize) {
        self.take_home_calls(at);
        let node = &mut self.nodes[at];
        node.turn_at = Time::NEVER;
        let calls = node.homes.calls.len();
        let homes = protocol::Homes { is_full: calls > 3, is_settled: calls == 0 };
        let Some(protocol) = &mut node.protocol else { return };
        protocol.turn(self.now, homes);
        let link = node.link;
        let effects: Vec<Effect> = std::iter::from_fn(|| protocol.take_effect()).collect();
        let needs_turn = protocol.needs_settled() && calls == 0;
        let next = if needs_turn { Time(self.now.0 + 1) } else { protocol.next_wakeup() };
        assert!(next > self.now || next == Time::NEVER, "it has done what is due");
        for effect in effects {
            self.carry_out(at, link, effect);
        }
        self.take_home_calls(at);
        self.turn_at(at, next);
    }

    fn carry_out(&mut self, at: usize, link: Option<u64>, effect: Effect) {
        let Some(link) = link else {
            assert_eq!(effect, Effect::Leave, "nothing without a connection");
            return;
        };
        let arrival = self.soon().max(self.nodes[at].last_arrival);
        self.nodes[at].last_arrival = arrival;
        match effect {
            Effect::Open => {
                self.nodes[at].feed = None;
                self.push(arrival, Event::Opens { to: at, link });
            }
            Effect::Publish { token, subject, value, lifetime, is_tombstone, expect_last } => {
                let what = Publication { subject, value, lifetime, is_tombstone, expect_last };
                self.waits(at, link, token);
                self.push(arrival, Event::Arrives { from: at, link, token, what });
            }
            Effect::Purge { token, filter, below } => {
                self.waits(at, link, token);
                self.push(arrival, Event::Purges { from: at, link, token, filter, below });
            }
            Effect::Leave => self.unlink(at),
        }
    }

    fn waits(&mut self, to: usize, link: u64, token: u64) {
        self.nodes[to].waiting.insert(token);
        let error = PublishError::Other("no answer".to_owned());
        let at = self.now.after(ANSWER_MAX);
        self.push(at, Event::Answered { to, link, token, answer: Err(error) });
    }

    fn turn_soon(&mut self, at: usize) {
        let soon = Time(self.now.0 + 1 + self.rng.below(200) as u64);
        self.turn_at(at, soon);
    }

    fn turn_at(&mut self, at: usize, time: Time) {
        if time < self.nodes[at].turn_at {
            self.nodes[at].turn_at = time;
            self.push(time, Event::Turn(at));
        }
    }

    fn soon(&mut self) -> Time {
        let most = if self.is_slow { 400_000 } else { 2_000 };
        Time(self.now.0 + 1 + self.rng.below(most) as u64)
    }

    fn push(&mut self, at: Time, event: Event) {
        self.next_event += 1;
        self.events.insert((at, self.next_event), event);
    }

    /// Some route.
    pub(super) fn key(&mut self) -> Key {
        key_of(self.rng.below(VNIS), self.rng.below(DESTINATIONS))
    }

    /// All routes that some connected host announces.
    pub(super) fn truth(&self) -> BTreeSet<Key> {
        let connected = self.hosts.iter().filter(|host| !host.at.is_empty());
        connected.flat_map(|host| host.keys.iter().copied()).collect()
    }

    /// What is wrong with what reflectors see.
    pub(super) fn faults(&self) -> Vec<String> {
        let (truth, mut faults) = (self.truth(), Vec::new());
        let all = 0..VNIS * DESTINATIONS;
        let keys: Vec<Key> = all.map(|at| key_of(at % VNIS, at / VNIS)).collect();
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(protocol) = &node.protocol else { continue };
            for key in &keys {
                if node.homes.sees(*key) != truth.contains(key) {
                    let said = node.homes.said(*key);
                    let is = truth.contains(key);
                    let status = protocol.status(self.now);
                    faults.push(format!("r{at} {}/{}: {is}, but {said}, {status:?}", key.0, key.1));
                }
            }
            let status = protocol.status(self.now);
            if status.state != State::Synced || status.dirty + status.in_flight > 0 {
                faults.push(format!("r{at}: {status:?}"));
            }
        }
        faults
    }

    /// Messages to whoever stays at these reflectors.
    pub(super) fn messages(&self, at: &[usize]) -> u64 {
        at.iter().map(|at| self.nodes[*at].homes.added + self.nodes[*at].homes.removed).sum()
    }
}

fn key_of(vni: usize, destination: usize) -> Key {
    let next_hop = NextHop {
        address: [10, 0, 0, 1].into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    let destination = Destination { prefix: [10, 1, 0, destination as u8].into(), length: 32 };
    (Vni(vni as u32), Route { destination, next_hop })
}
