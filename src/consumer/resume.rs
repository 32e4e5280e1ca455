//! Where a consumer goes on, and when it must not: what it has committed and what the shards hold can come from
//! different moments, if either was put back from a copy. A place that was truncated away is reported as `Truncated` by the
//! reader, `read/cursor.rs`.

use std::sync::Arc;

use super::progress::committed_at;
use crate::error::ConsumerError;
use crate::format::{Committed, EpochTable};
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
    let lsn = place(&view.epochs, end, position).filter(|_| !is_other);
    lsn.ok_or_else(|| {
        let name = name.to_owned();
        if position.lsn() < end {
            ConsumerError::OtherHistory { name, shard, position, end }
        } else {
            ConsumerError::AboveEnd { name, shard, position, end }
        }
    })
}

/// See [`resume`]; `None` if it is of an epoch that is still to come, or of a history of the shard that
/// is not this one's.
fn place(epochs: &EpochTable, end: Lsn, position: Position) -> Option<Lsn> {
    let (lsn, epoch) = (position.lsn(), position.epoch());
    if epochs.last().is_none_or(|row| row.epoch < epoch) || epochs.held_nothing(epoch) {
        return None;
    }
    let rows = epochs.rows().partition_point(|row| row.epoch <= epoch);
    // Where there is none, what is left of the log is all of later epochs.
    let Some((row, owned)) = epochs.ranges().take(rows).last() else { return Some(Lsn::MIN) };
    if owned.end <= lsn {
        return Some(owned.end); // It was cut off.
    }
    // What an epoch gives lies behind all that was before it. If an older one owns it, whatever gave it is not here.
    let is_here = row.epoch == epoch && owned.contains(&lsn) && lsn < end;
    is_here.then_some(Lsn(lsn.0 + 1))
}

/// Whether progress that was recorded for one log is that of another.
pub(super) fn check_log(name: &str, recorded: Option<LogId>, own: LogId) -> Result<(), ConsumerError> {
    match recorded.filter(|log| *log != own) {
        Some(log) => Err(ConsumerError::OtherLog { name: name.to_owned(), log, own }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::Random;
    use crate::format::EpochRow;

    /// Whatever the rows and the position are, as files may have them: nothing comes that is not behind it.
    #[test]
    fn what_comes_next_lies_behind_what_was_committed() {
        let mut random = Random::new(1);
        let (mut places, mut refused) = (0, 0);
        for _ in 0..2_000 {
            let (mut table, mut top, mut number) = (EpochTable::default(), 0, 0);
            for _ in 0..1 + random.below(8) {
                number += 1 + random.below(3) as u32;
                top += random.below(4) * 10;
                let cut = if random.below(3) == 0 { random.below(top + 1) } else { top };
                let empty_from = random.below(u64::from(number)) as u32;
                table.push(EpochRow { epoch: number, empty_from, nonce: 1, start: top, cut });
                if random.below(8) == 0 {
                    table.prune(Lsn(random.below(top + 1)));
                }
            }
            let end = Lsn(top + random.below(20));
            for _ in 0..50 {
                let (lsn, epoch) = (Lsn(random.below(top + 25)), random.below(u64::from(number) + 2) as u32);
                let position = Position::new(ShardId(0), epoch, lsn, lsn);
                let Some(from) = place(&table, end, position) else {
                    refused += 1;
                    continue;
                };
                places += 1;
                for (row, owned) in table.ranges() {
                    let first = owned.start.max(from);
                    assert!(
                        first >= owned.end || (row.epoch, first) > (epoch, lsn),
                        "{position} is followed by {first} of epoch {} in {table:?}",
                        row.epoch
                    );
                }
            }
        }
        assert!(places > 10_000 && refused > 10_000, "{places} places, {refused} refused");
    }
}
