//! Readers that wait for new records: what following one shard and consuming all of them have in common.
//!
//! How each blocks: `Engine::follow` (`shard/wait/mod.rs`), `Consumer::wait`, and `FollowReader::wait`, which polls.

use std::task::{Context, Poll, Waker};

use super::Record;
use crate::error::ReadError;

/// What a reader yields next, as an iterator does.
pub(crate) type NextRecord = Option<Result<Record, ReadError>>;

/// A reader that is woken to look again.
pub(crate) trait Follower {
    /// Whether nothing comes any more.
    fn is_ended(&self) -> bool;

    /// The next record or error that is there; `None` if there is none now.
    fn step(&mut self) -> NextRecord;

    /// There is nothing to read now: gives back the memory for it.
    fn rest(&mut self);

    /// Leaves a waker for when something may be there.
    fn register(&mut self, waker: &Waker);

    /// What there is to say now; `None` if it must wait.
    fn look(&mut self) -> Option<NextRecord> {
        // Asked before the step: what became durable before the end is delivered.
        let ended = self.is_ended();
        let step = self.step();
        if step.is_none() {
            self.rest();
        }
        (step.is_some() || ended).then_some(step)
    }

    /// As [`look`](Follower::look); where it must wait, the waker is left, and has missed nothing.
    fn look_or_register(&mut self, waker: &Waker) -> Option<NextRecord> {
        self.look().or_else(|| {
            self.register(waker);
            self.look()
        })
    }

    /// As a stream is polled.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<NextRecord> {
        self.look_or_register(context.waker()).map_or(Poll::Pending, Poll::Ready)
    }
}
