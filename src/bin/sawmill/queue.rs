//! `sawmill queue`: what a queue has still to do, and its dead letters, which can be put back.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use sawmill::queue::{DeadLetter, QueueOptions, QueueSummary};
use sawmill::{Log, Options};
use serde_json::json;

use crate::Error;
use crate::show::text;

/// Show what a queue has still to do, and its dead letters, as they were written down last; also beside a running owner.
#[derive(Debug, Args)]
pub struct Queue {
    /// The queue's name.
    name: String,
    /// The log's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// How many dead letters, the newest; 0 for all.
    #[arg(long, short = 'n', default_value_t = 20)]
    letters: usize,
    /// Hand out again the dead letter at this position, as it is shown, or `all` of them. The log must not be open.
    #[arg(long, value_name = "POSITION")]
    requeue: Option<String>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Queue {
    pub fn run(&self) -> Result<ExitCode, Error> {
        if let Some(which) = &self.requeue {
            return requeue(&self.dir, &self.name, which);
        }
        let summary = Log::open_read_only(&self.dir)?.queue(&self.name)?;
        let all = &summary.rejected;
        let shown = if self.letters == 0 { all.len() } else { self.letters.min(all.len()) };
        self.show(&summary, &all[all.len() - shown..])?;
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, summary: &QueueSummary, letters: &[DeadLetter]) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        let QueueSummary { lag, handed_out, rejected, forgotten, .. } = summary;
        let age = lag.oldest.map(|age| age.as_secs_f64());
        if self.json {
            let letters: Vec<_> = letters
                .iter()
                .map(|letter| {
                    json!({ "position": letter.position().to_string(), "attempts": letter.attempts(),
                        "reason": letter.reason(), "rejected_at": letter.rejected_at(),
                        "key": letter.record().map(|record| text(record.key())),
                        "payload": letter.record().map(|record| text(record.payload())) })
                })
                .collect();
            let queue = json!({ "queue": self.name, "records": lag.records, "bytes": lag.bytes, "oldest_seconds": age,
                "handed_out": handed_out, "rejected": rejected.len(), "forgotten": forgotten, "letters": letters });
            writeln!(out, "{queue}")?;
            return Ok(());
        }
        let age = age.map_or_else(String::new, |age| format!(", over {age:.1} s"));
        writeln!(out, "{}: {} records not done, {} bytes{age}", self.name, lag.records, lag.bytes)?;
        writeln!(out, "{handed_out} of them in hand or waiting to be tried again")?;
        writeln!(out, "{} dead letters, {forgotten} forgotten", rejected.len())?;
        for letter in letters {
            let record = letter.record().map_or_else(
                || "(truncated)".to_owned(),
                |record| format!("{} {}", text(record.key()), text(record.payload())),
            );
            let (position, attempts) = (letter.position(), letter.attempts());
            writeln!(out, "{position} {attempts}x `{}` {record}", letter.reason())?;
        }
        Ok(out.flush()?)
    }
}

/// Opens the log, and puts dead letters back.
fn requeue(dir: &Path, name: &str, which: &str) -> Result<ExitCode, Error> {
    // Looked up first: opening would make a queue that is not there.
    let letters = Log::open_read_only(dir)?.queue(name)?.rejected;
    let is_meant = |letter: &&DeadLetter| which == "all" || letter.position().to_string() == which;
    let meant: Vec<_> = letters.iter().filter(is_meant).map(DeadLetter::position).collect();
    if meant.is_empty() && which != "all" {
        return Err(format!("there is no dead letter at {which}").into());
    }
    let log = Options::new().create(false).open(dir)?;
    // Nothing is handed out here, so nothing is to become a dead letter by its attempts.
    let queue = log.queue(name, QueueOptions::new().attempts(u32::MAX))?;
    let mut gone = 0;
    for position in &meant {
        match queue.requeue(*position) {
            Ok(()) => {}
            Err(sawmill::QueueError::Read(_)) => gone += 1,
            Err(error) => return Err(error.into()),
        }
    }
    queue.flush()?;
    log.close()?;
    println!("{} put back, {gone} are not in the log any more", meant.len() - gone);
    Ok(ExitCode::SUCCESS)
}
