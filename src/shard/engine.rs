//! What producers, waiters and the shard's thread share, and the append path.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, Weak};
use std::task::Waker;
use std::time::Duration;

use super::opener::Opener;
use super::space::{Space, SpaceConfig};
use super::turn::Core;
use super::waiters::Waiters;
use super::wake_state::WakeState;
use crate::admission::{self, Admission};
use crate::committer::{Committer, CommitterConfig, Watermarks};
use crate::device::{Calls, Capabilities, Device, Lock, Queue, Wake};
use crate::error::{AppendError, Failure};
use crate::format::{BLOCK_HEADER_BYTES, Identity, RECORD_HEADER_BYTES};
use crate::notice::Notices;
use crate::pool::Pool;
use crate::position::{Lsn, Position, ShardId};
use crate::segment::{Marks, Segment, SegmentReader, ShardStore, StoreView};
use crate::stats::Counters;
use crate::sync::{CacheLine, lock};
use crate::sys::Process;
use crate::write::{Durability, Priority};

/// What an accepted batch waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The batch is whole once a watermark lies above it.
    pub lsn: Lsn,
    /// The block that holds its end.
    pub sequence: u64,
    pub durability: Durability,
}

/// An accepted batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    /// Position of the first record.
    pub position: Position,
    pub target: Target,
    /// The caller leads the commit or announces it.
    pub duty: bool,
}

/// Why a batch was not accepted.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// There is no room now; `AppendError::Overloaded` for those who do not wait.
    NoRoom,
    Error(AppendError),
}

/// LSNs and times that everybody may read.
#[derive(Debug)]
pub(super) struct Published {
    pub written: AtomicU64,
    pub durable: AtomicU64,
    pub covered: AtomicU64,
    /// The highest time given to a record.
    pub timestamp: AtomicU64,
    /// Since when the oldest operation has been out; `u64::MAX` if there is none.
    pub oldest: AtomicU64,
    /// Bytes per second that the shard drains when it is busy.
    pub drain_rate: AtomicU64,
}

/// What an engine is made with.
#[derive(Debug)]
pub(crate) struct EngineSetup {
    pub id: ShardId,
    pub device: Arc<dyn Device>,
    pub store: ShardStore,
    pub identity: Identity,
    /// Where the epoch starts.
    pub start: Lsn,
    /// It has stopped before it began: nothing is appended or written.
    pub read_only: bool,
    pub pool: Arc<Pool>,
    pub committer: CommitterConfig,
    /// Of the shard's folder.
    pub capabilities: Capabilities,
    pub space: SpaceConfig,
    pub read_bytes: usize,
    pub record_bytes: u64,
    pub record_limit: &'static str,
    /// Times must lie above it.
    pub timestamp: u64,
    /// The highest time acknowledged in the whole log.
    pub clock: Arc<AtomicU64>,
    /// `None` where a driver of the application's brings its own.
    pub queue: Option<Box<dyn Queue + Send>>,
    pub wake: Arc<dyn Wake>,
    pub lock: Arc<dyn Lock>,
    pub notices: Arc<Notices>,
}

