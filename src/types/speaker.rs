//! Who is behind a source, and who hears: a connection by itself, or the host at an address.
//!
//! Owns ids that all shards agree on without asking each other. Must never say who is connected.

use std::fmt;
use std::net::IpAddr;

use ahash::RandomState;

use super::{PeerClass, PeerId, ShardId, SourceId};

/// Whoever hears nothing that it has said itself: a source, or a host that may have several at several reflectors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpeakerId(u64);

/// The bit of ids that are no connections of this node.
const FOREIGN: u64 = PeerId::GENERATIONS;

impl SpeakerId {
    /// A source that speaks for itself.
    pub fn of_source(source: SourceId) -> SpeakerId {
        SpeakerId(source.0.0)
    }

    /// The host at an address. Two of a million hosts share an id with a chance of 1 in 18 million; the seed, which is
    /// drawn anew at each start, keeps anybody from looking for such addresses.
    pub fn of_host(address: IpAddr, hasher: &RandomState) -> SpeakerId {
        SpeakerId(hasher.hash_one(address) | FOREIGN)
    }

    /// As a number, for another process with the same seed.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// What was a number in another process.
    pub(crate) fn of_bits(bits: u64) -> SpeakerId {
        SpeakerId(bits)
    }

    /// The source, if it speaks for itself.
    pub fn source(self) -> Option<SourceId> {
        (self.0 & FOREIGN == 0).then_some(SourceId(PeerId(self.0)))
    }
}

impl fmt::Debug for SpeakerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source() {
            Some(SourceId(id)) => id.fmt(f),
            None => write!(f, "host {:x}", self.0),
        }
    }
}

/// Whom a source speaks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Speaker {
    /// For itself. To other reflectors that is nobody whom they could know.
    #[default]
    Itself,
    /// For the host at this address.
    Host(IpAddr),
    /// For several hosts, or nobody knows for whom: what it announces is shown to everybody.
    Many,
}

/// The routes of another reflector, as they were read in one go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Remote {
    /// The reflector's number in this process, 0..=[`Remote::REFLECTOR_MAX`], or [`Remote::OWN_STALE`].
    pub reflector: u16,
    /// Counts how often all was read.
    pub generation: u64,
}

impl Remote {
    /// The highest number of a reflector.
    pub const REFLECTOR_MAX: u16 = (1 << 15) - 1;
    /// Not another reflector, but what this one announced before it was restarted: it counts as its own, until who
    /// announced it is back.
    pub const OWN_STALE: u16 = 1 << 15;

    /// The source that stands for the reflector's sources of a class.
    ///
    /// # Panics
    /// If a part is out of its range.
    pub fn source(self, class: PeerClass) -> SourceId {
        assert!(self.reflector <= Remote::OWN_STALE);
        let slot = u32::from(self.reflector) << 1 | u32::from(class == PeerClass::Server);
        SourceId(PeerId(PeerId::new(ShardId(0), slot, self.generation).0 | FOREIGN))
    }
}

impl SourceId {
    /// Which reading of which reflector it is; None for a source of this node.
    pub fn remote(self) -> Option<Remote> {
        let is_remote = self.0.0 & FOREIGN != 0;
        let reflector = (self.0.slot() >> 1) as u16;
        is_remote.then(|| Remote { reflector, generation: self.0.generation() })
    }

    /// Whether it announces at this node, or did before this node was restarted.
    pub fn is_local(self) -> bool {
        self.remote().is_none_or(|remote| remote.reflector == Remote::OWN_STALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_hosts_are_told_apart() {
        let source =
            SourceId(PeerId::new(ShardId::MAX, PeerId::SLOTS - 1, PeerId::GENERATIONS - 1));
        assert_eq!(SpeakerId::of_source(source).source(), Some(source));
        assert_eq!((source.remote(), source.is_local()), (None, true));
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        for last in 0..100 {
            let host = SpeakerId::of_host([10, 0, 0, last].into(), &hasher);
            assert_eq!(host.source(), None);
            assert_eq!(host, SpeakerId::of_host([10, 0, 0, last].into(), &hasher));
            assert_ne!(host, SpeakerId::of_host([10, 0, 1, last].into(), &hasher));
        }
    }

    #[test]
    fn remote_sources_come_apart_again() {
        for reflector in [0, 7, Remote::REFLECTOR_MAX, Remote::OWN_STALE] {
            let remote = Remote { reflector, generation: PeerId::GENERATIONS - 1 };
            let (client, server) =
                (remote.source(PeerClass::Client), remote.source(PeerClass::Server));
            assert_ne!(client, server);
            for source in [client, server] {
                assert_eq!(source.remote(), Some(remote));
                assert_eq!(source.is_local(), reflector == Remote::OWN_STALE);
            }
        }
    }
}
