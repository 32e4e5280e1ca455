//! How a life of the process ends, and how the next one opens the log.

use super::history::Seen;
use super::moves::{Handover, Map};
use super::world::{Drive, Kind, SHARDS, SLOTS, World};
use super::{Bug, Checked, ensure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    PowerCut,
    Kill,
}

impl World {
    pub fn crash(&mut self, end: End) -> Checked {
        self.seen.count(if end == End::Kill { Seen::Kill } else { Seen::PowerCut });
        if let Some(writing) = self.writing.take() {
            if self.dice.one_in(2) {
                self.disk_map = writing.map;
            }
        }
        self.forget();
        for shard in 0..SHARDS {
            self.lose(shard, end);
        }
        while !self.open()? {
            self.seen.count(Seen::OpenInterrupted);
            for shard in 0..SHARDS {
                self.lose(shard, End::PowerCut);
            }
        }
        self.apply_failures();
        self.serve()
    }

    fn lose(&mut self, shard: usize, end: End) {
        let state = &mut self.shards[shard];
        match state.drive {
            Drive::Failed { .. } => state.drive = Drive::Failed { remembered: false },
            Drive::Answers if end == End::PowerCut => state.lose_tail(&mut self.dice),
            Drive::Answers => state.entries.truncate(state.written as usize),
        }
    }

    /// Drives that are there again. A log does without a shard only if its map says where that ends.
    fn find_drives(&mut self) -> Checked {
        for shard in 0..SHARDS {
            let away = self.disk_map.is_away(shard);
            if !self.shards[shard].answers() && (!away || self.dice.one_in(self.mood.returning)) {
                self.seen.count(Seen::DriveReturned);
                self.shards[shard].drive = Drive::Answers;
                self.shards[shard].lose_tail(&mut self.dice);
            } else if self.rules.without(Bug::ForgetReturn) && away && self.dice.one_in(2) {
                // The map takes it for away: the log opens without it.
                self.shards[shard].drive = Drive::Failed { remembered: false };
            }
        }
        Ok(())
    }

    /// Where the scan of a shard ends; not above the cut that was decided when it failed.
    fn scanned(&self, shard: usize) -> Checked<u32> {
        let state = &self.shards[shard];
        if !state.answers() {
            return Ok(0);
        }
        match self.disk_map.cut_of(shard, state.epoch) {
            Some(cut) if !self.rules.without(Bug::ReturnDoesNotObey) => {
                ensure!(cut.lsn <= state.len(), "shard {shard} lost what was durable");
                Ok(cut.lsn)
            }
            _ => Ok(state.len()),
        }
    }

    /// `false`: it was interrupted.
    fn open(&mut self) -> Checked<bool> {
        self.find_drives()?;
        if !self.rules.without(Bug::OpenBeforeAllAreSynced) {
            for shard in self.shards.iter_mut().filter(|shard| shard.answers()) {
                shard.written = shard.len();
                shard.covered = shard.len();
            }
        }
        self.forget();
        let ends = (0..SHARDS).map(|shard| self.scanned(shard)).collect::<Checked<Vec<u32>>>()?;
        for shard in self.answering() {
            self.shards[shard].covered = self.shards[shard].covered.min(ends[shard]);
            self.find_verdicts(shard, ends[shard]);
        }
        let kept = self.kept(&ends);
        let mut order = self.answering();
        let first = self.dice.below(order.len().max(1));
        order.rotate_left(first);
        for shard in order {
            ensure!(kept[shard] >= self.shards[shard].horizon, "shard {shard} is cut below its horizon");
            let epoch = self.fresh();
            self.shards[shard].cut(kept[shard], epoch);
            if self.dice.one_in(12) {
                return Ok(false);
            }
        }
        let map = self.opened_map()?;
        if self.dice.one_in(12) {
            return Ok(false);
        }
        self.disk_map = map.clone();
        self.map = map;
        self.decided = vec![None; SHARDS];
        for shard in (0..SHARDS).filter(|&shard| !self.shards[shard].answers()) {
            self.decided[shard] = Some(0);
        }
        Ok(true)
    }

    fn find_verdicts(&mut self, shard: usize, end: u32) {
        if self.rules.without(Bug::VerdictInOneShard) {
            let state = &self.shards[shard];
            for entry in state.entries[..end as usize].iter().skip(state.horizon as usize) {
                if let Kind::Verdict(batch) = entry.kind {
                    self.verdicts.insert(batch);
                    self.oracle.batch_is_void(batch);
                }
            }
        }
    }

    /// The map that this life begins with: who is back, and how many shards there are.
    fn opened_map(&mut self) -> Checked<Map> {
        let mut map = self.disk_map.next(self.nonce());
        for shard in self.answering() {
            map.back(shard, self.rules);
        }
        if self.dice.one_in(3) {
            let live = 1 + self.dice.below(SHARDS);
            if let Some(resized) = self.resized(&map, live) {
                self.seen.count(if live < map.live { Seen::Shrunk } else { Seen::Grown });
                map = resized;
            }
        }
        Ok(if map == self.disk_map.next(self.nonce()) { self.disk_map.clone() } else { map })
    }

    /// The same change as a move, with nothing in flight. `None`: a history is full, or nobody is there to take a slot.
    fn resized(&mut self, map: &Map, live: usize) -> Option<Map> {
        let mut next = Map { live, ..map.clone() };
        let able: Vec<usize> = self.answering().into_iter().filter(|&shard| shard < live).collect();
        for slot in 0..SLOTS {
            let old = map.slots[slot].route();
            let moves = old >= live || (live > map.live && self.dice.one_in(2));
            if !moves || !self.shards[old].answers() {
                if old >= live {
                    return None;
                }
                continue;
            }
            if able.is_empty() || !map.slots[slot].may_move() {
                return None;
            }
            let to = able[self.dice.below(able.len())];
            if to != old {
                let (until, from) = (self.shards[old].end(), self.shards[to].end());
                next.hand_over(Handover { slot, until, to, from });
            }
        }
        Some(next)
    }

    /// Serves: clocks go on above all that is there, and above what failed shards had.
    fn serve(&mut self) -> Checked {
        self.told_time = self.map.clock;
        for shard in self.answering() {
            let clock = self.last_time(shard);
            self.shards[shard].clock = clock;
            self.told_time = self.told_time.max(clock);
        }
        self.check_reopened()
    }
}
