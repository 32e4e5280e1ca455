//! What is ingested, and how.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sawmill::ceiling::cpu_time;
use sawmill::stats::Stats;
use sawmill::{Log, Lsn, ShardId};

use crate::Error;

/// Latencies of windowed records are looked at this often: two clock reads are half of what such a
/// record costs.
const SAMPLE_EVERY: u64 = 32;

/// One kind of caller.
#[derive(Clone, Debug)]
pub struct Load {
    name: String,
    threads: u32,
    how: How,
    record_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Accepted and left alone; a sync at the end.
    Bulk,
    /// Each waits for its record.
    Blocking,
    /// Each keeps so many in flight.
    Windowed(usize),
}

/// The most that a kind of caller can reach on this machine without a log: what a load is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceiling {
    /// Bare writes of blocks of the same size, several in flight, in bytes a second.
    Writes,
    /// A bare synchronous write, one after the other, by its median latency in seconds.
    Latency,
    /// So many threads that hand records over to one that writes, in records a second.
    HandOver(u32),
}

/// What a run of a load did.
#[derive(Debug)]
pub struct Outcome {
    pub records: u64,
    pub payload_bytes: u64,
    pub elapsed: Duration,
    pub cpu: Duration,
    /// Nanoseconds.
    pub latencies: Histogram<u64>,
    pub blocks: u64,
    pub block_bytes: u64,
    pub device_bytes: u64,
    /// Of the records, so many were still there (not given up by retention) and read back.
    pub verified: u64,
}

impl Outcome {
    pub fn mean_block_bytes(&self) -> u32 {
        let mean = self.device_bytes / self.blocks.max(1);
        (mean.next_multiple_of(4096)).clamp(4096, 1 << 20) as u32
    }
}

impl Load {
    pub fn all(record_bytes: u32) -> Vec<Load> {
        let load = |name: &str, threads, how| Load {
            name: name.to_owned(),
            threads,
            how,
            record_bytes: record_bytes as usize,
        };
        vec![
            load("bulk, 1 thread", 1, How::Bulk),
            load("bulk, 2 threads", 2, How::Bulk),
            Load::blocking(1, record_bytes),
            Load::blocking(8, record_bytes),
            Load::blocking(64, record_bytes),
            Load::blocking(512, record_bytes),
            Load::windowed(1024, record_bytes),
        ]
    }

    pub fn blocking(threads: u32, record_bytes: u32) -> Load {
        let record_bytes = record_bytes as usize;
        Load { name: format!("durable, {threads} blocking"), threads, how: How::Blocking, record_bytes }
    }

    pub fn windowed(window: usize, record_bytes: u32) -> Load {
        let (how, record_bytes) = (How::Windowed(window), record_bytes as usize);
        Load { name: format!("durable, window of {window}"), threads: 1, how, record_bytes }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn is_durable(&self) -> bool {
        self.how != How::Bulk
    }

    /// One thread that loads in bulk.
    pub fn is_plain_bulk(&self) -> bool {
        self.how == How::Bulk && self.threads == 1
    }

    /// Callers that block cannot keep a deep queue full, whatever the log does, so they are not held against one.
    pub fn ceiling(&self) -> Ceiling {
        match (self.how, self.threads) {
            (How::Blocking, 1) => Ceiling::Latency,
            (How::Blocking, threads) => Ceiling::HandOver(threads),
            (How::Bulk | How::Windowed(_), _) => Ceiling::Writes,
        }
    }

    /// Runs for `time`, until all of it is durable, and reads back what is there.
    pub fn run(&self, log: &Log, time: Duration) -> Result<Outcome, Error> {
        let run = u64::from_le_bytes(log.stats().shards[0].records.to_le_bytes());
        let before = log.stats();
        let starts: Vec<Lsn> = before.shards.iter().map(|shard| shard.durable_lsn).collect();
        let (began, cpu) = (Instant::now(), cpu_time());
        let deadline = began.checked_add(time).ok_or("that is longer than can be measured")?;
        let results: Vec<Result<(u64, Histogram<u64>), sawmill::AppendError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|thread| {
                    let producer = Producer::new(log, run, thread, self.record_bytes, deadline);
                    let run = move || match self.how {
                        How::Bulk => producer.bulk(),
                        How::Blocking => producer.blocking(),
                        How::Windowed(window) => producer.windowed(window),
                    };
                    let builder = std::thread::Builder::new().name("producer".into());
                    builder.spawn_scoped(scope, run).expect("a thread can be made")
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a producer does not panic")).collect()
        });
        log.sync().wait()?;
        let (elapsed, cpu) = (began.elapsed(), cpu_time().saturating_sub(cpu));
        let mut latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
        let mut counts = Vec::new();
        for result in results {
            let (count, own) = result?;
            counts.push(count);
            latencies.add(own)?;
        }
        let records = counts.iter().sum();
        let verified = verify(log, &starts, run, &counts)?;
        let after = log.stats();
        let sum = |of: fn(&sawmill::stats::ShardStats) -> u64| -> u64 {
            let total = |stats: &Stats| stats.shards.iter().map(of).sum::<u64>();
            total(&after) - total(&before)
        };
        Ok(Outcome {
            records,
            payload_bytes: records * self.record_bytes as u64,
            elapsed,
            cpu,
            latencies,
            blocks: sum(|shard| shard.blocks),
            block_bytes: sum(|shard| shard.block_bytes),
            device_bytes: sum(|shard| shard.device_bytes),
            verified,
        })
    }
}

