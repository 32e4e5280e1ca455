//! What becomes of the map of slots: pure, as `docs/sharding-protocol.md` has the rules.

use std::borrow::Cow;

use super::{SLOTS, slot_of};
use crate::format::{HISTORY_MAX, ShardPlace, SlotMap, Stretch};
use crate::position::ShardId;

/// A slot's shard before and after a move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handover {
    pub slot: u32,
    /// The end of the old shard, not below its last record of the slot.
    pub until: ShardPlace,
    pub to: ShardId,
    /// The end of the new shard, while it takes nothing of the slot.
    pub from: ShardPlace,
}

impl SlotMap {
    /// Slots dealt out evenly.
    pub(crate) fn even(shards: u16) -> SlotMap {
        SlotMap::new((0..SLOTS).map(|slot| (slot % u32::from(shards)) as u16).collect())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        self.shards.len() as u32
    }

    /// The slot of a key.
    pub(crate) fn slot(&self, key: &[u8]) -> u32 {
        slot_of(key, self.len())
    }

    /// The shard that has a slot now.
    pub(crate) fn shard_of(&self, slot: u32) -> ShardId {
        ShardId(self.shards[slot as usize])
    }

    /// A slot's stretches, the oldest first; the last one goes on.
    pub(crate) fn history(&self, slot: u32) -> Cow<'_, [Stretch]> {
        match self.histories.get(&slot) {
            Some(history) => Cow::Borrowed(history),
            None => Cow::Owned(vec![self.only_stretch(slot)]),
        }
    }

    /// The stretch of a slot that this version of the map began; `None` if it is forgotten. Takes no memory: followers ask
    /// with each record.
    pub(crate) fn stretch(&self, slot: u32, version: u32) -> Option<Stretch> {
        match self.histories.get(&slot) {
            Some(history) => history.iter().find(|stretch| stretch.version == version).copied(),
            None => Some(self.only_stretch(slot)).filter(|stretch| stretch.version == version),
        }
    }

    /// Of a slot that was never moved.
    fn only_stretch(&self, slot: u32) -> Stretch {
        Stretch { version: 0, shard: self.shard_of(slot), from: ShardPlace::default(), until: None }
    }

    /// By hand a slot moves only while this holds: the last place of its history is kept for a shard that fails.
    pub(crate) fn may_move(&self, slot: u32) -> bool {
        self.history(slot).len() + 1 < HISTORY_MAX
    }

    /// The next version, in which these slots were moved.
    pub(crate) fn moved(&self, nonce: u64, handovers: &[Handover]) -> SlotMap {
        let mut next = SlotMap { version: self.version + 1, nonce, ..self.clone() };
        for &Handover { slot, until, to, from } in handovers {
            let mut history = self.history(slot).into_owned();
            history.last_mut().expect("a slot is somewhere").until = Some(until);
            history.push(Stretch { version: next.version, shard: to, from, until: None });
            next.histories.insert(slot, history);
            next.shards[slot as usize] = to.0;
        }
        next
    }

    /// The next version, without the stretches of which nothing is left: those that end at or below their shard's first
    /// place, as it is durable. `None` if there are none.
    pub(crate) fn pruned(&self, nonce: u64, horizons: &[ShardPlace]) -> Option<SlotMap> {
        let mut next = SlotMap { version: self.version + 1, nonce, ..self.clone() };
        for history in next.histories.values_mut() {
            history.retain(|stretch| {
                let horizon = horizons.get(usize::from(stretch.shard.0));
                stretch.until.zip(horizon).is_none_or(|(until, horizon)| until > *horizon)
            });
        }
        let has_changed = next.histories != self.histories;
        has_changed.then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;

    fn place(epoch: u32, lsn: u64) -> ShardPlace {
        ShardPlace { epoch, lsn: Lsn(lsn) }
    }

    fn handover(slot: u32, until: u64, to: u16, from: u64) -> Handover {
        Handover { slot, until: place(1, until), to: ShardId(to), from: place(1, from) }
    }

    #[test]
    fn a_slot_that_moves_keeps_its_history() {
        let map = SlotMap::even(2).moved(7, &[handover(4, 100, 1, 50)]).moved(8, &[handover(4, 90, 0, 200)]);
        assert_eq!((map.version, map.nonce, map.shard_of(4)), (2, 8, ShardId(0)));
        let stretch = |version, shard, from, until: Option<u64>| Stretch {
            version,
            shard: ShardId(shard),
            from,
            until: until.map(|until| place(1, until)),
        };
        let expected = [
            stretch(0, 0, place(0, 0), Some(100)),
            stretch(1, 1, place(1, 50), Some(90)),
            stretch(2, 0, place(1, 200), None),
        ];
        assert_eq!(*map.history(4), expected);
        assert_eq!(map.history(5).len(), 1, "and no other one has any");
        // What is truncated in its shard is forgotten, the oldest or not.
        let pruned = map.pruned(9, &[place(1, 99), place(1, 90)]).unwrap();
        assert_eq!(*pruned.history(4), [expected[0], expected[2]]);
        assert_eq!(pruned.pruned(10, &[place(1, 99), place(1, 90)]), None);
        let pruned = pruned.pruned(10, &[place(2, 0), place(1, 90)]).unwrap();
        assert_eq!((*pruned.history(4)).to_vec(), [expected[2]]);
    }

    #[test]
    fn the_last_place_of_a_history_is_kept() {
        let mut map = SlotMap::even(2);
        let mut moves = 0;
        while map.may_move(3) {
            let to = 1 - map.shard_of(3).0;
            map = map.moved(1, &[handover(3, moves, to, moves)]);
            moves += 1;
        }
        assert_eq!((moves as usize, map.history(3).len()), (HISTORY_MAX - 2, HISTORY_MAX - 1));
        assert!(map.may_move(4));
    }
}
