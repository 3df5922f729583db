//! Connections that this node makes: to servers, again and again, for as long as it wants them.
//!
//! Owns attempts, their limits and the pauses between them. Must never have two connections to one
//! server at a time.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::{Notify, oneshot};
use tracing::{info, warn};

use super::listener;
use super::worker::Worker;
use crate::session::State;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between attempts: this, and up to as much again, so that a fleet does not come back all at
/// once.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// What the outside knows of a connection to a server.
#[derive(Debug)]
pub struct ServerState(AtomicU8);

impl Default for ServerState {
    fn default() -> ServerState {
        ServerState(AtomicU8::new(State::Connecting as u8))
    }
}

impl ServerState {
    /// The state now.
    pub fn state(&self) -> State {
        let number = self.0.load(Ordering::Relaxed);
        State::ALL.into_iter().find(|&state| state as u8 == number).unwrap_or(State::Closed)
    }

    pub(super) fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Relaxed);
    }
}

/// A server to be connected to.
#[derive(Clone, Debug)]
pub(super) struct DialOrder {
    /// Name or address, and port.
    pub server: String,
    /// The address to connect from.
    pub local_ip: Option<IpAddr>,
    /// See [`ServerConfig::segment_bytes_max`](super::ServerConfig::segment_bytes_max).
    pub segment_bytes_max: u16,
    pub state: Arc<ServerState>,
}

/// A server that is being connected to, or is connected.
pub(super) struct Dial {
    pub order: DialOrder,
    /// Tells the server from others, whatever its address is at the moment.
    pub number: u64,
    cancelled: Cell<bool>,
    pub changed: Notify,
}

impl Dial {
    pub(super) fn new(order: DialOrder, number: u64) -> Rc<Dial> {
        Rc::new(Dial { order, number, cancelled: Cell::new(false), changed: Notify::new() })
    }

    /// Ends it: no further attempt.
    pub(super) fn cancel(&self) {
        self.cancelled.set(true);
        self.changed.notify_one();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }
}

/// Connects, waits for the connection's end, and begins anew, until cancelled.
pub(super) async fn dial_loop(worker: Rc<Worker>, dial: Rc<Dial>) {
    let DialOrder { server, local_ip, segment_bytes_max, state } = &dial.order;
    let mut failures = 0u32;
    while !dial.is_cancelled() {
        state.set(State::Connecting);
        let connected = tokio::select! {
            connected = connect(server, *local_ip, *segment_bytes_max) => connected,
            // For the cancelled alone.
            () = dial.changed.notified() => break,
        };
        match connected {
            Ok((stream, remote)) if !dial.is_cancelled() => {
                failures = 0;
                info!(%server, %remote, "connected");
                let closed = worker.add_server(stream, remote, Rc::clone(&dial));
                closed.notified().await;
                if !dial.is_cancelled() {
                    warn!(%server, %remote, "the server is lost: connecting again");
                }
            }
            Ok(_) => break,
            Err(error) => {
                failures += 1;
                if failures.is_power_of_two() {
                    warn!(%server, %error, failures, "cannot connect: trying on");
                }
            }
        }
        if !dial.is_cancelled() {
            state.set(State::Retry);
            let share = RandomState::new().hash_one(failures) as u32;
            let pause = RETRY_INTERVAL + RETRY_INTERVAL * (share >> 16) / (1 << 16);
            // Waking early is for the cancelled; anybody else tries a little sooner.
            let _ = tokio::time::timeout(pause, dial.changed.notified()).await;
        }
    }
    state.set(State::Closed);
}

/// One attempt: the name is resolved each time, and its addresses are tried in order, each within the
/// limit: one that swallows packets must not take the time of those behind it.
async fn connect(
    server: &str,
    local_ip: Option<IpAddr>,
    segment_bytes_max: u16,
) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let addresses = within_limit(resolve(server)).await?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for remote in addresses {
        match within_limit(connect_to(remote, local_ip, segment_bytes_max)).await {
            Ok(stream) => return Ok((stream, remote)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// On a thread that nobody waits for: a name server that is away would hold up the runtime's end.
async fn resolve(server: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = server.parse() {
        return Ok(vec![address]);
    }
    let (found, addresses) = oneshot::channel();
    let server = server.to_owned();
    thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        let _ = found.send(server.to_socket_addrs().map(Vec::from_iter));
    })?;
    addresses.await.unwrap_or_else(|_| Err(io::Error::other("the resolver failed")))
}

async fn within_limit<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s")),
    }
}

async fn connect_to(
    remote: SocketAddr,
    local_ip: Option<IpAddr>,
    segment_bytes_max: u16,
) -> io::Result<std::net::TcpStream> {
    let socket = if remote.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    listener::limit_segments(&socket, remote, segment_bytes_max)?;
    if let Some(local_ip) = local_ip {
        socket.bind(SocketAddr::new(local_ip, 0))?;
    }
    let stream = socket.connect(remote).await?.into_std()?;
    // The ring waits for operations itself.
    stream.set_nonblocking(false)?;
    Ok(stream)
}
