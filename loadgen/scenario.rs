//! The scenarios: who is where, and what happens in which order.
//!
//! Owns the scripts. Must never wait by itself: the engine does, with limits.

use std::sync::Arc;

use metalbond_uring::types::Action;

use crate::engine::Engine;
use crate::fairness;
use crate::homes::{Fleet, Side};
use crate::hostile::Hostile;
use crate::peer::{AtOnce, Part};
use crate::plan::{PeerPlan, PeerSet, Plan, spread};
use crate::restart;
use crate::shard::Command;
use crate::sizes::{Scenario, Sizes};
use crate::stream::Stream;
use crate::upgrade::{self, cores_by_turns};

/// Streams begin a little later than they are ordered, so that all shards know of them in time.
const HEAD_START_NS: u64 = 20_000_000;
/// The time between two rounds of `fairness`: what hostile peers left is dealt with.
const HOSTILE_PAUSE_S: f64 = 3.0;
/// A stage of rest that shows a server which keeps sending what is not wanted.
const SETTLE_S: f64 = 0.1;

/// The shape of a scenario.
pub fn plan(scenario: Scenario, sizes: &Sizes, vni_base: u32, fleet: Fleet) -> Plan {
    let plan = match scenario {
        Scenario::Mix
        | Scenario::Mesh
        | Scenario::Herd
        | Scenario::Upgrade
        | Scenario::Restart
        | Scenario::Idle => mesh(sizes, vni_base),
        Scenario::Fanout
        | Scenario::Latency
        | Scenario::Churn
        | Scenario::Slow
        | Scenario::Fairness => star(sizes, sizes.subscribers, sizes.routes, vni_base),
        Scenario::Join => star(sizes, sizes.joiners, sizes.routes, vni_base),
        // Those of one half are there at a time.
        Scenario::Loss => star(sizes, sizes.subscribers, 2 * sizes.routes, vni_base),
    };
    // The way from one server to another is what is measured.
    let apart =
        |peer: &PeerPlan| if peer.announces.is_empty() { Side::Others } else { Side::First };
    let plan = match scenario {
        Scenario::Latency => plan.spread(fleet, apart),
        _ => plan.spread(fleet, |_| Side::Any),
    };
    plan.finish()
}

/// Runs a scenario to its end.
///
/// # Errors
/// The first thing that went wrong, in words.
pub fn run(
    engine: &mut Engine,
    (scenario, sizes): (Scenario, &Sizes),
    cores: Option<u32>,
) -> anyhow::Result<()> {
    engine.scenario(scenario.name());
    match scenario {
        Scenario::Mix => mix(engine, sizes)?,
        Scenario::Fanout => fanout(engine, sizes)?,
        Scenario::Mesh => meshed(engine, sizes)?,
        Scenario::Join => join(engine, sizes)?,
        Scenario::Herd => herd(engine)?,
        Scenario::Latency => latency(engine, sizes)?,
        Scenario::Churn => churn(engine, sizes)?,
        Scenario::Slow => slow(engine, sizes)?,
        Scenario::Loss => loss(engine, sizes)?,
        Scenario::Fairness => fairness(engine, sizes)?,
        Scenario::Upgrade => upgrades(engine, sizes, cores_by_turns(cores))?,
        Scenario::Restart => restart(engine, sizes)?,
        Scenario::Idle => idle(engine, sizes)?,
    }
    // What comes too much comes late.
    engine.begin("settle", 0);
    engine.rest(SETTLE_S)?;
    engine.converge()?;
    engine.end();
    Ok(())
}

/// Each peer announces and subscribes in some VNIs.
fn mesh(sizes: &Sizes, vni_base: u32) -> Plan {
    let mut plan = Plan::new(vni_base, sizes.peers, sizes.vnis, sizes.routes);
    for peer in 0..sizes.peers {
        for vni in spread(peer, sizes.vnis, sizes.vnis_per_peer) {
            if sizes.routes > 0 {
                plan.announce(peer, vni);
            }
            plan.subscribe(peer, vni);
        }
    }
    plan
}

