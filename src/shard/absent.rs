//! Sources whose connections are lost, and whose routes stay for now.
//!
//! Owns who waits at which address, and until when. Must never give a source to another address than its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;

use crate::handover::{FormerLife, HandoverError};
use crate::types::{PeerClass, ShardId, SourceId, Time};

/// So many lives of a source may wait at a time for what was announced in them to be announced again. Lives are
/// told apart while they lie within 128 of each other.
const LIVES_MAX: usize = 32;

/// So many sources of one address, and of all that fall to a shard, are kept without a connection.
const ABSENT_PER_ADDRESS_MAX: usize = 1_024;
const ABSENT_MAX: usize = 65_536;

/// Home shards that know a source: a bit each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Homes(SmallVec<[u64; 1]>);

/// What may have to be withdrawn of a source: what it announced last in one of these lives, or in one before, each
/// until then.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Stale(VecDeque<(u8, Time)>);

/// A source without a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Absent {
    pub source: SourceId,
    /// What its connection was; the next one has to be the same.
    pub class: PeerClass,
    /// The life that is over.
    pub life: u8,
    pub homes: Homes,
    /// Its routes, whether they are in tables or withheld.
    pub routes: i64,
    pub stale: Stale,
}

/// Those of some addresses, and how many are connected there.
#[derive(Debug, Default)]
pub(super) struct Absentees {
    of: BTreeMap<IpAddr, At>,
    deadlines: BTreeSet<(Time, IpAddr, SourceId)>,
    routes: i64,
}

#[derive(Debug, Default)]
struct At {
    connected: u32,
    absent: VecDeque<Absent>,
}

/// The life that another process tells of.
pub(super) fn life_of(life: u32) -> Result<u8, HandoverError> {
    u8::try_from(life).map_err(|_| HandoverError::Nonsense("lives are counted up to 255"))
}

impl Homes {
    /// As many as there are.
    pub(super) fn all(shards: u16) -> Homes {
        let mut homes = Homes::default();
        for home in (0..shards).map(ShardId) {
            homes.note(home);
        }
        homes
    }

