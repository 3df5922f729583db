//! A shard's thread: its ring, its mailbox, and turn after turn.
//!
//! Owns what starts a turn, and what letters lead to. Must never run turn after turn without letting the
//! ring submit in between.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::alarm::Alarm;
use super::clock::Clock;
use super::dialled::Dial;
use super::letter::Letter;
use super::worker::Worker;
use super::{connection, dial, feed, probe, transfer};
use crate::shard::{Shard, ShardConfig};
use crate::types::Time;
use crate::vital::EndOnPanic;

/// How long sockets may take to end after [`Letter::Stop`] has shut them down.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Letters that are opened before a turn. Those left keep the thread from sleeping.
const LETTERS_PER_TURN: usize = 32;

/// What a shard's thread starts with.
pub(super) struct ThreadStart {
    pub(super) shard: ShardConfig,
    pub(super) clock: Clock,
    pub(super) mailbox: UnboundedReceiver<Letter>,
    /// The mailboxes of all shards, by index.
    pub(super) shards: Vec<UnboundedSender<Letter>>,
    /// Connections that this shard was given or made, and has not released.
    pub(super) peers: Arc<AtomicUsize>,
    /// Told once whether the ring could be set up.
    pub(super) ready: Sender<io::Result<()>>,
    /// Dropped when the thread ends.
    pub(super) ended: UnboundedSender<()>,
}

/// Runs a shard until [`Letter::Stop`]: the body of its thread.
pub(super) fn run(start: ThreadStart) {
    let runtime = match tokio_uring::Runtime::new(&probe::runtime_builder()) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = start.ready.send(Err(error));
            return;
        }
    };
    let shard = Shard::new(start.shard, start.clock.now());
    let worker = Rc::new(Worker::new(shard, start.clock, start.shards, start.peers));
    runtime.block_on(async {
        let alarm = match Alarm::new() {
            Ok(alarm) => alarm,
            Err(error) => {
                let _ = start.ready.send(Err(error));
                return;
            }
        };
        let _ = start.ready.send(Ok(()));
        // A task among the others, or it would be polled before what completed together.
        let turns = tokio_uring::spawn(async move {
            let _end = EndOnPanic;
            turn_loop(worker, alarm, start.mailbox).await;
        });
        let _ = turns.await;
    });
    drop(runtime);
    drop(start.ended);
}

async fn turn_loop(worker: Rc<Worker>, alarm: Alarm, mut mailbox: UnboundedReceiver<Letter>) {
    let mut stop_deadline = None;
    let mut work_left = true;
    loop {
        let mut first = None;
        if !work_left {
            tokio::select! {
                // Never None: this thread holds a sender to itself.
                letter = mailbox.recv() => first = letter,
                () = worker.turn.notified() => {}
                () = alarm.rings() => worker.alarm_at.set(Time::default()),
            }
        }
        behind_the_ready().await;
        let (begun_at, mailed) = (worker.now(), first.is_some() || !mailbox.is_empty());
        // What comes meanwhile waits for the next turn: whoever asks again and again keeps nobody from it. The same with
        // thousands of sockets at once: each costs as much as many UPDATEs.
        let waiting = mailbox.len().min(LETTERS_PER_TURN);
        let others = std::iter::from_fn(|| mailbox.try_recv().ok()).take(waiting);
        first.into_iter().chain(others).for_each(|letter| {
            open(&worker, letter, &mut stop_deadline);
        });
        work_left = worker.take_turn(begun_at);
        if let Some(stop_deadline) = stop_deadline
            && (worker.connections.borrow().count() == 0 || worker.now() >= stop_deadline)
        {
            return;
        }
        if work_left || mailed {
            // Only a thread that parks submits its operations; the no-op completes after that. (A
            // neighbour that always has mail for us must not keep us from it either.)
            let _ = tokio_uring::no_op().await;
        }
        let wakeup = worker.shard().next_wakeup().min(stop_deadline.unwrap_or(Time::NEVER));
        if worker.alarm_at.replace(wakeup) != wakeup {
            let is_set = wakeup != Time::NEVER;
            alarm.set(is_set.then(|| wakeup.since(worker.now())));
        }
    }
}

fn open(worker: &Rc<Worker>, letter: Letter, stop_deadline: &mut Option<Time>) {
    match letter {
        Letter::Mail(mail) => worker.shard().deliver(mail),
        Letter::Socket(socket, remote, place) if stop_deadline.is_none() => {
            connection::add_peer(worker, socket, remote, place)
        }
        Letter::Socket(..) => {}
        Letter::Attach(sink) => {
            let id = worker.shard().attach_client(worker.now());
            let worker = Rc::clone(worker);
            tokio_uring::spawn(async move {
                let _end = EndOnPanic;
                feed::feed_loop(worker, id, sink).await;
            });
        }
        Letter::Dial(order) => {
            let dial = Dial::new(order, worker.dials_made.get());
            worker.dials_made.set(worker.dials_made.get() + 1);
            worker.dials.borrow_mut().push(Rc::clone(&dial));
            let worker = Rc::clone(worker);
            tokio_uring::spawn(async move {
                let _end = EndOnPanic;
                dial::dial_loop(worker, dial).await;
            });
        }
        Letter::HangUp(server) => worker.hang_up(&server),
        Letter::Call(call) => call(&mut worker.shard(), worker.now()),
        #[cfg(feature = "fabric")]
        Letter::AskFabric(_) | Letter::FreezeFabric(_) | Letter::InheritFabric(..) => {
            unreachable!("a shard is not the fabric")
        }
        Letter::StopWithdrawing(_done) => worker.shard().stop_withdrawing(),
        Letter::Drain(peers_max) => {
            worker.dials.borrow().iter().for_each(|dial| dial.cancel());
            worker.shard().drain(worker.now(), peers_max);
            worker.want_turn();
        }
        Letter::Stop => {
            *stop_deadline = Some(worker.now().after(STOP_TIMEOUT));
            worker.connections.borrow().close_all();
        }
        Letter::Freeze(stopped) => transfer::freeze(worker, stopped),
        Letter::Thaw => transfer::thaw(worker),
        // Fails if it was given up.
        Letter::Export(export, to) => drop(to.send(transfer::export(worker, export))),
        Letter::BeginRestoring(generation) => transfer::begin_restoring(worker, generation),
        Letter::Restore(orders, failures) => transfer::restore(worker, orders, &failures),
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