/// One VNI: some announce, others subscribe.
fn star(sizes: &Sizes, subscribers: u32, routes: u32, vni_base: u32) -> Plan {
    let mut plan = Plan::new(vni_base, sizes.announcers + subscribers, 1, routes);
    for peer in 0..sizes.announcers {
        plan.announce(peer, 0);
    }
    for peer in sizes.announcers..sizes.announcers + subscribers {
        plan.subscribe(peer, 0);
    }
    plan
}

fn mix(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let all = peers(0..sizes.peers);
    connect(engine, &all)?;
    // Half of them find the routes there, the others see them come.
    let (even, odd): (Vec<u32>, Vec<u32>) = all.iter().partition(|&peer| peer % 2 == 0);
    let deliveries = engine.plan().deliveries();
    engine.begin("announce", deliveries);
    engine.subscribe(&even.into());
    let announced = engine.announce(&all, Action::Add, None);
    engine.subscribe(&odd.into());
    announced?;
    engine.converge()?;
    engine.end();

    let senders = tenth(sizes.peers, 1);
    stream(engine, "updates", &senders, sizes, sizes.duration_s, sizes.routes.div_ceil(2))?;
    vanish_and_return(engine, &tenth(sizes.peers, 3))
}

fn fanout(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let (announcers, subscribers) = sides(sizes, sizes.subscribers);
    connect(engine, &all(engine))?;
    subscribe(engine, &subscribers)?;
    let deliveries = engine.plan().deliveries();
    for (name, action) in [("announce", Action::Add), ("withdraw", Action::Remove)] {
        engine.begin(name, deliveries);
        engine.announce(&announcers, action, sizes.rate_per_s)?;
        engine.converge()?;
        engine.end();
    }
    Ok(())
}

fn meshed(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    all_announce(engine, sizes.rate_per_s)?;
    vanish_and_return(engine, &tenth(sizes.peers, 3))
}

/// All connect, subscribe and announce.
fn all_announce(engine: &mut Engine, rate_per_s: Option<f64>) -> anyhow::Result<()> {
    let all = all(engine);
    connect(engine, &all)?;
    subscribe(engine, &all)?;
    let deliveries = engine.plan().deliveries();
    engine.begin("announce", deliveries);
    engine.announce(&all, Action::Add, rate_per_s)?;
    engine.converge()?;
    engine.end();
    Ok(())
}

/// The same stream without an upgrade, and then with one each time, to another number of shards.
fn upgrades(engine: &mut Engine, sizes: &Sizes, cores: [u32; 2]) -> anyhow::Result<()> {
    all_announce(engine, None)?;
    let senders = tenth(sizes.peers, 1);
    let (duration_s, routes_each) = (sizes.duration_s, sizes.routes.div_ceil(2));
    stream(engine, "steady", &senders, sizes, duration_s, routes_each)?;
    for round in 1..=sizes.rounds {
        begin_stream(engine, &format!("upgrade {round}"), &senders, sizes, duration_s);
        engine.measure();
        let stream = scheduled(engine, &senders, sizes, duration_s, routes_each);
        let end_ns = stream.due_ns(stream.updates);
        engine.stream_amid(stream, |engine| {
            engine.rest(duration_s / 4.0)?;
            engine.upgrade(cores[round as usize % 2])?;
            if engine.now_ns() > end_ns {
                engine.warn(upgrade::STREAM_TOO_SHORT);
            }
            Ok(())
        })?;
        engine.converge()?;
        engine.measured()?;
        engine.end();
    }
    Ok(())
}

/// Peers of other servers send and receive; those of the last one lose it, and come back to it.
fn restart(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    all_announce(engine, None)?;
    let (there, settled) = restart::sides(engine.plan(), engine.last_home());
    begin_stream(engine, "restart", &settled, sizes, sizes.duration_s);
    engine.expect_restart(sizes.duration_s);
    engine.measure();
    send_stream(engine, &settled, sizes, sizes.duration_s, sizes.routes.div_ceil(2))?;
    engine.wait_returned(there.len() as u64)?;
    engine.converge()?;
    engine.measured()?;
    engine.end();
    Ok(())
}

