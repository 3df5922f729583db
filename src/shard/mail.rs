//! What shards write to each other: one block for each destination and turn, FIFO for each pair.
//!
//! Owns the blocks under construction, and counts what is under way. Must never be read by two
//! shards: a block is handed over whole.

use std::net::IpAddr;

use super::absent::Absent;
use crate::log::Scope;
use crate::policy::Denial;
use crate::rib::{Introduction, Joined, RecordSink, Refusal, UpdateGroup};
use crate::types::{
    Action, Announcers, PeerClass, PeerId, Remote, Route, ShardId, ShortTime, SourceId, Time, Vni,
};

/// Capacity of the emptied blocks that a shard keeps for use again, in bytes.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// What a peer's shard asks of a VNI's home shard.
#[derive(Debug)]
pub(super) enum Request {
    /// A source announces or withdraws a route.
    Change {
        source: SourceId,
        class: PeerClass,
        action: Action,
        vni: Vni,
        route: Route,
        /// When it was read, if a peer has said it.
        read_at: Option<ShortTime>,
    },
    /// Another reflector says who announces a route there.
    Announced(Box<Announced>),
    /// Says whose word a source is from now on.
    Introduce(SourceId, Introduction),
    /// A source has not announced again what it announced last in this life, or in one before.
    Sweep(SourceId, u8),
    /// A session is established with a peer at this address: is it a source that is absent?
    Arrived { peer: PeerId, class: PeerClass, address: IpAddr },
    /// A session with a peer at this address is over, which is an absent source from now on, if it was one.
    Left(IpAddr, Option<Box<Absent>>),
    /// A session with a peer at this address stands, or no longer.
    Connected { address: IpAddr, peer: PeerId, stands: bool },
    /// The asking shard has its peers at this address, which several hosts share, hear as themselves.
    Share(IpAddr),
    /// A source is gone, and all its routes with it.
    Lost(SourceId),
    /// A source announces nothing in this VNI any more, for now.
    LostIn(SourceId, Vni),
    /// A subscriber wants the table of a group and what follows.
    Join { group: UpdateGroup, peer: PeerId, epoch: u64 },
    /// The shard has subscribers of the group that know its table: another process has told it to them.
    Follow(UpdateGroup),
    /// The shard has no subscriber of the group any more.
    Leave(UpdateGroup),
}

/// What another reflector says of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    pub remote: Remote,
    pub vni: Vni,
    pub route: Route,
    pub by: Announcers,
}

/// Who announces a route at this node, as other reflectors are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    pub vni: Vni,
    pub route: Route,
    pub by: Announcers,
}

/// Requests of one lane are served in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    /// What sources announce, and what becomes of that.
    Changes,
    /// Who subscribes, who comes and who goes.
    Joins,
}

impl Lane {
    pub(super) const ALL: [Lane; 2] = [Lane::Changes, Lane::Joins];
}

/// Something for each lane.
pub(super) type ByLane<T> = [T; Lane::ALL.len()];

impl Request {
    /// The lane in which it is served.
    #[inline]
    pub(super) fn lane(&self) -> Lane {
        match self {
            Request::Change { .. }
            | Request::Announced(_)
            | Request::Introduce(..)
            | Request::Sweep(..)
            | Request::Lost(_)
            | Request::LostIn(..) => Lane::Changes,
            Request::Join { .. }
            | Request::Follow(_)
            | Request::Leave(_)
            | Request::Connected { .. }
            | Request::Share(_)
            | Request::Arrived { .. }
            | Request::Left(..) => Lane::Joins,
        }
    }

    /// The route that changes, if one does.
    pub(super) fn route(&self) -> Option<(Vni, &Route)> {
        match self {
            Request::Change { vni, route, .. } => Some((*vni, route)),
            Request::Announced(announced) => Some((announced.vni, &announced.route)),
            _ => None,
        }
    }
}

/// What a home shard tells the shards of its VNIs' subscribers.
#[derive(Debug)]
pub(super) enum Delivery {
    /// The next `length` bytes of the block: frames for those whom `scope` includes. The VNI has
    /// this many routes now. What brought the first of them was read at `read_at`, if it came from a peer.
    Records {
        group: UpdateGroup,
        scope: Scope,
        length: usize,
        routes: usize,
        read_at: Option<ShortTime>,
    },
    /// The answer to a join.
    Joined(Box<Joined>),
    /// Who has arrived, and what that is as a source.
    Received(Box<Received>),
    /// Several hosts share this address.
    Shared(IpAddr),
    /// From here on the sender tells them apart.
    Apart(IpAddr),
}

