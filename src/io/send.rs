//! SEND on the ring, with the flags that tokio-uring's own write lacks.
//!
//! Owns the one operation whose bytes are not copied. Must never let the bytes or the socket go before
//! the kernel has completed it.

use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use io_uring::{cqueue, opcode, types};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::socket::Connection;
use crate::shard::Piece;

/// Sends a piece and returns how many of its bytes went out. At most one at a time for a connection,
/// or bytes would mix.
///
/// `MSG_WAITALL` makes the kernel go on after a short send by itself. `MSG_EOR` keeps what follows
/// out of the piece's last segment.
///
/// A peer that does not reassemble gets one segment, or slices of a segment's length each: the kernel cuts
/// at multiples of that from the piece's beginning, since `MSG_EOR` has each piece begin a segment. What
/// would cut elsewhere is the end of the peer's window, so the core never gives more than that takes. No
/// check of the free send buffer is needed: the kernel starts a segment only when the socket is below its
/// limits (sndbuf, TCP_NOTSENT_LOWAT), the ring waits for that by itself, and what it goes on with is
/// appended to the segment that was begun.
///
/// # Errors
/// The socket's: the connection is then lost.
pub(super) async fn send(connection: Rc<Connection>, piece: Piece) -> io::Result<usize> {
    let bytes = piece.as_slice();
    let mut flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    if piece.end_of_record {
        flags |= libc::MSG_EOR;
    }
    let length = u32::try_from(bytes.len()).expect("a piece has at most 64 KiB");
    // The kernel borrows `bytes` until the completion. `InFlight` is what keeps them: a Piece does not
    // move its bytes, and the driver holds on to `InFlight` even when this future is dropped.
    let entry =
        opcode::Send::new(types::Fd(connection.stream().as_raw_fd()), bytes.as_ptr(), length)
            .flags(flags)
            .build();
    let in_flight = InFlight { _piece: piece, _connection: connection };
    UnsubmittedOneshot::new(in_flight, BytesSent, entry).submit().await
}

/// What the kernel uses until the completion.
struct InFlight {
    _piece: Piece,
    _connection: Rc<Connection>,
}

struct BytesSent;

impl OneshotOutputTransform for BytesSent {
    type Output = io::Result<usize>;
    type StoredData = InFlight;

    fn transform_oneshot_output(self, _: InFlight, completion: cqueue::Entry) -> Self::Output {
        usize::try_from(completion.result())
            .map_err(|_| io::Error::from_raw_os_error(-completion.result()))
    }
}
