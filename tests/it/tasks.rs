//! What blocks for the disk, in tasks: opening, truncating and closing leave their thread to others.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use sawmill::{CloseError, Log, Lsn, OpenError, Options, ReadError, ShardId, TruncateError};

use crate::fuse::{Disk, Faults};
use crate::stuck_device::Answers;

/// Far longer than an answer takes on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options::new().shards(2).block_bytes(16 << 10).segment_bytes(1 << 20).memory_bytes(1 << 20)
}

fn block_on<T>(task: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(task)
}

/// Another task of this thread's runtime goes on, while nothing comes of this one.
async fn others_go_on(waits: &mut (impl Future + Unpin)) {
    let other = tokio::spawn(async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    });
    tokio::select! {
        biased;
        _ = waits => panic!("the device has not answered"),
        told = other => told.unwrap(),
    }
}

fn hold(disk: &Disk, only: Option<&'static str>) {
    disk.set_faults(Faults { hold: true, only, ..Faults::default() });
}

/// The log, once whoever has it still has given it up.
fn open_in_the_end(path: &Path) -> Log {
    let until = Instant::now() + PATIENCE;
    loop {
        match options().open(path) {
            Err(OpenError::Locked { .. }) if Instant::now() < until => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

#[test]
fn a_task_goes_on_while_the_open_waits_for_the_device() {
    let disk = Disk::new(31);
    let Some(mounted) = disk.mount() else { return };
    let _answers = Answers(disk.clone());
    hold(&disk, None);
    let mut opening = options().open_async(mounted.log());
    disk.wait_for_held(1);
    block_on(async {
        others_go_on(&mut opening).await;
        disk.unpin();
        let log = opening.await.unwrap();
        let position = log.append(b"from a task").await.unwrap();
        assert_eq!(log.get(position).unwrap().payload(), b"from a task");
        log.close_async().await.unwrap();
        // Also one that is there, with the default options.
        let log = Log::open_async(mounted.log()).await.unwrap();
        assert_eq!(log.get(position).unwrap().payload(), b"from a task");
        log.close_async().await.unwrap();
    });
}

#[test]
fn a_task_goes_on_while_a_truncation_and_a_close_wait_for_the_device() {
    let disk = Disk::new(32);
    let Some(mounted) = disk.mount() else { return };
    let _answers = Answers(disk.clone());
    let log = options().open(mounted.log()).unwrap();
    let [done, next] = [b"done", b"next"].map(|payload| log.append(payload).wait().unwrap());
    hold(&disk, Some("shard.manifest"));
    let mut truncation = log.shard(done.shard()).truncate_before_async(next.lsn());
    disk.wait_for_held(1);
    block_on(async {
        others_go_on(&mut truncation).await;
        // Appends do not wait for it either.
        log.append(b"meanwhile").await.unwrap();
        disk.unpin();
        (&mut truncation).await.unwrap();
        assert!(matches!(log.get(done), Err(ReadError::Truncated { .. })));
        assert_eq!(log.get(next).unwrap().payload(), b"next");
        // Told again to whoever asks again.
        truncation.await.unwrap();
        hold(&disk, Some("shard.manifest"));
        let mut close = log.close_async();
        disk.wait_for_held(1);
        others_go_on(&mut close).await;
        disk.unpin();
        (&mut close).await.unwrap();
        close.await.unwrap();
    });
}

/// Dropped before anything has come of it, just then, or later.
#[test]
fn an_open_that_nobody_waits_for_leaves_the_log_closed() {
    let disk = Disk::new(33);
    if let Some(mounted) = disk.mount() {
        let _answers = Answers(disk.clone());
        hold(&disk, None);
        let opening = options().open_async(mounted.log());
        disk.wait_for_held(1);
        drop(opening);
        assert!(matches!(options().open(mounted.log()), Err(OpenError::Locked { .. })), "it goes on");
        disk.unpin();
        open_in_the_end(&mounted.log()).close().unwrap();
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let position = {
        let log = options().open(dir.path()).unwrap();
        log.append(b"before").wait().unwrap()
    };
    // Few: whoever comes while it is locked waits for seconds.
    for yields in [0, 300, 3_000] {
        let opening = options().open_async(dir.path());
        for _ in 0..yields {
            std::thread::yield_now();
        }
        drop(opening);
        let log = open_in_the_end(dir.path());
        assert_eq!(log.get(position).unwrap().payload(), b"before");
    }
}

#[test]
fn errors_are_those_of_whoever_blocks() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let refused = options().shards(0).open_async(dir.path()).await;
        assert!(matches!(refused, Err(OpenError::InvalidOption { .. })), "{refused:?}");
        let refused = options().create(false).open_async(dir.path()).await;
        assert!(matches!(refused, Err(OpenError::NoLog { .. })), "{refused:?}");
        let log = options().open_async(dir.path()).await.unwrap();
        let refused = options().open_async(dir.path()).await;
        assert!(matches!(refused, Err(OpenError::Locked { .. })), "{refused:?}");
        let refused = log.shard(ShardId(2)).truncate_before_async(Lsn::MIN).await;
        assert!(matches!(refused, Err(TruncateError::NoSuchShard(ShardId(2)))), "{refused:?}");
        // A truncation keeps the log, and is done before it closes.
        let [done, next] = [log.append(b"done").await.unwrap(), log.append(b"next").await.unwrap()];
        let shard = log.shard(done.shard());
        let truncation = shard.truncate_before_async(next.lsn());
        drop((log, shard));
        truncation.await.unwrap();
        let log = open_in_the_end(dir.path());
        assert!(matches!(log.get(done), Err(ReadError::Truncated { .. })));
        log.close_async().await.unwrap();
        let refused = log.shard(done.shard()).truncate_before_async(next.lsn()).await;
        assert!(matches!(refused, Err(TruncateError::Closed)), "{refused:?}");
        assert!(matches!(log.close_async().await, Err(CloseError::Closed)));
    });
}

#[test]
fn a_handle_that_has_given_the_log_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut opening = options().open_async(dir.path());
    let log = block_on(&mut opening).unwrap();
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _: Poll<_> = pin!(&mut opening).poll(&mut Context::from_waker(Waker::noop()));
    }));
    assert!(again.is_err());
    drop(opening);
    assert_eq!(log.append(b"it stays open").wait().map(|position| position.shard()).unwrap(), ShardId(0));
}
