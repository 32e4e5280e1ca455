//! The keys of what was appended last, in memory: a stretch of the log up to its end, of bounded size.
//!
//! Entries stand in the order of the log, in two halves. Those of one key are linked within a half, the newest first, and
//! a table of the newest ones finds them. When the later half is full the earlier one is forgotten as a whole, and the
//! stretch begins later: no step does more than clear a table.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::Place;
use crate::format::{KeyHash, WholeKeyHash};
use crate::position::Lsn;

/// No entry.
const NONE: u32 = u32::MAX;

/// For each place of a table so much is taken: three entries to four places, and a block to eight entries.
const PLACE_BYTES: usize = size_of::<u32>() + size_of::<Entry>() * 3 / 4 + size_of::<RecentBlock>() * 3 / 32;

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

/// A block of the stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecentBlock {
    pub lsn: Lsn,
    /// Where it ends, once that is known.
    pub end: Option<Lsn>,
    pub epoch: u32,
    pub nonce: u64,
}

/// One half.
#[derive(Debug)]
struct Half {
    entries: Vec<Entry>,
    /// The newest entry of each key, at the first place from its hash on that is free.
    newest: Box<[u32]>,
}

impl Half {
    /// With so many places, a power of two, all taken now.
    fn new(places: usize) -> io::Result<Half> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(places / 4 * 3).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut newest = Vec::new();
        newest.try_reserve_exact(places).map_err(|_| io::ErrorKind::OutOfMemory)?;
        newest.resize(places, NONE);
        Ok(Half { entries, newest: newest.into_boxed_slice() })
    }

    fn most(&self) -> usize {
        self.newest.len() / 4 * 3
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.newest.fill(NONE);
    }

    fn push(&mut self, hash: WholeKeyHash, place: u64) {
        let slot = self.slot(hash);
        let before = std::mem::replace(&mut self.newest[slot], self.entries.len() as u32);
        self.entries.push(Entry { hash: hash.hash, check: hash.check, before, place });
    }

    /// Where the newest entry of a key is found, or would be.
    fn slot(&self, hash: WholeKeyHash) -> usize {
        let mask = self.newest.len() - 1;
        let mut slot = hash.hash as usize & mask;
        loop {
            let Some(entry) = self.entries.get(self.newest[slot] as usize) else { return slot };
            if (entry.hash, entry.check) == (hash.hash, hash.check) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Where the records of a key are, the last one first.
    fn back(&self, hash: WholeKeyHash) -> impl Iterator<Item = Lsn> + '_ {
        let mut next = self.newest[self.slot(hash)];
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            next = entry.before;
            Some(entry.lsn())
        })
    }

    fn from(&self, lsn: Lsn) -> &[Entry] {
        &self.entries[self.entries.partition_point(|entry| entry.lsn() < lsn)..]
    }
}

/// How full it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub entries: usize,
    pub blocks: usize,
    /// So many entries at the most, until half of the memory is forgotten.
    pub most: usize,
}

/// The keys of a stretch of the log.
#[derive(Debug)]
pub(crate) struct RecentKeys {
    earlier: Half,
    later: Half,
    blocks: VecDeque<RecentBlock>,
    stretch: Range<Lsn>,
}

impl RecentKeys {
    /// Of an empty stretch, in so many bytes of memory, all taken now.
    ///
    /// # Errors
    /// Where there is no such memory.
    pub(crate) fn new(bytes: usize) -> io::Result<RecentKeys> {
        let places = (bytes / 2 / PLACE_BYTES).clamp(16, NONE as usize / 2);
        let places = 1 << places.ilog2();
        let (earlier, later) = (Half::new(places)?, Half::new(places)?);
        let mut blocks = VecDeque::new();
        blocks.try_reserve_exact(earlier.most() / 4 + 1).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(RecentKeys { earlier, later, blocks, stretch: Lsn::MIN..Lsn::MIN })
    }

