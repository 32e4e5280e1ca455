//! A shard's manifest, rebuilt from its segment files alone.
//!
//! Blocks say of which log, shard, epoch and LSN they are; so each tells where its file begins in the stream, all of an
//! epoch tell where that started, and the chain shows where a torn batch was cut off. What only the manifest knew is
//! where the log was truncated at either end: a spare keeps the blocks that it had, and what was cut stays on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Scan, scan};
use crate::format::{
    BlockHeader, Defect, EpochRow, EpochTable, GRANULE, Records, ShardManifest, round_to_granule,
};
use crate::position::Lsn;
use crate::segment::{Segment, SegmentReader, segment_name};

/// An epoch to which nothing was appended left no block, and its number must not be used twice: so many are passed
/// over.
const EPOCHS_AHEAD: u32 = 1024;

/// Why no manifest can be rebuilt. Nothing is taken where two answers are possible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsalvageable {
    #[error("written by a newer version")]
    TooNew,
    #[error("`{}` of another log, or of another shard", segment_name(*.0))]
    Foreign(u32),
    #[error(
        "`{}` and `{}` both hold LSN {lsn}; move away the one that does not belong there",
        segment_name(.files[0]),
        segment_name(.files[1])
    )]
    Overlap { files: [u32; 2], lsn: Lsn },
    #[error(
        "there are two epochs {0}: the segment files are of two copies of the shard that went on from one; put back \
         those of one of them"
    )]
    TwoHistories(u32),
    #[error("its epochs' numbers are used up")]
    NoEpochs,
}

/// What cannot be told for certain, or is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Doubt {
    #[error(
        "no segment holds LSN {from} to {to}: either a file is missing, or all below was truncated and comes back, or \
         what follows was never acknowledged; readers are told of damage there until the log is truncated before LSN {to}"
    )]
    Gap { from: Lsn, to: Lsn },
    #[error("{}: {places} places cannot be read", segment_name(*.file))]
    Unreadable { file: u32, places: u64 },
    #[error("{}: its first block is damaged or was never whole", segment_name(*.0))]
    NoFirstBlock(u32),
}

/// A manifest that was rebuilt.
#[derive(Clone, Debug)]
pub(crate) struct Salvaged {
    pub manifest: ShardManifest,
    /// Where its chain ends.
    pub end: Lsn,
    /// So many files hold nothing but what was truncated for certain.
    pub truncated: usize,
    pub doubts: Vec<Doubt>,
}

/// What the blocks of a file say that have it begin at one place of the stream. A file that was used again has blocks
/// of each time, as far as they were not overwritten.
#[derive(Clone, Debug)]
struct Life {
    base: u64,
    /// The first of its blocks in the file.
    first: BlockHeader,
    blocks: u64,
    /// Where the last of them ends.
    end: u64,
    /// Where each epoch started, as far as its blocks tell: number and nonce, and the lowest LSN that one names.
    epochs: BTreeMap<(u32, u64), u64>,
}

/// A file, and what was found in it.
struct Look {
    segment: Arc<Segment>,
    lives: BTreeMap<u64, Life>,
    /// There are blocks of others.
    has_others: bool,
    starts_with_others: bool,
    unreadable: u64,
    /// Above all in it.
    next_epoch: u32,
    timestamp: u64,
}

/// A file in its place.
struct Placed {
    segment: Arc<Segment>,
    life: Life,
    /// Where it began in earlier times.
    former: Vec<u64>,
}

impl Placed {
    /// The block that was written first is the first one in the file, once anything behind it is durable.
    fn starts_with_first(&self) -> bool {
        self.life.first.lsn == self.life.base
    }

    /// Where the chain goes on into this file.
    fn entry(&self) -> u64 {
        let first = &self.life.first;
        if self.starts_with_first() { first.previous_end / GRANULE * GRANULE } else { self.life.base }
    }

    fn overlaps(&self, base: u64, end: u64) -> bool {
        self.life.base < end && base < self.segment.end().0
    }
}

