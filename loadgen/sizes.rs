//! How large each scenario is: the defaults, and which size flags it has.
//!
//! Owns the sizes. Must never read a flag: the command line does.

use crate::hostile::Hostility;

/// How long a route rests in a stream before it changes again, in seconds.
pub const CYCLE_S: f64 = 5.0;

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// A bit of everything.
    Mix,
    /// Few announce, many subscribe.
    Fanout,
    /// Everybody announces and subscribes in several VNIs.
    Mesh,
    /// Late subscribers to a table.
    Join,
    /// All come back at once after a restart.
    Herd,
    /// Updates at a rate.
    Latency,
    /// Routes and announcers come and go.
    Churn,
    /// One subscriber stops reading.
    Slow,
    /// A table that all have is replaced, and then lost with its announcers.
    Loss,
    /// Updates at a rate, with hostile peers and without.
    Fairness,
    /// A reflector takes over from another one, again and again, amid updates at a rate.
    Upgrade,
    /// One of several servers is restarted by somebody else, amid updates at a rate.
    Restart,
    /// Nothing happens.
    Idle,
}

impl Scenario {
    /// All scenarios with their names.
    pub const ALL: [(Scenario, &'static str); 13] = [
        (Scenario::Mix, "mix"),
        (Scenario::Fanout, "fanout"),
        (Scenario::Mesh, "mesh"),
        (Scenario::Join, "join"),
        (Scenario::Herd, "herd"),
        (Scenario::Latency, "latency"),
        (Scenario::Churn, "churn"),
        (Scenario::Slow, "slow"),
        (Scenario::Loss, "loss"),
        (Scenario::Fairness, "fairness"),
        (Scenario::Upgrade, "upgrade"),
        (Scenario::Restart, "restart"),
        (Scenario::Idle, "idle"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(scenario, _)| *scenario == self).map_or("", |(_, name)| name)
    }
}

/// How large a scenario is; what it does not use is 0.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Sizes {
    /// Peers that announce and subscribe.
    pub peers: u32,
    /// VNIs.
    pub vnis: u32,
    /// VNIs of each peer.
    pub vnis_per_peer: u32,
    /// Peers that announce only.
    pub announcers: u32,
    /// Peers that subscribe only.
    pub subscribers: u32,
    /// Peers that subscribe when all is announced.
    pub joiners: u32,
    /// Routes of each announcer in each of its VNIs.
    pub routes: u32,
    /// Updates a second, all announcers together; None: as fast as possible.
    pub rate_per_s: Option<f64>,
    /// How long updates flow, or nothing happens.
    pub duration_s: f64,
    /// How long one subscriber does not read.
    pub stall_s: f64,
    /// How often all is withdrawn and announced again, or measured, or upgraded.
    pub rounds: u32,
    /// What hostile peers do.
    pub hostility: Hostility,
}

/// The size flags of a command line, as far as they were given.
#[derive(Clone, Default, Debug)]
pub struct Given {
    /// `--peers`.
    pub peers: Option<u32>,
    /// `--vnis`.
    pub vnis: Option<u32>,
    /// `--vnis-per-peer`.
    pub vnis_per_peer: Option<u32>,
    /// `--announcers`.
    pub announcers: Option<u32>,
    /// `--routes`.
    pub routes: Option<u32>,
    /// `--subscribers`.
    pub subscribers: Option<u32>,
    /// `--joiners`.
    pub joiners: Option<u32>,
    /// `--rate`.
    pub rate: Option<f64>,
    /// `--duration-s`.
    pub duration_s: Option<f64>,
    /// `--stall-s`.
    pub stall_s: Option<f64>,
    /// `--rounds`.
    pub rounds: Option<u32>,
    /// `--hostile`.
    pub hostile: Option<Hostility>,
}

