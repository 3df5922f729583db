//! `/fabric.json`, and what else is told of the fabric: its part of the summary, its metrics, whether it is ready.
//!
//! Owns the words. Must never count anything itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::View;
use super::answer::{Content, Refusal};
use super::out::Out;
use crate::fabric::{Dropped, LeaseState, ReflectorStatus, Standing, State, Status};
use crate::io::FabricView;

/// The node's part in its fabric.
#[derive(Serialize)]
struct Fabric {
    fabric: String,
    name: String,
    /// `unlinked`, `reading`, `syncing`, `synced`, `leaving` or `fenced`.
    state: &'static str,
    /// What is wrong with the engine now, and what to do about it.
    trouble: Option<String>,
    /// The NATS server that it is connected to.
    server: Option<Server>,
    /// The stream, as it was when it was read last.
    stream: Option<Stream>,
    /// Routes that this node publishes.
    own_records: u64,
    /// Whether routes of its former life stand for peers which are not back yet.
    own_stale: bool,
    /// Routes of all other reflectors.
    remote_records: u64,
    /// Records that are still to be read.
    lag_records: u64,
    /// Routes that are still to be published.
    dirty_keys: u64,
    /// Publications without an answer.
    in_flight: u64,
    /// Routes that the engine has no room for.
    full_keys: u64,
    /// How long ago its own sign of life came back.
    canary_s: Option<u64>,
    /// How long routes of others stay if the engine does not come back.
    held_for_s: Option<u64>,
    /// Whether another process has its name, and when that one was started, in nanoseconds since 1970.
    twin: Option<u64>,
    since_start: SinceStart,
    /// Records that make no sense, or do not count, since the start, by reason.
    dropped_records: BTreeMap<&'static str, u64>,
    /// What a failed publication was told last.
    last_error: Option<String>,
    /// The others.
    reflectors: Vec<Reflector>,
}

#[derive(Serialize)]
struct Server {
    name: String,
    version: String,
}

#[derive(Serialize)]
struct Stream {
    name: String,
    replicas: usize,
    messages: u64,
    bytes: u64,
    last_sequence: u64,
}

#[derive(Serialize)]
struct SinceStart {
    links: u64,
    readings: u64,
    publish_errors: u64,
    digest_alarms: u64,
    /// Routes of others that this node's tables refused.
    refused: u64,
}

#[derive(Serialize)]
struct Reflector {
    name: String,
    /// `syncing`, `synced` or `leaving`, as it says itself; `stale` or `lost` if it says nothing any more; `gone` if it
    /// was removed; `unknown` while nobody can say.
    state: &'static str,
    /// How long its routes stay, if it is stale.
    stale_for_s: Option<u64>,
    records: u64,
    /// Those of them that it did not say again since everything was read last.
    records_former: u64,
    generation: u64,
    /// How often in a row what it says of its records differed from what we have.
    digest_misses: u32,
}

/// What the summary tells of it.
#[derive(Serialize)]
pub(super) struct InSummary {
    fabric: String,
    name: String,
    state: &'static str,
    /// Others that live.
    reflectors: usize,
    own_records: u64,
    remote_records: u64,
    lag_records: u64,
    dirty_keys: u64,
    trouble: Option<String>,
}

/// All of it.
pub(super) async fn fabric(view: &View) -> Result<Content, Refusal> {
    if !view.asker.has_fabric() {
        return Err(Refusal::NoFabric);
    }
    let told = view.asker.fabric().await.ok_or(Refusal::Gone)?;
    Ok(Content::json(&Fabric::of(told)))
}

/// Its part of the summary. None if there is no fabric.
pub(super) async fn in_summary(view: &View) -> Option<InSummary> {
    let FabricView { fabric, name, status, trouble, .. } = view.asker.fabric().await?;
    Some(InSummary {
        fabric,
        name,
        state: state(status.state),
        reflectors: status.reflectors.iter().filter(|it| lives(it)).count(),
        own_records: status.own_records,
        remote_records: status.remote_records,
        lag_records: status.lag_records,
        dirty_keys: status.dirty,
        trouble,
    })
}