/// Rebuilds the manifest of this shard from all files that have a segment's name. Their places are not known yet: each
/// is given as if it began at LSN 0. `nonce` is for the epoch of a shard that has no block.
pub(crate) fn salvage(
    reader: &mut SegmentReader,
    files: &[Arc<Segment>],
    log_id: [u8; 16],
    shard: u16,
    block_bytes: u32,
    nonce: u64,
) -> Result<Salvaged, Unsalvageable> {
    let (mut placed, mut doubts) = (Vec::new(), Vec::new());
    let (mut next_epoch, mut timestamp) = (1, 0);
    for segment in files {
        let look = look(reader, segment, &log_id, shard, block_bytes)?;
        let file = segment.row.file;
        if look.starts_with_others || look.has_others && look.lives.is_empty() {
            return Err(Unsalvageable::Foreign(file));
        }
        if look.unreadable > 0 {
            doubts.push(Doubt::Unreadable { file, places: look.unreadable });
        }
        next_epoch = next_epoch.max(look.next_epoch);
        timestamp = timestamp.max(look.timestamp);
        placed.extend(place(look));
    }
    placed.sort_by_key(|file| file.life.base);
    shorten(&mut placed);
    check_apart(&placed)?;
    let truncated = truncated_below(&placed);
    let next_file = placed.iter().map(|file| file.segment.row.file + 1).max().unwrap_or(1);
    let before = placed.len();
    placed.retain(|file| file.segment.end().0 > truncated);
    let next_epoch = next_epoch.checked_add(EPOCHS_AHEAD).ok_or(Unsalvageable::NoEpochs)?;
    let mut salvaged = Salvaged {
        manifest: empty(log_id, shard, next_epoch, timestamp),
        end: Lsn::MIN,
        truncated: before - placed.len(),
        doubts,
    };
    salvaged.manifest.next_file = next_file;
    salvaged.add_epochs(&placed, truncated, nonce, reader, block_bytes)?;
    Ok(salvaged)
}

fn empty(log_id: [u8; 16], shard: u16, next_epoch: u32, timestamp: u64) -> ShardManifest {
    ShardManifest {
        log_id,
        shard,
        next_epoch,
        next_file: 1,
        map_version: 0,
        horizon: Lsn::MIN,
        checkpoint: Lsn::MIN,
        covered: Lsn::MIN,
        clean_end: None,
        timestamp,
        epochs: EpochTable::default(),
        segments: Vec::new(),
    }
}

/// Reads all of a file.
fn look(
    reader: &mut SegmentReader,
    segment: &Arc<Segment>,
    log_id: &[u8; 16],
    shard: u16,
    block_bytes: u32,
) -> Result<Look, Unsalvageable> {
    let mut look = Look {
        segment: segment.clone(),
        lives: BTreeMap::new(),
        has_others: false,
        starts_with_others: false,
        unreadable: 0,
        next_epoch: 1,
        timestamp: 0,
    };
    let mut next = 0;
    while next < segment.row.bytes {
        let offset = next;
        next += GRANULE;
        let header = match reader.bytes(segment, offset, GRANULE as usize).map(BlockHeader::decode) {
            Ok(Ok(header)) => header,
            Ok(Err(Defect::Version)) if offset == 0 => return Err(Unsalvageable::TooNew),
            Ok(Err(_)) => continue,
            Err(_) => {
                look.unreadable += 1;
                continue;
            }
        };
        if !header.is_of(log_id, shard) {
            look.has_others = true;
            look.starts_with_others |= offset == 0;
            continue;
        }
        look.note(&header, offset);
        // What a block that checks holds is what its producers put there, and may look like anything.
        let bytes = round_to_granule(u64::from(header.length));
        if bytes <= u64::from(block_bytes) && offset + bytes <= segment.row.bytes {
            let whole = reader
                .bytes(segment, offset, bytes as usize)
                .and_then(|block| Records::new(&header, block)?.try_for_each(|record| record.map(drop)));
            next = if whole.is_ok() { offset + bytes } else { next };
        }
    }
    Ok(look)
}

