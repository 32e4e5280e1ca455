//! Lookups by key in an open shard: by its runs, then by what was appended last. Ids: `recent_ids.rs`; older ones are
//! found as a key's records are.

use std::ops::Range;

use super::places::{Hint, KeyOrder, KeyQuery};
use crate::format::WholeKeyHash;
use crate::index::Place;
use crate::position::Lsn;
use crate::shard::Engine;

impl Engine {
    /// At most so many of them, as [`KeyPlaces::some`](super::KeyPlaces::some) gives them; and the stretch that was not told
    /// of. Behind what runs tell of, places are those of what was appended last, as far as it is durable.
    pub(crate) fn some_key_places(&self, asked: &KeyQuery<'_>) -> (Vec<Hint>, Range<Lsn>) {
        let (mut hints, left) = self.key_places(asked.key, asked.stretch.clone(), asked.order).some(asked);
        let is_at_end = |hint: &Hint| matches!(hint, Hint::Unknown { to, .. } if *to == asked.stretch.end);
        let end = match asked.order {
            KeyOrder::Forward => hints.last(),
            KeyOrder::Backward => hints.first(),
        };
        let Some(&Hint::Unknown { from, to }) = end.filter(|hint| is_at_end(hint)) else {
            return (hints, left);
        };
        match asked.order {
            KeyOrder::Forward => {
                hints.pop();
                self.first_recently(asked, hints, from..to)
            }
            KeyOrder::Backward => self.last_recently(asked, from..to),
        }
    }

    /// The same of the end of the stretch, behind these hints.
    fn first_recently(
        &self,
        asked: &KeyQuery<'_>,
        mut hints: Vec<Hint>,
        Range { start: from, end: to }: Range<Lsn>,
    ) -> (Vec<Hint>, Range<Lsn>) {
        let (recent, known) = self.recently(asked.key, from..to);
        if known.start > from {
            hints.push(Hint::Unknown { from, to: known.start });
            return (hints, known.start..to);
        }
        let room = asked.most - hints.len();
        hints.extend(recent.iter().rev().take(room).map(|place| Hint::Place(*place)));
        if let Some(next) = recent.iter().rev().nth(room) {
            return (hints, next.lsn..to);
        }
        if known.end < to {
            hints.push(Hint::Unknown { from: known.end, to });
        }
        (hints, to..to)
    }

    /// The same from the end of the stretch on; what lies in front of it is left for the next time.
    fn last_recently(
        &self,
        asked: &KeyQuery<'_>,
        Range { start: from, end: to }: Range<Lsn>,
    ) -> (Vec<Hint>, Range<Lsn>) {
        let (recent, known) = self.recently(asked.key, from..to);
        let start = asked.stretch.start;
        if known.end < to {
            return (vec![Hint::Unknown { from: known.end, to }], start..known.end);
        }
        let mut hints: Vec<Hint> = recent.iter().take(asked.most).map(|place| Hint::Place(*place)).collect();
        if let Some(last) = recent.get(asked.most - 1) {
            return (hints, start..last.lsn);
        }
        if known.start > from {
            hints.push(Hint::Unknown { from, to: known.start });
        }
        (hints, start..from)
    }

