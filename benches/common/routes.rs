//! Routes and UPDATEs by number.
//!
//! Owns their shape: hosts behind hypervisors, as in the field. Must never draw a random number.

use std::net::{Ipv4Addr, Ipv6Addr};

use metalbond_uring::internals::wire::encode_update;
use metalbond_uring::types::{Action, Destination, NextHop, NextHopType, Route, Vni};

/// Route `number`: a host of an IPv4 network of 2^24, via one of 1,000 hops.
pub fn route(number: u32) -> Route {
    Route {
        destination: Destination {
            prefix: Ipv4Addr::from_bits(0x0a00_0000 + number).into(),
            length: 32,
        },
        next_hop: NextHop {
            address: Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(number % 1_000))
                .into(),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        },
    }
}

/// UPDATEs of the routes with these numbers, one after the other.
pub fn updates(action: Action, vni: Vni, numbers: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        encode_update(&mut bytes, action, vni, &route(number));
    }
    bytes
}
