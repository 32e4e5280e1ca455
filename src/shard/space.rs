//! The space that a shard takes: segments made ready, truncation at both ends, retention.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use super::ending::same;
use super::engine::Engine;
use super::filling::{Filled, Filling, Look};
use super::opener::Opener;
use super::sizing::{Made, Sizing};
use crate::committer::Committer;
use crate::device::Whereabouts;
use crate::error::{SharedIo, TruncateError, Unavailable, error_chain};
use crate::format::{BlockHeader, GRANULE};
use crate::position::{Lsn, ShardId};
use crate::segment::{Segment, ShardStore, StoreView};
use crate::sync::lock;
use crate::write::Durability;

/// How much space a shard takes and keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpaceConfig {
    pub segment_bytes: u64,
    pub first_segment_bytes: u64,
    /// Segments are given up once so many bytes lie behind them...
    pub retain_bytes: Option<u64>,
    /// ... or once all in them is older than this many nanoseconds.
    pub retain_ns: Option<u64>,
}

/// How the making of segments stands.
#[derive(Debug)]
pub(super) struct Space {
    pub config: SpaceConfig,
    /// A segment is asked for.
    asked: AtomicBool,
    /// It must have this many bytes.
    need: AtomicU64,
    /// One was made since the last turn.
    pub came: AtomicBool,
    /// Why the last one could not be made.
    error: Mutex<Option<SharedIo>>,
    error_set: AtomicBool,
    /// How the last one came, to see how fast they fill.
    made: Mutex<Made>,
    /// The end is cut by one at a time.
    cutting: Mutex<()>,
    /// How often space was given up, under the lock of the store.
    given_up: AtomicU64,
    /// The folder, or the log's own, is not where it was opened any more.
    moved: AtomicBool,
}

impl Space {
    pub(super) fn new(config: SpaceConfig) -> Space {
        Space {
            config,
            asked: AtomicBool::new(false),
            need: AtomicU64::new(0),
            came: AtomicBool::new(false),
            error: Mutex::new(None),
            error_set: AtomicBool::new(false),
            made: Mutex::new(Made::default()),
            cutting: Mutex::new(()),
            given_up: AtomicU64::new(0),
            moved: AtomicBool::new(false),
        }
    }
}

impl Engine {
    /// Asks for the next segment while the one in use still has room.
    pub(super) fn look_ahead(&self, opener: &Opener) {
        let (ready, last) = opener.bytes_ready(&self.pool);
        if ready < last / 2 && self.threaded {
            self.ask_for_segment(0);
        }
    }

    pub(super) fn segment_error(&self) -> Option<SharedIo> {
        let is_set = self.space.error_set.load(Ordering::SeqCst);
        if is_set { lock(&self.space.error).clone() } else { None }
    }

    /// From now on it asks this maintenance.
    pub(crate) fn asks(&self, maintenance: &SyncSender<ShardId>) {
        *lock(&self.maintenance) = Some(maintenance.clone());
    }

    pub(super) fn ask_for_segment(&self, bytes: u64) {
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
        let need = self.space.need.swap(0, Ordering::SeqCst);
        let (end, (ready, last)) = {
            let opener = self.opener();
            (opener.end(&self.pool), opener.bytes_ready(&self.pool))
        };
        let now = self.device.now();
        let made = *lock(&self.space.made);
        let SpaceConfig { first_segment_bytes, segment_bytes, .. } = self.space.config;
        let size = Sizing { first: first_segment_bytes, most: segment_bytes }.next(last, end.0, &made);
        let given_up = self.space.given_up.load(Ordering::SeqCst);
        let draft = {
            let mut store = lock(&self.store);
            let _out = self.calls.begin();
            store.draft(size, need).map_err(|error| self.tell_segment_error(&store, error))
        };
        match draft {
            Ok(draft) => Some(Filling::new(draft, last, made.at_ns, given_up, Look { ready, at_ns: now })),
            Err(()) => {
                self.heed_calls();
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
        filling.go_on(|| Look { ready: ready(), at_ns: self.device.now() })
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
            self.heed_calls();
        }
        if let Ok(segment) = made {
            let bytes = segment.row.bytes;
            let (ready, last) = {
                let mut opener = self.opener();
                let before = opener.bytes_ready(&self.pool);
                opener.add_segment(segment);
                before
            };
            let at_ns = self.device.now();
            let mut made = lock(&self.space.made);
            let lasted_ns = at_ns.saturating_sub(made.at_ns);
            *made = Made { bytes, ready, last, lasted_ns, at_ns };
            drop(made);
            self.space.error_set.store(false, Ordering::SeqCst);
            self.space.came.store(true, Ordering::SeqCst);
            self.prod();
        }
        self.segment_settled();
    }

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
        let Ok(found) = found else { return self.heed_calls() };
        let moved = found == Whereabouts::Moved;
        if self.space.moved.swap(moved, Ordering::SeqCst) != moved {
            let path = self.path();
            self.notices.warn(if moved {
                format!(
                    "{}: this path leads to the shard no longer: a folder was renamed, or something was made or mounted \
                     in its place; the log goes on in the folder that it opened",
                    path.display()
                )
            } else {
                format!("{}: this path leads to the shard again", path.display())
            });
        }
    }

