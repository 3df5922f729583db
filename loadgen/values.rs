//! The values of flags: from words to what they mean.
//!
//! Owns their forms and ranges. Must never know which flag has them: the command line does, and says what is
//! expected.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use metalbond_uring::types::{HostPort, HostPortError};

use crate::hostile::Hostility;
use crate::pipeline::Stall;
use crate::shared::Sabotage;
use crate::sizes::Scenario;

/// The update at which a single stall comes.
const STALL_AT: u64 = 1_000;

/// Where a server may be; argh would take a plain `Vec` for a flag that may be repeated.
pub type Addresses = Vec<SocketAddr>;

/// A scenario.
pub fn scenario_named(value: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.iter().find(|(_, name)| *name == value);
    found.map(|(scenario, _)| *scenario).ok_or("no such scenario".to_owned())
}

/// What hostile peers do.
pub fn hostility(value: &str) -> Result<Hostility, String> {
    let found = Hostility::ALL.iter().find(|(_, name)| *name == value);
    found.map(|(hostility, _)| *hostility).ok_or("no such hostility".to_owned())
}

fn number(value: &str, min: u32, max: u32) -> Result<u32, String> {
    match value.parse::<u64>().map(u32::try_from) {
        Ok(Ok(number)) if (min..=max).contains(&number) => Ok(number),
        Ok(_) => Err("out of range".to_owned()),
        Err(_) => Err("not a number in its range".to_owned()),
    }
}

/// A number that is not 0.
pub fn at_least_one(value: &str) -> Result<u32, String> {
    number(value, 1, u32::MAX)
}

/// Any number.
pub fn number_up_to_u32(value: &str) -> Result<u32, String> {
    number(value, 0, u32::MAX)
}

/// A number of threads or shards.
pub fn one_to_1024(value: &str) -> Result<u32, String> {
    number(value, 1, 1024)
}

/// A keepalive interval in seconds.
pub fn keepalive(value: &str) -> Result<u32, String> {
    number(value, 1, 86_400)
}

fn decimal(value: &str, min: f64, max: f64) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(_) => Err("out of range".to_owned()),
        Err(_) => Err("not a number".to_owned()),
    }
}

/// Updates a second.
pub fn per_second(value: &str) -> Result<f64, String> {
    decimal(value, 0.1, 1e7)
}

/// A time.
pub fn seconds(value: &str) -> Result<f64, String> {
    decimal(value, 0.1, 86_400.0)
}

/// All addresses of a name, or the one that is given.
pub fn addresses(value: &str) -> Result<Addresses, String> {
    let HostPort { host, port } =
        HostPort::of_server(value).map_err(|error: HostPortError| error.to_string())?;
    let resolved = (host.as_str(), port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses = Addresses::new();
    for address in resolved {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
}

/// The servers of a list with commas between, in its order. An error has the text that is wrong.
pub fn each_address(list: &str) -> Result<Vec<Addresses>, (String, String)> {
    let mut servers: Vec<Addresses> = Vec::new();
    for text in list.split(',').map(str::trim) {
        let wrong = |why: &str| (text.to_owned(), why.to_owned());
        if text.is_empty() {
            return Err(wrong("nothing stands before, behind or between the commas"));
        }
        let server = addresses(text).map_err(|why| wrong(&why))?;
        if servers.iter().flatten().any(|address| server.contains(address)) {
            return Err(wrong("it was given twice"));
        }
        servers.push(server);
    }
    Ok(servers)
}

/// Of each server only the IPv4 addresses of the loopback interface, where peers can have an address each; if
/// all of them are there. True if so.
pub fn keep_loopback(servers: &mut [Addresses]) -> bool {
    let is_there =
        |address: &SocketAddr| matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback());
    let are_there = servers.iter().all(|server| server.iter().any(is_there));
    if servers.is_empty() || !are_there {
        return false;
    }
    servers.iter_mut().for_each(|server| server.retain(is_there));
    true
}

/// A pace, as the server takes it.
pub fn pace(value: &str) -> Result<String, String> {
    match value {
        "auto" | "off" => Ok(value.to_owned()),
        _ => at_least_one(value).map(|_| value.to_owned()),
    }
}

/// `none`, `gc`, `2s` or `50ms/20000`.
pub fn stall(value: &str) -> Result<Stall, String> {
    let time = |text: &str| {
        let (digits, unit_ns) = match text.strip_suffix("ms") {
            Some(digits) => (digits, 1_000_000),
            None => (text.strip_suffix('s').ok_or("ms or s is missing")?, 1_000_000_000),
        };
        number(digits, 1, 86_400_000).map(|count| u64::from(count) * unit_ns)
    };
    match (value, value.split_once('/')) {
        ("none", _) => Ok(Stall::None),
        ("gc", _) => Ok(Stall::Collector),
        (_, None) => Ok(Stall::Once { at: STALL_AT, ns: time(value)? }),
        (_, Some((text, updates))) => {
            Ok(Stall::Each { updates: u64::from(at_least_one(updates)?), ns: time(text)? })
        }
    }
}

/// What to damage.
pub fn sabotage(value: &str) -> Result<Sabotage, String> {
    match value {
        "corrupt" => Ok(Sabotage::Corrupt),
        "skip" => Ok(Sabotage::Skip),
        "duplicate" => Ok(Sabotage::Duplicate),
        _ => Err("none of its words".to_owned()),
    }
}
