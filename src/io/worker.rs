//! What the tasks of a shard's thread share: the core, the connections, the clock.
//!
//! Owns the core of one shard and hands it the time. Must never hold the core across an await.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tracing::debug;

use super::buffers::BufferPool;
use super::clock::Clock;
use super::dialled::Dial;
use super::letter::Letter;
use super::socket::Connection;
use crate::shard::{Shard, Wake};
use crate::types::{PeerId, Time};

/// Writers that one turn sets off. Their SENDs go out before the next turn, which takes in what was read
/// meanwhile; and what they gather stays in the processor's cache.
const WRITERS_PER_TURN: usize = 128;

/// A shard's thread from inside: what its tasks share.
pub(super) struct Worker {
    shard: RefCell<Shard>,
    pub(super) clock: Clock,
    pub(super) turn: Notify,
    /// When the turn loop wakes by itself.
    pub(super) alarm_at: Cell<Time>,
    buffers: BufferPool,
    pub(super) connections: RefCell<Connections>,
    /// Wakes the feed of the node's own route client.
    feed: Notify,
    pub(super) dials: RefCell<Vec<Rc<Dial>>>,
    pub(super) dials_made: Cell<u64>,
    shards: Vec<UnboundedSender<Letter>>,
    /// Counts connections; see [`Place`](super::door::Place).
    pub(super) peers: Arc<AtomicUsize>,
    /// Reads and sends that the ring has.
    pub(super) in_flight: Cell<usize>,
    /// Nothing is read or sent, for another process is about to take over.
    pub(super) is_frozen: Cell<bool>,
}

impl Worker {
    /// Of a shard that has not taken a turn yet; `shards` are the mailboxes of all, by index.
    pub(super) fn new(
        shard: Shard,
        clock: Clock,
        shards: Vec<UnboundedSender<Letter>>,
        peers: Arc<AtomicUsize>,
    ) -> Worker {
        Worker {
            shard: RefCell::new(shard),
            clock,
            turn: Notify::new(),
            alarm_at: Cell::new(Time::default()),
            buffers: BufferPool::default(),
            connections: RefCell::new(Connections::default()),
            feed: Notify::new(),
            dials: RefCell::new(Vec::new()),
            dials_made: Cell::new(1),
            shards,
            peers,
            in_flight: Cell::new(0),
            is_frozen: Cell::new(false),
        }
    }

