//! The controller's curves, in virtual time, against a shard that drains at a rate: what gets in, and how long it waits.

use super::*;
use crate::time::Nanos;

const MS: u64 = 1_000_000;
const TARGET: u64 = 10 * MS;
const BLOCK: u32 = 64 << 10;
const IN_FLIGHT: u32 = 4;
const BLOCKS: u32 = 1024;
const RATE: f64 = 100e6;

fn limits() -> Limits {
    let blocks_max = [BLOCKS / 2, BLOCKS - BLOCKS / 8, BLOCKS];
    Limits { target_ns: TARGET, block_bytes: BLOCK, in_flight_max: IN_FLIGHT, blocks_max }
}

/// What callers do for some intervals.
#[derive(Clone, Copy)]
struct Load {
    /// Bytes per second, by priority, of callers that do not wait.
    offered: [f64; 3],
    /// Bytes per second that the device takes.
    rate: f64,
    /// Callers that wait fill whatever room there is.
    waits: bool,
    /// It takes what it takes in an interval within a fifth of it, and then nothing for the rest.
    bursts: bool,
}

impl Load {
    /// A tenth of it high, three tenths normal, and the rest low, as long as it is no more than the device takes.
    fn times(times: f64) -> Load {
        let (high, normal) = (0.1 * RATE * times.min(1.0), 0.3 * RATE * times.min(1.0));
        Load {
            offered: [RATE * times - high - normal, normal, high],
            rate: RATE,
            waits: false,
            bursts: false,
        }
    }
}

/// What came of one interval.
#[derive(Clone, Copy, Debug)]
struct Seen {
    drained: f64,
    /// The longest that anything had to wait, ns.
    delay: f64,
    accepted: [f64; 3],
    is_cutting: bool,
    budget: f64,
}

struct Plant {
    controller: Controller,
    cut: Cut,
    now: u64,
    queue: f64,
}

impl Plant {
    fn new() -> Plant {
        Plant::with(limits())
    }

    fn with(limits: Limits) -> Plant {
        let mut controller = Controller::new(limits);
        let cut = controller.step(&Interval::default());
        Plant { controller, cut, now: 0, queue: 0.0 }
    }

    fn in_use(&self) -> u32 {
        let in_flight =
            (self.cut.flight_max / u64::from(BLOCK)).clamp(IN_FLIGHT_MIN.into(), IN_FLIGHT.into());
        in_flight as u32 + (self.queue / f64::from(BLOCK)).ceil() as u32
    }

    /// One interval in steps of a quarter of a millisecond.
    fn interval(&mut self, load: &Load) -> Seen {
        let tick = MS / 4;
        let seconds = tick as f64 / 1e9;
        let mut told = Interval::default();
        let mut seen = Seen { drained: 0.0, delay: 0.0, accepted: [0.0; 3], is_cutting: false, budget: 0.0 };
        let mut least = f64::MAX;
        let mut left = load.rate * STEP_NS as f64 / 1e9;
        for step in 0..STEP_NS / tick {
            let is_burst = step < STEP_NS / tick / 5;
            for priority in [HIGH, NORMAL, LOW] {
                let offered = load.offered[priority] * seconds;
                let share = self.cut.shares.map_or(1.0, |shares| shares[priority]);
                let fits = self.in_use() <= self.cut.blocks_max[priority];
                let accepted = if fits { offered * share } else { 0.0 };
                told.crowded += if fits { 0 } else { (offered * share) as u64 };
                self.queue += accepted;
                seen.accepted[priority] += accepted;
                told.accepted[priority] += accepted as u64;
                told.refused[priority] += (offered - accepted) as u64;
                told.grown += accepted as u64;
            }
            while load.waits && self.in_use() <= self.cut.blocks_max[NORMAL] {
                self.queue += f64::from(BLOCK);
                told.grown += u64::from(BLOCK);
            }
            let takes = match (load.bursts, is_burst) {
                (false, _) => load.rate * seconds,
                (true, true) => left.min(20.0 * load.rate * seconds),
                (true, false) => 0.0,
            };
            let drained = self.queue.min(takes);
            // One that takes nothing for now has something in its hands.
            let part = if takes > 0.0 { drained / takes } else { 1.0 };
            told.busy += if self.queue > 0.0 { (tick as f64 * part) as u64 } else { 0 };
            left -= drained;
            self.queue -= drained;
            seen.drained += drained;
            let delay = self.queue / load.rate * 1e9;
            seen.delay = seen.delay.max(delay);
            least = least.min(delay);
        }
        self.now += STEP_NS;
        told.now = Nanos(self.now);
        told.busy = told.busy.min(STEP_NS);
        told.drained = seen.drained as u64;
        told.min_delay = (told.grown > 0 || self.queue > 0.0).then_some(least as u64);
        self.cut = self.controller.step(&told);
        seen.is_cutting = self.controller.is_cutting();
        seen.budget = self.controller.budget();
        seen
    }

