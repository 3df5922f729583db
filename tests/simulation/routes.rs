//! Routes by number, for fields of a few peers.

use std::net::IpAddr;

use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};

/// Route `number`: a host of IPv4, all via one hop.
pub fn route(number: u32) -> Route {
    let next_hop = NextHop {
        address: [0xfd; 16].into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    let destination = Destination { prefix: number.to_be_bytes().into(), length: 32 };
    Route { destination, next_hop }
}

/// The number of such a route.
pub fn number_of(route: &Route) -> u32 {
    match route.destination.prefix {
        IpAddr::V4(prefix) => prefix.to_bits(),
        IpAddr::V6(_) => panic!("it was announced so"),
    }
}
