//! The plan against a model of the kernel and a plain model of what is wanted.
//!
//! Owns the latter. Must never look into the plan: what it plans is judged by its effect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::model::{Kernel, LINK, Object, Slot};
use super::*;
use crate::types::{Destination, NextHop, NextHopType};

const VNIS: [(u32, u32); 3] = [(1, 100), (2, 100), (3, 0)];

#[derive(Clone, Debug)]
enum Step {
    Add(usize, u8, u8),
    Remove(usize, u8, u8),
    Sweep,
    Clear,
    /// Where (0: first, 1: last, 2: in the place of the first), and whether of our protocol.
    ForeignAppears(usize, u8, u8, bool),
    ForeignGoes(usize, u8),
    RouteVanishes(usize, u8),
    ObjectVanishes(u8),
    LinkLost,
    Usable(bool),
    Verify,
    /// Plans and applies a batch of this size; each outcome is taken from the bytes.
    Batch(usize, Vec<u8>),
    /// Hands in this many results, from the newest if set.
    Results(usize, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (vni, prefix, hop) = (0..3usize, 0..12u8, 0..7u8);
    let key = (vni.clone(), prefix.clone(), hop);
    prop_oneof![
        10 => key.clone().prop_map(|(v, p, h)| Step::Add(v, p, h)),
        6 => key.prop_map(|(v, p, h)| Step::Remove(v, p, h)),
        1 => Just(Step::Sweep),
        1 => Just(Step::Clear),
        2 => (vni.clone(), prefix.clone(), 0..3u8, prop::bool::weighted(0.2))
            .prop_map(|(v, p, place, same)| Step::ForeignAppears(v, p, place, same)),
        1 => (vni.clone(), prefix.clone()).prop_map(|(v, p)| Step::ForeignGoes(v, p)),
        1 => (vni, prefix).prop_map(|(v, p)| Step::RouteVanishes(v, p)),
        1 => any::<u8>().prop_map(Step::ObjectVanishes),
        1 => Just(Step::LinkLost),
        2 => any::<bool>().prop_map(Step::Usable),
        2 => Just(Step::Verify),
        8 => (1..9usize, prop::collection::vec(any::<u8>(), 9)).prop_map(|(n, b)| Step::Batch(n, b)),
        8 => (1..9usize, any::<bool>()).prop_map(|(n, b)| Step::Results(n, b)),
        2 => (1..40_000u64).prop_map(Step::Wait),
    ]
}

/// Twelve spellings of eight destinations, of both families.
fn route(prefix: u8, hop: u8) -> Route {
    let number = u32::from(prefix / 3 * 2 + prefix % 3 % 2);
    let host = u32::from(prefix % 3 == 2) * 5;
    let (address, length): (IpAddr, u8) = if number % 2 == 0 {
        (std::net::Ipv4Addr::from_bits(10 << 24 | number << 8 | host).into(), 24)
    } else {
        (
            Ipv6Addr::from_bits(0x2001 << 112 | u128::from(number) << 64 | u128::from(host)).into(),
            64,
        )
    };
    let address_of_hop: IpAddr = match hop {
        5 => "192.0.2.1".parse().unwrap(),
        6 => "::".parse().unwrap(),
        _ => Ipv6Addr::from_bits(0xfd << 120 | u128::from(hop % 3)).into(),
    };
    Route {
        destination: Destination { prefix: address, length },
        next_hop: NextHop {
            address: address_of_hop,
            vni: Vni(0),
            kind: NextHopType(i32::from(hop / 3)), // the same address twice, in two routes
            nat_port_from: 0,
            nat_port_to: 0,
        },
    }
}

fn prefix_of(vni: usize, route: Route) -> Prefix {
    let table = if VNIS[vni].1 == 0 { 254 } else { VNIS[vni].1 };
    Prefix { table, destination: route.destination.masked().unwrap() }
}

struct World {
    plan: Plan,
    kernel: Kernel,
    objects: NexthopObjects,
    ipv4_only: bool,
    /// VNI and route.
    users: BTreeSet<(usize, (u8, u8))>,
    /// What a former run has left, until the sweep.
    stale: BTreeMap<Prefix, Vec<Ipv6Addr>>,
    pending: Vec<(Op, Outcome)>,
    /// Groups may have shrunk since the last dump.
    tampered: bool,
    foreign_count: u8,
    is_usable: bool,
    now: Time,
}

impl World {
    fn new(objects: NexthopObjects, ipv4_only: bool, leftovers: &[(usize, u8, u8)]) -> World {
        let mut plan = Plan::new(KernelConfig {
            ipv4_only,
            nexthop_objects: objects,
            seed: 7,
            ..KernelConfig::new("", VNIS.map(|(vni, table)| (Vni(vni), table)).into())
        });
        plan.set_usable(true);
        let mut kernel = Kernel::default();
        kernel.objects.insert(
            NexthopId::FIRST,
            Object::Hop(Family::V4, Ipv6Addr::from_bits(0xfd << 120)), // as a former run left it
        );
        for (vni, prefix, hop) in leftovers {
            let prefix = prefix_of(*vni, route(*prefix, 0));
            let form = match (hop, prefix.family()) {
                (0, _) => Form::Other { link: LINK },
                (1, Family::V4) => Form::Object(NexthopId(NexthopId::FIRST)),
                _ => Form::Inline(Hops::from_slice(&[Ipv6Addr::from_bits(
                    0xfd << 120 | u128::from(*hop % 3),
                )])),
            };
            kernel.routes.insert(prefix, vec![Slot::Ours(form)]);
        }
        let stale = kernel.ours().map(|(p, form)| (p, kernel.hops(form))).collect();
        World {
            plan,
            kernel,
            objects,
            ipv4_only,
            users: BTreeSet::new(),
            stale,
            pending: Vec::new(),
            tampered: false,
            foreign_count: 0,
            is_usable: true,
            now: Time(0),
        }
    }

