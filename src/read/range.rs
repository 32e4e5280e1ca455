//! All records of a shard within a range of LSNs.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::cursor::{Cursor, Step};
use super::restored::History;
use super::{Record, Source, seek};
use crate::error::ReadError;
use crate::position::Lsn;

/// The records of a shard within a range, in order. By [`Shard::read`](crate::Shard::read).
///
/// It ends at the range's end or at what was durable when it was made, whichever comes first. A
/// damaged stretch does not end it: it yields the error and goes on after it.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct Range {
    cursor: Cursor,
    limit: Lsn,
    end: Lsn,
    /// Records before it are passed over.
    first_time: u64,
    history: History,
}

/// The first LSN of a range, and the first behind it.
pub(crate) fn bounds(range: &impl RangeBounds<Lsn>) -> (Option<Lsn>, Lsn) {
    let start = match range.start_bound() {
        Bound::Included(lsn) => Some(*lsn),
        Bound::Excluded(lsn) => Some(Lsn(lsn.0.saturating_add(1))),
        Bound::Unbounded => None,
    };
    let end = match range.end_bound() {
        Bound::Included(lsn) => Lsn(lsn.0.saturating_add(1)),
        Bound::Excluded(lsn) => *lsn,
        Bound::Unbounded => Lsn::MAX,
    };
    (start, end)
}

impl Range {
    pub(crate) fn new(source: Arc<dyn Source>, range: &impl RangeBounds<Lsn>) -> Result<Range, ReadError> {
        source.check_process()?;
        let (start, end) = bounds(range);
        let history = History::of(source.as_ref());
        let limit = source.durable();
        // Without a start it begins where the log does, which is no error.
        let start = start.unwrap_or_else(|| source.view().horizon);
        Ok(Range { cursor: Cursor::new(source, start)?, limit, end, first_time: 0, history })
    }

    /// The records below `limit`, the durable LSN when it was looked up, that are not before a time.
    pub(crate) fn since(source: Arc<dyn Source>, time: u64, limit: Lsn) -> Result<Range, ReadError> {
        source.check_process()?;
        let history = History::of(source.as_ref());
        // What is before it only lies behind the place where it begins if that place is damage.
        let start = if time == 0 { source.view().horizon } else { seek(&source, time, limit)? };
        Ok(Range { cursor: Cursor::new(source, start)?, limit, end: Lsn::MAX, first_time: time, history })
    }

    /// Whether the log was truncated since this record was given, which is given again then, if it is still there.
    pub(super) fn takes_back(&mut self, record: &Record) -> bool {
        let outdated = self.cursor.is_outdated();
        if outdated {
            self.cursor.seek(record.lsn());
        }
        outdated
    }

    /// For good, whatever comes after.
    fn end(&mut self) {
        self.limit = Lsn::MIN;
        self.end = Lsn::MIN;
    }
}

impl Iterator for Range {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let step = self.cursor.next(self.limit, self.end);
            // It is of one moment: what was not given yet was seen then as well.
            let reach = self.limit.min(self.end);
            if let Err(error) = self.history.check(self.cursor.source().as_ref(), reach) {
                self.end();
                return Some(Err(error));
            }
            return match step {
                Step::Record(record) if record.timestamp() < self.first_time => continue,
                Step::Record(record) => Some(Ok(record)),
                Step::End => {
                    self.end();
                    None
                }
                Step::Error(error) => Some(Err(error)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Simulated;
    use crate::{Options, Position, ShardId};

    /// Wherever the limit stands, in a block as well: what lies above it is not given, and comes later.
    #[test]
    fn a_limit_is_never_passed_and_gone_on_from() {
        let options = Options::new().shards(1).block_bytes(4096).segment_bytes(256 << 10);
        let log = options.device(&Simulated::seed(1)).open("/log").unwrap();
        let mut positions = log.append_batch(b"", &[[1; 100]; 3]).wait().unwrap();
        positions.push(log.append([2; 10_000]).wait().unwrap());
        let mut range = log.shard(ShardId(0)).read(..).unwrap();
        let last_fragment = Lsn(3 * 4096 + 88);
        let whole_at = |place: usize| if place < 3 { positions[place].lsn() } else { last_fragment };
        let mut given: Vec<Position> = Vec::new();
        for limit in (0..=range.limit.0).step_by(8).map(Lsn) {
            loop {
                match range.cursor.next(limit, Lsn::MAX) {
                    Step::Record(record) => given.push(record.position()),
                    Step::End => break,
                    Step::Error(error) => panic!("{error}"),
                }
            }
            let whole = (0..positions.len()).take_while(|&place| whole_at(place) < limit).count();
            assert_eq!(given, positions[..whole], "below {limit}");
        }
        assert_eq!(given, positions);
    }
}
