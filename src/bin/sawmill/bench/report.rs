//! What was measured, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use sawmill::Log;
use sawmill::ceiling::DriveModel;
use serde_json::{Value, json};

use super::crash::Crash;
use super::keys::Keys;
use super::loads::{Ceiling, Load, Outcome};
use super::lookups::Lookups;
use super::scan::Scan;

/// How to read the table. It stands before it.
const LEGEND: &str = "\
↓          lower is better; where it does not stand, higher is, except for rec/blk
records/s  records that were durable before the clock stopped; MiB/s is their payload
ratio      what the log reached, to the most that such callers can reach on this machine without a log:
  bare writes  device bytes a second, to bare io_uring writes of the same block size
  bare p50↓    median latency, to that of a bare pwritev2(RWF_DSYNC)
  hand-over    records a second, to as many threads that hand records over to one that writes and wakes them
p50 ...    microseconds from the append until the record is durable
CPU ns     CPU time of a record: all threads, the kernel included
fill       part of the device bytes that is headers and records; the rest is padding
amp        device bytes for a byte of payload
rec/blk    records in a block
";

pub struct Report {
    backend: &'static str,
    /// `None`: this machine's drive.
    model: Option<DriveModel>,
    capabilities: sawmill::stats::Capabilities,
    path: String,
    record_bytes: u32,
    time: Duration,
    pub rows: Vec<Row>,
    /// Records a second in bulk: of a new log, and of one that recycles its segments.
    pub first_fill: Vec<(f64, f64)>,
    pub scan: Option<Scan>,
    pub lookups: Option<Lookups>,
    pub keys: Option<Keys>,
    pub crash: Option<Crash>,
    pub notices: Vec<String>,
}

/// One load: its repetitions.
pub struct Row {
    name: String,
    ceiling: Ceiling,
    records_per_second: Vec<f64>,
    payload_mib: Vec<f64>,
    /// What was reached, to the ceiling.
    to_ceiling: Vec<f64>,
    cpu_ns: Vec<f64>,
    fill: Vec<f64>,
    amplification: Vec<f64>,
    records_per_block: Vec<f64>,
    latencies: Histogram<u64>,
    records: u64,
    verified: u64,
}

/// A load beside its ceiling.
pub struct Ratio<'a> {
    pub name: &'a str,
    pub per_second: f64,
    pub to_ceiling: f64,
    pub ceiling: &'static str,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Of the log's figures, each with its ceiling's: those of the repetition in the middle, by their ratio.
pub fn median_by_ratio(repetitions: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    let mut all: Vec<(f64, f64)> = repetitions.collect();
    all.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
    all.get(all.len() / 2).copied().unwrap_or((0.0, 1.0))
}

impl Row {
    pub fn new(load: &Load) -> Row {
        Row {
            name: load.name().to_owned(),
            ceiling: load.ceiling(),
            records_per_second: Vec::new(),
            payload_mib: Vec::new(),
            to_ceiling: Vec::new(),
            cpu_ns: Vec::new(),
            fill: Vec::new(),
            amplification: Vec::new(),
            records_per_block: Vec::new(),
            latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("three digits are allowed"),
            records: 0,
            verified: 0,
        }
    }

    /// A repetition, and what its ceiling was.
    pub fn add(&mut self, outcome: &Outcome, ceiling: f64) {
        let seconds = outcome.elapsed.as_secs_f64();
        let records = outcome.records.max(1) as f64;
        self.records_per_second.push(outcome.records as f64 / seconds);
        self.payload_mib.push(outcome.payload_bytes as f64 / seconds / f64::from(1 << 20));
        let reached = match self.ceiling {
            Ceiling::Writes => outcome.device_bytes as f64 / seconds,
            Ceiling::Latency => outcome.latencies.value_at_quantile(0.5) as f64 / 1e9,
            Ceiling::HandOver(_) => outcome.records as f64 / seconds,
        };
        self.to_ceiling.push(reached / ceiling);
        self.cpu_ns.push(outcome.cpu.as_nanos() as f64 / records);
        self.fill.push(outcome.block_bytes as f64 / outcome.device_bytes.max(1) as f64);
        self.amplification.push(outcome.device_bytes as f64 / outcome.payload_bytes.max(1) as f64);
        self.records_per_block.push(records / outcome.blocks.max(1) as f64);
        let _ = self.latencies.add(&outcome.latencies);
        self.records += outcome.records;
        self.verified += outcome.verified;
    }

    /// As the legend explains it.
    fn ceiling_name(&self) -> &'static str {
        match self.ceiling {
            Ceiling::Writes => "bare writes",
            Ceiling::Latency => "bare p50↓",
            Ceiling::HandOver(_) => "hand-over",
        }
    }

    fn micros(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }
}

impl Report {
    pub fn new(
        log: &Log,
        model: Option<DriveModel>,
        path: &Path,
        record_bytes: u32,
        time: Duration,
    ) -> Report {
        let shard = &log.stats().shards[0];
        Report {
            backend: if model.is_some() { "model" } else { shard.backend },
            model,
            capabilities: shard.capabilities,
            path: path.display().to_string(),
            record_bytes,
            time,
            rows: Vec::new(),
            first_fill: Vec::new(),
            scan: None,
            lookups: None,
            keys: None,
            crash: None,
            notices: Vec::new(),
        }
    }

