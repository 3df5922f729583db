//! A peer on its way to another process.
//!
//! Owns what is told of it, but for its subscriptions. Must never tell of one that is closing.

use super::{Link, Origin, Peer, incoming};
use crate::handover::{self, HandoverError};
use crate::log::Reader;
use crate::session::{Session, State};
use crate::shard::config::ShardConfig;
use crate::shard::events::Record;
use crate::types::{PeerClass, PeerId, SpeakerId, Time};

impl Peer {
    /// Tells all of it but its subscriptions. None for who is no connection that was accepted.
    ///
    /// # Panics
    /// If a SEND is under way.
    pub(in crate::shard) fn hand_over(&self, now: Time, id: PeerId) -> Option<handover::Peer> {
        let session = self.link.session().filter(|_| !self.link.is_dialled())?;
        let state = match session.state() {
            State::Connecting => handover::peer::State::Connecting,
            State::HelloSent => handover::peer::State::HelloSent,
            State::HelloReceived => handover::peer::State::HelloReceived,
            State::Established => handover::peer::State::Established,
            State::Retry | State::Closed => return None,
        };
        let established_at = self.record.established_at();
        let refused = self.record.refused().into_iter();
        let mut peer = handover::Peer {
            id: id.bits(),
            state: state.into(),
            class: handover::PeerClass::from(session.peer_class()).into(),
            reassembles: session.peer_reassembles(),
            keepalive_interval_s: session.keepalive_interval_s(),
            established_for_ms: established_at.map(|at| now.since(at).as_millis() as u64),
            reader: Some(self.reader.into()),
            refused: refused.map(|(kind, count)| (kind.to_owned(), count)).collect(),
            ..handover::Peer::default()
        };
        peer.set_remote(self.record.remote());
        self.origin.hand_over(now, &mut peer);
        self.inbound.hand_over(&mut peer);
        self.outbound.hand_over(&mut peer);
        Some(peer)
    }

    /// A peer that another process has served; what it is as a source, and as whom it hears.
    ///
    /// # Errors
    /// If what is told makes no sense.
    pub(in crate::shard) fn restored(
        now: Time,
        mut told: handover::Peer,
        config: &ShardConfig,
    ) -> Result<(Peer, Origin, Reader), HandoverError> {
        let remote = told.remote()?;
        let state = match told.state() {
            handover::peer::State::Connecting => State::Connecting,
            handover::peer::State::HelloSent => State::HelloSent,
            handover::peer::State::HelloReceived => State::HelloReceived,
            handover::peer::State::Established => State::Established,
        };
        let class = (PeerClass::from(told.class()), told.reassembles);
        let interval_s = told.keepalive_interval_s;
        let session = Session::restored(&incoming(config), now, state, class, interval_s);
        let mut peer = Peer::accepted(now, remote, config, told.is_cautious);
        peer.link = Link::Session(session);
        let ago = told.established_for_ms.map(std::time::Duration::from_millis);
        let established_at = ago.map(|ago| now.before(ago));
        peer.record = Record::restored(remote, established_at, std::mem::take(&mut told.refused));
        peer.inbound.restore(now, &mut told);
        peer.outbound.restore(now, &mut told)?;
        let origin = Origin::restored(now, &told)?;
        let reader = told.reader.ok_or(HandoverError::Nonsense("a peer hears as somebody"))?;
        Ok((peer, origin, reader.into()))
    }
}

impl From<Reader> for handover::Reader {
    fn from(reader: Reader) -> handover::Reader {
        let (speaker, former) = reader.speakers();
        handover::Reader { speaker: speaker.bits(), former: former.bits() }
    }
}

impl From<handover::Reader> for Reader {
    fn from(told: handover::Reader) -> Reader {
        Reader::of_speakers((SpeakerId::of_bits(told.speaker), SpeakerId::of_bits(told.former)))
    }
}

impl From<PeerClass> for handover::PeerClass {
    fn from(class: PeerClass) -> handover::PeerClass {
        match class {
            PeerClass::Client => handover::PeerClass::Client,
            PeerClass::Server => handover::PeerClass::Server,
            PeerClass::Own => handover::PeerClass::Own,
        }
    }
}

impl From<handover::PeerClass> for PeerClass {
    fn from(told: handover::PeerClass) -> PeerClass {
        match told {
            handover::PeerClass::Client => PeerClass::Client,
            handover::PeerClass::Server => PeerClass::Server,
            handover::PeerClass::Own => PeerClass::Own,
        }
    }
}
