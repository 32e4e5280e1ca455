//! The controller: once per interval, from what happened in it, what is let in during the next one.
//!
//! A shard is overloaded when even the block that waited least, of those handed to the device within an interval, waited
//! longer than the target (the signal of CoDel: a burst that drains is no overload). Then a *cut* is in force, with three
//! actuators:
//!
//! - the *flight*: how many bytes the device has in its hands, about what it takes within the target. More would wait there
//!   instead of here, in front of whatever comes, and bring no more through: the target is twice what a commit takes on an
//!   idle device, so what is in flight is twice what keeps it busy (Little's law). Two blocks at least, so that it has the
//!   next one when it is done with one. A device that takes its bytes in bursts (the kernel's throttling of a container gives
//!   them out in slices of 100 ms) is idle in a burst if no more than that waits: so flight and window are widened as long
//!   as it is idle at times and the window refuses records at others;
//! - the *window*: how many blocks each priority may have in use. It holds the delay at the target from the first moment,
//!   whatever is offered, and for callers that wait as for others;
//! - the *shares* of what is offered that callers of each priority get in who do not wait. They are reckoned from what was
//!   offered in the last interval, so that ten times the load is cut to a tenth at once, and the delay corrects them: in
//!   proportion, and by its sum over time.
//!
//! Too high a share costs little, since the window stands behind it; too low a one leaves the device idle. So what
//! is let in rises slowly while there is a queue, ever faster while there is none, and falls in bounded steps.

use super::{ByPriority, HIGH, LOW, NORMAL};
use crate::time::Nanos;

/// The length of an interval.
pub(crate) const STEP_NS: u64 = 100_000_000;
/// Nobody looked for so long: what was known is of no use.
const STALE_NS: u64 = 10 * STEP_NS;
/// The delay is kept at this part of the target.
const SETPOINT: f64 = 0.5;
/// Of the error, for a setpoint as long as an interval. With a shorter one the same error is less to drain, and both are
/// less in proportion: else each correction would be several times what is to be corrected, and the cut would flap.
const PROPORTIONAL: f64 = 0.5;
const INTEGRAL: f64 = 0.1;
const INTEGRAL_MIN: f64 = -0.25;
const INTEGRAL_MAX: f64 = 0.5;
/// What is let in moves by no more than that in an interval, in parts of the drain rate.
const FALL_MAX: f64 = 0.25;
const RISE_MAX: f64 = 0.05;
/// What is let in at the least and at the most, in parts of the drain rate.
const BUDGET_MIN: f64 = 0.25;
const BUDGET_MAX: f64 = 2.0;
/// Below this part of the setpoint the device may have been idle.
const EMPTY: f64 = 0.25;
/// The device had nothing to do for more than this part of an interval, and the windows refused more than this part of what
/// it did...
const STARVED: f64 = 0.05;
/// ... then so many times as much may be in its hands and wait for it from the next one on, up to so many times what the
/// target says...
const SLACK_RISE: f64 = 1.5;
const SLACK_MAX: f64 = 64.0;
/// ... and this part of it after each interval in which that was not so.
const SLACK_FALL: f64 = 0.97;
/// What an interval adds to what is known of the drain rate, and what one adds that was slower and had idle times.
const NEW: f64 = 0.5;
const NEW_IDLE: f64 = 0.1;
/// The cut ends after so many intervals in which less than this part of the drain rate was offered, or the device was busy for
/// less than this part and nobody was refused.
pub(super) const CALM_INTERVALS: u32 = 3;
const CALM: f64 = 0.9;

/// Blocks that the device may have in its hands at the least.
pub(super) const IN_FLIGHT_MIN: u32 = crate::committer::WRITES_MIN;

/// What the shard can have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub target_ns: u64,
    pub block_bytes: u32,
    /// Blocks that the device may have in its hands.
    pub in_flight_max: u32,
    /// Blocks that each priority may have in use while there is no cut.
    pub blocks_max: ByPriority<u32>,
}

