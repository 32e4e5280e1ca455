//! Which shard takes a record: by its key, or the nearest with room.

#[cfg(test)]
mod model;

use std::sync::atomic::{AtomicU32, Ordering};

use crate::format::crc;
use crate::position::ShardId;
use crate::sync::thread_number;

/// Slots of a new log. A key's slot never changes; slots move between shards as a whole.
pub(crate) const SLOTS: u32 = 4096;

/// Chooses the shard of a record: by its key, or by how full the shards are.
#[derive(Debug)]
pub(crate) struct Router {
    /// Slot to shard, as the manifest has it.
    slots: Vec<u16>,
    shards: u16,
    /// Over how many shards records without a key are spread now.
    spread: AtomicU32,
}

/// The slot of a key: part of the format, since a key's records must stay together.
///
/// CRC32C, mixed by a multiplication (Fibonacci hashing, Knuth, TAOCP 3, 6.4).
pub(crate) fn slot_of(key: &[u8], slots: u32) -> u32 {
    let mixed = u64::from(crc(key).wrapping_mul(0x9e37_79b1));
    ((mixed * u64::from(slots)) >> 32) as u32
}

/// Slots dealt out evenly.
pub(crate) fn even_slots(shards: u16) -> Vec<u16> {
    (0..SLOTS).map(|slot| (slot % u32::from(shards)) as u16).collect()
}

impl Router {
    pub(crate) fn new(slots: Vec<u16>, shards: u16) -> Router {
        Router { slots, shards, spread: AtomicU32::new(1) }
    }

    /// The shard of a key.
    pub(crate) fn route(&self, key: &[u8]) -> ShardId {
        ShardId(self.slots[slot_of(key, self.slots.len() as u32) as usize])
    }

    /// The shard for a record without a key; `fill` gives how full a shard's memory is, in eighths.
    ///
    /// At low load all go to few shards, since a shard with one record in a commit pads a block for
    /// it; they spread when the shards that are used fill up, and draw together when these are
    /// empty.
    pub(crate) fn nearest(&self, fill: impl Fn(ShardId) -> u32) -> ShardId {
        if self.shards == 1 {
            return ShardId(0);
        }
        let number = thread_number();
        self.nearest_of(number, fill)
    }

    fn nearest_of(&self, number: u32, fill: impl Fn(ShardId) -> u32) -> ShardId {
        let shards = u32::from(self.shards);
        let spread = self.spread.load(Ordering::Relaxed).clamp(1, shards);
        let home = ShardId((number % spread) as u16);
        match fill(home) {
            0 if spread > 1 && home.0 == 0 => {
                self.spread.store(spread - 1, Ordering::Relaxed);
                home
            }
            0 => home,
            _ if spread < shards => {
                self.spread.store(spread + 1, Ordering::Relaxed);
                ShardId((number % (spread + 1)) as u16)
            }
            // All are in use: the home shard, unless it is half full and another is not.
            full if full < 4 => home,
            _ => (0..self.shards).map(ShardId).min_by_key(|&shard| fill(shard)).unwrap_or(home),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_part_of_the_format() {
        // Golden: these must never change.
        let slots: Vec<u32> =
            [&b""[..], b"a", b"user:7", b"post:1"].iter().map(|key| slot_of(key, SLOTS)).collect();
        assert_eq!(slots, GOLDEN);
    }

    const GOLDEN: [u32; 4] = [0, 2049, 3612, 3981];

    #[test]
    fn keys_spread_evenly() {
        let router = Router::new(even_slots(8), 8);
        let mut counts = [0u32; 8];
        for key in 0..80_000u32 {
            counts[usize::from(router.route(&key.to_le_bytes()).0)] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }

    #[test]
    fn without_keys_few_shards_are_used_until_they_fill() {
        let router = Router::new(even_slots(4), 4);
        for number in 0..100 {
            assert_eq!(router.nearest_of(number, |_| 0), ShardId(0));
        }
        let used: std::collections::BTreeSet<_> =
            (0..100).map(|number| router.nearest_of(number, |_| 2)).collect();
        assert_eq!(used.len(), 4);
        assert_eq!(router.nearest_of(1, |shard| if shard.0 == 2 { 1 } else { 7 }), ShardId(2));
        for number in 0..100 {
            router.nearest_of(number * 4, |_| 0);
        }
        assert_eq!(router.nearest_of(3, |_| 0), ShardId(0), "they draw together again");
    }
}
