//! What is kept of a server that is lost, and of a former run, and until when: the core in virtual time.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use metalbond_uring::internals::shard::{Shard, TcpSample, Transmit};
use metalbond_uring::internals::wire::{self, Deframer, Hello, Message, Update};
use metalbond_uring::types::{Action, PeerId, Route, Time, Vni};

const VNI: Vni = Vni(7);
const SERVER: u64 = 1;

/// A node with its route client, and servers that are played by the test.
struct Node {
    shard: Shard,
    now: Time,
    client: PeerId,
    /// What the route client knows.
    routes: BTreeSet<String>,
    /// Routes that it was told to remove.
    removed: BTreeSet<String>,
    /// When it heard that a former run is over.
    synchronized_at: Option<Duration>,
}

/// One connection to a server.
struct Link {
    id: PeerId,
    answers: bool,
}

fn route(number: u8) -> Route {
    Route {
        destination: format!("10.0.{number}.0/24").parse().unwrap(),
        next_hop: "2001:db8::1".parse().unwrap(),
    }
}

fn names(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| route(number).to_string()).collect()
}

impl Node {
    fn new(hold_time_s: u64) -> Node {
        let config = common::shard_config(3600, Duration::from_secs(hold_time_s));
        let mut shard = Shard::new(config, Time(0));
        let client = shard.attach_client(Time(0));
        shard.own_subscribe(Time(0), VNI);
        let (routes, removed) = Default::default();
        Node { shard, now: Time(0), client, routes, removed, synchronized_at: None }
    }

    fn connect(&mut self, server: u64, reassembles: bool) -> Link {
        let id = self.shard.dialled(self.now, "[::1]:4711".parse().unwrap(), server);
        let mut link = Link { id, answers: true };
        let hello = Hello { keepalive_interval_s: 3600, is_server: true, reassembles };
        self.say(&mut link, &[Message::Hello(hello), Message::Keepalive]);
        link
    }

    fn say(&mut self, link: &mut Link, messages: &[Message]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        self.shard.receive(self.now, link.id, &bytes);
        self.settle(&mut [link]);
    }

    fn tell(&mut self, link: &mut Link, action: Action, number: u8) {
        self.say(link, &[Message::Update(Update { action, vni: VNI, route: route(number) })]);
    }

    /// The connection breaks.
    fn lose(&mut self, link: Link) {
        self.shard.read_ended(self.now, link.id, Ok(()));
        self.settle(&mut []);
        let _ = self.shard.release(self.now, link.id);
        self.settle(&mut []);
    }

    /// Time passes; each link answers KEEPALIVEs if it does so at all.
    fn pass(&mut self, seconds: f64, links: &mut [&mut Link]) {
        let end = self.now.after(Duration::from_secs_f64(seconds));
        loop {
            self.settle(links);
            let next = self.shard.next_wakeup();
            if next > end {
                break;
            }
            self.now = self.now.max(next);
        }
        self.now = end;
        self.settle(links);
    }

    /// Turns, and what they send, until nothing moves.
    fn settle(&mut self, links: &mut [&mut Link]) {
        loop {
            let mut moved = self.shard.turn(self.now);
            while self.shard.take_woken().is_some() {}
            moved |= self.feed_client();
            for link in &mut *links {
                moved |= self.serve(link);
            }
            if !moved {
                return;
            }
        }
    }

    fn sent_to(&mut self, id: PeerId) -> Vec<Message> {
        let Transmit::Send(piece) = self.shard.transmit(self.now, id, TcpSample::default()) else {
            return Vec::new();
        };
        let mut bytes = piece.as_slice();
        let (mut deframer, mut messages) = (Deframer::new(), Vec::new());
        let length = bytes.len();
        while let Some(frame) = deframer.next(&mut bytes).unwrap() {
            messages.push(wire::decode(frame).unwrap());
        }
        drop(piece);
        self.shard.transmitted(self.now, id, length);
        messages
    }

