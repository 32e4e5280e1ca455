//! Reading from a time on.

use std::sync::Arc;

use super::beside::ForeignShard;
use super::{Log, LogReader, Shard, ShardReader, source};
use crate::error::ReadError;
use crate::position::Lsn;
use crate::read::{self, Range, Source};

impl Log {
    /// Where a time (nanoseconds since the Unix epoch) begins in each shard: the place of its first durable record at
    /// or after it, or the durable LSN if there is none yet. To be read or [followed](Shard::follow) from.
    ///
    /// It takes a handful of reads, however long the log is. Where records directly in front of that place are damaged,
    /// and may belong to the time as well, it is the place of the damage, of which readers from there on are told.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
    /// # log.append(b"earlier").wait()?;
    /// let alarm = log.append(b"alarm").wait()?;
    /// let time = log.get(alarm)?.timestamp();
    /// let from = log.seek(time)?[0];
    /// let mut tail = log.shard(sawmill::ShardId(0)).follow(from)?; // from the alarm on
    /// assert_eq!(tail.next().expect("it is not closed")?.position(), alarm);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`merged`](Log::merged).
    pub fn seek(&self, timestamp: u64) -> Result<Vec<Lsn>, ReadError> {
        let sources = self.inner.engines.iter().map(source);
        sources.map(|source| read::seek(&source, timestamp, source.durable())).collect()
    }
}

impl Shard {
    /// The durable records at or after a time (nanoseconds since the Unix epoch), in order; otherwise as
    /// [`read`](Shard::read). It begins there as [`Log::seek`] says, and tells of damage that may have held some of
    /// them.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
    /// # log.append(b"earlier").wait()?;
    /// # let alarm = log.append(b"alarm").wait()?;
    /// let time = log.get(alarm)?.timestamp();
    /// for record in log.shard(alarm.shard()).read_from(time)? {
    ///     assert_eq!(record?.payload(), b"alarm");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`read`](Shard::read).
    pub fn read_from(&self, timestamp: u64) -> Result<Range, ReadError> {
        let source = source(self.engine().map_err(ReadError::NoSuchShard)?);
        let limit = source.durable();
        Range::since(source, timestamp, limit)
    }
}

impl LogReader {
    /// As [`Log::seek`], among what is known to be durable now.
    ///
    /// # Errors
    /// As [`merged`](LogReader::merged).
    pub fn seek(&self, timestamp: u64) -> Result<Vec<Lsn>, ReadError> {
        let seek = |shard: &Arc<ForeignShard>| {
            shard.refresh()?;
            read::seek(&shard.source(), timestamp, shard.durable())
        };
        self.shards.iter().map(seek).collect()
    }
}

impl ShardReader {
    /// As [`Shard::read_from`](crate::Shard::read_from), of what is known to be durable now.
    ///
    /// # Errors
    /// As [`read`](ShardReader::read).
    pub fn read_from(&self, timestamp: u64) -> Result<Range, ReadError> {
        let source = self.shard()?.source();
        let limit = source.durable();
        Range::since(source, timestamp, limit)
    }
}
