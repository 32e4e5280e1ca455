//! Waiting for what was accepted, and what the oracle is then told.

use super::{History, Pending};
use crate::simulation::oracle::Oracle;
use crate::{Durability, Log, Position};

impl History {
    pub(super) fn sync(&mut self, log: &Log) {
        let synced = log.sync().wait();
        self.say(|| format!("  {synced:?}"));
        if synced.is_ok() {
            for Pending { last, .. } in &self.pending {
                self.oracles[usize::from(last.shard().0)].acknowledged_durable(*last);
            }
        }
    }

    pub(super) fn acknowledge(oracle: &mut Oracle, position: Position, durability: Durability) {
        match durability {
            Durability::Synced => oracle.acknowledged_durable(position),
            Durability::Written => oracle.acknowledged_written(position),
            Durability::Buffered => {}
        }
    }

    pub(super) fn wait_for_one(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let index = self.random.below(self.pending.len() as u64) as usize;
        let Pending { commit, durability, last: position } = self.pending.swap_remove(index);
        let outcome = commit.wait();
        self.say(|| format!("  {position}: {outcome:?}"));
        if outcome.is_ok() {
            History::acknowledge(&mut self.oracles[usize::from(position.shard().0)], position, durability);
        }
    }

    pub(super) fn look_at_all(&mut self) {
        for Pending { commit, durability, last } in &self.pending {
            let position = *last;
            let oracle = &mut self.oracles[usize::from(position.shard().0)];
            if matches!(commit.try_result(), Some(Ok(_))) {
                History::acknowledge(oracle, position, *durability);
            }
            if commit.is_durable() {
                oracle.acknowledged_durable(position);
            }
        }
    }
}
