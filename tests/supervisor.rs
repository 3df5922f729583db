//! What the real program tells a service manager, over a socket like systemd's.
//!
//! Owns both ends of that socket. Must never assert how fast it is told.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::process::{Process, run};
use common::{PATIENCE, Peer};

/// The watchdog's time, in microseconds; a line is due after half of it.
const WATCHDOG_USEC: &str = "200000";

/// What a line is waited for that must not come: several times what the watchdog waits.
const SILENCE: Duration = Duration::from_secs(1);

/// The manager's end.
struct Manager {
    socket: UnixDatagram,
    name: String,
    file: Option<PathBuf>,
}

impl Manager {
    fn with_file(name: &str) -> Manager {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("notify-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let socket = UnixDatagram::bind(&file).unwrap();
        Manager { socket, name: file.to_str().unwrap().to_owned(), file: Some(file) }
    }

    fn abstract_one(name: &str) -> Manager {
        let name = format!("metalbond-notify-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Manager { socket, name: format!("@{name}"), file: None }
    }

    /// What is said within that time.
    fn hears_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 256];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    #[track_caller]
    fn hears(&self) -> String {
        self.hears_within(PATIENCE).expect("nothing was said")
    }

    /// Waits for these words. None but the watchdog's may come before.
    #[track_caller]
    fn waits_for(&self, words: &str) {
        loop {
            let heard = self.hears();
            if heard == words {
                return;
            }
            assert_eq!(heard, "WATCHDOG=1\n", "instead of {words:?}");
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn a_server_says_that_it_is_up_that_it_answers_and_that_it_ends() {
    for manager in [Manager::with_file("server"), Manager::abstract_one("server")] {
        let environment = [("NOTIFY_SOCKET", &*manager.name), ("WATCHDOG_USEC", WATCHDOG_USEC)];
        let mut server =
            Process::serve_with_environment(&environment, &["--cores", "2", "--http", "[::1]:0"]);
        assert_eq!(manager.hears(), "READY=1\n", "{}", server.log());
        Peer::established(server.address(), 60, true);
        for _ in 0..3 {
            assert_eq!(manager.hears(), "WATCHDOG=1\n");
        }
        server.signal("TERM");
        manager.waits_for("STOPPING=1\n");
        assert!(server.exit_status().success(), "{}", server.log());
        assert_eq!(server.logged("was not told"), 0, "{}", server.log());
    }
}

#[test]
fn a_client_says_the_same_though_its_server_is_away() {
    let manager = Manager::with_file("client");
    let mut client = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"))
        .args(["client", "--server", "[::1]:1", "--subscribe", "100"])
        .envs([("NOTIFY_SOCKET", &*manager.name), ("WATCHDOG_USEC", WATCHDOG_USEC)])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(manager.hears(), "READY=1\n");
    assert_eq!(manager.hears(), "WATCHDOG=1\n");
    let id = client.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
    manager.waits_for("STOPPING=1\n");
    assert!(client.wait().unwrap().success());
}

#[test]
fn what_cannot_start_is_never_ready() {
    let manager = Manager::with_file("failed");
    let taken = std::net::TcpListener::bind("[::1]:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for arguments in [&["--http", &taken, "--listen", "[::1]:0"][..], &["--listen", &taken]] {
        let script = "NOTIFY_SOCKET=$0 exec \"$@\"";
        let output = Command::new("sh")
            .args(["-c", script, &manager.name, env!("CARGO_BIN_EXE_metalbond-uring")])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
    assert_eq!(manager.hears_within(Duration::from_millis(1)), None);
}

#[test]
fn without_a_watchdog_for_this_process_there_is_none() {
    for more in [&[("WATCHDOG_USEC", WATCHDOG_USEC), ("WATCHDOG_PID", "1")][..], &[]] {
        let manager = Manager::with_file("no-watchdog");
        let environment = [&[("NOTIFY_SOCKET", &*manager.name)], more].concat();
        let mut server = Process::serve_with_environment(&environment, &["--cores", "1"]);
        assert_eq!(manager.hears(), "READY=1\n");
        assert_eq!(manager.hears_within(SILENCE), None);
        assert!(!threads(server.id()).iter().any(|(_, name)| name == "watchdog"));
        server.signal("INT");
        assert_eq!(manager.hears(), "STOPPING=1\n");
        assert!(server.exit_status().success(), "{}", server.log());
    }
}

/// Also a manager that does not read: it is not waited for.
#[test]
fn a_manager_that_is_not_there_harms_nobody() {
    let manager = Manager::with_file("full");
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"x", &manager.name).is_ok() {}
    let names = [&*manager.name, "/nowhere/notify", "@metalbond-nobody", "vsock:2:1", "", "@"];
    for name in names {
        let environment = [("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", WATCHDOG_USEC)];
        let mut server = Process::serve_with_environment(&environment, &["--cores", "1"]);
        Peer::established(server.address(), 60, true);
        if !name.is_empty() {
            server.wait_for("was not told \"READY=1");
        }
        server.signal("TERM");
        assert!(server.exit_status().success(), "{name}: {}", server.log());
    }
    let (code, stderr) = run(&["--nonsense"]);
    assert_eq!(code, Some(2), "{stderr}");
}

#[test]
fn a_frozen_shard_is_left_to_the_watchdog() {
    let manager = Manager::with_file("frozen");
    let environment = [("NOTIFY_SOCKET", &*manager.name), ("WATCHDOG_USEC", WATCHDOG_USEC)];
    let server = Process::serve_with_environment(&environment, &["--cores", "2"]);
    manager.waits_for("READY=1\n");
    manager.waits_for("WATCHDOG=1\n");
    let (shard, _) =
        threads(server.id()).into_iter().find(|(_, name)| name == "shard-1").expect("two shards");
    let Some(frozen) = Frozen::thread(shard) else {
        eprintln!("SKIPPED: no thread can be stopped here (ptrace is not allowed)");
        return;
    };
    server.wait_for("shard 1 has not answered");
    // What was said before.
    while manager.hears_within(Duration::from_millis(1)).is_some() {}
    assert_eq!(manager.hears_within(SILENCE), None, "{}", server.log());
    drop(frozen);
    assert_eq!(manager.hears(), "WATCHDOG=1\n");
    assert_eq!(manager.hears(), "WATCHDOG=1\n");
}

/// The threads of a process, by id and name.
fn threads(process: u32) -> Vec<(i32, String)> {
    let folder = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    folder
        .map(|task| {
            let path = task.unwrap().path();
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            let id = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            (id, name.trim().to_owned())
        })
        .collect()
}

/// A single thread that does not run; SIGSTOP would stop all. It runs again when this is dropped, by the same thread
/// of ours.
struct Frozen(i32);

impl Frozen {
    fn thread(id: i32) -> Option<Frozen> {
        ptrace(libc::PTRACE_SEIZE, id).ok()?;
        ptrace(libc::PTRACE_INTERRUPT, id).unwrap();
        let deadline = Instant::now() + PATIENCE;
        // "t" is for traced, and stopped.
        while !std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap().contains(") t ") {
            assert!(Instant::now() < deadline, "the thread does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Frozen(id))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = ptrace(libc::PTRACE_DETACH, self.0);
    }
}

fn ptrace(request: libc::c_uint, id: i32) -> std::io::Result<()> {
    // SAFETY: none of the three requests reads or writes memory of ours.
    let result = unsafe { libc::ptrace(request, id, 0, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
