//! `/peers.json`: who is connected.
//!
//! Owns its shape. Must never ask a peer anything.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use super::answer::{Content, Refusal};
use super::query::Filter;
use super::{View, collect};
use crate::session::State;
use crate::shard::PeerView;
use crate::types::{Pace, PeerClass};

#[derive(Serialize)]
struct Peers {
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Peer {
    id: String,
    address: String,
    class: &'static str,
    state: &'static str,
    direction: &'static str,
    /// Since when it is established.
    since: Option<String>,
    established_for_s: Option<u64>,
    keepalive_interval_s: u32,
    reassembles: bool,
    pace: String,
    reconnections_last_hour: u32,
    routes: u64,
    routes_withheld: u64,
    stale: bool,
    refused: BTreeMap<&'static str, u64>,
    updates_received: u64,
    updates_sent: u64,
    pending_bytes: u64,
    slow: bool,
    slow_vnis: usize,
    slow_for_s: Option<u64>,
    paused: bool,
    vnis: Vec<u32>,
}

/// The peers that the filter lets pass, by address.
pub(super) async fn peers(view: &View, filter: &Filter) -> Result<Content, Refusal> {
    let _walk = view.walks.acquire().await.map_err(|_| Refusal::Gone)?;
    let ended = collect::ends(view).await?;
    let mut peers = Vec::new();
    collect::peers(view, |peer| {
        let Some(remote) = peer.remote else { return };
        let is_meant = filter.peer.is_none_or(|address| address.is(remote));
        let has_vni = filter.vnis.is_empty() || peer.vnis.iter().any(|vni| filter.has_vni(*vni));
        if is_meant && has_vni {
            let address = remote.ip().to_canonical();
            let since = peer.established_at.map(|time| view.asker.wall_clock(time));
            let reconnections = ended.get(&address).copied().unwrap_or(0);
            peers.push(((address, remote.port()), shape(peer, since, reconnections)));
        }
    })
    .await?;
    peers.sort_unstable_by_key(|(remote, _)| *remote);
    let peers = peers.into_iter().map(|(_, peer)| peer).collect();
    Ok(Content::json(&Peers { peers }))
}

fn shape(peer: PeerView, since: Option<SystemTime>, reconnections_last_hour: u32) -> Peer {
    Peer {
        id: peer.id.to_string(),
        address: peer.remote.map(|remote| remote.to_string()).unwrap_or_default(),
        class: match peer.class {
            PeerClass::Client => "client",
            PeerClass::Server => "server",
            PeerClass::Own => "own",
        },
        state: state(peer.state),
        direction: if peer.is_dialled { "outgoing" } else { "incoming" },
        since: since.and_then(rfc_3339),
        established_for_s: since.map(|since| since.elapsed().unwrap_or_default().as_secs()),
        keepalive_interval_s: peer.keepalive_interval_s,
        reassembles: peer.reassembles,
        pace: match peer.pace {
            _ if peer.reassembles => "off".to_owned(),
            Pace::Off => "off".to_owned(),
            Pace::Auto => "auto".to_owned(),
            Pace::RoutesPerS(routes_per_s) => routes_per_s.to_string(),
        },
        reconnections_last_hour,
        routes: peer.routes,
        routes_withheld: peer.routes_withheld,
        stale: peer.is_stale,
        refused: peer.refused.into_iter().collect(),
        updates_received: peer.updates_received,
        updates_sent: peer.updates_sent,
        pending_bytes: peer.pending_bytes,
        slow: peer.slow_vnis > 0 || peer.slow_for.is_some(),
        slow_vnis: peer.slow_vnis,
        slow_for_s: peer.slow_for.map(|time| time.as_secs()),
        paused: peer.is_paused,
        vnis: peer.vnis.into_iter().map(|vni| vni.0).collect(),
    }
}

/// To the second.
fn rfc_3339(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.round(jiff::Unit::Second).unwrap_or(time).to_string())
}

pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Connecting => "connecting",
        State::HelloSent => "hello_sent",
        State::HelloReceived => "hello_received",
        State::Established => "established",
        State::Closed => "closed",
        State::Retry => "retry",
    }
}
