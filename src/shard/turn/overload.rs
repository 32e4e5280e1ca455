//! How long records wait before they go to the device, and what follows from it: the shard's side of
//! [`admission`](crate::admission)'s controller, which it tells what happened, with the time.

use std::sync::atomic::Ordering;

use crate::admission::{self, Controller, Counted, Gate, Interval, Learner, Limits};
use crate::pool::Sequence;
use crate::position::Lsn;
use crate::shard::token::{Core, Submitted};
use crate::shard::{Engine, EngineSetup};
use crate::stats::Accepted;
use crate::time::{Nanos, nanos};

/// What only the holder of the token touches of it.
#[derive(Debug)]
pub(in crate::shard) struct Overload {
    controller: Controller,
    learner: Learner,
    limits: Limits,
    seed: u64,
    /// Of the blocks that were handed to the device in this interval, the shortest time that one waited.
    min_delay: Option<u64>,
    /// When the interval began, what had been counted, was written, and was accepted.
    counted: Counted,
    written: u64,
    accepted: u64,
    /// For how long the device had been busy until then.
    busy: u64,
    /// What the last operations took, in nanoseconds; the oldest is replaced next.
    commits: [u64; COMMITS],
    oldest_commit: usize,
}

/// Of so many the median is taken: one that hung for once does not count.
const COMMITS: usize = 7;

impl Overload {
    pub(in crate::shard) fn of(setup: &EngineSetup) -> Overload {
        let blocks = setup.pool.blocks();
        let limits = Limits {
            target_ns: nanos(setup.delay_target),
            block_bytes: setup.pool.block_bytes(),
            in_flight_max: setup.committer.depth.min(blocks),
            blocks_max: admission::BY_PRIORITY.map(|priority| admission::blocks_max(priority, blocks)),
        };
        let seed = setup.identity.nonce ^ u64::from(setup.id.0);
        Overload {
            controller: Controller::new(limits),
            learner: Learner::new(seed),
            limits,
            seed,
            min_delay: None,
            counted: Counted::default(),
            written: setup.start.0,
            accepted: setup.start.0,
            busy: 0,
            commits: [0; COMMITS],
            oldest_commit: 0,
        }
    }

    pub(in crate::shard) fn gate(&self, threaded: bool) -> Gate {
        Gate::new(self.limits.blocks_max, self.seed, threaded)
    }

    /// An operation took so long; gives the median of the last ones.
    fn note_commit(&mut self, took: u64) -> u64 {
        self.commits[self.oldest_commit] = took;
        self.oldest_commit = (self.oldest_commit + 1) % COMMITS;
        let mut sorted = self.commits;
        sorted.sort_unstable();
        sorted[COMMITS / 2]
    }

    /// The end of the log was cut, and goes on elsewhere.
    pub(in crate::shard) fn begin_epoch(&mut self, durable: Lsn) {
        (self.written, self.accepted) = (durable.0, durable.0);
    }

    /// A block that was closed then goes to the device now.
    pub(in crate::shard) fn note_delay(&mut self, delay: u64) {
        self.min_delay = Some(self.min_delay.map_or(delay, |least| least.min(delay)));
    }
}

impl Engine {
    /// The records of a block that is sealed and not written yet.
    pub(in crate::shard) fn accepted(&self, sequence: Sequence) -> Accepted {
        let (since, records) = self.pool.opened_at(sequence);
        Accepted { since, records: records.into() }
    }

    /// A block goes to the device.
    pub(in crate::shard) fn note_handed_over(&self, core: &mut Core, sequence: Sequence, now: Nanos) {
        self.counters.queueing_delay.record(&self.accepted(sequence), now);
        // Where it is not known it was closed just now by somebody who has not said so yet, or long ago by one who is
        // interrupted: others tell.
        if let Some(closed_at) = self.pool.closed_at(sequence) {
            core.overload.note_delay(now - closed_at);
        }
    }

    /// An operation came back.
    pub(in crate::shard) fn note_completed(&self, core: &mut Core, submitted: &Submitted, now: Nanos) {
        if core.submitted.is_empty() {
            core.drain.end(now);
        }
        let commit = core.overload.note_commit(now - submitted.since);
        self.published.0.commit_ns.store(commit, Ordering::Relaxed);
    }

