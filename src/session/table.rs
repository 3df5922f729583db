//! The transition table: which event does what in which state.
//!
//! Owns states, events and the reasons to close. Must never keep anything: it is a pure function.

use std::fmt;

/// Who dialled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// The peer did, and we accepted: we are the server.
    Incoming,
    /// We did: we are the client.
    Outgoing,
}

/// The state of a connection; numbers and names are those of the Go API.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// Accepted but no HELLO yet (incoming), or the TCP connect is under way (outgoing).
    Connecting = 0,
    /// Our HELLO is sent; incoming: as the answer to the peer's.
    HelloSent = 1,
    /// The peer's HELLO is here. Outgoing only: an incoming session answers at once.
    HelloReceived = 2,
    /// Routes may flow.
    Established = 3,
    /// The connection is over and may be tried again, with a new session. Outgoing only.
    Retry = 4,
    /// The connection is over for good.
    Closed = 5,
}

impl State {
    /// All states, in numeric order.
    pub const ALL: [State; 6] = [
        State::Connecting,
        State::HelloSent,
        State::HelloReceived,
        State::Established,
        State::Retry,
        State::Closed,
    ];

    /// Whether the connection is over: nothing leads out of here.
    pub fn is_over(self) -> bool {
        matches!(self, State::Retry | State::Closed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Connecting => "CONNECTING",
            State::HelloSent => "HELLO_SENT",
            State::HelloReceived => "HELLO_RECEIVED",
            State::Established => "ESTABLISHED",
            State::Retry => "RETRY",
            State::Closed => "CLOSED",
        })
    }
}

/// What can happen to a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// The TCP connection is up.
    Connected,
    /// A HELLO with an interval of at least one second.
    Hello,
    /// A HELLO with interval 0.
    HelloIntervalZero,
    /// A KEEPALIVE.
    Keepalive,
    /// A SUBSCRIBE.
    Subscribe,
    /// An UNSUBSCRIBE.
    Unsubscribe,
    /// A SUBSCRIBE or UNSUBSCRIBE from a server that we dialled without being a reflector.
    SubscribeAtClient,
    /// An UPDATE.
    Update,
    /// The time for a KEEPALIVE that answers none has come.
    KeepaliveDue,
    /// Not established in time.
    HandshakeTimeout,
    /// Nothing was heard for the hold time.
    HoldTimeout,
    /// The peer took nothing of what was pending for the send-hold time.
    SendHoldTimeout,
    /// Bytes that are no message.
    Fault,
    /// The connection ended: end of stream, or an error of a read, write or connect.
    Eof,
    /// We want no more of this peer.
    Shutdown,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::Connected => "connected",
            Event::Hello => "HELLO",
            Event::HelloIntervalZero => "HELLO with interval 0",
            Event::Keepalive => "KEEPALIVE",
            Event::Subscribe => "SUBSCRIBE",
            Event::Unsubscribe => "UNSUBSCRIBE",
            Event::SubscribeAtClient => "SUBSCRIBE or UNSUBSCRIBE at a client",
            Event::Update => "UPDATE",
            Event::KeepaliveDue => "KEEPALIVE due",
            Event::HandshakeTimeout => "handshake timeout",
            Event::HoldTimeout => "hold timeout",
            Event::SendHoldTimeout => "send-hold timeout",
            Event::Fault => "fault",
            Event::Eof => "end of stream",
            Event::Shutdown => "shutdown",
        })
    }
}

/// What the table says is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Nothing.
    Ignore,
    /// Send our HELLO.
    SendHello,
    /// Take the lower interval, start the hold timer, answer with our HELLO.
    AnswerHello,
    /// Take the lower interval, start the hold timer and the KEEPALIVE schedule.
    ScheduleKeepalives,
    /// Established: answer the KEEPALIVE.
    EstablishAndAnswer,
    /// Established: send SUBSCRIBEs, then announcements.
    Establish,
    /// Send a KEEPALIVE.
    SendKeepalive,
    /// Hand the message on.
    Deliver,
    /// Close the connection and withdraw what the peer announced.
    Close(CloseReason),
}

