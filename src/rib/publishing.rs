//! Other reflectors: what they say of routes, and what they are told of what is announced here.
//!
//! Owns which of their readings a route is kept by. Must never tell them of what came from one of them.

use super::speakers::Role;
use super::{Outcome, RecordSink, Rib, VniRib};
use crate::types::{Announcers, Behind, PeerClass, Remote, Route, SourceId, Speaker, Vni};

/// The classes that other reflectors tell apart.
const CLASSES: [PeerClass; 2] = [PeerClass::Client, PeerClass::Server];

impl Rib {
    /// Another reflector says who announces a route there. That replaces what earlier readings of it said, and only
    /// then these go: nobody is told that the route is gone meanwhile.
    pub fn announce_remote(
        &mut self,
        remote: Remote,
        vni: Vni,
        route: &Route,
        by: Announcers,
        sink: &mut impl RecordSink,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let of_class = |class| if class == PeerClass::Server { by.servers } else { by.clients };
        for class in CLASSES {
            let speaker = match of_class(class) {
                Behind::Nobody => continue,
                Behind::One(address) => Speaker::Host(address),
                Behind::Many => Speaker::Many,
            };
            let put = self.put(remote.source(class), (class, 0, speaker), vni, route, sink);
            outcome.stored += put.stored;
            outcome.refusal = outcome.refusal.or(put.refusal);
        }
        for class in CLASSES {
            let is_over = |of: Remote| match of_class(class) {
                Behind::Nobody => of.generation <= remote.generation,
                _ => of.generation < remote.generation,
            };
            let over = self.remotes(vni, route, |source, of| {
                of.reflector == remote.reflector && is_over(of) && of.source(class) == source
            });
            for source in over {
                let taken = self.take(source, vni, route, sink);
                outcome.stored -= i32::from(taken.is_some());
            }
        }
        outcome
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
        let stale = self.remotes(vni, route, |_, of| of.reflector == Remote::OWN_STALE);
        for source in stale {
            let role = self.role_of(source, vni, route);
            let is_it = |role| self.common.rules.speakers.behind(role) == Behind::One(address);
            if role.is_some_and(is_it) {
                self.take(source, vni, route, sink);
            }
        }
    }

    /// The sources of a route that stand for readings like this.
    fn remotes(
        &self,
        vni: Vni,
        route: &Route,
        is_such: impl Fn(SourceId, Remote) -> bool,
    ) -> Vec<SourceId> {
        let hasher = &self.common.rules.hasher;
        let Some(home) = self.homes.find(vni, hasher) else { return Vec::new() };
        let Some(entry) = home.entry_of(route, hasher) else { return Vec::new() };
        let sources = entry.sources().map(|(source, _)| source);
        sources.filter(|&it| it.remote().is_some_and(|of| is_such(it, of))).collect()
    }

    fn role_of(&self, source: SourceId, vni: Vni, route: &Route) -> Option<Role> {
        let hasher = &self.common.rules.hasher;
        self.homes.find(vni, hasher)?.entry_of(route, hasher)?.announced(source)
    }
}

impl VniRib {
    /// Who announces the route at a place at this node, as others are told.
    pub(super) fn published(&self, place: u32, speakers: &super::Speakers) -> Announcers {
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
