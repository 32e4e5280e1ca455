//! What is said of a block: where it stands, how soon it must go out, how far it has got.

use super::reservation::Reserved;
use crate::format::{BLOCK_HEADER_BYTES, EpochSeed, round_to_granule};
use crate::position::Lsn;
use crate::time::Nanos;

/// How soon a block must go out, by the most demanding record in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Urgency {
    /// Within the background bound.
    #[default]
    Background = 0,
    /// Somebody may wait until it is written.
    Written = 1,
    /// Somebody may wait until it is durable.
    Synced = 2,
}

impl Urgency {
    pub(super) fn from_raw(raw: u32) -> Urgency {
        match raw {
            0 => Urgency::Background,
            1 => Urgency::Written,
            _ => Urgency::Synced,
        }
    }
}

/// The group (batch, split record) that is not complete at the end of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// End of the block before the one that its first record begins: a place where no group is open.
    pub before: Lsn,
}

/// No group is open at the end of the block.
pub(crate) const NO_GROUP: Option<Group> = None;

/// Where a block stands in its shard's stream, fixed when it is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockPlace {
    pub lsn: Lsn,
    pub previous_end: Lsn,
    /// Bytes that it may have, header included; at most the pool's block size.
    pub capacity: u32,
    pub epoch: u32,
    pub seed: EpochSeed,
    /// When the caller opens it, for its first record.
    pub opened_at: Nanos,
}

/// A block that is closed and fully copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Complete {
    pub lsn: Lsn,
    pub previous_end: Lsn,
    pub epoch: u32,
    /// Header and records.
    pub length: u32,
    pub records: u32,
    pub urgency: Urgency,
    pub group: Option<Group>,
    /// Written although it holds no record. A block without records that is no marker is void: it
    /// is not written, and the next block takes its place.
    pub marker: bool,
}

/// The number of a block in its shard: they rise by one and never repeat while the log is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sequence(pub u64);

impl Sequence {
    /// That of the next block.
    pub(crate) fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }

    /// From the one behind it up to `last`.
    pub(crate) fn up_to(self, last: Sequence) -> impl Iterator<Item = Sequence> {
        (self.0 + 1..=last.0).map(Sequence)
    }
}

/// The open block, as somebody who might seal it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub sequence: Sequence,
    /// Reserved bytes of records, without the header; 0 if nothing waits.
    pub bytes: u32,
    pub urgency: Urgency,
}

/// The last block opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub sequence: Sequence,
    pub lsn: Lsn,
    pub previous_end: Lsn,
    /// Header and what is reserved of its records.
    pub length: u32,
    pub(super) marker: bool,
}

impl Last {
    /// It holds nothing, and would not be written if it were closed now.
    pub(crate) fn is_void(&self) -> bool {
        self.length == BLOCK_HEADER_BYTES && !self.marker
    }

    /// Where the stream ends if the block is closed now; a block without records takes no place.
    pub(crate) fn end(&self) -> Lsn {
        if self.is_void() {
            return self.previous_end;
        }
        Lsn(self.lsn.0 + round_to_granule(u64::from(self.length)))
    }
}

/// The answer to an attempt to reserve.
#[derive(Debug)]
pub(crate) enum Claim<'a> {
    /// The range is the caller's, to fill at once.
    Taken(Reserved<'a>),
    /// It had no room, and the caller has just closed the open block, which is this one: whoever seals must be told,
    /// and one must be opened.
    Full(Sequence),
    /// No block is open: one must be opened.
    Closed,
    /// The caller may not reserve any more.
    Stale,
}
