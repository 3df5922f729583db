//! The vocabulary of the field: VNIs, destinations, next hops, routes, and the ids of peers.
//!
//! Owns plain values and their text forms. Must never depend on another module of this crate, read
//! a clock or draw a random number.

mod announcers;
mod digest;
mod growing;
mod host_port;
mod nearest;
mod slots;
mod speaker;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

pub use announcers::{Announcers, Behind};
pub use digest::Digest;
pub(crate) use growing::{Pages, Place, SplitMap, SplitTable, wide};
pub use host_port::{HostPort, HostPortError};
pub(crate) use nearest::nearest;
pub(crate) use slots::Slots;
pub use speaker::{Remote, Speaker, SpeakerId};

/// A hash map whose seed its owner passes in (random in `io`, the run's seed in the simulator).
pub type SeededMap<K, V> = hashbrown::HashMap<K, V, ahash::RandomState>;

/// A point in time: microseconds since an arbitrary start. The core is given it, and never asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The latest point in time: a deadline that never comes.
    pub const NEVER: Time = Time(u64::MAX);

    /// `self + duration`, saturating (a peer may ask for any interval).
    #[must_use]
    pub fn after(self, duration: Duration) -> Time {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(micros))
    }

    /// `self - duration`, not before the start.
    #[must_use]
    pub(crate) fn before(self, duration: Duration) -> Time {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Time(self.0.saturating_sub(micros))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A point in time, kept small: it is known for half an hour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShortTime(NonZeroU32);

impl ShortTime {
    /// How long that is ago; none if that is more than half an hour, and once in a while something wrong if it is
    /// more than an hour: nobody is to keep one for so long.
    pub fn age(self, now: Time) -> Option<Duration> {
        let us = (now.0 as u32).wrapping_sub(self.0.get());
        (us < 1 << 31).then(|| Duration::from_micros(us.into()))
    }
}

impl From<Time> for ShortTime {
    fn from(time: Time) -> ShortTime {
        // 0 is for none: a microsecond earlier does no harm.
        ShortTime(NonZeroU32::new(time.0 as u32).unwrap_or(NonZeroU32::MAX))
    }
}

/// A virtual network identifier. The wire carries all 32 bits, and 0 is a valid one
/// (protocol section 2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Vni(pub u32);

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An overlay prefix. The address is kept verbatim: `10.0.23.7/24` and `10.0.23.0/24` are two
/// destinations (protocol section 2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Destination {
    /// The prefix; host bits are kept.
    pub prefix: IpAddr,
    /// The prefix length in bits: 0..=32 or 0..=128.
    pub length: u8,
}

impl Destination {
    /// Whether this is a default route (length 0).
    pub fn is_default(&self) -> bool {
        self.length == 0
    }

    /// The destination without its host bits; none if its length does not fit its address. Destinations
    /// that differ in host bits only are two on the wire, and one in the kernel.
    pub(crate) fn masked(&self) -> Option<Destination> {
        let net = IpNet::new(self.prefix, self.length).ok()?.trunc();
        Some(Destination { prefix: net.addr(), length: net.prefix_len() })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.prefix, self.length)
    }
}

/// The type of a next hop. An open set: undefined values are passed on unchanged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NextHopType(pub i32);

impl NextHopType {
    /// An ordinary route.
    pub const STANDARD: NextHopType = NextHopType(0);
    /// A NAT gateway that owns a range of ports.
    pub const NAT: NextHopType = NextHopType(1);
    /// A target behind a load balancer.
    pub const LOAD_BALANCER_TARGET: NextHopType = NextHopType(2);
}

impl fmt::Display for NextHopType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            NextHopType::STANDARD => f.write_str("STANDARD"),
            NextHopType::NAT => f.write_str("NAT"),
            NextHopType::LOAD_BALANCER_TARGET => f.write_str("LOADBALANCER_TARGET"),
            NextHopType(other) => write!(f, "{other}"),
        }
    }
}

/// Where packets for a destination go: the hypervisor's underlay address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NextHop {
    /// The underlay address. A v4-mapped IPv6 address is not the IPv4 address that it maps.
    pub address: IpAddr,
    /// The VNI at the target; 0 where it is the route's own.
    pub vni: Vni,
    /// What kind of hop it is.
    pub kind: NextHopType,
    /// First port of a NAT range; 0 for every other type.
    pub nat_port_from: u16,
    /// Last port of a NAT range; 0 for every other type.
    pub nat_port_to: u16,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        if self.vni != Vni(0) {
            write!(f, " (VNI: {})", self.vni)?;
        }
        Ok(())
    }
}

/// What identifies a route within its VNI: destination and next hop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// The overlay prefix.
    pub destination: Destination,
    /// Where to send packets for it.
    pub next_hop: NextHop,
}

