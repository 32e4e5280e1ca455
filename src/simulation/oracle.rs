//! The oracle of one shard. It imports positions and bytes, and knows appends, acknowledgements,
//! truncations and crashes: nothing of blocks, segments or manifests.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::position::{Lsn, Position};

/// A record that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub position: Position,
    pub payload: Vec<u8>,
    /// The batch that it belongs to; records of no batch have numbers of their own.
    pub batch: u64,
    /// So many records were durable when this one was handed in: what makes it durable says so.
    pub durable_before: usize,
}

impl Accepted {
    pub(super) fn new(position: Position, payload: Vec<u8>, batch: u64) -> Accepted {
        Accepted { position, payload, batch, durable_before: 0 }
    }
}

/// How the machine or the log ended before a reopen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Closed without an error: everything accepted is there.
    Cleanly,
    /// The process was killed: what was written is there.
    Killed,
    /// The power was cut, or a sync had failed: what was durable is there.
    Cut,
}

/// What one shard must hold, known from appends and acknowledgements alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Oracle {
    /// What the log must hold a prefix of, in order.
    accepted: Vec<Accepted>,
    /// So many of them were acknowledged, or served, as durable.
    durable: usize,
    /// So many of them were acknowledged as written.
    written: usize,
    /// So many of them are testified: a record that was handed in when they were durable is durable,
    /// or an epoch began behind them, or the log was closed. To lose one of these is never silent.
    testified: usize,
    /// Truncated below it for certain, and perhaps below one of these.
    horizon: Lsn,
    horizons_asked: Vec<Lsn>,
    /// A batch that may follow what was accepted: its outcome is not known.
    unknown: Vec<(Vec<u8>, u64)>,
    /// A cut behind so many records was asked for, and its outcome is not known.
    cut_asked: Option<usize>,
    /// Whole on disk perhaps, and no part of the log: truncated, or cut off, but by a crash.
    given_up: BTreeMap<Position, Vec<u8>>,
    /// Lost in a crash, unacknowledged.
    lost: BTreeMap<Position, Vec<u8>>,
}

impl Oracle {
    pub(super) fn accept(&mut self, records: impl IntoIterator<Item = Accepted>) {
        for mut record in records {
            record.durable_before = self.durable;
            if let Some(last) = self.accepted.last() {
                assert!(record.position > last.position, "positions rise: {record:?} after {last:?}");
            }
            self.accepted.push(record);
        }
    }

    /// The shard failed while this batch was waited for: its positions are not known, and it may be
    /// there as the last thing of the shard.
    pub(super) fn accept_unknown(&mut self, payloads: Vec<Vec<u8>>, batch: u64) {
        self.unknown = payloads.into_iter().map(|payload| (payload, batch)).collect();
    }

    fn count_through(&self, position: Position) -> usize {
        self.accepted.iter().rposition(|record| record.position == position).expect("it was accepted") + 1
    }

    /// The record was acknowledged as durable. Durability is a prefix, and batches are whole.
    pub(super) fn acknowledged_durable(&mut self, position: Position) {
        self.durable_through(self.count_through(position));
    }

    fn durable_through(&mut self, count: usize) {
        self.durable = self.durable.max(count);
        self.written = self.written.max(self.durable);
        if let Some(record) = count.checked_sub(1).map(|index| &self.accepted[index]) {
            self.testified = self.testified.max(record.durable_before);
        }
    }

    pub(super) fn acknowledged_written(&mut self, position: Position) {
        self.written = self.written.max(self.count_through(position));
    }

    /// This record was served as durable.
    pub(super) fn served(&mut self, position: Position, payload: &[u8]) {
        let index = self.accepted.binary_search_by_key(&position, |record| record.position);
        let index = index.unwrap_or_else(|_| panic!("{position} was served, and never accepted, or was cut"));
        assert!(self.accepted[index].payload == payload, "{position} was served with other bytes");
        self.durable_through(index + 1);
    }

    /// Everything below this LSN was published as durable: batches as a whole.
    pub(super) fn published(&mut self, durable: Lsn) {
        let count = self.accepted.iter().take_while(|record| record.position.lsn() < durable).count();
        if let (Some(last), Some(next)) = (self.accepted[..count].last(), self.accepted.get(count)) {
            assert!(last.batch != next.batch, "part of a batch is below the durable LSN {durable}");
        }
        self.durable_through(count);
    }

