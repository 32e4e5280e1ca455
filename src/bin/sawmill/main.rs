//! The `sawmill` command: measures, looks at and checks logs.
//!
//! Exit codes: 0, all is well; 1, something could not be done; 2, wrong arguments; 3, damage found.

mod bench;
mod dump;
mod queue;
mod repair;
mod show;
mod start;
mod stat;
mod tally;
mod tune;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sawmill::OpenError;

type Error = Box<dyn std::error::Error>;

/// Damage was found.
const DAMAGED: u8 = 3;

/// An append-only log engine: measure a disk with it, and look into logs.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Bench),
    Tune(tune::Tune),
    Stat(stat::Stat),
    Tally(tally::Tally),
    Queue(queue::Queue),
    Dump(dump::Dump),
    Tail(dump::Tail),
    Verify(verify::Verify),
    Repair(repair::Repair),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(bench) => bench.run(),
        Command::Tune(tune) => tune.run(),
        Command::Stat(stat) => stat.run(),
        Command::Tally(tally) => tally.run(),
        Command::Queue(queue) => queue.run(),
        Command::Dump(dump) => dump.run(),
        Command::Tail(tail) => tail.run(),
        Command::Verify(verify) => verify.run(),
        Command::Repair(repair) => repair.run(),
    };
    match result {
        Ok(code) => code,
        // Whoever read the output has had enough.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sawmill: {}", sawmill::error_chain(error.as_ref()));
            let damaged = error.downcast_ref::<OpenError>().is_some_and(|error| {
                matches!(
                    error,
                    OpenError::Damaged { .. }
                        | OpenError::ManifestDamaged { .. }
                        | OpenError::ManifestMissing { .. }
                )
            });
            ExitCode::from(if damaged { DAMAGED } else { 1 })
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
