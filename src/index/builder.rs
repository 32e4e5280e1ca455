//! Gathering the entries of a stretch.

use std::io;

use super::{RunWriter, Sink, Written};
use crate::format::{GRANULE, INDEX_BYTES_MAX, Identity, IndexEpoch, IndexPlan, KeyHash, PLACE_UNIT};
use crate::position::Lsn;

/// Of an entry, so many bits say where the record is; the others are the hash of its key. Entries sort by both.
const UNIT_BITS: u32 = (INDEX_BYTES_MAX / PLACE_UNIT).ilog2();

/// For an entry a record takes no less: with a key of one byte 24, with an id, for which there is another entry, 40.
const BYTES_AN_ENTRY: usize = 20;

/// Gathers what the keys of a stretch are and where, in memory that is taken once.
#[derive(Debug)]
pub(crate) struct Builder {
    log_id: [u8; 16],
    shard: u16,
    entries: Vec<u64>,
    most: usize,
    /// Granules of the stretch where a block begins.
    blocks: Vec<u64>,
    granules_max: u64,
    epochs: Vec<IndexEpoch>,
    start: Lsn,
    end: Lsn,
}

/// What became of a block that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Built {
    Added,
    /// There is no room for it. It was left out, and is the first of the next run.
    Full,
}

impl Builder {
    /// A builder of runs over at most `stretch` bytes of the log, with at most `bytes` of memory, or with what one
    /// block of up to `block_bytes` needs, if that is more.
    ///
    /// # Errors
    /// Where there is no such memory.
    pub(crate) fn new(
        log_id: [u8; 16],
        shard: u16,
        stretch: u64,
        bytes: usize,
        block_bytes: usize,
    ) -> io::Result<Builder> {
        let stretch = stretch.max(block_bytes as u64).min(INDEX_BYTES_MAX) / GRANULE * GRANULE;
        let most = (bytes / size_of::<u64>()).max(block_bytes / BYTES_AN_ENTRY + 1);
        // No stretch has more records.
        let most = most.min(stretch as usize / BYTES_AN_ENTRY + 1);
        let mut entries = Vec::new();
        entries.try_reserve_exact(most).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let granules_max = stretch / GRANULE;
        let mut blocks = Vec::new();
        blocks
            .try_reserve_exact(granules_max.div_ceil(64) as usize)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        let (start, end, epochs) = (Lsn::MIN, Lsn::MIN, Vec::new());
        Ok(Builder { log_id, shard, entries, most, blocks, granules_max, epochs, start, end })
    }

    /// Forgets what was gathered; what is gathered next begins at `start`.
    pub(crate) fn begin(&mut self, start: Lsn) {
        assert!(start.0 % GRANULE == 0, "blocks begin at granules");
        self.entries.clear();
        self.blocks.clear();
        self.epochs.clear();
        (self.start, self.end) = (start, start);
    }

    /// From where on entries are gathered, and up to where all blocks were added.
    pub(crate) fn range(&self) -> std::ops::Range<Lsn> {
        self.start..self.end
    }

    /// Adds a block that lies at `lsn` and ends at `end`, behind all that were added, of an epoch that owns the log up to
    /// `owned_end`, with the keys and places of the records that begin in it.
    pub(crate) fn add_block(
        &mut self,
        identity: &Identity,
        lsn: Lsn,
        end: Lsn,
        owned_end: Lsn,
        records: impl Iterator<Item = (KeyHash, Lsn)>,
    ) -> Built {
        assert!(self.end <= lsn && lsn < end && lsn < owned_end, "blocks come in order");
        let granule = (lsn.0 - self.start.0) / GRANULE;
        // An epoch that has been cut since: of what it owned behind its last block here nothing is known.
        if let Some(last) = self.epochs.last_mut() {
            last.end = if last.is_of(identity) { last.end } else { last.end.min(self.end.0) };
        }
        let row = IndexEpoch::of_block(identity, lsn, owned_end);
        if (end.0 - self.start.0) / GRANULE > self.granules_max || !row.add_to(&mut self.epochs) {
            return Built::Full;
        }
        let before = self.entries.len();
        for (hash, place) in records {
            if self.entries.len() == self.most {
                assert!(before > 0, "there is room for any one block");
                self.entries.truncate(before);
                self.forget_row(&row);
                return Built::Full;
            }
            let unit = (place.0 - self.start.0) / PLACE_UNIT;
            self.entries.push(hash.raw() << UNIT_BITS | unit);
        }
        let word = (granule / 64) as usize;
        self.blocks.resize(word + 1, 0);
        self.blocks[word] |= 1 << (granule % 64);
        self.end = end;
        Built::Added
    }

    /// Takes back what was added last to the epochs.
    fn forget_row(&mut self, row: &IndexEpoch) {
        match self.epochs.last_mut() {
            Some(last) if last.start < row.start => {}
            _ => drop(self.epochs.pop()),
        }
    }

    /// Writes what was gathered as a run up to `end`, in front of which no more blocks come.
    ///
    /// `nonce` was drawn for it.
    pub(crate) fn write(
        &mut self,
        sink: &mut (impl Sink + ?Sized),
        end: Lsn,
        nonce: u64,
    ) -> io::Result<Written> {
        assert!(self.end <= end);
        self.entries.sort_unstable();
        let hash_of = |entry: u64| KeyHash::from_raw(entry >> UNIT_BITS);
        let groups = || self.entries.chunk_by(|one, other| hash_of(*one) == hash_of(*other));
        let plan = IndexPlan {
            log_id: self.log_id,
            shard: self.shard,
            nonce,
            start: self.start,
            end,
            places: self.entries.len() as u32,
        };
        // Behind the run, whatever an epoch owns there, nothing was looked at.
        self.epochs.iter_mut().for_each(|row| row.end = row.end.min(end.0));
        let mut writer = RunWriter::new(sink, &plan, groups().count() as u32);
        for group in groups() {
            writer.put_key(hash_of(group[0]), group.len() as u32)?;
            for entry in group {
                writer.put_place((entry & ((1 << UNIT_BITS) - 1)) as u32)?;
            }
        }
        let bits = |(index, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| Ok(index as u64 * 64 + bit))
        };
        writer.finish(self.blocks.iter().enumerate().flat_map(bits), self.epochs.clone())
    }
}
