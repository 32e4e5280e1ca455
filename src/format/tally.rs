//! What a tally leaves on disk: the body of its slots, and the header of each record of its flushes.

use bytemuck::{Pod, Zeroable};

/// The body of a tally's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct AnchorRow {
    /// Which tally: random, drawn when it was made.
    pub id: u64,
    /// All its flushes from here on are needed, and no others.
    pub oldest: u64,
    /// The end of the totals that stand in for what was before `oldest`: it must be there, too.
    pub complete: u64,
    /// CRC32C of the fold's name.
    pub fold: u32,
    pub shard: u16,
    pub reserved: u16,
}

/// The header of each record of a flush; entries follow, to the record's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct TallyHeader {
    pub magic: [u8; 4],
    pub version: u16,
    /// 1: changes. 2: totals.
    pub kind: u16,
    /// As [`AnchorRow::id`].
    pub id: u64,
    /// Number of the flush: one more than that of the one before.
    pub flush: u64,
    /// Totals: the first and the last hash of the range. Zero for changes.
    pub first: u32,
    pub last: u32,
}
