//! The key index of a shard that somebody else owns: the runs that lie beside its segments, as far as they are there.
//!
//! Its owner adds runs, merges them and removes them, and tells nobody. So before much is read in which no known run tells
//! of a key, the folder is looked at for others. Whatever is not there or does not check is a stretch to be read.

use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use crate::device::Directory;
use crate::format::Defect;
use crate::index::{FilePages, PageCache, RunFile, look_for_runs};
use crate::position::Lsn;
use crate::segment::StoreView;
use crate::shard::{Hint, KeyPlaces, KeyQuery, Runs, current_runs, is_current_run};
use crate::sync::lock;

/// Pages that are kept in memory, of each shard that was asked for a key.
const CACHE_BYTES: usize = 1 << 20;

/// To look at a folder takes about as long as to read so much of the log for each name in it.
const BYTES_A_NAME: u64 = 1 << 10;

/// The runs of a shard, as its folder showed them.
#[derive(Debug)]
pub(super) struct ForeignIndex {
    directory: Arc<dyn Directory>,
    cache: Arc<PageCache>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By their numbers.
    files: Vec<RunFile>,
    /// In the folder, whatever they are.
    names: usize,
    /// Those that are of a view, for as long as it is the last one.
    current: Option<(Weak<StoreView>, Arc<Vec<RunFile>>)>,
}

/// Whether it is the same run by the same name.
fn is_same(one: &RunFile, other: &RunFile) -> bool {
    one.number == other.number && one.run.header.nonce == other.run.header.nonce
}

impl Seen {
    fn change(&mut self, files: Vec<RunFile>, cache: &PageCache) {
        let is_there = |gone: &&RunFile| {
            let found = files.binary_search_by_key(&gone.number, |run| run.number);
            found.is_ok_and(|index| is_same(&files[index], gone))
        };
        self.files.iter().filter(|run| !is_there(run)).for_each(|run| cache.forget(run.run.header.nonce));
        self.files = files;
        self.current = None;
    }

    fn current(&mut self, view: &Arc<StoreView>) -> Arc<Vec<RunFile>> {
        if let Some((of, runs)) = &self.current {
            if std::ptr::eq(of.as_ptr(), Arc::as_ptr(view)) {
                return runs.clone();
            }
        }
        let runs = Arc::new(current_runs(self.files.clone(), view));
        self.current = Some((Arc::downgrade(view), runs.clone()));
        runs
    }
}

impl ForeignIndex {
    pub(super) fn new(directory: Arc<dyn Directory>) -> ForeignIndex {
        ForeignIndex { directory, cache: Arc::new(PageCache::new(CACHE_BYTES)), seen: Mutex::default() }
    }

    /// What the runs that are of this view know of a key, as [`KeyPlaces::some`] gives it.
    pub(super) fn key_places(&self, view: &Arc<StoreView>, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        let told = self.ask(view, asked);
        let unknown = told.0.iter().find_map(|hint| match hint {
            Hint::Unknown { from, to } => Some(to.0 - from.0),
            Hint::Place(_) => None,
        });
        let is_much = unknown.is_some_and(|bytes| bytes >= lock(&self.seen).names as u64 * BYTES_A_NAME);
        if is_much && self.look(view) { self.ask(view, asked) } else { told }
    }

    fn ask(&self, view: &Arc<StoreView>, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        let runs = lock(&self.seen).current(view);
        let reach = runs.last().map_or(Lsn::MIN, |last| last.run.range().end);
        KeyPlaces::new(self, view.clone(), runs, reach, asked).some(asked)
    }

    /// Looks which runs there are; true if they are others.
    fn look(&self, view: &StoreView) -> bool {
        // What the log has no more is never asked for, so that it would not show that another run has its number by now.
        let mut known = lock(&self.seen).files.clone();
        known.retain(|run| is_current_run(run, view));
        let looked = look_for_runs(self.directory.as_ref(), &view.log_id, view.shard, &known);
        // What cannot be looked at now is as it was.
        let Ok((files, names)) = looked else { return false };
        let mut seen = lock(&self.seen);
        seen.names = names;
        let is_as_before = |(new, old): (&RunFile, &RunFile)| is_same(new, old);
        let are_others = files.len() != seen.files.len() || !files.iter().zip(&seen.files).all(is_as_before);
        if are_others {
            seen.change(files, &self.cache);
        }
        are_others
    }
}

impl Runs for ForeignIndex {
    fn pages(&self, run: &RunFile) -> Result<FilePages, Defect> {
        Ok(FilePages::new(&self.directory, run, Some(&self.cache)))
    }

