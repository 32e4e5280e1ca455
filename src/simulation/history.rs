//! Plays a plan through the public API on a simulated machine, with an oracle beside each shard.

use std::time::Duration;

use super::counts::Counts;
use super::oracle::{Accepted, Oracle};
use super::plan::{Damage, Kind, Plan, Step};
use crate::device::sim::{Faults, Random, SimMachine};
use crate::error::{AppendError, Cause, TruncateError};
use crate::log::LogReader;
use crate::shard::{BY_A_CALL, BY_ANOTHER};
use crate::{Commit, Durability, Log, Options, Position, Priority, ShardId, Write};

mod ends;
mod index;
mod interrupted;
mod key_followers;
mod keyed;
mod keys;
mod put_back;
mod readers;
mod rebuilt;
mod terms;
mod times;
mod waits;

use key_followers::KeyFollower;
use readers::Follower;

const PATH: &str = "/log";

/// One simulated history: a plan being played, with the oracles that check it.
pub(super) struct History {
    plan: Plan,
    /// For what no step decides.
    random: Random,
    machine: SimMachine,
    options: Options,
    oracles: Vec<Oracle>,
    /// Per shard: what the consumer has committed, and what of it is known to be durable.
    consumed: Vec<[Option<Position>; 2]>,
    pending: Vec<Pending>,
    /// Per shard: one that goes on from step to step, for as long as the log is open.
    followers: Vec<Option<Follower>>,
    key_followers: Vec<KeyFollower>,
    /// Reads beside the log that is open.
    beside: Option<LogReader>,
    copy: Option<put_back::Copy>,
    across: Vec<put_back::Across>,
    /// Places of records that were cut off.
    cut: Vec<Position>,
    terms: terms::Given,
    next_payload: u64,
    ends: u64,
    /// Writes and syncs that had failed when this life began, those of blocking calls too.
    errors: u64,
    /// Per shard: how often its device had failed to flush when this life began.
    failed_flushes: Vec<u64>,
    /// In this life a truncation found no room for a manifest.
    found_no_room: bool,
    trace: bool,
    tally: Counts,
}

/// Something that was accepted and not waited for.
struct Pending {
    commit: Commit,
    durability: Durability,
    /// Of a batch, its last record.
    last: Position,
}

