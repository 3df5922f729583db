//! The node in figures: all shards and peers, added up.
//!
//! Owns what is collected for it. Must never count anything itself.

use super::answer::Refusal;
use super::{View, collect};
use crate::session::State;
use crate::shard::{Counters, Limits, MemoryBounds, PaceCounters, PeerView, Timings, Usage};

/// One shard.
pub(super) struct ShardTotals {
    pub counters: Counters,
    pub usage: Usage,
    pub limits: Limits,
    pub bounds: MemoryBounds,
    pub propagation: Timings,
    pub turns: Timings,
}

/// All shards, by index.
pub(super) struct Shards(pub Vec<ShardTotals>);

/// All peers that have a connection.
#[derive(Default)]
pub(super) struct PeerTotals {
    pub established: usize,
    /// Those that are not established yet.
    pub connecting: usize,
    /// Those that will be told the difference only, in some VNI.
    pub slow: usize,
    /// Those that do not reassemble.
    pub paced: usize,
    pub subscriptions: usize,
    pub pending_bytes: u64,
    pub input_bytes: usize,
    /// What feeding those took that do not reassemble.
    pub pacing: PaceCounters,
}

/// All of it.
pub(super) struct Totals {
    pub shards: Shards,
    pub peers: PeerTotals,
    /// Addresses of which more than [`RECONNECTIONS_FINE_MAX`] sessions ended within the last hour.
    pub flapping: usize,
}

/// So many reconnections within an hour are nothing special.
pub(super) const RECONNECTIONS_FINE_MAX: u32 = 3;

impl Shards {
    /// Asks each of them.
    pub(super) async fn collect(view: &View) -> Result<Shards, Refusal> {
        let mut shards = Vec::new();
        for shard in view.asker.shards() {
            let told = view.asker.ask(shard, |shard, _| ShardTotals {
                counters: *shard.counters(),
                usage: shard.usage(),
                limits: *shard.limits(),
                bounds: shard.memory_bounds(),
                propagation: *shard.propagation(),
                turns: *shard.turns(),
            });
            shards.push(told.await.ok_or(Refusal::Gone)?);
        }
        Ok(Shards(shards))
    }

    /// What is counted, of all shards.
    pub(super) fn counted(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.0.iter().map(|shard| counter(&shard.counters)).sum()
    }

    /// What is held, by all shards.
    pub(super) fn held(&self, held: impl Fn(&Usage) -> usize) -> usize {
        self.0.iter().map(|shard| held(&shard.usage)).sum()
    }

    /// From a read to the SEND, on all shards.
    pub(super) fn propagation(&self) -> Timings {
        let mut all = Timings::default();
        self.0.iter().for_each(|shard| all.add(&shard.propagation));
        all
    }
}

impl Totals {
    /// Asks all shards. `each` is shown every peer that has a connection.
    pub(super) async fn collect(
        view: &View,
        mut each: impl FnMut(&PeerView),
    ) -> Result<Totals, Refusal> {
        let _walk = view.walks.acquire().await.map_err(|_| Refusal::Gone)?;
        let shards = Shards::collect(view).await?;
        let mut peers = PeerTotals::default();
        shards.0.iter().for_each(|shard| peers.pacing.add(&shard.counters.pacing));
        collect::peers(view, |peer| {
            peers.pacing.add(&peer.pacing);
            if peer.remote.is_some() {
                peers.add(&peer);
                each(&peer);
            }
        })
        .await?;
        let ended = collect::ends(view).await?;
        let flapping = ended.into_values().filter(|ended| *ended > RECONNECTIONS_FINE_MAX).count();
        Ok(Totals { shards, peers, flapping })
    }
}

impl PeerTotals {
    fn add(&mut self, peer: &PeerView) {
        match peer.state {
            State::Established => {
                self.established += 1;
                self.paced += usize::from(!peer.reassembles);
            }
            State::Closed | State::Retry => {}
            _ => self.connecting += 1,
        }
        self.slow += usize::from(peer.slow_vnis > 0 || peer.slow_for.is_some());
        self.subscriptions += peer.vnis.len();
        self.pending_bytes += peer.pending_bytes;
        self.input_bytes += peer.input_bytes;
    }
}
