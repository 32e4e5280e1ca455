//! What a shard does to another on the same drive, and what a silence does to the burst behind it.
//!
//! `cargo bench --bench neighbours --features ceiling`. Prints medians of interleaved runs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sawmill::ceiling::{BareFile, Method, Writes};
use sawmill::{Durability, Log, Options, Shard, ShardId, Write};

type Error = Box<dyn std::error::Error>;

const TIMES: usize = 5;
const TIME: Duration = Duration::from_millis(700);
const PAYLOAD: &[u8] = &[7; 256];
const LARGE: &[u8] = &[1; 64 << 10];
const BURST: u64 = 200_000;

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Median and 99th percentile of a lone durable writer's waits, in microseconds.
fn cold(mut act: impl FnMut() -> Result<(), Error>) -> Result<[f64; 2], Error> {
    let (began, mut waits) = (Instant::now(), Vec::new());
    while began.elapsed() < TIME {
        let before = Instant::now();
        act()?;
        waits.push(before.elapsed().as_secs_f64() * 1e6);
    }
    waits.sort_by(f64::total_cmp);
    Ok([waits[waits.len() / 2], waits[waits.len() * 99 / 100]])
}

/// Runs `hot` in a thread of its own while `cold` is measured.
fn beside(
    hot: impl Fn(&AtomicBool) -> Result<(), String> + Sync,
    measured: impl FnOnce() -> Result<[f64; 2], Error>,
) -> Result<[f64; 2], Error> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| hot(&over));
        let found = measured();
        over.store(true, Ordering::Relaxed);
        thread.join().expect("the hot one does not panic")?;
        found
    })
}

/// Appends and leaves alone, at so many records a second; 0 is as fast as it goes.
fn ingest(shard: &Shard, rate: f64, over: &AtomicBool) -> Result<(), String> {
    let (began, mut count) = (Instant::now(), 0u64);
    while !over.load(Ordering::Relaxed) {
        if rate > 0.0 && count as f64 > began.elapsed().as_secs_f64() * rate {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        for _ in 0..64 {
            let write = Write::new(PAYLOAD).durability(Durability::Buffered);
            drop(shard.append(write).admitted().wait().map_err(|error| error.to_string())?);
        }
        count += 64;
    }
    Ok(())
}

/// One blocking writer on a shard, alone, beside another shard at a fixed rate and beside one that takes what it can;
/// and a bare synchronous writer beside bare writes of the same blocks.
fn hot_and_cold(dir: &Path) -> Result<(), Error> {
    let options = Options::new().shards(2).segment_bytes(64 << 20).retain_bytes(256 << 20);
    let log = options.open(dir.join("shards"))?;
    let (hot, own) = (log.shard(ShardId(0)), log.shard(ShardId(1)));
    let lone = BareFile::make(dir, 64 << 20)?;
    let other = dir.join("other");
    std::fs::create_dir(&other)?;
    let busy = BareFile::make(&other, 256 << 20)?;
    // Until both recycle.
    for shard in [&hot, &own] {
        for _ in 0..2 {
            for _ in 0..(300 << 20) / LARGE.len() {
                let write = Write::new(LARGE).durability(Durability::Written);
                drop(shard.append(write).admitted().wait()?);
            }
            log.sync().wait()?;
            std::thread::sleep(Duration::from_millis(1_200));
        }
    }
    let append = || own.append(PAYLOAD).wait().map(drop).map_err(Error::from);
    let write = || -> Result<[f64; 2], Error> {
        let bare = lone.blocking(4096, Method::WriteThrough, TIME)?;
        Ok([50.0, 99.0].map(|percent| bare.percentile(percent).as_secs_f64() * 1e6))
    };
    let stream = |over: &AtomicBool| -> Result<(), String> {
        let writes = Writes { block_bytes: 256 << 10, depth: 8, method: Method::Behind };
        while !over.load(Ordering::Relaxed) {
            busy.uring(&writes, TIME / 20).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    let names = ["alone", "beside one of 250,000 records/s", "beside one that takes all it can"];
    let mut found = [const { Vec::new() }; 3];
    let mut bare = [const { Vec::new() }; 2];
    for _ in 0..TIMES {
        bare[0].push(write()?);
        found[0].push(cold(append)?);
        found[1].push(beside(|over| ingest(&hot, 250_000.0, over), || cold(append))?);
        found[2].push(beside(|over| ingest(&hot, 0.0, over), || cold(append))?);
        bare[1].push(beside(stream, write)?);
    }
    let print = |name: &str, runs: &[[f64; 2]]| {
        let of = |which: usize| median(runs.iter().map(|run| run[which]).collect());
        println!("{name:<50} p50 {:>7.0} us   p99 {:>7.0} us", of(0), of(1));
    };
    for (name, runs) in names.iter().zip(&found) {
        print(&format!("one blocking writer, {name}"), runs);
    }
    print("a bare synchronous writer, alone", &bare[0]);
    print("beside bare writes, 256 KiB, 8 in flight", &bare[1]);
    log.close()?;
    Ok(())
}

/// How long a burst takes to be durable.
fn burst(log: &Log) -> Result<f64, Error> {
    let began = Instant::now();
    for _ in 0..BURST {
        let write = Write::new(PAYLOAD).durability(Durability::Buffered);
        drop(log.append(write).admitted().wait()?);
    }
    log.sync().wait()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// A burst, one right behind it, and one after a second of silence.
fn after_silence(dir: &Path) -> Result<(), Error> {
    let options = Options::new().shards(1).segment_bytes(64 << 20).retain_bytes(128 << 20);
    let log = options.open(dir.join("bursts"))?;
    for _ in 0..8 {
        burst(&log)?;
    }
    let mut found = [const { Vec::new() }; 3];
    for _ in 0..TIMES {
        std::thread::sleep(Duration::from_secs(3));
        found[0].push(burst(&log)?);
        found[1].push(burst(&log)?);
        std::thread::sleep(Duration::from_secs(1));
        found[2].push(burst(&log)?);
    }
    let [first, second, silent] = found.map(median);
    println!(
        "a burst of {BURST} records, durable: {first:.0} ms, another right behind it {second:.0} ms, after a second of \
         silence {silent:.0} ms"
    );
    log.close()?;
    Ok(())
}

fn main() -> Result<(), Error> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    hot_and_cold(dir.path())?;
    after_silence(dir.path())
}
