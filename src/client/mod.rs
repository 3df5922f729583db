//! This node as a client, sans-IO: events in, effects out, the time passed in.
//!
//! Owns what the node itself wants and announces, the care that the servers which it dialled need
//! (protocol section 9), how long the routes of lost ones stay, and what its route client is told. Must
//! never see the core's route tables, a thread or a socket: the shard carries out what [`Node`] says, and
//! `api` brings [`Installer`] the frames.
//!
//! The node's *route client* is a peer like any other, but without a socket. What it hears is a stream
//! of frames, in which UNSUBSCRIBE says "forget this VNI", and KEEPALIVE "a former run is over".

mod dump;
mod former_run;
mod holds;
mod installer;
mod route_client;
mod uplink;
mod wishes;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::rib::UpdateGroup;
use crate::types::{Action, GroupClass, PeerId, Route, Time, Vni};
use crate::wire::{Message, Update};

pub use installer::Installer;
pub use route_client::{DummyClient, RouteClient, RouteError};

use former_run::FormerRun;
use holds::Holds;
use uplink::Uplink;
use wishes::Wishes;

/// A question to a server, by its number: what was sent before it has been read when it is answered.
pub(crate) type Question = u64;

/// What the driver is to do, in this order: a route is announced anew before it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Tell a server, or the route client, behind what it was told before. A KEEPALIVE is a question.
    Tell(PeerId, Message),
    /// Tell the route client, behind all that is pending for it, that what a former run has left may go.
    TellSynchronized(PeerId),
    /// Send a peer what is known of a VNI, as one of these subscribers, and what follows.
    Subscribe(PeerId, UpdateGroup),
    /// Nothing of it any more.
    Unsubscribe(PeerId, Vni),
    /// A connection announces a route no more.
    Withdraw(PeerId, Vni, Route),
    /// It announces nothing in a VNI any more, for now.
    WithdrawIn(PeerId, Vni),
    /// It announces nothing any more.
    WithdrawAll(PeerId),
}

type Effects = VecDeque<Effect>;

/// What this node wants and announces, and the servers that it dialled.
#[derive(Debug)]
pub(crate) struct Node {
    route_client: Option<PeerId>,
    wishes: Wishes,
    /// Connections that are not lost.
    uplinks: BTreeMap<PeerId, Uplink>,
    holds: Holds,
    former_run: FormerRun,
    /// The node is about to end: nothing is withdrawn, and nobody is told anything new.
    draining: bool,
    effects: Effects,
}

impl Node {
    /// A node that wants nothing and has no servers. Routes of lost ones stay for `stale_time`.
    pub(crate) fn new(stale_time: Duration) -> Node {
        Node {
            route_client: None,
            wishes: Wishes::default(),
            uplinks: BTreeMap::new(),
            holds: Holds::new(stale_time),
            former_run: FormerRun::Kept(Time::NEVER),
            draining: false,
            effects: Effects::new(),
        }
    }

    /// The next thing to do. To be called until None, after each call that may change something.
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Gives the node its route client. Without one it neither wants nor announces anything.
    ///
    /// # Panics
    /// If it has one.
    pub(crate) fn attach(&mut self, route_client: PeerId) {
        assert!(self.route_client.is_none(), "a node has one route client");
        self.route_client = Some(route_client);
    }

    /// The node's route client, if it has one.
    pub(crate) fn route_client(&self) -> Option<PeerId> {
        self.route_client
    }

    /// The node wants the routes of a VNI.
    pub(crate) fn subscribe(&mut self, now: Time, vni: Vni) {
        let Some(route_client) = self.route_client else { return };
        if self.wishes.subscribe(vni) {
            let group = UpdateGroup::new(vni, GroupClass::Client);
            self.effects.push_back(Effect::Subscribe(route_client, group));
            for uplink in open(&mut self.uplinks, self.draining) {
                uplink.subscribe(now, vni, &mut self.effects);
            }
        }
    }

