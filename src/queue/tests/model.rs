//! What a queue is, as plainly as it can be said: a map of all records, each looked at whenever anything happens.

use std::collections::BTreeMap;

use crate::position::Position;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Unread,
    Waiting { due: u64 },
    InHand { until: u64 },
    Done,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub place: Place,
    pub attempts: u32,
    /// Who had it last, by a number that is never used again.
    pub holder: u64,
}

/// See the module. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub lease: u64,
    pub attempts: u32,
    pub in_hand: usize,
    pub waiting: usize,
    /// In the order in which they are read.
    pub records: Vec<Position>,
    pub known: BTreeMap<Position, Known>,
    next_holder: u64,
}

impl Model {
    pub(super) fn new(lease: u64, attempts: u32, in_hand: usize, waiting: usize) -> Model {
        let (records, known) = (Vec::new(), BTreeMap::new());
        Model { lease, attempts, in_hand, waiting, records, known, next_holder: 1 }
    }

    pub(super) fn append(&mut self, position: Position) {
        self.records.push(position);
        self.known.insert(position, Known { place: Place::Unread, attempts: 0, holder: 0 });
    }

    pub(super) fn count(&self, is: impl Fn(Place) -> bool) -> usize {
        self.known.values().filter(|known| is(known.place)).count()
    }

    fn failed(&self, known: Known, due: u64) -> Known {
        let place = if known.attempts < self.attempts { Place::Waiting { due } } else { Place::Dead };
        Known { place, ..known }
    }

    fn expire(&mut self, now: u64) {
        for (position, known) in self.known.clone() {
            if let Place::InHand { until } = known.place {
                if until <= now {
                    let failed = self.failed(known, until);
                    self.known.insert(position, failed);
                }
            }
        }
    }

    /// The record that is handed out now, its attempt and its holder.
    pub(super) fn take(&mut self, now: u64) -> Option<(Position, u32, u64)> {
        self.expire(now);
        if self.count(|place| matches!(place, Place::InHand { .. })) >= self.in_hand {
            return None;
        }
        let due = self.known.iter().filter_map(|(position, known)| match known.place {
            Place::Waiting { due } if due <= now => Some((due, *position)),
            _ => None,
        });
        let again = due.min().map(|(_, position)| position);
        let may_read = self.count(|place| matches!(place, Place::Waiting { .. })) < self.waiting;
        let unread =
            self.records.iter().copied().find(|position| self.known[position].place == Place::Unread);
        let position = again.or(unread.filter(|_| may_read))?;
        let (attempts, holder) = (self.known[&position].attempts + 1, self.next_holder);
        self.next_holder += 1;
        let place = Place::InHand { until: now + self.lease };
        self.known.insert(position, Known { place, attempts, holder });
        Some((position, attempts, holder))
    }

    /// Whether what somebody does with a record counts.
    fn holds(&self, position: Position, holder: u64) -> Option<Known> {
        let known = self.known[&position];
        let is_open = matches!(known.place, Place::InHand { .. } | Place::Waiting { .. });
        (is_open && known.holder == holder).then_some(known)
    }

    fn put(&mut self, position: Position, holder: u64, change: impl FnOnce(&Model, Known) -> Known) -> bool {
        let Some(known) = self.holds(position, holder) else { return false };
        let known = change(self, known);
        self.known.insert(position, known);
        true
    }

    pub(super) fn done(&mut self, position: Position, holder: u64) -> bool {
        self.put(position, holder, |_, known| Known { place: Place::Done, ..known })
    }

    pub(super) fn reject(&mut self, position: Position, holder: u64) -> bool {
        self.put(position, holder, |_, known| Known { place: Place::Dead, ..known })
    }

    pub(super) fn retry(&mut self, position: Position, holder: u64, due: u64) -> bool {
        self.put(position, holder, |model, known| model.failed(known, due))
    }

    pub(super) fn drop(&mut self, position: Position, holder: u64, now: u64) -> bool {
        self.put(position, holder, |model, known| match known.place {
            Place::InHand { .. } => model.failed(known, now),
            _ => known,
        })
    }

    pub(super) fn extend(&mut self, position: Position, holder: u64, until: u64) -> bool {
        self.put(position, holder, |_, known| Known { place: Place::InHand { until }, ..known })
    }

    pub(super) fn requeue(&mut self, position: Position, now: u64) -> bool {
        let is_dead = self.known[&position].place == Place::Dead;
        if is_dead {
            let place = Place::Waiting { due: now };
            self.known.insert(position, Known { place, attempts: 0, holder: 0 });
        }
        is_dead
    }

    /// The process ends, and another goes on from what was `saved` at `then`, of all that was appended since.
    pub(super) fn crash(&mut self, saved: &Model, then: u64, now: u64) {
        for (position, known) in &mut self.known {
            let before = saved.known.get(position).copied();
            *known = before.unwrap_or(Known { place: Place::Unread, attempts: 0, holder: 0 });
            known.holder = 0;
            known.place = match known.place {
                Place::InHand { .. } | Place::Waiting { .. } if known.attempts >= saved.attempts => {
                    Place::Dead
                }
                Place::InHand { .. } => Place::Waiting { due: now },
                Place::Waiting { due } => {
                    Place::Waiting { due: now + due.saturating_sub(then).saturating_sub(now - then) }
                }
                place => place,
            };
        }
        self.next_holder = 1;
    }
}
