//! The real drivers on a disk of the tests' own (`fuse/`): power cuts that lose and tear what was not synced,
//! errors, short writes, a full disk, a device that does not answer.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sawmill::options::OnStuck;
use sawmill::{AppendError, Backend, CloseError, Log, OpenError, Options, Position, ShardId};

use crate::fuse::{Disk, Faults};
use crate::stuck_device::Answers;

const BACKENDS: [Backend; 2] = [Backend::Uring, Backend::Syscall];

fn options(backend: Backend) -> Options {
    Options::new()
        .shards(2)
        .backend(backend)
        .block_bytes(16 << 10)
        .segment_bytes(1 << 20)
        .memory_bytes(1 << 20)
}

fn payload(number: u32) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(8 + number as usize * 37 % 3_000, 7);
    payload
}

/// Appends from four threads until the log fails; tells of what was acknowledged, in the call.
fn append_until_failure(log: &Log, life: u32, acknowledged: &Sender<(Position, u32)>) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let acknowledged = acknowledged.clone();
            scope.spawn(move || {
                for index in 0.. {
                    let number = life << 24 | thread << 16 | index;
                    match log.shard(ShardId(number as u16 % 2)).append(payload(number)).wait() {
                        // The other side may have heard enough.
                        Ok(position) => drop(acknowledged.send((position, number))),
                        Err(_) => return,
                    }
                }
            });
        }
    });
}

/// Appends one record after the other for as long as that goes well.
fn until_refused(log: &Log) -> (Vec<(Position, u32)>, AppendError) {
    let mut all = Vec::new();
    loop {
        let number = all.len() as u32;
        match log.append(payload(number)).wait() {
            Ok(position) => all.push((position, number)),
            Err(error) => return (all, error),
        }
    }
}

/// What of the records the log does not give back, and how it says so.
fn gone<'a>(log: &Log, records: impl IntoIterator<Item = &'a (Position, u32)>) -> Vec<String> {
    let look = |(position, number): &(Position, u32)| match log.get(*position) {
        Ok(record) if record.payload() == payload(*number) => None,
        Ok(record) => Some(format!("{number} at {position} is {} other bytes", record.payload().len())),
        Err(error) => Some(format!("{number} at {position}: {error}")),
    };
    records.into_iter().filter_map(look).collect()
}

/// All of them are there.
#[track_caller]
fn assert_all<'a>(log: &Log, records: impl IntoIterator<Item = &'a (Position, u32)>, context: &str) {
    let gone = gone(log, records);
    assert!(gone.is_empty(), "{context}: {gone:#?}");
}

/// Power cuts in the middle of appends, three lives on one disk. Gives what was acknowledged and is gone, or
/// the error of the open that found it.
fn lives(seed: u64, backend: Backend, faults: &Faults) -> Option<Result<Vec<String>, OpenError>> {
    let mut disk = Disk::new(seed);
    let mut all: Vec<(Position, u32)> = Vec::new();
    for life in 0..3 {
        let mounted = disk.mount()?;
        let log = match options(backend).open(mounted.log()) {
            Ok(log) => log,
            Err(error) => return Some(Err(error)),
        };
        let gone = gone(&log, &all);
        if !gone.is_empty() {
            return Some(Ok(gone));
        }
        disk.set_faults(faults.clone());
        let (sender, receiver) = channel();
        let (acknowledged, after) = std::thread::scope(|scope| {
            let log = &log;
            scope.spawn(move || append_until_failure(log, life, &sender));
            let enough = 100 + seed as usize * 31 % 200;
            let mut acknowledged: Vec<_> = receiver.iter().take(enough).collect();
            let after = disk.cut();
            // Told between the last one and the cut.
            acknowledged.extend(receiver.try_iter());
            (acknowledged, after)
        });
        all.extend(acknowledged);
        assert!(log.close().is_err(), "its disk is gone");
        drop(mounted);
        disk = after;
    }
    let mounted = disk.mount()?;
    Some(options(backend).open(mounted.log()).map(|log| gone(&log, &all)))
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    for backend in BACKENDS {
        for seed in 0..4 {
            let Some(gone) = lives(seed, backend, &Faults::default()) else { return };
            let gone = gone.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!(gone.is_empty(), "seed {seed}: {gone:#?}");
        }
    }
}

/// The control: on a disk whose syncs do nothing the same histories lose, so that the test above can.
#[test]
fn a_disk_that_lies_about_syncs_is_seen() {
    let mut seen = 0;
    for seed in 0..4 {
        let lies = Faults { lying_syncs: true, ..Faults::default() };
        let Some(gone) = lives(seed, Backend::Uring, &lies) else { return };
        seen += u32::from(!gone.is_ok_and(|gone| gone.is_empty()));
    }
    assert!(seen > 0, "nothing was lost on a disk that syncs nothing");
}

