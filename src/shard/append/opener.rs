//! Opening blocks: the only step of an append that takes a lock, once per block.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::format::{
    BLOCK_HEADER_BYTES, EpochSeed, Identity, RECORD_HEADER_BYTES, RecordFlags, encoded_bytes,
};
use crate::pool::{BlockPlace, Group, Pool, Reserved, Sequence};
use crate::position::Lsn;
use crate::segment::Segment;
use crate::time::Nanos;

/// Why no block could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Every block that this priority may use is in use.
    Memory,
    /// The next segment is not ready; it must have this many bytes.
    Segment { bytes: u64 },
    /// Nothing is accepted any more.
    Shut,
}

/// A part of a record in a group's block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Index of the record in its batch.
    pub record: usize,
    /// Range of its body.
    pub from: u32,
    pub to: u32,
    pub flags: RecordFlags,
}

/// The flags of a part of a record, the one with this index of `count` that are accepted together: `part` of its body.
#[inline]
pub(in crate::shard) fn part_flags(index: usize, count: usize, part: Range<u32>, body: u32) -> RecordFlags {
    let mut flags = RecordFlags::WHOLE;
    let marks = [
        (part.end < body, RecordFlags::SPLIT),
        (part.start > 0, RecordFlags::REST),
        (index + 1 < count, RecordFlags::MORE),
        (index > 0, RecordFlags::JOINED),
    ];
    for (set, flag) in marks {
        flags = if set { flags.with(flag) } else { flags };
    }
    flags
}

/// A block of a group, before it is opened.
#[derive(Debug)]
pub(crate) struct Planned {
    pub place: BlockPlace,
    pub length: u32,
    pub pieces: Vec<Piece>,
    /// The group, if it is not complete at the end of this block.
    pub group: Option<Group>,
}

/// Where the next block goes. Behind a lock, with everything that changes it.
#[derive(Debug)]
pub(crate) struct Opener {
    epoch: u32,
    seed: EpochSeed,
    /// Where the epoch starts.
    start: Lsn,
    /// The last block of earlier epochs.
    before: Sequence,
    /// The segment in use, then those that are ready, in order.
    segments: VecDeque<Arc<Segment>>,
    /// The end of the log is being cut: nothing is opened meanwhile.
    pub held: bool,
    /// The segments have the space that they should have: else nothing is placed in them.
    pub secured: bool,
}

impl Opener {
    /// Of an epoch that starts at `start`, with the block behind number `before`.
    pub(crate) fn new(
        identity: &Identity,
        start: Lsn,
        before: Sequence,
        segments: &[Arc<Segment>],
    ) -> Opener {
        let segments = segments.iter().filter(|segment| segment.end() > start).cloned().collect();
        let (epoch, seed) = (identity.epoch, identity.seed());
        Opener { epoch, seed, start, before, segments, held: false, secured: true }
    }

    /// Goes on in a new epoch, behind the last block of the old one, which is closed.
    pub(crate) fn begin_epoch(&mut self, pool: &Pool, identity: &Identity, start: Lsn) {
        self.epoch = identity.epoch;
        self.seed = identity.seed();
        self.start = start;
        self.before = pool.last().sequence;
    }

    /// The last block of earlier epochs.
    pub(crate) fn sequence(&self) -> Sequence {
        self.before
    }

    /// The epoch of the blocks that are opened.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// A segment is ready.
    pub(crate) fn add_segment(&mut self, segment: Arc<Segment>) {
        if let Some(last) = self.segments.back() {
            assert!(segment.base() >= last.end());
        }
        self.segments.push_back(segment);
    }

    /// End of the last block opened, or the epoch's start.
    pub(crate) fn end(&self, pool: &Pool) -> Lsn {
        let last = pool.last();
        if last.sequence > self.before { last.end() } else { self.start }
    }

    /// Bytes that are ready behind the last block, and of which segments.
    pub(crate) fn bytes_ready(&self, pool: &Pool) -> (u64, u64) {
        let end = self.end(pool);
        let ready =
            self.segments.iter().map(|segment| segment.end().0.saturating_sub(end.0.max(segment.base().0)));
        let last = self.segments.back().map_or(0, |segment| segment.row.bytes);
        (ready.sum(), last)
    }

    /// Base of the segment in use; nothing below it is written any more.
    pub(crate) fn active(&self) -> Lsn {
        self.segments.front().map_or(self.start, |segment| segment.base())
    }

    /// The first place at or behind `end` for a block of at least `least` bytes.
    ///
    /// What is passed over are the rest of the segment in use and segments that are smaller than a block, as whoever
    /// reads the chain expects.
    fn place(&self, pool: &Pool, end: Lsn, least: u32, now: Nanos) -> Option<BlockPlace> {
        if !self.secured {
            return None;
        }
        for segment in self.segments.iter().filter(|segment| segment.end() > end) {
            let lsn = end.max(segment.base());
            let rest = segment.end().0 - lsn.0;
            let capacity = u64::from(pool.block_bytes()).min(rest) as u32;
            if capacity >= least {
                return Some(BlockPlace {
                    lsn,
                    previous_end: end,
                    capacity,
                    epoch: self.epoch,
                    seed: self.seed,
                    opened_at: now,
                });
            }
        }
        None
    }

