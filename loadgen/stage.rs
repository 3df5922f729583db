//! What a stage brought and cost: the record behind the table, the JSON and the report.
//!
//! Owns the fields of a stage and the sampling of the server. Must never count what came before the stage.

use std::sync::Arc;

use serde::Serialize;

use crate::clock::seconds;
use crate::cost;
use crate::hostile::Deeds;
use crate::latency::{self, Latency, Percentiles};
use crate::restart::Restart;
use crate::shared::{Counts, Shared};
use crate::verify::Difference;

/// Time between two samples of the server's cost.
const SAMPLE_NS: u64 = 50_000_000;

/// What became of an upgrade: a part of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Upgrade {
    /// Shards of the new reflector.
    pub cores: u32,
    /// From its start to the end of the old one.
    pub took_s: f64,
    /// How long peers had to wait, as the old one's log says.
    pub told_pause_ms: Option<f64>,
    /// The highest resident memory of the old process in all its life.
    pub old_rss_bytes_peak: Option<u64>,
    /// That of the new one so far.
    pub new_rss_bytes_peak: Option<u64>,
}

/// One stage of a scenario: an object of `--json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stage {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The stage's name.
    pub stage: String,
    /// Everything was as it should be: no view wrong, no fault, no connection lost.
    pub ok: bool,
    /// Why not, in words.
    pub failure: Option<String>,
    /// Peers connected at its end.
    pub peers: u64,
    /// From its beginning to its last delivery, or to its end if nothing was to be delivered.
    pub wall_s: f64,
    /// Updates sent to the server.
    pub updates_sent: u64,
    /// Updates received that were right and new to the receiver.
    pub deliveries: u64,
    /// Deliveries that it takes to send every change once. A server that conflates for slow peers needs fewer;
    /// one that tells joiners of routes that are gone already, or leaving peers of others that left, needs more.
    pub deliveries_expected: u64,
    /// Deliveries for each second of `wall_s`.
    pub deliveries_per_s: f64,
    /// Routes that peers should have had at the end, and had not.
    pub missing: u64,
    /// Routes that peers had at the end, and should not.
    pub stale: u64,
    /// Updates that told a peer what it knew.
    pub duplicate: u64,
    /// Updates of VNIs not subscribed to, or of routes that do not exist.
    pub unexpected: u64,
    /// Updates with a damaged field, or undecodable.
    pub wrong: u64,
    /// A peer's own routes that came back to it, with one server: allowed.
    pub own_returned: u64,
    /// The same with several servers: a fault.
    pub echoed: u64,
    /// Reads that peers without reassembly would not have survived: they ended inside a frame, or overran.
    pub unaligned_reads: u64,
    /// Those of them before which as much waited as the Go client's buffer holds.
    pub overruns: u64,
    /// Hold times of legacy peers that ran out: no KEEPALIVE for 5/2 of the interval.
    pub hold_expiries: u64,
    /// Connections of legacy peers that ended though nobody told them to; the peers came back.
    pub resets: u64,
    /// Connections to a server that was restarted, which were there again at the end.
    pub returned: u64,
    /// From the end of the first of them until the last one was back.
    pub away_s: Option<f64>,
    /// Updates that told peers of other servers of the restart: a fault.
    pub disturbed: u64,
    /// What the least favoured receiver took, as a share of what it can take: of those that need time.
    pub receiver_share_min: Option<f64>,
    /// The median of that share.
    pub receiver_share_median: Option<f64>,
    /// Connections that the server ended, or left silent.
    pub connections_lost: u64,
    /// Bytes received from the server.
    pub received_bytes: u64,
    /// Deliveries whose latency was measured.
    pub latency_samples: u64,
    /// From the scheduled time of sending to arrival.
    pub latency: Option<Percentiles>,
    /// From the scheduled time of sending to handing it to the socket: loadgen's own part of the latency.
    pub generator_lag_ms: Option<Percentiles>,
    /// The longest time between two reads of any peer that brought updates, while latencies were measured.
    pub longest_pause_ms: Option<f64>,
    /// What became of the upgrade amid it.
    pub upgrade: Option<Upgrade>,
    /// CPU time of the server process; of both, amid an upgrade.
    pub server_cpu_s: Option<f64>,
    /// The same for each delivery, in microseconds.
    pub server_cpu_us_per_delivery: Option<f64>,
    /// The server's resident memory when the stage began.
    pub server_rss_bytes_before: Option<u64>,
    /// Its highest value seen during the stage.
    pub server_rss_bytes_peak: Option<u64>,
    /// Its value when the stage ended.
    pub server_rss_bytes_after: Option<u64>,
    /// Its growth during the stage for each peer that connected in it.
    pub server_rss_bytes_per_new_peer: Option<f64>,
    /// What hostile peers did each second: updates, subscriptions or connections.
    pub hostile_per_s: Option<f64>,
    /// CPU time of hostile peers, a part of loadgen's.
    pub hostile_cpu_s: Option<f64>,
    /// CPU time of loadgen itself.
    pub generator_cpu_s: f64,
    /// The same for each update sent or received, in microseconds.
    pub generator_cpu_us_per_update: Option<f64>,
    /// What spoils the figures.
    pub warnings: Vec<String>,
    /// The latency by percentile: (1 / (1 - quantile), milliseconds).
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
    /// When it began and ended, in seconds of the run.
    #[serde(skip)]
    pub span_s: (f64, f64),
}

