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
pub enum Step {
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
    /// Not established within [`HANDSHAKE_TIME`](super::HANDSHAKE_TIME).
    #[error("not established in time")]
    HandshakeTimeout,
    /// Nothing heard for 5/2 of the keepalive interval.
    #[error("hold time passed without a message")]
    HoldTimeout,
    /// Nothing taken for [`SEND_HOLD_TIME`](super::SEND_HOLD_TIME) (RFC 9687).
    #[error("send-hold time passed without progress")]
    SendHoldTimeout,
    /// Bytes that are no message.
    #[error("undecodable bytes")]
    Fault,
    /// The peer, or the network, ended the connection.
    #[error("the connection was closed by the peer or the network")]
    RemoteClosed,
    /// We ended it.
    #[error("closed by us")]
    Shutdown,
}

/// The transition table (protocol section 3).
#[rustfmt::skip]
pub fn transition(direction: Direction, state: State, event: Event) -> (State, Step) {
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
