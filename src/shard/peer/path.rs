//! The way to a peer through its TCP connection: what may be under way on it, and how fast it is fed.
//!
//! Owns window and pacer, which see every byte that leaves, once. Must never look at a socket.

use crate::log::CHUNK_BYTES_MAX;
use crate::session::{Session, State};
use crate::shard::pacing::{Pacer, Permit, TcpSample};
use crate::shard::piece::Piece;
use crate::shard::window::Window;
use crate::types::{Pace, Time};
use crate::wire;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Kind {
    /// HELLO, KEEPALIVEs, commands: they overtake UPDATEs, and nothing holds them back.
    Control,
    /// UPDATEs.
    Updates,
    /// What a short SEND left of either.
    Rest,
}

/// The path to one peer.
pub(super) struct Path {
    window: Window,
    pacer: Pacer,
    /// Until then no UPDATE may pass, and a timer is set.
    held_until: Time,
    bytes_acked: u64,
}

impl Path {
    /// A path on which nothing was sent.
    pub(super) fn new(pace: Pace) -> Path {
        Path {
            window: Window::default(),
            pacer: Pacer::new(pace),
            held_until: Time(0),
            bytes_acked: 0,
        }
    }

    /// Whether [`Path::permit`] needs to know how TCP stands.
    pub(super) fn wants_sample(&self, now: Time, session: &Session) -> bool {
        session.state() == State::Established
            && now >= self.held_until
            && (self.window.wants_sample(now, session.keepalive_interval_s())
                || (!session.peer_reassembles() && self.pacer.wants_sample(now)))
    }

    /// What the next SEND of UPDATEs may carry, and when. None if a timer is set already.
    pub(super) fn permit(
        &mut self,
        now: Time,
        session: &Session,
        sample: &TcpSample,
    ) -> Option<Permit> {
        if now < self.held_until {
            return None;
        }
        let mut permit = self.window.permit(now, session.keepalive_interval_s(), sample);
        if let Permit::Batch { bytes_max: room } = permit {
            permit = match session.peer_reassembles() {
                true => Permit::Batch { bytes_max: room.min(CHUNK_BYTES_MAX) },
                false => match self.pacer.permit(now, sample) {
                    Permit::Batch { bytes_max } => Permit::Batch { bytes_max: bytes_max.min(room) },
                    wait @ Permit::Wait(_) => wait,
                },
            };
        }
        if let Permit::Wait(until) = permit {
            self.held_until = until;
        }
        Some(permit)
    }

    /// Something leaves. The rest of a short SEND was counted with what went out of it.
    pub(super) fn sent(&mut self, now: Time, piece: &Piece, kind: Kind) {
        if kind == Kind::Rest {
            return;
        }
        let bytes = piece.as_slice();
        self.window.sent(bytes.len());
        if kind == Kind::Updates && piece.end_of_record && self.pacer.counts_routes() {
            self.pacer.sent(now, wire::frames(bytes).count());
        }
    }

    /// Whether the peer's TCP has acknowledged more than before, if the sample tells.
    pub(super) fn is_progress(&mut self, sample: &TcpSample) -> bool {
        let is_known = sample.snd_mss > 0;
        is_known
            && std::mem::replace(&mut self.bytes_acked, sample.bytes_acked) != sample.bytes_acked
    }
}
