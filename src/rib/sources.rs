//! Who announces: what a home knows of each source beside its routes in tables.
//!
//! Owns the VNIs of each source, its lives, and what of it is withheld. Must never know who is connected: a source
//! may outlive its connection, and go on with another one.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;

use super::withheld::{Withheld, WithheldRoute};
use crate::policy::{Denial, Judge, Policy};
use crate::types::{Remote, Route, ShardId, SourceId, Speaker, SplitMap, Vni};

/// Whose word a source is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Introduction {
    /// The address by which policy judges it; None if that does not concern it.
    pub address: Option<IpAddr>,
    /// The shard of its connection, which is told what becomes of its routes.
    pub shard: ShardId,
    /// Counts its connections: what it announces from now on it announces in this life.
    pub life: u8,
    /// Whom it speaks for.
    pub speaker: Speaker,
}

/// What policy there is.
#[derive(Default)]
pub(super) struct Judgement {
    policy: Option<Arc<Policy>>,
    /// A number for each that there was.
    number: u32,
}

/// One source.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The VNIs in which it announces something that is in their tables.
    pub vnis: SplitMap<Vni, ()>,
    introduction: Option<Introduction>,
    /// What it may announce, by the policy of this number.
    judge: Option<(u32, Judge)>,
    withheld: Option<Box<Withheld>>,
}

/// All sources of a home.
#[derive(Default)]
pub(super) struct SourceTable {
    of: SplitMap<SourceId, Source>,
    judgement: Judgement,
    /// Routes that are withheld.
    withheld: usize,
    /// Whether some source has had more than one life, or speaks for a host.
    are_more_than_ids: bool,
    /// Readings of what was announced before this node was restarted.
    stale: usize,
}

impl Source {
    /// Whether nothing has to be remembered of it: it announces nothing, and need not be known as it was not introduced.
    pub(super) fn is_nothing(&self) -> bool {
        self.introduction.is_none() && self.vnis.is_empty() && self.withheld.is_none()
    }

    /// The life in which it is.
    pub(super) fn life(&self) -> u8 {
        self.introduction.map_or(0, |it| it.life)
    }

    /// Whom it speaks for.
    pub(super) fn speaker(&self) -> Speaker {
        self.introduction.map_or(Speaker::Itself, |it| it.speaker)
    }

    /// Whose word it is, if it was introduced.
    pub(super) fn introduction(&self) -> Option<Introduction> {
        self.introduction
    }

    /// Whether it may announce a route.
    pub(super) fn judge(
        &mut self,
        judgement: &Judgement,
        vni: Vni,
        route: &Route,
    ) -> Result<(), Denial> {
        let Some(policy) = &judgement.policy else { return Ok(()) };
        let Some(address) = self.introduction.and_then(|it| it.address) else { return Ok(()) };
        let is_old = |(number, _): &(u32, Judge)| *number != judgement.number;
        if self.judge.as_ref().is_none_or(is_old) {
            self.judge = Some((judgement.number, policy.judge_of(address)));
        }
        self.judge.as_ref().map_or(Ok(()), |(_, judge)| judge.judge(vni, route))
    }

    /// What of it is withheld.
    pub(super) fn withheld(&self) -> Option<&Withheld> {
        self.withheld.as_deref()
    }
}

impl SourceTable {
    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Routes of all that are withheld.
    pub(super) fn withheld(&self) -> usize {
        self.withheld
    }

    /// Whether a change has to ask for its source: without policy, and as long as nobody came back, it has not.
    pub(super) fn matter(&self) -> bool {
        self.judgement.policy.is_some() || self.are_more_than_ids || self.withheld > 0
    }

    /// Whether something is kept that was announced before this node was restarted.
    pub(super) fn have_stale(&self) -> bool {
        self.stale > 0
    }

    /// From now on this policy judges what sources announce.
    pub(super) fn set_policy(&mut self, policy: Option<Arc<Policy>>) {
        let number = self.judgement.number.wrapping_add(1);
        self.judgement = Judgement { policy, number };
    }

    /// Says whose word a source is from now on. Returns how many of its routes are withheld.
    pub(super) fn introduce(
        &mut self,
        source: SourceId,
        introduction: Introduction,
        hasher: &RandomState,
    ) -> usize {
        self.are_more_than_ids |= introduction.life > 0 || introduction.speaker != Speaker::Itself;
        let of = self.of.find_or(source, hasher, Source::default);
        of.introduction = Some(introduction);
        of.withheld().map_or(0, Withheld::len)
    }

