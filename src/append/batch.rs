//! The handles of a batch: as those of an append, with the positions of all its records.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Commit, Job, Payloads, Route, State};
use crate::error::AppendError;
use crate::position::Position;
use crate::shard::EngineRef;
use crate::write::{BatchBuilder, Durability, Origin, Priority};

impl<'a> Job<'a> {
    /// Of a batch that was built, whose records have `key` where they have none of their own.
    pub(super) fn built(
        key: &'a [u8],
        built: &'a BatchBuilder,
        route: Route,
        durability: Durability,
    ) -> Result<Job<'a>, AppendError> {
        if built.is_empty() {
            return Err(AppendError::EmptyBatch);
        }
        let terms = (!built.terms.are_none()).then(|| Box::new(built.terms));
        let key = match terms {
            Some(_) => built.one_key(key).ok_or(AppendError::MixedKeys)?,
            None => key,
        };
        Ok(Job {
            key: Cow::Borrowed(key),
            payloads: Payloads::Built(built),
            priority: built.priority,
            durability: built.durability.unwrap_or(durability),
            terms,
            origin: built.origin,
            route,
        })
    }
}

/// An append of several records, all or none. Made by [`Log::append_batch`](crate::Log::append_batch).
///
/// # Cancellation
/// As of [`Append`](crate::Append#cancellation), for the whole batch.
#[must_use = "an append that is dropped may be withdrawn, and nobody learns how it ended"]
pub struct AppendBatch<'a> {
    state: State<'a>,
    positions: Vec<Position>,
}

impl<'a> AppendBatch<'a> {
    pub(crate) fn begin(
        engine: EngineRef,
        route: Route,
        key: &'a [u8],
        payloads: Vec<&'a [u8]>,
        durability: Durability,
    ) -> AppendBatch<'a> {
        if payloads.is_empty() {
            return AppendBatch::failed(AppendError::EmptyBatch);
        }
        let (key, payloads) = (Cow::Borrowed(key), Payloads::Many(payloads));
        AppendBatch::begin_job(
            engine,
            Job {
                key,
                payloads,
                priority: Priority::Normal,
                durability,
                terms: None,
                origin: Origin::default(),
                route,
            },
        )
    }

    /// Of a batch that was built, whose records have `key` where they have none of their own.
    pub(crate) fn begin_built(
        engine: EngineRef,
        route: Route,
        key: &'a [u8],
        built: &'a BatchBuilder,
        durability: Durability,
    ) -> AppendBatch<'a> {
        match Job::built(key, built, route, durability) {
            Ok(job) => AppendBatch::begin_job(engine, job),
            Err(error) => AppendBatch::failed(error),
        }
    }

    fn begin_job(engine: EngineRef, job: Job<'a>) -> AppendBatch<'a> {
        let mut positions = Vec::new();
        AppendBatch { state: State::begin(engine, job, Some(&mut positions)), positions }
    }

    pub(crate) fn failed(error: AppendError) -> AppendBatch<'a> {
        AppendBatch { state: State::Failed(error), positions: Vec::new() }
    }

    /// Blocks this thread until the whole batch has the durability it was appended with.
    ///
    /// # Errors
    /// As [`Append::wait`](crate::append::Append::wait).
    pub fn wait(mut self) -> Result<Vec<Position>, AppendError> {
        self.state.wait(None, Some(&mut self.positions)).expect("there is no time limit")?;
        Ok(self.positions)
    }

    /// Waits for room only, and gives the positions and a [`Commit`] for the whole batch: the way to
    /// keep several batches in flight.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// let (commit, positions) = log.append_batch(b"", &[b"a", b"b"]).admitted().wait()?;
    /// assert_eq!((commit.position(), positions.len()), (positions[0], 2));
    /// commit.wait()?; // now both are durable
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn admitted(self) -> AdmittedBatch<'a> {
        AdmittedBatch(self)
    }
}

impl Future for AppendBatch<'_> {
    type Output = Result<Vec<Position>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let AppendBatch { state, positions } = &mut *self;
        state.poll(context, Some(positions)).map(|result| result.map(|_| positions.clone()))
    }
}

impl fmt::Debug for AppendBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendBatch").finish_non_exhaustive()
    }
}

/// A batch that waits for room and gives its [`Commit`] and positions. Made by [`AppendBatch::admitted`].
///
/// As a future it gives them once. Polling it again after that panics.
///
/// # Cancellation
/// As of [`Append`](crate::Append#cancellation), for the whole batch.
#[must_use = "a batch that is not accepted is not appended"]
pub struct AdmittedBatch<'a>(AppendBatch<'a>);

impl AdmittedBatch<'_> {
    /// Blocks this thread until the batch is accepted.
    ///
    /// # Errors
    /// See [`AppendError`]; whatever the error, nothing of the batch was accepted.
    pub fn wait(mut self) -> Result<(Commit, Vec<Position>), AppendError> {
        self.0.state.wait_admitted(None, Some(&mut self.0.positions));
        Ok((self.0.state.into_commit()?, self.0.positions))
    }
}

impl Future for AdmittedBatch<'_> {
    type Output = Result<(Commit, Vec<Position>), AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let AppendBatch { state, positions } = &mut self.0;
        assert!(!matches!(state, State::Gone), "the handle was polled after it was ready");
        if state.poll_admitted(context, Some(positions)).is_pending() {
            return Poll::Pending;
        }
        let commit = std::mem::replace(state, State::Gone).into_commit();
        Poll::Ready(commit.map(|commit| (commit, std::mem::take(positions))))
    }
}

impl fmt::Debug for AdmittedBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmittedBatch").finish_non_exhaustive()
    }
}
