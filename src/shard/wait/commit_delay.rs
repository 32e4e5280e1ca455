//! The commit delay: a caller that is to lead waits briefly for those who were woken together with it.
//!
//! Blocking callers that are told of a block come back at about the same time, each with its next record. Where a
//! device must be told to flush, each block costs a flush and flushes queue up behind each other, so a block that goes
//! out with the first of these records leaves all others a whole flush behind. The wait ends as soon as as many
//! are back as were woken; it takes no longer than a part of what the last write took; and callers that do
//! not come back are waited for less and less often.

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::time::Nanos;

/// Of the time that the last write took, no more than this part is waited: 1 / 2. Who is left behind waits for all of
/// such a time.
const DELAY_DIVISOR: u64 = 2;

/// Nor longer than this, whatever the write took: a hundred callers are back by then, on two cores.
const DELAY_NS_MAX: u64 = 1_000_000;

/// After so many waits in vain, one in so many leads tries again: 2^6.
const FAILED_WAITS_MAX: u32 = 6;

/// How long a leader delays a commit. Written by the leader, one at a time; read by anybody.
#[derive(Debug, Default)]
pub(in crate::shard) struct CommitDelay {
    /// Records that the open block is going to hold once all are back.
    expected: AtomicU32,
    /// No longer than until then.
    until: AtomicU64,
    /// 1 while somebody waits for the others.
    waits: AtomicU32,
    /// Waits in vain, of late.
    failed_waits: AtomicU32,
    /// Leads that do not wait, until one tries again.
    skips: AtomicU32,
}

impl CommitDelay {
    /// A write that took so long is over: those who waited for its records are about to be woken.
    pub(in crate::shard) fn expect(&self, records: u32, now: Nanos, took: u64) {
        let skips = self.skips.load(Ordering::Relaxed);
        self.skips.store(skips.saturating_sub(1), Ordering::Relaxed);
        self.expected.store(if skips == 0 { records } else { 0 }, Ordering::Relaxed);
        self.until.store((now + (took / DELAY_DIVISOR).min(DELAY_NS_MAX)).0, Ordering::Relaxed);
    }

    /// Waits until as many `records` stand in the open block as are expected, or none is open. False if somebody
    /// else does so, and acts for all: whoever is told so has appended before it asked.
    pub(in crate::shard) fn wait(&self, records: impl Fn() -> Option<u32>, now: impl Fn() -> Nanos) -> bool {
        let expected = self.expected.load(Ordering::Relaxed);
        let Some(first) = records().filter(|&first| first < expected) else { return true };
        if self.waits.swap(1, Ordering::SeqCst) == 1 {
            return false;
        }
        let until = self.until.load(Ordering::Relaxed);
        let mut found = Some(first);
        while found.is_some_and(|found| found < expected) && now() < Nanos(until) {
            // Those who are to come may want this core. Under loom a yield would run them to their end.
            #[cfg(not(sawmill_loom))]
            crate::sync::pause();
            found = records();
        }
        self.expected.store(0, Ordering::Relaxed);
        // A block that was filled was worth the wait.
        self.judge(first, found.unwrap_or(expected), expected);
        // Before the look at the block that is led: who was told not to wait is in it, or behind it.
        self.waits.swap(0, Ordering::SeqCst);
        true
    }

    /// In vain if less than half of those who were missing came.
    fn judge(&self, first: u32, found: u32, expected: u32) {
        let came = u64::from(found.saturating_sub(first));
        let vain = came * 2 < u64::from(expected - first);
        let failed_waits = self.failed_waits.load(Ordering::Relaxed);
        let failed_waits = if vain { (failed_waits + 1).min(FAILED_WAITS_MAX) } else { 0 };
        self.failed_waits.store(failed_waits, Ordering::Relaxed);
        self.skips.store((1 << failed_waits) - 1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Waits where `come` of those who are missing are back after as many looks; gives the time that it took.
    fn wait(delay: &CommitDelay, there: u32, come: u32) -> u64 {
        let (records, clock) = (Cell::new(there), Cell::new(0));
        let more = || {
            let now = records.get();
            records.set((now + 1).min(there + come));
            Some(now)
        };
        let tick = || Nanos(clock.replace(clock.get() + 1_000));
        assert!(delay.wait(more, tick));
        clock.get()
    }

    #[test]
    fn the_wait_ends_with_the_last_who_comes() {
        let delay = CommitDelay::default();
        assert_eq!(wait(&delay, 1, 0), 0, "nobody is expected");
        delay.expect(8, Nanos(0), 100_000);
        assert_eq!(wait(&delay, 8, 0), 0, "all are there");
        delay.expect(8, Nanos(0), 100_000);
        assert_eq!(wait(&delay, 1, 7), 7_000);
        assert_eq!(wait(&delay, 1, 0), 0, "once for a write");
    }

    #[test]
    fn the_wait_is_bounded() {
        let delay = CommitDelay::default();
        delay.expect(8, Nanos(0), 100_000);
        assert_eq!(wait(&delay, 1, 5), 51_000, "half of what the write took");
        delay.expect(8, Nanos(0), u64::MAX);
        assert_eq!(wait(&delay, 1, 5), DELAY_NS_MAX + 1_000);
    }

    #[test]
    fn a_block_that_fills_up_is_not_waited_for() {
        let delay = CommitDelay::default();
        delay.expect(u32::MAX, Nanos(0), 100_000);
        let open = Cell::new(true);
        assert!(delay.wait(|| open.replace(false).then_some(0), || Nanos(0)));
        assert!(delay.wait(|| None, || Nanos(0)));
        delay.expect(8, Nanos(0), 100_000);
        assert_eq!(wait(&delay, 1, 7), 7_000, "it was no wait in vain");
    }

    #[test]
    fn who_does_not_come_back_is_waited_for_less_and_less() {
        let delay = CommitDelay::default();
        let waited = |writes: u32, come: u32| {
            let wait = |_: &u32| {
                delay.expect(8, Nanos(0), 100_000);
                wait(&delay, 1, come) > 0
            };
            (0..writes).filter(wait).count()
        };
        assert_eq!(waited(1_000, 3), 20, "less than half of those who are missing");
        waited(64, 7);
        assert_eq!(waited(100, 7), 100, "they are back");
    }
}

#[cfg(all(test, sawmill_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::ModelArc;

    /// Is a record that is left to somebody who waits seen by that one?
    #[test]
    fn loom_whoever_waits_acts_for_all() {
        loom::model(|| {
            let shared = ModelArc::new((CommitDelay::default(), AtomicU32::new(0)));
            // A third one never comes.
            shared.0.expect(3, Nanos(0), 4);
            let caller = |shared: &(CommitDelay, AtomicU32)| {
                let (delay, records) = shared;
                records.fetch_add(1, Ordering::SeqCst);
                let time = AtomicU32::new(0);
                let leads = delay.wait(
                    || Some(records.load(Ordering::SeqCst)),
                    || Nanos(u64::from(time.fetch_add(1, Ordering::Relaxed))),
                );
                leads.then(|| records.load(Ordering::SeqCst))
            };
            let other = {
                let shared = shared.clone();
                loom::thread::spawn(move || caller(&shared))
            };
            let seen = [caller(&shared), other.join().unwrap()];
            assert!(seen.contains(&Some(2)), "{seen:?}: a record that nobody acts for");
        });
    }
}
