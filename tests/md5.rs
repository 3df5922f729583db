//! Signed connections (`--tcp-md5`): who has the key comes in, nobody else does.
//!
//! Owns what is claimed of keys. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use common::Peer;
use common::http::{json, wait_until};
use common::process::{Process, run};
use metalbond_uring::api::{Config, DummyClient, Md5Key, MetalBond, State};

/// A key file of its own, gone with the test.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(name: &str, key: &[u8]) -> KeyFile {
        use std::os::unix::fs::OpenOptionsExt;
        let name = format!("metalbond-key-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(key).unwrap();
        KeyFile(path)
    }

    fn for_network(&self, network: &str) -> String {
        format!("{network}={}", self.0.display())
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn key(network: &str, key: &str) -> Md5Key {
    Md5Key::from_bytes(network.parse().unwrap(), key.as_bytes())
}

/// A node that listens there; None, and a word about it, where the kernel has no signatures.
fn listen(test: &str, address: &str, keys: &[(&str, &str)]) -> Option<(MetalBond, u16)> {
    let tcp_md5 = keys.iter().map(|(network, text)| key(network, text)).collect();
    let node = MetalBond::new(Config { tcp_md5, ..Config::default() }, DummyClient).unwrap();
    match node.start_server(address.parse().unwrap()) {
        Ok(address) => Some((node, address.port())),
        Err(error) if error.to_string().contains("CONFIG_TCP_MD5SIG") => {
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A client that has these keys, on its way from one address to another.
fn dial(from: &str, to: SocketAddr, keys: &[(&str, &str)]) -> MetalBond {
    let tcp_md5 = keys.iter().map(|(network, text)| key(network, text)).collect();
    let node = MetalBond::new(Config { tcp_md5, ..Config::default() }, DummyClient).unwrap();
    let from: Option<IpAddr> = (!from.is_empty()).then(|| from.parse().unwrap());
    node.add_peer(&to.to_string(), from).unwrap();
    node
}

fn is_established(node: &MetalBond, to: SocketAddr) -> bool {
    node.peer_state(&to.to_string()).unwrap() == State::Established
}

/// Where it comes from, its keys, and whether it gets a session.
type Client<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);

/// Of these clients, those with true get a session, and the others, who began before them, do not.
fn check(to: SocketAddr, clients: &[Client]) {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for (from, keys, _) in clients.iter().filter(|(.., comes_in)| !comes_in) {
        outside.push((format!("{from} with {keys:?}"), dial(from, to, keys)));
    }
    for (from, keys, _) in clients.iter().filter(|(.., comes_in)| *comes_in) {
        let node = dial(from, to, keys);
        let what = format!("a session of {from:?} with {keys:?} to {to}");
        wait_until(&what, || is_established(&node, to).then_some(()));
        inside.push(node);
    }
    // Time for a second SYN of those who should not come in.
    std::thread::sleep(Duration::from_millis(1200));
    for (who, node) in &outside {
        assert!(!is_established(node, to), "{who} to {to}");
    }
}

#[test]
fn who_has_the_key_comes_in_and_nobody_else_over_both_families() {
    let keys = [("127.0.0.0/8", "four"), ("::1/128", "six")];
    // One socket for both families, and one for each.
    for (listening, hosts) in [
        ("[::]:0", &["127.0.0.1", "::1"][..]),
        ("127.0.0.1:0", &["127.0.0.1"]),
        ("[::1]:0", &["::1"]),
    ] {
        let test = "who_has_the_key_comes_in";
        let Some((_node, port)) = listen(test, listening, &keys) else { return };
        for host in hosts {
            let to = SocketAddr::new(host.parse().unwrap(), port);
            let (right, wrong) = if to.is_ipv4() { ("four", "six") } else { ("six", "four") };
            let net = if to.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            check(
                to,
                &[
                    ("", &[], false),
                    ("", &[(net, wrong)], false),
                    ("", &[(net, "fou")], false),
                    ("", &[(net, right)], true),
                ],
            );
        }
    }
}

#[test]
fn the_most_specific_network_has_the_key_and_others_need_none() {
    let keys = [("127.0.0.0/8", "wide"), ("127.0.0.2/32", "one"), ("127.1.0.0/16", "some")];
    let test = "the_most_specific_network";
    for listening in ["[::]:0", "0.0.0.0:0"] {
        // The order does not count.
        for keys in [keys, [keys[2], keys[1], keys[0]]] {
            let Some((_node, port)) = listen(test, listening, &keys) else { return };
            check(
                SocketAddr::from(([127, 0, 0, 1], port)),
                &[
                    ("127.0.0.2", &[("127.0.0.1/32", "wide")], false),
                    ("127.0.0.3", &[("127.0.0.1/32", "one")], false),
                    ("127.1.2.3", &[("127.0.0.0/8", "wide")], false),
                    ("127.0.0.2", &[("127.0.0.1/32", "one")], true),
                    ("127.0.0.3", &[("127.0.0.0/8", "no"), ("127.0.0.1/32", "wide")], true),
                    ("127.1.2.3", &[("0.0.0.0/0", "some")], true),
                ],
            );
            if listening == "[::]:0" {
                // Nothing was said about IPv6: unsigned, and only unsigned.
                let to = format!("[::1]:{port}").parse().unwrap();
                check(to, &[("", &[("::/0", "wide")], false), ("", &[], true)]);
            }
        }
    }
}

#[test]
fn the_two_programs_with_a_key_file() {
    let right = KeyFile::new("right", b"a secret key\n");
    let same = KeyFile::new("same", b"a secret key");
    let wrong = KeyFile::new("wrong", b"a secret kez\n");
    let (code, text) = run(&["server", "--listen", "127.0.0.1:0", "--tcp-md5", "::1=/none"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("--tcp-md5: cannot read the key file /none: No such file"), "{text}");
    let server = Process::serve_at(
        "[::]:0",
        &["--http", "[::1]:0", "--tcp-md5", &right.for_network("127.0.0.0/8")],
    );
    server.wait_for("connections with addresses of --tcp-md5 are signed (TCP MD5)");
    let to = format!("127.0.0.1:{}", server.address().port());
    let client = |keys: &[&str]| Process::client(&[&["--server", &to], keys].concat());
    let everywhere = |file: &KeyFile| file.for_network("0.0.0.0/0");
    let strangers = [client(&[]), client(&["--tcp-md5", &everywhere(&wrong)])];
    let friend = client(&["--tcp-md5", &everywhere(&same)]);
    friend.wait_for("established server=");
    let peers = json(server.http_address(), "/peers.json");
    assert_eq!(peers["peers"].as_array().unwrap().len(), 1, "{peers}");
    // Addresses that have no key are as ever.
    let address = format!("[::1]:{}", server.address().port()).parse().unwrap();
    let mut peer = Peer::established(address, 60, true);
    peer.barrier();
    for stranger in &strangers {
        assert_eq!(stranger.logged("established"), 0, "{}", stranger.log());
    }
    // Nobody can read the key from what the programs say, or from the list of processes.
    let line = std::fs::read(format!("/proc/{}/cmdline", friend.id())).unwrap();
    let said = [server.log(), friend.log(), String::from_utf8_lossy(&line).into_owned()].concat();
    assert!(!said.contains("a secret"), "{said}");
    // It says so if a file is open to all.
    std::fs::set_permissions(&same.0, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let open = Process::serve(&["--tcp-md5", &same.for_network("10.0.0.0/8")]);
    open.wait_for("all users of this host can read the key file");
}

/// An upgrade changes who has to sign. Whoever is connected stays.
#[test]
fn keys_are_those_of_the_successor() {
    let file = KeyFile::new("upgrade", b"a secret key");
    let keys = ["--tcp-md5", &file.for_network("127.0.0.0/8")];
    let socket = std::env::temp_dir().join(format!("metalbond-md5-{}", std::process::id()));
    let handover = ["--handover", socket.to_str().unwrap()];
    let serve = |at: &str, more: &[&str]| Process::serve_at(at, &[&handover, more].concat());
    let everybody = serve("[::]:0", &[]);
    let port = everybody.address().port();
    let (at, to) = (format!("[::]:{port}"), format!("127.0.0.1:{port}"));
    let client = |keys: &[&str]| Process::client(&[&["--server", &to], keys].concat());
    let mut before = Peer::established(to.parse().unwrap(), 60, true);
    let signed = serve(&at, &keys);
    let friend = client(&keys);
    friend.wait_for("established server=");
    let stranger = client(&[]);
    before.barrier();
    assert_eq!(stranger.logged("established"), 0, "{}", stranger.log());
    let _everybody_again = serve(&at, &[]);
    drop(signed);
    stranger.wait_for("established server=");
    Peer::established(to.parse().unwrap(), 60, true).barrier();
    before.barrier();
    assert_eq!(friend.logged("established server="), 1, "{}", friend.log());
    let _ = std::fs::remove_file(socket);
}
