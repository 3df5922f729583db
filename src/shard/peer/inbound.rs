//! What comes from a peer: its bytes, the messages in them, and how many routes they may bring.
//!
//! Owns the input that cannot be processed yet, and what it waits for. Must never let a message pass
//! while the peer is paused.

mod handed_over;

use std::time::Duration;

use crate::shard::config::BURST_TIME;
use crate::shard::mail::{Lane, Settled};
use crate::types::{Action, ShardId, Time};
use crate::wire::{self, Deframer, Fault, Message, Update};

/// A peer that sends more than it may is not heard so many times a second.
const PAUSES_PER_S: i64 = 100;

/// A peer of which so many subscriptions were refused is not heard for a while: so 800 a second cost others little.
const ASKED_IN_VAIN_MAX: u64 = 16;
const IN_VAIN_PAUSE: Duration = Duration::from_millis(20);

const MILLION: i64 = 1_000_000;
const BURST_S: i64 = BURST_TIME.as_secs() as i64;

/// A message, as it came.
pub(in crate::shard) struct Heard {
    pub message: Message,
    /// Whether its frame had no payload.
    pub is_bare: bool,
}

/// What a paused peer waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Pause {
    /// Room at this home, for what is of this lane.
    Home(ShardId, Lane),
    /// What becomes of its own changes: so many are under way that others would wait behind them.
    Changes,
    /// What becomes of its own changes: until then nobody knows whether this one is within its limit.
    Quota(Update),
    /// This time: it sends more than it may.
    Rate(Time),
    /// Who it is as a source.
    Origin,
    /// A handover: it is not heard until that has succeeded, elsewhere, or failed.
    Handover,
}

/// What becomes of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Admission {
    /// It may pass, and is counted.
    Passes,
    /// It may pass once others are settled: duplicates among them do not count, withdrawals make room.
    Waits,
    /// The peer has as many routes as it may.
    Refused,
}

/// The input of one peer.
pub(in crate::shard) struct Inbound {
    deframer: Deframer,
    /// Input that waits while the peer is paused.
    backlog: Vec<u8>,
    pause: Option<Pause>,
    /// When what waits was read, the first of it.
    read_at: Time,
    quota: Quota,
    /// How many of its changes may be under way.
    changes_max: i64,
    rate: Rate,
    /// Subscriptions that were refused.
    asked_in_vain: u64,
    updates_received: u64,
}

/// How many routes a peer may announce, and how many it does as far as is known.
pub(in crate::shard) struct Quota {
    routes_max: i64,
    /// As far as its homes have said; those that only a former connection announced; and how many of all these policy
    /// withholds.
    routes: i64,
    stale: i64,
    withheld: i64,
    /// ADDs, and changes of any kind, that homes have not dealt with yet.
    adds_under_way: i64,
    changes_under_way: i64,
}

/// How many UPDATEs a peer may send: a bucket of tokens.
struct Rate {
    per_s: i64,
    /// Those that are left; none, or less than none, after the last one was spent.
    tokens: i64,
    /// A part of one more.
    millionths: i64,
    /// Up to when those have been earned.
    earned_until: Time,
}

impl Inbound {
    /// Nothing heard. The peer may announce `routes_max` routes, of `changes_max` of which it is not known what becomes
    /// of them, and send so many UPDATEs a second.
    pub(crate) fn new(
        now: Time,
        routes_max: i64,
        changes_max: i64,
        updates_per_s_max: u32,
    ) -> Inbound {
        Inbound {
            deframer: Deframer::new(),
            backlog: Vec::new(),
            pause: None,
            read_at: Time::default(),
            quota: Quota {
                routes_max,
                routes: 0,
                stale: 0,
                withheld: 0,
                adds_under_way: 0,
                changes_under_way: 0,
            },
            changes_max,
            rate: Rate::full(now, updates_per_s_max),
            asked_in_vain: 0,
            updates_received: 0,
        }
    }

    /// The next message of `input`, or what is wrong with it. None if the peer is paused, or if more has
    /// to come first.
    #[inline]
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Option<Result<Heard, Fault>> {
        if self.pause.is_some() {
            return None;
        }
        match self.deframer.next(input) {
            Ok(Some(frame)) => {
                let is_bare = frame.payload.is_empty();
                let decoded = wire::decode(frame).map_err(Fault::Decode);
                Some(decoded.map(|message| Heard { message, is_bare }))
            }
            Ok(None) => None,
            Err(error) => Some(Err(Fault::Frame(error))),
        }
    }

