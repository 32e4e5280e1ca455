//! What the key index of a shard may use, how its memory is split, and when it is so full that a run is due.

use crate::index::Filled;

/// How keys are indexed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexConfig {
    pub on: bool,
    /// A run covers about so much of the log.
    pub run_bytes: u64,
    /// So many ids are remembered.
    pub ids_max: usize,
    /// All the memory; the three shares below add up to it.
    pub memory_bytes: usize,
}

/// Whether so much of what was appended last is in no run that some of it would soon be forgotten: three quarters of the
/// entries, or so many blocks that they take as much.
pub(super) fn is_run_due(filled: &Filled) -> bool {
    filled.entries > filled.most / 4 * 3 || filled.blocks > filled.most / 8
}

impl IndexConfig {
    /// For the keys of what was appended last: half.
    pub(in crate::shard) fn recent_bytes(&self) -> usize {
        self.memory_bytes / 2
    }

    /// For entries that are gathered for the next run: a quarter.
    pub(in crate::shard) fn gathered_bytes(&self) -> usize {
        self.memory_bytes / 4
    }

    /// For pages of runs that were read: a quarter.
    pub(in crate::shard) fn page_bytes(&self) -> usize {
        self.memory_bytes / 4
    }
}
