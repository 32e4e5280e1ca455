//! What a shard has, as of one moment: its segments, and who owns which LSN.

use std::io;
use std::sync::Arc;

use super::before_horizon::LookBack;
use super::files::OpenFiles;
use super::manifest_files::Seen;
use super::names::segment_name;
use super::store::PREFIX;
use super::{ManifestError, ManifestFiles};
use crate::device::{Directory, File};
use crate::format::{EpochRow, EpochTable, Identity, SegmentRow, ShardManifest, SlotKind, public_id};
use crate::position::{LogId, Lsn};

/// A file, and the stretch of the stream that it holds. Whoever reads from it holds the `Arc`; it
/// is not used for anything else meanwhile.
#[derive(Debug)]
pub(crate) struct Segment {
    pub row: SegmentRow,
    pub file: Arc<dyn File>,
    /// Held by this and by what it was before: whoever holds one of them reads from the file.
    used: Arc<()>,
    held_open: bool,
}

impl Segment {
    pub(crate) fn new(row: SegmentRow, file: Arc<dyn File>) -> Segment {
        Segment { row, file, used: Arc::default(), held_open: true }
    }

    /// The same, with its file closed while nobody reads from it.
    pub(super) fn closed(&self, files: &Arc<OpenFiles>) -> io::Result<Segment> {
        let file = files.keep(self.row.file, self.file.clone())?;
        Ok(Segment { row: self.row, file, used: self.used.clone(), held_open: false })
    }

    /// The same file as one that begins at `base` and has so many bytes.
    pub(crate) fn placed(&self, base: Lsn, bytes: u64) -> Segment {
        let row = SegmentRow { base: base.0, bytes, ..self.row };
        Segment { row, file: self.file.clone(), used: self.used.clone(), held_open: self.held_open }
    }

    /// Whether its file is held open.
    pub(super) fn is_held_open(&self) -> bool {
        self.held_open
    }

    /// Whether nobody but the caller has it.
    pub(super) fn is_free(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && Arc::strong_count(&self.used) == 1
    }

    pub(crate) fn base(&self) -> Lsn {
        Lsn(self.row.base)
    }

    pub(crate) fn end(&self) -> Lsn {
        self.row.end()
    }

    pub(crate) fn contains(&self, lsn: Lsn) -> bool {
        (self.base()..self.end()).contains(&lsn)
    }
}

/// What readers need to know, as of one moment.
#[derive(Clone, Debug)]
pub(crate) struct StoreView {
    pub log_id: [u8; 16],
    pub shard: u16,
    pub horizon: Lsn,
    /// No record begins from here up to the horizon, as far as that is known: whoever stands there has missed nothing.
    pub bare_from: Lsn,
    pub epochs: EpochTable,
    pub segments: Vec<Arc<Segment>>,
    /// Those whose file is missing, or shorter than it was made.
    pub missing: Vec<SegmentRow>,
}

impl StoreView {
    /// The identity of the blocks of one epoch.
    pub(crate) fn identity(&self, row: &EpochRow) -> Identity {
        Identity { log_id: self.log_id, shard: self.shard, epoch: row.epoch, nonce: row.nonce }
    }

    /// What the log is called in public.
    pub(crate) fn public_id(&self) -> LogId {
        public_id(&self.log_id)
    }

    /// What the records of an epoch are seeded with: it tells the epoch from that of the same number of another log, or
    /// of this one as it went on from a copy. 0 if the epoch owns nothing here.
    pub(crate) fn seed_of(&self, epoch: u32) -> u32 {
        let rows = self.epochs.rows();
        let row = rows.binary_search_by_key(&epoch, |row| row.epoch).ok().map(|index| &rows[index]);
        row.map_or(0, |row| self.identity(row).seed().raw())
    }

    /// Index of the segment that holds `lsn`.
    pub(crate) fn segment_of(&self, lsn: Lsn) -> Option<usize> {
        let after = self.segments.partition_point(|segment| segment.base() <= lsn);
        after.checked_sub(1).filter(|&index| self.segments[index].contains(lsn))
    }

