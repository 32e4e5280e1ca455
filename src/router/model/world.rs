//! The world that the rules are tried in: shards on drives, the log's manifest, and a process that may end at any step.

use std::collections::BTreeSet;

use super::appends::Producer;
use super::atomic::{Known, Part, whole_below};
use super::changes::{Moving, Writing};
use super::history::{Seen, Tally};
use super::moves::Map;
use super::oracle::Oracle;
use super::reads::{Follower, Outsider};
use super::{Bug, Checked, Dice, Place, Rules};

pub(super) const SHARDS: usize = 4;
pub(super) const SLOTS: usize = 4;
pub(super) const KEYS: usize = 8;
/// The only key with spread writes; another one is in its slot.
pub(super) const SPREAD_KEY: usize = 3;

pub(super) fn slot_of(key: usize) -> usize {
    key % SLOTS
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Record(usize),
    /// With the records that it holds.
    Part(Part, Vec<usize>),
    /// A record of nobody's, which makes LSNs differ among shards.
    Filler,
    /// A batch is void. Written only where `Bug::VerdictInOneShard` is tried.
    Verdict(u32),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub epoch: u32,
    pub kind: Kind,
}

impl Entry {
    fn part(&self) -> Option<&Part> {
        match &self.kind {
            Kind::Part(part, _) => Some(part),
            _ => None,
        }
    }
}

/// A record as it stands on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub key: usize,
    pub id: Option<usize>,
    pub time: u64,
    pub spread: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drive {
    Answers,
    /// `remembered`: the process that saw it fail still runs, and has the shard's ids and last records in memory.
    Failed {
        remembered: bool,
    },
}

/// One shard. Its LSNs are the numbers of its entries.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub entries: Vec<Entry>,
    /// Below it, entries are written; between it and `covered`, a power cut keeps any prefix.
    pub written: u32,
    pub covered: u32,
    /// Published: readers stop here.
    pub durable: u32,
    pub drive: Drive,
    /// The highest time that it gave a record.
    pub clock: u64,
    /// Held by a batch that reserves: by its producer's number.
    pub held: Option<usize>,
    // In its manifest, which a write replaces as a whole:
    pub horizon: u32,
    pub checkpoint: u32,
    /// The epoch that its next entry is of.
    pub epoch: u32,
}

impl Shard {
    fn new() -> Shard {
        Shard {
            entries: Vec::new(),
            written: 0,
            covered: 0,
            durable: 0,
            drive: Drive::Answers,
            clock: 0,
            held: None,
            horizon: 0,
            checkpoint: 0,
            epoch: 1,
        }
    }

    pub fn answers(&self) -> bool {
        self.drive == Drive::Answers
    }

    pub fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Where the next entry will stand.
    pub fn end(&self) -> Place {
        self.at(self.len())
    }

    /// The place of an LSN that counts as an end.
    pub fn at(&self, lsn: u32) -> Place {
        Place { epoch: self.epoch, lsn }
    }

    /// The place of the first entry that is not truncated.
    pub fn first(&self) -> Place {
        let epoch = self.entries.get(self.horizon as usize).map_or(self.epoch, |entry| entry.epoch);
        Place { epoch, lsn: self.horizon }
    }

    /// A cut, and a new epoch behind it, in one write of its manifest.
    pub fn cut(&mut self, lsn: u32, epoch: u32) {
        self.entries.truncate(lsn as usize);
        self.epoch = epoch;
        self.checkpoint = lsn;
        self.written = lsn;
        self.covered = lsn;
        self.durable = lsn;
    }

    /// What of the tail a power cut leaves.
    pub fn lose_tail(&mut self, dice: &mut Dice) {
        let left = self.covered + dice.below((self.written - self.covered + 1) as usize) as u32;
        self.entries.truncate(left as usize);
        self.written = left;
    }