    /// It is its owner's: it stays where it is, and is believed again where it checks.
    fn forget(&self, run: &RunFile) {
        let mut seen = lock(&self.seen);
        let mut files = seen.files.clone();
        files.retain(|kept| !is_same(kept, run));
        seen.change(files, &self.cache);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound::Excluded;
    use std::path::Path;

    use crate::device::sim::{End, Random, SimMachine};
    use crate::log::LogReader;
    use crate::options::Tuning;
    use crate::simulation::Simulated;
    use crate::{Log, Lsn, Options, Position, ReadError, Record, ShardId, Write};

    const KEYS: u64 = 40;
    const SHARD: ShardId = ShardId(0);

    fn options() -> Options {
        let tuning = Tuning { index_run_bytes: 64 << 10, ..Tuning::default() };
        Options::new().shards(1).block_bytes(4096).segment_bytes(256 << 10).index_keys(true).tuned(tuning)
    }

    fn open(machine: &SimMachine) -> Log {
        options().device(&Simulated::of(machine)).open("/log").unwrap()
    }

    fn beside(machine: &SimMachine) -> LogReader {
        LogReader::open_on(machine.device().as_ref(), Path::new("/log")).unwrap()
    }

    fn key(number: u64) -> [u8; 1] {
        [(number % KEYS) as u8]
    }

    fn append(log: &Log, numbers: std::ops::Range<u64>) {
        for number in numbers {
            log.append(Write::new([7; 500]).key(key(number))).wait().unwrap();
        }
    }

    fn index_all(log: &Log) {
        while log.engine_of(SHARD).go_on_indexing() {}
    }

    fn positions(items: impl Iterator<Item = Result<Record, ReadError>>) -> Vec<Position> {
        items.map(|item| item.unwrap().position()).collect()
    }

    /// Whatever way a key is asked for, it is what a scan finds of it.
    fn check(reader: &LogReader, number: u64) {
        let key = key(number);
        let all = reader.shard(SHARD).read(..).unwrap();
        let own = positions(all.filter(|item| item.as_ref().is_ok_and(|record| record.key() == key)));
        assert_eq!(positions(reader.read_key(&key, ..).unwrap()), own, "key {number}");
        let mut back = positions(reader.read_key_back(&key, ..).unwrap());
        back.reverse();
        assert_eq!(back, own, "key {number}, back");
        assert_eq!(reader.last(&key).unwrap(), own.last().copied(), "key {number}");
        if let [.., from, _, _, to, _] = own[..] {
            let part = reader.read_key(&key, (Excluded(from), Excluded(to))).unwrap();
            assert_eq!(positions(part), own[own.len() - 4..own.len() - 2], "key {number}");
        }
    }

    /// Of a log that is open elsewhere, and of one that nobody has open.
    #[test]
    fn what_its_owner_has_indexed_is_not_looked_for() {
        let machine = SimMachine::new(1);
        let log = open(&machine);
        append(&log, 0..2_000);
        index_all(&log);
        for is_open in [true, false] {
            let reader = beside(&machine);
            reader.shard(SHARD).durable_lsn().unwrap();
            for number in 0..KEYS {
                let before = machine.counters();
                // Nobody testifies to the very last record before the log is closed.
                let own = if is_open && number == KEYS - 1 { 49 } else { 50 };
                assert_eq!(reader.read_key(&key(number), ..).unwrap().count(), own);
                assert!(reader.last(&key(number)).unwrap().is_some());
                let after = machine.counters();
                let (reads, bytes) = (after.reads - before.reads, after.read_bytes - before.read_bytes);
                // Of 8 MiB, 50 blocks, some pages of the index, and twice what is not indexed yet; and once the files.
                let most = if number == 0 { 400 } else { 150 };
                assert!(reads < most && bytes < 2 << 20, "{reads} reads of {bytes} bytes for key {number}");
            }
            if is_open {
                log.close().unwrap();
            }
        }
    }

    /// Between one look at the folder and the next, runs come, become one, and go.
    #[test]
    fn runs_that_its_owner_merges_or_removes_are_done_without() {
        let machine = SimMachine::new(1);
        let log = open(&machine);
        let reader = beside(&machine);
        for round in 0..20 {
            append(&log, round * 60..(round + 1) * 60);
            check(&reader, round);
            index_all(&log);
            check(&reader, round + 1);
            if round % 7 == 6 {
                // Of what was looked up, and is read only then.
                let mut begun = reader.read_key(&key(round), ..).unwrap();
                let mut back = reader.read_key_back(&key(round), ..).unwrap();
                assert!(begun.next().is_some() && back.next().is_some());
                append(&log, 0..400);
                index_all(&log);
                let all = positions(reader.read_key(&key(round), ..).unwrap());
                let found = positions(begun);
                assert!(found.len() > 8 && all[1..].starts_with(&found));
                let found = positions(back);
                assert!(found.len() > 8 && all.starts_with(&found.into_iter().rev().collect::<Vec<_>>()));
            }
            if round % 10 == 9 {
                log.shard(SHARD).truncate_before(Lsn(log.shard(SHARD).durable_lsn().0 / 3)).unwrap();
                check(&reader, round + 2);
            }
        }
        log.close().unwrap();
    }

    /// Somebody takes files away and changes them, under a reader that has used them.
    #[test]
    fn runs_that_are_spoiled_or_gone_are_done_without() {
        let machine = SimMachine::new(1);
        let log = open(&machine);
        append(&log, 0..1_500);
        index_all(&log);
        log.close().unwrap();
        machine.restart(End::Kill);
        let mut random = Random::new(1);
        let reader = beside(&machine);
        let mut rounds = 0;
        for number in 0..KEYS {
            rounds += u64::from(machine.spoil_index(&mut random));
            check(&reader, number);
            check(&beside(&machine), number + 1);
        }
        assert!(rounds > 5, "{rounds}");
    }

    /// A reader knows runs of what is truncated since, whose numbers others have by now.
    #[test]
    fn runs_that_have_the_numbers_of_earlier_ones_are_opened() {
        let machine = SimMachine::new(1);
        let log = open(&machine);
        let reader = beside(&machine);
        append(&log, 0..1_000);
        index_all(&log);
        check(&reader, 1);
        // So that the last segment has nothing of a run, and too little for one.
        let last_segment = || {
            let (view, end) = (log.engine_of(SHARD).view(), log.shard(SHARD).durable_lsn());
            view.segment_of(Lsn(end.0 - 1)).map(|index| view.segments[index].base())
        };
        let before = last_segment();
        while last_segment() == before {
            append(&log, 0..1);
        }
        log.shard(SHARD).truncate_before(log.shard(SHARD).durable_lsn()).unwrap();
        index_all(&log);
        assert_eq!(log.engine_of(SHARD).indexed().0, last_segment().unwrap().0);
        log.close().unwrap();
        let log = open(&machine);
        append(&log, 0..2_000);
        index_all(&log);
        log.close().unwrap();
        for number in 0..KEYS {
            let before = machine.counters().read_bytes;
            assert!(reader.read_key(&key(number), ..).unwrap().count() >= 50);
            let bytes = machine.counters().read_bytes - before;
            assert!(bytes < 2 << 20 || number == 0, "{bytes} bytes for key {number}");
        }
    }

    /// Names with the highest number there is, of no run, of a foreign one and of one of its own, are in nobody's way.
    #[test]
    fn a_run_s_number_is_one_that_no_file_has() {
        for is_own in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let open = || options().segment_bytes(1 << 20).open(dir.path()).unwrap();
            let name = |number: u32| dir.path().join("shard-0000").join(format!("{number:010}.idx"));
            let log = open();
            append(&log, 0..300);
            index_all(&log);
            log.close().unwrap();
            let highest = (1..100).rev().find(|number| name(*number).exists()).expect("there are runs");
            if is_own {
                std::fs::rename(name(highest), name(u32::MAX)).unwrap();
            } else {
                std::fs::write(name(u32::MAX), vec![7; 16 << 10]).unwrap();
            }
            let log = open();
            index_all(&log);
            for round in 1..4 {
                append(&log, round * 300..(round + 1) * 300);
                index_all(&log);
                let (indexed, durable) = (log.engine_of(SHARD).indexed(), log.shard(SHARD).durable_lsn());
                assert!(indexed.0 + (128 << 10) > durable.0, "round {round}: {indexed} of {durable}");
            }
            // One of its own goes as others do.
            assert!(is_own || !name(u32::MAX).exists());
            check(&Log::open_read_only(dir.path()).unwrap(), 3);
            log.close().unwrap();
        }
    }

