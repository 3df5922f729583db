//! The error policy: what a peer's mistakes lead to.
//!
//! Owns one table, [`Fault::reaction`] (protocol section 2.2). Must never act on it: closing,
//! logging and counting are the session's and io's part.

use thiserror::Error;

use super::frame::{FrameError, MessageType};
use super::message::{DecodeError, InvalidUpdate};

/// What to do about a [`Fault`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reaction {
    /// Close the connection, withdraw everything that the peer announced, log once, count.
    Close,
    /// Drop the message, log at a limited rate, count. The connection and all other routes stay.
    DropMessage,
    /// Carry on; a debug log at most.
    Ignore,
}

/// Everything that can be wrong with what a peer sends.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// A frame header is wrong.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A payload is wrong.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A message that is in order, but not legal in the state of the connection.
    #[error("{0} out of turn")]
    OutOfTurn(MessageType),
    /// A message that changes nothing.
    #[error(transparent)]
    NoOp(#[from] NoOp),
}

/// Messages that change nothing. They occur in normal operation: a Go peer repeats itself when
/// several of its peers announce the same next hop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum NoOp {
    /// An ADD of a route that this peer announces already.
    #[error("route is announced already")]
    DuplicateAdd,
    /// A REMOVE of a route that this peer does not announce, whoever else does.
    #[error("route was not announced by this peer")]
    UnknownRemove,
    /// A SUBSCRIBE to a VNI that the peer is subscribed to.
    #[error("subscribed already")]
    DuplicateSubscribe,
    /// An UNSUBSCRIBE from a VNI that the peer is not subscribed to.
    #[error("not subscribed")]
    UnknownUnsubscribe,
}

impl Fault {
    /// The policy.
    ///
    /// What is unreadable closes the connection: the stream cannot be trusted any more. An UPDATE
    /// that merely means nothing must not: a Go server passes some of them on, so a client that
    /// closed on one would reconnect, be sent the same table, and so on for ever.
    pub fn reaction(&self) -> Reaction {
        use Reaction::{Close, DropMessage, Ignore};
        match self {
            Fault::Frame(error) => match error {
                FrameError::Version(_) => Close,
                FrameError::Length(_) => Close,
                FrameError::MessageType(_) => Close,
            },
            Fault::Decode(error) => match error {
                DecodeError::Malformed { .. } => Close,
                DecodeError::HelloInterval => Close,
                DecodeError::InvalidUpdate(error) => match error {
                    InvalidUpdate::Action(_) => DropMessage,
                    InvalidUpdate::NoDestination => DropMessage,
                    InvalidUpdate::NoNextHop => DropMessage,
                    InvalidUpdate::IpVersion(_) => DropMessage,
                    InvalidUpdate::PrefixBytes(_) => DropMessage,
                    InvalidUpdate::IpVersionMismatch(_) => DropMessage,
                    InvalidUpdate::PrefixLength(_) => DropMessage,
                    InvalidUpdate::AddressBytes(_) => DropMessage,
                    InvalidUpdate::NatPort(_) => DropMessage,
                },
            },
            Fault::OutOfTurn(_) => Close,
            Fault::NoOp(error) => match error {
                NoOp::DuplicateAdd => Ignore,
                NoOp::UnknownRemove => Ignore,
                NoOp::DuplicateSubscribe => Ignore,
                NoOp::UnknownUnsubscribe => Ignore,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_fault() {
        let fault = Fault::from(FrameError::Version(9));
        assert_eq!(fault.to_string(), "protocol version 9, expected 1");
        let fault = Fault::from(DecodeError::from(InvalidUpdate::PrefixLength(200)));
        assert_eq!(fault.to_string(), "invalid UPDATE: prefix length 200");
        assert_eq!(Fault::OutOfTurn(MessageType::Hello).to_string(), "HELLO out of turn");
    }
}
