//! `sawmill dump` and `sawmill tail`: records of a log, read beside its owner.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sawmill::log::LogReader;
use sawmill::{Log, Lsn, ReadError, Record, ShardId, error_chain};

use crate::show::Format;
use crate::start::Start;
use crate::{DAMAGED, Error};

/// Print the records of a log in the order of their times, or of one shard in its order.
#[derive(Debug, Args)]
pub struct Dump {
    /// The log's directory.
    dir: PathBuf,
    /// Of this shard alone.
    #[arg(long)]
    shard: Option<u16>,
    /// From this time on, such as 2026-11-27T20:00 (UTC), 2026-11-27T22:00+02:00, or 1795809600000000000ns as records
    /// are shown with it; or, of a shard or a key, from this LSN on.
    #[arg(long, value_name = "TIME|LSN")]
    from: Option<Start>,
    /// Of this key alone, in its order; with --shard, those that lie there, also where the key does not route to it.
    #[arg(long)]
    key: Option<OsString>,
    /// At most so many.
    #[arg(long)]
    limit: Option<usize>,
    /// How records are shown.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Print the last records of a log, and with --follow those that come.
#[derive(Debug, Args)]
pub struct Tail {
    /// The log's directory.
    dir: PathBuf,
    /// Of this shard alone.
    #[arg(long)]
    shard: Option<u16>,
    /// How many of each shard to begin with.
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
    /// Go on with what comes, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// How records are shown.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

type Records = dyn Iterator<Item = Result<Record, ReadError>>;

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Prints what there is and tells of damage; true if there was any.
fn print(
    records: impl Iterator<Item = Result<Record, ReadError>>,
    format: Format,
    out: &mut impl Write,
) -> Result<bool, Error> {
    let mut damaged = false;
    for record in records {
        match record {
            Ok(record) => format.write(&record, out)?,
            Err(error @ (ReadError::Damaged { .. } | ReadError::Truncated { .. })) => {
                eprintln!("sawmill: {}", error_chain(&error));
                damaged |= matches!(error, ReadError::Damaged { .. });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(damaged)
}

fn code(damaged: bool) -> ExitCode {
    if damaged { ExitCode::from(DAMAGED) } else { ExitCode::SUCCESS }
}

impl Dump {
    pub fn run(&self) -> Result<ExitCode, Error> {
        let log = Log::open_read_only(&self.dir)?;
        let mut out = BufWriter::new(io::stdout().lock());
        let records = self.records(&log)?;
        let damaged = print(records.take(self.limit.unwrap_or(usize::MAX)), self.format, &mut out)?;
        out.flush()?;
        Ok(code(damaged))
    }

    fn records(&self, log: &LogReader) -> Result<Box<Records>, Error> {
        let Some(key) = self.key.as_ref().map(|key| key.as_bytes()) else { return self.all_records(log) };
        let home = log.route(key);
        let shard = self.shard.map_or(home, ShardId);
        if shard != home {
            let key = key.to_owned();
            let is_meant = move |item: &Result<Record, ReadError>| {
                item.as_ref().map_or(true, |record| !key.is_empty() && record.key() == key)
            };
            return Ok(Box::new(self.all_records(log)?.filter(is_meant)));
        }
        let Some(from) = self.from else { return Ok(Box::new(log.read_key(key, ..)?)) };
        // From the first record there, whosever it is; told of what may hide earlier ones.
        let mut told = Vec::new();
        for item in Dump::records_of(log, shard, Some(from))? {
            match item {
                Ok(first) => {
                    let records = log.read_key(key, first.position()..)?;
                    return Ok(Box::new(told.into_iter().map(Err).chain(records)));
                }
                Err(error) => told.push(error),
            }
        }
        Ok(Box::new(told.into_iter().map(Err)))
    }

    fn all_records(&self, log: &LogReader) -> Result<Box<Records>, Error> {
        Ok(match (self.shard, self.from) {
            (Some(shard), from) => Dump::records_of(log, ShardId(shard), from)?,
            (None, Some(Start::Lsn(_))) => return Err("--from with an LSN needs --shard or --key".into()),
            (None, Some(Start::Time(time))) => Box::new(log.merged(time..)?),
            (None, None) => Box::new(log.merged(..)?),
        })
    }

    fn records_of(log: &LogReader, shard: ShardId, from: Option<Start>) -> Result<Box<Records>, Error> {
        let shard = log.shard(shard);
        Ok(match from {
            // An explicit start below the horizon is told; the default one is where the log begins.
            Some(Start::Lsn(lsn)) if lsn > 0 => Box::new(shard.read(Lsn(lsn)..)?),
            Some(Start::Time(time)) => Box::new(shard.read_from(time)?),
            _ => Box::new(shard.read(..)?),
        })
    }
}

impl Tail {
    pub fn run(&self) -> Result<ExitCode, Error> {
        let log = Log::open_read_only(&self.dir)?;
        let shards: Vec<u16> = self.shard.map_or_else(|| (0..log.shards()).collect(), |shard| vec![shard]);
        let mut out = BufWriter::new(io::stdout().lock());
        let mut damaged = false;
        let mut tails = Vec::new();
        for shard in shards.into_iter().map(ShardId) {
            let (last, end) = self.last(&log, shard, &mut damaged)?;
            tails.push(log.shard(shard).follow(end)?);
            print(last.into_iter().map(Ok), self.format, &mut out)?;
        }
        out.flush()?;
        if !self.follow {
            return Ok(code(damaged));
        }
        loop {
            std::thread::sleep(LOOK_EVERY);
            for tail in &mut tails {
                print(std::iter::from_fn(|| tail.next_timeout(Duration::ZERO)), self.format, &mut out)?;
            }
            out.flush()?;
        }
    }

    /// The last records of a shard, and where what comes will begin.
    fn last(&self, log: &LogReader, shard: ShardId, damaged: &mut bool) -> Result<(Vec<Record>, Lsn), Error> {
        let reader = log.shard(shard);
        let end = reader.durable_lsn()?;
        // Twice as far back each time, until there are enough or it is everything.
        let mut back = 1u64 << 20;
        loop {
            let from = Lsn(end.0.saturating_sub(back));
            let mut last = std::collections::VecDeque::new();
            for record in reader.read(from..end)? {
                match record {
                    Ok(record) => {
                        last.push_back(record);
                        if last.len() > self.lines {
                            last.pop_front();
                        }
                    }
                    Err(ReadError::Damaged { .. }) => *damaged = true,
                    Err(ReadError::Truncated { .. }) => back = u64::MAX,
                    Err(error) => return Err(error.into()),
                }
            }
            if last.len() >= self.lines || back >= end.0 {
                return Ok((last.into(), end));
            }
            back = back.saturating_mul(8);
        }
    }
}