/// As few words as the fields fit in: the derived one hashes 13, and every update needs it.
impl Hash for Route {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Route { destination, next_hop } = self;
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 4),
            IpAddr::V6(address) => (address.to_bits(), 6),
        };
        let (prefix, prefix_family) = bits(destination.prefix);
        let (hop, hop_family) = bits(next_hop.address);
        let lengths = u32::from_be_bytes([destination.length, prefix_family, hop_family, 0]);
        let ports = u32::from(next_hop.nat_port_from) << 16 | u32::from(next_hop.nat_port_to);
        state.write_u128(prefix);
        state.write_u128(hop);
        state.write_u64(u64::from(lengths) << 32 | u64::from(ports));
        state.write_u64(
            u64::from(next_hop.vni.0) << 32 | u64::from(next_hop.kind.0.cast_unsigned()),
        );
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} via {}", self.destination, self.next_hop)
    }
}

/// What an UPDATE does with its route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// The sender announces the route.
    Add,
    /// The sender withdraws the route.
    Remove,
}

/// What a peer is as a source of routes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerClass {
    /// A hypervisor, or whoever did not say that it is a server.
    Client,
    /// A peer that set `isServer` in its HELLO. Routes are not passed between declared servers
    /// (protocol section 6.3).
    Server,
    /// This very node, when it is used as a library.
    Own,
}

/// The subscribers of a VNI that see the same, but for their own routes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GroupClass {
    /// Clients, and this node's own route client.
    Client,
    /// Declared servers: they see nothing that comes from a server.
    Server,
    /// Servers that this node dialled: they are told its own announcements.
    Uplink,
}

impl GroupClass {
    /// All of them, in index order.
    pub const ALL: [GroupClass; 3] = [GroupClass::Client, GroupClass::Server, GroupClass::Uplink];

    /// Position in tables of one entry a class.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Whether a source of this class is told to these subscribers at all.
    pub fn admits(self, source: PeerClass) -> bool {
        match self {
            GroupClass::Client => true,
            GroupClass::Server => source != PeerClass::Server,
            GroupClass::Uplink => source == PeerClass::Own,
        }
    }

    /// Whether a source of this class may itself be one of these subscribers.
    pub fn contains(self, source: PeerClass) -> bool {
        match self {
            GroupClass::Client => source != PeerClass::Server,
            GroupClass::Server => source == PeerClass::Server,
            GroupClass::Uplink => false,
        }
    }
}

/// The index of a shard, 0..=[`ShardId::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The highest index (10 bits of a [`PeerId`]).
    pub const MAX: ShardId = ShardId(1023);

    /// The shard that owns the route table of `vni`, among `shards` of them.
    pub fn home_of(vni: Vni, shards: u16) -> ShardId {
        // Fibonacci hashing: neighbouring VNIs spread evenly, and every shard agrees.
        let mixed = (u64::from(vni.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 32;
        ShardId(((mixed * u64::from(shards)) >> 32) as u16)
    }

    /// Position in tables of one entry a shard.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One connection, never used again: shard (10 bits), slot (20 bits), generation (33 bits). One bit more is for what is
/// no connection of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u64);

impl PeerId {
    /// Peers that one shard can hold at a time.
    pub const SLOTS: u32 = 1 << 20;

    /// How often a slot can be used.
    pub const GENERATIONS: u64 = 1 << 33;

    /// Puts an id together.
    ///
    /// # Panics
    /// If a part does not fit: ids would repeat, and routes would be withdrawn from the wrong peer.
    pub fn new(shard: ShardId, slot: u32, generation: u64) -> PeerId {
        assert!(shard <= ShardId::MAX && slot < Self::SLOTS && generation < Self::GENERATIONS);
        PeerId(u64::from(shard.0) << 54 | u64::from(slot) << 34 | generation)
    }

    /// As a number, for another process.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// What was a number in another process.
    pub(crate) fn of_bits(bits: u64) -> PeerId {
        PeerId(bits)
    }

    /// The shard that owns the connection.
    pub fn shard(self) -> ShardId {
        ShardId((self.0 >> 54) as u16)
    }

    /// The peer's slot in its shard.
    pub fn slot(self) -> u32 {
        (self.0 >> 34) as u32 & (Self::SLOTS - 1)
    }

    /// How often the slot had been used before.
    pub fn generation(self) -> u64 {
        self.0 & (Self::GENERATIONS - 1)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}.{}.{}", self.shard().0, self.slot(), self.generation())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Who announced a route. Not a connection by itself: the table knows sources only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId(pub PeerId);

/// How fast routes are sent to peers that do not reassemble frames (`--pace`). Those that do are
/// never paced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Pace {
    /// As fast as the peer reads, told from its TCP acknowledgements.
    #[default]
    Auto,
    /// As fast as the network takes them: for fleets known to reassemble.
    Off,
    /// At most this many routes a second to each peer; at least 1.
    RoutesPerS(u32),
}

/// Which of its own routes a peer gets back (`--reflect-own`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ReflectOwn {
    /// None: what the Go server does since v0.4.0.
    #[default]
    None,
    /// Load balancer targets only: what v0.3.0 and v0.3.1 do.
    LoadBalancer,
    /// Everything but NAT: what v0.3.2 to v0.3.6 do.
    AllButNat,
}

impl ReflectOwn {
    /// Whether a route of this type goes back to a peer that announced it.
    pub fn permits(self, kind: NextHopType) -> bool {
        match self {
            ReflectOwn::None => false,
            ReflectOwn::LoadBalancer => kind == NextHopType::LOAD_BALANCER_TARGET,
            ReflectOwn::AllButNat => kind != NextHopType::NAT,
        }
    }
}

/// What is wrong with the text of a destination or next hop.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not `address/length`.
    #[error("{0:?} is not a prefix: it takes ADDRESS/LENGTH, like 10.0.1.0/24 or 2001:db8::/64")]
    Destination(String),
    /// Not 16 hexadecimal digits.
    #[error("{0:?} is not a digest: it takes 16 hexadecimal digits")]
    Digest(String),
    /// Not an IP address.
    #[error("{0:?} is not an IP address, like 2001:db8::1")]
    NextHop(String),
}

