//! Shards and producers beside each other, held against what a model says of them.
//!
//! `cargo bench --bench scaling --features ceiling [-- RECORD_BYTES]`. The model (`docs/performance.md`, "64 cores and
//! 8 drives"): shards share nothing on the way of a record, so that each costs what it costs alone, `c` of CPU, and
//! the rate is the lesser of what the cores give, `cores / c`, and what the device takes, `bandwidth / bytes`. With a
//! core for each shard and its producer more shards are more records; here it shows whether `c` stays what it was.
//! Prints medians of interleaved runs, on the disk and, where there is one, in memory.

use std::path::Path;
use std::time::{Duration, Instant};

use sawmill::ceiling::{BareFile, Method, Writes, cpu_time};
use sawmill::{Log, Options, ShardId};

type Error = Box<dyn std::error::Error>;

const TIMES: usize = 5;
const TIME: Duration = Duration::from_millis(600);
const BARE_BYTES: u64 = 256 << 20;
/// Of all shards together.
const RETAIN_BYTES: u64 = 512 << 20;

/// Records a second, nanoseconds of CPU each, and device bytes each.
#[derive(Clone, Copy)]
struct Outcome {
    rate: f64,
    cpu: f64,
    bytes: f64,
}

/// So many producers, dealt out to the shards, post until the time is over; all of it is durable at the end.
fn run(log: &Log, producers: u16, payload: &[u8]) -> Result<Outcome, Error> {
    let device_bytes = |log: &Log| log.stats().shards.iter().map(|shard| shard.device_bytes).sum::<u64>();
    let (before, began, cpu) = (device_bytes(log), Instant::now(), cpu_time());
    let post = |producer: u16| -> Result<u64, sawmill::AppendError> {
        let shard = log.shard(ShardId(producer % log.shards()));
        let mut records = 0;
        while began.elapsed() < TIME {
            for _ in 0..64 {
                shard.post(payload)?;
            }
            records += 64;
        }
        Ok(records)
    };
    let records: u64 = std::thread::scope(|scope| {
        let producers: Vec<_> = (0..producers).map(|producer| scope.spawn(move || post(producer))).collect();
        producers
            .into_iter()
            .map(|producer| producer.join().expect("no producer panics"))
            .sum::<Result<_, _>>()
    })?;
    log.sync().wait()?;
    let (elapsed, cpu) = (began.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu).as_nanos() as f64);
    let records = records as f64;
    let bytes = (device_bytes(log) - before) as f64 / records;
    Ok(Outcome { rate: records / elapsed, cpu: cpu / records, bytes })
}

/// Until segments are recycled.
fn fill(log: &Log) -> Result<(), Error> {
    let payload = vec![1; 64 << 10];
    for _ in 0..2 {
        for record in 0..RETAIN_BYTES / payload.len() as u64 {
            log.shard(ShardId((record % u64::from(log.shards())) as u16)).post(&payload)?;
        }
        log.sync().wait()?;
        // Retention looks once a second.
        std::thread::sleep(Duration::from_millis(1_500));
    }
    Ok(())
}

fn median(outcomes: &[Outcome], of: fn(&Outcome) -> f64) -> f64 {
    let mut figures: Vec<f64> = outcomes.iter().map(of).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn measure(place: &str, dir: &Path, payload: &[u8]) -> Result<(), Error> {
    let cores = std::thread::available_parallelism()?.get() as u16;
    // Twice as many producers as cores show what a shard costs that shares its word.
    let steps = std::iter::successors(Some(1u16), |step| Some(step * 2)).take_while(|&step| step <= cores);
    let mut cases: Vec<(u16, u16)> = steps.clone().map(|shards| (shards, shards)).collect();
    cases.extend(steps.skip(1).map(|producers| (1, producers)));
    let logs: Vec<Log> = cases
        .iter()
        .map(|&(shards, producers)| {
            let options = Options::new()
                .shards(shards)
                .segment_bytes(16 << 20)
                .retain_bytes(RETAIN_BYTES / u64::from(shards));
            let log = options.open(dir.join(format!("{shards}-{producers}")))?;
            fill(&log).map(|()| log)
        })
        .collect::<Result<_, Error>>()?;
    let bare = BareFile::make(dir, BARE_BYTES)?;
    let (mut outcomes, mut bandwidths) = (vec![Vec::new(); cases.len()], Vec::new());
    for _ in 0..TIMES {
        for ((&(_, producers), log), outcomes) in cases.iter().zip(&logs).zip(&mut outcomes) {
            outcomes.push(run(log, producers, payload)?);
        }
        let writes = Writes { block_bytes: 256 << 10, depth: 16, method: Method::Behind };
        bandwidths.push(match bare.uring(&writes, TIME) {
            Ok(writes) => writes.bytes_per_second(),
            Err(_) => bare.blocking(writes.block_bytes, writes.method, TIME)?.bytes_per_second(),
        });
    }
    bandwidths.sort_by(f64::total_cmp);
    let bandwidth = bandwidths[TIMES / 2];
    let alone = median(&outcomes[0], |outcome| outcome.cpu);
    println!(
        "{place}: bare writes {:.0} MiB/s; {} bytes, {cores} cores",
        bandwidth / f64::from(1 << 20),
        payload.len()
    );
    println!("  shards producers  M records/s   model  to model   CPU ns  to one shard's");
    for (&(shards, producers), outcomes) in cases.iter().zip(&outcomes) {
        let [rate, cpu, bytes] = [|it: &Outcome| it.rate, |it: &Outcome| it.cpu, |it: &Outcome| it.bytes]
            .map(|of| median(outcomes, of));
        let by_cores = f64::from(cores) * 1e9 / alone;
        let model = by_cores.min(bandwidth / bytes);
        println!(
            "  {shards:6} {producers:9} {:12.2} {:7.2} {:9.2} {cpu:8.0} {:15.2}",
            rate / 1e6,
            model / 1e6,
            rate / model,
            cpu / alone
        );
    }
    for log in logs {
        log.close()?;
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    // Cargo passes `--bench`.
    let bytes = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(256);
    let payload = vec![7; bytes];
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    measure("disk", disk.path(), &payload)?;
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        measure("memory", memory.path(), &payload)?;
    }
    Ok(())
}
