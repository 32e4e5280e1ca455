//! The blocks between sealing and completion, in the order of the stream.

use std::collections::VecDeque;

use super::{OperationId, Sealed};
use crate::pool::Sequence;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Writing {
        operation: OperationId,
        sync: bool,
    },
    /// `covered` if the write was synchronous.
    Completed {
        covered: bool,
    },
}

/// A block whose write completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub block: Sealed,
    pub covered: bool,
    /// The last of the void blocks behind it, or itself.
    pub through: Sequence,
}

#[derive(Clone, Copy, Debug)]
struct InFlightBlock {
    block: Sealed,
    state: State,
    through: Sequence,
}

/// Sealed blocks, oldest first, until each and all before it are written.
#[derive(Debug, Default)]
pub(super) struct Flight {
    blocks: VecDeque<InFlightBlock>,
    /// Of `blocks`, how many from the front have been handed to the device.
    started: usize,
    writes_in_flight: u32,
    bytes_in_flight: u64,
}

impl Flight {
    /// With room for so many writes in flight and as many that wait: callers that lead must not allocate.
    pub(super) fn new(depth: u32) -> Flight {
        Flight { blocks: VecDeque::with_capacity(2 * depth as usize + 2), ..Flight::default() }
    }

    pub(super) fn push(&mut self, block: Sealed) {
        if let Some(last) = self.blocks.back() {
            assert!(block.sequence > last.through, "blocks are sealed in order");
            assert!(block.end > last.block.end);
        }
        self.blocks.push_back(InFlightBlock { block, state: State::Waiting, through: block.sequence });
    }

    /// A void block was passed over: it is done with once the one before it is. False if none is here.
    pub(super) fn pass_over(&mut self, sequence: Sequence) -> bool {
        let last = self.blocks.back_mut();
        last.map(|last| last.through = sequence).is_some()
    }

    /// Starts the first write that waits; `sync` says whether it is synchronous.
    pub(super) fn start_write(
        &mut self,
        operation: OperationId,
        sync: impl FnOnce(&Sealed) -> bool,
    ) -> Option<(Sequence, bool)> {
        let InFlightBlock { block, state, .. } = self.blocks.get_mut(self.started)?;
        debug_assert_eq!(*state, State::Waiting);
        let sync = sync(block);
        *state = State::Writing { operation, sync };
        self.started += 1;
        self.writes_in_flight += 1;
        self.bytes_in_flight += u64::from(block.bytes);
        Some((block.sequence, sync))
    }

    /// Notes that a write came back, well or not; false if the operation is no write of ours.
    pub(super) fn write_completed(&mut self, operation: OperationId) -> bool {
        let found =
            self.blocks.iter_mut().take(self.started).find(
                |flying| matches!(flying.state, State::Writing { operation: own, .. } if own == operation),
            );
        let Some(InFlightBlock { block, state, .. }) = found else { return false };
        let State::Writing { sync, .. } = *state else { unreachable!("found as a write in flight") };
        *state = State::Completed { covered: sync };
        self.writes_in_flight -= 1;
        self.bytes_in_flight -= u64::from(block.bytes);
        true
    }

    /// Takes the first block out if its write completed.
    pub(super) fn pop_completed(&mut self) -> Option<Entry> {
        let InFlightBlock { block, state, through } = *self.blocks.front()?;
        let State::Completed { covered } = state else { return None };
        self.blocks.pop_front();
        self.started -= 1;
        Some(Entry { block, covered, through })
    }

    pub(super) fn writes_in_flight(&self) -> u32 {
        self.writes_in_flight
    }

    pub(super) fn bytes_in_flight(&self) -> u64 {
        self.bytes_in_flight
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}
