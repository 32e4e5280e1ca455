//! Steps in which a producer is interrupted by others, as with threads.

use super::{History, Pending};
use crate::shard::Refused;
use crate::simulation::oracle::Accepted;
use crate::{Commit, Durability, Log, ShardId, Write};

const DURABILITIES: [Durability; 3] = [Durability::Buffered, Durability::Written, Durability::Synced];

/// What happens meanwhile.
enum Meanwhile {
    Append { shard: ShardId, payload: Vec<u8>, number: u64, durability: Durability },
    Turn,
    LeaveVoid(ShardId),
}

impl History {
    pub(super) fn leave_void(&mut self, log: &Log) {
        let shard = self.shard();
        self.tally.add("void blocks", u64::from(log.engine_of(shard).leave_void()));
    }

    /// Has a record copied only after others have gone on: its block may be closed by then and later ones filled,
    /// and none of them may be written before the copy is there.
    pub(super) fn append_interrupted(&mut self, log: &Log) {
        let shard = self.shard();
        let durability = *self.random.pick(&DURABILITIES);
        let (payload, number) = self.small_payload();
        let meanwhile: Vec<Meanwhile> = (0..self.random.below(12)).map(|_| self.meanwhile()).collect();
        let mut others: Vec<(Commit, Durability, Vec<u8>, u64)> = Vec::new();
        let mut voids = 0;
        let go_on = || {
            for step in meanwhile {
                match step {
                    Meanwhile::Append { shard, payload, number, durability } => {
                        let write = Write::new(&payload).durability(durability);
                        if let Ok(commit) = log.shard(shard).try_append(write) {
                            others.push((commit, durability, payload, number));
                        }
                    }
                    Meanwhile::Turn => log.turn_all(true),
                    Meanwhile::LeaveVoid(shard) => voids += u64::from(log.engine_of(shard).leave_void()),
                }
            }
        };
        match log.engine_of(shard).put_interrupted(&payload, durability, go_on) {
            Ok(placed) => {
                self.tally.count("interrupted copies");
                let commit = Commit::new(log.hold(shard), &placed);
                others.insert(0, (commit, durability, payload, number));
            }
            Err(Refused::NoRoom | Refused::TooLate | Refused::Moved | Refused::Error(_)) => {
                self.tally.count("refusals")
            }
        }
        self.tally.add("void blocks", voids);
        for (commit, durability, payload, number) in others {
            let position = commit.position();
            self.say(|| format!("  {position}: {} bytes {durability:?}", payload.len()));
            let record = Accepted::new(position, payload, number);
            self.oracles[usize::from(position.shard().0)].accept([record]);
            self.pending.push(Pending::one(commit, durability));
        }
    }

    fn meanwhile(&mut self) -> Meanwhile {
        match self.random.below(4) {
            0 => Meanwhile::Turn,
            1 if self.random.below(3) == 0 => Meanwhile::LeaveVoid(self.shard()),
            _ => {
                let (payload, number) = self.small_payload();
                let durability = *self.random.pick(&DURABILITIES);
                Meanwhile::Append { shard: self.shard(), payload, number, durability }
            }
        }
    }

    /// One that fits into any block, with its number.
    fn small_payload(&mut self) -> (Vec<u8>, u64) {
        let mut payload = self.payload();
        payload.truncate(600);
        (payload, self.next_payload)
    }
}

impl Log {
    /// Turns all shards: once each, or until nothing happens any more.
    pub(super) fn turn_all(&self, once: bool) {
        for shard in 0..self.shards() {
            self.turn_shard(ShardId(shard), once);
        }
    }
}