    /// Forgets everything, and begins anew at `at`.
    pub(crate) fn restart(&mut self, at: Lsn) {
        self.earlier.clear();
        self.later.clear();
        self.blocks.clear();
        self.stretch = at..at;
    }

    /// All records that begin here are known.
    pub(crate) fn stretch(&self) -> Range<Lsn> {
        self.stretch.clone()
    }

    /// How much of it stands at or above `from`.
    pub(crate) fn filled_from(&self, from: Lsn) -> Filled {
        let entries = self.earlier.from(from).len() + self.later.from(from).len();
        let blocks = self.blocks.len() - self.blocks.partition_point(|block| block.lsn < from);
        Filled { entries, blocks, most: self.later.most() }
    }

    /// What is added from here on stands in the block at `lsn`, behind all others.
    pub(crate) fn begin_block(&mut self, lsn: Lsn, epoch: u32, nonce: u64) {
        let block = RecentBlock { lsn, end: None, epoch, nonce };
        match self.blocks.back_mut() {
            // Where it stands was one that holds nothing.
            Some(last) if last.lsn == lsn => *last = RecentBlock { end: last.end, ..block },
            _ => {
                if self.blocks.len() > self.later.most() / 4 {
                    self.forget_blocks();
                }
                self.blocks.push_back(block);
            }
        }
    }

    /// The last block ends there.
    pub(crate) fn end_block(&mut self, end: Lsn) {
        if let Some(last) = self.blocks.back_mut() {
            last.end = Some(end);
        }
    }

    /// The last block holds nothing: another one may stand in its place.
    pub(crate) fn drop_block(&mut self, lsn: Lsn) {
        if self.blocks.back().is_some_and(|last| last.lsn == lsn && last.end.is_none()) {
            self.blocks.pop_back();
        }
    }

    /// A record with this key stands at `lsn`, behind all others, in the last block, or in one before it that it goes on from.
    pub(crate) fn add(&mut self, hash: WholeKeyHash, lsn: Lsn, has_id: bool) {
        assert!(lsn >= self.stretch.end && self.blocks.front().is_some_and(|block| block.lsn < lsn));
        if self.later.entries.len() == self.later.most() {
            std::mem::swap(&mut self.earlier, &mut self.later);
            self.later.clear();
            // All from the first one that is kept on.
            self.begin_at(self.earlier.entries[0].lsn());
        }
        self.stretch.end = Lsn(lsn.0 + 1);
        self.later.push(hash, lsn.0 | u64::from(has_id));
    }

    /// Nothing else begins below `end`.
    pub(crate) fn reach(&mut self, end: Lsn) {
        self.stretch.end = self.stretch.end.max(end);
    }

    fn begin_at(&mut self, start: Lsn) {
        self.stretch.start = self.stretch.start.max(start);
        while self.blocks.get(1).is_some_and(|block| block.lsn <= start) {
            self.blocks.pop_front();
        }
    }

    /// There are too many blocks, most without a key.
    fn forget_blocks(&mut self) {
        // Entries below it are left where they are, and not given.
        self.begin_at(self.blocks[self.blocks.len() / 2].lsn);
    }

