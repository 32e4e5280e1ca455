//! The `sawmill` command: measures, looks at and checks logs.
//!
//! Exit codes: 0, all is well; 1, something could not be done; 2, wrong arguments; 3, damage found.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An append-only log engine: measure a disk with it, and look into logs.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ingest records, beside the same writes without the engine; then kill a writer and check.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(bench) => bench.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sawmill: {error}");
            ExitCode::from(1)
        }
    }
}
