//! What the acceptor and a handover agree upon.
//!
//! Owns the words between them, and who is first when a server that hands over is to end. Must never decide whether a
//! handover has succeeded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// What the acceptor is told.
pub(super) enum Recess {
    /// Accept nobody, and say so when that is so. Connections wait in the kernel.
    Begin(mpsc::Sender<()>),
    /// Go on.
    End,
}

/// There is one handover at a time, and none any more once the server ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Truce {
    is_ending: Arc<AtomicBool>,
    under_way: Arc<Mutex<()>>,
}

impl Truce {
    /// A handover begins, and is under way until what is returned is dropped. None if there is one already.
    pub(super) fn begin(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.under_way).try_lock_owned().ok()
    }

    /// The server ends: a handover that is under way has to be given up soon.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }

    /// For those who wait to look at.
    pub(super) fn ending(&self) -> &Arc<AtomicBool> {
        &self.is_ending
    }

    /// Waits until no handover is under way; there will be none after that. If one succeeds meanwhile this process ends
    /// here.
    pub(super) async fn end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        std::mem::forget(Arc::clone(&self.under_way).lock_owned().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_none_after_the_end() {
        let truce = Truce::default();
        let first = truce.begin().unwrap();
        assert!(truce.begin().is_none() && !truce.is_ending());
        drop(first);
        drop(truce.begin().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(truce.end());
        assert!(truce.begin().is_none() && truce.is_ending());
    }
}