    /// A source, if it is known.
    pub(super) fn find(&self, source: SourceId, hasher: &RandomState) -> Option<&Source> {
        self.of.find(source, hasher)
    }

    /// The same, to be changed, and by what it is judged.
    pub(super) fn find_mut(
        &mut self,
        source: SourceId,
        hasher: &RandomState,
    ) -> Option<(&mut Source, &Judgement)> {
        Some((self.of.find_mut(source, hasher)?, &self.judgement))
    }

    /// A source that may be new, and by what it is judged.
    pub(super) fn of_or_new(
        &mut self,
        source: SourceId,
        hasher: &RandomState,
    ) -> (&mut Source, &Judgement) {
        let SourceTable { of, stale, judgement, .. } = self;
        let new = || {
            *stale += usize::from(is_stale(source));
            Source::default()
        };
        (of.find_or(source, hasher, new), judgement)
    }

    /// What is in tables of those who speak for this one: sources with the VNIs in which they announce something.
    pub(super) fn announced_for(&self, speaker: Speaker) -> Vec<(SourceId, Vni)> {
        let sources = self.of.keys().zip(self.of.values());
        let sources = sources.filter(|(_, of)| of.speaker() == speaker);
        sources.flat_map(|(id, of)| of.vnis.keys().map(move |vni| (id, vni))).collect()
    }

    /// All ids.
    pub(super) fn ids(&self) -> Vec<SourceId> {
        self.of.keys().collect()
    }

    /// Whether a route of a source is withheld.
    pub(super) fn is_withheld(
        &self,
        source: SourceId,
        route: &WithheldRoute,
        hasher: &RandomState,
    ) -> bool {
        let withheld = self.find(source, hasher).and_then(Source::withheld);
        withheld.is_some_and(|withheld| withheld.has(route, hasher))
    }

    /// Withholds a route. Says in which life it was announced before, if it was withheld already.
    pub(super) fn withhold(
        &mut self,
        source: SourceId,
        withheld: WithheldRoute,
        hasher: &RandomState,
    ) -> Option<u8> {
        let of = self.of.find_or(source, hasher, Source::default);
        let before = of.withheld.get_or_insert_default().insert(withheld, hasher);
        self.withheld += usize::from(before.is_none());
        before
    }

    /// Withholds a route no longer, if it was.
    pub(super) fn release(
        &mut self,
        source: SourceId,
        vni: Vni,
        route: &Route,
        hasher: &RandomState,
    ) -> Option<WithheldRoute> {
        if self.withheld == 0 {
            return None;
        }
        let of = self.of.find_mut(source, hasher)?;
        let released = of.withheld.as_mut()?.take(vni, route, hasher)?;
        self.note_released(source, hasher);
        Some(released)
    }

    /// Withholds the route at a place no longer; the last one of its source stands there then.
    pub(super) fn release_at(
        &mut self,
        source: SourceId,
        place: usize,
        hasher: &RandomState,
    ) -> Option<WithheldRoute> {
        let of = self.of.find_mut(source, hasher)?;
        let released = of.withheld.as_mut()?.take_at(place, hasher);
        self.note_released(source, hasher);
        Some(released)
    }

    /// Forgets a source. What it announces has to be withdrawn.
    pub(super) fn remove(&mut self, source: SourceId, hasher: &RandomState) {
        let Some(removed) = self.of.remove(source, hasher) else { return };
        self.stale -= usize::from(is_stale(source));
        assert!(removed.vnis.is_empty() && removed.withheld.is_none(), "nothing of it is left");
    }

    fn note_released(&mut self, source: SourceId, hasher: &RandomState) {
        self.withheld -= 1;
        if let Some(of) = self.of.find_mut(source, hasher)
            && of.withheld.as_ref().is_some_and(|withheld| withheld.len() == 0)
        {
            of.withheld = None;
        }
    }
}

/// Whether it stands for what was announced before this node was restarted.
fn is_stale(source: SourceId) -> bool {
    source.remote().is_some_and(|it| it.reflector == Remote::OWN_STALE)
}
