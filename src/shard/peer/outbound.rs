//! What a peer is to be sent: what is owed to it, the subscriptions with something to send, and the one
//! SEND that is under way.
//!
//! Owns the order: what a short SEND left, control frames, then UPDATEs; and [`Outbound::send`], through
//! which every byte leaves. Must never have two SENDs under way.

mod handed_over;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::commands::Commands;
use super::link::Link;
use super::path::{Due, Kind, Path};
use crate::log::CHUNK_BYTES_MAX;
use crate::shard::groups::SubIndex;
use crate::shard::pacing::{
    BATCH_BYTES_MAX, PaceCounters, Permit, SMALL_BYTES_MAX, TcpSample, Wants,
};
use crate::shard::piece::{Gathered, Piece};
use crate::types::{Pace, Time};
use crate::wire::{Hello, KEEPALIVE_FRAME, Message};

/// How often a SEND that does not end is asked about.
pub(in crate::shard) const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);

/// A KEEPALIVE that answers none, for peers of our kind: all others ignore a KEEPALIVE's payload, so
/// a client that counts answers (a barrier) is not misled.
const KEEPALIVE_UNASKED: [u8; 6] = [1, 0, 2, 2, 0x08, 0x01];

/// KEEPALIVEs that go out together, in bytes: they fit into the smallest segment.
const KEEPALIVE_BYTES_MAX: usize = 400;

/// Bytes of a HELLO at most.
const HELLO_BYTES_MAX: usize = 32;

/// What the peer's writer is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writer {
    /// It waits for something to send.
    Waits,
    /// It is to go on when its turn comes in the shard's list of writers.
    Listed,
    /// It was told to go on and will ask, or a SEND is under way.
    Busy,
}

/// The output of one peer.
pub(in crate::shard) struct Outbound {
    hello: Option<Hello>,
    keepalives_owed: u32,
    /// KEEPALIVEs that answer none, while we do not read what to answer.
    keepalives_unasked: u32,
    commands: Option<Box<Commands>>,
    /// Whether a KEEPALIVE is owed behind all that is pending.
    owes_mark: bool,
    /// Subscriptions with something to send, in the order of their turns; with their epochs, since one
    /// may have been removed meanwhile.
    pending: VecDeque<(SubIndex, u64)>,
    writer: Writer,
    /// Whether the peer stands in the shard's list, be it for nothing.
    is_in_list: bool,
    /// The SEND that the kernel works on, or what a short one left.
    in_flight: Option<Piece>,
    rest: Option<Piece>,
    in_flight_since: Time,
    is_control: bool,
    updates_sent: u64,
    path: Path,
}

impl Outbound {
    /// Nothing to send. `commands` says whether the peer is told more than UPDATEs and answers.
    /// A peer that failed before is fed carefully.
    pub(crate) fn new(now: Time, pace: Pace, commands: bool, is_cautious: bool) -> Outbound {
        Outbound {
            hello: None,
            keepalives_owed: 0,
            keepalives_unasked: 0,
            commands: commands.then(Box::default),
            owes_mark: false,
            pending: VecDeque::new(),
            writer: Writer::Waits,
            is_in_list: false,
            in_flight: None,
            rest: None,
            in_flight_since: now,
            is_control: false,
            updates_sent: 0,
            path: Path::new(pace, !commands, is_cautious),
        }
    }

    /// A HELLO is to be sent.
    pub(crate) fn owe_hello(&mut self, hello: Hello) {
        self.hello = Some(hello);
    }

    /// A KEEPALIVE is to be sent.
    pub(crate) fn owe_keepalive(&mut self) {
        self.keepalives_owed = self.keepalives_owed.saturating_add(1);
    }

    /// A KEEPALIVE is to be sent that the peer shall not take for an answer.
    pub(crate) fn owe_unasked_keepalive(&mut self) {
        self.keepalives_unasked = self.keepalives_unasked.saturating_add(1);
    }

    /// A KEEPALIVE is to be sent behind all that is pending.
    pub(crate) fn owe_mark(&mut self) {
        self.owes_mark = true;
    }

    /// What the peer is told besides UPDATEs, if it is told such things at all.
    pub(crate) fn commands(&mut self) -> Option<&mut Commands> {
        self.commands.as_deref_mut()
    }

    /// A subscription has something to send.
    pub(crate) fn queue(&mut self, sub: SubIndex, epoch: u64, urgent: bool) {
        match urgent {
            true => self.pending.push_front((sub, epoch)),
            false => self.pending.push_back((sub, epoch)),
        }
    }

    /// How many subscriptions are queued, removed ones included.
    pub(crate) fn queued(&self) -> usize {
        self.pending.len()
    }

