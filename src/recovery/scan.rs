//! Following the chain of blocks.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::format::{BlockHeader, Defect, GRANULE, Identity, RecordFlags, Records, ShardManifest};
use crate::pool::AlignedBuffer;
use crate::position::Lsn;
use crate::segment::{Segment, continuations};

/// Reads are this large: from 256 KiB on larger ones gain little, and one holds any block.
const WINDOW_BYTES: usize = 1 << 20;

/// Reads segments through one aligned window.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    window: AlignedBuffer,
    /// File number, offset and bytes of what the window holds.
    held: Option<(u32, u64, usize)>,
}

impl SegmentReader {
    /// A reader that can serve up to `bytes_max` at once.
    pub(crate) fn new(bytes_max: usize) -> std::io::Result<SegmentReader> {
        let bytes = bytes_max.next_multiple_of(GRANULE as usize).max(GRANULE as usize);
        Ok(SegmentReader { window: AlignedBuffer::zeroed(bytes)?, held: None })
    }

    /// A reader for whole segments of blocks of `block_bytes`.
    pub(crate) fn for_scan(block_bytes: u32, segment_bytes: u64) -> std::io::Result<SegmentReader> {
        SegmentReader::new(WINDOW_BYTES.min(segment_bytes as usize).max(block_bytes as usize))
    }

    /// Forgets what was read, so that it is read anew.
    pub(crate) fn forget(&mut self) {
        self.held = None;
    }

    /// `bytes` bytes at `offset`, a multiple of a granule.
    ///
    /// # Errors
    /// [`Defect::Short`] where the file ends before, [`Defect::Unreadable`] where it cannot be read.
    pub(crate) fn bytes(&mut self, segment: &Segment, offset: u64, bytes: usize) -> Result<&[u8], Defect> {
        assert!(bytes <= self.window.len() && offset % GRANULE == 0);
        let holds = self.held.is_some_and(|(file, start, length)| {
            file == segment.row.file && start <= offset && offset + bytes as u64 <= start + length as u64
        });
        if !holds {
            self.load(segment, offset, bytes)?;
        }
        let (_, start, _) = self.held.expect("just loaded");
        let from = (offset - start) as usize;
        Ok(&self.window[from..from + bytes])
    }

    fn load(&mut self, segment: &Segment, offset: u64, bytes: usize) -> Result<(), Defect> {
        self.held = None;
        let rest = segment.row.bytes.saturating_sub(offset);
        let whole = self.window.len().min(rest as usize);
        if whole < bytes {
            return Err(Defect::Short);
        }
        // A window that cannot be read may hold one bad place: then read no more than was asked for.
        for length in [whole, bytes.next_multiple_of(GRANULE as usize)] {
            match segment.file.read_at(&mut self.window[..length], offset) {
                Ok(count) if count >= bytes => {
                    self.held = Some((segment.row.file, offset, count));
                    return Ok(());
                }
                Ok(_) => return Err(Defect::Short),
                Err(_) => {}
            }
        }
        Err(Defect::Unreadable)
    }

    /// The block of `identity` at `lsn`, its records checked, if it continues the chain at `previous_end`.
    pub(crate) fn block(
        &mut self,
        segment: &Segment,
        identity: &Identity,
        lsn: Lsn,
        previous_end: Option<Lsn>,
    ) -> Result<(BlockHeader, &[u8]), Defect> {
        // The window may have been read before the block was written: what does not check is read
        // once more before it is believed.
        let fresh = self.held.is_none();
        let mut found = self.checked(segment, identity, lsn, previous_end);
        if found.is_err() && !fresh {
            self.forget();
            found = self.checked(segment, identity, lsn, previous_end);
        }
        let (header, bytes) = found?;
        let block = self.bytes(segment, lsn.0 - segment.row.base, bytes)?;
        Ok((header, block))
    }

