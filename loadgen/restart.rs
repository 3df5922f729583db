//! One of several servers is restarted by somebody else: whose connections may end for it, and what nobody else may be
//! told of meanwhile.
//!
//! Owns which routes stand still, and how long peers were away. Must never restart anything: the servers are not
//! loadgen's.

use std::sync::atomic::{AtomicU64, Ordering};

use metalbond_uring::types::Action;

use crate::plan::{PeerSet, Plan};

/// What is known of a restart while it is waited for, and afterwards.
pub struct Restart {
    /// The server, by its place in `--targets`.
    pub home: u16,
    /// The bits of all routes that are announced there, and that no stream touches.
    still: Vec<u64>,
    /// When the first connection to it ended, and when the last one was established again, in nanoseconds; 0 if none
    /// was.
    lost_ns: AtomicU64,
    back_ns: AtomicU64,
}

impl Restart {
    /// The server at this place is about to be restarted.
    pub fn of(plan: &Plan, home: u16) -> Restart {
        let mut still = vec![0; plan.words()];
        let (there, _) = sides(plan, home);
        for bit in there.iter().flat_map(|&peer| plan.bits_of(peer)) {
            still[bit / 64] |= 1 << (bit % 64);
        }
        Restart { home, still, lost_ns: AtomicU64::new(0), back_ns: AtomicU64::new(0) }
    }

    /// Whether a route stands still: whoever is connected to another server must not be told of it.
    pub fn stands_still(&self, bit: usize) -> bool {
        self.still[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// A connection to the server has ended.
    pub fn lost(&self, now_ns: u64) {
        // Only the first one counts; of two at the same time either will do.
        let _ = self.lost_ns.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// One that had ended is established again.
    pub fn back(&self, now_ns: u64) {
        self.back_ns.fetch_max(now_ns, Ordering::Relaxed);
    }

    /// From the first end of a connection until the last one was back.
    pub fn away_ns(&self) -> u64 {
        self.back_ns.load(Ordering::Relaxed).saturating_sub(self.lost_ns.load(Ordering::Relaxed))
    }
}

/// The peers that are connected to a server, and those that are not.
pub fn sides(plan: &Plan, home: u16) -> (PeerSet, PeerSet) {
    let is_there = |peer: &u32| plan.peers[*peer as usize].homes.has(home);
    let (there, elsewhere): (Vec<u32>, Vec<u32>) = (0..plan.peers.len() as u32).partition(is_there);
    (there.into(), elsewhere.into())
}

/// That a settled peer was told of a route that stands still, in words; `peer` and `name_of` say who peers are.
pub fn complaint(
    plan: &Plan,
    peer: &str,
    (bit, action): (usize, Action),
    name_of: impl Fn(u32) -> String,
) -> String {
    let at = plan.vnis.partition_point(|vni| vni.first_bit <= bit) - 1;
    let (vni, number) = (&plan.vnis[at], (bit - plan.vnis[at].first_bit) as u32);
    let action = if action == Action::Add { "an ADD" } else { "a REMOVE" };
    format!(
        "{peer} was told of the restart: {action} of {} in VNI {} (announced by {})",
        vni.route(number),
        plan.vni(at as u32),
        name_of(vni.announcer_of(number)),
    )
}

#[cfg(test)]
mod tests {
    use crate::homes::{Fleet, Side};

    use super::*;

    /// Peers 0 to 5 at servers 0, 1, 2, 0, 1, 2 or so, with 70 routes each in one VNI of two.
    fn plan(dual: u32) -> Plan {
        let mut plan = Plan::new(100, 6, 2, 70);
        for peer in 0..6 {
            plan.announce(peer, peer % 2);
            plan.subscribe(peer, peer % 2);
        }
        plan.spread(Fleet { targets: 3, dual }, |_| Side::Any).finish()
    }

    #[test]
    fn routes_of_its_peers_stand_still() {
        for dual in [0, 3, 6] {
            let plan = plan(dual);
            let (there, elsewhere) = sides(&plan, 2);
            assert_eq!(there.len() + elsewhere.len(), 6);
            assert!(there.len() >= 2, "{there:?}");
            let restart = Restart::of(&plan, 2);
            for (at, vni) in plan.vnis.iter().enumerate() {
                for number in 0..vni.routes() {
                    let announcer = vni.announcer_of(number);
                    let stands = restart.stands_still(vni.first_bit + number as usize);
                    assert_eq!(stands, there.contains(&announcer), "VNI {at}, route {number}");
                }
            }
        }
    }

    #[test]
    fn the_first_loss_and_the_last_return_count() {
        let restart = Restart::of(&plan(0), 0);
        assert_eq!(restart.away_ns(), 0);
        [70, 75].into_iter().for_each(|ns| restart.lost(ns));
        [90, 120, 110].into_iter().for_each(|ns| restart.back(ns));
        assert_eq!(restart.away_ns(), 50);
    }
}
