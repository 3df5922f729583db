//! One emulated Go client: a thread that reads as that client does, and takes as long.
//!
//! Owns its connection and its view. Must never put frames together: a read that ends inside one is the end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Socket, Type};

use crate::case::{Case, Talk};
use crate::common;
use crate::path::timespec;
use crate::pipeline::{self, BUFFER_BYTES, Fault, Pipeline};
use crate::rng::Rng;
use crate::{sys, table};

/// In this one readers announce if not on the table, and nobody subscribes to it.
const TALK_VNI: u32 = 101;
/// Routes that a reader announces on the table, behind its end.
const TALK_ROUTES: usize = 8;
/// Go's clients wait 5 to 9 s before they come back; here the cause matters, not the wait.
const RETRY: Duration = Duration::from_millis(300);
/// How often a client that waits looks whether the run is over. Many of them must not be work by themselves.
const LOOK: Duration = Duration::from_millis(100);
/// Talking readers announce this often, all together, at most.
const TALK_PER_S: usize = 2_000;
/// And this often on the table times readers: all others are told.
const TALK_DELIVERIES_PER_S: usize = 40_000;

/// What all threads of a run share.
pub struct Field {
    pub case: Case,
    pub server: SocketAddr,
    pub begun: Instant,
    /// The run is over.
    pub over: AtomicBool,
    /// Nanoseconds since the beginning until which all readers stand.
    pub stopped_until_ns: AtomicU64,
    /// Nobody announces any more.
    pub hushed: AtomicBool,
    /// What went wrong, in words.
    pub findings: Mutex<Vec<String>>,
    pub readers: Vec<Counts>,
}

/// What one reader was told, and how it fared.
#[derive(Default)]
pub struct Counts {
    pub view: Mutex<View>,
    pub misaligned: AtomicU64,
    pub overruns: AtomicU64,
    pub hold_expiries: AtomicU64,
    pub closed_by_server: AtomicU64,
    pub updates: AtomicU64,
    /// Updates that said what was known.
    pub redundant: AtomicU64,
    /// A bit for each of its own routes on the table that it has announced.
    pub talk: AtomicU8,
    /// How it was fed until it had the table's length.
    pub fed: Mutex<Option<Fed>>,
}

/// How a reader was fed, from the first update to the end of the last that counts.
#[derive(Clone, Copy)]
pub struct Fed {
    /// For how long it has worked.
    pub busy_ns: u64,
    /// Of how long.
    pub passed_ns: u64,
    /// And for how long it has waited for a CPU.
    pub waited_ns: u64,
}

/// A bit for each route.
#[derive(Default)]
pub struct View {
    pub bits: Vec<u64>,
    pub present: usize,
}

