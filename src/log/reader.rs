//! Reading a log beside its owner: no lock, no write, no recovery.
//!
//! What is served is what the log itself testifies to be durable: the manifest, and the covered LSN
//! that every block carries. That is a little less than the owner knows, by the blocks that were
//! written last; an idle log catches up by its idle marker.

use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::device::{Device, Directory, RealDevice};
use crate::error::{OpenError, ReadError};
use crate::format::{LogManifest, SlotKind, public_id};
use crate::position::{LogId, Lsn, Position, ShardId};
use crate::read::{self, Merged, Range, Record, Source};
use crate::recovery::{self, Damage, Facts, Scan, Verdict};
use crate::segment::{
    ManifestError, ManifestFiles, READ_BYTES, SegmentReader, StoreSnapshot, StoreView, shard_path,
};
use crate::sync::lock;
use crate::sys::Process;
use crate::tally::{self, Fold, TallyError};

/// A log that is read and not owned. By [`Log::open_read_only`](crate::Log::open_read_only).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let owner = sawmill::Options::new().shards(1).open(dir.path())?;
/// # owner.append(b"a").wait()?;
/// # owner.append(b"b").wait()?; // whose block testifies that the first one is durable
/// let log = sawmill::Log::open_read_only(dir.path())?;
/// for record in log.shard(sawmill::ShardId(0)).read(..)? {
///     println!("{}", record?.position());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LogReader {
    path: PathBuf,
    directory: Arc<dyn Directory>,
    shards: Vec<Arc<ForeignShard>>,
}

/// A shard of a log that is read and not owned. By [`LogReader::shard`].
#[derive(Clone, Debug)]
pub struct ShardReader {
    id: ShardId,
    shard: Option<Arc<ForeignShard>>,
}

/// What a shard has on disk. By [`LogReader::summary`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardSummary {
    /// Which.
    pub shard: ShardId,
    /// Where the log begins.
    pub horizon: Lsn,
    /// All records below it are known to be durable.
    pub durable_lsn: Lsn,
    /// Where the last intact block ends.
    pub end: Lsn,
    /// From where an open would have to read.
    pub checkpoint: Lsn,
    /// The log was closed, and its end recorded.
    pub closed: bool,
    /// The number of the epoch that it is in.
    pub epoch: u32,
    /// Segment files that it lists.
    pub segments: usize,
    /// Bytes of these.
    pub segment_bytes: u64,
    /// Its folder.
    pub path: PathBuf,
}

/// A place that is not as it was written. By [`LogReader::verify`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// Found by reading.
    #[error(transparent)]
    Read(ReadError),
    /// Something that was durable is missing where the shard's log ends.
    #[error("shard {shard} ends at LSN {lsn}: {cause}")]
    End {
        /// The shard.
        shard: ShardId,
        /// Where the readable part ends.
        lsn: Lsn,
        /// What betrays the damage.
        cause: Damage,
    },
}

/// What [`LogReader::verify`] saw.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Records whose checksums are right.
    pub records: u64,
    /// Bytes of their keys and payloads.
    pub bytes: u64,
    /// Everything that is not as it was written.
    pub findings: Vec<Finding>,
}

impl LogReader {
    pub(crate) fn open(path: &Path) -> Result<LogReader, OpenError> {
        LogReader::open_on(&RealDevice::new(), path)
    }

