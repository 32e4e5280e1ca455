//! Histories on a simulated machine, against plain integers: exact totals through crashes at every step.

mod clock;
mod copies;
mod no_room;

use std::collections::BTreeMap;

use super::{Sum, Tally, TallyOptions, UpdateError};
use crate::simulation::{End, Faults, Simulated};
use crate::{Log, Lsn, Options, ShardId, TallyError, TruncateError};

const PATH: &str = "/tallies";

/// A small generator of its own: the machine's is the machine's.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

type Sums = BTreeMap<Vec<u8>, i64>;

/// What must be there, in plain integers.
#[derive(Default)]
struct Oracle {
    /// What a reopen found.
    base: Sums,
    /// What was accepted since, in order.
    updates: Vec<(Vec<u8>, i64)>,
    /// So many of them are acknowledged.
    durable: usize,
    /// Every moment that there was: a cut of the log goes back to one of them.
    past: std::collections::BTreeSet<Vec<(Vec<u8>, i64)>>,
    /// The log was cut by its owner while the tally was not open.
    cut: bool,
}

impl Oracle {
    fn sums(&self) -> Sums {
        let mut sums = self.base.clone();
        for (key, amount) in &self.updates {
            // Never over: what would be was not accepted.
            *sums.entry(key.clone()).or_default() += amount;
        }
        sums
    }

    fn accepts(&self, key: &[u8], amount: i64) -> bool {
        self.sums().get(key).copied().unwrap_or(0).checked_add(amount).is_some()
    }

    /// What is found is what some moment had that is not before the last acknowledgement.
    fn check_reopened(&mut self, found: &Sums, closed: bool) {
        let mut sums = self.base.clone();
        let list = |sums: &Sums| sums.iter().map(|(key, sum)| (key.clone(), *sum)).collect::<Vec<_>>();
        let least = if closed { self.updates.len() } else { self.durable };
        let mut fits = least == 0 && sums == *found;
        self.past.insert(list(&sums));
        for (count, (key, amount)) in self.updates.iter().enumerate() {
            *sums.entry(key.clone()).or_default() += amount;
            fits |= count + 1 >= least && sums == *found;
            self.past.insert(list(&sums));
        }
        fits |= self.cut && self.past.contains(&list(found));
        assert!(fits, "found {found:?}, which is no moment from {} of {:?}", self.durable, self.updates);
        let past = std::mem::take(&mut self.past);
        *self = Oracle { base: found.clone(), past, ..Oracle::default() };
    }
}

struct History {
    random: Random,
    machine: Simulated,
    options: Options,
    tally_options: TallyOptions,
    oracle: Oracle,
    counts: Counts,
}

/// What the histories met, so that none of it is never met.
#[derive(Debug, Default)]
struct Counts {
    lives: u64,
    cut: u64,
    closed: u64,
    failed: u64,
    overflows: u64,
    refused: u64,
    truncated: u64,
    held: u64,
    anchors: u64,
    cuts: u64,
    cuts_refused: u64,
}

fn sums_of(tally: &Tally) -> Sums {
    tally.totals().collect()
}

impl History {
    fn new(seed: u64, counts: Counts) -> History {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let machine = Simulated::seed(seed);
        let options = Options::new()
            .shards(1 + random.below(3) as u16)
            .block_bytes(4096 << random.below(3))
            .segment_bytes(1 << 20)
            .memory_bytes(1 << 20);
        let tally_options = TallyOptions::new().bytes(64 << 10).keys([40, 4_000][random.below(2) as usize]);
        History { random, machine, options, tally_options, oracle: Oracle::default(), counts }
    }

    fn open(&self) -> Result<Log, crate::OpenError> {
        // A device is of one life of the machine.
        self.options.clone().device(&self.machine).open(PATH)
    }

    fn key(&mut self) -> Vec<u8> {
        // A few hot ones, and many that come once.
        match self.random.below(4) {
            0 => format!("rare-{}", self.random.below(200)).into_bytes(),
            _ => vec![b'k', self.random.below(6) as u8],
        }
    }

    fn amount(&mut self) -> i64 {
        match self.random.below(40) {
            0 => i64::MAX - self.random.below(3) as i64,
            1 => i64::MIN + self.random.below(3) as i64,
            _ => self.random.below(2_000) as i64 - 1_000,
        }
    }

