//! The public face of one shard.

use std::ops::RangeBounds;
use std::sync::Arc;

use super::{Log, source};
use crate::append::{Append, Commit, Route};
use crate::error::{AppendError, ReadError, TruncateError};
use crate::position::{Lsn, ShardId};
use crate::read::{self, Follow, Range, RangeBack};
use crate::shard::{Engine, EngineRef, StripedRefs};
use crate::write::Write;

/// One shard of a log. By [`Log::shard`](crate::Log::shard).
#[derive(Clone, Debug)]
pub struct Shard {
    pub(super) log: Log,
    pub(super) id: ShardId,
}

impl Shard {
    pub(super) fn new(log: Log, id: ShardId) -> Shard {
        Shard { log, id }
    }

    #[inline]
    pub(crate) fn engine(&self) -> Result<&Arc<Engine>, ShardId> {
        self.log.engine(self.id).ok_or(self.id)
    }

    pub(super) fn hold(&self) -> Result<EngineRef, ShardId> {
        self.log.inner.engine_refs.get(usize::from(self.id.0)).map(StripedRefs::take).ok_or(self.id)
    }

    /// The shard's number.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Appends a record to this shard, whatever its key; under a condition or with an id only where its key routes to it
    /// ([`AppendError::KeyRequired`]). Otherwise as [`Log::append`].
    pub fn append<'a>(&self, write: impl Into<Write<'a>>) -> Append<'a> {
        let write = write.into();
        match self.hold_for(&write) {
            Ok((hold, route)) => Append::begin(hold, route, write, self.log.inner.config.durability),
            Err(error) => Append::failed(error),
        }
    }

    /// The shard, if a record under terms belongs to a stream here.
    fn hold_for(&self, write: &Write<'_>) -> Result<(EngineRef, Route), AppendError> {
        let route = match write.terms {
            Some(_) => self.route_of_stream(&write.key)?,
            None => self.route_by_hand([&*write.key]),
        };
        Ok((self.hold().map_err(AppendError::NoSuchShard)?, route))
    }

    /// For records with these keys, which are put here whatever they are.
    #[inline]
    pub(super) fn route_by_hand<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) -> Route {
        Route::Shard(self.log.inner.router.look_at(keys))
    }

    /// For what belongs to the stream of this key.
    pub(super) fn route_of_stream(&self, key: &[u8]) -> Result<Route, AppendError> {
        match self.log.inner.router.look_up(key) {
            (shard, turn) if shard == self.id => Ok(Route::Shard(turn)),
            _ => Err(AppendError::KeyRequired),
        }
    }

    /// Appends a record to this shard if there is room for it now. Otherwise as [`Log::try_append`].
    ///
    /// # Errors
    /// As [`Log::try_append`].
    pub fn try_append<'a>(&self, write: impl Into<Write<'a>>) -> Result<Commit, AppendError> {
        let write = write.into();
        let (hold, route) = self.hold_for(&write)?;
        Commit::try_begin(hold, route, &write, self.log.inner.config.durability)
    }

    /// All records below this LSN are durable. 0 for a shard that does not exist.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.engine().map_or(Lsn::MIN, |engine| engine.durable())
    }

    /// The durable records within a range of LSNs, in order. The range need not start at a record. Beyond the end of
    /// the log it is empty, even if this log never reached that far: to resume from an LSN that was stored elsewhere,
    /// [follow](Shard::follow) from it, or compare it with [`durable_lsn`](Shard::durable_lsn).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
    /// # log.append(b"a").wait()?;
    /// for record in log.shard(sawmill::ShardId(0)).read(..)? {
    ///     let record = record?;
    ///     println!("{} {}", record.position(), record.payload().len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the shard does not exist. Read errors are yielded by the iterator, which resumes after them.
    pub fn read(&self, range: impl RangeBounds<Lsn>) -> Result<Range, ReadError> {
        Range::new(source(self.engine().map_err(ReadError::NoSuchShard)?), &range)
    }

    /// As [`read`](Shard::read), the last record first.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
    /// # log.append(b"a").wait()?;
    /// let last = log.append(b"b").wait()?;
    /// let newest = log.shard(sawmill::ShardId(0)).read_back(..)?.next().expect("there is one")?;
    /// assert_eq!(newest.position(), last);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`read`](Shard::read).
    pub fn read_back(&self, range: impl RangeBounds<Lsn>) -> Result<RangeBack, ReadError> {
        RangeBack::new(source(self.engine().map_err(ReadError::NoSuchShard)?), &range)
    }

    /// The records from `lsn` on, then new ones as they become durable: a blocking iterator and a stream.
    ///
    /// # Errors
    /// As [`read`](Shard::read), and [`ReadError::AboveEnd`] if `lsn` lies above all that was ever accepted. It then
    /// comes from another log, or from this one before it was restored from an older backup, and a follower would miss
    /// what is appended next.
    pub fn follow(&self, lsn: Lsn) -> Result<Follow, ReadError> {
        Follow::new(self.engine().map_err(ReadError::NoSuchShard)?.clone(), lsn)
    }

    /// Drops everything below `lsn`. When this returns, readers no longer see it, and that is durable.
    /// Space is freed by whole segments. Works on a full disk.
    ///
    /// If `lsn` is above the durable LSN, the shard is synced first, and only what is durable then is dropped.
    ///
    /// # Errors
    /// See [`TruncateError`].
    pub fn truncate_before(&self, lsn: Lsn) -> Result<(), TruncateError> {
        self.engine().map_err(TruncateError::NoSuchShard)?.truncate_before(lsn)
    }

    /// Cuts off everything after the record at `lsn`, which is kept. Durable when this returns. What
    /// was cut never comes back, and its LSNs are never assigned again. Appends to this shard wait
    /// meanwhile.
    ///
    /// # Errors
    /// [`TruncateError::NotARecord`] if no record starts at `lsn`, [`TruncateError::InsideBatch`] if its batch
    /// continues after it; see [`TruncateError`].
    pub fn truncate_after(&self, lsn: Lsn) -> Result<(), TruncateError> {
        let engine = self.engine().map_err(TruncateError::NoSuchShard)?;
        let mut nonce = [0; 8];
        self.log.inner.device.random(&mut nonce).map_err(|error| TruncateError::Io {
            shard: self.id,
            operation: "drawing a nonce",
            source: Arc::new(error),
        })?;
        engine.truncate_after(u64::from_le_bytes(nonce), || read::find_cut(&source(engine), lsn))
    }
}
