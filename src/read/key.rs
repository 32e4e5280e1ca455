//! The records of one key, in their order.
//!
//! A key's records lie in the shard that it routes to. Where they lie there the key index may know
//! ([`Source::key_places`]); of what it does not know all records are looked at ([`Filtered`]).

use std::ops::Range;
use std::sync::Arc;

use super::cursor::{Cursor, Step};
use super::key_range::StretchRangeBack;
use super::{Record, Source};
use crate::error::ReadError;
use crate::format::{Defect, WholeKeyHash};
use crate::pool::Sequence;
use crate::position::{Lsn, Position};
use crate::shard::{IdPlace, KeyedId, RecentLast};

/// The records of a key in order, out of all those of its shard.
#[derive(Debug)]
pub(super) struct Filtered {
    cursor: Cursor,
    wanted: Wanted,
}

impl Filtered {
    pub(super) fn new(cursor: Cursor, key: &[u8]) -> Filtered {
        Filtered { cursor, wanted: Wanted::key(key) }
    }

    /// As [`Cursor::next`].
    pub(super) fn next(&mut self, limit: Lsn, end: Lsn) -> Step {
        loop {
            match self.cursor.next(limit, end) {
                Step::Record(record) if !self.wanted.has(&record) => {}
                step => return step,
            }
        }
    }

    /// Goes on from there.
    pub(super) fn seek(&mut self, from: Lsn) {
        self.cursor.seek(from);
    }

    /// As [`Cursor::begin_anew`].
    pub(super) fn begin_anew(&mut self, from: Lsn) {
        self.cursor.begin_anew(from);
    }

    /// As [`Cursor::rest`].
    pub(super) fn rest(&mut self) {
        self.cursor.rest();
    }

    #[cfg(test)]
    pub(super) fn is_resting(&self) -> bool {
        self.cursor.is_resting()
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        self.cursor.source()
    }
}

/// Which records are looked up.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    OfKey(Box<[u8]>),
    /// Those with an id.
    WithId,
}

impl Wanted {
    pub(super) fn key(key: &[u8]) -> Wanted {
        Wanted::OfKey(key.into())
    }

    /// What the index has them under.
    pub(super) fn name(&self) -> &[u8] {
        match self {
            Wanted::OfKey(key) => key,
            // No record is of the empty key.
            Wanted::WithId => b"",
        }
    }

    pub(super) fn has(&self, record: &Record) -> bool {
        match self {
            // Without a key there is no stream: no record is of the empty one.
            Wanted::OfKey(key) => !key.is_empty() && record.key() == &**key,
            Wanted::WithId => record.id().is_some(),
        }
    }
}

/// Where a position lies in its key's shard: where the log begins, if it is truncated.
pub(crate) fn place_of(source: &dyn Source, position: Position) -> Result<Lsn, ReadError> {
    let view = source.view();
    if position.shard() != source.id() {
        return Err(ReadError::NotAPosition(position));
    }
    if position.lsn() < view.horizon {
        return Ok(view.horizon);
    }
    match view.epochs.owner(position.lsn()) {
        Some((row, _)) if row.epoch == position.epoch() => Ok(position.lsn()),
        _ => Err(ReadError::NotAPosition(position)),
    }
}

/// The first place behind the record at this position, if there is one, and behind nothing else of its key.
pub(crate) fn place_behind(source: &dyn Source, position: Position) -> Result<Lsn, ReadError> {
    let place = place_of(source, position)?;
    Ok(if place > position.lsn() { place } else { Lsn(place.0.saturating_add(1)) })
}

/// The last record of a key in a stretch that was accepted, durable or not.
pub(super) fn last_accepted(
    source: &Arc<dyn Source>,
    key: &[u8],
    stretch: Range<Lsn>,
) -> Result<Option<Position>, ReadError> {
    let below = match source.recent_last(key) {
        Some(RecentLast::Here(position)) if position.lsn() < stretch.start => return Ok(None),
        Some(RecentLast::Here(position)) if position.lsn() < stretch.end => return Ok(Some(position)),
        // One that lies behind the stretch was put there by hand, and says nothing of those before it.
        Some(RecentLast::Here(_)) | None => source.accepted_end(),
        Some(RecentLast::Below(lsn)) => lsn,
    };
    last_within(source, key, stretch.start..below.min(stretch.end))
}

