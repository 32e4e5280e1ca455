//! What producers, waiters and whoever turns the shard share.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use super::EngineRef;
use super::append::opener::Opener;
use super::index::{IndexConfig, Indexing, UnknownIds};
use super::life::Life;
use super::reading::Reading;
use super::space::{Space, SpaceConfig};
use super::token::Core;
use super::turn::overload::Overload;
use super::wait::Waiting;
use super::wait::wake_state::WakeState;
use crate::admission::{Admission, Gate};
use crate::committer::{Committer, CommitterConfig, Watermarks};
use crate::device::{Calls, Capabilities, Device, FailedFlush, Flushes, Lock, Queue, Wake};
use crate::error::{AppendError, Failure, Unavailable};
use crate::format::{BLOCK_HEADER_BYTES, Identity, RECORD_HEADER_BYTES};
use crate::notice::Notices;
use crate::pool::{Pool, Sequence};
use crate::position::{Lsn, Position, ShardId};
use crate::router::Router;
use crate::segment::{Marks, Segment, ShardStore};
use crate::stats::Counters;
use crate::sync::{CacheLine, lock};
use crate::sys::Process;
use crate::write::Durability;

/// What an accepted batch waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The batch is whole once a watermark lies above it.
    pub lsn: Lsn,
    /// The block that holds its end.
    pub sequence: Sequence,
    pub durability: Durability,
}

/// An accepted batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    /// Position of the first record.
    pub position: Position,
    pub target: Target,
    /// The caller leads the commit or announces it.
    pub must_lead: bool,
    /// It was there before, with the same id.
    pub is_duplicate: bool,
}

/// Why a batch was not accepted.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// There is no room now; `AppendError::Overloaded` for those who do not wait.
    NoRoom,
    /// Its deadline passed while something was looked up.
    TooLate,
    /// Slots were moved, or are being moved, since the shard was looked up.
    Moved,
    Error(AppendError),
}

/// Why a batch under terms was not accepted.
#[derive(Clone, Debug)]
pub(crate) enum Undecided {
    Refused(Refused),
    /// It depends on what is not in memory: whoever has read that comes again.
    Unknown(Unknown),
}

impl From<Refused> for Undecided {
    fn from(refused: Refused) -> Undecided {
        Undecided::Refused(refused)
    }
}

/// What an append under terms depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unknown {
    /// The last record of the key below there.
    Last {
        below: Lsn,
        epoch: u32,
    },
    Ids(UnknownIds),
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
    /// What a write or a sync took, the median of the last ones.
    pub commit_ns: AtomicU64,
    /// The part of what was offered that was let in within the last interval, by priority, the lowest first; and its end.
    pub admitted: [AtomicU32; 3],
    pub admitted_at: AtomicU64,
}

impl Published {
    fn new(marks: &Watermarks, timestamp: u64) -> Published {
        Published {
            written: AtomicU64::new(marks.written.0),
            durable: AtomicU64::new(marks.durable.0),
            covered: AtomicU64::new(marks.covered.0),
            timestamp: AtomicU64::new(timestamp),
            oldest: AtomicU64::new(u64::MAX),
            drain_rate: AtomicU64::new(0),
            commit_ns: AtomicU64::new(0),
            admitted: [const { AtomicU32::new(u32::MAX) }; 3],
            admitted_at: AtomicU64::new(0),
        }
    }
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
    /// Why its segments may lack the space that they should have.
    pub unsecured: Option<io::Error>,
    pub pool: Arc<Pool>,
    pub committer: CommitterConfig,
    /// Of the shard's folder.
    pub capabilities: Capabilities,
    /// As long as records may wait before they go to the device.
    pub delay_target: Duration,
    pub space: SpaceConfig,
    pub index: IndexConfig,
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
    pub router: Arc<Router>,
}

/// What an append may be, told to whoever is refused.
#[derive(Debug)]
pub(super) struct Limits {
    /// Bytes of key and payload that fit into one block, and are no more than `record_bytes`.
    pub one_block_bytes: usize,
    pub record_bytes: u64,
    /// What `record_bytes` follows from.
    pub record_limit: &'static str,
}

/// Where the shard's files are.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    device_number: u64,
    flushes: Arc<Flushes>,
    /// So many had failed when the shard was opened.
    failed_before: u64,
    capabilities: Capabilities,
}

