//! Fan-out over loopback sockets, end to end, and beside it the floor: a bare loop that knows no protocol
//! sends the same bytes to the same number of sockets. For readers that reassemble, and for those that need
//! whole frames in each segment.
//!
//! Owns the measurement: CPU time of the sending thread for each delivered update, which on loopback holds
//! the receive half of TCP. Must never count the readers.
#![allow(missing_docs)] // criterion_group! makes a public function without any.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use common::routes::updates;
use common::{ThreadCpu, criterion, thread_cpu};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use io_uring::{cqueue, opcode, types};
use metalbond_uring::internals::io::{Server, ServerConfig, runtime_builder};
use metalbond_uring::internals::shard::BATCH_BYTES_MAX;
use metalbond_uring::internals::wire::{HEADER_BYTES, Hello, Message, frames};
use metalbond_uring::types::{Action, Pace, Vni};
use socket2::SockRef;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

const VNI: Vni = Vni(7);
const SUBSCRIBERS: usize = 100;
const ROUTES: u32 = 5_000;
/// What the reflector sets: see `io::listener`.
const NOTSENT_BYTES_MAX: u32 = 128 << 10;

/// One thread that reads many sockets to nowhere.
struct Readers {
    orders: mpsc::Sender<usize>,
    done: mpsc::Receiver<()>,
}

impl Readers {
    fn new(streams: Vec<TcpStream>) -> Readers {
        let (orders, ordered) = mpsc::channel::<usize>();
        let (finished, done) = mpsc::channel();
        let read = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("epoll");
            let to_tokio = |stream: TcpStream| {
                stream.set_nonblocking(true).expect("a socket");
                tokio::net::TcpStream::from_std(stream).expect("a socket")
            };
            runtime.block_on(async {
                let mut streams: Vec<_> = streams.into_iter().map(to_tokio).collect();
                while let Ok(bytes_each) = ordered.recv() {
                    let reading =
                        streams.into_iter().map(|stream| tokio::spawn(read(stream, bytes_each)));
                    let reading: Vec<_> = reading.collect();
                    streams = Vec::new();
                    for task in reading {
                        streams.push(task.await.expect("a reader"));
                    }
                    finished.send(()).expect("somebody waits");
                }
            });
        };
        thread::Builder::new().name("readers".to_owned()).spawn(read).expect("a thread");
        Readers { orders, done }
    }

    /// Each is to read so many bytes from now on.
    fn expect(&self, bytes_each: usize) {
        self.orders.send(bytes_each).expect("the readers run");
    }

    fn wait(&self) {
        self.done.recv().expect("the readers run");
    }
}

async fn read(stream: tokio::net::TcpStream, bytes: usize) -> tokio::net::TcpStream {
    let mut buffer = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        stream.readable().await.expect("a socket");
        let length = match stream.try_read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            result => result.expect("a read"),
        };
        assert!(length > 0 && length <= left, "{length} of {left} bytes");
        left -= length;
    }
    stream
}

/// An established peer.
fn connect(server: SocketAddr, reassembles: bool) -> TcpStream {
    let mut stream = TcpStream::connect(server).expect("the server listens");
    stream.set_nodelay(true).expect("a socket");
    let hello = Hello { keepalive_interval_s: 3_600, is_server: false, reassembles };
    say(&mut stream, &Message::Hello(hello));
    hear(&mut stream);
    barrier(&mut stream);
    stream
}

fn say(stream: &mut TcpStream, message: &Message) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    stream.write_all(&bytes).expect("a write");
}

fn hear(stream: &mut TcpStream) {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).expect("a header");
    let mut payload = vec![0; usize::from(u16::from_be_bytes([header[1], header[2]]))];
    stream.read_exact(&mut payload).expect("a payload");
}

fn barrier(stream: &mut TcpStream) {
    say(stream, &Message::Keepalive);
    hear(stream);
}

/// CPU time that the shard's thread has used. It must be parked: the kernel accounts for a running one late.
fn shard_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("proc");
    for task in tasks.map(|task| task.expect("a task").path()) {
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.trim() == "shard-0" {
            let times = std::fs::read_to_string(task.join("schedstat")).expect("schedstat");
            let ns = times.split(' ').next().and_then(|ns| ns.parse().ok());
            return Duration::from_nanos(ns.expect("nanoseconds on the CPU"));
        }
    }
    panic!("no thread is named shard-0");
}

/// ADDs, and REMOVEs of the same routes, each told in full before the other is sent. For ever, since the
/// ring borrows them.
#[derive(Clone, Copy)]
struct Load {
    waves: [&'static [u8]; 2],
    updates: u64,
}

impl Load {
    /// A table at once.
    fn many() -> Load {
        static MANY: OnceLock<Load> = OnceLock::new();
        *MANY.get_or_init(|| Load::of(ROUTES))
    }

    /// One update, as it comes when little happens.
    fn lone() -> Load {
        static LONE: OnceLock<Load> = OnceLock::new();
        *LONE.get_or_init(|| Load::of(1))
    }

