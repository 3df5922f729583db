//! A connection to the engine: NATS with JetStream.
//!
//! Owns what is said on it. Must never connect again by itself: a lost link is told, and another one is made, so that
//! nothing that was meant for the old one is sent late.

use std::fmt::Display;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{Context, ContextBuilder, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{ConsumerErrorKind, Info};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::fabric_options::FabricOptions;
use super::super::fabric_view::{ServerSeen, StreamSeen};
use super::fault::Fault;
use super::reader::{Delivered, Feed};
use super::stream;
use crate::fabric::{Publish, PublishError, Subjects};

/// How long the engine may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that may wait for us at the client, which drops what comes beyond: more than are ever asked for.
const MESSAGES_WAITING_MAX: usize = 65_536;

/// Commands that may wait for the connection.
const COMMANDS_WAITING_MAX: usize = 1024;

/// From a pause of this length on a feed is forgotten by the engine.
const FEED_PAUSE_MAX: Duration = Duration::from_secs(300);

/// What is said of a file that is neither.
const NO_CREDENTIALS: &str =
    "it has neither NATS credentials (.creds) nor the seed of a user's nkey";

/// What a file of certificates has.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";
const NO_CERTIFICATE: &str = "it has no certificate (PEM, \"-----BEGIN CERTIFICATE-----\")";

const TTL: &str = "Nats-TTL";
const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// It says that the subject is gone; so the engine marks the end of the lifetime with nothing else.
pub(super) const MARKER_REASON: &str = "Nats-Marker-Reason";

/// The connection, for one who asks. Clones ask over the same one.
#[derive(Clone, Debug)]
pub struct Link {
    client: Client,
    jetstream: Context,
    fabric: String,
    subjects: Subjects,
    /// Before the token of an acknowledgement's subject.
    inbox: String,
    replicas: u32,
    /// Whether a stream is created if there is none.
    creates: bool,
}

/// A connection as a whole.
#[derive(Debug)]
pub struct Connected {
    /// What to ask it by.
    pub link: Link,
    /// What comes of publications.
    pub acks: Acks,
    /// What happens to it.
    pub events: UnboundedReceiver<Event>,
    /// The server, for people.
    pub server: ServerSeen,
    /// The stream.
    pub stream: StreamSeen,
}

/// Something to be published, as it goes over the connection.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Comes back with the acknowledgement.
    pub token: u64,
    subject: Subject,
    value: Bytes,
    headers: HeaderMap,
}

impl From<Publish> for Publication {
    fn from(publish: Publish) -> Publication {
        let Publish { token, subject, value, lifetime, is_tombstone, expect_last } = publish;
        let mut headers = HeaderMap::new();
        if let Some(lifetime) = lifetime {
            // The engine counts in whole seconds.
            let lifetime_s = lifetime.as_secs().max(1);
            headers.insert(TTL, format!("{lifetime_s}s"));
        }
        if is_tombstone {
            headers.insert(MARKER_REASON, "Remove");
        }
        if let Some(sequence) = expect_last {
            // Always as long: an engine that is full refuses what is longer than what it replaces.
            headers.insert(EXPECTED_LAST, format!("{sequence:020}"));
        }
        Publication { token, subject: subject.into(), value: value.into(), headers }
    }
}

