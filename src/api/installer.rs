//! The thread that feeds the node's route client.
//!
//! Owns what the client was told. Must never tell it of a route to a destination that the node
//! announces itself: traffic for it would loop (protocol section 6.6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Receiver;

use tracing::{debug, warn};

use crate::io::Feed;
use crate::types::{Action, Destination, NextHop, Route, Vni};
use crate::wire::{self, Deframer, Message};

/// Why a route client could not do what it was told. It is logged, and the route counts as told.
pub type RouteError = Box<dyn std::error::Error + Send + Sync>;

/// What is done with the routes of the subscribed VNIs. Called on a thread of its own: it may block,
/// and what changes meanwhile is conflated.
pub trait RouteClient: Send {
    /// The first server (or peer) announced the route.
    ///
    /// # Errors
    /// Whatever kept it from being installed.
    fn add_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError>;

    /// The last one that announced the route withdrew it, or the VNI was unsubscribed.
    ///
    /// # Errors
    /// Whatever kept it from being removed.
    fn remove_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError>;

    /// A server has told all that it knows, and no other one is still telling; or none could be reached
    /// for the stale time. What an earlier run of the node has installed, and nobody has announced since,
    /// may go. Called once.
    fn synchronized(&mut self) {}

    /// The node ends, and nothing of what was installed is to stay.
    fn cleanup(&mut self) {}
}

/// A route client that only logs, at debug level.
#[derive(Clone, Copy, Debug, Default)]
pub struct DummyClient;

impl RouteClient for DummyClient {
    fn add_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError> {
        debug!(%vni, %destination, %next_hop, "route added");
        Ok(())
    }

    fn remove_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError> {
        debug!(%vni, %destination, %next_hop, "route removed");
        Ok(())
    }
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum ClientEvent {
    /// Frames from the core.
    Feed(Feed),
    /// The node announces its first next hop for a destination, or withdrew its last.
    Own(Action, Vni, Destination),
    /// The client wants to hear the routes of a VNI again.
    Replay(Vni),
    /// The end; whether to clean up.
    Stop { cleanup: bool },
}

/// The thread's state.
pub(super) struct Installer {
    client: Box<dyn RouteClient>,
    deframer: Deframer,
    received: BTreeMap<Vni, BTreeMap<Destination, BTreeSet<NextHop>>>,
    own: BTreeSet<(Vni, Destination)>,
}

impl Installer {
    pub(super) fn new(client: Box<dyn RouteClient>) -> Installer {
        Installer {
            client,
            deframer: Deframer::new(),
            received: BTreeMap::new(),
            own: BTreeSet::new(),
        }
    }

    /// The thread's body.
    pub(super) fn run(mut self, events: &Receiver<ClientEvent>) {
        for event in events {
            match event {
                ClientEvent::Feed(Feed { frames, done }) => {
                    self.read(&frames);
                    // Fails only while the core shuts down.
                    let _ = done.send(());
                }
                ClientEvent::Own(action, vni, destination) => self.own(action, vni, destination),
                ClientEvent::Replay(vni) => self.replay(vni),
                ClientEvent::Stop { cleanup } => {
                    if cleanup {
                        self.client.cleanup();
                    }
                    return;
                }
            }
        }
    }

    fn read(&mut self, mut frames: &[u8]) {
        while let Some(frame) = self.deframer.next(&mut frames).expect("the core sends frames") {
            match wire::decode(frame).expect("the core sends messages") {
                Message::Update(update) => self.update(update.action, update.vni, update.route),
                Message::Unsubscribe(vni) => {
                    for (destination, hops) in self.received.remove(&vni).unwrap_or_default() {
                        self.tell(Action::Remove, vni, destination, &hops);
                    }
                }
                Message::Keepalive => self.client.synchronized(),
                _ => {}
            }
        }
    }

    fn update(&mut self, action: Action, vni: Vni, Route { destination, next_hop }: Route) {
        let destinations = self.received.entry(vni).or_default();
        let hops = destinations.entry(destination).or_default();
        let changed = match action {
            Action::Add => hops.insert(next_hop),
            Action::Remove => hops.remove(&next_hop),
        };
        if hops.is_empty() {
            destinations.remove(&destination);
        }
        if changed {
            self.tell(action, vni, destination, &BTreeSet::from([next_hop]));
        }
    }

