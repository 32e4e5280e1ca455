//! The records of a key through the history of its slot: one stretch after the other, each in a shard of its own.

use std::collections::VecDeque;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use super::key::{last_accepted, place_behind, place_of};
#[cfg(test)]
use super::key_range::Found;
use super::key_range::{StretchRange, StretchRangeBack};
use super::{Record, Source};
use crate::error::ReadError;
use crate::format::Stretch;
use crate::position::{Lsn, Position};

/// A stretch of a slot, and the shard in which it lies.
#[derive(Clone, Debug)]
pub(crate) struct KeyStretch {
    pub source: Arc<dyn Source>,
    pub stretch: Stretch,
}

/// Where the records of a key lie: the stretches of its slot, the oldest first. There is one at least.
#[derive(Clone, Debug)]
pub(crate) struct KeyHistory {
    parts: Vec<KeyStretch>,
    /// All shards of the log, where slots were ever moved: the slot may have been in any of them.
    shards: Vec<Arc<dyn Source>>,
}

impl KeyStretch {
    /// Which LSNs of its shard belong to it now.
    pub(crate) fn places(&self) -> Range<Lsn> {
        let view = self.source.view();
        let start = self.stretch.from.within(&view.epochs).max(view.horizon);
        let end = self.stretch.until.map_or(Lsn::MAX, |until| until.within(&view.epochs));
        start..end.max(start)
    }
}

impl KeyHistory {
    /// Of these stretches, `source` giving the shard of each. One whose shard is not there is left out.
    pub(crate) fn new(
        stretches: &[Stretch],
        source: impl Fn(&Stretch) -> Option<Arc<dyn Source>>,
    ) -> KeyHistory {
        let of = |stretch: &Stretch| Some(KeyStretch { source: source(stretch)?, stretch: *stretch });
        KeyHistory { parts: stretches.iter().filter_map(of).collect(), shards: Vec::new() }
    }

    /// Positions in any of these shards may be of a stretch that was truncated away, and forgotten.
    pub(crate) fn among(mut self, shards: impl Iterator<Item = Arc<dyn Source>>) -> KeyHistory {
        self.shards.extend(shards);
        self
    }

    pub(super) fn check_process(&self) -> Result<(), ReadError> {
        self.parts.iter().try_for_each(|part| part.source.check_process())
    }

    /// In which stretch a position lies, and where `place` has it there. What is truncated lies at the beginning.
    fn find(
        &self,
        position: Position,
        place: fn(&dyn Source, Position) -> Result<Lsn, ReadError>,
    ) -> Result<(usize, Lsn), ReadError> {
        if let Some(index) = self.parts.iter().position(|part| part.stretch.has(position)) {
            let part = &self.parts[index];
            let places = part.places();
            return Ok((index, place(part.source.as_ref(), position)?.clamp(places.start, places.end)));
        }
        // Of a stretch that was truncated away, and forgotten.
        let is_gone =
            |shard: &Arc<dyn Source>| shard.id() == position.shard() && position.lsn() < shard.view().horizon;
        match self.parts.iter().map(|part| &part.source).chain(&self.shards).any(is_gone) {
            true => Ok((0, self.parts[0].places().start)),
            false => Err(ReadError::NotAPosition(position)),
        }
    }

    /// The stretches that a range touches, the oldest first, and what it takes of each.
    fn within(
        &self,
        range: &impl RangeBounds<Position>,
    ) -> Result<Vec<(&KeyStretch, Range<Lsn>)>, ReadError> {
        self.check_process()?;
        let (first, start) = match range.start_bound() {
            Bound::Included(position) => self.find(*position, place_of)?,
            Bound::Excluded(position) => self.find(*position, place_behind)?,
            Bound::Unbounded => (0, Lsn::MIN),
        };
        let (last, end) = match range.end_bound() {
            Bound::Included(position) => self.find(*position, place_behind)?,
            Bound::Excluded(position) => self.find(*position, place_of)?,
            Bound::Unbounded => (usize::MAX, Lsn::MAX),
        };
        let parts = self.parts.iter().enumerate().skip(first);
        let parts = parts.take_while(|(index, _)| *index <= last);
        let clipped = parts.map(|(index, part)| {
            let places = part.places();
            let from = if index == first { places.start.max(start) } else { places.start };
            let to = if index == last { places.end.min(end) } else { places.end };
            (part, from..to.max(from))
        });
        Ok(clipped.collect())
    }

    /// From where on a follower reads that has seen this position, or nothing.
    pub(crate) fn resume(&self, behind: Option<Position>) -> Result<(&KeyStretch, Lsn), ReadError> {
        let (index, from) = match behind {
            Some(position) => self.find(position, place_behind)?,
            None => (0, self.parts[0].places().start),
        };
        Ok((&self.parts[index], from))
    }

    /// The last record of a key that was accepted, durable or not.
    pub(crate) fn last(&self, key: &[u8]) -> Result<Option<Position>, ReadError> {
        self.check_process()?;
        if key.is_empty() {
            return Ok(None);
        }
        self.last_below(self.parts.len(), key)
    }

    /// The same, in the stretches before the present one.
    pub(crate) fn last_before(&self, key: &[u8]) -> Result<Option<Position>, ReadError> {
        self.last_below(self.parts.len() - 1, key)
    }

    fn last_below(&self, count: usize, key: &[u8]) -> Result<Option<Position>, ReadError> {
        for part in self.parts[..count].iter().rev() {
            if let Some(position) = last_accepted(&part.source, key, part.places())? {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }
}

/// The records of a key, the first one first. By [`Log::read_key`](crate::Log::read_key).
///
/// It gives what was accepted when it was made. Where that is not durable yet it waits for it: if that fails it yields
/// the error, and ends. A damaged stretch does not end it: it yields the error and goes on after it.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct KeyRange(VecDeque<StretchRange>);

impl KeyRange {
    pub(crate) fn new(
        history: &KeyHistory,
        key: &[u8],
        range: &impl RangeBounds<Position>,
    ) -> Result<KeyRange, ReadError> {
        let parts = history.within(range)?.into_iter();
        let parts = parts.map(|(part, places)| StretchRange::new(part.source.clone(), key, places));
        Ok(KeyRange(parts.collect::<Result<_, _>>()?))
    }

    /// What waits to be given.
    #[cfg(test)]
    pub(super) fn found(&self) -> &Found {
        &self.0.front().expect("it has not ended").found
    }
}

impl Iterator for KeyRange {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.front_mut()?.next() {
                None => drop(self.0.pop_front()),
                item => return item,
            }
        }
    }
}

/// The records of a key, the last one first. By [`Log::read_key_back`](crate::Log::read_key_back).
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct KeyRangeBack(Vec<StretchRangeBack>);

impl KeyRangeBack {
    pub(crate) fn new(
        history: &KeyHistory,
        key: &[u8],
        range: &impl RangeBounds<Position>,
    ) -> Result<KeyRangeBack, ReadError> {
        let parts = history.within(range)?.into_iter();
        let parts = parts.map(|(part, places)| StretchRangeBack::new(part.source.clone(), key, places));
        Ok(KeyRangeBack(parts.collect::<Result<_, _>>()?))
    }

    /// What waits to be given.
    #[cfg(test)]
    pub(super) fn found(&self) -> &Found {
        &self.0.last().expect("it has not ended").found
    }
}

impl Iterator for KeyRangeBack {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.last_mut()?.next() {
                None => drop(self.0.pop()),
                item => return item,
            }
        }
    }
}
