//! Truncation at both ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::committer::Committer;
use crate::error::{TruncateError, Unavailable};
use crate::position::Lsn;
use crate::segment::NewEpoch;
use crate::shard::engine::Engine;
use crate::shard::failure::same;
use crate::sync::lock;
use crate::write::Durability;

impl Engine {
    /// Waits until everything that was accepted is durable. Under no lock: whoever turns the shard may need it.
    fn settle(&self) -> Result<(), Unavailable> {
        let Some(target) = self.last_target(Durability::Synced) else { return Ok(()) };
        self.ask_sync(&target);
        self.wait(&target, None).unwrap_or_else(|| Err(self.shut_error()))
    }

    /// Forgets everything below `lsn`, or below the durable LSN if that is lower.
    pub(crate) fn truncate_before(&self, lsn: Lsn) -> Result<(), TruncateError> {
        self.check_process()?;
        if self.is_ended() {
            return Err(self.shut_error().into());
        }
        self.may_begin_at(lsn)?;
        if lsn > self.durable() {
            self.settle()?;
        }
        let active = self.opener().active();
        let horizon = lsn.min(self.durable());
        let mut store = lock(&self.store);
        let out = self.calls.begin();
        let result = store.truncate_before(horizon, active, &self.marks());
        drop(out);
        self.space.given_up.fetch_add(1, Ordering::SeqCst);
        self.publish_view(&store);
        drop(store);
        self.stop_if_calls_failed();
        self.retry_segment();
        result.map_err(|error| self.not_cut(error))
    }

    /// Cuts off everything behind the record at `lsn`; `find_cut` looks it up and gives the place
    /// behind it.
    pub(crate) fn truncate_after(
        &self,
        nonce: u64,
        find_cut: impl FnOnce() -> Result<Lsn, TruncateError>,
    ) -> Result<(), TruncateError> {
        self.check_process()?;
        if self.would_wait_for_itself() {
            return Err(TruncateError::OwnThread);
        }
        let _cutting = lock(&self.space.cutting);
        let _held = self.hold_openings()?;
        self.settle()?;
        let cut = find_cut()?;
        self.may_end_at(cut)?;
        let mut opener = self.opener();
        if self.life.is_shut() || self.life.has_failed() {
            return Err(self.shut_error().into()); // Closed or failed meanwhile.
        }
        let mut core = lock(&self.core);
        // Void blocks that nobody has passed over yet.
        let now = self.device.now();
        self.seal_due(&mut core, now);
        self.publish(&mut core, now);
        if core.committer.failed() {
            return Err(self.shut_error().into()); // By another shard's flush, say, a moment ago: nothing was published.
        }
        let start = opener.end(&self.pool);
        let mut store = lock(&self.store);
        let timestamp = self.published.0.timestamp.load(Ordering::SeqCst);
        let out = self.calls.begin();
        let after_nothing = start <= store.last_epoch_start();
        let identity = match store.begin_epoch(&NewEpoch { cut, start, nonce, timestamp, after_nothing }) {
            Ok(identity) => identity,
            Err(error) => {
                // Whether the cut holds shows at the next open. What was appended behind it now might
                // be cut off then, so nothing more is.
                let path = store.directory().path().to_owned();
                let told = same(&error);
                drop(store);
                core.committer.fail();
                let tasks = self.stop("cutting the log", path, told);
                drop((core, opener));
                crate::sync::wake(tasks);
                self.tell_of_flushes();
                return Err(self.not_cut(error));
            }
        };
        drop(out);
        opener.begin_epoch(&self.pool, &identity, start);
        core.begin_epoch(
            Committer::new(self.committer, start, opener.sequence()),
            identity,
            opener.sequence(),
        );
        for mark in [&self.published.0.covered, &self.published.0.written, &self.published.0.durable] {
            mark.store(start.0, Ordering::SeqCst);
        }
        self.publish_view(&store);
        let wakes = core.take_wakes();
        drop((store, core, opener));
        self.wake(wakes);
        Ok(())
    }

    /// From here on no block is opened, and producers wait in line.
    fn hold_openings(&self) -> Result<HeldOpenings<'_>, TruncateError> {
        let mut opener = self.opener();
        if self.life.is_shut() || self.life.has_failed() {
            return Err(self.shut_error().into());
        }
        opener.held = true;
        self.pool.close_any();
        Ok(HeldOpenings(self))
    }

    fn not_cut(&self, error: io::Error) -> TruncateError {
        TruncateError::Io { shard: self.id, operation: "writing the manifest", source: Arc::new(error) }
    }
}

/// Until it is dropped.
struct HeldOpenings<'a>(&'a Engine);

impl Drop for HeldOpenings<'_> {
    fn drop(&mut self) {
        self.0.opener().held = false;
        crate::sync::wake(self.0.offer());
    }
}