    /// The core, for one call.
    pub(super) fn shard(&self) -> RefMut<'_, Shard> {
        self.shard.borrow_mut()
    }

    /// The time now.
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// The shard's read buffers.
    pub(super) fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    /// Does what the ring does, counted meanwhile.
    pub(super) async fn counted<T>(&self, operation: impl Future<Output = T>) -> T {
        self.in_flight.set(self.in_flight.get() + 1);
        let done = operation.await;
        self.in_flight.set(self.in_flight.get() - 1);
        done
    }

    /// Asks for a turn: one for all who ask before it begins.
    pub(super) fn want_turn(&self) {
        self.turn.notify_one();
    }

    /// A writer may have set a timer since the turn: sees to it that it does not come late.
    pub(super) fn want_turn_by(&self, wakeup: Time) {
        if wakeup < self.alarm_at.get() {
            self.want_turn();
        }
    }

    /// One turn of the core and what it brings about, after letters were opened from `begun_at` on. True if it wants
    /// another one soon.
    pub(super) fn take_turn(&self, begun_at: Time) -> bool {
        let mut shard = self.shard();
        let mut work_left = shard.turn(self.now());
        while let Some((to, mail)) = shard.take_mail() {
            // Fails when that shard has stopped already: nobody is left there to tell.
            let _ = self.shards[to.index()].send(Letter::Mail(mail));
        }
        let connections = self.connections.borrow();
        while let Some((peer, wake)) = shard.take_woken() {
            let Some(connection) = connections.find(peer) else { continue };
            match wake {
                Wake::Read => connection.reader.notify_one(),
                Wake::Close => connection.close(),
                Wake::State => {
                    if let Some(state) = shard.session_state(peer) {
                        connection.set_state(state);
                    }
                }
                Wake::Sample => shard.sampled(self.now(), peer, connection.sample()),
                Wake::Poll => {
                    let sample = match shard.wants_look(peer) {
                        true => Some(connection.sample()),
                        false => connection.sample_if_acknowledged(),
                    };
                    // The time after that: what is seen was so by then.
                    shard.polled(self.now(), peer, sample);
                }
            }
        }
        for _ in 0..WRITERS_PER_TURN {
            let Some(peer) = shard.take_writer() else { break };
            match connections.find(peer) {
                Some(connection) => connection.writer.notify_one(),
                // The only peer without a connection.
                None => self.feed.notify_one(),
            }
        }
        work_left |= shard.has_writers();
        let now = self.now();
        shard.note_turn(now.since(begun_at));
        // A wakeup that is due already must not spin between the timer and here.
        work_left |= shard.next_wakeup() <= now;
        work_left
    }

    /// Waits until the core has something for the node's route client.
    pub(super) async fn feed_woken(&self) {
        self.feed.notified().await;
    }

    /// A server could not be reached, or is lost.
    pub(super) fn server_away(&self, dial: &Dial) {
        dial.is_away.set(true);
        if self.dials.borrow().iter().all(|dial| dial.is_away.get()) {
            self.shard().servers_away(self.now());
            self.want_turn();
        }
    }

    pub(super) fn hang_up(&self, server: &str) {
        self.dials.borrow_mut().retain(|dial| {
            if dial.order.server == server {
                dial.cancel();
                self.shard().forget_server(self.now(), dial.number);
            }
            !dial.is_cancelled()
        });
        self.want_turn();
        for connection in self.connections.borrow().slots.iter().flatten() {
            if connection.dial.as_ref().is_some_and(|dial| dial.is_cancelled()) {
                self.shard().hang_up(self.now(), connection.id());
                connection.close();
            }
        }
    }

    /// The last of a connection's two tasks closes the socket and releases the peer.
    pub(super) fn task_ended(&self, connection: Rc<Connection>) {
        if !connection.task_ended() {
            return;
        }
        let (id, remote, ended) = (connection.id(), connection.remote(), connection.ended.take());
        let place = connection.place.take();
        self.connections.borrow_mut().remove(id);
        drop(connection);
        let end = self.shard().release(self.now(), id);
        drop(place);
        debug!(%remote, %id, "connection closed");
        if let (Some(ended), Some(end)) = (ended, end) {
            // Fails if nobody waits: it was cancelled.
            let _ = ended.send(end);
        }
        self.want_turn();
    }
}

/// The connections of a shard, by the slot in their ids.
#[derive(Default)]
pub(super) struct Connections {
    slots: Vec<Option<Rc<Connection>>>,
    count: usize,
}

impl Connections {
    pub(super) fn insert(&mut self, connection: Rc<Connection>) {
        let slot = connection.id().slot() as usize;
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        assert!(
            self.slots[slot].replace(connection).is_none(),
            "the slot of a living connection was given out again"
        );
        self.count += 1;
    }

    /// None for a peer whose connection has ended in the meantime.
    pub(super) fn find(&self, id: PeerId) -> Option<&Rc<Connection>> {
        let connection = self.slots.get(id.slot() as usize)?.as_ref()?;
        (connection.id() == id).then_some(connection)
    }

    fn remove(&mut self, id: PeerId) {
        assert!(self.find(id).is_some(), "a connection ends once");
        self.slots[id.slot() as usize] = None;
        self.count -= 1;
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Has all tasks look again what there is to do.
    pub(super) fn wake_all(&self) {
        for connection in self.slots.iter().flatten() {
            connection.reader.notify_one();
            connection.writer.notify_one();
        }
    }

    /// Whether the tasks of some are about to end.
    pub(super) fn is_any_closed(&self) -> bool {
        self.slots.iter().flatten().any(|connection| connection.is_closed())
    }

    pub(super) fn close_all(&self) {
        for connection in self.slots.iter().flatten() {
            connection.close();
        }
    }
}