    fn feed_client(&mut self) -> bool {
        let messages = self.sent_to(self.client);
        for message in &messages {
            match message {
                Message::Update(Update { action: Action::Add, route, .. }) => {
                    self.routes.insert(route.to_string());
                }
                Message::Update(Update { action: Action::Remove, route, .. }) => {
                    self.routes.remove(&route.to_string());
                    self.removed.insert(route.to_string());
                }
                Message::Keepalive => {
                    assert_eq!(self.synchronized_at, None, "said once");
                    self.synchronized_at = Some(self.now.since(Time(0)));
                }
                other => panic!("{other:?}"),
            }
        }
        !messages.is_empty()
    }

    fn serve(&mut self, link: &mut Link) -> bool {
        let messages = self.sent_to(link.id);
        let asked = messages.iter().filter(|message| **message == Message::Keepalive).count();
        if link.answers && asked > 0 {
            let mut bytes = Vec::new();
            (0..asked).for_each(|_| Message::Keepalive.encode(&mut bytes));
            self.shard.receive(self.now, link.id, &bytes);
        }
        !messages.is_empty()
    }

    fn synchronized_s(&self) -> Option<u64> {
        self.synchronized_at.map(|at| at.as_secs())
    }
}

#[test]
fn a_former_run_stays_for_the_hold_time_if_no_server_is_there() {
    for hold_time_s in [0, 1, 120] {
        let mut node = Node::new(hold_time_s);
        node.pass(500.0, &mut []);
        assert_eq!(node.synchronized_at, None, "nobody has tried to connect yet");
        node.shard.servers_away(node.now);
        if hold_time_s > 0 {
            node.pass(hold_time_s as f64 - 0.5, &mut []);
            assert_eq!(node.synchronized_at, None);
            node.shard.servers_away(node.now); // the time is not counted anew
        }
        node.pass(0.5, &mut []);
        assert_eq!(node.synchronized_s(), Some(500 + hold_time_s));
    }
}

#[test]
fn a_former_run_is_over_when_the_dump_is() {
    for (reassembles, quiet_s) in [(true, 2), (false, 5)] {
        let mut node = Node::new(0);
        let mut server = node.connect(SERVER, reassembles);
        // A second for a route, longer than any hold time.
        for number in 0..90 {
            node.tell(&mut server, Action::Add, number);
            node.pass(1.0, &mut [&mut server]);
            assert_eq!(node.synchronized_at, None, "after {number} routes");
        }
        node.pass(30.0, &mut [&mut server]);
        assert_eq!(node.synchronized_s(), Some(89 + quiet_s));
        assert_eq!(node.routes, names(0..90));
    }
}

#[test]
fn a_server_that_does_not_answer_has_not_told_all() {
    let mut node = Node::new(0);
    let mut server = node.connect(SERVER, true);
    server.answers = false;
    node.pass(300.0, &mut [&mut server]);
    assert_eq!(node.synchronized_at, None);
    server.answers = true;
    node.say(&mut server, &[Message::Keepalive]);
    node.pass(1.0, &mut [&mut server]);
    assert_eq!(node.synchronized_s(), Some(300));
}

#[test]
fn a_reachable_server_stops_the_clock_and_one_that_still_tells_is_waited_for() {
    let mut node = Node::new(10);
    node.shard.servers_away(node.now);
    node.pass(9.0, &mut []);
    let mut server = node.connect(SERVER, false);
    node.tell(&mut server, Action::Add, 1);
    node.pass(4.0, &mut [&mut server]);
    assert_eq!(node.synchronized_at, None, "the hold time is over, but the server is back");
    // It is lost before it has told all: the time begins again.
    node.lose(server);
    node.shard.servers_away(node.now);
    node.pass(9.0, &mut []);
    assert_eq!(node.synchronized_at, None);
    // At 22 s: one has nothing to say, the other tells slowly.
    let (mut quick, mut slow) = (node.connect(SERVER, true), node.connect(SERVER + 1, false));
    for number in 0..20 {
        node.tell(&mut slow, Action::Add, number);
        node.pass(1.0, &mut [&mut quick, &mut slow]);
        assert_eq!(node.synchronized_at, None, "after {number} routes");
    }
    node.pass(30.0, &mut [&mut quick, &mut slow]);
    assert_eq!(node.synchronized_s(), Some(22 + 19 + 5));
}

