//! Why a handover does not come about, and how long it may take.
//!
//! Owns the words. Must never decide to whom connections belong.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use thiserror::Error;

use crate::handover::HandoverError;
use crate::io::clock::Clock;
use crate::types::Time;

/// Between two looks whether all was given up.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// Why a handover does not come about.
#[derive(Error, Debug)]
pub(super) enum Failure {
    #[error("the other server refuses: {0}")]
    Refused(String),
    #[error("the other server has ended, or given it up")]
    Gone,
    #[error("it has taken too long")]
    TimeOver,
    #[error("this server ends")]
    Ending,
    #[error(transparent)]
    Nonsense(#[from] HandoverError),
    #[error(
        "the program at the other end runs as user {0}: it must be the user of this one, or root"
    )]
    Stranger(u32),
    #[error("another handover is under way")]
    Busy,
    #[error("it was started with {theirs}, this one with {ours}: only a restart can change that")]
    Differs { theirs: String, ours: String },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}

impl Failure {
    /// For `map_err`.
    pub(super) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Failure {
        move |source| Failure::System { what, source: source.into() }
    }
}

/// How long something may take.
#[derive(Clone)]
pub(super) struct Patience {
    clock: Clock,
    until: Time,
    is_given_up: Arc<AtomicBool>,
}

impl Patience {
    /// From now on, or until it is given up.
    pub(super) fn of(clock: Clock, time: Duration, is_given_up: &Arc<AtomicBool>) -> Patience {
        let until = clock.now().after(time);
        Patience { clock, until, is_given_up: Arc::clone(is_given_up) }
    }

    /// Whether there is still time.
    ///
    /// # Errors
    /// [`Failure::TimeOver`] or [`Failure::Ending`].
    pub(super) fn lasts(&self) -> Result<(), Failure> {
        if self.is_given_up.load(Ordering::SeqCst) {
            return Err(Failure::Ending);
        }
        if self.clock.now() >= self.until { Err(Failure::TimeOver) } else { Ok(()) }
    }

    /// Waits for what another thread says.
    ///
    /// # Errors
    /// As [`Patience::lasts`], or [`Failure::Ending`] if that thread has ended.
    pub(super) fn hear<T>(&self, from: &Receiver<T>) -> Result<T, Failure> {
        loop {
            match from.recv_timeout(TICK) {
                Ok(said) => return Ok(said),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Ending),
                Err(RecvTimeoutError::Timeout) => self.lasts()?,
            }
        }
    }
}
