//! What only the holder of the token touches.

use std::collections::VecDeque;
use std::sync::Arc;

use super::turn::drain::Drain;
use super::turn::overload::Overload;
use super::turn::unresolved::Unresolved;
use super::wait::waiters::Wakes;
use crate::committer::{Committer, OperationId};
use crate::format::Identity;
use crate::pool::{SealedBytes, Sequence};
use crate::segment::Segment;
use crate::time::Nanos;

/// A block that is sealed and not yet submitted.
#[derive(Debug)]
pub(super) struct SealedBlock {
    pub sequence: Sequence,
    pub bytes: SealedBytes,
    pub segment: Arc<Segment>,
    pub offset: u64,
}

/// An operation in flight, for the message if it fails.
#[derive(Debug)]
pub(super) struct Submitted {
    pub operation: OperationId,
    pub name: &'static str,
    pub segment: Arc<Segment>,
    /// The device is told to flush what it has taken.
    pub flushes: bool,
    /// When it was made.
    pub since: Nanos,
}

/// What only the holder of the token touches.
#[derive(Debug)]
pub(crate) struct Core {
    pub(super) committer: Committer,
    pub(super) identity: Identity,
    /// Sequence of the next block to seal.
    pub(super) next_to_seal: Sequence,
    pub(super) sealed: VecDeque<SealedBlock>,
    pub(super) submitted: Vec<Submitted>,
    /// The segments that blocks in flight are in: a handful.
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) unresolved: Unresolved,
    /// Time of the last record.
    pub(super) timestamp: u64,
    pub(super) drain: Drain,
    pub(super) overload: Overload,
    /// Blocks that callers write themselves now, or were asked to.
    pub(super) leads: u32,
    /// Of them, operations that are in flight.
    pub(super) performing: u32,
    /// A caller that led has panicked: nobody may wait for what it had begun.
    pub(super) abandoned: bool,
    /// Records in the last block sealed.
    pub(super) last_records: u32,
    /// Blocks were given back, and those who wait for room have not been told.
    pub(super) room_made: bool,
    /// Whom to wake once the token is given up.
    pub(super) wakes: Wakes,
    /// The same of those who follow the durable LSN.
    pub(super) followers: Wakes,
}

impl Core {
    /// Blocks are numbered from the one behind `before`.
    pub(super) fn new(
        committer: Committer,
        identity: Identity,
        timestamp: u64,
        blocks: u32,
        before: Sequence,
        overload: Overload,
    ) -> Core {
        Core {
            identity,
            next_to_seal: before.next(),
            sealed: VecDeque::with_capacity(blocks as usize),
            submitted: Vec::with_capacity(64),
            segments: VecDeque::with_capacity(4),
            unresolved: Unresolved::new(blocks, before),
            leads: 0,
            performing: 0,
            abandoned: false,
            room_made: false,
            last_records: 0,
            timestamp,
            drain: Drain::from(committer.watermarks().durable),
            overload,
            committer,
            wakes: Wakes::default(),
            followers: Wakes::default(),
        }
    }

    pub(super) fn take_wakes(&mut self) -> [Wakes; 2] {
        [std::mem::take(&mut self.wakes), std::mem::take(&mut self.followers)]
    }

    /// Whether there is room that was not offered yet. Room is offered once, when it is made, and then when a look is
    /// due: somebody whose record needs more than there is comes back at once, and would be called again in each turn.
    pub(super) fn take_room_made(&mut self) -> bool {
        std::mem::take(&mut self.room_made)
    }

    /// Whether the next block to seal is this one.
    pub(super) fn next_is(&self, sequence: Sequence) -> bool {
        self.next_to_seal == sequence && self.sealed.is_empty()
    }

    /// Everything that was appended is durable.
    pub(super) fn is_done(&self, pool: &crate::pool::Pool) -> bool {
        self.next_to_seal > pool.last().sequence && self.sealed.is_empty() && self.committer.is_covered()
    }

    /// Begins a new epoch; everything of the old one is settled, up to block `before`.
    pub(crate) fn begin_epoch(&mut self, committer: Committer, identity: Identity, before: Sequence) {
        assert!(self.sealed.is_empty() && self.submitted.is_empty());
        self.next_to_seal = before.next();
        self.unresolved.begin_epoch(before);
        self.drain.begin_epoch(committer.watermarks().durable);
        self.overload.begin_epoch(committer.watermarks().durable);
        self.committer = committer;
        self.identity = identity;
        self.segments.clear();
    }
}
