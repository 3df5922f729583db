//! Other reflectors: what they say of routes, and what they are told of what is announced here.
//!
//! Owns which of their readings a route is kept by. Must never tell them of what came from one of them.

use super::speakers::Role;
use super::{RecordSink, Refusal, Rib, Speakers, VniRib};
use crate::types::{Announcers, Behind, PeerClass, Remote, Route, SourceId, Speaker, Vni};

/// The classes that other reflectors tell apart.
const CLASSES: [PeerClass; 2] = [PeerClass::Client, PeerClass::Server];

impl Rib {
    /// Another reflector says who announces a route there. That replaces what earlier readings of it said, and only
    /// then these go: nobody is told that the route is gone meanwhile. Returns why it is refused, if it is.
    pub fn announce_remote(
        &mut self,
        remote: Remote,
        vni: Vni,
        route: &Route,
        by: Announcers,
        sink: &mut impl RecordSink,
    ) -> Option<Refusal> {
        let mut refusal = None;
        for (class, of_class) in CLASSES.into_iter().zip([by.clients, by.servers]) {
            let speaker = match of_class {
                Behind::Nobody => continue,
                Behind::One(address) => Speaker::Host(address),
                Behind::Many => Speaker::Many,
            };
            let put = self.put(remote.source(class), (class, 0, speaker), vni, route, sink);
            refusal = refusal.or(put.refusal);
        }
        let over = self.remotes(vni, route, |of, role| {
            let is_server = role.class() == PeerClass::Server;
            let is_there = (if is_server { by.servers } else { by.clients }) != Behind::Nobody;
            of.reflector == remote.reflector
                && of.generation < remote.generation + u64::from(!is_there)
        });
        for source in over {
            self.take(source, vni, route, sink);
        }
        refusal
    }

    /// A route is announced here by who had announced it before this reflector was restarted: the one in place of whom
    /// it was kept.
    pub(super) fn succeed(
        &mut self,
        speaker: Speaker,
        vni: Vni,
        route: &Route,
        sink: &mut impl RecordSink,
    ) {
        let Speaker::Host(address) = speaker else { return };
        let speakers = &self.common.rules.speakers;
        let stale = self.remotes(vni, route, |of, role| {
            of.reflector == Remote::OWN_STALE && speakers.behind(role) == Behind::One(address)
        });
        for source in stale {
            self.take(source, vni, route, sink);
        }
    }

    /// The sources of a route that stand for readings like this.
    fn remotes(
        &self,
        vni: Vni,
        route: &Route,
        is_such: impl Fn(Remote, Role) -> bool,
    ) -> Vec<SourceId> {
        let hasher = &self.common.rules.hasher;
        let Some(home) = self.homes.find(vni, hasher) else { return Vec::new() };
        let Some(entry) = home.entry_of(route, hasher) else { return Vec::new() };
        let such = entry
            .sources()
            .filter(|(source, role)| source.remote().is_some_and(|of| is_such(of, *role)));
        such.map(|(source, _)| source).collect()
    }
}

impl VniRib {
    /// Who announces the route at a place at this node, as others are told.
    pub(super) fn published(&self, place: u32, speakers: &Speakers) -> Announcers {
        let mut published = Announcers::default();
        for (source, role) in self.table.entry(place).sources() {
            if source.is_local() {
                let of_class = match role.class() {
                    PeerClass::Server => &mut published.servers,
                    PeerClass::Client | PeerClass::Own => &mut published.clients,
                };
                *of_class = of_class.and(speakers.behind(role));
            }
        }
        published
    }
}
