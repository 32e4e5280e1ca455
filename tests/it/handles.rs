//! The handles, used and misused.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use sawmill::{AppendError, CloseError, Durability, Log, Options, ShardId, Write};

use crate::harness::{Ground, block_on, payloads};
use crate::on_every_ground;

on_every_ground!(
    futures_need_no_runtime,
    forgotten_handles_do_no_harm,
    a_panicking_waker_harms_nobody,
    a_waker_may_drop_the_log,
    windows_of_commits,
    records_that_nobody_waits_for,
    many_callers_share_blocks,
    a_closed_log_says_so,
    tokio_tasks,
    queued_appends_are_withdrawn_by_dropping,
    callers_of_every_kind_mix,
);

fn futures_need_no_runtime(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let position = block_on(async {
        let commit = log.append(b"a").admitted().await?;
        let position = commit.position();
        assert_eq!(commit.await?, position);
        log.append_batch(b"k", &[b"b", b"c"]).await?;
        log.sync().await?;
        log.append(b"d").await
    });
    assert_eq!(log.get(position.unwrap()).unwrap().payload(), b"d");
}

fn records_that_nobody_waits_for(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    let body = |number: u32| [&number.to_le_bytes()[..], &[number as u8; 700]].concat();
    let (mut keyed, mut shard) = (Vec::new(), Vec::new());
    let second = log.shard(ShardId(1));
    for number in 0..500 {
        keyed.push(log.post(Write::new(body(number)).key(b"key")).unwrap());
        shard.push(second.post(body(number)).unwrap());
    }
    log.sync().wait().unwrap();
    for (number, (keyed, shard)) in (0..).zip(keyed.iter().zip(&shard)) {
        assert!(log.shard(keyed.shard()).durable_lsn() > keyed.lsn());
        let (record, other) = (log.get(*keyed).unwrap(), log.get(*shard).unwrap());
        assert_eq!((record.key(), record.payload()), (&b"key"[..], &body(number)[..]));
        assert_eq!((shard.shard(), other.payload()), (ShardId(1), &body(number)[..]));
    }
    assert!(keyed.is_sorted() && shard.is_sorted());
    let large = vec![1; 32 << 20];
    assert!(matches!(log.post(&large), Err(AppendError::TooLarge { .. })));
    assert!(matches!(second.post(&large), Err(AppendError::TooLarge { .. })));
    assert!(matches!(log.shard(ShardId(9)).post(b"x"), Err(AppendError::NoSuchShard(ShardId(9)))));
    let again = log.clone();
    log.close().unwrap();
    assert!(matches!(again.post(b"x"), Err(AppendError::Closed)));
}

fn forgotten_handles_do_no_harm(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let commit = log.append(b"polled once").admitted().wait().unwrap();
    let mut forgotten = log.append(b"forgotten");
    let _ = std::pin::Pin::new(&mut forgotten).poll(&mut Context::from_waker(Waker::noop()));
    std::mem::forget(forgotten);
    std::mem::forget(log.append(b"never polled"));
    commit.wait().unwrap();
    log.append(b"last").wait().unwrap();
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), 4);
}

struct Count {
    woken: AtomicU32,
    panics: bool,
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics, "a waker that panics");
    }
}

fn a_panicking_waker_harms_nobody(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    for round in 0..20u32 {
        let bad = Waker::from(Arc::new(Count { woken: AtomicU32::new(0), panics: true }));
        let mut appends: Vec<_> = (0..4).map(|_| Box::pin(log.append(round.to_le_bytes()))).collect();
        for append in &mut appends {
            let _ = append.as_mut().poll(&mut Context::from_waker(&bad));
        }
        log.append(b"good").wait().unwrap();
        for append in appends {
            block_on(append).unwrap();
        }
    }
    assert!(!log.stats().shards[0].failed);
}

