//! Whether whoever watches was there to see it: a process that is stopped, or a machine that is paused, sees nothing
//! of what its device does meanwhile.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::time::Nanos;

/// Absences that are remembered apart; beyond that the oldest two count as one, from beginning to end.
const AWAY_MAX: usize = 32;

/// When the watch looked, and when it was away. Times are the device's.
#[derive(Debug)]
pub(super) struct Presence {
    last: Nanos,
    away: VecDeque<Range<Nanos>>,
}

impl Presence {
    pub(super) fn new(now: Nanos) -> Presence {
        Presence { last: now, away: VecDeque::with_capacity(AWAY_MAX + 1) }
    }

    /// The watch looks, as it means to every `every`. If it comes later than twice that, it was away since it last
    /// looked.
    pub(super) fn look(&mut self, now: Nanos, every: Duration) {
        if u128::from(now - self.last) > 2 * every.as_nanos() {
            self.away.push_back(self.last..now);
            if self.away.len() > AWAY_MAX {
                let first = self.away.pop_front().expect("it has more than one");
                self.away[0].start = first.start;
            }
        }
        self.last = now;
    }

    /// The watch has done what its look was for. However long that took, it was there.
    pub(super) fn stay(&mut self, now: Nanos) {
        self.last = now;
    }

    /// For how long something has been out that went out at `since`, as far as the watch was there. What is found by
    /// the first look after an absence is no older than it was before: that is seen by the next one.
    pub(super) fn seen(&self, since: Nanos) -> Duration {
        let out = since..self.last;
        let missed = self.away.iter().map(|away| away.end.min(out.end) - away.start.max(out.start));
        Duration::from_nanos((out.end - out.start).saturating_sub(missed.sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_nanos(10);

    fn looks(presence: &mut Presence, times: impl IntoIterator<Item = u64>) {
        times.into_iter().for_each(|now| presence.look(Nanos(now), EVERY));
    }

    fn seen(presence: &Presence, since: u64) -> u128 {
        presence.seen(Nanos(since)).as_nanos()
    }

    #[test]
    fn what_is_out_ages_while_the_watch_is_there() {
        let mut presence = Presence::new(Nanos(0));
        looks(&mut presence, [10, 20, 35, 55]);
        assert_eq!(seen(&presence, 5), 50, "a look that is a little late is there");
        assert_eq!(seen(&presence, 55), 0);
        assert_eq!(seen(&presence, 60), 0, "it went out after the look");
    }

    #[test]
    fn an_absence_ages_nothing_and_the_next_look_goes_on() {
        let mut presence = Presence::new(Nanos(0));
        looks(&mut presence, [10, 20]);
        let before = seen(&presence, 12);
        looks(&mut presence, [5_000]);
        assert_eq!(seen(&presence, 12), before, "nothing is judged by the first look after it");
        assert_eq!(seen(&presence, 25), 0, "it went out when the watch was away");
        looks(&mut presence, [5_010]);
        assert_eq!(seen(&presence, 12), before + 10);
        assert_eq!(seen(&presence, 25), 10);
        assert_eq!(seen(&presence, 5_002), 8);
    }

    #[test]
    fn whoever_is_asked_may_take_long() {
        let mut presence = Presence::new(Nanos(0));
        looks(&mut presence, [10]);
        presence.stay(Nanos(1_000));
        looks(&mut presence, [1_010]);
        assert_eq!(seen(&presence, 0), 1_010);
    }

    #[test]
    fn stops_again_and_again_add_nothing_and_what_hangs_is_seen_all_the_same() {
        let mut presence = Presence::new(Nanos(0));
        let mut now = 0;
        for round in 1..1_000 {
            looks(&mut presence, [now + 10, now + 10_000]);
            now += 10_000;
            let seen = seen(&presence, 0);
            assert!(seen <= round * 10, "{seen} after {round} rounds of 10 each");
            assert!(seen >= (round * 10).min(AWAY_MAX as u128 * 10), "{seen} after {round} rounds");
        }
    }
}
