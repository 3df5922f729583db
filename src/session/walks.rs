//! Random walks of a [`Session`]: whatever a peer and a driver do, some things never happen.
//!
//! Owns nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::types::{Action, Destination, NextHop, NextHopType, Route, Time, Vni};
use crate::wire::{Hello, Message, Update};

const START: Time = Time(1_000_000_000);

/// What it says does not matter to a session.
pub(super) const UPDATE: Message = Message::Update(Update {
    action: Action::Add,
    vni: Vni(7),
    route: Route {
        destination: Destination { prefix: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 },
        next_hop: NextHop {
            address: IpAddr::V6(Ipv6Addr::LOCALHOST),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        },
    },
});

#[derive(Clone, Debug)]
enum Op {
    Connected,
    Message(Message),
    Timer,
    ToDeadline,
    Pause,
    Resume,
    Pending,
    Progressed,
    Idle,
    Fault,
    Eof,
    Close,
}

fn any_op() -> impl Strategy<Value = Op> {
    let interval = prop_oneof![Just(0), 1..20u32, any::<u32>()];
    let hello = (interval, any::<bool>(), any::<bool>()).prop_map(
        |(keepalive_interval_s, is_server, reassembles)| Hello {
            keepalive_interval_s,
            is_server,
            reassembles,
        },
    );
    let plain = prop_oneof![
        Just(Message::Subscribe(Vni(7))),
        Just(Message::Unsubscribe(Vni(7))),
        Just(UPDATE)
    ];
    prop_oneof![
        2 => Just(Op::Connected),
        4 => hello.prop_map(|hello| Op::Message(Message::Hello(hello))),
        6 => Just(Op::Message(Message::Keepalive)),
        4 => plain.prop_map(Op::Message),
        2 => Just(Op::Timer),
        6 => Just(Op::ToDeadline),
        2 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => Just(Op::Pending),
        1 => Just(Op::Progressed),
        1 => Just(Op::Idle),
        1 => prop_oneof![Just(Op::Fault), Just(Op::Eof), Just(Op::Close)],
    ]
}

fn any_config() -> impl Strategy<Value = SessionConfig> {
    (any::<bool>(), any::<u32>(), any::<[bool; 3]>()).prop_map(
        |(incoming, keepalive_interval_s, [is_server, reassembles, reflector])| SessionConfig {
            direction: if incoming { Direction::Incoming } else { Direction::Outgoing },
            keepalive_interval_s,
            is_server,
            reassembles,
            reflector,
        },
    )
}

fn act(session: &mut Session, now: &mut Time, op: &Op) -> Verdict {
    match op {
        Op::Connected => session.connected(*now),
        Op::Message(message) => session.on_message(*now, message),
        Op::Timer => session.on_timer(*now),
        Op::ToDeadline => {
            let deadline = session.next_deadline();
            if deadline == Time::NEVER {
                return Verdict::Ignore;
            }
            *now = deadline.max(*now);
            let verdict = session.on_timer(*now);
            assert_ne!(verdict, Verdict::Ignore, "woken for nothing");
            verdict
        }
        Op::Fault => session.on_fault(),
        Op::Eof => session.on_eof(),
        Op::Close => session.close(),
        Op::Pause => {
            session.pause(*now);
            Verdict::Ignore
        }
        Op::Resume => {
            session.resume(*now);
            Verdict::Ignore
        }
        Op::Pending => {
            session.send_pending(*now);
            Verdict::Ignore
        }
        Op::Progressed => {
            session.send_progressed(*now);
            Verdict::Ignore
        }
        Op::Idle => {
            session.send_idle();
            Verdict::Ignore
        }
    }
}

/// The first `length` operations of a handshake: most random walks never get through one.
fn handshake(direction: Direction, length: usize) -> Vec<Op> {
    let hello = Hello { keepalive_interval_s: 5, is_server: false, reassembles: false };
    let mut ops = vec![Op::Message(Message::Hello(hello)), Op::Message(Message::Keepalive)];
    if direction == Direction::Outgoing {
        ops.insert(0, Op::Connected);
    }
    ops.truncate(length);
    ops
}

fn any_walk() -> impl Strategy<Value = Vec<(Op, u64)>> {
    let gap_us = prop_oneof![
        2 => Just(0),
        3 => 0..5_000_000u64,
        1 => any::<u32>().prop_map(u64::from)
    ];
    prop::collection::vec((any_op(), gap_us), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_happens(config in any_config(), length in 0..4usize, walk in any_walk()) {
        let mut now = START;
        let mut session = Session::new(&config, now);
        let (mut hellos, mut established, mut closes) = (0, 0, 0);
        let opening = handshake(config.direction, length).into_iter().map(|op| (op, 1000));
        for (op, gap_us) in opening.chain(walk) {
            now = now.after(Duration::from_micros(gap_us));
            let before = session.state();
            let verdict = act(&mut session, &mut now, &op);
            let after = session.state();
            hellos += u32::from(matches!(verdict, Verdict::SendHello(_)));
            established += u32::from(matches!(verdict, Verdict::Established { .. }));
            let closed = matches!(verdict, Verdict::Close(_));
            closes += u32::from(closed);
            prop_assert_eq!(closed, !before.is_over() && after.is_over());
            if before.is_over() {
                prop_assert_eq!((after, verdict), (before, Verdict::Ignore));
                prop_assert_eq!(session.next_deadline(), Time::NEVER);
            } else if !after.is_over() {
                prop_assert!(before as u8 <= after as u8, "back from {} to {}", before, after);
            }
            if verdict == Verdict::Deliver {
                prop_assert_eq!((before, established), (State::Established, 1));
                if let Op::Message(Message::Subscribe(_) | Message::Unsubscribe(_)) = op {
                    prop_assert!(config.direction == Direction::Incoming || config.reflector);
                }
            }
            if verdict == Verdict::SendKeepalive {
                let early = config.direction == Direction::Outgoing;
                let fine = early && after == State::HelloReceived || after == State::Established;
                prop_assert!(fine, "KEEPALIVE in {}", after);
            }
            prop_assert!((1..=86_400).contains(&session.keepalive_interval_s()));
        }
        prop_assert!(hellos <= 1 && established <= 1 && closes <= 1);
    }
}
