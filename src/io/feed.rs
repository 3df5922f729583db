//! The stream of frames that feeds the node's own route client, which lives on another thread.
//!
//! Owns the hand-over: one piece at a time, so that a slow client is conflated like a slow peer. Must
//! never wait for the client while it holds the core.

use std::rc::Rc;

use tokio::sync::oneshot;

use super::letter::{Feed, FeedSink};
use super::worker::Worker;
use crate::shard::{TcpSample, Transmit};
use crate::types::PeerId;

/// Hands over what the core has for the route client, until that one is gone.
pub(super) async fn feed_loop(worker: Rc<Worker>, id: PeerId, sink: FeedSink) {
    loop {
        let transmit = worker.shard().transmit(worker.now(), id, TcpSample::default());
        match transmit {
            Transmit::Send(piece) => {
                let (done, dealt_with) = oneshot::channel();
                let frames = piece.as_slice().to_vec();
                let length = frames.len();
                if !sink(Feed { frames, done }) {
                    return; // the node ends: nothing else ends a route client but a panic
                }
                // An error means that the client dropped it: it is dealt with all the same.
                let _ = dealt_with.await;
                drop(piece);
                worker.shard().transmitted(worker.now(), id, length);
                worker.want_turn();
            }
            Transmit::Idle => {}
            Transmit::Finish => return,
        }
        worker.feed_woken().await;
    }
}
