//! One simulated peer: its handshake, its KEEPALIVEs, what it sends and what it is told.
//!
//! Owns a connection's state. Must never believe an update before the view has judged it.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use metalbond_uring::internals::wire::{
    self, Deframer, Frame, Hello, KEEPALIVE_FRAME, Message, MessageType, decode_update,
    encode_update,
};
use metalbond_uring::types::Action;

use crate::pipeline::{Habits, Pipeline};
use crate::plan::Plan;
use crate::shared::{Reading, Sabotage, Shared, Stats};
use crate::socket::Socket;
use crate::verify::{self, Verdict, View};

/// Bytes handed to the kernel at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// Which update of the sabotaged peer is damaged.
const SABOTAGED_UPDATE: u32 = 3;

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There is none.
    Closed,
    /// It is being opened, or HELLO was sent.
    Opening,
    /// The server's HELLO came, and was answered with a KEEPALIVE.
    Greeted,
    /// The server answered that.
    Established,
}

/// What a peer does as soon as it is established.
#[derive(Clone, Copy, Default, Debug)]
pub struct AtOnce {
    /// Subscribe to all its VNIs.
    pub subscribe: bool,
    /// Announce all its routes.
    pub announce: bool,
}

/// A simulated peer, or one of the two connections of a dual-homed one.
pub struct Peer {
    /// Its number in the plan.
    pub number: u32,
    /// The server that this connection is to: a dual-homed peer is two of these.
    pub home: u16,
    /// How far its connection is.
    pub state: Cell<State>,
    /// What it was told.
    pub view: RefCell<View>,
    /// The connection, if there is one.
    pub socket: RefCell<Option<Rc<Socket>>>,
    /// A task is sending.
    pub sending: Cell<bool>,
    /// It was told to leave.
    pub leaving: Cell<bool>,
    /// It was told not to read before this time, in nanoseconds.
    pub paused_until_ns: Cell<u64>,
    /// Whether its latencies count.
    pub measured: Cell<bool>,
    /// When updates came last while that was measured, in nanoseconds; 0 if none have come.
    pub updated_ns: Cell<u64>,
    /// When the hold timer was last restarted, in nanoseconds.
    pub heard_ns: Cell<u64>,
    /// How it takes what it reads.
    pub pipeline: RefCell<Pipeline>,
    /// Its connection was lost, and it is on its way back.
    pub returning: Cell<bool>,
    /// How often that was so.
    pub resets: Cell<u32>,
    /// Why its connection is about to end.
    pub ending: RefCell<Option<String>>,
    /// Interval between KEEPALIVEs, and when the next is due, in nanoseconds.
    pub interval_ns: Cell<u64>,
    next_keepalive_ns: Cell<u64>,
    at_once: Cell<AtOnce>,
    subscribed: Cell<bool>,
    out: RefCell<Vec<u8>>,
    job: RefCell<Option<Job>>,
    /// Announces again what it had announced before it was lost; goes before the job.
    renewal: RefCell<Option<Job>>,
    keepalives_sent: Cell<u64>,
    keepalives_received: Cell<u64>,
    barrier: Cell<Option<u64>>,
    updates_seen: Cell<u32>,
}

/// Which of its routes in each VNI a peer announces or withdraws.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of them.
    All,
    /// Those of the first half.
    First,
    /// Those of the second half.
    Second,
    /// Those that are announced at the moment.
    Kept,
}

impl Part {
    fn of(self, routes: u32) -> Range<u32> {
        match self {
            Part::All | Part::Kept => 0..routes,
            Part::First => 0..routes / 2,
            Part::Second => routes / 2..routes,
        }
    }
}

/// A bulk announcement or withdrawal of a peer's routes, as far as it has come.
struct Job {
    action: Action,
    part: Part,
    /// Index in the plan's list of where the peer announces, and how many routes of its part were sent there.
    at: usize,
    sent: u32,
    /// The KEEPALIVE whose answer must come first, counted from 1; 0 for none.
    waits_for: u64,
}

impl Job {
    fn new(action: Action, part: Part) -> Job {
        Job { action, part, at: 0, sent: 0, waits_for: 0 }
    }
}

/// What the shard notes for an update that is right.
pub trait Arrivals {
    /// Called for each.
    fn arrived(&mut self, bit: usize, action: Action);
}