    fn wanted(&self, prefix: Prefix) -> Vec<Ipv6Addr> {
        let mut hops = BTreeSet::new();
        for (vni, (p, h)) in &self.users {
            let route = route(*p, *h);
            if prefix_of(*vni, route) != prefix {
                continue;
            }
            hops.extend(self.stale.get(&prefix).into_iter().flatten());
            if *h > 4 {
                continue;
            }
            if let IpAddr::V6(address) = route.next_hop.address {
                hops.insert(address);
            }
        }
        let mut hops: Vec<Ipv6Addr> = hops.into_iter().collect();
        if self.ipv4_only && prefix.family() == Family::V6 {
            hops.clear();
        }
        if self.objects == NexthopObjects::Never && prefix.family() == Family::V6 {
            hops.truncate(1);
        }
        hops
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Add(vni, p, h) => {
                let added = self.plan.add(Vni(VNIS[vni].0), route(p, h));
                let is_ipv6 = self.ipv4_only && prefix_of(vni, route(p, h)).family() == Family::V6;
                let expected = match h {
                    _ if is_ipv6 => Err(Skip::Ipv6Destination),
                    5 => Err(Skip::HopIpv4),
                    6 => Err(Skip::HopUnspecified),
                    _ => Ok(()),
                };
                assert_eq!(added, expected);
                if added.is_ok() {
                    self.users.insert((vni, (p, h)));
                }
            }
            Step::Remove(vni, p, h) => {
                self.plan.remove(Vni(VNIS[vni].0), route(p, h));
                self.users.remove(&(vni, (p, h)));
            }
            Step::Sweep => self.sweep(),
            Step::Clear => {
                self.plan.clear();
                self.users.clear();
                self.stale.clear();
            }
            Step::Wait(ms) => self.now = self.now.after(Duration::from_millis(ms)),
            Step::Batch(size, outcomes) => self.batch(size, &outcomes),
            Step::Results(count, newest) => self.results(count, newest),
            others => self.disturb(others),
        }
    }

