//! One connection's session: its state, what was negotiated, and its timers.
//!
//! Owns the deadlines. Must never decide what an event does in a state: that is the table's.

use std::time::Duration;

use super::table::{CloseReason, Direction, Event, State, Step, transition};
use crate::types::{PeerClass, Time};
use crate::wire::{Hello, Message};

/// From connecting or accepting until ESTABLISHED.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How long a peer may take nothing of what is pending for it (RFC 9687).
pub(super) const SEND_HOLD_TIME: Duration = Duration::from_secs(480);

/// How long a client waits after the server's HELLO with its first KEEPALIVE: servers in the field
/// may still be making the timer that it restarts (protocol section 9). Not for those of our kind.
pub(super) const FIRST_KEEPALIVE_DELAY: Duration = Duration::from_millis(20);

/// The keepalive interval that 0 stands for, in seconds.
pub(crate) const KEEPALIVE_INTERVAL_S_DEFAULT: u32 = 5;

/// The longest keepalive interval that we offer, in seconds: a day.
pub(crate) const KEEPALIVE_INTERVAL_S_MAX: u32 = 86_400;

/// What a session is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionConfig {
    /// Who dialled.
    pub direction: Direction,
    /// What we offer, in seconds: 0 means 5, and more than a day means a day.
    pub keepalive_interval_s: u32,
    /// Outgoing: whether our HELLO declares a server. An incoming session's always does.
    pub is_server: bool,
    /// Outgoing: whether our HELLO says that we reassemble. An incoming session's says so exactly
    /// when the peer's does.
    pub reassembles: bool,
    /// Outgoing: whether SUBSCRIBE and UNSUBSCRIBE are for us; otherwise they are ignored.
    pub reflector: bool,
}

/// What the driver is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// Nothing.
    Ignore,
    /// The message just given is a SUBSCRIBE, UNSUBSCRIBE or UPDATE to act upon.
    Deliver,
    /// Send this HELLO.
    SendHello(Hello),
    /// Send a KEEPALIVE.
    SendKeepalive,
    /// The session is established from now on.
    Established {
        /// Whether to send a KEEPALIVE, before anything else.
        send_keepalive: bool,
    },
    /// Close the connection and withdraw what the peer announced. Said once.
    Close(CloseReason),
}

/// The session of one connection. A lost connection gets a new one.
#[derive(Clone, Debug)]
pub struct Session {
    state: State,
    direction: Direction,
    is_server: bool,
    reassembles: bool,
    reflector: bool,
    peer_class: PeerClass,
    peer_reassembles: bool,
    /// What we offer, and after the peer's HELLO what was negotiated; 1..=86400.
    keepalive_interval_s: u32,
    handshake_deadline: Time,
    /// The last valid message, moved on by the time that we paused. Counts after HELLO.
    heard_at: Time,
    /// When we stopped reading; [`Time::NEVER`] while we read.
    paused_at: Time,
    /// Outgoing: when the peer's HELLO came. Incoming: when we last sent a KEEPALIVE.
    keepalive_from: Time,
    /// The next KEEPALIVE that answers none. Incoming: counts only while paused.
    keepalive_deadline: Time,
    send_hold_deadline: Time,
}

impl Session {
    /// A session in CONNECTING; the time of a handshake runs from `now`, the TCP connect included.
    pub fn new(config: &SessionConfig, now: Time) -> Session {
        let keepalive_interval_s = match config.keepalive_interval_s {
            0 => KEEPALIVE_INTERVAL_S_DEFAULT,
            interval_s => interval_s.min(KEEPALIVE_INTERVAL_S_MAX),
        };
        Session {
            state: State::Connecting,
            direction: config.direction,
            is_server: config.is_server,
            reassembles: config.reassembles,
            reflector: config.reflector,
            peer_class: PeerClass::Client,
            peer_reassembles: false,
            keepalive_interval_s,
            handshake_deadline: now.after(HANDSHAKE_TIME),
            heard_at: now,
            paused_at: Time::NEVER,
            keepalive_from: now,
            keepalive_deadline: Time::NEVER,
            send_hold_deadline: Time::NEVER,
        }
    }

    /// An incoming session that another process has brought so far: its peer declared this class and whether it
    /// reassembles, and the interval is what was negotiated, or offered. Its timers start anew.
    pub fn restored(
        config: &SessionConfig,
        now: Time,
        state: State,
        (peer_class, peer_reassembles): (PeerClass, bool),
        keepalive_interval_s: u32,
    ) -> Session {
        Session {
            state,
            peer_class,
            peer_reassembles,
            keepalive_interval_s: keepalive_interval_s.clamp(1, KEEPALIVE_INTERVAL_S_MAX),
            // It counts while we do not read.
            keepalive_deadline: now.after(Duration::from_secs(keepalive_interval_s.into())),
            ..Session::new(config, now)
        }
    }

