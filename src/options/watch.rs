//! A watch over the device: who wants to know when it does not answer, and what is done about it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::position::ShardId;

/// A write or sync that the device has not answered; see [`Options::on_stuck`](crate::Options::on_stuck).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stuck {
    /// Whose.
    pub shard: ShardId,
    /// For how long the oldest one has been out, without the time in which the process did not run.
    pub age: Duration,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}: the device has not answered for {:?}", self.shard, self.age)
    }
}

/// What to do about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStuck {
    /// Wait on. Most devices answer in the end, and until then nothing is known to be lost.
    #[default]
    Wait,
    /// Stop the shard, as after a failed write: everybody who waits is told at once, and nothing later is
    /// acknowledged. The outcome of what was in flight is unknown.
    Fail,
}

/// After how long a device counts as stuck, and what to call then.
#[derive(Clone)]
pub(crate) struct Watch {
    pub after: Duration,
    pub act: Arc<dyn Fn(Stuck) -> OnStuck + Send + Sync>,
}

impl Watch {
    /// How often to look, so that the answer is not much later than was asked for.
    pub(crate) fn every(&self) -> Duration {
        (self.after / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("after", &self.after).finish_non_exhaustive()
    }
}
