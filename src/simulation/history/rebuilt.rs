//! A history's last end: shards lose both copies of their manifest, which are rebuilt from the segments.

use std::ops::Range;
use std::path::Path;

use super::{History, PATH};
use crate::device::sim::{End, Faults};
use crate::error::{OpenError, ReadError};
use crate::open;
use crate::simulation::machine::Simulated;
use crate::simulation::oracle::{Accepted, Ended};
use crate::{Log, Lsn, ShardId};

impl History {
    /// Whatever the log has been through, all that was acknowledged is there afterwards.
    pub(super) fn lose_manifests(&mut self, ended: Ended) {
        let all = self.random.below(2) == 0;
        let mut lost = 0;
        for shard in 0..self.plan.shards {
            if all || self.random.below(2) == 0 {
                self.machine.lose_manifest(shard, self.random.below(4));
                lost += 1;
            }
        }
        let (gaps, cut) = self.rebuild(lost);
        let ended = if cut && ended == Ended::Killed { Ended::Cut } else { ended };
        self.machine.set_faults(Faults { reserves: true, ..Faults::default() });
        let opened = self.options.clone().device(&Simulated::of(&self.machine)).open(Path::new(PATH));
        let log = match opened {
            Ok(log) => log,
            // A spare that a crash has half overwritten is damaged, and nobody knows that it was one: `repair` goes on.
            Err(OpenError::Damaged { shard, lsn, .. })
                if lsn < self.oracles[usize::from(shard.0)].truncated() =>
            {
                return self.tally.count("rebuilt with a damaged spare");
            }
            Err(error) => panic!("with rebuilt manifests: {error}"),
        };
        self.tally.add("manifests rebuilt", lost);
        self.tally.add("gaps in rebuilt manifests", gaps);
        for shard in 0..self.plan.shards {
            let (found, damage) = self.found_rebuilt(&log, shard);
            let back = self.oracles[usize::from(shard)].check_rebuilt(&found, &damage, ended);
            self.tally.add("given up records that came back", back);
            // The shard goes on.
            self.machine.give_up_from(shard, log.shard(ShardId(shard)).durable_lsn());
            let position = log.shard(ShardId(shard)).append(b"+").wait().expect("there is room");
            assert!(found.last().is_none_or(|last| last.position < position));
            assert_eq!(log.get(position).expect("it was acknowledged").payload(), b"+");
        }
        log.close().expect("nothing fails");
    }

    /// Rebuilds so many, on a disk that does all that it should, through crashes as they come; gives how many
    /// gaps there are, and whether the power was cut.
    fn rebuild(&mut self, lost: u64) -> (u64, bool) {
        let mut cut = false;
        loop {
            let crashes = self.random.below(3) == 0;
            let stop_at = crashes.then(|| self.machine.steps() + 1 + self.random.below(60));
            self.machine.set_faults(Faults { stop_at, reserves: true, ..Faults::default() });
            let options = self.options.clone().device(&Simulated::of(&self.machine));
            let written = open::salvage(Path::new(PATH), &options).and_then(|salvage| {
                let doubts = salvage.shards().iter().flat_map(|shard| &shard.doubts);
                let gaps = doubts.filter(|doubt| doubt.starts_with("no segment holds")).count() as u64;
                self.say(|| format!("  {:?}", salvage.shards()));
                let truncated: usize = salvage.shards().iter().map(|shard| shard.truncated_segments).sum();
                let found = salvage.shards().len() as u64;
                salvage.write().map(|()| (gaps, found, truncated as u64))
            });
            match written {
                Ok((gaps, found, truncated)) if !self.machine.has_stopped() => {
                    self.tally.add("files known to be truncated", truncated);
                    assert!(crashes || found <= lost, "{found} manifests are lost, not {lost}");
                    return (gaps, cut);
                }
                Err(error) if !self.machine.has_stopped() => panic!("nothing stands in the way: {error}"),
                _ => {
                    let cuts = self.random.below(2) == 0;
                    cut |= cuts;
                    self.machine.restart(if cuts { End::PowerCut } else { End::Kill });
                }
            }
        }
    }

    /// Everything that can be read of a shard, and from where to where damage is told.
    fn found_rebuilt(&self, log: &Log, shard: u16) -> (Vec<Accepted>, Vec<Range<Lsn>>) {
        let (mut found, mut damage) = (Vec::new(), Vec::new());
        for record in log.shard(ShardId(shard)).read(..).expect("nothing fails") {
            match record {
                Ok(record) => found.push(Accepted::new(record.position(), record.payload().to_vec(), 0)),
                Err(ReadError::Damaged { lsn, end, .. }) => damage.push(lsn..end.unwrap_or(Lsn::MAX)),
                Err(error) => panic!("{error}"),
            }
        }
        (found, damage)
    }
}
