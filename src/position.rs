//! The words for places in a log: [`Lsn`], [`ShardId`] and [`Position`]; and for which log it is: [`LogId`].

use std::fmt;

/// The unit of placement: every block starts at a multiple of it and is padded to one.
///
/// 4 KiB is the write unit that every NVMe drive and file system in use writes without reading
/// first. A device that needs more gets blocks padded to its own unit, a multiple of this one.
pub(crate) const GRANULE: u64 = 4096;

/// A byte position in the stream of one shard.
///
/// LSNs rise along a shard, are not dense, and find a record without an index. They are only
/// comparable within one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The lowest LSN.
    pub const MIN: Lsn = Lsn(0);
    /// The highest LSN, which no record ever has.
    pub const MAX: Lsn = Lsn(u64::MAX);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a shard: `0..shards`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which log it is: the same for as long as the log lives, wherever it is moved, and another one for every other log.
///
/// A [`Position`] has no room to say of which log it is, and one of another log can stand where a record of this one
/// does. Whoever keeps positions elsewhere, as a replicator does, keeps [`Log::id`](crate::Log::id) beside them and
/// compares the two before it goes on: a source that was made anew has another. A copy of a log's folders has the same.
///
/// It is a one-way hash of what blocks carry and checksums are seeded with, which is not told.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId([u8; 16]);

impl LogId {
    /// A form to store elsewhere.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        self.0
    }

    /// The inverse of [`to_bytes`](LogId::to_bytes).
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> LogId {
        LogId(bytes)
    }
}

impl fmt::Display for LogId {
    /// In hexadecimal: 32 digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// Where a record stands: shard, epoch and LSN.
///
/// It carries the epoch, so that the position of a record that was cut off by
/// [`Shard::truncate_after`](crate::Shard::truncate_after) is told from the position of a record
/// that took its LSN later. Positions order by shard, then by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Shard (16 bits), epoch (32), upper 16 bits of the LSN: two words that order as they stand.
    high: u64,
    /// Lower 48 bits of the LSN; then the distance from the start of the enclosing block (16 bits) in
    /// units of [`GRANULE`], so that a lookup reads from the block's header on
    /// and no further back.
    low: u64,
}

impl Position {
    #[inline]
    pub(crate) fn new(shard: ShardId, epoch: u32, lsn: Lsn, block: Lsn) -> Position {
        assert!(block <= lsn, "a record lies inside its block");
        let granules = (lsn.0 - block.0) / GRANULE;
        assert!(granules < 1 << 16, "a block has fewer than 65,536 granules");
        Position {
            high: u64::from(shard.0) << 48 | u64::from(epoch) << 16 | lsn.0 >> 48,
            low: lsn.0 << 16 | granules,
        }
    }

    /// The shard that holds the record.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        ShardId((self.high >> 48) as u16)
    }

    /// The record's LSN in its shard.
    #[inline]
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        Lsn(self.high << 48 | self.low >> 16)
    }

    pub(crate) fn epoch(&self) -> u32 {
        (self.high >> 16) as u32
    }

    /// Start of the enclosing block; `None` if the bytes this came from were not a position.
    pub(crate) fn block(&self) -> Option<Lsn> {
        let lsn = self.lsn().0;
        let back = (self.low & 0xffff) * GRANULE;
        (lsn - lsn % GRANULE).checked_sub(back).map(Lsn)
    }

    /// A form to store elsewhere: 16 bytes that sort as the positions do.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// let position = log.append(b"payload").wait()?;
    /// let stored: [u8; 16] = position.to_bytes();
    /// assert_eq!(sawmill::Position::from_bytes(stored), position);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.high.to_be_bytes());
        bytes[8..].copy_from_slice(&self.low.to_be_bytes());
        bytes
    }

    /// The inverse of [`to_bytes`](Position::to_bytes).
    ///
    /// Any 16 bytes give a position; one that no append returned is answered by
    /// [`ReadError::NotAPosition`](crate::ReadError::NotAPosition) when it is read.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Position {
        let both = u128::from_be_bytes(bytes);
        Position { high: (both >> 64) as u64, low: both as u64 }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({self})")
    }
}

impl fmt::Display for Position {
    /// `shard@lsn`, with the epoch after a dot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}.{}", self.shard(), self.lsn(), self.epoch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_and_sort_like_positions() {
        let mut positions = Vec::new();
        for shard in [0, 1, 300] {
            for epoch in [1, 2, 70_000] {
                for lsn in [88, 4096 + 88, 1 << 40] {
                    positions.push(Position::new(ShardId(shard), epoch, Lsn(lsn), Lsn(lsn & !4095)));
                }
            }
        }
        positions.sort();
        let bytes: Vec<_> = positions.iter().map(Position::to_bytes).collect();
        assert!(bytes.is_sorted());
        for (position, bytes) in positions.iter().zip(bytes) {
            assert_eq!(*position, Position::from_bytes(bytes));
        }
    }

    #[test]
    fn any_bytes_are_harmless() {
        let position = Position::from_bytes([255; 16]);
        assert!(position.block().is_some() || position.block().is_none());
        let mut bytes = [0; 16];
        bytes[15] = 9; // nine granules back from LSN 0
        assert_eq!(Position::from_bytes(bytes).block(), None);
    }
}
