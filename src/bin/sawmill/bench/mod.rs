//! `sawmill bench`: the main job, measured.

mod chart;
mod crash;
mod floods;
mod keys;
mod loads;
mod lookups;
mod overload;
mod page;
mod report;
mod scan;
mod sweep;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sawmill::ceiling::{BareFile, DriveModel, Method, ModelledDrive, Writes};
use sawmill::{Backend, Durability, Log, Options};

use keys::Keys;
use loads::{Ceiling, Load, Outcome};
use lookups::Lookups;
use overload::Overload;
use report::{Report, Row};
use scan::Scan;
use sweep::Sweep;

use crate::Error;

/// Larger than any drive's cache of recently written blocks would help with, small enough to make.
const BARE_BYTES: u64 = 512 << 20;
const RETAIN_BYTES: u64 = 512 << 20;

/// Ingest records, beside the same writes without the engine; then kill a writer and check.
///
/// Figures are medians of interleaved repetitions: the engine, then the bare writes, and again. Only
/// what was durable (or written, where it says so) before the clock stopped counts, and what is
/// still there of it is read back.
#[derive(Debug, Args)]
pub struct Bench {
    /// Where to write: a folder to make the files in; by default a temporary one, in the working
    /// directory's file system if that can be written to.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Repetitions of each.
    #[arg(long, default_value_t = 5)]
    repeat: u32,
    /// Bytes of each record.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    record_bytes: u32,
    /// Shards of the log.
    #[arg(long, default_value_t = 1)]
    shards: u16,
    /// Only the loads whose name contains this; an error that lists the loads if there is none.
    #[arg(long)]
    only: Option<String>,
    /// The driver: auto, uring or syscall.
    #[arg(long, default_value = "auto", value_parser = ["auto", "uring", "syscall"])]
    backend: String,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Measure more (throughput by records in flight, latency by load, both over time), and write all of it as a
    /// page with plots to this file.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Seconds of sustained ingest for the report.
    #[arg(long, default_value_t = 20.0)]
    series_seconds: f64,
    /// On a drive that is modelled in real time, in place of this machine's: nvme-plp (12 us, 6 GiB/s), cloud (80 us, 1
    /// GiB/s), consumer (30 us, 500 MiB/s, a flush of 1.5 ms), or steady:LATENCY_US:MIB_PER_S. The files lie in memory
    /// (/dev/shm) unless --dir says otherwise.
    #[arg(long, value_name = "NAME", value_parser = clap::value_parser!(DriveModel))]
    model: Option<DriveModel>,
    /// Only what happens when more comes than the log can take, beside servers that do not refuse: on a modelled drive, by
    /// default steady:1000:48.
    #[arg(long)]
    overload: bool,
    #[command(flatten)]
    child: crash::Child,
}

