//! What is asked of the kernel.
//!
//! Owns the requests' meaning. There is none that replaces a route: the kernel's REPLACE takes the
//! first route of a prefix, whoever made it.

use super::{Family, Form, NexthopId, Prefix};

/// One request to the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Makes a nexthop object for one tunnel endpoint; must not exist.
    AddHop {
        /// The object's id.
        id: NexthopId,
        /// The family of the routes that will name it.
        family: Family,
        /// The tunnel endpoint.
        address: std::net::Ipv6Addr,
    },
    /// Makes a group of existing objects; must not exist.
    AddGroup {
        /// The object's id.
        id: NexthopId,
        /// Its members, all of weight 1.
        members: Vec<NexthopId>,
    },
    /// Deletes an object that no route names any more.
    DeleteNexthop {
        /// The object's id.
        id: NexthopId,
    },
    /// Installs a route.
    Add {
        /// Where.
        prefix: Prefix,
        /// What.
        form: Form,
        /// Its place among the routes of the same prefix.
        place: Place,
    },
    /// Deletes one of our own routes.
    Delete {
        /// Where.
        prefix: Prefix,
        /// What the kernel holds.
        form: Form,
    },
}

/// Where a new route goes. The kernel uses the first route of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// There must be no other (CREATE and EXCL).
    Alone,
    /// Behind the others (CREATE and APPEND).
    Last,
    /// Before the others (CREATE; IPv4 only: IPv6 would put it behind them).
    First,
}
