//! placeholder
mod admission;
mod commit;
mod committer;
mod device;
mod error;
mod format;
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
#[cfg(test)]
mod simulation;
mod stats;
mod sync;
mod sys;
mod write;

pub use commit::{Admitted, Append, AppendBatch, Commit, Sync};
pub use device::{Capabilities, FileSystem};
pub use error::{AppendError, CloseError, Failure, OpenError, ReadError, TruncateError};
pub use format::Defect;
pub use log::{Log, Shard};
pub use options::{Backend, Durability, Options, Priority};
pub use position::{Lsn, Position, ShardId};
pub use read::{Follow, FollowStop, Merged, Range, Record};
pub use recovery::Damage;
pub use stats::{ShardStats, Stats};
pub use write::{IntoBytes, Write};
