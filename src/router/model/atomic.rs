//! Atomic batches: which parts are settled, and where recovery cuts.
//!
//! Both are one function. What a running log calls settled is what recovery would keep if the power were cut now and
//! nothing survived but what is covered.

use super::moves::Map;
use super::{Bug, Place, Rules};

/// What a shard has of a batch. It names all parts, its own included.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub batch: u32,
    pub siblings: Vec<(usize, Place)>,
}

/// What is known of a shard when parts are judged.
#[derive(Debug)]
pub(super) enum Known<'a> {
    /// It is not there. The map says where it ends: what lies below that is settled.
    Away { cut: Option<Place> },
    Here {
        /// Where it ends for sure: what is covered, or what a scan found.
        end: u32,
        /// Below it, all was settled before it was truncated.
        horizon: u32,
        /// Its parts from the checkpoint on, in order.
        parts: Vec<(Place, &'a Part)>,
        /// Its last one.
        epoch: u32,
    },
}

impl Part {
    /// Readers, ids and conditions pass over it.
    pub fn is_void(&self, map: &Map, rules: Rules) -> bool {
        self.siblings.iter().any(|&(shard, place)| map.voids(shard, place, rules))
    }
}

/// For each shard, the first part that is not settled, or its end: the largest ends such that no part below them has a
/// sibling that is not below them.
///
/// In a running log that is the durable LSN. At open it is the cut. `alone`: what is in front of a sibling does not
/// count (only where a rule is broken).
pub(super) fn whole_below(
    shards: &[Known<'_>],
    is_void: impl Fn(usize, &Part) -> bool,
    alone: bool,
    rules: Rules,
) -> Vec<u32> {
    let end = |known: &Known<'_>| match known {
        Known::Away { .. } => 0,
        Known::Here { end, .. } => *end,
    };
    let mut ends: Vec<u32> = shards.iter().map(end).collect();
    let covered = ends.clone();
    loop {
        let mut changed = false;
        for (shard, known) in shards.iter().enumerate() {
            let Known::Here { parts, .. } = known else { continue };
            let siblings = if alone { &covered } else { &ends };
            let torn = |part: &Part| {
                let mut siblings = part.siblings.iter().map(|&(of, place)| (of, place, siblings[of]));
                siblings.any(|(of, place, end)| !is_below(&shards[of], place, end, rules))
            };
            let below = parts.iter().take_while(|(place, _)| place.lsn < ends[shard]);
            let mut judged = below.filter(|(_, part)| !is_void(shard, part));
            if let Some((place, _)) = judged.find(|(_, part)| torn(part)) {
                ends[shard] = place.lsn;
                changed = true;
            }
        }
        if !changed {
            return ends;
        }
    }
}

/// Whether a part is there, at a place of a shard that ends at `end`.
fn is_below(known: &Known<'_>, place: Place, end: u32, rules: Rules) -> bool {
    let (horizon, epoch) = match known {
        Known::Away { cut } => return cut.is_none_or(|cut| place.epoch != cut.epoch || place.lsn < cut.lsn),
        Known::Here { horizon, epoch, .. } => (horizon, epoch),
    };
    if place.lsn < *horizon {
        return !rules.without(Bug::TruncatedIsLost);
    }
    if rules.without(Bug::SettledWithoutSibling) {
        return true;
    }
    if rules.without(Bug::SiblingByPlace) {
        return place < Place { epoch: *epoch, lsn: end };
    }
    // By LSN: an epoch that was begun at a cut, by an open that was interrupted, has nothing in it yet.
    place.lsn < end
}
