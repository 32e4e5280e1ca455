//! Reading a log beside its owner: no lock, no write, no recovery.
//!
//! What is served is what the log itself testifies to be durable: the manifest, and the covered LSN
//! that every block carries. That is a little less than the owner knows, by the blocks that were
//! written last; an idle log catches up by its idle marker.

use std::fmt;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beside::{ForeignShard, check_place, is_of};
use super::beside_map::ForeignMap;
use super::follow_reader::FollowReader;
use crate::device::{Device, Directory, RealDevice};
use crate::error::{OpenError, QueueError, ReadError};
use crate::format::{LogManifest, SlotKind, public_id};
use crate::open::has_parts;
use crate::options::open_files;
use crate::position::{LogId, Lsn, Position, ShardId};
use crate::queue::{self, QueueSummary};
use crate::read::{self, Merged, Range, RangeBack, Record, Source};
use crate::recovery::Damage;
use crate::segment::{ManifestError, ManifestFiles, StoreSnapshot, shard_path};
use crate::tally::{self, Fold, TallyError};

/// A log that is read and not owned. By [`Log::open_read_only`](crate::Log::open_read_only).
///
/// Each call looks at the log's files again: at the shard's manifest, at the segments that it did not know, and at the
/// blocks that came. What it gives is never wrong, and may lag: that a block is durable is told by the blocks after it,
/// so while records come it knows all but those of the last few blocks, and once none come it knows all within about a
/// second, when the owner writes its idle marker. A record that the owner has acknowledged and this cannot tell yet is
/// [`ReadError::NotDurableYet`].
///
/// Whoever reads on notices if the log was restored from an older backup meanwhile ([`ReadError::OtherHistory`]), and
/// whoever looks at a folder that was moved or replaced is told so ([`ReadError::Replaced`]). While its files are being
/// restored, what is there is no log, and may be told as damage.
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
    pub(super) shards: Vec<Arc<ForeignShard>>,
    pub(super) map: Arc<ForeignMap>,
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
    /// How many slots of the log it has.
    pub slots: u32,
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
    /// For each of the findings, the time of the last record before it in its shard and of the first one after it, in
    /// nanoseconds since the Unix epoch; `None` where there is no such record.
    pub times: Vec<[Option<u64>; 2]>,
}

impl Verified {
    fn found(&mut self, finding: Finding, before: Option<u64>) {
        self.findings.push(finding);
        self.times.push([before, None]);
    }
}

