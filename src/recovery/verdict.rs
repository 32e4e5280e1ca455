//! Judging the place where the chain ends.

use std::sync::Arc;

use super::Scan;
use crate::format::{BlockHeader, Defect, GRANULE, SegmentRow, ShardManifest};
use crate::position::Lsn;
use crate::segment::{Segment, SegmentReader};

/// What a shard's log is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything below `cut` is kept; what follows was never acknowledged.
    Tail { cut: Lsn },
    /// Something that was acknowledged is not there, or not as it was written.
    Damaged { lsn: Lsn, cause: Damage },
}

/// What betrays the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The manifest says that more was durable.
    #[error("the manifest says that the log was durable up to {0}")]
    Manifest(Lsn),
    /// The log was closed with its end elsewhere.
    #[error("the log was closed with its end at {0}")]
    CleanEnd(Lsn),
    /// A segment is missing, or shorter than it was made.
    #[error("segment file {file:010}.seg is missing or too short")]
    Segment {
        /// The number in the file's name.
        file: u32,
    },
    /// A block says that more was durable when it was sealed.
    #[error("a block testifies that the log was durable up to {0}")]
    Testimony(Lsn),
    /// A block of an epoch that the manifest does not know: the manifest is older than the log.
    #[error("a block of epoch {0}, which the manifest does not know")]
    StaleManifest(u32),
    /// The device cannot read the place where the log would go on. Nothing acknowledged is known to
    /// be lost.
    #[error("the device cannot read this place; nothing acknowledged is known to be lost")]
    Unreadable,
    /// A block or record in the middle of the log is not what was written.
    #[error("{0}")]
    Block(Defect),
}

/// The verdict table: one row after the other, the first that applies.
pub(crate) fn judge(
    reader: &mut SegmentReader,
    segments: &[Arc<Segment>],
    manifest: &ShardManifest,
    missing: &[SegmentRow],
    scan: &Scan,
) -> Verdict {
    let row = manifest.epochs.last().expect("a manifest has an epoch");
    let end = scan.end;
    // 1. Below what the manifest testifies, or beyond a clean end.
    if end.0 < row.start.max(manifest.covered.0) {
        let durable = Lsn(row.start).max(manifest.covered);
        return Verdict::Damaged { lsn: end, cause: Damage::Manifest(durable) };
    }
    if let Some(clean_end) = manifest.clean_end.filter(|&clean_end| clean_end != end) {
        return Verdict::Damaged { lsn: end.min(clean_end), cause: Damage::CleanEnd(clean_end) };
    }
    // 2. A listed segment that is not there as it was made, whatever it held.
    if let Some(row) = missing.first() {
        return Verdict::Damaged { lsn: Lsn(row.base), cause: Damage::Segment { file: row.file } };
    }
    // 3, 4 and 5.
    let unreadable = scan.unreadable.then_some(Damage::Unreadable);
    if let Some(cause) = testimony(reader, segments, manifest, scan).or(unreadable) {
        return Verdict::Damaged { lsn: end, cause };
    }
    // 6. A torn tail: nothing says that what is not whole was ever acknowledged.
    Verdict::Tail { cut: scan.open_group.unwrap_or(end) }
}

/// Where a log goes on behind damage: above every LSN that was ever sealed or testified, in an epoch above
/// every one that was ever used, as far as what is left of the log shows.
pub(crate) fn beyond(
    reader: &mut SegmentReader,
    segments: &[Arc<Segment>],
    manifest: &ShardManifest,
    scan: &Scan,
) -> (Lsn, u32) {
    let row = manifest.epochs.last().expect("a manifest has an epoch");
    // Segments that are missing held something, too.
    let missing = manifest.segments.iter().filter(|row| segments.iter().all(|own| own.row.file != row.file));
    let missing = missing.map(SegmentRow::end).max().unwrap_or_default();
    let clean_end = manifest.clean_end.unwrap_or_default();
    let known = [scan.end, Lsn(row.start), manifest.covered, clean_end, missing];
    let mut start = known.into_iter().max().unwrap_or_default();
    let mut epoch = manifest.next_epoch;
    for segment in segments {
        for offset in (0..segment.row.bytes).step_by(GRANULE as usize) {
            let Ok(bytes) = reader.bytes(segment, offset, GRANULE as usize) else {
                // Whatever it holds lies below the end of its segment.
                start = start.max(segment.end());
                continue;
            };
            let Ok(header) = BlockHeader::decode(bytes) else { continue };
            if header.is_of(&manifest.log_id, manifest.shard) {
                start = start.max(header.end()).max(Lsn(header.covered));
                epoch = epoch.max(header.epoch.saturating_add(1));
            }
        }
    }
    (Lsn(crate::format::round_to_granule(start.0)), epoch)
}

/// Looks for a header that says that more was durable than the end of the chain, at every place from the
/// checkpoint's segment on that no block of the chain fills. Its records need not check and, for its
/// testimony, its place need not be its own. A place that cannot be read might hold one, and is never taken
/// for a tail; what another place says for certain goes before it.
fn testimony(
    reader: &mut SegmentReader,
    segments: &[Arc<Segment>],
    manifest: &ShardManifest,
    scan: &Scan,
) -> Option<Damage> {
    let row = manifest.epochs.last().expect("a manifest has an epoch");
    let own = manifest.identity(row);
    let mut unreadable = None;
    for segment in segments.iter().filter(|segment| segment.end() > manifest.checkpoint) {
        let mut next = segment.base();
        while next < segment.end() {
            let lsn = next;
            if let Some(end) = scan.checked_to(lsn) {
                next = end;
                continue;
            }
            next.0 += GRANULE;
            let offset = lsn.0 - segment.row.base;
            let Ok(bytes) = reader.bytes(segment, offset, GRANULE as usize) else {
                unreadable = Some(Damage::Unreadable);
                continue;
            };
            let Ok(header) = BlockHeader::decode(bytes) else { continue };
            if !header.is_of(&own.log_id, own.shard) {
                continue;
            }
            if header.identity() == own && header.covered > scan.end.0 {
                return Some(Damage::Testimony(Lsn(header.covered)));
            }
            if header.lsn() == lsn && header.epoch > row.epoch {
                return Some(Damage::StaleManifest(header.epoch));
            }
        }
    }
    unreadable
}