fn join(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let (announcers, joiners) = sides(sizes, sizes.joiners);
    connect(engine, &all(engine))?;
    engine.begin("table", 0);
    engine.announce(&announcers, Action::Add, sizes.rate_per_s)?;
    // The answers come when the server has read all.
    engine.barrier(&announcers)?;
    engine.end();
    let deliveries = engine.plan().deliveries();
    engine.begin("join", deliveries);
    engine.subscribe(&joiners);
    engine.converge()?;
    engine.end();
    Ok(())
}

fn herd(engine: &mut Engine) -> anyhow::Result<()> {
    let all = all(engine);
    let both = AtOnce { subscribe: true, announce: true };
    let deliveries = engine.plan().deliveries();
    engine.begin("first", deliveries);
    engine.connect(&all, both)?;
    engine.converge()?;
    engine.end();
    engine.begin("restart", 0);
    engine.restart(&all)?;
    engine.end();
    engine.begin("herd", deliveries);
    engine.connect(&all, both)?;
    engine.converge()?;
    engine.end();
    Ok(())
}

fn latency(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let (announcers, subscribers) = sides(sizes, sizes.subscribers);
    connect(engine, &all(engine))?;
    subscribe(engine, &subscribers)?;
    stream(engine, "updates", &announcers, sizes, sizes.duration_s, sizes.routes)
}

/// The same stream again and again: alone, with hostile peers at another server beside this one, and with
/// them at this one.
fn fairness(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let (announcers, subscribers) = sides(sizes, sizes.subscribers);
    connect(engine, &all(engine))?;
    subscribe(engine, &subscribers)?;
    let beside = Hostile::new(sizes.hostility, engine.target())?;
    let apart = engine.other_target().map(|target| Hostile::new(sizes.hostility, target));
    let apart = apart.transpose()?;
    let mut measure = |kind: &str, round: u32, hostile: Option<&Hostile>| -> anyhow::Result<()> {
        engine.rest(HOSTILE_PAUSE_S)?;
        begin_stream(engine, &format!("{kind} {round}"), &announcers, sizes, sizes.duration_s);
        let before = hostile.map(|hostile| hostile.deeds());
        hostile.inspect(|hostile| hostile.act(true));
        engine.measure();
        send_stream(engine, &announcers, sizes, sizes.duration_s, sizes.routes)?;
        engine.measured()?;
        if let (Some(hostile), Some(before)) = (hostile, before) {
            engine.hostile(hostile.deeds().since(before));
            hostile.act(false);
        }
        engine.converge()?;
        engine.end();
        Ok(())
    };
    for round in 1..=sizes.rounds {
        measure(fairness::ALONE, round, None)?;
        if let Some(hostile) = &apart {
            measure(fairness::APART, round, Some(hostile))?;
        }
        measure(fairness::BESIDE, round, Some(&beside))?;
    }
    Ok(())
}

fn churn(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let (announcers, subscribers) = sides(sizes, sizes.subscribers);
    connect(engine, &all(engine))?;
    subscribe(engine, &subscribers)?;
    let deliveries = engine.plan().deliveries();
    engine.begin("announce", deliveries);
    engine.announce(&announcers, Action::Add, sizes.rate_per_s)?;
    engine.converge()?;
    engine.end();
    engine.begin("churn", deliveries * 2 * u64::from(sizes.rounds));
    for _ in 0..sizes.rounds {
        engine.announce(&announcers, Action::Remove, sizes.rate_per_s)?;
        engine.announce(&announcers, Action::Add, sizes.rate_per_s)?;
    }
    engine.converge()?;
    engine.end();
    vanish_and_return(engine, &peers((0..sizes.announcers).step_by(2)))
}

