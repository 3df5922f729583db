//! What a stage brought and cost: the record behind the table, the JSON and the report.
//!
//! Owns the fields of a stage and the sampling of the server. Must never count what came before the stage.

use std::sync::Arc;

use serde::Serialize;

use crate::clock::seconds;
use crate::cost;
use crate::hostile::Deeds;
use crate::latency::{self, Latency, Percentiles};
use crate::shared::{Counts, Shared};
use crate::verify::Difference;

/// Time between two samples of the server's cost.
const SAMPLE_NS: u64 = 50_000_000;

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
    /// CPU time of the server process.
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
    pid: Option<u32>,
    stages: Vec<Stage>,
    samples: Vec<Sample>,
    open: Option<Open>,
    peers: u64,
    sampled_ns: u64,
    /// CPU time of server processes that are gone.
    former_cpu_ns: u64,
    last_cpu_ns: u64,
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
            pid,
            stages: Vec::new(),
            samples: Vec::new(),
            open: None,
            peers: 0,
            sampled_ns: 0,
            former_cpu_ns: 0,
            last_cpu_ns: 0,
        }
    }

    /// The name that stages carry from now on.
    pub fn scenario(&mut self, name: &'static str) {
        self.scenario = name;
    }

    /// Watch this process from now on.
    pub fn watch(&mut self, pid: Option<u32>) {
        self.pid = pid;
        self.former_cpu_ns = self.last_cpu_ns;
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
        if now_ns >= self.sampled_ns + SAMPLE_NS || self.samples.is_empty() {
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
                Some(if highest > open.rss_highest_ever { highest } else { seen });
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
        let cpu_ns = cost::cpu_ns(self.pid?).ok()? + self.former_cpu_ns;
        self.last_cpu_ns = cpu_ns;
        Some(cpu_ns)
    }

    fn resident(&self) -> Option<(u64, u64)> {
        cost::resident_bytes(self.pid?).ok()
    }
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}
