//! The thread on which the node's route client is called.
//!
//! Owns the order in which it is told: the one in which things happened. Must never decide what it is told.

use std::sync::mpsc::Receiver;

use crate::client::Installer;
use crate::io::Feed;
use crate::types::{Action, Route, Vni};

/// What the thread is told.
#[derive(Debug)]
pub(super) enum ClientEvent {
    /// Frames from the core.
    Feed(Feed),
    /// The node announces or withdraws a route.
    Own(Action, Vni, Route),
    /// The client wants to hear the routes of a VNI again.
    Replay(Vni),
    /// The end; whether to clean up.
    Stop { cleanup: bool },
}

/// The thread's body.
pub(super) fn run(mut installer: Installer, events: &Receiver<ClientEvent>) {
    for event in events {
        match event {
            ClientEvent::Feed(Feed { frames, done }) => {
                installer.read(&frames);
                // Fails only while the core shuts down.
                let _ = done.send(());
            }
            ClientEvent::Own(action, vni, route) => installer.own(action, vni, route),
            ClientEvent::Replay(vni) => installer.replay(vni),
            ClientEvent::Stop { cleanup } => {
                if cleanup {
                    installer.cleanup();
                }
                return;
            }
        }
    }
}
