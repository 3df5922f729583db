//! Reflectors with tables that are too simple to be wrong, and hosts that are connected to them.
//!
//! Owns who announces what where, and so what everybody has to see.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};

use super::super::config::{FabricConfig, Rule, Timers};
use super::super::engine::{Effect, PublishError, Record};
use super::super::own::Key;
use super::super::protocol::{self, Protocol};
use super::super::status::{State, Status};
use super::homes::Homes;
use super::network::{Network, Process};
use super::rng::Rng;
use crate::types::{Destination, NextHop, NextHopType, Route, Time, Vni};

/// Routes that there may be.
const VNIS: usize = 2;
const DESTINATIONS: usize = 3;
/// Tables that have so much to do want no more for now.
const CALLS_MAX: usize = 3;

pub(super) struct Reflector {
    pub protocol: Protocol,
    pub homes: Homes,
}

impl Reflector {
    fn tell_homes(&mut self) {
        self.homes.calls.extend(std::iter::from_fn(|| self.protocol.take_home_call()));
    }

    pub(super) fn status(&self, now: Time) -> Status {
        self.protocol.status(now)
    }
}

impl Process for Reflector {
    fn linked(&mut self, now: Time) {
        self.protocol.linked(now);
    }

    fn unlinked(&mut self, now: Time) {
        self.protocol.unlinked(now);
    }

    fn found(&mut self, now: Time, record: &Record<'_>) {
        self.protocol.found(now, record);
    }

    fn opened(&mut self, now: Time, pending: u64) {
        self.protocol.opened(now, pending);
    }

    fn record(&mut self, now: Time, record: &Record<'_>) {
        self.protocol.record(now, record);
        self.tell_homes();
    }

    fn acked(&mut self, now: Time, token: u64, sequence: u64) {
        self.protocol.acked(now, token, sequence);
    }

    fn refused(&mut self, now: Time, token: u64, error: &PublishError) {
        self.protocol.refused(now, token, error);
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
            let homes = protocol::Homes { is_full: calls > CALLS_MAX, is_settled: calls == 0 };
            self.protocol.turn(now, homes);
            self.tell_homes();
            if !self.protocol.needs_settled() || !self.homes.calls.is_empty() {
                return std::iter::from_fn(|| self.protocol.take_effect()).collect();
            }
        }
    }

    fn next_wakeup(&self) -> Time {
        self.protocol.next_wakeup()
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

pub(super) struct Host {
    pub keys: BTreeSet<Key>,
    /// Reflectors that it is connected to.
    pub at: BTreeSet<usize>,
}

pub(super) struct World {
    network: Network<Reflector>,
    pub hosts: Vec<Host>,
    next_incarnation: u64,
    without: Option<Rule>,
}

impl Deref for World {
    type Target = Network<Reflector>;

    fn deref(&self) -> &Network<Reflector> {
        &self.network
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Network<Reflector> {
        &mut self.network
    }
}

impl World {
    pub(super) fn new(seed: u64, without: Option<Rule>) -> World {
        let mut rng = Rng::new(seed);
        let (reflectors, hosts) = (2 + rng.below(3), 2 + rng.below(4));
        let network = Network::new(rng, reflectors, Timers::default().gone);
        let host = |_| Host { keys: BTreeSet::new(), at: BTreeSet::new() };
        let hosts = (0..hosts).map(host).collect();
        let mut world = World { network, hosts, next_incarnation: 1, without };
        (0..reflectors).for_each(|at| world.starts(at));
        world
    }

    /// A process starts.
    pub(super) fn starts(&mut self, at: usize) {
        self.starts_as(at, &format!("r{at}"));
    }

    /// The same, with another name.
    pub(super) fn starts_as(&mut self, at: usize, name: &str) {
        let mut config = FabricConfig::new("f", name).unwrap();
        config.incarnation = self.next_incarnation;
        config.hash_seed = [0; 4].map(|_: u64| self.rng.next());
        config.in_flight_max = 1 + self.rng.below(5);
        config.without = self.without;
        self.next_incarnation += 1;
        let protocol = Protocol::new(self.now, config);
        self.start(at, Reflector { protocol, homes: Homes::default() });
    }

    /// A process ends, without a word, and whoever was connected has lost it.
    pub(super) fn crashes(&mut self, at: usize) {
        self.crash(at);
        for host in &mut self.hosts {
            host.at.remove(&at);
        }
    }

    /// A host comes to a reflector, with all that it has.
    pub(super) fn connect(&mut self, host: usize, at: usize) {
        if self.nodes[at].process.is_some() && self.hosts[host].at.insert(at) {
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
        if let Some(reflector) = &mut self.nodes[at].process {
            let by = reflector.homes.change(host, address, key, adds);
            reflector.protocol.published(key.0, &key.1, by);
            self.wake(at);
        }
    }

    pub(super) fn any_node(&mut self) -> usize {
        let nodes = self.nodes.len();
        self.rng.below(nodes)
    }

    pub(super) fn any_host(&mut self) -> usize {
        let hosts = self.hosts.len();
        self.rng.below(hosts)
    }

    /// Some route.
    pub(super) fn key(&mut self) -> Key {
        key_of(self.rng.below(VNIS), self.rng.below(DESTINATIONS))
    }

    /// What is wrong with what reflectors see.
    pub(super) fn faults(&self) -> Vec<String> {
        let connected = self.hosts.iter().filter(|host| !host.at.is_empty());
        let truth: BTreeSet<Key> = connected.flat_map(|host| host.keys.iter().copied()).collect();
        let mut faults = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(reflector) = &node.process else { continue };
            let status = reflector.status(self.now);
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

    /// Messages to whoever stays at these reflectors.
    pub(super) fn messages(&self, at: &[usize]) -> u64 {
        let reflectors = at.iter().filter_map(|at| self.nodes[*at].process.as_ref());
        reflectors.map(|reflector| reflector.homes.added + reflector.homes.removed).sum()
    }

    pub(super) fn sees(&self, at: usize, key: Key) -> bool {
        self.nodes[at].process.as_ref().is_some_and(|reflector| reflector.homes.sees(key))
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