/// One shard: its state, shared by producers, waiters and whoever turns it.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) id: ShardId,
    pub(super) device: Arc<dyn Device>,
    pub(super) pool: Arc<Pool>,
    pub(super) published: CacheLine<Published>,
    pub(super) opener: Mutex<Opener>,
    /// The token: whoever holds it turns the shard.
    pub(super) core: Mutex<Core>,
    pub(super) wake_state: WakeState,
    pub(super) wake: Arc<dyn Wake>,
    pub(super) waiters: Waiters,
    /// Who waits for the durable LSN to move, whichever block moves it.
    pub(super) followers: Waiters,
    /// Readers' buffers, kept for the next lookup.
    readers: Mutex<Vec<SegmentReader>>,
    pub(crate) admission: Admission,
    /// As [`Core::leads`], for a look without the token.
    pub(super) leads_seen: std::sync::atomic::AtomicU32,
    pub(super) commit_delay: super::commit_delay::CommitDelay,
    /// What truncation must leave.
    pub(super) pins: Mutex<Vec<super::retention_pin::RetentionPin>>,
    /// It was opened to be read: the failure says so.
    pub(super) read_only: bool,
    pub(super) failure: OnceLock<Arc<Failure>>,
    /// The other shards whose folders lie on the same device.
    pub(super) neighbours: OnceLock<Box<[Weak<Engine>]>>,
    device_number: u64,
    /// Blocking calls on its files, but those of readers.
    pub(crate) calls: Calls,
    pub(super) closing: AtomicBool,
    pub(super) ended: AtomicBool,
    /// Blocks up to this sequence are asked to be durable.
    pub(super) sync_asked: AtomicU64,
    /// When the thread wakes by itself; `u64::MAX` if it does not.
    pub(super) armed_until: AtomicU64,
    pub(crate) store: Mutex<ShardStore>,
    view: RwLock<Arc<StoreView>>,
    /// How often the view has lost something: what a reader has read before that is not to be served any more.
    truncations: Arc<AtomicU64>,
    /// The driver's queue, until a thread takes it; kept here where there are no threads.
    pub(super) queue: Mutex<Option<Box<dyn Queue + Send>>>,
    /// Where it asks for segments; `None` where nobody but whoever waits makes them.
    pub(super) maintenance: Mutex<Option<std::sync::mpsc::SyncSender<ShardId>>>,
    pub(super) space: Space,
    /// Bytes of key and payload that fit into one block, and are no more than `record_bytes`.
    pub(super) one_block_bytes: usize,
    read_bytes: usize,
    pub(super) record_bytes: u64,
    pub(super) record_limit: &'static str,
    pub(super) clock: Arc<AtomicU64>,
    pub(crate) counters: Counters,
    directory: PathBuf,
    capabilities: Capabilities,
    /// For the committer of the next epoch, too.
    pub(crate) committer: CommitterConfig,
    pub(super) notices: Arc<Notices>,
    pub(super) threaded: bool,
    /// Turned by a task of the application's.
    driven: bool,
    /// The one that opened the log.
    process: Process,
    _lock: Arc<dyn Lock>,
}

/// For waiters to whom nothing is passed.
pub(crate) const NO_LEAD: Option<fn()> = None;