/// What happened within an interval. Bytes are those of records as they are encoded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Interval {
    /// Its end.
    pub now: Nanos,
    /// The shortest time that a block waited, of those that were handed to the device or still wait; `None` if no block
    /// did.
    pub min_delay: Option<u64>,
    /// For how much of it the device had something to do, in nanoseconds.
    pub busy: u64,
    /// Bytes of blocks that were written.
    pub drained: u64,
    /// Bytes by which the log grew, by whomever.
    pub grown: u64,
    /// Bytes that callers who do not wait got in.
    pub accepted: ByPriority<u64>,
    /// Bytes with which they were refused, but not for fairness.
    pub refused: ByPriority<u64>,
    /// Of those, the bytes that found no room in the windows.
    pub crowded: u64,
    /// Bytes that were refused for fairness. They have no part in the shares, and are no reason to let the cut go: all of
    /// them would come in then.
    pub unfair: u64,
}

/// What is let in during the next interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    /// Bytes that the device may have in its hands, beside its next block.
    pub flight_max: u64,
    /// Blocks that each priority may have in use.
    pub blocks_max: ByPriority<u32>,
    /// The part of what each priority offers; `None` while there is no cut.
    pub shares: Option<ByPriority<f64>>,
    /// All that was offered would fit: nobody is refused for fairness.
    pub is_calm: bool,
    /// Bytes that are left to those who can be refused for fairness, in an interval.
    pub fair_bytes: u64,
}

/// While the cut is in force.
#[derive(Clone, Copy, Debug)]
struct Active {
    /// Bytes per second that the device takes.
    rate: f64,
    /// Bytes per second that are let in.
    budget: f64,
    integral: f64,
    /// So many times what the target says may be in flight and wait.
    slack: f64,
    /// Intervals in a row in which the device may have been idle.
    empty: i32,
    calm: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Controller {
    limits: Limits,
    before: Nanos,
    active: Option<Active>,
}

impl Interval {
    pub(crate) fn offered(&self, priority: usize) -> u64 {
        self.accepted[priority] + self.refused[priority]
    }

    fn is_idle(&self) -> bool {
        self.grown == 0 && self.min_delay.is_none() && self.refused == [0; 3] && self.unfair == 0
    }

    /// It took longer than an interval should, and the device had little to do: nobody looked, since there was nothing to see.
    /// Where the shard's thread writes by system calls, a busy one looks seldom, too.
    fn was_mostly_idle(&self, passed: u64, most: u64) -> bool {
        passed >= most && self.busy < passed / 2
    }

    /// What got in of callers that wait.
    fn waited(&self) -> u64 {
        self.grown.saturating_sub(self.accepted.iter().sum())
    }
}

impl Controller {
    pub(crate) fn new(limits: Limits) -> Controller {
        Controller { limits, before: Nanos::default(), active: None }
    }

    /// When the next interval ends.
    pub(crate) fn due(&self) -> Nanos {
        self.before + STEP_NS
    }

    pub(crate) fn is_cutting(&self) -> bool {
        self.active.is_some()
    }

    /// An interval has ended.
    pub(crate) fn step(&mut self, interval: &Interval) -> Cut {
        let passed = interval.now - self.before;
        self.before = interval.now;
        let seconds = passed as f64 / 1e9;
        if interval.was_mostly_idle(passed, STALE_NS) || interval.is_idle() || seconds <= 0.0 {
            self.active = None;
            return self.cut(interval, seconds);
        }
        let delay = interval.min_delay.unwrap_or(0) as f64;
        let target = self.limits.target_ns as f64;
        let measured = interval.drained as f64 / seconds;
        // A longer interval was mostly idle: what was slow may have been a burst.
        let begun = delay > target && !interval.was_mostly_idle(passed, 2 * STEP_NS);
        self.active = match self.active {
            None if begun => Some(Active {
                rate: measured,
                budget: measured,
                integral: 0.0,
                slack: 1.0,
                empty: 0,
                calm: 0,
            }),
            active => active,
        };
        if let Some(active) = &mut self.active {
            // A device that hung has a way back: a block in each interval at the least.
            let least = f64::from(self.limits.block_bytes) / seconds;
            active.correct(target * SETPOINT, delay, measured.max(least), seconds);
            let idle = 1.0 - interval.busy as f64 / passed as f64;
            active.widen(idle > STARVED && interval.crowded as f64 > STARVED * interval.drained as f64);
            let refused = interval.refused.iter().sum::<u64>() + interval.unfair;
            let offered = (interval.grown + refused) as f64 / seconds;
            let nobody = refused == 0 && idle > 1.0 - CALM;
            let is_calm = (nobody || offered < CALM * active.rate) && delay < target * SETPOINT;
            active.calm = if is_calm { active.calm + 1 } else { 0 };
            if active.calm >= CALM_INTERVALS {
                self.active = None;
            }
        }
        self.cut(interval, seconds)
    }

