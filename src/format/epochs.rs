//! The epoch table: which epoch owns which LSNs, across every reopen and every cut.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::position::Lsn;

/// A row of the epoch table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct EpochRow {
    pub epoch: u32,
    /// From this one on the epochs before this one held nothing, so that there is no position of them; 0 if the last of
    /// them did, or nobody knows.
    pub empty_from: u32,
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
#[derive(Clone, Debug, Default)]
pub(crate) struct EpochTable {
    pub(super) rows: Vec<EpochRow>,
    /// Where what each row owns ends: looked up with every record that is read, among thousands of rows.
    ends: Vec<Lsn>,
}

impl PartialEq for EpochTable {
    fn eq(&self, other: &EpochTable) -> bool {
        self.rows == other.rows // From which the ends follow.
    }
}

impl Eq for EpochTable {}

impl EpochTable {
    /// The table of these rows, each of which starts at or above its cut and its predecessor's start.
    pub(super) fn of(rows: Vec<EpochRow>) -> EpochTable {
        let mut least = u64::MAX;
        let mut ends: Vec<Lsn> = Vec::with_capacity(rows.len());
        for row in rows.iter().rev() {
            ends.push(Lsn(least.max(row.start)));
            least = least.min(row.cut);
        }
        ends.reverse();
        EpochTable { rows, ends }
    }

    /// Adds the row of a new epoch.
    ///
    /// A row that starts at or above the cut owns nothing any more and goes, but its cut stays: it
    /// may lie below the new one, and what it cut off must not come back.
    pub(crate) fn push(&mut self, mut row: EpochRow) {
        assert!(row.start >= row.cut, "an epoch starts at or above the cut");
        if let Some(last) = self.rows.last() {
            assert!(row.epoch > last.epoch, "an epoch's number is never used twice");
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.retain(|old| {
            let keep = old.start < row.cut;
            if !keep {
                row.cut = row.cut.min(old.cut);
            }
            keep
        });
        rows.push(row);
        *self = EpochTable::of(rows);
    }

    /// Drops the rows that own nothing at or above `horizon`, but never the last one.
    pub(crate) fn prune(&mut self, horizon: Lsn) {
        // Each ends where the next one starts, or before.
        let gone = self.ends.partition_point(|end| *end <= horizon);
        let gone = gone.min(self.rows.len().saturating_sub(1));
        self.rows.drain(..gone);
        self.ends.drain(..gone);
    }

    /// The rows with what each owns, in order. A range may be empty.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (&EpochRow, std::ops::Range<Lsn>)> {
        self.rows.iter().zip(&self.ends).map(|(row, end)| (row, Lsn(row.start)..*end))
    }

    /// The row that owns `lsn`, and the end of what it owns.
    pub(crate) fn owner(&self, lsn: Lsn) -> Option<(&EpochRow, Lsn)> {
        // Of those that start at one place only the last can own anything.
        let index = self.rows.partition_point(|row| row.start <= lsn.0).checked_sub(1)?;
        (lsn < self.ends[index]).then(|| (&self.rows[index], self.ends[index]))
    }

    /// The first place at or above `lsn` that a row owns.
    pub(crate) fn next_owned(&self, lsn: Lsn) -> Option<Lsn> {
        let index = self.ends.partition_point(|end| *end <= lsn);
        self.ranges().skip(index).find(|(_, range)| !range.is_empty()).map(|(_, range)| range.start.max(lsn))
    }

    /// From where on it has what `before` had not: an epoch that is none of those, by their numbers and nonces, or more of
    /// one of them. `None` if nothing of what was `known` is new, from the horizon on: an epoch's end only falls where the
    /// log goes on, and of what had been truncated there were no rows any more.
    pub(crate) fn first_unlike(&self, before: &EpochTable, known: Range<Lsn>) -> Option<Lsn> {
        let unlike = || {
            self.ranges().filter_map(|(row, owned)| {
                let same = before.ranges().find(|(old, _)| (old.epoch, old.nonce) == (row.epoch, row.nonce));
                match same {
                    None => Some(owned),
                    Some((_, old)) => (owned.end > old.end).then_some(old.end..owned.end),
                }
            })
        };
        let is_known = |range: Range<Lsn>| range.start < known.end && range.end > known.start;
        let first = unlike().map(|range| range.start).min();
        first.filter(|_| unlike().any(is_known))
    }

    /// Whether an epoch that has no row is known to have held nothing. One that was cut off has none either.
    pub(crate) fn held_nothing(&self, epoch: u32) -> bool {
        let next = self.rows.get(self.rows.partition_point(|row| row.epoch <= epoch));
        let has_row = self.rows.binary_search_by_key(&epoch, |row| row.epoch).is_ok();
        !has_row && next.is_some_and(|next| (1..=epoch).contains(&next.empty_from))
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
        EpochRow { epoch, empty_from: 0, nonce: u64::from(epoch), start, cut }
    }

