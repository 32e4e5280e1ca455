//! Between two opens the whole log is put back from an older copy, while somebody follows its files: who had read further
//! than the copy reaches is told, and who had not misses nothing.

use std::path::Path;
use std::time::Duration;

use super::keys::KEYS;
use super::{History, PATH};
use crate::device::sim::{Copied, Random};
use crate::error::ReadError;
use crate::log::LogReader;
use crate::simulation::oracle::{Accepted, Oracle};
use crate::{Lsn, Position, Record, ShardId};

/// The log as it was when it was closed, and what was known of it then.
pub(super) struct Copy {
    files: Copied,
    oracles: Vec<Oracle>,
    consumed: Vec<[Option<Position>; 2]>,
    cut: Vec<Position>,
    terms: super::terms::Given,
}

type Told = Option<Result<Record, ReadError>>;

/// A record: of two histories there may be one each at a position.
type Given = (Position, Vec<u8>);

fn given(record: &Record) -> Given {
    (record.position(), record.payload().to_vec())
}

/// Follows a shard, or a key in it, across a restore.
pub(super) struct Across {
    reader: LogReader,
    shard: ShardId,
    key: Option<&'static [u8]>,
    next: Box<dyn FnMut() -> Told>,
    /// It wants nothing below this.
    from: Lsn,
    /// What it was given before.
    given: Vec<Given>,
    /// That is all that there was, or something that the copy has not, or may be followed by what it alone has.
    is_ahead: bool,
}

impl Across {
    fn is_own(&self, payload: &[u8]) -> bool {
        self.key.is_none_or(|key| super::keys::key_of(payload) == key)
    }
}

impl History {
    /// The log was closed, and nobody has it open. True if it is another one from now on.
    pub(super) fn copy_or_put_back(&mut self) -> bool {
        let mut random = Random::new(self.next_payload ^ self.plan.seed << 20);
        if self.plan.damage.is_some() {
            return false;
        }
        match self.copy.take() {
            Some(copy) if random.below(3) > 0 => {
                self.put_back(copy, &mut random);
                true
            }
            copy => {
                self.copy = copy.filter(|_| random.below(2) == 0).or_else(|| Some(self.copy_log()));
                false
            }
        }
    }

    fn copy_log(&self) -> Copy {
        let (oracles, consumed, cut) = (self.oracles.clone(), self.consumed.clone(), self.cut.clone());
        Copy { files: self.machine.copy_files(), oracles, consumed, cut, terms: self.terms.clone() }
    }

    fn put_back(&mut self, copy: Copy, random: &mut Random) {
        for shard in 0..self.plan.shards {
            let key = (random.below(2) == 0).then(|| KEYS[1 + random.below(3) as usize]);
            let all = random.below(2) == 0;
            let most = if all { usize::MAX } else { random.below(20) as usize };
            self.across.extend(self.follow_across(ShardId(shard), key, most, &copy));
        }
        self.machine.put_files_back(&copy.files, random.below(2) == 0);
        self.say(|| "  put back from a copy".to_owned());
        self.tally.count("logs put back from a copy");
        for across in self.across.iter().filter(|_| random.below(2) == 0) {
            let _ = across.reader.shard(across.shard).durable_lsn();
        }
        (self.oracles, self.consumed) = (copy.oracles, copy.consumed);
        (self.cut, self.terms) = (copy.cut, copy.terms);
    }

