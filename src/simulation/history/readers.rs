//! Steps that read: the open log in each way that there is, and its files beside it. Whatever is served is below
//! the durable LSN, was accepted, and is there from then on.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;

use super::keys::key_of;
use super::{Found, History, PATH};
use crate::error::{Damage, ReadError};
use crate::log::{Finding, LogReader};
use crate::read::Follow;
use crate::simulation::oracle::Accepted;
use crate::{ConsumerError, Log, Lsn, Position, Record, ShardId};

/// One that goes on from step to step.
pub(super) struct Follower {
    follow: Follow,
    last: Option<Position>,
    /// It wants nothing below this.
    from: Lsn,
}

impl Follower {
    /// Whether it has read, and nothing behind `position`.
    pub(super) fn is_below(&self, position: Position) -> bool {
        self.last.is_some_and(|last| last <= position)
    }
}

/// What is served is durable.
fn assert_below(record: &Record, durable: Lsn) {
    assert!(record.lsn() < durable, "{record:?} was served, and all below {durable} alone is durable");
}

impl History {
    /// Everything that can be read of a shard; `None` where a read failed, or the machine has stopped.
    pub(super) fn found(&self, log: &Log, shard: u16) -> Option<Found> {
        let records = log.shard(ShardId(shard)).read(..).ok()?;
        let mut found = Found { records: Vec::new(), told: false };
        let failed_calls = self.failed_calls();
        let mut last = 0;
        for record in records {
            match record {
                Ok(record) => {
                    assert_below(&record, log.shard(record.shard()).durable_lsn());
                    assert!(record.timestamp() > last, "times rise along a shard: {record:?} after {last}");
                    last = record.timestamp();
                    let payload = record.payload().to_vec();
                    found.records.push(Accepted::new(record.position(), payload, 0));
                }
                Err(_) if self.machine.has_stopped() || self.failed_calls() > failed_calls => return None,
                Err(error) => {
                    assert!(self.is_damaged(), "no damage was done: {error}");
                    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
                    found.told = true;
                }
            }
        }
        Some(found)
    }

    pub(super) fn read(&mut self, log: &Log) {
        for shard in 0..self.plan.shards {
            self.note_open_batch(log, ShardId(shard), "reads in the middle of a batch");
            let Some(found) = self.found(log, shard) else { return };
            self.say_found(shard, &found);
            let damaged = self.is_damaged();
            let oracle = &mut self.oracles[usize::from(shard)];
            if damaged {
                oracle.check_damaged(&found.records, found.told);
            } else {
                oracle.check_served(&found.records);
            }
        }
        self.read_otherwise(log);
        let shard = self.shard();
        let accepted = self.oracles[usize::from(shard.0)].accepted();
        if accepted.is_empty() {
            return;
        }
        let record = accepted[self.random.below(accepted.len() as u64) as usize].clone();
        let failed_calls = self.failed_calls();
        match log.get(record.position) {
            Ok(found) => assert_eq!(found.payload(), record.payload),
            Err(ReadError::Truncated { .. }) => {
                let truncated = self.oracles[usize::from(shard.0)].truncated();
                assert!(record.position.lsn() < truncated, "{record:?} is said to be below {truncated}");
            }
            Err(ReadError::ShardFailed(_)) => {}
            Err(error) => {
                let excused = self.machine.has_stopped() || self.failed_calls() > failed_calls;
                assert!(excused || self.is_damaged(), "{}: {error}", record.position);
            }
        }
    }

    pub(super) fn say_found(&self, shard: u16, found: &Found) {
        self.say(|| {
            let ends = (found.records.first(), found.records.last());
            let ends = (ends.0.map(|record| record.position), ends.1.map(|record| record.position));
            format!("  shard {shard}: {} records {ends:?} damage {}", found.records.len(), found.told)
        });
    }

    /// A batch or split record is durable in part, whose rest is under way: what no reader may see.
    fn note_open_batch(&mut self, log: &Log, shard: ShardId, what: &'static str) {
        let engine = log.engine_of(shard);
        self.tally.add(what, u64::from(engine.marks().covered > engine.durable()));
    }

    /// Turns a shard until part of a batch is covered, which may not come about, and has somebody read then.
    pub(super) fn read_in_the_middle(&mut self, log: &Log, shard: ShardId) {
        let engine = log.engine_of(shard);
        let mut looks = 40;
        engine.turn_until(|| {
            looks -= 1;
            looks <= 0 || engine.marks().covered > engine.durable()
        });
        match self.random.below(4) {
            0 => self.read(log),
            1 => self.follow(log),
            2 => self.consume(log),
            _ => self.read_beside(log),
        }
    }

