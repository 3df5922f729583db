//! The route client that installs routes in the kernel.
//!
//! Owns nothing but the handle to the netlink thread. Must never wait for the kernel, except to clean
//! up at the end.

use std::time::Duration;

use crate::client::{RouteClient, RouteError};
use crate::kernel::{Counters, KernelConfig, KernelError, KernelRoutes, KernelWatch};
use crate::types::{Destination, NextHop, Route, Vni};

/// How long cleaning up may take.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

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
    pub fn new(config: KernelConfig) -> Result<NetlinkClient, KernelError> {
        Ok(NetlinkClient { routes: KernelRoutes::start(config)? })
    }

    /// Something to look at its numbers with: see `HttpOptions`.
    pub fn watch(&self) -> KernelWatch {
        self.routes.watch()
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