    /// Whether a subscription is queued.
    #[cfg(test)]
    pub(crate) fn is_queued(&self, sub: SubIndex, epoch: u64) -> bool {
        self.pending.contains(&(sub, epoch))
    }

    /// Forgets the queued subscriptions that are gone.
    pub(crate) fn retain(&mut self, mut is_there: impl FnMut(SubIndex, u64) -> bool) {
        self.pending.retain(|&(sub, epoch)| is_there(sub, epoch));
    }

    /// The subscription whose turn it is.
    #[inline]
    pub(crate) fn first(&self) -> Option<(SubIndex, u64)> {
        self.pending.front().copied()
    }

    /// The first subscription is gone, or has nothing to send any more.
    #[inline]
    pub(crate) fn drop_first(&mut self) {
        self.pending.pop_front();
    }

    /// The first subscription's turn is over.
    #[inline]
    pub(crate) fn end_turn(&mut self) {
        self.pending.rotate_left(1);
    }

    /// The writer is to be woken, if it waits: true if it is to be listed.
    #[inline]
    pub(crate) fn wake(&mut self) -> bool {
        if self.writer != Writer::Waits {
            return false;
        }
        self.writer = Writer::Listed;
        !std::mem::replace(&mut self.is_in_list, true)
    }

    /// The writer was taken from the list: true if it is to go on.
    #[inline]
    pub(crate) fn unlist(&mut self) -> bool {
        self.is_in_list = false;
        let is_listed = self.writer == Writer::Listed;
        if is_listed {
            self.writer = Writer::Busy;
        }
        is_listed
    }

    /// What goes before UPDATEs, if there is something: so many bytes, or one frame.
    ///
    /// # Panics
    /// If a SEND is under way.
    pub(crate) fn before_updates(
        &mut self,
        link: &Link,
        bytes_max: usize,
    ) -> Option<(Piece, Kind)> {
        assert!(self.in_flight.is_none(), "one SEND at a time");
        if let Some(rest) = self.rest.take() {
            return Some((rest, Kind::Rest));
        }
        let reassembles = link.reassembles();
        let mut bytes = Vec::new();
        // A HELLO goes alone: no KEEPALIVE may share its segment (protocol section 9).
        if let Some(hello) = self.hello.take() {
            Message::Hello(hello).encode(&mut bytes);
        } else if self.keepalives_owed + self.keepalives_unasked > 0 {
            self.take_keepalives(&mut bytes, reassembles);
        } else if let Some(commands) = &mut self.commands {
            commands.take(&mut bytes, bytes_max);
        }
        let is_any = !bytes.is_empty();
        is_any.then(|| (Piece::control(bytes, !reassembles), Kind::Control))
    }

    /// What the next SEND may carry, and when. None if there is nothing to send, or if something will
    /// tell when to ask again. For a peer that reassembles this is about UPDATEs alone.
    pub(crate) fn permit(&mut self, now: Time, link: &Link, sample: &TcpSample) -> Option<Permit> {
        let wants = self.wants(link);
        match link.session() {
            Some(session) => self.path.permit(now, session, sample, wants),
            None => wants.updates.then_some(Permit::Batch { bytes_max: CHUNK_BYTES_MAX }),
        }
    }

    /// What there is to send, the rest of a short SEND aside.
    fn wants(&self, link: &Link) -> Wants {
        let is_gate_open = self.commands.as_ref().is_none_or(|commands| commands.is_gate_open());
        let has_commands = self.commands.as_ref().is_some_and(|commands| !commands.is_empty());
        let keepalives = self.keepalives_owed.saturating_add(self.keepalives_unasked) as usize;
        let control_bytes = if link.reassembles() {
            0
        } else if self.hello.is_some() {
            HELLO_BYTES_MAX
        } else if keepalives > 0 {
            keepalives.saturating_mul(KEEPALIVE_FRAME.len()).min(SMALL_BYTES_MAX)
        } else if has_commands && is_gate_open {
            BATCH_BYTES_MAX
        } else if self.owes_mark && self.pending.is_empty() {
            KEEPALIVE_FRAME.len()
        } else {
            0
        };
        Wants { control_bytes, updates: !self.pending.is_empty() && is_gate_open }
    }

    /// Whether a short SEND has left something.
    pub(crate) fn has_rest(&self) -> bool {
        self.rest.is_some()
    }

