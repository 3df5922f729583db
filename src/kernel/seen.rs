//! What the kernel says about routes, nexthop objects and links.
//!
//! Owns the reading of messages. Must never panic on what the kernel says, and never decide what is
//! ours (`plan` does).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{Emitable, NlaBuffer, NlasIterator, Parseable, ParseableParametrized};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteIp6Tunnel, RouteLwEnCapType, RouteLwTunnelEncap,
    RouteMessage, RouteNextHop, RouteProtocol, RouteType,
};

use super::messages::{
    AF_INET, AF_INET6, IFINFOMSG_BYTES, IFLA_IFNAME, IPV4_METRIC, IPV6_METRIC, METALBOND_RT_PROTO,
    NEXTHOP_GRP_BYTES, NHA_ENCAP, NHA_ENCAP_TYPE, NHA_GROUP, NHA_ID, NHA_OIF, NHMSG_BYTES,
};
use super::plan::{Family, Form, Hops, NexthopId, Prefix, SeenNexthop, SeenNexthopKind, SeenRoute};
use crate::types::Destination;

/// struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags
/// (4 bytes).
const RTMSG_BYTES: usize = 12;
const RTA_DST: u16 = 1;
const RTA_TABLE: u16 = 15;

/// State of a link as a message tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LinkSeen {
    pub index: u32,
    pub name: String,
    /// IFF_* bits.
    pub flags: u32,
}

/// A nexthop object; none if the message is malformed.
pub(super) fn seen_nexthop(payload: &[u8]) -> Option<SeenNexthop> {
    let (header, attributes) = payload.split_at_checked(NHMSG_BYTES)?;
    let (mut id, mut group, mut link) = (None, None, None);
    let (mut encap_type, mut address, mut has_more) = (0, None, false);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            NHA_ID => id = Some(NexthopId(u32::from_ne_bytes(value.try_into().ok()?))),
            NHA_GROUP => group = Some(members(value)),
            NHA_OIF => link = Some(u32::from_ne_bytes(value.try_into().ok()?)),
            NHA_ENCAP_TYPE => encap_type = u16::from_ne_bytes(value.try_into().ok()?),
            NHA_ENCAP => address = plain_endpoint(&parse_encap(value)),
            3 => {} // NHA_GROUP_TYPE
            _ => has_more = true,
        }
    }
    let id = id?;
    let family = match header[0] {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    };
    let is_ours = header[2] == METALBOND_RT_PROTO && id.is_in_our_range();
    let is_ip6 = encap_type == u16::from(RouteLwEnCapType::Ip6);
    let kind = match (group, family, address) {
        _ if !is_ours => SeenNexthopKind::Foreign,
        (Some(Some(members)), _, _) => SeenNexthopKind::Group { members },
        (Some(None), _, _) => SeenNexthopKind::Foreign,
        (None, Some(family), Some(address)) if is_ip6 && !has_more => {
            SeenNexthopKind::Hop { family, address }
        }
        _ => SeenNexthopKind::Other,
    };
    Some(SeenNexthop { id, link, kind })
}

/// A route, if it is where we would put one: ordinary, and of the metric that ours get.
pub(super) fn seen_route(payload: &[u8]) -> Option<SeenRoute> {
    let message = RouteMessage::parse(payload).ok()?;
    let header = &message.header;
    let (family, unspecified): (_, IpAddr) = match header.address_family {
        AddressFamily::Inet => (Family::V4, Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => (Family::V6, Ipv6Addr::UNSPECIFIED.into()),
        _ => return None,
    };
    if header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    let (mut table, mut address) = (u32::from(header.table), unspecified);
    let (mut metric, mut oif, mut object, mut encap) = (0, None, None, None);
    let (mut multipath, mut has_more) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(found) => address = address_of(found)?,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::NhId(id) => object = Some(NexthopId(*id)),
            RouteAttribute::Encap(parts) => encap = plain_endpoint(parts),
            RouteAttribute::MultiPath(hops) => multipath = Some(hops),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => has_more = true,
            _ => {}
        }
    }
    let expected_metric = if family == Family::V4 { IPV4_METRIC } else { IPV6_METRIC };
    if metric != expected_metric {
        return None;
    }
    let is_of_our_protocol = header.protocol == RouteProtocol::from(METALBOND_RT_PROTO);
    let form = match (object, multipath, oif) {
        _ if !is_of_our_protocol || header.kind != RouteType::Unicast => None,
        (Some(id), _, _) => Some((0, Form::Object(id))),
        (None, Some(hops), _) => multipath_form(hops),
        (None, None, Some(link)) => Some((link, inline_form(link, encap.filter(|_| !has_more)))),
        (None, None, None) => None,
    };
    let (link, form) = form.map_or((0, None), |(link, form)| (link, Some(form)));
    let destination = Destination { prefix: address, length: header.destination_prefix_length };
    Some(SeenRoute { prefix: Prefix { table, destination }, is_of_our_protocol, link, form })
}

