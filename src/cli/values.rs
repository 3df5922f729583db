//! The values of flags: from text to what they mean.
//!
//! Owns what the commands have in common. Must never know which flag a value belongs to.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};

use crate::io::{CORES_MAX, SEGMENT_BYTES};
use crate::session::KEEPALIVE_INTERVAL_S_MAX;
use crate::shard::Limits;
use crate::types::{HostPort, HostPortError, Pace, PeerId, ReflectOwn};

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
    /// `key=value` pairs.
    Logfmt,
}

pub(super) fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        "logfmt" => Ok(LogFormat::Logfmt),
        _ => Err("none of its words".into()),
    }
}

pub(super) fn listen(value: &str) -> Result<Vec<SocketAddr>, String> {
    let HostPort { host, port } = host_port(value)?;
    if host.is_empty() {
        return Ok(vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))]);
    }
    let addresses = (host.as_str(), port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut listen: Vec<SocketAddr> = addresses.collect();
    listen.sort();
    listen.dedup();
    if listen.is_empty() { Err("the name has no address".into()) } else { Ok(listen) }
}

pub(super) fn host_port(value: &str) -> Result<HostPort, String> {
    value.parse().map_err(|error: HostPortError| error.to_string())
}

pub(super) fn listen_default() -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 4711))]
}

pub(super) fn queue_mib_default() -> u32 {
    (Limits::default().queue_bytes_max >> 20) as u32
}

pub(super) fn number(value: &str, min: u32, max: u32) -> Result<u32, String> {
    let number: u64 = value.parse().map_err(|_| "not a number in its range".to_string())?;
    match u32::try_from(number) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err("out of range".into()),
    }
}

pub(super) fn at_least_one(value: &str) -> Result<u32, String> {
    number(value, 1, u32::MAX)
}

pub(super) fn cores(value: &str) -> Result<u16, String> {
    number(value, 1, u32::from(CORES_MAX)).map(|cores| cores as u16)
}

/// 0 is for what the path takes.
pub(super) fn mss(value: &str) -> Result<u16, String> {
    match value {
        "auto" | "0" => Ok(0),
        _ => number(value, (*SEGMENT_BYTES.start()).into(), (*SEGMENT_BYTES.end()).into())
            .map(|bytes| bytes as u16),
    }
}

pub(super) fn keepalive(value: &str) -> Result<u32, String> {
    number(value, 0, KEEPALIVE_INTERVAL_S_MAX)
}

pub(super) fn peers_max(value: &str) -> Result<u32, String> {
    number(value, 1, PeerId::SLOTS)
}

pub(super) fn reflect_own(value: &str) -> Result<ReflectOwn, String> {
    match value {
        "none" => Ok(ReflectOwn::None),
        "lb" => Ok(ReflectOwn::LoadBalancer),
        "all-but-nat" => Ok(ReflectOwn::AllButNat),
        _ => Err("none of its words".into()),
    }
}

pub(super) fn pace(value: &str) -> Result<Pace, String> {
    match value {
        "auto" => Ok(Pace::Auto),
        "off" => Ok(Pace::Off),
        _ => at_least_one(value).map(Pace::RoutesPerS),
    }
}
