//! What happens to reflectors, and what peers may notice of it.
//!
//! Owns the events. Also part of the model in `src/fabric`: what a reflector is, and what peers see, this does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::engine::Room;
use super::names::{Key, Rule};
use super::network::{Network, Process};

/// Messages that a peer was sent, by the peer.
pub type Told = BTreeMap<(usize, u64), u64>;

/// Reflectors, and hosts that are connected to them.
pub trait Fleet: Sized {
    type Process: Process;

    fn new(seed: u64, without: Option<Rule>) -> Self;
    fn network(&mut self) -> &mut Network<Self::Process>;
    /// A process starts.
    fn starts(&mut self, at: usize);
    /// A process ends, without a word, and whoever was connected has lost it.
    fn crashes(&mut self, at: usize);
    /// A process ends as it should.
    fn ends(&mut self, at: usize);
    /// A process hands all connections over to a new one, or tries to. Nothing, where there are none.
    fn hands_over(&mut self, _at: usize) {}
    /// What each host announces, wherever it is connected.
    fn keys(&mut self) -> &mut Vec<BTreeSet<Key>>;
    fn is_connected(&self, host: usize, at: usize) -> bool;
    /// A host comes to a reflector, with all that it has.
    fn connect(&mut self, host: usize, at: usize);
    fn disconnect(&mut self, host: usize, at: usize);
    /// What a host has differs by this: those to whom it is connected have to hear that.
    fn changed(&mut self, host: usize, key: Key, adds: bool);
    /// Some route.
    fn key(&mut self) -> Key;
    /// What is wrong with what is seen, at rest.
    fn faults(&mut self) -> Vec<String>;
    /// What peers were told so far; but not those of this host.
    fn told(&self, but: Option<usize>) -> Told;

    fn below(&mut self, bound: usize) -> usize {
        self.network().rng.below(bound)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.network().rng.chance(percent)
    }

    fn nodes(&mut self) -> usize {
        self.network().nodes.len()
    }

    fn hosts(&mut self) -> usize {
        self.keys().len()
    }

    fn any_node(&mut self) -> usize {
        let nodes = self.nodes();
        self.below(nodes)
    }

    fn any_host(&mut self) -> usize {
        let hosts = self.hosts();
        self.below(hosts)
    }

    fn is_running(&mut self, at: usize) -> bool {
        self.network().nodes[at].process.is_some()
    }

    fn run_for_s(&mut self, seconds: usize) {
        self.network().run_for(Duration::from_secs(seconds as u64));
    }

    /// At most so many microseconds.
    fn run_a_while(&mut self, most: usize) {
        let micros = self.below(most) as u64;
        self.network().run_for(Duration::from_micros(micros));
    }

    /// A host announces or withdraws a route, wherever it is connected.
    fn change(&mut self, host: usize, key: Key) {
        let keys = &mut self.keys()[host];
        let adds = keys.insert(key) || !keys.remove(&key);
        self.changed(host, key, adds);
    }

    fn places_of(&mut self, host: usize) -> Vec<usize> {
        (0..self.nodes()).filter(|at| self.is_connected(host, *at)).collect()
    }

    /// Each host is connected somewhere, some twice.
    fn settle(&mut self) {
        for host in 0..self.hosts() {
            for _ in 0..1 + self.below(2) {
                let at = self.any_node();
                self.connect(host, at);
            }
            for _ in 0..1 + self.below(3) {
                let key = self.key();
                self.change(host, key);
            }
        }
        self.rest();
    }

    /// Everything works again, for long enough; but for reflectors that do not come back, perhaps.
    fn rest(&mut self) {
        for at in 0..self.nodes() {
            if !self.is_running(at) && (at == 0 || self.chance(60)) {
                self.starts(at);
            }
            self.network().heal(at);
        }
        if !self.network().is_engine_up {
            self.network().engine_comes();
        }
        self.network().engine.room = Room::Enough;
        self.network().skips = 0;
        for host in 0..self.hosts() {
            while self.places_of(host).is_empty() {
                let at = self.any_node();
                self.connect(host, at);
            }
        }
        self.run_for_s(400);
    }

    fn check(&mut self, what: &str) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{what}: {faults:#?}");
    }

    /// The same, but something may be under way for a moment.
    fn check_soon(&mut self, what: &str) {
        let mut seconds = 0;
        while seconds < 8 && !self.faults().is_empty() {
            self.run_for_s(1);
            seconds += 1;
        }
        self.check(what);
    }

    /// The connections of these to the engine are made anew.
    fn link_again(&mut self, nodes: &[usize]) {
        for at in nodes {
            self.network().unlink(*at);
            self.network().links(*at);
        }
    }

