//! Many segments in one SEND, each of whole frames: padded with KEEPALIVEs.
//!
//! Owns when that is allowed, and how frames are laid out. Must never let a frame cross the end of a slice.

use std::time::Duration;

use super::trouble::Trouble;
use super::{Permit, TcpSample};
use crate::types::Time;
use crate::wire::{HEADER_BYTES, KEEPALIVE_FRAME, UPDATE_FRAME_BYTES_MAX, frame_len};

/// Bytes of a slice, those of a path that carries an MTU of 1280. Larger segments may be cut anew when a path
/// changes.
const SLICE_BYTES: std::ops::RangeInclusive<u32> = 600..=1220;
/// From this size on segments are those of the loopback device, whose path does not change: one takes all.
const LOOPBACK_SEGMENT_BYTES: u32 = 16 << 10;
/// The longest way on which slices are used: the kernel keeps their ends only as long as it sends at once.
const MIN_RTT_MAX_US: u32 = 1_000;
/// Between two looks whether more segments may go out.
const ASK_AGAIN: Duration = Duration::from_micros(500);
/// How long nothing may have been lost or come out of order: SACK blocks make segments shorter.
const QUIET: Duration = Duration::from_secs(5);
/// Bytes of a SEND.
const SEND_BYTES_MAX: usize = 48 << 10;
/// What a slice may lose to a pad: a frame that does not fit by a byte, or leaves less than a header.
const PAD_BYTES_MAX: usize = UPDATE_FRAME_BYTES_MAX + HEADER_BYTES - 1;

/// What is known about the path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quiet {
    is_known: bool,
    snd_mss: u32,
    min_rtt_us: u32,
    /// Segments that may go out at once.
    segments_left: usize,
    trouble: Trouble,
    asked_at: Time,
}

impl Quiet {
    /// How TCP stands now.
    pub(super) fn take(&mut self, now: Time, sample: &TcpSample) {
        self.asked_at = now;
        self.is_known = sample.is_known();
        self.snd_mss = sample.snd_mss;
        self.min_rtt_us = sample.min_rtt_us;
        self.segments_left = sample.snd_cwnd.saturating_sub(sample.unacked_segments) as usize;
        self.trouble.take(now, sample);
    }

    /// Bytes were handed over.
    pub(super) fn sent(&mut self, bytes: usize) {
        let segments = bytes.div_ceil(self.snd_mss.max(1) as usize);
        self.segments_left = self.segments_left.saturating_sub(segments);
    }

    /// Whether a sample may show that more segments may go out.
    pub(super) fn lacks_room(&self, now: Time, bytes_max: u64) -> bool {
        self.is_known
            && now >= self.asked_at.after(ASK_AGAIN)
            && self.segments_left < 2
            && SLICE_BYTES.contains(&self.snd_mss)
            && bytes_max >= 2 * u64::from(self.snd_mss)
    }

    /// More than one batch, if that is allowed and fits.
    pub(super) fn slices(&self, now: Time, bytes_max: u64) -> Option<Permit> {
        let is_quiet = !self.trouble.is_lossy(now, QUIET) && !self.trouble.has_holes(now, QUIET);
        if !self.is_known || !(1..MIN_RTT_MAX_US).contains(&self.min_rtt_us) || !is_quiet {
            return None;
        }
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(SEND_BYTES_MAX);
        if self.snd_mss >= LOOPBACK_SEGMENT_BYTES {
            let segment = self.snd_mss as usize - super::SACK_BYTES;
            return Some(Permit::Batch { bytes_max: segment.min(bytes_max) });
        }
        let slice_bytes = self.snd_mss as usize;
        let bytes_max = bytes_max.min(self.segments_left.saturating_mul(slice_bytes));
        (SLICE_BYTES.contains(&self.snd_mss) && bytes_max >= 2 * slice_bytes)
            .then_some(Permit::Slices { slice_bytes, bytes_max })
    }
}

/// Lays frames out in slices, each of whole frames and filled up by a KEEPALIVE but for the last one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packer {
    slice_bytes: usize,
    /// Bytes that may still be laid out, pads included.
    left: usize,
    /// Bytes that are free in the slice that was begun.
    room: usize,
    pads: usize,
}

impl Packer {
    /// Nothing was laid out yet, and `bytes_max` may be.
    pub(crate) fn new(slice_bytes: usize, bytes_max: usize) -> Packer {
        Packer { slice_bytes, left: bytes_max, room: slice_bytes, pads: 0 }
    }

