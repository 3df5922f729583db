//! Where routes go in the kernel, and how.
//!
//! Owns the settings, their ranges and their defaults. Must never ask the kernel for anything.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::Vni;

/// Where routes go, and how they get there. More settings may come: build it with
/// `..KernelConfig::new(...)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelConfig {
    /// The tunnel device (usually an `ip6tnl` device in `external` mode). It must exist at the
    /// start; later it may go, come back, and lose its name to another. An alternative name does.
    pub link_name: String,
    /// VNI to routing table, 1..=2^32-1; 0 stands for the table `main` (254). Routes of other VNIs
    /// are not installed.
    pub vni_table_map: BTreeMap<Vni, u32>,
    /// Whether IPv6 destinations are left out. Those of a former run go with what nobody asks for.
    pub ipv4_only: bool,
    /// Where kernel nexthop objects are used. Kernels without them get routes that carry their own
    /// encapsulation, whatever is set here.
    pub nexthop_objects: NexthopObjects,
    /// Hops of one route at most, the lowest addresses: 1..=[`HOPS_MAX`]. See
    /// [`HOPS_DEFAULT`] for what more than the default do.
    pub hops_max: usize,
    /// Time between two comparisons with the kernel's tables; zero: only when there is a reason.
    pub resync: Duration,
    /// Seeds hash maps and the ids of nexthop objects; should differ between programs.
    pub seed: u64,
}

impl KernelConfig {
    /// Routes of both IP versions out of `link_name`; a comparison every 60 s.
    pub fn new(link_name: impl Into<String>, vni_table_map: BTreeMap<Vni, u32>) -> KernelConfig {
        KernelConfig {
            link_name: link_name.into(),
            vni_table_map,
            ipv4_only: false,
            nexthop_objects: NexthopObjects::default(),
            hops_max: HOPS_DEFAULT,
            resync: RESYNC_DEFAULT,
            seed: ahash::RandomState::new().hash_one(std::process::id()),
        }
    }
}

/// The routing table `main`: what table 0 in a mapping means.
pub(crate) const TABLE_MAIN: u32 = 254;

/// Hops of one route that can be installed at most: more do not fit the largest message of a dump
/// (32 KiB), and we could not verify them. Linux 6.18 shows 335 and not 338; some room is left.
pub const HOPS_MAX: usize = 320;

/// Hops of one route that are installed by default: with 39 and more the kernel cannot put the
/// route into the first message of a dump, and `ip route` and routing daemons see nothing of the
/// table (Linux 6.18, pages of 4 KiB).
pub const HOPS_DEFAULT: usize = 32;

/// Where routes name kernel nexthop objects instead of carrying their own encapsulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NexthopObjects {
    /// All routes: thousands of them share few hypervisors, and a route is then a small message.
    #[default]
    Shared,
    /// Nowhere (kernels before 5.3): an IPv6 destination gets its lowest hop only.
    Never,
}

/// Time between two comparisons with the kernel's tables by default.
pub(crate) const RESYNC_DEFAULT: Duration = Duration::from_secs(60);
