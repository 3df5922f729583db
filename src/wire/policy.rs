//! The error policy: what may be wrong with what a peer sends, and what that leads to.
//!
//! Owns the faults of payloads, and one table, [`Fault::reaction`] (protocol section 2.2). Must never act on it: closing,
//! logging and counting are the session's and io's part.

use thiserror::Error;

use super::frame::{FrameError, MessageType};
use super::protobuf::Broken;

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

/// What is wrong with a payload.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// It is no protobuf message. (A known field of another wire type is an unknown field.)
    #[error("undecodable {message_type}: {reason}")]
    Malformed {
        /// What the frame said it was.
        message_type: MessageType,
        /// The decoder's words; for people only.
        reason: String,
    },
    /// A HELLO with keepalive interval 0, or without one.
    #[error("HELLO with keepalive interval 0")]
    HelloInterval,
    /// An UPDATE that can be read, but means nothing.
    #[error("invalid UPDATE: {0}")]
    InvalidUpdate(#[from] InvalidUpdate),
}

/// Why an UPDATE means nothing (protocol sections 2.1 and 2.2). The first of these, in this order,
/// is what an UPDATE with several faults is dropped for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum InvalidUpdate {
    /// Neither ADD (0) nor REMOVE (1).
    #[error("action {0}")]
    Action(i32),
    /// There is no destination.
    #[error("no destination")]
    NoDestination,
    /// There is no next hop.
    #[error("no next hop")]
    NoNextHop,
    /// Neither IPv4 (0) nor IPv6 (1).
    #[error("IP version {0}")]
    IpVersion(i32),
    /// A prefix of neither 4 nor 16 bytes.
    #[error("prefix of {0} bytes")]
    PrefixBytes(usize),
    /// A prefix of 4 bytes declared as IPv6, or of 16 bytes declared as IPv4.
    #[error("IP version contradicts a prefix of {0} bytes")]
    IpVersionMismatch(usize),
    /// More bits than an address of that version has.
    #[error("prefix length {0}")]
    PrefixLength(u32),
    /// A next hop address of neither 4 nor 16 bytes.
    #[error("next hop address of {0} bytes")]
    AddressBytes(usize),
    /// A NAT port above 65535.
    #[error("NAT port {0}")]
    NatPort(u32),
}

impl Broken {
    /// What is wrong with the payload of a message of this type.
    #[cold]
    pub(super) fn in_a(self, message_type: MessageType) -> DecodeError {
        DecodeError::Malformed { message_type, reason: self.to_string() }
    }
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