struct Producer<'a> {
    log: &'a Log,
    payload: Vec<u8>,
    deadline: Instant,
    count: u64,
    latencies: Histogram<u64>,
}

impl<'a> Producer<'a> {
    fn new(log: &'a Log, run: u64, thread: u32, record_bytes: usize, deadline: Instant) -> Producer<'a> {
        let mut payload = vec![0xa7; record_bytes];
        payload[..4].copy_from_slice(&(run as u32).to_le_bytes());
        payload[4..8].copy_from_slice(&thread.to_le_bytes());
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("three digits are allowed");
        Producer { log, payload, deadline, count: 0, latencies }
    }

    fn next(&mut self) -> &[u8] {
        self.payload[8..16].copy_from_slice(&self.count.to_le_bytes());
        self.count += 1;
        &self.payload
    }

    /// Looks at the clock now and then.
    fn is_over(&self, every: u64) -> bool {
        self.count % every == 0 && Instant::now() >= self.deadline
    }

    fn note(&mut self, since: Instant) {
        self.latencies.saturating_record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    fn bulk(mut self) -> Result<(u64, Histogram<u64>), sawmill::AppendError> {
        let log = self.log;
        while !self.is_over(64) {
            log.post(self.next())?;
        }
        Ok((self.count, self.latencies))
    }

    fn blocking(mut self) -> Result<(u64, Histogram<u64>), sawmill::AppendError> {
        let log = self.log;
        while !self.is_over(1) {
            let began = Instant::now();
            log.append(self.next()).wait()?;
            self.note(began);
        }
        Ok((self.count, self.latencies))
    }

    fn windowed(mut self, window: usize) -> Result<(u64, Histogram<u64>), sawmill::AppendError> {
        let mut flying = self.log.window(window);
        // Of each record that is looked at: its number, and when it began.
        let mut looked_at: VecDeque<(u64, Instant)> = VecDeque::new();
        let mut durable = 0;
        while !self.is_over(64) {
            while let Some(position) = flying.try_next() {
                position?;
                durable += 1;
            }
            if self.count % SAMPLE_EVERY == 0 {
                looked_at.push_back((self.count, Instant::now()));
            }
            durable += u64::from(flying.push(self.next())?.is_some());
            while let Some(&(_, began)) = looked_at.front().filter(|(number, _)| *number < durable) {
                looked_at.pop_front();
                self.note(began);
            }
        }
        for position in flying {
            position?;
        }
        Ok((self.count, self.latencies))
    }
}

/// Reads a run's records back: those of each producer are there without a gap, from the oldest that
/// retention has left to the last.
fn verify(log: &Log, starts: &[Lsn], run: u64, counts: &[u64]) -> Result<u64, Error> {
    let mut found: Vec<Vec<u64>> = vec![Vec::new(); counts.len()];
    // The highest first sequence of a shard that has given records up.
    let mut from = vec![0; counts.len()];
    for (index, &start) in starts.iter().enumerate() {
        let shard = log.shard(ShardId(index as u16));
        let mut first = vec![None; counts.len()];
        let mut cut = false;
        for record in shard.read(start..)? {
            let record = match record {
                Ok(record) => record,
                Err(sawmill::ReadError::Truncated { .. }) => {
                    cut = true;
                    first.fill(None);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let payload = record.payload();
            if payload[..4] != (run as u32).to_le_bytes() {
                continue;
            }
            let thread = u32::from_le_bytes(payload[4..8].try_into()?) as usize;
            let sequence = u64::from_le_bytes(payload[8..16].try_into()?);
            first[thread].get_or_insert(sequence);
            found[thread].push(sequence);
        }
        for (from, first) in from.iter_mut().zip(first).filter(|_| cut) {
            *from = first.map_or(*from, |first| first.max(*from));
        }
    }
    let mut verified = 0;
    for ((mut found, from), &count) in found.into_iter().zip(from).zip(counts) {
        found.sort_unstable();
        found.retain(|&sequence| sequence >= from);
        if !found.iter().copied().eq(from..count) {
            return Err(format!("{} of {} durable records are there", found.len(), count - from).into());
        }
        verified += found.len() as u64;
    }
    Ok(verified)
}