impl Bench {
    pub fn run(&self) -> Result<ExitCode, Error> {
        if let Some(dir) = self.child.directory() {
            return crash::write_until_killed(dir).map(|()| ExitCode::SUCCESS);
        }
        if !(self.seconds > 0.0 && self.seconds <= 3_600.0 && self.repeat > 0) {
            return Err("--seconds and --repeat must be above 0, and --seconds at most 3600".into());
        }
        if !(self.series_seconds > 0.0 && self.series_seconds <= 86_400.0) {
            return Err("--series-seconds must be above 0 and at most 86400".into());
        }
        if self.overload {
            let overload = self.measure_overload()?;
            match self.json {
                true => println!("{}", overload.json()),
                false => println!("{overload}"),
            }
            return Ok(ExitCode::SUCCESS);
        }
        // Told before minutes of measuring.
        let loads = self.loads()?;
        let page = self
            .report
            .as_ref()
            .map(|file| std::fs::File::create(file).map_err(|error| format!("{}: {error}", file.display())));
        let page = page.transpose()?;
        let place = Place::make(self.dir.as_deref(), self.model.is_some())?;
        let (report, sweep) = self.measure(&place, &loads)?;
        // The next one has the same name.
        drop(place);
        if let (Some(mut page), Some(sweep)) = (page, &sweep) {
            let overload = self.measure_overload()?;
            std::io::Write::write_all(&mut page, page::page(&report, sweep, &overload)?.as_bytes())?;
        }
        if self.json {
            println!("{}", report.json());
        } else {
            print!("{}", report.table());
            if let Some(sweep) = &sweep {
                println!("{sweep}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Of each multiple of what the log can take: the controller looks ten times a second.
    fn overload_time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds * 4.0)
    }

    fn measure_overload(&self) -> Result<Overload, Error> {
        let place = Place::make(self.dir.as_deref(), true)?;
        Overload::measure(place.path(), self.model.unwrap_or(overload::DRIVE), self.overload_time())
    }

    fn options(&self) -> Options {
        let backend = match self.backend.as_str() {
            "uring" => Backend::Uring,
            "syscall" => Backend::Syscall,
            _ => Backend::Auto,
        };
        Options::new()
            .shards(self.shards)
            .backend(backend)
            .retain_bytes(RETAIN_BYTES / u64::from(self.shards))
    }

    /// The loads that were asked for, one at least.
    fn loads(&self) -> Result<Vec<Load>, Error> {
        let all = Load::all(self.record_bytes);
        let Some(only) = &self.only else { return Ok(all) };
        let wanted: Vec<Load> =
            all.iter().filter(|load| load.name().contains(only.as_str())).cloned().collect();
        if wanted.is_empty() {
            let names: Vec<&str> = all.iter().map(Load::name).collect();
            return Err(format!("no load matches --only {only:?}; there are: {}", names.join("; ")).into());
        }
        Ok(wanted)
    }

    fn measure(&self, place: &Place, loads: &[Load]) -> Result<(Report, Option<Sweep>), Error> {
        let time = Duration::from_secs_f64(self.seconds);
        let sweeps = if self.report.is_some() { Sweep::STEPS } else { 0 };
        let bar = self.progress(2 + loads.len() as u64 * (u64::from(self.repeat) + 1) + sweeps + 1);
        bar.set_message("making the bare file");
        let drive = self.model.map(ModelledDrive::new);
        let bare = match &drive {
            Some(drive) => BareFile::make_on(drive, place.path(), BARE_BYTES)?,
            None => BareFile::make(place.path(), BARE_BYTES)?,
        };
        bar.inc(1);
        let options = drive.iter().fold(self.options(), |options, drive| drive.put_under(options));
        let log = options.clone().open(place.path().join("log"))?;
        let mut report = Report::new(&log, self.model, place.path(), self.record_bytes, time);
        bar.set_message("warming up");
        drive.iter().for_each(|drive| drive.set_unlimited(true));
        warm_up(&log)?;
        drive.iter().for_each(|drive| drive.set_unlimited(false));
        bar.inc(1);
        for load in loads {
            bar.set_message(load.name().to_owned());
            load.run(&log, time / 4)?;
            bar.inc(1);
            let mut row = Row::new(load);
            for _ in 0..self.repeat {
                let outcome = load.run(&log, time)?;
                row.add(&outcome, self.ceiling(&bare, load, &outcome, time)?);
                if load.is_plain_bulk() {
                    let steady = outcome.records as f64 / outcome.elapsed.as_secs_f64();
                    let fresh = first_fill(&options, &place.path().join("fresh"), load, time)?;
                    report.first_fill.push((fresh, steady));
                }
                bar.inc(1);
            }
            report.rows.push(row);
        }
        let mut sweep = None;
        if self.report.is_some() {
            let series = Duration::from_secs_f64(self.series_seconds);
            sweep =
                Some(Sweep::measure(&log, &bare, self.record_bytes, time, self.repeat, series, |what| {
                    bar.set_message(what.to_owned());
                    bar.inc(1);
                })?);
        }
        bar.set_message("reading all of it");
        report.scan = Some(Scan::measure(&log, &bare, self.repeat)?);
        bar.set_message("looking records up");
        report.lookups = Lookups::measure(&log, &bare, self.repeat, time)?;
        bar.set_message("a million keys");
        report.keys = Some(Keys::measure(&log, self.record_bytes, self.repeat, time)?);
        report.notices = log.stats().notices;
        log.close()?;
        bar.set_message("killing a writer");
        report.crash = Some(crash::kill_and_check(place.path())?);
        bar.finish_and_clear();
        Ok((report, sweep))
    }

    /// The load's ceiling, measured right after it.
    fn ceiling(&self, file: &BareFile, load: &Load, outcome: &Outcome, time: Duration) -> Result<f64, Error> {
        match load.ceiling() {
            Ceiling::HandOver(threads) => {
                Ok(file.handed_over(threads, self.record_bytes as usize, time / 2)?.per_second())
            }
            Ceiling::Latency => {
                Ok(file.blocking(4096, Method::WriteThrough, time)?.percentile(50.0).as_secs_f64())
            }
            Ceiling::Writes => bare_writes(file, load, outcome, time),
        }
    }

    fn progress(&self, steps: u64) -> ProgressBar {
        if self.json {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

/// Records a second of a log that is new, whose segments are filled with zeros first.
fn first_fill(options: &Options, path: &Path, load: &Load, time: Duration) -> Result<f64, Error> {
    let log = options.clone().open(path)?;
    // Long enough for the segments to have grown to their size.
    let outcome = load.run(&log, time * 2)?;
    log.close()?;
    std::fs::remove_dir_all(path)?;
    Ok(outcome.records as f64 / outcome.elapsed.as_secs_f64())
}

/// What a modelled drive is like.
fn in_words(drive: DriveModel) -> String {
    let DriveModel { latency, bytes_per_second, flush, write_cache, .. } = drive;
    let flush = if write_cache { format!(", a flush of {flush:?}") } else { String::new() };
    format!("{latency:?}, {} MiB/s{flush}", bytes_per_second >> 20)
}

/// Fills the log until it recycles its segments: the steady state of a log with retention.
fn warm_up(log: &Log) -> Result<(), Error> {
    let payload = vec![1u8; 64 << 10];
    // The second time into segments that retention, which looks once a second, has given up after the first.
    for bytes in [RETAIN_BYTES * 2, RETAIN_BYTES] {
        for _ in 0..bytes / payload.len() as u64 {
            let write = sawmill::Write::new(&payload).durability(Durability::Written);
            drop(log.append(write).admitted().wait()?);
        }
        log.sync().wait()?;
        std::thread::sleep(Duration::from_millis(1_500));
    }
    Ok(())
}

/// The same writes without the engine: bare blocks of the size that the engine's had, at whatever
/// of a few depths does best.
fn bare_writes(file: &BareFile, load: &Load, outcome: &Outcome, time: Duration) -> Result<f64, Error> {
    let durable = load.is_durable();
    let block_bytes = if durable { outcome.mean_block_bytes() } else { 256 << 10 };
    let method = if durable { Method::WriteThrough } else { Method::Behind };
    let depths: &[u32] = if durable { &[1, 2, 4] } else { &[8, 16] };
    let mut best: f64 = 0.0;
    for &depth in depths {
        let writes = Writes { block_bytes, depth, method };
        let share = time / depths.len() as u32;
        let bare = match file.uring(&writes, share) {
            Ok(bare) => bare,
            Err(_) => file.blocking(block_bytes, method, share)?,
        };
        best = best.max(bare.bytes_per_second());
    }
    Ok(best)
}

/// A folder for the run, removed at its end.
struct Place(PathBuf);

impl Place {
    /// In memory where the drive is a modelled one.
    fn make(asked: Option<&Path>, is_modelled: bool) -> Result<Place, Error> {
        let name = format!("sawmill-bench-{}", std::process::id());
        if let Some(asked) = asked {
            let path = asked.join(name);
            std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            return Ok(Place(path.canonicalize()?));
        }
        let memory = is_modelled.then(|| PathBuf::from("/dev/shm"));
        let here = std::env::current_dir()?;
        // The temporary directory is often memory, which says nothing of a disk.
        for parent in memory.into_iter().chain([here.join("target"), here, std::env::temp_dir()]) {
            let path = parent.join(&name);
            if std::fs::create_dir(&path).is_ok() {
                return Ok(Place(path));
            }
        }
        Err("no folder to write in; give one with --dir".into())
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
