//! What can go wrong with consumers.

use super::{ReadError, SharedIo, Unavailable};
use crate::position::{LogId, Lsn, Position, ShardId};

/// Why a consumer could not be opened, or its progress could not be recorded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The name is not valid: it must be 1 to 64 letters, digits, `.`, `-` and `_`.
    #[error("`{0}` is no name for a consumer: 1 to 64 letters, digits, `.`, `-` and `_` are")]
    Name(String),
    /// A consumer of this name is already open.
    #[error("the consumer `{0}` is in use; drop it there first")]
    InUse(String),
    /// There is no consumer of this name.
    #[error("there is no consumer `{0}`")]
    Unknown(String),
    /// The log's folder could not be read for its consumers.
    #[error("the consumers cannot be listed")]
    List(#[source] SharedIo),
    /// The position is not one of a durable record of this log. Nothing was committed.
    #[error("{0} is not the position of a durable record")]
    NotAPosition(Position),
    /// Both copies of its progress are damaged. Remove the files `consumer-NAME.*` to start over.
    #[error("the progress of consumer `{name}` is damaged in both copies; remove its files to begin anew")]
    Damaged {
        /// Its name.
        name: String,
    },
    /// Its progress was written by a newer version of sawmill.
    #[error("the progress of consumer `{name}` was written by a newer version of sawmill")]
    TooNew {
        /// Its name.
        name: String,
    },
    /// What it has committed lies above the end of the shard's log: the shard was restored from an older backup, and the
    /// consumer's progress was not. It would skip what is appended next. Say where to resume with
    /// [`Log::consumer_from`](crate::Log::consumer_from).
    #[error(
        "consumer `{name}` has committed {position} of shard {shard}, whose log ends at LSN {end}: the shard was \
             restored from an older backup; say by `consumer_from` where to go on"
    )]
    AboveEnd {
        /// Its name.
        name: String,
        /// The shard.
        shard: ShardId,
        /// What it has committed there.
        position: Position,
        /// Where the shard's log ends.
        end: Lsn,
    },
    /// What it has committed belongs to a history that this shard no longer has: the shard was restored from an older
    /// backup and has been appended to since. Which of its records the consumer knows cannot be told. Say where to resume
    /// with [`Log::consumer_from`](crate::Log::consumer_from).
    #[error(
        "consumer `{name}` has committed {position} of shard {shard} as it was before it was restored from an \
             older backup; its log ends at LSN {end} now; say by `consumer_from` where to go on"
    )]
    OtherHistory {
        /// Its name.
        name: String,
        /// The shard.
        shard: ShardId,
        /// What it has committed there.
        position: Position,
        /// Where the shard's log ends.
        end: Lsn,
    },
    /// Its progress belongs to a consumer of another log. Say where to resume with
    /// [`Log::consumer_from`](crate::Log::consumer_from).
    #[error(
        "the progress of consumer `{name}` is of the log {log}, and this is {own}; say by `consumer_from` where to go \
             on"
    )]
    OtherLog {
        /// Its name.
        name: String,
        /// The log that its positions belong to.
        log: LogId,
        /// This log.
        own: LogId,
    },
    /// The log could not be read.
    #[error("the consumer cannot read the log")]
    Read(#[source] ReadError),
    /// Its progress could not be read or written.
    #[error("the progress of consumer `{name}` could not be read or written")]
    Io {
        /// Its name.
        name: String,
        /// What the system said.
        source: SharedIo,
    },
    /// This process was forked from the one that opened the log, and must not use it.
    #[error("{}", Unavailable::Forked)]
    Forked,
    /// The log has been closed.
    #[error("{}", Unavailable::Closed)]
    Closed,
}
