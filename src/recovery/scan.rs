//! Following the chain of blocks.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::format::{BlockHeader, Defect, Identity, RecordFlags, Records, ShardManifest};
use crate::position::Lsn;
use crate::segment::{Segment, SegmentReader, continuations};

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
    /// From where to where blocks have checked, in order and not touching.
    checked: Vec<Range<Lsn>>,
    /// Ends of blocks above what is testified, each with the last of them, itself included, where no group is open.
    unattested: VecDeque<(Lsn, Lsn)>,
    /// End of the last block behind which no group is open.
    whole: Lsn,
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
            checked: Vec::new(),
            unattested: VecDeque::new(),
            whole: checkpoint,
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
            self.note_checked(header.lsn()..self.end);
            self.timestamp = header.last_time();
            if self.open_group.is_none() {
                self.whole = self.end;
            }
            self.unattested.push_back((self.end, self.whole));
            self.note_covered(Lsn(header.covered));
        }
    }

    pub(super) fn note_checked(&mut self, block: Range<Lsn>) {
        match self.checked.last_mut().filter(|last| last.end == block.start) {
            Some(last) => last.end = block.end,
            None => self.checked.push(block),
        }
    }

    /// If `lsn` lies in a block that has checked: the end of those that follow it without a gap. Every granule of
    /// them holds what was put there when they were sealed, so that none testifies of anything later.
    pub(super) fn checked_to(&self, lsn: Lsn) -> Option<Lsn> {
        let next = self.checked.partition_point(|checked| checked.end <= lsn);
        self.checked.get(next).filter(|checked| checked.start <= lsn).map(|checked| checked.end)
    }

    /// Somebody testifies that all below `covered` is durable.
    pub(crate) fn note_covered(&mut self, covered: Lsn) {
        self.testified = self.testified.max(covered);
        while let Some(&(_, whole)) = self.unattested.front().filter(|(end, _)| *end <= self.testified) {
            self.durable = self.durable.max(whole);
            self.unattested.pop_front();
        }
    }

    /// Somebody testifies that the record that ends at `end`, or above it in its block, is durable, and the group
    /// that it belongs to: then so is the block with the group's end, as a whole.
    pub(crate) fn note_durable_record(&mut self, end: Lsn) {
        let block = self.unattested.iter().find(|(_, whole)| *whole >= end);
        if let Some(&(block, _)) = block {
            self.note_covered(block);
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
                note_group(&mut self.open_group, self.end, record.lsn, record.header.flags);
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

/// Tracks where the group that is open behind a record began: where the scan began, at `end`, if that was in the middle
/// of it. So it is in a shard whose manifest is rebuilt, and whose beginning was truncated within the group.
fn note_group(open: &mut Option<Lsn>, end: Lsn, lsn: Lsn, flags: RecordFlags) {
    if !flags.leaves_group_open() {
        *open = None;
    } else if !flags.continues_group() {
        *open = Some(lsn);
    } else {
        open.get_or_insert(end);
    }
}
