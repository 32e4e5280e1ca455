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