    /// Judges one record that was served as durable.
    pub(super) fn check_served(&mut self, log: &Log, record: &Record) {
        let shard = record.shard();
        assert_below(record, log.shard(shard).durable_lsn());
        let horizon = log.engine_of(shard).view().horizon;
        assert!(record.lsn() >= horizon, "{record:?} was served, and all below {horizon} is truncated");
        assert_eq!(record.key(), key_of(record.payload()), "of {record:?}");
        assert_eq!(record.id(), self.terms.id_of(record.position()), "of {record:?}");
        if !self.is_damaged() {
            self.oracles[usize::from(shard.0)].served(record.position(), record.payload());
        }
    }

    /// Judges an error of a reader: without damage, only a read that failed or a stopped machine excuses one.
    pub(super) fn check_error(&self, error: &ReadError, failed_calls: u64) {
        let excused = self.machine.has_stopped() || self.failed_calls() > failed_calls || self.is_damaged();
        assert!(excused, "no damage was done: {error}");
    }

    /// A shard backwards, or all of them by time.
    fn read_otherwise(&mut self, log: &Log) {
        let (shard, failed_calls) = (self.shard(), self.failed_calls());
        let (what, records): (_, Vec<Result<Record, ReadError>>) = match self.random.below(4) {
            0 => ("read back", log.shard(shard).read_back(..).map(Iterator::collect).unwrap_or_default()),
            1 => ("merged", log.merged(..).map(Iterator::collect).unwrap_or_default()),
            _ => return,
        };
        let mut last: Option<Record> = None;
        for record in records {
            match record {
                Ok(record) => {
                    self.check_served(log, &record);
                    let order = last.map(|last| last.timestamp().cmp(&record.timestamp()));
                    let expected = if what == "merged" {
                        order.is_none_or(|it| it.is_le())
                    } else {
                        order.is_none_or(|it| it.is_gt())
                    };
                    assert!(expected, "{what}: {record:?} comes out of order");
                    self.tally.count(what);
                    last = Some(record);
                }
                Err(error) => return self.check_error(&error, failed_calls),
            }
        }
    }

    /// Follows a shard from where the last such step left it: every record once, in order, and whole batches.
    pub(super) fn follow(&mut self, log: &Log) {
        let shard = self.shard();
        let index = usize::from(shard.0);
        let mut follower = match self.followers[index].take() {
            Some(follower) => follower,
            None => {
                let from = self.some_record().filter(|position| position.shard() == shard);
                let from = from.map_or(Lsn::MIN, |position| position.lsn());
                let Ok(follow) = log.shard(shard).follow(from) else { return };
                Follower { follow, last: None, from }
            }
        };
        // With a time limit it turns the shard; polled, it takes what is there.
        let turns = self.random.below(4) == 0;
        let failed_calls = self.failed_calls();
        for _ in 0..1 + self.random.below(12) {
            self.note_open_batch(log, shard, "followed in the middle of a batch");
            let next = if turns {
                follower.follow.next_timeout(Duration::ZERO)
            } else {
                match Pin::new(&mut follower.follow).poll_next(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(next) => next,
                    Poll::Pending => None,
                }
            };
            match next {
                Some(Ok(record)) => {
                    self.say(|| format!("  followed {}", record.position()));
                    self.check_served(log, &record);
                    self.check_next(&record, follower.last.replace(record.position()));
                    self.tally.count("followed");
                }
                Some(Err(ReadError::Truncated { horizon, .. })) => {
                    self.check_missed(shard, &follower);
                    self.tally.count("followers told of truncation");
                    follower.from = follower.from.max(horizon);
                }
                // What stands behind it is not known to be the next record.
                Some(Err(error)) => return self.check_error(&error, failed_calls),
                None => break,
            }
        }
        self.followers[index] = Some(follower);
    }

    /// A follower is told of truncation: then a record is gone that it has not given.
    fn check_missed(&self, shard: ShardId, follower: &Follower) {
        // What could not be read when it was truncated is not known to have been no record.
        let may_fail = self.plan.faults.read_error > 0;
        if self.is_damaged() || may_fail {
            return;
        }
        let oracle = &self.oracles[usize::from(shard.0)];
        let is_wanted =
            |own: &Accepted| Some(own.position) > follower.last && own.position.lsn() >= follower.from;
        let wanted = oracle.accepted().iter().position(is_wanted);
        let missed = wanted.is_some_and(|wanted| wanted < oracle.hidden());
        assert!(missed, "from {} on, behind {:?}, nothing is truncated", follower.from, follower.last);
    }

    /// A follower left nothing out, but for what a horizon hides.
    fn check_next(&self, record: &Record, last: Option<Position>) {
        let oracle = &self.oracles[usize::from(record.shard().0)];
        let (Some(last), false) = (last, self.is_damaged()) else { return };
        let behind = |position: Position| oracle.accepted().partition_point(|own| own.position < position);
        let (expected, found) = (behind(last) + 1, behind(record.position()));
        let most = expected.max(oracle.hidden());
        assert!((expected..=most).contains(&found), "record {found} follows {last}, not {expected}");
    }

