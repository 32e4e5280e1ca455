//! What can go wrong, one enum per kind of call.
//!
//! A message says what failed, where, what was not lost, and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::format::Defect;
use crate::position::{Lsn, Position, ShardId};
use crate::recovery::Damage;
use crate::segment::ManifestError;

/// An I/O error that many callers can hold.
pub(crate) type SharedIo = Arc<io::Error>;

/// Why a log could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory belongs to a log that is open, here or in another process.
    #[error("{} is open already, in {owner}; close it there first", path.display())]
    Locked {
        /// The log's directory.
        path: PathBuf,
        /// Who holds it.
        owner: String,
    },
    /// An option has a value that no log can have.
    #[error("option `{option}`: {reason}")]
    InvalidOption {
        /// The method of [`Options`](crate::Options).
        option: &'static str,
        /// What is wrong with the value.
        reason: String,
    },
    /// An option contradicts the log that is there. One that is not set never does.
    #[error(
        "option `{option}`: the log was made with {there}, which {asked} contradicts; leave the option out"
    )]
    Incompatible {
        /// The method of [`Options`](crate::Options).
        option: &'static str,
        /// What the log has.
        there: String,
        /// What was asked for.
        asked: String,
    },
    /// What was asked for explicitly is not to be had here.
    #[error("{what} is not to be had: {reason}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why it cannot be had.
        reason: String,
    },
    /// The directory holds something that is no log; nothing in it was touched.
    #[error("{} holds `{found}`, which is no part of a log; give an empty or a new directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The first name that does not belong there.
        found: String,
    },
    /// Where a shard of this log is, or would be made, lies something else: a shard of another log, or files of one whose
    /// own manifest is gone. Nothing in that folder was touched.
    #[error(
        "{} holds {found}, which is not of the log in {}; nothing there was changed: give this log other folders, put \
        back what is missing of the log that it belongs to, or move it away if nobody needs it",
        path.display(), log.display()
    )]
    NotOfThisLog {
        /// The folder.
        path: PathBuf,
        /// What was found there.
        found: String,
        /// The log's own directory.
        log: PathBuf,
    },
    /// There is no log, and none is to be made ([`Options::create`](crate::Options::create)). Nothing was changed.
    #[error("{} holds no log (is its file system mounted?), and none was to be made", path.display())]
    NoLog {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The log's own directory was moved, copied or restored while its shards lie elsewhere. If this is the one that
    /// counts, say so ([`Options::relocated`](crate::Options::relocated)). Nothing was changed.
    #[error("{} belongs to the log in {}, and {} is a copy of it or was moved: if it is to go on in its place, \
             open it as relocated; nothing was changed", folder.display(), owner.display(), path.display())]
    Relocated {
        /// The directory that was opened.
        path: PathBuf,
        /// A shard's folder.
        folder: PathBuf,
        /// Where the log was when it was last opened.
        owner: PathBuf,
    },
    /// Something that was acknowledged is not there, or not as it was written. Nothing was changed.
    #[error("shard {shard} is damaged at LSN {lsn}: {cause}; nothing was changed")]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// Where the readable part ends.
        lsn: Lsn,
        /// What betrays the damage.
        cause: Damage,
    },
    /// A manifest cannot be read in either copy. Nothing was changed.
    #[error("the manifest in {} is damaged in both copies ({first}; {second}); nothing was changed", path.display())]
    ManifestDamaged {
        /// The folder of the manifest.
        path: PathBuf,
        /// Defect of the first copy.
        first: Defect,
        /// Defect of the second copy.
        second: Defect,
    },
    /// The log was written by a newer version of sawmill; nothing was touched.
    #[error("{} was written by a newer version of sawmill", path.display())]
    TooNew {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder could not be used.
    #[error("{operation} in {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: SharedIo,
    },
}

