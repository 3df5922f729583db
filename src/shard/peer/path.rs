//! The way to a peer through its TCP connection: what may be under way on it, and how fast it is fed.
//!
//! Owns window and pacer, which see every byte that leaves, once; and the peer's timer. Must never look at a
//! socket.

use std::time::Duration;

use crate::log::CHUNK_BYTES_MAX;
use crate::session::{Session, State};
use crate::shard::pacing::{
    BATCH_BYTES_MAX, PaceCounters, Pacer, Permit, SACK_BYTES, TcpSample, Wants,
};
use crate::shard::piece::Piece;
use crate::shard::window::Window;
use crate::types::{Pace, Time};
use crate::wire;

/// More than a few UPDATEs, in bytes.
const FED_BYTES_MIN: u64 = 4 << 10;

/// What a peer that does not reassemble is let leave unread, and more would break it, in bytes.
const UNREAD_AT_MOST: u64 = 48 << 10;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Kind {
    /// HELLO, KEEPALIVEs, commands: they overtake UPDATEs.
    Control,
    /// UPDATEs.
    Updates,
    /// What a short SEND left of either.
    Rest,
}

/// What a peer's timer has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Due {
    /// It was not the last one that was set.
    Nothing,
    /// TCP is to be asked whether all is acknowledged.
    Poll,
    /// The writer may go on.
    Write,
    /// Both.
    PollAndWrite,
}

/// The path to one peer.
pub(super) struct Path {
    window: Window,
    pacer: Pacer,
    /// Until then nothing may pass, or no UPDATE.
    held_until: Time,
    /// When the timer goes off that was set.
    timer: Time,
    bytes_acked: u64,
    is_cautious: bool,
    /// UPDATEs sent, in bytes, and when the last ones were.
    fed_bytes: u64,
    fed_at: Time,
}

impl Path {
    /// A path on which nothing was sent. A peer that failed before is fed carefully; one that would answer
    /// KEEPALIVEs gets none as pads.
    pub(super) fn new(pace: Pace, pads: bool, is_cautious: bool) -> Path {
        Path {
            window: Window::default(),
            pacer: Pacer::new(pace, pads, is_cautious),
            held_until: Time(0),
            timer: Time::NEVER,
            bytes_acked: 0,
            is_cautious,
            fed_bytes: 0,
            fed_at: Time::default(),
        }
    }

    /// Another process has sent so many bytes, of which so many may be unread.
    pub(super) fn restore(&mut self, now: Time, bytes_sent: u64, bytes_unread: u64) {
        self.window = Window::restored(bytes_sent);
        self.pacer.restore(now, bytes_unread);
    }