    /// One KEEPALIVE: one that is owed, if there is one.
    pub(crate) fn one_keepalive(&mut self) -> (Piece, Kind) {
        match self.keepalives_unasked {
            0 => self.keepalives_owed = self.keepalives_owed.saturating_sub(1),
            _ => self.keepalives_unasked -= 1,
        }
        if let Some(commands) = &mut self.commands {
            commands.sent_keepalives(1);
        }
        (Piece::control(KEEPALIVE_FRAME.to_vec(), true), Kind::Control)
    }

    /// What goes behind all UPDATEs, if there is something.
    pub(crate) fn behind_updates(&mut self, link: &Link) -> Option<(Piece, Kind)> {
        let is_due = self.pending.is_empty() && std::mem::take(&mut self.owes_mark);
        let end_of_record = !link.reassembles();
        is_due.then(|| (Piece::control(KEEPALIVE_FRAME.to_vec(), end_of_record), Kind::Control))
    }

    /// Whether [`Outbound::permit`] needs to know how TCP stands.
    pub(crate) fn wants_sample(&self, now: Time, link: &Link) -> bool {
        let wants = self.wants(link);
        self.rest.is_none()
            && link.session().is_some_and(|session| self.path.wants_sample(now, session, wants))
    }

    /// Whether [`Outbound::polled`] wants a sample whatever is acknowledged.
    pub(crate) fn wants_look(&self) -> bool {
        self.path.wants_look()
    }

    /// Whether all that the kernel was given is acknowledged: how TCP stands then. True if the writer may
    /// go on.
    pub(crate) fn polled(&mut self, now: Time, link: &Link, sample: Option<&TcpSample>) -> bool {
        // The kernel may not have yet what is under way.
        let sample = sample.filter(|_| self.in_flight.is_none() && self.rest.is_none());
        link.session().is_some_and(|session| self.path.polled(now, session, sample))
    }

    /// When a timer is to go off, if none is set that does so earlier.
    pub(crate) fn take_timer(&mut self, now: Time) -> Option<Time> {
        self.path.take_timer(now)
    }

    /// The timer that was set for `at` goes off.
    pub(crate) fn on_timer(&mut self, now: Time, at: Time) -> Due {
        self.path.on_timer(now, at)
    }

    /// UPDATEs given to SENDs.
    pub(crate) fn updates_sent(&self) -> u64 {
        self.updates_sent
    }

    /// What was counted of the pacer's doings.
    pub(crate) fn pace_counters(&self) -> &PaceCounters {
        self.path.counters()
    }

    /// A piece was filled up by so many KEEPALIVEs.
    pub(crate) fn padded(&mut self, pads: usize) {
        self.path.padded(pads);
    }

    /// Whether it was sent more than a few UPDATEs within this time.
    pub(crate) fn was_fed(&self, now: Time, within: Duration) -> bool {
        self.path.was_fed(now, within)
    }

    /// Whether the peer's TCP has acknowledged more than before, if the sample tells.
    pub(crate) fn is_progress(&mut self, sample: &TcpSample) -> bool {
        self.path.is_progress(sample)
    }

    /// A SEND begins: the one exit, whatever is sent.
    pub(crate) fn send(&mut self, now: Time, link: &Link, (piece, kind): (Piece, Kind)) -> Piece {
        if let Some(session) = link.session() {
            self.path.sent(now, session, &piece, kind);
        }
        self.updates_sent += u64::from(piece.updates);
        if kind != Kind::Rest {
            self.is_control = kind == Kind::Control;
            let bytes = piece.as_slice().len();
            if piece.end_of_record
                && let Some(commands) = &mut self.commands
                && commands.pass_gate(bytes)
            {
                self.owe_keepalive();
            }
        }
        self.writer = Writer::Busy;
        self.in_flight_since = now;
        self.in_flight = Some(piece.clone());
        piece
    }

    /// Of the SEND under way, `bytes` went out. Returns the buffer that it was gathered in, if it is
    /// used no more.
    ///
    /// # Panics
    /// If no SEND is under way.
    pub(crate) fn sent(&mut self, now: Time, bytes: usize) -> Option<Rc<Gathered>> {
        let piece = self.in_flight.take().expect("reported once for each SEND");
        let gathered;
        (self.rest, gathered) = piece.rest(bytes);
        self.writer = Writer::Waits;
        if self.rest.is_none() {
            self.path.completed(now, !self.pending.is_empty());
        }
        gathered
    }

    /// The peer has sent something.
    pub(crate) fn heard(&mut self) {
        self.path.heard();
    }

    /// Whether the writer may go on: not while an answer is waited for, unless there is more than UPDATEs.
    pub(crate) fn may_go_on(&self) -> bool {
        !self.path.waits()
            || self.rest.is_some()
            || self.hello.is_some()
            || self.keepalives_owed > 0
            || self.keepalives_unasked > 0
            || self.commands.is_some()
    }

