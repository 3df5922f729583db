//! The socket for requests: many operations in one system call, their answers, dumps.
//!
//! Owns the socket and what the kernel's answers mean. Must never decide what to install.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::messages;
use super::plan::{Family, Op, Outcome, SeenRoute, Snapshot};
use super::seen::{self, LinkSeen};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER_BYTES: usize = 16;

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

/// An operation's outcome, with the kernel's words if it refused.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub outcome: Outcome,
    pub text: Option<String>,
}

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
        self.receive_until(sequence, |_, error| refused = error.map(|(errno, _)| errno))?;
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
            for message in split(&self.datagram[..read]) {
                match message.message_type() {
                    _ if message.sequence_number() != sequence => {}
                    messages::RTM_NEWLINK => return Ok(seen::seen_link(message.payload())),
                    NLMSG_ERROR => {
                        // Before Linux 5.5 there are no alternative names.
                        return match error_of(&message) {
                            Some((libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP, _)) => Ok(None),
                            Some((errno, _)) => Err(io::Error::from_raw_os_error(errno)),
                            None => Ok(None),
                        };
                    }
                    _ => {}
                }
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
            if let Some(route) = seen::seen_route(payload)
                && is_asked(route.prefix.table)
            {
                keep(found, route);
            }
        });
        match routes {
            Ok(mut routes) => {
                drop_last_of_others(&mut routes);
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
        answers.resize(start + batch.len(), Answer { outcome: Outcome::Done, text: None });
        let batch_answers = &mut answers[start..];
        let received = self.receive_until(last, |sequence, error| {
            let index = sequence.wrapping_sub(first) as usize;
            if let (Some(answer), Some((errno, text))) = (batch_answers.get_mut(index), error) {
                *answer = Answer { outcome: Outcome::Failed(errno), text };
            }
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
        mut each: impl FnMut(u32, Option<(i32, Option<String>)>),
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
            for message in split(&self.datagram[..read]) {
                if message.message_type() == NLMSG_ERROR {
                    each(message.sequence_number(), error_of(&message));
                    if message.sequence_number() == last {
                        return lost.map_or(Ok(()), Err);
                    }
                }
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

    /// An interrupted dump is EINTR: it may lack what was there all the time.
    fn receive_dump<T>(
        &mut self,
        kind: u16,
        sequence: u32,
        parse: &mut impl FnMut(&mut Vec<T>, &[u8]),
    ) -> io::Result<Vec<T>> {
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let read = self.receive()?;
            for message in split(&self.datagram[..read]) {
                if message.sequence_number() != sequence {
                    continue; // of an earlier attempt
                }
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match error_of(&message) {
                            Some((errno, _)) => Err(io::Error::from_raw_os_error(errno)),
                            None if interrupted => Err(io::Error::from_raw_os_error(libc::EINTR)),
                            None => Ok(found),
                        };
                    }
                    other if other == kind => parse(&mut found, message.payload()),
                    _ => {}
                }
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

/// Adds a route of a dump, which has the routes of a prefix one after the other. Where none may be
/// ours the others are of no interest.
fn keep(found: &mut Vec<SeenRoute>, route: SeenRoute) {
    if found.last().is_some_and(|last| last.prefix != route.prefix) {
        drop_last_of_others(found);
    }
    found.push(route);
}

/// Drops the routes of the last prefix if none of them may be ours.
fn drop_last_of_others(found: &mut Vec<SeenRoute>) {
    let Some(prefix) = found.last().map(|last| last.prefix) else { return };
    let count = found.iter().rev().take_while(|one| one.prefix == prefix).count();
    let start = found.len() - count;
    if found[start..].iter().all(|one| one.form.is_none()) {
        found.truncate(start);
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

/// The messages of a datagram, up to the first malformed one.
pub(super) fn split(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = message.length() as usize;
        let (one, _) = bytes.split_at_checked(length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        NetlinkBuffer::new_checked(one).ok()
    })
}

/// The error of an NLMSG_ERROR or NLMSG_DONE, with the kernel's explanation; none if it is fine.
fn error_of(message: &NetlinkBuffer<&[u8]>) -> Option<(i32, Option<String>)> {
    let (code, rest) = message.payload().split_first_chunk::<4>()?;
    let errno = i32::from_ne_bytes(*code).checked_neg().filter(|errno| *errno > 0)?;
    let text = (message.flags() & NLM_F_ACK_TLVS != 0).then(|| explanation(message, rest));
    Some((errno, text.flatten()))
}

fn explanation(message: &NetlinkBuffer<&[u8]>, rest: &[u8]) -> Option<String> {
    let request_bytes = if message.flags() & NLM_F_CAPPED != 0 {
        HEADER_BYTES
    } else {
        u32::from_ne_bytes(*rest.first_chunk::<4>()?) as usize
    };
    let attributes = rest.get(request_bytes.next_multiple_of(4)..)?;
    let text = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    Some(String::from_utf8_lossy(text.value().split(|byte| *byte == 0).next()?).into_owned())
}

/// Whether another try may help.
fn is_transient(error: &io::Error) -> bool {
    let transient = [libc::ENOBUFS, libc::EINTR, libc::EBUSY, libc::EAGAIN, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| transient.contains(&errno))
}
