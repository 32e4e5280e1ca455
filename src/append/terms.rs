//! Appends under terms: looks up what the shard has to know before it can decide (`shard/append/terms.rs`).

use std::sync::Arc;

use crate::error::AppendError;
use crate::position::{Lsn, Position};
use crate::read::{self, Source};
use crate::shard::{
    AppendMode, Batch, EngineRef, IdPlace, LastBelow, Placed, Refused, Undecided, Unknown, UnknownIds,
};
use crate::time::Nanos;
use crate::write::Terms;

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
    let source: Arc<dyn Source> = engine.arc();
    let refused = |error| Refused::Error(AppendError::unreadable(engine.id, error));
    let mut known: Option<LastBelow> = None;
    let mut ids: Option<(UnknownIds, Vec<IdPlace>)> = None;
    loop {
        if (known.is_some() || ids.is_some()) && until != Nanos::NEVER && engine.time() >= until {
            return Err(Refused::TooLate);
        }
        match engine.put_under(batch, terms, known.as_ref(), mode, positions.as_deref_mut()) {
            // What others append meanwhile is in memory. Where that has gone on, only what came since is looked up.
            Err(Undecided::Unknown(Unknown::Last { below, epoch })) => {
                let before = known.filter(|known| known.epoch == epoch && known.below <= below);
                let from = before.map_or(Lsn::MIN, |before| before.below);
                let last = read::last_within(&source, key, from..below).map_err(refused)?;
                let last = last.or(before.and_then(|before| before.last));
                known = Some(LastBelow { below, epoch, last });
            }
            Err(Undecided::Unknown(Unknown::Ids(asked))) => {
                let before = ids.take().filter(|(before, _)| {
                    before.epoch == asked.epoch && before.below <= asked.below && before.most >= asked.most
                });
                let (from, older) =
                    before.map_or((Lsn::MIN, Vec::new()), |(before, older)| (before.below, older));
                let mut found = read::ids_within(&source, from..asked.below, asked.most).map_err(refused)?;
                found.extend(older);
                engine.complete_ids(&asked, &found);
                ids = Some((asked, found));
            }
            Ok(placed) if placed.is_duplicate => {
                if let Some(positions) = positions {
                    positions.extend(read::batch_of(&source, placed.position).map_err(refused)?);
                }
                return Ok(placed);
            }
            Ok(placed) => return Ok(placed),
            Err(Undecided::Refused(refused)) => return Err(refused),
        }
    }
}
