//! The program's log: lines to stderr, which no thread waits for.
//!
//! Owns what reaches stderr once the service runs, panics included. Must never block or end the
//! service for the sake of a line.

mod queue;
mod ration;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use metalbond_uring::internals::{cli, vital};
use tracing::{Level, error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use queue::{LogQueue, Occasion};
use ration::{COUNTS, LeftOut, Ration};

/// How long the end of the process waits for somebody to read the last lines.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Logs to stderr from now on: `info` and above, or what RUST_LOG says; `verbose` means `debug` for
/// this program.
pub fn start(verbose: bool) -> std::io::Result<()> {
    let queue = QUEUE.get_or_init(LogQueue::default);
    let default = if verbose { "info,metalbond_uring=debug" } else { "info" };
    let wanted = std::env::var_os(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let wanted = wanted.to_string_lossy();
    let (filter, wrong) = match EnvFilter::try_new(&*wanted) {
        _ if wanted.is_empty() => (EnvFilter::new(default), None),
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default), Some(error)),
    };
    let ration = Ration::new();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(wants_colour(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR")))
        .log_internal_errors(false)
        .with_writer(queue.clone());
    tracing_subscriber::registry().with(filter).with(ration.clone()).with(lines).init();
    queue.write_to_stderr(move |occasion| match occasion {
        Occasion::Tick => {
            for LeftOut { level, lines, words } in ration.due() {
                match level {
                    Level::ERROR => {
                        error!(target: COUNTS, "{lines} more lines were left out: {words}")
                    }
                    Level::WARN => {
                        warn!(target: COUNTS, "{lines} more lines were left out: {words}")
                    }
                    _ => info!(target: COUNTS, "{lines} more lines were left out: {words}"),
                }
            }
        }
        Occasion::Missing { left_out, failed } => {
            warn!(left_out, failed, "log lines are missing: stderr was not read, or not writable");
        }
    })?;
    std::panic::set_hook(Box::new(end_on_panic));
    vital::before_exit(flush);
    if let Some(error) = wrong {
        warn!(
            "RUST_LOG={wanted:?} is no filter and is ignored: {error}; an example: info,metalbond_uring=debug"
        );
    }
    Ok(())
}

/// Says something as it is; with [`flush`] the process may end then. Before [`start`], it is written at
/// once.
pub fn say(text: &str) {
    match QUEUE.get() {
        Some(queue) => queue.push(text.as_bytes()),
        // Nobody may be listening any more.
        None => {
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

/// Waits a moment until the last lines are written.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_WORDS_TIME);
    }
}

/// Whatever panics, the program's invariants are broken: it ends, and says why.
fn end_on_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name").to_owned();
    let payload = panic.payload();
    let reason = payload.downcast_ref::<&str>().copied();
    let reason = reason.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let reason = reason.unwrap_or("no reason given");
    let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
    let program = cli::PROGRAM;
    say(&format!("{program}: the thread {name} failed, the process ends: {reason}{place}\n"));
    vital::exit(vital::PANIC_STATUS);
}

/// On a terminal, unless NO_COLOR is set to anything (no-color.org).
fn wants_colour(is_terminal: bool, no_color: Option<OsString>) -> bool {
    is_terminal && no_color.is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_users_want_them() {
        assert!(wants_colour(true, None) && wants_colour(true, Some("".into())));
        assert!(!wants_colour(true, Some("1".into())) && !wants_colour(false, None));
    }
}
