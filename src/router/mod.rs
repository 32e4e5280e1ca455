//! Which shard takes a record: by its key, or the nearest with room; and how slots move under those who append.

mod map;
#[cfg(test)]
mod model;
mod moving;

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) use map::Handover;
use moving::Waiting;

use crate::format::{SlotMap, crc};
use crate::position::ShardId;
use crate::sync::thread_number;

/// Slots of a new log. A key's slot never changes; slots move between shards as a whole.
pub(crate) const SLOTS: u32 = 4096;

/// Beside the slot's shard: it is being moved, and nothing is appended to it.
pub(crate) const MOVING: u16 = 1 << 15;

/// Chooses the shard of a record: by its key, or by how full the shards are.
#[derive(Debug)]
pub(crate) struct Router {
    /// Slot to shard.
    routes: Box<[AtomicU16]>,
    /// Raised after each change of the routes. What was looked up under another one is looked up again, in the step that
    /// reserves ([`is_current`](Router::is_current)).
    turn: AtomicU32,
    /// What the routes follow, as it is durable.
    map: Mutex<Arc<SlotMap>>,
    /// Who waits for a slot that is being moved.
    waiting: Waiting,
    shards: u16,
    /// Over how many shards records without a key are spread now.
    spread: AtomicU32,
}

/// Which state of the routes something was looked up in. Odd while slots are being moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn(u32);

impl Turn {
    /// Of what goes where it goes, whatever becomes of the slots.
    pub(crate) const ANY: Turn = Turn(0);
    /// Of what must not go anywhere now: it is never the present one.
    pub(crate) const NEVER: Turn = Turn(u32::MAX);

    fn may_have_moving(self) -> bool {
        self.0 % 2 == 1
    }

    fn next(self) -> Turn {
        // Not one of those that stand for something else; and as odd as it is.
        Turn(if self.0 >= u32::MAX - 3 { 2 + (self.0 + 1) % 2 } else { self.0 + 1 })
    }
}

/// The slot of a key: part of the format, since a key's records must stay together.
///
/// CRC32C, mixed by a multiplication (Fibonacci hashing, Knuth, TAOCP 3, 6.4).
pub(crate) fn slot_of(key: &[u8], slots: u32) -> u32 {
    let mixed = u64::from(crc(key).wrapping_mul(0x9e37_79b1));
    ((mixed * u64::from(slots)) >> 32) as u32
}

impl Router {
    pub(crate) fn new(map: SlotMap, shards: u16) -> Router {
        Router {
            routes: map.shards.iter().map(|&shard| AtomicU16::new(shard)).collect(),
            turn: AtomicU32::new(2),
            map: Mutex::new(Arc::new(map)),
            waiting: Waiting::default(),
            shards,
            spread: AtomicU32::new(1),
        }
    }

    /// How many slots there are.
    pub(crate) fn slots(&self) -> u32 {
        self.routes.len() as u32
    }

    /// The slot of a key.
    #[inline]
    pub(crate) fn slot(&self, key: &[u8]) -> u32 {
        slot_of(key, self.slots())
    }

    /// The shard of a key. One whose slot is being moved is still where it was.
    #[inline]
    pub(crate) fn route(&self, key: &[u8]) -> ShardId {
        ShardId(self.routes[self.slot(key) as usize].load(Ordering::Acquire) & !MOVING)
    }

    /// The shard of a key, to append there in the turn that this gives: never, while its slot is being moved.
    #[inline]
    pub(crate) fn look_up(&self, key: &[u8]) -> (ShardId, Turn) {
        // In this order: of what is changed in between the turn is an old one.
        let turn = self.turn();
        let route = self.routes[self.slot(key) as usize].load(Ordering::Acquire);
        (ShardId(route & !MOVING), if route & MOVING == 0 { turn } else { Turn::NEVER })
    }

    /// In which turn records with these keys may be put into a shard that was named: never, while the slot of one of them
    /// is being moved.
    #[inline]
    pub(crate) fn look_at<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) -> Turn {
        let turn = self.turn();
        if turn.may_have_moving() && keys.into_iter().any(|key| self.is_moving(key)) {
            return Turn::NEVER;
        }
        turn
    }

    #[inline]
    fn turn(&self) -> Turn {
        Turn(self.turn.load(Ordering::Acquire))
    }

    /// Whether nothing has changed since.
    #[inline]
    pub(crate) fn is_current(&self, turn: Turn) -> bool {
        turn == Turn::ANY || self.turn() == turn
    }

    /// Whether the slot of a key is being moved. Records without a key belong to none.
    fn is_moving(&self, key: &[u8]) -> bool {
        !key.is_empty() && self.routes[self.slot(key) as usize].load(Ordering::Acquire) & MOVING != 0
    }

    /// The map, as it is durable.
    pub(crate) fn map(&self) -> Arc<SlotMap> {
        crate::sync::lock(&self.map).clone()
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
        let router = Router::new(SlotMap::even(8), 8);
        let mut counts = [0u32; 8];
        for key in 0..80_000u32 {
            counts[usize::from(router.route(&key.to_le_bytes()).0)] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }

    #[test]
    fn without_keys_few_shards_are_used_until_they_fill() {
        let router = Router::new(SlotMap::even(4), 4);
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
