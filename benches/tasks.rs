//! Durable appends by 4,096 tokio tasks, beside one thread with a window of 4,096 commits, in turn.
//!
//! `cargo bench --bench tasks --features ceiling`. Prints medians; only what was durable before the clock
//! stopped counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sawmill::ceiling::cpu_time;
use sawmill::{AppendError, Commit, Durability, Log, Options, Write};

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

async fn tasks(log: &Log) -> Result<Rate, AppendError> {
    let (began, cpu, stop) = (Instant::now(), cpu_time(), Arc::new(AtomicBool::new(false)));
    let handles: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (log, stop) = (log.clone(), stop.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    log.append(PAYLOAD).await?;
                    count += 1;
                }
                Ok::<u64, AppendError>(count)
            })
        })
        .collect();
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
    let mut flying: VecDeque<Commit> = VecDeque::with_capacity(IN_FLIGHT);
    let mut records = 0u64;
    while began.elapsed() < TIME {
        for _ in 0..64 {
            while flying.len() == IN_FLIGHT || flying.front().is_some_and(Commit::is_durable) {
                let Some(commit) = flying.pop_front() else { break };
                commit.wait()?;
            }
            flying.push_back(log.append(PAYLOAD).admitted().wait()?);
        }
        records += 64;
    }
    for commit in flying {
        commit.wait()?;
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

fn median(rates: &mut [Rate]) -> Rate {
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    rates[rates.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let log = Options::new().shards(1).segment_bytes(64 << 20).retain_bytes(128 << 20).open(dir.path())?;
    // Until segments are recycled.
    let filler: &[u8] = &[1; 64 << 10];
    for _ in 0..8192 {
        let write = Write::new(filler).durability(Durability::Written);
        drop(log.append(write).admitted().wait()?);
    }
    log.sync().wait()?;
    for workers in [1, 2] {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
        let (mut by_tasks, mut by_window, mut ones) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TIMES {
            by_tasks.push(runtime.block_on(tasks(&log))?);
            by_window.push(window(&log)?);
            ones.push(runtime.block_on(one_task(&log))?);
        }
        ones.sort_unstable();
        let (tasks, window) = (median(&mut by_tasks), median(&mut by_window));
        println!(
            "{workers} workers: {IN_FLIGHT} tasks {:.2} M records/s, {:.0} ns of CPU each; window {:.2} M records/s, \
             {:.0} ns; tasks to window {:.2}; one task p50 {:?}",
            tasks.0 / 1e6,
            tasks.1,
            window.0 / 1e6,
            window.1,
            tasks.0 / window.0,
            ones[ones.len() / 2],
        );
    }
    Ok(())
}
