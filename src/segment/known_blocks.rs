//! What a shard's readers remember of blocks whose headers they have seen.

use std::sync::Mutex;

use crate::format::{BlockHeader, Identity};
use crate::position::{GRANULE, Lsn};
use crate::sync::lock;

/// Blocks that are remembered: the headers of 512 MiB of a log that was loaded in bulk, in 160 KiB of memory.
const BLOCKS: usize = 4096;

/// What of a header a record needs: when it was written, and whether it is in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownBlock {
    lsn: Lsn,
    epoch: u32,
    nonce: u64,
    pub timestamp: u64,
    /// Header and records, without padding.
    pub length: u32,
}

impl KnownBlock {
    /// Of a header that was checked.
    pub(crate) fn new(header: &BlockHeader) -> KnownBlock {
        let Identity { epoch, nonce, .. } = header.identity();
        KnownBlock { lsn: header.lsn(), epoch, nonce, timestamp: header.timestamp, length: header.length }
    }

    fn is(&self, identity: &Identity, lsn: Lsn) -> bool {
        (self.lsn, self.epoch, self.nonce) == (lsn, identity.epoch, identity.nonce)
    }
}

/// A block of an epoch never changes once it is written: what was seen of it stays true. A newer block takes the place
/// of an older one. Memory is taken with the first.
#[derive(Debug, Default)]
pub(crate) struct KnownBlocks(Mutex<Vec<Option<KnownBlock>>>);

impl KnownBlocks {
    pub(crate) fn get(&self, identity: &Identity, lsn: Lsn) -> Option<KnownBlock> {
        let known = *lock(&self.0).get(place_of(lsn))?;
        known.filter(|known| known.is(identity, lsn))
    }

    pub(crate) fn add(&self, block: KnownBlock) {
        let mut blocks = lock(&self.0);
        if blocks.is_empty() {
            blocks.resize(BLOCKS, None);
        }
        blocks[place_of(block.lsn)] = Some(block);
    }
}

/// Blocks of one size would share few places by their LSN alone.
fn place_of(lsn: Lsn) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    ((lsn.0 / GRANULE).wrapping_mul(GOLDEN) >> (64 - BLOCKS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BlockSeal;

    #[test]
    fn a_block_is_known_by_its_place_and_its_epoch() {
        let own = Identity { log_id: [1; 16], shard: 2, epoch: 3, nonce: 4 };
        let lsn = Lsn(5 * GRANULE);
        let seal =
            BlockSeal { lsn, previous_end: lsn, covered: lsn, timestamp: 6, record_count: 0, length: 100 };
        let known = KnownBlocks::default();
        assert_eq!(known.get(&own, lsn), None);
        known.add(KnownBlock::new(&BlockHeader::sealed(&own, &seal)));
        let found = known.get(&own, lsn).unwrap();
        assert_eq!((found.timestamp, found.length), (6, 100));
        assert_eq!(known.get(&Identity { epoch: 4, ..own }, lsn), None);
        assert_eq!(known.get(&Identity { nonce: 5, ..own }, lsn), None);
        assert_eq!((0..BLOCKS as u64).filter(|&at| known.get(&own, Lsn(at * GRANULE)).is_some()).count(), 1);
    }

    #[test]
    fn blocks_of_one_size_have_places_of_their_own() {
        for granules in [1, 2, 3, 64, 65, 1024] {
            let places: std::collections::HashSet<_> =
                (0..BLOCKS as u64 / 2).map(|block| place_of(Lsn(block * granules * GRANULE))).collect();
            assert!(places.len() > BLOCKS / 3, "{} places for blocks of {granules} granules", places.len());
        }
    }
}
