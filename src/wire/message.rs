//! Messages: typed values for the payloads of frames.
//!
//! Owns HELLO, SUBSCRIBE and UNSUBSCRIBE. Must never judge whether a message is legal at this point of a
//! connection: that is the session's part.

use super::frame::{Frame, HEADER_BYTES, KEEPALIVE_FRAME, MessageType, PAYLOAD_BYTES_MAX, VERSION};
use super::policy::DecodeError;
use super::proto;
use super::protobuf::{Broken, Reader, VARINT, key};
use super::update::{Update, decode_update, encode_update};
use crate::types::Vni;

/// The fields of the protocol, as keys of the protobuf encoding.
mod keys {
    use super::{VARINT, key};

    pub(super) const INTERVAL: u32 = key(1, VARINT);
    pub(super) const IS_SERVER: u32 = key(2, VARINT);
    pub(super) const REASSEMBLES: u32 = key(15, VARINT);

    /// Of a subscription.
    pub(super) const VNI: u32 = key(1, VARINT);
}

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

fn decode_hello(payload: &[u8]) -> Result<Hello, DecodeError> {
    let hello = read_hello(payload).map_err(|broken| broken.in_a(MessageType::Hello))?;
    if hello.keepalive_interval_s == 0 {
        return Err(DecodeError::HelloInterval);
    }
    Ok(hello)
}

fn read_hello(payload: &[u8]) -> Result<Hello, Broken> {
    let mut hello = Hello { keepalive_interval_s: 0, is_server: false, reassembles: false };
    let mut reader = Reader::new(payload);
    while let Some(key) = reader.next_key()? {
        match key {
            keys::INTERVAL => hello.keepalive_interval_s = reader.varint()? as u32,
            keys::IS_SERVER => hello.is_server = reader.varint()? != 0,
            keys::REASSEMBLES => hello.reassembles = reader.varint()? != 0,
            _ => reader.skip(key)?,
        }
    }
    Ok(hello)
}

fn decode_vni(message_type: MessageType, payload: &[u8]) -> Result<Vni, DecodeError> {
    read_vni(payload).map_err(|broken| broken.in_a(message_type))
}

fn read_vni(payload: &[u8]) -> Result<Vni, Broken> {
    let mut vni = Vni(0);
    let mut reader = Reader::new(payload);
    while let Some(key) = reader.next_key()? {
        match key {
            keys::VNI => vni = Vni(reader.varint()? as u32),
            _ => reader.skip(key)?,
        }
    }
    Ok(vni)
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

    use super::super::definition;
    use super::super::frame::Deframer;
    use super::super::strategies::{hello_like, valid_message};
    use super::*;

    /// The definition reads the same fields of a HELLO and of a subscription, or refuses the bytes as
    /// well.
    fn assert_same(payload: &[u8]) {
        let hello = definition::decode::<proto::Hello>(definition::HELLO, payload);
        let hello = hello.map(|hello| Hello {
            keepalive_interval_s: hello.keepalive_interval_s,
            is_server: hello.is_server,
            reassembles: hello.reassembles,
        });
        assert_eq!(read_hello(payload).ok(), hello, "{}", hex::encode(payload));
        let subscription =
            definition::decode::<proto::Subscription>(definition::SUBSCRIPTION, payload);
        let vni = subscription.map(|subscription| Vni(subscription.vni));
        assert_eq!(read_vni(payload).ok(), vni, "{}", hex::encode(payload));
    }

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
            assert_same(&payload);
        }

        #[test]
        fn reads_what_the_definition_reads(payload in hello_like()) {
            assert_same(&payload);
        }
    }

    #[test]
    fn hello_without_an_interval_is_refused() {
        // Left out, 0, 2^32, which is cut off to 0, and of other wire types, which is left out.
        for payload in [
            "",
            "0800",
            "1001",
            "0880808080 10",
            "0a0105",
            "0d05000000",
            "09 0500000000000000",
            "0b0c",
        ] {
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
            (MessageType::Hello, "0a0505"),
            (MessageType::Hello, "08051b"),
            (MessageType::Hello, "080500"),
            (MessageType::Subscribe, "ff"),
            (MessageType::Subscribe, "08ffffffffffffffffff02"),
            (MessageType::Unsubscribe, "0e"),
            (MessageType::Unsubscribe, "0c"),
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
    fn a_known_field_of_another_wire_type_is_unknown() {
        for vni in ["0a0105", "0d05000000", "0905000000 00000000", "0b08050c"] {
            for (text, vni) in [(vni.to_owned(), 0), (format!("0807{vni}"), 7)] {
                for (message_type, message) in [
                    (MessageType::Subscribe, Message::Subscribe(Vni(vni))),
                    (MessageType::Unsubscribe, Message::Unsubscribe(Vni(vni))),
                ] {
                    let result = decode_hex(message_type, &text.replace(' ', ""));
                    assert_eq!(result, Ok(message), "{text}");
                }
            }
        }
        let hello = Hello { keepalive_interval_s: 5, is_server: false, reassembles: false };
        let result = decode_hex(MessageType::Hello, "0d09000000080515010000007a0101");
        assert_eq!(result, Ok(Message::Hello(hello)));
    }

    #[test]
    fn a_keepalive_may_carry_anything() {
        assert_eq!(decode_hex(MessageType::Keepalive, "ffff"), Ok(Message::Keepalive));
    }
}