fn a_waker_may_drop_the_log(ground: Ground) {
    struct Holder(std::sync::Mutex<Option<Log>>, std::sync::mpsc::Sender<()>);
    impl Wake for Holder {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
            let _ = self.1.send(());
        }
    }
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let mut commit = Box::pin(log.append(b"x").admitted().wait().unwrap());
    let (sender, woken) = std::sync::mpsc::channel();
    let holder = Arc::new(Holder(std::sync::Mutex::new(Some(log)), sender));
    let waker = Waker::from(holder.clone());
    let ready = commit.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
    // Durable before it was asked: then the waker may be called, and may not.
    let own = if ready { holder.0.lock().unwrap().take() } else { None };
    if own.is_none() {
        woken.recv().unwrap();
    }
    drop((own, waker));
    // The open waits for the close that goes on in the background.
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))), [b"x"]);
}

fn windows_of_commits(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let mut window = std::collections::VecDeque::new();
    for index in 0..20_000u32 {
        if window.len() == 512 {
            let commit: sawmill::Commit = window.pop_front().unwrap();
            commit.wait().unwrap();
        }
        window.push_back(log.append(index.to_le_bytes()).admitted().wait().unwrap());
    }
    let last = window.pop_back().unwrap();
    let position = last.wait().unwrap();
    assert!(window.iter().all(|commit| commit.is_durable()), "durability is a prefix");
    assert!(window.iter().all(|commit| matches!(commit.try_result(), Some(Ok(_)))));
    assert_eq!(log.get(position).unwrap().payload(), 19_999u32.to_le_bytes());
}

fn many_callers_share_blocks(ground: Ground) {
    const THREADS: u32 = 64;
    const EACH: u32 = 100;
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                for index in 0..EACH {
                    let payload = [thread.to_le_bytes(), index.to_le_bytes()].concat();
                    let position = log.append(&payload).wait().unwrap();
                    assert!(log.shard(position.shard()).durable_lsn() > position.lsn());
                    assert_eq!(log.get(position).unwrap().payload(), payload);
                }
            });
        }
    });
    let stats = log.stats().shards[0].clone();
    assert!(stats.blocks < u64::from(THREADS * EACH), "{stats:?}");
    let capabilities = &stats.capabilities;
    let flushes = capabilities.write_cache != Some(false) && capabilities.fua != Some(true);
    // On a device that was busy at the open syncs may have been measured as the better way.
    let by_write = capabilities.durable && stats.syncs < stats.blocks / 2;
    // On a busy machine callers may come so late that they lead for themselves throughout.
    let by_write = by_write && stats.blocks < u64::from(THREADS * EACH) / 32;
    if by_write && flushes && !stats.backend.starts_with("tokio") {
        assert!(stats.blocks_by_thread > 0, "{stats:?}");
    }
    let mut all: Vec<_> = payloads(&log.shard(ShardId(0)));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len() as u32, THREADS * EACH);
}

fn a_closed_log_says_so(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let clone = log.clone();
    let commit =
        log.append(Write::new(b"buffered").durability(Durability::Buffered)).admitted().wait().unwrap();
    let waiting = log.append(b"waiting").admitted().wait().unwrap();
    clone.close().unwrap();
    assert!(matches!(log.close(), Err(CloseError::Closed)));
    assert!(matches!(log.append(b"late").wait(), Err(AppendError::Closed)));
    assert!(matches!(log.try_append(b"late"), Err(AppendError::Closed)));
    commit.wait().unwrap();
    waiting.wait().unwrap();
    ground.options().open(dir.path()).unwrap();
}

