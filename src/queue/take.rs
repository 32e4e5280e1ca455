//! Taking records: the handles that wait for them, in a thread or in a task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::core::{Core, Look, Told};
use super::delivery::Delivery;
use super::wait::Place;
use crate::error::ReadError;

/// A wait for records. By [`Queue::take_batch`](super::Queue::take_batch).
///
/// [`wait`](TakeBatch::wait) blocks; as a future it waits in a task of any runtime. Dropping it takes nothing. While it waits it
/// may be the one that is woken for the next record, so drop what is not polled any more.
///
/// Both give `None` once the log is closed, once all of its shards have stopped, or by [`Queue::stop`](super::Queue::stop).
#[derive(Debug)]
#[must_use = "nothing is taken until it is waited for"]
pub struct TakeBatch {
    core: Arc<Core>,
    most: usize,
    place: Option<Place>,
}

impl TakeBatch {
    pub(super) fn new(core: &Arc<Core>, most: usize) -> TakeBatch {
        TakeBatch { core: core.clone(), most, place: None }
    }

    /// Blocks until there is a record, and gives that and what else is there, up to as many as were asked for.
    ///
    /// # Errors
    /// See [`Take::wait`].
    #[must_use = "what is dropped without a word is handed out again"]
    pub fn wait(self) -> Option<Result<Vec<Delivery>, ReadError>> {
        self.core.wait(self.most, None)
    }

    /// As [`wait`](TakeBatch::wait), for at most so long. `None` also if the time was over.
    ///
    /// # Errors
    /// See [`Take::wait`].
    #[must_use = "what is dropped without a word is handed out again"]
    pub fn wait_timeout(self, timeout: Duration) -> Option<Result<Vec<Delivery>, ReadError>> {
        self.core.wait(self.most, Some(timeout))
    }
}

impl Future for TakeBatch {
    type Output = Option<Result<Vec<Delivery>, ReadError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Told> {
        let TakeBatch { core, most, place } = &mut *self;
        match core.look_or_join(*most, place, context.waker()) {
            Look::Told(told) => Poll::Ready(told),
            Look::Wait(at) => {
                core.wake_at(at);
                Poll::Pending
            }
        }
    }
}

impl Drop for TakeBatch {
    fn drop(&mut self) {
        self.core.leave(self.place.take());
    }
}

/// A wait for a record. By [`Queue::take`](super::Queue::take).
///
/// [`wait`](Take::wait) blocks; as a future it waits in a task of any runtime, and belongs to no borrow. Dropping it takes
/// nothing. While it waits it may be the one that is woken for the next record, so drop what is not polled any more.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// # let queue = log.queue("mailer", sawmill::queue::QueueOptions::new())?;
/// # log.append(b"to: you").wait()?;
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// while let Some(delivery) = queue.take().await {
///     let Ok(delivery) = delivery else { continue }; // damaged or truncated: the next call goes on after it
///     // ... send it ...
///     if let Err(error) = delivery.done() {
///         eprintln!("not settled: {error}"); // it took longer than its lease: another worker has it by now
///     }
///     # break;
/// }
/// # });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is taken until it is waited for"]
pub struct Take(TakeBatch);

/// The one of which a batch of one consists.
fn single(told: Told) -> Option<Result<Delivery, ReadError>> {
    told.map(|told| {
        told.map(|mut batch| batch.pop().expect("one was asked for, and told of none is no batch"))
    })
}

impl Take {
    pub(super) fn new(core: &Arc<Core>) -> Take {
        Take(TakeBatch::new(core, 1))
    }

    /// Blocks until there is a record. `None` once the log is closed, once all of its shards have stopped, or by
    /// [`Queue::stop`](super::Queue::stop).
    ///
    /// # Errors
    /// [`ReadError::Damaged`] and [`ReadError::Truncated`] say what could not be handed out and is passed over; the next call
    /// goes on after it. What was handed out before and cannot be read now has had an attempt, and is tried again.
    /// [`ReadError::OwnThread`] in a thread that runs a shard.
    #[must_use = "what is dropped without a word is handed out again"]
    pub fn wait(self) -> Option<Result<Delivery, ReadError>> {
        single(self.0.wait())
    }
}

impl Future for Take {
    type Output = Option<Result<Delivery, ReadError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(single)
    }
}
