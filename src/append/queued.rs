//! Appends that wait: in a shard's line for room, or for the end of a move.

use std::time::Duration;

use super::Job;
use crate::admission::{Call, Place};
use crate::shard::EngineRef;
use crate::time::Nanos;

/// A job that waits: in line for room, or until its slot is open again. Dropping it withdraws the append.
pub(super) struct Queued<'a> {
    pub engine: EngineRef,
    pub job: Job<'a>,
    pub line: Line,
    /// Its deadline.
    pub until: Nanos,
    /// It has said how it is called, where it waits now.
    pub is_registered: bool,
}

/// Where a job waits.
pub(super) enum Line {
    /// In its shard's line for room.
    Room(InLine),
    /// For the end of a move: nowhere in line.
    Move,
}

/// A place in a shard's line, until it is dropped.
pub(super) struct InLine {
    pub engine: EngineRef,
    pub place: Place,
}

impl Drop for InLine {
    /// Gives the place up, and offers what room there is to the next.
    fn drop(&mut self) {
        if self.engine.in_opening_process() {
            self.engine.admission.leave(&self.place);
            crate::sync::wake(self.engine.offer());
        }
    }
}

impl<'a> Queued<'a> {
    pub fn new(engine: EngineRef, job: Job<'a>, line: Line, until: Nanos) -> Queued<'a> {
        Queued { engine, job, line, until, is_registered: false }
    }

    /// Its slot is being moved: it waits for that, and nobody knows yet how it is called.
    pub fn wait_for_move(&mut self) {
        if !matches!(self.line, Line::Move) {
            (self.line, self.is_registered) = (Line::Move, false);
        }
    }

    pub fn is_late(&self) -> bool {
        self.until != Nanos::NEVER && self.engine.time() >= self.until
    }

    /// Whether it may try now.
    pub fn is_turn(&self) -> bool {
        match &self.line {
            Line::Room(InLine { engine, place }) => engine.is_turn(place),
            Line::Move => true,
        }
    }

    /// Leaves word of how it is called when it may try again.
    pub fn register(&mut self, call: Call) {
        self.is_registered = true;
        match (&self.line, call) {
            (Line::Room(InLine { engine, place }), call) => engine.wait_in_queue(place, call),
            (Line::Move, Call::Task(waker)) => self.engine.router.register(&waker),
            (Line::Move, Call::Thread(thread)) => self.engine.router.register_thread(thread),
        }
    }

    /// Whether it gets room by turning the shard, for want of a thread that does. Slots are moved by others in any case.
    pub fn must_turn(&self) -> bool {
        !self.engine.is_threaded() && matches!(self.line, Line::Room(_))
    }

    /// For how long this thread may sleep: until its deadline, or that of whoever calls.
    pub fn may_sleep(&self, left: Option<Duration>) -> Option<Duration> {
        let own = (self.until != Nanos::NEVER).then(|| Duration::from_nanos(self.until - self.engine.time()));
        own.into_iter().chain(left).min()
    }
}
