//! A record with a deadline is accepted in time, or its caller is told in time that it was not.

use std::time::Duration;

use sawmill::error::Cause;
use sawmill::{AppendError, Durability, Log, Options, Position, Priority, ShardId, Write};

use crate::fuse::{Disk, Faults};
use crate::harness::{block_on, payloads};
use crate::stuck_device::Answers;

/// Far longer than an answer takes on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough that the log does not know better at once, on a device that hangs from now on.
const DEADLINE: Duration = Duration::from_millis(400);

fn options() -> Options {
    Options::new().shards(1).block_bytes(16 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20)
}

#[track_caller]
fn assert_given_up<T: std::fmt::Debug>(outcome: Result<T, AppendError>) {
    match outcome {
        Err(AppendError::Overloaded { cause: Cause::Deadline, retry_after, .. }) => {
            assert!(!retry_after.is_zero());
        }
        other => panic!("{other:?}"),
    }
}

/// Appends until there is no room; the device hangs.
fn fill(log: &Log) -> usize {
    let mut accepted = 0;
    loop {
        let write = Write::new(vec![1; 3_000]).priority(Priority::High).durability(Durability::Buffered);
        match log.try_append(write) {
            Ok(_) => accepted += 1,
            Err(AppendError::Overloaded { cause: Cause::Room, .. }) => return accepted,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The device hangs and memory is full: nothing happens by which anybody would be woken, but for the deadline.
#[test]
fn who_waits_behind_a_device_that_hangs_is_told_in_time() {
    let disk = Disk::new(71);
    let Some(mounted) = disk.mount() else { return };
    let log = options().open(mounted.log()).unwrap();
    let answers = Answers(disk.clone());
    let before: Position = log.append(b"before").wait().unwrap();
    disk.set_faults(Faults { hold: true, only: Some(".seg"), ..Faults::default() });
    let accepted = fill(&log);
    let late = || Write::new(vec![2; 3_000]).priority(Priority::High).deadline(DEADLINE);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_given_up(log.append(late()).wait()));
        scope.spawn(|| assert_given_up(block_on(log.append(late()))));
        scope.spawn(|| assert_given_up(block_on(log.append(late()).admitted())));
        scope.spawn(|| {
            let mut append = log.append(late());
            assert_given_up(append.wait_timeout(PATIENCE).expect("its deadline comes first"));
        });
    });
    // By now the device is known to hang: there is no need to wait.
    let soon = || late().deadline(Duration::from_millis(1));
    assert_given_up(log.post(soon()));
    assert_given_up(log.window(4).push(soon()));
    assert_given_up(log.append(late().deadline(Duration::from_millis(1))).wait());
    assert_given_up(log.try_append(late().deadline(Duration::from_millis(1))));
    assert!(log.pressure().delay >= DEADLINE && log.pressure().fill > 0.9, "{:?}", log.pressure());
    let shard = &log.stats().shards[0];
    let refused = shard.refused_by.iter().find(|(cause, ..)| *cause == Cause::Deadline);
    assert_eq!(refused, Some(&(Cause::Deadline, Priority::High, 8)));
    // One that has the time gets in.
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| log.append(late().deadline(PATIENCE)).wait());
        drop(answers);
        patient.join().unwrap().unwrap();
    });
    assert_eq!(log.get(before).unwrap().payload(), b"before");
    log.close().unwrap();
    let log = options().open(mounted.log()).unwrap();
    // What was given up is not there.
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), accepted + 2);
}

/// A shard that has stopped says so, whatever the deadline; and a health check sees it.
#[test]
fn a_shard_that_has_stopped_is_not_told_as_slow() {
    let disk = Disk::new(72);
    let Some(mounted) = disk.mount() else { return };
    let log = options().open(mounted.log()).unwrap();
    let answers = Answers(disk.clone());
    log.append(b"before").wait().unwrap();
    assert_eq!(log.pressure().admitted, [1.0; 3]);
    disk.set_faults(Faults { writes_left: Some(0), only: Some(".seg"), ..Faults::default() });
    assert!(matches!(log.append(b"lost").wait(), Err(AppendError::ShardFailed(_))));
    for deadline in [Duration::ZERO, PATIENCE] {
        let refused = log.try_append(Write::new(b"behind").deadline(deadline)).map(drop);
        assert!(matches!(refused, Err(AppendError::ShardFailed(_))), "{refused:?}");
    }
    assert_eq!(log.pressure().admitted, [0.0; 3]);
    drop(answers);
    let _ = log.close();
}

/// A deadline is no reason to refuse what an idle log takes at once.
#[test]
fn an_idle_log_takes_what_is_urgent() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = options().open(dir.path()).unwrap();
    for _ in 0..20 {
        log.append(Write::new(b"now").deadline(Duration::ZERO)).wait().unwrap();
        log.append(Write::new(b"some time").deadline(Duration::MAX)).wait().unwrap();
        log.sync().wait().unwrap();
        log.try_append(Write::new(b"at once").deadline(Duration::from_nanos(1))).unwrap().wait().unwrap();
    }
    log.close().unwrap();
}