    pub(crate) fn open_on(device: &dyn Device, path: &Path) -> Result<LogReader, OpenError> {
        let directory =
            device.directory_to_read(path).map_err(OpenError::at("opening the directory", path))?;
        let body =
            ManifestFiles::peek(directory.as_ref(), "log", SlotKind::Log).map_err(|error| match error {
                ManifestError::Missing => OpenError::at("reading the manifest", path)(io::Error::new(
                    io::ErrorKind::NotFound,
                    "there is no log",
                )),
                error => OpenError::manifest(path)(error),
            })?;
        let log = LogManifest::decode(&body)
            .map_err(|defect| OpenError::manifest(path)(ManifestError::Damaged([defect; 2])))?;
        let shards = (0..log.shards).map(|shard| {
            let folder = shard_path(path, &log.directories, shard);
            let id = ShardId(shard);
            let directory = device
                .directory_to_read(&folder)
                .map_err(OpenError::at("opening the shard's folder", &folder))?;
            let snapshot = StoreSnapshot::of(directory.as_ref()).map_err(OpenError::manifest(&folder))?;
            if !is_of(&snapshot, log.log_id, id) {
                let is_of_log = snapshot.manifest.log_id == log.log_id;
                return Err(OpenError::other_shard(&folder, path, is_of_log, snapshot.manifest.shard));
            }
            let shard = ForeignShard {
                id,
                log_id: log.log_id,
                directory,
                block_bytes: log.block_bytes,
                segment_bytes: log.segment_bytes,
                truncations: Arc::default(),
                state: Mutex::new(State {
                    view: Arc::new(snapshot.view()),
                    scan: Scan::from(&snapshot.manifest),
                    snapshot,
                }),
            };
            Ok(Arc::new(shard))
        });
        let shards = shards.collect::<Result<_, OpenError>>()?;
        Ok(LogReader { path: path.to_owned(), directory, shards })
    }

    /// The keys of a tally in order, with their totals as far as they are known to be durable now. By the fold
    /// that it was made with: [`Sum`](crate::tally::Sum) for those of [`Log::tally`](crate::Log::tally).
    ///
    /// # Errors
    /// See [`TallyError`].
    pub fn tally<F: Fold>(&self, name: &str) -> Result<Vec<(Vec<u8>, F::Total)>, TallyError> {
        let shard_of = |shard: ShardId, complete: Lsn| {
            let Some(shard) = self.shards.get(usize::from(shard.0)) else { return Ok(None) };
            shard.refresh()?;
            // The anchor is written once this is durable, which blocks in the log need not say yet.
            lock(&shard.state).scan.hear_of_record(complete);
            Ok(Some(shard.source()))
        };
        tally::peek::<F>(name, self.directory.as_ref(), shard_of)
    }

    /// As [`Log::id`](crate::Log::id).
    #[must_use]
    pub fn id(&self) -> LogId {
        public_id(&self.shards[0].log_id)
    }

    /// Where the log lives.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many shards the log has.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// One shard. One that does not exist is an error of what is asked of it.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> ShardReader {
        ShardReader { id: shard, shard: self.shards.get(usize::from(shard.0)).cloned() }
    }

    /// Reads the record at a position, if it is known to be durable.
    ///
    /// # Errors
    /// See [`ReadError`]; [`ReadError::NotAPosition`] also of one that is not known to be durable yet.
    pub fn get(&self, position: Position) -> Result<Record, ReadError> {
        let shard = self.shards.get(usize::from(position.shard().0));
        let shard = shard.ok_or(ReadError::NoSuchShard(position.shard()))?;
        shard.refresh()?;
        read::get(&shard.source(), position)
    }

    /// As [`Log::merged`](crate::Log::merged), of what is known to be durable now.
    ///
    /// # Errors
    /// Where the log's files cannot be read. Errors in reading records come from the iterator.
    pub fn merged(&self, range: impl RangeBounds<u64>) -> Result<Merged, ReadError> {
        for shard in &self.shards {
            shard.refresh()?;
        }
        Merged::new(self.shards.iter().map(ForeignShard::source), &range)
    }

    /// What each shard has on disk now.
    ///
    /// # Errors
    /// Where the log's files cannot be read.
    pub fn summary(&self) -> Result<Vec<ShardSummary>, ReadError> {
        self.shards.iter().map(|shard| shard.summary()).collect()
    }

    /// Reads everything, checks every checksum, and judges the end of each shard as an open would.
    ///
    /// Changes nothing, and may run beside the owner: what it truncates meanwhile is no damage.
    ///
    /// # Errors
    /// Where the log's files cannot be read at all; damage is what the result is for.
    pub fn verify(&self) -> Result<Verified, ReadError> {
        let mut verified = Verified::default();
        for shard in &self.shards {
            verified.findings.extend(shard.verify_end()?);
            for record in Range::new(shard.source(), &..)? {
                match record {
                    Ok(record) => {
                        verified.records += 1;
                        verified.bytes += (record.key().len() + record.payload().len()) as u64;
                    }
                    Err(ReadError::Truncated { .. }) => {}
                    Err(error) => verified.findings.push(Finding::Read(error)),
                }
            }
        }
        Ok(verified)
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader")
            .field("path", &self.path)
            .field("shards", &self.shards())
            .finish_non_exhaustive()
    }
}

