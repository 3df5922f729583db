//! A node's HTTP view from the other side: asking, and reading what is answered.
//!
//! Owns connections, silences and their ends. Must never believe an answer: it may be cut short, garbage, or meant to
//! harm a terminal.

mod bounds;
mod plain;
mod routes;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper_util::rt::TokioIo;
use metalbond_uring::types::HostPort;
use thiserror::Error;
use tokio::runtime::Runtime;

pub(crate) use bounds::Bounded;
use plain::plain_words;
pub(crate) use plain::{is_harmless, plain};
pub(crate) use routes::{Shape, Told, read_routes};

/// How long a connection may take to come about, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before a node that is busy is asked again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take as a whole: a node itself gives up after 120 s. Who allows a shorter silence than a
/// second waits so many silences.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(150);
const ANSWER_SILENCES_MAX: u32 = 150;
/// Bytes of an answer that is kept as a whole, which all are but tables of routes: several hundred bytes for each of
/// 100,000 peers or VNIs.
const KEPT_BYTES_MAX: u64 = 128 << 20;
/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: u64 = 1_024;

/// Why there is no answer, or none of use.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    /// Nobody is there.
    #[error("cannot ask http://{address}: {why}; is it running with --http?")]
    Nobody { address: HostPort, why: String },
    /// Somebody is there, and says something else.
    #[error("http://{address} gives no HTTP answer: {why}; is it the address of --http?")]
    NoHttp { address: HostPort, why: String },
    /// Nothing came for so long.
    #[error("{url}: nothing came for {} s", time.as_secs_f64())]
    Silent { url: String, time: Duration },
    /// It says something now and then, and does not come to an end.
    #[error("{url}: the answer was not whole after {:.1} s", time.as_secs_f64())]
    Endless { url: String, time: Duration },
    /// It refuses, in words of its own.
    #[error("{url}: status {status}: {words}")]
    Refused { url: String, status: u16, words: String },
    /// The connection ended amid the answer.
    #[error("{url}: the answer was cut short: {why}")]
    Cut { url: String, why: String },
    /// It is something else.
    #[error("{url} answers with {kind}, not JSON: is it a metalbond-uring?")]
    NoJson { url: String, kind: String },
    /// It is JSON, or should be, and not what was expected.
    #[error("{url}: not an answer that makes sense: {why}")]
    Nonsense { url: String, why: String },
    /// It is a file, and cannot be read.
    #[error("cannot read {path}: {why}")]
    File { path: String, why: String },
    /// This process lacks something.
    #[error("cannot ask: {0}")]
    Own(#[from] std::io::Error),
}

/// A node that can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it answers.
    pub(crate) address: HostPort,
    /// How long it may be silent.
    pub(crate) timeout: Duration,
    /// When all answers have to be whole, if there is such a time.
    pub(crate) until: Option<Instant>,
}

/// What a node said.
pub(crate) struct Answer {
    /// Where it is from, for messages.
    pub(crate) url: String,
    /// The status; an error is an answer too.
    pub(crate) status: u16,
    /// The kind of content, if it was said; plain text.
    pub(crate) kind: String,
    is_table: bool,
    body: Body,
}

/// The bytes of an answer as they come. Reading waits, but not for a silent node.
struct Body {
    url: String,
    silence_max: Duration,
    /// When it was asked for, and when it has to be whole.
    asked_at: Instant,
    until: Instant,
    /// What has come and was not read yet.
    chunk: Bytes,
    incoming: Incoming,
    /// Drives the connection; dropped last.
    runtime: Runtime,
}

impl Node {
    /// Asks for a path; `query` are words and values. A node that is busy is asked again for a while.
    ///
    /// # Errors
    /// If there is no answer, whatever it says: see [`Answer::json`].
    pub(crate) fn ask(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, AskError> {
        let mut target = path.to_owned();
        if !query.is_empty() {
            let mut words = form_urlencoded::Serializer::new(String::new());
            words.extend_pairs(query);
            target = format!("{path}?{}", words.finish());
        }
        let begun = now();
        loop {
            let (answer, is_busy) = self.ask_once(&target)?;
            if !is_busy || begun.elapsed() >= self.timeout {
                return Ok(answer);
            }
            drop(answer);
            std::thread::sleep(BUSY_PAUSE.min(self.timeout));
        }
    }

    /// The answer, and whether the node wants to be asked again.
    fn ask_once(&self, target: &str) -> Result<(Answer, bool), AskError> {
        let url = format!("http://{}{target}", self.address);
        let asked_at = now();
        let until = self.answer_by(asked_at);
        let left = until.saturating_duration_since(asked_at);
        if left.is_zero() {
            return Err(AskError::Endless { url, time: left });
        }
        let silence_max = self.timeout.min(left);
        let stream = self.connect(silence_max)?;
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let request = Request::get(target)
            .header(HOST, self.host())
            .body(Empty::<Bytes>::new())
            .map_err(|error| AskError::Own(std::io::Error::other(error)))?;
        let response = runtime.block_on(async {
            let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
            let no_http =
                |error| AskError::NoHttp { address: self.address.clone(), why: deepest(&error) };
            let talk = async {
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(stream).await.map_err(no_http)?;
                // What ends it is told by the answer.
                tokio::spawn(connection);
                sender.send_request(request).await.map_err(no_http)
            };
            tokio::time::timeout(silence_max, talk)
                .await
                .unwrap_or_else(|_| Err(AskError::Silent { url: url.clone(), time: silence_max }))
        })?;
        let (head, incoming) = response.into_parts();
        let is_busy = head.status.as_u16() == 503 && head.headers.contains_key(RETRY_AFTER);
        let body = Body {
            url: url.clone(),
            silence_max: self.timeout,
            asked_at,
            until,
            chunk: Bytes::new(),
            incoming,
            runtime,
        };
        let answer = Answer {
            url,
            status: head.status.as_u16(),
            kind: kind_of(&head.headers),
            is_table: target.starts_with("/routes.json"),
            body,
        };
        Ok((answer, is_busy))
    }

    /// When an answer that is asked for now has to be whole.
    fn answer_by(&self, asked_at: Instant) -> Instant {
        let time = self.timeout.saturating_mul(ANSWER_SILENCES_MAX);
        let by = asked_at + time.min(ANSWER_TIME_MAX.max(self.timeout));
        self.until.map_or(by, |until| until.min(by))
    }

    /// The address as a server knows it: without a zone, which means something here only.
    fn host(&self) -> String {
        let HostPort { host, port } = &self.address;
        let host = host.split('%').next().unwrap_or_default().to_owned();
        HostPort { host, port: *port }.to_string()
    }

    /// A connection to the first of the name's addresses that takes one.
    fn connect(&self, time_max: Duration) -> Result<TcpStream, AskError> {
        let nobody = |why: String| AskError::Nobody { address: self.address.clone(), why };
        let addresses =
            addresses_of(&self.address).map_err(|error| nobody(plain(&error.to_string())))?;
        let mut why = "the name has no address".to_owned();
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT.min(time_max)) {
                Ok(stream) => return Ok(stream),
                Err(error) => why = error_text(&error),
            }
        }
        Err(nobody(why))
    }
}

