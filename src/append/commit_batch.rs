//! The handle of a batch that was accepted at once, or refused.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Commit, Job};
use crate::error::AppendError;
use crate::position::Position;
use crate::shard::{AppendMode, Batch, EngineRef};
use crate::write::{BatchBuilder, Durability, Given, Keys, List, Priority};

/// A batch that was accepted, on its way to the durability it was appended with: what a [`Commit`] is for a record. By
/// [`Log::try_append_batch`](crate::Log::try_append_batch) and [`Log::try_append_built`](crate::Log::try_append_built).
///
/// As a future it gives the positions of its records once they are durable. Dropping it changes nothing for the batch.
#[must_use = "nobody learns how the append ended"]
pub struct CommitBatch {
    commit: Commit,
    positions: Vec<Position>,
}

impl CommitBatch {
    pub(crate) fn try_begin<P: AsRef<[u8]>>(
        engine: EngineRef,
        key: &[u8],
        payloads: &[P],
        durability: Durability,
    ) -> Result<CommitBatch, AppendError> {
        if payloads.is_empty() {
            return Err(AppendError::EmptyBatch);
        }
        // Nothing is allocated for a batch that is refused.
        let given: &dyn Given = &payloads;
        let batch = Batch { keys: Keys::One(key), id: None, payloads: List::Given(given) };
        let mode = AppendMode::without_lead(Priority::Normal, durability);
        let mut positions = Vec::new();
        let put = |engine: &EngineRef| engine.put(&batch, mode, Some(&mut positions));
        let commit = Commit::try_put(engine, batch.bytes(), mode.priority, put)?;
        Ok(CommitBatch { commit, positions })
    }

    pub(crate) fn try_built(
        engine: EngineRef,
        built: &BatchBuilder,
        durability: Durability,
    ) -> Result<CommitBatch, AppendError> {
        let job = Job::built(&[], built, durability)?;
        let mut positions = Vec::new();
        let put = |engine: &EngineRef| job.put(engine, job.without_lead(), Some(&mut positions));
        let commit = Commit::try_put(engine, built.body_bytes(), job.priority, put)?;
        Ok(CommitBatch { commit, positions })
    }

    /// Where its records are, in their order.
    #[must_use]
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Whether it was there before, with the same [`id`](BatchBuilder::id): nothing was appended. The positions are
    /// those of the first one, as [`Commit::is_duplicate`] says.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.commit.is_duplicate()
    }

    /// Whether all of it is durable by now, whatever durability it was appended with.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.commit.is_durable()
    }

    /// The outcome, if it is known by now. Registers no waker.
    #[must_use]
    pub fn try_result(&self) -> Option<Result<&[Position], AppendError>> {
        Some(self.commit.try_result()?.map(|_| &*self.positions))
    }

    /// Blocks this thread until the whole batch has the durability it was appended with.
    ///
    /// # Errors
    /// After [`AppendError::ShardFailed`] it is unknown whether the batch is kept; it is whole or absent even so.
    pub fn wait(self) -> Result<Vec<Position>, AppendError> {
        self.commit.wait()?;
        Ok(self.positions)
    }

    /// As [`wait`](CommitBatch::wait), for at most `timeout`; `None` if the time ran out: the batch was accepted, and is
    /// still on its way.
    ///
    /// # Errors
    /// As [`wait`](CommitBatch::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<&[Position], AppendError>> {
        Some(self.commit.wait_timeout(timeout)?.map(|_| &*self.positions))
    }

    /// Its [`Commit`] and its positions, as [`AdmittedBatch`](crate::append::AdmittedBatch) gives them.
    pub fn into_parts(self) -> (Commit, Vec<Position>) {
        (self.commit, self.positions)
    }
}

impl Future for CommitBatch {
    type Output = Result<Vec<Position>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let CommitBatch { commit, positions } = &mut *self;
        Pin::new(commit).poll(context).map(|result| result.map(|_| positions.clone()))
    }
}

impl fmt::Debug for CommitBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitBatch").field("positions", &self.positions).finish_non_exhaustive()
    }
}
