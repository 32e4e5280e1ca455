//! The driver without io_uring: each operation is a system call of the thread that turns the shard.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Completion, Operation, OperationKind, Queue, Wait, Wake};
use crate::sys;

pub(super) fn queue() -> (Box<dyn Queue + Send>, Arc<dyn Wake>) {
    let wake = Arc::<FutexWake>::default();
    (Box::new(SyscallQueue { wake: wake.clone(), done: VecDeque::new() }), wake)
}

/// Carries an operation out, here and now.
pub(crate) fn perform(operation: &Operation) -> io::Result<()> {
    match &operation.kind {
        OperationKind::Write { bytes, offset, sync } => operation.file.write_at(bytes, *offset, *sync),
        OperationKind::Sync => operation.file.sync(),
    }
}

#[derive(Debug)]
struct SyscallQueue {
    wake: Arc<FutexWake>,
    done: VecDeque<Completion>,
}

impl Queue for SyscallQueue {
    fn push(&mut self, operation: Operation) {
        let result = perform(&operation);
        self.done.push_back(Completion { id: operation.id, result });
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let timeout = match wait {
            Wait::No => return Ok(()),
            Wait::AtMost(timeout) => Some(timeout),
            Wait::Forever => None,
        };
        if self.done.is_empty() {
            self.wake.wait(timeout);
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}

/// A wake-up that is remembered until somebody waits for it.
#[derive(Debug, Default)]
pub(super) struct FutexWake(AtomicU32);

impl FutexWake {
    /// Whether one came, now or before.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> bool {
        if self.take() {
            return true;
        }
        sys::futex_wait(&self.0, 0, timeout);
        self.take()
    }

    /// Whether one has come.
    pub(super) fn take(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) != 0
    }
}

impl Wake for FutexWake {
    fn wake(&self) {
        if self.0.swap(1, Ordering::AcqRel) == 0 {
            sys::futex_wake(&self.0, 1);
        }
    }
}
