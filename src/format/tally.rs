//! What a tally leaves on disk: the body of its slots, and the header of each record of its flushes.

use bytemuck::{Pod, Zeroable};

use super::Defect;

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
    /// [`LogId::to_bytes`](crate::position::LogId::to_bytes) of its log; zeros if it was not known. Rows ended above it
    /// before there was one, and so does one of those when it is read.
    pub log: [u8; 16],
    /// Which epoch owns the last byte below `complete`, and that epoch's [seed](super::EpochSeed); 0 if it was not
    /// known.
    pub epoch: u32,
    pub seed: u32,
}

/// Bytes of a row before it said which log it is of.
const WITHOUT_LOG: usize = std::mem::offset_of!(AnchorRow, log);

impl AnchorRow {
    /// # Errors
    /// [`Defect::Length`] if the bytes are no row.
    pub(crate) fn decode(body: &[u8]) -> Result<AnchorRow, Defect> {
        let mut row = AnchorRow::zeroed();
        match body.len() {
            WITHOUT_LOG => bytemuck::bytes_of_mut(&mut row)[..WITHOUT_LOG].copy_from_slice(body),
            _ => row = bytemuck::try_pod_read_unaligned(body).map_err(|_| Defect::Length)?,
        }
        Ok(row)
    }
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
