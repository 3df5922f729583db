//! Peers' next pieces, of one shard without sockets.
//!
//! Owns what is claimed of pieces: their lengths, their order, and when a peer has none. Must never look behind
//! [`Shard`].

use std::time::Duration;

use super::output::{GATHERED_BYTES_MAX, SPARE_MAX};
use super::piece::DIRECT_BYTES_MIN;
use super::*;
use crate::log::CHUNK_BYTES_MAX;
use crate::types::{Action, Destination, NextHop, NextHopType, Route, Vni};
use crate::wire::{Hello, KEEPALIVE_FRAME, Message, encode_update};

const NOW: Time = Time(1);
const VNI: Vni = Vni(7);

fn shard() -> Shard {
    bounds_tests::shard(Limits::default())
}

/// An established peer that reassembles and has said this.
fn peer(shard: &mut Shard, message: &Message) -> PeerId {
    peer_that(true, shard, message)
}

fn peer_that(reassembles: bool, shard: &mut Shard, message: &Message) -> PeerId {
    let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles };
    peer_of(hello, shard, message)
}

fn peer_of(hello: Hello, shard: &mut Shard, message: &Message) -> PeerId {
    let id = shard.accept(NOW, ([127, 0, 0, 1], 1).into());
    for message in [&Message::Hello(hello), &Message::Keepalive, message] {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        shard.receive(NOW, id, &bytes);
        turns(shard);
    }
    drain(shard, id);
    id
}

fn turns(shard: &mut Shard) {
    while shard.turn(NOW) {}
    while shard.take_woken().is_some() {}
}

fn drain(shard: &mut Shard, id: PeerId) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Transmit::Send(piece) = shard.transmit(NOW, id, TcpSample::default()) {
        shard.transmitted(NOW, id, piece.as_slice().len());
        pieces.push(piece);
    }
    pieces
}

fn announce(shard: &mut Shard, id: PeerId, numbers: std::ops::Range<u32>) {
    announce_in(shard, id, VNI, numbers);
}

fn announce_in(shard: &mut Shard, id: PeerId, vni: Vni, numbers: std::ops::Range<u32>) {
    tell(shard, id, Action::Add, vni, numbers);
}

fn tell(shard: &mut Shard, id: PeerId, action: Action, vni: Vni, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let destination = Destination { prefix: number.to_be_bytes().into(), length: 32 };
        let next_hop = NextHop {
            address: [0xfd; 16].into(),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        };
        let mut frame = Vec::new();
        encode_update(&mut frame, action, vni, &Route { destination, next_hop });
        shard.receive(NOW, id, &frame);
    }
    turns(shard);
}

#[test]
fn a_peer_at_the_end_of_a_chunk_gets_the_next_ones_as_they_lie() {
    let mut shard = shard();
    let announcer = peer(&mut shard, &Message::Keepalive);
    // It reads nothing, so the log keeps its chunks and goes on in the last one.
    let _stalled = peer(&mut shard, &Message::Subscribe(VNI));
    let reader = peer(&mut shard, &Message::Subscribe(VNI));
    announce(&mut shard, announcer, 0..3_400);
    drain(&mut shard, reader);
    announce(&mut shard, announcer, 3_400..7_400);
    let pieces = drain(&mut shard, reader);
    let lengths: Vec<usize> = pieces.iter().map(|piece| piece.as_slice().len()).collect();
    // What is left of the chunk, then whole chunks.
    assert!(lengths[0] < DIRECT_BYTES_MIN, "{lengths:?}");
    let whole = CHUNK_BYTES_MAX - 100..=CHUNK_BYTES_MAX;
    assert!(lengths.len() > 3 && whole.contains(&lengths[1]) && whole.contains(&lengths[2]));
}

#[test]
fn a_draining_peer_whose_join_brings_nothing_is_let_go() {
    let mut shard = shard();
    let id = peer(&mut shard, &Message::Keepalive);
    let mut bytes = Vec::new();
    Message::Subscribe(VNI).encode(&mut bytes);
    shard.receive(NOW, id, &bytes);
    shard.drain(NOW, usize::MAX);
    assert_eq!(shard.take_writer(), Some(id));
    assert!(matches!(shard.transmit(NOW, id, TcpSample::default()), Transmit::Idle));
    while shard.turn(NOW) {}
    assert_eq!(shard.take_writer(), Some(id), "the join was answered");
    assert!(matches!(shard.transmit(NOW, id, TcpSample::default()), Transmit::Finish));
}

