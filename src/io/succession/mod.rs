//! Handing all connections over to another process, or taking them over, at the start.
//!
//! Owns the conversation of the two servers at a path ([`Handover`]), on threads that may wait. Must never leave a
//! connection to both, or to nobody: it is the successor's from the moment on at which that one has said so.

mod failure;
mod packets;
mod path;
mod predecessor;
mod sabotage;
mod shards;
mod successor;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
#[cfg(feature = "cli")]
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tracing::{info, warn};

use super::clock::Clock;
use super::config::ServerConfig;
use super::error::ServeError;
use super::letter::Letter;
use super::md5::Md5Keys;
use super::truce::{Recess, Truce};
use crate::handover::listener::For;
use crate::handover::{HandoverError, Listener, Version};
#[cfg(feature = "fabric")]
use crate::shard::Identity;
use crate::types::ReflectOwn;
use crate::vital;
use failure::Failure;
use predecessor::{Predecessor, Rules};
use shards::Shards;

pub(super) use successor::{Claimed, Succession};

/// How long peers may have to wait while they are handed over, in seconds.
#[cfg(feature = "cli")]
pub(crate) const HANDOVER_S: RangeInclusive<u32> = 1..=60;

/// The time unless told otherwise.
#[cfg(feature = "cli")]
pub(crate) const HANDOVER_S_DEFAULT: u32 = 5;

const OUT_OF_ORDER: HandoverError = HandoverError::Nonsense("it is not what comes now");

/// Where servers meet to hand over, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandoverOptions {
    /// The socket's file. A server that answers there hands over to the one that is started; then that one does.
    pub path: PathBuf,
    /// How long peers may have to wait at most. Then all goes on as before.
    pub time_max: Duration,
}

/// A server's part in handovers: what it takes over at its start, and what it hands over later.
pub struct Handover {
    options: HandoverOptions,
    version: Version,
    claimed: Option<Claimed>,
    /// To be handed over one day.
    http: Option<TcpListener>,
}

/// What a handover needs of a running server.
#[derive(Clone)]
pub(super) struct Ties {
    pub(super) clock: Clock,
    pub(super) hash_seed: [u64; 4],
    pub(super) recesses: UnboundedSender<Recess>,
    pub(super) truce: Truce,
    /// The fabric's mailbox, if there is one.
    pub(super) fabric: Option<UnboundedSender<Letter>>,
    /// Those of its listeners.
    pub(super) keys: Md5Keys,
}

impl Handover {
    /// Asks the server that answers at the path, if there is one, to hand over. `program` is this one's version.
    ///
    /// # Errors
    /// [`ServeError::Handover`] if it refuses, or the path is none for a socket.
    pub fn begin(options: HandoverOptions, program: &str) -> Result<Handover, ServeError> {
        let mut handover =
            Handover { options, version: Version::own(program), claimed: None, http: None };
        let reached = path::reach(&handover.options.path).map_err(|failure| handover.told(failure));
        if let Some(socket) = reached? {
            let rules = handover.rules(&ServerConfig::default());
            let claimed = successor::claim(socket, &rules);
            handover.claimed = Some(claimed.map_err(|failure| handover.told(failure))?);
        }
        Ok(handover)
    }

    /// Whether there is a server that hands over to this one.
    pub fn takes_over(&self) -> bool {
        self.claimed.is_some()
    }

    /// The other one's socket of its view, if it is at this address.
    pub fn inherit_http(&mut self, address: SocketAddr) -> Option<TcpListener> {
        successor::take_same(&mut self.claimed.as_mut()?.http, address)
    }

    /// This one's view goes over with all the rest.
    pub fn offer_http(&mut self, listener: TcpListener) {
        self.http = Some(listener);
    }

    /// Whether a server of this configuration may take over.
    ///
    /// # Errors
    /// [`ServeError::Handover`] with what must not differ.
    pub(super) fn judge(&self, config: &ServerConfig) -> Result<(), ServeError> {
        let Some(claimed) = &self.claimed else { return Ok(()) };
        claimed.judge(&self.rules(config)).map_err(|failure| {
            claimed.refuse(&failure);
            self.told(failure)
        })
    }

    /// What the other one offers.
    pub(super) fn claimed(&mut self) -> &mut Option<Claimed> {
        &mut self.claimed
    }

    /// Tells the other one that nothing will come of it.
    pub(super) fn refuse(&self, why: &ServeError) {
        self.claimed.iter().for_each(|claimed| claimed.refuse(why));
    }