/// Also those of the shard's thread, which go through the ring: a caller that blocks writes for itself.
#[test]
fn short_writes_are_finished() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for backend in BACKENDS {
        let disk = Disk::new(1);
        let Some(mounted) = disk.mount() else { return };
        disk.set_faults(Faults { short: Some(1_536), ..Faults::default() });
        let log = options(backend).open(mounted.log()).unwrap();
        let append = |number: u32| {
            let append = log.append(payload(number));
            let position = if number % 2 == 0 { append.wait() } else { runtime.block_on(append) };
            (position.unwrap(), number)
        };
        let all: Vec<_> = (0..200).map(append).collect();
        log.close().unwrap();
        let log = options(backend).open(mounted.log()).unwrap();
        assert_all(&log, &all, &format!("{backend:?}"));
    }
}

/// A file system that is interrupted may answer so in place of syncing. That is no failure: it is asked again, and
/// what is acknowledged then is there after a power cut. Syncs of callers, and of the shard's thread.
#[test]
fn an_interrupted_sync_is_done_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for backend in BACKENDS {
        let disk = Disk::new(2);
        let Some(mounted) = disk.mount() else { return };
        let log = options(backend).open(mounted.log()).unwrap();
        let append = |number: u32| {
            disk.set_faults(Faults { interrupted_syncs: 1, ..Faults::default() });
            let append = log.shard(ShardId(0)).append(payload(number));
            let position = if number % 2 == 0 { append.wait() } else { runtime.block_on(append) };
            (position.unwrap_or_else(|error| panic!("{backend:?} {number}: {error}")), number)
        };
        let all: Vec<_> = (0..20).map(append).collect();
        // One that is interrupted for ever fails in the end, and that is final.
        disk.set_faults(Faults { interrupted_syncs: u64::MAX, ..Faults::default() });
        let failed = log.shard(ShardId(0)).append(payload(99)).wait();
        assert!(matches!(failed, Err(AppendError::ShardFailed(_))), "{backend:?}: {failed:?}");
        let after = disk.cut();
        assert!(log.close().is_err(), "its disk is gone");
        drop(mounted);
        let Some(mounted) = after.mount() else { return };
        assert_all(&options(backend).open(mounted.log()).unwrap(), &all, &format!("{backend:?}"));
    }
}

#[test]
fn errors_stop_the_shard_and_lose_nothing() {
    let failing = [
        Faults { writes_left: Some(50), ..Faults::default() },
        Faults { syncs_left: Some(50), ..Faults::default() },
    ];
    for backend in BACKENDS {
        for faults in &failing {
            let disk = Disk::new(2);
            let Some(mounted) = disk.mount() else { return };
            let log = options(backend).shards(1).open(mounted.log()).unwrap();
            disk.set_faults(faults.clone());
            let (all, error) = until_refused(&log);
            assert!(matches!(error, AppendError::ShardFailed(_)), "{error}");
            assert!(!all.is_empty());
            assert!(log.append(b"later").wait().is_err() && log.sync().wait().is_err());
            assert!(log.close().is_err());
            disk.set_faults(Faults::default());
            let log = options(backend).shards(1).open(mounted.log()).unwrap();
            assert_all(&log, &all, &format!("{backend:?} {faults:?}"));
        }
    }
}

/// A flush that fails is the device's failure: what it had taken from another shard may be gone as well, and no later
/// flush would tell. One fails here, and then the device is well again.
#[test]
fn a_failed_flush_stops_every_shard() {
    for backend in BACKENDS {
        let disk = Disk::new(5);
        let Some(mounted) = disk.mount() else { return };
        let log = options(backend).open(mounted.log()).unwrap();
        let [failing, other] = [0, 1].map(|shard| log.shard(ShardId(shard)));
        let before = other.append(b"before").wait().unwrap();
        disk.set_faults(Faults { syncs_left: Some(0), ..Faults::default() });
        assert!(failing.append(b"lost").wait().is_err());
        disk.set_faults(Faults::default());
        let error = other.append(b"later").wait().unwrap_err();
        let AppendError::ShardFailed(failure) = &error else { panic!("{error}") };
        assert!(
            failure.shard == ShardId(1) && failure.path.to_string_lossy().contains("shard-0000"),
            "{error}"
        );
        assert_eq!(failure.source.raw_os_error(), Some(libc::EIO));
        assert_eq!(log.get(before).unwrap().payload(), b"before");
        assert!(log.close().is_err());
        let log = options(backend).open(mounted.log()).unwrap();
        assert_eq!(log.get(before).unwrap().payload(), b"before");
    }
}

