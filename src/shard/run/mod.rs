//! Who turns a shard: a thread of its own, or a task of the application's.

pub(super) mod thread;
#[cfg(feature = "tokio-uring")]
mod tokio_task;
mod worker;

#[cfg(feature = "tokio-uring")]
pub use tokio_task::ShardDriver;
#[cfg(feature = "tokio-uring")]
pub(crate) use tokio_task::{Drive, drives};
pub(crate) use worker::{Ended, WorkerHandle};
