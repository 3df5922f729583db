//! `/livez` and `/readyz`: whether the node lives, and does what it is there for.
//!
//! Owns the conditions. Must never wait longer for a shard than its answer may take.

use std::time::Duration;

use futures_util::future::join_all;

use super::View;
use super::answer::{Content, Refusal};
#[cfg(feature = "fabric")]
use super::fabric;
use crate::session::State;

/// A shard that answers later than this is late.
const LATE: Duration = Duration::from_secs(1);

/// Whether all shards answer, be it that they drain: if not, nothing but a new start helps.
pub(super) async fn live(view: &View) -> Result<Content, Refusal> {
    are_draining(view).await?;
    Ok(Content::whole("text/plain; charset=utf-8", "live\n"))
}

/// Who serves peers is ready if no shard is late; who is there to connect to servers, if at least one of them is
/// established besides; who belongs to a fabric, if it knows what the others know.
pub(super) async fn ready(view: &View) -> Result<Content, Refusal> {
    if are_draining(view).await? {
        return Err(Refusal::Gone);
    }
    #[cfg(feature = "fabric")]
    if view.asker.has_fabric() {
        match tokio::time::timeout(LATE, view.asker.fabric()).await {
            Ok(Some(told)) => {
                if let Some(why) = fabric::not_ready(&told) {
                    return Err(Refusal::NotReady(why));
                }
            }
            Ok(None) => return Err(Refusal::Gone),
            Err(_) => {
                let late = format!("the fabric's thread did not answer within {LATE:?}");
                return Err(Refusal::NotReady(late));
            }
        }
    }
    let servers = view.servers();
    if !servers.is_empty() && !servers.contains(&State::Established) {
        return Err(Refusal::NotReady("no server is established".to_owned()));
    }
    Ok(Content::whole("text/plain; charset=utf-8", "ready\n"))
}

/// Whether a shard drains.
///
/// # Errors
/// If one is late, or has ended.
async fn are_draining(view: &View) -> Result<bool, Refusal> {
    let pulses = view.asker.shards().map(async |shard| {
        let answer = tokio::time::timeout(LATE, view.asker.pulse(shard)).await;
        (shard, answer)
    });
    let mut are_draining = false;
    for (shard, answer) in join_all(pulses).await {
        match answer {
            Ok(Some(is_draining)) => are_draining |= is_draining,
            Ok(None) => return Err(Refusal::Gone),
            Err(_) => {
                let late = format!("shard {} did not answer within {LATE:?}", shard.0);
                return Err(Refusal::NotReady(late));
            }
        }
    }
    Ok(are_draining)
}
