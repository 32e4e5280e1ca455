//! The keys of what was appended last, in memory: a stretch of the log up to its end, of bounded size.
//!
//! Entries stand in the order of the log. Those of one key are linked, the newest first, and a table of the newest ones
//! finds them. When there is no room the oldest half is forgotten, and the stretch begins later.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::Place;
use crate::format::{KeyHash, WholeKeyHash};
use crate::position::Lsn;

/// No entry.
const NONE: u32 = u32::MAX;

/// What an entry takes, with its share of the table.
const ENTRY_BYTES: usize = size_of::<Entry>() + 2 * size_of::<u32>();

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    check: u32,
    /// The one before it of the same key.
    before: u32,
    /// Where it stands, and in the lowest bit, which is free there, whether it has an id.
    place: u64,
}

impl Entry {
    const WITH_ID: u64 = 1;

    fn lsn(&self) -> Lsn {
        Lsn(self.place & !Entry::WITH_ID)
    }
}

/// An entry, to be gathered for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecentEntry {
    pub key: KeyHash,
    pub lsn: Lsn,
    pub has_id: bool,
}

/// A block with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecentBlock {
    pub lsn: Lsn,
    pub epoch: u32,
    pub nonce: u64,
}

/// The keys of a stretch of the log.
#[derive(Debug)]
pub(crate) struct RecentKeys {
    most: usize,
    entries: Vec<Entry>,
    /// The newest entry of each key, at the first place from its hash on that is free. Twice as many places as entries.
    newest: Box<[u32]>,
    blocks: VecDeque<RecentBlock>,
    stretch: Range<Lsn>,
}

impl RecentKeys {
    /// Of an empty stretch, in so many bytes of memory, all taken now.
    ///
    /// # Errors
    /// Where there is no such memory.
    pub(crate) fn new(bytes: usize) -> io::Result<RecentKeys> {
        let most = (bytes / ENTRY_BYTES).clamp(8, NONE as usize / 2);
        // A power of two, no more than what was given.
        let places = ((most + 1).next_power_of_two() / 2) * 2;
        let most = most.min(places / 2);
        let mut entries = Vec::new();
        entries.try_reserve_exact(most).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut newest = Vec::new();
        newest.try_reserve_exact(places).map_err(|_| io::ErrorKind::OutOfMemory)?;
        newest.resize(places, NONE);
        let newest = newest.into_boxed_slice();
        Ok(RecentKeys { most, entries, newest, blocks: VecDeque::new(), stretch: Lsn::MIN..Lsn::MIN })
    }

    /// Whether so much of it stands at or above `from` that some of that is forgotten soon.
    pub(crate) fn is_full_from(&self, from: Lsn) -> bool {
        let below = self.entries.partition_point(|entry| entry.lsn() < from);
        self.entries.len() - below > self.most / 8 * 3
    }

    /// Forgets everything, and begins anew at `at`.
    pub(crate) fn restart(&mut self, at: Lsn) {
        self.entries.clear();
        self.blocks.clear();
        self.newest.fill(NONE);
        self.stretch = at..at;
    }

    /// All records that begin here are known.
    pub(crate) fn stretch(&self) -> Range<Lsn> {
        self.stretch.clone()
    }

    /// A record with this key stands at `lsn`, behind all others, in this block.
    pub(crate) fn add(&mut self, hash: WholeKeyHash, lsn: Lsn, has_id: bool, block: RecentBlock) {
        assert!(lsn >= self.stretch.end && block.lsn < lsn && lsn.0 & Entry::WITH_ID == 0);
        if self.entries.len() == self.most {
            self.forget_oldest();
        }
        if self.blocks.back() != Some(&block) {
            self.blocks.push_back(block);
        }
        self.stretch.end = Lsn(lsn.0 + 1);
        let place = lsn.0 | u64::from(has_id);
        self.push(Entry { hash: hash.hash, check: hash.check, before: NONE, place });
    }

    /// Nothing else begins below `end`.
    pub(crate) fn reach(&mut self, end: Lsn) {
        self.stretch.end = self.stretch.end.max(end);
    }

    fn push(&mut self, mut entry: Entry) {
        let place = self.place(&entry.hash, entry.check);
        entry.before = std::mem::replace(&mut self.newest[place], self.entries.len() as u32);
        self.entries.push(entry);
    }

