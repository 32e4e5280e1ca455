//! How a follower waits for new records: as a thread that blocks, or as a task that leaves its waker. Whoever turns the
//! shard wakes both when the durable LSN has moved. The sleep itself: `waiters.rs`. What they do then: `read/follow.rs`.

use std::task::Waker;
use std::time::Duration;

use super::Registration;
use super::waiters::Wakes;
use crate::position::Lsn;
use crate::shard::{Engine, NO_LEAD};

impl Engine {
    /// Blocks until `resolved` gives something, looking again whenever the durable LSN moves.
    pub(crate) fn follow<T>(
        &self,
        timeout: Option<Duration>,
        mut resolved: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if self.threaded {
            return self.waiting.followers.wait(0, timeout, resolved, NO_LEAD);
        }
        let mut found = None;
        self.turn_until(|| {
            // Asked again after it was found: what was found must not be lost.
            found = found.take().or_else(&mut resolved);
            found.is_some()
        });
        found
    }

    /// Whoever turns the shard has published a durable LSN: those who follow it are to be woken if it has moved.
    pub(in crate::shard) fn durable_moved(&self, before: u64, now: Lsn, wakes: &mut Wakes) {
        if now.0 > before {
            self.waiting.followers.notify(0, wakes);
        }
    }

    pub(crate) fn register_follower(&self, waker: &Waker, previous: Option<Registration>) -> Registration {
        self.waiting.followers.register(0, waker, previous)
    }

    pub(crate) fn forget_follower(&self, registration: Registration) {
        self.waiting.followers.forget(registration);
    }

    /// Wakes those who wait for the durable LSN, to look at something else.
    pub(crate) fn wake_followers(&self) {
        let mut tasks = Vec::new();
        self.waiting.followers.notify_all(&mut tasks);
        crate::sync::wake(tasks);
    }
}
