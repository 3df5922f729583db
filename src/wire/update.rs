//! UPDATE, read and written without allocation: nearly all traffic is made of it.
//!
//! Owns its bytes and its rules of validity. Must never differ from the definition in what it accepts
//! and writes: the tests compare the two.

use std::net::IpAddr;

use super::frame::{HEADER_BYTES, MessageType, PAYLOAD_BYTES_MAX, VERSION};
use super::policy::{DecodeError, InvalidUpdate};
use super::protobuf::{BYTES, Broken, Reader, VARINT, Writer, key};
use crate::types::{Action, Destination, NextHop, NextHopType, Route, Vni};

/// The numbers of the protocol, as keys of the protobuf encoding.
mod keys {
    use super::{BYTES, VARINT, key};

    pub(super) const ACTION: u32 = key(1, VARINT);
    pub(super) const VNI: u32 = key(2, VARINT);
    pub(super) const DESTINATION: u32 = key(3, BYTES);
    pub(super) const NEXT_HOP: u32 = key(4, BYTES);

    pub(super) const IP_VERSION: u32 = key(1, VARINT);
    pub(super) const PREFIX: u32 = key(2, BYTES);
    pub(super) const PREFIX_LENGTH: u32 = key(3, VARINT);

    pub(super) const ADDRESS: u32 = key(1, BYTES);
    pub(super) const TARGET_VNI: u32 = key(2, VARINT);
    pub(super) const KIND: u32 = key(3, VARINT);
    pub(super) const NAT_FROM: u32 = key(4, VARINT);
    pub(super) const NAT_TO: u32 = key(5, VARINT);
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
pub(crate) const UPDATE_FRAME_BYTES_MAX: usize =
    HEADER_BYTES + 2 + 6 + (2 + DESTINATION_BYTES_MAX) + (2 + NEXT_HOP_BYTES_MAX);
// Each length fits into the single byte that is left for it.
const _: () = assert!(UPDATE_FRAME_BYTES_MAX < 0x80 && UPDATE_FRAME_BYTES_MAX < PAYLOAD_BYTES_MAX);

/// Where a header has the low byte of the payload length. The high byte stays 0.
const LENGTH_LOW_AT: usize = 2;

/// A frame in the making.
type Frame = Writer<UPDATE_FRAME_BYTES_MAX>;

/// One route announced or withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Update {
    /// Announced or withdrawn.
    pub action: Action,
    /// The VNI that the route belongs to.
    pub vni: Vni,
    /// The route.
    pub route: Route,
}

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
    match Fields::read(payload) {
        Ok(fields) => Ok(fields.validate()?),
        Err(broken) => Err(broken.in_a(MessageType::Update)),
    }
}

/// What a canonical UPDATE frame (of our own making) does, and the rest of its payload: two frames
/// with the same rest are about the same route of the same VNI.
///
/// # Panics
/// If `frame` is not an UPDATE.
pub(crate) fn action_and_key(frame: &[u8]) -> (Action, &[u8]) {
    assert!(frame.len() > HEADER_BYTES && frame[3] == MessageType::Update as u8, "not an UPDATE");
    let payload = &frame[HEADER_BYTES..];
    match payload.strip_prefix(&REMOVE_BYTES) {
        Some(key) => (Action::Remove, key),
        None => (Action::Add, payload),
    }
}

/// Appends the UPDATE frame that does this with the route of a key from [`action_and_key`].
pub(crate) fn encode_keyed(out: &mut Vec<u8>, action: Action, key: &[u8]) {
    let payload_bytes = keyed_frame_len(action, key) - HEADER_BYTES;
    let length = u8::try_from(payload_bytes).expect("our own UPDATEs are shorter");
    out.extend_from_slice(&[VERSION, 0, length, MessageType::Update as u8]);
    if action == Action::Remove {
        out.extend_from_slice(&REMOVE_BYTES);
    }
    out.extend_from_slice(key);
}

