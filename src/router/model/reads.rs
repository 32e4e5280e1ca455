//! Readers by key: through the history of its slot, below the durable LSN of each shard.

use super::history::Seen;
use super::moves::{HISTORY_MAX, Map, Stretch};
use super::world::{Drive, Entry, KEYS, Kind, SHARDS, SPREAD_KEY, World, slot_of};
use super::{Bug, Checked, Place, ensure};

/// What conditions and ids are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Known(Option<usize>),
    /// A shard that is away may have it: the append is refused.
    Unknown,
}

/// A follower of a key, in the process.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    pub key: usize,
    /// The stretch that it reads, by the version that began it, and where it is there.
    version: u32,
    at: Place,
    given: Vec<usize>,
}

/// A reader beside the owner, which keeps the map that it has read.
#[derive(Clone, Debug, Default)]
pub(super) struct Outsider {
    map: Option<Map>,
}

fn records_of(entry: &Entry) -> &[usize] {
    match &entry.kind {
        Kind::Record(record) => std::slice::from_ref(record),
        Kind::Part(_, records) => records,
        Kind::Filler | Kind::Verdict(_) => &[],
    }
}

impl World {
    /// Records of a key in a shard below `end`, in order, void parts passed over.
    fn in_shard<'a>(
        &'a self,
        shard: usize,
        key: usize,
        end: u32,
        map: &'a Map,
    ) -> impl DoubleEndedIterator<Item = (Place, usize)> + 'a {
        let state = &self.shards[shard];
        let (from, end) = (state.horizon as usize, end.min(state.len()) as usize);
        let entries = state.entries[from.min(end)..end].iter().enumerate();
        entries.flat_map(move |(number, entry)| {
            let is_void = matches!(&entry.kind, Kind::Part(part, _) if self.is_void(shard, part, map));
            let place = Place { epoch: entry.epoch, lsn: (from + number) as u32 };
            let records = records_of(entry).iter().filter(move |_| !is_void);
            let of_key = records.filter(move |record| self.records[**record].key == key);
            of_key.map(move |record| (place, *record))
        })
    }

    /// What `read_key` gives, of the shards that answer.
    pub fn read_key(&self, key: usize, map: &Map) -> Vec<usize> {
        let slot = &map.slots[slot_of(key)];
        let mut found = Vec::new();
        if slot.spread {
            for shard in self.answering() {
                for (place, record) in self.in_shard(shard, key, self.shards[shard].durable, map) {
                    let holds =
                        |stretch: &Stretch| stretch.shard == shard && stretch.holds(place, self.rules);
                    let spread = self.records[record].spread || self.rules.without(Bug::SpreadTakesAll);
                    if spread || slot.history.iter().any(holds) {
                        found.push(record);
                    }
                }
            }
            found.sort_by_key(|&record| self.order_of(record));
            return found;
        }
        for stretch in slot.history.iter().filter(|stretch| self.shards[stretch.shard].answers()) {
            let records = self.in_shard(stretch.shard, key, self.shards[stretch.shard].durable, map);
            found.extend(
                records.filter(|(place, _)| stretch.holds(*place, self.rules)).map(|(_, record)| record),
            );
        }
        found
    }

    /// Where a record stands among those of all shards: by time, and of two at the same time by shard.
    fn order_of(&self, record: usize) -> (u64, usize) {
        (self.records[record].time, self.oracle.shard_of(record))
    }

    /// The newest record of a key that was accepted and for which `wanted` holds, through the history, newest first.
    fn newest(&self, key: usize, wanted: impl Fn(usize) -> bool) -> Answer {
        let stretches = self.map.slots[slot_of(key)].history.iter().rev();
        let present_alone = self.rules.without(Bug::ForgetIds);
        for stretch in stretches.take(if present_alone { 1 } else { usize::MAX }) {
            let shard = &self.shards[stretch.shard];
            if shard.drive == (Drive::Failed { remembered: false }) {
                if self.rules.without(Bug::UnknownIsAbsent) {
                    continue;
                }
                return Answer::Unknown;
            }
            let whole = self.rules.without(Bug::IdsAboveTheCut) && !shard.answers();
            let records = self.in_shard(stretch.shard, key, shard.len(), &self.map);
            let mut mine = records.filter(|(place, _)| whole || stretch.holds(*place, self.rules));
            if let Some((_, record)) = mine.by_ref().filter(|(_, record)| wanted(*record)).last() {
                return Answer::Known(Some(record));
            }
        }
        Answer::Known(None)
    }

    pub fn with_id(&self, key: usize, id: usize) -> Answer {
        self.newest(key, |record| self.records[record].id == Some(id))
    }

    pub fn last(&self, key: usize) -> Answer {
        self.newest(key, |_| true)
    }

    /// The highest time of a record in a shard.
    pub fn last_time(&self, shard: usize) -> u64 {
        let entries = self.shards[shard].entries.iter();
        entries.flat_map(records_of).map(|&record| self.records[record].time).max().unwrap_or(0)
    }

    pub fn check_read(&mut self, key: usize) -> Checked {
        let found = self.read_key(key, &self.map);
        self.oracle.check_read(key, &found, &self.shards, &self.records)
    }

    /// Beside the owner: it sees what the owner has written, durable or not, and keeps it until that changes.
    pub fn check_outsider(&mut self, key: usize) -> Checked {
        let shown = self.writing.as_ref().map_or(&self.disk_map, |writing| &writing.map);
        let same = |map: &Map| {
            let nonce = map.nonce == shown.nonce || self.rules.without(Bug::MapVersionReused);
            map.version == shown.version && nonce
        };
        if !self.outsider.map.as_ref().is_some_and(same) {
            self.outsider.map = Some(shown.clone());
        }
        let map = self.outsider.map.clone().expect("just read");
        let found = self.read_key(key, &map);
        let checked = self.oracle.check_read(key, &found, &self.shards, &self.records);
        checked.map_err(|wrong| format!("beside the owner: {wrong}"))
    }

    pub fn follow(&mut self) {
        let key = if self.dice.one_in(3) { SPREAD_KEY } else { self.dice.below(KEYS) };
        let version = self.map.slots[slot_of(key)].history[0].version;
        let at = Place { epoch: 0, lsn: 0 };
        self.followers.push(Follower { key, version, at, given: Vec::new() });
    }

    pub fn poll_follower(&mut self, index: usize) -> Checked {
        let mut follower = self.followers[index].clone();
        if self.map.slots[slot_of(follower.key)].spread {
            self.poll_spread(&mut follower)?;
        } else {
            self.poll_stretches(&mut follower)?;
        }
        self.followers[index] = follower;
        Ok(())
    }

    fn poll_stretches(&mut self, follower: &mut Follower) -> Checked {
        loop {
            let history = &self.map.slots[slot_of(follower.key)].history;
            // Its stretch may have been truncated and dropped: then the next one that is left.
            let stretch = history.iter().find(|stretch| stretch.version >= follower.version).cloned();
            let Some(stretch) = stretch else { return Err("a slot that is nowhere".into()) };
            if stretch.version != follower.version {
                follower.version = stretch.version;
                follower.at = stretch.from;
            }
            let shard = &self.shards[stretch.shard];
            let mut found = Vec::new();
            if shard.answers() {
                let records = self.in_shard(stretch.shard, follower.key, shard.durable, &self.map);
                let mine =
                    records.filter(|(place, _)| stretch.holds(*place, self.rules) && *place >= follower.at);
                found.extend(mine);
            }
            let is_over = |until: Place| !shard.answers() || shard.at(shard.durable) >= until;
            let over = stretch.until.is_some_and(is_over);
            for (place, record) in found {
                self.oracle.check_next(&follower.given, record, &self.shards)?;
                follower.given.push(record);
                follower.at = Place { lsn: place.lsn + 1, ..place };
                self.seen.count(Seen::Followed);
            }
            if !over {
                return Ok(());
            }
            follower.version = stretch.version + 1;
            follower.at = Place { epoch: 0, lsn: 0 };
        }
    }

    /// All shards by time, up to the least time that one of them may still give.
    fn poll_spread(&mut self, follower: &mut Follower) -> Checked {
        let low = |shard: usize| {
            let state = &self.shards[shard];
            let waiting = state.entries[state.durable as usize..].iter().flat_map(records_of);
            let first = waiting.map(|&record| self.records[record].time).min();
            first.map_or(state.clock.max(self.told_time), |time| time - 1)
        };
        let watermark = self.answering().into_iter().map(low).min().unwrap_or(0);
        let all = self.rules.without(Bug::SpreadWithoutWatermark);
        let last = follower.given.iter().map(|&record| self.order_of(record)).max();
        for record in self.read_key(follower.key, &self.map) {
            let time = self.records[record].time;
            if Some(self.order_of(record)) > last && (all || time <= watermark) {
                follower.given.push(record);
                self.seen.count(Seen::FollowedSpread);
            }
        }
        Ok(())
    }

    /// What followers have passed was given.
    pub fn check_followers(&mut self) -> Checked {
        for follower in &self.followers {
            let Some(&last) = follower.given.last() else { continue };
            let found = self.read_key(follower.key, &self.map);
            let passed = found.iter().filter(|&&record| self.order_of(record) <= self.order_of(last));
            for record in passed {
                ensure!(
                    follower.given.contains(record),
                    "a follower of key {} has passed record {record}",
                    follower.key
                );
            }
        }
        Ok(())
    }

    /// What is there after an open: no more and no less than may be.
    pub fn check_reopened(&mut self) -> Checked {
        for key in 0..KEYS {
            let found = self.read_key(key, &self.map);
            self.oracle.check_read(key, &found, &self.shards, &self.records)?;
            self.oracle.lost_but(key, &found, &self.shards);
        }
        self.oracle.lost_by_hand(&self.shards);
        self.oracle.check_batches(&self.shards)
    }

    /// What the map remembers is bounded, and goes once nobody needs it.
    pub fn check_map(&mut self) -> Checked {
        for slot in &self.map.slots {
            ensure!(slot.history.len() <= HISTORY_MAX, "a history of {} stretches", slot.history.len());
        }
        if self.answering().len() == SHARDS && self.dice.one_in(4) {
            (0..SHARDS).for_each(|shard| self.truncate_all_before(shard));
            self.prune_map();
            self.finish_writing();
            let history = self.map.slots.iter().map(|slot| slot.history.len()).max();
            let failures = self.map.failures.len();
            ensure!(
                history == Some(1) && failures == 0,
                "kept for nothing: {history:?}, {failures} failures"
            );
        }
        Ok(())
    }

    /// Batches stand in one order in all shards where they meet.
    pub fn check_order_of_batches(&self) -> Checked {
        let order = |shard: usize| -> Vec<u32> {
            let entries = self.shards[shard].entries.iter();
            let batch = |entry: &Entry| match &entry.kind {
                Kind::Part(part, _) => Some(part.batch),
                _ => None,
            };
            entries.filter_map(batch).collect()
        };
        let orders: Vec<Vec<u32>> = (0..SHARDS).map(order).collect();
        for (shard, one) in orders.iter().enumerate() {
            for other in &orders[shard + 1..] {
                let common: Vec<u32> = one.iter().copied().filter(|batch| other.contains(batch)).collect();
                let there: Vec<u32> = other.iter().copied().filter(|batch| one.contains(batch)).collect();
                ensure!(common == there, "batches in two orders: {common:?} and {there:?}");
            }
        }
        Ok(())
    }
}
