//! Hostile peers: what they do to a server while others are measured.
//!
//! Owns a thread of its own with plain sockets, so that nothing of the measured peers waits for it. Must
//! never share a VNI with them, nor an address where there are several.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use metalbond_uring::internals::wire::{
    Deframer, Hello, KEEPALIVE_FRAME, Message, MessageType, encode_update,
};
use metalbond_uring::types::{Action, Vni};
use socket2::{Domain, Socket, Type};

use crate::clock::{Clock, seconds};
use crate::cost;
use crate::route;

/// Their VNIs: above all that measured peers may use.
const VNI_FIRST: u32 = 0xffff_0000;
/// The address that they come from on the loopback interface of IPv4: every second one is another.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);
/// What they offer in HELLO, in seconds; they say KEEPALIVE twice as often.
const KEEPALIVE_S: u32 = 4;
/// How long they pause when there is nothing to do.
const PAUSE: Duration = Duration::from_micros(500);
/// How long a handshake or a table may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Updates a second of `flood`.
const FLOOD_PER_S: u64 = 1_000_000;
/// Times a second that `resubscribe` does, and how many at a time.
const RESUBSCRIBE_PER_S: u64 = 10_000;
const RESUBSCRIBE_BATCH: usize = 10;
/// Routes of the VNI that `resubscribe` subscribes to.
const TABLE_ROUTES: u32 = 100_000;
/// Peers of `subscriptions`, and VNIs of each.
const SUBSCRIBERS: usize = 500;
const SUBSCRIPTIONS: u32 = 16_384;
/// Connections a second of `garbage`.
const CONNECTIONS_PER_S: u64 = 10_000;

/// What they do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hostility {
    /// One announces and withdraws a route, a million times a second.
    #[default]
    Flood,
    /// One subscribes to a VNI of 100,000 routes and unsubscribes again, 10,000 times a second.
    Resubscribe,
    /// 500 peers subscribe to 16,384 VNIs each; when all have, they leave and begin anew.
    Subscriptions,
    /// 10,000 connections a second that send what is no message.
    Garbage,
}

impl Hostility {
    /// All of them with their names.
    pub const ALL: [(Hostility, &'static str); 4] = [
        (Hostility::Flood, "flood"),
        (Hostility::Resubscribe, "resubscribe"),
        (Hostility::Subscriptions, "subscriptions"),
        (Hostility::Garbage, "garbage"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(one, _)| *one == self).map_or("", |(_, name)| name)
    }
}

/// Hostile peers of one server. They are there from the start, and do nothing until told.
pub struct Hostile {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

/// What they have done so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Deeds {
    /// Updates, subscriptions or connections, as their kind is.
    pub count: u64,
    /// CPU time that they took, of loadgen's.
    pub cpu_ns: u64,
}

impl Deeds {
    /// What they have done since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Deeds) -> Deeds {
        Deeds { count: self.count - earlier.count, cpu_ns: self.cpu_ns - earlier.cpu_ns }
    }
}

#[derive(Default)]
struct Orders {
    active: AtomicBool,
    over: AtomicBool,
    count: AtomicU64,
    cpu_ns: AtomicU64,
}

impl Hostile {
    /// Brings them into place.
    ///
    /// # Errors
    /// If the server does not let them in.
    pub fn new(kind: Hostility, target: SocketAddr) -> anyhow::Result<Hostile> {
        let mut gang = Gang::new(kind, target).context("hostile peers")?;
        let orders = Arc::new(Orders::default());
        let obeyed = Arc::clone(&orders);
        let thread = std::thread::Builder::new()
            .name(format!("hostile-{}", kind.name()))
            .spawn(move || gang.obey(&obeyed))
            .context("cannot start a thread")?;
        Ok(Hostile { orders, thread: Some(thread) })
    }

    /// Lets them begin, or makes them stop.
    pub fn act(&self, active: bool) {
        self.orders.active.store(active, Ordering::Relaxed);
    }

