//! `sawmill stat`: what a log has on disk.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sawmill::Log;
use serde_json::json;

use crate::Error;

/// Show what each shard of a log has on disk; also beside a running owner.
#[derive(Debug, Args)]
pub struct Stat {
    /// The log's directory.
    dir: PathBuf,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Stat {
    pub fn run(&self) -> Result<ExitCode, Error> {
        let log = Log::open_read_only(&self.dir)?;
        let shards = log.summary()?;
        if self.json {
            let shards: Vec<_> = shards
                .iter()
                .map(|shard| {
                    json!({ "shard": shard.shard.0, "horizon": shard.horizon.0, "durable": shard.durable_lsn.0,
                        "end": shard.end.0, "checkpoint": shard.checkpoint.0, "closed": shard.closed,
                        "epoch": shard.epoch, "slots": shard.slots, "segments": shard.segments,
                        "segment_bytes": shard.segment_bytes, "path": shard.path.to_string_lossy() })
                })
                .collect();
            println!(
                "{}",
                json!({ "path": self.dir.to_string_lossy(), "id": log.id().to_string(), "shards": shards })
            );
            return Ok(ExitCode::SUCCESS);
        }
        println!("log {}", log.id());
        println!(
            "{:>5} {:>14} {:>14} {:>14} {:>6} {:>6} {:>8} {:>10}  state",
            "shard", "horizon", "durable", "end", "epoch", "slots", "segments", "MiB"
        );
        for shard in shards {
            println!(
                "{:>5} {:>14} {:>14} {:>14} {:>6} {:>6} {:>8} {:>10.1}  {}",
                shard.shard,
                shard.horizon,
                shard.durable_lsn,
                shard.end,
                shard.epoch,
                shard.slots,
                shard.segments,
                shard.segment_bytes as f64 / f64::from(1 << 20),
                if shard.closed { "closed" } else { "open, or not closed cleanly" }
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
