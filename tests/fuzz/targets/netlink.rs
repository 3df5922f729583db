//! A kernel that answers and tells anything: nothing panics, and nothing is touched that is not ours.

use std::collections::BTreeMap;
use std::time::Duration;

use metalbond_uring::internals::kernel::{KernelConfig, NexthopObjects, StrangeKernel};
use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};

use crate::input::Input;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut kernel = StrangeKernel::new(config(input.byte()));
    while !input.0.is_empty() {
        let what = input.byte();
        match what % 8 {
            0 => kernel.want(Vni(1 + u32::from(what >> 3 & 1)), route(input.byte()), what < 128),
            1 => kernel.link(input.datagram()),
            2 => kernel.events(input.datagram()),
            3 => kernel.dump(input.datagram(), input.datagram()),
            4 if what >= 248 => kernel.sweep(),
            5 => kernel.pass(Duration::from_millis(1 << (input.byte() % 16))),
            _ => kernel.batch(input.datagram()),
        }
    }
}

impl<'a> Input<'a> {
    fn datagram(&mut self) -> &'a [u8] {
        let count = u16::from_le_bytes([self.byte(), self.byte()]);
        self.bytes(usize::from(count))
    }
}

fn config(chosen: u8) -> KernelConfig {
    let tables = BTreeMap::from([(Vni(1), 100), (Vni(2), 0)]);
    let mut config = KernelConfig::new("tun", tables);
    config.seed = 7;
    config.ipv4_only = chosen & 1 == 1;
    config.hops_max = if chosen & 2 == 0 { 2 } else { 32 };
    if chosen & 4 == 4 {
        config.nexthop_objects = NexthopObjects::Never;
    }
    config
}

/// Few, so that they meet with what the kernel tells.
fn route(chosen: u8) -> Route {
    let destination = match chosen & 1 {
        0 => Destination { prefix: [10, 0, chosen >> 1 & 3, 0].into(), length: 24 },
        _ => Destination { prefix: [0xfd; 16].into(), length: 128 - (chosen >> 1 & 3) },
    };
    let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, chosen >> 3 & 7];
    let next_hop = NextHop {
        address: address.into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    Route { destination, next_hop }
}
