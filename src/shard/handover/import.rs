//! From what another process tells to orders for the shards of this one.
//!
//! Owns what several orders refer to, and which shard gets what. Must never believe that what it is told makes sense.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::groups::{ToldLag, ToldRoute, ToldSubscription};
use crate::handover::item::What;
use crate::handover::{self, HandoverError, Item, address_of, speaker};
use crate::log::{Frames, Scope};
use crate::rib::{AnnouncedPart, Introduction, UpdateGroup};
use crate::shard::absent::life_of;
use crate::shard::groups::Again;
use crate::shard::sources::keeper_of;
use crate::types::{GroupClass, PeerClass, PeerId, Remote, ShardId, SourceId, Speaker, Vni};
use crate::wire::are_frames;

/// What a shard is to take. To be carried out in the order in which it was made, by [`Shard::restore`](super::Shard::restore).
pub struct Order(pub(super) Do);

pub(super) enum Do {
    Peer(Box<handover::Peer>),
    /// A session stands at this address, which falls to the shard.
    Stands(IpAddr),
    Absent(IpAddr, Box<handover::Absent>),
    Shared(IpAddr),
    Source(SourceId, Introduction),
    Routes(AnnouncedPart, Vec<u8>),
    Subscription(Box<ToldSubscription>),
}

impl Order {
    /// Whether it brings a connection.
    pub fn is_peer(&self) -> bool {
        matches!(self.0, Do::Peer(_))
    }
}

/// What was told so far.
pub struct Import {
    shards: u16,
    /// Where the connections of sources are, or, if they have none, what is known of their addresses; and peers.
    sources: BTreeMap<u64, ShardId>,
    peers: BTreeMap<u64, ShardId>,
    /// Those that shards know, and those that stand for other reflectors.
    introduced: BTreeSet<u64>,
    /// How the fabric stands.
    fabric: Vec<Item>,
    blocks: BTreeMap<u64, Growing<Frames>>,
    changed: BTreeMap<u64, Growing<Vec<ToldRoute>>>,
    numbers: BTreeMap<u64, Growing<Vec<u32>>>,
    items: u64,
}

/// What is told in parts, until somebody refers to it.
enum Growing<T> {
    Open(T),
    Whole(Arc<T>),
}

impl Import {
    /// Nothing was told yet, to a process with so many shards.
    pub fn new(shards: u16) -> Import {
        Import {
            shards,
            sources: BTreeMap::new(),
            peers: BTreeMap::new(),
            introduced: BTreeSet::new(),
            fabric: Vec::new(),
            blocks: BTreeMap::new(),
            changed: BTreeMap::new(),
            numbers: BTreeMap::new(),
            items: 0,
        }
    }

