//! Reading by key, held against a plain list of what was accepted.

use std::ops::Bound;

use super::History;
use crate::error::ReadError;
use crate::{Log, Lsn, Position, Record, ShardId};

/// Whose records they are is told by a byte of their payloads.
pub(super) const KEYS: [&[u8]; 5] = [b"", b"a", b"b", b"key", &[7; 5_000]];
/// Now and then the last of them, with which a record lies across blocks.
const LONG: u8 = 4;
const KEY_AT: usize = 7;

pub(super) fn key_of(payload: &[u8]) -> &'static [u8] {
    KEYS[usize::from(payload[KEY_AT])]
}

type Bounds = (Bound<Position>, Bound<Position>);

impl History {
    /// Has one of the keys own these payloads, all alike.
    pub(super) fn own(&mut self, payloads: &mut [Vec<u8>]) -> &'static [u8] {
        let key = if self.random.below(40) == 0 { LONG } else { self.random.below(LONG.into()) as u8 };
        for payload in payloads {
            payload[KEY_AT] = key;
        }
        KEYS[usize::from(key)]
    }

    /// Asks for a key's records in one of the ways in which they are asked for.
    pub(super) fn read_key(&mut self, log: &Log) {
        let key = *self.random.pick(&KEYS);
        let failed_calls = self.failed_calls();
        match self.random.below(6) {
            0 => self.check_last(log, key, failed_calls),
            1 => self.follow_key(log, key, failed_calls),
            2 => self.read_key_beside(log, key),
            _ => self.read_key_within(log, key, failed_calls),
        }
    }

    /// The key's records that are not truncated, as far as they were accepted; by their places.
    pub(super) fn stream(&self, log: &Log, key: &[u8]) -> Vec<Position> {
        let shard = log.route(key);
        let horizon = log.engine_of(shard).view().horizon;
        let accepted = self.oracles[usize::from(shard.0)].accepted().iter();
        let own = accepted.filter(|record| !key.is_empty() && key_of(&record.payload) == key);
        own.map(|record| record.position).filter(|position| position.lsn() >= horizon).collect()
    }

    /// Any place of the key's shard, in which somebody else's record may lie, or one that was cut off.
    fn some_bound(&mut self, shard: ShardId) -> Bound<Position> {
        let accepted = self.oracles[usize::from(shard.0)].accepted().iter().map(|record| record.position);
        let places: Vec<Position> = accepted.chain(self.cut.iter().copied()).collect();
        let place = places.get(self.random.below(places.len() as u64 * 2 + 1) as usize);
        match place.filter(|place| place.shard() == shard) {
            None => Bound::Unbounded,
            Some(place) if self.random.below(2) == 0 => Bound::Included(*place),
            Some(place) => Bound::Excluded(*place),
        }
    }

    /// Whether this bound is of an epoch that does not own its place any more.
    fn is_cut(&self, log: &Log, shard: ShardId, bound: Bound<Position>) -> bool {
        let (Bound::Included(place) | Bound::Excluded(place)) = bound else { return false };
        self.cut.contains(&place) && place.lsn() >= log.engine_of(shard).view().horizon
    }

    fn read_key_within(&mut self, log: &Log, key: &'static [u8], failed_calls: u64) {
        let shard = log.route(key);
        let bounds: Bounds = (self.some_bound(shard), self.some_bound(shard));
        let mut expected = self.stream(log, key);
        let is_cut = self.is_cut(log, shard, bounds.0) || self.is_cut(log, shard, bounds.1);
        expected.retain(|position| is_within(&bounds, position.lsn()));
        let back = self.random.below(2) == 0;
        self.say(|| format!("  {} within {bounds:?}, back: {back}", key.escape_ascii()));
        let items: Result<Vec<_>, ReadError> = if back {
            log.read_key_back(key, bounds).map(Iterator::collect)
        } else {
            log.read_key(key, bounds).map(Iterator::collect)
        };
        let mut items = match items {
            Ok(items) => items,
            Err(ReadError::NotAPosition(_)) if is_cut => return self.tally.count("bounds that were cut off"),
            Err(error) => return self.check_error(&error, failed_calls),
        };
        assert!(!is_cut || self.is_damaged(), "a place that was cut off is no bound");
        if back {
            items.reverse();
        }
        self.tally.add("read by key", expected.len() as u64);
        let indexed = log.engine_of(shard).indexed();
        let by_index = expected.iter().filter(|position| position.lsn() < indexed).count();
        self.tally.add("read by key, indexed", by_index as u64);
        self.check_stream(log, key, &expected, items, failed_calls);
    }

    /// All that was expected, or, where something failed, nothing else.
    pub(super) fn check_stream(
        &mut self,
        log: &Log,
        key: &[u8],
        expected: &[Position],
        items: Vec<Result<Record, ReadError>>,
        failed_calls: u64,
    ) {
        let mut told = false;
        let mut found = Vec::new();
        for item in items {
            match item {
                Ok(record) => {
                    assert_eq!(record.key(), key);
                    self.check_served(log, &record);
                    found.push(record.position());
                }
                // Of what was accepted, not all became durable.
                Err(ReadError::ShardFailed(_)) => told = true,
                Err(error) => {
                    told = true;
                    self.check_error(&error, failed_calls);
                }
            }
        }
        assert!(found.is_sorted_by(|a, b| a < b), "a key's records come in their order: {found:?}");
        if self.is_exact(failed_calls) && !told {
            assert_eq!(found, expected, "the records of {}", key.escape_ascii());
        }
        if !self.is_damaged() {
            assert!(found.iter().all(|position| expected.contains(position)), "{found:?} of {expected:?}");
        }
    }

    fn check_last(&mut self, log: &Log, key: &'static [u8], failed_calls: u64) {
        let expected = self.stream(log, key).last().copied();
        match log.last(key) {
            Ok(last) if self.is_exact(failed_calls) => {
                assert_eq!(last, expected, "the last record of {}", key.escape_ascii());
                let durable = last.is_some_and(|last| last.lsn() < log.shard(last.shard()).durable_lsn());
                self.tally.add("last records", u64::from(last.is_some()));
                self.tally.add("last records that are not durable", u64::from(last.is_some() && !durable));
            }
            Ok(_) | Err(ReadError::ShardFailed(_)) => {}
            Err(error) => self.check_error(&error, failed_calls),
        }
    }

    /// Of what a reader beside the owner knows.
    fn read_key_beside(&mut self, log: &Log, key: &'static [u8]) {
        let failed_calls = self.failed_calls();
        let Some(reader) = self.beside.as_ref().filter(|_| !self.is_damaged()) else { return };
        let look = || {
            // First what looks at the manifest again: a truncation that failed may stand there.
            let items = reader.read_key(key, ..)?.collect::<Vec<_>>();
            let all = reader.shard(reader.route(key)).read(..)?.collect::<Result<Vec<_>, ReadError>>()?;
            Ok((all, items, reader.last(key)?))
        };
        match look() {
            Ok((all, items, last)) => {
                let own = all.iter().filter(|record| !key.is_empty() && record.key() == key);
                let expected: Vec<Position> = own.map(Record::position).collect();
                if self.is_exact(failed_calls) {
                    assert_eq!(last, expected.last().copied());
                }
                self.tally.add("read by key beside the owner", expected.len() as u64);
                self.check_stream(log, key, &expected, items, failed_calls);
            }
            Err(error) => self.check_error(&error, failed_calls),
        }
    }
}

/// A bound that is truncated stands for the beginning, below which nothing lies.
fn is_within(bounds: &Bounds, lsn: Lsn) -> bool {
    let above = match bounds.0 {
        Bound::Included(place) => lsn >= place.lsn(),
        Bound::Excluded(place) => lsn > place.lsn(),
        Bound::Unbounded => true,
    };
    let below = match bounds.1 {
        Bound::Included(place) => lsn <= place.lsn(),
        Bound::Excluded(place) => lsn < place.lsn(),
        Bound::Unbounded => true,
    };
    above && below
}