impl View {
    /// Takes over an update. False if it changed nothing.
    pub fn set(&mut self, number: usize, present: bool) -> bool {
        let (word, mask) = (number / 64, 1 << (number % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if (self.bits[word] & mask != 0) == present {
            return false;
        }
        self.bits[word] ^= mask;
        if present {
            self.present += 1
        } else {
            self.present -= 1
        }
        true
    }

    /// Whether it holds what `other` holds, below `end`, and but for the numbers in a byte (its first one is
    /// given): of those nothing.
    pub fn equals(&self, other: &View, end: usize, without: Option<usize>) -> bool {
        let word = |view: &View, at: usize| view.bits.get(at).copied().unwrap_or_default();
        let words = self.bits.len().max(other.bits.len()).min(end.div_ceil(64));
        (0..words).all(|at| {
            let mask = if end / 64 == at { (1 << (end % 64)) - 1 } else { !0 };
            let own = match without {
                Some(first) if first / 64 == at => 0xFF << (first % 64),
                _ => 0,
            };
            (word(self, at) ^ (word(other, at) & !own)) & mask == 0
        })
    }
}

/// The number of a reader's first own route on the table: a multiple of 8.
pub fn first_own(case: &Case, reader: usize) -> usize {
    case.routes.next_multiple_of(TALK_ROUTES) + TALK_ROUTES * reader
}

impl Field {
    pub fn now_ns(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Updates that all have got.
    pub fn updates(&self) -> u64 {
        self.readers.iter().map(|reader| reader.updates.load(Ordering::Relaxed)).sum()
    }

    /// How those were fed that have got the table.
    pub fn fed(&self) -> impl Iterator<Item = Fed> {
        self.readers.iter().filter_map(|reader| *reader.fed.lock().unwrap())
    }

    pub fn find(&self, words: String) {
        self.findings.lock().unwrap().push(words);
    }
}

/// Why a connection ended.
enum End {
    Over,
    Fault(Fault),
    HoldTime,
    /// By the server, or it could not be had.
    Closed(String),
    /// The server said what is wrong whoever reads it.
    Wrong(String),
}

/// The life of reader `number`: connects until the run is over.
pub fn live(field: &Field, number: usize) {
    let counts = &field.readers[number];
    let mut attempt = 0;
    while !field.is_over() {
        attempt += 1;
        let seed = field.case.seed << 32 | (number as u64) << 8 | attempt;
        let words = match Connection::open(field, number, seed) {
            Err(error) => format!("no connection: {error}"),
            Ok(mut connection) => {
                let end = connection.live();
                match end {
                    End::Over => return,
                    End::Fault(fault) => {
                        let counter = match fault {
                            Fault::Misaligned { .. } => &counts.misaligned,
                            Fault::Overrun { .. } => &counts.overruns,
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                        fault.to_string()
                    }
                    End::HoldTime => {
                        counts.hold_expiries.fetch_add(1, Ordering::Relaxed);
                        "no KEEPALIVE within the hold time".to_owned()
                    }
                    End::Closed(words) => {
                        counts.closed_by_server.fetch_add(1, Ordering::Relaxed);
                        words
                    }
                    End::Wrong(words) => {
                        counts.misaligned.fetch_add(1, Ordering::Relaxed);
                        words
                    }
                }
            }
        };
        if field.is_over() {
            return;
        }
        let present = counts.view.lock().unwrap().present;
        let at_s = field.begun.elapsed().as_secs_f64();
        field.find(format!("reader {number} at {at_s:.2} s with {present} routes: {words}"));
        // All that came over the connection is gone with it.
        *counts.view.lock().unwrap() = View::default();
        *counts.fed.lock().unwrap() = None;
        counts.talk.store(0, Ordering::Relaxed);
        std::thread::sleep(RETRY);
    }
}

struct Connection<'a> {
    field: &'a Field,
    counts: &'a Counts,
    stream: TcpStream,
    pipeline: Pipeline,
    /// What is to be sent, and has not been taken by the kernel.
    out: Vec<u8>,
    greeted: bool,
    established: bool,
    keepalive: Duration,
    next_keepalive: Option<Instant>,
    /// When the hold timer was restarted.
    heard_ns: u64,
    next_talk: Option<Instant>,
    talked: usize,
    /// Updates until it has as many as the table is long, and how long it had waited for a CPU at the beginning.
    updates_left: usize,
    waited_ns: u64,
    number: usize,
    rng: Rng,
}

impl<'a> Connection<'a> {
    fn open(field: &'a Field, number: usize, seed: u64) -> std::io::Result<Connection<'a>> {
        let socket = Socket::new(Domain::for_address(field.server), Type::STREAM, None)?;
        if let Some(bytes) = field.case.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.connect_timeout(&field.server.into(), common::PATIENCE)?;
        let stream: TcpStream = socket.into();
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Connection {
            field,
            counts: &field.readers[number],
            stream,
            pipeline: Pipeline::new(field.case.habits, seed),
            out: common::hello(field.case.keepalive_s, false, false),
            greeted: false,
            established: false,
            keepalive: Duration::from_secs(u64::from(field.case.keepalive_s)),
            next_keepalive: None,
            heard_ns: field.now_ns(),
            next_talk: None,
            talked: 0,
            // Some of the table may be withdrawn amid it.
            updates_left: field.case.routes * if field.case.is_calm() { 19 } else { 12 } / 20,
            waited_ns: 0,
            number,
            rng: Rng::new(seed),
        })
    }

    fn live(&mut self) -> End {
        let mut buffer = vec![0; BUFFER_BYTES];
        self.waited_ns = sys::waited_ns();
        loop {
            let now_ns = self.field.now_ns();
            let stopped_until_ns = self.field.stopped_until_ns.load(Ordering::Relaxed);
            if stopped_until_ns > now_ns {
                // Not even its timers run.
                std::thread::sleep(Duration::from_nanos(stopped_until_ns - now_ns));
                self.pipeline.stop(now_ns, stopped_until_ns - now_ns);
                continue;
            }
            if self.field.is_over() {
                return End::Over;
            }
            if let Some(end) = self.chores(now_ns) {
                return end;
            }
            let wait_ns = self.pipeline.next_read_ns().saturating_sub(now_ns);
            if wait_ns > 0 {
                std::thread::sleep(Duration::from_nanos(wait_ns).min(self.until_chores()));
                continue;
            }
            // As Go: first told that something is there, then the read.
            let mut ready = [PollFd::new(&self.stream, PollFlags::IN)];
            let _ = poll(&mut ready, Some(&timespec(self.until_chores())));
            if ready[0].revents().is_empty()
                || self.field.stopped_until_ns.load(Ordering::Relaxed) > self.field.now_ns()
            {
                continue;
            }
            if let Some(end) = self.read(&mut buffer) {
                return end;
            }
        }
    }

    /// KEEPALIVEs, hold time, talk, and what could not be sent before.
    fn chores(&mut self, now_ns: u64) -> Option<End> {
        let now = Instant::now();
        if self.next_keepalive.is_some_and(|due| due <= now) {
            self.next_keepalive = Some(now + self.keepalive);
            self.out.extend(common::keepalive());
        }
        if self.next_talk.is_some_and(|due| due <= now) {
            self.talk(now);
        }
        if !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(length) => drop(self.out.drain(..length)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Some(End::Closed(format!("the server broke: {error}"))),
            }
        }
        let hold_ns = self.keepalive.as_nanos() as u64 * 5 / 2;
        (now_ns.saturating_sub(self.heard_ns) > hold_ns).then_some(End::HoldTime)
    }

    /// Announces a route, or withdraws it, in turn.
    fn talk(&mut self, now: Instant) {
        if self.field.hushed.load(Ordering::Relaxed) {
            self.next_talk = None;
            return;
        }
        let on_the_table = self.field.case.talk == Some(Talk::OnTheTable);
        let readers = self.field.readers.len();
        let per_s = match on_the_table {
            true => (TALK_DELIVERIES_PER_S / readers).min(self.field.case.live_per_s_max()),
            false => usize::MAX,
        };
        let per_s = TALK_PER_S.min(per_s);
        let least_us = 3_000.max(readers * 1_000_000 / per_s);
        let pause_us = least_us + self.rng.below(12 * least_us);
        self.next_talk = Some(now + Duration::from_micros(pause_us as u64));
        let which = self.talked % TALK_ROUTES;
        let route = match on_the_table {
            true => table::route(first_own(&self.field.case, self.number) + which),
            false => common::route(TALK_VNI, (self.number * TALK_ROUTES + which) as u32, 1),
        };
        let adds = (self.talked / TALK_ROUTES).is_multiple_of(2);
        self.out.extend(if adds { common::add(&route) } else { common::remove(&route) });
        if on_the_table {
            self.counts.talk.fetch_xor(1 << which, Ordering::Relaxed);
        }
        self.talked += 1;
    }

    /// How long its timers leave it in peace.
    fn until_chores(&self) -> Duration {
        let now = Instant::now();
        let until =
            |due: Option<Instant>| due.map_or(LOOK, |due| due.saturating_duration_since(now));
        LOOK.min(until(self.next_keepalive)).min(until(self.next_talk))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<End> {
        let waiting = rustix::io::ioctl_fionread(&self.stream).unwrap_or_default() as usize;
        let length = match self.stream.read(buffer) {
            Ok(0) => return Some(End::Closed("the server closed the connection".to_owned())),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(error) => return Some(End::Closed(format!("the server broke: {error}"))),
        };
        self.pipeline.read(self.field.now_ns());
        let rest = match self.take(&buffer[..length]) {
            Ok(rest) => rest,
            Err(words) => return Some(End::Wrong(words)),
        };
        pipeline::fault(waiting, length, rest).map(End::Fault)
    }

    /// Takes whole frames; returns how many bytes are left.
    fn take(&mut self, mut bytes: &[u8]) -> Result<usize, String> {
        let counts = self.counts;
        let mut view = counts.view.lock().unwrap();
        let (mut updates, mut redundant) = (0, 0);
        while let [version, high, low, kind, rest @ ..] = bytes {
            if *version != 1 {
                return Err(format!("no frame begins with {version}"));
            }
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(payload) = rest.get(..length) else { break };
            bytes = &rest[length..];
            match *kind {
                common::UPDATE => {
                    let (number, added) = table::number_of(payload)?;
                    self.pipeline.update();
                    updates += 1;
                    redundant += u64::from(!view.set(number, added));
                    self.updates_left = self.updates_left.saturating_sub(1);
                    if self.updates_left == 0 {
                        self.fed();
                    }
                }
                // Ours are answered by KEEPALIVEs, the server's first one follows our first one.
                common::KEEPALIVE => {
                    self.heard_ns = self.pipeline.next_read_ns();
                    if self.greeted && !self.established {
                        self.established = true;
                        self.out.extend(common::subscribe(u32::from(table::VNI)));
                        if self.field.case.talk.is_some() {
                            self.next_talk = Some(Instant::now());
                        }
                    }
                }
                common::HELLO if !self.greeted => {
                    self.greeted = true;
                    self.heard_ns = self.pipeline.next_read_ns();
                    self.next_keepalive = Some(Instant::now() + self.keepalive);
                    self.out.extend(common::keepalive());
                }
                kind => return Err(format!("a message of type {kind}")),
            }
        }
        counts.updates.fetch_add(updates, Ordering::Relaxed);
        counts.redundant.fetch_add(redundant, Ordering::Relaxed);
        Ok(bytes.len())
    }

    /// It has the table's length, and how it came to it counts no more.
    fn fed(&mut self) {
        let Some((busy_ns, passed_ns)) = self.pipeline.times_ns() else { return };
        let waited_ns = sys::waited_ns() - self.waited_ns;
        *self.counts.fed.lock().unwrap() = Some(Fed { busy_ns, passed_ns, waited_ns });
        self.updates_left = usize::MAX;
    }
}
