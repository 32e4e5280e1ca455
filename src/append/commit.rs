//! The handles of what was accepted: [`Commit`] of a record or batch, [`SyncHandle`] of everything so far.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Route, route, terms};
use crate::error::{AppendError, Cause};
use crate::position::Position;
use crate::shard::{AppendMode, Batch, EngineRef, Placed, Refused, Registration, Target, about_encoded};
use crate::write::{Durability, Keys, List, Origin, Priority, Write};

/// A record that was accepted, on its way to the durability it was appended with.
///
/// Dropping it changes nothing for the record. [`is_durable`](Commit::is_durable) and
/// [`try_result`](Commit::try_result) only compare a number and register no waker, so a caller that
/// holds many commits pays no wake-up per record.
#[must_use = "nobody learns how the append ended"]
pub struct Commit {
    engine: EngineRef,
    position: Position,
    target: Target,
    registration: Option<Registration>,
    /// Whoever holds this must lead the commit or announce it.
    must_lead: bool,
    is_duplicate: bool,
}

impl Commit {
    #[inline]
    pub(crate) fn new(engine: EngineRef, placed: &Placed) -> Commit {
        let Placed { position, target, must_lead, is_duplicate } = *placed;
        Commit { engine, position, target, registration: None, must_lead, is_duplicate }
    }

    /// What was accepted. Whoever asks for it sees to the duty that may come with it.
    pub(crate) fn placed(mut self) -> Placed {
        self.announce();
        let Commit { position, target, is_duplicate, .. } = self;
        Placed { position, target, must_lead: false, is_duplicate }
    }

    pub(crate) fn try_begin(
        engine: EngineRef,
        route: Route,
        write: &Write<'_>,
        durability: Durability,
    ) -> Result<Commit, AppendError> {
        let bytes = about_encoded((write.payload.len() + write.key.len()) as u64, 1);
        let durability = write.durability.unwrap_or(durability);
        let mode = AppendMode::without_lead(write.priority, durability).at(route.turn());
        let put = |engine: &EngineRef| match &write.terms {
            None => engine.put_payload(&write.key, &write.payload, mode),
            Some(terms) => {
                let payload = write.payload.whole();
                let one = [&*payload];
                let keys = Keys::One(&write.key);
                let batch = Batch { keys, id: terms.id, payloads: List::Slices(&one) };
                terms::put(engine, &batch, terms, mode, engine.gives_up_at(&write.origin), None)
            }
        };
        Commit::try_put(engine, bytes, write.priority, &write.origin, put)
    }

    /// What `put` accepts, if there is room now and nobody waits for it: a record, or a batch.
    #[inline]
    pub(super) fn try_put(
        engine: EngineRef,
        bytes: u64,
        priority: Priority,
        origin: &Origin,
        put: impl FnOnce(&EngineRef) -> Result<Placed, Refused>,
    ) -> Result<Commit, AppendError> {
        engine.check_process()?;
        let passed = engine.pass(priority, origin, bytes)?;
        match put(&engine) {
            Ok(placed) => {
                engine.gate.accepted(&passed, priority, bytes);
                Ok(route::commit(engine, &placed))
            }
            // What is being moved has no room for now.
            Err(Refused::Moved) => Err(engine.no_room(&passed, priority, origin, bytes)),
            Err(Refused::NoRoom) => {
                if !engine.is_threaded() && engine.wants_segment() {
                    engine.make_segment();
                }
                Err(engine.no_room(&passed, priority, origin, bytes))
            }
            Err(Refused::TooLate) => Err(engine.overloaded(Cause::Deadline, priority, origin, bytes)),
            Err(Refused::Error(error)) => {
                engine.count_refusal(&error);
                Err(error)
            }
        }
    }

