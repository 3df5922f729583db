//! How a node is told to join a fabric.
//!
//! Owns the settings, their ranges and their grammar. Must never ask the system for anything, nor repeat a secret.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::fabric::check_name;
use crate::shard::Identity;
use crate::types::{HostPort, HostPortError};

/// Where NATS listens unless told otherwise.
const PORT_DEFAULT: u16 = 4222;

/// What each timer may be, in seconds. The engine keeps the mark of an ended lease for half an hour, so nothing that
/// counts from it can take longer.
pub(crate) const HEARTBEAT_S: RangeInclusive<u32> = 1..=60;
pub(crate) const LEASE_S: RangeInclusive<u32> = 2..=600;
pub(crate) const STALE_S: RangeInclusive<u32> = 3..=1800;
pub(crate) const RESTART_S: RangeInclusive<u32> = 1..=86_400;
pub(crate) const HOLD_S: RangeInclusive<u32> = 1..=604_800;

/// How many servers may keep the stream: more than NATS takes is refused by it.
pub(crate) const REPLICAS: RangeInclusive<u32> = 1..=5;

/// The fabric that a node belongs to, and how it takes part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FabricOptions {
    /// The servers of the engine, and the fabric's name.
    pub address: FabricAddress,
    /// What this reflector is called; no other one of the fabric may have the same name.
    pub name: FabricName,
    /// The file with what NATS knows us by (`.creds`).
    pub credentials_file: Option<PathBuf>,
    /// The file with the certificates (PEM) of whoever signed the servers'; with it, only TLS is spoken.
    pub ca_file: Option<PathBuf>,
    /// By what a peer is known that is connected to several reflectors.
    pub identity: Identity,
    /// Records of other reflectors that are taken at most.
    pub routes_max: u64,
    /// How many servers keep the stream if it has to be created: 1 to 5; 0 for 3 if three servers are named, else 1.
    pub replicas: u32,
    /// How often the others are told that this reflector lives: 1 s to 60 s.
    pub heartbeat: Duration,
    /// After which silence it counts as gone: 2 s to 600 s, and two heartbeats at least.
    pub lease: Duration,
    /// How long routes of a reflector stay that is gone: 3 s to 1800 s, and longer than a lease.
    pub stale_time: Duration,
    /// How long peers may take to come back after a restart before what they announced is withdrawn: 1 s to a day.
    pub restart_time: Duration,
    /// How long routes of others stay while the engine is out of reach: 1 s to a week.
    pub hold_time: Duration,
}

impl FabricOptions {
    /// With the defaults of the command line.
    pub fn new(address: FabricAddress, name: FabricName) -> FabricOptions {
        FabricOptions {
            address,
            name,
            credentials_file: None,
            ca_file: None,
            identity: Identity::default(),
            routes_max: 10_000_000,
            replicas: 0,
            heartbeat: Duration::from_secs(3),
            lease: Duration::from_secs(10),
            stale_time: Duration::from_secs(120),
            restart_time: Duration::from_secs(120),
            hold_time: Duration::from_secs(3600),
        }
    }

    /// How many servers keep the stream if it has to be created.
    pub fn replicas_wanted(&self) -> u32 {
        match self.replicas {
            // Whoever names three has a cluster of three. Of one name nobody knows what stands behind it.
            0 if self.address.hosts.len() >= 3 => 3,
            0 => 1,
            replicas => replicas,
        }
    }

    /// Whether the settings are in their ranges, and fit each other.
    ///
    /// # Errors
    /// [`FabricOptionsError`] with the first that is wrong.
    pub(crate) fn judge(&self) -> Result<(), FabricOptionsError> {
        let replicas = match self.replicas {
            0 => *REPLICAS.start(),
            replicas => replicas,
        };
        let settings = [
            ("--fabric-replicas", replicas, REPLICAS),
            ("--fabric-heartbeat", seconds(self.heartbeat), HEARTBEAT_S),
            ("--fabric-lease", seconds(self.lease), LEASE_S),
            ("--fabric-stale-time", seconds(self.stale_time), STALE_S),
            ("--fabric-restart-time", seconds(self.restart_time), RESTART_S),
            ("--fabric-hold-time", seconds(self.hold_time), HOLD_S),
        ];
        for (flag, value, range) in settings {
            if !range.contains(&value) {
                let (min, max) = (*range.start(), *range.end());
                return Err(FabricOptionsError::OutOfRange { flag, value, min, max });
            }
        }
        let (heartbeat_s, lease_s) = (seconds(self.heartbeat), seconds(self.lease));
        if lease_s < 2 * heartbeat_s {
            return Err(FabricOptionsError::LeaseTooShort { lease_s, heartbeat_s });
        }
        let stale_time_s = seconds(self.stale_time);
        if stale_time_s <= lease_s {
            return Err(FabricOptionsError::StaleTooShort { stale_time_s, lease_s });
        }
        Ok(())
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// What is wrong with [`FabricOptions`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum FabricOptionsError {
    /// A number.
    #[error("{flag} is {value}: it must be from {min} to {max}")]
    OutOfRange {
        /// The flag.
        flag: &'static str,
        /// What it was set to.
        value: u32,
        /// The least that it may be.
        min: u32,
        /// The most that it may be.
        max: u32,
    },
    /// One lost heartbeat would end it.
    #[error(
        "--fabric-lease is {lease_s} s: it must be two heartbeats at least, and --fabric-heartbeat is {heartbeat_s} s"
    )]
    LeaseTooShort {
        /// The lease.
        lease_s: u32,
        /// The heartbeat.
        heartbeat_s: u32,
    },
    /// Routes would be gone as soon as a reflector is silent.
    #[error(
        "--fabric-stale-time is {stale_time_s} s: it must be more than --fabric-lease, which is {lease_s} s"
    )]
    StaleTooShort {
        /// The stale time.
        stale_time_s: u32,
        /// The lease.
        lease_s: u32,
    },
}

