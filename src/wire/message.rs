//! Messages: typed values for the payloads of frames.
//!
//! Owns HELLO, SUBSCRIBE and UNSUBSCRIBE, and what may be wrong with a payload. Must never judge
//! whether a message is legal at this point of a connection: that is the session's part.

use thiserror::Error;

use super::frame::{Frame, HEADER_BYTES, KEEPALIVE_FRAME, MessageType, PAYLOAD_BYTES_MAX, VERSION};
use super::proto;
use super::update::{decode_update, encode_update};
use crate::types::{Action, Route, Vni};

/// The first message of each side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The sender's keepalive interval in seconds, 1..=2^32-1. The lower of the two sides' counts.
    pub keepalive_interval_s: u32,
    /// The sender is a server: what it announces is not passed on to other servers.
    pub is_server: bool,
    /// The sender puts frames together from any chunking of the stream. Field 15, which other
    /// implementations neither send nor read.
    pub reassembles: bool,
}

/// One route announced or withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Update {
    /// Announced or withdrawn.
    pub action: Action,
    /// The VNI that the route belongs to.
    pub vni: Vni,
    /// The route.
    pub route: Route,
}

/// Any message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// Opens a connection.
    Hello(Hello),
    /// Shows that the sender is alive.
    Keepalive,
    /// Asks for the routes of a VNI.
    Subscribe(Vni),
    /// Ends a SUBSCRIBE.
    Unsubscribe(Vni),
    /// Announces or withdraws a route.
    Update(Update),
}

impl Message {
    /// The type that its frame carries.
    pub fn message_type(&self) -> MessageType {
        match self {
            Message::Hello(_) => MessageType::Hello,
            Message::Keepalive => MessageType::Keepalive,
            Message::Subscribe(_) => MessageType::Subscribe,
            Message::Unsubscribe(_) => MessageType::Unsubscribe,
            Message::Update(_) => MessageType::Update,
        }
    }

    /// Appends the message's frame: fields in ascending order, defaults left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Message::Hello(hello) => {
                let payload = proto::Hello {
                    keepalive_interval_s: hello.keepalive_interval_s,
                    is_server: hello.is_server,
                    reassembles: hello.reassembles,
                };
                encode_frame(out, MessageType::Hello, &payload);
            }
            Message::Keepalive => out.extend_from_slice(&KEEPALIVE_FRAME),
            Message::Subscribe(vni) | Message::Unsubscribe(vni) => {
                encode_frame(out, self.message_type(), &proto::Subscription { vni: vni.0 });
            }
            Message::Update(update) => {
                encode_update(out, update.action, update.vni, &update.route);
            }
        }
    }
}

/// Reads the payload of a frame. Unknown fields are ignored, and so is whatever a KEEPALIVE
/// carries.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(frame: Frame<'_>) -> Result<Message, DecodeError> {
    let message_type = frame.message_type;
    match message_type {
        MessageType::Hello => decode_hello(frame.payload).map(Message::Hello),
        MessageType::Keepalive => Ok(Message::Keepalive),
        MessageType::Subscribe => decode_vni(message_type, frame.payload).map(Message::Subscribe),
        MessageType::Unsubscribe => {
            decode_vni(message_type, frame.payload).map(Message::Unsubscribe)
        }
        MessageType::Update => decode_update(frame.payload).map(Message::Update),
    }
}

/// What is wrong with a payload.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// It is no protobuf message of its type. A known field of the wrong wire type counts as such.
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

fn decode_hello(payload: &[u8]) -> Result<Hello, DecodeError> {
    let hello = decode_payload::<proto::Hello>(MessageType::Hello, payload)?;
    if hello.keepalive_interval_s == 0 {
        return Err(DecodeError::HelloInterval);
    }
    Ok(Hello {
        keepalive_interval_s: hello.keepalive_interval_s,
        is_server: hello.is_server,
        reassembles: hello.reassembles,
    })
}

