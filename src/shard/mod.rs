//! One shard: it moves work between producers, committer and device.
//!
//! [`Engine`] is what producers, waiters and the shard's thread share. A shard is a value that is
//! *turned* ([`turn`]): its own thread does so (`driver`), a blocking caller that finds it idle
//! leads one block itself (`lead`), and where there are no threads, whoever waits turns it. All go
//! through the same committer under the same lock, the token.

mod append;
mod driver;
mod ending;
mod engine;
mod hold;
mod kept;
mod lead;
mod nudge;
mod opener;
mod space;
mod turn;
mod waiters;

pub(crate) use append::{Batch, List};
pub(crate) use engine::{Engine, EngineSetup, NO_LEAD, Placed, Refused, Target};
pub(crate) use hold::{Hold, Holds};
pub(crate) use space::SpaceConfig;
pub(crate) use waiters::{Registration, Waiters};
