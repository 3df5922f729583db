//! A peer that is lost and comes back within the stale time is not noticed by others.
//!
//! Owns some shards without a network, an observer, and peers that come and go. Must never look into shards but
//! through what they say of themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use metalbond_uring::internals::policy::{AnnouncePolicy, NextHopPolicy, Policy};
use metalbond_uring::internals::shard::{
    Limits, PeerView, Shard, ShardConfig, TcpSample, Transmit,
};
use metalbond_uring::internals::wire::{Deframer, Hello, Message, Update, decode};
use metalbond_uring::types::{Action, PeerId, Route, Time, Vni};

use crate::config::shard_config;
use crate::quiet;
use crate::routes::{self, number_of};

const SHARDS: u16 = 3;
const STALE_S: u64 = 30;
/// So many VNIs that each shard is the home of some.
const VNIS: u32 = 8;
const KEEPALIVE_S: u32 = 5;

#[derive(Clone, Copy)]
struct At {
    shard: usize,
    id: PeerId,
}

struct Field {
    now: Time,
    shards: Vec<Shard>,
    observer: At,
}

fn route(number: u32) -> (Vni, Route) {
    (Vni(number % VNIS), routes::route(number))
}

impl Field {
    /// Somebody observes all VNIs.
    fn new(limits: Limits) -> Field {
        let shard = |at| {
            let config = ShardConfig {
                limits,
                keepalive_interval_s: KEEPALIVE_S,
                stale_time: Duration::from_secs(STALE_S),
                ..shard_config(at, SHARDS)
            };
            Shard::new(config, Time(1))
        };
        let shards: Vec<_> = (0..SHARDS).map(shard).collect();
        let observer = At { shard: 0, id: PeerId::new(metalbond_uring::types::ShardId(0), 0, 0) };
        let mut field = Field { now: Time(1), shards, observer };
        field.observer = field.arrives(0, "[fd00::99]:1", false);
        for vni in 0..VNIS {
            field.say(field.observer, &[Message::Subscribe(Vni(vni))]);
        }
        assert!(field.heard(field.observer).is_empty());
        field
    }

    /// A peer that has said HELLO and KEEPALIVE.
    fn arrives(&mut self, shard: usize, remote: &str, is_server: bool) -> At {
        let id = self.shards[shard].accept(self.now, remote.parse().expect("an address"));
        let at = At { shard, id };
        let hello = Hello { keepalive_interval_s: KEEPALIVE_S, is_server, reassembles: true };
        self.say(at, &[Message::Hello(hello), Message::Keepalive]);
        self.heard(at);
        at
    }

    fn say(&mut self, at: At, messages: &[Message]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        self.shards[at.shard].receive(self.now, at.id, &bytes);
        self.rest();
    }

    fn announces(&mut self, at: At, numbers: impl IntoIterator<Item = u32>) {
        let adds = numbers.into_iter().map(|number| {
            let (vni, route) = route(number);
            Message::Update(Update { action: Action::Add, vni, route })
        });
        self.say(at, &adds.collect::<Vec<_>>());
    }

    /// The peer's connection is reset.
    fn is_lost(&mut self, at: At) {
        let reset = std::io::Error::from_raw_os_error(104);
        self.shards[at.shard].read_ended(self.now, at.id, Err(reset));
        self.rest();
    }

    /// Time goes on, and everybody says KEEPALIVE each interval.
    fn pass(&mut self, seconds: u64, connected: &[At]) {
        for _ in 0..seconds.div_ceil(u64::from(KEEPALIVE_S)) {
            self.now = self.now.after(Duration::from_secs(KEEPALIVE_S.into()));
            for at in connected.iter().copied().chain([self.observer]) {
                self.say(at, &[Message::Keepalive]);
            }
            self.rest();
        }
    }

    fn rest(&mut self) {
        quiet::rest(&mut self.shards, self.now);
    }

    /// The UPDATEs that a peer was sent.
    fn heard(&mut self, at: At) -> Vec<(Action, u32)> {
        let (mut bytes, mut heard) = (Vec::new(), Vec::new());
        let shard = &mut self.shards[at.shard];
        while let Transmit::Send(piece) = shard.transmit(self.now, at.id, TcpSample::default()) {
            bytes.extend_from_slice(piece.as_slice());
            shard.transmitted(self.now, at.id, piece.as_slice().len());
        }
        let (mut deframer, mut input) = (Deframer::new(), &bytes[..]);
        while let Some(frame) = deframer.next(&mut input).expect("whole frames") {
            if let Message::Update(update) = decode(frame).expect("a message") {
                heard.push((update.action, number_of(&update.route)));
            }
        }
        self.rest();
        heard
    }

    fn observed(&mut self) -> Vec<(Action, u32)> {
        self.heard(self.observer)
    }

