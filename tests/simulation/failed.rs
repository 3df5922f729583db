//! A peer that failed though it was paced begins with the smallest window, whichever shard it comes to next.
//!
//! Owns some shards without a network, and their mail. Must never look into them.

use std::net::SocketAddr;
use std::time::Duration;

use metalbond_uring::internals::shard::{Shard, ShardConfig, TcpSample, Transmit};
use metalbond_uring::internals::wire::{Hello, Message, Update};
use metalbond_uring::types::{Action, Pace, PeerId, Time, Vni};

use crate::config::shard_config;
use crate::quiet;
use crate::routes::route;

const SHARDS: u16 = 3;
const VNI: Vni = Vni(7);
/// What may be unread of it in the beginning, in bytes: most peers', and that of one that failed.
const FIRST: usize = 8 << 10;
const SMALLEST: usize = 4 << 10;

/// All acknowledged, on a quiet path with a window that is in nobody's way.
fn sample() -> TcpSample {
    TcpSample {
        snd_mss: 1_208,
        snd_cwnd: 10,
        min_rtt_us: 50,
        rtt_us: 50,
        snd_wnd: 1 << 20,
        ..TcpSample::default()
    }
}

struct Field {
    now: Time,
    shards: Vec<Shard>,
}

impl Field {
    /// A table of 1,000 routes.
    fn new() -> Field {
        let shard = |at| {
            let config = ShardConfig { pace: Pace::Auto, ..shard_config(at, SHARDS) };
            Shard::new(config, Time(1))
        };
        let mut field = Field { now: Time(1), shards: (0..SHARDS).map(shard).collect() };
        let announcer = field.peer(0, "[fd00::9]:1", true);
        let mut bytes = Vec::new();
        for number in 0..1_000_u32 {
            let route = route(number);
            Message::Update(Update { action: Action::Add, vni: VNI, route }).encode(&mut bytes);
        }
        field.shards[0].receive(field.now, announcer, &bytes);
        field.rest();
        field
    }

    /// A peer that has said HELLO and KEEPALIVE, and was answered.
    fn peer(&mut self, shard: usize, remote: &str, reassembles: bool) -> PeerId {
        let remote: SocketAddr = remote.parse().expect("an address");
        let id = self.shards[shard].accept(self.now, remote);
        let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles };
        self.say(shard, id, &Message::Hello(hello));
        self.say(shard, id, &Message::Keepalive);
        self.sent(shard, id);
        id
    }

    fn say(&mut self, shard: usize, id: PeerId, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.shards[shard].receive(self.now, id, &bytes);
        self.rest();
    }

    fn rest(&mut self) {
        quiet::rest(&mut self.shards, self.now);
    }

    /// What goes to the peer before something has to be proven, in bytes.
    fn sent(&mut self, shard: usize, id: PeerId) -> usize {
        let mut bytes = 0;
        while let Transmit::Send(piece) = self.shards[shard].transmit(self.now, id, sample()) {
            bytes += piece.as_slice().len();
            self.shards[shard].transmitted(self.now, id, piece.as_slice().len());
        }
        bytes
    }

    /// A Go client that subscribes: its id, and what it is sent.
    fn joins(&mut self, shard: usize, remote: &str) -> (PeerId, usize) {
        let id = self.peer(shard, remote, false);
        self.say(shard, id, &Message::Subscribe(VNI));
        (id, self.sent(shard, id))
    }

    /// How much a Go client is given in the beginning, at each shard.
    fn given(&mut self, address: &str) -> Vec<usize> {
        (0..usize::from(SHARDS)).map(|shard| self.joins(shard, address).1).collect()
    }

    fn fails(&mut self, shard: usize, id: PeerId) {
        let reset = std::io::Error::from_raw_os_error(104);
        self.shards[shard].read_ended(self.now, id, Err(reset));
        self.rest();
    }
}

#[test]
fn who_failed_begins_small_on_all_shards() {
    let is_first = |bytes: &usize| (FIRST - 1_300..=FIRST).contains(bytes);
    let is_smallest = |bytes: &usize| (SMALLEST - 1_300..=SMALLEST).contains(bytes);
    for shard in 0..usize::from(SHARDS) {
        let mut field = Field::new();
        let (id, given) = field.joins(shard, "[fd00::1]:1");
        assert!(is_first(&given), "{given}");
        field.fails(shard, id);
        // Another port, the same address; and another address.
        let given = field.given("[fd00::1]:2");
        assert!(given.iter().all(is_smallest), "it failed at shard {shard}: {given:?}");
        let given = field.given("[fd00::2]:1");
        assert!(given.iter().all(is_first), "others did not fail: {given:?}");
        // Not for ever.
        field.now = field.now.after(Duration::from_secs(700));
        let given = field.given("[fd00::1]:3");
        assert!(given.iter().all(is_first), "long ago: {given:?}");
    }
}

#[test]
fn who_leaves_without_having_been_fed_has_not_failed() {
    let mut field = Field::new();
    let id = field.peer(0, "[fd00::1]:1", false);
    field.fails(0, id);
    // Nor who was lost long after it had been fed.
    let (id, _) = field.joins(1, "[fd00::1]:1");
    field.now = field.now.after(Duration::from_secs(11));
    field.fails(1, id);
    let given = field.given("[fd00::1]:2");
    assert!(given.iter().all(|&bytes| bytes > SMALLEST), "{given:?}");
}
