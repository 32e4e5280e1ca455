//! Where an append goes, and where it goes once slots have moved.

use super::{Commit, Job, Payloads};
use crate::error::AppendError;
use crate::position::ShardId;
use crate::router::{Router, Turn};
use crate::shard::{EngineRef, Placed};
use crate::write::{BatchBuilder, Keys};

/// How a shard was chosen, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route {
    /// By the keys.
    Keys(Turn),
    /// It was named, whatever the keys.
    Shard(Turn),
}

/// Where a job goes now.
pub(super) enum Whereto {
    /// Where it was to go.
    Here,
    There(EngineRef),
    /// Its slot is being moved.
    Moving,
    Nowhere(AppendError),
}

impl Route {
    /// Without a key there is no slot that could move.
    pub(crate) const NEAREST: Route = Route::Keys(Turn::ANY);

    /// Into a shard that was named.
    pub(crate) fn by_hand(engine: &EngineRef, key: &[u8]) -> Route {
        Route::Shard(engine.router.look_at([key]))
    }

    #[inline]
    pub(crate) fn turn(self) -> Turn {
        match self {
            Route::Keys(turn) | Route::Shard(turn) => turn,
        }
    }
}

/// The shard of a batch whose records have `key` where they have none of their own; `None` if none has one.
pub(crate) fn look_up_all(
    router: &Router,
    key: &[u8],
    batch: &BatchBuilder,
) -> Result<Option<(ShardId, Turn)>, AppendError> {
    let mut keys = batch.keys(key).iter(batch.len()).filter(|key| !key.is_empty());
    let Some(first) = keys.next() else { return Ok(None) };
    let (shard, turn) = router.look_up(first);
    // Of one key they are all alike.
    if !matches!(batch.keys(key), Keys::One(_)) {
        let others = keys.map(|key| router.look_up(key));
        for (other, its_turn) in others {
            if other != shard {
                let of_one_key = !batch.terms.are_none();
                return Err(if of_one_key { AppendError::MixedKeys } else { AppendError::MixedShards });
            }
            if its_turn != turn {
                return Ok(Some((shard, Turn::NEVER)));
            }
        }
    }
    Ok(Some((shard, turn)))
}

impl Job<'_> {
    /// Slots have moved since it was looked up where this goes.
    #[cold]
    pub(super) fn look_up_again(&mut self, engine: &EngineRef) -> Whereto {
        let router = engine.router.clone();
        let looked_up = match &self.payloads {
            Payloads::Built(built) => look_up_all(&router, &self.key, built),
            _ if self.key.is_empty() => Ok(None),
            _ => Ok(Some(router.look_up(&self.key))),
        };
        let by_hand = matches!(self.route, Route::Shard(_));
        let turn = match (looked_up, by_hand && self.terms.is_none()) {
            (_, true) => match &self.payloads {
                Payloads::Built(built) => router.look_at(built.keys(&self.key).iter(built.len())),
                _ => router.look_at([&*self.key]),
            },
            (Ok(None), _) => Turn::ANY,
            (Ok(Some((shard, _))), _) if shard != engine.id && by_hand => {
                return Whereto::Nowhere(AppendError::KeyRequired);
            }
            (Ok(Some((shard, turn))), _) if shard != engine.id && turn != Turn::NEVER => {
                self.route = Route::Keys(turn);
                return match engine.other(shard) {
                    Some(other) => Whereto::There(other),
                    None => Whereto::Nowhere(AppendError::Closed),
                };
            }
            (Ok(Some((_, turn))), _) => turn,
            (Err(error), _) => return Whereto::Nowhere(error),
        };
        self.route = if by_hand { Route::Shard(turn) } else { Route::Keys(turn) };
        if turn == Turn::NEVER { Whereto::Moving } else { Whereto::Here }
    }
}

/// A handle of what was accepted. What was there before may lie where its slot was then.
pub(super) fn commit(engine: EngineRef, placed: &Placed) -> Commit {
    let shard = placed.position.shard();
    let elsewhere = if shard == engine.id { None } else { engine.other(shard) };
    Commit::new(elsewhere.unwrap_or(engine), placed)
}
