//! What sources announce, on its way to another process, and from there into tables.
//!
//! Owns the order in which it is told: source by source, VNI by VNI. Must never make a record of it: who subscribed knows it.

use super::sources::Introduction;
use super::withheld::WithheldRoute;
use super::{RecordSink, Rib, UpdateGroup};
use crate::types::{Action, PeerClass, Route, ShardId, SourceId, Speaker, Vni};
use crate::wire::encode_update;

/// What a source announces in one VNI, as one and the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AnnouncedPart {
    pub source: SourceId,
    pub class: PeerClass,
    pub life: u8,
    pub speaker: Speaker,
    pub vni: Vni,
    /// Whether policy withholds it.
    pub is_withheld: bool,
}

/// A walk through what all sources announce, while nothing changes.
pub(crate) struct Announcements {
    /// Those behind the one that it is at.
    sources: Vec<SourceId>,
    source: Option<SourceId>,
    /// The VNIs of that one behind the one that it is at.
    vnis: Vec<Vni>,
    vni: Vni,
    /// Where its routes stand in the table of that one.
    places: Vec<u32>,
    /// Of its withheld routes the first so many are not told yet.
    withheld: usize,
}

impl Announcements {
    /// Of all sources of a home.
    pub(crate) fn new(rib: &Rib) -> Announcements {
        Announcements {
            sources: rib.sources.ids(),
            source: None,
            vnis: Vec::new(),
            vni: Vni(0),
            places: Vec::new(),
            withheld: 0,
        }
    }

    /// Appends the next routes, as UPDATEs of about `bytes_max`, and says whose they are. None at the end.
    pub(crate) fn next(
        &mut self,
        rib: &Rib,
        frames: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Option<AnnouncedPart> {
        loop {
            if let Some(source) = self.source {
                if let Some(part) = self.next_in_table(rib, source, frames, bytes_max) {
                    return Some(part);
                }
                let hasher = &rib.common.rules.hasher;
                if let Some(vni) = self.vnis.pop() {
                    self.vni = vni;
                    let home = rib.homes.find(vni, hasher);
                    self.places =
                        home.map_or_else(Vec::new, |home| home.table.places_of(source, hasher));
                    self.places.reverse();
                    continue;
                }
                if let Some(part) = self.next_withheld(rib, source, frames, bytes_max) {
                    return Some(part);
                }
            }
            let source = self.sources.pop()?;
            let of = rib.sources.find(source, &rib.common.rules.hasher)?;
            self.source = Some(source);
            self.vnis = of.vnis.keys().collect();
            self.withheld = of.withheld().map_or(0, |withheld| withheld.len());
        }
    }

    fn next_in_table(
        &mut self,
        rib: &Rib,
        source: SourceId,
        frames: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Option<AnnouncedPart> {
        let vni = self.vni;
        let home = rib.homes.find(vni, &rib.common.rules.hasher)?;
        let routes = self.places.iter().rev().map_while(|&place| {
            let entry = home.table.entry(place);
            let role = entry.announced(source)?;
            let part = AnnouncedPart {
                source,
                class: role.class(),
                life: role.life(),
                speaker: rib.common.rules.speakers.speaker(role.speaker()),
                vni,
                is_withheld: false,
            };
            Some((part, entry.route))
        });
        let (part, count) = append_one_part(routes, frames, bytes_max)?;
        self.places.truncate(self.places.len() - count);
        Some(part)
    }

    fn next_withheld(
        &mut self,
        rib: &Rib,
        source: SourceId,
        frames: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Option<AnnouncedPart> {
        let of = rib.sources.find(source, &rib.common.rules.hasher)?;
        let (withheld, speaker) = (of.withheld()?, of.speaker());
        let routes = (0..self.withheld).rev().map(|at| {
            let WithheldRoute { vni, route, class, life } = *withheld.at(at);
            (AnnouncedPart { source, class, life, speaker, vni, is_withheld: true }, route)
        });
        let (part, count) = append_one_part(routes, frames, bytes_max)?;
        self.withheld -= count;
        Some(part)
    }
}

/// Appends the first routes, as long as they are of the same part, as UPDATEs of about `bytes_max`. Says which part that
/// is, and how many they are.
fn append_one_part(
    routes: impl Iterator<Item = (AnnouncedPart, Route)>,
    frames: &mut Vec<u8>,
    bytes_max: usize,
) -> Option<(AnnouncedPart, usize)> {
    let mut routes = routes.peekable();
    let part = routes.peek()?.0;
    let mut count = 0;
    for (_, route) in routes.take_while(|(of, _)| *of == part) {
        encode_update(frames, Action::Add, part.vni, &route);
        count += 1;
        if frames.len() >= bytes_max {
            break;
        }
    }
    Some((part, count))
}

impl Rib {
    /// All sources that were introduced.
    pub(crate) fn introductions(&self) -> impl Iterator<Item = (SourceId, Introduction)> {
        let sources = self.sources.ids().into_iter();
        let hasher = &self.common.rules.hasher;
        sources.filter_map(|id| Some((id, self.sources.find(id, hasher)?.introduction()?)))
    }

    /// Whether routes come from a process that has taken them already: then no limit counts.
    pub(crate) fn set_restoring(&mut self, is_restoring: bool) {
        self.common.rules.is_restoring = is_restoring;
    }

    /// A route that another process has taken.
    pub(crate) fn restore(
        &mut self,
        part: &AnnouncedPart,
        route: &Route,
        sink: &mut impl RecordSink,
    ) {
        let AnnouncedPart { source, class, life, speaker, vni, is_withheld } = *part;
        if is_withheld {
            let withheld = WithheldRoute { vni, route: *route, class, life };
            self.sources.withhold(source, withheld, &self.common.rules.hasher);
        } else {
            self.put(source, (class, life, speaker), vni, route, sink);
        }
    }

    /// A shard has subscribers of a group that know its table already.
    pub(crate) fn follow(&mut self, group: UpdateGroup, shard: ShardId) {
        let hasher = &self.common.rules.hasher;
        let home = self.homes.find_or(group.vni, hasher, || super::VniRib::new(group.vni));
        home.feeds.of_or_new(group.class).follow(shard);
    }
}
