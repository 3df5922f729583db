//! The error policy: what a peer's mistakes lead to.
//!
//! Owns one table, [`Fault::reaction`] (protocol section 2.2). Must never act on it: closing,
//! logging and counting are the session's and io's part.

use thiserror::Error;

use super::frame::FrameError;
use super::message::{DecodeError, InvalidUpdate};

/// What to do about a [`Fault`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reaction {
    /// Close the connection, withdraw everything that the peer announced, log once, count.
    Close,
    /// Drop the message, log at a limited rate, count. The connection and all other routes stay.
    DropMessage,
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
}

impl Fault {
    /// The policy.
    ///
    /// What is unreadable closes the connection: the stream cannot be trusted any more. An UPDATE
    /// that merely means nothing must not: a Go server passes some of them on, so a client that
    /// closed on one would reconnect, be sent the same table, and so on for ever.
    pub fn reaction(&self) -> Reaction {
        use Reaction::{Close, DropMessage};
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
    }
}
