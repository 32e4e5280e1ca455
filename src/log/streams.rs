//! Reading by key.

use std::ops::RangeBounds;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use super::beside::ForeignShard;
use super::follow_reader::{FollowReader, FollowReaderStop};
use super::key_onward::KeyOnward;
use super::{Log, LogReader, source};
use crate::error::ReadError;
use crate::format::Stretch;
use crate::position::Position;
use crate::read::{FollowKey, KeyHistory, KeyRange, KeyRangeBack, Record};

impl Log {
    /// Where the records of a key lie.
    fn history_of(&self, key: &[u8]) -> KeyHistory {
        let router = &self.inner.router;
        let map = router.map();
        let history = map.history(router.slot(key));
        let history = KeyHistory::new(&history, |stretch| self.engine(stretch.shard).map(source));
        if map.version == 0 { history } else { history.among(self.inner.engines.iter().map(source)) }
    }

    /// The records of a key, oldest first, that were accepted when this was called. Those that are not durable yet are
    /// waited for.
    ///
    /// The bounds are places in the key's own order. One that is no record of the key stands for the place where it lies
    /// in the key's shard, one that is truncated for the beginning. An empty key has no records; neither has another one
    /// those that were appended to a [`Shard`](crate::Shard) that it does not route to.
    ///
    /// It reads the disk, and waits for it: in a task, off the runtime's threads (`spawn_blocking`).
    ///
    /// As far as the key's shard is indexed ([`Options::index_keys`](crate::Options::index_keys)), what is not the key's is
    /// not read, and damage to it not seen. Elsewhere it looks at all records of the shard within the range.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// use sawmill::Write;
    /// let made = log.append(Write::new(b"made").key(b"order:9")).wait()?;
    /// log.append(Write::new(b"made").key(b"order:10")).wait()?;
    /// log.append(Write::new(b"paid").key(b"order:9")).wait()?;
    /// assert_eq!(log.read_key(b"order:9", ..)?.count(), 2);
    /// let later = log.read_key(b"order:9", (std::ops::Bound::Excluded(made), std::ops::Bound::Unbounded))?;
    /// for record in later {
    ///     assert_eq!(record?.payload(), b"paid");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ReadError::NotAPosition`] if a bound is of another shard, or of an epoch that was cut there. The iterator yields
    /// errors in reading, and goes on behind them.
    pub fn read_key(
        &self,
        key: &(impl AsRef<[u8]> + ?Sized),
        range: impl RangeBounds<Position>,
    ) -> Result<KeyRange, ReadError> {
        let key = key.as_ref();
        KeyRange::new(&self.history_of(key), key, &range)
    }

    /// As [`read_key`](Log::read_key), newest first. What is not durable yet is waited for in this call; if that fails, the
    /// iterator yields the error before what is durable.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// # use sawmill::Write;
    /// # log.append(Write::new(b"made").key(b"order:9")).wait()?;
    /// log.append(Write::new(b"paid").key(b"order:9")).wait()?;
    /// let newest = log.read_key_back(b"order:9", ..)?.next().expect("there is one")?;
    /// assert_eq!(newest.payload(), b"paid");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`read_key`](Log::read_key).
    pub fn read_key_back(
        &self,
        key: &(impl AsRef<[u8]> + ?Sized),
        range: impl RangeBounds<Position>,
    ) -> Result<KeyRangeBack, ReadError> {
        let key = key.as_ref();
        KeyRangeBack::new(&self.history_of(key), key, &range)
    }

