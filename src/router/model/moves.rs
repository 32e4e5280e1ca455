//! The map of slots: who holds a slot now, who held it before, and what a failed shard has lost.

use super::{Bug, Place, Rules};

/// Most stretches that a slot's history may have.
pub(super) const HISTORY_MAX: usize = 5;

/// One shard's turn at a slot. What it holds of the slot are its records from `from` up to `until`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stretch {
    /// The version of the map that began it: what a follower remembers.
    pub version: u32,
    pub shard: usize,
    pub from: Place,
    /// `None` for the one that goes on.
    pub until: Option<Place>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slot {
    /// The oldest first; the last one goes on.
    pub history: Vec<Stretch>,
    /// Some records of it may say that they are spread: readers look for those in all shards.
    pub spread: bool,
}

/// A shard that failed: what it had above `cut` does not come back, nor do batches with a part there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub shard: usize,
    /// Its durable end, in the epoch in which it failed.
    pub cut: Place,
    /// It has not come back.
    pub away: bool,
    /// The end of each shard when this was decided: no part that it makes void lies higher.
    pub ends: Vec<Place>,
}

/// What the log's manifest says of slots.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Map {
    pub version: u32,
    /// Of the open that wrote it: two maps are the same if version and nonce are.
    pub nonce: u32,
    /// Shards that take appends; those above are retired.
    pub live: usize,
    pub slots: Vec<Slot>,
    pub failures: Vec<Failure>,
    /// No record of a shard that failed has a higher time.
    pub clock: u64,
}

/// A slot's shard before and after a move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    pub slot: usize,
    /// The end of the old shard, not below its last record of the slot.
    pub until: Place,
    pub to: usize,
    /// The end of the new shard, while it takes nothing of the slot.
    pub from: Place,
}

impl Stretch {
    /// Whether what lies at a place of its shard belongs to it.
    pub fn holds(&self, place: Place, rules: Rules) -> bool {
        let from = if rules.without(Bug::ForgetFrom) { Place { epoch: 0, lsn: 0 } } else { self.from };
        if rules.without(Bug::PlacesWithoutEpoch) {
            return place.lsn >= from.lsn && self.until.is_none_or(|until| place.lsn < until.lsn);
        }
        place >= from && self.until.is_none_or(|until| place < until)
    }
}

/// A move that has closed its slots (step 1) and whose map is not being written yet.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub slots: Vec<usize>,
    /// Where each is.
    pub from: Vec<usize>,
    pub to: usize,
    /// The end of each slot's shard when the slot was closed: its `until`.
    pub ends: Vec<Place>,
}

/// How far a shard is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub has_failed: bool,
    /// The covered LSN, set back to the first part that is not settled: the durable LSN.
    pub settled: Place,
    pub covered: Place,
}

/// What a move does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// For the ends to be durable.
    Wait,
    /// The slots are where they were, or where the failure of their shard puts them.
    Cancel,
    /// Step 3: the map that names the ends. The slots open once it is durable (step 4).
    Write,
}

impl Move {
    pub fn next(&self, reach: impl Fn(usize) -> Reach, rules: Rules) -> Next {
        let failed = std::iter::once(&self.to).chain(&self.from).any(|&shard| reach(shard).has_failed);
        if failed && !rules.without(Bug::MoveOutlivesFailure) {
            return Next::Cancel;
        }
        let is_durable = |(&shard, &end): (&usize, &Place)| {
            let reach = reach(shard);
            let covered_is_enough = rules.without(Bug::EndCoveredNotSettled);
            end <= if covered_is_enough { reach.covered } else { reach.settled }
        };
        let durable = self.from.iter().zip(&self.ends).all(is_durable);
        if durable || rules.without(Bug::MapBeforeEnd) { Next::Write } else { Next::Wait }
    }

    /// The map to write; `from` is the end of the new shard now.
    pub fn apply(&self, map: &Map, nonce: u32, from: Place) -> Map {
        let mut next = map.next(nonce);
        for (&slot, &until) in self.slots.iter().zip(&self.ends) {
            next.hand_over(Handover { slot, until, to: self.to, from });
        }
        next
    }
}

impl Slot {
    pub fn route(&self) -> usize {
        self.history.last().expect("a slot is somewhere").shard
    }

    /// By hand it moves only while this holds: the last place is kept for a shard that fails.
    pub fn may_move(&self) -> bool {
        self.history.len() + 1 < HISTORY_MAX
    }

