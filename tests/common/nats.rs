//! A real NATS server with a store of its own, on loopback.
//!
//! Owns the process and its folder. Must never be used where there is none: see [`NatsServer::program`].

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// A running server; killed when dropped, and its folder removed.
pub struct NatsServer {
    program: PathBuf,
    child: Option<Child>,
    folder: PathBuf,
    port: u16,
    configuration: String,
}

impl NatsServer {
    /// A server that is new enough: that of `METALBOND_NATS_SERVER`, of `.ci/run`, or of the path. None, with a loud
    /// line, where there is none; with `METALBOND_NATS_REQUIRED` set that is a failure.
    pub fn program() -> Option<PathBuf> {
        let named = std::env::var_os("METALBOND_NATS_SERVER").map(PathBuf::from);
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/nats/bin/nats-server");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let others = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
        let program = named.into_iter().chain([ours]).chain(others).find(|it| is_new_enough(it));
        if program.is_none() {
            let words = "the fabric is NOT tested with NATS: it takes nats-server 2.11 or newer in PATH, or METALBOND_NATS_SERVER";
            assert!(std::env::var_os("METALBOND_NATS_REQUIRED").is_none(), "{words}");
            // Past the test harness, which keeps to itself what a test prints that succeeds.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {words}");
        }
        program
    }

    /// One with JetStream.
    pub fn start() -> Option<NatsServer> {
        NatsServer::with("jetstream { store_dir: \"STORE\" }")
    }

    /// One with this configuration besides; STORE stands for its store, FOLDER for a folder of its own.
    pub fn with(configuration: &str) -> Option<NatsServer> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let program = NatsServer::program()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("metalbond-nats-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let configuration = configuration.to_owned();
        let mut server = NatsServer { program, child: None, folder, port: 0, configuration };
        server.run();
        Some(server)
    }

    /// Starts it, at the port that it had before if it had one, and waits until it serves.
    pub fn run(&mut self) {
        let configuration = self.folder.join("nats.conf");
        std::fs::write(&configuration, self.text()).unwrap();
        let port = if self.port == 0 { "-1".to_owned() } else { self.port.to_string() };
        let mut child = Command::new(&self.program)
            .args(["--addr", "127.0.0.1", "--port", &port, "--config"])
            .arg(&configuration)
            .arg("--ports_file_dir")
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let ports = self.folder.join(format!("nats-server_{}.ports", child.id()));
        let deadline = Instant::now() + PATIENCE;
        while self.port == 0 || !self.log().contains("Server is ready") {
            if let Some(port) = port_in(&ports) {
                self.port = port;
            }
            let is_over = Instant::now() >= deadline || child.try_wait().unwrap().is_some();
            assert!(!is_over, "nats-server does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
    }

    /// Gives it another configuration, for its next start.
    pub fn reconfigure(&mut self, configuration: &str) {
        configuration.clone_into(&mut self.configuration);
    }

    /// What it wrote since it was started last.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Where it is: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address of a fabric there.
    pub fn fabric(&self, name: &str) -> String {
        format!("nats://{}/{name}", self.host())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it at once, as kill -9 does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Removes all that it has stored; it must not run.
    pub fn wipe(&self) {
        assert!(self.child.is_none());
        let _ = std::fs::remove_dir_all(self.folder.join("store"));
    }

    /// Stops it in its tracks, or lets it go on.
    pub fn freeze(&self, is_frozen: bool) {
        self.signal(if is_frozen { "-STOP" } else { "-CONT" });
    }

    /// Has it take another configuration while it runs.
    pub fn reload(&mut self, configuration: &str) {
        self.reconfigure(configuration);
        std::fs::write(self.folder.join("nats.conf"), self.text()).unwrap();
        self.signal("-HUP");
    }

    /// Its configuration as a whole.
    fn text(&self) -> String {
        let store = self.folder.join("store");
        let text = self.configuration.replace("STORE", &store.display().to_string());
        text.replace("FOLDER", &self.folder.display().to_string())
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The configuration of a server where whoever comes may do all but this.
pub fn denying(denied: &str) -> String {
    format!(
        "jetstream {{ store_dir: \"STORE\" }}\nno_auth_user: anybody\nauthorization {{ users: [ {{ user: anybody, \
         password: x, permissions: {{ {denied} }} }} ] }}"
    )
}

/// Something that says that it is a server of Debian's, which is too old for a fabric: an old one is known by what it
/// says first.
pub fn old_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let hello = r#"INFO {"server_id":"ID","server_name":"old","version":"2.9.10","headers":true,"max_payload":1048576,"jetstream":true}"#;
            let hello = hello.replace("ID", &address.to_string());
            if write!(socket, "{hello}\r\n").is_err() {
                continue;
            }
            let reader = BufReader::new(socket.try_clone().unwrap());
            for line in reader.lines().map_while(Result::ok) {
                if line.starts_with("PING") {
                    let _ = write!(socket, "PONG\r\n");
                }
            }
        }
    };
    std::thread::Builder::new().spawn(serve).unwrap();
    address
}

fn is_new_enough(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    let Ok(output) = output else { return false };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some((_, version)) = text.trim().split_once(": v") else { return false };
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= (2, 11))
}

/// The port for clients that a server has written down.
fn port_in(ports: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(ports).ok()?;
    let told: serde_json::Value = serde_json::from_str(&text).ok()?;
    let url = told["nats"].as_array()?.first()?.as_str()?.to_owned();
    url.rsplit_once(':')?.1.parse().ok()
}
