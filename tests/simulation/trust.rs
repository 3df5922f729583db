//! Who may announce what, and how long the routes of lost clients stay.
//!
//! Owns the policies and limits of a run. Must never know what shards make of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use metalbond_uring::internals::policy::{AnnouncePolicy, NextHopPolicy, Policy};
use metalbond_uring::internals::shard::{Ledger, Limits, Pressure};
use metalbond_uring::types::{Route, Vni};

use crate::rng::Rng;
use crate::world::World;

/// Some files.
const POLICIES: [&str; 6] = [
    "permit",
    "# nothing",
    "deny vni 0\npermit",
    "deny peer 127.0.0.1/32\npermit",
    "permit peer 127.0.0.0/30 vni 1-3\ndeny type lb\npermit destination 10.0.0.0/29",
    "permit next-hop 2001:db8::/127",
];

#[derive(Debug)]
pub struct Trust {
    pub stale_time: Duration,
    pub policy: Option<Arc<Policy>>,
    pub ledger: Arc<Ledger>,
    /// Whether tables may be full: what is in them then the tables tell.
    pub is_limited: bool,
    /// Whether clients may say only so much at a time.
    pub is_rated: bool,
    /// Whether policies change.
    changes: bool,
    /// How many addresses there are.
    addresses: usize,
}

impl Trust {
    pub fn new(rng: &mut Rng, limits: &mut Limits) -> Trust {
        let stale_time = Duration::from_secs([0, 0, 1, 4][rng.below(4)]);
        let is_limited = rng.chance(20);
        if is_limited {
            limits.routes_per_peer_max = 1_000_000;
            limits.routes_per_vni_max = 1 + rng.below(20) as u32;
            limits.routes_max = 1 + rng.below(60) as u64;
        }
        let is_rated = rng.chance(20);
        if is_rated {
            limits.updates_per_s_max = 20 + rng.below(200) as u32;
        }
        let changes = rng.chance(40);
        let policy = if changes { policy(rng) } else { None };
        let addresses = 1 + rng.below(6);
        Trust {
            stale_time,
            policy,
            ledger: Arc::default(),
            is_limited,
            is_rated,
            changes,
            addresses,
        }
    }

    /// Some clients are at one address.
    pub fn address_of(&self, client: usize) -> IpAddr {
        [127, 0, 0, (client % self.addresses) as u8].into()
    }

    pub fn is_permitted(&self, address: IpAddr, vni: Vni, route: &Route) -> bool {
        let Some(policy) = &self.policy else { return true };
        policy.judge_of(address).judge(vni, route).is_ok()
    }

    /// Routes and subscriptions, as all shards count them together.
    pub fn counts(&self) -> (u64, u64) {
        (self.ledger.routes(), self.ledger.subscriptions())
    }
}

impl World {
    /// One time of so many there is another policy, if there ever is.
    pub fn change_policy(&mut self, times: usize) {
        if self.trust.changes && self.rng.below(times) == 0 {
            self.trust.policy = policy(&mut self.rng);
            for node in &mut self.nodes {
                node.shard.set_policy(self.now, self.trust.policy.clone());
                node.dirty = true;
            }
        }
    }

    /// Now and then there is another policy, or memory is short.
    pub fn change_trust(&mut self) {
        self.change_policy(500);
        if self.trust.is_limited && self.rng.below(500) == 0 {
            let pressure = [Pressure::None, Pressure::Conflate, Pressure::Routes];
            self.trust.ledger.press(pressure[self.rng.below(3)]);
        }
    }
}

fn policy(rng: &mut Rng) -> Option<Arc<Policy>> {
    let rules = match rng.below(POLICIES.len() + 1) {
        0 => None,
        at => Some(POLICIES[at - 1].as_bytes()),
    };
    let rules = rules.map(|text| Arc::new(AnnouncePolicy::parse(text).expect("it is one")));
    Policy::new(NextHopPolicy::Any, rules)
}
