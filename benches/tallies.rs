//! Tallies: one viral key, and a Zipf 0.99 key space of a million keys; beside one record an update on this
//! engine, and a map under a mutex that is written to a file by hand.
//!
//! `cargo bench --bench tallies --features ceiling`. Fire and forget from two threads while a third one waits
//! for each of its own updates to be durable. Medians, in turn in one run; every total is read back.

#[path = "shared/zipf.rs"]
mod zipf;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sawmill::ceiling::cpu_time;
use sawmill::tally::{Sum, TallyOptions};
use sawmill::{Commit, Durability, Log, Options, Write};

const THREADS: usize = 2;
const VIRAL_UPDATES: usize = 10_000_000;
const ZIPF_UPDATES: usize = 4_000_000;
const RECORD_UPDATES: usize = 1_000_000;
const KEYS: usize = 1_000_000;
const TIMES: usize = 5;

/// What one way of counting did.
#[derive(Clone, Copy)]
struct Outcome {
    per_second: f64,
    cpu_ns: f64,
    device_bytes: f64,
    p99_ms: f64,
}

fn viral() -> Vec<Vec<u32>> {
    vec![vec![7; VIRAL_UPDATES / THREADS]; THREADS]
}

fn name(key: u32) -> [u8; 12] {
    let mut name = *b"post:0000000";
    let mut rest = key;
    for digit in name[5..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    name
}

fn device_bytes(log: &Log) -> u64 {
    log.stats().shards.iter().map(|shard| shard.device_bytes).sum()
}

fn percentile(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).or(times.last()).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// Counts by a tally, until everything is durable.
fn tally(dir: &Path, work: &[Vec<u32>]) -> Outcome {
    let log = Options::new().shards(1).open(dir).unwrap();
    let options = TallyOptions::new().keys(2 * KEYS);
    let tally = log.tally_with::<Sum>("likes", &options).unwrap();
    let before = device_bytes(&log);
    let stop = AtomicBool::new(false);
    let (began, cpu) = (Instant::now(), cpu_time());
    let (waited, refused) = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                tally.add(b"waited", 1).wait().unwrap();
                times.push(began.elapsed());
            }
            times
        });
        let counters: Vec<_> = work
            .iter()
            .map(|keys| {
                let tally = &tally;
                scope.spawn(move || {
                    let mut refused = 0u64;
                    for &key in keys {
                        while tally.add(name(key), 1).accepted().is_err() {
                            refused += 1;
                            std::thread::yield_now();
                        }
                    }
                    refused
                })
            })
            .collect();
        let refused: u64 = counters.into_iter().map(|counter| counter.join().unwrap()).sum();
        tally.flush().unwrap();
        stop.store(true, Ordering::Relaxed);
        (waiter.join().unwrap(), refused)
    });
    let outcome = outcome(work, began, cpu, device_bytes(&log) - before, percentile(waited));
    if refused > 0 {
        println!("  (refused and tried again {refused} times)");
    }
    log.close().unwrap();
    let log = Log::open(dir).unwrap();
    let total: i64 =
        log.tally("likes").unwrap().totals().filter(|(key, _)| key.len() == 12).map(|(_, sum)| sum).sum();
    assert_eq!(total as usize, work.iter().map(Vec::len).sum::<usize>());
    log.close().unwrap();
    outcome
}

fn outcome(work: &[Vec<u32>], began: Instant, cpu: Duration, bytes: u64, p99_ms: f64) -> Outcome {
    let updates: usize = work.iter().map(Vec::len).sum();
    Outcome {
        per_second: updates as f64 / began.elapsed().as_secs_f64(),
        cpu_ns: (cpu_time() - cpu).as_nanos() as f64 / updates as f64,
        device_bytes: bytes as f64 / updates as f64,
        p99_ms,
    }
}

