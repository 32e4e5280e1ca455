//! Walking a shard's blocks and records.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Record, Source};
use crate::error::{ReadError, TruncateError};
use crate::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Defect, GRANULE, Identity, RECORD_HEADER_BYTES, RecordFlags, Records,
    encoded_bytes,
};
use crate::position::{Lsn, Position};
use crate::recovery::SegmentReader;
use crate::segment::{StoreView, continuations};

/// Reads are this large, so that one holds several blocks.
const WINDOW_BYTES: usize = 1 << 20;

/// A record in fragments, as far as it was read.
#[derive(Debug)]
struct Partial {
    position: Position,
    timestamp: u64,
    key_bytes: usize,
    whole: usize,
    body: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cursor {
    source: Arc<dyn Source>,
    reader: SegmentReader,
    /// Where the next block stands or would.
    at: Lsn,
    /// Records below it are passed over.
    from: Lsn,
    ready: VecDeque<Record>,
    partial: Option<Partial>,
}

/// What a step of the cursor found.
pub(crate) enum Step {
    Record(Record),
    /// Nothing below the limit any more.
    End,
    Error(ReadError),
}

impl Cursor {
    /// A cursor at the first record at or above `from`.
    pub(crate) fn new(source: Arc<dyn Source>, from: Lsn) -> Result<Cursor, ReadError> {
        let whole = usize::try_from(source.segment_bytes()).unwrap_or(usize::MAX);
        let window = WINDOW_BYTES.min(whole).max(source.block_bytes() as usize * 2);
        let reader = SegmentReader::new(window)
            .map_err(|error| ReadError::Io { shard: source.id(), source: Arc::new(error) })?;
        let mut cursor = Cursor { source, reader, at: from, from, ready: VecDeque::new(), partial: None };
        cursor.at = cursor.locate(from);
        Ok(cursor)
    }

    /// Goes to the first record at or above `from`.
    pub(super) fn seek(&mut self, from: Lsn) {
        self.ready.clear();
        self.partial = None;
        self.from = from;
        self.at = self.locate(from);
    }

    /// Where the block stands that holds `lsn`, or the one before it, or where the next would.
    ///
    /// Blocks carry no index: it is looked for backwards, over two blocks at the most, since a gap at the end
    /// of a segment is smaller than a block. Segments that are smaller still may hold nothing at all.
    fn locate(&mut self, lsn: Lsn) -> Lsn {
        let view = self.source.view();
        let Some(row_start) = view.epochs.owner(lsn).map(|(row, _)| Lsn(row.start)) else { return lsn };
        let Some(mut index) = view.segment_of(lsn) else { return lsn };
        let block_bytes = u64::from(self.source.block_bytes());
        let mut top = lsn;
        loop {
            let segment = view.segments[index].clone();
            let two_blocks = Lsn(top.0.saturating_sub(2 * block_bytes));
            let lowest = segment.base().max(row_start).max(two_blocks);
            let mut place = Lsn(top.0 - top.0 % GRANULE);
            while place >= lowest {
                if let Some(header) = header_at(&mut self.reader, &view, place) {
                    return if header.end() > lsn { place } else { header.end() };
                }
                if place.0 < GRANULE {
                    break;
                }
                place = Lsn(place.0 - GRANULE);
            }
            let below = index.checked_sub(1).filter(|&below| view.segments[below].end() > row_start);
            match below {
                Some(below) if segment.row.bytes < block_bytes => index = below,
                _ => return lowest.0.checked_next_multiple_of(GRANULE).map_or(lsn, Lsn),
            }
            top = Lsn(view.segments[index].end().0 - 1);
        }
    }

