//! Whole reflectors and the hosts that are connected to them.
//!
//! Owns who announces what where, and so what each host has to see.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metalbond_uring::internals::fabric::{FabricConfig, State, Timers};
use metalbond_uring::internals::shard::Identity;
use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};

use crate::engine::Room;
use crate::names::{Key, Rule};
use crate::network::Network;
use crate::reflector::{Kind, Reflector, Session};
use crate::rng::Rng;
use crate::scenarios::{Fleet, Told};

/// Two connections are two hosts when they have stood for so long, and a bit.
const SHARED_AFTER: Duration = Duration::from_secs(330);

pub struct World {
    network: Network<Reflector>,
    kind: Kind,
    /// What each host announces, whether it is a server, and which VNIs it wants.
    keys: Vec<BTreeSet<Key>>,
    is_server: Vec<bool>,
    wants: Vec<BTreeSet<Vni>>,
    vnis: usize,
    destinations: usize,
    next_incarnation: u64,
    next_session: u64,
    /// Hosts that were connected twice.
    were_dual: BTreeSet<usize>,
    without: Option<Rule>,
    /// Routes of others that each takes.
    pub routes_max: u64,
}

impl World {
    /// Some fleet. `limit` may change what its reflectors have in common.
    pub fn with(seed: u64, without: Option<Rule>, limit: impl FnOnce(&mut Kind)) -> World {
        let mut rng = Rng::new(seed);
        let (reflectors, hosts) = (2 + rng.below(3), 3 + rng.below(4));
        let mut kind = Kind::new(&mut rng);
        limit(&mut kind);
        let servers = [0, 0, 30, 60][rng.below(4)];
        let vnis = 1 + rng.below(4);
        let mut world = World {
            kind,
            keys: vec![BTreeSet::new(); hosts],
            // The first one is a client: so servers too have what it announces with others.
            is_server: (0..hosts).map(|host| rng.chance(servers) && host > 0).collect(),
            wants: (0..hosts)
                .map(|_| (0..vnis).filter(|_| rng.chance(70)).map(|vni| Vni(vni as u32)).collect())
                .collect(),
            vnis,
            destinations: 1 + rng.below(6),
            next_incarnation: 1,
            next_session: 1,
            were_dual: BTreeSet::new(),
            without,
            routes_max: u64::MAX,
            network: Network::new(rng, reflectors, Timers::default().gone),
        };
        (0..reflectors).for_each(|at| world.starts(at));
        world
    }

    /// A process for this place.
    pub fn reflector(&mut self, at: usize, shards: u16, hash_seed: [u64; 4]) -> Reflector {
        let mut config = FabricConfig::new("f", &format!("r{at}")).expect("a name");
        config.incarnation = self.next_incarnation;
        config.hash_seed = hash_seed;
        config.in_flight_max = 1 + self.network.rng.below(5);
        config.routes_max = self.routes_max;
        config.without = self.without;
        self.next_incarnation += 1;
        Reflector::new(self.network.now, &self.kind, shards, config)
    }

    /// How many routes a host has been told of.
    pub fn seen(&self, host: usize) -> usize {
        let of_host = self.sessions().filter(|(_, session)| session.host == host);
        let views = of_host.flat_map(|(_, session)| session.connection.views.values());
        views.map(|view| view.routes.len()).sum()
    }

    fn reflectors(&self) -> impl Iterator<Item = (usize, &Reflector)> {
        let nodes = self.network.nodes.iter().enumerate();
        nodes.filter_map(|(at, node)| Some((at, node.process.as_ref()?)))
    }

    fn sessions(&self) -> impl Iterator<Item = (usize, &Session)> {
        self.reflectors().flat_map(|(at, it)| it.live().map(move |session| (at, session)))
    }

    /// What a connection has to see of a VNI: what some other host announces, and not both are servers.
    fn expected(&self, at: usize, to: &Session, vni: Vni) -> BTreeSet<Route> {
        let stands = |session: &Session| self.network.now.since(session.since) > SHARED_AFTER;
        self.announced(to, vni, |there, from| match self.kind.identity {
            Identity::Connection => from.number != to.number,
            Identity::Address if from.host == to.host => false,
            // Of two behind one address it shows when they have met for long.
            Identity::Address if self.is_beside(from, to) => {
                there == at && stands(from) && stands(to)
            }
            Identity::Address => true,
        })
    }

    /// What it may see: from behind an address that is shared, its own routes and the other one's.
    fn permitted(&self, to: &Session, vni: Vni) -> BTreeSet<Route> {
        self.announced(to, vni, |_, _| true)
    }

    fn is_beside(&self, one: &Session, other: &Session) -> bool {
        self.kind.is_shared(one.host) && self.kind.is_shared(other.host)
    }

    /// What those announce in a VNI that count, at their reflectors.
    fn announced(
        &self,
        to: &Session,
        vni: Vni,
        counts: impl Fn(usize, &Session) -> bool,
    ) -> BTreeSet<Route> {
        let mut expected = BTreeSet::new();
        for (_, from) in self.sessions().filter(|(there, from)| counts(*there, from)) {
            if !(self.is_server[from.host] && self.is_server[to.host]) {
                let counts = |key: &&Key| key.0 == vni && self.kind.permits(from.host, **key);
                let keys = self.keys[from.host].iter().filter(counts);
                expected.extend(keys.map(|key| key.1));
            }
        }
        expected
    }
}

