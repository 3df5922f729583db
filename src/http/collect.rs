//! What the shards know, put together.
//!
//! Owns the order of questions. Must never ask for more than a piece at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;

use super::View;
use super::answer::Refusal;
use crate::io::Asker;
use crate::shard::{Announcer, PeerView, Shard, StandingView, SubscribersView, VniView};
use crate::types::{Route, SourceId, Time, Vni};

/// How often a table is walked anew that is moved about meanwhile.
const WALKS_MAX: usize = 8;

/// Calls `each` with all peers, shard by shard.
pub(super) async fn peers(view: &View, each: impl FnMut(PeerView)) -> Result<(), Refusal> {
    let piece = |shard: &Shard, now, from| {
        let piece = shard.peers_piece(now, from);
        (piece.peers, piece.next)
    };
    pieces(&view.asker, 0, piece, each).await
}

/// How many sessions ended within the last hour, by address.
pub(super) async fn ends(view: &View) -> Result<BTreeMap<IpAddr, u32>, Refusal> {
    let mut ends: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let piece = |shard: &Shard, now, behind| {
        let piece = shard.ends_piece(now, behind);
        (piece.ended, piece.next.map(Some))
    };
    pieces(&view.asker, None, piece, |(address, ended)| *ends.entry(address).or_default() += ended)
        .await?;
    Ok(ends)
}

/// All VNIs that have a route or a subscriber, ascending.
pub(super) async fn vnis(view: &View) -> Result<BTreeMap<Vni, VniView>, Refusal> {
    let mut vnis = BTreeMap::new();
    for shard in view.asker.shards() {
        let (mut at, mut pieces, mut walks) = (0, 0, 1);
        loop {
            let piece = view.asker.ask(shard, move |shard, _| shard.vnis_piece(at)).await;
            let piece = piece.ok_or(Refusal::Gone)?;
            vnis.extend(piece.vnis.into_iter().map(|view| (view.vni, view)));
            // Fewer than before: what was in the last one may lie in a former one now.
            if piece.pieces < pieces && walks < WALKS_MAX {
                (at, walks) = (0, walks + 1);
            } else {
                at += 1;
            }
            pieces = piece.pieces;
            if at >= pieces {
                break;
            }
        }
    }
    Ok(vnis)
}

/// Calls `each` with the subscribers of all groups.
pub(super) async fn subscribers(
    view: &View,
    each: impl FnMut(SubscribersView),
) -> Result<(), Refusal> {
    let piece = |shard: &Shard, _, from| {
        let piece = shard.subscribers_piece(from);
        (piece.groups, piece.next)
    };
    pieces(&view.asker, 0, piece, each).await
}

/// Calls `each` with all peers, and how they stand in a VNI, shard by shard.
pub(super) async fn standings(
    asker: &Asker,
    vni: Vni,
    each: impl FnMut(StandingView),
) -> Result<(), Refusal> {
    let piece = move |shard: &Shard, _, from| {
        let piece = shard.standings_piece(vni, from);
        (piece.peers, piece.next)
    };
    pieces(asker, 0, piece, each).await
}

/// The routes of a VNI, each with whoever announces it, as `keep` picks them.
pub(super) async fn routes<T>(
    asker: &Asker,
    vni: Vni,
    keep: &impl Fn(&Route, &[Announcer]) -> Option<T>,
) -> Result<Vec<T>, Refusal> {
    let mut walks = 0;
    loop {
        walks += 1;
        match walk(asker, vni, keep, walks == WALKS_MAX).await? {
            ControlFlow::Break(routes) => return Ok(routes),
            ControlFlow::Continue(()) => {}
        }
    }
}

/// Asks each shard for one piece after the other, from its `first` place on.
async fn pieces<P: Copy + Send + 'static, T: Send + 'static>(
    asker: &Asker,
    first: P,
    piece: impl Fn(&Shard, Time, P) -> (Vec<T>, Option<P>) + Copy + Send + 'static,
    mut each: impl FnMut(T),
) -> Result<(), Refusal> {
    for shard in asker.shards() {
        let mut from = Some(first);
        while let Some(place) = from {
            let asked = asker.ask(shard, move |shard, now| piece(shard, now, place));
            let (told, next) = asked.await.ok_or(Refusal::Gone)?;
            told.into_iter().for_each(&mut each);
            from = next;
        }
    }
    Ok(())
}

async fn walk<T>(
    asker: &Asker,
    vni: Vni,
    keep: &impl Fn(&Route, &[Announcer]) -> Option<T>,
    is_last: bool,
) -> Result<ControlFlow<Vec<T>>, Refusal> {
    let home = asker.home_of(vni);
    let (mut routes, mut from, mut moved) = (Vec::new(), 0, None);
    loop {
        let piece = asker.ask(home, move |shard, _| shard.routes_piece(vni, from)).await;
        let piece = piece.ok_or(Refusal::Gone)?;
        if *moved.get_or_insert(piece.moved) != piece.moved && !is_last {
            return Ok(ControlFlow::Continue(()));
        }
        routes.extend(piece.routes.iter().filter_map(|(route, sources)| keep(route, sources)));
        match piece.next {
            Some(next) => from = next,
            None => return Ok(ControlFlow::Break(routes)),
        }
    }
}

/// What the peers that the filter names are as sources of routes.
pub(super) async fn sources(
    view: &View,
    is_meant: impl Fn(&PeerView) -> bool,
) -> Result<BTreeSet<SourceId>, Refusal> {
    let mut sources = BTreeSet::new();
    peers(view, |peer| {
        if is_meant(&peer) {
            sources.insert(peer.source);
        }
    })
    .await?;
    Ok(sources)
}