/// Why a record was refused, or its fate is not known.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The shard has no room for a record of this priority now. Nothing was accepted.
    #[error("shard {shard} has no room; try again in {retry_after:?}")]
    Overloaded {
        /// The shard.
        shard: ShardId,
        /// How long it will take until there is room, from the rate at which the shard drains.
        retry_after: Duration,
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
    /// A batch of no records. Nothing was accepted.
    #[error("a batch of no records")]
    EmptyBatch,
    /// The disk has no room for another segment. Nothing was accepted; what was is safe. It goes on
    /// when space is made, for instance by `truncate_before`.
    #[error("shard {shard} cannot grow: {source}; make space, or truncate the log")]
    NoSpace {
        /// The shard.
        shard: ShardId,
        /// What the system said.
        source: SharedIo,
    },
    /// The shard stopped after a failed write or sync. Whether this record is kept is *unknown*:
    /// reopen the log and read.
    #[error("{0}")]
    ShardFailed(Arc<Failure>),
    /// The log has been closed. If this comes from an append, nothing was accepted.
    #[error("the log is closed")]
    Closed,
    /// The caller's thread turns a shard (`Options::drive`) and would wait for itself. Only the wait is refused: a
    /// record that was accepted (there was room for it when the append was made, or it has a
    /// [`Commit`](crate::Commit)) is on its way all the same, one that stood in line is withdrawn. From
    /// [`Admitted`](crate::Admitted), which waits for room alone, nothing was accepted.
    #[error("this thread turns a shard and cannot block for one; await the handle instead")]
    OwnThread,
    /// The shard does not exist.
    #[error("shard {0} does not exist")]
    NoSuchShard(ShardId),
    /// This process is a fork of the one that opened the log, which is not ours to write.
    #[error("the log belongs to the process that this one was forked from")]
    Forked,
}

/// Why a shard stopped: told alike to everybody who waits.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} stopped: {operation} of {} failed ({source}); records below LSN {durable} are durable, \
         the outcome of later ones is unknown; reopen to recover", path.display())]
#[non_exhaustive]
pub struct Failure {
    /// The shard.
    pub shard: ShardId,
    /// What failed: `write`, `sync`, ...; `another shard's flush` where the device that this one shares with it has
    /// failed, and may have lost what it had taken from both.
    pub operation: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Records below it are durable.
    pub durable: Lsn,
    /// What the system said.
    pub source: io::Error,
}

/// Why something could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// What was written there is not there any more, or not as it was written.
    #[error("shard {shard} is damaged at LSN {lsn}: {cause}")]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// The damaged place.
        lsn: Lsn,
        /// What is wrong with it.
        cause: Defect,
    },
    /// It was truncated away: below the horizon, or cut off by `truncate_after` or a crash.
    #[error("LSN {lsn} of shard {shard} was truncated; the log begins at {horizon}")]
    Truncated {
        /// The shard.
        shard: ShardId,
        /// What was asked for.
        lsn: Lsn,
        /// Where the shard's log begins now.
        horizon: Lsn,
    },
    /// No record was ever acknowledged at this position.
    #[error("{0} is not the position of a record")]
    NotAPosition(Position),
    /// The shard does not exist.
    #[error("shard {0} does not exist")]
    NoSuchShard(ShardId),
    /// The shard stopped before the record was written.
    #[error("{0}")]
    ShardFailed(Arc<Failure>),
    /// The log was closed before the record was written.
    #[error("the log is closed")]
    Closed,
    /// The caller's thread turns a shard (`Options::drive`) and would wait for itself. Nothing was passed over.
    #[error("this thread turns a shard and cannot block for one; await instead")]
    OwnThread,
    /// This process is a fork of the one that opened the log, which is not ours to touch.
    #[error("the log belongs to the process that this one was forked from")]
    Forked,
    /// A file could not be read.
    #[error("reading shard {shard}: {source}")]
    Io {
        /// The shard.
        shard: ShardId,
        /// What the system said.
        source: SharedIo,
    },
}

