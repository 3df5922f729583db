//! A server that takes over in the background, as the reload of a unit starts it: its end says whether it serves.
//!
//! Owns what is said to a service manager meanwhile. Must never leave a server behind.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::Peer;
use common::http::wait_until;
use common::process::{Process, run};

const KEEPALIVE: &str = "60";

/// Where all meet that a test starts; removed in the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let folder =
            std::env::temp_dir().join(format!("metalbond-detach-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        Place(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Runs `metalbond-uring server ... --detach` to its end: its code, and what was logged so far.
    fn detach(&self, listen: &str, more: &[&str]) -> (Option<i32>, String) {
        let log = self.path("log");
        // Whoever reads a pipe to its end would wait for the one in the background.
        let status = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"))
            .args(["server", "--listen", listen, "--keepalive", KEEPALIVE])
            .args(["--handover", &self.path("socket"), "--detach"])
            .args(more)
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .status()
            .unwrap();
        (status.code(), std::fs::read_to_string(&log).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn at(place: &Place) -> Manager {
        let socket = UnixDatagram::bind(place.path("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager(socket)
    }

    /// What has been said already: what is waited for comes before the command ends.
    fn has_heard(&self) -> Option<String> {
        let mut bytes = [0; 256];
        let length = self.0.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    /// The process that calls itself the main one from now on.
    fn main_process(&self) -> Background {
        let said = self.has_heard().expect("the manager was told before");
        let id = said.strip_prefix("MAINPID=").and_then(|rest| rest.strip_suffix("\nREADY=1\n"));
        Background(id.unwrap_or_else(|| panic!("{said}")).parse().unwrap())
    }
}

/// A server that is nobody's child; killed when dropped.
struct Background(u32);

impl Background {
    fn signal(&self, name: &str) {
        let id = self.0.to_string();
        let status = Command::new("kill").args(["-s", name, &id]).stderr(Stdio::null()).status();
        assert!(status.is_ok());
    }

    fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // An orphan may wait for whoever reaps it.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// The session that it belongs to.
    fn session(&self) -> u32 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(3).unwrap().parse().unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

fn first(place: &Place) -> Process {
    let socket = place.path("socket");
    Process::serve(&["--keepalive", KEEPALIVE, "--cores", "2", "--handover", &socket])
}

#[test]
fn the_command_ends_when_the_new_server_serves() {
    let place = Place::new("serves");
    let manager = Manager::at(&place);
    let mut old = first(&place);
    let listen = old.address().to_string();
    let mut peer = Peer::established(old.address(), 60, true);
    let (code, log) = place.detach(&listen, &["--cores", "1"]);
    assert_eq!(code, Some(0), "{log}");
    // A thread of its own writes it, and it may be later than the end of the command.
    wait_until("a line of the log", || {
        let log = std::fs::read_to_string(place.path("log")).unwrap();
        log.contains("took over all connections").then_some(())
    });
    let new = manager.main_process();
    assert!(new.runs() && new.0 != old.id());
    assert!(old.exit_status().success(), "{}", old.log());
    assert_eq!(new.session(), new.0, "of its own");
    let stdin = std::fs::read_link(format!("/proc/{}/fd/0", new.0)).unwrap();
    assert_eq!(stdin.to_str(), Some("/dev/null"));
    peer.barrier();
    // Once more: what was in the background is the old one now.
    let (code, log) = place.detach(&listen, &["--cores", "3"]);
    assert_eq!(code, Some(0), "{log}");
    let newest = manager.main_process();
    wait_until("the end of the second server", || (!new.runs()).then_some(()));
    peer.barrier();
    drop(Peer::established(old.address(), 60, false));
    newest.signal("TERM");
    peer.read_until_closed();
    wait_until("the last words", || manager.has_heard().filter(|said| said == "STOPPING=1\n"));
    wait_until("the end of the last server", || (!newest.runs()).then_some(()));
}

#[test]
fn the_command_fails_as_the_new_server_does() {
    let place = Place::new("fails");
    let manager = Manager::at(&place);
    let mut old = first(&place);
    let listen = old.address().to_string();
    let mut peer = Peer::established(old.address(), 60, true);
    let (code, log) = place.detach(&listen, &["--reflect-own", "lb"]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("--reflect-own"), "{log}");
    let (code, log) = place.detach(&listen, &["--announce-policy", &place.path("nowhere")]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("nowhere"), "{log}");
    assert_eq!(manager.has_heard(), None);
    assert!(old.is_running(), "{}", old.log());
    peer.barrier();
    // A crash has no message, so there is one.
    let crash = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"))
        .args(["server", "--listen", &listen, "--handover", &place.path("socket"), "--detach"])
        .env("METALBOND_HANDOVER_TEST", "crash-after-items=1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&crash.stderr);
    assert_eq!(crash.status.code(), Some(128 + 6), "{said}");
    assert!(said.contains("signal: 6"), "{said}");
    peer.barrier();
    assert!(old.is_running(), "{}", old.log());
}

#[test]
fn only_who_takes_over_is_in_the_background() {
    let (code, said) = run(&["server", "--detach"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--detach: with --handover only"), "{said}");
}