impl Peer {
    /// A peer without a connection.
    pub fn new(plan: &Plan, number: u32, home: u16) -> Peer {
        Peer {
            number,
            home,
            state: Cell::new(State::Closed),
            view: RefCell::new(View::new(plan, number)),
            socket: RefCell::new(None),
            sending: Cell::new(false),
            leaving: Cell::new(false),
            paused_until_ns: Cell::new(0),
            measured: Cell::new(true),
            updated_ns: Cell::new(0),
            heard_ns: Cell::new(0),
            pipeline: RefCell::new(Pipeline::new(Habits::default(), 0)),
            returning: Cell::new(false),
            resets: Cell::new(0),
            ending: RefCell::new(None),
            interval_ns: Cell::new(u64::MAX),
            next_keepalive_ns: Cell::new(u64::MAX),
            at_once: Cell::new(AtOnce::default()),
            subscribed: Cell::new(false),
            out: RefCell::new(Vec::new()),
            job: RefCell::new(None),
            renewal: RefCell::new(None),
            keepalives_sent: Cell::new(0),
            keepalives_received: Cell::new(0),
            barrier: Cell::new(None),
            updates_seen: Cell::new(0),
        }
    }

    /// Who it is, in words.
    pub fn name(&self, shared: &Shared) -> String {
        shared.name(self.number, Some(self.home))
    }

    /// A number below 65,536 that has nothing to do with its own: not all do the same at once.
    pub fn lot(&self) -> u64 {
        u64::from(self.number.wrapping_mul(0x9E37_79B9) >> 16)
    }

    /// A new connection is about to be opened: everything before is forgotten.
    pub fn open(&self, shared: &Shared, at_once: AtOnce) {
        self.leaving.set(false);
        self.returning.set(false);
        self.at_once.set(at_once);
        self.subscribed.set(false);
        self.job.replace(None);
        self.renewal.replace(None);
        self.barrier.set(None);
        self.reopen(shared);
    }

    /// A lost connection is about to be opened again: what the peer was told is forgotten, but not what it
    /// was to say.
    pub fn reopen(&self, shared: &Shared) {
        assert_eq!(self.state.get(), State::Closed, "a peer has one connection at a time");
        self.state.set(State::Opening);
        self.view.replace(View::new(&shared.plan, self.number));
        let seed = u64::from(self.number) << 32 | u64::from(self.resets.get());
        self.pipeline.replace(Pipeline::new(shared.behaviour.habits, seed));
        self.ending.replace(None);
        self.out.borrow_mut().clear();
        self.keepalives_sent.set(0);
        self.keepalives_received.set(0);
        self.interval_ns.set(u64::MAX);
        self.next_keepalive_ns.set(u64::MAX);
    }

    /// Queues HELLO.
    pub fn greet(&self, shared: &Shared) {
        let behaviour = &shared.behaviour;
        let hello = Hello {
            keepalive_interval_s: behaviour.keepalive_s,
            is_server: false,
            reassembles: behaviour.reading == Reading::Reassembling,
        };
        Message::Hello(hello).encode(&mut self.out.borrow_mut());
    }

    /// Queues a SUBSCRIBE for each of its VNIs, once it is established.
    pub fn subscribe(&self, plan: &Plan) {
        self.subscribed.set(true);
        if self.state.get() != State::Established {
            return;
        }
        let mut out = self.out.borrow_mut();
        for &vni in &plan.peers[self.number as usize].subscribes {
            Message::Subscribe(plan.vni(vni)).encode(&mut out);
        }
    }

    /// Begins to announce or withdraw routes.
    pub fn start_job(&self, action: Action, part: Part) {
        self.job.replace(Some(Job::new(action, part)));
    }

    /// Queues a KEEPALIVE; its answer is counted in [`Stats::barriers`].
    pub fn start_barrier(&self) {
        if self.state.get() == State::Established {
            self.keepalive();
            self.barrier.set(Some(self.keepalives_sent.get()));
        } else {
            // On its way back: it is asked once it is established.
            self.barrier.set(Some(u64::MAX));
        }
    }

    /// Queues one update. Whoever is on its way back tells of it once it is.
    pub fn queue_update(&self, plan: &Plan, vni: u32, number: u32, action: Action) {
        if self.state.get() != State::Established {
            return;
        }
        let route = plan.vnis[vni as usize].route(number);
        encode_update(&mut self.out.borrow_mut(), action, plan.vni(vni), &route);
    }

