//! Where frames begin, here and there: so that nobody walks a whole range to count or to cut it.
//!
//! Owns places among frames that are appended to. Must never be told of half a frame.

use std::ops::Range;

use super::vni_log::whole_frames;
use crate::wire::frame_len;

/// About how far apart marks are, in bytes: a walk from one to the next looks at some ten frames.
const APART_BYTES: usize = 1 << 10;

/// A frame begins here, and so many lie before it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: usize,
    before: usize,
}

/// Marks among frames that lie together.
#[derive(Debug, Default)]
pub(super) struct Marks {
    marks: Vec<Mark>,
    frames: usize,
    end: usize,
}

impl Marks {
    /// Nothing was appended yet; `capacity` bytes are about to be.
    pub(super) fn with_capacity(capacity: usize) -> Marks {
        // The first frame is not marked.
        Marks { marks: Vec::with_capacity((capacity - 1) / APART_BYTES), ..Marks::default() }
    }

    /// Frames were appended.
    pub(super) fn append(&mut self, frames: &[u8]) {
        let mut at = 0;
        while at < frames.len() {
            if self.end >= self.marks.last().map_or(0, |last| last.at) + APART_BYTES {
                self.marks.push(Mark { at: self.end, before: self.frames });
            }
            let length = frame_len(&frames[at..]);
            (at, self.end, self.frames) = (at + length, self.end + length, self.frames + 1);
        }
    }

    /// All is gone.
    pub(super) fn clear(&mut self) {
        self.marks.clear();
        (self.frames, self.end) = (0, 0);
    }

    /// How many frames lie in a range of the `bytes`.
    pub(super) fn count(&self, bytes: &[u8], range: Range<usize>) -> usize {
        self.before(bytes, range.end) - self.before(bytes, range.start)
    }

    /// The end of the first frames of a range that are at most `bytes_max` together; of the first one, however
    /// long it is.
    pub(super) fn cut(&self, bytes: &[u8], range: Range<usize>, bytes_max: usize) -> usize {
        if range.len() <= bytes_max {
            return range.end;
        }
        let limit = range.start + bytes_max;
        let from = self.last(limit).at.max(range.start);
        let end = from + whole_frames(&bytes[from..range.end], limit - from);
        if end == range.start { end + frame_len(&bytes[end..]) } else { end }
    }

    /// Memory that it takes, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.marks.capacity() * size_of::<Mark>()
    }

    /// No more is to come.
    pub(super) fn shrink_to_fit(&mut self) {
        self.marks.shrink_to_fit();
    }

    fn before(&self, bytes: &[u8], at: usize) -> usize {
        if at == self.end {
            return self.frames;
        }
        let Mark { at: mut from, mut before } = self.last(at);
        while from < at {
            from += frame_len(&bytes[from..]);
            before += 1;
        }
        before
    }

    /// The last mark up to a place.
    fn last(&self, at: usize) -> Mark {
        let marks = &self.marks[..self.marks.partition_point(|mark| mark.at <= at)];
        marks.last().copied().unwrap_or(Mark { at: 0, before: 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frames;

    proptest! {
        #[test]
        fn ranges_are_counted_and_cut_as_by_a_walk(
            lengths in proptest::collection::vec(4_usize..200, 1..400),
            appended in 1_usize..50,
            picks in proptest::collection::vec((0_usize..400, 0_usize..400, 0_usize..5_000), 50),
        ) {
            let mut bytes = Vec::new();
            let mut starts = vec![0];
            let mut marks = Marks::default();
            for together in lengths.chunks(appended) {
                let before = bytes.len();
                for &length in together {
                    bytes.extend_from_slice(&[1, 0, (length - 4) as u8, 5]);
                    bytes.resize(bytes.len() + length - 4, 0);
                    starts.push(bytes.len());
                }
                marks.append(&bytes[before..]);
            }
            for (one, other, bytes_max) in picks {
                let (one, other) = (one % starts.len(), other % starts.len());
                let (first, last) = (one.min(other), one.max(other));
                let range = starts[first]..starts[last];
                prop_assert_eq!(marks.count(&bytes, range.clone()), last - first);
                if range.is_empty() {
                    continue;
                }
                let mut end = range.start;
                for frame in frames(&bytes[range.clone()]) {
                    if end + frame.len() - range.start > bytes_max && end > range.start {
                        break;
                    }
                    end += frame.len();
                }
                prop_assert_eq!(marks.cut(&bytes, range, bytes_max), end);
            }
            prop_assert!(marks.marks.len() <= bytes.len() / APART_BYTES);
        }
    }
}
