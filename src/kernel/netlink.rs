//! The socket for requests: many operations in one system call, their answers, dumps.
//!
//! Owns the socket; `answers` says what comes back. Must never decide what to install.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::answers::{self, Answer, Dump, Refusal};
use super::messages;
use super::plan::{Family, Op, Outcome, SeenRoute, Snapshot};
use super::seen::{self, LinkSeen};

/// Bytes of one batch; a single message may be longer. The kernel takes what fits its send buffer
/// (212992 bytes by default).
const BATCH_BYTES: usize = 64 * 1024;
/// Receive buffer in bytes: room for the errors of a whole batch.
pub(super) const RECEIVE_BYTES: i32 = 1024 * 1024;
/// The kernel never fills more than 32 KiB of a dump into one datagram.
pub(super) const DATAGRAM_BYTES: usize = 64 * 1024;
/// Longest wait for an answer. The kernel works inside the system call that sends, so that answers
/// are there at once, unless they are lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts at a dump that is interrupted by changes, or that finds the kernel busy.
const DUMP_ATTEMPTS: u32 = 8;
/// Attempts to send when the kernel is short of memory.
const SEND_ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// What a dump is to tell of.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// Ascending.
    pub tables: Vec<u32>,
    /// Routes of our protocol in all other tables too.
    pub with_other_tables: bool,
    /// Routes of other protocols too, where there is one of ours.
    pub with_others: bool,
}

/// The socket for requests.
pub(super) struct Requests {
    socket: Socket,
    port: u32,
    sequence: u32,
    bytes: Vec<u8>,
    datagram: Vec<u8>,
}

