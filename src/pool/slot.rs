//! The words that producers share: one for the open block, and a slot for each block that there may be.

use super::loan::Loan;
use crate::sync::{AtomicU32, AtomicU64, CacheLine};

/// The word that producers share: closed (1 bit), held (1), the low bits of the sequence (38), reserved bytes / 8 (24).
///
/// 31 days of 100,000 blocks a second use those bits up; then they begin again at 0. What is meant is the sequence
/// nearest to one that is known to be near ([`Tail::sequence_near`]). A producer that reserves must not sleep for
/// as long between its look at the word and its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail(pub u64);

impl Tail {
    pub(super) const CLOSED: u64 = 1 << 63;
    /// Closed for a moment ([`Pool::hold`](super::Pool::hold)); nobody may seal it. Never without `CLOSED`.
    pub(super) const HELD: u64 = 1 << 62;
    pub(super) const OFFSET_BITS: u32 = 24;
    pub(super) const SEQUENCE_MASK: u64 = (1 << 38) - 1;

    pub(super) fn new(sequence: u64, offset: u32, closed: bool) -> Tail {
        debug_assert!(offset % 8 == 0 && u64::from(offset / 8) < 1 << Tail::OFFSET_BITS);
        let closed = if closed { Tail::CLOSED } else { 0 };
        Tail(closed | (sequence & Tail::SEQUENCE_MASK) << Tail::OFFSET_BITS | u64::from(offset / 8))
    }

    /// Nothing can be reserved.
    pub(super) fn closed(self) -> bool {
        self.0 & Tail::CLOSED != 0
    }

    /// Nothing will be reserved in that block any more.
    pub(super) fn is_closed_for_good(self) -> bool {
        self.0 & (Tail::CLOSED | Tail::HELD) == Tail::CLOSED
    }

    /// The same, closed for good.
    pub(super) fn into_closed(self) -> Tail {
        Tail((self.0 | Tail::CLOSED) & !Tail::HELD)
    }

    /// The sequence, of which the word has the low bits, and which is no more than half of their range from `near`.
    #[inline]
    pub(super) fn sequence_near(self, near: u64) -> u64 {
        let spare = Tail::SEQUENCE_MASK.leading_zeros();
        let ahead = (self.0 >> Tail::OFFSET_BITS).wrapping_sub(near) << spare;
        near.wrapping_add((ahead as i64 >> spare) as u64)
    }

    /// With so many bytes more, a multiple of eight, which fit into a block.
    #[inline]
    pub(super) fn with_more(self, bytes: u32) -> Tail {
        Tail(self.0 + u64::from(bytes / 8))
    }

    pub(super) fn offset(self) -> u32 {
        (self.0 & ((1 << Tail::OFFSET_BITS) - 1)) as u32 * 8
    }
}

/// What is known of the block in a slot. All but `filled` and `urgency` are written by whoever opens
/// the block, before the tail word is published, and read after it was seen.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Slot {
    /// Where its memory lies in the region.
    pub start: usize,
    pub lsn: AtomicU64,
    pub previous_end: AtomicU64,
    pub capacity: AtomicU32,
    pub epoch: AtomicU32,
    pub seed: AtomicU32,
    /// Length of a block that is closed and no longer the last one.
    pub final_length: AtomicU32,
    /// `u64::MAX` if no group is open at its end.
    pub group_before: AtomicU64,
    /// When it was opened, in nanoseconds.
    pub opened_at: AtomicU64,
    /// When it was closed, in nanoseconds; 0 while that is not known.
    pub closed_at: AtomicU64,
    /// 1 if the block is written although it holds no record.
    pub marker: AtomicU32,
    /// 1 while a [`SealedBytes`](super::SealedBytes) of this slot lives.
    pub sealed: AtomicU32,
    /// Length of a sealed block with its padding.
    pub padded: AtomicU32,
    /// Who may touch the memory.
    pub loan: Loan,
    /// On a line of its own: every producer writes it, and reads what stands above.
    pub progress: CacheLine<Progress>,
}

/// How far the copies into a block have got.
#[derive(Debug)]
pub(super) struct Progress {
    /// Records in the high half, bytes in the low half, of those that are copied.
    pub filled: AtomicU64,
    pub urgency: AtomicU32,
}

impl Slot {
    pub(super) fn new(start: usize) -> Slot {
        Slot {
            start,
            lsn: AtomicU64::new(0),
            previous_end: AtomicU64::new(0),
            capacity: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            seed: AtomicU32::new(0),
            final_length: AtomicU32::new(0),
            group_before: AtomicU64::new(u64::MAX),
            opened_at: AtomicU64::new(0),
            closed_at: AtomicU64::new(0),
            marker: AtomicU32::new(0),
            sealed: AtomicU32::new(0),
            padded: AtomicU32::new(0),
            loan: Loan::new(),
            progress: CacheLine(Progress { filled: AtomicU64::new(0), urgency: AtomicU32::new(0) }),
        }
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_the_nearest_that_has_its_bits() {
        let half = 1 << 37;
        for near in [0, 1, 5, half - 1, half, half * 2 - 1, half * 2, half * 7 + 3, u64::MAX / 2] {
            for away in [0, 1, 2, 1 << 20, half / 4, half - 1] {
                let found = |sequence| Tail::new(sequence, 4096, true).sequence_near(near);
                assert_eq!(found(near + away), near + away);
                if away <= near {
                    assert_eq!(found(near - away), near - away);
                }
            }
        }
        let tail = Tail::new(3, 4096, false).with_more(64);
        assert_eq!((tail.sequence_near(0), tail.offset(), tail.closed()), (3, 4160, false));
    }
}
