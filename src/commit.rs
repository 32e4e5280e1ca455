//! The handles of an append: [`Append`], [`Commit`] and their kin. Futures that need no runtime,
//! with a blocking `wait` each.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::admission::{self, Call, Place};
use crate::error::AppendError;
use crate::options::{Durability, Priority};
use crate::position::Position;
use crate::shard::{Batch, Engine, Placed, Refused, Registration, Target};
use crate::sys;
use crate::write::Write;

enum Payloads<'a> {
    One(Cow<'a, [u8]>),
    Many(Vec<&'a [u8]>),
}

/// What is to be appended, kept until it is accepted.
struct Job<'a> {
    key: Cow<'a, [u8]>,
    payloads: Payloads<'a>,
    priority: Priority,
    durability: Durability,
    /// Filled for a batch alone: one position needs no vector.
    positions: Vec<Position>,
}

impl Job<'_> {
    fn put(&mut self, engine: &Engine, may_lead: bool) -> Result<Placed, Refused> {
        let one;
        let (payloads, positions) = match &self.payloads {
            Payloads::One(payload) => {
                one = [payload.as_ref()];
                (&one[..], None)
            }
            Payloads::Many(payloads) => {
                self.positions.clear();
                (&payloads[..], Some(&mut self.positions))
            }
        };
        let batch = Batch { key: &self.key, payloads };
        engine.put(&batch, self.priority, self.durability, may_lead, positions)
    }
}

enum State<'a> {
    Accepted {
        commit: Commit,
        duty: bool,
        positions: Vec<Position>,
    },
    Queued {
        engine: Arc<Engine>,
        job: Job<'a>,
        place: Place,
    },
    Failed(AppendError),
    /// It was told, and is told again to whoever asks again.
    Done(Position, Vec<Position>),
    /// Its commit was handed out.
    Gone,
}

/// An append on its way: what [`Append`] and [`AppendBatch`] have in common.
struct Appending<'a>(State<'a>);

impl<'a> Appending<'a> {
    /// Accepts the job in this call if there is room and nobody waits; else it takes a place.
    fn begin(engine: Arc<Engine>, mut job: Job<'a>) -> Appending<'a> {
        if !is_owner() {
            return Appending(State::Failed(AppendError::Forked));
        }
        if engine.admission.is_shut() {
            return Appending(State::Failed(engine.shut_error()));
        }
        if engine.admission.is_clear() {
            match job.put(&engine, job.durability > Durability::Buffered) {
                Ok(placed) => return Appending::accepted(engine, placed, job.positions),
                Err(Refused::Error(error)) => return Appending(State::Failed(error)),
                Err(Refused::NoRoom) => {}
            }
        }
        let place = engine.admission.enter(job.priority);
        Appending(State::Queued { engine, job, place })
    }

    fn accepted(engine: Arc<Engine>, placed: Placed, positions: Vec<Position>) -> Appending<'a> {
        let Placed { position, target, duty } = placed;
        Appending(State::Accepted {
            commit: Commit { engine, position, target, registration: None },
            duty,
            positions,
        })
    }

    /// One attempt to take room, in the call of whoever holds the handle. True once it is over.
    fn attempt(&mut self) -> bool {
        let State::Queued { engine, job, place } = &mut self.0 else { return true };
        if engine.admission.is_shut() {
            let error = engine.shut_error();
            self.leave();
            self.0 = State::Failed(error);
            return true;
        }
        if !engine.admission.is_turn(place) {
            return false;
        }
        let result = job.put(engine, false);
        let (engine, positions) = (engine.clone(), std::mem::take(&mut job.positions));
        match result {
            Err(Refused::NoRoom) => {
                if engine.is_threaded() {
                    return false;
                }
                make_room(&engine);
                return false;
            }
            Ok(placed) => {
                self.leave();
                *self = Appending::accepted(engine, placed, positions);
            }
            Err(Refused::Error(error)) => {
                self.leave();
                self.0 = State::Failed(error);
            }
        }
        true
    }

    /// Gives the place in the queue up and offers what room there is to the next.
    fn leave(&mut self) {
        if let State::Queued { engine, place, .. } = &self.0 {
            engine.admission.leave(place);
            admission::wake(engine.offer());
        }
    }

