//! What can go wrong with a move of slots.

use std::io;
use std::sync::Arc;

use super::{Failure, ReadError, SharedIo, Unavailable, advice};
use crate::position::ShardId;

/// Why slots were not moved ([`Log::move_slots`](crate::Log::move_slots)). They are where they were, but for
/// [`Io`](MoveError::Io).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// There is no such slot.
    #[error("there is no slot {slot}: the log has {slots}, from 0 on")]
    NoSuchSlot {
        /// What was asked for.
        slot: u32,
        /// So many there are.
        slots: u32,
    },
    /// The slot was moved so often that nothing more can be noted of it, until records of its former shards are truncated
    /// away.
    #[error(
        "slot {slot} was moved too often: it can be moved again once what shard {oldest} has of it is truncated away"
    )]
    HistoryFull {
        /// The slot.
        slot: u32,
        /// Which shard had it first, of those that have records of it.
        oldest: ShardId,
    },
    /// A shard that takes part has stopped, or stopped meanwhile.
    #[error(transparent)]
    ShardFailed(Arc<Failure>),
    /// The log has been closed.
    #[error("{}", Unavailable::Closed)]
    Closed,
    /// The calling thread runs a shard and would wait for itself.
    #[error("{}", Unavailable::OwnThread)]
    OwnThread,
    /// The shard does not exist.
    #[error("{}", Unavailable::NoSuchShard(*.0))]
    NoSuchShard(ShardId),
    /// This process was forked from the one that opened the log, and must not use it.
    #[error("{}", Unavailable::Forked)]
    Forked,
    /// The log's manifest could not be written. If that was begun, the shards that take part have stopped, since where the
    /// slots are shows at the next open; else nothing has changed.
    #[error("{operation} failed{}", advice(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: SharedIo,
    },
}

impl MoveError {
    pub(crate) fn io(operation: &'static str, error: io::Error) -> MoveError {
        MoveError::Io { operation, source: Arc::new(error) }
    }
}

impl MoveError {
    /// What was waited for is that records become durable.
    pub(crate) fn not_durable(error: ReadError) -> MoveError {
        match error {
            ReadError::ShardFailed(failure) => MoveError::ShardFailed(failure),
            ReadError::OwnThread => MoveError::OwnThread,
            ReadError::Forked => MoveError::Forked,
            ReadError::NoSuchShard(shard) => MoveError::NoSuchShard(shard),
            _ => MoveError::Closed,
        }
    }
}