impl Limits {
    fn of(setup: &EngineSetup) -> Limits {
        // A record is padded to eight bytes.
        let fits = setup.pool.block_bytes() - BLOCK_HEADER_BYTES - RECORD_HEADER_BYTES - 7;
        let (record_bytes, record_limit) = (setup.record_bytes, setup.record_limit);
        Limits { one_block_bytes: (fits as usize).min(record_bytes as usize), record_bytes, record_limit }
    }
}

impl Place {
    fn of(setup: &EngineSetup) -> Place {
        let directory = setup.store.directory();
        Place {
            directory: directory.path().to_owned(),
            device_number: directory.device_number(),
            flushes: directory.flushes().clone(),
            failed_before: directory.flushes().failed(),
            capabilities: setup.capabilities,
        }
    }
}

/// One shard: its state, shared by producers, waiters and whoever turns it. In groups, by who may touch them.
#[derive(Debug)]
pub(crate) struct Engine {
    // Whoever appends. What it writes is in words of their own: the reservation, the wake state, admission's.
    pub(super) pool: Arc<Pool>,
    pub(super) wake_state: WakeState,
    pub(super) wake: Arc<dyn Wake>,
    pub(crate) admission: Admission,
    pub(crate) gate: Gate,
    pub(super) limits: Limits,
    /// Once a block: where the next one goes.
    pub(super) opener: Mutex<Opener>,

    // Whoever turns it.
    /// The token: whoever holds it turns the shard.
    pub(super) core: Mutex<Core>,
    /// The driver's queue, until a thread takes it; kept here where there are no threads.
    pub(super) queue: Mutex<Option<Box<dyn Queue + Send>>>,
    /// When the thread wakes by itself; `u64::MAX` if it does not.
    pub(super) armed_until: AtomicU64,

    // Whoever turns it tells, everybody reads.
    pub(super) published: CacheLine<Published>,
    pub(crate) counters: Counters,
    /// The highest time acknowledged in the whole log.
    pub(super) clock: Arc<AtomicU64>,

    // Everybody asks, whoever turns it heeds.
    pub(super) life: Life,
    /// Blocks up to this sequence are asked to be durable.
    pub(super) sync_asked: AtomicU64,

    // Callers that wait, and readers.
    pub(super) waiting: Waiting,
    pub(super) reading: Reading,
    pub(super) indexing: Indexing,

    // Whoever makes segments, truncates or cuts, seldom and beside the rest.
    pub(crate) store: Mutex<ShardStore>,
    pub(super) space: Space,
    /// What truncation must leave.
    pub(super) pins: Mutex<Vec<super::space::RetentionPin>>,
    /// Where it asks for segments; `None` where nobody but whoever waits makes them.
    pub(super) maintenance: Mutex<Option<std::sync::mpsc::SyncSender<ShardId>>>,
    /// Blocking calls on its files, but those of readers.
    pub(crate) calls: Calls,

    // What it is, for good.
    pub(crate) id: ShardId,
    place: Place,
    pub(super) device: Arc<dyn Device>,
    pub(super) notices: Arc<Notices>,
    /// The log's.
    pub(crate) router: Arc<Router>,
    /// The other shards of the log.
    pub(super) others: OnceLock<Box<[Weak<Engine>]>>,
    /// For the committer of the next epoch, too.
    pub(crate) committer: CommitterConfig,
    pub(super) threaded: bool,
    /// Turned by a task of the application's.
    pub(super) driven: bool,
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
        let published = Published::new(&committer.watermarks(), setup.timestamp);
        let mut opener = Opener::new(&setup.identity, start, before, setup.store.segments());
        opener.secured = setup.unsecured.is_none();
        let blocks = setup.pool.blocks();
        let place = Place::of(&setup);
        let admission = Admission::default();
        let overload = Overload::of(&setup);
        let gate = overload.gate(setup.device.threaded());
        let life = if setup.read_only {
            let source = io::Error::other("the log is damaged, and open to be read only");
            let (path, durable) = (place.directory.clone(), committer.watermarks().durable);
            committer.fail();
            let nobody = admission.shut();
            debug_assert!(nobody.is_empty());
            Life::read_only(Failure { shard: setup.id, operation: "opening", path, durable, source })
        } else {
            Life::default()
        };
        Engine {
            limits: Limits::of(&setup),
            opener: Mutex::new(opener),
            core: Mutex::new(Core::new(committer, setup.identity, setup.timestamp, blocks, before, overload)),
            wake_state: WakeState::new(),
            wake: setup.wake,
            admission,
            gate,
            driven: setup.queue.is_none(),
            queue: Mutex::new(setup.queue),
            armed_until: AtomicU64::new(u64::MAX),
            published: CacheLine(published),
            counters: Counters::default(),
            clock: setup.clock,
            life,
            sync_asked: AtomicU64::new(0),
            waiting: Waiting::new(blocks),
            reading: Reading::new(&setup.store, setup.read_bytes),
            indexing: Indexing::new(setup.index),
            store: Mutex::new(setup.store),
            space: Space::new(setup.space, setup.unsecured),
            pins: Mutex::default(),
            maintenance: Mutex::new(None),
            calls: Calls::new(&setup.device),
            id: setup.id,
            place,
            threaded: setup.device.threaded(),
            device: setup.device,
            pool: setup.pool,
            notices: setup.notices,
            router: setup.router,
            others: OnceLock::new(),
            committer: setup.committer,
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

    /// An error in a fork of that process.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<(), Unavailable> {
        if self.in_opening_process() { Ok(()) } else { Err(Unavailable::Forked) }
    }

