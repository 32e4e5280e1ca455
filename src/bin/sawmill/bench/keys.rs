//! Appends with a million keys, in turn with appends that all have one key, into one log.

use std::fmt;
use std::time::{Duration, Instant};

use sawmill::{AppendError, Log, Write};
use serde_json::{Value, json};

use super::lookups::jumping;
use super::report::median_by_ratio;
use crate::Error;

const MANY: u64 = 1_000_000;

/// Durable appends that are kept in flight.
const WINDOW: usize = 1024;

/// Keys whose last record is asked for.
const LOOKUPS: u64 = 1024;

/// One repetition: records a second with many keys, and with one.
#[derive(Clone, Copy)]
struct Figures {
    bulk: (f64, f64),
    window: (f64, f64),
    /// The last record of a key that was written lately.
    last: Duration,
}

/// What a million keys cost.
pub struct Keys(Vec<Figures>);

impl Keys {
    pub fn measure(log: &Log, record_bytes: u32, repeat: u32, time: Duration) -> Result<Keys, Error> {
        let payload = vec![7; record_bytes as usize];
        let repetitions = (0..repeat).map(|_| Figures::measure(log, &payload, time));
        Ok(Keys(repetitions.collect::<Result<_, _>>()?))
    }

    fn medians(&self) -> [(f64, f64); 3] {
        [
            median_by_ratio(self.0.iter().map(|figures| figures.bulk)),
            median_by_ratio(self.0.iter().map(|figures| figures.window)),
            median_by_ratio(self.0.iter().map(|figures| (figures.last.as_secs_f64(), 1.0))),
        ]
    }

    pub fn json(&self) -> Value {
        let [bulk, window, last] = self.medians();
        json!({
            "bulk_records_per_second": bulk.0, "bulk_to_one_key": bulk.0 / bulk.1,
            "window_records_per_second": window.0, "window_to_one_key": window.0 / window.1,
            "last_seconds": last.0,
        })
    }
}

impl Figures {
    fn measure(log: &Log, payload: &[u8], time: Duration) -> Result<Figures, Error> {
        let bulk = (bulk(log, payload, MANY, time)?, bulk(log, payload, 1, time)?);
        let window = (window(log, payload, MANY, time)?, window(log, payload, 1, time)?);
        for number in 0..LOOKUPS {
            log.post(Write::new(payload).key(key(number, MANY)))?;
        }
        let began = Instant::now();
        for number in 0..LOOKUPS {
            log.last(&key(number, MANY))?.ok_or("a record that was just appended is not found by its key")?;
        }
        Ok(Figures { bulk, window, last: began.elapsed() / LOOKUPS as u32 })
    }
}

/// Keys in an order that jumps.
fn key(number: u64, keys: u64) -> [u8; 8] {
    jumping(number, keys).to_be_bytes()
}

/// Records a second, as fast as one thread hands them over, until all are durable.
fn bulk(log: &Log, payload: &[u8], keys: u64, time: Duration) -> Result<f64, AppendError> {
    let (began, mut number) = (Instant::now(), 0);
    while began.elapsed() < time {
        for _ in 0..256 {
            log.post(Write::new(payload).key(key(number, keys)))?;
            number += 1;
        }
    }
    log.sync().wait()?;
    Ok(number as f64 / began.elapsed().as_secs_f64())
}

/// Records a second that became durable, with so many in flight.
fn window(log: &Log, payload: &[u8], keys: u64, time: Duration) -> Result<f64, AppendError> {
    let mut flying = log.window(WINDOW);
    let (began, mut number) = (Instant::now(), 0);
    while began.elapsed() < time {
        for _ in 0..256 {
            flying.push(Write::new(payload).key(key(number, keys)))?;
            number += 1;
        }
    }
    for position in flying {
        position?;
    }
    Ok(number as f64 / began.elapsed().as_secs_f64())
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bulk, window, last] = self.medians();
        write!(
            f,
            "with a million keys {:.0} thousand records/s in bulk, {:.2} of the rate with one key, and {:.0} thousand \
             durable in a window of {WINDOW}, {:.2}; the last record of a key written lately took {:.1} us",
            bulk.0 / 1e3,
            bulk.0 / bulk.1,
            window.0 / 1e3,
            window.0 / window.1,
            last.0 * 1e6,
        )
    }
}
