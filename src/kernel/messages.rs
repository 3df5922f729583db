//! Operations and questions as rtnetlink messages.
//!
//! Owns the bytes that we send; `seen` reads what comes back. Route messages are those of
//! `netlink-packet-route`; it has no nexthop messages, so these are put together here. Must never
//! talk to the kernel.

use std::net::Ipv6Addr;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP,
    NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteIp6Tunnel, RouteLwEnCapType, RouteLwTunnelEncap,
    RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType,
};

use super::plan::{Family, Form, NexthopId, Op, Place, Prefix};

/// The routing protocol number of all routes and nexthop objects that we make.
pub const METALBOND_RT_PROTO: u8 = 254;

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

pub(super) const NHA_ID: u16 = 1;
pub(super) const NHA_GROUP: u16 = 2;
pub(super) const NHA_OIF: u16 = 5;
pub(super) const NHA_ENCAP_TYPE: u16 = 7;
pub(super) const NHA_ENCAP: u16 = 8;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_ALT_IFNAME: u16 = 53;
/// Longest name of a link in bytes (IFNAMSIZ without its closing zero); alternative ones are longer.
pub(super) const LINK_NAME_BYTES_MAX: usize = 15;

/// struct nhmsg: family, scope, protocol, one reserved byte, flags (4 bytes).
pub(super) const NHMSG_BYTES: usize = 8;
/// struct nexthop_grp: id (4 bytes), weight - 1, three reserved bytes.
pub(super) const NEXTHOP_GRP_BYTES: usize = 8;
/// struct ifinfomsg: family, padding, type (2 bytes), index, flags, change mask (4 bytes each).
pub(super) const IFINFOMSG_BYTES: usize = 16;

pub(super) const AF_INET: u8 = libc::AF_INET as u8;
pub(super) const AF_INET6: u8 = libc::AF_INET6 as u8;

/// The metric that the kernel gives an IPv6 route without one.
pub(super) const IPV6_METRIC: u32 = 1024;
/// The metric that it gives an IPv4 route without one.
pub(super) const IPV4_METRIC: u32 = 0;

/// Appends one operation; `link` is the index of the tunnel device. Errors are always answered; for
/// success see [`ask_for_ack`].
pub(super) fn put_op(bytes: &mut Vec<u8>, op: &Op, link: u32, sequence: u32) {
    let create = NLM_F_CREATE | NLM_F_EXCL;
    match op {
        Op::AddHop { id, family, address } => {
            let oif = DefaultNla::new(NHA_OIF, link.to_ne_bytes().to_vec());
            let attributes = [nha_id(*id), oif, nha_encap_type(), nha_encap(*address)];
            let payload =
                NexthopMessage { family: family_number(*family), attributes: &attributes };
            put(bytes, RTM_NEWNEXTHOP, create, sequence, &payload);
        }
        Op::AddGroup { id, members } => {
            let group = members.iter().flat_map(|id| member_bytes(*id)).collect();
            let attributes = [nha_id(*id), DefaultNla::new(NHA_GROUP, group)];
            let payload = NexthopMessage { family: 0, attributes: &attributes };
            put(bytes, RTM_NEWNEXTHOP, create, sequence, &payload);
        }
        Op::DeleteNexthop { id } => {
            let payload = NexthopMessage { family: 0, attributes: &[nha_id(*id)] };
            put(bytes, RTM_DELNEXTHOP, 0, sequence, &payload);
        }
        Op::Add { prefix, form, place } => {
            let flags = match place {
                Place::Alone => create,
                Place::Last => NLM_F_CREATE | NLM_F_APPEND,
                Place::First => NLM_F_CREATE,
            };
            put(bytes, RTM_NEWROUTE, flags, sequence, &route(*prefix, form, link));
        }
        Op::Delete { prefix, form } => {
            put(bytes, RTM_DELROUTE, 0, sequence, &route_to_delete(*prefix, form, link));
        }
    }
}

/// Has success answered, too: sets the flag in a message's header (its seventh byte).
pub(super) fn ask_for_ack(message: &mut [u8]) {
    message[6] |= NLM_F_ACK as u8;
}

/// A request for the routes in one table: of our protocol, or of all.
pub(super) fn put_route_dump(
    bytes: &mut Vec<u8>,
    table: u32,
    family: Family,
    with_others: bool,
    sequence: u32,
) {
    let mut message = route_message(table, family);
    if with_others {
        message.header.protocol = RouteProtocol::Unspec;
    }
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unspec;
    put(bytes, RTM_GETROUTE, NLM_F_DUMP, sequence, &message);
}

/// A request for all nexthop objects.
pub(super) fn put_nexthop_dump(bytes: &mut Vec<u8>, sequence: u32) {
    let start = begin(bytes, RTM_GETNEXTHOP, NLM_F_DUMP, sequence);
    bytes.extend_from_slice(&[0; NHMSG_BYTES]); // a dump names no protocol
    end(bytes, start);
}