    /// Whether a frame is to be sent though there may be none.
    pub(crate) fn wants_small(&self) -> bool {
        self.path.wants_small()
    }

    /// Whether the last SEND was of control frames: that the kernel takes them says nothing of the
    /// UPDATEs that wait.
    pub(crate) fn was_control(&self) -> bool {
        self.is_control
    }

    /// It did enough for now: others go on first.
    pub(crate) fn go_on_later(&mut self, now: Time) {
        self.path.go_on_later(now);
    }

    /// Nothing can be sent now: the writer waits.
    pub(crate) fn idle(&mut self) {
        self.writer = Writer::Waits;
    }

    /// The SEND under way failed.
    pub(crate) fn failed(&mut self) {
        self.in_flight = None;
    }

    /// Whether a SEND is under way; `is_due` if it is for so long that TCP is to be asked about it, or
    /// once more.
    pub(crate) fn in_flight(&mut self, now: Time) -> Option<bool> {
        self.in_flight.as_ref()?;
        let is_due = self.in_flight_since.after(SAMPLE_INTERVAL) <= now;
        if is_due {
            self.in_flight_since = now;
        }
        Some(is_due)
    }

    /// Whether something is to be sent, now or when its turn comes.
    pub(crate) fn has_output(&self) -> bool {
        self.hello.is_some()
            || self.keepalives_owed > 0
            || self.keepalives_unasked > 0
            || self.in_flight.is_some()
            || self.rest.is_some()
            || self.owes_mark
            || !self.pending.is_empty()
            || self.commands.as_ref().is_some_and(|commands| !commands.is_empty())
    }

    /// Nothing is sent any more. What the kernel works on stays until it has done so.
    pub(crate) fn end(&mut self) {
        self.hello = None;
        (self.keepalives_owed, self.keepalives_unasked) = (0, 0);
        self.commands = None;
        self.owes_mark = false;
        self.pending = VecDeque::new();
        self.rest = None;
        self.writer = Writer::Busy;
    }

