//! What can go wrong, one enum per kind of call.
//!
//! A message says what failed, where, what was not lost, and what to do. It does not repeat its
//! [`source`](std::error::Error::source): to show an error to a person, print the [chain](error_chain). The system's
//! own error stands at its end, mostly as an `Arc<io::Error>`.

mod append;
mod consumer;
mod moves;
mod open;
mod queue;

use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::admission::Cause;
pub use crate::format::Defect;
use crate::position::{Lsn, Position, ShardId};
pub use crate::recovery::Damage;
pub use append::AppendError;
pub use consumer::ConsumerError;
pub use moves::MoveError;
pub use open::OpenError;
pub use queue::QueueError;

/// An I/O error that many callers can hold.
pub(crate) type SharedIo = Arc<io::Error>;

/// An error and all its sources in one line: `/log: opening the directory failed: No such file or directory`.
///
/// A message of this crate does not repeat its [source](Error::source). Libraries that print chains, such as `anyhow`
/// by `{:#}`, print the same.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let error = sawmill::Log::open_read_only(dir.path().join("nowhere")).unwrap_err();
/// let line = sawmill::error_chain(&error).to_string();
/// assert!(line.contains("opening the directory failed: No such file or directory"), "{line}");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn error_chain<'a>(error: &'a (dyn Error + 'static)) -> impl Display + 'a {
    struct Chain<'a>(&'a (dyn Error + 'static));
    impl Display for Chain<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.0)?;
            let mut sources = std::iter::successors(self.0.source(), |&source| source.source());
            sources.try_for_each(|source| write!(f, ": {source}"))
        }
    }
    Chain(error)
}

/// Why a log or shard cannot be used at all, whatever is asked of it. The engine gives this, and each kind of call
/// turns it into variants of its own: `docs/decisions.md` says why those are flat.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("the log is closed")]
    Closed,
    #[error("the log belongs to the process that this one was forked from")]
    Forked,
    #[error(
        "this thread runs the log's own work (a shard's event loop, or a waker called by it) and would deadlock if it \
             blocked; await instead, or call from another thread"
    )]
    OwnThread,
    #[error("shard {0} does not exist")]
    NoSuchShard(ShardId),
    #[error(transparent)]
    ShardFailed(Arc<Failure>),
}

/// For enums that have all the causes as variants of their own.
macro_rules! has_all_causes {
    ($($error:ident),+) => {$(
        impl From<Unavailable> for $error {
            fn from(cause: Unavailable) -> $error {
                match cause {
                    Unavailable::Closed => $error::Closed,
                    Unavailable::Forked => $error::Forked,
                    Unavailable::OwnThread => $error::OwnThread,
                    Unavailable::NoSuchShard(shard) => $error::NoSuchShard(shard),
                    Unavailable::ShardFailed(failure) => $error::ShardFailed(failure),
                }
            }
        }
    )+};
}

/// For enums that have two of the causes, and the others within an error of what they do to the log.
macro_rules! has_two_causes {
    ($($error:ident::$other:ident),+) => {$(
        impl From<crate::error::Unavailable> for $error {
            fn from(cause: crate::error::Unavailable) -> $error {
                match cause {
                    crate::error::Unavailable::Closed => $error::Closed,
                    crate::error::Unavailable::Forked => $error::Forked,
                    cause => $error::$other(cause.into()),
                }
            }
        }
    )+};
}

pub(crate) use has_two_causes;

has_all_causes!(AppendError, MoveError, ReadError, TruncateError);
has_two_causes!(ConsumerError::Read, QueueError::Read);

/// Why a shard stopped: everybody who waits gets the same.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} has stopped; records below LSN {durable} are durable, the outcome of later ones is unknown, \
         a reopen recovers; {}: {operation} failed", path.display())]
