//! What a receiving kernel and its reader do: put bytes in order, advertise a window, read all there is and take their
//! time for it.
//!
//! Owns the bytes that came, and how they lay in segments. Must never send.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::common::{Frame, KEEPALIVE, UPDATE};

/// What fails a client in the field: so many bytes unread.
const OVERRUN_BYTES: usize = 65_535;
const FINDINGS_MAX: usize = 3;

/// How it reads.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Bytes that it can hold: what it advertises when all is read.
    pub space: usize,
    /// What a route takes the reader.
    pub route: Duration,
    /// A stall, when so many routes were read.
    pub stall: Option<(usize, Duration)>,
    /// Every how many acknowledgements the window's edge moves left, which no receiver should do.
    pub shrinks: Option<u32>,
}

/// What was seen of the server's segments.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub segments: usize,
    /// Those that came once more.
    pub again: usize,
    /// KEEPALIVEs that fill up a segment, by more than a header.
    pub pads: usize,
    /// KEEPALIVEs that go alone, and those that the peer has sent, which are answered.
    pub alone: usize,
    pub said: usize,
    pub routes: usize,
    /// The most bytes on their way: between what was acknowledged and what came.
    pub under_way_max: usize,
    pub longest: usize,
    /// Reads of as much as a client in the field does not survive.
    pub overruns: usize,
    /// Segments that begin or end inside a frame.
    pub cut: usize,
    /// Connections that had such ones.
    pub broken: usize,
    pub findings: Vec<String>,
}

impl Seen {
    /// Whether several segments at a time came, filled up.
    pub fn used_slices(&self) -> bool {
        self.pads > 0 && self.under_way_max > self.longest
    }

    /// Adds what another connection saw.
    pub fn add(&mut self, other: &Seen) {
        self.segments += other.segments;
        self.again += other.again;
        self.pads += other.pads;
        self.alone += other.alone;
        self.said += other.said;
        self.routes += other.routes;
        self.under_way_max = self.under_way_max.max(other.under_way_max);
        self.longest = self.longest.max(other.longest);
        self.overruns += other.overruns;
        self.cut += other.cut;
        self.broken += usize::from(other.cut > 0);
        self.findings.extend(other.findings.iter().cloned());
        self.findings.truncate(FINDINGS_MAX);
    }
}

/// When to acknowledge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Now,
    /// Within the time of the delayed-ACK timer.
    Soon,
}

pub struct Receiver {
    habits: Habits,
    /// Offsets in the stream: what comes next, and how far the window that was advertised reaches.
    pub next: u32,
    edge: u32,
    acked: u32,
    highest: u32,
    acks: u32,
    early: BTreeMap<u32, Vec<u8>>,
    unread: Vec<u8>,
    partial: Vec<u8>,
    busy_until: Option<Instant>,
    pub seen: Seen,
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Receiver { next, edge, acked, seen, .. } = self;
        let unread = self.unread.len();
        write!(
            f,
            "{next} bytes came, {acked} acknowledged, window to {edge}, {unread} unread, {seen:?}"
        )
    }
}

impl Receiver {
    pub fn new(habits: Habits) -> Receiver {
        Receiver {
            habits,
            next: 0,
            edge: habits.space as u32,
            acked: 0,
            highest: 0,
            acks: 0,
            early: BTreeMap::new(),
            unread: Vec::new(),
            partial: Vec::new(),
            busy_until: None,
            seen: Seen::default(),
        }
    }

    /// A segment of bytes that begins at this offset, with so many blocks in its own options.
    pub fn take(&mut self, offset: u32, bytes: &[u8], blocks: usize) -> Answer {
        self.judge(offset, bytes, blocks);
        let end = offset.wrapping_add(bytes.len() as u32);
        if end <= self.next || end > self.next + self.free() as u32 {
            return Answer::Now;
        }
        self.highest = self.highest.max(end);
        self.seen.under_way_max = self.seen.under_way_max.max((self.highest - self.acked) as usize);
        if offset > self.next {
            self.early.insert(offset, bytes.to_vec());
            return Answer::Now;
        }
        let fills_hole = !self.early.is_empty();
        self.append(offset, bytes);
        while let Some((&at, _)) = self.early.first_key_value()
            && at <= self.next
        {
            let bytes = self.early.remove(&at).unwrap();
            self.append(at, &bytes);
        }
        // As kernels do: each second full segment at once.
        let much = self.next - self.acked >= 2 * self.seen.longest as u32;
        if fills_hole || much { Answer::Now } else { Answer::Soon }
    }

