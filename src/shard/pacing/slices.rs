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
/// Bytes of a SEND, and slices of one.
const SEND_BYTES_MAX: usize = 48 << 10;
const SLICES_MAX: usize = 41;
/// What a slice may lose to a pad: a frame that does not fit by a byte, or leaves less than a header.
const PAD_BYTES_MAX: usize = UPDATE_FRAME_BYTES_MAX - 1 + HEADER_BYTES - 1;

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
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        if self.snd_mss >= LOOPBACK_SEGMENT_BYTES {
            let segment = (self.snd_mss - super::SACK_BYTES) as usize;
            return Some(Permit::Slices {
                slice_bytes: segment.min(bytes_max).min(SEND_BYTES_MAX),
                slices_max: 1,
            });
        }
        let slice_bytes = self.snd_mss as usize;
        let slices_max = (bytes_max / slice_bytes.max(1)).min(self.segments_left).min(SLICES_MAX);
        (SLICE_BYTES.contains(&self.snd_mss) && slices_max >= 2)
            .then_some(Permit::Slices { slice_bytes, slices_max })
    }
}

/// Bytes of frames that fit so many slices in any case.
pub(crate) fn content_bytes(slice_bytes: usize, slices_max: usize) -> usize {
    match slices_max {
        0 | 1 => slice_bytes,
        _ => slices_max * (slice_bytes - PAD_BYTES_MAX),
    }
}

/// Lays frames out in slices, each of whole frames and filled up by a KEEPALIVE but for the last one. Returns
/// the number of those.
pub(crate) fn pack(frames: &[u8], slice_bytes: usize, packed: &mut Vec<u8>) -> usize {
    let mut pads = 0;
    // What fits a slice is copied at once.
    let (mut from, mut to, mut room) = (0, 0, slice_bytes);
    while to < frames.len() {
        let length = frame_len(&frames[to..]);
        let fits = length <= room && !(1..HEADER_BYTES).contains(&(room - length));
        if fits {
            to += length;
            room -= length;
            continue;
        }
        assert!(room < slice_bytes, "a frame fits an empty slice");
        packed.extend_from_slice(&frames[from..to]);
        from = to;
        if room > 0 {
            pads += 1;
            pad(room, packed);
        }
        room = slice_bytes;
    }
    packed.extend_from_slice(&frames[from..]);
    pads
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
        /// what was said to fit does.
        #[test]
        fn slices_are_whole_frames_and_full(
            lengths in proptest::collection::vec(20..UPDATE_FRAME_BYTES_MAX, 1..1_500),
            slice_bytes in 600_usize..1_221,
        ) {
            let given: Vec<Vec<u8>> = lengths.iter().map(|&bytes| frame(5, bytes)).collect();
            let mut packed = Vec::new();
            let pads = pack(&given.concat(), slice_bytes, &mut packed);
            let (mut kept, mut padded) = (Vec::new(), 0);
            let segments = packed.len().div_ceil(slice_bytes);
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
            prop_assert_eq!((kept, padded), (given.clone(), pads));
            // One slice alone is not packed.
            let content: usize = lengths.iter().sum();
            prop_assert!(segments < 3 || content > content_bytes(slice_bytes, segments - 1));
        }
    }
}