/// The size flags that a scenario has.
fn flags_of(scenario: Scenario) -> &'static [&'static str] {
    match scenario {
        Scenario::Mix | Scenario::Restart => {
            &["--peers", "--vnis", "--vnis-per-peer", "--routes", "--rate", "--duration-s"]
        }
        Scenario::Upgrade => &[
            "--peers",
            "--vnis",
            "--vnis-per-peer",
            "--routes",
            "--rate",
            "--duration-s",
            "--rounds",
        ],
        Scenario::Mesh => &["--peers", "--vnis", "--vnis-per-peer", "--routes", "--rate"],
        Scenario::Herd => &["--peers", "--vnis", "--vnis-per-peer", "--routes"],
        Scenario::Idle => &["--peers", "--duration-s"],
        Scenario::Fanout => &["--announcers", "--routes", "--subscribers", "--rate"],
        Scenario::Join => &["--announcers", "--routes", "--joiners", "--rate"],
        Scenario::Latency => &["--announcers", "--subscribers", "--rate", "--duration-s"],
        Scenario::Fairness => {
            &["--hostile", "--announcers", "--subscribers", "--rate", "--duration-s", "--rounds"]
        }
        Scenario::Churn => &["--announcers", "--routes", "--subscribers", "--rounds", "--rate"],
        Scenario::Loss => &["--announcers", "--routes", "--subscribers"],
        Scenario::Slow => &["--announcers", "--subscribers", "--rate", "--duration-s", "--stall-s"],
    }
}

impl Given {
    /// The scenario's sizes: its defaults, and the flags that it has.
    ///
    /// # Errors
    /// What is said of a flag that it has not.
    pub fn sizes(&self, scenario: Scenario) -> Result<Sizes, String> {
        let rate = |default| self.rate.or(default);
        let seconds = |flag: Option<f64>, default| flag.unwrap_or(default);
        let mut sizes = Sizes { rate_per_s: self.rate, ..Sizes::default() };
        match scenario {
            Scenario::Mix => {
                sizes.meshed(self, 1000, None, 2, 5);
                sizes.rate_per_s = rate(Some(500.0));
                sizes.duration_s = seconds(self.duration_s, 10.0);
            }
            Scenario::Upgrade => {
                sizes.meshed(self, 1000, Some(20), 2, 20);
                sizes.rate_per_s = rate(Some(500.0));
                sizes.duration_s = seconds(self.duration_s, 3.0);
                sizes.rounds = self.rounds.unwrap_or(3);
            }
            Scenario::Restart => {
                sizes.meshed(self, 300, Some(30), 2, 10);
                sizes.rate_per_s = rate(Some(500.0));
                sizes.duration_s = seconds(self.duration_s, 30.0);
            }
            Scenario::Mesh => {
                sizes.meshed(self, 500, Some(100), 4, 10);
            }
            Scenario::Herd => {
                sizes.meshed(self, 1000, Some(50), 2, 10);
            }
            Scenario::Idle => {
                sizes.meshed(self, 5000, Some(100), 1, 0);
                sizes.duration_s = seconds(self.duration_s, 10.0);
            }
            Scenario::Fanout => {
                sizes.star(self, 1, 100, 5000);
            }
            Scenario::Join => {
                sizes.star(self, 1, 0, 50_000);
                sizes.joiners = self.joiners.unwrap_or(20);
            }
            Scenario::Latency => {
                sizes.star(self, 10, 100, 0);
                sizes.stream(rate(Some(1000.0)));
                sizes.duration_s = seconds(self.duration_s, 10.0);
            }
            Scenario::Fairness => {
                sizes.star(self, 10, 20, 0);
                sizes.stream(rate(Some(1000.0)));
                sizes.duration_s = seconds(self.duration_s, 3.0);
                sizes.rounds = self.rounds.unwrap_or(5);
                sizes.hostility = self.hostile.unwrap_or_default();
            }
            Scenario::Churn => {
                sizes.star(self, 10, 50, 200);
                sizes.rounds = self.rounds.unwrap_or(5);
            }
            Scenario::Loss => {
                sizes.star(self, 3, 400, 100_000);
            }
            Scenario::Slow => {
                sizes.star(self, 10, 20, 0);
                sizes.stream(rate(Some(8000.0)));
                sizes.duration_s = seconds(self.duration_s, 5.0);
                sizes.stall_s = seconds(self.stall_s, 30.0);
            }
        }
        let used = flags_of(scenario);
        match self.names().into_iter().find(|flag| !used.contains(flag)) {
            Some(flag) => Err(format!(
                "{flag} means nothing to --scenario {}, which has: {}\n",
                scenario.name(),
                used.join(" ")
            )),
            None => Ok(sizes),
        }
    }

