//! One destination: who wants it, through which hops, and what the kernel holds.
//!
//! Owns the set of users and the choice of the form. Must never plan operations itself.

use std::net::{IpAddr, Ipv6Addr};

use smallvec::SmallVec;

use super::nexthops::NexthopKey;
use super::{Family, Few, NexthopId, NexthopObjects, PlanConfig, Prefix, ServerId};
use crate::types::{Destination, Route, SeededMap, Vni};

/// Distinct tunnel endpoints, ascending.
pub type Hops = SmallVec<[Ipv6Addr; 1]>;

/// Our own announcements for one destination (its spellings and next hops).
pub(super) type Own = Few<Route>;

/// How a kernel route says where packets go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    /// It carries its own encapsulation.
    Inline(Hops),
    /// It names a nexthop object.
    Object(NexthopId),
    /// On our link, but not as we would write it (a former version, another client).
    Other,
}

/// One reason to install a route: a server that announced it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct User {
    pub vni: Vni,
    pub route: Route,
    pub server: ServerId,
    /// The server's epoch when it announced the route last.
    pub epoch: u32,
}

/// What the kernel is believed to hold. A foreign route counts as absent: it is never ours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum InKernel {
    #[default]
    Absent,
    Ours(Form),
}

/// What the kernel should hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Want {
    Nothing,
    Inline(Hops),
    Object(NexthopKey),
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub users: Few<User>,
    pub kernel: InKernel,
    /// An operation is under way: the form that it installs, or none if it deletes.
    pub in_flight: Option<Option<Form>>,
    /// Whether it is queued for planning.
    pub dirty: bool,
    /// A foreign route was in the way at the last attempt.
    pub conflict: bool,
    /// Hops that are wanted and left out.
    pub left_out: usize,
    /// The hops that a former run has left. They count as wanted until the sweep, so that a route
    /// which is announced hop by hop does not lose some of them meanwhile.
    pub stale: Option<Hops>,
    /// Nothing is attempted before its retry is due.
    pub waits_for_retry: bool,
    /// It is in the plan's list of those that wait for a nexthop object.
    pub waits_for_nexthop: bool,
    /// Failed attempts in a row.
    pub failures: u8,
}

impl Entry {
    /// Adds or refreshes a user; tells whether it is a new one.
    pub fn claim(&mut self, user: User) -> bool {
        let same = |one: &&mut User| {
            (one.vni, one.route, one.server) == (user.vni, user.route, user.server)
        };
        if let Some(known) = self.users.iter_mut().find(same) {
            known.epoch = user.epoch;
            return false;
        }
        self.users.push(user);
        true
    }

    /// Drops users; tells whether there were any.
    pub fn drop_users(&mut self, mut gone: impl FnMut(&User) -> bool) -> bool {
        let before = self.users.len();
        self.users.retain(|user| !gone(user));
        self.users.len() != before
    }

    /// What the kernel should hold, and how many hops are too many for it.
    pub fn want(
        &self,
        prefix: Prefix,
        own: &SeededMap<(Vni, Destination), Own>,
        config: &PlanConfig,
    ) -> (Want, usize) {
        let is_foreign = |user: &&User| !own.contains_key(&(user.vni, prefix.destination));
        let mut hops: Hops = self
            .users
            .iter()
            .filter(is_foreign)
            .filter_map(|user| match user.route.next_hop.address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            })
            .chain(self.stale.iter().flatten().copied())
            .collect();
        hops.sort_unstable();
        hops.dedup();
        let left_out = hops.len().saturating_sub(config.hops_max);
        hops.truncate(config.hops_max);
        let family = prefix.family();
        let want = match (config.nexthop_objects, family) {
            _ if hops.is_empty() => Want::Nothing,
            (NexthopObjects::Shared, _) => Want::Object(NexthopKey { family, hops }),
            (_, Family::V4) => Want::Inline(hops),
            (NexthopObjects::Ipv6Multipath, Family::V6) if hops.len() > 1 => {
                Want::Object(NexthopKey { family, hops })
            }
            (_, Family::V6) => {
                hops.truncate(1); // IPv6 has no multipath of hops without a gateway
                Want::Inline(hops)
            }
        };
        (want, left_out)
    }
}
