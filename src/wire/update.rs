//! UPDATE, read and written without allocation: nearly all traffic is made of it.
//!
//! Owns its bytes and its rules of validity. Must never differ from the generated code in what it
//! accepts and writes: the tests compare the two.

use std::net::IpAddr;

use super::frame::{HEADER_BYTES, MessageType, PAYLOAD_BYTES_MAX, VERSION};
use super::message::{DecodeError, InvalidUpdate, Update};
use super::protobuf::{BYTES, Broken, Reader, VARINT, Writer, key};
use crate::types::{Action, Destination, NextHop, NextHopType, Route, Vni};

/// The numbers of the protocol, as keys of the protobuf encoding.
mod keys {
    use super::{BYTES, VARINT, key};

    pub(super) const ACTION: u32 = key(1, VARINT);
    pub(super) const VNI: u32 = key(2, VARINT);
    pub(super) const DESTINATION: u32 = key(3, BYTES);
    pub(super) const NEXT_HOP: u32 = key(4, BYTES);
    pub(super) const UPDATE_FIELD_MAX: u32 = 4;

    pub(super) const IP_VERSION: u32 = key(1, VARINT);
    pub(super) const PREFIX: u32 = key(2, BYTES);
    pub(super) const PREFIX_LENGTH: u32 = key(3, VARINT);
    pub(super) const DESTINATION_FIELD_MAX: u32 = 3;

    pub(super) const ADDRESS: u32 = key(1, BYTES);
    pub(super) const TARGET_VNI: u32 = key(2, VARINT);
    pub(super) const KIND: u32 = key(3, VARINT);
    pub(super) const NAT_FROM: u32 = key(4, VARINT);
    pub(super) const NAT_TO: u32 = key(5, VARINT);
    pub(super) const NEXT_HOP_FIELD_MAX: u32 = 5;
}

const ADD: i32 = 0;
const REMOVE: i32 = 1;
const IPV4: i32 = 0;
const IPV6: i32 = 1;

/// How the payload of a REMOVE starts, and no canonical ADD does.
const REMOVE_BYTES: [u8; 2] = [keys::ACTION as u8, REMOVE as u8];

/// Length of the longest destination that we write: version, address, prefix length.
const DESTINATION_BYTES_MAX: usize = 2 + 18 + 3;
/// Length of the longest next hop that we write: address, VNI, negative type, two ports.
const NEXT_HOP_BYTES_MAX: usize = 18 + 6 + 11 + 4 + 4;
/// Length of the longest UPDATE frame that we write.
const UPDATE_FRAME_BYTES_MAX: usize =
    HEADER_BYTES + 2 + 6 + (2 + DESTINATION_BYTES_MAX) + (2 + NEXT_HOP_BYTES_MAX);
// Each length fits into the single byte that is left for it.
const _: () = assert!(UPDATE_FRAME_BYTES_MAX < 0x80 && UPDATE_FRAME_BYTES_MAX < PAYLOAD_BYTES_MAX);

/// Where a header has the low byte of the payload length. The high byte stays 0.
const LENGTH_LOW_AT: usize = 2;

/// A frame in the making.
type Frame = Writer<UPDATE_FRAME_BYTES_MAX>;

/// Appends the canonical UPDATE frame of a route: fields in ascending order, defaults left out,
/// both submessages always present, ports for NAT only (protocol section 2).
pub fn encode_update(out: &mut Vec<u8>, action: Action, vni: Vni, route: &Route) {
    let mut frame = Frame::new();
    frame.slice(&[VERSION, 0, 0, MessageType::Update as u8]);
    if action == Action::Remove {
        frame.slice(&REMOVE_BYTES);
    }
    frame.varint_field(keys::VNI, u64::from(vni.0));
    write_destination(&mut frame, &route.destination);
    write_next_hop(&mut frame, &route.next_hop);
    frame.fill_length(LENGTH_LOW_AT, HEADER_BYTES);
    out.extend_from_slice(frame.written());
}

