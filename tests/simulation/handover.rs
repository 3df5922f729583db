//! Other shards take over amid everything, or fail to.
//!
//! Owns the way from one set of shards to another. Must never let a peer notice it: the checks of the simulation go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use metalbond_uring::internals::handover::item::What;
use metalbond_uring::internals::handover::{Item, peer};
use metalbond_uring::internals::shard::{Export, Import, Ledger, Order};
use metalbond_uring::types::{PeerId, ShardId};

use crate::world::{Node, World};

impl World {
    /// Everything goes over to other shards, as many as there may be; or these crash before, and all goes on as it was.
    pub fn hand_over(&mut self) {
        for node in &mut self.nodes {
            node.shard.freeze(self.now);
            node.dirty = true;
        }
        self.change_policy(4);
        self.cancel_sends();
        self.come_to_stand_still();
        self.change_policy(4);
        let items = self.export();
        // What comes now, who takes over has read too.
        self.change_policy(4);
        self.handed_over.extend(items.iter().flat_map(amid_what));
        let crashes_at =
            if self.rng.chance(40) { self.rng.below(items.len() + 1) } else { usize::MAX };
        let shards = 1 + self.rng.below(4) as u16;
        let ledger = std::mem::take(&mut self.trust.ledger);
        self.trust.ledger = Arc::<Ledger>::default();
        match self.successor(shards, items, crashes_at) {
            Some((nodes, ids)) => {
                self.nodes = nodes;
                self.move_clients(&ids);
            }
            // As if nothing had been.
            None => self.trust.ledger = ledger,
        }
        self.now.0 += self.rng.below(1_000_000) as u64;
        for node in &mut self.nodes {
            node.shard.thaw(self.now);
            node.dirty = true;
        }
    }

    /// The kernel says how much of each SEND went out.
    fn cancel_sends(&mut self) {
        for client in &mut self.clients {
            let Some(connection) = &mut client.connection else { continue };
            let Some(piece) = connection.in_flight.take() else { continue };
            let bytes = piece.as_slice();
            // To others goes a segment or nothing.
            let sent = match client.reassembles {
                true => self.rng.below(bytes.len() + 1),
                false => bytes.len() * self.rng.below(2),
            };
            if !connection.hung_up {
                client.received +=
                    connection.read(&bytes[..sent], client.is_server, client.reassembles);
            }
            let (shard, id) = (connection.shard, connection.id);
            drop(piece);
            self.nodes[shard].shard.transmitted(self.now, id, sent);
        }
    }

    fn come_to_stand_still(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "it does not stand still: {}", self.unrest());
            self.deliver_some_mail();
            for at in 0..self.nodes.len() {
                if self.nodes[at].dirty {
                    self.turn(at);
                }
                assert!(self.nodes[at].shard.take_writer().is_none(), "nothing is sent");
            }
            let mail = self.nodes.iter().flat_map(|node| &node.mail).any(|queue| !queue.is_empty());
            let still = self.nodes.iter().map(|node| node.shard.stillness());
            let (sent, taken) = still
                .clone()
                .fold((0, 0), |sum, it| (sum.0 + it.mails_sent, sum.1 + it.mails_taken));
            if !mail && still.clone().all(|it| it.is_still) && !self.nodes.iter().any(|it| it.dirty)
            {
                assert_eq!(sent, taken, "what is written is taken");
                return;
            }
        }
    }

    fn export(&mut self) -> Vec<Item> {
        let mut export = Export::new(self.nodes.len() as u16);
        let mut items = Vec::new();
        while let Some(shard) = export.shard() {
            self.nodes[shard.index()].shard.export(self.now, &mut export, &mut items);
            // Between two pieces shards do what they are asked, and whatever else would be due.
            if self.rng.chance(20) {
                self.change_policy(4);
                (0..self.nodes.len()).for_each(|at| self.turn(at));
                self.come_to_stand_still();
            }
        }
        assert_eq!(export.items(), items.len() as u64);
        items
    }

    /// So many shards that were given all, and the ids of peers that they had and have; None if they crash before.
    fn successor(
        &mut self,
        shards: u16,
        items: Vec<Item>,
        crashes_at: usize,
    ) -> Option<(Vec<Node>, BTreeMap<PeerId, PeerId>)> {
        let generation = self.nodes.iter().map(|node| node.shard.next_generation()).max()?;
        let former = self.former_ids();
        let mut nodes = self.shards(shards);
        for node in &mut nodes {
            node.shard.begin_restoring(self.now, generation);
        }
        let (mut import, count) = (Import::new(shards), items.len() as u64);
        let (mut ids, mut former) = (BTreeMap::new(), former.into_iter());
        for (at, item) in items.into_iter().enumerate() {
            if at == crashes_at {
                return None;
            }
            let mut orders: Vec<(ShardId, Order)> = Vec::new();
            let shard = ShardId(self.rng.below(usize::from(shards)) as u16);
            import.take(item, || shard, &mut orders).expect("it makes sense");
            for (shard, order) in orders {
                let restored = nodes[shard.index()].shard.restore(self.now, order);
                if let Some(id) = restored.expect("it makes sense") {
                    ids.insert(former.next().expect("one for each peer"), id);
                }
            }
        }
        import.end(count).expect("that was all");
        let mut before = std::mem::replace(&mut self.nodes, nodes);
        for node in &mut self.nodes {
            node.dirty = true;
        }
        self.come_to_stand_still();
        std::mem::swap(&mut self.nodes, &mut before);
        (crashes_at == usize::MAX).then_some((before, ids))
    }

    /// In the order in which they are told.
    fn former_ids(&self) -> Vec<PeerId> {
        let peers = self.nodes.iter().flat_map(|node| node.shard.peers_piece(self.now, 0).peers);
        peers.map(|peer| peer.id).collect()
    }

    fn move_clients(&mut self, ids: &BTreeMap<PeerId, PeerId>) {
        for client in &mut self.clients {
            let Some(connection) = &mut client.connection else { continue };
            // One that was closed is not handed over.
            match ids.get(&connection.id) {
                Some(id) => {
                    connection.id = *id;
                    connection.shard = id.shard().index();
                }
                None => client.connection = None,
            }
        }
    }
}

