//! Reflectors with tables that are too simple to be wrong, and hosts that are connected to them.
//!
//! Owns who announces what where, and so what everybody has to see.

use std::collections::BTreeSet;

use super::super::config::{FabricConfig, Rule, Timers};
use super::super::engine::{Effect, PublishError, Record};
use super::super::own::Key;
use super::super::protocol::{self, Protocol};
use super::super::status::{State, Status};
use super::homes::Homes;
use super::network::{Network, Process};
use super::rng::Rng;
use super::scenarios::{Fleet, Told};
use crate::types::{Destination, NextHop, NextHopType, Route, Time, Vni};

/// Routes that there may be.
const VNIS: usize = 2;
const DESTINATIONS: usize = 3;
/// Tables that have so much to do want no more for now.
const CALLS_MAX: usize = 3;

pub(super) struct Reflector {
    protocol: Protocol,
    homes: Homes,
    incarnation: u64,
    /// Microseconds of the run before its own clock began: the end of another one may have been earlier.
    epoch: u64,
}

/// The uptime of a process that starts.
const BORN: Time = Time(1_000_000);

impl Reflector {
    /// A time of the run, by the clock of this process.
    fn local(&self, now: Time) -> Time {
        Time(now.0 - self.epoch)
    }

    fn tell_homes(&mut self) {
        self.homes.calls.extend(std::iter::from_fn(|| self.protocol.take_home_call()));
    }
}

impl Process for Reflector {
    fn linked(&mut self, now: Time) {
        self.protocol.linked(self.local(now));
    }

    fn unlinked(&mut self, now: Time) {
        self.protocol.unlinked(self.local(now));
    }

    fn found(&mut self, now: Time, record: &Record<'_>) {
        self.protocol.found(self.local(now), record);
    }

    fn opened(&mut self, now: Time, pending: u64) {
        self.protocol.opened(self.local(now), pending);
    }

    fn record(&mut self, now: Time, record: &Record<'_>) {
        self.protocol.record(self.local(now), record);
        self.tell_homes();
    }

    fn acked(&mut self, now: Time, token: u64, sequence: u64) {
        self.protocol.acked(self.local(now), token, sequence);
    }

    fn refused(&mut self, now: Time, token: u64, error: &PublishError) {
        self.protocol.refused(self.local(now), token, error);
    }

    fn purged(&mut self, _now: Time, token: u64) {
        self.protocol.purged(token);
    }

    fn wants_feed(&self) -> bool {
        !self.protocol.needs_settled() && self.homes.calls.len() <= CALLS_MAX
    }

    fn turn(&mut self, now: Time) -> Vec<Effect> {
        loop {
            self.tell_homes();
            let calls = self.homes.calls.len();
            let (is_full, is_settled) = (calls > CALLS_MAX, calls == 0);
            let homes = protocol::Homes { is_full, is_settled, refused: 0 };
            self.protocol.turn(self.local(now), homes);
            self.tell_homes();
            if !self.protocol.needs_settled() || !self.homes.calls.is_empty() {
                return std::iter::from_fn(|| self.protocol.take_effect()).collect();
            }
        }
    }

    fn next_wakeup(&self) -> Time {
        Time(self.protocol.next_wakeup().0.saturating_add(self.epoch))
    }

    fn has_work(&self, _now: Time) -> bool {
        !self.homes.calls.is_empty()
    }

    fn work(&mut self, _now: Time, _rng: &mut Rng) {
        for (key, by) in self.homes.obey() {
            self.protocol.published(key.0, &key.1, by);
        }
    }
}

pub(super) struct World {
    network: Network<Reflector>,
    /// What each host announces, and the reflectors that it is connected to.
    keys: Vec<BTreeSet<Key>>,
    places: Vec<BTreeSet<usize>>,
    next_incarnation: u64,
    without: Option<Rule>,
}

impl World {
    /// A process starts, with another name than usual.
    pub(super) fn starts_as(&mut self, at: usize, name: &str) {
        let rng = &mut self.network.rng;
        let mut config = FabricConfig::new("f", name).unwrap();
        config.incarnation = self.next_incarnation;
        config.hash_seed = [0; 4].map(|_: u64| rng.next());
        config.in_flight_max = 1 + rng.below(5);
        config.without = self.without;
        self.next_incarnation += 1;
        let incarnation = config.incarnation;
        let epoch = self.network.now.0 - BORN.0;
        let protocol = Protocol::new(BORN, config);
        let homes = Homes::default();
        self.network.start(at, Reflector { protocol, homes, incarnation, epoch });
    }

    /// The clock of the next process that starts says this.
    pub(super) fn begins_as(&mut self, incarnation: u64) {
        self.next_incarnation = incarnation;
    }

