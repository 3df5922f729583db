//! One session, driven by any bytes, events and times, as the driver would: it never goes back, what is over
//! stays over, nothing is delivered outside ESTABLISHED, and its deadlines are where the protocol has them.

use std::time::Duration;

use metalbond_uring::internals::session::{
    CloseReason, Direction, Session, SessionConfig, State, Verdict,
};
use metalbond_uring::internals::wire::{Deframer, Fault, Hello, Message, Reaction, decode};
use metalbond_uring::types::{Time, Vni};

use crate::input::Input;

/// The protocol's times (sections 3 and 4), written down a second time.
const HANDSHAKE_S: u64 = 10;
const SEND_HOLD_S: u64 = 480;
const INTERVAL_S_MAX: u32 = 86_400;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut world = World::new(&mut input);
    while !input.0.is_empty() {
        world.step(&mut input);
        world.check();
    }
}

impl Input<'_> {
    fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}

struct World {
    now: Time,
    config: SessionConfig,
    session: Session,
    deframer: Deframer,
    offered_s: u32,
    is_paused: bool,
    /// Since when it has taken nothing of what is pending.
    pending_since: Option<Time>,
    /// Each is said at most once.
    hellos: u32,
    established: u32,
    closes: u32,
}

impl World {
    fn new(input: &mut Input) -> World {
        let chosen = input.byte();
        let config = SessionConfig {
            direction: if chosen & 1 == 0 { Direction::Incoming } else { Direction::Outgoing },
            keepalive_interval_s: if chosen & 2 == 0 { 5 } else { input.number() },
            is_server: chosen & 4 != 0,
            reassembles: chosen & 8 != 0,
            reflector: chosen & 16 != 0,
        };
        let now = Time(if chosen & 32 == 0 { 0 } else { 1 << 62 });
        let session = Session::new(&config, now);
        let offered_s = session.keepalive_interval_s();
        assert!((1..=INTERVAL_S_MAX).contains(&offered_s), "offers {offered_s} s");
        World {
            now,
            config,
            session,
            deframer: Deframer::new(),
            offered_s,
            is_paused: false,
            pending_since: None,
            hellos: 0,
            established: 0,
            closes: 0,
        }
    }

    fn step(&mut self, input: &mut Input) {
        let what = input.byte();
        match what % 16 {
            0 => self.act(|session, now| session.connected(now)),
            1 => self.pass(1 << (input.byte() % 40)),
            2 => self.until_deadline(),
            3 => self.pause(),
            4 => self.resume(),
            5 => self.pending(),
            6 => {
                self.session.send_progressed(self.now);
                self.pending_since = self.pending_since.map(|_| self.now);
            }
            7 => {
                self.session.send_idle();
                self.pending_since = None;
            }
            8 if what == 0xf8 => self.act(|session, _| session.on_eof()),
            9 if what == 0xf9 => self.act(|session, _| session.close()),
            10 => {
                let hello = Hello {
                    keepalive_interval_s: u32::from(input.byte()),
                    is_server: what & 16 != 0,
                    reassembles: what & 32 != 0,
                };
                self.message(&Message::Hello(hello));
            }
            11 => self.message(&Message::Keepalive),
            12 => self.message(&Message::Subscribe(Vni(7))),
            13 => self.message(&Message::Unsubscribe(Vni(7))),
            _ => {
                let count = usize::from(input.byte());
                self.receive(input.bytes(count));
            }
        }
    }

    /// What the connection's reader does with bytes.
    fn receive(&mut self, mut bytes: &[u8]) {
        while !self.session.state().is_over() {
            let mut deframer = std::mem::take(&mut self.deframer);
            let next = deframer.next(&mut bytes);
            match next.map(|frame| frame.map(decode)) {
                Ok(None) => {
                    self.deframer = deframer;
                    return;
                }
                Ok(Some(Ok(message))) => self.message(&message),
                // What makes no sense is heard, and must be allowed where it is said.
                Ok(Some(Err(error))) => match Fault::from(error).reaction() {
                    Reaction::Close => self.act(|session, _| session.on_fault()),
                    Reaction::DropMessage => self.act(|session, now| session.on_update(now)),
                },
                Err(_) => self.act(|session, _| session.on_fault()),
            }
            self.deframer = deframer;
        }
    }

    fn message(&mut self, message: &Message) {
        let before = self.session.state();
        let verdict = self.session.on_message(self.now, message);
        if verdict == Verdict::Deliver {
            assert_eq!(before, State::Established, "delivered {message:?}");
            let asks = matches!(message, Message::Subscribe(_) | Message::Unsubscribe(_));
            let at_client = self.config.direction == Direction::Outgoing && !self.config.reflector;
            assert!(!(asks && at_client), "a client was asked, and delivered {message:?}");
            assert!(!matches!(message, Message::Hello(_) | Message::Keepalive), "{message:?}");
        }
        self.judge(before, verdict);
    }

