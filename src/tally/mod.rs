//! Tallies: running totals by key that lose nothing, at a fraction of the writes.
//!
//! A server that counts likes, views or bytes would write a record for each. A [`Tally`] adds updates up in
//! memory, on each core by itself, and flushes what has come together every so often: one compact change a
//! key, all in one atomic batch. Each update has a handle that resolves when the flush that carries it is
//! durable, and after any crash the totals are exactly those of the flushes that are there.
//!
//! From the bottom up: `fold` says how changes add up, `table` and `totals` hold them, `ledger`
//! accumulates them, `wire` is what a flush looks like in the log, `flush` writes it, and `replay` reads it
//! again from where `anchor` says.

mod anchor;
mod error;
mod flush;
mod flush_when;
mod fold;
mod history;
mod ledger;
mod open;
mod records;
mod replay;
mod table;
mod totals;
mod update;
mod wire;

#[cfg(test)]
mod tests;

use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

pub use error::{TallyError, UpdateError};
pub use fold::{Count, Fold, Last, Max, Min, Sum};
pub use history::History;
pub(crate) use open::{Place, Registry, ask_checkpoints, end_all, hold_all, open, peek, remove};
pub use replay::TALLY_KEY_PREFIX;
pub use update::Update;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use wire::decode_any;

use flush::Core;

/// How a tally accumulates.
///
/// ```
/// use std::time::Duration;
/// use sawmill::tally::{Sum, TallyOptions};
///
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// let options = TallyOptions::new().interval(Duration::from_millis(20)).keys(10_000_000);
/// let bytes = log.tally_with::<Sum>("bytes", &options)?;
/// bytes.add(b"user:7", 1_500).wait()?; // durable after some 20 ms
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TallyOptions {
    interval: Duration,
    bytes: usize,
    keys: usize,
}

impl Default for TallyOptions {
    fn default() -> TallyOptions {
        TallyOptions { interval: Duration::from_millis(100), bytes: 8 << 20, keys: 1 << 20 }
    }
}

impl TallyOptions {
    /// 100 ms, 8 MiB, 1,048,576 keys.
    pub fn new() -> TallyOptions {
        TallyOptions::default()
    }

    /// How long an update may wait until it is flushed; 100 ms by default. Shorter is sooner durable, longer is fewer bytes.
    pub fn interval(mut self, interval: Duration) -> TallyOptions {
        self.interval = interval;
        self
    }

    /// Memory for what is not flushed yet, at least 64 KiB; 8 MiB by default. It takes a key and some 50 bytes for each key
    /// on each core that updates it. At half of it a flush comes early; at all of it an update of a key that is not there yet is refused.
    /// At most half of the largest record ([`Options::record_bytes`](crate::Options::record_bytes)) is used, so
    /// that a flush is one batch.
    pub fn bytes(mut self, bytes: usize) -> TallyOptions {
        self.bytes = bytes;
        self
    }

    /// Keys that the tally may have, 1 to 2^31; 1,048,576 by default. Each takes its own bytes and some 50 more in memory for as long as the
    /// log is open.
    pub fn keys(mut self, keys: usize) -> TallyOptions {
        self.keys = keys;
        self
    }
}

/// [`TallyOptions`], checked against a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    interval: Duration,
    bytes: usize,
    keys: usize,
    /// Key and value together.
    entry_bytes: usize,
    /// Entries are put into records of about this size.
    record_bytes: usize,
    /// A batch holds no more.
    batch_bytes: usize,
    /// What each record of a batch takes beside key and payload.
    overhead_bytes: usize,
    /// The anchor is written, which costs a sync, once it would move by so much.
    anchor_step_bytes: u64,
    /// An idle tally writes its totals anew once the log has so much more than it needs to be read.
    idle_lag_bytes: u64,
}

impl Limits {
    fn of(options: &TallyOptions, batch_bytes: u64, segment_bytes: u64) -> Result<Limits, TallyError> {
        let invalid = |option, reason: String| Err(TallyError::Options { option, reason });
        let batch_bytes = usize::try_from(batch_bytes).unwrap_or(usize::MAX).min(16 << 20);
        if batch_bytes < 16 << 10 {
            return invalid(
                "record_bytes",
                format!("{batch_bytes} is less than the 16 KiB that a tally needs"),
            );
        }
        if options.bytes < 64 << 10 {
            return invalid("TallyOptions::bytes", format!("{} is less than 64 KiB", options.bytes));
        }
        if options.keys == 0 || options.keys > 1 << 31 {
            return invalid("TallyOptions::keys", format!("{} is not within 1 and 2^31", options.keys));
        }
        Ok(Limits {
            interval: options.interval,
            // So that a flush, with the totals that it takes along, is one batch: an entry is never larger in the
            // log than it was in memory.
            bytes: options.bytes.min(batch_bytes / 2),
            keys: options.keys,
            entry_bytes: (batch_bytes / 16).min(32 << 10),
            record_bytes: (batch_bytes / 8).min(64 << 10),
            batch_bytes,
            overhead_bytes: 64,
            anchor_step_bytes: (segment_bytes / 8).min(1 << 20),
            idle_lag_bytes: (segment_bytes * 4).min(64 << 20),
        })
    }
}

