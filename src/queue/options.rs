//! The settings of a queue, checked once.

use std::time::Duration;

use super::state::Limits;
use crate::error::QueueError;
use crate::time::nanos;

/// Records in hand, and records that wait to be handed out again: with their rows (48 bytes each) a state of some
/// megabytes, which is written within a blink.
const IN_HAND_MAX: usize = 65_536;
const WAITING_MAX: usize = 65_536;
/// With its reason a dead letter takes up to 250 bytes.
const DEAD_MAX: usize = 65_536;

/// How a queue hands out. For [`Log::queue`](crate::Log::queue).
///
/// ```
/// use std::time::Duration;
/// use sawmill::queue::QueueOptions;
///
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// let options = QueueOptions::new().lease(Duration::from_secs(60)).attempts(3).rate(500.0).in_hand(1_000);
/// let queue = log.queue("mailer", options)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct QueueOptions {
    lease: Duration,
    attempts: u32,
    rate: Option<f64>,
    in_hand: usize,
    /// Dead letters that are kept. Tests have fewer.
    pub(super) dead: usize,
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        QueueOptions {
            lease: Duration::from_secs(30),
            attempts: 5,
            rate: None,
            in_hand: 10_000,
            dead: DEAD_MAX,
        }
    }
}

impl QueueOptions {
    /// A lease of 30 seconds, 5 attempts, no bound on the rate, 10,000 records in hand.
    pub fn new() -> QueueOptions {
        QueueOptions::default()
    }

    /// How long a worker may hold a record, at least a millisecond; 30 seconds by default. If the worker has said nothing of
    /// it by then, the record is handed out again. [`extend`](super::Delivery::extend) is for what takes longer.
    pub fn lease(mut self, lease: Duration) -> QueueOptions {
        self.lease = lease;
        self
    }

    /// How often a record is handed out, at least once; 5 times by default. If it is not done after the last time, it is a
    /// dead letter.
    pub fn attempts(mut self, attempts: u32) -> QueueOptions {
        self.attempts = attempts;
        self
    }

    /// How many records are handed out in a second, to all workers together, those that are handed out again included; not
    /// bounded by default. After a pause a tenth of a second's worth comes at once.
    pub fn rate(mut self, per_second: f64) -> QueueOptions {
        self.rate = Some(per_second);
        self
    }

    /// How many records workers may hold at once, 1 to 65,536; 10,000 by default. With so many out, whoever asks for more
    /// waits.
    pub fn in_hand(mut self, records: usize) -> QueueOptions {
        self.in_hand = records;
        self
    }

    pub(super) fn limits(&self) -> Result<Limits, QueueError> {
        let invalid = |option, reason: String| Err(QueueError::Options { option, reason });
        if self.lease < Duration::from_millis(1) {
            return invalid("lease", format!("{:?} is less than a millisecond", self.lease));
        }
        if self.attempts == 0 {
            return invalid("attempts", "0 hands out nothing".to_owned());
        }
        if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return invalid("rate", format!("{rate} a second is no rate"));
        }
        if !(1..=IN_HAND_MAX).contains(&self.in_hand) {
            return invalid("in_hand", format!("{} is not within 1 and {IN_HAND_MAX}", self.in_hand));
        }
        Ok(Limits {
            lease_ns: nanos(self.lease),
            attempts: self.attempts,
            in_hand: self.in_hand,
            waiting: WAITING_MAX,
            dead: self.dead,
            per_second: self.rate,
        })
    }
}
