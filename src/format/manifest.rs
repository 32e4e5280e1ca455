//! The manifests: what a log is, and what each shard of it has.
//!
//! Either is the body of a [slot](super::slot): a Pod followed by rows that are Pods.

use bytemuck::{Pod, Zeroable};

use super::slot_map::{MapLayout, StretchRow};
use super::{Defect, EpochRow, EpochTable, Identity, SlotMap};
use crate::position::Lsn;

/// Splits Pods off the front of a body.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Defect> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Defect::Length)?;
        self.0 = rest;
        Ok(head)
    }

    fn pod<T: Pod>(&mut self) -> Result<T, Defect> {
        self.bytes(size_of::<T>()).map(bytemuck::pod_read_unaligned)
    }

    fn pods<T: Pod>(&mut self, count: u32) -> Result<Vec<T>, Defect> {
        let bytes = (count as usize).checked_mul(size_of::<T>()).ok_or(Defect::Length)?;
        let bytes = self.bytes(bytes)?;
        Ok(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
    }

    fn histories(&mut self, slots: Vec<u16>, shards: u16) -> Result<SlotMap, Defect> {
        let layout: MapLayout = self.pod()?;
        let rows: Vec<StretchRow> = self.pods(layout.stretches)?;
        let of_a_shard = rows.iter().all(|row| row.shard < shards);
        if of_a_shard { SlotMap::with_histories(slots, &layout, &rows) } else { Err(Defect::Length) }
    }

    fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    fn finish(self) -> Result<(), Defect> {
        if self.is_at_end() { Ok(()) } else { Err(Defect::Length) }
    }
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct LogLayout {
    pub log_id: [u8; 16],
    pub shards: u16,
    pub directories: u16,
    pub block_bytes: u32,
    pub segment_bytes: u64,
    pub slots: u32,
    /// The unit of placement that the log was made with.
    pub granule: u32,
}

/// What a log is: written when it is made, and when slots move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogManifest {
    pub log_id: [u8; 16],
    pub shards: u16,
    pub block_bytes: u32,
    pub segment_bytes: u64,
    pub map: SlotMap,
    /// Where the shards live, if not in the log's own directory: shard `n` in `n % len`.
    pub directories: Vec<String>,
}

impl LogManifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let layout = LogLayout {
            log_id: self.log_id,
            shards: self.shards,
            directories: self.directories.len() as u16,
            block_bytes: self.block_bytes,
            segment_bytes: self.segment_bytes,
            slots: self.map.shards.len() as u32,
            granule: super::GRANULE as u32,
        };
        let mut bytes = bytemuck::bytes_of(&layout).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(&self.map.shards));
        for directory in &self.directories {
            bytes.extend_from_slice(&(directory.len() as u32).to_le_bytes());
            bytes.extend_from_slice(directory.as_bytes());
        }
        bytes.extend_from_slice(&self.map.encode_histories());
        bytes
    }

    /// As [`ShardManifest::checked`].
    pub(crate) fn checked(&self) -> Result<Vec<u8>, Defect> {
        let body = self.encode();
        match LogManifest::decode(&body) {
            Ok(again) if again == *self => Ok(body),
            Ok(_) => Err(Defect::Length),
            Err(defect) => Err(defect),
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Result<LogManifest, Defect> {
        let mut reader = Reader(body);
        let layout: LogLayout = reader.pod()?;
        let slots: Vec<u16> = reader.pods(layout.slots)?;
        let mut directories = Vec::new();
        for _ in 0..layout.directories {
            let bytes: u32 = reader.pod()?;
            let name = std::str::from_utf8(reader.bytes(bytes as usize)?).map_err(|_| Defect::Length)?;
            directories.push(name.to_owned());
        }
        let sane = layout.shards > 0
            && u64::from(layout.granule) == super::GRANULE
            && !slots.is_empty()
            && slots.iter().all(|&shard| shard < layout.shards)
            && layout.block_bytes >= super::GRANULE as u32
            && u64::from(layout.block_bytes) % super::GRANULE == 0
            && layout.segment_bytes % super::GRANULE == 0
            && layout.segment_bytes >= u64::from(layout.block_bytes);
        if !sane {
            return Err(Defect::Length);
        }
        let map =
            if reader.is_at_end() { SlotMap::new(slots) } else { reader.histories(slots, layout.shards)? };
        reader.finish()?;
        Ok(LogManifest {
            log_id: layout.log_id,
            shards: layout.shards,
            block_bytes: layout.block_bytes,
            segment_bytes: layout.segment_bytes,
            map,
            directories,
        })
    }
}

/// A segment: a file, and the stretch of the stream that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SegmentRow {
    pub base: u64,
    pub bytes: u64,
    /// Names the file.
    pub file: u32,
    pub reserved: u32,
}