    /// Queues a KEEPALIVE if one is due. True if so.
    pub fn keepalive_if_due(&self, now_ns: u64) -> bool {
        let due = now_ns >= self.next_keepalive_ns.get();
        if due {
            self.next_keepalive_ns.set(now_ns + self.interval_ns.get());
            self.keepalive();
        }
        due
    }

    /// Fills `piece` with what is to be sent next; it stays empty if that is nothing.
    pub fn fill(&self, shared: &Shared, stats: &Stats, piece: &mut Vec<u8>) {
        // Copied, not swapped: large pieces stay with those who send much.
        piece.append(&mut self.out.borrow_mut());
        if self.state.get() != State::Established {
            return;
        }
        let mut renewal = self.renewal.borrow_mut();
        if let Some(job) = renewal.as_mut() {
            if self.fill_from(job, shared, stats, piece) {
                *renewal = None;
            }
            if !piece.is_empty() || renewal.is_some() {
                return;
            }
        }
        let mut slot = self.job.borrow_mut();
        if let Some(job) = slot.as_mut()
            && self.fill_from(job, shared, stats, piece)
        {
            *slot = None;
            Stats::count(&stats.jobs, 1);
        }
    }

    /// Takes in received bytes. True if there is something to send.
    ///
    /// # Errors
    /// What the server did wrong; the connection is of no use any more.
    pub fn receive(
        &self,
        shared: &Shared,
        stats: &Stats,
        deframer: &mut Deframer,
        mut bytes: &[u8],
        arrivals: &mut impl Arrivals,
    ) -> Result<bool, String> {
        let mut wants_send = false;
        let mut pipeline = self.pipeline.borrow_mut();
        let mut view = self.view.borrow_mut();
        let damaged = shared.behaviour.sabotage.is_some();
        loop {
            if deframer.buffered_bytes() == 0 && !damaged {
                let (plan, canon) = (&shared.plan, &shared.canon);
                while let Some((bit, action, length)) = view.take_next(plan, canon, bytes) {
                    arrivals.arrived(bit, action);
                    pipeline.update();
                    bytes = &bytes[length..];
                }
            }
            let frame = match deframer.next(&mut bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(wants_send),
                Err(error) => return Err(format!("the server sent no MetalBond frame: {error}")),
            };
            if frame.message_type != MessageType::Update {
                self.control(shared, stats, frame)?;
                self.heard_ns.set(pipeline.next_read_ns());
                wants_send = true;
                continue;
            }
            pipeline.update();
            if damaged {
                self.sabotaged(shared, stats, &mut view, frame.payload, arrivals);
            } else {
                self.update(shared, stats, &mut view, frame.payload, arrivals);
            }
        }
    }

    fn keepalive(&self) {
        self.out.borrow_mut().extend_from_slice(&KEEPALIVE_FRAME);
        self.keepalives_sent.set(self.keepalives_sent.get() + 1);
    }

    fn update(
        &self,
        shared: &Shared,
        stats: &Stats,
        view: &mut View,
        payload: &[u8],
        arrivals: &mut impl Arrivals,
    ) {
        let update = match decode_update(payload) {
            Ok(update) => update,
            Err(error) => {
                Stats::count(&stats.wrong, 1);
                return shared.find(|| format!("{} got an {error}", self.name(shared)));
            }
        };
        let verdict = view.apply(&shared.plan, &update);
        let counter = match verdict {
            Verdict::Right(bit) => return arrivals.arrived(bit, update.action),
            Verdict::Own if shared.behaviour.targets.len() < 2 => {
                return Stats::count(&stats.own, 1);
            }
            Verdict::Own => &stats.echoed,
            Verdict::Duplicate => &stats.duplicate,
            Verdict::Unexpected => &stats.unexpected,
            Verdict::Wrong => &stats.wrong,
        };
        Stats::count(counter, 1);
        let name = || self.name(shared);
        shared.find(|| verify::complaint(&shared.plan, &name(), &update, verdict));
    }

    /// The same for loadgen's negative controls: one update of one peer is damaged.
    fn sabotaged(
        &self,
        shared: &Shared,
        stats: &Stats,
        view: &mut View,
        payload: &[u8],
        arrivals: &mut impl Arrivals,
    ) {
        let victim = shared.plan.peers.iter().position(|peer| !peer.subscribes.is_empty());
        if victim == Some(self.number as usize) {
            self.updates_seen.set(self.updates_seen.get() + 1);
        }
        match shared.behaviour.sabotage {
            Some(sabotage) if self.updates_seen.get() == SABOTAGED_UPDATE => {
                self.updates_seen.set(SABOTAGED_UPDATE + 1);
                let mut payload = payload.to_vec();
                match sabotage {
                    Sabotage::Skip => return,
                    Sabotage::Duplicate => self.update(shared, stats, view, &payload, arrivals),
                    Sabotage::Corrupt => {
                        if let Some(last) = payload.last_mut() {
                            *last ^= 1;
                        }
                    }
                }
                self.update(shared, stats, view, &payload, arrivals);
            }
            _ => self.update(shared, stats, view, payload, arrivals),
        }
    }

