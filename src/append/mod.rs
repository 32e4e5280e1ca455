//! The handles of an append: room first, then durability. Each is a future that needs no runtime, and
//! has a blocking `wait`.

mod batch;
mod commit;
mod commit_batch;
mod job;
mod queued;
mod route;
mod terms;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::admission::Call;
use crate::error::AppendError;
use crate::position::Position;
use crate::shard::{AppendMode, Engine, EngineRef, Refused};
use crate::time::Nanos;
use crate::write::{Durability, Write};
pub use batch::{AdmittedBatch, AppendBatch};
pub use commit::{Commit, SyncHandle};
pub use commit_batch::CommitBatch;
use job::{Job, Payloads};
use queued::{InLine, Line, Queued};
use route::Whereto;
pub(crate) use route::{Route, look_up_all};

/// An append on its way. Only the parts know how to end, so that the fast path moves no more than a
/// [`Commit`].
enum State<'a> {
    Accepted(Commit),
    Queued(Queued<'a>),
    Failed(AppendError),
    /// It was told, and is told again to whoever asks again.
    Done(Position),
    /// Its commit was handed out.
    Gone,
}

/// Positions of a batch's records; `None` for a single record.
type Positions<'p> = Option<&'p mut Vec<Position>>;

impl<'a> State<'a> {
    /// Accepts the job in this call if there is room and nobody waits; else it takes a place.
    fn begin(engine: EngineRef, job: Job<'a>, positions: Positions<'_>) -> State<'a> {
        let until = engine.gives_up_at(&job.origin);
        State::begin_until(until, engine, job, positions)
    }

    /// The same, not after `until`.
    fn begin_until(
        until: Nanos,
        mut engine: EngineRef,
        mut job: Job<'a>,
        mut positions: Positions<'_>,
    ) -> State<'a> {
        if !engine.in_opening_process() {
            return State::Failed(AppendError::Forked);
        }
        loop {
            if engine.admission.is_shut() {
                return State::Failed(engine.shut_error().into());
            }
            if job.origin.deadline.is_some_and(|deadline| engine.is_slower_than(deadline)) {
                return State::Failed(job.too_late(&engine));
            }
            if engine.admission.is_clear() {
                if let Some(positions) = positions.as_deref_mut() {
                    positions.clear();
                }
                match job.put(&engine, job.may_lead(), until, positions.as_deref_mut()) {
                    Ok(placed) => return State::Accepted(route::commit(engine, &placed)),
                    Err(Refused::Error(error)) => {
                        engine.count_refusal(&error);
                        return State::Failed(error);
                    }
                    Err(Refused::NoRoom) => {}
                    Err(Refused::TooLate) => return State::Failed(job.too_late(&engine)),
                    Err(Refused::Moved) => match job.look_up_again(&engine) {
                        Whereto::Here => continue,
                        Whereto::There(other) => {
                            engine = other;
                            continue;
                        }
                        Whereto::Moving => {
                            return State::Queued(Queued::new(engine, job, Line::Move, until));
                        }
                        Whereto::Nowhere(error) => return State::Failed(error),
                    },
                }
            }
            let place = engine.enter_queue(job.priority, until);
            let line = Line::Room(InLine { engine: engine.clone(), place });
            return State::Queued(Queued::new(engine, job, line, until));
        }
    }

    /// One attempt to take room, in the call of whoever holds the handle. True once it is over.
    fn attempt(&mut self, mut positions: Positions<'_>) -> bool {
        let State::Queued(queued) = self else { return true };
        let engine = &queued.engine;
        if !engine.in_opening_process() {
            *self = State::Failed(AppendError::Forked);
            return true;
        }
        if engine.admission.is_shut() {
            *self = State::Failed(engine.shut_error().into());
            return true;
        }
        if queued.is_late() {
            *self = State::Failed(queued.job.too_late(engine));
            return true;
        }
        if !queued.is_turn() {
            if !engine.is_threaded() {
                // Nobody else lets time pass, after which those before this one are out of line.
                engine.turn_until(|| queued.is_turn() || queued.is_late());
            }
            return false;
        }
        if let Some(positions) = positions.as_deref_mut() {
            positions.clear();
        }
        match queued.job.put(engine, queued.job.without_lead(), queued.until, positions.as_deref_mut()) {
            Err(Refused::NoRoom) if matches!(queued.line, Line::Move) => self.begin_anew(positions),
            Err(Refused::NoRoom) => {
                if !engine.is_threaded() {
                    make_room(engine, || queued.is_late());
                }
                false
            }
            Err(Refused::TooLate) => {
                *self = State::Failed(queued.job.too_late(engine));
                true
            }
            Ok(placed) => {
                let engine = engine.clone();
                *self = State::Accepted(route::commit(engine, &placed));
                true
            }
            Err(Refused::Error(error)) => {
                engine.count_refusal(&error);
                *self = State::Failed(error);
                true
            }
            Err(Refused::Moved) => match queued.job.look_up_again(engine) {
                Whereto::Moving => {
                    queued.wait_for_move();
                    false
                }
                Whereto::Here => self.begin_anew(positions),
                Whereto::There(other) => {
                    queued.engine = other;
                    self.begin_anew(positions)
                }
                Whereto::Nowhere(error) => {
                    *self = State::Failed(error);
                    true
                }
            },
        }
    }

    /// Its slot was moved: it is new where it goes now, and keeps its deadline. True once it is over.
    fn begin_anew(&mut self, positions: Positions<'_>) -> bool {
        let State::Queued(queued) = std::mem::replace(self, State::Gone) else { unreachable!("it waits") };
        let Queued { engine, job, line, until, .. } = queued;
        drop(line);
        *self = State::begin_until(until, engine, job, positions);
        !matches!(self, State::Queued(_))
    }

    fn poll_admitted(&mut self, context: &mut Context<'_>, mut positions: Positions<'_>) -> Poll<()> {
        // Twice: what becomes free after the call is left is offered through it. And once more where it waits elsewhere by
        // then, since nobody knows of it there.
        loop {
            let mut was_registered = false;
            for _ in 0..2 {
                if self.attempt(positions.as_deref_mut()) {
                    return Poll::Ready(());
                }
                let State::Queued(queued) = self else { unreachable!("it is not over") };
                was_registered = queued.is_registered;
                queued.register(Call::Task(context.waker().clone()));
            }
            if was_registered {
                break;
            }
        }
        let turns = matches!(self, State::Queued(queued) if queued.must_turn());
        // Without threads nobody else turns the shard: go on until it has room.
        if turns && self.wait_admitted(None, positions) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Blocks until it is over; false if the time was over first.
    fn wait_admitted(&mut self, deadline: Option<Instant>, mut positions: Positions<'_>) -> bool {
        while !self.attempt(positions.as_deref_mut()) {
            let State::Queued(queued) = self else { unreachable!("it is not over") };
            if queued.must_turn() {
                continue;
            }
            if queued.engine.would_wait_for_itself() {
                *self = State::Failed(AppendError::OwnThread);
                return true;
            }
            queued.register(Call::Thread(std::thread::current()));
            if self.attempt(positions.as_deref_mut()) {
                return true;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            let State::Queued(queued) = self else { unreachable!("it is not over") };
            if !queued.is_registered {
                continue; // It waits elsewhere by now, where nobody knows of it.
            }
            match queued.may_sleep(left) {
                Some(left) => std::thread::park_timeout(left),
                None => std::thread::park(),
            }
        }
        true
    }

    /// Blocks until the outcome is known; `None` if the time was over first.
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        positions: Positions<'_>,
    ) -> Option<Result<Position, AppendError>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if !self.wait_admitted(deadline, positions) {
            return None;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if let State::Accepted(commit) = self {
            let outcome = commit.lead_and_wait(left)?;
            *self = State::told(outcome);
        }
        Some(self.outcome())
    }

    #[inline]
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        positions: Positions<'_>,
    ) -> Poll<Result<Position, AppendError>> {
        // What was accepted, as nearly everything is, goes to its commit at once.
        if !matches!(self, State::Accepted(_)) && self.poll_admitted(context, positions).is_pending() {
            return Poll::Pending;
        }
        if let State::Accepted(commit) = self {
            commit.announce();
            let outcome = std::task::ready!(Pin::new(commit).poll(context));
            *self = State::told(outcome);
        }
        Poll::Ready(self.outcome())
    }

    fn told(outcome: Result<Position, AppendError>) -> State<'a> {
        outcome.map_or_else(State::Failed, State::Done)
    }

    fn outcome(&self) -> Result<Position, AppendError> {
        match self {
            State::Done(position) => Ok(*position),
            State::Failed(error) => Err(error.clone()),
            State::Accepted(_) | State::Queued(_) | State::Gone => unreachable!("its outcome is known"),
        }
    }

    #[cold]
    fn wait_for_commit(mut self) -> Result<Commit, AppendError> {
        self.wait_admitted(None, None);
        self.into_commit()
    }

    fn into_commit(self) -> Result<Commit, AppendError> {
        match self {
            State::Accepted(commit) => Ok(commit.announced()),
            State::Failed(error) => Err(error),
            State::Queued(_) | State::Done(_) | State::Gone => unreachable!("it was admitted just now"),
        }
    }
}

