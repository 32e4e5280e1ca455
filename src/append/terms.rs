//! Appends under terms: looks up what the shard has to know before it can decide.

use std::sync::Arc;

use crate::error::AppendError;
use crate::position::Position;
use crate::read::{self, Source};
use crate::shard::{AppendMode, Batch, EngineRef, LastBelow, Placed, Refused, Undecided, Unknown};
use crate::write::Terms;

/// Accepts a batch, which is not empty, if its terms hold and there is room now.
pub(super) fn put(
    engine: &EngineRef,
    batch: &Batch<'_>,
    terms: &Terms,
    mode: AppendMode,
    mut positions: Option<&mut Vec<Position>>,
) -> Result<Placed, Refused> {
    if batch.key.is_empty() {
        return Err(Refused::Error(AppendError::KeyRequired));
    }
    let source: Arc<dyn Source> = engine.arc();
    let refused = |error| Refused::Error(AppendError::unreadable(engine.id, error));
    let mut known: Option<LastBelow> = None;
    loop {
        match engine.put_under(batch, terms, known.as_ref(), mode, positions.as_deref_mut()) {
            // What somebody else appends meanwhile is in memory, so this ends; but for one who falls behind by all of that.
            Err(Undecided::Unknown(Unknown::Last { below, epoch })) => {
                let last = read::last_below(&source, batch.key, below).map_err(refused)?;
                known = Some(LastBelow { below, epoch, last });
            }
            Err(Undecided::Unknown(Unknown::Ids(asked))) => {
                let older = read::ids_below(&source, asked.below, asked.most).map_err(refused)?;
                engine.complete_ids(&asked, &older);
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
