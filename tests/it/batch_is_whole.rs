//! Promise 3: a batch is whole or absent.

use std::time::Duration;

use sawmill::{AppendError, Lsn, ShardId, TruncateError};

use crate::harness::{Ground, payloads};
use crate::on_every_ground;

on_every_ground!(
    batches_of_all_sizes_come_back,
    an_empty_batch_is_an_error,
    a_cut_inside_a_batch_is_refused,
    readers_beside_batches_are_served_what_is_durable
);

fn batches_of_all_sizes_come_back(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let mut expected = Vec::new();
    for (count, size) in [(1usize, 10usize), (3, 100), (40, 90), (5, 4_000), (2, 9_000), (300, 1)] {
        let batch: Vec<Vec<u8>> = (0..count).map(|index| vec![index as u8; size]).collect();
        let positions = log.append_batch(b"key", &batch).wait().unwrap();
        assert_eq!(positions.len(), count);
        for (position, payload) in positions.iter().zip(&batch) {
            let record = log.get(*position).unwrap();
            assert_eq!((record.key(), record.payload()), (&b"key"[..], &payload[..]));
        }
        expected.extend(batch);
    }
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))), expected);
}

fn an_empty_batch_is_an_error(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let none: [&[u8]; 0] = [];
    assert!(matches!(log.append_batch(b"key", &none).wait(), Err(AppendError::EmptyBatch)));
}

fn a_cut_inside_a_batch_is_refused(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let batch = [vec![1; 5_000], vec![2; 10], vec![3; 5_000]];
    let positions = shard.append_batch(b"", &batch).wait().unwrap();
    for position in &positions[..2] {
        let cut = shard.truncate_after(position.lsn());
        assert!(matches!(cut, Err(TruncateError::InsideBatch { .. })), "{cut:?}");
    }
    shard.append(b"after").wait().unwrap();
    shard.truncate_after(positions[2].lsn()).unwrap();
    assert_eq!(payloads(&shard), batch);
}

/// A follower and a consumer beside batches over several blocks: while one is under way nothing of it is served, and
/// what was delivered can be committed.
fn readers_beside_batches_are_served_what_is_durable(ground: Ground) {
    const BATCHES: usize = 40;
    const RECORDS: usize = 100;
    // For a test that is broken: what is waited for comes.
    const TOO_LONG: Duration = Duration::from_secs(60);
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let mut follow = shard.follow(Lsn::MIN).unwrap();
    let mut consumer = log.consumer("beside").unwrap();
    std::thread::scope(|scope| {
        let followed = scope.spawn(|| {
            for _ in 0..BATCHES * RECORDS {
                let record = follow.next_timeout(TOO_LONG).expect("it comes").unwrap();
                let durable = shard.durable_lsn();
                assert!(record.lsn() < durable, "{record:?} was served, durable is {durable}");
            }
        });
        let consumed = scope.spawn(|| {
            for _ in 0..BATCHES * RECORDS {
                let record = consumer.next_timeout(TOO_LONG).expect("it comes").unwrap();
                consumer.commit(record.position()).unwrap();
            }
        });
        let batch = vec![[7; 500]; RECORDS];
        for _ in 0..BATCHES {
            log.append_batch(b"k", &batch).wait().unwrap();
        }
        followed.join().unwrap();
        consumed.join().unwrap();
    });
}
