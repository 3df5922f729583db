//! Who may come in: the limits on connections, and who is inside.
//!
//! Owns the counts of connections by address and of handshakes in progress. Must never touch a socket. Only the
//! acceptor lets somebody in; a [`Guest`] goes out on its shard's thread, when it is dropped, so no count can leak.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ipnet::IpNet;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::config::ServerConfig;
use crate::shard::{Ledger, Pressure};

/// How many connections there may be; beyond, they are closed at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionsMax {
    /// In total, those included that we made.
    pub all: usize,
    /// From one address.
    pub of_one_address: usize,
    /// Without a session yet.
    pub handshakes: usize,
}

impl ConnectionsMax {
    /// Those that a node is told.
    pub(super) fn of(config: &ServerConfig) -> ConnectionsMax {
        let size = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        ConnectionsMax {
            all: size(config.peers_max),
            of_one_address: size(config.peers_per_address_max),
            handshakes: size(config.handshakes_max),
        }
    }
}

/// Lets connections in, or not.
pub(super) struct Door {
    max: ConnectionsMax,
    /// Empty: everybody.
    allow: Vec<IpNet>,
    ledger: Arc<Ledger>,
    /// By address: those that have a connection.
    sources: BTreeMap<IpAddr, Arc<Source>>,
    lobby: Arc<Lobby>,
    refused: Arc<Refused>,
}

/// Addresses that have no connection any more.
pub(super) type Vacated = UnboundedReceiver<IpAddr>;

impl Door {
    /// With nobody inside. What is received has to be told to [`Door::forget`].
    pub(super) fn new(config: &ServerConfig, ledger: Arc<Ledger>) -> (Door, Vacated) {
        let (vacated, receiver) = unbounded_channel();
        let door = Door {
            max: ConnectionsMax::of(config),
            allow: config.allow.clone(),
            ledger,
            sources: BTreeMap::new(),
            lobby: Arc::new(Lobby { handshakes: AtomicUsize::new(0), vacated }),
            refused: Arc::default(),
        };
        (door, receiver)
    }

    /// What is counted of those who may not come in.
    pub(super) fn refused(&self) -> &Arc<Refused> {
        &self.refused
    }

    /// Somebody comes from `address`, and there are `peers` connections already, those included that we made.
    ///
    /// # Errors
    /// Why it may not come in, which is counted.
    pub(super) fn admit(&mut self, address: IpAddr, peers: usize) -> Result<Guest, Refusal> {
        match self.judge(address, peers) {
            Some(refusal) => {
                self.refused.0[refusal as usize].fetch_add(1, Ordering::Relaxed);
                Err(refusal)
            }
            None => Ok(self.let_in(address)),
        }
    }

    /// Somebody comes from another process, whose guest it was: it is not asked whether it may.
    pub(super) fn bring_in(&mut self, address: IpAddr) -> Guest {
        self.let_in(address)
    }

    /// An address had no connection any more when that was said; now it may have one again.
    pub(super) fn forget(&mut self, address: IpAddr) {
        if self.connections(address) == 0 {
            self.sources.remove(&address);
        }
    }

    fn judge(&self, address: IpAddr, peers: usize) -> Option<Refusal> {
        let is_allowed =
            self.allow.is_empty() || self.allow.iter().any(|net| net.contains(&address));
        let handshakes = self.lobby.handshakes.load(Ordering::Relaxed);
        let refusals = [
            (!is_allowed, Refusal::NotAllowed),
            (self.ledger.pressure() >= Pressure::Connections, Refusal::Memory),
            (peers >= self.max.all, Refusal::PeersMax),
            (self.connections(address) >= self.max.of_one_address, Refusal::PeersPerAddress),
            (handshakes >= self.max.handshakes, Refusal::HandshakesMax),
        ];
        refusals.into_iter().find(|(applies, _)| *applies).map(|(_, refusal)| refusal)
    }

    fn let_in(&mut self, address: IpAddr) -> Guest {
        let lobby = &self.lobby;
        let new = || {
            let lobby = Arc::clone(lobby);
            Arc::new(Source { address, connections: AtomicUsize::new(0), lobby })
        };
        let source = Arc::clone(self.sources.entry(address).or_insert_with(new));
        source.connections.fetch_add(1, Ordering::Relaxed);
        lobby.handshakes.fetch_add(1, Ordering::Relaxed);
        Guest { source, is_established: false }
    }

    fn connections(&self, address: IpAddr) -> usize {
        let source = self.sources.get(&address);
        source.map_or(0, |source| source.connections.load(Ordering::Relaxed))
    }
}

/// Why a connection is closed at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// There are as many as there may be.
    PeersMax,
    /// Its address is not among those that may come.
    NotAllowed,
    /// Its address has as many as one may have.
    PeersPerAddress,
    /// As many as there may be have no session yet.
    HandshakesMax,
    /// There is hardly any memory left.
    Memory,
}

impl Refusal {
    /// Their names, in their order.
    pub(super) const KINDS: [&str; 5] =
        ["peers_max", "not_allowed", "peers_per_address", "handshakes_max", "memory"];
}

/// Connections that were closed at once, by [`Refusal`].
#[derive(Debug, Default)]
pub(super) struct Refused([AtomicU64; Refusal::KINDS.len()]);

