//! What was accepted, told and read, and what may therefore be read. It knows nothing of settling, maps or epochs but
//! where a record was put.

use super::world::{Drive, Kind, Record, SHARDS, SPREAD_KEY, Shard};
use super::{Checked, Place, ensure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// Given up on purpose, by `truncate_before` or `truncate_after`.
    Truncated,
    /// A crash took it, or a drive that failed, or its batch is void.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fact {
    pub key: usize,
    pub shard: usize,
    pub place: Place,
    pub batch: Option<u32>,
    pub spread: bool,
    /// It is of its key's stream; not so if it was put by hand into another shard.
    pub belongs: bool,
    /// How much was acknowledged when its append began, and when it was acknowledged itself.
    pub began: u64,
    pub told: Option<u64>,
    pub served: bool,
    pub state: State,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// In the order of acceptance.
    facts: Vec<Fact>,
    pub acknowledgements: u64,
    pub life: u32,
    pub drives_failed: u32,
}

impl Fact {
    pub fn new(key: usize, shard: usize, place: Place, belongs: bool, began: u64) -> Fact {
        let (batch, spread, told, served) = (None, false, None, false);
        Fact { key, shard, place, batch, spread, belongs, began, told, served, state: State::Live }
    }

    fn is_promised(&self) -> bool {
        self.told.is_some() || self.served
    }
}

fn is_there(shards: &[Shard], fact: &Fact) -> bool {
    shards[fact.shard].drive == Drive::Answers
}