    pub(super) fn truncate_before_asked(&mut self, lsn: Lsn) {
        self.horizons_asked.push(lsn);
    }

    pub(super) fn truncated_before(&mut self, lsn: Lsn) {
        self.horizon = self.horizon.max(lsn);
        self.horizons_asked.retain(|&asked| asked > lsn);
    }

    pub(super) fn truncate_after_asked(&mut self, position: Position) {
        self.cut_asked = Some(self.count_through(position));
    }

    /// The cut was refused: nothing changed.
    pub(super) fn truncate_after_refused(&mut self) {
        self.cut_asked = None;
    }

    pub(super) fn truncated_after(&mut self) {
        let count = self.cut_asked.take().expect("it was asked for");
        self.give_up(count..self.accepted.len());
        self.accepted.truncate(count);
        // A cut syncs what it keeps.
        self.durable = count;
        self.written = count;
        self.testified = count;
    }

    fn give_up(&mut self, records: Range<usize>) {
        let gone = self.accepted[records].iter().map(|own| (own.position, own.payload.clone()));
        self.given_up.extend(gone);
    }

    pub(super) fn accepted(&self) -> &[Accepted] {
        &self.accepted
    }

    /// Nothing at or above it was truncated, nor may have been.
    pub(super) fn truncated(&self) -> Lsn {
        self.horizons_asked.iter().copied().fold(self.horizon, Lsn::max)
    }

    /// How many records a horizon may hide.
    pub(super) fn hidden(&self) -> usize {
        self.visible(self.truncated())
    }

    /// Records that readers can still reach.
    fn visible(&self, horizon: Lsn) -> usize {
        self.accepted.iter().take_while(|record| record.position.lsn() < horizon).count()
    }

    /// Compares what a reader of an open log found, from the horizon on.
    pub(super) fn check_served(&mut self, served: &[Accepted]) {
        let first = self.visible(self.horizon);
        let all = &self.accepted[first..];
        assert!(served.len() <= all.len(), "{} records served of {}", served.len(), all.len());
        assert_same(served, &all[..served.len()]);
        assert!(
            first + served.len() >= self.durable,
            "served {} of {} durable",
            first + served.len(),
            self.durable
        );
        self.durable_through(first + served.len());
    }

    /// Judges what is there after the disk was damaged: what is served is what was appended, and
    /// what is missing was told, unless nothing testified to it. Returns how many were lost unsaid.
    pub(super) fn check_damaged(&self, found: &[Accepted], told: bool) -> usize {
        let mut next = 0;
        for record in found {
            let Some(index) = self.accepted[next..].iter().position(|own| own.position == record.position)
            else {
                // A batch of unknown outcome may stand at the end.
                let known = self.unknown.iter().any(|(payload, _)| *payload == record.payload);
                assert!(known, "{record:?} was never accepted, or was cut, or comes twice");
                continue;
            };
            assert_eq!(self.accepted[next + index].payload, record.payload, "at {}", record.position);
            next += index + 1;
        }
        let horizon = self.horizons_asked.iter().copied().fold(self.horizon, Lsn::max);
        let is_there = |own: &Accepted| found.iter().any(|record| record.position == own.position);
        let reachable = self.accepted.iter().enumerate().filter(|(_, own)| own.position.lsn() >= horizon);
        let missing: Vec<usize> =
            reachable.filter(|(_, own)| !is_there(own)).map(|(index, _)| index).collect();
        // A cut that was asked for, and whose outcome is not known, may have taken them.
        let testified = self.cut_asked.map_or(self.testified, |cut| self.testified.min(cut));
        let silent = missing.iter().filter(|&&index| index < testified).count();
        assert!(told || silent == 0, "{silent} testified records are gone and nobody said so");
        if told { 0 } else { missing.iter().filter(|&&index| index < self.durable).count() }
    }

