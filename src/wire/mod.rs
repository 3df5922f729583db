//! Frames and messages: bytes to typed values and back, and what may be wrong with them.
//!
//! Owns the format on the wire (protocol sections 1 and 2) and the error policy ([`Fault`]). Must
//! never know about connections, states or routes beyond one message, and must never let a
//! generated protobuf type out.
//!
//! [`Deframer`] cuts a byte stream into [`Frame`]s, [`decode`] turns a frame into a [`Message`],
//! [`Message::encode`] appends a message's frame to a buffer. UPDATEs, the bulk of all traffic,
//! have a codec of their own ([`decode_update`], [`encode_update`]).

#[cfg(test)]
mod definition;
mod frame;
mod message;
mod policy;
mod protobuf;
#[cfg(test)]
mod strategies;
mod update;

pub use frame::{
    Deframer, Frame, FrameError, HEADER_BYTES, KEEPALIVE_FRAME, MessageType, frame_len, frames,
};
pub(crate) use frame::{FRAME_BYTES_MAX, are_frames};
pub use message::{Hello, Message, decode};
pub use policy::{DecodeError, Fault, InvalidUpdate, Reaction};
#[cfg(test)]
pub(crate) use strategies::valid_update;
pub(crate) use update::{UPDATE_FRAME_BYTES_MAX, action_and_key, encode_keyed, keyed_frame_len};
pub use update::{Update, decode_update, encode_update};

/// The generated types. They write HELLO, SUBSCRIBE and UNSUBSCRIBE; what they read is what the tests
/// compare our own reading with.
#[allow(missing_docs, dead_code, unreachable_pub)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/metalbond.rs"));
}