/// The state at one moment of the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Seconds of the run.
    pub at_s: f64,
    /// Deliveries so far.
    pub deliveries: u64,
    /// CPU seconds of the server's process so far.
    pub server_cpu_s: f64,
    /// The server's resident memory in bytes.
    pub server_rss_bytes: u64,
}

/// Records stages and samples.
pub struct Recorder {
    scenario: &'static str,
    shared: Arc<Shared>,
    watched: Vec<Watched>,
    stages: Vec<Stage>,
    samples: Vec<Sample>,
    open: Option<Open>,
    peers: u64,
    sampled_ns: u64,
    /// CPU time of server processes that are gone.
    former_cpu_ns: u64,
}

/// A process of the server, and what it cost as far as seen.
pub struct Watched {
    pid: u32,
    cpu_ns: u64,
    /// Its highest resident memory, if it could be read.
    pub rss_bytes_peak: Option<u64>,
}

/// The stage that runs.
struct Open {
    stage: Stage,
    begun_ns: u64,
    counts: Counts,
    server_cpu_ns: Option<u64>,
    rss_highest_ever: u64,
    peers: u64,
    own_cpu_ns: u64,
}

impl Recorder {
    /// Nothing recorded.
    pub fn new(shared: Arc<Shared>, pid: Option<u32>) -> Recorder {
        Recorder {
            scenario: "",
            shared,
            watched: pid.into_iter().map(Watched::new).collect(),
            stages: Vec::new(),
            samples: Vec::new(),
            open: None,
            peers: 0,
            sampled_ns: 0,
            former_cpu_ns: 0,
        }
    }

    /// The name that stages carry from now on.
    pub fn scenario(&mut self, name: &'static str) {
        self.scenario = name;
    }

    /// Watch this process from now on.
    pub fn watch(&mut self, pid: Option<u32>) {
        for pid in self.watched.iter().map(|it| it.pid).collect::<Vec<_>>() {
            self.watch_no_more(pid);
        }
        self.watched.extend(pid.map(Watched::new));
    }

    /// Watch this process, too: what they cost is added up.
    pub fn watch_also(&mut self, pid: u32) {
        self.watched.push(Watched::new(pid));
    }

    /// Watch this process no more; what it cost stays counted.
    pub fn watch_no_more(&mut self, pid: u32) -> Option<Watched> {
        let at = self.watched.iter().position(|it| it.pid == pid)?;
        let gone = self.watched.remove(at);
        self.former_cpu_ns += gone.cpu_ns;
        Some(gone)
    }

    /// The highest memory of a process so far.
    pub fn rss_bytes_peak(&self, pid: u32) -> Option<u64> {
        self.watched.iter().find(|it| it.pid == pid)?.rss_bytes_peak
    }

    /// Adds what became of an upgrade.
    pub fn upgrade(&mut self, upgrade: Upgrade) {
        if let Some(Open { stage, .. }) = &mut self.open {
            stage.upgrade = Some(upgrade);
        }
    }

    /// Adds what spoils the figures.
    pub fn warn(&mut self, warning: String) {
        if let Some(Open { stage, .. }) = &mut self.open {
            stage.warnings.push(warning);
        }
    }

