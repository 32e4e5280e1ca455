//! One history: drawn from a seed, played on a simulated machine.

use std::path::Path;

use super::oracle::{Accepted, Ended, Oracle};
use crate::device::sim::{Counters, End, Faults, Random, SimMachine};
use crate::error::{OpenError, TruncateError};
use crate::{Commit, Durability, Log, Options, Position, Priority, ShardId, Write};

const PATH: &str = "/log";

/// What happened over many histories.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub operations: u64,
    pub appends: u64,
    pub batches: u64,
    pub records_cut_off: u64,
    pub opens: u64,
    pub opens_interrupted: u64,
    pub clean_closes: u64,
    pub failures: u64,
    pub truncations_before: u64,
    pub truncations_after: u64,
    pub refusals: u64,
    pub rotations: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub torn_in_flight: u64,
    pub write_errors: u64,
    pub sync_errors: u64,
    pub no_space: u64,
}

impl Tally {
    fn fields(&mut self) -> [(&'static str, &mut u64); 18] {
        [
            ("operations", &mut self.operations),
            ("appends", &mut self.appends),
            ("batches", &mut self.batches),
            ("records_cut_off", &mut self.records_cut_off),
            ("opens", &mut self.opens),
            ("opens_interrupted", &mut self.opens_interrupted),
            ("clean_closes", &mut self.clean_closes),
            ("failures", &mut self.failures),
            ("truncations_before", &mut self.truncations_before),
            ("truncations_after", &mut self.truncations_after),
            ("refusals", &mut self.refusals),
            ("rotations", &mut self.rotations),
            ("kills", &mut self.kills),
            ("power_cuts", &mut self.power_cuts),
            ("torn_in_flight", &mut self.torn_in_flight),
            ("write_errors", &mut self.write_errors),
            ("sync_errors", &mut self.sync_errors),
            ("no_space", &mut self.no_space),
        ]
    }

    pub(super) fn add(&mut self, other: &Tally) {
        let mut other = other.clone();
        for ((_, own), (_, other)) in self.fields().into_iter().zip(other.fields()) {
            *own += *other;
        }
    }

    /// A fault that is never hit is a test that does not exist.
    pub(super) fn check_that_everything_happened(&mut self) {
        for (name, count) in self.fields() {
            assert!(*count > 0, "no history had any {name}");
        }
    }
}

/// How often a history does what: drawn per seed, so that some have many crashes and no errors.
struct Odds {
    operations: u64,
    crash: u32,
    crash_in_open: u32,
    truncate: u32,
    batch: u32,
    large: u32,
    idle: u32,
    faults: Faults,
}

/// See the module.
pub(super) struct History {
    random: Random,
    machine: SimMachine,
    options: Options,
    shards: u16,
    odds: Odds,
    oracles: Vec<Oracle>,
    pending: Vec<(Commit, Durability)>,
    next_payload: u64,
    tally: Tally,
}

impl History {
    pub(super) fn new(seed: u64) -> History {
        let mut random = Random::new(seed);
        let machine = SimMachine::new(random.next());
        let shards = 1 + random.below(2) as u16;
        let block_bytes = *random.pick(&[4096, 4096, 8192, 16384]);
        let segment_bytes = u64::from(block_bytes) * *random.pick(&[4, 5, 8, 16]);
        let memory_bytes = u64::from(block_bytes) * *random.pick(&[4, 6, 16]);
        let options = Options::new()
            .shards(shards)
            .block_bytes(block_bytes)
            .segment_bytes(segment_bytes.max(16384))
            .memory_bytes(memory_bytes);
        let rare =
            |random: &mut Random, most: u64| if random.below(2) == 0 { 0 } else { random.below(most) as u32 };
        let faults = Faults {
            write_error: rare(&mut random, 8),
            sync_error: rare(&mut random, 20),
            no_space: rare(&mut random, 200),
            stop_at: None,
            latency_ns_max: *random.pick(&[1, 1_000, 100_000, 20_000_000]),
            write_through: random.below(3) > 0,
        };
        let odds = Odds {
            operations: 30 + random.below(120),
            crash: random.below(120) as u32,
            crash_in_open: random.below(600) as u32,
            truncate: rare(&mut random, 120),
            batch: rare(&mut random, 200),
            large: rare(&mut random, 300),
            idle: rare(&mut random, 200),
            faults,
        };
        let oracles = vec![Oracle::default(); usize::from(shards)];
        let tally = Tally::default();
        History {
            random,
            machine,
            options,
            shards,
            odds,
            oracles,
            pending: Vec::new(),
            next_payload: 0,
            tally,
        }
    }