fn slow(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let (announcers, subscribers) = sides(sizes, sizes.subscribers);
    connect(engine, &all(engine))?;
    subscribe(engine, &subscribers)?;
    stream(engine, "all read", &announcers, sizes, sizes.duration_s, sizes.routes)?;
    let slow: PeerSet = subscribers[..1].into();
    let until_ns = engine.now_ns() + (sizes.stall_s * 1e9) as u64;
    begin_stream(engine, "one stalls", &announcers, sizes, sizes.stall_s);
    engine.measure();
    engine.tell(|| Command::Pause(Arc::clone(&slow), until_ns));
    send_stream(engine, &announcers, sizes, sizes.stall_s, sizes.routes)?;
    engine.converge()?;
    engine.measured()?;
    engine.end();
    Ok(())
}

/// All subscribers have a table, which is replaced at once, and then lost with all its announcers.
fn loss(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let (announcers, subscribers) = sides(sizes, sizes.subscribers);
    connect(engine, &all(engine))?;
    engine.begin("table", 0);
    engine.announce_part(&announcers, Action::Add, Part::First)?;
    engine.barrier(&announcers)?;
    engine.end();
    let deliveries = engine.announced_deliveries(&announcers, &[]);
    engine.begin("join", deliveries);
    engine.subscribe(&subscribers);
    engine.converge()?;
    engine.end();
    engine.begin("replace", 2 * deliveries);
    engine.announce_part(&announcers, Action::Add, Part::Second)?;
    engine.announce_part(&announcers, Action::Remove, Part::First)?;
    engine.converge()?;
    engine.end();
    engine.begin("lose", deliveries);
    engine.disconnect(&announcers)?;
    engine.converge()?;
    engine.end();
    Ok(())
}

fn idle(engine: &mut Engine, sizes: &Sizes) -> anyhow::Result<()> {
    let all = all(engine);
    connect(engine, &all)?;
    subscribe(engine, &all)?;
    engine.begin("idle", 0);
    engine.rest(sizes.duration_s)?;
    engine.end();
    engine.begin("all answer", 0);
    engine.barrier(&all)?;
    engine.end();
    Ok(())
}

fn connect(engine: &mut Engine, peers: &PeerSet) -> anyhow::Result<()> {
    engine.begin("connect", 0);
    engine.connect(peers, AtOnce::default())?;
    engine.end();
    Ok(())
}

fn subscribe(engine: &mut Engine, peers: &PeerSet) -> anyhow::Result<()> {
    engine.begin("subscribe", 0);
    engine.subscribe(peers);
    engine.barrier(peers)?;
    engine.end();
    Ok(())
}

/// Some peers vanish without a word, and come back.
fn vanish_and_return(engine: &mut Engine, some: &PeerSet) -> anyhow::Result<()> {
    let deliveries = engine.announced_deliveries(some, some);
    engine.begin("vanish", deliveries);
    engine.disconnect(some)?;
    engine.converge()?;
    engine.end();
    // Each of them gets all routes of its VNIs, and the others get theirs.
    let everybody = all(engine);
    let others = peers(everybody.iter().copied().filter(|peer| some.binary_search(peer).is_err()));
    let theirs =
        engine.announced_deliveries(&others, &[]) - engine.announced_deliveries(&others, some);
    let deliveries = theirs + engine.plan().deliveries_of(some, &[], |_, routes_each| routes_each);
    engine.begin("return", deliveries);
    engine.connect(some, AtOnce { subscribe: true, announce: true })?;
    engine.converge()?;
    engine.end();
    Ok(())
}

/// Updates on a schedule, with their latency.
fn stream(
    engine: &mut Engine,
    name: &str,
    announcers: &PeerSet,
    sizes: &Sizes,
    duration_s: f64,
    routes_each: u32,
) -> anyhow::Result<()> {
    begin_stream(engine, name, announcers, sizes, duration_s);
    engine.measure();
    send_stream(engine, announcers, sizes, duration_s, routes_each)?;
    engine.converge()?;
    engine.measured()?;
    engine.end();
    Ok(())
}

