//! What the key index says of a key.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use super::{beginning, indexed};
use crate::format::{Defect, KeyHash};
use crate::index::{FilePages, Place, Places, RunFile};
use crate::position::Lsn;
use crate::segment::StoreView;
use crate::shard::Engine;

/// What a lookup finds in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// A record of the key may be here; none is between this and the place before it.
    Place(Place),
    /// Of this stretch nothing is known.
    Unknown { from: Lsn, to: Lsn },
}

/// What the index is asked.
#[derive(Clone, Debug)]
pub(crate) struct KeyQuery<'k> {
    pub key: &'k [u8],
    pub stretch: Range<Lsn>,
    pub order: KeyOrder,
    /// No more places than that are wanted at once.
    pub most: usize,
}

/// From which end places are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    Forward,
    Backward,
}

/// Whose runs are looked in: those of a shard that is open here, or of one that somebody else owns.
pub(crate) trait Runs: Debug {
    /// The pages of a run.
    ///
    /// # Errors
    /// Where nobody has looked which runs there are.
    fn pages(&self, run: &RunFile) -> Result<FilePages, Defect>;

    /// A run turned out to be none.
    fn forget(&self, run: &RunFile);
}

impl Runs for Engine {
    fn pages(&self, run: &RunFile) -> Result<FilePages, Defect> {
        let directory = self.indexing.directory.get().ok_or(Defect::Unreadable)?;
        Ok(FilePages::new(directory, run, Some(&self.indexing.cache)))
    }

    fn forget(&self, run: &RunFile) {
        let gone = self.indexing.change(&self.view(), |runs| runs.retain(|kept| kept.number != run.number));
        if let Some(directory) = self.indexing.directory.get() {
            gone.iter().for_each(|run| run.remove(directory.as_ref()));
        }
    }
}

impl Engine {
    /// Where records of a key may be in `range`, as far as it is [`indexed`](Engine::indexed): in order, or from the end on.
    ///
    /// What is given is a hint: the record that is there may be of another key. Of a stretch that cannot be told of, that
    /// is said; whoever asks reads all of it.
    pub(crate) fn key_places(&self, key: &[u8], range: Range<Lsn>, order: KeyOrder) -> KeyPlaces<'_> {
        let view = self.view();
        let runs = self.indexing.runs();
        // As far as these very runs reach: others may have come or gone meanwhile.
        let reach = indexed(&runs, &view);
        let asked = KeyQuery { key, stretch: range, order, most: usize::MAX };
        KeyPlaces::new(self, view, runs, reach, &asked)
    }
}

/// The places of a key.
#[derive(Debug)]
pub(crate) struct KeyPlaces<'i> {
    index: &'i dyn Runs,
    hash: KeyHash,
    view: Arc<StoreView>,
    runs: Arc<Vec<RunFile>>,
    /// Those that were not looked at.
    left: Range<usize>,
    /// What was not told of.
    pub(super) range: Range<Lsn>,
    order: KeyOrder,
    current: Option<Current>,
}

/// The run that places are taken from.
#[derive(Debug)]
struct Current {
    index: usize,
    places: Places<FilePages>,
}

