//! What a follower reads: all records of a shard as they come, or those of one key.

use std::ops::Range;
use std::sync::Arc;

use super::cursor::{Cursor, Step};
use super::key::Filtered;
use super::key_range::Found;
use super::restored::History;
use super::{Record, Source};
use crate::error::ReadError;
use crate::position::Lsn;
use crate::shard::KeyOrder;

/// The records of a shard from a place on: all of them, or those of one key.
#[derive(Debug)]
pub(crate) enum Tail {
    All(Box<Cursor>),
    Key(Box<KeyTail>),
}

impl Tail {
    /// It takes no memory to read into before there is something to read.
    pub(crate) fn new(source: Arc<dyn Source>, from: Lsn, key: Option<&[u8]>) -> Result<Tail, ReadError> {
        let cursor = Cursor::at_rest(source, from)?;
        Ok(match key {
            None => Tail::All(Box::new(cursor)),
            Some(key) => Tail::Key(Box::new(KeyTail::new(cursor, key, from))),
        })
    }

    /// The next record that is whole below `limit`, the durable LSN when it was looked up.
    #[inline]
    pub(crate) fn next(&mut self, limit: Lsn) -> Step {
        match self {
            Tail::All(cursor) => cursor.next(limit, Lsn::MAX),
            Tail::Key(tail) => tail.next(limit),
        }
    }

    /// As [`Cursor::rest`].
    pub(crate) fn rest(&mut self) {
        match self {
            Tail::All(cursor) => cursor.rest(),
            Tail::Key(tail) => tail.records.rest(),
        }
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        match self {
            Tail::All(cursor) => cursor.source(),
            Tail::Key(tail) => tail.records.source(),
        }
    }

    #[cfg(test)]
    pub(crate) fn is_resting(&self) -> bool {
        match self {
            Tail::All(cursor) => cursor.is_resting(),
            Tail::Key(tail) => tail.records.is_resting(),
        }
    }
}

/// The records of a key as they come. Where it is far behind, the key index is asked for them; near the end, and where the
/// index knows nothing, all records are looked through.
#[derive(Debug)]
pub(crate) struct KeyTail {
    found: Found,
    records: Filtered,
    /// All of the key's records below it were given.
    given: Lsn,
    /// Those below it were given, or were found and come next.
    told: Lsn,
    /// Looked through record by record, once what was found is given.
    unknown: Range<Lsn>,
    /// What was durable when that was looked up: what begins below it is whole below it.
    limit: Lsn,
    /// The cursor has passed all below `told` and nothing above, and can go on from there.
    is_in_place: bool,
    history: History,
}

impl KeyTail {
    fn new(cursor: Cursor, key: &[u8], from: Lsn) -> KeyTail {
        KeyTail {
            history: History::of(cursor.source().as_ref()),
            found: Found::nothing(cursor.source().as_ref()),
            records: Filtered::new(cursor, key),
            given: from,
            told: from,
            unknown: from..from,
            limit: from,
            is_in_place: false,
        }
    }

    fn next(&mut self, limit: Lsn) -> Step {
        while !self.history.is_over() {
            let given = self.given;
            let step = self.step(limit);
            match self.history.check(self.records.source().as_ref(), given) {
                Ok(false) => return step,
                // What was found may be another history's, and so may what was looked through in vain.
                Ok(true) => {
                    self.records.begin_anew(given);
                    self.go_back_to(given);
                }
                Err(error) => return Step::Error(error),
            }
        }
        Step::End
    }

    /// Finds anew what comes from here on.
    fn go_back_to(&mut self, given: Lsn) {
        self.found.clear();
        (self.given, self.told) = (given, given);
        self.unknown = given..given;
        self.is_in_place = false;
    }

