//! The node's HTTP view: what it knows, for people and for programs.
//!
//! Owns a thread, a listening socket and the answers. Must never keep a shard from its peers: it asks for small
//! pieces, one after the other, and whoever reads slowly waits for nobody but himself.

mod answer;
mod collect;
#[cfg(feature = "fabric")]
mod fabric;
mod history;
mod metrics;
mod out;
mod page;
mod peers;
mod query;
mod ready;
mod respond;
mod routes;
mod summary;
mod totals;
mod visibility;
mod vnis;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::warn;

#[cfg(feature = "cli")]
pub(crate) use self::query::{is_peer, is_prefix};
use crate::io::{self, Asker, ServeError};
use crate::kernel::{self, KernelWatch};
use crate::session::State;
use crate::types::{HostPort, Time};
use crate::vital;

use history::History;

/// Connections at a time; more wait until one has ended, or is old enough to make room.
const CONNECTIONS_MAX: usize = 128;
/// Tables that are told at a time: each may take much memory, and its reader a long time.
const TABLES_MAX: usize = 2;
/// Pages that look at all peers, that are made at a time; others wait.
const WALKS_MAX: usize = 4;
/// From this age on a connection makes room for a new one, if there are as many as there may be: nobody who reads
/// slowly is to keep health checks out, and even less who has not asked anything yet.
const AGE_SPARED: Duration = Duration::from_secs(10);
const AGE_SPARED_UNASKED: Duration = Duration::from_millis(250);
/// How long a request's head may take to arrive, and an idle connection may stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take in all, which is for one answer. One that takes longer is cut short.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// How long to wait when a connection cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no HTTP view.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The name means nothing.
    #[error("cannot find out the address of {address}: {source}")]
    Resolve {
        /// What was given.
        address: HostPort,
        /// What the resolver says.
        source: std::io::Error,
    },
    /// The name has no address.
    #[error("{0} has no address")]
    NoAddress(HostPort),
    /// The address cannot be had.
    #[error(transparent)]
    Bind(#[from] ServeError),
    /// The thread cannot start.
    #[error("cannot start the HTTP thread: {0}")]
    Thread(std::io::Error),
}

/// Tells how the servers stand that a client connects to.
pub type Servers = Arc<dyn Fn() -> Vec<State> + Send + Sync>;

/// What the view is of.
#[derive(Clone)]
pub struct View {
    asker: Asker,
    version: &'static str,
    started_at: SystemTime,
    metrics_per_peer: bool,
    servers: Option<Servers>,
    kernel: Option<KernelWatch>,
    /// Tables that may be told.
    tables: Arc<Semaphore>,
    /// Pages that look at all peers.
    walks: Arc<Semaphore>,
    history: Arc<History>,
}

impl View {
    /// Of the node whose shards `asker` asks; `version` is "metalbondVersion" of the routes.
    pub fn new(asker: Asker, version: &'static str) -> View {
        View {
            version,
            started_at: asker.wall_clock(Time::default()),
            metrics_per_peer: false,
            servers: None,
            kernel: None,
            tables: Arc::new(Semaphore::new(TABLES_MAX)),
            walks: Arc::new(Semaphore::new(WALKS_MAX)),
            asker,
            history: Arc::default(),
        }
    }

    /// `/metrics` has series for each peer.
    #[must_use]
    pub fn with_metrics_per_peer(self) -> View {
        View { metrics_per_peer: true, ..self }
    }

    /// Of a node that connects to servers.
    #[must_use]
    pub fn with_servers(self, servers: Servers) -> View {
        View { servers: Some(servers), ..self }
    }

    /// Of a node that installs routes in the kernel.
    #[must_use]
    pub fn with_kernel(self, kernel: Option<KernelWatch>) -> View {
        View { kernel, ..self }
    }

    /// What the node is called by: where it listens.
    fn local(&self) -> String {
        let listening = self.asker.local_addresses().first();
        listening.map_or_else(|| "client".to_owned(), SocketAddr::to_string)
    }

    fn servers(&self) -> Vec<State> {
        self.servers.as_ref().map(|servers| servers()).unwrap_or_default()
    }

    fn kernel_counters(&self) -> Option<kernel::Counters> {
        self.kernel.as_ref().map(KernelWatch::counters)
    }
}

