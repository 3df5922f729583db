//! A peer whose TCP is written by hand, on a tun device: it sees each segment that the server's kernel sends.
//!
//! Owns one connection of a Go client: the handshake, what is acknowledged and when, and what it loses. Must never let
//! its kernel help.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::common;
use crate::packet::{ACK, Ends, FIN, PSH, RST, SYN, Segment};
use crate::receiver::{Answer, Habits, Receiver, Seen};
use crate::table;

const DELAYED_ACK: Duration = Duration::from_millis(40);
/// Holes in what it sends.
const HOLES: usize = 3;
/// How long they stay open, and how long until the next one may come.
const HOLE: Duration = Duration::from_millis(15);
const BETWEEN_HOLES: Duration = Duration::from_millis(25);
/// All clients speak now and then. It tells the server of the window too.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const SYN_AGAIN: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);
const OUR_SEQ: u32 = 0xFFFF_F000;
/// What is lost are segments of so many bytes at least.
const LOST_BYTES_MIN: usize = 400;
const PACKET_MAX: usize = 65_536;

/// When the peer's own segments come out of order, so that the server has to send SACK blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holes {
    None,
    /// From before its SUBSCRIBE on.
    Early,
    /// As soon as the server sends a full segment, now and then.
    Amid,
}

/// How the path and the peer's kernel behave.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub habits: Habits,
    pub mss: u16,
    pub timestamps: bool,
    pub sack: bool,
    /// On all that it sends.
    pub delay: Duration,
    /// Every so many new segments of the server are lost once.
    pub loses: Option<usize>,
    /// Whether window updates are lost that acknowledge nothing.
    pub loses_updates: bool,
    pub holes: Holes,
    /// The path's MTU from so many segments on.
    pub mtu_falls: Option<(usize, u16)>,
}

/// Subscribes to the table and reads so many routes. What was seen, or what went wrong, in words.
pub fn run(device: &File, ends: Ends, manners: Manners, routes: usize) -> Result<Seen, String> {
    let mut peer = Peer::new(device, ends, manners);
    peer.connect()?;
    let hello = [common::hello(60, false, false), common::keepalive()].concat();
    peer.receiver.seen.said += 1;
    peer.send(&hello);
    let subscribe = common::subscribe(table::VNI.into());
    let length = subscribe.len() as u32;
    let subscribe = Segment { flags: ACK | PSH, payload: subscribe, ..peer.segment() };
    peer.next_seq = peer.next_seq.wrapping_add(length);
    if manners.holes == Holes::Early {
        peer.open_holes();
    }
    peer.transmit(subscribe);
    let begun = Instant::now();
    let mut spoke_at = begun;
    while peer.receiver.seen.routes < routes {
        peer.step()?;
        if spoke_at.elapsed() > KEEPALIVE_INTERVAL {
            spoke_at = Instant::now();
            peer.receiver.seen.said += 1;
            peer.send(&common::keepalive());
        }
        if begun.elapsed() > PATIENCE {
            let came = peer.receiver.seen.routes;
            return Err(format!("{came} of {routes} routes: {}", peer.receiver));
        }
    }
    peer.transmit(Segment { flags: RST | ACK, ..peer.segment() });
    peer.leave(true);
    Ok(peer.receiver.seen)
}

struct Peer<'a> {
    device: &'a File,
    ends: Ends,
    manners: Manners,
    receiver: Receiver,
    their_seq: u32,
    next_seq: u32,
    begun: Instant,
    echo: u32,
    /// When the delayed-ACK timer goes off.
    ack_at: Option<Instant>,
    leaving: VecDeque<(Instant, Vec<u8>)>,
    lost_behind: u32,
    new_segments: usize,
    /// Frames that were not sent yet, though what follows each was; and when they will be.
    holes: Option<(Instant, Vec<Segment>)>,
    hole_at: Instant,
    duplicate: Option<(u32, u32)>,
}

