//! What a server tells its successor, when it hands its connections over.
//!
//! Owns the schema (`proto/handover.proto`) and its version. Must never know how a shard keeps what goes over, nor the
//! socket on which it does.
//!
//! Both are the same program in two versions: what the other one says is believed where it makes sense, and is an error
//! where it does not, never a panic.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use prost::Message as _;
use thiserror::Error;

#[allow(missing_docs, clippy::large_enum_variant)]
mod schema {
    include!(concat!(env!("OUT_DIR"), "/metalbond.handover.rs"));
}

pub use schema::*;

/// Another major version is refused: what this one does not know of it would be lost.
pub const VERSION_MAJOR: u32 = 1;
/// Counts what was added and may be left out.
pub const VERSION_MINOR: u32 = 0;

/// What makes no sense in what the other server says.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum HandoverError {
    /// It speaks another language.
    #[error(
        "it hands over by version {theirs} of the schema, this program by version {VERSION_MAJOR}: restart instead"
    )]
    Version {
        /// The major version of the other server.
        theirs: u32,
    },
    /// It counts otherwise.
    #[error("what the other server hands over makes no sense: {0}")]
    Nonsense(&'static str),
}

impl Version {
    /// That of this program.
    pub fn own(program: &str) -> Version {
        Version { major: VERSION_MAJOR, minor: VERSION_MINOR, program: program.to_owned() }
    }

    /// Whether this program can talk to one of that version.
    ///
    /// # Errors
    /// [`HandoverError::Version`], for the operator.
    pub fn judge(&self) -> Result<(), HandoverError> {
        match self.major {
            VERSION_MAJOR => Ok(()),
            theirs => Err(HandoverError::Version { theirs }),
        }
    }
}

impl Packet {
    /// With one thing to say.
    pub fn of(what: packet::What) -> Packet {
        Packet { what: Some(what) }
    }

    /// As it goes over the socket.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// From the socket.
    ///
    /// # Errors
    /// If it is no packet, or one that this program does not know.
    pub fn what_of(bytes: &[u8]) -> Result<packet::What, HandoverError> {
        let packet = Packet::decode(bytes).ok().and_then(|packet| packet.what);
        packet.ok_or(HandoverError::Nonsense("it is no packet"))
    }
}

impl Item {
    /// What it takes on the socket.
    pub fn bytes(&self) -> usize {
        self.encoded_len()
    }

    /// The peer that it is, for a descriptor goes with it.
    pub fn peer(&self) -> Option<&Peer> {
        match &self.what {
            Some(item::What::Peer(peer)) => Some(peer),
            _ => None,
        }
    }
}

/// An address as 4 or 16 bytes.
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An address of 4 or 16 bytes.
///
/// # Errors
/// If it has another length.
pub fn address_of(bytes: &[u8]) -> Result<IpAddr, HandoverError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(octets.into());
    }
    let octets = <[u8; 16]>::try_from(bytes);
    octets.map(IpAddr::from).map_err(|_| HandoverError::Nonsense("an address is 4 or 16 bytes"))
}

impl From<item::What> for Item {
    fn from(what: item::What) -> Item {
        Item { what: Some(what) }
    }
}

impl Peer {
    /// The peer's address.
    ///
    /// # Errors
    /// If it is none.
    pub fn remote(&self) -> Result<SocketAddr, HandoverError> {
        let port = u16::try_from(self.port)
            .map_err(|_| HandoverError::Nonsense("a port is below 65,536"))?;
        Ok(match address_of(&self.address)? {
            IpAddr::V4(address) => (address, port).into(),
            IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, self.scope_id).into(),
        })
    }

    /// Notes the peer's address.
    pub fn set_remote(&mut self, remote: SocketAddr) {
        self.address = address_bytes(remote.ip());
        self.port = remote.port().into();
        self.scope_id = match remote {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(remote) => remote.scope_id(),
        };
    }
}