#[test]
fn a_server_that_is_lost_is_not_waited_for() {
    let mut node = Node::new(10);
    let (mut quick, mut slow) = (node.connect(SERVER, true), node.connect(SERVER + 1, false));
    for number in 0..15 {
        node.tell(&mut slow, Action::Add, number);
        node.pass(1.0, &mut [&mut quick, &mut slow]);
    }
    assert_eq!(node.synchronized_at, None);
    node.lose(slow);
    node.pass(1.0, &mut [&mut quick]);
    assert_eq!(node.synchronized_s(), Some(15), "the other one has told all");
}

#[test]
fn what_a_returned_server_no_longer_says_goes_when_its_dump_is_complete() {
    for told in [19, 7, 0] {
        let mut node = Node::new(3600);
        let mut server = node.connect(SERVER, true);
        (0..20).for_each(|number| node.tell(&mut server, Action::Add, number));
        node.pass(60.0, &mut [&mut server]);
        node.lose(server);
        node.pass(600.0, &mut []);
        assert_eq!(node.routes, names(0..20), "held");
        let mut server = node.connect(SERVER, true);
        (0..told).for_each(|number| node.tell(&mut server, Action::Add, number));
        node.pass(9.9, &mut [&mut server]);
        assert_eq!(node.routes, names(0..20), "it may not have told all yet");
        node.pass(0.2, &mut [&mut server]);
        assert_eq!(node.routes, names(0..told));
        assert_eq!(node.removed, names(told..20), "what it told again was never removed");
    }
}

#[test]
fn connections_that_come_to_nothing_do_not_shorten_the_hold_time() {
    // Closed at once, before a session, and sessions that tell one route each.
    for tells in [false, true] {
        let mut node = Node::new(120);
        let mut server = node.connect(SERVER, true);
        (0..20).for_each(|number| node.tell(&mut server, Action::Add, number));
        node.lose(server);
        for attempt in 0..20u8 {
            if tells {
                let mut server = node.connect(SERVER, true);
                node.tell(&mut server, Action::Add, attempt % 3);
                node.lose(server);
            } else {
                let id = node.shard.dialled(node.now, "[::1]:4711".parse().unwrap(), SERVER);
                node.lose(Link { id, answers: false });
            }
            node.pass(2.0, &mut []);
            assert!(node.removed.is_empty(), "attempt {attempt}: {:?}", node.removed);
            let held = node.shard.usage().lost_connections;
            assert!(held <= if tells { 4 } else { 1 }, "{held} after attempt {attempt}");
        }
        let mut server = node.connect(SERVER, true);
        (0..15).for_each(|number| node.tell(&mut server, Action::Add, number));
        node.tell(&mut server, Action::Remove, 0);
        node.pass(20.0, &mut [&mut server]);
        assert_eq!(node.routes, names(1..15), "what it says once it is back counts");
        let removed: BTreeSet<String> = names([0]).union(&names(15..20)).cloned().collect();
        assert_eq!(node.removed, removed);
    }
}

#[test]
fn a_server_that_comes_and_goes_for_ever_is_not_held_for_ever() {
    let mut node = Node::new(60);
    let mut server = node.connect(SERVER, true);
    (0..20).for_each(|number| node.tell(&mut server, Action::Add, number));
    node.lose(server);
    for _ in 0..200 {
        let mut server = node.connect(SERVER, true);
        node.tell(&mut server, Action::Add, 0);
        node.pass(5.0, &mut [&mut server]);
        node.lose(server);
    }
    assert!(node.removed.is_superset(&names(1..20)), "{:?}", node.removed);
}