fn decode_vni(message_type: MessageType, payload: &[u8]) -> Result<Vni, DecodeError> {
    decode_payload::<proto::Subscription>(message_type, payload).map(|message| Vni(message.vni))
}

pub(super) fn decode_payload<M: prost::Message + Default>(
    message_type: MessageType,
    payload: &[u8],
) -> Result<M, DecodeError> {
    M::decode(payload)
        .map_err(|error| DecodeError::Malformed { message_type, reason: error.to_string() })
}

fn encode_frame(out: &mut Vec<u8>, message_type: MessageType, payload: &impl prost::Message) {
    let length = payload.encoded_len();
    assert!(length <= PAYLOAD_BYTES_MAX, "a payload of {length} bytes");
    let [high, low] = (length as u16).to_be_bytes();
    out.reserve(HEADER_BYTES + length);
    out.extend_from_slice(&[VERSION, high, low, message_type as u8]);
    payload.encode_raw(out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::Deframer;
    use super::super::strategies::valid_message;
    use super::*;

    fn decode_hex(message_type: MessageType, payload: &str) -> Result<Message, DecodeError> {
        let payload = hex::decode(payload).unwrap();
        decode(Frame { message_type, payload: &payload })
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(messages in proptest::collection::vec(valid_message(), 0..9)) {
            let mut stream = Vec::new();
            messages.iter().for_each(|message| message.encode(&mut stream));
            let (mut deframer, mut input) = (Deframer::new(), &stream[..]);
            for message in messages {
                let frame = deframer.next(&mut input).unwrap().unwrap();
                prop_assert_eq!(frame.message_type, message.message_type());
                prop_assert_eq!(decode(frame), Ok(message));
            }
            prop_assert_eq!(deframer.next(&mut input), Ok(None));
        }

        #[test]
        fn garbage_never_panics(
            message_type in proptest::sample::select(MessageType::ALL.to_vec()),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = decode(Frame { message_type, payload: &payload });
        }
    }

    #[test]
    fn hello_without_an_interval_is_refused() {
        // Left out, 0, and 2^32, which is cut off to 0.
        for payload in ["", "0800", "1001", "08808080 8010"] {
            let result = decode_hex(MessageType::Hello, &payload.replace(' ', ""));
            assert_eq!(result, Err(DecodeError::HelloInterval), "{payload}");
        }
    }

    #[test]
    fn hello_keeps_its_flags() {
        let hello = Hello { keepalive_interval_s: 300, is_server: true, reassembles: true };
        let mut frame = Vec::new();
        Message::Hello(hello).encode(&mut frame);
        assert_eq!(hex::encode(&frame), "0100070108ac0210017801");
        assert_eq!(decode_hex(MessageType::Hello, "08ac0210017801"), Ok(Message::Hello(hello)));
    }

    #[test]
    fn protobuf_that_cannot_be_read_is_malformed() {
        for (message_type, payload) in [
            (MessageType::Hello, "0880"),
            (MessageType::Hello, "0a0105"),
            (MessageType::Subscribe, "ff"),
            (MessageType::Unsubscribe, "0a00"),
            (MessageType::Update, "deadbeef"),
        ] {
            let error = decode_hex(message_type, payload).unwrap_err();
            assert!(
                matches!(error, DecodeError::Malformed { message_type: named, .. } if named == message_type),
                "{payload}: {error}"
            );
        }
    }

    #[test]
    fn the_last_value_counts_and_32_bits_of_it() {
        let result = decode_hex(MessageType::Subscribe, "08050864");
        assert_eq!(result, Ok(Message::Subscribe(Vni(100))));
        let result = decode_hex(MessageType::Subscribe, "088780808010");
        assert_eq!(result, Ok(Message::Subscribe(Vni(7))));
    }

    #[test]
    fn a_keepalive_may_carry_anything() {
        assert_eq!(decode_hex(MessageType::Keepalive, "ffff"), Ok(Message::Keepalive));
    }
}