    /// A host is gone for good: nothing may bring its routes back.
    fn is_gone(&mut self, host: usize) {
        (0..self.nodes()).for_each(|at| self.disconnect(host, at));
        self.keys()[host].clear();
    }

    /// What two hosts announce everybody has, whoever else does.
    fn prepares_churn(&mut self) {
        let both = self.keys()[0].clone();
        for key in both {
            if !self.keys()[1].contains(&key) {
                self.change(1, key);
            }
        }
        let from = self.places_of(0)[0];
        self.connect(2, from);
        self.run_for_s(10);
    }

    /// One host, at one reflector, announces what nobody else does.
    fn prepares_lonely_churn(&mut self) {
        let places = self.places_of(0);
        places[1..].iter().for_each(|at| self.disconnect(0, *at));
        for host in 1..self.hosts() {
            for key in self.keys()[0].clone() {
                if self.keys()[host].contains(&key) {
                    self.change(host, key);
                }
            }
        }
        self.connect(2, places[0]);
        // Longer than what a lost peer announced may stay.
        self.run_for_s(40);
    }

    /// Whose routes they are changes all the time, though not which there are, while all is read anew.
    fn churn(&mut self, at: usize) {
        let keys: Vec<Key> = self.keys()[0].iter().copied().collect();
        let has = self.keys()[2].clone();
        self.link_again(&[at]);
        for _ in 0..300 {
            let key = self.below(keys.len().max(1));
            if let Some(key) = keys.get(key).filter(|key| !has.contains(*key)) {
                self.change(2, *key);
            }
            self.run_a_while(20_000);
        }
    }

    /// The engine has no room, or little.
    fn fills_up(&mut self) {
        let has = self.network().engine.bytes();
        self.network().engine.room = match self.below(5) {
            0 | 1 => Room::Subjects(self.below(8)),
            2 | 3 => Room::Bytes(has + self.below(200)),
            _ => Room::Nothing,
        };
    }

    /// The engine loses some of its records, for good.
    fn loses_some(&mut self) {
        let percent = [10, 50, 100][self.below(3)];
        let Network { engine, rng, .. } = self.network();
        engine.lose_some(|_| rng.chance(percent));
    }

    /// One process after the other takes over, perhaps without an engine.
    fn upgrade(&mut self, at: usize) {
        let engine = self.below(4);
        match engine {
            0 => self.network().cut_off(at),
            1 => self.network().engine_goes(),
            _ => {}
        }
        for _ in 0..1 + self.below(3) {
            self.run_a_while(6_000_000);
            self.hands_over(at);
        }
        // Now and then longer than others wait for one that ended.
        let wait = self.below(if engine == 1 { 3_000 } else { 100 });
        self.run_for_s(wait);
    }

    /// Something happens, to anybody.
    fn disturb(&mut self) {
        let (host, at) = (self.any_host(), self.any_node());
        match self.below(38) {
            0..10 => {
                let key = self.key();
                self.change(host, key);
            }
            10..14 => self.connect(host, at),
            14..16 => self.disconnect(host, at),
            16 => self.crashes(at),
            17..20 if !self.is_running(at) => self.starts(at),
            20 => self.network().cut_off(at),
            21 => self.network().heal(at),
            22 => self.network().unlink(at),
            23 => self.network().links(at),
            24 if self.chance(30) => self.network().engine.wipe(),
            25 if self.chance(30) => self.network().engine_goes(),
            26 => self.network().engine_comes(),
            27 => self.network().nodes[at].is_stalled = true,
            28 => self.fills_up(),
            29 => self.network().engine.room = Room::Enough,
            30..32 => {
                // What is on its way when the connection breaks may come after what is said then.
                let key = self.key();
                self.change(host, key);
                self.run_a_while(3_000);
                self.network().unlink(at);
                self.change(host, key);
                self.network().links(at);
            }
            32 => self.ends(at),
            33 => self.network().skips = [0, 10, 40][self.below(3)],
            34 => self.loses_some(),
            35..37 => self.hands_over(at),
            37 => self.network().engine.purge(&format!("mb.f.r.*.r{at}.>"), u64::MAX),
            _ => {}
        }
        let most = [1_000, 100_000, 5_000_000, 5_000_000, 60_000_000][self.below(5)];
        self.run_a_while(most);
    }
}

/// Anything may happen; when it is over, each view is right, and everything is published.
pub fn faults<F: Fleet>(seed: u64, rounds: usize, without: Option<Rule>) {
    let mut fleet = F::new(seed, without);
    for round in 0..rounds {
        for _ in 0..fleet.below(60) {
            fleet.disturb();
        }
        fleet.rest();
        fleet.check(&format!("seed {seed}, round {round}"));
    }
}

