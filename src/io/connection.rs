//! One peer's socket: a task that reads and a task that writes.
//!
//! Owns the two loops and the life of the socket. Must never wait for a read or a send together with
//! anything else: an operation that is given up stays in flight and swallows bytes. What ends a read is
//! `shutdown`.

use std::cell::Cell;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio_uring::net::TcpStream;

use super::buffers::ReadBuffer;
use super::dial::Dial;
use super::send;
use super::sys;
use super::worker::Worker;
use crate::shard::{SessionEnd, TcpSample, Transmit};
use crate::types::PeerId;

/// How long a peer may take to close its side after we have closed ours.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// A peer's socket, shared by its two tasks and the operation in flight.
pub(super) struct Connection {
    id: PeerId,
    remote: SocketAddr,
    stream: TcpStream,
    /// Woken when the core has something to send, and by [`Connection::close`].
    pub(super) writer: Notify,
    /// Woken when the core wants bytes again, and by [`Connection::close`].
    pub(super) reader: Notify,
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
        dial: Option<Rc<Dial>>,
    ) -> Connection {
        Connection {
            id,
            remote,
            stream: TcpStream::from_std(stream),
            writer: Notify::new(),
            reader: Notify::new(),
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

    /// Counts a task that ended; true for the last one.
    pub(super) fn task_ended(&self) -> bool {
        self.tasks.set(self.tasks.get() - 1);
        self.tasks.get() == 0
    }

    /// TCP_INFO now. A dead socket gives zeros; its reader will tell.
    pub(super) fn sample(&self) -> TcpSample {
        // SAFETY: `stream` owns the descriptor and outlives the borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) };
        sys::tcp_sample(socket.as_fd()).unwrap_or_default()
    }

    fn is_closed(&self) -> bool {
        self.closed.get()
    }
}

/// Reads until the end, then closes. Ends by EOF, error or [`Connection::close`].
pub(super) async fn read_loop(worker: &Worker, connection: &Connection) {
    let id = connection.id();
    let mut buffer = ReadBuffer::small();
    let result = loop {
        while !worker.shard().wants_read(id) && !connection.is_closed() {
            connection.reader.notified().await;
        }
        if connection.is_closed() {
            break Ok(());
        }
        let (result, bytes) = connection.stream.read(buffer.into_bytes()).await;
        match result {
            Ok(length) if length > 0 => {
                worker.shard().receive(worker.now(), id, &bytes[..length]);
                worker.want_turn();
                buffer = worker.buffers().next(bytes, length);
            }
            end => {
                worker.buffers().give_back(bytes);
                break end.map(|_| ());
            }
        }
    };
    worker.shard().read_ended(worker.now(), id, result);
    worker.want_turn();
    connection.close();
}

/// Sends what the core has, one piece at a time, until the core finishes or the connection is closed.
pub(super) async fn write_loop(worker: &Worker, connection: &Rc<Connection>) {
    let id = connection.id();
    while !connection.is_closed() {
        let transmit = {
            let mut shard = worker.shard();
            let now = worker.now();
            let sample = match shard.wants_sample(now, id) {
                true => connection.sample(),
                false => TcpSample::default(),
            };
            let transmit = shard.transmit(now, id, sample);
            worker.want_turn_by(shard.next_wakeup());
            transmit
        };
        match transmit {
            Transmit::Send(piece) => {
                let result = send::send(Rc::clone(connection), piece).await;
                worker.want_turn();
                match result {
                    // What is left is sent after the turn, together with what that one brings.
                    Ok(length) => worker.shard().transmitted(worker.now(), id, length),
                    Err(error) => {
                        worker.shard().transmit_failed(worker.now(), id, &error);
                        connection.close();
                    }
                }
            }
            Transmit::Idle => {}
            // Boxed: its timer would make every idle writer larger.
            Transmit::Finish => return Box::pin(finish(connection)).await,
        }
        if !connection.is_closed() {
            connection.writer.notified().await;
        }
    }
}

/// Tells the peer that nothing more comes, and gives it a while to close as well.
async fn finish(connection: &Connection) {
    if connection.stream.shutdown(Shutdown::Write).is_ok() {
        let deadline = tokio::time::sleep(FINISH_TIMEOUT);
        tokio::pin!(deadline);
        while !connection.is_closed() {
            tokio::select! {
                () = connection.writer.notified() => {}
                () = &mut deadline => break,
            }
        }
    }
    connection.close();
}