    fn poll_admitted(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Twice: what becomes free after the call is left is offered through it.
        for _ in 0..2 {
            if self.attempt() {
                return Poll::Ready(());
            }
            let State::Queued { engine, place, .. } = &self.0 else { unreachable!("it is not over") };
            engine.admission.wait(place, Call::Task(context.waker().clone()));
        }
        if let State::Queued { engine, .. } = &self.0
            && !engine.is_threaded()
        {
            // Nobody else turns the shard: go on until it has room.
            return if self.wait_admitted(None) { Poll::Ready(()) } else { Poll::Pending };
        }
        Poll::Pending
    }

    /// Blocks until it is over; false if the time was over first.
    fn wait_admitted(&mut self, deadline: Option<Instant>) -> bool {
        while !self.attempt() {
            let State::Queued { engine, place, .. } = &self.0 else { unreachable!("it is not over") };
            if !engine.is_threaded() {
                continue;
            }
            let engine = engine.clone();
            engine.admission.wait(place, Call::Thread(std::thread::current()));
            if self.attempt() {
                return true;
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return false,
                Some(left) => std::thread::park_timeout(left),
                None => std::thread::park(),
            }
        }
        true
    }

    /// Makes the thread write what was accepted in this handle's name.
    fn announce(&mut self) {
        if let State::Accepted { commit, duty, .. } = &mut self.0
            && std::mem::take(duty)
        {
            commit.engine.announce();
        }
    }

    fn into_commit(mut self) -> Result<Commit, AppendError> {
        self.announce();
        match std::mem::replace(&mut self.0, State::Gone) {
            State::Accepted { commit, .. } => Ok(commit),
            State::Failed(error) => Err(error),
            State::Queued { .. } | State::Done(..) | State::Gone => unreachable!("it was admitted just now"),
        }
    }

    /// Blocks until the outcome is known; `None` if the time was over first.
    fn wait(&mut self, timeout: Option<Duration>) -> Option<Result<(Position, Vec<Position>), AppendError>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if !self.wait_admitted(deadline) {
            return None;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if let State::Accepted { commit, duty, .. } = &mut self.0 {
            if std::mem::take(duty) {
                commit.engine.lead(&commit.target);
            }
            match commit.engine.wait(&commit.target, left) {
                Some(Ok(())) => {}
                Some(Err(error)) => self.0 = State::Failed(error),
                None => return None,
            }
        }
        Some(self.finish())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(Position, Vec<Position>), AppendError>> {
        if self.poll_admitted(context).is_pending() {
            return Poll::Pending;
        }
        self.announce();
        if let State::Accepted { commit, .. } = &mut self.0 {
            match commit.poll_outcome(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.0 = State::Failed(error),
            }
        }
        Poll::Ready(self.finish())
    }

    fn finish(&mut self) -> Result<(Position, Vec<Position>), AppendError> {
        if let State::Accepted { commit, positions, .. } = &mut self.0 {
            self.0 = State::Done(commit.position, std::mem::take(positions));
        }
        match &self.0 {
            State::Done(position, positions) => Ok((*position, positions.clone())),
            State::Failed(error) => Err(error.clone()),
            State::Accepted { .. } | State::Queued { .. } | State::Gone => {
                unreachable!("its outcome is known")
            }
        }
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        if is_owner() {
            self.announce();
            self.leave();
        }
    }
}

/// Where nobody else turns the shard: makes the next segment, or writes blocks out.
fn make_room(engine: &Engine) {
    if engine.wants_segment() {
        engine.make_segment();
    } else {
        let before = engine.blocks_in_use();
        if let Some(target) = engine.last_target(Durability::Written) {
            engine.ask_sync(&target);
        }
        engine.turn_until(|| engine.blocks_in_use() < before || engine.failure().is_some());
    }
}

/// Whether this process opened the log, and is no fork of the one that did.
pub(crate) fn is_owner() -> bool {
    sys::fork_marker().load(std::sync::atomic::Ordering::Relaxed) == 1
}

/// An append: room first, then durability. By [`Log::append`](crate::Log::append).
///
/// When there is room and nobody waits for it, the record was accepted in the call that made this
/// handle, polled or not. Otherwise the handle waits in line: room is taken in its own poll or
/// [`wait`](Append::wait), and dropping it withdraws the append. Once the record is accepted,
/// dropping the handle does not withdraw it.
#[must_use = "an append that is dropped may be withdrawn, and nobody learns how it ended"]
pub struct Append<'a>(Appending<'a>);

