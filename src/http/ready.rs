//! `/readyz`: whether the node does what it is there for.
//!
//! Owns the conditions. Must never wait longer for a shard than its answer may take.

use std::time::Duration;

use super::View;
use super::answer::{Content, Refusal};
use crate::session::State;

/// A shard that answers later than this is late.
const LATE: Duration = Duration::from_secs(1);

/// Who serves peers is ready if no shard is late; who has servers, if at least one of them is established besides.
pub(super) async fn ready(view: &View) -> Result<Content, Refusal> {
    let deadline = tokio::time::Instant::now() + LATE;
    for shard in view.asker.shards() {
        let asked = view.asker.ask(shard, |shard, _| shard.is_draining());
        match tokio::time::timeout_at(deadline, asked).await {
            Ok(Some(false)) => {}
            Ok(Some(true) | None) => return Err(Refusal::Gone),
            Err(_) => {
                let late = format!("shard {} is late: it did not answer within {LATE:?}", shard.0);
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
