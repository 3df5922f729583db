//! Whom sources speak for, in a few bits for each source of a route.
//!
//! Owns the hosts that are spoken for, and which addresses are shared by several hosts. Must never let two hosts be one:
//! when it runs out of numbers a source speaks for many, which hides nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ahash::RandomState;

use crate::types::{Behind, PeerClass, Slots, SourceId, Speaker, SpeakerId, SplitMap};

/// A speaker in the table of one home: 22 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SpeakerRef(u32);

impl SpeakerRef {
    /// Its source speaks for itself.
    pub(super) const ITSELF: SpeakerRef = SpeakerRef(0);
    /// It speaks for many.
    pub(super) const MANY: SpeakerRef = SpeakerRef(1);
    const HOSTS_FROM: u32 = 2;
}

/// As what a source announces a route: its class, its life, and whom it speaks for. Packed, for each source of each
/// route has one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Role(u32);

const CLASS_BITS: u32 = 2;
const LIFE_BITS: u32 = 8;
const SPEAKERS_MAX: u32 = 1 << (32 - CLASS_BITS - LIFE_BITS);

impl Role {
    /// Puts it together.
    pub(super) fn new(class: PeerClass, life: u8, speaker: SpeakerRef) -> Role {
        let class = match class {
            PeerClass::Client => 0,
            PeerClass::Server => 1,
            PeerClass::Own => 2,
        };
        Role((speaker.0 << LIFE_BITS | u32::from(life)) << CLASS_BITS | class)
    }

    /// What the source was when it announced the route.
    pub(super) fn class(self) -> PeerClass {
        match self.0 & ((1 << CLASS_BITS) - 1) {
            0 => PeerClass::Client,
            1 => PeerClass::Server,
            _ => PeerClass::Own,
        }
    }

    /// The life of the source in which it announced the route last.
    pub(super) fn life(self) -> u8 {
        (self.0 >> CLASS_BITS) as u8
    }

    /// Whom it spoke for.
    pub(super) fn speaker(self) -> SpeakerRef {
        SpeakerRef(self.0 >> (CLASS_BITS + LIFE_BITS))
    }

    /// The same in another life.
    pub(super) fn in_life(self, life: u8) -> Role {
        Role::new(self.class(), life, self.speaker())
    }

    /// The same, for another speaker.
    pub(super) fn speaking_for(self, speaker: SpeakerRef) -> Role {
        Role::new(self.class(), self.life(), speaker)
    }
}

impl std::fmt::Debug for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} in life {} for {:?}", self.class(), self.life(), self.speaker())
    }
}

/// A source of a route, as the visibility rule looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announcer {
    /// Who it is.
    pub source: SourceId,
    /// What it was when it announced the route.
    pub class: PeerClass,
    /// Whom it speaks for; None: for many.
    pub speaker: Option<SpeakerId>,
}

#[derive(Clone, Copy, Debug)]
struct Host {
    address: IpAddr,
    id: SpeakerId,
    /// Sources of routes that speak for it.
    uses: u32,
    is_shared: bool,
}

/// The hosts that sources of one home speak for.
#[derive(Debug, Default)]
pub struct Speakers {
    hosts: Slots<Host>,
    by_id: SplitMap<SpeakerId, u32>,
    /// Addresses of several hosts: what is announced here from there each connection speaks for itself.
    shared: BTreeSet<IpAddr>,
}

impl Speakers {
    /// One more source of a route speaks for this.
    pub(super) fn take(&mut self, speaker: Speaker, hasher: &RandomState) -> SpeakerRef {
        let address = match speaker {
            Speaker::Itself => return SpeakerRef::ITSELF,
            Speaker::Many => return SpeakerRef::MANY,
            Speaker::Host(address) => address,
        };
        let id = SpeakerId::of_host(address, hasher);
        let at = match self.by_id.find(id, hasher) {
            Some(&at) => at,
            None => {
                let is_shared = self.shared.contains(&address);
                let at = self.hosts.insert(Host { address, id, uses: 0, is_shared });
                if at + SpeakerRef::HOSTS_FROM >= SPEAKERS_MAX {
                    self.hosts.remove(at);
                    return SpeakerRef::MANY;
                }
                *self.by_id.find_or(id, hasher, || at)
            }
        };
        self.hosts[at].uses += 1;
        SpeakerRef(at + SpeakerRef::HOSTS_FROM)
    }

    /// One less.
    pub(super) fn give_back(&mut self, speaker: SpeakerRef, hasher: &RandomState) {
        let Some(at) = speaker.0.checked_sub(SpeakerRef::HOSTS_FROM) else { return };
        self.hosts[at].uses -= 1;
        if self.hosts[at].uses == 0 {
            let host = self.hosts.remove(at);
            self.by_id.remove(host.id, hasher);
        }
    }

