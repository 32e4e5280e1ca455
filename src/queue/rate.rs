//! How often something is handed out: a virtual schedule, one step of which passes with each, and behind which none
//! may come. (The generic cell rate algorithm, as networks shape their traffic.)

use crate::time::Nanos;

const SECOND_NS: f64 = 1e9;

/// What a queue that has stood still may make up for.
const BURST_NS: u64 = 100_000_000;

/// So many a second, and after a pause a tenth of a second's worth at once.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    step_ns: u64,
    /// How far the schedule may run ahead of time.
    ahead_ns: u64,
    /// When the next one is due by the schedule.
    next: Nanos,
}

impl Rate {
    /// `None`: no bound.
    pub(super) fn new(per_second: Option<f64>) -> Rate {
        let step_ns = per_second.map_or(0, |rate| (SECOND_NS / rate) as u64);
        Rate { step_ns, ahead_ns: BURST_NS.saturating_sub(step_ns), next: Nanos(0) }
    }

    /// When the next one may come, if that is not now.
    pub(super) fn wait(&self, now: Nanos) -> Option<Nanos> {
        let earliest = Nanos(self.next.0.saturating_sub(self.ahead_ns));
        (earliest > now).then_some(earliest)
    }

    /// One comes.
    pub(super) fn take(&mut self, now: Nanos) {
        self.next = self.next.max(now) + self.step_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// As many as come within so long, asked as often as it lets.
    fn come(rate: &mut Rate, from: Nanos, until: Nanos) -> u64 {
        let (mut now, mut count) = (from, 0);
        while now < until {
            match rate.wait(now) {
                Some(at) => now = at,
                None => {
                    rate.take(now);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn a_rate_is_kept_and_a_pause_is_made_up_for_by_a_tenth_of_a_second() {
        let mut rate = Rate::new(Some(500.0));
        let begin = Nanos(7_000 * MS);
        assert_eq!(come(&mut rate, begin, begin + 1), 50, "at once");
        assert_eq!(come(&mut rate, begin + 1, begin + 10_000 * MS), 4_999, "then as often as it says");
        let later = begin + 100_000 * MS;
        assert_eq!(come(&mut rate, later, later + 1), 50, "and no more after a long pause");
    }

    /// Whatever is asked when, no stretch of time sees more than it may.
    #[test]
    fn no_stretch_of_time_sees_more_than_it_may() {
        let mut random = 7_u64;
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        for per_second in [0.5, 3.0, 10.0, 77.0, 1_000.0] {
            let (mut rate, mut now, mut came) = (Rate::new(Some(per_second)), Nanos(0), Vec::new());
            for _ in 0..2_000 {
                now = now + below(3 * (SECOND_NS / per_second) as u64);
                for _ in 0..below(30) {
                    if rate.wait(now).is_none() {
                        rate.take(now);
                        came.push(now);
                    }
                }
            }
            let burst = (per_second / 10.0).max(1.0);
            for (first, from) in came.iter().enumerate().step_by(17) {
                for (last, until) in came.iter().enumerate().skip(first).take(300) {
                    let most = burst + (*until - *from) as f64 / SECOND_NS * per_second;
                    assert!(
                        (last - first + 1) as f64 <= most + 0.01,
                        "{per_second} a second: {first}..={last}"
                    );
                }
            }
            assert!(came.len() > 500, "{per_second} a second: {} came", came.len());
        }
    }

    #[test]
    fn without_a_rate_all_come_at_once() {
        let mut rate = Rate::new(None);
        (0..1_000).for_each(|_| rate.take(Nanos(5)));
        assert_eq!(rate.wait(Nanos(5)), None);
    }
}
