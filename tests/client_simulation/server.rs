//! Servers: cores of our own, and players of those in the field.

use std::collections::{BTreeSet, VecDeque};

use metalbond_uring::internals::shard::{Shard, TcpSample, Transmit, Wake};
use metalbond_uring::internals::wire::{self, Deframer, Hello, Message, Update};
use metalbond_uring::types::{Action, PeerId, Route, Time, Vni};

pub type Table = BTreeSet<(Vni, Route)>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Does not reassemble, takes UNSUBSCRIBE for an offence, fails at a second SUBSCRIBE, says things
    /// twice, and what nobody asked for.
    Field,
    /// Of our kind, played.
    Ours,
    /// Our core.
    Core,
}

/// One connection at a server that is played.
pub struct Player {
    kind: Kind,
    deframer: Deframer,
    hello_heard: bool,
    is_established: bool,
    pub subscribed: BTreeSet<Vni>,
    /// What the node announced here.
    pub announced: Table,
    /// KEEPALIVEs that it did not answer, being mute.
    pub unanswered: u32,
    pub out: VecDeque<u8>,
}

impl Player {
    pub fn new(kind: Kind) -> Player {
        Player {
            kind,
            deframer: Deframer::new(),
            hello_heard: false,
            is_established: false,
            subscribed: BTreeSet::new(),
            announced: BTreeSet::new(),
            unanswered: 0,
            out: VecDeque::new(),
        }
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.out.extend(bytes);
    }

    pub fn tell(&mut self, action: Action, vni: Vni, route: Route) {
        self.say(&Message::Update(Update { action, vni, route }));
    }

    /// Its table changed.
    pub fn changed(&mut self, action: Action, vni: Vni, route: Route) {
        if self.is_established && (self.subscribed.contains(&vni) || self.kind == Kind::Field) {
            self.tell(action, vni, route);
        }
    }

    pub fn unmute(&mut self) {
        self.is_established |= self.unanswered > 0;
        (0..std::mem::take(&mut self.unanswered)).for_each(|_| self.say(&Message::Keepalive));
    }

    /// Reads what the node sent; panics at anything that it should not have sent.
    pub fn read(&mut self, mut bytes: &[u8], table: &Table, is_mute: bool) {
        while let Some(frame) = self.deframer.next(&mut bytes).expect("frames are whole") {
            let message = wire::decode(frame).expect("messages decode");
            self.hear(&message, table, is_mute);
        }
    }

    fn hear(&mut self, message: &Message, table: &Table, is_mute: bool) {
        match message {
            Message::Hello(hello) => {
                assert!(!std::mem::replace(&mut self.hello_heard, true), "one HELLO");
                assert!(hello.reassembles && !hello.is_server);
                let reassembles = self.kind != Kind::Field;
                self.say(&Message::Hello(Hello { reassembles, is_server: true, ..*hello }));
            }
            Message::Keepalive => {
                assert!(self.hello_heard, "HELLO comes first");
                self.unanswered += 1;
                if !is_mute {
                    self.unmute();
                }
            }
            Message::Subscribe(vni) => {
                assert!(self.is_established);
                assert!(self.subscribed.insert(*vni), "{vni} is subscribed: it fails at that");
                for &(_, route) in table.iter().filter(|(of, _)| of == vni) {
                    self.tell(Action::Add, *vni, route);
                }
                if self.kind == Kind::Field {
                    // Once for each announcer, and the node's own as well.
                    let own = self.announced.clone();
                    for &(_, route) in own.iter().chain(table).filter(|(of, _)| of == vni) {
                        self.tell(Action::Add, *vni, route);
                    }
                }
            }
            Message::Unsubscribe(vni) => {
                assert!(self.kind != Kind::Field, "servers in the field withdraw what we announce");
                assert!(self.subscribed.remove(vni), "{vni} is not subscribed");
            }
            Message::Update(Update { action, vni, route }) => {
                assert!(self.is_established);
                let is_news = match action {
                    Action::Add => self.announced.insert((*vni, *route)),
                    Action::Remove => self.announced.remove(&(*vni, *route)),
                };
                assert!(is_news, "{action:?} {vni} {route} changes nothing");
            }
        }
    }
}

/// A server that is our core, with a peer that announces its table.
pub struct Core {
    pub shard: Shard,
    feeder: PeerId,
    /// The node's connection.
    pub node: Option<PeerId>,
    /// The node's connection was closed by the core.
    pub closed: bool,
}

impl Core {
    pub fn new(mut shard: Shard, now: Time) -> Core {
        let feeder = shard.accept(now, "[::1]:1".parse().expect("an address"));
        let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles: true };
        let mut bytes = Vec::new();
        [Message::Hello(hello), Message::Keepalive].iter().for_each(|m| m.encode(&mut bytes));
        shard.receive(now, feeder, &bytes);
        let mut core = Core { shard, feeder, node: None, closed: false };
        core.turn(now);
        core
    }

    pub fn changed(&mut self, now: Time, action: Action, vni: Vni, route: Route) {
        let mut bytes = Vec::new();
        wire::encode_update(&mut bytes, action, vni, &route);
        self.shard.receive(now, self.feeder, &bytes);
        self.turn(now);
    }

    /// Turns until nothing is left to do but to write.
    pub fn turn(&mut self, now: Time) {
        while self.shard.turn(now) {}
        while let Some((id, wake)) = self.shard.take_woken() {
            if wake == Wake::Close {
                assert_ne!(id, self.feeder, "nothing closes it");
                self.closed = true;
            }
        }
        let feeder = self.feeder;
        while !self.write(now, feeder).is_empty() {}
    }

    pub fn write(&mut self, now: Time, id: PeerId) -> Vec<u8> {
        let Transmit::Send(piece) = self.shard.transmit(now, id, TcpSample::default()) else {
            return Vec::new();
        };
        let bytes = piece.as_slice().to_vec();
        drop(piece);
        self.shard.transmitted(now, id, bytes.len());
        bytes
    }

    /// The node's connection is over.
    pub fn hung_up(&mut self, now: Time) {
        if let Some(id) = self.node.take() {
            self.shard.read_ended(now, id, Ok(()));
            let _ = self.shard.release(now, id);
            self.turn(now);
            self.closed = false;
        }
    }
}