    /// What they have done so far.
    pub fn deeds(&self) -> Deeds {
        Deeds {
            count: self.orders.count.load(Ordering::Relaxed),
            cpu_ns: self.orders.cpu_ns.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.orders.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// All of them, from inside.
struct Gang {
    kind: Hostility,
    target: SocketAddr,
    clock: Clock,
    /// Who announces the large table, or subscribes to the flood.
    companion: Option<Peer>,
    peers: Vec<Peer>,
    /// What is sent again and again, as many deeds as it has.
    phrase: Vec<u8>,
    phrase_deeds: u64,
    /// Since when they act, and what they have done since.
    since: Option<(u64, u64)>,
    count: u64,
}

impl Gang {
    fn new(kind: Hostility, target: SocketAddr) -> anyhow::Result<Gang> {
        let clock = Clock::start();
        let mut gang = Gang {
            kind,
            target,
            clock,
            companion: None,
            peers: Vec::new(),
            phrase: Vec::new(),
            phrase_deeds: 0,
            since: None,
            count: 0,
        };
        let vni = Vni(VNI_FIRST);
        match kind {
            Hostility::Flood => {
                for action in [Action::Add, Action::Remove].repeat(500) {
                    encode_update(&mut gang.phrase, action, vni, &route::route(0, 0));
                }
                gang.phrase_deeds = 1_000;
                let mut companion = Peer::connect(target, &clock)?;
                companion.say(&Message::Subscribe(vni));
                gang.companion = Some(companion);
                gang.peers.push(Peer::connect(target, &clock)?);
            }
            Hostility::Resubscribe => {
                gang.companion = Some(table(target, &clock)?);
                // In this order, so that it is subscribed from one phrase to the next.
                for _ in 0..RESUBSCRIBE_BATCH {
                    Message::Unsubscribe(vni).encode(&mut gang.phrase);
                    Message::Subscribe(vni).encode(&mut gang.phrase);
                }
                gang.phrase_deeds = RESUBSCRIBE_BATCH as u64;
                gang.peers.push(Peer::connect(target, &clock)?);
            }
            Hostility::Subscriptions => {
                for number in 0..SUBSCRIPTIONS {
                    Message::Subscribe(Vni(VNI_FIRST + number)).encode(&mut gang.phrase);
                }
                gang.phrase_deeds = u64::from(SUBSCRIPTIONS);
            }
            Hostility::Garbage => gang.phrase = vec![0xff; 64],
        }
        Ok(gang)
    }

    fn obey(&mut self, orders: &Orders) {
        while !orders.over.load(Ordering::Relaxed) {
            let active = orders.active.load(Ordering::Relaxed);
            if active && self.since.is_none() {
                self.since = Some((self.clock.now_ns(), 0));
            } else if !active
                && self.since.take().is_some()
                && self.kind == Hostility::Subscriptions
            {
                self.peers.clear();
            }
            let had_work = active && self.act();
            let now_ns = self.clock.now_ns();
            for peer in self.companion.iter_mut().chain(&mut self.peers) {
                peer.live(now_ns);
            }
            orders.count.store(self.count, Ordering::Relaxed);
            orders.cpu_ns.store(cost::thread_cpu_ns(), Ordering::Relaxed);
            if !had_work {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Does what is due. False if that is nothing for now.
    fn act(&mut self) -> bool {
        match self.kind {
            Hostility::Flood => self.due(FLOOD_PER_S) >= self.phrase_deeds && self.repeat(),
            Hostility::Resubscribe => {
                self.due(RESUBSCRIBE_PER_S) >= self.phrase_deeds && self.repeat()
            }
            Hostility::Subscriptions => self.subscribe(),
            Hostility::Garbage => self.garbage(),
        }
    }

    /// Deeds that are due by now at this rate and were not done.
    fn due(&self, per_s: u64) -> u64 {
        let Some((since_ns, count)) = self.since else { return 0 };
        let passed_ns = self.clock.now_ns() - since_ns;
        let due = (seconds(passed_ns) * per_s as f64) as u64;
        due.saturating_sub(count)
    }

    fn did(&mut self, count: u64) {
        self.count += count;
        if let Some((_, done)) = &mut self.since {
            *done += count;
        }
    }

    /// The only peer says its phrase once more; it comes back if it was closed.
    fn repeat(&mut self) -> bool {
        if self.peers.is_empty() {
            match Peer::connect(self.target, &self.clock) {
                Ok(peer) => self.peers.push(peer),
                Err(_) => return false,
            }
        }
        let peer = &mut self.peers[0];
        if peer.out.is_empty() {
            peer.out.extend_from_slice(&self.phrase);
        }
        let sent = peer.send();
        match sent {
            Ok(false) => false,
            Ok(true) => {
                self.did(self.phrase_deeds);
                true
            }
            Err(_) => {
                self.peers.clear();
                false
            }
        }
    }

    /// One more peer comes, or those who are there go on.
    fn subscribe(&mut self) -> bool {
        if self.peers.len() < SUBSCRIBERS
            && let Ok(mut peer) = Peer::connect(self.target, &self.clock)
        {
            peer.out.extend_from_slice(&self.phrase);
            self.peers.push(peer);
        }
        let (before, deeds) = (self.peers.len(), self.phrase_deeds);
        let mut done = 0;
        self.peers.retain_mut(|peer| {
            let was_done = peer.out.is_empty();
            let sent = peer.send();
            done += if !was_done && matches!(sent, Ok(true)) { deeds } else { 0 };
            sent.is_ok()
        });
        self.did(done);
        let all_said = before == SUBSCRIBERS && self.peers.iter().all(|peer| peer.out.is_empty());
        if all_said {
            self.peers.clear();
        }
        done > 0 || before < SUBSCRIBERS
    }

    /// A connection that is of no use to anybody.
    fn garbage(&mut self) -> bool {
        if self.due(CONNECTIONS_PER_S) == 0 {
            return false;
        }
        // Refused, or full: it has been tried.
        let _ = connect(self.target, self.count).and_then(|mut stream| {
            stream.set_nonblocking(true)?;
            stream.write(&self.phrase)
        });
        self.did(1);
        true
    }
}

/// A peer that takes nothing seriously: what it is told is thrown away.
struct Peer {
    stream: TcpStream,
    /// What it has still to say.
    out: Vec<u8>,
    said: usize,
    keepalive_ns: u64,
}

impl Peer {
    /// Connects, and waits until the session is established.
    fn connect(target: SocketAddr, clock: &Clock) -> anyhow::Result<Peer> {
        let mut stream = connect(target, 0)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let hello =
            Hello { keepalive_interval_s: KEEPALIVE_S, is_server: false, reassembles: true };
        let mut words = Vec::new();
        Message::Hello(hello).encode(&mut words);
        words.extend_from_slice(&KEEPALIVE_FRAME);
        stream.write_all(&words)?;
        let mut deframer = Deframer::new();
        let mut buffer = [0; 64];
        loop {
            let read = match stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                bail!("the server at {target} closed the connection");
            }
            let mut bytes = &buffer[..read];
            while let Some(frame) = deframer.next(&mut bytes)? {
                if frame.message_type == MessageType::Keepalive {
                    stream.set_nonblocking(true)?;
                    let keepalive_ns = clock.now_ns();
                    return Ok(Peer { stream, out: Vec::new(), said: 0, keepalive_ns });
                }
            }
        }
    }

    fn say(&mut self, message: &Message) {
        message.encode(&mut self.out);
    }

    /// Sends what the kernel takes. True when all is said.
    fn send(&mut self) -> io::Result<bool> {
        while self.said < self.out.len() {
            match self.stream.write(&self.out[self.said..]) {
                Ok(count) => self.said += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.said = 0;
        Ok(true)
    }

    /// A KEEPALIVE when it is due, and whatever comes is read.
    fn live(&mut self, now_ns: u64) {
        if now_ns - self.keepalive_ns > u64::from(KEEPALIVE_S) * 500_000_000 {
            self.keepalive_ns = now_ns;
            self.out.extend_from_slice(&KEEPALIVE_FRAME);
            // If it fails, that is found where it matters.
            let _ = self.send();
        }
        let mut buffer = [0; 64 * 1024];
        for _ in 0..4 {
            if !matches!(self.stream.read(&mut buffer), Ok(1..)) {
                return;
            }
        }
    }
}

/// A peer that has announced a large table.
fn table(target: SocketAddr, clock: &Clock) -> anyhow::Result<Peer> {
    let mut peer = Peer::connect(target, clock)?;
    for number in 0..TABLE_ROUTES {
        encode_update(&mut peer.out, Action::Add, Vni(VNI_FIRST), &route::route(0, number));
    }
    let began_ns = clock.now_ns();
    while !peer.send()? {
        if Duration::from_nanos(clock.now_ns() - began_ns) > LIMIT {
            bail!("the server at {target} does not take a table of {TABLE_ROUTES} routes");
        }
        std::thread::sleep(PAUSE);
    }
    Ok(peer)
}

/// On loopback, of IPv4, from addresses that nobody else has.
fn connect(target: SocketAddr, number: u64) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    if target.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let source = Ipv4Addr::from_bits(SOURCE.to_bits() + (number % 250) as u32);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.connect_timeout(&target.into(), LIMIT)?;
    Ok(socket.into())
}