    /// What the manifest says of the segment that holds `lsn`, whether its file is there or not.
    pub(crate) fn row_of(&self, lsn: Lsn) -> Option<&SegmentRow> {
        let missing = || self.missing.iter().find(|row| (Lsn(row.base)..row.end()).contains(&lsn));
        self.segment_of(lsn).map(|index| &self.segments[index].row).or_else(missing)
    }

    /// Index of the first segment that starts at or above `lsn`.
    pub(crate) fn segment_from(&self, lsn: Lsn) -> Option<usize> {
        let index = self.segments.partition_point(|segment| segment.base() < lsn);
        (index < self.segments.len()).then_some(index)
    }
}

/// Where the block that continues a chain which ends at `end` may stand: right there, or at the start of the
/// next segment, or of one behind it if those between are smaller than a block and it had no room in them.
pub(crate) fn continuations(
    segments: &[Arc<Segment>],
    end: Lsn,
    block_bytes: u32,
) -> impl Iterator<Item = (&Arc<Segment>, Lsn)> {
    let after = segments.partition_point(|segment| segment.base() <= end);
    let own = after.checked_sub(1).map(|index| &segments[index]).filter(|own| own.contains(end));
    let behind = &segments[after..];
    let passed = behind.iter().take_while(|segment| segment.row.bytes < u64::from(block_bytes)).count();
    let bases = behind.iter().take(passed + 1).map(|segment| (segment, segment.base()));
    own.map(|own| (own, end)).into_iter().chain(bases)
}

/// The segments that a manifest lists, and the rows of those that are missing or too short. Of those that are `known`
/// none is opened again.
///
/// Those to which nothing is written, which end at `settled` or below, are closed again for as long as nobody reads
/// from them: `files` opens them then.
pub(super) fn open_segments(
    directory: &dyn Directory,
    manifest: &ShardManifest,
    known: &[Arc<Segment>],
    files: &Arc<OpenFiles>,
    settled: Lsn,
) -> Result<(Vec<Arc<Segment>>, Vec<SegmentRow>), ManifestError> {
    let (mut segments, mut missing) = (Vec::new(), Vec::new());
    for &row in &manifest.segments {
        // A file that is used again holds another stretch, by another row.
        let index = known.partition_point(|segment| segment.row.base < row.base);
        if let Some(segment) = known.get(index).filter(|segment| segment.row == row) {
            segments.push(segment.clone());
            continue;
        }
        let name = segment_name(row.file);
        let opened = directory.open(&name).and_then(|file| {
            let segment = Segment::new(row, file);
            Ok(match segment.file.bytes()? >= row.bytes {
                true if row.end() <= settled => Some(segment.closed(files)?),
                true => Some(segment),
                false => None,
            })
        });
        match opened {
            Ok(Some(segment)) => segments.push(Arc::new(segment)),
            Ok(None) => missing.push(row),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(row),
            Err(error) => return Err(ManifestError::of_segment(&name)(error)),
        }
    }
    Ok((segments, missing))
}

pub(super) fn view_of(manifest: &ShardManifest, segments: &[Arc<Segment>], bare_from: Lsn) -> StoreView {
    let is_here = |row: &SegmentRow| segments.binary_search_by_key(&row.base, |own| own.row.base).is_ok();
    let missing = match segments.len() == manifest.segments.len() {
        true => Vec::new(),
        false => manifest.segments.iter().filter(|row| !is_here(row)).copied().collect(),
    };
    StoreView {
        missing,
        log_id: manifest.log_id,
        shard: manifest.shard,
        horizon: manifest.horizon,
        bare_from,
        epochs: manifest.epochs.clone(),
        segments: segments.to_vec(),
    }
}

