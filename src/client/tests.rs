//! The room by itself: what it says to which event.

use super::*;
use crate::types::ShardId;

const VNI: Vni = Vni(7);
const SERVER: u64 = 1;

fn id(number: u32) -> PeerId {
    PeerId::new(ShardId(0), number, 0)
}

fn at(seconds: u64) -> Time {
    Time(1).after(Duration::from_secs(seconds))
}

fn route(number: u8) -> Route {
    Route {
        destination: format!("10.0.{number}.0/24").parse().unwrap(),
        next_hop: "2001:db8::1".parse().unwrap(),
    }
}

fn add(number: u8) -> Update {
    Update { action: Action::Add, vni: VNI, route: route(number) }
}

const CLIENT: u32 = 9;

/// A node that wants a VNI.
fn node(stale_time_s: u64) -> Node {
    let mut node = Node::new(Duration::from_secs(stale_time_s));
    node.attach(id(CLIENT));
    node.subscribe(at(0), VNI);
    let group = UpdateGroup::new(VNI, GroupClass::Client);
    assert_eq!(effects(&mut node), [Effect::Subscribe(id(CLIENT), group)]);
    node
}

fn effects(node: &mut Node) -> Vec<Effect> {
    std::iter::from_fn(|| node.next_effect()).collect()
}

fn connect(node: &mut Node, now: Time, number: u32, reassembles: bool) -> Vec<Effect> {
    node.dialled(id(number), SERVER);
    assert!(effects(node).is_empty(), "nothing before the session stands");
    node.established(now, id(number), reassembles);
    effects(node)
}

fn subscribe(number: u32) -> Effect {
    Effect::Tell(id(number), Message::Subscribe(VNI))
}

fn ask(number: u32) -> Effect {
    Effect::Tell(id(number), Message::Keepalive)
}

#[test]
fn a_server_is_told_what_is_wanted_and_then_what_is_announced() {
    let mut node = node(0);
    let uplinks = UpdateGroup::new(VNI, GroupClass::Uplink);
    node.announce(Action::Add, VNI, route(1));
    let told = connect(&mut node, at(0), 1, true);
    assert_eq!(told, [subscribe(1), Effect::Subscribe(id(1), uplinks)]);
    node.announce(Action::Add, VNI, route(2));
    assert_eq!(effects(&mut node), [], "it hears that already");
    node.announce(Action::Remove, VNI, route(1));
    node.announce(Action::Remove, VNI, route(2));
    node.announce(Action::Add, VNI, route(2));
    assert_eq!(effects(&mut node), [Effect::Subscribe(id(1), uplinks)], "which changes nothing");
}

#[test]
fn a_vni_is_asked_for_again_behind_a_barrier() {
    let mut node = node(0);
    connect(&mut node, at(0), 1, true);
    assert!(node.wants(id(1), &add(1)));
    let left = [
        Effect::Unsubscribe(id(CLIENT), VNI),
        Effect::Tell(id(CLIENT), Message::Unsubscribe(VNI)),
        Effect::Tell(id(1), Message::Unsubscribe(VNI)),
        ask(1),
        Effect::WithdrawIn(id(1), VNI),
    ];
    node.unsubscribe(VNI);
    assert_eq!(effects(&mut node), left);
    // Whatever it wants meanwhile, the server is told once, and what it says does not count.
    for _ in 0..3 {
        node.subscribe(at(1), VNI);
        let told = effects(&mut node);
        assert!(!told.contains(&subscribe(1)) && !node.wants(id(1), &add(1)), "{told:?}");
        node.unsubscribe(VNI);
        assert!(!effects(&mut node).contains(&left[2]));
    }
    node.subscribe(at(1), VNI);
    effects(&mut node);
    node.answered(at(1), id(1), 0);
    assert!(effects(&mut node).is_empty() && !node.wants(id(1), &add(1)));
    node.answered(at(1), id(1), 1);
    assert_eq!(effects(&mut node), [subscribe(1)]);
    assert!(node.wants(id(1), &add(1)));
}

#[test]
fn a_server_in_the_field_is_left_as_it_is() {
    let mut node = node(0);
    connect(&mut node, at(0), 1, false);
    node.unsubscribe(VNI);
    node.subscribe(at(1), VNI);
    let told = effects(&mut node);
    let is_told = |effect: &Effect| matches!(effect, Effect::Tell(to, _) if *to == id(1));
    assert!(!told.iter().any(is_told) && !told.contains(&Effect::WithdrawIn(id(1), VNI)));
    node.announce(Action::Add, VNI, route(3));
    assert!(!node.wants(id(1), &add(3)), "it says what we have said");
    assert!(node.wants(id(1), &add(4)));
    assert!(node.wants(id(1), &Update { action: Action::Remove, ..add(3) }));
    assert!(!node.wants(id(1), &Update { vni: Vni(8), ..add(4) }), "nobody asked for it");
}

