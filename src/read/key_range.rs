//! The records of one key in a range, forward and back: by the key index as far as it knows, else by looking at all.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cursor::{Cursor, Step};
use super::key::{Filtered, Wanted};
use super::restored::History;
use super::{RangeBack, Record, Source, get_first};
use crate::error::ReadError;
use crate::position::Lsn;
use crate::shard::{Hint, KeyOrder, KeyQuery};

/// Places that are asked for at once, at the most: their records are read with many reads in flight. Whoever wants one
/// record reads one: it begins with that, and asks for so many times as many with each next time.
const PLACES_MAX: usize = 64;
const PLACES_GROWTH: usize = 8;

/// About so many bytes of records wait to be given, or one record that is larger.
const READY_BYTES: usize = 4 << 20;

/// Records that were looked up by the index, and come next.
#[derive(Debug)]
pub(super) struct Found {
    /// Places to ask for the next time.
    places: usize,
    ready: VecDeque<Result<Record, ReadError>>,
    /// The source's count of truncations, and what it was before they were looked up.
    truncations: Arc<AtomicU64>,
    seen: u64,
}

impl Found {
    pub(super) fn nothing(source: &dyn Source) -> Found {
        let truncations = source.truncations();
        Found { places: 1, ready: VecDeque::new(), seen: truncations.load(Ordering::SeqCst), truncations }
    }

    /// Whether there are any, and they may be cut off by now.
    pub(super) fn is_outdated(&self) -> bool {
        !self.ready.is_empty() && self.truncations.load(Ordering::SeqCst) != self.seen
    }

    /// The next of them.
    pub(super) fn next(&mut self) -> Option<Result<Record, ReadError>> {
        self.ready.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.ready.clear();
    }

    /// Asks the index for what it knows first of a stretch. Gives of which stretch it knows nothing, behind what is ready
    /// now, and what is left.
    ///
    /// # Errors
    /// In a fork, where its locks may be held by nobody.
    pub(super) fn look_up(
        &mut self,
        source: &Arc<dyn Source>,
        wanted: &Wanted,
        stretch: Range<Lsn>,
        order: KeyOrder,
    ) -> Result<(Range<Lsn>, Range<Lsn>), ReadError> {
        source.check_process()?;
        self.seen = self.truncations.load(Ordering::SeqCst);
        let most = self.places;
        let asked = KeyQuery { key: wanted.name(), stretch, order, most };
        let (hints, mut left) = source.key_places(&asked);
        let stretch = asked.stretch;
        let mut unknown = left.start..left.start;
        let mut positions = Vec::with_capacity(hints.len());
        for hint in hints {
            match hint {
                Hint::Place(place) => positions.extend(place.position(source.id())),
                Hint::Unknown { from, to } => {
                    unknown = from..to;
                    left = match order {
                        KeyOrder::Forward => to..stretch.end,
                        KeyOrder::Backward => stretch.start..from,
                    };
                    break;
                }
            }
        }
        // What is not of the key, or not there any more, was no more than a hint.
        let is_there = |item: &Result<Record, ReadError>| match item {
            Ok(record) => wanted.has(record),
            Err(ReadError::Truncated { .. } | ReadError::NotAPosition(_)) => false,
            Err(_) => true,
        };
        let records = get_first(source, &positions, READY_BYTES);
        let bytes: usize = records.iter().flatten().map(|record| record.bytes.len()).sum();
        let mean = bytes / records.len().max(1);
        self.places = (most * PLACES_GROWTH).min(PLACES_MAX).min(READY_BYTES / mean.max(1)).max(1);
        // What there was no room for is asked for again.
        if let Some(next) = positions.get(records.len()) {
            left = match order {
                KeyOrder::Forward => next.lsn()..stretch.end,
                KeyOrder::Backward => stretch.start..Lsn(next.lsn().0 + 1),
            };
            unknown = left.start..left.start;
        }
        self.ready.extend(records.into_iter().filter(is_there));
        Ok((unknown, left))
    }
}

