//! [`RouteClient`]: what is done with the routes of the VNIs that the node wants.
//!
//! Owns the words in which it is told. Must never know how the node came to know of a route.

use tracing::debug;

use crate::types::{Destination, NextHop, Vni};

/// Why a route client could not do what it was told. It is logged, and the route counts as told.
pub type RouteError = Box<dyn std::error::Error + Send + Sync>;

/// What is done with the routes of the subscribed VNIs. Called on a thread of its own: it may block,
/// and what changes meanwhile is conflated.
pub trait RouteClient: Send {
    /// The first server (or peer) announced the route.
    ///
    /// # Errors
    /// Whatever kept it from being installed.
    fn add_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError>;

    /// The last one that announced the route withdrew it, or the VNI was unsubscribed.
    ///
    /// # Errors
    /// Whatever kept it from being removed.
    fn remove_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError>;

    /// A server has told all that it knows, and no other one is still telling; or none could be reached
    /// for the stale time. What an earlier run of the node has installed, and nobody has announced since,
    /// may go. Called once.
    fn synchronized(&mut self) {}

    /// The node ends, and nothing of what was installed is to stay.
    fn cleanup(&mut self) {}
}

/// A route client that only logs, at debug level.
#[derive(Clone, Copy, Debug, Default)]
pub struct DummyClient;

impl RouteClient for DummyClient {
    fn add_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError> {
        debug!(%vni, %destination, %next_hop, "route added");
        Ok(())
    }

    fn remove_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError> {
        debug!(%vni, %destination, %next_hop, "route removed");
        Ok(())
    }
}
