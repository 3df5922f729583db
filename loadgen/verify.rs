//! What a subscriber has been told, against what it should have been told.
//!
//! Owns one bitmap for each subscription and the judgement of each update, field by field. Must never
//! allocate for an update that is right.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use metalbond_uring::internals::wire::Update;
use metalbond_uring::types::Action;

use crate::canon::Canon;
use crate::plan::{Plan, VniPlan};
use crate::route;

/// What an update turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The change of a route that this peer did not know of: the bit of the route.
    Right(usize),
    /// A route of the peer itself.
    Own,
    /// An ADD of a route that the peer has, or a REMOVE of one that it has not, though the route exists.
    Duplicate,
    /// A VNI that the peer did not subscribe to, or a route that nobody announces.
    Unexpected,
    /// The destination of a route, but not all of its fields.
    Wrong,
}

/// What a peer has been told.
pub struct View {
    subscriptions: Vec<Subscription>,
    /// Where the last update's VNI was found: the next one is likely to be there, too.
    last: usize,
    /// The number of the last right route there, and how far the one before it was away: 1 or -1. Servers
    /// send tables in order, or backwards.
    last_number: u32,
    step: i32,
    bits: Vec<u64>,
}

struct Subscription {
    vni: u32,
    first_word: usize,
    own: Range<u32>,
}

/// How a view differs from what it should be.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Routes that the peer should have, and has not.
    pub missing: u64,
    /// Routes that the peer has, and should not.
    pub stale: u64,
    /// The first of them.
    pub first: Option<FirstDifference>,
}

/// One route by which a view differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstDifference {
    /// The VNI.
    pub vni: u32,
    /// The route's number in it.
    pub number: u32,
    /// Whether it is missing; otherwise it should not be there.
    pub missing: bool,
}

impl View {
    /// The view of a peer that was told nothing yet.
    pub fn new(plan: &Plan, peer: u32) -> View {
        let it = &plan.peers[peer as usize];
        let mut words = 0;
        let subscription = |&vni: &u32| {
            let routes = &plan.vnis[vni as usize];
            let place = it.announces.iter().find(|(announced, _)| *announced == vni);
            let own = place.map_or(0..0, |&(_, place)| routes.routes_at(place));
            let first_word = words;
            words += routes.words();
            Subscription { vni, first_word, own }
        };
        let subscriptions = it.subscribes.iter().map(subscription).collect();
        View { subscriptions, last: 0, last_number: u32::MAX, step: 1, bits: vec![0; words] }
    }

    /// Judges an update, and takes it over if it is right.
    pub fn apply(&mut self, plan: &Plan, update: &Update) -> Verdict {
        let vni = update.vni.0.wrapping_sub(plan.vni_base);
        let Some(subscription) = self.find(vni) else {
            return Verdict::Unexpected;
        };
        let routes = &plan.vnis[vni as usize];
        let Some(number) = route::number_of(&update.route.destination) else {
            return Verdict::Unexpected;
        };
        if number >= routes.routes() {
            return Verdict::Unexpected;
        }
        if routes.route(number) != update.route {
            return Verdict::Wrong;
        }
        let subscription = &self.subscriptions[subscription];
        if subscription.own.contains(&number) {
            return Verdict::Own;
        }
        let word = &mut self.bits[subscription.first_word + number as usize / 64];
        let bit = 1 << (number % 64);
        let has = *word & bit != 0;
        if has == (update.action == Action::Add) {
            return Verdict::Duplicate;
        }
        *word ^= bit;
        self.step = if number.wrapping_add(1) == self.last_number { -1 } else { 1 };
        self.last_number = number;
        Verdict::Right(routes.first_bit + number as usize)
    }

    /// Takes over the update that `bytes` begin with, if it is the one that is most likely to come next and
    /// right in every byte: its bit, what it does, and its length. None tells nothing: decode it.
    #[inline]
    pub fn take_next(
        &mut self,
        plan: &Plan,
        canon: &Canon,
        bytes: &[u8],
    ) -> Option<(usize, Action, usize)> {
        let subscription = self.subscriptions.get(self.last)?;
        let mut number = self.last_number.wrapping_add_signed(self.step);
        let own = &subscription.own;
        if own.contains(&number) {
            number = if self.step > 0 { own.end } else { own.start.wrapping_sub(1) };
        }
        let routes = &plan.vnis[subscription.vni as usize];
        if number >= routes.routes() {
            return None;
        }
        let bit = routes.first_bit + number as usize;
        let (action, length) = canon.matches(bit, bytes)?;
        let word = &mut self.bits[subscription.first_word + number as usize / 64];
        let mask = 1 << (number % 64);
        if (*word & mask != 0) == (action == Action::Add) {
            return None;
        }
        *word ^= mask;
        self.last_number = number;
        Some((bit, action, length))
    }

