//! Dead letters: what a queue hands out no more, and why. Their number is bounded: beyond it the oldest goes.
//! On disk: `format/queue.rs`, written by `files.rs`.

use std::collections::BTreeMap;

use super::state::Facts;
use crate::format::DeadRecord;
use crate::position::Position;

/// A reason is cut off behind so many bytes.
const REASON_BYTES_MAX: usize = 200;

/// See the module.
#[derive(Debug)]
pub(super) struct Dead {
    most: usize,
    /// In the order in which they came.
    letters: BTreeMap<u64, DeadRecord>,
    places: BTreeMap<Position, u64>,
    next: u64,
    /// So many have gone since there were too many.
    pub forgotten: u64,
}

/// As much of a reason as is kept.
fn cut(reason: &str) -> String {
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|&end| reason.is_char_boundary(end));
    reason[..end.unwrap_or(0)].to_owned()
}

impl Dead {
    pub(super) fn new(most: usize, forgotten: u64) -> Dead {
        Dead { most, letters: BTreeMap::new(), places: BTreeMap::new(), next: 0, forgotten }
    }

    pub(super) fn add(&mut self, letter: DeadRecord) {
        let letter = DeadRecord { reason: cut(&letter.reason), ..letter };
        let before = self.places.insert(letter.position, self.next);
        assert!(before.is_none(), "a dead letter is not handed out");
        self.letters.insert(self.next, letter);
        self.next += 1;
        while self.letters.len() > self.most {
            let (_, oldest) = self.letters.pop_first().expect("there are some");
            self.places.remove(&oldest.position);
            self.forgotten = self.forgotten.saturating_add(1);
        }
    }

    /// Takes one out, to be handed out again or forgotten.
    pub(super) fn take(&mut self, position: Position) -> Option<Facts> {
        let place = self.places.remove(&position)?;
        let letter = self.letters.remove(&place).expect("it has a place");
        Some(Facts { timestamp: letter.timestamp, bytes: letter.bytes })
    }

    pub(super) fn has(&self, position: Position) -> bool {
        self.places.contains_key(&position)
    }

    /// The oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &DeadRecord> {
        self.letters.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_its_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(""), "");
        let long = "x".repeat(REASON_BYTES_MAX - 1) + "\u{df}\u{df}";
        assert_eq!(cut(&long), "x".repeat(REASON_BYTES_MAX - 1));
        assert_eq!(cut(&"\u{df}".repeat(200)), "\u{df}".repeat(REASON_BYTES_MAX / 2));
    }
}
