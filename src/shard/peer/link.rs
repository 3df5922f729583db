//! What connects a peer with us: a session, or nothing, for a peer that lives in this process.
//!
//! Owns the differences between the two. Must never know what is sent or heard.

use crate::session::{Direction, Session, State};
use crate::types::{PeerClass, Time};

/// What connects a peer with us.
pub(in crate::shard) enum Link {
    /// A connection: an accepted one, or one that we dialled.
    Session(Session),
    /// Nothing: it needs no handshake, reassembles, cannot be lost, and is a source of this class.
    Local(PeerClass),
}

impl Link {
    /// The session, if there is a connection.
    pub(crate) fn session(&self) -> Option<&Session> {
        match self {
            Link::Session(session) => Some(session),
            Link::Local(_) => None,
        }
    }

    /// The session, if there is a connection.
    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Link::Session(session) => Some(session),
            Link::Local(_) => None,
        }
    }

    /// Tells the session something, if there is one.
    pub(crate) fn tell(&mut self, something: impl FnOnce(&mut Session)) {
        if let Link::Session(session) = self {
            something(session);
        }
    }

    /// Whether we dialled the peer: it is a server.
    pub(crate) fn is_dialled(&self) -> bool {
        self.session().is_some_and(|session| session.direction() == Direction::Outgoing)
    }

    /// Whether routes may flow.
    pub(crate) fn is_established(&self) -> bool {
        self.session().is_none_or(|session| session.state() == State::Established)
    }

    /// Whether the peer puts frames together that come in parts.
    pub(crate) fn reassembles(&self) -> bool {
        self.session().is_none_or(Session::peer_reassembles)
    }

    /// What the peer is as a source of routes.
    pub(crate) fn class(&self) -> PeerClass {
        match self {
            Link::Session(session) if session.direction() == Direction::Outgoing => {
                PeerClass::Server
            }
            Link::Session(session) => session.peer_class(),
            Link::Local(class) => *class,
        }
    }

    /// When the session's timers have something to do.
    pub(crate) fn next_deadline(&self) -> Time {
        self.session().map_or(Time::NEVER, Session::next_deadline)
    }
}
