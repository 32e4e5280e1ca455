//! Looking keys up in a run.

use std::ops::Range;
use std::sync::Arc;

use super::Pages;
use crate::format::{
    BLOCKS_BYTES, Defect, GRANULE, INDEX_PAGE_BYTES, IndexEpoch, IndexHeader, KeyHash, KeysWalk, PLACE_UNIT,
    block_on, keys_head,
};
use crate::position::{Lsn, Position, ShardId};

/// So many pages of keys are looked at where their hashes suggest, before what is left is halved.
const GUESSES: u32 = 4;

/// No block has more granules: a position has no room for more.
const BLOCK_GRANULES_MAX: u64 = 1 << 16;

/// Granules that one page says of whether a block begins there.
const PAGE_GRANULES: u64 = BLOCKS_BYTES as u64 * 8;

/// On so many pages one finds where a block begins.
const BLOCK_PAGES_MAX: u64 = BLOCK_GRANULES_MAX.div_ceil(PAGE_GRANULES) + 1;

/// Where a record may be, and in which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub lsn: Lsn,
    pub block: Lsn,
    /// The epoch that owned the place when it was indexed, with its nonce.
    pub epoch: u32,
    pub nonce: u64,
}

impl Place {
    /// As a position, if the place can be one.
    pub(crate) fn position(&self, shard: ShardId) -> Option<Position> {
        let granules = self.lsn.0.checked_sub(self.block.0)? / GRANULE;
        (granules < 1 << 16).then(|| Position::new(shard, self.epoch, self.lsn, self.block))
    }
}

/// What is kept in memory of a run: its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub header: IndexHeader,
    pub epochs: Vec<IndexEpoch>,
}

impl Run {
    /// The run that begins with this page, in a file of so many bytes, if it is of this shard.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(crate) fn decode(page: &[u8], file_bytes: u64, log_id: &[u8; 16], shard: u16) -> Result<Run, Defect> {
        let (header, epochs) = IndexHeader::decode(page)?;
        if header.log_id != *log_id || header.shard != shard {
            return Err(Defect::Foreign);
        }
        if file_bytes < u64::from(header.pages()) * INDEX_PAGE_BYTES as u64 {
            return Err(Defect::Short);
        }
        Ok(Run { header, epochs })
    }

    /// Which LSNs it answers for.
    pub(crate) fn range(&self) -> Range<Lsn> {
        self.header.start()..self.header.end()
    }

    /// The places in `range` that keys with this hash have, in order, from either end.
    ///
    /// # Errors
    /// Where the run turns out not to be what it should. So may each place that is taken; it is the last one then.
    pub(crate) fn places<P: Pages>(
        self: &Arc<Run>,
        pages: P,
        hash: KeyHash,
        range: Range<Lsn>,
    ) -> Result<Places<P>, Defect> {
        let left = self.find(&pages, hash)?;
        let mut places = Places { run: self.clone(), pages, left, page: None };
        if range.start > self.header.start() && !places.left.is_empty() {
            places.left.start = places.first_at_or_above(range.start)?;
        }
        if range.end < self.header.end() && !places.left.is_empty() {
            places.left.end = places.first_at_or_above(range.end)?;
        }
        Ok(places)
    }

    /// The numbers of the places that a hash has.
    fn find(&self, pages: &impl Pages, hash: KeyHash) -> Result<Range<u32>, Defect> {
        let raw = hash.raw();
        let (mut low, mut high) = (0, self.header.key_pages);
        // Of the first key on page `low`, and behind the last one below page `high`.
        let (mut low_hash, mut high_hash) = (0, KeyHash::END);
        let mut guesses = 0;
        while low < high {
            let wide = u128::from(raw - low_hash) * u128::from(high - low) / u128::from(high_hash - low_hash);
            let guess = if guesses < GUESSES { low + wide as u32 } else { low + (high - low) / 2 };
            guesses += 1;
            let page = pages.page(self.header.first_keys() + guess)?;
            let head = keys_head(&page)?;
            if raw < head.first {
                (high, high_hash) = (guess, head.first);
            } else if raw >= head.next {
                (low, low_hash) = (guess + 1, head.next);
            } else {
                return self.find_on(&page, hash);
            }
        }
        Ok(0..0)
    }

    fn find_on(&self, page: &[u8], hash: KeyHash) -> Result<Range<u32>, Defect> {
        let mut walk = KeysWalk::new(page)?;
        while let Some(key) = walk.next(page)?.filter(|key| key.hash <= hash) {
            if key.hash == hash {
                let end = key.place + key.places;
                return if end <= self.header.places { Ok(key.place..end) } else { Err(Defect::Length) };
            }
        }
        Ok(0..0)
    }

    /// The block that a place is in.
    fn block_of(&self, pages: &impl Pages, lsn: Lsn) -> Result<Lsn, Defect> {
        let (mut number, mut granule) = self.header.page_of_block(lsn);
        for _ in 0..BLOCK_PAGES_MAX {
            if let Some(found) = block_on(&pages.page(number)?, granule) {
                let page = u64::from(number - self.header.first_blocks());
                let block = Lsn(self.header.start + (page * PAGE_GRANULES + u64::from(found)) * GRANULE);
                let is_near = (lsn.0 - block.0) / GRANULE < BLOCK_GRANULES_MAX;
                return if is_near { Ok(block) } else { Err(Defect::Length) };
            }
            if number == self.header.first_blocks() {
                break;
            }
            number -= 1;
            granule = PAGE_GRANULES as u32 - 1;
        }
        Err(Defect::Length)
    }

    /// The stretch of an epoch that a block lies in.
    fn epoch_of(&self, block: Lsn) -> Result<&IndexEpoch, Defect> {
        let after = self.epochs.partition_point(|row| row.start <= block.0);
        let row = after.checked_sub(1).map(|index| &self.epochs[index]);
        row.filter(|row| block.0 < row.end).ok_or(Defect::Length)
    }
}