    /// Reads the files of the open log as another process would, from what it knew the last time on.
    pub(super) fn read_beside(&mut self, log: &Log) {
        if self.is_damaged() {
            return;
        }
        let failed_calls = self.failed_calls();
        if self.beside.is_none() {
            match LogReader::open_on(self.machine.device().as_ref(), Path::new(PATH)) {
                Ok(reader) => self.beside = Some(reader),
                Err(error) => {
                    let excused = self.machine.has_stopped() || self.failed_calls() > failed_calls;
                    return assert!(excused, "the log cannot be read beside its owner: {error}");
                }
            }
        }
        for shard in 0..self.plan.shards {
            self.note_open_batch(log, ShardId(shard), "read beside in the middle of a batch");
            let reader = self.beside.as_ref().expect("opened above").shard(ShardId(shard));
            // Each of the three looks at the files again.
            let read = reader.durable_lsn().and_then(|before| {
                let records = reader.read(..)?.collect::<Result<Vec<_>, _>>()?;
                Ok((before, records, reader.durable_lsn()?))
            });
            match read {
                Ok((before, records, durable)) => {
                    assert!(before <= durable, "what is durable never falls: {before}, then {durable}");
                    // Nobody turns the shard: only a look that failed has seen less than the next one.
                    if self.failed_calls() == failed_calls {
                        assert_eq!(before, durable);
                    }
                    self.say(|| format!("  shard {shard}: {} records below {durable}", records.len()));
                    assert!(durable <= log.shard(ShardId(shard)).durable_lsn(), "testified, and not so");
                    for record in &records {
                        assert_below(record, durable);
                        self.check_served(log, record);
                        self.tally.count("read beside");
                    }
                    self.oracles[usize::from(shard)].published(durable);
                }
                Err(error) => return self.check_error(&error, failed_calls),
            }
        }
        if self.random.below(4) == 0 {
            self.tally.count("verified beside");
            let verified = self.beside.as_ref().expect("opened above").verify();
            let findings = verified.map_or_else(|_| Vec::new(), |verified| verified.findings);
            let is_older = |finding: &Finding| {
                matches!(finding, Finding::End { cause: Damage::OlderManifest { .. }, .. })
            };
            assert!(!findings.iter().any(is_older), "nothing was put back: {findings:?}");
        }
    }

    /// A consumer reads on: it gets every record at least once, in order, from no later than behind what it
    /// had committed, and from no earlier than behind what of that was durable.
    pub(super) fn consume(&mut self, log: &Log) {
        let mut consumer = match log.consumer("reader") {
            Ok(consumer) => consumer,
            Err(error) => {
                let is_refused =
                    matches!(error, ConsumerError::AboveEnd { .. } | ConsumerError::OtherHistory { .. });
                return assert!(self.is_damaged() || !is_refused, "nothing was put back: {error}");
            }
        };
        let mut last: Vec<Option<Position>> = vec![None; usize::from(self.plan.shards)];
        let mut own = last.clone();
        for shard in 0..self.plan.shards {
            self.note_open_batch(log, ShardId(shard), "consumed in the middle of a batch");
        }
        for _ in 0..1 + self.random.below(8) {
            let Some(next) = consumer.next_timeout(Duration::ZERO) else { break };
            let Ok(record) = next else { break }; // Truncated, damaged, or the machine has stopped.
            let position = record.position();
            let shard = usize::from(position.shard().0);
            self.say(|| format!("  consumed {position}"));
            self.check_served(log, &record);
            if !self.is_damaged() {
                let [committed, durable] = self.consumed[shard];
                let accepted = self.oracles[shard].accepted();
                let index = accepted.iter().position(|own| own.position == position);
                let index = index.unwrap_or_else(|| panic!("{position} was never accepted, or was cut"));
                assert_eq!(accepted[index].payload, record.payload());
                let behind = |position: Option<Position>| {
                    accepted.iter().take_while(|own| Some(own.position) <= position).count()
                };
                let (first, last) = match last[shard] {
                    Some(last) => (behind(Some(last)), behind(Some(last))),
                    // What the horizon hides is passed over.
                    None => (behind(durable), behind(committed).max(self.oracles[shard].hidden())),
                };
                assert!((first..=last).contains(&index), "{position}: record {index}, not {first} to {last}");
                self.tally.count("consumed");
            }
            last[shard] = Some(position);
            if self.random.below(2) == 0 {
                consumer.commit(position).expect("it was delivered, and the log is open");
                self.consumed[shard][0] = self.consumed[shard][0].max(Some(position));
                own[shard] = Some(position);
            }
        }
        if self.random.below(2) == 0 && consumer.flush().is_ok() {
            // What was committed in an earlier life may have been lost with it.
            self.consumed.iter_mut().zip(own).for_each(|([_, durable], own)| *durable = own.max(*durable));
        }
    }
}