#[non_exhaustive]
pub struct Failure {
    /// The shard.
    pub shard: ShardId,
    /// What failed: `write`, `sync`, ...; `another shard's flush` if that failed on the device that both share, which
    /// may have lost writes of both; `a flush of the same device` if it was for something else there, such as a
    /// manifest or a consumer's progress.
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
    /// What was written there is missing, or is not as it was written.
    #[error("shard {shard} is damaged at LSN {lsn}{}: {cause}", damaged_place(*end, file, *offset))]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// The damaged place.
        lsn: Lsn,
        /// Where the readable part continues, if that was looked for.
        end: Option<Lsn>,
        /// The segment's file in the shard's folder; `None` if there is no segment for this place.
        file: Option<String>,
        /// The place in this file, in bytes.
        offset: u64,
        /// What is wrong with it.
        cause: Defect,
    },
    /// It was truncated: at the beginning of the log if `lsn` is below `horizon`, otherwise at the end, by
    /// `truncate_after` or a crash.
    #[error("LSN {lsn} of shard {shard} was {}", truncated_where(*lsn, *horizon))]
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
    /// Read while another process has the log open: it may have been acknowledged, but the log's files do not show yet
    /// that it is durable. They will once more is appended, or within about a second while that process lives.
    #[error("LSN {lsn} of shard {shard} is not known to be durable yet; what lies below {durable} is")]
    NotDurableYet {
        /// The shard.
        shard: ShardId,
        /// What was asked for.
        lsn: Lsn,
        /// All below it is known to be durable.
        durable: Lsn,
    },
    /// The place to resume from lies above the end of the shard's log: it comes from another log, or from this one
    /// before the shard was restored from an older backup. What is appended next would be skipped.
    #[error(
        "shard {shard} cannot be followed from LSN {lsn}: its log ends at {end}; it is another log, or was restored \
             from an older backup"
    )]
    AboveEnd {
        /// The shard.
        shard: ShardId,
        /// What was asked for.
        lsn: Lsn,
        /// Where the shard's log ends.
        end: Lsn,
    },
    /// Read without owning the log: the shard was restored from an older backup since this reader began, and other records
    /// stand, or will, where it has read or was to read. It gives nothing any more; what it gave that lies below `kept` is still
    /// there, and a new reader may go on from there.
    #[error(
        "shard {shard} was restored from an older backup while it was read: what was read up to LSN {lsn} is there as far \
             as LSN {kept}, and not after it; read on from there, or begin again"
    )]
    OtherHistory {
        /// The shard.
        shard: ShardId,
        /// How far the reader had read, or was to read.
        lsn: Lsn,
        /// Below it the log is what it was.
        kept: Lsn,
    },
    /// Read without owning the log: the folder that was opened is not at its path any more, or holds another log by now. What
    /// is there, if anything, is read by whoever opens it.
    #[error(
        "{path:?} is not the folder that was opened any more: it was moved, removed or replaced, or holds another log by \
             now; open the log again"
    )]
    Replaced {
        /// The log's folder, or a shard's.
        path: PathBuf,
    },
    /// The shard does not exist.
    #[error("{}", Unavailable::NoSuchShard(*.0))]
    NoSuchShard(ShardId),
    /// The shard stopped before the record was written.
    #[error(transparent)]
    ShardFailed(Arc<Failure>),
    /// The log was closed before the record was written.
    #[error("{}", Unavailable::Closed)]
    Closed,
    /// The calling thread runs a shard (by `Options::drive`, or as the log's own thread that calls a waker) and would
    /// wait for itself. No record was skipped.
    #[error("{}", Unavailable::OwnThread)]
    OwnThread,
    /// This process was forked from the one that opened the log, and must not use it.
    #[error("{}", Unavailable::Forked)]
    Forked,
    /// A file could not be read.
    #[error("shard {shard} could not be read")]
    Io {
        /// The shard.
        shard: ShardId,
        /// What the system said.
        source: SharedIo,
    },
}

/// What to do about an error of the system's that does not say it.
fn advice(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            let most =
                crate::device::descriptors_max().map_or_else(String::new, |most| format!(", now {most}"));
            format!(" (raise the limit of files that this process may open, `ulimit -n`{most})")
        }
        Some(libc::ENFILE) => " (raise the machine's limit of open files, `fs.file-max`)".to_owned(),
        _ => String::new(),
    }
}

/// How far damage reaches, and where on disk it lies.
fn damaged_place(end: Option<Lsn>, file: &Option<String>, offset: u64) -> String {
    let end = end.map_or_else(String::new, |end| format!(", up to {end}"));
    let file = file.as_ref().map_or_else(String::new, |file| format!(" ({file}, offset {offset})"));
    end + &file
}

