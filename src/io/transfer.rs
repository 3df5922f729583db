//! A shard's thread while its peers go over to another process: it stops, gives and takes.
//!
//! Owns what happens to connections then. Must never call `shutdown`, which acts on a connection that somebody else may
//! own by now.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::letter::{Exported, Restored};
use super::worker::Worker;
use super::{cancel, connection};
use crate::handover::{HandoverError, Item};
use crate::shard::Export;
use crate::types::PeerId;
use crate::vital::EndOnPanic;

/// Between two looks whether operations have completed.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// How long connections that end may take for that. One that needs longer does not go over: it is closed already.
const ENDING_TIME: Duration = Duration::from_millis(250);

/// Reads and sends nothing from now on; `stopped` is told when nothing is in flight any more.
pub(super) fn freeze(worker: &Rc<Worker>, stopped: Sender<()>) {
    worker.is_frozen.set(true);
    worker.shard().freeze(worker.now());
    let worker = Rc::clone(worker);
    tokio_uring::spawn(async move {
        let _end = EndOnPanic;
        stop_operations(&worker).await;
        // Fails if it was given up.
        let _ = stopped.send(());
    });
}

/// Goes on; in a successor, with what it was given.
pub(super) fn thaw(worker: &Worker) {
    worker.is_frozen.set(false);
    worker.shard().thaw(worker.now());
    // Some were woken meanwhile, and found nothing to do.
    worker.connections.borrow().wake_all();
    worker.want_turn();
}

/// The next piece of what goes over.
pub(super) fn export(worker: &Worker, mut export: Box<Export>) -> Exported {
    let mut items = Vec::new();
    worker.shard().export(worker.now(), &mut export, &mut items);
    let sockets = items.iter().filter_map(Item::peer);
    let sockets = sockets.map(|peer| socket_of(worker, PeerId::of_bits(peer.id))).collect();
    Exported { export, items, sockets }
}

/// Waits for what comes from another process. To be called before everything else.
pub(super) fn begin_restoring(worker: &Worker, generation: u64) {
    worker.is_frozen.set(true);
    worker.shard().begin_restoring(worker.now(), generation);
}

/// Takes what came from another process.
pub(super) fn restore(
    worker: &Rc<Worker>,
    orders: Vec<Restored>,
    failures: &Sender<HandoverError>,
) {
    for (order, arrival) in orders {
        let restored = worker.shard().restore(worker.now(), order);
        let failure = match (restored, arrival) {
            (Ok(Some(id)), Some(arrival)) => {
                connection::take_over(worker, id, arrival);
                continue;
            }
            (Ok(None), None) => continue,
            (Ok(_), _) => HandoverError::Nonsense("a peer has one connection"),
            (Err(error), _) => error,
        };
        // Fails if it was given up.
        let _ = failures.send(failure);
    }
    worker.want_turn();
}

async fn stop_operations(worker: &Worker) {
    while worker.is_frozen.get() && worker.in_flight.get() > 0 {
        // If there is nothing to cancel all has completed, and tasks are about to see it.
        let _ = cancel::cancel_all().await;
        let _ = tokio_uring::no_op().await;
        if worker.in_flight.get() > 0 {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    let until = worker.now().after(ENDING_TIME);
    while worker.is_frozen.get()
        && worker.connections.borrow().is_any_closed()
        && worker.now() < until
    {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// A descriptor more of a peer's connection, to be sent.
fn socket_of(worker: &Worker, id: PeerId) -> io::Result<OwnedFd> {
    let connections = worker.connections.borrow();
    let connection = connections.find(id).ok_or(io::ErrorKind::NotConnected)?;
    connection.socket().try_clone_to_owned()
}