/// The answer to [`Request::Arrived`].
#[derive(Debug)]
pub(super) struct Received {
    pub peer: PeerId,
    pub address: IpAddr,
    /// The source that it takes over; None if it is a new one.
    pub absent: Option<Absent>,
    /// Whether nobody else is there who might announce what it does not.
    pub is_alone: bool,
}

/// Routes of a source that a home refused for the same reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefusedRoutes {
    pub source: SourceId,
    pub refusal: Refusal,
    pub count: u64,
    /// The first of them.
    pub vni: Vni,
    pub route: Route,
}

/// What became of a source's changes, for the limit on its routes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub source: SourceId,
    /// Changes dealt with.
    pub changes: u32,
    /// How many of them were ADDs.
    pub adds: u32,
    /// Routes that the source has more than before: of this life, of former ones, and how many of all are withheld.
    pub stored: i32,
    pub stale: i32,
    pub withheld: i32,
}

/// What another policy did to what a source announces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub source: SourceId,
    /// The life that its home knew of: what was judged before the next one was introduced is in the answer to that.
    pub life: u8,
    /// Routes that are withheld more than before.
    pub withheld: i32,
}

/// One block of mail from one shard to another. To be delivered in the order of sending.
#[derive(Debug)]
pub struct Mail {
    pub(super) from: ShardId,
    pub(super) requests: Vec<Request>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) bytes: Vec<u8>,
    pub(super) settled: Vec<Settled>,
    pub(super) judged: Vec<Judged>,
    /// For other reflectors.
    pub(super) published: Vec<Published>,
    pub(super) refused: Vec<RefusedRoutes>,
    /// Addresses of peers that failed, and when.
    pub(super) failed: Vec<(Time, IpAddr)>,
    /// Requests of the receiver that the sender dealt with.
    pub(super) requests_done: ByLane<usize>,
    /// Bytes of records of the receiver that the sender took.
    pub(super) record_bytes_taken: usize,
    /// An empty block that the sender has too many.
    pub(super) returned: Vec<Mail>,
}

impl Mail {
    fn new(from: ShardId) -> Mail {
        Mail {
            from,
            requests: Vec::new(),
            deliveries: Vec::new(),
            bytes: Vec::new(),
            settled: Vec::new(),
            judged: Vec::new(),
            published: Vec::new(),
            refused: Vec::new(),
            failed: Vec::new(),
            requests_done: [0; 2],
            record_bytes_taken: 0,
            returned: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.requests.is_empty()
            && self.deliveries.is_empty()
            && self.settled.is_empty()
            && self.judged.is_empty()
            && self.published.is_empty()
            && self.refused.is_empty()
            && self.failed.is_empty()
            && self.requests_done == [0; 2]
            && self.record_bytes_taken == 0
    }

    /// Memory that the block takes even when it is empty, in bytes.
    fn capacity_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.requests.capacity() * size_of::<Request>()
            + self.deliveries.capacity() * size_of::<Delivery>()
            + self.settled.capacity() * size_of::<Settled>()
            + self.judged.capacity() * size_of::<Judged>()
            + self.published.capacity() * size_of::<Published>()
            + self.refused.capacity() * size_of::<RefusedRoutes>()
            + self.failed.capacity() * size_of::<(Time, IpAddr)>()
    }

    /// Memory that the block holds, in bytes, shared bases not counted.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.len()
            + self.requests.len() * size_of::<Request>()
            + self.deliveries.len() * size_of::<Delivery>()
    }
}

/// Blocks under construction, one for each shard (for the shard itself too).
pub(super) struct Outboxes {
    blocks: Vec<Mail>,
    /// Emptied blocks, our own and those of other shards, and what they take in bytes.
    spare: Vec<Mail>,
    spare_bytes: usize,
    me: ShardId,
    /// Requests sent to each home and not dealt with.
    requests_under_way: Vec<ByLane<usize>>,
    /// Bytes of records sent to each shard and not taken.
    record_bytes_under_way: Vec<usize>,
    /// Shards that have enough records to take for now.
    full: usize,
    requests_max: ByLane<usize>,
    record_bytes_max: usize,
    /// When what brings records now was read, if it came from a peer.
    pub(super) read_at: Option<ShortTime>,
}

