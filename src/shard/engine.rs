//! What producers, waiters and the shard's thread share, and the append path.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};
use std::task::Waker;
use std::time::Duration;

use super::nudge::{Nudge, Nudged};
use super::opener::{NoRoom, Opener};
use super::turn::Core;
use super::waiters::Waiters;
use crate::admission::{self, Admission};
use crate::committer::{Committer, CommitterConfig, Watermarks};
use crate::device::{Capabilities, Device, Lock, Queue, Wake};
use crate::error::{AppendError, CloseError, Failure, SharedIo, TruncateError};
use crate::format::{BLOCK_HEADER_BYTES, GRANULE, Identity, RecordFlags, encode_record, encoded_bytes};
use crate::notice::Notices;
use crate::options::{Durability, Priority};
use crate::pool::{Claim, Pool, Reserved, Urgency};
use crate::position::{Lsn, Position, ShardId};
use crate::recovery::SegmentReader;
use crate::segment::{Marks, Segment, ShardStore, StoreView};
use crate::stats::Counters;
use crate::sync::lock;

/// Records of one key for one shard, to be accepted together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub key: &'a [u8],
    pub payloads: &'a [&'a [u8]],
}

impl Batch<'_> {
    /// Bytes of keys and payloads.
    pub(crate) fn bytes(&self) -> u64 {
        let payloads: u64 = self.payloads.iter().map(|payload| payload.len() as u64).sum();
        payloads + self.key.len() as u64 * self.payloads.len() as u64
    }
}

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
    pub checkpoint: AtomicU64,
    /// The highest time given to a record.
    pub timestamp: AtomicU64,
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
    pub pool: Arc<Pool>,
    pub committer: CommitterConfig,
    pub segment_bytes: u64,
    pub first_segment_bytes: u64,
    pub record_bytes: u64,
    pub record_limit: &'static str,
    /// Times must lie above it.
    pub timestamp: u64,
    /// The highest time acknowledged in the whole log.
    pub clock: Arc<AtomicU64>,
    pub queue: Box<dyn Queue>,
    pub wake: Arc<dyn Wake>,
    pub lock: Arc<dyn Lock>,
    pub notices: Arc<Notices>,
    /// Sends the shard's number to whoever makes segments.
    pub keeper: Option<std::sync::mpsc::Sender<ShardId>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) id: ShardId,
    pub(super) device: Arc<dyn Device>,
    pub(super) pool: Arc<Pool>,
    pub(super) published: Published,
    pub(super) opener: Mutex<Opener>,
    /// The token: whoever holds it turns the shard.
    pub(super) core: Mutex<Core>,
    pub(super) nudge: Nudge,
    pub(super) wake: Arc<dyn Wake>,
    pub(super) waiters: Waiters,
    /// Who waits for the durable LSN to move, whichever block moves it.
    pub(super) followers: Waiters,
    /// Readers' buffers, kept for the next lookup.
    readers: Mutex<Vec<SegmentReader>>,
    pub(crate) admission: Admission,
    pub(super) failure: OnceLock<Arc<Failure>>,
    pub(super) closing: AtomicBool,
    ended: AtomicBool,
    /// Blocks up to this sequence are asked to be durable.
    pub(super) sync_asked: AtomicU64,
    /// When the thread wakes by itself; `u64::MAX` if it does not.
    pub(super) armed_until: AtomicU64,
    pub(crate) store: Mutex<ShardStore>,
    view: RwLock<Arc<StoreView>>,
    /// The driver's queue, until a thread takes it; kept here where there are no threads.
    pub(super) queue: Mutex<Option<Box<dyn Queue>>>,
    keeper: Mutex<Option<std::sync::mpsc::Sender<ShardId>>>,
    segment_asked: AtomicBool,
    /// A segment was made since the last turn.
    pub(super) segment_came: AtomicBool,
    segment_need: AtomicU64,
    segment_error: Mutex<Option<SharedIo>>,
    segment_error_set: AtomicU32,
    /// When the last segment was made, to see how fast they fill.
    segment_made: AtomicU64,
    segment_bytes: u64,
    first_segment_bytes: u64,
    record_bytes: u64,
    record_limit: &'static str,
    pub(super) clock: Arc<AtomicU64>,
    pub(crate) counters: Counters,
    directory: PathBuf,
    capabilities: Capabilities,
    pub(super) notices: Arc<Notices>,
    threaded: bool,
    _lock: Arc<dyn Lock>,
}