/// Why a session was closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum CloseReason {
    /// A message that its state does not allow.
    #[error("{event} is not allowed in {state}")]
    Unexpected {
        /// Where the session was.
        state: State,
        /// The message.
        event: Event,
    },
    /// HELLO is sent once a connection: a second one wedges peers in the field.
    #[error("a second HELLO")]
    SecondHello,
    /// There is no keepalive interval of 0 seconds.
    #[error("HELLO with keepalive interval 0")]
    HelloIntervalZero,
    /// Not established within `HANDSHAKE_TIME`.
    #[error("not established in time")]
    HandshakeTimeout,
    /// Nothing heard for 5/2 of the keepalive interval.
    #[error("hold time over: nothing was heard from the peer")]
    HoldTimeout,
    /// Nothing taken for `SEND_HOLD_TIME` (RFC 9687).
    #[error("send-hold time over: the peer took nothing")]
    SendHoldTimeout,
    /// Bytes that are no message.
    #[error("undecodable bytes")]
    Fault,
    /// The peer, or the network, ended the connection.
    #[error("the peer closed the connection")]
    RemoteClosed,
    /// We ended it: the queues of slow peers took too much memory, and its was the longest.
    #[error("too slow: --queue-mib-max is reached")]
    OverBudget,
    /// We ended it: it left unread so much that more would break it.
    #[error("it left unread what it was sent")]
    Unread,
    /// We ended it.
    #[error("closed by us")]
    Shutdown,
}

impl CloseReason {
    /// A word for each kind, by [`CloseReason::kind`].
    pub const KINDS: [&str; 11] = [
        "unexpected_message",
        "second_hello",
        "hello_interval_zero",
        "handshake_timeout",
        "hold_timeout",
        "send_hold_timeout",
        "undecodable",
        "remote_closed",
        "over_budget",
        "unread",
        "closed_by_us",
    ];

    /// Which kind it is.
    pub fn kind(self) -> usize {
        match self {
            CloseReason::Unexpected { .. } => 0,
            CloseReason::SecondHello => 1,
            CloseReason::HelloIntervalZero => 2,
            CloseReason::HandshakeTimeout => 3,
            CloseReason::HoldTimeout => 4,
            CloseReason::SendHoldTimeout => 5,
            CloseReason::Fault => 6,
            CloseReason::RemoteClosed => 7,
            CloseReason::OverBudget => 8,
            CloseReason::Unread => 9,
            CloseReason::Shutdown => 10,
        }
    }
}

