//! Where the blocks lie that were written: none is ever rewritten while somebody may need it.

use std::collections::BTreeMap;

use crate::format::BlockHeader;
use crate::position::Lsn;

/// Blocks that were written, by file and offset, and which of them may be overwritten.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Somebody tells what is given up; else nothing is checked.
    pub(super) are_watched: bool,
    written: BTreeMap<(u64, u64), Block>,
    /// By shard: below it everything was given up.
    horizons: BTreeMap<u16, Lsn>,
}

#[derive(Debug)]
pub(super) struct Block {
    shard: u16,
    lsn: Lsn,
    bytes: u64,
}

impl Blocks {
    /// A write of these bytes completed.
    pub(super) fn written(&mut self, file: u64, offset: u64, bytes: &[u8]) {
        if !self.are_watched {
            return;
        }
        let Ok(header) = BlockHeader::decode(bytes) else { return };
        let block = Block { shard: header.shard, lsn: header.lsn(), bytes: bytes.len() as u64 };
        if self.horizons.get(&block.shard).is_none_or(|&horizon| block.lsn >= horizon) {
            self.written.insert((file, offset), block);
        }
    }

    /// The block that a write would hit, and that nobody gave up.
    pub(super) fn hit(&self, file: u64, offset: u64, bytes: usize) -> Option<&Block> {
        let end = offset + bytes as u64;
        // Blocks do not overlap, so the last one that begins below the end is the one to look at.
        let (&(_, at), block) = self.written.range((file, 0)..(file, end)).next_back()?;
        (at + block.bytes > offset).then_some(block)
    }

    /// Blocks of the shard below `horizon` may be overwritten, now and later.
    pub(super) fn give_up_below(&mut self, shard: u16, horizon: Lsn) {
        let own = self.horizons.entry(shard).or_default();
        *own = horizon.max(*own);
        self.written.retain(|_, block| block.shard != shard || block.lsn >= horizon);
    }

    /// Blocks of the shard from `end` on, which a crash cut off, may be overwritten.
    pub(super) fn give_up_from(&mut self, shard: u16, end: Lsn) {
        self.written.retain(|_, block| block.shard != shard || block.lsn < end);
    }
}
