//! What the tables look like, for whoever asks.
//!
//! Owns the pieces in which that is told: each is small, since nobody may wait long for a question. Must never
//! change anything.

use super::Rib;
use crate::types::{Digest, PeerClass, Route, SourceId, Vni};

/// Places of a table that one piece looks at.
const PLACES_PER_PIECE: u32 = 4_096;

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

/// Some routes of a VNI.
#[derive(Clone, Debug, Default)]
pub struct RoutesPiece {
    /// Routes, and who announces each of them.
    pub routes: Vec<(Route, Vec<(SourceId, PeerClass)>)>,
    /// From where to go on; None at the end.
    pub next: Option<u32>,
    /// If that is another number than in the piece before, some may be missing, or told twice.
    pub moved: u32,
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
        let to = from.saturating_add(PLACES_PER_PIECE).min(places);
        let entries = (from..to).map(|place| home.table.entry(place));
        let routes = entries
            .filter(|entry| !entry.is_vacant())
            .map(|entry| (entry.route, entry.sources().collect()));
        RoutesPiece {
            routes: routes.collect(),
            next: (to < places).then_some(to),
            moved: home.table.moved(),
        }
    }
}