    fn checked(
        &mut self,
        segment: &Segment,
        identity: &Identity,
        lsn: Lsn,
        previous_end: Option<Lsn>,
    ) -> Result<(BlockHeader, usize), Defect> {
        let offset = lsn.0 - segment.row.base;
        let header = BlockHeader::decode(self.bytes(segment, offset, GRANULE as usize)?)?;
        header.check(identity, lsn)?;
        if previous_end.is_some_and(|end| header.previous_end != end.0) {
            return Err(Defect::Unchained);
        }
        let bytes = (header.end().0 - lsn.0) as usize;
        if bytes > self.window.len() || header.end() > segment.end() {
            return Err(Defect::Length);
        }
        let block = self.bytes(segment, offset, bytes)?;
        for record in Records::new(&header, block)? {
            record?;
        }
        Ok((header, bytes))
    }
}

/// The chain from the checkpoint to where it ends.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    /// X: the end of the last block that continues the chain.
    pub end: Lsn,
    /// Start of a group that is not whole below `end`.
    pub open_group: Option<Lsn>,
    /// Time of the last record found; 0 if there is none.
    pub timestamp: u64,
    /// The device could not read a place where the chain might go on. Another try may: it is no end.
    pub unreadable: bool,
    /// All below it is durable, as the manifest and the blocks themselves testify.
    pub durable: Lsn,
    testified: Lsn,
    /// Ends of blocks above what is testified, each with the group that is open there.
    untold: VecDeque<(Lsn, Option<Lsn>)>,
}

impl Scan {
    /// Nothing yet, from the manifest's checkpoint on.
    pub(crate) fn from(manifest: &ShardManifest) -> Scan {
        let checkpoint = manifest.checkpoint;
        let testified = manifest.covered.max(manifest.clean_end.unwrap_or_default());
        Scan {
            end: checkpoint,
            open_group: None,
            timestamp: 0,
            unreadable: false,
            durable: checkpoint,
            testified,
            untold: VecDeque::new(),
        }
    }

    /// Follows the chain of an epoch as far as it goes.
    pub(crate) fn advance(
        &mut self,
        reader: &mut SegmentReader,
        segments: &[Arc<Segment>],
        identity: &Identity,
        block_bytes: u32,
    ) {
        while let Some(header) = self.next(reader, segments, identity, block_bytes) {
            self.end = header.end();
            self.timestamp = header.timestamp + u64::from(header.record_count.saturating_sub(1));
            self.untold.push_back((self.end, self.open_group));
            self.hear(Lsn(header.covered));
        }
    }

    /// Somebody testifies that all below `covered` is durable.
    pub(crate) fn hear(&mut self, covered: Lsn) {
        self.testified = self.testified.max(covered);
        while let Some(&(end, group)) = self.untold.front().filter(|(end, _)| *end <= self.testified) {
            self.durable = self.durable.max(group.unwrap_or(end));
            self.untold.pop_front();
        }
    }

    /// The block that continues the chain.
    fn next(
        &mut self,
        reader: &mut SegmentReader,
        segments: &[Arc<Segment>],
        identity: &Identity,
        block_bytes: u32,
    ) -> Option<BlockHeader> {
        self.unreadable = false;
        for (segment, lsn) in continuations(segments, self.end, block_bytes) {
            // Why else a place does not continue the chain is for the verdict to find out.
            let (header, block) = match reader.block(segment, identity, lsn, Some(self.end)) {
                Ok(found) => found,
                Err(defect) => {
                    self.unreadable |= defect == Defect::Unreadable;
                    continue;
                }
            };
            self.unreadable = false;
            let records = Records::checked_before(&header, block).expect("checked by the reader");
            for record in records.flatten() {
                note_group(&mut self.open_group, record.lsn, record.header.flags);
            }
            return Some(header);
        }
        None
    }
}

/// Follows the chain of the last epoch from the checkpoint.
pub(crate) fn scan(
    reader: &mut SegmentReader,
    segments: &[Arc<Segment>],
    manifest: &ShardManifest,
    block_bytes: u32,
) -> Scan {
    let row = manifest.epochs.last().expect("a manifest has an epoch");
    assert!(manifest.checkpoint.0 >= row.start, "the checkpoint lies in the last epoch");
    let mut scan = Scan::from(manifest);
    scan.advance(reader, segments, &manifest.identity(row), block_bytes);
    scan
}

/// Tracks where the group that is open behind a record began.
fn note_group(open: &mut Option<Lsn>, lsn: Lsn, flags: RecordFlags) {
    if !flags.leaves_group_open() {
        *open = None;
    } else if !flags.continues_group() {
        *open = Some(lsn);
    }
}
