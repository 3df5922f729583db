//! `/metrics`: the node for Prometheus.
//!
//! Owns the names of metrics, and what is said about them. Must never name a metric by what a peer says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use super::View;
use super::answer::{Content, Refusal};
use super::out::Out;
use super::totals::{Shards, Totals};
use crate::io::{ConnectionsMax, MemoryView};
use crate::kernel;
use crate::session::{CloseReason, State};
use crate::shard::{Counters, MemoryBounds, PeerView};

/// The two text formats that there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exposition {
    OpenMetrics,
    /// The older one, for whoever asks for text and does not know the newer one.
    Prometheus,
}

/// What `Accept` asks for.
impl Exposition {
    pub(super) fn of(accept: Option<&str>) -> Exposition {
        let accept = accept.unwrap_or_default().to_ascii_lowercase();
        // Browsers show text, and download what they do not know.
        let wants_text = ["text/plain", "text/html"].iter().any(|kind| accept.contains(kind));
        match wants_text && !accept.contains("application/openmetrics-text") {
            true => Exposition::Prometheus,
            false => Exposition::OpenMetrics,
        }
    }
}

/// All metrics; of each peer too, if the view says so.
pub(super) async fn metrics(view: &View, exposition: Exposition) -> Result<Content, Refusal> {
    let mut peers: BTreeMap<String, PeerRow> = BTreeMap::new();
    let totals = Totals::collect(view, |peer| {
        if view.metrics_per_peer && peer.state == State::Established {
            let address = peer.remote.map(|remote| remote.to_string()).unwrap_or_default();
            // Two connections may come from one port, to different addresses of ours.
            peers.entry(address).or_default().add(peer);
        }
    });
    let node = Node {
        totals: totals.await?,
        peers,
        version: view.version,
        local: view.local(),
        started_at: view.started_at,
        connections_max: view.asker.connections_max(),
        connections_refused: view.asker.connections_refused().collect(),
        memory: view.asker.memory(),
        servers: view.servers(),
        kernel: view.kernel_counters(),
        #[cfg(feature = "fabric")]
        fabric: view.asker.fabric().await,
    };
    let mut registry = Registry::with_prefix("metalbond");
    registry.register_collector(Box::new(node));
    let mut body = String::new();
    let (kind, written) = match exposition {
        Exposition::OpenMetrics => (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            text::encode(&mut body, &registry),
        ),
        Exposition::Prometheus => (
            "text/plain; version=0.0.4; charset=utf-8",
            prometheus_text::encode(&mut body, &registry),
        ),
    };
    written.expect("text takes all that is written");
    Ok(Content::whole(kind, body))
}