/// The name of a fabric, or of a reflector in it: 1 to 32 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FabricName(String);

impl FabricName {
    /// As it stands in subjects.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a host's name: what stands before the first dot. None if that is no such name.
    pub fn of_host(host: &str) -> Option<FabricName> {
        host.split('.').next()?.parse().ok()
    }
}

impl FromStr for FabricName {
    type Err = FabricNameError;

    fn from_str(text: &str) -> Result<FabricName, FabricNameError> {
        match check_name(text) {
            Ok(()) => Ok(FabricName(text.to_owned())),
            Err(_) => Err(FabricNameError),
        }
    }
}

impl fmt::Display for FabricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// It is no [`FabricName`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a name has 1 to 32 characters, which are letters, digits, - and _")]
pub struct FabricNameError;

/// `nats://host[:port][,host[:port]...]/NAME`, or `tls://`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FabricAddress {
    /// Servers of one cluster, one at least.
    pub hosts: Vec<HostPort>,
    /// Whether only TLS is spoken.
    pub is_tls: bool,
    /// The fabric's name.
    pub fabric: FabricName,
}

impl FabricAddress {
    /// The servers as URLs.
    pub fn urls(&self) -> impl Iterator<Item = String> {
        let scheme = if self.is_tls { "tls" } else { "nats" };
        self.hosts.iter().map(move |host| format!("{scheme}://{host}"))
    }
}

/// What is wrong with the text of a [`FabricAddress`]. It repeats nothing where a password may stand.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum FabricAddressError {
    /// Another kind of URL, or none.
    #[error("it begins with nats:// or tls://")]
    Scheme,
    /// Credentials in the URL, which anybody sees who lists processes.
    #[error(
        "it has no user and no password in it: credentials stand in a file, see --fabric-creds"
    )]
    Secret,
    /// Nothing behind the servers.
    #[error(
        "the fabric's name is missing: it stands behind the servers, as in nats://nats.example/MAIN"
    )]
    NoName,
    /// It cannot be a token.
    #[error("{0:?} cannot be the name of a fabric: {FabricNameError}")]
    Name(String),
    /// No server.
    #[error("no server stands before, behind or between the commas")]
    NoHost,
    /// One of the servers.
    #[error("{0:?}: {1}")]
    Host(String, HostPortError),
    /// One that no URL can have.
    #[error(
        "{0:?} cannot be used: NATS is reached by URLs, which have neither {1:?} nor link-local addresses. Take another \
         address, or a name"
    )]
    Url(String, char),
}

impl FromStr for FabricAddress {
    type Err = FabricAddressError;

    fn from_str(text: &str) -> Result<FabricAddress, FabricAddressError> {
        let (is_tls, rest) = match text.split_once("://") {
            Some(("nats", rest)) => (false, rest),
            Some(("tls", rest)) => (true, rest),
            _ => return Err(FabricAddressError::Scheme),
        };
        if rest.contains('@') {
            return Err(FabricAddressError::Secret);
        }
        let (hosts, name) = rest.split_once('/').ok_or(FabricAddressError::NoName)?;
        if name.is_empty() {
            return Err(FabricAddressError::NoName);
        }
        let fabric = name.parse().map_err(|_| FabricAddressError::Name(name.to_owned()))?;
        let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
        Ok(FabricAddress { hosts, is_tls, fabric })
    }
}

impl fmt::Display for FabricAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(HostPort::to_string).collect();
        let scheme = if self.is_tls { "tls" } else { "nats" };
        write!(f, "{scheme}://{}/{}", hosts.join(","), self.fabric)
    }
}

