//! Operations of the ring on a simulated peer's socket: connect, wait for bytes, send; and a precise alarm.
//!
//! Owns what the kernel borrows while an operation is in flight. Must never be put into a timeout or a
//! select: what is given up stays in flight.

use std::io;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use io_uring::{cqueue, opcode, squeue, types};
use metalbond_uring::internals::io::receive_ready;
use socket2::{Domain, Type};
use tokio_uring::net::TcpStream;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// A connection, closed when the last of its operations has completed.
pub struct Socket {
    stream: TcpStream,
}

impl Socket {
    /// Connects, from the address `source` if there is one; the kernel's time limit applies.
    pub async fn connect(target: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<Rc<Socket>> {
        let stream = match source {
            None => TcpStream::connect(target).await?,
            Some(source) => connect_from(source, target).await?,
        };
        stream.set_nodelay(true)?;
        Ok(Rc::new(Socket { stream }))
    }

    /// Waits until there is something to receive, or the connection ends.
    pub async fn readable(self: &Rc<Self>) -> io::Result<()> {
        let entry = opcode::PollAdd::new(types::Fd(self.fd()), libc::POLLIN as u32).build();
        submit(Rc::clone(self), entry).await.1.map(|_| ())
    }

    /// How many bytes wait to be received.
    pub fn waiting_bytes(&self) -> usize {
        // SAFETY: as in `receive`.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.fd()) };
        rustix::io::ioctl_fionread(descriptor).unwrap_or_default() as usize
    }

    /// Takes what has arrived, without waiting: 0 at the end.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `self.stream` owns the descriptor and outlives the call.
        receive_ready(unsafe { BorrowedFd::borrow_raw(self.fd()) }, buffer)
    }

    /// Sends all of `bytes`, and gives them back for the next time.
    pub async fn send(self: &Rc<Self>, mut bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut sent = 0;
        while sent < bytes.len() {
            let rest = &bytes[sent..];
            let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let entry = opcode::Send::new(types::Fd(self.fd()), rest.as_ptr(), length)
                .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_EOR)
                .build();
            // The kernel borrows the bytes: they are kept with the operation until it completes.
            let ((back, _), result) = submit((bytes, Rc::clone(self)), entry).await;
            bytes = back;
            match result {
                Ok(length) => sent += length as usize,
                Err(error) => return (Err(error), bytes),
            }
        }
        (Ok(()), bytes)
    }

    /// Ends both directions: what waits for bytes wakes up.
    pub fn close(&self) {
        // Fails if the other side has reset the connection: it is closed then.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

/// Connects from an address; the kernel chooses the port.
async fn connect_from(source: Ipv4Addr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let entry = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), libc::POLLOUT as u32).build();
    let (socket, result) = submit(socket, entry).await;
    result?;
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // Operations of a ring wait on a socket that blocks, and fail on one that does not.
    socket.set_nonblocking(false)?;
    Ok(TcpStream::from_std(socket.into()))
}

/// Sleeps, more precisely than the timers of tokio, which count whole milliseconds.
pub async fn sleep_ns(duration_ns: u64) {
    let timespec = types::Timespec::new()
        .sec(duration_ns / 1_000_000_000)
        .nsec((duration_ns % 1_000_000_000) as u32);
    let timespec = Box::new(timespec);
    let entry = opcode::Timeout::new(&raw const *timespec).build();
    // It always ends in ETIME.
    let _ = submit(timespec, entry).await;
}

/// Runs an operation. `kept` lives until its completion, whatever becomes of the future.
async fn submit<D: Unpin + 'static>(kept: D, entry: squeue::Entry) -> (D, io::Result<u32>) {
    UnsubmittedOneshot::new(kept, Completed(PhantomData), entry).submit().await
}

struct Completed<D>(PhantomData<D>);

impl<D> OneshotOutputTransform for Completed<D> {
    type Output = (D, io::Result<u32>);
    type StoredData = D;

    fn transform_oneshot_output(self, kept: D, completion: cqueue::Entry) -> Self::Output {
        let result = completion.result();
        (kept, u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result)))
    }
}
