//! Making segments ready before they are needed: asking, beginning, filling, listing.
//!
//! The maintenance thread of the shard's device makes them (`instance/maintenance_thread.rs`); while a log is opened,
//! whoever opens it; where there are no threads, whoever waits.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use super::SpaceConfig;
use super::pace::{FillSample, Filled, Filling};
use super::segment_size::{SegmentHistory, Sizing};
use crate::position::ShardId;
use crate::shard::append::opener::Opener;
use crate::shard::engine::Engine;
use crate::sync::lock;

/// However little room there is, no segment is smaller: a manifest has room for some thousands.
const SEGMENT_FLOOR: u64 = 64 << 10;

impl Engine {
    /// Asks for the next segment while the one in use still has room.
    pub(in crate::shard) fn look_ahead(&self, opener: &Opener) {
        let (ready, last) = opener.bytes_ready(&self.pool);
        if ready < last / 2 && self.threaded {
            self.ask_for_segment(0);
        }
    }

    /// From now on it asks this maintenance.
    pub(crate) fn asks(&self, maintenance: &SyncSender<ShardId>) {
        *lock(&self.maintenance) = Some(maintenance.clone());
    }

    pub(in crate::shard) fn ask_for_segment(&self, bytes: u64) {
        self.space.need.fetch_max(bytes, Ordering::SeqCst);
        if self.space.asked.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(maintenance) = &*lock(&self.maintenance) {
            // A maintenance thread that is gone belongs to a log that is closed, or has stopped its shards.
            let _ = maintenance.try_send(self.id);
        }
    }

    /// Whether the next segment is waited for, and nobody but the caller would make it.
    pub(crate) fn wants_segment(&self) -> bool {
        self.space.asked.load(Ordering::SeqCst)
    }

    /// Makes a segment ready if there is none, as before the first append; none for a shard that is read only.
    pub(crate) fn make_first_segment(&self) {
        self.tell_shortage();
        if !self.is_ended() && self.opener().bytes_ready(&self.pool).0 == 0 {
            self.make_segment();
        }
    }

    /// Makes the next segment ready without a rest. Called where there are no threads by whoever waits for it.
    pub(crate) fn make_segment(&self) {
        let Some(mut filling) = self.begin_segment() else { return };
        while let Filled::After(_) = self.fill_segment(&mut filling) {}
        self.end_segment(filling);
    }

    /// Begins the next segment. What is given goes on by [`fill_segment`](Engine::fill_segment) and ends by
    /// [`end_segment`](Engine::end_segment); nothing if that failed, which whoever waits is told.
    pub(crate) fn begin_segment(&self) -> Option<Filling> {
        self.look_after_folder();
        if !self.secure_segments() {
            return None;
        }
        let need = self.space.need.swap(0, Ordering::SeqCst);
        let (end, (ready, last)) = {
            let opener = self.opener();
            (opener.end(&self.pool), opener.bytes_ready(&self.pool))
        };
        let now = self.device.now();
        let made = *lock(&self.space.made);
        let SpaceConfig { first_segment_bytes: first, segment_bytes: most, .. } = self.space.config;
        // Two whole blocks, so that whatever is not too large finds places (`Options::config`).
        let floor = first.min(SEGMENT_FLOOR.max(2 * u64::from(self.pool.block_bytes())));
        let size = Sizing { floor, first, most }.next(last, end.0, &made);
        let given_up = self.space.given_up.load(Ordering::SeqCst);
        let draft = {
            let mut store = lock(&self.store);
            let _out = self.calls.begin();
            store.draft(size, need).map_err(|error| self.tell_segment_error(&store, error))
        };
        match draft {
            Ok(draft) => Some(Filling::new(draft, last, made.at, given_up, FillSample { ready, at: now })),
            Err(()) => {
                self.stop_if_calls_failed();
                self.tell_shortage();
                self.segment_settled();
                None
            }
        }
    }

    /// Fills a piece of a segment, under no lock. An error shows when it ends.
    pub(crate) fn fill_segment(&self, filling: &mut Filling) -> Filled {
        if self.life.is_closing() || self.is_ended() {
            return Filled::Enough;
        }
        let seen = filling.ready();
        // Not known while somebody else opens a block: then the next look tells.
        let ready = || self.opener.try_lock().map_or(seen, |opener| opener.bytes_ready(&self.pool).0);
        let _out = self.calls.begin();
        filling.fill_next(|| FillSample { ready: ready(), at: self.device.now() })
    }

    /// Lists the segment, and lets producers in.
    pub(crate) fn end_segment(&self, filling: Filling) {
        let from = self.opener().end(&self.pool);
        let given_up = filling.given_up;
        let made = {
            let mut store = lock(&self.store);
            let _out = self.calls.begin();
            let made = filling.finish(&mut store, from, || self.marks());
            if made.is_ok() {
                self.publish_view(&store);
            }
            made.map_err(|error| {
                // Space that was given up since it began may be what it lacked: whoever waits asks again.
                if self.space.given_up.load(Ordering::SeqCst) == given_up {
                    self.tell_segment_error(&store, error);
                }
            })
        };
        if made.is_err() {
            self.stop_if_calls_failed();
            self.tell_shortage();
        }
        if let Ok(segment) = made {
            self.tell_end_of_shortage();
            let bytes = segment.row.bytes;
            let (ready, last) = {
                let mut opener = self.opener();
                let before = opener.bytes_ready(&self.pool);
                opener.add_segment(segment);
                before
            };
            let at = self.device.now();
            let mut made = lock(&self.space.made);
            let lasted_ns = at - made.at;
            *made = SegmentHistory { bytes, ready, last, lasted_ns, at };
            drop(made);
            self.grows_again();
        }
        self.segment_settled();
    }

    /// There is room now, or an error to tell: those who wait look again, one after the other.
    pub(in crate::shard) fn segment_settled(&self) {
        self.space.asked.store(false, Ordering::SeqCst);
        crate::sync::wake(self.offer());
    }
}