    /// The TCP connection is up. Outgoing: our HELLO is to be sent.
    pub fn connected(&mut self, now: Time) -> Verdict {
        self.walk(now, Event::Connected, None)
    }

    /// What to do with a message.
    #[inline]
    pub fn on_message(&mut self, now: Time, message: &Message) -> Verdict {
        match message {
            Message::Update(_) => self.on_update(now),
            _ => self.on_rarer_message(now, message),
        }
    }

    /// What to do with an UPDATE, one that makes no sense included: where none is allowed, it is not
    /// either.
    #[inline]
    pub fn on_update(&mut self, now: Time) -> Verdict {
        self.heard_at = now;
        // The table says the same; this is the row that millions of messages a second take.
        if self.state == State::Established {
            return Verdict::Deliver;
        }
        self.walk(now, Event::Update, None)
    }

    /// What is due at `now`. To be called until it says [`Verdict::Ignore`] or
    /// [`Verdict::Close`].
    pub fn on_timer(&mut self, now: Time) -> Verdict {
        let event = if now >= self.handshake_due() {
            Event::HandshakeTimeout
        } else if now >= self.hold_due() {
            Event::HoldTimeout
        } else if now >= self.send_hold_deadline {
            Event::SendHoldTimeout
        } else if now >= self.keepalive_due() {
            Event::KeepaliveDue
        } else {
            return Verdict::Ignore;
        };
        self.walk(now, event, None)
    }

    /// When [`Session::on_timer`] has something to do; [`Time::NEVER`] once the session is over.
    pub fn next_deadline(&self) -> Time {
        if self.state.is_over() {
            return Time::NEVER;
        }
        self.handshake_due()
            .min(self.hold_due())
            .min(self.send_hold_deadline)
            .min(self.keepalive_due())
    }

    /// We stop reading from the peer: what it says is not heard, so the timers that wait for it
    /// stand still, and a peer that waits for our answers gets a KEEPALIVE each interval.
    pub fn pause(&mut self, now: Time) {
        if self.paused_at == Time::NEVER {
            self.paused_at = now;
        }
    }

    /// We read again: the timers go on with what they had left.
    pub fn resume(&mut self, now: Time) {
        if self.paused_at == Time::NEVER {
            return;
        }
        self.handshake_deadline = self.handshake_deadline.after(now.since(self.paused_at));
        // What had been read before the pause may have been handled during it.
        let stood_still_from = self.paused_at.max(self.heard_at);
        self.heard_at = self.heard_at.after(now.since(stood_still_from));
        self.paused_at = Time::NEVER;
    }

    /// Something is pending for the peer: the send-hold timer starts, unless it runs.
    pub fn send_pending(&mut self, now: Time) {
        if self.send_hold_deadline == Time::NEVER && !self.state.is_over() {
            self.send_hold_deadline = now.after(SEND_HOLD_TIME);
        }
    }

    /// The peer took some of what is pending (its TCP acknowledged bytes): the send-hold timer, if
    /// it runs, starts again.
    pub fn send_progressed(&mut self, now: Time) {
        if self.send_hold_deadline != Time::NEVER {
            self.send_hold_deadline = now.after(SEND_HOLD_TIME);
        }
    }

    /// Nothing is pending any more: the send-hold timer stops.
    pub fn send_idle(&mut self) {
        self.send_hold_deadline = Time::NEVER;
    }

    /// The peer sent bytes that are no message.
    pub fn on_fault(&mut self) -> Verdict {
        self.end(Event::Fault)
    }

    /// The connection ended, or could not be made: end of stream, or a failed connect, read or
    /// write. Outgoing: leads to RETRY.
    pub fn on_eof(&mut self) -> Verdict {
        self.end(Event::Eof)
    }

    /// We want no more of this peer: leads to CLOSED, in both directions.
    pub fn close(&mut self) -> Verdict {
        self.end(Event::Shutdown)
    }

    /// Where the session is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Who dialled.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// What the peer's HELLO declared it to be; a client before that.
    pub fn peer_class(&self) -> PeerClass {
        self.peer_class
    }

    /// Whether the peer's HELLO said that it reassembles frames.
    pub fn peer_reassembles(&self) -> bool {
        self.peer_reassembles
    }

    /// What was negotiated, in seconds; before the peer's HELLO, what we offer. 1..=86400.
    pub fn keepalive_interval_s(&self) -> u32 {
        self.keepalive_interval_s
    }