    /// Keeps input until the peer is resumed.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.backlog.extend_from_slice(bytes);
    }

    /// Keeps what is left of a backlog that was taken, behind the first `used` bytes.
    pub(crate) fn keep_rest(&mut self, mut backlog: Vec<u8>, used: usize) {
        backlog.drain(..used);
        self.backlog = backlog;
    }

    /// Routes that the peer announces, or announced before it was lost, as far as their homes have said.
    pub(crate) fn routes(&self) -> u64 {
        u64::try_from(self.quota.routes()).unwrap_or(0)
    }

    /// How many of those policy withholds.
    pub(crate) fn withheld(&self) -> u64 {
        u64::try_from(self.quota.withheld).unwrap_or(0)
    }

    /// The peer is a source that has announced so many routes before; its homes will say how many of them are withheld.
    /// They do not count for its limit: it may announce them again.
    pub(crate) fn inherit(&mut self, routes: i64) {
        self.quota.stale = routes;
    }

    /// What is known of its routes, for the time when it is gone.
    pub(crate) fn take_quota(&mut self) -> Quota {
        let none =
            Quota { routes: 0, withheld: 0, adds_under_way: 0, changes_under_way: 0, ..self.quota };
        std::mem::replace(&mut self.quota, none)
    }

    /// Another policy withholds so many routes more than the one before.
    pub(crate) fn judged(&mut self, withheld: i32) {
        self.quota.withheld += i64::from(withheld);
    }

    /// Something was asked of a home that is no UPDATE, and will be settled as one.
    pub(crate) fn asks(&mut self) {
        self.quota.asks();
    }

    /// An UPDATE was processed. If the peer has sent more than it may, until when it is not heard.
    #[inline]
    pub(crate) fn spend(&mut self, now: Time) -> Option<Time> {
        self.rate.tokens -= 1;
        self.is_owing(now)
    }

    /// A subscription was refused. Whoever asks in vain again and again is read more slowly: until when it is not heard.
    pub(crate) fn ask_in_vain(&mut self, now: Time) -> Option<Time> {
        self.asked_in_vain += 1;
        let is_due = self.asked_in_vain.is_multiple_of(ASKED_IN_VAIN_MAX);
        is_due.then(|| now.after(IN_VAIN_PAUSE))
    }

    /// If the peer has sent more than it may, until when it is not heard.
    #[inline]
    pub(crate) fn is_owing(&mut self, now: Time) -> Option<Time> {
        if self.rate.tokens > 0 { None } else { self.rate.earn(now) }
    }

    /// Bytes that wait, of partial frames and while the peer is paused.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.backlog.len() + self.deframer.buffered_bytes()
    }

    /// UPDATEs that were passed on.
    pub(crate) fn updates_received(&self) -> u64 {
        self.updates_received
    }

    /// Whether the peer is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Whether it is not known yet who the peer is as a source.
    pub(crate) fn is_waiting_for_origin(&self) -> bool {
        matches!(self.pause, Some(Pause::Origin))
    }

    /// Lets no message pass from now on. False if that is so already.
    /// What waits was read at `read_at`.
    pub(crate) fn pause(&mut self, read_at: Time, pause: Pause) -> bool {
        let is_new = self.pause.is_none();
        if is_new {
            self.read_at = read_at;
        }
        self.pause.get_or_insert(pause);
        is_new
    }

    /// A peer that waits for one thing waits for another one instead. False if it does not.
    pub(crate) fn wait_instead(&mut self, of: &Pause, pause: Pause) -> bool {
        let waits = self.pause.as_ref() == Some(of);
        if waits {
            self.pause = Some(pause);
        }
        waits
    }

    /// When what waits was read, the first of it.
    pub(crate) fn read_at(&self) -> Time {
        self.read_at
    }

    /// Ends the pause if `over` says that it is: the change that waited, and the input behind it.
    pub(crate) fn resume(
        &mut self,
        over: impl FnOnce(&Pause) -> bool,
    ) -> Option<(Option<Update>, Vec<u8>)> {
        let change = match self.pause.take_if(|pause| over(pause))? {
            Pause::Quota(update) => Some(update),
            Pause::Home(..) | Pause::Changes | Pause::Rate(_) | Pause::Origin | Pause::Handover => {
                None
            }
        };
        Some((change, std::mem::take(&mut self.backlog)))
    }

    /// Whether a change may pass. If so it is under way from now on.
    #[inline]
    pub(crate) fn admit(&mut self, action: Action) -> Admission {
        let is_add = action == Action::Add;
        if is_add && self.quota.is_used_up() {
            return match self.quota.changes_under_way {
                0 => Admission::Refused,
                _ => Admission::Waits,
            };
        }
        self.quota.adds_under_way += i64::from(is_add);
        self.quota.changes_under_way += 1;
        self.updates_received += 1;
        Admission::Passes
    }

    /// A home dealt with changes. True if a change may be decided now that the peer is paused with.
    pub(crate) fn settle(&mut self, settled: &Settled) -> bool {
        self.quota.settle(settled);
        match self.pause {
            Some(Pause::Quota(_)) => self.quota.is_settled() || !self.quota.is_used_up(),
            Some(Pause::Changes) => !self.has_many_under_way(self.changes_max / 2),
            _ => false,
        }
    }

    /// Whether so many of its changes are under way that it is not heard for now.
    #[inline]
    pub(crate) fn is_ahead(&self) -> bool {
        self.has_many_under_way(self.changes_max)
    }

    fn has_many_under_way(&self, changes_max: i64) -> bool {
        self.quota.changes_under_way > changes_max
    }

    /// Nothing is heard any more.
    pub(crate) fn end(&mut self) {
        self.backlog = Vec::new();
        self.pause = None;
    }
}

