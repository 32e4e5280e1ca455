//! When writes and flushes of a modelled drive complete: pure, with time as an argument.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::DriveModel;
use crate::time::{Nanos, nanos};

/// What the drive has been given, and until when it is busy with that.
#[derive(Debug)]
pub(super) struct Timeline {
    latency: u64,
    flush: u64,
    depth: usize,
    bytes_per_second: u64,
    /// A synchronous write needs a flush behind it.
    write_cache: bool,
    /// When the last transfer ends: they follow each other.
    transferred: Nanos,
    /// When the commands complete that occupy the drive's queue, at most `depth`.
    slots: BinaryHeap<Reverse<Nanos>>,
    /// When the last of all writes completes.
    written: Nanos,
    /// When the last flush begins, and when it ends: they follow each other, and one that has not begun serves all who
    /// come before it does, as the kernel's do (`block/blk-flush.c`).
    flush_begins: Nanos,
    flush_ends: Nanos,
}

impl Timeline {
    pub(super) fn new(model: &DriveModel) -> Timeline {
        Timeline {
            latency: nanos(model.latency),
            flush: nanos(model.flush),
            depth: model.depth.max(1) as usize,
            bytes_per_second: model.bytes_per_second,
            write_cache: model.write_cache,
            transferred: Nanos(0),
            slots: BinaryHeap::new(),
            written: Nanos(0),
            flush_begins: Nanos(0),
            flush_ends: Nanos(0),
        }
    }

    /// From the next write on.
    pub(super) fn set_bytes_per_second(&mut self, bytes_per_second: u64) {
        self.bytes_per_second = bytes_per_second;
    }

    /// A write of so many bytes comes now: when it completes, durable if it is synchronous.
    pub(super) fn write(&mut self, now: Nanos, bytes: usize, sync: bool) -> Nanos {
        while self.slots.peek().is_some_and(|slot| slot.0 <= now) {
            self.slots.pop();
        }
        let begins = match self.slots.len() >= self.depth {
            true => self.slots.pop().map_or(now, |slot| slot.0.max(now)),
            false => now,
        };
        self.transferred = self.transferred.max(begins) + self.transfer(bytes);
        let written = (begins + self.latency).max(self.transferred);
        self.slots.push(Reverse(written));
        self.written = self.written.max(written);
        if sync && self.write_cache { self.flush_after(written) } else { written }
    }

    /// A flush comes now: when all that came before it is durable.
    pub(super) fn flush(&mut self, now: Nanos) -> Nanos {
        self.flush_after(self.written.max(now))
    }

    fn flush_after(&mut self, written: Nanos) -> Nanos {
        if self.flush_begins < written || self.flush_ends == Nanos(0) {
            self.flush_begins = written.max(self.flush_ends);
            self.flush_ends = self.flush_begins + self.flush;
        }
        self.flush_ends
    }

    /// Nanoseconds that so many bytes take, rounded up.
    fn transfer(&self, bytes: usize) -> u64 {
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second.max(1)));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const US: u64 = 1_000;

    /// 100 us, 1 byte a nanosecond, two at once.
    fn timeline(write_cache: bool, flush: u64) -> Timeline {
        Timeline::new(&DriveModel {
            latency: Duration::from_micros(100),
            bytes_per_second: 1_000_000_000,
            flush: Duration::from_micros(flush),
            depth: 2,
            write_cache,
        })
    }

    #[test]
    fn latencies_overlap_up_to_the_depth_and_transfers_never() {
        let mut drive = timeline(false, 0);
        let small = |drive: &mut Timeline, now| drive.write(Nanos(now), 1_000, true).0;
        assert_eq!(small(&mut drive, 0), 100 * US);
        assert_eq!(small(&mut drive, 10 * US), 110 * US);
        assert_eq!(small(&mut drive, 20 * US), 200 * US, "begins when the first has left the queue");
        assert_eq!(small(&mut drive, 400 * US), 500 * US, "an idle drive owes nothing");
        let mut drive = timeline(false, 0);
        for count in 1..=20 {
            assert_eq!(drive.write(Nanos(0), 200_000, false).0, count * 200 * US);
        }
    }

    #[test]
    fn a_rate_counts_from_the_next_write_on() {
        let mut drive = timeline(false, 0);
        assert_eq!(drive.write(Nanos(0), 200_000, false), Nanos(200 * US));
        drive.set_bytes_per_second(500_000_000);
        assert_eq!(drive.write(Nanos(0), 200_000, false), Nanos(600 * US));
    }

    #[test]
    fn a_flush_comes_after_what_was_written_before_it() {
        let mut drive = timeline(true, 1_500);
        assert_eq!(drive.flush(Nanos(5)), Nanos(5 + 1_500 * US));
        let mut drive = timeline(true, 1_500);
        let written = drive.write(Nanos(0), 300_000, false);
        assert_eq!(written, Nanos(300 * US));
        assert_eq!(drive.flush(Nanos(10 * US)), Nanos(1_800 * US));
        assert_eq!(timeline(false, 0).flush(Nanos(7)), Nanos(7));
    }

    #[test]
    fn flushes_follow_each_other_and_one_serves_all_who_came_before_it_began() {
        let mut drive = timeline(true, 1_500);
        assert_eq!(drive.write(Nanos(0), 4_096, true), Nanos(1_600 * US));
        // While the first is under way: both by the next one.
        assert_eq!(drive.write(Nanos(150 * US), 4_096, true), Nanos(3_100 * US));
        assert_eq!(drive.write(Nanos(700 * US), 4_096, true), Nanos(3_100 * US));
        // That one has begun by then.
        assert_eq!(drive.write(Nanos(1_550 * US), 4_096, true), Nanos(4_600 * US));
    }
}
