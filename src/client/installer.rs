//! What the route client is told, of all that the node hears.
//!
//! Owns what was heard, and what is held out of it. Must never tell of a route to a destination that the
//! node announces itself, whatever its host bits: traffic for it would loop (protocol section 6.6).

use std::collections::{BTreeMap, BTreeSet};

use tracing::warn;

use super::RouteClient;
use crate::types::{Action, Destination, NextHop, NextHopType, Route, Vni};
use crate::wire::{self, Deframer, Message};

/// Between the core and a route client: frames and own announcements in, calls out.
pub struct Installer {
    client: Box<dyn RouteClient>,
    deframer: Deframer,
    received: Routes,
    own: Routes,
}

impl Installer {
    /// Nothing is received or announced yet.
    pub fn new(client: Box<dyn RouteClient>) -> Installer {
        Installer {
            client,
            deframer: Deframer::new(),
            received: Routes::default(),
            own: Routes::default(),
        }
    }

    /// Reads what the core has for the route client.
    pub fn read(&mut self, mut frames: &[u8]) {
        while let Some(frame) = self.deframer.next(&mut frames).expect("the core sends frames") {
            match wire::decode(frame).expect("the core sends messages") {
                Message::Update(update) => self.update(update.action, update.vni, update.route),
                Message::Unsubscribe(vni) => {
                    for route in self.received.take(vni) {
                        self.tell_if_foreign(Action::Remove, vni, route);
                    }
                }
                Message::Keepalive => self.client.synchronized(),
                _ => {}
            }
        }
    }

    /// The node announces or withdraws a route: what it has received to the same destination goes, or
    /// comes back as it is by now.
    pub fn own(&mut self, action: Action, vni: Vni, route: Route) {
        let destination = route.destination;
        let was_own = self.own.has(vni, destination);
        self.own.change(action, vni, route);
        let is_own = self.own.has(vni, destination);
        if is_own != was_own {
            let action = if is_own { Action::Remove } else { Action::Add };
            for route in self.received.to(vni, destination) {
                tell(&mut *self.client, action, vni, route);
            }
        }
    }

    /// Tells all routes of a VNI again.
    pub fn replay(&mut self, vni: Vni) {
        for route in self.received.of(vni).filter(|route| !self.own.has(vni, route.destination)) {
            tell(&mut *self.client, Action::Add, vni, route);
        }
    }

    /// Nothing of what was installed is to stay.
    pub fn cleanup(&mut self) {
        self.client.cleanup();
    }

    fn update(&mut self, action: Action, vni: Vni, route: Route) {
        if self.received.change(action, vni, route) {
            self.tell_if_foreign(action, vni, route);
        }
    }

    fn tell_if_foreign(&mut self, action: Action, vni: Vni, route: Route) {
        if !self.own.has(vni, route.destination) {
            tell(&mut *self.client, action, vni, route);
        }
    }
}

fn tell(client: &mut dyn RouteClient, action: Action, vni: Vni, route: Route) {
    let Route { destination, next_hop } = route;
    let result = match action {
        Action::Add => client.add_route(vni, destination, next_hop),
        Action::Remove => client.remove_route(vni, destination, next_hop),
    };
    if let Err(error) = result {
        warn!(?action, %vni, %destination, %next_hop, %error, "the route client failed");
    }
}

/// Routes, found by their destination without its host bits: what the kernel takes for one.
#[derive(Debug, Default)]
struct Routes(BTreeMap<Vni, BTreeSet<(Destination, Route)>>);

impl Routes {
    /// True if that changes anything.
    fn change(&mut self, action: Action, vni: Vni, route: Route) -> bool {
        let routes = self.0.entry(vni).or_default();
        let changes = match action {
            Action::Add => routes.insert((masked(route.destination), route)),
            Action::Remove => routes.remove(&(masked(route.destination), route)),
        };
        if routes.is_empty() {
            self.0.remove(&vni);
        }
        changes
    }

    /// Whether there is a route to this destination.
    fn has(&self, vni: Vni, destination: Destination) -> bool {
        self.to(vni, destination).next().is_some()
    }