/// The places of a hash in a run.
#[derive(Debug)]
pub(crate) struct Places<P> {
    run: Arc<Run>,
    pages: P,
    /// Their numbers.
    left: Range<u32>,
    /// The page that was read last.
    page: Option<(u32, Arc<[u8]>)>,
}

impl<P: Pages> Places<P> {
    /// How many there are.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    fn lsn(&mut self, number: u32) -> Result<Lsn, Defect> {
        let header = &self.run.header;
        let (page, index) = header.page_of_place(number);
        let held = match &mut self.page {
            Some((held, bytes)) if *held == page => bytes,
            held => &mut held.insert((page, self.pages.page(page)?)).1,
        };
        let lsn = Lsn(header.start + u64::from(header.place_on(held, index)?) * PLACE_UNIT);
        if lsn < header.end() { Ok(lsn) } else { Err(Defect::Length) }
    }

    /// The number of the first place at or above `lsn`.
    fn first_at_or_above(&mut self, lsn: Lsn) -> Result<u32, Defect> {
        let Range { mut start, mut end } = self.left;
        while start < end {
            let middle = start + (end - start) / 2;
            if self.lsn(middle)? < lsn { start = middle + 1 } else { end = middle }
        }
        Ok(start)
    }

    fn place(&mut self, number: u32) -> Result<Place, Defect> {
        let lsn = self.lsn(number)?;
        let block = self.run.block_of(&self.pages, lsn)?;
        let &IndexEpoch { epoch, nonce, .. } = self.run.epoch_of(block)?;
        Ok(Place { lsn, block, epoch, nonce })
    }

    /// Takes a place by its number; after a defect there is none left.
    fn take(&mut self, number: u32) -> Result<Place, Defect> {
        let place = self.place(number);
        if place.is_err() {
            self.left = 0..0;
        }
        place
    }
}

impl<P: Pages> Iterator for Places<P> {
    type Item = Result<Place, Defect>;

    fn next(&mut self) -> Option<Self::Item> {
        let number = self.left.next()?;
        Some(self.take(number))
    }
}

impl<P: Pages> DoubleEndedIterator for Places<P> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let number = self.left.next_back()?;
        Some(self.take(number))
    }
}
