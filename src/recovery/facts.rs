//! What is known of a shard when its chain has ended: gathered first, judged by [`judge`](super::judge) then.

use std::sync::Arc;

use super::Scan;
use crate::format::{BlockHeader, GRANULE, SegmentRow, ShardManifest};
use crate::position::Lsn;
use crate::segment::{Segment, SegmentReader};

/// What the verdict rests on.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// X: where the chain ends.
    pub end: Lsn,
    /// Start of a group that is not whole below it.
    pub open_group: Option<Lsn>,
    /// The manifest says that more was durable: up to here.
    pub below_manifest: Option<Lsn>,
    /// The log was closed with its end here, and the chain ends elsewhere.
    pub off_clean_end: Option<Lsn>,
    /// A listed segment that is not there as it was made, whatever it held.
    pub segment_missing: Option<SegmentRow>,
    /// The most that a header of the last epoch testifies, where that is more than the chain has.
    pub testified: Option<Lsn>,
    /// A header in its own place is of an epoch above the highest that the manifest names.
    pub epoch_unknown: Option<u32>,
    /// The number of a segment's file, listed or not, whose first block is of an epoch above the highest that the
    /// manifest names, or of that one and above all that it lists.
    pub newer_file: Option<u32>,
    /// A place where the chain might go on, or a header might testify, cannot be read.
    pub unreadable: bool,
}

impl Facts {
    /// Looks at everything that may speak against a torn tail.
    pub(crate) fn gather(
        reader: &mut SegmentReader,
        segments: &[Arc<Segment>],
        manifest: &ShardManifest,
        missing: &[SegmentRow],
        newer_file: Option<u32>,
        scan: &Scan,
    ) -> Facts {
        let row = manifest.epochs.last().expect("a manifest has an epoch");
        let durable = Lsn(row.start).max(manifest.covered);
        let mut facts = Facts {
            end: scan.end,
            open_group: scan.open_group,
            below_manifest: (scan.end < durable).then_some(durable),
            off_clean_end: manifest.clean_end.filter(|&clean_end| clean_end != scan.end),
            segment_missing: missing.first().copied(),
            testified: None,
            epoch_unknown: None,
            newer_file,
            unreadable: scan.unreadable,
        };
        facts.scan_headers(reader, segments, manifest, scan);
        facts
    }

    /// Looks at every place from the checkpoint's segment on that no block of the chain fills. The records of a
    /// header that testifies need not check, and its place need not be its own. A place that cannot be read
    /// might hold one, and is never taken for a tail.
    fn scan_headers(
        &mut self,
        reader: &mut SegmentReader,
        segments: &[Arc<Segment>],
        manifest: &ShardManifest,
        scan: &Scan,
    ) {
        let row = manifest.epochs.last().expect("a manifest has an epoch");
        let own = manifest.identity(row);
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
                    self.unreadable = true;
                    continue;
                };
                let Ok(header) = BlockHeader::decode(bytes) else { continue };
                if !header.is_of(&own.log_id, own.shard) {
                    continue;
                }
                if header.identity() == own && header.covered > scan.end.0 {
                    self.testified = self.testified.max(Some(Lsn(header.covered)));
                }
                if header.lsn() == lsn && header.epoch > row.epoch {
                    self.epoch_unknown = self.epoch_unknown.max(Some(header.epoch));
                }
            }
        }
    }
}

/// Where a log goes on behind damage: above every LSN that was ever sealed or testified, in an epoch above
/// every one that was ever used, and after the time of every record, as far as what is left of the log shows.
pub(crate) fn beyond(
    reader: &mut SegmentReader,
    segments: &[Arc<Segment>],
    manifest: &ShardManifest,
    scan: &Scan,
) -> (Lsn, u32, u64) {
    let row = manifest.epochs.last().expect("a manifest has an epoch");
    // Segments that are missing held something, too.
    let missing = manifest.segments.iter().filter(|row| segments.iter().all(|own| own.row.file != row.file));
    let missing = missing.map(SegmentRow::end).max().unwrap_or_default();
    let clean_end = manifest.clean_end.unwrap_or_default();
    let known = [scan.end, Lsn(row.start), manifest.covered, clean_end, missing];
    let mut start = known.into_iter().max().unwrap_or_default();
    let mut epoch = manifest.next_epoch;
    let mut timestamp = manifest.timestamp.max(scan.timestamp);
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
                timestamp = timestamp.max(header.last_time());
            }
        }
    }
    (Lsn(crate::format::round_to_granule(start.0)), epoch, timestamp)
}