impl Link {
    /// Connects to one of the servers, once each, and sees to it that the stream is there.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn connect(options: &FabricOptions) -> Result<Connected, Fault> {
        Link::to(options, 0, true).await
    }

    /// The same, but begins with another one of them: whoever tries again and again comes to all.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn connect_from(first: usize, options: &FabricOptions) -> Result<Connected, Fault> {
        Link::to(options, first, true).await
    }

    /// The same, but creates nothing.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn visit(options: &FabricOptions) -> Result<Connected, Fault> {
        Link::to(options, 0, false).await
    }

    async fn to(options: &FabricOptions, first: usize, creates: bool) -> Result<Connected, Fault> {
        let servers = options.address.to_string();
        let (happened, events) = unbounded_channel();
        let mut connect = ConnectOptions::new()
            .name(format!("metalbond-uring {}", options.name))
            .ping_interval(options.heartbeat)
            .connection_timeout(ANSWER_TIMEOUT)
            .request_timeout(Some(ANSWER_TIMEOUT))
            .subscription_capacity(MESSAGES_WAITING_MAX)
            .client_capacity(COMMANDS_WAITING_MAX)
            .retain_servers_order()
            // A try for each server; of those that it hears of from the first one, too.
            .max_reconnects(options.address.hosts.len().max(1))
            .event_callback(move |event| {
                // Fails if nobody listens any more.
                let _ = happened.send(event);
                std::future::ready(())
            })
            .require_tls(options.address.is_tls || options.ca_file.is_some());
        if let Some(path) = &options.credentials_file {
            let fault = |why: &dyn Display| Fault::of_file("--fabric-creds", path, why);
            let text = tokio::fs::read_to_string(path).await;
            let text = text.map_err(|error| fault(&error))?;
            // What the parser says may have some of the text.
            connect = match nkey_seed(&text) {
                Some(seed) => connect.nkey(seed.to_owned()),
                None => with_jwt(connect, &text).map_err(|()| fault(&NO_CREDENTIALS))?,
            };
        }
        if let Some(path) = &options.ca_file {
            let fault = |why: &dyn Display| Fault::of_file("--fabric-ca", path, why);
            let pem = tokio::fs::read(path).await.map_err(|error| fault(&error))?;
            // The library takes a file without any for one that trusts nobody.
            if !pem.windows(CERTIFICATE.len()).any(|window| window == CERTIFICATE) {
                return Err(fault(&NO_CERTIFICATE));
            }
            connect = connect.add_root_certificates(path.clone());
        }
        let mut urls: Vec<String> = options.address.urls().collect();
        let first = first % urls.len().max(1);
        urls.rotate_left(first);
        let client = connect.connect(urls).await.map_err(|error| match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                Fault::Unauthorized { servers: servers.clone(), why: error.to_string() }
            }
            _ => Fault::of_connect(servers.clone(), error.to_string()),
        })?;
        Link::on(client, events, options, creates).await
    }

    /// What is needed of a connection.
    async fn on(
        client: Client,
        mut events: UnboundedReceiver<Event>,
        options: &FabricOptions,
        creates: bool,
    ) -> Result<Connected, Fault> {
        let info = client.server_info();
        // One without a name is called by its id, which says nothing.
        let name = match info.server_name.is_empty() || info.server_name == info.server_id {
            true => format!("{}:{}", info.host, info.port),
            false => info.server_name,
        };
        if let Some(fault) = Fault::of_version(&info.server_id, &name, &info.version) {
            return Err(fault);
        }
        let inbox = format!("{}.", client.new_inbox());
        let acks = client.subscribe(format!("{inbox}*")).await;
        let acks = acks.map_err(|error| Fault::Other(error.to_string()))?;
        let jetstream = ContextBuilder::new().timeout(ANSWER_TIMEOUT).build(client.clone());
        let fabric = options.address.fabric.to_string();
        let replicas = options.replicas_wanted();
        let subjects = Subjects::new(&fabric);
        let link =
            Link { client, jetstream, fabric, subjects, inbox: inbox.clone(), replicas, creates };
        let stream = link.stream().await.map_err(|fault| match fault {
            Fault::Silent(_) => Fault::of_complaint(&mut events).unwrap_or(fault),
            fault => fault,
        })?;
        let server = ServerSeen { name, version: info.version };
        Ok(Connected { link, acks: Acks { acks, inbox }, events, server, stream })
    }

    /// Sees to it that the stream is there.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn stream(&self) -> Result<StreamSeen, Fault> {
        let wanted = stream::wanted(&self.fabric, self.replicas);
        stream::ensure(&self.jetstream, &wanted, self.creates).await.map(seen)
    }

    /// Reads the whole stream, from its first message on.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn open(&self) -> Result<Feed, Fault> {
        // The stream has nothing but the fabric's subjects; to compare each message with them would cost the engine a
        // quarter of its time.
        self.consumer(DeliverPolicy::All, String::new()).await
    }

    /// All leases as they stand: also the marks of those that are over.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn leases(&self) -> Result<Vec<Delivered>, Fault> {
        let read = async {
            let mut feed =
                self.consumer(DeliverPolicy::LastPerSubject, self.subjects.leases()).await?;
            let mut leases = Vec::new();
            let mut pending = feed.pending_at_first;
            while pending > 0 {
                let lease = feed.next().await.map_err(Fault::Other)?;
                pending = lease.pending;
                leases.push(lease);
            }
            Ok(leases)
        };
        let read = tokio::time::timeout(ANSWER_TIMEOUT, read).await;
        read.unwrap_or(Err(Fault::Silent("a question about leases")))
    }

    /// How many messages there are of these subjects.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn count(&self, filter: &str) -> Result<u64, Fault> {
        let feed = self.consumer(DeliverPolicy::All, filter.to_owned()).await?;
        Ok(feed.pending_at_first)
    }

    async fn consumer(
        &self,
        deliver_policy: DeliverPolicy,
        filter_subject: String,
    ) -> Result<Feed, Fault> {
        let config = pull::Config {
            description: Some(format!("a reflector of the fabric {}", self.fabric)),
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject,
            inactive_threshold: FEED_PAUSE_MAX,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let name = stream::stream_name(&self.fabric);
        let consumer = self.jetstream.create_consumer_on_stream(config, &name).await;
        let consumer = consumer.map_err(|error| match error.kind() {
            ConsumerErrorKind::TimedOut => Fault::Silent("the creation of a consumer"),
            ConsumerErrorKind::JetStream(error) => Fault::of_engine(&error),
            _ => Fault::Other(error.to_string()),
        })?;
        Feed::of(consumer).await
    }

    /// Sends a publication; what comes of it is told by [`Acks`]. Waits for room in the connection's queue, and may be
    /// given up meanwhile: then nothing is sent.
    ///
    /// # Errors
    /// If it cannot be sent at all.
    pub async fn publish(&self, publication: &Publication) -> Result<(), PublishError> {
        let Publication { token, subject, value, headers } = publication.clone();
        let reply = format!("{}{token}", self.inbox);
        let sent = match headers.is_empty() {
            true => self.client.publish_with_reply(subject, reply, value).await,
            false => {
                self.client.publish_with_reply_and_headers(subject, reply, headers, value).await
            }
        };
        sent.map_err(|error| PublishError::Other(error.to_string()))
    }

    /// Removes what lies below a sequence number and matches, without a mark. Returns how much it was.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn purge(&self, filter: &str, below: u64) -> Result<u64, Fault> {
        let name = stream::stream_name(&self.fabric);
        let request = PurgeRequest { filter, seq: below };
        let asked = self.jetstream.request(format!("STREAM.PURGE.{name}"), &request).await;
        match asked {
            Ok(Response::Ok(Purged { purged })) => Ok(purged),
            Ok(Response::Err { error }) => Err(Fault::of_engine(&error)),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => Fault::NoJetStream,
                RequestErrorKind::TimedOut => Fault::Silent("a purge"),
                _ => Fault::Other(error.to_string()),
            }),
        }
    }

    /// Waits until all that was published has left for the server.
    pub async fn flush(&self) {
        // A lost connection has nothing that could be waited for.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, self.client.flush()).await;
    }
}