    fn change_at(&mut self, host: usize, at: usize, key: Key, adds: bool) {
        let address = [10, 9, 0, host as u8].into();
        if let Some(reflector) = &mut self.network.nodes[at].process {
            let by = reflector.homes.change(host, address, key, adds);
            reflector.protocol.published(key.0, &key.1, by);
            self.network.wake(at);
        }
    }

    /// The engine does not let this one remove what others left.
    pub(super) fn may_not_purge(&mut self, at: usize) {
        let reflector = self.network.nodes[at].process.as_mut().expect("it is running");
        reflector.protocol.may_not_purge();
    }

    pub(super) fn sees(&self, at: usize, key: Key) -> bool {
        let reflector = self.network.nodes[at].process.as_ref();
        reflector.is_some_and(|reflector| reflector.homes.sees(key))
    }

    pub(super) fn status(&self, at: usize) -> Status {
        let reflector = self.network.nodes[at].process.as_ref().expect("it is running");
        reflector.protocol.status(reflector.local(self.network.now))
    }
}

impl Fleet for World {
    type Process = Reflector;

    fn new(seed: u64, without: Option<Rule>) -> World {
        let mut rng = Rng::new(seed);
        let (reflectors, hosts) = (2 + rng.below(3), 3 + rng.below(3));
        let network = Network::new(rng, reflectors, Timers::default().gone);
        let mut world = World {
            network,
            keys: vec![BTreeSet::new(); hosts],
            places: vec![BTreeSet::new(); hosts],
            next_incarnation: 1,
            without,
        };
        (0..reflectors).for_each(|at| world.starts(at));
        world
    }

    fn network(&mut self) -> &mut Network<Reflector> {
        &mut self.network
    }

    fn starts(&mut self, at: usize) {
        self.starts_as(at, &format!("r{at}"));
    }

    fn crashes(&mut self, at: usize) {
        self.network.crash(at);
        for places in &mut self.places {
            places.remove(&at);
        }
    }

    fn ends(&mut self, at: usize) {
        if let Some(reflector) = &mut self.network.nodes[at].process {
            let now = reflector.local(self.network.now);
            reflector.protocol.leave(now);
            self.network.wake(at);
            self.run_for_s(3);
            let reflector = self.network.nodes[at].process.as_ref();
            assert!(reflector.is_none_or(|reflector| reflector.protocol.has_left()));
            self.crashes(at);
        }
    }

    fn keys(&mut self) -> &mut Vec<BTreeSet<Key>> {
        &mut self.keys
    }

    fn is_connected(&self, host: usize, at: usize) -> bool {
        self.places[host].contains(&at)
    }

    fn connect(&mut self, host: usize, at: usize) {
        if self.network.nodes[at].process.is_some() && self.places[host].insert(at) {
            for key in self.keys[host].clone() {
                self.change_at(host, at, key, true);
            }
        }
    }

    fn disconnect(&mut self, host: usize, at: usize) {
        if self.places[host].remove(&at) {
            for key in self.keys[host].clone() {
                self.change_at(host, at, key, false);
            }
        }
    }

    fn changed(&mut self, host: usize, key: Key, adds: bool) {
        for at in self.places[host].clone() {
            self.change_at(host, at, key, adds);
        }
    }

    fn key(&mut self) -> Key {
        key_of(self.below(VNIS), self.below(DESTINATIONS))
    }

    fn faults(&mut self) -> Vec<String> {
        let connected = self.keys.iter().zip(&self.places).filter(|(_, places)| !places.is_empty());
        let truth: BTreeSet<Key> = connected.flat_map(|(keys, _)| keys.iter().copied()).collect();
        let mut faults = Vec::new();
        for (at, node) in self.network.nodes.iter().enumerate() {
            let Some(reflector) = &node.process else { continue };
            let status = reflector.protocol.status(reflector.local(self.network.now));
            for key in (0..VNIS * DESTINATIONS).map(|at| key_of(at % VNIS, at / VNIS)) {
                let is = truth.contains(&key);
                if reflector.homes.sees(key) != is {
                    let said = reflector.homes.said(key);
                    faults.push(format!("r{at} {}/{}: {is}, but {said}, {status:?}", key.0, key.1));
                }
            }
            if status.state != State::Synced || status.dirty + status.in_flight > 0 {
                faults.push(format!("r{at}: {status:?}"));
            }
        }
        faults
    }

    /// To somebody who announces nothing, at each reflector.
    fn told(&self, _but: Option<usize>) -> Told {
        let nodes = self.network.nodes.iter().enumerate();
        let running = nodes.filter_map(|(at, node)| Some((at, node.process.as_ref()?)));
        running.map(|(at, it)| ((at, it.incarnation), it.homes.added + it.homes.removed)).collect()
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
