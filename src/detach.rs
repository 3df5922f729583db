//! A server in the background: the program starts itself once more, and ends when that process serves, or as that one does.
//!
//! Owns the pipe between them, which is the other one's standard output. Must never say that it serves before it does.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
use std::process::{Command, ExitStatus, Stdio};

/// The switch that the other one is started without.
const SWITCH: &str = "--detach";

/// Who waits for the process that has it in its environment: nobody else that inherits it is meant.
const WAITING: &str = "METALBOND_DETACHED_BY";

/// Starts the program again in the background with the same words. Returns when it serves, or how it ended.
///
/// # Errors
/// If it cannot be started.
pub fn start() -> io::Result<Option<ExitStatus>> {
    let (mut serving, theirs) = io::pipe()?;
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| OsString::from(env!("CARGO_BIN_NAME")));
    let mut child = Command::new(std::env::current_exe()?)
        .arg0(name)
        .args(words.filter(|word| word != SWITCH))
        .env(WAITING, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(theirs)
        .spawn()?;
    match serving.read_exact(&mut [0]) {
        Ok(()) => Ok(None),
        // Nobody holds the other end any more.
        Err(_) => child.wait().map(Some),
    }
}

/// The exit status of a shell for it.
pub fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// Lets go of the terminal, if this process is the one in the background.
pub fn leave_terminal() {
    if is_waited_for() {
        // Fails if it leads a group already: then it has none.
        let _ = rustix::process::setsid();
    }
}

/// Says to whoever waits for it that this process serves. Nothing goes to standard output afterwards.
pub fn serves() {
    if is_waited_for() {
        // Nobody may be waiting any more.
        let _ = io::stdout().write_all(b"1").and_then(|()| io::stdout().flush());
    }
}

fn is_waited_for() -> bool {
    std::env::var(WAITING).is_ok_and(|id| id == parent_id().to_string())
}
