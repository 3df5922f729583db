//! Listening sockets and the options of accepted ones.
//!
//! Owns what is set on a socket and why. Must never accept or read.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::ServeError;

/// Connections that wait for an accept: a whole fleet that reconnects at once. With the usual 128 the
/// rest would retry after seconds. (The kernel caps it at net.core.somaxconn, 4096 by default.)
const BACKLOG: i32 = 4096;

/// Bytes that the kernel takes beyond what it can send at once. What it has taken can neither be
/// conflated nor overtaken by a KEEPALIVE; without a bound it takes megabytes.
const NOTSENT_BYTES_MAX: u32 = 128 * 1024;

/// Binds and listens. An IPv6 address that stands for all takes IPv4 as well.
///
/// # Errors
/// [`ServeError::AddressInUse`] or [`ServeError::Bind`].
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    try_listen(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::AddressInUse { address },
        _ => ServeError::Bind { address, source },
    })
}

/// Sets what a peer's socket needs.
///
/// # Errors
/// The kernel's; the peer is then gone already.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_notsent_lowat(NOTSENT_BYTES_MAX)
}

fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for old connections in TIME_WAIT. Not SO_REUSEPORT: with it a second
    // instance would bind without a word and take half of the peers.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // The acceptor waits in its runtime, not in accept.
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
