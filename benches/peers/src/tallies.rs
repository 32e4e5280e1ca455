//! Counting by key: a tally of sawmill's, and RocksDB's merge operator with its log synced every 100 ms.

use std::path::Path;
use std::time::Instant;

use crate::{Error, cpu_time};

const THREADS: usize = 2;
const UPDATES: usize = 2_000_000;
const KEYS: usize = 1_000_000;

/// Updates a second, nanoseconds of CPU and bytes written an update.
type Figures = [f64; 3];

/// What a way of counting is given, and gives back: how many updates its totals hold in the end.
type Way = fn(&Path, &[Vec<u32>]) -> Result<i64, Error>;

/// Bytes that this process has caused to be written, proc_pid_io(5).
fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

fn sawmill(dir: &Path, work: &[Vec<u32>]) -> Result<i64, Error> {
    let log = sawmill::Options::new().shards(1).open(dir)?;
    let options = sawmill::tally::TallyOptions::new().keys(2 * KEYS);
    let tally = log.tally_with::<sawmill::tally::Sum>("likes", &options)?;
    std::thread::scope(|scope| {
        for keys in work {
            let tally = &tally;
            scope.spawn(move || {
                for key in keys {
                    while tally.add(key.to_be_bytes(), 1).accepted().is_err() {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    tally.flush()?;
    Ok(tally.totals().map(|(_, sum)| sum).sum())
}

#[cfg(feature = "rocksdb")]
fn rocksdb(dir: &Path, work: &[Vec<u32>]) -> Result<i64, Error> {
    use std::sync::atomic::{AtomicBool, Ordering};
    fn read(bytes: &[u8]) -> i64 {
        bytes.try_into().map_or(0, i64::from_le_bytes)
    }
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_merge_operator_associative("sum", |_, own, operands| {
        let sum = own.map_or(0, read) + operands.iter().map(read).sum::<i64>();
        Some(sum.to_le_bytes().to_vec())
    });
    let database = rocksdb::DB::open(&options, dir)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<(), Error> {
        let (database, stop) = (&database, &stop);
        let syncer = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(100));
                database.flush_wal(true)?;
            }
            Ok::<(), rocksdb::Error>(())
        });
        let counters: Vec<_> = work
            .iter()
            .map(|keys| {
                scope.spawn(move || {
                    keys.iter().try_for_each(|key| database.merge(key.to_be_bytes(), 1i64.to_le_bytes()))
                })
            })
            .collect();
        for counter in counters {
            counter.join().map_err(|_| "a counter panicked")??;
        }
        stop.store(true, Ordering::Relaxed);
        syncer.join().map_err(|_| "the syncer panicked")??;
        Ok(())
    })?;
    let all = database.iterator(rocksdb::IteratorMode::Start);
    Ok(all.filter_map(Result::ok).map(|(_, value)| read(&value)).sum())
}

/// Both ways on both loads, in turn.
pub fn run(dir: &Path, repeat: usize) -> Result<(), Error> {
    let ways: Vec<(&str, Way)> = vec![
        ("sawmill", sawmill),
        #[cfg(feature = "rocksdb")]
        ("rocksdb", rocksdb),
    ];
    let viral = vec![vec![7; UPDATES / THREADS]; THREADS];
    let zipf = crate::zipf::zipf(THREADS, UPDATES, KEYS);
    for (case, work) in [("one viral key", viral), ("Zipf 0.99, 1 M keys", zipf)] {
        println!("{case}: {:>14} {:>16} {:>16}", "updates/s", "CPU ns/update", "bytes/update");
        let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); ways.len()];
        for _ in 0..repeat {
            for ((name, way), figures) in ways.iter().zip(&mut figures) {
                let dir = tempfile::tempdir_in(dir)?;
                let (began, cpu, bytes) = (Instant::now(), cpu_time(), written());
                let sum = way(dir.path(), &work)?;
                if sum != UPDATES as i64 {
                    return Err(format!("{name}: {sum} updates of {UPDATES}").into());
                }
                let updates = UPDATES as f64;
                figures.push([
                    updates / began.elapsed().as_secs_f64(),
                    (cpu_time() - cpu).as_nanos() as f64 / updates,
                    (written() - bytes) as f64 / updates,
                ]);
            }
        }
        for ((name, _), figures) in ways.iter().zip(&figures) {
            let median = |index: usize| {
                let mut all: Vec<f64> = figures.iter().map(|figures| figures[index]).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            println!("  {name:12} {:>14.0} {:>16.0} {:>16.2}", median(0), median(1), median(2));
        }
    }
    println!("The time of the whole: opening, counting, the last sync, and reading all totals.");
    Ok(())
}