    /// A life: from an open to a close or the end of the machine.
    fn life(&mut self) {
        self.counts.lives += 1;
        let faults = match self.random.below(4) {
            0 => Faults { stop_after: Some(self.random.below(400)), ..Faults::default() },
            1 => Faults { write_error: 10, sync_error: 10, ..Faults::default() },
            _ => Faults::default(),
        };
        self.machine.set_faults(&faults);
        let closed = self.live().unwrap_or(false);
        let end = if self.random.one_in(2) { End::Kill } else { End::PowerCut };
        self.machine.set_faults(&Faults::default());
        self.machine.restart(end);
        self.counts.closed += u64::from(closed);
        self.counts.cut += u64::from(!closed);
        let log = self.open().expect("nothing is damaged");
        if self.random.one_in(4) {
            self.cut(&log);
        }
        let tally = log.tally_with::<Sum>("likes", &self.tally_options).expect("exact totals");
        self.oracle.check_reopened(&sums_of(&tally), closed);
        // So that no update hangs over into the next life.
        log.close().unwrap();
    }

    /// True if the log was closed cleanly; `None` if something could not be done.
    fn live(&mut self) -> Option<bool> {
        let log = self.open().ok()?;
        let tally = log.tally_with::<Sum>("likes", &self.tally_options).ok()?;
        assert_eq!(sums_of(&tally), self.oracle.sums());
        for _ in 0..20 + self.random.below(120) {
            if self.step(&log, &tally).is_none() {
                self.counts.failed += 1;
                return Some(log.close().is_ok());
            }
        }
        let end = self.random.below(3);
        match end {
            0 => None,
            1 => Some(log.close().is_ok()),
            _ => {
                drop((log, tally));
                // A drop says nothing about how it went.
                None
            }
        }
    }

    fn step(&mut self, log: &Log, tally: &Tally) -> Option<()> {
        match self.random.below(20) {
            0 => self.wait(tally)?,
            1 => self.truncate(log),
            2 => {
                let bytes = vec![9; self.random.below(30_000) as usize];
                log.append(bytes).wait().ok()?;
            }
            3 => {
                // Totals alone.
                let before = tally.0.id();
                tally.0.flush_once(true).ok()?;
                assert_eq!(before, tally.0.id());
                self.oracle.durable = self.oracle.updates.len();
            }
            4 => assert_eq!(sums_of(tally), self.oracle.sums()),
            5 => {
                let key = self.key();
                assert_eq!(tally.get(&key), self.oracle.sums().get(&key).copied());
            }
            _ => self.update(tally)?,
        }
        Some(())
    }

    fn update(&mut self, tally: &Tally) -> Option<()> {
        let (key, amount) = (self.key(), self.amount());
        let update = tally.add(&key, amount);
        match update.accepted() {
            Ok(()) => {
                assert!(self.oracle.accepts(&key, amount), "an overflow was accepted: {amount}");
                self.oracle.updates.push((key, amount));
                if self.random.one_in(30) {
                    update.wait().ok()?;
                    self.oracle.durable = self.oracle.updates.len();
                }
            }
            Err(UpdateError::Overflow) => {
                self.counts.overflows += 1;
                assert!(!self.oracle.accepts(&key, amount), "refused: {amount}");
            }
            Err(UpdateError::TooManyKeys { .. } | UpdateError::Overloaded { .. }) => self.counts.refused += 1,
            Err(error) => {
                assert!(matches!(error, UpdateError::Failed(_)), "{error}");
                return None;
            }
        }
        Some(())
    }

    fn wait(&mut self, tally: &Tally) -> Option<()> {
        tally.flush().ok()?;
        self.oracle.durable = self.oracle.updates.len();
        for key in [&b"k\0"[..], b"k\x01"] {
            assert_eq!(tally.durable(key), self.oracle.sums().get(key).copied());
        }
        Some(())
    }

