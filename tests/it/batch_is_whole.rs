//! Promise 3: a batch is whole or absent.

use sawmill::{AppendError, ShardId, TruncateError};

use crate::harness::{Ground, payloads};
use crate::on_every_ground;

on_every_ground!(batches_of_all_sizes_come_back, an_empty_batch_is_an_error, a_cut_inside_a_batch_is_refused);

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
