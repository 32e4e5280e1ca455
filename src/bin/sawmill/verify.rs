//! `sawmill verify`: reads everything and tells what is not as it was written.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sawmill::log::Verified;
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

/// Each finding, and when what is around it was appended.
pub fn print(verified: &Verified) {
    for (finding, times) in verified.findings.iter().zip(&verified.times) {
        println!("{}", error_chain(finding));
        match times.map(|time| time.map(date)) {
            [None, None] => {}
            [Some(before), None] => println!("    after a record of {before}, the last that can be read"),
            [None, Some(after)] => println!("    before a record of {after}, the first that can be read"),
            [Some(before), Some(after)] => {
                println!("    after a record of {before}, before one of {after}");
            }
        }
    }
}

/// Date and time of so many nanoseconds since the Unix epoch.
fn date(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    // Days since 0000-03-01, in eras of 400 years: what is irregular comes last in each.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

impl Verify {
    pub fn run(&self) -> Result<ExitCode, Error> {
        let verified = Log::open_read_only(&self.dir)?.verify()?;
        if self.json {
            let findings: Vec<String> =
                verified.findings.iter().map(|finding| error_chain(finding).to_string()).collect();
            let report = json!({ "records": verified.records, "bytes": verified.bytes, "findings": findings,
                    "times": verified.times });
            println!("{report}");
        } else {
            print(&verified);
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

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let told =
            [0, 951_782_400, 1_709_251_199, 4_107_542_400].map(|seconds: u64| date(seconds * 1_000_000_000));
        let expected = [
            "1970-01-01 00:00:00 UTC",
            "2000-02-29 00:00:00 UTC",
            "2024-02-29 23:59:59 UTC",
            "2100-03-01 00:00:00 UTC",
        ];
        assert_eq!(told, expected);
    }
}
