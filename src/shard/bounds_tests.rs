//! Lists that peers could make grow without reading, and steps that could be long: all are bounded.
//!
//! Owns no code of the shard. Must never look at a time.

use std::sync::Arc;

use super::*;
use crate::types::{
    Action, Destination, NextHop, NextHopType, Pace, PeerClass, ReflectOwn, Route, SourceId, Vni,
};
use crate::wire::{Hello, Message, encode_update};

const NOW: Time = Time(1);
const VNI: Vni = Vni(7);

/// The only shard of a server.
pub(super) fn shard(limits: Limits) -> Shard {
    let config = ShardConfig {
        id: ShardId(0),
        shards: 1,
        hash_seed: [1, 2, 3, 4],
        keepalive_interval_s: 86_400,
        reflect_own: ReflectOwn::None,
        pace: Pace::Off,
        limits,
        stale_time: Duration::ZERO,
        budgets: Budgets::default(),
        policy: None,
        ledger: Arc::default(),
        fabric: None,
    };
    Shard::new(config, NOW)
}

fn turns(shard: &mut Shard) {
    while shard.turn(NOW) {}
    while shard.take_woken().is_some() {}
}

fn say(shard: &mut Shard, id: PeerId, messages: &[Message]) {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    shard.receive(NOW, id, &bytes);
    turns(shard);
}

fn peer(shard: &mut Shard) -> PeerId {
    let id = shard.accept(NOW, ([127, 0, 0, 1], 1).into());
    let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles: true };
    say(shard, id, &[Message::Hello(hello), Message::Keepalive]);
    while let Transmit::Send(piece) = shard.transmit(NOW, id, TcpSample::default()) {
        shard.transmitted(NOW, id, piece.as_slice().len());
    }
    id
}

/// A SEND to it begins, and does not end.
fn stall(shard: &mut Shard, id: PeerId) {
    say(shard, id, &[Message::Keepalive]);
    assert!(matches!(shard.transmit(NOW, id, TcpSample::default()), Transmit::Send(_)));
}

