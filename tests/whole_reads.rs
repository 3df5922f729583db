//! Readers as they are in the field: a blocking read takes what there is, and takes it for whole frames.
//!
//! Owns a few of them on loopback. Must never put two reads together.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::*;
use metalbond_uring::internals::io::{Server, ServerConfig};
use metalbond_uring::types::Pace;
use socket2::{Domain, Socket, Type};

const VNI: u32 = 7;
const ROUTES: u32 = 6_000;
/// What a read takes at most: a read of so much is taken for an error.
const READ_BYTES: usize = 65_535;
const PATIENCE: Duration = Duration::from_secs(60);

/// One reader: how long a route takes it, where it stops for a second, and its receive buffer.
#[derive(Clone, Copy, Debug)]
struct Reader {
    route_us: u64,
    stalls: bool,
    buffer_bytes: usize,
}

impl Reader {
    /// Reads all routes. None is missing, and each read has ended with a frame.
    fn run(self, server: SocketAddr) {
        let mut stream = self.connect(server);
        stream.write_all(&hello(5, false, false)).unwrap();
        stream.write_all(&keepalive()).unwrap();
        stream.write_all(&subscribe(VNI)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let (mut routes, mut buffer) = (0, vec![0; READ_BYTES]);
        let (start, mut asked_at) = (Instant::now(), Instant::now());
        while routes < ROUTES as usize {
            assert!(start.elapsed() < PATIENCE, "{self:?}: {routes} routes");
            if asked_at.elapsed() > Duration::from_secs(2) {
                stream.write_all(&keepalive()).unwrap();
                asked_at = Instant::now();
            }
            let length = match stream.read(&mut buffer) {
                Ok(0) => panic!("{self:?}: closed with {routes} routes"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{self:?}: {error} with {routes} routes"),
            };
            assert!(length < READ_BYTES, "{self:?}: overrun with {routes} routes");
            let mut rest = &buffer[..length];
            let before = routes;
            while !rest.is_empty() {
                assert!(rest.len() >= 4, "{self:?}: a header cut, {routes} routes");
                let frame = 4 + usize::from(u16::from_be_bytes([rest[1], rest[2]]));
                assert!(rest.len() >= frame, "{self:?}: a frame cut, {routes} routes");
                routes += usize::from(rest[3] == 5);
                rest = &rest[frame..];
            }
            let is_half = before < ROUTES as usize / 2 && routes >= ROUTES as usize / 2;
            let stall = if self.stalls && is_half { 1_000_000 } else { 0 };
            let pause_us = self.route_us * (routes - before) as u64 + stall;
            std::thread::sleep(Duration::from_micros(pause_us));
        }
    }

    fn connect(self, server: SocketAddr) -> TcpStream {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
        if self.buffer_bytes > 0 {
            socket.set_recv_buffer_size(self.buffer_bytes).unwrap();
        }
        socket.connect(&server.into()).unwrap();
        socket.into()
    }
}

#[test]
fn each_read_is_whole_frames_and_never_too_much() {
    for listen in ["[::]:0", "127.0.0.1:0"] {
        let listen = vec![listen.parse().unwrap()];
        let config = ServerConfig { listen, pace: Pace::Auto, ..server_config(1, 60) };
        let server = Server::start(config).unwrap();
        let address = server.local_addr();
        let host = if address.is_ipv6() { "[::1]" } else { "127.0.0.1" };
        let address: SocketAddr = format!("{host}:{}", address.port()).parse().unwrap();
        let mut announcer = Peer::established(address, 60, true);
        announcer.send(&(0..ROUTES).flat_map(|n| add(&route(VNI, n, n))).collect::<Vec<u8>>());
        announcer.barrier();
        std::thread::scope(|scope| {
            for route_us in [0, 10, 200] {
                for (stalls, buffer_bytes) in
                    [(false, 0), (true, 0), (false, 4 << 10), (true, 10 << 10)]
                {
                    let reader = Reader { route_us, stalls, buffer_bytes };
                    scope.spawn(move || reader.run(address));
                }
            }
        });
    }
}
