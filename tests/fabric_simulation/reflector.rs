//! A whole reflector: shards, their mail, its part in the fabric, and the connections of hosts.
//!
//! Owns the order in which its parts do something, which the run's chance decides.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use metalbond_uring::internals::fabric::{Fabric, FabricConfig, Status};
use metalbond_uring::internals::policy::{AnnouncePolicy, NextHopPolicy, Policy};
use metalbond_uring::internals::shard::{
    Budgets, Identity, Limits, Mail, Shard, ShardConfig, TcpSample, Transmit, Wake,
};
use metalbond_uring::internals::wire::Message;
use metalbond_uring::types::{Pace, PeerId, ReflectOwn, ShardId, Time, Vni};

use crate::client::{Connection, check_piece};
use crate::names::{Effect, Key, PublishError, Record};
use crate::network::Process;
use crate::rng::Rng;
use crate::tight;

/// A host's connection.
pub struct Session {
    pub host: usize,
    /// Which connection of all in the run.
    pub number: u64,
    pub connection: Connection,
    is_server: bool,
    reassembles: bool,
    /// What it has to say once it is heard.
    keys: BTreeSet<Key>,
    vnis: BTreeSet<Vni>,
    has_said: bool,
    pub since: Time,
    /// When it shows next that it lives.
    keepalive_at: Time,
}

pub struct Core {
    pub shard: Shard,
    /// Mail on its way to it, by sender; the last one is the fabric.
    pub mail: Vec<VecDeque<Mail>>,
    pub dirty: bool,
}

pub struct Reflector {
    pub cores: Vec<Core>,
    pub fabric: Fabric,
    /// Mail on its way to the fabric, by sender.
    pub to_fabric: Vec<VecDeque<Mail>>,
    pub sessions: Vec<Session>,
    /// Of its shards.
    pub hash_seed: [u64; 4],
}

const ADDRESS: [u8; 3] = [10, 9, 0];
const KEEPALIVE_S: u32 = 60;

/// Some hosts may announce anything, the others in one VNI only.
const POLICY: &str =
    "permit peer 10.9.0.0\npermit peer 10.9.0.1\npermit peer 10.9.0.2\npermit vni 0";

/// What all reflectors of a run have in common.
pub struct Kind {
    pub shards: u16,
    pub budgets: Budgets,
    pub limits: Limits,
    pub identity: Identity,
    pub stale_time: Duration,
    /// Whether the first two hosts are behind one address; then peers show now and then that they live.
    pub shares_an_address: bool,
    policy: Option<Arc<Policy>>,
}

impl Kind {
    pub fn new(rng: &mut Rng) -> Kind {
        Kind {
            shards: 1 + rng.below(3) as u16,
            budgets: tight::budgets(rng),
            limits: Limits {
                lag_bytes_max: [256, 1_024, 1 << 20][rng.below(3)],
                log_bytes_max: [4 << 10, 64 << 20][rng.below(2)],
                ..Limits::default()
            },
            identity: if rng.chance(15) { Identity::Connection } else { Identity::Address },
            stale_time: Duration::from_secs([0, 0, 0, 20][rng.below(4)]),
            shares_an_address: rng.chance(15),
            policy: if rng.chance(20) { policy() } else { None },
        }
    }

    /// Where a host is.
    pub fn address(&self, host: usize) -> IpAddr {
        let [a, b, c] = ADDRESS;
        let last = if self.shares_an_address && host == 1 { 0 } else { host as u8 };
        [a, b, c, last].into()
    }

    /// Whether a host is behind an address with another one, and told apart by it.
    pub fn is_shared(&self, host: usize) -> bool {
        self.shares_an_address && self.identity == Identity::Address && host < 2
    }

    fn keepalive_interval_s(&self) -> u32 {
        if self.shares_an_address { KEEPALIVE_S } else { 86_400 }
    }

