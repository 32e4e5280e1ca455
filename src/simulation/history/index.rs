//! The key index in a history: built now and then, spoiled by somebody, and compared with a scan.

use std::collections::BTreeMap;
use std::ops::Range;

use super::History;
use crate::device::sim::Random;
use crate::shard::{Hint, KeyOrder};
use crate::simulation::plan::Step;
use crate::{Log, Lsn, ShardId};

/// Told apart from what a step draws for itself.
const OTHER_DRAWS: u64 = 0x1de7;

impl History {
    /// Beside a step: goes on with the index, spoils it, or looks at it.
    pub(super) fn step_index(&mut self, log: &Log, step: Step) {
        let mut random = Random::new(step.draw ^ OTHER_DRAWS);
        for shard in (0..self.plan.shards).map(ShardId) {
            let engine = log.engine_of(shard);
            for _ in 0..random.below(12) {
                let before = engine.indexed();
                let goes_on = engine.go_on_indexing();
                self.tally.add("index runs", u64::from(engine.indexed() > before));
                if !goes_on {
                    break;
                }
            }
            if random.below(8) == 0 {
                self.check_index(log, shard, &mut random);
            }
        }
        if random.below(20) == 0 {
            self.spoil_index(&mut random);
        }
    }

    pub(super) fn spoil_index(&mut self, random: &mut Random) {
        let spoiled = self.machine.spoil_index(random);
        self.tally.add("index files spoiled", u64::from(spoiled));
    }

    /// Takes up the index that the last life left, and looks at it.
    pub(super) fn check_index_found(&mut self, log: &Log) {
        let mut random = Random::new(self.ends ^ self.plan.seed);
        for shard in (0..self.plan.shards).map(ShardId) {
            log.engine_of(shard).go_on_indexing();
            let found = log.engine_of(shard).indexed() > log.engine_of(shard).view().horizon;
            self.tally.add("indexes found again", u64::from(found));
            self.check_index(log, shard, &mut random);
        }
    }

    /// Each record with a key is where the index says that it is, or in a stretch of which it says that it knows
    /// nothing.
    fn check_index(&mut self, log: &Log, shard: ShardId, random: &mut Random) {
        let engine = log.engine_of(shard);
        let indexed = engine.indexed();
        let Ok(records) = log.shard(shard).read(..indexed) else { return };
        // In an order of its own: a seed is the whole history.
        let mut by_key: BTreeMap<Vec<u8>, Vec<(Lsn, Option<Lsn>)>> = BTreeMap::new();
        let mut is_whole = true;
        for record in records {
            // One that cannot be read, now or for good, is no business of the index.
            let Ok(record) = record else {
                is_whole = false;
                continue;
            };
            let place = (record.lsn(), record.position().block());
            by_key.entry(record.key().to_vec()).or_default().push(place);
        }
        by_key.remove(&b""[..]);
        for (key, expected) in by_key {
            let all = if random.below(2) == 0 {
                Lsn::MIN..Lsn::MAX
            } else {
                let mut bound = || Lsn(random.below(indexed.0 + 1));
                bound()..bound()
            };
            for order in [KeyOrder::Forward, KeyOrder::Backward] {
                // A run that turns out to be none is forgotten, with all behind it.
                let reach = engine.indexed();
                let mut hints: Vec<Hint> = engine.key_places(&key, all.clone(), order).collect();
                if order == KeyOrder::Backward {
                    hints.reverse();
                }
                self.check_hints(&hints, &expected, all.start..all.end.min(reach));
                let is_other = |hint: &&Hint| match hint {
                    Hint::Place(place) => !expected.iter().any(|(lsn, _)| *lsn == place.lsn),
                    Hint::Unknown { .. } => false,
                };
                let others: Vec<&Hint> = hints.iter().filter(is_other).collect();
                assert!(!is_whole || others.is_empty(), "no records of the key: {others:?}");
            }
        }
    }

    fn check_hints(&mut self, hints: &[Hint], expected: &[(Lsn, Option<Lsn>)], all: Range<Lsn>) {
        let start = |hint: &Hint| match hint {
            Hint::Place(place) => place.lsn,
            Hint::Unknown { from, .. } => *from,
        };
        assert!(hints.is_sorted_by_key(start), "out of order: {hints:?}");
        let (mut named, mut unknown) = (0, 0);
        for (lsn, block) in expected.iter().filter(|(lsn, _)| all.contains(lsn)) {
            let is_named = hints.iter().any(|hint| match hint {
                Hint::Place(place) => place.lsn == *lsn && Some(place.block) == *block,
                Hint::Unknown { .. } => false,
            });
            let is_unknown = hints.iter().any(|hint| match hint {
                Hint::Place(_) => false,
                Hint::Unknown { from, to } => (*from..*to).contains(lsn),
            });
            assert!(is_named || is_unknown, "the record at {lsn} is not in the index: {hints:?}");
            named += u64::from(is_named);
            unknown += u64::from(is_unknown);
        }
        self.tally.add("records that the index names", named);
        self.tally.add("records of which the index knows nothing", unknown);
    }
}