/// An address that nobody answers on yet.
#[derive(Debug)]
pub struct HttpListener {
    listener: TcpListener,
    address: SocketAddr,
}

/// A running HTTP view. Dropping it ends it, and waits for that.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpListener {
    /// Listens on the address, or on the first one that the name has; without a host, on all.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn bind(address: &HostPort) -> Result<HttpListener, HttpError> {
        HttpListener::bind_or_inherit(address, |_| None)
    }

    /// The same with a socket of another process, if that one has it at the address.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn bind_or_inherit(
        address: &HostPort,
        inherit: impl FnOnce(SocketAddr) -> Option<TcpListener>,
    ) -> Result<HttpListener, HttpError> {
        let address = resolve(address)?;
        let listener = match inherit(address) {
            Some(listener) => listener,
            // As peers are listened to, IPv4 alone where there is no IPv6 too.
            None => io::listen(address, 0, &io::Md5Keys::default())?,
        };
        let address = listener.local_addr().unwrap_or(address);
        Ok(HttpListener { listener, address })
    }

    /// Its socket once more, for another process.
    ///
    /// # Errors
    /// [`HttpError::Thread`] if there is no descriptor left.
    pub fn socket(&self) -> Result<TcpListener, HttpError> {
        self.listener.try_clone().map_err(HttpError::Thread)
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// [`HttpError::Thread`].
    pub fn serve(self, view: View) -> Result<HttpServer, HttpError> {
        let HttpListener { listener, address } = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HttpError::Thread)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let body = move || {
            runtime.block_on(async {
                let view = Arc::new(view);
                tokio::select! {
                    () = serve(listener, Arc::clone(&view)) => {}
                    () = history::keep(&view) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = vital::spawn("http", body).map_err(HttpError::Thread)?;
        tracing::info!("HTTP on http://{address}");
        Ok(HttpServer { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl HttpServer {
    /// The address, with the port that it really has.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // Its panic would have ended the process.
            let _ = thread.join();
        }
    }
}

fn resolve(address: &HostPort) -> Result<SocketAddr, HttpError> {
    let host = if address.host.is_empty() { "::" } else { &address.host };
    let mut found = (host, address.port)
        .to_socket_addrs()
        .map_err(|source| HttpError::Resolve { address: address.clone(), source })?;
    found.next().ok_or_else(|| HttpError::NoAddress(address.clone()))
}

async fn serve(listener: TcpListener, view: Arc<View>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "no HTTP: cannot watch the socket"),
    };
    let mut connections = Connections::default();
    loop {
        connections.make_room().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // No descriptor is free, say.
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let view = Arc::clone(&view);
        let has_asked = Arc::<AtomicBool>::default();
        connections.add(Arc::clone(&has_asked), async move {
            let _end = vital::EndOnPanic;
            let answer = service_fn(move |request| {
                has_asked.store(true, Ordering::Relaxed);
                respond::respond(Arc::clone(&view), request)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            // Whatever ends it concerns only who made it.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
        });
    }
}

/// Connections that are being answered.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first; those that have ended too.
    begun: VecDeque<Begun>,
}

struct Begun {
    at: Instant,
    has_asked: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Begun {
    /// From when on it makes room.
    fn spared_until(&self) -> Instant {
        let has_asked = self.has_asked.load(Ordering::Relaxed);
        self.at + if has_asked { AGE_SPARED } else { AGE_SPARED_UNASKED }
    }
}

impl Connections {
    fn add(
        &mut self,
        has_asked: Arc<AtomicBool>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.tasks.spawn(connection);
        self.begun.push_back(Begun { at: Instant::now(), has_asked, task });
    }

    /// Waits until there is room for one more.
    async fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        while self.tasks.len() >= CONNECTIONS_MAX {
            self.begun.retain(|begun| !begun.task.is_finished());
            let Some(first) = self.begun.iter().min_by_key(|begun| begun.spared_until()) else {
                return;
            };
            tokio::select! {
                _ = self.tasks.join_next() => {}
                () = tokio::time::sleep_until(first.spared_until()) => {
                    first.task.abort();
                    let _ = self.tasks.join_next().await;
                }
            }
        }
        if self.begun.len() > 2 * CONNECTIONS_MAX {
            self.begun.retain(|begun| !begun.task.is_finished());
        }
    }
}
