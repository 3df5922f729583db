//! One more correspondent of the shards' mail: it speaks for other reflectors, and is told what is announced here.
//!
//! Owns what it has asked homes and they have not done. Must never have homes wait for it: what they write to it is taken
//! at once.

use super::mail::{Announced, Lane, Mail, Outboxes, Published, Request};
use crate::types::{Announcers, PeerClass, Remote, Route, ShardId, Vni};

/// Changes under way to one home beyond which it is full.
const REQUESTS_UNDER_WAY_MAX: usize = 32_768;

/// Speaks with homes on behalf of other reflectors. Its index in their mail is their number.
pub struct Correspondent {
    outboxes: Outboxes,
    shards: u16,
    next: u16,
    refused: u64,
}

impl Correspondent {
    /// Nothing asked yet, of so many shards.
    pub fn new(shards: u16) -> Correspondent {
        let me = ShardId(shards);
        let requests_max = [REQUESTS_UNDER_WAY_MAX; Lane::ALL.len()];
        Correspondent {
            outboxes: Outboxes::new(me, shards + 1, requests_max, usize::MAX),
            shards,
            next: 0,
            refused: 0,
        }
    }

    /// Another reflector says who announces a route there; nobody at all: it is withdrawn. Its home keeps that in place of
    /// what earlier readings of this reflector said of that route.
    pub fn announce(&mut self, remote: Remote, vni: Vni, route: &Route, by: Announcers) {
        let announced = Announced { remote, vni, route: *route, by };
        let home = ShardId::home_of(vni, self.shards);
        self.outboxes.request(home, Request::Announced(Box::new(announced)));
    }

    /// All that was read in this reading, and is not kept by a later one, goes.
    pub fn lose(&mut self, remote: Remote) {
        for home in (0..self.shards).map(ShardId) {
            for class in [PeerClass::Client, PeerClass::Server] {
                self.outboxes.request(home, Request::Lost(remote.source(class)));
            }
        }
    }

    /// Some home has enough to do for now.
    pub fn is_full(&self) -> bool {
        let mut homes = (0..self.shards).map(ShardId);
        homes.any(|home| self.outboxes.is_home_full(home, Lane::Changes))
    }

    /// Homes have taken up all that they were asked, and what is published by that was delivered. Withdrawing all of a
    /// reading goes on behind that.
    pub fn is_settled(&self) -> bool {
        self.outboxes.requests_under_way() == 0
    }

    /// Mail for a home. To be called until None, after each batch of calls.
    pub fn take_mail(&mut self) -> Option<(ShardId, Mail)> {
        while self.next < self.shards {
            let to = ShardId(self.next);
            self.next += 1;
            if let Some(mail) = self.outboxes.take(to) {
                return Some((to, mail));
            }
        }
        self.next = 0;
        None
    }

    /// Mail from a home. `published` is told each route that others announce at this node than before, with all who do
    /// now; perhaps twice the same.
    pub fn deliver(&mut self, mut mail: Mail, mut published: impl FnMut(Vni, &Route, Announcers)) {
        for Published { vni, route, by } in mail.published.drain(..) {
            published(vni, &route, by);
        }
        self.outboxes.requests_done(mail.from, mail.requests_done);
        self.refused += mail.refused.drain(..).map(|refused| refused.count).sum::<u64>();
        mail.settled.clear();
        mail.failed.clear();
        for empty in mail.returned.drain(..) {
            self.outboxes.keep(empty);
        }
        self.outboxes.keep(mail);
    }

    /// Routes of other reflectors that homes refused since the start, for lack of room.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
