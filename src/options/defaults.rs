//! What holds of a setting that nobody has set: the defaults of `Options`, and the engine's own constants.
//!
//! Durability, backend and what to do on damage have theirs beside their types (`#[default]`); what is off by default is
//! `false` or `None` in `Options`. How long records may wait follows from the device: `open/delay_target.rs`.

use super::Tuning;
use super::config::SHARDS_MAX;
use crate::committer::SealThreshold;

/// 256 KiB: with huge pages as good as anything larger, at half the latency of the next size.
pub(super) const BLOCK_BYTES: u32 = 256 << 10;

/// Unless blocks are so large that fewer than four would fit.
const SEGMENT_BYTES: u64 = 256 << 20;

/// Of each shard, unless all together would take too much of the machine.
const MEMORY_BYTES: u64 = 64 << 20;

/// The largest record or batch, unless memory or segments are too small for that.
pub(super) const RECORD_BYTES: u64 = 16 << 20;

pub(super) const INDEX_BYTES: u64 = 8 << 20;

/// Ids that a shard remembers.
pub(super) const DEDUP_IDS: usize = 1 << 16;

/// One for each core.
pub(super) fn shards() -> u16 {
    crate::sys::cores().min(usize::from(SHARDS_MAX)) as u16
}

pub(super) fn segment_bytes(block_bytes: u32) -> u64 {
    SEGMENT_BYTES.max(u64::from(block_bytes) * 4)
}

/// Memory of each shard: all together take at most a sixteenth of what this process may have, but each has the `least` that
/// it needs.
pub(super) fn memory_bytes(shards: u16, least: u64) -> u64 {
    let share = crate::device::memory_limit() / 16 / u64::from(shards);
    MEMORY_BYTES.min(share).max(least)
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            device_depth: 16,
            shard_depth_min: 2,
            seal_threshold: SealThreshold { numerator: 1, denominator: 2 },
            background_ns: 10_000_000,
            marker_delay_ns: 20_000_000,
            marker_interval_ns: 1_000_000_000,
            first_segments_bytes: 16 << 20,
            first_segment_bytes_min: 64 << 10,
            read_bytes: crate::segment::READ_BYTES,
            blocks_before: 0,
            index_run_bytes: 16 << 20,
        }
    }
}
