//! Threads that the service cannot do without, and the one way out of the process.
//!
//! Owns what happens when such a thread fails. Must never let the process live on without it: a client
//! whose netlink thread is dead must not look alive, and a supervisor starts us again.

use std::io;
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};

/// The exit status after a panic: that of Rust's own runtime.
pub const PANIC_STATUS: i32 = 101;

static LAST_WORDS: OnceLock<fn()> = OnceLock::new();

/// Has `last_words` called before the process ends by [`exit`]; the first call counts. It must return
/// soon whatever state the process is in.
pub fn before_exit(last_words: fn()) {
    let _ = LAST_WORDS.set(last_words);
}

/// Ends the process at once, after its last words.
pub fn exit(status: i32) -> ! {
    if let Some(last_words) = LAST_WORDS.get() {
        last_words();
    }
    std::process::exit(status)
}

/// Starts a thread whose panic ends the process.
///
/// # Errors
/// The system's, if there is no room for another thread.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).spawn(move || {
        let _end = EndOnPanic;
        body()
    })
}

/// Ends the process when it is dropped by a panic. For tasks, whose panics a runtime would catch.
#[derive(Debug)]
pub(crate) struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            let thread = thread::current();
            let name = thread.name().unwrap_or("without a name");
            tracing::error!("the thread {name} failed: the process ends");
            exit(PANIC_STATUS);
        }
    }
}
