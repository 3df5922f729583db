//! Lost connections to servers whose routes stay for a while.
//!
//! Owns how long. Must never let go of one whose server is back and still telling, nor keep one for
//! ever, however often its server comes and goes.

use std::time::Duration;

use super::dump::DUMP_TIME_MAX;
use crate::types::{PeerId, Time};

/// Lost connections to one server that are held at a time.
const HELD_PER_SERVER_MAX: usize = 4;

/// A lost connection.
#[derive(Debug)]
struct Held {
    id: PeerId,
    server: u64,
    lost_at: Time,
    /// Never, while the server is back and tells what it knows.
    until: Time,
}

/// All that are held.
#[derive(Debug)]
pub(super) struct Holds {
    stale_time: Duration,
    held: Vec<Held>,
}

impl Holds {
    /// None yet. With a `stale_time` of zero there never will be one.
    pub(super) fn new(stale_time: Duration) -> Holds {
        Holds { stale_time, held: Vec::new() }
    }

    /// How long routes of a lost server stay.
    pub(super) fn stale_time(&self) -> Duration {
        self.stale_time
    }

    /// Holds a connection that is lost. False if its routes are to go at once.
    pub(super) fn hold(&mut self, now: Time, id: PeerId, server: u64) -> bool {
        let until = now.after(self.stale_time);
        let holds = until > now;
        if holds {
            self.held.push(Held { id, server, lost_at: now, until });
        }
        holds
    }

    /// The server is back: no clock counts until it has told what it knows.
    pub(super) fn server_is_back(&mut self, server: u64) {
        self.of(server).for_each(|held| held.until = Time::NEVER);
    }

    /// The server is lost before it has told what it knows: the time counts again.
    pub(super) fn server_is_lost(&mut self, now: Time, server: u64) {
        let stale_time = self.stale_time;
        for held in self.of(server) {
            let at_most = held.lost_at.after(stale_time).after(DUMP_TIME_MAX);
            held.until = held.until.min(now.after(stale_time)).min(at_most);
        }
    }

    /// Lets go of one whose time is over.
    pub(super) fn take_due(&mut self, now: Time) -> Option<PeerId> {
        self.take(|held| held.until <= now)
    }

    /// Lets go of one of this server's.
    pub(super) fn take_of(&mut self, server: u64) -> Option<PeerId> {
        self.take(|held| held.server == server)
    }

    /// Lets go of all: they will have no further use.
    pub(super) fn clear(&mut self) {
        self.held.clear();
    }

    /// When the time of the first is over.
    pub(super) fn next_deadline(&self) -> Time {
        self.held.iter().map(|held| held.until).min().unwrap_or(Time::NEVER)
    }

    /// The connections to this server that are held.
    pub(super) fn ids_of(&self, server: u64) -> impl Iterator<Item = PeerId> {
        self.held.iter().filter(move |held| held.server == server).map(|held| held.id)
    }

    /// Whether so many connections to this server are held that a further one takes the place of none.
    pub(super) fn is_full(&self, server: u64) -> bool {
        self.ids_of(server).count() >= HELD_PER_SERVER_MAX
    }

    /// All of them.
    pub(super) fn ids(&self) -> impl ExactSizeIterator<Item = PeerId> {
        self.held.iter().map(|held| held.id)
    }

    fn of(&mut self, server: u64) -> impl Iterator<Item = &mut Held> {
        self.held.iter_mut().filter(move |held| held.server == server)
    }

    fn take(&mut self, is_it: impl Fn(&Held) -> bool) -> Option<PeerId> {
        let at = self.held.iter().position(is_it)?;
        Some(self.held.remove(at).id)
    }
}
