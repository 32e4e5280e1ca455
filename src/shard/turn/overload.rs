//! How long records wait before they go to the device, and what follows from it: the shard's side of
//! [`admission`](crate::admission)'s controller, which it tells what happened, with the time.

use std::time::Duration;

use crate::admission::{self, Controller, Counted, Gate, Interval, Learner, Limits};
use crate::pool::Sequence;
use crate::shard::token::Core;
use crate::shard::{Engine, EngineSetup};
use crate::time::Nanos;

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
}

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
        }
    }

    pub(in crate::shard) fn gate(&self, threaded: bool) -> Gate {
        Gate::new(self.limits.blocks_max, self.seed, threaded)
    }

    /// A block that was closed then goes to the device now.
    pub(in crate::shard) fn note_delay(&mut self, delay: u64) {
        self.min_delay = Some(self.min_delay.map_or(delay, |least| least.min(delay)));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Engine {
    /// A block goes to the device.
    pub(in crate::shard) fn note_handed_over(&self, core: &mut Core, sequence: Sequence, now: Nanos) {
        // Where it is not known it was closed just now by somebody who has not said so yet, or long ago by one who is
        // interrupted: others tell.
        if let Some(closed_at) = self.pool.closed_at(sequence) {
            core.overload.note_delay(now - closed_at);
        }
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
        let own = &mut core.overload;
        let [got_in, refused] = counted.since(&own.counted);
        let interval = Interval {
            now,
            min_delay: own.min_delay.take().or(waits),
            drained: written.saturating_sub(own.written),
            grown: accepted.saturating_sub(own.accepted),
            accepted: got_in,
            refused,
        };
        (own.counted, own.written, own.accepted) = (counted, written, accepted);
        let cut = own.controller.step(&interval);
        self.gate.apply(&cut);
        match cut.shares {
            Some(_) => {
                let got_in: u64 = got_in[..2].iter().sum();
                let offered = got_in + refused[..2].iter().sum::<u64>();
                let part = if offered == 0 { 1.0 } else { got_in as f64 / offered as f64 };
                own.learner.step(self.gate.fairness(), now, cut.fair_bytes, part);
            }
            None => own.learner.end(self.gate.fairness()),
        }
        // Windows that are wider now are room for those who wait.
        core.room_made |= !self.admission.is_clear();
    }
}