    /// Hands over to whoever asks at the path from now on, on a thread of its own.
    ///
    /// # Errors
    /// If nobody can ask there.
    pub(super) fn serve(
        self,
        config: &ServerConfig,
        shards: Vec<UnboundedSender<Letter>>,
        ties: Ties,
        listeners: &[TcpListener],
    ) -> Result<(), ServeError> {
        let socket = path::listen_at(&self.options.path).map_err(|failure| self.told(failure))?;
        let peers = listeners.iter().map(|listener| offered(For::Peers, listener));
        let http = self.http.iter().map(|listener| offered(For::Http, listener));
        let listeners: std::io::Result<Vec<_>> = peers.chain(http).collect();
        let listeners = listeners
            .map_err(|source| ServeError::Start { what: "the handover's sockets", source })?;
        let predecessor = Predecessor {
            shards: Shards { mailboxes: shards, fabric: ties.fabric.clone() },
            ties,
            rules: self.rules(config),
            listeners,
            time_max: self.options.time_max,
        };
        vital::spawn("handover", move || predecessor.serve(&socket))
            .map_err(|source| ServeError::Start { what: "the handover's thread", source })?;
        info!("whoever is started with --handover {} takes over", self.options.path.display());
        Ok(())
    }

    /// After a succession all goes on, even if no other one can follow.
    pub(super) fn serve_on(
        self,
        config: &ServerConfig,
        shards: Vec<UnboundedSender<Letter>>,
        ties: Ties,
        listeners: &[TcpListener],
    ) {
        if let Err(error) = self.serve(config, shards, ties, listeners) {
            warn!("nobody can take over from this server: {error}");
        }
    }

    fn rules(&self, config: &ServerConfig) -> Rules {
        let reflect_own = match config.reflect_own {
            ReflectOwn::None => "none",
            ReflectOwn::LoadBalancer => "lb",
            ReflectOwn::AllButNat => "all-but-nat",
        };
        let (fabric, fabric_name, fabric_identity, fabric_creds) = fabric_rules(config);
        let version = self.version.clone();
        Rules { version, reflect_own, fabric, fabric_name, fabric_identity, fabric_creds }
    }

    fn told(&self, failure: Failure) -> ServeError {
        ServeError::Handover(format!("{}: {failure}", self.options.path.display()))
    }
}

/// The fabric, our name there, how hosts are told apart, and whether we have credentials.
#[cfg(feature = "fabric")]
fn fabric_rules(config: &ServerConfig) -> (String, String, &'static str, bool) {
    let Some(options) = &config.fabric else { return Default::default() };
    let identity = match options.identity {
        Identity::Address => "address",
        Identity::Connection => "none",
    };
    let has_creds = options.credentials_file.is_some();
    (options.address.fabric.to_string(), options.name.to_string(), identity, has_creds)
}

/// There is none.
#[cfg(not(feature = "fabric"))]
fn fabric_rules(_: &ServerConfig) -> (String, String, &'static str, bool) {
    Default::default()
}

/// A listening socket to be handed over, and what it is told as.
fn offered(what: For, listener: &TcpListener) -> std::io::Result<(Listener, OwnedFd)> {
    let address = listener.local_addr()?.to_string();
    Ok((Listener { r#for: what.into(), address }, listener.try_clone()?.into()))
}

/// Whether a socket that is bound there is what was asked for: where there is no IPv6, `[::]` is `0.0.0.0`.
fn is_same(asked: SocketAddr, bound: SocketAddr) -> bool {
    let asked_as_ipv4 = match asked.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, asked.port()))
        }
        _ => asked,
    };
    bound == asked || bound == asked_as_ipv4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_what_was_asked_for() {
        let is_same =
            |asked: &str, bound: &str| is_same(asked.parse().unwrap(), bound.parse().unwrap());
        assert!(is_same("[::]:4711", "[::]:4711") && is_same("[::]:4711", "0.0.0.0:4711"));
        assert!(is_same("10.0.0.1:1", "10.0.0.1:1") && is_same("[fe80::1%2]:1", "[fe80::1%2]:1"));
        assert!(!is_same("[::]:4711", "[::]:4712") && !is_same("0.0.0.0:4711", "[::]:4711"));
        assert!(!is_same("[::1]:4711", "[::]:4711") && !is_same("[fe80::1%3]:1", "[fe80::1%2]:1"));
        assert!(!is_same("[::]:0", "[::]:4711"));
    }
}
