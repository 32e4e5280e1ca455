//! How a life of the log ends, what happens to the disk meanwhile, and what the oracles say to what is found.

use std::path::Path;

use super::{History, PATH};
use crate::device::sim::{End, Random};
use crate::error::OpenError;
use crate::simulation::machine::Simulated;
use crate::simulation::oracle::Ended;
use crate::simulation::plan::Damage;
use crate::{Log, ShardId, recovery};

impl History {
    /// Ends the log in one of the ways in which logs end, and opens it again.
    pub(super) fn end_and_reopen(&mut self, log: Log) -> Option<Log> {
        let ended = self.end(log);
        self.open(Some(ended))
    }

    /// Ends the log in one of the ways in which logs end.
    pub(super) fn end(&mut self, log: Log) -> Ended {
        self.look_at_all();
        self.check_across();
        self.note_terms_end();
        self.followers.fill_with(|| None);
        self.key_followers.clear();
        self.beside = None;
        let stats = log.stats();
        // A shard that failed because the machine stopped has lost nothing of what was written.
        let failed = self.failed_operations() > self.errors;
        self.tally.add("failed shards", u64::from(failed));
        self.tally.add("segments", stats.shards.iter().map(|shard| shard.segments as u64).sum());
        let mut ended = Ended::Killed;
        let mut off = true;
        if !self.machine.has_stopped() && self.random.below(3) == 0 {
            let closed = log.close();
            self.say(|| format!("  close: {closed:?}"));
            if closed.is_ok() {
                self.tally.count("clean closes");
                ended = Ended::Cleanly;
            } else {
                ended = Ended::Cut;
            }
            off = self.random.below(2) == 0;
            self.pending.clear();
            drop(log);
            if ended == Ended::Cleanly {
                let is_put_back = self.copy_or_put_back();
                // Who follows across it lives in this life.
                off &= !is_put_back;
            }
            if off {
                // Nothing of a clean close is lost by a power cut.
                self.restart();
            }
        } else {
            self.machine.stop();
            self.pending.clear();
            drop(log);
            let cut = self.restart();
            // After a failed write or sync what was only written is void.
            if cut || failed {
                ended = Ended::Cut;
            }
        }
        if off {
            self.damage_at_rest();
        }
        ended
    }

    /// Writes and syncs that have failed, those of blocking calls too.
    fn failed_operations(&self) -> u64 {
        let counters = self.machine.counters();
        counters.write_errors + counters.sync_errors + counters.call_sync_errors
    }

    /// What happens to the disk while the machine is off.
    fn damage_at_rest(&mut self) {
        self.ends += 1;
        if self.random.below(3) == 0 {
            let mut random = Random::new(self.ends ^ self.plan.seed);
            self.spoil_index(&mut random);
        }
        let Some((damage, at)) = self.plan.damage else { return };
        let due = self.ends == 1 + at % 3;
        match damage {
            Damage::Rot if due => self.machine.rot(),
            Damage::Unreadable if due => self.machine.make_unreadable(),
            Damage::VanishedSegment if due => self.machine.vanish_segment(),
            Damage::StaleManifest if self.ends == 1 => self.machine.keep_manifests(),
            Damage::StaleManifest if self.ends == 2 + at % 2 => self.machine.restore_manifests(),
            // Once there are any.
            Damage::OlderManifest => self.machine.restore_manifests(),
            _ => {}
        }
    }

    /// Ends the life by a kill or a power cut; true for the latter.
    fn restart(&mut self) -> bool {
        let cut = self.random.below(2) == 0;
        self.say(|| format!("  cut: {cut}"));
        self.machine.restart(if cut { End::PowerCut } else { End::Kill });
        cut
    }