    /// The routes to a destination.
    fn to(&self, vni: Vni, destination: Destination) -> impl Iterator<Item = Route> {
        let destination = masked(destination);
        let first = (destination, first_to(destination));
        let routes = self.0.get(&vni).into_iter().flat_map(move |routes| routes.range(first..));
        routes.take_while(move |(to, _)| *to == destination).map(|(_, route)| *route)
    }

    /// The routes of a VNI.
    fn of(&self, vni: Vni) -> impl Iterator<Item = Route> {
        self.0.get(&vni).into_iter().flatten().map(|(_, route)| *route)
    }

    /// Those too, and they are forgotten.
    fn take(&mut self, vni: Vni) -> impl Iterator<Item = Route> + use<> {
        self.0.remove(&vni).into_iter().flatten().map(|(_, route)| route)
    }
}

/// What no peer can send, and a caller may ask for, stays as it is.
fn masked(destination: Destination) -> Destination {
    destination.masked().unwrap_or(destination)
}

/// No route to a masked destination comes before this one.
fn first_to(destination: Destination) -> Route {
    let address = [0, 0, 0, 0].into();
    let kind = NextHopType(i32::MIN);
    let next_hop = NextHop { address, vni: Vni(0), kind, nat_port_from: 0, nat_port_to: 0 };
    Route { destination, next_hop }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::RouteError;
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

    fn installer() -> (Installer, Recorder) {
        let recorder = Recorder::default();
        (Installer::new(Box::new(recorder.clone())), recorder)
    }

    fn route(to: &str, via: &str) -> Route {
        Route { destination: to.parse().unwrap(), next_hop: via.parse().unwrap() }
    }

    fn frames(text: &[(Action, &str, &str)]) -> Vec<u8> {
        let mut frames = Vec::new();
        for &(action, to, via) in text {
            wire::encode_update(&mut frames, action, Vni(7), &route(to, via));
        }
        frames
    }

    #[test]
    fn own_destinations_are_kept_from_the_client() {
        let (mut installer, recorder) = installer();
        let own = route("10.0.0.0/8", "::9");
        installer.read(&frames(&[(Action::Add, "10.0.0.0/8", "::1")]));
        assert_eq!(recorder.take(), ["+7 10.0.0.0/8 ::1"]);
        installer.own(Action::Add, Vni(7), own);
        assert_eq!(recorder.take(), ["-7 10.0.0.0/8 ::1"], "installed earlier");
        installer.read(&frames(&[(Action::Add, "10.0.0.0/8", "::2")]));
        installer.read(&frames(&[(Action::Remove, "10.0.0.0/8", "::1")]));
        installer.replay(Vni(7));
        assert!(recorder.take().is_empty());
        installer.own(Action::Remove, Vni(7), own);
        assert_eq!(recorder.take(), ["+7 10.0.0.0/8 ::2"], "reinstated as it is now");
    }

    #[test]
    fn the_first_own_route_to_a_destination_and_the_last_count() {
        let (mut installer, recorder) = installer();
        installer.read(&frames(&[(Action::Add, "10.0.0.0/8", "::1")]));
        installer.own(Action::Add, Vni(7), route("10.0.0.0/8", "::8"));
        assert_eq!(recorder.take().len(), 2);
        installer.own(Action::Add, Vni(7), route("10.0.0.0/8", "::9"));
        installer.own(Action::Remove, Vni(7), route("10.0.0.0/8", "::8"));
        // Nor do those of other destinations, and of other VNIs.
        installer.own(Action::Add, Vni(7), route("10.0.0.0/16", "::8"));
        installer.own(Action::Add, Vni(8), route("10.0.0.0/8", "::8"));
        installer.own(Action::Remove, Vni(8), route("10.0.0.0/8", "::8"));
        assert!(recorder.take().is_empty());
        installer.own(Action::Remove, Vni(7), route("10.0.0.0/8", "::9"));
        assert_eq!(recorder.take(), ["+7 10.0.0.0/8 ::1"]);
    }

    #[test]
    fn all_hops_of_a_destination_are_held_out() {
        let (mut installer, recorder) = installer();
        let to = "10.0.0.0/8".parse().unwrap();
        let hop = |address: &str, kind| NextHop {
            kind: NextHopType(kind),
            ..address.parse::<NextHop>().unwrap()
        };
        let hops = [hop("0.0.0.0", i32::MIN), hop("0.0.0.0", 1), hop("ffff::", i32::MAX)];
        let mut bytes = frames(&[(Action::Add, "9.255.0.0/8", "::1")]);
        for next_hop in hops {
            let route = Route { destination: to, next_hop };
            wire::encode_update(&mut bytes, Action::Add, Vni(7), &route);
        }
        bytes.extend(frames(&[(Action::Add, "10.0.0.0/9", "::1")]));
        installer.read(&bytes);
        assert_eq!(recorder.take().len(), 5);
        installer.own(Action::Add, Vni(7), route("10.0.0.0/8", "::9"));
        assert_eq!(recorder.take().len(), 3);
    }

    #[test]
    fn host_bits_do_not_make_another_destination() {
        for (own, received) in [
            ("10.0.1.5/24", "10.0.1.0/24"),
            ("10.0.1.0/24", "10.0.1.5/24"),
            ("10.0.1.255/24", "10.0.1.5/24"),
            ("10.9.9.9/0", "0.0.0.0/0"),
            ("0.0.0.0/0", "255.255.255.255/0"),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("::/0", "ffff::1/0"),
            ("::ffff:10.0.1.5/120", "::ffff:10.0.1.0/120"),
        ] {
            let (mut installer, recorder) = installer();
            let (first, last) = (route(own, "::8"), route(received, "::9"));
            installer.read(&frames(&[(Action::Add, received, "::1")]));
            installer.own(Action::Add, Vni(7), first);
            let told = [format!("+7 {received} ::1"), format!("-7 {received} ::1")];
            assert_eq!(recorder.take(), told, "as it was announced");
            installer.own(Action::Add, Vni(7), last);
            installer.own(Action::Remove, Vni(7), first);
            installer.read(&frames(&[(Action::Add, own, "::2"), (Action::Add, received, "::3")]));
            installer.replay(Vni(7));
            assert!(recorder.take().is_empty(), "{own} and {received}");
            installer.own(Action::Remove, Vni(7), last);
            assert_eq!(recorder.take().len(), 3, "{own} and {received}");
        }
    }

    #[test]
    fn other_lengths_and_families_are_other_destinations() {
        for (own, received) in [
            ("10.0.1.5/24", "10.0.1.0/25"),
            ("10.0.1.5/24", "10.0.1.5/23"),
            ("10.0.1.5/24", "10.0.2.5/24"),
            ("0.0.0.0/0", "::/0"),
            ("10.0.1.0/24", "::ffff:10.0.1.0/120"),
            ("10.0.1.0/24", "::a00:100/24"),
        ] {
            let (mut installer, recorder) = installer();
            installer.own(Action::Add, Vni(7), route(own, "::8"));
            installer.read(&frames(&[(Action::Add, received, "::1")]));
            assert_eq!(recorder.take(), [format!("+7 {received} ::1")], "{own}");
        }
    }

    #[test]
    fn an_own_destination_of_no_length_harms_nobody() {
        let (mut installer, recorder) = installer();
        let prefix = "10.0.0.0".parse().unwrap();
        let own = Route {
            destination: Destination { prefix, length: 200 },
            next_hop: "::8".parse().unwrap(),
        };
        installer.own(Action::Add, Vni(7), own);
        installer.read(&frames(&[(Action::Add, "10.0.0.0/32", "::1")]));
        installer.own(Action::Remove, Vni(7), own);
        assert_eq!(recorder.take(), ["+7 10.0.0.0/32 ::1"]);
    }

    #[test]
    fn an_unsubscribed_vni_is_uninstalled() {
        let (mut installer, recorder) = installer();
        let mut bytes =
            frames(&[(Action::Add, "10.1.0.0/16", "::1"), (Action::Add, "::/0", "::2")]);
        Message::Unsubscribe(Vni(7)).encode(&mut bytes);
        installer.read(&bytes);
        assert_eq!(recorder.take()[2..], ["-7 10.1.0.0/16 ::1", "-7 ::/0 ::2"]);
        assert!(installer.received.0.is_empty());
        installer.replay(Vni(7));
        assert!(recorder.take().is_empty());
    }
}
