//! How a failure stops a shard (promise 5), and with a flush that failed those beside it on the same device.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use super::engine::Engine;
use crate::error::{Failure, error_chain};
use crate::sync::lock;

/// An error to be told twice.
pub(crate) fn same(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Makes the shards of a log known to each other: those on one device stop together when it fails to flush.
pub(crate) fn link_shards(engines: &[Arc<Engine>]) {
    for engine in engines {
        let others = engines.iter().filter(|other| other.id != engine.id);
        let known = engine.others.set(others.map(Arc::downgrade).collect());
        debug_assert!(known.is_ok(), "once, when the log is opened");
    }
}

/// What failed, for a shard that stops because the device that it shares with another one lost a flush.
pub(crate) const BY_ANOTHER: &str = "another shard's flush";

/// The same where it was a blocking call that did, for whatever file or folder on the device.
pub(crate) const BY_A_CALL: &str = "a flush of the same device";

impl Engine {
    /// Stops the shard: nothing is acknowledged any more, and everybody who waits is told at once.
    ///
    /// Wake what it gives under no lock.
    #[must_use]
    pub(crate) fn stop(&self, operation: &'static str, path: PathBuf, source: io::Error) -> Vec<Waker> {
        let durable = self.durable();
        let failure = Failure { shard: self.id, operation, path, durable, source };
        let first = self.life.fail(failure);
        let mut tasks = self.admission.shut();
        self.waiting.callers.notify_all(&mut tasks);
        self.waiting.followers.notify_all(&mut tasks);
        if first {
            let failure = self.failure().expect("set above");
            self.notices.error(error_chain(failure.as_ref()).to_string());
        }
        tasks
    }

    /// Stops the shard after a panic, or in place of whoever turned it: also those are woken whom a turn had found
    /// and did not get to. Under no lock.
    pub(super) fn stop_after(&self, operation: &'static str, error: io::Error) {
        crate::sync::wake(self.stop(operation, self.path(), error));
        let wakes = lock(&self.core).take_wakes();
        self.wake(wakes);
    }

    /// Stops the shard after a panic of somebody who works for it and does not turn it. Under no lock.
    pub(crate) fn stop_by(&self, who: &'static str) {
        crate::sync::wake(self.stop(who, self.path(), io::Error::other("panicked")));
        self.wake_shard();
    }

    /// Stops the shards whose folders lie on the same device, after a flush of this one has failed: what the device had
    /// taken from any of them may be gone with it, and it tells of that once, whoever asked. Wake what it gives under
    /// no lock.
    #[must_use]
    pub(super) fn stop_device(&self, path: &Path, error: &io::Error) -> Vec<Waker> {
        let beside = |other: &Arc<Engine>| other.device_number() == self.device_number();
        let mut tasks = Vec::new();
        for other in self.others().filter(beside).filter(|other| other.failure().is_none()) {
            // Whoever turns it may be anywhere: it heeds the failure in its next look, as after `give_up`.
            tasks.extend(other.stop(BY_ANOTHER, path.to_owned(), same(error)));
            other.wake_shard();
        }
        tasks
    }

    fn others(&self) -> impl Iterator<Item = Arc<Engine>> {
        self.others.get().into_iter().flatten().filter_map(Weak::upgrade)
    }

    /// Stops the shard if its device has failed a flush in a blocking call, whoever made it: asked before anything is
    /// acknowledged. Wake what it gives under no lock.
    #[must_use]
    pub(super) fn stop_if_flush_failed(&self) -> Option<Vec<Waker>> {
        let flush = self.failed_flush().filter(|_| !self.life.has_failed())?;
        Some(self.stop(BY_A_CALL, flush.path.clone(), same(&flush.error)))
    }

    /// The same of all shards of the log, after blocking calls that may have failed: whoever waits is told at once, and
    /// not when somebody turns the shard. Under no lock.
    pub(crate) fn tell_of_flushes(&self) {
        let tell = |engine: &Engine| {
            if let Some(tasks) = engine.stop_if_flush_failed() {
                crate::sync::wake(tasks);
                engine.wake_shard();
            }
        };
        tell(self);
        self.others().for_each(|other| tell(&other));
    }

    /// Stops the shard because the device has not answered for so long. Wake what it gives under no lock.
    #[must_use]
    pub(crate) fn give_up(&self, age: Duration) -> Vec<Waker> {
        let error =
            io::Error::new(io::ErrorKind::TimedOut, format!("the device has not answered for {age:?}"));
        // The core may be held by whoever is stuck: it heeds the failure once it is back.
        self.stop("waiting for the device", self.path(), error)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use super::{BY_A_CALL, BY_ANOTHER, lock};
    use crate::simulation::{Faults, Simulated};
    use crate::{AppendError, ConsumerError, Durability, Log, Options, ShardId, Write};

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn open(machine: &Simulated, directories: &[&str]) -> Log {
        let options = Options::new().shards(2).segment_bytes(1 << 20).memory_bytes(1 << 20).device(machine);
        let options = if directories.is_empty() { options } else { options.directories(directories) };
        options.open(Path::new("/log")).unwrap()
    }

    /// Has a flush of shard 0 fail, of a synchronous write or of a file; then the device is well again.
    fn fail_a_flush(machine: &Simulated, log: &Log, durability: Durability) {
        let written = log.shard(ShardId(0)).append(Write::new(b"lost").durability(durability)).admitted();
        let commit = written.wait().unwrap();
        if durability == Durability::Written {
            commit.wait().unwrap();
            machine.set_faults(&Faults { sync_error: 1000, ..Faults::default() });
            let engine = log.engine_of(ShardId(0));
            engine.ask_sync(&engine.last_target(Durability::Synced).unwrap());
            engine.turn_until(|| false);
        } else {
            machine.set_faults(&Faults { write_error: 1000, ..Faults::default() });
            commit.wait().unwrap_err();
        }
        machine.set_faults(&Faults::default());
    }

    #[test]
    fn a_failed_flush_stops_every_shard_of_its_device_and_tells_whoever_waits() {
        for durability in [Durability::Written, Durability::Synced] {
            let machine = Simulated::seed(1);
            let log = open(&machine, &[]);
            let other = log.shard(ShardId(1));
            let before = other.append(b"before").wait().unwrap();
            let waits = other.append(b"waits").admitted().wait().unwrap();
            let woken = Arc::new(Woken(AtomicBool::new(false)));
            let engine = log.engine_of(ShardId(1));
            let registration = engine.register_follower(&Waker::from(woken.clone()), None);
            assert!(waits.try_result().is_none());
            fail_a_flush(&machine, &log, durability);
            assert!(woken.0.load(Ordering::SeqCst), "told at once, and not when somebody turns its shard");
            engine.forget_follower(registration);
            let told = waits.try_result();
            let Some(Err(AppendError::ShardFailed(failure))) = told else { panic!("{told:?}") };
            assert_eq!((failure.shard, failure.operation), (ShardId(1), BY_ANOTHER));
            assert!(failure.path.starts_with("/log/shard-0000"), "{failure}");
            assert_eq!(failure.source.raw_os_error(), Some(libc::EIO));
            assert!(other.append(b"later").wait().is_err());
            assert_eq!(log.get(before).unwrap().payload(), b"before", "reads go on");
            assert!(log.close().is_err());
        }
    }

    #[test]
    fn shards_on_other_devices_go_on() {
        let machine = Simulated::seed(1);
        let log = open(&machine, &["/one", "/two"]);
        fail_a_flush(&machine, &log, Durability::Synced);
        assert!(log.shard(ShardId(0)).append(b"later").wait().is_err());
        log.shard(ShardId(1)).append(b"later").wait().unwrap();
    }

    type Call = fn(&Log, &dyn Fn());

    /// Whatever flushes in a blocking call: it has the device fail once it is ready for that.
    const CALLS: [(&str, Call); 9] = [
        ("a new segment", |log, fail| {
            fail();
            log.engine_of(ShardId(0)).make_segment();
        }),
        ("truncation at the front", |log, fail| {
            let shard = log.shard(ShardId(0));
            fail();
            shard.truncate_before(shard.durable_lsn()).unwrap_err();
        }),
        ("truncation at the end", |log, fail| {
            let shard = log.shard(ShardId(0));
            let last = shard.append(b"last").wait().unwrap();
            shard.append(b"cut off").wait().unwrap();
            fail();
            shard.truncate_after(last.lsn()).unwrap_err();
        }),
        ("a consumer that is opened", |log, fail| {
            fail();
            log.consumer("worker").unwrap_err();
        }),
        ("a consumer that flushes", |log, fail| {
            let mut worker = log.consumer("worker").unwrap();
            let record = worker.next().unwrap().unwrap();
            worker.commit(record.position()).unwrap();
            fail();
            worker.flush().unwrap_err();
        }),
        ("a consumer that is dropped", |log, fail| {
            let mut worker = log.consumer("worker").unwrap();
            let record = worker.next().unwrap().unwrap();
            worker.commit(record.position()).unwrap();
            fail();
        }),
        ("a consumer that is removed", |log, fail| {
            drop(log.consumer("worker").unwrap());
            fail();
            log.remove_consumer("worker").unwrap_err();
        }),
        ("a tally that is opened", |log, fail| {
            fail();
            log.tally("sums").unwrap_err();
        }),
        ("a tally that is removed", |log, fail| {
            log.tally("sums").unwrap();
            fail();
            log.remove_tally("sums").unwrap_err();
        }),
    ];

    #[test]
    fn a_flush_that_fails_in_a_blocking_call_stops_the_shards_of_its_device_at_once() {
        for (what, call) in CALLS {
            let machine = Simulated::seed(1);
            let log = open(&machine, &[]);
            log.shard(ShardId(0)).append(b"before").wait().unwrap();
            let waits = log.shard(ShardId(1)).append(b"waits").admitted().wait().unwrap();
            let woken = Arc::new(Woken(AtomicBool::new(false)));
            let engine = log.engine_of(ShardId(1));
            let registration = engine.register_follower(&Waker::from(woken.clone()), None);
            call(&log, &|| machine.set_faults(&Faults { flush_error: 1000, ..Faults::default() }));
            machine.set_faults(&Faults::default());
            assert!(
                woken.0.load(Ordering::SeqCst),
                "{what}: told at once, and not when somebody turns its shard"
            );
            engine.forget_follower(registration);
            let failure = engine.failure().expect("it has stopped");
            assert_eq!((failure.shard, failure.operation), (ShardId(1), BY_A_CALL), "{what}");
            assert!(failure.path.starts_with("/log"), "{what}: {failure}");
            assert_eq!(failure.source.raw_os_error(), Some(libc::EIO));
            let told = waits.try_result();
            assert!(matches!(told, None | Some(Err(AppendError::ShardFailed(_)))), "{what}: {told:?}");
            assert!(waits.wait().is_err() && log.shard(ShardId(1)).append(b"later").wait().is_err());
            assert!(log.shard(ShardId(0)).append(b"later").wait().is_err(), "{what}: its own");
        }
    }

    #[test]
    fn a_flush_that_fails_in_a_blocking_call_stops_no_shard_elsewhere() {
        let machine = Simulated::seed(1);
        let log = open(&machine, &["/one", "/two"]);
        let fail = || machine.set_faults(&Faults { flush_error: 1000, ..Faults::default() });
        fail();
        let own = log.consumer("worker").unwrap_err();
        assert!(matches!(own, ConsumerError::Io { .. }), "{own}");
        log.engine_of(ShardId(0)).make_segment();
        machine.set_faults(&Faults::default());
        assert!(log.shard(ShardId(0)).append(b"later").wait().is_err());
        log.shard(ShardId(1)).append(b"later").wait().unwrap();
    }

    /// Nobody was told yet: whoever turns the shard looks before it acknowledges.
    #[test]
    fn what_a_failed_flush_may_have_lost_is_not_acknowledged() {
        let machine = Simulated::seed(1);
        let log = open(&machine, &[]);
        let waits = log.shard(ShardId(1)).append(b"waits").admitted().wait().unwrap();
        machine.set_faults(&Faults { flush_error: 1000, ..Faults::default() });
        let folder = lock(&log.engine_of(ShardId(0)).store).directory().clone();
        folder.sync().unwrap_err();
        machine.set_faults(&Faults::default());
        let told = waits.wait();
        assert!(matches!(told, Err(AppendError::ShardFailed(_))), "{told:?}");
    }

    #[test]
    fn one_that_fails_in_a_close_is_told_to_those_that_close_after_it() {
        let machine = Simulated::seed(1);
        let log = open(&machine, &[]);
        let waits = log.shard(ShardId(1)).append(b"waits").admitted().wait().unwrap();
        let engine = log.engine_of(ShardId(1)).clone();
        machine.set_faults(&Faults { flush_error: 1000, ..Faults::default() });
        log.close().unwrap_err();
        assert_eq!(engine.failure().expect("it has stopped").operation, BY_A_CALL);
        assert!(waits.wait().is_err());
    }

    /// A write that is not synchronous leaves nothing of another shard's behind.
    #[test]
    fn a_write_that_fails_stops_its_own_shard_alone() {
        let machine = Simulated::seed(1);
        let log = open(&machine, &[]);
        machine.set_faults(&Faults { write_error: 1000, ..Faults::default() });
        let written = Write::new(b"lost").durability(Durability::Written);
        assert!(log.shard(ShardId(0)).append(written).wait().is_err());
        machine.set_faults(&Faults::default());
        log.shard(ShardId(1)).append(b"later").wait().unwrap();
    }
}
