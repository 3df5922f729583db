//! Another process takes a reflector over, with all connections, or fails to.
//!
//! Owns the way from one process to the other. Must never let a host notice it, nor another reflector.

use std::collections::BTreeMap;

use metalbond_uring::internals::handover::Item;
use metalbond_uring::internals::shard::{Export, Import, Order};
use metalbond_uring::types::{PeerId, ShardId, Time};

use crate::reflector::Reflector;
use crate::rng::Rng;
use crate::scenarios::Fleet;
use crate::world::World;

impl World {
    /// Everything goes over to another process, with as many shards as there may be; or that ends before, and all goes on.
    pub fn hand_over(&mut self, at: usize) {
        let now = self.network().now;
        let Some(reflector) = &mut self.network().nodes[at].process else { return };
        let mut items = reflector.freeze(now);
        self.network().wake(at);
        self.run_a_while(5_000_000);
        let (shards, crashes) = (1 + self.below(3) as u16, self.chance(30));
        let now = self.network().now;
        let Some(reflector) = &mut self.network().nodes[at].process else { return };
        reflector.come_to_stand_still(now);
        reflector.export(now, &mut items);
        let (seed, former) = (reflector.hash_seed, reflector.former_ids(now));
        let generation = reflector.cores.iter().map(|core| core.shard.next_generation()).max();
        let mut successor = self.reflector(at, shards, seed);
        let rng = &mut self.network().rng;
        let ids = successor.import(now, generation.expect("a shard"), items, former, rng);
        if crashes {
            let reflector = self.network().nodes[at].process.as_mut().expect("it is there");
            reflector.thaw(now);
            return self.network().wake(at);
        }
        let before = self.network().crash(at).expect("it is there");
        for mut session in before.sessions {
            // One that was closed is not handed over.
            if let Some(id) = ids.get(&session.connection.id) {
                session.connection.id = *id;
                session.connection.shard = id.shard().index();
                successor.sessions.push(session);
            }
        }
        successor.thaw(now);
        self.network().start(at, successor);
    }
}

impl Reflector {
    /// What its fabric has to tell.
    fn freeze(&mut self, now: Time) -> Vec<Item> {
        let items = self.fabric.freeze(now);
        self.take_fabric_mail();
        for core in &mut self.cores {
            core.shard.freeze(now);
            core.dirty = true;
        }
        (0..self.sessions.len()).for_each(|at| self.kernel_sends(now, at));
        items
    }

    fn thaw(&mut self, now: Time) {
        for core in &mut self.cores {
            core.shard.thaw(now);
            core.dirty = true;
        }
        self.fabric.thaw();
    }

    fn come_to_stand_still(&mut self, now: Time) {
        for round in 0.. {
            assert!(round < 100_000, "it does not stand still");
            for at in 0..self.cores.len() {
                let core = &mut self.cores[at];
                for from in 0..core.mail.len() {
                    while let Some(mail) = core.mail[from].pop_front() {
                        core.shard.deliver(mail);
                    }
                }
                self.turn_core(now, at);
                assert!(self.cores[at].shard.take_writer().is_none(), "nothing is sent");
            }
            for mail in &mut self.to_fabric {
                mail.drain(..).for_each(|mail| self.fabric.deliver(now, mail));
            }
            let is_quiet = |core: &crate::reflector::Core| {
                let has_mail = core.mail.iter().any(|queue| !queue.is_empty());
                !core.dirty && !has_mail && core.shard.stillness().is_still
            };
            if self.cores.iter().all(is_quiet) {
                return;
            }
        }
    }

    fn export(&mut self, now: Time, items: &mut Vec<Item>) {
        let mut export = Export::new(self.cores.len() as u16);
        while let Some(shard) = export.shard() {
            self.cores[shard.index()].shard.export(now, &mut export, items);
        }
    }

    /// In the order in which they are told.
    fn former_ids(&self, now: Time) -> Vec<PeerId> {
        let peers = self.cores.iter().flat_map(|core| core.shard.peers_piece(now, 0).peers);
        peers.map(|peer| peer.id).collect()
    }

    /// Takes all that another one had. Returns the ids that peers had and have.
    fn import(
        &mut self,
        now: Time,
        generation: u64,
        items: Vec<Item>,
        former: Vec<PeerId>,
        rng: &mut Rng,
    ) -> BTreeMap<PeerId, PeerId> {
        let shards = self.cores.len();
        for core in &mut self.cores {
            core.shard.begin_restoring(now, generation);
            core.dirty = true;
        }
        let mut import = Import::new(shards as u16);
        let (mut ids, mut former) = (BTreeMap::new(), former.into_iter());
        for item in items {
            let mut orders: Vec<(ShardId, Order)> = Vec::new();
            let shard = ShardId(rng.below(shards) as u16);
            import.take(item, || shard, &mut orders).expect("it makes sense");
            for (shard, order) in orders {
                let restored = self.cores[shard.index()].shard.restore(now, order);
                if let Some(id) = restored.expect("it makes sense") {
                    ids.insert(former.next().expect("one for each peer"), id);
                }
            }
        }
        self.fabric.inherit(now, import.take_fabric()).expect("it makes sense");
        self.come_to_stand_still(now);
        ids
    }
}
