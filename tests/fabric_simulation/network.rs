//! Reflectors, their connections to the engine, and all that may go wrong with those, in virtual time.
//!
//! Owns the order in which things happen, which one seed decides. Also part of the model in `src/fabric`, which is why
//! names come from `super`: what a reflector is, this does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::engine::Engine;
use super::names::{Effect, Publish, PublishError, Record, Time};
use super::rng::Rng;

/// How long a publication waits for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Those of all leases of the fabric "f".
const LEASES: &str = "mb.f.l.*";

/// A running reflector, as its driver sees it.
pub trait Process {
    fn linked(&mut self, now: Time);
    fn unlinked(&mut self, now: Time);
    fn found(&mut self, now: Time, record: &Record<'_>);
    fn opened(&mut self, now: Time, pending: u64);
    fn record(&mut self, now: Time, record: &Record<'_>);
    fn acked(&mut self, now: Time, token: u64, sequence: u64);
    fn refused(&mut self, now: Time, token: u64, error: &PublishError);
    fn purged(&mut self, now: Time, token: u64);
    fn wants_feed(&self) -> bool;
    fn turn(&mut self, now: Time) -> Vec<Effect>;
    fn next_wakeup(&self) -> Time;
    /// Whether there is something to be done beside that.
    fn has_work(&self, now: Time) -> bool;
    /// Does some of it.
    fn work(&mut self, now: Time, rng: &mut Rng);
}

/// Something that is on its way.
#[derive(Debug)]
enum Event {
    /// The engine gets this from a reflector's connection.
    Arrives {
        from: usize,
        link: u64,
        what: Publish,
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
    /// A reflector does something else.
    Works(usize),
    /// A reflector is due.
    Turn(usize),
    /// A reflector's connection is made.
    Links(usize),
}

/// The place of a reflector.
pub struct Node<P> {
    /// None: it is not running.
    pub process: Option<P>,
    /// It can reach the engine.
    pub is_reachable: bool,
    /// The feed is there, and brings nothing.
    pub is_stalled: bool,
    link: Option<u64>,
    /// Which feed, and how far it was read.
    feed: Option<(u64, u64)>,
    /// What the connection carries comes out in order.
    last_arrival: Time,
    turn_at: Time,
    works: bool,
    /// Publications that were not answered.
    waiting: BTreeSet<u64>,
}

pub struct Network<P> {
    pub rng: Rng,
    pub now: Time,
    pub engine: Engine,
    pub is_engine_up: bool,
    pub nodes: Vec<Node<P>>,
    /// Everything takes long.
    pub is_slow: bool,
    /// Of a hundred records the feeds bring so many to nobody.
    pub skips: usize,
    events: BTreeMap<(Time, u64), Event>,
    next_event: u64,
    next_link: u64,
}

impl<P: Process> Network<P> {
    /// So many places, none of them running.
    pub fn new(mut rng: Rng, nodes: usize, marker_lifetime: Duration) -> Network<P> {
        let node = |_| Node {
            process: None,
            is_reachable: true,
            is_stalled: false,
            link: None,
            feed: None,
            last_arrival: Time(0),
            turn_at: Time::NEVER,
            works: false,
            waiting: BTreeSet::new(),
        };
        Network {
            is_slow: rng.chance(30),
            rng,
            now: Time(1_000_000_000),
            engine: Engine::new(marker_lifetime),
            is_engine_up: true,
            skips: 0,
            nodes: (0..nodes).map(node).collect(),
            events: BTreeMap::new(),
            next_event: 0,
            next_link: 0,
        }
    }

    /// A process starts.
    pub fn start(&mut self, at: usize, process: P) {
        self.nodes[at].process = Some(process);
        self.links(at);
        self.wake(at);
    }

    /// A process ends, without a word.
    pub fn crash(&mut self, at: usize) -> Option<P> {
        self.unlink(at);
        self.nodes[at].process.take()
    }

    /// The connection to the engine is cut. What was on its way may arrive much later, or never.
    pub fn unlink(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(link) = node.link.take() else { return };
        node.feed = None;
        node.is_stalled = false;
        node.waiting.clear();
        if let Some(process) = &mut node.process {
            process.unlinked(self.now);
        }
        let is_of = |event: &Event| match event {
            Event::Arrives { from, link: it, .. } | Event::Purges { from, link: it, .. } => {
                *from == at && *it == link
            }
            _ => false,
        };
        let late = self.events.iter().filter(|(_, event)| is_of(event)).map(|(key, _)| *key);
        for key in late.collect::<Vec<_>>() {
            let event = self.events.remove(&key).expect("it is there");
            if self.rng.chance(50) {
                let most = [10, 1_000, 15_000_000][self.rng.below(3)];
                let wait = self.rng.below(most) as u64;
                self.push(Time(self.now.0 + wait), event);
            }
        }
        self.wake(at);
    }

    /// It tries to connect.
    pub fn links(&mut self, at: usize) {
        let wait = 1_000 + self.rng.below(2_000_000) as u64;
        self.push(Time(self.now.0 + wait), Event::Links(at));
    }

    pub fn engine_goes(&mut self) {
        self.is_engine_up = false;
        (0..self.nodes.len()).for_each(|at| self.unlink(at));
    }

    pub fn engine_comes(&mut self) {
        self.is_engine_up = true;
        (0..self.nodes.len()).for_each(|at| self.links(at));
    }

    pub fn cut_off(&mut self, at: usize) {
        self.nodes[at].is_reachable = false;
        self.unlink(at);
    }

    pub fn heal(&mut self, at: usize) {
        self.nodes[at].is_reachable = true;
        self.links(at);
    }

    /// Something was changed there: it has to do something.
    pub fn wake(&mut self, at: usize) {
        let soon = Time(self.now.0 + 1 + self.rng.below(200) as u64);
        self.turn_at(at, soon);
        self.works_if_due(at);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now.after(time);
        loop {
            let expiry = if self.is_engine_up { self.engine.next_expiry() } else { Time::NEVER };
            let next = self.events.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
            if next.min(expiry) > until {
                break;
            }
            self.now = self.now.max(next.min(expiry));
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
            Event::Arrives { from, link, what } => {
                let token = what.token;
                if self.is_engine_up {
                    let answer = self.engine.publish(self.now, &what).map(Some);
                    self.answer(from, link, token, answer);
                    self.feed_all();
                }
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
                let Some(process) = node.process.as_mut().filter(|_| is_ours) else { return };
                match answer {
                    Ok(Some(sequence)) => process.acked(self.now, token, sequence),
                    Ok(None) => process.purged(self.now, token),
                    Err(error) => process.refused(self.now, token, &error),
                }
                self.wake(to);
            }
            Event::Opens { to, link } => self.opens(to, link),
            Event::Feeds { to, feed } => self.feeds(to, feed),
            Event::Works(at) => {
                self.nodes[at].works = false;
                let Some(process) = &mut self.nodes[at].process else { return };
                if process.has_work(self.now) {
                    process.work(self.now, &mut self.rng);
                    self.wake(at);
                }
            }
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
                    && let Some(process) = &mut node.process
                {
                    self.next_link += 1;
                    node.link = Some(self.next_link);
                    node.last_arrival = self.now;
                    process.linked(self.now);
                    self.wake(at);
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
        let is_ours = node.link == Some(link);
        let Some(process) = node.process.as_mut().filter(|_| is_ours) else { return };
        self.engine.expire(self.now);
        for (sequence, kept) in self.engine.list(LEASES) {
            process.found(self.now, &kept.as_record(self.now, sequence, 0));
        }
        process.opened(self.now, self.engine.pending(0));
        self.next_link += 1;
        node.feed = Some((self.next_link, 0));
        node.is_stalled = false;
        self.feed_all();
        self.wake(to);
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
        let node = &mut self.nodes[to];
        let Some((_, place)) = node.feed.filter(|(it, _)| *it == feed) else { return };
        let Some(process) = &mut node.process else { return };
        if node.is_stalled || !self.is_engine_up {
            return;
        }
        let Some((sequence, kept)) = self.engine.after(place) else { return };
        if !process.wants_feed() {
            return self.push(Time(self.now.0 + 1_000), Event::Feeds { to, feed });
        }
        let pending = self.engine.pending(sequence);
        if self.skips == 0 || !self.rng.chance(self.skips) {
            process.record(self.now, &kept.as_record(self.now, sequence, pending));
        }
        node.feed = Some((feed, sequence));
        if pending > 0 {
            let at = Time(self.now.0 + 1 + self.rng.below(100) as u64);
            self.push(at, Event::Feeds { to, feed });
        }
        self.wake(to);
    }

    fn turn(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.turn_at = Time::NEVER;
        let link = node.link;
        let Some(process) = &mut node.process else { return };
        let effects = process.turn(self.now);
        let next = process.next_wakeup();
        let has_work = process.has_work(self.now);
        assert!(next > self.now || has_work, "it has done what is due");
        for effect in effects {
            self.carry_out(at, link, effect);
        }
        self.turn_at(at, next.max(Time(self.now.0 + 200)));
        self.works_if_due(at);
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
            Effect::Publish(what) => {
                self.waits(at, link, what.token);
                self.push(arrival, Event::Arrives { from: at, link, what });
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

    fn turn_at(&mut self, at: usize, time: Time) {
        if time < self.nodes[at].turn_at {
            self.nodes[at].turn_at = time;
            self.push(time, Event::Turn(at));
        }
    }

    fn works_if_due(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let has_work = node.process.as_ref().is_some_and(|process| process.has_work(self.now));
        if has_work && !std::mem::replace(&mut node.works, true) {
            let most = if self.is_slow { 100_000 } else { 200 };
            let soon = Time(self.now.0 + 1 + self.rng.below(most) as u64);
            self.push(soon, Event::Works(at));
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
}
