//! Histories of moves on a simulated machine: keys whose slots go from shard to shard, beside a plain list of what was
//! appended, through crashes at every step of a move.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::device::sim::Random;
use crate::error::{AppendError, MoveError, ReadError, TruncateError};
use crate::log::LogReader;
use crate::read::FollowKey;
use crate::simulation::{End, Faults, Simulated};
use crate::{Commit, Durability, Log, Options, Position, Record, ShardId, Write};

const PATH: &str = "/moves";
const KEYS: [&[u8]; 4] = [b"a", b"b", b"key", b"another"];

fn one_in(random: &mut Random, count: u64) -> bool {
    random.below(count) == 0
}

/// A record of a key's stream.
#[derive(Clone, Debug)]
struct Appended {
    position: Position,
    id: Option<u128>,
    acknowledged: bool,
}

/// When whoever appends a record waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Now,
    Later,
    Never,
}

/// What the histories met, so that none of it is never met.
#[derive(Debug, Default)]
struct Counts {
    moves: u64,
    stopped_moves: u64,
    failed_moves: u64,
    full_histories: u64,
    kills: u64,
    power_cuts: u64,
    lost: u64,
    by_hand: u64,
    duplicates: u64,
    duplicates_elsewhere: u64,
    conflicts: u64,
    followed: u64,
    followed_elsewhere: u64,
    read_beside: u64,
    truncated: u64,
    cut: u64,
    bounds: u64,
}

struct Follower {
    key: usize,
    tail: FollowKey,
    /// Its last record.
    last: Option<Position>,
    shard: Option<ShardId>,
}

struct History {
    random: Random,
    machine: Simulated,
    options: Options,
    /// The stream of each key, in the order in which its records were accepted.
    streams: BTreeMap<usize, Vec<Appended>>,
    /// Those that are durable once they are waited for.
    pending: Vec<(usize, Commit)>,
    /// A cut that failed, and may hold all the same: what lies there after the record.
    perhaps_cut: Option<Position>,
    followers: Vec<Follower>,
    beside: Option<LogReader>,
    next_id: u128,
    counts: Counts,
}

impl History {
    fn new(seed: u64, counts: Counts) -> History {
        let mut random = Random::new(seed);
        let machine = Simulated::seed(seed);
        let options = Options::new()
            .shards(2 + random.below(2) as u16)
            .block_bytes(4096 << random.below(2))
            .segment_bytes(64 << 10)
            .memory_bytes(1 << 20)
            .index_keys(one_in(&mut random, 2))
            .dedup_ids(1 << 12);
        let streams = (0..KEYS.len()).map(|key| (key, Vec::new())).collect();
        History {
            random,
            machine,
            options,
            streams,
            pending: Vec::new(),
            perhaps_cut: None,
            followers: Vec::new(),
            beside: None,
            next_id: 0,
            counts,
        }
    }

    fn faults(&mut self, stops: bool) {
        let call_error = if one_in(&mut self.random, 4) { 5 } else { 0 };
        let stop_after = stops.then(|| self.random.below(400));
        let write_through = one_in(&mut self.random, 2);
        let faults = Faults { call_error, stop_after, write_through, ..Faults::default() };
        self.machine.set_faults(&faults);
    }

    fn open(&mut self) -> Log {
        self.machine.set_faults(&Faults::default());
        let log = self.options.clone().device(&self.machine).open(PATH).expect("nothing stands in the way");
        let reader = LogReader::open_on(self.machine.device().as_ref(), std::path::Path::new(PATH));
        self.beside = reader.ok();
        log
    }

    fn stream(&mut self, key: usize) -> &mut Vec<Appended> {
        self.streams.get_mut(&key).expect("one for each key")
    }

    /// Of the records of a key those that are there, in order.
    fn expected(&self, log: &Log, key: usize) -> Vec<Position> {
        let horizon = |shard: ShardId| log.engine_of(shard).view().horizon;
        let places = self.streams[&key].iter().map(|record| record.position);
        places.filter(|place| place.lsn() >= horizon(place.shard())).collect()
    }

