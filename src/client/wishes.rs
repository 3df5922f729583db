//! What the node wants and announces, whichever server is there.
//!
//! Owns both lists. Must never forget a wish because a server is away.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Action, Route, Vni};

/// The lists.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    subscribed: BTreeSet<Vni>,
    announced: BTreeMap<Vni, BTreeSet<Route>>,
}

impl Wishes {
    /// Wants a VNI. False if it was wanted before.
    pub(super) fn subscribe(&mut self, vni: Vni) -> bool {
        self.subscribed.insert(vni)
    }

    /// Wants it no more. False if it was not wanted.
    pub(super) fn unsubscribe(&mut self, vni: Vni) -> bool {
        self.subscribed.remove(&vni)
    }

    /// Announces or withdraws a route. True if it is the first one in its VNI.
    pub(super) fn announce(&mut self, action: Action, vni: Vni, route: Route) -> bool {
        let routes = self.announced.entry(vni).or_default();
        let was_empty = routes.is_empty();
        match action {
            Action::Add => routes.insert(route),
            Action::Remove => routes.remove(&route),
        };
        let is_empty = routes.is_empty();
        if is_empty {
            self.announced.remove(&vni);
        }
        was_empty && !is_empty
    }

    /// The VNIs that are wanted.
    pub(super) fn subscribed(&self) -> impl Iterator<Item = Vni> {
        self.subscribed.iter().copied()
    }

    /// The VNIs in which something is announced.
    pub(super) fn announced(&self) -> impl Iterator<Item = Vni> {
        self.announced.keys().copied()
    }

    /// Whether a route is announced.
    pub(super) fn is_announced(&self, vni: Vni, route: &Route) -> bool {
        self.announced.get(&vni).is_some_and(|routes| routes.contains(route))
    }
}