    fn step(&mut self, limit: Lsn) -> Step {
        if self.records.source().check_process().is_err() {
            // In a fork, also where nothing is to come: the cursor says so, once.
            self.records.seek(self.told);
            return self.records.next(limit, Lsn::MAX);
        }
        loop {
            if self.found.is_outdated() {
                self.go_back_to(self.given);
            }
            if let Some(item) = self.found.next() {
                return self.give(item);
            }
            if !self.unknown.is_empty() {
                match self.records.next(self.limit, self.unknown.end) {
                    Step::Record(record) => return self.give(Ok(record)),
                    Step::Error(error) => return Step::Error(error),
                    Step::End => self.pass(),
                }
            } else if limit <= self.told {
                return Step::End;
            } else {
                self.go_on(limit);
            }
        }
    }

    fn give(&mut self, item: Result<Record, ReadError>) -> Step {
        match item {
            Ok(record) => {
                self.given = Lsn(record.lsn().0 + 1);
                Step::Record(record)
            }
            Err(error) => Step::Error(error),
        }
    }

    /// What was unknown was looked through.
    fn pass(&mut self) {
        self.told = self.unknown.end;
        self.unknown = self.told..self.told;
        // Behind a stretch that ends in front of more, it has passed over a record.
        self.is_in_place = self.told == self.limit;
    }

    /// Finds out what comes next, up to the limit.
    fn go_on(&mut self, limit: Lsn) {
        self.limit = limit;
        self.given = self.told;
        let source = self.records.source().clone();
        let is_near = limit.0 - self.told.0 <= source.read_bytes() as u64;
        if is_near && self.is_in_place {
            self.unknown = self.told..limit;
            return;
        }
        let stretch = self.told..limit;
        let Ok((unknown, left)) =
            self.found.look_up(&source, self.records.wanted(), stretch, KeyOrder::Forward)
        else {
            // In a fork, as the cursor says.
            self.unknown = self.told..limit;
            return;
        };
        let horizon = source.view().horizon;
        if horizon > self.told {
            // Some of it is truncated, and the cursor sees whether that was anything.
            self.found.clear();
            self.look_through(self.told..horizon.min(limit));
        } else if unknown.is_empty() {
            self.is_in_place = false;
            self.told = left.start;
        } else {
            self.look_through(unknown);
        }
    }

