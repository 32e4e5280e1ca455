//! Plays a plan through the public API on a simulated machine, with an oracle beside each shard.

use std::time::Duration;

use super::oracle::{Accepted, Oracle};
use super::plan::{Damage, Kind, Plan, Step};
use super::tally::Tally;
use crate::device::sim::{Faults, Random, SimMachine};
use crate::error::{AppendError, ReadError, TruncateError};
use crate::{Commit, Durability, Log, Options, Position, Priority, ShardId, Write};

mod ends;
mod interrupted;

const PATH: &str = "/log";

/// See the module.
pub(super) struct History {
    plan: Plan,
    /// For what no step decides.
    random: Random,
    machine: SimMachine,
    options: Options,
    oracles: Vec<Oracle>,
    /// Per shard: what the consumer has committed, and what of it is known to be durable.
    consumed: Vec<[Option<Position>; 2]>,
    pending: Vec<(Commit, Durability)>,
    next_payload: u64,
    ends: u64,
    /// Writes and syncs that had failed when this life began.
    errors: u64,
    trace: bool,
    tally: Tally,
}

/// What a reader found in one shard.
struct Found {
    records: Vec<Accepted>,
    /// It was told of damage.
    told: bool,
}

impl History {
    pub(super) fn new(plan: &Plan, trace: bool) -> History {
        let options = Options::new()
            .shards(plan.shards)
            .block_bytes(plan.block_bytes)
            .segment_bytes(plan.segment_bytes)
            .memory_bytes(plan.memory_bytes)
            .tuned(plan.tuning.clone());
        let options = match plan.record_bytes {
            Some(bytes) => options.record_bytes(bytes),
            None => options,
        };
        let machine = SimMachine::new(plan.seed);
        let homes: Vec<String> = (0..plan.shards).map(|shard| format!("/disk-{shard}")).collect();
        let options = if plan.spread { options.directories(homes) } else { options };
        if plan.deaf {
            let last = plan.shards - 1;
            machine.make_deaf(format!("/disk-{last}/shard-{last:04}"));
        }
        History {
            plan: plan.clone(),
            random: Random::new(plan.seed),
            machine,
            options,
            oracles: vec![Oracle::default(); usize::from(plan.shards)],
            consumed: vec![[None; 2]; usize::from(plan.shards)],
            pending: Vec::new(),
            next_payload: 0,
            ends: 0,
            errors: 0,
            trace,
            tally: Tally::default(),
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{}", what());
        }
    }

    pub(super) fn play(mut self) -> Tally {
        self.machine.watch_blocks();
        self.run();
        let counters = self.machine.counters();
        for (what, times) in [
            ("kills", counters.kills),
            ("power cuts", counters.power_cuts),
            ("torn in flight", counters.torn_in_flight),
            ("write errors", counters.write_errors),
            ("sync errors", counters.sync_errors),
            ("no space", counters.no_space),
            ("blocking calls that failed", counters.call_errors),
            ("of them syncs", counters.call_sync_errors),
            ("reads that failed", counters.read_errors),
            ("short transfers", counters.short),
            ("stuck operations", counters.stuck),
            ("dead owners whose writes landed late", counters.lingering),
        ] {
            self.tally.add(what, times);
        }
        self.tally.add("spread over directories", u64::from(self.plan.spread));
        self.tally.add("file systems that differ", u64::from(self.plan.deaf));
        self.tally.add("disks that set no space aside", u64::from(!self.plan.faults.reserves));
        if self.is_damaged() {
            self.tally.count(match self.plan.damage.expect("nothing else damages").0 {
                Damage::LostWrite => "lost writes",
                Damage::MisdirectedWrite => "misdirected writes",
                Damage::Rot => "rotten sectors",
                Damage::Unreadable => "unreadable sectors",
                Damage::VanishedSegment => "vanished segments",
                Damage::StaleManifest => "stale manifests",
            });
        }
        self.tally
    }

    fn run(&mut self) {
        let Some(mut log) = self.open(None) else { return };
        for step in std::mem::take(&mut self.plan.steps) {
            self.tally.count("operations");
            self.say(|| format!("{step:?}"));
            self.random = Random::new(step.draw);
            self.take_step(&log, step);
            let failed = log.stats().shards.iter().any(|shard| shard.failed);
            if self.machine.has_stopped() || failed || step.kind == Kind::End {
                match self.end_and_reopen(log) {
                    Some(reopened) => log = reopened,
                    None => return,
                }
            }
        }
        drop(self.end_and_reopen(log));
    }