    /// The records of a key, the last one first.
    pub(crate) fn back(&self, hash: WholeKeyHash) -> impl Iterator<Item = Place> + '_ {
        let both = self.later.back(hash).chain(self.earlier.back(hash));
        both.take_while(|lsn| *lsn >= self.stretch.start).map(|lsn| {
            let index = self.blocks.partition_point(|block| block.lsn < lsn) - 1;
            let RecentBlock { lsn: block, epoch, nonce, .. } = self.blocks[index];
            Place { lsn, block, epoch, nonce }
        })
    }

    /// The blocks from `at` on that are known as a whole, each with its entries.
    pub(crate) fn blocks_from(
        &self,
        at: Lsn,
    ) -> impl Iterator<Item = (RecentBlock, Lsn, impl Iterator<Item = RecentEntry> + '_)> {
        let first = self.blocks.partition_point(|block| block.lsn < at.max(self.stretch.start));
        let whole = |block: &&RecentBlock| block.end.is_some_and(|end| end <= self.stretch.end);
        self.blocks.iter().skip(first).take_while(whole).map(|block| {
            let end = block.end.unwrap_or(block.lsn);
            let both = self.earlier.from(block.lsn).iter().chain(self.later.from(block.lsn));
            let own = both.take_while(move |entry| entry.lsn() < end);
            let entry = |entry: &Entry| RecentEntry {
                key: KeyHash::of_whole(WholeKeyHash { hash: entry.hash, check: entry.check }),
                lsn: entry.lsn(),
                has_id: entry.place & Entry::WITH_ID != 0,
            };
            (*block, end, own.map(entry))
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
        let (mut forgotten_by_entries, mut forgotten_by_blocks) = (0, 0);
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut keys = RecentKeys::new(64 * 2 * PLACE_BYTES).unwrap();
            keys.restart(Lsn(4096));
            let mut model: BTreeMap<u8, Vec<(Lsn, Lsn)>> = BTreeMap::new();
            let (mut block, mut at, mut ends) = (4096, 4096 + 88, Vec::new());
            keys.begin_block(Lsn(block), 1, 2);
            let keyless = random.below(3) == 0;
            let steps = random.below(400);
            for _ in 0..steps {
                match random.below(if keyless { 3 } else { 7 }) {
                    0 | 1 => {
                        let end = (at / 4096 + 1) * 4096;
                        keys.end_block(Lsn(end));
                        keys.reach(Lsn(end));
                        ends.push((Lsn(block), Lsn(end)));
                        (block, at) = (end, end + 88);
                        keys.begin_block(Lsn(block), 1, 2);
                    }
                    2 => keys.reach(Lsn(at)),
                    _ => {
                        let key = random.below(12) as u8;
                        keys.add(WholeKeyHash::of(&LOG, &[key]), Lsn(at), at % 3 == 0);
                        model.entry(key).or_default().push((Lsn(at), Lsn(block)));
                        at += 24;
                    }
                }
                let stretch = keys.stretch();
                assert!(stretch.end <= Lsn(at).max(Lsn(block)) && keys.blocks.len() <= 14, "seed {seed}");
                for key in 0..12 {
                    let own = model.get(&key).into_iter().flatten().rev();
                    let kept: Vec<_> = own.copied().take_while(|(lsn, _)| *lsn >= stretch.start).collect();
                    assert_eq!(places(&keys, key), kept, "seed {seed}");
                }
            }
            // What is gathered from it is the same, but for the block that is open.
            let start = keys.stretch().start;
            let whole: Vec<(Lsn, Lsn)> = ends.into_iter().filter(|(lsn, _)| *lsn >= start).collect();
            let mut all: Vec<(Lsn, Lsn)> = model.values().flatten().copied().collect();
            all.sort_unstable();
            all.retain(|(_, block)| whole.iter().any(|(lsn, _)| lsn == block));
            let (mut gathered, mut blocks) = (Vec::new(), Vec::new());
            for (block, end, entries) in keys.blocks_from(start) {
                blocks.push((block.lsn, end));
                gathered.extend(entries.map(|entry| {
                    assert!(entry.lsn < end && entry.has_id == (entry.lsn.0 % 3 == 0));
                    (entry.lsn, block.lsn)
                }));
            }
            assert_eq!((gathered, blocks), (all, whole), "seed {seed}");
            let entries = model.values().map(Vec::len).sum::<usize>();
            forgotten_by_entries += u32::from(start > Lsn(4096) && !keyless);
            forgotten_by_blocks += u32::from(start > Lsn(4096) && keyless && entries == 0);
        }
        assert!(forgotten_by_entries > 20 && forgotten_by_blocks > 20);
    }
}
