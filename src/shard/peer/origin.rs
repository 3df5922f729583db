//! What a peer is as a source of routes: perhaps the one that a lost connection was.
//!
//! Owns the source's id, its life, and what of former lives it may not have announced again. Must never change the
//! id once the peer has subscribed or announced something.

use std::time::Duration;

use crate::handover::{self, HandoverError};
use crate::shard::absent::{Absent, Homes, Stale, life_of};
use crate::types::{PeerClass, PeerId, ShardId, SourceId, Time};

/// What a peer is as a source of routes.
pub(in crate::shard) struct Origin {
    source: SourceId,
    life: u8,
    homes: Homes,
    stale: Stale,
    /// Nobody else at its address may announce what it does not.
    is_alone: bool,
    /// When it announced something, since it is back.
    announced_at: Option<Time>,
}

impl Origin {
    /// A source that there was not before.
    pub(crate) fn new(id: PeerId) -> Origin {
        Origin {
            source: SourceId(id),
            life: 0,
            homes: Homes::default(),
            stale: Stale::default(),
            is_alone: false,
            announced_at: None,
        }
    }

    /// The source that a lost connection was.
    pub(crate) fn taken_over(absent: Absent, is_alone: bool) -> Origin {
        let Absent { source, life, homes, stale, .. } = absent;
        Origin { source, life: life.wrapping_add(1), homes, stale, is_alone, announced_at: None }
    }

    /// The source that another process knew.
    pub(crate) fn restored(now: Time, peer: &handover::Peer) -> Result<Origin, HandoverError> {
        Ok(Origin {
            source: SourceId(PeerId::of_bits(peer.source)),
            life: life_of(peer.life)?,
            homes: Homes::default(),
            stale: Stale::restored(now, &peer.former_lives)?,
            is_alone: peer.is_alone,
            announced_at: peer.has_announced.then_some(now),
        })
    }

    /// Tells all of it.
    pub(crate) fn hand_over(&self, now: Time, peer: &mut handover::Peer) {
        peer.source = self.source.0.bits();
        peer.life = self.life.into();
        peer.former_lives = self.stale.hand_over(now);
        peer.is_alone = self.is_alone;
        peer.has_announced = self.announced_at.is_some();
    }

    /// It is known at each of so many homes.
    pub(crate) fn note_all_homes(&mut self, shards: u16) {
        self.homes = Homes::all(shards);
    }

    /// The source's id.
    pub(crate) fn source(&self) -> SourceId {
        self.source
    }

    /// Counts its connections.
    pub(crate) fn life(&self) -> u8 {
        self.life
    }

    /// Remembers that `home` knows it as a source. False if that is so already.
    #[inline]
    pub(crate) fn note_home(&mut self, home: ShardId) -> bool {
        self.homes.note(home)
    }

    /// The homes that know it as a source.
    pub(crate) fn homes(&self) -> &Homes {
        &self.homes
    }

    /// What of former lives it may not have announced again.
    pub(crate) fn stale(&mut self) -> &mut Stale {
        &mut self.stale
    }

    /// Whether there may be something like that.
    pub(crate) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// It announces something.
    #[inline]
    pub(crate) fn announces(&mut self, now: Time) {
        if self.is_stale() {
            self.announced_at = Some(now);
        }
    }

    /// Whether it has said all, as a KEEPALIVE shows that comes so long after what it announced last.
    pub(crate) fn has_said_all(&self, now: Time, quiet: Duration) -> bool {
        self.is_stale()
            && self.is_alone
            && self.announced_at.is_some_and(|announced_at| now >= announced_at.after(quiet))
    }

    /// Its connection is lost. Its routes are to be filled in.
    pub(crate) fn leave(&mut self, class: PeerClass, until: Time) -> Absent {
        let mut stale = std::mem::take(&mut self.stale);
        stale.push(self.life, until);
        Absent {
            source: self.source,
            class,
            life: self.life,
            homes: std::mem::take(&mut self.homes),
            routes: 0,
            stale,
        }
    }
}
