//! One turn of a shard: reap, decide, seal, submit, publish, wake.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Engine;
use super::ending::same;
use super::unresolved::Unresolved;
use super::waiters::Wakes;
use super::wake_state::Sleep;
use crate::committer::{Action, Committer, OperationId, Sealed};
use crate::device::{Operation, OperationKind, Queue, Wait};
use crate::format::{BlockHeader, BlockSeal, Identity, round_to_granule};
use crate::pool::{Complete, SealedBytes};
use crate::position::Lsn;
use crate::segment::Segment;
use crate::sync::lock;

/// A block that is sealed and not yet submitted.
#[derive(Debug)]
pub(super) struct SealedBlock {
    pub sequence: u64,
    pub bytes: SealedBytes,
    pub segment: Arc<Segment>,
    pub offset: u64,
}

/// An operation in flight, for the message if it fails.
#[derive(Debug)]
struct Submitted {
    operation: OperationId,
    name: &'static str,
    segment: Arc<Segment>,
    /// The device is told to flush what it has taken.
    flushes: bool,
    /// When it was made.
    since: u64,
}

/// What only the holder of the token touches.
#[derive(Debug)]
pub(crate) struct Core {
    pub(super) committer: Committer,
    pub(super) identity: Identity,
    /// Sequence of the next block to seal.
    next_to_seal: u64,
    sealed: VecDeque<SealedBlock>,
    submitted: Vec<Submitted>,
    /// The segments that blocks in flight are in: a handful.
    segments: VecDeque<Arc<Segment>>,
    unresolved: Unresolved,
    /// Time of the last record.
    timestamp: u64,
    drain: Drain,
    /// Blocks that callers write themselves now, or were asked to.
    pub(super) leads: u32,
    /// Of them, operations that are in flight.
    pub(super) performing: u32,
    /// A caller that led has panicked: nobody may wait for what it had begun.
    pub(super) abandoned: bool,
    /// Records in the last block sealed.
    pub(super) last_records: u32,
    /// Whom to wake once the token is given up.
    pub(super) wakes: Wakes,
    /// The same of those who follow the durable LSN.
    followers: Wakes,
}

/// Measures how fast the shard drains while it is busy.
#[derive(Debug, Default)]
struct Drain {
    since: u64,
    bytes: u64,
    last: u64,
}

/// What to do after a turn.
#[derive(Debug)]
pub(super) struct Next {
    pub wait: Wait,
    pub finished: bool,
    /// For the shard's thread to perform itself, once it has given up the token: no completion tells of it.
    pub own: Option<Operation>,
}

impl Next {
    pub(super) fn new(wait: Wait, finished: bool) -> Next {
        Next { wait, finished, own: None }
    }
}

impl Core {
    /// Blocks are numbered from the one behind `before`.
    pub(super) fn new(
        committer: Committer,
        identity: Identity,
        timestamp: u64,
        blocks: u32,
        before: u64,
    ) -> Core {
        Core {
            identity,
            next_to_seal: before + 1,
            sealed: VecDeque::with_capacity(blocks as usize),
            submitted: Vec::with_capacity(64),
            segments: VecDeque::with_capacity(4),
            unresolved: Unresolved::new(blocks, before),
            leads: 0,
            performing: 0,
            abandoned: false,
            last_records: 0,
            timestamp,
            drain: Drain { last: committer.watermarks().durable.0, ..Drain::default() },
            committer,
            wakes: Wakes::default(),
            followers: Wakes::default(),
        }
    }

    pub(super) fn take_wakes(&mut self) -> [Wakes; 2] {
        [std::mem::take(&mut self.wakes), std::mem::take(&mut self.followers)]
    }

    /// Whether the next block to seal is this one.
    pub(super) fn next_is(&self, sequence: u64) -> bool {
        self.next_to_seal == sequence && self.sealed.is_empty()
    }

    /// Everything that was appended is durable.
    pub(super) fn is_done(&self, pool: &crate::pool::Pool) -> bool {
        self.next_to_seal > pool.last().sequence && self.sealed.is_empty() && self.committer.is_covered()
    }

    /// Begins a new epoch; everything of the old one is settled, up to block `before`.
    pub(crate) fn begin_epoch(&mut self, committer: Committer, identity: Identity, before: u64) {
        assert!(self.sealed.is_empty() && self.submitted.is_empty());
        self.next_to_seal = before + 1;
        self.unresolved.begin_epoch(before);
        self.drain.last = committer.watermarks().durable.0;
        self.committer = committer;
        self.identity = identity;
        self.segments.clear();
    }
}