    /// Whether others are told what this host announces.
    pub fn permits(&self, host: usize, key: Key) -> bool {
        self.policy.is_none() || host < 3 || key.0 == Vni(0)
    }
}

fn policy() -> Option<Arc<Policy>> {
    let rules = AnnouncePolicy::parse(POLICY.as_bytes()).expect("rules");
    Policy::new(NextHopPolicy::Any, Some(Arc::new(rules)))
}

impl Reflector {
    pub fn new(now: Time, kind: &Kind, shards: u16, config: FabricConfig) -> Reflector {
        let core = |at| {
            let config = ShardConfig {
                id: ShardId(at),
                shards,
                hash_seed: config.hash_seed,
                keepalive_interval_s: kind.keepalive_interval_s(),
                reflect_own: ReflectOwn::None,
                pace: Pace::Off,
                limits: kind.limits,
                stale_time: kind.stale_time,
                budgets: kind.budgets,
                policy: kind.policy.clone(),
                ledger: std::sync::Arc::default(),
                fabric: Some(kind.identity),
            };
            let mail = (0..=shards).map(|_| VecDeque::new()).collect();
            Core { shard: Shard::new(config, now), mail, dirty: false }
        };
        Reflector {
            cores: (0..shards).map(core).collect(),
            to_fabric: (0..shards).map(|_| VecDeque::new()).collect(),
            fabric: Fabric::new(now, FabricConfig { shards, ..config.clone() }),
            sessions: Vec::new(),
            hash_seed: config.hash_seed,
        }
    }

    pub fn status(&self, now: Time) -> Status {
        self.fabric.status(now)
    }

    /// A host connects, with all that it has to say, and wants to hear.
    pub fn connect(
        &mut self,
        (now, number): (Time, u64),
        (host, kind, is_server): (usize, &Kind, bool),
        (keys, vnis): (BTreeSet<Key>, BTreeSet<Vni>),
        rng: &mut Rng,
    ) {
        let shard = rng.below(self.cores.len());
        let core = &mut self.cores[shard];
        let id = core.shard.accept(now, (kind.address(host), 1_000 + number as u16).into());
        core.dirty = true;
        let reassembles = rng.chance(60);
        let mut connection = Connection::new(shard, id, is_server, reassembles);
        connection.may_repeat = kind.is_shared(host);
        connection.hears_unasked = kind.shares_an_address;
        self.sessions.push(Session {
            host,
            number,
            connection,
            is_server,
            reassembles,
            keys,
            vnis,
            has_said: false,
            since: now,
            keepalive_at: if kind.shares_an_address { now } else { Time::NEVER },
        });
    }

    pub fn hang_up(&mut self, host: usize) {
        for session in self.sessions.iter_mut().filter(|session| session.host == host) {
            session.connection.hung_up = true;
        }
    }

    /// A host announces or withdraws.
    pub fn change(&mut self, host: usize, key: Key, adds: bool) {
        let of_host = |session: &&mut Session| session.host == host;
        for session in self.sessions.iter_mut().filter(of_host) {
            if adds {
                session.keys.insert(key)
            } else {
                session.keys.remove(&key)
            };
            let is_live = session.connection.is_live() && session.has_said;
            match adds {
                _ if !is_live => {}
                true => session.connection.announce(key.0, key.1, usize::MAX),
                false => session.connection.withdraw(key.0, key.1),
            }
        }
    }

    pub fn live(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(|session| session.connection.is_live())
    }

    /// The process is told to end: what closes withdraws nothing from now on.
    pub fn leave(&mut self, now: Time) {
        self.cores.iter_mut().for_each(|core| core.shard.stop_withdrawing());
        self.fabric.leave(now);
    }