    fn is_damaged(&self) -> bool {
        self.machine.counters().damages > 0
    }

    /// Blocking calls and reads that have failed: whoever made one of them may fail as well.
    fn failed_calls(&self) -> u64 {
        let counters = self.machine.counters();
        counters.call_errors + counters.read_errors
    }

    fn take_step(&mut self, log: &Log, step: Step) {
        match step.kind {
            Kind::Append => self.append(log),
            Kind::Batch => self.append_batch(log),
            Kind::WaitForOne => self.wait_for_one(),
            Kind::LookAtAll => self.look_at_all(),
            Kind::Sync => self.sync(log),
            Kind::Read => self.read(log),
            Kind::Turn => log.turn_all(true),
            Kind::Idle => self.idle(log),
            Kind::StepWall => {
                self.machine.step_wall(self.random.below(2_000_000_000) as i64 - 1_000_000_000);
            }
            Kind::TruncateBefore => self.truncate_before(log),
            Kind::TruncateAfter => self.truncate_after(log),
            Kind::Consume => self.consume(log),
            Kind::LeaveVoid => self.leave_void(log),
            Kind::Interrupted => self.append_interrupted(log),
            Kind::Stop => {
                let at = self.machine.steps() + 1 + self.random.below(60);
                self.machine.set_faults(Faults { stop_at: Some(at), ..self.faults() });
            }
            Kind::End => {}
        }
        let oldest = log.stats().shards.iter().filter_map(|shard| shard.oldest_operation).max();
        self.tally.add("seen stuck", u64::from(oldest > Some(Duration::from_secs(1))));
        for shard in 0..self.plan.shards {
            let durable = log.shard(ShardId(shard)).durable_lsn();
            self.oracles[usize::from(shard)].published(durable);
        }
    }

    /// The plan's faults, with its damage to writes.
    fn faults(&self) -> Faults {
        let mut faults = self.plan.faults.clone();
        match self.plan.damage {
            Some((Damage::LostWrite, at)) => faults.lose_write = Some(1 + at % 40),
            Some((Damage::MisdirectedWrite, at)) => faults.misdirect_write = Some(1 + at % 40),
            _ => {}
        }
        faults
    }

    fn shard(&mut self) -> ShardId {
        ShardId(self.random.below(u64::from(self.plan.shards)) as u16)
    }

    fn payload(&mut self) -> Vec<u8> {
        self.next_payload += 1;
        let most = if self.random.per_mille(self.plan.large) { 20_000 } else { 600 };
        let bytes = self.random.below(most) as usize;
        // Many sectors alike, so that torn mixes of old and new can look whole.
        let mut payload = self.next_payload.to_le_bytes().to_vec();
        payload.resize(8 + bytes, *self.random.pick(&[0, 0, 7]));
        payload
    }

    fn append(&mut self, log: &Log) {
        let shard = self.shard();
        let durability = *self.random.pick(&[
            Durability::Buffered,
            Durability::Written,
            Durability::Synced,
            Durability::Synced,
        ]);
        let payload = self.payload();
        let priority = *self.random.pick(&[Priority::Low, Priority::Normal, Priority::High]);
        let write = Write::new(&payload).durability(durability).priority(priority);
        let commit = if self.random.below(4) == 0 {
            log.shard(shard).try_append(write)
        } else {
            log.shard(shard).append(write).admitted().wait()
        };
        match commit {
            Ok(commit) => {
                self.tally.count("appends");
                let position = commit.position();
                self.say(|| format!("  {position}: {} bytes {durability:?}", payload.len()));
                let record = Accepted::new(position, payload, self.next_payload);
                self.oracles[usize::from(shard.0)].accept([record]);
                self.pending.push((commit, durability));
            }
            Err(error) => {
                self.say(|| format!("  refused: {error}"));
                self.tally.count("refusals");
            }
        }
    }