    /// Takes the next item, and appends what is to be done for it. `shard_of_peer` says where a connection is to live.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn take(
        &mut self,
        item: Item,
        shard_of_peer: impl FnOnce() -> ShardId,
        orders: &mut Vec<(ShardId, Order)>,
    ) -> Result<(), HandoverError> {
        self.items += 1;
        // What a newer program adds in this version may be left out.
        let Some(what) = item.what else { return Ok(()) };
        match what {
            What::Peer(peer) => self.take_peer(peer, shard_of_peer(), orders)?,
            What::Source(source) => self.take_source(&source, orders)?,
            What::Routes(routes) => orders.push(self.take_routes(routes)?),
            What::Absent(absent) => {
                let address = address_of(&absent.address)?;
                let keeper = keeper_of(address, self.shards);
                self.sources.insert(absent.source, keeper);
                orders.push((keeper, Order(Do::Absent(address, Box::new(absent)))));
            }
            What::SharedAddress(shared) => {
                let address = address_of(&shared.address)?;
                orders.extend(self.all_shards().map(|shard| (shard, Order(Do::Shared(address)))));
            }
            What::Frames(frames) => self.take_frames(&frames)?,
            What::Changed(changed) => {
                let routes = open(&mut self.changed, changed.id)?;
                for route in changed.routes {
                    if routes.last().is_some_and(|(last, ..)| *last >= route.number) {
                        return Err(HandoverError::Nonsense("changed routes are in order"));
                    }
                    let seen_by = route.seen_by.as_ref().map(Scope::from);
                    routes.push((route.number, route.key.into_boxed_slice(), seen_by));
                }
            }
            What::Numbers(numbers) => {
                open(&mut self.numbers, numbers.id)?.extend(numbers.numbers);
            }
            What::Subscription(told) => orders.push(self.take_subscription(&told)?),
            What::Fabric(_) | What::Reflector(_) => {
                for remote in remotes_of(&what)? {
                    let classes = [PeerClass::Client, PeerClass::Server];
                    self.introduced.extend(classes.map(|class| remote.source(class).0.bits()));
                }
                self.fabric.push(what.into());
            }
        }
        Ok(())
    }

    /// How the fabric stands: its items, in their order. They are no shard's.
    pub fn take_fabric(&mut self) -> Vec<Item> {
        std::mem::take(&mut self.fabric)
    }

    /// Items taken so far.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Whether all was told: so many items.
    ///
    /// # Errors
    /// If there were less, or more.
    pub fn end(&self, items: u64) -> Result<(), HandoverError> {
        if items == self.items {
            return Ok(());
        }
        Err(HandoverError::Nonsense("there are not as many items as there should be"))
    }

    fn all_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(ShardId)
    }

    fn take_peer(
        &mut self,
        peer: handover::Peer,
        shard: ShardId,
        orders: &mut Vec<(ShardId, Order)>,
    ) -> Result<(), HandoverError> {
        if shard.0 >= self.shards || self.peers.insert(peer.id, shard).is_some() {
            return Err(HandoverError::Nonsense("a peer is told of once"));
        }
        self.sources.insert(peer.source, shard);
        let address = address_of(&peer.address)?;
        if peer.established_for_ms.is_some() {
            orders.push((keeper_of(address, self.shards), Order(Do::Stands(address))));
        }
        orders.push((shard, Order(Do::Peer(Box::new(peer)))));
        Ok(())
    }

    fn take_source(
        &mut self,
        source: &handover::Source,
        orders: &mut Vec<(ShardId, Order)>,
    ) -> Result<(), HandoverError> {
        let shard = self.sources.get(&source.id).copied();
        let shard = shard.ok_or(HandoverError::Nonsense("a source is nobody's"))?;
        if !self.introduced.insert(source.id) {
            // Several homes knew it.
            return Ok(());
        }
        let address =
            if source.address.is_empty() { None } else { Some(address_of(&source.address)?) };
        let introduction = Introduction {
            address,
            shard,
            life: life_of(source.life)?,
            speaker: speaker_of(source.speaker.as_ref())?,
        };
        let id = SourceId(PeerId::of_bits(source.id));
        let all = self.all_shards();
        orders.extend(all.map(|shard| (shard, Order(Do::Source(id, introduction)))));
        Ok(())
    }

    fn take_routes(&self, routes: handover::Routes) -> Result<(ShardId, Order), HandoverError> {
        if !self.introduced.contains(&routes.source) {
            return Err(HandoverError::Nonsense("routes are nobody's"));
        }
        let part = AnnouncedPart {
            source: SourceId(PeerId::of_bits(routes.source)),
            class: PeerClass::from(routes.class()),
            life: life_of(routes.life)?,
            speaker: speaker_of(routes.speaker.as_ref())?,
            vni: Vni(routes.vni),
            is_withheld: routes.is_withheld,
        };
        // Withheld ones lie with their source, each at the home of its VNI.
        let home = ShardId::home_of(part.vni, self.shards);
        Ok((home, Order(Do::Routes(part, routes.frames))))
    }

    fn take_frames(&mut self, told: &handover::Frames) -> Result<(), HandoverError> {
        if !are_frames(&told.frames) {
            return Err(HandoverError::Nonsense("what should be frames are none"));
        }
        let scope = told.scope.as_ref().map_or(Scope::All, Scope::from);
        let frames = open(&mut self.blocks, told.block)?;
        frames.push(&told.frames, scope);
        frames.set_head(usize::try_from(told.head_bytes).unwrap_or(usize::MAX));
        Ok(())
    }

    fn take_subscription(
        &mut self,
        told: &handover::Subscription,
    ) -> Result<(ShardId, Order), HandoverError> {
        let again = match told.again() {
            handover::subscription::Again::No => Again::No,
            handover::subscription::Again::Wanted => Again::Wanted,
            handover::subscription::Again::Reading => Again::Reading,
        };
        let class = if told.is_server_group { GroupClass::Server } else { GroupClass::Client };
        let reader =
            told.reader.ok_or(HandoverError::Nonsense("a subscriber hears as somebody"))?;
        let shard = self.peers.get(&told.peer).copied();
        let shard = shard.ok_or(HandoverError::Nonsense("a subscription is nobody's"))?;
        let mut blocks = Vec::new();
        for place in &told.blocks {
            let frames = whole(&mut self.blocks, place.block);
            let offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
            if !frames.begins_one_at(offset) {
                return Err(HandoverError::Nonsense("somebody reads on amid a frame"));
            }
            blocks.push((frames, offset));
        }
        let lag = told.lag.as_ref().map(|lag| ToldLag {
            changed: whole(&mut self.changed, lag.changed),
            untold: whole(&mut self.numbers, lag.untold),
            passed_over: whole(&mut self.numbers, lag.passed_over),
        });
        let subscription = ToldSubscription {
            peer: PeerId::of_bits(told.peer),
            group: UpdateGroup::new(Vni(told.vni), class),
            reader: reader.into(),
            again,
            blocks,
            lag,
        };
        Ok((shard, Order(Do::Subscription(Box::new(subscription)))))
    }
}