    /// What others do to the kernel.
    fn disturb(&mut self, step: Step) {
        match step {
            Step::ForeignAppears(vni, p, place, is_of_our_protocol) => {
                let prefix = prefix_of(vni, route(p, 0));
                self.foreign_count = self.foreign_count.wrapping_add(1);
                // One of our protocol is known before it can be hit: see `Others`.
                let is_known = is_of_our_protocol;
                let slots = self.kernel.routes.entry(prefix).or_default();
                let one = Slot::Foreign(self.foreign_count, is_of_our_protocol);
                match place {
                    0 => slots.insert(0, one),
                    2 if !slots.is_empty() => slots[0] = one,
                    _ => slots.push(one),
                }
                self.tampered = true;
                if is_known {
                    self.verify();
                }
            }
            Step::ForeignGoes(vni, p) => {
                let at = prefix_of(vni, route(p, 0));
                self.kernel.retain(|p, slot| p != at || matches!(slot, Slot::Ours(_)));
            }
            Step::RouteVanishes(vni, p) => {
                let at = prefix_of(vni, route(p, 0));
                self.kernel.retain(|p, slot| p != at || !matches!(slot, Slot::Ours(_)));
                self.tampered = true;
            }
            Step::ObjectVanishes(which) => {
                let ids: Vec<u32> = self.kernel.objects.keys().copied().collect();
                if !ids.is_empty() {
                    self.kernel.drop_object(ids[usize::from(which) % ids.len()]);
                    self.tampered = true;
                }
            }
            Step::LinkLost => {
                self.results(usize::MAX, false);
                self.kernel.retain(|_, slot| !matches!(slot, Slot::Ours(_)));
                self.kernel.objects.clear();
                self.stale.clear();
                self.plan.doubt();
                self.verify();
            }
            Step::Usable(is_usable) => {
                self.is_usable = is_usable;
                self.plan.set_usable(is_usable);
            }
            Step::Verify => self.verify(),
            _ => unreachable!(),
        }
    }

    fn sweep(&mut self) {
        self.plan.sweep();
        self.stale.clear();
    }

    fn verify(&mut self) {
        self.results(usize::MAX, false);
        self.plan.reconcile(self.kernel.snapshot());
        self.stale.retain(|prefix, _| !self.kernel.ours_at(*prefix).is_empty());
        self.tampered = false;
    }

    fn batch(&mut self, size: usize, outcomes: &[u8]) {
        let mut ops = Vec::new();
        self.plan.next_batch(&mut ops, size, self.now);
        for (index, op) in ops.into_iter().enumerate() {
            self.judge(&op);
            let foreign = self.kernel.foreign();
            let outcome = match outcomes.get(index % 9).copied().unwrap_or(255) {
                0..20 => Outcome::Failed(libc::ENOMEM),
                20..25 => Outcome::Failed(libc::EINVAL),
                25..30 => Outcome::Unknown,
                30..40 => {
                    let _ = self.kernel.apply(&op);
                    Outcome::Unknown
                }
                _ => match self.kernel.apply(&op) {
                    Ok(()) => Outcome::Done,
                    Err(errno) => Outcome::Failed(errno),
                },
            };
            assert_eq!(self.kernel.foreign(), foreign, "{op:?} touches a foreign route");
            self.pending.push((op, outcome));
        }
    }

    /// Whether this operation leads to what is wanted at the moment when it is planned.
    fn judge(&self, op: &Op) {
        let is_add = matches!(op, Op::Add { .. } | Op::AddHop { .. } | Op::AddGroup { .. });
        assert!(self.is_usable || !is_add, "{op:?} without a link");
        match op {
            Op::Delete { prefix, form } => {
                let wanted = self.wanted(*prefix);
                let ours = self.kernel.ours_at(*prefix);
                let is_there = |one: &&Form| **one != *form && self.kernel.hops(one) == wanted;
                let is_kept = self.tampered || ours.iter().any(is_there);
                assert!(wanted.is_empty() || is_kept, "a wanted route flaps");
                let is_stale = self.stale.contains_key(prefix) && wanted.is_empty();
                assert!(!is_stale, "a stale route goes before the sweep");
            }
            Op::Add { prefix, form: Form::Inline(hops), .. } => {
                assert_eq!(self.wanted(*prefix), hops.to_vec());
                assert_ne!(self.objects, NexthopObjects::Shared);
            }
            Op::Add { prefix, form: form @ Form::Object(id), .. } => {
                assert_ne!(self.objects, NexthopObjects::Never);
                if self.kernel.objects.contains_key(&id.0) && !self.tampered {
                    assert_eq!(self.wanted(*prefix), self.kernel.hops(form));
                }
            }
            _ => {}
        }
    }