    fn run(&mut self, load: Load, intervals: usize) -> Vec<Seen> {
        (0..intervals).map(|_| self.interval(&load)).collect()
    }
}

fn mean(seen: &[Seen], of: impl Fn(&Seen) -> f64) -> f64 {
    seen.iter().map(of).sum::<f64>() / seen.len() as f64
}

fn per_second(bytes: f64) -> f64 {
    bytes * 1e9 / STEP_NS as f64
}

/// As much is drained as the device takes, and nobody waits for long.
#[track_caller]
fn assert_steady(seen: &[Seen], rate: f64) {
    let goodput = per_second(mean(seen, |seen| seen.drained));
    assert!(goodput >= 0.95 * rate, "goodput {goodput:e} of {rate:e}: {seen:#?}");
    let delay = seen.iter().map(|seen| seen.delay).fold(0.0, f64::max);
    assert!(delay <= 2.0 * TARGET as f64, "delay {} ms", delay / 1e6);
}

#[test]
fn nothing_is_cut_while_the_shard_keeps_up() {
    let mut plant = Plant::new();
    assert!(plant.run(Load::times(0.5), 50).iter().all(|seen| !seen.is_cutting));
    assert!(plant.run(Load::times(0.95), 50).iter().all(|seen| !seen.is_cutting));
}

#[test]
fn a_steady_flood_is_cut_to_what_drains_and_what_matters_gets_in() {
    for times in [1.1, 2.0, 10.0] {
        let mut plant = Plant::new();
        plant.run(Load::times(times), 8);
        let seen = plant.run(Load::times(times), 100);
        assert_steady(&seen, RATE);
        let load = Load::times(times);
        for priority in [HIGH, NORMAL] {
            let accepted = per_second(mean(&seen, |seen| seen.accepted[priority]));
            let offered = load.offered[priority];
            assert!(
                accepted >= 0.98 * offered,
                "{times}: priority {priority} got {accepted:e} of {offered:e}"
            );
        }
        // No flapping: the cut stays, and what is let in with it.
        assert!(seen.iter().all(|seen| seen.is_cutting), "{times}");
        let budgets = seen[50..].iter().map(|seen| seen.budget / RATE);
        let (least, most) = budgets.fold((f64::MAX, 0.0f64), |(a, b), own| (a.min(own), b.max(own)));
        assert!(most - least <= 0.25, "{times}: the budget moves from {least} to {most}");
    }
}

#[test]
fn the_next_interval_lets_in_what_drains() {
    let mut plant = Plant::new();
    plant.run(Load::times(0.5), 5);
    // It begins with an empty queue: the next interval is the first that is slow from end to end.
    assert!(!plant.interval(&Load::times(10.0)).is_cutting);
    assert!(plant.interval(&Load::times(10.0)).is_cutting);
    let shares = plant.cut.shares.unwrap();
    assert_eq!((shares[HIGH], shares[NORMAL]), (1.0, 1.0));
    // 0.6 of the rate, but for what the delay takes off, of 9.6 times the rate.
    assert!((0.03..0.08).contains(&shares[LOW]), "{shares:?}");
}