    /// The node does not want the routes of a VNI any more.
    pub(crate) fn unsubscribe(&mut self, vni: Vni) {
        let Some(route_client) = self.route_client else { return };
        if self.wishes.unsubscribe(vni) {
            self.effects.push_back(Effect::Unsubscribe(route_client, vni));
            self.effects.push_back(Effect::Tell(route_client, Message::Unsubscribe(vni)));
            self.effects.extend(self.holds.ids().map(|id| Effect::WithdrawIn(id, vni)));
            for uplink in open(&mut self.uplinks, self.draining) {
                uplink.unsubscribe(vni, &mut self.effects);
            }
        }
    }

    /// The node announces or withdraws a route, of which its route client is the source. The caller takes
    /// care of duplicates.
    pub(crate) fn announce(&mut self, action: Action, vni: Vni, route: Route) {
        if self.wishes.announce(action, vni, route) {
            for uplink in open(&mut self.uplinks, self.draining) {
                self.effects.push_back(uplink.announce(vni));
            }
        }
    }

    /// A connection to a server was made. The caller knows the server again by its number.
    pub(crate) fn dialled(&mut self, id: PeerId, server: u64) {
        self.uplinks.insert(id, Uplink::new(id, server));
    }

    /// The session with a server stands: subscriptions first, then announcements.
    pub(crate) fn established(&mut self, now: Time, id: PeerId, reassembles: bool) {
        let Some(uplink) = self.uplinks.get_mut(&id) else { return };
        uplink.is_established = true;
        uplink.reassembles = reassembles;
        uplink.is_provisional = self.holds.is_full(uplink.server);
        uplink.dump.begin(now, reassembles, self.holds.stale_time());
        self.holds.server_is_back(uplink.server);
        self.former_run.server_is_here();
        let effects = &mut self.effects;
        self.wishes.subscribed().for_each(|vni| uplink.subscribe(now, vni, effects));
        effects.extend(self.wishes.announced().map(|vni| uplink.announce(vni)));
    }

    /// A connection to a server is over. What the server had not confirmed since it came back is held on;
    /// so is what this connection told, if the server `may_return`.
    pub(crate) fn lost(&mut self, now: Time, id: PeerId, may_return: bool) {
        let Some(uplink) = self.uplinks.remove(&id) else { return };
        if uplink.is_established {
            self.holds.server_is_lost(now, uplink.server);
            self.look_for_end_of_former_run();
        }
        // While draining nothing is withdrawn.
        if uplink.has_told && !self.draining {
            let may_be_held = may_return && !uplink.is_provisional;
            if !(may_be_held && self.holds.hold(now, id, uplink.server)) {
                self.effects.push_back(Effect::WithdrawAll(id));
            }
        }
    }

    /// No server can be reached, or all are lost. The time that routes stay begins for what a former
    /// run has left.
    pub(crate) fn servers_away(&mut self, now: Time) {
        self.former_run.servers_are_away(now, self.holds.stale_time());
    }

    /// The node wants no more of a server, connected or not: what is held of it goes.
    pub(crate) fn forget_server(&mut self, server: u64) {
        while let Some(id) = self.holds.take_of(server) {
            self.effects.push_back(Effect::WithdrawAll(id));
        }
    }