    /// Bytes of frames that fit in any case; 0 if a frame might not.
    pub(crate) fn free(&self) -> usize {
        // Behind what is laid out there is always room for a pad.
        let last = |bytes: usize| bytes.saturating_sub(HEADER_BYTES);
        let free = if self.left <= self.room {
            last(self.left)
        } else {
            let behind = self.left - self.room;
            self.room.saturating_sub(PAD_BYTES_MAX)
                + behind / self.slice_bytes * (self.slice_bytes - PAD_BYTES_MAX)
                + last(behind % self.slice_bytes)
        };
        if free < UPDATE_FRAME_BYTES_MAX { 0 } else { free }
    }

    /// KEEPALIVEs that slices were filled up with.
    pub(crate) fn pads(&self) -> usize {
        self.pads
    }

    /// Lays out whole frames, of at most [`Packer::free`] bytes, behind those before.
    ///
    /// # Panics
    /// If they do not fit.
    pub(crate) fn add(&mut self, frames: &[u8], packed: &mut Vec<u8>) {
        let length_before = packed.len();
        // What fits a slice is copied at once.
        let (mut from, mut to) = (0, 0);
        while to < frames.len() {
            let length = frame_len(&frames[to..]);
            if length <= self.room && !(1..HEADER_BYTES).contains(&(self.room - length)) {
                to += length;
                self.room -= length;
                continue;
            }
            assert!(self.room < self.slice_bytes, "a frame fits an empty slice");
            packed.extend_from_slice(&frames[from..to]);
            from = to;
            if self.room > 0 {
                self.pads += 1;
                pad(self.room, packed);
            }
            self.room = self.slice_bytes;
        }
        packed.extend_from_slice(&frames[from..]);
        let laid_out = packed.len() - length_before;
        assert!(laid_out <= self.left, "no more than there is room for");
        self.left -= laid_out;
    }
}

/// A KEEPALIVE of so many bytes, of which nobody reads the payload.
fn pad(bytes: usize, packed: &mut Vec<u8>) {
    let payload = u16::try_from(bytes - HEADER_BYTES).expect("a slice is shorter");
    let mut header = KEEPALIVE_FRAME;
    header[1..3].copy_from_slice(&payload.to_be_bytes());
    packed.extend_from_slice(&header);
    packed.resize(packed.len() + usize::from(payload), 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frames;

    fn frame(kind: u8, bytes: usize) -> Vec<u8> {
        let mut frame = vec![1, 0, (bytes - HEADER_BYTES) as u8, kind];
        frame.resize(bytes, kind);
        frame
    }

    proptest! {
        /// Cut at each multiple of a slice, every segment has whole frames; without pads it is what was given; and
        /// what was said to fit does, to the last slice.
        #[test]
        fn slices_are_whole_frames_and_full(
            lengths in prop_oneof![
                proptest::collection::vec(20..=UPDATE_FRAME_BYTES_MAX, 1..1_500),
                (60..=UPDATE_FRAME_BYTES_MAX).prop_map(|bytes| vec![bytes; 1_500]),
            ],
            slice_bytes in 600_usize..1_221,
            bytes_max in 1_220_usize..50_000,
            parts in proptest::collection::vec(1_usize..40, 1..50),
        ) {
            let mut packer = Packer::new(slice_bytes, bytes_max);
            let (mut given, mut packed) = (Vec::new(), Vec::new());
            let (mut left, mut parts) = (lengths.iter().peekable(), parts.iter().cycle());
            while left.peek().is_some() && packer.free() > 0 {
                // As much as fits, or less.
                let (mut part, most) = (Vec::new(), *parts.next().unwrap());
                while part.len() < most
                    && let Some(&bytes) = left.next_if(|&&bytes| {
                        part.iter().map(Vec::len).sum::<usize>() + bytes <= packer.free()
                    })
                {
                    part.push(frame(5, bytes));
                }
                packer.add(&part.concat(), &mut packed);
                given.append(&mut part);
            }
            let (mut kept, mut padded) = (Vec::new(), 0);
            prop_assert!(packed.len() <= bytes_max);
            for segment in packed.chunks(slice_bytes) {
                let mut length = 0;
                for it in frames(segment) {
                    length += it.len();
                    match it[3] {
                        5 => kept.push(it.to_vec()),
                        kind => {
                            padded += 1;
                            prop_assert_eq!((kind, length), (KEEPALIVE_FRAME[3], slice_bytes));
                        }
                    }
                }
                prop_assert_eq!(length, segment.len());
            }
            prop_assert_eq!((kept, padded), (given, packer.pads()));
            let is_full = bytes_max - packed.len() < 3 * UPDATE_FRAME_BYTES_MAX;
            prop_assert!(left.peek().is_none() || is_full);
        }
    }
}