    fn own(&mut self, action: Action, vni: Vni, destination: Destination) {
        let destinations = self.received.get(&vni);
        let hops = destinations.and_then(|of| of.get(&destination)).cloned().unwrap_or_default();
        if action == Action::Add {
            self.tell(Action::Remove, vni, destination, &hops);
            self.own.insert((vni, destination));
        } else {
            self.own.remove(&(vni, destination));
            self.tell(Action::Add, vni, destination, &hops);
        }
    }

    fn replay(&mut self, vni: Vni) {
        for (destination, hops) in self.received.get(&vni).cloned().unwrap_or_default() {
            self.tell(Action::Add, vni, destination, &hops);
        }
    }

    fn tell(
        &mut self,
        action: Action,
        vni: Vni,
        destination: Destination,
        hops: &BTreeSet<NextHop>,
    ) {
        if self.own.contains(&(vni, destination)) {
            return;
        }
        for &next_hop in hops {
            let result = match action {
                Action::Add => self.client.add_route(vni, destination, next_hop),
                Action::Remove => self.client.remove_route(vni, destination, next_hop),
            };
            if let Err(error) = result {
                warn!(?action, %vni, %destination, %next_hop, %error, "the route client failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<String>>>);

    impl Recorder {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl RouteClient for Recorder {
        fn add_route(&mut self, v: Vni, d: Destination, h: NextHop) -> Result<(), RouteError> {
            self.0.lock().unwrap().push(format!("+{v} {d} {h}"));
            Ok(())
        }
        fn remove_route(&mut self, v: Vni, d: Destination, h: NextHop) -> Result<(), RouteError> {
            self.0.lock().unwrap().push(format!("-{v} {d} {h}"));
            Err("it is only logged".into())
        }
    }

    fn frames(text: &[(Action, &str, &str)]) -> Vec<u8> {
        let mut frames = Vec::new();
        for &(action, to, via) in text {
            let route = Route { destination: to.parse().unwrap(), next_hop: via.parse().unwrap() };
            wire::encode_update(&mut frames, action, Vni(7), &route);
        }
        frames
    }

    #[test]
    fn own_destinations_are_kept_from_the_client() {
        let recorder = Recorder::default();
        let mut installer = Installer::new(Box::new(recorder.clone()));
        let to: Destination = "10.0.0.0/8".parse().unwrap();
        installer.read(&frames(&[(Action::Add, "10.0.0.0/8", "::1")]));
        assert_eq!(recorder.take(), ["+7 10.0.0.0/8 ::1"]);
        installer.own(Action::Add, Vni(7), to);
        assert_eq!(recorder.take(), ["-7 10.0.0.0/8 ::1"], "installed earlier");
        installer.read(&frames(&[(Action::Add, "10.0.0.0/8", "::2")]));
        installer.read(&frames(&[(Action::Remove, "10.0.0.0/8", "::1")]));
        installer.replay(Vni(7));
        assert!(recorder.take().is_empty());
        installer.own(Action::Remove, Vni(7), to);
        assert_eq!(recorder.take(), ["+7 10.0.0.0/8 ::2"], "reinstated as it is now");
    }

    #[test]
    fn an_unsubscribed_vni_is_uninstalled() {
        let recorder = Recorder::default();
        let mut installer = Installer::new(Box::new(recorder.clone()));
        let mut bytes =
            frames(&[(Action::Add, "10.1.0.0/16", "::1"), (Action::Add, "::/0", "::2")]);
        Message::Unsubscribe(Vni(7)).encode(&mut bytes);
        installer.read(&bytes);
        assert_eq!(recorder.take()[2..], ["-7 10.1.0.0/16 ::1", "-7 ::/0 ::2"]);
        assert!(installer.received.is_empty());
        installer.replay(Vni(7));
        assert!(recorder.take().is_empty());
    }
}
