//! Flushing: what was accumulated becomes one batch in the log, durable, and then part of the totals.
//!
//! One flush at a time. A thread of the tally's own flushes when the interval is over, when much is accumulated
//! or when it is asked (`flush_when.rs`); where the log has no threads (a simulated machine) whoever waits does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use super::anchor::Anchor;
use super::error::{TallyError, UpdateError};
use super::flush_when::Signal;
use super::fold::Fold;
use super::ledger::{Gathered, Ledger, Refusal, Taken};
use super::records::Flush;
use super::table::Table;
use super::totals::{Changes, END};
use super::wire::{self, Kind};
use super::{Limits, replay};
use crate::append::{AppendBatch, Route};
use crate::device::Device;
use crate::error::{AppendError, Unavailable, error_chain};
use crate::notice::Notices;
use crate::position::Lsn;
use crate::shard::{Engine, NO_LEAD, StripedRefs, Waiters};
use crate::sync::lock;
use crate::time::nanos;
use crate::write::Durability;

/// Where there was no room for a flush it is tried again so long after it.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A tally that is open. All its handles share one.
#[derive(Debug)]
pub(crate) struct Core<F: Fold> {
    pub(super) name: String,
    pub(super) ledger: Ledger<F>,
    pub(super) limits: Limits,
    pub(super) engine: Arc<Engine>,
    pub(super) device: Arc<dyn Device>,
    pub(super) waiters: Waiters,
    /// Flushes up to this one are durable and in the totals.
    durable: AtomicU64,
    /// What the last value was stamped with.
    stamp: AtomicU64,
    failure: OnceLock<UpdateError>,
    work: Mutex<Work<F>>,
    signal: Signal,
    thread: Mutex<Option<JoinHandle<()>>>,
    notices: Arc<Notices>,
}

/// What only who flushes touches.
#[derive(Debug)]
struct Work<F: Fold> {
    holds: StripedRefs,
    key: Vec<u8>,
    id: u64,
    /// What the log must keep: of the two copies of the anchor the older one may have to do.
    oldest: Lsn,
    /// Behind the last record of the last flush.
    end: Lsn,
    /// `None` after an error in writing it: then the log is kept from where it stood on.
    anchor: Option<Anchor>,
    /// The log is closed: its directory may be somebody else's by now.
    ended: bool,
    round: Round,
    /// There was no room for it, or for the rest of it.
    unwritten: Option<Flush<F>>,
    /// Tables that grew once need not grow again.
    spare: Vec<Table<F::Value>>,
}

/// A round of slices: all totals once, over as many flushes as it takes.
#[derive(Debug)]
struct Round {
    /// The hash where the next slice begins.
    next: u64,
    /// Where the flush with the first slice stands.
    start: Option<Lsn>,
}

impl<F: Fold> Core<F> {
    #[allow(clippy::too_many_arguments)] // Made in one place.
    pub(super) fn new(
        name: &str,
        ledger: Ledger<F>,
        limits: Limits,
        engine: Arc<Engine>,
        device: Arc<dyn Device>,
        notices: Arc<Notices>,
        (anchor, oldest): (Anchor, Lsn),
        found: replay::Replayed,
    ) -> Core<F> {
        let work = Work {
            holds: StripedRefs::new(&engine),
            key: replay::key_of(name),
            id: anchor.row().id,
            oldest,
            end: found.end,
            anchor: Some(anchor),
            ended: false,
            round: Round { next: 0, start: None },
            unwritten: None,
            spare: Vec::new(),
        };
        Core {
            name: name.to_owned(),
            ledger,
            limits,
            engine,
            device,
            waiters: Waiters::new(4),
            durable: AtomicU64::new(found.flush),
            stamp: AtomicU64::new(found.stamp),
            failure: OnceLock::new(),
            work: Mutex::new(work),
            signal: Signal::default(),
            thread: Mutex::new(None),
            notices,
        }
    }

    pub(super) fn is_threaded(&self) -> bool {
        self.device.threaded()
    }

    pub(super) fn id(&self) -> u64 {
        lock(&self.work).id
    }

    /// Whether this is called in the process that opened the log, and in no fork of it: there no lock is taken,
    /// which a thread may hold that the fork does not have.
    #[inline]
    pub(super) fn in_opening_process(&self) -> bool {
        self.engine.in_opening_process()
    }