impl Peer<'_> {
    fn new(device: &File, ends: Ends, manners: Manners) -> Peer<'_> {
        let now = Instant::now();
        Peer {
            device,
            ends,
            manners,
            receiver: Receiver::new(manners.habits),
            their_seq: 0,
            next_seq: OUR_SEQ,
            begun: now,
            echo: 0,
            ack_at: None,
            leaving: VecDeque::new(),
            lost_behind: 0,
            new_segments: 0,
            holes: None,
            hole_at: now,
            duplicate: None,
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        let Manners { mss, sack, .. } = self.manners;
        let window = self.manners.habits.space as u16;
        let syn = Segment {
            flags: SYN,
            ack: 0,
            window,
            mss: Some(mss),
            sack_permitted: sack,
            ..self.segment()
        };
        while self.their_seq == 0 {
            // A device that has just come up may lose one.
            self.transmit(syn.clone());
            let sent_at = Instant::now();
            while self.their_seq == 0 && sent_at.elapsed() < SYN_AGAIN {
                self.step()?;
            }
            if self.begun.elapsed() > PATIENCE {
                return Err("no SYN-ACK".to_owned());
            }
        }
        self.next_seq = self.next_seq.wrapping_add(1);
        self.acknowledge();
        Ok(())
    }

    /// Does what is due, and takes what comes.
    fn step(&mut self) -> Result<(), String> {
        self.leave(false);
        let now = Instant::now();
        let reads_at = self.receiver.reads_at(now);
        let hole_ends = self.holes.as_ref().map(|(at, _)| *at);
        let leaves_at = self.leaving.front().map(|(at, _)| *at);
        let timers = [reads_at, hole_ends, leaves_at, self.ack_at];
        let next = timers.into_iter().flatten().min().unwrap_or(now + DELAYED_ACK);
        self.wait(next.saturating_duration_since(now));
        let mut packet = vec![0; PACKET_MAX];
        while self.is_readable() {
            let length = (&mut &*self.device).read(&mut packet).map_err(|it| it.to_string())?;
            if let Some(segment) = self.ends.segment(&packet[..length]) {
                self.take(&segment, &packet[..length])?;
            }
        }
        let now = Instant::now();
        if self.holes.as_ref().is_some_and(|(at, _)| *at <= now)
            && let Some((_, late)) = self.holes.take()
        {
            late.into_iter().for_each(|segment| self.transmit(segment));
            self.hole_at = now + BETWEEN_HOLES;
        }
        if self.receiver.read(now) {
            // A read that empties the queue acknowledges what came.
            let tells = self.receiver.has_news() && !self.manners.loses_updates;
            if self.ack_at.is_some() || tells {
                self.acknowledge();
            }
        }
        if self.ack_at.is_some_and(|at| at <= now) {
            self.acknowledge();
        }
        Ok(())
    }

    fn take(&mut self, segment: &Segment, packet: &[u8]) -> Result<(), String> {
        if segment.flags & (RST | FIN) != 0 {
            return Err(format!("the server ended it: {}", self.receiver));
        }
        if segment.flags & SYN != 0 {
            self.their_seq = segment.seq.wrapping_add(1);
            self.echo = segment.timestamps.map_or(0, |(value, _)| value);
            return Ok(());
        }
        let offset = segment.seq.wrapping_sub(self.their_seq);
        if segment.payload.is_empty() {
            // A probe of the kernel's.
            if offset != self.receiver.next {
                self.acknowledge();
            }
            return Ok(());
        }
        let end = offset.wrapping_add(segment.payload.len() as u32);
        // Frames that go alone come through: a proof needs 19 of them in a row.
        if end > self.lost_behind && segment.payload.len() >= LOST_BYTES_MIN {
            self.new_segments += 1;
            let count = self.new_segments;
            let is_lost = self.manners.loses.is_some_and(|every| count.is_multiple_of(every));
            let limit = self.manners.mtu_falls.filter(|&(from, _)| count >= from);
            if let Some((_, mtu)) = limit.filter(|&(from, mtu)| {
                // Or the first one, as if another one had been too long.
                packet.len() > usize::from(mtu) || count == from
            }) {
                self.leaving.push_back((Instant::now(), self.ends.too_big(packet, mtu)));
                return Ok(());
            }
            self.lost_behind = end;
            if is_lost {
                return Ok(());
            }
        }
        if let Some((value, _)) = segment.timestamps
            && offset <= self.receiver.next
        {
            self.echo = value;
        }
        let is_full = segment.payload.len() + 30 > self.receiver.seen.longest;
        let is_long = segment.payload.len() >= LOST_BYTES_MIN;
        if self.manners.holes == Holes::Amid && is_full && is_long && self.holes.is_none() {
            self.open_holes();
        }
        if end <= self.receiver.next {
            self.duplicate = Some((offset, end));
        }
        match self.receiver.take(offset, &segment.payload, segment.sack.len()) {
            Answer::Now => self.acknowledge(),
            Answer::Soon if self.ack_at.is_none() => {
                self.ack_at = Some(Instant::now() + DELAYED_ACK);
            }
            Answer::Soon => {}
        }
        Ok(())
    }

    /// KEEPALIVEs, of which each other one comes late: the server has to send as many SACK blocks as it can.
    fn open_holes(&mut self) {
        let now = Instant::now();
        if now < self.hole_at {
            return;
        }
        let mut late = Vec::new();
        self.receiver.seen.said += 2 * HOLES;
        for _ in 0..HOLES {
            let payload = common::keepalive();
            let length = payload.len() as u32;
            late.push(Segment { flags: ACK | PSH, payload, ..self.segment() });
            self.next_seq = self.next_seq.wrapping_add(length);
            self.send(&common::keepalive());
        }
        self.holes = Some((now + HOLE, late));
    }

    fn send(&mut self, payload: &[u8]) {
        // Whatever it sends acknowledges all, and tells of the window.
        let window = self.receiver.acknowledge();
        self.ack_at = None;
        let payload = payload.to_vec();
        let length = payload.len() as u32;
        let segment = Segment { flags: ACK | PSH, window, payload, ..self.segment() };
        self.next_seq = self.next_seq.wrapping_add(length);
        self.transmit(segment);
    }

    fn acknowledge(&mut self) {
        self.ack_at = None;
        let window = self.receiver.acknowledge();
        let mut blocks = Vec::new();
        if self.manners.sack {
            blocks.extend(self.duplicate.take());
            blocks.extend(self.receiver.blocks());
            blocks.truncate(3);
        }
        let place = |offset: u32| self.their_seq.wrapping_add(offset);
        let sack = blocks.iter().map(|&(from, to)| (place(from), place(to))).collect();
        self.transmit(Segment { flags: ACK, window, sack, ..self.segment() });
    }

    /// One that acknowledges what was acknowledged before, or just now.
    fn segment(&self) -> Segment {
        let now_ms = self.begun.elapsed().as_millis() as u32 + 1;
        Segment {
            seq: self.next_seq,
            ack: self.their_seq.wrapping_add(self.receiver.next),
            window: self.receiver.window(),
            timestamps: self.manners.timestamps.then_some((now_ms, self.echo)),
            ..Segment::default()
        }
    }

    fn transmit(&mut self, segment: Segment) {
        let due = Instant::now() + self.manners.delay;
        self.leaving.push_back((due, self.ends.packet(&segment)));
        self.leave(false);
    }

    /// Packets that are due go out.
    fn leave(&mut self, all: bool) {
        let now = Instant::now();
        while let Some((due, _)) = self.leaving.front()
            && (all || *due <= now)
            && let Some((_, packet)) = self.leaving.pop_front()
        {
            // A device that is full loses it.
            let _ = (&mut &*self.device).write(&packet);
        }
    }

    fn wait(&self, limit: Duration) -> bool {
        let mut ready = [PollFd::new(self.device, PollFlags::IN)];
        let limit =
            Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        poll(&mut ready, Some(&limit)).is_ok_and(|count| count > 0)
    }

    fn is_readable(&self) -> bool {
        self.wait(Duration::ZERO)
    }
}
