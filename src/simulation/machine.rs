//! The public face of the simulated machine.

use std::sync::Arc;

use crate::device::Device;
use crate::device::sim::{self, SimMachine};

/// How a life on the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process is killed: what it has written is there, also what no sync covered.
    Kill,
    /// The power is cut: of what no completed sync covered, each sector is there or not.
    PowerCut,
}

/// What may go wrong while a process lives. By default nothing does.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Faults {
    /// Of a thousand writes so many fail, and are torn.
    pub write_error: u32,
    /// Of a thousand syncs so many fail: what was dirty is lost, and the page cache hides it.
    pub sync_error: u32,
    /// Of a thousand new segments so many find the disk full.
    pub no_space: u32,
    /// Of a thousand blocking calls (manifests, new segments, names, open) so many fail; a write is torn then, and
    /// a sync loses what was dirty.
    pub call_error: u32,
    /// Of a thousand reads so many fail. Another try may not.
    pub read_error: u32,
    /// Of a thousand reads and writes so many come back short, as the kernel may let them.
    pub short: u32,
    /// Of a thousand writes and syncs so many take up to a minute.
    pub stuck: u32,
    /// The machine stops so many steps from now: a step is a submission, a completion, or a call of
    /// the file system.
    pub stop_after: Option<u64>,
}

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
        let Faults { write_error, sync_error, no_space, call_error, read_error, short, stuck, stop_after } =
            *faults;
        let stop_at = stop_after.map(|steps| self.0.steps() + 1 + steps);
        self.0.set_faults(sim::Faults {
            write_error,
            sync_error,
            no_space,
            call_error,
            read_error,
            short,
            stuck,
            stop_at,
            ..sim::Faults::default()
        });
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
        self.0.restart(match end {
            End::Kill => sim::End::Kill,
            End::PowerCut => sim::End::PowerCut,
        });
    }

    /// Steps the wall clock, in nanoseconds, forward or back.
    pub fn step_wall_clock(&self, by: i64) {
        self.0.step_wall(by);
    }
}