    /// Begins a stage.
    pub fn begin(&mut self, name: &str, deliveries_expected: u64) {
        let resident = self.resident();
        let stage = Stage {
            scenario: self.scenario,
            stage: name.to_owned(),
            deliveries_expected,
            server_rss_bytes_before: resident.map(|(rss, _)| rss),
            server_rss_bytes_peak: resident.map(|(rss, _)| rss),
            ..Stage::default()
        };
        self.open = Some(Open {
            stage,
            begun_ns: self.shared.clock.now_ns(),
            counts: self.shared.counts(),
            server_cpu_ns: self.server_cpu_ns(),
            rss_highest_ever: resident.map_or(0, |(_, highest)| highest),
            peers: self.peers,
            own_cpu_ns: cost::own_cpu_ns(),
        });
    }

    /// How many peers are connected now.
    pub fn peers(&mut self, peers: u64) {
        self.peers = peers;
    }

    /// Counters since the stage began, which has to be so; and all of them without a stage.
    pub fn counts(&self) -> Counts {
        let mut counts = self.shared.counts();
        if let Some(open) = &self.open {
            let (lost, last) = (counts.lost, counts.last_delivery_ns);
            counts = counts.since(&open.counts);
            (counts.lost, counts.last_delivery_ns) = (lost, last);
        }
        counts
    }

