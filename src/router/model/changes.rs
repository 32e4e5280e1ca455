//! What changes the map, and what changes a shard: moves, failed drives, truncations.

use super::history::Seen;
use super::moves::{Failure, Map, Move, Next, Reach};
use super::world::{Drive, Entry, Kind, OnFailure, SHARDS, SLOTS, SPREAD_KEY, World, slot_of};
use super::{Bug, Place};

/// A move under way.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    pub change: Move,
    /// Where the slots were opened at once (only where a rule is broken).
    opened: Option<Map>,
}

/// A version of the map on its way to the log's manifest. One at a time.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub map: Map,
    /// Slots that open once it is durable.
    pub slots: Vec<usize>,
    failed: Vec<usize>,
}

impl World {
    /// Step 1 of a move: the slots are closed.
    pub fn begin_move(&mut self) {
        let taking = self.taking();
        if self.moving.is_some() || taking.is_empty() {
            return;
        }
        let to = taking[self.dice.below(taking.len())];
        let several = self.dice.one_in(3);
        let first = self.dice.below(SLOTS);
        let may_move = |slot: &usize| {
            let state = &self.map.slots[*slot];
            let open = !self.is_closed(*slot) && self.shards[state.route()].answers();
            state.route() != to && state.may_move() && open
        };
        let slots: Vec<usize> = (0..SLOTS)
            .map(|slot| (first + slot) % SLOTS)
            .filter(may_move)
            .take(1 + usize::from(several))
            .collect();
        if slots.is_empty() {
            return;
        }
        let from: Vec<usize> = slots.iter().map(|&slot| self.map.slots[slot].route()).collect();
        let ends = from.iter().map(|&shard| self.shards[shard].end()).collect();
        let change = Move { slots, from, to, ends };
        let at_once = self.rules.without(Bug::OpenBeforeEndIsDurable);
        let opened = at_once.then(|| self.handed_over(&change));
        if let Some(map) = &opened {
            self.map.clone_from(map);
        }
        self.moving = Some(Moving { change, opened });
    }

    fn handed_over(&mut self, change: &Move) -> Map {
        if !self.rules.without(Bug::ForgetClock) {
            let clock = change.from.iter().map(|&shard| self.shards[shard].clock).max();
            self.raise_clock(change.to, clock.unwrap_or(0));
        }
        change.apply(&self.map, self.nonce(), self.shards[change.to].end())
    }

    fn raise_clock(&mut self, shard: usize, clock: u64) {
        self.shards[shard].clock = self.shards[shard].clock.max(clock);
    }

    /// Steps 2 and 3 of a move, or what a failed drive asks for.
    pub fn go_on_with_change(&mut self) {
        if self.writing.is_some() {
            return;
        }
        if !self.failing.is_empty() {
            self.write_failures();
            return;
        }
        if self.wants_spread {
            let mut map = self.map.next(self.nonce());
            map.slots[slot_of(SPREAD_KEY)].spread = true;
            self.wants_spread = false;
            self.writing = Some(Writing { map, slots: Vec::new(), failed: Vec::new() });
            return;
        }
        let Some(Moving { change, opened }) = self.moving.clone() else { return };
        let reach = |shard: usize| {
            let shard = &self.shards[shard];
            let (settled, covered) = (shard.at(shard.durable), shard.at(shard.covered));
            Reach { has_failed: !shard.answers(), settled, covered }
        };
        match change.next(reach, self.rules) {
            Next::Wait => {}
            Next::Cancel => self.moving = None,
            Next::Write => {
                let map = match opened {
                    Some(map) => map,
                    None => self.handed_over(&change),
                };
                if self.rules.without(Bug::OpenBeforeMap) {
                    self.map = map.clone();
                }
                self.writing = Some(Writing { map, slots: change.slots, failed: Vec::new() });
                self.moving = None;
            }
        }
    }

    /// The manifest is durable: step 4 of a move.
    pub fn finish_writing(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        if writing.map.slots[slot_of(SPREAD_KEY)].spread && !self.map.slots[slot_of(SPREAD_KEY)].spread {
            self.begin_spread();
        }
        self.disk_map = writing.map.clone();
        self.map = writing.map;
        if !writing.slots.is_empty() && writing.failed.is_empty() {
            self.seen.count(Seen::Move);
        }
        for shard in writing.failed {
            self.failing.retain(|failing| *failing != shard);
        }
        self.apply_failures();
    }

    /// From now on any shard takes records of the slot: later ones than those that its followers were given.
    fn begin_spread(&mut self) {
        let shard = self.map.slots[slot_of(SPREAD_KEY)].route();
        let clock = self.shards[shard].clock;
        if !self.rules.without(Bug::ForgetClockOfSpread) {
            self.shards.iter_mut().for_each(|shard| shard.clock = shard.clock.max(clock));
        }
    }

    /// Tells the oracle what the durable map has decided.
    pub fn apply_failures(&mut self) {
        let map = self.disk_map.clone();
        self.apply_failures_of(&map);
    }

    fn apply_failures_of(&mut self, map: &Map) {
        // Where that rule is broken, batches are void once the verdict in some shard is durable.
        let voids = !self.rules.without(Bug::VerdictInOneShard);
        for failure in &map.failures {
            let voided = self.oracle.shard_failed(failure.shard, failure.cut, voids);
            if voided > 0 {
                self.seen.count(Seen::Voided);
            }
        }
    }

