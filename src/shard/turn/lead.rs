//! The inline path: blocking callers that write blocks themselves, without the shard's thread.
//!
//! It saves the two crossings to the shard's thread and back. It is no second engine: a leader holds the token
//! while it decides, gives it up while it writes, and hands its completion to the same committer. A caller leads
//! at most one block before it looks at its own record again.
//!
//! Leads pass from caller to caller: the first one finds the shard idle (it holds the duty, `wait/wake_state.rs`), a
//! second one may [`join`](Engine::join) beside it, and whoever is done passes the next block to one of those
//! who sleep for it ([`Waiters::pass`](crate::shard::Waiters::pass)). While leads are in flight, or one was passed on,
//! records gather as they do while the shard's thread has writes in flight. Where no thread waits, the shard's
//! own takes over.
//!
//! Where the device must be told to flush, one lead is in flight at a time, and whoever is next waits for the others
//! who were just woken (`wait/commit_delay.rs`); so does the shard's thread before a block that it writes itself.

use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, TryLockError};

use crate::committer::{Action, SyncMethod};
use crate::device::{self, Operation};
use crate::pool::{Pending, Sequence};
use crate::shard::token::Core;
use crate::shard::{Engine, Target};
use crate::sync::lock;
use crate::time::Nanos;

/// Leads at once, on a device that need not be told to flush. Two keep it busy while the callers of one are woken;
/// with more, blocks carry fewer records (`docs/experiments.md`).
const LEADS_MAX: u32 = 2;

/// Where the last block held more records than this, so many callers are woken at once that the one who is to
/// lead next comes later than the shard's thread would.
const SHARED_BY_MAX: u32 = 16;

/// A block of so many records the shard's thread writes itself if nothing else is in flight: more than callers
/// lead, and few enough that what gathers meanwhile does not want a second write beside.
const ITSELF: RangeInclusive<u32> = SHARED_BY_MAX + 1..=128;

impl Engine {
    /// Whether the shard's thread is quicker by a system call than through the ring, which on a device that must
    /// be told to flush leaves the end of a synchronous write to a worker thread of the kernel's. It is in flight.
    pub(in crate::shard) fn is_quicker_itself(&self, core: &Core, action: &Action) -> bool {
        let alone = core.committer.operations_in_flight() == 1;
        let may = self.is_threaded() && !self.is_driven();
        let is_sync = matches!(action, Action::Write { sync: true, .. });
        may && self.flushes() && alone && is_sync && ITSELF.contains(&core.last_records)
    }

    /// Whether the device must be told to flush: then blocks in flight beside each other wait for each other.
    fn flushes(&self) -> bool {
        self.has_write_cache() && self.capabilities().fua != Some(true)
    }

    /// Whether the device may have taken what it would lose with its power, as far as one can tell.
    pub(in crate::shard) fn has_write_cache(&self) -> bool {
        self.capabilities().write_cache != Some(false)
    }

    /// Waits for callers that were just woken; false if somebody else does, and acts for all.
    fn wait_for_callers(&self) -> bool {
        if !self.flushes() {
            return true;
        }
        self.waiting.commit_delay.wait(|| self.pool.open_records(), || self.device.now())
    }

    /// Performs what the last turn left to the thread, under no token.
    pub(in crate::shard) fn perform_itself(&self, operation: Operation) {
        let began = self.device.now();
        let result = device::perform(&operation);
        let id = operation.id;
        drop(operation);
        self.counters.blocks_by_thread.fetch_add(1, Ordering::Relaxed);
        let mut core = lock(&self.core);
        core.performing -= 1;
        let now = self.device.now();
        self.performed(&mut core, id, result, now);
        self.publish(&mut core, now);
        self.expect_back(&core, began, now);
        let wakes = core.take_wakes();
        drop(core);
        self.wake(wakes);
        self.wait_for_callers();
    }

    /// Those who wait for the last block are about to be woken; its write took from `began` to `now`.
    fn expect_back(&self, core: &Core, began: Nanos, now: Nanos) {
        let there = self.pool.open_records().unwrap_or(0);
        self.waiting.commit_delay.expect(core.last_records + there, now, now - began);
    }

