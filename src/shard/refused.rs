//! What is refused, and what is said about it.
//!
//! Owns the kinds, with their words. Must never refuse anything itself.

use super::config::Limits;
use crate::policy::Denial;
use crate::rib::Refusal;

/// What is refused, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// An UPDATE that makes no sense.
    Invalid,
    /// An ADD beyond `--routes-per-peer-max`.
    RoutesPerPeer,
    /// An ADD for which there is no room at the home of its VNI, or that policy does not permit.
    Route(Refusal),
    /// A SUBSCRIBE beyond `--vnis-per-peer-max`.
    VnisPerPeer,
    /// A SUBSCRIBE beyond `--subscriptions-max`.
    Subscriptions,
    /// A SUBSCRIBE for which there is not enough memory.
    SubscriptionsMemory,
}

/// What kinds are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedWhat {
    /// UPDATEs that make no sense.
    Invalid,
    /// Routes.
    Route,
    /// Subscriptions.
    Subscription,
}

/// Kinds of what is not refused by policy.
const KINDS: usize = 8;

impl Refused {
    /// A word for each kind, and what it is of, by [`Refused::kind`].
    pub(super) const KINDS: [(&str, RefusedWhat); KINDS + Denial::KINDS.len()] = {
        let mut kinds = [("", RefusedWhat::Route); KINDS + Denial::KINDS.len()];
        kinds[0] = ("invalid", RefusedWhat::Invalid);
        kinds[1] = ("routes_limit", RefusedWhat::Route);
        kinds[2] = ("routes_per_vni_limit", RefusedWhat::Route);
        kinds[3] = ("routes_total_limit", RefusedWhat::Route);
        kinds[4] = ("routes_memory", RefusedWhat::Route);
        kinds[5] = ("vnis_limit", RefusedWhat::Subscription);
        kinds[6] = ("subscriptions_total_limit", RefusedWhat::Subscription);
        kinds[7] = ("subscriptions_memory", RefusedWhat::Subscription);
        let mut at = 0;
        while at < Denial::KINDS.len() {
            kinds[KINDS + at].0 = Denial::KINDS[at];
            at += 1;
        }
        kinds
    };

    /// Which kind it is.
    pub(super) fn kind(self) -> usize {
        match self {
            Refused::Invalid => 0,
            Refused::RoutesPerPeer => 1,
            Refused::Route(Refusal::VniFull) => 2,
            Refused::Route(Refusal::TablesFull) => 3,
            Refused::Route(Refusal::Memory) => 4,
            Refused::VnisPerPeer => 5,
            Refused::Subscriptions => 6,
            Refused::SubscriptionsMemory => 7,
            Refused::Route(Refusal::Policy(denial)) => KINDS + denial.kind(),
        }
    }

    /// Why, and which flag is concerned.
    pub(super) fn why(self) -> (&'static str, &'static str) {
        match self {
            Refused::Invalid => ("it makes no sense", ""),
            Refused::RoutesPerPeer => {
                ("the peer announces as many routes as it may", "--routes-per-peer-max")
            }
            Refused::Route(Refusal::VniFull) => {
                ("the VNI has as many routes as it may", "--routes-per-vni-max")
            }
            Refused::Route(Refusal::TablesFull) => {
                ("there are as many routes as there may be", "--routes-max")
            }
            Refused::Route(Refusal::Memory) | Refused::SubscriptionsMemory => {
                ("memory is short", "--memory-max")
            }
            Refused::Route(Refusal::Policy(denial)) => denial.why(),
            Refused::VnisPerPeer => {
                ("the peer has as many subscriptions as it may", "--vnis-per-peer-max")
            }
            Refused::Subscriptions => {
                ("there are as many subscriptions as there may be", "--subscriptions-max")
            }
        }
    }

    /// The limit that it is about, if it is about one.
    fn limit(self, limits: &Limits) -> Option<u64> {
        match self {
            Refused::RoutesPerPeer => Some(limits.routes_per_peer_max.into()),
            Refused::Route(Refusal::VniFull) => Some(limits.routes_per_vni_max.into()),
            Refused::Route(Refusal::TablesFull) => Some(limits.routes_max),
            Refused::VnisPerPeer => Some(limits.vnis_per_peer_max.into()),
            Refused::Subscriptions => Some(limits.subscriptions_max),
            _ => None,
        }
    }

    /// A line for so many of them.
    pub(super) fn sum(self, count: u64, limits: &Limits) -> String {
        let (why, flag) = self.why();
        let what = match Refused::KINDS[self.kind()].1 {
            RefusedWhat::Invalid => return format!("{count} UPDATEs dropped that make no sense"),
            RefusedWhat::Route => "routes",
            RefusedWhat::Subscription => "subscriptions",
        };
        match self.limit(limits) {
            Some(limit) => format!("{count} {what} refused, limit {limit} ({flag})"),
            None => format!("{count} {what} refused, since {why} ({flag})"),
        }
    }
}