impl Engine {
    pub(crate) fn new(setup: EngineSetup) -> Engine {
        let start = setup.start;
        let committer = Committer::new(setup.committer, start, 0);
        let Watermarks { written, durable, covered, checkpoint } = committer.watermarks();
        let opener = Opener::new(&setup.identity, start, setup.store.segments());
        let blocks = setup.pool.blocks();
        let directory = setup.store.directory().path().to_owned();
        let capabilities = setup.store.directory().capabilities();
        Engine {
            id: setup.id,
            published: Published {
                written: AtomicU64::new(written.0),
                durable: AtomicU64::new(durable.0),
                covered: AtomicU64::new(covered.0),
                checkpoint: AtomicU64::new(checkpoint.0),
                timestamp: AtomicU64::new(setup.timestamp),
                drain_rate: AtomicU64::new(0),
            },
            opener: Mutex::new(opener),
            core: Mutex::new(Core::new(committer, setup.identity, setup.timestamp, blocks)),
            nudge: Nudge::new(),
            wake: setup.wake,
            waiters: Waiters::new(blocks),
            followers: Waiters::new(1),
            readers: Mutex::new(Vec::new()),
            admission: Admission::default(),
            failure: OnceLock::new(),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            sync_asked: AtomicU64::new(0),
            armed_until: AtomicU64::new(u64::MAX),
            view: RwLock::new(Arc::new(setup.store.view())),
            store: Mutex::new(setup.store),
            queue: Mutex::new(Some(setup.queue)),
            keeper: Mutex::new(setup.keeper),
            segment_asked: AtomicBool::new(false),
            segment_came: AtomicBool::new(false),
            segment_need: AtomicU64::new(0),
            segment_error: Mutex::new(None),
            segment_error_set: AtomicU32::new(0),
            segment_made: AtomicU64::new(0),
            segment_bytes: setup.segment_bytes,
            first_segment_bytes: setup.first_segment_bytes,
            record_bytes: setup.record_bytes,
            record_limit: setup.record_limit,
            clock: setup.clock,
            counters: Counters::default(),
            directory,
            capabilities,
            notices: setup.notices,
            threaded: setup.device.threaded(),
            device: setup.device,
            pool: setup.pool,
            _lock: setup.lock,
        }
    }

    // Appending.

    /// Blocks that records of a priority may take, of all.
    fn blocks_max(&self, priority: Priority) -> u32 {
        let blocks = self.pool.blocks();
        match priority {
            Priority::Low => blocks / 2,
            Priority::Normal => blocks - blocks / 8,
            Priority::High => blocks,
        }
    }

    /// Whether a waiter of this priority may try again.
    fn admits(&self, priority: Priority) -> bool {
        self.pool.in_use() < self.blocks_max(priority)
    }

    /// Accepts a batch if there is room now. The batch is not empty.
    ///
    /// Positions of all records are pushed to `positions` if it is given. With `may_lead` the caller
    /// may be given the duty to write its own block.
    pub(crate) fn put(
        &self,
        batch: &Batch<'_>,
        priority: Priority,
        durability: Durability,
        may_lead: bool,
        mut positions: Option<&mut Vec<Position>>,
    ) -> Result<Placed, Refused> {
        let urgency = match durability {
            Durability::Buffered => Urgency::Background,
            Durability::Written => Urgency::Written,
            Durability::Synced => Urgency::Synced,
        };
        let Some(need) = self.check_size(batch)? else {
            return self.put_group(batch, priority, durability, urgency, positions);
        };
        let blocks_max = self.blocks_max(priority);
        if self.pool.in_use() > blocks_max {
            return Err(Refused::NoRoom);
        }
        let mut reserved = loop {
            match self.pool.claim(need) {
                Claim::Taken(reserved) => break reserved,
                Claim::Closed => self.open_block(need, blocks_max)?,
            }
        };
        let (lsn, block) = (reserved.lsn(), reserved.block_lsn());
        let position = Position::new(self.id, reserved.epoch(), lsn, block);
        let mut offset = 0;
        let count = batch.payloads.len();
        for (index, payload) in batch.payloads.iter().enumerate() {
            let at = Lsn(lsn.0 + offset as u64);
            if let Some(positions) = &mut positions {
                positions.push(Position::new(self.id, reserved.epoch(), at, block));
            }
            let body = (batch.key.len() + payload.len()) as u32;
            let bytes = encoded_bytes(body) as usize;
            let mut flags = RecordFlags::WHOLE;
            if index + 1 < count {
                flags = flags.with(RecordFlags::MORE);
            }
            if index > 0 {
                flags = flags.with(RecordFlags::JOINED);
            }
            let seed = reserved.seed();
            let place = &mut reserved.bytes_mut()[offset..offset + bytes];
            encode_record(place, seed, at, batch.key.len() as u16, body, flags, [batch.key, payload]);
            offset += bytes;
        }
        let sequence = reserved.sequence();
        let ready = reserved.finish(count as u32, urgency);
        let duty = self.appended(urgency, ready, may_lead);
        Ok(Placed { position, target: Target { lsn, sequence, durability }, duty })
    }

