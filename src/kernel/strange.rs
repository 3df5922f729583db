//! A kernel that says anything: the netlink thread's work without its sockets.
//!
//! Owns nothing of the program, and is never used by it: a fuzz target hands in datagrams as if a
//! kernel had sent them. Must never judge more gently than the thread does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::answers::{self, Answer, Dump, split};
use super::config::KernelConfig;
use super::events::{self, Event};
use super::messages;
use super::plan::{BLOCKS, Blocks, Op, Ours, Plan, Prefix, Snapshot};
use super::seen;
use crate::types::{Route, Time, Vni};

/// Operations of one batch.
const BATCH_OPS: usize = 16;
/// The block of nexthop ids that is ours, and one that a former run has left.
const HOME: u32 = 1;
const ORPHANED: u32 = 2;

/// A plan, and the kernel that it takes for true.
#[derive(Debug)]
pub struct StrangeKernel {
    plan: Plan,
    now: Time,
    link: Option<u32>,
    /// Where routes are that may be taken for ours: those of our protocol, and those that we made.
    ours: BTreeSet<Prefix>,
    sequence: u32,
}

impl StrangeKernel {
    /// A plan that wants nothing yet.
    pub fn new(config: KernelConfig) -> StrangeKernel {
        let plan = Plan::new(config);
        StrangeKernel { plan, now: Time(0), link: None, ours: BTreeSet::new(), sequence: 0 }
    }

    /// A route is wanted, or not any more.
    pub fn want(&mut self, vni: Vni, route: Route, is_wanted: bool) {
        match is_wanted {
            true => drop(self.plan.add(vni, route)),
            false => self.plan.remove(vni, route),
        }
    }

    /// Nobody asks for more.
    pub fn sweep(&mut self) {
        self.plan.sweep();
    }

    /// Time goes on.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// The answer to the question for the link.
    pub fn link(&mut self, datagram: &[u8]) {
        self.sequence += 1;
        if let Some(Ok(link)) = answers::link(datagram, self.sequence) {
            self.plan.set_usable(link.as_ref().is_some_and(|link| link.flags & 1 != 0));
            self.link = link.map(|link| link.index);
            self.plan.doubt();
        }
    }

    /// What is told without a question.
    pub fn events(&mut self, datagram: &[u8]) {
        let matters = |prefix: &Prefix, is_ours| self.plan.matters(prefix, is_ours);
        let told: Vec<Event> = events::told(datagram, &matters).collect();
        for event in told {
            let is_news = match event {
                Event::Route(seen, change) => self.plan.changed_by_others(&seen, change),
                Event::Nexthop(id) => self.plan.covers(id),
                Event::Link(_) | Event::LinkGone(_) | Event::Lost => true,
            };
            if is_news {
                self.plan.doubt();
            }
        }
    }

    /// Dumps of nexthop objects and of routes; they are taken in if both come to their end.
    pub fn dump(&mut self, nexthops: &[u8], routes: &[u8]) {
        let tables = self.plan.mapped_tables().to_vec();
        let mut snapshot = Snapshot { has_others: true, ..Snapshot::default() };
        self.sequence += 1;
        let mut dump = Dump::new(messages::RTM_NEWNEXTHOP, self.sequence);
        let found = &mut snapshot.nexthops;
        let objects = dump.take(nexthops, |payload| found.extend(seen::seen_nexthop(payload)));
        self.sequence += 1;
        let mut dump = Dump::new(messages::RTM_NEWROUTE, self.sequence);
        let found = &mut snapshot.routes;
        let ended = dump.take(routes, |payload| answers::keep(found, payload, |_| true));
        answers::drop_last_of_others(found);
        if !matches!((objects, ended), (Some(Ok(())), Some(Ok(())))) {
            return;
        }
        let (mut owned, mut orphaned) = (Blocks::default(), Blocks::default());
        owned.insert(HOME);
        orphaned.insert(ORPHANED);
        debug_assert!(ORPHANED < BLOCKS && !tables.is_empty());
        let former_links = Default::default();
        snapshot.ours = Ours { link: self.link, former_links, home: HOME, owned, orphaned };
        let ours = snapshot.routes.iter().filter(|route| route.form.is_some());
        self.ours = ours.map(|route| route.prefix).collect();
        self.plan.reconcile(snapshot);
    }

    /// The next operations, and what is answered to them.
    ///
    /// # Panics
    /// If one of them could hit what is not ours, or cannot be written down.
    pub fn batch(&mut self, datagram: &[u8]) {
        let (mut ops, mut bytes) = (Vec::new(), Vec::new());
        self.plan.next_batch(&mut ops, BATCH_OPS, self.now);
        let first = self.sequence + 1;
        self.sequence += ops.len() as u32;
        for (op, sequence) in ops.iter().zip(first..) {
            self.judge(op);
            messages::put_op(&mut bytes, op, self.link.unwrap_or(0), sequence);
        }
        assert_eq!(split(&bytes).count(), ops.len(), "{ops:?}");
        let mut noted = vec![Answer::DONE; ops.len()];
        answers::acknowledgements(datagram, self.sequence, |sequence, error| {
            answers::note(&mut noted, first, sequence, error);
        });
        for (op, answer) in ops.iter().zip(noted) {
            // What it reports is for people.
            let _ = self.plan.finished(op, answer.outcome, self.now);
        }
        let _ = (self.plan.take_notices(), self.plan.take_crowded(), self.plan.counters());
    }

    /// Nothing of others is touched.
    fn judge(&mut self, op: &Op) {
        let is_ours = |block| [HOME, ORPHANED].contains(&block);
        match op {
            Op::AddHop { id, .. } | Op::AddGroup { id, .. } => {
                assert_eq!(id.block(), Some(HOME), "{op:?}");
            }
            Op::DeleteNexthop { id } => assert!(id.block().is_some_and(is_ours), "{op:?}"),
            Op::Add { prefix, .. } => {
                assert!(self.plan.mapped_tables().contains(&prefix.table), "{op:?}");
                self.ours.insert(*prefix);
            }
            Op::Delete { prefix, .. } => assert!(self.ours.contains(prefix), "{op:?}"),
        }
    }
}
