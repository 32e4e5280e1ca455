//! The completed prefix of the stream, and how much of it is covered.

use std::collections::VecDeque;

use super::{Entry, OperationId};
use crate::pool::{Group, Sequence};
use crate::position::Lsn;

/// The LSNs below which something holds, each the end of something written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermarks {
    /// All below is written: a killed process does not lose it.
    pub written: Lsn,
    /// All below is covered; headers testify this one.
    pub covered: Lsn,
    /// The covered LSN, set back to the end of the block in front of a group that is not whole below it: a place
    /// where a block ends and no group is open, so that recovery may start there.
    pub durable: Lsn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    /// Written only.
    No,
    /// By the sync that is in flight.
    Syncing(OperationId),
    Yes,
}

/// Neighbouring blocks of one file in the same state.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    first: Sequence,
    last: Sequence,
    end: Lsn,
    file: u32,
    group: Option<Group>,
    cover: Cover,
}

/// The prefix of the stream that is written, and the watermarks within it.
#[derive(Debug)]
pub(super) struct Prefix {
    marks: Watermarks,
    /// What is written above the covered LSN. A few entries at most: neighbours are merged, and
    /// what needs a sync swallows what follows it in its file.
    stretches: VecDeque<Stretch>,
}

impl Prefix {
    pub(super) fn new(start: Lsn) -> Prefix {
        let marks = Watermarks { written: start, covered: start, durable: start };
        Prefix { marks, stretches: VecDeque::with_capacity(8) }
    }

    /// The next block of the prefix.
    pub(super) fn push(&mut self, entry: &Entry) {
        let block = &entry.block;
        assert!(block.end > self.marks.written);
        self.marks.written = block.end;
        let cover = if entry.covered { Cover::Yes } else { Cover::No };
        match self.stretches.back_mut() {
            // Covered blocks behind an uncovered one wait for its sync anyway, which covers them.
            Some(last) if last.file == block.file && (last.cover == Cover::No || last.cover == cover) => {
                last.last = block.sequence;
                last.end = block.end;
                last.group = block.group;
            }
            _ => self.stretches.push_back(Stretch {
                first: block.sequence,
                last: block.sequence,
                end: block.end,
                file: block.file,
                group: block.group,
                cover,
            }),
        }
        self.advance();
    }

    /// Starts a sync if something at or below `target` needs one; returns the file.
    ///
    /// It covers what is written now and nothing that completes later.
    pub(super) fn start_sync(&mut self, operation: OperationId, target: Sequence) -> Option<u32> {
        let file = self.stretches.iter().find(|stretch| {
            stretch.cover == Cover::No && stretch.first <= target && !self.syncing(stretch.file)
        })?;
        let file = file.file;
        for stretch in self.stretches.iter_mut().filter(|stretch| stretch.file == file) {
            if stretch.cover == Cover::No {
                stretch.cover = Cover::Syncing(operation);
            }
        }
        Some(file)
    }

    fn syncing(&self, file: u32) -> bool {
        self.stretches
            .iter()
            .any(|stretch| stretch.file == file && matches!(stretch.cover, Cover::Syncing(_)))
    }

    pub(super) fn sync_completed(&mut self, operation: OperationId) {
        for stretch in &mut self.stretches {
            if stretch.cover == Cover::Syncing(operation) {
                stretch.cover = Cover::Yes;
            }
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(stretch) = self.stretches.front().filter(|stretch| stretch.cover == Cover::Yes) {
            let marks = &mut self.marks;
            marks.covered = stretch.end;
            marks.durable = marks.durable.max(stretch.group.map_or(stretch.end, |group| group.before));
            self.stretches.pop_front();
        }
    }

    /// Something written above block `target` is not covered and not being synced.
    pub(super) fn uncovered_above(&self, target: Sequence) -> bool {
        self.stretches.iter().any(|stretch| stretch.cover == Cover::No && stretch.last > target)
    }

    #[cfg(test)]
    /// Something at or below block `target` is not covered.
    pub(super) fn wants_sync(&self, target: Sequence) -> bool {
        self.stretches.iter().any(|stretch| stretch.cover != Cover::Yes && stretch.first <= target)
    }

    pub(super) fn is_covered(&self) -> bool {
        self.stretches.is_empty()
    }

    pub(super) fn watermarks(&self) -> Watermarks {
        self.marks
    }

    pub(super) fn check(&self) {
        let Watermarks { written, covered, durable } = self.marks;
        assert!(durable <= covered && covered <= written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Urgency;

    fn entry(sequence: u64, file: u32, covered: bool) -> Entry {
        let (sequence, end) = (Sequence(sequence), Lsn(sequence * 4096));
        let urgency = Urgency::Synced;
        let block =
            super::super::Sealed { sequence, end, bytes: 4096, file, urgency, records: 1, group: None };
        Entry { block, covered, through: block.sequence }
    }

    /// Whatever is written, a few stretches tell of it: neighbours of one file are one.
    #[test]
    fn neighbours_are_merged() {
        let mut prefix = Prefix::new(Lsn(0));
        for sequence in 1..=9 {
            prefix.push(&entry(sequence, 1, sequence % 3 == 0));
        }
        assert_eq!(prefix.stretches.len(), 1, "a covered block waits for the sync of what lies below it");
        for sequence in 10..=19 {
            prefix.push(&entry(sequence, 2, true));
        }
        assert_eq!(prefix.stretches.len(), 2, "covered neighbours in another file");
        prefix.push(&entry(20, 2, false));
        assert_eq!(prefix.stretches.len(), 3, "what is not covered is not taken for covered");
        assert_eq!(prefix.start_sync(OperationId(1), Sequence(9)), Some(1));
        prefix.sync_completed(OperationId(1));
        assert_eq!(prefix.watermarks().covered, Lsn(19 * 4096));
    }

    #[test]
    fn a_file_is_synced_once_at_a_time() {
        let mut prefix = Prefix::new(Lsn(0));
        prefix.push(&entry(1, 1, false));
        assert_eq!(prefix.start_sync(OperationId(1), Sequence(0)), None, "nobody wants it");
        assert_eq!(prefix.start_sync(OperationId(1), Sequence(1)), Some(1));
        prefix.push(&entry(2, 1, false));
        prefix.push(&entry(3, 2, false));
        // The second block waits for a sync of its own, which begins when the first is over.
        assert_eq!(prefix.start_sync(OperationId(2), Sequence(2)), None);
        assert_eq!(prefix.start_sync(OperationId(2), Sequence(3)), Some(2));
        prefix.sync_completed(OperationId(1));
        assert_eq!(prefix.watermarks().covered, Lsn(4096));
        assert_eq!(prefix.start_sync(OperationId(3), Sequence(3)), Some(1));
    }

    #[test]
    fn what_is_above_a_target_is_told() {
        let mut prefix = Prefix::new(Lsn(0));
        assert!(!prefix.uncovered_above(Sequence(0)));
        prefix.push(&entry(1, 1, false));
        prefix.push(&entry(2, 1, false));
        assert!(prefix.uncovered_above(Sequence(1)));
        assert!(!prefix.uncovered_above(Sequence(2)));
        assert_eq!(prefix.start_sync(OperationId(1), Sequence(2)), Some(1));
        assert!(!prefix.uncovered_above(Sequence(0)), "it is being synced");
    }

    #[test]
    #[should_panic(expected = "durable <= covered")]
    fn marks_in_another_order_are_a_fault() {
        let mut prefix = Prefix::new(Lsn(4096));
        prefix.check();
        prefix.marks.durable = Lsn(8192);
        prefix.check();
    }
}
