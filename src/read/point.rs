//! Point reads: a record from its own granules and its block's header, many at once.
//!
//! A record tells by its own checksum, which is seeded with log, shard, epoch and place, that it stands there; its
//! block's header adds the time, and that the block reaches so far. Where all of that agrees nothing else needs to be
//! read. Where anything does not, the record is left to a lookup that reads the block as a whole and tells why.

use std::ops::Range;
use std::sync::Arc;

use super::Record;
use crate::format::{BlockHeader, Defect, GRANULE, Identity, RawRecord, record_time, told_bytes};
use crate::position::{Lsn, Position};
use crate::segment::{KnownBlock, KnownBlocks, RandomReader, Segment, Stretch};

/// Read behind the start of a record before its length is known: most records are shorter.
const AHEAD_BYTES: u64 = 1024;

/// A header so near in front of its record is read along with it: one read of so much is quicker than two.
const NEAR_BYTES: u64 = 16 << 10;

/// Read at once, if it is not one record alone that is longer: what is looked up in one call takes no more beside its
/// records.
const BYTES_AT_ONCE: usize = 4 << 20;

/// A record to find.
#[derive(Debug)]
pub(super) struct Point<'a> {
    pub position: Position,
    pub segment: Arc<Segment>,
    pub identity: Identity,
    /// Where its block begins, as the position has it.
    pub block: Lsn,
    pub known_blocks: &'a KnownBlocks,
    found: Option<Record>,
    header: Option<KnownBlock>,
    /// How much is wanted from the record's place on, once that is known to be more than was read.
    bytes: Option<u64>,
}

/// Which of the stretches that were read belong to a point.
struct Parts {
    point: usize,
    header: Option<usize>,
    record: usize,
}

impl<'a> Point<'a> {
    pub(super) fn new(
        position: Position,
        segment: Arc<Segment>,
        identity: Identity,
        block: Lsn,
        known_blocks: &'a KnownBlocks,
    ) -> Point<'a> {
        Point { position, segment, identity, block, known_blocks, found: None, header: None, bytes: None }
    }

    /// The record, if everything about it agreed.
    pub(super) fn found(&mut self) -> Option<Record> {
        self.found.take()
    }

    /// Asks for what it needs. `None` if that cannot be there.
    fn ask(&mut self, stretches: &mut Vec<Stretch>) -> Option<(Option<usize>, usize)> {
        self.header = self.header.or_else(|| self.known_blocks.get(&self.identity, self.block));
        let lsn = self.position.lsn();
        let granule = lsn.0 - lsn.0 % GRANULE;
        let is_near = self.header.is_none() && granule - self.block.0 <= NEAR_BYTES;
        let from = if is_near { self.block.0 } else { granule };
        let block_end = self.header.map_or(u64::MAX, |header| self.block.0 + u64::from(header.length));
        // What a damaged header tells may be too much.
        let wanted = lsn.0.checked_add(self.bytes.unwrap_or(AHEAD_BYTES))?;
        let end = wanted.min(block_end).checked_next_multiple_of(GRANULE)?.min(self.segment.end().0);
        let mut ask = |from: u64, end: u64| {
            let bytes = usize::try_from(end.checked_sub(from)?).ok().filter(|&bytes| bytes > 0)?;
            stretches.push(Stretch {
                segment: self.segment.clone(),
                offset: from - self.segment.row.base,
                bytes,
            });
            Some(stretches.len() - 1)
        };
        let record = ask(from, end)?;
        let header = match self.header {
            Some(_) => None,
            None if is_near => Some(record),
            None => Some(ask(self.block.0, self.block.0 + GRANULE)?),
        };
        Some((header, record))
    }

    /// Looks at what was read; true if more of it must be.
    fn take(&mut self, header: Option<&[u8]>, record: &[u8], record_at: Lsn) -> Result<bool, Defect> {
        if let Some(bytes) = header {
            let header = BlockHeader::decode(bytes)?;
            header.check(&self.identity, self.block)?;
            let known = KnownBlock::new(&header);
            self.known_blocks.add(known);
            self.header = Some(known);
        }
        let header = self.header.ok_or(Defect::NoHeader)?;
        let lsn = self.position.lsn();
        let offset = lsn.0 - self.block.0;
        let left = u64::from(header.length).checked_sub(offset).ok_or(Defect::Length)?;
        let bytes = record.get((lsn.0 - record_at.0) as usize..).ok_or(Defect::Length)?;
        let told = told_bytes(bytes).filter(|&told| told <= left).ok_or(Defect::Length)?;
        if told > bytes.len() as u64 {
            return match self.bytes.replace(told) {
                None => Ok(true),
                Some(_) => Err(Defect::Length),
            };
        }
        let raw = RawRecord::checked(&bytes[..told as usize], lsn, self.identity.seed())?;
        if !raw.header.flags.is_fragment() {
            let (key, behind_id) = raw.header.edges();
            let timestamp = record_time(header.timestamp, offset);
            let (key, payload) = (0..key, behind_id..raw.body.len());
            self.found =
                Some(Record { position: self.position, timestamp, bytes: raw.body.into(), key, payload });
        }
        Ok(false)
    }
}

/// Finds the records of these points, as far as everything about them agrees.
///
/// # Errors
/// Where there is no memory to read into.
pub(super) fn find(points: &mut [Point<'_>], reader: &mut RandomReader) -> std::io::Result<()> {
    let mut open: Vec<usize> = (0..points.len()).collect();
    // Each once, and those once more that were longer than expected.
    while !open.is_empty() {
        let mut stretches = Vec::with_capacity(open.len() * 2);
        let (mut asked, mut bytes) = (Vec::with_capacity(open.len()), 0);
        let mut later = open.iter().copied();
        for point in later.by_ref() {
            let before = stretches.len();
            if let Some((header, record)) = points[point].ask(&mut stretches) {
                asked.push(Parts { point, header, record });
            }
            bytes += stretches[before..].iter().map(|stretch| stretch.bytes).sum::<usize>();
            if bytes >= BYTES_AT_ONCE {
                break;
            }
        }
        let mut again: Vec<usize> = later.collect();
        let read = reader.read(&stretches)?;
        let bytes = |part: &Result<Range<usize>, Defect>| part.clone().map(|range| &reader.bytes()[range]);
        for Parts { point, header, record } in asked {
            let record_at = Lsn(stretches[record].segment.row.base + stretches[record].offset);
            let taken = header
                .map(|header| bytes(&read[header]))
                .transpose()
                .and_then(|header| points[point].take(header, bytes(&read[record])?, record_at));
            if taken == Ok(true) {
                again.push(point);
            }
        }
        open = again;
    }
    Ok(())
}
