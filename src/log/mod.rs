//! The public face: [`Log`] and its [`Shard`]s; bulk loads, windows, and the reader beside an owner.

mod batches;
mod beside;
mod beside_index;
mod beside_map;
mod by_time;
mod follow_reader;
mod key_onward;
mod post;
mod pressure;
mod queues;
mod reader;
mod shard;
mod slots;
mod streams;
mod tasks;
mod window;

use std::fmt;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use crate::instance::Close;
pub use crate::open::{Salvage, SalvagedShard};
pub use follow_reader::{FollowReader, FollowReaderStop};
pub use reader::{Finding, LogReader, ShardReader, ShardSummary, Verified};
pub use shard::Shard;
pub use streams::FollowKeyReader;
pub use tasks::{Open, Truncate};
pub use window::{Window, WindowIter};

use crate::append::{Append, Commit, Route, SyncHandle};
use crate::consumer::{self, Consumer};
use crate::error::{AppendError, CloseError, ConsumerError, OpenError, ReadError, Unavailable};
use crate::instance::Instance;
use crate::open;
use crate::options::Options;
use crate::position::{LogId, Position, ShardId};
use crate::read::{self, Merged, Record, Source};
use crate::shard::{Engine, EngineRef, StripedRefs};
use crate::stats::Stats;
use crate::tally::{self, Fold, Tally, TallyError, TallyOptions};
use crate::write::{Durability, Write};

/// A log: a directory owned by this process, with one or more shards.
///
/// It is cheap to clone, and all clones are the same log. Dropping the last one closes the log and
/// blocks until everything that was accepted is durable; [`close`](Log::close) does the same and
/// returns errors.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let log = sawmill::Log::open(dir.path())?;
/// let position = log.append(b"hello").wait()?; // durable when this returns
/// assert_eq!(log.get(position)?.payload(), b"hello");
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Log {
    inner: Arc<Instance>,
}