    /// Cuts the log behind some record, as far as the tally lets it: it is not open, and goes back with the log.
    fn cut(&mut self, log: &Log) {
        for shard in 0..log.shards() {
            let shard = log.shard(ShardId(shard));
            let records: Vec<Lsn> = shard.read(..).unwrap().map(|record| record.unwrap().lsn()).collect();
            if records.is_empty() {
                continue;
            }
            let lsn = records[self.random.below(records.len() as u64) as usize];
            match shard.truncate_after(lsn) {
                Ok(()) => {
                    self.oracle.cut = true;
                    self.counts.cuts += 1;
                }
                Err(TruncateError::Needed { .. }) => self.counts.cuts_refused += 1,
                Err(TruncateError::InsideBatch { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// As far as the tally lets it: what it needs stays.
    fn truncate(&mut self, log: &Log) {
        for shard in 0..log.shards() {
            let shard = log.shard(ShardId(shard));
            match shard.truncate_before(shard.durable_lsn()) {
                Ok(()) => self.counts.truncated += 1,
                Err(TruncateError::Needed { from: lsn, .. }) => {
                    self.counts.held += 1;
                    self.counts.anchors += u64::from(lsn > Lsn(100_000));
                    let _ = shard.truncate_before(lsn);
                }
                Err(_) => {}
            }
        }
    }
}

#[test]
fn histories() {
    let seeds = std::env::var("SAWMILL_TALLY_SEEDS").ok();
    let seeds = seeds
        .as_deref()
        .and_then(|text| text.split_once(".."))
        .map(|(from, to)| from.parse::<u64>().expect("a number")..to.parse().expect("a number"));
    let mut all = Counts::default();
    for seed in seeds.unwrap_or(0..400) {
        let mut history = History::new(seed, std::mem::take(&mut all));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 + history.random.below(6) {
                history.life();
            }
        }));
        if let Err(panic) = outcome {
            eprintln!("SAWMILL_TALLY_SEEDS={seed}..{} cargo test --lib tally::tests::histories", seed + 1);
            std::panic::resume_unwind(panic);
        }
        all = history.counts;
    }
    let counts = format!("{all:?}");
    eprintln!("{counts}");
    if std::env::var_os("SAWMILL_TALLY_SEEDS").is_none() {
        assert!(!counts.contains(": 0"), "something was never met: {counts}");
    }
}

/// The same with threads, which add up each by itself.
#[test]
fn threads_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let log = Options::new().shards(1).open(dir.path()).unwrap();
    let options = TallyOptions::new().interval(std::time::Duration::from_millis(1));
    let tally = log.tally_with::<Sum>("sum", &options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8i64 {
            let tally = &tally;
            scope.spawn(move || {
                for index in 0..20_000i64 {
                    let key = [b'a' + (index % 7) as u8];
                    tally.add(key, thread + 1).accepted().unwrap();
                    tally.add(b"seen", 1).accepted().unwrap();
                    if index % 5_000 == 0 {
                        let seen = tally.get(b"seen").unwrap();
                        tally.add(b"waited", 1).wait().unwrap();
                        assert!(tally.durable(b"seen").unwrap() >= seen.min(1));
                        assert!(tally.get(b"seen").unwrap() >= seen);
                    }
                }
            });
        }
    });
    assert_eq!(tally.get(b"seen"), Some(160_000));
    let total: i64 = tally.totals().filter(|(key, _)| key.len() == 1).map(|(_, sum)| sum).sum();
    assert_eq!(total, 36 * 20_000);
    tally.flush().unwrap();
    assert_eq!(tally.durable(b"seen"), Some(160_000));
    log.close().unwrap();
    assert!(matches!(tally.add(b"seen", 1).wait(), Err(UpdateError::Closed)));
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.tally("sum").unwrap().get(b"seen"), Some(160_000));
    assert!(matches!(log.tally_of::<super::Count>("sum"), Err(TallyError::OtherFold { .. })));
}