    fn bytes_to_server(&mut self, now: Time, at: usize, rng: &mut Rng) {
        let session = &mut self.sessions[at];
        let connection = &mut session.connection;
        if connection.established && !session.has_said && connection.is_live() {
            session.has_said = true;
            for (vni, route) in session.keys.clone() {
                connection.announce(vni, route, usize::MAX);
            }
            for vni in session.vnis.clone() {
                connection.subscribe(vni, usize::MAX);
            }
        }
        if connection.established && now >= session.keepalive_at && connection.is_live() {
            connection.say(&Message::Keepalive);
            session.keepalive_at = now.after(Duration::from_secs(KEEPALIVE_S.into()));
        }
        let core = &mut self.cores[connection.shard];
        if connection.closed || !core.shard.wants_read(connection.id) {
            return;
        }
        let most = [7, 64, 2_000][rng.below(3)];
        let count = connection.to_server.len().min(1 + rng.below(most));
        core.dirty |= count > 0 || connection.hung_up;
        if count > 0 {
            let bytes: Vec<u8> = connection.to_server.drain(..count).collect();
            core.shard.receive(now, connection.id, &bytes);
        } else if connection.hung_up {
            core.shard.read_ended(now, connection.id, Ok(()));
        }
    }

    pub fn kernel_sends(&mut self, now: Time, at: usize) {
        let session = &mut self.sessions[at];
        let connection = &mut session.connection;
        let Some(piece) = connection.in_flight.take() else { return };
        let core = &mut self.cores[connection.shard];
        core.dirty = true;
        if connection.hung_up {
            let error = std::io::Error::from_raw_os_error(32);
            return core.shard.transmit_failed(now, connection.id, &error);
        }
        let sent = piece.as_slice().len();
        connection.read(piece.as_slice(), session.is_server, session.reassembles);
        drop(piece);
        core.shard.transmitted(now, connection.id, sent);
    }

    pub fn turn_core(&mut self, now: Time, at: usize) {
        let core = &mut self.cores[at];
        core.dirty = core.shard.turn(now);
        let mail: Vec<_> = std::iter::from_fn(|| core.shard.take_mail()).collect();
        let woken: Vec<_> = std::iter::from_fn(|| core.shard.take_woken()).collect();
        for (to, block) in mail {
            match self.cores.get_mut(to.index()) {
                Some(core) => core.mail[at].push_back(block),
                None => self.to_fabric[at].push_back(block),
            }
        }
        for (id, wake) in woken {
            if matches!(wake, Wake::Close) {
                self.closed(now, at, id);
            }
        }
    }

    fn closed(&mut self, now: Time, at: usize, id: PeerId) {
        let is_it =
            |session: &Session| session.connection.shard == at && session.connection.id == id;
        let place = self.sessions.iter().position(is_it).expect("a connection is closed once");
        let session = self.sessions.remove(place);
        assert!(session.connection.hung_up, "nobody is thrown out");
        let core = &mut self.cores[at];
        if session.connection.in_flight.is_some() {
            let error = std::io::Error::from_raw_os_error(32);
            core.shard.transmit_failed(now, id, &error);
        }
        core.shard.release(now, id);
        core.dirty = true;
    }

    fn run_a_writer(&mut self, now: Time, at: usize) {
        let core = &mut self.cores[at];
        let Some(id) = core.shard.take_writer() else { return };
        let of =
            |session: &&mut Session| session.connection.shard == at && session.connection.id == id;
        let Some(session) = self.sessions.iter_mut().find(of) else { return };
        if session.connection.in_flight.is_some() {
            return;
        }
        match core.shard.transmit(now, id, TcpSample::default()) {
            Transmit::Send(piece) => {
                check_piece(piece.as_slice(), piece.end_of_record, session.reassembles);
                session.connection.in_flight = Some(piece);
            }
            Transmit::Idle => {}
            Transmit::Finish => panic!("nobody is let go"),
        }
        core.dirty = true;
    }