impl Answer {
    /// The body of an answer that should be JSON.
    ///
    /// # Errors
    /// If it is a refusal, or something else.
    pub(crate) fn json(mut self) -> Result<impl Read, AskError> {
        if self.status != 200 {
            return Err(self.refusal());
        }
        if !self.is_json() {
            return Err(AskError::NoJson { url: self.url, kind: self.kind });
        }
        let bytes_max = if self.is_table { u64::MAX } else { KEPT_BYTES_MAX };
        let bounded = Bounded::new(self.body, &self.url, bytes_max);
        Ok(std::io::BufReader::with_capacity(64 << 10, bounded))
    }

    /// Whether it says that it is JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.kind.contains("json")
    }

    fn refusal(&mut self) -> AskError {
        let mut bytes = Vec::new();
        // What cannot be read says nothing.
        let _ = (&mut self.body).take(REFUSAL_BYTES_MAX).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let words = plain_words(text.trim().lines().next().unwrap_or_default());
        AskError::Refused { url: self.url.clone(), status: self.status, words }
    }
}

impl AskError {
    /// What is wrong with an answer that could not be read as JSON.
    pub(crate) fn of(url: &str, error: serde_json::Error) -> AskError {
        let url = url.to_owned();
        if error.is_eof() {
            return AskError::Cut { url, why: "it ends amid a value".to_owned() };
        }
        if !error.is_io() {
            return AskError::Nonsense { url, why: plain_words(&error.to_string()) };
        }
        AskError::of_io(&url, std::io::Error::from(error))
    }

    /// What kept an answer from being read.
    pub(crate) fn of_io(url: &str, error: std::io::Error) -> AskError {
        match error.downcast::<AskError>() {
            Ok(error) => error,
            Err(error) => AskError::Cut { url: url.to_owned(), why: error_text(&error) },
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            if self.incoming.is_end_stream() {
                return Ok(0);
            }
            let left = self.until.saturating_duration_since(now());
            if left.is_zero() {
                let (url, time) = (self.url.clone(), self.asked_at.elapsed());
                return Err(std::io::Error::other(AskError::Endless { url, time }));
            }
            let (silence_max, frame) = (self.silence_max.min(left), self.incoming.frame());
            // Made within the runtime, whose timer it needs.
            let timed = async { tokio::time::timeout(silence_max, frame).await };
            let next = self.runtime.block_on(timed);
            let url = self.url.clone();
            let fault = match next {
                // The time for the whole is over.
                Err(_) if silence_max < self.silence_max => continue,
                Err(_) => AskError::Silent { url, time: self.silence_max },
                Ok(None) => return Ok(0),
                Ok(Some(Err(error))) => AskError::Cut { url, why: deepest(&error) },
                Ok(Some(Ok(frame))) => {
                    // Trailers say nothing.
                    self.chunk = frame.into_data().unwrap_or_default();
                    continue;
                }
            };
            return Err(std::io::Error::other(fault));
        }
        let length = buffer.len().min(self.chunk.len());
        buffer[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

/// The addresses of a node.
pub(crate) fn addresses_of(node: &HostPort) -> std::io::Result<Vec<SocketAddr>> {
    let HostPort { host, port } = node;
    if host == "localhost" {
        // Whatever the system's tables say: the node may listen on either.
        let both: [IpAddr; 2] = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        return Ok(both.map(|address| SocketAddr::from((address, *port))).to_vec());
    }
    let mut addresses: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
    addresses.dedup();
    Ok(addresses)
}

#[allow(clippy::disallowed_methods)] // a program that waits has a clock
fn now() -> Instant {
    Instant::now()
}

fn kind_of(headers: &HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
    let kind = kind.as_deref().and_then(|kind| kind.split(';').next());
    kind.map_or_else(|| "no type of content".to_owned(), plain_words)
}

/// The last cause of an error: those before it say that there was one.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    plain(&error.to_string())
}

/// An error of the system without its number.
pub(crate) fn error_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_lowercase).collect();
    plain(&format!("{first}{}", chars.as_str()))
}
