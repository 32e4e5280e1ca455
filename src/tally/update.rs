//! The handle of one update.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::error::UpdateError;
use super::flush::Core;
use super::fold::{Fold, Sum};
use crate::shard::Registration;

/// An update of a tally: resolves when the flush that carries it is durable.
///
/// The update was counted, or refused, in the call that made this: ask [`accepted`](Update::accepted) where you do not wait.
/// Dropping the handle takes nothing back and costs nothing; updates of one flush share one commit.
#[derive(Debug)]
#[must_use = "the update may have been refused"]
pub struct Update<'t, F: Fold = Sum> {
    core: Held<'t, F>,
    outcome: Result<u64, UpdateError>,
    registration: Option<Registration>,
}

/// Borrowed, since a reference count that all updates share would be the one word that all cores write.
#[derive(Debug)]
enum Held<'t, F: Fold> {
    Borrowed(&'t Arc<Core<F>>),
    Owned(Arc<Core<F>>),
}

impl<F: Fold> Held<'_, F> {
    fn get(&self) -> &Arc<Core<F>> {
        match self {
            Held::Borrowed(core) => core,
            Held::Owned(core) => core,
        }
    }
}

impl<'t, F: Fold> Update<'t, F> {
    #[inline]
    pub(super) fn new(core: &'t Arc<Core<F>>, outcome: Result<u64, UpdateError>) -> Update<'t, F> {
        Update { core: Held::Borrowed(core), outcome, registration: None }
    }

    /// A handle that borrows nothing, for a task of its own.
    pub fn into_owned(mut self) -> Update<'static, F> {
        let core = Held::Owned(self.core.get().clone());
        let outcome = self.outcome.clone();
        Update { core, outcome, registration: self.registration.take() }
    }

    /// Whether it was counted, known at once.
    ///
    /// # Errors
    /// Why not.
    pub fn accepted(&self) -> Result<(), UpdateError> {
        self.outcome.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// Whether it is durable now.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|&flush| self.core.get().is_durable(flush))
    }

    /// How it ended; `None` if that is not known yet. Registers no waker.
    pub fn try_result(&self) -> Option<Result<(), UpdateError>> {
        match &self.outcome {
            Ok(flush) => self.core.get().outcome(*flush),
            Err(error) => Some(Err(error.clone())),
        }
    }

    /// Blocks until it is durable: for about the interval of the tally, unless somebody asks for a
    /// [`flush`](super::Tally::flush).
    ///
    /// # Errors
    /// See [`UpdateError`]; only [`UpdateError::Failed`] leaves open whether it is kept.
    pub fn wait(self) -> Result<(), UpdateError> {
        self.wait_at_most(None).expect("there is no time limit")
    }

    /// The same for at most `timeout`; `None` if the time was over first.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<(), UpdateError>> {
        self.wait_at_most(Some(timeout))
    }

    fn wait_at_most(&self, timeout: Option<Duration>) -> Option<Result<(), UpdateError>> {
        match &self.outcome {
            Ok(flush) => self.core.get().wait(*flush, timeout),
            Err(error) => Some(Err(error.clone())),
        }
    }
}

impl<F: Fold> Future for Update<'_, F> {
    type Output = Result<(), UpdateError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let flush = match &self.outcome {
            Ok(flush) => *flush,
            Err(error) => return Poll::Ready(Err(error.clone())),
        };
        let Update { core, registration, .. } = &mut *self;
        let core = core.get();
        if let Some(outcome) = core.outcome(flush) {
            return Poll::Ready(outcome);
        }
        if !core.in_opening_process() {
            return Poll::Ready(Err(UpdateError::Forked));
        }
        if !core.is_threaded() {
            // Nobody else flushes.
            return core.wait(flush, None).map_or(Poll::Pending, Poll::Ready);
        }
        *registration = Some(core.waiters.register(flush, context.waker(), *registration));
        core.outcome(flush).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<F: Fold> Drop for Update<'_, F> {
    fn drop(&mut self) {
        let core = self.core.get();
        if let Some(registration) = self.registration.take().filter(|_| core.in_opening_process()) {
            core.waiters.forget(registration);
        }
    }
}