impl Engine {
    pub(crate) fn new(setup: EngineSetup) -> Engine {
        // Of no block yet: the numbers begin behind it.
        let (start, before) = (setup.start, setup.pool.last().sequence);
        let mut committer = Committer::new(setup.committer, start, before);
        let Watermarks { written, durable, covered } = committer.watermarks();
        let opener = Opener::new(&setup.identity, start, before, setup.store.segments());
        let blocks = setup.pool.blocks();
        let directory = setup.store.directory().path().to_owned();
        let failure = OnceLock::new();
        let admission = Admission::default();
        if setup.read_only {
            let source = io::Error::other("the log is damaged, and open to be read only");
            let path = directory.clone();
            let stopped = Failure { shard: setup.id, operation: "opening", path, durable, source };
            failure.set(Arc::new(stopped)).expect("it was empty");
            committer.fail();
            let nobody = admission.shut();
            debug_assert!(nobody.is_empty());
        }
        Engine {
            id: setup.id,
            published: CacheLine(Published {
                written: AtomicU64::new(written.0),
                durable: AtomicU64::new(durable.0),
                covered: AtomicU64::new(covered.0),
                timestamp: AtomicU64::new(setup.timestamp),
                oldest: AtomicU64::new(u64::MAX),
                drain_rate: AtomicU64::new(0),
            }),
            opener: Mutex::new(opener),
            core: Mutex::new(Core::new(committer, setup.identity, setup.timestamp, blocks, before)),
            wake_state: WakeState::new(),
            wake: setup.wake,
            waiters: Waiters::new(blocks),
            followers: Waiters::new(1),
            readers: Mutex::new(Vec::new()),
            admission,
            failure,
            neighbours: OnceLock::new(),
            device_number: setup.store.directory().device_number(),
            calls: Calls::new(&setup.device),
            read_only: setup.read_only,
            pins: Mutex::default(),
            leads_seen: std::sync::atomic::AtomicU32::new(0),
            commit_delay: super::commit_delay::CommitDelay::default(),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            sync_asked: AtomicU64::new(0),
            armed_until: AtomicU64::new(u64::MAX),
            view: RwLock::new(Arc::new(setup.store.view())),
            truncations: Arc::default(),
            store: Mutex::new(setup.store),
            driven: setup.queue.is_none(),
            queue: Mutex::new(setup.queue),
            maintenance: Mutex::new(None),
            space: Space::new(setup.space),
            one_block_bytes: ((setup.pool.block_bytes() - BLOCK_HEADER_BYTES - RECORD_HEADER_BYTES - 7)
                as usize)
                .min(setup.record_bytes as usize),
            read_bytes: setup.read_bytes,
            record_bytes: setup.record_bytes,
            record_limit: setup.record_limit,
            clock: setup.clock,
            counters: Counters::default(),
            directory,
            capabilities: setup.capabilities,
            committer: setup.committer,
            notices: setup.notices,
            threaded: setup.device.threaded(),
            device: setup.device,
            pool: setup.pool,
            process: Process::current(),
            _lock: setup.lock,
        }
    }

    /// Whether this is called in the process that opened the log, and in no fork of it.
    #[inline]
    pub(crate) fn in_opening_process(&self) -> bool {
        self.process.is_current()
    }

    /// The highest time that a record of this shard has, or one of another that was acknowledged.
    pub(crate) fn latest_time(&self) -> u64 {
        let own = self.published.0.timestamp.load(Ordering::SeqCst);
        own.max(self.clock.load(Ordering::SeqCst))
    }

    /// The process that opened the log.
    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// Why nothing can be appended, if the log was opened to be read.
    pub(crate) fn read_only_failure(&self) -> Option<Arc<Failure>> {
        self.failure.get().filter(|_| self.read_only).cloned()
    }

    /// How long it takes, at the rate at which the shard drains, until a batch of this size and
    /// priority finds room.
    pub(crate) fn retry_after(&self, bytes: u64, priority: Priority) -> Duration {
        let above = self.pool.in_use().saturating_sub(self.blocks_max(priority).saturating_sub(1));
        let bytes = bytes.max(u64::from(above.max(1)) * u64::from(self.pool.block_bytes()));
        admission::retry_after(bytes, self.published.0.drain_rate.load(Ordering::Relaxed))
    }

    /// The refusal of a caller that does not wait.
    pub(crate) fn overloaded(&self, bytes: u64, priority: Priority) -> AppendError {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        AppendError::Overloaded { shard: self.id, retry_after: self.retry_after(bytes, priority) }
    }

    // Waiting.

    /// The outcome of an accepted batch, once it is known.
    pub(crate) fn outcome(&self, target: &Target) -> Option<Result<(), AppendError>> {
        if Lsn(self.published.0.durable.load(Ordering::SeqCst)) > target.lsn {
            return Some(Ok(()));
        }
        if let Some(failure) = self.failure.get() {
            return Some(Err(AppendError::ShardFailed(failure.clone())));
        }
        match target.durability {
            Durability::Buffered => Some(Ok(())),
            Durability::Written => {
                (Lsn(self.published.0.written.load(Ordering::SeqCst)) > target.lsn).then_some(Ok(()))
            }
            Durability::Synced => None,
        }
    }

