//! Tests of [`Session`] in virtual time.
//!
//! Owns nothing else: what the table says is tested next to the table.

use std::time::Duration;

use super::walks::UPDATE;
use super::*;
use crate::types::{PeerClass, Time, Vni};
use crate::wire::{Hello, Message};

const START: Time = Time(1_000_000_000);
const SUBSCRIBE: Message = Message::Subscribe(Vni(7));
const UNSUBSCRIBE: Message = Message::Unsubscribe(Vni(7));

fn at_ms(ms: u64) -> Time {
    START.after(Duration::from_millis(ms))
}

fn hello(keepalive_interval_s: u32) -> Hello {
    Hello { keepalive_interval_s, is_server: false, reassembles: false }
}

fn config(direction: Direction, keepalive_interval_s: u32) -> SessionConfig {
    SessionConfig {
        direction,
        keepalive_interval_s,
        is_server: false,
        reassembles: true,
        reflector: false,
    }
}

/// An incoming session that was accepted at `at_ms(0)` and is established since then.
fn incoming(own_s: u32, peers_s: u32) -> Session {
    let mut session = Session::new(&config(Direction::Incoming, own_s), START);
    assert_eq!(session.connected(START), Verdict::Ignore);
    let verdict = session.on_message(START, &Message::Hello(hello(peers_s)));
    assert!(matches!(verdict, Verdict::SendHello(_)), "{verdict:?}");
    let verdict = session.on_message(START, &Message::Keepalive);
    assert_eq!(verdict, Verdict::Established { send_keepalive: true });
    session
}

/// An outgoing session that got the server's HELLO at `at_ms(0)`.
fn outgoing(own_s: u32, server: Hello) -> (Session, Verdict) {
    let mut session = Session::new(&config(Direction::Outgoing, own_s), START);
    assert!(matches!(session.connected(START), Verdict::SendHello(_)));
    let verdict = session.on_message(START, &Message::Hello(server));
    (session, verdict)
}

/// Nothing happens before `deadline_ms`, and `verdict` then.
#[track_caller]
fn assert_due(session: &mut Session, deadline_ms: u64, verdict: Verdict) {
    let deadline = at_ms(deadline_ms);
    assert_eq!(session.next_deadline(), deadline);
    assert_eq!(session.on_timer(Time(deadline.0 - 1)), Verdict::Ignore);
    assert_eq!(session.on_timer(deadline), verdict);
}

#[test]
fn incoming_handshake() {
    let mut session = Session::new(&config(Direction::Incoming, 10), START);
    assert_eq!(session.state(), State::Connecting);
    assert_eq!(session.keepalive_interval_s(), 10);
    let theirs = Hello { keepalive_interval_s: 3, is_server: true, reassembles: true };
    let ours = Hello { keepalive_interval_s: 3, is_server: true, reassembles: true };
    let verdict = session.on_message(START, &Message::Hello(theirs));
    assert_eq!(verdict, Verdict::SendHello(ours));
    assert_eq!(session.state(), State::HelloSent);
    assert_eq!((session.peer_class(), session.peer_reassembles()), (PeerClass::Server, true));
    assert_eq!(session.keepalive_interval_s(), 3);
    let verdict = session.on_message(START, &Message::Keepalive);
    assert_eq!(verdict, Verdict::Established { send_keepalive: true });
    let verdict = session.on_message(START, &Message::Keepalive);
    assert_eq!(verdict, Verdict::SendKeepalive);
    for message in [SUBSCRIBE, UPDATE, UNSUBSCRIBE] {
        assert_eq!(session.on_message(START, &message), Verdict::Deliver);
    }
    let verdict = session.on_message(START, &Message::Hello(theirs));
    assert_eq!(verdict, Verdict::Close(CloseReason::SecondHello));
    assert_eq!(session.state(), State::Closed);
}

#[test]
fn an_answer_says_server_and_reassembles_only_to_those_who_did() {
    let mut session = Session::new(&config(Direction::Incoming, 2), START);
    let verdict = session.on_message(START, &Message::Hello(hello(9)));
    let ours = Hello { keepalive_interval_s: 2, is_server: true, reassembles: false };
    assert_eq!(verdict, Verdict::SendHello(ours));
    assert_eq!((session.peer_class(), session.peer_reassembles()), (PeerClass::Client, false));
}

