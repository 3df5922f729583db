//! The netlink thread: commands in, batches out, the link and the clock watched.
//!
//! Owns the thread's loop. Must never decide what is installed (`plan` does), and never block for
//! longer than a batch or a dump takes.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::netlink::{Answer, LinkEvent, LinkEvents, Requests, wait_readable};
use super::plan::{Family, NexthopObjects, Op, Outcome, Plan, Report, ServerId};
use super::{KernelConfig, Shared};
use crate::types::{Route, Time, Vni};

/// Operations of one batch: enough that the system call costs nothing beside them, few enough
/// that the errors of all of them fit the receive buffer.
const BATCH_OPS: usize = 256;
/// Least time between two verifications because something looked wrong.
const SUSPECT_PAUSE: Duration = Duration::from_secs(5);
/// Time until a failed dump or link query is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Log lines about routes within [`LOG_WINDOW`]; more are counted only.
const LOG_LINES: u32 = 20;
const LOG_WINDOW: Duration = Duration::from_secs(60);

/// What callers ask for, in the order of their calls.
#[derive(Debug)]
pub(super) enum Command {
    Add(Vni, Route, ServerId),
    Remove(Vni, Route, ServerId),
    Announce(Vni, Route),
    Withdraw(Vni, Route),
    Lose(ServerId),
    Hold(ServerId),
    Release(ServerId),
    DropVni(Vni),
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

pub(super) struct Worker {
    config: KernelConfig,
    plan: Plan,
    shared: Arc<Shared>,
    wake: std::os::unix::net::UnixStream,
    requests: Requests,
    events: LinkEvents,
    start: Instant,
    link: Option<Link>,
    /// The link may have changed: ask the kernel.
    link_unknown: bool,
    has_nexthop_objects: bool,
    verified_at: Time,
    /// Not before this time after a failure.
    verify_after: Time,
    settlers: Vec<mpsc::Sender<()>>,
    end_at: Option<Time>,
    log: LogLimit,
}

impl Worker {
    #[allow(clippy::disallowed_methods)] // the plan's time comes from here
    pub fn new(
        config: KernelConfig,
        plan: Plan,
        shared: Arc<Shared>,
        wake: std::os::unix::net::UnixStream,
        requests: Requests,
        events: LinkEvents,
    ) -> Worker {
        Worker {
            config,
            plan,
            shared,
            wake,
            requests,
            events,
            start: Instant::now(),
            link: None,
            link_unknown: true,
            has_nexthop_objects: true,
            verified_at: Time(0),
            verify_after: Time(0),
            settlers: Vec::new(),
            end_at: None,
            log: LogLimit::default(),
        }
    }

