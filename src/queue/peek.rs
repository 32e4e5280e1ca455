//! What a queue has on disk, read beside whoever owns the log.

use std::sync::Arc;

use super::files;
use super::open::from_in;
use super::{DeadLetter, Lag};
use crate::device::Directory;
use crate::error::{QueueError, ReadError};
use crate::format::QueueState;
use crate::position::{LogId, Lsn, Position, ShardId};
use crate::read::{Cursor, Source, Step, get};

/// A queue as it was written down last, up to a second ago where the log is open. By
/// [`LogReader::queue`](crate::log::LogReader::queue).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueSummary {
    /// What it had still to do, of what is known to be durable now. The age of the oldest is as of the newest record.
    pub lag: Lag,
    /// Records that were handed out and are neither done nor dead letters: in hand, or waiting to be tried again.
    pub handed_out: u64,
    /// The dead letters, the oldest first.
    pub rejected: Vec<DeadLetter>,
    /// Dead letters that are listed no more, since there were too many.
    pub forgotten: u64,
}

/// `look` gives the shards as they are then, each with the end of all that its files tell of.
pub(crate) fn peek(
    name: &str,
    log: LogId,
    directory: &dyn Directory,
    look: impl FnOnce() -> Result<Vec<(Arc<dyn Source>, Lsn)>, ReadError>,
) -> Result<QueueSummary, QueueError> {
    let mut saved = files::peek(name, log, directory)?;
    // Only then: what it had handed out was durable, so its blocks are there by now, if it is of this log as it is.
    let shards = look().map_err(QueueError::Read)?;
    let views: Vec<_> = shards.iter().map(|(source, end)| (source.view(), *end)).collect();
    let from = from_in(name, &views, &mut saved)?;
    let mut unread = Unread::default();
    for ((source, _), from) in shards.iter().zip(from) {
        unread.count(source, from)?;
    }
    let get = |position: Position| {
        let ShardId(shard) = position.shard();
        get(&shards.get(usize::from(shard))?.0, position).ok()
    };
    let QueueState { open, dead, forgotten, .. } = saved;
    let rejected = dead.into_iter().map(|letter| DeadLetter { record: get(letter.position), letter });
    let times = open.iter().map(|open| open.timestamp).chain(unread.oldest);
    let newest = open.iter().map(|open| open.timestamp).max().unwrap_or(0).max(unread.newest);
    let lag = Lag {
        records: unread.records + open.len() as u64,
        bytes: open.iter().fold(unread.bytes, |sum, open| sum.saturating_add(open.bytes)),
        oldest: times.min().map(|time| std::time::Duration::from_nanos(newest.saturating_sub(time))),
    };
    Ok(QueueSummary { lag, handed_out: open.len() as u64, rejected: rejected.collect(), forgotten })
}

/// What was never handed out.
#[derive(Default)]
struct Unread {
    records: u64,
    bytes: u64,
    oldest: Option<u64>,
    newest: u64,
}

impl Unread {
    fn count(&mut self, source: &Arc<dyn Source>, from: Lsn) -> Result<(), QueueError> {
        let mut cursor = Cursor::new(source.clone(), from).map_err(QueueError::Read)?;
        // Of this moment: its owner may append faster than this reads.
        let limit = source.durable();
        loop {
            match cursor.next(limit, Lsn::MAX) {
                Step::End => return Ok(()),
                Step::Record(record) => {
                    self.records += 1;
                    self.bytes = self.bytes.saturating_add(super::feed::facts(&record).bytes);
                    self.oldest = self.oldest.into_iter().chain([record.timestamp()]).min();
                    self.newest = self.newest.max(record.timestamp());
                }
                // What is damaged or gone is no record.
                Step::Error(ReadError::Damaged { .. } | ReadError::Truncated { .. }) => {}
                Step::Error(error) => return Err(QueueError::Read(error)),
            }
        }
    }
}