    /// Deliveries that the stage should bring.
    pub fn expected_deliveries(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.stage.deliveries_expected)
    }

    /// Looks at the server, if it is time to, and at the counters.
    pub fn sample(&mut self) {
        let now_ns = self.shared.clock.now_ns();
        // Two processes are there for a moment only.
        let is_due = now_ns >= self.sampled_ns + SAMPLE_NS || self.watched.len() > 1;
        if is_due || self.samples.is_empty() {
            self.sampled_ns = now_ns;
            let rss = self.resident().map_or(0, |(rss, _)| rss);
            let cpu_ns = self.server_cpu_ns().unwrap_or_default();
            self.samples.push(Sample {
                at_s: seconds(now_ns),
                deliveries: self.shared.counts().deliveries,
                server_cpu_s: seconds(cpu_ns),
                server_rss_bytes: rss,
            });
            if let Some(Open { stage: Stage { server_rss_bytes_peak: Some(peak), .. }, .. }) =
                &mut self.open
            {
                *peak = rss.max(*peak);
            }
        }
    }

    /// Adds latencies to the stage.
    pub fn latency(&mut self, latency: Latency) {
        if let Some(Open { stage, .. }) = &mut self.open
            && !latency.delivery_ns.is_empty()
        {
            stage.latency_samples = latency.delivery_ns.len();
            stage.latency = Some(latency::percentiles(&latency.delivery_ns));
            stage.generator_lag_ms = Some(latency::percentiles(&latency.lag_ns));
            stage.longest_pause_ms =
                (latency.pause_ns > 0).then_some(latency.pause_ns as f64 / 1e6);
            stage.curve = latency::curve(&latency.delivery_ns);
            stage.warnings.extend(latency.warning());
        }
    }

    /// Adds what hostile peers did.
    pub fn hostile(&mut self, deeds: Deeds) {
        let now_ns = self.shared.clock.now_ns();
        if let Some(Open { stage, begun_ns, .. }) = &mut self.open {
            let passed_s = seconds(now_ns - *begun_ns);
            stage.hostile_per_s = ratio(deeds.count as f64, passed_s);
            stage.hostile_cpu_s = Some(seconds(deeds.cpu_ns));
        }
    }

    /// Adds what was missing at the end.
    pub fn difference(&mut self, difference: &Difference) {
        if let Some(Open { stage, .. }) = &mut self.open {
            (stage.missing, stage.stale) = (difference.missing, difference.stale);
        }
    }

    /// Adds receivers' shares of what they can take.
    pub fn shares(&mut self, mut shares: Vec<f64>) {
        shares.sort_by(f64::total_cmp);
        if let Some(Open { stage, .. }) = &mut self.open {
            stage.receiver_share_min = shares.first().copied();
            stage.receiver_share_median = shares.get(shares.len() / 2).copied();
        }
    }

    /// Ends the stage that runs, if one does.
    pub fn end(&mut self, failure: Option<&str>) -> Option<&Stage> {
        self.sampled_ns = 0;
        self.sample();
        let counts = self.counts();
        let cpu_ns = self.server_cpu_ns();
        let resident = self.resident();
        let open = self.open.take()?;
        let now_ns = self.shared.clock.now_ns();
        let mut stage = open.stage;
        let last_ns = if counts.deliveries > 0 && stage.deliveries_expected > 0 {
            counts.last_delivery_ns
        } else {
            now_ns
        };
        stage.wall_s = seconds(last_ns.saturating_sub(open.begun_ns));
        stage.span_s = (seconds(open.begun_ns), seconds(now_ns));
        stage.peers = self.peers;
        stage.updates_sent = counts.sent;
        stage.deliveries = counts.deliveries;
        stage.deliveries_per_s = ratio(counts.deliveries as f64, stage.wall_s).unwrap_or_default();
        stage.duplicate = counts.duplicate;
        stage.unexpected = counts.unexpected;
        stage.wrong = counts.wrong;
        stage.own_returned = counts.own;
        stage.echoed = counts.echoed;
        stage.unaligned_reads = counts.unaligned;
        stage.overruns = counts.overruns;
        stage.hold_expiries = counts.hold_expiries;
        stage.resets = counts.resets;
        stage.connections_lost = counts.lost;
        stage.returned = counts.returned;
        let away_ns = self.shared.restart.get().map(Restart::away_ns);
        stage.away_s = away_ns.filter(|_| counts.returned > 0).map(seconds);
        stage.disturbed = counts.disturbed;
        stage.received_bytes = counts.received_bytes;
        if let (Some(before), Some(after)) = (open.server_cpu_ns, cpu_ns) {
            let cpu_s = seconds(after.saturating_sub(before));
            stage.server_cpu_s = Some(cpu_s);
            stage.server_cpu_us_per_delivery = ratio(cpu_s * 1e6, counts.deliveries as f64);
        }
        if let Some((rss, highest)) = resident {
            stage.server_rss_bytes_after = Some(rss);
            // The kernel's own maximum, where it is of this stage.
            let seen = stage.server_rss_bytes_peak.unwrap_or_default().max(rss);
            stage.server_rss_bytes_peak =
                Some(if highest > open.rss_highest_ever { highest.max(seen) } else { seen });
            let grown = rss as f64 - stage.server_rss_bytes_before.unwrap_or(rss) as f64;
            let new_peers = self.peers.saturating_sub(open.peers);
            stage.server_rss_bytes_per_new_peer = ratio(grown, new_peers as f64);
        }
        stage.generator_cpu_s = seconds(cost::own_cpu_ns().saturating_sub(open.own_cpu_ns));
        let updates = (counts.deliveries + counts.sent) as f64;
        stage.generator_cpu_us_per_update = ratio(stage.generator_cpu_s * 1e6, updates);
        stage.ok = failure.is_none() && counts.faults() == 0 && counts.lost == 0;
        stage.failure = failure.map(str::to_owned);
        self.stages.push(stage);
        self.stages.last()
    }

    /// All stages that have ended.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn server_cpu_ns(&mut self) -> Option<u64> {
        let mut is_known = false;
        for it in &mut self.watched {
            if let Ok(cpu_ns) = cost::cpu_ns(it.pid) {
                (it.cpu_ns, is_known) = (cpu_ns, true);
            }
        }
        let cpu_ns = self.watched.iter().map(|it| it.cpu_ns).sum::<u64>();
        is_known.then_some(self.former_cpu_ns + cpu_ns)
    }

    /// Resident memory of the server, and its highest value if that is known: the highest ones of two processes
    /// may not have been at one time.
    fn resident(&mut self) -> Option<(u64, u64)> {
        let mut sum: Option<(u64, u64)> = None;
        for it in &mut self.watched {
            if let Ok((rss, highest)) = cost::resident_bytes(it.pid) {
                it.rss_bytes_peak = Some(highest);
                sum = Some(sum.map_or((rss, highest), |(before, _)| (before + rss, 0)));
            }
        }
        sum
    }
}

impl Watched {
    fn new(pid: u32) -> Watched {
        Watched { pid, cpu_ns: 0, rss_bytes_peak: None }
    }
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}