    fn obeys(&mut self, rules: &str) {
        let rules = AnnouncePolicy::parse(rules.as_bytes()).expect("rules");
        let policy = Policy::new(NextHopPolicy::Any, Some(Arc::new(rules)));
        for shard in &mut self.shards {
            shard.set_policy(self.now, policy.clone());
        }
        self.rest();
    }

    fn view(&self, at: At) -> PeerView {
        let peers = self.shards[at.shard].peers_piece(self.now, 0).peers;
        peers.into_iter().find(|peer| peer.id == at.id).expect("it is connected")
    }

    fn absent(&self) -> usize {
        self.shards.iter().map(|shard| shard.usage().sources_absent).sum()
    }
}

/// An observed field with a peer that has announced 0..count.
fn with_peer(limits: Limits, count: u32) -> (Field, At) {
    let mut field = Field::new(limits);
    let peer = field.arrives(1, "[fd00::1]:1", false);
    field.announces(peer, 0..count);
    let added: BTreeSet<_> = field.observed().into_iter().collect();
    assert_eq!(added, (0..count).map(|number| (Action::Add, number)).collect());
    (field, peer)
}

fn removed(observed: Vec<(Action, u32)>) -> BTreeSet<u32> {
    assert!(observed.iter().all(|(action, _)| *action == Action::Remove), "{observed:?}");
    observed.into_iter().map(|(_, number)| number).collect()
}

#[test]
fn who_comes_back_in_time_is_not_noticed_whichever_shard_it_comes_to() {
    for shard in 0..usize::from(SHARDS) {
        let (mut field, peer) = with_peer(Limits::default(), 50);
        field.is_lost(peer);
        assert_eq!(field.absent(), 1);
        field.pass(20, &[]);
        let again = field.arrives(shard, "[fd00::1]:2", false);
        assert_eq!((field.absent(), field.view(again).routes), (0, 50));
        // It hears nothing of its own.
        (0..VNIS).for_each(|vni| field.say(again, &[Message::Subscribe(Vni(vni))]));
        field.announces(again, 0..50);
        field.pass(40, &[again]);
        assert_eq!(field.heard(again), [], "its own routes");
        assert_eq!(field.observed(), [], "shard {shard}");
        let view = field.view(again);
        assert_eq!((view.routes, view.is_stale), (50, false));
        // Not for once only.
        field.is_lost(again);
        let third = field.arrives((shard + 1) % 3, "[fd00::1]:3", false);
        field.announces(third, 0..50);
        field.pass(40, &[third]);
        assert_eq!(field.observed(), []);
    }
}

#[test]
fn who_does_not_come_back_is_withdrawn_when_the_time_is_over() {
    let (mut field, peer) = with_peer(Limits::default(), 20);
    field.is_lost(peer);
    field.pass(STALE_S - 5, &[]);
    assert_eq!(field.observed(), []);
    // Somebody else does not count.
    let other = field.arrives(1, "[fd00::2]:1", false);
    assert_eq!(field.view(other).routes, 0, "nobody takes over what was another address's");
    field.announces(other, [7]);
    field.pass(5, &[other]);
    let gone = removed(field.observed());
    assert_eq!(gone, (0..20).filter(|number| *number != 7).collect());
}

#[test]
fn a_server_does_not_go_on_with_what_a_client_was() {
    let (mut field, peer) = with_peer(Limits::default(), 5);
    field.is_lost(peer);
    let server = field.arrives(1, "[fd00::1]:2", true);
    assert_eq!((field.absent(), field.view(server).routes), (1, 0));
}

#[test]
fn what_is_not_announced_again_goes_after_an_interval_of_silence() {
    let (mut field, peer) = with_peer(Limits::default(), 20);
    field.is_lost(peer);
    let again = field.arrives(2, "[fd00::1]:2", false);
    field.pass(10, &[again]);
    assert_eq!(field.observed(), [], "it has not begun to announce");
    field.announces(again, 0..15);
    assert_eq!(field.observed(), []);
    field.pass(u64::from(KEEPALIVE_S), &[again]);
    assert_eq!(removed(field.observed()), (15..20).collect());
    assert_eq!(field.view(again).routes, 15);
}

#[test]
fn of_two_clients_at_one_address_neither_loses_what_the_other_one_announces() {
    let (mut field, first) = with_peer(Limits::default(), 10);
    let second = field.arrives(0, "[fd00::1]:2", false);
    field.announces(second, 10..20);
    assert_eq!(field.observed().len(), 10);
    field.is_lost(first);
    field.is_lost(second);
    assert_eq!(field.absent(), 2);
    // The first one takes over what the second one was: silence shows nothing then.
    let first = field.arrives(2, "[fd00::1]:3", false);
    field.announces(first, 0..10);
    field.pass(15, &[first]);
    assert_eq!(field.observed(), []);
    let second = field.arrives(1, "[fd00::1]:4", false);
    field.announces(second, 10..20);
    field.pass(60, &[first, second]);
    assert_eq!(field.observed(), []);
    assert_eq!(field.absent(), 0);
    // And what neither announces any more goes.
    field.is_lost(first);
    field.pass(40, &[second]);
    assert_eq!(removed(field.observed()), (0..10).collect());
}

