//! The fabric's thread, if a node belongs to one.
//!
//! Owns what is there without the feature: nothing. Must never start a thread for a node without a fabric.

use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::clock::Clock;
use super::config::ServerConfig;
use super::letter::Letter;
#[cfg(feature = "fabric")]
use super::nats::{self, FabricStart};
use crate::shard::Identity;

/// Of a node that belongs to one.
pub(super) type FabricMailbox = (mpsc::UnboundedSender<Letter>, mpsc::UnboundedReceiver<Letter>);

/// The mailbox of the thread, and what comes out of it.
#[cfg(feature = "fabric")]
pub(super) fn fabric_mailbox(config: &ServerConfig) -> Option<FabricMailbox> {
    config.fabric.as_ref().map(|_| mpsc::unbounded_channel())
}

/// How hosts are told apart across reflectors.
#[cfg(feature = "fabric")]
pub(super) fn identity(config: &ServerConfig) -> Option<Identity> {
    config.fabric.as_ref().map(|fabric| fabric.identity)
}

/// There is none.
#[cfg(not(feature = "fabric"))]
pub(super) fn identity(_: &ServerConfig) -> Option<Identity> {
    None
}

/// There is none.
#[cfg(not(feature = "fabric"))]
pub(super) fn fabric_mailbox(_: &ServerConfig) -> Option<FabricMailbox> {
    None
}

/// Starts the thread; `waits` if another process hands over first.
#[cfg(feature = "fabric")]
pub(super) fn start_fabric(
    config: &ServerConfig,
    clock: Clock,
    letters: Option<mpsc::UnboundedReceiver<Letter>>,
    shards: Vec<mpsc::UnboundedSender<Letter>>,
    fatal: mpsc::UnboundedSender<String>,
    waits: bool,
) -> std::io::Result<Option<JoinHandle<()>>> {
    let both = config.fabric.clone().zip(letters);
    both.map(|(options, mailbox)| {
        nats::start(FabricStart { options, clock, mailbox, shards, fatal, waits })
    })
    .transpose()
}

/// There is none.
#[cfg(not(feature = "fabric"))]
pub(super) fn start_fabric(
    _: &ServerConfig,
    _: Clock,
    _: Option<mpsc::UnboundedReceiver<Letter>>,
    _: Vec<mpsc::UnboundedSender<Letter>>,
    _: mpsc::UnboundedSender<String>,
    _: bool,
) -> std::io::Result<Option<JoinHandle<()>>> {
    Ok(None)
}
