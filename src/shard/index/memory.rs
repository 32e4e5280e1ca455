//! What the key index of a shard may use, and how its memory is split.

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