#[test]
fn a_node_that_drains_comes_to_rest() {
    let mut node = Node::new(60);
    let mut server = node.connect(SERVER, true);
    node.tell(&mut server, Action::Add, 1);
    node.shard.drain(node.now, usize::MAX);
    // Not long after the dump would have been judged.
    node.now = node.now.after(Duration::from_secs(30));
    node.shard.turn(node.now);
    assert!(node.shard.next_wakeup() > node.now, "it would turn for ever");
}

#[test]
fn a_restarted_reflector_whose_clients_come_back_one_by_one_loses_nothing() {
    let mut node = Node::new(60);
    let mut server = node.connect(SERVER, true);
    (0..3).for_each(|number| node.tell(&mut server, Action::Add, number));
    node.pass(60.0, &mut [&mut server]);
    node.lose(server);
    let mut server = node.connect(SERVER, true);
    for number in 0..3 {
        // The last one 9 s after the restart.
        node.pass(3.0, &mut [&mut server]);
        node.tell(&mut server, Action::Add, number);
    }
    node.pass(60.0, &mut [&mut server]);
    assert_eq!((node.routes, node.removed), (names(0..3), names([])));
}

#[test]
fn a_dump_that_takes_longer_than_the_hold_time_loses_nothing() {
    let mut node = Node::new(20);
    let mut server = node.connect(SERVER, false);
    (0..60).for_each(|number| node.tell(&mut server, Action::Add, number));
    node.lose(server);
    node.pass(15.0, &mut []);
    let mut server = node.connect(SERVER, false);
    for number in 0..50 {
        node.tell(&mut server, Action::Add, number);
        node.pass(1.0, &mut [&mut server]);
    }
    assert!(node.removed.is_empty(), "{:?}", node.removed);
    // Lost once more before the end: its routes, old and new, stay as long as those of any lost server.
    node.lose(server);
    node.pass(19.0, &mut []);
    assert_eq!(node.routes, names(0..60));
    node.pass(2.0, &mut []);
    assert_eq!(node.routes, names([]));
}

#[test]
fn a_server_that_is_removed_is_not_held() {
    // While it is lost, and while it is back but has not told all.
    for is_back in [false, true] {
        let mut node = Node::new(3600);
        let (mut server, mut other) = (node.connect(SERVER, true), node.connect(SERVER + 1, true));
        (0..10).for_each(|number| node.tell(&mut server, Action::Add, number));
        (5..15).for_each(|number| node.tell(&mut other, Action::Add, number));
        node.lose(server);
        node.pass(10.0, &mut [&mut other]);
        assert_eq!(node.routes, names(0..15));
        let back = is_back.then(|| node.connect(SERVER, true));
        node.shard.forget_server(node.now, SERVER);
        if let Some(back) = back {
            node.shard.hang_up(node.now, back.id);
        }
        node.pass(0.0, &mut [&mut other]);
        assert_eq!(node.routes, names(5..15), "back: {is_back}");
    }
}

#[test]
fn a_server_that_always_has_news_is_not_waited_for_for_ever() {
    let mut node = Node::new(0);
    let mut server = node.connect(SERVER, true);
    for second in 0..700u32 {
        node.tell(&mut server, Action::Add, (second % 250) as u8);
        node.pass(1.0, &mut [&mut server]);
    }
    assert_eq!(node.synchronized_s(), Some(600));
    // Withdrawals are no part of a dump.
    let mut node = Node::new(0);
    let mut server = node.connect(SERVER, true);
    (0..20).for_each(|number| node.tell(&mut server, Action::Add, number));
    for number in 0..20 {
        node.tell(&mut server, Action::Remove, number);
        node.pass(1.0, &mut [&mut server]);
    }
    assert_eq!(node.synchronized_s(), Some(10));
}
