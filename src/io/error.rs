//! Why a server cannot start, in words for the operator.
//!
//! Owns the messages. Must never try anything again.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use super::address::{is_absent, is_tentative, lacks_family};
use super::md5::Md5Error;
use super::policy::PolicyFileError;
use super::probe::ProbeError;

/// Why a server could not start.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// A setting of [`ServerConfig`](super::ServerConfig).
    #[error("{setting} is {value}: it must be from {min} to {max}")]
    OutOfRange {
        /// The field's name.
        setting: &'static str,
        /// What it was set to.
        value: u32,
        /// The least that it may be.
        min: u32,
        /// The most that it may be.
        max: u32,
    },
    /// Somebody listens there.
    #[error(
        "address in use: {address}: another program listens there (`ss -ltnp` tells which). Stop it, or \
         choose another address"
    )]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Any other reason why an address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", bind_advice(.address, .source))]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// No address was given.
    #[error("no address to listen on")]
    NoAddress,
    /// The keys of connections.
    #[error("--tcp-md5: {0}")]
    Md5(#[from] Md5Error),
    /// The policy cannot be had.
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    /// The fabric cannot be had, whatever is tried.
    #[error("fabric: {0}")]
    Fabric(String),
    /// Another server does not hand over.
    #[error("--handover {0}")]
    Handover(String),
    /// No io_uring.
    #[error(transparent)]
    Ring(#[from] ProbeError),
    /// A thread or its runtime could not be started, or signals not be watched.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What was to be started.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// What to do about an address that cannot be listened on.
fn bind_advice(address: &SocketAddr, error: &io::Error) -> &'static str {
    match error.kind() {
        _ if lacks_family(error) && address.is_ipv6() => " (this host has no IPv6)",
        _ if lacks_family(error) => " (this host has no IPv4)",
        _ if is_absent(error) && is_tentative(address.ip()) => {
            " (the address is tentative: duplicate address detection has not ended, or has failed)"
        }
        _ if is_absent(error) => " (no interface of this host has the address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}
