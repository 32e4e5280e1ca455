//! What a shard does for a slot that is moved: it says where it ends.

use std::io;

use crate::error::Unavailable;
use crate::format::ShardPlace;
use crate::pool::Urgency;
use crate::shard::Engine;
use crate::sync::lock;

impl Engine {
    /// The end of all that was reserved here. Whoever has not reserved by now in a turn that is over never does: the open
    /// block is closed.
    ///
    /// # Errors
    /// If nothing is appended here any more.
    pub(crate) fn end_of_reserved(&self) -> Result<ShardPlace, Unavailable> {
        let (place, closed) = {
            let opener = self.opener();
            if self.life.is_shut() || self.life.has_failed() {
                return Err(self.shut_error());
            }
            let closed = !self.pool.is_closed();
            let now = self.device.now();
            let last = self.pool.close_any();
            if closed {
                self.pool.note_closed(last, now);
            }
            (ShardPlace { epoch: opener.epoch(), lsn: opener.end(&self.pool) }, closed)
        };
        if closed {
            // It is in the way until the thread has seen it, and may have been opened for nothing.
            self.appended(Urgency::Background, true, false);
        }
        Ok(place)
    }

    /// Notes in the shard's manifest that this version of the map of slots names it.
    pub(crate) fn note_map_version(&self, version: u32) -> io::Result<()> {
        let mut store = lock(&self.store);
        let out = self.calls.begin();
        let noted = store.note_map_version(version, &self.marks());
        drop(out);
        drop(store);
        self.stop_if_calls_failed();
        noted
    }
}