impl<'a> Append<'a> {
    pub(crate) fn begin(engine: Arc<Engine>, write: Write<'a>, durability: Durability) -> Append<'a> {
        let durability = write.durability.unwrap_or(durability);
        let job = Job {
            key: write.key,
            payloads: Payloads::One(write.payload),
            priority: write.priority,
            durability,
            positions: Vec::new(),
        };
        Append(Appending::begin(engine, job))
    }

    pub(crate) fn failed(error: AppendError) -> Append<'a> {
        Append(Appending(State::Failed(error)))
    }

    /// Blocks this thread until the record is as durable as it was asked to be.
    ///
    /// If the shard is idle this thread writes the block itself.
    ///
    /// # Errors
    /// See [`AppendError`]; only [`AppendError::ShardFailed`] leaves open whether the record is kept.
    pub fn wait(mut self) -> Result<Position, AppendError> {
        self.0.wait(None).expect("there is no time limit").map(|(position, _)| position)
    }

    /// As [`wait`](Append::wait), for at most `timeout`; `None` if the time was over first. What was
    /// not accepted by then may be tried again by this handle, and is withdrawn if it is dropped.
    ///
    /// # Errors
    /// As [`wait`](Append::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<Position, AppendError>> {
        Some(self.0.wait(Some(timeout))?.map(|(position, _)| position))
    }

    /// Waits for room only: the way to keep a window of appends in flight.
    ///
    pub fn admitted(self) -> Admitted<'a> {
        Admitted(Some(self.0))
    }
}

impl Future for Append<'_> {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context).map(|result| result.map(|(position, _)| position))
    }
}

impl fmt::Debug for Append<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Append").finish_non_exhaustive()
    }
}

/// An append that waits for room; gives its [`Commit`]. By [`Append::admitted`].
///
/// As a future it gives the commit once: polling it again after that panics.
#[must_use = "a record that is not accepted is not appended"]
pub struct Admitted<'a>(Option<Appending<'a>>);

impl Admitted<'_> {
    /// Blocks this thread until the record is accepted.
    ///
    /// # Errors
    /// See [`AppendError`]; on an error the record was not accepted.
    pub fn wait(mut self) -> Result<Commit, AppendError> {
        let mut appending = self.0.take().expect("it was not polled to its end");
        appending.wait_admitted(None);
        appending.into_commit()
    }
}

impl Future for Admitted<'_> {
    type Output = Result<Commit, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let appending = self.0.as_mut().expect("the handle was polled after it was ready");
        if appending.poll_admitted(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.0.take().expect("it is here").into_commit())
    }
}

impl fmt::Debug for Admitted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").finish_non_exhaustive()
    }
}

/// An append of several records, all or none. By [`Log::append_batch`](crate::Log::append_batch).
#[must_use = "an append that is dropped may be withdrawn, and nobody learns how it ended"]
pub struct AppendBatch<'a>(Appending<'a>);

impl<'a> AppendBatch<'a> {
    pub(crate) fn begin(
        engine: Arc<Engine>,
        key: &'a [u8],
        payloads: Vec<&'a [u8]>,
        durability: Durability,
    ) -> AppendBatch<'a> {
        if payloads.is_empty() {
            return AppendBatch::failed(AppendError::EmptyBatch);
        }
        let positions = Vec::with_capacity(payloads.len());
        let job = Job {
            key: Cow::Borrowed(key),
            payloads: Payloads::Many(payloads),
            priority: Priority::Normal,
            durability,
            positions,
        };
        AppendBatch(Appending::begin(engine, job))
    }

    pub(crate) fn failed(error: AppendError) -> AppendBatch<'a> {
        AppendBatch(Appending(State::Failed(error)))
    }

    /// Blocks this thread until the whole batch is as durable as it was asked to be.
    ///
    /// # Errors
    /// As [`Append::wait`].
    pub fn wait(mut self) -> Result<Vec<Position>, AppendError> {
        self.0.wait(None).expect("there is no time limit").map(|(_, positions)| positions)
    }
}

impl Future for AppendBatch<'_> {
    type Output = Result<Vec<Position>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context).map(|result| result.map(|(_, positions)| positions))
    }
}

impl fmt::Debug for AppendBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendBatch").finish_non_exhaustive()
    }
}

/// A record that was accepted, on its way to the durability that it was asked for.
///
/// Dropping it changes nothing for the record. [`is_durable`](Commit::is_durable) and
/// [`try_result`](Commit::try_result) look at one number of the shard and register nothing, so a
/// window of commits costs its caller no wake-up per record.
#[must_use = "nobody learns how the append ended"]
pub struct Commit {
    engine: Arc<Engine>,
    position: Position,
    target: Target,
    registration: Option<Registration>,
}