    fn look_through(&mut self, stretch: Range<Lsn>) {
        if !self.is_in_place || stretch.start != self.told {
            self.records.seek(stretch.start);
        }
        self.unknown = stretch;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::device::sim::{End, Random, SimMachine};
    use crate::error::ReadError;
    use crate::log::LogReader;
    use crate::options::Tuning;
    use crate::simulation::Simulated;
    use crate::{Durability, Log, Options, Position, Record, ShardId, Write};

    const SHARD: ShardId = ShardId(0);

    fn open(machine: &SimMachine, tuning: Tuning) -> Log {
        let options = Options::new().shards(1).block_bytes(4096).segment_bytes(128 << 10).index_keys(true);
        options.tuned(tuning).device(&Simulated::of(machine)).open("/log").unwrap()
    }

    fn beside(machine: &SimMachine) -> LogReader {
        LogReader::open_on(machine.device().as_ref(), Path::new("/log")).unwrap()
    }

    fn key(number: u64) -> [u8; 1] {
        [number as u8]
    }

    fn index_all(log: &Log) {
        while log.engine_of(SHARD).go_on_indexing() {}
    }

    /// Gives what comes without waiting.
    type Next = Box<dyn FnMut() -> Option<Result<Record, ReadError>>>;

    fn follow(log: &Log, key: &[u8], behind: Option<Position>) -> Next {
        let mut tail = log.follow_key(key, behind).unwrap();
        Box::new(move || tail.next_timeout(Duration::ZERO))
    }

    fn follow_beside(reader: &LogReader, key: &[u8], behind: Option<Position>) -> Next {
        let mut tail = reader.follow_key(key, behind).unwrap();
        Box::new(move || tail.next_timeout(Duration::ZERO))
    }

    fn positions(next: &mut Next) -> Vec<Position> {
        std::iter::from_fn(next).map(|item| item.unwrap().position()).collect()
    }

    /// From the first record on, and from behind one, of an open log and beside it: not all of the log is read.
    #[test]
    fn a_key_is_caught_up_with_by_the_index() {
        let machine = SimMachine::new(1);
        let tuning = Tuning { index_run_bytes: 64 << 10, read_bytes: 64 << 10, ..Tuning::default() };
        let log = open(&machine, tuning.clone());
        let append = |number: u64| log.append(Write::new([7; 500]).key(key(number % 40))).wait().unwrap();
        let all: Vec<Position> = (0..2_000).map(append).collect();
        index_all(&log);
        log.close().unwrap();
        machine.restart(End::Kill);
        let log = open(&machine, tuning);
        index_all(&log);
        let reader = beside(&machine);
        reader.shard(SHARD).durable_lsn().unwrap();
        for number in 0..20 {
            let own: Vec<Position> = all[number as usize..].iter().copied().step_by(40).collect();
            for (begin, behind) in [(0, None), (20, Some(own[19]))] {
                for is_beside in [false, true] {
                    let before = machine.counters();
                    let mut next = if is_beside {
                        follow_beside(&reader, &key(number), behind)
                    } else {
                        follow(&log, &key(number), behind)
                    };
                    assert_eq!(positions(&mut next), own[begin..]);
                    let after = machine.counters();
                    let (reads, bytes) = (after.reads - before.reads, after.read_bytes - before.read_bytes);
                    // Of 8 MiB, 50 blocks, some pages of the index, and what is not indexed yet.
                    assert!(reads < 400 && bytes < 1 << 20, "{reads} reads of {bytes} bytes of key {number}");
                }
            }
        }
        log.close().unwrap();
    }

    struct Followed {
        key: u64,
        is_beside: bool,
        next: Next,
        /// How many of its key's records it was given, or began behind.
        given: usize,
    }

    /// Appends, runs and cuts come while followers catch up, or not: each gives each record of its key once, in order.
    fn play(seed: u64) -> u64 {
        let (machine, mut random) = (SimMachine::new(seed), Random::new(seed));
        let tuning = Tuning { index_run_bytes: 16 << 10, read_bytes: 8 << 10, ..Tuning::default() };
        let log = open(&machine, tuning);
        let reader = beside(&machine);
        let mut own: Vec<Vec<Position>> = vec![Vec::new(); 6];
        let mut followed: Vec<Followed> = Vec::new();
        let mut by_index = 0;
        for _ in 0..120 {
            match random.below(10) {
                0..=3 => {
                    for _ in 0..1 + random.below(25) {
                        let number = random.below(6).min(random.below(6));
                        let bytes = if random.below(30) == 0 { 9_000 } else { random.below(900) as usize };
                        let durability = *random.pick(&[Durability::Synced, Durability::Buffered]);
                        let write = Write::new(vec![1; bytes]).key(key(number)).durability(durability);
                        own[number as usize].push(log.append(write).wait().unwrap());
                    }
                }
                4 => {
                    (0..random.below(6)).for_each(|_| _ = log.engine_of(SHARD).go_on_indexing());
                    // Between runs there are gaps then, for who reads beside the owner.
                    if random.below(4) == 0 {
                        machine.spoil_index(&mut random);
                    }
                }
                5 | 6 => {
                    let number = random.below(6);
                    let places = &own[number as usize];
                    log.sync().wait().unwrap();
                    let given = random.below(places.len() as u64 + 1) as usize;
                    let behind = given.checked_sub(1).map(|last| places[last]);
                    let is_known =
                        behind.is_none_or(|place| place.lsn() < reader.shard(SHARD).durable_lsn().unwrap());
                    let is_beside = random.below(2) == 0 && is_known;
                    let next = match is_beside {
                        true => follow_beside(&reader, &key(number), behind),
                        false => follow(&log, &key(number), behind),
                    };
                    followed.push(Followed { key: number, is_beside, next, given });
                }
                7 if random.below(4) == 0 => {
                    // Of what no follower was given.
                    let highest =
                        followed.iter().filter_map(|one| own[one.key as usize][..one.given].last()).max();
                    let kept = own.iter().flatten().filter(|place| Some(*place) >= highest).min().copied();
                    let Some(kept) = kept.filter(|_| log.sync().wait().is_ok()) else { continue };
                    log.shard(SHARD).truncate_after(kept.lsn()).unwrap();
                    own.iter_mut().for_each(|own| own.retain(|place| *place <= kept));
                    // Who follows beside the owner gives what was cut until somebody looks.
                    reader.shard(SHARD).durable_lsn().unwrap();
                }
                _ if followed.is_empty() => {}
                _ => {
                    let index = random.below(followed.len() as u64) as usize;
                    let one = &mut followed[index];
                    let indexed = log.engine_of(SHARD).indexed();
                    for _ in 0..1 + random.below(40) {
                        let Some(record) = (one.next)() else { break };
                        let place = record.unwrap().position();
                        assert_eq!(Some(&place), own[one.key as usize].get(one.given), "seed {seed}");
                        one.given += 1;
                        by_index += u64::from(place.lsn() < indexed);
                    }
                }
            }
        }
        log.sync().wait().unwrap();
        let mut check_rest = |is_beside| {
            for one in followed.iter_mut().filter(|one| one.is_beside == is_beside) {
                assert_eq!(positions(&mut one.next), own[one.key as usize][one.given..], "seed {seed}");
            }
        };
        check_rest(false);
        log.close().unwrap();
        check_rest(true);
        by_index
    }

    #[test]
    fn each_record_comes_once_whatever_comes_meanwhile() {
        let by_index: u64 = (0..25).map(play).sum();
        assert!(by_index > 300, "{by_index}");
    }

    /// Records that were found are gone before they were given; or all that is gone was given.
    #[test]
    fn what_is_truncated_is_told_where_it_was_not_given() {
        let machine = SimMachine::new(1);
        let log =
            open(&machine, Tuning { index_run_bytes: 16 << 10, read_bytes: 8 << 10, ..Tuning::default() });
        let reader = beside(&machine);
        let append = |number: u64| log.append(Write::new([7; 500]).key(key(number % 2))).wait().unwrap();
        let own: Vec<Position> = (0..200).map(append).step_by(2).collect();
        index_all(&log);
        for is_beside in [false, true] {
            let begin = || match is_beside {
                true => follow_beside(&reader, &key(0), None),
                false => follow(&log, &key(0), None),
            };
            let (mut behind, mut done) = (begin(), begin());
            let horizon = own[if is_beside { 80 } else { 50 }];
            let first =
                own.iter().position(|place| place.lsn() >= log.engine_of(SHARD).view().horizon).unwrap();
            let next = |next: &mut Next| next().map(|item| item.map(|record| record.position()));
            for place in &own[first..first + 10] {
                assert_eq!(next(&mut behind).unwrap().unwrap(), *place);
            }
            for place in own[first..].iter().take_while(|place| **place < horizon) {
                assert_eq!(next(&mut done).unwrap().unwrap(), *place);
            }
            log.shard(SHARD).truncate_before(horizon.lsn()).unwrap();
            reader.shard(SHARD).durable_lsn().unwrap();
            let told = next(&mut behind);
            assert!(matches!(told, Some(Err(ReadError::Truncated { .. }))), "{told:?}");
            assert_eq!(next(&mut behind).unwrap().unwrap(), horizon);
            append(1);
            append(1);
            let given = positions(&mut behind);
            assert!(given.len() > 10 && own.ends_with(&given));
            // Between its last record and the horizon one of the other key is gone, of which it is told or not.
            let told = next(&mut done).unwrap().or_else(|_| next(&mut done).unwrap());
            assert_eq!(told.unwrap(), horizon);
        }
        log.close().unwrap();
    }
}
