//! What the end-to-end tests share: frames as bytes, a blocking peer, the server and the binary.
//!
//! Owns a second, simple encoder on purpose: a test that used the library's own could not find a fault
//! in it.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

pub mod browser;
#[path = "../../benches/common/config.rs"]
mod config;
pub mod corpus;
pub mod http;
pub mod nats;
pub mod openmetrics;
pub mod process;
pub mod served;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use metalbond_uring::internals::io::ServerConfig;
use metalbond_uring::internals::shard::{Limits, ShardConfig};
use metalbond_uring::types::Pace;
use socket2::{Domain, Socket, Type};

/// Message types.
pub const HELLO: u8 = 1;
pub const KEEPALIVE: u8 = 2;
pub const SUBSCRIBE: u8 = 3;
pub const UNSUBSCRIBE: u8 = 4;
pub const UPDATE: u8 = 5;

/// How long to wait for something that must come. Long: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing must come before we believe that nothing will.
pub const QUIET: Duration = Duration::from_millis(60);

pub fn server_config(cores: u16, keepalive_interval_s: u32) -> ServerConfig {
    ServerConfig {
        listen: vec!["[::1]:0".parse().unwrap()],
        cores,
        keepalive_interval_s,
        pace: Pace::RoutesPerS(10_000),
        limits: Limits {
            routes_per_peer_max: 10_000_000,
            vnis_per_peer_max: 100_000,
            ..Limits::default()
        },
        peers_max: 100_000,
        ..ServerConfig::default()
    }
}

/// The core of a server with one shard, which drops nothing by itself.
pub fn shard_config(keepalive_interval_s: u32, stale_time: Duration) -> ShardConfig {
    ShardConfig { keepalive_interval_s, stale_time, ..config::shard_config(0, 1) }
}

pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend(payload);
    bytes
}

pub fn keepalive() -> Vec<u8> {
    frame(KEEPALIVE, &[])
}

pub fn hello(keepalive_interval_s: u32, is_server: bool, reassembles: bool) -> Vec<u8> {
    let mut payload = vec![0x08];
    varint(&mut payload, keepalive_interval_s);
    if is_server {
        payload.extend([0x10, 1]);
    }
    if reassembles {
        payload.extend([0x78, 1]);
    }
    frame(HELLO, &payload)
}

pub fn subscribe(vni: u32) -> Vec<u8> {
    frame(SUBSCRIBE, &vni_payload(0x08, vni))
}

pub fn unsubscribe(vni: u32) -> Vec<u8> {
    frame(UNSUBSCRIBE, &vni_payload(0x08, vni))
}

/// The payload of an ADD: what identifies a route. Number `route` of `vni`, via hop number `hop`.
pub fn route(vni: u32, route: u32, hop: u32) -> Vec<u8> {
    let mut payload = vni_payload(0x10, vni);
    payload.extend([0x1a, 8, 0x12, 4]);
    payload.extend((0x0a00_0000 + route).to_be_bytes());
    payload.extend([0x18, 32, 0x22, 18, 0x0a, 16]);
    payload.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend(hop.to_be_bytes());
    payload
}

pub fn add(route: &[u8]) -> Vec<u8> {
    frame(UPDATE, route)
}

pub fn remove(route: &[u8]) -> Vec<u8> {
    frame(UPDATE, &[&[0x08, 1], route].concat())
}

fn vni_payload(tag: u8, vni: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    if vni != 0 {
        payload.push(tag);
        varint(&mut payload, vni);
    }
    payload
}

fn varint(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A frame that came.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    pub kind: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        frame(self.kind, &self.payload)
    }

    /// Splits whole frames; what is not a whole frame is left out.
    pub fn all_of(mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = Frame::first_of(bytes) {
            bytes = &bytes[4 + frame.payload.len()..];
            frames.push(frame);
        }
        frames
    }

    fn first_of(bytes: &[u8]) -> Option<Frame> {
        let length = usize::from(u16::from_be_bytes([*bytes.get(1)?, *bytes.get(2)?]));
        let (kind, payload) = (*bytes.get(3)?, bytes.get(4..4 + length)?.to_vec());
        Some(Frame { kind, payload })
    }

    /// Of an UPDATE: the route, and whether it is announced.
    pub fn update(&self) -> Option<(bool, &[u8])> {
        if self.kind != UPDATE {
            return None;
        }
        Some(match self.payload.strip_prefix(&[0x08, 1]) {
            Some(route) => (false, route),
            None => (true, &self.payload),
        })
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.bytes()))
    }
}

/// A peer: blocking, one thread reads many.
pub struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    consumed: usize,
    /// Everything that came, in order. Clear it as you like.
    pub frames: Vec<Frame>,
    /// The routes announced to us and not withdrawn.
    pub view: BTreeSet<Vec<u8>>,
    /// UPDATEs that said what we knew already.
    pub redundant: usize,
    /// KEEPALIVEs that came.
    pub keepalives: usize,
    /// UPDATEs that came.
    pub updates: usize,
    /// The server closed the connection.
    pub closed: bool,
    /// Keep `frames`? Off for large tests.
    pub recording: bool,
}