impl Refused {
    /// By name.
    pub(super) fn counts(&self) -> [(&'static str, u64); Refusal::KINDS.len()] {
        std::array::from_fn(|at| (Refusal::KINDS[at], self.0[at].load(Ordering::Relaxed)))
    }
}

/// What all guests have in common.
struct Lobby {
    /// Guests whose session is not established yet.
    handshakes: AtomicUsize,
    vacated: UnboundedSender<IpAddr>,
}

/// An address that connections come from.
struct Source {
    address: IpAddr,
    connections: AtomicUsize,
    lobby: Arc<Lobby>,
}

/// Somebody inside. Goes out when it is dropped.
pub(super) struct Guest {
    source: Arc<Source>,
    is_established: bool,
}

impl Guest {
    /// Its session is established: it is no handshake any more.
    pub(super) fn established(&mut self) {
        if !std::mem::replace(&mut self.is_established, true) {
            self.source.lobby.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.established();
        let Source { address, connections, lobby } = &*self.source;
        if connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Fails when there is no acceptor any more.
            let _ = lobby.vacated.send(*address);
        }
    }
}

/// A connection's place among those of its shard: counted from its beginning until it is dropped.
pub(super) struct Place {
    shard: Arc<AtomicUsize>,
    /// None if we dialled.
    guest: Option<Guest>,
}

impl Place {
    /// One more on the shard whose connections are counted there.
    pub(super) fn new(shard: &Arc<AtomicUsize>, guest: Option<Guest>) -> Place {
        shard.fetch_add(1, Ordering::Relaxed);
        Place { shard: Arc::clone(shard), guest }
    }

    /// The connection's session is established.
    pub(super) fn established(&mut self) {
        if let Some(guest) = &mut self.guest {
            guest.established();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shard.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(config: ServerConfig) -> (Door, Vacated) {
        Door::new(&config, Arc::default())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_limit_and_leaves_nothing_behind() {
        let (mut door, mut vacated) =
            door(ServerConfig { peers_per_address_max: 2, ..Default::default() });
        let (one, other) = (ip("10.0.0.1"), ip("2001:db8::1"));
        let first = door.admit(one, 0).ok().unwrap();
        let mut second = door.admit(one, 0).ok().unwrap();
        second.established();
        assert_eq!(door.admit(one, 0).err(), Some(Refusal::PeersPerAddress));
        let third = door.admit(other, 0).ok().unwrap();
        drop(first);
        let fourth = door.admit(one, 0).ok().unwrap();
        assert_eq!(door.admit(one, 0).err(), Some(Refusal::PeersPerAddress));
        assert!(vacated.try_recv().is_err(), "it has connections");
        drop((second, fourth));
        // Back before it is forgotten: it stays.
        let fifth = door.admit(one, 0).ok().unwrap();
        door.forget(vacated.try_recv().unwrap());
        assert_eq!(door.sources.len(), 2);
        drop((third, fifth));
        while let Ok(address) = vacated.try_recv() {
            door.forget(address);
        }
        assert!(door.sources.is_empty());
        assert_eq!(door.lobby.handshakes.load(Ordering::Relaxed), 0);
        assert_eq!(door.refused.counts()[2], ("peers_per_address", 2));
    }

    #[test]
    fn handshakes_end_by_a_session_or_with_their_connection() {
        let (mut door, _vacated) = door(ServerConfig { handshakes_max: 2, ..Default::default() });
        let mut first = door.admit(ip("10.0.0.1"), 0).ok().unwrap();
        let second = door.admit(ip("10.0.0.2"), 0).ok().unwrap();
        assert_eq!(door.admit(ip("10.0.0.3"), 0).err(), Some(Refusal::HandshakesMax));
        first.established();
        first.established();
        let third = door.admit(ip("10.0.0.3"), 0).ok().unwrap();
        assert_eq!(door.admit(ip("10.0.0.4"), 0).err(), Some(Refusal::HandshakesMax));
        drop(first);
        assert_eq!(door.admit(ip("10.0.0.4"), 0).err(), Some(Refusal::HandshakesMax));
        drop((second, third));
        assert_eq!(door.lobby.handshakes.load(Ordering::Relaxed), 0);
        assert_eq!(door.refused.counts()[3], ("handshakes_max", 3));
    }

    #[test]
    fn memory_closes_the_door_only_at_the_last_level() {
        let (mut door, _vacated) = door(ServerConfig::default());
        for pressure in Pressure::ALL {
            door.ledger.press(pressure);
            let refusal = (pressure == Pressure::Connections).then_some(Refusal::Memory);
            assert_eq!(door.admit(ip("::1"), 0).err(), refusal, "{pressure:?}");
        }
        door.ledger.press(Pressure::None);
        assert!(door.admit(ip("::1"), 0).is_ok());
        assert_eq!(door.refused.counts()[4], ("memory", 1));
    }

    #[test]
    fn places_are_given_back_with_what_they_hold() {
        let (mut door, mut vacated) = door(ServerConfig::default());
        let shard = Arc::new(AtomicUsize::new(0));
        let mut guest = Place::new(&shard, door.admit(ip("::1"), 0).ok());
        let mut server = Place::new(&shard, None);
        guest.established();
        server.established();
        assert_eq!(shard.load(Ordering::Relaxed), 2);
        drop((guest, server));
        assert_eq!(shard.load(Ordering::Relaxed), 0);
        assert_eq!(vacated.try_recv(), Ok(ip("::1")));
    }

    #[test]
    fn kinds_are_in_the_order_of_refusals() {
        for (refusal, kind) in [
            (Refusal::PeersMax, "peers_max"),
            (Refusal::NotAllowed, "not_allowed"),
            (Refusal::PeersPerAddress, "peers_per_address"),
            (Refusal::HandshakesMax, "handshakes_max"),
            (Refusal::Memory, "memory"),
        ] {
            assert_eq!(Refusal::KINDS[refusal as usize], kind);
        }
    }
}
