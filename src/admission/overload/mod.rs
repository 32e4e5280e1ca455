//! Overload: a shard whose queue is not full but too slow refuses early, by priority, and fairly among tenants.
//!
//! | file | what is in it |
//! |---|---|
//! | [`controller`] | when the cut begins and ends, how long a queue each priority may make, which share of each is let in |
//! | [`fairness`] | which tenants are above their fair share, in tables of a fixed size |
//! | [`gate`] | what callers look at, and where each thread counts what it offered and was refused |
//! | [`heaviest`] | who was refused most |
//!
//! Nothing here performs I/O or reads a clock: whoever turns the shard tells what happened within an interval
//! ([`Interval`]), and puts into force what comes of it ([`Cut`]).

mod controller;
mod fairness;
mod gate;
mod heaviest;
#[cfg(all(test, not(sawmill_loom)))]
mod plant;

#[cfg(all(test, not(sawmill_loom)))]
use controller::{CALM_INTERVALS, IN_FLIGHT_MIN};
pub(crate) use controller::{Controller, Cut, Interval, Limits, STEP_NS};
pub(crate) use fairness::Learner;
pub use gate::Cause;
pub(crate) use gate::{Counted, Gate, Passed};

use crate::write::Priority;

/// Something for each priority, by [`index`].
pub(crate) type ByPriority<T> = [T; 3];

/// The lowest first.
pub(crate) const PRIORITIES: ByPriority<Priority> = [Priority::Low, Priority::Normal, Priority::High];

/// Where a priority stands in what is kept for each: the lowest first, as they are declared.
#[inline]
pub(crate) fn index(priority: Priority) -> usize {
    priority as usize
}

const LOW: usize = 0;
const NORMAL: usize = 1;
const HIGH: usize = 2;
