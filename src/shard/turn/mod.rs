//! One turn of a shard: reap, decide, seal, submit, publish, wake.

pub(super) mod drain;
pub(super) mod lead;
pub(super) mod overload;
mod seal;
pub(super) mod unresolved;

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::committer::{Action, OperationId};
use crate::device::{Operation, OperationKind, Queue, Wait};
use crate::pool::Sequence;
use crate::segment::Segment;
use crate::shard::Engine;
use crate::shard::failure::same;
use crate::shard::token::{Core, Submitted};
use crate::shard::turn::drain::mean;
use crate::shard::wait::waiters::Wakes;
use crate::shard::wait::wake_state::Sleep;
use crate::sync::lock;
use crate::time::Nanos;

/// What to do after a turn.
#[derive(Debug)]
pub(in crate::shard) struct Next {
    pub wait: Wait,
    pub finished: bool,
    /// For the shard's thread to perform itself, once it has given up the token: no completion tells of it.
    pub own: Option<Operation>,
}

impl Next {
    pub(in crate::shard) fn new(wait: Wait, finished: bool) -> Next {
        Next { wait, finished, own: None }
    }
}

impl Engine {
    /// Turns the shard once. The caller holds the token and owns the queue.
    pub(in crate::shard) fn turn(&self, core: &mut Core, queue: &mut dyn Queue) -> Next {
        let now = self.device.now();
        self.reap(core, queue, now);
        self.apply_failure(core);
        self.publish_oldest(core);
        core.committer.handle_time(now);
        core.committer.handle_sync_request(Sequence(self.sync_asked.load(Ordering::SeqCst)));
        self.seal_due(core, now);
        if self.space.segment_added.swap(false, Ordering::SeqCst) {
            core.committer.arm_marker();
        }
        if core.committer.should_write_marker(now) {
            // Postponed first: a marker that is not written must not be due again at once.
            core.committer.postpone_marker(now);
            self.mark(core, now);
        }
        let own = self.submit(core, queue);
        if let Err(error) = queue.enter(Wait::No) {
            self.fail(core, "io_uring_enter", None, error);
        }
        self.publish(core, now);
        if core.take_room_made() || self.admission.due().is_some_and(|due| due <= now) {
            core.wakes.tasks.extend(self.offer());
        }
        if own.is_some() {
            return Next { own, ..Next::new(Wait::No, false) };
        }
        self.next(core, now)
    }

    fn reap(&self, core: &mut Core, queue: &mut dyn Queue, now: Nanos) {
        while let Some(completion) = queue.pop() {
            let operation = OperationId(completion.id);
            let index = core.submitted.iter().position(|own| own.operation == operation);
            let submitted = core.submitted.swap_remove(index.expect("completions are of what was submitted"));
            core.committer.handle_completion(operation, completion.result.is_ok(), now);
            self.note_completed(core, &submitted, now);
            if let Err(error) = completion.result {
                self.fail_operation(core, &submitted, error);
            }
        }
    }

    /// Promise 5: a failed write or sync is final. The core heeds it in the next look at it.
    pub(in crate::shard) fn fail(
        &self,
        core: &mut Core,
        operation: &'static str,
        segment: Option<&Segment>,
        error: io::Error,
    ) {
        let path = segment.map_or_else(Default::default, |segment| self.path_of(segment));
        let tasks = self.stop(operation, path, error);
        core.wakes.tasks.extend(tasks);
    }

    fn fail_operation(&self, core: &mut Core, submitted: &Submitted, error: io::Error) {
        self.fail(core, submitted.name, Some(&submitted.segment), same(&error));
        if submitted.flushes {
            let path = self.path_of(&submitted.segment);
            core.wakes.tasks.extend(self.stop_device(&path, &error));
        }
    }

    /// A shard that was stopped, by whomever, writes and acknowledges nothing more.
    fn apply_failure(&self, core: &mut Core) {
        core.wakes.tasks.extend(self.stop_if_flush_failed().into_iter().flatten());
        if self.life.has_failed() {
            core.committer.fail();
        }
    }

