//! The node, its servers and everything between them, driven by one random sequence.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use metalbond_uring::internals::shard::{Mail, Piece, Shard, ShardConfig};
use metalbond_uring::internals::wire::Deframer;
use metalbond_uring::types::{Action, Destination, NextHop, NextHopType, PeerId, Route, Time, Vni};

use crate::config::shard_config;
use crate::installing::{Event, Installing};
use crate::link::Link;
use crate::memory::{Maybe, Memory};
use crate::rng::Rng;
use crate::server::{Core, Kind, Player, Table};

/// A server as the world sees it.
pub struct Server {
    pub kind: Kind,
    pub number: u64,
    pub is_up: bool,
    /// It reads, but answers no KEEPALIVE.
    pub is_mute: bool,
    /// Nothing moves to or from it.
    pub is_stuck: bool,
    /// It reads rarely.
    pub is_slow: bool,
    pub table: Table,
    pub core: Option<Core>,
    pub link: Option<Link>,
    pub memory: Memory,
}

pub struct World {
    pub rng: Rng,
    pub now: Time,
    pub stale_time: Duration,
    /// The node's shards; the first one has its route client and its servers.
    pub shards: Vec<Shard>,
    pub mail: Vec<Vec<VecDeque<Mail>>>,
    pub client: PeerId,
    pub servers: Vec<Server>,
    pub wants: BTreeMap<Vni, Time>,
    pub announced: Table,
    pub vnis: usize,
    pub destinations: usize,
    pub churn: usize,

    /// What the route client was told.
    pub view: Table,
    pub client_frames: Deframer,
    pub client_in_flight: Option<Piece>,
    /// When it was taken.
    pub client_in_flight_since: Time,
    pub client_is_slow: bool,
    pub installing: Installing,
    /// UNSUBSCRIBE marks that the route client has still to get.
    pub marks: Vec<Vni>,
    pub away_since: Option<Time>,
    pub may_be_synchronized: bool,
    pub synchronized: bool,
    pub tally: BTreeMap<&'static str, u64>,
}