/// Why new peers should go elsewhere, if they should: this node does not know what others know, or not any more. While
/// it still tells the others (`syncing`) its own peers are served as ever, and those of its former life have to find it.
pub(super) fn not_ready(told: &FabricView) -> Option<String> {
    let FabricView { fabric, status, trouble, .. } = told;
    match status.state {
        State::Reading | State::Syncing | State::Synced if status.lease_error.is_some() => {
            let why = trouble.as_deref().unwrap_or("its lease is refused");
            Some(format!("others do not hear of this node in the fabric {fabric}: {why}"))
        }
        State::Syncing | State::Synced => None,
        // Until that is done it has what it had.
        State::Reading if status.has_read => None,
        State::Reading => Some(format!(
            "routes of the other reflectors of the fabric {fabric} are being read: {} records to go",
            status.lag_records
        )),
        State::Unlinked => {
            let why = trouble.as_deref().unwrap_or("not connected yet");
            Some(format!(
                "the fabric {fabric} is out of reach: {why}. Peers of this node are served; routes of other \
                 reflectors stand still"
            ))
        }
        State::Leaving => Some("shutting down".to_owned()),
        State::Fenced => Some(format!(
            "another reflector of the fabric {fabric} was started later with the same --fabric-name"
        )),
    }
}

/// Its metrics.
pub(super) fn metrics(told: &FabricView, out: &mut Out) -> fmt::Result {
    let Status { state, lag_records, canary_age, held_for, twin, .. } = &told.status;
    let status = &told.status;
    let is = |wanted: &[State]| usize::from(wanted.contains(state));
    let linked = is(&[State::Reading, State::Syncing, State::Synced, State::Leaving]);
    out.gauge("fabric_linked", "Whether NATS can be reached.", linked)?;
    let help = "Whether everything in the fabric is being read.";
    out.gauge("fabric_reading", help, is(&[State::Reading]))?;
    let help = "Whether all was read and published.";
    out.gauge("fabric_synced", help, is(&[State::Synced]))?;
    let help = "Whether another process has this reflector's name in the fabric.";
    out.gauge("fabric_twin", help, usize::from(twin.is_some()))?;
    out.gauge("fabric_lag", "Records that are still to be read.", *lag_records as usize)?;
    let help = "Routes that this reflector publishes in the fabric.";
    out.gauge("fabric_own_records", help, status.own_records as usize)?;
    let records = |count: fn(&ReflectorStatus) -> u64| {
        let each = status.reflectors.iter();
        each.map(move |it| ([("reflector", it.name.clone())], count(it) as usize))
    };
    let help = "Routes of other reflectors, by reflector.";
    out.gauges("fabric_records", help, records(|it| it.records))?;
    let help =
        "Those of them that were not said again since everything was read last, by reflector.";
    out.gauges("fabric_former_records", help, records(|it| it.records_former))?;
    let help = "Other reflectors, by state: as each says itself; stale, if it says nothing and its routes still stand; \
                lost, if they are gone; gone, if it was removed; unknown, while all is being read or NATS is away.";
    let states = ["syncing", "synced", "leaving", "gone", "stale", "unknown", "lost"].map(|word| {
        let count = status.reflectors.iter().filter(|it| standing(it.standing) == word).count();
        ([("state", word)], count)
    });
    out.gauges("fabric_reflectors", help, states)?;
    let help = "Routes that are still to be published in the fabric.";
    out.gauge("fabric_dirty_keys", help, status.dirty as usize)?;
    let help = "Publications that NATS has not acknowledged.";
    out.gauge("fabric_in_flight", help, status.in_flight as usize)?;
    let help = "Routes that NATS has no room for.";
    out.gauge("fabric_full_keys", help, status.full as usize)?;
    let help =
        "Whether NATS refuses this reflector's own sign of life, or what has to come before it.";
    out.gauge("fabric_lease_refused", help, usize::from(status.lease_error.is_some()))?;
    let help = "How long ago this reflector's own sign of life came back, in seconds.";
    out.seconds_if("fabric_canary_seconds", help, *canary_age)?;
    let help = "How long routes of other reflectors stay if NATS does not come back, in seconds; 0 while it is there.";
    out.seconds("fabric_held_seconds", help, held_for.unwrap_or_default())?;
    let dropped = Dropped::ALL.into_iter().map(|reason| {
        let count = status.dropped.get(&reason).copied().unwrap_or(0);
        ([("reason", reason_of(reason))], count)
    });
    let help = "Records of the fabric that make no sense or do not count, by reason.";
    out.counters("fabric_dropped_records", help, dropped)?;
    let help = "Routes of other reflectors that this one's tables refused (limits, memory).";
    out.counter("fabric_refused", help, status.refused)?;
    let help = "Publications that failed; each is tried again.";
    out.counter("fabric_publish_errors", help, status.publish_errors)?;
    out.counter("fabric_readings", "How often everything was read.", status.readings)?;
    out.counter("fabric_links", "How often NATS was connected.", told.links)?;
    let help = "How often another reflector's routes differed from what it says of them, even after reading anew.";
    out.counter("fabric_digest_alarms", help, status.digest_alarms)
}

