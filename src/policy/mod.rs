//! Which routes peers may announce.
//!
//! Owns the rules. Must never know a connection.

use std::net::IpAddr;
use std::sync::Arc;

use crate::types::{Route, Vni};

/// What peers may announce.
#[derive(Debug)]
pub struct Policy;

/// What one peer may announce.
#[derive(Clone, Debug)]
pub struct Judge;

/// Why a route is not permitted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Denial {
    /// Its next hop.
    NextHop,
}

impl Denial {
    /// Words.
    pub const KINDS: [&str; 1] = ["next_hop_policy"];
    /// Kind.
    pub fn kind(self) -> usize {
        0
    }
    /// Why.
    pub fn why(self) -> (&'static str, &'static str) {
        ("the next hop is not the peer's own", "--nexthop-policy")
    }
}

impl Policy {
    /// Of a peer.
    pub fn judge_of(self: &Arc<Policy>, _peer: IpAddr) -> Judge {
        Judge
    }
}

impl Judge {
    /// Judges.
    pub fn judge(&self, _vni: Vni, _route: &Route) -> Result<(), Denial> {
        Ok(())
    }
}
