//! The driver on somebody else's ring: that of a tokio-uring runtime, whose thread turns the shard.
//!
//! tokio-uring's own files know no `RWF_DSYNC`, so entries are made here and submitted as they are. What an
//! entry needs until it completes travels with it: the runtime keeps it, also where the future is dropped.
//! Submitted when the runtime's thread parks. Buffers are not registered, which costs 14 to 21 % more CPU an
//! operation, and neither is the log's lock (see [`Options::drive`](crate::Options::drive)).

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use io_uring06::{cqueue, opcode, squeue, types};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use super::uring::outcome;
use super::{Completion, Operation, OperationKind, Queue, Wait, Wake};
use crate::sync::lock;

/// What the kernel said, with what the operation is to be finished with.
struct Answered;

impl OneshotOutputTransform for Answered {
    type Output = (Operation, i32);
    type StoredData = Operation;

    fn transform_oneshot_output(self, operation: Operation, entry: cqueue::Entry) -> (Operation, i32) {
        (operation, entry.result())
    }
}

struct InFlight {
    answer: InFlightOneshot<Operation, Answered>,
    /// Bytes written before.
    done: usize,
}

/// A queue on the ring of the current tokio-uring runtime. Usable only inside such a runtime.
#[derive(Default)]
pub(crate) struct TokioUringQueue {
    flight: Vec<InFlight>,
    done: VecDeque<Completion>,
}

fn entry(operation: &Operation, done: usize) -> squeue::Entry {
    let file = types::Fd(operation.file.descriptor().expect("a real queue gets real files").as_raw_fd());
    match &operation.kind {
        OperationKind::Write { bytes, offset, sync } => {
            let rest = &bytes[done..];
            let length = u32::try_from(rest.len()).expect("a block is below 4 GiB");
            let flags = if *sync { libc::RWF_DSYNC } else { 0 };
            let write = opcode::Write::new(file, rest.as_ptr(), length);
            write.offset(offset + done as u64).rw_flags(flags).build()
        }
        OperationKind::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
    }
}

impl TokioUringQueue {
    fn submit(&mut self, operation: Operation, done: usize) {
        // The entry points into a sealed block, which neither moves nor changes, and names an open file: the
        // operation that owns both is handed over with it.
        let entry = entry(&operation, done);
        let answer = UnsubmittedOneshot::new(operation, Answered, entry).submit();
        self.flight.push(InFlight { answer, done });
    }

    /// Takes what has completed, and has the task woken for what has not.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) {
        let mut index = 0;
        while let Some(flight) = self.flight.get_mut(index) {
            let Poll::Ready((operation, result)) = Pin::new(&mut flight.answer).poll(context) else {
                index += 1;
                continue;
            };
            let mut done = flight.done;
            self.flight.swap_remove(index);
            match outcome(&operation.kind, &mut done, result) {
                // Looked at further on, since it is now the last one.
                None => self.submit(operation, done),
                Some(result) => self.done.push_back(Completion { id: operation.id, result }),
            }
        }
    }

    pub(crate) fn has_completed(&self) -> bool {
        !self.done.is_empty()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_empty()
    }
}

impl Queue for TokioUringQueue {
    fn push(&mut self, operation: Operation) {
        self.submit(operation, 0);
    }

    /// Does nothing: the runtime submits, and waits.
    fn enter(&mut self, _: Wait) -> io::Result<()> {
        Ok(())
    }

    fn pop(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}

impl fmt::Debug for TokioUringQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioUringQueue").field("in_flight", &self.flight.len()).finish_non_exhaustive()
    }
}

/// Wakes the task that turns the shard.
#[derive(Debug, Default)]
pub(crate) struct TaskWake(Mutex<Option<Waker>>);

impl TaskWake {
    /// Called before the task looks for work.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut registered = lock(&self.0);
        if !registered.as_ref().is_some_and(|registered| registered.will_wake(waker)) {
            *registered = Some(waker.clone());
        }
    }
}

impl Wake for TaskWake {
    fn wake(&self) {
        // A task that was never polled looks for work at its first poll.
        let waker = lock(&self.0).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