/// What was collected for one answer.
struct Node {
    totals: Totals,
    /// By address.
    peers: BTreeMap<String, PeerRow>,
    version: &'static str,
    local: String,
    started_at: SystemTime,
    connections_max: ConnectionsMax,
    connections_refused: Vec<(&'static str, u64)>,
    memory: Option<MemoryView>,
    servers: Vec<State>,
    kernel: Option<kernel::Counters>,
    #[cfg(feature = "fabric")]
    fabric: Option<crate::io::FabricView>,
}

/// What is told of one peer.
#[derive(Default)]
struct PeerRow {
    routes: u64,
    subscriptions: u64,
    pending_bytes: u64,
    slow_vnis: u64,
    updates_received: u64,
    updates_sent: u64,
}

impl PeerRow {
    fn add(&mut self, peer: &PeerView) {
        self.routes += peer.routes;
        self.subscriptions += peer.vnis.len() as u64;
        self.pending_bytes += peer.pending_bytes;
        self.slow_vnis += peer.slow_vnis as u64;
        self.updates_received += peer.updates_received;
        self.updates_sent += peer.updates_sent;
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

impl Collector for Node {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        self.about(&mut out)?;
        self.peers(&mut out)?;
        self.traffic(&mut out)?;
        self.memory(&mut out)?;
        self.timings(&mut out)?;
        self.pacing(&mut out)?;
        self.client(&mut out)?;
        #[cfg(feature = "fabric")]
        if let Some(fabric) = &self.fabric {
            super::fabric::metrics(fabric, &mut out)?;
        }
        match self.peers.is_empty() {
            true => Ok(()),
            false => self.each_peer(&mut out),
        }
    }
}

impl Node {
    fn about(&self, out: &mut Out) -> fmt::Result {
        let labels = [("version", self.version)];
        out.gauges("build_info", "The version, as a label; always 1.", [(labels, 1)])?;
        let since = self.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let help = "When the program started, in seconds since 1970.";
        out.seconds("start_time_seconds", help, since)?;
        out.gauge("routes", "Routes, each counted once in its VNI.", self.held(|it| it.routes))?;
        let help = "VNIs that have a route or a subscriber, or had one a moment ago.";
        out.gauge("vnis", help, self.held(|it| it.vnis))?;
        let help = "Routes that peers announce and that policy withholds (--nexthop-policy, --announce-policy).";
        out.gauge("routes_withheld", help, self.held(|it| it.routes_withheld))?;
        let help = "Lost peers whose routes stay for now (--stale-time).";
        out.gauge("sources_absent", help, self.held(|it| it.sources_absent))?;
        let help = "The routes that those announced.";
        out.gauge("routes_absent", help, self.held(|it| it.routes_absent as usize))
    }

    fn peers(&self, out: &mut Out) -> fmt::Result {
        let peers = &self.totals.peers;
        let states = [("connecting", peers.connecting), ("established", peers.established)];
        let states = states.map(|(state, count)| ([("state", state)], count));
        out.gauges("peers", "Connections, by state.", states)?;
        let help =
            "Peers that will be told only the difference in some VNI, for they read too slowly.";
        out.gauge("peers_slow", help, peers.slow)?;
        let help = "Peers that do not reassemble frames, and are fed carefully.";
        out.gauge("peers_paced", help, peers.paced)?;
        let help = "Addresses of which more than 3 sessions ended within the last hour.";
        out.gauge("peers_flapping", help, self.totals.flapping)?;
        out.gauge("subscriptions", "Subscriptions of VNIs by peers.", peers.subscriptions)?;
        let help = "Bytes that peers have still to be sent, at most, where they are not told the difference only.";
        out.gauge("pending_bytes", help, peers.pending_bytes as usize)?;
        let max = self.connections_max;
        out.gauge("peers_max", "The bound of connections: --peers-max.", max.all)?;
        let help = "The bound of connections from one address: --peers-per-address-max.";
        out.gauge("peers_per_address_max", help, max.of_one_address)?;
        let help = "The bound of connections without a session: --handshakes-max.";
        out.gauge("handshakes_max", help, max.handshakes)?;
        let connections = self.totals.shards.counted(|it| it.connections);
        out.counter("connections", "Connections taken over.", connections)?;
        let help = "Connections closed at once, by reason: --peers-max, --peers-per-address-max, --handshakes-max, \
                    --allow, --memory-max.";
        let refused = self.connections_refused.iter();
        let refused = refused.map(|(reason, count)| ([("reason", *reason)], *count));
        out.counters("connections_refused", help, refused)?;
        let help = "Sessions that ended, by reason.";
        let ended = |at: usize| self.totals.shards.counted(|it| it.sessions_ended[at]);
        out.counters("peer_disconnects", help, by_reason(ended))?;
        let help = "Connections that ended before a session was established, by reason; those of health checks \
                    count as remote_closed.";
        let failed = |at: usize| self.totals.shards.counted(|it| it.handshakes_failed[at]);
        out.counters("handshakes_failed", help, by_reason(failed))
    }