impl Outboxes {
    /// Empty blocks from `me` to `shards` shards. Beyond `requests_max` and `record_bytes_max` a
    /// destination counts as full.
    pub(super) fn new(
        me: ShardId,
        shards: u16,
        requests_max: ByLane<usize>,
        record_bytes_max: usize,
    ) -> Outboxes {
        Outboxes {
            blocks: (0..shards).map(|_| Mail::new(me)).collect(),
            spare: Vec::new(),
            spare_bytes: 0,
            me,
            requests_under_way: vec![[0; 2]; usize::from(shards)],
            record_bytes_under_way: vec![0; usize::from(shards)],
            full: 0,
            requests_max,
            record_bytes_max,
            read_at: None,
        }
    }

    /// Asks something of a home shard.
    pub(super) fn request(&mut self, home: ShardId, request: Request) {
        self.requests_under_way[home.index()][request.lane() as usize] += 1;
        self.blocks[home.index()].requests.push(request);
    }

    /// Whether a home shard has enough to do of this for now.
    pub(super) fn is_home_full(&self, home: ShardId, lane: Lane) -> bool {
        let lane = lane as usize;
        self.requests_under_way[home.index()][lane] >= self.requests_max[lane]
    }

    /// Requests that homes have not dealt with.
    pub(super) fn requests_under_way(&self) -> usize {
        self.requests_under_way.iter().flatten().sum()
    }

    /// Whether some shard has enough records to take for now.
    pub(super) fn is_any_full(&self) -> bool {
        self.full > 0
    }

    /// The receiver of our requests reports that it dealt with some.
    pub(super) fn requests_done(&mut self, home: ShardId, counts: ByLane<usize>) {
        for (under_way, done) in self.requests_under_way[home.index()].iter_mut().zip(counts) {
            *under_way -= done;
        }
    }

    /// The receiver of our records reports that it took some.
    pub(super) fn records_taken(&mut self, shard: ShardId, bytes: usize) {
        let under_way = &mut self.record_bytes_under_way[shard.index()];
        let was_full = *under_way >= self.record_bytes_max;
        *under_way -= bytes;
        self.full -= usize::from(was_full && *under_way < self.record_bytes_max);
    }

    /// Whether nothing waits to be sent, and all that was asked is done, and all records are taken.
    pub(super) fn is_still(&self) -> bool {
        self.blocks.iter().all(Mail::is_empty)
            && self.requests_under_way() == 0
            && self.record_bytes_under_way.iter().all(|bytes| *bytes == 0)
    }

    /// The block for `shard`.
    pub(super) fn block(&mut self, shard: ShardId) -> &mut Mail {
        &mut self.blocks[shard.index()]
    }

    /// Tells all other shards that a peer of this address failed.
    pub(super) fn tell_failed(&mut self, now: Time, address: IpAddr) {
        let me = self.me;
        for (_, block) in self.blocks.iter_mut().enumerate().filter(|(at, _)| *at != me.index()) {
            block.failed.push((now, address));
        }
    }

    /// Notes what became of changes of `source`, for its shard.
    pub(super) fn settle(&mut self, shard: ShardId, became: Settled) {
        let settled = &mut self.blocks[shard.index()].settled;
        match settled.last_mut() {
            Some(last) if last.source == became.source => {
                last.changes += became.changes;
                last.adds += became.adds;
                last.stored += became.stored;
                last.stale += became.stale;
                last.withheld += became.withheld;
            }
            _ => settled.push(became),
        }
    }

    /// Notes that a route of `source` was refused, for its shard.
    pub(super) fn refuse(
        &mut self,
        shard: ShardId,
        source: SourceId,
        refusal: Refusal,
        vni: Vni,
        route: &Route,
    ) {
        let refused = &mut self.blocks[shard.index()].refused;
        match refused.last_mut() {
            Some(last) if last.source == source && last.refusal == refusal => last.count += 1,
            _ => refused.push(RefusedRoutes { source, refusal, count: 1, vni, route: *route }),
        }
    }

    /// Takes the block for `shard`, if there is anything in it.
    pub(super) fn take(&mut self, shard: ShardId) -> Option<Mail> {
        let block = &mut self.blocks[shard.index()];
        if block.is_empty() {
            return None;
        }
        let next = self.spare.pop().unwrap_or_else(|| Mail::new(self.me));
        self.spare_bytes -= next.capacity_bytes();
        let mut mail = std::mem::replace(block, next);
        if shard != self.me && self.spare.len() > self.blocks.len() {
            // Receipts make more blocks go one way than the other.
            let surplus = self.spare.remove(0);
            self.spare_bytes -= surplus.capacity_bytes();
            mail.returned.push(surplus);
        }
        Some(mail)
    }

