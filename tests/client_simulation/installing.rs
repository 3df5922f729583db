//! The real installer, and behind it a route client that keeps a table and fails now and then.
//!
//! It is handed one event at a time, in the order in which things happened: as by the thread that runs it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use metalbond_uring::api::{RouteClient, RouteError};
use metalbond_uring::internals::client::Installer;
use metalbond_uring::types::{Action, Destination, NextHop, Route, Vni};

use crate::rng::Rng;
use crate::server::Table;

/// What the route client's side has still to deal with.
pub enum Event {
    /// Frames from the core.
    Frames(Vec<u8>),
    Own(Action, Vni, Route),
    Replay(Vni),
}

pub struct Installing {
    pub events: VecDeque<Event>,
    installer: Installer,
    installed: Arc<Mutex<Installed>>,
}

/// Address bits without host bits, and what else tells one kernel destination from another.
type Network = (u128, u8, bool);

struct Installed {
    table: Table,
    /// What the node announces by now.
    own: BTreeMap<(Vni, Network), BTreeSet<Route>>,
    /// What was told again, while that is asked for.
    replayed: Option<Table>,
    synchronized: u64,
    rng: Rng,
}

impl Installing {
    pub fn new(seed: u64) -> Installing {
        let installed = Arc::new(Mutex::new(Installed {
            table: Table::new(),
            own: BTreeMap::new(),
            replayed: None,
            synchronized: 0,
            rng: Rng::new(seed),
        }));
        let installer = Installer::new(Box::new(Recorder(installed.clone())));
        Installing { events: VecDeque::new(), installer, installed }
    }

    pub fn read(&mut self, frames: &[u8]) {
        self.installer.read(frames);
    }

    pub fn own(&mut self, action: Action, vni: Vni, route: Route) {
        let mut installed = self.installed();
        let key = (vni, network(route.destination));
        let routes = installed.own.entry(key).or_default();
        match action {
            Action::Add => assert!(routes.insert(route)),
            Action::Remove => assert!(routes.remove(&route)),
        }
        if routes.is_empty() {
            installed.own.remove(&key);
        }
        drop(installed);
        self.installer.own(action, vni, route);
    }

    pub fn replay(&mut self, vni: Vni) {
        self.installed().replayed = Some(Table::new());
        self.installer.replay(vni);
        let mut installed = self.installed();
        let replayed = installed.replayed.take();
        let all = installed.table.iter().filter(|(of, _)| *of == vni).copied().collect();
        assert_eq!(replayed, Some(all), "all of {vni} was told again");
    }

    /// The route client has what the node sees, but for the destinations that it announces itself.
    pub fn check(&self, view: &Table, synchronized: bool) {
        let installed = self.installed();
        let is_foreign = |(vni, route): &&(Vni, Route)| !installed.is_own(*vni, route.destination);
        let expected: Table = view.iter().filter(is_foreign).copied().collect();
        assert_eq!(installed.table, expected);
        assert_eq!(installed.synchronized, u64::from(synchronized));
    }

    /// How many routes are installed.
    pub fn count(&self) -> usize {
        self.installed().table.len()
    }

    fn installed(&self) -> MutexGuard<'_, Installed> {
        self.installed.lock().expect("nothing panicked")
    }
}

impl Installed {
    fn is_own(&self, vni: Vni, destination: Destination) -> bool {
        self.own.contains_key(&(vni, network(destination)))
    }

    /// A call fails now and then, and counts all the same.
    fn answer(&mut self) -> Result<(), RouteError> {
        if self.rng.chance(10) { Err("some failure".into()) } else { Ok(()) }
    }
}

struct Recorder(Arc<Mutex<Installed>>);

impl RouteClient for Recorder {
    fn add_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError> {
        let mut installed = self.0.lock().expect("nothing panicked");
        let route = Route { destination, next_hop };
        assert!(!installed.is_own(vni, destination), "{vni} {route}: traffic would loop");
        let is_known = !installed.table.insert((vni, route));
        match &mut installed.replayed {
            Some(replayed) => assert!(is_known && replayed.insert((vni, route)), "{vni} {route}"),
            None => assert!(!is_known, "{vni} {route} is installed already"),
        }
        installed.answer()
    }

    fn remove_route(
        &mut self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), RouteError> {
        let mut installed = self.0.lock().expect("nothing panicked");
        let route = Route { destination, next_hop };
        assert!(installed.table.remove(&(vni, route)), "{vni} {route} is not installed");
        assert!(installed.replayed.is_none(), "nothing is removed by telling it again");
        installed.answer()
    }

    fn synchronized(&mut self) {
        self.0.lock().expect("nothing panicked").synchronized += 1;
    }
}

/// What the kernel takes a destination for.
fn network(destination: Destination) -> Network {
    let (bits, width) = match destination.prefix {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let host_bits = width - u32::from(destination.length);
    let bits = bits.checked_shr(host_bits).unwrap_or(0);
    (bits, destination.length, width == 128)
}
