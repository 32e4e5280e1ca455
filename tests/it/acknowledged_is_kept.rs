//! Promises 1 and 2: what was acknowledged is there after a reopen, in order, once.

use std::sync::Arc;

use sawmill::{Durability, Log, ShardId, Write};

use crate::harness::{Ground, payloads, records_from};
use crate::on_every_ground;

on_every_ground!(
    records_of_all_sizes_come_back,
    many_threads_lose_nothing,
    closing_keeps_what_was_buffered,
    an_append_is_in_the_order_of_the_calls,
    segments_rotate,
    times_rise_over_reopens,
);

fn records_of_all_sizes_come_back(ground: Ground) {
    let dir = ground.directory();
    let sizes = [0usize, 1, 7, 8, 100, 3_900, 3_976, 3_984, 4_080, 4_096, 5_000, 100_000, 0, 250_000];
    let record = |index: usize| vec![index as u8 + 1; sizes[index]];
    let log = ground.small().open(dir.path()).unwrap();
    let mut positions = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let write = Write::new(record(index)).key(format!("key{index}"));
        positions.push(log.append(write).wait().unwrap_or_else(|error| panic!("{size} bytes: {error}")));
    }
    let check = |log: &Log| {
        for (index, &position) in positions.iter().enumerate() {
            let found = log.get(position).unwrap_or_else(|error| panic!("{} bytes: {error}", sizes[index]));
            assert_eq!(found.payload(), record(index), "{} bytes", sizes[index]);
            assert_eq!(found.key(), format!("key{index}").as_bytes());
            assert_eq!(found.position(), position);
        }
        let read = records_from(&log.shard(ShardId(0)), sawmill::Lsn(0));
        assert_eq!(read.iter().map(|record| record.position()).collect::<Vec<_>>(), positions);
    };
    check(&log);
    log.close().unwrap();
    drop(log);
    for _ in 0..3 {
        let log = ground.options().open(dir.path()).unwrap();
        check(&log);
        // Dropped, not closed: the drop closes.
    }
}

fn many_threads_lose_nothing(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(2).memory_bytes(2 << 20).open(dir.path()).unwrap();
    let threads = 16;
    let each = 60;
    let mut all: Vec<(sawmill::Position, Vec<u8>)> = std::thread::scope(|scope| {
        let run = |thread: u32| {
            let log = log.clone();
            move || {
                (0..each)
                    .map(|index: u32| {
                        let payload = [thread.to_le_bytes(), index.to_le_bytes()]
                            .concat()
                            .repeat(1 + index as usize % 40);
                        let durability = [Durability::Synced, Durability::Written, Durability::Buffered]
                            [index as usize % 3];
                        let write = Write::new(&payload).key(thread.to_le_bytes()).durability(durability);
                        (log.append(write).wait().unwrap(), payload)
                    })
                    .collect::<Vec<_>>()
            }
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    log.close().unwrap();
    let log = ground.options().shards(2).open(dir.path()).unwrap();
    all.sort();
    let mut found = Vec::new();
    for shard in 0..2 {
        for record in log.shard(ShardId(shard)).read(..).unwrap() {
            let record = record.unwrap();
            found.push((record.position(), record.payload().to_vec()));
        }
    }
    assert_eq!(found, all);
}

fn closing_keeps_what_was_buffered(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().durability(Durability::Buffered).open(dir.path()).unwrap();
    for index in 0..1_000u32 {
        log.append(index.to_le_bytes()).wait().unwrap();
    }
    drop(log);
    let log = ground.options().open(dir.path()).unwrap();
    let expected: Vec<_> = (0..1_000u32).map(|index| index.to_le_bytes().to_vec()).collect();
    assert_eq!(payloads(&log.shard(ShardId(0))), expected);
}

fn an_append_is_in_the_order_of_the_calls(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let first = shard.append(b"first");
    let second = shard.append(b"second");
    drop(shard.append(b"third")); // Accepted in the call: dropping the handle changes nothing.
    let (second, first) = (second.wait().unwrap(), first.wait().unwrap());
    assert!(first < second);
    log.sync().wait().unwrap();
    assert_eq!(payloads(&shard), [&b"first"[..], b"second", b"third"]);
}

fn segments_rotate(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let payload = vec![7; 3_000];
    let commits: Vec<_> = (0..2_000).map(|_| log.append(&payload).admitted().wait().unwrap()).collect();
    for commit in commits {
        commit.wait().unwrap();
    }
    assert!(log.stats().shards[0].segments > 4, "{:?}", log.stats().shards[0]);
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), 2_000);
}

fn times_rise_over_reopens(ground: Ground) {
    let dir = ground.directory();
    let mut last = 0;
    for _ in 0..3 {
        let log = Arc::new(ground.options().shards(3).open(dir.path()).unwrap());
        for index in 0..30u32 {
            let position = log.shard(ShardId((index % 3) as u16)).append(b"x").wait().unwrap();
            let time = log.get(position).unwrap().timestamp();
            assert!(time > last, "a record appended after an acknowledgement has a later time");
            last = time;
        }
        let times: Vec<_> = log.merged(..).unwrap().map(|record| record.unwrap().timestamp()).collect();
        assert!(times.is_sorted_by(|a, b| a < b));
    }
}
