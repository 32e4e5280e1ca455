//! What the report shows beyond the table: throughput by records in flight, latency by load, both over time.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sawmill::ceiling::{BareFile, Method, Writes};
use sawmill::{Commit, Log};

use super::loads::Load;
use crate::Error;

/// Throughput with so many durable records in flight.
pub struct Point {
    pub in_flight: usize,
    pub blocking_threads: bool,
    pub per_second: f64,
}

/// Latency at a part of the peak, offered in an open loop: from when a record was due, so that a stall counts for
/// all that it held up. Of several runs the one whose [`spread`](UnderLoad::spread) is the median.
pub struct UnderLoad {
    pub percent: u32,
    pub offered: f64,
    pub latencies: Histogram<u64>,
    /// How late the load itself came: where its core was taken away, no log can help.
    pub lateness: Histogram<u64>,
    /// What one of a hundred records would wait at least for a bare blocking write under way, measured right after: the
    /// machine's own stalls, each counted for all that it held up, as in an open loop.
    pub bare_rest: Duration,
}

impl UnderLoad {
    /// By how much the slowest of a hundred records is slower than the middle one.
    pub fn spread(&self) -> f64 {
        let at = |quantile| self.latencies.value_at_quantile(quantile) as f64;
        at(0.99) / at(0.5).max(1.0)
    }
}

/// A tenth of a second of sustained ingest.
pub struct Slice {
    pub at: f64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// All of it.
pub struct Sweep {
    pub in_flight: Vec<Point>,
    pub under_load: Vec<UnderLoad>,
    pub series: Vec<Slice>,
    /// Records a second of bare writes of the same blocks, right before and right after the series.
    pub bare: [f64; 2],
}

const WINDOWS: [usize; 8] = [1, 4, 16, 64, 256, 1024, 2048, 4096];
const THREADS: [u32; 6] = [1, 4, 16, 64, 256, 512];
const PERCENTS: [u32; 5] = [10, 25, 50, 75, 90];
/// How long the open loop sleeps while nothing is due; the kernel adds its timer slack of 50 us.
const BETWEEN: Duration = Duration::from_micros(20);
const SLICE: Duration = Duration::from_millis(100);
/// How long bare writes are measured beside the series, each time.
const BESIDE: Duration = Duration::from_secs(2);

impl Sweep {
    /// How many times [`measure`](Sweep::measure) calls `done`.
    pub const STEPS: u64 = (WINDOWS.len() + THREADS.len() + PERCENTS.len() + 1) as u64;

    pub fn measure(
        log: &Log,
        bare: &BareFile,
        record_bytes: u32,
        time: Duration,
        repeat: u32,
        series: Duration,
        mut done: impl FnMut(&str),
    ) -> Result<Sweep, Error> {
        let mut in_flight = Vec::new();
        let mut closed = |load: &Load, in_flight_now, blocking_threads| -> Result<f64, Error> {
            let outcome = load.run(log, time)?;
            let per_second = outcome.records as f64 / outcome.elapsed.as_secs_f64();
            in_flight.push(Point { in_flight: in_flight_now, blocking_threads, per_second });
            Ok(per_second)
        };
        for threads in THREADS {
            closed(&Load::blocking(threads, record_bytes), threads as usize, true)?;
            done("blocking threads");
        }
        let mut peak: f64 = 0.0;
        for window in WINDOWS {
            peak = peak.max(closed(&Load::windowed(window, record_bytes), window, false)?);
            done("records in flight");
        }
        let mut under_load = Vec::new();
        for percent in PERCENTS {
            let offered = peak * f64::from(percent) / 100.0;
            let mut runs = Vec::new();
            for _ in 0..repeat.max(1) {
                let [latencies, lateness] = open_loop(log, offered, record_bytes, time)?;
                let bare_rest = bare.blocking(4096, Method::WriteThrough, time)?.rest_percentile(99.0);
                runs.push(UnderLoad { percent, offered, latencies, lateness, bare_rest });
            }
            runs.sort_by(|a, b| a.spread().total_cmp(&b.spread()));
            under_load.push(runs.swap_remove(runs.len() / 2));
            done("latency under load");
        }
        // Blocks as full as a thousand records make them.
        let block_bytes = (512 * (record_bytes + 16)).next_multiple_of(4096).min(1 << 20);
        let beside = || -> Result<f64, Error> {
            let writes = Writes { block_bytes, depth: 2, method: Method::WriteThrough };
            let measured = match bare.uring(&writes, BESIDE) {
                Ok(measured) => measured,
                Err(_) => bare.blocking(block_bytes, Method::WriteThrough, BESIDE)?,
            };
            Ok(measured.bytes_per_second() / f64::from(record_bytes + 16))
        };
        let before = beside()?;
        let series = time_series(log, record_bytes, series)?;
        let bare = [before, beside()?];
        done("over time");
        Ok(Sweep { in_flight, under_load, series, bare })
    }

