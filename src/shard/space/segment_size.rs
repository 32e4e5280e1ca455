//! How large the next segment is.
//!
//! Whatever is filled with zeros for a segment is written beside the records of the one before it, and flushed by their
//! commits. So segments start small and double no sooner than the log has eight of a size, which keeps the zeros at
//! about as many bytes as the records. But to make one costs a few flushes, whatever its size: where one was used up
//! before the next was there it was too small, and where one lasts for less than a second no spare of its size is used
//! again.

use crate::segment::Size;
use crate::time::Nanos;

/// A segment is not made larger before the log is so many of them long.
const SEGMENTS_OF_A_SIZE: u64 = 8;

/// The next segment is late if of the one in use no more is left than this part.
const LATE_PART: u64 = 16;

/// A segment that lasts longer is large enough.
const LASTS_NS: u64 = 1_000_000_000;

/// How a segment came that was made.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::shard) struct SegmentHistory {
    pub bytes: u64,
    /// What was left of the one before it, of `last` bytes, when it came.
    pub ready: u64,
    pub last: u64,
    /// Since that one had come.
    pub lasted_ns: u64,
    pub at: Nanos,
}

impl SegmentHistory {
    fn was_late(&self) -> bool {
        // A larger one takes longer to fill than the one before was made for.
        self.bytes <= self.last && self.ready < self.last / LATE_PART && self.did_not_last()
    }

    fn did_not_last(&self) -> bool {
        self.last > 0 && self.lasted_ns < LASTS_NS
    }
}

/// Sizes of the segments of a shard.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Sizing {
    /// None is smaller, however little room there is.
    pub floor: u64,
    pub first: u64,
    pub most: u64,
}

impl Sizing {
    /// Of the segment behind one of `last` bytes, 0 if there is none, in a log of `end` bytes; `made` is how that came.
    pub(in crate::shard) fn next(&self, last: u64, end: u64, made: &SegmentHistory) -> Size {
        if last == 0 {
            return self.size(self.first, self.first);
        }
        let twice = last.saturating_mul(2).min(self.most);
        let last = last.min(self.most);
        let may_grow = end / SEGMENTS_OF_A_SIZE >= last;
        if made.was_late() || may_grow && made.did_not_last() {
            return self.size(twice, twice);
        }
        // A spare of the same size is better than a larger segment: it need not be filled.
        self.size(last, if may_grow { twice } else { last })
    }

    fn size(&self, least: u64, bytes: u64) -> Size {
        Size { floor: self.floor.min(bytes), least, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZING: Sizing = Sizing { floor: 1 << 20, first: 4 << 20, most: 256 << 20 };

    /// One that came in time behind one that lasted for so long.
    fn in_time(bytes: u64, lasted_ns: u64) -> SegmentHistory {
        SegmentHistory { bytes, ready: bytes / 4, last: bytes, lasted_ns, at: Nanos(0) }
    }

    #[test]
    fn zeros_are_about_as_many_as_records_and_segments_few() {
        // Logs that are never late, until they are a terabyte; no spares are there.
        for lasted in [1, LASTS_NS] {
            let (mut end, mut last, mut segments) = (0, 0, 0_u64);
            while end < 1 << 40 {
                let size = SIZING.next(last, end, &in_time(last, lasted));
                assert!(size.least <= size.bytes && size.least >= last && size.bytes <= SIZING.most);
                assert!(size.bytes <= (end / 4).max(SIZING.first), "{size:?} behind {end} bytes");
                (last, end, segments) = (size.bytes, end + size.bytes, segments + 1);
            }
            assert_eq!(last, SIZING.most);
            assert!(segments < (1 << 40) / SIZING.most + 40, "{segments}");
        }
    }

    #[test]
    fn whoever_uses_segments_up_too_fast_gets_larger_ones_and_no_spare_that_is_not() {
        let late = |bytes: u64| SegmentHistory { ready: bytes / 17, ..in_time(bytes, LASTS_NS - 1) };
        let mut last = SIZING.first;
        while last < SIZING.most {
            let size = SIZING.next(last, 0, &late(last));
            assert_eq!((size.least, size.bytes), (last * 2, last * 2));
            let next = SIZING.next(size.bytes, 0, &SegmentHistory { bytes: size.bytes, ..late(last) });
            assert_eq!(next.bytes, size.bytes, "a larger one took longer");
            last = size.bytes;
        }
        assert_eq!(SIZING.next(last, 0, &late(last)).bytes, SIZING.most);
        assert_eq!(SIZING.next(last * 4, 0, &late(last)).bytes, SIZING.most, "options may have changed");
        let slow = SegmentHistory { lasted_ns: LASTS_NS, ..late(4 << 20) };
        assert_eq!(SIZING.next(4 << 20, 0, &slow).bytes, 4 << 20, "late for another reason");
    }

    #[test]
    fn spares_of_a_size_are_used_again_where_they_last() {
        let end = 1 << 40;
        let size = SIZING.next(4 << 20, end, &in_time(4 << 20, LASTS_NS));
        assert_eq!((size.least, size.bytes), (4 << 20, 8 << 20));
        let size = SIZING.next(4 << 20, end, &in_time(4 << 20, LASTS_NS - 1));
        assert_eq!((size.least, size.bytes), (8 << 20, 8 << 20));
        // Of a log that was just opened nothing is known.
        let size = SIZING.next(4 << 20, end, &SegmentHistory::default());
        assert_eq!((size.least, size.bytes), (4 << 20, 8 << 20));
    }
}
