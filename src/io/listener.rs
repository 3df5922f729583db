//! Listening sockets, and the options of peers' sockets.
//!
//! Owns what is set on a socket and why, and what is done about addresses that cannot be had, yet or
//! at all. Must never accept or read.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tracing::warn;

use super::address::{is_absent, is_tentative, lacks_family};
use super::config::SEGMENT_BYTES;
use super::error::ServeError;
use super::md5::Md5Keys;

/// Connections that wait for an accept: a whole fleet that reconnects at once. With the usual 128 the
/// rest would retry after seconds. (The kernel caps it at net.core.somaxconn, 4096 by default.)
const BACKLOG: i32 = 4096;

/// Bytes that the kernel takes beyond what it can send at once. What it has taken can neither be
/// conflated nor overtaken by a KEEPALIVE; without a bound it takes megabytes.
const NOTSENT_BYTES_MAX: u32 = 128 * 1024;

/// How long addresses are waited for that no interface has: at boot, duplicate address detection takes a
/// second or more. Not IP_FREEBIND: a wrong address would look alive for ever.
const ADDRESS_WAIT: Duration = Duration::from_secs(10);
/// Between two looks for them.
const ADDRESS_RETRY: Duration = Duration::from_millis(100);

/// Listens on all addresses besides those of `listeners`, and waits for those that are about to come up.
///
/// Those that this host cannot have are left out with a warning, if there is another one.
///
/// # Errors
/// [`ServeError::NoAddress`], [`ServeError::AddressInUse`], or [`ServeError::Bind`].
pub(super) async fn listen_all(
    addresses: &[SocketAddr],
    segment_bytes_max: u16,
    keys: &Md5Keys,
    mut listeners: Vec<TcpListener>,
) -> Result<Vec<TcpListener>, ServeError> {
    let mut missing = addresses.to_vec();
    let mut left_out = Vec::new();
    let mut looks_left = ADDRESS_WAIT.as_millis() / ADDRESS_RETRY.as_millis();
    let mut told = false;
    loop {
        let mut absent = Vec::new();
        for address in std::mem::take(&mut missing) {
            match listen(address, segment_bytes_max, keys) {
                Ok(listener) => listeners.push(listener),
                Err(ServeError::Bind { source, .. }) if is_absent(&source) => {
                    absent.push((address, source));
                }
                Err(ServeError::Bind { source, .. }) if lacks_family(&source) => {
                    left_out.push((address, source));
                }
                Err(error) => return Err(error),
            }
        }
        for (address, source) in absent {
            let is_tentative = is_tentative(address.ip());
            if looks_left == 0 || !(listeners.is_empty() || is_tentative) {
                left_out.push((address, source));
                continue;
            }
            if !std::mem::replace(&mut told, true) {
                let why = match is_tentative {
                    true => "it is tentative: duplicate address detection is under way",
                    false => "no interface of this host has it",
                };
                warn!("waiting {} s for {address} to come up: {why}", ADDRESS_WAIT.as_secs());
            }
            missing.push(address);
        }
        if missing.is_empty() {
            break;
        }
        looks_left -= 1;
        tokio::time::sleep(ADDRESS_RETRY).await;
    }
    let has_none = listeners.is_empty();
    for (address, source) in left_out {
        let error = ServeError::Bind { address, source };
        if has_none {
            return Err(error);
        }
        warn!("{error}: left out, since there are other addresses");
    }
    if has_none { Err(ServeError::NoAddress) } else { Ok(listeners) }
}

/// Binds and listens, and demands signatures of whom `keys` says. An IPv6 address that stands for all takes IPv4 as well, or IPv4 alone where there
/// is no IPv6.
///
/// # Errors
/// [`ServeError::AddressInUse`] or [`ServeError::Bind`].
pub(crate) fn listen(
    address: SocketAddr,
    segment_bytes_max: u16,
    keys: &Md5Keys,
) -> Result<TcpListener, ServeError> {
    let (address, result) = match try_listen(address, segment_bytes_max, keys) {
        Err(error)
            if address.is_ipv6()
                && address.ip().is_unspecified()
                && (lacks_family(&error) || is_absent(&error)) =>
        {
            let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            warn!("no IPv6 on this host: {ipv4} instead of {address}");
            (ipv4, try_listen(ipv4, segment_bytes_max, keys))
        }
        result => (address, result),
    };
    result.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::AddressInUse { address },
        _ => ServeError::Bind { address, source },
    })
}