    /// The size flags that were given.
    fn names(&self) -> Vec<&'static str> {
        let given = [
            ("--peers", self.peers.is_some()),
            ("--vnis", self.vnis.is_some()),
            ("--vnis-per-peer", self.vnis_per_peer.is_some()),
            ("--announcers", self.announcers.is_some()),
            ("--routes", self.routes.is_some()),
            ("--subscribers", self.subscribers.is_some()),
            ("--joiners", self.joiners.is_some()),
            ("--rate", self.rate.is_some()),
            ("--duration-s", self.duration_s.is_some()),
            ("--stall-s", self.stall_s.is_some()),
            ("--rounds", self.rounds.is_some()),
            ("--hostile", self.hostile.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }
}

impl Sizes {
    fn meshed(&mut self, flags: &Given, peers: u32, vnis: Option<u32>, each: u32, routes: u32) {
        self.peers = flags.peers.unwrap_or(peers);
        // One VNI for each 50 peers, or as many as the scenario says unless fewer than 10 would share one.
        let shared = self.peers.saturating_mul(each) / 10;
        let vnis = vnis.map_or(self.peers / 50, |vnis| vnis.min(shared)).max(2);
        self.vnis = flags.vnis.unwrap_or(vnis);
        self.vnis_per_peer = flags.vnis_per_peer.unwrap_or(each.min(self.vnis));
        self.routes = flags.routes.unwrap_or(routes);
    }

    fn star(&mut self, flags: &Given, announcers: u32, subscribers: u32, routes: u32) {
        self.announcers = flags.announcers.unwrap_or(announcers);
        self.subscribers = flags.subscribers.unwrap_or(subscribers);
        self.routes = flags.routes.unwrap_or(routes);
    }

    /// Enough routes that one rests for [`CYCLE_S`] before it changes again.
    fn stream(&mut self, rate_per_s: Option<f64>) {
        self.rate_per_s = rate_per_s;
        let routes = rate_per_s.unwrap_or_default() * CYCLE_S / f64::from(self.announcers);
        self.routes = routes.ceil().max(1.0) as u32;
    }

    /// The scenario's size flags with their values, those that were not given, too.
    pub fn words(&self, scenario: Scenario) -> String {
        let word = |flag: &&str| {
            let value = match *flag {
                "--peers" => self.peers.to_string(),
                "--vnis" => self.vnis.to_string(),
                "--vnis-per-peer" => self.vnis_per_peer.to_string(),
                "--announcers" => self.announcers.to_string(),
                "--routes" => self.routes.to_string(),
                "--subscribers" => self.subscribers.to_string(),
                "--joiners" => self.joiners.to_string(),
                "--rate" => self.rate_per_s?.to_string(),
                "--duration-s" => self.duration_s.to_string(),
                "--stall-s" => self.stall_s.to_string(),
                "--rounds" => self.rounds.to_string(),
                "--hostile" => self.hostility.name().to_owned(),
                _ => return None,
            };
            Some(format!("{flag} {value}"))
        };
        flags_of(scenario).iter().filter_map(word).collect::<Vec<_>>().join(" ")
    }

    /// Peers of all kinds.
    pub fn all_peers(&self) -> u32 {
        [self.peers, self.announcers, self.subscribers, self.joiners]
            .iter()
            .fold(0, |sum, &n| sum.saturating_add(n))
    }
}