/// Whether there are shards of a log, or other parts of it: then its manifest is missing.
fn is_of_a_log(directory: &dyn Directory) -> bool {
    directory.list().is_ok_and(|names| has_parts(&names))
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
                ManifestError::Missing if !is_of_a_log(directory.as_ref()) => {
                    OpenError::NoLog { path: path.to_owned() }
                }
                error => OpenError::manifest(path)(error),
            })?;
        let log = LogManifest::decode(&body)
            .map_err(|defect| OpenError::manifest(path)(ManifestError::Damaged([defect; 2])))?;
        let open_files_max = if device.threaded() { open_files(log.shards) } else { 2 };
        let shards = (0..log.shards).map(|shard| {
            let folder = shard_path(path, &log.directories, shard);
            let id = ShardId(shard);
            let directory = device
                .directory_to_read(&folder)
                .map_err(OpenError::at("opening the shard's folder", &folder))?;
            let snapshot = StoreSnapshot::of(&directory, open_files_max);
            let snapshot = snapshot.map_err(OpenError::manifest(&folder))?;
            if !is_of(&snapshot, log.log_id, id) {
                let is_of_log = snapshot.manifest.log_id == log.log_id;
                let (shard, name) = (snapshot.manifest.shard, &snapshot.name);
                return Err(OpenError::other_shard(&folder, path, is_of_log, shard, name));
            }
            Ok(Arc::new(ForeignShard::new(&log, id, directory, snapshot)))
        });
        let shards = shards.collect::<Result<_, OpenError>>()?;
        let map = Arc::new(ForeignMap::new(directory.clone(), log));
        Ok(LogReader { path: path.to_owned(), directory, shards, map })
    }

    /// The keys of a tally in order, with their totals as far as they are known to be durable now. By the fold
    /// that it was made with: [`Sum`](crate::tally::Sum) for those of [`Log::tally`](crate::Log::tally).
    ///
    /// # Errors
    /// See [`TallyError`].
    pub fn tally<F: Fold>(&self, name: &str) -> Result<Vec<(Vec<u8>, F::Total)>, TallyError> {
        check_place(self.directory.as_ref()).map_err(TallyError::Read)?;
        let shard_of = |shard: ShardId, complete: Lsn| {
            let Some(shard) = self.shards.get(usize::from(shard.0)) else { return Ok(None) };
            shard.refresh()?;
            shard.note_durable_record(complete);
            Ok(Some(shard.source()))
        };
        tally::peek::<F>(name, self.directory.as_ref(), shard_of)
    }

    /// What a queue had written down last, which is up to a second old where the log is open, and what is known to be
    /// durable since.
    ///
    /// Reads all that it has not handed out.
    ///
    /// # Errors
    /// [`QueueError::Unknown`] if there is none of this name; [`QueueError::AboveEnd`] and the like where opening it is
    /// refused, since it or its shard was restored from a different point in time. See [`QueueError`].
    pub fn queue(&self, name: &str) -> Result<QueueSummary, QueueError> {
        check_place(self.directory.as_ref()).map_err(QueueError::Read)?;
        let look = || {
            let shards = self.shards.iter().map(|shard| {
                shard.refresh()?;
                Ok((shard.source(), shard.known_end()))
            });
            shards.collect()
        };
        queue::peek(name, self.id(), self.directory.as_ref(), look)
    }

    /// As [`Log::id`](crate::Log::id): of the log that was opened. No other is read by this, whatever becomes of the folder
    /// ([`ReadError::Replaced`]).
    #[must_use]
    pub fn id(&self) -> LogId {
        public_id(self.shards[0].log_id())
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

    /// The shard where records with this key go, as far as is known: it may have moved since somebody read by key here.
    #[must_use]
    pub fn route(&self, key: &(impl AsRef<[u8]> + ?Sized)) -> ShardId {
        let map = self.map.known();
        map.shard_of(map.slot(key.as_ref()))
    }

    /// Reads the record at a position, if it is known to be durable.
    ///
    /// # Errors
    /// See [`ReadError`]; [`ReadError::NotDurableYet`] of one that may be acknowledged, which the log's files do not
    /// tell yet.
    pub fn get(&self, position: Position) -> Result<Record, ReadError> {
        let shard = self.shards.get(usize::from(position.shard().0));
        let shard = shard.ok_or(ReadError::NoSuchShard(position.shard()))?;
        shard.refresh()?;
        read::get(&shard.source(), position)
    }

    /// As [`Log::get_many`](crate::Log::get_many), of what is known to be durable now.
    #[must_use]
    pub fn get_many(&self, positions: &[Position]) -> Vec<Result<Record, ReadError>> {
        let mut refreshed: Vec<Option<Result<(), ReadError>>> = vec![None; self.shards.len()];
        let mut is_unread = |position: &Position| {
            let index = usize::from(position.shard().0);
            let shard = self.shards.get(index)?;
            refreshed[index].get_or_insert_with(|| shard.refresh()).clone().err()
        };
        let errors: Vec<_> = positions.iter().map(&mut is_unread).collect();
        let source_of = |shard: ShardId| self.shards.get(usize::from(shard.0)).map(ForeignShard::source);
        let found = read::get_many(source_of, positions);
        found.into_iter().zip(errors).map(|(found, error)| error.map_or(found, Err)).collect()
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
        let map = self.map.refreshed()?;
        let slots = |shard: u16| map.shards.iter().filter(|own| **own == shard).count() as u32;
        (0..).zip(&self.shards).map(|(number, shard)| shard.summary(slots(number))).collect()
    }

    /// Reads everything, checks every checksum, and judges the end of each shard as an open would.
    ///
    /// Changes nothing, and may run while another process has the log open: what that one truncates meanwhile is no damage.
    ///
    /// # Errors
    /// Where the log's files cannot be read at all; damage is what the result is for.
    pub fn verify(&self) -> Result<Verified, ReadError> {
        let mut verified = Verified::default();
        for shard in &self.shards {
            let (first, mut before) = (verified.findings.len(), None);
            let end = shard.verify_end()?;
            for record in Range::new(shard.source(), &..)? {
                match record {
                    Ok(record) => {
                        before = Some(record.timestamp());
                        for times in verified.times[first..]
                            .iter_mut()
                            .rev()
                            .take_while(|[_, behind]| behind.is_none())
                        {
                            times[1] = before;
                        }
                        verified.records += 1;
                        verified.bytes += (record.key().len() + record.payload().len()) as u64;
                    }
                    Err(ReadError::Truncated { .. }) => {}
                    Err(error) => verified.found(Finding::Read(error), before),
                }
            }
            end.into_iter().for_each(|end| verified.found(end, before));
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
    /// Where the shard began when its manifest was last looked at; for simulated histories.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn known_horizon(&self) -> Lsn {
        self.shard().map_or(Lsn::MIN, |shard| shard.view().horizon)
    }

    /// The same without another look.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn seen_horizon(&self) -> Lsn {
        self.shard.as_ref().map_or(Lsn::MIN, |shard| shard.view().horizon)
    }

    pub(super) fn shard(&self) -> Result<&Arc<ForeignShard>, ReadError> {
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

    /// The records from `lsn` on, then new ones as they become known to be durable: a blocking iterator and a stream.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let owner = sawmill::Options::new().shards(1).open(dir.path())?;
    /// # let position = owner.append(b"a").wait()?;
    /// # owner.close()?;
    /// let log = sawmill::Log::open_read_only(dir.path())?;
    /// let mut tail = log.shard(sawmill::ShardId(0)).follow(sawmill::Lsn::MIN)?;
    /// assert_eq!(tail.next().expect("it was not stopped")?.position(), position);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`read`](ShardReader::read), and [`ReadError::AboveEnd`] as [`Shard::follow`](crate::Shard::follow).
    pub fn follow(&self, lsn: Lsn) -> Result<FollowReader, ReadError> {
        FollowReader::new(self.shard()?, lsn)
    }

    /// As [`Shard::read_back`](crate::Shard::read_back), of what is known to be durable now.
    ///
    /// # Errors
    /// As [`read`](ShardReader::read).
    pub fn read_back(&self, range: impl RangeBounds<Lsn>) -> Result<RangeBack, ReadError> {
        RangeBack::new(self.shard()?.source(), &range)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Log, OpenError};

    #[test]
    fn a_directory_without_a_log_is_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let error = Log::open_read_only(dir.path()).unwrap_err();
        assert!(matches!(&error, OpenError::NoLog { path } if path == dir.path()), "{error}");
        std::fs::create_dir(dir.path().join("shard-0000")).unwrap();
        let error = Log::open_read_only(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::ManifestMissing { .. }), "it had one: {error}");
    }
}