    /// What it cannot put in order yet: offsets from and to.
    pub fn blocks(&self) -> Vec<(u32, u32)> {
        let mut blocks: Vec<(u32, u32)> = Vec::new();
        for (&from, bytes) in &self.early {
            let to = from + bytes.len() as u32;
            match blocks.last_mut() {
                Some(last) if last.1 >= from => last.1 = last.1.max(to),
                _ => blocks.push((from, to)),
            }
        }
        blocks.truncate(3);
        blocks
    }

    /// An acknowledgement leaves: the window that it advertises.
    pub fn acknowledge(&mut self) -> u16 {
        self.acks += 1;
        self.acked = self.next;
        let edge = self.next + self.free() as u32;
        let least = (self.habits.space as u32 / 2).min(self.seen.longest.max(536) as u32);
        // No silly windows.
        if edge >= self.edge + least {
            self.edge = edge;
        }
        let mut window = self.edge.saturating_sub(self.next);
        if self.habits.shrinks.is_some_and(|every| self.acks.is_multiple_of(every)) {
            window -= window / 3;
        }
        window as u16
    }

    /// The window that was advertised last.
    pub fn window(&self) -> u16 {
        self.edge.saturating_sub(self.next) as u16
    }

    /// Whether the window that would be advertised is worth a word.
    pub fn has_news(&self) -> bool {
        let edge = self.next + self.free() as u32;
        edge >= self.edge + (self.habits.space as u32 / 2).min(2 * self.seen.longest as u32).max(1)
    }

    /// When the reader reads next, if there is something to read.
    pub fn reads_at(&self, now: Instant) -> Option<Instant> {
        (!self.unread.is_empty()).then(|| self.busy_until.unwrap_or(now).max(now))
    }

    /// The reader takes all there is, if it is its time. True if it did.
    pub fn read(&mut self, now: Instant) -> bool {
        if self.unread.is_empty() || self.busy_until.is_some_and(|until| until > now) {
            return false;
        }
        self.seen.overruns += usize::from(self.unread.len() >= OVERRUN_BYTES);
        let before = self.seen.routes;
        // That a frame is cut was seen by its segments: here it is put together, so that the run comes to its end.
        self.partial.append(&mut self.unread);
        let mut whole = 0;
        for frame in Frame::all_of(&self.partial) {
            whole += 4 + frame.payload.len();
            match (frame.kind, frame.payload.len()) {
                (UPDATE, _) => self.seen.routes += 1,
                (KEEPALIVE, 1..) => self.seen.pads += 1,
                _ => {}
            }
        }
        self.partial.drain(..whole);
        let read = before..self.seen.routes;
        let mut busy = self.habits.route * read.len() as u32;
        if let Some((at, stall)) = self.habits.stall
            && read.contains(&at)
        {
            busy += stall;
        }
        self.busy_until = Some(now + busy);
        true
    }

    /// Whether each segment is whole frames.
    fn judge(&mut self, offset: u32, bytes: &[u8], blocks: usize) {
        self.seen.segments += 1;
        let again = offset < self.highest;
        self.seen.again += usize::from(again);
        self.seen.alone += usize::from(!again && bytes.len() == 4);
        self.seen.longest = self.seen.longest.max(bytes.len());
        let mut rest = bytes;
        while let [1, high, low, 1..=5, ..] = rest
            && let Some(behind) = rest.get(4 + usize::from(u16::from_be_bytes([*high, *low]))..)
        {
            rest = behind;
        }
        if !rest.is_empty() {
            self.seen.cut += 1;
            let (length, at) = (bytes.len(), bytes.len() - rest.len());
            let when = if again { "sent again" } else { "new" };
            self.find(format!(
                "a segment ({when}) of {length} bytes at {offset} is no whole frames behind {at}, \
                 with {blocks} SACK blocks, window to {}, acknowledged to {}",
                self.edge, self.acked
            ));
        }
    }

    fn append(&mut self, offset: u32, bytes: &[u8]) {
        let known = (self.next - offset) as usize;
        if known < bytes.len() {
            self.unread.extend(&bytes[known..]);
            self.next = offset + bytes.len() as u32;
        }
    }

    fn free(&self) -> usize {
        let early: usize = self.early.values().map(Vec::len).sum();
        let free = self.habits.space.saturating_sub(self.unread.len() + early);
        free.max(self.edge.saturating_sub(self.next) as usize)
    }

    fn find(&mut self, words: String) {
        if self.seen.findings.len() < FINDINGS_MAX {
            self.seen.findings.push(words);
        }
    }
}