impl ShardReader {
    fn shard(&self) -> Result<&Arc<ForeignShard>, ReadError> {
        let shard = self.shard.as_ref().ok_or(ReadError::NoSuchShard(self.id))?;
        shard.refresh()?;
        Ok(shard)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// All records below it are known to be durable now.
    ///
    /// # Errors
    /// A shard that does not exist, or files that cannot be read.
    pub fn durable_lsn(&self) -> Result<Lsn, ReadError> {
        Ok(self.shard()?.durable())
    }

    /// As [`Shard::read`](crate::Shard::read), of what is known to be durable now.
    ///
    /// # Errors
    /// A shard that does not exist, or files that cannot be read. Errors in reading records come from
    /// the iterator.
    pub fn read(&self, range: impl RangeBounds<Lsn>) -> Result<Range, ReadError> {
        Range::new(self.shard()?.source(), &range)
    }
}

/// Whether a folder's manifest is that of this shard of this log.
fn is_of(snapshot: &StoreSnapshot, log_id: [u8; 16], shard: ShardId) -> bool {
    snapshot.manifest.log_id == log_id && snapshot.manifest.shard == shard.0
}

/// A shard of somebody else's.
#[derive(Debug)]
struct ForeignShard {
    id: ShardId,
    log_id: [u8; 16],
    directory: Arc<dyn Directory>,
    block_bytes: u32,
    segment_bytes: u64,
    state: Mutex<State>,
    /// How often the owner was seen to have truncated.
    truncations: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    snapshot: StoreSnapshot,
    view: Arc<StoreView>,
    /// How far the chain of the last epoch was read.
    scan: Scan,
}

impl ForeignShard {
    fn source(self: &Arc<ForeignShard>) -> Arc<dyn Source> {
        self.clone()
    }

    fn io(&self, source: io::Error) -> ReadError {
        ReadError::Io { shard: self.id, source: Arc::new(source) }
    }

    fn reader(&self) -> Result<SegmentReader, ReadError> {
        SegmentReader::for_scan(self.block_bytes, self.read_bytes()).map_err(|error| self.io(error))
    }

    /// Reads the manifest again; what it cannot read stays as it was.
    fn reload(&self, state: &mut State) -> Result<(), ReadError> {
        let snapshot = StoreSnapshot::of(self.directory.as_ref()).map_err(|error| {
            let path = self.directory.path();
            self.io(io::Error::other(OpenError::manifest(path)(error)))
        })?;
        if !is_of(&snapshot, self.log_id, self.id) {
            let path = self.directory.path().display();
            return Err(self.io(io::Error::other(format!("{path} is a shard of another log by now"))));
        }
        let view = Arc::new(snapshot.view());
        let before = std::mem::replace(&mut state.view, view);
        if before.horizon != state.view.horizon || before.epochs != state.view.epochs {
            self.truncations.fetch_add(1, Ordering::SeqCst);
        }
        // In the same epoch the chain only goes on, unless it was not known as far as the checkpoint.
        let same = snapshot.manifest.epochs.last() == state.snapshot.manifest.epochs.last();
        if !same || state.scan.end < snapshot.manifest.checkpoint {
            state.scan = Scan::from(&snapshot.manifest);
        }
        state.scan.hear(snapshot.manifest.covered.max(snapshot.manifest.clean_end.unwrap_or_default()));
        state.snapshot = snapshot;
        Ok(())
    }