impl Log {
    /// Opens the log in `path` with the default [`Options`], or creates one. May block for up to 30 seconds, and always
    /// writes: see [`Options::open`].
    ///
    /// # Errors
    /// See [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Log, OpenError> {
        Options::new().open(path)
    }

    /// Opens the log in `path` to read it, also while another process has it open. Takes no lock, writes nothing and
    /// recovers nothing. Serves what the files themselves show to be durable, which may lag behind the process that appends
    /// by the blocks written last.
    ///
    /// # Errors
    /// See [`OpenError`]; in a directory without a log, [`OpenError::NoLog`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<LogReader, OpenError> {
        LogReader::open(path.as_ref())
    }

    fn engine(&self, shard: ShardId) -> Option<&Arc<Engine>> {
        self.inner.engines.get(usize::from(shard.0))
    }

    /// The shard for a record with this key, or with none.
    #[inline]
    fn shard_for(&self, key: &[u8]) -> (usize, Route) {
        let engines = &self.inner.engines;
        if key.is_empty() {
            let shard = self.inner.router.nearest(|shard| {
                let engine = &engines[usize::from(shard.0)];
                engine.blocks_in_use() * 8 / engine.memory_blocks()
            });
            return (usize::from(shard.0), Route::NEAREST);
        }
        let (shard, turn) = self.inner.router.look_up(key);
        (usize::from(shard.0), Route::Keys(turn))
    }

    #[inline]
    fn refs_for(&self, key: &[u8]) -> (&StripedRefs, Route) {
        let (shard, route) = self.shard_for(key);
        (&self.inner.engine_refs[shard], route)
    }

    #[inline]
    fn routed(&self, key: &[u8]) -> (&Engine, Route) {
        let (shard, route) = self.shard_for(key);
        (&self.inner.engines[shard], route)
    }

    #[cfg(test)]
    pub(crate) fn engine_for(&self, key: &[u8]) -> &Engine {
        self.routed(key).0
    }

    /// The engine of a shard that there is.
    #[inline]
    pub(crate) fn engine_of(&self, shard: ShardId) -> &Arc<Engine> {
        &self.inner.engines[usize::from(shard.0)]
    }

    /// A hold on a shard that there is.
    pub(crate) fn hold(&self, shard: ShardId) -> EngineRef {
        self.inner.engine_refs[usize::from(shard.0)].take()
    }

    #[inline]
    pub(crate) fn durability(&self) -> Durability {
        self.inner.config.durability
    }

    /// Appends a record to the shard of its key. One without a key goes to any shard: to few of them at low load, to those
    /// with room under load.
    ///
    /// If there is room and nobody waits for it, the record is accepted in this call, whether the
    /// handle is polled or not. So two appends from one thread to one shard, as with one key, are in the order of the
    /// calls. Otherwise the handle waits in line. **Records without a key have no order**, even from one thread: give them a
    /// key, or append to a [`shard`](Log::shard).
    ///
    /// The largest record is set by [`Options::record_bytes`], 16 MiB unless memory allows less; the longest key has 65,535
    /// bytes.
    ///
    /// Costs a copy and a checksum of the record. Nothing is allocated for a record that fits into a
    /// block.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let position = log.append(b"from a task").await?; // any runtime, or none
    /// # Ok::<(), sawmill::AppendError>(()) })?;
    /// let position = log.append(b"from a thread").wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn append<'a>(&self, write: impl Into<Write<'a>>) -> Append<'a> {
        let write = write.into();
        let (refs, route) = self.refs_for(&write.key);
        Append::begin(refs.take(), route, write, self.inner.config.durability)
    }

    /// Appends a record if there is room for it now, and records do not wait for too long; never waits for either.
    ///
    /// # Errors
    /// [`AppendError::Overloaded`] says why, and how long to wait before the next try. Whatever the error, nothing was
    /// accepted.
    pub fn try_append<'a>(&self, write: impl Into<Write<'a>>) -> Result<Commit, AppendError> {
        let write = write.into();
        let (refs, route) = self.refs_for(&write.key);
        Commit::try_begin(refs.take(), route, &write, self.inner.config.durability)
    }

    /// Keeps up to `most` appends in flight and yields their positions in order, each once it is durable: the
    /// way to reach a high rate from one thread.
    ///
    /// # Panics
    /// If `most` is 0.
    pub fn window(&self, most: usize) -> Window {
        Window::new(self.clone(), most)
    }

    /// Waits until everything that was accepted before this call is durable, whatever durability it
    /// was appended with.
    pub fn sync(&self) -> SyncHandle {
        SyncHandle::begin(self.inner.engine_refs.iter().map(StripedRefs::take))
    }

    /// A handle to one shard. If there is no such shard, operations on the handle fail, but what cannot fail looks like that
    /// of an empty shard: [`Shard::durable_lsn`] is 0. There are [`shards`](Log::shards), numbered from 0.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Shard {
        Shard::new(self.clone(), shard)
    }

    /// The number of shards.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.inner.config.shards
    }

    /// The shard where records with this key go now.
    #[must_use]
    pub fn route(&self, key: &(impl AsRef<[u8]> + ?Sized)) -> ShardId {
        self.inner.router.route(key.as_ref())
    }

    /// Reads the record at a position that an append returned, whatever its durability.
    ///
    /// A block that is not written yet is written first.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn get(&self, position: Position) -> Result<Record, ReadError> {
        let engine = self.engine(position.shard()).ok_or(ReadError::NoSuchShard(position.shard()))?;
        read::get(&source(engine), position)
    }

    /// Reads the records at these positions, in this order: what [`get`](Log::get) does for each, with many reads in
    /// flight. Each has an outcome of its own.
    ///
    /// A record costs the granules (4 KiB) that it lies in and, once, its block's header.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// let first = log.append(b"first").wait()?;
    /// let second = log.append(b"second").wait()?;
    /// let mut records = log.get_many(&[second, first]).into_iter();
    /// assert_eq!(records.next().unwrap()?.payload(), b"second");
    /// assert_eq!(records.next().unwrap()?.payload(), b"first");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn get_many(&self, positions: &[Position]) -> Vec<Result<Record, ReadError>> {
        read::get_many(|shard| self.engine(shard).map(source), positions)
    }

    /// The durable records of all shards within a range of timestamps (nanoseconds since the Unix
    /// epoch), in the order of their timestamps.
    ///
    /// Where the range begins is found as by [`seek`](Log::seek): what lies before it is not read, and damage there is
    /// not reported.
    ///
    /// # Errors
    /// If no memory is available for the readers. Read errors are yielded by the iterator.
    pub fn merged(&self, range: impl RangeBounds<u64>) -> Result<Merged, ReadError> {
        Merged::new(self.inner.engines.iter().map(source), &range)
    }

    /// A reader of all shards that durably remembers how far it has got.
    ///
    /// A consumer is a named view of the *whole* log: it gets every record, whatever its key, those of tallies included. A
    /// new one starts at the beginning of the log. Only one of each name can be open at a time.
    ///
    /// **Retention and truncation delete records that this consumer has not read yet**, unless its name is in
    /// [`Options::retain_for`]. It then gets [`ReadError::Truncated`].
    ///
    /// # Errors
    /// [`ConsumerError::AboveEnd`] and the like if this log does not have what the consumer has committed, because one
    /// of the two was restored from a copy. See [`ConsumerError`].
    pub fn consumer(&self, name: &str) -> Result<Consumer, ConsumerError> {
        Consumer::open(name, None, &self.inner.consumers, &self.consumers_place()?)
    }

    /// As [`consumer`](Log::consumer), but from a given place on. What it had committed is forgotten, durably when this
    /// returns.
    ///
    /// Use it where a shard was restored from a copy that is older than the consumer's progress, or where the progress
    /// belongs to another log: [`consumer`](Log::consumer) refuses both. A position is recorded for its own shard even
    /// if the progress in another shard is still refused, so that several shards can be set one after the other.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
    /// use sawmill::consumer::From;
    /// let known = log.append(b"known to the other side").wait()?;
    /// let next = log.append(b"not yet").wait()?;
    /// let mut worker = log.consumer_from("mailer", From::Position(known))?;
    /// assert_eq!(worker.next().expect("there is one")?.position(), next);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConsumerError::NotAPosition`] if the position is not that of a durable record of this log. See
    /// [`ConsumerError`].
    pub fn consumer_from(&self, name: &str, from: consumer::From) -> Result<Consumer, ConsumerError> {
        Consumer::open(name, Some(from), &self.inner.consumers, &self.consumers_place()?)
    }

    /// The names of all consumers that this log knows, open ones included, in alphabetical order.
    ///
    /// # Errors
    /// [`ConsumerError::List`] if the log's folder cannot be read; [`ConsumerError::Closed`] and the like.
    pub fn consumers(&self) -> Result<Vec<String>, ConsumerError> {
        consumer::names(&self.consumers_place()?)
    }

    /// Forgets a consumer and what it has committed, durably. One that is opened under this name later starts from the
    /// beginning.
    ///
    /// # Errors
    /// [`ConsumerError::InUse`] while it is open, [`ConsumerError::Unknown`] if there is none. See
    /// [`ConsumerError`].
    pub fn remove_consumer(&self, name: &str) -> Result<(), ConsumerError> {
        consumer::remove(name, &self.inner.consumers, &self.consumers_place()?)
    }

    /// Where consumers are, while the log is open and ours.
    fn consumers_place(&self) -> Result<consumer::Place<'_>, ConsumerError> {
        self.may_write()?;
        Ok(consumer::Place {
            engines: &self.inner.engines,
            directory: self.inner.directory.as_ref(),
            calls: &self.inner.calls,
            notices: &self.inner.notices,
            retain_for: &self.inner.config.retain_for,
        })
    }

    /// The tally of this name, which keeps sums: running totals that lose nothing, at a fraction of the writes.
    ///
    /// A new tally is empty. One that the log already has is read back, which takes a few times as long as reading its
    /// totals. One that is already open is shared.
    ///
    /// Its records are part of the log, under a key that begins with
    /// [`TALLY_KEY_PREFIX`](crate::tally::TALLY_KEY_PREFIX); readers of a whole shard see them. Truncation and
    /// retention keep what the tally needs.
    ///
    /// # Errors
    /// See [`TallyError`].
    pub fn tally(&self, name: &str) -> Result<Tally, TallyError> {
        self.tally_of(name)
    }

    /// As [`tally`](Log::tally), with another [`Fold`]: [`Count`](crate::tally::Count), [`Min`](crate::tally::Min),
    /// [`Max`](crate::tally::Max), [`Last`](crate::tally::Last), or your own.
    ///
    /// # Errors
    /// See [`TallyError`].
    pub fn tally_of<F: Fold>(&self, name: &str) -> Result<Tally<F>, TallyError> {
        self.tally_with(name, &TallyOptions::new())
    }

    /// As [`tally_of`](Log::tally_of), with options. If the tally is already open, the options of the first
    /// open stay in force.
    ///
    /// # Errors
    /// See [`TallyError`].
    pub fn tally_with<F: Fold>(&self, name: &str, options: &TallyOptions) -> Result<Tally<F>, TallyError> {
        self.may_write()?;
        let place = tally::Place {
            engines: &self.inner.engines,
            directory: self.inner.directory.as_ref(),
            device: &self.inner.device,
            notices: &self.inner.notices,
        };
        let opened = tally::open(name, options, &self.inner.tallies, &place);
        self.inner.engines[0].tell_of_flushes();
        opened
    }

    /// Removes a tally for good: its totals are gone, and its records may be truncated. If it is open, it is
    /// flushed and ended.
    ///
    /// # Errors
    /// See [`TallyError`].
    pub fn remove_tally(&self, name: &str) -> Result<(), TallyError> {
        self.may_write()?;
        let removed =
            tally::remove(name, &self.inner.tallies, self.inner.directory.as_ref(), &self.inner.engines);
        self.inner.engines[0].tell_of_flushes();
        removed
    }

    /// An error where nothing of the log's may be opened to be written.
    fn may_write(&self) -> Result<(), Unavailable> {
        if !self.inner.in_opening_process() {
            return Err(Unavailable::Forked);
        }
        if self.inner.closed.load(Ordering::SeqCst) {
            return Err(Unavailable::Closed);
        }
        let failure = self.inner.engines.iter().find_map(|engine| engine.read_only_failure());
        failure.map_or(Ok(()), |failure| Err(Unavailable::ShardFailed(failure)))
    }

    /// Counters, gauges and notices of the log as of now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shards = self.inner.engines.iter().map(|engine| engine.stats(self.inner.backend)).collect();
        let latest = self.inner.engines.iter().map(|engine| engine.latest_time()).max().unwrap_or(0);
        let clock_drift = Duration::from_nanos(latest.saturating_sub(self.inner.device.wall()));
        Stats { shards, clock_drift, notices: self.inner.notices.lines() }
    }

    /// Turns a shard of a log without threads, once or until nothing happens any more.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn turn_shard(&self, shard: ShardId, once: bool) {
        self.inner.engines[usize::from(shard.0)].turn_until(|| once);
    }

    /// Identifies the log, wherever its files are. Store it with positions that you keep elsewhere.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Options::new().shards(1).open(dir.path())?;
    /// let (source, copied_to) = (log.id(), log.append(b"copied").wait()?); // what a replicator keeps
    /// # log.close()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// assert_eq!(log.id(), source, "the source was replaced: begin anew");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn id(&self) -> LogId {
        self.inner.engines[0].view().public_id()
    }

    /// The log's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Closes the log for all clones. When this returns, everything that was accepted is durable,
    /// buffered records too. Outstanding handles resolve; later calls fail with `Closed`.
    ///
    /// # Errors
    /// See [`CloseError`]. If a shard, a consumer or the disk failed, the log is closed all the same, and the
    /// next open recovers it.
    pub fn close(&self) -> Result<(), CloseError> {
        self.inner.close()
    }

    /// As [`close`](Log::close), for tasks: the close starts now, on a thread of its own, and the handle
    /// resolves to its outcome.
    pub fn close_async(&self) -> Close {
        Close::begin(self.inner.clone())
    }

    /// Finds out what can be rebuilt of the shards in `path` whose manifest is lost in both copies, from their segment
    /// files alone. Nothing is changed before [`Salvage::write`]; after it, the log can be opened as usual.
    ///
    /// Everything that was acknowledged comes back. So do records that were truncated, where a file still holds them:
    /// only the manifest knew that they were.
    ///
    /// # Errors
    /// As [`Options::open`], and [`OpenError::CannotRebuild`]. The log's own manifest cannot be rebuilt; it
    /// changes only when slots are moved, so any backup since the last move has it.
    pub fn salvage(path: impl AsRef<Path>) -> Result<Salvage, OpenError> {
        open::salvage(path.as_ref(), &Options::new())
    }
}

impl Options {
    /// Opens the log in `path` and recovers it, or creates one.
    ///
    /// A new log gets its directory and the [`directories`](Options::directories) of its shards, but their parents must
    /// exist, since the file system that belongs there may not be mounted. For an existing log no directory is created.
    ///
    /// This process owns the directory until the log is closed. Recovery reads at most the segments
    /// after the last checkpoint; everything it keeps is durable before this returns.
    ///
    /// Blocks for up to 30 seconds where the process that had the log has ended, but its last writes may still land; one that
    /// lives is an error at once. It always writes: a small file that measures the device, and that the log was opened. To
    /// look at a log without that: [`Log::open_read_only`].
    ///
    /// # Errors
    /// See [`OpenError`]. On any error, what was there is left as it was. If creating a log fails halfway, the next
    /// open completes it.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Log, OpenError> {
        open::open(path.as_ref(), self).map(|instance| Log { inner: Arc::new(instance) })
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("path", &self.inner.path)
            .field("shards", &self.shards())
            .finish_non_exhaustive()
    }
}

/// A shard as what readers read from.
fn source(engine: &Arc<Engine>) -> Arc<dyn Source> {
    engine.clone()
}