    pub fn run(mut self) {
        let (mut ops, mut answers) = (Vec::new(), Vec::new());
        loop {
            self.take_commands();
            self.take_events();
            let now = self.now();
            self.look_after_link(now);
            let mut is_busy = false;
            if let Some(link) = self.link.filter(|link| link.is_usable) {
                self.verify_if_due(link, now);
                self.plan.next_batch(&mut ops, BATCH_OPS, now);
                is_busy = !ops.is_empty();
                self.requests.execute(&ops, link.index, &mut answers);
                self.take_answers(&mut ops, &mut answers);
            }
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

    fn is_up(&self) -> bool {
        self.link.is_some_and(|link| link.is_usable)
    }

    fn take_commands(&mut self) {
        self.shared.awake.store(true, Ordering::SeqCst);
        let mut scratch = [0; 64];
        while matches!(io::Read::read(&mut self.wake, &mut scratch), Ok(1..)) {}
        for command in self.shared.take_commands() {
            match command {
                Command::Add(vni, route, server) => {
                    if let Err(skip) = self.plan.add(vni, route, server)
                        && self.log.permits(Time(0).after(self.start.elapsed()))
                    {
                        warn!("route {route} of VNI {vni} is not installed: {skip}");
                    }
                }
                Command::Remove(vni, route, server) => self.plan.remove(vni, route, server),
                Command::Announce(vni, route) => self.plan.announce(vni, route),
                Command::Withdraw(vni, route) => self.plan.withdraw(vni, route),
                Command::Lose(server) => self.plan.lose(server),
                Command::Hold(server) => self.plan.hold(server),
                Command::Release(server) => self.plan.release(server),
                Command::DropVni(vni) => self.plan.drop_vni(vni),
                Command::Sweep => self.plan.sweep(),
                Command::Clear => self.plan.clear(),
                Command::Settle(settler) => self.settlers.push(settler),
                Command::Shutdown(patience) => self.end_at = Some(self.now().after(patience)),
            }
        }
    }

    fn take_events(&mut self) {
        for event in self.events.take() {
            let (seen, is_gone) = match event {
                LinkEvent::Lost => {
                    self.link_unknown = true;
                    self.verify_soon();
                    continue;
                }
                LinkEvent::Changed(seen) => (seen, false),
                LinkEvent::Gone(seen) => (seen, true),
            };
            let is_ours = self.link.is_some_and(|link| link.index == seen.index);
            if !is_ours && seen.name != self.config.link_name {
                continue;
            }
            self.link_unknown = true;
            // A link that goes down takes its routes along, even if it is up again by now.
            if is_ours && (is_gone || !self.is_usable(seen.flags)) {
                self.verify_soon();
            }
        }
    }

    /// Nothing is done before the next dump.
    fn verify_soon(&mut self) {
        self.plan.forget_kernel();
    }

    /// Nexthop objects need a carrier, routes with their own encapsulation do not.
    fn is_usable(&self, flags: u32) -> bool {
        let needs_carrier = self.plan.nexthop_objects() != NexthopObjects::Never;
        flags & libc::IFF_UP as u32 != 0
            && (!needs_carrier || flags & libc::IFF_LOWER_UP as u32 != 0)
    }

    fn look_after_link(&mut self, now: Time) {
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
        if link == self.link {
            return;
        }
        let name = &self.config.link_name;
        match link {
            None => warn!("the link {name} is gone: no routes until it is back"),
            Some(Link { is_usable: false, .. }) => {
                warn!("the link {name} is down: no routes until it is up and has a carrier");
            }
            Some(Link { index, .. }) => info!("routes lead out of the link {name} (index {index})"),
        }
        self.link = link;
        self.plan.forget_kernel();
    }

    fn verify_if_due(&mut self, link: Link, now: Time) {
        let resync = Duration::from_secs(self.config.resync_s.into());
        let is_due = self.plan.must_verify()
            || !resync.is_zero() && now.since(self.verified_at) >= resync
            || self.plan.is_suspect() && now.since(self.verified_at) >= SUSPECT_PAUSE;
        if !is_due || self.verify_after > now {
            return;
        }
        // Even where none are to be made, a former run may have left some.
        let with_nexthops = self.has_nexthop_objects;
        let families: &[Family] =
            if self.config.ipv4_only { &[Family::V4] } else { &[Family::V4, Family::V6] };
        let tables = self.plan.tables();
        match self.requests.snapshot(&tables, families, link.index, with_nexthops) {
            Ok(snapshot) => {
                let before = self.plan.counters().repaired;
                self.plan.reconcile(snapshot);
                self.verified_at = now;
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
                _ if !self.log.permits(now) => {}
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
        if self.link_unknown || self.plan.must_verify() && self.is_up() {
            at(self.verify_after);
        }
        if self.is_up() {
            if let Some(retry_at) = self.plan.retry_at() {
                at(retry_at);
            }
            if self.config.resync_s > 0 {
                let resync = Duration::from_secs(self.config.resync_s.into());
                at(self.verified_at.after(resync).max(self.verify_after));
            }
            if self.plan.is_suspect() {
                at(self.verified_at.after(SUSPECT_PAUSE).max(self.verify_after));
            }
        }
        let timeout = (until != Time::NEVER).then(|| until.since(now));
        let fds = [self.wake.as_raw_fd(), self.events.as_raw_fd()];
        if let Err(error) = wait_readable(&fds, timeout) {
            debug!("poll: {error}");
            std::thread::sleep(RETRY_PAUSE);
        }
    }
}

/// At most so many lines within a time, so that a peer cannot fill the log.
#[derive(Debug, Default)]
struct LogLimit {
    window_start: Time,
    lines: u32,
}

impl LogLimit {
    fn permits(&mut self, now: Time) -> bool {
        if now.since(self.window_start) >= LOG_WINDOW {
            *self = LogLimit { window_start: now, lines: 0 };
        }
        self.lines += 1;
        if self.lines == LOG_LINES + 1 {
            warn!("more such lines are left out for {} s", LOG_WINDOW.as_secs());
        }
        self.lines <= LOG_LINES
    }
}
