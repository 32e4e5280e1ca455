//! Followers of keys, of the open log and beside it, that go on from step to step.

use std::time::Duration;

use super::History;
use crate::device::sim::Random;
use crate::error::ReadError;
use crate::{Log, Lsn, Position, Record, ShardId};

type Told = Option<Result<Record, ReadError>>;

pub(super) struct KeyFollower {
    key: &'static [u8],
    shard: ShardId,
    is_beside: bool,
    next: Box<dyn FnMut() -> Told>,
    /// What it was given last, or where it began.
    last: Option<Position>,
}

impl KeyFollower {
    /// Whether it was given nothing that lies behind a position of its shard.
    pub(super) fn is_below(&self, position: Position) -> bool {
        self.shard != position.shard() || self.last.is_none_or(|last| last <= position)
    }
}

impl History {
    /// A follower of the key goes on, or one begins: it gives each of the key's records once, in order.
    pub(super) fn follow_key(&mut self, log: &Log, key: &'static [u8], failed_calls: u64) {
        let shard = log.route(key);
        let accepted = self.oracles[usize::from(shard.0)].accepted();
        let behind = accepted.get(self.random.below(accepted.len() as u64 * 2 + 1) as usize);
        let behind = behind.map(|record| record.position);
        // What follows is not drawn from the step's own, so that all else is what it was.
        let mut random = Random::new(self.plan.seed ^ (accepted.len() as u64) << 40 ^ self.next_payload);
        let is_beside = self.beside.is_some() && !self.is_damaged() && random.below(3) == 0;
        let is_meant = |own: &KeyFollower| own.key == key && own.is_beside == is_beside;
        let known = self.key_followers.iter().position(is_meant);
        let known = known.map(|index| self.key_followers.remove(index)).filter(|_| random.below(6) > 0);
        let follower = known.map_or_else(|| self.begin_to_follow(log, key, behind, is_beside), Ok);
        let some = if random.below(2) == 0 { 1 + random.below(6) as usize } else { usize::MAX };
        let went_on = match follower {
            Ok(follower) => self.go_on_following(log, follower, some, failed_calls),
            // A reader beside the owner may know of less than was accepted.
            Err(ReadError::AboveEnd { .. }) if is_beside => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = went_on {
            self.check_error(&error, failed_calls);
        }
    }

    fn begin_to_follow(
        &self,
        log: &Log,
        key: &'static [u8],
        behind: Option<Position>,
        is_beside: bool,
    ) -> Result<KeyFollower, ReadError> {
        let next: Box<dyn FnMut() -> Told> = match self.beside.as_ref().filter(|_| is_beside) {
            Some(reader) => {
                let mut tail = reader.follow_key(key, behind)?;
                Box::new(move || tail.next_timeout(Duration::ZERO))
            }
            None => {
                let mut tail = log.follow_key(key, behind)?;
                Box::new(move || tail.next_timeout(Duration::ZERO))
            }
        };
        Ok(KeyFollower { key, shard: log.route(key), is_beside, next, last: behind })
    }

    /// What is known to be durable to whom the follower follows; beside the owner that is looked at anew.
    fn known_durable(&self, log: &Log, follower: &KeyFollower) -> Result<Lsn, ReadError> {
        match self.beside.as_ref().filter(|_| follower.is_beside) {
            Some(reader) => reader.shard(follower.shard).durable_lsn(),
            None => Ok(log.shard(follower.shard).durable_lsn()),
        }
    }

    /// Where the log begins for whom the follower follows. A truncation that failed may stand in the manifest, which a
    /// reader beside the owner believes.
    fn known_horizon(&self, log: &Log, follower: &KeyFollower) -> Lsn {
        let own = log.engine_of(follower.shard).view().horizon;
        let beside = self.beside.as_ref().filter(|_| follower.is_beside);
        beside.map_or(own, |reader| own.max(reader.shard(follower.shard).known_horizon()))
    }

    fn go_on_following(
        &mut self,
        log: &Log,
        mut follower: KeyFollower,
        some: usize,
        failed_calls: u64,
    ) -> Result<(), ReadError> {
        self.known_durable(log, &follower)?;
        // Where it can read nothing it says so for ever.
        let mut has_failed = false;
        let next = || {
            let item = if has_failed { None } else { (follower.next)() }?;
            has_failed = matches!(&item, Err(error) if !matches!(error, ReadError::Truncated { .. }));
            Some(item)
        };
        let mut items: Vec<_> = std::iter::from_fn(next).take(some).collect();
        let durable = self.known_durable(log, &follower)?;
        let gave_all = items.len() < some;
        let horizon = self.known_horizon(log, &follower);
        let mut expected = self.stream(log, follower.key);
        expected.retain(|position| {
            Some(*position) > follower.last && (horizon..durable).contains(&position.lsn())
        });
        items.retain(|item| {
            let is_told = matches!(item, Err(ReadError::Truncated { .. }));
            if is_told && !self.is_damaged() {
                assert!(follower.last.is_none_or(|last| last.lsn() < horizon), "nothing is truncated");
            }
            self.tally.add("followers of keys told of truncation", u64::from(is_told));
            !is_told
        });
        if !gave_all {
            expected.truncate(items.len());
        }
        let what = if follower.is_beside { "followed by key beside the owner" } else { "followed by key" };
        self.tally.add(what, expected.len() as u64);
        let last = items.iter().flatten().last().map(Record::position);
        self.check_stream(log, follower.key, &expected, items, failed_calls);
        follower.last = last.or(follower.last);
        // What stands behind what it could not read is not known to be the next record.
        if !has_failed {
            self.key_followers.push(follower);
        }
        Ok(())
    }
}
