//! What an append is told.

use std::sync::Arc;
use std::time::Duration;

use super::{Cause, Failure, ReadError, SharedIo, Unavailable, advice};
use crate::position::{Position, ShardId};
use crate::sys::lacks_space;

/// Why a record was refused, or why its fate is unknown.
///
/// | the error is from | the record |
/// |---|---|
/// | [`try_append`](crate::Log::try_append) and its like, [`post`](crate::Log::post), [`admitted`](crate::Append::admitted) | was not accepted, whatever the error |
/// | [`Append`](crate::Append) (`wait`, `.await`): [`ShardFailed`](AppendError::ShardFailed), [`OwnThread`](AppendError::OwnThread), [`Forked`](AppendError::Forked) | *unknown*: it may have been accepted before, and may be kept |
/// | [`Append`](crate::Append): any other | was not accepted |
/// | [`Commit`](crate::Commit), [`sync`](crate::Log::sync): any | *unknown*: it was accepted, and may be kept |
///
/// What is unknown is found out by reading after the next open, or with a retry by [`Write::id`](crate::Write::id), which
/// appends nothing twice.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The shard has no room for a record of this priority now, or is too slow for all that is offered. Nothing was
    /// accepted.
    #[error("shard {shard} is overloaded ({cause}); try again in {retry_after:?}")]
    Overloaded {
        /// The shard.
        shard: ShardId,
        /// When to try again: how long it will take until there is room, from the rate at which the shard drains, times
        /// something from 0.5 to 1.5, so that those who were refused together do not come back together.
        retry_after: Duration,
        /// Why. Where several causes hold it is one of them.
        cause: Cause,
    },
    /// The record, key or batch is larger than this log can take. Nothing was accepted.
    #[error("{bytes} bytes are more than `{limit}` allows, which is {limit_bytes}")]
    TooLarge {
        /// Bytes of key and payload, or of the whole batch.
        bytes: u64,
        /// What sets the limit.
        limit: &'static str,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The record that was named is not the last one of its key ([`Write::if_last`](crate::Write::if_last)). Nothing was
    /// accepted. Read what came between, and decide anew.
    #[error("the last record of the key in shard {shard} is {}", last_of_key(*last))]
    Conflict {
        /// The key's shard.
        shard: ShardId,
        /// The last record of the key that was accepted, durable or not; `None` if it has none.
        last: Option<Position>,
    },
    /// A condition or an id without a key, or with one that routes to another shard than the record was appended to: there
    /// is no stream that it could be about. Nothing was accepted.
    #[error("a condition or an id needs a key, and the shard of that key")]
    KeyRequired,
    /// The keys of a batch's records route to several shards, and a batch lies in one. Nothing was accepted. Make a batch
    /// for each shard ([`Log::route`](crate::Log::route)), or give what belongs together one key.
    #[error("the keys of the batch go to different shards; nothing was accepted")]
    MixedShards,
    /// A condition or an id for a batch of records with different keys: it is about the stream of one. Nothing was accepted.
    #[error(
        "a condition or an id is about one key, and the records of the batch have several; nothing was accepted"
    )]
    MixedKeys,
    /// An id where [`Options::dedup_ids`](crate::Options::dedup_ids) is 0. Nothing was accepted.
    #[error("ids are not kept (`Options::dedup_ids` is 0)")]
    IdsNotKept,
    /// What the append depends on cannot be read: whether the condition holds, or the id was there before. Nothing was
    /// accepted.
    #[error("shard {shard} cannot be read, on which the append depends; nothing was accepted")]
    Unreadable {
        /// The key's shard.
        shard: ShardId,
        /// Why.
        source: Box<ReadError>,
    },
    /// A batch of no records. Nothing was accepted.
    #[error("a batch of no records")]
    EmptyBatch,
    /// The disk has no room for another segment. Nothing was accepted; what was accepted before is safe. Appends resume
    /// once there is space, for instance after `truncate_before`.
    #[error("shard {shard} cannot grow, nothing was accepted; make space, or truncate the log")]
    NoSpace {
        /// The shard.
        shard: ShardId,
        /// What the system said.
        source: SharedIo,
    },
    /// Another segment could not be made, for a reason other than lack of space: too many open files, or a device that
    /// fails. Nothing was accepted; what was accepted before is safe. Appends resume when a later try succeeds.
    #[error(
        "shard {shard} cannot make its next segment, nothing was accepted; the next append tries again{}",
        advice(source)
    )]
    NoSegment {
        /// The shard.
        shard: ShardId,
        /// What the system said.
        source: SharedIo,
    },
    /// The shard stopped after a failed write or sync. From a handle, whether this record is kept is *unknown*: reopen
    /// the log and read. From `try_append` and the like, `post` and `admitted` it was not accepted.
    #[error(transparent)]
    ShardFailed(Arc<Failure>),
    /// The log has been closed. If this comes from an append, nothing was accepted.
    #[error("{}", Unavailable::Closed)]
    Closed,
    /// The calling thread runs the log's own work (a shard, by `Options::drive`, or a waker that the log's own thread
    /// calls) and would wait for itself. Only the wait is refused: a record that was accepted (there was room for it when the append was
    /// made, or it has a [`Commit`](crate::Commit)) will be written all the same; one that was waiting in line is
    /// withdrawn. From [`Admitted`](crate::append::Admitted), which only waits for room, nothing was accepted.
    #[error("{}", Unavailable::OwnThread)]
    OwnThread,
    /// The shard does not exist.
    #[error("{}", Unavailable::NoSuchShard(*.0))]
    NoSuchShard(ShardId),
    /// This process was forked from the one that opened the log, and must not write to it.
    #[error("{}", Unavailable::Forked)]
    Forked,
}

fn last_of_key(last: Option<Position>) -> String {
    last.map_or_else(|| "none".to_owned(), |position| format!("at {position}"))
}

impl AppendError {
    /// What it depends on cannot be read.
    pub(crate) fn unreadable(shard: ShardId, source: ReadError) -> AppendError {
        match source {
            ReadError::ShardFailed(failure) => AppendError::ShardFailed(failure),
            ReadError::Closed => AppendError::Closed,
            ReadError::OwnThread => AppendError::OwnThread,
            ReadError::Forked => AppendError::Forked,
            source => AppendError::Unreadable { shard, source: Box::new(source) },
        }
    }

    /// The next segment could not be made. The reason is the system's: only a lack of space is told as one.
    pub(crate) fn no_segment(shard: ShardId, source: SharedIo) -> AppendError {
        match lacks_space(&source) {
            true => AppendError::NoSpace { shard, source },
            false => AppendError::NoSegment { shard, source },
        }
    }
}
