//! `sawmill tally`: the totals of a tally, once or as they change.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use sawmill::log::LogReader;
use sawmill::tally::{Count, Last, Max, Min, Sum};
use sawmill::{Log, TallyError};
use serde_json::json;

use crate::Error;
use crate::show::text;

/// Show the keys of a tally with the largest totals, as far as they are durable; also beside a running owner.
#[derive(Debug, Args)]
pub struct Tally {
    /// The tally's name.
    name: String,
    /// The log's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// How many keys; 0 for all.
    #[arg(long, short = 'n', default_value_t = 20)]
    top: usize,
    /// Show them anew every so many seconds, with what was added a second, until interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<f64>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
}

/// A key's total, whatever the fold.
enum Total {
    Number(i128),
    Bytes(Vec<u8>),
}

type Totals = Vec<(Vec<u8>, Total)>;

/// By the fold that the tally was made with, if it is one of ours.
fn totals(log: &LogReader, name: &str) -> Result<(&'static str, Totals), TallyError> {
    fn numbers<T: Into<i128>>(totals: Vec<(Vec<u8>, T)>) -> Totals {
        totals.into_iter().map(|(key, total)| (key, Total::Number(total.into()))).collect()
    }
    match log.tally::<Sum>(name) {
        Err(TallyError::OtherFold { .. }) => {}
        found => return found.map(|totals| ("sum", numbers(totals))),
    }
    match log.tally::<Count>(name) {
        Err(TallyError::OtherFold { .. }) => {}
        found => return found.map(|totals| ("count", numbers(totals))),
    }
    match log.tally::<Min>(name) {
        Err(TallyError::OtherFold { .. }) => {}
        found => return found.map(|totals| ("min", numbers(totals))),
    }
    match log.tally::<Max>(name) {
        Err(TallyError::OtherFold { .. }) => {}
        found => return found.map(|totals| ("max", numbers(totals))),
    }
    let last = log.tally::<Last>(name)?;
    Ok(("last", last.into_iter().map(|(key, total)| (key, Total::Bytes(total))).collect()))
}

impl Tally {
    pub fn run(&self) -> Result<ExitCode, Error> {
        let every = match self.watch {
            Some(seconds) if !(seconds > 0.0 && seconds < 86_400.0) => {
                return Err(format!("--watch {seconds}: seconds, above 0 and below a day").into());
            }
            every => every.map(Duration::from_secs_f64),
        };
        let log = Log::open_read_only(&self.dir)?;
        let mut before: HashMap<Vec<u8>, i128> = HashMap::new();
        let mut shown: Option<Instant> = None;
        loop {
            let (fold, mut all) = totals(&log, &self.name)?;
            let keys = all.len();
            // The largest first, and equal ones by their keys, in which order they are.
            all.sort_by_key(|(_, total)| match total {
                Total::Number(number) => std::cmp::Reverse(*number),
                Total::Bytes(_) => std::cmp::Reverse(0),
            });
            let most = if self.top == 0 { keys } else { self.top.min(keys) };
            let now = Instant::now();
            let seconds = shown.replace(now).map(|shown| now.duration_since(shown).as_secs_f64());
            self.show(fold, keys, &all[..most], seconds.map(|seconds| (&before, seconds)))?;
            let Some(every) = every else { return Ok(ExitCode::SUCCESS) };
            before.clear();
            before.extend(all.into_iter().filter_map(|(key, total)| match total {
                Total::Number(number) => Some((key, number)),
                Total::Bytes(_) => None,
            }));
            std::thread::sleep(every);
        }
    }

    fn show(
        &self,
        fold: &str,
        keys: usize,
        top: &[(Vec<u8>, Total)],
        before: Option<(&HashMap<Vec<u8>, i128>, f64)>,
    ) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        if self.json {
            let top: Vec<_> = top
                .iter()
                .map(|(key, total)| match total {
                    // As text where a double could not hold it.
                    Total::Number(number) => match i64::try_from(*number) {
                        Ok(number) => json!({ "key": text(key), "total": number }),
                        Err(_) => json!({ "key": text(key), "total": number.to_string() }),
                    },
                    Total::Bytes(bytes) => json!({ "key": text(key), "total": text(bytes) }),
                })
                .collect();
            writeln!(out, "{}", json!({ "tally": self.name, "fold": fold, "keys": keys, "top": top }))?;
            return Ok(());
        }
        writeln!(out, "{}: {fold}, {keys} keys", self.name)?;
        for (key, total) in top {
            match total {
                Total::Number(number) => {
                    let rate = before.map(|(before, seconds)| {
                        (number - before.get(key).copied().unwrap_or(0)) as f64 / seconds
                    });
                    let rate = rate.map_or_else(String::new, |rate| format!("  {rate:>+12.1}/s"));
                    writeln!(out, "{number:>20}{rate}  {}", text(key))?;
                }
                Total::Bytes(bytes) => writeln!(out, "{}  {}", text(bytes), text(key))?,
            }
        }
        Ok(out.flush()?)
    }
}