#[test]
fn outgoing_handshake() {
    let mut session = Session::new(&config(Direction::Outgoing, 7), START);
    let ours = Hello { keepalive_interval_s: 7, is_server: false, reassembles: true };
    assert_eq!(session.connected(START), Verdict::SendHello(ours));
    let theirs = Hello { keepalive_interval_s: 4, is_server: true, reassembles: false };
    let verdict = session.on_message(START, &Message::Hello(theirs));
    assert_eq!(verdict, Verdict::Ignore);
    assert_eq!(session.state(), State::HelloReceived);
    assert_eq!((session.peer_class(), session.keepalive_interval_s()), (PeerClass::Server, 4));
    assert_due(&mut session, 20, Verdict::SendKeepalive);
    let verdict = session.on_message(at_ms(21), &Message::Keepalive);
    assert_eq!(verdict, Verdict::Established { send_keepalive: false });
    let verdict = session.on_message(at_ms(22), &Message::Keepalive);
    assert_eq!(verdict, Verdict::Ignore, "a client answers no KEEPALIVE");
}

#[test]
fn a_server_of_our_kind_gets_the_first_keepalive_at_once() {
    let theirs = Hello { keepalive_interval_s: 4, is_server: true, reassembles: true };
    let (mut session, verdict) = outgoing(5, theirs);
    assert_eq!(verdict, Verdict::SendKeepalive);
    assert!(session.peer_reassembles());
    assert_due(&mut session, 4000, Verdict::SendKeepalive);
}

#[test]
fn a_clients_keepalives_keep_the_beat_of_the_hello() {
    let (mut session, _) = outgoing(1, hello(9));
    assert_due(&mut session, 20, Verdict::SendKeepalive);
    let verdict = session.on_message(at_ms(500), &Message::Keepalive);
    assert_eq!(verdict, Verdict::Established { send_keepalive: false });
    assert_due(&mut session, 1000, Verdict::SendKeepalive);
    // The timer comes late: the next beat stays where it was, and those missed are not made up for.
    let _ = session.on_message(at_ms(3000), &Message::Keepalive);
    assert_eq!(session.on_timer(at_ms(3300)), Verdict::SendKeepalive);
    assert_due(&mut session, 4000, Verdict::SendKeepalive);
    assert_eq!(session.on_timer(at_ms(4000)), Verdict::Ignore);
}

#[test]
fn who_does_not_get_established_is_closed() {
    let mut silent = Session::new(&config(Direction::Incoming, 5), START);
    assert_due(&mut silent, 10_000, Verdict::Close(CloseReason::HandshakeTimeout));
    assert_eq!((silent.state(), silent.next_deadline()), (State::Closed, Time::NEVER));

    let mut unconnected = Session::new(&config(Direction::Outgoing, 5), START);
    assert_due(&mut unconnected, 10_000, Verdict::Close(CloseReason::HandshakeTimeout));
    assert_eq!(unconnected.state(), State::Retry);

    let mut halfway = Session::new(&config(Direction::Incoming, 60), START);
    let _ = halfway.on_message(at_ms(9000), &Message::Hello(hello(60)));
    assert_due(&mut halfway, 10_000, Verdict::Close(CloseReason::HandshakeTimeout));
}

#[test]
fn the_handshake_time_ends_with_established() {
    let mut session = incoming(60, 60);
    assert_eq!(session.next_deadline(), at_ms(150_000));
    assert_eq!(session.on_timer(at_ms(10_000)), Verdict::Ignore);
}

#[test]
fn hold_time_is_five_halves_of_the_interval() {
    assert_due(&mut incoming(1, 1), 2500, Verdict::Close(CloseReason::HoldTimeout));
    assert_due(&mut incoming(5, 3), 7500, Verdict::Close(CloseReason::HoldTimeout));
    assert_due(&mut incoming(0, 100), 12_500, Verdict::Close(CloseReason::HoldTimeout));
}

#[test]
fn hold_time_runs_from_the_hello() {
    let mut session = Session::new(&config(Direction::Incoming, 1), START);
    assert_eq!(session.next_deadline(), at_ms(10_000));
    let _ = session.on_message(at_ms(5000), &Message::Hello(hello(1)));
    assert_due(&mut session, 7500, Verdict::Close(CloseReason::HoldTimeout));

    // A client whose HELLO is not answered has only the handshake to wait for.
    let mut session = Session::new(&config(Direction::Outgoing, 1), START);
    let _ = session.connected(START);
    assert_eq!(session.next_deadline(), at_ms(10_000));
}

