//! What all keys come to, as far as it is durable: in buckets by hash, each behind a lock of its own, so
//! that a flush holds up nobody for longer than a bucket takes.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::DefaultHashBuilder;

use super::fold::Fold;
use super::table::Table;
use super::wire::{self, Kind};

/// A bucket has about so many keys when the tally is as full as it may get.
const BUCKET_KEYS: usize = 512;
const BITS_MAX: u32 = 16;

/// The durable total of every key.
#[derive(Debug)]
pub(super) struct Totals<F: Fold> {
    buckets: Box<[RwLock<Bucket<F>>]>,
    bits: u32,
}

#[derive(Debug)]
pub(super) struct Bucket<F: Fold> {
    table: Table<F::Value>,
    /// The last flush whose changes are in.
    applied: u64,
}

/// The changes of one flush, each key once, ordered by bucket.
#[derive(Debug)]
pub(super) struct Changes<F: Fold> {
    pub flush: u64,
    pub table: Table<F::Value>,
    /// Places in the table, ordered by bucket.
    order: Vec<u32>,
    /// Where each bucket's places begin in `order`, and its end.
    starts: Vec<u32>,
}

/// A place behind the last hash.
pub(super) const END: u64 = 1 << 32;

impl<F: Fold> Totals<F> {
    pub(super) fn new(keys_max: usize, hasher: &DefaultHashBuilder) -> Totals<F> {
        let bits = (keys_max / BUCKET_KEYS).next_power_of_two().trailing_zeros().min(BITS_MAX);
        let bucket = || RwLock::new(Bucket { table: Table::new(hasher), applied: 0 });
        Totals { buckets: (0..1 << bits).map(|_| bucket()).collect(), bits }
    }

    fn bucket_of(&self, hash: u32) -> usize {
        (u64::from(hash) << self.bits >> 32) as usize
    }

    /// The first hash of a bucket; of the one behind the last, [`END`].
    fn first_of(&self, bucket: usize) -> u64 {
        (bucket as u64) << 32 >> self.bits
    }