impl SegmentRow {
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.base + self.bytes)
    }
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ShardLayout {
    pub log_id: [u8; 16],
    pub shard: u16,
    pub clean: u16,
    pub next_epoch: u32,
    pub next_file: u32,
    pub epochs: u32,
    pub segments: u32,
    pub map_version: u32,
    pub horizon: u64,
    pub checkpoint: u64,
    pub covered: u64,
    pub clean_end: u64,
    pub timestamp: u64,
}

/// What a shard has: its epochs, its segments, and from where recovery must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardManifest {
    pub log_id: [u8; 16],
    pub shard: u16,
    /// Numbers above every one ever used, so that none is used twice.
    pub next_epoch: u32,
    pub next_file: u32,
    /// The last version of the log's map of slots that is known to name this shard; 0 if none is.
    pub map_version: u32,
    /// Below it everything was truncated away.
    pub horizon: Lsn,
    /// P: the end of a block at or below the durable LSN; recovery starts there.
    pub checkpoint: Lsn,
    /// V: the covered LSN when this was written; all below must be there.
    pub covered: Lsn,
    /// Where a clean close left the chain; `None` while the log is open or was not closed.
    pub clean_end: Option<Lsn>,
    /// No record had a time above it when this was written.
    pub timestamp: u64,
    pub epochs: EpochTable,
    /// In the order of the stream.
    pub segments: Vec<SegmentRow>,
}

