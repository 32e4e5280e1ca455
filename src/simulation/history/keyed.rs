//! Batches of records with a key each, held against the same plain list.

use std::collections::BTreeSet;

use super::{Accepted, History, Pending};
use crate::append::CommitBatch;
use crate::error::AppendError;
use crate::write::BatchBuilder;
use crate::{Durability, Log, Position, Priority, ShardId};

impl History {
    /// Has such a batch accepted, at times over several blocks, and goes on while it is under way.
    pub(super) fn append_keyed(&mut self, log: &Log) {
        let (mut batch, payloads, shards) = self.draw_keyed(log);
        let durability = *self.random.pick(&[Durability::Buffered, Durability::Written, Durability::Synced]);
        batch.durability(durability);
        batch.priority(*self.random.pick(&[Priority::Low, Priority::Normal, Priority::High]));
        // A shard takes any keys.
        let given = (self.random.below(3) == 0).then(|| self.shard());
        let at_once = self.random.below(3) == 0;
        let appended = match given.map(|shard| log.shard(shard)) {
            Some(shard) if at_once => shard.try_append_built(&batch).map(CommitBatch::into_parts),
            Some(shard) => shard.append_keyed(&batch).admitted().wait(),
            None if at_once => log.try_append_built(&batch).map(CommitBatch::into_parts),
            None => log.append_keyed(&batch).admitted().wait(),
        };
        self.say(|| format!("  {} records for {shards:?}, or {given:?}: {appended:?}", payloads.len()));
        let is_mixed = given.is_none() && shards.len() > 1;
        assert_eq!(matches!(appended, Err(AppendError::MixedShards)), is_mixed, "{appended:?}");
        match appended {
            Ok((commit, positions)) => {
                assert_eq!(positions.len(), payloads.len());
                let (first, last) = (positions[0], positions[positions.len() - 1]);
                let shard = given.or(shards.first().copied()).unwrap_or(first.shard());
                assert!(positions.iter().all(|position| position.shard() == shard), "{positions:?}");
                self.count_keyed(&payloads, first, last);
                let number = self.next_payload;
                let records = positions.into_iter().zip(payloads);
                let records = records.map(|(position, payload)| Accepted::new(position, payload, number));
                self.oracles[usize::from(shard.0)].accept(records);
                self.pending.push(Pending { commit, durability, last });
                if self.random.below(4) == 0 {
                    self.read_in_the_middle(log, shard);
                }
            }
            Err(AppendError::MixedShards) => self.tally.count("batches for several shards"),
            Err(_) => self.tally.count("refusals"),
        }
    }

    /// A batch, its payloads, and the shards that its keys route to.
    fn draw_keyed(&mut self, log: &Log) -> (BatchBuilder, Vec<Vec<u8>>, BTreeSet<ShardId>) {
        let mut batch = BatchBuilder::new();
        let count = 1 + self.random.below(6);
        let mut payloads: Vec<Vec<u8>> = (0..count).map(|_| self.payload()).collect();
        let mut shards = BTreeSet::new();
        for payload in &mut payloads {
            let key = self.own(std::slice::from_mut(payload));
            match self.random.below(3) {
                0 if key.is_empty() => batch.push(&payload),
                0 => batch.push_keyed_with(key, |bytes| bytes.extend_from_slice(payload)),
                _ => batch.push_keyed(key, &payload),
            }
            shards.extend((!key.is_empty()).then(|| log.route(key)));
        }
        (batch, payloads, shards)
    }

    fn count_keyed(&mut self, payloads: &[Vec<u8>], first: Position, last: Position) {
        let keys: BTreeSet<_> = payloads.iter().map(|payload| super::keys::key_of(payload)).collect();
        let has_several = u64::from(keys.len() > 1);
        self.tally.add("batches of several keys", has_several);
        let is_wide = first.block() != last.block();
        self.tally.add("batches of several keys over several blocks", has_several * u64::from(is_wide));
    }
}