#[test]
fn a_connection_that_comes_before_the_old_one_is_known_to_be_dead_is_not_noticed() {
    let (mut field, dead) = with_peer(Limits::default(), 10);
    let again = field.arrives(0, "[fd00::1]:2", false);
    field.announces(again, 0..10);
    field.is_lost(dead);
    field.pass(2 * STALE_S, &[again]);
    assert_eq!(field.observed(), []);
    assert_eq!((field.absent(), field.view(again).routes), (0, 10));
}

#[test]
fn limits_count_what_a_peer_announces_now_and_nothing_piles_up_from_life_to_life() {
    let limits = Limits { routes_per_peer_max: 10, ..Limits::default() };
    let (mut field, peer) = with_peer(limits, 10);
    field.is_lost(peer);
    let again = field.arrives(0, "[fd00::1]:2", false);
    field.announces(again, 0..10);
    assert_eq!(field.observed(), [], "at its limit, with the same as before");
    field.is_lost(again);
    let again = field.arrives(1, "[fd00::1]:3", false);
    field.announces(again, (0..4).chain(20..28));
    let added: BTreeSet<_> = field.observed().into_iter().collect();
    assert_eq!(added, (20..26).map(|number| (Action::Add, number)).collect());
    let refused: u64 = field.view(again).refused.iter().map(|(_, count)| count).sum();
    assert_eq!((field.view(again).routes, refused), (16, 2));
    // It leaves no more behind than it may announce.
    field.is_lost(again);
    assert_eq!(removed(field.observed()), (4..10).collect());
    let again = field.arrives(0, "[fd00::1]:4", false);
    assert_eq!(field.view(again).routes, 10);
}

#[test]
fn what_a_life_before_the_last_one_announced_goes_when_its_own_time_is_over() {
    let (mut field, peer) = with_peer(Limits::default(), 10);
    field.is_lost(peer);
    field.pass(20, &[]);
    let second = field.arrives(1, "[fd00::1]:2", false);
    field.announces(second, 0..5);
    field.is_lost(second);
    // 30 s after the first loss, while nobody is there, or somebody who has said nothing.
    let third = field.arrives(2, "[fd00::1]:3", false);
    field.pass(10, &[third]);
    assert_eq!(removed(field.observed()), (5..10).collect());
    field.announces(third, 0..5);
    field.pass(60, &[third]);
    assert_eq!(field.observed(), []);
}

#[test]
fn who_breaks_the_protocol_is_gone_at_once() {
    let (mut field, peer) = with_peer(Limits::default(), 10);
    field.shards[peer.shard].receive(field.now, peer.id, &[9, 9, 9, 9]);
    field.rest();
    assert_eq!(removed(field.observed()), (0..10).collect());
    assert_eq!(field.absent(), 0);
}

#[test]
fn a_route_that_may_come_from_another_peer_from_now_on_is_always_there() {
    let (mut field, first) = with_peer(Limits::default(), 40);
    let second = field.arrives(2, "[fd00::2]:1", false);
    field.obeys("permit peer fd00::1");
    field.announces(second, 0..40);
    assert_eq!((field.view(first).routes_withheld, field.view(second).routes_withheld), (0, 40));
    field.obeys("permit peer fd00::2");
    assert_eq!(field.observed(), []);
    assert_eq!((field.view(first).routes_withheld, field.view(second).routes_withheld), (40, 0));
    // Neither while nobody is connected.
    field.is_lost(second);
    field.obeys("permit");
    field.obeys("permit peer fd00::1");
    let again = field.arrives(1, "[fd00::2]:2", false);
    assert_eq!((field.view(again).routes, field.view(again).routes_withheld), (40, 40));
    assert_eq!(field.observed(), []);
    field.obeys("deny");
    assert_eq!(removed(field.observed()), (0..40).collect());
}

#[test]
fn where_room_is_missing_what_is_permitted_comes_when_others_have_gone() {
    let limits = Limits { routes_max: 10, ..Limits::default() };
    let (mut field, _) = with_peer(limits, 10);
    let second = field.arrives(2, "[fd00::2]:1", false);
    field.obeys("permit peer fd00::1");
    field.announces(second, 20..30);
    field.obeys("permit peer fd00::2");
    let observed: BTreeSet<_> = field.observed().into_iter().collect();
    let expected = (0..10).map(|number| (Action::Remove, number));
    assert_eq!(observed, expected.chain((20..30).map(|number| (Action::Add, number))).collect());
}
