//! The node's HTTP view: what it knows, for people and for programs.
//!
//! Owns a thread, a listening socket and the answers. Must never keep a shard from its peers: it asks for small
//! pieces, one after the other, and whoever reads slowly waits for nobody but himself.

mod answer;
mod collect;
mod peers;
mod query;
mod respond;
mod routes;
mod summary;
mod vnis;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use tracing::warn;

use crate::io::Asker;
use crate::types::HostPort;
use crate::vital;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take to arrive, and an idle connection may stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take in all: the largest table needs less.
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
    #[error("cannot listen on {address} for HTTP: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The thread cannot start.
    #[error("cannot start the HTTP thread: {0}")]
    Thread(std::io::Error),
}

/// What the view is of.
#[derive(Clone)]
pub struct View {
    /// Asks the node's shards.
    pub asker: Asker,
    /// What the program is: "metalbondVersion" of the routes.
    pub version: &'static str,
}

/// A running HTTP view. Dropping it ends it.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl HttpServer {
    /// Listens on the address, or on the first one that the name has; without a host, on all.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn start(address: &HostPort, view: View) -> Result<HttpServer, HttpError> {
        let address = resolve(address)?;
        let bind = |source| HttpError::Bind { address, source };
        let listener = TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HttpError::Thread)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let body = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, Arc::new(view)) => {}
                    _ = stopped => {}
                }
            });
        };
        vital::spawn("http", body).map_err(HttpError::Thread)?;
        tracing::info!("HTTP on http://{address}");
        Ok(HttpServer { address, _stop: stop })
    }

    /// The address, with the port that it really has.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
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
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // No descriptor is free, say.
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let view = Arc::clone(&view);
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(move |request| respond::respond(Arc::clone(&view), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            // Whatever ends it concerns only who made it.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
        });
    }
}