    /// Called with the duty of an accepted batch: writes its block, or wakes the thread.
    pub(crate) fn lead(&self, target: &Target) {
        self.contained(|| {
            if !self.wait_for_callers() {
                return; // Somebody else leads this block, or gives the duty to the thread.
            }
            if !self.try_lead(target) {
                self.announce();
            }
        });
    }

    /// Runs a part of the engine in a caller's thread. A mistake of ours that panics there stops the shard, as it
    /// does in the shard's own thread: the caller learns it as any other does, and nobody hangs.
    fn contained(&self, lead: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(lead)).is_err() {
            // What was begun is nobody's now, and would be waited for.
            lock(&self.core).abandoned = true;
            self.stop_after("a caller that leads", io::Error::other("panicked"));
            self.wake_shard();
        }
    }

    fn try_core(&self) -> Option<MutexGuard<'_, Core>> {
        match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn try_lead(&self, target: &Target) -> bool {
        let Some(mut core) = self.try_core() else { return false };
        let pending = self.pool.pending();
        let own = pending.sequence == target.sequence && core.next_is(target.sequence);
        if !own || !core.committer.is_idle() || core.committer.failed() || !self.wake_state.try_lead() {
            return false;
        }
        core.leads += 1;
        self.lead_block(core, target.sequence);
        true
    }

    /// Called by a caller that is about to sleep: leads its block beside another lead, if there is room.
    pub(in crate::shard) fn join(&self, target: &Target) {
        if self.waiting.leads_seen.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(mut core) = self.try_core() else { return };
        self.contained(|| {
            if core.leads > 0 && self.next_lead(&core) == Some(target.sequence) {
                core.leads += 1;
                self.lead_block(core, target.sequence);
            }
        });
    }

    /// Called by a caller to which a lead was passed.
    pub(in crate::shard) fn take_over(&self) {
        self.contained(|| {
            self.wait_for_callers();
            let mut core = lock(&self.core);
            // It was counted when it was passed.
            core.leads -= 1;
            match self.next_lead(&core) {
                Some(sequence) => {
                    core.leads += 1;
                    self.lead_block(core, sequence);
                }
                None => self.end_lead(core),
            }
        });
    }

    /// Whether the open block is left to callers: one leads, or was asked to, or is asked now since it sleeps for
    /// it. The shard's thread asks, which can sleep then.
    pub(in crate::shard) fn leave_to_callers(&self, core: &mut Core, pending: &Pending) -> bool {
        if !self.threaded || pending.bytes == 0 || core.committer.failed() {
            return false;
        }
        let alone = core.leads == 0 && core.committer.is_idle() && core.last_records <= SHARED_BY_MAX;
        if alone && self.waiting.callers.pass(pending.sequence.0, &mut core.wakes) {
            core.leads += 1;
            self.waiting.leads_seen.store(core.leads, Ordering::Relaxed);
        }
        core.leads > 0
    }

    /// The block that could be led now: the open one, if it is the next to be sealed and nothing is in flight
    /// but other leads.
    fn next_lead(&self, core: &Core) -> Option<Sequence> {
        // A sync is performed by whoever sees that it is due: two who write would sync for each other.
        let most = match core.committer.method() {
            SyncMethod::WriteThrough if !self.flushes() => LEADS_MAX,
            _ => 1,
        };
        let room = core.leads < most && core.committer.operations_in_flight() == core.performing;
        let pending = self.pool.pending();
        let own = pending.bytes > 0 && core.next_is(pending.sequence);
        let few = core.last_records <= SHARED_BY_MAX;
        (room && own && few && !core.committer.failed()).then_some(pending.sequence)
    }

    /// Seals a block, writes it and what else the committer wants, and passes the lead on. The lead is counted.
    fn lead_block<'e>(&'e self, mut core: MutexGuard<'e, Core>, sequence: Sequence) {
        self.waiting.leads_seen.store(core.leads, Ordering::Relaxed);
        let now = self.device.now();
        if self.pool.close(sequence) {
            self.pool.note_closed(sequence, now);
        }
        // A copy by somebody else may be unfinished: then the block is the thread's.
        if let Some(complete) = self.pool.complete(sequence) {
            self.seal(&mut core, &complete, now);
        }
        while let Some(action) = core.committer.poll_action() {
            let operation = self.operation(&mut core, &action);
            core.performing += 1;
            drop(core);
            #[cfg(test)]
            assert!(!tests::PANICS.get(), "as a test wants it");
            let result = device::perform(&operation);
            let id = operation.id;
            drop(operation);
            core = lock(&self.core);
            core.performing -= 1;
            self.performed(&mut core, id, result, self.device.now());
        }
        self.counters.blocks_by_caller.fetch_add(1, Ordering::Relaxed);
        core.leads -= 1;
        self.expect_back(&core, now, self.device.now());
        self.end_lead(core);
    }

    /// A lead is over: tells what it made durable, and who leads next.
    fn end_lead(&self, mut core: MutexGuard<'_, Core>) {
        let now = self.device.now();
        self.publish_oldest(&core);
        // Before those who are done are woken: the device waits for this one.
        let next = self.next_lead(&core);
        let passed = next.is_some_and(|sequence| self.waiting.callers.pass(sequence.0, &mut core.wakes));
        core.leads += u32::from(passed);
        self.publish(&mut core, now);
        self.waiting.leads_seen.store(core.leads, Ordering::Relaxed);
        if core.leads == 0 {
            self.wake_state.end_lead();
        }
        let deadlines = [core.committer.poll_timeout(), self.overload_due(&core)];
        let deadline = deadlines.into_iter().flatten().min().unwrap_or(Nanos::NEVER);
        let unarmed = deadline.0 < self.armed_until.load(Ordering::SeqCst);
        // While a lead is in flight its end is the moment to look.
        let work = core.leads == 0 && self.has_work(&mut core, now);
        let closing = self.life.is_closing();
        let hand_over = work || core.committer.failed() || unarmed || closing;
        let wakes = core.take_wakes();
        let room_made = core.take_room_made();
        drop(core);
        if hand_over {
            self.wake_shard();
        }
        self.wake(wakes);
        if room_made {
            crate::sync::wake(self.offer());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::{AppendError, CloseError, Log, Options};

    thread_local!(pub(in crate::shard) static PANICS: Cell<bool> = const { Cell::new(false) });

    /// Appends until the shard stops.
    fn until_it_stops(log: &Log) -> AppendError {
        loop {
            if let Err(error) = log.append(b"record").wait() {
                return error;
            }
        }
    }

    #[test]
    fn a_panic_of_ours_in_a_callers_thread_stops_the_shard_and_nobody_hangs() {
        for others in [0, 3, 20] {
            a_leader_panics_beside(others, Options::new());
        }
    }

    #[cfg(feature = "tokio-uring")]
    #[test]
    fn nor_does_whoever_closes_a_log_that_is_driven() {
        for others in [0, 3, 20] {
            let drive = |driver: crate::options::ShardDriver| {
                std::thread::spawn(|| tokio_uring::start(driver.run()));
            };
            a_leader_panics_beside(others, Options::new().drive(drive));
        }
    }

    fn a_leader_panics_beside(others: usize, options: Options) {
        {
            let dir = tempfile::tempdir().unwrap();
            let log = options.shards(1).segment_bytes(1 << 20).open(dir.path()).unwrap();
            let position = log.append(b"before").wait().unwrap();
            std::thread::scope(|scope| {
                let others: Vec<_> = (0..others).map(|_| scope.spawn(|| until_it_stops(&log))).collect();
                let leader = scope.spawn(|| {
                    PANICS.set(true);
                    until_it_stops(&log)
                });
                for stopped in others.into_iter().chain([leader]) {
                    assert!(matches!(stopped.join().unwrap(), AppendError::ShardFailed(_)));
                }
            });
            assert!(matches!(log.close(), Err(CloseError::ShardFailed(_))));
            let log = Options::new().open(dir.path()).unwrap();
            assert_eq!(log.get(position).unwrap().payload(), b"before");
            log.close().unwrap();
        }
    }
}
