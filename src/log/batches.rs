//! Batches: appended as a whole, waiting for room or not, with one key or several.

use super::{Log, Shard};
use crate::append::{AppendBatch, CommitBatch, Route, look_up_all};
use crate::error::AppendError;
use crate::shard::{EngineRef, StripedRefs};
use crate::write::BatchBuilder;

impl Log {
    /// Appends several records with one key to one shard. After any crash all of them are there, or
    /// none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// let positions = log.append_batch(b"order:9", &[&b"debit"[..], b"credit"]).wait()?;
    /// assert_eq!(positions.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_batch<'a, P: AsRef<[u8]>>(
        &self,
        key: &'a (impl AsRef<[u8]> + ?Sized),
        payloads: &'a [P],
    ) -> AppendBatch<'a> {
        let key = key.as_ref();
        let payloads = payloads.iter().map(AsRef::as_ref).collect();
        let (refs, route) = self.refs_for(key);
        AppendBatch::begin(refs.take(), route, key, payloads, self.durability())
    }

    /// As [`append_batch`](Log::append_batch), with a batch built in advance, whose memory can be reused
    /// once the handle is dropped. `key` is that of the records that have [none of their own](BatchBuilder::push_keyed).
    ///
    /// With keys of several shards it is [`AppendError::MixedShards`], and nothing is accepted.
    pub fn append_built<'a>(
        &self,
        key: &'a (impl AsRef<[u8]> + ?Sized),
        batch: &'a BatchBuilder,
    ) -> AppendBatch<'a> {
        let key = key.as_ref();
        match self.refs_for_built(key, batch) {
            Ok((refs, route)) => AppendBatch::begin_built(refs.take(), route, key, batch, self.durability()),
            Err(error) => AppendBatch::failed(error),
        }
    }

    /// Appends a batch of records with [keys of their own](BatchBuilder::push_keyed), which must all route to one shard:
    /// else it is [`AppendError::MixedShards`], and nothing is accepted. Records without a key go with the others. A batch
    /// in which none has one goes where a record without a key goes. As [`append_batch`](Log::append_batch) otherwise.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Options::new().shards(8).open(dir.path())?;
    /// use sawmill::write::BatchBuilder;
    /// // What belongs together by chance: a batch for each shard.
    /// let mut batches = vec![BatchBuilder::new(); usize::from(log.shards())];
    /// for user in 0..100 {
    ///     let key = format!("user:{user}");
    ///     batches[usize::from(log.route(&key).0)].push_keyed(&key, b"seen");
    /// }
    /// for batch in batches.iter().filter(|batch| !batch.is_empty()) {
    ///     log.append_keyed(batch).wait()?;
    /// }
    /// assert_eq!(log.read_key("user:7", ..)?.count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_keyed<'a>(&self, batch: &'a BatchBuilder) -> AppendBatch<'a> {
        self.append_built(b"", batch)
    }

    /// As [`append_batch`](Log::append_batch) if there is room for all of it now; never waits for room.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// use sawmill::AppendError;
    /// match log.try_append_batch(b"order:9", &[b"debit 5", b"credit5"]) {
    ///     Ok(commit) => assert_eq!(commit.positions().len(), 2), // accepted; `commit.wait()` for durable
    ///     Err(AppendError::Overloaded { retry_after, .. }) => println!("again in {retry_after:?}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AppendError::Overloaded`] says how long to wait before the next try. Whatever the error, nothing was accepted.
    pub fn try_append_batch<P: AsRef<[u8]>>(
        &self,
        key: &(impl AsRef<[u8]> + ?Sized),
        payloads: &[P],
    ) -> Result<CommitBatch, AppendError> {
        let key = key.as_ref();
        let (refs, route) = self.refs_for(key);
        CommitBatch::try_begin(refs.take(), route, key, payloads, self.durability())
    }

    /// As [`append_keyed`](Log::append_keyed) if there is room for all of it now; never waits for room. It takes the
    /// batch's own keys, [priority](BatchBuilder::priority) and [durability](BatchBuilder::durability).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// let mut batch = sawmill::write::BatchBuilder::new();
    /// batch.push_keyed(b"cart:7", b"paid");
    /// batch.push_keyed(b"cart:7", b"closed");
    /// batch.priority(sawmill::Priority::High);
    /// let commit = log.try_append_built(&batch)?;
    /// batch.clear(); // it was copied
    /// assert_eq!(commit.wait()?.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`try_append_batch`](Log::try_append_batch), and as [`append_keyed`](Log::append_keyed).
    pub fn try_append_built(&self, batch: &BatchBuilder) -> Result<CommitBatch, AppendError> {
        let (refs, route) = self.refs_for_built(&[], batch)?;
        CommitBatch::try_built(refs.take(), route, batch, self.durability())
    }

    /// The shard of a batch whose records have `key` where they have none of their own.
    fn refs_for_built(&self, key: &[u8], batch: &BatchBuilder) -> Result<(&StripedRefs, Route), AppendError> {
        match look_up_all(&self.inner.router, key, batch)? {
            Some((shard, turn)) => Ok((&self.inner.engine_refs[usize::from(shard.0)], Route::Keys(turn))),
            None => Ok(self.refs_for(&[])),
        }
    }
}

