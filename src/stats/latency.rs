//! How long something took: histograms that whoever turns a shard writes and anybody may read. Recorded in
//! `shard/turn/mod.rs` (commits) and `shard/turn/overload.rs` (queueing delay).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use histogram::{AtomicHistogram, Config, SparseHistogram};

use crate::time::Nanos;

/// Nanoseconds: each doubling in 32 buckets, whose width is at most a 32nd of what they hold; up to 73 minutes.
const CONFIG: Config = match Config::new(5, LONGEST_POWER) {
    Ok(config) => config,
    Err(_) => panic!("both are within their limits"),
};
const LONGEST_POWER: u8 = 42;
const LONGEST: u64 = (1 << LONGEST_POWER) - 1;

/// The records of a block, or of neighbours, and when the first of them was accepted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Accepted {
    pub since: Nanos,
    pub records: u64,
}

impl Accepted {
    /// Both; the others came later.
    pub(crate) fn and(self, later: &Accepted) -> Accepted {
        match self.records {
            0 => *later,
            records => Accepted { records: records + later.records, ..self },
        }
    }
}

/// A histogram that is written by one at a time: a shard's, by the holder of its token, once a block. Its memory, 10 KiB, is
/// taken once.
#[derive(Debug)]
pub(crate) struct Recorder {
    buckets: AtomicHistogram,
    longest: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { buckets: AtomicHistogram::with_config(&CONFIG), longest: AtomicU64::new(0) }
    }
}

impl Recorder {
    /// These records have got so far now.
    pub(crate) fn record(&self, accepted: &Accepted, now: Nanos) {
        if accepted.records == 0 {
            return;
        }
        let took = (now - accepted.since).min(LONGEST);
        let added = self.buckets.add(took, accepted.records);
        debug_assert!(added.is_ok(), "it is within the limit");
        self.longest.fetch_max(took, Ordering::Relaxed);
    }

    /// As of now.
    pub(crate) fn load(&self) -> Latency {
        let buckets = SparseHistogram::from(&self.buckets.load());
        // The last one may be told in the one and not yet in the other.
        let least = buckets.iter().last().map_or(0, |bucket| bucket.start());
        Latency { buckets, longest: self.longest.load(Ordering::Relaxed).max(least) }
    }
}

/// How long something took, for each record since the log was opened: a histogram whose buckets are about 3 % wide, from
/// nanoseconds to 73 minutes (what took longer counts as that).
///
/// It counts blocks and not records, so that it costs an append nothing: of each block the time *since its first record was
/// accepted*, once for each of its records. So a record took no longer than what is counted for it, and less by at most the
/// time for which its block was open, which under load is about one commit. A record over several blocks counts once for
/// each.
///
/// [`ShardStats`](super::ShardStats) has them, and [`Stats`](super::Stats) those of all shards together. What is in the
/// `stats` of one moment is a copy that changes no more; of two moments [`since`](Latency::since) gives the difference.
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let log = sawmill::Log::open(dir.path())?;
/// let before = log.stats().commit_latency();
/// for _ in 0..3 {
///     log.append("payload").wait()?;
/// }
/// let latency = log.stats().commit_latency().since(&before);
/// assert_eq!(latency.count(), 3);
/// println!("p50 {:?}, p99 {:?}, max {:?}", latency.quantile(0.5), latency.quantile(0.99), latency.max());
///
/// // For an exporter: how many took up to each bound, as Prometheus counts them.
/// let bounds = [1, 10, 100, 1_000].map(Duration::from_millis);
/// let counts = bounds.map(|bound| {
///     let within = latency.buckets().take_while(|(end, _)| *end <= bound);
///     within.map(|(_, count)| count).sum::<u64>()
/// });
/// println!("{counts:?}, sum {:?}", latency.sum());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Latency {
    buckets: SparseHistogram,
    longest: u64,
}

impl Default for Latency {
    /// Of nothing.
    fn default() -> Latency {
        Latency { buckets: SparseHistogram::with_config(&CONFIG), longest: 0 }
    }
}

