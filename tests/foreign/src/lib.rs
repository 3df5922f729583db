//! Our server and rustbond's client, in one process, for blocking tests.
//!
//! Owns starting them, waiting with a limit, and what a client was told. Must never look into frames:
//! what they mean is for rustbond to say.
#![allow(clippy::missing_panics_doc)]

use std::collections::{HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use metalbond_uring::internals::io::{Server, ServerConfig};
use metalbond_uring::types::Pace;
use rustbond::{Destination, MetalBondClient, NextHop, Route, RouteHandler, Vni};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long to wait for something that must come. Long: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing must come before we believe that nothing will.
pub const QUIET: Duration = Duration::from_millis(100);

/// A VNI's routes, as a client knows them.
pub type View = HashSet<Route>;

/// A server on free ports of `127.0.0.1` and `::1`.
pub fn serve(shards: u16, pace: Pace, keepalive_interval_s: u32) -> Server {
    serve_at(&["127.0.0.1:0", "[::1]:0"], shards, pace, keepalive_interval_s)
}

/// A server at these addresses.
pub fn serve_at(listen: &[&str], shards: u16, pace: Pace, keepalive_interval_s: u32) -> Server {
    let listen = listen.iter().map(|text| text.parse().expect("an address")).collect();
    Server::start(ServerConfig {
        listen,
        cores: shards,
        keepalive_interval_s,
        pace,
        ..ServerConfig::default()
    })
    .expect("the server starts")
}

/// What a client was told, by VNI.
#[derive(Default)]
struct Told {
    views: Mutex<HashMap<u32, View>>,
    changed: Condvar,
    /// Routes that were taken from it.
    removals: AtomicUsize,
}

/// rustbond's end of the conversation.
#[derive(Clone, Default)]
struct Recorder(Arc<Told>);

impl RouteHandler for Recorder {
    fn add_route(&self, vni: Vni, route: Route) {
        let mut views = self.0.views.lock().expect("not poisoned");
        views.entry(vni.0).or_default().insert(route);
        self.0.changed.notify_all();
    }

    fn remove_route(&self, vni: Vni, route: Route) {
        let mut views = self.0.views.lock().expect("not poisoned");
        views.entry(vni.0).or_default().remove(&route);
        self.0.removals.fetch_add(1, Ordering::Relaxed);
        self.0.changed.notify_all();
    }
}

/// A rustbond client on a runtime of its own, so that dropping it cuts its connection. (A client that is
/// dropped in a runtime that lives on stays connected.)
pub struct Rustbond {
    name: &'static str,
    recorder: Recorder,
    client: MetalBondClient<Recorder>,
    runtime: Runtime,
}

impl Rustbond {
    /// Connects and waits until the session is established.
    pub fn connect(name: &'static str, server: SocketAddr) -> Rustbond {
        let rustbond = Rustbond::dial(name, server);
        rustbond.wait_established();
        rustbond
    }

    /// Begins to connect.
    pub fn dial(name: &'static str, server: SocketAddr) -> Rustbond {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let recorder = Recorder::default();
        let guard = runtime.enter();
        let client = MetalBondClient::connect(&[&server.to_string()], recorder.clone());
        drop(guard);
        Rustbond { name, recorder, client, runtime }
    }

    #[track_caller]
    pub fn wait_established(&self) {
        let established = self.within("established", self.client.wait_established());
        established.unwrap_or_else(|error| panic!("{}: establish: {error}", self.name));
    }

    pub fn is_established(&self) -> bool {
        self.client.is_established()
    }

    #[track_caller]
    pub fn subscribe(&self, vni: u32) {
        let done = self.within("subscribed", self.client.subscribe(Vni(vni)));
        done.unwrap_or_else(|error| panic!("{}: subscribe to {vni}: {error}", self.name));
    }

    #[track_caller]
    pub fn unsubscribe(&self, vni: u32) {
        let done = self.within("unsubscribed", self.client.unsubscribe(Vni(vni)));
        done.unwrap_or_else(|error| panic!("{}: unsubscribe from {vni}: {error}", self.name));
    }

    #[track_caller]
    pub fn announce(&self, vni: u32, route: &Route) {
        let Route { destination, next_hop } = route.clone();
        let done = self.within("announced", self.client.announce(Vni(vni), destination, next_hop));
        done.unwrap_or_else(|error| panic!("{}: announce {route}: {error}", self.name));
    }

    #[track_caller]
    pub fn withdraw(&self, vni: u32, route: &Route) {
        let Route { destination, next_hop } = route.clone();
        let done = self.within("withdrawn", self.client.withdraw(Vni(vni), destination, next_hop));
        done.unwrap_or_else(|error| panic!("{}: withdraw {route}: {error}", self.name));
    }

    /// What it knows of a VNI.
    pub fn view(&self, vni: u32) -> View {
        self.recorder.0.views.lock().expect("not poisoned").get(&vni).cloned().unwrap_or_default()
    }

    /// How many routes were taken from it: of a connection that is lost, all.
    pub fn removals(&self) -> usize {
        self.recorder.0.removals.load(Ordering::Relaxed)
    }

    /// Waits until it knows exactly these routes, and for a while that it stays so.
    #[track_caller]
    pub fn expect<'a>(&self, what: &str, vni: u32, routes: impl IntoIterator<Item = &'a Route>) {
        let expected: View = routes.into_iter().cloned().collect();
        let deadline = Instant::now() + PATIENCE;
        let told = &self.recorder.0;
        let mut views = told.views.lock().expect("not poisoned");
        while *views.entry(vni).or_default() != expected {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let known = views.entry(vni).or_default();
                panic!("{} waited for {what}: {}", self.name, difference(known, &expected));
            }
            views = told.changed.wait_timeout(views, left).expect("not poisoned").0;
        }
        drop(views);
        std::thread::sleep(QUIET);
        let known = self.view(vni);
        let after = difference(&known, &expected);
        assert!(known == expected, "{} had {what}, but not for long: {after}", self.name);
    }

    /// Says goodbye: the connection ends in order.
    #[track_caller]
    pub fn shut_down(self) {
        let Rustbond { name, client, runtime, .. } = self;
        runtime.block_on(async {
            let ended = timeout(PATIENCE, client.shutdown()).await;
            ended.unwrap_or_else(|_| panic!("{name} waited to be shut down")).expect("it runs");
            // There is nothing to wait for; dropping the runtime would end it as well, but less politely.
            tokio::time::sleep(QUIET).await;
        });
    }

    /// Cuts the connection, without goodbye.
    pub fn vanish(self) {
        drop(self);
    }

    #[track_caller]
    fn within<T>(&self, what: &str, task: impl Future<Output = T>) -> T {
        let result = self.runtime.block_on(async { timeout(PATIENCE, task).await });
        result.unwrap_or_else(|_| panic!("{} waited to be {what}", self.name))
    }
}

/// A route to a host (or a network: `10.1.0.0/16`).
pub fn route(prefix: &str, next_hop: NextHop) -> Route {
    Route::new(Destination::new(prefix.parse().expect("a prefix")), next_hop)
}

/// The underlay address of a hypervisor.
pub fn underlay(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)
}

fn difference(known: &View, expected: &View) -> String {
    let some = |a: &View, b: &View| {
        let names: Vec<_> = a.difference(b).take(3).map(ToString::to_string).collect();
        format!("{} ({}, ...)", a.difference(b).count(), names.join(", "))
    };
    format!(
        "knows {} of {}, misses {}, has too many {}",
        known.len(),
        expected.len(),
        some(expected, known),
        some(known, expected)
    )
}
