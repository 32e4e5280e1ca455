//! The committer decides: which block to seal, which writes and syncs to issue, what is durable.
//!
//! It is a state machine and nothing else: it performs no I/O, reads no clock, takes no lock,
//! starts no thread, and allocates nothing once its queues have their size. Time and outcomes are
//! arguments. Its methods are of three kinds, used in this order by whoever turns the shard:
//!
//! - what happened, `handle_...`: [a block was sealed](Committer::handle_sealed), [an operation
//!   completed](Committer::handle_completion), [a sync was asked for](Committer::handle_sync_request), [time
//!   passed](Committer::handle_time); and [`note_pending`](Committer::note_pending);
//! - what to do next: [`should_seal`](Committer::should_seal),
//!   [`should_write_marker`](Committer::should_write_marker), [`poll_action`](Committer::poll_action), and when to
//!   look again, [`poll_timeout`](Committer::poll_timeout);
//! - what is so: [`watermarks`](Committer::watermarks), [`failed`](Committer::failed).
//!
//! The rules are those of `docs/crash-safety.md`: a block is covered when its own synchronous write
//! completed, or when a sync of its file completed that was submitted after the block's write was
//! reaped; the covered LSN is the end of the longest covered prefix; a failed write or sync is final.

mod flight;
mod seal_rule;
mod watermark;

use flight::{Entry, Flight};
pub(crate) use seal_rule::SealThreshold;
use watermark::Prefix;
pub(crate) use watermark::Watermarks;

use crate::pool::{Group, Pending, Sequence, Urgency};
use crate::position::Lsn;
use crate::time::Nanos;

/// How a block is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncMethod {
    /// The write itself is synchronous (`RWF_DSYNC`) and covers its own bytes alone.
    WriteThrough,
    /// A plain write, then a sync of the file.
    Flush,
}

/// What the committer is set to; times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitterConfig {
    pub method: SyncMethod,
    /// Writes in flight at once.
    pub depth: u32,
    /// A block that somebody waits for goes out beside others once it has this part of their mean size.
    pub seal_threshold: SealThreshold,
    /// Accepted records that nobody waits for are written, and what is written is synced, within
    /// this long.
    pub background_ns: u64,
    /// An idle shard closes its window (testifies for its last block) after this long...
    pub marker_delay_ns: u64,
    /// ... and at most once in this long.
    pub marker_interval_ns: u64,
}

/// A block that was sealed: what the committer needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    pub sequence: Sequence,
    /// End of the block, padding included.
    pub end: Lsn,
    pub bytes: u32,
    /// Which file it goes to.
    pub file: u32,
    pub urgency: Urgency,
    pub records: u32,
    pub group: Option<Group>,
}

/// Names an operation until it completes. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct OperationId(pub u64);

/// What the driver must submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write block `sequence`; `sync` makes the write itself synchronous.
    Write { operation: OperationId, sequence: Sequence, sync: bool },
    /// Sync the data of a file.
    Sync { operation: OperationId, file: u32 },
}

/// However few bytes may be in flight: the device has its next write when it is done with one.
pub(crate) const WRITES_MIN: u32 = 2;

/// The state machine of one shard: what to seal, write and sync, and what is durable.
#[derive(Debug)]
pub(crate) struct Committer {
    config: CommitterConfig,
    /// Bytes in flight at which no more than [`WRITES_MIN`] writes are begun.
    flight_max: u64,
    flight: Flight,
    prefix: Prefix,
    next_operation: u64,
    syncs_in_flight: u32,
    /// All blocks up to this sequence are wanted durable.
    sync_target: Sequence,
    /// Last block that is done with, as all before it are: its write completed, or it is void.
    completed: Sequence,
    /// The open block, while nobody waits for it.
    waiting: Option<Waiting>,
    /// Since when something is written and not wanted durable by anybody.
    uncovered_since: Option<Nanos>,
    marker: Marker,
    failed: bool,
}

/// Background records in the open block.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    sequence: Sequence,
    since: Nanos,
}

/// What happens by time alone.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Background records have waited for long enough in the open block.
    Seal,
    /// What is written and wanted durable by nobody has waited for long enough.
    Sync,
    /// The shard is idle: a marker is to testify that the last block was covered.
    Marker,
}

