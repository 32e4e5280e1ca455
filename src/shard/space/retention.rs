//! Retention: segments that need not be kept any longer are given up, for their bytes or for their age.

use std::time::Duration;

use super::SpaceConfig;
use super::retention_clock::{Ages, Moment};
use crate::device::{Device, Directory};
use crate::error::error_chain;
use crate::format::{SlotKind, decode_ages, encode_ages};
use crate::position::{Lsn, ShardId};
use crate::segment::{ManifestError, ManifestFiles, StoreView};
use crate::shard::engine::Engine;
use crate::sync::lock;
use crate::time::Nanos;

/// What the files are called.
const PREFIX: &str = "shard.ages";

/// The ages are written down so often, or less often: what a crash takes of them is kept for so much longer.
const WRITE_EVERY_NS: u64 = 60 * 1_000_000_000;

/// That much was given up at once is told at most once in that time.
const TELL_EVERY_NS: u64 = 3600 * 1_000_000_000;

/// How retention stands.
#[derive(Debug, Default)]
pub(in crate::shard) struct Retention {
    kept: Option<Kept>,
    /// When it was told that much was given up.
    told: Option<Nanos>,
}

/// The ages, and where they are written down.
#[derive(Debug)]
struct Kept {
    ages: Ages,
    /// `None` where that cannot be done.
    files: Option<ManifestFiles>,
    written_ns: u64,
}

fn moment(device: &dyn Device) -> Moment {
    Moment { steady: device.steady(), wall: device.wall() }
}

/// The files, and what they say of a shard of this log; anew where they say nothing that can be used.
fn open_files(
    directory: &dyn Directory,
    log_id: [u8; 16],
) -> Result<(ManifestFiles, Vec<u8>), ManifestError> {
    let fresh = || Ok(encode_ages(log_id, 0, 0, &[]));
    match ManifestFiles::open_or_create(directory, PREFIX, SlotKind::Ages, fresh) {
        Err(ManifestError::Damaged(_)) => {
            ManifestFiles::remove(directory, PREFIX)?;
            ManifestFiles::open_or_create(directory, PREFIX, SlotKind::Ages, fresh)
        }
        opened => opened,
    }
}

impl Engine {
    /// Gives up the segments that need not be kept any longer. Called by the maintenance thread.
    ///
    /// An error is told in one line of the log; the next call tries again.
    pub(crate) fn retain(&self) {
        let horizon = self.retention_horizon();
        // What was written down for it may not have been flushed.
        self.tell_of_flushes();
        let Some(horizon) = horizon else { return };
        let view = self.view();
        let kept = self.durable();
        match self.truncate_before(horizon) {
            Ok(()) => self.tell_given_up(&view, horizon, kept),
            Err(error) => {
                self.notices.warn(format!("shard {}: retention: {}", self.id, error_chain(&error)));
            }
        }
    }

    /// The end of the last segment that may go; `None` if none may.
    fn retention_horizon(&self) -> Option<Lsn> {
        let SpaceConfig { retain_bytes, retain_ns, .. } = self.space.config;
        if retain_bytes.is_none() && retain_ns.is_none() || self.is_ended() {
            return None;
        }
        let durable = self.durable();
        let outdated = retain_ns.map_or(Lsn(0), |age| self.look_at_ages(age, durable));
        let view = self.view();
        let too_much = |end: Lsn| retain_bytes.is_some_and(|bytes| durable.0.saturating_sub(end.0) >= bytes);
        let whole = view.segments.iter().map(|segment| segment.end()).filter(|end| *end <= durable);
        let horizon = whole.take_while(|&end| too_much(end) || end <= outdated).last()?;
        let horizon = self.pinned_from().map_or(horizon, |kept| horizon.min(kept));
        (horizon > view.horizon).then_some(horizon)
    }

    /// Everything below what is given is older than `age`.
    fn look_at_ages(&self, age: u64, durable: Lsn) -> Lsn {
        let mut retention = lock(&self.space.retention);
        let now = moment(self.device.as_ref());
        let kept = retention.kept.get_or_insert_with(|| self.open_ages(age, now));
        let step = kept.ages.look(now, durable);
        if let Some(step) = step.filter(|_| self.id == ShardId(0)) {
            let by = Duration::from_nanos(u64::try_from(step.unsigned_abs()).unwrap_or(u64::MAX));
            let how = if step > 0 { "forward" } else { "back" };
            self.notices.warn(format!(
                "the wall clock was set {how} by {by:.0?}: for retention by age that is no time that has passed"
            ));
        }
        let outdated = kept.ages.outdated();
        // What is written down names the wall clock as it was: after a crash it would count as time that has passed.
        let is_due = now.steady.saturating_sub(kept.written_ns) >= WRITE_EVERY_NS.max(age / 64);
        if is_due || step.is_some() {
            self.write_ages(kept, now);
        }
        outdated
    }