    /// Bytes that the batch takes in a block; `None` if it does not fit into one.
    fn check_size(&self, batch: &Batch<'_>) -> Result<Option<u32>, Refused> {
        let too_large = |bytes: usize, limit, limit_bytes| {
            Err(Refused::Error(AppendError::TooLarge { bytes: bytes as u64, limit, limit_bytes }))
        };
        if batch.key.len() > usize::from(u16::MAX) {
            return too_large(batch.key.len(), "the format's key length", u64::from(u16::MAX));
        }
        let bytes = batch.bytes();
        let headers = 24 * (batch.payloads.len() as u64 - 1);
        if bytes + headers > self.record_bytes {
            return too_large((bytes + headers) as usize, self.record_limit, self.record_bytes);
        }
        let key = batch.key.len();
        let need: u64 =
            batch.payloads.iter().map(|payload| u64::from(encoded_bytes((key + payload.len()) as u32))).sum();
        let fits = need <= u64::from(self.pool.block_bytes() - BLOCK_HEADER_BYTES);
        Ok(fits.then_some(need as u32))
    }

    /// Opens the next block, unless somebody else just did.
    fn open_block(&self, need: u32, blocks_max: u32) -> Result<(), Refused> {
        let opened = {
            let mut opener = lock(&self.opener);
            let opened = match () {
                () if self.failure.get().is_some() => Err(NoRoom::Shut),
                () if self.pool.is_closed() => opener.open(&self.pool, need, blocks_max),
                () => Ok(()),
            };
            if opened.is_ok() {
                self.look_ahead(&opener);
            }
            opened
        };
        // The block before it is full: it can go out.
        self.counters.blocks_filled.fetch_add(1, Ordering::Relaxed);
        self.appended(Urgency::Background, true, false);
        opened.map_err(|reason| self.refused(reason))
    }

    fn refused(&self, reason: NoRoom) -> Refused {
        match reason {
            NoRoom::Memory => Refused::NoRoom,
            NoRoom::Shut => Refused::Error(self.shut_error()),
            NoRoom::Segment { bytes } => {
                let error = self.segment_error();
                self.ask_for_segment(bytes);
                error.map_or(Refused::NoRoom, |source| {
                    Refused::Error(AppendError::NoSpace { shard: self.id, source })
                })
            }
        }
    }

    /// Why nothing is accepted any more.
    pub(crate) fn shut_error(&self) -> AppendError {
        self.failure.get().map_or(AppendError::Closed, |failure| AppendError::ShardFailed(failure.clone()))
    }