    /// A drive stops answering. Where its shard ends is decided at once, in the step that settles batches.
    pub fn fail_drive(&mut self) {
        let answering = self.answering();
        if answering.len() < 2 || self.oracle.drives_failed >= 3 {
            return;
        }
        let shard = answering[self.dice.below(answering.len())];
        self.oracle.drives_failed += 1;
        self.decided[shard] = Some(self.decide_cut(shard));
        self.shards[shard].drive = Drive::Failed { remembered: true };
        self.failing.push(shard);
        self.seen.count(Seen::DriveFailed);
        if self.rules.without(Bug::VerdictInOneShard) {
            self.write_verdicts(shard);
        }
    }

    /// A design that did not hold: the lowest healthy shard of a batch says in its own stream that the batch is void.
    fn write_verdicts(&mut self, failed: usize) {
        let cut = self.shards[failed].at(self.shards[failed].durable);
        let mut found: Vec<(usize, u32)> = Vec::new();
        for shard in self.answering() {
            for (_, part) in self.shards[shard].parts(self.shards[shard].len()) {
                let lost = part.siblings.iter().any(|&(of, place)| of == failed && place >= cut);
                if lost && !found.iter().any(|(_, batch)| *batch == part.batch) {
                    found.push((shard, part.batch));
                }
            }
        }
        for (shard, batch) in found {
            let epoch = self.shards[shard].epoch;
            self.shards[shard].entries.push(Entry { epoch, kind: Kind::Verdict(batch) });
        }
    }

    /// One version of the map says where failed shards end, and where their slots go.
    fn write_failures(&mut self) {
        let failed = self.failing.clone();
        let mut map = self.map.next(self.nonce());
        let mut slots = Vec::new();
        for &shard in &failed {
            let state = &self.shards[shard];
            let cut = state.at(state.durable);
            let ends = self.shards.iter().map(|shard| shard.end()).collect();
            map.fail(Failure { shard, cut, away: true, ends }, state.clock, self.rules);
            slots.extend(self.reroute(&mut map, shard, cut));
        }
        if self.rules.without(Bug::VerdictBeforeMap) {
            self.map = map.clone();
            self.apply_failures_of(&map);
        }
        self.writing = Some(Writing { map, slots, failed });
    }

    fn reroute(&mut self, map: &mut Map, shard: usize, until: Place) -> Vec<usize> {
        let reroutes = self.on_failure == OnFailure::Reroute;
        let taking = if reroutes { self.taking() } else { Vec::new() };
        let (dice, shards) = (&mut self.dice, &self.shards);
        let target = || match taking.len() {
            0 => None,
            count => Some(taking[dice.below(count)]).map(|to| (to, shards[to].end())),
        };
        let went = map.reroute(shard, until, target);
        for &(_, to) in &went {
            self.raise_clock(to, self.shards[shard].clock);
            self.seen.count(Seen::Rerouted);
        }
        went.into_iter().map(|(slot, _)| slot).collect()
    }

    pub fn prune_map(&mut self) {
        if self.writing.is_some() || !self.failing.is_empty() || self.moving.is_some() {
            return;
        }
        let mut map = self.map.next(self.nonce());
        map.prune(&self.horizons(), self.rules);
        if map.slots != self.map.slots || map.failures != self.map.failures {
            self.seen.count(Seen::Pruned);
            self.writing = Some(Writing { map, slots: Vec::new(), failed: Vec::new() });
        }
    }

    pub fn horizons(&self) -> Vec<Option<Place>> {
        let horizon = |shard: usize| Some(&self.shards[shard]).filter(|shard| shard.answers());
        (0..SHARDS).map(|shard| horizon(shard).map(|shard| shard.first())).collect()
    }

    pub fn truncate_before(&mut self, shard: usize) {
        let state = &mut self.shards[shard];
        if state.answers() {
            let some = self.dice.below((state.durable - state.horizon + 1) as usize) as u32;
            state.horizon = if self.dice.one_in(3) { state.durable } else { state.horizon + some };
            let horizon = state.horizon;
            self.oracle.truncated(shard, horizon);
            self.seen.count(Seen::TruncatedBefore);
        }
    }

    pub fn truncate_all_before(&mut self, shard: usize) {
        self.shards[shard].horizon = self.shards[shard].durable;
        self.oracle.truncated(shard, self.shards[shard].horizon);
    }

    /// All from an LSN on goes, and a new epoch begins there. It waits until all below is settled, since recovery
    /// begins there.
    pub fn truncate_after(&mut self, shard: usize) {
        let state = &self.shards[shard];
        if !state.answers() || state.held.is_some() {
            return;
        }
        let lsn = state.horizon + self.dice.below((state.len() - state.horizon + 1) as usize) as u32;
        let entries = &state.entries[lsn as usize..];
        let has_part = entries.iter().any(|entry| matches!(entry.kind, Kind::Part(..)));
        let waits = state.durable < lsn && !self.rules.without(Bug::TruncateAboveUnsettled);
        if waits || (has_part && !self.rules.without(Bug::TruncateThroughPart)) {
            return;
        }
        let epoch = self.fresh();
        self.oracle.cut_on_purpose(shard, lsn);
        self.shards[shard].cut(lsn, epoch);
        self.seen.count(Seen::TruncatedAfter);
    }
}
