//! A shard's thread: its ring, its mailbox and the turn.
//!
//! Owns the core of one shard and hands it events and the time. Must never hold the core across an
//! await, and never run turn after turn without letting the ring submit in between.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, oneshot};
use tracing::debug;

use super::buffers::BufferPool;
use super::clock::Clock;
use super::connection::{self, Connection};
use super::dial::{self, Dial, DialOrder};
use super::feed::{self, FeedSink};
use super::listener;
use super::probe;
use crate::shard::{Mail, SessionEnd, Shard, ShardConfig, Wake};
use crate::types::{PeerId, Time};
use crate::vital::EndOnPanic;

/// How long sockets may take to end after [`Letter::Stop`] has shut them down.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Writers that one turn sets off. Their SENDs go out before the next turn, which takes in what was read
/// meanwhile; and what they gather stays in the processor's cache.
const WRITERS_PER_TURN: usize = 128;

/// What another thread wants done with a core, on the core's thread.
type Call = Box<dyn FnOnce(&mut Shard, Time) + Send>;

/// What a shard's thread is sent.
pub(super) enum Letter {
    /// A block of mail from another shard.
    Mail(Mail),
    /// A peer that the acceptor gave to this shard.
    Socket(std::net::TcpStream, SocketAddr),
    /// The node's route client: this shard feeds it, and dials its servers.
    Attach(FeedSink),
    /// Connect to a server, and stay connected.
    Dial(DialOrder),
    /// No longer connect to this server.
    HangUp(String),
    /// Something to do with the core.
    Call(Call),
    /// What closes from now on withdraws nothing. Dropped when that is so.
    StopWithdrawing(UnboundedSender<()>),
    /// Finish with all peers gracefully.
    Drain,
    /// Close what is left, and end the thread.
    Stop,
}

/// What a shard's thread starts with.
pub(super) struct WorkerStart {
    pub(super) shard: ShardConfig,
    pub(super) clock: Clock,
    pub(super) mailbox: UnboundedReceiver<Letter>,
    /// The mailboxes of all shards, by index.
    pub(super) shards: Vec<UnboundedSender<Letter>>,
    /// Sockets that this shard was given and has not released: counted up by the acceptor.
    pub(super) peers: Arc<AtomicUsize>,
    /// Told once whether the ring could be set up.
    pub(super) ready: Sender<io::Result<()>>,
    /// Dropped when the thread ends.
    pub(super) ended: UnboundedSender<()>,
}

/// Runs a shard until [`Letter::Stop`]: the body of its thread.
pub(super) fn run(start: WorkerStart) {
    let runtime = match tokio_uring::Runtime::new(&probe::runtime_builder()) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = start.ready.send(Err(error));
            return;
        }
    };
    let _ = start.ready.send(Ok(()));
    let worker = Rc::new(Worker {
        shard: RefCell::new(Shard::new(start.shard, start.clock.now())),
        clock: start.clock,
        turn: Notify::new(),
        alarm_at: Cell::new(Time::default()),
        buffers: BufferPool::default(),
        connections: RefCell::new(Connections::default()),
        feed: Notify::new(),
        dials: RefCell::new(Vec::new()),
        dials_made: Cell::new(1),
        shards: start.shards,
        peers: start.peers,
    });
    runtime.block_on(async {
        // A task among the others, or it would be polled before what completed together.
        let turns = tokio_uring::spawn(async move {
            let _end = EndOnPanic;
            worker.turn_loop(start.mailbox).await;
        });
        let _ = turns.await;
    });
    drop(runtime);
    drop(start.ended);
}

/// A shard's thread from inside: what its tasks share.
pub(super) struct Worker {
    shard: RefCell<Shard>,
    clock: Clock,
    turn: Notify,
    /// When the turn loop wakes by itself.
    alarm_at: Cell<Time>,
    buffers: BufferPool,
    connections: RefCell<Connections>,
    /// Wakes the feed of the node's own route client.
    feed: Notify,
    dials: RefCell<Vec<Rc<Dial>>>,
    dials_made: Cell<u64>,
    shards: Vec<UnboundedSender<Letter>>,
    peers: Arc<AtomicUsize>,
}

impl Worker {
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

    async fn turn_loop(self: Rc<Self>, mut mailbox: UnboundedReceiver<Letter>) {
        let alarm = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(alarm);
        let mut stop_deadline = None;
        let mut work_left = true;
        loop {
            let mut mailed = false;
            if !work_left {
                tokio::select! {
                    letter = mailbox.recv() => {
                        // Never None: this thread holds a sender to itself.
                        if let Some(letter) = letter {
                            mailed = true;
                            self.open(letter, &mut stop_deadline);
                        }
                    }
                    () = self.turn.notified() => {}
                    () = &mut alarm => self.alarm_at.set(Time::default()),
                }
            }
            behind_the_ready().await;
            while let Ok(letter) = mailbox.try_recv() {
                mailed = true;
                self.open(letter, &mut stop_deadline);
            }
            work_left = self.take_turn();
            if let Some(stop_deadline) = stop_deadline
                && (self.connections.borrow().count == 0 || self.now() >= stop_deadline)
            {
                return;
            }
            if work_left || mailed {
                // Only a thread that parks submits its operations; the no-op completes after that. (A
                // neighbour that always has mail for us must not keep us from it either.)
                let _ = tokio_uring::no_op().await;
            }
            let wakeup = self.shard().next_wakeup().min(stop_deadline.unwrap_or(Time::NEVER));
            if self.alarm_at.replace(wakeup) != wakeup {
                alarm.as_mut().reset(self.clock.instant_of(wakeup));
            }
        }
    }

