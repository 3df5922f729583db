//! A peer that takes nothing of what waits for it, however lively it is otherwise: the core in virtual time.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use metalbond_uring::internals::session::CloseReason;
use metalbond_uring::internals::shard::{SessionEnd, Shard, TcpSample, Transmit, Wake};
use metalbond_uring::internals::wire::{Hello, Message, Update};
use metalbond_uring::types::{Action, PeerId, Route, Time, Vni};

const VNI: Vni = Vni(7);
/// What the stuck peer's TCP has acknowledged before it stops for ever.
const ACKED_BYTES: u64 = 4_000;

struct World {
    shard: Shard,
    now: Time,
}

impl World {
    fn new() -> World {
        let config = common::shard_config(5, Duration::ZERO);
        World { shard: Shard::new(config, Time(0)), now: Time(0) }
    }

    fn peer(&mut self, reassembles: bool) -> PeerId {
        let id = self.shard.accept(self.now, "[::1]:1".parse().unwrap());
        let hello = Hello { keepalive_interval_s: 5, is_server: false, reassembles };
        self.say(id, &Message::Hello(hello));
        self.say(id, &Message::Keepalive);
        id
    }

    fn say(&mut self, id: PeerId, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.shard.receive(self.now, id, &bytes);
        while self.shard.turn(self.now) {}
    }

    fn announce(&mut self, announcer: PeerId) {
        for number in 0..5_000u32 {
            let destination = format!("10.{}.{}.0/24", number >> 8, number & 255).parse().unwrap();
            let route = Route { destination, next_hop: "2001:db8::1".parse().unwrap() };
            let update = Update { action: Action::Add, vni: VNI, route };
            self.say(announcer, &Message::Update(update));
        }
    }

    /// Half a second, in which the kernel takes all that it is given. The stuck peer's end, if it came.
    fn step(&mut self, ids: [PeerId; 2], acked: impl Fn(PeerId) -> u64) -> Option<SessionEnd> {
        self.now = self.now.after(Duration::from_millis(500));
        while self.shard.turn(self.now) {}
        let sample =
            |id| TcpSample { snd_mss: 1208, bytes_acked: acked(id), ..TcpSample::default() };
        while let Some((id, wake)) = self.shard.take_woken() {
            match wake {
                Wake::Close => return self.shard.release(self.now, id),
                Wake::Sample => self.shard.sampled(self.now, id, sample(id)),
                _ => {}
            }
        }
        for id in ids {
            while let Transmit::Send(piece) = self.shard.transmit(self.now, id, sample(id)) {
                let length = piece.as_slice().len();
                drop(piece);
                self.shard.transmitted(self.now, id, length);
            }
        }
        None
    }
}

#[test]
fn a_peer_that_reads_nothing_but_says_keepalive_is_closed_in_the_end() {
    for reassembles in [true, false] {
        let mut world = World::new();
        let announcer = world.peer(true);
        let stuck = world.peer(reassembles);
        world.say(stuck, &Message::Subscribe(VNI));
        world.announce(announcer);
        let acked = |id| if id == stuck { ACKED_BYTES } else { 1 << 40 };
        let end = (0..2_000).find_map(|step| {
            if step % 4 == 0 {
                world.say(announcer, &Message::Keepalive);
                world.say(stuck, &Message::Keepalive);
            }
            world.step([announcer, stuck], acked)
        });
        let end = end.expect("it is still there after 1,000 s");
        assert_eq!(end.reason, CloseReason::SendHoldTimeout, "reassembles: {reassembles}");
        let after_s = world.now.since(Time(0)).as_secs();
        assert!((480..500).contains(&after_s), "after {after_s} s");
    }
}

#[test]
fn a_slow_peer_stays() {
    let mut world = World::new();
    let announcer = world.peer(true);
    let slow = world.peer(true);
    world.say(slow, &Message::Subscribe(VNI));
    world.announce(announcer);
    for step in 0..4_000u64 {
        if step % 4 == 0 {
            world.say(announcer, &Message::Keepalive);
            world.say(slow, &Message::Keepalive);
        }
        // A few bytes every five minutes.
        let acked = |id| if id == slow { ACKED_BYTES + step / 600 * 10 } else { 1 << 40 };
        let end = world.step([announcer, slow], acked);
        assert!(end.is_none(), "{end:?} in step {step}");
    }
}
