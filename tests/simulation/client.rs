//! A simulated peer: what it wants, what it was told, and what it may be told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use metalbond_uring::internals::shard::{BATCH_BYTES_MAX, Piece};
use metalbond_uring::internals::wire::{self, Deframer, Hello, Message, Update};
use metalbond_uring::types::{Action, PeerId, Route, Vni};

/// Routes by VNI.
pub type Tables = Vec<(Vni, BTreeSet<Route>)>;

/// What the peer knows of one VNI.
#[derive(Default, Debug)]
pub struct View {
    pub routes: BTreeSet<Route>,
    /// UPDATEs that came for it.
    pub updates: u64,
    /// The KEEPALIVE answer before which frames belong to an earlier subscription.
    pub from_answer: u64,
    pub subscribed: bool,
}

/// One connection of a client. A lost one is replaced.
#[derive(Debug)]
pub struct Connection {
    pub shard: usize,
    pub id: PeerId,
    pub to_server: VecDeque<u8>,
    /// What the kernel has of the server's current SEND.
    pub in_flight: Option<Piece>,
    pub from_server: Deframer,
    pub hello_received: bool,
    pub established: bool,
    /// The client closed; the server has not noticed yet.
    pub hung_up: bool,
    /// The server closed.
    pub closed: bool,
    pub keepalives_sent: u64,
    pub keepalives_received: u64,
    pub views: BTreeMap<Vni, View>,
    pub announced: BTreeSet<(Vni, Route)>,
    /// UPDATEs said, and heard.
    pub updates: (u64, u64),
    /// Whether it may be told again what it knows.
    pub may_repeat: bool,
    /// Whether the server shows that it lives while it does not read.
    pub hears_unasked: bool,
}

pub struct Client {
    pub is_server: bool,
    pub reassembles: bool,
    pub stuck: bool,
    pub connection: Option<Connection>,
    pub received: u64,
}

impl Connection {
    pub fn new(shard: usize, id: PeerId, is_server: bool, reassembles: bool) -> Connection {
        let mut connection = Connection {
            shard,
            id,
            to_server: VecDeque::new(),
            in_flight: None,
            from_server: Deframer::new(),
            hello_received: false,
            established: false,
            hung_up: false,
            closed: false,
            keepalives_sent: 0,
            keepalives_received: 0,
            views: BTreeMap::new(),
            announced: BTreeSet::new(),
            updates: (0, 0),
            may_repeat: false,
            hears_unasked: false,
        };
        let keepalive_interval_s = 1_000_000;
        connection.say(&Message::Hello(Hello { keepalive_interval_s, is_server, reassembles }));
        connection
    }

    pub fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.to_server.extend(bytes);
        self.keepalives_sent += u64::from(*message == Message::Keepalive);
        self.updates.0 += u64::from(matches!(message, Message::Update(_)));
    }

    pub fn is_live(&self) -> bool {
        !self.hung_up && !self.closed
    }

    pub fn announce(&mut self, vni: Vni, route: Route, routes_max: usize) {
        self.say(&Message::Update(Update { action: Action::Add, vni, route }));
        if self.announced.len() < routes_max {
            self.announced.insert((vni, route));
        }
    }

    pub fn withdraw(&mut self, vni: Vni, route: Route) {
        self.say(&Message::Update(Update { action: Action::Remove, vni, route }));
        self.announced.remove(&(vni, route));
    }

    pub fn subscribe(&mut self, vni: Vni, vnis_max: usize) {
        self.say(&Message::Subscribe(vni));
        let subscribed = self.views.values().filter(|view| view.subscribed).count();
        let view = self.views.entry(vni).or_default();
        view.subscribed |= subscribed < vnis_max;
    }

    /// A KEEPALIVE behind the UNSUBSCRIBE is the barrier: what comes before its answer is old.
    pub fn unsubscribe(&mut self, vni: Vni) {
        self.say(&Message::Unsubscribe(vni));
        self.say(&Message::Keepalive);
        let view = self.views.entry(vni).or_default();
        if view.subscribed {
            *view = View { from_answer: self.keepalives_sent, ..View::default() };
        }
    }

    /// Reads what the server sent; panics at anything that it should not have sent.
    pub fn read(&mut self, bytes: &[u8], is_server: bool, reassembles: bool) -> u64 {
        let mut input = bytes;
        let mut messages = Vec::new();
        while let Some(frame) = self.from_server.next(&mut input).expect("frames are whole") {
            messages.push(wire::decode(frame).expect("messages decode"));
        }
        let count = messages.len() as u64;
        for message in messages {
            match message {
                Message::Hello(hello) => {
                    assert!(!self.hello_received, "one HELLO");
                    assert!(hello.is_server);
                    assert_eq!(hello.reassembles, reassembles, "the server says what we said");
                    self.hello_received = true;
                    self.say(&Message::Keepalive);
                }
                Message::Keepalive => {
                    assert!(self.hello_received, "HELLO comes first");
                    self.established = true;
                    self.keepalives_received += 1;
                    assert!(
                        self.keepalives_received <= self.keepalives_sent || self.hears_unasked,
                        "answers only: {} {} {:?}",
                        self.keepalives_received,
                        self.keepalives_sent,
                        self.id
                    );
                }
                Message::Update(update) => {
                    self.updates.1 += 1;
                    self.learn(&update, is_server);
                }
                other => panic!("a server does not send {other:?}"),
            }
        }
        count
    }

    fn learn(&mut self, update: &Update, is_server: bool) {
        let Update { action, vni, route } = update;
        assert!(self.established, "UPDATEs come after the handshake");
        let received = self.keepalives_received;
        let Some(view) = self.views.get_mut(vni) else {
            panic!("{action:?} {vni} {route}: never subscribed (server: {is_server})");
        };
        if received < view.from_answer {
            return;
        }
        assert!(view.subscribed, "{action:?} {vni} {route}: behind the barrier");
        view.updates += 1;
        let may_repeat = self.may_repeat;
        match action {
            Action::Add => {
                assert!(view.routes.insert(*route) || may_repeat, "{vni} {route} is known");
            }
            Action::Remove => assert!(view.routes.remove(route), "{vni} {route} is unknown"),
        }
    }
}

/// What goes to a peer that takes each read for whole frames must be whole frames, few enough.
pub fn check_piece(bytes: &[u8], end_of_record: bool, reassembles: bool) {
    if reassembles {
        assert!(bytes.len() <= 1 << 16);
        return;
    }
    assert!(end_of_record, "a segment of its own");
    let count = wire::frames(bytes).count();
    assert!(bytes.len() <= BATCH_BYTES_MAX || count == 1, "{count} frames, {}", bytes.len());
}
