//! A record in a worker's hands. How long a lease lasts: `options.rs`; when it ends: `state.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::state::{Grant, Lost, Moment, State};
use crate::error::QueueError;
use crate::read::Record;
use crate::time::nanos;

/// A record that is this worker's, and nobody else's, for as long as the lease lasts. By
/// [`Queue::take`](super::Queue::take).
///
/// The worker says what becomes of it: [`done`](Delivery::done), [`retry_after`](Delivery::retry_after) or
/// [`reject`](Delivery::reject). None of these waits for the disk; what they say is durable within about a second, or after
/// [`Queue::flush`](super::Queue::flush). A delivery that is dropped without a word, as by a worker that panics, is handed out
/// again at once; so is one that is not settled when its lease runs out. Both count as an attempt.
#[must_use = "what is dropped without a word is handed out again"]
pub struct Delivery {
    core: Arc<Core>,
    grant: Grant,
    record: Record,
    /// Its worker has said what becomes of it.
    settled: bool,
}

impl Delivery {
    pub(super) fn new(core: &Arc<Core>, grant: Grant, record: Record) -> Delivery {
        Delivery { core: core.clone(), grant, record, settled: false }
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// How often it was handed out by now, beginning with 1. After a crash it may be short by those of the last second.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.grant.attempt
    }

    /// The record need not be handed out again.
    ///
    /// Costs no I/O.
    ///
    /// # Errors
    /// [`QueueError::LeaseLost`] if the lease ran out and somebody else has it by now. [`QueueError::Closed`] once the log is
    /// closed: it is handed out again after the next open.
    pub fn done(self) -> Result<(), QueueError> {
        self.say(|state, grant, _| state.done(grant.position, grant.lease))
    }

    /// The record is handed out again, to anybody, not before so long from now. If this was its last attempt, it is a dead
    /// letter instead.
    ///
    /// Costs no I/O. The delay goes on over a crash.
    ///
    /// # Errors
    /// As [`done`](Delivery::done).
    pub fn retry_after(self, delay: Duration) -> Result<(), QueueError> {
        self.say(|state, grant, moment| state.retry_after(grant.position, grant.lease, nanos(delay), moment))
    }

    /// The record is a dead letter: it is handed out no more, and listed by [`Queue::rejected`](super::Queue::rejected) with
    /// this reason, of which 200 bytes are kept.
    ///
    /// Costs no I/O.
    ///
    /// # Errors
    /// As [`done`](Delivery::done).
    pub fn reject(self, reason: impl AsRef<str>) -> Result<(), QueueError> {
        self.say(|state, grant, moment| state.reject(grant.position, grant.lease, reason.as_ref(), moment))
    }

    /// The lease lasts for so long from now, whatever was left of it. One that ran out begins again, unless somebody else
    /// has the record by now.
    ///
    /// # Errors
    /// As [`done`](Delivery::done).
    pub fn extend(&self, lease: Duration) -> Result<(), QueueError> {
        let Grant { position, lease: own, .. } = self.grant;
        self.core.settle(position, |state, moment| state.extend(position, own, nanos(lease), moment))
    }

    /// Says what becomes of it, once.
    fn say(
        mut self,
        act: impl FnOnce(&mut State, Grant, Moment) -> Result<(), Lost>,
    ) -> Result<(), QueueError> {
        self.settled = true;
        self.core.settle(self.grant.position, |state, moment| act(state, self.grant, moment))
    }
}

impl fmt::Debug for Delivery {
    /// Without the contents, which are the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("queue", &self.core.name)
            .field("record", &self.record)
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

impl Drop for Delivery {
    /// It is handed out again at once.
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let Grant { position, lease, .. } = self.grant;
        let _ = self.core.settle(position, |state, moment| state.release(position, lease, "dropped", moment));
    }
}