    /// Accepts a batch that does not fit into one block: it gets blocks of its own, all or none.
    fn put_group(
        &self,
        batch: &Batch<'_>,
        priority: Priority,
        durability: Durability,
        urgency: Urgency,
        mut positions: Option<&mut Vec<Position>>,
    ) -> Result<Placed, Refused> {
        let bodies: Vec<u32> =
            batch.payloads.iter().map(|payload| (batch.key.len() + payload.len()) as u32).collect();
        let (planned, mut reserved) = {
            let mut opener = lock(&self.opener);
            if opener.shut || self.failure.get().is_some() {
                return Err(Refused::Error(self.shut_error()));
            }
            // Others go on behind the group; what they have in the open block goes out before it.
            self.pool.close_any();
            let planned = opener
                .plan(&self.pool, &bodies, self.blocks_max(priority))
                .map_err(|reason| self.refused(reason))?;
            let mut reserved: VecDeque<Reserved<'_>> = VecDeque::with_capacity(planned.len());
            for block in &planned {
                let opened = self.pool.open_closed(&block.place, block.length, block.group);
                reserved.push_back(opened.expect("the plan found enough blocks, under the lock"));
                opener.leave_behind(block.place.lsn);
            }
            self.look_ahead(&opener);
            (planned, reserved)
        };
        let mut placed = None;
        for block in &planned {
            let mut range = reserved.pop_front().expect("one for each planned block");
            let (seed, epoch, start) = (range.seed(), range.epoch(), range.lsn());
            let mut offset = 0;
            for piece in &block.pieces {
                let payload = batch.payloads[piece.record];
                let at = Lsn(start.0 + offset as u64);
                let body = [
                    part(batch.key, 0, piece.from, piece.to),
                    part(payload, batch.key.len(), piece.from, piece.to),
                ];
                let bytes = encoded_bytes(piece.to - piece.from) as usize;
                let place = &mut range.bytes_mut()[offset..offset + bytes];
                encode_record(
                    place,
                    seed,
                    at,
                    batch.key.len() as u16,
                    bodies[piece.record],
                    piece.flags,
                    body,
                );
                offset += bytes;
                let position = Position::new(self.id, epoch, at, block.place.lsn);
                if let Some(positions) = positions.as_mut().filter(|_| piece.from == 0) {
                    positions.push(position);
                }
                let first = placed.map_or(position, |placed: Placed| placed.position);
                let target = Target { lsn: at, sequence: range.sequence(), durability };
                placed = Some(Placed { position: first, target, duty: false });
            }
            range.finish(block.pieces.len() as u32, urgency);
        }
        self.appended(urgency, true, false);
        Ok(placed.expect("a group has a piece"))
    }

    /// Wakes the thread if it must be; true if the caller was given the duty.
    #[inline]
    fn appended(&self, urgency: Urgency, ready: bool, may_lead: bool) -> bool {
        match self.nudge.appended(urgency, ready, may_lead && self.threaded) {
            Nudged::Nothing => false,
            Nudged::Duty => true,
            Nudged::Wake => {
                self.wake.wake();
                false
            }
        }
    }

    /// Gives the duty of an accepted batch to the thread.
    pub(crate) fn announce(&self) {
        if self.nudge.announce() == Nudged::Wake {
            self.wake.wake();
        }
    }

    /// Makes the thread look, whatever it does.
    pub(crate) fn prod(&self) {
        if self.nudge.wake() == Nudged::Wake {
            self.wake.wake();
        }
    }

    /// How long it takes, at the rate at which the shard drains, until a batch of this size and
    /// priority finds room.
    pub(crate) fn retry_after(&self, bytes: u64, priority: Priority) -> Duration {
        let above = self.pool.in_use().saturating_sub(self.blocks_max(priority).saturating_sub(1));
        let bytes = bytes.max(u64::from(above.max(1)) * u64::from(self.pool.block_bytes()));
        // Before anything was measured: a slow disk's rate.
        let rate = match self.published.drain_rate.load(Ordering::Relaxed) {
            0 => 32 << 20,
            rate => rate,
        };
        let nanos = (u128::from(bytes) * 1_000_000_000 / u128::from(rate)).clamp(100_000, 10_000_000_000);
        Duration::from_nanos(nanos as u64)
    }

    /// The refusal of a caller that does not wait.
    pub(crate) fn overloaded(&self, bytes: u64, priority: Priority) -> AppendError {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        AppendError::Overloaded { shard: self.id, retry_after: self.retry_after(bytes, priority) }
    }

    /// Offers the room that there is to whoever waits for it. Wake what it gives under no lock.
    #[must_use]
    pub(crate) fn offer(&self) -> Option<Waker> {
        if self.admission.is_clear() {
            return None;
        }
        self.admission.offer(self.device.now(), |priority| self.admits(priority))
    }

    // Waiting.

    /// The outcome of an accepted batch, once it is known.
    pub(crate) fn outcome(&self, target: &Target) -> Option<Result<(), AppendError>> {
        if Lsn(self.published.durable.load(Ordering::SeqCst)) > target.lsn {
            return Some(Ok(()));
        }
        if let Some(failure) = self.failure.get() {
            return Some(Err(AppendError::ShardFailed(failure.clone())));
        }
        match target.durability {
            Durability::Buffered => Some(Ok(())),
            Durability::Written => {
                (Lsn(self.published.written.load(Ordering::SeqCst)) > target.lsn).then_some(Ok(()))
            }
            Durability::Synced => None,
        }
    }

