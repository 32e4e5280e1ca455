//! `sawmill tune`: what a device can do, and which options suit it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sawmill::ceiling::{Method, Tuned, tune};
use serde_json::json;

use crate::Error;

/// Measure a device, and print the options to use on it, with why.
#[derive(Debug, Args)]
pub struct Tune {
    /// A folder on the device. A quarter of a gigabyte is written there, and removed.
    dir: PathBuf,
    /// Seconds that it may take, about.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

fn name_of(method: Method) -> &'static str {
    match method {
        Method::WriteThrough => "RWF_DSYNC",
        Method::Flush => "fdatasync",
        _ => "plain",
    }
}

impl Tune {
    pub fn run(&self) -> Result<ExitCode, Error> {
        if !(self.seconds > 0.0 && self.seconds <= 3_600.0) {
            return Err("--seconds must be above 0 and at most 3600".into());
        }
        let found = tune(&self.dir, Duration::from_secs_f64(self.seconds))?;
        if self.json {
            println!("{}", as_json(&found));
        } else {
            print(&found);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(found: &Tuned) {
    let capabilities = &found.capabilities;
    let cache = match (capabilities.write_cache, capabilities.fua) {
        (Some(true), Some(true)) => "a volatile write cache, with FUA",
        (Some(true), _) => "a volatile write cache, without FUA",
        (Some(false), _) => "no volatile write cache",
        (None, _) => "a write cache of which the kernel says nothing",
    };
    println!("device     {:?}, on {:?}, {cache}", found.class, capabilities.file_system);
    println!(
        "writes     {}, {}",
        if capabilities.direct { "O_DIRECT" } else { "through the page cache" },
        if capabilities.durable { "durable once synced" } else { "NOT DURABLE" }
    );
    if let Some(measured) = capabilities.measured {
        println!("workers    {} of 100 writes go to worker threads", measured.worker_writes_percent);
    }
    println!("\n{:>9} {:>6} {:>6} {:>9} {:>12}", "block", "depth", "pages", "MiB/s", "CPU/MiB");
    for row in &found.bandwidth {
        println!(
            "{:>5} KiB {:>6} {:>6} {:>9.0} {:>12.0?}",
            row.block_bytes >> 10,
            row.depth,
            if row.huge_pages { "huge" } else { "4 KiB" },
            row.bytes_per_second / f64::from(1 << 20),
            row.cpu_per_mib,
        );
    }
    println!("\n{:>10} {:>8} {:>10} {:>10} {:>10}", "4 KiB", "depth", "p50", "p99", "per s");
    for row in &found.latency {
        let depth = if row.depth == 0 { "blocking".to_owned() } else { row.depth.to_string() };
        let method = name_of(row.method);
        println!("{method:>10} {depth:>8} {:>10.0?} {:>10.0?} {:>10.0}", row.median, row.p99, row.per_second);
    }
    println!();
    if found.advice.is_empty() {
        println!("the defaults suit this device");
    }
    for (option, why) in &found.advice {
        println!("use {option}\n    {why}");
    }
}

fn as_json(found: &Tuned) -> serde_json::Value {
    let bandwidth: Vec<_> = found
        .bandwidth
        .iter()
        .map(|row| {
            json!({ "block_bytes": row.block_bytes, "depth": row.depth, "huge_pages": row.huge_pages,
                "bytes_per_second": row.bytes_per_second, "cpu_ns_per_mib": row.cpu_per_mib.as_nanos() as u64 })
        })
        .collect();
    let latency: Vec<_> = found
        .latency
        .iter()
        .map(|row| {
            json!({ "method": name_of(row.method), "depth": row.depth, "p50_ns": row.median.as_nanos() as u64,
                "p99_ns": row.p99.as_nanos() as u64, "per_second": row.per_second })
        })
        .collect();
    let advice: Vec<_> =
        found.advice.iter().map(|(option, why)| json!({ "option": option, "why": why })).collect();
    json!({ "class": format!("{:?}", found.class), "file_system": format!("{:?}", found.capabilities.file_system),
        "direct": found.capabilities.direct, "durable": found.capabilities.durable,
        "bandwidth": bandwidth, "latency": latency, "advice": advice })
}