    fn deliver_some_mail(&mut self, now: Time, rng: &mut Rng) {
        let (to, from) = (rng.below(self.cores.len() + 1), rng.below(self.cores.len() + 1));
        if let Some(core) = self.cores.get_mut(to) {
            if let Some(mail) = core.mail[from].pop_front() {
                core.shard.deliver(mail);
                core.dirty = true;
            }
        } else if let Some(mail) = self.to_fabric.get_mut(from).and_then(VecDeque::pop_front) {
            self.fabric.deliver(now, mail);
        }
    }

    pub fn take_fabric_mail(&mut self) {
        let fabric = self.cores.len();
        while let Some((to, mail)) = self.fabric.take_mail() {
            self.cores[to.index()].mail[fabric].push_back(mail);
        }
    }
}

impl Process for Reflector {
    fn linked(&mut self, now: Time) {
        self.fabric.linked(now);
    }

    fn unlinked(&mut self, now: Time) {
        self.fabric.unlinked(now);
    }

    fn found(&mut self, now: Time, record: &Record<'_>) {
        self.fabric.found(now, record);
    }

    fn opened(&mut self, now: Time, pending: u64) {
        self.fabric.opened(now, pending);
    }

    fn record(&mut self, now: Time, record: &Record<'_>) {
        self.fabric.record(now, record);
    }

    fn acked(&mut self, now: Time, token: u64, sequence: u64) {
        self.fabric.acked(now, token, sequence);
    }

    fn refused(&mut self, now: Time, token: u64, error: &PublishError) {
        self.fabric.refused(now, token, error);
    }

    fn purged(&mut self, now: Time, token: u64) {
        self.fabric.purged(now, token);
    }

    fn wants_feed(&self) -> bool {
        self.fabric.wants_feed()
    }

    fn turn(&mut self, now: Time) -> Vec<Effect> {
        self.fabric.turn(now);
        self.take_fabric_mail();
        std::iter::from_fn(|| self.fabric.take_effect()).collect()
    }

    fn next_wakeup(&self) -> Time {
        let shards = self.cores.iter().map(|core| core.shard.next_wakeup());
        let hears = |it: &&Session| {
            let Connection { shard, id, .. } = it.connection;
            it.has_said && it.connection.is_live() && self.cores[shard].shard.wants_read(id)
        };
        let said = self
            .sessions
            .iter()
            .filter(hears)
            .map(|session| session.keepalive_at)
            .min()
            .unwrap_or(Time::NEVER);
        shards.min().expect("there is one").min(self.fabric.next_wakeup()).min(said)
    }

    fn has_work(&self, now: Time) -> bool {
        let is_busy = |core: &Core| {
            let has_mail = core.mail.iter().any(|queue| !queue.is_empty());
            core.dirty || has_mail || core.shard.has_writers() || core.shard.next_wakeup() <= now
        };
        let waits = |session: &Session| {
            let connection = &session.connection;
            let hears = self.cores[connection.shard].shard.wants_read(connection.id);
            let says = !connection.to_server.is_empty() || connection.hung_up;
            let is_due = !session.has_said || session.keepalive_at <= now;
            let has_to_say = connection.established && is_due && connection.is_live();
            connection.in_flight.is_some() || (says || has_to_say) && hears
        };
        self.cores.iter().any(is_busy)
            || self.to_fabric.iter().any(|queue| !queue.is_empty())
            || self.sessions.iter().any(waits)
    }

    fn work(&mut self, now: Time, rng: &mut Rng) {
        for _ in 0..1 + rng.below(6) {
            for at in 0..self.sessions.len() {
                if rng.chance(70) {
                    self.bytes_to_server(now, at, rng);
                    self.kernel_sends(now, at);
                }
            }
            for _ in 0..1 + rng.below(4) {
                self.deliver_some_mail(now, rng);
            }
            for at in 0..self.cores.len() {
                let core = &self.cores[at];
                if (core.dirty || core.shard.next_wakeup() <= now) && rng.chance(70) {
                    self.turn_core(now, at);
                }
                self.run_a_writer(now, at);
            }
        }
    }
}