impl Quota {
    /// A home dealt with changes.
    pub(crate) fn settle(&mut self, settled: &Settled) {
        self.changes_under_way -= i64::from(settled.changes);
        self.adds_under_way -= i64::from(settled.adds);
        self.routes += i64::from(settled.stored);
        self.stale += i64::from(settled.stale);
        self.withheld += i64::from(settled.withheld);
    }

    /// Something was asked of a home that is no UPDATE, and will be settled as one.
    pub(crate) fn asks(&mut self) {
        self.changes_under_way += 1;
    }

    /// Whether it has more routes than it may announce, those included that it announced before it was lost.
    pub(crate) fn is_beyond_limit(&self) -> bool {
        self.routes() > self.routes_max
    }

    /// Whether all homes have dealt with all.
    pub(crate) fn is_settled(&self) -> bool {
        self.changes_under_way == 0
    }

    /// Routes of this life and of former ones, whether they are in tables or withheld.
    pub(crate) fn routes(&self) -> i64 {
        self.routes + self.stale
    }

    fn is_used_up(&self) -> bool {
        self.routes + self.adds_under_way >= self.routes_max
    }
}

impl Rate {
    fn full(now: Time, per_s: u32) -> Rate {
        let per_s = i64::from(per_s);
        Rate { per_s, tokens: per_s * BURST_S, millionths: 0, earned_until: now }
    }