/// What is being told, to be added to.
fn open<T: Default>(of: &mut BTreeMap<u64, Growing<T>>, id: u64) -> Result<&mut T, HandoverError> {
    match of.entry(id).or_insert_with(|| Growing::Open(T::default())) {
        Growing::Open(open) => Ok(open),
        Growing::Whole(_) => Err(HandoverError::Nonsense("what is in use is not added to")),
    }
}

/// What was told: nothing, if nobody told anything.
fn whole<T: Default>(of: &mut BTreeMap<u64, Growing<T>>, id: u64) -> Arc<T> {
    let growing = of.entry(id).or_insert_with(|| Growing::Open(T::default()));
    let whole = match growing {
        Growing::Open(open) => Arc::new(std::mem::take(open)),
        Growing::Whole(whole) => return whole.clone(),
    };
    *growing = Growing::Whole(whole.clone());
    whole
}

/// What was read of other reflectors, or of what this one was, and is in tables.
fn remotes_of(what: &What) -> Result<Vec<Remote>, HandoverError> {
    let (reflector, generations): (u32, Vec<u64>) = match what {
        What::Fabric(fabric) => (Remote::OWN_STALE.into(), fabric.own_stale.clone()),
        What::Reflector(told) if told.number <= Remote::REFLECTOR_MAX.into() => {
            (told.number, told.generations.iter().map(|it| it.number).collect())
        }
        _ => return Err(HandoverError::Nonsense("there are not so many reflectors")),
    };
    if generations.iter().any(|generation| *generation >= PeerId::GENERATIONS) {
        return Err(HandoverError::Nonsense("nobody reads so often"));
    }
    let reflector = reflector as u16;
    Ok(generations.into_iter().map(|generation| Remote { reflector, generation }).collect())
}

fn speaker_of(told: Option<&handover::Speaker>) -> Result<Speaker, HandoverError> {
    Ok(match told.and_then(|told| told.whom.as_ref()) {
        None | Some(speaker::Whom::Many(false)) => Speaker::Itself,
        Some(speaker::Whom::Host(address)) => Speaker::Host(address_of(address)?),
        Some(speaker::Whom::Many(true)) => Speaker::Many,
    })
}