    fn read(&self, bucket: usize) -> RwLockReadGuard<'_, Bucket<F>> {
        self.buckets[bucket].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bucket: usize) -> RwLockWriteGuard<'_, Bucket<F>> {
        self.buckets[bucket].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The durable value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<F::Value> {
        self.read(self.bucket_of(wire::range_hash(key))).table.get(key).cloned()
    }

    /// The same with changes that may not be applied yet.
    pub(super) fn get_with(&self, key: &[u8], changes: Option<&Changes<F>>) -> Option<F::Value> {
        // The bucket is held: whether the changes are in, and the value, are of one moment.
        let bucket = self.read(self.bucket_of(wire::range_hash(key)));
        let own = bucket.table.get(key);
        let change = changes.filter(|changes| bucket.applied < changes.flush);
        sum::<F>(own, change.and_then(|changes| changes.table.get(key)))
    }

    /// All keys, bucket by bucket, with changes that may not be applied yet.
    pub(super) fn for_each(&self, changes: Option<&Changes<F>>, mut take: impl FnMut(&[u8], &F::Value)) {
        for index in 0..self.buckets.len() {
            let bucket = self.read(index);
            bucket.for_each(index, changes, &mut take);
        }
    }

    /// Each key's changes to one table, ordered so that they can be applied.
    pub(super) fn changes(&self, flush: u64, table: Table<F::Value>) -> Changes<F> {
        let buckets: Vec<u32> =
            table.iter().map(|(key, _)| self.bucket_of(wire::range_hash(key)) as u32).collect();
        let mut starts = vec![0u32; self.buckets.len() + 1];
        for &bucket in &buckets {
            starts[bucket as usize + 1] += 1;
        }
        for bucket in 0..self.buckets.len() {
            starts[bucket + 1] += starts[bucket];
        }
        let mut next = starts.clone();
        let mut order = vec![0u32; buckets.len()];
        for (at, &bucket) in buckets.iter().enumerate() {
            order[next[bucket as usize] as usize] = at as u32;
            next[bucket as usize] += 1;
        }
        Changes { flush, table, order, starts }
    }

    /// Adds the changes of a flush that is durable. Gives how many keys are new, and whether all totals that
    /// changed are roomy.
    pub(super) fn apply(&self, changes: &Changes<F>) -> (usize, bool) {
        let (mut new, mut roomy) = (0, true);
        for index in 0..self.buckets.len() {
            if changes.of(index).is_empty() {
                continue;
            }
            let mut bucket = self.write(index);
            for &at in changes.of(index) {
                let (value, is_new) = bucket.table.add_from(&changes.table, at as usize, F::merge);
                new += usize::from(is_new);
                roomy &= F::is_roomy(value);
            }
            bucket.applied = changes.flush;
        }
        (new, roomy)
    }

    /// Adds a change that was read from the log.
    pub(super) fn replay(&self, key: &[u8], change: &F::Value) {
        self.write(self.bucket_of(wire::range_hash(key))).table.add(key, change, F::merge);
    }

    /// Forgets all keys of a range, whose totals come next.
    pub(super) fn forget(&self, first: u32, last: u32) {
        for index in self.bucket_of(first)..=self.bucket_of(last) {
            let whole =
                u64::from(first) <= self.first_of(index) && self.first_of(index + 1) <= u64::from(last) + 1;
            let mut bucket = self.write(index);
            if whole {
                bucket.table.clear();
            } else {
                bucket.table.retain(|key| !(first..=last).contains(&wire::range_hash(key)));
            }
        }
    }

    /// A record of the totals of all keys from hash `from` on, as many as about `bytes_max` hold, as they are
    /// with `changes`; and the hash behind them.
    pub(super) fn slice(&self, changes: &Changes<F>, id: u64, from: u64, bytes_max: usize) -> (Vec<u8>, u64) {
        assert!(from < END);
        let mut record = wire::begin(Kind::Changes, id, changes.flush);
        let header = record.len();
        let mut at = from;
        while at < END {
            let index = self.bucket_of(at as u32);
            let mut entries = self.entries(index, changes, at as u32);
            let bytes: usize = entries.iter().map(|(_, entry)| entry.len()).sum();
            if record.len() + bytes <= bytes_max {
                entries.iter().for_each(|(_, entry)| record.extend_from_slice(entry));
                at = self.first_of(index + 1);
                continue;
            }
            if record.len() > header {
                break;
            }
            // More than a record's worth in one bucket: as many as go in, keys of one hash together.
            entries.sort_unstable_by_key(|(hash, _)| *hash);
            at = self.first_of(index + 1);
            let mut last = None;
            for (hash, entry) in &entries {
                if last.is_some_and(|last| last != hash) && record.len() + entry.len() > bytes_max {
                    at = u64::from(*hash);
                    break;
                }
                record.extend_from_slice(entry);
                last = Some(hash);
            }
            break;
        }
        let kind = Kind::Totals { first: from as u32, last: (at - 1) as u32 };
        record[..header].copy_from_slice(&wire::begin(kind, id, changes.flush));
        (record, at)
    }

    /// Hash and encoded entry of each key of a bucket from a hash on.
    fn entries(&self, index: usize, changes: &Changes<F>, from: u32) -> Vec<(u32, Vec<u8>)> {
        let mut entries = Vec::new();
        self.read(index).for_each(index, Some(changes), |key, value| {
            let hash = wire::range_hash(key);
            if hash >= from {
                let mut entry = Vec::with_capacity(key.len() + 8);
                wire::put_entry::<F>(&mut entry, key, value);
                entries.push((hash, entry));
            }
        });
        entries
    }
}

impl<F: Fold> Bucket<F> {
    fn for_each(&self, index: usize, changes: Option<&Changes<F>>, mut take: impl FnMut(&[u8], &F::Value)) {
        let Some(changes) = changes.filter(|changes| self.applied < changes.flush) else {
            return self.table.iter().for_each(|(key, value)| take(key, value));
        };
        for at in 0..self.table.len() {
            let (key, value) = self.table.nth(at);
            match changes.table.get_from(&self.table, at) {
                Some(change) => take(key, &sum::<F>(Some(value), Some(change)).expect("both are there")),
                None => take(key, value),
            }
        }
        let changed = changes.of(index).iter().map(|&at| at as usize);
        for at in changed.filter(|&at| self.table.get_from(&changes.table, at).is_none()) {
            let (key, value) = changes.table.nth(at);
            take(key, value);
        }
    }
}

impl<F: Fold> Changes<F> {
    fn of(&self, bucket: usize) -> &[u32] {
        &self.order[self.starts[bucket] as usize..self.starts[bucket + 1] as usize]
    }
}

/// Two values that may be there.
pub(super) fn sum<F: Fold>(first: Option<&F::Value>, second: Option<&F::Value>) -> Option<F::Value> {
    match (first, second) {
        (Some(first), Some(second)) => {
            let mut sum = first.clone();
            F::merge(&mut sum, second);
            Some(sum)
        }
        (one, other) => one.or(other).cloned(),
    }
}
