//! IP packets with a TCP segment, and ICMP "too big", as bytes.
//!
//! Owns their layout, as far as the peer needs it. Must never know a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::checksum;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
const TCP: u8 = 6;
/// What a "too big" answer quotes: both headers, and some bytes.
const QUOTED_BYTES: usize = 120;

/// A segment. What options it has not are empty.
#[derive(Clone, Default, Debug)]
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub mss: Option<u16>,
    pub sack_permitted: bool,
    /// Value and echo.
    pub timestamps: Option<(u32, u32)>,
    pub sack: Vec<(u32, u32)>,
    pub payload: Vec<u8>,
}

/// Addresses and ports of both sides.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub ours: (IpAddr, u16),
    pub theirs: (IpAddr, u16),
}

impl Ends {
    /// The packet that carries a segment of ours.
    pub fn packet(&self, segment: &Segment) -> Vec<u8> {
        let options = options(segment);
        let mut tcp = Vec::new();
        tcp.extend(self.ours.1.to_be_bytes());
        tcp.extend(self.theirs.1.to_be_bytes());
        tcp.extend(segment.seq.to_be_bytes());
        tcp.extend(segment.ack.to_be_bytes());
        tcp.push(((20 + options.len()) as u8 / 4) << 4);
        tcp.push(segment.flags);
        tcp.extend(segment.window.to_be_bytes());
        // Checksum and urgent pointer.
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(&segment.payload);
        let sum = checksum(&[&self.pseudo_header(TCP, tcp.len())[..], &tcp[..]].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        self.wrap(TCP, &tcp)
    }

    /// The segment of theirs that a packet carries, if it is one of this connection.
    pub fn segment(&self, packet: &[u8]) -> Option<Segment> {
        let (protocol, tcp) = match (packet.first()? >> 4, self.ours.0) {
            (6, IpAddr::V6(_)) => (packet[6], packet.get(40..)?),
            (4, IpAddr::V4(_)) => (packet[9], packet.get(usize::from(packet[0] & 15) * 4..)?),
            _ => return None,
        };
        let short = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let long = |at: usize| Some(u32::from(short(at)?) << 16 | u32::from(short(at + 2)?));
        if protocol != TCP || short(0)? != self.theirs.1 || short(2)? != self.ours.1 {
            return None;
        }
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let mut segment = Segment {
            seq: long(4)?,
            ack: long(8)?,
            flags: tcp[13],
            window: short(14)?,
            payload: tcp.get(header..)?.to_vec(),
            ..Segment::default()
        };
        let mut at = 20;
        while at < header {
            let length = usize::from(*tcp.get(at + 1)?).max(1);
            match tcp[at] {
                0 => break,
                1 => at += 1,
                kind => {
                    match kind {
                        2 => segment.mss = short(at + 2),
                        5 => {
                            let blocks = (length - 2) / 8;
                            let block = |n| Some((long(at + 2 + 8 * n)?, long(at + 6 + 8 * n)?));
                            segment.sack = (0..blocks).filter_map(block).collect();
                        }
                        8 => segment.timestamps = Some((long(at + 2)?, long(at + 6)?)),
                        _ => {}
                    }
                    at += length;
                }
            }
        }
        Some(segment)
    }

    /// ICMP "packet too big", or "fragmentation needed", for a packet of theirs.
    pub fn too_big(&self, packet: &[u8], mtu: u16) -> Vec<u8> {
        let v6 = self.ours.0.is_ipv6();
        let mut message = if v6 { vec![2, 0, 0, 0, 0, 0] } else { vec![3, 4, 0, 0, 0, 0] };
        message.extend(mtu.to_be_bytes());
        message.extend(&packet[..packet.len().min(QUOTED_BYTES)]);
        let protocol = if v6 { 58 } else { 1 };
        let pseudo = if v6 { self.pseudo_header(protocol, message.len()) } else { Vec::new() };
        let sum = checksum(&[&pseudo[..], &message[..]].concat());
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.wrap(protocol, &message)
    }

    fn addresses(&self) -> Vec<u8> {
        match (self.ours.0, self.theirs.0) {
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => [ours.octets(), theirs.octets()].concat(),
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => [ours.octets(), theirs.octets()].concat(),
            _ => unreachable!("both are of one kind"),
        }
    }

    fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let mut header = self.addresses();
        header.extend((length as u32).to_be_bytes());
        header.extend([0, 0, 0, protocol]);
        header
    }

    fn wrap(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        if self.ours.0.is_ipv6() {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(self.addresses());
        } else {
            packet.extend([0x45, 0]);
            packet.extend((20 + payload.len() as u16).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(self.addresses());
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(payload);
        packet
    }
}

/// Addresses of the server's side and of peer number `peer` on the device.
pub fn addresses(v6: bool, peer: u16) -> (IpAddr, IpAddr) {
    let at = |host: u16| match v6 {
        true => IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host)),
        false => IpAddr::from(Ipv4Addr::new(10, 9, 0, host as u8)),
    };
    (at(1), at(2 + peer))
}

fn options(segment: &Segment) -> Vec<u8> {
    let mut options = Vec::new();
    if let Some(mss) = segment.mss {
        options.extend([2, 4]);
        options.extend(mss.to_be_bytes());
    }
    if segment.sack_permitted {
        options.extend([1, 1, 4, 2]);
    }
    if let Some((value, echo)) = segment.timestamps {
        options.extend([1, 1, 8, 10]);
        options.extend(value.to_be_bytes());
        options.extend(echo.to_be_bytes());
    }
    if !segment.sack.is_empty() {
        options.extend([1, 1, 5, 2 + 8 * segment.sack.len() as u8]);
        for (from, to) in &segment.sack {
            options.extend(from.to_be_bytes());
            options.extend(to.to_be_bytes());
        }
    }
    options
}
