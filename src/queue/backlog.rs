//! What is durable and was not handed out yet, counted beside whoever hands it out.
//!
//! Both count the same records from the same place on: what is left is the difference. So a backlog is read under a lock
//! of its own, and nobody who takes, settles or closes waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::feed::facts;
use crate::error::ReadError;
use crate::position::Lsn;
use crate::read::{Cursor, Step};
use crate::shard::Engine;

/// How many records, and bytes of their keys and payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub records: u64,
    pub bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, bytes: u64) {
        self.records += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn without(self, other: Sum) -> Sum {
        let records = self.records.saturating_sub(other.records);
        Sum { records, bytes: if records == 0 { 0 } else { self.bytes.saturating_sub(other.bytes) } }
    }
}

/// How far a shard was handed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    /// No record below it is left.
    pub next: Lsn,
    /// What was handed out since the queue was opened.
    pub passed: Sum,
}

/// One shard's records, as far as they were counted.
#[derive(Debug)]
pub(super) struct Ahead {
    engine: Arc<Engine>,
    cursor: Option<Cursor>,
    /// What was handed out before the first that was counted, and what was counted with it.
    counted: Sum,
    /// No record from here on was counted.
    end: Lsn,
    truncations: u64,
}

impl Ahead {
    pub(super) fn new(engine: &Arc<Engine>) -> Ahead {
        Ahead { engine: engine.clone(), cursor: None, counted: Sum::default(), end: Lsn::MIN, truncations: 0 }
    }

    /// Counts on from where it was counted to, or from where the shard was handed out to, as far as the log is durable
    /// now: what comes meanwhile is left to the next time.
    pub(super) fn count(&mut self, reached: Reached) {
        self.count_below(self.engine.durable(), reached);
    }

    pub(super) fn count_below(&mut self, limit: Lsn, reached: Reached) {
        let truncations = self.engine.truncations().load(Ordering::SeqCst);
        let is_over = self.left(reached).records == 0 || self.truncations != truncations;
        let mut cursor = match self.cursor.take().filter(|_| !is_over) {
            Some(cursor) => cursor,
            None => {
                (self.counted, self.end, self.truncations) = (reached.passed, reached.next, truncations);
                let Ok(cursor) = Cursor::at_rest(self.engine.clone(), reached.next) else { return };
                cursor
            }
        };
        loop {
            match cursor.next(limit, Lsn::MAX) {
                Step::End => break,
                Step::Record(record) => {
                    self.counted.add(facts(&record).bytes);
                    self.end = Lsn(record.lsn().0 + 1);
                }
                // What is damaged or gone is no record. It is told to whoever takes.
                Step::Error(ReadError::Damaged { .. } | ReadError::Truncated { .. }) => {}
                Step::Error(_) => break,
            }
        }
        cursor.rest();
        self.cursor = Some(cursor);
    }

    /// What was counted and is left, now that the shard was handed out so far.
    pub(super) fn left(&self, reached: Reached) -> Sum {
        if reached.next >= self.end {
            return Sum::default(); // Also where one of the two could not read what the other could.
        }
        self.counted.without(reached.passed)
    }

    /// When the next record was appended.
    pub(super) fn oldest(&self, reached: Reached) -> Option<u64> {
        let mut cursor = Cursor::at_rest(self.engine.clone(), reached.next).ok()?;
        let step = cursor.next(self.engine.durable(), Lsn::MAX);
        cursor.rest();
        match step {
            Step::Record(record) => Some(record.timestamp()),
            _ => None,
        }
    }
}
