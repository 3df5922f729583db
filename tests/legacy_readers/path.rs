//! A path in user space between two tun devices: delay, loss, doubled and reordered packets, and an MTU that falls.
//!
//! Owns the packets on their way. Must never look into them beyond what an answer "too big" needs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::case::Path;
use crate::checksum::checksum;
use crate::net::Signals;
use crate::rng::Rng;

/// How long it waits if nothing is on its way.
const IDLE: Duration = Duration::from_millis(50);
const PACKET_MAX: usize = 65_536;
/// What a "too big" answer quotes at most: it has to fit in 1,280 bytes, in IPv4 in 576.
const QUOTED_MAX: usize = 1_280 - 48;
const QUOTED_IPV4_MAX: usize = 576 - 28;

/// How packets fare, and what their luck comes from.
pub struct Way {
    pub path: Path,
    pub mtu_falls_to: Option<usize>,
    pub seed: u64,
}

/// Carries packets between the two devices until it is over.
pub fn carry(ends: [File; 2], way: Way, signals: &Signals) {
    let rng = Rng::new(way.seed);
    let mut carrier = Carrier { way, mtu: None, rng, on_their_way: BinaryHeap::new(), order: 0 };
    let mut buffer = vec![0; PACKET_MAX];
    while !signals.over.load(Ordering::Relaxed) {
        let next = carrier.deliver(&ends);
        wait(&ends, next);
        if signals.mtu_has_fallen.load(Ordering::Relaxed) {
            carrier.mtu = carrier.way.mtu_falls_to;
        }
        for (at, end) in ends.iter().enumerate() {
            // At most some at a time: what is due must leave.
            for _ in 0..32 {
                // Nothing is there, or the device is gone.
                let Ok(length) = (&mut &*end).read(&mut buffer) else { break };
                carrier.take(at, end, &buffer[..length]);
            }
        }
    }
}

/// When a packet is due, which came first, to which end, and the packet.
type Due = (Instant, u64, usize, Vec<u8>);

struct Carrier {
    way: Way,
    mtu: Option<usize>,
    rng: Rng,
    on_their_way: BinaryHeap<Reverse<Due>>,
    order: u64,
}

impl Carrier {
    /// Hands over what is due. How long until there is more.
    fn deliver(&mut self, ends: &[File; 2]) -> Duration {
        let now = Instant::now();
        while let Some(Reverse((due, ..))) = self.on_their_way.peek() {
            if *due > now {
                return due.saturating_duration_since(now);
            }
            if let Some(Reverse((_, _, to, packet))) = self.on_their_way.pop() {
                // A device that is down, or full, loses it.
                let _ = (&mut &ends[to]).write(&packet);
            }
        }
        IDLE
    }

    /// Takes a packet from end number `at`.
    fn take(&mut self, at: usize, end: &File, packet: &[u8]) {
        let path = self.way.path;
        if let Some(mtu) = self.mtu.filter(|&mtu| packet.len() > mtu) {
            if let Some(answer) = too_big(packet, mtu) {
                let _ = (&mut &*end).write(&answer);
            }
            return;
        }
        if self.rng.below(10_000) < path.lost {
            return;
        }
        let copies = 1 + usize::from(self.rng.below(10_000) < path.doubled);
        for _ in 0..copies {
            let late = self.rng.below(10_000) < path.reordered;
            let more_us = if late { 200 + self.rng.below(5_000) as u64 } else { 0 };
            let due = Instant::now() + Duration::from_micros(path.delay_us + more_us);
            self.order += 1;
            self.on_their_way.push(Reverse((due, self.order, 1 - at, packet.to_vec())));
        }
    }
}

fn wait(ends: &[File; 2], limit: Duration) {
    let mut ready = [PollFd::new(&ends[0], PollFlags::IN), PollFd::new(&ends[1], PollFlags::IN)];
    let _ = poll(&mut ready, Some(&timespec(limit)));
}

/// As the kernel wants it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// "Packet too big" (ICMPv6), or "fragmentation needed", to the sender of a packet.
fn too_big(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        6 if packet.len() >= 40 => Some(too_big_ipv6(packet, mtu)),
        4 if packet.len() >= 20 => Some(too_big_ipv4(packet, mtu)),
        _ => None,
    }
}

fn too_big_ipv6(packet: &[u8], mtu: usize) -> Vec<u8> {
    let (source, destination) = (&packet[8..24], &packet[24..40]);
    let mut message = vec![2, 0, 0, 0];
    message.extend((mtu as u32).to_be_bytes());
    message.extend(&packet[..packet.len().min(QUOTED_MAX)]);
    let length = message.len() as u16;
    // The pseudo header: addresses, length, next header.
    let pseudo = [destination, source, &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = checksum(&[&pseudo[..], &message[..]].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut answer = vec![0x60, 0, 0, 0];
    answer.extend(length.to_be_bytes());
    answer.extend([58, 64]);
    answer.extend(destination);
    answer.extend(source);
    answer.extend(message);
    answer
}

fn too_big_ipv4(packet: &[u8], mtu: usize) -> Vec<u8> {
    let (source, destination) = (&packet[12..16], &packet[16..20]);
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend((mtu as u16).to_be_bytes());
    message.extend(&packet[..packet.len().min(QUOTED_IPV4_MAX)]);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = (20 + message.len()) as u16;
    let mut answer = vec![0x45, 0];
    answer.extend(length.to_be_bytes());
    // No id, may not be cut; TTL, ICMP, and the sum, which is not known yet.
    answer.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
    answer.extend(destination);
    answer.extend(source);
    let sum = checksum(&answer);
    answer[10..12].copy_from_slice(&sum.to_be_bytes());
    answer.extend(message);
    answer
}

#[test]
fn answers_that_a_packet_is_too_big_have_their_sums() {
    let ipv4 = [&[0x45, 0, 5, 0, 0, 0, 0x40, 0, 64, 6, 0, 0][..], &[10; 4], &[11; 4], &[7; 1260]];
    let answer = too_big(&ipv4.concat(), 1_279).unwrap();
    assert_eq!((checksum(&answer[..20]), checksum(&answer[20..])), (0, 0));
    assert_eq!((&answer[12..16], &answer[16..20]), (&[11; 4][..], &[10; 4][..]));
    assert!(answer.len() <= 576 && answer[26..28] == 1_279_u16.to_be_bytes());
    let ipv6 = [&[0x60, 0, 0, 0, 5, 20, 6, 64][..], &[1; 16], &[2; 16], &[7; 1300]].concat();
    let answer = too_big(&ipv6, 1_280).unwrap();
    let length = (answer.len() - 40) as u16;
    let pseudo = [&answer[8..40], &length.to_be_bytes(), &[0, 58], &answer[40..]].concat();
    assert_eq!(checksum(&pseudo), 0);
    assert!(answer.len() <= 1_280 && answer[8..24] == [2; 16] && answer[24..40] == [1; 16]);
}
