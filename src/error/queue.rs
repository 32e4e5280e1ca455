//! What can go wrong with queues.

use super::{ReadError, SharedIo, Unavailable};
use crate::position::{LogId, Lsn, Position, ShardId};

/// Why a queue could not be opened, or what it was told could not be kept.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The name cannot be a file's: 1 to 64 letters, digits, `.`, `-` and `_` can.
    #[error("`{0}` is no name for a queue: 1 to 64 letters, digits, `.`, `-` and `_` are")]
    Name(String),
    /// An option is out of its range.
    #[error("`QueueOptions::{option}`: {reason}")]
    Options {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no queue of this name.
    #[error("there is no queue `{0}`")]
    Unknown(String),
    /// The lease ran out, and somebody else has the record by now, or it is a dead letter. What was done with it may be
    /// done twice.
    #[error("the lease of {0} ran out, and somebody else has it by now, or it is a dead letter")]
    LeaseLost(Position),
    /// There is no dead letter at this position.
    #[error("{0} is not the position of a dead letter")]
    NotRejected(Position),
    /// Both copies of its state are damaged. [`Log::remove_queue`](crate::Log::remove_queue) begins anew, with the first record
    /// that is kept.
    #[error("the state of queue `{name}` is damaged in both copies; `remove_queue` begins anew")]
    Damaged {
        /// Its name.
        name: String,
    },
    /// Its state was written by a newer version of sawmill.
    #[error("the state of queue `{name}` was written by a newer version of sawmill")]
    TooNew {
        /// Its name.
        name: String,
    },
    /// What it has handed out lies above the end of the shard's log: the shard was restored from an older backup, and the
    /// queue's state was not. Opened like that it would pass over what is appended next.
    #[error(
        "queue `{name}` has handed out {position} of shard {shard}, whose log ends at LSN {end}: the shard was restored \
             from an older backup; `remove_queue` begins anew"
    )]
    AboveEnd {
        /// Its name.
        name: String,
        /// The shard.
        shard: ShardId,
        /// What it has handed out there.
        position: Position,
        /// Where the shard's log ends.
        end: Lsn,
    },
    /// What it has handed out was a record of this shard as it went on once, and not as it is: the shard was restored from
    /// an older backup and has gone on since.
    #[error(
        "queue `{name}` has handed out {position} of shard {shard} as it was before it was restored from an older \
             backup; its log ends at LSN {end} now; `remove_queue` begins anew"
    )]
    OtherHistory {
        /// Its name.
        name: String,
        /// The shard.
        shard: ShardId,
        /// What it has handed out there.
        position: Position,
        /// Where the shard's log ends.
        end: Lsn,
    },
    /// Its state is that of a queue of another log.
    #[error("the state of queue `{name}` is of the log {log}, and this is {own}; `remove_queue` begins anew")]
    OtherLog {
        /// Its name.
        name: String,
        /// The log that its positions are of.
        log: LogId,
        /// This log.
        own: LogId,
    },
    /// The log could not be read.
    #[error("the queue cannot read the log")]
    Read(#[source] ReadError),
    /// Its state could not be read or written. After a failed write it is not written any more, since a failed sync is
    /// final; a reopen goes on from what was durable.
    #[error("the state of queue `{name}` could not be read or written")]
    Io {
        /// Its name.
        name: String,
        /// What the system said.
        source: SharedIo,
    },
    /// This process is a fork of the one that opened the log, which is not ours to touch.
    #[error("{}", Unavailable::Forked)]
    Forked,
    /// The log has been closed, or the queue removed.
    #[error("the log is closed, or the queue was removed")]
    Closed,
}
