//! Walking a shard's blocks and records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::restored::History;
use super::window::Window;
use super::{Record, Source};
use crate::error::ReadError;
use crate::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Defect, GRANULE, Identity, RECORD_HEADER_BYTES, RawRecord, RecordFlags,
    Records, Walk, record_time,
};
use crate::position::{Lsn, Position, ShardId};
use crate::segment::{SegmentReader, StoreView, continuations, segment_name};
use crate::sys::Process;

/// A record in fragments, as far as it was read.
#[derive(Debug)]
struct Partial {
    position: Position,
    timestamp: u64,
    /// Of the key, and of the id behind it.
    edges: (usize, usize),
    whole: usize,
    body: Vec<u8>,
}

/// A block that is being walked. Its records were checked by the shard's reader, or when it was recalled.
#[derive(Debug)]
struct Walked {
    bytes: Arc<[u8]>,
    walk: Walk,
    lsn: Lsn,
    epoch: u32,
    /// Of its first record.
    timestamp: u64,
    /// Records from here on belong to another epoch.
    owned_end: Lsn,
}

/// A reader's place in a shard: gives blocks and their records in order.
#[derive(Debug)]
pub(crate) struct Cursor {
    source: Arc<dyn Source>,
    shard: ShardId,
    /// Whose memory the reader has.
    process: Process,
    /// It was told that it was copied into another one.
    forked: bool,
    window: Window,
    /// Where the next block stands or would. While that is not looked up, `from`.
    at: Lsn,
    /// Whether it was looked up: not before the limit is above `from`, since what is to be found there may not be
    /// written yet.
    located: bool,
    /// Records below it are passed over.
    from: Lsn,
    /// The block whose records are given now.
    block: Option<Walked>,
    /// The bytes of the one before it: if nobody keeps a record of it, the next one can have its memory.
    spare: Option<Arc<[u8]>>,
    partial: Option<Partial>,
    /// The source's count of truncations, and what it was before what is walked was looked up.
    truncations: Arc<AtomicU64>,
    seen: u64,
    history: History,
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
        let mut cursor = Cursor::at_rest(source, from)?;
        // Told now if there is no memory for it.
        cursor.window.open(cursor.source.as_ref())?;
        Ok(cursor)
    }

    /// As [`new`](Cursor::new), for a reader that may have to wait first, without the memory to read into.
    pub(crate) fn at_rest(source: Arc<dyn Source>, from: Lsn) -> Result<Cursor, ReadError> {
        source.check_process()?;
        let shard = source.id();
        Ok(Cursor {
            process: source.process(),
            forked: false,
            truncations: source.truncations(),
            seen: 0,
            history: History::of(source.as_ref()),
            source,
            shard,
            window: Window::closed(),
            at: from,
            located: false,
            from,
            block: None,
            spare: None,
            partial: None,
        })
    }

    /// Gives back what it reads into, until there is something to read again.
    pub(crate) fn rest(&mut self) {
        self.spare = None;
        self.window.close(self.source.as_ref());
    }

    /// Whether it has what it reads into.
    #[cfg(test)]
    pub(crate) fn is_resting(&self) -> bool {
        !self.window.is_open() && self.spare.is_none() && self.block.is_none()
    }

    /// Goes to the first record at or above `from`.
    pub(super) fn seek(&mut self, from: Lsn) {
        self.block = None;
        self.partial = None;
        self.from = from;
        self.at = from;
        self.located = false;
    }

    /// The same, for a reader that has nothing of what was read before.
    pub(super) fn begin_anew(&mut self, from: Lsn) {
        self.history = History::of(self.source.as_ref());
        self.seek(from);
    }

    /// Where the block stands that holds `lsn`, or the one before it, or where the next would.
    ///
    /// Blocks carry no index: it is looked for backwards, over two blocks at the most, since a gap at the end
    /// of a segment is smaller than a block. Segments that are smaller still may hold nothing at all.
    fn locate(&mut self, lsn: Lsn) -> Lsn {
        if !self.process.is_current() {
            return lsn;
        }
        let view = self.source.view();
        let Some(row_start) = view.epochs.owner(lsn).map(|(row, _)| Lsn(row.start)) else { return lsn };
        let Some(mut index) = view.segment_of(lsn) else { return lsn };
        let Ok(reader) = self.window.open(self.source.as_ref()) else { return lsn };
        // A file that was read may hold another segment by now.
        reader.forget();
        let block_bytes = u64::from(self.source.block_bytes());
        let mut top = lsn;
        loop {
            let segment = view.segments[index].clone();
            let two_blocks = Lsn(top.0.saturating_sub(2 * block_bytes));
            let lowest = segment.base().max(row_start).max(two_blocks);
            // All of the stretch is read at once, if it fits; what cannot be read is seen below.
            let _ =
                reader.bytes(&segment, (lowest.0 - segment.row.base) / GRANULE * GRANULE, GRANULE as usize);
            let mut place = Lsn(top.0 - top.0 % GRANULE);
            while place >= lowest {
                if let Some(header) = header_at(reader, &view, place) {
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
    ///
    /// A limit within a block is a limit too: the cursor stays in front of the first record that it has not
    /// passed, and goes on there with a higher one.
    pub(crate) fn next(&mut self, limit: Lsn, end: Lsn) -> Step {
        loop {
            if self.is_outdated() {
                self.read_again();
            }
            if let Some(record) = self.next_of_block(limit) {
                return if record.lsn() < end { Step::Record(record) } else { Step::End };
            }
            if self.block.is_some() {
                return Step::End;
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

    /// Whether the log was truncated since what the cursor has was looked up.
    #[inline]
    pub(super) fn is_outdated(&self) -> bool {
        self.truncations.load(Ordering::SeqCst) != self.seen
    }

    /// The log was truncated since what is walked was read: goes on in front of the same record, and looks what is
    /// there now.
    fn read_again(&mut self) {
        let from = self.from;
        let begun = self.partial.take().map(|partial| partial.position).filter(|begun| begun.lsn() >= from);
        let begun = begun.and_then(|begun| Some((begun.block()?, begun.lsn())));
        let walked = self.block.take().filter(|walked| walked.walk.goes_on());
        if let Some((block, lsn)) = begun.or_else(|| walked.map(|walked| (walked.lsn, walked.walk.at()))) {
            self.at = block;
            self.from = from.max(lsn);
        }
    }

    /// Whether what was passed is still what stands there: the shard may have been put back from an older copy.
    fn check_history(&mut self) -> Result<(), ReadError> {
        let passed = self.partial.as_ref().map_or(self.at, |partial| partial.position.lsn());
        if self.history.check(self.source.as_ref(), passed.max(self.from))? {
            self.read_again();
        }
        Ok(())
    }

    /// Reads the next block; false at the limit.
    fn next_block(&mut self, limit: Lsn) -> Result<bool, ReadError> {
        if !self.process.is_current() {
            // Said once; then it is at its end.
            return if std::mem::replace(&mut self.forked, true) {
                Ok(false)
            } else {
                Err(ReadError::Forked)
            };
        }
        let Some((header, bytes, owned_end)) = self.read_block(limit)? else { return Ok(false) };
        let (lsn, epoch, timestamp) = (header.lsn(), header.epoch, header.timestamp);
        self.block = Some(Walked { bytes, walk: Walk::new(&header), lsn, epoch, timestamp, owned_end });
        Ok(true)
    }

    /// The next block, and the end of what its epoch owns; `None` at the limit. After an error the
    /// cursor stands behind what it could not read.
    pub(super) fn read_block(
        &mut self,
        limit: Lsn,
    ) -> Result<Option<(BlockHeader, Arc<[u8]>, Lsn)>, ReadError> {
        loop {
            if self.history.is_over() {
                return Ok(None);
            }
            self.check_history()?;
            if self.at >= limit {
                return Ok(None);
            }
            if !self.located {
                self.window.open(self.source.as_ref())?;
                self.at = self.locate(self.from);
                self.located = true;
            }
            self.seen = self.truncations.load(Ordering::SeqCst);
            // Seen from now on as something else than what was looked up.
            self.check_history()?;
            let view = self.source.view();
            // Where no block is walked, the next record stands no nearer than behind a header.
            let next = Lsn(self.at.0 + u64::from(BLOCK_HEADER_BYTES)).max(self.from);
            if self.at < view.horizon && next < view.horizon && !self.goes_on_behind(&view) {
                let (lsn, horizon) = (self.from.max(self.at), view.horizon);
                let has_missed = next < view.bare_from || self.partial.is_some();
                self.from = horizon;
                self.at = self.locate(horizon);
                if has_missed {
                    return Err(ReadError::Truncated { shard: self.source.id(), lsn, horizon });
                }
                continue;
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
            let reader = self.window.open(self.source.as_ref())?;
            let mut defect = Defect::Short;
            for (segment, lsn) in continuations(&view.segments, self.at, self.source.block_bytes()) {
                let chained = (lsn != self.at).then_some(self.at);
                match reader.block(segment, &identity, lsn, chained) {
                    Ok((header, block)) => {
                        self.at = header.end();
                        return Ok(Some((header, shared(self.spare.take(), block), owned_end)));
                    }
                    Err(found) if lsn == self.at => defect = found,
                    Err(_) => {}
                }
            }
            // Truncated meanwhile: its segment may be gone, or hold another life already.
            let now = self.source.view_now();
            if now.horizon > view.horizon && self.at < now.horizon {
                continue;
            }
            return Err(self.damaged(&view, defect, owned_end.min(limit)));
        }
    }

    /// Whether the next block begins the next segment and all of it lies behind the horizon: it names the end of the
    /// one that was walked, so nothing is gone but room at a segment's end that no block was put into.
    fn goes_on_behind(&mut self, view: &StoreView) -> bool {
        let mut places = continuations(&view.segments, self.at, self.source.block_bytes());
        let Some((segment, lsn)) = places.find(|(_, lsn)| *lsn > self.at) else { return false };
        if self.partial.is_some() || lsn.0 + u64::from(BLOCK_HEADER_BYTES) < view.horizon.0 {
            return false;
        }
        let Some((row, _)) = view.epochs.owner(lsn) else { return false };
        let Ok(reader) = self.window.open(self.source.as_ref()) else { return false };
        reader.block(segment, &view.identity(row), lsn, Some(self.at)).is_ok()
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
                Some(_) if self.header_at(view, place).is_some() => {
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
        damaged(shard, view, lsn.max(horizon), Some(self.at), cause)
    }

    fn header_at(&mut self, view: &StoreView, place: Lsn) -> Option<BlockHeader> {
        header_at(self.window.open(self.source.as_ref()).ok()?, view, place)
    }

    /// The next record of the block that is asked for, owned, and whole below the limit. The block is kept where
    /// the limit stands in front of something in it.
    #[inline]
    fn next_of_block(&mut self, limit: Lsn) -> Option<Record> {
        let block = self.block.as_mut()?;
        while block.walk.goes_on() {
            if block.walk.at() >= block.owned_end {
                self.partial = None;
                break;
            }
            if block.walk.at() >= limit {
                return None;
            }
            let Some(record) = block.walk.next(&block.bytes) else { break };
            let position = Position::new(self.shard, block.epoch, record.lsn, block.lsn);
            let timestamp = record_time(block.timestamp, record.lsn.0 - block.lsn.0);
            let flags = record.header.flags;
            if flags.has(RecordFlags::SPLIT) || flags.has(RecordFlags::REST) {
                let whole = add_fragment(&mut self.partial, &record, position, timestamp);
                match whole.filter(|record| record.lsn() >= self.from) {
                    None => continue,
                    whole => return whole,
                }
            }
            self.partial = None;
            if record.lsn >= self.from {
                let start = (record.lsn.0 - block.lsn.0) as usize + RECORD_HEADER_BYTES as usize;
                let end = start + record.body.len();
                let (key, behind_id) = record.header.edges();
                let (key, payload) = (start..start + key, start + behind_id..end);
                return Some(Record { position, timestamp, bytes: block.bytes.clone(), key, payload });
            }
        }
        self.spare = self.block.take().map(|block| block.bytes);
        None
    }

    /// Whether the next record is probably read already.
    pub(crate) fn has_ready(&self) -> bool {
        self.block.as_ref().is_some_and(|block| block.walk.goes_on())
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }
}

/// A copy of a block's bytes that records can share: in the memory of the one before, if that is free and as
/// long, which blocks of a busy log mostly are.
fn shared(spare: Option<Arc<[u8]>>, bytes: &[u8]) -> Arc<[u8]> {
    if let Some(mut spare) = spare.filter(|spare| spare.len() == bytes.len()) {
        if let Some(free) = Arc::get_mut(&mut spare) {
            free.copy_from_slice(bytes);
            return spare;
        }
    }
    bytes.into()
}

/// Puts a fragment to those before it; gives the record once it is whole.
fn add_fragment(
    partial: &mut Option<Partial>,
    fragment: &RawRecord<'_>,
    position: Position,
    timestamp: u64,
) -> Option<Record> {
    let flags = fragment.header.flags;
    if flags.has(RecordFlags::REST) {
        partial.as_mut()?.body.extend_from_slice(fragment.body);
    } else {
        let whole = fragment.header.whole_bytes as usize;
        let mut body = Vec::with_capacity(whole.min(64 << 20));
        body.extend_from_slice(fragment.body);
        *partial = Some(Partial { position, timestamp, edges: fragment.header.edges(), whole, body });
    }
    if flags.has(RecordFlags::SPLIT) {
        return None;
    }
    let Partial { position, timestamp, edges: (key, behind_id), whole, body } = partial.take()?;
    if body.len() != whole {
        return None;
    }
    let (key, payload) = (0..key, behind_id..whole);
    Some(Record { position, timestamp, bytes: body.into(), key, payload })
}

/// The error for damage at `lsn`, with its place on disk.
pub(super) fn damaged(
    shard: ShardId,
    view: &StoreView,
    lsn: Lsn,
    end: Option<Lsn>,
    cause: Defect,
) -> ReadError {
    let segment = view.row_of(lsn);
    let file = segment.map(|row| segment_name(row.file));
    ReadError::Damaged { shard, lsn, end, file, offset: segment.map_or(0, |row| lsn.0 - row.base), cause }
}

/// The header that stands at `place`, if it is one that belongs there.
pub(super) fn header_at(reader: &mut SegmentReader, view: &StoreView, place: Lsn) -> Option<BlockHeader> {
    let segment = &view.segments[view.segment_of(place)?];
    let bytes = reader.bytes(segment, place.0 - segment.row.base, GRANULE as usize).ok()?;
    header_in(bytes, view, place)
}

/// The same, in the granule that was read there. A copy of a header in a record is none: it names another place.
pub(super) fn header_in(granule: &[u8], view: &StoreView, place: Lsn) -> Option<BlockHeader> {
    debug_assert!(granule.len() > BLOCK_HEADER_BYTES as usize);
    let header = BlockHeader::decode(granule).ok()?;
    let (row, _) = view.epochs.owner(place)?;
    header.check(&view.identity(row), place).ok()?;
    Some(header)
}