    /// Adds what time brings, at most what is earned in [`BURST_TIME`]. If that is too little: when it is enough.
    fn earn(&mut self, now: Time) -> Option<Time> {
        let time = now.since(self.earned_until).min(BURST_TIME);
        let earned = time.as_micros() as i64 * self.per_s + self.millionths;
        self.tokens += earned / MILLION;
        self.millionths = earned % MILLION;
        self.earned_until = now;
        if self.tokens > 0 {
            return None;
        }
        // Not for each token by itself.
        let missing = (1 - self.tokens).max(self.per_s / PAUSES_PER_S) * MILLION - self.millionths;
        let us = (missing + self.per_s - 1) / self.per_s;
        Some(now.after(Duration::from_micros(us.max(1) as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Destination, NextHop, NextHopType, PeerId, Route, SourceId, Vni};

    fn route() -> Route {
        let next_hop = NextHop {
            address: [0xfd; 16].into(),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        };
        Route { destination: Destination { prefix: [10, 0, 0, 0].into(), length: 8 }, next_hop }
    }

    fn settled(changes: u32, adds: u32, stored: i32) -> Settled {
        let source = SourceId(PeerId::new(ShardId(0), 0, 0));
        Settled { source, changes, adds, stored, stale: 0, withheld: 0 }
    }

    #[test]
    fn at_the_limit_a_change_waits_for_what_is_under_way() {
        let mut inbound = Inbound::new(Time(1), 2, i64::MAX, u32::MAX);
        for _ in 0..2 {
            assert_eq!(inbound.admit(Action::Add), Admission::Passes);
        }
        assert_eq!(inbound.admit(Action::Add), Admission::Waits);
        // A duplicate, which made no route.
        assert!(!inbound.settle(&settled(1, 1, 0)), "nobody is paused");
        assert_eq!(inbound.admit(Action::Add), Admission::Passes);
        assert!(!inbound.settle(&settled(2, 2, 2)));
        assert_eq!(inbound.admit(Action::Add), Admission::Refused, "all is known");
        assert_eq!(inbound.admit(Action::Remove), Admission::Passes, "never refused");
        assert_eq!(inbound.admit(Action::Add), Admission::Waits, "it may make room");
        let update = Update { action: Action::Add, vni: Vni(7), route: route() };
        assert!(inbound.pause(Time(1), Pause::Quota(update)));
        assert!(inbound.settle(&settled(1, 0, -1)), "what it waits for is decided");
        let (change, _) = inbound.resume(|_| true).expect("it was paused");
        assert_eq!(change, Some(update));
        assert_eq!(inbound.admit(Action::Add), Admission::Passes);
    }

    #[test]
    fn a_paused_peer_says_nothing_until_what_it_waits_for() {
        let mut inbound = Inbound::new(Time(1), i64::MAX, i64::MAX, u32::MAX);
        let keepalives = [1, 0, 0, 2, 1, 0, 0, 2];
        let mut input = &keepalives[..];
        assert!(inbound.next(&mut input).is_some());
        let home = Pause::Home(ShardId(3), Lane::Changes);
        assert!(inbound.pause(Time(1), home));
        assert!(
            !inbound.pause(Time(1), Pause::Home(ShardId(4), Lane::Joins)),
            "it waits for the first"
        );
        assert!(inbound.next(&mut input).is_none());
        assert_eq!(input.len(), 4, "it was not touched");
        inbound.keep(input);
        assert!(inbound.resume(|_| false).is_none() && inbound.is_paused());
        let (change, backlog) = inbound.resume(|pause| *pause == home).expect("it is over");
        assert!(change.is_none() && backlog == input && !inbound.is_paused());
        assert!(inbound.resume(|_| true).is_none(), "said once");
        assert!(inbound.next(&mut &backlog[..]).is_some());
    }

    /// Whatever the rate: never more than it earns, and all of that.
    #[test]
    fn nobody_sends_more_than_the_rate() {
        for per_s in [1, 7, 1_000, 100_000, 1_000_003] {
            let mut inbound = Inbound::new(Time(5), i64::MAX, i64::MAX, per_s);
            let (per_s, mut now) = (i64::from(per_s), Time(5));
            let burst = |inbound: &mut Inbound, now| (1..).find(|_| inbound.spend(now).is_some());
            assert_eq!(
                burst(&mut inbound, now),
                Some(BURST_S * per_s),
                "what it earns in the time of a burst"
            );
            let (mut sent, begun_at) = (0, now);
            while now < begun_at.after(Duration::from_secs(20)) {
                sent += 1;
                if let Some(until) = inbound.spend(now) {
                    assert!(until > now, "time goes on");
                    now = until;
                }
            }
            let earned = 20 * per_s;
            let exact = earned - per_s / 50 - 1..=earned + per_s / 50 + 1;
            assert!(exact.contains(&sent), "{per_s}: {sent}");
            // Quiet for long: a burst, and no more.
            now = now.after(Duration::from_secs(1_000));
            let again = burst(&mut inbound, now).unwrap_or_default();
            let all = BURST_S * per_s;
            assert!((all - per_s / 50 - 1..=all + 2).contains(&again), "{per_s}: {again}");
        }
    }
}
