//! One shard: it moves work between producers, committer and device.
//!
//! [`Engine`] is what producers, waiters and the shard's thread share. A shard is a value that is
//! *turned* ([`turn`]): its own thread does so (`driver`), a blocking caller that finds it idle
//! leads one block itself (`lead`), a task of the application's stands in for the thread (`driven`), and where
//! there are no threads, whoever waits turns it. All go through the same committer under the same lock, the token.

mod append;
#[cfg(feature = "tokio-uring")]
mod driven;
mod driver;
mod ending;
mod engine;
mod filling;
mod gathering;
mod hold;
mod kept;
mod lead;
mod nudge;
mod opener;
mod queueing;
#[cfg(any(test, feature = "simulation"))]
mod race;
mod sizing;
mod space;
mod turn;
mod turner;
mod unresolved;
mod waiters;

#[cfg(all(test, not(sawmill_loom)))]
mod tests;

pub(crate) use append::{Batch, Manner};
#[cfg(feature = "tokio-uring")]
pub(crate) use driven::Drive;
#[cfg(feature = "tokio-uring")]
pub use driven::ShardDriver;
#[cfg(feature = "tokio-uring")]
use driven::drives;
pub(crate) use ending::introduce;
pub(crate) use engine::{Engine, EngineSetup, NO_LEAD, Placed, Refused, Target};
pub(crate) use filling::{Filled, Filling};
pub(crate) use hold::{Hold, Holds};
pub(crate) use space::SpaceConfig;
pub(crate) use turner::{Ended, Turner};
pub(crate) use waiters::{Registration, Waiters};

/// Whether this thread turns a shard, and must not block for one.
#[cfg(not(feature = "tokio-uring"))]
fn drives() -> bool {
    false
}