impl<'i> KeyPlaces<'i> {
    /// Those that runs which are of this view, in order, know of below `reach`.
    pub(crate) fn new(
        index: &'i dyn Runs,
        view: Arc<StoreView>,
        runs: Arc<Vec<RunFile>>,
        reach: Lsn,
        asked: &KeyQuery<'_>,
    ) -> KeyPlaces<'i> {
        let KeyQuery { key, ref stretch, order, .. } = *asked;
        let start = stretch.start.max(beginning(&view).unwrap_or(Lsn::MAX)).max(view.horizon);
        let range = start..stretch.end.min(reach);
        let first = runs.partition_point(|run| run.run.range().end <= range.start);
        let end = runs.partition_point(|run| run.run.range().start < range.end);
        let (hash, left) = (KeyHash::of(&view.log_id, key), first..end.max(first));
        KeyPlaces { index, hash, view, left, runs, range, order, current: None }
    }

    /// At most so many of them; and the stretch that was not told of. All of `stretch` that the index does not reach is
    /// unknown.
    pub(crate) fn some(mut self, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        let KeyQuery { ref stretch, order, most, .. } = *asked;
        let mut hints = Vec::new();
        let is_out_of_reach = self.range.is_empty() || self.range.end < stretch.end;
        if order == KeyOrder::Backward && is_out_of_reach {
            let from = self.range.end.clamp(stretch.start, stretch.end);
            let from = if self.range.is_empty() { stretch.start } else { from };
            return (vec![Hint::Unknown { from, to: stretch.end }], stretch.start..from);
        }
        hints.extend(Iterator::take(self.by_ref(), most));
        let Range { start, end } = self.range;
        match order {
            KeyOrder::Forward if hints.len() < most => {
                let from = start.clamp(stretch.start, stretch.end);
                if from < stretch.end {
                    hints.push(Hint::Unknown { from, to: stretch.end });
                }
                (hints, stretch.end..stretch.end)
            }
            KeyOrder::Forward => (hints, start..stretch.end),
            KeyOrder::Backward if hints.len() < most => (hints, stretch.start..stretch.start),
            KeyOrder::Backward => (hints, stretch.start..end),
        }
    }

    /// The next run that was not looked at.
    fn next_run(&self) -> Option<usize> {
        let Range { start, end } = self.left;
        (start < end).then(|| if self.order == KeyOrder::Forward { start } else { end - 1 })
    }

    /// What no run covers in front of the next one, or behind them all; told of now.
    fn gap(&mut self) -> Option<Hint> {
        let Range { start: from, end: to } = self.range;
        let run = self.next_run().map(|index| self.runs[index].run.range());
        let (from, to) = match (self.order, run) {
            (KeyOrder::Forward, Some(run)) => (from, run.start.min(to)),
            (KeyOrder::Backward, Some(run)) => (run.end.max(from), to),
            (_, None) => (from, to),
        };
        (from < to).then(|| {
            match self.order {
                KeyOrder::Forward => self.range.start = to,
                KeyOrder::Backward => self.range.end = from,
            }
            Hint::Unknown { from, to }
        })
    }

    /// The part of what was not told of that a run covers; told of now.
    fn rest_of(&mut self, index: usize) -> Range<Lsn> {
        let run = self.runs[index].run.range();
        match self.order {
            KeyOrder::Forward => {
                let end = run.end.min(self.range.end);
                std::mem::replace(&mut self.range.start, end)..end
            }
            KeyOrder::Backward => {
                let start = run.start.max(self.range.start);
                start..std::mem::replace(&mut self.range.end, start)
            }
        }
    }

    /// The place, if the epoch that it was indexed in still owns it; all up to it is told of.
    fn take(&mut self, place: Place) -> Option<Hint> {
        match self.order {
            KeyOrder::Forward => self.range.start = Lsn(place.lsn.0 + 1),
            KeyOrder::Backward => self.range.end = place.lsn,
        }
        let (row, _) = self.view.epochs.owner(place.lsn)?;
        ((row.epoch, row.nonce) == (place.epoch, place.nonce)).then_some(Hint::Place(place))
    }

    fn unknown(&mut self, index: usize, defect: Defect) -> Hint {
        if defect != Defect::Unreadable {
            self.index.forget(&self.runs[index]);
        }
        let Range { start: from, end: to } = self.rest_of(index);
        Hint::Unknown { from, to }
    }
}

