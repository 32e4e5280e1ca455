//! Durable queues: each record in one worker's hands at a time, until it is done.
//!
//! A [consumer](crate::Consumer) reads a log in order and alone. A [`Queue`] has many workers, out of order: a record is
//! leased to one of them, who says that it is done, or when to try again, or that it is not to be tried any more. What nobody
//! says anything of is handed out again.
//!
//! From the bottom up: `state` decides, with `rate` and `dead` as parts of it; `feed` reads, `ahead` counts what it has still to read, `files` writes, `wait` knows
//! who waits; `core` ties them together, `take` and `delivery` are what workers hold, `open` knows all queues of a log, and
//! `peek` looks at one from outside.

mod backlog;
mod core;
mod dead;
mod delivery;
mod feed;
mod files;
mod open;
mod options;
mod peek;
mod rate;
mod state;
mod take;
mod wait;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use delivery::Delivery;
pub(crate) use open::{Place, Registry, end_all, hold_all, open, remove};
pub use options::QueueOptions;
pub use peek::QueueSummary;
pub(crate) use peek::peek;
pub use take::{Take, TakeBatch};

use self::core::Core;
use crate::error::{QueueError, ReadError};
use crate::format::DeadRecord;
use crate::position::Position;
use crate::read::Record;

/// Hands out the records of a log, each to one worker at a time, until it is done. By [`Log::queue`](crate::Log::queue).
///
/// It is a view of the *whole* log: to append is to enqueue, and every record comes, whatever its key, those of tallies
/// included.
///
/// Cheap to clone; all handles of one name are one queue, which lives as long as the log is open. Each record is handed
/// out at least once. Those of a shard come in their order; nothing is promised among workers.
///
/// What a queue is told is durable within about a second, or after [`flush`](Queue::flush). After a crash it goes on from
/// there: what was in somebody's hands is handed out at once, delays go on, what was durably done never comes again, and the
/// number of an attempt may be short by those of the last second.
///
/// **Retention and truncation delete records that this queue has not handed out yet**, unless its name is in
/// [`Options::retain_for`](crate::Options::retain_for). It is then told [`ReadError::Truncated`].
///
/// It ends, and gives `None`, when the log is closed, by [`stop`](Queue::stop), or once *all* shards have stopped. While
/// others go on, it hands out what a shard that has stopped had durable, and then nothing more of it: watch
/// [`ShardStats::failed`](crate::stats::ShardStats::failed).
///
/// A loop over a queue goes on after an error: one of [`take`](Queue::take) is about records that cannot be read, and one
/// of [`done`](Delivery::done) mostly says that the lease ran out.
///
/// ```
/// use std::time::Duration;
/// use sawmill::Log;
/// use sawmill::queue::QueueOptions;
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// log.append("to: you").wait()?;
///
/// let queue = log.queue("mailer", QueueOptions::new().lease(Duration::from_secs(60)))?;
/// let worker = std::thread::spawn(move || {
///     while let Some(delivery) = queue.take().wait() {
///         let delivery = match delivery {
///             Ok(delivery) => delivery,
///             Err(error) => {
///                 eprintln!("passed over: {error}"); // damaged or truncated: the next call goes on after it
///                 continue;
///             }
///         };
///         let settled = match delivery.record().payload() {
///             b"" => delivery.reject("empty"),
///             // ... send it; on failure `retry_after`. If this panics, it is handed out again.
///             _ => delivery.done(),
///         };
///         if let Err(error) = settled {
///             eprintln!("not settled: {error}"); // it took longer than its lease: another worker has it by now
///         }
///         # break;
///     }
/// });
/// worker.join().expect("no panic");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Queue(Arc<Core>);

/// What a queue has still to do. By [`Queue::lag`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// Records that are durable and not done: in hand and delayed ones too, dead letters not.
    pub records: u64,
    /// Bytes of their keys and payloads.
    pub bytes: u64,
    /// How long ago the oldest of them was appended, by the wall clock; `None` if there is none.
    pub oldest: Option<Duration>,
}