    /// HELLO, KEEPALIVE, and what a server must not send.
    fn control(&self, shared: &Shared, stats: &Stats, frame: Frame<'_>) -> Result<(), String> {
        let message = wire::decode(frame).map_err(|error| format!("the server sent {error}"))?;
        match (message, self.state.get()) {
            (Message::Hello(hello), State::Opening) => {
                let interval_s = hello.keepalive_interval_s.min(shared.behaviour.keepalive_s);
                let interval_ns = u64::from(interval_s) * 1_000_000_000;
                self.interval_ns.set(interval_ns);
                // Real peers have not all started in the same second: the first one comes early, so that
                // they are spread over the interval.
                let first_ns = (interval_ns >> 16) * self.lot();
                self.next_keepalive_ns.set(shared.clock.now_ns() + first_ns);
                self.state.set(State::Greeted);
                self.keepalive();
            }
            (Message::Keepalive, State::Greeted | State::Established) => {
                self.keepalives_received.set(self.keepalives_received.get() + 1);
                Stats::count(&stats.keepalives, 1);
                if self.state.get() == State::Greeted {
                    self.established(shared, stats);
                }
                if self.barrier.get().is_some_and(|at| self.keepalives_received.get() >= at) {
                    self.barrier.set(None);
                    Stats::count(&stats.barriers, 1);
                }
            }
            (message, state) => {
                let name = message.message_type();
                return Err(format!("the server sent {name} to a peer that is {state:?}"));
            }
        }
        Ok(())
    }

    fn established(&self, shared: &Shared, stats: &Stats) {
        self.state.set(State::Established);
        Stats::count(&stats.established, 1);
        let at_once = self.at_once.take();
        if at_once.subscribe || self.subscribed.get() {
            self.subscribe(&shared.plan);
        }
        if self.returning.take() {
            if let Some(restart) = shared.restart_of(self.home) {
                restart.back(shared.clock.now_ns());
                Stats::count(&stats.returned, 1);
            }
            // The server has forgotten all that the peer had announced, and asked.
            self.renewal.replace(Some(Job::new(Action::Add, Part::Kept)));
            if let Some(job) = &mut *self.job.borrow_mut() {
                *job = Job::new(job.action, job.part);
            }
            if self.barrier.get().is_some() {
                self.start_barrier();
            }
        }
        if at_once.announce {
            self.start_job(Action::Add, Part::All);
        }
    }

    /// Appends updates to the piece. True if the job is done.
    fn fill_from(
        &self,
        job: &mut Job,
        shared: &Shared,
        stats: &Stats,
        piece: &mut Vec<u8>,
    ) -> bool {
        let plan = &shared.plan;
        let announces = &plan.peers[self.number as usize].announces;
        if self.keepalives_received.get() < job.waits_for {
            return false;
        }
        let mut sent = 0;
        let mut done = false;
        while piece.len() < PIECE_BYTES {
            let Some(&(vni, place)) = announces.get(job.at) else {
                done = true;
                break;
            };
            let routes = &plan.vnis[vni as usize];
            let part = job.part.of(routes.routes_each);
            if job.sent == part.len() as u32 {
                (job.at, job.sent) = (job.at + 1, 0);
                continue;
            }
            let number = routes.routes_at(place).start + part.start + job.sent;
            job.sent += 1;
            let bit = routes.first_bit + number as usize;
            if job.part == Part::Kept && !shared.is_announced(bit) {
                continue;
            }
            shared.set_announced(bit, job.action == Action::Add);
            encode_update(piece, job.action, plan.vni(vni), &routes.route(number));
            sent += 1;
            if sent == shared.behaviour.inflight {
                piece.extend_from_slice(&KEEPALIVE_FRAME);
                self.keepalives_sent.set(self.keepalives_sent.get() + 1);
                job.waits_for = self.keepalives_sent.get();
                break;
            }
        }
        Stats::count(&stats.sent, u64::from(sent));
        done
    }
}