    /// Compares with the routes that are announced.
    pub fn difference(&self, plan: &Plan, announced: &[AtomicU64]) -> Difference {
        let mut difference = Difference::default();
        for subscription in &self.subscriptions {
            let routes = &plan.vnis[subscription.vni as usize];
            let first = routes.first_bit / 64;
            for word in 0..routes.words() {
                let expected = announced[first + word].load(Ordering::Relaxed)
                    & !bits_of_range(word, &subscription.own);
                let found = self.bits[subscription.first_word + word];
                if expected != found {
                    difference.add(subscription.vni, word, expected, found);
                }
            }
        }
        difference
    }

    fn find(&mut self, vni: u32) -> Option<usize> {
        match self.subscriptions.get(self.last) {
            Some(subscription) if subscription.vni == vni => Some(self.last),
            _ => {
                let found = self.subscriptions.binary_search_by_key(&vni, |it| it.vni).ok()?;
                self.last = found;
                Some(found)
            }
        }
    }
}

impl Difference {
    /// Adds another peer's difference.
    pub fn merge(&mut self, other: &Difference) {
        self.missing += other.missing;
        self.stale += other.stale;
    }

    fn add(&mut self, vni: u32, word: usize, expected: u64, found: u64) {
        self.missing += u64::from((expected & !found).count_ones());
        self.stale += u64::from((found & !expected).count_ones());
        let bit = (expected ^ found).trailing_zeros();
        let missing = expected >> bit & 1 == 1;
        let number = word as u32 * 64 + bit;
        self.first.get_or_insert(FirstDifference { vni, number, missing });
    }
}

impl FirstDifference {
    /// In words; `peer` and `name_of` say who peers are.
    pub fn describe(&self, plan: &Plan, peer: &str, name_of: impl Fn(u32) -> String) -> String {
        let routes: &VniPlan = &plan.vnis[self.vni as usize];
        let state = if self.missing { "lacks" } else { "still has" };
        format!(
            "{peer} {state} {} in VNI {} (announced by {})",
            routes.route(self.number),
            plan.vni(self.vni),
            name_of(routes.announcer_of(self.number)),
        )
    }
}

/// An update that is not right, in words.
pub fn complaint(plan: &Plan, peer: &str, update: &Update, verdict: Verdict) -> String {
    let action = if update.action == Action::Add { "ADD" } else { "REMOVE" };
    let what = format!("{action} of {} in VNI {}", update.route, update.vni);
    match verdict {
        Verdict::Right(_) => what,
        Verdict::Own => format!("{peer} got an {what}, which it announces itself"),
        Verdict::Duplicate => format!("{peer} got a duplicate {what}"),
        Verdict::Unexpected => format!("{peer} got an unexpected {what}"),
        Verdict::Wrong => {
            let vni = update.vni.0.wrapping_sub(plan.vni_base);
            let expected = route::number_of(&update.route.destination)
                .map(|number| plan.vnis[vni as usize].route(number));
            let difference = expected.map(|expected| route::difference(&update.route, &expected));
            format!("{peer} got a wrong {what}: {}", difference.unwrap_or_default())
        }
    }
}

/// The bits of bitmap word `word` whose numbers lie in `range`.
fn bits_of_range(word: usize, range: &Range<u32>) -> u64 {
    let first = word as u64 * 64;
    let from = u64::from(range.start).clamp(first, first + 64) - first;
    let to = u64::from(range.end).clamp(first, first + 64) - first;
    if from >= to {
        return 0;
    }
    let below = |n: u64| if n == 64 { u64::MAX } else { (1 << n) - 1 };
    below(to) & !below(from)
}

#[cfg(test)]
mod tests {
    use metalbond_uring::types::Vni;

    use super::*;

    /// Peers 0 and 1 announce 100 routes each in VNI 1000; peers 1 and 2 subscribe.
    fn plan() -> Plan {
        let mut plan = Plan::new(1000, 3, 1, 100);
        plan.announce(0, 0);
        plan.announce(1, 0);
        plan.subscribe(1, 0);
        plan.subscribe(2, 0);
        plan.finish()
    }

    fn update(plan: &Plan, action: Action, number: u32) -> Update {
        Update { action, vni: plan.vni(0), route: plan.vnis[0].route(number) }
    }

