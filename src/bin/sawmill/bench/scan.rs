//! Reading the whole log, all checks on, beside bare sequential reads.

use std::fmt;
use std::time::{Duration, Instant};

use sawmill::ceiling::BareFile;
use sawmill::{Log, ReadError, ShardId};
use serde_json::{Value, json};

use super::report::median_by_ratio;
use crate::Error;

/// As much as the log reads at a time.
const BARE_BLOCK: u32 = 1 << 20;

/// What was read, and how fast.
pub struct Scan {
    records: u64,
    bytes: u64,
    /// Bytes a second of the log's records, and of bare reads, by repetition.
    rates: Vec<(f64, f64)>,
}

impl Scan {
    pub fn measure(log: &Log, bare: &BareFile, repeat: u32) -> Result<Scan, Error> {
        let mut scan = Scan { records: 0, bytes: 0, rates: Vec::new() };
        for _ in 0..repeat {
            let began = Instant::now();
            (scan.records, scan.bytes) = (0, 0);
            for shard in 0..log.shards() {
                for record in log.shard(ShardId(shard)).read(..)? {
                    let record = match record {
                        // Retention is at work still: the rest is there to be read.
                        Err(ReadError::Truncated { .. }) => continue,
                        record => record?,
                    };
                    scan.records += 1;
                    // With its header: what the device had to give for it.
                    scan.bytes += record.payload().len() as u64 + 16;
                }
            }
            let elapsed = began.elapsed();
            let beside =
                bare.read(BARE_BLOCK, elapsed.clamp(Duration::from_millis(50), Duration::from_secs(2)))?;
            scan.rates.push((scan.bytes as f64 / elapsed.as_secs_f64(), beside.bytes_per_second()));
        }
        Ok(scan)
    }

    pub fn json(&self) -> Value {
        let (log, bare) = median_by_ratio(self.rates.iter().copied());
        json!({ "records": self.records, "bytes": self.bytes, "bytes_per_second": log, "to_bare_reads": log / bare })
    }
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (log, bare) = median_by_ratio(self.rates.iter().copied());
        write!(
            f,
            "all of the log, {} records, was read and checked at {:.0} MiB/s, {:.2} of bare sequential reads of 1 MiB",
            self.records,
            log / f64::from(1 << 20),
            log / bare,
        )
    }
}