impl Shard {
    /// Appends several records to this shard, all or none. Otherwise as [`Log::append_batch`].
    pub fn append_batch<'a, P: AsRef<[u8]>>(
        &self,
        key: &'a (impl AsRef<[u8]> + ?Sized),
        payloads: &'a [P],
    ) -> AppendBatch<'a> {
        let payloads = payloads.iter().map(AsRef::as_ref).collect();
        match self.hold() {
            Ok(hold) => {
                let key = key.as_ref();
                let route = self.route_by_hand([key]);
                AppendBatch::begin(hold, route, key, payloads, self.log.durability())
            }
            Err(shard) => AppendBatch::failed(AppendError::NoSuchShard(shard)),
        }
    }

    /// Appends a batch to this shard, whatever the keys of its records; under a condition or with an id only where their
    /// one key routes to it ([`AppendError::KeyRequired`]). Otherwise as [`Log::append_keyed`].
    pub fn append_keyed<'a>(&self, batch: &'a BatchBuilder) -> AppendBatch<'a> {
        match self.hold_for_built(batch) {
            Ok((hold, route)) => AppendBatch::begin_built(hold, route, b"", batch, self.log.durability()),
            Err(error) => AppendBatch::failed(error),
        }
    }

    /// As [`append_batch`](Shard::append_batch) if there is room for all of it now. Otherwise as
    /// [`Log::try_append_batch`].
    ///
    /// # Errors
    /// As [`Log::try_append_batch`].
    pub fn try_append_batch<P: AsRef<[u8]>>(
        &self,
        key: &(impl AsRef<[u8]> + ?Sized),
        payloads: &[P],
    ) -> Result<CommitBatch, AppendError> {
        let hold = self.hold().map_err(AppendError::NoSuchShard)?;
        let key = key.as_ref();
        CommitBatch::try_begin(hold, self.route_by_hand([key]), key, payloads, self.log.durability())
    }

    /// As [`append_keyed`](Shard::append_keyed) if there is room for all of it now. Otherwise as
    /// [`Log::try_append_built`].
    ///
    /// # Errors
    /// As [`Log::try_append_built`].
    pub fn try_append_built(&self, batch: &BatchBuilder) -> Result<CommitBatch, AppendError> {
        let (hold, route) = self.hold_for_built(batch)?;
        CommitBatch::try_built(hold, route, batch, self.log.durability())
    }

    /// The shard, if a batch under terms belongs to a stream here.
    fn hold_for_built(&self, batch: &BatchBuilder) -> Result<(EngineRef, Route), AppendError> {
        let route = if batch.terms.are_none() {
            self.route_by_hand(batch.keys(&[]).iter(batch.len()))
        } else {
            self.route_of_stream(batch.one_key(&[]).ok_or(AppendError::MixedKeys)?)?
        };
        Ok((self.hold().map_err(AppendError::NoSuchShard)?, route))
    }
}
