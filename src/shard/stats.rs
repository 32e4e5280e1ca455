//! What a shard tells of itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Engine;
use crate::stats::{Counters, ShardStats};
use crate::time::Nanos;

impl Engine {
    /// A picture of the shard as of now.
    pub(crate) fn stats(&self, backend: &'static str) -> ShardStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // All by name: a counter that nobody is told of does not compile.
        let Counters {
            blocks,
            records,
            block_bytes,
            device_bytes,
            syncs,
            markers,
            blocks_by_caller,
            blocks_by_thread,
            refused_no_space,
            refused_no_segment,
            memory_hits,
            commit_latency,
            queueing_delay,
        } = &self.counters;
        let view = self.view();
        let refused_by = self.gate.counted().refusals_by();
        ShardStats {
            shard: self.id,
            backend,
            capabilities: self.capabilities(),
            durable_lsn: self.durable(),
            written_lsn: self.written(),
            horizon: view.horizon,
            records: count(records),
            blocks: count(blocks),
            block_bytes: count(block_bytes),
            device_bytes: count(device_bytes),
            markers: count(markers),
            syncs: count(syncs),
            blocks_by_caller: count(blocks_by_caller),
            blocks_by_thread: count(blocks_by_thread),
            memory_hits: count(memory_hits),
            refused: refused_by.iter().map(|(_, _, refusals)| refusals).sum(),
            refused_by,
            refused_most: self.gate.heaviest(),
            refused_no_space: count(refused_no_space),
            refused_no_segment: count(refused_no_segment),
            memory_blocks_used: self.blocks_in_use(),
            memory_blocks: self.memory_blocks(),
            commit_latency: commit_latency.load(),
            queueing_delay: queueing_delay.load(),
            drain_rate: count(&self.published.0.drain_rate),
            oldest_operation: self.oldest_operation(),
            folder_moved: self.has_moved(),
            segments: view.segments.len(),
            indexed: self.indexed(),
            failed: self.failure().is_some(),
        }
    }

    /// For how long the oldest operation or call that the device has not answered has been out.
    pub(crate) fn oldest_operation(&self) -> Option<Duration> {
        let since = self.oldest_since()?;
        Some(Duration::from_nanos(self.device.now() - since))
    }

    /// Since when.
    pub(crate) fn oldest_since(&self) -> Option<Nanos> {
        let since = self.published.0.oldest.load(Ordering::Relaxed);
        let operation = (since != u64::MAX).then_some(Nanos(since));
        operation.into_iter().chain(self.calls.oldest_since()).min()
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use std::time::Duration;

    use crate::device::sim::{Faults, Random};
    use crate::options::Tuning;
    use crate::position::Lsn;
    use crate::simulation::Simulated;
    use crate::stats::{Accepted, Recorder};
    use crate::time::Nanos;
    use crate::{Commit, Durability, Log, Options, Write};

    /// A block that is not durable yet, as its records' callers see it.
    struct Block {
        lsn: Option<Lsn>,
        accepted: Accepted,
        commits: Vec<Commit>,
    }

    /// One write in flight, and always something that waits: so a block goes out when the one before it is durable.
    fn one_at_a_time(machine: &Simulated) -> Log {
        let tuning = Tuning { device_depth: 1, shard_depth_min: 1, ..Tuning::default() };
        let options = Options::new().shards(1).block_bytes(4096).memory_bytes(64 << 10);
        let options = options.segment_bytes(1 << 20).delay_target(Duration::from_secs(1));
        options.device(machine).tuned(tuning).open("/log").unwrap()
    }

    /// To the bucket, of each record, in virtual time.
    #[test]
    fn latencies_are_those_that_callers_see() {
        for seed in 0..40 {
            let machine = Simulated::seed(seed);
            let mut random = Random::new(seed);
            machine.set_faults(&Faults { latency_ns_max: 1, ..Faults::default() });
            let log = one_at_a_time(&machine);
            machine.set_faults(&Faults { latency_ns_max: 5_000_000, ..Faults::default() });
            let engine = log.engine_for(b"");
            let (commit_latency, queueing_delay) = (Recorder::default(), Recorder::default());
            let mut blocks: Vec<Block> = Vec::new();
            let (mut free_since, mut records) = (Nanos(0), 0);
            while records < 300 {
                while blocks.len() < 3 || random.below(3) > 0 {
                    let write = Write::new(vec![1; 1 + random.below(2_500) as usize]);
                    let Ok(commit) = log.try_append(write.durability(Durability::Synced)) else { break };
                    let (lsn, since) = (commit.position().block(), engine.time());
                    if blocks.last().is_none_or(|block| block.lsn != lsn) {
                        let accepted = Accepted { since, records: 0 };
                        blocks.push(Block { lsn, accepted, commits: Vec::new() });
                    }
                    let block = blocks.last_mut().unwrap();
                    block.accepted.records += 1;
                    block.commits.push(commit);
                    records += 1;
                }
                let mut durable = false;
                engine.turn_until(|| {
                    while blocks.first().is_some_and(|block| block.commits.iter().all(Commit::is_durable)) {
                        let (block, now) = (blocks.remove(0), engine.time());
                        queueing_delay.record(&block.accepted, free_since.max(block.accepted.since));
                        commit_latency.record(&block.accepted, now);
                        (free_since, durable) = (now, true);
                    }
                    durable
                });
            }
            let stats = log.stats();
            let shard = &stats.shards[0];
            assert!(shard.commit_latency.count() > 250, "{:?}", shard.commit_latency);
            assert_eq!(shard.commit_latency, commit_latency.load(), "seed {seed}");
            // Of those whose block is out.
            let waiting = shard.queueing_delay.since(&queueing_delay.load());
            assert_eq!(
                waiting.count(),
                blocks[0].accepted.records,
                "seed {seed}: {:?}",
                shard.queueing_delay
            );
            let waited = Duration::from_nanos(free_since - blocks[0].accepted.since.min(free_since));
            assert!(waiting.max() >= waited && waiting.max() <= waited * 33 / 32, "{waiting:?} {waited:?}");
            assert_eq!((stats.commit_latency(), stats.queueing_delay()), {
                (shard.commit_latency.clone(), shard.queueing_delay.clone())
            });
        }
    }
}
