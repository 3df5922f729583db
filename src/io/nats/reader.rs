//! Reading the stream, from its first message on.
//!
//! Owns the order: what is missing ends it. Must never go on where it stopped: it is read from the beginning again.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{Consumer, pull};
use futures_util::StreamExt;

use super::fault::Fault;
use super::link::MARKER_REASON;
use crate::fabric::{Ended, Record};

/// Messages that are asked for at a time; half as many again may be on their way. All of them have room at the client.
const BATCH: usize = 32_768;

/// Bytes of them: a server closes the connection of whom more than 64 MiB wait for.
const BATCH_BYTES: usize = 16 << 20;

/// How long the engine waits for a message before it has to be asked again.
const EXPIRY: Duration = Duration::from_secs(30);

/// Messages of the stream, one after the other. Whoever takes none is sent none, beyond what is on its way.
pub struct Feed {
    messages: pull::Stream,
    delivered: u64,
    clock: EngineClock,
    /// What lay in the stream when it was opened.
    pub pending_at_first: u64,
}

/// A message of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// Its place in the stream.
    pub sequence: u64,
    /// How long ago it was published, by the engine's clock.
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
        let clock = EngineClock::of(consumer.cached_info().created.into());
        let pending_at_first = consumer.cached_info().num_pending;
        // No heartbeats of the library's: they would tell an interrupted reader from a silent engine no better.
        let messages = consumer.stream().max_messages_per_batch(BATCH);
        let messages = messages.max_bytes_per_batch(BATCH_BYTES).expires(EXPIRY).messages().await;
        let messages = messages.map_err(|error| Fault::Other(error.to_string()))?;
        Ok(Feed { messages, delivered: 0, clock, pending_at_first })
    }

    /// The next message. May be given up while it waits.
    ///
    /// # Errors
    /// Why there are no more.
    pub async fn next(&mut self) -> Result<Delivered, String> {
        let message = match self.messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the connection is lost".to_owned()),
        };
        let reply = message.reply.as_ref().map_or("", |reply| reply.as_str());
        let told =
            Told::of(reply).ok_or_else(|| format!("\"{reply}\" says nothing of a message"))?;
        self.delivered += 1;
        if told.delivered != self.delivered {
            return Err(format!("message {} came instead of {}", told.delivered, self.delivered));
        }
        let Told { sequence, pending, .. } = told;
        let age = self.clock.now().saturating_sub(told.published);
        let ended = ended(&message);
        let Message { message, .. } = message;
        let (subject, value) = (message.subject, message.payload);
        Ok(Delivered { sequence, age, subject, value, ended, pending })
    }
}

/// The engine's clock, by which messages are dated: ours may be minutes off, and may be set. Both were read when the consumer was
/// created.
#[derive(Clone, Copy, Debug)]
struct EngineClock {
    /// Since 1970.
    created: Duration,
    here: Instant,
}

#[allow(clippy::disallowed_methods)] // of time that passes
impl EngineClock {
    fn of(created: SystemTime) -> EngineClock {
        let created = created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        EngineClock { created, here: Instant::now() }
    }

    /// Since 1970.
    fn now(self) -> Duration {
        self.created + self.here.elapsed()
    }
}

/// What the engine tells of a message, in the subject for its acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    /// Its place in the stream.
    sequence: u64,
    /// Its place in the feed, from 1.
    delivered: u64,
    /// When it was published, since 1970.
    published: Duration,
    /// How many are still to come.
    pending: u64,
}

impl Told {
    /// Of `$JS.ACK.STREAM.CONSUMER.TRIES.SEQUENCE.DELIVERED.NANOSECONDS.PENDING`, or the newer form: with a domain and an
    /// account before the stream, and perhaps a word behind it all. The library's own parser takes a tenth
    /// of the time of reading.
    fn of(reply: &str) -> Option<Told> {
        let bytes = reply.strip_prefix("$JS.ACK.")?.as_bytes();
        // Where words end, from the first one on.
        let (mut ends, mut words) = ([0; WORDS_MAX], 0);
        for (at, &byte) in bytes.iter().enumerate() {
            if byte == b'.' {
                *ends.get_mut(words)? = at;
                words += 1;
            }
        }
        *ends.get_mut(words)? = bytes.len();
        let first = match words + 1 {
            7 => 3,
            9 | WORDS_MAX => 5,
            _ => return None,
        };
        let number = |word: usize| number(&bytes[ends[word - 1] + 1..ends[word]]);
        Some(Told {
            sequence: number(first)?,
            delivered: number(first + 1)?,
            published: Duration::from_nanos(number(first + 2)?),
            pending: number(first + 3)?,
        })
    }
}

/// Words behind `$JS.ACK`, at most.
const WORDS_MAX: usize = 10;

fn number(digits: &[u8]) -> Option<u64> {
    let mut number: u64 = 0;
    for &byte in digits {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    (!digits.is_empty()).then_some(number)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_message() {
        let told = Told {
            sequence: 1_000_007,
            delivered: 42,
            published: Duration::from_nanos(1_764_264_000_123_456_789),
            pending: 0,
        };
        let numbers = "1.1000007.42.1764264000123456789.0";
        for reply in [
            format!("$JS.ACK.MB_f.abc.{numbers}"),
            format!("$JS.ACK._.ABCDEF.MB_f.abc.{numbers}"),
            format!("$JS.ACK.hub.ABCDEF.MB_f.abc.{numbers}.x7"),
        ] {
            assert_eq!(Told::of(&reply), Some(told), "{reply}");
        }
    }

    #[test]
    fn nonsense_tells_nothing() {
        for reply in [
            "",
            "$JS.ACK.",
            "$JS.ACK.MB_f.abc",
            "$JS.ACK.MB_f.abc.1.7.42.1764264000",
            "$JS.ACK.MB_f.abc.1..42.1764264000.0",
            "$JS.ACK.MB_f.abc.1.-7.42.1764264000.0",
            "$JS.ACK.MB_f.abc.1.7.42.1764264000.18446744073709551616",
            "$JS.ACK.MB_f.abc.1.7.42.1764264000.0.more",
            "$JS.ACK.a.b.c.d.e.f.g.h.i.j.k.l.m",
            "$JS.FC.MB_f.abc.1.7.42.1764264000.0",
            "_INBOX.abc.1",
        ] {
            assert_eq!(Told::of(reply), None, "{reply}");
        }
    }
}