/// The transition table (protocol section 3).
#[rustfmt::skip]
pub(crate) fn transition(direction: Direction, state: State, event: Event) -> (State, Step) {
    use Direction::{Incoming, Outgoing};
    use Event::*;
    use State::*;

    // Only who dialled can try again.
    let lost = match direction { Incoming => Closed, Outgoing => Retry };
    let close = |reason| (lost, Step::Close(reason));
    let stay = |step| (state, step);
    let unexpected = CloseReason::Unexpected { state, event };

    match (direction, state, event) {
        (_, Retry | Closed, _) => stay(Step::Ignore),

        (Incoming, Connecting,    Hello)               => (HelloSent, Step::AnswerHello),
        (Incoming, HelloSent,     Keepalive)           => (Established, Step::EstablishAndAnswer),
        (Incoming, Established,   Keepalive)           => stay(Step::SendKeepalive),

        (Outgoing, Connecting,    Connected)           => (HelloSent, Step::SendHello),
        (Outgoing, HelloSent,     Hello)               => (HelloReceived, Step::ScheduleKeepalives),
        (Outgoing, HelloReceived, Keepalive)           => (Established, Step::Establish),
        (Outgoing, Established,   Keepalive)           => stay(Step::Ignore),
        (Outgoing, HelloReceived, KeepaliveDue)        => stay(Step::SendKeepalive),
        // Go nodes subscribe whenever they like; a client has nothing to tell them.
        (Outgoing, HelloSent | HelloReceived | Established, SubscribeAtClient) => stay(Step::Ignore),

        (_, Established, Update | Subscribe | Unsubscribe) => stay(Step::Deliver),
        (_, Established, KeepaliveDue)                 => stay(Step::SendKeepalive),
        (_, _, KeepaliveDue | Connected)               => stay(Step::Ignore),

        (Outgoing, Connecting,    Hello)               => close(unexpected),
        (_, _, Hello)                                  => close(CloseReason::SecondHello),
        (_, _, HelloIntervalZero)                      => close(CloseReason::HelloIntervalZero),
        (_, _, Keepalive | Subscribe | Unsubscribe | SubscribeAtClient | Update)
                                                       => close(unexpected),

        (_, Established, HandshakeTimeout)             => stay(Step::Ignore),
        (_, _, HandshakeTimeout)                       => close(CloseReason::HandshakeTimeout),
        // There is no hold timer before the peer's HELLO.
        (Incoming, Connecting, HoldTimeout)            => stay(Step::Ignore),
        (Outgoing, Connecting | HelloSent, HoldTimeout) => stay(Step::Ignore),
        (_, _, HoldTimeout)                            => close(CloseReason::HoldTimeout),
        (_, _, SendHoldTimeout)                        => close(CloseReason::SendHoldTimeout),

        (_, _, Fault)                                  => close(CloseReason::Fault),
        (_, _, Eof)                                    => close(CloseReason::RemoteClosed),
        (_, _, Shutdown)                               => (Closed, Step::Close(CloseReason::Shutdown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 15] = [
        Event::Connected,
        Event::Hello,
        Event::HelloIntervalZero,
        Event::Keepalive,
        Event::Subscribe,
        Event::Unsubscribe,
        Event::SubscribeAtClient,
        Event::Update,
        Event::KeepaliveDue,
        Event::HandshakeTimeout,
        Event::HoldTimeout,
        Event::SendHoldTimeout,
        Event::Fault,
        Event::Eof,
        Event::Shutdown,
    ];

    // A cell is `step` where the state stays, or `step>STATE`, where `x` is Closed (incoming) or
    // Retry (outgoing). `.` is: ignored. Closing steps begin with `!`.
    const INCOMING: &str = "
        event              CONNECTING         HELLO_SENT         HELLO_RECEIVED     ESTABLISHED        RETRY  CLOSED
        Connected          .                  .                  .                  .                  .      .
        Hello              answer>HELLO_SENT  !second>x          !second>x          !second>x          .      .
        HelloIntervalZero  !zero>x            !zero>x            !zero>x            !zero>x            .      .
        Keepalive          !unexpected>x      est+ka>ESTABLISHED !unexpected>x      keepalive          .      .
        Subscribe          !unexpected>x      !unexpected>x      !unexpected>x      deliver            .      .
        Unsubscribe        !unexpected>x      !unexpected>x      !unexpected>x      deliver            .      .
        SubscribeAtClient  !unexpected>x      !unexpected>x      !unexpected>x      !unexpected>x      .      .
        Update             !unexpected>x      !unexpected>x      !unexpected>x      deliver            .      .
        KeepaliveDue       .                  .                  .                  keepalive          .      .
        HandshakeTimeout   !handshake>x       !handshake>x       !handshake>x       .                  .      .
        HoldTimeout        .                  !hold>x            !hold>x            !hold>x            .      .
        SendHoldTimeout    !send-hold>x       !send-hold>x       !send-hold>x       !send-hold>x       .      .
        Fault              !fault>x           !fault>x           !fault>x           !fault>x           .      .
        Eof                !eof>x             !eof>x             !eof>x             !eof>x             .      .
        Shutdown           !shutdown>CLOSED   !shutdown>CLOSED   !shutdown>CLOSED   !shutdown>CLOSED   .      .
    ";

    const OUTGOING: &str = "
        event              CONNECTING         HELLO_SENT             HELLO_RECEIVED  ESTABLISHED       RETRY  CLOSED
        Connected          hello>HELLO_SENT   .                      .               .                 .      .
        Hello              !unexpected>x      start>HELLO_RECEIVED   !second>x       !second>x         .      .
        HelloIntervalZero  !zero>x            !zero>x                !zero>x         !zero>x           .      .
        Keepalive          !unexpected>x      !unexpected>x          est>ESTABLISHED .                 .      .
        Subscribe          !unexpected>x      !unexpected>x          !unexpected>x   deliver           .      .
        Unsubscribe        !unexpected>x      !unexpected>x          !unexpected>x   deliver           .      .
        SubscribeAtClient  !unexpected>x      .                      .               .                 .      .
        Update             !unexpected>x      !unexpected>x          !unexpected>x   deliver           .      .
        KeepaliveDue       .                  .                      keepalive       keepalive         .      .
        HandshakeTimeout   !handshake>x       !handshake>x           !handshake>x    .                 .      .
        HoldTimeout        .                  .                      !hold>x         !hold>x           .      .
        SendHoldTimeout    !send-hold>x       !send-hold>x           !send-hold>x    !send-hold>x      .      .
        Fault              !fault>x           !fault>x               !fault>x        !fault>x          .      .
        Eof                !eof>x             !eof>x                 !eof>x          !eof>x            .      .
        Shutdown           !shutdown>CLOSED   !shutdown>CLOSED       !shutdown>CLOSED !shutdown>CLOSED .      .
    ";

    fn step_name(step: Step) -> &'static str {
        match step {
            Step::Ignore => ".",
            Step::SendHello => "hello",
            Step::AnswerHello => "answer",
            Step::ScheduleKeepalives => "start",
            Step::EstablishAndAnswer => "est+ka",
            Step::Establish => "est",
            Step::SendKeepalive => "keepalive",
            Step::Deliver => "deliver",
            Step::Close(reason) => match reason {
                CloseReason::Unexpected { .. } => "!unexpected",
                CloseReason::SecondHello => "!second",
                CloseReason::HelloIntervalZero => "!zero",
                CloseReason::HandshakeTimeout => "!handshake",
                CloseReason::HoldTimeout => "!hold",
                CloseReason::SendHoldTimeout => "!send-hold",
                CloseReason::Fault => "!fault",
                CloseReason::RemoteClosed => "!eof",
                CloseReason::OverBudget | CloseReason::Unread => {
                    unreachable!("no event leads to it")
                }
                CloseReason::Shutdown => "!shutdown",
            },
        }
    }

    fn check(direction: Direction, expected: &str, lost: &str) {
        let mut rows = expected.lines().map(str::trim).filter(|line| !line.is_empty());
        let states: Vec<&str> = rows.next().unwrap().split_whitespace().skip(1).collect();
        assert_eq!(states, State::ALL.map(|state| state.to_string()));
        let mut events = EVENTS.iter();
        for row in rows {
            let mut cells = row.split_whitespace();
            let event = *events.next().expect("a row too many");
            assert_eq!(cells.next().unwrap(), format!("{event:?}"), "the rows' order");
            for state in State::ALL {
                let cell = cells.next().expect("a cell for each state");
                let (step, next) = match cell.split_once('>') {
                    Some((step, "x")) => (step, lost.to_string()),
                    Some((step, next)) => (step, next.to_string()),
                    None => (cell, state.to_string()),
                };
                let (got_state, got_step) = transition(direction, state, event);
                assert_eq!(
                    (step_name(got_step), got_state.to_string()),
                    (step, next),
                    "{direction:?} {state} {event:?}"
                );
                if let Step::Close(CloseReason::Unexpected { state: told, event: blamed }) =
                    got_step
                {
                    assert_eq!((told, blamed), (state, event));
                }
            }
            assert_eq!(cells.next(), None);
        }
        assert_eq!(events.next(), None, "a row is missing");
    }

    #[test]
    fn incoming_table() {
        check(Direction::Incoming, INCOMING, "CLOSED");
    }

    #[test]
    fn outgoing_table() {
        check(Direction::Outgoing, OUTGOING, "RETRY");
    }

    #[test]
    fn states_have_the_numbers_of_the_go_api() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
        }
        assert!(
            State::ALL
                .into_iter()
                .filter(|state| state.is_over())
                .eq([State::Retry, State::Closed])
        );
    }

    #[test]
    fn reasons_say_what_and_where() {
        let (_, step) = transition(Direction::Incoming, State::Connecting, Event::Update);
        let Step::Close(reason) = step else { panic!("{step:?}") };
        assert_eq!(reason.to_string(), "UPDATE is not allowed in CONNECTING");
    }
}
