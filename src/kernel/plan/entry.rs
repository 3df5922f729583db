//! One destination: who wants it, through which hops, and what the kernel holds.
//!
//! Owns the set of users and the choice of the form. Must never plan operations itself.

use std::net::{IpAddr, Ipv6Addr};

use smallvec::SmallVec;

use super::nexthops::NexthopKey;
use super::{Family, Few, NexthopId, Place, Prefix};
use crate::kernel::config::{KernelConfig, NexthopObjects};
use crate::types::{Route, Vni};

/// Distinct tunnel endpoints, ascending.
pub(crate) type Hops = SmallVec<[Ipv6Addr; 1]>;

/// How a kernel route says where packets go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Form {
    /// It carries its own encapsulation.
    Inline(Hops),
    /// It names a nexthop object.
    Object(NexthopId),
    /// Ours, but not as we would write it (of a former version, of another client, on a device that
    /// was ours before). Only found, never wanted.
    Other {
        /// The index of its device.
        link: u32,
    },
}

/// Which routes of others the kernel holds beside ours, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Others {
    /// One stands before ours: it counts.
    pub before: bool,
    /// One stands behind ours.
    pub behind: bool,
    /// One has our protocol number: a request to delete by device could hit it.
    pub same_protocol: bool,
}

impl Others {
    pub(super) fn are_any(self) -> bool {
        self.before || self.behind
    }

    /// One is found, before ours or behind it.
    pub(super) fn meet(&mut self, is_before: bool, is_of_our_protocol: bool) {
        *if is_before { &mut self.before } else { &mut self.behind } = true;
        self.same_protocol |= is_of_our_protocol;
    }
}

/// What the kernel should hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Want {
    Nothing,
    Inline(Hops),
    Object(NexthopKey),
}

impl Want {
    /// How many hops.
    pub(super) fn len(&self) -> usize {
        match self {
            Want::Nothing => 0,
            Want::Inline(hops) => hops.len(),
            Want::Object(key) => key.hops.len(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    /// The reasons to install it: routes of VNIs, which differ in next hop or host bits.
    pub users: Few<(Vni, Route)>,
    /// The routes of ours that the kernel is believed to hold, in its order: usually one at most.
    /// Equal ones may be there twice.
    pub kernel: Few<Form>,
    /// The routes of others beside them.
    pub others: Others,
    /// An operation is under way.
    pub in_flight: bool,
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
    /// Where a new route goes, so that what counts now goes on counting.
    pub(super) fn place_of(&self, prefix: Prefix, form: &Form) -> Place {
        if self.kernel.is_empty() {
            return Place::Alone;
        }
        let is_first = self.others.behind && !self.others.before;
        // Behind it, the old one could not be told from it if both carry their encapsulation.
        let is_exact = matches!(form, Form::Object(_)) && prefix.family() == Family::V4;
        if is_first && is_exact { Place::First } else { Place::Last }
    }

    /// The first route of ours that is not `wanted` and can be deleted without hitting another.
    /// One that names an object is found by it. Others are found by their device, which takes the
    /// first such route, in IPv6 also one that names an object; what cannot be told apart from a
    /// wanted route stands behind it, where it does no harm, and goes later.
    pub(super) fn first_to_delete(&self, prefix: Prefix, wanted: Option<&Form>) -> Option<&Form> {
        let (mut has_kept, mut has_kept_inline) = (false, false);
        for form in &self.kernel {
            let is_object = matches!(form, Form::Object(_));
            // Of two equal ones the first is kept.
            if wanted == Some(form) && !has_kept {
                has_kept = true;
                has_kept_inline = !is_object;
                continue;
            }
            let is_hidden = if prefix.family() == Family::V6 { has_kept } else { has_kept_inline };
            if is_object && wanted != Some(form)
                || !is_object && !is_hidden && !self.others.same_protocol
            {
                return Some(form);
            }
        }
        None
    }

    /// What the kernel should hold, and how many hops are too many for it.
    pub(super) fn want(&self, prefix: Prefix, config: &KernelConfig) -> (Want, usize) {
        let mut hops: Hops = self
            .users
            .iter()
            .filter_map(|(_, route)| match route.next_hop.address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            })
            .chain(self.stale.iter().flatten().copied())
            .collect();
        hops.sort_unstable();
        hops.dedup();
        let family = prefix.family();
        let hops_max = match (config.nexthop_objects, family) {
            (NexthopObjects::Never, Family::V6) => 1, // no multipath of hops without a gateway
            _ => config.hops_max,
        };
        let left_out = hops.len().saturating_sub(hops_max);
        hops.truncate(hops_max);
        let want = match config.nexthop_objects {
            _ if hops.is_empty() => Want::Nothing,
            NexthopObjects::Shared => Want::Object(NexthopKey { family, hops }),
            NexthopObjects::Never => Want::Inline(hops),
        };
        (want, left_out)
    }
}
