//! The little of protobuf's wire format that our messages need.
//!
//! Owns keys, varints and skipping. A known field of another wire type is an unknown field, as peers in
//! the field have it; in all else the rules are those of the generated code (property tests hold the two
//! together, see `definition`). Must never allocate.

use thiserror::Error;

use super::frame::PAYLOAD_BYTES_MAX;

/// How deep groups may be nested. No payload has room for more: a group takes two bytes.
const DEPTH_MAX: usize = PAYLOAD_BYTES_MAX / 2;
/// The highest field number within a group; elsewhere a key has 32 bits.
const GROUP_FIELD_MAX: u64 = i32::MAX as u64;

/// Why bytes are no protobuf message. One byte, for the sake of the results of the hot path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(super) enum Broken {
    #[error("invalid varint")]
    Varint,
    #[error("invalid field number")]
    FieldNumber,
    #[error("undefined wire type")]
    WireType,
    #[error("truncated field")]
    Truncated,
    #[error("unbalanced groups")]
    Groups,
    #[error("nested too deep")]
    Depth,
}

/// Wire types, the low three bits of a key.
pub(super) const VARINT: u32 = 0;
const FIXED64: u32 = 1;
/// Length-delimited: bytes or a message.
pub(super) const BYTES: u32 = 2;
const GROUP_START: u32 = 3;
const GROUP_END: u32 = 4;
const FIXED32: u32 = 5;

/// The key of a field: what stands before its value.
pub(super) const fn key(field: u32, wire_type: u32) -> u32 {
    field << 3 | wire_type
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Reader<'a> {
        Reader { rest: message }
    }

    /// The key of the next field; `None` at the end of the message. Not judged yet: a key that
    /// equals that of a known field is in order, and any other goes to [`Reader::skip`].
    #[inline]
    pub(super) fn next_key(&mut self) -> Result<Option<u32>, Broken> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        u32::try_from(key).map(Some).map_err(|_| Broken::FieldNumber)
    }

    /// A varint. What is wider than the field is cut off: `as u32` or `as i32`.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Broken> {
        match *self.rest {
            [byte, ref rest @ ..] if byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    /// A bytes field.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.varint()?;
        let (bytes, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length))
            .ok_or(Broken::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A field that is a message itself.
    #[inline]
    pub(super) fn message(&mut self) -> Result<Reader<'a>, Broken> {
        self.bytes().map(Reader::new)
    }

    /// Skips the value of a field that the message does not have, or has with another wire type.
    #[cold]
    pub(super) fn skip(&mut self, key: u32) -> Result<(), Broken> {
        if key >> 3 == 0 {
            return Err(Broken::FieldNumber);
        }
        self.skip_value(u64::from(key), DEPTH_MAX)
    }

    fn skip_value(&mut self, key: u64, depth_left: usize) -> Result<(), Broken> {
        match (key & 7) as u32 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.skip_bytes(8),
            FIXED32 => self.skip_bytes(4),
            BYTES => self.bytes().map(drop),
            GROUP_START => self.skip_group(key >> 3, depth_left),
            GROUP_END => Err(Broken::Groups),
            _ => Err(Broken::WireType),
        }
    }

    fn skip_group(&mut self, number: u64, depth_left: usize) -> Result<(), Broken> {
        let depth_left = depth_left.checked_sub(1).ok_or(Broken::Depth)?;
        while !self.rest.is_empty() {
            let key = self.varint()?;
            if !(1..=GROUP_FIELD_MAX).contains(&(key >> 3)) {
                return Err(Broken::FieldNumber);
            }
            if (key & 7) as u32 != GROUP_END {
                self.skip_value(key, depth_left)?;
            } else if key >> 3 == number {
                return Ok(());
            } else {
                break;
            }
        }
        Err(Broken::Groups)
    }

    fn skip_bytes(&mut self, bytes: usize) -> Result<(), Broken> {
        self.rest = self.rest.get(bytes..).ok_or(Broken::Truncated)?;
        Ok(())
    }

    /// A varint of two to ten bytes, or what is not one.
    fn long_varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0;
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                // The tenth byte has room for one bit.
                if index == 9 && byte > 1 {
                    break;
                }
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(Broken::Varint)
    }
}

/// Builds a short message of at most `N` bytes on the stack.
pub(super) struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    pub(super) fn new() -> Writer<N> {
        Writer { bytes: [0; N], len: 0 }
    }

    pub(super) fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    pub(super) fn slice(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// A varint field; nothing if it is 0, the default. `key` is below 128.
    #[inline]
    pub(super) fn varint_field(&mut self, key: u32, value: u64) {
        if value == 0 {
            return;
        }
        self.byte(key as u8);
        let mut rest = value;
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    /// Leaves room for the length of what follows, up to [`Writer::end`].
    #[inline]
    pub(super) fn begin(&mut self) -> usize {
        self.byte(0);
        self.len
    }

    /// Fills in the length of what was written since `start`.
    #[inline]
    pub(super) fn end(&mut self, start: usize) {
        self.fill_length(start - 1, start);
    }

    /// Puts the length of what was written since `start` into the byte at `at`.
    #[inline]
    pub(super) fn fill_length(&mut self, at: usize, start: usize) {
        let length = self.len - start;
        assert!(length < 0x80, "a length that takes more than one byte");
        self.bytes[at] = length as u8;
    }
}