/// Reads the payload of an UPDATE.
///
/// # Errors
/// [`DecodeError::Malformed`] if it is no protobuf, even where it is invalid besides;
/// [`DecodeError::InvalidUpdate`] if it names no route.
pub fn decode_update(payload: &[u8]) -> Result<Update, DecodeError> {
    let fields = Fields::read(payload).map_err(|reason| DecodeError::Malformed {
        message_type: MessageType::Update,
        reason,
    })?;
    Ok(fields.validate()?)
}

/// What a canonical UPDATE frame (of our own making) does, and the rest of its payload: two frames
/// with the same rest are about the same route of the same VNI.
///
/// # Panics
/// If `frame` is not an UPDATE.
pub fn action_and_key(frame: &[u8]) -> (Action, &[u8]) {
    assert!(
        frame.len() > HEADER_BYTES && frame[3] == MessageType::Update as u8,
        "not an UPDATE"
    );
    let payload = &frame[HEADER_BYTES..];
    match payload.strip_prefix(&REMOVE_BYTES) {
        Some(key) => (Action::Remove, key),
        None => (Action::Add, payload),
    }
}

fn write_destination(frame: &mut Frame, destination: &Destination) {
    frame.byte(keys::DESTINATION as u8);
    let start = frame.begin();
    if destination.prefix.is_ipv6() {
        frame.varint_field(keys::IP_VERSION, IPV6 as u64);
    }
    write_address(frame, keys::PREFIX, destination.prefix);
    frame.varint_field(keys::PREFIX_LENGTH, u64::from(destination.length));
    frame.end(start);
}

fn write_next_hop(frame: &mut Frame, hop: &NextHop) {
    frame.byte(keys::NEXT_HOP as u8);
    let start = frame.begin();
    write_address(frame, keys::ADDRESS, hop.address);
    frame.varint_field(keys::TARGET_VNI, u64::from(hop.vni.0));
    // Sign-extended: a negative number takes ten bytes.
    frame.varint_field(keys::KIND, i64::from(hop.kind.0) as u64);
    if hop.kind == NextHopType::NAT {
        frame.varint_field(keys::NAT_FROM, u64::from(hop.nat_port_from));
        frame.varint_field(keys::NAT_TO, u64::from(hop.nat_port_to));
    }
    frame.end(start);
}

#[inline]
fn write_address(frame: &mut Frame, key: u32, address: IpAddr) {
    frame.byte(key as u8);
    match address {
        IpAddr::V4(address) => {
            frame.byte(4);
            frame.slice(&address.octets());
        }
        IpAddr::V6(address) => {
            frame.byte(16);
            frame.slice(&address.octets());
        }
    }
}

/// The fields of an UPDATE as received, not yet judged.
#[derive(Default)]
struct Fields<'a> {
    action: i32,
    vni: u32,
    destination: Option<DestinationFields<'a>>,
    next_hop: Option<NextHopFields<'a>>,
}

#[derive(Default)]
struct DestinationFields<'a> {
    ip_version: i32,
    prefix: &'a [u8],
    prefix_length: u32,
}

#[derive(Default)]
struct NextHopFields<'a> {
    address: &'a [u8],
    target_vni: u32,
    kind: i32,
    nat_from: u32,
    nat_to: u32,
}

