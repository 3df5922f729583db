//! The socket between two servers: one packet for each thing said, with descriptors.
//!
//! Owns its limits, and who may speak there. Must never know what comes after what.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};

use super::failure::{Failure, Patience, TICK};
use crate::handover::packet::What;
use crate::handover::{HandoverError, Packet};

/// Descriptors that a packet has at most; the kernel takes 253.
pub(super) const DESCRIPTORS_MAX: usize = 250;

/// What a packet may be long, in bytes.
const PACKET_BYTES_MAX: usize = 512 << 10;

/// What may be under way, in bytes; the kernel may allow less. Enough for the longest packet.
const BUFFER_BYTES: usize = 1 << 20;

/// The socket.
pub(super) struct Packets {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// Who is at the other end.
pub(super) struct Other {
    pub(super) process: i32,
    pub(super) user: u32,
}

impl Packets {
    /// Over a connected socket.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn over(socket: OwnedFd) -> Result<Packets, Failure> {
        let failed = "the socket of the handover";
        for way in [Timeout::Recv, Timeout::Send] {
            sockopt::set_socket_timeout(&socket, way, Some(TICK))
                .map_err(Failure::system(failed))?;
        }
        sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES)
            .map_err(Failure::system(failed))?;
        Ok(Packets { socket, buffer: vec![0; PACKET_BYTES_MAX] })
    }

    /// Who has connected, or listens.
    ///
    /// # Errors
    /// [`Failure::Stranger`], or the kernel's.
    pub(super) fn other(&self) -> Result<Other, Failure> {
        let credentials = sockopt::socket_peercred(&self.socket)
            .map_err(Failure::system("who is at the other end"))?;
        let (user, own) = (credentials.uid, rustix::process::geteuid());
        let other = Other { process: credentials.pid.as_raw_nonzero().get(), user: user.as_raw() };
        match user == own || user.is_root() {
            true => Ok(other),
            false => Err(Failure::Stranger(other.user)),
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// [`Failure::Gone`] if nobody will read it, or what ends the patience.
    pub(super) fn send(
        &self,
        what: What,
        descriptors: &[BorrowedFd<'_>],
        patience: &Patience,
    ) -> Result<(), Failure> {
        let bytes = Packet::of(what).to_bytes();
        loop {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
                assert!(fits, "{} descriptors are too many", descriptors.len());
            }
            let parts = [IoSlice::new(&bytes)];
            match sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => patience.lasts()?,
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(Failure::Gone),
                Err(error) => return Err(Failure::system("telling the other server")(error)),
            }
        }
    }

    /// What the other one says next, and the descriptors that come with it.
    ///
    /// # Errors
    /// [`Failure::Refused`] if it refuses, [`Failure::Gone`] if it has ended, [`Failure::Nonsense`], or what ends the
    /// patience.
    pub(super) fn receive(&mut self, patience: &Patience) -> Result<(What, Vec<OwnedFd>), Failure> {
        loop {
            match self.receive_once() {
                Err(Errno::AGAIN | Errno::INTR) => patience.lasts()?,
                // It is told once, before what was said.
                Err(Errno::CONNRESET) => {}
                Err(error) => return Err(Failure::system("hearing the other server")(error)),
                Ok(None) => return Err(Failure::Gone),
                Ok(Some(received)) => return self.understand(received),
            }
        }
    }

    /// Why the other one is gone, if it has said so. To be called when nothing else that it has said counts.
    pub(super) fn why_gone(&mut self, failure: Failure) -> Failure {
        if matches!(failure, Failure::Gone) {
            while let Some(said) = self.leftover() {
                if let Err(refused @ Failure::Refused(_)) = said {
                    return refused;
                }
            }
        }
        failure
    }

    /// Hears and says nothing any more. From then on the other one's packets fail, but those that it has sent can still be
    /// [taken](Packets::leftover).
    pub(super) fn shut(&self) {
        // Fails if the other end is gone: then it cannot say anything either.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// What the other one had said before [`Packets::shut`]; None when that was all.
    pub(super) fn leftover(&mut self) -> Option<Result<What, Failure>> {
        loop {
            match self.receive_once() {
                // An error of the connection is told once, before what was said.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Ok(Some(received)) => return Some(self.understand(received).map(|(what, _)| what)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// None at the end.
    fn receive_once(&mut self) -> Result<Option<Received>, Errno> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let received = recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let is_cut = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        let is_end = received.bytes == 0 && descriptors.is_empty();
        Ok((!is_end).then_some(Received { bytes: received.bytes, descriptors, is_cut }))
    }

    fn understand(&self, received: Received) -> Result<(What, Vec<OwnedFd>), Failure> {
        let Received { bytes, descriptors, is_cut } = received;
        if is_cut {
            let why = "a packet is cut short, or there are too few descriptors (`ulimit -n`)";
            return Err(HandoverError::Nonsense(why).into());
        }
        match Packet::what_of(&self.buffer[..bytes])? {
            What::Refusal(refusal) => Err(Failure::Refused(refusal.why)),
            what => Ok((what, descriptors)),
        }
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

struct Received {
    bytes: usize,
    descriptors: Vec<OwnedFd>,
    is_cut: bool,
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, send, socketpair};

    use super::*;
    use crate::handover::{Ready, Refusal, Taken};
    use crate::io::clock::Clock;

    fn pair() -> (Packets, Packets) {
        let kind = SocketType::SEQPACKET;
        let (one, other) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        (Packets::over(one).unwrap(), Packets::over(other).unwrap())
    }

    fn patience(time: Duration) -> Patience {
        Patience::of(Clock::start(), time, &Arc::new(AtomicBool::new(false)))
    }

    #[test]
    fn descriptors_come_with_their_packet() {
        let (one, mut other) = pair();
        let patience = patience(Duration::from_secs(20));
        let file = File::open("/dev/null").unwrap();
        let many = vec![file.as_fd(); DESCRIPTORS_MAX];
        one.send(What::Ready(Ready {}), &many, &patience).unwrap();
        one.send(What::Ready(Ready {}), &[], &patience).unwrap();
        let counts = [(); 2].map(|()| other.receive(&patience).unwrap().1.len());
        assert_eq!(counts, [DESCRIPTORS_MAX, 0]);
        assert_eq!(
            other.other().unwrap().process,
            rustix::process::getpid().as_raw_nonzero().get()
        );
        one.send(What::Refusal(Refusal { why: "so".to_owned() }), &[], &patience).unwrap();
        assert!(matches!(other.receive(&patience), Err(Failure::Refused(why)) if why == "so"));
        drop(one);
        assert!(matches!(other.receive(&patience), Err(Failure::Gone)));
        assert!(matches!(other.send(What::Ready(Ready {}), &[], &patience), Err(Failure::Gone)));
    }

    /// To whom all belongs hangs on this.
    #[test]
    fn what_was_said_before_it_was_shut_counts_and_nothing_can_be_said_after() {
        let in_time = patience(Duration::from_secs(20));
        for said_before in [true, false] {
            let (mut old, new) = pair();
            if said_before {
                new.send(What::Taken(Taken {}), &[], &in_time).unwrap();
            }
            old.shut();
            let said_after = new.send(What::Taken(Taken {}), &[], &in_time);
            assert!(matches!(said_after, Err(Failure::Gone)));
            let left = old.leftover();
            assert_eq!(matches!(left, Some(Ok(What::Taken(_)))), said_before);
            assert!(old.leftover().is_none());
        }
        // With an error of the connection before it: what we have said was not read.
        let (mut old, new) = pair();
        old.send(What::Ready(Ready {}), &[], &in_time).unwrap();
        new.send(What::Taken(Taken {}), &[], &in_time).unwrap();
        drop(new);
        old.shut();
        assert!(matches!(old.leftover(), Some(Ok(What::Taken(_)))));
    }

    #[test]
    fn nonsense_is_told_and_patience_ends() {
        let (one, mut other) = pair();
        let in_time = patience(Duration::from_secs(20));
        for nonsense in [&[0xff; 100][..], b"GET / HTTP/1.0\r\n", &[0x7a, 0]] {
            send(&one, nonsense, SendFlags::empty()).unwrap();
            assert!(matches!(other.receive(&in_time), Err(Failure::Nonsense(_))));
        }
        let short = patience(Duration::from_millis(1));
        assert!(matches!(other.receive(&short), Err(Failure::TimeOver)));
        // Nobody reads: until the kernel takes no more.
        let full = (0..100_000).find_map(|_| {
            let refusal = Refusal { why: "x".repeat(10_000) };
            one.send(What::Refusal(refusal), &[], &patience(Duration::from_millis(1))).err()
        });
        assert!(matches!(full, Some(Failure::TimeOver)));
        let given_up =
            Patience::of(Clock::start(), Duration::from_secs(20), &Arc::new(AtomicBool::new(true)));
        assert!(matches!(other.receive(&given_up), Ok(_) | Err(Failure::Refused(_))));
        let (_quiet, mut other) = pair();
        assert!(matches!(other.receive(&given_up), Err(Failure::Ending)));
    }
}
