//! Reading from a time on, held against what a reader of everything gives.

use super::History;
use crate::error::ReadError;
use crate::{Log, Lsn, Record, ShardId};

/// All that was read of a shard at once: places and times.
#[derive(Default)]
struct Scanned {
    records: Vec<(Lsn, u64)>,
    durable: Lsn,
}

impl Scanned {
    /// Where a time begins.
    fn begins(&self, time: u64) -> Lsn {
        self.since(time).first().map_or(self.durable, |(lsn, _)| *lsn)
    }

    fn since(&self, time: u64) -> &[(Lsn, u64)] {
        &self.records[self.records.partition_point(|(_, own)| *own < time)..]
    }
}

fn places(records: &[Record]) -> Vec<(Lsn, u64)> {
    records.iter().map(|record| (record.lsn(), record.timestamp())).collect()
}

impl History {
    /// Asks where a time begins, and for what came since.
    pub(super) fn seek(&mut self, log: &Log) {
        let failed_calls = self.failed_calls();
        let shards = (0..self.plan.shards).map(ShardId);
        let scan = |shard: ShardId| {
            let records = log.shard(shard).read(..).into_iter().flatten().flatten().collect::<Vec<_>>();
            Scanned { records: places(&records), durable: log.shard(shard).durable_lsn() }
        };
        let scanned: Vec<Scanned> = shards.clone().map(scan).collect();
        let time = self.some_time(&scanned);
        let found = match log.seek(time) {
            Ok(found) => found,
            Err(error) => return self.check_error(&error, failed_calls),
        };
        self.say(|| format!("  {time} begins at {found:?}"));
        let since = |shard| log.shard(shard).read_from(time)?.collect::<Result<Vec<_>, ReadError>>();
        for shard in shards {
            let scanned = &scanned[usize::from(shard.0)];
            self.check_begins(scanned, time, found[usize::from(shard.0)], failed_calls);
            match since(shard) {
                Ok(records) => self.check_since(scanned, time, &records, failed_calls),
                Err(error) => return self.check_error(&error, failed_calls),
            }
        }
        match log.merged(time..).and_then(Iterator::collect::<Result<Vec<Record>, _>>) {
            Ok(records) => {
                let mut times: Vec<u64> =
                    scanned.iter().flat_map(|own| own.since(time)).map(|own| own.1).collect();
                times.sort_unstable();
                let is_exact = self.is_exact(failed_calls);
                assert!(!is_exact || records.iter().map(Record::timestamp).eq(times), "merged from {time}");
            }
            Err(error) => return self.check_error(&error, failed_calls),
        }
        self.seek_beside(time);
    }

    /// The same beside the owner, if somebody reads there.
    fn seek_beside(&mut self, time: u64) {
        let failed_calls = self.failed_calls();
        let Some(reader) = self.beside.as_ref().filter(|_| !self.is_damaged()) else { return };
        let scan = |shard: ShardId| {
            let shard = reader.shard(shard);
            let records = shard.read(..)?.collect::<Result<Vec<_>, ReadError>>()?;
            let horizon = shard.seen_horizon();
            let since = shard.read_from(time)?.collect::<Result<Vec<_>, ReadError>>()?;
            Ok((Scanned { records: places(&records), durable: shard.durable_lsn()? }, horizon, since))
        };
        let shards = (0..self.plan.shards).map(ShardId);
        let seen = shards.map(scan).collect::<Result<Vec<_>, ReadError>>();
        match seen.and_then(|seen| Ok((seen, reader.seek(time)?))) {
            Ok((seen, found)) => {
                let now = (0..self.plan.shards).map(|shard| reader.shard(ShardId(shard)).seen_horizon());
                let now: Vec<Lsn> = now.collect();
                for (((mut scanned, horizon, since), now), found) in seen.into_iter().zip(now).zip(found) {
                    self.check_since(&scanned, time, &since, failed_calls);
                    // Nobody truncates meanwhile. But where a truncation failed the manifest's copies differ, and while
                    // the newer one cannot be read the other counts.
                    let may_move = self.failed_calls() > failed_calls;
                    let is_seen = now == horizon || now > horizon && may_move;
                    assert!(is_seen, "it began at {horizon} and begins at {now}, and each look succeeded");
                    scanned.records.retain(|(lsn, _)| *lsn >= now);
                    self.check_begins(&scanned, time, found, failed_calls);
                    self.tally.count("sought beside the owner");
                }
            }
            Err(error) => self.check_error(&error, failed_calls),
        }
    }

    /// Whether nothing has gone wrong that may make a reader say less.
    pub(super) fn is_exact(&self, failed_calls: u64) -> bool {
        // A truncation that found no room for a manifest may be seen beside the owner all the same.
        let is_known = !self.found_no_room && !self.machine.has_stopped();
        !self.is_damaged() && is_known && self.failed_calls() == failed_calls
    }

    /// Mostly near a record's.
    fn some_time(&mut self, scanned: &[Scanned]) -> u64 {
        let shard = self.shard();
        let records = &scanned[usize::from(shard.0)].records;
        match self.random.below(records.len() as u64 + 2) {
            0 => 1,
            1 => u64::MAX,
            index => records[index as usize - 2].1 - 1 + self.random.below(3),
        }
    }

    /// Never too late; too early only where something could not be read.
    fn check_begins(&mut self, scanned: &Scanned, time: u64, found: Lsn, failed_calls: u64) {
        let expected = scanned.begins(time);
        assert!(found <= expected, "{time} begins at {expected}, not at {found}");
        if self.is_exact(failed_calls) {
            assert_eq!(found, expected, "where {time} begins");
            let (first, last) = (scanned.records.first(), scanned.records.last());
            let is_within =
                first.is_some_and(|first| first.1 < time) && last.is_some_and(|last| last.1 >= time);
            self.tally.add("sought by time", u64::from(is_within));
        }
    }

    fn check_since(&self, scanned: &Scanned, time: u64, records: &[Record], failed_calls: u64) {
        assert!(records.iter().all(|record| record.timestamp() >= time), "what is before {time} was given");
        assert!(
            !self.is_exact(failed_calls) || places(records) == scanned.since(time),
            "what came since {time}"
        );
    }
}