    /// Opens the log, through as many crashes as are drawn, and lets the oracles judge. `None` if
    /// the history is over: the disk was damaged, and what that did has been looked at.
    pub(super) fn open(&mut self, ended: Option<Ended>) -> Option<Log> {
        let mut ended = ended;
        loop {
            let mut faults = self.faults();
            let interrupted = self.random.per_mille(self.plan.crash_in_open);
            faults.stop_at = interrupted.then(|| self.machine.steps() + 1 + self.random.below(60));
            self.machine.set_faults(faults);
            let (failed_calls, failed_reads) = (self.failed_calls(), self.machine.counters().read_errors);
            let failed_syncs = self.machine.counters().call_sync_errors;
            let opened = self.options.clone().device(&Simulated::of(&self.machine)).open(Path::new(PATH));
            if self.machine.counters().call_sync_errors > failed_syncs {
                // What was only written is void.
                ended = ended.map(|ended| if ended == Ended::Killed { Ended::Cut } else { ended });
            }
            self.say(|| format!("  open: {:?}", opened.as_ref().err().map(ToString::to_string)));
            if self.machine.has_stopped() {
                self.tally.count("opens interrupted");
                drop(opened);
                let cut = self.restart();
                ended = ended.map(|ended| if ended == Ended::Killed && cut { Ended::Cut } else { ended });
                continue;
            }
            self.machine.set_faults(self.faults());
            self.tally.count("opens");
            match opened {
                Ok(log) if self.is_damaged() => {
                    self.check_damaged(&log);
                    return None;
                }
                Ok(log) => {
                    self.errors = self.failed_operations();
                    self.note_flushes(&log);
                    // But for what a crash has left of one that was being written, where no space is set aside.
                    let is_whole =
                        |line: &String| line.contains("left alone") && !line.contains("by its size");
                    let left_alone = log.stats().notices.into_iter().find(is_whole);
                    let reads_failed = self.machine.counters().read_errors > failed_reads;
                    assert!(reads_failed || left_alone.is_none(), "{left_alone:?}");
                    self.check_reopened(&log, ended.unwrap_or(Ended::Cleanly));
                    self.check_index_found(&log);
                    return Some(log);
                }
                Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => {}
                // Also where it was a read of the log itself: nothing is known to be lost then.
                Err(_) if self.failed_calls() > failed_calls => self.tally.count("opens that failed"),
                Err(error) => {
                    assert!(self.is_damaged(), "an honest log does not open: {error}");
                    self.check_refused(&error);
                    return None;
                }
            }
        }
    }

    fn check_reopened(&mut self, log: &Log, ended: Ended) {
        for shard in 0..self.plan.shards {
            let found = loop {
                // Reads that fail may be tried again.
                if let Some(found) = self.found(log, shard) {
                    break found;
                }
            };
            self.say_found(shard, &found);
            self.machine.give_up_from(shard, log.shard(ShardId(shard)).durable_lsn());
            let oracle = &mut self.oracles[usize::from(shard)];
            let before = oracle.accepted().len();
            oracle.check_reopened(&found.records, ended);
            let after = oracle.accepted().len();
            self.tally.add("records cut off (row 6)", before.saturating_sub(after) as u64);
        }
    }

    /// The disk was damaged, and the log opened all the same.
    fn check_damaged(&mut self, log: &Log) {
        self.check_index_found(log);
        let damage = self.plan.damage.map(|(damage, _)| damage);
        let put_back = matches!(damage, Some(Damage::StaleManifest | Damage::OlderManifest));
        for shard in 0..self.plan.shards {
            let Some(found) = self.found(log, shard) else { return };
            self.say_found(shard, &found);
            if put_back {
                self.oracles[usize::from(shard)].check_put_back(&found.records, found.told);
                continue;
            }
            let lost = self.oracles[usize::from(shard)].check_damaged(&found.records, found.told);
            self.tally.count(match (found.told, lost) {
                (true, _) => "damage found by a reader",
                (false, 0) => "damage without effect",
                (false, _) => "losses in the unattested tail",
            });
        }
    }

    /// The disk was damaged, and the log did not open: so it says again, and nothing was changed.
    fn check_refused(&mut self, error: &OpenError) {
        let again = self.options.clone().device(&Simulated::of(&self.machine)).open(Path::new(PATH));
        assert_eq!(again.err().map(|again| again.to_string()), Some(error.to_string()), "the second answer");
        let OpenError::Damaged { cause, .. } = error else { return };
        self.tally.count(match cause {
            recovery::Damage::Manifest(_) => "verdict: manifest (row 1)",
            recovery::Damage::CleanEnd(_) => "verdict: clean end (row 1)",
            recovery::Damage::Segment { .. } => "verdict: segment (row 2)",
            recovery::Damage::Testimony(_) => "verdict: testimony (row 3)",
            recovery::Damage::StaleManifest(_) => "verdict: stale manifest (row 4)",
            recovery::Damage::OlderManifest { .. } => "verdict: older manifest (row 4)",
            recovery::Damage::Unreadable => "verdict: unreadable (row 5)",
            recovery::Damage::Block(_) => unreachable!("open judges no single block"),
        });
    }
}