    fn announced(numbers: impl IntoIterator<Item = u32>) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        for number in numbers {
            words[number as usize / 64].fetch_or(1 << (number % 64), Ordering::Relaxed);
        }
        words
    }

    #[test]
    fn a_view_that_is_told_everything_is_right() {
        let plan = plan();
        let mut view = View::new(&plan, 2);
        for number in 0..200 {
            let update = update(&plan, Action::Add, number);
            assert_eq!(view.apply(&plan, &update), Verdict::Right(number as usize));
        }
        assert_eq!(view.difference(&plan, &announced(0..200)), Difference::default());
        let difference = view.difference(&plan, &announced(3..200));
        assert_eq!((difference.missing, difference.stale), (0, 3));
        assert_eq!(view.apply(&plan, &update(&plan, Action::Remove, 0)), Verdict::Right(0));
        assert_eq!(view.difference(&plan, &announced(3..200)).stale, 2);
    }

    #[test]
    fn the_short_way_comes_to_the_same() {
        let plan = plan();
        let canon = Canon::new(&plan);
        // Forwards over the own routes, backwards, and out of order.
        let order = (0..100).chain((20..100).rev()).chain([3, 4, 5, 90, 91, 92, 2, 1, 0]);
        let (mut quick, mut slow) = (View::new(&plan, 1), View::new(&plan, 1));
        let mut taken = 0;
        for number in order {
            let word = slow.bits[number as usize / 64];
            let has = word >> (number % 64) & 1 == 1;
            let action = if has { Action::Remove } else { Action::Add };
            let update = update(&plan, action, number);
            let mut frame = Vec::new();
            metalbond_uring::internals::wire::Message::Update(update).encode(&mut frame);
            let verdict = slow.apply(&plan, &update);
            assert_eq!(verdict, Verdict::Right(number as usize));
            match quick.take_next(&plan, &canon, &frame) {
                Some(short) => {
                    taken += 1;
                    assert_eq!(short, (number as usize, action, frame.len()));
                }
                None => assert_eq!(quick.apply(&plan, &update), verdict),
            }
            assert_eq!(quick.bits, slow.bits);
            // The same again is a duplicate both ways.
            assert_eq!(quick.take_next(&plan, &canon, &frame), None);
            assert_eq!(quick.apply(&plan, &update), Verdict::Duplicate);
        }
        assert!(taken > 170, "{taken}");
    }

    #[test]
    fn a_skipped_update_is_missing() {
        let plan = plan();
        let mut view = View::new(&plan, 2);
        for number in (0..200).filter(|&number| number != 130) {
            view.apply(&plan, &update(&plan, Action::Add, number));
        }
        let difference = view.difference(&plan, &announced(0..200));
        assert_eq!((difference.missing, difference.stale), (1, 0));
        let words =
            difference.first.unwrap().describe(&plan, "peer 2", |peer| format!("peer {peer}"));
        assert!(words.starts_with("peer 2 lacks 10.0.0.130/32 via 2001:db8:0:1::82"), "{words}");
    }

    #[test]
    fn duplicates_are_found_in_both_directions() {
        let plan = plan();
        let mut view = View::new(&plan, 2);
        let (add, remove) = (update(&plan, Action::Add, 7), update(&plan, Action::Remove, 7));
        assert_eq!(view.apply(&plan, &remove), Verdict::Duplicate);
        assert_eq!(view.apply(&plan, &add), Verdict::Right(7));
        assert_eq!(view.apply(&plan, &add), Verdict::Duplicate);
        assert_eq!(view.apply(&plan, &remove), Verdict::Right(7));
    }

    #[test]
    fn every_damaged_field_is_found() {
        let plan = plan();
        let mut view = View::new(&plan, 2);
        let good = update(&plan, Action::Add, 5);
        type Damage = (fn(&mut Update), Verdict);
        let damage: [Damage; 9] = [
            (|it| it.vni = Vni(1001), Verdict::Unexpected),
            (|it| it.vni = Vni(3), Verdict::Unexpected),
            (|it| it.route.destination.length = 31, Verdict::Unexpected),
            (|it| it.route.destination.prefix = "10.0.0.6".parse().unwrap(), Verdict::Wrong),
            (|it| it.route.destination.prefix = "10.0.0.200".parse().unwrap(), Verdict::Unexpected),
            (|it| it.route.next_hop.address = "2001:db8::6".parse().unwrap(), Verdict::Wrong),
            (|it| it.route.next_hop.vni = Vni(1), Verdict::Wrong),
            (|it| it.route.next_hop.kind.0 = 0, Verdict::Wrong),
            (|it| it.route.next_hop.nat_port_from += 1, Verdict::Wrong),
        ];
        for (damage, verdict) in damage {
            let mut bad = good;
            damage(&mut bad);
            assert_eq!(view.apply(&plan, &bad), verdict, "{bad:?}");
            assert!(complaint(&plan, "peer 2", &bad, verdict).starts_with("peer 2 got a"));
        }
        assert_eq!(view.apply(&plan, &good), Verdict::Right(5));
    }

    #[test]
    fn own_routes_are_told_apart() {
        let plan = plan();
        let mut view = View::new(&plan, 1);
        assert_eq!(view.apply(&plan, &update(&plan, Action::Add, 100)), Verdict::Own);
        assert_eq!(view.apply(&plan, &update(&plan, Action::Add, 199)), Verdict::Own);
        for number in 0..100 {
            view.apply(&plan, &update(&plan, Action::Add, number));
        }
        assert_eq!(view.difference(&plan, &announced(0..200)), Difference::default());
    }

    #[test]
    fn ranges_become_bits() {
        assert_eq!(bits_of_range(0, &(0..64)), u64::MAX);
        assert_eq!(bits_of_range(0, &(0..0)), 0);
        assert_eq!(bits_of_range(1, &(60..66)), 3);
        assert_eq!(bits_of_range(0, &(60..66)), 0xf << 60);
        assert_eq!(bits_of_range(2, &(60..66)), 0);
    }
}
