//! One connection between the node and a server: the bytes on their way, and what they mean.
//!
//! It reads both directions as they are sent and heard, and knows from that alone what counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use metalbond_uring::internals::shard::Piece;
use metalbond_uring::internals::wire::{self, Deframer, Message, Update};
use metalbond_uring::types::{Action, PeerId, Route, Time, Vni};

use crate::memory::{Maybe, Told};
use crate::server::Player;

/// What a server that does not reassemble may be sent unanswered: 16 KiB, and the batch that passes them.
const UNANSWERED_BYTES_MAX: usize = (16 << 10) + 1_188;
/// No dump is complete before.
const DUMP_TIME_MIN: Duration = Duration::from_secs(10);
/// But it is then.
const DUMP_TIME_MAX: Duration = Duration::from_secs(600);

/// How far the node is with leaving a VNI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaving {
    /// UNSUBSCRIBE was not sent yet.
    Wants,
    /// It was, but no KEEPALIVE behind it.
    Said,
    /// This KEEPALIVE was.
    Asked(u64),
}

pub struct Link {
    pub id: PeerId,
    pub player: Option<Player>,
    pub to_server: VecDeque<u8>,
    pub to_node: VecDeque<u8>,
    /// What the kernel has of the node's current SEND.
    pub in_flight: Option<Piece>,
    /// The server closed; the node has not noticed yet.
    pub hung_up: bool,

    reassembles: bool,
    sent: Deframer,
    heard: Deframer,
    hello_heard: bool,
    pub established_at: Option<Time>,
    /// VNIs that the node wanted at some time since.
    wanted: BTreeSet<Vni>,
    /// VNIs subscribed to, as the server sees it.
    subscribed: BTreeSet<Vni>,
    leaving: BTreeMap<Vni, Leaving>,
    keepalives_sent: u64,
    keepalives_answered: u64,

    pub told: Told,
    pub has_told: bool,
    pub is_provisional: Maybe,
    /// The last route that was added, or VNI that was asked for.
    told_last: Time,
    /// The first KEEPALIVE sent after a quiet time.
    asked: Option<u64>,
    /// Whether the node may think that the server has told all.
    pub may_have_told_all: bool,

    bytes_sent: usize,
    /// Bytes sent before each KEEPALIVE that is not answered yet, and before the last one that is.
    sent_before: VecDeque<usize>,
    read_bytes: usize,
}

impl Link {
    pub fn new(id: PeerId, player: Option<Player>, reassembles: bool) -> Link {
        Link {
            id,
            player,
            to_server: VecDeque::new(),
            to_node: VecDeque::new(),
            in_flight: None,
            hung_up: false,
            reassembles,
            sent: Deframer::new(),
            heard: Deframer::new(),
            hello_heard: false,
            established_at: None,
            wanted: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            leaving: BTreeMap::new(),
            keepalives_sent: 0,
            keepalives_answered: 0,
            told: Told::new(),
            has_told: false,
            is_provisional: Maybe::No,
            told_last: Time(0),
            asked: None,
            may_have_told_all: false,
            bytes_sent: 0,
            sent_before: VecDeque::new(),
            read_bytes: 0,
        }
    }

    pub fn reassembles(&self) -> bool {
        self.reassembles
    }

    /// The session stands.
    pub fn established(&mut self, now: Time, wants: impl Iterator<Item = Vni>, maybe: Maybe) {
        self.established_at = Some(now);
        self.wanted = wants.collect();
        self.told_last = now;
        self.is_provisional = maybe;
    }

    /// The node wants a VNI.
    pub fn wants(&mut self, now: Time, vni: Vni) {
        if self.established_at.is_some() {
            self.wanted.insert(vni);
            self.told_last = now;
            self.asked = None;
        }
    }

    /// The node wants it no more: of a server that reassembles nothing counts until a barrier.
    pub fn wants_no_more(&mut self, vni: Vni) {
        if self.established_at.is_some() && self.reassembles {
            self.leaving.entry(vni).or_insert(Leaving::Wants);
            self.told.retain(|&(of, _), _| of != vni);
        }
    }

