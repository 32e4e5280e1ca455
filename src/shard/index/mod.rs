//! The key index of a shard: which runs it has, and how new ones are built.
//!
//! Runs are built beside everything else, a piece at a time, from blocks that are durable and whole. Nobody waits for
//! them, and whatever fails is tried again later. What they say is a hint: see [`Engine::key_places`](Engine::key_places).

mod lookup;
mod places;
mod recent;
mod recent_ids;
mod walk;

pub(crate) use places::{Hint, KeyOrder, KeyPlaces, KeyQuery, Runs};
pub(in crate::shard) use recent::{NotNow, Recent};
pub(crate) use recent::{RecentLast, UnknownIds};
pub(crate) use recent_ids::{IdPlace, KeyedId};
use walk::{Walk, Walked, with_id};

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use crate::device::Directory;
use crate::format::{INDEX_BYTES_MAX, IndexEpoch, KeyHash};
use crate::index::{Builder, Built, FilePages, PageCache, RunFile, can_merge, list_runs, merge, write_run};
use crate::position::Lsn;
use crate::segment::StoreView;
use crate::shard::Engine;
use crate::sync::lock;
use crate::time::Nanos;

/// So much of the log is read in one piece of work.
const PIECE_BYTES: u64 = 4 << 20;

/// What failed is not tried again before: a full disk may stay full for days, and each try reads a whole run's stretch.
const RETRY_NS: u64 = 60_000_000_000;

/// A shard that has grown by this part of its memory since the last look is looked at again soon, a hundred times as soon as
/// another: what it grows by until then is still there.
const BUSY_PART: u64 = 512;

/// So many runs of the first size become one.
const RUNS_MERGED: usize = 8;

/// How keys are indexed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexConfig {
    pub on: bool,
    /// A run covers about so much of the log.
    pub run_bytes: u64,
    /// So many ids are remembered.
    pub ids_max: usize,
    /// Memory: half of it for what was appended last, a quarter for entries that are gathered, a quarter for pages that
    /// were read.
    pub memory_bytes: usize,
}

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

/// What came of reading on.
enum Gathered {
    /// A piece, and there is more.
    Some,
    /// Up to the limit.
    All,
    /// No more has room in this run, which ends here.
    Full { end: Lsn },
    /// What comes next cannot be read.
    Stuck,
}

impl Gathered {
    /// There was no room for the block that stands at `lsn`.
    fn full(builder: &Builder, lsn: Lsn) -> Gathered {
        let range = builder.range();
        // Where it is the first, there is a wide gap in front of it.
        let end = if range.is_empty() { lsn.min(Lsn(range.start.0 + INDEX_BYTES_MAX)) } else { range.end };
        Gathered::Full { end }
    }
}

/// What whoever builds runs keeps from one piece to the next.
#[derive(Debug)]
struct Work {
    directory: Arc<dyn Directory>,
    builder: Builder,
    has_begun: bool,
    next_number: u32,
    /// What is here cannot be read: not tried again before the next open.
    stuck_at: Option<Lsn>,
}

impl Work {
    fn take_number(&mut self) -> u32 {
        self.next_number = self.next_number.saturating_add(1);
        self.next_number - 1
    }
}