    /// Whether the shard was last seen elsewhere than where it was opened.
    pub(crate) fn has_moved(&self) -> bool {
        self.space.moved.load(Ordering::SeqCst)
    }

    /// Stops the shard if its folder is not this process' own any more, and each whose device has failed a flush. Under
    /// no lock.
    fn heed_calls(&self) {
        self.tell_of_flushes();
        let lost = lock(&self.store).lost();
        if let Some(error) = lost.filter(|_| !self.life.has_failed()) {
            crate::sync::wake(self.stop("making sure of the ownership", self.path(), error));
            self.prod();
        }
    }

    /// Called under the lock of the store: whoever gives up space next takes the error back (`retry_segment`), and it
    /// must not be told after that.
    fn tell_segment_error(&self, store: &ShardStore, error: io::Error) {
        if store.lost().is_some() {
            return; // It is not for want of space, and the shard stops.
        }
        *lock(&self.space.error) = Some(Arc::new(error));
        self.space.error_set.store(true, Ordering::SeqCst);
    }

    /// There is room now, or an error to tell: those who wait look again, one after the other.
    fn segment_settled(&self) {
        self.space.asked.store(false, Ordering::SeqCst);
        crate::sync::wake(self.offer());
    }

    /// Space was made: an earlier failure to grow says nothing any more.
    pub(crate) fn retry_segment(&self) {
        if self.space.error_set.swap(false, Ordering::SeqCst) {
            crate::sync::wake(self.offer());
        }
    }

    // Retention.

    /// Gives up the segments that need not be kept any longer. Called by the maintenance thread.
    ///
    /// An error is told in one line of the log; the next call tries again.
    pub(crate) fn retain(&self) {
        let Some(horizon) = self.retention_horizon() else { return };
        if let Err(error) = self.truncate_before(horizon) {
            self.notices.warn(format!("shard {}: retention: {}", self.id, error_chain(&error)));
        }
    }

    /// The end of the last segment that may go; `None` if none may.
    fn retention_horizon(&self) -> Option<Lsn> {
        let SpaceConfig { retain_bytes, retain_ns, .. } = self.space.config;
        if retain_bytes.is_none() && retain_ns.is_none() || self.is_ended() {
            return None;
        }
        let (view, durable) = (self.view(), self.durable());
        let too_much = |end: Lsn| retain_bytes.is_some_and(|bytes| durable.0.saturating_sub(end.0) >= bytes);
        let before = retain_ns.and_then(|age| self.device.wall().checked_sub(age));
        let whole = view.segments.iter().filter(|segment| segment.end() <= durable);
        let horizon = whole
            .take_while(|segment| {
                too_much(segment.end()) || before.is_some_and(|before| self.is_older(&view, segment, before))
            })
            .last()?
            .end();
        let horizon = self.pinned_from().map_or(horizon, |kept| horizon.min(kept));
        (horizon > view.horizon).then_some(horizon)
    }

    /// Whether everything in the segment is older than `before`: the block behind it tells.
    fn is_older(&self, view: &StoreView, segment: &Segment, before: u64) -> bool {
        let next = view.segments.iter().find(|next| next.base() >= segment.end());
        let Some(next) = next.filter(|next| next.base() < self.durable()) else { return false };
        let Ok(mut reader) = self.lend_reader() else { return false };
        let _out = self.calls.begin();
        let header =
            reader.bytes(next, 0, GRANULE as usize).ok().and_then(|bytes| BlockHeader::decode(bytes).ok());
        self.give_back(reader);
        header.is_some_and(|header| {
            header.is_of(&view.log_id, view.shard) && header.lsn() == next.base() && header.timestamp < before
        })
    }

    // Truncating.

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
        self.heed_calls();
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
        let identity = match store.begin_epoch(cut, start, nonce, timestamp) {
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