    pub fn is_full(&self) -> bool {
        self.history.len() >= HISTORY_MAX
    }
}

impl Map {
    pub fn new(slots: usize, live: usize) -> Map {
        let start = Place { epoch: 1, lsn: 0 };
        let stretch = |slot| Stretch { version: 1, shard: slot % live, from: start, until: None };
        let slots = (0..slots).map(|slot| Slot { history: vec![stretch(slot)], spread: false }).collect();
        Map { version: 1, nonce: 1, live, slots, failures: Vec::new(), clock: 0 }
    }

    /// The next version, with nothing changed yet.
    pub fn next(&self, nonce: u32) -> Map {
        Map { version: self.version + 1, nonce, ..self.clone() }
    }

    pub fn hand_over(&mut self, handover: Handover) {
        let Handover { slot, until, to, from } = handover;
        let version = self.version;
        let history = &mut self.slots[slot].history;
        history.last_mut().expect("a slot is somewhere").until = Some(until);
        history.push(Stretch { version, shard: to, from, until: None });
    }

    /// The shard has failed for good, as far as this version is concerned: one write decides for all its batches.
    pub fn fail(&mut self, failure: Failure, clock: u64, rules: Rules) {
        if !rules.without(Bug::ForgetClockOfFailed) {
            self.clock = self.clock.max(clock);
        }
        self.failures.push(failure);
    }

    /// Sends a failed shard's slots elsewhere: to `target`, from there on. Gives those that went; one whose history is full
    /// stays, and refuses appends.
    pub fn reroute(
        &mut self,
        shard: usize,
        until: Place,
        mut target: impl FnMut() -> Option<(usize, Place)>,
    ) -> Vec<(usize, usize)> {
        let mut went = Vec::new();
        for slot in 0..self.slots.len() {
            if self.slots[slot].route() != shard || self.slots[slot].is_full() {
                continue;
            }
            if let Some((to, from)) = target() {
                self.hand_over(Handover { slot, until, to, from });
                went.push((slot, to));
            }
        }
        went
    }

    /// A failed shard whose drive is there again has been cut, and takes appends from now on.
    pub fn back(&mut self, shard: usize, rules: Rules) {
        if !rules.without(Bug::ForgetReturn) {
            self.failures.iter_mut().filter(|failure| failure.shard == shard).for_each(|f| f.away = false);
        }
    }

    pub fn is_away(&self, shard: usize) -> bool {
        self.failures.iter().any(|failure| failure.shard == shard && failure.away)
    }

    /// Where a shard is to be cut that comes back in the epoch in which it failed: after that it has a later one.
    pub fn cut_of(&self, shard: usize, epoch: u32) -> Option<Place> {
        let mut failures = self.failures.iter().filter(|failure| failure.shard == shard);
        failures.find(|failure| failure.cut.epoch == epoch).map(|failure| failure.cut)
    }

    /// Where a shard ended when it failed last.
    pub fn last_cut(&self, shard: usize) -> Option<Place> {
        self.failures.iter().rev().find(|failure| failure.shard == shard).map(|failure| failure.cut)
    }

    /// A batch with a part at `place` of `shard` is void.
    pub fn voids(&self, shard: usize, place: Place, rules: Rules) -> bool {
        self.failures.iter().filter(|failure| failure.shard == shard).any(|failure| {
            let epoch = failure.cut.epoch == place.epoch || rules.without(Bug::VoidWithoutEpoch);
            epoch && place.lsn >= failure.cut.lsn
        })
    }

    /// Drops what nobody needs. `horizons` are the first places of each shard, as durable; `None` where the shard is
    /// not there to ask.
    pub fn prune(&mut self, horizons: &[Option<Place>], rules: Rules) {
        for slot in &mut self.slots {
            let gone = |stretch: &Stretch| match (stretch.until, horizons[stretch.shard]) {
                (Some(_), Some(_)) if rules.without(Bug::PruneEarly) => true,
                (Some(until), Some(horizon)) => until <= horizon,
                _ => false,
            };
            slot.history.retain(|stretch| !gone(stretch));
        }
        self.failures.retain(|failure| {
            let mut horizons = horizons.iter().zip(&failure.ends);
            let passed = horizons.all(|(horizon, end)| horizon.is_some_and(|horizon| horizon >= *end));
            failure.away || !(passed || rules.without(Bug::PruneVerdictEarly))
        });
    }
}