/// A flush that the log has lost is told, wherever it stood; the first ones may be gone once totals stand behind.
#[test]
fn a_missing_flush_is_told() {
    let machine = Simulated::seed(1);
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20).device(&machine);
    let log = options.open(PATH).unwrap();
    let tally = log.tally("likes").unwrap();
    for amount in 1..=5 {
        tally.add(b"key", amount).wait().unwrap();
    }
    let records: Vec<_> = log.shard(ShardId(0)).read(..).unwrap().map(|record| record.unwrap()).collect();
    let row = crate::format::AnchorRow { id: tally.0.id(), ..bytemuck::Zeroable::zeroed() };
    let sum_without = |flush: u64| {
        let totals = super::totals::Totals::<Sum>::new(10, &hashbrown::DefaultHashBuilder::default());
        let left = records.iter().filter(|record| {
            super::wire::parse(row.id, record.payload()).is_ok_and(|parsed| parsed.flush != flush)
        });
        super::replay::replay::<Sum>("likes", &row, &totals, left.map(|record| Ok(record.clone())))?;
        Ok::<_, TallyError>(totals.get(b"key"))
    };
    assert_eq!(sum_without(0).unwrap(), Some(15));
    assert_eq!(sum_without(1).unwrap(), Some(15), "totals stand behind it");
    for flush in 2..5 {
        assert!(matches!(sum_without(flush), Err(TallyError::Damaged { .. })), "without flush {flush}");
    }
}

/// What a key has come to at any time can be read from the log.
#[test]
fn history_is_at_the_grain_of_the_flush() {
    let machine = Simulated::seed(2);
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20).device(&machine);
    let log = options.open(PATH).unwrap();
    let tally = log.tally("likes").unwrap();
    for amount in 1..=4 {
        tally.add(b"key", amount).accepted().unwrap();
        tally.add(b"key", 10 * amount).accepted().unwrap();
        tally.add(b"other", 1).wait().unwrap();
    }
    tally.add(b"other", 1).wait().unwrap();
    let all: Vec<(u64, i64)> = tally.history(b"key", ..).unwrap().map(Result::unwrap).collect();
    assert_eq!(all.iter().map(|(_, change)| *change).collect::<Vec<_>>(), [11, 22, 33, 44]);
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let some: Vec<_> = tally.history(b"key", all[1].0..all[3].0).unwrap().map(Result::unwrap).collect();
    assert_eq!(some, all[1..3]);
    assert_eq!(tally.history(b"nobody", ..).unwrap().count(), 0);
}

/// The maintenance thread looks at tallies, and makes the segments that flushes wait for: neither waits for the other.
#[test]
fn flushes_and_maintenance_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
    let log = options.retain_bytes(8 << 20).open(dir.path()).unwrap();
    let options = TallyOptions::new().interval(std::time::Duration::ZERO);
    let tallies = ["one", "two"].map(|name| log.tally_with::<Sum>(name, &options).unwrap());
    // Whatever a flush waits for, the maintenance thread, which asks this, does not wait for the flush.
    tallies[0].0.while_flushing(|| assert!(!tallies[0].0.lags()));
    // Long enough for the maintenance thread to look around a few times.
    let began = std::time::Instant::now();
    let mut count = 0u64;
    while began.elapsed() < std::time::Duration::from_millis(2_500) {
        for tally in &tallies {
            while let Err(refused) = tally.add(format!("key-{}", count % 5_000), 1).accepted() {
                assert!(matches!(refused, UpdateError::Overloaded { .. }), "{refused}");
                std::thread::yield_now();
            }
        }
        count += 1;
    }
    // Also while one is removed, and with it its last flush.
    log.remove_tally("two").unwrap();
    assert!(matches!(tallies[1].add(b"key", 1).wait(), Err(UpdateError::Closed)));
    log.close().unwrap();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.tally("one").unwrap().totals().map(|(_, sum)| sum as u64).sum::<u64>(), count);
    assert_eq!(log.tally("two").unwrap().totals().count(), 0);
}

/// A fold of somebody's own that panics.
#[derive(Debug)]
struct Superstitious;

impl super::Fold for Superstitious {
    const NAME: &'static str = "test.superstitious";
    type Change = u8;
    type Value = u8;
    type Total = u8;

    fn lift(change: u8, _: u64) -> u8 {
        change
    }

    fn merge(total: &mut u8, change: &u8) {
        *total = *change;
    }

    fn total(value: &u8) -> Option<u8> {
        Some(*value)
    }

    fn encode(value: &u8, into: &mut Vec<u8>) {
        assert_ne!(*value, 13, "bad luck");
        into.push(*value);
    }

    fn decode(bytes: &[u8]) -> Option<u8> {
        bytes.first().copied()
    }
}

