//! Records by their positions.

use std::sync::Arc;

use super::cursor::{Cursor, Step, damaged, header_at};
use super::point::{self, Point};
use super::{Record, Source};
use crate::error::ReadError;
use crate::format::{BlockHeader, Defect, Identity, RECORD_HEADER_BYTES, RecordFlags, Records, record_time};
use crate::position::{Lsn, Position, ShardId};
use crate::segment::{RandomReader, SegmentReader, StoreView};

/// Records that are looked for at once: their granules fill a huge page at the most, where they are of usual size.
const BATCH: usize = 256;

/// Read at once of records whose sizes are not known, by [`get_first`].
const BYTES_UNSEEN_MAX: usize = 16 << 20;

/// Reads the record at `position`, whatever its durability.
pub(crate) fn get(source: &Arc<dyn Source>, position: Position) -> Result<Record, ReadError> {
    let mut found = get_many(|_| Some(source.clone()), &[position]);
    found.pop().expect("one for each position")
}

/// Reads the records at `positions`, in this order, with many reads in flight.
pub(crate) fn get_many(
    source_of: impl Fn(ShardId) -> Option<Arc<dyn Source>>,
    positions: &[Position],
) -> Vec<Result<Record, ReadError>> {
    // For all of them: its memory is taken once.
    let mut lent: Option<(Arc<dyn Source>, RandomReader)> = None;
    let mut records = Vec::with_capacity(positions.len());
    for some in positions.chunks(BATCH) {
        records.extend(get_some(&source_of, some, &mut lent));
    }
    if let Some((source, reader)) = lent {
        source.give_back_random(reader);
    }
    records
}

/// The same of one shard, for who can go on later: the first of them, up to the one with which so many bytes are reached.
pub(crate) fn get_first(
    source: &Arc<dyn Source>,
    positions: &[Position],
    bytes_max: usize,
) -> Vec<Result<Record, ReadError>> {
    let mut lent: Option<(Arc<dyn Source>, RandomReader)> = None;
    let mut records = Vec::with_capacity(positions.len());
    let mut bytes = 0;
    // How large they are shows when they are read: a record that has a block for itself may be as large as that.
    let at_once = (BYTES_UNSEEN_MAX / source.block_bytes() as usize).clamp(1, BATCH);
    for some in positions.chunks(at_once) {
        for record in get_some(&|_| Some(source.clone()), some, &mut lent) {
            bytes += record.as_ref().map_or(0, |record| record.bytes.len());
            records.push(record);
            if bytes >= bytes_max {
                break;
            }
        }
        if bytes >= bytes_max {
            break;
        }
    }
    if let Some((source, reader)) = lent {
        source.give_back_random(reader);
    }
    records
}

/// Each is looked up as far as that takes one more read when it is asked for.
fn get_some(
    source_of: &dyn Fn(ShardId) -> Option<Arc<dyn Source>>,
    positions: &[Position],
    lent: &mut Option<(Arc<dyn Source>, RandomReader)>,
) -> impl Iterator<Item = Result<Record, ReadError>> + use<> {
    let lookups: Vec<Result<Lookup, ReadError>> = positions
        .iter()
        .map(|&position| {
            let source = source_of(position.shard()).ok_or(ReadError::NoSuchShard(position.shard()))?;
            Lookup::begin(source, position)
        })
        .collect();
    let found = find_points(&lookups, lent);
    lookups.into_iter().zip(found).map(|(lookup, found)| lookup?.end(found))
}

/// The records that are where they should be, as far as that shows without a look at their blocks as a whole.
fn find_points(
    lookups: &[Result<Lookup, ReadError>],
    lent: &mut Option<(Arc<dyn Source>, RandomReader)>,
) -> Vec<Option<Record>> {
    let mut found: Vec<Option<Record>> = lookups.iter().map(|_| None).collect();
    let (mut of, mut points) = (Vec::new(), Vec::new());
    for (index, lookup) in lookups.iter().enumerate() {
        let open = lookup.as_ref().ok().filter(|lookup| lookup.recalled.is_none());
        if let Some(point) = open.and_then(Lookup::point) {
            of.push(index);
            points.push(point);
        }
    }
    let Some(Ok(first)) = of.first().map(|&index| &lookups[index]) else { return found };
    if lent.is_none() {
        *lent = first.source.lend_random_reader().ok().map(|reader| (first.source.clone(), reader));
    }
    if let Some((_, reader)) = lent {
        // What it does not find is looked up otherwise, where there may be more memory, or an error to tell.
        let _ = point::find(&mut points, reader);
    }
    for (index, mut point) in of.into_iter().zip(points) {
        found[index] = point.found();
    }
    found
}