/// Length of the frame that [`encode_keyed`] writes.
pub(crate) fn keyed_frame_len(action: Action, key: &[u8]) -> usize {
    HEADER_BYTES + key.len() + if action == Action::Remove { REMOVE_BYTES.len() } else { 0 }
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
#[derive(PartialEq, Debug, Default)]
struct Fields<'a> {
    action: i32,
    vni: u32,
    destination: Option<DestinationFields<'a>>,
    next_hop: Option<NextHopFields<'a>>,
}

#[derive(PartialEq, Debug, Default)]
struct DestinationFields<'a> {
    ip_version: i32,
    prefix: &'a [u8],
    prefix_length: u32,
}

#[derive(PartialEq, Debug, Default)]
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
                _ => reader.skip(key)?,
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
            route: Route { destination: destination.validate()?, next_hop: next_hop.validate()? },
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
                _ => reader.skip(key)?,
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
                _ => reader.skip(key)?,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::strategies::{damaged_update, update_like, valid_update};
    use super::super::{definition, proto};
    use super::*;

    /// The fields as the generated code has them.
    fn fields_of(update: &proto::Update) -> Fields<'_> {
        Fields {
            action: update.action,
            vni: update.vni,
            destination: update.destination.as_ref().map(|it| DestinationFields {
                ip_version: it.ip_version,
                prefix: &it.prefix,
                prefix_length: it.prefix_length,
            }),
            next_hop: update.next_hop.as_ref().map(|it| NextHopFields {
                address: &it.target_address,
                target_vni: it.target_vni,
                kind: it.r#type,
                nat_from: it.nat_port_range_from,
                nat_to: it.nat_port_range_to,
            }),
        }
    }

    /// The payload that the generated code writes.
    fn encode_update_prost(update: &Update) -> Vec<u8> {
        fn octets(address: IpAddr) -> Vec<u8> {
            match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            }
        }
        let Route { destination, next_hop } = update.route;
        let message = proto::Update {
            action: i32::from(update.action == Action::Remove),
            vni: update.vni.0,
            destination: Some(proto::Destination {
                ip_version: i32::from(destination.prefix.is_ipv6()),
                prefix: octets(destination.prefix),
                prefix_length: u32::from(destination.length),
            }),
            next_hop: Some(proto::NextHop {
                target_address: octets(next_hop.address),
                target_vni: next_hop.vni.0,
                r#type: next_hop.kind.0,
                nat_port_range_from: u32::from(next_hop.nat_port_from),
                nat_port_range_to: u32::from(next_hop.nat_port_to),
            }),
        };
        prost::Message::encode_to_vec(&message)
    }

    /// The definition reads the same fields, those of invalid UPDATEs too, or refuses the bytes as
    /// well. Returns what becomes of them.
    fn assert_same(payload: &[u8]) -> Result<Update, DecodeError> {
        let defined = definition::decode::<proto::Update>(definition::UPDATE, payload);
        let fields = Fields::read(payload);
        assert_eq!(fields.ok(), defined.as_ref().map(fields_of), "{}", hex::encode(payload));
        decode_update(payload)
    }

    fn encoded(update: &Update) -> Vec<u8> {
        let mut frame = Vec::new();
        encode_update(&mut frame, update.action, update.vni, &update.route);
        frame
    }

    /// The payloads of all UPDATEs of the project's own corpus, and of the large one if it is at
    /// hand (see `tests/wire_corpus.rs`).
    fn corpus() -> Vec<Vec<u8>> {
        let own = include_str!("../../tests/corpus/vectors.json").to_owned();
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/wire");
        let large = std::env::var("METALBOND_CORPUS").unwrap_or(beside.to_owned());
        let large = std::fs::read_to_string(large + "/vectors.json");
        let mut payloads = Vec::new();
        for text in [own].into_iter().chain(large) {
            let vectors: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            for vector in vectors.iter().filter(|vector| vector["kind"] == "UPDATE") {
                let frame = vector["hex"].as_str().map(|frame| hex::decode(frame).unwrap());
                payloads.extend(frame.map(|frame| frame[HEADER_BYTES..].to_vec()));
            }
        }
        payloads
    }

    fn sample() -> Update {
        let payload = "10641a0812040a000000181822120a1020010db8000000000000000000000005";
        decode_update(&hex::decode(payload).unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn writes_what_the_generated_code_writes(update in valid_update()) {
            let frame = encoded(&update);
            prop_assert_eq!(&frame[HEADER_BYTES..], encode_update_prost(&update));
            prop_assert_eq!(super::super::frame_len(&frame), frame.len());
            prop_assert_eq!(assert_same(&frame[HEADER_BYTES..]), Ok(update));
        }

        #[test]
        fn reads_what_the_definition_reads(payload in update_like()) {
            let _ = assert_same(&payload);
        }

        #[test]
        fn judges_damage_like_the_definition(payload in damaged_update()) {
            let _ = assert_same(&payload);
        }

        #[test]
        fn judges_garbage_like_the_definition(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let _ = assert_same(&payload);
        }
    }

    #[test]
    fn the_corpus_cut_and_with_any_bit_flipped() {
        let corpus = corpus();
        assert!(corpus.len() >= 10);
        for mut payload in corpus {
            let _ = assert_same(&payload);
            for length in 0..payload.len() {
                let _ = assert_same(&payload[..length]);
            }
            for bit in 0..payload.len() * 8 {
                payload[bit / 8] ^= 1 << (bit % 8);
                let _ = assert_same(&payload);
                payload[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// Random bytes hardly ever get there: groups as deep as a payload has room for, in both places.
    #[test]
    fn deep_groups_are_skipped() {
        let valid = encode_update_prost(&sample());
        for depth in [1, 99, 101, (PAYLOAD_BYTES_MAX - valid.len()) / 2 - 2] {
            let groups = [vec![0x7b; depth], vec![0x7c; depth]].concat();
            let outer = [groups.clone(), valid.clone()].concat();
            assert_eq!(assert_same(&outer), Ok(sample()), "{depth}");
            let with_field = [vec![0x7b; depth], vec![0x70, 1], vec![0x7c; depth]].concat();
            assert_eq!(assert_same(&[with_field, valid.clone()].concat()), Ok(sample()));
            let length = [groups.len() as u8 & 0x7f | 0x80, (groups.len() >> 7) as u8];
            let inner = [valid.clone(), vec![0x22], length.to_vec(), groups].concat();
            assert_eq!(assert_same(&inner), Ok(sample()), "{depth}");
            assert!(assert_same(&outer[1..]).is_err());
        }
        // What is longer than any payload must not take the stack either.
        assert!(decode_update(&vec![0x7b; 1 << 20]).is_err());
    }

    #[test]
    fn a_known_field_of_another_wire_type_is_unknown() {
        let valid = hex::encode(encode_update_prost(&sample()));
        for wrong in [
            "0d01000000",              // the action, 32 bits
            "0b0c",                    // a group
            "0a0101",                  // bytes
            "11ffffffffffffffff",      // the VNI, 64 bits
            "1807",                    // the destination, a varint
            "1b 0801 1c",              // a group
            "2507000000",              // the next hop
            "1a03 0a0101",             // the IP version, bytes
            "1a02 1005",               // the prefix, a varint
            "1a05 1d21000000",         // the prefix length
            "2202 0809",               // the address
            "2203 120101",             // the target VNI
            "2209 190100000000000000", // the type
            "2205 2500000100",         // a port
            "2202 2b2c",               // a port, a group
        ] {
            for text in [format!("{wrong}{valid}"), format!("{valid}{wrong}")] {
                let payload = hex::decode(text.replace(' ', "")).unwrap();
                assert_eq!(assert_same(&payload), Ok(sample()), "{text}");
            }
        }
        // A group that does not end, ends as another one, or was never begun; wire types 6 and 7.
        for wrong in
            ["1b", "1b24", "1c", "1b 1b 1c", "1e", "1f01", "2201 2b", "2202 2b24", "2201 2c"]
        {
            let payload = hex::decode(format!("{valid}{wrong}").replace(' ', "")).unwrap();
            assert!(matches!(assert_same(&payload), Err(DecodeError::Malformed { .. })), "{wrong}");
        }
    }

    #[test]
    fn the_longest_update_fits() {
        let mut update = sample();
        update.action = Action::Remove;
        update.vni = Vni(u32::MAX);
        update.route.destination =
            Destination { prefix: IpAddr::from([0xff; 16]), length: u8::MAX };
        update.route.next_hop = NextHop {
            address: IpAddr::from([0xff; 16]),
            vni: Vni(u32::MAX),
            kind: NextHopType(-1),
            nat_port_from: u16::MAX,
            nat_port_to: u16::MAX,
        };
        assert_eq!(encoded(&update).len(), UPDATE_FRAME_BYTES_MAX - 8);
        update.route.next_hop.kind = NextHopType::NAT;
        assert_eq!(encoded(&update).len(), UPDATE_FRAME_BYTES_MAX - 9);
    }

    #[test]
    fn an_unreadable_update_is_malformed_even_if_invalid() {
        // Action 7, and then a varint without an end.
        let error = assert_same(&[0x08, 7, 0x10, 0xff]).unwrap_err();
        assert!(matches!(error, DecodeError::Malformed { .. }));
    }

    #[test]
    fn every_kind_of_invalid_update() {
        let cases = [
            ("08021a0022 00", InvalidUpdate::Action(2)),
            ("08ffffffffffffffffff011a002200", InvalidUpdate::Action(-1)),
            ("2200", InvalidUpdate::NoDestination),
            ("1a00", InvalidUpdate::NoNextHop),
            ("1a02 0802 2200", InvalidUpdate::IpVersion(2)),
            ("1a00 2200", InvalidUpdate::PrefixBytes(0)),
            ("1a07 1205 0102030405 2200", InvalidUpdate::PrefixBytes(5)),
            ("1a08 0801 1204 01020304 2200", InvalidUpdate::IpVersionMismatch(4)),
            ("1a08 1204 01020304 1821 2200", InvalidUpdate::PrefixLength(33)),
            ("1a09 1204 01020304 188002 2200", InvalidUpdate::PrefixLength(256)),
            ("1a06 1204 01020304 2200", InvalidUpdate::AddressBytes(0)),
            ("1a06 1204 01020304 220c 0a04 01020304 1801 28 808004", InvalidUpdate::NatPort(65536)),
        ];
        for (text, expected) in cases {
            let payload = hex::decode(text.replace(' ', "")).unwrap();
            assert_eq!(assert_same(&payload), Err(expected.into()), "{text}");
        }
    }

    #[test]
    fn ports_count_for_nat_only() {
        let with_ports = |kind: &str| {
            let hop = format!("2210 0a04 01020304 18{kind} 20 808004 28 808004");
            let text = format!("1a06 1204 01020304 {hop}");
            assert_same(&hex::decode(text.replace(' ', "")).unwrap())
        };
        assert_eq!(with_ports("01"), Err(InvalidUpdate::NatPort(65536).into()));
        let hop = with_ports("02").unwrap().route.next_hop;
        assert_eq!((hop.nat_port_from, hop.nat_port_to), (0, 0));
    }

    #[test]
    fn the_key_leaves_out_the_action_only() {
        let mut update = sample();
        let add = encoded(&update);
        update.action = Action::Remove;
        let remove = encoded(&update);
        assert_eq!(action_and_key(&add).0, Action::Add);
        assert_eq!(action_and_key(&remove).0, Action::Remove);
        assert_eq!(action_and_key(&add).1, action_and_key(&remove).1);
        update.vni = Vni(0);
        assert_ne!(action_and_key(&add).1, action_and_key(&encoded(&update)).1);
    }
}
