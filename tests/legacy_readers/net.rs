//! Where a run takes place: network namespaces of its own, and what is between them.
//!
//! Owns the namespaces: they end with the run. Must never touch the one that the test was started in.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::case::{Case, Link, Veth};
use crate::netns::ip;
use crate::path::{self, Way};
use crate::sys;

/// Where the server is, and how readers get to theirs. To be made on the thread that starts the server.
pub struct Network {
    /// The server's address for readers, and for who is beside it.
    pub server: IpAddr,
    pub beside_server: IpAddr,
    readers: Option<File>,
    router: Option<File>,
    signals: Arc<Signals>,
}

/// What a path in user space is told.
#[derive(Default)]
pub struct Signals {
    pub over: AtomicBool,
    pub mtu_has_fallen: AtomicBool,
}

/// Addresses of the two ends, and of the router's two if there is one.
struct Addresses {
    ends: [&'static str; 2],
    router: [&'static str; 2],
}

const IPV4: Addresses =
    Addresses { ends: ["10.99.1.1", "10.99.2.1"], router: ["10.99.1.2", "10.99.2.2"] };
const IPV6: Addresses = Addresses {
    ends: ["fd00:0:0:1::1", "fd00:0:0:2::1"],
    router: ["fd00:0:0:1::2", "fd00:0:0:2::2"],
};

impl Network {
    /// Makes the namespaces and the link of a case, and moves this thread to the server's side.
    ///
    /// # Errors
    /// What cannot be had here, in words: the case has to be skipped.
    pub fn new(case: &Case) -> Result<Network, String> {
        let server_side =
            sys::new_network().map_err(|error| format!("no network namespace: {error}"))?;
        if let Err(error) = Command::new("ip").arg("-V").output() {
            return Err(format!("`ip` (iproute2) cannot be run: {error}"));
        }
        ip("link set lo up");
        let addresses = if case.is_ipv4 { &IPV4 } else { &IPV6 };
        let beside = if case.is_ipv4 { "127.0.0.1" } else { "::1" };
        let has_link = case.link != Link::Loopback;
        let server = if has_link { addresses.ends[0] } else { beside };
        let mut network = Network {
            server: server.parse().expect("an address"),
            beside_server: beside.parse().expect("an address"),
            readers: None,
            router: None,
            signals: Arc::default(),
        };
        if has_link {
            let readers = sys::new_network().map_err(|error| format!("no second one: {error}"))?;
            ip("link set lo up");
            match case.link {
                Link::Loopback => {}
                Link::Veth(veth) => {
                    network.enter_side(&server_side);
                    pair(veth, "end", &readers);
                    for (side, at) in [(&server_side, 0), (&readers, 1)] {
                        network.enter_side(side);
                        end(veth, addresses, at)?;
                    }
                }
                Link::Routed(veth) => {
                    let sides = [&server_side, &readers];
                    network.router = Some(routed(veth, addresses, sides)?);
                }
                Link::Path(path) => {
                    let way = Way {
                        path,
                        mtu_falls_to: case.falls.map(|fall| fall.to as usize),
                        seed: case.seed,
                    };
                    let sides = [&server_side, &readers];
                    network.carry(way, addresses, sides)?;
                }
            }
            network.readers = Some(readers);
        }
        network.enter_side(&server_side);
        Ok(network)
    }

    /// Moves this thread to the readers' side.
    pub fn enter(&self) {
        if let Some(readers) = &self.readers {
            self.enter_side(readers);
        }
    }

    /// The way's MTU falls. Moves this thread elsewhere.
    pub fn fall(&self, mtu: u32) {
        self.signals.mtu_has_fallen.store(true, Ordering::Relaxed);
        if let Some(router) = &self.router {
            self.enter_side(router);
            ip(&format!("link set side1 mtu {mtu}"));
        }
    }

    fn enter_side(&self, side: &File) {
        sys::enter_network(side).expect("our own namespace");
    }

    fn carry(&self, way: Way, addresses: &Addresses, sides: [&File; 2]) -> Result<(), String> {
        let mut ends = Vec::new();
        for (at, side) in sides.into_iter().enumerate() {
            self.enter_side(side);
            ends.push(sys::tun("end").map_err(|error| format!("no tun device: {error}"))?);
            // As long as those of real devices; a thousand readers would overrun the default.
            ip("link set end txqueuelen 5000");
            up("end", addresses.ends[at]);
            ip(&format!("route add {} dev end", addresses.ends[1 - at]));
        }
        let ends = ends.try_into().expect("two ends");
        let signals = Arc::clone(&self.signals);
        let carry = move || path::carry(ends, way, &signals);
        std::thread::Builder::new().name("path".into()).spawn(carry).expect("a thread");
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.signals.over.store(true, Ordering::Relaxed);
    }
}

/// A veth pair: `name` here, `end` there.
fn pair(veth: Veth, name: &str, there: &File) {
    let there = format!("/proc/{}/fd/{}", std::process::id(), there.as_raw_fd());
    let mtu = veth.mtu;
    ip(&format!("link add {name} mtu {mtu} type veth peer name end mtu {mtu} netns {there}"));
}

/// A router in a namespace of its own.
fn routed(veth: Veth, addresses: &Addresses, sides: [&File; 2]) -> Result<File, String> {
    let router = sys::new_network().map_err(|error| format!("no third one: {error}"))?;
    ip("link set lo up");
    for (at, side) in sides.into_iter().enumerate() {
        let name = format!("side{at}");
        pair(veth, &name, side);
        if !veth.segments_offloaded {
            no_offload(&name)?;
        }
        up(&name, addresses.router[at]);
    }
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let written = std::fs::write(format!("/proc/sys/net/{file}"), "1");
        written.map_err(|error| format!("no forwarding: {error}"))?;
    }
    for (at, side) in sides.into_iter().enumerate() {
        sys::enter_network(side).expect("our own namespace");
        end(veth, addresses, at)?;
        ip(&format!("route replace {} via {}", addresses.ends[1 - at], addresses.router[at]));
    }
    Ok(router)
}

/// One end of a veth pair, and the way to the other.
fn end(veth: Veth, addresses: &Addresses, at: usize) -> Result<(), String> {
    if !veth.segments_offloaded {
        no_offload("end")?;
    }
    up("end", addresses.ends[at]);
    ip(&format!("route add {} dev end", addresses.ends[1 - at]));
    Ok(())
}

fn up(device: &str, address: &str) {
    let (length, nodad) = if address.contains(':') { (64, " nodad") } else { (24, "") };
    ip(&format!("addr add {address}/{length} dev {device}{nodad}"));
    ip(&format!("link set {device} up"));
}

/// Lets the device cut segments no longer.
fn no_offload(device: &str) -> Result<(), String> {
    let arguments = ["-K", device, "tso", "off", "gso", "off"];
    let output = Command::new("ethtool").args(arguments).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ethtool: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("`ethtool` cannot be run, so TSO stays on: {error}")),
    }
}