    fn cut(&self, interval: &Interval, seconds: f64) -> Cut {
        let Limits { target_ns, block_bytes, in_flight_max, blocks_max } = self.limits;
        let Some(active) = &self.active else {
            return Cut { flight_max: u64::MAX, blocks_max, shares: None, is_calm: true, fair_bytes: 0 };
        };
        let flight_max = (target_ns as f64 / 1e9 * active.rate * active.slack) as u64;
        let queue = flight_max.div_ceil(block_bytes.into()).min(u32::MAX.into()) as u32;
        let in_flight = queue.max(IN_FLIGHT_MIN).min(in_flight_max);
        let above = queue.saturating_add(1).max(2);
        let window = |part: u32, most: u32| in_flight.saturating_add(part.max(1)).min(most);
        let blocks_max = [
            window(above / 2, blocks_max[LOW]),
            window(above - above / 8, blocks_max[NORMAL]),
            blocks_max[HIGH],
        ];
        // From the most urgent down, each gets what is left.
        let left = active.budget * seconds - interval.waited() as f64 - interval.accepted[HIGH] as f64;
        let share = |left: f64, priority: usize| match interval.offered(priority) {
            0 => 1.0,
            offered => (left / offered as f64).clamp(0.0, 1.0),
        };
        let normal = share(left, NORMAL);
        let low = share(left - normal * interval.offered(NORMAL) as f64, LOW);
        let shares = Some([low, normal, 1.0]);
        Cut { flight_max, blocks_max, shares, is_calm: active.calm > 0, fair_bytes: left.max(0.0) as u64 }
    }
}

impl Active {
    fn widen(&mut self, is_starved: bool) {
        let factor = if is_starved { SLACK_RISE } else { SLACK_FALL };
        self.slack = (self.slack * factor).clamp(1.0, SLACK_MAX);
    }

    fn correct(&mut self, setpoint: f64, delay: f64, measured: f64, seconds: f64) {
        let is_empty = delay < setpoint * EMPTY;
        // What a device does that is not always busy is hardly a measure of what it could do; but one interval of a device
        // that takes its bytes in bursts shows those of two.
        let new = if is_empty && measured < self.rate { NEW_IDLE } else { NEW };
        self.rate += (measured - self.rate) * new;
        let error = ((setpoint - delay) / setpoint).clamp(-1.0, 1.0);
        let gain = (setpoint / 1e9 / seconds).min(1.0);
        self.integral = (self.integral + INTEGRAL * gain * error).clamp(INTEGRAL_MIN, INTEGRAL_MAX);
        self.empty = if is_empty { (self.empty + 1).min(10) } else { 0 };
        // 5 %, and twice as much in each further interval without a queue.
        let rise = RISE_MAX * f64::from(1 << (self.empty - 1).max(0)).min(1.0 / RISE_MAX) * self.rate;
        let wanted = match is_empty {
            true => self.budget + rise,
            false => self.rate * (1.0 + PROPORTIONAL * gain * error + self.integral),
        };
        let (least, most) = (self.budget - FALL_MAX * self.rate, self.budget + rise);
        self.budget = wanted.clamp(least, most).clamp(self.rate * BUDGET_MIN, self.rate * BUDGET_MAX);
    }
}

#[cfg(test)]
impl Controller {
    /// Bytes per second that are let in.
    pub(super) fn budget(&self) -> f64 {
        self.active.map_or(0.0, |active| active.budget)
    }
}