/// A record that is looked up: what was there when that began.
struct Lookup {
    source: Arc<dyn Source>,
    view: Arc<StoreView>,
    position: Position,
    identity: Identity,
    block: Lsn,
    /// What its block, which is still in memory, has at its place.
    recalled: Option<Result<Option<(Record, bool)>, Defect>>,
}

impl Lookup {
    /// Sees to it that what was accepted there is written, and looks for it in memory.
    fn begin(source: Arc<dyn Source>, position: Position) -> Result<Lookup, ReadError> {
        source.check_process()?;
        check_epoch(source.as_ref(), &source.view(), position)?;
        if !source.flush(position.lsn(), false)? {
            return Err(ReadError::NotAPosition(position));
        }
        let view = source.view();
        Lookup::place(&source, &view, position)
            .map(|(identity, block)| {
                let mut recalled = None;
                source.recall(block, &mut |bytes| {
                    let header = BlockHeader::decode(bytes).ok();
                    let header = header.filter(|header| header.check(&identity, block).is_ok());
                    recalled = header.map(|header| extract(&header, bytes, position));
                });
                Lookup { source: source.clone(), view, position, identity, block, recalled }
            })
            // Looked up after the view: what was truncated meanwhile is said to be that.
            .or_else(|error| check_epoch(source.as_ref(), &source.view_now(), position).and(Err(error)))
    }

    /// The identity of the block that it must be in, and where that begins.
    fn place(
        source: &Arc<dyn Source>,
        view: &StoreView,
        position: Position,
    ) -> Result<(Identity, Lsn), ReadError> {
        let not_a_position = ReadError::NotAPosition(position);
        let block = position.block().ok_or(not_a_position.clone())?;
        let Some((row, _)) = view.epochs.owner(block) else { return Err(not_a_position) };
        if row.epoch != position.epoch() || !may_hold(source.as_ref(), view, block, position.lsn()) {
            return Err(not_a_position);
        }
        Ok((view.identity(row), block))
    }

    /// What to read of it. Where no segment holds it there is nothing to read.
    fn point(&self) -> Option<Point<'_>> {
        let segment = self.view.segments[self.view.segment_of(self.block)?].clone();
        segment.contains(self.position.lsn()).then(|| {
            Point::new(self.position, segment, self.identity, self.block, self.source.known_blocks())
        })
    }

    /// The record, `found` or to be looked up in its block as a whole, or why it is not there.
    fn end(self, found: Option<Record>) -> Result<Record, ReadError> {
        let Lookup { source, view, position, identity, block, recalled } = self;
        if let Some(record) = found {
            return Ok(record);
        }
        let looked_up = match recalled {
            Some(recalled) => recalled,
            None => {
                let io = |error| ReadError::Io { shard: source.id(), source: Arc::new(error) };
                let mut reader = source.lend_reader().map_err(io)?;
                let found = find(source.as_ref(), &mut reader, &view, &identity, position, block);
                source.give_back(reader);
                found
            }
        };
        let record = match looked_up {
            Ok(Some((record, false))) => Ok(record),
            Ok(Some((_, true))) => assemble(&source, position),
            Ok(None) => Err(ReadError::NotAPosition(position)),
            Err(cause) => Err(damaged(source.id(), &view, block, None, cause)),
        };
        // Looked up after the read: what was truncated meanwhile is no damage.
        record.or_else(|error| check_epoch(source.as_ref(), &source.view_now(), position).and(Err(error)))
    }
}
/// Whether the position's LSN belongs to its epoch, and is not truncated.
fn check_epoch(source: &dyn Source, view: &StoreView, position: Position) -> Result<(), ReadError> {
    let truncated = ReadError::Truncated { shard: source.id(), lsn: position.lsn(), horizon: view.horizon };
    if position.lsn() < view.horizon {
        return Err(truncated);
    }
    match view.epochs.owner(position.lsn()) {
        Some((row, _)) if row.epoch == position.epoch() => Ok(()),
        _ if view.epochs.last().is_some_and(|row| position.epoch() < row.epoch) => Err(truncated),
        _ => Err(ReadError::NotAPosition(position)),
    }
}