impl Latency {
    /// Records that were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count()).fold(0, u64::wrapping_add)
    }

    /// A time that this part of the records, from 0 to 1, did not exceed: 0.99 is the 99th percentile. The end of a bucket, so
    /// it is at most a 32nd too long, and [`max`](Latency::max) at the most.
    ///
    /// Zero where nothing was counted. What is not from 0 to 1 is taken as the nearer of the two, and no number as 1.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let quantile = if quantile.is_nan() { 1.0 } else { quantile.clamp(0.0, 1.0) };
        let rank = (self.count() as f64 * quantile).ceil().max(1.0);
        let mut seen = 0;
        let found = self.buckets.iter().find(|bucket| {
            seen += bucket.count();
            seen as f64 >= rank
        });
        Duration::from_nanos(found.map_or(self.longest, |bucket| bucket.end().min(self.longest)))
    }

    /// The longest time; of a [difference](Latency::since), at most a 32nd too long. Zero where nothing was counted.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.longest)
    }

    /// The mean, to a 64th. Zero where nothing was counted.
    pub fn mean(&self) -> Duration {
        duration(self.sum_ns() / u128::from(self.count().max(1)))
    }

    /// All times together, to a 64th.
    pub fn sum(&self) -> Duration {
        duration(self.sum_ns())
    }

    fn sum_ns(&self) -> u128 {
        let of = |bucket: histogram::Bucket| {
            let middle = bucket.start() + (bucket.end().min(self.longest) - bucket.start()) / 2;
            u128::from(middle) * u128::from(bucket.count())
        };
        self.buckets.iter().map(of).sum()
    }

    /// The buckets that are not empty, the shortest times first: the longest time in it, and how many records there are. The
    /// ends are the same in every histogram, so that those of several logs and moments can be added up.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets.iter().map(|bucket| (Duration::from_nanos(bucket.end()), bucket.count()))
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Latency) {
        if let Ok(buckets) = self.buckets.wrapping_add(&other.buckets) {
            self.buckets = buckets;
            self.longest = self.longest.max(other.longest);
        }
    }

    /// What was counted between an earlier look at the same and this one. Of an `earlier` that is no such look, as of a log
    /// that was opened anew since, all that this one has.
    #[must_use]
    pub fn since(&self, earlier: &Latency) -> Latency {
        let Ok(buckets) = self.buckets.checked_sub(&earlier.buckets) else { return self.clone() };
        let longest = buckets.iter().last().map_or(0, |bucket| bucket.end().min(self.longest));
        Latency { buckets, longest }
    }
}

fn duration(nanoseconds: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanoseconds / SECOND).unwrap_or(u64::MAX);
    Duration::new(seconds, (nanoseconds % SECOND) as u32)
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(all: &[(u64, u64)]) -> Latency {
        let recorder = Recorder::default();
        for &(took, records) in all {
            recorder.record(&Accepted { since: Nanos(1_000), records }, Nanos(1_000 + took));
        }
        recorder.load()
    }

    #[test]
    fn values_are_told_to_a_bucket() {
        let latency = recorded(&[(10, 90), (1_000_000, 9), (77_000_000, 1)]);
        assert_eq!(latency.count(), 100);
        assert_eq!(latency.quantile(0.0).as_nanos(), 10);
        assert_eq!(latency.quantile(0.9).as_nanos(), 10);
        let p99 = latency.quantile(0.99).as_nanos();
        assert!((1_000_000..=1_000_000 * 33 / 32).contains(&p99), "{p99}");
        assert_eq!(latency.quantile(0.999), latency.max());
        assert_eq!(latency.max(), Duration::from_millis(77), "to the nanosecond");
        let sum = 90 * 10 + 9_000_000 + 77_000_000;
        let close = |found: u128, to: u128| found.abs_diff(to) <= to / 64;
        assert!(close(latency.sum().as_nanos(), sum) && close(latency.mean().as_nanos(), sum / 100));
        assert_eq!(latency.buckets().map(|(_, count)| count).collect::<Vec<_>>(), [90, 9, 1]);
    }

    #[test]
    fn of_nothing_all_is_zero() {
        for latency in [Latency::default(), recorded(&[]), recorded(&[(7, 0)])] {
            assert_eq!((latency.count(), latency.buckets().count()), (0, 0));
            let zero = [latency.quantile(0.5), latency.max(), latency.mean(), latency.sum()];
            assert_eq!(zero, [Duration::ZERO; 4]);
        }
    }

    #[test]
    fn what_is_no_quantile_is_taken_as_the_nearest() {
        let latency = recorded(&[(1, 1), (2, 1), (3, 1)]);
        let found = [-1.0, 0.5, 2.0, f64::NAN].map(|quantile| latency.quantile(quantile).as_nanos());
        assert_eq!(found, [1, 2, 3, 3]);
    }

    #[test]
    fn several_add_up_and_a_difference_is_what_came_in_between() {
        let (early, late) = ([(5_000, 2), (900_000, 1)], [(20_000, 3)]);
        let both = recorded(&[early.as_slice(), &late].concat());
        let mut merged = recorded(&early);
        merged.merge(&recorded(&late));
        assert_eq!(merged, both);
        let between = both.since(&recorded(&early));
        assert_eq!(between.count(), 3);
        assert!((20_000..=20_000 * 33 / 32).contains(&between.max().as_nanos()), "{between:?}");
        assert_eq!(both.since(&Latency::default()), both);
        assert_eq!(recorded(&late).since(&both), recorded(&late), "of another log");
    }

    /// Whatever comes in, however long it took and however much it is.
    #[test]
    fn memory_is_bounded() {
        let recorder = Recorder::default();
        assert_eq!(CONFIG.total_buckets() * size_of::<u64>(), 9_728);
        let mut took = 1u64;
        for step in 0..200_000u64 {
            took = took.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
            recorder.record(&Accepted { since: Nanos(0), records: 1 << 20 }, Nanos(took >> (took % 64)));
        }
        recorder.record(&Accepted { since: Nanos(0), records: 1 }, Nanos::NEVER);
        let latency = recorder.load();
        assert_eq!(latency.count(), 200_000 * (1 << 20) + 1);
        assert_eq!(latency.max().as_nanos(), u128::from(LONGEST), "no longer than it can tell");
        assert!(latency.buckets().count() <= CONFIG.total_buckets());
        assert!(latency.mean() < latency.max() && latency.sum() > latency.max());
    }
}