/// A request for the link of which this attribute is the name.
pub(super) fn put_link_query(bytes: &mut Vec<u8>, attribute: u16, name: &str, sequence: u32) {
    let start = begin(bytes, RTM_GETLINK, 0, sequence);
    bytes.extend_from_slice(&[0; IFINFOMSG_BYTES]);
    let name = DefaultNla::new(attribute, [name.as_bytes(), b"\0"].concat());
    append(bytes, &[name].as_slice());
    end(bytes, start);
}

/// A request that changes nothing: it is refused as unsupported, or earlier for lack of the
/// capability.
pub(super) fn put_capability_probe(bytes: &mut Vec<u8>, sequence: u32) {
    let start = begin(bytes, RTM_DELROUTE, NLM_F_ACK, sequence);
    bytes.extend_from_slice(&[0; 12]); // no address family, so there is no handler
    end(bytes, start);
}

struct NexthopMessage<'a> {
    family: u8,
    attributes: &'a [DefaultNla],
}

impl Emitable for NexthopMessage<'_> {
    fn buffer_len(&self) -> usize {
        NHMSG_BYTES + self.attributes.buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer[..NHMSG_BYTES].copy_from_slice(&[
            self.family,
            0,
            if self.attributes.len() > 1 { METALBOND_RT_PROTO } else { 0 }, // none to delete
            0,
            0,
            0,
            0,
            0,
        ]);
        self.attributes.emit(&mut buffer[NHMSG_BYTES..]);
    }
}

fn put(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, of: &impl Emitable) {
    let start = begin(bytes, kind, flags, sequence);
    append(bytes, of);
    end(bytes, start);
}

fn begin(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32) -> usize {
    let start = bytes.len();
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    append(bytes, &header);
    start
}

/// Writes the message's length where it belongs. All payloads end aligned.
fn end(bytes: &mut [u8], start: usize) {
    let length = (bytes.len() - start) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn append(bytes: &mut Vec<u8>, what: &impl Emitable) {
    let start = bytes.len();
    bytes.resize(start + what.buffer_len().next_multiple_of(4), 0);
    let end = start + what.buffer_len();
    what.emit(&mut bytes[start..end]);
}

fn protocol() -> RouteProtocol {
    RouteProtocol::from(METALBOND_RT_PROTO)
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn route_message(table: u32, family: Family) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    header.protocol = protocol();
    match u8::try_from(table) {
        Ok(table) => header.table = table,
        Err(_) => message.attributes.push(RouteAttribute::Table(table)),
    }
    message
}

fn route(prefix: Prefix, form: &Form, link: u32) -> RouteMessage {
    let mut message = route_message(prefix.table, prefix.family());
    set_destination(&mut message, prefix);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    match form {
        Form::Object(id) => message.attributes.push(RouteAttribute::NhId(id.0)),
        Form::Inline(hops) if hops.len() == 1 => {
            message.attributes.push(RouteAttribute::Oif(link));
            message.attributes.push(RouteAttribute::EncapType(RouteLwEnCapType::Ip6));
            message.attributes.push(RouteAttribute::Encap(encap(hops[0])));
        }
        Form::Inline(hops) => {
            let hop = |address: &Ipv6Addr| {
                let mut hop = RouteNextHop::default();
                hop.interface_index = link;
                hop.attributes = vec![
                    RouteAttribute::EncapType(RouteLwEnCapType::Ip6),
                    RouteAttribute::Encap(encap(*address)),
                ];
                hop
            };
            let hops = hops.iter().map(hop).collect();
            message.attributes.push(RouteAttribute::MultiPath(hops));
        }
        Form::Other { .. } => unreachable!("only found, never wanted"),
    }
    message
}

/// What matches our own route only: protocol, metric, and the object, or the device and (which IPv6
/// does not look at) the first hop.
fn route_to_delete(prefix: Prefix, form: &Form, link: u32) -> RouteMessage {
    let mut message = route_message(prefix.table, prefix.family());
    set_destination(&mut message, prefix);
    message.header.scope = RouteScope::NoWhere; // of any scope
    message.header.kind = RouteType::Unicast;
    let attributes = &mut message.attributes;
    if prefix.family() == Family::V6 {
        attributes.push(RouteAttribute::Priority(IPV6_METRIC));
    }
    match form {
        Form::Object(id) => attributes.push(RouteAttribute::NhId(id.0)),
        Form::Inline(hops) => {
            attributes.push(RouteAttribute::Oif(link));
            if let (Family::V4, Some(hop)) = (prefix.family(), hops.first()) {
                attributes.push(RouteAttribute::EncapType(RouteLwEnCapType::Ip6));
                attributes.push(RouteAttribute::Encap(encap(*hop)));
            }
        }
        Form::Other { link } => attributes.push(RouteAttribute::Oif(*link)),
    }
    message
}

fn set_destination(message: &mut RouteMessage, prefix: Prefix) {
    let destination = prefix.destination;
    let header: &mut RouteHeader = &mut message.header;
    header.destination_prefix_length = destination.length;
    if !destination.is_default() {
        message.attributes.push(RouteAttribute::Destination(destination.prefix.into()));
    }
}

/// ID 0 and an unspecified source, as the Go client writes it, but aligned (protocol section 8.1).
fn encap(address: Ipv6Addr) -> Vec<RouteLwTunnelEncap> {
    vec![
        RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Id(0)),
        RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination(address)),
        RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Source(Ipv6Addr::UNSPECIFIED)),
    ]
}

