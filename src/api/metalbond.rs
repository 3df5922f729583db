//! [`MetalBond`]: what a program asks of its node.
//!
//! Owns the caller's wishes, under one lock, and the node's threads. Must never hold the lock while it
//! waits for anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use thiserror::Error;

use super::client_thread::{self, ClientEvent};
use crate::client::{Installer, RouteClient};
#[cfg(feature = "http")]
use crate::http::{HttpError, HttpListener, HttpServer, View};
use crate::io::{Asker, ServeError, Server, ServerConfig, ServerState};
#[cfg(feature = "http")]
use crate::kernel::KernelWatch;
use crate::session::State;
use crate::types::{
    Action, Destination, HostPort, HostPortError, NextHop, NextHopType, Route, Vni,
};
use crate::vital;

/// What "metalbondVersion" says.
#[cfg(feature = "http")]
const VERSION: &str = env!("METALBOND_VERSION");

/// Why a call was refused. A server that is away is no reason.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The node could not start, or not listen.
    #[error(transparent)]
    Start(#[from] ServeError),
    /// That is no address to listen on.
    #[cfg(feature = "http")]
    #[error("{address:?} is no address to listen on: {reason}")]
    HttpAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: HostPortError,
    },
    /// There is no HTTP view.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The thread of the route client could not start.
    #[error("cannot start the route client's thread: {0}")]
    Thread(std::io::Error),
    /// The VNI is subscribed already.
    #[error("VNI {0} is subscribed already")]
    Subscribed(Vni),
    /// The VNI is not subscribed.
    #[error("VNI {0} is not subscribed")]
    NotSubscribed(Vni),
    /// A prefix length that the address does not have: servers would drop the UPDATE.
    #[error("{0} has an impossible prefix length: at most 32 in IPv4, 128 in IPv6")]
    Destination(Destination),
    /// The route is announced already.
    #[error("{1} in VNI {0} is announced already")]
    Announced(Vni, Route),
    /// The route is not announced.
    #[error("{1} in VNI {0} is not announced")]
    NotAnnounced(Vni, Route),
    /// That is no server's address.
    #[error("{address:?} is no server's address: {reason}")]
    PeerAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: HostPortError,
    },
    /// The server was added already.
    #[error("the server {0} was added already")]
    PeerKnown(String),
    /// The server was never added.
    #[error("there is no server {0}")]
    PeerUnknown(String),
}

/// What an HTTP server shows besides. More may come: build it with `..HttpOptions::default()`.
#[cfg(feature = "http")]
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// Whether `/metrics` has series for each peer: their number grows with the fleet.
    pub metrics_per_peer: bool,
    /// The netlink thread whose numbers `/metrics` has: [`NetlinkClient::watch`](super::NetlinkClient::watch).
    pub kernel: Option<KernelWatch>,
}

#[derive(Default)]
struct Wishes {
    subscribed: BTreeSet<Vni>,
    announced: BTreeSet<(Vni, Route)>,
    peers: BTreeMap<HostPort, Arc<ServerState>>,
}

/// A node: calls come from any thread, and none waits for the network.
pub struct MetalBond {
    wishes: Arc<Mutex<Wishes>>,
    io: Server,
    #[cfg(feature = "http")]
    http: Mutex<Vec<HttpServer>>,
    events: Sender<ClientEvent>,
    client_thread: Mutex<Option<JoinHandle<()>>>,
}

impl MetalBond {
    /// Starts a node whose routes go to `client`. It connects to nobody yet, and listens only where
    /// `config.listen` says.
    ///
    /// # Errors
    /// [`Error::Start`] where there is no io_uring, if an address cannot be had, or if a setting is out of
    /// its range; [`Error::Thread`].
    pub fn new(
        config: ServerConfig,
        client: impl RouteClient + 'static,
    ) -> Result<MetalBond, Error> {
        let io = Server::start(config)?;
        let (events, receiver) = mpsc::channel();
        let installer = Installer::new(Box::new(client));
        let body = move || client_thread::run(installer, &receiver);
        let client_thread = vital::spawn("route-client", body).map_err(Error::Thread)?;
        let feed = events.clone();
        io.attach_client(move |frames| feed.send(ClientEvent::Feed(frames)).is_ok());
        Ok(MetalBond {
            wishes: Arc::default(),
            io,
            #[cfg(feature = "http")]
            http: Mutex::default(),
            events,
            client_thread: Mutex::new(Some(client_thread)),
        })
    }

