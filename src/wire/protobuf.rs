//! The little of protobuf's wire format that the codec of UPDATE needs.
//!
//! Owns keys, varints and skipping, with the rules of the generated code (a property test in
//! `update` holds the two together). Must never allocate.

use thiserror::Error;

/// How deep messages and groups may be nested, as in the generated code.
const DEPTH_MAX: u32 = 100;

/// Why bytes are no protobuf message. One byte, for the sake of the results of the hot path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(super) enum Broken {
    #[error("invalid varint")]
    Varint,
    #[error("invalid field number")]
    FieldNumber,
    #[error("undefined wire type")]
    WireType,
    #[error("wrong wire type for a known field")]
    KnownField,
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
    depth_left: u32,
}

impl<'a> Reader<'a> {
    /// A reader of a message that is not part of another one.
    pub(super) fn new(message: &'a [u8]) -> Reader<'a> {
        Reader { rest: message, depth_left: DEPTH_MAX }
    }

    /// The key of the next field; `None` at the end of the message. Not judged yet: a key that
    /// equals that of a known field is in order, and any other goes to [`Reader::skip_unknown`].
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
        Ok(Reader { rest: self.bytes()?, depth_left: self.depth_left - 1 })
    }

    /// Skips the value of a field that the message does not have. `known_max` is its highest field
    /// number: a known field that comes here has the wrong wire type.
    #[cold]
    pub(super) fn skip_unknown(&mut self, key: u32, known_max: u32) -> Result<(), Broken> {
        if (1..=known_max).contains(&(key >> 3)) {
            return Err(Broken::KnownField);
        }
        self.skip(key, self.depth_left)
    }

    fn skip(&mut self, key: u32, depth_left: u32) -> Result<(), Broken> {
        if depth_left == 0 {
            return Err(Broken::Depth);
        }
        if key >> 3 == 0 {
            return Err(Broken::FieldNumber);
        }
        match key & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.skip_bytes(8),
            FIXED32 => self.skip_bytes(4),
            BYTES => self.bytes().map(drop),
            GROUP_START => loop {
                let inner = self.next_key()?.ok_or(Broken::Groups)?;
                if inner & 7 != GROUP_END {
                    self.skip(inner, depth_left - 1)?;
                } else if inner >> 3 == key >> 3 {
                    return Ok(());
                } else {
                    return Err(Broken::Groups);
                }
            },
            GROUP_END => Err(Broken::Groups),
            _ => Err(Broken::WireType),
        }
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