    fn open_ages(&self, age: u64, now: Moment) -> Kept {
        let (directory, view) = (lock(&self.store).directory().clone(), self.view());
        let _out = self.calls.begin();
        let end = view.epochs.rows().last().map_or(Lsn(0), |row| Lsn(row.start));
        let anew = |files| Kept { ages: Ages::new(age, now), files, written_ns: now.steady };
        match open_files(directory.as_ref(), view.log_id) {
            Ok((files, body)) => match decode_ages(&body) {
                Ok((row, marks)) if row.log_id == view.log_id => {
                    let ages = Ages::resume(age, now, &row, marks, end);
                    Kept { ages, files: Some(files), written_ns: now.steady }
                }
                _ => anew(Some(files)),
            },
            Err(error) => {
                let reason = match error {
                    ManifestError::Io { file, source, .. } => {
                        ManifestError::of_file(directory.path(), file, source).to_string()
                    }
                    _ => "a newer version wrote it".to_owned(),
                };
                self.tell_not_written(&reason);
                anew(None)
            }
        }
    }

    fn tell_not_written(&self, reason: &str) {
        self.notices.warn(format!(
            "shard {}: {PREFIX}: how old records are cannot be written down, and after the next open they are taken for \
             new: {reason}",
            self.id
        ));
    }

    /// Where it fails, but for want of room, that is the last time: the older copy counts then.
    fn write_ages(&self, kept: &mut Kept, now: Moment) {
        kept.written_ns = now.steady;
        let (Some(files), Some((own_ns, wall, marks))) = (&mut kept.files, kept.ages.row()) else { return };
        let _out = self.calls.begin();
        let own = lock(&self.store).check_owned();
        let is_own = own.is_ok();
        let body = encode_ages(self.view().log_id, own_ns, wall, &marks);
        if let Err(error) = own.and_then(|_| files.write_one(&body)) {
            if !is_own || files.is_broken() {
                kept.files = None;
            }
            self.tell_not_written(&error.to_string());
        }
    }

    /// The log is being closed.
    pub(in crate::shard) fn end_retention(&self) {
        let mut retention = lock(&self.space.retention);
        let now = moment(self.device.as_ref());
        if let Some(kept) = &mut retention.kept {
            kept.ages.close(now, self.durable());
            self.write_ages(kept, now);
        }
    }