impl Commit {
    pub(crate) fn try_begin(
        engine: &Arc<Engine>,
        write: &Write<'_>,
        durability: Durability,
    ) -> Result<Commit, AppendError> {
        if !is_owner() {
            return Err(AppendError::Forked);
        }
        let bytes = (write.payload.len() + write.key.len()) as u64;
        if !engine.admission.is_clear() {
            let shut = engine.admission.is_shut();
            return Err(if shut { engine.shut_error() } else { engine.overloaded(bytes, write.priority) });
        }
        let payloads = [write.payload.as_ref()];
        let batch = Batch { key: &write.key, payloads: &payloads };
        let durability = write.durability.unwrap_or(durability);
        match engine.put(&batch, write.priority, durability, false, None) {
            Ok(Placed { position, target, .. }) => {
                Ok(Commit { engine: engine.clone(), position, target, registration: None })
            }
            Err(Refused::NoRoom) => {
                if !engine.is_threaded() && engine.wants_segment() {
                    engine.make_segment();
                }
                Err(engine.overloaded(bytes, write.priority))
            }
            Err(Refused::Error(error)) => Err(error),
        }
    }

    /// Where the record stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether the record is durable by now, whatever was asked for it.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.engine.durable() > self.target.lsn
    }

    /// The outcome, if it is known by now.
    #[must_use]
    pub fn try_result(&self) -> Option<Result<Position, AppendError>> {
        Some(self.engine.outcome(&self.target)?.map(|()| self.position))
    }

    /// Blocks this thread until the record is as durable as it was asked to be.
    ///
    /// # Errors
    /// [`AppendError::ShardFailed`]: whether the record is kept is unknown.
    pub fn wait(self) -> Result<Position, AppendError> {
        let outcome = self.engine.wait(&self.target, None);
        outcome.unwrap_or_else(|| Err(self.engine.shut_error())).map(|()| self.position)
    }

    /// As [`wait`](Commit::wait), for at most `timeout`; `None` if the time was over first.
    ///
    /// # Errors
    /// As [`wait`](Commit::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Position, AppendError>> {
        Some(self.engine.wait(&self.target, Some(timeout))?.map(|()| self.position))
    }

    fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        if let Some(outcome) = self.engine.outcome(&self.target) {
            return Poll::Ready(outcome);
        }
        if !self.engine.is_threaded() {
            let outcome = self.engine.wait(&self.target, None);
            return outcome.map_or(Poll::Pending, Poll::Ready);
        }
        self.registration = Some(self.engine.register(&self.target, context.waker(), self.registration));
        self.engine.outcome(&self.target).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Future for Commit {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let position = self.position;
        self.poll_outcome(context).map(|outcome| outcome.map(|()| position))
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Some(registration) = self.registration.take() {
            self.engine.forget(registration);
        }
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").field("position", &self.position).finish_non_exhaustive()
    }
}

/// Waits until all that was accepted before is durable. By [`Log::sync`](crate::Log::sync).
#[must_use = "nobody learns whether everything is durable"]
pub struct Sync {
    waits: Vec<Commit>,
    failed: Option<AppendError>,
}

impl Sync {
    pub(crate) fn begin(engines: &[Arc<Engine>]) -> Sync {
        let mut waits = Vec::new();
        if !is_owner() {
            return Sync { waits, failed: Some(AppendError::Forked) };
        }
        for engine in engines {
            if let Some(target) = engine.last_target(Durability::Synced) {
                engine.ask_sync(&target);
                let position = Position::new(engine.id, 0, target.lsn, target.lsn);
                waits.push(Commit { engine: engine.clone(), position, target, registration: None });
            }
        }
        Sync { waits, failed: None }
    }

    /// Blocks this thread until everything is durable.
    ///
    /// # Errors
    /// The first failure of a shard.
    pub fn wait(self) -> Result<(), AppendError> {
        self.failed.map_or(Ok(()), Err)?;
        for commit in self.waits {
            commit.wait()?;
        }
        Ok(())
    }
}

impl Future for Sync {
    type Output = Result<(), AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        while let Some(commit) = self.waits.last_mut() {
            match commit.poll_outcome(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => drop(self.waits.pop()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sync").field("shards", &self.waits.len()).finish_non_exhaustive()
    }
}
