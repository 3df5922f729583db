//! The signals that end the program, and the one that does not.
//!
//! Owns what each signal means. Must never wait for the service: a second signal ends the process even
//! when nothing else moves any more.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::error::ServeError;
use crate::vital;

/// SIGINT and SIGTERM, watched for from [`Signals::watch`] on. The second one ends the process at once,
/// with status 1; SIGHUP has the policy's file read again, if there is one.
#[derive(Debug)]
pub struct Signals {
    first: oneshot::Receiver<&'static str>,
    reload: Reload,
}

/// Whom SIGHUP is for, once somebody asked for it. Has room for one: what is read later is read for all.
type Reload = Arc<OnceLock<mpsc::Sender<()>>>;

impl Signals {
    /// Watches, on a thread of its own, until the process ends. The first signal is told to `ending`, which must
    /// return soon.
    ///
    /// # Errors
    /// [`ServeError::Start`] if signals cannot be watched.
    pub fn watch(ending: impl FnOnce() + Send + 'static) -> Result<Signals, ServeError> {
        let failed = |source| ServeError::Start { what: "watching signals", source };
        let runtime = acceptor_runtime()?;
        let reload = Reload::default();
        let mut watched = {
            let _context = runtime.enter();
            Watched::new(Arc::clone(&reload)).map_err(failed)?
        };
        let (sender, first) = oneshot::channel();
        let watch = move || {
            runtime.block_on(async {
                let name = watched.next_end().await;
                info!("{name} received");
                ending();
                let _ = sender.send(name);
                let name = watched.next_end().await;
                warn!("{name} received again: not waiting for the peers");
                vital::exit(1);
            })
        };
        vital::spawn("signals", watch).map_err(failed)?;
        Ok(Signals { first, reload })
    }

    /// Completes at the first signal. Not to be called again after that.
    pub(super) async fn received(&mut self) {
        let _ = (&mut self.first).await;
    }

    /// Tells when something is to be read again: what changes from now on is told, also if it is asked about later. To
    /// be called once.
    pub(super) fn reload_asked(&self) -> mpsc::Receiver<()> {
        let (sender, asked) = mpsc::channel(1);
        assert!(self.reload.set(sender).is_ok(), "there is one thing to reload");
        asked
    }

    /// Waits for the first signal. Not to be called within a runtime.
    pub fn wait(self) {
        let _ = self.first.blocking_recv();
    }
}

struct Watched {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    reload: Reload,
}

impl Watched {
    fn new(reload: Reload) -> io::Result<Watched> {
        Ok(Watched {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            reload,
        })
    }

    /// The name of the next signal that means the end.
    async fn next_end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.hangup.recv() => self.hung_up(),
            }
        }
    }

    fn hung_up(&self) {
        match self.reload.get() {
            // Full if that was asked for already, and not begun yet.
            Some(reload) => drop(reload.try_send(())),
            None => info!("SIGHUP received: there is nothing to reload; going on"),
        }
    }
}

/// The runtime of a thread that waits for the system, but not for a ring.
pub(super) fn acceptor_runtime() -> Result<tokio::runtime::Runtime, ServeError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::Start { what: "the acceptor", source })
}