    /// Whom it stands for.
    pub(super) fn speaker(&self, speaker: SpeakerRef) -> Speaker {
        match speaker {
            SpeakerRef::ITSELF => Speaker::Itself,
            SpeakerRef::MANY => Speaker::Many,
            SpeakerRef(at) => Speaker::Host(self.hosts[at - SpeakerRef::HOSTS_FROM].address),
        }
    }

    /// A source as the visibility rule looks at it.
    #[inline]
    pub(super) fn announcer(&self, source: SourceId, role: Role) -> Announcer {
        let speaker = match role.speaker() {
            SpeakerRef::ITSELF => Some(SpeakerId::of_source(source)),
            SpeakerRef::MANY => None,
            SpeakerRef(at) => {
                let host = &self.hosts[at - SpeakerRef::HOSTS_FROM];
                // What other reflectors heard from there is not told apart.
                let is_itself = host.is_shared && source.remote().is_none();
                Some(if is_itself { SpeakerId::of_source(source) } else { host.id })
            }
        };
        Announcer { source, class: role.class(), speaker }
    }

    /// What other reflectors are told of who is behind a source of a route.
    pub(super) fn behind(&self, role: Role) -> Behind {
        if role.class() == PeerClass::Server {
            // It hides nothing from clients, and is no client itself.
            return Behind::Many;
        }
        match role.speaker().0.checked_sub(SpeakerRef::HOSTS_FROM).map(|at| &self.hosts[at]) {
            Some(host) if !host.is_shared => Behind::One(host.address),
            _ => Behind::Many,
        }
    }

    /// The address belongs to several hosts. False if that was known.
    pub(super) fn share(&mut self, address: IpAddr, hasher: &RandomState) -> bool {
        if let Some(&at) = self.by_id.find(SpeakerId::of_host(address, hasher), hasher) {
            self.hosts[at].is_shared = true;
        }
        self.shared.insert(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PeerId, ShardId};

    fn source(slot: u32) -> SourceId {
        SourceId(PeerId::new(ShardId(0), slot, 0))
    }

    #[test]
    fn roles_come_apart_again() {
        for class in [PeerClass::Client, PeerClass::Server, PeerClass::Own] {
            for life in [0, 7, 255] {
                for speaker in [0, 1, 2, SPEAKERS_MAX - 1].map(SpeakerRef) {
                    let role = Role::new(class, life, speaker);
                    assert_eq!((role.class(), role.life(), role.speaker()), (class, life, speaker));
                    assert_eq!(role.in_life(9), Role::new(class, 9, speaker));
                    assert_eq!(
                        role.speaking_for(SpeakerRef(5)),
                        Role::new(class, life, SpeakerRef(5))
                    );
                }
            }
        }
    }

    #[test]
    fn hosts_are_forgotten_with_the_last_source_that_speaks_for_them() {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let [a, b] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut speakers = Speakers::default();
        let one = speakers.take(Speaker::Host(a), &hasher);
        assert_eq!(speakers.take(Speaker::Host(a), &hasher), one);
        let other = speakers.take(Speaker::Host(b), &hasher);
        assert_ne!(one, other);
        let role = |speaker| Role::new(PeerClass::Client, 0, speaker);
        assert_eq!(speakers.behind(role(one)), Behind::One(a));
        assert_eq!(
            speakers.announcer(source(3), role(one)).speaker,
            Some(SpeakerId::of_host(a, &hasher))
        );
        assert_eq!(
            speakers.announcer(source(3), role(SpeakerRef::ITSELF)).speaker,
            Some(SpeakerId::of_source(source(3)))
        );
        for speaker in [one, other, one] {
            speakers.give_back(speaker, &hasher);
        }
        assert_eq!((speakers.hosts.iter().count(), speakers.by_id.len()), (0, 0));
    }

    #[test]
    fn at_a_shared_address_each_connection_speaks_for_itself() {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let a = IpAddr::from([10, 0, 0, 1]);
        let mut speakers = Speakers::default();
        let before = speakers.take(Speaker::Host(a), &hasher);
        assert!(speakers.share(a, &hasher) && !speakers.share(a, &hasher));
        let after = speakers.take(Speaker::Host(a), &hasher);
        let remote = crate::types::Remote { reflector: 3, generation: 1 }.source(PeerClass::Client);
        for speaker in [before, after] {
            let role = Role::new(PeerClass::Client, 0, speaker);
            assert_eq!(
                speakers.announcer(source(3), role).speaker,
                Some(SpeakerId::of_source(source(3)))
            );
            assert_eq!(
                speakers.announcer(remote, role).speaker,
                Some(SpeakerId::of_host(a, &hasher))
            );
            assert_eq!(speakers.behind(role), Behind::Many);
        }
    }
}