    fn accepted(&mut self, key: usize, id: Option<u128>, commit: Commit, waits: Waits) {
        let position = commit.position();
        self.stream(key).push(Appended { position, id, acknowledged: false });
        if waits != Waits::Never {
            self.pending.push((key, commit));
        }
        if waits == Waits::Now {
            self.wait_for_all();
        }
    }

    /// Asks for all that was accepted to be durable.
    fn sync(&mut self, log: &Log) {
        if log.sync().wait().is_ok() {
            self.streams.values_mut().flatten().for_each(|record| record.acknowledged = true);
        }
    }

    fn wait_for_all(&mut self) {
        for (key, commit) in std::mem::take(&mut self.pending) {
            let position = commit.position();
            if commit.wait().is_ok() {
                self.acknowledge(key, position);
            }
        }
    }

    fn acknowledge(&mut self, key: usize, position: Position) {
        let record = self.stream(key).iter_mut().find(|record| record.position == position);
        if let Some(record) = record {
            record.acknowledged = true;
        }
    }

    fn append(&mut self, log: &Log) {
        let key = self.random.below(KEYS.len() as u64) as usize;
        let payload = vec![7; 1 + self.random.below(900) as usize];
        let durability = if one_in(&mut self.random, 3) { Durability::Synced } else { Durability::Buffered };
        let write = Write::new(payload).key(KEYS[key]).durability(durability);
        let waits = match durability {
            Durability::Synced if one_in(&mut self.random, 2) => Waits::Now,
            Durability::Synced => Waits::Later,
            _ => Waits::Never,
        };
        match self.random.below(8) {
            0 => {
                let shard = ShardId(self.random.below(u64::from(log.shards())) as u16);
                let is_own = log.route(KEYS[key]) == shard;
                let Ok(commit) = log.shard(shard).append(write).admitted().wait() else { return };
                self.counts.by_hand += u64::from(!is_own);
                if is_own {
                    self.accepted(key, None, commit, waits);
                }
            }
            1 => {
                let payloads = [[1; 300]; 3];
                let appended = log.append_batch(KEYS[key], &payloads).admitted().wait();
                let Ok((commit, positions)) = appended else { return };
                for position in positions {
                    self.stream(key).push(Appended { position, id: None, acknowledged: false });
                }
                self.pending.push((key, commit));
            }
            2 => self.append_if_last(log, key, write, waits),
            3 | 4 => self.append_with_id(log, key, write, waits),
            _ => {
                if let Ok(commit) = log.append(write).admitted().wait() {
                    self.accepted(key, None, commit, waits);
                }
            }
        }
    }

    fn append_if_last(&mut self, log: &Log, key: usize, write: Write<'_>, waits: Waits) {
        let last = self.expected(log, key).last().copied();
        let right = one_in(&mut self.random, 2);
        let told = if right { last } else { self.streams[&key].first().map(|record| record.position) };
        let holds = told == last;
        match log.append(write.if_last(told)).admitted().wait() {
            Ok(commit) => {
                assert!(holds, "it was accepted behind {last:?}, and not {told:?}");
                self.accepted(key, None, commit, waits);
            }
            Err(AppendError::Conflict { last: found, .. }) => {
                let slot = log.slot(KEYS[key]);
                let history = || log.history_of_slot(slot);
                assert!(
                    !holds && found == last,
                    "{found:?} for {last:?}, asked for {told:?}, stopped: {}: {:?}",
                    self.machine.has_stopped(),
                    history()
                );
                self.counts.conflicts += 1;
            }
            Err(_) => {}
        }
    }