    pub fn parts(&self, end: u32) -> Vec<(Place, &Part)> {
        let from = (self.checkpoint as usize).min(end as usize);
        let entries = self.entries[..end as usize].iter().enumerate().skip(from);
        let mut parts = Vec::new();
        for (lsn, entry) in entries {
            if let Kind::Part(part, _) = &entry.kind {
                parts.push((Place { epoch: entry.epoch, lsn: lsn as u32 }, part));
            }
        }
        parts
    }

    fn known(&self, end: u32) -> Known<'_> {
        let end = end.min(self.len());
        Known::Here { end, horizon: self.horizon, parts: self.parts(end), epoch: self.epoch }
    }
}

/// What happens to a drive's slots when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnFailure {
    Refuse,
    Reroute,
}

/// What is frequent in a history and what is rare.
#[derive(Debug)]
pub(super) struct Mood {
    /// A drive does something once in so many turns.
    pub drives: [usize; SHARDS],
    /// Who waits is told once in so many turns.
    pub telling: usize,
    /// Of twelve appends, how many are batches.
    pub batches: usize,
    /// A move begins once in so many draws.
    pub moves: usize,
    pub spreads: bool,
    /// Keys in use.
    pub keys: usize,
    /// The log's manifest is durable once in so many draws.
    pub manifest: usize,
    /// A failed drive is there again at one open in so many.
    pub returning: usize,
    /// A fault comes once in so many draws.
    pub calm: usize,
}

impl Mood {
    fn draw(dice: &mut Dice) -> Mood {
        let mut of = |choices: &[usize]| choices[dice.below(choices.len())];
        Mood {
            drives: [(); SHARDS].map(|()| of(&[1, 1, 1, 3, 60])),
            telling: of(&[1, 2, 10]),
            batches: of(&[0, 3, 6, 10]),
            moves: of(&[1, 1, 4, 1000]),
            spreads: of(&[0, 1]) == 1,
            keys: of(&[2, 4, KEYS]),
            manifest: of(&[1, 1, 3, 12]),
            returning: of(&[1, 3, 50]),
            calm: of(&[1, 2, 4]),
        }
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub dice: Dice,
    pub rules: Rules,
    pub on_failure: OnFailure,
    pub shards: Vec<Shard>,
    /// What the log's manifest says, durably.
    pub disk_map: Map,
    /// What the process goes by.
    pub map: Map,
    pub writing: Option<Writing>,
    pub moving: Option<Moving>,
    /// Where a failed shard ends, from the moment that it failed.
    pub decided: Vec<Option<u32>>,
    /// Failed, and no map says so yet.
    pub failing: Vec<usize>,
    pub records: Vec<Record>,
    pub producers: Vec<(usize, Producer)>,
    pub followers: Vec<Follower>,
    pub outsider: Outsider,
    /// The highest time acknowledged.
    pub told_time: u64,
    pub wants_spread: bool,
    pub oracle: Oracle,
    pub seen: Tally,
    pub mood: Mood,
    /// Batches with a verdict in some shard (`Bug::VerdictInOneShard`).
    pub verdicts: BTreeSet<u32>,
    numbers: u32,
}

impl World {
    pub fn new(seed: u64, rules: Rules) -> World {
        let mut dice = Dice(seed);
        let live = 1 + dice.below(SHARDS).max(dice.below(SHARDS));
        let on_failure = if dice.one_in(3) { OnFailure::Refuse } else { OnFailure::Reroute };
        let mood = Mood::draw(&mut dice);
        let map = Map::new(SLOTS, live);
        World {
            dice,
            rules,
            on_failure,
            shards: vec![Shard::new(); SHARDS],
            disk_map: map.clone(),
            map,
            writing: None,
            moving: None,
            decided: vec![None; SHARDS],
            failing: Vec::new(),
            records: Vec::new(),
            producers: Vec::new(),
            followers: Vec::new(),
            outsider: Outsider::default(),
            told_time: 0,
            wants_spread: false,
            oracle: Oracle::default(),
            seen: Tally::default(),
            mood,
            verdicts: BTreeSet::new(),
            numbers: 1,
        }
    }

