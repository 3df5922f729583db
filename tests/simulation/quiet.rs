//! Shards without a network: mail arrives at once.

use metalbond_uring::internals::shard::{Shard, Wake};
use metalbond_uring::types::Time;

/// Turns, and mail, until there are no more; who is closed is released.
pub fn rest(shards: &mut [Shard], now: Time) {
    loop {
        let mut mail = Vec::new();
        for shard in shards.iter_mut() {
            while shard.turn(now) {}
            mail.extend(std::iter::from_fn(|| shard.take_mail()));
            let mut closed = Vec::new();
            while let Some((id, wake)) = shard.take_woken() {
                if wake == Wake::Close {
                    closed.push(id);
                }
            }
            for id in closed {
                shard.release(now, id);
            }
        }
        if mail.is_empty() {
            return;
        }
        for (to, block) in mail {
            shards[to.index()].deliver(block);
        }
    }
}