    fn append_with_id(&mut self, log: &Log, key: usize, write: Write<'_>, waits: Waits) {
        let present = self.expected(log, key);
        let with_ids = self.streams[&key].iter().filter(|record| present.contains(&record.position));
        let with_ids: Vec<(u128, Position)> =
            with_ids.filter_map(|record| Some((record.id?, record.position))).collect();
        if !with_ids.is_empty() && one_in(&mut self.random, 2) {
            let (id, place) = with_ids[self.random.below(with_ids.len() as u64) as usize];
            match log.append(write.id(id)).admitted().wait() {
                Ok(commit) => {
                    assert!(commit.is_duplicate(), "{id} was forgotten, which is at {place}");
                    assert_eq!(commit.position(), place);
                    self.counts.duplicates += 1;
                    self.counts.duplicates_elsewhere += u64::from(place.shard() != log.route(KEYS[key]));
                    if waits == Waits::Now && commit.wait().is_ok() {
                        self.acknowledge(key, place);
                    }
                }
                Err(error) => assert!(self.may_fail(log), "{error}"),
            }
            return;
        }
        self.next_id += 1;
        let id = self.next_id;
        if let Ok(commit) = log.append(write.id(id)).admitted().wait() {
            assert!(!commit.is_duplicate(), "{id} was never there");
            self.accepted(key, Some(id), commit, waits);
        }
    }

    /// Whether something has failed.
    fn may_fail(&self, log: &Log) -> bool {
        self.machine.has_stopped() || log.stats().shards.iter().any(|shard| shard.failed)
    }

    fn move_slots(&mut self, log: &Log) {
        let count = 1 + self.random.below(3);
        let slots: Vec<u32> =
            (0..count).map(|_| log.slot(KEYS[self.random.below(KEYS.len() as u64) as usize])).collect();
        let to = ShardId(self.random.below(u64::from(log.shards())) as u16);
        match log.move_slots(&slots, to) {
            Ok(()) => {
                assert!(KEYS.iter().all(|key| !slots.contains(&log.slot(*key)) || log.route(*key) == to));
                self.counts.moves += 1;
            }
            Err(MoveError::HistoryFull { slot, .. }) => {
                assert!(slots.contains(&slot));
                self.counts.full_histories += 1;
            }
            Err(_) if self.machine.has_stopped() => self.counts.stopped_moves += 1,
            Err(_) => self.counts.failed_moves += 1,
        }
    }

    fn truncate(&mut self, log: &Log) {
        let shard = ShardId(self.random.below(u64::from(log.shards())) as u16);
        let records = self.streams.values().flatten().map(|record| record.position);
        let records: Vec<Position> = records.filter(|place| place.shard() == shard).collect();
        if records.is_empty() {
            return;
        }
        let place = records[self.random.below(records.len() as u64) as usize];
        if one_in(&mut self.random, 4) {
            self.wait_for_all();
            // What is cut is gone from all streams; whether it was, if that fails, a look at the log tells.
            match log.shard(shard).truncate_after(place.lsn()) {
                Ok(()) => {
                    self.counts.cut += 1;
                    for stream in self.streams.values_mut() {
                        stream.retain(|record| record.position.shard() != shard || record.position <= place);
                    }
                    self.followers.clear();
                }
                Err(TruncateError::InsideBatch { .. } | TruncateError::NotARecord { .. }) => {}
                Err(_) => self.perhaps_cut = Some(place),
            }
        } else if log.shard(shard).truncate_before(place.lsn()).is_ok() {
            self.counts.truncated += 1;
        }
    }

    /// All that is there of a key, in order; `None` if something failed.
    fn check_key(&mut self, log: &Log, key: usize) {
        let expected = self.expected(log, key);
        let found: Result<Vec<Position>, ReadError> = match self.random.below(3) {
            0 => log.read_key_back(KEYS[key], ..).and_then(|range| {
                let mut found = places(range)?;
                found.reverse();
                Ok(found)
            }),
            1 if !expected.is_empty() => {
                // From one of its records on.
                let from = self.random.below(expected.len() as u64) as usize;
                self.counts.bounds += 1;
                log.read_key(KEYS[key], expected[from]..).and_then(places).map(|mut found| {
                    found.splice(0..0, expected[..from].iter().copied());
                    found
                })
            }
            _ => log.read_key(KEYS[key], ..).and_then(places),
        };
        match found {
            Ok(found) => assert_eq!(found, expected, "the records of {}", KEYS[key].escape_ascii()),
            Err(error) => assert!(self.may_fail(log), "{error}"),
        }
        match log.last(KEYS[key]) {
            Ok(last) => assert_eq!(last, expected.last().copied()),
            Err(error) => assert!(self.may_fail(log), "{error}"),
        }
    }

