//! Where a run takes place: network namespaces of its own, and what is between them.
//!
//! Owns the namespaces: they end with the run. Must never touch the one that the test was started in.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::case::{Case, Link};
use crate::netns::ip;
use crate::{path, sys};

/// Where the server is, and how readers get to theirs. To be made on the thread that starts the server.
pub struct Network {
    /// The server's address for readers.
    pub server: IpAddr,
    readers: Option<File>,
    over: Arc<AtomicBool>,
}

impl Network {
    /// Makes the namespaces and the link of a case, and moves this thread to the server's side.
    ///
    /// # Errors
    /// What cannot be had here, in words: the case has to be skipped.
    pub fn new(case: &Case) -> Result<Network, String> {
        let over = Arc::new(AtomicBool::new(false));
        let server_side =
            sys::new_network().map_err(|error| format!("no network namespace: {error}"))?;
        if let Err(error) = Command::new("ip").arg("-V").output() {
            return Err(format!("`ip` (iproute2) cannot be run: {error}"));
        }
        ip("link set lo up");
        if case.link == Link::Loopback {
            let server = "::1".parse().expect("an address");
            return Ok(Network { server, readers: None, over });
        }
        let readers = sys::new_network().map_err(|error| format!("no second one: {error}"))?;
        ip("link set lo up");
        match case.link {
            Link::Loopback => {}
            Link::Veth { mtu, segments_offloaded } => {
                sys::enter_network(&server_side).expect("our own namespace");
                let other = format!("/proc/{}/fd/{}", std::process::id(), readers.as_raw_fd());
                ip(&format!(
                    "link add end mtu {mtu} type veth peer name end mtu {mtu} netns {other}"
                ));
                for (side, address) in [(&server_side, "fd00::1"), (&readers, "fd00::2")] {
                    sys::enter_network(side).expect("our own namespace");
                    if !segments_offloaded {
                        no_offload()?;
                    }
                    up(address);
                }
            }
            Link::Path(path) => {
                let cannot = |error| format!("no tun device: {error}");
                let reader_end = sys::tun("end").map_err(cannot)?;
                up("fd00::2");
                sys::enter_network(&server_side).expect("our own namespace");
                let server_end = sys::tun("end").map_err(cannot)?;
                up("fd00::1");
                let (over, seed) = (Arc::clone(&over), case.seed);
                let carry = move || path::carry([server_end, reader_end], path, seed, &over);
                std::thread::Builder::new().name("path".into()).spawn(carry).expect("a thread");
            }
        }
        sys::enter_network(&server_side).expect("our own namespace");
        let server = "fd00::1".parse().expect("an address");
        Ok(Network { server, readers: Some(readers), over })
    }

    /// Moves this thread to the readers' side.
    pub fn enter(&self) {
        if let Some(readers) = &self.readers {
            sys::enter_network(readers).expect("our own namespace");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn up(address: &str) {
    ip(&format!("addr add {address}/64 dev end nodad"));
    ip("link set end up");
}

/// Lets the device cut segments no longer.
fn no_offload() -> Result<(), String> {
    let arguments = ["-K", "end", "tso", "off", "gso", "off"];
    let output = Command::new("ethtool").args(arguments).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ethtool: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("`ethtool` cannot be run, so TSO stays on: {error}")),
    }
}