    /// Mean records a second of the second tenth of the series, behind its warm-up, and of the last.
    pub fn sustained(&self) -> [f64; 2] {
        let tenth = self.series.len().div_ceil(10).max(1);
        let mean = |slices: &[Slice]| {
            slices.iter().map(|slice| slice.per_second).sum::<f64>() / slices.len().max(1) as f64
        };
        let second = self.series.iter().skip(tenth).take(tenth).count();
        let from = if second > 0 { tenth } else { 0 };
        let until = (from + tenth).min(self.series.len());
        [mean(&self.series[from..until]), mean(&self.series[self.series.len().saturating_sub(tenth)..])]
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([second, last], [before, after]) = (self.sustained(), self.bare);
        let seconds = self.series.last().map_or(0.0, |slice| slice.at);
        for load in &self.under_load {
            let us = |quantile| load.latencies.value_at_quantile(quantile) as f64 / 1e3;
            writeln!(
                f,
                "at {:>2} % of the peak, {:.0} records/s in an open loop: p50 {:.0} us, p99 {:.0} us ({:.1} of it), p99.9 \
                 {:.0} us; the load itself came late by {:.0} us at p99; p99 of the wait for a bare write {:.0} us",
                load.percent,
                load.offered,
                us(0.5),
                us(0.99),
                load.spread(),
                us(0.999),
                load.lateness.value_at_quantile(0.99) as f64 / 1e3,
                load.bare_rest.as_secs_f64() * 1e6,
            )?;
        }
        write!(
            f,
            "over {seconds:.0} s with 1,024 in flight: {second:.0} records/s in the second tenth of it and {last:.0} in \
             the last, {:.2} of it; bare writes before and after {before:.0} and {after:.0}, {:.2}",
            last / second,
            after / before,
        )
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("three digits are allowed")
}

fn note(histogram: &mut Histogram<u64>, since: Instant) {
    histogram.saturating_record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
}

/// Appends `offered` records a second, each when it is due, whatever became of those before: latencies, and how late
/// the records came.
fn open_loop(
    log: &Log,
    offered: f64,
    record_bytes: u32,
    time: Duration,
) -> Result<[Histogram<u64>; 2], Error> {
    let payload = vec![0xa7; record_bytes as usize];
    let (mut latencies, mut lateness) = (histogram(), histogram());
    let mut flying: VecDeque<(Commit, Instant)> = VecDeque::new();
    let began = Instant::now();
    let mut count = 0u64;
    while began.elapsed() < time {
        let due = began + Duration::from_secs_f64(count as f64 / offered);
        if Instant::now() >= due {
            note(&mut lateness, due);
            flying.push_back((log.append(&payload).admitted().wait()?, due));
            count += 1;
        } else {
            // No spin: on few cores the shard's thread waits for this one, and a host that bounds what a machine takes
            // of its CPUs, its disk included, stops all of it for 5 to 20 ms in each 100.
            std::thread::sleep(BETWEEN);
        }
        while flying.front().is_some_and(|(commit, _)| commit.is_durable()) {
            let (commit, due) = flying.pop_front().expect("looked at above");
            commit.wait()?;
            note(&mut latencies, due);
        }
    }
    for (commit, due) in flying {
        commit.wait()?;
        note(&mut latencies, due);
    }
    Ok([latencies, lateness])
}

/// Sustained ingest with 1,024 records in flight.
fn time_series(log: &Log, record_bytes: u32, time: Duration) -> Result<Vec<Slice>, Error> {
    let payload = vec![0xa7; record_bytes as usize];
    let mut flying: VecDeque<(Commit, Instant)> = VecDeque::with_capacity(1024);
    let (began, mut slices) = (Instant::now(), Vec::new());
    let (mut slice_began, mut count, mut latencies) = (began, 0u64, histogram());
    while began.elapsed() < time {
        for _ in 0..64 {
            if flying.len() == 1024 {
                let (commit, since) = flying.pop_front().expect("there are 1,024");
                commit.wait()?;
                note(&mut latencies, since);
                count += 1;
            }
            flying.push_back((log.append(&payload).admitted().wait()?, Instant::now()));
        }
        let passed = slice_began.elapsed();
        if passed >= SLICE {
            slices.push(Slice {
                at: (slice_began - began).as_secs_f64(),
                per_second: count as f64 / passed.as_secs_f64(),
                p50_us: latencies.value_at_quantile(0.5) as f64 / 1e3,
                p99_us: latencies.value_at_quantile(0.99) as f64 / 1e3,
            });
            (slice_began, count) = (Instant::now(), 0);
            latencies.reset();
        }
    }
    for (commit, _) in flying {
        commit.wait()?;
    }
    Ok(slices)
}
