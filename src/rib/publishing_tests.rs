//! Several reflectors as one: the tables of one home, against a plain set of who announces what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::tests::{GROUP, Sink, rib, route, source};
use super::*;
use crate::log::Reader;
use crate::types::{Action, Behind, Remote, SpeakerId};
use crate::wire::action_and_key;

const HOSTS: u8 = 3;
const ROUTES: u32 = 4;

fn host(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn behind(number: u8) -> Behind {
    match number {
        0 => Behind::Nobody,
        1..=HOSTS => Behind::One(host(number)),
        _ => Behind::Many,
    }
}

/// Who announces a route, and as what: of many hosts (None), or of one.
type Members = BTreeMap<SourceId, (PeerClass, Option<IpAddr>)>;

struct World {
    rib: Rib,
    sink: Sink,
    model: BTreeMap<u32, Members>,
    published: BTreeMap<u32, Announcers>,
    /// Of clients at each host and at none of them, and of a declared server.
    views: Vec<(GroupClass, Option<IpAddr>, BTreeSet<Vec<u8>>)>,
    generations: [u64; 2],
}

impl World {
    fn new() -> World {
        let (mut rib, mut sink) = (rib(0), Sink::default());
        rib.common.rules.publishes = true;
        let mut views = vec![(GroupClass::Server, None, BTreeSet::new())];
        views.extend(
            (0..=HOSTS).map(|at| (GroupClass::Client, (at > 0).then(|| host(at)), BTreeSet::new())),
        );
        for class in [GroupClass::Client, GroupClass::Server] {
            let join = Join { peer: source(99).0, epoch: 1 };
            rib.join(UpdateGroup::new(GROUP.vni, class), join, &mut sink, Time(0));
        }
        // Local sources: two of each host, and a server.
        for slot in 0..6 {
            let speaker = Speaker::Host(host(slot % HOSTS + 1));
            let introduction = Introduction { address: None, shard: ShardId(0), life: 0, speaker };
            rib.introduce(source(u32::from(slot)), introduction);
        }
        while rib.run_jobs(100, &mut sink, Time(0)) {}
        let (model, published) = (BTreeMap::new(), BTreeMap::new());
        World { rib, sink, model, published, views, generations: [1; 2] }
    }

    fn local(&mut self, slot: u8, number: u32, adds: bool) {
        let class = if slot == 5 { PeerClass::Server } else { PeerClass::Client };
        let (id, of) = (source(u32::from(slot)), host(slot % HOSTS + 1));
        let members = self.model.entry(number).or_default();
        match adds {
            true => {
                self.rib.add(id, class, GROUP.vni, &route(number), &mut self.sink);
                members.insert(id, (class, Some(of)));
                // Who has announced it before the restart is back.
                members.retain(|it, (_, speaker)| {
                    let stale = it.remote().is_some_and(|it| it.reflector == Remote::OWN_STALE);
                    !(stale && *speaker == Some(of))
                });
            }
            false => {
                self.rib.remove(id, GROUP.vni, &route(number), &mut self.sink);
                members.remove(&id);
            }
        }
    }

    /// A record, perhaps of a reading that has just begun: what it replaces may be of an earlier one.
    fn remote(&mut self, reflector: u16, number: u32, by: Announcers, is_read_anew: bool) {
        let generation = &mut self.generations[usize::from(reflector != 0)];
        *generation += u64::from(is_read_anew);
        let remote = Remote { reflector, generation: *generation };
        self.rib.announce_remote(remote, GROUP.vni, &route(number), by, &mut self.sink);
        let members = self.model.entry(number).or_default();
        members.retain(|it, _| it.remote().is_none_or(|it| it.reflector != reflector));
        for (class, of) in [(PeerClass::Client, by.clients), (PeerClass::Server, by.servers)] {
            let speaker = match of {
                Behind::Nobody => continue,
                Behind::One(address) => Some(address),
                Behind::Many => None,
            };
            members.insert(remote.source(class), (class, speaker));
        }
    }

    /// All is read anew; what was not, goes.
    fn read_anew(&mut self, reflector: u16, kept: u32) {
        let at = usize::from(reflector != 0);
        self.generations[at] += 1;
        let now = Remote { reflector, generation: self.generations[at] };
        for number in (0..ROUTES).filter(|number| kept & 1 << number != 0) {
            let members = self.model.entry(number).or_default();
            let mut by = Announcers::default();
            for class in [PeerClass::Client, PeerClass::Server] {
                let is_it = |id: &SourceId| {
                    id.remote()
                        .is_some_and(|it| it.reflector == reflector && it.source(class) == *id)
                };
                let Some(former) = members.keys().copied().find(is_it) else { continue };
                let Some((_, speaker)) = members.remove(&former) else { continue };
                members.insert(now.source(class), (class, speaker));
                let of = if class == PeerClass::Server { &mut by.servers } else { &mut by.clients };
                *of = speaker.map_or(Behind::Many, Behind::One);
            }
            self.rib.announce_remote(now, GROUP.vni, &route(number), by, &mut self.sink);
        }
        for generation in 0..now.generation {
            for class in [PeerClass::Client, PeerClass::Server] {
                let former = Remote { reflector, generation }.source(class);
                self.rib.lose(former);
                for members in self.model.values_mut() {
                    members.remove(&former);
                }
            }
        }
        while self.rib.run_jobs(1, &mut self.sink, Time(0)) {}
    }

    fn sees(members: &Members, class: GroupClass, at: Option<IpAddr>) -> bool {
        members.values().any(|(of, speaker)| match class {
            GroupClass::Server => *of != PeerClass::Server,
            _ => *of == PeerClass::Server || speaker.is_none() || *speaker != at,
        })
    }

    /// Each subscriber was told what it needs, once; and so were other reflectors.
    fn check(&mut self) -> Result<(), TestCaseError> {
        for (group, scope, frame) in self.sink.records.drain(..) {
            for (class, at, view) in &mut self.views {
                let speaker = match at {
                    Some(at) => SpeakerId::of_host(*at, &self.rib.common.rules.hasher),
                    None => SpeakerId::of_source(source(98)),
                };
                if group.class != *class || !scope.includes(Reader::new(speaker)) {
                    continue;
                }
                match action_and_key(&frame) {
                    (Action::Add, key) => prop_assert!(view.insert(key.to_vec()), "told twice"),
                    (Action::Remove, key) => prop_assert!(view.remove(key), "never told"),
                }
            }
        }
        for (class, at, view) in &self.views {
            let seen = self.model.iter().filter(|(_, of)| World::sees(of, *class, *at)).count();
            prop_assert_eq!(view.len(), seen, "{:?} {:?}", class, at);
        }
        for (number, by) in self.sink.published.drain(..) {
            self.published.insert(number, by);
        }
        for number in 0..ROUTES {
            let mut expected = Announcers::default();
            for (id, (class, speaker)) in self.model.get(&number).into_iter().flatten() {
                match class {
                    _ if !id.is_local() => {}
                    PeerClass::Server => expected.servers = Behind::Many,
                    _ => {
                        let one = speaker.map_or(Behind::Many, Behind::One);
                        expected.clients = expected.clients.and(one);
                    }
                }
            }
            let told = self.published.get(&number).copied().unwrap_or_default();
            prop_assert_eq!(told, expected, "of route {}", number);
        }
        Ok(())
    }
}

/// All may be read anew at any time, for routes that were refused as well: what is there stays.
#[test]
fn what_is_there_is_not_refused_when_all_is_read_anew() {
    for (pressure, routes_max) in [(Pressure::Routes, u64::MAX), (Pressure::None, 1)] {
        let mut world = World::new();
        let by = Announcers { clients: behind(1), servers: Behind::Nobody };
        world.remote(0, 0, by, false);
        world.check().unwrap();
        world.rib.common.rules.ledger.press(pressure);
        world.rib.common.rules.routes_max = routes_max;
        let remote = Remote { reflector: 0, generation: 2 };
        let told = world.rib.announce_remote(remote, GROUP.vni, &route(0), by, &mut world.sink);
        assert_eq!((told, world.sink.records.len()), (None, 0));
        let new = world.rib.announce_remote(remote, GROUP.vni, &route(1), by, &mut world.sink);
        assert!(new.is_some(), "there is no room for a new one");
    }
}

proptest! {
    /// Local announcements, records of another reflector and of a former life of this one, and readings anew.
    #[test]
    fn everybody_is_told_once_and_what_is_published_is_local(
        steps in prop::collection::vec((0u8..8, 0u8..6, 0..ROUTES, 0u8..5, any::<bool>()), 1..80),
    ) {
        let mut world = World::new();
        for (what, slot, number, of, other) in steps {
            match what {
                0..=2 => world.local(slot, number, true),
                3 => world.local(slot, number, false),
                4 | 5 => {
                    let servers = if other { Behind::Many } else { Behind::Nobody };
                    world.remote(0, number, Announcers { clients: behind(of), servers }, slot == 0);
                }
                6 => world.remote(Remote::OWN_STALE, number, Announcers { clients: behind(of), servers: Behind::Nobody }, slot == 0),
                _ => world.read_anew(if other { 0 } else { Remote::OWN_STALE }, u32::from(slot) << 1 | 1),
            }
            world.check()?;
        }
        for slot in 0..6 {
            world.rib.lose(source(slot));
        }
        for reflector in [0, Remote::OWN_STALE] {
            world.read_anew(reflector, 0);
        }
        world.model.clear();
        world.check()?;
        prop_assert_eq!((world.rib.routes(), world.rib.sources()), (0, 0), "nothing is left");
        prop_assert!(!world.rib.sources.have_stale());
    }
}