    /// Judges what is there after an older manifest was put back. What had been truncated or cut off may be back; of
    /// what was acknowledged as durable nothing is missing, unless that was told.
    pub(super) fn check_put_back(&self, found: &[Accepted], told: bool) {
        for record in found {
            let own = self.accepted.iter().find(|own| own.position == record.position);
            let own = own.map(|own| &own.payload).or_else(|| self.given_up.get(&record.position));
            let own = own.or_else(|| self.lost.get(&record.position));
            let known = own.map_or_else(
                || self.unknown.iter().any(|(payload, _)| *payload == record.payload),
                |payload| *payload == record.payload,
            );
            assert!(known, "{record:?} was never accepted there");
        }
        assert!(found.windows(2).all(|pair| pair[0].position < pair[1].position), "out of order");
        let durable = self.cut_asked.map_or(self.durable, |cut| self.durable.min(cut));
        let needed = self.accepted[self.hidden().min(durable)..durable].iter();
        let missing =
            needed.filter(|own| !found.iter().any(|record| record.position == own.position)).count();
        assert!(told || missing == 0, "{missing} acknowledged records are gone and nobody said so");
    }

    /// Judges what is there after the manifest was lost in both copies and rebuilt: all that a reopen would have found,
    /// and beside it nothing but what had been given up. Returns how many of these came back.
    ///
    /// Damage is told where the log had been truncated, or behind all that was acknowledged: there what follows a hole
    /// may come back, which nobody can tell from what follows truncated segments.
    pub(super) fn check_rebuilt(&self, found: &[Accepted], damage: &[Range<Lsn>], ended: Ended) -> u64 {
        let needed = self.needed(ended);
        let acknowledged = self.accepted[..needed].last().map_or(Lsn::MIN, |record| record.position.lsn());
        for damage in damage {
            let excused = damage.end <= self.truncated() || damage.start > acknowledged;
            assert!(excused, "damage at {damage:?}, in what was acknowledged up to {acknowledged}");
        }
        let first = self.hidden();
        let (mut next, mut back, mut last, mut torn) = (first, 0, None, false);
        // What was lost stands in the place of all that was accepted behind it.
        let mut is_over = false;
        let unknown: Vec<_> = self.unknown.iter().map(|(payload, _)| payload).collect();
        for (index, record) in found.iter().enumerate() {
            let lsn = record.position.lsn();
            assert!(last < Some(lsn), "{record:?} comes out of order");
            let before = last.replace(lsn).unwrap_or_default();
            let same = |own: &Accepted| own.position == record.position;
            let own = self.accepted.iter().position(same);
            // Behind a hole that is told.
            let is_behind = damage.iter().any(|damage| before <= damage.start && damage.end <= lsn);
            let payload = if let Some(own) = own.filter(|&own| own == next || own > next && is_behind) {
                torn |= own > next;
                assert!(!is_over || is_behind, "{record:?} stands behind what was lost");
                assert!(!torn || next >= needed, "{record:?} stands behind what is missing");
                next = own + 1;
                &self.accepted[own].payload
            } else if let Some(own) = own.filter(|&own| own < first) {
                back += 1;
                &self.accepted[own].payload
            } else if let Some(payload) = self.given_up.get(&record.position) {
                back += 1;
                payload
            } else if let Some(payload) = self.lost.get(&record.position).filter(|_| {
                // Behind a hole that is told. Or behind all that was acknowledged: a write that was torn and cut off may be
                // made whole again by what a later epoch wrote over it and lost, in an earlier life or in this one. Only
                // the manifest knew of that one. Or in what had been truncated, as the last thing in front of a hole that
                // is told: there the epoch stood that had cut it off, in a file that is gone.
                let is_last = |hole: &Range<Lsn>| {
                    let mut up_to = found[index..].iter().take_while(|own| own.position.lsn() < hole.start);
                    lsn < hole.start && up_to.all(|own| self.lost.contains_key(&own.position))
                };
                let is_told = damage.iter().any(|hole| {
                    let is_behind = hole.start > acknowledged && hole.end <= lsn;
                    is_behind || hole.end <= self.truncated() && is_last(hole)
                });
                is_over |= !is_told;
                is_told || next >= needed
            }) {
                payload
            } else {
                // A batch of unknown outcome may be the last thing there.
                let rest: Vec<_> = found[index..].iter().map(|record| &record.payload).collect();
                assert!(next == self.accepted.len() && rest == unknown, "{record:?} has no place here");
                break;
            };
            assert_eq!(*payload, record.payload, "at {}", record.position);
        }
        assert!(next >= needed, "{next} records left, {needed} acknowledged ({ended:?})");
        if let (Some(last), Some(after)) = (self.accepted[first..next].last(), self.accepted.get(next)) {
            assert!(torn || last.batch != after.batch, "a batch was torn behind record {next}");
        }
        back
    }

