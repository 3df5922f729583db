//! The real constants, once, with numbers for which they were made.
//!
//! Owns nothing but the scenario. Must never look at a time that is not virtual.

use std::time::Duration;

use metalbond_uring::internals::shard::{Limits, Shard, ShardConfig, TcpSample, Transmit, Wake};
use metalbond_uring::internals::wire::{Deframer, Hello, Message, MessageType, encode_update};
use metalbond_uring::types::{Action, Destination, NextHop, NextHopType, PeerId, Route, Time, Vni};

use crate::config::shard_config;

const VNI: Vni = Vni(7);
const ANNOUNCERS: u32 = 3;
const ROUTES_EACH: u32 = 100_000;
const READERS: u32 = 400;
const READ_BYTES: usize = 64 << 10;
/// The most that one route's frame takes here.
const FRAME_BYTES: usize = 52;

/// A bit for each route: what a reader was told.
struct View {
    id: PeerId,
    from_server: Deframer,
    told: Vec<u64>,
    updates: u64,
}

impl View {
    fn read(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        while let Some(frame) = self.from_server.next(&mut input).unwrap() {
            if frame.message_type != MessageType::Update {
                continue;
            }
            let (action, number) = meaning_of(frame.payload);
            let (word, bit) = (&mut self.told[number / 64], 1_u64 << (number % 64));
            let knew = *word & bit != 0;
            assert_eq!(knew, action == Action::Remove, "{action:?} {number}");
            *word ^= bit;
            self.updates += 1;
        }
    }

    fn knows(&self) -> u32 {
        self.told.iter().map(|word| word.count_ones()).sum()
    }
}

fn route(number: u32) -> Route {
    let next_hop = NextHop {
        address: [0xfd; 16].into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    let prefix = (0x0a00_0000 + number).to_be_bytes().into();
    Route { destination: Destination { prefix, length: 32 }, next_hop }
}

/// Action and number of a route, read where all frames of this test have them: decoding takes long.
fn meaning_of(payload: &[u8]) -> (Action, usize) {
    let (action, rest) = match payload {
        [8, 1, rest @ ..] => (Action::Remove, rest),
        rest => (Action::Add, rest),
    };
    // Field and VNI, field and length of the destination, field, length and bytes of the prefix.
    let &[16, 7, 26, _, 18, 4, 10, a, b, c, ..] = rest else { panic!("{payload:?}") };
    (action, u32::from_be_bytes([0, a, b, c]) as usize)
}

struct Core {
    shard: Shard,
    now: Time,
    /// The most that logs and laggards took.
    bytes_max: usize,
    closed: usize,
}

impl Core {
    fn new() -> Core {
        let limits = Limits { routes_per_peer_max: 2 * ROUTES_EACH, ..Limits::default() };
        let config = ShardConfig { limits, ..shard_config(0, 1) };
        Core { shard: Shard::new(config, Time(1)), now: Time(1), bytes_max: 0, closed: 0 }
    }

    fn turn(&mut self) -> bool {
        self.now = self.now.after(Duration::from_millis(1));
        let left = self.shard.turn(self.now);
        while let Some((id, wake)) = self.shard.take_woken() {
            if wake == Wake::Close {
                self.closed += 1;
                self.shard.release(self.now, id);
            }
        }
        let held = self.shard.usage();
        self.bytes_max = self.bytes_max.max(held.log_bytes + held.laggard_bytes);
        left
    }

    fn say(&mut self, id: PeerId, messages: &[Message]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        self.shard.receive(self.now, id, &bytes);
        while self.turn() {}
    }

    fn connect(&mut self) -> View {
        let id = self.shard.accept(self.now, ([127, 0, 0, 1], 1).into());
        let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles: false };
        self.say(id, &[Message::Hello(hello), Message::Keepalive]);
        let words = 2 * (ANNOUNCERS * ROUTES_EACH) as usize / 64;
        View { id, from_server: Deframer::new(), told: vec![0; words], updates: 0 }
    }

    /// A piece, if there is one.
    fn read(&mut self, reader: &mut View) -> bool {
        let Transmit::Send(piece) = self.shard.transmit(self.now, reader.id, TcpSample::default())
        else {
            return false;
        };
        let length = piece.as_slice().len();
        reader.read(piece.as_slice());
        drop(piece);
        self.shard.transmitted(self.now, reader.id, length);
        true
    }

    fn announce(&mut self, announcers: &[View], bytes_of: impl Fn(u32) -> Vec<u8>) {
        let said: Vec<Vec<u8>> = (0..ANNOUNCERS).map(bytes_of).collect();
        let mut at = [0; ANNOUNCERS as usize];
        while (0..said.len()).any(|from| at[from] < said[from].len()) {
            for (from, announcer) in announcers.iter().enumerate() {
                if self.shard.wants_read(announcer.id) {
                    let end = (at[from] + READ_BYTES).min(said[from].len());
                    self.shard.receive(self.now, announcer.id, &said[from][at[from]..end]);
                    at[from] = end;
                }
            }
            self.turn();
        }
        while self.turn() {}
    }
}