    fn check_beside(&mut self, log: &Log, key: usize) {
        let Some(reader) = &self.beside else { return };
        // A truncation that failed may stand in one copy of a manifest, and be seen or not.
        let Ok(before) = reader.summary() else { return };
        let Ok(found) = reader.read_key(KEYS[key], ..).and_then(places) else { return };
        let Ok(after) = reader.summary() else { return };
        let horizon = |shard: ShardId| {
            [&before, &after].map(|shards| shards[usize::from(shard.0)].horizon).into_iter().max()
        };
        let is_there = |place: &Position| Some(place.lsn()) >= horizon(place.shard());
        let mut expected = self.expected(log, key);
        expected.retain(is_there);
        let found: Vec<Position> = found.into_iter().filter(is_there).collect();
        self.counts.read_beside += u64::from(!found.is_empty());
        // What is not known to be durable yet lacks at the end.
        let known = || {
            let durable = (0..log.shards()).map(|shard| reader.shard(ShardId(shard)).durable_lsn());
            (durable.collect::<Vec<_>>(), log.history_of_slot(log.slot(KEYS[key])))
        };
        assert!(expected.starts_with(&found), "beside the owner {found:?} of {expected:?}: {:?}", known());
    }

    fn follow(&mut self, log: &Log) {
        if self.followers.len() < 3 && one_in(&mut self.random, 2) {
            let key = self.random.below(KEYS.len() as u64) as usize;
            let last =
                if one_in(&mut self.random, 2) { self.expected(log, key).last().copied() } else { None };
            if let Ok(tail) = log.follow_key(KEYS[key], last) {
                self.followers.push(Follower { key, tail, last, shard: None });
            }
            return;
        }
        for index in 0..self.followers.len() {
            let key = self.followers[index].key;
            let expected = self.expected(log, key);
            let follower = &mut self.followers[index];
            while let Some(item) = follower.tail.next_timeout(Duration::ZERO) {
                let record = match item {
                    Ok(record) => record,
                    Err(ReadError::Truncated { .. }) => continue,
                    Err(error) => {
                        assert!(
                            self.machine.has_stopped() || log.stats().shards.iter().any(|s| s.failed),
                            "{error}"
                        );
                        break;
                    }
                };
                let place = record.position();
                let known = expected.iter().position(|other| *other == place);
                let known = known.unwrap_or_else(|| panic!("{place} is none of {expected:?}"));
                // The next one after the last that it gave, but for those that are truncated.
                let stream = &self.streams[&key];
                let before = stream.iter().position(|record| Some(record.position) == follower.last);
                let later =
                    stream[before.map_or(0, |before| before + 1)..].iter().map(|record| record.position);
                let next = later.into_iter().find(|other| expected.contains(other));
                assert_eq!(Some(place), next, "after {:?} of {expected:?}: {known}", follower.last);
                self.counts.followed += 1;
                self.counts.followed_elsewhere +=
                    u64::from(follower.shard.is_some_and(|shard| shard != place.shard()));
                follower.shard = Some(place.shard());
                follower.last = Some(place);
            }
        }
    }