impl Engine {
    /// Turns the shard once. The caller holds the token and owns the queue.
    pub(super) fn turn(&self, core: &mut Core, queue: &mut dyn Queue) -> Next {
        let now = self.device.now();
        self.reap(core, queue, now);
        self.heed_failure(core);
        self.publish_oldest(core);
        core.committer.handle_time(now);
        core.committer.handle_sync_request(self.sync_asked.load(Ordering::SeqCst));
        self.seal_due(core, now);
        if self.space.came.swap(false, Ordering::SeqCst) {
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
        core.wakes.tasks.extend(self.offer());
        if own.is_some() {
            return Next { own, ..Next::new(Wait::No, false) };
        }
        self.next(core, now)
    }

    fn reap(&self, core: &mut Core, queue: &mut dyn Queue, now: u64) {
        while let Some(completion) = queue.pop() {
            let operation = OperationId(completion.id);
            let index = core.submitted.iter().position(|own| own.operation == operation);
            let submitted = core.submitted.swap_remove(index.expect("completions are of what was submitted"));
            core.committer.handle_completion(operation, completion.result.is_ok(), now);
            if let Err(error) = completion.result {
                self.fail_operation(core, &submitted, error);
            }
        }
    }

    /// Promise 5: a failed write or sync is final. The core heeds it in the next look at it.
    pub(super) fn fail(
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
    fn heed_failure(&self, core: &mut Core) {
        if self.life.has_failed() {
            core.committer.fail();
        }
    }

    /// Seals what is to be sealed, as far as the device takes it at once.
    pub(super) fn seal_due(&self, core: &mut Core, now: u64) {
        loop {
            while core.committer.has_room() && core.sealed.is_empty() {
                let Some(complete) = self.pool.complete(core.next_to_seal) else { break };
                self.seal(core, &complete, now);
                if !core.sealed.is_empty() {
                    return; // Submitted before the next one, so that its header is as fresh as can be.
                }
            }
            let pending = self.pool.pending();
            let own = pending.sequence == core.next_to_seal;
            // Told even if nothing waits: else the deadline of a block that went out otherwise stays
            // behind, and the thread spins on it.
            let left = own && self.leave_to_callers(core, &pending);
            let pending = if own && !left { pending } else { crate::pool::Pending { bytes: 0, ..pending } };
            core.committer.note_pending(&pending, now);
            if !(core.committer.should_seal(&pending, now) && self.pool.close(pending.sequence)) {
                return;
            }
            if self.pool.complete(core.next_to_seal).is_none() {
                return; // Whoever finishes the last copy wakes the thread.
            }
        }
    }

    /// Gives a complete block its header and hands it to the committer.
    pub(super) fn seal(&self, core: &mut Core, complete: &Complete, now: u64) {
        let sequence = core.next_to_seal;
        core.next_to_seal += 1;
        if complete.records == 0 && !complete.marker {
            // Void: the next block takes its place. Somebody may wait for all up to it.
            core.unresolved.push(sequence, complete.previous_end, core.timestamp);
            core.committer.handle_void(sequence);
            return;
        }
        let timestamp = self.device.wall().max(core.timestamp + 1).max(self.clock.load(Ordering::SeqCst) + 1);
        core.timestamp = timestamp + u64::from(complete.records.saturating_sub(1));
        self.published.0.timestamp.store(core.timestamp, Ordering::SeqCst);
        let seal = BlockSeal {
            lsn: complete.lsn,
            previous_end: complete.previous_end,
            covered: core.committer.watermarks().covered.min(complete.lsn),
            timestamp,
            record_count: complete.records,
            length: complete.length,
        };
        assert_eq!(complete.epoch, core.identity.epoch, "a block is sealed in the epoch it was opened in");
        let header = BlockHeader::sealed(&core.identity, &seal);
        let bytes = self.pool.seal(sequence, bytemuck::bytes_of(&header));
        core.last_records = complete.records;
        let segment = self.segment_of(core, complete.lsn);
        let end = Lsn(complete.lsn.0 + round_to_granule(u64::from(complete.length)));
        let block = Sealed {
            sequence,
            end,
            bytes: bytes.len() as u32,
            file: segment.row.file,
            urgency: if complete.marker { crate::pool::Urgency::Synced } else { complete.urgency },
            records: complete.records,
            group: complete.group,
        };
        core.committer.handle_sealed(block, now);
        core.unresolved.push(sequence, end, core.timestamp);
        let offset = complete.lsn.0 - segment.row.base;
        self.counters.sealed(complete.records, complete.length, bytes.len());
        core.sealed.push_back(SealedBlock { sequence, bytes, segment, offset });
    }

    fn segment_of(&self, core: &mut Core, lsn: Lsn) -> Arc<Segment> {
        if let Some(segment) = core.segments.iter().find(|segment| segment.contains(lsn)) {
            return segment.clone();
        }
        let view = self.view();
        let index = view.segment_of(lsn).expect("blocks are opened in listed segments alone");
        let segment = view.segments[index].clone();
        core.segments.push_back(segment.clone());
        segment
    }

    /// Writes a block without records, which testifies that the last one was covered.
    fn mark(&self, core: &mut Core, now: u64) {
        // Somebody opens a block or truncates: then there is no need for a marker, or no time.
        let Ok(mut opener) = self.opener.try_lock() else { return };
        if opener.held {
            return;
        }
        let last = self.pool.last();
        if !self.pool.is_closed() {
            if last.length > crate::format::BLOCK_HEADER_BYTES {
                // Data has come, which testifies as well, and arms the marker anew once it is sealed.
                core.committer.disarm_marker();
                return;
            }
            self.pool.close_any();
        }
        if !self.life.is_shut() && opener.open_marker(&self.pool) {
            drop(opener);
            while let Some(complete) =
                self.pool.complete(core.next_to_seal).filter(|_| core.sealed.is_empty())
            {
                self.seal(core, &complete, now);
            }
        } else if self.pool.in_use() < self.pool.blocks() {
            // Due again once there is a segment for it. On a full disk that may be long: then the
            // window stays open, and an idle shard does not spin.
            core.committer.disarm_marker();
            self.ask_for_segment(crate::format::GRANULE);
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
    pub(super) fn operation(&self, core: &mut Core, action: &Action) -> Operation {
        let (operation, name, segment, kind) = match *action {
            Action::Write { operation, sequence, sync } => {
                let block = core.sealed.pop_front().expect("writes are of sealed blocks");
                assert_eq!(block.sequence, sequence, "blocks are written in order");
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
        core.submitted.push(Submitted { operation, name, segment, flushes, since: self.device.now() });
        // Before it is submitted: where that blocks (a file system in user space, the syscall driver) nobody
        // could tell of it.
        self.publish_oldest(core);
        Operation { id: operation.0, file, kind }
    }

    /// An operation that the holder of the token carried out itself.
    pub(super) fn performed(&self, core: &mut Core, id: u64, result: io::Result<()>, now: u64) {
        let operation = OperationId(id);
        let index = core.submitted.iter().position(|own| own.operation == operation);
        let submitted = core.submitted.swap_remove(index.expect("it was made an operation"));
        core.committer.handle_completion(operation, result.is_ok(), now);
        if let Err(error) = result {
            self.fail_operation(core, &submitted, error);
        }
        // Whoever leads may have more to write.
        self.heed_failure(core);
    }

    /// Tells since when the oldest operation has been out, for who watches for a stuck device.
    pub(super) fn publish_oldest(&self, core: &Core) {
        let oldest = core.submitted.iter().map(|submitted| submitted.since).min();
        self.published.0.oldest.store(oldest.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Wakes whom a turn or a lead found. Under no lock.
    pub(super) fn wake(&self, [wakes, followers]: [Wakes; 2]) {
        self.waiters.wake(wakes);
        self.followers.wake(followers);
    }

    /// Tells everybody how far things have got.
    pub(super) fn publish(&self, core: &mut Core, now: u64) {
        self.heed_failure(core);
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
            self.waiters.notify(sequence, &mut core.wakes);
        }
        let resolved =
            core.unresolved.resolve(marks.durable, |sequence| self.waiters.notify(sequence, &mut core.wakes));
        if let Some(end) = resolved {
            core.drain.bytes += end.0.saturating_sub(core.drain.last);
            core.drain.last = end.0;
        }
        if marks.durable.0 > durable_before {
            self.followers.notify(0, &mut core.followers);
        }
        self.pool.release(completed);
        self.measure(core, now);
        while core.segments.len() > 1 && core.segments[0].end() <= marks.covered {
            core.segments.pop_front();
        }
    }

    fn measure(&self, core: &mut Core, now: u64) {
        let passed = now.saturating_sub(core.drain.since);
        if passed < 20_000_000 {
            return;
        }
        // A window that was mostly idle says nothing of how fast the shard could drain.
        if core.drain.bytes > 0 && passed < 200_000_000 {
            let rate = u128::from(core.drain.bytes) * 1_000_000_000 / u128::from(passed);
            let rate = u64::try_from(rate).unwrap_or(u64::MAX).max(1);
            let old = self.published.0.drain_rate.load(Ordering::Relaxed);
            let mean = if old == 0 { rate } else { old / 2 + rate / 2 };
            self.published.0.drain_rate.store(mean.max(1), Ordering::Relaxed);
        }
        core.drain = Drain { since: now, bytes: 0, last: core.drain.last };
    }

    /// How to sleep; looks once more for work after it has said that it does.
    fn next(&self, core: &mut Core, now: u64) -> Next {
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
        let deadline = [core.committer.poll_timeout(), self.admission.due()].into_iter().flatten().min();
        self.armed_until.store(deadline.unwrap_or(u64::MAX), Ordering::SeqCst);
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
    pub(super) fn has_work(&self, core: &mut Core, now: u64) -> bool {
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