    fn append_batch(&mut self, log: &Log) {
        let shard = self.shard();
        let count = 2 + self.random.below(6);
        let payloads: Vec<Vec<u8>> = (0..count).map(|_| self.payload()).collect();
        let batch = self.next_payload;
        let oracle = &mut self.oracles[usize::from(shard.0)];
        // A batch's positions come with its outcome, so it is waited for; one that failed may be
        // there or not, as the last thing of its shard: it ends the life.
        match log.shard(shard).append_batch(b"", &payloads).wait() {
            Ok(positions) => {
                self.tally.count("batches");
                let last = *positions.last().expect("a batch has records");
                let records = positions.into_iter().zip(payloads);
                oracle.accept(records.map(|(position, payload)| Accepted::new(position, payload, batch)));
                oracle.acknowledged_durable(last);
                self.say(|| format!("  batch of {count} up to {last}"));
            }
            Err(error) => {
                if let AppendError::ShardFailed(_) = error {
                    oracle.accept_unknown(payloads, batch);
                    self.tally.count("batches of unknown outcome");
                }
                self.say(|| format!("  batch refused: {error}"));
                self.tally.count("refusals");
            }
        }
    }

    fn sync(&mut self, log: &Log) {
        let synced = log.sync().wait();
        self.say(|| format!("  {synced:?}"));
        if synced.is_ok() {
            for (commit, _) in &self.pending {
                self.oracles[usize::from(commit.position().shard().0)]
                    .acknowledged_durable(commit.position());
            }
        }
    }

