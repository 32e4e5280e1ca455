//! How a shard is closed, with everything durable that it has accepted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::engine::Engine;
use crate::error::CloseError;
use crate::sync::lock;

impl Engine {
    /// Accepts nothing more, and writes and syncs what was accepted. The caller then waits for the
    /// thread, or turns until [`is_settled`](Engine::is_settled).
    pub(crate) fn begin_close(&self) {
        self.life.shut(&self.opener());
        crate::sync::wake(self.admission.shut());
        let last = self.pool.close_any();
        self.sync_asked.fetch_max(last.0, Ordering::SeqCst);
        self.life.begin_closing();
        self.wake_shard();
        lock(&self.maintenance).take();
    }

    /// Drops the queue, which waits for what is still in flight.
    pub(crate) fn give_up_queue(&self) {
        let queue = lock(&self.queue).take();
        drop(queue);
    }

    /// Records the clean end, once nothing is in flight any more.
    pub(crate) fn finish_close(&self) -> Result<(), CloseError> {
        if self.life.read_only_failure().is_some() {
            return Ok(());
        }
        if let Some(failure) = self.failure() {
            return Err(CloseError::ShardFailed(failure.clone()));
        }
        let out = self.calls.begin();
        let end = self.opener().end(&self.pool);
        assert_eq!(end, self.durable(), "a shard that closes cleanly is durable to its end");
        self.end_retention();
        let closed = lock(&self.store).close(end, &self.marks());
        drop(out);
        self.tell_of_flushes();
        closed.map_err(|error| CloseError::Io { shard: self.id, source: Arc::new(error) })
    }

    /// Whether all that was accepted is durable, or never will be.
    pub(crate) fn is_settled(&self) -> bool {
        self.life.has_failed() || lock(&self.core).is_done(&self.pool)
    }
}
