//! The identity of simulated routes: every field follows from who announces it and its number.
//!
//! Owns the arithmetic between a route and its number in its VNI, in both directions, without a table.
//! Must never look at what was announced so far.
//!
//! A route is found again by its destination alone; its next hop repeats announcer and number, so that
//! one damaged field cannot turn a route into another one that is right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};

/// Routes that one VNI can have: the numbers that fit behind `10.`.
pub const ROUTES_PER_VNI_MAX: u32 = 1 << 24;

/// The first group of IPv6 destinations (a unique local prefix).
const DESTINATION_GROUP: u16 = 0xfd4d;
/// The first two groups of next hops (the prefix for documentation).
const NEXT_HOP_GROUPS: [u16; 2] = [0x2001, 0xdb8];

/// Route `number` of a VNI, as `announcer` sends it. One in four has an IPv6 destination; one in eight
/// is a load balancer target, one in eight a NAT route with its ports.
pub fn route(announcer: u32, number: u32) -> Route {
    let (kind, nat_port_from, nat_port_to) = match number % 8 {
        6 => (NextHopType::LOAD_BALANCER_TARGET, 0, 0),
        5 => {
            let from = 1024 + (number / 8 % 1000) as u16 * 32;
            (NextHopType::NAT, from, from + 31)
        }
        _ => (NextHopType::STANDARD, 0, 0),
    };
    let [a, b] = [(announcer >> 16) as u16, announcer as u16];
    let [n, m] = [(number >> 16) as u16, number as u16];
    let [first, second] = NEXT_HOP_GROUPS;
    let address = IpAddr::V6(Ipv6Addr::new(first, second, a, b, 0, 0, n, m));
    Route {
        destination: destination(number),
        next_hop: NextHop { address, vni: Vni(0), kind, nat_port_from, nat_port_to },
    }
}

/// The number of the route with this destination, if it is one of ours.
pub fn number_of(destination: &Destination) -> Option<u32> {
    match destination.prefix {
        IpAddr::V4(address) => {
            let bits = address.to_bits();
            (bits >> 24 == 10 && destination.length == 32)
                .then_some(bits & (ROUTES_PER_VNI_MAX - 1))
        }
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            let number = (bits >> 32) as u32;
            (bits == ipv6_bits(number) && destination.length == 96).then_some(number)
        }
    }
}

/// What differs between a route and the one that was expected in its place, for people.
pub fn difference(found: &Route, expected: &Route) -> String {
    let (f, e) = (found, expected);
    let fields = [
        ("prefix", f.destination.prefix.to_string(), e.destination.prefix.to_string()),
        ("prefix length", f.destination.length.to_string(), e.destination.length.to_string()),
        ("next hop", f.next_hop.address.to_string(), e.next_hop.address.to_string()),
        ("next hop's VNI", f.next_hop.vni.to_string(), e.next_hop.vni.to_string()),
        ("type", f.next_hop.kind.to_string(), e.next_hop.kind.to_string()),
        ("first port", f.next_hop.nat_port_from.to_string(), e.next_hop.nat_port_from.to_string()),
        ("last port", f.next_hop.nat_port_to.to_string(), e.next_hop.nat_port_to.to_string()),
    ];
    let words: Vec<String> = fields
        .into_iter()
        .filter(|(_, found, expected)| found != expected)
        .map(|(field, found, expected)| format!("{field} is {found} instead of {expected}"))
        .collect();
    words.join(", ")
}

fn destination(number: u32) -> Destination {
    if number % 4 == 3 {
        let prefix = IpAddr::V6(Ipv6Addr::from_bits(ipv6_bits(number)));
        Destination { prefix, length: 96 }
    } else {
        let prefix = IpAddr::V4(Ipv4Addr::from_bits(10 << 24 | number));
        Destination { prefix, length: 32 }
    }
}

fn ipv6_bits(number: u32) -> u128 {
    u128::from(DESTINATION_GROUP) << 112 | u128::from(number) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in (0..2000).chain(ROUTES_PER_VNI_MAX - 9..ROUTES_PER_VNI_MAX) {
            assert_eq!(number_of(&route(7, number).destination), Some(number));
        }
    }

    #[test]
    fn other_destinations_are_not_ours() {
        let mut destination = route(1, 5).destination;
        destination.length = 31;
        assert_eq!(number_of(&destination), None);
        for (prefix, length) in [("11.0.0.5", 32), ("fd4d::1:0:1", 96), ("::", 0), ("0.0.0.0", 0)] {
            let prefix = prefix.parse().unwrap();
            assert_eq!(number_of(&Destination { prefix, length }), None, "{prefix}/{length}");
        }
    }

    #[test]
    fn any_field_tells_two_routes_apart() {
        assert_eq!(difference(&route(1, 5), &route(1, 5)), "");
        let words = difference(&route(2, 5), &route(1, 5));
        assert_eq!(words, "next hop is 2001:db8:0:2::5 instead of 2001:db8:0:1::5");
        let mut other = route(1, 5);
        other.next_hop.nat_port_to += 1;
        assert_eq!(difference(&other, &route(1, 5)), "last port is 1056 instead of 1055");
    }

    #[test]
    fn all_kinds_occur() {
        let kinds: Vec<i32> = (0..8).map(|number| route(0, number).next_hop.kind.0).collect();
        assert_eq!(kinds, [0, 0, 0, 0, 0, 1, 2, 0]);
        assert!(route(0, 3).destination.prefix.is_ipv6());
    }
}