#[test]
fn buffers_to_gather_in_are_few_or_small() {
    let mut shard = shard();
    let announcer = peer(&mut shard, &Message::Keepalive);
    let readers: Vec<PeerId> = (0..2_000)
        .map(|_| {
            let reader = peer(&mut shard, &Message::Subscribe(VNI));
            let mut bytes = Vec::new();
            Message::Subscribe(Vni(8)).encode(&mut bytes);
            shard.receive(NOW, reader, &bytes);
            turns(&mut shard);
            reader
        })
        .collect();
    // Small parts of two logs: they are copied together.
    announce(&mut shard, announcer, 0..300);
    announce_in(&mut shard, announcer, Vni(8), 0..300);
    let mut lengths = Vec::new();
    for &id in &readers {
        let Transmit::Send(piece) = shard.transmit(NOW, id, TcpSample::default()) else {
            panic!("all have something to send");
        };
        lengths.push(piece.as_slice().len());
    }
    assert!(lengths[0] > 2 * 300 * 30, "{}", lengths[0]);
    // The last ones get one part, as it lies.
    assert_eq!(2 * lengths[1_999], lengths[0]);
    let gathered_bytes = shard.usage().gathered_bytes;
    let most = GATHERED_BYTES_MAX + (64 << 10);
    assert!((GATHERED_BYTES_MAX..most).contains(&gathered_bytes), "{gathered_bytes}");
    for (&id, &length) in readers.iter().zip(&lengths) {
        shard.transmitted(NOW, id, length);
    }
    assert_eq!(shard.gathered.len(), SPARE_MAX);
    // Each gets all the same.
    let left: usize = drain(&mut shard, readers[1_999]).iter().map(|it| it.as_slice().len()).sum();
    assert_eq!(lengths[1_999] + left, lengths[0]);
    assert!(drain(&mut shard, readers[0]).is_empty());
}

#[test]
fn who_passes_over_much_lets_others_go_on_and_comes_back() {
    let mut shard = shard();
    let announcer = peer(&mut shard, &Message::Keepalive);
    announce(&mut shard, announcer, 0..9_000);
    // It reads nothing of its base, and all of that changes time and again.
    let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles: true };
    let reader = peer_of(hello, &mut shard, &Message::Keepalive);
    let mut bytes = Vec::new();
    Message::Subscribe(VNI).encode(&mut bytes);
    shard.receive(NOW, reader, &bytes);
    turns(&mut shard);
    for _ in 0..8 {
        tell(&mut shard, announcer, Action::Remove, VNI, 0..9_000);
        announce(&mut shard, announcer, 0..9_000);
    }
    tell(&mut shard, announcer, Action::Remove, VNI, 0..9_000);
    assert!(matches!(shard.transmit(NOW, reader, TcpSample::default()), Transmit::Idle));
    while shard.take_writer().is_some() {}
    let later = shard.next_wakeup();
    assert!(later > NOW && later < NOW.after(Duration::from_millis(1)), "{later:?}");
    shard.turn(later);
    assert_eq!(shard.take_writer(), Some(reader));
}

#[test]
fn a_batch_is_no_longer_than_the_segment_that_was_sampled() {
    let mut shard = shard();
    let announcer = peer(&mut shard, &Message::Keepalive);
    let reader = peer_that(false, &mut shard, &Message::Subscribe(VNI));
    announce(&mut shard, announcer, 0..500);
    let mut now = Time(1_000_000);
    for (snd_mss, bytes_max) in [(65_483, 1_188), (536, 508), (1_208, 1_180)] {
        for is_wanted in [true, false] {
            assert_eq!(shard.wants_sample(now, reader), is_wanted);
            let snd_mss = if is_wanted { snd_mss } else { 0 };
            let sample = TcpSample { snd_mss, ..TcpSample::default() };
            let Transmit::Send(piece) = shard.transmit(now, reader, sample) else {
                panic!("there is more to send");
            };
            let length = piece.as_slice().len();
            assert!((bytes_max - 100..=bytes_max).contains(&length), "{length} {bytes_max}");
            shard.transmitted(now, reader, length);
        }
        now = now.after(Duration::from_secs(1));
    }
}