    /// A manifest that had been written in one copy, and was taken back.
    #[test]
    fn rows_of_what_had_been_truncated_are_nothing_new() {
        let table = |rows: &[EpochRow]| {
            let mut table = EpochTable::default();
            rows.iter().for_each(|row| table.push(*row));
            table
        };
        let rows = [row(1, 0, 0), row(2, 100, 100), row(3, 200, 200)];
        let (all, truncated) = (table(&rows), table(&rows[2..]));
        assert_eq!(all.first_unlike(&truncated, Lsn(200)..Lsn(300)), None);
        assert_eq!(truncated.first_unlike(&all, Lsn(0)..Lsn(300)), None);
        // A copy of before that: it goes on where the epoch after it had begun.
        assert_eq!(table(&rows[..2]).first_unlike(&all, Lsn(0)..Lsn(300)), Some(Lsn(200)));
        assert_eq!(table(&rows[..2]).first_unlike(&truncated, Lsn(200)..Lsn(300)), Some(Lsn(0)));
        // It has gone on in an epoch of its own, behind what was read and in front of that.
        let other = table(&[rows[0], rows[1], rows[2], row(4, 400, 250)]);
        assert_eq!(other.first_unlike(&truncated, Lsn(200)..Lsn(300)), None);
        assert_eq!(other.first_unlike(&all, Lsn(0)..Lsn(300)), None);
        let other = table(&[rows[0], rows[1], row(5, 250, 250)]);
        assert_eq!(other.first_unlike(&all, Lsn(0)..Lsn(300)), Some(Lsn(200)));
    }

    /// A cut below an epoch that stayed empty must survive it.
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

    /// What the definition says of rows, word by word: an epoch owns from its start to the least cut of any later row.
    fn defined(rows: &[EpochRow]) -> Vec<(u32, std::ops::Range<u64>)> {
        let end = |index: usize| rows[index + 1..].iter().map(|later| later.cut).min().unwrap_or(u64::MAX);
        rows.iter()
            .enumerate()
            .map(|(index, row)| (row.epoch, row.start..end(index).max(row.start)))
            .collect()
    }

    #[test]
    fn lookups_say_what_the_definition_says() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % bound
        };
        let (mut dropped, mut unowned) = (0, 0);
        for _ in 0..300 {
            let (mut table, mut top) = (EpochTable::default(), 0);
            for epoch in 1..2 + below(30) as u32 {
                top += below(4) * 10;
                let before = table.rows().len();
                // Mostly where the last one ends, as at an open; now and then far below, as a cut.
                let cut = if below(3) == 0 { below(top + 1) } else { top };
                table.push(row(epoch, top, cut));
                dropped += u32::from(table.rows().len() <= before);
                if below(8) == 0 {
                    table.prune(Lsn(below(top + 1)));
                }
                let defined = defined(table.rows());
                for lsn in (0..top + 15).chain([u64::MAX - 1, u64::MAX]) {
                    let owner = defined.iter().find(|(_, range)| range.contains(&lsn));
                    let expected = owner.map(|(epoch, range)| (*epoch, Lsn(range.end)));
                    let found = table.owner(Lsn(lsn)).map(|(row, end)| (row.epoch, end));
                    assert_eq!(found, expected, "the owner of {lsn} in {table:?}");
                    let ahead = defined.iter().filter(|(_, range)| range.end > lsn && !range.is_empty());
                    let next = ahead.map(|(_, range)| Lsn(range.start.max(lsn))).min();
                    assert_eq!(table.next_owned(Lsn(lsn)), next, "what is owned from {lsn} on in {table:?}");
                    unowned += u32::from(expected.is_none());
                }
            }
        }
        assert!(dropped > 100 && unowned > 100, "{dropped} rows dropped, {unowned} places owned by none");
    }

    /// A lookup is no walk: a hundred thousand rows, as many lookups. By the definition that is 10^10 steps and more.
    #[test]
    fn lookups_among_many_rows_are_searches() {
        let rows =
            (0..100_000).map(|index| row(index + 1, u64::from(index) * 10, u64::from(index) * 10)).collect();
        let table = EpochTable::of(rows);
        for index in 0..100_000 {
            let (row, end) = table.owner(Lsn(index * 10 + 3)).unwrap();
            let expected = if index == 99_999 { u64::MAX } else { index * 10 + 10 };
            assert_eq!((u64::from(row.epoch), end), (index + 1, Lsn(expected)));
        }
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