    fn on_rarer_message(&mut self, now: Time, message: &Message) -> Verdict {
        let at_client = self.direction == Direction::Outgoing && !self.reflector;
        let (event, hello) = match message {
            Message::Hello(hello) if hello.keepalive_interval_s == 0 => {
                (Event::HelloIntervalZero, None)
            }
            Message::Hello(hello) => (Event::Hello, Some(hello)),
            Message::Keepalive => (Event::Keepalive, None),
            Message::Subscribe(_) | Message::Unsubscribe(_) if at_client => {
                (Event::SubscribeAtClient, None)
            }
            Message::Subscribe(_) => (Event::Subscribe, None),
            Message::Unsubscribe(_) => (Event::Unsubscribe, None),
            Message::Update(_) => (Event::Update, None),
        };
        self.heard_at = now;
        self.walk(now, event, hello)
    }

    /// Takes the step that the table says. `hello` is the peer's, with [`Event::Hello`].
    fn walk(&mut self, now: Time, event: Event, hello: Option<&Hello>) -> Verdict {
        let (state, step) = transition(self.direction, self.state, event);
        self.state = state;
        match step {
            Step::Ignore => Verdict::Ignore,
            Step::Deliver => Verdict::Deliver,
            Step::SendHello => Verdict::SendHello(Hello {
                keepalive_interval_s: self.keepalive_interval_s,
                is_server: self.is_server,
                reassembles: self.reassembles,
            }),
            Step::AnswerHello => {
                self.negotiate(hello);
                Verdict::SendHello(Hello {
                    keepalive_interval_s: self.keepalive_interval_s,
                    is_server: true,
                    reassembles: self.peer_reassembles,
                })
            }
            Step::ScheduleKeepalives => {
                self.negotiate(hello);
                self.keepalive_from = now;
                if self.peer_reassembles {
                    return self.send_keepalive(now);
                }
                self.keepalive_deadline = now.after(FIRST_KEEPALIVE_DELAY);
                Verdict::Ignore
            }
            Step::EstablishAndAnswer => {
                let _ = self.send_keepalive(now);
                Verdict::Established { send_keepalive: true }
            }
            Step::Establish => Verdict::Established { send_keepalive: false },
            Step::SendKeepalive => self.send_keepalive(now),
            Step::Close(reason) => Verdict::Close(reason),
        }
    }

    /// Walks with an event that can only close.
    fn end(&mut self, event: Event) -> Verdict {
        let (state, step) = transition(self.direction, self.state, event);
        self.state = state;
        match step {
            Step::Close(reason) => Verdict::Close(reason),
            _ => Verdict::Ignore,
        }
    }

    fn negotiate(&mut self, hello: Option<&Hello>) {
        let hello = hello.expect("Event::Hello is made from a HELLO");
        self.keepalive_interval_s = self.keepalive_interval_s.min(hello.keepalive_interval_s);
        self.peer_class = match hello.is_server {
            true => PeerClass::Server,
            false => PeerClass::Client,
        };
        self.peer_reassembles = hello.reassembles;
    }

    /// Sets when the next KEEPALIVE is due: a client keeps the beat that began with the server's
    /// HELLO, and does not make up for beats that it missed.
    fn send_keepalive(&mut self, now: Time) -> Verdict {
        if self.direction == Direction::Incoming {
            self.keepalive_from = now;
        }
        let interval = self.keepalive_interval();
        let into_beat = now.since(self.keepalive_from).as_micros() % interval.as_micros();
        let left = interval.as_micros() - into_beat;
        // Less than a day, so it fits.
        self.keepalive_deadline = now.after(Duration::from_micros(left as u64));
        Verdict::SendKeepalive
    }

    fn keepalive_interval(&self) -> Duration {
        Duration::from_secs(u64::from(self.keepalive_interval_s))
    }

    fn reading(&self) -> bool {
        self.paused_at == Time::NEVER
    }

    fn handshake_due(&self) -> Time {
        match self.state {
            State::Connecting | State::HelloSent | State::HelloReceived if self.reading() => {
                self.handshake_deadline
            }
            _ => Time::NEVER,
        }
    }

    fn hold_due(&self) -> Time {
        let hello_heard = match self.state {
            State::HelloSent => self.direction == Direction::Incoming,
            State::HelloReceived | State::Established => true,
            State::Connecting | State::Retry | State::Closed => false,
        };
        if hello_heard && self.reading() {
            self.heard_at.after(self.keepalive_interval() * 5 / 2)
        } else {
            Time::NEVER
        }
    }

    fn keepalive_due(&self) -> Time {
        let scheduled = match self.direction {
            Direction::Outgoing => true,
            // A server only answers, unless it does not read what to answer.
            Direction::Incoming => self.state == State::Established && !self.reading(),
        };
        if scheduled { self.keepalive_deadline } else { Time::NEVER }
    }
}