    /// Blocks until the outcome is known, or the time is over.
    pub(crate) fn wait(&self, target: &Target, timeout: Option<Duration>) -> Option<Result<(), AppendError>> {
        if let Some(outcome) = self.outcome(target) {
            return Some(outcome);
        }
        if !self.threaded {
            self.turn_until(|| self.outcome(target).is_some());
            return self.outcome(target);
        }
        self.waiters.wait(target.sequence, timeout, || self.outcome(target))
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

    pub(crate) fn is_threaded(&self) -> bool {
        self.threaded
    }

    // What is so.

    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.published.durable.load(Ordering::SeqCst))
    }

    pub(crate) fn written(&self) -> Lsn {
        Lsn(self.published.written.load(Ordering::SeqCst))
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

    pub(crate) fn drain_rate(&self) -> u64 {
        self.published.drain_rate.load(Ordering::Relaxed)
    }

    /// What the manifest is told whenever it is written.
    pub(crate) fn marks(&self) -> Marks {
        // In this order: each pair that this can give was true at some moment, and old is never wrong.
        let checkpoint = Lsn(self.published.checkpoint.load(Ordering::SeqCst));
        let covered = Lsn(self.published.covered.load(Ordering::SeqCst));
        Marks { checkpoint, covered, timestamp: self.published.timestamp.load(Ordering::SeqCst) }
    }

    pub(crate) fn view(&self) -> Arc<StoreView> {
        self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn publish_view(&self, store: &ShardStore) {
        *self.view.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(store.view());
    }

    pub(crate) fn opener(&self) -> MutexGuard<'_, Opener> {
        lock(&self.opener)
    }

    /// The target of "everything that was accepted before": the last record, if there is any.
    pub(crate) fn last_target(&self, durability: Durability) -> Option<Target> {
        let last = self.pool.last();
        if last.sequence == 0 {
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

    /// Runs with a reader that holds any block; its buffer is kept for the next one.
    pub(crate) fn with_reader<T>(&self, run: impl FnOnce(&mut SegmentReader) -> T) -> io::Result<T> {
        let kept = lock(&self.readers).pop();
        let mut reader = match kept {
            Some(reader) => reader,
            None => SegmentReader::new(self.pool.block_bytes() as usize * 2)?,
        };
        reader.forget();
        let result = run(&mut reader);
        let mut readers = lock(&self.readers);
        if readers.len() < 4 {
            readers.push(reader);
        }
        Ok(result)
    }

    /// The largest segment.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    pub(crate) fn block_bytes(&self) -> u32 {
        self.pool.block_bytes()
    }

    /// Blocks until `resolved` gives something, looking again whenever the durable LSN moves.
    pub(crate) fn follow<T>(
        &self,
        timeout: Option<Duration>,
        mut resolved: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if self.threaded {
            return self.followers.wait(0, timeout, resolved);
        }
        let mut found = None;
        self.turn_until(|| {
            found = resolved();
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
        self.followers.notify(0, &mut tasks);
        admission::wake(tasks);
    }

    /// Whether nothing will be appended any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.failure.get().is_some() || self.ended.load(Ordering::SeqCst)
    }

    /// The log is closed: those who follow it come to an end.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake_followers();
    }

    // Segments.

    /// Asks for the next segment while the one in use still has room.
    fn look_ahead(&self, opener: &Opener) {
        let (ready, last) = opener.bytes_ready(&self.pool);
        if ready < last / 2 && self.threaded {
            self.ask_for_segment(0);
        }
    }

    fn segment_error(&self) -> Option<SharedIo> {
        (self.segment_error_set.load(Ordering::SeqCst) == 1)
            .then(|| lock(&self.segment_error).clone())
            .flatten()
    }

    pub(super) fn ask_for_segment(&self, bytes: u64) {
        self.segment_need.fetch_max(bytes, Ordering::SeqCst);
        if !self.segment_asked.swap(true, Ordering::SeqCst)
            && let Some(keeper) = &*lock(&self.keeper)
        {
            // A keeper that is gone belongs to a log that is closed.
            let _ = keeper.send(self.id);
        }
    }

    /// Whether the next segment is waited for, and nobody but the caller would make it.
    pub(crate) fn wants_segment(&self) -> bool {
        self.segment_asked.load(Ordering::SeqCst)
    }

    /// Makes a segment ready if there is none, as before the first append.
    pub(crate) fn make_first_segment(&self) {
        if self.opener().bytes_ready(&self.pool).0 == 0 {
            self.make_segment();
        }
    }

    /// Makes the next segment ready. Called by the keeper, or where there are no threads by whoever
    /// waits for it.
    pub(crate) fn make_segment(&self) {
        let need = self.segment_need.swap(0, Ordering::SeqCst);
        let (ready, last, from) = {
            let opener = self.opener();
            let (ready, last) = opener.bytes_ready(&self.pool);
            (ready, last, opener.end(&self.pool))
        };
        let now = self.device.now();
        let bytes = self.next_segment_bytes(last, now).max(need).next_multiple_of(GRANULE);
        let made = {
            let mut store = lock(&self.store);
            // Once the segment in use runs out, space that is merely allocated must do.
            // Not known while somebody else opens a block: then the next look tells.
            let low =
                || self.opener.try_lock().is_ok_and(|opener| opener.bytes_ready(&self.pool).0 < last / 16);
            let hurry = || ready == 0 && last > 0 || low();
            let made = store.add_segment(bytes, from, || self.marks(), hurry);
            if made.is_ok() {
                self.publish_view(&store);
            }
            made
        };
        match made {
            Ok(segment) => {
                self.counters.segments_made.fetch_add(1, Ordering::Relaxed);
                self.opener().add_segment(segment);
                self.segment_error_set.store(0, Ordering::SeqCst);
                self.segment_made.store(now, Ordering::Relaxed);
                self.segment_came.store(true, Ordering::SeqCst);
                self.prod();
            }
            Err(error) => {
                *lock(&self.segment_error) = Some(Arc::new(error));
                self.segment_error_set.store(1, Ordering::SeqCst);
            }
        }
        self.segment_asked.store(false, Ordering::SeqCst);
        // Whether there is room now or an error to tell: everybody who waits looks again.
        admission::wake(self.admission.call_all());
    }

    /// Segments start small and grow fourfold while each fills within ten seconds.
    fn next_segment_bytes(&self, last: u64, now: u64) -> u64 {
        if last == 0 {
            return self.first_segment_bytes;
        }
        let fast = now.saturating_sub(self.segment_made.load(Ordering::Relaxed)) < 10_000_000_000;
        if fast { last.saturating_mul(4).min(self.segment_bytes) } else { last.min(self.segment_bytes) }
    }

    /// Space was made: an earlier failure to grow says nothing any more.
    pub(crate) fn retry_segment(&self) {
        if self.segment_error_set.swap(0, Ordering::SeqCst) == 1 {
            admission::wake(self.admission.call_all());
        }
    }

    // Truncating.

    /// Waits until everything that was accepted is durable. The caller may hold the opener.
    fn settle(&self) -> Result<(), AppendError> {
        let Some(target) = self.last_target(Durability::Synced) else { return Ok(()) };
        self.ask_sync(&target);
        self.wait(&target, None).unwrap_or_else(|| Err(self.shut_error()))
    }

    /// Forgets everything below `lsn`, or below the durable LSN if that is lower.
    pub(crate) fn truncate_before(&self, lsn: Lsn) -> Result<(), TruncateError> {
        if self.is_ended() {
            return Err(self.truncate_error(None));
        }
        if lsn > self.durable() {
            self.settle().map_err(|_| self.truncate_error(None))?;
        }
        let active = self.opener().active();
        let horizon = lsn.min(self.durable());
        let mut store = lock(&self.store);
        let result = store.truncate_before(horizon, active, &self.marks());
        self.publish_view(&store);
        drop(store);
        self.retry_segment();
        result.map_err(|error| self.truncate_error(Some(error)))
    }

    /// Cuts off everything behind the record at `lsn`; `find_cut` looks it up and gives the place
    /// behind it.
    pub(crate) fn truncate_after(
        &self,
        nonce: u64,
        config: CommitterConfig,
        find_cut: impl FnOnce() -> Result<Lsn, TruncateError>,
    ) -> Result<(), TruncateError> {
        // While this is held no block is opened, and producers wait here.
        let mut opener = self.opener();
        if opener.shut || self.failure.get().is_some() {
            return Err(self.truncate_error(None));
        }
        self.pool.close_any();
        self.settle().map_err(|_| self.truncate_error(None))?;
        let cut = find_cut()?;
        let mut core = lock(&self.core);
        // Void blocks that nobody has passed over yet.
        let now = self.device.now();
        self.gather(&mut core, now);
        self.publish(&mut core, now);
        let start = opener.end(&self.pool);
        let mut store = lock(&self.store);
        let timestamp = self.published.timestamp.load(Ordering::SeqCst);
        let identity = store
            .begin_epoch(cut, start, nonce, timestamp)
            .map_err(|error| self.truncate_error(Some(error)))?;
        opener.begin_epoch(&self.pool, &identity, start);
        core.begin_epoch(Committer::new(config, start, opener.sequence()), identity, opener.sequence());
        for mark in [
            &self.published.checkpoint,
            &self.published.covered,
            &self.published.written,
            &self.published.durable,
        ] {
            mark.store(start.0, Ordering::SeqCst);
        }
        self.publish_view(&store);
        Ok(())
    }

    fn truncate_error(&self, error: Option<io::Error>) -> TruncateError {
        match (error, self.failure.get()) {
            (Some(error), _) => TruncateError::Io { shard: self.id, source: Arc::new(error) },
            (None, Some(failure)) => TruncateError::ShardFailed(failure.clone()),
            (None, None) => TruncateError::Closed,
        }
    }

    // Stopping.

    /// Stops the shard: nothing is acknowledged any more, and everybody who waits is told at once.
    ///
    /// Wake what it gives under no lock.
    #[must_use]
    pub(crate) fn stop(&self, operation: &'static str, path: PathBuf, source: io::Error) -> Vec<Waker> {
        let durable = self.durable();
        let failure = Failure { shard: self.id, operation, path, durable, source };
        let first = self.failure.set(Arc::new(failure)).is_ok();
        let mut tasks = self.admission.shut();
        self.waiters.notify_all(&mut tasks);
        self.followers.notify(0, &mut tasks);
        if first {
            let failure = self.failure.get().expect("set above");
            self.notices.error(format!("{failure}"));
        }
        tasks
    }

    /// Accepts nothing more, and writes and syncs what was accepted. The caller then waits for the
    /// thread, or turns until [`is_settled`](Engine::is_settled).
    pub(crate) fn begin_close(&self) {
        self.opener().shut = true;
        admission::wake(self.admission.shut());
        let last = self.pool.close_any();
        self.sync_asked.fetch_max(last, Ordering::SeqCst);
        self.closing.store(true, Ordering::SeqCst);
        self.prod();
        lock(&self.keeper).take();
    }

    /// Drops the queue, which waits for what is still in flight.
    pub(crate) fn give_up_queue(&self) {
        let queue = lock(&self.queue).take();
        drop(queue);
    }

    /// Records the clean end, once nothing is in flight any more.
    pub(crate) fn finish_close(&self) -> Result<(), CloseError> {
        if let Some(failure) = self.failure.get() {
            return Err(CloseError::ShardFailed(failure.clone()));
        }
        let end = self.opener().end(&self.pool);
        assert_eq!(end, self.durable(), "a shard that closes cleanly is durable to its end");
        lock(&self.store)
            .close(end, &self.marks())
            .map_err(|error| CloseError::Io { shard: self.id, source: Arc::new(error) })
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Whether all that was accepted is durable, or never will be.
    pub(crate) fn is_settled(&self) -> bool {
        self.failure.get().is_some() || lock(&self.core).is_done(&self.pool)
    }

    /// The shard's folder.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.clone()
    }

    /// The path of a segment file, for messages.
    pub(super) fn path_of(&self, segment: &Segment) -> PathBuf {
        self.directory.join(crate::segment::segment_name(segment.row.file))
    }
}

/// The part of `bytes`, which start at `at` in the body, that lies in `from..to`.
fn part(bytes: &[u8], at: usize, from: u32, to: u32) -> &[u8] {
    let clip = |edge: u32| (edge as usize).saturating_sub(at).min(bytes.len());
    &bytes[clip(from)..clip(to)]
}
