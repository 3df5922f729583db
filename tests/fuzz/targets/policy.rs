//! Any text as a policy's file: it is read or refused with words; what is read is written and read again unchanged; and
//! peers are judged as by a walk over all rules.
use std::net::IpAddr;
use std::sync::Arc;

use metalbond_uring::internals::policy::{AnnouncePolicy, NextHopPolicy, Policy};
use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};

pub fn run(text: &[u8]) {
    let rules = match AnnouncePolicy::parse(text) {
        Ok(rules) => rules,
        Err(error) => {
            let said = error.to_string();
            assert!(said.lines().count() <= 21 && said.len() < 21 * 1_000, "{said}");
            assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
            return;
        }
    };
    let written = rules.to_string();
    let again = AnnouncePolicy::parse(written.as_bytes()).expect("what is written can be read");
    assert!(again.since(&rules).is_none(), "written and read again: {written}");

    // Who is judged is drawn from the text: from its own addresses and numbers, else nobody would be met.
    let words: Vec<&str> = written.split([' ', ',', '\n']).collect();
    let addresses: Vec<IpAddr> = words.iter().filter_map(|word| address(word)).take(4).collect();
    let vnis: Vec<u32> = words.iter().filter_map(|word| first_number(word)).take(4).collect();
    let rules = Arc::new(rules);
    let policy = Policy::new(NextHopPolicy::Any, Some(Arc::clone(&rules))).expect("it has rules");
    let localhost = [IpAddr::from([127, 0, 0, 1])];
    for &peer in addresses.iter().chain(&localhost) {
        let judge = policy.judge_of(peer);
        for &prefix in addresses.iter().chain(&localhost) {
            for &vni in vnis.iter().chain(&[0]) {
                let route = route(prefix, peer, vni);
                let walked = rules.walk(peer.to_canonical(), Vni(vni), &route);
                assert_eq!(judge.line(Vni(vni), &route), walked.map(Some), "{peer} {vni} {route}");
            }
        }
    }
}

/// The address before a length, or alone.
fn address(word: &str) -> Option<IpAddr> {
    word.split(['/', '{']).next()?.parse().ok()
}

fn first_number(word: &str) -> Option<u32> {
    word.split('-').next()?.parse().ok()
}

/// A route of which much follows from the VNI.
fn route(prefix: IpAddr, next_hop: IpAddr, vni: u32) -> Route {
    let bits = if prefix.is_ipv4() { 32 } else { 128 };
    Route {
        destination: Destination { prefix, length: (vni % (bits + 1)) as u8 },
        next_hop: NextHop {
            address: if vni % 3 == 0 { prefix } else { next_hop },
            vni: Vni(vni / 2),
            kind: NextHopType((vni % 4) as i32),
            nat_port_from: 0,
            nat_port_to: 0,
        },
    }
}
