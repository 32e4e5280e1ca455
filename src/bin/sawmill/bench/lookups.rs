//! Records by their positions, here and there in the log, beside bare random reads of a granule.

use std::fmt;
use std::time::{Duration, Instant};

use sawmill::ceiling::BareFile;
use sawmill::{Log, Position, ReadError, ShardId};
use serde_json::{Value, json};

use super::report::median_by_ratio;
use crate::Error;

/// Records that are looked up at once.
const MANY: usize = 1024;

/// Reads in flight at once, bare.
const DEPTH: u32 = 32;

/// Positions that are kept to choose from.
const POSITIONS_MAX: usize = 1 << 18;

/// One repetition, the log's figure in front of the bare one.
#[derive(Clone, Copy)]
struct Figures {
    p50: (Duration, Duration),
    p99: (Duration, Duration),
    /// Records, and reads, a second with many at once.
    many: (f64, f64),
}

/// How long lookups take, and how many there are a second.
pub struct Lookups(Vec<Figures>);

impl Lookups {
    /// Measures on what the log holds; nothing if that is nothing.
    pub fn measure(
        log: &Log,
        bare: &BareFile,
        repeat: u32,
        time: Duration,
    ) -> Result<Option<Lookups>, Error> {
        let positions = positions(log)?;
        if positions.is_empty() {
            return Ok(None);
        }
        let mut choose = Choose { positions, number: 0 };
        let repetitions = (0..repeat).map(|_| Figures::measure(log, bare, &mut choose, time));
        Ok(Some(Lookups(repetitions.collect::<Result<_, _>>()?)))
    }

    fn medians(&self) -> [(f64, f64); 3] {
        let seconds = |(log, bare): (Duration, Duration)| (log.as_secs_f64(), bare.as_secs_f64());
        [
            median_by_ratio(self.0.iter().map(|figures| seconds(figures.p50))),
            median_by_ratio(self.0.iter().map(|figures| seconds(figures.p99))),
            median_by_ratio(self.0.iter().map(|figures| figures.many)),
        ]
    }

    pub fn json(&self) -> Value {
        let [p50, p99, many] = self.medians();
        json!({
            "p50_seconds": p50.0, "p50_to_bare": p50.0 / p50.1,
            "p99_seconds": p99.0, "p99_to_bare": p99.0 / p99.1,
            "many_records_per_second": many.0, "many_to_bare": many.0 / many.1,
        })
    }
}

impl Figures {
    fn measure(log: &Log, bare: &BareFile, choose: &mut Choose, time: Duration) -> Result<Figures, Error> {
        let mut took = Vec::new();
        let began = Instant::now();
        while began.elapsed() < time {
            let position = choose.next();
            let since = Instant::now();
            found(log.get(position))?;
            took.push(since.elapsed());
        }
        took.sort_unstable();
        let percentile = |percent: usize| took[(took.len() - 1) * percent / 100];
        let one = bare.random_reads(1, time)?;
        let (began, mut records) = (Instant::now(), 0);
        while began.elapsed() < time {
            let some: Vec<Position> = (0..MANY).map(|_| choose.next()).collect();
            for record in log.get_many(&some) {
                found(record)?;
            }
            records += some.len();
        }
        let many = records as f64 / began.elapsed().as_secs_f64();
        let beside = bare.random_reads(DEPTH, time)?;
        Ok(Figures {
            p50: (percentile(50), one.percentile(50.0)),
            p99: (percentile(99), one.percentile(99.0)),
            many: (many, beside.per_second()),
        })
    }
}

/// Retention may be at work still.
fn found(record: Result<sawmill::Record, ReadError>) -> Result<(), ReadError> {
    match record {
        Ok(_) | Err(ReadError::Truncated { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Some of all the log's positions, evenly.
fn positions(log: &Log) -> Result<Vec<Position>, Error> {
    let (mut kept, mut every, mut number) = (Vec::new(), 1, 0);
    for shard in 0..log.shards() {
        for record in log.shard(ShardId(shard)).read(..)? {
            let record = match record {
                Err(ReadError::Truncated { .. }) => continue,
                record => record?,
            };
            if number % every == 0 {
                kept.push(record.position());
            }
            number += 1;
            if kept.len() == POSITIONS_MAX {
                let mut index = 0;
                kept.retain(|_| {
                    index += 1;
                    index % 2 == 0
                });
                every *= 2;
            }
        }
    }
    Ok(kept)
}

/// One of so many, in an order that jumps.
pub fn jumping(number: u64, of: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    (number.wrapping_mul(GOLDEN) >> 16) % of
}

/// Positions in an order that jumps.
struct Choose {
    positions: Vec<Position>,
    number: u64,
}

impl Choose {
    fn next(&mut self) -> Position {
        self.number += 1;
        self.positions[jumping(self.number, self.positions.len() as u64) as usize]
    }
}

impl fmt::Display for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, many] = self.medians();
        let micros = |seconds: f64| seconds * 1e6;
        write!(
            f,
            "a record by its position took {:.0} us (p99 {:.0} us), {:.2} ({:.2}) of a bare read of 4 KiB; \
             many at once {:.0} thousand a second, {:.2} of bare reads at depth {DEPTH}",
            micros(p50.0),
            micros(p99.0),
            p50.0 / p50.1,
            p99.0 / p99.1,
            many.0 / 1e3,
            many.0 / many.1,
        )
    }
}