    /// One more. False if it is one of them.
    #[inline]
    pub(super) fn note(&mut self, home: ShardId) -> bool {
        let (word, bit) = (home.index() / 64, 1 << (home.index() % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = ShardId> {
        let bits = self.0.iter().enumerate();
        bits.flat_map(|(word, bits)| {
            let set = (0..64).filter(move |bit| bits & (1 << bit) != 0);
            set.map(move |bit| ShardId((64 * word + bit) as u16))
        })
    }
}

impl Stale {
    /// What another process told of it.
    pub(super) fn restored(now: Time, lives: &[FormerLife]) -> Result<Stale, HandoverError> {
        let lives = lives
            .iter()
            .map(|of| Ok((life_of(of.life)?, now.after(Duration::from_millis(of.left_ms)))));
        Ok(Stale(lives.collect::<Result<_, _>>()?))
    }

    /// All of it, for another process.
    pub(super) fn hand_over(&self, now: Time) -> Vec<FormerLife> {
        let lives = self.0.iter().map(|(life, until)| {
            let left_ms = u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX);
            FormerLife { life: u32::from(*life), left_ms }
        });
        lives.collect()
    }

    /// Whether nothing may have to be withdrawn.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The end of a life: what was announced in it stays until then.
    pub(super) fn push(&mut self, life: u8, until: Time) {
        self.0.push_back((life, until));
    }

    /// When something has to go.
    pub(super) fn next_deadline(&self) -> Time {
        self.0.front().map_or(Time::NEVER, |(_, until)| *until)
    }

    /// When all has to go.
    pub(super) fn last_deadline(&self) -> Time {
        self.0.back().map_or(Time::NEVER, |(_, until)| *until)
    }

    /// The last life of which what is left has to go now.
    pub(super) fn take_due(&mut self, now: Time) -> Option<u8> {
        let mut due = None;
        while self.next_deadline() <= now {
            due = self.0.pop_front();
        }
        due.map(|(life, _)| life)
    }

    /// Those before the last one: what is left of them may go.
    pub(super) fn take_former(&mut self) -> Option<u8> {
        let last = self.0.pop_back()?;
        let former = self.take_all();
        self.0.push_back(last);
        former
    }

    /// The last life, of which what is left may go, and that of all before.
    pub(super) fn take_all(&mut self) -> Option<u8> {
        let (life, _) = self.0.pop_back()?;
        self.0.clear();
        Some(life)
    }

    /// Those that are too many lives ago: what is left of them has to go.
    pub(super) fn take_surplus(&mut self) -> Option<u8> {
        let mut surplus = None;
        while self.0.len() > LIVES_MAX {
            surplus = self.0.pop_front();
        }
        surplus.map(|(life, _)| life)
    }
}

impl Absentees {
    /// A session with a peer at this address is established. It takes over the source that was lost last, if one of
    /// its class is absent. Says whether nobody else is there who might announce what that one does not.
    pub(super) fn arrived(&mut self, address: IpAddr, class: PeerClass) -> (Option<Absent>, bool) {
        let at = self.of.entry(address).or_default();
        at.connected += 1;
        let found = at.absent.iter().rposition(|absent| absent.class == class);
        let taken = found.and_then(|place| at.absent.remove(place));
        let is_alone = at.connected == 1 && at.absent.is_empty();
        if let Some(taken) = &taken {
            self.routes -= taken.routes;
            self.deadlines.remove(&(taken.stale.last_deadline(), address, taken.source));
        }
        (taken, is_alone)
    }

    /// A session with a peer at this address stands, whatever source it is.
    pub(super) fn stands(&mut self, address: IpAddr) {
        self.of.entry(address).or_default().connected += 1;
    }

    /// A source is absent, as another process told.
    pub(super) fn restore(&mut self, address: IpAddr, absent: Absent) {
        self.routes += absent.routes;
        self.deadlines.insert((absent.stale.last_deadline(), address, absent.source));
        self.of.entry(address).or_default().absent.push_back(absent);
    }

    /// All who are absent, with their addresses, in the order in which each address lost them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, &Absent)> {
        self.of.iter().flat_map(|(address, at)| at.absent.iter().map(|absent| (*address, absent)))
    }

    /// A session with a peer at this address is over, and what it was as a source is absent from now on, if it was one.
    /// Returns who has been absent for longest, if there are too many: it is not any more.
    pub(super) fn left(&mut self, address: IpAddr, absent: Option<Absent>) -> Option<Absent> {
        let Some(at) = self.of.get_mut(&address) else {
            unreachable!("whoever leaves had arrived")
        };
        at.connected -= 1;
        if let Some(absent) = absent {
            self.routes += absent.routes;
            self.deadlines.insert((absent.stale.last_deadline(), address, absent.source));
            at.absent.push_back(absent);
        }
        let is_crowded = at.absent.len() > ABSENT_PER_ADDRESS_MAX;
        let first = if is_crowded { at.absent.front().map(|first| first.source) } else { None };
        self.forget(address);
        match first {
            Some(source) => self.take(address, source),
            None if self.deadlines.len() > ABSENT_MAX => self.take_due(Time::NEVER),
            None => None,
        }
    }

    /// When somebody has been absent for too long.
    pub(super) fn next_deadline(&self) -> Time {
        self.deadlines.first().map_or(Time::NEVER, |(until, ..)| *until)
    }

    /// Somebody who has been.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Absent> {
        if self.next_deadline() > now {
            return None;
        }
        let (_, address, source) = *self.deadlines.first()?;
        self.take(address, source)
    }

    /// How many are absent, and the routes that they announced.
    pub(super) fn count(&self) -> (usize, u64) {
        (self.deadlines.len(), u64::try_from(self.routes).unwrap_or(0))
    }

