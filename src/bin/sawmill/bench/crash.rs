//! Kills a writer in mid-ingest and looks whether what it was told is true.

use std::fmt;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use sawmill::{Log, Options, Position};
use serde_json::{Value, json};

use crate::Error;

/// After this many acknowledgements the child is killed.
const ACKNOWLEDGEMENTS: usize = 20_000;

/// How the child is told what it is.
#[derive(Debug, Args)]
pub struct Child {
    /// Write to this log and print each acknowledgement, until killed.
    #[arg(long, hide = true)]
    write_until_killed: Option<PathBuf>,
}

impl Child {
    pub fn directory(&self) -> Option<&Path> {
        self.write_until_killed.as_deref()
    }
}

/// What came of it.
pub struct Crash {
    acknowledged: usize,
    recovered: usize,
    reopened_in: std::time::Duration,
}

impl Crash {
    pub fn json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged,
            "recovered": self.recovered,
            "reopen_ms": self.reopened_in.as_secs_f64() * 1e3,
        })
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a writer was killed after {} acknowledgements: all {} are there, once and in order; {} records \
             in all; reopened in {:.1} ms",
            self.acknowledged,
            self.acknowledged,
            self.recovered,
            self.reopened_in.as_secs_f64() * 1e3
        )
    }
}

/// The child: eight threads append and say what they were told, one line each.
pub fn write_until_killed(dir: &Path) -> Result<(), Error> {
    let log = Options::new().shards(2).open(dir)?;
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let log = &log;
            scope.spawn(move || {
                for sequence in 0u64.. {
                    let payload = [thread.to_le_bytes(), sequence.to_le_bytes()].concat();
                    let Ok(position) = log.append(payload).wait() else { return };
                    let line = format!("{thread} {sequence} {}\n", hex(&position.to_bytes()));
                    if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

pub fn kill_and_check(place: &Path) -> Result<Crash, Error> {
    let dir = place.join("crash");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["bench", "--write-until-killed"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no pipe to the child")?;
    let mut lines = BufReader::new(output).lines();
    let mut acknowledged = Vec::new();
    for line in lines.by_ref() {
        acknowledged.push(parse(&line?).ok_or("the child speaks strangely")?);
        if acknowledged.len() == ACKNOWLEDGEMENTS {
            child.kill()?;
            break;
        }
    }
    // What was in the pipe when it died had been acknowledged, too; a line may be cut in two.
    acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| parse(&line)));
    child.wait()?;
    if acknowledged.len() < ACKNOWLEDGEMENTS {
        return Err(format!("the child ended by itself after {} records", acknowledged.len()).into());
    }
    check(&dir, &acknowledged)
}

type Acknowledgement = (u64, u64, Position);

fn parse(line: &str) -> Option<Acknowledgement> {
    let mut words = line.split(' ');
    let thread = words.next()?.parse().ok()?;
    let sequence = words.next()?.parse().ok()?;
    let text = words.next().filter(|text| text.len() == 32)?;
    Some((thread, sequence, Position::from_bytes(unhex(text)?)))
}

fn check(dir: &Path, acknowledged: &[Acknowledgement]) -> Result<Crash, Error> {
    let began = std::time::Instant::now();
    let log = Log::open(dir)?;
    let reopened_in = began.elapsed();
    for (thread, sequence, position) in acknowledged {
        let record = log
            .get(*position)
            .map_err(|error| format!("an acknowledged record: {}", sawmill::error_chain(&error)))?;
        if record.payload() != [thread.to_le_bytes(), sequence.to_le_bytes()].concat() {
            return Err(format!("the record at {position} is another one").into());
        }
    }
    // Once and in order, per thread, and nothing else.
    let mut next = [0u64; 8];
    let mut recovered = 0;
    for record in log.merged(..)? {
        let record = record?;
        let field = |at: usize| record.payload()[at..at + 8].try_into().map(u64::from_le_bytes);
        let (thread, sequence) = (field(0)? as usize, field(8)?);
        if sequence != next[thread] {
            return Err(format!("thread {thread}: record {sequence} where {} belongs", next[thread]).into());
        }
        next[thread] += 1;
        recovered += 1;
    }
    log.close()?;
    Ok(Crash { acknowledged: acknowledged.len(), recovered, reopened_in })
}