    fn acknowledge(oracle: &mut Oracle, position: Position, durability: Durability) {
        match durability {
            Durability::Synced => oracle.acknowledged_durable(position),
            Durability::Written => oracle.acknowledged_written(position),
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
        let outcome = commit.wait();
        self.say(|| format!("  {position}: {outcome:?}"));
        if outcome.is_ok() {
            History::acknowledge(&mut self.oracles[usize::from(position.shard().0)], position, durability);
        }
    }

    fn look_at_all(&mut self) {
        for (commit, durability) in &self.pending {
            let position = commit.position();
            let oracle = &mut self.oracles[usize::from(position.shard().0)];
            if matches!(commit.try_result(), Some(Ok(_))) {
                History::acknowledge(oracle, position, *durability);
            }
            if commit.is_durable() {
                oracle.acknowledged_durable(position);
            }
        }
    }

    fn idle(&mut self, log: &Log) {
        let markers = |log: &Log| log.stats().shards.iter().map(|shard| shard.markers).sum::<u64>();
        let before = markers(log);
        log.turn_all(false);
        self.tally.add("markers", markers(log) - before);
        if !log.stats().shards.iter().any(|shard| shard.failed) && !self.machine.has_stopped() {
            // Left alone, everything that was accepted becomes durable within the background bound.
            for (commit, _) in &self.pending {
                assert!(commit.is_durable(), "{commit:?} is not durable in an idle log");
            }
        }
        self.look_at_all();
    }

    /// Everything that can be read of a shard; `None` where a read failed, or the machine has stopped.
    fn found(&self, log: &Log, shard: u16) -> Option<Found> {
        let records = log.shard(ShardId(shard)).read(..).ok()?;
        let mut found = Found { records: Vec::new(), told: false };
        let failed_calls = self.failed_calls();
        let mut last = 0;
        for record in records {
            match record {
                Ok(record) => {
                    assert!(record.timestamp() > last, "times rise along a shard: {record:?} after {last}");
                    last = record.timestamp();
                    let payload = record.payload().to_vec();
                    found.records.push(Accepted::new(record.position(), payload, 0));
                }
                Err(_) if self.machine.has_stopped() || self.failed_calls() > failed_calls => return None,
                Err(error) => {
                    assert!(self.is_damaged(), "no damage was done: {error}");
                    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
                    found.told = true;
                }
            }
        }
        Some(found)
    }

    fn read(&mut self, log: &Log) {
        for shard in 0..self.plan.shards {
            let Some(found) = self.found(log, shard) else { return };
            self.say_found(shard, &found);
            let damaged = self.is_damaged();
            let oracle = &mut self.oracles[usize::from(shard)];
            if damaged {
                oracle.check_damaged(&found.records, found.told);
            } else {
                oracle.check_served(&found.records);
            }
        }
        let shard = self.shard();
        let accepted = self.oracles[usize::from(shard.0)].accepted();
        if accepted.is_empty() {
            return;
        }
        let record = accepted[self.random.below(accepted.len() as u64) as usize].clone();
        let failed_calls = self.failed_calls();
        match log.get(record.position) {
            Ok(found) => assert_eq!(found.payload(), record.payload),
            Err(ReadError::Truncated { .. } | ReadError::ShardFailed(_)) => {}
            Err(error) => {
                let excused = self.machine.has_stopped() || self.failed_calls() > failed_calls;
                assert!(excused || self.is_damaged(), "{}: {error}", record.position);
            }
        }
    }

    fn say_found(&self, shard: u16, found: &Found) {
        self.say(|| {
            let ends = (found.records.first(), found.records.last());
            let ends = (ends.0.map(|record| record.position), ends.1.map(|record| record.position));
            format!("  shard {shard}: {} records {ends:?} damage {}", found.records.len(), found.told)
        });
    }

    /// A record that was accepted, if there is any.
    fn some_record(&mut self) -> Option<Position> {
        let shard = self.shard();
        let accepted = self.oracles[usize::from(shard.0)].accepted();
        (!accepted.is_empty()).then(|| accepted[self.random.below(accepted.len() as u64) as usize].position)
    }

    fn truncate_before(&mut self, log: &Log) {
        let Some(position) = self.some_record() else { return };
        let oracle = &mut self.oracles[usize::from(position.shard().0)];
        oracle.truncate_before_asked(position.lsn());
        self.machine.give_up_below(position.shard().0, position.lsn());
        let result = log.shard(position.shard()).truncate_before(position.lsn());
        if result.is_ok() {
            self.tally.count("truncations before");
            oracle.truncated_before(position.lsn());
        }
        self.say(|| format!("  before {position}: {result:?}"));
    }

    fn truncate_after(&mut self, log: &Log) {
        let Some(position) = self.some_record() else { return };
        let oracle = &mut self.oracles[usize::from(position.shard().0)];
        oracle.truncate_after_asked(position);
        let result = log.shard(position.shard()).truncate_after(position.lsn());
        self.say(|| format!("  after {position}: {result:?}"));
        let oracle = &mut self.oracles[usize::from(position.shard().0)];
        match result {
            Ok(()) => {
                self.tally.count("truncations after");
                oracle.truncated_after();
                let kept: Vec<Position> = oracle.accepted().iter().map(|record| record.position).collect();
                self.pending.retain(|(commit, _)| {
                    commit.position().shard() != position.shard() || kept.contains(&commit.position())
                });
            }
            Err(
                TruncateError::InsideBatch { .. } | TruncateError::NotARecord { .. } | TruncateError::Read(_),
            ) => oracle.truncate_after_refused(),
            Err(_) => {}
        }
    }

    /// A consumer reads on: it gets every record at least once, in order, from no later than behind what it
    /// had committed, and from no earlier than behind what of that was durable.
    fn consume(&mut self, log: &Log) {
        let Ok(mut consumer) = log.consumer("reader") else { return };
        let mut last: Vec<Option<Position>> = vec![None; usize::from(self.plan.shards)];
        let mut own = last.clone();
        for _ in 0..1 + self.random.below(8) {
            let Some(next) = consumer.next_timeout(Duration::ZERO) else { break };
            let Ok(record) = next else { break }; // Truncated, damaged, or the machine has stopped.
            let position = record.position();
            let shard = usize::from(position.shard().0);
            self.say(|| format!("  consumed {position}"));
            if !self.is_damaged() {
                let [committed, durable] = self.consumed[shard];
                let accepted = self.oracles[shard].accepted();
                let index = accepted.iter().position(|own| own.position == position);
                let index = index.unwrap_or_else(|| panic!("{position} was never accepted, or was cut"));
                assert_eq!(accepted[index].payload, record.payload());
                let behind = |position: Option<Position>| {
                    accepted.iter().take_while(|own| Some(own.position) <= position).count()
                };
                let (first, last) = match last[shard] {
                    Some(last) => (behind(Some(last)), behind(Some(last))),
                    // What the horizon hides is passed over.
                    None => (behind(durable), behind(committed).max(self.oracles[shard].hidden())),
                };
                assert!((first..=last).contains(&index), "{position}: record {index}, not {first} to {last}");
                self.tally.count("consumed");
            }
            last[shard] = Some(position);
            if self.random.below(2) == 0 && consumer.commit(position).is_ok() {
                self.consumed[shard][0] = self.consumed[shard][0].max(Some(position));
                own[shard] = Some(position);
            }
        }
        if self.random.below(2) == 0 && consumer.flush().is_ok() {
            // What was committed in an earlier life may have been lost with it.
            self.consumed.iter_mut().zip(own).for_each(|([_, durable], own)| *durable = own.max(*durable));
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
