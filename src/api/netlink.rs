//! The route client that installs routes in the kernel.
//!
//! Owns nothing but the handle to the netlink thread. Must never wait for the kernel, except to clean
//! up at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use super::installer::{RouteClient, RouteError};
use crate::kernel::{Counters, HOPS_DEFAULT, KernelConfig, KernelError, KernelRoutes};
use crate::types::{Destination, NextHop, Route, Vni};

/// How long cleaning up may take.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// What is installed where. More settings may come: build it with `..NetlinkClientConfig::new(...)`.
#[derive(Clone, Debug)]
pub struct NetlinkClientConfig {
    /// Routing tables by VNI, 1..=2^32-1; 0 stands for the main table (254). Routes of other VNIs are
    /// not installed.
    pub vni_table_map: BTreeMap<Vni, u32>,
    /// The tunnel device. It must exist at the start; later it may go and come back.
    pub link_name: String,
    /// Whether only routes to IPv4 destinations are installed.
    pub ipv4_only: bool,
    /// Hops of one route at most, the lowest addresses: 1..=[`HOPS_MAX`](super::HOPS_MAX). See [`HOPS_DEFAULT`]
    /// for what more do.
    pub hops_max: usize,
    /// How often the kernel's tables are compared with what should be there, in whole seconds; zero:
    /// only when there is a reason.
    pub resync: Duration,
}

impl NetlinkClientConfig {
    /// Routes of both IP versions through `link_name`, verified every 60 s.
    pub fn new(
        link_name: impl Into<String>,
        vni_table_map: BTreeMap<Vni, u32>,
    ) -> NetlinkClientConfig {
        NetlinkClientConfig {
            vni_table_map,
            link_name: link_name.into(),
            ipv4_only: false,
            hops_max: HOPS_DEFAULT,
            resync: Duration::from_secs(60),
        }
    }
}

/// Installs routes as IP-in-IPv6 tunnel routes, in batches, by the netlink thread.
#[derive(Debug)]
pub struct NetlinkClient {
    routes: KernelRoutes,
}

impl NetlinkClient {
    /// Starts the netlink thread, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// No such device, no permission, or no netlink: see [`KernelError`].
    pub fn new(config: NetlinkClientConfig) -> Result<NetlinkClient, KernelError> {
        let NetlinkClientConfig { vni_table_map, link_name, ipv4_only, hops_max, resync } = config;
        let resync_s = u32::try_from(resync.as_secs()).unwrap_or(u32::MAX);
        let config = KernelConfig::new(link_name, vni_table_map);
        let routes = KernelRoutes::start(KernelConfig { ipv4_only, hops_max, resync_s, ..config })?;
        Ok(NetlinkClient { routes })
    }
}

impl RouteClient for NetlinkClient {
    fn add_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError> {
        self.routes.add(vni, Route { destination, next_hop });
        Ok(())
    }

    fn remove_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError> {
        self.routes.remove(vni, Route { destination, next_hop });
        Ok(())
    }

    fn synchronized(&mut self) {
        self.routes.sweep();
    }

    fn cleanup(&mut self) {
        self.routes.clear();
        if !self.routes.settle(CLEANUP_TIMEOUT) {
            tracing::warn!("kernel routes could not be removed within {CLEANUP_TIMEOUT:?}");
        }
        let Counters { installed, nexthops, .. } = self.routes.counters();
        if installed + nexthops > 0 {
            tracing::warn!("left in the kernel: {installed} routes, {nexthops} nexthop objects");
        }
    }
}
