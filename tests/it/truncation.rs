//! Truncation at both ends.

use sawmill::{Lsn, ReadError, ShardId, TruncateError};

use crate::harness::{Ground, payloads, records_from};
use crate::on_every_ground;

on_every_ground!(
    what_is_truncated_before_is_gone_and_its_space_reused,
    what_is_cut_off_never_comes_back,
    truncating_everything_leaves_an_empty_log,
    appends_go_on_around_cuts,
);

fn what_is_truncated_before_is_gone_and_its_space_reused(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let mut positions = Vec::new();
    let mut most = 0;
    for index in 0..3_000u32 {
        positions.push(shard.append(vec![index as u8; 3_500]).admitted().wait().unwrap().position());
        if index % 500 == 499 {
            let keep = positions[index as usize - 100];
            shard.truncate_before(keep.lsn()).unwrap();
            assert_eq!(records_from(&shard, keep.lsn())[0].position(), keep);
            let error = log.get(positions[0]).unwrap_err();
            assert!(matches!(error, ReadError::Truncated { .. }), "{error}");
            let first = shard.read(Lsn(0)..).unwrap().next().unwrap();
            assert!(matches!(first, Err(ReadError::Truncated { .. })), "{first:?}");
            most = most.max(log.stats().shards[0].segments);
        }
    }
    assert!(most <= 6, "{most} segments of 1 MiB for 1.7 MiB of live records");
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    assert_eq!(payloads(&shard).len(), 101);
    assert!(matches!(log.get(positions[10]), Err(ReadError::Truncated { .. })));
    assert_eq!(log.get(positions[2_950]).unwrap().payload(), vec![2_950u32 as u8; 3_500]);
}

fn what_is_cut_off_never_comes_back(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    let sizes = [10usize, 5_000, 20, 9_000, 30, 0, 40];
    let positions: Vec<_> = sizes.iter().map(|&size| shard.append(vec![1; size]).wait().unwrap()).collect();
    assert!(matches!(
        shard.truncate_after(Lsn(positions[2].lsn().0 + 8)),
        Err(TruncateError::NotARecord { .. })
    ));
    shard.truncate_after(positions[3].lsn()).unwrap();
    assert_eq!(payloads(&shard).len(), 4);
    assert!(matches!(log.get(positions[5]), Err(ReadError::Truncated { .. })));
    let new = shard.append(b"new").wait().unwrap();
    assert!(new.lsn() > positions[6].lsn(), "LSNs that were cut are not given again");
    assert_eq!(log.get(new).unwrap().payload(), b"new");
    shard.truncate_after(positions[1].lsn()).unwrap();
    assert!(matches!(log.get(new), Err(ReadError::Truncated { .. })));
    log.close().unwrap();
    for _ in 0..2 {
        let log = ground.options().open(dir.path()).unwrap();
        let shard = log.shard(ShardId(0));
        let kept: Vec<_> = records_from(&shard, Lsn(0)).iter().map(|record| record.position()).collect();
        assert_eq!(kept[..2], positions[..2]);
        assert!(matches!(log.get(positions[3]), Err(ReadError::Truncated { .. })));
        shard.append(b"after the reopen").wait().unwrap();
    }
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), 4);
}

fn truncating_everything_leaves_an_empty_log(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    for _ in 0..1_000 {
        drop(shard.append(vec![1; 3_000]));
    }
    shard.truncate_before(Lsn::MAX).unwrap();
    assert_eq!(payloads(&shard).len(), 0);
    shard.append(b"more").wait().unwrap();
    log.close().unwrap();
    let log = ground.options().open(dir.path()).unwrap();
    assert_eq!(payloads(&log.shard(ShardId(0))), [b"more"]);
}

/// Cuts under load: whoever appends waits in line meanwhile and is let in afterwards, alone or with a group of
/// blocks; what was acknowledged and not cut is there.
fn appends_go_on_around_cuts(ground: Ground) {
    let dir = ground.directory();
    let log = ground.small().open(dir.path()).unwrap();
    let shard = log.shard(ShardId(0));
    shard.append(b"first").wait().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3usize {
            let shard = &shard;
            scope.spawn(move || {
                for index in 0..100 {
                    let bytes = if index % 10 == 0 { 9_000 } else { 700 * thread };
                    shard.append(vec![thread as u8; bytes]).wait().unwrap();
                }
            });
        }
        for _ in 0..20 {
            let last = shard.read_back(..).unwrap().next().unwrap().unwrap();
            match shard.truncate_after(last.position().lsn()) {
                // Of a moment ago: meanwhile it may be cut off, or stand within what was.
                Ok(()) | Err(TruncateError::NotARecord { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let before = payloads(&shard);
    let last = shard.append(b"last").wait().unwrap();
    log.close().unwrap();
    let log = ground.small().open(dir.path()).unwrap();
    assert_eq!(log.get(last).unwrap().payload(), b"last");
    assert_eq!(payloads(&log.shard(ShardId(0))).len(), before.len() + 1);
}