/// Things that peers which stay must not notice.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Quiet {
    Restart,
    GracefulRestart,
    Handover,
    CrashAndMove,
    Wipe,
    Partition,
    EngineDown,
    LateRestart,
    FreshReflector,
    Stall,
    Churn,
    LonelyChurn,
}

pub const QUIET: [Quiet; 12] = [
    Quiet::Restart,
    Quiet::GracefulRestart,
    Quiet::Handover,
    Quiet::CrashAndMove,
    Quiet::Wipe,
    Quiet::Partition,
    Quiet::EngineDown,
    Quiet::LateRestart,
    Quiet::FreshReflector,
    Quiet::Stall,
    Quiet::Churn,
    Quiet::LonelyChurn,
];

/// One of these happens: whoever is connected before and after is sent nothing.
pub fn quiet<F: Fleet>(seed: u64, what: Quiet, without: Option<Rule>) {
    let mut fleet = F::new(seed, without);
    fleet.settle();
    match what {
        Quiet::Churn => fleet.prepares_churn(),
        Quiet::LonelyChurn => fleet.prepares_lonely_churn(),
        _ => {}
    }
    fleet.check(&format!("seed {seed}, {what:?}: at first"));
    let at = match what {
        Quiet::LonelyChurn => (fleet.places_of(0)[0] + 1) % fleet.nodes(),
        _ => fleet.any_node(),
    };
    // Only one announces what this one does, now and then.
    let but = (what == Quiet::LonelyChurn).then_some(0);
    let others: Vec<usize> = (0..fleet.nodes()).filter(|other| *other != at).collect();
    let its: Vec<usize> = (0..fleet.hosts()).filter(|host| fleet.is_connected(*host, at)).collect();
    let mut before = fleet.told(but);
    match what {
        Quiet::Restart | Quiet::GracefulRestart => {
            if what == Quiet::Restart {
                fleet.crashes(at)
            } else {
                fleet.ends(at)
            }
            let wait = fleet.below(90);
            fleet.run_for_s(wait);
            fleet.starts(at);
            for host in its {
                let wait = fleet.below(20);
                fleet.run_for_s(wait);
                fleet.connect(host, at);
            }
        }
        Quiet::Handover => fleet.upgrade(at),
        Quiet::CrashAndMove => {
            fleet.crashes(at);
            for host in its {
                let wait = fleet.below(25);
                fleet.run_for_s(wait);
                let to = others[fleet.below(others.len())];
                fleet.connect(host, to);
            }
            fleet.run_for_s(300);
        }
        Quiet::Wipe => fleet.network().engine.wipe(),
        Quiet::Partition => {
            fleet.network().cut_off(at);
            let wait = fleet.below(100);
            if fleet.chance(50) {
                // Not even the end of its lease is told.
                fleet.network().engine.wipe();
            }
            fleet.run_for_s(wait);
            fleet.network().heal(at);
        }
        Quiet::EngineDown => {
            fleet.network().engine_goes();
            let wait = fleet.below(3_000);
            fleet.run_for_s(wait);
            if fleet.chance(50) {
                fleet.network().engine.wipe();
            }
            fleet.network().engine_comes();
        }
        Quiet::LateRestart | Quiet::FreshReflector => {
            fleet.crashes(at);
            for host in its.iter().skip(1) {
                let to = others[fleet.below(others.len())];
                fleet.connect(*host, to);
            }
            if let Some(host) = its.first() {
                fleet.is_gone(*host);
            }
            let wait = if what == Quiet::LateRestart { 140 + fleet.below(1_500) } else { 4_000 };
            fleet.run_for_s(wait);
            before = fleet.told(but);
            if what == Quiet::LateRestart && fleet.chance(50) {
                fleet.link_again(&others);
                fleet.run_for_s(30);
            }
            fleet.starts(at);
        }
        Quiet::Stall => fleet.network().nodes[at].is_stalled = true,
        Quiet::Churn | Quiet::LonelyChurn => fleet.churn(at),
    }
    fleet.rest();
    let after = fleet.told(but);
    let told: u64 =
        before.iter().filter_map(|(peer, count)| Some(after.get(peer)?.abs_diff(*count))).sum();
    assert_eq!(told, 0, "seed {seed}, {what:?}: messages to peers that stay");
    fleet.check(&format!("seed {seed}, {what:?}"));
}

