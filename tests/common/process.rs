//! The built binary as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// What a view says when it is there.
const HTTP: &str = "HTTP on http://";

/// A running binary; killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
}

impl Process {
    /// Starts `metalbond-uring server --listen [::1]:0 ARGUMENTS` and waits until it listens.
    pub fn serve(arguments: &[&str]) -> Process {
        let mut command = Command::new(binary());
        command.args(["server", "--listen", "[::1]:0"]).args(arguments);
        Process::start(command, "listening on ")
    }

    /// The same at another address, and maybe of another build: the program that `METALBOND_LEGACY_SERVER` names.
    pub fn serve_at(listen: &str, arguments: &[&str]) -> Process {
        let program = std::env::var("METALBOND_LEGACY_SERVER").unwrap_or(binary().to_owned());
        let mut command = Command::new(program);
        command.args(["server", "--listen", listen]).args(arguments);
        Process::start(command, "listening on ")
    }

    /// The same at an address, with more in its environment.
    pub fn serve_at_with_environment(
        listen: &str,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Process {
        let mut command = Command::new(binary());
        command.args(["server", "--listen", listen]).args(arguments);
        command.envs(environment.iter().copied());
        Process::start(command, "listening on ")
    }

    /// The same with a limit of open descriptors.
    pub fn serve_with_descriptors(limit: u32, arguments: &[&str]) -> Process {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, binary(), "server", "--listen", "[::1]:0"]).args(arguments);
        Process::start(command, "listening on ")
    }

    /// The same in a control group: `procs` is its file of processes.
    pub fn serve_in_group(procs: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new("sh");
        let script = "echo $$ > \"$0\"; exec \"$@\"";
        command.args(["-c", script, procs, binary(), "server", "--listen", "[::1]:0"]);
        command.args(arguments);
        Process::start(command, "listening on ")
    }

    /// The same with more in its environment.
    pub fn serve_with_environment(environment: &[(&str, &str)], arguments: &[&str]) -> Process {
        let mut command = Command::new(binary());
        command.args(["server", "--listen", "[::1]:0"]).args(arguments);
        command.envs(environment.iter().copied());
        Process::start(command, "listening on ")
    }

    /// Starts `metalbond-uring client ARGUMENTS --http [::1]:0`; its address is that of its view.
    pub fn client(arguments: &[&str]) -> Process {
        let mut command = Command::new(binary());
        command.arg("client").args(arguments).args(["--http", "[::1]:0"]);
        Process::start(command, HTTP)
    }

    /// The address of the view of one that has `--http`.
    pub fn http_address(&self) -> SocketAddr {
        self.wait_for(HTTP);
        address_behind(HTTP, &self.log()).unwrap()
    }

    /// Starts `metalbond-uring ARGUMENTS` with more in its environment, and waits for nothing: it has no address.
    pub fn begin(environment: &[(&str, &str)], arguments: &[&str]) -> Process {
        let mut command = Command::new(binary());
        command.args(arguments).envs(environment.iter().copied());
        Process::begin_with(command, "nothing").0
    }

    fn start(command: Command, words: &'static str) -> Process {
        let (mut process, address) = Process::begin_with(command, words);
        let Ok(address) = address.recv_timeout(PATIENCE) else {
            panic!("the binary does not listen: {}", process.log());
        };
        process.address = address;
        process
    }

    /// What is received is the address behind these words.
    fn begin_with(
        mut command: Command,
        words: &'static str,
    ) -> (Process, mpsc::Receiver<SocketAddr>) {
        let mut child = command
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (listening, address) = mpsc::channel();
        let lines = Arc::clone(&log);
        std::thread::Builder::new()
            .spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    if let Some(address) = address_behind(words, &line) {
                        let _ = listening.send(address);
                    }
                    lines.lock().unwrap().push(line);
                }
            })
            .unwrap();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        (Process { child, log, address: nowhere }, address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lines on stderr so far that contain `words`.
    pub fn logged(&self, words: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(words)).count()
    }

    /// Waits until a line on stderr contains `words`.
    #[track_caller]
    pub fn wait_for(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.logged(words) == 0 {
            assert!(Instant::now() < deadline, "waited in vain for {words:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that was written to stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// CPU time that all its threads have used (in ticks of 10 ms).
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<_> = fields.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        Duration::from_millis(10) * u32::try_from(ticks(11) + ticks(12)).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn exit_status(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the binary does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the binary to its end: exit code and stderr. Panics if it serves instead.
pub fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut child = Command::new(binary())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{arguments:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

fn address_behind(words: &str, text: &str) -> Option<SocketAddr> {
    let (_, rest) = text.split_once(words)?;
    rest.split(|c: char| c.is_whitespace() || c == '"').next()?.parse().ok()
}

fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_metalbond-uring")
}