    /// The node sent this.
    pub fn observe_sent(&mut self, now: Time, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes).expect("frames are whole") {
            let message = wire::decode(frame).expect("messages decode");
            let mut frame_bytes = Vec::new();
            message.encode(&mut frame_bytes);
            match message {
                Message::Hello(_) => {}
                Message::Keepalive => self.observe_keepalive_sent(now),
                Message::Subscribe(vni) => {
                    assert!(self.subscribed.insert(vni), "SUBSCRIBE {vni} again without a barrier");
                    self.asked = None;
                }
                Message::Unsubscribe(vni) => {
                    assert!(self.subscribed.contains(&vni), "UNSUBSCRIBE {vni} without SUBSCRIBE");
                    let before = self.leaving.insert(vni, Leaving::Said);
                    assert_eq!(before, Some(Leaving::Wants), "UNSUBSCRIBE {vni}");
                }
                Message::Update(_) => assert!(self.established_at.is_some(), "too early"),
            }
            if !matches!(message, Message::Hello(_) | Message::Keepalive) {
                self.bytes_sent += frame_bytes.len();
            }
        }
        let unanswered = self.bytes_sent - self.read_bytes;
        assert!(self.reassembles || unanswered <= UNANSWERED_BYTES_MAX, "{unanswered} unanswered");
    }

    fn observe_keepalive_sent(&mut self, now: Time) {
        assert!(self.hello_heard, "KEEPALIVE comes after the server's HELLO");
        self.keepalives_sent += 1;
        self.sent_before.push_back(self.bytes_sent);
        for leaving in self.leaving.values_mut().filter(|at| **at == Leaving::Said) {
            *leaving = Leaving::Asked(self.keepalives_sent);
        }
        let Some(established_at) = self.established_at else { return };
        let quiet = Duration::from_secs(if self.reassembles { 2 } else { 5 });
        if now >= self.told_last.after(quiet).max(established_at.after(DUMP_TIME_MIN)) {
            self.asked.get_or_insert(self.keepalives_sent);
        }
    }

    /// The node hears the next message, if it is whole. `is_own` tells what the node announces.
    pub fn observe_heard(
        &mut self,
        now: Time,
        bytes: &mut &[u8],
        is_own: impl Fn(Vni, &Route) -> bool,
    ) -> Option<Heard> {
        let frame = self.heard.next(bytes).expect("frames are whole")?;
        let is_bare = frame.payload.is_empty();
        match wire::decode(frame).expect("messages decode") {
            Message::Hello(_) => self.hello_heard = true,
            Message::Keepalive if is_bare => {
                self.observe_answer();
                if self.keepalives_answered == 1 {
                    return Some(Heard::Established);
                }
            }
            Message::Update(update) if self.counts(&update, &is_own) => {
                self.observe_update(now, update);
                return Some(Heard::Update(update));
            }
            _ => {}
        }
        Some(Heard::Nothing)
    }

    fn observe_answer(&mut self) {
        self.keepalives_answered += 1;
        let answered = self.keepalives_answered;
        self.read_bytes = self.sent_before.pop_front().expect("answers only");
        let subscribed = &mut self.subscribed;
        self.leaving.retain(|vni, at| {
            let is_left = matches!(*at, Leaving::Asked(number) if number <= answered);
            if is_left {
                subscribed.remove(vni);
            }
            !is_left
        });
        self.may_have_told_all |= self.asked.is_some_and(|asked| asked <= answered);
    }

    fn counts(&self, update: &Update, is_own: impl Fn(Vni, &Route) -> bool) -> bool {
        let Update { action, vni, route } = update;
        let is_echo = !self.reassembles && *action == Action::Add && is_own(*vni, route);
        self.wanted.contains(vni) && !self.leaving.contains_key(vni) && !is_echo
    }

    fn observe_update(&mut self, now: Time, Update { action, vni, route }: Update) {
        match action {
            Action::Add => {
                self.told.entry((vni, route)).or_insert(now);
                self.has_told = true;
                self.told_last = now;
                self.asked = None;
            }
            Action::Remove => {
                self.told.remove(&(vni, route));
            }
        }
    }

    /// Time passed.
    pub fn observe_time(&mut self, now: Time, stale_time: Duration) {
        if let Some(established_at) = self.established_at {
            self.may_have_told_all |= now >= established_at.after(DUMP_TIME_MAX.max(stale_time));
        }
    }
}

/// What a message was to the node.
#[derive(Debug)]
pub enum Heard {
    Established,
    /// It counts.
    Update(Update),
    Nothing,
}
