//! Frames: the header, and cutting a byte stream into frames.
//!
//! Owns the four header bytes (protocol section 1). Must never look into a payload, and never
//! assume that one read is one frame.

use thiserror::Error;

/// Length of a frame's header: version, payload length (big endian), message type.
pub const HEADER_BYTES: usize = 4;
/// The longest payload that a peer may send.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1188;
/// The most that a frame takes: protocol section 1.
pub(crate) const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// A KEEPALIVE: the only frame that is always the same.
pub const KEEPALIVE_FRAME: [u8; HEADER_BYTES] = [VERSION, 0, 0, MessageType::Keepalive as u8];

/// The only version of the protocol.
pub(super) const VERSION: u8 = 1;

/// What a frame carries: its fourth byte.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MessageType {
    /// Opens a connection, in both directions.
    Hello = 1,
    /// Shows that the sender is alive.
    Keepalive = 2,
    /// Asks for the routes of a VNI.
    Subscribe = 3,
    /// Ends a SUBSCRIBE.
    Unsubscribe = 4,
    /// Announces or withdraws one route.
    Update = 5,
}

impl MessageType {
    /// All types, in the order of their numbers.
    pub const ALL: [MessageType; 5] = [
        MessageType::Hello,
        MessageType::Keepalive,
        MessageType::Subscribe,
        MessageType::Unsubscribe,
        MessageType::Update,
    ];

    /// The type with this number on the wire.
    fn from_wire(byte: u8) -> Option<MessageType> {
        let index = usize::from(byte).checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// The protocol's word for it, such as `HELLO`.
    pub fn name(self) -> &'static str {
        match self {
            MessageType::Hello => "HELLO",
            MessageType::Keepalive => "KEEPALIVE",
            MessageType::Subscribe => "SUBSCRIBE",
            MessageType::Unsubscribe => "UNSUBSCRIBE",
            MessageType::Update => "UPDATE",
        }
    }
}

impl std::fmt::Display for MessageType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One whole frame, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What the payload is.
    pub message_type: MessageType,
    /// The protobuf message, 0..=`PAYLOAD_BYTES_MAX` bytes.
    pub payload: &'a [u8],
}

/// A header that no valid frame has. There is no way to find the next frame after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// The first byte is not 1.
    #[error("protocol version {0}, expected 1")]
    Version(u8),
    /// The payload would be longer than `PAYLOAD_BYTES_MAX`.
    #[error("payload of {0} bytes, at most 1188 are allowed")]
    Length(u16),
    /// The type is not one of [`MessageType`].
    #[error("unknown message type {0}")]
    MessageType(u8),
}

/// Cuts a byte stream into frames, whatever chunks it arrives in. Holds memory only while a part
/// of a frame waits for the rest, and never more than one frame.
#[derive(Debug, Default)]
pub struct Deframer {
    /// The start of a frame whose end has not arrived; or a whole frame, if `delivered`.
    partial: Vec<u8>,
    /// `partial` was returned by the last call and is to be dropped.
    delivered: bool,
    /// The stream is lost from here on.
    error: Option<FrameError>,
}

impl Deframer {
    /// A deframer at the start of a stream.
    pub const fn new() -> Deframer {
        Deframer { partial: Vec::new(), delivered: false, error: None }
    }