/// The engine has not a byte more: what is withdrawn is so everywhere, and when there is room nothing stays for ever.
pub fn full<F: Fleet>(seed: u64, without: Option<Rule>) {
    let mut fleet = F::new(seed, without);
    fleet.settle();
    let bytes = fleet.network().engine.bytes();
    fleet.network().engine.room = Room::Bytes(bytes);
    // By all at once: where one of two is left, the record names it, and so gets longer.
    let keys: BTreeSet<Key> = fleet.keys().iter().flatten().copied().collect();
    for key in keys {
        let goes = fleet.chance(60);
        for host in 0..fleet.hosts() {
            if goes && fleet.keys()[host].contains(&key) {
                fleet.change(host, key);
            }
        }
    }
    fleet.run_for_s(30);
    fleet.check_soon(&format!("seed {seed}: full"));
    for _ in 0..10 {
        let (host, key) = (fleet.any_host(), fleet.key());
        fleet.change(host, key);
        fleet.run_a_while(3_000_000);
    }
    fleet.rest();
    fleet.check(&format!("seed {seed}"));
    let left = fleet.network().engine.list("mb.f.r.>");
    let bare = left.iter().filter(|(_, kept)| kept.value.is_empty() && kept.ended.is_none());
    assert_eq!(bare.count(), 0, "seed {seed}: they would stay for ever");
}

/// What was on its way when a connection broke comes long after what was said then: that is put right at once.
pub fn late<F: Fleet>(seed: u64, without: Option<Rule>) {
    let mut fleet = F::new(seed, without);
    fleet.settle();
    for _ in 0..6 {
        let (host, key) = (fleet.any_host(), fleet.key());
        let places = fleet.places_of(host);
        fleet.change(host, key);
        fleet.run_a_while(3_000);
        fleet.link_again(&places);
        fleet.change(host, key);
        for _ in 0..3 {
            fleet.run_for_s(7);
            fleet.check_soon(&format!("seed {seed}: late"));
        }
        fleet.run_for_s(60);
    }
}

/// A reflector ends, and the engine loses its lease, so that nobody tells others.
pub fn forgotten<F: Fleet>(seed: u64, without: Option<Rule>) {
    let mut fleet = F::new(seed, without);
    fleet.settle();
    let at = fleet.any_node();
    fleet.crashes(at);
    let lease = format!("mb.f.l.r{at}");
    fleet.network().engine.lose_some(|kept| kept.subject == lease);
    fleet.run_for_s(300);
    fleet.check(&format!("seed {seed}: forgotten"));
}

/// All that may happen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Case {
    Faults,
    Purge,
    Full,
    Late,
    Forgotten,
    Quiet(Quiet),
}

impl Case {
    pub fn all() -> impl Iterator<Item = Case> {
        let others = [Case::Faults, Case::Purge, Case::Full, Case::Late, Case::Forgotten];
        others.into_iter().chain(QUIET.map(Case::Quiet))
    }

    pub fn run<F: Fleet>(self, seed: u64, without: Option<Rule>) {
        match self {
            Case::Faults => faults::<F>(seed, 2, without),
            Case::Purge => purge::<F>(seed, without),
            Case::Full => full::<F>(seed, without),
            Case::Late => late::<F>(seed, without),
            Case::Forgotten => forgotten::<F>(seed, without),
            Case::Quiet(what) => quiet::<F>(seed, what, without),
        }
    }

    /// Whether this seed fails without a rule.
    pub fn fails<F: Fleet>(self, seed: u64, without: Rule) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.run::<F>(seed, Some(without)))).is_err()
    }

    /// Of so many seeds, those that do.
    pub fn failing<F: Fleet>(self, seeds: u64, without: Rule) -> Vec<u64> {
        (0..seeds).filter(|seed| self.fails::<F>(*seed, without)).collect()
    }
}

/// Which of so many seeds fail in which case when a rule is not kept: a line for each rule.
pub fn table<F: Fleet>(seeds: u64) -> String {
    let mut lines = Vec::new();
    for rule in Rule::ALL {
        let mut line = format!("{rule:?}:");
        for case in Case::all() {
            let failing = case.failing::<F>(seeds, rule);
            if let Some(first) = failing.first() {
                let name = format!("{case:?}").replace("Quiet(", "").replace(')', "");
                line += &format!(" {name} {} (from {first}),", failing.len());
            }
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// A reflector is gone, and comes back about when it is purged, or long after that.
pub fn purge<F: Fleet>(seed: u64, without: Option<Rule>) {
    let mut fleet = F::new(seed, without);
    fleet.settle();
    let at = fleet.nodes() - 1;
    fleet.crashes(at);
    let wait = if fleet.chance(50) { 3_000 } else { 1_790 + fleet.below(140) };
    fleet.run_for_s(wait);
    let left = fleet.network().engine.list(&format!("mb.f.r.*.r{at}.>")).len();
    assert!(wait < 3_000 || left == 0, "seed {seed}: {left} records are left");
    fleet.starts(at);
    fleet.run_a_while(30_000_000);
    fleet.rest();
    fleet.check(&format!("seed {seed}"));
}
