//! Our own codec for UPDATEs accepts and refuses what the definition does, and writes what the generated
//! code does.

use std::net::IpAddr;

use metalbond_uring::internals::wire::{
    DecodeError, HEADER_BYTES, InvalidUpdate, Update, decode_update, encode_update,
};
use metalbond_uring::types::{Action, Destination, NextHop, NextHopType, Route, Vni};
use prost::Message;

#[allow(dead_code)]
#[path = "../../../src/wire/definition.rs"]
mod definition;

#[allow(dead_code)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/metalbond.rs"));
}

pub fn run(payload: &[u8]) {
    let ours = decode_update(payload);
    let Some(generated) = definition::decode::<proto::Update>(definition::UPDATE, payload) else {
        assert!(matches!(ours, Err(DecodeError::Malformed { .. })), "{ours:?}");
        return;
    };
    assert_eq!(ours, validate(&generated).map_err(DecodeError::InvalidUpdate), "{generated:?}");
    if let Ok(update) = ours {
        let mut frame = Vec::new();
        encode_update(&mut frame, update.action, update.vni, &update.route);
        assert_eq!(frame[HEADER_BYTES..], canonical(&generated).encode_to_vec());
    }
}

/// The rules, in the order in which they count.
fn validate(update: &proto::Update) -> Result<Update, InvalidUpdate> {
    let action = match update.action {
        0 => Action::Add,
        1 => Action::Remove,
        other => return Err(InvalidUpdate::Action(other)),
    };
    let destination = update.destination.as_ref().ok_or(InvalidUpdate::NoDestination)?;
    let hop = update.next_hop.as_ref().ok_or(InvalidUpdate::NoNextHop)?;
    let bits = match destination.ip_version {
        0 => 32,
        1 => 128,
        other => return Err(InvalidUpdate::IpVersion(other)),
    };
    let bytes = destination.prefix.len();
    let prefix = address(&destination.prefix).ok_or(InvalidUpdate::PrefixBytes(bytes))?;
    if 8 * bytes != bits as usize {
        return Err(InvalidUpdate::IpVersionMismatch(bytes));
    }
    if destination.prefix_length > bits {
        return Err(InvalidUpdate::PrefixLength(destination.prefix_length));
    }
    let bytes = hop.target_address.len();
    let target = address(&hop.target_address).ok_or(InvalidUpdate::AddressBytes(bytes))?;
    let ports = [hop.nat_port_range_from, hop.nat_port_range_to];
    let ports = if hop.r#type == 1 { ports } else { [0, 0] };
    if let Some(&port) = ports.iter().find(|&&port| port > 65_535) {
        return Err(InvalidUpdate::NatPort(port));
    }
    let [nat_port_from, nat_port_to] = ports.map(|port| port as u16);
    let route = Route {
        destination: Destination { prefix, length: destination.prefix_length as u8 },
        next_hop: NextHop {
            address: target,
            vni: Vni(hop.target_vni),
            kind: NextHopType(hop.r#type),
            nat_port_from,
            nat_port_to,
        },
    };
    Ok(Update { action, vni: Vni(update.vni), route })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// Ports belong to NAT only.
fn canonical(update: &proto::Update) -> proto::Update {
    let mut update = update.clone();
    if let Some(hop) = &mut update.next_hop
        && hop.r#type != 1
    {
        (hop.nat_port_range_from, hop.nat_port_range_to) = (0, 0);
    }
    update
}
