//! Reading the stream, from its first message on.
//!
//! Owns the order: what is missing ends it. Must never go on where it stopped: it is read from the beginning again.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{Consumer, pull};
use futures_util::StreamExt;

use super::fault::Fault;
use super::link::MARKER_REASON;
use crate::fabric::{Ended, Record};

/// Messages that are asked for at a time; half as many again may be on their way. All of them have room at the client.
const BATCH: usize = 32_768;

/// How long the engine waits for a message before it has to be asked again.
const EXPIRY: Duration = Duration::from_secs(30);

/// Messages of the stream, one after the other. Whoever takes none is sent none, beyond what is on its way.
pub struct Feed {
    messages: pull::Stream,
    delivered: u64,
    /// What lay in the stream when it was opened.
    pub pending_at_first: u64,
}

/// A message of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// Its place in the stream.
    pub sequence: u64,
    /// How long ago it was published, by the two clocks.
    pub age: Duration,
    /// Its key.
    pub subject: async_nats::Subject,
    /// Its value.
    pub value: bytes::Bytes,
    /// Whether it says that the key is gone, and why.
    pub ended: Option<Ended>,
    /// How many are still to come.
    pub pending: u64,
}

impl Delivered {
    /// As the core takes it.
    pub fn record(&self) -> Record<'_> {
        Record {
            sequence: self.sequence,
            age: self.age,
            subject: self.subject.as_str(),
            value: &self.value,
            ended: self.ended,
            pending: self.pending,
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("delivered", &self.delivered).finish_non_exhaustive()
    }
}

impl Feed {
    pub(super) async fn of(consumer: Consumer<pull::Config>) -> Result<Feed, Fault> {
        let pending_at_first = consumer.cached_info().num_pending;
        // No heartbeats of the library's: they would tell an interrupted reader from a silent engine no better.
        let messages =
            consumer.stream().max_messages_per_batch(BATCH).expires(EXPIRY).messages().await;
        let messages = messages.map_err(|error| Fault::Other(error.to_string()))?;
        Ok(Feed { messages, delivered: 0, pending_at_first })
    }

    /// The next message. May be given up while it waits.
    ///
    /// # Errors
    /// Why there are no more.
    #[allow(clippy::disallowed_methods)] // messages have the time of the engine
    pub async fn next(&mut self) -> Result<Delivered, String> {
        let message = match self.messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the connection is lost".to_owned()),
        };
        let told = message.info().map_err(|error| format!("a message makes no sense: {error}"))?;
        self.delivered += 1;
        if told.consumer_sequence != self.delivered {
            return Err(format!(
                "message {} came instead of {}",
                told.consumer_sequence, self.delivered
            ));
        }
        let (sequence, pending) = (told.stream_sequence, told.pending);
        let age = SystemTime::now().duration_since(told.published.into()).unwrap_or_default();
        let ended = ended(&message);
        let Message { message, .. } = message;
        let (subject, value) = (message.subject, message.payload);
        Ok(Delivered { sequence, age, subject, value, ended, pending })
    }
}

/// What a mark says. One that this program does not know is one all the same.
fn ended(message: &Message) -> Option<Ended> {
    let reason = message.headers.as_ref()?.get(MARKER_REASON)?;
    Some(match reason.as_str() {
        "MaxAge" => Ended::Lifetime,
        "Purge" => Ended::Purged,
        _ => Ended::Removed,
    })
}
