//! What an answer is, or why there is none.
//!
//! Owns the words for it. Must never know paths.

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;

use super::query::QueryError;

/// The body of an answer. An error cuts it short, so that nobody takes it for whole.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An answer's body, with what it is.
pub(super) struct Content {
    /// `Content-Type`.
    pub(super) kind: &'static str,
    pub(super) body: Body,
}

/// Why there is no such answer.
pub(super) enum Refusal {
    /// There is no such page.
    NoPage,
    /// The node belongs to no fabric.
    #[cfg(feature = "fabric")]
    NoFabric,
    /// The question makes no sense.
    Query(QueryError),
    /// As many tables are being told as may be at a time.
    Busy,
    /// The node is shutting down.
    Gone,
    /// The node does not do what it is there for, for this reason.
    NotReady(String),
}

impl Content {
    /// All of it at once.
    pub(super) fn whole(kind: &'static str, text: impl Into<Bytes>) -> Content {
        Content {
            kind,
            body: Full::new(text.into()).map_err(|never| match never {}).boxed_unsync(),
        }
    }

    /// A value as JSON.
    pub(super) fn json(value: &impl serde::Serialize) -> Content {
        let mut text = serde_json::to_vec_pretty(value).expect("plain values, and keys are text");
        text.push(b'\n');
        Content::whole("application/json", text)
    }
}
