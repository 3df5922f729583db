//! Shards without sockets: a driver that passes mail on at once and sends into the void.
//!
//! Owns the order of calls, which is that of `io`: receive, turn, mail, then the writers. Must never
//! allocate once its queues have grown, or the test of allocations would count it.
#![allow(dead_code)]

#[path = "config.rs"]
mod config;

use std::time::Duration;

use metalbond_uring::internals::shard::{Limits, Shard, ShardConfig, TcpSample, Transmit, Wake};
use metalbond_uring::internals::wire::{Hello, Message};
use metalbond_uring::types::{PeerId, ShardId, Time, Vni};

use config::shard_config;

/// Shards that run on the caller's thread.
pub struct Core {
    shards: Vec<Shard>,
    busy: Vec<bool>,
    now: Time,
    bytes_sent: u64,
}

impl Core {
    /// Shards without peers.
    pub fn new(shards: u16) -> Core {
        let shard = |at| {
            let limits = Limits {
                routes_per_peer_max: u32::MAX,
                updates_per_s_max: u32::MAX,
                ..Limits::default()
            };
            let config = ShardConfig { limits, ..shard_config(at, shards) };
            Shard::new(config, Time(1))
        };
        Core {
            shards: (0..shards).map(shard).collect(),
            busy: vec![false; usize::from(shards)],
            now: Time(1),
            bytes_sent: 0,
        }
    }

    /// An established peer of a shard that reassembles.
    pub fn connect(&mut self, shard: ShardId) -> PeerId {
        let id = self.shards[shard.index()].accept(self.now, ([127, 0, 0, 1], 1).into());
        let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles: true };
        for message in [Message::Hello(hello), Message::Keepalive] {
            self.say(id, &message);
        }
        id
    }

    /// An established peer that has joined a VNI.
    pub fn subscriber(&mut self, shard: ShardId, vni: Vni) -> PeerId {
        let id = self.connect(shard);
        self.say(id, &Message::Subscribe(vni));
        id
    }

    /// A peer's bytes arrive, in reads of 64 KiB with a turn after each.
    pub fn receive(&mut self, id: PeerId, bytes: &[u8]) {
        for piece in bytes.chunks(1 << 16) {
            let at = id.shard().index();
            self.shards[at].receive(self.now, id, piece);
            self.busy[at] = true;
            self.settle();
            assert!(self.shards[at].wants_read(id), "settled, so there is room");
        }
    }

    /// Time passes without anything else happening, in steps that are short for all timers.
    pub fn rest(&mut self, duration: Duration) {
        let until = self.now.after(duration);
        while self.now < until {
            self.now = self.now.after(Duration::from_millis(10));
            self.busy.fill(true);
            self.settle();
        }
    }

    /// Bytes that peers were sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Routes in all tables.
    pub fn routes(&self) -> usize {
        self.shards.iter().map(|shard| shard.usage().routes).sum()
    }

    /// The most bases that any group keeps: records go into their tails too.
    pub fn bases_alive(&self) -> usize {
        self.shards.iter().map(|shard| shard.extremes().bases_alive_max).max().unwrap_or_default()
    }

    fn say(&mut self, id: PeerId, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.receive(id, &bytes);
    }

    /// Turns until nothing is left to do.
    fn settle(&mut self) {
        self.now = Time(self.now.0 + 100);
        while self.busy.contains(&true) {
            for at in 0..self.shards.len() {
                if self.busy[at] {
                    self.turn(at);
                }
            }
            for at in 0..self.shards.len() {
                while let Some(id) = self.shards[at].take_writer() {
                    self.write(id);
                }
            }
        }
    }

    fn turn(&mut self, at: usize) {
        self.busy[at] = self.shards[at].turn(self.now);
        while let Some((to, mail)) = self.shards[at].take_mail() {
            self.shards[to.index()].deliver(mail);
            self.busy[to.index()] = true;
        }
        while let Some((_, wake)) = self.shards[at].take_woken() {
            assert_ne!(wake, Wake::Close, "nobody is closed");
        }
    }

    fn write(&mut self, id: PeerId) {
        let shard = &mut self.shards[id.shard().index()];
        if let Transmit::Send(piece) = shard.transmit(self.now, id, TcpSample::default()) {
            let length = std::hint::black_box(piece.as_slice()).len();
            drop(piece);
            self.bytes_sent += length as u64;
            shard.transmitted(self.now, id, length);
        }
    }
}
