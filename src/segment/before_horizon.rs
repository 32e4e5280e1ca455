//! What lies in front of the horizon and is no record: whoever stands there has missed nothing.

use std::sync::Arc;

use super::{Segment, SegmentReader};
use crate::format::{
    BLOCK_HEADER_BYTES, BlockHeader, EpochTable, GRANULE, Identity, RecordFlags, Records, ShardManifest,
};
use crate::position::Lsn;

/// Markers are written once a second at the most: there are never so many in a row while anybody follows.
const STEPS_MAX: usize = 4096;

/// Looks back from a horizon. What was truncated may be used for something else already: then its blocks are not found,
/// and what they were is not known.
pub(super) struct LookBack<'a> {
    log_id: [u8; 16],
    shard: u16,
    /// All that are known, in the order of the stream.
    segments: &'a [Arc<Segment>],
    /// As it is now, and as it was while there was more to own.
    epochs: [&'a EpochTable; 2],
    /// Of the manifest before.
    horizon: Lsn,
}

/// The last block with records is looked for so far back: longer ones are rare.
const WINDOW_BYTES: u64 = 256 << 10;

impl<'a> LookBack<'a> {
    /// By a manifest, and the one before it.
    pub(super) fn of(
        manifest: &'a ShardManifest,
        before: &'a ShardManifest,
        segments: &'a [Arc<Segment>],
    ) -> LookBack<'a> {
        let epochs = [&manifest.epochs, &before.epochs];
        let ShardManifest { log_id, shard, .. } = *manifest;
        LookBack { log_id, shard, segments, epochs, horizon: before.horizon }
    }

    /// The same of a horizon that may be a new one; `known` is that of the one before.
    pub(super) fn raised(&self, known: Lsn, horizon: Lsn) -> Lsn {
        if horizon == self.horizon {
            return known;
        }
        let found = self.bare_from(horizon);
        if found <= self.horizon { found.min(known) } else { found }
    }

    /// From here up to the horizon the log has no record: there are markers, room at the ends of segments, and what was
    /// cut off in front of an epoch.
    pub(super) fn bare_from(&self, horizon: Lsn) -> Lsn {
        if horizon == Lsn::MIN {
            return horizon;
        }
        let Ok(mut reader) = SegmentReader::new(GRANULE as usize) else { return horizon };
        let Some(mut place) = self.end_before(&mut reader, horizon) else { return horizon };
        for _ in 0..STEPS_MAX {
            let below = place.0.checked_sub(GRANULE).filter(|below| below % GRANULE == 0);
            let marker = below.map(Lsn).and_then(|below| self.header_at(&mut reader, below));
            let marker = marker.filter(|marker| marker.record_count == 0 && marker.end() == place);
            let before = marker.map(|marker| marker.previous_end).or_else(|| self.cut_before(place));
            let before = before.or_else(|| self.before_cut_block(&mut reader, place));
            match before.filter(|before| *before < place.0) {
                Some(before) => place = Lsn(before),
                None => break,
            }
        }
        self.behind_last_record(place).unwrap_or(place).min(horizon)
    }

    /// The first place behind the start of the last record in front of `end`, where a block ends.
    fn behind_last_record(&self, mut end: Lsn) -> Option<Lsn> {
        let mut found = None;
        for _ in 0..STEPS_MAX {
            let Some((record, is_rest, before)) = self.last_record(end) else { break };
            if !is_rest {
                return Some(Lsn(record.0 + 1));
            }
            // Of a record over several blocks: it begins in one of those before.
            (found, end) = (Some(record), before);
        }
        found
    }

    /// The last record of the block that ends here, whether that goes on from the block before, and where that ends.
    fn last_record(&self, end: Lsn) -> Option<(Lsn, bool, Lsn)> {
        if end.0 % GRANULE != 0 {
            return None; // The log was cut here.
        }
        let segment = self.segment_of(Lsn(end.0.checked_sub(1)?))?;
        let lowest = segment.row.base.max(end.0.saturating_sub(WINDOW_BYTES));
        let mut reader = SegmentReader::new((end.0 - lowest) as usize).ok()?;
        let bytes = reader.bytes(segment, lowest - segment.row.base, (end.0 - lowest) as usize).ok()?;
        let places = (0..bytes.len()).step_by(GRANULE as usize).rev();
        let mut blocks = places.filter_map(|at| {
            let header = BlockHeader::decode(&bytes[at..]).ok()?;
            let is_it = header.end() == end && self.is_owned(&header, Lsn(lowest + at as u64));
            is_it.then_some((header, &bytes[at..]))
        });
        let (header, block) = blocks.next()?;
        let last = Records::new(&header, block).ok()?.map_while(Result::ok).last()?;
        Some((last.lsn, last.header.flags.has(RecordFlags::REST), Lsn(header.previous_end)))
    }

    /// Where the block ends that is the last one with anything below the horizon.
    fn end_before(&self, reader: &mut SegmentReader, horizon: Lsn) -> Option<Lsn> {
        let within = horizon.0 % GRANULE;
        if within > u64::from(BLOCK_HEADER_BYTES) {
            return None; // There are records in front of it in its own block.
        }
        let start = Lsn(horizon.0 - within);
        if let Some(header) = self.header_at(reader, start) {
            return Some(Lsn(header.previous_end));
        }
        if within > 0 {
            return None;
        }
        // The end of a segment, or of all that there is.
        let behind = self.segments.iter().filter(|segment| segment.base() >= start);
        let next = behind.filter_map(|segment| self.header_at(reader, segment.base())).next();
        Some(next.map_or(start, |header| start.min(Lsn(header.previous_end))))
    }

    /// The same of a block that was cut in front of its first record: where the one before it ends.
    fn before_cut_block(&self, reader: &mut SegmentReader, place: Lsn) -> Option<u64> {
        let start = place.0.checked_sub(BLOCK_HEADER_BYTES.into()).filter(|start| start % GRANULE == 0)?;
        self.header_at(reader, Lsn(start)).map(|header| header.previous_end)
    }

    /// Where the log was cut in front of the epoch that starts here.
    fn cut_before(&self, place: Lsn) -> Option<u64> {
        let rows = self.epochs[0].rows().iter().chain(self.epochs[1].rows());
        rows.filter(|row| row.start == place.0).map(|row| row.cut).min()
    }

    fn segment_of(&self, place: Lsn) -> Option<&Arc<Segment>> {
        let after = self.segments.partition_point(|segment| segment.base() <= place);
        after.checked_sub(1).map(|index| &self.segments[index]).filter(|segment| segment.contains(place))
    }

    fn header_at(&self, reader: &mut SegmentReader, place: Lsn) -> Option<BlockHeader> {
        let segment = self.segment_of(place)?;
        let bytes = reader.bytes(segment, place.0 - segment.row.base, GRANULE as usize).ok()?;
        BlockHeader::decode(bytes).ok().filter(|header| self.is_owned(header, place))
    }

    /// Whether it is of the epoch that owns its place.
    fn is_owned(&self, header: &BlockHeader, place: Lsn) -> bool {
        self.epochs.iter().filter_map(|epochs| epochs.owner(place)).any(|(row, _)| {
            let (log_id, shard) = (self.log_id, self.shard);
            header.check(&Identity { log_id, shard, epoch: row.epoch, nonce: row.nonce }, place).is_ok()
        })
    }
}