impl Fabric {
    fn of(told: FabricView) -> Fabric {
        let FabricView { fabric, name, status, server, stream, trouble, links } = told;
        let dropped = status.dropped.iter().filter(|(_, count)| **count > 0);
        Fabric {
            fabric,
            name,
            state: state(status.state),
            trouble,
            server: server.map(|it| Server { name: it.name, version: it.version }),
            stream: stream.map(|it| Stream {
                name: it.name,
                replicas: it.replicas,
                messages: it.messages,
                bytes: it.bytes,
                last_sequence: it.last_sequence,
            }),
            own_records: status.own_records,
            own_stale: status.own_stale,
            remote_records: status.remote_records,
            lag_records: status.lag_records,
            dirty_keys: status.dirty,
            in_flight: status.in_flight,
            full_keys: status.full,
            canary_s: status.canary_age.map(|age| age.as_secs()),
            held_for_s: status.held_for.map(seconds_up),
            twin: status.twin,
            since_start: SinceStart {
                links,
                readings: status.readings,
                publish_errors: status.publish_errors,
                digest_alarms: status.digest_alarms,
                refused: status.refused,
            },
            dropped_records: dropped.map(|(reason, count)| (reason_of(*reason), *count)).collect(),
            last_error: status.last_error,
            reflectors: status.reflectors.into_iter().map(Reflector::of).collect(),
        }
    }
}

impl Reflector {
    fn of(told: ReflectorStatus) -> Reflector {
        let stale_for_s = match told.standing {
            Standing::Stale(rest) => Some(seconds_up(rest)),
            Standing::Live(_) | Standing::Unknown | Standing::Lost | Standing::Removed => None,
        };
        Reflector {
            state: standing(told.standing),
            name: told.name,
            stale_for_s,
            records: told.records,
            records_former: told.records_former,
            generation: told.generation,
            digest_misses: told.digest_misses,
        }
    }
}

/// What is left of a time is not over before it is.
fn seconds_up(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

fn lives(reflector: &ReflectorStatus) -> bool {
    matches!(
        reflector.standing,
        Standing::Live(LeaseState::Syncing | LeaseState::Synced | LeaseState::Leaving)
    )
}

fn state(state: State) -> &'static str {
    match state {
        State::Unlinked => "unlinked",
        State::Reading => "reading",
        State::Syncing => "syncing",
        State::Synced => "synced",
        State::Leaving => "leaving",
        State::Fenced => "fenced",
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Live(state) => state.word(),
        Standing::Stale(_) => "stale",
        Standing::Unknown => "unknown",
        Standing::Lost => "lost",
        Standing::Removed => LeaseState::Gone.word(),
    }
}

fn reason_of(dropped: Dropped) -> &'static str {
    match dropped {
        Dropped::Subject => "subject",
        Dropped::Vni => "vni",
        Dropped::Name => "name",
        Dropped::Key => "key",
        Dropped::Version => "version",
        Dropped::Value => "value",
        Dropped::Lease => "lease",
        Dropped::Reflectors => "reflectors_max",
        Dropped::Routes => "routes_max",
        Dropped::Dead => "dead",
    }
}