    // Counting.

    #[inline]
    pub(super) fn update(&self, key: &[u8], change: F::Change) -> Result<u64, UpdateError> {
        if !self.in_opening_process() {
            return Err(UpdateError::Forked);
        }
        let stamp = if F::STAMPED { self.stamp() } else { 0 };
        let value = F::lift(change, stamp);
        let bytes = key.len() + F::heap_bytes(&value);
        if bytes > self.limits.entry_bytes {
            return Err(UpdateError::TooLarge { bytes, bytes_max: self.limits.entry_bytes });
        }
        match self.ledger.update(key, value) {
            Ok(Gathered { flush, is_first, is_much }) => {
                if is_first || is_much {
                    self.signal.accumulated(is_much);
                }
                Ok(flush)
            }
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    fn stamp(&self) -> u64 {
        // Whatever the wall clock does: of two updates one after the other the later one has the later stamp.
        let now = self.device.wall();
        let next = |last: u64| now.max(last.saturating_add(1));
        let last = self.stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_else(|last| last))
    }

    #[cold]
    fn refused(&self, refusal: Refusal) -> UpdateError {
        match refusal {
            Refusal::Overflow => UpdateError::Overflow,
            Refusal::Keys => UpdateError::TooManyKeys { keys_max: self.limits.keys },
            Refusal::Shut => match self.failure.get() {
                Some(error) => error.clone(),
                None => UpdateError::Closed,
            },
            Refusal::Full => {
                // The flush that is under way, or the next one, makes room: as long as the shard needs for as
                // much as may be accumulated.
                self.signal.accumulated(true);
                let bytes = self.limits.bytes as u64;
                let retry_after = self.engine.retry_after(bytes, crate::write::Priority::Normal);
                UpdateError::Overloaded {
                    retry_after: retry_after.min(self.limits.interval.saturating_mul(2)),
                }
            }
        }
    }

    // Waiting.

    pub(super) fn is_durable(&self, flush: u64) -> bool {
        self.durable.load(Ordering::SeqCst) >= flush
    }

    pub(super) fn outcome(&self, flush: u64) -> Option<Result<(), UpdateError>> {
        if self.is_durable(flush) {
            return Some(Ok(()));
        }
        self.failure.get().map(|error| Err(error.clone()))
    }

    /// Blocks until the flush is durable, or has failed, or the time is over.
    pub(super) fn wait(&self, flush: u64, timeout: Option<Duration>) -> Option<Result<(), UpdateError>> {
        if !self.in_opening_process() {
            return Some(Err(UpdateError::Forked));
        }
        if self.is_threaded() {
            let outcome = self.outcome(flush);
            if outcome.is_none() && self.engine.would_wait_for_itself() {
                return Some(Err(Unavailable::OwnThread.into()));
            }
            return self.waiters.wait(flush, timeout, || self.outcome(flush), NO_LEAD);
        }
        let deadline = timeout.map(|timeout| self.device.now() + nanos(timeout));
        loop {
            if let Some(outcome) = self.outcome(flush) {
                return Some(outcome);
            }
            // An error is the outcome, but for want of room.
            if self.flush_once(false).is_err() && !self.has_failed() {
                if deadline.is_some_and(|deadline| deadline <= self.device.now()) {
                    return None;
                }
                // A refused append has asked for a segment, which somebody must make.
                self.engine.turn_until(|| false);
                self.device.pause(AGAIN_AFTER);
            }
        }
    }

    /// Makes all that was counted before durable, now.
    pub(super) fn flush(&self) -> Result<(), TallyError> {
        if !self.in_opening_process() {
            return Err(TallyError::Forked);
        }
        let target = self.ledger.target();
        self.signal.ask(false);
        match self.wait(target, None).expect("there is no time limit") {
            Ok(()) => Ok(()),
            Err(UpdateError::Failed(error)) => Err(TallyError::Failed(error)),
            Err(UpdateError::FoldPanicked) => Err(TallyError::FoldPanicked),
            Err(_) => Err(TallyError::Forked),
        }
    }

    // Flushing.

    /// Flushes what was accumulated; false if there was nothing. `anyway` writes totals all the same.
    ///
    /// # Errors
    /// Where the tally [has failed](Core::has_failed) for good, or there is no room: then the next time tries again.
    pub(super) fn flush_once(&self, anyway: bool) -> Result<bool, UpdateError> {
        // A fold is its user's code: if it panics, everybody is told, and nobody hangs.
        let run = catch_unwind(AssertUnwindSafe(|| self.flush_under_lock(anyway)));
        let flushed = run.unwrap_or_else(|_| Err(self.fail(UpdateError::FoldPanicked)));
        self.tell_outcome();
        flushed
    }

    /// Wakes those who wait for a flush, under no lock.
    fn tell_outcome(&self) {
        let mut tasks = Vec::new();
        self.waiters.notify_all(&mut tasks);
        crate::sync::wake(tasks);
        self.engine.tell_of_flushes();
    }

    fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Nothing is counted or flushed any more.
    fn fail(&self, error: UpdateError) -> UpdateError {
        let _ = self.failure.set(error.clone());
        self.ledger.shut();
        self.notices.error(format!("tally {}: nothing more is counted: {}", self.name, error_chain(&error)));
        error
    }

    fn flush_under_lock(&self, anyway: bool) -> Result<bool, UpdateError> {
        let mut work = lock(&self.work);
        if let Some(error) = self.failure.get() {
            return Err(error.clone());
        }
        if work.ended {
            return Ok(false);
        }
        // What there was no room for goes first. What was counted since is next, and nobody else asks for it.
        let unwritten = work.unwritten.take();
        let mut has_flushed = unwritten.is_some();
        if let Some(flush) = unwritten {
            self.write(&mut work, flush)?;
        }
        if let Some(taken) = self.ledger.take(anyway, &mut work.spare) {
            let flush = self.begin(&mut work, taken, anyway);
            self.write(&mut work, flush)?;
            has_flushed = true;
        }
        Ok(has_flushed)
    }

    /// What was taken as records, and some totals.
    fn begin(&self, work: &mut Work<F>, taken: Arc<Taken<F>>, anyway: bool) -> Flush<F> {
        let (id, changes) = (work.id, self.ledger.merge(&taken));
        let mut records = self.encode(id, &changes);
        let bytes: usize = records.iter().map(Vec::len).sum();
        // Half as many bytes of totals as of changes; as many as go where it is them that are wanted.
        let most = self.limits.batch_bytes / 4;
        let mut budget = if anyway { most } else { (bytes / 2).clamp(1, most) };
        let begins_round = work.round.next == 0;
        while work.round.next < END && budget > 0 {
            let most = budget.clamp(256, self.limits.record_bytes);
            let (record, next) = self.ledger.totals().slice(&changes, id, work.round.next, most);
            budget = budget.saturating_sub(record.len());
            work.round.next = next;
            records.push(record);
        }
        Flush::new(taken, changes, records, begins_round)
    }

    /// Appends it, durably, and adds it to the totals.
    ///
    /// # Errors
    /// Where there is no room the rest of it is kept for the next time, and the tally is none the worse. Any other is for
    /// good.
    fn write(&self, work: &mut Work<F>, mut flush: Flush<F>) -> Result<(), UpdateError> {
        // Until this is over nothing may be cut: a cut that does not know of this flush could take it away again,
        // durable as it is, before it is acknowledged.
        self.engine.pin(&self.name, work.oldest, Lsn::MAX);
        while let Some(batch) = flush.next_batch(&self.limits, work.key.len()) {
            let hold = work.holds.take();
            let route = Route::by_hand(&hold, &work.key);
            match AppendBatch::begin(hold, route, &work.key, batch, Durability::Synced).wait() {
                Ok(positions) => work.end = flush.has_written(&positions).unwrap_or(work.end),
                Err(error @ (AppendError::NoSpace { .. } | AppendError::NoSegment { .. })) => {
                    // None of these was accepted, and what was before is known to the pin: it may be space in the log
                    // that is made.
                    self.engine.pin(&self.name, work.oldest, work.end);
                    if !std::mem::replace(&mut flush.has_waited, true) {
                        let (name, why) = (&self.name, error_chain(&error));
                        self.notices
                            .warn(format!("tally {name}: what is counted waits to be flushed: {why}"));
                    }
                    work.unwritten = Some(flush);
                    return Err(UpdateError::Failed(error));
                }
                Err(error) => return Err(self.fail(UpdateError::Failed(error))),
            }
        }
        let Flush { taken, changes, first, begins_round, .. } = flush;
        if begins_round {
            work.round.start = first;
        }
        self.ledger.apply(&taken, &changes);
        self.engine.pin(&self.name, work.oldest, work.end);
        self.durable.store(changes.flush, Ordering::SeqCst);
        self.end_round(work);
        work.spare = Ledger::give_back(taken);
        Ok(())
    }

    /// The changes as records, at least one.
    fn encode(&self, id: u64, changes: &Changes<F>) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let mut record = wire::begin(Kind::Changes, id, changes.flush);
        for (key, value) in changes.table.iter() {
            wire::put_entry::<F>(&mut record, key, value);
            if record.len() >= self.limits.record_bytes {
                records.push(std::mem::replace(&mut record, wire::begin(Kind::Changes, id, changes.flush)));
            }
        }
        records.push(record);
        records
    }