fn route(number: u32) -> Route {
    let next_hop = NextHop {
        address: [0xfd; 16].into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    let destination = Destination { prefix: number.to_be_bytes().into(), length: 32 };
    Route { destination, next_hop }
}

fn updates(action: Action, vni: Vni, numbers: std::ops::Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    numbers.for_each(|number| encode_update(&mut bytes, action, vni, &route(number)));
    bytes
}

#[test]
fn what_a_stalled_peer_has_pending_is_bounded_by_its_subscriptions() {
    let mut shard = shard(Limits::default());
    let announcer = peer(&mut shard);
    let stalled = peer(&mut shard);
    let vnis: Vec<Vni> = (0..20).map(Vni).collect();
    for &vni in &vnis {
        shard.receive(NOW, announcer, &updates(Action::Add, vni, 0..10));
        say(&mut shard, stalled, &[Message::Subscribe(vni)]);
    }
    stall(&mut shard, stalled);
    for round in 0..2_000 {
        let vni = vnis[round % vnis.len()];
        say(&mut shard, stalled, &[Message::Unsubscribe(vni)]);
        say(&mut shard, stalled, &[Message::Subscribe(vni)]);
        let peer = shard.peers.find(stalled).expect("it is there");
        let (pending, subscribed) = (peer.outbound.queued(), peer.subscriptions.len());
        assert!(pending <= 2 * subscribed + 1, "{pending} pending of {subscribed}");
        for &sub in peer.subscriptions.values() {
            let epoch = shard.groups.subscription(sub).epoch;
            assert!(peer.outbound.is_queued(sub, epoch), "each still has its turn");
        }
    }
}

#[test]
fn what_laggards_take_does_not_grow_with_the_records() {
    let limits = Limits { lag_bytes_max: 1 << 20, ..Limits::default() };
    let mut shard = shard(limits);
    let announcer = peer(&mut shard);
    for _ in 0..40 {
        let id = peer(&mut shard);
        say(&mut shard, id, &[Message::Subscribe(VNI)]);
        stall(&mut shard, id);
    }
    let there = updates(Action::Add, VNI, 0..500);
    let gone = updates(Action::Remove, VNI, 0..500);
    let (mut log_bytes, mut laggard_bytes) = (0, 0);
    for _ in 0..60 {
        for _ in 0..16 {
            shard.receive(NOW, announcer, &there);
            shard.receive(NOW, announcer, &gone);
        }
        turns(&mut shard);
        log_bytes = log_bytes.max(shard.usage().log_bytes);
        laggard_bytes = laggard_bytes.max(shard.usage().laggard_bytes);
    }
    // What one turn appends, and what may be behind without lagging.
    assert!(log_bytes < 4 << 20, "{log_bytes}");
    // 500 routes once, not 40 times, and some pages.
    assert!((500 * 50..500 * 200).contains(&laggard_bytes), "{laggard_bytes}");
}

#[test]
fn logs_that_take_too_much_make_laggards_of_all_who_are_behind() {
    // Nobody is too far behind by itself.
    let limits = Limits { lag_bytes_max: 1 << 30, log_bytes_max: 1 << 20, ..Limits::default() };
    let mut shard = shard(limits);
    let announcer = peer(&mut shard);
    let stalled = peer(&mut shard);
    say(&mut shard, stalled, &[Message::Subscribe(VNI)]);
    stall(&mut shard, stalled);
    let there = updates(Action::Add, VNI, 0..500);
    let gone = updates(Action::Remove, VNI, 0..500);
    for _ in 0..200 {
        shard.receive(NOW, announcer, &there);
        shard.receive(NOW, announcer, &gone);
        turns(&mut shard);
        let usage = shard.usage();
        assert!(usage.log_bytes < 2 << 20, "{usage:?}");
    }
    assert!(shard.usage().laggard_bytes > 0, "it lags");
}

#[test]
fn a_loss_in_one_vni_takes_turns_and_comes_before_what_follows() {
    let mut shard = shard(Limits::default());
    shard.config.budgets.requests_per_turn = 100;
    let announcer = peer(&mut shard);
    shard.receive(NOW, announcer, &updates(Action::Add, VNI, 0..1_000));
    turns(&mut shard);
    assert_eq!(shard.usage().routes, 1_000);
    let source = SourceId(announcer);
    shard.outboxes.request(ShardId(0), Request::LostIn(source, VNI));
    for number in 0..2 {
        let (class, action) = (PeerClass::Client, Action::Add);
        let (route, read_at) = (route(number), None);
        let change = Request::Change { source, class, action, vni: VNI, route, read_at };
        shard.outboxes.request(ShardId(0), change);
    }
    let mut routes = 1_000;
    let mut turns = 0;
    while shard.turn(NOW) {
        turns += 1;
        assert!(routes - shard.usage().routes <= 100, "a turn's budget");
        routes = shard.usage().routes;
    }
    assert!((10..=20).contains(&turns), "{turns}");
    assert_eq!(shard.usage().routes, 2, "what was announced behind it is kept");
}

/// Peers with thousands of subscriptions go all at once: no turn drops more than a share, and none is forgotten.
#[test]
fn subscriptions_of_peers_that_go_are_dropped_a_share_each_turn() {
    let mut shard = shard(Limits::default());
    let ids: Vec<PeerId> = (0..20).map(|_| peer(&mut shard)).collect();
    let vnis: Vec<Message> = (0..1_000).map(|vni| Message::Subscribe(Vni(vni))).collect();
    ids.iter().for_each(|&id| say(&mut shard, id, &vnis));
    assert_eq!(shard.config.ledger.subscriptions(), 20_000);
    for &id in &ids {
        shard.read_ended(NOW, id, Ok(()));
        shard.release(NOW, id);
    }
    let mut left = 20_000;
    while shard.turn(NOW) {
        let now_left = shard.config.ledger.subscriptions();
        assert!(left - now_left <= 512, "{} in one turn", left - now_left);
        left = now_left;
    }
    assert_eq!(shard.config.ledger.subscriptions(), 0);
}

/// What paused peers had said is taken up a share each turn, and whoever subscribes in vain is heard more slowly.
#[test]
fn peers_that_were_paused_are_heard_a_share_each_turn() {
    let mut shard = shard(Limits { subscriptions_max: 0, ..Limits::default() });
    let ids: Vec<PeerId> = (0..300).map(|_| peer(&mut shard)).collect();
    let vnis = (0..1_000).map(|vni| Message::Subscribe(Vni(vni)));
    let mut bytes = Vec::new();
    vnis.for_each(|message| message.encode(&mut bytes));
    ids.iter().for_each(|&id| shard.receive(NOW, id, &bytes));
    let refused = |shard: &Shard| shard.counters().refused.iter().sum::<u64>();
    assert_eq!(refused(&shard), 16 * 300);
    let later = NOW.after(Duration::from_millis(20));
    let mut before = refused(&shard);
    for _ in 0..2 {
        shard.turn(later);
        let heard = refused(&shard) - before;
        assert!((16..=16 * 200).contains(&heard), "{heard} in one turn");
        before += heard;
    }
    assert_eq!(before, 2 * 16 * 300, "each once in that time");
}