    /// A life ends, and what the next one finds of each stream is a beginning of it, with all that was acknowledged.
    fn reopen(&mut self, log: Log) -> Log {
        let end = if one_in(&mut self.random, 2) { End::Kill } else { End::PowerCut };
        let closed = !self.machine.has_stopped() && one_in(&mut self.random, 3);
        self.followers.clear();
        self.pending.clear();
        self.beside = None;
        if closed {
            let _ = log.close();
        } else {
            self.machine.stop();
            drop(log);
        }
        match end {
            End::PowerCut => self.counts.power_cuts += 1,
            _ => self.counts.kills += 1,
        }
        self.machine.restart(end);
        let log = self.open();
        for (key, stream) in &mut self.streams {
            let horizon = |place: Position| log.engine_of(place.shard()).view().horizon;
            // Those that are truncated are known by their places; of the others a beginning is there.
            let mut gone = false;
            let mut after = Vec::new();
            for record in stream.iter() {
                if record.position.lsn() < horizon(record.position) {
                    after.push(record.clone());
                    continue;
                }
                let is_there = log.get(record.position).is_ok();
                let is_cut = |cut: Position| cut.shard() == record.position.shard() && record.position > cut;
                if !is_there && self.perhaps_cut.is_some_and(is_cut) {
                    continue;
                }
                assert!(
                    is_there || !record.acknowledged,
                    "{record:?} of key {key} was acknowledged, and is gone"
                );
                assert!(!(is_there && gone), "{record:?} of key {key} is there, and one before it is not");
                gone |= !is_there;
                self.counts.lost += u64::from(!is_there);
                if is_there {
                    after.push(record.clone());
                }
            }
            *stream = after;
        }
        self.perhaps_cut = None;
        log
    }

    fn play(mut self) -> Counts {
        let mut log = self.open();
        for _ in 0..2 + self.random.below(4) {
            let stops = one_in(&mut self.random, 2);
            self.faults(stops);
            for _ in 0..self.random.below(60) {
                match self.random.below(20) {
                    0..=9 => self.append(&log),
                    10..=12 => self.move_slots(&log),
                    13 if one_in(&mut self.random, 2) => self.sync(&log),
                    13 => self.wait_for_all(),
                    14 => self.truncate(&log),
                    15 => {
                        let key = self.random.below(KEYS.len() as u64) as usize;
                        self.check_beside(&log, key);
                    }
                    16 | 17 => self.follow(&log),
                    _ => {
                        let key = self.random.below(KEYS.len() as u64) as usize;
                        self.check_key(&log, key);
                    }
                }
                if self.may_fail(&log) {
                    break;
                }
            }
            log = self.reopen(log);
            (0..KEYS.len()).for_each(|key| self.check_key(&log, key));
        }
        self.counts
    }
}

fn places(records: impl Iterator<Item = Result<Record, ReadError>>) -> Result<Vec<Position>, ReadError> {
    records.map(|record| record.map(|record| record.position())).collect()
}

/// `SAWMILL_MOVE_SEEDS=0..100000` plays others.
#[test]
fn histories() {
    let seeds = std::env::var("SAWMILL_MOVE_SEEDS").unwrap_or_else(|_| "0..1500".into());
    let (from, to) = seeds.split_once("..").expect("a range");
    let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
    let mut counts = Counts::default();
    for seed in from..to {
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            History::new(seed, std::mem::take(&mut counts)).play()
        }));
        counts = played.unwrap_or_else(|panic| {
            eprintln!("SAWMILL_MOVE_SEEDS={seed}..{} shows it again", seed + 1);
            std::panic::resume_unwind(panic)
        });
    }
    println!("{counts:#?}");
    let Counts {
        moves, stopped_moves, full_histories, lost, by_hand, duplicates_elsewhere, conflicts, ..
    } = counts;
    let Counts { followed_elsewhere, read_beside, truncated, cut, bounds, power_cuts, kills, .. } = counts;
    if to - from >= 1_000 {
        for (what, count) in [
            ("moves", moves),
            ("moves that a crash stopped", stopped_moves),
            ("full histories", full_histories),
            ("records lost with a crash", lost),
            ("records put into another shard by hand", by_hand),
            ("ids known from another shard", duplicates_elsewhere),
            ("conflicts", conflicts),
            ("followed into another shard", followed_elsewhere),
            ("read beside the owner", read_beside),
            ("truncations at the beginning", truncated),
            ("truncations at the end", cut),
            ("bounds", bounds),
            ("power cuts", power_cuts),
            ("kills", kills),
        ] {
            assert!(count > 0, "no {what} in {seeds}: {counts:?}");
        }
    }
}
