//! An append-only log engine for one Linux host.
//!
//! Records from many threads or tasks are packed into aligned blocks, written past the page cache
//! through io_uring, and made durable by group commit; one shard per core.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! let log = sawmill::Log::open(dir.path())?;
//! let position = log.append(b"hello").wait()?; // durable when this returns
//! assert_eq!(log.get(position)?.payload(), b"hello");
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#[cfg(not(target_os = "linux"))]
compile_error!("sawmill needs Linux: io_uring, O_DIRECT and fallocate");

mod admission;
mod append;
#[cfg(feature = "ceiling")]
pub mod ceiling;
mod committer;
mod consumer;
mod device;
mod error;
mod format;
mod instance;
mod log;
mod notice;
mod open;
mod options;
mod pool;
mod position;
mod read;
mod recovery;
mod router;
mod segment;
mod shard;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod stats;
mod sync;
mod sys;
mod tally;
mod write;

pub use append::{Admitted, AdmittedBatch, Append, AppendBatch, Commit, Sync};
pub use consumer::{Consumer, ConsumerStop};
pub use device::{Capabilities, FileSystem, WriteProbe};
pub use error::{AppendError, CloseError, ConsumerError, Failure, OpenError, ReadError, TruncateError};
pub use format::Defect;
pub use instance::Close;
pub use log::{Finding, Log, LogReader, Over, Shard, ShardReader, ShardSummary, Verified, Window};
pub use options::{Backend, OnDamage, OnStuck, Options, Stuck};
pub use position::{Lsn, Position, ShardId};
pub use read::{Follow, FollowStop, Merged, Range, RangeBack, Record};
pub use recovery::Damage;
#[cfg(feature = "tokio-uring")]
pub use shard::ShardDriver;
pub use stats::{ShardStats, Stats};
pub use tally::{
    Count, Fold, History, Last, Max, Min, Sum, TALLY_KEY_PREFIX, Tally, TallyError, TallyOptions, Totals,
    Update, UpdateError,
};
pub use write::{BatchBuilder, Durability, IntoBytes, Priority, Write};