    /// The next record that begins below `end` and is whole below `limit`, the durable LSN when it
    /// was looked up.
    pub(crate) fn next(&mut self, limit: Lsn, end: Lsn) -> Step {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return if record.lsn() < end { Step::Record(record) } else { Step::End };
            }
            if self.at >= end && self.partial.is_none() {
                return Step::End;
            }
            match self.next_block(limit) {
                Ok(true) => {}
                Ok(false) => return Step::End,
                Err(error) => {
                    self.partial = None;
                    return Step::Error(error);
                }
            }
        }
    }

    /// Reads the next block into `ready`; false at the limit.
    fn next_block(&mut self, limit: Lsn) -> Result<bool, ReadError> {
        let Some((header, block, owned_end)) = self.read_block(limit)? else { return Ok(false) };
        self.take(&header, block, owned_end);
        Ok(true)
    }

    /// The next block, and the end of what its epoch owns; `None` at the limit. After an error the
    /// cursor stands behind what it could not read.
    fn read_block(&mut self, limit: Lsn) -> Result<Option<(BlockHeader, Arc<[u8]>, Lsn)>, ReadError> {
        loop {
            if self.at >= limit {
                return Ok(None);
            }
            let view = self.source.view();
            if self.at < view.horizon && self.from < view.horizon {
                let (lsn, horizon) = (self.from, view.horizon);
                self.from = horizon;
                self.at = self.locate(horizon);
                return Err(ReadError::Truncated { shard: self.source.id(), lsn, horizon });
            }
            let Some((row, owned_end)) = view.epochs.owner(self.at).map(|(row, end)| (*row, end)) else {
                match view.epochs.next_owned(self.at) {
                    Some(next) => self.at = next,
                    None => return Ok(None),
                }
                self.partial = None;
                continue;
            };
            let identity = view.identity(&row);
            if let Some((header, block)) = self.recall(&identity) {
                self.at = header.end();
                return Ok(Some((header, block, owned_end)));
            }
            let mut defect = Defect::Short;
            for (segment, lsn) in continuations(&view.segments, self.at, self.source.block_bytes()) {
                let chained = (lsn != self.at).then_some(self.at);
                match self.reader.block(segment, &identity, lsn, chained) {
                    Ok((header, block)) => {
                        self.at = header.end();
                        return Ok(Some((header, block.into(), owned_end)));
                    }
                    Err(found) if lsn == self.at => defect = found,
                    Err(_) => {}
                }
            }
            return Err(self.damaged(&view, defect, owned_end.min(limit)));
        }
    }

    /// The next block, if it is still in memory, as its producers wrote it.
    fn recall(&self, identity: &Identity) -> Option<(BlockHeader, Arc<[u8]>)> {
        let mut block: Option<Arc<[u8]>> = None;
        self.source.recall(self.at, &mut |bytes| block = Some(bytes.into()));
        let block = block?;
        let header = BlockHeader::decode(&block).ok()?;
        header.check(identity, header.lsn()).ok()?;
        let mut records = Records::new(&header, &block).ok()?;
        records.all(|record| record.is_ok()).then_some(())?;
        Some((header, block))
    }

    /// The error for a block that is not there, with the cursor moved to the next one that is.
    fn damaged(&mut self, view: &StoreView, cause: Defect, end: Lsn) -> ReadError {
        let shard = self.source.id();
        let lsn = self.at;
        let mut place = lsn;
        loop {
            place = Lsn(place.0 + GRANULE);
            if place >= end {
                self.at = end;
                break;
            }
            match view.segment_of(place) {
                None => match view.segment_from(place) {
                    Some(index) => place = Lsn(view.segments[index].base().0 - GRANULE),
                    None => place = Lsn(end.0 - GRANULE.min(end.0)),
                },
                Some(_) if header_at(&mut self.reader, view, place).is_some() => {
                    self.at = place;
                    break;
                }
                Some(_) => {}
            }
        }
        // Looked up after the read: what was truncated meanwhile is no damage, and its segment may
        // hold another life already. A block that reaches over the horizon is not truncated.
        let now = self.source.view_now();
        let horizon = now.horizon;
        if lsn < horizon && (self.at <= horizon || now.segment_of(lsn).is_none()) {
            self.from = self.from.max(horizon);
            self.at = self.at.max(self.locate(horizon));
            return ReadError::Truncated { shard, lsn, horizon };
        }
        ReadError::Damaged { shard, lsn: lsn.max(horizon), cause }
    }

    /// Takes the records of a block that are asked for and owned.
    fn take(&mut self, header: &BlockHeader, block: Arc<[u8]>, owned_end: Lsn) {
        // By the shard's reader, or when it was recalled.
        let Ok(records) = Records::checked_before(header, &block) else { return };
        for record in records.flatten() {
            if record.lsn >= owned_end {
                self.partial = None;
                break;
            }
            let position = Position::new(self.source.id(), header.epoch, record.lsn, header.lsn());
            let timestamp = header.timestamp + u64::from(record.index);
            let flags = record.header.flags;
            let key_bytes = usize::from(record.header.key_bytes);
            if flags.has(RecordFlags::REST) {
                let Some(partial) = &mut self.partial else { continue };
                partial.body.extend_from_slice(record.body);
            } else if flags.has(RecordFlags::SPLIT) {
                let whole = record.header.whole_bytes as usize;
                let mut body = Vec::with_capacity(whole.min(64 << 20));
                body.extend_from_slice(record.body);
                self.partial = Some(Partial { position, timestamp, key_bytes, whole, body });
            } else {
                self.partial = None;
                if record.lsn < self.from {
                    continue;
                }
                let start = (record.lsn.0 - header.lsn) as usize + RECORD_HEADER_BYTES as usize;
                let end = start + record.body.len();
                let (key, payload) = (start..start + key_bytes, start + key_bytes..end);
                self.ready.push_back(Record { position, timestamp, bytes: block.clone(), key, payload });
                continue;
            }
            if !flags.has(RecordFlags::SPLIT) {
                let Some(partial) = self.partial.take() else { continue };
                if partial.body.len() == partial.whole && partial.position.lsn() >= self.from {
                    let (key, payload) = (0..partial.key_bytes, partial.key_bytes..partial.whole);
                    let bytes = partial.body.into();
                    self.ready.push_back(Record {
                        position: partial.position,
                        timestamp: partial.timestamp,
                        bytes,
                        key,
                        payload,
                    });
                }
            }
        }
    }

    /// Whether the next record is read already.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }
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

/// The header that stands at `place`, if it is one that belongs there.
pub(super) fn header_at(reader: &mut SegmentReader, view: &StoreView, place: Lsn) -> Option<BlockHeader> {
    let (row, _) = view.epochs.owner(place)?;
    let segment = &view.segments[view.segment_of(place)?];
    let bytes = reader.bytes(segment, place.0 - segment.row.base, GRANULE as usize).ok()?;
    debug_assert!(bytes.len() > BLOCK_HEADER_BYTES as usize);
    let header = BlockHeader::decode(bytes).ok()?;
    header.check(&view.identity(row), place).ok()?;
    Some(header)
}
