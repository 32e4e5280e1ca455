//! `sawmill verify`: reads everything and tells what is not as it was written.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sawmill::{Log, error_chain};
use serde_json::json;

use crate::{DAMAGED, Error};

/// Read a whole log and check every checksum; also beside a running owner.
///
/// Ends with code 3 if anything that was durable is missing or not as it was written.
#[derive(Debug, Args)]
pub struct Verify {
    /// The log's directory.
    dir: PathBuf,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(&self) -> Result<ExitCode, Error> {
        let verified = Log::open_read_only(&self.dir)?.verify()?;
        if self.json {
            let findings: Vec<String> =
                verified.findings.iter().map(|finding| error_chain(finding).to_string()).collect();
            let report =
                json!({ "records": verified.records, "bytes": verified.bytes, "findings": findings });
            println!("{report}");
        } else {
            for finding in &verified.findings {
                println!("{}", error_chain(finding));
            }
            let mib = verified.bytes as f64 / f64::from(1 << 20);
            println!(
                "{} records, {mib:.1} MiB, {} damaged places",
                verified.records,
                verified.findings.len()
            );
        }
        Ok(if verified.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
    }
}