/// A server that has just been asked for a VNI has not told all, though it answers an earlier question.
#[test]
fn what_is_asked_for_behind_a_barrier_belongs_to_the_dump() {
    let mut node = node(0);
    connect(&mut node, at(0), 1, true);
    node.on_timer(at(9), |_| true);
    assert!(effects(&mut node).is_empty(), "too early");
    node.unsubscribe(VNI);
    node.subscribe(at(7), VNI);
    effects(&mut node);
    node.on_timer(at(10), |_| true);
    assert_eq!(effects(&mut node), [ask(1)]);
    node.answered(at(11), id(1), 2);
    assert_eq!(effects(&mut node), [subscribe(1)], "the former run is not over");
    node.on_timer(at(13), |_| false);
    assert!(effects(&mut node).is_empty(), "it was not sent yet");
    node.on_timer(at(15), |_| true);
    assert_eq!(effects(&mut node), [ask(1)]);
    node.answered(at(15), id(1), 3);
    assert_eq!(effects(&mut node), [Effect::TellSynchronized(id(CLIENT))]);
}

#[test]
fn a_server_that_flapped_and_then_told_all_is_held_again() {
    let mut node = node(3_600);
    for number in 1..6 {
        connect(&mut node, at(0), number, true);
        node.heard_update(at(0), id(number), &add(1));
        effects(&mut node);
        if number < 5 {
            node.lost(at(0), id(number), true);
        }
    }
    assert_eq!(node.lost_connections(), 4);
    node.heard_update(at(0), id(5), &add(2));
    assert!(effects(&mut node).is_empty(), "it takes the place of none");
    node.on_timer(at(10), |_| true);
    node.answered(at(10), id(5), 1);
    let gone = effects(&mut node);
    assert!((1..5).all(|number| gone.contains(&Effect::WithdrawAll(id(number)))), "{gone:?}");
    node.lost(at(11), id(5), true);
    assert_eq!((effects(&mut node), node.lost_connections()), (vec![], 1));
    node.on_timer(at(11 + 3_600), |_| true);
    assert_eq!(effects(&mut node), [Effect::WithdrawAll(id(5))]);
}

#[test]
fn what_a_server_says_when_it_is_back_counts_for_what_it_said_before() {
    let mut node = node(60);
    connect(&mut node, at(0), 1, true);
    node.heard_update(at(0), id(1), &add(1));
    node.lost(at(0), id(1), true);
    connect(&mut node, at(5), 2, true);
    node.heard_update(at(5), id(2), &add(1));
    assert_eq!(effects(&mut node), [Effect::Withdraw(id(1), VNI, route(1))]);
    node.on_timer(at(9), |_| true);
    assert!(effects(&mut node).is_empty());
    // Lost again: what it had not confirmed stays as long as the rest.
    node.lost(at(9), id(2), true);
    assert_eq!(node.next_deadline(), at(9 + 60));
    node.forget_server(SERVER + 1);
    assert!(effects(&mut node).is_empty());
    node.forget_server(SERVER);
    let both = [Effect::WithdrawAll(id(1)), Effect::WithdrawAll(id(2))];
    assert_eq!(effects(&mut node), both);
}

#[test]
fn a_server_that_is_not_to_return_or_has_told_nothing_is_not_held() {
    let mut node = node(60);
    connect(&mut node, at(0), 1, true);
    node.lost(at(0), id(1), true);
    assert_eq!((effects(&mut node), node.lost_connections()), (vec![], 0));
    connect(&mut node, at(0), 2, true);
    node.heard_update(at(0), id(2), &add(1));
    node.lost(at(0), id(2), false);
    assert_eq!(effects(&mut node), [Effect::WithdrawAll(id(2))]);
}

#[test]
fn a_node_that_drains_withdraws_nothing_and_has_nothing_to_wait_for() {
    let mut node = node(60);
    connect(&mut node, at(0), 1, true);
    connect(&mut node, at(0), 2, true);
    node.heard_update(at(0), id(1), &add(1));
    node.heard_update(at(0), id(2), &add(1));
    node.lost(at(0), id(1), true);
    node.servers_away(at(0));
    node.drain();
    assert_eq!(node.next_deadline(), Time::NEVER);
    node.on_timer(at(10_000), |_| true);
    node.answered(at(10_000), id(2), 1);
    node.lost(at(10_000), id(2), false);
    node.forget_server(SERVER);
    assert_eq!((effects(&mut node), node.lost_connections()), (vec![], 0));
}