    /// One turn of the core and what it brings about. True if it wants another one soon.
    fn take_turn(&self) -> bool {
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
                    let state = shard.session_state(peer);
                    if let (Some(dial), Some(state)) = (&connection.dial, state) {
                        dial.set_state(state, connection.remote());
                    }
                }
                Wake::Sample => shard.sampled(self.now(), peer, connection.sample()),
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
        // A wakeup that is due already must not spin between the timer and here.
        work_left |= shard.next_wakeup() <= self.now();
        work_left
    }

    fn open(self: &Rc<Self>, letter: Letter, stop_deadline: &mut Option<Time>) {
        match letter {
            Letter::Mail(mail) => self.shard().deliver(mail),
            Letter::Socket(socket, remote) if stop_deadline.is_none() => {
                self.add_peer(socket, remote)
            }
            Letter::Socket(..) => {
                self.peers.fetch_sub(1, Ordering::Relaxed);
            }
            Letter::Attach(sink) => {
                let id = self.shard().attach_client(self.now());
                let worker = Rc::clone(self);
                tokio_uring::spawn(async move {
                    let _end = EndOnPanic;
                    feed::feed_loop(worker, id, sink).await;
                });
            }
            Letter::Dial(order) => {
                let dial = Dial::new(order, self.dials_made.get());
                self.dials_made.set(self.dials_made.get() + 1);
                self.dials.borrow_mut().push(Rc::clone(&dial));
                let worker = Rc::clone(self);
                tokio_uring::spawn(async move {
                    let _end = EndOnPanic;
                    dial::dial_loop(worker, dial).await;
                });
            }
            Letter::HangUp(server) => self.hang_up(&server),
            Letter::Call(call) => call(&mut self.shard(), self.now()),
            Letter::StopWithdrawing(_done) => self.shard().stop_withdrawing(),
            Letter::Drain => {
                self.dials.borrow().iter().for_each(|dial| dial.cancel());
                self.shard().drain(self.now());
            }
            Letter::Stop => {
                *stop_deadline = Some(self.now().after(STOP_TIMEOUT));
                self.connections.borrow().close_all();
            }
        }
    }

    fn add_peer(self: &Rc<Self>, socket: std::net::TcpStream, remote: SocketAddr) {
        if let Err(error) = listener::prepare(&socket) {
            debug!(%remote, %error, "connection lost before its start");
            self.peers.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let id = self.shard().accept(self.now(), remote);
        debug!(%remote, %id, "connection opened");
        self.start_tasks(Rc::new(Connection::new(id, remote, socket, None)));
    }

    /// A connection to a server was made. What is returned tells when and how it has ended.
    pub(super) fn add_server(
        self: &Rc<Self>,
        socket: std::net::TcpStream,
        remote: SocketAddr,
        dial: Rc<Dial>,
    ) -> oneshot::Receiver<SessionEnd> {
        let (sender, ended) = oneshot::channel();
        if let Err(error) = listener::prepare(&socket) {
            debug!(%remote, %error, "connection lost before its start");
            return ended;
        }
        self.peers.fetch_add(1, Ordering::Relaxed);
        let id = self.shard().dialled(self.now(), remote, dial.number);
        let mut connection = Connection::new(id, remote, socket, Some(dial));
        connection.ended = Cell::new(Some(sender));
        self.start_tasks(Rc::new(connection));
        self.want_turn();
        ended
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

    fn hang_up(&self, server: &str) {
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

    fn start_tasks(self: &Rc<Self>, connection: Rc<Connection>) {
        self.connections.borrow_mut().insert(Rc::clone(&connection));
        let (worker, reader) = (Rc::clone(self), Rc::clone(&connection));
        tokio_uring::spawn(async move {
            let _end = EndOnPanic;
            connection::read_loop(&worker, &reader).await;
            worker.task_ended(reader);
        });
        let (worker, writer) = (Rc::clone(self), connection);
        tokio_uring::spawn(async move {
            let _end = EndOnPanic;
            connection::write_loop(&worker, &writer).await;
            worker.task_ended(writer);
        });
    }

    /// The last of a connection's two tasks closes the socket and releases the peer.
    fn task_ended(&self, connection: Rc<Connection>) {
        if !connection.task_ended() {
            return;
        }
        let (id, remote, ended) = (connection.id(), connection.remote(), connection.ended.take());
        self.connections.borrow_mut().remove(id);
        drop(connection);
        let end = self.shard().release(self.now(), id);
        self.peers.fetch_sub(1, Ordering::Relaxed);
        debug!(%remote, %id, "connection closed");
        if let (Some(ended), Some(end)) = (ended, end) {
            // Fails if nobody waits: it was cancelled.
            let _ = ended.send(end);
        }
        self.want_turn();
    }
}

/// Lets all tasks run first that are ready now: what they bring belongs to the turn that follows.
async fn behind_the_ready() {
    let mut queued = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut queued, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The connections of a shard, by the slot in their ids.
#[derive(Default)]
struct Connections {
    slots: Vec<Option<Rc<Connection>>>,
    count: usize,
}

impl Connections {
    fn insert(&mut self, connection: Rc<Connection>) {
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
    fn find(&self, id: PeerId) -> Option<&Rc<Connection>> {
        let connection = self.slots.get(id.slot() as usize)?.as_ref()?;
        (connection.id() == id).then_some(connection)
    }

    fn remove(&mut self, id: PeerId) {
        assert!(self.find(id).is_some(), "a connection ends once");
        self.slots[id.slot() as usize] = None;
        self.count -= 1;
    }

    fn close_all(&self) {
        for connection in self.slots.iter().flatten() {
            connection.close();
        }
    }
}