/// Where a route is, and whether it has our protocol number: what is cheap to read.
pub(super) fn route_key(payload: &[u8]) -> Option<(Prefix, bool)> {
    let (header, attributes) = payload.split_first_chunk::<RTMSG_BYTES>()?;
    let [family, length, _, _, table, protocol, ..] = *header;
    let mut prefix: IpAddr = match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut table = u32::from(table);
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        match (attribute.kind(), attribute.value()) {
            (RTA_TABLE, value) => table = u32::from_ne_bytes(value.try_into().ok()?),
            (RTA_DST, value) => {
                prefix = match <[u8; 4]>::try_from(value) {
                    Ok(bytes) => bytes.into(),
                    Err(_) => <[u8; 16]>::try_from(value).ok()?.into(),
                }
            }
            _ => {}
        }
    }
    let destination = Destination { prefix, length };
    Some((Prefix { table, destination }, protocol == METALBOND_RT_PROTO))
}

/// The link of an RTM_NEWLINK or RTM_DELLINK; none if the message is malformed.
pub(super) fn seen_link(payload: &[u8]) -> Option<LinkSeen> {
    let (header, attributes) = payload.split_at_checked(IFINFOMSG_BYTES)?;
    let number = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let name = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == IFLA_IFNAME)?;
    let name = name.value().split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    Some(LinkSeen { index: number(4)?, name, flags: number(8)? })
}

fn inline_form(link: u32, endpoint: Option<Ipv6Addr>) -> Form {
    match endpoint {
        Some(endpoint) => Form::Inline(Hops::from_slice(&[endpoint])),
        None => Form::Other { link },
    }
}

/// The members of a group if all have weight 1.
fn members(value: &[u8]) -> Option<Vec<NexthopId>> {
    let (members, rest) = value.as_chunks::<NEXTHOP_GRP_BYTES>();
    let member = |[a, b, c, d, weights @ ..]: &[u8; NEXTHOP_GRP_BYTES]| {
        (*weights == [0; 4]).then(|| NexthopId(u32::from_ne_bytes([*a, *b, *c, *d])))
    };
    if rest.is_empty() { members.iter().map(member).collect() } else { None }
}

fn parse_encap(value: &[u8]) -> Vec<RouteLwTunnelEncap> {
    let part = |attribute: NlaBuffer<&[u8]>| {
        RouteLwTunnelEncap::parse_with_param(&attribute, RouteLwEnCapType::Ip6).ok()
    };
    NlasIterator::new(value).map_while(Result::ok).filter_map(part).collect()
}

/// The tunnel endpoint, if nothing else is set.
fn plain_endpoint(parts: &[RouteLwTunnelEncap]) -> Option<Ipv6Addr> {
    let mut endpoint = None;
    for part in parts {
        let RouteLwTunnelEncap::Ip6(part) = part else { return None };
        match part {
            RouteIp6Tunnel::Destination(address) => endpoint = Some(*address),
            RouteIp6Tunnel::Id(0) | RouteIp6Tunnel::Hoplimit(0) | RouteIp6Tunnel::Tc(0) => {}
            RouteIp6Tunnel::Source(address) if address.is_unspecified() => {}
            RouteIp6Tunnel::Flags(flags) if flags.is_empty() => {}
            _ => return None,
        }
    }
    endpoint
}

/// The device and the form of a route with several hops; none if they have several devices.
fn multipath_form(hops: &[RouteNextHop]) -> Option<(u32, Form)> {
    let link = hops.first()?.interface_index;
    if hops.iter().any(|hop| hop.interface_index != link) {
        return None;
    }
    let endpoint = |hop: &RouteNextHop| {
        let is_ip6 = hop.attributes.contains(&RouteAttribute::EncapType(RouteLwEnCapType::Ip6));
        let encap = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Encap(parts) if is_ip6 => plain_endpoint(&typed(parts)?),
            _ => None,
        });
        encap.filter(|_| hop.hops == 0) // weight 1
    };
    let Some(mut addresses) = hops.iter().map(endpoint).collect::<Option<Hops>>() else {
        return Some((link, Form::Other { link }));
    };
    // The first one is what a request to delete is matched with, so the order counts.
    let is_as_ours = addresses.is_sorted();
    let count = addresses.len();
    addresses.dedup();
    let form = match is_as_ours && addresses.len() == count {
        true => Form::Inline(addresses),
        false => Form::Other { link },
    };
    Some((link, form))
}

/// Within a multipath route the parser does not see the type of an encapsulation, and leaves it
/// as bytes.
fn typed(parts: &[RouteLwTunnelEncap]) -> Option<Vec<RouteLwTunnelEncap>> {
    let part = |part: &RouteLwTunnelEncap| {
        let mut bytes = vec![0; part.buffer_len()];
        part.emit(&mut bytes);
        let attribute = NlaBuffer::new_checked(&bytes[..]).ok()?;
        RouteLwTunnelEncap::parse_with_param(&attribute, RouteLwEnCapType::Ip6).ok()
    };
    parts.iter().map(part).collect()
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
