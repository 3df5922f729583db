//! The reflector that loadgen starts: that it is the one that is loaded, how it ends, and what is said when it
//! ends too early.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[allow(dead_code)]
#[path = "common/netns.rs"]
mod netns;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use netns::{in_namespace, ip};

const BINARY: &str = env!("CARGO_BIN_EXE_loadgen");
const PATIENCE: Duration = Duration::from_secs(30);

/// A loadgen whose reflector runs; both are killed when dropped.
struct Loadgen {
    child: Child,
    stderr: BufReader<ChildStderr>,
    reflector: u32,
}

impl Loadgen {
    fn start(program: &Path, arguments: &str) -> Loadgen {
        // Under `nohup`, or in the background of a script, some of them are ignored, and that is inherited.
        let mut child = Command::new("env")
            .arg("--default-signal=HUP,INT,TERM")
            .arg(program)
            .args(arguments.split_whitespace())
            .args(["--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let process = line.split("(process ").nth(1).unwrap_or_else(|| panic!("{line}"));
        let reflector = process.split(')').next().unwrap().parse().unwrap();
        Loadgen { child, stderr, reflector }
    }

    /// Waits until stage `name` is over.
    fn stage_done(&mut self, name: &str) {
        let mut line = String::new();
        while !line.starts_with(&format!("{name}: done")) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "the end came before {name}");
        }
    }

    /// Its exit code, and what it still said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Loadgen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(name: &str, process: u32) {
    let arguments = ["-s", name, &process.to_string()];
    assert!(Command::new("kill").args(arguments).status().unwrap().success());
}

/// Whether a process runs: a dead one may have to wait for whoever reaps orphans here.
fn runs(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains(['Z', 'X']))
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_listens_at_the_usual_port_is_left_alone() {
    in_namespace("what_listens_at_the_usual_port_is_left_alone", || {
        ip("link set lo up");
        let live = TcpListener::bind("[::]:4711").unwrap();
        let loadgen = Loadgen::start(Path::new(BINARY), "--peers 20 --duration-s 0.5");
        let (code, said) = loadgen.end();
        assert_eq!(code, Some(0), "{said}");
        live.set_nonblocking(true).unwrap();
        let touched = live.accept().unwrap_err();
        assert_eq!(touched.kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_host_without_ipv6() {
    in_namespace("a_host_without_ipv6", || {
        // What is under /proc/sys/net is the namespace of the thread that opens it.
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        ip("link set lo up");
        assert!(TcpListener::bind("[::1]:0").is_err());
        // Its reflector is killed and started again at the same address.
        let loadgen = Loadgen::start(Path::new(BINARY), "--scenario herd --peers 20");
        let (code, said) = loadgen.end();
        assert_eq!(code, Some(0), "{said}");
    });
}

/// A connection to a free port may get that port itself, and then loadgen hears its own HELLO.
#[test]
fn a_connection_to_itself_is_no_server() {
    in_namespace("a_connection_to_itself_is_no_server", || {
        ip("link set lo up");
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap();
        for _ in 0..20 {
            let arguments = "--scenario fanout --subscribers 1 --target [::1]:40000";
            let output = Command::new(BINARY).args(arguments.split(' ')).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.starts_with("loadgen: nothing answers at [::1]:40000: "), "{said}");
        }
    });
}

#[test]
fn an_interrupted_loadgen_leaves_no_reflector() {
    for name in ["INT", "TERM", "HUP", "KILL"] {
        let arguments = "--scenario idle --peers 10 --duration-s 600";
        let mut loadgen = Loadgen::start(Path::new(BINARY), arguments);
        loadgen.stage_done("subscribe");
        let reflector = loadgen.reflector;
        assert!(runs(reflector));
        signal(name, loadgen.child.id());
        let (code, said) = loadgen.end();
        assert_ne!(code, Some(0), "{said}");
        eventually(&format!("the reflector's end after SIG{name}"), || !runs(reflector));
    }
}

#[test]
fn a_reflector_that_ends_is_the_reason() {
    for arguments in
        ["--scenario idle --peers 3000 --duration-s 600", "--scenario latency --duration-s 600"]
    {
        let mut loadgen = Loadgen::start(Path::new(BINARY), arguments);
        loadgen.stage_done("subscribe");
        signal("KILL", loadgen.reflector);
        let (code, said) = loadgen.end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("FAILED: the reflector ended (signal: 9 (SIGKILL)): "), "{said}");
        // And what it said last.
        assert!(said.contains("listening on [::1]:"), "{said}");
    }
}

#[test]
fn a_reflector_that_cannot_start_says_why() {
    // The stacks of so many threads do not fit.
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 400000; exec \"$0\" --peers 5 --cores 1024 --threads 1", BINARY])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("loadgen: the reflector ended ("), "{said}");
    assert!(!said.contains("it said nothing"), "{said}");
}

/// It is started again by `herd`, long after a build may have replaced the file.
#[test]
fn the_executable_may_be_gone() {
    let copy: PathBuf = std::env::temp_dir().join(format!("loadgen-{}", std::process::id()));
    // By another process: what is open for writing here, another test's child may inherit for a moment.
    assert!(Command::new("cp").arg(BINARY).arg(&copy).status().unwrap().success());
    let loadgen = Loadgen::start(&copy, "--scenario herd --peers 500");
    std::fs::remove_file(&copy).unwrap();
    let (code, said) = loadgen.end();
    assert_eq!(code, Some(0), "{said}");
}
