//! Shards that live in the application's own tokio-uring runtimes: what is particular to them. The promises are
//! tested on them like on any other ground.

use std::sync::mpsc::channel;

use sawmill::options::ShardDriver;
use sawmill::{AppendError, CloseError, Log, OpenError, Options, ReadError, ShardId, TruncateError};

fn here(driver: ShardDriver) {
    drop(tokio_uring::spawn(driver.run()));
}

#[test]
fn one_thread_does_it_all() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    tokio_uring::start(async {
        let log = Options::new().shards(2).drive(here).open(dir.path()).unwrap();
        assert_eq!(log.stats().shards[1].backend, "tokio-uring");
        let tasks: Vec<_> = (0..64u8)
            .map(|number| {
                let log = log.clone();
                tokio_uring::spawn(async move {
                    let mut positions = Vec::new();
                    for index in 0..20u8 {
                        let shard = log.shard(ShardId(u16::from(number % 2)));
                        positions.push((shard.append([number, index]).await.unwrap(), [number, index]));
                    }
                    positions
                })
            })
            .collect();
        for task in tasks {
            for (position, payload) in task.await.unwrap() {
                assert_eq!(log.get(position).unwrap().payload(), payload);
            }
        }
        let shards = log.stats().shards;
        assert!(shards.iter().all(|shard| shard.blocks_by_caller == 0), "no caller writes for itself here");
        assert!(shards[0].blocks < 640, "records share blocks");
        log.sync().await.unwrap();
        log.close_async().await.unwrap();
    });
    // In threads of the log's own, the next time.
    let log = Options::new().open(dir.path()).unwrap();
    let records = |shard| log.shard(ShardId(shard)).read(..).unwrap().map(Result::unwrap).count();
    assert_eq!(records(0) + records(1), 64 * 20);
}

/// A thread a core, each with its runtime and its shard, and appends across.
#[test]
fn each_runtime_has_its_shard() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (sender, drivers) = channel();
    let open = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let drive = move |driver| sender.send(driver).unwrap();
            Options::new().shards(3).drive(drive).open(dir.path()).unwrap()
        });
        let drivers: Vec<ShardDriver> = drivers.iter().take(3).collect();
        let log = opened.join().unwrap();
        for driver in drivers {
            let log = log.clone();
            scope.spawn(move || {
                tokio_uring::start(async move {
                    let own = driver.shard();
                    let driving = tokio_uring::spawn(driver.run());
                    for number in 0..60u16 {
                        log.shard(own).append(b"own").await.unwrap();
                        log.shard(ShardId(number % 3)).append(b"across").await.unwrap();
                    }
                    drop(log);
                    driving.await.unwrap();
                });
            });
        }
        let count = |shard| log.shard(ShardId(shard)).follow(sawmill::Lsn::MIN).unwrap().take(120).count();
        assert_eq!((0..3).map(count).sum::<usize>(), 360);
        // From outside of the runtimes one may block.
        log.append(b"outside").wait().unwrap();
        log.close()
    });
    open.unwrap();
}

#[test]
fn who_would_wait_for_himself_is_told() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    tokio_uring::start(async {
        let log = Options::new().shards(1).memory_bytes(4 << 20).drive(here).open(dir.path()).unwrap();
        // The driver is run, and is known to be here.
        let first = log.append(b"first").await.unwrap();
        let shard = log.shard(ShardId(0));
        let mut follow = shard.follow(sawmill::Lsn::MIN).unwrap();
        assert_eq!(follow.next().unwrap().unwrap().position(), first);
        assert!(matches!(follow.next(), Some(Err(ReadError::OwnThread))));
        let mut consumer = log.consumer("here").unwrap();
        assert_eq!(consumer.next().unwrap().unwrap().position(), first);
        assert!(matches!(consumer.next(), Some(Err(ReadError::OwnThread))));
        assert!(matches!(shard.truncate_after(first.lsn()), Err(TruncateError::OwnThread)));
        let commit = log.try_append(b"second").unwrap();
        let position = commit.position();
        assert!(matches!(commit.wait(), Err(AppendError::OwnThread)));
        assert!(matches!(log.get(position), Ok(_) | Err(ReadError::OwnThread)));
        assert!(matches!(log.close(), Err(CloseError::OwnThread)));
        log.sync().await.unwrap();
        assert_eq!(log.get(position).unwrap().payload(), b"second", "it was on its way all the same");
        shard.truncate_before(position.lsn()).unwrap();
        // Until there is no room: who does not wait is refused, who would block is told.
        let refused = loop {
            match log.append(vec![1; 1 << 20]).admitted().wait() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, AppendError::OwnThread), "{refused}");
        assert!(matches!(log.try_append(vec![1; 1 << 20]), Err(AppendError::Overloaded { .. })));
        log.append(vec![1; 1 << 20]).await.unwrap();
        drop((follow, consumer, shard));
        log.close_async().await.unwrap();
    });
}

#[test]
fn a_driver_that_is_dropped_stops_its_shard() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = Options::new().shards(2).drive(drop).open(dir.path()).unwrap();
    let error = log.append(b"nobody is there").wait().unwrap_err();
    assert!(
        sawmill::error_chain(&error).to_string().contains("dropped before the log was closed"),
        "{error}"
    );
    assert!(log.close().is_err());
    // Nothing was in flight: the directory is free.
    let log = Options::new().open(dir.path()).unwrap();
    log.append(b"again").wait().unwrap();
}

/// A runtime that ends before its log is closed. What was acknowledged is there; if something was in flight the
/// directory stays locked, else it is free.
#[test]
fn a_runtime_that_ends_too_early_loses_nothing_acknowledged() {
    for records in [1, 2_000] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut kept: Option<Log> = None;
        let acknowledged = tokio_uring::start(async {
            let log = Options::new().shards(1).drive(here).open(dir.path()).unwrap();
            kept = Some(log.clone());
            let first = log.append(b"acknowledged").await.unwrap();
            let flying: Vec<_> = (0..records).map(|_| log.append(vec![3; 4_000])).collect();
            tokio::task::yield_now().await;
            drop(flying);
            first
        });
        let log = kept.expect("it was opened");
        assert!(matches!(log.append(b"later").wait(), Err(AppendError::ShardFailed(_))));
        assert!(log.close().is_err());
        drop(log);
        match Options::new().open(dir.path()) {
            Ok(log) => assert_eq!(log.get(acknowledged).unwrap().payload(), b"acknowledged"),
            Err(OpenError::Locked { .. }) => {
                let reader = Log::open_read_only(dir.path()).unwrap();
                assert!(reader.verify().unwrap().findings.is_empty());
            }
            Err(error) => panic!("{error}"),
        }
    }
}