    /// A number that is never given twice: of an epoch, of an open.
    pub fn fresh(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// The number of this life of the process.
    pub fn nonce(&self) -> u32 {
        self.oracle.life
    }

    pub fn answering(&self) -> Vec<usize> {
        (0..SHARDS).filter(|&shard| self.shards[shard].answers()).collect()
    }

    /// Shards that take appends.
    pub fn taking(&self) -> Vec<usize> {
        self.answering().into_iter().filter(|&shard| shard < self.map.live).collect()
    }

    pub fn is_void(&self, shard: usize, part: &Part, map: &Map) -> bool {
        if self.rules.without(Bug::VerdictInOneShard) {
            return self.verdicts.contains(&part.batch);
        }
        let lowest = part.siblings.iter().map(|(of, _)| *of).find(|&of| self.shards[of].answers());
        let heeds = !self.rules.without(Bug::VerdictHeededByOne) || lowest == Some(shard);
        heeds && part.is_void(map, self.rules)
    }

    /// For each shard, the first part that is not settled, or what is covered.
    pub fn settled(&self) -> Vec<u32> {
        let end = |shard: usize| {
            let covered = self.shards[shard].covered;
            match self.decided[shard].filter(|_| !self.rules.without(Bug::SettledAfterTheCut)) {
                Some(decided) => decided.min(covered),
                None => covered,
            }
        };
        let known = |shard: usize| match self.shards[shard].drive {
            // It was away when this process began.
            Drive::Failed { remembered: false } => Known::Away { cut: self.map.last_cut(shard) },
            _ => self.shards[shard].known(end(shard)),
        };
        let known: Vec<Known<'_>> = (0..SHARDS).map(known).collect();
        let alone = self.rules.without(Bug::SettledWithoutEarlier);
        whole_below(&known, |shard, part| self.is_void(shard, part, &self.map), alone, self.rules)
    }

    /// What recovery keeps of each shard, of the `ends` that it found.
    pub fn kept(&self, ends: &[u32]) -> Vec<u32> {
        let known = |shard: usize| match self.shards[shard].answers() {
            true => self.shards[shard].known(ends[shard]),
            false => Known::Away { cut: self.disk_map.last_cut(shard) },
        };
        let known: Vec<Known<'_>> = (0..SHARDS).map(known).collect();
        let once = self.rules.without(Bug::CutOnce);
        whole_below(&known, |shard, part| self.is_void(shard, part, &self.disk_map), once, self.rules)
    }

    /// One step of the devices and of those who turn the shards.
    pub fn turn(&mut self, shard: usize) {
        let works = self.dice.one_in(self.mood.drives[shard]);
        if works && self.dice.one_in(2) {
            self.write(shard);
        }
        if works && self.dice.one_in(2) {
            self.cover(shard);
        }
        if self.dice.one_in(2) {
            self.publish(shard);
        }
        if self.dice.one_in(self.mood.telling) {
            self.acknowledge(shard);
        }
    }

    fn write(&mut self, shard: usize) {
        let all = self.dice.one_in(2);
        let state = &mut self.shards[shard];
        let some = self.dice.below((state.len() - state.written + 1) as usize) as u32;
        let target = if all { state.len() } else { state.written + some };
        // A part is written once it names its siblings.
        let is_ready =
            |entry: &Entry| !matches!(&entry.kind, Kind::Part(part, _) if part.siblings.is_empty());
        if state.answers() {
            let new = &state.entries[state.written as usize..target as usize];
            state.written += new.iter().take_while(|entry| is_ready(entry)).count() as u32;
        }
    }

    fn cover(&mut self, shard: usize) {
        let state = &mut self.shards[shard];
        if state.answers() {
            let some = self.dice.below((state.written - state.covered + 1) as usize) as u32;
            state.covered = if self.dice.one_in(2) { state.written } else { state.covered + some };
        }
        self.heed_verdicts();
    }

    /// What is settled is decided in one step for the whole log; each shard publishes its own durable LSN after that, so
    /// that one may be behind another.
    fn publish(&mut self, shard: usize) {
        let settled = self.settled()[shard];
        let state = &mut self.shards[shard];
        if state.answers() {
            state.durable = state.durable.max(settled);
        }
    }

    /// A failed shard ends at what others may have settled by, whether it has published that itself or not.
    pub fn decide_cut(&mut self, shard: usize) -> u32 {
        if !self.rules.without(Bug::CutAtPublished) {
            self.publish(shard);
        }
        self.shards[shard].durable
    }

    /// Tells producers of a shard what is durable.
    pub fn acknowledge(&mut self, shard: usize) {
        if !self.shards[shard].answers() {
            return;
        }
        let state = &self.shards[shard];
        let parts = state.entries[..state.durable as usize].iter().filter_map(Entry::part);
        let void: Vec<u32> =
            parts.filter(|part| self.is_void(shard, part, &self.map)).map(|part| part.batch).collect();
        let told = self.oracle.acknowledge(shard, state, &void);
        for record in told {
            self.told_time = self.told_time.max(self.records[record].time);
        }
    }

    pub fn checkpoint(&mut self, shard: usize) {
        let above_parts = self.rules.without(Bug::CheckpointAboveUnsettled);
        let state = &mut self.shards[shard];
        if state.answers() {
            state.checkpoint = if above_parts { state.covered } else { state.durable };
            self.seen.count(Seen::Checkpoint);
        }
    }

    /// Everything that waits is done, as far as drives answer.
    pub fn pump(&mut self) -> Checked {
        for _ in 0..60 {
            for shard in 0..SHARDS {
                let state = &self.shards[shard];
                let is_ready =
                    |entry: &Entry| !matches!(&entry.kind, Kind::Part(part, _) if part.siblings.is_empty());
                if state.answers() {
                    let ready = state.entries.iter().take_while(|entry| is_ready(entry)).count() as u32;
                    self.shards[shard].written = ready;
                    self.shards[shard].covered = ready;
                }
            }
            self.heed_verdicts();
            (0..SHARDS).for_each(|shard| self.publish(shard));
            (0..SHARDS).for_each(|shard| self.acknowledge(shard));
            self.go_on_with_change();
            self.finish_writing();
            for producer in (0..self.producers.len()).rev() {
                self.produce(producer)?;
            }
            if self.is_idle() {
                return Ok(());
            }
        }
        Err(format!(
            "waits for ever: {:?}, {:?}, {:?}, ends {:?}, {:?}",
            self.producers,
            self.moving,
            self.writing,
            self.shards.iter().map(|shard| (shard.durable, shard.len())).collect::<Vec<_>>(),
            self.shards.iter().map(|shard| (shard.drive, shard.parts(shard.len()))).collect::<Vec<_>>()
        ))
    }

    fn is_idle(&self) -> bool {
        let done = self.answering().into_iter().all(|shard| {
            let state = &self.shards[shard];
            state.durable == state.len()
        });
        let quiet = self.writing.is_none() && self.moving.is_none() && self.failing.is_empty();
        done && quiet && self.producers.is_empty()
    }

    fn heed_verdicts(&mut self) {
        if !self.rules.without(Bug::VerdictInOneShard) {
            return;
        }
        for shard in self.shards.iter().filter(|shard| shard.answers()) {
            for entry in &shard.entries[shard.horizon as usize..shard.covered as usize] {
                if let Kind::Verdict(batch) = entry.kind {
                    self.verdicts.insert(batch);
                    self.oracle.batch_is_void(batch);
                }
            }
        }
    }

    /// What a process forgets when it ends.
    pub fn forget(&mut self) {
        self.oracle.end_life();
        self.writing = None;
        self.moving = None;
        self.failing.clear();
        self.producers.clear();
        self.followers.clear();
        self.verdicts.clear();
        self.wants_spread = false;
        for shard in &mut self.shards {
            shard.held = None;
        }
    }
}