    fn traffic(&self, out: &mut Out) -> fmt::Result {
        let count =
            |counter: fn(&crate::shard::Counters) -> u64| self.totals.shards.counted(counter);
        let help = "UPDATEs taken from peers.";
        out.counter("updates_received", help, count(|it| it.updates_received))?;
        let help = "UPDATEs passed on to peers, each counted for each of them.";
        out.counter("updates_sent", help, count(|it| it.updates_sent))?;
        let help = "UPDATEs that changed nothing: what was known was announced again, or what was not withdrawn.";
        out.counter("updates_without_effect", help, count(|it| it.updates_without_effect))?;
        out.counter("received_bytes", "Bytes read from peers.", count(|it| it.bytes_received))?;
        out.counter("sent_bytes", "Bytes sent to peers.", count(|it| it.bytes_sent))?;
        let dropped = Counters::REFUSED.iter().enumerate().map(|(at, (reason, _))| {
            ([("reason", *reason)], self.totals.shards.counted(|it| it.refused[at]))
        });
        let limits = self.totals.shards.0.first().map(|shard| shard.limits).unwrap_or_default();
        let help = "The bound of routes that a peer announces: --routes-per-peer-max.";
        out.gauge("peer_routes_max", help, limits.routes_per_peer_max as usize)?;
        let help = "The bound of VNIs that a peer subscribes to: --vnis-per-peer-max.";
        out.gauge("peer_subscriptions_max", help, limits.vnis_per_peer_max as usize)?;
        let help = "Messages that had no effect: UPDATEs that make no sense, and routes and subscriptions that are \
                    beyond a limit, for which memory is short, or that policy does not permit.";
        out.counters("dropped_messages", help, dropped)?;
        let help = "How often a peer was not heard for a while, since it sent more than --updates-per-s-max.";
        out.counter("rate_pauses", help, count(|it| it.rate_pauses))?;
        let help = "Lost peers whose routes were withdrawn before --stale-time was over, since there were too many.";
        out.counter("sources_crowded_out", help, count(|it| it.sources_crowded_out))?;
        let help = "Lost peers whose next connection went on with their routes (--stale-time).";
        out.counter("sources_taken_over", help, count(|it| it.sources_taken_over))?;
        let help = "Subscriptions of slow peers that were told the difference only from then on.";
        out.counter("conflations", help, count(|it| it.conflations))
    }

    fn memory(&self, out: &mut Out) -> fmt::Result {
        let held = [
            ("logs", self.held(|it| it.log_bytes)),
            ("laggards", self.held(|it| it.laggard_bytes)),
            ("gathered", self.held(|it| it.gathered_bytes)),
            ("bases", self.held(|it| it.base_bytes)),
            ("requests", self.held(|it| it.request_bytes)),
            ("input", self.totals.peers.input_bytes),
        ];
        if let Some(memory) = self.memory {
            let help = "Memory in use: of the process, or of a control group that it is in if that is nearer to its \
                        limit.";
            out.gauge("memory_used_bytes", help, memory.used_bytes as usize)?;
            let help = "What metalbond_memory_used_bytes may come to: --memory-max, or the control group's limit.";
            out.gauge("memory_budget_bytes", help, memory.budget_bytes as usize)?;
            let help = "How short memory is: 0 not at all; 1 slow peers are told the difference only; 2 no new \
                        routes either; 3 no new subscriptions; 4 no new connections.";
            out.gauge("memory_pressure", help, memory.pressure as usize)?;
        }
        let help = "Memory that is held for peers: logs of UPDATEs, what slow peers have missed, buffers to \
                    gather in, tables on their way to new subscribers, changes that wait to be dealt with, and input \
                    that waits.";
        out.gauges("memory_bytes", help, held.map(|(pool, bytes)| ([("pool", pool)], bytes)))?;
        let Totals { shards: Shards(shards), peers, .. } = &self.totals;
        let sum =
            |bound: fn(&MemoryBounds) -> usize| shards.iter().map(|it| bound(&it.bounds)).sum();
        let input = shards.first().map_or(0, |shard| shard.bounds.input_bytes_per_peer);
        let bounds: [(_, usize); 5] = [
            ("logs", sum(|it| it.log_bytes)),
            ("laggards", sum(|it| it.laggard_bytes as usize)),
            ("gathered", sum(|it| it.gathered_bytes)),
            ("requests", sum(|it| it.request_bytes)),
            ("input", (peers.established + peers.connecting) * input),
        ];
        let help = "Bounds of metalbond_memory_bytes. Beyond that of logs, readers become slow peers; beyond that \
                    of laggards (--queue-mib-max), the slowest are closed; beyond that of gathered, buffers are small; \
                    at that of requests and input, peers are not read.";
        out.gauges("memory_max_bytes", help, bounds.map(|(pool, bytes)| ([("pool", pool)], bytes)))
    }

