//! Giving up what a ring has in flight.
//!
//! Owns the one operation that ends others. Must never be used where something else than reads and sends of peers is on
//! the ring: it asks for no descriptor, since looking for each one would cost the square of their number.

use std::io;

use io_uring::{cqueue, opcode, types};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// Cancels all that this thread's ring has in flight. Each operation completes: with what it has read or sent by then,
/// or with `ECANCELED`.
///
/// # Errors
/// `ENOENT` if there was nothing.
pub(super) async fn cancel_all() -> io::Result<()> {
    let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
    UnsubmittedOneshot::new((), Cancelled, entry).submit().await
}

/// Whether an operation ended by [`cancel_all`] with nothing done. A connection's own errors are others.
pub(super) fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

struct Cancelled;

impl OneshotOutputTransform for Cancelled {
    type Output = io::Result<()>;
    type StoredData = ();

    fn transform_oneshot_output(self, (): (), completion: cqueue::Entry) -> Self::Output {
        match completion.result() {
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            _ => Ok(()),
        }
    }
}