    /// Serves clients on an address; port 0 takes a free one. Returns it with its port.
    ///
    /// # Errors
    /// [`Error::Start`] if the address cannot be had.
    pub fn start_server(&self, listen: SocketAddr) -> Result<SocketAddr, Error> {
        Ok(self.io.listen(listen)?)
    }

    /// Shows on an address what the node knows: tables, peers, VNIs. Port 0 takes a free one. Returns it with its port.
    ///
    /// # Errors
    /// [`Error::HttpAddress`], [`Error::Http`] if it cannot be had.
    #[cfg(feature = "http")]
    pub fn start_http_server(&self, listen: &str) -> Result<SocketAddr, Error> {
        self.start_http_server_with(listen, HttpOptions::default())
    }

    /// The same, with more to show.
    ///
    /// # Errors
    /// Those of [`MetalBond::start_http_server`].
    #[cfg(feature = "http")]
    pub fn start_http_server_with(
        &self,
        listen: &str,
        options: HttpOptions,
    ) -> Result<SocketAddr, Error> {
        let address: HostPort = listen
            .parse()
            .map_err(|reason| Error::HttpAddress { address: listen.to_owned(), reason })?;
        let wishes = Arc::clone(&self.wishes);
        let servers =
            move || lock(&wishes).peers.values().map(|server| server.state()).collect::<Vec<_>>();
        let mut view = View::new(self.io.asker().clone(), VERSION)
            .with_servers(Arc::new(servers))
            .with_kernel(options.kernel);
        if options.metrics_per_peer {
            view = view.with_metrics_per_peer();
        }
        let server = HttpListener::bind(&address)?.serve(view)?;
        let address = server.local_addr();
        lock(&self.http).push(server);
        Ok(address)
    }

    /// Asks its shards. For the program alone.
    #[doc(hidden)]
    pub fn asker(&self) -> &Asker {
        self.io.asker()
    }

    /// Connects to a server ([`HostPort::of_server`] has the grammar), from `local_ip` if given, and again
    /// whenever the connection is lost: soon at first, then after 5 to 10 s, the name resolved anew.
    ///
    /// # Errors
    /// [`Error::PeerAddress`], [`Error::PeerKnown`].
    pub fn add_peer(&self, address: &str, local_ip: Option<IpAddr>) -> Result<(), Error> {
        let server = HostPort::of_server(address)
            .map_err(|reason| Error::PeerAddress { address: address.to_owned(), reason })?;
        let mut wishes = self.wishes();
        if wishes.peers.contains_key(&server) {
            return Err(Error::PeerKnown(address.to_owned()));
        }
        let state = self.io.dial(server.to_string(), local_ip);
        wishes.peers.insert(server, state);
        Ok(())
    }

    /// Disconnects from a server for good.
    ///
    /// # Errors
    /// [`Error::PeerUnknown`].
    pub fn remove_peer(&self, address: &str) -> Result<(), Error> {
        let server = known_server(address)?;
        let mut wishes = self.wishes();
        if wishes.peers.remove(&server).is_none() {
            return Err(Error::PeerUnknown(address.to_owned()));
        }
        self.io.hang_up(&server.to_string());
        Ok(())
    }

    /// The state of the connection to a server.
    ///
    /// # Errors
    /// [`Error::PeerUnknown`].
    pub fn peer_state(&self, address: &str) -> Result<State, Error> {
        let server = known_server(address)?;
        let state = self.wishes().peers.get(&server).map(|state| state.state());
        state.ok_or_else(|| Error::PeerUnknown(address.to_owned()))
    }

    /// Wants the routes of a VNI, from every server now and later.
    ///
    /// # Errors
    /// [`Error::Subscribed`].
    pub fn subscribe(&self, vni: Vni) -> Result<(), Error> {
        let mut wishes = self.wishes();
        if !wishes.subscribed.insert(vni) {
            return Err(Error::Subscribed(vni));
        }
        self.io.call(move |shard, now| shard.own_subscribe(now, vni));
        Ok(())
    }