    fn timings(&self, out: &mut Out) -> fmt::Result {
        let help = "From the reading of an UPDATE to the SEND that carries it on, in samples.";
        out.histogram("propagation_seconds", help, &self.totals.shards.propagation())?;
        let turns = self.totals.shards.0.iter().zip(0_u16..);
        let turns = turns.map(|(shard, at)| ([("shard", at)], shard.turns));
        let help = "How long a shard's turns took, with what it was asked: reading and sending wait meanwhile.";
        out.histograms("turn_seconds", help, turns)
    }

    fn pacing(&self, out: &mut Out) -> fmt::Result {
        let pacing = &self.totals.peers.pacing;
        let help = "Times at which a peer that does not reassemble was shown to have read all.";
        out.counter("pacing_proofs", help, pacing.proofs)?;
        let help = "Probes of such peers that showed nothing, by how they failed.";
        let failed = [("late", pacing.late), ("void", pacing.void)];
        let failed = failed.map(|(outcome, count)| ([("outcome", outcome)], count));
        out.counters("pacing_probes_failed", help, failed)?;
        let help = "Frames sent alone so that a peer's kernel acknowledges in its own time.";
        out.counter("pacing_burn_frames", help, pacing.burn_frames)?;
        let help = "Times at which a peer's window had no room.";
        out.counter("pacing_gate_waits", help, pacing.gate_waits)?;
        let help = "KEEPALIVEs that filled up segments.";
        out.counter("pacing_pads", help, pacing.pads)?;
        let help = "Peers closed since they read nothing any more.";
        out.counter("pacing_unread_closes", help, pacing.unread_closes)?;
        let help = "Connections of such peers that were lost within 10 s of UPDATEs.";
        out.counter("pacing_resets", help, pacing.resets)
    }