impl ShardManifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let layout = ShardLayout {
            log_id: self.log_id,
            shard: self.shard,
            clean: u16::from(self.clean_end.is_some()),
            next_epoch: self.next_epoch,
            next_file: self.next_file,
            epochs: self.epochs.rows().len() as u32,
            segments: self.segments.len() as u32,
            map_version: self.map_version,
            horizon: self.horizon.0,
            checkpoint: self.checkpoint.0,
            covered: self.covered.0,
            clean_end: self.clean_end.unwrap_or_default().0,
            timestamp: self.timestamp,
        };
        let mut bytes = bytemuck::bytes_of(&layout).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(self.epochs.rows()));
        bytes.extend_from_slice(bytemuck::cast_slice(&self.segments));
        bytes
    }

    pub(crate) fn decode(body: &[u8]) -> Result<ShardManifest, Defect> {
        let mut reader = Reader(body);
        let layout: ShardLayout = reader.pod()?;
        let rows: Vec<EpochRow> = reader.pods(layout.epochs)?;
        let segments: Vec<SegmentRow> = reader.pods(layout.segments)?;
        reader.finish()?;
        let last = rows.last().ok_or(Defect::Length)?;
        let sane = rows.is_sorted_by(|a, b| a.epoch < b.epoch && a.start <= b.start)
            && rows.iter().all(|row| row.cut <= row.start && row.start % super::GRANULE == 0)
            && rows.iter().all(|row| row.empty_from < row.epoch.max(1))
            && last.epoch < layout.next_epoch
            && segments.iter().all(|s| s.base.checked_add(s.bytes).is_some() && s.bytes > 0)
            && segments.iter().all(|s| (s.base | s.bytes) % super::GRANULE == 0)
            && segments.is_sorted_by(|a, b| a.base + a.bytes <= b.base)
            && segments.iter().all(|s| s.file < layout.next_file)
            && layout.clean <= 1
            && layout.checkpoint <= layout.covered
            && layout.checkpoint % super::GRANULE == 0
            && layout.checkpoint >= last.start;
        if !sane {
            return Err(Defect::Length);
        }
        Ok(ShardManifest {
            log_id: layout.log_id,
            shard: layout.shard,
            next_epoch: layout.next_epoch,
            next_file: layout.next_file,
            map_version: layout.map_version,
            horizon: Lsn(layout.horizon),
            checkpoint: Lsn(layout.checkpoint),
            covered: Lsn(layout.covered),
            clean_end: (layout.clean == 1).then_some(Lsn(layout.clean_end)),
            timestamp: layout.timestamp,
            epochs: EpochTable::of(rows),
            segments,
        })
    }

    /// Whether a shard of this log was made, and nothing has happened to it since.
    pub(crate) fn is_new(&self, log_id: &[u8; 16]) -> bool {
        self.log_id == *log_id && self.next_epoch == 2 && self.segments.is_empty() && self.covered == Lsn::MIN
    }

    /// The body, unless it could not be read again: what is written over a manifest must be one.
    pub(crate) fn checked(&self) -> Result<Vec<u8>, Defect> {
        let body = self.encode();
        match ShardManifest::decode(&body) {
            Ok(again) if again == *self => Ok(body),
            Ok(_) => Err(Defect::Length),
            Err(defect) => Err(defect),
        }
    }

    /// The identity of the blocks of one epoch.
    pub(crate) fn identity(&self, row: &EpochRow) -> Identity {
        Identity { log_id: self.log_id, shard: self.shard, epoch: row.epoch, nonce: row.nonce }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slot::{SlotKind, decode_slot, encode_slot};
    use super::*;

    fn row(epoch: u32, start: u64, cut: u64) -> EpochRow {
        EpochRow { epoch, empty_from: 0, nonce: u64::from(epoch), start, cut }
    }

    fn shard() -> ShardManifest {
        let mut epochs = EpochTable::default();
        epochs.push(row(1, 0, 0));
        epochs.push(row(4, 8192, 5000));
        ShardManifest {
            log_id: [7; 16],
            shard: 2,
            next_epoch: 5,
            next_file: 9,
            map_version: 6,
            horizon: Lsn(17),
            checkpoint: Lsn(8192),
            covered: Lsn(8192),
            clean_end: Some(Lsn(8192)),
            timestamp: 99,
            epochs,
            segments: vec![SegmentRow { base: 0, bytes: 1 << 20, file: 3, reserved: 0 }],
        }
    }

    fn log() -> LogManifest {
        LogManifest {
            log_id: [7; 16],
            shards: 3,
            block_bytes: 8192,
            segment_bytes: 1 << 20,
            map: SlotMap::new(vec![0, 1, 2, 0]),
            directories: vec!["a".into(), "ü".into()],
        }
    }

    #[test]
    fn manifests_come_back() {
        let shard = shard();
        let slot = encode_slot(SlotKind::Shard, 42, &shard.encode());
        let (sequence, body) = decode_slot(SlotKind::Shard, &slot).unwrap();
        assert_eq!((sequence, ShardManifest::decode(body)), (42, Ok(shard)));
        assert_eq!(decode_slot(SlotKind::Log, &slot), Err(Defect::Foreign));

        let log = log();
        assert_eq!(LogManifest::decode(&log.encode()), Ok(log));
    }

    /// Behind an intact checksum: a fault of our own, which must not spread.
    #[test]
    fn impossible_log_manifests_are_defects() {
        let refused = |what: &str, change: fn(&mut LogManifest)| {
            let mut log = log();
            change(&mut log);
            assert_eq!(LogManifest::decode(&log.encode()), Err(Defect::Length), "{what}");
        };
        refused("no shard", |log| (log.shards, log.map) = (0, SlotMap::new(vec![])));
        refused("no slot", |log| log.map.shards.clear());
        refused("a slot of no shard", |log| log.map.shards[2] = 3);
        refused("no block", |log| log.block_bytes = 0);
        refused("half a block", |log| log.block_bytes = 2048);
        refused("a block and a half", |log| log.block_bytes = 8192 + 2048);
        refused("an uneven segment", |log| log.segment_bytes += 512);
        refused("a segment below a block", |log| log.segment_bytes = 4096);
        let mut body = log().encode();
        let granule = std::mem::offset_of!(LogLayout, granule);
        body[granule..granule + 4].copy_from_slice(&512u32.to_le_bytes());
        assert_eq!(LogManifest::decode(&body), Err(Defect::Length));
        let mut fits = log();
        fits.segment_bytes = u64::from(fits.block_bytes);
        assert_eq!(LogManifest::decode(&fits.encode()), Ok(fits));
        let mut least = log();
        least.block_bytes = super::super::GRANULE as u32;
        assert_eq!(LogManifest::decode(&least.encode()), Ok(least));
    }

    #[test]
    fn impossible_shard_manifests_are_defects() {
        let two = |manifest: &mut ShardManifest| {
            let next = SegmentRow { base: 1 << 20, bytes: 8192, file: 4, reserved: 0 };
            manifest.segments.push(next);
        };
        let refused = |what: &str, change: fn(&mut ShardManifest)| {
            let mut shard = shard();
            two(&mut shard);
            change(&mut shard);
            assert_eq!(ShardManifest::decode(&shard.encode()), Err(Defect::Length), "{what}");
        };
        refused("no epoch", |shard| shard.epochs.rows.clear());
        refused("an epoch twice", |shard| shard.epochs.rows[0].epoch = 4);
        refused("epochs that start in another order", |shard| shard.epochs.rows[0].start = 12288);
        refused("an epoch that starts below its cut", |shard| shard.epochs.rows[1].cut = 8193);
        refused("an epoch that starts within a granule", |shard| {
            shard.epochs.rows[0] = row(1, 512, 0);
        });
        refused("an epoch that will be used again", |shard| shard.next_epoch = 4);
        refused("an empty segment", |shard| shard.segments[1].bytes = 0);
        refused("a segment beyond all LSNs", |shard| shard.segments[1].base = u64::MAX - 4095);
        refused("an uneven segment", |shard| shard.segments[1].bytes += 512);
        refused("an uneven place", |shard| shard.segments[1].base += 512);
        refused("both uneven, alike", |shard| {
            shard.segments[1].base += 512;
            shard.segments[1].bytes += 512;
        });
        refused("segments above each other", |shard| shard.segments[1].base -= 4096);
        refused("a file that will be used again", |shard| shard.next_file = 4);
        refused("a checkpoint that is not covered", |shard| shard.covered = Lsn(4096));
        refused("a checkpoint within a granule", |shard| {
            (shard.checkpoint, shard.covered) = (Lsn(8192 + 512), Lsn(12288));
        });
        refused("a checkpoint of an earlier epoch", |shard| shard.checkpoint = Lsn(4096));
        let mut body = shard().encode();
        body[std::mem::offset_of!(ShardLayout, clean)] = 2;
        assert_eq!(ShardManifest::decode(&body), Err(Defect::Length));
        let mut fits = shard();
        two(&mut fits);
        fits.epochs.rows[0].start = 8192;
        assert_eq!(ShardManifest::decode(&fits.encode()), Ok(fits));
    }

    #[test]
    fn truncated_bodies_are_defects() {
        let body = shard().encode();
        for length in 0..body.len() {
            assert!(ShardManifest::decode(&body[..length]).is_err());
        }
        let longer = [&body[..], &[0]].concat();
        assert_eq!(ShardManifest::decode(&longer), Err(Defect::Length));
    }
}
