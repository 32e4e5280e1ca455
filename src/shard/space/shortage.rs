//! What happens when a shard cannot get its next segment, as on a full disk: the error kept for callers, the operator's
//! notice, the counters.
//!
//! On a full disk a spare or a smaller file is tried first (`segment/store.rs`, `draft`); only then are appends refused
//! (`shard/append/mod.rs`, `refused`).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{AppendError, SharedIo, error_chain};
use crate::segment::ShardStore;
use crate::shard::engine::Engine;
use crate::sync::lock;

/// Why the next segment could not be made.
#[derive(Debug)]
pub(in crate::shard) struct Shortage {
    error: Mutex<Option<SharedIo>>,
    is_set: AtomicBool,
    /// It was told in a line of the log, and is not over since.
    told: AtomicBool,
    /// Appends that had been refused before it was.
    refused_before: AtomicU64,
}

impl Shortage {
    /// Of a shard that was just opened, whose segments may lack what they should have.
    pub(in crate::shard) fn new(unsecured: Option<io::Error>) -> Shortage {
        Shortage {
            is_set: AtomicBool::new(unsecured.is_some()),
            error: Mutex::new(unsecured.map(Arc::new)),
            told: AtomicBool::new(false),
            refused_before: AtomicU64::new(0),
        }
    }
}

impl Engine {
    pub(in crate::shard) fn segment_error(&self) -> Option<SharedIo> {
        let is_set = self.space.shortage.is_set.load(Ordering::SeqCst);
        if is_set { lock(&self.space.shortage.error).clone() } else { None }
    }

    /// Called under the lock of the store: whoever gives up space next takes the error back (`retry_segment`), and it
    /// must not be told after that.
    pub(in crate::shard) fn tell_segment_error(&self, store: &ShardStore, error: io::Error) {
        if store.lost().is_some() {
            return; // It is not for want of space, and the shard stops.
        }
        *lock(&self.space.shortage.error) = Some(Arc::new(error));
        self.space.shortage.is_set.store(true, Ordering::SeqCst);
    }

    /// Space was made: an earlier failure to grow says nothing any more.
    pub(crate) fn retry_segment(&self) {
        if self.space.shortage.is_set.swap(false, Ordering::SeqCst) {
            crate::sync::wake(self.offer());
        }
    }

    /// Tells the operator that the shard cannot grow, if that is so: once until it is over, however often it is tried
    /// again. Under no lock.
    pub(in crate::shard) fn tell_shortage(&self) {
        let Some(error) = self.segment_error() else { return };
        if self.space.shortage.told.swap(true, Ordering::SeqCst) {
            return;
        }
        self.space.shortage.refused_before.store(self.refused_for_room(), Ordering::SeqCst);
        self.notices.warn(format!(
            "{}: shard {} cannot grow: {}; what was accepted is safe, and appends are refused once its last segment is \
             full",
            self.path().display(),
            self.id,
            error_chain(&*error),
        ));
    }

    /// There is room behind the last block again.
    pub(in crate::shard) fn grows_again(&self) {
        self.space.shortage.is_set.store(false, Ordering::SeqCst);
        self.space.segment_added.store(true, Ordering::SeqCst);
        self.wake_shard();
    }

    /// Tells the operator that it is about to grow again, if he was told of the shortage: before a caller can see it.
    pub(in crate::shard) fn tell_end_of_shortage(&self) {
        if self.space.shortage.told.swap(false, Ordering::SeqCst) {
            let before = self.space.shortage.refused_before.load(Ordering::SeqCst);
            let refused = self.refused_for_room() - before;
            self.notices.info(format!(
                "{}: shard {} grows again; {refused} appends were refused meanwhile",
                self.path().display(),
                self.id
            ));
        }
    }

    fn refused_for_room(&self) -> u64 {
        let counters = &self.counters;
        [&counters.refused_no_space, &counters.refused_no_segment]
            .map(|counter| counter.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    /// A caller is told this. Counts it, if it is for want of a segment.
    #[cold]
    pub(crate) fn count_refusal(&self, error: &AppendError) {
        let counter = match error {
            AppendError::NoSpace { .. } => &self.counters.refused_no_space,
            AppendError::NoSegment { .. } => &self.counters.refused_no_segment,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Tries again to get the space that the segments of a log which was copied or restored may lack; false while they
    /// do, and nothing is appended to them. What else is needed is then asked for by whoever needs it.
    pub(in crate::shard) fn secure_segments(&self) -> bool {
        let from = {
            let opener = self.opener();
            if opener.secured {
                return true;
            }
            opener.end(&self.pool)
        };
        let secured = {
            let store = lock(&self.store);
            let _out = self.calls.begin();
            store.secure(from).map_err(|error| self.tell_segment_error(&store, error))
        };
        if secured.is_ok() {
            self.tell_end_of_shortage();
            self.opener().secured = true;
            self.grows_again();
        } else {
            self.stop_if_calls_failed();
        }
        self.tell_shortage();
        self.segment_settled();
        false
    }
}