    /// What only a client has.
    fn client(&self, out: &mut Out) -> fmt::Result {
        if !self.servers.is_empty() {
            let states = [State::Connecting, State::HelloSent, State::HelloReceived];
            let others = states.into_iter().chain([State::Established, State::Retry]);
            let states = others.map(|state| {
                let count = self.servers.iter().filter(|other| **other == state).count();
                ([("state", super::peers::state(state))], count)
            });
            out.gauges("servers", "Servers that this client connects to, by state.", states)?;
        }
        let Some(kernel) = &self.kernel else { return Ok(()) };
        let help = "Routes of ours in the kernel.";
        out.gauge("netlink_routes", help, kernel.installed as usize)?;
        let help = "Destinations where a route of another program is in the way.";
        out.gauge("netlink_conflicts", help, kernel.conflicts as usize)?;
        let help = "Destinations that have a route of another program besides ours.";
        out.gauge("netlink_shared", help, kernel.shared as usize)?;
        let help = "Routes of a former run that stay until servers have told what they know.";
        out.gauge("netlink_stale", help, kernel.stale as usize)?;
        let help = "Nexthop objects of ours in the kernel.";
        out.gauge("netlink_nexthops", help, kernel.nexthops as usize)?;
        let help = "Next hops that are left out of routes that have too many.";
        out.gauge("netlink_hops_left_out", help, kernel.hops_left_out as usize)?;
        let operations =
            [("add", kernel.added), ("replace", kernel.replaced), ("delete", kernel.deleted)];
        let operations = operations.map(|(operation, count)| ([("operation", operation)], count));
        let help = "Changes of routes that the kernel has made for us.";
        out.counters("netlink_operations", help, operations)?;
        let errors = [
            ("refused", kernel.failed_refused),
            ("busy", kernel.failed_busy),
            ("link", kernel.failed_link),
            ("denied", kernel.failed_denied),
            ("unknown", kernel.failed_unknown),
            ("conflict", kernel.conflicts_total),
        ];
        let help = "Requests that the kernel did not carry out, by reason.";
        out.counters("netlink_errors", help, errors.map(|(reason, n)| ([("reason", reason)], n)))?;
        let skipped = [
            ("no_table", kernel.skipped_no_table),
            ("ipv6_destination", kernel.skipped_ipv6_destination),
            ("prefix_length", kernel.skipped_prefix_length),
            ("hop_ipv4", kernel.skipped_hop_ipv4),
            ("hop_unspecified", kernel.skipped_hop_unspecified),
            ("hop_multicast", kernel.skipped_hop_multicast),
            ("hop_embeds_ipv4", kernel.skipped_hop_embeds_ipv4),
            ("hop_loopback", kernel.skipped_hop_loopback),
            ("hop_link_local", kernel.skipped_hop_link_local),
        ];
        let help = "Routes that were not installed, by reason.";
        out.counters(
            "netlink_skipped",
            help,
            skipped.map(|(reason, n)| ([("reason", reason)], n)),
        )?;
        let help = "Routes that others had changed or deleted, and that were put right.";
        out.counter("netlink_repairs", help, kernel.repaired)
    }

    /// With `--metrics-per-peer`; the last two under names that dashboards in the field know.
    fn each_peer(&self, out: &mut Out) -> fmt::Result {
        let of = |value: fn(&PeerRow) -> u64| {
            self.peers.iter().map(move |(address, row)| ([("peer", address.as_str())], value(row)))
        };
        let sizes = |value| of(value).map(|(labels, value)| (labels, value as usize));
        out.gauges("peer_routes", "Routes that a peer announces.", sizes(|row| row.routes))?;
        let help = "VNIs that a peer subscribes to.";
        out.gauges("peer_subscriptions", help, sizes(|row| row.subscriptions))?;
        let help = "Bytes that a peer has still to be sent, at most, where it is not told the difference only.";
        out.gauges("peer_pending_bytes", help, sizes(|row| row.pending_bytes))?;
        let help = "VNIs in which a peer will be told the difference only.";
        out.gauges("peer_slow_vnis", help, sizes(|row| row.slow_vnis))?;
        let help = "UPDATEs taken from a peer.";
        out.counters("peer_updates_received", help, of(|row| row.updates_received))?;
        let help = "UPDATEs sent to a peer.";
        out.counters("peer_updates_sent", help, of(|row| row.updates_sent))?;
        let both = |value: fn(&PeerRow) -> u64| {
            self.peers.iter().map(move |(address, row)| {
                let labels = [("local", self.local.as_str()), ("peer", address.as_str())];
                (labels, value(row) as usize)
            })
        };
        out.gauges("route_count", "The same as metalbond_peer_routes.", both(|row| row.routes))?;
        let help = "The same as metalbond_peer_subscriptions.";
        out.gauges("subscription_count", help, both(|row| row.subscriptions))
    }

    fn held(&self, held: impl Fn(&crate::shard::Usage) -> usize) -> usize {
        self.totals.shards.held(held)
    }
}

fn by_reason(
    count: impl Fn(usize) -> u64,
) -> impl Iterator<Item = ([(&'static str, &'static str); 1], u64)> {
    let kinds = CloseReason::KINDS.into_iter().enumerate();
    kinds.map(move |(at, kind)| ([("reason", kind)], count(at)))
}