fn config(id: u16, shards: u16, keepalive_interval_s: u32, stale_time: Duration) -> ShardConfig {
    ShardConfig { keepalive_interval_s, stale_time, ..shard_config(id, shards) }
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let stale_time = Duration::from_secs([0, 0, 3, 30, 120, 3_600][rng.below(6)]);
        let count = [1, 1, 2][rng.below(3)];
        let now = Time(1);
        let mut shards: Vec<Shard> =
            (0..count).map(|id| Shard::new(config(id, count, 5, stale_time), now)).collect();
        let client = shards[0].attach_client(now);
        let servers = (0..1 + rng.below(3)).map(|at| Server {
            kind: [Kind::Field, Kind::Ours, Kind::Core][rng.below(3)],
            number: 10 + at as u64,
            is_up: false,
            is_mute: false,
            is_stuck: false,
            is_slow: false,
            table: Table::new(),
            core: None,
            link: None,
            memory: Memory::new(stale_time),
        });
        let mut world = World {
            now,
            stale_time,
            mail: (0..count).map(|_| (0..count).map(|_| VecDeque::new()).collect()).collect(),
            shards,
            client,
            servers: servers.collect(),
            wants: BTreeMap::new(),
            announced: Table::new(),
            vnis: 1 + rng.below(4),
            destinations: 1 + rng.below(12),
            churn: [1, 3, 10][rng.below(3)],
            view: Table::new(),
            client_frames: Deframer::new(),
            client_in_flight: None,
            client_in_flight_since: now,
            client_is_slow: false,
            installing: Installing::new(seed),
            marks: Vec::new(),
            away_since: None,
            may_be_synchronized: false,
            synchronized: false,
            tally: BTreeMap::new(),
            rng,
        };
        for at in 0..world.servers.len() {
            if world.rng.chance(80) {
                world.start(at);
            }
        }
        world
    }

    /// What happened, and how often.
    pub fn tally(&self) -> String {
        let mut text = format!("{:?}", self.now);
        for (what, count) in &self.tally {
            let _ = write!(text, " {what}: {count}");
        }
        text
    }

    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Some storms, each followed by a look, and by a rest at which little is left open.
    pub fn run(&mut self) {
        for _ in 0..5 {
            for _ in 0..300 + self.rng.below(700) {
                self.step();
            }
            self.settle();
            self.check();
            if self.rng.chance(60) {
                self.rest();
            }
        }
        self.rest();
        if self.rng.chance(50) {
            self.drain();
        }
    }

    fn step(&mut self) {
        let at = self.rng.below(self.servers.len());
        match self.rng.below(100) {
            0..12 => self.wish(),
            12..30 => self.server_news(at),
            30..34 => self.mishap(at),
            34..37 => self.client_is_slow = self.rng.chance(30),
            37..43 => {
                let ms = [50, 300, 1_000, 4_000][self.rng.below(4)];
                let time = Duration::from_millis(1 + self.rng.below(ms) as u64);
                self.pass(time, true);
            }
            43 if self.rng.chance(2 * self.churn) => {
                // Nobody is heard meanwhile.
                let seconds = [5, 20, 200][self.rng.below(3)];
                let time = Duration::from_secs(1 + self.rng.below(seconds) as u64);
                self.pass(time, false);
            }
            44 => self.dial(at),
            _ => self.move_something(at),
        }
    }

    fn route(&mut self, hop: u16) -> (Vni, Route) {
        let vni = Vni(self.rng.below(self.vnis) as u32);
        let number = self.rng.below(self.destinations) as u8;
        (vni, route(destination(number), hop))
    }

    /// What the node itself wants.
    fn wish(&mut self) {
        let hop = 8 + self.rng.below(2) as u16;
        let (vni, own) = self.route(hop);
        match self.rng.below(14) {
            0..5 if !self.wants.contains_key(&vni) => self.want(vni),
            5..8 if self.wants.contains_key(&vni) => self.want_no_more(vni),
            8..11 => self.announce(vni, own),
            11 if self.wants.contains_key(&vni) => {
                self.want_no_more(vni);
                self.want(vni);
            }
            12 if self.rng.chance(20) => {
                for number in 0..400 {
                    let prefix = [172, 16, (number >> 8) as u8, number as u8].into();
                    self.announce(vni, route(Destination { prefix, length: 32 }, 9));
                }
                self.count("bulk");
            }
            13 => self.installing.events.push_back(Event::Replay(vni)),
            _ => {}
        }
        self.after_call();
    }

    fn want(&mut self, vni: Vni) {
        let now = self.now;
        self.wants.insert(vni, now);
        self.links().for_each(|link| link.wants(now, vni));
        self.shards[0].own_subscribe(now, vni);
    }

    fn want_no_more(&mut self, vni: Vni) {
        self.wants.remove(&vni);
        self.marks.push(vni);
        for server in &mut self.servers {
            server.memory.forget_vni(vni);
            if let Some(link) = &mut server.link {
                link.wants_no_more(vni);
            }
        }
        self.shards[0].own_unsubscribe(self.now, vni);
        self.count("unsubscribed");
    }

    fn announce(&mut self, vni: Vni, own: Route) {
        let action = match self.announced.insert((vni, own)) {
            true => Action::Add,
            false => Action::Remove,
        };
        if action == Action::Remove {
            self.announced.remove(&(vni, own));
        }
        self.installing.events.push_back(Event::Own(action, vni, own));
        self.shards[0].own_change(self.now, action, vni, own);
    }

    /// A server's table changes.
    fn server_news(&mut self, at: usize) {
        let hop = 1 + self.rng.below(2) as u16;
        for _ in 0..1 + self.rng.below(4) {
            let key = self.route(hop);
            let action = if self.rng.chance(60) { Action::Add } else { Action::Remove };
            self.server_changes(at, action, key);
        }
    }

    fn server_changes(&mut self, at: usize, action: Action, (vni, route): (Vni, Route)) {
        let now = self.now;
        let server = &mut self.servers[at];
        let is_news = match action {
            Action::Add => server.table.insert((vni, route)),
            Action::Remove => server.table.remove(&(vni, route)),
        };
        if !is_news {
            return;
        }
        if let Some(core) = &mut server.core {
            core.changed(now, action, vni, route);
        }
        if let Some(player) = server.link.as_mut().and_then(|link| link.player.as_mut()) {
            player.changed(action, vni, route);
        }
    }

    /// Something goes wrong with a server, or right again.
    fn mishap(&mut self, at: usize) {
        let keeps = [0, 50, 100][self.rng.below(3)];
        match self.rng.below(100) {
            what if what < self.churn => {
                self.stop(at);
                let old = std::mem::take(&mut self.servers[at].table);
                let kept = old.into_iter().filter(|_| self.rng.chance(keeps)).collect();
                self.servers[at].table = kept;
                self.count("restarted");
            }
            what if what < 2 * self.churn => self.break_link(at),
            what if what < 3 * self.churn => self.servers[at].is_stuck = true,
            what if what < 4 * self.churn => self.servers[at].is_mute = true,
            60..70 => self.servers[at].is_slow = true,
            what if what < 4 * self.churn + 3 => self.flap(at),
            // It is removed by the operator, and added again.
            what if what < 4 * self.churn + 5 => self.remove(at),
            70.. => self.mend(at),
            _ => {}
        }
    }

    fn mend(&mut self, at: usize) {
        let server = &mut self.servers[at];
        (server.is_stuck, server.is_mute, server.is_slow) = (false, false, false);
        if let Some(player) = server.link.as_mut().and_then(|link| link.player.as_mut()) {
            player.unmute();
        }
        if !server.is_up {
            self.start(at);
        }
    }

    fn start(&mut self, at: usize) {
        let now = self.now;
        let server = &mut self.servers[at];
        server.is_up = true;
        if server.kind == Kind::Core {
            let shard = Shard::new(config(0, 1, 86_400, Duration::ZERO), now);
            server.core = Some(Core::new(shard, now));
            for &(vni, route) in &server.table {
                let core = server.core.as_mut().expect("just made");
                core.changed(now, Action::Add, vni, route);
            }
        }
    }

    fn stop(&mut self, at: usize) {
        self.servers[at].is_up = false;
        self.break_link(at);
        self.servers[at].core = None;
    }

    pub fn break_link(&mut self, at: usize) {
        if let Some(link) = &self.servers[at].link {
            let id = link.id;
            self.shards[0].read_ended(self.now, id, Ok(()));
            self.after_call();
        }
    }

    /// It comes and goes.
    fn flap(&mut self, at: usize) {
        for _ in 0..2 + self.rng.below(6) {
            self.mend(at);
            self.dial(at);
            let time = Duration::from_millis(50 + self.rng.below(2_000) as u64);
            self.pass(time, true);
            self.break_link(at);
        }
        self.count("flapped");
    }

    /// The node wants no more of a server, and later does again, as of another one.
    fn remove(&mut self, at: usize) {
        let now = self.now;
        let server = &mut self.servers[at];
        server.memory.lost.clear();
        self.shards[0].forget_server(now, server.number);
        if let Some(link) = &self.servers[at].link {
            let id = link.id;
            self.shards[0].hang_up(now, id);
        }
        self.after_call();
        let server = &mut self.servers[at];
        server.memory.lost.clear();
        server.number += 10;
        self.count("removed");
    }

    fn dial(&mut self, at: usize) {
        let now = self.now;
        let server = &mut self.servers[at];
        if server.link.is_some() {
            return;
        }
        let remote = "[::1]:4711".parse().expect("an address");
        if !server.is_up {
            let nobody = self.servers.iter().all(|server| server.link.is_none());
            if nobody && self.rng.chance(20) {
                self.shards[0].servers_away(now);
                self.away_since.get_or_insert(now);
                self.look_at_former_run();
            }
            return;
        }
        let id = self.shards[0].dialled(now, remote, server.number);
        let player = (server.kind != Kind::Core).then(|| Player::new(server.kind));
        server.link = Some(Link::new(id, player, server.kind != Kind::Field));
        if let Some(core) = &mut server.core {
            core.node = Some(core.shard.accept(now, remote));
            core.closed = false;
        }
        self.after_call();
        self.count("dialled");
    }

    fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.servers.iter_mut().filter_map(|server| server.link.as_mut())
    }

    /// Time passes. Bytes move meanwhile, if `moves`.
    fn pass(&mut self, time: Duration, moves: bool) {
        let end = self.now.after(time);
        loop {
            self.observe_time();
            self.turn();
            if moves {
                self.move_all(30);
            }
            let wakeups = self.shards.iter().map(Shard::next_wakeup);
            let next = wakeups.min().expect("there is a shard");
            if next > end {
                break;
            }
            self.now = self.now.max(next);
        }
        self.now = end;
        self.observe_time();
        self.turn();
    }

    /// Everything that is under way arrives; no time passes but what pacing and handshakes take.
    fn settle(&mut self) {
        self.client_is_slow = false;
        self.servers.iter_mut().for_each(|server| server.is_slow = false);
        self.turn();
        for round in 0.. {
            assert!(round < 1_000, "it does not come to rest");
            while self.move_all(1_000) {}
            let next = self.shards.iter().map(Shard::next_wakeup).min().expect("there is a shard");
            if next > self.now.after(Duration::from_millis(50)) {
                break;
            }
            self.now = self.now.max(next);
            self.observe_time();
            self.turn();
        }
    }

    /// The node is about to end: whatever becomes of its servers, nothing is withdrawn.
    fn drain(&mut self) {
        let before = self.view.clone();
        for shard in &mut self.shards {
            shard.drain(self.now, usize::MAX);
        }
        for at in 0..self.servers.len() {
            self.break_link(at);
        }
        self.pass(Duration::from_secs(4_000), true);
        assert_eq!(self.view, before);
        self.installing.check(&before, self.synchronized);
    }

    /// Everybody is well, and has the time to tell all.
    fn rest(&mut self) {
        // A connection may have been stuck for so long that it ends now.
        for _ in 0..20 {
            for at in 0..self.servers.len() {
                self.mend(at);
                self.dial(at);
            }
            self.settle();
            self.pass(Duration::from_secs(1), true);
        }
        self.pass(Duration::from_secs(40), true);
        self.settle();
        for server in &mut self.servers {
            let link = server.link.as_mut().expect("it is connected");
            assert!(link.established_at.is_some() && link.may_have_told_all, "{:?}", server.kind);
            link.is_provisional = Maybe::No;
            server.memory.lost.clear();
        }
        assert!(self.synchronized, "all have told what they know");
        self.check();
        self.check_servers();
        self.count("rests");
    }
}

/// Some are one destination to the kernel, since they differ in host bits only.
fn destination(number: u8) -> Destination {
    let (prefix, length) = match number % 4 {
        0 => ([10, 0, 0, number].into(), 32),
        1 => ([10, 0, 1, number].into(), 24),
        2 => ([number, 0, 0, 1].into(), 0),
        _ => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()].into(), 64),
    };
    Destination { prefix, length }
}

fn route(destination: Destination, hop: u16) -> Route {
    let address = [0x2001, 0xdb8, 0, 0, 0, 0, 0, hop].into();
    let kind = NextHopType::STANDARD;
    let next_hop = NextHop { address, vni: Vni(0), kind, nat_port_from: 0, nat_port_to: 0 };
    Route { destination, next_hop }
}
