//! What the kernel's answers mean: acknowledgements, errors, dumps.
//!
//! Owns the reading of datagrams that answer requests. Must never panic on what the kernel says, and
//! never touch a socket.

use std::io;

use netlink_packet_core::{NetlinkBuffer, NlasIterator};

use super::messages;
use super::plan::{Outcome, SeenRoute};
use super::seen::{self, LinkSeen};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER_BYTES: usize = 16;

/// An error of the kernel, with its words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// Above 0.
    pub errno: i32,
    pub text: Option<String>,
}

/// An operation's outcome, with the kernel's words if it refused.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub outcome: Outcome,
    pub text: Option<String>,
}

impl Answer {
    /// No error came.
    pub(super) const DONE: Answer = Answer { outcome: Outcome::Done, text: None };
}

/// A dump as far as it has come.
#[derive(Debug)]
pub(super) struct Dump {
    kind: u16,
    sequence: u32,
    interrupted: bool,
}

impl Dump {
    /// The answer to request `sequence`, in messages of this kind.
    pub(super) fn new(kind: u16, sequence: u32) -> Dump {
        Dump { kind, sequence, interrupted: false }
    }

    /// Hands the payloads in a datagram to `each`. Some when the dump is over; an interrupted one is
    /// EINTR: it may lack what was there all the time.
    pub(super) fn take(
        &mut self,
        datagram: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Option<io::Result<()>> {
        // Others are of an earlier attempt.
        for message in split(datagram).filter(|one| one.sequence_number() == self.sequence) {
            self.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            match message.message_type() {
                NLMSG_DONE | NLMSG_ERROR => {
                    return Some(match error_of(&message) {
                        Some(Refusal { errno, .. }) => Err(io::Error::from_raw_os_error(errno)),
                        None if self.interrupted => Err(io::Error::from_raw_os_error(libc::EINTR)),
                        None => Ok(()),
                    });
                }
                other if other == self.kind => each(message.payload()),
                _ => {}
            }
        }
        None
    }
}

/// The answer to a link query, if it is in the datagram.
pub(super) fn link(datagram: &[u8], sequence: u32) -> Option<io::Result<Option<LinkSeen>>> {
    for message in split(datagram).filter(|one| one.sequence_number() == sequence) {
        match message.message_type() {
            messages::RTM_NEWLINK => return Some(Ok(seen::seen_link(message.payload()))),
            NLMSG_ERROR => {
                // Before Linux 5.5 there are no alternative names.
                const NONE: [i32; 3] = [libc::ENODEV, libc::EINVAL, libc::EOPNOTSUPP];
                let refusal = error_of(&message).filter(|refusal| !NONE.contains(&refusal.errno));
                let error = refusal.map(|refusal| io::Error::from_raw_os_error(refusal.errno));
                return Some(error.map_or(Ok(None), Err));
            }
            _ => {}
        }
    }
    None
}

/// Hands each acknowledgement (no error) or error to `each`, up to that of request `last`. True if
/// that one came.
pub(super) fn acknowledgements(
    datagram: &[u8],
    last: u32,
    mut each: impl FnMut(u32, Option<Refusal>),
) -> bool {
    for message in split(datagram).filter(|one| one.message_type() == NLMSG_ERROR) {
        each(message.sequence_number(), error_of(&message));
        if message.sequence_number() == last {
            return true;
        }
    }
    false
}

/// Notes an error in the answers of a batch whose first request is `first`.
pub(super) fn note(answers: &mut [Answer], first: u32, sequence: u32, error: Option<Refusal>) {
    let index = sequence.wrapping_sub(first) as usize;
    if let (Some(answer), Some(Refusal { errno, text })) = (answers.get_mut(index), error) {
        *answer = Answer { outcome: Outcome::Failed(errno), text };
    }
}

/// Adds the route of a dump, if it is in a table that was asked for. The routes of a prefix come one after the other. Where none may be
/// ours the others are of no interest.
pub(super) fn keep(found: &mut Vec<SeenRoute>, payload: &[u8], is_asked: impl Fn(u32) -> bool) {
    // Kernels without strict checking dump all tables.
    let route = seen::seen_route(payload).filter(|route| is_asked(route.prefix.table));
    let Some(route) = route else { return };
    if found.last().is_some_and(|last| last.prefix != route.prefix) {
        drop_last_of_others(found);
    }
    found.push(route);
}

/// Drops the routes of the last prefix if none of them may be ours.
pub(super) fn drop_last_of_others(found: &mut Vec<SeenRoute>) {
    let Some(prefix) = found.last().map(|last| last.prefix) else { return };
    let count = found.iter().rev().take_while(|one| one.prefix == prefix).count();
    let start = found.len() - count;
    if found[start..].iter().all(|one| one.form.is_none()) {
        found.truncate(start);
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
fn error_of(message: &NetlinkBuffer<&[u8]>) -> Option<Refusal> {
    let (code, rest) = message.payload().split_first_chunk::<4>()?;
    let errno = i32::from_ne_bytes(*code).checked_neg().filter(|errno| *errno > 0)?;
    let text = (message.flags() & NLM_F_ACK_TLVS != 0).then(|| explanation(message, rest));
    Some(Refusal { errno, text: text.flatten() })
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