/// What is under way, as an item tells it.
fn amid_what(item: &Item) -> Vec<&'static str> {
    let told = match item.what.as_ref().expect("each tells something") {
        What::Peer(peer) => vec![
            (peer.state() != peer::State::Established, "a handshake"),
            (!peer.input.is_empty(), "input that waits"),
            ((1..4).contains(&peer.input.len()), "a header that is not whole"),
            (!peer.output.is_empty(), "the rest of a SEND"),
            (!peer.hello.is_empty(), "a HELLO that is owed"),
            (peer.keepalives_owed > 0, "KEEPALIVEs that are owed"),
            (!peer.former_lives.is_empty(), "a life that is over"),
            (peer.source != peer.id, "a source that another connection was"),
            (peer.routes_withheld > 0, "routes that are withheld"),
            (peer.bytes_unread > 0 && !peer.reassembles, "bytes that may be unread"),
        ],
        What::Absent(_) => vec![(true, "a lost source that waits")],
        What::Routes(routes) => vec![(routes.is_withheld, "a withheld route"), (true, "a route")],
        What::Subscription(told) => vec![
            (told.blocks.iter().any(|place| place.block % 2 == 0), "a base"),
            (told.blocks.iter().any(|at| at.block % 2 == 0 && at.offset > 0), "a base half read"),
            (told.blocks.iter().any(|place| place.block % 2 == 1), "a log"),
            (told.blocks.len() > 2, "a base and what followed"),
            (told.lag.is_some(), "a laggard"),
            (told.lag.is_some_and(|lag| lag.passed_over != 0), "a laggard amid its base"),
        ],
        _ => Vec::new(),
    };
    told.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect()
}

/// A simulation that hands over in quiet moments only would show nothing.
#[test]
fn whatever_is_under_way_goes_over() {
    let mut amid = BTreeSet::new();
    for seed in 0..120 {
        let mut world = World::new(seed);
        world.hands_over = true;
        world.run();
        amid.append(&mut world.handed_over);
    }
    let all = [
        "KEEPALIVEs that are owed",
        "a HELLO that is owed",
        "a base",
        "a base and what followed",
        "a base half read",
        "a handshake",
        "a header that is not whole",
        "a laggard",
        "a laggard amid its base",
        "a life that is over",
        "a log",
        "a lost source that waits",
        "a route",
        "a source that another connection was",
        "a withheld route",
        "bytes that may be unread",
        "input that waits",
        "routes that are withheld",
        "the rest of a SEND",
    ];
    assert_eq!(amid.into_iter().collect::<Vec<_>>(), all);
}