impl Pending {
    fn one(commit: Commit, durability: Durability) -> Pending {
        let last = commit.position();
        Pending { commit, durability, last }
    }
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
            .index_keys(true)
            // Twice what the shortest write takes, or half of what the longest does.
            .delay_target(Duration::from_micros(if plan.seed % 2 == 0 { 100 } else { 10_000 }))
            .dedup_ids(terms::ids_kept(plan.seed))
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
            followers: (0..plan.shards).map(|_| None).collect(),
            key_followers: Vec::new(),
            beside: None,
            copy: None,
            across: Vec::new(),
            cut: Vec::new(),
            terms: terms::Given::new(plan.seed),
            next_payload: 0,
            ends: 0,
            errors: 0,
            failed_flushes: vec![0; usize::from(plan.shards)],
            found_no_room: false,
            trace,
            tally: Counts::default(),
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{}", what());
        }
    }

    pub(super) fn play(mut self) -> Counts {
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
            ("files that lost what another's flush took along", counters.lost_beside),
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
                Damage::OlderManifest => "manifests of the same life put back",
            });
        }
        self.tally
    }

    fn run(&mut self) {
        let Some(mut log) = self.open(None) else { return };
        for (index, step) in (0..).zip(std::mem::take(&mut self.plan.steps)) {
            if self.plan.damage.is_some_and(|(kind, at)| kind == Damage::OlderManifest && at % 64 == index) {
                self.machine.keep_manifests();
            }
            self.tally.count("operations");
            self.say(|| format!("{step:?}"));
            self.random = Random::new(step.draw);
            self.take_step(&log, step);
            self.step_index(&log, step);
            self.check_flushes(&log);
            let failed = log.stats().shards.iter().any(|shard| shard.failed);
            if self.machine.has_stopped() || failed || step.kind == Kind::End {
                match self.end_and_reopen(log) {
                    Some(reopened) => log = reopened,
                    None => return,
                }
            }
        }
        let ended = self.end(log);
        if self.plan.damage.is_none() && self.plan.seed % 2 == 0 {
            return self.lose_manifests(ended);
        }
        drop(self.open(Some(ended)));
    }

    /// A life begins: what failed before it is over.
    fn note_flushes(&mut self, log: &Log) {
        self.found_no_room = false;
        for shard in 0..self.plan.shards {
            let device = log.engine_of(ShardId(shard)).device_number();
            self.failed_flushes[usize::from(shard)] = self.machine.failed_flushes(device);
        }
    }

    /// A flush that failed is the failure of its device, and has stopped every shard there, and none elsewhere.
    fn check_flushes(&mut self, log: &Log) {
        let shards: Vec<_> = (0..self.plan.shards).map(|shard| log.engine_of(ShardId(shard))).collect();
        let failed_by_itself = |device: u64, name: fn(&'static str) -> bool| {
            let there = shards.iter().filter(|shard| shard.device_number() == device);
            there.filter_map(|shard| shard.failure()).any(|failure| name(failure.operation))
        };
        let (mut others, mut by_calls) = (0, 0);
        for shard in &shards {
            let (device, failure) = (shard.device_number(), shard.failure());
            let by_another = failure.is_some_and(|failure| failure.operation == BY_ANOTHER);
            let flush_failed = failed_by_itself(device, |name| name == "sync");
            assert!(!flush_failed || failure.is_some(), "shard {} goes on", shard.id);
            let by_a_call = failure.is_some_and(|failure| failure.operation == BY_A_CALL);
            let before = self.failed_flushes[usize::from(shard.id.0)];
            let device_failed = self.machine.failed_flushes(device) > before;
            assert!(!device_failed || failure.is_some(), "shard {} goes on after a failed flush", shard.id);
            assert!(!by_a_call || device_failed, "shard {} was stopped, and no flush had failed", shard.id);
            // A synchronous write fails as a flush does.
            let failed = failed_by_itself(device, |name| name != BY_ANOTHER);
            assert!(!by_another || failed, "shard {} was stopped by another device's flush", shard.id);
            others += u64::from(by_another);
            by_calls += u64::from(by_a_call);
        }
        self.tally.add("shards stopped by a blocking call's flush", by_calls);
        self.tally.add("shards stopped by another's flush", others);
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
            Kind::BatchPending => self.leave_batch_pending(log),
            Kind::WaitForOne => self.wait_for_one(),
            Kind::LookAtAll => self.look_at_all(),
            Kind::Sync => self.sync(log),
            Kind::Read => self.read(log),
            Kind::Follow => self.follow(log),
            Kind::ReadBeside => self.read_beside(log),
            Kind::Seek => self.seek(log),
            Kind::ReadKey => self.read_key(log),
            Kind::UnderTerms => self.append_under_terms(log),
            Kind::KeyedBatch => self.append_keyed(log),
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
        let mut payload = self.payload();
        let key = self.own(std::slice::from_mut(&mut payload));
        let priority = *self.random.pick(&[Priority::Low, Priority::Normal, Priority::High]);
        let write = Write::new(&payload).key(key).durability(durability).priority(priority);
        let write = write.tenant(self.random.below(3));
        let write = match self.random.below(4) {
            0 => write.deadline(Duration::from_nanos(*self.random.pick(&[
                0,
                10_000,
                5_000_000,
                2_000_000_000,
            ]))),
            _ => write,
        };
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
                self.pending.push(Pending::one(commit, durability));
            }
            // Whatever the cause, it is in the log at no time: the oracle knows of no such record.
            Err(error) => {
                self.say(|| format!("  refused: {error}"));
                self.tally.count(match error {
                    AppendError::Overloaded { cause: Cause::Delay, .. } => "refused for the delay",
                    AppendError::Overloaded { cause: Cause::Deadline, .. } => "given up at their deadline",
                    _ => "refusals",
                });
            }
        }
    }

    fn append_batch(&mut self, log: &Log) {
        let shard = self.shard();
        let count = 2 + self.random.below(6);
        let mut payloads: Vec<Vec<u8>> = (0..count).map(|_| self.payload()).collect();
        let key = self.own(&mut payloads);
        let batch = self.next_payload;
        let oracle = &mut self.oracles[usize::from(shard.0)];
        // A batch's positions come with its outcome, so it is waited for; one that failed may be
        // there or not, as the last thing of its shard: it ends the life.
        match log.shard(shard).append_batch(key, &payloads).wait() {
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

    /// Has a batch accepted, mostly one over several blocks, and goes on while it is under way.
    fn leave_batch_pending(&mut self, log: &Log) {
        let shard = self.shard();
        let count = 2 + self.random.below(8);
        let wide = u64::from(self.plan.block_bytes) / self.random.below(8).max(1);
        let mut payloads: Vec<Vec<u8>> = (0..count).map(|_| self.payload()).collect();
        for payload in &mut payloads {
            payload.resize(payload.len().max(self.random.below(wide) as usize), 7);
        }
        let key = self.own(&mut payloads);
        let batch = self.next_payload;
        match log.shard(shard).append_batch(key, &payloads).admitted().wait() {
            Ok((commit, positions)) => {
                self.tally.count("batches left pending");
                let last = *positions.last().expect("a batch has records");
                self.say(|| format!("  batch of {count} from {} to {last}", positions[0]));
                let records = positions.into_iter().zip(payloads);
                let records = records.map(|(position, payload)| Accepted::new(position, payload, batch));
                self.oracles[usize::from(shard.0)].accept(records);
                self.pending.push(Pending { commit, durability: Durability::Synced, last });
                if self.random.below(2) == 0 {
                    self.read_in_the_middle(log, shard);
                }
            }
            Err(error) => {
                self.say(|| format!("  batch refused: {error}"));
                self.tally.count("refusals");
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
            for Pending { commit, .. } in &self.pending {
                assert!(commit.is_durable(), "{commit:?} is not durable in an idle log");
            }
        }
        self.look_at_all();
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
        match &result {
            Ok(()) => {
                self.tally.count("truncations before");
                self.tally.add("truncations after one that found no room", u64::from(self.found_no_room));
                oracle.truncated_before(position.lsn());
            }
            Err(TruncateError::Io { source, .. }) => {
                self.found_no_room |= source.kind() == std::io::ErrorKind::StorageFull;
            }
            Err(_) => {}
        }
        self.say(|| format!("  before {position}: {result:?}"));
    }

    fn truncate_after(&mut self, log: &Log) {
        let Some(position) = self.some_record() else { return };
        let oracle = &mut self.oracles[usize::from(position.shard().0)];
        oracle.truncate_after_asked(position);
        let behind = oracle.accepted().iter().map(|record| record.position).find(|own| *own > position);
        let result = log.shard(position.shard()).truncate_after(position.lsn());
        self.say(|| format!("  after {position}: {result:?}"));
        let oracle = &mut self.oracles[usize::from(position.shard().0)];
        match result {
            Ok(()) => {
                self.tally.count("truncations after");
                oracle.truncated_after();
                self.cut.extend(behind);
                let kept: Vec<Position> = oracle.accepted().iter().map(|record| record.position).collect();
                self.pending
                    .retain(|Pending { last, .. }| last.shard() != position.shard() || kept.contains(last));
                // One that has read what was cut is begun anew; any other goes on, maybe within the block.
                let follower = &mut self.followers[usize::from(position.shard().0)];
                if !follower.as_ref().is_some_and(|follower| follower.is_below(position)) {
                    *follower = None;
                }
                self.key_followers.retain(|follower| follower.is_below(position));
            }
            Err(
                TruncateError::InsideBatch { .. } | TruncateError::NotARecord { .. } | TruncateError::Read(_),
            ) => oracle.truncate_after_refused(),
            Err(_) => {}
        }
    }
}