impl Timer {
    const ALL: [Timer; 3] = [Timer::Seal, Timer::Sync, Timer::Marker];
}

/// When the next idle marker is due.
#[derive(Debug)]
struct Marker {
    /// The last block sealed held records, so that a marker would tell something.
    owed: bool,
    /// It is owed, and there is a place for it.
    armed: bool,
    idle_since: Nanos,
    last: Option<Nanos>,
}

impl Committer {
    /// A committer for a stream that is durable up to `start`, which no group leaves open, and whose
    /// blocks up to sequence `completed` are done with.
    pub(crate) fn new(config: CommitterConfig, start: Lsn, completed: Sequence) -> Committer {
        assert!(config.depth > 0);
        Committer {
            config,
            flight_max: u64::MAX,
            flight: Flight::new(config.depth),
            prefix: Prefix::new(start),
            next_operation: 1,
            syncs_in_flight: 0,
            sync_target: Sequence::default(),
            completed,
            waiting: None,
            uncovered_since: None,
            marker: Marker { owed: false, armed: false, idle_since: Nanos::default(), last: None },
            failed: false,
        }
    }

    // What happened.

    /// A block was sealed; blocks come in the order of their sequence.
    pub(crate) fn handle_sealed(&mut self, block: Sealed, now: Nanos) {
        if block.urgency == Urgency::Synced {
            self.sync_target = self.sync_target.max(block.sequence);
        }
        self.marker.owed = block.records > 0;
        self.marker.armed = self.marker.owed;
        if block.records == 0 {
            self.marker.last = Some(now);
        }
        self.flight.push(block);
    }

    /// A void block, in whose place the next one stands, was passed over. It comes in order with those that are
    /// sealed.
    pub(crate) fn handle_void(&mut self, sequence: Sequence) {
        if !self.flight.pass_over(sequence) {
            assert!(sequence > self.completed, "blocks are passed over in order");
            self.completed = sequence;
        }
    }

    /// All blocks up to `sequence`, sealed or not, are wanted durable.
    pub(crate) fn handle_sync_request(&mut self, sequence: Sequence) {
        self.sync_target = self.sync_target.max(sequence);
    }

    /// An operation completed. Any error stops the shard for good.
    pub(crate) fn handle_completion(&mut self, operation: OperationId, ok: bool, now: Nanos) {
        if self.flight.write_completed(operation) {
            if ok {
                self.written(now);
            } else {
                self.failed = true;
            }
        } else {
            assert!(self.syncs_in_flight > 0, "completion of an operation that was not submitted");
            self.syncs_in_flight -= 1;
            if ok && !self.failed {
                self.prefix.sync_completed(operation);
            } else {
                self.failed = true;
            }
        }
        self.marker.idle_since = now;
        self.prefix.check();
    }

    fn written(&mut self, now: Nanos) {
        if self.failed {
            // A write that lands after the failure proves nothing: what lies below may be lost.
            return;
        }
        while let Some(entry) = self.flight.pop_completed() {
            self.completed = entry.through;
            self.prefix.push(&entry);
        }
        if self.prefix.uncovered_above(self.sync_target) {
            self.uncovered_since.get_or_insert(now);
        }
    }

    /// The device is to have no more than about so many bytes in its hands, but for its next block.
    pub(crate) fn bound_flight(&mut self, bytes: u64) {
        self.flight_max = bytes;
    }

    /// Time passed.
    pub(crate) fn handle_time(&mut self, now: Nanos) {
        if self.deadline_of(Timer::Sync).is_some_and(|due| now >= due) {
            self.uncovered_since = None;
            self.sync_target = self.sync_target.max(self.completed);
        }
    }

    // What to do next.

    /// So much waits in the open block. Background records start the time after which it is sealed.
    pub(crate) fn note_pending(&mut self, pending: &Pending, now: Nanos) {
        if self.failed || pending.bytes == 0 || !self.may_linger(pending) {
            // No deadline for what somebody waits for: a completion is the moment to look again.
            self.waiting = None;
        } else if self.waiting.is_none_or(|waiting| waiting.sequence != pending.sequence) {
            self.waiting = Some(Waiting { sequence: pending.sequence, since: now });
        }
    }

    /// Whether to write a block without records, which testifies that the last one was covered.
    pub(crate) fn should_write_marker(&self, now: Nanos) -> bool {
        self.deadline_of(Timer::Marker).is_some_and(|due| now >= due)
    }