/// Where nobody else turns the shard: makes the next segment, or writes blocks out.
fn make_room(engine: &Engine, is_late: impl Fn() -> bool) {
    if engine.wants_segment() {
        engine.make_segment();
    } else {
        let before = engine.blocks_in_use();
        if let Some(target) = engine.last_target(Durability::Written) {
            engine.ask_sync(&target);
        }
        let done = || engine.blocks_in_use() < before || engine.failure().is_some();
        engine.turn_until(|| done() || is_late());
    }
}

/// An append: first it gets room, then it becomes durable. Made by [`Log::append`](crate::Log::append).
///
/// If there was room and nobody waited for it, the record was accepted in the call that made this
/// handle, whether the handle is polled or not. Otherwise the handle waits in line: it takes room when it is
/// polled or in [`wait`](Append::wait).
///
/// # Cancellation
/// Dropped while it stands in line, it is withdrawn. Dropped after the record was accepted, the record is kept. Which of the
/// two it was cannot be told afterwards. Whoever must know uses [`Log::try_append`](crate::Log::try_append), or awaits
/// [`admitted`](Append::admitted) first; [`Write::deadline`] bounds the wait for room without dropping anything; and with
/// [`Write::id`] a retry appends nothing twice.
#[must_use = "an append that is dropped may be withdrawn, and nobody learns how it ended"]
pub struct Append<'a>(State<'a>);