/// The same where it is a call for something else on the device: a consumer's progress, a manifest.
#[test]
fn a_flush_that_fails_in_a_blocking_call_stops_every_shard() {
    for (backend, only) in
        BACKENDS.into_iter().flat_map(|backend| [(backend, "consumer-"), (backend, "shard.")])
    {
        let disk = Disk::new(6);
        let Some(mounted) = disk.mount() else { return };
        let log = options(backend).open(mounted.log()).unwrap();
        let before = log.shard(ShardId(1)).append(b"before").wait().unwrap();
        let worker = log.consumer("worker").unwrap();
        worker.commit(before).unwrap();
        disk.set_faults(Faults { syncs_left: Some(0), only: Some(only), ..Faults::default() });
        if only == "consumer-" {
            worker.flush().unwrap_err();
        } else {
            log.shard(ShardId(1)).truncate_before(before.lsn()).unwrap_err();
        }
        disk.set_faults(Faults::default());
        for shard in [0, 1] {
            let error = log.shard(ShardId(shard)).append(b"later").wait().unwrap_err();
            let AppendError::ShardFailed(failure) = &error else { panic!("{error}") };
            assert!(
                failure.shard == ShardId(shard) && failure.path.to_string_lossy().contains(only),
                "{error}"
            );
            assert_eq!(failure.source.raw_os_error(), Some(libc::EIO));
        }
        assert_eq!(log.get(before).unwrap().payload(), b"before");
        drop(worker);
        assert!(log.close().is_err());
        let log = options(backend).open(mounted.log()).unwrap();
        assert_eq!(log.get(before).unwrap().payload(), b"before");
    }
}

#[test]
fn a_full_disk_goes_on_once_there_is_space() {
    for backend in BACKENDS {
        let disk = Disk::new(3);
        let Some(mounted) = disk.mount() else { return };
        let log = options(backend).shards(1).open(mounted.log()).unwrap();
        disk.set_faults(Faults { capacity: Some(3 << 20), ..Faults::default() });
        let (all, error) = until_refused(&log);
        assert!(matches!(error, AppendError::NoSpace { .. }), "{error}");
        disk.set_faults(Faults::default());
        log.shard(ShardId(0)).truncate_before(all[10].0.lsn()).unwrap();
        let more = (log.append(payload(1)).wait().unwrap(), 1);
        assert_all(&log, all[10..].iter().chain([&more]), &format!("{backend:?}"));
        log.close().unwrap();
    }
}

/// The device takes a write and does not answer. Who asked is told, and may end it.
#[test]
fn a_device_that_does_not_answer_is_told_of_and_can_be_given_up() {
    let disk = Disk::new(4);
    let Some(mounted) = disk.mount() else { return };
    let (sender, told) = channel();
    let own = Arc::new(Mutex::new(None::<Log>));
    let log_of_watch = own.clone();
    let watch = move |stuck: sawmill::options::Stuck| {
        // It would wait for itself.
        sender
            .send((stuck, log_of_watch.lock().unwrap().as_ref().map(Log::close)))
            .expect("the test listens");
        if stuck.age > Duration::from_millis(60) { OnStuck::Fail } else { OnStuck::Wait }
    };
    let options = options(Backend::Uring).shards(1);
    let log = options.clone().on_stuck(Duration::from_millis(20), watch).open(mounted.log()).unwrap();
    *own.lock().unwrap() = Some(log.clone());
    let before = log.append(b"before").wait().unwrap();
    // If the test fails: dropping the log would wait for the device.
    let _answers = Answers(disk.clone());
    disk.set_faults(Faults { hold: true, ..Faults::default() });
    // By a task: a caller that blocks would write for itself, and be held up in the kernel.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(log.append(b"stuck")).unwrap_err();
    assert!(sawmill::error_chain(&error).to_string().contains("has not answered"), "{error}");
    assert_eq!(disk.held(), 1);
    let (first, closed) = told.recv().unwrap();
    assert!(matches!(closed, Some(Err(CloseError::OwnThread))), "{closed:?}");
    assert!(first.shard == ShardId(0) && first.age >= Duration::from_millis(20), "{first}");
    assert!(first.to_string().contains("has not answered"));
    assert!(log.stats().shards[0].oldest_operation > Some(Duration::from_millis(20)));
    assert!(log.stats().shards[0].failed);
    // The watch is the log's, and the log its: their files would stay open, and this process be stuck in its own
    // file system when it ends.
    drop(own.lock().unwrap().take());
    // Nothing later is acknowledged, also if the device answers after all.
    disk.unpin();
    assert!(log.append(b"later").wait().is_err());
    assert!(log.close().is_err());
    let log = options.open(mounted.log()).unwrap();
    assert_eq!(log.get(before).unwrap().payload(), b"before");
}