/// The records of a key in a stretch of one shard, the first one first.
#[derive(Debug)]
pub(super) struct StretchRange {
    source: Arc<dyn Source>,
    pub(super) found: Found,
    /// Looked through record by record, once what was found is given.
    records: Filtered,
    unknown: Range<Lsn>,
    /// What the index was not asked for yet.
    left: Range<Lsn>,
    /// Behind the last record that was given.
    given: Lsn,
    /// What was durable when this was looked up.
    limit: Lsn,
    /// Where it ends, and of which history that is.
    end: Lsn,
    history: History,
}

impl StretchRange {
    pub(super) fn new(
        source: Arc<dyn Source>,
        key: &[u8],
        places: Range<Lsn>,
    ) -> Result<StretchRange, ReadError> {
        let history = History::of(source.as_ref());
        let start = places.start;
        let end = if key.is_empty() { Lsn::MIN } else { places.end.min(source.accepted_end()) };
        let limit = source.durable();
        Ok(StretchRange {
            found: Found::nothing(source.as_ref()),
            records: Filtered::new(Cursor::at_rest(source.clone(), start)?, key),
            unknown: start..start,
            left: start..end,
            given: start,
            limit,
            end,
            history,
            source,
        })
    }

    /// Waits for what is not durable yet of a stretch.
    fn wait(&mut self, end: Lsn) -> Result<(), ReadError> {
        self.source.make_durable(end)?;
        self.limit = self.source.durable();
        Ok(())
    }

    fn look_up(&mut self) -> Result<(), ReadError> {
        let left = self.left.clone();
        let wanted = self.records.wanted();
        (self.unknown, self.left) = self.found.look_up(&self.source, wanted, left, KeyOrder::Forward)?;
        if !self.unknown.is_empty() {
            self.records.seek(self.unknown.start);
        }
        Ok(())
    }

    /// For good, whatever comes after.
    fn end(&mut self) {
        self.found.clear();
        (self.unknown, self.left) = (Lsn::MIN..Lsn::MIN, Lsn::MIN..Lsn::MIN);
        self.end = Lsn::MIN;
    }