    /// Where and how it was measured, in a line.
    pub fn about(&self) -> String {
        let capabilities = &self.capabilities;
        let place = match self.model {
            Some(model) => format!("a modelled drive of {}", super::in_words(model)),
            None => format!(
                "{} on {:?}{}{}",
                self.backend,
                capabilities.file_system,
                if capabilities.direct { ", O_DIRECT" } else { ", through the page cache" },
                if capabilities.durable { "" } else { ", NOT DURABLE (memory)" },
            ),
        };
        format!(
            "{place}; records of {} bytes; medians of {} runs of {:?}",
            self.record_bytes,
            self.rows.first().map_or(0, |row| row.to_ceiling.len()),
            self.time,
        )
    }

    pub fn ratios(&self) -> impl Iterator<Item = Ratio<'_>> {
        self.rows.iter().map(|row| Ratio {
            name: &row.name,
            per_second: median(&row.records_per_second),
            to_ceiling: median(&row.to_ceiling),
            ceiling: row.ceiling_name(),
        })
    }

    pub fn table(&self) -> String {
        let mut text = self.about() + "\n\n" + LEGEND + "\n";
        let _ = writeln!(
            text,
            "{:<24} {:>10} {:>8} {:>7} {:<12} {:>9} {:>9} {:>9} {:>8} {:>6} {:>6} {:>7}",
            "load",
            "records/s",
            "MiB/s",
            "ratio",
            "to",
            "p50 us↓",
            "p99 us↓",
            "p99.9 us↓",
            "CPU ns↓",
            "fill",
            "amp↓",
            "rec/blk"
        );
        for row in &self.rows {
            let latency = |quantile| match row.latencies.len() {
                0 => "-".to_owned(),
                _ => format!("{:.0}", row.micros(quantile)),
            };
            let _ = writeln!(
                text,
                "{:<24} {:>10.0} {:>8.1} {:>7.2} {:<12} {:>9} {:>9} {:>9} {:>8.0} {:>6.2} {:>6.2} {:>7.1}",
                row.name,
                median(&row.records_per_second),
                median(&row.payload_mib),
                median(&row.to_ceiling),
                row.ceiling_name(),
                latency(0.5),
                latency(0.99),
                latency(0.999),
                median(&row.cpu_ns),
                median(&row.fill),
                median(&row.amplification),
                median(&row.records_per_block),
            );
        }
        text.push('\n');
        let (records, verified) = self.totals();
        let _ = writeln!(
            text,
            "{records} records were durable before the clock stopped; {verified} of them are \
            still kept and were read back"
        );
        if let Some((fresh, ratio)) = self.first_fill() {
            let _ = writeln!(
                text,
                "into fresh segments, filled with zeros first: {fresh:.0} records/s in bulk, {ratio:.2} of the steady state"
            );
        }
        if let Some(scan) = &self.scan {
            let _ = writeln!(text, "{scan}");
        }
        if let Some(lookups) = &self.lookups {
            let _ = writeln!(text, "{lookups}");
        }
        if let Some(keys) = &self.keys {
            let _ = writeln!(text, "{keys}");
        }
        if let Some(crash) = &self.crash {
            let _ = writeln!(text, "{crash}");
        }
        text
    }

    /// Records a second, and what part of the steady state's that is.
    fn first_fill(&self) -> Option<(f64, f64)> {
        let (fresh, ratios): (Vec<f64>, Vec<f64>) =
            self.first_fill.iter().map(|&(fresh, steady)| (fresh, fresh / steady)).unzip();
        (!fresh.is_empty()).then(|| (median(&fresh), median(&ratios)))
    }

    fn totals(&self) -> (u64, u64) {
        self.rows
            .iter()
            .fold((0, 0), |(records, verified), row| (records + row.records, verified + row.verified))
    }

    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                // One of the two, by the kind of caller.
                let none: &[f64] = &[];
                let (to_bare, to_hand_over) = match row.ceiling {
                    Ceiling::HandOver(_) => (none, row.to_ceiling.as_slice()),
                    Ceiling::Writes | Ceiling::Latency => (row.to_ceiling.as_slice(), none),
                };
                json!({
                    "load": row.name,
                    "records_per_second": row.records_per_second,
                    "payload_mib_per_second": row.payload_mib,
                    "to_bare": to_bare,
                    "to_bare_is": if row.ceiling == Ceiling::Latency { "median latency" } else { "device bytes a second" },
                    "to_hand_over": to_hand_over,
                    "cpu_ns_per_record": row.cpu_ns,
                    "block_fill": row.fill,
                    "write_amplification": row.amplification,
                    "records_per_block": row.records_per_block,
                    "latency_us": { "p50": row.micros(0.5), "p90": row.micros(0.9), "p99": row.micros(0.99),
                        "p999": row.micros(0.999), "max": row.micros(1.0), "samples": row.latencies.len() },
                    "records": row.records,
                    "records_read_back": row.verified,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "backend": self.backend,
            "model": self.model.map(super::in_words),
            "file_system": format!("{:?}", self.capabilities.file_system),
            "direct": self.capabilities.direct,
            "durable": self.capabilities.durable,
            "folder": self.path,
            "record_bytes": self.record_bytes,
            "seconds": self.time.as_secs_f64(),
            "loads": rows,
            "first_fill_of_steady_state": self.first_fill().map(|(_, ratio)| ratio),
            "scan": self.scan.as_ref().map(Scan::json),
            "lookups": self.lookups.as_ref().map(Lookups::json),
            "keys": self.keys.as_ref().map(Keys::json),
            "crash": self.crash.as_ref().map(Crash::json),
            "notices": self.notices,
        })
    }
}
