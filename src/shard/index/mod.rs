//! The key index of a shard: which runs it has.
//!
//! What they say is a hint: see [`Engine::key_places`](Engine::key_places). When a run is written: `build_runs.rs`; when
//! runs are merged: `merge_runs.rs`.

mod build_runs;
mod key_lookup;
mod memory;
mod merge_runs;
mod places;
mod recent;
mod recent_ids;
mod walk;

use build_runs::Work;
pub(crate) use memory::IndexConfig;
pub(crate) use places::{Hint, KeyOrder, KeyPlaces, KeyQuery, Runs};
pub(in crate::shard) use recent::{NotNow, Recent};
pub(crate) use recent::{RecentLast, UnknownIds};
pub(crate) use recent_ids::{IdPlace, KeyedId};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use crate::device::Directory;
use crate::format::IndexEpoch;
use crate::index::{PageCache, RunFile};
use crate::position::Lsn;
use crate::segment::StoreView;
use crate::shard::Engine;

/// The runs of a shard, and the work on them.
#[derive(Debug)]
pub(in crate::shard) struct Indexing {
    config: IndexConfig,
    /// In order; none overlaps another.
    runs: RwLock<Arc<Vec<RunFile>>>,
    pub(in crate::shard) cache: Arc<PageCache>,
    /// All below it that the log still has is indexed.
    indexed: AtomicU64,
    /// The shard's folder, once somebody has looked which runs there are.
    pub(in crate::shard) directory: OnceLock<Arc<dyn Directory>>,
    work: Mutex<Option<Work>>,
    /// Until when nothing is tried, after something has failed.
    rests_until: AtomicU64,
    /// What was durable at the last look, and whether that was much more than at the one before.
    seen: AtomicU64,
    is_busy: AtomicBool,
    /// What was appended last. Taken before the opener.
    pub(in crate::shard) recent: Mutex<Option<Recent>>,
}

impl Indexing {
    pub(in crate::shard) fn new(config: IndexConfig) -> Indexing {
        Indexing {
            config,
            runs: RwLock::default(),
            cache: Arc::new(PageCache::new(config.page_bytes())),
            indexed: AtomicU64::new(0),
            directory: OnceLock::new(),
            work: Mutex::new(None),
            rests_until: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
            recent: Mutex::new(None),
        }
    }

    pub(in crate::shard) fn runs(&self) -> Arc<Vec<RunFile>> {
        self.runs.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Changes the list of runs; gives those that are not in it any more.
    pub(in crate::shard) fn change(
        &self,
        view: &StoreView,
        change: impl FnOnce(&mut Vec<RunFile>),
    ) -> Vec<RunFile> {
        let mut runs = self.runs.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut next = runs.to_vec();
        change(&mut next);
        put_in_order(&mut next);
        self.indexed.store(indexed(&next, view).0, Ordering::SeqCst);
        let kept = |run: &&RunFile| next.iter().any(|kept| kept.number == run.number);
        let gone: Vec<RunFile> = runs.iter().filter(|run| !kept(run)).cloned().collect();
        gone.iter().for_each(|run| self.cache.forget(run.run.header.nonce));
        *runs = Arc::new(next);
        gone
    }
}

/// In order; of those that overlap, the one that begins first, and of these the longest.
fn put_in_order(runs: &mut Vec<RunFile>) {
    runs.sort_by_key(|run| (run.run.header.start, std::cmp::Reverse(run.run.header.end)));
    let mut at = Lsn::MIN;
    runs.retain(|run| {
        let range = run.run.range();
        let follows = range.start >= at;
        at = if follows { range.end } else { at };
        follows
    });
}

/// Those of the runs that were built from the log as it is, in order; none overlaps another.
pub(crate) fn current_runs(mut runs: Vec<RunFile>, view: &StoreView) -> Vec<RunFile> {
    runs.retain(|run| is_current(run, view));
    put_in_order(&mut runs);
    runs
}

/// Whether a run is of the log as it is, and of something that it still has.
pub(crate) fn is_current_run(run: &RunFile, view: &StoreView) -> bool {
    is_current(run, view) && beginning(view).is_some_and(|beginning| run.run.range().end > beginning)
}

/// Where the first block of the log stands.
pub(in crate::shard) fn beginning(view: &StoreView) -> Option<Lsn> {
    view.epochs.next_owned(view.segments.first()?.base())
}

/// The end of what is covered without a gap from the beginning on.
pub(in crate::shard) fn indexed(runs: &[RunFile], view: &StoreView) -> Lsn {
    let Some(mut at) = beginning(view) else { return Lsn::MIN };
    for run in runs {
        let range = run.run.range();
        if range.start > at {
            break;
        }
        at = at.max(range.end);
    }
    at
}

/// Whether a run was built from the log as it is: from all epochs that own something where it says that it knows, and from
/// as much of each. One that was cut when the run was built may own more in a copy of the log from before that.
fn is_current(run: &RunFile, view: &StoreView) -> bool {
    let range = run.run.range();
    view.epochs.ranges().all(|(row, owned)| {
        let end = owned.end.min(range.end);
        let overlaps = owned.start.max(range.start) < end;
        let is_known =
            |known: &IndexEpoch| (known.epoch, known.nonce) == (row.epoch, row.nonce) && known.end >= end.0;
        !overlaps || run.run.epochs.iter().any(is_known)
    })
}

impl Engine {
    /// Whether keys are indexed here.
    pub(crate) fn indexes(&self) -> bool {
        self.indexing.config.on && !self.is_ended() && !self.life.is_closing() && !self.life.has_failed()
    }

    /// Whether appends may have ids.
    pub(crate) fn keeps_ids(&self) -> bool {
        self.indexing.config.ids_max > 0
    }

    /// Up to where the index answers: all below it that the log still has.
    pub(crate) fn indexed(&self) -> Lsn {
        Lsn(self.indexing.indexed.load(Ordering::SeqCst)).min(self.durable())
    }
}
