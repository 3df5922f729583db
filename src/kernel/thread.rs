//! The netlink thread: commands in, batches out, the link and the clock watched.
//!
//! Owns the thread's loop. Must never decide what is installed (`plan` does), and never block for
//! longer than a batch or a dump takes.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tracing::{debug, info, warn};

use super::Shared;
use super::answers::Answer;
use super::blocks::OwnedBlocks;
use super::config::{HOPS_MAX, KernelConfig, NexthopObjects};
use super::events::{Event, Events};
use super::netlink::{Requests, Scope, wait_readable};
use super::plan::{BLOCKS, Notice, Op, Ours, Outcome, Plan, Report, Snapshot};
use crate::types::{Route, Time, Vni};

/// Operations of one batch: enough that the system call costs nothing beside them, few enough
/// that the errors of all of them fit the receive buffer.
const BATCH_OPS: usize = 256;
/// Time from a change by others to the verification that repairs it. It doubles while that goes on,
/// so that a fight with another program costs little, and is this again after a quiet time.
const REPAIR_PAUSE: Duration = Duration::from_millis(50);
const REPAIR_PAUSE_MAX: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_secs(10);
/// The share of the time that such verifications may take is one in so many.
const REPAIR_SHARE: u32 = 10;
/// Time until too many hops are told of: they come one by one, and the number should be right.
const CROWDED_PAUSE: Duration = Duration::from_millis(500);
/// How long a name may be missing while its device is there: a swap of names takes some steps.
const RENAME_GRACE: Duration = Duration::from_secs(1);
/// Time until a failed dump or link query is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What callers ask for, in the order of their calls.
#[derive(Debug)]
pub(super) enum Command {
    Add(Vni, Route),
    Remove(Vni, Route),
    Sweep,
    Clear,
    /// Answered when there is nothing left to do.
    Settle(mpsc::Sender<()>),
    /// The thread ends when there is nothing left to do, but after this time at the latest.
    Shutdown(Duration),
}

/// The tunnel device as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Link {
    pub index: u32,
    pub is_usable: bool,
}

pub(super) struct NetlinkThread {
    config: KernelConfig,
    plan: Plan,
    shared: Arc<Shared>,
    wake: std::os::unix::net::UnixStream,
    requests: Requests,
    events: Events,
    blocks: OwnedBlocks,
    rivals_seen_at: Time,
    start: Instant,
    link: Option<Link>,
    /// Devices that were the link during this run and still exist.
    former_links: SmallVec<[u32; 1]>,
    /// The link may have changed: ask the kernel.
    link_unknown: bool,
    /// Since when no device has the link's name, though the device that had it is there.
    nameless_since: Option<Time>,
    has_nexthop_objects: bool,
    verified_at: Time,
    /// When the next verification is due because of what others did, and how long the last such
    /// wait was.
    repair_at: Option<Time>,
    repair_pause: Duration,
    /// How long the last verification took.
    dump_cost: Duration,
    /// The next verification looks at all tables, and at routes of others.
    in_full: bool,
    /// When destinations with too many hops are told of.
    tell_crowded_at: Option<Time>,
    /// Not before this time after a failure.
    verify_after: Time,
    settlers: Vec<mpsc::Sender<()>>,
    end_at: Option<Time>,
}

impl NetlinkThread {
    #[allow(clippy::disallowed_methods)] // the plan's time comes from here
    pub(super) fn new(
        config: KernelConfig,
        plan: Plan,
        shared: Arc<Shared>,
        wake: std::os::unix::net::UnixStream,
        requests: Requests,
        events: Events,
    ) -> NetlinkThread {
        NetlinkThread {
            config,
            plan,
            shared,
            wake,
            requests,
            events,
            blocks: OwnedBlocks::default(),
            rivals_seen_at: Time(0),
            start: Instant::now(),
            link: None,
            former_links: SmallVec::new(),
            link_unknown: true,
            nameless_since: None,
            has_nexthop_objects: true,
            verified_at: Time(0),
            repair_at: None,
            repair_pause: REPAIR_PAUSE,
            dump_cost: Duration::ZERO,
            in_full: true,
            tell_crowded_at: None,
            verify_after: Time(0),
            settlers: Vec::new(),
            end_at: None,
        }
    }

