//! Promises 6 and 7: memory is bounded, and overload is refused at the door.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use sawmill::{AppendError, Durability, Priority, ShardId, Write};

use crate::harness::{Ground, payloads};
use crate::on_every_ground;

on_every_ground!(
    refusals_lose_nothing_that_was_accepted,
    appends_wait_for_room_and_all_get_in,
    a_queued_handle_that_is_not_polled_again_stops_nobody,
    callers_that_hammer_do_not_starve_the_log,
);

fn refusals_lose_nothing_that_was_accepted(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let payload = vec![9; 2_000];
    let mut accepted = 0;
    let mut refused = [0u32; 3];
    let priorities = [Priority::Low, Priority::Normal, Priority::High];
    for index in 0..30_000usize {
        let priority = priorities[index % 3];
        match log.try_append(Write::new(&payload).priority(priority).durability(Durability::Buffered)) {
            Ok(_) => accepted += 1,
            Err(AppendError::Overloaded { retry_after, .. }) => {
                assert!(!retry_after.is_zero());
                refused[index % 3] += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    // But for a few that met a block with room left just when it was opened.
    let few = 100;
    assert!(
        refused[0] + few >= refused[1] && refused[1] + few >= refused[2],
        "low is refused first: {refused:?}"
    );
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), accepted);
}

fn appends_wait_for_room_and_all_get_in(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for index in 0..200usize {
                    let priority = [Priority::Low, Priority::Normal, Priority::High][index % 3];
                    let size = if index % 10 == 0 { 60_000 } else { 3_000 };
                    let write = Write::new(vec![1; size]).priority(priority).durability(Durability::Buffered);
                    log.append(write).wait().unwrap();
                }
            });
        }
    });
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), 1_600);
}

/// Records for which there is no segment yet, whose handles are left lying: polled once, or never. The log is idle but
/// for the making of segments.
fn a_queued_handle_that_is_not_polled_again_stops_nobody(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let large = vec![1; 6 << 20];
    let mut left = Vec::new();
    for round in 0..4 {
        let mut once = log.append(&large);
        if Pin::new(&mut once).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            left.push(once);
        }
        std::mem::forget(log.append(&large));
        if round % 2 == 0 {
            let mut behind = log.append(&large);
            behind.wait_timeout(Duration::from_secs(60)).expect("it got in").unwrap();
        }
        let until = Instant::now() + Duration::from_secs(60);
        while let Err(error) = log.try_append(b"x") {
            assert!(matches!(error, AppendError::Overloaded { .. }), "{error}");
            assert!(Instant::now() < until, "refused, with {:?}", log.stats().shards[0]);
            std::thread::yield_now();
        }
    }
    // Whoever comes back gets in, too.
    for once in left {
        once.wait().unwrap();
    }
    log.close().unwrap();
}

/// Callers that hammer, each in a loop without a pause, do not keep the log from writing.
fn callers_that_hammer_do_not_starve_the_log(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let [accepted, refused] = [(); 2].map(|()| AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for tenant in 0..8 {
            let (log, shard, accepted, refused) = (&log, &shard, &accepted, &refused);
            scope.spawn(move || {
                while shard.durable_lsn().0 < 16 << 20 {
                    let priority = [Priority::Low, Priority::Normal][tenant as usize % 2];
                    let write = Write::new([7; 1_000]).priority(priority).tenant(tenant);
                    match log.try_append(write.durability(Durability::Written)) {
                        Ok(_) => accepted.fetch_add(1, Relaxed),
                        Err(AppendError::Overloaded { .. }) => refused.fetch_add(1, Relaxed),
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
    });
    let stats = &log.stats().shards[0];
    assert_eq!(stats.refused, refused.into_inner() as u64);
    assert_eq!(stats.refused, stats.refused_by.iter().map(|(_, _, refusals)| refusals).sum::<u64>());
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), accepted.into_inner());
}