    /// Where the newest entry of a key is found, or would be.
    fn place(&self, hash: &u64, check: u32) -> usize {
        let mask = self.newest.len() - 1;
        let mut place = *hash as usize & mask;
        loop {
            let Some(entry) = self.entries.get(self.newest[place] as usize) else { return place };
            if (entry.hash, entry.check) == (*hash, check) {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    /// Makes room: the stretch begins later from here on.
    fn forget_oldest(&mut self) {
        let kept = self.entries.split_off(self.entries.len() / 2);
        let memory = std::mem::take(&mut self.entries);
        // Behind the last one that is forgotten.
        self.stretch.start = memory.last().map_or(self.stretch.start, |entry| Lsn(entry.lsn().0 + 1));
        self.entries = memory;
        self.entries.clear();
        self.newest.fill(NONE);
        let first = kept.first().map_or(self.stretch.end, Entry::lsn);
        while self.blocks.get(1).is_some_and(|block| block.lsn < first) {
            self.blocks.pop_front();
        }
        kept.into_iter().for_each(|entry| self.push(entry));
    }

    /// The records of a key, the last one first.
    pub(crate) fn back(&self, hash: WholeKeyHash) -> impl Iterator<Item = Place> + '_ {
        let mut next = self.newest[self.place(&hash.hash, hash.check)];
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            next = entry.before;
            let lsn = entry.lsn();
            let index = self.blocks.partition_point(|block| block.lsn < lsn) - 1;
            let RecentBlock { lsn: block, epoch, nonce } = self.blocks[index];
            Some(Place { lsn, block, epoch, nonce })
        })
    }

    /// The blocks with entries from `at` on that another one follows, each with where that stands and its own entries.
    pub(crate) fn blocks_from(
        &self,
        at: Lsn,
    ) -> impl Iterator<Item = (RecentBlock, Lsn, impl Iterator<Item = RecentEntry> + '_)> {
        let first = self.blocks.partition_point(|block| block.lsn < at);
        let blocks = self.blocks.iter().skip(first);
        blocks.clone().zip(blocks.skip(1)).map(|(block, next)| {
            let start = self.entries.partition_point(|entry| entry.lsn() < block.lsn);
            let own = self.entries[start..].iter().take_while(|entry| entry.lsn() < next.lsn);
            let entry = |entry: &Entry| RecentEntry {
                key: KeyHash::of_whole(WholeKeyHash { hash: entry.hash, check: entry.check }),
                lsn: entry.lsn(),
                has_id: entry.place & Entry::WITH_ID != 0,
            };
            (*block, next.lsn, own.map(entry))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::device::sim::Random;

    const LOG: [u8; 16] = [3; 16];

    fn places(keys: &RecentKeys, key: u8) -> Vec<(Lsn, Lsn)> {
        keys.back(WholeKeyHash::of(&LOG, &[key])).map(|place| (place.lsn, place.block)).collect()
    }

    /// Beside a plain list of all that was added, of which the end is kept.
    #[test]
    fn it_knows_all_of_its_stretch() {
        for seed in 0..60 {
            let mut random = Random::new(seed);
            let mut keys = RecentKeys::new(100 * ENTRY_BYTES).unwrap();
            keys.restart(Lsn(4096));
            let mut model: BTreeMap<u8, Vec<(Lsn, Lsn)>> = BTreeMap::new();
            let (mut block, mut at, mut forgotten) = (Lsn(4096), 4096 + 88, false);
            for _ in 0..random.below(400) {
                match random.below(5) {
                    0 => {
                        block = Lsn(at);
                        at += 88;
                    }
                    1 => keys.reach(Lsn(at)),
                    _ => {
                        let key = random.below(12) as u8;
                        let in_block = RecentBlock { lsn: block, epoch: 1, nonce: 2 };
                        keys.add(WholeKeyHash::of(&LOG, &[key]), Lsn(at), at % 3 == 0, in_block);
                        model.entry(key).or_default().push((Lsn(at), block));
                        at += 24;
                    }
                }
                let stretch = keys.stretch();
                assert!(stretch.end <= Lsn(at));
                forgotten |= stretch.start > Lsn(4096);
                for key in 0..12 {
                    let own = model.get(&key).into_iter().flatten().rev();
                    let kept: Vec<_> = own.copied().take_while(|(lsn, _)| *lsn >= stretch.start).collect();
                    assert_eq!(places(&keys, key), kept, "seed {seed}");
                }
            }
            // What is gathered from it is the same, but for the last block, which none follows.
            let mut all: Vec<(Lsn, Lsn)> = model.values().flatten().copied().collect();
            all.sort_unstable();
            let start = keys.stretch().start;
            let first = all.iter().find(|(lsn, _)| *lsn >= start).map_or(block, |(_, block)| *block);
            let from = Lsn(first.0 + u64::from(first < start));
            let last = all.last().map_or(block, |(_, block)| *block);
            all.retain(|(_, block)| *block >= from && *block < last);
            let mut gathered = Vec::new();
            for (block, next, entries) in keys.blocks_from(from) {
                assert!(next > block.lsn);
                gathered.extend(entries.map(|entry| {
                    assert!(entry.lsn < next && entry.has_id == (entry.lsn.0 % 3 == 0));
                    (entry.lsn, block.lsn)
                }));
            }
            assert_eq!(gathered, all, "seed {seed}");
            assert_eq!(forgotten, model.values().map(Vec::len).sum::<usize>() > keys.most);
        }
    }
}
