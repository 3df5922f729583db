//! What the tables look like, for whoever asks.
//!
//! Owns the pieces in which that is told: each is small, since nobody may wait long for a question. Must never
//! change anything.

use smallvec::SmallVec;

use super::Rib;
use super::speakers::Announcer;
use super::visibility::Visibility;
use crate::log::Reader;
use crate::types::{Digest, GroupClass, ReflectOwn, Route, Vni};

/// Places of a table, and their sources, that one piece looks at; one route may go beyond.
const PER_PIECE: usize = 4_096;

/// A VNI at its home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VniView {
    /// The VNI.
    pub vni: Vni,
    /// Its routes, each counted once.
    pub routes: usize,
    /// Those who announce some of them.
    pub sources: usize,
    /// Of the routes.
    pub digest: Digest,
}

/// Some VNIs of one home.
#[derive(Clone, Debug, Default)]
pub struct VnisPiece {
    /// VNIs that have a route, a subscriber or a base.
    pub vnis: Vec<VniView>,
    /// In how many pieces all VNIs lie. If that has become less while one asked for one after the other, some may be
    /// missing; some may have been told twice in any case.
    pub pieces: usize,
}

/// Who announces a route.
pub type Sources = SmallVec<[Announcer; 1]>;

/// Some routes of a VNI.
#[derive(Clone, Debug, Default)]
pub struct RoutesPiece {
    /// Routes, and who announces each of them.
    pub routes: Vec<(Route, Sources)>,
    /// From where to go on; None at the end.
    pub next: Option<u32>,
    /// If that is another number than in the piece before, some may be missing. A route that was withdrawn and
    /// announced again meanwhile may be told twice in any case.
    pub moved: u32,
}

/// Whom a route is for, as its sources are: the rule's answer for each class of subscribers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Audience([Visibility; GroupClass::ALL.len()]);

/// Whether a route is for a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// It is.
    Sees,
    /// It is not, since nobody but the subscriber itself announces it.
    OnlyOwn,
    /// It is not, since subscribers of this class are told of none of its sources.
    NoSource,
}

impl Audience {
    /// Of a route that these announce, at a node with this setting.
    pub fn of(reflect: ReflectOwn, route: &Route, sources: &[Announcer]) -> Audience {
        let reflected = reflect.permits(route.next_hop.kind);
        let of = |class| Visibility::of(sources.iter().copied(), class, reflected);
        Audience(GroupClass::ALL.map(of))
    }

    /// What the rule says of a subscriber.
    pub fn sight(&self, class: GroupClass, subscriber: Reader) -> Sight {
        match self.0[class.index()].scope() {
            None => Sight::NoSource,
            Some(scope) if scope.includes(subscriber) => Sight::Sees,
            Some(_) => Sight::OnlyOwn,
        }
    }
}

impl Rib {
    /// The VNIs of one piece: [`VnisPiece::pieces`] says how many there are.
    pub fn vnis_piece(&self, at: usize) -> VnisPiece {
        let vnis = self.homes.part(at).map(|(vni, home)| VniView {
            vni,
            routes: home.table.len(),
            sources: home.table.sources(),
            digest: home.digest,
        });
        VnisPiece { vnis: vnis.collect(), pieces: self.homes.parts() }
    }

    /// Routes of a VNI, from a place on (0 is the first one). Those that are there all the while one asks for one
    /// piece after the other are told.
    pub fn routes_piece(&self, vni: Vni, from: u32) -> RoutesPiece {
        let Some(home) = self.homes.find(vni, &self.common.rules.hasher) else {
            return RoutesPiece::default();
        };
        let places = u32::try_from(home.table.places()).expect("places are numbered by 32 bits");
        let mut piece = RoutesPiece { moved: home.table.moved(), ..RoutesPiece::default() };
        let mut looked_at = 0;
        for place in from..places {
            if looked_at >= PER_PIECE {
                piece.next = Some(place);
                break;
            }
            let entry = home.table.entry(place);
            if !entry.is_vacant() {
                let sources: Sources = entry.announcers(&self.common.rules.speakers).collect();
                looked_at += sources.len();
                piece.routes.push((entry.route, sources));
            }
            looked_at += 1;
        }
        piece
    }
}
