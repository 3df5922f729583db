//! What threads send each other.
//!
//! Owns the words for it. Must never wait for an answer.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::dialled::DialOrder;
use super::door::Place;
#[cfg(feature = "fabric")]
use super::fabric_view::FabricView;
use crate::handover::{HandoverError, Item};
use crate::shard::{Export, Mail, Order, Shard};
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
    /// Shards stand still soon: tell them nothing from now on. Told what another process has to know. For the fabric's
    /// thread only, as the next one.
    #[cfg(feature = "fabric")]
    FreezeFabric(Sender<Vec<Item>>),
    /// This is how it stood in another process. Told whether that makes sense.
    #[cfg(feature = "fabric")]
    InheritFabric(Vec<Item>, Sender<Result<(), HandoverError>>),
    /// What closes from now on withdraws nothing. Dropped when that is so.
    StopWithdrawing(UnboundedSender<()>),
    /// Finish with so many peers gracefully.
    Drain(usize),
    /// Close what is left, and end the thread.
    Stop,
    /// Read and send nothing from now on. Told when nothing is in flight any more.
    Freeze(Sender<()>),
    /// Go on; to the fabric's thread of a process that takes over: begin.
    Thaw,
    /// Tell the next piece of what goes over to another process.
    Export(Box<Export>, Sender<Exported>),
    /// Connections, tables and all that are to come from another process; none of what is given out here has been given
    /// out there, if it begins at this generation.
    BeginRestoring(u64),
    /// Take this from another process, and tell what makes no sense.
    Restore(Vec<Restored>, Sender<HandoverError>),
}

/// A piece of what goes over to another process.
pub(super) struct Exported {
    pub(super) export: Box<Export>,
    pub(super) items: Vec<Item>,
    /// One for each peer among the items, in their order.
    pub(super) sockets: io::Result<Vec<OwnedFd>>,
}

/// What to do, and the connection if it is about a peer.
pub(super) type Restored = (Order, Option<Arrival>);

/// A connection that comes from another process.
pub(super) struct Arrival {
    pub(super) socket: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) place: Place,
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
