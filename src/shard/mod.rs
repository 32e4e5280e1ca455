//! One shard: it moves work between producers, committer and device.
//!
//! [`Engine`] is what producers, waiters and the shard's thread share; [`life`] has its stages. A shard is a value that
//! is *turned* ([`turn`]): its own thread does so ([`run::thread`]), a blocking caller that finds it idle leads one
//! block itself ([`turn::lead`]), a task of the application's stands in for the thread (`run/tokio_task.rs`), and where
//! there are no threads, whoever waits turns it. All go through the same committer under the same lock, the token
//! ([`token`]).
//!
//! | folder | what is in it |
//! |---|---|
//! | [`append`] | the append path, opening blocks, waiting in line for room |
//! | [`turn`] | one turn, sealing, leading, and what was sealed and is not durable yet |
//! | [`wait`] | who waits for what, who is woken, how long a leader waits for others |
//! | [`run`] | who turns it: a thread of its own, or a task of the application's |
//! | [`index`] | which runs of the key index there are, and how new ones are built |
//! | [`space`] | segments, retention, truncation, the ownership of the folder |

mod append;
mod close;
mod engine;
mod engine_ref;
mod failure;
mod index;
mod life;
mod reading;
mod run;
mod space;
mod stats;
mod token;
mod turn;
mod wait;

#[cfg(all(test, not(sawmill_loom)))]
mod tests;

pub(crate) use append::{AppendMode, Batch, LastBelow, about_encoded};
pub(crate) use engine::{Engine, EngineSetup, NO_LEAD, Placed, Refused, Target, Undecided, Unknown};
pub(crate) use engine_ref::{EngineRef, StripedRefs};
#[cfg(any(test, feature = "simulation"))]
pub(crate) use failure::{BY_A_CALL, BY_ANOTHER};
pub(crate) use failure::{link_shards, same};
pub(crate) use index::{
    Hint, IdPlace, IndexConfig, KeyOrder, KeyPlaces, KeyQuery, KeyedId, RecentLast, Runs, UnknownIds,
    current_runs, is_current_run,
};
#[cfg(feature = "tokio-uring")]
pub(crate) use run::Drive;
#[cfg(feature = "tokio-uring")]
pub use run::ShardDriver;
#[cfg(feature = "tokio-uring")]
use run::drives;
pub(crate) use run::{Ended, WorkerHandle};
pub(crate) use space::{Filled, Filling, Holder, SpaceConfig};
pub(crate) use wait::{Registration, Waiters};

/// Whether this thread turns a shard, and must not block for one.
#[cfg(not(feature = "tokio-uring"))]
fn drives() -> bool {
    false
}