    /// Keeps a block that everything was taken out of for use again.
    pub(super) fn keep(&mut self, mut mail: Mail) {
        mail.bytes.clear();
        mail.from = self.me;
        mail.requests_done = [0; 2];
        mail.record_bytes_taken = 0;
        assert!(mail.is_empty(), "all of it was delivered");
        let bytes = mail.capacity_bytes();
        if self.spare.len() < 2 * self.blocks.len() + 2
            && self.spare_bytes + bytes <= SPARE_BYTES_MAX
        {
            self.spare_bytes += bytes;
            self.spare.push(mail);
        }
    }
}

impl RecordSink for Outboxes {
    fn record(
        &mut self,
        shard: ShardId,
        group: UpdateGroup,
        scope: Scope,
        frame: &[u8],
        routes_now: usize,
    ) {
        let under_way = &mut self.record_bytes_under_way[shard.index()];
        let was_full = *under_way >= self.record_bytes_max;
        *under_way += frame.len();
        self.full += usize::from(!was_full && *under_way >= self.record_bytes_max);
        let block = &mut self.blocks[shard.index()];
        block.bytes.extend_from_slice(frame);
        match block.deliveries.last_mut() {
            Some(Delivery::Records { group: last, scope: same, length, routes, .. })
                if *last == group && *same == scope =>
            {
                *length += frame.len();
                *routes = routes_now;
            }
            _ => block.deliveries.push(Delivery::Records {
                group,
                scope,
                length: frame.len(),
                routes: routes_now,
                read_at: self.read_at,
            }),
        }
    }

    fn publish(&mut self, vni: Vni, route: &Route, by: Announcers) {
        // It is the last one. However much waits for it, nobody here waits for it.
        let Some(block) = self.blocks.last_mut() else { return };
        block.published.push(Published { vni, route: *route, by });
    }

    fn joined(&mut self, shard: ShardId, joined: Joined) {
        self.blocks[shard.index()].deliveries.push(Delivery::Joined(Box::new(joined)));
    }

    fn swept(&mut self, shard: ShardId, source: SourceId, routes: u32, withheld: u32) {
        let gone = |count: u32| -i32::try_from(count).expect("a peer has below 2^31 routes");
        let (stale, withheld) = (gone(routes), gone(withheld));
        self.settle(shard, Settled { source, changes: 1, adds: 0, stored: 0, stale, withheld });
    }

    fn judged(
        &mut self,
        source: SourceId,
        of: Introduction,
        (vni, route): (Vni, &Route),
        denial: Option<Denial>,
    ) {
        let withheld = if denial.is_some() { 1 } else { -1 };
        let judged = &mut self.blocks[of.shard.index()].judged;
        match judged.last_mut() {
            Some(last) if last.source == source && last.life == of.life => {
                last.withheld += withheld
            }
            _ => judged.push(Judged { source, life: of.life, withheld }),
        }
        if let Some(denial) = denial {
            self.refuse(of.shard, source, Refusal::Policy(denial), vni, route);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::GroupClass;

    /// Blocks that go one way only: what the receiver has too many of comes back with its own mail, and
    /// what it keeps is counted as it is.
    #[test]
    fn spare_blocks_are_counted() {
        let (here, there) = (ShardId(0), ShardId(1));
        let mut sender = Outboxes::new(here, 2, [10; 2], 1 << 20);
        let mut receiver = Outboxes::new(there, 2, [10; 2], 1 << 20);
        let group = UpdateGroup::new(Vni(7), GroupClass::Client);
        let mut returned = 0;
        for round in 1..=20 {
            for _ in 0..3 {
                sender.record(there, group, Scope::All, &vec![0; 100 * round], 1);
                let mut mail = sender.take(there).expect("there is a record");
                mail.deliveries.clear();
                receiver.keep(mail);
            }
            receiver.block(here).record_bytes_taken += 1;
            let mut mail = receiver.take(here).expect("there is a receipt");
            returned += mail.returned.len();
            mail.returned.drain(..).for_each(|empty| sender.keep(empty));
            sender.keep(mail);
            for outboxes in [&sender, &receiver] {
                let bytes: usize = outboxes.spare.iter().map(Mail::capacity_bytes).sum();
                assert_eq!(outboxes.spare_bytes, bytes);
                assert!(outboxes.spare.len() <= 2 * outboxes.blocks.len() + 2);
            }
        }
        assert!(returned > 10);
    }
}
