//! The epoch table: which epoch owns which LSNs, across every reopen and every cut.

use bytemuck::{Pod, Zeroable};

use crate::position::Lsn;

/// A row of the epoch table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct EpochRow {
    pub epoch: u32,
    pub reserved: u32,
    pub nonce: u64,
    /// Where the epoch's first block stands, or would.
    pub start: u64,
    /// Where what went before was cut.
    pub cut: u64,
}

/// Which epoch owns which LSNs.
///
/// An epoch owns the LSNs from its start to the least cut of any later row. Rows are in the order
/// in which they were made; so are their epochs, and their starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochTable {
    pub(super) rows: Vec<EpochRow>,
}

impl EpochTable {
    /// Adds the row of a new epoch.
    ///
    /// A row that starts at or above the cut owns nothing any more and goes, but its cut stays: it
    /// may lie below the new one, and what it cut off must not come back.
    pub(crate) fn push(&mut self, mut row: EpochRow) {
        assert!(row.start >= row.cut, "an epoch starts at or above the cut");
        if let Some(last) = self.rows.last() {
            assert!(row.epoch > last.epoch, "an epoch's number is never used twice");
        }
        self.rows.retain(|old| {
            let keep = old.start < row.cut;
            if !keep {
                row.cut = row.cut.min(old.cut);
            }
            keep
        });
        self.rows.push(row);
    }

    /// Drops the rows that own nothing at or above `horizon`, but never the last one.
    pub(crate) fn prune(&mut self, horizon: Lsn) {
        let keep = self.ranges().map(|(_, range)| range.end > horizon).collect::<Vec<_>>();
        let last = self.rows.len().saturating_sub(1);
        let mut index = 0;
        self.rows.retain(|_| {
            index += 1;
            index > last || keep[index - 1]
        });
    }

    /// The rows with what each owns, in order. A range may be empty.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (&EpochRow, std::ops::Range<Lsn>)> {
        self.rows.iter().enumerate().map(|(index, row)| {
            let cuts = self.rows[index + 1..].iter().map(|later| later.cut);
            let end = cuts.min().unwrap_or(u64::MAX).max(row.start);
            (row, Lsn(row.start)..Lsn(end))
        })
    }

    /// The row that owns `lsn`, and the end of what it owns.
    pub(crate) fn owner(&self, lsn: Lsn) -> Option<(&EpochRow, Lsn)> {
        self.ranges().find(|(_, range)| range.contains(&lsn)).map(|(row, range)| (row, range.end))
    }

    /// The first place at or above `lsn` that a row owns.
    pub(crate) fn next_owned(&self, lsn: Lsn) -> Option<Lsn> {
        self.ranges()
            .filter(|(_, range)| range.end > lsn && !range.is_empty())
            .map(|(_, range)| range.start.max(lsn))
            .min()
    }

    pub(crate) fn last(&self) -> Option<&EpochRow> {
        self.rows.last()
    }

    pub(crate) fn rows(&self) -> &[EpochRow] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u32, start: u64, cut: u64) -> EpochRow {
        EpochRow { epoch, reserved: 0, nonce: u64::from(epoch), start, cut }
    }

    /// Row 2 of `research/model.md`: a cut below an epoch that stayed empty must survive it.
    #[test]
    fn the_cut_of_a_dropped_row_stays() {
        let mut table = EpochTable::default();
        table.push(row(1, 0, 0));
        table.push(row(2, 8192, 100)); // truncate_after, then nothing was written
        table.push(row(3, 8192, 8192)); // reopened
        let owned: Vec<_> = table.ranges().map(|(row, range)| (row.epoch, range)).collect();
        assert_eq!(owned, [(1, Lsn(0)..Lsn(100)), (3, Lsn(8192)..Lsn(u64::MAX))]);
        assert_eq!(table.owner(Lsn(5000)), None);
        assert_eq!(table.next_owned(Lsn(5000)), Some(Lsn(8192)));
        assert_eq!(table.next_owned(Lsn(99)), Some(Lsn(99)));
    }

    #[test]
    fn pruning_keeps_what_owns_something() {
        let mut table = EpochTable::default();
        table.push(row(1, 0, 0));
        table.push(row(2, 4096, 4096));
        table.push(row(3, 8192, 8192));
        table.prune(Lsn(4095));
        assert_eq!(table.rows().len(), 3);
        table.prune(Lsn(4096));
        assert_eq!(table.rows().iter().map(|row| row.epoch).collect::<Vec<_>>(), [2, 3]);
        table.prune(Lsn(1 << 30));
        assert_eq!(table.rows().len(), 1);
    }
}
