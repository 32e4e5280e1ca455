//! Waiting for a shard: until an append is durable (here), or until there are new records (`followers.rs`).

pub(super) mod commit_delay;
mod deadlock_guard;
mod followers;
pub(super) mod waiters;
pub(super) mod wake_state;

pub(crate) use waiters::{Registration, Waiters};

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::time::Duration;

use crate::error::Unavailable;
use crate::position::Lsn;
use crate::shard::wait::commit_delay::CommitDelay;
use crate::shard::{Engine, NO_LEAD, Target};
use crate::write::Durability;

/// Who waits, and what those who lead have to know of each other.
#[derive(Debug)]
pub(in crate::shard) struct Waiting {
    /// By the block that they wait for.
    pub callers: Waiters,
    /// Who waits for the durable LSN to move, whichever block moves it.
    pub followers: Waiters,
    pub commit_delay: CommitDelay,
    /// As [`Core::leads`](crate::shard::token::Core::leads), for a look without the token.
    pub leads_seen: AtomicU32,
}

impl Waiting {
    /// With a place for each block in memory.
    pub(in crate::shard) fn new(blocks: u32) -> Waiting {
        Waiting {
            callers: Waiters::new(blocks),
            followers: Waiters::new(1),
            commit_delay: CommitDelay::default(),
            leads_seen: AtomicU32::new(0),
        }
    }
}

impl Engine {
    /// The outcome of an accepted batch, once it is known.
    pub(crate) fn outcome(&self, target: &Target) -> Option<Result<(), Unavailable>> {
        if Lsn(self.published.0.durable.load(Ordering::SeqCst)) > target.lsn {
            return Some(Ok(()));
        }
        if let Some(failure) = self.life.failure() {
            return Some(Err(Unavailable::ShardFailed(failure.clone())));
        }
        match target.durability {
            Durability::Buffered => Some(Ok(())),
            Durability::Written => {
                (Lsn(self.published.0.written.load(Ordering::SeqCst)) > target.lsn).then_some(Ok(()))
            }
            Durability::Synced => None,
        }
    }

    /// Blocks until the outcome is known, or the time is over.
    pub(crate) fn wait(&self, target: &Target, timeout: Option<Duration>) -> Option<Result<(), Unavailable>> {
        if let Some(outcome) = self.outcome(target) {
            return Some(outcome);
        }
        if !self.in_opening_process() {
            return Some(Err(Unavailable::Forked));
        }
        if !self.threaded {
            self.turn_until(|| self.outcome(target).is_some());
            return self.outcome(target);
        }
        if self.would_wait_for_itself() {
            return Some(Err(Unavailable::OwnThread));
        }
        if timeout.is_some() {
            // Whoever has no time for a write that takes long leads nothing.
            return self.waiting.callers.wait(target.sequence.0, timeout, || self.outcome(target), NO_LEAD);
        }
        self.join(target);
        self.waiting.callers.wait(
            target.sequence.0,
            timeout,
            || self.outcome(target),
            Some(|| self.take_over()),
        )
    }

    /// Leaves a waker for when the outcome may be known; `None` if it is.
    pub(crate) fn register(
        &self,
        target: &Target,
        waker: &Waker,
        previous: Option<Registration>,
    ) -> Registration {
        self.waiting.callers.register(target.sequence.0, waker, previous)
    }

    pub(crate) fn forget(&self, registration: Registration) {
        self.waiting.callers.forget(registration);
    }

    /// Whether the caller must not block for it: a waker that is called in one of the log's threads, or whoever drives
    /// one. Another shard of the log counts, too: its thread may be waiting for this one.
    pub(crate) fn would_wait_for_itself(&self) -> bool {
        self.driven && crate::shard::drives() || self.works_here()
    }
}
