//! The age of a shard's records, independent of the wall clock.
//!
//! Records' own times cannot tell: they never go back, so one moment in which the clock stood in the future is in all
//! later ones. And a clock that is wrong now would make all of them old at once. So the shard keeps a time of its own,
//! which rises with time that has passed for certain, and remembers how long its log was at which time. What retention
//! makes of that: `retention.rs`.

use std::collections::VecDeque;

use crate::format::{AgeMark, AgesRow};
use crate::position::Lsn;

/// Two clocks at one moment, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Moment {
    /// The machine's, which nobody sets and which also runs while it sleeps.
    pub steady: u64,
    /// Since the Unix epoch, as the machine believes.
    pub wall: u64,
}

/// A wall clock that is set by less than this between two looks is taken for one that is only being adjusted.
const STEP_NS: i128 = 1_000_000_000;

/// The wall clock is believed once it has not been set for so long, or for an eighth of the age that is asked for.
const EVEN_NS_MAX: u64 = 5 * 60 * 1_000_000_000;

/// An age is told apart by so many marks, or somewhat more.
const MARKS: u64 = 32;

/// Marks that may be kept from a time when another age was asked for.
const MARKS_MAX: usize = 256;

/// The age of what a shard has.
#[derive(Debug)]
pub(in crate::shard) struct Ages {
    age: u64,
    /// The shard's own time at the last look.
    own: u64,
    last: Moment,
    /// The wall clock at the last look, as far as it is believed; `None` where it never was.
    wall: Option<u64>,
    /// Since when the wall clock has run as the other one does.
    even_since: u64,
    /// The time in which the log was closed is still to be counted. Until then nothing that comes is marked: it is no
    /// older for that time.
    was_closed: bool,
    /// In order; at most one that is older than the age, which is the first. Of three in a row the outer ones lie a
    /// `MARKS`th of the age apart, or more.
    marks: VecDeque<AgeMark>,
}

impl Ages {
    /// Of a shard that was never looked at.
    pub(in crate::shard) fn new(age: u64, now: Moment) -> Ages {
        Ages {
            age,
            own: 0,
            last: now,
            wall: None,
            even_since: now.steady,
            was_closed: false,
            marks: VecDeque::new(),
        }
    }

    /// Goes on from what was written down. Marks above `end`, where the log ended when it was opened, are of another
    /// life of it.
    pub(in crate::shard) fn resume(
        age: u64,
        now: Moment,
        row: &AgesRow,
        marks: Vec<AgeMark>,
        end: Lsn,
    ) -> Ages {
        let skip = marks.len().saturating_sub(MARKS_MAX);
        let marks = marks.into_iter().skip(skip).filter(|mark| mark.lsn <= end.0).collect();
        let wall = (row.wall != 0).then_some(row.wall);
        Ages { own: row.own, wall, was_closed: wall.is_some(), marks, ..Ages::new(age, now) }
    }

    /// What is to be written down, if anything new is: the shard's own time, the wall clock's or 0, and the marks.
    pub(in crate::shard) fn row(&self) -> Option<(u64, u64, Vec<AgeMark>)> {
        let row = || (self.own, self.wall.unwrap_or(0), self.marks.iter().copied().collect());
        (!self.was_closed).then(row)
    }

    /// The log is being closed. If it was not open for long enough to know how long it had been closed before, that
    /// time does not count.
    pub(in crate::shard) fn close(&mut self, now: Moment, durable: Lsn) {
        self.look(now, durable);
        if std::mem::take(&mut self.was_closed) {
            self.wall = None;
            self.mark(durable);
        }
    }

    /// Looks at the clocks, when all below `durable` is. By how much the wall clock was set since the last look is
    /// given, if it was.
    pub(in crate::shard) fn look(&mut self, now: Moment, durable: Lsn) -> Option<i128> {
        let elapsed = now.steady.saturating_sub(self.last.steady);
        let step = i128::from(now.wall) - i128::from(self.last.wall) - i128::from(elapsed);
        self.last = now;
        self.own = self.own.saturating_add(elapsed);
        self.wall = self.wall.map(|wall| wall.saturating_add(elapsed));
        // A clock that is being adjusted may run a sixteenth too fast or too slow.
        let was_set = step.abs() >= STEP_NS + i128::from(elapsed / 16);
        if was_set {
            self.even_since = now.steady;
            if !self.was_closed {
                // What it said until now may be as wrong. A close or a crash before it is believed again must not take
                // the difference for time in which the log was closed.
                self.wall = None;
            }
        }
        if now.steady - self.even_since >= (self.age / 8).min(EVEN_NS_MAX) {
            self.believe(now.wall);
        }
        if !self.was_closed {
            self.mark(durable);
        }
        was_set.then_some(step)
    }