#[test]
fn what_a_slow_path_has_not_delivered_is_not_added_to_but_by_keepalives() {
    for reassembles in [true, false] {
        let mut shard = shard();
        let announcer = peer(&mut shard, &Message::Keepalive);
        let hello = Hello { keepalive_interval_s: 1, is_server: false, reassembles };
        let reader = peer_of(hello, &mut shard, &Message::Subscribe(VNI));
        announce(&mut shard, announcer, 0..1_000);
        let mut sample = TcpSample { snd_mss: 1208, ..TcpSample::default() };
        let sent = |shard: &mut Shard, now, sample| {
            let mut lengths = Vec::new();
            while let Transmit::Send(piece) = shard.transmit(now, reader, sample) {
                lengths.push(piece.as_slice().len());
                // A short SEND: its rest is not counted again.
                shard.transmitted(now, reader, 1);
                if let Transmit::Send(rest) = shard.transmit(now, reader, sample) {
                    shard.transmitted(now, reader, rest.as_slice().len());
                }
            }
            lengths.iter().sum::<usize>()
        };
        // Half an interval at 64 kbit/s.
        let first = sent(&mut shard, NOW, sample);
        assert!((2_800..=4_000).contains(&first), "{first}");
        assert!(!shard.wants_sample(NOW, reader), "not before its time");
        shard.receive(NOW, reader, &KEEPALIVE_FRAME);
        assert_eq!(sent(&mut shard, NOW, sample), KEEPALIVE_FRAME.len());

        let later = shard.next_wakeup();
        assert!(later > NOW && later <= NOW.after(Duration::from_millis(250)));
        shard.turn(later);
        assert_eq!(shard.take_writer(), Some(reader));
        assert_eq!(sent(&mut shard, later, sample), 0);
        sample.bytes_acked = 1_000_000;
        let later = shard.next_wakeup();
        shard.turn(later);
        assert_eq!(shard.take_writer(), Some(reader));
        let second = sent(&mut shard, later, sample);
        assert!(second > first, "{second}: the path was faster than thought");
    }
}

/// From the read to the SEND, for who reads at once and for who reads late; what a laggard is told otherwise is no
/// sample.
#[test]
fn propagation_is_as_long_as_it_takes() {
    let later = |seconds| NOW.after(Duration::from_secs(seconds));
    let mut shard = bounds_tests::shard(Limits { lag_bytes_max: 4_096, ..Limits::default() });
    let announcer = peer(&mut shard, &Message::Keepalive);
    let reader = peer(&mut shard, &Message::Subscribe(VNI));
    let send = |shard: &mut Shard, now| {
        let mut bytes = 0;
        while let Transmit::Send(piece) = shard.transmit(now, reader, TcpSample::default()) {
            bytes += piece.as_slice().len();
            shard.transmitted(now, reader, piece.as_slice().len());
            while shard.turn(now) {}
        }
        bytes
    };
    announce(&mut shard, announcer, 0..3);
    assert!(send(&mut shard, later(2)) > 0);
    let propagation = *shard.propagation();
    assert_eq!((propagation.count(), propagation.max()), (1, Duration::from_secs(2)));
    // It falls behind by more than it may: an hour later it is told all otherwise.
    for _ in 0..50 {
        announce(&mut shard, announcer, 3..10);
        tell(&mut shard, announcer, Action::Remove, VNI, 3..10);
    }
    assert_eq!(shard.counters().conflations, 1);
    tell(&mut shard, announcer, Action::Remove, VNI, 0..1);
    assert!(send(&mut shard, later(600)) > 0);
    assert_eq!(shard.propagation().count(), propagation.count());
    tell(&mut shard, announcer, Action::Remove, VNI, 1..2);
    assert!(send(&mut shard, later(1)) > 0);
    let propagation = *shard.propagation();
    assert_eq!((propagation.count(), propagation.max()), (2, Duration::from_secs(2)));
}
