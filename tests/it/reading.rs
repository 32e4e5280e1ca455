//! Readers: ranges, followers, merged.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use sawmill::{Durability, Log, Lsn, ShardId, Write};

use crate::harness::{Ground, payloads, records_from};
use crate::on_every_ground;

on_every_ground!(
    ranges_may_begin_and_end_anywhere,
    buffered_records_can_be_read_at_once,
    a_follower_sees_everything_and_ends_with_the_log,
    a_follower_can_be_stopped,
    merged_is_in_the_order_of_times,
    what_is_in_memory_is_read_from_there,
);

fn ranges_may_begin_and_end_anywhere(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    for index in 0..300usize {
        let write = Write::new(vec![index as u8; index * 37 % 6_000]).durability(Durability::Buffered);
        shard.append(write).wait().unwrap();
    }
    log.sync().wait().unwrap();
    let all = records_from(&shard, Lsn(0));
    assert_eq!(all.len(), 300);
    let end = shard.durable_lsn().0;
    for step in 0..400 {
        let (from, to) = (end * step / 400, end * (step + 13) / 400);
        let found: Vec<_> =
            shard.read(Lsn(from)..Lsn(to)).unwrap().map(|record| record.unwrap().lsn()).collect();
        let expected: Vec<_> =
            all.iter().map(|record| record.lsn()).filter(|lsn| (from..to).contains(&lsn.0)).collect();
        assert_eq!(found, expected, "{from}..{to}");
        let mut back: Vec<_> =
            shard.read_back(Lsn(from)..Lsn(to)).unwrap().map(|record| record.unwrap().lsn()).collect();
        back.reverse();
        assert_eq!(back, expected, "{from}..{to}, backwards");
    }
    for record in &all {
        let mut at = shard.read(record.lsn()..).unwrap();
        assert_eq!(at.next().unwrap().unwrap().lsn(), record.lsn(), "a range includes its start");
    }
    assert_eq!(shard.read_back(..).unwrap().count(), 300);
    assert_eq!(shard.read(Lsn(end)..).unwrap().count(), 0);
    assert_eq!(shard.read(Lsn(u64::MAX)..).unwrap().count(), 0);
}

fn buffered_records_can_be_read_at_once(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    for index in 0..50u32 {
        let write = Write::new(index.to_le_bytes()).durability(Durability::Buffered);
        let position = log.append(write).wait().unwrap();
        assert_eq!(log.get(position).unwrap().payload(), index.to_le_bytes());
    }
}

fn a_follower_sees_everything_and_ends_with_the_log(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let follower = log.shard(ShardId(0)).follow(Lsn(0)).unwrap();
    let reader = std::thread::spawn(move || {
        follower.map(|record| record.unwrap().payload().to_vec()).collect::<Vec<_>>()
    });
    for index in 0..500u32 {
        let durability = if index % 10 == 0 { Durability::Synced } else { Durability::Buffered };
        log.append(Write::new(index.to_le_bytes()).durability(durability)).wait().unwrap();
    }
    log.close().unwrap();
    let expected: Vec<_> = (0..500u32).map(|index| index.to_le_bytes().to_vec()).collect();
    assert_eq!(reader.join().unwrap(), expected);
}

fn a_follower_can_be_stopped(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let mut follower = log.shard(ShardId(0)).follow(Lsn(0)).unwrap();
    assert!(follower.next_timeout(Duration::from_millis(1)).is_none());
    let stop = follower.stop();
    let reader = std::thread::spawn(move || follower.count());
    log.append(b"x").wait().unwrap();
    stop.stop();
    assert!(reader.join().unwrap() <= 1);
}

fn merged_is_in_the_order_of_times(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().shards(4).open(dir.path()).unwrap();
    for index in 0..400u32 {
        let durability = if index % 7 == 0 { Durability::Written } else { Durability::Synced };
        log.append(Write::new(index.to_le_bytes()).key(index.to_le_bytes()).durability(durability))
            .wait()
            .unwrap();
    }
    log.sync().wait().unwrap();
    let merged: Vec<_> = log.merged(..).unwrap().map(|record| record.unwrap()).collect();
    let order: Vec<_> =
        merged.iter().map(|record| u32::from_le_bytes(record.payload().try_into().unwrap())).collect();
    assert_eq!(order, (0..400).collect::<Vec<_>>(), "each was acknowledged before the next began");
    let middle = merged[200].timestamp();
    assert_eq!(log.merged(middle..).unwrap().count(), 200);
    assert_eq!(log.merged(..middle).unwrap().count(), 200);
    assert_eq!(
        payloads(&log.shard(log.route(&7u32.to_le_bytes())))
            .iter()
            .filter(|p| **p == 7u32.to_le_bytes())
            .count(),
        1
    );
}

/// What is still in memory is followed, and got, without the device: here it has rotted meanwhile.
fn what_is_in_memory_is_read_from_there(ground: Ground) {
    let dir = ground.directory();
    let log = ground.options().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let mut tail = shard.follow(Lsn(0)).unwrap();
    let appended: Vec<_> = (0..100u32).map(|index| log.append(index.to_le_bytes()).wait().unwrap()).collect();
    let segment = std::fs::read_dir(dir.path().join("shard-0000"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .unwrap();
    let whole = std::fs::metadata(&segment).unwrap().len() as usize;
    std::fs::OpenOptions::new()
        .write(true)
        .open(segment)
        .unwrap()
        .write_all_at(&vec![0x55; whole], 0)
        .unwrap();
    for (index, position) in appended.iter().enumerate() {
        let record = tail.next().unwrap().unwrap();
        assert_eq!((record.position(), record.payload()), (*position, &(index as u32).to_le_bytes()[..]));
    }
    let last = *appended.last().unwrap();
    assert_eq!(log.get(last).unwrap().payload(), 99u32.to_le_bytes());
    assert!(log.stats().shards[0].memory_hits > 0);
    // The control: what goes to the device finds the rot.
    let beside = Log::open_read_only(dir.path()).unwrap();
    assert!(beside.shard(ShardId(0)).read(..).unwrap().next().is_none_or(|found| found.is_err()));
}
