//! A record that was read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::position::{Lsn, Position, ShardId};

/// A record that was read from a log.
///
/// Records of one block share one copy of it: cloning is cheap, and keeping one record keeps the
/// bytes of its block, but never a block of the append path.
#[derive(Clone)]
pub struct Record {
    pub(super) position: Position,
    pub(super) timestamp: u64,
    pub(super) bytes: Arc<[u8]>,
    pub(super) key: Range<usize>,
    pub(super) payload: Range<usize>,
}

impl Record {
    /// What was appended.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload.clone()]
    }

    /// The key; empty if there is none.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.bytes[self.key.clone()]
    }

    /// The id that it was appended with ([`Write::id`](crate::Write::id)). Of a batch the first record has it.
    #[must_use]
    pub fn id(&self) -> Option<u128> {
        let id = self.bytes[self.key.end..self.payload.start].try_into().ok()?;
        Some(u128::from_le_bytes(id))
    }

    /// Where the record stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Its LSN in its shard.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.position.lsn()
    }

    /// Its shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.position.shard()
    }

    /// When it was written, in nanoseconds since the Unix epoch: about when its block was closed for writing, not when it
    /// was appended. Assigned by the log, strictly increasing in a shard. After the wall clock was set back they run ahead of it until it has caught up:
    /// [`Stats::clock_drift`](crate::stats::Stats::clock_drift) tells how far.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }
}

impl fmt::Debug for Record {
    /// Without the contents, which are the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("position", &self.position)
            .field("timestamp", &self.timestamp)
            .field("key_bytes", &self.key.len())
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}
