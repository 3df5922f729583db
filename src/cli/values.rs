//! The values of flags: from text to what they mean.
//!
//! Owns what the commands have in common. Must never know which flag a value belongs to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use ipnet::IpNet;
use std::path::PathBuf;
use std::time::Duration;

use crate::io::{CORES_MAX, DRAIN_TIME_S_MAX, HANDOVER_S, MEMORY_MIB, MemoryMax, SEGMENT_BYTES};
use crate::policy::{NextHopPolicy, NextHopPolicyError};
use crate::session::KEEPALIVE_INTERVAL_S_MAX;
use crate::shard::Limits;
use crate::types::{HostPort, HostPortError, Pace, PeerId, ReflectOwn, Vni};

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

/// A network, or a single address. One of IPv4 in IPv6 dress is IPv4: so its peers are known.
pub(super) fn network(value: &str) -> Result<IpNet, String> {
    let net = match value.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => {
            value.parse::<IpNet>().map_err(|_| "it is no address and no network".to_owned())?
        }
    };
    let mapped = match net.addr() {
        IpAddr::V6(address) if net.prefix_len() >= 96 => address.to_ipv4_mapped(),
        _ => None,
    };
    let net = match mapped {
        Some(address) => IpNet::new(address.into(), net.prefix_len() - 96).unwrap_or(net),
        None => net,
    };
    Ok(net.trunc())
}

/// A network and a file, with a `=` between.
pub(super) fn network_and_file(value: &str) -> Result<(IpNet, String), String> {
    let (net, file) = value.split_once('=').ok_or("no = between the network and the file")?;
    if file.is_empty() {
        return Err("no file behind the =".to_owned());
    }
    Ok((network(net)?, file.to_owned()))
}

pub(super) fn host_port(value: &str) -> Result<HostPort, String> {
    value.parse().map_err(|error: HostPortError| error.to_string())
}

pub(super) fn listen_default() -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 4711))]
}

pub(super) fn routes_max_default() -> u32 {
    u32::try_from(Limits::default().routes_max).unwrap_or(u32::MAX)
}

pub(super) fn subscriptions_max_default() -> u32 {
    u32::try_from(Limits::default().subscriptions_max).unwrap_or(u32::MAX)
}

pub(super) fn queue_mib_per_peer_default() -> u32 {
    (Limits::default().queue_bytes_per_peer_max >> 20) as u32
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

pub(super) fn memory(value: &str) -> Result<MemoryMax, String> {
    match value {
        "auto" => Ok(MemoryMax::Auto),
        _ => number(value, *MEMORY_MIB.start(), *MEMORY_MIB.end()).map(MemoryMax::Mib),
    }
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

/// How long peers may wait.
pub(super) fn handover_seconds(value: &str) -> Result<u32, String> {
    number(value, *HANDOVER_S.start(), *HANDOVER_S.end())
}

/// Up to a day.
pub(super) fn seconds(value: &str) -> Result<u32, String> {
    number(value, 0, 86_400)
}

pub(super) fn drain_seconds(value: &str) -> Result<u32, String> {
    number(value, 0, DRAIN_TIME_S_MAX)
}

pub(super) fn connections(value: &str) -> Result<u32, String> {
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

pub(super) fn next_hop_policy(value: &str) -> Result<NextHopPolicy, String> {
    value.parse().map_err(|error: NextHopPolicyError| error.to_string())
}

/// It is read when the server starts.
pub(super) fn policy_file(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("no file is named".into()) } else { Ok(value.into()) }
}

pub(super) fn pace(value: &str) -> Result<Pace, String> {
    match value {
        "auto" => Ok(Pace::Auto),
        "off" => Ok(Pace::Off),
        _ => at_least_one(value).map(Pace::RoutesPerS),
    }
}

pub(super) fn vni(text: &str, max: u32) -> Result<Vni, String> {
    number(text, 0, max).map(Vni).map_err(|_| format!("the VNI {text:?} is not from 0 to {max}"))
}

/// Where a node answers over HTTP: an address and a port, also as a URL.
pub(super) fn http_address(text: &str) -> Result<HostPort, String> {
    if text.starts_with("https://") {
        return Err("there is no TLS: ask what stands before it, by http://".to_owned());
    }
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    HostPort::of_server(bare).map_err(|error| error.to_string())
}

/// A length of time: `30s`, `500ms`, `2m`, `1h`, or seconds alone; up to a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("its unit is not ms, s, m or h".to_owned()),
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = digits.parse().ok().filter(|_| is_number);
    let time_ms = number.ok_or("not a whole number")?.checked_mul(unit_ms);
    time_ms
        .filter(|time_ms| *time_ms <= 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "more than a day".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, time_ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("2min", 120_000),
            ("24h", 86_400_000),
            ("7", 7_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(time_ms)), "{text}");
        }
        for text in
            ["", "s", "-1s", "+1", "1.5s", "1 s", "25h", "1d", "99999999999999999999h", "1ß"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn where_to_ask() {
        let ask = |text| http_address(text).map(|address| address.to_string());
        for text in ["[::1]:4712", "http://[::1]:4712", "http://[::1]:4712/"] {
            assert_eq!(ask(text).as_deref(), Ok("[::1]:4712"), "{text}");
        }
        assert_eq!(ask(":4712").as_deref(), Ok("localhost:4712"));
        assert_eq!(ask("http://:4712").as_deref(), Ok("localhost:4712"));
        for (text, words) in [
            ("https://[::1]:4712", "no TLS"),
            ("http://[::1]", "port is missing"),
            ("http://a:1/x", "is no port"),
            ("ftp://a:1", "without"),
            ("a:0", "port 0"),
            ("4712", "host is missing"),
        ] {
            assert!(ask(text).unwrap_err().contains(words), "{text}: {:?}", ask(text));
        }
    }
}