fn tokio_tasks(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..500u32)
            .map(|task| {
                let log = log.clone();
                tokio::spawn(async move {
                    for index in 0..5u32 {
                        let payload = [task.to_le_bytes(), index.to_le_bytes()].concat();
                        if index == 3 {
                            // Cancelled half way: accepted or withdrawn, and no harm either way.
                            let _ = tokio::time::timeout(Duration::ZERO, log.append(&payload)).await;
                        } else {
                            log.append(&payload).await.unwrap();
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    log.sync().wait().unwrap();
    assert!(payloads(&log.shard(ShardId(0))).len() >= 2_000);
}

fn queued_appends_are_withdrawn_by_dropping(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    // More than the memory takes at once, so that some handles queue.
    let payload = vec![1; 4_000];
    let mut handles: Vec<_> = (0..600).map(|_| log.append(&payload)).collect();
    for handle in &mut handles {
        let _ = std::pin::Pin::new(handle).poll(&mut Context::from_waker(Waker::noop()));
    }
    let kept: Vec<_> =
        handles.drain(..).enumerate().filter(|(index, _)| index % 7 == 0).map(|(_, handle)| handle).collect();
    for handle in kept {
        handle.wait().unwrap();
    }
    log.append(b"after").wait().unwrap();
    let stored = payloads(&log.shard(ShardId(0)));
    assert!(stored.len() <= 601 && stored.last().unwrap() == b"after");
}

#[test]
fn types_are_what_servers_need() {
    fn is_static_send<T: Send + 'static>() {}
    fn is_send_sync<T: Send + Sync>() {}
    is_send_sync::<Log>();
    is_send_sync::<Options>();
    is_static_send::<sawmill::Commit>();
    is_static_send::<sawmill::Append<'static>>();
    is_send_sync::<AppendError>();
    fn owned_writes_make_static_handles(log: &Log) -> sawmill::Append<'static> {
        log.append(vec![1, 2, 3])
    }
    let _ = owned_writes_make_static_handles;
}

/// All of them queue for a memory of 1 MiB, and all get in; a handle that waits takes no more than itself,
/// its payload and its place in line.
#[test]
fn a_hundred_thousand_wait_at_once() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ground = Ground { backend: sawmill::Backend::Auto, memory: false, driven: false };
    let log = ground.small().open(dir.path()).unwrap();
    assert!(size_of::<sawmill::Append<'static>>() <= 160, "{}", size_of::<sawmill::Append<'static>>());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let handles: Vec<_> = (0..100_000u32)
            .map(|index| log.append(Write::new(vec![index as u8; 200]).durability(Durability::Written)))
            .collect();
        let tasks: Vec<_> = handles.into_iter().map(tokio::spawn).collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    });
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(log.shard(sawmill::ShardId(0)).read(..).unwrap().map(Result::unwrap).count(), 100_000);
}

/// Callers of every kind beside each other: leads pass between those that wait, some give up waiting, some are
/// tasks, some never look again. Nobody hangs, and everything that was accepted is there.
fn callers_of_every_kind_mix(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..12u64 {
            let log = &log;
            scope.spawn(move || {
                let mut random = thread * 0x9e37_79b9 + 1;
                for _ in 0..150 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let payload = vec![thread as u8; (random >> 40) as usize % 700];
                    match random >> 60 {
                        0..5 => assert!(log.append(payload).wait().is_ok()),
                        5 => {
                            // Waits with a limit that it never comes to: it leads nothing, and must not swallow what
                            // is passed to others.
                            let commit = log.append(payload).admitted().wait().unwrap();
                            commit.wait_timeout(Duration::from_secs(100)).unwrap().unwrap();
                        }
                        6 | 7 => {
                            let commit = log.append(payload).admitted().wait().unwrap();
                            let _ = commit.wait_timeout(Duration::from_micros(random >> 50 & 0xff));
                        }
                        8 => drop(log.append(payload)),
                        9 => std::mem::forget(log.append(payload)),
                        10 => {
                            let write = Write::new(payload).durability(Durability::Written);
                            log.append(write).wait().unwrap();
                        }
                        11 => {
                            let write = Write::new(payload).durability(Durability::Buffered);
                            log.append(write).wait().unwrap();
                        }
                        12 => log.sync().wait().unwrap(),
                        13 => drop(log.append_batch(b"", &[&payload, &payload]).wait().unwrap()),
                        _ => assert!(block_on(log.append(payload)).is_ok()),
                    }
                }
            });
        }
    });
    let stats = &log.stats().shards[0];
    assert!(stats.blocks_by_caller > 0, "nobody led: {stats:?}");
    log.close().unwrap();
    let log = ground.small().open(dir.path()).unwrap();
    assert!(payloads(&log.shard(ShardId(0))).len() >= 12 * 100);
}