    fn take_keepalives(&mut self, bytes: &mut Vec<u8>, reassembles: bool) {
        let bytes_max = if reassembles { KEEPALIVE_BYTES_MAX } else { SMALL_BYTES_MAX };
        while self.keepalives_unasked > 0 && bytes.len() + KEEPALIVE_UNASKED.len() <= bytes_max {
            self.keepalives_unasked -= 1;
            let frame: &[u8] = if reassembles { &KEEPALIVE_UNASKED } else { &KEEPALIVE_FRAME };
            bytes.extend_from_slice(frame);
        }
        let fitting = (bytes_max - bytes.len()) / KEEPALIVE_FRAME.len();
        let answers = self.keepalives_owed.min(fitting as u32);
        self.keepalives_owed -= answers;
        for _ in 0..answers {
            bytes.extend_from_slice(&KEEPALIVE_FRAME);
        }
        if let Some(commands) = &mut self.commands {
            commands.sent_keepalives(answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Direction, Session, SessionConfig};
    use crate::types::PeerClass;
    use crate::wire::frames;

    const NOW: Time = Time(1);

    /// A client that reassembles, if it says so, with a keepalive interval of one second.
    fn link(reassembles: bool) -> Link {
        let config = SessionConfig {
            direction: Direction::Incoming,
            keepalive_interval_s: 1,
            is_server: true,
            reassembles: true,
            reflector: true,
        };
        let mut session = Session::new(&config, NOW);
        let hello = Hello { keepalive_interval_s: 1, is_server: false, reassembles };
        let _ = session.on_message(NOW, &Message::Hello(hello));
        let _ = session.on_message(NOW, &Message::Keepalive);
        Link::Session(session)
    }

    /// Sends what goes before UPDATEs, as one SEND: its bytes.
    fn send(outbound: &mut Outbound, link: &Link) -> Vec<u8> {
        let Some(next) = outbound.before_updates(link, CHUNK_BYTES_MAX) else { return Vec::new() };
        let bytes = outbound.send(NOW, link, next).as_slice().to_vec();
        outbound.sent(NOW, bytes.len());
        bytes
    }

    #[test]
    fn a_hello_goes_alone_and_commands_behind_keepalives() {
        let mut outbound = Outbound::new(NOW, Pace::Off, true, false);
        let commands = outbound.commands().expect("it is told such things");
        commands.push(Message::Keepalive);
        outbound.owe_keepalive();
        outbound.owe_keepalive();
        let hello = Hello { keepalive_interval_s: 1, is_server: false, reassembles: true };
        outbound.owe_hello(hello);
        outbound.owe_mark();
        assert!(outbound.has_output());
        for reassembles in [true, false] {
            let link = link(reassembles);
            let lengths: Vec<usize> =
                (0..3).map(|_| frames(&send(&mut outbound, &link)).count()).collect();
            let expected = if reassembles { [1, 2, 1] } else { [0, 0, 0] };
            assert_eq!(lengths, expected);
        }
        assert!(
            outbound.behind_updates(&link(true)).is_some()
                && outbound.behind_updates(&link(true)).is_none()
        );
        assert!(!outbound.has_output());
    }

    #[test]
    fn whatever_is_owed_is_output() {
        let hello = Hello { keepalive_interval_s: 1, is_server: false, reassembles: true };
        let owe: [&dyn Fn(&mut Outbound); 6] = [
            &|outbound| outbound.owe_hello(hello),
            &|outbound| outbound.owe_keepalive(),
            &|outbound| outbound.owe_unasked_keepalive(),
            &|outbound| outbound.owe_mark(),
            &|outbound| outbound.queue(0, 1, false),
            &|outbound| outbound.commands().expect("it has some").push(Message::Keepalive),
        ];
        for owe in owe {
            let mut outbound = Outbound::new(NOW, Pace::Off, true, false);
            assert!(!outbound.has_output());
            owe(&mut outbound);
            assert!(outbound.has_output());
            outbound.end();
            assert!(!outbound.has_output());
        }
    }

    #[test]
    fn the_mark_waits_for_what_is_pending() {
        let mut outbound = Outbound::new(NOW, Pace::Off, true, false);
        outbound.owe_mark();
        outbound.queue(0, 1, false);
        assert!(outbound.behind_updates(&link(true)).is_none());
        outbound.drop_first();
        assert!(outbound.behind_updates(&link(true)).is_some());
    }

    #[test]
    fn window_and_pacer_see_control_frames_too_and_nothing_twice() {
        let link = link(true);
        let sample = TcpSample { snd_mss: 1208, ..TcpSample::default() };
        // A window of half a second at 64 kbit/s.
        for (keepalives, may_send) in [(500, true), (900, false)] {
            let mut outbound = Outbound::new(NOW, Pace::Off, false, false);
            outbound.queue(0, 1, false);
            (0..keepalives).for_each(|_| outbound.owe_keepalive());
            while let Some(next) = outbound.before_updates(&link, CHUNK_BYTES_MAX) {
                let length = outbound.send(NOW, &link, next).as_slice().len();
                // It is short, and what is left goes out next.
                outbound.sent(NOW, length.div_ceil(2));
            }
            let permit = outbound.permit(NOW, &link, &sample).expect("something is pending");
            assert_eq!(matches!(permit, Permit::Batch { .. }), may_send, "{keepalives} {permit:?}");
        }
    }

    #[test]
    fn a_local_peer_is_held_back_by_nothing() {
        let link = Link::Local(PeerClass::Own);
        let mut outbound = Outbound::new(NOW, Pace::Auto, false, false);
        outbound.queue(0, 1, false);
        (0..100_000).for_each(|_| outbound.owe_keepalive());
        while !send(&mut outbound, &link).is_empty() {}
        let permit = outbound.permit(NOW, &link, &TcpSample::default());
        assert_eq!(permit, Some(Permit::Batch { bytes_max: CHUNK_BYTES_MAX }));
        assert!(!outbound.wants_sample(NOW, &link));
    }

    #[test]
    fn a_writer_is_listed_once_and_never_while_it_sends() {
        let link = link(true);
        let mut outbound = Outbound::new(NOW, Pace::Off, false, false);
        outbound.owe_keepalive();
        assert!(outbound.wake() && !outbound.wake());
        assert!(outbound.unlist() && !outbound.unlist() && !outbound.wake());
        let next = outbound.before_updates(&link, CHUNK_BYTES_MAX).expect("a KEEPALIVE");
        let length = outbound.send(NOW, &link, next).as_slice().len();
        assert!(!outbound.wake(), "a SEND is under way");
        outbound.sent(NOW, length);
        assert!(outbound.wake());
        // It asks by itself while it is listed: then its place in the list counts for nothing, or for
        // what comes next.
        for has_more in [true, false] {
            outbound.owe_keepalive();
            let next = outbound.before_updates(&link, CHUNK_BYTES_MAX).expect("a KEEPALIVE");
            let length = outbound.send(NOW, &link, next).as_slice().len();
            if has_more {
                outbound.sent(NOW, length);
                assert!(!outbound.wake(), "it stands there already");
            }
        }
        assert!(!outbound.unlist());
    }
}