    /// The position of the record; for a batch, of its first record.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether the record was there before, with the same [`id`](crate::Write::id): nothing was appended, and this has the
    /// outcome of the first one. What that one's record says is at [`position`](Commit::position), and may be something else
    /// than what was appended now.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.is_duplicate
    }

    /// Whether the record is durable by now, whatever durability it was appended with.
    #[inline]
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.engine.durable() > self.target.lsn
    }

    /// The outcome, if it is known by now.
    #[must_use]
    pub fn try_result(&self) -> Option<Result<Position, AppendError>> {
        Some(self.engine.outcome(&self.target)?.map(|()| self.position).map_err(AppendError::from))
    }

    /// Blocks this thread until the record has the durability it was appended with.
    ///
    /// # Errors
    /// See [`AppendError`]: here it is unknown after each of them whether the record is kept.
    pub fn wait(self) -> Result<Position, AppendError> {
        self.wait_for(None).unwrap_or_else(|| Err(self.engine.shut_error().into()))
    }

    /// As [`wait`](Commit::wait), for at most `timeout`; `None` if the time ran out: the record was accepted, and is
    /// still on its way.
    ///
    /// # Errors
    /// As [`wait`](Commit::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Position, AppendError>> {
        self.wait_for(Some(timeout))
    }

    fn wait_for(&self, timeout: Option<Duration>) -> Option<Result<Position, AppendError>> {
        Some(self.engine.wait(&self.target, timeout)?.map(|()| self.position).map_err(AppendError::from))
    }

    /// Blocks until the outcome is known, and writes the block itself if the shard is idle: but not where the
    /// caller's time is limited, which a device that hangs does not care for.
    pub(crate) fn lead_and_wait(
        &mut self,
        timeout: Option<Duration>,
    ) -> Option<Result<Position, AppendError>> {
        if !self.engine.in_opening_process() {
            return self.wait_for(timeout);
        }
        if std::mem::take(&mut self.must_lead) {
            match timeout {
                None => self.engine.lead(&self.target),
                Some(_) => self.engine.announce(),
            }
        }
        self.wait_for(timeout)
    }

    #[inline]
    pub(crate) fn announced(mut self) -> Commit {
        self.announce();
        self
    }

    /// Makes the shard's thread write what was accepted in this handle's name.
    #[inline]
    pub(crate) fn announce(&mut self) {
        // Written where it changes and nowhere else: a byte that was just written delays the move of the handle.
        if self.must_lead {
            self.must_lead = false;
            self.engine.announce();
        }
    }
}

impl Future for Commit {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(outcome) = this.try_result() {
            // Whoever published that takes the waker out, or has: it need not be taken back.
            this.registration = None;
            return Poll::Ready(outcome);
        }
        if !this.engine.in_opening_process() {
            return Poll::Ready(Err(AppendError::Forked));
        }
        if !this.engine.is_threaded() {
            return this.wait_for(None).map_or(Poll::Pending, Poll::Ready);
        }
        this.registration = Some(this.engine.register(&this.target, context.waker(), this.registration));
        // Once more: what came in between found no waker.
        this.try_result().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Commit {
    #[inline]
    fn drop(&mut self) {
        if (self.registration.is_some() || self.must_lead) && self.engine.in_opening_process() {
            self.announce();
            if let Some(registration) = self.registration.take() {
                self.engine.forget(registration);
            }
        }
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").field("position", &self.position).finish_non_exhaustive()
    }
}

/// Waits until everything that was accepted before is durable. Made by [`Log::sync`](crate::Log::sync).
#[must_use = "nobody learns whether everything is durable"]
pub struct SyncHandle {
    waits: Vec<Commit>,
    failed: Option<AppendError>,
}

impl SyncHandle {
    pub(crate) fn begin(engines: impl IntoIterator<Item = EngineRef>) -> SyncHandle {
        let mut waits = Vec::new();
        for engine in engines {
            if !engine.in_opening_process() {
                return SyncHandle { waits, failed: Some(AppendError::Forked) };
            }
            if let Some(target) = engine.last_target(Durability::Synced) {
                engine.ask_sync(&target);
                let position = Position::new(engine.id, 0, target.lsn, target.lsn);
                waits.push(Commit::new(
                    engine,
                    &Placed { position, target, must_lead: false, is_duplicate: false },
                ));
            }
        }
        SyncHandle { waits, failed: None }
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

impl Future for SyncHandle {
    type Output = Result<(), AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        while let Some(commit) = self.waits.last_mut() {
            match Pin::new(commit).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(_)) => drop(self.waits.pop()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for SyncHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncHandle").field("shards", &self.waits.len()).finish_non_exhaustive()
    }
}