fn begin_stream(
    engine: &mut Engine,
    name: &str,
    announcers: &PeerSet,
    sizes: &Sizes,
    duration_s: f64,
) {
    let updates = updates(sizes, duration_s);
    let deliveries = (0..updates)
        .map(|update| {
            let count = announcers.len() as u64;
            let announcer = announcers[(update % count) as usize];
            let announces = &engine.plan().peers[announcer as usize].announces;
            let (vni, _) = announces[(update / count % announces.len() as u64) as usize];
            engine.plan().receivers(announcer, vni)
        })
        .sum();
    engine.begin(name, deliveries);
}

fn send_stream(
    engine: &mut Engine,
    announcers: &PeerSet,
    sizes: &Sizes,
    duration_s: f64,
    routes_each: u32,
) -> anyhow::Result<()> {
    engine.stream(scheduled(engine, announcers, sizes, duration_s, routes_each))
}

/// A stream that begins soon.
fn scheduled(
    engine: &Engine,
    announcers: &PeerSet,
    sizes: &Sizes,
    duration_s: f64,
    routes_each: u32,
) -> Stream {
    Stream {
        announcers: Arc::clone(announcers),
        rate_per_s: rate(sizes),
        start_ns: engine.now_ns() + HEAD_START_NS,
        updates: updates(sizes, duration_s),
        routes_each,
    }
}

fn rate(sizes: &Sizes) -> f64 {
    sizes.rate_per_s.unwrap_or(1.0)
}

fn updates(sizes: &Sizes, duration_s: f64) -> u64 {
    (rate(sizes) * duration_s).round().max(1.0) as u64
}

fn peers(numbers: impl IntoIterator<Item = u32>) -> PeerSet {
    numbers.into_iter().collect()
}

/// One peer of each ten in a row, by turns another one, so that each VNI has some; never none.
fn tenth(all: u32, which: u32) -> PeerSet {
    let chosen = |ten: u32| (ten * 10 + (ten * 7 + which) % 10).min(all - 1);
    let mut chosen: Vec<u32> = (0..all.div_ceil(10)).map(chosen).collect();
    chosen.dedup();
    peers(chosen)
}

fn all(engine: &Engine) -> PeerSet {
    peers(0..engine.plan().peers.len() as u32)
}

/// Announcers and subscribers of a star.
fn sides(sizes: &Sizes, subscribers: u32) -> (PeerSet, PeerSet) {
    let announcers = sizes.announcers;
    (peers(0..announcers), peers(announcers..announcers + subscribers))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::sizes::Given;

    use super::*;

    /// Or views would be right though servers tell each other nothing.
    #[test]
    fn in_each_vni_are_peers_of_all_servers() {
        let scenarios = [Scenario::Mix, Scenario::Mesh, Scenario::Herd];
        for (scenario, targets) in scenarios.iter().flat_map(|it| (2..=5).map(move |n| (*it, n))) {
            for peers in [100, 300, 1000] {
                let given = Given { peers: Some(peers), ..Given::default() };
                let sizes = given.sizes(scenario).unwrap();
                let plan = plan(scenario, &sizes, 0, Fleet { targets, dual: peers / 10 });
                let mut dual = 0;
                for vni in 0..plan.vnis.len() as u32 {
                    let members = plan.peers.iter().filter(|peer| peer.subscribes.contains(&vni));
                    let members: Vec<_> = members.map(|peer| peer.homes).collect();
                    let homes: BTreeSet<u16> = members.iter().flat_map(|it| it.all()).collect();
                    let words = format!("{scenario:?} {peers} {targets} VNI {vni} {members:?}");
                    assert!(homes.len() > 1, "{words}");
                    assert!(homes.len() == usize::from(targets) || members.len() < 20, "{words}");
                    dual += u32::from(members.iter().any(|it| it.second.is_some()));
                }
                assert!(
                    2 * dual >= plan.vnis.len() as u32,
                    "{scenario:?} {peers} {targets}: {dual}"
                );
            }
        }
    }
}
