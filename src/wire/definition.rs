//! What a payload means: what the generated code reads of its known fields.
//!
//! Owns the one rule that the generated code does not have, that a known field of another wire type is
//! an unknown field. Slow and simple, and it shares nothing with the codec: the tests and the fuzz
//! targets compare the two. Must never be part of the program.

use prost::Message;
use prost::encoding::decode_varint;

/// A field that a message has: its number, its wire type, and its own fields if it is a message.
pub(super) struct Field(pub u64, pub u64, pub &'static [Field]);

pub(super) const HELLO: &[Field] = &[varint(1), varint(2), varint(15)];
pub(super) const SUBSCRIPTION: &[Field] = &[varint(1)];
pub(super) const UPDATE: &[Field] =
    &[varint(1), varint(2), Field(3, 2, DESTINATION), Field(4, 2, NEXT_HOP)];
const DESTINATION: &[Field] = &[varint(1), Field(2, 2, &[]), varint(3)];
const NEXT_HOP: &[Field] = &[Field(1, 2, &[]), varint(2), varint(3), varint(4), varint(5)];

const fn varint(number: u64) -> Field {
    Field(number, 0, &[])
}

/// The message of these fields that `payload` holds; `None` if it is no protobuf.
pub(super) fn decode<M: Message + Default>(fields: &[Field], payload: &[u8]) -> Option<M> {
    M::decode(&*known(fields, payload)?).ok()
}

/// The message without what it does not know.
fn known(fields: &[Field], mut message: &[u8]) -> Option<Vec<u8>> {
    let mut known_bytes = Vec::new();
    while !message.is_empty() {
        let from = message;
        let key = decode_varint(&mut message).ok()?;
        let (number, wire_type) = (key >> 3, key & 7);
        if !(1..1 << 29).contains(&number) {
            return None;
        }
        let value = message;
        message = behind(number, wire_type, value)?;
        let value = &value[..value.len() - message.len()];
        match fields.iter().find(|field| (field.0, field.1) == (number, wire_type)) {
            None => {}
            Some(Field(.., [])) => {
                known_bytes.extend_from_slice(&from[..from.len() - message.len()]);
            }
            Some(Field(.., fields)) => {
                let mut inner = value;
                decode_varint(&mut inner).ok()?;
                let inner = known(fields, inner)?;
                prost::encoding::encode_varint(key, &mut known_bytes);
                prost::encoding::encode_varint(inner.len() as u64, &mut known_bytes);
                known_bytes.extend(inner);
            }
        }
    }
    Some(known_bytes)
}

/// What lies behind a value of this wire type.
fn behind(number: u64, wire_type: u64, mut bytes: &[u8]) -> Option<&[u8]> {
    match wire_type {
        0 => decode_varint(&mut bytes).ok().map(|_| bytes),
        1 => bytes.get(8..),
        2 => {
            let length = decode_varint(&mut bytes).ok()?;
            bytes.get(usize::try_from(length).ok()?..)
        }
        3 => loop {
            let key = decode_varint(&mut bytes).ok()?;
            if !(1..1 << 31).contains(&(key >> 3)) {
                return None;
            }
            if key & 7 == 4 {
                return (key >> 3 == number).then_some(bytes);
            }
            bytes = behind(key >> 3, key & 7, bytes)?;
        },
        5 => bytes.get(4..),
        _ => None,
    }
}
