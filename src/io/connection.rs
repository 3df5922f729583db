//! One peer's two tasks: one that reads and one that writes.
//!
//! Owns the two loops. Must never wait for a read or a send together with anything else: an operation
//! that is given up stays in flight and swallows bytes. What ends a read is `shutdown`, or `cancel`.

use std::cell::Cell;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::debug;

use super::buffers::ReadBuffer;
use super::dialled::Dial;
use super::door::Place;
use super::letter::Arrival;
use super::socket::Connection;
use super::worker::Worker;
use super::{cancel, listener, send};
use crate::shard::{SessionEnd, TcpSample, Transmit};
use crate::types::PeerId;
use crate::vital::EndOnPanic;

/// How long a peer may take to close its side after we have closed ours.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes a peer that was accepted.
pub(super) fn add_peer(
    worker: &Rc<Worker>,
    socket: std::net::TcpStream,
    remote: SocketAddr,
    place: Place,
) {
    if let Err(error) = listener::prepare(&socket) {
        debug!(%remote, %error, "connection lost before its start");
        return;
    }
    let id = worker.shard().accept(worker.now(), remote);
    debug!(%remote, %id, "connection opened");
    start_tasks(Rc::clone(worker), Rc::new(Connection::new(id, remote, socket, place, None)));
}

/// Drives a connection that comes from another process, which has set its options.
pub(super) fn take_over(worker: &Rc<Worker>, id: PeerId, arrival: Arrival) {
    let Arrival { socket, remote, place } = arrival;
    debug!(%remote, %id, "connection taken over");
    let connection = Connection::new(id, remote, socket, place, None);
    if let Some(state) = worker.shard().session_state(id) {
        connection.set_state(state);
    }
    start_tasks(Rc::clone(worker), Rc::new(connection));
}

/// A connection to a server was made. What is returned tells when and how it has ended.
pub(super) fn add_server(
    worker: &Rc<Worker>,
    socket: std::net::TcpStream,
    remote: SocketAddr,
    dial: Rc<Dial>,
) -> oneshot::Receiver<SessionEnd> {
    let (sender, ended) = oneshot::channel();
    if let Err(error) = listener::prepare(&socket) {
        debug!(%remote, %error, "connection lost before its start");
        return ended;
    }
    let place = Place::new(&worker.peers, None);
    let id = worker.shard().dialled(worker.now(), remote, dial.number);
    let mut connection = Connection::new(id, remote, socket, place, Some(dial));
    connection.ended = Cell::new(Some(sender));
    start_tasks(Rc::clone(worker), Rc::new(connection));
    worker.want_turn();
    ended
}

/// Reads until the end, then closes. Ends by EOF, error or [`Connection::close`].
async fn read_loop(worker: &Worker, connection: &Connection) {
    let id = connection.id();
    let mut buffer = ReadBuffer::small();
    let result = loop {
        while !worker.shard().wants_read(id) && !connection.is_closed() {
            connection.reader.notified().await;
        }
        if connection.is_closed() {
            break Ok(());
        }
        let read = connection.stream().read(buffer.into_bytes());
        let (result, bytes) = worker.counted(read).await;
        match result {
            Ok(length) if length > 0 => {
                worker.shard().receive(worker.now(), id, &bytes[..length]);
                worker.want_turn();
                buffer = worker.buffers().next(bytes, length);
            }
            Err(error) if cancel::is_cancelled(&error) => {
                worker.buffers().give_back(bytes);
                buffer = ReadBuffer::small();
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
async fn write_loop(worker: &Worker, connection: &Rc<Connection>) {
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
                let result = worker.counted(send::send(Rc::clone(connection), piece)).await;
                worker.want_turn();
                match result {
                    // What is left is sent after the turn, together with what that one brings.
                    Ok(length) => worker.shard().transmitted(worker.now(), id, length),
                    Err(error) if cancel::is_cancelled(&error) => {
                        worker.shard().transmitted(worker.now(), id, 0);
                    }
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

fn start_tasks(worker: Rc<Worker>, connection: Rc<Connection>) {
    worker.connections.borrow_mut().insert(Rc::clone(&connection));
    let (for_reader, reader) = (Rc::clone(&worker), Rc::clone(&connection));
    tokio_uring::spawn(async move {
        let _end = EndOnPanic;
        read_loop(&for_reader, &reader).await;
        for_reader.task_ended(reader);
    });
    tokio_uring::spawn(async move {
        let _end = EndOnPanic;
        write_loop(&worker, &connection).await;
        worker.task_ended(connection);
    });
}

/// Tells the peer that nothing more comes, and gives it a while to close as well.
async fn finish(connection: &Connection) {
    if connection.stream().shutdown(Shutdown::Write).is_ok() {
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