/// Routes `first..first + ROUTES_EACH` of an announcer; each has 200,000 numbers.
fn frames(action: Action, announcer: u32, first: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let begin = announcer * 2 * ROUTES_EACH + first;
    (begin..begin + ROUTES_EACH).for_each(|at| encode_update(&mut bytes, action, VNI, &route(at)));
    bytes
}

/// 400 readers do not read while 300,000 routes are replaced at once, and then lost with their announcers. A
/// few of them come back: after the replacement, and when all is gone. The others leave.
#[test]
fn a_large_table_is_replaced_and_lost_while_nobody_reads() {
    let mut core = Core::new();
    let announcers: Vec<View> = (0..ANNOUNCERS).map(|_| core.connect()).collect();
    core.announce(&announcers, |from| frames(Action::Add, from, 0));
    let routes = ANNOUNCERS * ROUTES_EACH;
    assert_eq!(core.shard.usage().routes, routes as usize);

    let mut readers: Vec<View> = (0..READERS).map(|_| core.connect()).collect();
    for reader in &readers {
        core.say(reader.id, &[Message::Subscribe(VNI)]);
    }
    // One in ten knows it all; the others know a part, each another one.
    for (at, reader) in readers.iter_mut().enumerate() {
        let enough = if at % 10 == 0 { routes } else { 25 * at as u32 };
        while reader.updates < u64::from(enough) && core.read(reader) {}
    }

    let replaced = |from| [frames(Action::Add, from, ROUTES_EACH), frames(Action::Remove, from, 0)];
    core.announce(&announcers, |from| replaced(from).concat());
    assert_eq!(core.shard.usage().routes, routes as usize);
    let come_back = |core: &mut Core, readers: &mut [View], routes: u32| {
        for reader in readers {
            let (knew, before) = (reader.knows(), reader.updates);
            // Where there is nothing for it, a turn may have more.
            while (0..100).any(|_| core.read(reader) || core.turn()) {
                assert!(reader.updates - before < 2_000_000, "it ends");
            }
            let got = reader.updates - before;
            assert_eq!(
                reader.knows(),
                routes,
                "{} ends right: it knew {knew}, and got {got}",
                reader.id
            );
            // The difference of what it knew to what is there now, and what of its base was in flight.
            let most = u64::from(knew + routes) + (READ_BYTES / FRAME_BYTES) as u64;
            assert!(got <= most, "{got} messages from {knew} routes to {routes}");
        }
    };
    let (now, later) = readers.split_at_mut(20);
    come_back(&mut core, now, routes);

    for announcer in &announcers {
        core.shard.read_ended(core.now, announcer.id, Ok(()));
    }
    while core.turn() {}
    assert_eq!(core.shard.usage().routes, 0);
    come_back(&mut core, now, 0);
    let (later, never) = later.split_at_mut(60);
    come_back(&mut core, later, 0);
    assert_eq!(core.closed, announcers.len(), "nobody else");
    for reader in never {
        core.shard.read_ended(core.now, reader.id, Ok(()));
    }
    while core.turn() {}

    let held = core.shard.usage();
    assert_eq!((held.log_bytes, held.laggard_bytes), (0, 0), "all was read: {held:?}");
    // Two tables of 300,000 routes, at 16 MiB each; three times that, and a bit for each reader and route.
    let table_bytes = 2 * routes as usize * FRAME_BYTES;
    let most = 3 * table_bytes + (READERS * 2 * routes / 8) as usize;
    assert!(core.bytes_max <= most, "{} MiB, at most {}", core.bytes_max >> 20, most >> 20);
}