    /// The places of a key in what was appended last, the last one first; and the part of the stretch that they are all of.
    fn recently(&self, key: &[u8], stretch: Range<Lsn>) -> (Vec<Place>, Range<Lsn>) {
        let nothing = || (Vec::new(), stretch.start..stretch.start);
        // The empty key stands for records with an id.
        if !self.indexes() || key.is_empty() {
            return nothing();
        }
        // In this order: what was durable before is among what is closed.
        let durable = self.durable();
        let hash = WholeKeyHash::of(&self.view().log_id, key);
        let Some((places, known)) = self.recent_places(hash, stretch.start) else { return nothing() };
        let known = known.start.max(stretch.start)..known.end.min(durable).min(stretch.end);
        if known.is_empty() {
            return nothing();
        }
        let is_known = |place: &Place| known.contains(&place.lsn);
        (places.into_iter().filter(is_known).collect(), known)
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use crate::device::sim::SimMachine;
    use crate::options::Tuning;
    use crate::simulation::Simulated;
    use crate::{Durability, Options, Position, Write};

    const KEYS: u64 = 50;

    /// No run is there yet, and nothing is read to find a key, nor to find that it is not there.
    #[test]
    fn what_was_appended_last_is_known_in_memory() {
        let machine = SimMachine::new(1);
        let options = Options::new().shards(1).block_bytes(4096).segment_bytes(1 << 20).memory_bytes(1 << 20);
        let log = options.device(&Simulated::of(&machine)).open("/log").unwrap();
        let append = |number: u64, durability| {
            let write = Write::new([7; 300]).key((number % KEYS).to_be_bytes()).durability(durability);
            log.append(write).wait().unwrap()
        };
        let mut all: Vec<Position> = (0..1_000).map(|number| append(number, Durability::Synced)).collect();
        all.push(append(0, Durability::Buffered));
        log.last(b"nobody").unwrap();
        let before = machine.counters().reads;
        for key in 0..KEYS {
            let last = all.iter().skip(key as usize).step_by(KEYS as usize).next_back();
            assert_eq!(log.last(&key.to_be_bytes()).unwrap(), last.copied());
            let absent = (key + KEYS).to_be_bytes();
            assert_eq!(log.last(&absent).unwrap(), None);
            assert_eq!(log.read_key(&absent, ..).unwrap().count(), 0);
            assert_eq!(log.read_key_back(&absent, ..).unwrap().count(), 0);
        }
        // What is not durable is waited for, and looked through.
        let reads = machine.counters().reads - before;
        assert!(reads <= 4, "{reads} reads");
        log.close().unwrap();
    }

    /// Each question would go through all places of the key: it is read as a whole instead.
    #[test]
    fn a_key_that_has_nearly_all_records_is_read_through() {
        let machine = SimMachine::new(1);
        let options = Options::new().shards(1).block_bytes(4096).segment_bytes(4 << 20).memory_bytes(1 << 20);
        let log = options.device(&Simulated::of(&machine)).open("/log").unwrap();
        let all: Vec<Position> =
            (0..4_000).map(|_| log.post(Write::new([7; 50]).key(b"hot")).unwrap()).collect();
        log.sync().wait().unwrap();
        let found: Vec<Position> =
            log.read_key(b"hot", ..).unwrap().map(|record| record.unwrap().position()).collect();
        assert_eq!(found, all);
        let mut found: Vec<Position> =
            log.read_key_back(b"hot", ..).unwrap().map(|record| record.unwrap().position()).collect();
        found.reverse();
        assert_eq!(found, all);
        log.close().unwrap();
    }

    /// What has no keys is covered as well, as it comes, and nothing of it is read.
    #[test]
    fn the_index_goes_on_over_what_has_no_keys() {
        let machine = SimMachine::new(1);
        let tuning = Tuning { index_run_bytes: 64 << 10, ..Tuning::default() };
        let options = Options::new().shards(1).block_bytes(4096).segment_bytes(4 << 20).memory_bytes(1 << 20);
        let log = options.tuned(tuning).device(&Simulated::of(&machine)).open("/log").unwrap();
        let engine = log.engine_for(b"");
        let mut own: Vec<Position> = Vec::new();
        for number in 0..300_u64 {
            if number % 100 == 0 {
                own.push(log.append(Write::new([7; 100]).key(b"seldom")).wait().unwrap());
            }
            log.append([7; 3_000]).wait().unwrap();
            let calls = (0..100).take_while(|_| engine.go_on_indexing()).count();
            assert!(calls < 100, "it does not come to an end");
        }
        let (indexed, durable) = (engine.indexed(), engine.durable());
        assert!(indexed.0 + (130 << 10) > durable.0, "{indexed} of {durable}");
        let before = machine.counters().reads;
        assert_eq!(log.last(b"seldom").unwrap(), own.last().copied());
        assert_eq!(log.last(b"never").unwrap(), None);
        let found: Vec<Position> =
            log.read_key(b"seldom", ..).unwrap().map(|record| record.unwrap().position()).collect();
        assert_eq!(found, own);
        let reads = machine.counters().reads - before;
        assert!(reads <= 20, "{reads} reads");
        log.close().unwrap();
    }
}
