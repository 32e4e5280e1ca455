//! Whether a shard's folder, and the log's own, are still this process' own, and where they were (asked in
//! `segment/store.rs`).

use std::sync::atomic::Ordering;

use crate::device::PathState;
use crate::shard::engine::Engine;
use crate::sync::lock;

impl Engine {
    /// Sees whether the folder is still this process' own, and where it was.
    ///
    /// Where it is not, the shard stops: what it acknowledged from now on nobody could find. One that has only gone
    /// elsewhere is told.
    pub(crate) fn look_after_folder(&self) {
        if self.is_ended() || self.life.has_failed() {
            return;
        }
        let found = {
            let mut store = lock(&self.store);
            let _out = self.calls.begin();
            store.check_owned()
        };
        let Ok(found) = found else { return self.stop_if_calls_failed() };
        let moved = found == PathState::Moved;
        if self.space.moved.swap(moved, Ordering::SeqCst) != moved {
            let path = self.path();
            self.notices.warn(if moved {
                format!(
                    "{}: this path, or the log's own, leads to the shard no longer: a folder was renamed, or something was \
                     made or mounted in its place; the log goes on in the folder that it opened",
                    path.display()
                )
            } else {
                format!("{}: this path, and the log's own, leads to the shard again", path.display())
            });
        }
    }

    /// Whether the shard was last seen elsewhere than where it was opened.
    pub(crate) fn has_moved(&self) -> bool {
        self.space.moved.load(Ordering::SeqCst)
    }

    /// Stops the shard if its folder is not this process' own any more, and each whose device has failed a flush. Under
    /// no lock.
    pub(in crate::shard) fn stop_if_calls_failed(&self) {
        self.tell_of_flushes();
        let lost = lock(&self.store).lost();
        if let Some(error) = lost.filter(|_| !self.life.has_failed()) {
            crate::sync::wake(self.stop("making sure of the ownership", self.path(), error));
            self.wake_shard();
        }
    }
}