impl Peer {
    /// Connects with a small receive buffer (about that many bytes unread stop the server) and segments
    /// as on an Ethernet.
    pub fn connect_with_window(address: SocketAddr, bytes: usize) -> Peer {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        socket.set_tcp_mss(1440).unwrap();
        socket.connect(&address.into()).unwrap();
        Peer::over(socket.into())
    }

    pub fn connect(address: SocketAddr) -> Peer {
        Peer::over(TcpStream::connect(address).unwrap())
    }

    /// Connects from an address of this host.
    pub fn connect_from(from: IpAddr, address: SocketAddr) -> Peer {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Peer::over(socket.into())
    }

    /// Over a connection that was made already.
    pub fn over(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).unwrap();
        Peer {
            stream,
            unread: Vec::new(),
            consumed: 0,
            frames: Vec::new(),
            view: BTreeSet::new(),
            redundant: 0,
            keepalives: 0,
            updates: 0,
            closed: false,
            recording: true,
        }
    }

    /// Connects and establishes; frames and counts of that are cleared.
    pub fn established(address: SocketAddr, keepalive_interval_s: u32, reassembles: bool) -> Peer {
        let mut peer = Peer::connect(address);
        peer.handshake(&hello(keepalive_interval_s, false, reassembles));
        peer
    }

    /// HELLO, its answer, KEEPALIVE, its answer. Returns the HELLO of the server.
    pub fn handshake(&mut self, hello: &[u8]) -> Frame {
        self.send(hello);
        self.read_until("a HELLO", |peer| !peer.frames.is_empty());
        let answer = self.frames[0].clone();
        assert_eq!(answer.kind, HELLO, "{:?}", self.frames);
        self.send(&keepalive());
        self.read_until("a KEEPALIVE", |peer| peer.keepalives == 1);
        assert_eq!(self.frames.len(), 2, "{:?}", self.frames);
        self.frames.clear();
        self.keepalives = 0;
        answer
    }

    /// Sends; an error means that the server closed, which the reader will see.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// A second handle to write from another thread.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    pub fn shutdown(&self, how: Shutdown) {
        let _ = self.stream.shutdown(how);
    }

    /// Reads until `done`. Panics when it does not come, or the connection ends before.
    #[track_caller]
    pub fn read_until(&mut self, what: &str, done: impl Fn(&Peer) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(!self.closed, "closed while waiting for {what}: {}", self.state());
            assert!(Instant::now() < deadline, "waiting for {what}: {}", self.state());
            self.read_some(Duration::from_millis(100));
        }
    }

    /// Reads until the server closes. Panics when it does not.
    #[track_caller]
    pub fn read_until_closed(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.closed {
            assert!(Instant::now() < deadline, "waiting for the end: {}", self.state());
            self.read_some(Duration::from_millis(100));
        }
    }

    /// Reads until nothing came for `quiet`.
    pub fn settle(&mut self, quiet: Duration) {
        while !self.closed && self.read_some(quiet) {}
    }

    /// A KEEPALIVE and its answer: the server has taken all that we had sent.
    #[track_caller]
    pub fn barrier(&mut self) {
        let expected = self.keepalives + 1;
        self.send(&keepalive());
        self.read_until("a KEEPALIVE", |peer| peer.keepalives >= expected);
    }

    /// The UPDATEs among the frames that came.
    pub fn update_frames(&self) -> Vec<Frame> {
        self.frames.iter().filter(|frame| frame.kind == UPDATE).cloned().collect()
    }

    /// One read. False if nothing came in time or the connection ended.
    pub fn read_some(&mut self, timeout: Duration) -> bool {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
        let mut buffer = vec![0; 65_535];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.closed = true,
            Ok(length) => {
                self.unread.extend(&buffer[..length]);
                self.take_frames();
                return true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(_) => self.closed = true,
        }
        false
    }

    /// Bytes of a frame that has not come whole.
    pub fn unread_bytes(&self) -> usize {
        self.unread.len()
    }

    fn take_frames(&mut self) {
        while let Some(frame) = Frame::first_of(&self.unread[self.consumed..]) {
            assert_eq!(self.unread[self.consumed], 1, "not a frame's start");
            self.consumed += 4 + frame.payload.len();
            self.take(frame);
        }
        self.unread.drain(..std::mem::take(&mut self.consumed));
    }

    fn take(&mut self, frame: Frame) {
        if let Some((added, route)) = frame.update() {
            self.updates += 1;
            let changed =
                if added { self.view.insert(route.to_vec()) } else { self.view.remove(route) };
            self.redundant += usize::from(!changed);
        }
        self.keepalives += usize::from(frame.kind == KEEPALIVE);
        if self.recording {
            self.frames.push(frame);
        }
    }

    fn state(&self) -> String {
        let last = &self.frames[self.frames.len().saturating_sub(8)..];
        format!(
            "{} updates, {} routes in view, {} keepalives, last frames {last:?}",
            self.updates,
            self.view.len(),
            self.keepalives
        )
    }
}