    /// From now on nothing is withdrawn: the node is about to end.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        self.holds.clear();
    }

    /// Whether an UPDATE from a server is wanted: what it sends for a VNI that we have left, or never
    /// asked for, is not. Nor is our own announcement, which servers in the field dump to us, but do
    /// not withdraw from us (protocol section 6.3): it would stay for ever.
    pub(crate) fn wants(&self, id: PeerId, update: &Update) -> bool {
        let Some(uplink) = self.uplinks.get(&id) else { return false };
        let may_be_own = !uplink.reassembles && update.action == Action::Add;
        uplink.is_subscribed(update.vni)
            && !(may_be_own && self.wishes.is_announced(update.vni, &update.route))
    }

    /// A server said something about a route that was wanted, and it has been passed on: what the server
    /// had said before it was lost does not count any more.
    pub(crate) fn heard_update(&mut self, now: Time, id: PeerId, update: &Update) {
        let Some(uplink) = self.uplinks.get_mut(&id).filter(|_| !self.draining) else { return };
        let is_add = update.action == Action::Add;
        uplink.has_told |= is_add;
        if !(is_add && uplink.is_provisional) {
            let held = self.holds.ids_of(uplink.server);
            let withdraw = |held| Effect::Withdraw(held, update.vni, update.route);
            self.effects.extend(held.map(withdraw));
        }
        if is_add {
            uplink.dump.goes_on(now);
        }
    }

    /// A server has answered so many questions. While draining too: what is pending has to be sent.
    pub(crate) fn answered(&mut self, now: Time, id: PeerId, answered: Question) {
        if let Some(uplink) = self.uplinks.get_mut(&id) {
            uplink.answered(now, answered, &mut self.effects);
            self.look_for_end_of_dump(now, id);
        }
    }

    /// When [`Node::on_timer`] has something to do.
    pub(crate) fn next_deadline(&self) -> Time {
        if self.draining {
            return Time::NEVER;
        }
        let dumps = self.uplinks.values().map(|uplink| uplink.dump.next_deadline());
        let others = self.holds.next_deadline().min(self.former_run.next_deadline());
        dumps.min().unwrap_or(Time::NEVER).min(others)
    }

    /// Does what is due. `has_read` says whether a server was sent all that it is to be told.
    pub(crate) fn on_timer(&mut self, now: Time, mut has_read: impl FnMut(PeerId) -> bool) {
        if now < self.next_deadline() {
            return;
        }
        while let Some(id) = self.holds.take_due(now) {
            self.effects.push_back(Effect::WithdrawAll(id));
        }
        let ids: Vec<PeerId> = self.uplinks.keys().copied().collect();
        for id in ids {
            if let Some(uplink) = self.uplinks.get_mut(&id) {
                uplink.on_timer(now, has_read(id), &mut self.effects);
                self.look_for_end_of_dump(now, id);
            }
        }
        if self.former_run.next_deadline() <= now {
            self.end_former_run();
        }
    }

    /// Lost connections whose routes stay for now.
    pub(crate) fn lost_connections(&self) -> usize {
        self.holds.ids().len()
    }

    fn look_for_end_of_dump(&mut self, now: Time, id: PeerId) {
        let uplink = self.uplinks.get_mut(&id).filter(|_| !self.draining);
        if let Some(uplink) = uplink
            && uplink.completes_dump(now)
        {
            tracing::debug!(%id, "the server has told all it knows");
            uplink.is_provisional = false;
            let server = uplink.server;
            self.forget_server(server);
            self.look_for_end_of_former_run();
        }
    }

    /// A server has told all it knows, and no other one is about to tell what this one does not know.
    fn look_for_end_of_former_run(&mut self) {
        let open = open(&mut self.uplinks, self.draining);
        let have_told: Vec<bool> = open.map(|uplink| uplink.dump.is_complete()).collect();
        if !have_told.is_empty() && have_told.iter().all(|&has_told| has_told) {
            self.end_former_run();
        }
    }

    fn end_former_run(&mut self) {
        if self.former_run.end()
            && let Some(route_client) = self.route_client
        {
            self.effects.push_back(Effect::TellSynchronized(route_client));
        }
    }
}

/// Connections whose sessions stand; none of a node that ends.
fn open(
    uplinks: &mut BTreeMap<PeerId, Uplink>,
    draining: bool,
) -> impl Iterator<Item = &mut Uplink> {
    uplinks.values_mut().filter(move |uplink| uplink.is_established && !draining)
}
