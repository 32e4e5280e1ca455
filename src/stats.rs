//! What a log has done and how it does.

mod latency;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::admission::Cause;
pub use crate::device::{Capabilities, FileSystem, WriteProbe};
use crate::position::{Lsn, ShardId};
use crate::write::Priority;
pub use latency::Latency;
pub(crate) use latency::{Accepted, Recorder};

/// Counted by the holder of a shard's token, and by those who are refused.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub blocks: AtomicU64,
    pub records: AtomicU64,
    pub block_bytes: AtomicU64,
    pub device_bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub markers: AtomicU64,
    pub blocks_by_caller: AtomicU64,
    pub blocks_by_thread: AtomicU64,
    pub refused_no_space: AtomicU64,
    pub refused_no_segment: AtomicU64,
    pub memory_hits: AtomicU64,
    pub commit_latency: Recorder,
    pub queueing_delay: Recorder,
}

impl Counters {
    /// A block was sealed.
    pub(crate) fn sealed(&self, records: u32, length: u32, device_bytes: usize) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
        self.markers.fetch_add(u64::from(records == 0), Ordering::Relaxed);
        self.records.fetch_add(records.into(), Ordering::Relaxed);
        self.block_bytes.fetch_add(length.into(), Ordering::Relaxed);
        self.device_bytes.fetch_add(device_bytes as u64, Ordering::Relaxed);
    }
}

/// A picture of a log at one moment, by [`Log::stats`](crate::Log::stats).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Per shard, in order.
    pub shards: Vec<ShardStats>,
    /// How far the time that a record gets now is ahead of the wall clock. Times never go back: after the clock was
    /// set back, or where a shard had more than one record a nanosecond, they go on from the highest that a record
    /// of any shard has, and the clock catches up.
    pub clock_drift: Duration,
    /// What was found, chosen and given up, one line each: the same text as in the log.
    pub notices: Vec<String>,
}

impl Stats {
    /// The [commit latency](ShardStats::commit_latency) of all shards together.
    pub fn commit_latency(&self) -> Latency {
        self.merged(|shard| &shard.commit_latency)
    }

    /// The [queueing delay](ShardStats::queueing_delay) of all shards together.
    pub fn queueing_delay(&self) -> Latency {
        self.merged(|shard| &shard.queueing_delay)
    }

    fn merged(&self, of: impl Fn(&ShardStats) -> &Latency) -> Latency {
        let mut merged = Latency::default();
        self.shards.iter().for_each(|shard| merged.merge(of(shard)));
        merged
    }
}

/// How a shard stands with what is offered, by [`Log::pressure`](crate::Log::pressure).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// Which.
    pub shard: ShardId,
    /// About how long it takes until a record is durable that is appended now.
    pub delay: Duration,
    /// The part of its memory that is in use, 0 to 1.
    pub fill: f64,
    /// The part that was accepted of what callers offered that do not wait ([`Log::try_append`](crate::Log::try_append)),
    /// within the last tenth of a second: of [`Priority::Low`], of `Normal`, of `High`. 1 where nothing was offered, 0 where
    /// the shard has stopped. What is refused for its tenant's share or for its deadline is in neither part.
    pub admitted: [f64; 3],
    /// Bytes per second that it drained when it was last busy; 0 before that.
    pub drain_rate: u64,
}

