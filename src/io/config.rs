//! What a node is told at its start.
//!
//! Owns the settings, their ranges and their defaults. Must never ask the system for anything.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::error::ServeError;
#[cfg(feature = "fabric")]
use super::fabric_options::FabricOptions;
use super::md5::Md5Key;
use super::memory::MemoryMax;
use super::policy::PolicyConfig;
use crate::session::{KEEPALIVE_INTERVAL_S_DEFAULT, KEEPALIVE_INTERVAL_S_MAX};
use crate::shard::Limits;
use crate::types::{Pace, PeerId, ReflectOwn, ShardId};

/// Payload bytes of a segment unless told otherwise: what passes any path of this network, whose MTU is
/// 1280 at least (60 bytes of headers). A path that swallows more than that without a word is common.
pub const SEGMENT_BYTES_MAX_DEFAULT: u16 = 1220;

/// What a limit of segments may be. The kernel takes less and more; below, routes would not fit.
pub(crate) const SEGMENT_BYTES: RangeInclusive<u16> = 536..=32_767;

/// What may be said of memory, in MiB. Below, hardly anything could be served.
pub(crate) const MEMORY_MIB: RangeInclusive<u32> = 32..=1 << 24;

/// What the time for closing peers may be.
pub(crate) const DRAIN_TIME_S_MAX: u32 = 3600;

/// The most shards that there may be.
pub(crate) const CORES_MAX: u16 = ShardId::MAX.0 + 1;

/// What a node is told at its start, be it a server, a client or both.
///
/// More settings may come: build it with `..ServerConfig::default()`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    /// Addresses to listen on from the start; port 0 takes a free one. An IPv6 address that stands for all
    /// (`[::]:4711`) takes IPv4 as well, or alone where there is no IPv6. An address that no interface
    /// has yet is waited for, up to 10 s; if there are others, one that cannot be had is left out with a
    /// warning.
    pub listen: Vec<SocketAddr>,
    /// Payload bytes of a TCP segment at most, of those that we send and those that are sent to us:
    /// 536..=32767; 0 leaves it to the path. Does not count for loopback addresses.
    pub segment_bytes_max: u16,
    /// Shards, each a thread: 1..=1024, or 0 for one for each CPU. One is plenty for a hypervisor.
    pub cores: u16,
    /// The keepalive interval to offer, in seconds: 1..=86400, or 0 for the default of 5.
    pub keepalive_interval_s: u32,
    /// Which of its own routes a peer gets back.
    pub reflect_own: ReflectOwn,
    /// How fast peers are fed that do not reassemble; a rate is at least 1.
    pub pace: Pace,
    /// Connections at a time, 1..=1048576; more are closed at once.
    pub peers_max: u32,
    /// Connections from one address at a time, 1..=1048576; more are closed at once. Each IPv6 address counts by
    /// itself, so a host with a network of its own has many.
    pub peers_per_address_max: u32,
    /// Connections whose session is not established yet, 1..=1048576; more are closed at once. A handshake takes 10 s
    /// at most.
    pub handshakes_max: u32,
    /// From which addresses connections are taken; others are closed at once. Empty: from all.
    pub allow: Vec<IpNet>,
    /// Keys that connections are signed with (TCP MD5 signatures): of peers at the addresses that it listens on, and of
    /// servers that it connects to. An address that has none connects unsigned. Networks of IPv6 do not stand for
    /// IPv4.
    pub tcp_md5: Vec<Md5Key>,
    /// The memory that the process may use, 32..=16777216 MiB. Near it slow peers are told the difference only, then
    /// new routes, subscriptions and connections are refused.
    pub memory_max: MemoryMax,
    /// What peers that connect to this node may announce.
    pub policy: PolicyConfig,
    /// What one peer may ask for, and the memory that slow peers may take; of the bytes of queues each shard
    /// has an equal part.
    pub limits: Limits,
    /// Over which time peers are closed when it ends, up to an hour: zero is at once. So a fleet does not come to the
    /// other servers in one instant.
    pub drain_time: Duration,
    /// How long routes of a lost server that this node dialled stay, in case it comes back.
    pub stale_time: Duration,
    /// The fabric that it belongs to: several reflectors that see each other's routes.
    #[cfg(feature = "fabric")]
    pub fabric: Option<FabricOptions>,
}

impl Default for ServerConfig {
    /// No address, one shard, and the defaults of the command line.
    fn default() -> ServerConfig {
        ServerConfig {
            listen: Vec::new(),
            segment_bytes_max: SEGMENT_BYTES_MAX_DEFAULT,
            cores: 1,
            keepalive_interval_s: KEEPALIVE_INTERVAL_S_DEFAULT,
            reflect_own: ReflectOwn::None,
            pace: Pace::Auto,
            peers_max: 65_536,
            peers_per_address_max: 16_384,
            // Twice as many, so that one address alone cannot keep others out.
            handshakes_max: 32_768,
            allow: Vec::new(),
            tcp_md5: Vec::new(),
            memory_max: MemoryMax::Unlimited,
            policy: PolicyConfig::default(),
            limits: Limits::default(),
            drain_time: Duration::ZERO,
            stale_time: Duration::ZERO,
            #[cfg(feature = "fabric")]
            fabric: None,
        }
    }
}

impl ServerConfig {
    /// Whether each setting is in its range.
    ///
    /// # Errors
    /// [`ServeError::OutOfRange`] with the first that is not.
    pub(super) fn judge(&self) -> Result<(), ServeError> {
        let pace = match self.pace {
            Pace::RoutesPerS(routes_per_s) => routes_per_s,
            Pace::Auto | Pace::Off => 1,
        };
        let (segment_min, segment_max) = (*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let segment = match self.segment_bytes_max {
            0 => segment_max,
            bytes_max => bytes_max,
        };
        let memory_mib = match self.memory_max {
            MemoryMax::Mib(mib) => mib,
            MemoryMax::Unlimited | MemoryMax::Auto => *MEMORY_MIB.start(),
        };
        let drain_time_s = u32::try_from(self.drain_time.as_secs()).unwrap_or(u32::MAX);
        let settings = [
            ("drain_time", drain_time_s, 0, DRAIN_TIME_S_MAX),
            ("memory_max", memory_mib, *MEMORY_MIB.start(), *MEMORY_MIB.end()),
            ("cores", u32::from(self.cores), 0, u32::from(CORES_MAX)),
            ("keepalive_interval_s", self.keepalive_interval_s, 0, KEEPALIVE_INTERVAL_S_MAX),
            ("pace", pace, 1, u32::MAX),
            ("peers_max", self.peers_max, 1, PeerId::SLOTS),
            ("peers_per_address_max", self.peers_per_address_max, 1, PeerId::SLOTS),
            ("handshakes_max", self.handshakes_max, 1, PeerId::SLOTS),
            ("segment_bytes_max", segment.into(), segment_min.into(), segment_max.into()),
        ];
        for (setting, value, min, max) in settings {
            if !(min..=max).contains(&value) {
                return Err(ServeError::OutOfRange { setting, value, min, max });
            }
        }
        #[cfg(feature = "fabric")]
        if let Some(fabric) = &self.fabric {
            fabric.judge().map_err(|error| ServeError::Fabric(error.to_string()))?;
            if self.cores == CORES_MAX {
                let (setting, value, max) = ("cores", CORES_MAX.into(), u32::from(CORES_MAX) - 1);
                return Err(ServeError::OutOfRange { setting, value, min: 0, max });
            }
        }
        Ok(())
    }
}