impl Look {
    fn note(&mut self, header: &BlockHeader, offset: u64) {
        self.next_epoch = self.next_epoch.max(header.epoch.saturating_add(1));
        self.timestamp = self.timestamp.max(header.last_time());
        let base = header.lsn.checked_sub(offset).filter(|base| base % GRANULE == 0);
        let Some(base) = base.filter(|base| base.checked_add(self.segment.row.bytes).is_some()) else {
            return;
        };
        let life = self.lives.entry(base).or_insert_with(|| Life {
            base,
            first: *header,
            blocks: 0,
            end: 0,
            epochs: BTreeMap::new(),
        });
        life.blocks += 1;
        life.end = life.end.max(header.end().0);
        // Both are at or above the start of the epoch: its first block names it, and those that were sealed before
        // anything of it was durable had nothing higher to testify to.
        let start = header.previous_end.min(header.covered) / GRANULE * GRANULE;
        let known = life.epochs.entry((header.epoch, header.nonce)).or_insert(start);
        *known = start.min(*known);
    }
}

/// Which of its lives the file is in: the last one, whatever is left of those before, also at its start. `None` if it
/// has no block.
fn place(mut look: Look) -> Option<Placed> {
    let bytes = look.segment.row.bytes;
    let last = *look.lives.last_key_value()?.0;
    // Where two overlap, one is of a block that was written to a wrong place: lives of a file are apart.
    let near = look.lives.range(last.saturating_sub(bytes - GRANULE)..);
    let likely = near.max_by_key(|(base, life)| (life.first.lsn == **base, life.blocks));
    let base = likely.map(|(base, _)| *base)?;
    let life = look.lives.remove(&base)?;
    let former = look.lives.into_keys().filter(|former| former + bytes <= base).collect();
    Some(Placed { segment: Arc::new(look.segment.placed(Lsn(base), bytes)), life, former })
}

/// A file may be longer than its segment is: what is behind the last block belongs to the next one.
fn shorten(placed: &mut [Placed]) {
    let bases: Vec<u64> = placed.iter().skip(1).map(|next| next.life.base).collect();
    for (file, next) in placed.iter_mut().zip(bases) {
        if file.life.end <= next && next < file.segment.end().0 {
            file.segment = Arc::new(file.segment.placed(Lsn(file.life.base), next - file.life.base));
        }
    }
}

/// No LSN is ever in two files: segments follow each other.
fn check_apart(placed: &[Placed]) -> Result<(), Unsalvageable> {
    let both = placed.windows(2).find(|pair| pair[1].overlaps(pair[0].life.base, pair[0].segment.end().0));
    both.map_or(Ok(()), |pair| {
        let files = [pair[0].segment.row.file, pair[1].segment.row.file];
        Err(Unsalvageable::Overlap { files, lsn: pair[1].segment.base() })
    })
}

/// All below it was truncated for certain: a file that held it is used for something else by now.
fn truncated_below(placed: &[Placed]) -> u64 {
    let former = placed.iter().flat_map(|file| {
        let bytes = file.segment.row.bytes;
        file.former.iter().map(move |base| (*base, base + bytes))
    });
    // Where another file has that place, it is a block in a wrong place, or a record that looks like one.
    let is_free = |(base, end): &(u64, u64)| !placed.iter().any(|other| other.overlaps(*base, *end));
    former.filter(is_free).map(|(_, end)| end).max().unwrap_or(0)
}

/// Where the chain goes on into the first of its files. That need not be the first that there is: one that was too small
/// for a block is passed over, and may hold what is left of earlier epochs, which were cut off.
fn beginning(placed: &[Placed]) -> u64 {
    let (mut begin, mut newest) = (None, 0);
    for file in placed {
        let is_entered = file.life.first.epoch > newest;
        begin = begin.into_iter().chain(is_entered.then(|| file.entry())).min();
        newest = file.life.epochs.keys().fold(newest, |newest, (epoch, _)| newest.max(*epoch));
    }
    begin.unwrap_or(0)
}

/// What the chain is followed in.
struct Chain<'a> {
    reader: &'a mut SegmentReader,
    segments: Vec<Arc<Segment>>,
    /// Where the log begins, and where it goes on behind each gap.
    entries: Vec<u64>,
    block_bytes: u32,
}