    fn tell_given_up(&self, before: &StoreView, horizon: Lsn, durable: Lsn) {
        let (had, gave) = (durable.0 - before.horizon.0, horizon.0 - before.horizon.0);
        let whole = before.segments.iter().map(|segment| segment.end());
        let segments = whole.filter(|end| *end > before.horizon && *end <= horizon).count();
        if segments < 2 || gave < had / 4 {
            return;
        }
        let now = self.device.now();
        let mut retention = lock(&self.space.retention);
        if retention.told.is_some_and(|told| now - told < TELL_EVERY_NS) {
            return;
        }
        retention.told = Some(now);
        self.notices.info(format!(
            "shard {}: retention gave up {segments} segments at once, {gave} of {had} bytes",
            self.id
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::SimMachine;
    use crate::simulation::Simulated;
    use crate::{Log, Options};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn open(machine: &Simulated) -> Log {
        let options =
            Options::new().shards(1).block_bytes(64 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20);
        options.retain_age(7 * DAY).device(machine).open("/log").unwrap()
    }

    /// As the maintenance thread looks around, and a shard that fills three segments meanwhile.
    fn days(log: &Log, machine: &Simulated, days: u32) {
        for _ in 0..days {
            for _ in 0..96 {
                log.append(vec![7; 32 << 10]).wait().unwrap();
            }
            for _ in 0..24 {
                machine.device().pause(DAY / 24);
                log.engine_of(ShardId(0)).retain();
            }
        }
    }

    fn horizon(log: &Log) -> Lsn {
        log.stats().shards[0].horizon
    }

    fn kept(log: &Log) -> u64 {
        log.stats().shards[0].durable_lsn.0 - horizon(log).0
    }

    const DAILY: u64 = 96 * (32 << 10);

    /// One record from the future is in the times of all later ones, and they are given up all the same.
    #[test]
    fn a_record_from_the_future_ends_no_retention() {
        let machine = Simulated::seed(4);
        let mut log = open(&machine);
        days(&log, &machine, 1);
        let years = 50 * 365 * DAY.as_nanos() as i64;
        machine.step_wall_clock(years);
        log.append(b"from the future").wait().unwrap();
        log.engine_of(ShardId(0)).retain();
        machine.step_wall_clock(-years);
        for _ in 0..12 {
            days(&log, &machine, 1);
            log.close().unwrap();
            drop(log);
            log = open(&machine);
        }
        days(&log, &machine, 1);
        assert!(horizon(&log) > Lsn(0), "nothing was ever given up");
        assert!(kept(&log) <= 10 * DAILY, "{} days are kept", kept(&log) / DAILY);
    }

    /// The clock is ahead for three seconds: nothing is given up, and that it was set is told.
    #[test]
    fn a_clock_that_is_ahead_for_seconds_makes_nothing_old() {
        let machine = Simulated::seed(5);
        let log = open(&machine);
        days(&log, &machine, 3);
        let month = 30 * DAY.as_nanos() as i64;
        machine.step_wall_clock(month);
        for _ in 0..3 {
            machine.device().pause(Duration::from_secs(1));
            log.engine_of(ShardId(0)).retain();
        }
        machine.step_wall_clock(-month);
        days(&log, &machine, 1);
        assert_eq!(horizon(&log), Lsn(0));
        let told = |way: &str| log.stats().notices.iter().filter(|line| line.contains(way)).count();
        assert_eq!([told("set forward by"), told("set back by")], [1, 1], "{:?}", log.stats().notices);
    }

    /// What lies beside the log from another moment of its life makes nothing old.
    #[test]
    fn ages_that_are_damaged_or_missing_are_made_anew() {
        let disk = SimMachine::new(6);
        let machine = Simulated::of(&disk);
        let log = open(&machine);
        days(&log, &machine, 6);
        log.close().unwrap();
        drop(log);
        let mut damaged = 0;
        for file in 0..64 {
            disk.edit(file, |name, bytes| {
                if name.starts_with(PREFIX) {
                    bytes[40..48].fill(0xee);
                    damaged += 1;
                }
            });
        }
        assert!(damaged > 0, "they were written down");
        let log = open(&machine);
        days(&log, &machine, 6);
        assert_eq!(horizon(&log), Lsn(0), "all counts as new");
        days(&log, &machine, 3);
        assert!(horizon(&log) > Lsn(0));
    }

    /// They are written once there is room, and a close has them.
    #[test]
    fn ages_are_written_down_again_once_there_is_room() {
        use crate::device::sim::Faults;
        for seed in 0..20 {
            let disk = SimMachine::new(seed);
            let machine = Simulated::of(&disk);
            let log = open(&machine);
            days(&log, &machine, 2);
            let written = || {
                let folder = machine.device().directory(std::path::Path::new("/log/shard-0000")).unwrap();
                let body = ManifestFiles::peek(folder.as_ref(), PREFIX, SlotKind::Ages).unwrap();
                decode_ages(&body).unwrap().0.own
            };
            let before = written();
            disk.set_faults(Faults { shared: 1000, ..Faults::default() });
            for _ in 0..12 {
                machine.device().pause(DAY / 4);
                log.engine_of(ShardId(0)).retain();
            }
            let told = |line: &&String| {
                line.contains("cannot be written down") && line.contains("shard.ages.manifest.")
            };
            assert_eq!(log.stats().notices.iter().filter(told).count(), 1, "{:?}", log.stats().notices);
            disk.set_faults(Faults::default());
            machine.device().pause(DAY / 4);
            log.engine_of(ShardId(0)).retain();
            assert!(written() >= before + 3 * DAY.as_nanos() as u64, "seed {seed}");
            log.close().unwrap();
        }
    }

    #[test]
    fn much_that_is_given_up_at_once_is_told_and_what_goes_by_and_by_is_not() {
        let machine = Simulated::seed(7);
        let log = open(&machine);
        let told = |log: &Log| log.stats().notices.iter().filter(|line| line.contains("gave up")).count();
        days(&log, &machine, 12);
        assert!(horizon(&log) > Lsn(0));
        assert_eq!(told(&log), 0, "{:?}", log.stats().notices);
        machine.device().pause(10 * DAY);
        log.engine_of(ShardId(0)).retain();
        assert_eq!(told(&log), 1, "{:?}", log.stats().notices);
    }
}