/// One record an update, each durable, from the same threads with windows.
fn records(dir: &Path, work: &[Vec<u32>]) -> Outcome {
    let log = Options::new().shards(1).open(dir).unwrap();
    let before = device_bytes(&log);
    let work: Vec<Vec<u32>> = work.iter().map(|keys| keys[..RECORD_UPDATES / THREADS].to_vec()).collect();
    let (began, cpu) = (Instant::now(), cpu_time());
    std::thread::scope(|scope| {
        for keys in &work {
            let log = &log;
            scope.spawn(move || {
                let mut flying: VecDeque<Commit> = VecDeque::new();
                for &key in keys {
                    let name = name(key);
                    let write = Write::new(1i64.to_le_bytes()).key(name).durability(Durability::Synced);
                    flying.push_back(log.append(write).admitted().wait().unwrap());
                    while flying.len() > 4096 || flying.front().is_some_and(Commit::is_durable) {
                        flying.pop_front().unwrap().wait().unwrap();
                    }
                }
                flying.into_iter().for_each(|commit| assert!(commit.wait().is_ok()));
            });
        }
    });
    let outcome = outcome(&work, began, cpu, device_bytes(&log) - before, 0.0);
    log.close().unwrap();
    outcome
}

/// A map under a mutex, written to a file with fdatasync every 100 ms, as one does by hand.
fn by_hand(dir: &Path, work: &[Vec<u32>]) -> Outcome {
    let map: Mutex<HashMap<[u8; 12], i64>> = Mutex::default();
    let mut file = File::create(dir.join("by-hand")).unwrap();
    let stop = AtomicBool::new(false);
    let (began, cpu) = (Instant::now(), cpu_time());
    let bytes = std::thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            let mut bytes = 0u64;
            let mut last = false;
            loop {
                if !last {
                    std::thread::sleep(Duration::from_millis(100));
                }
                let taken = std::mem::take(&mut *map.lock().unwrap());
                let mut out = Vec::new();
                for (key, amount) in &taken {
                    out.extend_from_slice(key);
                    out.extend_from_slice(&amount.to_le_bytes());
                }
                file.write_all(&out).unwrap();
                file.sync_data().unwrap();
                bytes += out.len() as u64;
                if last {
                    return bytes;
                }
                last = stop.load(Ordering::SeqCst);
            }
        });
        let counters: Vec<_> = work
            .iter()
            .map(|keys| {
                let map = &map;
                scope.spawn(move || {
                    for &key in keys {
                        *map.lock().unwrap().entry(name(key)).or_default() += 1;
                    }
                })
            })
            .collect();
        counters.into_iter().for_each(|counter| counter.join().unwrap());
        stop.store(true, Ordering::SeqCst);
        flusher.join().unwrap()
    });
    outcome(work, began, cpu, bytes, 0.0)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

type Way = fn(&Path, &[Vec<u32>]) -> Outcome;

fn main() {
    // `cargo test` runs benches without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let place =
        std::env::var_os("SAWMILL_BENCH_DIR").map_or_else(|| "target".into(), std::path::PathBuf::from);
    std::fs::create_dir_all(&place).unwrap();
    let ways: [(&str, Way); 3] = [("tally", tally), ("a record each", records), ("map by hand", by_hand)];
    for (case, work) in
        [("one viral key", viral()), ("Zipf 0.99, 1 M keys", zipf::zipf(THREADS, ZIPF_UPDATES, KEYS))]
    {
        println!("{case}");
        let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); ways.len()];
        for _ in 0..TIMES {
            for ((_, way), outcomes) in ways.iter().zip(&mut outcomes) {
                let dir = tempfile::tempdir_in(&place).unwrap();
                outcomes.push(way(dir.path(), &work));
            }
        }
        for ((name, _), outcomes) in ways.iter().zip(&outcomes) {
            let of = |figure: fn(&Outcome) -> f64| median(outcomes.iter().map(figure).collect());
            println!(
                "  {name:15} {:7.2} M/s  {:6.0} ns CPU  {:9.4} device bytes an update  p99 to durable {:6.1} ms",
                of(|outcome| outcome.per_second) / 1e6,
                of(|outcome| outcome.cpu_ns),
                of(|outcome| outcome.device_bytes),
                of(|outcome| outcome.p99_ms),
            );
        }
    }
}