impl<'a> Append<'a> {
    // Always: what is built here and taken apart by `admitted().wait()` then stays in registers. As a call its fields,
    // just written one by one, are read back 16 bytes at a time, which a store buffer does not forward.
    #[inline(always)]
    pub(crate) fn begin(
        engine: EngineRef,
        route: Route,
        write: Write<'a>,
        durability: Durability,
    ) -> Append<'a> {
        let durability = write.durability.unwrap_or(durability);
        // Nothing is set up for a record that need not wait.
        let mode = AppendMode::may_lead(write.priority, durability).at(route.turn());
        if write.is_plain() {
            if let Some(placed) = engine.accept(&write.key, &write.payload, mode) {
                return Append(State::Accepted(Commit::new(engine, &placed)));
            }
        }
        Append::begin_slowly(engine, route, write, durability)
    }

    /// It may have to wait, or be told why it is refused.
    #[cold]
    fn begin_slowly(engine: EngineRef, route: Route, write: Write<'a>, durability: Durability) -> Append<'a> {
        let (key, payloads) = (write.key, Payloads::One(write.payload));
        let job = Job {
            key,
            payloads,
            priority: write.priority,
            durability,
            terms: write.terms,
            origin: write.origin,
            route,
        };
        Append(State::begin(engine, job, None))
    }

    pub(crate) fn failed(error: AppendError) -> Append<'a> {
        Append(State::Failed(error))
    }

    /// Blocks this thread until the record has the durability it was appended with.
    ///
    /// If the shard is idle, this thread writes the block itself.
    ///
    /// # Errors
    /// See [`AppendError`], which says after which errors it is unknown whether the record is kept.
    pub fn wait(mut self) -> Result<Position, AppendError> {
        self.0.wait(None, None).expect("there is no time limit")
    }

    /// As [`wait`](Append::wait), for at most `timeout`; `None` if the time ran out.
    ///
    /// `None` does not tell whether the record was accepted, unless it has a [`deadline`](Write::deadline) that is over. If
    /// it was, it is on its way and will be kept, also if this handle is dropped; if it still stood in line, it is withdrawn
    /// when the handle is dropped. So do not append it once more after `None`: it might be there twice. Go on waiting with this handle. Whoever must know waits for room
    /// first ([`admitted`](Append::admitted)), and then for the [`Commit`].
    ///
    /// # Errors
    /// As [`wait`](Append::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<Position, AppendError>> {
        self.0.wait(Some(timeout), None)
    }

    /// Waits for room only, and gives a [`Commit`] to wait on later: the way to keep many appends in flight.
    #[inline]
    pub fn admitted(self) -> Admitted<'a> {
        Admitted(self)
    }
}

impl Future for Append<'_> {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context, None)
    }
}

impl fmt::Debug for Append<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Append").finish_non_exhaustive()
    }
}

/// An append that waits for room and gives its [`Commit`]. Made by [`Append::admitted`].
///
/// As a future it gives the commit once. Polling it again after that panics.
///
/// # Cancellation
/// As of [`Append`](Append#cancellation): until it has given the commit it cannot be told whether the record was accepted.
#[must_use = "a record that is not accepted is not appended"]
pub struct Admitted<'a>(Append<'a>);

impl Admitted<'_> {
    /// Blocks this thread until the record is accepted.
    ///
    /// # Errors
    /// See [`AppendError`]; whatever the error, the record was not accepted.
    #[inline(always)]
    pub fn wait(self) -> Result<Commit, AppendError> {
        match self.0.0 {
            State::Accepted(commit) => Ok(commit.announced()),
            other => other.wait_for_commit(),
        }
    }
}

impl Future for Admitted<'_> {
    type Output = Result<Commit, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!matches!(self.0.0, State::Gone), "the handle was polled after it was ready");
        if self.0.0.poll_admitted(context, None).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(std::mem::replace(&mut self.0.0, State::Gone).into_commit())
    }
}

impl fmt::Debug for Admitted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").finish_non_exhaustive()
    }
}
