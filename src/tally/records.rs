//! A flush as records, on their way to the log.

use std::sync::Arc;

use super::Limits;
use super::fold::Fold;
use super::ledger::Taken;
use super::totals::Changes;
use crate::position::{Lsn, Position};

/// What a flush writes, and how much of it is written.
#[derive(Debug)]
pub(super) struct Flush<F: Fold> {
    pub taken: Arc<Taken<F>>,
    pub changes: Arc<Changes<F>>,
    records: Vec<Vec<u8>>,
    /// So many of them are in the log, and durable.
    pub written: usize,
    /// Where the first of them stands.
    pub first: Option<Lsn>,
    pub begins_round: bool,
    /// There was no room for it before, which was told.
    pub has_waited: bool,
}

impl<F: Fold> Flush<F> {
    pub(super) fn new(
        taken: Arc<Taken<F>>,
        changes: Arc<Changes<F>>,
        records: Vec<Vec<u8>>,
        begins_round: bool,
    ) -> Flush<F> {
        Flush { taken, changes, records, written: 0, first: None, begins_round, has_waited: false }
    }

    /// What is to be written next: mostly all, in one batch. They are more if a user's fold writes more than it said.
    pub(super) fn next_batch(&self, limits: &Limits, key_bytes: usize) -> Option<Vec<&[u8]>> {
        let mut bytes = 0;
        let rest = &self.records[self.written..];
        let fits = rest.iter().take_while(|record| {
            bytes += record.len() + limits.overhead_bytes + key_bytes;
            bytes <= limits.batch_bytes
        });
        let count = fits.count().max(1);
        (!rest.is_empty()).then(|| rest[..count].iter().map(Vec::as_slice).collect())
    }

    /// A batch is in the log; tells where it ends.
    pub(super) fn has_written(&mut self, positions: &[Position]) -> Option<Lsn> {
        self.written += positions.len();
        self.first = self.first.or(positions.first().map(|position| position.lsn()));
        positions.last().map(|position| Lsn(position.lsn().0 + 1))
    }
}
