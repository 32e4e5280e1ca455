//! Operations in flight: what a kind takes and gives back.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{File, Lock};
use crate::pool::{Pool, SealedBytes};

/// An operation and what it needs until it completes: the kind owns both meanwhile.
#[derive(Debug)]
pub(crate) struct Operation {
    pub id: u64,
    pub file: Arc<dyn File>,
    pub kind: OperationKind,
}

#[derive(Debug)]
pub(crate) enum OperationKind {
    /// Write a sealed block; `sync` makes its bytes, and nothing else, durable.
    Write { bytes: SealedBytes, offset: u64, sync: bool },
    /// Make durable what completed before this was submitted.
    Sync,
}

/// How an operation ended. A short write is an error here: drivers finish what the kernel splits.
#[derive(Debug)]
pub(crate) struct Completion {
    pub id: u64,
    pub result: io::Result<()>,
}

/// How long to wait for a completion or a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    AtMost(Duration),
    Forever,
}

/// A kind's face to one shard. It belongs to the thread that turns the shard.
pub(crate) trait Queue: Debug {
    /// Takes an operation; it is under way at the latest after the next [`enter`](Queue::enter).
    fn push(&mut self, operation: Operation);

    /// Submits what was pushed, and waits as told until something completed or a wake-up came.
    ///
    /// # Errors
    /// Where the kind itself is broken: the shard stops.
    fn enter(&mut self, wait: Wait) -> io::Result<()>;

    /// The next operation that completed.
    fn pop(&mut self) -> Option<Completion>;
}

/// Wakes the thread that waits in [`Queue::enter`].
pub(crate) trait Wake: Send + Sync + Debug {
    fn wake(&self);
}

/// What a queue is made with.
#[derive(Clone, Debug)]
pub(crate) struct QueueSetup {
    /// Operations in flight at once, at most.
    pub depth: u32,
    /// Where the blocks lie that will be written.
    pub pool: Arc<Pool>,
    /// The log's lock, which the queue keeps for as long as anything of it may land.
    pub lock: Arc<dyn Lock>,
    pub kind: QueueKind,
}

/// Which kind to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueKind {
    Uring,
    Syscall,
}