    fn results(&mut self, count: usize, newest: bool) {
        for _ in 0..count.min(self.pending.len()) {
            let index = if newest { self.pending.len() - 1 } else { 0 };
            let (op, outcome) = self.pending.remove(index);
            self.plan.finished(&op, outcome, self.now);
        }
    }

    fn run_to_rest(&mut self) {
        self.is_usable = true;
        self.plan.set_usable(true);
        self.sweep();
        self.verify();
        let end = self.now.after(Duration::from_secs(60));
        for _ in 0..1000 {
            self.batch(usize::MAX, &[]);
            let is_done = self.pending.is_empty();
            self.results(usize::MAX, true);
            if is_done && self.plan.is_idle() {
                match self.plan.retry_at().filter(|at| *at <= end) {
                    Some(at) => self.now = self.now.max(at),
                    None => return,
                }
            }
        }
        panic!("the plan does not come to rest");
    }

    fn check(&self) {
        let mut expected = BTreeMap::new();
        for (vni, (p, h)) in &self.users {
            let prefix = prefix_of(*vni, route(*p, *h));
            let hops = self.wanted(prefix);
            if !hops.is_empty() {
                expected.insert(prefix, hops);
            }
        }
        let foreign: BTreeSet<Prefix> = self.kernel.foreign().iter().map(|(p, _)| *p).collect();
        let (mut conflicts, mut installed, mut shared) = (0, 0, 0);
        for (prefix, hops) in &expected {
            let ours = self.kernel.ours_at(*prefix);
            let is_foreign = foreign.contains(prefix);
            assert!(is_foreign || !ours.is_empty(), "{prefix} is missing");
            conflicts += u64::from(ours.is_empty());
            if let [first, rest @ ..] = &ours[..] {
                // What a request to delete could not tell from the wanted one, or from another's,
                // may be left.
                let is_left = |form: &&Form| !matches!(form, Form::Object(_));
                assert!(
                    self.kernel.hops(first) == *hops && rest.iter().all(is_left)
                        || is_foreign && ours.iter().any(|form| self.kernel.hops(form) == *hops),
                    "{prefix}: {ours:?}"
                );
            }
        }
        for prefix in self.kernel.routes.keys() {
            let ours = self.kernel.ours_at(*prefix);
            let is_foreign = foreign.contains(prefix);
            let is_hard = ours.iter().all(|form| !matches!(form, Form::Object(_)));
            let is_left = is_hard && is_foreign;
            assert!(ours.is_empty() || expected.contains_key(prefix) || is_left, "{prefix}");
            installed += u64::from(!ours.is_empty());
            shared += u64::from(!ours.is_empty() && is_foreign);
        }
        let counters = self.plan.counters();
        assert_eq!(counters.installed, installed);
        assert_eq!(counters.conflicts, conflicts);
        assert_eq!(counters.shared, shared);
        assert_eq!(counters.stale, 0);
        assert_eq!(counters.nexthops, self.kernel.objects.len() as u64);
        for id in self.kernel.objects.keys() {
            let is_named =
                self.kernel.ours().any(|(_, form)| *form == Form::Object(NexthopId(*id)));
            let is_member = self
                .kernel
                .objects
                .values()
                .any(|object| matches!(object, Object::Group(members) if members.contains(id)));
            assert!(is_named || is_member, "object {id:#x} is left over");
        }
    }
}

fn objects() -> impl Strategy<Value = NexthopObjects> {
    prop_oneof![
        2 => Just(NexthopObjects::Shared),
        1 => Just(NexthopObjects::Never),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(5000)
    })]

    #[test]
    fn the_kernel_ends_up_as_wanted(
        objects in objects(),
        ipv4_only in any::<bool>(),
        leftovers in prop::collection::vec((0..3usize, 0..12u8, 0..4u8), 0..5),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(objects, ipv4_only, &leftovers);
        for step in steps {
            world.step(step);
        }
        world.run_to_rest();
        world.check();
        // And when the foreign routes go, ours take their places.
        world.kernel.retain(|_, slot| matches!(slot, Slot::Ours(_)));
        world.now = world.now.after(Duration::from_secs(60));
        world.run_to_rest();
        world.check();
    }
}
