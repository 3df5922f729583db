//! What comes from a peer: its bytes, the messages in them, and how many routes they may bring.
//!
//! Owns the input that cannot be processed yet, and what it waits for. Must never let a message pass
//! while the peer is paused.

use crate::shard::mail::Settled;
use crate::types::{Action, ShardId};
use crate::wire::{self, Deframer, Fault, Message, Update};

/// A message, as it came.
pub(in crate::shard) struct Heard {
    pub message: Message,
    /// Whether its frame had no payload.
    pub is_bare: bool,
}

/// What a paused peer waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Pause {
    /// Room at this home.
    Home(ShardId),
    /// What becomes of its own changes: until then nobody knows whether this one is within its limit.
    Quota(Update),
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
    quota: Quota,
    updates_received: u64,
}

/// How many routes a peer may announce, and how many it does as far as is known.
struct Quota {
    routes_max: i64,
    /// As far as its homes have said.
    routes: i64,
    /// ADDs, and changes of any kind, that homes have not dealt with yet.
    adds_under_way: i64,
    changes_under_way: i64,
}

impl Inbound {
    /// Nothing heard. The peer may announce `routes_max` routes.
    pub(crate) fn new(routes_max: i64) -> Inbound {
        Inbound {
            deframer: Deframer::new(),
            backlog: Vec::new(),
            pause: None,
            quota: Quota { routes_max, routes: 0, adds_under_way: 0, changes_under_way: 0 },
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

    /// Routes that the peer announces, as far as their homes have said.
    pub(crate) fn routes(&self) -> u64 {
        u64::try_from(self.quota.routes).unwrap_or(0)
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

    /// Lets no message pass from now on. False if that is so already.
    pub(crate) fn pause(&mut self, pause: Pause) -> bool {
        let is_new = self.pause.is_none();
        self.pause.get_or_insert(pause);
        is_new
    }

    /// Ends the pause if `over` says that it is: the change that waited, and the input behind it.
    pub(crate) fn resume(
        &mut self,
        over: impl FnOnce(&Pause) -> bool,
    ) -> Option<(Option<Update>, Vec<u8>)> {
        let change = match self.pause.take_if(|pause| over(pause))? {
            Pause::Quota(update) => Some(update),
            Pause::Home(_) => None,
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
        let quota = &mut self.quota;
        quota.changes_under_way -= i64::from(settled.changes);
        quota.adds_under_way -= i64::from(settled.adds);
        quota.routes += i64::from(settled.stored);
        let is_decided = quota.changes_under_way == 0 || !quota.is_used_up();
        is_decided && matches!(self.pause, Some(Pause::Quota(_)))
    }

    /// Nothing is heard any more.
    pub(crate) fn end(&mut self) {
        self.backlog = Vec::new();
        self.pause = None;
    }
}

impl Quota {
    fn is_used_up(&self) -> bool {
        self.routes + self.adds_under_way >= self.routes_max
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
        Settled { source: SourceId(PeerId::new(ShardId(0), 0, 0)), changes, adds, stored }
    }

    #[test]
    fn at_the_limit_a_change_waits_for_what_is_under_way() {
        let mut inbound = Inbound::new(2);
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
        assert!(inbound.pause(Pause::Quota(update)));
        assert!(inbound.settle(&settled(1, 0, -1)), "what it waits for is decided");
        let (change, _) = inbound.resume(|_| true).expect("it was paused");
        assert_eq!(change, Some(update));
        assert_eq!(inbound.admit(Action::Add), Admission::Passes);
    }

    #[test]
    fn a_paused_peer_says_nothing_until_what_it_waits_for() {
        let mut inbound = Inbound::new(i64::MAX);
        let keepalives = [1, 0, 0, 2, 1, 0, 0, 2];
        let mut input = &keepalives[..];
        assert!(inbound.next(&mut input).is_some());
        let home = Pause::Home(ShardId(3));
        assert!(inbound.pause(home));
        assert!(!inbound.pause(Pause::Home(ShardId(4))), "it waits for the first");
        assert!(inbound.next(&mut input).is_none());
        assert_eq!(input.len(), 4, "it was not touched");
        inbound.keep(input);
        assert!(inbound.resume(|_| false).is_none() && inbound.is_paused());
        let (change, backlog) = inbound.resume(|pause| *pause == home).expect("it is over");
        assert!(change.is_none() && backlog == input && !inbound.is_paused());
        assert!(inbound.resume(|_| true).is_none(), "said once");
        assert!(inbound.next(&mut &backlog[..]).is_some());
    }
}
