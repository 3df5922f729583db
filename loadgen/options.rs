//! What loadgen is to do, and whether its flags make sense together.
//!
//! Owns the bounds of a run. Must never read a word of the command line.

use std::path::PathBuf;

use crate::homes::{Fleet, TARGETS_MAX};
use crate::pipeline::Habits;
use crate::restart;
use crate::route::ROUTES_PER_VNI_MAX;
use crate::scenario;
use crate::shared::{Reading, Sabotage};
use crate::sizes::{Scenario, Sizes};
use crate::values::Addresses;

/// Memory that the bitmaps of all views may take.
const VIEW_BYTES_MAX: u64 = 4 << 30;
/// Routes and peers of one run.
const ROUTES_MAX: u64 = 100_000_000;
const PEERS_MAX: u32 = 1_000_000;

/// What loadgen is to do.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// What to run.
    pub scenario: Scenario,
    /// How large.
    pub sizes: Sizes,
    /// The servers to load, and of each where it may be, in the order in which to try; none: loadgen starts one.
    pub targets: Vec<Addresses>,
    /// Peers that are connected to two of them.
    pub dual: u32,
    /// Each peer comes from an address of its own.
    pub has_own_address: bool,
    /// The server's process.
    pub server_pid: Option<u32>,
    /// Shards of a reflector that loadgen starts.
    pub cores: Option<u32>,
    /// How a reflector that loadgen starts feeds peers that do not reassemble.
    pub pace: Option<String>,
    /// Threads of the generator.
    pub threads: u32,
    /// The first VNI.
    pub vni_base: u32,
    /// Keepalive interval to offer, in seconds.
    pub keepalive_s: u32,
    /// How peers read.
    pub reading: Reading,
    /// What receivers take for each update.
    pub habits: Habits,
    /// Updates sent before an answer is awaited; 0 for no limit.
    pub inflight: u32,
    /// How long nothing may move before a wait is given up, in seconds.
    pub patience_s: f64,
    /// One JSON object for each stage instead of a table.
    pub json: bool,
    /// Where to write the report.
    pub report: Option<PathBuf>,
    /// The negative control.
    pub sabotage: Option<Sabotage>,
}

impl Options {
    /// How many servers there are, and how many peers are at two.
    pub fn fleet(&self) -> Fleet {
        Fleet { targets: self.targets.len().max(1) as u16, dual: self.dual }
    }

    /// Whether all flags make sense together.
    ///
    /// # Errors
    /// What does not, in a line.
    pub fn judge(&self) -> Result<(), String> {
        let sizes = &self.sizes;
        let peers = sizes.all_peers();
        if peers > PEERS_MAX {
            return Err(format!("{peers} peers are too many: at most {PEERS_MAX}\n"));
        }
        self.judge_targets()?;
        if sizes.vnis_per_peer > sizes.vnis {
            return Err(format!(
                "a peer cannot be in {} of {} VNIs: --vnis-per-peer is at most --vnis\n",
                sizes.vnis_per_peer, sizes.vnis
            ));
        }
        let elsewhere = !self.targets.is_empty();
        if elsewhere && (self.cores.is_some() || self.pace.is_some()) {
            let words =
                "--cores and --pace are for a reflector that loadgen starts, not for --target\n";
            return Err(words.to_owned());
        }
        if !elsewhere && self.server_pid.is_some() {
            let words =
                "--server-pid is the process of a running server: name that with --target\n";
            return Err(words.to_owned());
        }
        let hold_ns = u64::from(self.keepalive_s) * 2_500_000_000;
        let stall_ns = self.habits.stall.longest_ns();
        if self.reading == Reading::Legacy && stall_ns >= hold_ns {
            return Err(format!(
                "whoever stands for {} s hears no KEEPALIVE, and its hold time of {} s runs out: a --reader-stall \
                 shorter than that, or a longer --keepalive\n",
                stall_ns as f64 / 1e9,
                hold_ns as f64 / 1e9
            ));
        }
        let vnis = sizes.vnis.max(1);
        if self.vni_base.checked_add(vnis - 1).is_none() {
            return Err(format!("{vnis} VNIs from --vni-base {} on do not exist\n", self.vni_base));
        }
        // All that could make the plan itself too large is judged before it is made.
        let memberships = u64::from(sizes.peers) * u64::from(sizes.vnis_per_peer);
        let announcing = memberships + u64::from(sizes.announcers);
        let routes = announcing.saturating_mul(u64::from(sizes.routes));
        if routes > ROUTES_MAX || memberships > ROUTES_MAX || u64::from(vnis) > ROUTES_MAX {
            return Err(format!(
                "{routes} routes in {vnis} VNIs are too many: at most {ROUTES_MAX}\n"
            ));
        }
        let plan = scenario::plan(self.scenario, sizes, self.vni_base, self.fleet());
        if let Some(vni) = plan.vnis.iter().find(|vni| vni.routes() > ROUTES_PER_VNI_MAX) {
            return Err(format!(
                "{} routes in one VNI are too many: at most {ROUTES_PER_VNI_MAX}\n",
                vni.routes()
            ));
        }
        if self.scenario == Scenario::Restart
            && restart::sides(&plan, self.fleet().targets - 1).1.is_empty()
        {
            let words = "every peer would be at the last of the --targets, and nobody settled: more peers, or less --dual\n";
            return Err(words.to_owned());
        }
        if plan.view_bytes() > VIEW_BYTES_MAX {
            return Err(format!(
                "remembering what each peer was told would take {} MiB, at most {} are allowed: fewer peers \
                 or routes\n",
                plan.view_bytes() >> 20,
                VIEW_BYTES_MAX >> 20
            ));
        }
        Ok(())
    }

    /// Whether the servers, and the peers that are at two of them, make sense together.
    fn judge_targets(&self) -> Result<(), String> {
        let (targets, peers) = (self.targets.len(), self.sizes.all_peers());
        let wrong = |words: &str| Err(format!("{words}\n"));
        if targets > TARGETS_MAX {
            return Err(format!("{targets} --targets are too many: at most {TARGETS_MAX}\n"));
        }
        if targets > 1 && self.scenario == Scenario::Fairness {
            return wrong("--scenario fairness measures one server: give it with --target");
        }
        if targets > 0 && self.scenario == Scenario::Upgrade {
            return wrong(
                "--scenario upgrade starts the reflectors that take over from each other: leave out --target",
            );
        }
        if targets < 2 && self.scenario == Scenario::Restart {
            return wrong(
                "--scenario restart shows what the peers of other servers see of it: name those with --targets, and \
                 last the one that is to be restarted",
            );
        }
        if targets > 1 && self.server_pid.is_some() {
            return wrong(
                "--server-pid would tell what one of several --targets costs: leave it out",
            );
        }
        if self.dual == 0 {
            return Ok(());
        }
        if targets < 2 {
            return wrong(
                "--dual needs two servers for a peer to be connected to: name them with --targets",
            );
        }
        if !self.has_own_address {
            return wrong(
                "--dual needs an address for each peer, by which servers know it again, and loadgen has so \
                 many on the loopback interface only: --targets 127.0.0.1:4711,127.0.0.1:4712",
            );
        }
        if self.dual > peers {
            return Err(format!("--dual {} is more than all {peers} peers\n", self.dual));
        }
        Ok(())
    }
}
