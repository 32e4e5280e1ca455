//! Operations in flight: they complete when somebody waits, in any order.

use std::io;

use super::SimMachine;
use super::world::{InFlight, hash, stopped};
use crate::device::{Completion, Operation, OperationKind, Queue, Wait};

/// Far above what any history of a life needs.
const WAITS_MAX: u64 = 20_000;

#[derive(Debug)]
pub(super) struct SimQueue {
    machine: SimMachine,
    life: u64,
    number: u64,
    done: Vec<Completion>,
}

impl SimQueue {
    pub(super) fn new(machine: SimMachine, life: u64, number: u64) -> SimQueue {
        SimQueue { machine, life, number, done: Vec::new() }
    }
}

impl Queue for SimQueue {
    fn push(&mut self, operation: Operation) {
        let mut guard = self.machine.world();
        let world = &mut *guard;
        if let Err(error) = world.step(self.life) {
            let id = operation.id;
            self.done.push(Completion { id, result: Err(error) });
            if world.life == self.life {
                // The machine stopped around the submission: the write may have gone out.
                let (queue, due) = (self.number, u64::MAX);
                let (hash, done, snapshot, failed_before) = (0, 0, None, 0);
                world.in_flight.push(InFlight { queue, due, operation, hash, done, snapshot, failed_before });
            }
            return;
        }
        world.check_alone();
        let due = world.due();
        if let OperationKind::Write { bytes, offset, .. } = &operation.kind {
            let space = world.file(operation.file.number()).bytes();
            assert!(offset + bytes.len() as u64 <= space, "a block is written where no space was taken");
            if let Some(block) = world.blocks.hit(operation.file.number(), *offset, bytes.len()) {
                world.waits = WAITS_MAX; // The history's log is to be dropped without ado.
                panic!("{block:?} is rewritten, and nobody gave it up");
            }
        }
        let (hash, snapshot) = match &operation.kind {
            OperationKind::Write { bytes, .. } => (hash(bytes), None),
            OperationKind::Sync => (0, Some(world.file(operation.file.number()).snapshot())),
        };
        let failed_before = world.failed_flushes_of(operation.file.number());
        world.in_flight.push(InFlight {
            queue: self.number,
            due,
            operation,
            hash,
            done: 0,
            snapshot,
            failed_before,
        });
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let mut guard = self.machine.world();
        let world = &mut *guard;
        world.waits += 1;
        assert!(world.waits != WAITS_MAX, "a shard turns for ever and gets nowhere");
        if world.waits > WAITS_MAX {
            return Err(io::Error::other("ended by the simulator, so that the history's log can be dropped"));
        }
        if world.stopped || world.life != self.life {
            let own =
                world.in_flight.iter().filter(|flight| flight.queue == self.number && flight.due != u64::MAX);
            let failed: Vec<_> = own.map(|flight| flight.operation.id).collect();
            for flight in world.in_flight.iter_mut().filter(|flight| flight.queue == self.number) {
                flight.due = u64::MAX;
            }
            self.done.extend(failed.into_iter().map(|id| Completion { id, result: Err(stopped()) }));
            return Err(stopped()); // Else an idle shard would never learn that the machine has stopped.
        }
        let own = |flight: &&InFlight| flight.queue == self.number;
        let next = world.in_flight.iter().filter(own).map(|flight| flight.due).min();
        let target = match wait {
            Wait::No => world.now,
            Wait::AtMost(limit) => {
                let limit = world.now + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
                next.map_or(limit, |next| next.min(limit))
            }
            Wait::Forever => next.unwrap_or(world.now),
        };
        let passed = target.saturating_sub(world.now);
        assert!(passed < 1 << 50, "a wait of {passed} ns: {wait:?}, next {next:?}");
        world.now += passed;
        world.wall = world.wall.saturating_add(passed);
        let mut due: Vec<InFlight> = Vec::new();
        let mut index = 0;
        while index < world.in_flight.len() {
            let flight = &world.in_flight[index];
            if flight.queue == self.number && flight.due <= world.now {
                due.push(world.in_flight.swap_remove(index));
            } else {
                index += 1;
            }
        }
        due.sort_by_key(|flight| flight.due);
        for mut flight in due {
            if world.stopped {
                self.done.push(Completion { id: flight.operation.id, result: Err(stopped()) });
                flight.due = u64::MAX;
                world.in_flight.push(flight);
                continue;
            }
            self.done.extend(world.complete(flight));
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Completion> {
        if self.done.is_empty() {
            return None;
        }
        let completion = self.done.remove(0);
        if completion.result.is_err() {
            self.machine.world().told(self.number, completion.id);
        }
        Some(completion)
    }
}

impl Drop for SimQueue {
    /// As every driver: what is under way when its queue is given up ends before anything else
    /// happens in its files. What a killed process leaves behind, [`super::SimMachine::restart`] settles.
    fn drop(&mut self) {
        loop {
            let mut guard = self.machine.world();
            let world = &mut *guard;
            if world.stopped || world.life != self.life {
                return;
            }
            // One that comes back short is among them again.
            let own = world.in_flight.iter().position(|flight| flight.queue == self.number);
            let Some(index) = own else { return };
            let flight = world.in_flight.swap_remove(index);
            let ended = world.complete(flight);
            drop(guard);
            drop(ended);
        }
    }
}
