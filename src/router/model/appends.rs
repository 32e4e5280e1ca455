//! Producers: looking up the shard is one step, reserving another, and anything may happen in between.

use super::atomic::Part;
use super::history::Seen;
use super::oracle::Fact;
use super::reads::Answer;
use super::world::{Drive, Entry, Kind, OnFailure, Record, SPREAD_KEY, World, slot_of};
use super::{Bug, Checked, Place, ensure};

#[derive(Clone, Debug)]
pub(super) enum Ask {
    One {
        key: usize,
        id: Option<usize>,
        if_last: Option<Option<usize>>,
    },
    Spread,
    /// Into a shard that was named.
    Hand {
        key: usize,
        shard: usize,
    },
    Batch(Vec<usize>),
    Filler(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Producer {
    ask: Ask,
    /// How much was acknowledged when it began.
    began: u64,
    /// The version of the map, and the shard of each key.
    routed: Option<(u32, Vec<usize>)>,
    /// Shards held, with the LSN of the part where it is placed already (only where a rule is broken).
    held: Vec<(usize, u32)>,
    number: u32,
}

impl World {
    pub fn ask(&mut self) {
        let key = self.dice.below(self.mood.keys);
        let shard = self.dice.below(self.map.live);
        let ask = match self.dice.below(12 + self.mood.batches) {
            0..=2 | 8 => Ask::One { key, id: None, if_last: None },
            3 | 4 => Ask::One { key, id: Some(self.dice.below(4)), if_last: None },
            9 | 10 if slot_of(key) != slot_of(SPREAD_KEY) => {
                let last = self.oracle.last(key).filter(|_| !self.dice.one_in(4));
                Ask::One { key, id: None, if_last: Some(last) }
            }
            5 | 11 if self.mood.spreads => Ask::Spread,
            6 => Ask::Hand { key, shard },
            7 => Ask::Filler(shard),
            _ => {
                let more = 1 + self.dice.below(2);
                let mut keys = vec![key];
                for _ in 0..more {
                    let key = self.dice.below(self.mood.keys);
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
                Ask::Batch(keys)
            }
        };
        let (began, number) = (self.oracle.acknowledgements, self.fresh());
        let producer = Producer { ask, began, routed: None, held: Vec::new(), number };
        self.producers.push((number as usize, producer));
    }

    /// Nothing of the slot is taken by anybody now.
    pub fn is_closed(&self, slot: usize) -> bool {
        let moving = self.moving.as_ref().is_some_and(|moving| moving.change.slots.contains(&slot));
        let moving = moving && !self.rules.without(Bug::OpenBeforeEndIsDurable);
        let written = self.writing.as_ref().is_some_and(|writing| writing.slots.contains(&slot));
        let written = written && !self.rules.without(Bug::OpenBeforeMap);
        moving || written || self.will_be_rerouted(slot)
    }

    /// Its shard has failed, and it will go elsewhere.
    pub fn will_be_rerouted(&self, slot: usize) -> bool {
        let slot = &self.map.slots[slot];
        let failing = self.failing.contains(&slot.route());
        let may_go = self.on_failure == OnFailure::Reroute && !slot.is_full();
        failing && may_go && !self.taking().is_empty()
    }

    /// One step of a producer; it goes when it is done.
    pub fn produce(&mut self, index: usize) -> Checked {
        let (name, mut producer) = self.producers.swap_remove(index);
        let done = match producer.ask.clone() {
            Ask::Filler(shard) => self.add_filler(shard),
            Ask::Spread => self.append_spread(&producer),
            Ask::Hand { key, shard } => self.append_by_hand(&producer, key, shard),
            Ask::One { key, id, if_last } => self.append_one(&mut producer, key, id, if_last)?,
            Ask::Batch(keys) => self.append_batch(name, &mut producer, &keys)?,
        };
        if !done {
            self.producers.push((name, producer));
        } else {
            self.let_go(name);
        }
        Ok(())
    }

    fn let_go(&mut self, name: usize) {
        for shard in &mut self.shards {
            if shard.held == Some(name) {
                shard.held = None;
            }
        }
    }

    fn add_filler(&mut self, shard: usize) -> bool {
        let state = &mut self.shards[shard];
        if state.held.is_some() && state.answers() {
            return false;
        }
        if state.answers() {
            let epoch = state.epoch;
            state.entries.push(Entry { epoch, kind: Kind::Filler });
        }
        true
    }

    fn append_spread(&mut self, producer: &Producer) -> bool {
        if !self.map.slots[slot_of(SPREAD_KEY)].spread {
            self.wants_spread = true;
            if !self.rules.without(Bug::SpreadBeforeMap) {
                return false;
            }
        }
        let taking = self.taking();
        if taking.is_empty() {
            return true;
        }
        let shard = taking[self.dice.below(taking.len())];
        if self.shards[shard].held.is_some() {
            return false;
        }
        self.accept(shard, SPREAD_KEY, None, true, true, producer.began);
        self.seen.count(Seen::SpreadWrite);
        true
    }

    fn append_by_hand(&mut self, producer: &Producer, key: usize, shard: usize) -> bool {
        if !self.shards[shard].answers() || shard >= self.map.live {
            return true;
        }
        let closed = self.is_closed(slot_of(key)) && !self.rules.without(Bug::HandWhileClosed);
        if closed || self.shards[shard].held.is_some() {
            return false;
        }
        let belongs = self.map.slots[slot_of(key)].route() == shard;
        self.accept(shard, key, None, false, belongs, producer.began);
        self.seen.count(Seen::ByHand);
        true
    }

    fn look_up(&mut self, producer: &mut Producer, keys: &[usize]) {
        if keys.iter().any(|&key| self.is_closed(slot_of(key))) {
            self.seen.count(Seen::WaitedInClosedSlot);
            return;
        }
        let routes = keys.iter().map(|&key| self.map.slots[slot_of(key)].route()).collect();
        producer.routed = Some((self.map.version, routes));
    }

    /// What was looked up holds no longer.
    fn is_stale(&self, version: u32, keys: &[usize]) -> bool {
        let closed = keys.iter().any(|&key| self.is_closed(slot_of(key)));
        (version != self.map.version || closed) && !self.rules.without(Bug::StaleRoute)
    }

    fn append_one(
        &mut self,
        producer: &mut Producer,
        key: usize,
        id: Option<usize>,
        if_last: Option<Option<usize>>,
    ) -> Checked<bool> {
        let Some((version, routes)) = producer.routed.take() else {
            self.look_up(producer, &[key]);
            return Ok(false);
        };
        if self.is_stale(version, &[key]) {
            return Ok(false);
        }
        let shard = routes[0];
        if !self.shards[shard].answers() {
            return Ok(true);
        }
        if self.shards[shard].held.is_some() {
            return Ok(false);
        }
        if let Some(id) = id {
            let truth = self.oracle.with_id(key, id, &self.records);
            match self.with_id(key, id) {
                Answer::Unknown => return Ok(true),
                Answer::Known(found) => {
                    ensure!(found == truth, "id {id} of key {key}: {found:?} instead of {truth:?}");
                    if found.is_some() {
                        self.seen.count(Seen::Duplicate);
                        return Ok(true);
                    }
                }
            }
        }
        if let Some(wanted) = if_last {
            let truth = self.oracle.last(key);
            match self.last(key) {
                Answer::Unknown => return Ok(true),
                Answer::Known(last) => {
                    ensure!(last == truth, "last of key {key}: {last:?} instead of {truth:?}");
                    if last != wanted {
                        self.seen.count(Seen::Conflict);
                        return Ok(true);
                    }
                }
            }
        }
        self.accept(shard, key, id, false, true, producer.began);
        Ok(true)
    }

    /// Reserves in one shard after the other, all held until the last is reserved.
    fn append_batch(&mut self, name: usize, producer: &mut Producer, keys: &[usize]) -> Checked<bool> {
        let without_hold = self.rules.without(Bug::ReserveWithoutHold);
        let Some((version, routes)) = producer.routed.clone() else {
            self.look_up(producer, keys);
            return Ok(false);
        };
        let placed = without_hold && !producer.held.is_empty();
        if self.is_stale(version, keys) && !placed {
            self.give_up(name, producer);
            return Ok(false);
        }
        if routes.iter().any(|&shard| !self.shards[shard].answers()) {
            return Ok(true);
        }
        let mut shards = routes.clone();
        shards.sort_unstable();
        shards.dedup();
        if let Some(&next) = shards.iter().find(|shard| !producer.held.iter().any(|held| held.0 == **shard)) {
            if self.shards[next].held.is_some() {
                return Ok(false);
            }
            if !without_hold && self.dice.one_in(6) {
                // No room there: it queues, and holds nothing meanwhile.
                self.give_up(name, producer);
                return Ok(false);
            }
            if without_hold {
                self.place(producer, keys, &routes, next);
            } else {
                self.shards[next].held = Some(name);
                producer.held.push((next, 0));
            }
            if producer.held.len() < shards.len() {
                return Ok(false);
            }
        }
        if !without_hold {
            producer.held.clear();
            shards.iter().for_each(|&shard| self.place(producer, keys, &routes, shard));
        }
        self.name_siblings(producer);
        if shards.len() > 1 {
            self.seen.count(Seen::Batch);
        }
        Ok(true)
    }

    fn give_up(&mut self, name: usize, producer: &mut Producer) {
        self.let_go(name);
        producer.held.clear();
        producer.routed = None;
    }

    /// The part of a batch in one shard; it does not name the others yet.
    fn place(&mut self, producer: &mut Producer, keys: &[usize], routes: &[usize], shard: usize) {
        let lsn = self.shards[shard].len();
        let mine = keys.iter().zip(routes).filter(|(_, route)| **route == shard);
        let mut records = Vec::new();
        for (&key, _) in mine {
            let place = self.shards[shard].end();
            let record = self.make_record(shard, key, None, false);
            let fact = Fact::new(key, shard, place, true, producer.began);
            self.oracle.accept(Fact { batch: Some(producer.number), ..fact });
            records.push(record);
        }
        let part = Part { batch: producer.number, siblings: Vec::new() };
        let epoch = self.shards[shard].epoch;
        self.shards[shard].entries.push(Entry { epoch, kind: Kind::Part(part, records) });
        producer.held.push((shard, lsn));
    }

    fn name_siblings(&mut self, producer: &Producer) {
        let place = |&(shard, lsn): &(usize, u32)| {
            let entries = &self.shards[shard].entries;
            entries.get(lsn as usize).map(|entry| (shard, Place { epoch: entry.epoch, lsn }))
        };
        let siblings: Vec<(usize, Place)> = producer.held.iter().filter_map(place).collect();
        for &(shard, Place { lsn, .. }) in &siblings {
            if let Kind::Part(part, _) = &mut self.shards[shard].entries[lsn as usize].kind {
                part.siblings.clone_from(&siblings);
            }
        }
    }

    fn make_record(&mut self, shard: usize, key: usize, id: Option<usize>, spread: bool) -> usize {
        let state = &mut self.shards[shard];
        // Above its own last, and above all that was acknowledged; a shard may be ahead of others.
        state.clock = state.clock.max(self.told_time) + 1 + self.dice.below(6) as u64;
        self.records.push(Record { key, id, time: state.clock, spread });
        self.records.len() - 1
    }

    fn accept(
        &mut self,
        shard: usize,
        key: usize,
        id: Option<usize>,
        spread: bool,
        belongs: bool,
        began: u64,
    ) {
        debug_assert!(self.shards[shard].drive == Drive::Answers);
        let place = self.shards[shard].end();
        let record = self.make_record(shard, key, id, spread);
        self.oracle.accept(Fact { spread, ..Fact::new(key, shard, place, belongs, began) });
        self.shards[shard].entries.push(Entry { epoch: place.epoch, kind: Kind::Record(record) });
    }
}
