//! Appends under terms: looks up what the shard has to know before it can decide (`shard/append/terms.rs`).
//!
//! Of a key whose slot has moved they are held against all its stretches. In those before the present one nothing of the
//! key is appended any more, so what is found there stays true but for truncation.

use std::sync::Arc;

use crate::error::{AppendError, ReadError};
use crate::format::{SlotMap, Stretch};
use crate::position::{Lsn, Position};
use crate::read::{self, KeyHistory, Source};
use crate::shard::{
    AppendMode, Batch, EngineRef, IdPlace, LastBelow, Placed, Refused, Undecided, Unknown, UnknownIds,
};
use crate::time::Nanos;
use crate::write::Terms;

/// What is looked up in one shard, as far as that was necessary.
struct Lookups<'a> {
    engine: &'a EngineRef,
    source: Arc<dyn Source>,
    ids: Option<(UnknownIds, Vec<IdPlace>)>,
}

impl<'a> Lookups<'a> {
    fn new(engine: &'a EngineRef) -> Lookups<'a> {
        Lookups { engine, source: engine.arc(), ids: None }
    }

    fn refused(&self, error: ReadError) -> Refused {
        Refused::Error(AppendError::unreadable(self.engine.id, error))
    }

    /// Looks up the ids that are not known. What others append meanwhile is in memory.
    fn ids(&mut self, asked: UnknownIds) -> Result<(), Refused> {
        let before = self.ids.take().filter(|(before, _)| {
            before.epoch == asked.epoch && before.below <= asked.below && before.most >= asked.most
        });
        let (from, older) = before.map_or((Lsn::MIN, Vec::new()), |(before, older)| (before.below, older));
        let found = read::ids_within(&self.source, from..asked.below, asked.most);
        let mut found = found.map_err(|error| self.refused(error))?;
        found.extend(older);
        self.engine.complete_ids(&asked, &found);
        self.ids = Some((asked, found));
        Ok(())
    }

    /// Where a record with this key and id is.
    fn find_id(&mut self, key: &[u8], id: u128) -> Result<Option<IdPlace>, Refused> {
        loop {
            match self.engine.find_id(key, id) {
                Ok(found) => return Ok(found),
                Err(Undecided::Unknown(Unknown::Ids(asked))) => self.ids(asked)?,
                Err(Undecided::Unknown(Unknown::Last { .. })) => unreachable!("it was asked for an id alone"),
                Err(Undecided::Refused(refused)) => return Err(refused),
            }
        }
    }

    /// The positions of all records of a batch that was there before.
    fn batch_of(&self, placed: &Placed, positions: Option<&mut Vec<Position>>) -> Result<(), Refused> {
        if let Some(positions) = positions {
            let found = read::batch_of(&self.source, placed.position);
            positions.extend(found.map_err(|error| self.refused(error))?);
        }
        Ok(())
    }
}

/// The engine of a stretch.
fn engine_of(engine: &EngineRef, stretch: &Stretch) -> Result<EngineRef, Refused> {
    if stretch.shard == engine.id {
        return Ok(engine.clone());
    }
    engine.other(stretch.shard).ok_or(Refused::Error(AppendError::Closed))
}

/// Where the key's records were before its slot came here.
fn history_before(engine: &EngineRef, map: &SlotMap, slot: u32) -> KeyHistory {
    let source =
        |stretch: &Stretch| engine_of(engine, stretch).ok().map(|engine| engine.arc() as Arc<dyn Source>);
    KeyHistory::new(&map.history(slot), source)
}

/// A record with the id in the stretches before the present one.
fn find_before(
    engine: &EngineRef,
    before: &[Stretch],
    batch: &Batch<'_>,
    id: u128,
    mode: AppendMode,
    mut positions: Option<&mut Vec<Position>>,
) -> Result<Option<Placed>, Refused> {
    for stretch in before.iter().rev() {
        let engine = engine_of(engine, stretch)?;
        let mut lookups = Lookups::new(&engine);
        let found = lookups.find_id(batch.keys.get(0), id)?;
        if let Some(place) = found.filter(|place| stretch.has(place.position)) {
            let placed = engine.placed_before(&place, mode.durability);
            lookups.batch_of(&placed, positions.as_deref_mut())?;
            return Ok(Some(placed));
        }
    }
    Ok(None)
}

/// Accepts a batch, which is not empty and of one key, if its terms hold and there is room now. What it must look up may
/// take long: after `until` nothing is accepted.
pub(super) fn put(
    engine: &EngineRef,
    batch: &Batch<'_>,
    terms: &Terms,
    mode: AppendMode,
    until: Nanos,
    mut positions: Option<&mut Vec<Position>>,
) -> Result<Placed, Refused> {
    let key = batch.keys.get(0);
    if key.is_empty() {
        return Err(Refused::Error(AppendError::KeyRequired));
    }
    let map = engine.router.map();
    let slot = map.slot(key);
    let history = map.history(slot);
    let (present, before) = history.split_last().expect("a slot is somewhere");
    if present.shard != engine.id {
        return Err(Refused::Moved);
    }
    if let Some(id) = terms.id.filter(|_| !before.is_empty() && engine.keeps_ids()) {
        if let Some(placed) = find_before(engine, before, batch, id, mode, positions.as_deref_mut())? {
            return Ok(placed);
        }
        if until != Nanos::NEVER && engine.time() >= until {
            return Err(Refused::TooLate);
        }
    }
    let first = present.from.within(&engine.view().epochs);
    let mut lookups = Lookups::new(engine);
    let mut known: Option<LastBelow> = None;
    loop {
        if (known.is_some() || lookups.ids.is_some()) && until != Nanos::NEVER && engine.time() >= until {
            return Err(Refused::TooLate);
        }
        match engine.put_under(batch, terms, known.as_ref(), first, mode, positions.as_deref_mut()) {
            // What others append meanwhile is in memory. Where that has gone on, only what came since is looked up.
            Err(Undecided::Unknown(Unknown::Last { below, epoch })) => {
                // One that was truncated since stands for nothing: an older one may be where the slot was before.
                let horizon = engine.view().horizon;
                let is_there = |last: Position| last.shard() != engine.id || last.lsn() >= horizon;
                let looked_at = known.filter(|known| {
                    known.epoch == epoch && known.below <= below && known.last.is_none_or(is_there)
                });
                let from = looked_at.map_or(first, |looked_at| looked_at.below);
                let refused = |error| lookups.refused(error);
                let mut last = read::last_within(&lookups.source, key, from..below).map_err(refused)?;
                last = last.or(looked_at.and_then(|looked_at| looked_at.last));
                if last.is_none() && looked_at.is_none() && !before.is_empty() {
                    last = history_before(engine, &map, slot).last_before(key).map_err(refused)?;
                }
                known = Some(LastBelow { below, epoch, last });
            }
            Err(Undecided::Unknown(Unknown::Ids(asked))) => lookups.ids(asked)?,
            Ok(placed) if placed.is_duplicate => {
                lookups.batch_of(&placed, positions)?;
                return Ok(placed);
            }
            Ok(placed) => return Ok(placed),
            Err(Undecided::Refused(refused)) => return Err(refused),
        }
    }
}
