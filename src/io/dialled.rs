//! A server that this node connects to: what is wanted, and how it stands.
//!
//! Owns what the outside, the attempts and the connection tell each other. Must never connect by itself.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;
use tracing::info;

use super::md5::Md5Keys;
use crate::session::State;

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
    /// Those of servers whose connections are signed.
    pub keys: Md5Keys,
    pub state: Arc<ServerState>,
}

/// A server that is being connected to, or is connected.
pub(super) struct Dial {
    pub order: DialOrder,
    /// Tells the server from others, whatever its address is at the moment.
    pub number: u64,
    cancelled: Cell<bool>,
    changed: Notify,
    /// Whether it has no session, and did not get one in the last round.
    pub is_away: Cell<bool>,
}

impl Dial {
    pub(super) fn new(order: DialOrder, number: u64) -> Rc<Dial> {
        Rc::new(Dial {
            order,
            number,
            cancelled: Cell::new(false),
            changed: Notify::new(),
            is_away: Cell::new(false),
        })
    }

    /// Ends it: no further attempt.
    pub(super) fn cancel(&self) {
        self.cancelled.set(true);
        self.changed.notify_one();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Takes note of the session's state, at this address.
    pub(super) fn set_state(&self, state: State, remote: SocketAddr) {
        if state == State::Established && self.order.state.state() != State::Established {
            self.is_away.set(false);
            info!(server = %self.order.server, %remote, "established");
        }
        self.order.state.set(state);
    }

    /// What `wanted` gives, or None if it is cancelled before.
    pub(super) async fn unless_cancelled<T>(&self, wanted: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(wanted);
        while !self.is_cancelled() {
            tokio::select! {
                outcome = &mut wanted => return Some(outcome),
                () = self.changed.notified() => {}
            }
        }
        None
    }
}
