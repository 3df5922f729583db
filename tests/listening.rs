//! Addresses that cannot be had, yet or at all, and hosts with half of IP; limits that do not fit.
//!
//! Namespaces and system call filters belong to the tests' own threads.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
#[allow(dead_code)]
#[path = "common/netns.rs"]
mod netns;

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::process::{Process, run};
use common::*;
use metalbond_uring::internals::io::{ServeError, Server, ServerConfig};
use metalbond_uring::internals::session::State;
use netns::{TUNNEL, in_namespace, ip};
use socket2::SockRef;

/// An address that nobody has.
const NOWHERE: &str = "[2001:db8::4711]:4711";

fn start(listen: &[&str]) -> Result<Server, ServeError> {
    let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
    Server::start(ServerConfig { listen, ..server_config(1, 60) })
}

/// Somebody is served there.
#[track_caller]
fn serves(host: &str, server: &Server) {
    let address = SocketAddr::new(host.parse().unwrap(), server.local_addr().port());
    Peer::established(address, 60, true).barrier();
}

#[track_caller]
fn becomes_established(node: &Server, server: &str, local_ip: Option<IpAddr>) {
    let state = node.dial(server.to_owned(), local_ip);
    let deadline = Instant::now() + PATIENCE;
    while state.state() != State::Established {
        assert!(Instant::now() < deadline, "{server}: {:?}", state.state());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs `body` where sockets of `family` cannot be made, as with `RestrictAddressFamilies=` or a kernel
/// without it.
fn without(family: i32, body: impl FnOnce() + Send) {
    let load = |offset| filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let unless = |value, skip| filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let end = |action| filter(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let mut filters = [
        load(0), // the call's number
        unless(libc::SYS_socket as u32, 3),
        load(16), // the low half of its first argument
        unless(family as u32, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
            let program =
                libc::sock_fprog { len: filters.len() as u16, filter: filters.as_mut_ptr() };
            // SAFETY: the kernel copies the program; both calls concern this thread and those that it
            // will start.
            let result = unsafe {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program)
            };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            body();
        });
        if let Err(panic) = thread.unwrap().join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn filter(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[test]
fn a_host_without_ipv6() {
    without(libc::AF_INET6, || {
        let server = start(&["[::]:0"]).unwrap();
        assert!(server.local_addr().is_ipv4(), "{}", server.local_addr());
        serves("127.0.0.1", &server);
        // The client's name has ::1 first, or not at all.
        let name = format!("localhost:{}", server.local_addr().port());
        becomes_established(&server, &name, None);
        assert!(start(&["0.0.0.0:0"]).is_ok());

        let error = start(&["[::1]:0"]).err().unwrap();
        assert!(error.to_string().ends_with("(this host has no IPv6)"), "{error}");
        let both = start(&["[::1]:0", "127.0.0.1:0"]).unwrap();
        assert_eq!(both.local_addresses().len(), 1);
        serves("127.0.0.1", &both);
        // What stands in for it is in use.
        let taken = format!("[::]:{}", server.local_addr().port());
        let error = start(&[&taken]).err().unwrap();
        assert!(matches!(error, ServeError::AddressInUse { .. }), "{error}");
        assert!(server.listen("[::]:0".parse().unwrap()).unwrap().is_ipv4());
    });
}

#[test]
fn a_host_without_ipv4() {
    without(libc::AF_INET, || {
        serves("::1", &start(&["[::]:0"]).unwrap());
        let error = start(&["0.0.0.0:0"]).err().unwrap();
        assert!(error.to_string().ends_with("(this host has no IPv4)"), "{error}");
        assert_eq!(start(&["127.0.0.1:0", "[::1]:0"]).unwrap().local_addresses().len(), 1);
    });
}

#[test]
fn ipv6_switched_off_or_by_itself() {
    in_namespace("ipv6_switched_off", || {
        ip("link set lo up");
        std::fs::write("/proc/sys/net/ipv6/bindv6only", "1").unwrap();
        let server = start(&["[::]:0"]).unwrap();
        serves("127.0.0.1", &server);
        serves("::1", &server);
        let ipv4_only = start(&["0.0.0.0:0"]).unwrap();
        let address = SocketAddr::new("::1".parse().unwrap(), ipv4_only.local_addr().port());
        assert!(TcpStream::connect(address).is_err());

        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        serves("127.0.0.1", &start(&["[::]:0"]).unwrap());
        // What localhost stands for: ::1 is not waited for.
        let both = start(&["[::1]:0", "127.0.0.1:0"]).unwrap();
        assert_eq!(both.local_addresses().len(), 1);
        serves("127.0.0.1", &both);
    });
}

#[test]
fn addresses_that_are_about_to_come_up() {
    in_namespace("addresses_about_to_come_up", || {
        ip("link set lo up");
        // Three probes, so that an address is not up before it is looked at.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{TUNNEL}/dad_transmits"), "3").unwrap();
        let tentative = || ip(&format!("-6 addr show dev {TUNNEL} tentative"));
        let add = |address: &str| ip(&format!("-6 addr add {address}/64 dev {TUNNEL}"));
        add("fd00::1");
        assert!(tentative().contains("fd00::1"), "the test would show nothing");
        serves("fd00::1", &start(&["[fd00::1]:0"]).unwrap());
        // One of several: it is waited for, since it is there.
        add("fd00::2");
        assert!(tentative().contains("fd00::2"), "the test would show nothing");
        let server = start(&["127.0.0.1:0", "[fd00::2]:0"]).unwrap();
        assert_eq!(server.local_addresses().len(), 2);
        // The side that dials.
        add("fd00::3");
        assert!(tentative().contains("fd00::3"), "the test would show nothing");
        let remote = server.local_addresses()[1].to_string();
        becomes_established(&server, &remote, Some("fd00::3".parse().unwrap()));

        // One that is not there at all yet.
        std::thread::scope(|scope| {
            let later = std::thread::Builder::new().spawn_scoped(scope, || {
                std::thread::sleep(Duration::from_millis(300));
                ip(&format!("addr add 10.47.11.1/24 dev {TUNNEL}"));
            });
            serves("10.47.11.1", &start(&["10.47.11.1:0"]).unwrap());
            later.unwrap().join().unwrap();
        });
    });
}

#[test]
fn an_address_in_use_is_not_waited_for() {
    let server = Process::serve(&[]);
    let error = start(&[NOWHERE, &server.address().to_string()]).err().unwrap();
    assert!(matches!(error, ServeError::AddressInUse { .. }), "{error}");
}

/// A path may swallow what is larger than its MTU without a word.
#[test]
fn segments_pass_the_smallest_mtu_in_both_directions() {
    in_namespace("segments_pass_the_smallest_mtu", || {
        ip("link set lo up");
        ip(&format!("-6 addr add fd00::1/64 dev {TUNNEL} nodad"));
        for (segment_bytes_max, host, bytes) in [
            (1220, "fd00::1", 1180..=1220),
            (1220, "::1", 1300..=65_535), // within the host
            (0, "fd00::1", 1300..=65_535),
        ] {
            let address = SocketAddr::new(host.parse().unwrap(), 0);
            let config =
                ServerConfig { listen: vec![address], segment_bytes_max, ..server_config(1, 60) };
            let server = Server::start(config).unwrap();
            let mss = |stream: &TcpStream| SockRef::from(stream).tcp_mss().unwrap();
            for address in [server.local_addr(), server.listen(address).unwrap()] {
                let client = TcpStream::connect(address).unwrap();
                assert!(bytes.contains(&mss(&client)), "{address}: {}", mss(&client));
            }
            // The side that dials.
            let listener = TcpListener::bind(address).unwrap();
            server.dial(listener.local_addr().unwrap().to_string(), None);
            let (dialled, _) = listener.accept().unwrap();
            assert!(bytes.contains(&mss(&dialled)), "{host}: {}", mss(&dialled));
        }
    });
}

#[test]
fn a_wrong_address_is_an_error_in_the_end() {
    let (code, text) = run(&["server", "--listen", NOWHERE, "--cores", "1"]);
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(text.matches(&format!("waiting 10 s for {NOWHERE}")).count(), 1, "{text}");
    let error = format!("cannot listen on {NOWHERE}: ");
    let last = text.lines().last().unwrap();
    assert!(last.contains(&error) && last.contains("no interface"), "{text}");
}

#[test]
fn a_signal_ends_the_wait() {
    for signal in ["TERM", "INT"] {
        let mut server = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"))
            .args(["--listen", NOWHERE, "--cores", "1"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
        assert!(log.any(|line| line.unwrap().contains("waiting")), "it ended");
        let pid = server.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        assert_eq!(server.wait().unwrap().code(), Some(0));
        let rest: Vec<String> = log.map_while(Result::ok).collect();
        assert!(rest.len() == 1 && rest[0].contains("received"), "not at once: {rest:?}");
    }
}

#[test]
fn too_few_descriptors_are_told() {
    for (peers_max, warnings) in [("65536", 1), ("200", 0)] {
        let server =
            Process::serve_with_descriptors(256, &["--cores", "2", "--peers-max", peers_max]);
        assert_eq!(server.logged("raise `ulimit -n`"), warnings, "{}", server.log());
    }
    // The number is what fits, and hardly less.
    let server = Process::serve_with_descriptors(256, &["--cores", "2"]);
    let log = server.log();
    let (_, rest) = log.split_once("descriptors: 256 allow about ").unwrap();
    let fitting: usize = rest.split(' ').next().unwrap().parse().unwrap();
    let mut peers = Vec::new();
    while peers.len() < 256 && server.logged("cannot accept") == 0 {
        let mut peer = Peer::connect(server.address());
        peer.send(&hello(60, false, true));
        let deadline = Instant::now() + PATIENCE;
        while peer.frames.is_empty() && server.logged("cannot accept") == 0 {
            assert!(Instant::now() < deadline, "{}", server.log());
            peer.read_some(Duration::from_millis(20));
        }
        peers.push(peer);
    }
    let served = peers.iter().filter(|peer| !peer.frames.is_empty()).count();
    assert!((fitting..fitting + 16).contains(&served), "{fitting} were told, {served} fit");
}
