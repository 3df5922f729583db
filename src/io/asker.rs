//! Questions to the shards, from any thread.
//!
//! Owns the way there and back. Must never ask a shard two things at once, whoever asks: between two answers it serves
//! its peers. Whether it is alive is asked besides, once at a time too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::door::{ConnectionsMax, Refused};
#[cfg(feature = "fabric")]
use super::fabric_view::FabricView;
use super::letter::Letter;
use super::memory::{MemoryView, Seen};
use crate::shard::{Ledger, Shard};
use crate::types::{ShardId, Time, Vni};

/// Asks the shards of one node.
#[derive(Clone)]
pub struct Asker {
    shards: Vec<mpsc::UnboundedSender<Letter>>,
    /// Held while a shard has a question.
    asked: Vec<Arc<Mutex<()>>>,
    /// Questions whether a shard is alive that have no answer yet.
    pulses: Arc<[Mutex<Option<oneshot::Receiver<bool>>>]>,
    about: Arc<About>,
}

/// What is known without asking.
#[derive(Debug)]
pub(super) struct About {
    /// When the shards' time began.
    pub(super) began_at: SystemTime,
    pub(super) local_addresses: Vec<SocketAddr>,
    pub(super) connections_max: ConnectionsMax,
    /// What the door counts.
    pub(super) refused: Arc<Refused>,
    pub(super) memory: Arc<Seen>,
    pub(super) ledger: Arc<Ledger>,
    /// The fabric's thread, if there is one.
    #[cfg_attr(not(feature = "fabric"), allow(dead_code))]
    pub(super) fabric: Option<mpsc::UnboundedSender<Letter>>,
}

impl Asker {
    pub(super) fn new(shards: Vec<mpsc::UnboundedSender<Letter>>, about: About) -> Asker {
        let asked = shards.iter().map(|_| Arc::default()).collect();
        let pulses = shards.iter().map(|_| Mutex::default()).collect();
        Asker { shards, asked, pulses, about: Arc::new(about) }
    }

    /// The shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.count()).map(ShardId)
    }

    /// The shard that keeps a VNI's table.
    pub fn home_of(&self, vni: Vni) -> ShardId {
        ShardId::home_of(vni, self.count())
    }

    /// The addresses that it listens on from the start.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.about.local_addresses
    }

    /// How many connections there may be.
    pub fn connections_max(&self) -> ConnectionsMax {
        self.about.connections_max
    }

    /// Connections that were closed at once, by reason.
    pub fn connections_refused(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        self.about.refused.counts().into_iter()
    }

    /// How much memory is in use, and how short it is; None if nobody watches that.
    pub fn memory(&self) -> Option<MemoryView> {
        self.about.memory.view(&self.about.ledger)
    }

    /// A time of the shards as others know it.
    pub fn wall_clock(&self, time: Time) -> SystemTime {
        self.about.began_at + time.since(Time::default())
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
        let asked = Arc::clone(&self.asked[shard.index()]).lock_owned().await;
        let (answer, answered) = oneshot::channel();
        let call = move |shard: &mut Shard, now: Time| {
            // Fails if nobody waits for it any more.
            let _ = answer.send(question(shard, now));
            // Held until here, though who asked may have gone away.
            drop(asked);
        };
        self.shards[shard.index()].send(Letter::Call(Box::new(call))).ok()?;
        answered.await.ok()
    }

    /// Whether a shard is draining: answered when its turn comes, whatever else it is asked. None if it has ended.
    pub async fn pulse(&self, shard: ShardId) -> Option<bool> {
        let mut waiting = self.pulses[shard.index()].lock().await;
        if waiting.is_none() {
            let (answer, answered) = oneshot::channel();
            let call = move |shard: &mut Shard, _: Time| {
                let _ = answer.send(shard.is_draining());
            };
            self.shards[shard.index()].send(Letter::Call(Box::new(call))).ok()?;
            *waiting = Some(answered);
        }
        // Whoever gives up leaves it to the next one.
        let answer = waiting.as_mut()?.await.ok();
        *waiting = None;
        answer
    }

    /// How the node's part in a fabric is. None if it has none, or has ended.
    #[cfg(feature = "fabric")]
    pub async fn fabric(&self) -> Option<FabricView> {
        let (answer, answered) = oneshot::channel();
        self.about.fabric.as_ref()?.send(Letter::AskFabric(answer)).ok()?;
        answered.await.ok()
    }

    /// Whether the node belongs to a fabric.
    #[cfg(feature = "fabric")]
    pub fn has_fabric(&self) -> bool {
        self.about.fabric.is_some()
    }

    fn count(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("there are at most 1,024")
    }
}