impl Oracle {
    pub fn accept(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    pub fn shard_of(&self, record: usize) -> usize {
        self.facts[record].shard
    }

    pub fn end_life(&mut self) {
        self.life += 1;
    }

    fn live(&self) -> impl DoubleEndedIterator<Item = (usize, &Fact)> {
        self.facts.iter().enumerate().filter(|(_, fact)| fact.state == State::Live)
    }

    /// The stream of a key, the oldest first, wherever it is.
    fn stream(&self, key: usize) -> impl DoubleEndedIterator<Item = (usize, &Fact)> {
        self.live().filter(move |(_, fact)| fact.key == key && fact.belongs)
    }

    pub fn last(&self, key: usize) -> Option<usize> {
        self.stream(key).next_back().map(|(record, _)| record)
    }

    pub fn with_id(&self, key: usize, id: usize, records: &[Record]) -> Option<usize> {
        self.stream(key).map(|(record, _)| record).find(|&record| records[record].id == Some(id))
    }

    /// The records that are told now: all that is durable and was not told yet, but for those of void batches.
    pub fn acknowledge(&mut self, shard: usize, state: &Shard, void: &[u32]) -> Vec<usize> {
        let (now, mut told) = (self.acknowledgements + 1, Vec::new());
        for (record, fact) in self.facts.iter_mut().enumerate() {
            let is_new = fact.told.is_none() && fact.state == State::Live && fact.shard == shard;
            let is_void = fact.batch.is_some_and(|batch| void.contains(&batch));
            if is_new && !is_void && fact.place.lsn < state.durable {
                fact.told = Some(now);
                told.push(record);
            }
        }
        self.acknowledgements = now;
        told
    }

    pub fn truncated(&mut self, shard: usize, horizon: u32) {
        let facts = self.facts.iter_mut().filter(|fact| fact.shard == shard && fact.state == State::Live);
        facts.filter(|fact| fact.place.lsn < horizon).for_each(|fact| fact.state = State::Truncated);
    }

    pub fn cut_on_purpose(&mut self, shard: usize, lsn: u32) {
        let facts = self.facts.iter_mut().filter(|fact| fact.shard == shard && fact.state == State::Live);
        facts.filter(|fact| fact.place.lsn >= lsn).for_each(|fact| fact.state = State::Truncated);
    }

    /// What a shard had above its durable end when it failed does not come back, nor does what belongs to it. Gives how
    /// many records of batches went that lay elsewhere. That none of them was promised shows when they are read.
    pub fn shard_failed(&mut self, shard: usize, cut: Place, voids: bool) -> usize {
        let lost =
            |fact: &Fact| fact.shard == shard && fact.place.epoch == cut.epoch && fact.place.lsn >= cut.lsn;
        let batches: Vec<Option<u32>> = self
            .facts
            .iter()
            .filter(|fact| lost(fact) && fact.batch.is_some())
            .map(|fact| fact.batch)
            .collect();
        let mut voided = 0;
        for fact in self.facts.iter_mut().filter(|fact| fact.state == State::Live) {
            let of_batch = voids && fact.batch.is_some() && batches.contains(&fact.batch);
            if (lost(fact) || of_batch) && !fact.is_promised() {
                fact.state = State::Lost;
                voided += usize::from(of_batch && fact.shard != shard);
            }
        }
        voided
    }

    pub fn batch_is_void(&mut self, batch: u32) {
        let facts =
            self.facts.iter_mut().filter(|fact| fact.batch == Some(batch) && fact.state == State::Live);
        facts.filter(|fact| !fact.is_promised()).for_each(|fact| fact.state = State::Lost);
    }

    /// What a reader by key got must be a beginning of the key's stream, with all in it that was promised.
    pub fn check_read(
        &mut self,
        key: usize,
        found: &[usize],
        shards: &[Shard],
        records: &[Record],
    ) -> Checked {
        let want: Vec<usize> =
            self.stream(key).filter(|(_, fact)| is_there(shards, fact)).map(|(record, _)| record).collect();
        for pair in found.windows(2) {
            let (one, two) = (records[pair[0]].time, records[pair[1]].time);
            ensure!(
                one < two || (one == two && key == SPREAD_KEY),
                "times of key {key} fall: record {} {one}, record {} {two}",
                pair[0],
                pair[1]
            );
        }
        for &record in &want {
            let fact = &self.facts[record];
            let kept = !fact.is_promised() || found.contains(&record);
            ensure!(
                kept,
                "key {key}: record {record} was promised and is missing: {found:?} of {want:?}, {fact:?}"
            );
        }
        if key == SPREAD_KEY {
            self.check_spread(found, &want)?;
        } else {
            ensure!(want.starts_with(found), "key {key}: {found:?} is no beginning of {want:?}");
        }
        for &record in found {
            self.serve(record, shards)?;
        }
        Ok(())
    }

    fn check_spread(&self, found: &[usize], want: &[usize]) -> Checked {
        for (number, &record) in found.iter().enumerate() {
            ensure!(want.contains(&record), "spread: {record} is not one of {want:?}");
            let fact = &self.facts[record];
            for &earlier in &found[..number] {
                let before = &self.facts[earlier];
                // Told before the other began, or both in order since neither is spread.
                let wrong = fact.told.is_some_and(|told| told <= before.began);
                let in_order = fact.spread || before.spread || earlier < record;
                ensure!(!wrong && in_order, "spread: {earlier} is read before {record}");
            }
        }
        Ok(())
    }

    /// A record is given to a reader: then the rest of its batch is covered too, and no crash separates them.
    fn serve(&mut self, record: usize, shards: &[Shard]) -> Checked {
        self.facts[record].served = true;
        let Some(batch) = self.facts[record].batch else { return Ok(()) };
        for (other, fact) in self.facts.iter().enumerate().filter(|(_, fact)| fact.batch == Some(batch)) {
            let covered = fact.place.lsn < shards[fact.shard].covered || !is_there(shards, fact);
            let there = match fact.state {
                State::Live => covered,
                State::Truncated => true,
                State::Lost => false,
            };
            ensure!(there, "record {record} of batch {batch} is served without record {other}: {fact:?}");
        }
        Ok(())
    }

    /// A follower gives `record` after `given`: the next of the stream that is left.
    pub fn check_next(&mut self, given: &[usize], record: usize, shards: &[Shard]) -> Checked {
        let key = self.facts[record].key;
        let after = given.last().map_or(0, |last| last + 1);
        let next = self.stream(key).find(|(next, fact)| *next >= after && is_there(shards, fact));
        ensure!(
            next.is_some_and(|(next, _)| next == record),
            "a follower of key {key} got {record} behind {given:?}, instead of {next:?}"
        );
        self.serve(record, shards)
    }

    /// After an open: what was not found is gone for good.
    pub fn lost_but(&mut self, key: usize, found: &[usize], shards: &[Shard]) {
        for (record, fact) in self.facts.iter_mut().enumerate() {
            let gone = fact.key == key && fact.belongs && fact.state == State::Live && is_there(shards, fact);
            if gone && !found.contains(&record) {
                fact.state = State::Lost;
            }
        }
    }

    /// The same for records that are of no stream.
    pub fn lost_by_hand(&mut self, shards: &[Shard]) {
        for (record, fact) in self.facts.iter_mut().enumerate() {
            if !fact.belongs
                && fact.state == State::Live
                && is_there(shards, fact)
                && !is_at(shards, record, fact)
            {
                fact.state = State::Lost;
            }
        }
    }

    /// All or none; and everything that was promised stands where it was put.
    pub fn check_batches(&self, shards: &[Shard]) -> Checked {
        for (record, fact) in self.facts.iter().enumerate() {
            if fact.state == State::Truncated || !is_there(shards, fact) {
                continue;
            }
            let kept = !fact.is_promised() || (fact.state == State::Live && is_at(shards, record, fact));
            ensure!(kept, "record {record} was promised and is lost: {fact:?}");
            let Some(batch) = fact.batch.filter(|_| fact.state == State::Live) else { continue };
            let mut others = self.facts.iter().filter(|other| other.batch == Some(batch));
            ensure!(
                others.all(|other| other.state != State::Lost),
                "batch {batch} is there in part: record {record} {fact:?}"
            );
        }
        Ok(())
    }
}

fn is_at(shards: &[Shard], record: usize, fact: &Fact) -> bool {
    debug_assert!(fact.shard < SHARDS);
    let entry = shards[fact.shard].entries.get(fact.place.lsn as usize);
    entry.is_some_and(|entry| {
        let holds = match &entry.kind {
            Kind::Record(other) => *other == record,
            Kind::Part(_, records) => records.contains(&record),
            _ => false,
        };
        holds && entry.epoch == fact.place.epoch
    })
}
