//! A range of a shard from its end to its start.

use std::ops::{Range, RangeBounds};
use std::sync::Arc;

use super::cursor::{Cursor, Step};
use super::range::bounds;
use super::restored::History;
use super::{Record, Source};
use crate::error::ReadError;
use crate::position::Lsn;

/// Read at once: several blocks, so that few are read twice.
const WINDOW_BYTES: u64 = 1 << 20;

/// The records of a shard within a range, the last one first. By
/// [`Shard::read_back`](crate::Shard::read_back).
///
/// It begins at what was durable when it was made, or at the range's end. Blocks are chained forwards, so
/// it reads stretches of the log forwards and gives each back in reverse.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct RangeBack {
    cursor: Cursor,
    /// What was durable when this was made.
    limit: Lsn,
    start: Lsn,
    /// Everything at or above it was given.
    end: Lsn,
    /// The last one that was given, or the end.
    given: Lsn,
    /// The stretch below `end` that was read, in order.
    ready: Vec<Result<Record, ReadError>>,
    /// Where it began, and of which history that is.
    top: Lsn,
    history: History,
}

impl RangeBack {
    pub(crate) fn new(
        source: Arc<dyn Source>,
        range: &impl RangeBounds<Lsn>,
    ) -> Result<RangeBack, ReadError> {
        source.check_process()?;
        let (start, end) = bounds(range);
        let limit = source.durable();
        let start = start.unwrap_or_else(|| source.view().horizon);
        RangeBack::below(source, start..end, limit)
    }

    /// The same, of what is whole below a limit.
    pub(super) fn below(
        source: Arc<dyn Source>,
        Range { start, end }: Range<Lsn>,
        limit: Lsn,
    ) -> Result<RangeBack, ReadError> {
        let (end, history) = (end.min(limit), History::of(source.as_ref()));
        let (cursor, ready) = (Cursor::new(source, end)?, Vec::new());
        Ok(RangeBack { cursor, limit, start, end, given: end, ready, top: end, history })
    }

    /// Reads the stretch below `end`.
    fn read_stretch(&mut self) {
        let from = Lsn(self.end.0.saturating_sub(WINDOW_BYTES)).max(self.start);
        self.cursor.seek(from);
        loop {
            match self.cursor.next(self.limit, self.end) {
                Step::Record(record) => self.ready.push(Ok(record)),
                Step::End => break,
                // A stretch that is damaged across the seam is told once, with the part above it.
                Step::Error(ReadError::Damaged { lsn, .. }) if lsn < from => {}
                Step::Error(error) => self.ready.push(Err(error)),
            }
        }
        self.end = from;
    }

    fn next_ready(&mut self) -> Option<Result<Record, ReadError>> {
        if !self.ready.is_empty() && self.cursor.is_outdated() {
            // Some of it may be cut off by now.
            self.ready.clear();
            self.end = self.given;
        }
        while self.ready.is_empty() && self.start < self.end {
            self.read_stretch();
        }
        self.ready.pop()
    }
}

impl Iterator for RangeBack {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() && self.start >= self.end {
            return None;
        }
        let item = self.next_ready();
        if let Err(error) = self.history.check(self.cursor.source().as_ref(), self.top) {
            self.ready.clear();
            self.end = self.start;
            return Some(Err(error));
        }
        if let Some(Ok(record)) = &item {
            self.given = record.lsn();
        }
        if let Some(Err(ReadError::Truncated { .. })) = &item {
            // What lies below it is gone.
            self.end = self.start;
        }
        item
    }
}
