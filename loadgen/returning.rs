//! Peers whose connection was lost, and who come back: Go clients after whatever ended it, and all whose server is
//! restarted.
//!
//! Owns how long they wait. Must never forget what a peer had to say.

use std::rc::Rc;
use std::time::Duration;

use crate::peer::Peer;
use crate::shard::Shard;
use crate::shared::{Reading, Stats};

/// How long a Go client waits before it comes back, in whole seconds.
const RETRY_S: std::ops::RangeInclusive<u64> = 5..=9;
/// How long others wait for a server that is restarted, in milliseconds.
const RETRY_MS: std::ops::RangeInclusive<u64> = 500..=1_500;
/// A peer that is reset again and again will not get there.
const RESETS_MAX: u32 = 2;

impl Shard {
    /// A Go client's answer to whatever ends its connection: it waits, and comes back.
    pub async fn come_back(self: Rc<Self>, peer: Rc<Peer>, reason: String) {
        let resets = peer.resets.get() + 1;
        peer.resets.set(resets);
        Stats::count(&self.stats().resets, 1);
        self.shared.find(|| format!("{}: {reason}; it comes back", peer.name(&self.shared)));
        if resets > RESETS_MAX {
            return self.lose(&peer, &format!("reset {resets} times, at last since {reason}"));
        }
        peer.returning.set(true);
        tokio::time::sleep(go_client_pause(&peer)).await;
        if peer.leaving.get() {
            peer.returning.set(false);
            return Stats::count(&self.stats().left, 1);
        }
        peer.reopen(&self.shared);
        if let Err(error) = self.connect(&peer).await {
            self.lose(&peer, &format!("cannot connect: {error}"));
        }
    }

    /// The server of a peer is being restarted: the peer tries until it is there again. Who started the run gives up,
    /// not the peer.
    pub async fn return_to_server(self: Rc<Self>, peer: Rc<Peer>) {
        // Lost again before it was established: that is one return.
        if !peer.returning.replace(true) {
            Stats::count(&self.stats().dropped, 1);
            if let Some(restart) = self.shared.restart_of(peer.home) {
                restart.lost(self.shared.clock.now_ns());
            }
        }
        loop {
            let pause = match self.shared.behaviour.reading {
                Reading::Legacy => go_client_pause(&peer),
                Reading::Reassembling | Reading::Aligned => {
                    Duration::from_millis(spread(&peer, RETRY_MS))
                }
            };
            tokio::time::sleep(pause).await;
            peer.reopen(&self.shared);
            if self.connect(&peer).await.is_ok() {
                return;
            }
        }
    }
}

fn go_client_pause(peer: &Peer) -> Duration {
    Duration::from_secs(spread(peer, RETRY_S))
}

/// One of these, by the peer and how often it was reset: they do not all come at once.
fn spread(peer: &Peer, range: std::ops::RangeInclusive<u64>) -> u64 {
    let (first, last) = (*range.start(), *range.end());
    first + (peer.lot() + u64::from(peer.resets.get())) % (last - first + 1)
}
