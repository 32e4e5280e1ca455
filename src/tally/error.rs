//! What can go wrong with tallies and their updates.

use std::time::Duration;

use crate::error::{AppendError, ReadError, SharedIo, Unavailable, has_two_causes};
use crate::position::{LogId, Lsn, ShardId};

has_two_causes!(UpdateError::Failed, TallyError::Failed);

/// Why an update was not counted, or is not known to be durable.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The key's total could not be told any more with it. It was not counted.
    #[error("the update would overflow its key's total; it was not counted")]
    Overflow,
    /// As much as may be is waiting to be flushed. It was not counted; wait, and try again.
    #[error("the tally is overloaded; try again in {retry_after:?}")]
    Overloaded {
        /// When there may be room.
        retry_after: Duration,
    },
    /// The tally has as many keys as it may have. It was not counted.
    #[error("the tally has its {keys_max} keys; raise `TallyOptions::keys`")]
    TooManyKeys {
        /// How many it may have.
        keys_max: usize,
    },
    /// Key and value are too large together. It was not counted.
    #[error("key and value have {bytes} bytes; a tally takes at most {bytes_max}")]
    TooLarge {
        /// How large they are.
        bytes: usize,
        /// How large they may be.
        bytes_max: usize,
    },
    /// The flush that carries it failed, or one before it. Whether it is kept shows at the next open. A flush that found no
    /// room in the log is tried again until there is some; only once the log is closed has it failed.
    #[error("the tally could not be flushed")]
    Failed(#[source] AppendError),
    /// The tally's own [`Fold`](crate::tally::Fold) panicked in a flush: nothing more is counted. Whether this is kept
    /// shows at the next open.
    #[error("the fold of the tally panicked")]
    FoldPanicked,
    /// The log has been closed. It was not counted.
    #[error("{}", Unavailable::Closed)]
    Closed,
    /// This process is a fork of the one that opened the log. It was not counted.
    #[error("{}", Unavailable::Forked)]
    Forked,
}

/// Why a tally could not be opened, flushed or read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TallyError {
    /// The name cannot be a file's: 1 to 64 letters, digits, `.`, `-` and `_` can.
    #[error("`{0}` is no name for a tally: 1 to 64 letters, digits, `.`, `-` and `_` are")]
    Name(String),
    /// It was made by another fold, or is open by another one.
    #[error("the tally `{name}` is not by the fold `{fold}`")]
    OtherFold {
        /// Its name.
        name: String,
        /// The fold that was asked for.
        fold: &'static str,
    },
    /// There is no tally of this name.
    #[error("there is no tally `{0}`")]
    NoSuchTally(String),
    /// An option that this log cannot meet.
    #[error("`{option}`: {reason}")]
    Options {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// What the log holds of it is not what it wrote: its totals cannot be told.
    #[error("the tally `{name}` is damaged: {what}")]
    Damaged {
        /// Its name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A flush that is needed is not there any more.
    #[error("the tally `{name}` needs shard {shard} from LSN {needed} on, which begins at {horizon}")]
    Truncated {
        /// Its name.
        name: String,
        /// Where its flushes are.
        shard: ShardId,
        /// Where they begin.
        needed: Lsn,
        /// Where the shard begins.
        horizon: Lsn,
    },
    /// Its totals were durable above the end of the shard's log: the shard was restored from an older backup, and the
    /// tally's files were not. Restore both, or begin anew by [`Log::remove_tally`](crate::Log::remove_tally).
    #[error(
        "the tally `{name}` needs shard {shard} up to LSN {needed}, whose log ends at {end}: the shard was restored \
             from an older backup; restore both, or remove the tally"
    )]
    AboveEnd {
        /// Its name.
        name: String,
        /// Where its flushes are.
        shard: ShardId,
        /// Up to where they are needed.
        needed: Lsn,
        /// Where the shard's log ends.
        end: Lsn,
    },
    /// Its totals were durable in this shard as it went on once, and not as it is: the shard was restored from an older
    /// backup and has gone on since. Restore both, or begin anew by [`Log::remove_tally`](crate::Log::remove_tally).
    #[error(
        "the tally `{name}` needs what shard {shard} had at LSN {needed} before it was restored from an older backup; \
             restore both, or remove the tally"
    )]
    OtherHistory {
        /// Its name.
        name: String,
        /// Where its flushes are.
        shard: ShardId,
        /// Up to where they are needed.
        needed: Lsn,
    },
    /// Its files are those of a tally of another log. [`Log::remove_tally`](crate::Log::remove_tally) takes them away.
    #[error(
        "the files of the tally `{name}` are of the log {log}, and this is {own}; remove the tally to begin anew"
    )]
    OtherLog {
        /// Its name.
        name: String,
        /// The log that they are of.
        log: LogId,
        /// This log.
        own: LogId,
    },
    /// It was written by a newer version of sawmill.
    #[error("the tally `{name}` was written by a newer version of sawmill")]
    TooNew {
        /// Its name.
        name: String,
    },
    /// The log could not be read.
    #[error("the tally cannot read the log")]
    Read(#[source] ReadError),
    /// A flush failed: nothing more is counted. Whether what it carried is kept shows at the next open.
    #[error("the tally could not be flushed")]
    Failed(#[source] AppendError),
    /// The tally's own [`Fold`](crate::tally::Fold) panicked in a flush: nothing more is counted.
    #[error("the fold of the tally panicked")]
    FoldPanicked,
    /// The file that says where it begins could not be read or written.
    #[error("the files of the tally `{name}` could not be read or written")]
    Io {
        /// Its name.
        name: String,
        /// What the system said.
        source: SharedIo,
    },
    /// The log has been closed.
    #[error("{}", Unavailable::Closed)]
    Closed,
    /// This process is a fork of the one that opened the log.
    #[error("{}", Unavailable::Forked)]
    Forked,
}