#[test]
fn a_fold_that_panics_hangs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let log = Options::new().shards(1).open(dir.path()).unwrap();
    let tally = log.tally_of::<Superstitious>("luck").unwrap();
    tally.update(b"a", 12).wait().unwrap();
    assert!(matches!(tally.update(b"b", 13).wait(), Err(UpdateError::FoldPanicked)));
    assert!(matches!(tally.update(b"c", 1).wait(), Err(UpdateError::FoldPanicked)));
    assert!(matches!(tally.flush(), Err(TallyError::FoldPanicked)));
    // The log is none the worse, nor is what was durable before.
    log.append(b"more").wait().unwrap();
    log.close().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let tally = log.tally_of::<Superstitious>("luck").unwrap();
    assert_eq!((tally.get(b"a"), tally.get(b"b")), (Some(12), None));
    log.remove_tally("luck").unwrap();
    assert!(log.remove_tally("luck").is_err());
}

thread_local! {
    /// What [`Watched`] does when it adds values up.
    static WATCH: std::cell::RefCell<Option<Box<dyn Fn()>>> = const { std::cell::RefCell::new(None) };
}

/// Counts, and looks around whenever it adds up.
#[derive(Debug)]
struct Watched;

impl super::Fold for Watched {
    const NAME: &'static str = "test.watched";
    type Change = u8;
    type Value = u8;
    type Total = u8;

    fn lift(change: u8, _: u64) -> u8 {
        change
    }

    fn merge(total: &mut u8, change: &u8) {
        WATCH.with_borrow(|watch| watch.iter().for_each(|watch| watch()));
        *total += change;
    }

    fn total(value: &u8) -> Option<u8> {
        Some(*value)
    }

    fn encode(value: &u8, into: &mut Vec<u8>) {
        into.push(*value);
    }

    fn decode(bytes: &[u8]) -> Option<u8> {
        bytes.first().copied()
    }
}

/// A flush that is durable and not acknowledged yet is not cut off either: its updates are told to be there.
#[test]
fn a_cut_takes_no_flush_that_is_on_its_way() {
    let machine = Simulated::seed(4);
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20).device(&machine);
    let log = options.open(PATH).unwrap();
    let tally = log.tally_of::<Watched>("likes").unwrap();
    tally.update(b"key", 1).wait().unwrap();
    let here = log.append(b"cut here").wait().unwrap();
    let before = log.shard(ShardId(0)).durable_lsn();
    let tried = std::rc::Rc::new(std::cell::Cell::new(0));
    let (shard, count) = (log.shard(ShardId(0)), tried.clone());
    WATCH.set(Some(Box::new(move || {
        // Only when the changes are added to the totals: then they are in the log.
        if shard.durable_lsn() > before {
            count.set(count.get() + 1);
            assert!(matches!(shard.truncate_after(here.lsn()), Err(TruncateError::Needed { .. })));
        }
    })));
    let outcome = tally.update(b"key", 1).wait();
    WATCH.set(None);
    outcome.unwrap();
    assert!(tried.get() > 0, "nothing was added up in between");
    drop((tally, log));
    machine.restart(End::PowerCut);
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20).device(&machine);
    assert_eq!(options.open(PATH).unwrap().tally_of::<Watched>("likes").unwrap().get(b"key"), Some(2));
}

/// Totals that are wanted for themselves come in one go.
#[test]
fn totals_alone_are_written_as_fast_as_they_go() {
    let machine = Simulated::seed(3);
    let options = Options::new().shards(1).segment_bytes(1 << 20).memory_bytes(1 << 20).device(&machine);
    let log = options.open(PATH).unwrap();
    let tally = log.tally("likes").unwrap();
    for key in 0..500 {
        tally.add(format!("key-{key}"), 1).accepted().unwrap();
    }
    tally.flush().unwrap();
    let device_bytes = || log.stats().shards[0].device_bytes;
    // The rest of the round that began with the first flush, and a whole one.
    for _ in 0..2 {
        tally.0.flush_once(true).unwrap();
    }
    let before = device_bytes();
    tally.0.flush_once(true).unwrap();
    assert!(device_bytes() - before > 500 * 8, "{} bytes hold no 500 keys", device_bytes() - before);
}