#[test]
fn a_spike_is_over_within_a_second() {
    let mut plant = Plant::new();
    plant.run(Load::times(0.5), 10);
    let during = plant.run(Load::times(10.0), 10);
    // What was let in before the cut drains first.
    assert_steady(&during[6..], RATE);
    let after = plant.run(Load::times(0.5), 10);
    assert!(!after[9].is_cutting);
    assert!(after[1..].iter().all(|seen| seen.delay < TARGET as f64), "{after:#?}");
    let accepted = per_second(mean(&after[1..], |seen| seen.accepted.iter().sum()));
    assert!(accepted >= 0.49 * RATE, "{accepted:e}");
}

#[test]
fn a_device_that_slows_down_and_recovers_is_followed() {
    let mut plant = Plant::new();
    plant.run(Load::times(2.0), 10);
    let slow = Load { rate: RATE / 10.0, ..Load::times(2.0) };
    plant.run(slow, 20);
    let seen = plant.run(slow, 30);
    let goodput = per_second(mean(&seen, |seen| seen.drained));
    assert!(goodput >= 0.95 * RATE / 10.0, "{goodput:e}");
    // What is high comes to all that it takes.
    plant.run(Load::times(2.0), 10);
    assert_steady(&plant.run(Load::times(2.0), 30), RATE);
}

#[test]
fn a_device_that_hangs_finds_its_way_back() {
    let mut plant = Plant::new();
    let hangs = Load { rate: 1.0, ..Load::times(2.0) };
    plant.run(hangs, 40);
    plant.run(Load::times(2.0), 25);
    assert_steady(&plant.run(Load::times(2.0), 30), RATE);
}

/// Callers that wait take what room there is: the window is all that holds them.
#[test]
fn callers_that_wait_do_not_fill_the_queue_past_the_target() {
    let mut plant = Plant::new();
    let load = Load { offered: [0.0, 0.0, 0.1 * RATE], rate: RATE, waits: true, bursts: false };
    plant.run(load, 10);
    let seen = plant.run(load, 50);
    assert_steady(&seen, RATE);
    let high = per_second(mean(&seen, |seen| seen.accepted[HIGH]));
    assert!(high >= 0.098 * RATE);
    plant.run(Load { waits: false, ..Load::times(0.0) }, 1);
    assert!(!plant.controller.is_cutting(), "an idle shard lets go at once");
}

/// The minimum over the interval counts: what drains is no overload, however long some of it waited.
#[test]
fn a_burst_that_drains_is_no_overload() {
    let mut controller = Controller::new(limits());
    for step in 1..50 {
        let (grown, drained) = (10 << 20, 10 << 20);
        let interval = Interval {
            now: Nanos(step * STEP_NS),
            min_delay: Some(TARGET / 20),
            grown,
            drained,
            ..Interval::default()
        };
        assert_eq!(controller.step(&interval).shares, None);
    }
    // Nor is one at the end of an idle time.
    let interval =
        Interval { now: Nanos(52 * STEP_NS), min_delay: Some(TARGET + 1), grown: 1, ..Interval::default() };
    assert_eq!(controller.step(&interval).shares, None);
    let interval = Interval {
        now: Nanos(53 * STEP_NS),
        min_delay: Some(TARGET + 1),
        grown: 1 << 20,
        drained: 10 << 20,
        ..Interval::default()
    };
    assert!(controller.step(&interval).shares.is_some());
}

/// A device that takes its bytes in bursts has enough to take when one comes, and one that does not has no more than that.
#[test]
fn a_device_that_takes_its_bytes_in_bursts_is_not_starved() {
    for times in [1.3, 2.0, 10.0] {
        let mut plant = Plant::with(Limits { target_ns: 2 * MS, ..limits() });
        let bursts = Load { bursts: true, ..Load::times(times) };
        plant.run(bursts, 40);
        let seen = plant.run(bursts, 100);
        let goodput = per_second(mean(&seen, |seen| seen.drained));
        assert!(goodput >= 0.95 * RATE, "{times}: {goodput:e}");
        let mut plant = Plant::with(Limits { target_ns: 2 * MS, ..limits() });
        let callers = Load { offered: [0.0; 3], waits: true, ..bursts };
        plant.run(callers, 40);
        let goodput = per_second(mean(&plant.run(callers, 100), |seen| seen.drained));
        assert!(goodput >= 0.95 * RATE, "callers that wait: {goodput:e}");
        plant.run(Load::times(times), 150);
        assert_steady(&plant.run(Load::times(times), 50), RATE);
    }
}

