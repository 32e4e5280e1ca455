//! Durable appends by 4,096 tasks, beside one thread with a window of 4,096, in turn; and one task alone, beside
//! bare io_uring writes one at a time.
//!
//! `cargo bench --bench tasks --features ceiling`; with `--features ceiling,tokio-uring` also on a shard that
//! lives in a tokio-uring runtime. Prints medians; only what was durable before the clock stopped counts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sawmill::ceiling::{BareFile, Method, Writes, cpu_time};
use sawmill::{AppendError, Durability, Log, Options, Write};

const IN_FLIGHT: usize = 4096;
const PAYLOAD: &[u8] = &[7; 256];
const TIME: Duration = Duration::from_millis(500);
const TIMES: usize = 7;

/// Records a second, and nanoseconds of CPU each.
type Rate = (f64, f64);

fn rate(records: u64, began: Instant, cpu: Duration) -> Rate {
    let cpu = cpu_time().saturating_sub(cpu).as_nanos() as f64;
    (records as f64 / began.elapsed().as_secs_f64(), cpu / records.max(1) as f64)
}

/// Appends until it is told to stop.
async fn task(log: Log, stop: Arc<AtomicBool>) -> Result<u64, AppendError> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        log.append(PAYLOAD).await?;
        count += 1;
    }
    Ok(count)
}

async fn tasks(log: &Log) -> Result<Rate, AppendError> {
    let (began, cpu, stop) = (Instant::now(), cpu_time(), Arc::new(AtomicBool::new(false)));
    let handles: Vec<_> = (0..IN_FLIGHT).map(|_| tokio::spawn(task(log.clone(), stop.clone()))).collect();
    tokio::time::sleep(TIME).await;
    stop.store(true, Ordering::Relaxed);
    let mut records = 0;
    for handle in handles {
        records += handle.await.expect("no task panics")?;
    }
    Ok(rate(records, began, cpu))
}

fn window(log: &Log) -> Result<Rate, AppendError> {
    let (began, cpu) = (Instant::now(), cpu_time());
    let mut window = log.window(IN_FLIGHT);
    let mut records = 0u64;
    while began.elapsed() < TIME {
        for _ in 0..64 {
            window.push(PAYLOAD)?;
        }
        records += 64;
    }
    for position in window {
        position?;
    }
    Ok(rate(records, began, cpu))
}

/// Median latency of one task that waits for each record.
async fn one_task(log: &Log) -> Result<Duration, AppendError> {
    let mut latencies = Vec::new();
    let began = Instant::now();
    while began.elapsed() < TIME {
        let before = Instant::now();
        log.append(PAYLOAD).await?;
        latencies.push(before.elapsed());
    }
    latencies.sort_unstable();
    Ok(latencies[latencies.len() / 2])
}

/// The same, of io_uring writes of a block one after the other.
fn one_bare(bare: &BareFile) -> std::io::Result<Duration> {
    let writes = Writes { block_bytes: 4096, depth: 1, method: Method::WriteThrough };
    Ok(bare.uring(&writes, TIME)?.percentile(50.0))
}

fn median<T: Copy>(values: &mut [T], by: impl Fn(&T) -> f64) -> T {
    values.sort_by(|a, b| by(a).total_cmp(&by(b)));
    values[values.len() / 2]
}

fn options() -> Options {
    Options::new().shards(1).segment_bytes(64 << 20).retain_bytes(128 << 20)
}

/// Until segments are recycled.
const FILLERS: usize = 8192;
const FILLER: &[u8] = &[1; 64 << 10];

/// What was measured, repetition by repetition.
#[derive(Default)]
struct Runs {
    tasks: Vec<Rate>,
    window: Vec<Rate>,
    one: Vec<Duration>,
    bare: Vec<Duration>,
}

impl Runs {
    fn print(mut self, name: &str) {
        let tasks = median(&mut self.tasks, |rate| rate.0);
        let one = median(&mut self.one, Duration::as_secs_f64);
        let bare = median(&mut self.bare, Duration::as_secs_f64);
        let (rate, cpu) = (tasks.0 / 1e6, tasks.1);
        print!("{name}: {IN_FLIGHT} tasks {rate:.2} M records/s, {cpu:.0} ns of CPU each");
        if !self.window.is_empty() {
            let window = median(&mut self.window, |rate| rate.0);
            let (rate, cpu, ratio) = (window.0 / 1e6, window.1, tasks.0 / window.0);
            print!(" ({ratio:.2} of a window's {rate:.2} M, {cpu:.0} ns)");
        }
        let ratio = one.as_secs_f64() / bare.as_secs_f64();
        println!("; one task p50 {one:?}, {ratio:.2} of bare io_uring's {bare:?}");
    }
}

fn with_threads(dir: &Path, bare: &BareFile) -> Result<(), Box<dyn std::error::Error>> {
    let log = options().open(dir)?;
    for _ in 0..FILLERS {
        drop(log.append(Write::new(FILLER).durability(Durability::Written)).admitted().wait()?);
    }
    log.sync().wait()?;
    for workers in [1, 2] {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
        let mut runs = Runs::default();
        for _ in 0..TIMES {
            runs.tasks.push(runtime.block_on(tasks(&log))?);
            runs.window.push(window(&log)?);
            runs.one.push(runtime.block_on(one_task(&log))?);
            runs.bare.push(one_bare(bare)?);
        }
        runs.print(&format!("{workers} workers"));
    }
    Ok(log.close()?)
}

#[cfg(feature = "tokio-uring")]
fn in_the_runtime(dir: &Path, bare: &BareFile) -> Result<(), Box<dyn std::error::Error>> {
    tokio_uring::start(async {
        let log = options().drive(|driver| drop(tokio_uring::spawn(driver.run()))).open(dir)?;
        for _ in 0..FILLERS {
            drop(log.append(Write::new(FILLER).durability(Durability::Written)).admitted().await?);
        }
        log.sync().await?;
        let mut runs = Runs::default();
        for _ in 0..TIMES {
            let (began, cpu, stop) = (Instant::now(), cpu_time(), Arc::new(AtomicBool::new(false)));
            let handles: Vec<_> =
                (0..IN_FLIGHT).map(|_| tokio_uring::spawn(task(log.clone(), stop.clone()))).collect();
            tokio::time::sleep(TIME).await;
            stop.store(true, Ordering::Relaxed);
            let mut records = 0;
            for handle in handles {
                records += handle.await.expect("no task panics")?;
            }
            runs.tasks.push(rate(records, began, cpu));
            runs.one.push(one_task(&log).await?);
            runs.bare.push(one_bare(bare)?);
        }
        runs.print("in a tokio-uring runtime");
        Ok(log.close_async().await?)
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let bare = BareFile::make(dir.path(), 64 << 20)?;
    with_threads(&dir.path().join("threads"), &bare)?;
    #[cfg(feature = "tokio-uring")]
    in_the_runtime(&dir.path().join("runtime"), &bare)?;
    Ok(())
}
