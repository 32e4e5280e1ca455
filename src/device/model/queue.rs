//! Operations in flight on a modelled drive: each completes when its moment has come.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Drive, SPIN};
use crate::device::syscall::FutexWake;
use crate::device::{Completion, Operation, OperationKind, Queue, Wait, Wake, transfer};
use crate::sys;
use crate::time::{Nanos, nanos};

pub(super) fn queue(drive: &Arc<Drive>) -> (Box<dyn Queue + Send>, Arc<dyn Wake>) {
    let (drive, wake) = (drive.clone(), Arc::<FutexWake>::default());
    let queue =
        ModelQueue { drive, wake: wake.clone(), flight: BTreeMap::new(), pushed: 0, done: VecDeque::new() };
    (Box::new(queue), wake)
}

#[derive(Debug)]
pub(super) struct ModelQueue {
    drive: Arc<Drive>,
    wake: Arc<FutexWake>,
    /// By when they are due, and in the order in which they came where that is the same moment. The drive has the
    /// operation, and with it the block's memory, until then.
    flight: BTreeMap<(Nanos, u64), (Operation, io::Result<()>)>,
    pushed: u64,
    done: VecDeque<Completion>,
}

impl ModelQueue {
    /// Takes what is due.
    fn reap(&mut self) {
        let now = self.drive.now();
        while let Some(entry) = self.flight.first_entry().filter(|entry| entry.key().0 <= now) {
            let (operation, result) = entry.remove();
            self.done.push_back(Completion { id: operation.id, result });
        }
    }
}

impl Queue for ModelQueue {
    fn push(&mut self, operation: Operation) {
        // The drive works from now on, and the bytes have all of that time to get there.
        let due = match &operation.kind {
            OperationKind::Write { bytes, sync, .. } => self.drive.write(bytes.len(), *sync),
            OperationKind::Sync => self.drive.flush(),
        };
        let result = put(&operation);
        self.flight.insert((due, self.pushed), (operation, result));
        self.pushed += 1;
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let limit = match wait {
            Wait::No => Nanos(0),
            Wait::AtMost(timeout) => self.drive.now() + nanos(timeout),
            Wait::Forever => Nanos::NEVER,
        };
        loop {
            self.reap();
            let now = self.drive.now();
            if !self.done.is_empty() || now >= limit {
                return Ok(());
            }
            let due = self.flight.first_key_value().map_or(Nanos::NEVER, |((due, _), _)| *due);
            let woken = match due {
                // Nobody minds if a time-out is late.
                Nanos::NEVER => self.wake.wait(time_until(now, limit)),
                due => match time_until(now, due).and_then(|left| left.checked_sub(SPIN)) {
                    Some(sleep) => self.wake.wait(Some(sleep.min(Duration::from_nanos(limit - now)))),
                    None => {
                        std::hint::spin_loop();
                        self.wake.take()
                    }
                },
            };
            if woken {
                return Ok(());
            }
        }
    }

    fn pop(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}

/// Puts the bytes where they belong, in no time of the drive's.
fn put(operation: &Operation) -> io::Result<()> {
    let OperationKind::Write { bytes, offset, .. } = &operation.kind else { return Ok(()) };
    let file = operation.file.descriptor().expect("a modelled drive has real files below it");
    transfer::write_all(bytes, |rest, done| sys::write_at(file, rest, offset + done, false))
}

/// `None` if it never comes.
fn time_until(now: Nanos, moment: Nanos) -> Option<Duration> {
    (moment != Nanos::NEVER).then(|| Duration::from_nanos(moment - now))
}
