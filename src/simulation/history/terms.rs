//! Appends on a condition and with an id, held against a plain list of what was accepted.

use std::collections::BTreeMap;

use super::keys::key_of;
use super::{Accepted, History, Pending};
use crate::error::AppendError;
use crate::write::BatchBuilder;
use crate::{Commit, Durability, Log, Position, ShardId, Write};

/// The ids that records were given.
#[derive(Clone)]
pub(super) struct Given {
    ids: BTreeMap<Position, u128>,
    /// Of the life before, and those before that.
    old: Option<Position>,
    kept: usize,
}

/// How many ids a shard remembers in the history of this seed: few, so that some are forgotten.
pub(super) fn ids_kept(seed: u64) -> usize {
    [2, 5, 1 << 16][(seed % 3) as usize]
}

impl Given {
    pub(super) fn new(seed: u64) -> Given {
        Given { ids: BTreeMap::new(), old: None, kept: ids_kept(seed) }
    }

    pub(super) fn id_of(&self, position: Position) -> Option<u128> {
        self.ids.get(&position).copied()
    }
}

/// What is appended, and on what terms.
struct Asked {
    shard: ShardId,
    key: &'static [u8],
    payloads: Vec<Vec<u8>>,
    durability: Durability,
    if_last: Option<Option<Position>>,
    id: Option<u128>,
}

/// What must come of it.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Duplicate(Vec<Position>),
    Conflict(Option<Position>),
}

impl History {
    pub(super) fn append_under_terms(&mut self, log: &Log) {
        let failed_calls = self.failed_calls();
        let asked = self.draw_terms(log);
        let expected = self.expected(log, &asked);
        let (shard, batch) = (asked.shard, self.next_payload);
        let appended = self.put(log, &asked);
        self.say(|| {
            let (key, if_last, id) = (asked.key.escape_ascii(), asked.if_last, asked.id);
            let outcome = appended.as_ref().map(|(commit, _)| (commit.position(), commit.is_duplicate()));
            format!("  {key} if {if_last:?} id {id:?}: {outcome:?}, expected {expected:?}")
        });
        let is_exact = self.is_exact(failed_calls);
        match appended {
            Ok((commit, positions)) if commit.is_duplicate() => {
                let last = *positions.last().expect("something was appended");
                assert!(
                    !is_exact || expected == Outcome::Duplicate(positions),
                    "{:?} is a duplicate",
                    asked.id
                );
                self.tally.count("duplicates");
                let is_old = self.terms.old.is_some_and(|old| commit.position().epoch() <= old.epoch());
                self.tally.add("duplicates from before a reopen", u64::from(is_old));
                if is_exact {
                    // What it tells is told of the first one.
                    self.pending.push(Pending { commit, durability: asked.durability, last });
                }
            }
            Ok((commit, positions)) => {
                assert!(!is_exact || expected == Outcome::Accepted, "{expected:?} was accepted");
                self.tally.count("appended under terms");
                self.tally.add("batches under terms", u64::from(positions.len() > 1));
                let seen = asked.id.is_some_and(|id| self.terms.ids.values().any(|given| *given == id));
                self.tally.add("ids that were forgotten", u64::from(seen));
                self.terms.ids.extend(asked.id.map(|id| (positions[0], id)));
                let last = *positions.last().expect("something was appended");
                let records = positions.into_iter().zip(asked.payloads);
                let records = records.map(|(position, payload)| Accepted::new(position, payload, batch));
                self.oracles[usize::from(shard.0)].accept(records);
                self.pending.push(Pending { commit, durability: asked.durability, last });
            }
            Err(AppendError::Conflict { last, .. }) => {
                assert!(!is_exact || expected == Outcome::Conflict(last), "{last:?} is in the way");
                self.tally.count("conditions that did not hold");
            }
            Err(AppendError::Unreadable { source, .. }) => self.check_error(&source, failed_calls),
            Err(_) => self.tally.count("refusals"),
        }
    }

    fn draw_terms(&mut self, log: &Log) -> Asked {
        let count = if self.random.below(4) == 0 { 2 + self.random.below(4) } else { 1 };
        let mut payloads: Vec<Vec<u8>> = (0..count).map(|_| self.payload()).collect();
        let key = loop {
            let key = self.own(&mut payloads);
            if !key.is_empty() {
                break key;
            }
        };
        let shard = log.route(key);
        let accepted = self.oracles[usize::from(shard.0)].accepted();
        let some = accepted.get(self.random.below(accepted.len() as u64 + 1) as usize);
        let some = some.map(|record| record.position);
        let if_last = match self.random.below(6) {
            0 | 1 => None,
            2 => Some(some),
            3 => Some(self.terms.ids.keys().next_back().copied()),
            _ => Some(self.stream(log, key).last().copied()),
        };
        let id = match self.random.below(4) {
            0 => None,
            1 => Some(u128::from(self.next_payload)),
            // One that is in use, perhaps under another key.
            _ => Some(u128::from(self.next_payload.saturating_sub(self.random.below(60)))),
        };
        let durability = *self.random.pick(&[Durability::Buffered, Durability::Written, Durability::Synced]);
        // A batch has the log's.
        let durability = if payloads.len() == 1 { durability } else { Durability::Synced };
        Asked { shard, key, payloads, durability, if_last, id }
    }

    fn put(&mut self, log: &Log, asked: &Asked) -> Result<(Commit, Vec<Position>), AppendError> {
        if let [payload] = &asked.payloads[..] {
            let mut write = Write::new(payload).key(asked.key).durability(asked.durability);
            write = asked.if_last.map_or(write.clone(), |last| write.if_last(last));
            write = asked.id.map_or(write.clone(), |id| write.id(id));
            let commit = if self.random.below(4) == 0 {
                log.try_append(write)
            } else {
                log.append(write).admitted().wait()
            };
            return commit.map(|commit| {
                let position = commit.position();
                (commit, vec![position])
            });
        }
        let mut batch = BatchBuilder::new();
        asked.payloads.iter().for_each(|payload| batch.push(payload));
        asked.if_last.into_iter().for_each(|last| batch.if_last(last));
        asked.id.into_iter().for_each(|id| batch.id(id));
        log.append_built(asked.key, &batch).admitted().wait()
    }

    fn expected(&self, log: &Log, asked: &Asked) -> Outcome {
        let accepted = self.oracles[usize::from(asked.shard.0)].accepted();
        let horizon = log.engine_of(asked.shard).view().horizon;
        let with_id = accepted.iter().rev().filter(|record| self.terms.ids.contains_key(&record.position));
        let same = |record: &&Accepted| {
            let is_there = record.position.lsn() >= horizon && key_of(&record.payload) == asked.key;
            is_there && self.terms.id_of(record.position) == asked.id
        };
        if let Some(first) = with_id.take(self.terms.kept).find(same) {
            let batch = accepted.iter().filter(|record| record.batch == first.batch);
            // A retry in one piece learns where the first record is.
            let most = if asked.payloads.len() == 1 { 1 } else { usize::MAX };
            return Outcome::Duplicate(batch.map(|record| record.position).take(most).collect());
        }
        let last = self.stream(log, asked.key).last().copied();
        match asked.if_last {
            Some(expected) if expected != last => Outcome::Conflict(last),
            _ => Outcome::Accepted,
        }
    }

    /// A life ends.
    pub(super) fn note_terms_end(&mut self) {
        self.terms.old = self.terms.ids.keys().max_by_key(|position| position.epoch()).copied();
    }
}