    pub(super) fn run(mut self) {
        let (mut ops, mut answers) = (Vec::new(), Vec::new());
        loop {
            self.take_commands();
            self.take_events();
            let now = self.now();
            self.look_after_link(now);
            self.verify_if_due(now);
            self.plan.next_batch(&mut ops, BATCH_OPS, now);
            let is_busy = !ops.is_empty();
            let link = self.link.map_or(0, |link| link.index);
            self.requests.execute(&ops, link, &mut answers);
            self.take_answers(&mut ops, &mut answers);
            self.tell();
            self.shared.publish(self.plan.counters());
            if self.plan.is_idle() {
                for settler in self.settlers.drain(..) {
                    let _ = settler.send(()); // the caller may have given up
                }
            }
            if let Some(end_at) = self.end_at
                && (self.plan.is_idle() || self.now() >= end_at)
            {
                return;
            }
            if !is_busy {
                self.sleep();
            }
        }
    }

    fn now(&self) -> Time {
        Time(0).after(self.start.elapsed())
    }

    fn take_commands(&mut self) {
        self.shared.awake.store(true, Ordering::SeqCst);
        let mut scratch = [0; 64];
        while matches!(io::Read::read(&mut self.wake, &mut scratch), Ok(1..)) {}
        for command in self.shared.take_commands() {
            match command {
                Command::Add(vni, route) => {
                    if let Err(skip) = self.plan.add(vni, route) {
                        warn!("route {route} of VNI {vni} is not installed: {skip}");
                    }
                }
                Command::Remove(vni, route) => self.plan.remove(vni, route),
                Command::Sweep => self.sweep(),
                Command::Clear => {
                    self.plan.clear();
                    self.take_orphaned();
                    self.in_full = true;
                    self.plan.doubt();
                }
                Command::Settle(settler) => self.settlers.push(settler),
                Command::Shutdown(patience) => self.end_at = Some(self.now().after(patience)),
            }
        }
    }

    fn take_events(&mut self) {
        let events = self
            .events
            .take(|prefix, is_of_our_protocol| self.plan.matters(prefix, is_of_our_protocol));
        for event in events {
            match event {
                Event::Lost => {
                    self.link_unknown = true;
                    self.former_links.clear(); // an index may be another device's by now
                    self.repair_soon();
                }
                Event::Link(seen) => {
                    self.link_unknown = true;
                    // A link that goes down takes its routes along, even if it is up again by now.
                    if self.is_link(seen.index) && !self.is_usable(seen.flags) {
                        self.plan.doubt();
                    }
                }
                Event::LinkGone(seen) => {
                    self.link_unknown = true;
                    self.former_links.retain(|index| *index != seen.index);
                    if self.is_link(seen.index) {
                        self.link = None;
                        self.plan.doubt();
                        warn!(
                            "the link {} is gone: no routes until it is back",
                            self.config.link_name
                        );
                    }
                }
                Event::Route(seen, change) => {
                    if self.plan.changed_by_others(&seen, change) {
                        self.repair_soon();
                    }
                }
                Event::Nexthop(id) => {
                    if self.plan.covers(id) {
                        self.repair_soon();
                    }
                }
            }
        }
    }

    fn is_link(&self, index: u32) -> bool {
        self.link.is_some_and(|link| link.index == index)
    }

    /// Others have changed what is ours.
    fn repair_soon(&mut self) {
        if self.repair_at.is_some() {
            return;
        }
        let now = self.now();
        let is_quiet = now.since(self.verified_at) >= QUIET.max(self.repair_pause * 2);
        self.repair_pause = match is_quiet {
            true => REPAIR_PAUSE,
            false => {
                (self.repair_pause * 2).min(REPAIR_PAUSE_MAX).max(self.dump_cost * REPAIR_SHARE)
            }
        };
        self.repair_at = Some(now.after(self.repair_pause));
        self.in_full = true;
    }

    fn sweep(&mut self) {
        self.plan.sweep();
        self.take_orphaned();
    }

    /// What a former run has left in blocks that nobody owns is ours from now on.
    fn take_orphaned(&mut self) {
        match self.blocks.take_orphaned() {
            Ok(false) => {}
            Ok(true) => {
                self.in_full = true;
                self.plan.doubt();
            }
            Err(error) => warn!("cannot own a former run's nexthop objects: {error}; they stay"),
        }
    }