/// Limits the segments of a socket that is about to connect to `address` or to listen there, those that
/// come and those that go: to 536..=32767 bytes of payload; 0 leaves them to the path. What a listener
/// accepts inherits it. Within the host nothing is lost for its size, and large segments cost less.
///
/// # Errors
/// The kernel's.
pub(super) fn limit_segments(
    socket: &impl AsFd,
    address: SocketAddr,
    segment_bytes_max: u16,
) -> io::Result<()> {
    if segment_bytes_max == 0 || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let bytes_max = segment_bytes_max.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
    SockRef::from(socket).set_tcp_mss(u32::from(bytes_max))
}

/// Sets on a socket that another process listened on what [`listen`] would set. That one had connections of some networks
/// signed.
///
/// # Errors
/// The kernel's.
pub(super) fn adopt(
    listener: &TcpListener,
    segment_bytes_max: u16,
    keys: &Md5Keys,
    signed: &[IpNet],
) -> io::Result<()> {
    let address = listener.local_addr()?;
    limit_segments(listener, address, segment_bytes_max)?;
    keys.release(listener, address, signed).map_err(io::Error::other)?;
    keys.demand(listener, address).map_err(io::Error::other)
}

/// Sets what a peer's socket needs.
///
/// # Errors
/// The kernel's; the peer is then gone already.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_notsent_lowat(NOTSENT_BYTES_MAX)
}

fn try_listen(
    address: SocketAddr,
    segment_bytes_max: u16,
    keys: &Md5Keys,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for old connections in TIME_WAIT. Not SO_REUSEPORT: with it a second
    // instance would bind without a word and take half of the peers.
    socket.set_reuse_address(true)?;
    limit_segments(&socket, address, segment_bytes_max)?;
    socket.bind(&address.into())?;
    // Before it listens: nobody comes in without a signature meanwhile.
    keys.demand(&socket, address).map_err(io::Error::other)?;
    socket.listen(BACKLOG)?;
    // The acceptor waits in its runtime, not in accept.
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SEGMENT_BYTES_MAX_DEFAULT;

    fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
        super::listen(address, SEGMENT_BYTES_MAX_DEFAULT, &Md5Keys::default())
    }

    #[test]
    fn a_second_listener_is_refused() {
        let first = listen("[::]:0".parse().unwrap()).unwrap();
        let port = first.local_addr().unwrap().port();
        for text in [format!("[::]:{port}"), format!("[::1]:{port}"), format!("127.0.0.1:{port}")] {
            let error = listen(text.parse().unwrap()).unwrap_err();
            assert!(matches!(error, ServeError::AddressInUse { .. }), "{error}");
            assert!(error.to_string().starts_with(&format!("address in use: {text}")), "{error}");
        }
        let error = listen("192.0.2.1:4711".parse().unwrap()).unwrap_err();
        assert!(matches!(error, ServeError::Bind { .. }), "{error}");
    }

    #[test]
    fn takes_ipv4_too_and_prepares_sockets() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (socket, remote) = listener.accept().unwrap();
        assert!(remote.ip().to_canonical().is_ipv4());
        prepare(&socket).unwrap();
        assert_eq!(SockRef::from(&socket).tcp_notsent_lowat().unwrap(), NOTSENT_BYTES_MAX);
    }

    #[test]
    fn segments_are_limited_on_both_sides() {
        for (segment_bytes_max, bytes) in [
            (1220, 1180..=1220),
            (100, 500..=536),
            (u16::MAX, 30_000..=32_767),
            (0, 1_300..=65_535),
        ] {
            for (address, host) in [("[::]:0", "::1"), ("0.0.0.0:0", "127.0.0.1")] {
                let listener =
                    super::listen(address.parse().unwrap(), segment_bytes_max, &Md5Keys::default())
                        .unwrap();
                // The peer is one that would take more.
                let port = listener.local_addr().unwrap().port();
                let client = TcpStream::connect((host, port)).unwrap();
                let (socket, _) = listener.accept().unwrap();
                for end in [&socket, &client] {
                    let mss = SockRef::from(end).tcp_mss().unwrap();
                    assert!(bytes.contains(&mss), "{address} {segment_bytes_max}: {mss}");
                }
            }
        }
    }
}