    fn act(&mut self, what: impl FnOnce(&mut Session, Time) -> Verdict) {
        let before = self.session.state();
        let verdict = what(&mut self.session, self.now);
        self.judge(before, verdict);
    }

    /// What holds after whatever has happened.
    fn judge(&mut self, before: State, verdict: Verdict) {
        let after = self.session.state();
        if before.is_over() {
            assert_eq!((after, verdict), (before, Verdict::Ignore), "over is over");
        }
        let closes = matches!(verdict, Verdict::Close(_));
        assert_eq!(
            closes,
            !before.is_over() && after.is_over(),
            "{before} to {after}: {verdict:?}"
        );
        assert!(after.is_over() || before as u8 <= after as u8, "back from {before} to {after}");
        let retries = after == State::Retry;
        assert!(!retries || self.config.direction == Direction::Outgoing, "nobody to dial again");
        self.closes += u32::from(closes);
        self.hellos += u32::from(matches!(verdict, Verdict::SendHello(_)));
        self.established += u32::from(matches!(verdict, Verdict::Established { .. }));
        assert!(self.closes <= 1 && self.hellos <= 1 && self.established <= 1, "said twice");
        assert_eq!(self.established == 1 && !after.is_over(), after == State::Established);
        if let Verdict::SendHello(hello) = verdict {
            assert!((1..=self.offered_s).contains(&hello.keepalive_interval_s), "{hello:?}");
        }
    }

    fn pass(&mut self, micros: u64) {
        // Deadlines that lie 2.5 days ahead still have to be in the range of a time.
        if self.now.0 < u64::MAX / 2 {
            self.now = self.now.after(Duration::from_micros(micros));
        }
        self.timers();
    }

    fn until_deadline(&mut self) {
        let deadline = self.session.next_deadline();
        if deadline != Time::NEVER {
            let is_due = deadline <= self.now;
            self.now = self.now.max(deadline);
            let before = self.session.clone();
            let verdict = self.session.on_timer(self.now);
            assert_ne!(
                verdict,
                Verdict::Ignore,
                "woken for nothing, due before: {is_due}, {before:?}"
            );
            self.judge(before.state(), verdict);
        }
        self.timers();
    }

    /// As the driver does: until nothing is due.
    fn timers(&mut self) {
        for round in 0.. {
            assert!(round < 4, "timers that never rest: {:?}", self.session);
            let (before, due) = (self.session.state(), self.session.next_deadline() <= self.now);
            let verdict = self.session.on_timer(self.now);
            assert_eq!(due, verdict != Verdict::Ignore, "{:?} at {:?}", self.session, self.now);
            self.judge(before, verdict);
            if let Verdict::Close(reason) = verdict {
                use CloseReason::{HandshakeTimeout, HoldTimeout, SendHoldTimeout};
                let by_time = [HandshakeTimeout, HoldTimeout, SendHoldTimeout].contains(&reason);
                assert!(by_time, "{reason} by a timer");
                let waits = self.is_paused && reason != SendHoldTimeout;
                assert!(!waits, "{reason}, though we did not read");
            }
            if !due || self.session.state().is_over() {
                return;
            }
        }
    }

    fn pending(&mut self) {
        self.session.send_pending(self.now);
        if !self.session.state().is_over() {
            self.pending_since.get_or_insert(self.now);
        }
    }

    fn pause(&mut self) {
        self.session.pause(self.now);
        self.is_paused = true;
    }

    fn resume(&mut self) {
        self.session.resume(self.now);
        self.is_paused = false;
    }

    /// The deadline, seen from outside.
    fn check(&self) {
        let (state, deadline) = (self.session.state(), self.session.next_deadline());
        if state.is_over() {
            assert_eq!(deadline, Time::NEVER, "{:?}", self.session);
            return;
        }
        let interval_s = self.session.keepalive_interval_s();
        assert!((1..=self.offered_s).contains(&interval_s), "{interval_s} s");
        let ahead = |seconds: u64| self.now.after(Duration::from_secs(seconds));
        if !self.is_paused {
            // Whoever says nothing is gone after the handshake's time, or the hold time.
            let hold_s = u64::from(interval_s) * 5 / 2 + 1;
            let latest = if state == State::Established { hold_s } else { HANDSHAKE_S.max(hold_s) };
            assert!(deadline <= ahead(latest), "{state}: nothing ends it: {:?}", self.session);
        } else if state == State::Established && self.config.direction == Direction::Incoming {
            // It waits for our answers.
            let latest = u64::from(interval_s).max(1);
            assert!(deadline <= ahead(latest), "no KEEPALIVE while paused: {:?}", self.session);
        }
        if let Some(since) = self.pending_since {
            let latest = since.after(Duration::from_secs(SEND_HOLD_S));
            assert!(deadline <= latest, "it may take nothing for ever: {:?}", self.session);
        }
    }
}
