//! Questions to the shards, from any thread.
//!
//! Owns the way there and back. Must never ask a shard two things at once, whoever asks: between two answers it serves
//! its peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, mpsc, oneshot};

use super::letter::Letter;
use crate::shard::Shard;
use crate::types::{ShardId, Time, Vni};

/// Asks the shards of one node.
#[derive(Clone)]
pub struct Asker {
    shards: Vec<mpsc::UnboundedSender<Letter>>,
    /// Held while a shard is asked.
    asked: Arc<[Mutex<()>]>,
    /// What the acceptor counts.
    connections_refused: Arc<AtomicU64>,
}

impl Asker {
    pub(super) fn new(
        shards: Vec<mpsc::UnboundedSender<Letter>>,
        connections_refused: Arc<AtomicU64>,
    ) -> Asker {
        let asked = shards.iter().map(|_| Mutex::new(())).collect();
        Asker { shards, asked, connections_refused }
    }

    /// The shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.count()).map(ShardId)
    }

    /// The shard that keeps a VNI's table.
    pub fn home_of(&self, vni: Vni) -> ShardId {
        ShardId::home_of(vni, self.count())
    }

    /// Connections that were closed at once, for there were as many as there may be.
    pub fn connections_refused(&self) -> u64 {
        self.connections_refused.load(Ordering::Relaxed)
    }

    /// Tells the first shard something.
    pub(super) fn tell_first(&self, letter: Letter) {
        // Fails only while it shuts down.
        let _ = self.shards[0].send(letter);
    }

    /// Has a shard answer a question, on its thread: one that takes no longer than a turn. None if it has ended.
    pub async fn ask<T: Send + 'static>(
        &self,
        shard: ShardId,
        question: impl FnOnce(&mut Shard, Time) -> T + Send + 'static,
    ) -> Option<T> {
        let _asked = self.asked[shard.index()].lock().await;
        let (answer, answered) = oneshot::channel();
        let call = move |shard: &mut Shard, now: Time| {
            // Fails if nobody waits for it any more.
            let _ = answer.send(question(shard, now));
        };
        self.shards[shard.index()].send(Letter::Call(Box::new(call))).ok()?;
        answered.await.ok()
    }

    fn count(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("there are at most 1,024")
    }
}
