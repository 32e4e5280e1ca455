//! Reading what comes, as it becomes durable, and what all readers do that wait for it ([`Follower`]): they look, leave
//! a waker, and look again.
//!
//! Where the waker is left, and how a thread blocks: `shard/wait/followers.rs`; of a consumer `Consumer::wait`, and of a
//! reader beside the owner `FollowReader::wait`, which polls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;

use super::Record;
use super::cursor::Step;
use super::tail::Tail;
use crate::error::ReadError;
use crate::position::Lsn;
use crate::shard::{Engine, Registration};

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

/// The records of a shard from an LSN on, and what comes after them. By
/// [`Shard::follow`](crate::Shard::follow).
///
/// As an iterator it blocks until the next record is durable, as a [`Stream`] it waits for it. It
/// ends when the log is closed, when the shard has stopped, or when its [`FollowStop`] says so; what
/// was durable by then is delivered first. Each of these is a plain `None`: whether the shard has failed is told by
/// [`ShardStats::failed`](crate::stats::ShardStats::failed).
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct Follow {
    records: Tail,
    stop: FollowStop,
    registration: Option<Registration>,
}

/// Ends a [`Follow`], from any thread.
#[derive(Clone, Debug)]
pub struct FollowStop {
    engine: Arc<Engine>,
    stopped: Arc<AtomicBool>,
}

impl FollowStop {
    /// Ends it, also while it waits.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.engine.wake_followers();
    }
}

impl Follow {
    pub(crate) fn new(engine: Arc<Engine>, from: Lsn) -> Result<Follow, ReadError> {
        Follow::begin(engine, from, None)
    }

    /// The same, of one key.
    pub(super) fn of_key(engine: Arc<Engine>, key: &[u8], from: Lsn) -> Result<Follow, ReadError> {
        Follow::begin(engine, from, Some(key))
    }

    fn begin(engine: Arc<Engine>, from: Lsn, key: Option<&[u8]>) -> Result<Follow, ReadError> {
        let (shard, end) = (engine.id, engine.accepted_end());
        if from > end {
            return Err(ReadError::AboveEnd { shard, lsn: from, end });
        }
        let stop = FollowStop { engine: engine.clone(), stopped: Arc::default() };
        Ok(Follow { records: Tail::new(engine, from, key)?, stop, registration: None })
    }

    /// A handle that ends this reader.
    #[must_use]
    pub fn stop(&self) -> FollowStop {
        self.stop.clone()
    }

    /// Reads as far as a limit, below which nothing is whole.
    #[cfg(test)]
    pub(super) fn stop_at(&mut self, limit: Lsn) {
        assert!(matches!(self.records.next(limit), Step::End));
    }

    /// Whether it holds nothing to read into.
    #[cfg(test)]
    pub(super) fn is_resting(&self) -> bool {
        self.records.is_resting()
    }

    /// The next record, waiting for at most `timeout`.
    ///
    /// `None` if it has ended or the time is over; [`Iterator::next`] tells which.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Record, ReadError>> {
        self.wait(Some(timeout))
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Option<Result<Record, ReadError>> {
        let engine = self.stop.engine.clone();
        if engine.would_wait_for_itself() {
            let ended = self.is_ended();
            return self.step().or_else(|| (!ended).then_some(Err(ReadError::OwnThread)));
        }
        engine.follow(timeout, || self.look()).flatten()
    }
}

impl Follower for Follow {
    fn is_ended(&self) -> bool {
        self.stop.stopped.load(Ordering::SeqCst) || self.stop.engine.is_ended()
    }

    fn step(&mut self) -> NextRecord {
        let limit = self.records.source().durable();
        match self.records.next(limit) {
            Step::Record(record) => Some(Ok(record)),
            Step::Error(error) => Some(Err(error)),
            Step::End => None,
        }
    }

    fn rest(&mut self) {
        self.records.rest();
    }

    fn register(&mut self, waker: &Waker) {
        self.registration = Some(self.stop.engine.register_follower(waker, self.registration));
    }
}

impl Iterator for Follow {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.wait(None)
    }
}

impl Stream for Follow {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let registration = self.registration.take().filter(|_| self.stop.engine.in_opening_process());
        if let Some(registration) = registration {
            self.stop.engine.forget_follower(registration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Follower;
    use crate::simulation::Simulated;
    use crate::{Options, ShardId};

    /// The position of what was accepted is known before its block is on the device.
    #[test]
    fn a_follower_may_begin_at_what_is_not_written_yet() {
        let options = Options::new().shards(1).block_bytes(16384).segment_bytes(1 << 20);
        let log = options.device(&Simulated::seed(1)).open("/log").unwrap();
        let (commit, positions) = log.append_batch(b"", &[[1; 3_000]; 24]).admitted().wait().unwrap();
        let mut follow = log.shard(ShardId(0)).follow(positions[22].lsn()).unwrap();
        assert!(follow.step().is_none());
        commit.wait().unwrap();
        for position in &positions[22..] {
            let record = follow.next().expect("it is durable").expect("there is no damage");
            assert_eq!(record.position(), *position);
        }
    }
}
