//! The blocks that are not durable yet, so that those who wait for them are woken: in bounded memory, however long
//! a sync takes. Blocks that are written give their memory back, and as many again are filled, while it hangs.

use std::collections::VecDeque;

use crate::pool::Sequence;
use crate::position::Lsn;
use crate::stats::Accepted;

/// One block, or neighbours that are all written.
#[derive(Clone, Copy, Debug)]
struct Entry {
    first: Sequence,
    last: Sequence,
    /// The end of the last one.
    end: Lsn,
    /// Time of its last record.
    timestamp: u64,
    accepted: Accepted,
}

/// See the module.
#[derive(Debug)]
pub(in crate::shard) struct Unresolved {
    entries: VecDeque<Entry>,
    /// Blocks that can be in memory at once, which is to say not written.
    blocks: usize,
    /// Blocks up to this sequence have been announced as written.
    announced: Sequence,
    durable: Lsn,
}

impl Unresolved {
    pub(in crate::shard) fn new(blocks: u32, announced: Sequence) -> Unresolved {
        let blocks = blocks as usize;
        let entries = VecDeque::with_capacity(blocks * 2 + 2);
        Unresolved { entries, blocks, announced, durable: Lsn(0) }
    }

    /// A block was sealed or passed over; they come in order.
    pub(in crate::shard) fn push(
        &mut self,
        sequence: Sequence,
        end: Lsn,
        timestamp: u64,
        accepted: Accepted,
    ) {
        let most = self.blocks * 2 + 2;
        if self.entries.len() == most {
            self.merge();
        }
        assert!(self.entries.len() < most, "more blocks are not written than there are");
        self.entries.push_back(Entry { first: sequence, last: sequence, end, timestamp, accepted });
    }

    /// Makes one of each two neighbours that are written.
    fn merge(&mut self) {
        let written = self.entries.iter().take_while(|entry| entry.last <= self.announced).count();
        let mut kept = 0;
        for index in 0..self.entries.len() {
            let entry = self.entries[index];
            if index < written && index % 2 == 1 {
                let Entry { first, accepted, .. } = self.entries[kept - 1];
                self.entries[kept - 1] = Entry { first, accepted: accepted.and(&entry.accepted), ..entry };
            } else {
                self.entries[kept] = entry;
                kept += 1;
            }
        }
        self.entries.truncate(kept);
    }

    /// The highest time of a record in those up to `completed`.
    pub(in crate::shard) fn timestamp(&self, completed: Sequence) -> Option<u64> {
        let written = self.entries.iter().rev().find(|entry| entry.last <= completed);
        written.map(|entry| entry.timestamp)
    }

    /// Blocks up to `completed` are written: gives those that were not before.
    pub(in crate::shard) fn announce(
        &mut self,
        completed: Sequence,
    ) -> impl Iterator<Item = Sequence> + use<> {
        let before = std::mem::replace(&mut self.announced, completed);
        before.up_to(completed)
    }

    /// All below `durable` is durable: calls `notify` with each block that is now, or may be, and gives the end of the
    /// last one that is. `done` is told of the records that are.
    pub(in crate::shard) fn resolve(
        &mut self,
        durable: Lsn,
        mut notify: impl FnMut(Sequence),
        mut done: impl FnMut(&Accepted),
    ) -> Option<Lsn> {
        let moved = durable > std::mem::replace(&mut self.durable, durable);
        // Waiters of blocks that are so many apart share a slot, and are woken together.
        let mut all = |entry: &Entry| {
            (entry.first.0..=entry.last.0).take(self.blocks).map(Sequence).for_each(&mut notify)
        };
        let mut resolved = None;
        while let Some(entry) = self.entries.front().filter(|entry| entry.end <= durable) {
            all(entry);
            done(&entry.accepted);
            resolved = Some(entry.end);
            self.entries.pop_front();
        }
        // Where one of several ends is not known any more: whoever is woken looks again.
        if let Some(entry) = self.entries.front().filter(|entry| moved && entry.first < entry.last) {
            all(entry);
        }
        resolved
    }

    /// A new epoch begins; everything of the old one is settled, up to block `before`.
    pub(in crate::shard) fn begin_epoch(&mut self, before: Sequence) {
        assert!(self.entries.is_empty());
        self.announced = before;
        self.durable = Lsn(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::Random;
    use crate::time::Nanos;

    /// While a sync hangs, as many blocks as one likes are written: each is told of once it is durable, and what is
    /// kept does not grow.
    #[test]
    fn a_sync_that_hangs_costs_no_memory_and_no_wake_up() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let blocks = 2 + random.below(6);
            let mut unresolved = Unresolved::new(blocks as u32, Sequence(0));
            let capacity = unresolved.entries.capacity();
            let (mut sealed, mut written, mut durable, mut counted) = (0, 0, 0, 0);
            let mut told = vec![true];
            for _ in 0..2_000 {
                match random.below(200) {
                    // The sync is over, or another one, which began some time ago.
                    0 => {
                        durable += random.below(written - durable + 1);
                        let notify = |sequence: Sequence| {
                            // Who shares its slot is woken as well.
                            let shares = |other: &u64| other % blocks == sequence.0 % blocks;
                            (1..=sealed).filter(shares).for_each(|own| told[own as usize] = true);
                        };
                        unresolved.resolve(Lsn(durable * 10), notify, |accepted| {
                            assert_eq!(accepted.since, Nanos(counted + 1), "the first of them");
                            counted += accepted.records;
                            assert!(counted <= durable);
                        });
                        assert!((1..=durable).all(|own| told[own as usize]), "seed {seed}: one was not told");
                        // Who was woken too early looks, and waits again.
                        (durable + 1..=sealed).for_each(|own| told[own as usize] = false);
                    }
                    1..100 if sealed - written < blocks => {
                        sealed += 1;
                        told.push(false);
                        let accepted = Accepted { since: Nanos(sealed), records: 1 };
                        unresolved.push(Sequence(sealed), Lsn(sealed * 10), sealed, accepted);
                    }
                    _ => {
                        let completed = written + random.below(sealed - written + 1);
                        if completed > durable {
                            assert_eq!(
                                unresolved.timestamp(Sequence(completed)).unwrap_or(completed),
                                completed
                            );
                        }
                        let announced = unresolved.announce(Sequence(completed));
                        assert!(announced.eq((written + 1..=completed).map(Sequence)));
                        written = completed;
                    }
                }
            }
            assert_eq!(unresolved.entries.capacity(), capacity, "it has grown");
            unresolved.resolve(Lsn(u64::MAX), |_| (), |accepted| counted += accepted.records);
            assert_eq!(counted, sealed, "each record counts once");
            assert!(unresolved.entries.is_empty());
        }
    }
}