    /// All but the files of the index, or these alone.
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else if entry.path().extension().is_none_or(|ending| ending != "idx") {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    /// The log is cut, and then put back from a copy and gone on with otherwise, its runs left where they were.
    #[test]
    fn runs_of_what_the_log_has_no_more_are_not_believed() {
        let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let go_on = |numbers: std::ops::Range<u64>, is_indexed| {
            let log = options().segment_bytes(1 << 20).open(dir.path()).unwrap();
            append(&log, numbers);
            if is_indexed {
                index_all(&log);
            }
            log
        };
        let log = go_on(0..300, true);
        let reader = Log::open_read_only(dir.path()).unwrap();
        check(&reader, 1);
        let own = positions(log.read_key(&key(1), ..).unwrap());
        log.shard(SHARD).truncate_after(own[own.len() / 2].lsn()).unwrap();
        check(&reader, 1);
        append(&log, 300..600);
        check(&reader, 2);
        log.close().unwrap();
        copy(dir.path(), kept.path());
        go_on(0..400, true).close().unwrap();
        check(&reader, 3);
        // Of the segments that the copy does not have nothing is left: else it would be refused as older than they are.
        for entry in std::fs::read_dir(dir.path().join("shard-0000")).unwrap().map(Result::unwrap) {
            let is_segment = entry.path().extension().is_some_and(|ending| ending == "seg");
            if is_segment && !kept.path().join("shard-0000").join(entry.file_name()).exists() {
                let bytes = usize::try_from(entry.metadata().unwrap().len()).unwrap();
                std::fs::write(entry.path(), vec![0; bytes]).unwrap();
            }
        }
        copy(kept.path(), dir.path());
        // By other keys, in the places that the runs tell of.
        go_on(KEYS / 2..400, false).close().unwrap();
        for number in 0..KEYS {
            check(&reader, number);
            check(&Log::open_read_only(dir.path()).unwrap(), number);
        }
    }
}