    /// The next operation to submit, which is then in flight.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        if self.failed {
            return None;
        }
        if self.may_write() {
            let write_through = self.config.method == SyncMethod::WriteThrough;
            let target = self.sync_target;
            let operation = OperationId(self.next_operation);
            if let Some((sequence, sync)) = self.flight.start_write(operation, |block| {
                write_through && (block.urgency == Urgency::Synced || block.sequence <= target)
            }) {
                self.next_operation += 1;
                return Some(Action::Write { operation, sequence, sync });
            }
        }
        let operation = OperationId(self.next_operation);
        let file = self.prefix.start_sync(operation, self.sync_target)?;
        self.next_operation += 1;
        self.syncs_in_flight += 1;
        if !self.prefix.uncovered_above(self.sync_target) {
            self.uncovered_since = None;
        }
        Some(Action::Sync { operation, file })
    }

    /// When to look again if nothing happens before.
    pub(crate) fn poll_timeout(&self) -> Option<Nanos> {
        Timer::ALL.into_iter().filter_map(|timer| self.deadline_of(timer)).min()
    }

    /// When a timer runs out; `None` while it does not run.
    fn deadline_of(&self, timer: Timer) -> Option<Nanos> {
        if self.failed {
            return None;
        }
        let config = &self.config;
        match timer {
            Timer::Seal => self.waiting.map(|waiting| waiting.since + config.background_ns),
            Timer::Sync => self.uncovered_since.map(|since| since + config.background_ns),
            Timer::Marker => (self.marker.armed && self.is_covered()).then(|| {
                let after_idle = self.marker.idle_since + config.marker_delay_ns;
                let interval = config.marker_interval_ns;
                after_idle.max(self.marker.last.map_or(Nanos::default(), |last| last + interval))
            }),
        }
    }

    // What is so.

    /// The LSNs below which something holds. They never fall.
    pub(crate) fn watermarks(&self) -> Watermarks {
        self.prefix.watermarks()
    }

    /// The last block that is done with, as all before it are: its write completed, or it is void. Their memory
    /// can be used again.
    pub(crate) fn completed(&self) -> Sequence {
        self.completed
    }

    /// No marker could be written now (no room for one): not before another interval is over.
    pub(crate) fn postpone_marker(&mut self, now: Nanos) {
        self.marker.last = Some(now);
    }

    /// There is no place for a marker, and there will be none until [`arm_marker`](Committer::arm_marker).
    pub(crate) fn disarm_marker(&mut self) {
        self.marker.armed = false;
    }

    /// There may be a place for a marker again.
    pub(crate) fn arm_marker(&mut self) {
        self.marker.armed = self.marker.owed;
    }

    /// Another block could be handed to the device now.
    pub(crate) fn has_room(&self) -> bool {
        !self.failed && self.may_write()
    }

    fn may_write(&self) -> bool {
        let writes = self.flight.writes_in_flight();
        writes < WRITES_MIN.min(self.config.depth)
            || writes < self.config.depth && self.flight.bytes_in_flight() < self.flight_max
    }

    /// Background records wait in the open block until a deadline (what Kafka calls to linger).
    pub(crate) fn is_lingering(&self) -> bool {
        self.waiting.is_some()
    }

    /// Writes and syncs in flight.
    pub(crate) fn operations_in_flight(&self) -> u32 {
        self.flight.writes_in_flight() + self.syncs_in_flight
    }

    /// How blocks are made durable.
    pub(crate) fn method(&self) -> SyncMethod {
        self.config.method
    }

    /// No operation is in flight. Blocks may still wait to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.writes_in_flight() == 0 && self.syncs_in_flight == 0
    }

    #[cfg(test)]
    /// Everything that was sealed is written, and what was wanted durable is.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_idle() && self.flight.is_empty() && !self.prefix.wants_sync(self.sync_target)
    }

    /// Everything that was sealed is durable.
    pub(crate) fn is_covered(&self) -> bool {
        self.is_idle() && self.flight.is_empty() && self.prefix.is_covered()
    }

    /// A write or sync failed: nothing is acknowledged any more.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Something outside failed (a panic, a device shared with another shard).
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }
}

#[cfg(test)]
mod tests;