/// A server, with a port or without.
fn host(text: &str) -> Result<HostPort, FabricAddressError> {
    if text.is_empty() {
        return Err(FabricAddressError::NoHost);
    }
    if let Some(sign) = text.chars().find(|sign| "%<>^|\\".contains(*sign)) {
        return Err(FabricAddressError::Url(text.to_owned(), sign));
    }
    let has_port = match text.rsplit_once(']') {
        Some((_, behind)) => !behind.is_empty(),
        None => text.contains(':'),
    };
    let whole = if has_port { text.to_owned() } else { format!("{text}:{PORT_DEFAULT}") };
    HostPort::of_server(&whole).map_err(|error| FabricAddressError::Host(text.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, as_told) in [
            ("nats://a/F", "nats://a:4222/F"),
            ("nats://a:1,b,[::1],[::2]:5/f-1_X", "nats://a:1,b:4222,[::1]:4222,[::2]:5/f-1_X"),
            ("tls://nats.example/MAIN", "tls://nats.example:4222/MAIN"),
            ("nats://:4222/x", "nats://localhost:4222/x"),
        ] {
            let address: FabricAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), as_told);
            assert_eq!(as_told.parse(), Ok(address), "{text}");
        }
        let address: FabricAddress = "tls://a,b:1/F".parse().unwrap();
        assert_eq!(address.urls().collect::<Vec<_>>(), ["tls://a:4222", "tls://b:1"]);
    }

    #[test]
    fn what_is_wrong_says_what_to_do() {
        for (text, words) in [
            ("", "begins with nats://"),
            ("a/F", "begins with nats://"),
            ("http://a/F", "begins with nats://"),
            ("nats://a", "name is missing"),
            ("nats://a/", "name is missing"),
            ("nats:///F", "no server"),
            ("nats://a,/F", "no server"),
            ("nats://a/F/G", "\"F/G\" cannot be the name"),
            ("nats://a/F.G", "letters, digits"),
            ("nats://a/*", "letters, digits"),
            ("nats://a/012345678901234567890123456789012", "1 to 32 characters"),
            ("nats://[fe80::1%eth0],a/F", "link-local"),
            ("nats://a|b/F", "neither '|'"),
            ("nats://a:0/F", "port 0"),
            ("nats://a:x/F", "is no port"),
            ("nats://::1/F", "brackets"),
            ("nats://a b/F", "no name of a host"),
            ("nats://a?x=1/F", "no name of a host"),
        ] {
            let error = text.parse::<FabricAddress>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let error = "nats://u:hunter2@a/F".parse::<FabricAddress>().unwrap_err();
        assert!(error.to_string().contains("--fabric-creds"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn names_of_hosts() {
        let name = |host| FabricName::of_host(host).map(|name| name.to_string());
        assert_eq!(name("rr-1.zone.example").as_deref(), Some("rr-1"));
        assert_eq!(name("rr_1").as_deref(), Some("rr_1"));
        for host in ["", ".x", "r r", "é", &"x".repeat(33)] {
            assert_eq!(name(host), None, "{host}");
        }
    }

    #[test]
    fn timers_fit_each_other() {
        let options = || FabricOptions::new("nats://a/F".parse().unwrap(), "r".parse().unwrap());
        assert_eq!(options().judge(), Ok(()));
        let s = Duration::from_secs;
        for (options, words) in [
            (FabricOptions { heartbeat: s(0), ..options() }, "--fabric-heartbeat is 0: "),
            (FabricOptions { heartbeat: s(61), ..options() }, "from 1 to 60"),
            (FabricOptions { heartbeat: s(6), ..options() }, "two heartbeats"),
            (FabricOptions { lease: s(5), ..options() }, "two heartbeats"),
            (FabricOptions { lease: s(1), ..options() }, "from 2 to 600"),
            (FabricOptions { stale_time: s(10), ..options() }, "more than --fabric-lease"),
            (FabricOptions { stale_time: s(1801), ..options() }, "from 3 to 1800"),
            (FabricOptions { restart_time: s(0), ..options() }, "--fabric-restart-time is 0"),
            (FabricOptions { hold_time: s(604_801), ..options() }, "from 1 to 604800"),
            (FabricOptions { replicas: 6, ..options() }, "from 1 to 5"),
        ] {
            let error = options.judge().expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        let tight = FabricOptions { heartbeat: s(1), lease: s(2), stale_time: s(3), ..options() };
        assert_eq!(tight.judge(), Ok(()));
    }

    #[test]
    fn a_cluster_keeps_three_copies() {
        let wanted = |text: &str, replicas| {
            let options = FabricOptions::new(text.parse().unwrap(), "r".parse().unwrap());
            FabricOptions { replicas, ..options }.replicas_wanted()
        };
        assert_eq!(wanted("nats://a/F", 0), 1);
        assert_eq!(wanted("nats://a,b/F", 0), 1);
        assert_eq!(wanted("nats://a,b,c/F", 0), 3);
        assert_eq!(wanted("nats://a/F", 3), 3);
        assert_eq!(wanted("nats://a,b,c/F", 1), 1);
    }
}