/// Why a truncation was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TruncateError {
    /// No record starts at this LSN. Nothing was cut.
    #[error("no record of shard {shard} stands at LSN {lsn}; nothing was cut")]
    NotARecord {
        /// The shard.
        shard: ShardId,
        /// What was asked for.
        lsn: Lsn,
    },
    /// The record's batch goes on behind it, and a batch is whole or absent. Nothing was cut.
    #[error("the record at LSN {lsn} of shard {shard} is not the last of its batch; nothing was cut")]
    InsideBatch {
        /// The shard.
        shard: ShardId,
        /// What was asked for.
        lsn: Lsn,
    },
    /// A tally needs it to know its totals. Nothing was cut.
    #[error("the tally `{tally}` needs shard {shard} at LSN {lsn}; nothing was cut")]
    Needed {
        /// The shard.
        shard: ShardId,
        /// What may be cut ends here, at this end of the log.
        lsn: Lsn,
        /// Its name.
        tally: String,
    },
    /// The record could not be read. Nothing was cut.
    #[error("{0}")]
    Read(ReadError),
    /// The shard has stopped, or stopped meanwhile.
    #[error("{0}")]
    ShardFailed(Arc<Failure>),
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
    /// The caller's thread turns a shard (`Options::drive`) and would wait for itself. Nothing was cut.
    #[error("this thread turns a shard and cannot block for one; truncate elsewhere")]
    OwnThread,
    /// The shard does not exist.
    #[error("shard {0} does not exist")]
    NoSuchShard(ShardId),
    /// This process is a fork of the one that opened the log, which is not ours to touch.
    #[error("the log belongs to the process that this one was forked from")]
    Forked,
    /// The manifest could not be written; whether the truncation holds shows at the next open.
    #[error("writing the manifest of shard {shard}: {source}")]
    Io {
        /// The shard.
        shard: ShardId,
        /// What the system said.
        source: SharedIo,
    },
}

/// Why a consumer could not be had, or its progress not be kept.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The name cannot be a file's: 1 to 64 letters, digits, `.`, `-` and `_` can.
    #[error("`{0}` is no name for a consumer: 1 to 64 letters, digits, `.`, `-` and `_` are")]
    Name(String),
    /// There is a consumer of this name already.
    #[error("the consumer `{0}` is in use; drop it there first")]
    InUse(String),
    /// The position is not one of a durable record of this log. Nothing was committed.
    #[error("{0} is not the position of a durable record")]
    NotAPosition(Position),
    /// Both copies of its progress are damaged. Remove the files `consumer-NAME.*` to begin anew.
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
    /// The log could not be read.
    #[error("{0}")]
    Read(ReadError),
    /// Its progress could not be read or written.
    #[error("the progress of consumer `{name}`: {source}")]
    Io {
        /// Its name.
        name: String,
        /// What the system said.
        source: SharedIo,
    },
    /// This process is a fork of the one that opened the log, which is not ours to touch.
    #[error("the log belongs to the process that this one was forked from")]
    Forked,
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
}

/// Why a close was not clean. Whatever it is, what was acknowledged as synced is safe.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The log was closed before.
    #[error("the log is closed already")]
    Closed,
    /// This process is a fork of the one that opened the log, which goes on with it.
    #[error("the log belongs to the process that this one was forked from")]
    Forked,
    /// Called on a thread of the log itself (by a waker, or by [`Options::on_stuck`](crate::Options::on_stuck)),
    /// or on one that turns a shard (`Options::drive`), which cannot wait for its own end. Nothing was done.
    #[error("a thread of the log cannot wait for its own end; close it elsewhere")]
    OwnThread,
    /// A shard had stopped, or stopped at the last writes.
    #[error("{0}")]
    ShardFailed(Arc<Failure>),
    /// What a consumer has committed could not be recorded; the log itself is closed.
    #[error("{0}")]
    Consumer(ConsumerError),
    /// The end could not be recorded: the next open recovers as after a crash.
    #[error("recording the end of shard {shard}: {source}")]
    Io {
        /// The shard.
        shard: ShardId,
        /// What the system said.
        source: SharedIo,
    },
}

impl OpenError {
    /// What failed, and where.
    pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |error| OpenError::Io { operation, path, source: Arc::new(error) }
    }

    /// A shard's folder holds this shard, of this log or of another one, in place of its own.
    pub(crate) fn other_shard(folder: &Path, log: &Path, is_of_log: bool, shard: u16) -> OpenError {
        let found = format!("shard {shard} of {} log", if is_of_log { "this" } else { "another" });
        OpenError::NotOfThisLog { path: folder.to_owned(), found, log: log.to_owned() }
    }

    /// A manifest in this folder that is not available.
    pub(crate) fn manifest(path: &Path) -> impl FnOnce(ManifestError) -> OpenError {
        let path = path.to_owned();
        move |error| match error {
            ManifestError::Missing => {
                OpenError::ManifestDamaged { path, first: Defect::Short, second: Defect::Short }
            }
            ManifestError::Damaged([first, second]) => OpenError::ManifestDamaged { path, first, second },
            ManifestError::TooNew => OpenError::TooNew { path },
            ManifestError::Io(source) => {
                OpenError::Io { operation: "reading the manifest", path, source: Arc::new(source) }
            }
        }
    }
}