    /// Addresses that anything is known of.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.of.len()
    }

    fn take(&mut self, address: IpAddr, source: SourceId) -> Option<Absent> {
        let at = self.of.get_mut(&address)?;
        let place = at.absent.iter().position(|absent| absent.source == source)?;
        let taken = at.absent.remove(place)?;
        self.deadlines.remove(&(taken.stale.last_deadline(), address, source));
        self.routes -= taken.routes;
        self.forget(address);
        Some(taken)
    }

    fn forget(&mut self, address: IpAddr) {
        if self.of.get(&address).is_some_and(|at| at.connected == 0 && at.absent.is_empty()) {
            self.of.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PeerId;

    fn absent(slot: u32, until: u64) -> Absent {
        let mut stale = Stale::default();
        stale.push(0, Time(until));
        Absent {
            source: SourceId(PeerId::new(ShardId(1), slot, 0)),
            class: PeerClass::Client,
            life: 0,
            homes: Homes::default(),
            routes: 3,
            stale,
        }
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// The slot of who is taken over, and whether nobody else is there.
    fn arrived(absentees: &mut Absentees, last: u8, class: PeerClass) -> (Option<u32>, bool) {
        let (taken, is_alone) = absentees.arrived(address(last), class);
        (taken.map(|it| it.source.0.slot()), is_alone)
    }

    #[test]
    fn a_source_is_taken_over_at_its_address_by_its_class_once() {
        let mut absentees = Absentees::default();
        for at in [1, 1, 2] {
            assert_eq!(arrived(&mut absentees, at, PeerClass::Client).0, None);
        }
        absentees.left(address(1), Some(absent(7, 100)));
        absentees.left(address(1), Some(absent(8, 90)));
        assert_eq!(absentees.count(), (2, 6));
        assert_eq!(arrived(&mut absentees, 2, PeerClass::Client), (None, false));
        assert_eq!(arrived(&mut absentees, 1, PeerClass::Server), (None, false));
        assert_eq!(arrived(&mut absentees, 1, PeerClass::Client), (Some(8), false));
        assert_eq!(arrived(&mut absentees, 1, PeerClass::Client), (Some(7), false));
        assert_eq!(arrived(&mut absentees, 1, PeerClass::Client), (None, false));
        assert_eq!((absentees.count(), absentees.next_deadline()), ((0, 0), Time::NEVER));
        for at in [1, 1, 1, 1, 2, 2] {
            absentees.left(address(at), None);
        }
        assert_eq!(absentees.addresses(), 0, "nothing is left of who has gone");
    }

    #[test]
    fn who_is_absent_for_too_long_is_due_once() {
        let mut absentees = Absentees::default();
        for (slot, until) in [(7, 100), (8, 90)] {
            arrived(&mut absentees, slot as u8, PeerClass::Client);
            absentees.left(address(slot as u8), Some(absent(slot, until)));
        }
        assert_eq!(absentees.next_deadline(), Time(90));
        assert!(absentees.take_due(Time(89)).is_none());
        assert_eq!(absentees.take_due(Time(100)).map(|it| it.source.0.slot()), Some(8));
        assert_eq!(absentees.take_due(Time(100)).map(|it| it.source.0.slot()), Some(7));
        assert!(absentees.take_due(Time(100)).is_none());
        assert_eq!(absentees.addresses(), 0);
    }

    #[test]
    fn who_has_been_absent_for_longest_makes_room() {
        let mut absentees = Absentees::default();
        let most = ABSENT_PER_ADDRESS_MAX as u32;
        for slot in 0..=most {
            arrived(&mut absentees, 1, PeerClass::Server);
            let gone = absentees.left(address(1), Some(absent(slot, 100 + u64::from(slot))));
            assert_eq!(gone.map(|it| it.source.0.slot()), (slot == most).then_some(0));
        }
        assert_eq!(absentees.count(), (most as usize, 3 * u64::from(most)));
        assert_eq!(absentees.next_deadline(), Time(101));
    }

    #[test]
    fn alone_is_who_finds_nobody_connected_and_nobody_else_absent() {
        let mut absentees = Absentees::default();
        arrived(&mut absentees, 1, PeerClass::Client);
        absentees.left(address(1), Some(absent(7, 100)));
        assert_eq!(arrived(&mut absentees, 1, PeerClass::Client), (Some(7), true));
        absentees.left(address(1), Some(absent(7, 100)));
        arrived(&mut absentees, 1, PeerClass::Server);
        assert_eq!(arrived(&mut absentees, 1, PeerClass::Client), (Some(7), false));
    }

    #[test]
    fn lives_go_in_their_order() {
        let mut stale = Stale::default();
        for life in 0..3 {
            stale.push(life, Time(100 + u64::from(life)));
        }
        assert_eq!((stale.next_deadline(), stale.last_deadline()), (Time(100), Time(102)));
        assert_eq!(stale.take_due(Time(99)), None);
        assert_eq!(stale.take_due(Time(101)), Some(1));
        assert_eq!(stale.take_all(), Some(2));
        assert!(stale.is_empty() && stale.take_all().is_none());
        (0..=LIVES_MAX).for_each(|life| stale.push(life as u8, Time(200)));
        assert_eq!(stale.take_surplus(), Some(0));
        assert_eq!(stale.take_surplus(), None);
    }

    #[test]
    fn homes_are_a_set() {
        let mut homes = Homes::default();
        assert!(homes.note(ShardId(70)) && homes.note(ShardId(3)) && !homes.note(ShardId(70)));
        assert_eq!(homes.iter().collect::<Vec<_>>(), [ShardId(3), ShardId(70)]);
    }
}