/// A shard's manifest and segments, read beside whoever owns them: nothing is locked or written.
#[derive(Debug)]
pub(crate) struct StoreSnapshot {
    pub manifest: ShardManifest,
    pub segments: Vec<Arc<Segment>>,
    pub missing: Vec<SegmentRow>,
    bare_from: Lsn,
    /// The owner may remove a file that is closed here. Then all in it was truncated, as whoever finds it gone is told.
    files: Arc<OpenFiles>,
    /// What the manifest was decoded from, and the number of the copy that it stood in.
    body: Vec<u8>,
    sequence: u64,
    /// What this copy is called.
    pub name: String,
}

impl StoreSnapshot {
    /// Of its files at most `open_files_max` stay open.
    pub(crate) fn of(
        directory: &Arc<dyn Directory>,
        open_files_max: usize,
    ) -> Result<StoreSnapshot, ManifestError> {
        let seen = ManifestFiles::look(directory.as_ref(), PREFIX, SlotKind::Shard)?;
        let Seen { sequence, body, name, .. } = seen;
        let manifest = ShardManifest::decode(&body).map_err(|defect| ManifestError::Damaged([defect; 2]))?;
        let files = OpenFiles::new(directory.clone(), open_files_max);
        let (segments, missing) = open_segments(directory.as_ref(), &manifest, &[], &files, Lsn::MAX)?;
        let bare_from = LookBack::of(&manifest, &manifest, &segments).bare_from(manifest.horizon);
        Ok(StoreSnapshot { manifest, segments, missing, bare_from, files, body, sequence, name })
    }

    /// As it is by now; `None` if nothing has changed. Files that are known and hold what they held are not opened
    /// again, but for once after each open of the log's: while nobody had it open, others may have been put in their place.
    ///
    /// Also where an older copy has other epochs from, if that is below what was `served`.
    pub(crate) fn renewed(
        &self,
        directory: &dyn Directory,
        served: Lsn,
    ) -> Result<Option<(StoreSnapshot, Option<Lsn>)>, ManifestError> {
        let Seen { sequence, body, name, of_both } = ManifestFiles::look(directory, PREFIX, SlotKind::Shard)?;
        // The newer copy cannot be read just now: what it said stands. Gone back to the older one, the log would end
        // below what was served already.
        let is_behind = sequence < self.sequence && !of_both;
        if is_behind || body == self.body && self.missing.is_empty() {
            return Ok(None);
        }
        let manifest = ShardManifest::decode(&body).map_err(|defect| ManifestError::Damaged([defect; 2]))?;
        let before = &self.manifest;
        let kept = manifest.epochs.first_unlike(&before.epochs, before.horizon..served);
        // Where a copy was put in its place, its segments may be other files by the same names. Whoever opens it begins an
        // epoch, however new the copy was.
        let goes_on = manifest.epochs.last() == before.epochs.last()
            && manifest.next_epoch >= before.next_epoch
            && manifest.next_file >= before.next_file
            && manifest.horizon >= before.horizon;
        let known = if goes_on { &self.segments[..] } else { &[] };
        let files = if goes_on { self.files.clone() } else { self.files.anew() };
        let (segments, missing) = open_segments(directory, &manifest, known, &files, Lsn::MAX)?;
        let bare_from = match kept {
            None => self.bare_from(&manifest, &segments),
            Some(_) => LookBack::of(&manifest, &manifest, &segments).bare_from(manifest.horizon),
        };
        let snapshot = StoreSnapshot { manifest, segments, missing, bare_from, files, body, sequence, name };
        Ok(Some((snapshot, kept)))
    }

    /// The same of a manifest that goes on from this one.
    fn bare_from(&self, manifest: &ShardManifest, segments: &[Arc<Segment>]) -> Lsn {
        // The owner may use those that it has given up for something else: then they show other blocks.
        let first = segments.first().map_or(Lsn::MAX, |first| first.base());
        let given_up = self.segments.iter().take_while(|old| old.base() < first);
        let all: Vec<_> = given_up.chain(segments).cloned().collect();
        LookBack::of(manifest, &self.manifest, &all).raised(self.bare_from, manifest.horizon)
    }

    pub(crate) fn view(&self) -> StoreView {
        view_of(&self.manifest, &self.segments, self.bare_from)
    }
}