    /// Nexthop objects need a carrier, routes with their own encapsulation do not.
    fn is_usable(&self, flags: u32) -> bool {
        let needs_carrier = self.plan.nexthop_objects() != NexthopObjects::Never;
        flags & libc::IFF_UP as u32 != 0
            && (!needs_carrier || flags & libc::IFF_LOWER_UP as u32 != 0)
    }

    fn look_after_link(&mut self, now: Time) {
        let is_over = |since| now.since(since) >= RENAME_GRACE;
        self.link_unknown |= self.nameless_since.is_some_and(is_over);
        if !self.link_unknown || self.verify_after > now {
            return;
        }
        let seen = match self.requests.link(&self.config.link_name) {
            Ok(seen) => seen,
            Err(error) => {
                warn!("cannot ask for the link {}: {error}", self.config.link_name);
                self.verify_after = now.after(RETRY_PAUSE);
                return;
            }
        };
        self.link_unknown = false;
        let link =
            seen.map(|seen| Link { index: seen.index, is_usable: self.is_usable(seen.flags) });
        if link.is_none() && self.link.is_some() {
            let since = *self.nameless_since.get_or_insert(now);
            if now.since(since) < RENAME_GRACE {
                self.plan.set_usable(false);
                return;
            }
        }
        self.nameless_since = None;
        self.plan.set_usable(link.is_some_and(|link| link.is_usable));
        if link == self.link {
            return;
        }
        let name = &self.config.link_name;
        match link {
            None => warn!("no link has the name {name} any more: no routes until one has"),
            Some(Link { is_usable: false, .. }) => {
                warn!("the link {name} is down: no routes until it is up and has a carrier");
            }
            Some(Link { index, .. }) => info!("routes lead out of the link {name} (index {index})"),
        }
        let index = link.map(|link| link.index);
        if let Some(former) = self.link.filter(|former| index != Some(former.index)) {
            self.former_links.push(former.index);
        }
        self.former_links.retain(|former| index != Some(*former));
        self.link = link;
        self.plan.doubt();
    }