#[test]
fn any_message_restarts_the_hold_timer() {
    let mut session = incoming(1, 1);
    let messages = [UPDATE, SUBSCRIBE, UNSUBSCRIBE, Message::Keepalive];
    for (second, message) in (1..).zip(messages) {
        let _ = session.on_message(at_ms(second * 2000), &message);
        assert_eq!(session.next_deadline(), at_ms(second * 2000 + 2500), "{message:?}");
    }
    // Also one that a client has no use for.
    let (mut session, _) = outgoing(9, hello(9));
    let _ = session.on_timer(at_ms(20));
    let _ = session.on_message(at_ms(30), &Message::Keepalive);
    assert_eq!(session.on_message(at_ms(22_000), &SUBSCRIBE), Verdict::Ignore);
    assert_eq!(session.on_timer(at_ms(23_000)), Verdict::SendKeepalive);
    assert_eq!(session.on_timer(at_ms(23_000)), Verdict::Ignore);
}

#[test]
fn a_paused_reader_has_no_hold_time_and_sends_keepalives() {
    let mut session = incoming(1, 1);
    let _ = session.on_message(at_ms(1000), &Message::Keepalive);
    let _ = session.on_message(at_ms(1500), &UPDATE);
    session.pause(at_ms(1800));
    assert_due(&mut session, 2000, Verdict::SendKeepalive);
    session.pause(at_ms(2500)); // Paused already: changes nothing.
    for second in 3..30 {
        assert_due(&mut session, second * 1000, Verdict::SendKeepalive);
    }
    // 300 of 2500 ms were over when we paused.
    session.resume(at_ms(29_500));
    session.resume(at_ms(29_600));
    assert_due(&mut session, 29_500 + 2200, Verdict::Close(CloseReason::HoldTimeout));
}

#[test]
fn pausing_often_does_not_starve_the_peer() {
    let mut session = incoming(1, 1);
    let mut keepalives = 0;
    for tenth in 0..100 {
        session.pause(at_ms(tenth * 100));
        keepalives += u32::from(session.on_timer(at_ms(tenth * 100 + 90)) != Verdict::Ignore);
        session.resume(at_ms(tenth * 100 + 90));
        let verdict = session.on_message(at_ms(tenth * 100 + 95), &UPDATE);
        assert_eq!(verdict, Verdict::Deliver);
    }
    assert_eq!(keepalives, 9);
}

#[test]
fn what_was_read_before_the_pause_counts_during_it() {
    let mut session = incoming(1, 1);
    session.pause(at_ms(1000));
    assert_eq!(session.on_message(at_ms(1500), &UPDATE), Verdict::Deliver);
    session.resume(at_ms(9000));
    assert_eq!(session.next_deadline(), at_ms(11_500));
}

#[test]
fn before_established_a_pause_only_stops_the_clock() {
    let mut session = Session::new(&config(Direction::Incoming, 1), START);
    session.pause(at_ms(4000));
    assert_eq!(session.next_deadline(), Time::NEVER);
    assert_eq!(session.on_timer(at_ms(50_000)), Verdict::Ignore);
    session.resume(at_ms(50_000));
    assert_due(&mut session, 56_000, Verdict::Close(CloseReason::HandshakeTimeout));
}

#[test]
fn a_paused_client_keeps_its_beat_and_is_not_held_up_by_the_servers_silence() {
    let (mut session, _) = outgoing(1, hello(1));
    let _ = session.on_timer(at_ms(20));
    let _ = session.on_message(at_ms(30), &Message::Keepalive);
    session.pause(at_ms(100));
    for second in 1..10 {
        assert_due(&mut session, second * 1000, Verdict::SendKeepalive);
    }
}

#[test]
fn send_hold() {
    let mut session = incoming(86_400, 86_400);
    session.send_progressed(at_ms(0));
    assert_eq!(session.next_deadline(), at_ms(216_000_000), "nothing is pending");
    session.send_pending(at_ms(1000));
    session.send_pending(at_ms(2000));
    assert_eq!(session.next_deadline(), at_ms(481_000));
    session.send_idle();
    assert_eq!(session.next_deadline(), at_ms(216_000_000));
    session.send_pending(at_ms(5000));
    session.send_progressed(at_ms(9000));
    // It is about the peer's reading, so our pause does not matter.
    session.pause(at_ms(10_000));
    assert_due(&mut session, 489_000, Verdict::Close(CloseReason::SendHoldTimeout));
    session.send_pending(at_ms(490_000));
    assert_eq!(session.next_deadline(), Time::NEVER);
}

