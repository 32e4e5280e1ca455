//! The handle of a batch that was accepted at once, or refused.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Commit, Job, Route};
use crate::error::AppendError;
use crate::position::Position;
use crate::shard::{AppendMode, Batch, EngineRef, about_encoded};
use crate::write::{BatchBuilder, Durability, Keys, List, Origin, Priority};

/// So many payloads are listed on the stack, so that nothing is allocated for a batch that is refused.
const FEW: usize = 32;

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
        route: Route,
        key: &[u8],
        payloads: &[P],
        durability: Durability,
    ) -> Result<CommitBatch, AppendError> {
        if payloads.is_empty() {
            return Err(AppendError::EmptyBatch);
        }
        // What is the caller's is called here, and no more once a range is reserved.
        let (mut few, mut many) = ([&[][..]; FEW], Vec::new());
        let slices = match few.get_mut(..payloads.len()) {
            Some(few) => {
                few.iter_mut().zip(payloads).for_each(|(slice, payload)| *slice = payload.as_ref());
                &*few
            }
            None => {
                many.extend(payloads.iter().map(AsRef::as_ref));
                &many
            }
        };
        let batch = Batch { keys: Keys::One(key), id: None, payloads: List::Slices(slices) };
        let bytes = about_encoded(batch.bytes(), payloads.len() as u64);
        let mode = AppendMode::without_lead(Priority::Normal, durability).at(route.turn());
        let mut positions = Vec::new();
        let put = |engine: &EngineRef| engine.put(&batch, mode, Some(&mut positions));
        let commit = Commit::try_put(engine, bytes, mode.priority, &Origin::default(), put)?;
        Ok(CommitBatch { commit, positions })
    }

    pub(crate) fn try_built(
        engine: EngineRef,
        route: Route,
        built: &BatchBuilder,
        durability: Durability,
    ) -> Result<CommitBatch, AppendError> {
        let job = Job::built(&[], built, route, durability)?;
        let bytes = about_encoded(built.body_bytes(), built.len() as u64);
        let mut positions = Vec::new();
        let put = |engine: &EngineRef| {
            job.put(engine, job.without_lead(), engine.gives_up_at(&job.origin), Some(&mut positions))
        };
        let commit = Commit::try_put(engine, bytes, job.priority, &built.origin, put)?;
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

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use super::*;
    use crate::simulation::Simulated;
    use crate::{Log, Options, Write};

    /// On a machine on which nothing is written before somebody waits.
    fn log() -> Log {
        let options =
            Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(64 << 10);
        options.device(&Simulated::seed(1)).open("/log").unwrap()
    }

    fn batch(priority: Priority, durability: Durability) -> BatchBuilder {
        let mut batch = BatchBuilder::new();
        for key in [b"a", b"b"] {
            batch.push_keyed(key, [7; 1_000]);
        }
        batch.priority(priority);
        batch.durability(durability);
        batch
    }

    #[test]
    fn a_batch_is_refused_by_its_priority() {
        let log = log();
        let mut accepted = Vec::new();
        let priorities = [Priority::Low, Priority::Normal, Priority::High];
        for (index, priority) in priorities.into_iter().enumerate() {
            let batch = batch(priority, Durability::Synced);
            let before = accepted.len();
            while let Ok(commit) = log.try_append_built(&batch) {
                accepted.push(commit);
                assert!(accepted.len() < 100, "memory is bounded");
            }
            assert!(accepted.len() > before, "{priority:?} is accepted");
            for refused in &priorities[..=index] {
                let refused = log.try_append_built(&self::batch(*refused, Durability::Buffered));
                assert!(matches!(refused, Err(AppendError::Overloaded { .. })), "{refused:?}");
            }
        }
        assert!(
            log.try_append_batch(b"a", &[[7; 1_000]]).is_err(),
            "there is no room for one of normal priority"
        );
        let most = accepted.len();
        let positions: Vec<Position> =
            accepted.into_iter().flat_map(|commit| commit.wait().unwrap()).collect();
        assert_eq!((positions.len(), log.merged(..).unwrap().count()), (2 * most, 2 * most));
        assert!(log.try_append_batch(b"a", &[[7; 1_000]]).is_ok(), "there is room once it is written");
    }

    #[test]
    fn a_batch_has_its_own_durability() {
        let log = log();
        let tried = |durability| log.try_append_built(&batch(Priority::Normal, durability)).unwrap();
        let buffered = tried(Durability::Buffered);
        assert!(matches!(buffered.try_result(), Some(Ok(positions)) if positions == buffered.positions()));
        let built = batch(Priority::Normal, Durability::Buffered);
        let (commit, _) = log.append_keyed(&built).admitted().wait().unwrap();
        assert!(commit.try_result().is_some() && !commit.is_durable());
        let synced = tried(Durability::Synced);
        assert!(synced.try_result().is_none() && !synced.is_durable());
        // The log's, where it says nothing.
        let plain = log.try_append_batch(b"a", &[b"x"]).unwrap();
        assert!(plain.try_result().is_none());
        log.append(Write::new(b"x")).wait().unwrap();
        assert!(buffered.is_durable() && synced.is_durable() && plain.is_durable());
    }
}