    /// Somebody who is given so many records before the restore; nobody where a read fails.
    fn follow_across(
        &self,
        shard: ShardId,
        key: Option<&'static [u8]>,
        most: usize,
        copy: &Copy,
    ) -> Option<Across> {
        let reader = LogReader::open_on(self.machine.device().as_ref(), Path::new(PATH)).ok()?;
        let shard = key.map_or(shard, |key| reader.route(key));
        let from = reader.summary().ok()?[usize::from(shard.0)].horizon;
        let mut next: Box<dyn FnMut() -> Told> = match key {
            Some(key) => {
                let mut tail = reader.follow_key(key, None).ok()?;
                Box::new(move || tail.next_timeout(Duration::ZERO))
            }
            None => {
                let mut tail = reader.shard(shard).follow(from).ok()?;
                Box::new(move || tail.next_timeout(Duration::ZERO))
            }
        };
        let (mut all, mut is_ahead) = (Vec::new(), false);
        while all.len() < most && !is_ahead {
            match next() {
                Some(Ok(record)) => all.push(given(&record)),
                Some(Err(_)) => return None,
                None => is_ahead = true,
            }
        }
        let oracle = &copy.oracles[usize::from(shard.0)];
        let copied = oracle.accepted();
        let is_copied = |(position, payload): &Given| {
            copied.iter().any(|own| own.position == *position && own.payload == *payload)
        };
        // The copy may end below where it begins.
        is_ahead |= !all.iter().all(is_copied) || from > oracle.truncated();
        // What comes next in the copy was cut off since: the follower may have passed the rest of its block.
        let last = all.last().map_or(from, |(position, _)| Lsn(position.lsn().0 + 1));
        let comes_back = copied.iter().find(|own| own.position.lsn() >= last);
        let now = self.oracles[usize::from(shard.0)].accepted();
        is_ahead |= comes_back.is_some_and(|own| now.iter().all(|one| one.position != own.position));
        // Nor is it known that the copy has nothing in the rest of a block behind which another epoch begins.
        let epoch = |own: Option<&Accepted>| own.map(|own| own.position.epoch());
        let ends = now.partition_point(|own| own.position.lsn() < last);
        is_ahead |= ends > 0 && epoch(now.get(ends - 1)) != epoch(now.get(ends));
        Some(Across { reader, shard, key, next, from, given: all, is_ahead })
    }

    /// The log has gone on from the copy.
    pub(super) fn check_across(&mut self) {
        for mut across in std::mem::take(&mut self.across) {
            let failed_calls = self.failed_calls();
            let Ok(_) = across.reader.shard(across.shard).durable_lsn() else { continue };
            let mut items = Vec::new();
            while let Some(item) = (across.next)() {
                let goes_on = matches!(item, Ok(_) | Err(ReadError::Truncated { .. }));
                items.push(item);
                if !goes_on {
                    break;
                }
            }
            let all = across.reader.shard(across.shard).read(..).and_then(Iterator::collect);
            if self.machine.has_stopped() || self.failed_calls() > failed_calls {
                continue;
            }
            self.check_given(&mut across, items, all.expect("no read has failed"));
        }
    }

    /// What a follower was given, and all that can be read.
    fn check_given(&mut self, across: &mut Across, items: Vec<Result<Record, ReadError>>, all: Vec<Record>) {
        if matches!(items.last(), Some(Err(ReadError::OtherHistory { .. }))) {
            assert!(across.is_ahead, "it had read no further than the copy");
            assert_eq!(items.len(), 1, "nothing is given before it is told");
            assert!((across.next)().is_none(), "nothing comes behind another history");
            return self.tally.count("followers told that their log was put back");
        }
        let accepted = self.oracles[usize::from(across.shard.0)].accepted();
        let is_there = |own: &Record| {
            accepted.iter().any(|one| one.position == own.position() && one.payload == own.payload())
        };
        if !all.iter().all(is_there) {
            // A batch of unknown outcome; or one copy of the manifest was written, and is not believed before the other one
            // is, since its number is lower than what was seen.
            let counters = self.machine.counters();
            let errors = counters.call_errors + counters.write_errors + counters.sync_errors;
            return assert!(errors > 0, "of another history, and nobody said so");
        }
        let is_new = |own: &&Record| {
            across.is_own(own.payload()) && own.lsn() >= across.from && !across.given.contains(&given(own))
        };
        let expected: Vec<Given> = all.iter().filter(is_new).map(given).collect();
        let found: Vec<Given> = items
            .iter()
            .filter_map(|item| match item {
                Ok(record) => Some(given(record)),
                Err(ReadError::Truncated { .. }) => None,
                Err(error) => panic!("no damage was done: {error}"),
            })
            .collect();
        let places = |records: &[Given]| records.iter().map(|(place, _)| *place).collect::<Vec<_>>();
        let (found, expected, last) = (places(&found), places(&expected), across.given.last());
        assert_eq!(found, expected, "behind {:?}, in a log that was put back", last.map(|(place, _)| place));
        self.tally.add("followed on in a log that was put back", found.len() as u64);
    }
}
