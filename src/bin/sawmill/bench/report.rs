//! What was measured, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use sawmill::Log;
use serde_json::{Value, json};

use super::crash::Crash;
use super::loads::{Load, Outcome};
use super::scan::Scan;

pub struct Report {
    backend: &'static str,
    capabilities: sawmill::Capabilities,
    path: String,
    record_bytes: u32,
    time: Duration,
    pub rows: Vec<Row>,
    /// Records a second in bulk: of a new log, and of one that recycles its segments.
    pub first_fill: Vec<(f64, f64)>,
    pub scan: Option<Scan>,
    pub crash: Option<Crash>,
    pub notices: Vec<String>,
}

/// One load: its repetitions.
pub struct Row {
    name: String,
    one_by_one: bool,
    records_per_second: Vec<f64>,
    payload_mib: Vec<f64>,
    /// Device bytes against the bare writes' or, of one blocking writer, medians of latency.
    to_bare: Vec<f64>,
    /// Records a second against the hand-over ceiling's, of callers that block.
    to_hand_over: Vec<f64>,
    cpu_ns: Vec<f64>,
    fill: Vec<f64>,
    amplification: Vec<f64>,
    records_per_block: Vec<f64>,
    latencies: Histogram<u64>,
    records: u64,
    verified: u64,
}

/// A load beside the bare device.
pub struct Ratio<'a> {
    pub name: &'a str,
    pub per_second: f64,
    pub to_bare: f64,
    pub is_latency: bool,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

impl Row {
    pub fn new(load: &Load) -> Row {
        Row {
            name: load.name().to_owned(),
            one_by_one: load.is_one_by_one(),
            records_per_second: Vec::new(),
            payload_mib: Vec::new(),
            to_bare: Vec::new(),
            to_hand_over: Vec::new(),
            cpu_ns: Vec::new(),
            fill: Vec::new(),
            amplification: Vec::new(),
            records_per_block: Vec::new(),
            latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("three digits are allowed"),
            records: 0,
            verified: 0,
        }
    }

    pub fn add(&mut self, outcome: &Outcome, bare: f64, hand_over: Option<f64>) {
        let seconds = outcome.elapsed.as_secs_f64();
        let records = outcome.records.max(1) as f64;
        self.records_per_second.push(outcome.records as f64 / seconds);
        self.payload_mib.push(outcome.payload_bytes as f64 / seconds / f64::from(1 << 20));
        self.to_bare.push(if self.one_by_one {
            outcome.latencies.value_at_quantile(0.5) as f64 / 1e9 / bare
        } else {
            outcome.device_bytes as f64 / seconds / bare
        });
        self.to_hand_over.extend(hand_over.map(|hand_over| outcome.records as f64 / seconds / hand_over));
        self.cpu_ns.push(outcome.cpu.as_nanos() as f64 / records);
        self.fill.push(outcome.block_bytes as f64 / outcome.device_bytes.max(1) as f64);
        self.amplification.push(outcome.device_bytes as f64 / outcome.payload_bytes.max(1) as f64);
        self.records_per_block.push(records / outcome.blocks.max(1) as f64);
        let _ = self.latencies.add(&outcome.latencies);
        self.records += outcome.records;
        self.verified += outcome.verified;
    }

    fn micros(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }
}

impl Report {
    pub fn new(log: &Log, path: &Path, record_bytes: u32, time: Duration) -> Report {
        let shard = &log.stats().shards[0];
        Report {
            backend: shard.backend,
            capabilities: shard.capabilities,
            path: path.display().to_string(),
            record_bytes,
            time,
            rows: Vec::new(),
            first_fill: Vec::new(),
            scan: None,
            crash: None,
            notices: Vec::new(),
        }
    }

    /// Where and how it was measured, in a line.
    pub fn about(&self) -> String {
        let capabilities = &self.capabilities;
        format!(
            "{} on {:?}{}{}; records of {} bytes; medians of {} runs of {:?}",
            self.backend,
            capabilities.file_system,
            if capabilities.direct { ", O_DIRECT" } else { ", through the page cache" },
            if capabilities.durable { "" } else { ", NOT DURABLE (memory)" },
            self.record_bytes,
            self.rows.first().map_or(0, |row| row.to_bare.len()),
            self.time,
        )
    }

    pub fn ratios(&self) -> impl Iterator<Item = Ratio<'_>> {
        self.rows.iter().map(|row| Ratio {
            name: &row.name,
            per_second: median(&row.records_per_second),
            to_bare: median(&row.to_bare),
            is_latency: row.one_by_one,
        })
    }

    pub fn table(&self) -> String {
        let mut text = self.about() + "\n";
        let _ = writeln!(
            text,
            "{:<24} {:>10} {:>8} {:>8} {:>7} {:>9} {:>9} {:>9} {:>8} {:>6} {:>6} {:>7}",
            "",
            "records/s",
            "MiB/s",
            "to bare",
            "to h-o",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "CPU ns",
            "fill",
            "amp",
            "rec/blk"
        );
        for row in &self.rows {
            let latency = |quantile| match row.latencies.len() {
                0 => "-".to_owned(),
                _ => format!("{:.0}", row.micros(quantile)),
            };
            let hand_over = match row.to_hand_over.len() {
                0 => "-".to_owned(),
                _ => format!("{:.2}", median(&row.to_hand_over)),
            };
            let _ = writeln!(
                text,
                "{:<24} {:>10.0} {:>8.1} {:>7.2}{} {:>7} {:>9} {:>9} {:>9} {:>8.0} {:>6.2} {:>6.2} {:>7.1}",
                row.name,
                median(&row.records_per_second),
                median(&row.payload_mib),
                median(&row.to_bare),
                if row.one_by_one { '*' } else { ' ' },
                hand_over,
                latency(0.5),
                latency(0.99),
                latency(0.999),
                median(&row.cpu_ns),
                median(&row.fill),
                median(&row.amplification),
                median(&row.records_per_block),
            );
        }
        text.push_str(
            "to bare: device bytes a second against bare io_uring writes of the same block size, in the same run\n\
             *: median latency against a bare pwritev2(RWF_DSYNC), lower is better\n\
             to h-o: records a second against the same threads that hand over to one that writes, one wake-up a batch, without a log\n\
             CPU: per record, all threads, system time included; fill: headers and records per device byte; amp: device bytes per payload byte\n",
        );
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
                json!({
                    "load": row.name,
                    "records_per_second": row.records_per_second,
                    "payload_mib_per_second": row.payload_mib,
                    "to_bare": row.to_bare,
                    "to_bare_is": if row.one_by_one { "median latency" } else { "device bytes a second" },
                    "to_hand_over": row.to_hand_over,
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
            "file_system": format!("{:?}", self.capabilities.file_system),
            "direct": self.capabilities.direct,
            "durable": self.capabilities.durable,
            "folder": self.path,
            "record_bytes": self.record_bytes,
            "seconds": self.time.as_secs_f64(),
            "loads": rows,
            "first_fill_of_steady_state": self.first_fill().map(|(_, ratio)| ratio),
            "scan": self.scan.as_ref().map(Scan::json),
            "crash": self.crash.as_ref().map(Crash::json),
            "notices": self.notices,
        })
    }
}