    /// After a whole round nothing older than its start is needed.
    fn end_round(&self, work: &mut Work<F>) {
        if work.round.next < END {
            return;
        }
        let Round { start, .. } = std::mem::replace(&mut work.round, Round { next: 0, start: None });
        let (Some(start), Some(anchor)) = (start, work.anchor.as_mut()) else { return };
        let before = Lsn(anchor.row().oldest);
        if start.0 < before.0 + self.limits.anchor_step_bytes {
            return;
        }
        let _out = self.engine.calls.begin();
        match anchor.advance(start, work.end, &self.engine.view()) {
            Ok(()) => {
                work.oldest = before;
                self.engine.pin(&self.name, before, work.end);
            }
            Err(error) => {
                self.notices.warn(format!(
                    "tally {}: the log is kept from {before} on: {}",
                    self.name,
                    error_chain(&error)
                ));
                // For want of room the next round tries again.
                if anchor.is_broken() {
                    work.anchor = None;
                }
            }
        }
    }

    /// Whether the log has grown so far past what recovery begins with that the totals should be written anew.
    pub(super) fn lags(&self) -> bool {
        // Never waited for: a flush may be waiting for a segment, which the maintenance thread that asks here makes.
        let Ok(work) = self.work.try_lock() else { return false };
        let Some(anchor) = &work.anchor else { return false };
        let lag = self.engine.durable().0.saturating_sub(anchor.row().oldest);
        lag > self.limits.idle_lag_bytes && self.durable.load(Ordering::SeqCst) > 0
    }