impl Queue {
    pub(crate) fn new(core: Arc<Core>) -> Queue {
        Queue(core)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Waits for a record, in a thread by [`wait`](Take::wait) or in a task by `.await`.
    pub fn take(&self) -> Take {
        Take::new(&self.0)
    }

    /// As `take().wait()`, for at most so long.
    ///
    /// `None` also if the time was over.
    ///
    /// # Errors
    /// See [`Take::wait`].
    #[must_use = "what is dropped without a word is handed out again"]
    pub fn take_timeout(&self, timeout: Duration) -> Option<Result<Delivery, ReadError>> {
        let told = TakeBatch::new(&self.0, 1).wait_timeout(timeout)?;
        Some(told.map(|mut batch| batch.pop().expect("one was asked for")))
    }

    /// Waits for a record, and takes with it what else is there, up to `most`. Each is settled by itself.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// # let queue = log.queue("mailer", sawmill::queue::QueueOptions::new())?;
    /// log.append_batch("key", &["one", "two"]).wait()?;
    /// let batch = queue.take_batch(100).wait().expect("it is open")?;
    /// assert_eq!(batch.len(), 2);
    /// // ... one transaction for all of them, then:
    /// batch.into_iter().try_for_each(|delivery| delivery.done())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If `most` is 0.
    pub fn take_batch(&self, most: usize) -> TakeBatch {
        assert!(most > 0, "a batch has at least one record");
        TakeBatch::new(&self.0, most)
    }

    /// What it has still to do.
    ///
    /// Counts what is durable now and was appended since it was last asked, which it reads for that; workers do not wait
    /// for it. What cannot be read is not counted. Nothing in a forked child.
    #[must_use]
    pub fn lag(&self) -> Lag {
        self.0.lag()
    }

    /// The dead letters, the oldest first: a copy of this moment. None in a forked child.
    ///
    /// At most 65,536 are kept. Beyond it the oldest goes, with a notice, and is [counted](Rejected::forgotten).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let log = sawmill::Log::open(dir.path())?;
    /// # let queue = log.queue("mailer", sawmill::queue::QueueOptions::new())?;
    /// # log.append(b"to: nobody").wait()?;
    /// queue.take().wait().expect("it is open")?.reject("no such address")?;
    /// for letter in queue.rejected() {
    ///     assert_eq!(letter.reason(), "no such address");
    ///     queue.requeue(letter.position())?; // Its attempts begin anew.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn rejected(&self) -> Rejected {
        let listed = self.0.act(|state, moment| {
            state.expire(moment);
            (state.dead().all().cloned().collect::<Vec<_>>(), state.dead().forgotten)
        });
        let (letters, forgotten) = listed.unwrap_or_default();
        Rejected { core: self.0.clone(), letters: letters.into_iter(), forgotten }
    }

    /// A dead letter is handed out again, as if it never had been.
    ///
    /// Reads the record first, to see whether it is still there.
    ///
    /// # Errors
    /// [`QueueError::NotRejected`] if there is no dead letter at this position; [`QueueError::Read`] if its record is not in
    /// the log any more.
    pub fn requeue(&self, position: Position) -> Result<(), QueueError> {
        self.0.requeue(position)
    }

    /// Makes durable what the queue was told.
    ///
    /// # Errors
    /// [`QueueError::Io`] where it cannot be written. After that nothing of this queue is written any more, since a failed
    /// sync is final; a reopen goes on from what was durable.
    pub fn flush(&self) -> Result<(), QueueError> {
        if !self.0.in_opening_process() {
            return Err(QueueError::Forked);
        }
        self.0.flush()
    }

    /// Lets all who wait for a record, and all who ask for one from now on, by any handle, have `None`. What is in hand can
    /// still be settled. Opening the queue again by its name lets it go on.
    pub fn stop(&self) {
        self.0.stop(true);
    }
}

/// The dead letters of a queue. By [`Queue::rejected`].
///
/// Each record is read when its letter is asked for.
#[derive(Debug)]
pub struct Rejected {
    core: Arc<Core>,
    letters: std::vec::IntoIter<DeadRecord>,
    forgotten: u64,
}

impl Rejected {
    /// Dead letters of this queue, over all its life, that are listed no more since there were too many.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

impl Iterator for Rejected {
    type Item = DeadLetter;

    fn next(&mut self) -> Option<DeadLetter> {
        let letter = self.letters.next()?;
        let record = self.core.get(letter.position).ok();
        Some(DeadLetter { letter, record })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.letters.size_hint()
    }
}

impl ExactSizeIterator for Rejected {}

/// A record that is handed out no more, and why. By [`Queue::rejected`].
#[derive(Clone)]
pub struct DeadLetter {
    letter: DeadRecord,
    record: Option<Record>,
}

impl DeadLetter {
    /// Where its record stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.letter.position
    }

    /// How often it was handed out.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.letter.attempts
    }

    /// What [`reject`](Delivery::reject) was given, up to 200 bytes of it; or how its last attempt ended.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.letter.reason
    }

    /// When it became one, by the wall clock, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn rejected_at(&self) -> u64 {
        self.letter.rejected
    }

    /// Its record, if it could be read: not once it was truncated.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }
}

impl fmt::Debug for DeadLetter {
    /// Without the contents, which are the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("position", &self.letter.position)
            .field("attempts", &self.letter.attempts)
            .field("reason", &self.letter.reason)
            .finish_non_exhaustive()
    }
}