/// Whether a block that begins at `block` could hold `lsn`: in one segment, and no larger than blocks are.
fn may_hold(source: &dyn Source, view: &StoreView, block: Lsn, lsn: Lsn) -> bool {
    let near = lsn.0 - block.0 < u64::from(source.block_bytes());
    // Where the record's own place is in no segment, one is missing.
    near && view.segment_of(lsn).is_none_or(|segment| view.segment_of(block) == Some(segment))
}

/// The record, or its first fragment and true; `None` if no record stands there.
fn find(
    source: &dyn Source,
    reader: &mut SegmentReader,
    view: &StoreView,
    identity: &Identity,
    position: Position,
    block: Lsn,
) -> Result<Option<(Record, bool)>, Defect> {
    let index = view.segment_of(block).ok_or(Defect::Short)?;
    // Not the start of a block: then the position is made up, unless the block is damaged.
    if header_at(reader, view, block).is_none()
        && (header_before(source, reader, view, block) || in_gap(source, reader, view, index, block))
    {
        return Ok(None);
    }
    let (header, bytes) = reader.block(&view.segments[index], identity, block, None)?;
    extract(&header, bytes, position)
}

/// The same, out of its block.
fn extract(header: &BlockHeader, bytes: &[u8], position: Position) -> Result<Option<(Record, bool)>, Defect> {
    let lsn = position.lsn();
    let mut records = Records::new(header, bytes)?;
    if header.end() <= lsn || !records.skip_to(lsn) {
        return Ok(None);
    }
    let Some(record) = records.next().transpose()? else { return Ok(None) };
    if record.header.flags.has(RecordFlags::REST) {
        return Ok(None);
    }
    let start = (lsn.0 - header.lsn) as usize + RECORD_HEADER_BYTES as usize;
    let body: Arc<[u8]> = bytes[start..start + record.body.len()].into();
    let (key, behind_id) = record.header.edges();
    let split = record.header.flags.has(RecordFlags::SPLIT);
    let timestamp = record_time(header.timestamp, lsn.0 - header.lsn);
    let (key, payload) = (0..key.min(body.len()), behind_id.min(body.len())..body.len());
    Ok(Some((Record { position, timestamp, bytes: body, key, payload }, split)))
}

/// Whether an intact block that begins before `place` reaches over it.
fn header_before(source: &dyn Source, reader: &mut SegmentReader, view: &StoreView, place: Lsn) -> bool {
    let granule = crate::format::GRANULE;
    let steps = u64::from(source.block_bytes()) / granule;
    (1..=steps)
        .map_while(|step| place.0.checked_sub(step * granule).map(Lsn))
        .filter_map(|lsn| header_at(reader, view, lsn))
        .any(|header| header.end() > place)
}

/// Whether `place` lies at the end of its segment, where a block had no room: the first block of the next segment
/// names where the one before it ends.
fn in_gap(
    source: &dyn Source,
    reader: &mut SegmentReader,
    view: &StoreView,
    index: usize,
    place: Lsn,
) -> bool {
    let block_bytes = u64::from(source.block_bytes());
    let behind = view.segments[index + 1..].iter();
    // Of segments that are smaller than a block several may have been passed over.
    let passed = behind.clone().take_while(|segment| segment.row.bytes < block_bytes).count();
    behind
        .take(passed + 1)
        .find_map(|segment| header_at(reader, view, segment.base()))
        .is_some_and(|header| header.previous_end <= place.0)
}

/// A record in fragments.
fn assemble(source: &Arc<dyn Source>, position: Position) -> Result<Record, ReadError> {
    let mut cursor = Cursor::new(source.clone(), position.lsn())?;
    let mut step = cursor.next(source.written(), Lsn::MAX);
    if matches!(step, Step::End) {
        // Its first fragment is written. The others were accepted with it, and are still under way.
        source.flush(position.lsn(), true)?;
        step = cursor.next(source.written(), Lsn::MAX);
    }
    match step {
        Step::Record(record) if record.position() == position => Ok(record),
        Step::Error(error) => Err(error),
        Step::Record(_) | Step::End => Err(ReadError::NotAPosition(position)),
    }
}
