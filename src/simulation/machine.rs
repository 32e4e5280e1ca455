//! The public face of the simulated machine.

use std::sync::Arc;

use crate::device::Device;
use crate::device::sim::SimMachine;
pub use crate::device::sim::{End, Faults};

/// A machine whose whole future follows from a seed. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Simulated(SimMachine);

impl Simulated {
    /// A machine with an empty disk.
    #[must_use]
    pub fn seed(seed: u64) -> Simulated {
        Simulated(SimMachine::new(seed))
    }

    pub(crate) fn of(machine: &SimMachine) -> Simulated {
        Simulated(machine.clone())
    }

    pub(crate) fn device(&self) -> Arc<dyn Device> {
        self.0.device()
    }

    /// What may go wrong from now on.
    pub fn set_faults(&self, faults: &Faults) {
        self.0.set_faults(faults.clone());
    }

    /// Stops the machine now: every call of the process that lives on it fails.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Whether the machine has stopped, by [`stop`](Simulated::stop) or by itself.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.0.has_stopped()
    }

    /// Ends the life of the process, whose logs are to be dropped, and begins the next one. What it had
    /// in flight lands whole, in part, or not at all.
    pub fn restart(&self, end: End) {
        self.0.restart(end);
    }

    /// Steps the wall clock, in nanoseconds, forward or back.
    pub fn step_wall_clock(&self, by: i64) {
        self.0.step_wall(by);
    }
}