impl<'a> Fields<'a> {
    fn read(payload: &'a [u8]) -> Result<Fields<'a>, Broken> {
        let mut fields = Fields::default();
        let mut reader = Reader::new(payload);
        while let Some(key) = reader.next_key()? {
            match key {
                keys::ACTION => fields.action = reader.varint()? as i32,
                keys::VNI => fields.vni = reader.varint()? as u32,
                // Repeated submessages merge.
                keys::DESTINATION => {
                    let destination = fields.destination.get_or_insert_default();
                    destination.merge(reader.message()?)?;
                }
                keys::NEXT_HOP => {
                    let next_hop = fields.next_hop.get_or_insert_default();
                    next_hop.merge(reader.message()?)?;
                }
                _ => reader.skip_unknown(key, keys::UPDATE_FIELD_MAX)?,
            }
        }
        Ok(fields)
    }

    fn validate(&self) -> Result<Update, InvalidUpdate> {
        let action = match self.action {
            ADD => Action::Add,
            REMOVE => Action::Remove,
            other => return Err(InvalidUpdate::Action(other)),
        };
        let destination = self.destination.as_ref();
        let destination = destination.ok_or(InvalidUpdate::NoDestination)?;
        let next_hop = self.next_hop.as_ref().ok_or(InvalidUpdate::NoNextHop)?;
        Ok(Update {
            action,
            vni: Vni(self.vni),
            route: Route {
                destination: destination.validate()?,
                next_hop: next_hop.validate()?,
            },
        })
    }
}

impl<'a> DestinationFields<'a> {
    #[inline]
    fn merge(&mut self, mut reader: Reader<'a>) -> Result<(), Broken> {
        while let Some(key) = reader.next_key()? {
            match key {
                keys::IP_VERSION => self.ip_version = reader.varint()? as i32,
                keys::PREFIX => self.prefix = reader.bytes()?,
                keys::PREFIX_LENGTH => self.prefix_length = reader.varint()? as u32,
                _ => reader.skip_unknown(key, keys::DESTINATION_FIELD_MAX)?,
            }
        }
        Ok(())
    }

    fn validate(&self) -> Result<Destination, InvalidUpdate> {
        let bits_max = match self.ip_version {
            IPV4 => 32,
            IPV6 => 128,
            other => return Err(InvalidUpdate::IpVersion(other)),
        };
        let bytes = self.prefix.len();
        let prefix = address(self.prefix).ok_or(InvalidUpdate::PrefixBytes(bytes))?;
        if prefix.is_ipv6() != (self.ip_version == IPV6) {
            return Err(InvalidUpdate::IpVersionMismatch(bytes));
        }
        match u8::try_from(self.prefix_length) {
            Ok(length) if length <= bits_max => Ok(Destination { prefix, length }),
            _ => Err(InvalidUpdate::PrefixLength(self.prefix_length)),
        }
    }
}

impl<'a> NextHopFields<'a> {
    #[inline]
    fn merge(&mut self, mut reader: Reader<'a>) -> Result<(), Broken> {
        while let Some(key) = reader.next_key()? {
            match key {
                keys::ADDRESS => self.address = reader.bytes()?,
                keys::TARGET_VNI => self.target_vni = reader.varint()? as u32,
                keys::KIND => self.kind = reader.varint()? as i32,
                keys::NAT_FROM => self.nat_from = reader.varint()? as u32,
                keys::NAT_TO => self.nat_to = reader.varint()? as u32,
                _ => reader.skip_unknown(key, keys::NEXT_HOP_FIELD_MAX)?,
            }
        }
        Ok(())
    }

    fn validate(&self) -> Result<NextHop, InvalidUpdate> {
        let bytes = self.address.len();
        let mut hop = NextHop {
            address: address(self.address).ok_or(InvalidUpdate::AddressBytes(bytes))?,
            vni: Vni(self.target_vni),
            kind: NextHopType(self.kind),
            nat_port_from: 0,
            nat_port_to: 0,
        };
        // Other types' ports never reach the wire again, so they must not tell routes apart.
        if hop.kind == NextHopType::NAT {
            hop.nat_port_from = port(self.nat_from)?;
            hop.nat_port_to = port(self.nat_to)?;
        }
        Ok(hop)
    }
}

/// A v4-mapped address stays what it is: IPv6.
#[inline]
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from)
}

fn port(number: u32) -> Result<u16, InvalidUpdate> {
    u16::try_from(number).map_err(|_| InvalidUpdate::NatPort(number))
}