    /// The records of a key from behind a position on, or from its first one, then those that come, each once it is
    /// durable: a blocking iterator and a stream.
    ///
    /// Where it is far behind it is as [`read_key`](Log::read_key): as far as the key's shard is indexed, what is not the
    /// key's is not read. Behind that it looks at all records of the shard: a task is busy until it comes to one of the key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// # use sawmill::Write;
    /// let made = log.append(Write::new(b"made").key(b"order:9")).wait()?;
    /// let mut tail = log.follow_key(b"order:9", Some(made))?;
    /// let paid = log.append(Write::new(b"paid").key(b"order:9")).wait()?;
    /// assert_eq!(tail.next().expect("it is not closed")?.position(), paid);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`read_key`](Log::read_key), and [`ReadError::AboveEnd`] as [`Shard::follow`](crate::Shard::follow).
    pub fn follow_key(
        &self,
        key: &(impl AsRef<[u8]> + ?Sized),
        position: Option<Position>,
    ) -> Result<FollowKey, ReadError> {
        let key = key.as_ref();
        FollowKey::new(&self.inner.engines, &self.history_of(key), key, position)
    }

    /// The position of the last record of a key that was accepted, durable or not. `None` if it has none, or none that is
    /// not truncated.
    ///
    /// Where the key was written lately it is known in memory, once somebody has asked for a key of the shard: about a
    /// microsecond, and 50 ns for each record of the shard since the last such question. Elsewhere the index finds it
    /// ([`Options::index_keys`](crate::Options::index_keys)); where there is none, the shard is read from the end on.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// # use sawmill::{Durability, Write};
    /// let write = Write::new(b"made").key(b"order:9").durability(Durability::Buffered);
    /// let made = log.append(write).wait()?;
    /// assert_eq!(log.last(b"order:9")?, Some(made));
    /// assert_eq!(log.last(b"order:10")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ReadError`]: also where a later one may be in what is damaged.
    pub fn last(&self, key: &(impl AsRef<[u8]> + ?Sized)) -> Result<Option<Position>, ReadError> {
        let key = key.as_ref();
        self.history_of(key).last(key)
    }
}

impl LogReader {
    /// Where the records of a key lie, as far as that is known now.
    fn history_of(&self, key: &[u8]) -> Result<KeyHistory, ReadError> {
        let map = self.map.refreshed()?;
        let stretches = map.history(map.slot(key));
        for stretch in stretches.iter() {
            if let Some(shard) = self.shards.get(usize::from(stretch.shard.0)) {
                shard.refresh()?;
                // What a slot had in a shard was durable before its map was written, whatever the blocks tell of it.
                stretch.until.into_iter().for_each(|until| shard.note_durable(until));
            }
        }
        let source =
            |stretch: &Stretch| self.shards.get(usize::from(stretch.shard.0)).map(ForeignShard::source);
        let history = KeyHistory::new(&stretches, source);
        if map.version == 0 {
            return Ok(history);
        }
        Ok(history.among(self.shards.iter().map(ForeignShard::source)))
    }

    /// As [`Log::read_key`], of what is known to be durable now. What the log's owner has indexed is used where it lies
    /// beside the records, also when nobody has the log open.
    ///
    /// # Errors
    /// As [`Log::read_key`], and where the log's files cannot be read.
    pub fn read_key(
        &self,
        key: &(impl AsRef<[u8]> + ?Sized),
        range: impl RangeBounds<Position>,
    ) -> Result<KeyRange, ReadError> {
        let key = key.as_ref();
        KeyRange::new(&self.history_of(key)?, key, &range)
    }

    /// As [`Log::read_key_back`], of what is known to be durable now.
    ///
    /// # Errors
    /// As [`read_key`](LogReader::read_key).
    pub fn read_key_back(
        &self,
        key: &(impl AsRef<[u8]> + ?Sized),
        range: impl RangeBounds<Position>,
    ) -> Result<KeyRangeBack, ReadError> {
        let key = key.as_ref();
        KeyRangeBack::new(&self.history_of(key)?, key, &range)
    }