impl Requests {
    /// Opens a socket in the caller's network namespace.
    pub(super) fn open() -> io::Result<Requests> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // Older kernels lack some of these; they only save work or tell more.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_rx_buf_sz(RECEIVE_BYTES);
        let (bytes, datagram) = (Vec::with_capacity(BATCH_BYTES), vec![0; DATAGRAM_BYTES]);
        Ok(Requests { socket, port, sequence: 0, bytes, datagram })
    }

    /// The socket's own address.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Whether this program may change routes.
    pub(super) fn may_change_routes(&mut self) -> io::Result<bool> {
        let sequence = self.next_sequences(1);
        self.bytes.clear();
        messages::put_capability_probe(&mut self.bytes, sequence);
        self.send()?;
        let mut refused = None;
        self.receive_until(sequence, |_, error| refused = error.map(|refusal| refusal.errno))?;
        Ok(refused != Some(libc::EPERM))
    }

    /// The link of this name, if there is one; an alternative name does as well.
    pub(super) fn link(&mut self, name: &str) -> io::Result<Option<LinkSeen>> {
        if name.len() <= messages::LINK_NAME_BYTES_MAX
            && let Some(seen) = self.link_by(messages::IFLA_IFNAME, name)?
        {
            return Ok(Some(seen));
        }
        self.link_by(messages::IFLA_ALT_IFNAME, name)
    }

    fn link_by(&mut self, attribute: u16, name: &str) -> io::Result<Option<LinkSeen>> {
        let sequence = self.next_sequences(1);
        self.bytes.clear();
        messages::put_link_query(&mut self.bytes, attribute, name, sequence);
        self.send()?;
        loop {
            let read = self.receive()?;
            if let Some(answer) = answers::link(&self.datagram[..read], sequence) {
                return answer;
            }
        }
    }

    /// Sends the operations in as few system calls as possible, and appends one answer for each.
    pub(super) fn execute(&mut self, ops: &[Op], link: u32, answers: &mut Vec<Answer>) {
        let mut rest = ops;
        while !rest.is_empty() {
            let first = self.next_sequences(rest.len() as u32);
            let count = self.fill(rest, link, first);
            let (batch, later) = rest.split_at(count);
            rest = later;
            self.exchange(batch, link, first, answers);
        }
    }

    /// Dumps nexthop objects, and the routes as asked for.
    pub(super) fn snapshot(&mut self, scope: &Scope, with_nexthops: bool) -> io::Result<Snapshot> {
        let mut snapshot = Snapshot { has_others: scope.with_others, ..Snapshot::default() };
        if with_nexthops {
            snapshot.nexthops = self.dump(
                messages::RTM_NEWNEXTHOP,
                messages::put_nexthop_dump,
                |found, payload| found.extend(seen::seen_nexthop(payload)),
            )?;
        }
        for family in [Family::V4, Family::V6] {
            for &table in &scope.tables {
                let routes = self.routes(table, family, scope.with_others, |one| one == table);
                snapshot.routes.append(&mut routes?);
            }
            if scope.with_other_tables {
                let is_other = |table| scope.tables.binary_search(&table).is_err();
                snapshot.routes.append(&mut self.routes(0, family, false, is_other)?);
            }
        }
        Ok(snapshot)
    }

    /// The routes in one table (0: all tables) that may be ours, and those beside them.
    fn routes(
        &mut self,
        table: u32,
        family: Family,
        with_others: bool,
        is_asked: impl Fn(u32) -> bool,
    ) -> io::Result<Vec<SeenRoute>> {
        let request = |bytes: &mut Vec<u8>, sequence| {
            messages::put_route_dump(bytes, table, family, with_others, sequence);
        };
        let routes = self.dump(messages::RTM_NEWROUTE, request, |found, payload| {
            // Kernels without strict checking dump all tables.
            answers::keep(found, payload, &is_asked);
        });
        match routes {
            Ok(mut routes) => {
                answers::drop_last_of_others(&mut routes);
                Ok(routes)
            }
            // The table does not exist yet.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn next_sequences(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Fills `bytes` with as many operations as fit, at least one; only the last asks for an
    /// acknowledgement: the kernel answers errors anyway, and in order.
    fn fill(&mut self, ops: &[Op], link: u32, first: u32) -> usize {
        self.bytes.clear();
        let (mut count, mut last) = (0, 0);
        for op in ops {
            let start = self.bytes.len();
            let sequence = first.wrapping_add(count as u32);
            messages::put_op(&mut self.bytes, op, link, sequence);
            if count > 0 && self.bytes.len() > BATCH_BYTES {
                self.bytes.truncate(start);
                break;
            }
            last = start;
            count += 1;
        }
        messages::ask_for_ack(&mut self.bytes[last..]);
        count
    }

    /// Sends what is in `bytes` and collects the answers.
    fn exchange(&mut self, batch: &[Op], link: u32, first: u32, answers: &mut Vec<Answer>) {
        if let Err(error) = self.send() {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            if errno == libc::EMSGSIZE && batch.len() > 1 {
                let (one, other) = batch.split_at(batch.len() / 2);
                self.execute(one, link, answers);
                return self.execute(other, link, answers);
            }
            let text = Some(format!("cannot send: {error}"));
            let refused = Answer { outcome: Outcome::Failed(errno), text };
            answers.resize(answers.len() + batch.len(), refused);
            return;
        }
        let start = answers.len();
        let last = first.wrapping_add(batch.len() as u32 - 1);
        answers.resize(start + batch.len(), Answer::DONE);
        let batch_answers = &mut answers[start..];
        let received = self.receive_until(last, |sequence, error| {
            answers::note(batch_answers, first, sequence, error);
        });
        if let Err(error) = received {
            for answer in answers[start..].iter_mut().filter(|one| one.outcome == Outcome::Done) {
                let text = Some(format!("no answer: {error}"));
                *answer = Answer { outcome: Outcome::Unknown, text };
            }
        }
    }

    fn send(&self) -> io::Result<()> {
        for _ in 1..SEND_ATTEMPTS {
            match self.socket.send(&self.bytes, 0) {
                Err(error) if is_transient(&error) => std::thread::sleep(PAUSE),
                result => return result.map(drop),
            }
        }
        self.socket.send(&self.bytes, 0).map(drop)
    }

    /// Hands each acknowledgement (no error) or error to `each`, up to that of request `last`.
    fn receive_until(
        &mut self,
        last: u32,
        mut each: impl FnMut(u32, Option<Refusal>),
    ) -> io::Result<()> {
        let mut lost = None;
        loop {
            let read = match self.receive() {
                // Answers were dropped, but what is queued is still good.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost = Some(error);
                    continue;
                }
                Err(error) => return Err(lost.unwrap_or(error)),
                Ok(read) => read,
            };
            if answers::acknowledgements(&self.datagram[..read], last, &mut each) {
                return lost.map_or(Ok(()), Err);
            }
        }
    }

    fn dump<T>(
        &mut self,
        kind: u16,
        mut request: impl FnMut(&mut Vec<u8>, u32),
        mut parse: impl FnMut(&mut Vec<T>, &[u8]),
    ) -> io::Result<Vec<T>> {
        let mut error = io::Error::from_raw_os_error(libc::EBUSY);
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.next_sequences(1);
            self.bytes.clear();
            request(&mut self.bytes, sequence);
            self.send()?;
            match self.receive_dump(kind, sequence, &mut parse) {
                Ok(found) => return Ok(found),
                Err(one) if is_transient(&one) => error = one,
                Err(one) => return Err(one),
            }
            std::thread::sleep(PAUSE);
        }
        Err(error)
    }

    fn receive_dump<T>(
        &mut self,
        kind: u16,
        sequence: u32,
        parse: &mut impl FnMut(&mut Vec<T>, &[u8]),
    ) -> io::Result<Vec<T>> {
        let (mut found, mut dump) = (Vec::new(), Dump::new(kind, sequence));
        loop {
            let read = self.receive()?;
            let parse = |payload: &[u8]| parse(&mut found, payload);
            if let Some(end) = dump.take(&self.datagram[..read], parse) {
                return end.map(|()| found);
            }
        }
    }

    /// Reads one datagram into `datagram`.
    fn receive(&mut self) -> io::Result<usize> {
        loop {
            let mut buffer = &mut self.datagram[..];
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let fds = [self.socket.as_fd()];
                    if !wait_readable(fds, Some(ANSWER_TIMEOUT))?[0] {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// Waits until one of the descriptors can be read; tells which. None: without a limit.
pub(super) fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    // What does not fit is without a limit, too.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match rustix::event::poll(&mut polled, timeout.as_ref()) {
        Err(Errno::INTR) => Ok([false; N]),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(polled.map(|one| !one.revents().is_empty())),
    }
}

/// Whether another try may help.
fn is_transient(error: &io::Error) -> bool {
    let transient = [libc::ENOBUFS, libc::EINTR, libc::EBUSY, libc::EAGAIN, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| transient.contains(&errno))
}