    /// As if a flush were under way.
    #[cfg(test)]
    pub(super) fn while_flushing(&self, run: impl FnOnce()) {
        let _work = lock(&self.work);
        run();
    }

    /// How many records of a flush were written for whose rest there is no room.
    #[cfg(test)]
    pub(super) fn waits_for_room(&self) -> Option<usize> {
        lock(&self.work).unwritten.as_ref().map(|flush| flush.written)
    }

    pub(super) fn ask_checkpoint(&self) {
        self.signal.ask(true);
    }

    // The thread.

    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let core = self.clone();
        let thread = std::thread::Builder::new().name("sawmill-tally".into()).spawn(move || {
            crate::sys::block_signals();
            while let Some(checkpoint) = core.signal.wait(core.limits.interval) {
                // A round is written as fast as it goes once it is asked for.
                let mut more = true;
                while more && !core.signal.is_ended() {
                    let flushed = core.flush_once(checkpoint);
                    if flushed.is_err() && !core.has_failed() {
                        core.signal.again(AGAIN_AFTER, checkpoint);
                    }
                    more = checkpoint && flushed.is_ok() && core.lags();
                }
            }
        })?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Counts nothing more, and makes what was counted durable. The log is being closed.
    pub(super) fn end(&self) -> Result<(), UpdateError> {
        self.ledger.shut();
        self.signal.end();
        let thread = lock(&self.thread).take();
        // A waker may close the log on the tally's own thread, which then ends by itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
        let flushed = self.flush_once(false);
        {
            let mut work = lock(&self.work);
            work.ended = true;
            work.anchor = None;
            work.unwritten = None;
        }
        if let Some(error) = flushed.as_ref().err().filter(|_| !self.has_failed()) {
            // There is no room, and nobody tries again.
            self.fail(error.clone());
            self.tell_outcome();
        }
        flushed.map(drop)
    }
}