    /// As [`Log::follow_key`], of what becomes known to be durable; by what its owner has indexed, as
    /// [`read_key`](LogReader::read_key).
    ///
    /// # Errors
    /// As [`read_key`](LogReader::read_key), and [`ReadError::AboveEnd`] as [`Shard::follow`](crate::Shard::follow).
    pub fn follow_key(
        &self,
        key: &(impl AsRef<[u8]> + ?Sized),
        position: Option<Position>,
    ) -> Result<FollowKeyReader, ReadError> {
        let key = key.as_ref();
        let history = self.history_of(key)?;
        let (part, from) = history.resume(position)?;
        let onward = KeyOnward::new(self, key, part.stretch.version);
        Ok(FollowKeyReader(FollowReader::of_key(onward, part.source.id(), from)?))
    }

    /// The position of the last record of a key that is known to be durable now.
    ///
    /// # Errors
    /// As [`read_key`](LogReader::read_key).
    pub fn last(&self, key: &(impl AsRef<[u8]> + ?Sized)) -> Result<Option<Position>, ReadError> {
        let key = key.as_ref();
        self.history_of(key)?.last(key)
    }
}

/// The records of a key, and those that come, read beside the log's owner. By [`LogReader::follow_key`].
///
/// It waits and ends as a [`FollowReader`] does.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct FollowKeyReader(FollowReader);

impl FollowKeyReader {
    /// A handle that ends this reader.
    #[must_use]
    pub fn stop(&self) -> FollowReaderStop {
        self.0.stop()
    }

    /// The next record, for which it waits at most `timeout`.
    ///
    /// `None` if it ended or the time was over; [`Iterator::next`] tells which.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Record, ReadError>> {
        self.0.next_timeout(timeout)
    }
}

impl Iterator for FollowKeyReader {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl Stream for FollowKeyReader {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::log::{FollowKeyReader, LogReader};
    use crate::simulation::Simulated;
    use crate::{Options, Position, ReadError, ShardId, Write};

    #[test]
    fn a_key_is_read_and_followed_beside_the_owner() {
        let machine = Simulated::seed(1);
        let options = Options::new().shards(2).block_bytes(4096).segment_bytes(64 << 10);
        let log = options.clone().device(&machine).open("/log").unwrap();
        let append = |key: &[u8]| log.append(Write::new([1; 900]).key(key)).wait().unwrap();
        let reader = LogReader::open_on(machine.device().as_ref(), Path::new("/log")).unwrap();
        let mut tail = reader.follow_key(b"a", None).unwrap();
        let next = |tail: &mut FollowKeyReader| {
            tail.next_timeout(Duration::ZERO).map(|item| item.unwrap().position())
        };
        assert_eq!(next(&mut tail), None);
        let all: Vec<Position> = (0..9).map(|index| append([&b"a"[..], b"b", b"c"][index % 3])).collect();
        let shard = all[0].shard();
        log.shard(shard).append(b"whose block testifies").wait().unwrap();
        let own = [all[0], all[3], all[6]];
        assert_eq!([0; 4].map(|_| next(&mut tail)), [Some(own[0]), Some(own[1]), Some(own[2]), None]);
        let read = reader.read_key(b"a", own[1]..).unwrap();
        assert_eq!(read.map(|item| item.unwrap().position()).collect::<Vec<_>>(), own[1..]);
        let newest = reader.read_key_back(b"a", ..).unwrap().next().unwrap().unwrap();
        assert_eq!((newest.position(), reader.last(b"a").unwrap()), (own[2], Some(own[2])));
        let mut behind = reader.follow_key(b"a", Some(own[1])).unwrap();
        assert_eq!(next(&mut behind), Some(own[2]));
        log.shard(shard).truncate_after(own[1].lsn()).unwrap();
        let cut = reader.follow_key(b"a", Some(own[2]));
        assert!(matches!(cut, Err(ReadError::NotAPosition(position)) if position == own[2]));
        assert_eq!(reader.last(b"a").unwrap(), Some(own[1]));
        tail.stop().stop();
        assert!(tail.next().is_none());
        let elsewhere = Position::new(ShardId(1 - shard.0), 1, own[0].lsn(), own[0].lsn());
        assert!(matches!(reader.read_key(b"a", elsewhere..), Err(ReadError::NotAPosition(_))));
    }
}
