//! The routes of the table: each follows from its number, in frames of several lengths.
//!
//! Owns their bytes. Must never use the library's encoder: a fault in it would not be seen.

use std::sync::LazyLock;

/// The VNI of the table.
pub const VNI: u8 = 100;
const PAYLOAD_MAX: usize = 64;

/// A kind of routes: a payload with places for the number, which has three bytes in each.
struct Kind {
    payload: Vec<u8>,
    places: Vec<usize>,
}

/// By turns: an IPv6 destination, one with NAT, and two plain ones.
static KINDS: LazyLock<[Kind; 4]> = LazyLock::new(|| {
    let hop = [&[0x0a, 16, 0x20, 0x01, 0x0d, 0xb8][..], &[0; 9], b"NNN"].concat();
    let of = |destination: &[u8], hop: &[u8]| {
        let lengths = (destination.len() as u8, hop.len() as u8);
        let head = [0x10, VNI, 0x1a, lengths.0];
        let mut payload = [&head[..], destination, &[0x22, lengths.1], hop].concat();
        let is_place = |&at: &usize| payload[at..].starts_with(b"NNN");
        let places: Vec<usize> = (0..payload.len()).filter(is_place).collect();
        assert!(places.len() == 2 && payload.len() < PAYLOAD_MAX, "{payload:?}");
        places.iter().for_each(|&at| payload[at..at + 3].fill(0));
        Kind { payload, places }
    };
    let ipv4 = [&[0x12, 4, 10][..], b"NNN", &[0x18, 32]].concat();
    let address = [&[0xfd, 0, 0, 7][..], &[0; 9], b"NNN"].concat();
    let ipv6 = [&[0x08, 1, 0x12, 16][..], &address, &[0x18, 0x80, 1]].concat();
    let nat = [&hop[..], &[0x18, 1, 0x20, 0x80, 0x08, 0x28, 0xff, 0x0f]].concat();
    [of(&ipv6, &hop), of(&ipv4, &nat), of(&ipv4, &hop), of(&ipv4, &hop)]
});

/// The payload of an ADD.
pub fn route(number: usize) -> Vec<u8> {
    let kind = &KINDS[number % KINDS.len()];
    let mut payload = kind.payload.clone();
    for &at in &kind.places {
        payload[at..at + 3].copy_from_slice(&(number as u32).to_be_bytes()[1..]);
    }
    payload
}

/// Bytes of a frame of the table, on average.
pub fn frame_bytes_mean() -> f64 {
    let bytes: usize = (0..KINDS.len()).map(|number| 4 + route(number).len()).sum();
    bytes as f64 / KINDS.len() as f64
}

/// The number of a route in an UPDATE's payload, and whether it is announced.
///
/// # Errors
/// What it is, if it is no route of the table.
pub fn number_of(payload: &[u8]) -> Result<(usize, bool), String> {
    let (route, added) = match payload.strip_prefix(&[0x08, 1]) {
        Some(route) => (route, false),
        None => (payload, true),
    };
    let number = |kind: &Kind| {
        let (&first, last) = (kind.places.first()?, *kind.places.last()?);
        if route.len() != kind.payload.len() || route[first..first + 3] != route[last..last + 3] {
            return None;
        }
        let number =
            route[last..last + 3].iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        let mut ends = [0, first, first + 3, last, last + 3, route.len()].into_iter();
        while let (Some(from), Some(to)) = (ends.next(), ends.next()) {
            if route[from..to] != kind.payload[from..to] {
                return None;
            }
        }
        Some(number)
    };
    for (at, kind) in KINDS.iter().enumerate() {
        if let Some(number) = number(kind)
            && number % KINDS.len() == at
        {
            return Ok((number, added));
        }
    }
    Err(format!("no route of the table: {}", hex::encode(payload)))
}

#[test]
fn numbers_come_back() {
    for number in (0..300_000).step_by(997).chain(0..20) {
        let route = route(number);
        assert_eq!(number_of(&route), Ok((number, true)));
        assert_eq!(number_of(&[&[0x08, 1], &route[..]].concat()), Ok((number, false)));
        for at in 0..route.len() {
            let mut damaged = route.clone();
            damaged[at] ^= 1;
            assert!(number_of(&damaged).is_err(), "{number} {at}");
        }
    }
}