/// A picture of a shard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardStats {
    /// Which.
    pub shard: ShardId,
    /// `uring`, `syscall` or `simulated`.
    pub backend: &'static str,
    /// What its folder's file system and device can do.
    pub capabilities: Capabilities,
    /// All records below it are durable.
    pub durable_lsn: Lsn,
    /// All records below it are written.
    pub written_lsn: Lsn,
    /// Where the log begins now.
    pub horizon: Lsn,
    /// Records sealed into blocks since open, markers left out.
    pub records: u64,
    /// Blocks sealed since open.
    pub blocks: u64,
    /// Bytes of headers and records in them.
    pub block_bytes: u64,
    /// Bytes handed to the device, padding included.
    pub device_bytes: u64,
    /// Blocks without records among them, each written when the shard fell idle, to testify that
    /// what was acknowledged is durable.
    pub markers: u64,
    /// Syncs of a file issued since open; synchronous writes are not counted.
    pub syncs: u64,
    /// Blocks written by a caller itself, without the shard's thread.
    pub blocks_by_caller: u64,
    /// Blocks written by a system call of the shard's thread, where that is quicker than the ring.
    pub blocks_by_thread: u64,
    /// Appends refused since open because the shard had no room for them at that moment, or was too slow
    /// ([`AppendError::Overloaded`](crate::AppendError::Overloaded)).
    pub refused: u64,
    /// The same by cause and priority, those that there were.
    pub refused_by: Vec<(Cause, Priority, u64)>,
    /// The tenants of most of them ([`Write::tenant`](crate::Write::tenant)) with about how many of each, the most first. At
    /// most 16, by a sample of one in 64.
    pub refused_most: Vec<(u64, u64)>,
    /// Appends refused since open because the disk was full ([`AppendError::NoSpace`](crate::AppendError::NoSpace)).
    pub refused_no_space: u64,
    /// Appends refused since open because the next segment could not be made for another reason
    /// ([`AppendError::NoSegment`](crate::AppendError::NoSegment)).
    pub refused_no_segment: u64,
    /// Blocks that readers found in memory, without the device.
    pub memory_hits: u64,
    /// Blocks of memory in use, of `memory_blocks`.
    pub memory_blocks_used: u32,
    /// Blocks of memory.
    pub memory_blocks: u32,
    /// Bytes per second that it drained when it was last busy; 0 before that.
    pub drain_rate: u64,
    /// How long it took from a record's acceptance until it was durable, whatever durability was asked for: those that were
    /// appended with a lower one become durable at leisure, and count as well.
    pub commit_latency: Latency,
    /// How long it took from a record's acceptance until its block went to the device. The rest of the commit latency is the
    /// device's. Beyond [`Options::delay_target`](crate::Options::delay_target) the shard is overloaded, which goes by the
    /// shortest wait of blocks that are closed.
    pub queueing_delay: Latency,
    /// For how long the oldest write, sync or other call on the shard's files has been out that the device has
    /// not answered; `None` if there is none. A device that hangs shows here.
    pub oldest_operation: Option<Duration>,
    /// Segments that it has.
    pub segments: usize,
    /// Up to where its key index reaches ([`Options::index_keys`](crate::Options::index_keys)); 0 without one.
    pub indexed: Lsn,
    /// Its folder, or the log's own, is not where it was opened any more: it was renamed, or something was mounted
    /// over it. The log goes on in the folder that it opened. Seen about once a second, and with each new segment.
    pub folder_moved: bool,
    /// Whether it has stopped after a failure.
    pub failed: bool,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::Options;
    use crate::simulation::Simulated;

    /// Times go on where the clock was; how far that is from where it is now is told.
    #[test]
    fn the_drift_from_the_wall_clock_is_told() {
        let machine = Simulated::seed(5);
        let log = Options::new().shards(2).memory_bytes(1 << 20).device(&machine).open("/drift").unwrap();
        let hour = Duration::from_secs(3600);
        let step = hour.as_nanos() as i64;
        let first = log.append(b"first").wait().unwrap();
        assert!(log.stats().clock_drift < hour / 2);
        machine.step_wall_clock(-step);
        let second = log.append(b"second").wait().unwrap();
        let drift = log.stats().clock_drift;
        assert!(drift > hour / 2 && drift <= hour, "{drift:?}");
        let time = |position| log.get(position).unwrap().timestamp();
        assert!(time(second) > time(first));
        machine.step_wall_clock(2 * step);
        assert_eq!(log.stats().clock_drift, Duration::ZERO);
    }
}