impl Indexing {
    pub(in crate::shard) fn new(config: IndexConfig) -> Indexing {
        Indexing {
            config,
            runs: RwLock::default(),
            cache: Arc::new(PageCache::new(config.memory_bytes / 4)),
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
        gone.iter().for_each(|run| self.cache.forget(run.number));
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

/// Whether a run was built from the log as it is: from all epochs that own something where it says that it knows.
fn is_current(run: &RunFile, view: &StoreView) -> bool {
    let range = run.run.range();
    view.epochs.ranges().all(|(row, owned)| {
        let overlaps = owned.start.max(range.start) < owned.end.min(range.end);
        let is_known = |known: &IndexEpoch| (known.epoch, known.nonce) == (row.epoch, row.nonce);
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

    /// Goes on with the index a little; false if there is nothing to do for now. Under no lock.
    ///
    /// What fails is left for the next time: nothing is lost but time.
    pub(crate) fn go_on_indexing(&self) -> bool {
        let rests_until = Nanos(self.indexing.rests_until.load(Ordering::Relaxed));
        if !self.indexes() || self.device.now() < rests_until {
            return false;
        }
        let durable = self.durable().0;
        let grown = durable.saturating_sub(self.indexing.seen.swap(durable, Ordering::Relaxed));
        let pool = u64::from(self.pool.blocks()) * u64::from(self.block_bytes());
        self.indexing.is_busy.store(grown > pool / BUSY_PART, Ordering::Relaxed);
        let mut work = lock(&self.indexing.work);
        let _out = self.calls.begin();
        let done = match &mut *work {
            Some(work) => self.index_piece(work),
            work => self.take_up_index().map(|taken| {
                *work = Some(taken);
                true
            }),
        };
        done.unwrap_or_else(|_| {
            // What failed half way begins anew, later.
            if let Some(work) = &mut *work {
                work.has_begun = false;
            }
            let until = self.device.now() + RETRY_NS;
            self.indexing.rests_until.store(until.0, Ordering::Relaxed);
            false
        })
    }

    /// Whether so much is appended that the index should be gone on with soon: before it leaves memory.
    pub(crate) fn is_index_busy(&self) -> bool {
        self.indexing.is_busy.load(Ordering::Relaxed)
    }

    /// Finds the runs that are there.
    fn take_up_index(&self) -> io::Result<Work> {
        let directory = lock(&self.store).directory().clone();
        let view = self.view();
        let IndexConfig { run_bytes, memory_bytes, .. } = self.indexing.config;
        let block_bytes = self.block_bytes() as usize;
        let builder = Builder::new(view.log_id, view.shard, run_bytes, memory_bytes / 4, block_bytes)?;
        let (found, highest) = list_runs(directory.as_ref(), &view.log_id, view.shard)?;
        let (current, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|run| is_current(run, &view));
        let kept = {
            self.indexing.change(&view, |runs| runs.clone_from(&current));
            self.indexing.runs()
        };
        let is_kept = |run: &&RunFile| kept.iter().any(|kept| kept.number == run.number);
        let gone = current.iter().filter(|run| !is_kept(run)).chain(&other);
        gone.for_each(|run| run.remove(directory.as_ref()));
        let directory = self.indexing.directory.get_or_init(|| directory).clone();
        let next_number = highest.saturating_add(1);
        Ok(Work { directory, builder, has_begun: false, next_number, stuck_at: None })
    }

    /// Forgets the runs of what the log has no more, and those that turned out to be none.
    fn tidy_index(&self, work: &Work, view: &StoreView) {
        let runs = self.indexing.runs();
        let Some(beginning) = beginning(view) else { return };
        if runs.iter().any(|run| run.run.range().end <= beginning) {
            let gone = self.indexing.change(view, |runs| runs.retain(|run| run.run.range().end > beginning));
            gone.iter().for_each(|run| run.remove(work.directory.as_ref()));
        }
    }

    /// Reads a piece of what is not indexed yet, and writes a run when enough is gathered; false if there is nothing to
    /// do for now.
    fn index_piece(&self, work: &mut Work) -> io::Result<bool> {
        // In this order: what is durable now has its owners in the view.
        let durable = self.durable();
        let view = self.view();
        self.tidy_index(work, &view);
        let runs = self.indexing.runs();
        let from = indexed(&runs, &view);
        // A stretch between two runs is indexed as it is; the last one once there is enough of it.
        let next = runs.iter().map(|run| run.run.range().start).find(|start| *start >= from);
        let limit = next.unwrap_or(durable).min(durable);
        let is_enough = next.is_some() || limit.0.saturating_sub(from.0) >= self.indexing.config.run_bytes;
        if limit <= from || work.stuck_at == Some(from) {
            return Ok(false);
        }
        if !work.has_begun || work.builder.range().start != from {
            work.builder.begin(from);
            work.has_begun = true;
        }
        // From memory as it comes, so that it is still there; from the device once there is enough of it.
        let recent = match next {
            None => self.gather_recent(&mut work.builder, &view, limit),
            Some(_) => None,
        };
        let (is_needed, is_full) = self.recent_lacks(from);
        let gathered = match recent {
            Some(gathered) => gathered,
            None if is_enough || is_needed => self.gather(work, &view, limit, durable)?,
            None => return Ok(false),
        };
        let end = match gathered {
            Gathered::Some => return Ok(true),
            Gathered::Full { end } => end,
            // What is forgotten in memory is to be found in a run.
            Gathered::All
                if next != Some(limit) && (is_needed || is_full) && !work.builder.range().is_empty() =>
            {
                work.builder.range().end
            }
            Gathered::All if next != Some(limit) => return Ok(false),
            Gathered::All => limit.min(Lsn(from.0 + INDEX_BYTES_MAX)),
            Gathered::Stuck => {
                let end = work.builder.range().end;
                work.stuck_at = Some(end);
                end
            }
        };
        if end > from {
            self.write_index_run(work, end)?;
            self.merge_runs(work)?;
        }
        Ok(true)
    }

    /// Adds blocks to what is gathered, a piece of them, none of which reaches above `limit`.
    fn gather(&self, work: &mut Work, view: &StoreView, limit: Lsn, durable: Lsn) -> io::Result<Gathered> {
        let mut reader = self.lend_scanner()?;
        let mut walk = Walk { view, reader: &mut reader, block_bytes: self.block_bytes(), durable };
        let start = work.builder.range().end;
        let gathered = loop {
            let at = work.builder.range().end;
            if at.0 - start.0 >= PIECE_BYTES {
                break Gathered::Some;
            }
            let block = match walk.block(at) {
                Ok(block) => block.filter(|block| block.end <= limit),
                Err(_) => break Gathered::Stuck,
            };
            let Some(Walked { identity, lsn, end, records }) = block else { break Gathered::All };
            let with_id = with_id(&view.log_id);
            let entries = records.iter().flat_map(|(name, lsn)| {
                let also = name.id.map(|_| (with_id, *lsn));
                std::iter::once((KeyHash::of_whole(name.key), *lsn)).chain(also)
            });
            if work.builder.add_block(&identity, lsn, end, entries) == Built::Full {
                break Gathered::full(&work.builder, lsn);
            }
        };
        self.take_scanner_back(reader);
        Ok(gathered)
    }

    fn write_index_run(&self, work: &mut Work, end: Lsn) -> io::Result<()> {
        work.has_begun = false;
        let nonce = self.index_nonce()?;
        let (number, builder) = (work.take_number(), &mut work.builder);
        let run = write_run(work.directory.as_ref(), number, |sink| builder.write(sink, end, nonce))?;
        let gone = self.indexing.change(&self.view(), |runs| runs.push(run));
        gone.iter().for_each(|run| run.remove(work.directory.as_ref()));
        Ok(())
    }

    /// Makes one of the last runs where these are many and small.
    fn merge_runs(&self, work: &mut Work) -> io::Result<()> {
        let runs = self.indexing.runs();
        let small = self.indexing.config.run_bytes.max(u64::from(self.block_bytes()));
        let is_small = |run: &&RunFile| run.run.header.end - run.run.header.start <= small;
        let last: Vec<&RunFile> = runs.iter().rev().take(RUNS_MERGED).filter(is_small).collect();
        let inputs: Vec<&RunFile> = last.into_iter().rev().collect();
        if inputs.len() < RUNS_MERGED || !can_merge(inputs.iter().map(|run| run.run.as_ref())) {
            return Ok(());
        }
        let (nonce, number) = (self.index_nonce()?, work.take_number());
        let pages: Vec<_> = inputs.iter().map(|run| FilePages::new(&work.directory, run, None)).collect();
        let parts: Vec<_> = inputs.iter().map(|run| run.run.as_ref()).zip(&pages).collect();
        let merged = write_run(work.directory.as_ref(), number, |sink| merge(&parts, sink, nonce));
        let is_input = |run: &RunFile| inputs.iter().any(|input| input.number == run.number);
        let gone = match merged {
            Ok(merged) => self.indexing.change(&self.view(), |runs| {
                runs.retain(|run| !is_input(run));
                runs.push(merged);
            }),
            // One of them is not what it should be: all are built anew.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.indexing.change(&self.view(), |runs| runs.retain(|run| !is_input(run)))
            }
            Err(error) => return Err(error),
        };
        gone.iter().for_each(|run| run.remove(work.directory.as_ref()));
        Ok(())
    }

    fn index_nonce(&self) -> io::Result<u64> {
        let mut nonce = [0; 8];
        self.device.random(&mut nonce)?;
        Ok(u64::from_le_bytes(nonce))
    }
}