/// The last record of a key in a stretch.
pub(crate) fn last_within(
    source: &Arc<dyn Source>,
    key: &[u8],
    stretch: Range<Lsn>,
) -> Result<Option<Position>, ReadError> {
    match back_within(source, Wanted::key(key), stretch)?.and_then(|mut back| back.next()) {
        Some(Ok(record)) => Ok(Some(record.position())),
        None | Some(Err(ReadError::Truncated { .. })) => Ok(None),
        Some(Err(error)) => Err(error),
    }
}

/// The last records with an id in a stretch, the newest one first, and no more than `most`. What is damaged is not there
/// any more, and neither is its id.
///
/// # Errors
/// Where something cannot be read, now or for good: it may have the id that is asked for, and may be read again later.
pub(crate) fn ids_within(
    source: &Arc<dyn Source>,
    stretch: Range<Lsn>,
    most: usize,
) -> Result<Vec<IdPlace>, ReadError> {
    let log_id = source.view().log_id;
    let mut ids = Vec::new();
    for record in back_within(source, Wanted::WithId, stretch)?.into_iter().flatten() {
        if ids.len() == most {
            break;
        }
        match record {
            Ok(record) => ids.extend(record.id().map(|id| IdPlace {
                id: KeyedId::new(WholeKeyHash::of(&log_id, record.key()), id),
                position: record.position(),
                sequence: Sequence::default(),
            })),
            Err(ReadError::Truncated { .. }) => break,
            Err(ReadError::Damaged { cause, .. }) if cause != Defect::Unreadable => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ids)
}

/// Records of a stretch, the last one first.
fn back_within(
    source: &Arc<dyn Source>,
    wanted: Wanted,
    stretch: Range<Lsn>,
) -> Result<Option<StretchRangeBack>, ReadError> {
    let (start, end) = (source.view().horizon.max(stretch.start), stretch.end);
    if end <= start {
        return Ok(None);
    }
    // Read from its block, which is written for that. Of what was accepted nothing is left out: none of it is half
    // there. What begins below the end may go on behind it, also where all below is written: what is durable is whole.
    if source.durable() < end {
        source.flush(Lsn(end.min(source.accepted_end()).0.saturating_sub(1)), true)?;
    }
    let limit = source.written().max(source.durable());
    Ok(Some(StretchRangeBack::below(source.clone(), wanted, start..end, limit, None)))
}

#[cfg(test)]
mod tests {
    use std::ops::Bound::{Excluded, Unbounded};
    use std::time::Duration;

    use super::RecentLast;
    use crate::device::sim::{Faults, SimMachine};
    use crate::options::Tuning;
    use crate::simulation::Simulated;
    use crate::{AppendError, Durability, Log, Lsn, Options, Position, ReadError, Record, ShardId, Write};

    fn open(machine: &SimMachine, shards: u16) -> Log {
        let options = Options::new().shards(shards).block_bytes(4096).segment_bytes(64 << 10);
        options.device(&Simulated::of(machine)).open("/log").unwrap()
    }

    fn append(log: &Log, key: &[u8]) -> Position {
        log.append(Write::new([1; 500]).key(key)).wait().unwrap()
    }

    fn buffered(log: &Log, key: &[u8]) -> Position {
        log.append(Write::new([1; 500]).key(key).durability(Durability::Buffered)).wait().unwrap()
    }

    fn positions(items: impl IntoIterator<Item = Result<Record, ReadError>>) -> Vec<Position> {
        items.into_iter().map(|item| item.unwrap().position()).collect()
    }

    #[test]
    fn a_range_is_of_places_in_the_key_s_shard() {
        let log = open(&SimMachine::new(1), 1);
        let all: Vec<Position> = (0..20).map(|index| append(&log, [&b"a"[..], b"b"][index % 2])).collect();
        let own: Vec<Position> = all.iter().copied().step_by(2).collect();
        let read = |range| positions(log.read_key(b"a", range).unwrap());
        assert_eq!(read((Unbounded, Unbounded)), own);
        assert_eq!(positions(log.read_key(b"a", own[2]..own[5]).unwrap()), own[2..5]);
        assert_eq!(positions(log.read_key(b"a", own[2]..=own[5]).unwrap()), own[2..=5]);
        assert_eq!(read((Excluded(own[2]), Excluded(own[5]))), own[3..5]);
        // Those of the other key lie between.
        assert_eq!(positions(log.read_key(b"a", all[5]..all[9]).unwrap()), own[3..5]);
        assert_eq!(read((Excluded(all[5]), Unbounded)), own[3..]);
        assert_eq!(positions(log.read_key(b"a", own[5]..own[2]).unwrap()), []);
        let mut back = positions(log.read_key_back(b"a", own[2]..own[5]).unwrap());
        back.reverse();
        assert_eq!(back, own[2..5]);
    }

    #[test]
    fn a_bound_that_is_truncated_is_the_beginning_and_one_that_was_cut_is_none() {
        let log = open(&SimMachine::new(1), 1);
        let shard = log.shard(ShardId(0));
        let own: Vec<Position> = (0..8).map(|_| append(&log, b"a")).collect();
        shard.truncate_before(own[3].lsn()).unwrap();
        assert_eq!(positions(log.read_key(b"a", own[1]..).unwrap()), own[3..]);
        assert_eq!(positions(log.read_key(b"a", (Excluded(own[1]), Unbounded)).unwrap()), own[3..]);
        assert_eq!(positions(log.read_key(b"a", ..=own[1]).unwrap()), []);
        let mut tail = log.follow_key(b"a", Some(own[1])).unwrap();
        assert_eq!(tail.next().unwrap().unwrap().position(), own[3]);
        shard.truncate_after(own[5].lsn()).unwrap();
        let is_refused = |error| matches!(error, ReadError::NotAPosition(position) if position == own[6]);
        assert!(is_refused(log.read_key(b"a", own[6]..).unwrap_err()));
        assert!(is_refused(log.read_key_back(b"a", ..own[6]).unwrap_err()));
        assert!(is_refused(log.follow_key(b"a", Some(own[6])).unwrap_err()));
        assert_eq!(log.last(b"a").unwrap(), Some(own[5]));
        assert_eq!(positions(log.read_key(b"a", own[4]..).unwrap()), own[4..=5]);
        // A key whose records are gone is one that never was.
        let other = append(&log, b"b");
        shard.truncate_before(other.lsn()).unwrap();
        assert_eq!(log.last(b"a").unwrap(), None);
        assert_eq!(log.read_key(b"a", ..).unwrap().count(), 0);
        assert_eq!(log.last(b"b").unwrap(), Some(other));
    }

    #[test]
    fn what_has_no_key_or_lies_elsewhere_is_of_no_stream() {
        let log = open(&SimMachine::new(1), 2);
        let keyless = log.append(b"keyless").wait().unwrap();
        let own = append(&log, b"a");
        let elsewhere = ShardId(1 - own.shard().0);
        let by_hand = log.shard(elsewhere).append(Write::new(b"by hand").key(b"a")).wait().unwrap();
        assert_eq!(log.merged(..).unwrap().count(), 3);
        assert_eq!(positions(log.read_key(b"a", ..).unwrap()), [own]);
        assert_eq!(positions(log.read_key_back(b"a", ..).unwrap()), [own]);
        assert_eq!(log.last(b"a").unwrap(), Some(own));
        assert_eq!(log.read_key(b"", ..).unwrap().count(), 0);
        assert_eq!(log.read_key_back(b"", ..).unwrap().count(), 0);
        assert_eq!(log.last(b"").unwrap(), None);
        assert!(log.shard(keyless.shard()).read(..).unwrap().count() > 0);
        assert!(matches!(log.read_key(b"a", by_hand..), Err(ReadError::NotAPosition(_))));
    }

    /// It is accepted, and nobody but the reader asks that it be written.
    #[test]
    fn what_was_accepted_is_waited_for_and_what_comes_later_is_not_given() {
        let log = open(&SimMachine::new(1), 1);
        let durable = append(&log, b"a");
        let accepted = buffered(&log, b"a");
        assert!(log.shard(ShardId(0)).durable_lsn() <= accepted.lsn());
        let read = log.read_key(b"a", ..).unwrap();
        let later = buffered(&log, b"a");
        assert_eq!(positions(read), [durable, accepted]);
        assert_eq!(log.last(b"a").unwrap(), Some(later));
        let accepted = buffered(&log, b"a");
        assert!(log.shard(ShardId(0)).durable_lsn() <= accepted.lsn());
        let newest = log.read_key_back(b"a", ..).unwrap().next().unwrap().unwrap();
        assert_eq!(newest.position(), accepted);
    }

    /// What is durable is still read, and that the rest may be lost is told.
    #[test]
    fn a_shard_that_has_failed_is_read_as_far_as_it_is_durable() {
        let machine = SimMachine::new(1);
        let log = open(&machine, 1);
        let durable = append(&log, b"a");
        let unknown = buffered(&log, b"a");
        machine.set_faults(Faults { write_error: 1_000, ..Faults::default() });
        let told =
            |item: Option<Result<Record, ReadError>>| matches!(item, Some(Err(ReadError::ShardFailed(_))));
        let mut read = log.read_key(b"a", ..).unwrap();
        assert_eq!(read.next().unwrap().unwrap().position(), durable);
        assert!(told(read.next()) && read.next().is_none());
        let mut back = log.read_key_back(b"a", ..).unwrap();
        assert!(told(back.next()));
        assert_eq!(back.next().unwrap().unwrap().position(), durable);
        assert!(back.next().is_none());
        assert!(matches!(log.last(b"a"), Err(ReadError::ShardFailed(_))));
        assert!(unknown > durable);
    }

    /// What cannot be read just now may have the id: to go on without it would be to forget it.
    #[test]
    fn an_id_that_cannot_be_read_now_is_not_forgotten() {
        let machine = SimMachine::new(1);
        let write = |id| Write::new([1; 500]).key(b"a").id(id);
        let log = open(&machine, 1);
        let all: Vec<Position> = (0..20).map(|id| log.append(write(id)).wait().unwrap()).collect();
        log.close().unwrap();
        let log = open(&machine, 1);
        machine.set_faults(Faults { read_error: 1_000, ..Faults::default() });
        for id in [7, 99] {
            let refused = log.append(write(id)).wait();
            assert!(matches!(refused, Err(AppendError::Unreadable { .. })), "{refused:?}");
        }
        machine.set_faults(Faults::default());
        let again = log.try_append(write(7)).unwrap();
        assert!(again.is_duplicate() && again.position() == all[7]);
        assert!(!log.try_append(write(99)).unwrap().is_duplicate());
    }

    #[test]
    fn a_key_is_followed_from_behind_a_position_on() {
        let log = open(&SimMachine::new(1), 1);
        let mut tail = log.follow_key(b"a", None).unwrap();
        let first = append(&log, b"a");
        append(&log, b"b");
        let second = append(&log, b"a");
        let mut later = log.follow_key(b"a", Some(first)).unwrap();
        let next = |tail: &mut crate::read::FollowKey| {
            tail.next_timeout(Duration::ZERO).map(|item| item.unwrap().position())
        };
        assert_eq!([next(&mut tail), next(&mut tail), next(&mut tail)], [Some(first), Some(second), None]);
        assert_eq!([next(&mut later), next(&mut later)], [Some(second), None]);
        let third = append(&log, b"a");
        assert_eq!([next(&mut tail), next(&mut later)], [Some(third); 2]);
        tail.stop().stop();
        assert!(tail.next().is_none());
        let high = Position::new(ShardId(0), third.epoch(), crate::Lsn(1 << 30), crate::Lsn(1 << 30));
        assert!(matches!(log.follow_key(b"a", Some(high)), Err(ReadError::AboveEnd { .. })));
    }

    /// What is known in memory begins in the middle of a record, which is written up to there and no further.
    #[test]
    fn a_record_of_which_the_rest_is_not_written_is_found_before_an_append_is_decided() {
        let tuning = Tuning { device_depth: 1, shard_depth_min: 1, ..Tuning::default() };
        let options =
            Options::new().shards(1).block_bytes(4096).segment_bytes(64 << 10).memory_bytes(16 * 4096);
        let log = options.tuned(tuning).device(&Simulated::seed(1)).open("/log").unwrap();
        let append = |key: &[u8], bytes| {
            let write = Write::new(vec![1; bytes]).key(key).durability(Durability::Buffered);
            log.append(write).wait().unwrap()
        };
        let (first, last) = (append(b"a", 500), append(b"a", 10_000));
        let engine = log.engine_of(ShardId(0));
        // Half of the memory is looked through, so far back that it begins in the long record.
        (2..engine.memory_blocks() / 2).for_each(|_| _ = append(b"b", 3_900));
        let known = engine.recent_last(b"nobody").unwrap();
        let RecentLast::Below(start) = known else { panic!("{known:?}") };
        engine.turn_until(|| engine.written() >= start);
        assert_eq!((last.lsn(), start, engine.written()), (Lsn(4184), Lsn(8192), start));
        let late = log.append(Write::new(b"late").key(b"a").if_last(Some(first))).wait();
        let is_refused =
            matches!(late, Err(AppendError::Conflict { last: found, .. }) if found == Some(last));
        assert!(is_refused, "{late:?}, and the last one is {last}");
    }
}
