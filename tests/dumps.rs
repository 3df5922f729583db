//! What Go clients rely on amid a dump, over sockets: KEEPALIVEs in time, default routes first, one next hop gone before
//! the other comes, and a smaller window for whoever failed.
//!
//! Owns a reader that takes its time for each route. Must never put two reads together.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::*;
use metalbond_uring::internals::io::{Server, ServerConfig};
use metalbond_uring::types::Pace;

const VNI: u32 = 7;
const READ_BYTES: usize = 65_535;
const LOOK: Duration = Duration::from_millis(20);
/// What may be unread of a peer in the beginning, and of one that failed, in bytes; and what a proof adds.
const FIRST_BYTES: usize = 8 << 10;
const SMALLEST_BYTES: usize = 4 << 10;
const SEGMENT_BYTES: usize = 1_188;

/// A client in the field: what it has read of, it works off before it reads again.
struct Reader {
    stream: TcpStream,
    interval: Duration,
    /// When it last came to a KEEPALIVE: nothing else restarts its hold timer.
    heard_at: Instant,
    /// The longest that this took.
    silence: Duration,
    says_at: Instant,
    updates: Vec<Frame>,
}

impl Reader {
    fn joins(server: SocketAddr, interval_s: u32) -> Reader {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(LOOK)).unwrap();
        stream.write_all(&hello(interval_s, false, false)).unwrap();
        stream.write_all(&keepalive()).unwrap();
        stream.write_all(&subscribe(VNI)).unwrap();
        let now = Instant::now();
        let interval = Duration::from_secs(interval_s.into());
        let (silence, says_at) = (Duration::ZERO, now + interval);
        Reader { stream, interval, heard_at: now, silence, says_at, updates: Vec::new() }
    }

    /// Reads so many UPDATEs, and takes so long for each.
    fn reads(&mut self, updates: usize, takes: Duration) {
        self.reads_until(takes, |frames| frames.len() >= updates);
    }

    /// Reads until it is done.
    fn reads_until(&mut self, takes: Duration, mut is_done: impl FnMut(&[Frame]) -> bool) {
        let begun = Instant::now();
        let mut buffer = vec![0; READ_BYTES];
        while !is_done(&self.updates) {
            let came = self.updates.len();
            assert!(begun.elapsed() < 3 * PATIENCE, "in vain, {came} updates");
            self.says();
            let length = match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.unwrap(),
            };
            assert!((1..READ_BYTES).contains(&length), "{length} bytes, {came} updates");
            let frames = Frame::all_of(&buffer[..length]);
            let whole: usize = frames.iter().map(|frame| 4 + frame.payload.len()).sum();
            assert_eq!(whole, length, "a read ends inside a frame, {came} updates");
            for frame in frames {
                match frame.kind {
                    KEEPALIVE => {
                        self.silence = self.silence.max(self.heard_at.elapsed());
                        self.heard_at = Instant::now();
                    }
                    UPDATE => {
                        self.updates.push(frame);
                        std::thread::sleep(takes);
                        self.says();
                    }
                    _ => {}
                }
            }
            let silence = self.heard_at.elapsed();
            assert!(silence < self.interval * 5 / 2, "hold time over, {came} updates");
        }
    }

    /// It says KEEPALIVE while it works, as others threads of a client do.
    fn says(&mut self) {
        if Instant::now() > self.says_at {
            self.says_at += self.interval;
            self.stream.write_all(&keepalive()).unwrap();
        }
    }

    /// Bytes that wait to be read, when there are no more for a moment.
    fn unread_bytes(&self) -> usize {
        let unread = || rustix::io::ioctl_fionread(self.stream.as_fd()).unwrap() as usize;
        let (begun, mut last, mut still_since) = (Instant::now(), 0, Instant::now());
        // Frames that are sent alone come while their acknowledgements do: each 40 ms at most.
        while last < SMALLEST_BYTES / 2 || still_since.elapsed() < LOOK {
            assert!(begun.elapsed() < PATIENCE, "{last} bytes came");
            if std::mem::replace(&mut last, unread()) != last {
                still_since = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        last
    }

    /// It ends with unread bytes: its kernel resets the connection.
    fn fails(self) {
        drop(self);
    }
}

/// A server with a table of so many routes, and who announced them.
fn serve(cores: u16, routes: u32) -> (Server, Peer) {
    let config = ServerConfig { pace: Pace::Auto, ..server_config(cores, 60) };
    let server = Server::start(config).unwrap();
    let mut announcer = Peer::established(server.local_addr(), 60, true);
    announcer.send(&(0..routes).flat_map(|n| add(&route(VNI, n, n))).collect::<Vec<u8>>());
    announcer.barrier();
    (server, announcer)
}

#[test]
fn keepalives_come_in_time_amid_a_dump() {
    // Each takes longer than the hold time, and that is longer than a machine may stand still.
    for (routes, takes_us, interval_s) in [(20_000, 250, 2), (1_200, 5_000, 2)] {
        let (server, _announcer) = serve(1, routes);
        let mut reader = Reader::joins(server.local_addr(), interval_s);
        reader.reads(routes as usize, Duration::from_micros(takes_us));
        assert!(reader.silence > Duration::ZERO, "no KEEPALIVE came: the test shows nothing");
    }
}

#[test]
fn default_routes_come_first() {
    for reassembles in [false, true] {
        let (server, mut announcer) = serve(1, 3_000);
        // The last that are announced: 0.0.0.0/0 and ::/0.
        let hop = [&[0x22, 18, 0x0a, 16, 0x20, 0x01, 0x0d, 0xb8][..], &[0; 12]].concat();
        let all_of = |destination: &[u8]| {
            let length = destination.len() as u8;
            [&[0x10, VNI as u8, 0x1a, length], destination, &hop].concat()
        };
        let ipv4 = all_of(&[&[0x12, 4][..], &[0; 4]].concat());
        let ipv6 = all_of(&[&[0x08, 1, 0x12, 16][..], &[0; 16]].concat());
        announcer.send(&[add(&ipv4), add(&ipv6)].concat());
        announcer.barrier();
        let updates = if reassembles {
            let mut peer = Peer::established(server.local_addr(), 60, true);
            peer.send(&subscribe(VNI));
            peer.read_until("the table", |peer| peer.view.len() == 3_002);
            peer.update_frames()
        } else {
            let mut reader = Reader::joins(server.local_addr(), 60);
            reader.reads(3_002, Duration::ZERO);
            reader.updates
        };
        let mut first: Vec<Vec<u8>> =
            updates[..2].iter().map(|it| it.update().unwrap().1.to_vec()).collect();
        first.sort();
        let mut expected = vec![ipv4, ipv6];
        expected.sort();
        assert_eq!(first, expected, "reassembles: {reassembles}");
    }
}

/// metalnet deletes by destination: a REMOVE behind the ADD would take both.
#[test]
fn an_old_next_hop_goes_before_the_new_one_comes() {
    let routes = 2_000;
    // Behind by less than a log may have, and by more: amid a base it is told what differs.
    for rounds in [3, 40] {
        let (server, mut announcer) = serve(1, routes);
        let mut reader = Reader::joins(server.local_addr(), 60);
        reader.reads(100, Duration::ZERO);
        let newest = |number| route(VNI, number, number + routes * rounds);
        if rounds > 3 {
            // What changed first is not what has to be told first.
            let twice = |number| [add(&newest(number)), remove(&newest(number))].concat();
            announcer.send(&(0..routes).flat_map(twice).collect::<Vec<u8>>());
        }
        for round in 0..rounds {
            let mut bytes = Vec::new();
            for number in 0..routes {
                // To and fro, so that some hops were there before; the last ones are new.
                let hop = |round| number + routes * if round == rounds { round } else { round % 3 };
                bytes.extend(remove(&route(VNI, number, hop(round))));
                bytes.extend(add(&route(VNI, number, hop(round + 1))));
            }
            announcer.send(&bytes);
        }
        announcer.barrier();
        let (mut hops, mut taken) = (BTreeMap::new(), 0);
        reader.reads_until(Duration::from_micros(10), |updates| {
            for update in &updates[taken..] {
                let (added, route) = update.update().unwrap();
                let (destination, hop) = route.split_at(route.len() - 4);
                if added {
                    let old = hops.insert(destination.to_vec(), hop.to_vec());
                    assert_eq!(old, None, "the old hop is still there");
                } else {
                    assert_eq!(hops.remove(destination).as_deref(), Some(hop), "unknown");
                }
            }
            taken = updates.len();
            let is_new = |(number, hop): (u32, &Vec<u8>)| {
                hop[..] == (number + routes * rounds).to_be_bytes()
            };
            hops.len() == routes as usize && (0..).zip(hops.values()).all(is_new)
        });
        let changes = (2 * routes * rounds) as usize;
        let is_told_all = reader.updates.len() >= changes;
        assert_eq!(is_told_all, rounds == 3, "{} updates", reader.updates.len());
    }
}

#[test]
fn who_was_reset_begins_with_the_smallest_window_on_each_core() {
    // What is sent alone for a proof, besides.
    let alone = 20 * 64;
    let is_first = FIRST_BYTES - SEGMENT_BYTES..=FIRST_BYTES + alone;
    let is_smallest = SMALLEST_BYTES - SEGMENT_BYTES..=SMALLEST_BYTES + alone;
    assert!(is_smallest.end() < is_first.start());
    let (server, _announcer) = serve(2, 3_000);
    let reader = Reader::joins(server.local_addr(), 60);
    let bytes = reader.unread_bytes();
    assert!(is_first.contains(&bytes), "{bytes}");
    reader.fails();
    // All hear of it within a moment. Connections go to the core that has the fewest.
    let (deadline, mut again, mut small) = (Instant::now() + PATIENCE, Vec::new(), 0);
    while small < 4 {
        assert!(Instant::now() < deadline, "of {} the last {small} begin small", again.len());
        let reader = Reader::joins(server.local_addr(), 60);
        let bytes = reader.unread_bytes();
        assert!(is_smallest.contains(&bytes) || is_first.contains(&bytes), "{bytes}");
        small = if is_smallest.contains(&bytes) { small + 1 } else { 0 };
        again.push(reader);
    }
}
