//! A simulated machine, for tests of what survives: a disk, folders, locks and a clock from one seed.
//!
//! A log that is opened on a [`Simulated`] machine has no threads; time is virtual, and whoever waits
//! turns the shards, so that a seed replays exactly. The machine can be stopped at any step, and ends
//! a life by a kill or by a power cut, after which of everything that no sync covered each sector is
//! there or not. `docs/crash-safety.md` says what is modelled.
//!
//! ```
//! use sawmill::simulation::{End, Simulated};
//! use sawmill::Options;
//! let machine = Simulated::seed(7);
//! let options = Options::new().shards(1);
//! let log = options.clone().device(&machine).open("/log")?;
//! let position = log.append(b"kept").wait()?;
//! drop(log.append(b"perhaps").admitted().wait()?); // nobody was told that it is durable
//! machine.stop();
//! drop(log);
//! machine.restart(End::PowerCut);
//! let log = options.device(&machine).open("/log")?;
//! assert_eq!(log.get(position)?.payload(), b"kept");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The engine itself is tested so, by histories: a seed is a plan with options, faults and steps, which
//! is played through the public API beside an oracle that knows only what was appended, acknowledged
//! and cut, and that judges what is there after each reopen. What happened is counted, and a history
//! that fails is shrunk.

mod counts;
#[cfg(test)]
mod full_disk;
#[doc(hidden)]
pub mod fuzz;
mod history;
mod machine;
mod oracle;
mod plan;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use counts::Counts;
use history::History;
pub use machine::{End, Faults, Simulated};
use plan::Plan;

use crate::options::Options;

/// Plays one history; on a failure prints the shortest that fails as well.
fn play(plan: &Plan, how_to_rerun: &str) -> Counts {
    let run = |plan: &Plan, trace| catch_unwind(AssertUnwindSafe(|| History::new(plan, trace).play()));
    match run(plan, false) {
        Ok(tally) => tally,
        // A script that only wants to know whether it fails has no use for the shortest history.
        Err(panic) if std::env::var_os("SAWMILL_NO_SHRINK").is_some() => std::panic::resume_unwind(panic),
        Err(panic) => {
            let shrunk = silently(|| plan.shrink(|plan| run(plan, false).is_err()));
            eprintln!("\nshrunk from {} to {} steps: {shrunk:?}", plan.steps.len(), shrunk.steps.len());
            let _ = run(&shrunk, true);
            eprintln!("to see it again: {how_to_rerun}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Shrinking fails on purpose, hundreds of times.
fn silently<T>(run: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = run();
    std::panic::set_hook(hook);
    result
}

impl Options {
    /// Opens the log on a simulated machine, as the process that lives on it now: it has no threads,
    /// time is virtual, and whoever waits turns the shards.
    #[must_use]
    pub fn device(self, machine: &Simulated) -> Options {
        self.on_device(machine.device())
    }
}
