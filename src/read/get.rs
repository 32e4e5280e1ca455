//! One record by its position.

use std::sync::Arc;

use super::Record;
use super::cursor::{Cursor, Step, header_at};
use crate::error::{AppendError, ReadError};
use crate::format::{Defect, RECORD_HEADER_BYTES, RecordFlags, Records};
use crate::options::Durability;
use crate::position::{Lsn, Position};
use crate::segment::StoreView;
use crate::shard::{Engine, Target};

/// Reads the record at `position`, whatever its durability.
pub(crate) fn get(engine: &Arc<Engine>, position: Position) -> Result<Record, ReadError> {
    let view = engine.view();
    check_epoch(engine, &view, position)?;
    flush(engine, position)?;
    match read(engine, &engine.view(), position) {
        // Looked up after the read: what was truncated meanwhile is no damage.
        Err(error) => check_epoch(engine, &engine.view(), position).and(Err(error)),
        found => found,
    }
}

/// Whether the position's LSN belongs to its epoch, and is not truncated.
fn check_epoch(engine: &Engine, view: &StoreView, position: Position) -> Result<(), ReadError> {
    let truncated = ReadError::Truncated { shard: engine.id, lsn: position.lsn(), horizon: view.horizon };
    if position.lsn() < view.horizon {
        return Err(truncated);
    }
    match view.epochs.owner(position.lsn()) {
        Some((row, _)) if row.epoch == position.epoch() => Ok(()),
        _ if view.epochs.last().is_some_and(|row| position.epoch() < row.epoch) => Err(truncated),
        _ => Err(ReadError::NotAPosition(position)),
    }
}

/// Writes the block of the record, if it is accepted and not written yet.
fn flush(engine: &Engine, position: Position) -> Result<(), ReadError> {
    if engine.written() > position.lsn() {
        return Ok(());
    }
    let accepted = engine.last_target(Durability::Synced).filter(|last| last.lsn >= position.lsn());
    let Some(last) = accepted else { return Err(ReadError::NotAPosition(position)) };
    engine.ask_sync(&last);
    await_written(engine, &Target { lsn: position.lsn(), durability: Durability::Written, ..last })
}

fn await_written(engine: &Engine, target: &Target) -> Result<(), ReadError> {
    match engine.wait(target, None) {
        Some(Ok(())) => Ok(()),
        Some(Err(AppendError::ShardFailed(failure))) => Err(ReadError::ShardFailed(failure)),
        _ => Err(ReadError::Closed),
    }
}

fn read(engine: &Arc<Engine>, view: &StoreView, position: Position) -> Result<Record, ReadError> {
    let not_a_position = ReadError::NotAPosition(position);
    let lsn = position.lsn();
    let block = position.block().ok_or(not_a_position.clone())?;
    let Some((row, _)) = view.epochs.owner(block) else { return Err(not_a_position) };
    let identity = view.identity(row);
    let found = engine.with_reader(|reader| {
        let index = view.segment_of(block).ok_or(Defect::Short)?;
        // Not the start of a block: then the position is made up, unless the block is damaged.
        if header_at(reader, view, block).is_none() && header_before(engine, reader, view, block) {
            return Ok(None);
        }
        let (header, bytes) = reader.block(&view.segments[index], &identity, block, None)?;
        let mut records = Records::new(&header, bytes)?;
        if header.end() <= lsn || !records.skip_to(lsn) {
            return Ok(None);
        }
        let Some(record) = records.next().transpose()? else { return Ok(None) };
        if record.header.flags.has(RecordFlags::REST) {
            return Ok(None);
        }
        let start = (lsn.0 - header.lsn) as usize + RECORD_HEADER_BYTES as usize;
        let body: Arc<[u8]> = bytes[start..start + record.body.len()].into();
        let key = usize::from(record.header.key_bytes);
        let split = record.header.flags.has(RecordFlags::SPLIT);
        let timestamp = header.timestamp + u64::from(record.index);
        let (key, payload) = (0..key.min(body.len()), key.min(body.len())..body.len());
        Ok(Some((Record { position, timestamp, bytes: body, key, payload }, split)))
    });
    let found = found.map_err(|error| ReadError::Io { shard: engine.id, source: Arc::new(error) })?;
    match found {
        Ok(Some((record, false))) => Ok(record),
        Ok(Some((_, true))) => assemble(engine, position),
        Ok(None) => Err(not_a_position),
        Err(cause) => Err(ReadError::Damaged { shard: engine.id, lsn: block, cause }),
    }
}

/// Whether an intact block that begins before `place` reaches over it.
fn header_before(
    engine: &Engine,
    reader: &mut crate::recovery::SegmentReader,
    view: &StoreView,
    place: Lsn,
) -> bool {
    let granule = crate::format::GRANULE;
    let steps = u64::from(engine.block_bytes()) / granule;
    (1..=steps)
        .map_while(|step| place.0.checked_sub(step * granule).map(Lsn))
        .filter_map(|lsn| header_at(reader, view, lsn))
        .any(|header| header.end() > place)
}

/// A record in fragments.
fn assemble(engine: &Arc<Engine>, position: Position) -> Result<Record, ReadError> {
    // Its first fragment is written. The others were accepted with it, and may still be under way.
    if let Some(last) = engine.last_target(Durability::Written).filter(|last| last.lsn >= engine.written()) {
        engine.ask_sync(&last);
        await_written(engine, &last)?;
    }
    let mut cursor = Cursor::new(engine.clone(), position.lsn())?;
    match cursor.next(engine.written(), Lsn::MAX) {
        Step::Record(record) if record.position() == position => Ok(record),
        Step::Error(error) => Err(error),
        Step::Record(_) | Step::End => Err(ReadError::NotAPosition(position)),
    }
}