    fn verify_if_due(&mut self, now: Time) {
        let resync = self.config.resync;
        if self.plan.is_suspect() || self.is_rival_check_due(now) && self.blocks.has_rival_ended() {
            self.repair_soon();
        }
        let is_due = self.plan.must_verify()
            || !resync.is_zero() && now.since(self.verified_at) >= resync
            || self.repair_at.is_some_and(|at| at <= now);
        if !is_due || self.verify_after > now {
            return;
        }
        let with_nexthops = self.has_nexthop_objects;
        let scope = Scope {
            tables: self.plan.tables(),
            with_other_tables: self.in_full,
            with_others: self.in_full,
        };
        let dumped = self.requests.snapshot(&scope, with_nexthops);
        match dumped.and_then(|snapshot| self.take_stock(snapshot)) {
            Ok(snapshot) => {
                let before = self.plan.counters().repaired;
                self.plan.reconcile(snapshot);
                (self.verified_at, self.in_full, self.repair_at) = (self.now(), false, None);
                self.dump_cost = self.verified_at.since(now);
                let repaired = self.plan.counters().repaired - before;
                if repaired > 0 {
                    warn!("{repaired} routes were changed by others: they are repaired");
                }
            }
            Err(error) if with_nexthops && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                info!("the kernel has no nexthop objects (5.3 or later is expected)");
                self.has_nexthop_objects = false;
                self.plan.without_nexthop_objects();
                self.link_unknown = true; // a link without carrier may be good enough now
            }
            Err(error) => {
                warn!("cannot dump the kernel's routes: {error}; trying again");
                self.verify_after = now.after(RETRY_PAUSE);
            }
        }
    }

    /// A client with our device and tables tells nobody that it ends.
    fn is_rival_check_due(&mut self, now: Time) -> bool {
        let is_due = self.blocks.has_rivals() && self.rivals_seen_at.after(RETRY_PAUSE) <= now;
        if is_due {
            self.rivals_seen_at = now;
        }
        is_due
    }

    /// Finds out what of a dump is ours.
    fn take_stock(&mut self, mut snapshot: Snapshot) -> io::Result<Snapshot> {
        let link = self.link.map(|link| link.index);
        let tables = self.plan.mapped_tables().to_vec();
        let first = self.config.seed as u32 % BLOCKS;
        if let Err(error) =
            self.blocks.survey(&snapshot, link, |table| tables.binary_search(&table).is_ok(), first)
        {
            warn!("cannot own a block of nexthop ids: {error}; routes do without");
            self.plan.without_nexthop_objects();
        }
        if self.plan.is_swept() {
            self.blocks.take_orphaned()?;
        }
        snapshot.ours = Ours {
            link,
            former_links: self.former_links.clone(),
            home: self.blocks.home(),
            owned: self.blocks.owned(),
            orphaned: self.blocks.orphaned(),
        };
        Ok(snapshot)
    }

    fn take_answers(&mut self, ops: &mut Vec<Op>, answers: &mut Vec<Answer>) {
        let now = self.now();
        for (op, answer) in ops.drain(..).zip(answers.drain(..)) {
            let report = self.plan.finished(&op, answer.outcome, now);
            if report == Report::Nothing {
                continue;
            }
            let text = answer.text.as_deref().unwrap_or("no explanation");
            match report {
                Report::Nothing => {}
                Report::NoNexthopObjects => {
                    info!("the kernel makes no nexthop objects: {text}");
                    self.link_unknown = true;
                }
                Report::Conflict(prefix) => {
                    warn!("{prefix}: there is a route of another origin; it stays, ours waits");
                }
                Report::Refused(errno) => {
                    let error = io::Error::from_raw_os_error(errno);
                    warn!("the kernel refused {op:?}: {error} ({text}); trying again later");
                }
                Report::Lost => warn!("{op:?}: {text}; the kernel's routes will be dumped"),
            }
            if answer.outcome == Outcome::Failed(libc::ENODEV) {
                self.link_unknown = true;
            }
        }
    }

    /// Logs what the plan has noticed.
    fn tell(&mut self) {
        let now = self.now();
        match self.tell_crowded_at {
            None if self.plan.has_crowded() => {
                self.tell_crowded_at = Some(now.after(CROWDED_PAUSE));
            }
            Some(at) if at <= now => {
                self.tell_crowded_at = None;
                for (prefix, installed, left_out) in self.plan.take_crowded() {
                    let all = installed + left_out;
                    let why = match installed < self.config.hops_max.min(HOPS_MAX) {
                        true => "IPv6 needs nexthop objects for more",
                        false => "--hops-max",
                    };
                    warn!(
                        "{prefix}: {installed} of {all} hops installed, {left_out} left out ({why})"
                    );
                }
            }
            _ => {}
        }
        for notice in self.plan.take_notices() {
            match notice {
                Notice::Shared { prefix, ours_counts: true } => {
                    warn!("{prefix}: there is a route of another origin behind ours; ours counts")
                }
                Notice::Shared { prefix, ours_counts: false } => warn!(
                    "{prefix}: there is a route of another origin before ours; that one counts"
                ),
            }
        }
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self) {
        self.shared.awake.store(false, Ordering::SeqCst);
        if self.shared.has_commands() {
            return;
        }
        let now = self.now();
        let mut until = Time::NEVER;
        let mut at = |time: Time| until = until.min(time);
        if let Some(end_at) = self.end_at {
            at(end_at);
        }
        if let Some(tell_at) = self.tell_crowded_at {
            at(tell_at);
        }
        if self.link_unknown || self.plan.must_verify() {
            at(self.verify_after);
        }
        if self.blocks.has_rivals() {
            at(self.rivals_seen_at.after(RETRY_PAUSE));
        }
        if let Some(since) = self.nameless_since {
            at(since.after(RENAME_GRACE).max(self.verify_after));
        }
        if let Some(retry_at) = self.plan.retry_at() {
            at(retry_at);
        }
        if !self.config.resync.is_zero() {
            at(self.verified_at.after(self.config.resync).max(self.verify_after));
        }
        if let Some(repair_at) = self.repair_at {
            at(repair_at.max(self.verify_after));
        }
        let timeout = (until != Time::NEVER).then(|| until.since(now));
        let fds = [self.wake.as_fd(), self.events.as_fd()];
        if let Err(error) = wait_readable(fds, timeout) {
            debug!("poll: {error}");
            std::thread::sleep(RETRY_PAUSE);
        }
    }
}
