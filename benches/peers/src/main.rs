//! sawmill beside what its users would pick instead: the same blocking callers, each in its honest durable mode,
//! in turn in one run.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! # With RocksDB, if the library is there:
//! ROCKSDB_LIB_DIR=/usr/lib ROCKSDB_INCLUDE_DIR=/usr/include \
//!     cargo run --release --manifest-path benches/peers/Cargo.toml --features rocksdb -- --tallies
//! ```

mod peers;
mod tallies;
#[path = "../../shared/zipf.rs"]
mod zipf;

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;

type Error = Box<dyn std::error::Error>;

/// sawmill beside its peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the logs are made; on the disk that is to be measured.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Blocking callers.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512")]
    threads: Vec<usize>,
    /// Bytes of a record.
    #[arg(long, default_value_t = 256)]
    record_bytes: usize,
    /// How long each run takes.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Runs of each; the median counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Counting by key instead of appending.
    #[arg(long)]
    tallies: bool,
    /// Only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Clone, Copy)]
struct Outcome {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

fn cpu_time() -> Duration {
    // SAFETY: the structure is zeroed and outlives the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Nanoseconds, up to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn run(peer: &dyn peers::Peer, threads: usize, bytes: usize, time: Duration) -> Result<Outcome, Error> {
    let (stop, start) = (AtomicBool::new(false), Barrier::new(threads + 1));
    let payload = vec![7u8; bytes];
    // The first append may open or make something.
    peer.append(&payload)?;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..threads)
            .map(|_| {
                let (stop, start, payload) = (&stop, &start, &payload);
                scope.spawn(move || {
                    let mut times = histogram();
                    start.wait();
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        if let Err(error) = peer.append(payload) {
                            return Err(error.to_string());
                        }
                        times.saturating_record(began.elapsed().as_nanos() as u64);
                    }
                    Ok(times)
                })
            })
            .collect();
        start.wait();
        let (began, cpu) = (Instant::now(), cpu_time());
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let mut all = histogram();
        for caller in callers {
            all.add(caller.join().map_err(|_| "a caller panicked")??)?;
        }
        let (elapsed, cpu) = (began.elapsed(), cpu_time() - cpu);
        Ok(Outcome {
            per_second: all.len() as f64 / elapsed.as_secs_f64(),
            p50_us: all.value_at_quantile(0.5) as f64 / 1e3,
            p99_us: all.value_at_quantile(0.99) as f64 / 1e3,
            cpu_us: cpu.as_secs_f64() * 1e6 / all.len().max(1) as f64,
        })
    })
}

/// Appends in flight, where one thread keeps as many as that.
const WINDOW: usize = 1024;

/// sawmill alone, from one thread that waits for the oldest of so many: what none of the others offers. Records a
/// second.
fn in_flight(dir: &Path, bytes: usize, time: Duration) -> Result<f64, Error> {
    let log = sawmill::Options::new().shards(1).open(dir)?;
    let payload = vec![7u8; bytes];
    log.append(&payload).wait()?;
    let (began, mut records, mut window) = (Instant::now(), 0u64, log.window(WINDOW));
    while began.elapsed() < time {
        for _ in 0..64 {
            window.push(&payload)?;
        }
        records += 64;
    }
    for position in window {
        position?;
    }
    Ok(records as f64 / began.elapsed().as_secs_f64())
}

fn median(outcomes: &[Outcome], figure: fn(&Outcome) -> f64) -> f64 {
    let mut figures: Vec<f64> = outcomes.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.dir)?;
    let dir = std::fs::canonicalize(&arguments.dir)?;
    let time = Duration::from_secs_f64(arguments.seconds);
    if arguments.tallies {
        return tallies::run(&dir, arguments.repeat);
    }
    let mut peers = peers::all();
    if !arguments.only.is_empty() {
        peers.retain(|(name, _)| arguments.only.iter().any(|only| only == name));
    }
    println!("blocking callers, {} bytes, durable; medians of {}", arguments.record_bytes, arguments.repeat);
    for &threads in &arguments.threads {
        let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); peers.len()];
        let is_last = Some(&threads) == arguments.threads.last();
        let mut window = Vec::new();
        for _ in 0..arguments.repeat {
            for ((name, open), outcomes) in peers.iter().zip(&mut outcomes) {
                let dir = tempfile::tempdir_in(&dir)?;
                let outcome = open(dir.path())
                    .and_then(|peer| run(peer.as_ref(), threads, arguments.record_bytes, time));
                match outcome {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(error) => eprintln!("{name}: {error}"),
                }
            }
            if is_last && peers.iter().any(|(name, _)| *name == "sawmill") {
                let dir = tempfile::tempdir_in(&dir)?;
                window.push(in_flight(dir.path(), arguments.record_bytes, time)?);
            }
        }
        println!(
            "\n{threads:4} callers {:>14} {:>10} {:>10} {:>12}",
            "records/s", "p50 us", "p99 us", "CPU us/rec"
        );
        for ((name, _), outcomes) in peers.iter().zip(&outcomes) {
            println!(
                "  {name:12} {:14.0} {:10.0} {:10.0} {:12.1}",
                median(outcomes, |outcome| outcome.per_second),
                median(outcomes, |outcome| outcome.p50_us),
                median(outcomes, |outcome| outcome.p99_us),
                median(outcomes, |outcome| outcome.cpu_us),
            );
        }
        if !window.is_empty() {
            window.sort_by(f64::total_cmp);
            let others = peers.iter().zip(&outcomes).filter(|((name, _), _)| *name != "sawmill");
            let best = others.map(|(_, outcomes)| median(outcomes, |outcome| outcome.per_second));
            let (own, best) = (window[window.len() / 2], best.fold(0.0, f64::max));
            println!(
                "  sawmill, one thread with {WINDOW} in flight {own:.0}, {:.1} times the best of the others",
                own / best
            );
        }
    }
    println!(
        "\nby hand: std alone, a shared buffer, one caller writes and syncs for all, into a file whose blocks are there.\n\
         okaywal: commit(). raft-engine: write(batch, sync). wal-db: append_and_sync(). fjall: insert and\n\
         persist(SyncData). walrus: SyncEach on its descriptor backend. rocksdb: put with sync.\n\
         Those that keep a table beside the log pay for it here, too. Fresh pages of the page cache are dear on virtual\n\
         machines, which punishes all but sawmill."
    );
    Ok(())
}