#[test]
fn illegal_openings_close() {
    for message in [Message::Keepalive, SUBSCRIBE, UNSUBSCRIBE, UPDATE] {
        let mut session = Session::new(&config(Direction::Incoming, 5), START);
        let verdict = session.on_message(START, &message);
        assert!(matches!(verdict, Verdict::Close(CloseReason::Unexpected { .. })), "{message:?}");
        assert_eq!(session.state(), State::Closed);
    }
    let mut session = Session::new(&config(Direction::Incoming, 5), START);
    let verdict = session.on_message(START, &Message::Hello(hello(0)));
    assert_eq!(verdict, Verdict::Close(CloseReason::HelloIntervalZero));
}

#[test]
fn only_a_reflector_takes_subscriptions_from_whom_it_dialled() {
    for reflector in [false, true] {
        let config = SessionConfig { reflector, ..config(Direction::Outgoing, 5) };
        let mut session = Session::new(&config, START);
        let _ = session.connected(START);
        let _ = session.on_message(START, &Message::Hello(hello(5)));
        let _ = session.on_message(START, &Message::Keepalive);
        let expected = if reflector { Verdict::Deliver } else { Verdict::Ignore };
        assert_eq!(session.on_message(START, &SUBSCRIBE), expected);
        assert_eq!(session.on_message(START, &UNSUBSCRIBE), expected);
        assert_eq!(session.on_message(START, &UPDATE), Verdict::Deliver);
    }
}

#[test]
fn closing_is_said_once() {
    for (direction, lost) in
        [(Direction::Incoming, State::Closed), (Direction::Outgoing, State::Retry)]
    {
        let mut session = Session::new(&config(direction, 5), START);
        assert_eq!(session.on_eof(), Verdict::Close(CloseReason::RemoteClosed));
        assert_eq!(session.state(), lost);
        assert_eq!(session.on_fault(), Verdict::Ignore);
        assert_eq!(session.close(), Verdict::Ignore);
        assert_eq!(session.state(), lost);

        let mut session = Session::new(&config(direction, 5), START);
        assert_eq!(session.on_fault(), Verdict::Close(CloseReason::Fault));
        assert_eq!(session.state(), lost);

        let mut session = Session::new(&config(direction, 5), START);
        assert_eq!(session.close(), Verdict::Close(CloseReason::Shutdown));
        assert_eq!(session.state(), State::Closed);
    }
}

#[test]
fn no_interval_overflows() {
    // These overflow the arithmetic of servers in the field (protocol section 4).
    for interval_s in [1_844_674_408, 2_000_000_000, 3_689_348_814, u32::MAX] {
        for direction in [Direction::Incoming, Direction::Outgoing] {
            let mut session = Session::new(&config(direction, interval_s), START);
            assert_eq!(session.keepalive_interval_s(), 86_400);
            let _ = session.connected(START);
            let verdict = session.on_message(START, &Message::Hello(hello(interval_s)));
            assert!(!matches!(verdict, Verdict::Close(_)), "{verdict:?}");
            let _ = session.on_timer(at_ms(20));
            let _ = session.on_message(START, &Message::Keepalive);
            assert_eq!(session.state(), State::Established);
            assert_eq!(session.on_timer(at_ms(86_399_999)), Verdict::Ignore);
            assert!(session.next_deadline() <= at_ms(216_000_000));
        }
    }
    // Also where the clock ends.
    let late = Time(u64::MAX - 5);
    let mut session = Session::new(&config(Direction::Incoming, u32::MAX), late);
    let _ = session.on_message(late, &Message::Hello(hello(u32::MAX)));
    let _ = session.on_message(late, &Message::Keepalive);
    session.pause(late);
    session.resume(late);
    assert_eq!(session.next_deadline(), Time::NEVER);
}

#[test]
fn a_session_fits_a_cache_line_or_so() {
    assert!(size_of::<Session>() <= 72, "{}", size_of::<Session>());
    assert!(size_of::<Verdict>() <= 12, "{}", size_of::<Verdict>());
}