    /// Takes the next frame from `input` and advances it past that. `None`: the input is used up,
    /// and what it held of an unfinished frame is kept. A frame that lies in `input` as a whole is
    /// not copied.
    ///
    /// # Errors
    /// As soon as a header byte is known to be wrong; from then on always the same error.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Frame<'a>>, FrameError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.delivered {
            self.partial = Vec::new();
            self.delivered = false;
        }
        if self.partial.is_empty() { self.take_whole(input) } else { self.take_rest(input) }
    }

    /// Bytes kept of an unfinished frame, less than a header and `PAYLOAD_BYTES_MAX`.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered().len()
    }

    /// What it keeps of an unfinished frame.
    pub(crate) fn buffered(&self) -> &[u8] {
        if self.delivered { &[] } else { &self.partial }
    }

    /// The next frame, if it starts with the input.
    fn take_whole<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Frame<'a>>, FrameError> {
        let header = Header::read(input).inspect_err(|error| self.error = Some(*error))?;
        match header {
            Some(header) if input.len() >= header.frame_bytes() => {
                let (frame, rest) = input.split_at(header.frame_bytes());
                *input = rest;
                Ok(Some(header.frame(frame)))
            }
            Some(header) => {
                self.partial.reserve_exact(header.frame_bytes());
                self.keep(input, usize::MAX);
                Ok(None)
            }
            None => {
                self.keep(input, usize::MAX);
                Ok(None)
            }
        }
    }

    /// The next frame, if its start is kept in `partial`.
    fn take_rest<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Frame<'a>>, FrameError> {
        if self.partial.len() < HEADER_BYTES {
            self.keep(input, HEADER_BYTES - self.partial.len());
        }
        let header = Header::read(&self.partial).inspect_err(|error| self.error = Some(*error))?;
        let Some(header) = header else {
            return Ok(None);
        };
        let missing = header.frame_bytes() - self.partial.len();
        self.partial.reserve_exact(missing);
        self.keep(input, missing);
        if self.partial.len() < header.frame_bytes() {
            return Ok(None);
        }
        self.delivered = true;
        Ok(Some(header.frame(&self.partial)))
    }

    /// Moves up to `bytes_max` bytes from the input to `partial`.
    fn keep(&mut self, input: &mut &[u8], bytes_max: usize) {
        let (kept, rest) = input.split_at(bytes_max.min(input.len()));
        self.partial.extend_from_slice(kept);
        *input = rest;
    }
}

/// The frames in `bytes`, headers included. For frames of our own making: they follow each other
/// without a gap, and the last one is whole.
///
/// # Panics
/// If that is not so: peers would be sent bytes that are no frames.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (frame, after) = rest.split_at(frame_len(rest));
        rest = after;
        Some(frame)
    })
}

/// Whether these bytes are whole frames, of whatever content.
pub(crate) fn are_frames(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match Header::read(bytes) {
            Ok(Some(header)) if header.frame_bytes() <= bytes.len() => {
                bytes = &bytes[header.frame_bytes()..];
            }
            _ => return false,
        }
    }
    true
}

/// Length, header included, of the frame of our own making that starts here.
///
/// # Panics
/// If `bytes` does not start with the header of a frame.
pub fn frame_len(bytes: &[u8]) -> usize {
    match Header::read(bytes) {
        Ok(Some(header)) => header.frame_bytes(),
        _ => panic!("not a frame of ours: {:02x?}", &bytes[..bytes.len().min(8)]),
    }
}

/// A header that is in order.
#[derive(Clone, Copy)]
struct Header {
    message_type: MessageType,
    payload_bytes: usize,
}

