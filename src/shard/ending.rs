//! How a shard ends: by a failure (promise 5), or closed with everything durable.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use super::engine::Engine;
use crate::error::{CloseError, Failure};
use crate::sync::lock;

impl Engine {
    /// Stops the shard: nothing is acknowledged any more, and everybody who waits is told at once.
    ///
    /// Wake what it gives under no lock.
    #[must_use]
    pub(crate) fn stop(&self, operation: &'static str, path: PathBuf, source: io::Error) -> Vec<Waker> {
        let durable = self.durable();
        let failure = Failure { shard: self.id, operation, path, durable, source };
        let first = self.failure.set(Arc::new(failure)).is_ok();
        let mut tasks = self.admission.shut();
        self.waiters.notify_all(&mut tasks);
        self.followers.notify_all(&mut tasks);
        if first {
            let failure = self.failure.get().expect("set above");
            self.notices.error(format!("{failure}"));
        }
        tasks
    }

    /// Stops the shard after a panic, or in place of whoever turned it: also those are woken whom a turn had found
    /// and did not get to. Under no lock.
    pub(super) fn stop_after(&self, operation: &'static str, error: io::Error) {
        crate::sync::wake(self.stop(operation, self.path(), error));
        let wakes = lock(&self.core).take_wakes();
        self.wake(wakes);
    }

    /// Stops the shard because the device has not answered for so long. Wake what it gives under no lock.
    #[must_use]
    pub(crate) fn give_up(&self, age: Duration) -> Vec<Waker> {
        let error =
            io::Error::new(io::ErrorKind::TimedOut, format!("the device has not answered for {age:?}"));
        // The core may be held by whoever is stuck: it heeds the failure once it is back.
        self.stop("waiting for the device", self.path(), error)
    }

    /// Accepts nothing more, and writes and syncs what was accepted. The caller then waits for the
    /// thread, or turns until [`is_settled`](Engine::is_settled).
    pub(crate) fn begin_close(&self) {
        self.opener().shut = true;
        crate::sync::wake(self.admission.shut());
        let last = self.pool.close_any();
        self.sync_asked.fetch_max(last, Ordering::SeqCst);
        self.closing.store(true, Ordering::SeqCst);
        self.prod();
        lock(&self.keeper).take();
    }

    /// Drops the queue, which waits for what is still in flight.
    pub(crate) fn give_up_queue(&self) {
        let queue = lock(&self.queue).take();
        drop(queue);
    }

    /// Records the clean end, once nothing is in flight any more.
    pub(crate) fn finish_close(&self) -> Result<(), CloseError> {
        if self.read_only {
            return Ok(());
        }
        if let Some(failure) = self.failure.get() {
            return Err(CloseError::ShardFailed(failure.clone()));
        }
        let end = self.opener().end(&self.pool);
        assert_eq!(end, self.durable(), "a shard that closes cleanly is durable to its end");
        lock(&self.store)
            .close(end, &self.marks())
            .map_err(|error| CloseError::Io { shard: self.id, source: Arc::new(error) })
    }

    /// Whether all that was accepted is durable, or never will be.
    pub(crate) fn is_settled(&self) -> bool {
        self.failure.get().is_some() || lock(&self.core).is_done(&self.pool)
    }
}
