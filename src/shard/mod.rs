//! One shard: it moves work between producers, committer and device.
//!
//! [`Engine`] is what producers, waiters and the shard's thread share; [`life`] has its stages. A shard is a value that
//! is *turned* ([`turn`]): its own thread does so ([`thread`]), a blocking caller that finds it idle leads one block
//! itself ([`lead`]), a task of the application's stands in for the thread (`tokio_task`), and where there are no
//! threads, whoever waits turns it. All go through the same committer under the same lock, the token ([`token`]).

mod age;
mod append;
mod commit_delay;
mod drain;
mod ending;
mod engine;
mod engine_ref;
mod filling;
mod index_walk;
mod indexing;
#[cfg_attr(not(any(test, feature = "simulation")), allow(dead_code, reason = "readers by key are to come"))]
mod key_places;
mod lead;
mod life;
mod opener;
mod own_thread;
mod queueing;
#[cfg(any(test, feature = "simulation"))]
mod race;
mod reading;
mod retention;
mod retention_pin;
mod seal;
mod shortage;
mod sizing;
mod space;
mod stats;
mod thread;
mod token;
#[cfg(feature = "tokio-uring")]
mod tokio_task;
mod turn;
mod unresolved;
mod waiters;
mod waiting;
mod wake_state;
mod worker;

#[cfg(all(test, not(sawmill_loom)))]
mod tests;

pub(crate) use append::{AppendMode, Batch};
#[cfg(any(test, feature = "simulation"))]
pub(crate) use ending::{BY_A_CALL, BY_ANOTHER};
pub(crate) use ending::{introduce, same};
pub(crate) use engine::{Engine, EngineSetup, NO_LEAD, Placed, Refused, Target};
pub(crate) use engine_ref::{EngineRef, StripedRefs};
pub(crate) use filling::{Filled, Filling};
pub(crate) use indexing::IndexConfig;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use key_places::{Hint, Order};
pub(crate) use space::SpaceConfig;
#[cfg(feature = "tokio-uring")]
pub(crate) use tokio_task::Drive;
#[cfg(feature = "tokio-uring")]
pub use tokio_task::ShardDriver;
#[cfg(feature = "tokio-uring")]
use tokio_task::drives;
pub(crate) use waiters::{Registration, Waiters};
pub(crate) use worker::{Ended, WorkerHandle};

/// Whether this thread turns a shard, and must not block for one.
#[cfg(not(feature = "tokio-uring"))]
fn drives() -> bool {
    false
}
