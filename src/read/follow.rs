//! Reading what comes, as it becomes durable, and what all readers do that wait for it ([`Follower`]): they look, leave
//! a waker, and look again.
//!
//! Where the waker is left, and how a thread blocks: `shard/wait/followers.rs`; of a consumer `Consumer::wait`, and of a
//! reader beside the owner `FollowReader::wait`, which polls.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::Record;
use super::cursor::Step;
use super::tail::Tail;
use crate::error::ReadError;
use crate::format::Stretch;
use crate::position::{Lsn, ShardId};
use crate::shard::{Engine, Registration};
use crate::sync::lock;

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
    engine: Arc<Engine>,
    stop: FollowStop,
    registration: Option<Registration>,
    /// Of one key: which stretch of its slot it reads.
    stretch: Option<KeyOnward>,
}

/// Ends a [`Follow`], from any thread.
#[derive(Clone, Debug)]
pub struct FollowStop {
    /// Where it waits.
    engine: Arc<Mutex<Arc<Engine>>>,
    stopped: Arc<AtomicBool>,
}

/// What a follower of a key goes by: it reads one stretch of the key's slot, and then the next one.
#[derive(Clone, Debug)]
struct KeyOnward {
    key: Box<[u8]>,
    /// The version of the map that began the stretch which it reads now.
    version: u32,
    /// All shards of the log: what is there is delivered also once nobody else has the log any more.
    engines: Arc<[Arc<Engine>]>,
}

impl FollowStop {
    /// Ends it, also while it waits.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Where it goes meanwhile, it sees that it is stopped.
        let engine = lock(&self.engine).clone();
        engine.wake_followers();
    }
}

impl Follow {
    pub(crate) fn new(engine: Arc<Engine>, from: Lsn) -> Result<Follow, ReadError> {
        Follow::begin(engine, from, None)
    }

    /// The same, of one key, from within the stretch of its slot that this version of the map began.
    pub(super) fn of_key(
        engines: &[Arc<Engine>],
        shard: ShardId,
        key: &[u8],
        version: u32,
        from: Lsn,
    ) -> Result<Follow, ReadError> {
        let onward = KeyOnward { key: key.into(), version, engines: engines.into() };
        Follow::begin(engines[usize::from(shard.0)].clone(), from, Some(onward))
    }

    fn begin(engine: Arc<Engine>, from: Lsn, stretch: Option<KeyOnward>) -> Result<Follow, ReadError> {
        let (shard, end) = (engine.id, engine.accepted_end());
        if from > end {
            return Err(ReadError::AboveEnd { shard, lsn: from, end });
        }
        let stop = FollowStop { engine: Arc::new(Mutex::new(engine.clone())), stopped: Arc::default() };
        let records = Tail::new(engine.clone(), from, stretch.as_ref().map(|onward| &*onward.key))?;
        Ok(Follow { records, engine, stop, registration: None, stretch })
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
        if self.engine.would_wait_for_itself() {
            let ended = self.is_ended();
            return self.step().or_else(|| (!ended).then_some(Err(ReadError::OwnThread)));
        }
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let engine = self.engine.clone();
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // It waits where it reads. Where it goes on elsewhere, it waits there.
            let found = engine.follow(left, || match self.look() {
                None if !Arc::ptr_eq(&engine, &self.engine) => Some(Err(Elsewhere)),
                found => found.map(Ok),
            });
            match found {
                Some(Err(Elsewhere)) => {}
                found => return found.and_then(Result::ok).flatten(),
            }
        }
    }

    /// What is durable of what it reads now; and whether nothing more comes there.
    fn limit(&self) -> (Lsn, bool) {
        // First this: what was put there by hand after the slot had moved on is not durable yet.
        let durable = self.records.source().durable();
        let Some(KeyOnward { key, version, .. }) = &self.stretch else { return (durable, false) };
        let router = &self.engine.router;
        match router.map().stretch(router.slot(key), *version) {
            Some(Stretch { until: None, .. }) => (durable, false),
            // What was durable then may be less: it is over once all of it is.
            Some(Stretch { until: Some(until), .. }) => {
                let end = until.within(&self.engine.view().epochs);
                (end.min(durable), end <= durable)
            }
            // It was truncated away: of what it has not seen of it, it is told.
            None => {
                let horizon = self.engine.view().horizon;
                (horizon.min(durable), horizon <= durable)
            }
        }
    }

    /// Goes on in the next stretch of its key's slot.
    fn go_on(&mut self) -> Result<(), ReadError> {
        let Some(KeyOnward { key, version, engines }) = self.stretch.clone() else { return Ok(()) };
        let map = self.engine.router.map();
        let history = map.history(self.engine.router.slot(&key));
        let next = history.iter().find(|stretch| stretch.version > version).copied();
        let next = next.expect("the last stretch of a slot goes on");
        let engine =
            engines.get(usize::from(next.shard.0)).ok_or(ReadError::NoSuchShard(next.shard))?.clone();
        let view = engine.view();
        let from = next.from.within(&view.epochs).max(view.horizon);
        let records = Tail::new(engine.clone(), from, Some(&key))?;
        self.forget_registration();
        self.stretch = Some(KeyOnward { key, version: next.version, engines });
        self.records = records;
        *lock(&self.stop.engine) = engine.clone();
        self.engine = engine;
        Ok(())
    }

    fn forget_registration(&mut self) {
        let registration = self.registration.take().filter(|_| self.engine.in_opening_process());
        if let Some(registration) = registration {
            self.engine.forget_follower(registration);
        }
    }
}

/// It goes on in another shard.
struct Elsewhere;

impl Follower for Follow {
    fn is_ended(&self) -> bool {
        self.stop.stopped.load(Ordering::SeqCst) || self.engine.is_ended()
    }

    fn step(&mut self) -> NextRecord {
        loop {
            let (limit, is_over) = self.limit();
            match self.records.next(limit) {
                Step::Record(record) => return Some(Ok(record)),
                Step::Error(error) => return Some(Err(error)),
                Step::End if is_over => {
                    if let Err(error) = self.go_on() {
                        return Some(Err(error));
                    }
                }
                Step::End => return None,
            }
        }
    }

    fn rest(&mut self) {
        self.records.rest();
    }

    fn look(&mut self) -> Option<NextRecord> {
        loop {
            let engine = self.engine.clone();
            // Asked before the step: what became durable before the end is delivered.
            let ended = self.is_ended();
            let step = self.step();
            if step.is_none() {
                self.rest();
                if !Arc::ptr_eq(&engine, &self.engine) {
                    continue; // It has gone on to another shard, which need not have ended.
                }
            }
            return (step.is_some() || ended).then_some(step);
        }
    }

    fn look_or_register(&mut self, waker: &Waker) -> Option<NextRecord> {
        loop {
            if let Some(found) = self.look() {
                return Some(found);
            }
            self.register(waker);
            let engine = self.engine.clone();
            let found = self.look();
            // Where it has gone on elsewhere, nobody there knows of the waker yet.
            if found.is_some() || Arc::ptr_eq(&engine, &self.engine) {
                return found;
            }
        }
    }

    fn register(&mut self, waker: &Waker) {
        self.registration = Some(self.engine.register_follower(waker, self.registration));
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
        self.forget_registration();
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