    /// Opens a block with room for `need` bytes of records. No block is open, and the shard is not shut.
    pub(crate) fn open(&mut self, pool: &Pool, need: u32, blocks_max: u32, now: Nanos) -> Result<(), NoRoom> {
        let place = self.next_place(pool, need, blocks_max, now)?;
        if !pool.open(&place) {
            return Err(NoRoom::Memory);
        }
        self.leave_behind(place.lsn);
        Ok(())
    }

    /// Where the next block goes, if one may be opened.
    fn next_place(&self, pool: &Pool, need: u32, blocks_max: u32, now: Nanos) -> Result<BlockPlace, NoRoom> {
        if self.held || pool.in_use() >= blocks_max {
            return Err(NoRoom::Memory);
        }
        let bytes = BLOCK_HEADER_BYTES + need;
        self.place(pool, self.end(pool), bytes, now).ok_or(NoRoom::Segment { bytes: u64::from(bytes) })
    }

    /// As [`open`](Opener::open), with the first `need` bytes reserved in the same step.
    pub(crate) fn open_reserved<'p>(
        &mut self,
        pool: &'p Pool,
        need: u32,
        blocks_max: u32,
        now: Nanos,
    ) -> Result<Reserved<'p>, NoRoom> {
        let place = self.next_place(pool, need, blocks_max, now)?;
        let reserved = pool.open_reserved(&place, need).ok_or(NoRoom::Memory)?;
        self.leave_behind(place.lsn);
        Ok(reserved)
    }

    /// Opens a marker, a block without records; false if there is no room for one now. The shard is not shut.
    pub(crate) fn open_marker(&mut self, pool: &Pool, now: Nanos) -> bool {
        let place = if self.held { None } else { self.place(pool, self.end(pool), BLOCK_HEADER_BYTES, now) };
        let Some(place) = place.filter(|place| pool.open_marker(place)) else { return false };
        self.leave_behind(place.lsn);
        true
    }

    /// Forgets the segments below the block that was just opened.
    pub(crate) fn leave_behind(&mut self, lsn: Lsn) {
        while self.segments.front().is_some_and(|segment| segment.end() <= lsn) {
            self.segments.pop_front();
        }
    }

    /// Lays a group out over blocks of its own: `bodies` are the records' sizes, key included.
    ///
    /// The pool's last block is closed. Nothing is opened yet.
    pub(crate) fn plan(
        &self,
        pool: &Pool,
        bodies: &[u32],
        blocks_max: u32,
        now: Nanos,
    ) -> Result<Vec<Planned>, NoRoom> {
        if self.held {
            return Err(NoRoom::Memory);
        }
        let mut planned = self.lay_out(pool, bodies, BLOCK_HEADER_BYTES, now)?;
        if planned.len() as u32 >= blocks_max {
            // The ends of segments, and segments smaller than a block, cost a block each: here so many that there may
            // never be enough. What a record may have at the most fits into whole ones (`Options::config`).
            planned = self.lay_out(pool, bodies, pool.block_bytes(), now)?;
        }
        if pool.in_use() + planned.len() as u32 > blocks_max {
            return Err(NoRoom::Memory);
        }
        Ok(planned)
    }

    /// The blocks of a group, each in a place of at least `block_least` bytes.
    fn lay_out(
        &self,
        pool: &Pool,
        bodies: &[u32],
        block_least: u32,
        now: Nanos,
    ) -> Result<Vec<Planned>, NoRoom> {
        let mut planned: Vec<Planned> = Vec::new();
        let mut end = self.end(pool);
        let before = end;
        let missing = || {
            let all: u64 = bodies.iter().map(|&body| u64::from(encoded_bytes(body))).sum();
            // Headers, splits and padding take less than this beside the records.
            NoRoom::Segment { bytes: all + all / 8 + 4 * u64::from(pool.block_bytes()) }
        };
        for (record, &body) in bodies.iter().enumerate() {
            let mut from = 0;
            loop {
                let room = planned.last().map_or(0, |block| block.place.capacity - block.length);
                // At least a header and eight bytes, so that every fragment carries something.
                let least = encoded_bytes((body - from).min(8));
                if room < least {
                    if let Some(last) = planned.last() {
                        end = Lsn(last.place.lsn.0 + crate::format::round_to_granule(u64::from(last.length)));
                    }
                    let bytes = block_least.max(BLOCK_HEADER_BYTES + least);
                    let place = self.place(pool, end, bytes, now).ok_or_else(missing)?;
                    planned.push(Planned {
                        place,
                        length: BLOCK_HEADER_BYTES,
                        pieces: Vec::new(),
                        group: None,
                    });
                }
                let block = planned.last_mut().expect("one was pushed");
                let room = block.place.capacity - block.length;
                let taken = (body - from).min(room - RECORD_HEADER_BYTES);
                let to = from + taken;
                let flags = part_flags(record, bodies.len(), from..to, body);
                block.pieces.push(Piece { record, from, to, flags });
                block.length += encoded_bytes(taken);
                from = to;
                if from == body {
                    break;
                }
            }
        }
        let last = planned.len() - 1;
        for block in &mut planned[..last] {
            block.group = Some(Group { before });
        }
        Ok(planned)
    }
}
