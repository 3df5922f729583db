//! A network namespace of the test's own, with a veth pair as the tunnel device.
//!
//! Owns the namespace. Must never touch the namespace that the program was started in.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The tunnel device in every namespace.
pub const TUNNEL: &str = "tun0";

/// Runs `body` on a thread with a network namespace of its own, which ends with the thread and what
/// it has started. Where that is not allowed, says so on standard error and runs nothing.
pub fn in_namespace(name: &str, body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = || {
            // SAFETY: the call takes no pointers; it moves this thread alone into a new namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                let error = std::io::Error::last_os_error();
                return skip(name, &format!("no network namespace: {error}"));
            }
            if let Err(error) = Command::new("ip").arg("-V").output() {
                return skip(name, &format!("`ip` (iproute2) cannot be run: {error}"));
            }
            make_tunnel();
            body();
        };
        let thread = std::thread::Builder::new().name(name.to_owned());
        let ended = thread.spawn_scoped(scope, run).unwrap().join();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

fn skip(name: &str, why: &str) {
    // Not eprintln!, which is captured when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {name}: {why} (expected: root, Linux, iproute2)");
}

/// Makes the tunnel device and brings it up.
pub fn make_tunnel() {
    ip(&format!("link add {TUNNEL} type veth peer name peer0"));
    ip("link set peer0 up");
    ip(&format!("link set {TUNNEL} up"));
}

/// Gives this thread, and those that it starts, a file of hosts of its own with these lines besides.
pub fn own_hosts(lines: &str) {
    // SAFETY: the call takes no pointers; it gives this thread alone a new mount namespace.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "no mount namespace");
    let (process, thread) = (std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(format!("hosts.{process}.{thread:?}"));
    std::fs::write(&path, format!("127.0.0.1 localhost\n{lines}")).unwrap();
    let script = "mount --make-rprivate / && mount --bind \"$0\" /etc/hosts";
    let mounted = Command::new("sh").args(["-c", script]).arg(&path).status().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(mounted.success(), "/etc/hosts cannot be replaced");
}

/// Runs `ip ARGUMENTS` (split at spaces); returns what it writes.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    try_ip(arguments).unwrap_or_else(|error| panic!("ip {arguments}: {error}"))
}

/// The same, with the error text of `ip` if it fails.
pub fn try_ip(arguments: &str) -> Result<String, String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A running `ip monitor route`.
pub struct Monitor {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Monitor {
    /// Starts it and waits until it sees changes.
    pub fn start() -> Monitor {
        let mut child = Command::new("ip")
            .args(["monitor", "route"])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stdout, sink) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        std::thread::Builder::new()
            .spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    sink.lock().unwrap().push(line);
                }
            })
            .unwrap();
        let monitor = Monitor { child, lines };
        monitor.mark("192.0.2.254");
        monitor
    }

    /// The lines about `what` so far.
    pub fn lines_about(&self, what: &str) -> Vec<String> {
        self.mark("192.0.2.253"); // what happened before is in
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.contains(what)).cloned().collect()
    }

    /// Makes a change and waits until it is seen.
    fn mark(&self, address: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        self.lines.lock().unwrap().retain(|line| !line.contains(address));
        while !self.lines.lock().unwrap().iter().any(|line| line.contains(address)) {
            assert!(Instant::now() < deadline, "`ip monitor` does not see {address}");
            ip(&format!("route add {address} dev {TUNNEL} table 9999"));
            ip(&format!("route del {address} dev {TUNNEL} table 9999"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
