//! The bytes on disk: pure functions over slices, which know nobody.
//!
//! `docs/format.md` shows the same layouts byte by byte, and a test compares the two. Everything is
//! little-endian and every structure is covered by a CRC32C. Decoding takes bytes, trusts no length
//! in them, and names the [`Defect`] that it found.

mod ages;
mod bits;
mod block;
mod checksum;
#[cfg(test)]
mod documented;
mod epochs;
mod index;
mod index_pages;
mod manifest;
mod progress;
mod public_id;
mod queue;
mod record;
mod siphash;
mod slot;
mod slot_map;
mod tally;

pub(crate) use ages::{AgeMark, AgesRow, decode_ages, encode_ages};
pub(crate) use block::{BLOCK_HEADER_BYTES, BlockHeader, BlockSeal, Identity, record_time};
pub(crate) use checksum::{EpochSeed, crc};
pub(crate) use epochs::{EpochRow, EpochTable};
pub(crate) use index::{
    INDEX_BYTES_MAX, INDEX_EPOCHS_MAX, INDEX_PAGE_BYTES, IndexEpoch, IndexHeader, IndexPlan, KeyHash,
    PLACE_UNIT, WholeKeyHash,
};
#[cfg(any(test, feature = "simulation"))]
pub(crate) use index_pages::reseal_index_page;
pub(crate) use index_pages::{
    BLOCKS_BYTES, IndexKey, KeysPage, KeysWalk, PlacesPage, begins_block, block_on, blocks_page, gap_bits_of,
    keys_head,
};
pub(crate) use manifest::{LogManifest, SegmentRow, ShardManifest};
pub(crate) use progress::{Committed, decode_progress, encode_progress};
pub(crate) use public_id::public_id;
pub(crate) use queue::{DeadRecord, OpenRecord, QueueState, decode_queue, encode_queue};
pub(crate) use record::{
    RECORD_HEADER_BYTES, RECORD_ID_BYTES, RawRecord, RecordFlags, RecordHeader, Records, Walk, encode_record,
    encoded_bytes, own_records, told_bytes,
};
pub(crate) use slot::{SLOT_HEADER_BYTES, SlotKind, decode_slot, encode_slot, slot_bytes};
pub(crate) use slot_map::{HISTORY_MAX, ShardPlace, SlotMap, Stretch};
pub(crate) use tally::{AnchorRow, TallyHeader};

pub(crate) use crate::position::GRANULE;

/// The format that this version writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// Rounds up to whole granules.
pub(crate) fn round_to_granule(bytes: u64) -> u64 {
    bytes.next_multiple_of(GRANULE)
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// The magic bytes are not there: never written, or something else.
    #[error("no header")]
    NoHeader,
    /// Written by a newer version of sawmill.
    #[error("a newer format version")]
    Version,
    /// The checksum of a header does not match its bytes.
    #[error("the header's checksum does not match")]
    HeaderChecksum,
    /// A header of another log, shard or epoch.
    #[error("a header of another log, shard or epoch")]
    Foreign,
    /// A header that says that it belongs somewhere else.
    #[error("a header that belongs to another place")]
    Misplaced,
    /// The header does not continue the block before it.
    #[error("a block that does not continue the one before it")]
    Unchained,
    /// A length that does not fit the structure that holds it.
    #[error("an impossible length")]
    Length,
    /// The checksum of a record does not match its bytes.
    #[error("a record's checksum does not match")]
    RecordChecksum,
    /// The file is not there.
    #[error("the file is missing")]
    Missing,
    /// The bytes are not there: the file is shorter than it was made.
    #[error("the file ends early")]
    Short,
    /// The device could not read the bytes.
    #[error("the device reported a read error")]
    Unreadable,
}
