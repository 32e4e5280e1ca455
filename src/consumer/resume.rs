//! Where a consumer goes on, and when it must not: what it has committed and what the shards hold can come from
//! different moments, if either was put back from a copy. A place that was
//! truncated away is reported as `Truncated` by the reader, `read/cursor.rs`.

use std::sync::Arc;

use super::progress::committed_at;
use crate::error::ConsumerError;
use crate::format::Committed;
use crate::position::{LogId, Lsn, Position, ShardId};
use crate::read::RangeBack;
use crate::segment::StoreView;
use crate::shard::Engine;

/// Where a consumer goes on that is told so, whatever it had committed. For
/// [`Log::consumer_from`](crate::Log::consumer_from).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum From {
    /// At the beginning of each shard, as a new one does.
    Start,
    /// Behind the last record of each shard that is durable now.
    End,
    /// Behind this record in its shard, as if it had been committed; in the other shards behind what was.
    Position(Position),
}

/// The last durable record of a shard; `None` if it has none.
fn last(engine: &Arc<Engine>) -> Result<Option<Committed>, ConsumerError> {
    let back = RangeBack::new(engine.clone(), &..).map_err(ConsumerError::Read)?;
    // Behind what is damaged nothing is passed over: it is told again when it is read.
    let position = back.flatten().next().map(|record| record.position());
    Ok(position.and_then(|position| committed_at(engine, position)))
}

/// What each shard's progress is to be.
pub(super) fn replaced(
    from: From,
    engines: &[Arc<Engine>],
    before: &[Option<Committed>],
) -> Result<Vec<Option<Committed>>, ConsumerError> {
    match from {
        From::Start => Ok(vec![None; engines.len()]),
        From::End => engines.iter().map(last).collect(),
        From::Position(position) => {
            let index = usize::from(position.shard().0);
            let committed = engines.get(index).and_then(|engine| {
                let view = engine.view();
                let owner = view.epochs.owner(position.lsn()).map(|(row, _)| row.epoch);
                committed_at(engine, position).filter(|_| owner == Some(position.epoch()))
            });
            let mut all = before.to_vec();
            all[index.min(engines.len() - 1)] = Some(committed.ok_or(ConsumerError::NotAPosition(position))?);
            Ok(all)
        }
    }
}

/// From where a consumer goes on in an open shard that had committed this.
///
/// # Errors
/// See [`resume_in`].
pub(crate) fn resume(
    name: &str,
    engine: &Engine,
    committed: Option<Committed>,
) -> Result<Lsn, ConsumerError> {
    resume_in(name, engine.id, &engine.view(), engine.durable(), committed)
}

/// The same, of a shard that looks so and ends there.
///
/// What its epoch does not own any more was cut off or lost: then it is set back to the cut, and passes over nothing.
///
/// # Errors
/// Where that epoch is not one of this shard, or not the one of this number: it is of another history of the shard, which
/// may have had other records where those that are here now stand.
pub(crate) fn resume_in(
    name: &str,
    shard: ShardId,
    view: &StoreView,
    end: Lsn,
    committed: Option<Committed>,
) -> Result<Lsn, ConsumerError> {
    // A new consumer begins where the log does; one that fell behind the horizon is told so.
    let Some(Committed { position, seed }) = committed else { return Ok(view.horizon) };
    let own = view.seed_of(position.epoch());
    let is_other = seed != 0 && own != 0 && seed != own;
    let lsn = place(view, end, position).filter(|_| !is_other);
    lsn.ok_or_else(|| {
        let name = name.to_owned();
        if position.lsn() < end {
            ConsumerError::OtherHistory { name, shard, position, end }
        } else {
            ConsumerError::AboveEnd { name, shard, position, end }
        }
    })
}

/// See [`resume`]; `None` if it is of an epoch that is still to come, or not written yet.
fn place(view: &StoreView, end: Lsn, position: Position) -> Option<Lsn> {
    let lsn = position.lsn();
    let is_to_come = view.epochs.last().is_none_or(|row| row.epoch < position.epoch());
    match view.epochs.owner(lsn) {
        _ if is_to_come => None,
        Some((row, _)) if row.epoch == position.epoch() => (lsn < end).then_some(Lsn(lsn.0 + 1)),
        _ => {
            let earlier = view.epochs.ranges().filter(|(row, _)| row.epoch <= position.epoch());
            Some(earlier.last().map_or(Lsn::MIN, |(_, range)| range.end.min(lsn)))
        }
    }
}

/// Whether progress that was recorded for one log is that of another.
pub(super) fn check_log(name: &str, recorded: Option<LogId>, own: LogId) -> Result<(), ConsumerError> {
    match recorded.filter(|log| *log != own) {
        Some(log) => Err(ConsumerError::OtherLog { name: name.to_owned(), log, own }),
        None => Ok(()),
    }
}