impl Header {
    /// The header that `bytes` start with, `None` if it is not whole yet. Judges each field as
    /// soon as its last byte is there, in order: so any chunking ends in the same error.
    #[inline]
    fn read(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
        if let Some(&version) = bytes.first()
            && version != VERSION
        {
            return Err(FrameError::Version(version));
        }
        let &[_, high, low, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let length = u16::from_be_bytes([high, low]);
        if usize::from(length) > PAYLOAD_BYTES_MAX {
            return Err(FrameError::Length(length));
        }
        let Some(&number) = rest.first() else {
            return Ok(None);
        };
        let message_type = MessageType::from_wire(number).ok_or(FrameError::MessageType(number))?;
        Ok(Some(Header { message_type, payload_bytes: usize::from(length) }))
    }

    fn frame_bytes(self) -> usize {
        HEADER_BYTES + self.payload_bytes
    }

    /// `bytes` is the whole frame.
    fn frame(self, bytes: &[u8]) -> Frame<'_> {
        Frame { message_type: self.message_type, payload: &bytes[HEADER_BYTES..] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::super::strategies::{chunks, valid_message};
    use super::*;

    /// The frames of a stream that arrives in these chunks, and how it ends.
    fn deframe(chunks: &[&[u8]]) -> (Vec<(MessageType, Vec<u8>)>, Option<FrameError>) {
        let mut deframer = Deframer::new();
        let mut frames = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            loop {
                match deframer.next(&mut input) {
                    Ok(Some(frame)) => frames.push((frame.message_type, frame.payload.to_vec())),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
            assert!(input.is_empty());
            assert!(deframer.buffered_bytes() < HEADER_BYTES + PAYLOAD_BYTES_MAX);
        }
        (frames, None)
    }

    /// A frame of any type and payload; 1188 bytes now and then.
    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![8 => 0..40usize, 1 => Just(PAYLOAD_BYTES_MAX)];
        (1..=5u8, length, any::<u8>()).prop_map(|(number, length, fill)| {
            let [high, low] = (length as u16).to_be_bytes();
            [vec![VERSION, high, low, number], vec![fill; length]].concat()
        })
    }

    /// Whole frames; then maybe the start of one more, or garbage.
    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        let end = prop_oneof![
            Just(Vec::new()),
            (any_frame(), any::<Index>())
                .prop_map(|(frame, cut)| frame[..cut.index(frame.len())].to_vec()),
            vec(any::<u8>(), 0..9),
            vec(0..6u8, 4..20),
        ];
        (vec(any_frame(), 0..6), end).prop_map(|(frames, end)| [frames.concat(), end].concat())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(stream in any_stream(), cuts in vec(any::<Index>(), 0..20)) {
            let whole = deframe(&[&stream]);
            prop_assert_eq!(&deframe(&chunks(&stream, &cuts)), &whole);
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(&deframe(&bytes), &whole);
        }

        #[test]
        fn frames_come_out_as_they_went_in(frames in vec(any_frame(), 0..6)) {
            let stream = frames.concat();
            let split: Vec<&[u8]> = super::frames(&stream).collect();
            prop_assert_eq!(&split, &frames);
            let (decoded, error) = deframe(&[&stream]);
            prop_assert_eq!(error, None);
            let payloads: Vec<&[u8]> = decoded.iter().map(|(_, payload)| &payload[..]).collect();
            let expected: Vec<&[u8]> = frames.iter().map(|frame| &frame[HEADER_BYTES..]).collect();
            prop_assert_eq!(payloads, expected);
        }

        #[test]
        fn messages_are_one_frame_each(messages in vec(valid_message(), 0..6)) {
            let mut stream = Vec::new();
            messages.iter().for_each(|message| message.encode(&mut stream));
            prop_assert_eq!(frames(&stream).count(), messages.len());
        }
    }

    #[test]
    fn headers_are_judged_as_early_as_possible() {
        let cases: [(&[u8], FrameError); 6] = [
            (&[0], FrameError::Version(0)),
            (&[2], FrameError::Version(2)),
            (&[1, 4, 0xa5], FrameError::Length(1189)),
            (&[1, 0xff, 0xff], FrameError::Length(65535)),
            (&[1, 0, 9, 0], FrameError::MessageType(0)),
            (&[1, 4, 0xa4, 6], FrameError::MessageType(6)),
        ];
        for (stream, error) in cases {
            assert_eq!(deframe(&[stream]), (Vec::new(), Some(error)));
            let (early, last) = stream.split_at(stream.len() - 1);
            assert_eq!(deframe(&[early]), (Vec::new(), None));
            assert_eq!(deframe(&[early, last]), (Vec::new(), Some(error)));
        }
    }

    #[test]
    fn an_error_stays() {
        let mut deframer = Deframer::new();
        assert_eq!(deframer.next(&mut &[9][..]), Err(FrameError::Version(9)));
        let mut good = &KEEPALIVE_FRAME[..];
        assert_eq!(deframer.next(&mut good), Err(FrameError::Version(9)));
        assert_eq!(deframer.next(&mut &[][..]), Err(FrameError::Version(9)));
    }

    #[test]
    fn whole_frames_are_not_copied_and_memory_is_given_back() {
        let stream = [&KEEPALIVE_FRAME[..], &[1, 0, 2, 3, 8, 7], &[1, 0, 2]].concat();
        let mut deframer = Deframer::new();
        let mut input = &stream[4..];
        let payload = deframer.next(&mut input).unwrap().unwrap().payload;
        assert_eq!(payload.as_ptr(), stream[8..].as_ptr());
        assert_eq!(deframer.next(&mut input), Ok(None));
        assert_eq!(deframer.buffered_bytes(), 3);

        let mut rest = &[4, 8, 7][..];
        let frame = deframer.next(&mut rest).unwrap().unwrap();
        assert_eq!((frame.message_type, frame.payload), (MessageType::Unsubscribe, &[8, 7][..]));
        assert_eq!(deframer.buffered_bytes(), 0);
        assert_eq!(deframer.next(&mut rest), Ok(None));
        assert_eq!(deframer.partial.capacity(), 0);
    }

    #[test]
    #[should_panic(expected = "not a frame of ours")]
    fn splitting_what_is_no_frame_is_a_bug() {
        let _ = frames(&[1, 0, 0, 9]).count();
    }
}
