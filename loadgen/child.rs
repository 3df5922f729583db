//! A reflector of one's own: loadgen's executable, started again with a hidden word.
//!
//! Owns the child process, from its start until it is reaped. Must never leave one behind: it is killed
//! when dropped, and ends by itself when loadgen is gone, for then its standard input ends.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, bail};
use metalbond_uring::cli::{self, Invocation};
use metalbond_uring::io;

/// The word that makes loadgen a reflector; the server's flags follow it.
pub const WORD: &str = "__reflector";

/// How long a child may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Lines of its log that are kept.
const LINES_MAX: usize = 20;

/// A running reflector.
pub struct Reflector {
    child: Child,
    address: SocketAddr,
    lines: Arc<Mutex<VecDeque<String>>>,
    _stdin: Option<ChildStdin>,
}

impl Reflector {
    /// Starts a reflector with these flags, and returns when it listens.
    ///
    /// # Errors
    /// If it does not, with what it said.
    pub fn start(flags: &[String]) -> anyhow::Result<Reflector> {
        let program = std::env::current_exe().context("cannot find loadgen's own executable")?;
        let mut child = Command::new(program)
            .arg(WORD)
            .args(flags)
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a reflector")?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let lines = Arc::default();
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on it is killed if anything fails.
        let mut reflector =
            Reflector { child, address: unknown, lines: Arc::clone(&lines), _stdin: stdin };
        let (listening, address) = mpsc::channel();
        let stderr = BufReader::new(stderr.context("the reflector has no standard error")?);
        std::thread::Builder::new()
            .name("reflector-log".to_owned())
            .spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    if let Some(address) = listening_address(&line) {
                        let _ = listening.send(address);
                    }
                    keep(&lines, line);
                }
            })
            .context("cannot start a thread")?;
        match address.recv_timeout(START_LIMIT) {
            Ok(address) => reflector.address = address,
            Err(_) => bail!("the reflector did not start to listen: {}", reflector.last_words()),
        }
        Ok(reflector)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said before it ended, if it has ended.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("the reflector ended ({status}): {}", self.last_words()))
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
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let watch = std::thread::Builder::new().name("parent".to_owned()).spawn(|| {
        // Ends when loadgen does, in whatever way.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let served = watch
        .map_err(|error| error.to_string())
        .and_then(|_| io::serve(options.server).map_err(|error| error.to_string()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
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