/// Which end of the log was cut.
fn truncated_where(lsn: Lsn, horizon: Lsn) -> String {
    if lsn < horizon {
        format!("truncated; the log begins at {horizon}")
    } else {
        "cut off the end of the log, by `truncate_after` or by a crash".to_owned()
    }
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
    /// The record's batch continues after it, and a batch is whole or absent. Nothing was cut.
    #[error("the record at LSN {lsn} of shard {shard} is not the last of its batch; nothing was cut")]
    InsideBatch {
        /// The shard.
        shard: ShardId,
        /// What was asked for.
        lsn: Lsn,
    },
    /// A tally needs it to know its totals, or a consumer or a queue that the log waits for
    /// ([`Options::retain_for`](crate::Options::retain_for)) has still to read it. Nothing was cut.
    #[error("{by} needs shard {shard} from LSN {from} on; nothing was cut")]
    Needed {
        /// The shard.
        shard: ShardId,
        /// What may be cut ends here, at this end of the log.
        from: Lsn,
        /// Who needs it, with its name, and what lets it go.
        by: String,
    },
    /// The record could not be read. Nothing was cut.
    #[error("the record to cut at could not be read; nothing was cut")]
    Read(#[source] ReadError),
    /// The shard has stopped, or stopped meanwhile.
    #[error(transparent)]
    ShardFailed(Arc<Failure>),
    /// The log has been closed.
    #[error("{}", Unavailable::Closed)]
    Closed,
    /// The calling thread runs a shard (by `Options::drive`, or as the log's own thread that calls a waker) and would
    /// wait for itself. Nothing was cut.
    #[error("{}", Unavailable::OwnThread)]
    OwnThread,
    /// The shard does not exist.
    #[error("{}", Unavailable::NoSuchShard(*.0))]
    NoSuchShard(ShardId),
    /// This process was forked from the one that opened the log, and must not use it.
    #[error("{}", Unavailable::Forked)]
    Forked,
    /// The manifest could not be written: whether the truncation holds shows at the next open. Or nothing was begun,
    /// since there was no randomness for a new epoch, or no thread
    /// ([`Shard::truncate_before_async`](crate::Shard::truncate_before_async)).
    #[error("shard {shard}: {operation} failed")]
    Io {
        /// The shard.
        shard: ShardId,
        /// What was tried, as `writing the manifest`.
        operation: &'static str,
        /// What the system said.
        source: SharedIo,
    },
}

/// Why a close was not clean. Whatever it is, what was acknowledged as synced is safe.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The log was closed before.
    #[error("the log is closed already")]
    Closed,
    /// This process was forked from the one that opened the log, and that one goes on using it.
    #[error("{}", Unavailable::Forked)]
    Forked,
    /// Called on a thread of the log itself (by a waker, or by [`Options::on_stuck`](crate::Options::on_stuck)),
    /// or on one that runs a shard (`Options::drive`), which cannot wait for its own end. Nothing was done.
    #[error("a thread of the log cannot wait for its own end; close it elsewhere")]
    OwnThread,
    /// A shard had stopped, or stopped at the last writes.
    #[error(transparent)]
    ShardFailed(Arc<Failure>),
    /// What a consumer has committed could not be recorded; the log itself is closed.
    #[error("what a consumer committed could not be recorded; the log itself is closed")]
    Consumer(#[source] ConsumerError),
    /// What a queue was told could not be recorded; the log itself is closed.
    #[error("what a queue was told could not be recorded; the log itself is closed")]
    Queue(#[source] QueueError),
    /// The end could not be recorded: the next open recovers as after a crash.
    #[error("the end of shard {shard} could not be recorded; the next open recovers as after a crash")]
    Io {
        /// The shard.
        shard: ShardId,
        /// What the system said.
        source: SharedIo,
    },
    /// The close itself has failed, by a mistake of this crate's ([`Log::close_async`](crate::Log::close_async)): the next
    /// open recovers as after a crash, for which this process may have to end first.
    #[error("the close panicked; the next open recovers as after a crash")]
    Panicked,
    /// There is no thread to close the log on ([`Log::close_async`](crate::Log::close_async)): it is still open.
    #[error("no thread could be started to close the log; it is still open")]
    NoThread {
        /// What the system said.
        source: SharedIo,
    },
}

#[cfg(test)]
mod tests;
