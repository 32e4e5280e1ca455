//! The door: who may look for room that does not wait for it, and what those who are refused are told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::admission::{self, Cause, Passed, STEP_NS};
use crate::error::AppendError;
use crate::format::RECORD_HEADER_BYTES;
use crate::shard::Engine;
use crate::stats::Pressure;
use crate::time::{Nanos, nanos};
use crate::write::{Origin, Priority};

/// What so many bytes of keys and payloads in so many records take in the log, about: what is offered is reckoned in it.
pub(crate) fn about_encoded(bytes: u64, records: u64) -> u64 {
    bytes + records * u64::from(RECORD_HEADER_BYTES)
}

impl Engine {
    /// When an append that begins now is given up.
    pub(crate) fn gives_up_at(&self, origin: &Origin) -> Nanos {
        origin.deadline.map_or(Nanos::NEVER, |deadline| self.time() + nanos(deadline))
    }

    /// Whether a record of so many bytes may look for room, of a caller that does not wait for any.
    #[inline]
    pub(crate) fn pass(
        &self,
        priority: Priority,
        origin: &Origin,
        bytes: u64,
    ) -> Result<Passed, AppendError> {
        if origin.deadline.is_some_and(|deadline| self.is_slower_than(deadline)) {
            return Err(match self.admission.is_shut() {
                true => self.shut_error().into(),
                false => self.overloaded(Cause::Deadline, priority, origin, bytes),
            });
        }
        let passed = self.gate.pass(priority, origin.tenant, bytes);
        if let (Ok(passed), true) = (&passed, self.admission.is_clear()) {
            return Ok(*passed);
        }
        if self.admission.is_shut() {
            return Err(self.shut_error().into());
        }
        let passed = passed.map_err(|cause| self.overloaded(cause, priority, origin, bytes))?;
        // Who stands in line may be gone by now, which is seen under a lock: not each time that somebody is refused.
        let is_free = self.admission.is_free_for(priority);
        if is_free || self.gate.looks_closely() && self.may_bypass(priority) {
            return Ok(passed);
        }
        Err(self.no_room(&passed, priority, origin, bytes))
    }

    /// The refusal of a caller that does not wait, for want of room.
    #[cold]
    pub(crate) fn no_room(
        &self,
        passed: &Passed,
        priority: Priority,
        origin: &Origin,
        bytes: u64,
    ) -> AppendError {
        self.gate.found_no_room(passed, bytes);
        // Behind a cut there is room that is not given, to this one or to those before it.
        let is_cut = priority != Priority::High && self.gate.is_cutting();
        let is_slow = is_cut && self.pool.in_use() <= self.blocks_max(priority);
        let cause = if is_slow { Cause::Delay } else { Cause::Room };
        self.overloaded(cause, priority, origin, bytes)
    }

    /// Counts a refusal, and tells when to come back.
    #[cold]
    pub(crate) fn overloaded(
        &self,
        cause: Cause,
        priority: Priority,
        origin: &Origin,
        bytes: u64,
    ) -> AppendError {
        let retry_after = match (cause, origin.deadline) {
            // There is room: it is the time that must become less.
            (Cause::Deadline, Some(deadline)) => {
                let above = self.predicted_delay().saturating_sub(deadline);
                admission::retry_within(above.mul_f64(self.gate.jitter()))
            }
            _ => self.retry_after(bytes, priority),
        };
        self.gate.refused(cause, priority, origin.tenant, bytes);
        AppendError::Overloaded { shard: self.id, retry_after, cause }
    }

    /// About how long it takes, at the rate at which the shard drains, until a batch of this size and priority finds room.
    pub(crate) fn retry_after(&self, bytes: u64, priority: Priority) -> Duration {
        let above = self.pool.in_use().saturating_sub(self.gate.blocks_max(priority).saturating_sub(1));
        let bytes = bytes.max(u64::from(above.max(1)) * u64::from(self.pool.block_bytes()));
        let rate = self.published.0.drain_rate.load(Ordering::Relaxed);
        admission::retry_after(bytes, rate, self.gate.jitter())
    }

    /// About how long it takes from now until a record is durable that is accepted now: what lies before it at the rate at
    /// which the shard drains, and then a commit.
    pub(crate) fn predicted_delay(&self) -> Duration {
        let behind = self.accepted_end().0.saturating_sub(self.written().0);
        let told = &self.published.0;
        let rate = told.drain_rate.load(Ordering::Relaxed);
        let queued = if rate == 0 { 0.0 } else { behind as f64 / rate as f64 };
        // One that hangs takes at least as long as it has. What the log does beside its commits holds up none of them.
        let since = told.oldest.load(Ordering::Relaxed);
        let hangs = if since == u64::MAX { 0 } else { self.device.now() - Nanos(since) };
        let hangs = Duration::from_nanos(hangs);
        Duration::from_nanos(told.commit_ns.load(Ordering::Relaxed)).max(hangs)
            + Duration::try_from_secs_f64(queued).unwrap_or(Duration::MAX / 2)
    }

    /// Whether a record that is accepted now would not be durable within that time, since others are before it.
    pub(crate) fn is_slower_than(&self, deadline: Duration) -> bool {
        // With nothing before it nobody knows better, and whoever is let in shows how long it takes now.
        self.accepted_end() > self.written() && self.predicted_delay() > deadline
    }

    /// How it stands with what is offered.
    pub(crate) fn pressure(&self) -> Pressure {
        let told = &self.published.0;
        let since = self.device.now() - Nanos(told.admitted_at.load(Ordering::Relaxed));
        // What was is of no use once nobody has turned the shard for a while: it is idle.
        let is_new = since < 3 * STEP_NS;
        let part = |admitted: &AtomicU32| f64::from(admitted.load(Ordering::Relaxed)) / f64::from(u32::MAX);
        let admitted = [0, 1, 2].map(|priority| match () {
            () if self.admission.is_shut() => 0.0,
            () if is_new => part(&told.admitted[priority]),
            () => 1.0,
        });
        Pressure {
            shard: self.id,
            delay: self.predicted_delay(),
            fill: f64::from(self.pool.in_use()) / f64::from(self.pool.blocks()),
            admitted,
            drain_rate: told.drain_rate.load(Ordering::Relaxed),
        }
    }
}