    /// Gives the device what it is to do, or the thread, if that is quicker.
    fn submit(&self, core: &mut Core, queue: &mut dyn Queue) -> Option<Operation> {
        let now = self.device.now();
        while let Some(action) = core.committer.poll_action() {
            let operation = self.operation(core, &action);
            if self.is_quicker_itself(core, &action) {
                core.performing += 1;
                return Some(operation);
            }
            queue.push(operation);
            self.seal_due(core, now);
        }
        None
    }

    /// What the device must do for an action.
    pub(in crate::shard) fn operation(&self, core: &mut Core, action: &Action) -> Operation {
        let now = self.device.now();
        let (operation, name, segment, kind) = match *action {
            Action::Write { operation, sequence, sync } => {
                let block = core.sealed.pop_front().expect("writes are of sealed blocks");
                assert_eq!(block.sequence, sequence, "blocks are written in order");
                self.note_handed_over(core, sequence, now);
                let kind = OperationKind::Write { bytes: block.bytes, offset: block.offset, sync };
                (operation, "write", block.segment, kind)
            }
            Action::Sync { operation, file } => {
                self.counters.syncs.fetch_add(1, Ordering::Relaxed);
                let segment = core.segments.iter().find(|segment| segment.row.file == file);
                (
                    operation,
                    "sync",
                    segment.expect("a segment that is written to").clone(),
                    OperationKind::Sync,
                )
            }
        };
        let file = segment.file.clone();
        let flushes = match &kind {
            OperationKind::Sync => true,
            // Written and flushed in one call, which does not say what of it failed.
            OperationKind::Write { sync, .. } => *sync && self.has_write_cache(),
        };
        core.drain.begin(now);
        core.submitted.push(Submitted { operation, name, segment, flushes, since: now });
        // Before it is submitted: where that blocks (a file system in user space, the syscall driver) nobody
        // could tell of it.
        self.publish_oldest(core);
        Operation { id: operation.0, file, kind }
    }

    /// An operation that the holder of the token carried out itself.
    pub(in crate::shard) fn performed(&self, core: &mut Core, id: u64, result: io::Result<()>, now: Nanos) {
        let operation = OperationId(id);
        let index = core.submitted.iter().position(|own| own.operation == operation);
        let submitted = core.submitted.swap_remove(index.expect("it was made an operation"));
        core.committer.handle_completion(operation, result.is_ok(), now);
        self.note_completed(core, &submitted, now);
        if let Err(error) = result {
            self.fail_operation(core, &submitted, error);
        }
        // Whoever leads may have more to write.
        self.apply_failure(core);
    }

    /// Tells since when the oldest operation has been out, for who watches for a stuck device.
    pub(in crate::shard) fn publish_oldest(&self, core: &Core) {
        let oldest = core.submitted.iter().map(|submitted| submitted.since).min();
        self.published.0.oldest.store(oldest.unwrap_or(Nanos::NEVER).0, Ordering::Relaxed);
    }

    /// Wakes whom a turn or a lead found. Under no lock.
    pub(in crate::shard) fn wake(&self, [wakes, followers]: [Wakes; 2]) {
        self.waiting.callers.wake(wakes);
        self.waiting.followers.wake(followers);
    }

    /// Tells everybody how far things have got.
    pub(in crate::shard) fn publish(&self, core: &mut Core, now: Nanos) {
        self.apply_failure(core);
        if core.committer.failed() {
            return; // Promise 5: nothing later is acknowledged.
        }
        let marks = core.committer.watermarks();
        let completed = core.committer.completed();
        // The log's clock first: a record that is appended after an acknowledgement gets a later time.
        if let Some(timestamp) = core.unresolved.timestamp(completed) {
            self.clock.fetch_max(timestamp, Ordering::SeqCst);
        }
        self.published.0.covered.store(marks.covered.0, Ordering::SeqCst);
        self.published.0.written.store(marks.written.0, Ordering::SeqCst);
        let durable_before = self.published.0.durable.swap(marks.durable.0, Ordering::SeqCst);
        for sequence in core.unresolved.announce(completed) {
            self.waiting.callers.notify(sequence.0, &mut core.wakes);
        }
        let resolved = core.unresolved.resolve(
            marks.durable,
            |sequence| self.waiting.callers.notify(sequence.0, &mut core.wakes),
            |accepted| self.counters.commit_latency.record(accepted, now),
        );
        if let Some(end) = resolved {
            core.drain.add(end);
        }
        self.durable_moved(durable_before, marks.durable, &mut core.followers);
        core.room_made |= self.pool.release(completed);
        if let Some(rate) = core.drain.measure(now) {
            let told = &self.published.0.drain_rate;
            told.store(mean(told.load(Ordering::Relaxed), rate), Ordering::Relaxed);
        }
        self.step_overload(core, now);
        while core.segments.len() > 1 && core.segments[0].end() <= marks.covered {
            core.segments.pop_front();
        }
    }

