//! What lies in a shard's folder beside the files that the manifest lists: spares, and what is none.
//!
//! Whatever was appended lies in a file that was listed before, durably, and that stays listed until all in it is
//! truncated. Hence two rules. A spare holds nothing at or above the horizon: a file that does is left alone. And no
//! file, listed or not, holds anything of an epoch above the last one, or of the last one above all that is listed:
//! where one does, the manifest is older than the log. The first block of a file tells, since it was durable before
//! anything behind it was acknowledged.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::files::OpenFiles;
use super::manifest_error::ManifestError;
use super::names::{can_be_listed, segment_name, segment_number};
use super::view::Segment;
use crate::device::{Directory, File, FileId};
use crate::format::{BlockHeader, Defect, GRANULE, SegmentRow, ShardManifest};
use crate::pool::AlignedBuffer;
use crate::position::Lsn;

/// An open looks at so many of the segments below the checkpoint, from the first one on, and at more where these are
/// small: at more bytes than spares may have. If the manifest is older than the log, those were given up first. Of what
/// was given up some is used again, which shows, some is removed, which shows, and the rest are spares. So it shows in
/// these, but where a reader held on to all of them meanwhile: what it holds is neither used again nor removed.
const FIRST_LOOKED_AT: usize = 16;

/// A file that nothing lists, and that may be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spare {
    pub number: u32,
    pub bytes: u64,
    /// Which file it is: its name alone may be another's by the time that it is removed.
    pub id: FileId,
}

/// A file that nothing lists, and that is left alone.
#[derive(Clone, Debug)]
pub(crate) struct Stray {
    number: u32,
    why: &'static str,
    /// In its place, where its first block is of this shard.
    segment: Option<Arc<Segment>>,
}

impl Stray {
    pub(crate) fn name(&self) -> String {
        segment_name(self.number)
    }

    /// Why it is left alone, as it stands behind its name.
    pub(crate) fn why(&self) -> &'static str {
        self.why
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn segment(&self) -> Option<&Arc<Segment>> {
        self.segment.as_ref()
    }
}

const NO_SEGMENT: &str = "is no segment of this log, by its size or number";
const OTHERS: &str = "is of another shard or of a newer version, or cannot be read";
const NOT_LISTED: &str = "has records of this shard that its manifest does not list, as a file that was put back, or \
                          that is of another copy of the log";

/// What the first block of a file tells.
#[derive(Clone, Copy, Debug)]
enum First {
    /// There is none.
    Nothing,
    Own(BlockHeader),
    /// It is another's, or cannot be read.
    Unknown,
}

impl First {
    fn of(file: &dyn File, log_id: &[u8; 16], shard: u16) -> First {
        let Ok(mut granule) = AlignedBuffer::zeroed(GRANULE as usize) else { return First::Unknown };
        match file.read_at(&mut granule, 0).map(|_| BlockHeader::decode(&granule)) {
            Ok(Ok(header)) if header.is_of(log_id, shard) => First::Own(header),
            Ok(Ok(_) | Err(Defect::Version)) | Err(_) => First::Unknown,
            Ok(Err(_)) => First::Nothing,
        }
    }
}

/// A file with a segment's name, and what its first block tells.
#[derive(Debug)]
pub(crate) struct Look {
    number: u32,
    bytes: u64,
    first: First,
}