    pub(super) fn play(mut self) -> Tally {
        let mut log = self.open(None);
        let mut stop_planned = false;
        for _ in 0..self.odds.operations {
            self.tally.operations += 1;
            if !stop_planned && self.random.per_mille(self.odds.crash) {
                let at = self.machine.steps() + 1 + self.random.below(60);
                self.machine.set_faults(Faults { stop_at: Some(at), ..self.odds.faults.clone() });
                stop_planned = true;
            }
            self.operate(&log);
            let failed = log.stats().shards.iter().any(|shard| shard.failed);
            if self.machine.has_stopped() || failed || self.random.per_mille(15) {
                log = self.end_and_reopen(log);
                stop_planned = false;
            }
        }
        drop(self.end_and_reopen(log));
        let Counters { kills, power_cuts, torn_in_flight, write_errors, sync_errors, no_space, .. } =
            self.machine.counters();
        Tally { kills, power_cuts, torn_in_flight, write_errors, sync_errors, no_space, ..self.tally }
    }

    fn operate(&mut self, log: &Log) {
        if self.random.per_mille(self.odds.truncate) {
            return self.truncate(log);
        }
        if self.random.per_mille(self.odds.batch) {
            return self.append_batch(log);
        }
        if self.random.per_mille(self.odds.idle) {
            return self.idle(log);
        }
        match self.random.below(20) {
            0..=9 => self.append(log),
            10..=11 => self.wait_for_one(),
            12..=14 => self.look_at_all(),
            15 => {
                let synced = log.sync().wait().is_ok();
                if synced {
                    for (commit, _) in &self.pending {
                        self.oracles[usize::from(commit.position().shard().0)]
                            .acknowledged_durable(commit.position());
                    }
                }
            }
            16 => self.read(log),
            17 => {
                let by = self.random.below(2_000_000_000) as i64 - 1_000_000_000;
                self.machine.step_wall(by);
            }
            _ => log.turn_all(true),
        }
        for shard in 0..self.shards {
            let durable = log.shard(ShardId(shard)).durable_lsn();
            self.oracles[usize::from(shard)].published(durable);
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        self.next_payload += 1;
        let bytes = if self.random.per_mille(self.odds.large) { 20_000 } else { 600 };
        let bytes = self.random.below(bytes) as usize;
        // Many sectors alike, so that torn mixes of old and new can look whole.
        let mut payload = self.next_payload.to_le_bytes().to_vec();
        payload.resize(8 + bytes, *self.random.pick(&[0, 0, 7]));
        payload
    }

    fn durability(&mut self) -> Durability {
        *self.random.pick(&[
            Durability::Buffered,
            Durability::Written,
            Durability::Synced,
            Durability::Synced,
        ])
    }

    fn append(&mut self, log: &Log) {
        let shard = ShardId(self.random.below(u64::from(self.shards)) as u16);
        let (payload, durability) = (self.payload(), self.durability());
        let priority = *self.random.pick(&[Priority::Low, Priority::Normal, Priority::High]);
        let write = Write::new(&payload).durability(durability).priority(priority);
        let commit = if self.random.below(4) == 0 {
            log.shard(shard).try_append(write)
        } else {
            log.shard(shard).append(write).admitted().wait()
        };
        match commit {
            Ok(commit) => {
                self.tally.appends += 1;
                let (position, batch) = (commit.position(), self.next_payload);
                self.oracles[usize::from(shard.0)].accept([Accepted { position, payload, batch }]);
                self.pending.push((commit, durability));
            }
            Err(_) => self.tally.refusals += 1,
        }
    }

    fn append_batch(&mut self, log: &Log) {
        let shard = ShardId(self.random.below(u64::from(self.shards)) as u16);
        let count = 2 + self.random.below(6);
        let payloads: Vec<Vec<u8>> = (0..count).map(|_| self.payload()).collect();
        let batch = self.next_payload;
        // A batch's positions come with its outcome, so it is waited for; one that failed may be
        // there or not, which the shard's records after it would show: it ends the life.
        match log.shard(shard).append_batch(b"", &payloads).wait() {
            Ok(positions) => {
                self.tally.batches += 1;
                let last = *positions.last().expect("a batch has records");
                let records = positions.into_iter().zip(payloads).map(|(position, payload)| Accepted {
                    position,
                    payload,
                    batch,
                });
                self.oracles[usize::from(shard.0)].accept(records);
                self.oracles[usize::from(shard.0)].acknowledged_durable(last);
            }
            Err(error) => {
                // If it was accepted at all, it is the last of its shard.
                if let crate::AppendError::ShardFailed(_) = error {
                    self.oracles[usize::from(shard.0)].accept_unknown(payloads, batch);
                }
                self.tally.refusals += 1;
            }
        }
    }

    fn acknowledge(oracle: &mut Oracle, commit: &Commit, durability: Durability) {
        match durability {
            Durability::Synced => oracle.acknowledged_durable(commit.position()),
            Durability::Written => oracle.acknowledged_written(commit.position()),
            Durability::Buffered => {}
        }
    }

    fn wait_for_one(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let index = self.random.below(self.pending.len() as u64) as usize;
        let (commit, durability) = self.pending.swap_remove(index);
        let position = commit.position();
        let oracle = &mut self.oracles[usize::from(position.shard().0)];
        if commit.wait().is_ok() {
            match durability {
                Durability::Synced => oracle.acknowledged_durable(position),
                Durability::Written => oracle.acknowledged_written(position),
                Durability::Buffered => {}
            }
        }
    }

    fn look_at_all(&mut self) {
        for (commit, durability) in &self.pending {
            let oracle = &mut self.oracles[usize::from(commit.position().shard().0)];
            if matches!(commit.try_result(), Some(Ok(_))) {
                History::acknowledge(oracle, commit, *durability);
            }
            if commit.is_durable() {
                oracle.acknowledged_durable(commit.position());
            }
        }
    }

    fn idle(&mut self, log: &Log) {
        log.turn_all(false);
        if !log.stats().shards.iter().any(|shard| shard.failed) && !self.machine.has_stopped() {
            // Left alone, everything that was accepted becomes durable within the background bound.
            for (commit, _) in &self.pending {
                assert!(commit.is_durable(), "{commit:?} is not durable in an idle log");
            }
        }
        self.look_at_all();
    }

    fn found(log: &Log, shard: u16) -> Option<Vec<Accepted>> {
        let records = log.shard(ShardId(shard)).read(..).ok()?;
        let mut found = Vec::new();
        for record in records {
            match record {
                Ok(record) => {
                    found.push(Accepted {
                        position: record.position(),
                        payload: record.payload().to_vec(),
                        batch: 0,
                    });
                }
                Err(error) => {
                    assert!(error.to_string().contains("read error"), "no damage was done: {error}");
                    return None; // The machine has stopped.
                }
            }
        }
        Some(found)
    }

    fn read(&mut self, log: &Log) {
        for shard in 0..self.shards {
            if let Some(found) = History::found(log, shard) {
                self.oracles[usize::from(shard)].check_served(&found);
            }
        }
        if self.machine.has_stopped() {
            return;
        }
        let shard = self.random.below(u64::from(self.shards)) as usize;
        let accepted = self.oracles[shard].accepted();
        if !accepted.is_empty() {
            let record = accepted[self.random.below(accepted.len() as u64) as usize].clone();
            match log.get(record.position) {
                Ok(found) => assert_eq!(found.payload(), record.payload),
                Err(crate::ReadError::Truncated { .. } | crate::ReadError::ShardFailed(_)) => {}
                Err(error) => assert!(self.machine.has_stopped(), "{}: {error}", record.position),
            }
        }
    }

    fn truncate(&mut self, log: &Log) {
        let id = self.random.below(u64::from(self.shards)) as u16;
        let (shard, oracle) = (log.shard(ShardId(id)), &mut self.oracles[usize::from(id)]);
        let Some(count) = Some(oracle.accepted().len() as u64).filter(|&count| count > 0) else { return };
        let record = oracle.accepted()[self.random.below(count) as usize].clone();
        let position: Position = record.position;
        if self.random.below(2) == 0 {
            oracle.truncate_before_asked(position.lsn());
            if shard.truncate_before(position.lsn()).is_ok() {
                self.tally.truncations_before += 1;
                oracle.truncated_before();
            }
            return;
        }
        oracle.truncate_after_asked(position);
        match shard.truncate_after(position.lsn()) {
            Ok(()) => {
                self.tally.truncations_after += 1;
                oracle.truncated_after();
                let kept: Vec<Position> = oracle.accepted().iter().map(|record| record.position).collect();
                self.pending.retain(|(commit, _)| {
                    commit.position().shard().0 != id || kept.contains(&commit.position())
                });
            }
            Err(
                TruncateError::InsideBatch { .. } | TruncateError::NotARecord { .. } | TruncateError::Read(_),
            ) => {
                oracle.truncate_after_refused();
            }
            Err(_) => {}
        }
    }

    /// Ends the log in one of the ways in which logs end, and opens it again.
    fn end_and_reopen(&mut self, log: Log) -> Log {
        self.look_at_all();
        let failed = log.stats().shards.iter().any(|shard| shard.failed);
        self.tally.failures += u64::from(failed);
        self.tally.rotations += log.stats().shards.iter().map(|shard| shard.segments as u64).sum::<u64>();
        let mut ended = Ended::Killed;
        if !self.machine.has_stopped() && self.random.below(3) == 0 {
            if log.close().is_ok() {
                self.tally.clean_closes += 1;
                ended = Ended::Cleanly;
            } else {
                ended = Ended::Cut;
            }
            self.pending.clear();
            drop(log);
            if self.random.below(2) == 0 {
                // Nothing of a clean close is lost by a power cut.
                let cut = self.random.below(2) == 0;
                self.restart(cut);
            }
        } else {
            self.machine.stop();
            self.pending.clear();
            drop(log);
            let cut = self.random.below(2) == 0;
            self.restart(cut);
            // After a failed write or sync what was only written is void.
            ended = if cut || failed { Ended::Cut } else { ended };
        }
        self.open(Some(ended))
    }

    fn restart(&mut self, cut: bool) {
        self.machine.restart(if cut { End::PowerCut } else { End::Kill });
    }

    /// Opens the log, through as many crashes as are drawn, and lets the oracles judge.
    fn open(&mut self, ended: Option<Ended>) -> Log {
        let mut ended = ended;
        loop {
            let mut faults = self.odds.faults.clone();
            let interrupted = self.random.per_mille(self.odds.crash_in_open);
            faults.stop_at = interrupted.then(|| self.machine.steps() + 1 + self.random.below(60));
            self.machine.set_faults(faults);
            let opened = self.options.clone().device(self.machine.device()).open(Path::new(PATH));
            if self.machine.has_stopped() {
                self.tally.opens_interrupted += 1;
                drop(opened);
                let cut = self.random.below(2) == 0;
                self.restart(cut);
                ended = ended.map(|ended| match (ended, cut) {
                    (Ended::Killed, true) => Ended::Cut,
                    (ended, _) => ended,
                });
                continue;
            }
            self.machine.set_faults(self.odds.faults.clone());
            self.tally.opens += 1;
            let log = match opened {
                Ok(log) => log,
                Err(OpenError::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOSPC) => continue,
                Err(error) => panic!("an honest log does not open: {error}"),
            };
            for shard in 0..self.shards {
                let found = History::found(&log, shard).expect("the machine runs");
                let oracle = &mut self.oracles[usize::from(shard)];
                let before = oracle.accepted().len();
                oracle.check_reopened(&found, ended.unwrap_or(Ended::Cleanly));
                self.tally.records_cut_off += before.saturating_sub(oracle.accepted().len()) as u64;
            }
            return log;
        }
    }
}

impl Log {
    /// Turns all shards: once each, or until nothing happens any more.
    fn turn_all(&self, once: bool) {
        for shard in 0..self.shards() {
            self.turn_shard(ShardId(shard), once);
        }
    }
}
