//! How large the next segment is.
//!
//! Whatever is filled with zeros for a segment is written beside the records of the one before it, and flushed by their
//! commits. So segments start small and double no sooner than the log has eight of a size, which keeps the zeros at
//! about as many bytes as the records; except where a segment is used up before the next one is there. Making one costs
//! a few flushes, whatever its size, so those were too small.

use crate::segment::Size;

/// A segment is not made larger before the log is so many of them long.
const SEGMENTS_OF_A_SIZE: u64 = 8;

/// The next segment is late if of the one in use no more is left than this part.
const LATE_PART: u64 = 8;

/// One that lasted longer was large enough: what was late about the next one has another reason.
const LASTS_NS_MAX: u64 = 1_000_000_000;

/// Sizes of the segments of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizing {
    pub first: u64,
    pub most: u64,
}

impl Sizing {
    /// Of the segment behind one of `last` bytes, 0 if it is the first, in a log of `end` bytes; `was_late` says so of
    /// the one before.
    pub(super) fn next(&self, last: u64, end: u64, was_late: bool) -> Size {
        if last == 0 {
            return Size { least: self.first, bytes: self.first };
        }
        let twice = last.saturating_mul(2).min(self.most);
        let last = last.min(self.most);
        if was_late {
            return Size { least: twice, bytes: twice };
        }
        // A spare of the same size is better than a larger segment: it need not be filled.
        let bytes = if end / SEGMENTS_OF_A_SIZE >= last { twice } else { last };
        Size { least: last, bytes }
    }
}

/// Whether a segment that came when `ready` bytes of the last one were left, `last` bytes that lasted `lasted_ns`, came late.
pub(super) fn is_late(ready: u64, last: u64, lasted_ns: u64) -> bool {
    ready < last / LATE_PART && lasted_ns < LASTS_NS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZING: Sizing = Sizing { first: 4 << 20, most: 256 << 20 };

    #[test]
    fn zeros_are_about_as_many_as_records_and_segments_few() {
        // A log that is never late, until it is a terabyte.
        let (mut end, mut last, mut segments) = (0, 0, 0_u64);
        while end < 1 << 40 {
            let size = SIZING.next(last, end, false);
            assert!(size.bytes <= last.max(2 << 20) * 2 && size.bytes <= SIZING.most);
            assert!(size.least <= size.bytes && size.least >= last);
            assert!(size.bytes <= (end / 4).max(SIZING.first), "{size:?} behind {end} bytes");
            (last, end, segments) = (size.bytes, end + size.bytes, segments + 1);
        }
        assert_eq!(last, SIZING.most);
        assert!(segments < (1 << 40) / SIZING.most + 40, "{segments}");
    }

    #[test]
    fn whoever_uses_segments_up_too_fast_gets_larger_ones_and_no_spare_that_is_not() {
        let (mut last, mut end) = (0, 0);
        for megabytes in [4, 8, 16, 32, 64, 128, 256, 256] {
            let size = SIZING.next(last, end, true);
            assert_eq!((size.least, size.bytes), (megabytes << 20, megabytes << 20));
            (last, end) = (size.bytes, end + size.bytes);
        }
        assert_eq!(SIZING.next(last * 4, end, true).bytes, SIZING.most, "options may have changed");
        assert_eq!(SIZING.next(last * 4, end, false).bytes, SIZING.most);
    }

    #[test]
    fn late_is_what_came_when_little_was_left_of_one_that_did_not_last() {
        assert!(is_late(0, 800, 5) && is_late(99, 800, LASTS_NS_MAX - 1));
        assert!(!is_late(100, 800, 5) && !is_late(0, 800, LASTS_NS_MAX) && !is_late(0, 0, 5));
    }
}
