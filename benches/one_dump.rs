//! What one dump to a Go client looks like over time: draws `docs/one-dump.svg` of a real run over loopback.
//!
//! Owns a reader that takes 10 us for each route, and somebody who looks at its socket all the time. Must never ask the
//! server: what was proven to be read is told by the segments, since it goes on only after a proof.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "one_dump/drawing.rs"]
mod drawing;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::process::Process;
use common::{Frame, Peer, UPDATE, add, hello, keepalive, route, subscribe};
use drawing::Run;

const VNI: u32 = 7;
const ROUTES: u32 = 100_000;
const ROUTE_TAKES: Duration = Duration::from_micros(10);
const READ_BYTES: usize = 65_535;
/// Frames that go alone have less.
const ALONE_BYTES_MAX: usize = 127;
const OUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/one-dump.svg");

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` shall not write files.
        return;
    }
    let server = Process::serve(&["--cores=1"]);
    let mut announcer = Peer::established(server.address(), 60, true);
    announcer.send(&(0..ROUTES).flat_map(|n| add(&route(VNI, n, n))).collect::<Vec<u8>>());
    announcer.barrier();
    let before = server.cpu_time();
    let (arrived, read) = measure(&server);
    let cpu = server.cpu_time() - before;
    let (proven, windows) = proofs(&arrived);
    let took_s = read.last().unwrap().0;
    let run = Run { arrived, read, proven, windows };
    std::fs::write(OUT, run.draw()).unwrap();
    println!(
        "{ROUTES} routes in {took_s:.2} s, {:.0} % of what the reader can take, {} proofs, {:.2} us \
         of the server's CPU a route: {OUT}",
        100.0 * ROUTE_TAKES.as_secs_f64() * f64::from(ROUTES) / took_s,
        run.proven.len(),
        cpu.as_secs_f64() * 1e6 / f64::from(ROUTES),
    );
}

/// Seconds, and bytes until then.
type Curve = Vec<(f64, usize)>;

/// Joins and reads the table: what had arrived when, and what had been read.
fn measure(server: &Process) -> (Curve, Curve) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(&hello(60, false, false)).unwrap();
    stream.write_all(&keepalive()).unwrap();
    let mut buffer = vec![0; READ_BYTES];
    // The answers: nothing of them is in the drawing.
    let mut answers = 0;
    while answers < 2 {
        let length = stream.read(&mut buffer).unwrap();
        answers += Frame::all_of(&buffer[..length]).len();
    }
    let watched = stream.try_clone().unwrap();
    let (bytes_read, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    stream.write_all(&subscribe(VNI)).unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let (bytes_read, is_over) = (&bytes_read, &is_over);
        let watch = move || {
            let mut arrived: Curve = vec![(0.0, 0)];
            while !is_over.load(Ordering::Relaxed) {
                let unread = rustix::io::ioctl_fionread(watched.as_fd()).unwrap() as usize;
                let bytes = bytes_read.load(Ordering::Relaxed) + unread;
                // Between a read and its count it seems to be less.
                if bytes > arrived.last().unwrap().1 {
                    arrived.push((begun.elapsed().as_secs_f64(), bytes));
                }
                std::thread::sleep(Duration::from_micros(5));
            }
            arrived
        };
        let watcher = std::thread::Builder::new().spawn_scoped(scope, watch).unwrap();
        let (mut routes, mut read, mut total) = (0, vec![(0.0, 0)], 0);
        let mut free_at = Instant::now();
        while routes < ROUTES as usize {
            let length = stream.read(&mut buffer).unwrap();
            let is_well = (1..READ_BYTES).contains(&length);
            assert!(is_well, "a read of {length} bytes; the server: {}", server.log());
            total += length;
            bytes_read.store(total, Ordering::Relaxed);
            read.push((begun.elapsed().as_secs_f64(), total));
            let frames = Frame::all_of(&buffer[..length]);
            let came = frames.iter().filter(|frame| frame.kind == UPDATE).count();
            routes += came;
            free_at = free_at.max(Instant::now()) + ROUTE_TAKES * came as u32;
            std::thread::sleep(free_at.saturating_duration_since(Instant::now()));
        }
        is_over.store(true, Ordering::Relaxed);
        (watcher.join().unwrap(), read)
    })
}

/// When how much was proven to be read; and what was sent until the next proof.
fn proofs(arrived: &Curve) -> (Curve, Curve) {
    let (mut proven, mut windows): (Curve, Curve) = (vec![(0.0, 0)], Vec::new());
    let mut was_alone = false;
    for pair in arrived.windows(2) {
        let ((_, before), (at, bytes)) = (pair[0], pair[1]);
        let is_alone = bytes - before <= ALONE_BYTES_MAX;
        // More than a frame behind one that went alone: that one was the probe.
        if was_alone && !is_alone {
            let &(since, read) = proven.last().unwrap();
            windows.push((since, before - read));
            proven.push((at, before));
        }
        was_alone = is_alone;
    }
    (proven, windows)
}