/// What a `.creds` file has. The parser wants a line feed behind the last line, too.
fn with_jwt(connect: ConnectOptions, text: &str) -> Result<ConnectOptions, ()> {
    connect.credentials(&format!("{text}\n")).map_err(|_| ())
}

/// The seed of a user's nkey, if a file has nothing else, comments aside.
fn nkey_seed(text: &str) -> Option<&str> {
    let lines = text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_base32 = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
    let is_seed =
        |line: &&str| line.len() == 58 && line.starts_with("SU") && line.bytes().all(is_base32);
    let seed = lines.next().filter(is_seed)?;
    lines.next().is_none().then_some(seed)
}

#[derive(Serialize)]
struct PurgeRequest<'a> {
    filter: &'a str,
    seq: u64,
}

#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

fn seen(info: Info) -> StreamSeen {
    StreamSeen {
        replicas: info.config.num_replicas,
        name: info.config.name,
        messages: info.state.messages,
        bytes: info.state.bytes,
        last_sequence: info.state.last_sequence,
    }
}

/// What comes of publications, by their tokens.
#[derive(Debug)]
pub struct Acks {
    acks: Subscriber,
    inbox: String,
}

impl Acks {
    /// The next one: its token, and its sequence number. None if the connection is given up.
    pub async fn next(&mut self) -> Option<(u64, Result<u64, PublishError>)> {
        loop {
            let message = self.acks.next().await?;
            let token = message.subject.strip_prefix(self.inbox.as_str());
            // Of a subject that only the server and we know: nothing else comes here.
            if let Some(token) = token.and_then(|token| token.parse().ok()) {
                return Some((token, outcome(&message)));
            }
        }
    }
}

/// An acknowledgement. It has either.
#[derive(Deserialize)]
struct Ack {
    seq: Option<u64>,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn outcome(message: &async_nats::Message) -> Result<u64, PublishError> {
    if let Some(status) = message.status
        && message.payload.is_empty()
    {
        return Err(PublishError::Other(format!("nobody keeps the stream now (status {status})")));
    }
    match serde_json::from_slice(&message.payload) {
        Ok(Ack { error: Some(error), .. }) => Err(refused(error)),
        Ok(Ack { seq: Some(sequence), .. }) => Ok(sequence),
        _ => Err(PublishError::Other("an acknowledgement that makes no sense".to_owned())),
    }
}

/// JetStream's codes: wrong last sequence (of today, and as a constant); insufficient resources, account, storage and
/// memory exceeded, and a store that failed, which is what a full stream says.
fn refused(error: AckError) -> PublishError {
    match error.err_code {
        10_071 | 10_164 => PublishError::WrongSequence,
        10_002 | 10_023 | 10_028 | 10_047 | 10_077 => PublishError::Full,
        code => PublishError::Other(format!("{} (code {code})", error.description)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_need_no_line_feed_at_the_end() {
        let seed = "SUAEV73KPO4DVT5OODCHP4BNCVS7O5JXIDEZ4OT2B7HFTJHQQ3NOI57M24";
        let text = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0.e30.x\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------"
        );
        for text in [text.clone(), format!("{text}\n"), text.replace('\n', "\r\n")] {
            assert!(with_jwt(ConnectOptions::new(), &text).is_ok(), "{text:?}");
        }
        assert!(with_jwt(ConnectOptions::new(), seed).is_err());
    }
}
