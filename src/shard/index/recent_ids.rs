//! The ids of the last records that have one.

use std::collections::{HashMap, VecDeque};

use crate::format::WholeKeyHash;
use crate::pool::Sequence;
use crate::position::{Lsn, Position};

/// An id, under the key that it came with: under another one it is another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyedId(u128);

impl KeyedId {
    pub(crate) fn new(key: WholeKeyHash, id: u128) -> KeyedId {
        // 96 bits that nobody can choose: whatever ids are given, two of different keys are the same no sooner than two
        // random numbers of 96 bits.
        KeyedId(id ^ (u128::from(key.hash) | u128::from(key.check) << 64))
    }
}

/// Where a record with an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdPlace {
    pub id: KeyedId,
    pub position: Position,
    /// Its block, if it was opened by this process.
    pub sequence: Sequence,
}

/// The ids of the last records that have one.
#[derive(Debug, Default)]
pub(in crate::shard) struct RecentIds {
    most: usize,
    /// In order.
    list: VecDeque<IdPlace>,
    /// The number of the first of the list; that of any other follows.
    first: u64,
    numbers: HashMap<KeyedId, u64>,
    /// All from here on are known, but those that have left.
    from: Lsn,
    /// There are none below that would still count.
    is_complete: bool,
}

impl RecentIds {
    pub(super) fn new(most: usize) -> RecentIds {
        // As many can come in front.
        RecentIds { most, first: 1 << 63, ..RecentIds::default() }
    }

    pub(super) fn restart(&mut self, from: Lsn) {
        *self = RecentIds { from, ..RecentIds::new(self.most) };
    }

    pub(super) fn add(&mut self, place: IdPlace) {
        if self.most == 0 {
            return;
        }
        if self.list.len() == self.most {
            self.forget_oldest();
        }
        self.numbers.insert(place.id, self.first + self.list.len() as u64);
        self.list.push_back(place);
    }

    fn forget_oldest(&mut self) {
        // What lies below is older still.
        self.is_complete = true;
        let Some(oldest) = self.list.pop_front() else { return };
        // Unless it has come once more since.
        if self.numbers.get(&oldest.id) == Some(&self.first) {
            self.numbers.remove(&oldest.id);
        }
        self.first += 1;
    }

    /// Below where not all that would count is known, and how many are.
    pub(super) fn unknown(&self) -> Option<(Lsn, usize)> {
        (!self.is_complete).then_some((self.from, self.most - self.list.len()))
    }

    /// Puts those below in front, of which the newest comes first.
    pub(super) fn complete(&mut self, older: &[IdPlace]) {
        for place in older.iter().take(self.most - self.list.len()) {
            self.list.push_front(*place);
            self.first -= 1;
            self.numbers.entry(place.id).or_insert(self.first);
        }
        self.is_complete = true;
    }

    pub(in crate::shard) fn get(&self, id: &KeyedId) -> Option<&IdPlace> {
        let number = self.numbers.get(id)?;
        self.list.get(usize::try_from(number - self.first).ok()?)
    }
}
