//! What is counted, and why a route is left out.
//!
//! Owns the numbers' meaning, and which next hops cannot be a tunnel's end. Must never know of
//! the kernel.

use std::net::IpAddr;

/// Why a route is not installed at all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub(crate) enum Skip {
    /// The VNI has no table.
    #[error("its VNI is mapped to no table (expected an entry in the VNI-to-table map)")]
    NoTable,
    /// The destination is IPv6, and only IPv4 is wanted.
    #[error("its destination is IPv6 and only IPv4 is installed")]
    Ipv6Destination,
    /// The prefix length does not fit the address family.
    #[error("its prefix length does not fit the address (expected at most 32 or 128)")]
    PrefixLength,
    /// The next hop is an IPv4 address.
    #[error("its next hop is IPv4 (expected an IPv6 underlay address)")]
    HopIpv4,
    /// The next hop is `::`.
    #[error("its next hop is unspecified (expected a unicast IPv6 address)")]
    HopUnspecified,
    /// The next hop is a multicast address.
    #[error("its next hop is multicast (expected a unicast IPv6 address)")]
    HopMulticast,
    /// The next hop is an IPv4 address in IPv6 dress: `::ffff:a.b.c.d`, or `::a.b.c.d`.
    #[error("its next hop embeds an IPv4 address (expected an IPv6 underlay address)")]
    HopEmbedsIpv4,
    /// The next hop is `::1`.
    #[error("its next hop is the loopback address (expected the address of another host)")]
    HopLoopback,
    /// The next hop is in `fe80::/10`: a tunnel's end is found without naming a device.
    #[error("its next hop is link-local (expected an address that is routed)")]
    HopLinkLocal,
}

/// Numbers that operators look at. Gauges say so; all others only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Gauge: routes of ours in the kernel, stale ones included.
    pub installed: u64,
    /// Gauge: destinations where a foreign route is in the way.
    pub conflicts: u64,
    /// Gauge: destinations that ours shares with a foreign route.
    pub shared: u64,
    /// Gauge: routes of a former run that are kept until the sweep.
    pub stale: u64,
    /// Gauge: nexthop objects of ours.
    pub nexthops: u64,
    /// Routes added.
    pub added: u64,
    /// Routes changed: the new one was made beside the old one, which then goes.
    pub replaced: u64,
    /// Routes deleted.
    pub deleted: u64,
    /// Requests that found a foreign route.
    pub conflicts_total: u64,
    /// Requests that the kernel refused as wrong (EINVAL and the like).
    pub failed_refused: u64,
    /// Requests that failed for lack of memory or a busy kernel.
    pub failed_busy: u64,
    /// Requests that failed because the link was down or gone.
    pub failed_link: u64,
    /// Requests that failed for lack of the capability.
    pub failed_denied: u64,
    /// Requests whose answer was lost (a verification follows).
    pub failed_unknown: u64,
    /// Routes that a verification found changed or deleted by others.
    pub repaired: u64,
    /// Verifications by a dump.
    pub verified: u64,
    /// Hops that are left out of routes that have too many, now.
    pub hops_left_out: u64,
    /// Routes not installed: VNI without a table.
    pub skipped_no_table: u64,
    /// Routes not installed: IPv6 destination while only IPv4 is wanted.
    pub skipped_ipv6_destination: u64,
    /// Routes not installed: prefix length out of range.
    pub skipped_prefix_length: u64,
    /// Routes not installed: IPv4 next hop.
    pub skipped_hop_ipv4: u64,
    /// Routes not installed: unspecified next hop.
    pub skipped_hop_unspecified: u64,
    /// Routes not installed: multicast next hop.
    pub skipped_hop_multicast: u64,
    /// Routes not installed: next hop with an embedded IPv4 address.
    pub skipped_hop_embeds_ipv4: u64,
    /// Routes not installed: loopback next hop.
    pub skipped_hop_loopback: u64,
    /// Routes not installed: link-local next hop.
    pub skipped_hop_link_local: u64,
}

impl Skip {
    /// What speaks against a next hop. Only what cannot be a tunnel's end on another host does: the
    /// rest of the address plan is the operator's (`fec0::/10`, documentation, NAT64 prefixes).
    pub(super) fn of_hop(hop: IpAddr) -> Option<Skip> {
        let hop = match hop {
            IpAddr::V4(_) => return Some(Skip::HopIpv4),
            IpAddr::V6(hop) => hop,
        };
        let starts_with_zeros = hop.segments()[..6] == [0; 6];
        match hop {
            _ if hop.is_unspecified() => Some(Skip::HopUnspecified),
            _ if hop.is_loopback() => Some(Skip::HopLoopback),
            _ if hop.is_multicast() => Some(Skip::HopMulticast),
            _ if hop.is_unicast_link_local() => Some(Skip::HopLinkLocal),
            _ if hop.to_ipv4_mapped().is_some() || starts_with_zeros => Some(Skip::HopEmbedsIpv4),
            _ => None,
        }
    }
}

impl Counters {
    pub(super) fn skip(&mut self, skip: Skip) {
        *match skip {
            Skip::NoTable => &mut self.skipped_no_table,
            Skip::Ipv6Destination => &mut self.skipped_ipv6_destination,
            Skip::PrefixLength => &mut self.skipped_prefix_length,
            Skip::HopIpv4 => &mut self.skipped_hop_ipv4,
            Skip::HopUnspecified => &mut self.skipped_hop_unspecified,
            Skip::HopMulticast => &mut self.skipped_hop_multicast,
            Skip::HopEmbedsIpv4 => &mut self.skipped_hop_embeds_ipv4,
            Skip::HopLoopback => &mut self.skipped_hop_loopback,
            Skip::HopLinkLocal => &mut self.skipped_hop_link_local,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hops_that_can_be_a_tunnels_end_are_taken() {
        for (hop, expected) in [
            ("2001:db8::1", None),
            ("fd00::1", None),
            ("fec0::1", None),
            ("64:ff9b::c000:201", None),
            ("::1:0:0:1", None),
            ("192.0.2.1", Some(Skip::HopIpv4)),
            ("::", Some(Skip::HopUnspecified)),
            ("::1", Some(Skip::HopLoopback)),
            ("::2", Some(Skip::HopEmbedsIpv4)),
            ("::192.0.2.1", Some(Skip::HopEmbedsIpv4)),
            ("::ffff:192.0.2.1", Some(Skip::HopEmbedsIpv4)),
            ("::ffff:127.0.0.1", Some(Skip::HopEmbedsIpv4)),
            ("fe80::1", Some(Skip::HopLinkLocal)),
            ("febf::1", Some(Skip::HopLinkLocal)),
            ("ff02::1", Some(Skip::HopMulticast)),
        ] {
            assert_eq!(Skip::of_hop(hop.parse().unwrap()), expected, "{hop}");
        }
    }
}
