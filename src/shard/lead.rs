//! The inline path: a blocking caller that finds its shard idle writes its own block.
//!
//! It saves the two crossings to the shard's thread and back. It is no second engine: the leader
//! holds the token while it decides, gives it up while it writes, and hands its completion to the
//! same committer. It leads at most one block.

use std::sync::TryLockError;
use std::sync::atomic::Ordering;

use super::{Engine, Target};
use crate::device;

impl Engine {
    /// Called with the duty of an accepted batch: writes its block, or wakes the thread.
    pub(crate) fn lead(&self, target: &Target) {
        if !self.try_lead(target) {
            self.announce();
        }
    }

    fn try_lead(&self, target: &Target) -> bool {
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let pending = self.pool.pending();
        let own = pending.sequence == target.sequence && core.next_is(target.sequence);
        if !own || !core.committer.is_idle() || core.committer.failed() || !self.nudge.leads() {
            return false;
        }
        let now = self.device.now();
        self.pool.close(target.sequence);
        // A copy by somebody else may be unfinished: then the block is the thread's.
        if let Some(complete) = self.pool.complete(target.sequence) {
            self.seal(&mut core, &complete, now);
        }
        while let Some(action) = core.committer.next_action() {
            let operation = self.operation(&mut core, &action);
            self.publish_oldest(&core);
            drop(core);
            let result = device::perform(&operation);
            let id = operation.id;
            drop(operation);
            core = crate::sync::lock(&self.core);
            self.performed(&mut core, id, result, self.device.now());
        }
        self.counters.led.fetch_add(1, Ordering::Relaxed);
        let now = self.device.now();
        self.publish_oldest(&core);
        self.publish(&mut core, now);
        self.nudge.led();
        let deadline = core.committer.deadline().unwrap_or(u64::MAX);
        let unarmed = deadline < self.armed_until.load(Ordering::SeqCst);
        let hand_over = self.has_work(&mut core, now) || core.committer.failed() || unarmed;
        let tasks = core.take_tasks();
        drop(core);
        if hand_over {
            self.prod();
        }
        crate::admission::wake(tasks.into_iter().chain(self.offer()));
        true
    }
}
