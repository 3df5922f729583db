//! One peer's connection, as its two tasks and the turn share it.
//!
//! Owns the life of the socket. Must never read or send by itself.

use std::cell::{Cell, RefCell};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;

use tokio::sync::{Notify, oneshot};
use tokio_uring::net::TcpStream;

use super::dialled::Dial;
use super::door::Place;
use super::sys;
use crate::session::State;
use crate::shard::{SessionEnd, TcpSample};
use crate::types::PeerId;

/// A peer's socket, shared by its two tasks and the operation in flight.
pub(super) struct Connection {
    id: PeerId,
    remote: SocketAddr,
    stream: TcpStream,
    /// Woken when the core has something to send, and by [`Connection::close`].
    pub(super) writer: Notify,
    /// Woken when the core wants bytes again, and by [`Connection::close`].
    pub(super) reader: Notify,
    /// Taken when both tasks have ended.
    pub(super) place: RefCell<Option<Place>>,
    /// Set if we dialled.
    pub(super) dial: Option<Rc<Dial>>,
    /// Told when both tasks have ended.
    pub(super) ended: Cell<Option<oneshot::Sender<SessionEnd>>>,
    closed: Cell<bool>,
    tasks: Cell<u8>,
}

impl Connection {
    /// The connection of a peer whose two tasks are about to start.
    pub(super) fn new(
        id: PeerId,
        remote: SocketAddr,
        stream: std::net::TcpStream,
        place: Place,
        dial: Option<Rc<Dial>>,
    ) -> Connection {
        Connection {
            id,
            remote,
            stream: TcpStream::from_std(stream),
            writer: Notify::new(),
            reader: Notify::new(),
            place: RefCell::new(Some(place)),
            dial,
            ended: Cell::new(None),
            closed: Cell::new(false),
            tasks: Cell::new(2),
        }
    }

    /// The peer's id.
    pub(super) fn id(&self) -> PeerId {
        self.id
    }

    /// The peer's address.
    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The socket.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Ends both directions: a read in flight completes with 0, a send with an error, both tasks end.
    pub(super) fn close(&self) {
        if !self.closed.replace(true) {
            // Fails if the peer has reset the connection; the operations complete then, too.
            let _ = self.stream.shutdown(Shutdown::Both);
            self.writer.notify_one();
            self.reader.notify_one();
        }
    }

    /// Takes note of the session's state.
    pub(super) fn set_state(&self, state: State) {
        if let Some(place) = &mut *self.place.borrow_mut()
            && state == State::Established
        {
            place.established();
        }
        if let Some(dial) = &self.dial {
            dial.set_state(state, self.remote);
        }
    }

    /// Counts a task that ended; true for the last one.
    pub(super) fn task_ended(&self) -> bool {
        self.tasks.set(self.tasks.get() - 1);
        self.tasks.get() == 0
    }

    /// TCP_INFO now. A dead socket tells nothing; its reader will.
    pub(super) fn sample(&self) -> TcpSample {
        sys::tcp_sample(self.socket()).unwrap_or_default()
    }

    /// TCP_INFO now, if all is acknowledged that was sent.
    pub(super) fn sample_if_acknowledged(&self) -> Option<TcpSample> {
        let unacknowledged = sys::unacknowledged_bytes(self.socket()).unwrap_or(0);
        (unacknowledged == 0).then(|| self.sample())
    }

    /// The socket's descriptor.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: `stream` owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }

    /// Whether [`Connection::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }
}