    /// Looks how far the log has got.
    fn refresh(&self) -> Result<(), ReadError> {
        let mut reader = self.reader()?;
        self.advance(&mut lock(&self.state), &mut reader)
    }

    /// Reads the manifest again, then on along the chain from where the last look ended.
    fn advance(&self, state: &mut State, reader: &mut SegmentReader) -> Result<(), ReadError> {
        self.reload(state)?;
        let row = *state.snapshot.manifest.epochs.last().expect("a manifest has an epoch");
        let identity = state.snapshot.manifest.identity(&row);
        state.scan.advance(reader, &state.snapshot.segments, &identity, self.block_bytes);
        Ok(())
    }

    fn summary(&self) -> Result<ShardSummary, ReadError> {
        self.refresh()?;
        let state = lock(&self.state);
        let manifest = &state.snapshot.manifest;
        Ok(ShardSummary {
            shard: self.id,
            horizon: manifest.horizon,
            durable_lsn: state.scan.durable,
            end: state.scan.end,
            checkpoint: manifest.checkpoint,
            closed: manifest.clean_end.is_some(),
            epoch: manifest.epochs.last().map_or(0, |row| row.epoch),
            segments: manifest.segments.len(),
            segment_bytes: manifest.segments.iter().map(|row| row.bytes).sum(),
            path: self.directory.path().to_owned(),
        })
    }

    /// Judges the end as an open would. The owner may go on meanwhile: an end that moves is none.
    fn verify_end(&self) -> Result<Option<Finding>, ReadError> {
        let mut last = None;
        loop {
            let mut reader = self.reader()?;
            let mut state = lock(&self.state);
            self.advance(&mut state, &mut reader)?;
            let (snapshot, scan) = (&state.snapshot, &state.scan);
            let facts =
                Facts::gather(&mut reader, &snapshot.segments, &snapshot.manifest, &snapshot.missing, scan);
            let Verdict::Damaged { lsn, cause } = recovery::judge(&facts) else { return Ok(None) };
            if last == Some((scan.end, snapshot.manifest.next_file)) {
                return Ok(Some(Finding::End { shard: self.id, lsn, cause }));
            }
            last = Some((scan.end, snapshot.manifest.next_file));
        }
    }
}

impl Source for ForeignShard {
    fn id(&self) -> ShardId {
        self.id
    }

    /// Whoever reads: nothing is kept between two calls but what was read of the manifest.
    fn process(&self) -> Process {
        Process::current()
    }

    fn view(&self) -> Arc<StoreView> {
        lock(&self.state).view.clone()
    }

    fn view_now(&self) -> Arc<StoreView> {
        let mut state = lock(&self.state);
        // If it cannot be read now, what was known stands, and the damage is told as it was found.
        let _ = self.reload(&mut state);
        state.view.clone()
    }

    fn truncations(&self) -> Arc<AtomicU64> {
        self.truncations.clone()
    }

    fn durable(&self) -> Lsn {
        lock(&self.state).scan.durable
    }

    fn written(&self) -> Lsn {
        self.durable()
    }

    fn flush(&self, lsn: Lsn, _whole: bool) -> Result<bool, ReadError> {
        Ok(lsn < self.durable())
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn read_bytes(&self) -> usize {
        READ_BYTES.min(usize::try_from(self.segment_bytes).unwrap_or(usize::MAX))
    }

    fn lend_reader(&self) -> io::Result<SegmentReader> {
        SegmentReader::new(self.block_bytes as usize * 2)
    }

    fn give_back(&self, _: SegmentReader) {}
}
