//! Lookups by key in an open shard: by its runs, then by what was appended last.

use std::ops::Range;

use super::places::{Hint, KeyOrder, KeyQuery};
use crate::format::WholeKeyHash;
use crate::index::Place;
use crate::position::Lsn;
use crate::shard::Engine;

impl Engine {
    /// At most so many of them; and the stretch that was not told of. Behind what is indexed, places are those of what was
    /// appended last, as far as it is durable. Where neither knows, that is said.
    pub(crate) fn some_key_places(&self, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        match asked.order {
            KeyOrder::Forward => self.first_key_places(asked),
            KeyOrder::Backward => self.last_key_places(asked),
        }
    }

    fn first_key_places(&self, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        let KeyQuery { key, ref stretch, most, .. } = *asked;
        let mut places = self.key_places(key, stretch.clone(), KeyOrder::Forward);
        let mut hints: Vec<Hint> = Iterator::take(places.by_ref(), most).collect();
        let from = places.range.start.clamp(stretch.start, stretch.end);
        if hints.len() == most || from == stretch.end {
            return (hints, from..stretch.end);
        }
        let (recent, known) = self.recently(key, from..stretch.end);
        if known.start > from {
            hints.push(Hint::Unknown { from, to: known.start });
            return (hints, known.start..stretch.end);
        }
        let room = most - hints.len();
        hints.extend(recent.iter().rev().take(room).map(|place| Hint::Place(*place)));
        if let Some(next) = recent.iter().rev().nth(room) {
            return (hints, next.lsn..stretch.end);
        }
        if known.end < stretch.end {
            hints.push(Hint::Unknown { from: known.end, to: stretch.end });
        }
        (hints, stretch.end..stretch.end)
    }

    fn last_key_places(&self, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        let KeyQuery { key, ref stretch, most, .. } = *asked;
        let mut places = self.key_places(key, stretch.clone(), KeyOrder::Backward);
        let reach = if places.range.is_empty() { stretch.start } else { places.range.end };
        let reach = reach.clamp(stretch.start, stretch.end);
        let mut hints = Vec::new();
        if reach < stretch.end {
            let (recent, known) = self.recently(key, reach..stretch.end);
            if known.end < stretch.end {
                return (vec![Hint::Unknown { from: known.end, to: stretch.end }], stretch.start..known.end);
            }
            hints.extend(recent.iter().take(most).map(|place| Hint::Place(*place)));
            if let Some(last) = recent.get(most.saturating_sub(1)) {
                return (hints, stretch.start..last.lsn);
            }
            if known.start > reach {
                hints.push(Hint::Unknown { from: reach, to: known.start });
                return (hints, stretch.start..reach);
            }
        }
        let room = most - hints.len();
        let before = hints.len();
        hints.extend(Iterator::take(places.by_ref(), room));
        let end = if hints.len() - before < room { stretch.start } else { places.range.end };
        (hints, stretch.start..end)
    }

    /// The places of a key in what was appended last, the last one first; and the part of the stretch that they are all of.
    fn recently(&self, key: &[u8], stretch: Range<Lsn>) -> (Vec<Place>, Range<Lsn>) {
        let nothing = || (Vec::new(), stretch.start..stretch.start);
        // The empty key stands for records with an id.
        if !self.indexes() || key.is_empty() {
            return nothing();
        }
        // In this order: what was durable before is among what is closed.
        let durable = self.durable();
        let hash = WholeKeyHash::of(&self.view().log_id, key);
        let Some((places, known)) = self.recent_places(hash, stretch.start) else { return nothing() };
        let known = known.start.max(stretch.start)..known.end.min(durable).min(stretch.end);
        if known.is_empty() {
            return nothing();
        }
        let is_known = |place: &Place| known.contains(&place.lsn);
        (places.into_iter().filter(is_known).collect(), known)
    }
}