/// Running totals by key, durable in a log. By [`Log::tally`](crate::Log::tally).
///
/// Cheap to clone; all handles of one name share one tally, which lives as long as the log is open. A hot key
/// costs no contention: each core adds up by itself.
///
/// After a crash each update is there wholly or not at all, and never twice; those whose handle resolved
/// are there.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// let likes = log.tally("likes")?;
/// likes.add(b"post:1", 1).accepted()?; // counted; durable within about 100 ms
/// likes.add(b"post:1", 2).wait()?;     // the same, waited for
/// assert_eq!(likes.get(b"post:1"), Some(3));
/// assert_eq!(likes.durable(b"post:1"), Some(3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Tally<F: Fold = Sum>(Arc<Core<F>>);

impl<F: Fold> Clone for Tally<F> {
    fn clone(&self) -> Tally<F> {
        Tally(self.0.clone())
    }
}

impl Tally<Sum> {
    /// Adds to a key's sum; the amount may be negative.
    ///
    /// Costs a look into a table: no system call, and no allocation but now and then for a key that this core
    /// has not seen since the last flush.
    #[inline]
    pub fn add(&self, key: impl AsRef<[u8]>, amount: i64) -> Update<'_, Sum> {
        self.update(key, amount)
    }
}

impl Tally<Count> {
    /// Counts one more.
    #[inline]
    pub fn increment(&self, key: impl AsRef<[u8]>) -> Update<'_, Count> {
        self.update(key, ())
    }
}

impl<F: Fold> Tally<F> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Adds a change to a key's total. It is counted, or refused, in this call, whether the handle is looked
    /// at or not: [`Update::accepted`] tells.
    #[inline]
    pub fn update(&self, key: impl AsRef<[u8]>, change: F::Change) -> Update<'_, F> {
        Update::new(&self.0, self.0.update(key.as_ref(), change))
    }

    /// A key's total with everything that was counted, durable or not; `None` if there is nothing, and in a
    /// forked child, whose tally it is not.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<F::Total> {
        if !self.0.in_opening_process() {
            return None;
        }
        self.0.ledger.get(key.as_ref()).as_ref().and_then(F::total)
    }

    /// A key's total as far as it is durable: what a crash at this moment would leave at the least. `None` as in
    /// [`get`](Tally::get).
    pub fn durable(&self, key: impl AsRef<[u8]>) -> Option<F::Total> {
        if !self.0.in_opening_process() {
            return None;
        }
        self.0.ledger.totals().get(key.as_ref()).as_ref().and_then(F::total)
    }

    /// All keys in order with their totals, with everything that was counted: a copy of this moment. None in a
    /// forked child.
    pub fn totals(&self) -> Totals<F> {
        if !self.0.in_opening_process() {
            return Totals(Vec::new().into_iter());
        }
        let mut all = self.0.ledger.snapshot();
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Totals(all.into_iter())
    }

    /// Makes everything that was counted before this call durable, without waiting for the interval.
    ///
    /// # Errors
    /// Where a flush failed, now or before.
    pub fn flush(&self) -> Result<(), TallyError> {
        self.0.flush()
    }

    /// How a key's total has changed within a range of times (nanoseconds since the Unix epoch), at the grain
    /// of the flushes, from the oldest one that the log still has.
    ///
    /// Reads the shard's log from its beginning: for now and then.
    ///
    /// # Errors
    /// Where there is no memory for the reader. Errors in reading come from the iterator.
    pub fn history(
        &self,
        key: impl AsRef<[u8]>,
        range: impl RangeBounds<u64>,
    ) -> Result<History<F>, TallyError> {
        if !self.0.in_opening_process() {
            return Err(TallyError::Forked);
        }
        History::new(&self.0, key.as_ref(), &range)
    }
}

/// The keys of a tally in order, with their totals. By [`Tally::totals`].
#[derive(Debug)]
pub struct Totals<F: Fold = Sum>(std::vec::IntoIter<(Vec<u8>, F::Value)>);

impl<F: Fold> Iterator for Totals<F> {
    type Item = (Vec<u8>, F::Total);

    fn next(&mut self) -> Option<Self::Item> {
        // What has no total was never accepted.
        self.0.find_map(|(key, value)| Some((key, F::total(&value)?)))
    }
}
