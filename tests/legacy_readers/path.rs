//! A path in user space between two tun devices: delay, loss, doubled and reordered packets, and an MTU that falls.
//!
//! Owns the packets on their way. Must never look into them beyond what an answer "too big" needs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::case::Path;
use crate::rng::Rng;

/// When a path's MTU falls.
const MTU_FALLS_AFTER: Duration = Duration::from_millis(500);
const PACKET_MAX: usize = 65_536;
/// What a "too big" answer quotes at most: it has to fit in 1,280 bytes.
const QUOTED_MAX: usize = 1_280 - 48;

/// Carries packets between the two devices until `over`.
pub fn carry(ends: [File; 2], path: Path, seed: u64, over: &AtomicBool) {
    let mut rng = Rng::new(seed ^ 0x0F_A7);
    let begun = Instant::now();
    let mut on_their_way = BinaryHeap::<Reverse<(Instant, u64, u8, Vec<u8>)>>::new();
    let mut order = 0u64;
    let mut buffer = vec![0; PACKET_MAX];
    while !over.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Some(Reverse((due, ..))) = on_their_way.peek()
            && *due <= now
            && let Some(Reverse((_, _, to, packet))) = on_their_way.pop()
        {
            // A device that is down, or full, loses it.
            let _ = (&ends[to as usize]).write(&packet);
        }
        let next = on_their_way.peek().map(|Reverse((due, ..))| *due);
        wait(
            &ends,
            next.map_or(Duration::from_millis(50), |due| due.saturating_duration_since(now)),
        );
        for from in 0..2 {
            // At most some at a time: what is due must leave.
            for _ in 0..32 {
                if !ready(&ends[from]) {
                    break;
                }
                let Ok(length) = (&ends[from]).read(&mut buffer) else { break };
                let packet = &buffer[..length];
                let falls = begun.elapsed() >= MTU_FALLS_AFTER;
                if let Some(mtu) = path.mtu_falls_to.filter(|&mtu| falls && length > mtu) {
                    if let Some(answer) = too_big(packet, mtu) {
                        let _ = (&ends[from]).write(&answer);
                    }
                    continue;
                }
                if rng.below(10_000) < path.lost {
                    continue;
                }
                let copies = 1 + usize::from(rng.below(10_000) < path.doubled);
                for _ in 0..copies {
                    let mut delay_us = path.delay_us;
                    if rng.below(10_000) < path.reordered {
                        delay_us += 200 + rng.below(5_000) as u64;
                    }
                    order += 1;
                    let due = Instant::now() + Duration::from_micros(delay_us);
                    on_their_way.push(Reverse((due, order, 1 - from as u8, packet.to_vec())));
                }
            }
        }
    }
}

fn wait(ends: &[File; 2], limit: Duration) {
    let mut ready = [PollFd::new(&ends[0], PollFlags::IN), PollFd::new(&ends[1], PollFlags::IN)];
    let _ = poll(&mut ready, Some(&timespec(limit)));
}

fn ready(end: &File) -> bool {
    let mut ready = [PollFd::new(end, PollFlags::IN)];
    poll(&mut ready, Some(&timespec(Duration::ZERO))).is_ok_and(|count| count > 0)
}

/// As the kernel wants it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// ICMPv6 "packet too big" to the sender of an IPv6 packet.
fn too_big(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    if packet.len() < 40 || packet[0] >> 4 != 6 {
        return None;
    }
    let (source, destination) = (&packet[8..24], &packet[24..40]);
    let quoted = &packet[..packet.len().min(QUOTED_MAX)];
    let mut message = vec![2, 0, 0, 0];
    message.extend((mtu as u32).to_be_bytes());
    message.extend(quoted);
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
    Some(answer)
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | two.get(1).map_or(0, |&low| u32::from(low)));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}
