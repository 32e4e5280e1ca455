//! When a run of the key index is written, and of what. How full memory is when one is due: `memory.rs`.
//!
//! Runs are built beside everything else, a piece at a time, from blocks that are durable and whole. Nobody waits for
//! them, and whatever fails is tried again later.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::walk::{Walk, Walked, with_id};
use super::{beginning, indexed, is_current};
use crate::device::Directory;
use crate::format::{INDEX_BYTES_MAX, KeyHash};
use crate::index::{Builder, Built, RunFile, Sink, Written, list_runs, write_run};
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

/// What came of reading on.
pub(super) enum Gathered {
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
    pub(super) fn full(builder: &Builder, lsn: Lsn) -> Gathered {
        let range = builder.range();
        // Where it is the first, there is a wide gap in front of it.
        let end = if range.is_empty() { lsn.min(Lsn(range.start.0 + INDEX_BYTES_MAX)) } else { range.end };
        Gathered::Full { end }
    }
}

/// What whoever builds runs keeps from one piece to the next.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) directory: Arc<dyn Directory>,
    builder: Builder,
    has_begun: bool,
    next_number: u32,
    /// What is here cannot be read: not tried again before the next open.
    stuck_at: Option<Lsn>,
}

impl Work {
    /// Writes a run that is none of these.
    pub(super) fn write_run(
        &mut self,
        known: &[RunFile],
        write: impl FnOnce(&mut Builder, &mut dyn Sink) -> io::Result<Written>,
    ) -> io::Result<RunFile> {
        let (directory, builder) = (self.directory.as_ref(), &mut self.builder);
        let run = write_run(directory, self.next_number, known, |sink| write(builder, sink))?;
        // Where they are used up another one is looked for each time.
        self.next_number = run.number.saturating_add(1);
        Ok(run)
    }
}

impl Engine {
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
        let config = self.indexing.config;
        let block_bytes = self.block_bytes() as usize;
        let builder =
            Builder::new(view.log_id, view.shard, config.run_bytes, config.gathered_bytes(), block_bytes)?;
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
            let Some(Walked { identity, lsn, end, owned_end, records }) = block else { break Gathered::All };
            let with_id = with_id(&view.log_id);
            let entries = records.iter().flat_map(|(name, lsn)| {
                let also = name.id.map(|_| (with_id, *lsn));
                std::iter::once((KeyHash::of_whole(name.key), *lsn)).chain(also)
            });
            if work.builder.add_block(&identity, lsn, end, owned_end, entries) == Built::Full {
                break Gathered::full(&work.builder, lsn);
            }
        };
        self.take_scanner_back(reader);
        Ok(gathered)
    }

    fn write_index_run(&self, work: &mut Work, end: Lsn) -> io::Result<()> {
        work.has_begun = false;
        let nonce = self.index_nonce()?;
        let run = work.write_run(&self.indexing.runs(), |builder, sink| builder.write(sink, end, nonce))?;
        let gone = self.indexing.change(&self.view(), |runs| runs.push(run));
        gone.iter().for_each(|run| run.remove(work.directory.as_ref()));
        Ok(())
    }

    pub(super) fn index_nonce(&self) -> io::Result<u64> {
        let mut nonce = [0; 8];
        self.device.random(&mut nonce)?;
        Ok(u64::from_le_bytes(nonce))
    }
}
