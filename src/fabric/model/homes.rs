//! Route tables that are too simple to be wrong, in place of a reflector's shards.
//!
//! Owns who announces what. Must never be asked for more than the real ones: they do what they are told, later.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::super::own::Key;
use super::super::protocol::HomeCall;

use crate::types::{Announcers, Behind, Remote};

#[derive(Debug, Default)]
pub(super) struct Homes {
    local: BTreeMap<Key, BTreeMap<usize, IpAddr>>,
    remote: BTreeMap<Key, BTreeMap<Remote, Announcers>>,
    pub calls: VecDeque<HomeCall>,
    /// Routes that came and went, for whoever subscribes to everything.
    pub added: u64,
    pub removed: u64,
}

impl Homes {
    /// A host announces or withdraws. Returns what is to be published.
    pub(super) fn change(
        &mut self,
        host: usize,
        address: IpAddr,
        key: Key,
        adds: bool,
    ) -> Announcers {
        self.watched(key, |homes| {
            let sources = homes.local.entry(key).or_default();
            if adds {
                sources.insert(host, address);
                let by = Announcers { clients: Behind::One(address), servers: Behind::Nobody };
                // It speaks for itself again.
                homes
                    .remote
                    .entry(key)
                    .or_default()
                    .retain(|remote, said| remote.reflector != Remote::OWN_STALE || *said != by);
            } else {
                sources.remove(&host);
            }
        });
        self.published(key)
    }

    /// What is to be published of a route.
    pub(super) fn published(&self, key: Key) -> Announcers {
        let mut by = Announcers::default();
        for address in self.local.get(&key).into_iter().flat_map(BTreeMap::values) {
            by.clients = by.clients.and(Behind::One(*address));
        }
        for (remote, said) in self.remote.get(&key).into_iter().flatten() {
            if remote.reflector == Remote::OWN_STALE {
                by.clients = by.clients.and(said.clients);
                by.servers = by.servers.and(said.servers);
            }
        }
        by
    }

    /// Does the first thing that it was told. Returns what may have to be published anew.
    pub(super) fn obey(&mut self) -> Vec<(Key, Announcers)> {
        let keys = match self.calls.pop_front() {
            None => return Vec::new(),
            Some(HomeCall::Announce(remote, vni, route, by)) => {
                let key = (vni, route);
                self.watched(key, |homes| homes.announce(remote, key, by));
                vec![key]
            }
            Some(HomeCall::Lose(remote)) => {
                let keys: Vec<Key> = self.remote.keys().copied().collect();
                for key in &keys {
                    self.watched(*key, |homes| {
                        homes.remote.entry(*key).or_default().remove(&remote);
                    });
                }
                keys
            }
        };
        keys.into_iter().map(|key| (key, self.published(key))).collect()
    }

    /// Whether somebody who announces nothing sees the route.
    pub(super) fn sees(&self, key: Key) -> bool {
        let is_local = self.local.get(&key).is_some_and(|sources| !sources.is_empty());
        is_local || self.remote.get(&key).is_some_and(|said| !said.is_empty())
    }

    /// Who says what about a route, for people.
    pub(super) fn said(&self, key: Key) -> String {
        format!("{:?} {:?}", self.local.get(&key), self.remote.get(&key))
    }

    fn announce(&mut self, remote: Remote, key: Key, by: Announcers) {
        let of_reflector = self.remote.entry(key).or_default();
        let speaks = |address| Behind::One(address) == by.clients;
        let is_back = self.local.get(&key).is_some_and(|it| it.values().any(|it| speaks(*it)));
        if by.is_nobody() || remote.reflector == Remote::OWN_STALE && is_back {
            of_reflector.remove(&remote);
        } else {
            of_reflector.insert(remote, by);
        }
        of_reflector
            .retain(|it, _| it.reflector != remote.reflector || it.generation >= remote.generation);
    }

    fn watched(&mut self, key: Key, change: impl FnOnce(&mut Homes)) {
        let saw = self.sees(key);
        change(self);
        let sees = self.sees(key);
        self.added += u64::from(sees && !saw);
        self.removed += u64::from(saw && !sees);
    }
}
