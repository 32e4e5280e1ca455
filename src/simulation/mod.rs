//! Histories by seed: the whole engine on the simulated machine, against an oracle.
//!
//! A seed is a history: a [`plan`] with options, faults and steps. [`history`] plays it through the
//! public API, [`oracle`] knows only what was appended, acknowledged and cut, and judges what is
//! there after each reopen, [`tally`] counts what happened. A history that fails is shrunk.
//! `docs/crash-safety.md` says what is modelled and how to rerun a seed.

mod history;
mod oracle;
mod plan;
mod tally;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use history::History;
use plan::Plan;
use tally::Tally;

/// Plays one history; on a failure prints the shortest that fails as well.
fn play(plan: &Plan, how_to_rerun: &str) -> Tally {
    let run = |plan: &Plan, trace| catch_unwind(AssertUnwindSafe(|| History::new(plan, trace).play()));
    match run(plan, false) {
        Ok(tally) => tally,
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