    /// Blocks until the outcome is known, or the time is over.
    pub(crate) fn wait(&self, target: &Target, timeout: Option<Duration>) -> Option<Result<(), AppendError>> {
        if let Some(outcome) = self.outcome(target) {
            return Some(outcome);
        }
        if !self.in_opening_process() {
            return Some(Err(AppendError::Forked));
        }
        if !self.threaded {
            self.turn_until(|| self.outcome(target).is_some());
            return self.outcome(target);
        }
        if self.would_wait_for_itself() {
            return Some(Err(AppendError::OwnThread));
        }
        if timeout.is_some() {
            // Whoever has no time for a write that takes long leads nothing.
            return self.waiters.wait(target.sequence, timeout, || self.outcome(target), NO_LEAD);
        }
        self.join(target);
        self.waiters.wait(target.sequence, timeout, || self.outcome(target), Some(|| self.take_over()))
    }

    /// Leaves a waker for when the outcome may be known; `None` if it is.
    pub(crate) fn register(
        &self,
        target: &Target,
        waker: &Waker,
        previous: Option<super::Registration>,
    ) -> super::Registration {
        self.waiters.register(target.sequence, waker, previous)
    }

    pub(crate) fn forget(&self, registration: super::Registration) {
        self.waiters.forget(registration);
    }

    /// Whether a task of the application's turns it, and no thread of the log's own.
    pub(crate) fn is_driven(&self) -> bool {
        self.driven
    }

    /// Whether the caller must not block for it. Another shard of a driven log counts, too: its thread may be
    /// waiting for this one.
    pub(crate) fn would_wait_for_itself(&self) -> bool {
        self.driven && super::drives()
    }

    pub(crate) fn is_threaded(&self) -> bool {
        self.threaded
    }

