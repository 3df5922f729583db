//! How a client finds a server: a connection is no success, a session is.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
#[allow(dead_code)]
#[path = "common/netns.rs"]
mod netns;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use common::{PATIENCE, hello, server_config};
use metalbond_uring::api::{Config, DummyClient, MetalBond};
use metalbond_uring::internals::io::{Server, ServerConfig};
use metalbond_uring::internals::session::State;

/// What the half-dead server at a name's first address does with a connection.
type Behaviour = fn(TcpStream);

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn client(server: &str) -> MetalBond {
    let client = MetalBond::new(Config::default(), DummyClient).unwrap();
    client.add_peer(server, None).unwrap();
    client
}

fn established(client: &MetalBond, server: &str) -> bool {
    client.peer_state(server).unwrap() == State::Established
}

/// The server's name, in namespaces in which it has two addresses.
const NAME: &str = "reflector.test:4711";

/// Runs `body` with the two addresses of [`NAME`], in the order in which they are tried.
fn with_two_addresses(what: &str, body: impl FnOnce(SocketAddr, SocketAddr) + Send) {
    netns::in_namespace(what, || {
        netns::ip("link set lo up");
        netns::ip("-6 addr add fd00::1/128 dev lo nodad");
        netns::ip("-6 addr add fd00::2/128 dev lo nodad");
        netns::own_hosts("fd00::1 reflector.test\nfd00::2 reflector.test\n");
        let found: Vec<SocketAddr> = NAME.to_socket_addrs().unwrap().collect();
        assert_eq!(found.len(), 2, "{found:?}");
        body(found[0], found[1]);
    });
}

#[test]
fn the_second_address_is_tried_when_the_first_gives_no_session() {
    let behaviours: [(&str, Behaviour); 6] = [
        ("closes at once", drop),
        ("says nothing", |mut stream| drop(stream.read_to_end(&mut Vec::new()))),
        ("says HELLO and nothing more", |mut stream| {
            stream.write_all(&hello(5, true, false)).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }),
        ("speaks another protocol", |mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read(&mut [0; 100]);
        }),
        ("closes after HELLO", |mut stream| {
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(&hello(5, true, false));
        }),
        ("gives sessions that do not last", |mut stream| {
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(&hello(5, true, true));
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(&common::keepalive());
        }),
    ];
    std::thread::scope(|scope| {
        for (name, behaviour) in behaviours {
            let check = move |first, second| {
                let first = TcpListener::bind(first).unwrap();
                std::thread::Builder::new()
                    .spawn(move || first.incoming().flatten().for_each(behaviour))
                    .unwrap();
                let config = ServerConfig { listen: vec![second], ..server_config(1, 5) };
                let _server = Server::start(config).unwrap();
                let client = client(NAME);
                // For longer than the other one gives: that is the good one.
                let mut since = Instant::now();
                wait(name, || {
                    if !established(&client, NAME) {
                        since = Instant::now();
                    }
                    since.elapsed() > Duration::from_secs(2)
                });
            };
            std::thread::Builder::new()
                .spawn_scoped(scope, move || with_two_addresses(name, check))
                .unwrap();
        }
    });
}

#[test]
fn a_server_that_comes_back_is_found_where_it_was() {
    with_two_addresses("a_server_that_comes_back_is_found_where_it_was", |_, second| {
        // The first address refuses.
        let config = ServerConfig { listen: vec![second], ..server_config(1, 5) };
        let client = client(NAME);
        for _ in 0..2 {
            let server = Server::start(config.clone()).unwrap();
            wait("ESTABLISHED", || established(&client, NAME));
            drop(server);
            wait("the loss", || !established(&client, NAME));
        }
    });
}

#[test]
fn nobody_is_connected_to_himself() {
    netns::in_namespace("nobody_is_connected_to_himself", || {
        netns::ip("link set lo up");
        // Two ports: a client that dials one of them is soon given it as its own.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40001").unwrap();
        for target in ["[::1]:40000", "127.0.0.1:40000"] {
            let client = client(target);
            let address: SocketAddr = target.parse().unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(5) {
                assert!(!established(&client, target));
                // The port is free for the server, but for the moment of an attempt.
                wait("the port", || TcpListener::bind(address).is_ok());
                std::thread::sleep(Duration::from_millis(20));
            }
            let config = ServerConfig { listen: vec![address], ..server_config(1, 5) };
            let mut server = None;
            wait("the server", || {
                server = server.take().or_else(|| Server::start(config.clone()).ok());
                server.is_some()
            });
            wait("ESTABLISHED", || established(&client, target));
        }
    });
}
