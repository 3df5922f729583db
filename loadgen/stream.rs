//! Updates on a schedule: each is due at a time that was fixed before, however late the sender is.
//!
//! Owns the schedule. Must never skip or delay what comes after a late update: the lateness is measured.

use crate::plan::PeerSet;
use crate::shared::Shared;

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
    /// When an update is due, in nanoseconds of the clock.
    pub fn due_ns(&self, update: u64) -> u64 {
        self.start_ns + (update as f64 * 1e9 / self.rate_per_s) as u64
    }
}

/// The route that a peer changes in a round: its VNIs in turn, in each its first routes in turn.
pub fn pick(shared: &Shared, peer: u32, routes_each: u32, round: u64) -> Option<(u32, u32)> {
    let announces = &shared.plan.peers[peer as usize].announces;
    let vnis = announces.len() as u64;
    let &(vni, place) = announces.get((round.checked_rem(vnis)?) as usize)?;
    let routes = &shared.plan.vnis[vni as usize];
    let cycle = u64::from(routes_each.min(routes.routes_each));
    let in_vni = (round / vnis).checked_rem(cycle)?;
    Some((vni, routes.routes_at(place).start + in_vni as u32))
}