    /// Wants them no longer: the route client removes them. The node's announcements stay.
    ///
    /// # Errors
    /// [`Error::NotSubscribed`].
    pub fn unsubscribe(&self, vni: Vni) -> Result<(), Error> {
        let mut wishes = self.wishes();
        if !wishes.subscribed.remove(&vni) {
            return Err(Error::NotSubscribed(vni));
        }
        self.io.call(move |shard, now| shard.own_unsubscribe(now, vni));
        Ok(())
    }

    /// Whether the VNI is subscribed.
    pub fn is_subscribed(&self, vni: Vni) -> bool {
        self.wishes().subscribed.contains(&vni)
    }

    /// The subscribed VNIs, ascending.
    pub fn subscribed_vnis(&self) -> Vec<Vni> {
        self.wishes().subscribed.iter().copied().collect()
    }

    /// Announces a route to every server, now and whenever one is connected.
    ///
    /// # Errors
    /// [`Error::Announced`], [`Error::Destination`].
    pub fn announce_route(
        &self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), Error> {
        if destination.masked().is_none() {
            return Err(Error::Destination(destination));
        }
        let route = Route { destination, next_hop: as_told(next_hop) };
        let mut wishes = self.wishes();
        if !wishes.announced.insert((vni, route)) {
            return Err(Error::Announced(vni, route));
        }
        self.change_own(Action::Add, vni, route);
        Ok(())
    }

    /// Withdraws an announced route from every server.
    ///
    /// # Errors
    /// [`Error::NotAnnounced`].
    pub fn withdraw_route(
        &self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> Result<(), Error> {
        let route = Route { destination, next_hop: as_told(next_hop) };
        let mut wishes = self.wishes();
        if !wishes.announced.remove(&(vni, route)) {
            return Err(Error::NotAnnounced(vni, route));
        }
        self.change_own(Action::Remove, vni, route);
        Ok(())
    }

    /// Whether the node announces the route. A question, and nothing else.
    pub fn is_route_announced(
        &self,
        vni: Vni,
        destination: Destination,
        next_hop: NextHop,
    ) -> bool {
        let route = Route { destination, next_hop: as_told(next_hop) };
        self.wishes().announced.contains(&(vni, route))
    }

    /// Tells the route client all routes of a VNI again, as it knows them.
    pub fn routes_for_vni(&self, vni: Vni) {
        self.tell_client(ClientEvent::Replay(vni));
    }

    /// Ends the node: connections are closed, without withdrawals. What the route client installed
    /// stays, for the next run to take over.
    pub fn shutdown(self) {
        self.end(false);
    }

    /// The same, and the route client cleans up what it installed.
    pub fn shutdown_and_cleanup(self) {
        self.end(true);
    }

    fn end(mut self, cleanup: bool) {
        self.io.shutdown();
        self.stop_client(cleanup);
    }

    fn stop_client(&mut self, cleanup: bool) {
        self.tell_client(ClientEvent::Stop { cleanup });
        let thread = self.client_thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Its panic would have ended the process.
            let _ = thread.join();
        }
    }

    /// With the wishes locked, so that the client and the core are told in the same order.
    fn change_own(&self, action: Action, vni: Vni, route: Route) {
        self.tell_client(ClientEvent::Own(action, vni, route));
        self.io.call(move |shard, now| shard.own_change(now, action, vni, route));
    }

    fn tell_client(&self, event: ClientEvent) {
        // Fails only if the client's thread is gone; its panic was printed.
        let _ = self.events.send(event);
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        lock(&self.wishes)
    }
}

/// A panic between two changes cannot leave them half done: each is one insert, remove or push.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What others hear of a next hop: only NAT has ports (protocol section 2.1).
fn as_told(next_hop: NextHop) -> NextHop {
    match next_hop.kind {
        NextHopType::NAT => next_hop,
        _ => NextHop { nat_port_from: 0, nat_port_to: 0, ..next_hop },
    }
}

/// What is no address cannot have been added.
fn known_server(address: &str) -> Result<HostPort, Error> {
    HostPort::of_server(address).map_err(|_| Error::PeerUnknown(address.to_owned()))
}

impl Drop for MetalBond {
    fn drop(&mut self) {
        self.stop_client(false);
    }
}
