//! Retention by bytes and by age.

use std::time::{Duration, Instant};

use sawmill::{Durability, Lsn, ShardId, Write};

use crate::harness::Ground;
use crate::on_every_ground;

on_every_ground!(old_segments_go_once_there_is_enough, old_segments_go_by_age);

fn old_segments_go_once_there_is_enough(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().retain_bytes(2 << 20).open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    for _ in 0..6_000 {
        drop(
            shard
                .append(Write::new(vec![1; 3_000]).durability(Durability::Written))
                .admitted()
                .wait()
                .unwrap(),
        );
    }
    log.sync().wait().unwrap();
    // A burst is faster than the maintenance thread, which has caught up a second later.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let files = std::fs::read_dir(dir.path().join("shard-0000")).unwrap().count();
        let stats = log.stats().shards[0].clone();
        let kept = stats.durable_lsn.0 - stats.horizon.0;
        assert!(kept >= 2 << 20, "{kept} bytes are kept");
        // Files that are given up go a moment after the horizon has moved.
        if kept <= 6 << 20 && files <= 12 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{kept} bytes are kept, in {files} files for {} segments",
            stats.segments
        );
        shard.append(b"x").wait().unwrap();
    }
    for record in shard.read(..).unwrap() {
        record.unwrap();
    }
}

fn old_segments_go_by_age(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().retain_age(Duration::from_millis(1)).open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let deadline = Instant::now() + Duration::from_secs(30);
    while log.stats().shards[0].horizon == Lsn(0) {
        assert!(Instant::now() < deadline, "nothing was given up");
        shard.append(vec![1; 3_000]).wait().unwrap();
    }
    // The segment that is written to stays.
    let position = shard.append(b"last").wait().unwrap();
    assert_eq!(log.get(position).unwrap().payload(), b"last");
}