    /// So many records must be there after such an end.
    fn needed(&self, ended: Ended) -> usize {
        match ended {
            Ended::Cleanly => self.accepted.len(),
            Ended::Killed => self.written,
            Ended::Cut => self.durable,
        }
    }

    /// Judges what is there after a reopen, and takes it as what is there.
    pub(super) fn check_reopened(&mut self, found: &[Accepted], ended: Ended) {
        let unknown = std::mem::take(&mut self.unknown);
        let tail = found.len().checked_sub(unknown.len()).map_or(&[][..], |from| &found[from..]);
        let payloads = unknown.iter().map(|(payload, _)| payload);
        if !unknown.is_empty() && tail.iter().map(|record| &record.payload).eq(payloads) {
            let batch = unknown[0].1;
            self.accept(tail.iter().map(|record| Accepted { batch, ..record.clone() }));
        }
        let first = match found.first() {
            Some(record) => {
                let index = self.accepted.iter().position(|accepted| accepted.position == record.position);
                index.unwrap_or_else(|| panic!("{record:?} was never accepted, or was cut"))
            }
            None => self.accepted.len(),
        };
        let horizons = [self.horizon].into_iter().chain(self.horizons_asked.iter().copied());
        let horizons = horizons.filter(|&horizon| horizon >= self.horizon);
        let allowed: Vec<(usize, Lsn)> = horizons.map(|horizon| (self.visible(horizon), horizon)).collect();
        if !found.is_empty() {
            let known = allowed.iter().any(|(visible, _)| *visible == first);
            assert!(known, "the log begins at record {first}, not at one of {allowed:?}");
        }
        // If there is nothing, the horizon hides all that is kept, and what it hides does not matter.
        let hidden = allowed.iter().map(|(visible, _)| *visible).max().unwrap_or(0);
        let kept = if found.is_empty() { hidden } else { first + found.len() };
        assert!(kept <= self.accepted.len(), "{kept} records found, {} accepted", self.accepted.len());
        if !found.is_empty() {
            assert_same(found, &self.accepted[first..kept]);
        }
        let needed = self.needed(ended);
        let cut = self.cut_asked.take();
        let was_cut = cut.is_some_and(|count| kept <= count);
        let needed = cut.filter(|_| was_cut).map_or(needed, |count| needed.min(count));
        assert!(kept >= needed, "{kept} records left, {needed} acknowledged ({ended:?})");
        if let (Some(last), Some(next)) = (self.accepted[..kept].last(), self.accepted.get(kept)) {
            // Where nothing is found, a horizon that was asked for may stand within a batch, and hides what is kept.
            let whole = found.is_empty() || last.batch != next.batch;
            assert!(was_cut || whole, "a batch was torn behind record {kept}");
        }
        if let Some(count) = cut.filter(|_| was_cut) {
            self.give_up(count..self.accepted.len());
        }
        let lost = self.accepted[kept..].iter().map(|own| (own.position, own.payload.clone()));
        self.lost.extend(lost);
        if found.is_empty() {
            self.give_up(0..kept);
        }
        let kept = if found.is_empty() { 0 } else { kept };
        self.accepted.truncate(kept);
        self.durable = kept;
        self.written = kept;
        self.testified = kept;
        if !found.is_empty() {
            // What was asked for and did not come about is settled now.
            let settled = allowed.iter().find(|(visible, _)| *visible == first);
            self.horizon = settled.map_or(self.horizon, |(_, horizon)| *horizon);
            self.horizons_asked.clear();
        }
    }
}

fn assert_same(found: &[Accepted], expected: &[Accepted]) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.position, expected.position, "record {index} stands elsewhere");
        assert_eq!(found.payload, expected.payload, "record {index} at {} has other bytes", found.position);
    }
    assert_eq!(found.len(), expected.len());
}