    /// The process that opened the log.
    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// Why nothing can be appended, if the log was opened to be read.
    pub(crate) fn read_only_failure(&self) -> Option<Arc<Failure>> {
        self.life.read_only_failure().cloned()
    }

    /// Whether a task of the application's turns it, and no thread of the log's own.
    pub(crate) fn is_driven(&self) -> bool {
        self.driven
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
        self.life.failure()
    }

    pub(crate) fn blocks_in_use(&self) -> u32 {
        self.pool.in_use()
    }

    pub(crate) fn memory_blocks(&self) -> u32 {
        self.pool.blocks()
    }

    /// Which device its files lie on.
    pub(crate) fn device_number(&self) -> u64 {
        self.place.device_number
    }

    /// The flush that its device has failed in a blocking call since the shard was opened, whoever made it.
    pub(crate) fn failed_flush(&self) -> Option<Arc<FailedFlush>> {
        let Place { flushes, failed_before, .. } = &self.place;
        if flushes.failed() == *failed_before { None } else { flushes.last() }
    }

    /// What the manifest is told whenever it is written.
    pub(crate) fn marks(&self) -> Marks {
        // In this order: the durable LSN is published last and is never above the covered one; old is never wrong.
        let checkpoint = self.durable();
        let covered = Lsn(self.published.0.covered.load(Ordering::SeqCst));
        Marks { checkpoint, covered, timestamp: self.published.0.timestamp.load(Ordering::SeqCst) }
    }

    pub(crate) fn opener(&self) -> MutexGuard<'_, Opener> {
        lock(&self.opener)
    }

    /// Another shard of the log, or this one's own number's.
    pub(crate) fn other(&self, id: ShardId) -> Option<EngineRef> {
        let others = self.others.get()?;
        others.iter().filter_map(Weak::upgrade).find(|engine| engine.id == id).map(EngineRef::of)
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
            return Some(Target { lsn: Lsn(lsn), sequence: Sequence(last.sequence.0 - 1), durability });
        }
        let lsn = Lsn(last.lsn.0 + u64::from(last.length) - 1);
        Some(Target { lsn, sequence: last.sequence, durability })
    }

    /// Asks that everything up to the target be durable.
    pub(crate) fn ask_sync(&self, target: &Target) {
        self.sync_asked.fetch_max(target.sequence.0, Ordering::SeqCst);
        self.wake_shard();
    }

    /// The largest segment.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.space.config.segment_bytes
    }

    pub(crate) fn block_bytes(&self) -> u32 {
        self.pool.block_bytes()
    }

    /// The largest record, and batch.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.limits.record_bytes
    }

    /// Whether nothing will be appended any more.
    pub(crate) fn is_ended(&self) -> bool {
        // In a forked child nothing comes any more.
        self.life.is_over() || !self.in_opening_process()
    }

    /// The log is closed: those who follow it come to an end.
    pub(crate) fn end(&self) {
        self.life.end();
        self.wake_followers();
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.place.capabilities
    }

    /// The shard's folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.place.directory.clone()
    }

    /// The path of a segment file, for messages.
    pub(super) fn path_of(&self, segment: &Segment) -> PathBuf {
        self.place.directory.join(crate::segment::segment_name(segment.row.file))
    }
}