    /// How to sleep; looks once more for work after it has said that it does.
    fn next(&self, core: &mut Core, now: Nanos) -> Next {
        let idle = core.committer.is_idle() && core.leads == 0;
        if core.committer.failed() {
            // A caller that leads has no completion here: it wakes the thread when it is done, if it sleeps.
            let sleeps = !idle && self.wake_state.prepare_sleep(Sleep::Busy);
            return Next::new(if sleeps { Wait::Forever } else { Wait::No }, idle);
        }
        if self.life.is_closing() && idle {
            // Not done yet: then what was asked for last shows in the next turn, or a copy is unfinished.
            let finished = core.is_done(&self.pool);
            let unseen = core.next_to_seal > self.pool.last().sequence;
            if finished || unseen {
                return Next::new(Wait::No, finished);
            }
        }
        let deadlines = [core.committer.poll_timeout(), self.admission.due(), self.overload_due(core)];
        let deadline = deadlines.into_iter().flatten().min();
        self.armed_until.store(deadline.unwrap_or(Nanos::NEVER).0, Ordering::SeqCst);
        let sleeps = self.wake_state.prepare_sleep(match (idle, core.committer.is_lingering()) {
            (false, _) => Sleep::Busy,
            (true, true) => Sleep::Linger,
            (true, false) => Sleep::Idle,
        });
        // Somebody has come into the queue since: whoever did looked at how long this sleeps, maybe before it was said.
        let queued = self.admission.due().is_some_and(|due| deadline.is_none_or(|deadline| due < deadline));
        if !sleeps || queued || self.has_work(core, now) {
            self.wake_state.set_awake();
            return Next::new(Wait::No, false);
        }
        let wait = match deadline {
            None => Wait::Forever,
            Some(deadline) if deadline <= now => Wait::No,
            Some(deadline) => Wait::AtMost(Duration::from_nanos(deadline - now)),
        };
        Next::new(wait, false)
    }

    /// What a producer would wake the thread for.
    pub(in crate::shard) fn has_work(&self, core: &mut Core, now: Nanos) -> bool {
        let ready = core.committer.has_room() && self.pool.complete(core.next_to_seal).is_some();
        let pending = self.pool.pending();
        let own = pending.sequence == core.next_to_seal;
        let idle = own && pending.bytes > 0 && core.committer.is_idle() && core.leads == 0;
        let is_new = idle && !core.committer.is_lingering();
        if idle {
            core.committer.note_pending(&pending, now);
        }
        ready || is_new || (idle && core.committer.should_seal(&pending, now))
    }

    /// Turns the shard, where there are no threads, until `done` or nothing can happen any more.
    pub(crate) fn turn_until(&self, mut done: impl FnMut() -> bool) {
        loop {
            let mut guard = lock(&self.queue);
            let Some(queue) = guard.as_mut() else { return };
            let (next, wakes) = {
                let mut core = lock(&self.core);
                let next = self.turn(&mut core, queue.as_mut());
                (next, core.take_wakes())
            };
            let stuck = next.finished || (next.wait == Wait::Forever && lock(&self.core).committer.is_idle());
            if !done() && !stuck {
                // An error shows in the next turn, when the operations come back with it.
                let _ = queue.enter(next.wait);
            }
            drop(guard);
            self.wake(wakes);
            // Whoever holds the opener waits for the shard, and needs no segment.
            let made = !self.is_ended() && self.wants_segment() && self.opener.try_lock().is_ok();
            if made {
                self.make_segment();
            }
            if done() || (stuck && !made) {
                return;
            }
        }
    }
}