    fn next_item(&mut self) -> Option<Result<Record, ReadError>> {
        loop {
            if self.found.is_outdated() {
                self.found.clear();
                self.left.start = self.given;
                self.unknown = self.given..self.given;
            }
            let item = self.found.next().or_else(|| {
                let end = self.unknown.end;
                if self.unknown.is_empty() {
                    return None;
                }
                match self.records.next(self.limit, end) {
                    Step::Record(record) => Some(Ok(record)),
                    Step::Error(error) => Some(Err(error)),
                    Step::End if self.limit < end => self.wait(end).err().map(|error| {
                        self.end();
                        Err(error)
                    }),
                    Step::End => {
                        self.unknown.start = end;
                        None
                    }
                }
            });
            match item {
                Some(item) => {
                    if let Ok(record) = &item {
                        self.given = Lsn(record.lsn().0 + 1);
                    }
                    return Some(item);
                }
                None if !self.unknown.is_empty() => {}
                None if self.left.is_empty() => return None,
                None => {
                    if let Err(error) = self.look_up() {
                        self.end();
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl Iterator for StretchRange {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.next_item();
        // It is of one moment: what was not given yet was seen then as well.
        let end = self.end.min(self.limit);
        if let Err(error) = self.history.check(self.source.as_ref(), end) {
            self.end();
            return Some(Err(error));
        }
        if item.is_none() {
            self.end();
        }
        item
    }
}

/// The records of a key in a stretch of one shard, the last one first.
#[derive(Debug)]
pub(super) struct StretchRangeBack {
    source: Arc<dyn Source>,
    wanted: Wanted,
    pub(super) found: Found,
    /// A stretch that is looked through record by record, once what was found is given.
    records: Option<RangeBack>,
    unknown: Range<Lsn>,
    /// What the index was not asked for yet.
    left: Range<Lsn>,
    /// The last record that was given, or the end.
    given: Lsn,
    limit: Lsn,
    /// Why not all that was accepted is there: told first.
    error: Option<ReadError>,
    /// Where it began, and of which history that is.
    top: Lsn,
    history: History,
}

impl StretchRangeBack {
    /// What was accepted is waited for now, since it comes first.
    pub(super) fn new(
        source: Arc<dyn Source>,
        key: &[u8],
        places: Range<Lsn>,
    ) -> Result<StretchRangeBack, ReadError> {
        let start = places.start;
        let end = if key.is_empty() { start } else { places.end.min(source.accepted_end()) };
        let error = if end > start { source.make_durable(end).err() } else { None };
        let limit = source.durable();
        Ok(StretchRangeBack::below(source, Wanted::key(key), start..end, limit, error))
    }

    pub(super) fn below(
        source: Arc<dyn Source>,
        wanted: Wanted,
        places: Range<Lsn>,
        limit: Lsn,
        error: Option<ReadError>,
    ) -> StretchRangeBack {
        let end = places.end.min(limit);
        StretchRangeBack {
            history: History::of(source.as_ref()),
            top: end,
            found: Found::nothing(source.as_ref()),
            records: None,
            unknown: end..end,
            left: places.start..end,
            given: end,
            wanted,
            limit,
            source,
            error,
        }
    }

    /// The next of what was looked up; `None` if that is all.
    fn next_found(&mut self) -> Option<Result<Record, ReadError>> {
        if let Some(item) = self.found.next() {
            return Some(item);
        }
        if self.records.is_none() && !self.unknown.is_empty() {
            let unknown = std::mem::replace(&mut self.unknown, Lsn::MIN..Lsn::MIN);
            match RangeBack::below(self.source.clone(), unknown, self.limit) {
                Ok(records) => self.records = Some(records),
                Err(error) => {
                    self.left = Lsn::MIN..Lsn::MIN;
                    return Some(Err(error));
                }
            }
        }
        let wanted = &self.wanted;
        let is_own = |item: &Result<Record, ReadError>| match item {
            Ok(record) => wanted.has(record),
            Err(_) => true,
        };
        let item = self.records.as_mut()?.find(is_own);
        if item.is_none() {
            self.records = None;
        }
        item
    }

    fn next_item(&mut self) -> Option<Result<Record, ReadError>> {
        loop {
            if self.found.is_outdated() {
                self.found.clear();
                self.left.end = self.given;
                self.unknown = Lsn::MIN..Lsn::MIN;
            }
            if let Some(item) = self.next_found() {
                if let Ok(record) = &item {
                    self.given = record.lsn();
                }
                return Some(item);
            }
            if self.left.is_empty() {
                return None;
            }
            let left = self.left.clone();
            match self.found.look_up(&self.source, &self.wanted, left, KeyOrder::Backward) {
                Ok((unknown, left)) => (self.unknown, self.left) = (unknown, left),
                Err(error) => {
                    self.left = Lsn::MIN..Lsn::MIN;
                    return Some(Err(error));
                }
            }
        }
    }

    /// For good, whatever comes after.
    fn end(&mut self) {
        self.found.clear();
        self.records = None;
        (self.unknown, self.left) = (Lsn::MIN..Lsn::MIN, Lsn::MIN..Lsn::MIN);
        self.top = Lsn::MIN;
    }
}

impl Iterator for StretchRangeBack {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        let item = self.next_item();
        if let Err(error) = self.history.check(self.source.as_ref(), self.top) {
            self.end();
            return Some(Err(error));
        }
        if item.is_none() {
            self.end();
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use crate::device::sim::{End, SimMachine};
    use crate::options::Tuning;
    use crate::simulation::Simulated;
    use crate::{Log, Options, Position, ShardId, Write};

    const KEYS: u64 = 40;

    fn open(machine: &SimMachine, indexed: bool) -> Log {
        let tuning = Tuning { index_run_bytes: 64 << 10, ..Tuning::default() };
        let options = Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).index_keys(indexed);
        options.tuned(tuning).device(&Simulated::of(machine)).open("/log").unwrap()
    }

    fn key(number: u64) -> [u8; 1] {
        [(number % KEYS) as u8]
    }

    /// Large records wait to be given a few at a time, also behind small ones, by which nobody could tell.
    #[test]
    fn what_waits_to_be_given_is_bounded() {
        let tuning = Tuning { index_run_bytes: 64 << 10, ..Tuning::default() };
        for block_bytes in [64 << 10, 2 << 20] {
            let machine = SimMachine::new(1);
            let options = Options::new().shards(1).block_bytes(block_bytes).segment_bytes(64 << 20);
            let options = options.memory_bytes(32 << 20).tuned(tuning.clone());
            let log = options.device(&Simulated::of(&machine)).open("/log").unwrap();
            let sizes = (0..90).map(|number| if number / 15 % 2 == 0 { 100 } else { 1 << 20 });
            let all: Vec<Position> =
                sizes.map(|bytes| log.append(Write::new(vec![7; bytes]).key(b"a")).wait().unwrap()).collect();
            while log.engine_of(ShardId(0)).go_on_indexing() {}
            let most = super::READY_BYTES + (1 << 20) + 4096;
            let held = |found: &super::Found| -> usize {
                found.ready.iter().map(|item| item.as_ref().unwrap().bytes.len()).sum()
            };
            let mut range = log.read_key(b"a", ..).unwrap();
            let (mut found, mut at_once) = (Vec::new(), 0);
            while let Some(item) = range.next() {
                found.push(item.unwrap().position());
                assert!(held(range.found()) <= most, "{} bytes", held(range.found()));
                at_once = at_once.max(range.found().ready.len());
            }
            assert_eq!(found, all);
            assert!(at_once > 3, "{at_once}");
            let mut back = log.read_key_back(b"a", ..).unwrap();
            let mut found = Vec::new();
            while let Some(item) = back.next() {
                found.insert(0, item.unwrap().position());
                assert!(held(back.found()) <= most, "{} bytes", held(back.found()));
            }
            assert_eq!(found, all);
            log.close().unwrap();
        }
    }

    /// With an index and without, forward and back, the same records; but with it, no more is read than they take.
    #[test]
    fn what_the_index_knows_is_not_looked_for() {
        let machine = SimMachine::new(1);
        let log = open(&machine, true);
        let all: Vec<Position> = (0..2_000)
            .map(|number| log.append(Write::new([7; 500]).key(key(number))).wait().unwrap())
            .collect();
        while log.engine_of(ShardId(0)).go_on_indexing() {}
        log.close().unwrap();
        machine.restart(End::Kill);
        for indexed in [false, true] {
            let log = open(&machine, indexed);
            while log.engine_of(ShardId(0)).go_on_indexing() {}
            let reach = log.stats().shards[0].indexed;
            assert_eq!(reach > all[1_800].lsn(), indexed, "{reach}");
            let (mut most, mut most_for_last) = (0, 0);
            for number in 0..KEYS {
                let own: Vec<Position> =
                    all[number as usize..].iter().copied().step_by(KEYS as usize).collect();
                let before = machine.counters().reads;
                let read = log.read_key(&key(number), own[0]..own[30]).unwrap();
                let found: Vec<Position> = read.map(|item| item.unwrap().position()).collect();
                most = most.max(machine.counters().reads - before);
                assert_eq!(found, own[..30]);
                let back = log.read_key_back(&key(number), ..).unwrap();
                let mut found: Vec<Position> = back.map(|item| item.unwrap().position()).collect();
                found.reverse();
                assert_eq!(found, own);
                let before = machine.counters().reads;
                assert_eq!(log.last(&key(number)).unwrap(), own.last().copied());
                most_for_last = most_for_last.max(machine.counters().reads - before);
            }
            // Of a record its block, which is one granule here, and of the index a few pages.
            assert!(!indexed || most <= 30 + 60, "{most} reads for 30 records");
            // Of the last one no others of its key, which may be many.
            assert!(!indexed || most_for_last <= 24, "{most_for_last} reads for one record");
            log.close().unwrap();
            machine.restart(End::Kill);
        }
    }
}
