//! The map of slots, as the log's manifest has it: which shard has each slot, and which had it before.

use std::collections::BTreeMap;

use bytemuck::{Pod, Zeroable};

use super::{Defect, EpochTable};
use crate::position::{Lsn, Position, ShardId};

/// Most stretches of one slot. They are all asked for each reader by key, and written with each move.
pub(crate) const HISTORY_MAX: usize = 8;

/// A place in a shard: compared by the epoch first, since an LSN may be given once more in a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShardPlace {
    pub epoch: u32,
    pub lsn: Lsn,
}

/// One shard's turn at a slot: of the slot it has what lies from `from` up to `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The version of the map that began it; 0 of the first one.
    pub version: u32,
    pub shard: ShardId,
    pub from: ShardPlace,
    /// `None` for the one that goes on.
    pub until: Option<ShardPlace>,
}

impl ShardPlace {
    /// The first LSN that lies at this place or after it, as the shard's epochs are now: a later epoch may have begun
    /// below. [`Lsn::MAX`] if its epoch lies above all that the shard has.
    pub(crate) fn within(self, epochs: &EpochTable) -> Lsn {
        let rows = epochs.rows();
        let index = rows.partition_point(|row| row.epoch < self.epoch);
        match rows.get(index) {
            None => Lsn::MAX,
            Some(row) if row.epoch > self.epoch => Lsn(row.start),
            Some(row) => {
                let next = rows.get(index + 1).map_or(Lsn::MAX, |row| Lsn(row.start));
                self.lsn.max(Lsn(row.start)).min(next)
            }
        }
    }
}

impl Stretch {
    /// Whether a position lies in it.
    pub(crate) fn has(&self, position: Position) -> bool {
        let place = ShardPlace { epoch: position.epoch(), lsn: position.lsn() };
        position.shard() == self.shard && place >= self.from && self.until.is_none_or(|until| place < until)
    }
}

/// Which shard has each slot, and which had it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotMap {
    /// 0 as the log was made; one more with each change.
    pub version: u32,
    /// Drawn with each change: two maps are the same if both are.
    pub nonce: u64,
    /// Slot to shard.
    pub shards: Vec<u16>,
    /// The stretches of those slots that were ever moved and whose former shards still have some of them, the oldest
    /// first.
    pub histories: BTreeMap<u32, Vec<Stretch>>,
}

/// In front of the rows of the histories. It is left out of a log in which no slot was ever moved.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MapLayout {
    pub version: u32,
    pub stretches: u32,
    pub nonce: u64,
}

/// A [`Stretch`] of a slot.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct StretchRow {
    pub slot: u32,
    pub shard: u16,
    /// 1: it has no end.
    pub goes_on: u16,
    pub version: u32,
    pub from_epoch: u32,
    pub from: u64,
    pub until: u64,
    pub until_epoch: u32,
    pub reserved: u32,
}

impl StretchRow {
    fn of(slot: u32, stretch: &Stretch) -> StretchRow {
        let until = stretch.until.unwrap_or_default();
        StretchRow {
            slot,
            shard: stretch.shard.0,
            goes_on: u16::from(stretch.until.is_none()),
            version: stretch.version,
            from_epoch: stretch.from.epoch,
            from: stretch.from.lsn.0,
            until: until.lsn.0,
            until_epoch: until.epoch,
            reserved: 0,
        }
    }

    fn stretch(&self) -> Stretch {
        let until = ShardPlace { epoch: self.until_epoch, lsn: Lsn(self.until) };
        Stretch {
            version: self.version,
            shard: ShardId(self.shard),
            from: ShardPlace { epoch: self.from_epoch, lsn: Lsn(self.from) },
            until: (self.goes_on == 0).then_some(until),
        }
    }
}

impl SlotMap {
    /// As a log is made.
    pub(crate) fn new(shards: Vec<u16>) -> SlotMap {
        SlotMap { version: 0, nonce: 0, shards, histories: BTreeMap::new() }
    }

    /// What stands behind the log's directories.
    pub(super) fn encode_histories(&self) -> Vec<u8> {
        if self.version == 0 {
            return Vec::new();
        }
        let rows = self
            .histories
            .iter()
            .flat_map(|(slot, stretches)| stretches.iter().map(|stretch| StretchRow::of(*slot, stretch)));
        let rows: Vec<StretchRow> = rows.collect();
        let layout = MapLayout { version: self.version, stretches: rows.len() as u32, nonce: self.nonce };
        let mut bytes = bytemuck::bytes_of(&layout).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(&rows));
        bytes
    }

    /// The map with these histories, for a log with so many shards.
    pub(super) fn with_histories(
        shards: Vec<u16>,
        layout: &MapLayout,
        rows: &[StretchRow],
    ) -> Result<SlotMap, Defect> {
        let mut map = SlotMap { version: layout.version, nonce: layout.nonce, ..SlotMap::new(shards) };
        for row in rows {
            map.histories.entry(row.slot).or_default().push(row.stretch());
        }
        let in_order = rows.is_sorted_by(|a, b| (a.slot, a.version) < (b.slot, b.version));
        let sane = layout.version > 0
            && in_order
            && rows.iter().all(|row| row.goes_on <= 1 && row.version <= layout.version && row.reserved == 0)
            && map.histories.iter().all(|(slot, stretches)| map.is_history(*slot, stretches));
        if sane { Ok(map) } else { Err(Defect::Length) }
    }

    /// Whether these can be the stretches of a slot: each begun by a later version, none ends before it begins, and the last
    /// one, which alone goes on, is the slot's shard.
    fn is_history(&self, slot: u32, stretches: &[Stretch]) -> bool {
        let Some((last, before)) = stretches.split_last() else { return false };
        let is_ended = |stretch: &Stretch| stretch.until.is_some_and(|until| stretch.from <= until);
        stretches.len() <= HISTORY_MAX
            && self.shards.get(slot as usize) == Some(&last.shard.0)
            && last.until.is_none()
            && before.iter().all(is_ended)
    }
}

#[cfg(test)]
mod tests {
    use super::super::EpochRow;
    use super::*;

    fn place(epoch: u32, lsn: u64) -> ShardPlace {
        ShardPlace { epoch, lsn: Lsn(lsn) }
    }

    /// Against each LSN's owner: what lies at a place or behind it, and nothing in front of it.
    #[test]
    fn a_place_is_found_whatever_was_cut() {
        let row = |epoch, start, cut| EpochRow { epoch, empty_from: 0, nonce: 0, start, cut };
        let histories: [&[EpochRow]; 5] = [
            &[row(1, 0, 0)],
            &[row(1, 0, 0), row(3, 8, 5)],
            &[row(1, 0, 0), row(3, 8, 5), row(4, 12, 12)],
            &[row(1, 0, 0), row(2, 8, 8), row(5, 8, 3)],
            &[row(1, 0, 0), row(2, 4, 4), row(5, 12, 9), row(6, 16, 6)],
        ];
        for rows in histories {
            let mut epochs = EpochTable::default();
            rows.iter().for_each(|row| epochs.push(*row));
            for (epoch, lsn) in (0..8).flat_map(|epoch| (0..20).map(move |lsn| (epoch, lsn))) {
                let asked = place(epoch, lsn);
                let found = asked.within(&epochs);
                for lsn in 0..24 {
                    let Some((owner, _)) = epochs.owner(Lsn(lsn)) else { continue };
                    let is_behind = place(owner.epoch, lsn) >= asked;
                    assert_eq!(Lsn(lsn) >= found, is_behind, "{rows:?}: {lsn} and {asked:?}");
                }
            }
        }
    }
}
