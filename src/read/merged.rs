//! All shards' records in the order of their times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::{Range, Record, Source};
use crate::error::ReadError;

/// The records of all shards within a range of times, in the order of their times. By
/// [`Log::merged`](crate::Log::merged).
///
/// Two records of which one was acknowledged before the other was appended come in that order,
/// whatever their shards.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct Merged {
    shards: Vec<Range>,
    /// Time and shard of the next record of each shard that has one.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    next: Vec<Option<Record>>,
    /// Shards whose next record is still to be looked up.
    unknown: Vec<usize>,
    last: u64,
}

/// The first and the last time of a range.
pub(crate) fn times(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let first = match range.start_bound() {
        Bound::Included(time) => *time,
        Bound::Excluded(time) => time.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let last = match range.end_bound() {
        Bound::Included(time) => *time,
        Bound::Excluded(time) => time.saturating_sub(1),
        Bound::Unbounded => u64::MAX,
    };
    (first, last)
}

impl Merged {
    pub(crate) fn new(
        sources: impl IntoIterator<Item = Arc<dyn Source>>,
        range: &impl RangeBounds<u64>,
    ) -> Result<Merged, ReadError> {
        let (first, last) = times(range);
        // The limits of all shards are taken before anything is read.
        let sources: Vec<_> = sources.into_iter().map(|source| (source.durable(), source)).collect();
        let since = |(limit, source)| Range::since(source, first, limit);
        let shards: Vec<Range> = sources.into_iter().map(since).collect::<Result<_, _>>()?;
        let count = shards.len();
        Ok(Merged {
            shards,
            heads: BinaryHeap::new(),
            next: vec![None; count],
            unknown: (0..count).collect(),
            last,
        })
    }
}

impl Merged {
    /// Looks up the next record of each shard of which it is not known.
    fn look_up(&mut self) -> Option<ReadError> {
        while let Some(&shard) = self.unknown.last() {
            match self.shards[shard].next() {
                Some(Ok(record)) if record.timestamp() <= self.last => {
                    self.heads.push(Reverse((record.timestamp(), shard)));
                    self.next[shard] = Some(record);
                    self.unknown.pop();
                }
                Some(Ok(_)) | None => drop(self.unknown.pop()),
                Some(Err(error)) => return Some(error),
            }
        }
        None
    }
}

impl Iterator for Merged {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.look_up() {
                return Some(Err(error));
            }
            let Reverse((_, shard)) = self.heads.pop()?;
            self.unknown.push(shard);
            let record = self.next[shard].take()?;
            if !self.shards[shard].takes_back(&record) {
                return Some(Ok(record));
            }
        }
    }
}