    fn mark(&mut self, durable: Lsn) {
        if self.marks.back().is_some_and(|last| last.lsn >= durable.0) {
            return;
        }
        let before = self.marks.len().checked_sub(2).map(|index| &self.marks[index]);
        if before.is_some_and(|before| self.since(before) < self.age / MARKS) {
            self.marks.pop_back();
        }
        self.marks.push_back(AgeMark { lsn: durable.0, own: self.own });
    }

    /// How long the log was closed the wall clock alone can tell. How long it has been open it cannot: a step of it is
    /// no time that has passed.
    fn believe(&mut self, wall: u64) {
        if let Some(before) = self.wall.filter(|_| std::mem::take(&mut self.was_closed)) {
            self.own = self.own.saturating_add(wall.saturating_sub(before));
        }
        self.wall = Some(wall);
    }

    fn since(&self, mark: &AgeMark) -> u64 {
        self.own - mark.own
    }

    /// Everything below it is older than the age.
    pub(in crate::shard) fn outdated(&mut self) -> Lsn {
        while self.marks.get(1).is_some_and(|next| self.since(next) >= self.age) {
            self.marks.pop_front();
        }
        let first = self.marks.front().filter(|first| self.since(first) >= self.age);
        Lsn(first.map_or(0, |first| first.lsn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{decode_ages, encode_ages};

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3600 * SECOND;
    const DAY: u64 = 24 * HOUR;
    const START: u64 = 1_700_000_000 * SECOND;

    /// A machine whose true time is known, and a shard on it that gets a record of a granule a look.
    struct World {
        age: u64,
        ages: Ages,
        now: u64,
        /// By how much the wall clock is wrong.
        error: i128,
        /// When each record was appended.
        records: Vec<u64>,
        /// What was given up by now, which nobody takes back.
        gone: usize,
    }

    impl World {
        fn new(age: u64) -> World {
            let now = Moment { steady: 0, wall: START };
            World { age, ages: Ages::new(age, now), now: START, error: 0, records: Vec::new(), gone: 0 }
        }

        fn moment(&self) -> Moment {
            Moment { steady: self.now - START, wall: (i128::from(self.now) + self.error) as u64 }
        }

        fn end(&self) -> Lsn {
            Lsn(self.records.len() as u64 * 4096)
        }

        /// A second or more passes, and the shard is looked at. Nothing younger than the age may be given up.
        fn live(&mut self, nanos: u64, append: bool) -> Option<i128> {
            self.now += nanos;
            if append {
                self.records.push(self.now);
            }
            let step = self.ages.look(self.moment(), self.end());
            let outdated = (self.ages.outdated().0 / 4096) as usize;
            self.gone = self.gone.max(outdated);
            if let Some(last) = self.gone.checked_sub(1) {
                let age = self.now - self.records[last];
                assert!(age >= self.age, "given up after {} s of {}", age / SECOND, self.age / SECOND);
            }
            step
        }

        /// For so long, with looks as far apart as they matter.
        fn run(&mut self, nanos: u64) {
            let until = self.now + nanos;
            while self.now < until {
                self.live((self.age / 640).clamp(SECOND, 60 * SECOND), true);
            }
        }

        /// The log is closed for so long and opened again, from what was written down.
        fn close(&mut self, nanos: u64) {
            self.ages.close(self.moment(), self.end());
            let (own, wall, marks) = self.ages.row().unwrap();
            self.now += nanos;
            let (row, marks) = decode_ages(&encode_ages([0; 16], own, wall, &marks)).unwrap();
            self.ages = Ages::resume(self.age, self.moment(), &row, marks, self.end());
        }

        fn oldest(&self) -> u64 {
            self.now - self.records[self.gone]
        }
    }

    #[test]
    fn a_moment_in_the_future_keeps_nothing_for_longer_reopens_included() {
        let mut world = World::new(7 * DAY);
        world.run(DAY);
        world.error = i128::from(50 * 365 * DAY);
        assert!(world.live(SECOND, true).is_some_and(|step| step > i128::from(49 * 365 * DAY)));
        world.error = 0;
        assert!(world.live(SECOND, true).is_some_and(|step| step < 0), "both steps are told");
        for _ in 0..12 {
            world.run(DAY);
            world.close(HOUR);
        }
        world.run(DAY);
        assert!(world.gone > 0 && world.oldest() < 8 * DAY, "{} h", world.oldest() / HOUR);
    }

    #[test]
    fn a_clock_that_is_put_right_just_before_a_close_makes_nothing_old() {
        for behind in [true, false] {
            let mut world = World::new(7 * DAY);
            // Evenly wrong, for long enough to be believed: a machine without a clock of its own.
            world.error = i128::from(21 * DAY) * if behind { -1 } else { 1 };
            world.run(DAY);
            world.error = 0;
            assert!(world.live(SECOND, true).is_some(), "it is told");
            world.close(SECOND);
            world.run(2 * EVEN_NS_MAX);
            assert_eq!(world.gone, 0);
            // And it keeps nothing for ever.
            world.run(8 * DAY);
            assert!(world.gone > 0 && world.oldest() < 8 * DAY, "{} h", world.oldest() / HOUR);
        }
    }

    #[test]
    fn a_clock_that_is_ahead_for_seconds_makes_nothing_old() {
        let mut world = World::new(7 * DAY);
        world.run(6 * DAY);
        world.error = i128::from(30 * DAY);
        (0..3).for_each(|_| _ = world.live(SECOND, true));
        world.error = 0;
        world.run(HOUR);
        assert_eq!(world.gone, 0);
        // Nor one that stays wrong while the log is open, or is wrong when it is opened.
        world.error = i128::from(30 * DAY);
        world.run(HOUR);
        assert_eq!(world.gone, 0);
        world.close(SECOND);
        (0..3).for_each(|_| _ = world.live(SECOND, true));
        world.error = 0;
        world.run(HOUR);
        assert_eq!(world.gone, 0);
    }

    #[test]
    fn the_time_in_which_the_log_is_closed_counts_once_the_clock_has_run_evenly() {
        let mut world = World::new(7 * DAY);
        world.run(DAY);
        world.close(20 * DAY);
        world.live(SECOND, true);
        assert_eq!(world.gone, 0, "the clock may be put right in a moment");
        let before = world.records.len();
        world.run(2 * EVEN_NS_MAX);
        assert!(world.gone + 1 >= before, "{} of {before}", world.gone);
    }

    /// A crash takes what was not written down: what came since is no older for the time in which the log was closed.
    #[test]
    fn what_came_after_the_ages_were_written_down_is_not_taken_for_older() {
        let mut world = World::new(7 * DAY);
        world.run(DAY);
        let (own, wall, marks) = world.ages.row().unwrap();
        let written = world.records.len();
        world.run(5 * DAY);
        world.now += 3 * DAY;
        let (row, marks) = decode_ages(&encode_ages([0; 16], own, wall, &marks)).unwrap();
        world.ages = Ages::resume(world.age, world.moment(), &row, marks, world.end());
        world.run(HOUR);
        assert_eq!(world.gone, written);
    }

    #[test]
    fn a_log_that_is_never_open_for_long_goes_by_the_time_in_which_it_is() {
        let mut world = World::new(DAY);
        for _ in 0..2_000 {
            world.live(SECOND, true);
            world.run(60 * SECOND);
            world.close(HOUR);
        }
        assert!(world.gone > 0 && world.ages.marks.len() <= 2 * MARKS as usize + 3);
    }

    /// Whatever the clock is set to, open or closed, as long as it is put right before it was believed: nothing younger
    /// than the age goes, and everything older within the age and a bound.
    #[test]
    fn property_nothing_younger_than_the_age_goes_and_nothing_older_stays() {
        for seed in 1..=300 {
            let mut random = crate::device::sim::Random::new(seed);
            let age = [HOUR, DAY, 7 * DAY][random.below(3) as usize];
            let even = (age / 8).min(EVEN_NS_MAX);
            let mut world = World::new(age);
            world.run(2 * even);
            for _ in 0..40 {
                match random.below(4) {
                    0 => world.run(random.below(age / 4)),
                    1 => {
                        // Believed, so that how long it was closed is known.
                        world.run(2 * even);
                        world.close(random.below(age));
                        world.run(2 * even);
                    }
                    kind => {
                        let by = i128::from(random.below(60 * 365 * DAY)) - i128::from(20 * 365 * DAY);
                        world.error = by;
                        world.live(SECOND, kind == 2);
                        if random.below(2) == 0 {
                            world.close(random.below(60 * SECOND));
                            world.live(SECOND, true);
                        }
                        world.error = 0;
                        world.live(SECOND, true);
                    }
                }
                // By then the clock was believed again.
                world.run(2 * even);
                let bound = age + age / MARKS + 4 * even + 120 * SECOND;
                assert!(
                    world.oldest() <= bound,
                    "seed {seed}: {} s of {}",
                    world.oldest() / SECOND,
                    age / SECOND
                );
                assert!(world.ages.marks.len() <= 2 * MARKS as usize + 3, "{}", world.ages.marks.len());
            }
            world.run(2 * age);
            assert!(world.gone > 0);
        }
    }
}