impl Chain<'_> {
    /// The chain of an epoch from its start, or from the last gap in it below `end`.
    fn scan(&mut self, manifest: &ShardManifest, row: EpochRow, end: u64) -> (Lsn, Scan) {
        let inside = self.entries.iter().copied().filter(|entry| (row.start..end).contains(entry));
        let from = Lsn(inside.max().unwrap_or(row.start));
        let mut alone = empty(manifest.log_id, manifest.shard, manifest.next_epoch, 0);
        alone.epochs.push(EpochRow { cut: row.start, ..row });
        (alone.checkpoint, alone.covered) = (from, from);
        (from, scan(self.reader, &self.segments, &alone, self.block_bytes))
    }

    /// Where the batch or record begins that is not whole where an epoch starts: the recovery that began this epoch
    /// has cut it off.
    fn open_group_at(&mut self, manifest: &ShardManifest, start: u64) -> Option<Lsn> {
        // Those that start here, or above, own nothing: as when the row is added.
        let before = manifest.epochs.rows().iter().rfind(|row| row.start < start)?;
        let (_, scan) = self.scan(manifest, *before, start);
        scan.open_group.filter(|_| scan.end == Lsn(start))
    }
}

impl Salvaged {
    /// Lists the files, and adds a row for each epoch that owns something there.
    fn add_epochs(
        &mut self,
        placed: &[Placed],
        truncated: u64,
        nonce: u64,
        reader: &mut SegmentReader,
        block_bytes: u32,
    ) -> Result<(), Unsalvageable> {
        let begin = beginning(placed);
        let mut entries = vec![begin];
        for (before, file) in placed.iter().zip(placed.iter().skip(1)) {
            let (from, to) = (before.segment.end(), Lsn(file.entry()));
            if from < to {
                self.doubts.push(Doubt::Gap { from, to });
                entries.push(to.0);
            }
        }
        let unsure = placed.iter().filter(|file| !file.starts_with_first());
        self.doubts.extend(unsure.map(|file| Doubt::NoFirstBlock(file.segment.row.file)));
        let segments: Vec<_> = placed.iter().map(|file| file.segment.clone()).collect();
        let manifest = &mut self.manifest;
        manifest.segments = segments.iter().map(|segment| segment.row).collect();
        let mut chain = Chain { reader, segments, entries, block_bytes };
        for ((epoch, nonce), start) in epochs_of(placed)? {
            let start = start.max(begin);
            let cut = chain.open_group_at(manifest, start).map_or(start, |group| group.0);
            manifest.epochs.push(EpochRow { epoch, empty_from: 0, nonce, start, cut });
        }
        if manifest.epochs.last().is_none() {
            let epoch = manifest.next_epoch;
            manifest.next_epoch = epoch.checked_add(1).ok_or(Unsalvageable::NoEpochs)?;
            manifest.epochs.push(EpochRow { epoch, empty_from: 0, nonce, start: 0, cut: 0 });
        }
        let last = *manifest.epochs.last().expect("a row was added");
        let (from, scan) = chain.scan(manifest, last, u64::MAX);
        (manifest.checkpoint, manifest.covered) = (from, from);
        manifest.horizon = Lsn(begin.max(truncated));
        manifest.epochs.prune(manifest.horizon.min(manifest.checkpoint));
        self.end = scan.end;
        Ok(())
    }
}

/// The epochs of all blocks in place, each with where it started.
fn epochs_of(placed: &[Placed]) -> Result<BTreeMap<(u32, u64), u64>, Unsalvageable> {
    let mut epochs: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for (key, start) in placed.iter().flat_map(|file| &file.life.epochs) {
        let known = epochs.entry(*key).or_insert(*start);
        *known = (*start).min(*known);
    }
    let numbers = epochs.keys().map(|(epoch, _)| *epoch);
    match numbers.clone().zip(numbers.skip(1)).find(|(epoch, next)| epoch == next) {
        Some((epoch, _)) => Err(Unsalvageable::TwoHistories(epoch)),
        None => Ok(epochs),
    }
}
