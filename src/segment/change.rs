//! What a change of the manifest is made with.

use crate::position::Lsn;

/// What the manifest tells about how far the stream is durable, whenever it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    pub checkpoint: Lsn,
    pub covered: Lsn,
    /// No record has a time above it.
    pub timestamp: u64,
}

/// An epoch that is to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewEpoch {
    /// What lies at or above it is cut off.
    pub cut: Lsn,
    /// Where the first block of the epoch goes.
    pub start: Lsn,
    /// Random: in every block of the epoch.
    pub nonce: u64,
    /// No record below `cut` has a time above it.
    pub timestamp: u64,
    /// Nothing was written in the epoch before it, and nothing was lost.
    pub after_nothing: bool,
}
