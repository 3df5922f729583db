//! What threads send each other.
//!
//! Owns the words for it. Must never wait for an answer.

use std::net::{SocketAddr, TcpStream};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::dialled::DialOrder;
use super::door::Place;
#[cfg(feature = "fabric")]
use super::fabric_view::FabricView;
use crate::shard::{Mail, Shard};
use crate::types::Time;

/// What another thread wants done with a core, on the core's thread.
type Call = Box<dyn FnOnce(&mut Shard, Time) + Send>;

/// What a shard's thread is sent.
pub(super) enum Letter {
    /// A block of mail from another shard.
    Mail(Mail),
    /// A peer that the acceptor gave to this shard.
    Socket(TcpStream, SocketAddr, Place),
    /// The node's route client: this shard feeds it, and dials its servers.
    Attach(FeedSink),
    /// Connect to a server, and stay connected.
    Dial(DialOrder),
    /// No longer connect to this server.
    HangUp(String),
    /// Something to do with the core.
    Call(Call),
    /// How is the fabric? For its own thread only, which is sent mail, this, and what ends a shard.
    #[cfg(feature = "fabric")]
    AskFabric(oneshot::Sender<FabricView>),
    /// What closes from now on withdraws nothing. Dropped when that is so.
    StopWithdrawing(UnboundedSender<()>),
    /// Finish with so many peers gracefully.
    Drain(usize),
    /// Close what is left, and end the thread.
    Stop,
}

/// Frames for the route client, and whom to tell when it has dealt with them.
#[derive(Debug)]
pub struct Feed {
    /// Whole frames: UPDATE, and UNSUBSCRIBE for "forget this VNI".
    pub frames: Vec<u8>,
    /// To be told, or dropped, when the next ones may come.
    pub done: oneshot::Sender<()>,
}

/// Takes what is for the route client; false when that one is gone.
pub(super) type FeedSink = Box<dyn Fn(Feed) -> bool + Send>;