    /// Since when the first block waits that is closed and was not handed to the device.
    fn waits_since(&self, core: &Core) -> Option<Nanos> {
        let first = core.sealed.front().map_or(core.next_to_seal, |block| block.sequence);
        if first > self.pool.last_closed() { None } else { self.pool.closed_at(first) }
    }

    /// When the controller is to be told next, if nothing else happens: while records are refused, so that an idle shard lets
    /// go, and while some wait for the device.
    pub(in crate::shard) fn overload_due(&self, core: &Core) -> Option<Nanos> {
        let waits = || self.waits_since(core).is_some();
        (core.overload.controller.is_cutting() || waits()).then(|| core.overload.controller.due())
    }

    /// Tells which part of what each priority offered was let in.
    fn tell_admitted(&self, interval: &Interval) {
        let told = &self.published.0;
        for (priority, admitted) in told.admitted.iter().enumerate() {
            let part = match interval.offered(priority) {
                0 => 1.0,
                offered => interval.accepted[priority] as f64 / offered as f64,
            };
            admitted.store((part * f64::from(u32::MAX)) as u32, Ordering::Relaxed);
        }
        told.admitted_at.store(interval.now.0, Ordering::Relaxed);
    }

    /// Tells the controller what happened, if an interval is over, and puts into force what it says.
    pub(in crate::shard) fn step_overload(&self, core: &mut Core, now: Nanos) {
        if now < core.overload.controller.due() {
            return;
        }
        // What has not gone out at all waits at least for so long.
        let waits = self.waits_since(core).map(|since| now - since);
        let written = core.committer.watermarks().written.0;
        let accepted = self.accepted_end().0;
        let counted = self.gate.counted();
        let (busy, own) = (core.drain.all_busy(now), &mut core.overload);
        let [got_in, refused] = counted.since(&own.counted);
        let interval = Interval {
            now,
            busy: busy - own.busy,
            min_delay: own.min_delay.take().or(waits),
            drained: written.saturating_sub(own.written),
            grown: accepted.saturating_sub(own.accepted),
            accepted: got_in,
            refused,
            crowded: counted.crowded.wrapping_sub(own.counted.crowded),
            unfair: counted.unfair.wrapping_sub(own.counted.unfair),
        };
        (own.counted, own.written, own.accepted) = (counted, written, accepted);
        let cut = own.controller.step(&interval);
        own.busy = busy;
        self.gate.apply(&cut);
        core.committer.bound_flight(cut.flight_max);
        self.tell_admitted(&interval);
        match cut.is_calm {
            false => own.learner.step(self.gate.fairness(), now, cut.fair_bytes),
            true => own.learner.end(self.gate.fairness()),
        }
        // Windows that are wider now are room for those who wait.
        core.room_made |= !self.admission.is_clear();
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use std::time::Duration;

    use crate::device::sim::Faults;
    use crate::options::Tuning;
    use crate::simulation::Simulated;
    use crate::sync::lock;
    use crate::{Durability, Options, Write};

    /// Blocks that wait behind each other: it is the first one's time that counts.
    #[test]
    fn the_shortest_delay_of_an_interval_counts() {
        let machine = Simulated::seed(11);
        machine.set_faults(&Faults { latency_ns_max: 1, ..Faults::default() });
        let tuning = Tuning { device_depth: 1, shard_depth_min: 1, ..Tuning::default() };
        let options =
            Options::new().shards(1).block_bytes(4096).memory_bytes(64 << 10).segment_bytes(1 << 20);
        let options = options.delay_target(Duration::from_millis(1)).device(&machine).tuned(tuning);
        let log = options.open("/log").unwrap();
        log.sync().wait().unwrap();
        let engine = log.engine_for(b"");
        lock(&engine.core).overload.min_delay = None;
        machine.set_faults(&Faults { latency_ns_max: 3_000_000, ..Faults::default() });
        for _ in 0..6 {
            let write = Write::new(vec![1; 3_500]).durability(Durability::Written);
            drop(log.try_append(write).unwrap());
        }
        let mut delays = Vec::new();
        for _ in 0..40 {
            let mut looks = 0;
            // Until something comes back.
            engine.turn_until(|| {
                looks += 1;
                looks > 2
            });
            delays.extend(lock(&engine.core).overload.min_delay);
        }
        let (first, last) = (delays.first().unwrap(), delays.last().unwrap());
        assert!(delays.windows(2).all(|pair| pair[1] <= pair[0]) && first == last, "{delays:?}");
    }
}
