//! Where batches begin and end.

use std::sync::Arc;

use super::Source;
use super::cursor::Cursor;
use crate::error::{ReadError, TruncateError};
use crate::format::{RecordFlags, Records, encoded_bytes};
use crate::position::{Lsn, Position};

/// The positions of the records of a batch, of which the first one is given.
pub(crate) fn batch_of(source: &Arc<dyn Source>, first: Position) -> Result<Vec<Position>, ReadError> {
    // Behind a first record that is durable the batch is whole.
    if source.durable() <= first.lsn() {
        source.flush(first.lsn(), true)?;
    }
    let limit = source.written().max(source.durable());
    let mut cursor = Cursor::new(source.clone(), first.lsn())?;
    let mut positions = Vec::new();
    while let Some((header, block, _)) = cursor.read_block(limit)? {
        let Ok(mut records) = Records::new(&header, &block) else { break };
        if positions.is_empty() && !records.skip_to(first.lsn()) {
            break;
        }
        for record in records.map_while(Result::ok) {
            let flags = record.header.flags;
            if !flags.has(RecordFlags::REST) {
                positions.push(Position::new(source.id(), header.epoch, record.lsn, header.lsn()));
            }
            if !flags.leaves_group_open() {
                return Ok(positions);
            }
        }
    }
    // Truncated or cut off meanwhile.
    Err(ReadError::NotAPosition(first))
}

/// The place behind the record at `lsn`, where the log can be cut.
pub(crate) fn find_cut(source: &Arc<dyn Source>, lsn: Lsn) -> Result<Lsn, TruncateError> {
    let shard = source.id();
    let mut cursor = Cursor::new(source.clone(), lsn).map_err(TruncateError::Read)?;
    let mut found = false;
    while let Some((header, block, owned_end)) =
        cursor.read_block(source.durable()).map_err(TruncateError::Read)?
    {
        let Ok(mut records) = Records::new(&header, &block) else { break };
        if !found && (header.end() <= lsn || lsn >= owned_end || !records.skip_to(lsn)) {
            break;
        }
        let Some(Ok(record)) = records.next() else { break };
        let flags = record.header.flags;
        if found != flags.has(RecordFlags::REST) {
            break;
        }
        found = true;
        if flags.has(RecordFlags::MORE) {
            return Err(TruncateError::InsideBatch { shard, lsn });
        }
        if !flags.has(RecordFlags::SPLIT) {
            return Ok(Lsn(record.lsn.0 + u64::from(encoded_bytes(record.header.body_bytes))));
        }
    }
    Err(TruncateError::NotARecord { shard, lsn })
}
