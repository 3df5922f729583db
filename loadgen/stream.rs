//! Updates on a schedule: each is due at a time that was fixed before, however late the sender is.
//!
//! Owns the schedule. Must never skip or delay what comes after a late update: the lateness is measured.

use std::rc::Rc;

use metalbond_uring::types::Action;

use crate::shard::{PeerSet, Shard};
use crate::shared::Stats;
use crate::socket;

/// Updates sent in one go before others get the thread.
const BURST: u32 = 64;
/// The shortest sleep: the alarm itself takes about as long.
const SLEEP_NS_MIN: u64 = 20_000;

/// A schedule: update `n` comes from announcer `n` modulo their number, at `n / rate_per_s`.
#[derive(Debug)]
pub struct Stream {
    /// Who sends.
    pub announcers: PeerSet,
    /// Updates each second, of all announcers together.
    pub rate_per_s: f64,
    /// When the first is due, in nanoseconds of the clock.
    pub start_ns: u64,
    /// How many updates, of all announcers together.
    pub updates: u64,
    /// Each announcer takes this many of its routes in turn and announces or withdraws them, whichever
    /// changes something.
    pub routes_each: u32,
}

impl Stream {
    fn due_ns(&self, update: u64) -> u64 {
        self.start_ns + (update as f64 * 1e9 / self.rate_per_s) as u64
    }
}

/// Sends this shard's part of a stream.
pub async fn run(shard: &Rc<Shard>, stream: &Stream) {
    let announcers = stream.announcers.len() as u64;
    let mine: Vec<u64> = (0..announcers)
        .filter(|&at| shard.peer(stream.announcers[at as usize]).is_some())
        .collect();
    let mut since_yield = 0;
    'rounds: for round in (0..).take_while(|_| !mine.is_empty()) {
        for &at in &mine {
            let update = round * announcers + at;
            if update >= stream.updates {
                break 'rounds;
            }
            let due_ns = stream.due_ns(update);
            let now_ns = shard.shared.clock.now_ns();
            since_yield += 1;
            if due_ns > now_ns {
                socket::sleep_ns((due_ns - now_ns).max(SLEEP_NS_MIN)).await;
                since_yield = 0;
            } else if since_yield == BURST {
                // A no-op completes after the thread has submitted what waits.
                let _ = tokio_uring::no_op().await;
                since_yield = 0;
            }
            send(shard, stream, at, round, due_ns);
        }
    }
    Stats::count(&shard.stats().streams, 1);
}

fn send(shard: &Rc<Shard>, stream: &Stream, at: u64, round: u64, due_ns: u64) {
    let shared = &shard.shared;
    let number = stream.announcers[at as usize];
    let Some(peer) = shard.peer(number) else {
        return;
    };
    let Some((vni, route)) = pick(shared, number, stream.routes_each, round) else {
        return;
    };
    let bit = shared.plan.vnis[vni as usize].first_bit + route as usize;
    let action = if shared.is_announced(bit) { Action::Remove } else { Action::Add };
    shared.set_announced(bit, action == Action::Add);
    shared.schedule(bit, action, due_ns);
    peer.queue_update(&shared.plan, vni, route, action);
    shard.kick(peer);
    Stats::count(&shard.stats().sent, 1);
    if shard.measuring.get() {
        let lag_ns = shared.clock.now_ns().saturating_sub(due_ns);
        shard.latency.borrow_mut().lag_ns.saturating_record(lag_ns);
    }
}

/// The route that a peer changes in a round: its VNIs in turn, in each its first routes in turn.
fn pick(
    shared: &crate::shared::Shared,
    peer: u32,
    routes_each: u32,
    round: u64,
) -> Option<(u32, u32)> {
    let announces = &shared.plan.peers[peer as usize].announces;
    let vnis = announces.len() as u64;
    let &(vni, place) = announces.get((round.checked_rem(vnis)?) as usize)?;
    let routes = &shared.plan.vnis[vni as usize];
    let cycle = u64::from(routes_each.min(routes.routes_each));
    let in_vni = (round / vnis).checked_rem(cycle)?;
    Some((vni, routes.routes_at(place).start + in_vni as u32))
}