impl Look {
    /// `None` where the file is gone.
    fn at(
        directory: &dyn Directory,
        number: u32,
        log_id: &[u8; 16],
        shard: u16,
    ) -> Result<Option<(Look, Arc<dyn File>)>, ManifestError> {
        let name = segment_name(number);
        let opened = directory.open(&name).and_then(|file| Ok((file.bytes()?, file)));
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ManifestError::of_segment(&name)(error)),
            Ok((bytes, file)) => {
                Ok(Some((Look { number, bytes, first: First::of(file.as_ref(), log_id, shard) }, file)))
            }
        }
    }

    /// Where the first block says that the file begins.
    fn base(&self) -> Option<u64> {
        match self.first {
            First::Own(header) => Some(header.lsn),
            First::Nothing | First::Unknown => None,
        }
    }

    /// Whether it shows that the manifest is older than the log.
    fn is_newer_than(&self, manifest: &ShardManifest) -> bool {
        let First::Own(header) = self.first else { return false };
        let last = manifest.epochs.last().expect("a manifest has an epoch");
        let end = manifest.segments.last().map_or(Lsn::MIN, SegmentRow::end).max(manifest.horizon);
        header.epoch > last.epoch || header.identity() == manifest.identity(last) && header.lsn() >= end
    }

    /// Why it is no spare; `None` for one.
    fn why_none(&self, manifest: &ShardManifest) -> Option<&'static str> {
        if !can_be_listed(self.number, self.bytes, manifest.next_file) {
            return Some(NO_SEGMENT);
        }
        let header = match self.first {
            First::Nothing => return None,
            First::Unknown => return Some(OTHERS),
            First::Own(header) => header,
        };
        // A file may be longer than its segment was.
        let next = manifest.segments.iter().map(|row| row.base).find(|base| *base > header.lsn);
        let end = header.lsn.saturating_add(self.bytes).min(next.unwrap_or(u64::MAX));
        (end > manifest.horizon.0).then_some(NOT_LISTED)
    }

    /// The file in the place that its first block names.
    fn placed(&self, file: Arc<dyn File>, files: &Arc<OpenFiles>) -> io::Result<Option<Arc<Segment>>> {
        let bytes = self.bytes / GRANULE * GRANULE;
        let base = self.base().filter(|base| base % GRANULE == 0 && base.checked_add(bytes).is_some());
        let Some(base) = base else { return Ok(None) };
        let row = SegmentRow { base, bytes, file: self.number, reserved: 0 };
        Ok(Some(Arc::new(Segment::new(row, file).closed(files)?)))
    }
}

/// All files with a segment's name, read beside whoever owns them. Whatever they show was listed by the time that this
/// returns: who judges them reads the manifest after that.
pub(crate) fn look_at_all(
    directory: &dyn Directory,
    log_id: &[u8; 16],
    shard: u16,
) -> Result<Vec<Look>, ManifestError> {
    let mut looks = Vec::new();
    for number in directory.list()?.iter().filter_map(|name| segment_number(name)) {
        looks.extend(Look::at(directory, number, log_id, shard)?.map(|(look, _)| look));
    }
    Ok(looks)
}

/// Of the files that show that the manifest is older than the log, the number of the one that goes on first.
pub(crate) fn newer_than(manifest: &ShardManifest, looks: &[Look]) -> Option<u32> {
    let newer = looks.iter().filter(|look| look.is_newer_than(manifest));
    newer.min_by_key(|look| look.base()).map(|look| look.number)
}

/// What was found in a shard's folder.
#[derive(Debug, Default)]
pub(super) struct Unlisted {
    pub spares: Vec<Spare>,
    pub strays: Vec<Stray>,
    /// See [`newer_than`].
    pub newer: Option<u32>,
}

impl Unlisted {
    /// Looks at all that the manifest does not list, and at those of its segments that would show that it is too old: of
    /// what was given up `spare_bytes_max` at the most is kept as it was.
    pub(super) fn find(
        directory: &dyn Directory,
        manifest: &ShardManifest,
        files: &Arc<OpenFiles>,
        spare_bytes_max: u64,
    ) -> Result<Unlisted, ManifestError> {
        let look_at = |number| Look::at(directory, number, &manifest.log_id, manifest.shard);
        let (mut found, mut looks) = (Unlisted::default(), Vec::new());
        let mut bytes_before = 0;
        for (index, row) in manifest.segments.iter().enumerate() {
            let is_first = index < FIRST_LOOKED_AT || bytes_before <= spare_bytes_max;
            bytes_before += row.bytes;
            if is_first || row.end() > manifest.checkpoint {
                looks.extend(look_at(row.file)?.map(|(look, _)| look));
            }
        }
        let listed: BTreeSet<u32> = manifest.segments.iter().map(|row| row.file).collect();
        for number in directory.list()?.iter().filter_map(|name| segment_number(name)) {
            if listed.contains(&number) {
                continue;
            }
            let Some((look, file)) = look_at(number)? else { continue };
            match look.why_none(manifest) {
                None => found.spares.push(Spare { number, bytes: look.bytes, id: file.id()? }),
                // Left by a crash while it was made.
                Some(_) if look.bytes == 0 => {}
                Some(why) => found.strays.push(Stray { number, why, segment: look.placed(file, files)? }),
            }
            looks.push(look);
        }
        found.newer = newer_than(manifest, &looks);
        Ok(found)
    }
}