impl Fleet for World {
    type Process = Reflector;

    fn new(seed: u64, without: Option<Rule>) -> World {
        World::with(seed, without, |_| {})
    }

    fn network(&mut self) -> &mut Network<Reflector> {
        &mut self.network
    }

    fn starts(&mut self, at: usize) {
        let hash_seed = [0; 4].map(|_: u64| self.network.rng.next());
        let reflector = self.reflector(at, self.kind.shards, hash_seed);
        self.network.start(at, reflector);
    }

    fn hands_over(&mut self, at: usize) {
        self.hand_over(at);
    }

    fn crashes(&mut self, at: usize) {
        self.network.crash(at);
    }

    fn ends(&mut self, at: usize) {
        let now = self.network.now;
        if let Some(reflector) = &mut self.network.nodes[at].process {
            reflector.leave(now);
            self.network.wake(at);
            self.run_for_s(3);
            let reflector = self.network.nodes[at].process.as_ref();
            assert!(reflector.is_none_or(|reflector| reflector.fabric.has_left()));
            self.crashes(at);
        }
    }

    fn keys(&mut self) -> &mut Vec<BTreeSet<Key>> {
        &mut self.keys
    }

    fn is_connected(&self, host: usize, at: usize) -> bool {
        let reflector = self.network.nodes[at].process.as_ref();
        reflector.is_some_and(|it| it.live().any(|session| session.host == host))
    }

    fn connect(&mut self, host: usize, at: usize) {
        if self.is_connected(host, at) {
            return;
        }
        if self.sessions().any(|(_, session)| session.host == host) {
            self.were_dual.insert(host);
        }
        let (now, number) = (self.network.now, self.next_session);
        let who = (host, &self.kind, self.is_server[host]);
        let has = (self.keys[host].clone(), self.wants[host].clone());
        if let Some(reflector) = &mut self.network.nodes[at].process {
            reflector.connect((now, number), who, has, &mut self.network.rng);
            self.next_session += 1;
            self.network.wake(at);
        }
    }

    fn disconnect(&mut self, host: usize, at: usize) {
        if let Some(reflector) = &mut self.network.nodes[at].process {
            reflector.hang_up(host);
            self.network.wake(at);
        }
    }

    fn changed(&mut self, host: usize, key: Key, adds: bool) {
        for at in 0..self.network.nodes.len() {
            if let Some(reflector) = &mut self.network.nodes[at].process {
                reflector.change(host, key, adds);
                self.network.wake(at);
            }
        }
    }

    fn key(&mut self) -> Key {
        let (vnis, destinations) = (self.vnis, self.destinations);
        let (vni, destination) = (self.below(vnis), self.below(destinations));
        let next_hop = self.below(2);
        key(vni, destination, next_hop)
    }

    fn faults(&mut self) -> Vec<String> {
        let now = self.network.now;
        let mut faults = Vec::new();
        for (at, session) in self.sessions() {
            for vni in &self.wants[session.host] {
                let view = session.connection.views.get(vni);
                let seen = view.map(|view| view.routes.clone()).unwrap_or_default();
                let expected = self.expected(at, session, *vni);
                let may_be = match self.kind.is_shared(session.host) {
                    true => self.permitted(session, *vni),
                    false => expected.clone(),
                };
                if !(seen.is_superset(&expected) && seen.is_subset(&may_be)) {
                    let who = session.host;
                    faults
                        .push(format!("r{at}, host {who}, VNI {vni}: {seen:?}, not {expected:?}"));
                }
            }
        }
        for (at, reflector) in self.reflectors() {
            let status = reflector.status(now);
            // What is longer than before has to wait for room.
            let may_wait = match self.network.engine.room {
                Room::Enough => 0,
                _ => status.full,
            };
            let waits = status.dirty + status.in_flight;
            let is_at_rest = status.state == State::Synced && waits <= may_wait;
            if !is_at_rest || !faults.is_empty() {
                faults.push(format!("r{at}: {status:?}"));
            }
        }
        faults
    }

    /// Where each connection speaks for itself, whoever has two hears what it has said by the other one, as long as that
    /// lasts.
    fn told(&self, but: Option<usize>) -> Told {
        let counts = |host: usize| match self.kind.identity {
            Identity::Address => Some(host) != but && !self.kind.is_shared(host),
            Identity::Connection => Some(host) != but && !self.were_dual.contains(&host),
        };
        let told =
            |(at, session): (usize, &Session)| ((at, session.number), session.connection.updates.1);
        let counted = self.sessions().filter(|(_, session)| counts(session.host));
        counted.map(told).collect::<BTreeMap<_, _>>()
    }
}

/// A route: that VNI, destination and next hop.
pub fn key(vni: usize, destination: usize, next_hop: usize) -> Key {
    let kind = [NextHopType::STANDARD, NextHopType::NAT][destination % 2];
    let next_hop = NextHop {
        address: std::net::Ipv6Addr::from(0x2001_0db8 << 96 | next_hop as u128).into(),
        vni: Vni(0),
        kind,
        nat_port_from: 0,
        nat_port_to: if kind == NextHopType::NAT { 1_000 } else { 0 },
    };
    let destination = match destination {
        0 => Destination { prefix: [0, 0, 0, 0].into(), length: 0 },
        n => Destination { prefix: [10, 1, 0, n as u8].into(), length: 32 },
    };
    (Vni(vni as u32), Route { destination, next_hop })
}
