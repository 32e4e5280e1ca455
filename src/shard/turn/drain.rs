//! The rate at which a busy shard drains, from which `retry_after` and the delay of what is appended now are computed.

use crate::position::Lsn;
use crate::time::Nanos;

/// The shortest time that is measured over: some hundred writes of a fast disk, and several of a slow one, so that no
/// single one decides. A caller is told to wait for a millisecond or more, which needs no newer rate.
const MEASURED_NS_MIN: u64 = 20_000_000;

/// A longer time means that nobody looked for most of it (a process that was stopped), or that the device hung: above what a
/// turn of 16 writes takes on a slow disk. It says nothing of how fast the shard could drain.
const MEASURED_NS_MAX: u64 = 100 * MEASURED_NS_MIN;

/// Measures how fast the shard drains while the device has something to do.
#[derive(Debug, Default)]
pub(in crate::shard) struct Drain {
    /// The device has been busy since then, or since it was last measured.
    busy_since: Option<Nanos>,
    /// For how long before that.
    busy: u64,
    bytes: u64,
    last: u64,
    /// Since when it has been busy without a pause, and for how long it was before that, from the beginning on.
    stretch: Option<Nanos>,
    stretches: u64,
}

impl Drain {
    pub(in crate::shard) fn from(durable: Lsn) -> Drain {
        Drain { last: durable.0, ..Drain::default() }
    }

    /// The end of the log was cut, and goes on elsewhere.
    pub(in crate::shard) fn begin_epoch(&mut self, durable: Lsn) {
        self.last = durable.0;
    }

    /// The device has something to do.
    pub(in crate::shard) fn begin(&mut self, now: Nanos) {
        self.busy_since.get_or_insert(now);
        self.stretch.get_or_insert(now);
    }

    /// It has nothing to do any more.
    pub(in crate::shard) fn end(&mut self, now: Nanos) {
        self.busy += self.busy_since.take().map_or(0, |since| now - since);
        self.stretches += self.stretch.take().map_or(0, |since| now - since);
    }

    /// For how long it has been busy, from the beginning on.
    pub(in crate::shard) fn all_busy(&self, now: Nanos) -> u64 {
        self.stretches + self.stretch.map_or(0, |since| now - since)
    }

    /// Everything below `end` has come to rest.
    pub(in crate::shard) fn add(&mut self, end: Lsn) {
        self.bytes += end.0.saturating_sub(self.last);
        self.last = end.0;
    }

    /// Bytes per second of the time in which it was busy, if that is long enough.
    pub(in crate::shard) fn measure(&mut self, now: Nanos) -> Option<u64> {
        let passed = self.busy + self.busy_since.map_or(0, |since| now - since);
        // What takes long to come back was being worked on all the while.
        if passed < MEASURED_NS_MIN || (self.bytes == 0 && passed < MEASURED_NS_MAX) {
            return None;
        }
        let told = self.bytes > 0 && passed < MEASURED_NS_MAX;
        let rate = u128::from(self.bytes) * 1_000_000_000 / u128::from(passed);
        *self = Drain { busy_since: self.busy_since.map(|_| now), busy: 0, bytes: 0, ..*self };
        told.then(|| u64::try_from(rate).unwrap_or(u64::MAX).max(1))
    }
}

/// What is told after a new measurement, 0 being none before.
pub(in crate::shard) fn mean(old: u64, rate: u64) -> u64 {
    let mean = if old == 0 { rate } else { old / 2 + rate / 2 };
    mean.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_a_time_that_was_busy_and_long_enough() {
        let mut drain = Drain::from(Lsn(1000));
        drain.begin(Nanos(0));
        drain.add(Lsn(3000));
        assert_eq!(drain.measure(Nanos(MEASURED_NS_MIN - 1)), None, "too short");
        assert_eq!(drain.measure(Nanos(MEASURED_NS_MIN)), Some(100_000));
        assert_eq!(drain.measure(Nanos(2 * MEASURED_NS_MIN)), None, "nothing has come to rest");
        drain.add(Lsn(7000));
        assert_eq!(drain.measure(Nanos(3 * MEASURED_NS_MIN)), Some(100_000), "of all the time that it took");
        drain.add(Lsn(9000));
        assert_eq!(drain.measure(Nanos(3 * MEASURED_NS_MIN + MEASURED_NS_MAX)), None, "nobody looked");
    }

    /// A few records now and then tell as much of how fast the device is as many do.
    #[test]
    fn idle_time_does_not_count() {
        let mut drain = Drain::from(Lsn(0));
        let mut rate = None;
        for write in 0..20 {
            let began = Nanos(write * 50 * MEASURED_NS_MIN);
            drain.begin(began);
            drain.add(Lsn((write + 1) * 100));
            drain.end(began + MEASURED_NS_MIN / 20);
            rate = rate.or(drain.measure(began + MEASURED_NS_MIN / 20));
        }
        assert_eq!(rate, Some(100_000));
    }

    /// However often one looks, what takes 50 ms to come back drains at a twentieth of its bytes per millisecond.
    #[test]
    fn looks_between_completions_do_not_raise_the_rate() {
        for look in [1_000_000, 10_000_000, 25_000_000, 100_000_000] {
            let mut drain = Drain::from(Lsn(0));
            drain.begin(Nanos(0));
            let mut rates = Vec::new();
            for now in (0..4_000_000_000u64).step_by(look) {
                drain.add(Lsn(now / 50_000_000 * 1_000));
                rates.extend(drain.measure(Nanos(now)));
            }
            assert!(rates.len() > 10);
            assert!(rates[1..].iter().all(|rate| (19_000..=21_000).contains(rate)), "{look}: {rates:?}");
            assert_eq!(drain.all_busy(Nanos(4_000_000_000)), 4_000_000_000);
        }
    }

    #[test]
    fn what_is_told_is_the_mean_with_the_one_before() {
        assert_eq!((mean(0, 7), mean(100, 200), mean(1, 1)), (7, 150, 1));
    }
}