    fn of(routes: u32) -> Load {
        let wave = |action| &*updates(action, VNI, 0..routes).leak();
        Load { waves: [Action::Add, Action::Remove].map(wave), updates: 2 * u64::from(routes) }
    }
}

fn reflector(criterion: &mut Criterion<ThreadCpu>) {
    fan_out(criterion, "reflector", true, Load::many());
    fan_out(criterion, "reflector, aligned", false, Load::many());
    fan_out(criterion, "reflector, lone updates", true, Load::lone());
}

fn fan_out(criterion: &mut Criterion<ThreadCpu>, name: &str, reassembles: bool, load: Load) {
    let config = ServerConfig {
        listen: vec![SocketAddr::from((Ipv6Addr::LOCALHOST, 0))],
        cores: 1,
        keepalive_interval_s: 3_600,
        pace: Pace::Off,
        ..ServerConfig::default()
    };
    let server = Server::start(config).expect("io_uring");
    let mut announcer = connect(server.local_addr(), true);
    let subscribe = |_| {
        let mut stream = connect(server.local_addr(), reassembles);
        say(&mut stream, &Message::Subscribe(VNI));
        barrier(&mut stream);
        stream
    };
    let readers = Readers::new((0..SUBSCRIBERS).map(subscribe).collect());
    bench(criterion, name, load, |times| {
        let before = shard_cpu();
        for wave in (0..times).flat_map(|_| load.waves) {
            readers.expect(wave.len());
            announcer.write_all(wave).expect("a write");
            readers.wait();
        }
        // Its answer shows that the shard has come to the end; it parks a moment later.
        barrier(&mut announcer);
        thread::sleep(Duration::from_millis(1));
        shard_cpu() - before
    });
}

/// A task for each socket sends the waves in large pieces, one SEND at a time.
fn floor(criterion: &mut Criterion<ThreadCpu>) {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("a port");
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..SUBSCRIBERS {
        near.push(TcpStream::connect(address).expect("it listens"));
        far.push(listener.accept().expect("it connected").0);
        let socket = SockRef::from(&far[far.len() - 1]);
        socket.set_tcp_nodelay(true).expect("a socket");
        socket.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX).expect("a socket");
    }
    let readers = Readers::new(near);
    let (many, lone) = (Load::many(), Load::lone());
    let pieces = [
        ("floor, 64 KiB a SEND", many, 64 << 10, libc::MSG_WAITALL),
        ("floor, 16 KiB a SEND", many, 16 << 10, libc::MSG_WAITALL),
        ("floor, aligned", many, BATCH_BYTES_MAX, libc::MSG_WAITALL | libc::MSG_EOR),
        ("floor, lone updates", lone, 64 << 10, libc::MSG_WAITALL),
    ];
    for (name, load, bytes_max, flags) in pieces {
        let waves = load.waves.map(|wave| cut(wave, bytes_max));
        bench(criterion, name, load, |times| {
            let streams = far.iter().map(|stream| stream.try_clone().expect("a descriptor"));
            let streams: Vec<TcpStream> = streams.collect();
            // The ring is set up before, and torn down after, what is measured.
            runtime_builder().start(send_waves(streams, &readers, times, &waves, flags))
        });
    }
}

/// Pieces of whole frames, of at most so many bytes.
fn cut(mut wave: &'static [u8], bytes_max: usize) -> Rc<[&'static [u8]]> {
    let mut pieces = Vec::new();
    while !wave.is_empty() {
        let mut length = 0;
        for frame in frames(wave) {
            if length + frame.len() > bytes_max {
                break;
            }
            length += frame.len();
        }
        let (piece, rest) = wave.split_at(length);
        pieces.push(piece);
        wave = rest;
    }
    pieces.into()
}

/// SEND of bytes that live for ever, with flags: what `io::send` does, without its peer.
async fn send(socket: Rc<tokio_uring::net::TcpStream>, bytes: &'static [u8], flags: i32) -> usize {
    let fd = types::Fd(socket.as_raw_fd());
    let entry = opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
    UnsubmittedOneshot::new(Kept(socket), BytesSent, entry).submit().await
}

/// The socket, until the completion.
struct Kept(#[allow(dead_code)] Rc<tokio_uring::net::TcpStream>);

struct BytesSent;

impl OneshotOutputTransform for BytesSent {
    type Output = usize;
    type StoredData = Kept;

    fn transform_oneshot_output(self, _: Kept, completion: cqueue::Entry) -> usize {
        usize::try_from(completion.result()).expect("a SEND")
    }
}

async fn send_waves(
    streams: Vec<TcpStream>,
    readers: &Readers,
    times: u64,
    waves: &[Rc<[&'static [u8]]>; 2],
    flags: i32,
) -> Duration {
    let to_ring = |stream| Rc::new(tokio_uring::net::TcpStream::from_std(stream));
    let sockets: Vec<_> = streams.into_iter().map(to_ring).collect();
    let before = thread_cpu();
    for wave in (0..times).flat_map(|_| waves) {
        readers.expect(wave.iter().map(|piece| piece.len()).sum());
        let sending = sockets.iter().map(|socket| {
            let (socket, wave) = (Rc::clone(socket), Rc::clone(wave));
            tokio_uring::spawn(async move {
                for &piece in &*wave {
                    let sent = send(Rc::clone(&socket), piece, flags).await;
                    assert_eq!(sent, piece.len(), "MSG_WAITALL");
                }
            })
        });
        for task in sending.collect::<Vec<_>>() {
            task.await.expect("a task");
        }
        readers.wait();
    }
    thread_cpu() - before
}

fn bench(
    criterion: &mut Criterion<ThreadCpu>,
    name: &str,
    load: Load,
    mut measure: impl FnMut(u64) -> Duration,
) {
    let mut group = criterion.benchmark_group("sockets");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(load.updates * SUBSCRIBERS as u64));
    group.bench_function(BenchmarkId::new(name, SUBSCRIBERS), |bencher| {
        bencher.iter_custom(&mut measure);
    });
    group.finish();
}

criterion_group!(name = benches; config = criterion(); targets = reflector, floor);
criterion_main!(benches);