impl Iterator for KeyPlaces<'_> {
    type Item = Hint;

    fn next(&mut self) -> Option<Hint> {
        loop {
            if let Some(Current { index, places }) = &mut self.current {
                let index = *index;
                let next = match self.order {
                    KeyOrder::Forward => places.next(),
                    KeyOrder::Backward => places.next_back(),
                };
                match next {
                    Some(Ok(place)) => match self.take(place) {
                        Some(hint) => return Some(hint),
                        None => continue,
                    },
                    Some(Err(defect)) => {
                        self.current = None;
                        return Some(self.unknown(index, defect));
                    }
                    None => {
                        self.rest_of(index);
                        self.current = None;
                    }
                }
            }
            if let Some(gap) = self.gap() {
                return Some(gap);
            }
            let index = match self.order {
                KeyOrder::Forward => self.left.next()?,
                KeyOrder::Backward => self.left.next_back()?,
            };
            let run = &self.runs[index];
            let pages = self.index.pages(run);
            match pages.and_then(|pages| run.run.places(pages, self.hash, self.range.clone())) {
                Ok(places) => self.current = Some(Current { index, places }),
                Err(defect) => return Some(self.unknown(index, defect)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sim::{Faults, SimMachine};
    use crate::options::Tuning;
    use crate::simulation::Simulated;
    use crate::{Log, Options, Position, ShardId, Write};

    const RECORDS: u64 = 40_000;

    fn key(number: u64) -> [u8; 8] {
        number.to_be_bytes()
    }

    /// A log of 11 MiB, each record of which has a key of its own, with its index.
    fn indexed_log(dir: &std::path::Path) -> Log {
        let tuning = Tuning { index_run_bytes: 512 << 10, ..Tuning::default() };
        let options = Options::new().shards(1).segment_bytes(4 << 20).memory_bytes(4 << 20).index_keys(true);
        let log = options.tuned(tuning).open(dir).unwrap();
        if log.stats().shards[0].durable_lsn == Lsn(0) {
            for number in 0..RECORDS {
                log.post(Write::new([7; 256]).key(key(number))).unwrap();
            }
            log.sync().wait().unwrap();
        }
        while log.engine_of(ShardId(0)).go_on_indexing() {}
        log
    }

    /// The last place of a key in the index, with the pages that were read for it.
    fn last(engine: &Engine, key: &[u8]) -> (Option<Place>, u64) {
        let before = engine.indexing.cache.reads();
        let hint = engine.key_places(key, Lsn::MIN..Lsn::MAX, KeyOrder::Backward).next();
        let place = hint.map(|hint| match hint {
            Hint::Place(place) => place,
            Hint::Unknown { .. } => panic!("{hint:?} in an honest index"),
        });
        (place, engine.indexing.cache.reads() - before)
    }

    #[test]
    fn lookups_read_what_they_need_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        drop(indexed_log(dir.path()));
        // Found again, and nothing of it is in memory.
        let log = indexed_log(dir.path());
        let engine = log.engine_of(ShardId(0));
        let indexed = log.stats().shards[0].indexed;
        assert!(indexed > Lsn(10 << 20), "{indexed}");
        let runs = engine.indexing.runs().len() as u64;
        assert!((3..10).contains(&runs), "{runs} runs: of 20, eight and eight were made one");
        // The keys' pages come into memory, which has room for them.
        for number in RECORDS..RECORDS + 2_000 {
            last(engine, &key(number));
        }
        let absent =
            (RECORDS * 2..RECORDS * 2 + 1_000).filter(|number| last(engine, &key(*number)).1 > 0).count();
        assert!(absent <= 10, "{absent} of 1,000 keys that are not there cost a read");
        let (mut reads, mut most) = (0, 0);
        for number in (0..RECORDS / 2).step_by(199) {
            let (place, read) = last(engine, &key(number));
            let place = place.expect("it is there");
            let position = Position::new(ShardId(0), place.epoch, place.lsn, place.block);
            assert_eq!(log.get(position).unwrap().key(), key(number));
            (reads, most) = (reads + read, most.max(read));
        }
        // Of each a page of places, and of each run once where its blocks begin; the record is read beside that.
        let keys = (RECORDS / 2).div_ceil(199);
        assert!(reads <= keys + runs && most <= 2, "{reads} pages read for {keys} keys, {most} for one");
        log.close().unwrap();
    }

    /// A file that is not what it should be is said to be unknown, once, and is then built anew.
    #[test]
    fn a_spoiled_run_is_built_anew() {
        let dir = tempfile::tempdir().unwrap();
        let log = indexed_log(dir.path());
        let engine = log.engine_of(ShardId(0));
        let indexed = engine.indexed();
        let names = || -> Vec<_> {
            let files = std::fs::read_dir(dir.path().join("shard-0000")).unwrap();
            let names = files.map(|file| file.unwrap().path());
            names.filter(|path| path.extension().is_some_and(|ending| ending == "idx")).collect()
        };
        for name in names() {
            let bytes = std::fs::read(&name).unwrap();
            std::fs::write(&name, vec![0; bytes.len()]).unwrap();
        }
        let hints = |number| engine.key_places(&key(number), Lsn::MIN..Lsn::MAX, KeyOrder::Forward);
        let unknown = hints(5).filter(|hint| matches!(hint, Hint::Unknown { .. })).count();
        assert!(unknown > 0 && engine.indexed() < indexed);
        while engine.go_on_indexing() {}
        // What is written begins and ends elsewhere.
        assert!(engine.indexed().0 + (512 << 10) >= indexed.0, "{} of {indexed}", engine.indexed());
        assert!(matches!(hints(5).collect::<Vec<_>>()[..], [Hint::Place(_)]));
        assert!(names().len() < 10, "{:?}", names());
    }

    /// A full disk may stay full: what is tried again and again reads a run's stretch each time.
    #[test]
    fn what_has_failed_is_left_alone_for_a_while() {
        let machine = SimMachine::new(1);
        let tuning = Tuning { index_run_bytes: 64 << 10, ..Tuning::default() };
        let options = Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).index_keys(true);
        let log = options.tuned(tuning).device(&Simulated::of(&machine)).open("/log").unwrap();
        for _ in 0..200 {
            log.append(Write::new([7; 1000]).key(b"key")).wait().unwrap();
        }
        let engine = log.engine_of(ShardId(0));
        machine.set_faults(Faults { call_error: 1_000, ..Faults::default() });
        while engine.go_on_indexing() {}
        machine.set_faults(Faults::default());
        let reads = machine.counters().reads;
        assert!(!engine.go_on_indexing());
        assert_eq!((machine.counters().reads, engine.indexed()), (reads, Lsn(0)));
        machine.device().pause(Duration::from_secs(61));
        while engine.go_on_indexing() {}
        assert!(engine.indexed() > Lsn(64 << 10), "{}", engine.indexed());
        log.close().unwrap();
    }

    /// Nobody asks for it: the maintenance thread sees what there is to do.
    #[test]
    fn the_index_is_built_beside_everything_else() {
        let dir = tempfile::tempdir().unwrap();
        let tuning = Tuning { index_run_bytes: 256 << 10, ..Tuning::default() };
        let options = Options::new().shards(2).memory_bytes(4 << 20).tuned(tuning);
        let log = options.clone().index_keys(true).open(dir.path()).unwrap();
        let begun = std::time::Instant::now();
        while log.stats().shards.iter().any(|shard| shard.indexed == Lsn(0)) {
            for shard in (0..2).map(|shard| log.shard(ShardId(shard))) {
                shard.append(Write::new([7; 32 << 10]).key(b"key")).wait().unwrap();
            }
            assert!(begun.elapsed().as_secs() < 60, "nothing is indexed");
        }
        log.close().unwrap();
        // With it off nobody builds it, nor looks for what is there.
        let log = options.index_keys(false).open(dir.path()).unwrap();
        assert!(!log.engine_of(ShardId(0)).go_on_indexing());
        assert_eq!(log.stats().shards[0].indexed, Lsn(0));
        log.close().unwrap();
    }

    /// All files but those of the index, as they are in `from`.
    fn copy_log(from: &std::path::Path, to: &std::path::Path) {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                std::fs::create_dir_all(&to).unwrap();
                copy_log(&entry.path(), &to);
            } else if entry.path().extension().is_none_or(|ending| ending != "idx") {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    /// The log was put back from a copy and has gone on otherwise; the index was left as it was.
    #[test]
    fn a_run_of_what_the_log_has_no_more_is_built_anew() {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tuning = Tuning { index_run_bytes: 128 << 10, ..Tuning::default() };
        let options = Options::new().shards(1).memory_bytes(4 << 20).tuned(tuning).index_keys(true);
        let write = |name: &str| {
            let log = options.open(dir.path()).unwrap();
            while log.engine_of(ShardId(0)).go_on_indexing() {}
            for number in 0..4_000 {
                log.post(Write::new([7; 256]).key(format!("{name}{number}"))).unwrap();
            }
            log.sync().wait().unwrap();
            while log.engine_of(ShardId(0)).go_on_indexing() {}
            log
        };
        write("first").close().unwrap();
        copy_log(dir.path(), copy.path());
        write("gone").close().unwrap();
        copy_log(copy.path(), dir.path());
        let log = write("second");
        let engine = log.engine_of(ShardId(0));
        let records: Vec<_> =
            log.shard(ShardId(0)).read(..engine.indexed()).unwrap().map(Result::unwrap).collect();
        assert!(records.len() > 6_000, "{} records are indexed", records.len());
        for record in records.iter().step_by(3) {
            let places = engine.key_places(record.key(), Lsn::MIN..Lsn::MAX, KeyOrder::Forward);
            let found = places.filter(|hint| matches!(hint, Hint::Place(place) if place.lsn == record.lsn()));
            assert_eq!(found.count(), 1, "the record at {} is not in the index", record.lsn());
        }
        log.close().unwrap();
    }

    /// The longest key there is takes sixteen blocks of this log, and its record one more.
    #[test]
    fn a_key_that_lies_across_blocks_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let tuning = Tuning { index_run_bytes: 128 << 10, ..Tuning::default() };
        let options = Options::new().shards(1).block_bytes(4096).memory_bytes(1 << 20).tuned(tuning);
        let log = options.index_keys(true).open(dir.path()).unwrap();
        let keys: Vec<Vec<u8>> =
            (0..40).map(|number| vec![number; 100 + usize::from(number) * 1_650]).collect();
        for key in keys.iter().cycle().take(80) {
            log.append(Write::new(b"payload").key(key)).wait().unwrap();
        }
        let engine = log.engine_of(ShardId(0));
        while engine.go_on_indexing() {}
        let (indexed, mut across) = (engine.indexed(), 0);
        assert!(indexed > Lsn(2 << 20), "{indexed}");
        for record in log.shard(ShardId(0)).read(..indexed).unwrap().map(Result::unwrap) {
            let places = engine.key_places(record.key(), Lsn::MIN..Lsn::MAX, KeyOrder::Forward);
            let found = places.filter(|hint| matches!(hint, Hint::Place(place) if place.lsn == record.lsn()));
            assert_eq!(found.count(), 1, "the record at {} is not in the index", record.lsn());
            across += u32::from(record.key().len() > 4096);
        }
        assert!(across > 60, "{across} keys lie across blocks");
        log.close().unwrap();
    }
}
