//! A reflector of one's own: loadgen's executable, started again with a hidden word.
//!
//! Owns the child process, from its start until it is reaped. Must never leave one behind: it is killed
//! when dropped, and ends by itself when loadgen is gone, for then its standard input ends.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use metalbond_uring::internals::cli::{self, Invocation, ServerOptions};
use metalbond_uring::internals::io;
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;
use crate::upgrade;

/// The word that makes loadgen a reflector; the server's flags follow it.
pub const WORD: &str = "__reflector";

/// How long a child may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often its end is looked for.
const POLL: Duration = Duration::from_millis(5);
/// This very program, even if its file was replaced or removed meanwhile.
const EXECUTABLE: &str = "/proc/self/exe";
/// What it logs: not a line for each peer, which would push out what matters, and cost time.
const LOGGED: &str = "info,metalbond_uring::shard::events=warn";
/// Lines of its log that are kept.
const LINES_MAX: usize = 20;

/// A running reflector.
pub struct Reflector {
    child: Child,
    address: SocketAddr,
    /// Where it listens, as soon as it does.
    listening: Receiver<SocketAddr>,
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Reads its log; ends when that does.
    log: Option<JoinHandle<()>>,
    _stdin: Option<ChildStdin>,
}

/// Where a reflector can listen that only this host sees: on a free port, of IPv4 if there is no IPv6.
pub fn free_port() -> SocketAddr {
    let ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    match TcpListener::bind(ipv6) {
        Ok(_) => ipv6,
        Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    }
}

impl Reflector {
    /// Starts a reflector with these flags, and returns when it listens.
    ///
    /// # Errors
    /// If it does not, with what it said.
    pub fn start(listen: SocketAddr, flags: &[String]) -> anyhow::Result<Reflector> {
        let mut reflector = Reflector::begin(listen, flags)?;
        if !reflector.listens(START_LIMIT)? {
            let (limit_s, words) = (START_LIMIT.as_secs(), reflector.last_words());
            bail!("the reflector does not listen after {limit_s} s: {words}")
        }
        Ok(reflector)
    }

    /// Starts a reflector with these flags, and does not wait for it.
    ///
    /// # Errors
    /// If there is no process or thread to be had.
    pub fn begin(listen: SocketAddr, flags: &[String]) -> anyhow::Result<Reflector> {
        let mut child = Command::new(EXECUTABLE)
            .arg0(env!("CARGO_BIN_NAME"))
            .arg(WORD)
            .arg(format!("--listen={listen}"))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("cannot start a reflector, which is {EXECUTABLE} once more")
            })?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let lines = Arc::default();
        let (sender, listening) = mpsc::channel();
        // From here on it is killed if anything fails.
        let mut reflector = Reflector {
            child,
            address: listen,
            listening,
            lines: Arc::clone(&lines),
            log: None,
            _stdin: stdin,
        };
        let stderr = BufReader::new(stderr.context("the reflector has no standard error")?);
        let log = std::thread::Builder::new()
            .name("reflector-log".to_owned())
            .spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    if let Some(address) = listening_address(&line) {
                        let _ = sender.send(address);
                    }
                    keep(&lines, line);
                }
            })
            .context("cannot start a thread")?;
        reflector.log = Some(log);
        Ok(reflector)
    }

    /// Whether it begins to listen within this time; not to be asked again once it does.
    ///
    /// # Errors
    /// If it has ended instead, with what it said.
    pub fn listens(&mut self, limit: Duration) -> anyhow::Result<bool> {
        match self.listening.recv_timeout(limit) {
            Ok(address) => {
                self.address = address;
                Ok(true)
            }
            // Its log has ended, and so does it.
            Err(RecvTimeoutError::Disconnected) => {
                let ended = self.ended(START_LIMIT);
                bail!(ended.unwrap_or("the reflector closed its log".to_owned()))
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said before it ended, if it ends within this time.
    pub fn ended(&mut self, limit: Duration) -> Option<String> {
        let status = self.status(limit)?;
        Some(format!("the reflector ended ({status}): {}", self.last_words()))
    }

    /// Whether it has ended by itself, and as it should.
    ///
    /// # Errors
    /// If it has ended otherwise, with what it said.
    pub fn has_finished(&mut self) -> anyhow::Result<bool> {
        match self.status(Duration::ZERO) {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("the reflector ended ({status}): {}", self.last_words()),
        }
    }

    /// The last of its lines that has these words, if it is kept.
    pub fn line_with(&self, words: &str) -> Option<String> {
        let lines = self.lines.lock().ok()?;
        lines.iter().rfind(|line| line.contains(words)).cloned()
    }

    /// How it ended, if it ends within this time; then all that it said is known.
    fn status(&mut self, limit: Duration) -> Option<ExitStatus> {
        let clock = Clock::start();
        let status = loop {
            match self.child.try_wait().ok()? {
                Some(status) => break status,
                None if Duration::from_nanos(clock.now_ns()) >= limit => return None,
                None => std::thread::sleep(POLL),
            }
        };
        // All its last words have to be read.
        let _ = self.log.take().map(JoinHandle::join);
        Some(status)
    }

    fn last_words(&self) -> String {
        let lines = self.lines.lock().map(|lines| lines.iter().cloned().collect::<Vec<_>>());
        match lines {
            Ok(lines) if !lines.is_empty() => lines.join("\n  "),
            _ => "it said nothing".to_owned(),
        }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is the reflector: the body of the child process.
pub fn serve(flags: &[&str]) -> ExitCode {
    let options = match cli::parse(flags) {
        Ok(Invocation::Server(options)) => options,
        Ok(_) => return ExitCode::from(2),
        Err(exit) => {
            let _ = std::io::stderr().write_all(exit.text.as_bytes());
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(LOGGED))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    // Its file's name would be the name in `top`, and that is `exe`.
    let _ = std::fs::write("/proc/self/comm", "reflector");
    match serve_on(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_on(options: ServerOptions) -> anyhow::Result<()> {
    let meeting = options.handover.as_ref().map(|handover| handover.path.clone());
    std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
        // Ends when loadgen does, in whatever way.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        meeting.iter().for_each(|path| upgrade::clear_away(path));
        std::process::exit(0);
    })?;
    let begin = |handover| io::Handover::begin(handover, cli::VERSION);
    let handover = options.handover.map(begin).transpose()?;
    let signals = io::Signals::watch(|| {})?;
    io::serve(options.server, handover, signals, |_| Ok::<_, anyhow::Error>(()))
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    rest.split_whitespace().next()?.parse().ok()
}

fn keep(lines: &Mutex<VecDeque<String>>, line: String) {
    if let Ok(mut lines) = lines.lock() {
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_address_in_the_log() {
        let line =
            "2025-01-01T00:00:00Z  INFO metalbond_uring::io: listening on [::1]:4711 shards=2";
        assert_eq!(listening_address(line), Some("[::1]:4711".parse().unwrap()));
        assert_eq!(listening_address("listening on"), None);
    }
}
