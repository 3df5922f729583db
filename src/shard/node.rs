//! This node as a client: drives [`client::Node`](crate::client::Node), whose route client and servers are
//! peers of this shard.
//!
//! Owns the way from what happens to those peers to the room, and from its effects to requests and commands.
//! Must never decide what the node wants, or how long something is held.

use std::net::SocketAddr;

use super::Shard;
use super::mail::Request;
use super::peer::Peer;
use crate::client::Effect;
use crate::rib::UpdateGroup;
use crate::session::{Session, State};
use crate::types::{Action, PeerClass, PeerId, Route, ShardId, SourceId, Time, Vni};
use crate::wire::{Message, Update};

impl Shard {
    /// Makes this shard the one where the node's own route client and its servers live. The
    /// client's frames come with [`Shard::transmit`].
    ///
    /// # Panics
    /// If there is one.
    pub fn attach_client(&mut self, now: Time) -> PeerId {
        let id = self.peers.insert(Peer::local(now, PeerClass::Own));
        self.node.attach(id);
        id
    }

    /// A connection to a server was made. The caller dialled it, and knows it again as `server`.
    pub fn dialled(&mut self, now: Time, remote: SocketAddr, server: u64) -> PeerId {
        let id = self.peers.insert(Peer::dialled(now, remote, &self.config));
        self.node.dialled(id, server);
        self.counters.connections += 1;
        self.tell_session(now, id, |session| session.connected(now));
        id
    }

    /// The state of a connection; None if it is over.
    pub fn session_state(&self, id: PeerId) -> Option<State> {
        self.peers.find(id)?.link.session().map(Session::state)
    }

    /// The node wants the routes of a VNI.
    pub fn own_subscribe(&mut self, now: Time, vni: Vni) {
        self.node.subscribe(now, vni);
        self.carry_out(now);
    }

    /// The node does not want the routes of a VNI any more.
    pub fn own_unsubscribe(&mut self, now: Time, vni: Vni) {
        self.node.unsubscribe(vni);
        self.carry_out(now);
    }

    /// The node announces or withdraws a route. The caller takes care of duplicates.
    pub fn own_change(&mut self, now: Time, action: Action, vni: Vni, route: Route) {
        let Some(route_client) = self.node.route_client() else { return };
        self.node.announce(action, vni, route);
        self.carry_out(now);
        self.on_update(now, route_client, &Update { action, vni, route });
    }

    /// The node wants no more of a server that it dialled: its routes go at once, hold time or not.
    pub fn hang_up(&mut self, now: Time, id: PeerId) {
        self.tell_session(now, id, Session::close);
    }

    /// No server can be reached, or all are lost. The time that routes stay begins for what a former
    /// run has left.
    pub fn servers_away(&mut self, now: Time) {
        self.node.servers_away(now);
    }

    /// The node wants no more of a server, connected or not: what is held of it goes.
    pub fn forget_server(&mut self, now: Time, server: u64) {
        self.node.forget_server(server);
        self.carry_out(now);
    }

    /// A session with a server that we dialled stands.
    pub(super) fn server_established(&mut self, now: Time, id: PeerId) {
        let reassembles = self.peers.find(id).is_some_and(|peer| peer.link.reassembles());
        self.node.established(now, id, reassembles);
        self.carry_out(now);
    }

    /// A peer answered a KEEPALIVE, if it is a server that we dialled.
    pub(super) fn server_answered(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.find_mut(id).filter(|peer| peer.link.is_established()) else {
            return;
        };
        let Some(commands) = peer.outbound.commands() else { return };
        commands.heard_keepalive();
        let answered = commands.answered();
        self.node.answered(now, id, answered);
        self.carry_out(now);
        self.peers.wake_writer(id);
    }

    /// A server that we dialled announced or withdrew a route, which has been passed on.
    pub(super) fn server_told(&mut self, now: Time, id: PeerId, update: &Update) {
        self.node.heard_update(now, id, update);
        self.carry_out(now);
    }

    /// A connection to a server that we dialled is over. The server `may_return` unless we ended it.
    pub(super) fn server_lost(&mut self, now: Time, id: PeerId, may_return: bool) {
        self.node.lost(now, id, may_return);
        self.carry_out(now);
    }

    /// Does what is due on the node's side.
    pub(super) fn on_node_timer(&mut self, now: Time) {
        let peers = &mut self.peers;
        let has_read = |id| {
            let commands = peers.find_mut(id).and_then(|peer| peer.outbound.commands());
            commands.is_some_and(|commands| commands.is_empty())
        };
        self.node.on_timer(now, has_read);
        self.carry_out(now);
    }

    fn carry_out(&mut self, now: Time) {
        while let Some(effect) = self.node.next_effect() {
            match effect {
                Effect::Tell(id, message) => self.tell(id, message),
                Effect::TellSynchronized(id) => {
                    if let Some(peer) = self.peers.find_mut(id) {
                        peer.outbound.owe_mark();
                        self.peers.wake_writer(id);
                    }
                }
                Effect::Subscribe(id, group) => self.subscribe_ours(now, id, group),
                Effect::Unsubscribe(id, vni) => self.unsubscribe(id, vni),
                Effect::Withdraw(id, vni, route) => {
                    let (source, class) = (SourceId(id), PeerClass::Server);
                    let (action, read_at) = (Action::Remove, None);
                    let change = Request::Change { source, class, action, vni, route, read_at };
                    self.outboxes.request(self.home_of(vni), change);
                }
                Effect::WithdrawIn(id, vni) => {
                    let request = Request::LostIn(SourceId(id), vni);
                    self.outboxes.request(self.home_of(vni), request);
                }
                Effect::WithdrawAll(id) => {
                    for home in (0..self.config.shards).map(ShardId) {
                        self.outboxes.request(home, Request::Lost(SourceId(id)));
                    }
                }
            }
        }
    }

    /// What is ours is counted, and no limit counts for it.
    fn subscribe_ours(&mut self, now: Time, id: PeerId, group: UpdateGroup) {
        let is_new = |peer: &Peer| !peer.subscriptions.contains_key(&group.vni);
        if self.peers.find(id).is_some_and(is_new) && self.config.ledger.take_subscription(u64::MAX)
        {
            self.subscribe_in(now, id, group);
        }
    }

    fn tell(&mut self, id: PeerId, message: Message) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if let Some(commands) = peer.outbound.commands() {
            commands.push(message);
            self.peers.wake_writer(id);
        }
    }

    fn home_of(&self, vni: Vni) -> ShardId {
        ShardId::home_of(vni, self.config.shards)
    }
}