fn nha_id(id: NexthopId) -> DefaultNla {
    DefaultNla::new(NHA_ID, id.0.to_ne_bytes().to_vec())
}

fn nha_encap_type() -> DefaultNla {
    DefaultNla::new(NHA_ENCAP_TYPE, u16::from(RouteLwEnCapType::Ip6).to_ne_bytes().to_vec())
}

fn nha_encap(address: Ipv6Addr) -> DefaultNla {
    let mut value = Vec::new();
    append(&mut value, &encap(address).as_slice());
    DefaultNla::new(NHA_ENCAP | NLA_F_NESTED, value)
}

fn member_bytes(id: NexthopId) -> [u8; NEXTHOP_GRP_BYTES] {
    let mut bytes = [0; NEXTHOP_GRP_BYTES];
    bytes[..4].copy_from_slice(&id.0.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::seen::{seen_link, seen_nexthop, seen_route};
    use super::*;
    use crate::kernel::plan::Hops;
    use crate::types::Destination;

    fn bytes_of(op: &Op) -> String {
        let mut bytes = Vec::new();
        put_op(&mut bytes, op, 9, 1);
        ask_for_ack(&mut bytes);
        hex::encode(bytes)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn an_encapsulation_is_aligned() {
        let destination = Destination { prefix: "10.0.0.0".parse().unwrap(), length: 24 };
        let prefix = Prefix { table: 100, destination };
        let form = Form::Inline(Hops::from_slice(&["fd00::1".parse().unwrap()]));
        let expected = concat!(
            "6c000000 1800 0506 01000000 00000000", // 108 bytes, RTM_NEWROUTE, ack, create, excl
            "02 18 00 00 64 fe 00 01 00000000",     // IPv4, /24, table 100, protocol 254, unicast
            "0800 0100 0a000000",                   // RTA_DST
            "0800 0400 09000000",                   // RTA_OIF
            "0600 1500 0400 0000",                  // RTA_ENCAP_TYPE ip6
            "3800 1600",                            // RTA_ENCAP, 56 bytes
            "0c00 0100 0000000000000000",           // ID 0
            "1400 0200 fd000000000000000000000000000001",
            "1400 0300 00000000000000000000000000000000",
        );
        assert_eq!(
            bytes_of(&Op::Add { prefix, form, place: Place::Alone }),
            expected.replace(' ', "")
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_group_lists_its_members() {
        let members = vec![NexthopId(0x4d00_0002), NexthopId(0x4d00_0003)];
        let expected = concat!(
            "34000000 6800 0506 01000000 00000000", // RTM_NEWNEXTHOP
            "00 00 fe 00 00000000",                 // no family, protocol 254
            "0800 0100 0100004d",                   // NHA_ID
            "1400 0200 0200004d 00000000 0300004d 00000000",
        );
        let found = bytes_of(&Op::AddGroup { id: NexthopId(0x4d00_0001), members });
        assert_eq!(found, expected.replace(' ', ""));
    }

    proptest! {
        #[test]
        fn what_the_kernel_says_is_found_again(
            hops in prop::collection::btree_set(any::<u128>().prop_map(Ipv6Addr::from_bits), 1..9),
            table in prop_oneof![Just(254u32), any::<u32>()],
            v6 in any::<bool>(),
        ) {
            let prefix: IpAddr =
                if v6 { "2001:db8::".parse().unwrap() } else { "10.0.0.0".parse().unwrap() };
            let prefix = Prefix { table, destination: Destination { prefix, length: 24 } };
            let form = Form::Inline(hops.into_iter().collect());
            let mut message = route(prefix, &form, 9);
            if v6 {
                message.attributes.push(RouteAttribute::Priority(IPV6_METRIC));
            }
            let mut bytes = Vec::new();
            append(&mut bytes, &message);
            let seen = seen_route(&bytes).unwrap();
            prop_assert_eq!(seen.prefix, prefix);
            prop_assert_eq!((seen.form, seen.link), (Some(form), 9));
            prop_assert!(seen.is_of_our_protocol);
        }

        #[test]
        fn nonsense_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (seen_route(&bytes), seen_nexthop(&bytes), seen_link(&bytes));
        }
    }
}
