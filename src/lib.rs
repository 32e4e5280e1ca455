//! placeholder
#![allow(dead_code, unused_imports)]
mod committer;
mod format;
mod pool;
mod position;
mod sync;
mod sys;
pub use position::{Lsn, Position, ShardId};