    /// Bytes sent, and those that may be unread: as many as fit a socket, if nobody counts.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let sent = self.window.sent_bytes();
        (sent, self.pacer.bytes_unread().unwrap_or(sent.min(UNREAD_AT_MOST)))
    }

    /// Whether its peer failed before.
    pub(super) fn is_cautious(&self) -> bool {
        self.is_cautious
    }

    /// Whether [`Path::permit`] needs to know how TCP stands.
    pub(super) fn wants_sample(&self, now: Time, session: &Session, wants: Wants) -> bool {
        let is_held = now < self.held_until && wants.control_bytes == 0;
        let updates = wants.updates && session.state() == State::Established;
        !is_held
            && ((updates && self.window.wants_sample(now, session.keepalive_interval_s()))
                || (!session.peer_reassembles() && self.pacer.wants_sample(now, wants)))
    }

    /// What the next SEND may carry, and when. None if there is nothing to do, or a timer is set already.
    /// For peers that reassemble this is about UPDATEs alone.
    pub(super) fn permit(
        &mut self,
        now: Time,
        session: &Session,
        sample: &TcpSample,
        wants: Wants,
    ) -> Option<Permit> {
        let is_control = wants.control_bytes > 0;
        if now < self.held_until && !is_control {
            return None;
        }
        let mut room = usize::MAX;
        if wants.updates && !is_control {
            match self.window.permit(now, session.keepalive_interval_s(), sample) {
                Permit::Batch { bytes_max } => room = bytes_max,
                wait => return Some(self.hold(wait)),
            }
        }
        if session.peer_reassembles() {
            return wants.updates.then(|| Permit::Batch { bytes_max: room.min(CHUNK_BYTES_MAX) });
        }
        let permit = match self.pacer.permit(now, sample, wants)? {
            Permit::Batch { bytes_max } => Permit::Batch { bytes_max: bytes_max.min(room) },
            Permit::Slices { slice_bytes, bytes_max } => match bytes_max.min(room) {
                bytes_max if bytes_max < 2 * slice_bytes => {
                    let segment = (slice_bytes - SACK_BYTES).min(BATCH_BYTES_MAX);
                    Permit::Batch { bytes_max: bytes_max.min(segment) }
                }
                bytes_max => Permit::Slices { slice_bytes, bytes_max },
            },
            other => other,
        };
        Some(self.hold(permit))
    }

    /// Something leaves. The rest of a short SEND was counted with what went out of it.
    pub(super) fn sent(&mut self, now: Time, session: &Session, piece: &Piece, kind: Kind) {
        if kind == Kind::Rest {
            return;
        }
        let bytes = piece.as_slice();
        self.window.sent(bytes.len());
        if session.peer_reassembles() {
            return;
        }
        if kind == Kind::Updates {
            self.fed_bytes += bytes.len() as u64;
            self.fed_at = now;
        }
        let routes = match kind == Kind::Updates && self.pacer.counts_routes() {
            true => wire::frames(bytes).count(),
            false => 0,
        };
        self.pacer.sent(now, bytes.len(), routes);
    }

    /// The peer has sent something.
    pub(super) fn heard(&mut self) {
        self.pacer.heard();
    }

    /// The SEND is done, and UPDATEs are pending or not.
    pub(super) fn completed(&mut self, now: Time, has_updates: bool) {
        self.pacer.completed(now, has_updates);
    }

    /// Whether a frame is to be sent though there may be none.
    pub(super) fn wants_small(&self) -> bool {
        self.pacer.wants_small()
    }

    /// Whether no UPDATE can pass before [`Path::polled`] says so.
    pub(super) fn waits(&self) -> bool {
        self.pacer.waits()
    }

    /// UPDATEs are held back until others had their turn.
    pub(super) fn go_on_later(&mut self, now: Time) {
        self.held_until = now.after(Duration::from_micros(1));
    }

    /// Whether it was sent more than a few UPDATEs within this time.
    pub(super) fn was_fed(&self, now: Time, within: Duration) -> bool {
        self.fed_bytes > FED_BYTES_MIN && now.since(self.fed_at) < within
    }

    /// Whether [`Path::polled`] wants a sample whatever is acknowledged.
    pub(super) fn wants_look(&self) -> bool {
        self.pacer.wants_look()
    }

    /// Whether all is acknowledged: how TCP stands then. True if the writer may go on.
    pub(super) fn polled(
        &mut self,
        now: Time,
        session: &Session,
        sample: Option<&TcpSample>,
    ) -> bool {
        if let Some(sample) = sample {
            self.window.take(now, session.keepalive_interval_s(), sample);
        }
        self.pacer.polled(now, sample)
    }

    /// When a timer is to go off, if none is set that does so earlier.
    pub(super) fn take_timer(&mut self, now: Time) -> Option<Time> {
        let held_until = if self.held_until > now { self.held_until } else { Time::NEVER };
        let at = held_until.min(self.pacer.poll_at());
        if at >= self.timer {
            return None;
        }
        self.timer = at;
        Some(at)
    }

    /// The timer that was set for `at` goes off.
    pub(super) fn on_timer(&mut self, now: Time, at: Time) -> Due {
        if at != self.timer {
            return Due::Nothing;
        }
        self.timer = Time::NEVER;
        let may_go_on = self.held_until <= now && self.held_until > Time(0);
        match (self.pacer.poll_at() <= now, may_go_on) {
            (true, true) => {
                self.held_until = Time(0);
                Due::PollAndWrite
            }
            (true, false) => Due::Poll,
            (false, true) => Due::Write,
            (false, false) => Due::Nothing,
        }
    }

    /// What was counted of the pacer's doings.
    pub(super) fn counters(&self) -> &PaceCounters {
        self.pacer.counters()
    }

    /// A piece was filled up by so many KEEPALIVEs.
    pub(super) fn padded(&mut self, pads: usize) {
        self.pacer.padded(pads);
    }

    /// Whether the peer's TCP has acknowledged more than before, if the sample tells.
    pub(super) fn is_progress(&mut self, sample: &TcpSample) -> bool {
        sample.is_known()
            && std::mem::replace(&mut self.bytes_acked, sample.bytes_acked) != sample.bytes_acked
    }

    fn hold(&mut self, permit: Permit) -> Permit {
        if let Permit::Wait(until) = permit {
            self.held_until = until;
        }
        permit
    }
}