/// One who is refused for fairness alone would come in with all that he offers if the cut were let go: it is not, until he
/// has stopped.
#[test]
fn a_flood_that_fairness_holds_is_no_calm() {
    let mut plant = Plant::new();
    plant.run(Load::times(10.0), 10);
    let mut step = |unfair| {
        plant.now += STEP_NS;
        let interval = Interval {
            now: Nanos(plant.now),
            min_delay: Some(0),
            busy: STEP_NS / 2,
            grown: (0.5 * RATE / 10.0) as u64,
            drained: (0.5 * RATE / 10.0) as u64,
            accepted: [(0.5 * RATE / 10.0) as u64, 0, 0],
            unfair,
            ..Interval::default()
        };
        let cut = plant.controller.step(&interval);
        (plant.controller.is_cutting(), cut.is_calm)
    };
    assert!((0..30).all(|_| step((5.0 * RATE / 10.0) as u64) == (true, false)));
    // As soon as all that comes would fit nobody is held any more, and a little later the cut is let go.
    assert_eq!(step(0), (true, true));
    assert_eq!((1..CALM_INTERVALS).map(|_| step(0)).last(), Some((false, true)));
}

/// A thread that writes by system calls looks once in many writes: that it was busy all the time shows.
#[test]
fn a_busy_shard_that_is_looked_at_seldom_is_cut_too() {
    for busy in [0, 400] {
        let mut controller = Controller::new(limits());
        let mut now = 0;
        for _ in 0..20 {
            now += 1_500 * MS;
            let interval = Interval {
                now: Nanos(now),
                min_delay: Some(2 * TARGET),
                busy: busy * 3 * MS,
                grown: 10 << 20,
                drained: 5 << 20,
                ..Interval::default()
            };
            controller.step(&interval);
        }
        assert_eq!(controller.is_cutting(), busy > 0);
    }
}

/// What the device has in its hands is about what it takes within the target, and two blocks at least.
#[test]
fn what_is_in_flight_is_bounded_by_the_target() {
    for (rate, blocks) in [(1e6, 0.0..1.0), (100e6, 14.0..17.0), (1e9, 140.0..170.0)] {
        let mut plant = Plant::new();
        assert_eq!(plant.cut.flight_max, u64::MAX);
        let load = Load { offered: [rate * 10.0, 0.0, 0.0], rate, waits: false, bursts: false };
        plant.run(load, 30);
        let in_flight = plant.cut.flight_max as f64 / f64::from(BLOCK);
        assert!(blocks.contains(&in_flight), "{rate:e}: {in_flight} blocks");
    }
}

#[test]
fn windows_stay_within_what_there_is() {
    let small = Limits { blocks_max: [2, 4, 4], ..limits() };
    for (limits, rate) in [(limits(), 0u64), (limits(), 1 << 40), (small, 0), (small, 1 << 40)] {
        let mut controller = Controller::new(limits);
        controller.step(&Interval {
            now: Nanos(STEP_NS),
            grown: 1,
            min_delay: Some(0),
            ..Interval::default()
        });
        let interval = Interval {
            now: Nanos(2 * STEP_NS),
            grown: 1,
            drained: rate,
            min_delay: Some(1 << 40),
            ..Interval::default()
        };
        let cut = controller.step(&interval);
        assert!(cut.shares.is_some());
        for priority in [LOW, NORMAL, HIGH] {
            let most = limits.blocks_max[priority];
            assert!((most.min(IN_FLIGHT_MIN + 1)..=most).contains(&cut.blocks_max[priority]), "{cut:?}");
        }
    }
}