impl std::str::FromStr for Destination {
    type Err = ParseError;

    /// `ADDRESS/LENGTH`; host bits are allowed, and kept.
    fn from_str(text: &str) -> Result<Destination, ParseError> {
        // Not by the grammar of `IpNet`, which takes 010.0.0.1 for 10.0.0.1.
        let net = text.split_once('/').and_then(|(prefix, length)| {
            IpNet::new(prefix.parse().ok()?, length.parse().ok()?).ok()
        });
        let net = net.ok_or_else(|| ParseError::Destination(text.to_owned()))?;
        Ok(Destination { prefix: net.addr(), length: net.prefix_len() })
    }
}

impl std::str::FromStr for NextHop {
    type Err = ParseError;

    /// An IP address: a standard next hop. A zone (`%eth0`) is dropped: the wire has no room for it.
    fn from_str(text: &str) -> Result<NextHop, ParseError> {
        let bare = text.split_once('%').map_or(text, |(address, _)| address);
        let address = bare.parse().map_err(|_| ParseError::NextHop(text.to_owned()))?;
        Ok(NextHop {
            address,
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let mut route = Route {
            destination: Destination { prefix: "10.0.23.7".parse().unwrap(), length: 24 },
            next_hop: NextHop {
                address: "2001:db8::1".parse().unwrap(),
                vni: Vni(0),
                kind: NextHopType::STANDARD,
                nat_port_from: 0,
                nat_port_to: 0,
            },
        };
        assert_eq!(route.to_string(), "10.0.23.7/24 via 2001:db8::1");
        route.next_hop.vni = Vni(7);
        assert_eq!(route.next_hop.to_string(), "2001:db8::1 (VNI: 7)");
        assert_eq!(NextHopType(9).to_string(), "9");
    }

    #[test]
    fn destinations_keep_their_host_bits_and_have_one_reading() {
        for text in
            ["10.0.23.7/24", "0.0.0.0/0", "10.0.0.1/32", "2001:db8::7/64", "::/0", "::1/128"]
        {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        for text in ["", "/", "10.0.0.0", "10.0.0.0/", "/8", "10.0.0.0/33", "::/129", "10.0.0.0/-1"]
        {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
        for text in
            ["010.0.0.1/8", "10.0.0/8", "10.0.0.0/8 ", "10.0.0.0/255.0.0.0", "fe80::1%lo/64"]
        {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    #[test]
    fn host_bits_are_masked() {
        for (address, length, expected) in [
            ("10.0.23.7", 24, Some("10.0.23.0")),
            ("10.0.23.7", 32, Some("10.0.23.7")),
            ("10.0.23.7", 0, Some("0.0.0.0")),
            ("10.0.23.7", 33, None),
            ("2001:db8::7", 64, Some("2001:db8::")),
            ("2001:db8::7", 128, Some("2001:db8::7")),
            ("2001:db8::7", 0, Some("::")),
            ("2001:db8::7", 129, None),
            ("::ffff:10.0.23.7", 120, Some("::ffff:10.0.23.0")),
        ] {
            let found = Destination { prefix: address.parse().unwrap(), length }.masked();
            let prefix = expected.map(|text| text.parse().unwrap());
            assert_eq!(found, prefix.map(|prefix| Destination { prefix, length }), "{address}");
        }
    }

    #[test]
    fn peer_ids_come_apart_again() {
        let id = PeerId::new(ShardId(1023), PeerId::SLOTS - 1, PeerId::GENERATIONS - 1);
        assert_eq!((id.shard(), id.slot()), (ShardId(1023), PeerId::SLOTS - 1));
        assert_eq!(id.generation(), PeerId::GENERATIONS - 1);
    }

    #[test]
    fn homes_are_spread() {
        let mut count = [0u32; 8];
        for vni in 0..8000 {
            count[ShardId::home_of(Vni(vni), 8).index()] += 1;
        }
        assert!(count.iter().all(|&n| (800..1200).contains(&n)), "{count:?}");
        assert_eq!(ShardId::home_of(Vni(u32::MAX), 1), ShardId(0));
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Time(5).after(Duration::MAX), Time::NEVER);
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
    }
}
