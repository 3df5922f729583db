//! What the route client must hold of one server, and what it may.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metalbond_uring::types::{Route, Time, Vni};

/// Routes, and when they were told.
pub type Told = BTreeMap<(Vni, Route), Time>;

/// Lost connections beyond which a further one takes the place of none.
const HELD_MAX: usize = 4;
/// How much longer than the hold time a lost connection may be held, however often its server comes and goes.
const TELLING_MAX: Duration = Duration::from_secs(600);

/// A lost connection.
pub struct Lost {
    pub told: Told,
    lost_at: Time,
    /// Whether it is certain that it is held.
    is_sure: bool,
    /// And it is held no longer than that.
    until: Time,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maybe {
    No,
    Perhaps,
    Yes,
}

/// What a server told before it was lost.
pub struct Memory {
    pub stale_time: Duration,
    pub lost: Vec<Lost>,
}

impl Memory {
    pub fn new(stale_time: Duration) -> Memory {
        Memory { stale_time, lost: Vec::new() }
    }

    /// The server is back. Says whether so many connections are held that the new one replaces none.
    pub fn is_back(&mut self, now: Time) -> Maybe {
        self.forget_old(now);
        let sure = self.lost.iter().filter(|lost| lost.is_sure);
        let is_provisional = match (sure.count() >= HELD_MAX, self.lost.len() >= HELD_MAX) {
            (true, _) => Maybe::Yes,
            (false, true) => Maybe::Perhaps,
            (false, false) => Maybe::No,
        };
        self.lost.iter_mut().for_each(|lost| lost.until = Time::NEVER);
        is_provisional
    }

    /// A connection that stood is lost.
    pub fn is_gone(&mut self, now: Time) {
        for lost in &mut self.lost {
            let at_most = lost.lost_at.after(self.stale_time).after(TELLING_MAX);
            lost.until = lost.until.min(now.after(self.stale_time)).min(at_most);
        }
    }

    pub fn hold(&mut self, now: Time, told: Told, is_sure: bool) {
        let until = now.after(self.stale_time);
        if until > now {
            self.lost.push(Lost { told, lost_at: now, is_sure, until });
        }
    }

    /// The server may have told all: nothing of what it said before is certain any more.
    pub fn may_be_over(&mut self) {
        self.lost.iter_mut().for_each(|lost| lost.is_sure = false);
    }

    pub fn forget_old(&mut self, now: Time) {
        self.lost.retain(|lost| now < lost.until);
    }

    pub fn forget_vni(&mut self, vni: Vni) {
        self.lost.iter_mut().for_each(|lost| lost.told.retain(|&(of, _), _| of != vni));
    }

    pub fn withdraw(&mut self, key: &(Vni, Route)) {
        for lost in &mut self.lost {
            lost.told.remove(key);
        }
    }

    /// What is certainly held of it.
    pub fn must(&self, now: Time) -> impl Iterator<Item = (&(Vni, Route), &Time)> {
        let held = self.lost.iter().filter(move |lost| lost.is_sure && now < lost.until);
        held.flat_map(|lost| &lost.told)
    }

    /// What is perhaps held of it.
    pub fn may(&self) -> BTreeSet<(Vni, Route)> {
        self.lost.iter().flat_map(|lost| lost.told.keys().copied()).collect()
    }
}
