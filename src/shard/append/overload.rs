//! The door: who may look for room that does not wait for it, and what those who are refused are told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::admission::{self, Cause, Passed};
use crate::error::AppendError;
use crate::shard::Engine;
use crate::write::{Origin, Priority};

impl Engine {
    /// Whether a record of so many bytes may look for room, of a caller that does not wait for any.
    #[inline]
    pub(crate) fn pass(
        &self,
        priority: Priority,
        origin: &Origin,
        bytes: u64,
    ) -> Result<Passed, AppendError> {
        let passed = self.gate.pass(priority, origin.tenant);
        if self.admission.is_clear() && passed.is_ok() {
            return Ok(passed.expect("it is"));
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
        Err(self.no_room(priority, origin, bytes))
    }

    /// The refusal of a caller that does not wait, for want of room.
    #[cold]
    pub(crate) fn no_room(&self, priority: Priority, origin: &Origin, bytes: u64) -> AppendError {
        let in_use = self.pool.in_use();
        let is_slow = in_use > self.gate.blocks_max(priority) && in_use <= self.blocks_max(priority);
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
        let retry_after = self.retry_after(bytes, priority);
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
}