    // What is so.

    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.published.0.durable.load(Ordering::SeqCst))
    }

    pub(crate) fn written(&self) -> Lsn {
        Lsn(self.published.0.written.load(Ordering::SeqCst))
    }

    pub(crate) fn failure(&self) -> Option<&Arc<Failure>> {
        self.failure.get()
    }

    pub(crate) fn blocks_in_use(&self) -> u32 {
        self.pool.in_use()
    }

    pub(crate) fn memory_blocks(&self) -> u32 {
        self.pool.blocks()
    }

    /// For how long the oldest operation or call that the device has not answered has been out.
    pub(crate) fn oldest_operation(&self) -> Option<Duration> {
        let since = self.published.0.oldest.load(Ordering::Relaxed);
        let operation =
            (since != u64::MAX).then(|| Duration::from_nanos(self.device.now().saturating_sub(since)));
        operation.max(self.calls.oldest())
    }

    /// Which device its files lie on.
    pub(crate) fn device_number(&self) -> u64 {
        self.device_number
    }

    pub(crate) fn drain_rate(&self) -> u64 {
        self.published.0.drain_rate.load(Ordering::Relaxed)
    }

    /// What the manifest is told whenever it is written.
    pub(crate) fn marks(&self) -> Marks {
        // In this order: the durable LSN is published last and is never above the covered one; old is never wrong.
        let checkpoint = self.durable();
        let covered = Lsn(self.published.0.covered.load(Ordering::SeqCst));
        Marks { checkpoint, covered, timestamp: self.published.0.timestamp.load(Ordering::SeqCst) }
    }

    pub(crate) fn view(&self) -> Arc<StoreView> {
        self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn publish_view(&self, store: &ShardStore) {
        let new = Arc::new(store.view());
        let mut view = self.view.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let truncated = view.horizon != new.horizon || view.epochs != new.epochs;
        *view = new;
        if truncated {
            self.truncations.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn truncations(&self) -> Arc<AtomicU64> {
        self.truncations.clone()
    }

    pub(crate) fn opener(&self) -> MutexGuard<'_, Opener> {
        lock(&self.opener)
    }

    /// The target of "everything that was accepted before": the last record, if there is any.
    pub(crate) fn last_target(&self, durability: Durability) -> Option<Target> {
        let last = self.pool.last();
        if last.length == 0 {
            return None;
        }
        // An empty open block: then it is the one before it that counts, and its end is known.
        if last.is_void() {
            let lsn = last.previous_end.0.checked_sub(1)?;
            return Some(Target { lsn: Lsn(lsn), sequence: last.sequence - 1, durability });
        }
        let lsn = Lsn(last.lsn.0 + u64::from(last.length) - 1);
        Some(Target { lsn, sequence: last.sequence, durability })
    }

    /// Asks that everything up to the target be durable.
    pub(crate) fn ask_sync(&self, target: &Target) {
        self.sync_asked.fetch_max(target.sequence, Ordering::SeqCst);
        self.prod();
    }

    // Reading.

    /// Shows the block at `lsn`, or the one that continues the chain from there, if it is still in memory:
    /// for a short while, in which it cannot be opened anew.
    pub(crate) fn recall(&self, lsn: Lsn, take: &mut dyn FnMut(&[u8])) {
        // In a forked child the pool is not mapped.
        if !self.in_opening_process() {
            return;
        }
        if let Some(block) = self.pool.recall(lsn) {
            self.counters.memory_hits.fetch_add(1, Ordering::Relaxed);
            take(&block);
        }
    }

    /// A reader that holds any block; its buffer is kept for the next one.
    pub(crate) fn lend_reader(&self) -> io::Result<SegmentReader> {
        let kept = lock(&self.readers).pop();
        kept.map_or_else(|| SegmentReader::new(self.pool.block_bytes() as usize * 2), Ok)
    }

    pub(crate) fn give_back(&self, mut reader: SegmentReader) {
        reader.forget();
        let mut readers = lock(&self.readers);
        if readers.len() < 4 {
            readers.push(reader);
        }
    }

    /// The largest segment.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.space.config.segment_bytes
    }

    /// What a scan reads at a time.
    pub(crate) fn read_bytes(&self) -> usize {
        self.read_bytes.min(usize::try_from(self.segment_bytes()).unwrap_or(usize::MAX))
    }

    pub(crate) fn block_bytes(&self) -> u32 {
        self.pool.block_bytes()
    }

    /// The largest record, and batch.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.record_bytes
    }

    /// Blocks until `resolved` gives something, looking again whenever the durable LSN moves.
    pub(crate) fn follow<T>(
        &self,
        timeout: Option<Duration>,
        mut resolved: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if self.threaded {
            return self.followers.wait(0, timeout, resolved, NO_LEAD);
        }
        let mut found = None;
        self.turn_until(|| {
            // Asked again after it was found: what was found must not be lost.
            found = found.take().or_else(&mut resolved);
            found.is_some()
        });
        found
    }

    pub(crate) fn register_follower(
        &self,
        waker: &Waker,
        previous: Option<super::Registration>,
    ) -> super::Registration {
        self.followers.register(0, waker, previous)
    }

    pub(crate) fn forget_follower(&self, registration: super::Registration) {
        self.followers.forget(registration);
    }

    /// Wakes those who wait for the durable LSN, to look at something else.
    pub(crate) fn wake_followers(&self) {
        let mut tasks = Vec::new();
        self.followers.notify_all(&mut tasks);
        crate::sync::wake(tasks);
    }

    /// Whether nothing will be appended any more.
    pub(crate) fn is_ended(&self) -> bool {
        // In a forked child nothing comes any more.
        self.failure.get().is_some() || self.ended.load(Ordering::SeqCst) || !self.in_opening_process()
    }

    /// The log is closed: those who follow it come to an end.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake_followers();
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The shard's folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.clone()
    }

    /// The path of a segment file, for messages.
    pub(super) fn path_of(&self, segment: &Segment) -> PathBuf {
        self.directory.join(crate::segment::segment_name(segment.row.file))
    }
}
