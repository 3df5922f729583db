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

use metalbond_uring::internals::cli::LogFormat;
use metalbond_uring::internals::{cli, vital};
use tracing::{Level, error, info, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use queue::{LogQueue, Occasion};
use ration::{COUNTS, LeftOut, Ration};

/// How long the end of the process waits for somebody to read the last lines.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

/// What the engine's client says is said in our words, and not at each attempt.
const QUIET: &str = ",async_nats=off";

static QUEUE: OnceLock<LogQueue> = OnceLock::new();
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Logs to stderr from now on, in this form: `info` and above, or what RUST_LOG says; `verbose` means `debug`
/// for this program.
pub fn start(format: LogFormat, verbose: bool) -> std::io::Result<()> {
    let queue = QUEUE.get_or_init(LogQueue::default);
    let _ = FORMAT.set(format);
    let default = if verbose { "info,metalbond_uring=debug" } else { "info" };
    let default = format!("{default}{QUIET}");
    let wanted = std::env::var_os(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let wanted = wanted.to_string_lossy();
    let quiet = if wanted.contains("async_nats") { "" } else { QUIET };
    let (filter, wrong) = match EnvFilter::try_new(format!("{wanted}{quiet}")) {
        _ if wanted.is_empty() => (EnvFilter::new(default), None),
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default), Some(error)),
    };
    let ration = Ration::new();
    let lines = lines(format, queue.clone());
    tracing_subscriber::registry().with(lines).with(filter).with(ration.clone()).init();
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

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// What writes events as lines of a form.
fn lines(format: LogFormat, queue: LogQueue) -> Lines {
    match format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(wants_colour(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR")))
            .log_internal_errors(false)
            .with_writer(queue)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .log_internal_errors(false)
            .with_writer(queue)
            .boxed(),
        LogFormat::Logfmt => {
            tracing_logfmt::builder().layer().log_internal_errors(false).with_writer(queue).boxed()
        }
    }
}

/// Says why the process ends, in the form of the log's lines; with [`flush`] it may end then. Before [`start`], it
/// is written at once.
pub fn say(text: &str) {
    match QUEUE.get() {
        Some(queue) => queue.push(in_format(FORMAT.get().copied(), text).as_bytes()),
        // Nobody may be listening any more.
        None => {
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

/// A text as an error in the log: without the log's own machinery, which may be what failed.
fn in_format(format: Option<LogFormat>, text: &str) -> String {
    let (now, message) = (jiff::Timestamp::now(), text.trim_end());
    match format {
        None | Some(LogFormat::Text) => text.to_owned(),
        Some(LogFormat::Json) => {
            let (timestamp, target) = (now.to_string(), COUNTS);
            let line = serde_json::json!({
                "timestamp": timestamp, "level": "ERROR", "message": message, "target": target
            });
            format!("{line}\n")
        }
        Some(LogFormat::Logfmt) => {
            format!("ts={now} level=error target={COUNTS} message={message:?}\n")
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
